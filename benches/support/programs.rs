//! Programs that a benchmark runs, and how what they took stands to a target.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use chroma_exporter::clock;

/// Seconds, and the peak of memory in KiB, as the kernel counted it for the program when it ended. `CHROMA_EXPORTER=PATH` measures that
/// program instead of the one that was built with the bench.
pub(crate) fn measured(words: &[&Path], more: &[&Path]) -> (f64, f64) {
    let mut command = Command::new("/usr/bin/env");
    // Python says what the kernel counted for a child, which takes unsafe code here.
    let script = "import resource,subprocess,sys; r=subprocess.run(sys.argv[1:],stdout=2).returncode; \
        print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(r)";
    let program = std::env::var_os("CHROMA_EXPORTER");
    let program = program.unwrap_or_else(|| env!("CARGO_BIN_EXE_chroma_exporter").into());
    command.args(["python3", "-c", script]).arg(program).args(words).args(more);
    let began = clock::ticks();
    let output = command.stderr(Stdio::inherit()).output().expect("the program");
    let took = began.elapsed();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    let kib = text.lines().last().and_then(|line| line.parse().ok()).unwrap_or(0.0);
    (took.as_secs_f64(), kib)
}

/// What `tests/venv` has installed for a release of Chroma: its `bin`.
pub(crate) fn venv(release: &str) -> PathBuf {
    let venvs = std::env::var_os("CHROMA_VENVS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/.venv"), PathBuf::from);
    venvs.join(release).join("bin")
}

/// Runs a program to its end.
pub(crate) fn run(command: &mut Command) {
    let status = command.status().expect("a program");
    assert!(status.success(), "{command:?}: {status}");
}

/// Prints a ratio beside its target.
pub(crate) fn target(what: &str, found: f64, most: f64) {
    let kept = if found <= most { "kept" } else { "MISSED" };
    println!("{what:<44} {found:>8.3}  target {most:<6.3} {kept}");
}

/// The one in the middle.
pub(crate) fn median(row: &[f64]) -> f64 {
    let mut row = row.to_vec();
    row.sort_by(f64::total_cmp);
    row[row.len() / 2]
}
