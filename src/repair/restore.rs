//! `restore`: a backup is unpacked beside the store, proven, and put in place; `undo` puts back what was there before. The exchange
//! itself is in [`super::swap`].

pub(super) mod mark;
mod stage;

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Serialize;

use super::{
    holders::{self, Free, Holds},
    moment::MomentError,
    quarantine::{self, Came, Origin, Quarantine, Record, State, Way},
    steps::Steps,
    swap::{self, Settled, SwapError},
};
use crate::{
    clock::{self, Timestamp},
    facts::error::chain,
    format::proc::parse_mountinfo,
    host::processes::{ProcessTable, walk},
    human,
    store::DATABASE_FILE,
};

/// What is to be done with a store.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The directory of the store: absolute, and without links.
    pub store: PathBuf,
    /// Whether losses that are told, or records written since, are accepted.
    pub accept_loss: bool,
    /// The operator says that no Chroma uses the store.
    pub chroma_is_stopped: bool,
    /// Only says what would be done.
    pub dry: bool,
    /// Of several stores in the backup that whose path ends with this.
    pub only: Option<String>,
}

/// What was done, or would be.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Which.
    pub outcome: Outcome,
    /// The directory of the store.
    pub store: PathBuf,
    /// The backup, as it was named.
    pub backup: String,
    /// Where the old content is; for an undo, what was restored.
    pub quarantine: Option<PathBuf>,
    /// How it is exchanged.
    pub way: Way,
    /// Why not in one call.
    pub reason: Option<String>,
    /// What comes back.
    pub collections: Vec<Came>,
    /// What does not.
    pub losses: Vec<String>,
    /// What was done or left out on the way.
    pub notes: Vec<String>,
    /// Of what moment the backup is.
    #[serde(serialize_with = "as_text")]
    pub moment: Option<Timestamp>,
    /// Which releases of Chroma open it.
    pub opened_by: Option<String>,
    /// What runs that ended half-way had left, and what became of it.
    pub settled: Vec<(PathBuf, Settled)>,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The backup is in place.
    Restored,
    /// It is in place since the run before, which had ended half-way.
    Finished,
    /// What was there before the last restore is in place again.
    Undone,
    /// A restore that had not begun to change the store was cleaned up.
    Cleaned,
    /// Nothing was done; it would be restored.
    WouldRestore,
    /// Nothing was done; it would be undone.
    WouldUndo,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// Somebody uses the store, or that cannot be told.
    #[error(transparent)]
    Held(#[from] Holds),
    /// Somebody uses the store, and it could not be copied as it was at one moment.
    #[error("{holds}, and it cannot be copied meanwhile: {}", chain(.source))]
    Busy {
        /// Who.
        holds: String,
        /// Why not.
        source: Box<MomentError>,
    },
    /// The exchange.
    #[error(transparent)]
    Swap(#[from] SwapError),
    /// The backup cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Unreadable {
        /// What.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The staged copy cannot be written. The store is as it was.
    #[error("cannot write {}: {source}; the store is as it was", .path.display())]
    Unwritable {
        /// Where.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The filesystem of the store is too small for it.
    #[error("{} has room for {}, and {} are needed", .path.display(), human::bytes(*.free), human::bytes(*.needed))]
    NoRoom {
        /// A directory on that filesystem.
        path: PathBuf,
        /// Bytes that are free.
        free: u64,
        /// Bytes that it needs.
        needed: u64,
    },
    /// There is nothing in it that Chroma would open.
    #[error("{} does not restore: {}", .backup.display(), .losses.join("; "))]
    NotRestorable {
        /// The backup.
        backup: PathBuf,
        /// Why.
        losses: Vec<String>,
    },
    /// Something of it would not come back, and nobody has said that this is accepted.
    #[error("{} would not bring back everything: {}", .backup.display(), .losses.join("; "))]
    Losses {
        /// The backup.
        backup: PathBuf,
        /// What.
        losses: Vec<String>,
    },
    /// Not everything could be looked at.
    #[error("it cannot be told whether {} restores: {}", .backup.display(), .why.join("; "))]
    Unproven {
        /// The backup.
        backup: PathBuf,
        /// Why not.
        why: Vec<String>,
    },
    /// There is nothing to undo.
    #[error("there is no restore of {} to undo", .store.display())]
    NothingToUndo {
        /// The store.
        store: PathBuf,
    },
    /// Chroma has written since; or that cannot be told.
    #[error("{}: {what} since the restore of {restored}", .store.display())]
    WrittenSince {
        /// The store.
        store: PathBuf,
        /// What was seen.
        what: String,
        /// When that was.
        restored: Timestamp,
    },
    /// The words of the command contradict each other.
    #[error("{what}")]
    Senseless {
        /// How.
        what: String,
        /// What to do.
        help: &'static str,
    },
    /// The new content is in place, and is not what was staged.
    #[error("{} is not what was staged: {what}", .store.display())]
    Changed {
        /// The store.
        store: PathBuf,
        /// How.
        what: String,
    },
    /// It was not wanted any more. The store is as it was.
    #[error("stopped; the store is as it was")]
    Stopped,
}

impl RestoreError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Held(holds) => holds.hint(),
            Self::Busy { .. } => "stop Chroma, then run this again".to_owned(),
            Self::Swap(error) => error.hint(),
            Self::Unreadable { .. } => {
                "look whether it is there, and run this as root or as its owner".to_owned()
            }
            Self::Unwritable { .. } => {
                "make room on the filesystem of the store, or run this as root or as its owner".to_owned()
            }
            Self::NoRoom { .. } => "make room on that filesystem, then run this again".to_owned(),
            Self::NotRestorable { .. } => {
                "take another backup, an older one if need be; nothing was changed".to_owned()
            }
            Self::Losses { .. } => {
                "take another backup, or accept this with --accept-loss; nothing was changed"
                    .to_owned()
            }
            Self::Unproven { .. } => "try again when that is mended; nothing was changed".to_owned(),
            Self::NothingToUndo { .. } => {
                "restores that can be undone have left a folder NAME.quarantine.TIME beside the store, or .chroma_exporter.quarantine.TIME in it".to_owned()
            }
            Self::WrittenSince { .. } => {
                "add --accept-loss to undo it all the same; what is in the store now goes into the quarantine".to_owned()
            }
            Self::Senseless { help, .. } => (*help).to_owned(),
            Self::Changed { .. } => {
                "stop whatever writes to it; then undo: chroma_exporter restore --undo --accept-loss".to_owned()
            }
            Self::Stopped => "run it again".to_owned(),
        }
    }

    /// Whether it was refused, or cannot be told, so that it may be right at another time.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        match self {
            Self::Held(_)
            | Self::Busy { .. }
            | Self::Losses { .. }
            | Self::Unproven { .. }
            | Self::NothingToUndo { .. }
            | Self::WrittenSince { .. }
            | Self::Senseless { .. }
            | Self::Stopped => true,
            Self::Swap(error) => matches!(
                error,
                SwapError::Refused { .. } | SwapError::Held(_) | SwapError::Came { .. }
            ),
            Self::Unreadable { .. }
            | Self::Unwritable { .. }
            | Self::NoRoom { .. }
            | Self::NotRestorable { .. }
            | Self::Changed { .. } => false,
        }
    }
}

/// Restores `backup`. Errs without a change to the store, or says in which state it is.
pub fn restore(
    backup: &Path,
    wish: &Wish,
    processes: &ProcessTable,
    steps: &Steps,
    now: Timestamp,
) -> Result<Report, RestoreError> {
    let unreadable = |source| RestoreError::Unreadable { path: backup.to_owned(), source };
    let source = backup.canonicalize().map_err(unreadable)?;
    apart(&source, &wish.store)?;
    let named = source.display().to_string();
    let mut report = Report::new(wish, named.clone());
    let left = settle(wish, processes, true, now)?;
    report.settled = left.settled;
    if let Some(record) = left.finished.filter(|record| !record.undo && record.backup == named) {
        report.outcome = Outcome::Finished;
        report.collections = record.collections;
        report.quarantine = newest(&wish.store, State::Restored).map(|one| one.path);
        return Ok(report);
    }
    let nobody = holders::free(&wish.store, processes, wish.chroma_is_stopped)?;
    let needed = stage::bytes(&source).map_err(unreadable)?;
    room(&wish.store, needed)?;
    if wish.dry {
        let (way, reason) = swap::preview(&wish.store, &own_mounts(), &processes.mounts())?;
        (report.way, report.reason) = (way, reason);
        return Ok(report);
    }
    // Whoever comes while it is being unpacked does not wait; it is asked again right before the exchange.
    drop(nobody);
    let mut quarantine = swap::begin(&wish.store, &named, now)?;
    let verified = match stage::prove(&source, &quarantine, wish, steps) {
        Ok(verified) => verified,
        Err(error) => {
            let left = quarantine.path().to_owned();
            if let Err(error) = swap::discard(quarantine) {
                tracing::warn!(dir = %left.display(), %error, "Staged copy not removed.");
            }
            return Err(error);
        }
    };
    report.losses = verified.losses.iter().map(ToString::to_string).collect();
    report.notes = verified.notes;
    report.moment = verified.moment;
    report.opened_by = verified.opened_by;
    report.collections = verified
        .collections
        .into_iter()
        .map(|one| Came { name: one.name, records: one.records, vectors: one.vectors })
        .collect();
    let mark = mark::of(&quarantine.incoming().join(DATABASE_FILE));
    swap::describe(&mut quarantine, mark, report.collections.clone());
    exchange(quarantine, wish, processes, &mut report)?;
    report.outcome = Outcome::Restored;
    Ok(report)
}

/// Puts what is in the store away and leaves an empty directory, in which Chroma begins a new store. Errs as [`restore`] does.
pub fn empty(
    wish: &Wish,
    processes: &ProcessTable,
    now: Timestamp,
) -> Result<Report, RestoreError> {
    let mut report = Report::new(wish, String::new());
    report.settled = settle(wish, processes, true, now)?.settled;
    let mut quarantine = swap::begin(&wish.store, NOTHING, now)?;
    swap::made(&mut quarantine, Origin::Nothing, Vec::new());
    // An exchange ends with a database in its place. SQLite takes one without a byte for a new one, should this end here.
    let path = quarantine.incoming().join(DATABASE_FILE);
    fs::File::create_new(&path).map_err(|source| RestoreError::Unwritable { path, source })?;
    exchange(quarantine, wish, processes, &mut report)?;
    let free = holders::free(&wish.store, processes, wish.chroma_is_stopped)?;
    swap::take_unwritten(&wish.store, &free)?;
    report.outcome = Outcome::Restored;
    Ok(report)
}

/// Exchanges what is in a quarantine, and looks at what is in place then.
/// Errs when somebody uses the store, or the exchange cannot be made or brought to its end.
fn exchange(
    quarantine: Quarantine,
    wish: &Wish,
    processes: &ProcessTable,
    report: &mut Report,
) -> Result<(), RestoreError> {
    let unreadable = |source| RestoreError::Unreadable { path: wish.store.clone(), source };
    let files = stage::files(&quarantine.incoming()).map_err(unreadable)?;
    let plan = swap::plan(quarantine, &own_mounts(), &processes.mounts())?;
    let free = match holders::free(&wish.store, processes, wish.chroma_is_stopped) {
        Ok(free) => free,
        Err(holds) => {
            // What is left is named by the next run.
            drop(plan.discard());
            return Err(holds.into());
        }
    };
    report.reason = plan.reason().map(str::to_owned);
    let done = swap::execute(plan, &free, clock::now())?;
    drop(free);
    (report.way, report.quarantine) = (done.way, done.quarantine);
    let found = stage::files(&wish.store).map_err(unreadable)?;
    let missing = files.iter().find(|(name, bytes)| found.get(*name) != Some(bytes));
    match missing {
        None => Ok(()),
        Some((name, bytes)) => Err(RestoreError::Changed {
            store: wish.store.clone(),
            what: match found.get(name) {
                None => format!("{name} is missing"),
                Some(now) => format!("{name} has {now} bytes in place of {bytes}"),
            },
        }),
    }
}

/// Undoes the last restore that is not undone. Errs as [`restore`] does.
pub fn undo(wish: &Wish, processes: &ProcessTable, now: Timestamp) -> Result<Report, RestoreError> {
    let left = settle(wish, processes, false, now)?;
    let mut report = Report::new(wish, String::new());
    report.settled = left.settled;
    if let Some(record) = left.back {
        // A restore that had not come to its end: it is undone by that alone.
        report.backup = record.backup;
        report.outcome = Outcome::Undone;
        return Ok(report);
    }
    let last = newest(&wish.store, State::Restored)
        .ok_or_else(|| RestoreError::NothingToUndo { store: wish.store.clone() })?;
    report.backup.clone_from(&last.record.backup);
    if !wish.accept_loss {
        let since = written_since(&wish.store, &last.record);
        if let Some(what) = since {
            return Err(RestoreError::WrittenSince {
                store: wish.store.clone(),
                what: what.to_owned(),
                restored: last.record.changed,
            });
        }
    }
    if wish.dry {
        drop(holders::free(&wish.store, processes, wish.chroma_is_stopped)?);
        let (way, reason) = swap::preview(&wish.store, &own_mounts(), &processes.mounts())?;
        (report.way, report.reason) = (way, reason);
        report.quarantine = Some(last.path);
        report.outcome = Outcome::WouldUndo;
        return Ok(report);
    }
    exchange(swap::undo(last)?, wish, processes, &mut report)?;
    report.outcome = Outcome::Undone;
    Ok(report)
}

/// Brings to its end what an earlier run left half-way, and nothing else. Errs when there is nothing.
pub fn resume(
    wish: &Wish,
    processes: &ProcessTable,
    now: Timestamp,
) -> Result<Report, RestoreError> {
    let left = swap::interrupted(&wish.store);
    let mut report = Report::new(wish, String::new());
    match left.last() {
        None => {
            return Err(RestoreError::Senseless {
                what: format!("no restore of {} was cut off", wish.store.display()),
                help: "name the backup that is to be put in place",
            });
        }
        Some(left) => report.backup.clone_from(&left.record.backup),
    }
    if wish.dry {
        return Ok(report);
    }
    let left = settle(wish, processes, true, now)?;
    report.settled = left.settled;
    report.outcome = match left.finished {
        Some(record) if record.undo => Outcome::Undone,
        Some(record) => {
            report.collections = record.collections;
            Outcome::Finished
        }
        None => Outcome::Cleaned,
    };
    let state = if report.outcome == Outcome::Undone { State::Undone } else { State::Restored };
    report.quarantine = newest(&wish.store, state).map(|one| one.path);
    Ok(report)
}

/// What Chroma has done to the store since it was restored; `None` when nothing.
fn written_since(store: &Path, record: &Record) -> Option<&'static str> {
    let now = mark::of(&store.join(DATABASE_FILE));
    match (&record.mark, now) {
        (Some(then), Some(now)) if *then == now => None,
        (Some(then), Some(now)) if then.queue == now.queue => Some("collections were changed"),
        (Some(_), Some(_)) => Some("records were written"),
        _ => Some("it cannot be told whether records were written"),
    }
}

fn newest(store: &Path, state: State) -> Option<Quarantine> {
    quarantine::all(store).0.into_iter().find(|one| one.record.state == state)
}

/// What became of the folders of runs that ended half-way.
#[derive(Debug, Default)]
pub(super) struct Left {
    pub(super) settled: Vec<(PathBuf, Settled)>,
    /// One that was brought to its end.
    finished: Option<Record>,
    /// A restore of which nothing is left.
    back: Option<Record>,
}

/// Ends what earlier runs left half-way. Errs when the store is in use, or one cannot be ended.
pub(super) fn settle(
    wish: &Wish,
    processes: &ProcessTable,
    onward: bool,
    now: Timestamp,
) -> Result<Left, RestoreError> {
    let mut all = Left::default();
    for left in swap::interrupted(&wish.store) {
        let free: Free = holders::free(&wish.store, processes, wish.chroma_is_stopped)?;
        let (path, record) = (left.path.clone(), left.record.clone());
        // An undo that was cut off is wanted by whoever undoes.
        let how = swap::settle(left, onward || record.undo, &free, now)?;
        match how {
            Settled::Finished => all.finished = Some(record),
            Settled::Discarded | Settled::GoneBack if !record.undo => all.back = Some(record),
            Settled::Discarded | Settled::GoneBack => {}
        }
        all.settled.push((path, how));
    }
    Ok(all)
}

/// A backup is no part of the store, nor the store of the backup. Errs when one lies in the other.
fn apart(backup: &Path, store: &Path) -> Result<(), RestoreError> {
    let own = backup.strip_prefix(store).ok().map(|below| below.components().next().is_none());
    let what = match own {
        Some(true) => "is the store itself",
        // What an earlier restore put away in there.
        Some(false) if is_quarantined(backup, store) => return Ok(()),
        Some(false) => "lies in the store",
        None if store.starts_with(backup) => "has the store in it",
        None => return Ok(()),
    };
    Err(RestoreError::Senseless {
        what: format!("{} {what}", backup.display()),
        help: "name a backup that lies elsewhere",
    })
}

fn is_quarantined(backup: &Path, store: &Path) -> bool {
    let below = backup.strip_prefix(store).ok();
    let first = below.and_then(|below| below.components().next());
    first.is_some_and(|first| quarantine::is_ours_inside(first.as_os_str()))
}

/// Errs when there is no room for so many bytes on the filesystem of the store.
fn room(store: &Path, needed: u64) -> Result<(), RestoreError> {
    let place = quarantine::Place::of(store)
        .map_err(|source| RestoreError::Unreadable { path: store.to_owned(), source })?;
    room_in(place.above(), needed)
}

/// Errs when there is no room for so many bytes on the filesystem of a directory.
pub(super) fn room_in(path: &Path, needed: u64) -> Result<(), RestoreError> {
    let path = path.to_owned();
    let unreadable = |source: io::Error| RestoreError::Unreadable { path: path.clone(), source };
    let room = rustix::fs::statvfs(&path).map_err(|error| unreadable(error.into()))?;
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    if free < needed {
        return Err(RestoreError::NoRoom { path: path.clone(), free, needed });
    }
    Ok(())
}

pub(super) fn own_mounts() -> Vec<crate::format::proc::Mount> {
    walk::read_text(Path::new("/proc/self/mountinfo"))
        .map(|text| parse_mountinfo(&text))
        .unwrap_or_default()
}

impl Report {
    fn new(wish: &Wish, backup: String) -> Self {
        Self {
            outcome: Outcome::WouldRestore,
            store: wish.store.clone(),
            backup,
            quarantine: None,
            way: Way::default(),
            reason: None,
            collections: Vec::new(),
            losses: Vec::new(),
            notes: Vec::new(),
            moment: None,
            opened_by: None,
            settled: Vec::new(),
        }
    }
}

/// The directory of a store as it is worked on: absolute, without links. It need not exist, the one above must. Errs when it is
/// a link that leads nowhere, or cannot be followed.
pub fn place(store: &Path) -> io::Result<PathBuf> {
    match store.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let name = store.file_name().ok_or(error)?;
            let above = store.parent().filter(|above| !above.as_os_str().is_empty());
            let place = above.unwrap_or(Path::new(".")).canonicalize()?.join(name);
            // A link that leads nowhere.
            match fs::symlink_metadata(&place) {
                Ok(_) => Err(io::Error::other("it is a link that leads nowhere")),
                Err(_) => Ok(place),
            }
        }
        place => place,
    }
}

/// A moment as RFC 3339, or nothing. Errs when the serializer does.
#[expect(clippy::ref_option, reason = "the form that serde asks for")]
fn as_text<S: serde::Serializer>(
    moment: &Option<Timestamp>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    moment.map(|moment| moment.to_string()).serialize(serializer)
}

/// What the folder of the old content says that was put in its place.
const NOTHING: &str = "an empty store";

/// Nobody waits longer for a read of a database that nobody uses.
const PATIENCE: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests;
