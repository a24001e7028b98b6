//! What a proven backup costs against the usual line of cron, `tar -czf`, which proves nothing. Makes a store with real Chroma
//! (`CHROMA_VENVS`, kept under `target/` between runs), and runs the built program in turn with tar: an archive, its restore, a
//! directory, and a second directory of the unchanged store. Prints times, sizes, the peak of memory, and how all that stands to the targets.
//!
//! `cargo bench --bench backup [-- MEGABYTES] [ROUNDS]`: 1500 and 3 unless said.

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use chroma_exporter::clock;
use support::programs::{measured, median, run, target, venv};

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|word| word.parse().ok());
    let (megabytes, rounds) = (numbers.next().unwrap_or(1500), numbers.next().unwrap_or(3));
    let place = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("backup-{megabytes}"));
    let store = place.join("chroma");
    if !place.join("ready").exists() {
        drop(fs::remove_dir_all(&place));
        fs::create_dir_all(&place).expect("a place");
        build(&store, megabytes);
        fs::write(place.join("ready"), "").expect("a mark");
    }
    let bytes = size(&store);
    println!("a store of {} MB, {rounds} rounds, seconds", bytes / 1_000_000);
    let to = place.join("backups");
    let restored = place.join("restored");
    let mut rows: [Vec<f64>; 7] = Default::default();
    let (mut packed, mut plain, mut peak) = (0, 0, 0.0_f64);
    for _ in 0..rounds {
        // The store and the machine are as warm for the one as for the other.
        for (row, work) in rows.iter_mut().zip(0..) {
            if ![RESTORE, AGAIN].contains(&work) {
                drop(fs::remove_dir_all(&to));
                fs::create_dir_all(&to).expect("a destination");
            }
            let took = match work {
                0 | 6 => {
                    let file = to.join("chroma.tar.gz");
                    let took = timed(|| {
                        run(Command::new("tar")
                            .arg("-czf")
                            .arg(&file)
                            .arg("-C")
                            .arg(&place)
                            .arg("chroma"));
                    });
                    plain = fs::metadata(&file).map_or(plain, |meta| meta.len());
                    took
                }
                1 => {
                    let (took, kib) = backup(&store, &to, "archive");
                    peak = peak.max(kib);
                    packed = size(&to);
                    took
                }
                RESTORE => {
                    drop(fs::remove_dir_all(&restored));
                    let (took, kib) = restore(&to, &restored);
                    peak = peak.max(kib);
                    took
                }
                3 => timed(|| {
                    run(Command::new("cp").arg("-r").arg(&store).arg(&to));
                    run(&mut Command::new("sync"));
                }),
                4 => {
                    let (took, kib) = backup(&store, &to, "directory");
                    peak = peak.max(kib);
                    took
                }
                _ => backup(&store, &to, "directory").0,
            };
            row.push(took);
        }
    }
    let names = [
        "tar -czf",
        "archive",
        "restore of it",
        "cp -r and sync",
        "directory",
        "directory, unchanged",
        "tar -czf (noise)",
    ];
    for (name, row) in names.iter().zip(&rows) {
        println!("{name:<24} {:>8.2}  {row:.2?}", median(row));
    }
    let [tar, archive, restore, copy, directory, again, noise] =
        rows.each_ref().map(|row| median(row));
    println!("tar to tar, ratio {:.2}: what the machine adds by itself", noise / tar);
    target("archive with its proof to tar -czf, time", archive / tar, 0.10);
    target("archive to tar -czf, size", packed as f64 / plain as f64, 1.02);
    target("restore to cp -r and sync, time", restore / copy, 1.3);
    target("second directory to the first, time", again / directory, 0.15);
    target("peak memory, MiB", peak / 1024.0, 96.0);
    drop(fs::remove_dir_all(&to));
    drop(fs::remove_dir_all(&restored));
}

/// What comes right after an archive, and uses it; and what comes right after a directory.
const RESTORE: usize = 2;
const AGAIN: usize = 5;

fn build(store: &Path, megabytes: u64) {
    let mut command = Command::new(venv("1.5.9").join("python"));
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/support/store.py"));
    run(command.arg(store).arg(megabytes.to_string()).env("ANONYMIZED_TELEMETRY", "False"));
}

fn backup(store: &Path, to: &Path, form: &str) -> (f64, f64) {
    let words = ["backup", "--output", "json", "--form", form, "--keep-last", "9", "--to"];
    measured(&words.map(Path::new), &[to, store])
}

/// Puts the one archive that lies there in place of a store that is not there yet.
fn restore(from: &Path, store: &Path) -> (f64, f64) {
    let entry = fs::read_dir(from).expect("backups").next().expect("an archive").expect("an entry");
    let words = ["restore", "--chroma-is-stopped", "--output", "json"];
    measured(&words.map(Path::new), &[&entry.path(), Path::new("--store.path"), store])
}

fn timed(work: impl FnOnce()) -> f64 {
    let began = clock::ticks();
    work();
    let took: Duration = began.elapsed();
    took.as_secs_f64()
}

fn size(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry"));
    entries
        .map(|entry| {
            let meta = entry.metadata().expect("what it is");
            if meta.is_dir() { size(&entry.path()) } else { meta.len() }
        })
        .sum()
}
