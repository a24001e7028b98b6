//! A copy of one moment of a store, beside whoever writes to it: a committed state of the database, and index folders that belong
//! to it. Nothing is written in the store.
//!
//! Chroma flushes an index in this order: the files of hnswlib, in place; the pickle; its position in the queue, by a transaction;
//! and then it takes rows out of the queue, by another. Nothing locks the files. So the index of a folder belongs to the
//! copied database exactly when the folder was the same, and whole, from before the database was copied until after:
//!
//! - What the tables say of the position was then written before, so the folder is not older than it, and nothing that the
//!   queue has lost is missing in the folder.
//! - Whatever the folder holds beyond that position was in the queue before the copy began, and nobody took it out, because
//!   that comes after the position. Chroma takes it in again, which changes nothing.
//!
//! A folder that was flushed meanwhile is copied again, and so is the database, which takes a fraction of a second. Each time it
//! begins right after a flush, when the longest time without one lies ahead. A folder whose pickle is older than its other
//! files is in the middle of a flush, as long as somebody writes to the store.

mod folders;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use rusqlite::Connection;

use super::steps::Steps;
use crate::{
    clock::{self, Timestamp},
    format::{
        parts::INDEX_FILES,
        sqlite::{JOURNAL_SUFFIX, WAL_SUFFIX},
        uuid::parse_uuid,
    },
    host::{links::Place, processes::Held},
    progress::Progress,
    store::{
        Context, DATABASE_FILE,
        database::{QueryError, Stamp, beside, open_bytes},
        device,
        view::{self, Cost, Options, Places, View, ViewError},
    },
};

/// What was copied.
#[derive(Debug, Clone)]
pub struct Taken {
    /// The moment that the copy shows.
    pub moment: Timestamp,
    /// Every file, below the directory that it was copied into, in the order of their paths.
    pub files: Vec<String>,
    /// How often the database was copied.
    pub tries: u32,
    /// Longest lock on the database.
    pub held: Duration,
    /// What is to be known of how the copy was made, a sentence each.
    pub notes: Vec<String>,
}

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum MomentError {
    /// There is no database.
    #[error("{} is not there: this is no directory of Chroma", .path.display())]
    NoDatabase {
        /// Where it would be.
        path: PathBuf,
    },
    /// A file of the store or of the copy.
    #[error("cannot copy {}", .path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
    /// The database cannot be copied.
    #[error("cannot copy the database")]
    Database(#[source] ViewError),
    /// Each copy of an index was older or newer than that of the database.
    #[error(
        "not consistent, tried {tries} times in {}: Chroma flushed {folders} indexes each time while they were copied",
        crate::human::span(*.took)
    )]
    Moving {
        /// Copies of the database.
        tries: u32,
        /// Indexes that changed in the last one.
        folders: usize,
        /// All that time.
        took: Duration,
    },
    /// Nobody wants it any more.
    #[error("stopped")]
    Stopped,
}

/// Which files a copy may take from elsewhere instead: those of a backup that is known to be whole.
pub trait Known {
    /// Puts the file with this path below the store to `to`, when it has the very bytes of `file`. Whether it did.
    /// Errs when it cannot be read or written.
    fn put(&self, path: &str, file: &File, to: &Path) -> io::Result<bool>;
    /// The file is copied anew, from the store.
    fn forget(&self, path: &str);
}

/// The used ratio for a copy that somebody waits for, and that is gone when the command ends.
pub const PASSING_RATIO_MAX: f64 = 0.95;

/// How the copy is made.
#[derive(Debug, Clone, Copy)]
pub struct CopyOptions<'a> {
    /// The used ratio that the filesystem of the copy must stay below.
    pub used_ratio_max: f64,
    /// Told how far it is.
    pub steps: &'a Steps,
}

/// What `stat` says of the five files of an index.
type Stamps = [Option<Stamp>; 5];

struct Copying<'a> {
    context: &'a Context,
    place: Place,
    into: &'a Path,
    known: Option<&'a (dyn Known + Sync)>,
    copy_options: CopyOptions<'a>,
    stop: std::sync::Arc<AtomicBool>,
    /// What the copied folders were copied of.
    copied: BTreeMap<String, Stamps>,
    held: Duration,
    notes: BTreeSet<String>,
}

/// Copies one moment of the store of `context` into the directory `into`, which exists and is empty. Errs when no such moment
/// could be had; what is in `into` then is of no use.
pub fn take(
    context: &Context,
    into: &Path,
    known: Option<&(dyn Known + Sync)>,
    copy_options: CopyOptions<'_>,
) -> Result<Taken, MomentError> {
    let path = context.database.path().to_owned();
    match context.database.stamp() {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(MomentError::NoDatabase { path });
        }
        Err(source) => return Err(MomentError::File { path, source }),
    }
    let mut copying = Copying {
        context,
        place: context.place(),
        into,
        known,
        stop: copy_options.steps.flag(),
        copy_options,
        copied: BTreeMap::new(),
        held: Duration::ZERO,
        notes: BTreeSet::new(),
    };
    copying.run()
}

impl Copying<'_> {
    fn run(&mut self) -> Result<Taken, MomentError> {
        let began = clock::ticks();
        let mut wanted = BTreeSet::new();
        let mut tries = 0;
        loop {
            tries += 1;
            self.refresh_all(&wanted)?;
            let before = self.all_stamps()?;
            let segments = self.database()?;
            let moment = clock::now();
            wanted = segments.unwrap_or_else(|| before.keys().cloned().collect());
            self.refresh_all(&wanted)?;
            let after = self.all_stamps()?;
            let moved: Vec<&String> = wanted
                .iter()
                .filter(|folder| {
                    let known = [before.get(*folder), self.copied.get(*folder)];
                    known.iter().any(|known| *known != after.get(*folder))
                })
                .collect();
            if moved.is_empty() && self.flushing(&after, &wanted).is_empty() {
                self.drop_unwanted(&wanted)?;
                let files = self.files(&wanted)?;
                let (held, notes) = (self.held, self.notes.iter().cloned().collect());
                return Ok(Taken { moment, files, tries, held, notes });
            }
            let took = began.elapsed();
            if tries >= TRIES_MAX || took >= TIME_MAX {
                return Err(MomentError::Moving { tries, folders: moved.len().max(1), took });
            }
            let moved: Vec<String> = moved.into_iter().cloned().collect();
            tracing::debug!(store = %self.context.store.name, ?moved, tries, "An index was flushed while it was copied.");
            self.wait_for_flush(&moved, &after)?;
        }
    }

    /// Copies the database; gives the ids of the segments with vectors, or `None` when the tables do not say.
    /// Errs when it cannot be read or copied, or it was stopped.
    fn database(&mut self) -> Result<Option<BTreeSet<String>>, MomentError> {
        let to = self.into.join(DATABASE_FILE);
        remove(&to)?;
        let size = self.context.database.stamp().map_or(0, |stamp| stamp.size_bytes);
        self.copy_options.steps.begin("copying the database", Some(size));
        if self.put_still(&to)? {
            return Ok(segments_of(&to));
        }
        match self.view() {
            Ok(mut view) => {
                let found = view.within(QUESTION_MAX, &self.stop, segments).result.ok();
                view.keep();
                Ok(found)
            }
            Err(ViewError::Stopped) => Err(MomentError::Stopped),
            Err(error) if raw_helps(&error) => {
                self.raw(error)?;
                Ok(segments_of(&to))
            }
            Err(error) => Err(MomentError::Database(error)),
        }
    }

    fn view(&mut self) -> Result<View, ViewError> {
        let places = Places {
            configured: Some(self.into.to_owned()),
            fallback: Vec::new(),
            watched_ratio_max: self.copy_options.used_ratio_max,
            other_ratio_max: self.copy_options.used_ratio_max,
            name: Some(DATABASE_FILE.into()),
        };
        let progress = Progress::default();
        progress.start("backup");
        let options = Options {
            places: &places,
            rate_bytes_max: self.rate_bytes_max(),
            lock_hold_max: LOCK_BUDGET,
            time_max: VIEW_TIME_MAX,
            stop: &self.stop,
            progress: &progress,
        };
        let (database, steps) = (&self.context.database, self.copy_options.steps);
        let (mut cost, held) = (Cost::default(), self.is_held());
        let taken = followed(&progress, steps, || {
            match view::take_telling(database, &options, &mut cost) {
                // Without SQLite's locks nobody knows what a holder is about to write.
                Err(ViewError::Query(QueryError::Wal | QueryError::NoLocks(_))) if !held => {
                    view::take_still(database, &options)
                }
                other => other,
            }
        });
        self.held = self.held.max(cost.held);
        taken
    }

    /// Takes the database from the known backup when nobody has written to it lately, nor does while it is compared.
    /// Errs when one of them cannot be read or written.
    fn put_still(&self, to: &Path) -> Result<bool, MomentError> {
        let Some(known) = self.known else { return Ok(false) };
        known.forget(DATABASE_FILE);
        let path = self.context.database.real_path();
        let file = |source| MomentError::File { path: path.clone(), source };
        let before = self.still().map_err(file)?;
        let Some(before) = before else { return Ok(false) };
        let plain = self.context.database.open_plain().map_err(file)?;
        let same = known.put(DATABASE_FILE, &plain, to).map_err(file)?;
        if same && self.still().map_err(file)? != Some(before) {
            remove(to)?;
            known.forget(DATABASE_FILE);
            return Ok(false);
        }
        Ok(same)
    }

    /// What `stat` says of a database that has no journal and no log with bytes, and was not written to in the last moments.
    /// Errs when it cannot be looked at.
    fn still(&self) -> io::Result<Option<Stamp>> {
        let path = self.context.database.real_path();
        for suffix in [JOURNAL_SUFFIX, WAL_SUFFIX] {
            match fs::metadata(beside(&path, suffix)) {
                Ok(meta) if meta.len() > 0 => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let stamp = Stamp::of(&fs::metadata(&path)?);
        Ok((clock::now().since(stamp.modified.max(stamp.changed)) >= QUIET).then_some(stamp))
    }

    /// Copies a database that nobody writes to byte by byte, with a journal that is hot. That is played in the copy, as the next
    /// start of Chroma would do in the store. Errs with `refused`, which kept it from being copied otherwise, when somebody
    /// holds the database, or may do so on another host, when it changes meanwhile, or when part of it stands in a log.
    fn raw(&mut self, refused: ViewError) -> Result<(), MomentError> {
        let path = self.context.database.real_path();
        let logged = fs::metadata(beside(&path, WAL_SUFFIX)).is_ok_and(|meta| meta.len() > 0);
        let local = device::is_local(self.place.dir()).unwrap_or(false);
        if logged || !local || self.is_held() {
            return Err(MomentError::Database(refused));
        }
        let journal = beside(&path, JOURNAL_SUFFIX);
        let stamps = || [&path, &journal].map(|path| stamp_of(path).ok().flatten());
        let before = stamps();
        let wrong = |source| MomentError::File { path: path.clone(), source };
        let plain = self.context.database.open_plain().map_err(wrong)?;
        self.copy_file(&plain, &self.into.join(DATABASE_FILE), u64::MAX, &self.stop)
            .map_err(wrong)?;
        if before[1].is_some() {
            let wrong = |source| MomentError::File { path: journal.clone(), source };
            let from = open_bytes(&journal).map_err(wrong)?;
            self.copy_file(&from, &self.into.join(JOURNAL_FILE), u64::MAX, &self.stop)
                .map_err(wrong)?;
        }
        if stamps() != before {
            return Err(MomentError::Database(refused));
        }
        if before[1].is_some() {
            self.notes.insert(
                "a transaction was cut off: its journal was played in the backup, as the next start of Chroma does in the store"
                    .to_owned(),
            );
            roll_back(&self.into.join(DATABASE_FILE));
            remove(&self.into.join(JOURNAL_FILE))?;
        } else {
            self.notes.insert(format!("the database was copied as it is, because {refused}"));
        }
        Ok(())
    }

    fn is_held(&self) -> bool {
        is_held(self.context, Duration::ZERO)
    }

    fn rate_bytes_max(&self) -> u64 {
        let held = is_held(self.context, HOLDERS_AGE_MAX);
        if held { self.context.config.integrity.read_rate_bytes_max } else { u64::MAX }
    }

    /// The paths of all that was copied. Errs when a folder cannot be read.
    fn files(&self, wanted: &BTreeSet<String>) -> Result<Vec<String>, MomentError> {
        let mut out = vec![DATABASE_FILE.to_owned()];
        for folder in wanted {
            for name in INDEX_FILES {
                let path = format!("{folder}/{name}");
                let real = self.into.join(&path);
                match fs::symlink_metadata(&real) {
                    Ok(_) => out.push(path),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(source) => return Err(MomentError::File { path: real, source }),
                }
            }
        }
        out.sort();
        Ok(out)
    }

    fn go_on(&self) -> Result<(), MomentError> {
        if self.copy_options.steps.stopped() { Err(MomentError::Stopped) } else { Ok(()) }
    }
}

/// Whether somebody may write to the store; not knowing is as good as yes.
pub(super) fn is_held(context: &Context, max_age: Duration) -> bool {
    let held = context.database.stamp().map(|stamp| context.held(stamp.id, max_age));
    !matches!(held, Ok(Ok(Held::No)))
}

/// Whether a copy byte by byte may be had where SQLite does not take the file for a database, or for one that needs its journal.
fn raw_helps(error: &ViewError) -> bool {
    match error {
        ViewError::Query(error) => matches!(
            error,
            QueryError::HotJournal
                | QueryError::NotADatabase(_)
                | QueryError::Damaged(_)
                | QueryError::Empty
                | QueryError::Other(_)
        ),
        ViewError::Unsuited(_) => true,
        _ => false,
    }
}

/// Plays a hot journal, as any SQLite does that opens the database for writing. What comes of it the proof tells.
fn roll_back(database: &Path) {
    let played = Connection::open(database).and_then(|connection| {
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
    });
    if let Err(error) = played {
        tracing::debug!(%error, "The journal of a copy could not be played.");
    }
}

/// The segments with vectors of a copied database that nobody else has; `None` when its tables do not say.
fn segments_of(database: &Path) -> Option<BTreeSet<String>> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    Connection::open_with_flags(database, flags).and_then(|connection| segments(&connection)).ok()
}

fn segments(connection: &Connection) -> rusqlite::Result<BTreeSet<String>> {
    let mut statement = connection.prepare("SELECT id FROM segments WHERE scope = 'VECTOR'")?;
    let mut rows = statement.query([])?;
    let mut out = BTreeSet::new();
    while let Some(row) = rows.next()? {
        if let Ok(id) = row.get_ref(0)?.as_str()
            && parse_uuid(id.as_bytes()).is_some()
        {
            out.insert(id.to_owned());
        }
    }
    Ok(out)
}

fn stamp_of(path: &Path) -> io::Result<Option<Stamp>> {
    match fs::metadata(path) {
        Ok(meta) => Ok(Some(Stamp::of(&meta))),
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn remove(path: &Path) -> Result<(), MomentError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(MomentError::File { path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

/// Runs `work`, and hands what it tells of its progress on to `steps`.
fn followed<T: Send>(progress: &Progress, steps: &Steps, work: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut reported = 0;
            while !done.load(Ordering::Relaxed) {
                std::thread::sleep(FOLLOW_EVERY);
                let done = progress.state().map_or(0, |state| state.done);
                steps.add(done.saturating_sub(reported));
                reported = reported.max(done);
            }
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        result
    })
}

const JOURNAL_FILE: &str = "chroma.sqlite3-journal";
/// How often the database is copied, and for how long a new copy is begun, when indexes are flushed meanwhile.
const TRIES_MAX: u32 = 40;
const TIME_MAX: Duration = Duration::from_mins(10);
/// A flush does not take longer between two of its files, unless the writer stands still.
const SETTLED: Duration = Duration::from_secs(5);
/// What was written longer ago shows in the times of any filesystem when it is written again.
const QUIET: Duration = Duration::from_secs(2);
/// The clock of files on Linux before 6.13 moves on by up to 10 ms at once.
const TICK: Duration = Duration::from_millis(12);
/// How old the knowledge may be that nobody holds the store.
const HOLDERS_AGE_MAX: Duration = Duration::from_secs(5);
const LOCK_BUDGET: Duration = Duration::from_millis(10);
const VIEW_TIME_MAX: Duration = Duration::from_mins(1);
const QUESTION_MAX: Duration = Duration::from_secs(30);
const PAUSE_MAX: Duration = Duration::from_millis(100);
const FOLLOW_EVERY: Duration = Duration::from_millis(20);
const ENTRIES_MAX: usize = 1_000_000;

#[cfg(test)]
mod tests;
