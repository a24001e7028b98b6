//! How long `verify` takes for a packed backup, against the fastest way to read it at all: `zstd -dc > /dev/null`. The target is three
//! times that, and 64 MiB of memory.
//!
//! `cargo bench --bench verify [-- RECORDS [DIMENSION]]`: 20,000 records of 384 dimensions if not given. A real Chroma 1.5.9 of
//! `tests/venv` makes the store, tar and zstd -3 pack it. All of it goes to the directory of temporary files.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a benchmark that cannot run should say where and stop"
)]

mod support;

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use chroma_exporter::{
    clock,
    repair::{
        proof,
        steps::Steps,
        unpack,
        verify::{self, Options},
    },
};
use support::{forget_peak, programs::venv, status_kib};

const TIMES: f64 = 3.0;
const RUNS: usize = 3;

const MAKE: &str = "
import sys, random, chromadb, numpy
count, dimension = int(sys.argv[2]), int(sys.argv[3])
made = chromadb.PersistentClient(path=sys.argv[1]).create_collection('bench')
rng, words = numpy.random.default_rng(1), random.Random(1)
for start in range(0, count, 1000):
    ids = [str(n) for n in range(start, min(count, start + 1000))]
    made.add(ids=ids, embeddings=rng.standard_normal((len(ids), dimension), dtype=numpy.float32).tolist(),
             documents=[' '.join(words.choice('alpha beta gamma delta epsilon zeta eta theta'.split()) for _ in range(150)) for _ in ids],
             metadatas=[{'page': n} for n in range(len(ids))])
";

fn main() {
    let numbers: Vec<u32> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let (records, dimension) =
        (numbers.first().copied().unwrap_or(20_000), numbers.get(1).copied().unwrap_or(384));
    let scratch = tempfile::tempdir().unwrap();
    let backup = make(scratch.path(), records, dimension);
    println!(
        "{records} records of {dimension} dimensions, packed to {:.1} MB",
        std::fs::metadata(&backup).unwrap().len() as f64 / 1e6
    );
    let mut ratios = Vec::new();
    for _ in 0..RUNS {
        let (floor, ()) = timed(|| {
            let read = Command::new("zstd").arg("-dcq").arg(&backup).stdout(Stdio::null()).status();
            assert!(read.unwrap().success());
        });
        forget_peak();
        let (took, verified) =
            timed(|| verify::run(&backup, &Options::default(), &Steps::default(), clock::now()));
        let peak = status_kib("VmHWM") / 1024.0;
        let records = verified.records();
        let (unpacking, opened) = timed(|| {
            unpack::open(&backup, &unpack::Options::default(), &Steps::default()).unwrap()
        });
        let (proving, _) =
            timed(|| proof::prove(&opened.dir, &Steps::default(), clock::now()).unwrap());
        let ratio = took.as_secs_f64() / floor.as_secs_f64();
        ratios.push(ratio);
        println!(
            "zstd -dc {:.2} s; verify {:.2} s, {ratio:.1} times that; unpacking {:.2} s, proving {:.2} s; peak {peak:.0} MiB; {:?} with {records} records",
            floor.as_secs_f64(),
            took.as_secs_f64(),
            unpacking.as_secs_f64(),
            proving.as_secs_f64(),
            verified.restores
        );
    }
    ratios.sort_by(f64::total_cmp);
    let middle = ratios[RUNS / 2];
    let verdict = if middle <= TIMES { "met" } else { "missed" };
    println!("target {TIMES} times zstd -dc: {verdict} with {middle:.1}");
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let began = clock::ticks();
    let done = work();
    (began.elapsed(), done)
}

/// A store of real Chroma, packed.
fn make(scratch: &Path, records: u32, dimension: u32) -> PathBuf {
    let store = scratch.join("store");
    let made = Command::new(venv("1.5.9").join("python"))
        .args(["-c", MAKE])
        .arg(&store)
        .args([records.to_string(), dimension.to_string()])
        .status();
    assert!(made.unwrap().success());
    let backup = scratch.join("store.tar.zst");
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(scratch).args(["--use-compress-program", "zstd -3 -q", "-cf"]);
    assert!(tar.arg(&backup).arg("store").status().unwrap().success());
    backup
}
