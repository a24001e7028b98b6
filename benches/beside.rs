//! What a whole `check` costs a real Chroma that adds one record after the other. Windows alternate: nobody else; `check` again
//! and again; the same without integrity; nobody else once more, which tells the noise. Prints what an addition took in each
//! as ratios to the first, and how that stands to the targets. The store is made once and kept under `target/`.
//!
//! `cargo bench --bench beside [-- MEGABYTES] [rounds=N] [seconds=N]` (314, 4, 20); needs the environment that
//! `tests/venv 1.5.9` makes.
#![allow(clippy::unwrap_used, missing_docs, reason = "a bench fails by panicking")]

mod support;

use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use chroma_exporter::clock;
use support::programs::venv;

const RELEASE: &str = "1.5.9";

/// Name of a window, and what runs in it; nothing when that is `None`.
const WINDOWS: [(&str, Option<&[&str]>); 4] = [
    ("nobody", None),
    ("check", Some(&[])),
    ("check without integrity", Some(&["--no-collector.integrity"])),
    ("nobody (noise)", None),
];

fn main() {
    let number = |key: &str| {
        std::env::args().skip(1).find_map(|arg| arg.strip_prefix(key)?.parse::<u64>().ok())
    };
    let megabytes = number("").unwrap_or(314);
    let (rounds, seconds) = (number("rounds=").unwrap_or(4), number("seconds=").unwrap_or(20));
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("beside-{megabytes}"));
    if !dir.join("ready").exists() {
        let mut command = script();
        command.arg("build").arg(dir.join("store")).arg(megabytes.to_string());
        assert!(command.status().unwrap().success());
        std::fs::write(dir.join("ready"), "").unwrap();
    }
    let store = dir.join("store");
    let mut writer = Writer::start(&store);
    writer.add(2);
    let mut took: [Vec<f64>; WINDOWS.len()] = Default::default();
    let mut checks = [0; WINDOWS.len()];
    for round in 0..usize::try_from(rounds).unwrap() {
        // In turn, so that what drifts drifts over all of them.
        let mut order = [0, 1, 2, 3];
        order.rotate_left(round % WINDOWS.len());
        if round % 2 == 1 {
            order.reverse();
        }
        for window in order {
            let (latencies, ran) = std::thread::scope(|scope| {
                let beside = WINDOWS[window].1.map(|flags| {
                    scope.spawn(|| check_for(&store, flags, Duration::from_secs(seconds)))
                });
                let latencies = writer.add(seconds);
                (latencies, beside.map_or(0, |beside| beside.join().unwrap()))
            });
            took[window].extend(latencies);
            checks[window] += ran;
        }
    }
    drop(writer);
    report(&mut took, checks);
}

fn report(took: &mut [Vec<f64>; WINDOWS.len()], checks: [u64; WINDOWS.len()]) {
    for took in took.iter_mut() {
        took.sort_by(f64::total_cmp);
    }
    let at = |took: &[f64], hundredths: usize| took[(took.len() - 1) * hundredths / 100] * 1e3;
    let of = |window: usize| {
        let took = &took[window];
        (at(took, 50), at(took, 99), took.len() as f64)
    };
    let alone = of(0);
    println!(
        "{:<24} {:>7} {:>9} {:>8} {:>8} {:>7} {:>7} {:>7}",
        "beside the writer", "checks", "additions", "p50 ms", "p99 ms", "p50 x", "p99 x", "rate x"
    );
    for (window, (name, _)) in WINDOWS.iter().enumerate() {
        let is = of(window);
        println!(
            "{name:<24} {:>7} {:>9} {:>8.2} {:>8.2} {:>7.2} {:>7.2} {:>7.2}",
            checks[window],
            is.2,
            is.0,
            is.1,
            is.0 / alone.0,
            is.1 / alone.1,
            is.2 / alone.2
        );
    }
    let check = of(1);
    let target = |what: &str, is: f64, most: f64| {
        let verdict = if is <= most { "met" } else { "missed" };
        println!("{what:<44} {is:>6.2}   target {most:>5.2}   {verdict}");
    };
    target("p50 of additions beside check, ratio", check.0 / alone.0, 1.05);
    target("p99 of additions beside check, ratio", check.1 / alone.1, 1.15);
    target("additions lost beside check, share", 1.0 - check.2 / alone.2, 0.03);
}

fn script() -> Command {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = venv(RELEASE).join("python");
    assert!(python.exists(), "{} is missing: run tests/venv {RELEASE}", python.display());
    let mut command = Command::new(python);
    command.arg(here.join("benches/support/writer.py")).env("ANONYMIZED_TELEMETRY", "False");
    command
}

/// Runs `check` again and again for so long; gives how often. The last one is ended.
fn check_for(store: &Path, flags: &[&str], time: Duration) -> u64 {
    let began = clock::ticks();
    let mut ran = 0;
    loop {
        let mut command = Command::new(env!("CARGO_BIN_EXE_chroma_exporter"));
        command.arg("check").args(flags).arg("--state.dir=").arg(store);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while child.try_wait().unwrap().is_none() {
            if began.elapsed() >= time {
                drop(child.kill());
                drop(child.wait());
                return ran;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        ran += 1;
    }
}

struct Writer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Writer {
    fn start(store: &Path) -> Self {
        let mut command = script();
        command.arg("add").arg(store).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let input = child.stdin.take().unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "ready");
        Self { child, input, output }
    }

    /// Adds for so long; what each addition took, in seconds.
    fn add(&mut self, seconds: u64) -> Vec<f64> {
        writeln!(self.input, "{seconds}").unwrap();
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
