//! SQLite's SHARED lock, taken without SQLite: three system calls, nothing allocated, nothing read, so that it can be held
//! for microseconds. As long as it is held no writer can bring a transaction to its end, and no page of the file changes.
//!
//! The bytes and their order are those of `unixLock` in `os_unix.c`: a reader asks for PENDING first, so that it comes after
//! a writer that waits. The lock belongs to an open file description (`F_OFD_SETLK`): closing another descriptor of the file
//! does not drop it, it conflicts with nobody but writers, and it ends with the process. It does not look for a hot journal:
//! whoever uses it must know that there is none.

use std::{io, time::Duration};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    libc,
};

use super::{Database, PENDING_BYTE, PlainFile};
use crate::clock::{self, Ticks};

/// A SHARED lock that can be taken and given back many times.
#[derive(Debug)]
pub struct SharedLock<'a> {
    file: PlainFile<'a>,
    since: Option<Ticks>,
    /// Longest time for which it was held.
    pub longest: Duration,
}

impl<'a> SharedLock<'a> {
    /// On the file at the path of the database. Takes no lock yet. Errs when the file cannot be opened.
    pub fn new(database: &'a Database) -> io::Result<Self> {
        Ok(Self { file: database.open_plain()?, since: None, longest: Duration::ZERO })
    }

    /// The file that is locked.
    #[must_use]
    pub fn file(&self) -> &PlainFile<'a> {
        &self.file
    }

    /// Tries once and never waits; `false` when a writer has the file, or waits for it. Holding it already is as good. Errs
    /// when the kernel refuses for another reason.
    pub fn try_lock(&mut self) -> io::Result<bool> {
        if self.since.is_some() {
            return Ok(true);
        }
        let since = clock::ticks();
        if !self.set(READ, PENDING_BYTE, 1)? {
            return Ok(false);
        }
        let shared = self.set(READ, SHARED_FIRST, SHARED_SIZE);
        let pending = self.set(UNLOCK, PENDING_BYTE, 1);
        if matches!(shared, Ok(true)) {
            self.since = Some(since);
            if pending.is_err() {
                self.unlock()?;
            }
        }
        pending.and(shared)
    }

    /// Gives it back, if it is held. Errs when the kernel refuses.
    pub fn unlock(&mut self) -> io::Result<()> {
        let Some(since) = self.since else { return Ok(()) };
        // All of it, also what an error may have left.
        self.set(UNLOCK, PENDING_BYTE, SHARED_FIRST + SHARED_SIZE - PENDING_BYTE)?;
        self.since = None;
        self.longest = self.longest.max(since.elapsed());
        Ok(())
    }

    /// For how long it is held by now.
    pub fn held(&self) -> Option<Duration> {
        self.since.map(Ticks::elapsed)
    }

    /// Whether a writer waits for readers to go, or is writing. Errs when the kernel does not answer.
    pub fn writer_waits(&self) -> io::Result<bool> {
        super::conflict(&self.file, PENDING_BYTE, 1)
    }

    /// Whether the lock was set; `false` when another's stands in the way. Errs when the kernel does.
    fn set(&self, kind: libc::c_int, start: u64, len: u64) -> io::Result<bool> {
        let lock = super::lock_of(kind, start, len)?;
        loop {
            match fcntl(&*self.file, FcntlArg::F_OFD_SETLK(&lock)) {
                Ok(_) => return Ok(true),
                Err(Errno::EAGAIN | Errno::EACCES) => return Ok(false),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl Drop for SharedLock<'_> {
    fn drop(&mut self) {
        // The descriptor may be kept aside and used again, and must not bring a lock with it.
        if let Err(error) = self.unlock() {
            tracing::debug!(%error, "A lock of the database could not be given back.");
        }
    }
}

const READ: libc::c_int = libc::F_RDLCK;
const UNLOCK: libc::c_int = libc::F_UNLCK;
/// `SHARED_FIRST` and `SHARED_SIZE` of `os.h`.
const SHARED_FIRST: u64 = PENDING_BYTE + 2;
const SHARED_SIZE: u64 = 510;

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn insert(database: &Database) -> bool {
        let mut command = Command::new("sqlite3");
        command.arg(database.path()).arg("INSERT INTO t VALUES(2)");
        command.output().unwrap().status.success()
    }

    #[test]
    #[cfg_attr(not(feature = "e2e"), ignore = "needs sqlite3: run with --features e2e")]
    fn it_keeps_writers_of_other_processes_out_and_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chroma.sqlite3");
        rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE t(x)").unwrap();
        let database = Database::new(path);
        let mut lock = SharedLock::new(&database).unwrap();
        assert!(insert(&database));
        assert!(lock.try_lock().unwrap() && lock.try_lock().unwrap());
        assert!(lock.held().is_some());
        // Closing other descriptors does not drop it, and readers come and go.
        drop(database.open_plain().unwrap());
        let read = Command::new("sqlite3").arg(database.path()).arg("SELECT * FROM t").output();
        assert!(read.unwrap().status.success());
        assert!(!insert(&database), "a commit comes through the lock");
        assert!(!lock.writer_waits().unwrap(), "that writer has given up");
        lock.unlock().unwrap();
        assert!(lock.held().is_none() && lock.longest > Duration::ZERO);
        assert!(insert(&database));
        assert!(lock.try_lock().unwrap());
        let connection = database.connect().unwrap();
        drop(lock);
        assert!(insert(&database), "a descriptor that is kept aside holds no lock");
        drop(connection);
    }

    #[test]
    #[cfg_attr(not(feature = "e2e"), ignore = "needs sqlite3: run with --features e2e")]
    fn it_comes_after_a_writer_that_waits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chroma.sqlite3");
        rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE t(x)").unwrap();
        let database = Database::new(path);
        let mut first = SharedLock::new(&database).unwrap();
        let mut second = SharedLock::new(&database).unwrap();
        assert!(first.try_lock().unwrap());
        let mut writer = Command::new("sqlite3")
            .arg(database.path())
            .args([".timeout 60000", "INSERT INTO t VALUES(3)"])
            .spawn()
            .unwrap();
        crate::wait::wait_until("the writer to ask for its lock", crate::wait::SOON, || {
            first.writer_waits().unwrap()
        });
        assert!(!second.try_lock().unwrap(), "no new reader while a writer waits");
        first.unlock().unwrap();
        assert!(writer.wait().unwrap().success());
        assert!(second.try_lock().unwrap());
    }
}
