//! What the collectors of one store share: its configuration, its host, whether its filesystem answers, and the
//! discipline over descriptors of its database.

pub mod device;
pub mod restores;

pub(crate) use sqlite_live::holes;
pub use sqlite_live::{database, pagecache, space, view};

use std::{collections::BTreeMap, io, path::Path, sync::Arc, time::Duration};

use parking_lot::{Mutex, MutexGuard};
use rusqlite::types::ValueRef;

use self::database::QueryError;
use crate::{
    clock::{self, Ticks},
    config::{CollectorName, Config, Store, Through},
    facts::error::CollectError,
    host::{
        Host, links,
        processes::{FileId, Held, Process, Walk, walk},
    },
    progress::Progress,
};

impl CollectError {
    /// What keeps a collector from reading the database at `path`.
    #[must_use]
    pub fn of_query(error: QueryError, path: &Path) -> Self {
        let path = path.to_owned();
        match error {
            QueryError::File(source) => Self::Unreadable { path, source },
            QueryError::NotADatabase(source)
            | QueryError::Damaged(source)
            | QueryError::Unreadable(source)
            | QueryError::Other(source) => Self::Sqlite { path, source },
            source => Self::Query { path, source },
        }
    }
}

/// A position in the queue: an integer since 1.0, eight bytes before, most significant first. Which of them a release can read
/// is the business of `contents`.
pub(crate) fn position(value: ValueRef<'_>) -> Option<i64> {
    match value {
        ValueRef::Integer(position) => Some(position),
        ValueRef::Blob(bytes) => i64::try_from(u64::from_be_bytes(bytes.try_into().ok()?)).ok(),
        _ => None,
    }
}

/// Everything a collector is built from. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Context {
    /// The configuration as a whole.
    pub config: Arc<Config>,
    /// The store.
    pub store: Arc<Store>,
    /// The host: processes, state directory.
    pub host: Arc<Host>,
    /// Whether the filesystem of the store answers.
    pub device: Arc<device::Device>,
    /// How its database may be opened.
    pub database: Arc<database::Database>,
    /// The process through whose root the store is seen.
    pub(crate) through: Option<Arc<Through>>,
    /// Who held it, when it was found by itself.
    pub(crate) found: Option<Arc<FoundHeld>>,
    /// Whether SQLite is to be asked beside the full check in any case: `check --paranoid`.
    pub paranoid: bool,
    /// Whether not even the quick check runs, which reads every page: a start of `guard`.
    pub glance: bool,
    /// How far the long work of each collector is.
    pub(crate) progress: Arc<BTreeMap<CollectorName, Progress>>,
}

impl Context {
    /// The shared parts of `store`. Touches nothing yet.
    #[must_use]
    pub fn new(config: &Arc<Config>, store: &Arc<Store>, host: &Arc<Host>) -> Self {
        Self {
            config: Arc::clone(config),
            store: Arc::clone(store),
            host: Arc::clone(host),
            device: Arc::new(device::Device::new(store.seen_path.clone())),
            database: Arc::new(database::Database::below(
                store.seen_path.join(DATABASE_FILE),
                config.rootfs.clone(),
            )),
            through: through(config, store).map(Arc::new),
            found: None,
            paranoid: false,
            glance: false,
            progress: Arc::new(
                CollectorName::ALL.into_iter().map(|name| (name, Progress::default())).collect(),
            ),
        }
    }

    /// The directory of the store, and how links in it are followed.
    pub(crate) fn place(&self) -> links::Place {
        links::Place::new(&self.config.rootfs, &self.store.seen_path)
    }

    /// Whether any process but this one holds the database, the file `file`, so that it may write to it; where not everybody can
    /// be seen, the kernel may still know that nobody does. Errs when that cannot be told.
    pub fn held(&self, file: FileId, max_age: Duration) -> Result<Held, CollectError> {
        Ok(match self.host.processes.held(file, max_age)? {
            Held::Unknown if matches!(self.database.writers(), Ok(Some(false))) => Held::No,
            held => held,
        })
    }

    /// Deleted files that processes can still write to and whose last name was the path of the database, without those that are
    /// `known`: what replaced it may have come before this program did. `walk` was asked for the device of the directory.
    #[must_use]
    pub(crate) fn deleted_databases(&self, walk: &Walk, known: &[FileId]) -> Vec<FileId> {
        let named = |path: &Path| path.file_name().is_some_and(|n| n == DATABASE_FILE);
        let mut suspects = walk
            .deleted()
            .iter()
            .filter(|deleted| named(&deleted.path))
            .take(SUSPECTS_MAX)
            .peekable();
        if suspects.peek().is_none() {
            return Vec::new();
        }
        // Without links, as far as it still exists.
        let dir = &self.store.seen_path;
        let real = links::follow(&self.config.rootfs, dir);
        let path = real.as_ref().unwrap_or(dir).join(DATABASE_FILE);
        let mut out: Vec<FileId> = suspects
            .filter(|deleted| deleted.writes && !known.contains(&deleted.file))
            .filter(|deleted| self.host.processes.was_named(deleted, &path))
            .map(|deleted| deleted.file)
            .collect();
        out.sort_unstable();
        out.dedup();
        out
    }

    /// For how long one question may hold its lock while no writer waits for it. Where no process holds the file nobody has
    /// to wait for it, and a machine that is busy is no reason to give it up; `deep` says that it may take as long as a check.
    #[must_use]
    pub fn question_time(&self, deep: bool) -> Duration {
        let collect = &self.config.collect;
        let held = |stamp: database::Stamp| self.held(stamp.id, HOLDERS_AGE_MAX);
        match self.database.stamp().map(held) {
            Ok(Ok(Held::No)) if deep => collect.check_deadline.max(collect.statement_deadline),
            Ok(Ok(Held::No)) => (collect.deadline / 2).max(collect.statement_deadline),
            _ => collect.statement_deadline,
        }
    }

    /// Whether a run is the only one that this program takes, so that nothing may be left to the next: it is `check`.
    #[must_use]
    pub fn single_run(&self) -> bool {
        self.host.state.is_read_only()
    }

    /// Errs when nothing is to be said of the store any more. One that is seen through the root of a process ends with it: the
    /// pid may be another's by now, and the path would lead to another file. One that was found by itself and is not there
    /// has most likely gone with its process, as temporary directories do; it is missed when that goes on without it.
    pub fn within_reach(&self) -> Result<(), CollectError> {
        if let Some(by) = &self.through
            && !walk::runs(&self.config.procfs, by.pid, by.start_ticks)
        {
            return Err(CollectError::OutOfReach(format!(
                "the process {} has ended, by whose root the directory {} was seen",
                by.pid,
                by.path.display()
            )));
        }
        match &self.found {
            Some(found) if found.gone(self) => Err(CollectError::OutOfReach(format!(
                "the directory {} is gone, most likely with the process that held it",
                self.store.path.display()
            ))),
            _ => Ok(()),
        }
    }

    /// Notes who holds the store that was found by itself.
    pub(crate) fn held_by(&self, holders: Vec<Process>) {
        if let Some(found) = &self.found {
            found.lock().holders = holders;
        }
    }

    fn is_there(&self) -> bool {
        let timeout = self.config.collect.device_timeout;
        let error = match self.device.ask_recent(DEVICE_ANSWER_AGE_MAX, timeout) {
            Err(CollectError::Unreadable { source, .. }) => source,
            Err(_) => return true,
            Ok(_) => match std::fs::symlink_metadata(self.database.path()) {
                Err(error) => error,
                Ok(_) => return true,
            },
        };
        !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
    }

    /// How far the long work of `collector` is. Whoever works tells it, whoever shows it asks.
    #[must_use]
    pub fn progress(&self, collector: CollectorName) -> &Progress {
        // The constructor puts all of them in.
        &self.progress[&collector]
    }
}

/// Deleted files of the right name whose place is looked at in one run.
const SUSPECTS_MAX: usize = 64;
/// How old the knowledge may be that nobody holds the file.
const HOLDERS_AGE_MAX: Duration = Duration::from_secs(5);

/// Who held a directory that was found by itself when processes were last looked at.
#[derive(Debug, Default)]
pub(crate) struct FoundHeld(Mutex<HeldState>);

#[derive(Debug, Default)]
struct HeldState {
    holders: Vec<Process>,
    /// Since when the database is not there.
    gone: Option<Ticks>,
}

impl FoundHeld {
    /// Whether the database is gone, and it is not known yet that a process goes on without it.
    fn gone(&self, context: &Context) -> bool {
        let there = context.is_there();
        let mut state = self.lock();
        if there {
            state.gone = None;
            return false;
        }
        let since = *state.gone.get_or_insert_with(clock::ticks);
        let procfs = &context.config.procfs;
        let goes_on =
            state.holders.iter().any(|holder| walk::runs(procfs, holder.pid, holder.start_ticks));
        !goes_on || since.elapsed() < ENDS_WITHIN
    }

    fn lock(&self) -> MutexGuard<'_, HeldState> {
        self.0.lock()
    }
}

/// A program that removes its directory ends within this time, most likely.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

const DEVICE_ANSWER_AGE_MAX: Duration = Duration::from_secs(1);

/// The process through whose root the store is seen, also when its path was written so.
fn through(config: &Config, store: &Store) -> Option<Through> {
    if let Some(through) = &store.through {
        return Some(through.clone());
    }
    let (pid, path) = links::through_process(&config.procfs, &store.seen_path)?;
    // None has started at 0 but those of the kernel.
    let start_ticks = walk::started(&config.procfs, pid).unwrap_or(0);
    Some(Through { pid, start_ticks, path })
}

/// `store` with `seen_path` as the host whose root is seen at `rootfs` would follow its links: an absolute target begins there,
/// not at our own root. Below `/proc/PID/root` it begins there. Otherwise the kernel does that.
#[must_use]
pub fn placed(store: &Arc<Store>, rootfs: &Path) -> Arc<Store> {
    let seen_path = links::placed(rootfs, store.seen_path.clone());
    if seen_path == store.seen_path {
        return Arc::clone(store);
    }
    Arc::new(Store { seen_path, ..(**store).clone() })
}

/// Chroma's one SQLite file.
pub const DATABASE_FILE: &str = "chroma.sqlite3";

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;
    use crate::clock;

    #[test]
    fn a_question_may_take_its_time_where_nobody_would_wait_for_it() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(DATABASE_FILE), "x").unwrap();
        let config = Arc::new(Config::default());
        let store = Arc::new(Store::new("main", dir.path()));
        let context = Context::new(&config, &store, &Arc::new(Host::new(&config)));
        let collect = &context.config.collect;
        // Where this user may not look into a Chroma of another, it is not known that nobody does.
        for (deep, most) in [(true, collect.check_deadline), (false, collect.deadline / 2)] {
            let time = context.question_time(deep);
            assert!([most, collect.statement_deadline].contains(&time), "{deep}: {time:?}");
        }
        let file = std::fs::File::options().append(true).open(dir.path().join(DATABASE_FILE));
        let mut holder =
            Command::new("sleep").arg("600").stdin(Stdio::from(file.unwrap())).spawn().unwrap();
        let began = clock::ticks();
        while context.question_time(true) != collect.statement_deadline {
            assert!(began.elapsed() < Duration::from_mins(2), "the holder is not seen");
            std::thread::sleep(Duration::from_millis(50));
        }
        holder.kill().unwrap();
        holder.wait().unwrap();
    }
}
