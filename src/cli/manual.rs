//! `manual DIR`: manual pages of the program and of each command, for packages.

use std::path::Path;

use clap_mangen::Man;

use super::{Ended, command, plain, to_stderr, whole_file};

/// Writes `chroma_exporter.1` and one page for each command into `dir`, which must be there.
pub(super) fn run(dir: &Path) -> Ended {
    let mut root = command().disable_help_subcommand(true);
    root.build();
    match pages(&root, NAME, dir) {
        Ok(()) => Ended::Well,
        Err(error) => {
            let dir = plain(&dir.to_string_lossy());
            to_stderr(&format!("error: cannot write manual pages into {dir}: {error}\n"));
            Ended::Unwritten
        }
    }
}

fn pages(command: &clap::Command, name: &str, dir: &Path) -> std::io::Result<()> {
    // The page of `config check` is called as man(1) looks for it: chroma_exporter-config-check.
    let page = command.clone().display_name(name.to_owned());
    let mut text = Vec::new();
    Man::new(page).title(name).source(format!("{NAME} {}", crate::VERSION)).render(&mut text)?;
    whole_file::write(&dir.join(format!("{name}.1")), &text)?;
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        pages(below, &format!("{name}-{}", below.get_name()), dir)?;
    }
    Ok(())
}

const NAME: &str = "chroma_exporter";
