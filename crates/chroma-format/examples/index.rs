//! Builds an index of the vectors in a file of 32-bit floats, labelled from 1, and writes its four files into a folder:
//! `cargo run --release --example index -- VECTORS DIMENSION l2|ip|cosine M EF_CONSTRUCTION FOLDER`

use std::{env, error::Error, fs, io::Write, path::Path};

use chroma_format::hnsw::{Builder, Metric, Options};

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = env::args().skip(1).collect();
    let [vectors, dimension, metric, neighbours, ef_construction, folder] = &words[..] else {
        return Err("six words: VECTORS DIMENSION l2|ip|cosine M EF_CONSTRUCTION FOLDER".into());
    };
    let options = Options {
        dimension: dimension.parse()?,
        metric: Metric::of(metric).ok_or("the metric is l2, ip or cosine")?,
        neighbours: neighbours.parse()?,
        ef_construction: ef_construction.parse()?,
        seed: 100,
    };
    let bytes = fs::read(vectors)?;
    let numbers: Vec<f32> =
        bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let mut builder = Builder::new(options, numbers.len() / options.dimension)?;
    for (label, vector) in (1..).zip(numbers.chunks_exact(options.dimension)) {
        builder.push(label, vector)?;
    }
    let graph = builder.finish();
    let file = |name: &str| fs::File::create(Path::new(folder).join(name));
    file("header.bin")?.write_all(&graph.header())?;
    let (mut level0, mut lengths, mut links) =
        (file("data_level0.bin")?, file("length.bin")?, file("link_lists.bin")?);
    graph.level0(&mut |piece| level0.write_all(piece))?;
    graph.lengths(&mut |piece| lengths.write_all(piece))?;
    graph.links(&mut |piece| links.write_all(piece))?;
    Ok(())
}
