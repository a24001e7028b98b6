//! `config init`: a configuration to begin with, of what is found on this host: the directories that Chroma uses, their backups, logs
//! and servers. It goes to standard output, or to a new file; a file that is there is never touched.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
};

use clap::ValueHint;

use super::{
    super::{Ended, flags::store_flag, plain, to_stderr, to_stdout},
    draft::Draft,
    find,
};
use crate::{
    config::{Config, StoreFlag},
    findings::command,
};

/// What `config init` takes beside the flags of every command.
#[derive(Debug, Clone, clap::Args)]
pub(in crate::cli) struct Options {
    /// Directories to watch; without any, those that are found
    #[arg(value_name = "[NAME=]DIR", value_parser = store_flag, value_hint = ValueHint::DirPath)]
    pub(in crate::cli) dirs: Vec<StoreFlag>,

    /// Write it to this new file; one that is there is not overwritten
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    to: Option<PathBuf>,
}

/// Looks, and writes what was found.
pub(in crate::cli) fn run(config: &Config, options: &Options) -> Ended {
    let draft = search(config);
    for note in &draft.notes {
        to_stderr(&format!("{note}\n"));
    }
    let text = draft.text();
    let Some(file) = &options.to else { return to_stdout(&text, Ended::Well) };
    let name = plain(&file.to_string_lossy());
    match write_new(file, &text) {
        Ok(()) => {
            let start = command("chroma_exporter --config.file {path}", &[("path", file)]);
            let start = start.map(|start| format!(", and start:\n  {}", plain(&start)));
            let (count, start) = (draft.count(), start.unwrap_or_default());
            to_stdout(&format!("{name} is written, with {count}. Read it{start}\n"), Ended::Well)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            to_stderr(&format!(
                "error: {name} is there already; nothing was written\n\
                 help: name another file, or leave --to out to see what would be written\n"
            ));
            Ended::Unwritten
        }
        Err(error) => {
            to_stderr(&format!("error: cannot write {name}: {error}\n"));
            Ended::Unwritten
        }
    }
}

/// A filesystem that hangs keeps a thread, and not the command.
fn search(config: &Config) -> Draft {
    let (send, receive) = mpsc::channel();
    let config = config.clone();
    let started = thread::Builder::new().name("look around".to_owned()).spawn(move || {
        // Nobody listens any more when it comes too late.
        drop(send.send(find::search(&config)));
    });
    let nothing = |why: &str| Draft { notes: vec![why.to_owned()], ..Draft::default() };
    match started.map(|_| receive.recv_timeout(find::PATIENCE)) {
        Ok(Ok(draft)) => draft,
        Ok(Err(_)) => nothing(
            "a filesystem does not answer; name the directories: chroma_exporter config init DIR",
        ),
        Err(error) => nothing(&format!("no thread could be started to look around: {error}")),
    }
}

fn write_new(file: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o640).open(file)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}
