//! `config check` and `config print`, which see file and flags together, so that they say what `serve` would do; and `config init`.

mod draft;
mod find;
pub(super) mod init;

use super::{Ended, plain, to_stderr, to_stdout};
use crate::config::{Config, Overrides, print};

/// The configuration was loaded: says that it is valid.
pub(super) fn check(overrides: &Overrides) -> Ended {
    let what = match &overrides.config_file {
        Some(file) => plain(&file.to_string_lossy()),
        None => "configuration of flags and defaults".to_owned(),
    };
    to_stdout(&format!("{what} is valid\n"), Ended::Well)
}

/// Prints the configuration as YAML that reads back to the same one.
pub(super) fn print(config: &Config) -> Ended {
    match print::to_yaml(config) {
        Ok(yaml) => to_stdout(&yaml, Ended::Well),
        Err(error) => {
            to_stderr(&format!("error: cannot write the configuration as YAML: {error}\n"));
            Ended::Unwritten
        }
    }
}
