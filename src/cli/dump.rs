//! `dump`: every record of a store or of a backup, as lines of JSON.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, BufWriter, Write},
    num::NonZeroU64,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::ValueHint;
use flate2::write::GzEncoder;
use rustix::fs::{Advice, fadvise};

use super::{
    Ended,
    bar::{self, ProgressMode},
    interrupt, source, to_stderr,
};
use crate::{
    config::Config,
    facts::error::chain,
    host,
    human::{self, plain},
    repair::{
        dump::{self, CopyError, DumpError, Dumped, Filter, Wanted},
        steps::Steps,
    },
};

/// What `dump` takes beside the flags of every command.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Options {
    /// A directory of Chroma, or a backup as `verify` takes it; otherwise the store of --store.path, or the one that is found
    #[arg(value_name = "DIR|BACKUP", value_hint = ValueHint::AnyPath)]
    from: Option<PathBuf>,

    /// Write to this file instead of standard output; packed when its name ends with .zst or .gz. It gets its name when it is whole
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    to: Option<PathBuf>,

    /// Only collections of this name; may be given several times
    #[arg(long, value_name = "NAME")]
    collection: Vec<String>,

    /// Only records with these ids: a file with one id per line
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    ids: Option<PathBuf>,

    /// Only records whose metadata is so, in Chroma's words: '{"page": {"$gte": 3}}'
    #[arg(long = "where", value_name = "JSON")]
    filter: Option<Filter>,

    /// Leave the vectors out
    #[arg(long)]
    no_embeddings: bool,

    /// Where the copy is made that is read: a directory with room for it
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    scratch: Option<PathBuf>,

    /// Show progress on standard error; the default on a terminal
    #[arg(long)]
    progress: bool,
}

/// Dumps one store or backup. Lines go to standard output or to a file, words about them to standard error.
pub(super) fn run(config: Config, options: &Options) -> Ended {
    host::give_memory_back();
    let wanted = match wanted(options) {
        Ok(wanted) => wanted,
        Err((path, error)) => {
            to_stderr(&format!("error: cannot read {}: {error}\n", path.display()));
            return Ended::Usage;
        }
    };
    let config = Arc::new(config);
    let source = match source::of(&config, options.from.as_deref()) {
        Ok(source) => source,
        Err(error) => {
            to_stderr(&format!("error: {}\nhelp: name its directory\n", plain(&chain(&error))));
            return Ended::Usage;
        }
    };
    let steps = Steps::default();
    interrupt::stops(&steps);
    // Lines on a terminal and a bar would be drawn over each other.
    let quiet = options.to.is_none() && io::IsTerminal::is_terminal(&io::stdout());
    let mode = if quiet { ProgressMode::Hidden } else { ProgressMode::of(options.progress, true) };
    let result = bar::steps(mode, "dump", &steps, || {
        let copied = source.copied(&config, options.scratch.as_deref(), &steps)?;
        let dumped = match &options.to {
            None => dump::run(copied.dir(), &wanted, &mut BufWriter::new(io::stdout()), &steps)?,
            Some(to) => to_file(to, |out| dump::run(copied.dir(), &wanted, out, &steps))?,
        };
        Ok((copied.notes.clone(), dumped))
    });
    match result {
        Ok((notes, dumped)) => {
            let notes: Vec<String> = notes.into_iter().chain(dumped.notes.clone()).collect();
            to_stderr(&text(&notes, &dumped));
            if dumped.without_vector + dumped.unreadable > 0 || !dumped.losses.is_empty() {
                Ended::Warning
            } else {
                Ended::Well
            }
        }
        // Whoever reads the lines has enough of them.
        Err(Failed::Dump(DumpError::Write(error))) if error.kind() == io::ErrorKind::BrokenPipe => {
            Ended::Well
        }
        Err(failed) => {
            to_stderr(&format!("error: {}\n", plain(&failed.to_string())));
            Ended::Critical
        }
    }
}

fn wanted(options: &Options) -> Result<Wanted, (PathBuf, io::Error)> {
    let ids = match &options.ids {
        None => None,
        Some(path) => {
            let text = fs::read_to_string(path).map_err(|error| (path.clone(), error))?;
            Some(
                text.lines()
                    .filter(|id| !id.is_empty())
                    .map(str::to_owned)
                    .collect::<BTreeSet<_>>(),
            )
        }
    };
    Ok(Wanted {
        collections: options.collection.clone(),
        ids,
        filter: options.filter.clone(),
        embeddings: !options.no_embeddings,
    })
}

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("{}", chain(.0))]
    Copy(#[from] CopyError),
    #[error("{}", chain(.0))]
    Dump(#[from] DumpError),
}

/// Writes under another name, which a dump that is not whole keeps to nobody: it is removed.
/// Errs when it cannot be written, or `write` errs.
fn to_file(
    to: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<Dumped, DumpError>,
) -> Result<Dumped, DumpError> {
    let mut partial = to.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let file = File::create(&partial).map_err(DumpError::Write)?;
    let early = EarlyWriteback { file: &file, written: 0, begun: 0, done: 0 };
    let written = packed(to, early, write).and_then(|dumped| {
        file.sync_all().and_then(|()| fs::rename(&partial, to)).map_err(DumpError::Write)?;
        Ok(dumped)
    });
    if written.is_err() {
        // What keeps it there is told by the error that is given.
        drop(fs::remove_file(&partial));
    }
    written
}

/// A file whose bytes the disk begins with while more are made, so that little is left to wait for at the end, and which
/// leaves the page cache to whoever reads the store.
struct EarlyWriteback<'a> {
    file: &'a File,
    written: u64,
    /// Up to here the disk has begun.
    begun: u64,
    /// Up to here it should be through.
    done: u64,
}

impl EarlyWriteback<'_> {
    /// The kernel lets go of what is written out, and begins with the rest. It is a hint: where it is not taken, the sync at the end has more
    /// to do.
    fn advise(&self, start: u64, end: u64) {
        fadvise(self.file, start, NonZeroU64::new(end - start), Advice::DontNeed)
            .unwrap_or_default();
    }
}

impl Write for EarlyWriteback<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.written += count as u64;
        if self.written - self.begun >= WRITEBACK_BYTES {
            self.advise(self.done, self.written);
            (self.done, self.begun) = (self.begun, self.written);
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn packed(
    to: &Path,
    file: impl Write,
    write: impl FnOnce(&mut dyn Write) -> Result<Dumped, DumpError>,
) -> Result<Dumped, DumpError> {
    let extension = to.extension().and_then(|extension| extension.to_str());
    match extension {
        Some("zst" | "zstd") => {
            let mut packer = zstd::Encoder::new(file, 3).map_err(DumpError::Write)?;
            let dumped = write(&mut BufWriter::with_capacity(PIECE_BYTES, &mut packer))?;
            packer.finish().map_err(DumpError::Write)?;
            Ok(dumped)
        }
        Some("gz") => {
            let mut packer = GzEncoder::new(file, flate2::Compression::default());
            let dumped = write(&mut BufWriter::with_capacity(PIECE_BYTES, &mut packer))?;
            packer.finish().map_err(DumpError::Write)?;
            Ok(dumped)
        }
        _ => write(&mut BufWriter::with_capacity(PIECE_BYTES, file)),
    }
}

/// For people.
fn text(notes: &[String], dumped: &Dumped) -> String {
    let count = |number: u64| human::count(number as f64);
    let mut lines = vec![format!(
        "{} records of {} collections",
        count(dumped.records),
        count(dumped.collections)
    )];
    if dumped.without_vector > 0 {
        lines.push(format!(
            "{} of them have no vector that can be read; their lines say \"embedding\":null",
            count(dumped.without_vector)
        ));
    }
    if dumped.unreadable > 0 {
        lines.push(format!("{} more cannot be read and have no line", count(dumped.unreadable)));
    }
    let told = dumped.losses.iter().take(LOSSES_MAX);
    lines.extend(told.map(|loss| format!("not read: {}", plain(loss))));
    let more = dumped.losses.len().saturating_sub(LOSSES_MAX);
    lines.extend((more > 0).then(|| format!("not read: {more} more")));
    lines.extend(notes.iter().map(|note| format!("note: {}", plain(note))));
    lines.join("\n") + "\n"
}

const LOSSES_MAX: usize = 20;
const PIECE_BYTES: usize = 256 << 10;
const WRITEBACK_BYTES: u64 = 16 << 20;
