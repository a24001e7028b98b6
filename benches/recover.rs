//! How long `recover` takes, from the copy over the repair to the proof of it, against the shortest that the repair itself can take
//! elsewhere: an index of which the head is lost, against chroma-hnswlib with two threads, which builds the graph alone; a database without
//! its first page, against `VACUUM INTO` of the whole one. The memory of both stands beside the vectors of the index.
//!
//! `cargo bench --bench recover [-- RECORDS [ROUNDS]]`: 100,000 records of 384 numbers with documents, one round. Real Chroma 1.5.9 of
//! `tests/venv` makes the store, and 0.6.3 brings chroma-hnswlib. The store is kept under `target/` between runs.
#![allow(missing_docs, reason = "a benchmark")]
#![allow(clippy::expect_used, reason = "a benchmark that cannot run should say where and stop")]

mod support;

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
};

use support::programs::{measured, median, run, target, venv};

const DIMENSION: u32 = 384;

const MAKE: &str = "
import sys, random, chromadb, numpy
made = chromadb.PersistentClient(sys.argv[1]).create_collection('records')
numbers, words = numpy.random.default_rng(1), random.Random(1)
known = [f'word{n}' for n in range(20000)]
for start in range(0, int(sys.argv[2]), 5000):
    ids = [f'r{n:07}' for n in range(start, min(int(sys.argv[2]), start + 5000))]
    made.add(ids=ids, embeddings=numbers.standard_normal((len(ids), int(sys.argv[3])), dtype=numpy.float32),
             documents=[' '.join(words.choices(known, k=150)) for _ in ids],
             metadatas=[{'page': n % 50, 'half': n / 2, 'even': n % 2 == 0, 'source': f'file{n % 97}.md'} for n in range(len(ids))])
";

/// As Chroma builds an index by default.
const BUILD: &str = "
import sys, time, hnswlib, numpy
count, dimension = int(sys.argv[1]), int(sys.argv[2])
vectors = numpy.random.default_rng(1).standard_normal((count, dimension), dtype=numpy.float32)
index = hnswlib.Index(space='l2', dim=dimension)
index.init_index(max_elements=count, ef_construction=100, M=16)
began = time.monotonic()
index.add_items(vectors, numpy.arange(count), num_threads=2)
print(time.monotonic() - began)
";

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|word| word.parse().ok());
    let (records, rounds): (u32, u32) =
        (numbers.next().unwrap_or(100_000), numbers.next().unwrap_or(1));
    let place = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("recover-{records}"));
    let store = place.join("chroma");
    if !place.join("ready").exists() {
        drop(fs::remove_dir_all(&place));
        fs::create_dir_all(&place).expect("a place");
        run(python("1.5.9", MAKE).arg(&store).args([records.to_string(), DIMENSION.to_string()]));
        fs::write(place.join("ready"), "").expect("a mark");
    }
    let database = store.join("chroma.sqlite3");
    println!(
        "{records} records of {DIMENSION} numbers, a database of {} MB, {rounds} rounds, seconds",
        fs::metadata(&database).expect("a database").len() / 1_000_000
    );
    let (mut build, mut vacuum, mut index, mut pages) = (vec![], vec![], vec![], vec![]);
    let mut most = 0.0_f64;
    for _ in 0..rounds {
        build.push(says("chroma-hnswlib, two threads", || {
            let mut command = python("0.6.3", BUILD);
            let out = command.args([records.to_string(), DIMENSION.to_string()]).output();
            let out = out.expect("Python");
            let text = String::from_utf8_lossy(&out.stdout);
            text.trim().parse().expect("seconds")
        }));
        vacuum.push(says("VACUUM INTO", || {
            let to = place.join("vacuumed");
            drop(fs::remove_file(&to));
            let began = chroma_exporter::clock::ticks();
            run(Command::new("sqlite3")
                .arg(&database)
                .arg(format!("VACUUM INTO '{}'", to.display())));
            let took = began.elapsed();
            fs::remove_file(&to).expect("the copy");
            took.as_secs_f64()
        }));
        for (what, row, damage) in [
            ("recover, an index without its head", &mut index, (|dir| cut_head(dir)) as fn(&Path)),
            ("recover, a database without its first page", &mut pages, |dir| {
                zeroes(&dir.join("chroma.sqlite3"), 4096);
            }),
        ] {
            let copy = place.join("copy");
            drop(fs::remove_dir_all(&copy));
            run(Command::new("cp").arg("-r").arg(&store).arg(&copy));
            damage(&copy);
            run(&mut Command::new("sync"));
            row.push(says(what, || {
                let words =
                    ["recover", "--state.dir", "", "--apply", "--store.path"].map(Path::new);
                let (took, kib) = measured(&words, &[&copy]);
                most = most.max(kib);
                took
            }));
            drop(fs::remove_dir_all(place.join("copy")));
        }
    }
    target("index to chroma-hnswlib, time", median(&index) / median(&build), 0.7);
    target("database to VACUUM INTO, time", median(&pages) / median(&vacuum), 2.0);
    let vectors = f64::from(records) * f64::from(DIMENSION) * 4.0 / f64::from(1 << 20);
    target("peak memory, MiB", most / 1024.0, 1.2 * vectors + 64.0);
    for left in fs::read_dir(&place).expect("a place").flatten() {
        if left.file_name().to_string_lossy().contains("quarantine") {
            drop(fs::remove_dir_all(left.path()));
        }
    }
}

fn says(what: &str, work: impl FnOnce() -> f64) -> f64 {
    let took = work();
    println!("{what:<44} {took:>8.2}");
    took
}

fn python(release: &str, script: &str) -> Command {
    let mut command = Command::new(venv(release).join("python"));
    command.args(["-W", "ignore", "-c", script]).env("ANONYMIZED_TELEMETRY", "False");
    command
}

fn cut_head(dir: &Path) {
    for entry in fs::read_dir(dir).expect("a store").flatten().filter(|entry| entry.path().is_dir())
    {
        zeroes(&entry.path().join("header.bin"), 100);
    }
}

fn zeroes(file: &Path, count: usize) {
    let file = OpenOptions::new().write(true).open(file).expect("a file");
    file.write_all_at(&vec![0; count], 0).expect("zeroes");
}
