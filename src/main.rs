//! The program `chroma_exporter`: arguments in, exit code out.

use std::process::ExitCode;

use chroma_exporter::cli::{self, Ended};

fn main() -> ExitCode {
    match cli::run(std::env::args_os()) {
        Ended::Well => ExitCode::SUCCESS,
        // The answers of `check`, as monitoring plugins give them.
        Ended::Warning => 1.into(),
        Ended::Critical => 2.into(),
        Ended::Unknown => 3.into(),
        // sysexits.h, apart from the answers above: usage, output, configuration.
        Ended::Usage => 64.into(),
        Ended::Unwritten => 74.into(),
        Ended::Misconfigured => 78.into(),
        Ended::Served(code) => code,
    }
}
