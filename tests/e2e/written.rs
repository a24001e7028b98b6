//! Index folders that we write, under real Chroma: it takes them for its own, and goes on writing them. And the graph in them is
//! the one that hnswlib builds.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    ops::ControlFlow,
    path::Path,
    process::{Command, Stdio},
};

use crate::{index::Bytes, support::chroma};
use chroma_exporter::format::{
    hnsw::{Builder, Graph, Header, Metric, Options, Search, UpperLinks},
    pickle::{self, Entry, Family, NewMetadata},
};

fn script(version: &str) -> Command {
    let mut command = Command::new(chroma::python(version));
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/index.py"));
    command.env("ANONYMIZED_TELEMETRY", "False");
    command
}

/// What must be in a store, as the script knows it.
fn make(version: &str, dir: &Path) -> serde_json::Value {
    let out = script(version).arg("make").arg(dir).stderr(Stdio::inherit()).output().unwrap();
    assert!(out.status.success(), "{version} makes no store");
    serde_json::from_slice(&out.stdout).unwrap()
}

/// Proves that everything is there, and adds more; gives what must be there then.
fn check(version: &str, dir: &Path, truth: &serde_json::Value) -> serde_json::Value {
    let mut command = script(version);
    command.arg("check").arg(dir).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    serde_json::to_writer(child.stdin.take().unwrap(), truth).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{version} does not find everything in {}", dir.display());
    serde_json::from_slice(&out.stdout).unwrap()
}

fn write_graph(graph: &Graph, folder: &Path) {
    fs::write(folder.join("header.bin"), graph.header()).unwrap();
    let file = |name: &str| fs::File::create(folder.join(name)).unwrap();
    let (mut level0, mut lengths, mut links) =
        (file("data_level0.bin"), file("length.bin"), file("link_lists.bin"));
    graph.level0(&mut |piece| level0.write_all(piece)).unwrap();
    graph.lengths(&mut |piece| lengths.write_all(piece)).unwrap();
    graph.links(&mut |piece| links.write_all(piece)).unwrap();
}

/// Writes the folder of one collection anew, from the vectors in it and what its pickle said.
fn rewrite(dir: &Path, family: Family, metric: Metric, known: &serde_json::Value) {
    let folder = dir.join(known["segment"].as_str().unwrap());
    let header = Header::parse(&fs::read(folder.join("header.bin")).unwrap()).unwrap();
    let links = fs::read(folder.join("link_lists.bin")).unwrap();
    let upper = UpperLinks::parse(links, &header).unwrap();
    let level0 = Bytes(fs::read(folder.join("data_level0.bin")).unwrap());
    let mut elements = Search::new(header, metric.space(), &upper, level0).unwrap();
    let lengths = fs::read(folder.join("length.bin")).unwrap();
    let lengths = lengths.as_chunks::<4>().0;
    let labels: BTreeMap<&str, u64> = known["labels"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(id, label)| (id.as_str(), label.as_u64().unwrap()))
        .collect();
    let named: BTreeSet<u64> = labels.values().copied().collect();

    let dimension = usize::try_from(header.dimension).unwrap();
    let options = Options { dimension, metric, neighbours: 16, ef_construction: 100, seed: 100 };
    let mut builder = Builder::new(options, named.len()).unwrap();
    for (index, length) in (0..).zip(lengths).take(usize::try_from(header.elements).unwrap()) {
        let element = elements.element(index).unwrap();
        if !element.deleted && named.contains(&element.label) {
            let length = f32::from_le_bytes(*length);
            builder.push_stored(element.label, &element.vector, length).unwrap();
        }
    }
    assert_eq!(builder.len(), named.len());

    fs::remove_dir_all(&folder).unwrap();
    fs::create_dir(&folder).unwrap();
    write_graph(&builder.finish(), &folder);
    let facts = NewMetadata {
        family,
        dimensionality: header.dimension,
        total_elements_added: known["total"].as_u64().unwrap(),
        max_seq_id: known["max_seq_id"].as_u64(),
    };
    let entries = labels.iter().map(|(id, label)| Entry {
        id,
        label: *label,
        seq_id: known["seq_ids"][*id].as_u64().unwrap_or(0),
    });
    let mut file = fs::File::create(folder.join("index_metadata.pickle")).unwrap();
    pickle::write(&facts, entries, &mut |piece| file.write_all(piece)).unwrap();
}

#[test]
fn chroma_takes_written_folders_for_its_own() {
    for (version, family, later) in [
        ("1.5.9", Family::Plain, "1.5.9"),
        ("1.1.1", Family::Plain, "1.5.9"),
        ("0.6.3", Family::PersistentData, "1.5.9"),
        ("0.4.24", Family::PersistentData, "0.4.24"),
    ] {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("store");
        let truth = make(version, &dir);
        for (metric, known) in [(Metric::L2, &truth["l2"]), (Metric::Cosine, &truth["cosine"])] {
            rewrite(&dir, family, metric, known);
        }
        // The second time it is Chroma's own flush that is read.
        let truth = check(version, &dir, &truth);
        check(later, &dir, &truth);
    }
}

#[test]
fn the_graph_is_the_one_that_hnswlib_builds() {
    let scratch = tempfile::tempdir().unwrap();
    let status = script("0.6.3").arg("graph").arg(scratch.path()).status().unwrap();
    assert!(status.success());
    let mut compared = 0;
    for folder in fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().path()) {
        // As the script names them: metric, elements, dimension, M and ef_construction.
        let name = folder.file_name().unwrap().to_str().unwrap();
        let words: Vec<&str> = name.split('-').collect();
        let numbers: Vec<usize> = words[1..].iter().map(|word| word.parse().unwrap()).collect();
        let [_, dimension, neighbours, ef_construction] = numbers[..] else { panic!("{name}") };
        let metric = Metric::of(words[0]).unwrap();
        let options = Options { dimension, metric, neighbours, ef_construction, seed: 100 };
        let bytes = fs::read(folder.join("vectors")).unwrap();
        let vectors: Vec<f32> =
            bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let mut builder = Builder::new(options, numbers[0]).unwrap();
        let labelled = (1..).zip(vectors.chunks_exact(dimension));
        builder.extend(labelled, &mut |_| ControlFlow::Continue(())).unwrap();
        let ours = folder.join("ours");
        fs::create_dir(&ours).unwrap();
        write_graph(&builder.finish(), &ours);
        for file in ["header.bin", "data_level0.bin", "link_lists.bin"] {
            let same = fs::read(folder.join(file)).unwrap() == fs::read(ours.join(file)).unwrap();
            assert!(same, "{name}: {file} is not as hnswlib writes it");
        }
        compared += 1;
    }
    assert_eq!(compared, 3);
}
