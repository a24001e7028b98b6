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

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use rusqlite::Connection;

use super::steps::Steps;
use crate::{
    clock::{self, Timestamp},
    format::{
        hnsw::{HEADER_LEN, Header},
        parts::INDEX_FILES,
        uuid::parse_uuid,
    },
    host::{
        links::Place,
        priority::{Quiet, SpareDisk, quietly},
        processes::Held,
    },
    progress::Progress,
    store::{
        Context, DATABASE_FILE,
        database::{QueryError, Stamp, beside, open_bytes, read_up_to},
        device,
        holes::Holes,
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
    fn put(&self, path: &str, file: &File, to: &Path) -> io::Result<bool>;
    /// The file is copied anew, from the store.
    fn forget(&self, path: &str);
}

/// How the copy is made.
#[derive(Debug, Clone, Copy)]
pub struct Manner<'a> {
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
    manner: Manner<'a>,
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
    manner: Manner<'_>,
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
        stop: manner.steps.flag(),
        manner,
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
    fn database(&mut self) -> Result<Option<BTreeSet<String>>, MomentError> {
        let to = self.into.join(DATABASE_FILE);
        remove(&to)?;
        let size = self.context.database.stamp().map_or(0, |stamp| stamp.size_bytes);
        self.manner.steps.begin("copying the database", Some(size));
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
            watched_ratio_max: self.manner.used_ratio_max,
            other_ratio_max: self.manner.used_ratio_max,
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
        let (database, steps) = (&self.context.database, self.manner.steps);
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
    fn still(&self) -> io::Result<Option<Stamp>> {
        let path = self.context.database.real_path();
        for suffix in ["-journal", "-wal"] {
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
        let logged = fs::metadata(beside(&path, "-wal")).is_ok_and(|meta| meta.len() > 0);
        let local = device::is_local(self.place.dir()).unwrap_or(false);
        if logged || !local || self.is_held() {
            return Err(MomentError::Database(refused));
        }
        let journal = beside(&path, "-journal");
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

    /// The stamps of all folders whose names may be those of segments.
    fn all_stamps(&self) -> Result<BTreeMap<String, Stamps>, MomentError> {
        let dir = self.place.dir();
        let wrong = |source| MomentError::File { path: dir.to_owned(), source };
        let mut out = BTreeMap::new();
        for entry in fs::read_dir(dir).map_err(wrong)?.take(ENTRIES_MAX) {
            let entry = entry.map_err(wrong)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if parse_uuid(name.as_bytes()).is_some() {
                let stamps = self.stamps(&name)?;
                out.insert(name, stamps);
            }
        }
        Ok(out)
    }

    fn stamps(&self, folder: &str) -> Result<Stamps, MomentError> {
        let mut out = [None; 5];
        for (stamp, name) in out.iter_mut().zip(INDEX_FILES) {
            let path = Path::new(folder).join(name);
            let wrong = |source| MomentError::File { path: path.clone(), source };
            let real = self.place.at(&path).map_err(wrong)?;
            *stamp = stamp_of(&real).map_err(wrong)?;
        }
        Ok(out)
    }

    /// Copies the folders that are not copied as they are now.
    fn refresh_all(&mut self, wanted: &BTreeSet<String>) -> Result<(), MomentError> {
        let now = self.all_stamps()?;
        let stale: Vec<&String> = wanted
            .iter()
            .filter(|folder| {
                now.contains_key(*folder) && now.get(*folder) != self.copied.get(*folder)
            })
            .collect();
        if stale.is_empty() {
            return Ok(());
        }
        let sizes = stale.iter().filter_map(|folder| now.get(*folder)).flatten().flatten();
        let bytes = sizes.map(|stamp| stamp.size_bytes).fold(0, u64::saturating_add);
        self.manner.steps.begin("copying the indexes", Some(bytes));
        let copied = {
            let this = &*self;
            // What was begun anew on another thread copies each folder again.
            let work = |stop: &AtomicBool| {
                let mut copied = BTreeMap::new();
                for folder in &stale {
                    if let Some(stamps) = this.refresh(folder, stop)? {
                        copied.insert((*folder).clone(), stamps);
                    }
                }
                Ok(copied)
            };
            let here = self.into.to_owned();
            quietly(Quiet::Nice, &self.stop, work)
                .map_err(|source| MomentError::File { path: here, source })?
        };
        self.copied.extend(copied?);
        Ok(())
    }

    /// Copies one folder. `None` when it is written to all the time.
    fn refresh(&self, folder: &str, stop: &AtomicBool) -> Result<Option<Stamps>, MomentError> {
        let to = self.into.join(folder);
        for _ in 0..REFRESHES_MAX {
            if stop.load(Ordering::Relaxed) {
                return Err(MomentError::Stopped);
            }
            let before = self.stamps(folder)?;
            let newest = before.iter().flatten().map(|stamp| stamp.modified).max();
            let now = clock::now();
            if newest.is_some_and(|newest| newest <= now && now.since(newest) < TICK) {
                // Two writes within one tick of the kernel's clock have the same time.
                std::thread::sleep(TICK);
                continue;
            }
            match fs::DirBuilder::new().mode(0o700).create(&to) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(MomentError::File { path: to, source: error });
                }
                _ => {}
            }
            let header = self.header(folder)?;
            for (stamp, name) in before.iter().zip(INDEX_FILES) {
                let target = to.join(name);
                remove(&target)?;
                if stamp.is_none() {
                    continue;
                }
                let path = Path::new(folder).join(name);
                let wrong = |source| MomentError::File { path: path.clone(), source };
                let from = match self.place.at(&path).and_then(|real| open_bytes(&real)) {
                    Ok(from) => from,
                    // It went since, which the stamps tell.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(wrong(error)),
                };
                let known = self.known.map_or(Ok(false), |known| {
                    known.put(&format!("{folder}/{name}"), &from, &target)
                });
                if !known.map_err(wrong)? {
                    let bound = bound_of(name, header.as_ref());
                    self.copy_file(&from, &target, bound, stop).map_err(wrong)?;
                }
            }
            if self.stamps(folder)? == before {
                return Ok(Some(before));
            }
        }
        Ok(None)
    }

    fn header(&self, folder: &str) -> Result<Option<Header>, MomentError> {
        let path = Path::new(folder).join(INDEX_FILES[0]);
        let wrong = |source| MomentError::File { path: path.clone(), source };
        let file = match self.place.at(&path).and_then(|real| open_bytes(&real)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(wrong(error)),
        };
        let mut bytes = [0; HEADER_LEN];
        let read = read_up_to(&file, &mut bytes, 0).map_err(wrong)?;
        Ok(Header::parse(&bytes[..read]).ok())
    }

    /// Copies what a file has up to `bound`, with holes where it has holes. What is longer is cut.
    fn copy_file(&self, from: &File, to: &Path, bound: u64, stop: &AtomicBool) -> io::Result<()> {
        let _spare = SpareDisk::new();
        let meta = from.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        let (began, rate) = (clock::ticks(), self.rate_bytes_max());
        let out = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
        let mut holes = Holes::of(from);
        let mut buffer = vec![0; CHUNK_BYTES];
        let (mut at, mut moved) = (0, 0);
        loop {
            let data = holes.data_from(at).min(bound);
            self.manner.steps.add(data.saturating_sub(at));
            at = data;
            let room = usize::try_from(bound - at).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            let read = read_up_to(from, &mut buffer[..room], at)?;
            if read == 0 {
                break;
            }
            out.write_all_at(&buffer[..read], at)?;
            at += read as u64;
            moved += read as u64;
            self.manner.steps.add(read as u64);
            if stop.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let due = Duration::from_secs_f64(moved as f64 / rate.max(1) as f64);
            std::thread::sleep(due.saturating_sub(began.elapsed()).min(PAUSE_MAX));
        }
        out.set_len(at)
    }

    /// Which of `wanted` are in the middle of a flush. A writer that stands still does not keep us waiting for ever: what has
    /// not changed for some time counts as whole, and the proof looks at what is in it.
    fn flushing(
        &self,
        stamps: &BTreeMap<String, Stamps>,
        wanted: &BTreeSet<String>,
    ) -> Vec<String> {
        let now = clock::now();
        let half = |stamps: &Stamps| {
            let [files @ .., pickle] = stamps;
            let newest = files.iter().flatten().map(|stamp| stamp.modified).max();
            let (Some(newest), Some(pickle)) = (newest, pickle) else { return false };
            newest > pickle.modified && now.since(newest) < SETTLED
        };
        let of = |folder: &&String| stamps.get(*folder).is_some_and(half);
        let half: Vec<String> = wanted.iter().filter(of).cloned().collect();
        if half.is_empty() || !self.is_held() { Vec::new() } else { half }
    }

    /// Waits until one of `moved` is flushed again, or for a moment.
    fn wait_for_flush(
        &self,
        moved: &[String],
        since: &BTreeMap<String, Stamps>,
    ) -> Result<(), MomentError> {
        let began = clock::ticks();
        while began.elapsed() < FLUSH_WAIT_MAX {
            self.go_on()?;
            std::thread::sleep(LOOK_EVERY);
            for folder in moved {
                if Some(&self.stamps(folder)?) != since.get(folder) {
                    // The rest of the flush.
                    std::thread::sleep(5 * LOOK_EVERY);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn drop_unwanted(&mut self, wanted: &BTreeSet<String>) -> Result<(), MomentError> {
        let gone: Vec<String> =
            self.copied.keys().filter(|folder| !wanted.contains(*folder)).cloned().collect();
        for folder in gone {
            let path = self.into.join(&folder);
            fs::remove_dir_all(&path).map_err(|source| MomentError::File { path, source })?;
            self.copied.remove(&folder);
        }
        Ok(())
    }

    /// The paths of all that was copied.
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
        if self.manner.steps.stopped() { Err(MomentError::Stopped) } else { Ok(()) }
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

/// Nothing of an index lies beyond this: a file that has grown far beyond what its header allows is cut there.
fn bound_of(name: &str, header: Option<&Header>) -> u64 {
    let Some(header) = header else { return u64::MAX };
    let most = match name {
        "link_lists.bin" => header.links_bytes_max(),
        "data_level0.bin" => header.max_elements.saturating_mul(header.element_bytes),
        "length.bin" => header.max_elements.saturating_mul(4),
        _ => return u64::MAX,
    };
    most.max(BOUND_MIN_BYTES)
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
            let mut told = 0;
            while !done.load(Ordering::Relaxed) {
                std::thread::sleep(FOLLOW_EVERY);
                let done = progress.standing().map_or(0, |standing| standing.done);
                steps.add(done.saturating_sub(told));
                told = told.max(done);
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
const REFRESHES_MAX: u32 = 20;
/// How long a flush is waited for, and how often it is looked for.
const FLUSH_WAIT_MAX: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(2);
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
const CHUNK_BYTES: usize = 1 << 20;
const ENTRIES_MAX: usize = 1_000_000;
/// A file of an index is never cut below this.
const BOUND_MIN_BYTES: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use parking_lot::Mutex;

    use super::*;
    use crate::{
        config::{Config, Store},
        host::Host,
    };

    const FOLDER: &str = "0e6c1f6a-3b7d-4c52-9a41-7d2f8b90c3e5";

    /// A store whose files say of which flush they are, the database included.
    fn store(dir: &Path) {
        fs::create_dir(dir.join(FOLDER)).unwrap();
        let sql = format!(
            "CREATE TABLE segments(id TEXT, scope TEXT); CREATE TABLE max_seq_id(seq_id INTEGER);
             INSERT INTO segments VALUES('{FOLDER}', 'VECTOR'), ('{FOLDER}', 'METADATA'), ('../x', 'VECTOR');
             INSERT INTO max_seq_id VALUES(0);"
        );
        Connection::open(dir.join(DATABASE_FILE)).unwrap().execute_batch(&sql).unwrap();
        flush(dir);
    }

    /// As Chroma does it: the files, the pickle, the position.
    fn flush(dir: &Path) {
        let database = Connection::open(dir.join(DATABASE_FILE)).unwrap();
        let number = position(&database) + 1;
        for name in INDEX_FILES {
            fs::write(dir.join(FOLDER).join(name), number.to_string()).unwrap();
        }
        database.execute("UPDATE max_seq_id SET seq_id = ?1", [number]).unwrap();
    }

    fn position(database: &Connection) -> i64 {
        database.query_row("SELECT seq_id FROM max_seq_id", [], |row| row.get(0)).unwrap()
    }

    /// Flushes when these files are copied, counted from the first of all.
    struct Flushes<'a> {
        dir: &'a Path,
        at: BTreeSet<usize>,
        asked: Mutex<usize>,
    }

    impl Known for Flushes<'_> {
        fn put(&self, _: &str, _: &File, _: &Path) -> io::Result<bool> {
            let mut asked = self.asked.lock();
            if self.at.contains(&asked) {
                flush(self.dir);
            }
            *asked += 1;
            Ok(false)
        }

        fn forget(&self, _: &str) {}
    }

    fn context(dir: &Path) -> Context {
        let config = Arc::new(Config::default());
        let store = Arc::new(Store::new("main", dir));
        Context::new(&config, &store, &Arc::new(Host::new(&config)))
    }

    #[test]
    fn an_index_that_is_flushed_meanwhile_is_copied_again_with_the_database() {
        for at in [&[][..], &[0], &[1], &[4], &[0, 5], &[2, 7, 9], &[4, 9, 14]] {
            let scratch = tempfile::tempdir().unwrap();
            let (dir, into) = (scratch.path().join("store"), scratch.path().join("copy"));
            for dir in [&dir, &into] {
                fs::create_dir(dir).unwrap();
            }
            store(&dir);
            let known =
                Flushes { dir: &dir, at: at.iter().copied().collect(), asked: Mutex::new(0) };
            let steps = Steps::default();
            let manner = Manner { used_ratio_max: 1.0, steps: &steps };
            let taken = take(&context(&dir), &into, Some(&known), manner).unwrap();
            let want = position(&Connection::open(into.join(DATABASE_FILE)).unwrap());
            assert_eq!(
                usize::try_from(want).unwrap(),
                1 + at.len(),
                "{at:?}: a flush was not waited for"
            );
            for name in INDEX_FILES {
                let found = fs::read_to_string(into.join(FOLDER).join(name)).unwrap();
                assert_eq!(found, want.to_string(), "{at:?}: {name} is of another flush");
            }
            assert_eq!(taken.tries > 1, !at.is_empty(), "{at:?}");
            let files: BTreeSet<String> =
                INDEX_FILES.iter().map(|name| format!("{FOLDER}/{name}")).collect();
            let found: BTreeSet<String> = taken.files.into_iter().collect();
            assert_eq!(found, &files | &BTreeSet::from([DATABASE_FILE.to_owned()]));
        }
    }

    #[test]
    fn a_file_that_has_run_away_is_cut_where_its_header_ends_it_and_holes_stay_holes() {
        use std::os::unix::fs::MetadataExt;
        let scratch = tempfile::tempdir().unwrap();
        let (dir, into) = (scratch.path().join("store"), scratch.path().join("copy"));
        for dir in [&dir, &into] {
            fs::create_dir(dir).unwrap();
        }
        store(&dir);
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chroma-1.5.9");
        let header = fixture.join("c2acc258-3dd5-40e9-927a-253f486f8565/header.bin");
        fs::copy(header, dir.join(FOLDER).join("header.bin")).unwrap();
        let links =
            File::options().write(true).open(dir.join(FOLDER).join("link_lists.bin")).unwrap();
        links.set_len(1 << 40).unwrap();
        links.write_all_at(b"far out", (1 << 40) - 7).unwrap();
        let steps = Steps::default();
        let manner = Manner { used_ratio_max: 1.0, steps: &steps };
        take(&context(&dir), &into, None, manner).unwrap();
        let copy = fs::metadata(into.join(FOLDER).join("link_lists.bin")).unwrap();
        assert_eq!(copy.len(), BOUND_MIN_BYTES);
        // A hole of less than a piece is read and written.
        assert!(copy.blocks() < 10_000, "{} blocks", copy.blocks());
    }

    #[test]
    fn what_is_no_store_is_told_and_a_stop_ends_it() {
        let scratch = tempfile::tempdir().unwrap();
        let (dir, into) = (scratch.path().join("store"), scratch.path().join("copy"));
        for dir in [&dir, &into] {
            fs::create_dir(dir).unwrap();
        }
        let steps = Steps::default();
        let manner = Manner { used_ratio_max: 1.0, steps: &steps };
        let none = take(&context(&dir), &into, None, manner).map(|_| ()).unwrap_err();
        assert!(matches!(none, MomentError::NoDatabase { .. }), "{none}");
        store(&dir);
        steps.stop();
        let stopped = take(&context(&dir), &into, None, manner).map(|_| ()).unwrap_err();
        assert!(matches!(stopped, MomentError::Stopped), "{stopped}");
    }
}
