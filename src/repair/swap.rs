//! The exchange of a store's content: what was staged and proven goes in, what was there goes into a quarantine. A kill, a power cut
//! or a full disk at any instant leaves one or the other, whole, or a store that no Chroma can open until the next run has gone on
//! or gone back; never one that opens half, or empty.
//!
//! Where the directory can be renamed, two directories change places in one call ([`Way::Directory`]). Where it cannot (the root of a
//! volume, a directory that a container has mounted, the lower layer of an overlay, a filesystem without exchanges), files move one
//! by one while a link to the directory itself stands in place of the database ([`Way::Files`]): SQLite cannot open that, makes no
//! new database there, and finds no journal beside it. All that needs is `rename`, so that it works everywhere.
//!
//! `docs/design/restore.md` has the order of the steps and what was refused.

mod exchange;
mod files;
mod plan;

use std::{
    io,
    path::{Path, PathBuf},
};

use rustix::io::Errno;

use super::{
    attributes,
    hands::{self, Dir, Hands},
    holders::{self, Free, Holds},
    quarantine::{self, Came, Mark, Origin, Place, Quarantine, State, Way},
};
use crate::{
    clock::Timestamp,
    store::{DATABASE_FILE, restores},
};

pub use plan::{Plan, plan, preview};

/// What was done.
#[derive(Debug, PartialEq, Eq)]
pub struct Done {
    /// Where the old content is now; `None` when there was none.
    pub quarantine: Option<PathBuf>,
    /// How it was done.
    pub way: Way,
}

/// Why nothing was exchanged, or not all.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    /// The place does not allow it.
    #[error("{what}")]
    Refused {
        /// Where and why.
        what: String,
        /// What to do.
        help: String,
    },
    /// Somebody uses the store.
    #[error(transparent)]
    Held(#[from] Holds),
    /// Somebody came to write to the database while it was exchanged. The store is as it was.
    #[error("a process opened {} while it was exchanged; the store is as it was", .database.display())]
    Came {
        /// The database.
        database: PathBuf,
    },
    /// The disk, before anything of the store was touched, or everything is back in place.
    #[error("{}: {source}; the store is as it was", .path.display())]
    AsBefore {
        /// Where it was at work.
        path: PathBuf,
        /// What it answered.
        source: io::Error,
    },
    /// The disk, when everything was in place: only the folder does not say so yet.
    #[error("the new content is in place, but {} does not say so yet: {source}", .path.display())]
    Untold {
        /// The folder.
        path: PathBuf,
        /// What the disk answered.
        source: io::Error,
    },
    /// The disk, and the way back failed too. No Chroma can open the store until the next run.
    #[error("{}: {source}; going back failed too: {back}", .path.display())]
    Stuck {
        /// The folder that says how far it is.
        path: PathBuf,
        /// What it answered.
        source: io::Error,
        /// What it answered on the way back.
        back: io::Error,
    },
}

impl SwapError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Refused { help, .. } => help.clone(),
            Self::Held(holds) => holds.hint(),
            Self::Came { .. } => {
                "stop whatever starts it again (systemctl stop, pm2 stop, docker stop), then run this again".to_owned()
            }
            Self::AsBefore { source, .. } if is_full(source) => {
                "make room on the filesystem of the store, then run this again".to_owned()
            }
            Self::AsBefore { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "run it as root, or as the user that owns the store".to_owned()
            }
            Self::AsBefore { .. } => "look at the disk (dmesg), then run this again".to_owned(),
            Self::Untold { .. } => {
                "make room on the filesystem of the store; the next restore ends it".to_owned()
            }
            Self::Stuck { .. } => {
                "mend the disk (dmesg, df), then run this again: it goes on where it stopped".to_owned()
            }
        }
    }

    fn before(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        |source| Self::AsBefore { path, source }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOSPC | Errno::DQUOT))
}

/// Makes the folder that new content is staged in, [`Quarantine::incoming`]. `store` is a path without links, which need not
/// exist. Errs when nothing can be made there; nothing is left then.
pub fn begin(store: &Path, backup: &str, now: Timestamp) -> Result<Quarantine, SwapError> {
    let before = || SwapError::before(store);
    let place = Place::of(store).map_err(before())?;
    let mut quarantine =
        Quarantine::begin(&Hands::default(), &place, backup, now).map_err(before())?;
    quarantine.lock = holders::lock(&quarantine.path)?;
    Ok(quarantine)
}

/// Takes away what was staged; what was in a store stays. Errs when the disk does.
pub fn discard(quarantine: Quarantine) -> io::Result<()> {
    if quarantine.record.undo {
        return Ok(());
    }
    quarantine.discard(&Hands::default())
}

/// Notes what is known of the staged content, for whoever asks later.
pub fn describe(quarantine: &mut Quarantine, mark: Option<Mark>, collections: Vec<Came>) {
    (quarantine.record.mark, quarantine.record.collections) = (mark, collections);
}

/// Notes that the staged content is no backup, and what was done to it.
pub fn made(quarantine: &mut Quarantine, came: Origin, done: Vec<String>) {
    (quarantine.record.came, quarantine.record.done) = (came, done);
}

/// The plan by which what was there before goes back. Errs when there is nothing that could.
pub fn undo(mut quarantine: Quarantine) -> Result<Quarantine, SwapError> {
    let refused = |what: &str| SwapError::Refused {
        what: format!("{}: {what}", quarantine.path.display()),
        help: "restore a backup instead, or put the files back by hand while Chroma is stopped"
            .to_owned(),
    };
    if quarantine.record.state != State::Restored {
        return Err(refused("it holds no content that could go back"));
    }
    if !quarantine.record.had_database {
        return Err(refused("there was no database before that restore"));
    }
    quarantine.lock = holders::lock(&quarantine.path)?;
    quarantine.record.undo = true;
    Ok(quarantine)
}

/// Removes a database without a byte, which nobody has open. Errs when it cannot be removed.
pub fn take_unwritten(store: &Path, _: &Free) -> Result<(), SwapError> {
    let take = || {
        let dir = Dir::open(store)?;
        let meta = std::fs::symlink_metadata(store.join(DATABASE_FILE))?;
        if meta.is_file() && meta.len() == 0 {
            let hands = Hands::default();
            hands.remove((&dir, DATABASE_FILE))?;
            hands.sync(&dir)?;
        }
        Ok(())
    };
    take().map_err(SwapError::before(store))
}

/// Exchanges. `free` is that nobody uses the store, asked just before. Errs when it did not come to its end; the error says
/// whether the store is as it was.
pub fn execute(plan: Plan, free: &Free, now: Timestamp) -> Result<Done, SwapError> {
    execute_by(&Hands::default(), plan.quarantine, free, now)
}

fn execute_by(
    hands: &Hands,
    mut quarantine: Quarantine,
    free: &Free,
    now: Timestamp,
) -> Result<Done, SwapError> {
    let path = quarantine.path.clone();
    let begun = prepare(&quarantine).and_then(|()| quarantine.enter(hands, State::Swapping, now));
    if let Err(source) = begun {
        if !quarantine.record.undo {
            quarantine.record.state = State::Staging;
            // What is left is named by the next run.
            drop(quarantine.discard(hands));
        }
        return Err(SwapError::AsBefore { path, source });
    }
    if let Err(source) = forward(hands, &mut quarantine, free) {
        return Err(retreat(hands, quarantine, source, now));
    }
    finish(hands, quarantine, now)
}

/// What is staged gets owner and modes of what it replaces, and is on the disk. Errs when it cannot be read, given away or synced.
fn prepare(quarantine: &Quarantine) -> io::Result<()> {
    let record = &quarantine.record;
    if record.undo {
        return Ok(()); // it was there before
    }
    let old = (record.way != Way::Fresh).then_some(&*record.store);
    let above = record.store.parent().unwrap_or(&record.store);
    attributes::adopt(old, above, &quarantine.incoming()).map_err(|error| {
        let owner = attributes::owner(old.unwrap_or(above));
        match (error.kind(), owner) {
            (io::ErrorKind::PermissionDenied, Ok(owner)) => io::Error::new(
                error.kind(),
                format!("its files belong to user {owner}, and only root may give files away"),
            ),
            _ => error,
        }
    })
}

/// Whether an exchange of directories is not to be had here.
fn needs_files(error: &io::Error) -> bool {
    use Errno as E;
    let codes = [E::XDEV, E::INVAL, E::NOSYS, E::NOTSUP, E::BUSY, E::PERM, E::ACCESS];
    Errno::from_io_error(error).is_some_and(|code| codes.contains(&code))
}

/// Does what is left to do. Errs when a call does; the next run goes on from there.
fn forward(hands: &Hands, quarantine: &mut Quarantine, free: &Free) -> io::Result<()> {
    match quarantine.record.way {
        Way::Directory => match exchange::forward(hands, quarantine, free) {
            // Nothing has moved.
            Err(error) if is::<NoExchange>(&error) => {
                quarantine.record.way = Way::Files;
                quarantine.save(hands)?;
                files::forward(hands, quarantine, free)
            }
            result => result,
        },
        Way::Files => files::forward(hands, quarantine, free),
        Way::Fresh => exchange::put(hands, quarantine),
    }
}

/// Whether an error is one of ours.
fn is<E: std::error::Error + 'static>(error: &io::Error) -> bool {
    error.get_ref().and_then(|inner| inner.downcast_ref::<E>()).is_some()
}

/// Directories cannot be exchanged here.
#[derive(Debug, thiserror::Error)]
#[error("directories cannot be exchanged here: {0}")]
struct NoExchange(io::Error);

/// Undoes what was done. Errs when a call does; the next run goes on from there.
fn backward(hands: &Hands, quarantine: &Quarantine) -> io::Result<()> {
    match quarantine.record.way {
        Way::Directory => exchange::backward(hands, quarantine),
        Way::Files => files::backward(hands, quarantine),
        Way::Fresh => exchange::take(hands, quarantine),
    }
}

/// Goes back after an error, and says what came of it.
fn retreat(hands: &Hands, quarantine: Quarantine, source: io::Error, now: Timestamp) -> SwapError {
    let path = quarantine.path.clone();
    let database = quarantine.record.store.join(DATABASE_FILE);
    let came = is::<SomebodyCame>(&source);
    match go_back(hands, quarantine, now) {
        Ok(()) if came => SwapError::Came { database },
        Ok(()) => SwapError::AsBefore { path, source },
        Err(back) => SwapError::Stuck { path, source, back },
    }
}

fn go_back(hands: &Hands, mut quarantine: Quarantine, now: Timestamp) -> io::Result<()> {
    backward(hands, &quarantine)?;
    if quarantine.record.undo {
        quarantine.record.undo = false;
        quarantine.enter(hands, State::Restored, now)
    } else {
        if quarantine.enter(hands, State::Staging, now).is_err() {
            // On a full disk nothing can be written; without its record nobody goes on with it.
            quarantine.forget(hands)?;
        }
        quarantine.discard(hands)
    }
}

/// Everything is in place: says so, and gives the folder the name that it keeps. Errs when that cannot be written.
fn finish(hands: &Hands, mut quarantine: Quarantine, now: Timestamp) -> Result<Done, SwapError> {
    let way = quarantine.record.way;
    let path = quarantine.path.clone();
    let state = if quarantine.record.undo { State::Undone } else { State::Restored };
    let untold = |source: io::Error| SwapError::Untold { path: path.clone(), source };
    quarantine.enter(hands, state, now).map_err(untold)?;
    tidy(hands, quarantine).map(|quarantine| Done { quarantine, way }).map_err(untold)
}

/// Folders that are empty go, and the rest gets the name that it keeps; when there is no rest, everything goes.
/// Errs when one cannot be removed or renamed.
fn tidy(hands: &Hands, mut quarantine: Quarantine) -> io::Result<Option<PathBuf>> {
    let case = Dir::open(&quarantine.path)?;
    for name in [restores::UNPACKED, restores::NEW, restores::OLD, restores::UNDONE] {
        match hands.remove_dir((&case, name)) {
            Err(error)
                if !matches!(
                    Errno::from_io_error(&error),
                    Some(Errno::NOENT | Errno::NOTEMPTY | Errno::EXIST)
                ) =>
            {
                return Err(error);
            }
            _ => {}
        }
    }
    if [restores::OLD, restores::UNDONE].iter().all(|name| !case.has(name).unwrap_or(true)) {
        return quarantine.discard(hands).map(|()| None);
    }
    quarantine.keep(hands)?;
    Ok(Some(quarantine.path))
}

/// What a run that ended half-way has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Settled {
    /// Nothing of the store was changed yet: what was staged was taken away.
    Discarded,
    /// The exchange was ended: the new content is in place.
    Finished,
    /// The exchange was undone: the old content is in place.
    GoneBack,
}

/// The folders of runs that ended half-way, the oldest first.
#[must_use]
pub fn interrupted(store: &Path) -> Vec<Quarantine> {
    let (mut all, unread) = quarantine::all(store);
    for (path, _) in unread {
        quarantine::sweep(&path);
    }
    all.reverse();
    all.retain(|one| match one.record.state {
        State::Staging | State::Swapping => true,
        State::Restored | State::Undone => one.is_named_for_work(),
    });
    all
}

/// Ends what a run left half-way: forward, or back. Errs when another run is still at work on it.
pub fn settle(
    quarantine: Quarantine,
    onward: bool,
    free: &Free,
    now: Timestamp,
) -> Result<Settled, SwapError> {
    settle_by(&Hands::default(), quarantine, onward, free, now)
}

fn settle_by(
    hands: &Hands,
    mut quarantine: Quarantine,
    onward: bool,
    free: &Free,
    now: Timestamp,
) -> Result<Settled, SwapError> {
    quarantine.lock = holders::lock(&quarantine.path)?;
    let path = quarantine.path.clone();
    let stuck = |source: io::Error| SwapError::Stuck {
        path: path.clone(),
        source,
        back: io::Error::other("not tried"),
    };
    match quarantine.record.state {
        State::Staging => {
            quarantine.discard(hands).map_err(SwapError::before(&path))?;
            Ok(Settled::Discarded)
        }
        State::Restored | State::Undone => {
            tidy(hands, quarantine).map_err(stuck)?;
            Ok(Settled::Finished)
        }
        // The store is as it was, and may have been used since: what was planned for it no longer holds.
        State::Swapping if !has_begun(&quarantine).map_err(stuck)? => {
            go_back(hands, quarantine, now).map_err(stuck)?;
            Ok(Settled::Discarded)
        }
        State::Swapping if onward || is_in_place(&quarantine).map_err(stuck)? => {
            forward(hands, &mut quarantine, free).map_err(stuck)?;
            finish(hands, quarantine, now)?;
            Ok(Settled::Finished)
        }
        State::Swapping => {
            go_back(hands, quarantine, now).map_err(stuck)?;
            Ok(Settled::GoneBack)
        }
    }
}

/// Whether anything of the store was changed. Errs when the directories cannot be read.
fn has_begun(quarantine: &Quarantine) -> io::Result<bool> {
    match quarantine.record.way {
        Way::Files => files::has_begun(quarantine),
        Way::Directory => exchange::has_begun(quarantine),
        Way::Fresh => Ok(!quarantine.incoming().exists()),
    }
}

/// Whether the new content is all in place, and only the word for it is missing. Errs when the directories cannot be read.
fn is_in_place(quarantine: &Quarantine) -> io::Result<bool> {
    match quarantine.record.way {
        Way::Files => files::is_in_place(quarantine),
        Way::Directory | Way::Fresh => Ok(!quarantine.incoming().exists()),
    }
}

/// What stops an exchange when somebody has come.
#[derive(Debug, thiserror::Error)]
#[error("somebody has opened the database meanwhile")]
struct SomebodyCame;

fn alone(free: &Free) -> io::Result<()> {
    if free.stands() { Ok(()) } else { Err(io::Error::other(SomebodyCame)) }
}

#[cfg(test)]
mod tests;
