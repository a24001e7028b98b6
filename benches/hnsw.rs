//! What the full walk over the files of an index costs, against reading their bytes. Makes an index of 100,000 elements with
//! 384 numbers in Chroma's format (175 MB, kept under `target/` between runs), has the collector walk over it, and prints
//! medians, warm and cold, with their ratios to the bare read and the memory that the walk took.
//!
//! `cargo bench --bench hnsw`

#[path = "../tests/support/random.rs"]
mod random;
mod support;

use std::{
    fs::{self, File},
    hint::black_box,
    io::{self, BufWriter, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use chroma_exporter::{clock, collectors::hnsw::walk_once};
use random::Random;
use rustix::fs::{Advice, fadvise};
use support::{forget_peak, status_kib};

const ELEMENTS: u32 = 100_000;
const DIMENSION: u32 = 384;
const M: u32 = 16;
const ROUNDS: usize = 21;
/// As the collector reads.
const PIECE_BYTES: usize = 256 << 10;
const FOLDER: &str = "0e6c1f6a-3b7d-4c52-9a41-7d2f8b90c3e5";
const FILES: [&str; 5] =
    ["header.bin", "data_level0.bin", "length.bin", "link_lists.bin", "index_metadata.pickle"];

fn main() -> io::Result<()> {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("hnsw-100k-384");
    if !dir.join("ready").exists() {
        fs::create_dir_all(dir.join(FOLDER))?;
        build(&dir.join(FOLDER))?;
        fs::write(dir.join("ready"), "")?;
    }
    let bytes: u64 = FILES
        .iter()
        .map(|name| Ok(fs::metadata(dir.join(FOLDER).join(name))?.len()))
        .sum::<io::Result<u64>>()?;
    println!("{} MB in {} files; medians of {ROUNDS}, ms", bytes / 1_000_000, FILES.len());
    read(&dir)?;
    walk(&dir)?;
    forget_peak();
    let before = status_kib("VmHWM");
    walk(&dir)?;
    let pairs_bytes = u64::from(ELEMENTS) * 17;
    let memory = status_kib("VmHWM") - before;
    for (state, target) in [("warm", 1.3), ("cold", 1.15)] {
        // In turns, so that what else the machine does falls on both.
        let (mut reads, mut walks) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            for (times, work) in
                [(&mut reads, read as fn(&Path) -> io::Result<()>), (&mut walks, walk)]
            {
                if state == "cold" {
                    forget(&dir)?;
                }
                let began = clock::ticks();
                work(&dir)?;
                times.push(began.elapsed().as_secs_f64() * 1000.0);
            }
        }
        let (read, walk) = (median(&mut reads), median(&mut walks));
        println!(
            "{state}: read {read:.1}, walk {walk:.1}, ratio {:.2}, target {target}",
            walk / read
        );
    }
    println!(
        "memory: {:.1} MiB, of which ids {:.1} MiB; target 8 MiB",
        memory / 1024.0,
        pairs_bytes as f64 / 1_048_576.0
    );
    Ok(())
}

/// Every byte, in the same pieces, and nothing made of them.
fn read(dir: &Path) -> io::Result<()> {
    for name in FILES {
        let file = File::open(dir.join(FOLDER).join(name))?;
        fadvise(&file, 0, None, Advice::Sequential)?;
        let mut buffer = vec![0; PIECE_BYTES];
        let mut at = 0;
        loop {
            let read = file.read_at(&mut buffer, at)?;
            black_box(&buffer[..read]);
            if read == 0 {
                break;
            }
            at += read as u64;
        }
    }
    Ok(())
}

/// As the collector does it.
fn walk(dir: &Path) -> io::Result<()> {
    let findings = walk_once(dir).map_err(io::Error::other)?;
    assert!(findings.is_empty(), "{findings:?}");
    Ok(())
}

/// Takes the files out of the page cache.
fn forget(dir: &Path) -> io::Result<()> {
    for name in FILES {
        let file = File::open(dir.join(FOLDER).join(name))?;
        file.sync_all()?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
    }
    Ok(())
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// An index as Chroma 1.x writes it, with neighbours and numbers from a small generator.
fn build(dir: &Path) -> io::Result<()> {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut draw = |below: u32| u32::try_from(random.below(below.into())).unwrap_or(0);
    let create = |name: &str| io::Result::Ok(BufWriter::new(File::create(dir.join(name))?));
    // One element in M is on each next level.
    let heights: Vec<u32> = (0..ELEMENTS)
        .map(|_| {
            let mut level = 0;
            while level < 4 && draw(M) == 0 {
                level += 1;
            }
            level
        })
        .collect();
    let highest = heights.iter().copied().max().unwrap_or(0);
    let entry = heights.iter().position(|level| *level == highest).unwrap_or(0);

    let (level0_m, data) = (2 * M, 4 + 8 * M);
    let label = data + 4 * DIMENSION;
    let mut header = Vec::new();
    header.extend(1_u32.to_le_bytes());
    for field in [
        0,
        u64::from(ELEMENTS),
        u64::from(ELEMENTS),
        u64::from(label + 8),
        u64::from(label),
        u64::from(data),
    ] {
        header.extend(field.to_le_bytes());
    }
    header.extend(highest.to_le_bytes());
    header.extend(u32::try_from(entry).unwrap_or(0).to_le_bytes());
    for field in [M, level0_m, M] {
        header.extend(u64::from(field).to_le_bytes());
    }
    header.extend((1.0 / f64::from(M).ln()).to_le_bytes());
    header.extend(100_u64.to_le_bytes());
    fs::write(dir.join("header.bin"), header)?;

    let mut level0 = create("data_level0.bin")?;
    for element in 0..ELEMENTS {
        level0.write_all(&level0_m.to_le_bytes())?;
        for _ in 0..level0_m {
            level0.write_all(&draw(ELEMENTS).to_le_bytes())?;
        }
        for _ in 0..DIMENSION {
            let number = f32::from(u16::try_from(draw(1 << 16)).unwrap_or(0)) / 32768.0 - 1.0;
            level0.write_all(&number.to_le_bytes())?;
        }
        level0.write_all(&u64::from(element + 1).to_le_bytes())?;
    }
    level0.flush()?;

    let mut lengths = create("length.bin")?;
    let mut links = create("link_lists.bin")?;
    for level in heights {
        lengths.write_all(&1_f32.to_le_bytes())?;
        links.write_all(&(level * (4 + 4 * M)).to_le_bytes())?;
        for _ in 0..level {
            links.write_all(&M.to_le_bytes())?;
            for _ in 0..M {
                links.write_all(&draw(ELEMENTS).to_le_bytes())?;
            }
        }
    }
    lengths.flush()?;
    links.flush()?;
    write_pickle(create("index_metadata.pickle")?)
}

/// Protocol 3: a dictionary of the three maps.
fn write_pickle(mut out: impl Write) -> io::Result<()> {
    fn text(out: &mut impl Write, text: &str) -> io::Result<()> {
        out.write_all(b"X")?;
        out.write_all(&u32::try_from(text.len()).unwrap_or(0).to_le_bytes())?;
        out.write_all(text.as_bytes())
    }
    fn number(out: &mut impl Write, number: u32) -> io::Result<()> {
        out.write_all(b"J")?;
        out.write_all(&number.to_le_bytes())
    }
    let id = |element: u32| format!("document-{element:09}-chunk");
    out.write_all(b"\x80\x03}(")?;
    text(&mut out, "dimensionality")?;
    out.write_all(b"N")?;
    text(&mut out, "total_elements_added")?;
    number(&mut out, ELEMENTS)?;
    text(&mut out, "max_seq_id")?;
    out.write_all(b"N")?;
    for map in ["id_to_label", "label_to_id", "id_to_seq_id"] {
        text(&mut out, map)?;
        out.write_all(b"}(")?;
        for label in 1..=if map == "id_to_seq_id" { 0 } else { ELEMENTS } {
            if map == "id_to_label" {
                text(&mut out, &id(label))?;
                number(&mut out, label)?;
            } else {
                number(&mut out, label)?;
                text(&mut out, &id(label))?;
            }
        }
        out.write_all(b"u")?;
    }
    out.write_all(b"u.")?;
    out.flush()
}
