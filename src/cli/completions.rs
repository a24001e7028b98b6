//! `completions SHELL`: what a shell needs to complete our words.

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use super::{Cli, Ended, to_stdout};

/// Prints the completions of `shell`.
pub(super) fn run(shell: Shell) -> Ended {
    // Into memory first: the library panics when its writer fails.
    let mut script = Vec::new();
    generate(shell, &mut Cli::command(), "chroma_exporter", &mut script);
    to_stdout(&String::from_utf8_lossy(&script), Ended::Well)
}
