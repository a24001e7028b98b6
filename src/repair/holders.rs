//! Whether anybody uses a store: nobody may, while its content is exchanged. `/proc` says who on this host holds the database; the
//! kernel's lease also sees into other containers. What cannot be told is a refusal.

use std::{
    fmt,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{fs::FlockOperation, io::Errno};
use sqlite_live::lease::{Lease, NoLease, Writers};

use crate::{
    host::processes::{FileId, Holder, ProcessTable, Walk},
    human::plain,
    store::{DATABASE_FILE, database::Stamp},
};

/// Nobody uses the store. As long as this lives nobody begins to without being noticed, where the kernel gives leases, and no
/// second one of us exchanges anything.
#[derive(Debug)]
pub struct Free {
    lease: Option<Lease>,
    _locks: Vec<File>,
}

impl Free {
    /// Whether nobody has come meanwhile to write to the database that was there in the beginning. Whoever has come waits, so
    /// that nothing is lost by going back.
    #[must_use]
    pub fn stands(&self) -> bool {
        self.lease.as_ref().is_none_or(|lease| lease.stands().unwrap_or(false))
    }

    /// For tests of what happens to a store that nobody asks about.
    #[cfg(test)]
    pub(super) const fn unchecked() -> Self {
        Self { lease: None, _locks: Vec::new() }
    }
}

/// A process that uses a store.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct User {
    /// Process id, as the host counts.
    pub pid: u32,
    /// Its command line, or its short name where that cannot be read.
    pub command: String,
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} ({})", self.pid, plain(&self.command))
    }
}

/// Why nothing may be exchanged.
#[derive(Debug, thiserror::Error)]
pub enum Holds {
    /// These processes have the database open for writing, or are a Chroma server that has it open.
    #[error("{} has {} open{}", .users[0], .database.display(), others(.users))]
    Held {
        /// The database.
        database: PathBuf,
        /// At least one.
        users: Vec<User>,
    },
    /// These processes still write to a database that was deleted or moved away from here.
    #[error("{} still writes to a {} that was deleted{}", .users[0], .database.display(), others(.users))]
    Deleted {
        /// What the database was called.
        database: PathBuf,
        /// At least one.
        users: Vec<User>,
    },
    /// Somebody whom `/proc` does not show has it open.
    #[error("a process that cannot be seen from here, in another container, has {} open", .database.display())]
    Elsewhere {
        /// The database.
        database: PathBuf,
    },
    /// Somebody holds the lock of the directory: another restore, or a server that `guard` started.
    #[error("{} holds the lock of {}{}", lock_holder(.users), .directory.display(), others(.users))]
    Locked {
        /// The directory.
        directory: PathBuf,
        /// Who, where that can be seen.
        users: Vec<User>,
    },
    /// It cannot be told.
    #[error("it cannot be told whether a Chroma uses {}: {why}", .directory.display())]
    Unknown {
        /// The directory of the store.
        directory: PathBuf,
        /// Why not.
        why: String,
    },
}

fn lock_holder(users: &[User]) -> String {
    users.first().map_or_else(|| "another program".to_owned(), User::to_string)
}

fn others(users: &[User]) -> String {
    match users.len() {
        0 | 1 => String::new(),
        2 => ", and one more process".to_owned(),
        more => format!(", and {} more processes", more - 1),
    }
}

impl Holds {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> String {
        match self {
            Self::Locked { users, .. } if users.is_empty() => {
                "wait until it has ended; /proc/locks names it in a line with FLOCK".to_owned()
            }
            Self::Held { users, .. } | Self::Deleted { users, .. } | Self::Locked { users, .. } => {
                let pids: Vec<String> = users.iter().map(|user| user.pid.to_string()).collect();
                format!(
                    "stop it the way it was started (systemctl stop, docker stop, pm2 stop), or with: kill {}",
                    pids.join(" ")
                )
            }
            Self::Elsewhere { .. } => {
                "stop the container that has this directory mounted: docker ps, then docker stop"
                    .to_owned()
            }
            Self::Unknown { .. } => format!(
                "run it as root on the host; or, when you are sure that no Chroma runs on this directory, add {CHROMA_STOPPED_FLAG}"
            ),
        }
    }

    /// Who it is, where that is known.
    #[must_use]
    pub fn users(&self) -> &[User] {
        match self {
            Self::Held { users, .. } | Self::Deleted { users, .. } | Self::Locked { users, .. } => {
                users
            }
            _ => &[],
        }
    }
}

/// Makes sure that nobody uses the store in `dir`, a path without links, and keeps it so. `chroma_is_stopped` is that the operator says so,
/// which counts where it cannot be seen, and not against what is seen. Errs with who uses it, or with why that is not known.
pub fn free(dir: &Path, processes: &ProcessTable, chroma_is_stopped: bool) -> Result<Free, Holds> {
    let locks = match fs::symlink_metadata(dir) {
        Ok(_) => lock_of(dir, processes)?.into_iter().collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(unknown(dir, &error)),
    };
    let lease = unused(dir, processes, chroma_is_stopped)?;
    Ok(Free { lease, _locks: locks })
}

/// Makes sure that nobody uses the store in `dir`, whoever has its lock. Nobody begins to without being noticed as long as the
/// lease lives, where the kernel gives one. Errs when somebody does, and when that cannot be told.
pub fn unused(
    dir: &Path,
    processes: &ProcessTable,
    chroma_is_stopped: bool,
) -> Result<Option<Lease>, Holds> {
    let database = dir.join(DATABASE_FILE);
    match fs::symlink_metadata(&database) {
        Ok(meta) if meta.is_file() => {
            held(&database, Stamp::of(&meta).id, processes, chroma_is_stopped)
                .map_err(|obstacle| obstacle.of(dir))
        }
        // What stands in place of the database is nothing that a Chroma could have open.
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            deleted(dir, &database, processes, chroma_is_stopped)
                .map_err(|obstacle| obstacle.of(dir))?;
            Ok(None)
        }
        Err(error) => Err(unknown(dir, &error)),
    }
}

fn unknown(dir: &Path, error: &io::Error) -> Holds {
    Holds::Unknown { directory: dir.to_owned(), why: error.to_string() }
}

/// Takes the lock of a directory, and waits for it no longer than half a second. `None` where the filesystem has no such locks.
/// Errs when the directory cannot be opened, or stays locked.
pub(super) fn lock(dir: &Path) -> Result<Option<File>, Holds> {
    let locked = File::open(dir).map_err(|error| unknown(dir, &error))?;
    for _ in 0..LOCK_TRIES {
        match rustix::fs::flock(&locked, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(locked)),
            // A look at what a restore has left holds it for an instant.
            Err(Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
            Err(_) => return Ok(None),
        }
    }
    Err(Holds::Locked { directory: dir.to_owned(), users: Vec::new() })
}

const LOCK_TRIES: u32 = 25;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// The same, and whoever has it is named, as far as that can be seen. Errs when somebody has it, or the directory cannot be
/// opened.
pub fn lock_of(dir: &Path, processes: &ProcessTable) -> Result<Option<File>, Holds> {
    match lock(dir) {
        Err(Holds::Locked { directory, .. }) => {
            let users = lockers(&directory, processes);
            Err(Holds::Locked { directory, users })
        }
        other => other,
    }
}

/// The processes that hold the lock of a directory: whoever took it, or inherited its descriptor.
fn lockers(dir: &Path, processes: &ProcessTable) -> Vec<User> {
    let Ok(meta) = fs::metadata(dir) else { return Vec::new() };
    let file = Stamp::of(&meta).id;
    let Ok(walk) = processes.walk(&[file], &[], Duration::ZERO) else { return Vec::new() };
    let locks = |holder: &&Holder| {
        let mut numbers = holder.descriptors.iter();
        numbers.any(|number| processes.holds_flock(holder.pid, *number))
    };
    walk.holders(file).iter().filter(locks).map(|holder| user(processes, holder)).collect()
}

/// A [`Holds`] without its directory.
enum Obstacle {
    Holds(Holds),
    Unknown(String),
}

impl Obstacle {
    fn of(self, dir: &Path) -> Holds {
        match self {
            Self::Holds(holds) => holds,
            Self::Unknown(why) => Holds::Unknown { directory: dir.to_owned(), why },
        }
    }
}

/// The lease on a database that nobody has open; `None` where there are no leases, but all processes were seen or somebody says
/// that none uses it. Errs when somebody has, or that cannot be told.
fn held(
    database: &Path,
    file: FileId,
    processes: &ProcessTable,
    chroma_is_stopped: bool,
) -> Result<Option<Lease>, Obstacle> {
    let walk = processes.walk(&[file], &[], Duration::ZERO);
    if let Ok(walk) = &walk {
        let holders = walk.holders(file);
        let users: Vec<User> = holders
            .iter()
            .filter(|holder| holder.writes || holder.server)
            .map(|holder| user(processes, holder))
            .collect();
        if !users.is_empty() {
            return Err(Obstacle::Holds(Holds::Held { database: database.to_owned(), users }));
        }
    }
    let writers = Lease::take(database).map_err(|error| Obstacle::Unknown(error.to_string()))?;
    let reason = match writers {
        Writers::None(lease) => return Ok(Some(lease)),
        Writers::Some => {
            return Err(Obstacle::Holds(Holds::Elsewhere { database: database.to_owned() }));
        }
        Writers::Unknown(reason) => reason,
    };
    if chroma_is_stopped {
        return Ok(None);
    }
    match (reason, walk) {
        (reason @ NoLease::Remote, _) => Err(Obstacle::Unknown(reason.to_string())),
        (_, Ok(walk)) => seen_all(processes, &walk).map(|()| None),
        (reason, Err(error)) => Err(Obstacle::Unknown(format!("{reason}; {error}"))),
    }
}

/// Errs when somebody writes to a deleted database of this name, or when that cannot be told.
fn deleted(
    dir: &Path,
    database: &Path,
    processes: &ProcessTable,
    chroma_is_stopped: bool,
) -> Result<(), Obstacle> {
    // Where the directory is missing too, files of it were on the filesystem of the one above.
    let above = dir.ancestors().find_map(|dir| fs::metadata(dir).ok());
    let device = above.map(|meta| Stamp::of(&meta).id.device);
    let Some(device) = device else { return Ok(()) };
    let walk = match processes.walk(&[], &[device], Duration::ZERO) {
        Ok(walk) => walk,
        Err(_) if chroma_is_stopped => return Ok(()),
        Err(error) => return Err(Obstacle::Unknown(error.to_string())),
    };
    let mut pids: Vec<u32> = walk
        .deleted()
        .iter()
        .filter(|deleted| deleted.writes && processes.was_named(deleted, database))
        .map(|deleted| deleted.pid)
        .collect();
    pids.dedup();
    if pids.is_empty() {
        return if chroma_is_stopped { Ok(()) } else { seen_all(processes, &walk) };
    }
    let users = pids
        .into_iter()
        .map(|pid| User { pid, command: processes.command(pid).unwrap_or_default() })
        .collect();
    Err(Obstacle::Holds(Holds::Deleted { database: database.to_owned(), users }))
}

fn seen_all(processes: &ProcessTable, walk: &Walk) -> Result<(), Obstacle> {
    processes.blind(walk).map_or(Ok(()), |blind| Err(Obstacle::Unknown(blind.to_string())))
}

fn user(processes: &ProcessTable, holder: &Holder) -> User {
    let command = processes.command(holder.pid).unwrap_or_else(|| holder.comm.clone());
    User { pid: holder.pid, command }
}

/// How the operator says that no Chroma uses the directory.
pub const CHROMA_STOPPED_FLAG: &str = "--chroma-is-stopped";

#[cfg(test)]
mod tests {
    use std::{
        fs::OpenOptions,
        os::unix::process::CommandExt,
        process::{Child, Command, Stdio},
    };

    use super::*;
    use crate::wait::{SOON, wait_for};

    struct Kill(Child);

    impl Drop for Kill {
        fn drop(&mut self) {
            drop(self.0.kill());
            drop(self.0.wait());
        }
    }

    fn store() -> (tempfile::TempDir, PathBuf) {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().canonicalize().unwrap().join("chroma");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join(DATABASE_FILE), "x").unwrap();
        (scratch, dir)
    }

    /// What other tests have started holds nothing for longer than its exec.
    fn must_be_free(dir: &Path, processes: &ProcessTable) -> Free {
        wait_for("the store to be free", SOON, || free(dir, processes, false).ok())
    }

    fn writer(path: &Path) -> Kill {
        let file = OpenOptions::new().append(true).open(path).unwrap();
        Kill(
            Command::new("sleep")
                .arg("600")
                .arg0("a chroma")
                .stdin(Stdio::from(file))
                .spawn()
                .unwrap(),
        )
    }

    #[test]
    fn whoever_writes_is_named_with_what_to_do() {
        let (_scratch, dir) = store();
        let processes = ProcessTable::new("/proc".into());
        drop(must_be_free(&dir, &processes));
        let child = writer(&dir.join(DATABASE_FILE));
        for chroma_is_stopped in [false, true] {
            let held = free(&dir, &processes, chroma_is_stopped).unwrap_err();
            let said = held.to_string();
            assert!(
                said.contains(&format!("process {} (a chroma 600) has ", child.0.id())),
                "{said}"
            );
            assert!(held.hint().contains(&format!("kill {}", child.0.id())), "{}", held.hint());
        }
        drop(child);
        must_be_free(&dir, &processes);
    }

    #[test]
    fn somebody_whom_procfs_does_not_show_is_seen_by_the_lease() {
        let (_scratch, dir) = store();
        // A procfs without anybody in it.
        let empty = tempfile::tempdir().unwrap();
        fs::create_dir_all(empty.path().join("sys/kernel")).unwrap();
        let processes = ProcessTable::new(empty.path().to_owned());
        let child = writer(&dir.join(DATABASE_FILE));
        let chroma_is_stopped = free(&dir, &processes, true).unwrap_err();
        assert!(matches!(chroma_is_stopped, Holds::Elsewhere { .. }), "{chroma_is_stopped}");
        drop(child);
        must_be_free(&dir, &processes);
    }

    #[test]
    fn who_still_writes_to_what_was_deleted_holds_the_store_too() {
        let (_scratch, dir) = store();
        let processes = ProcessTable::new("/proc".into());
        let database = dir.join(DATABASE_FILE);
        let child = writer(&database);
        fs::remove_file(&database).unwrap();
        let held = free(&dir, &processes, false).unwrap_err();
        assert!(
            matches!(&held, Holds::Deleted { users, .. } if users[0].pid == child.0.id()),
            "{held}"
        );
        fs::remove_dir(&dir).unwrap();
        assert!(matches!(free(&dir, &processes, false), Err(Holds::Deleted { .. })));
        drop(child);
        must_be_free(&dir, &processes);
    }

    #[test]
    fn one_at_a_time_and_who_comes_meanwhile_is_noticed() {
        let (_scratch, dir) = store();
        let processes = ProcessTable::new("/proc".into());
        let first = must_be_free(&dir, &processes);
        assert!(first.stands());
        let second = free(&dir, &processes, true).unwrap_err();
        assert!(matches!(second, Holds::Locked { .. }), "{second}");
        // Whoever has the lock is named: a child that inherited it, for this program does not tell of itself.
        let lock = File::open(&dir).unwrap();
        drop(first);
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
        let child = Kill(
            Command::new("sleep")
                .arg("600")
                .arg0("a server")
                .stdin(Stdio::from(lock))
                .spawn()
                .unwrap(),
        );
        let refused = free(&dir, &processes, true).unwrap_err();
        let said = refused.to_string();
        assert!(
            said.contains(&format!("process {} (a server 600) holds the lock of", child.0.id())),
            "{said}"
        );
        assert!(refused.hint().ends_with(&format!("kill {}", child.0.id())), "{}", refused.hint());
        drop(child);
        let first = must_be_free(&dir, &processes);
        let mut other = Command::new("sh")
            .args(["-c", "echo more >> \"$0\""])
            .arg(dir.join(DATABASE_FILE))
            .spawn()
            .unwrap();
        wait_for("the other one to come", SOON, || (!first.stands()).then_some(()));
        drop(first);
        assert!(other.wait().unwrap().success());
    }
}
