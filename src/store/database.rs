//! The discipline over descriptors of `chroma.sqlite3` in this process.
//!
//! POSIX drops *all* locks that a process holds on a file when it closes *any* descriptor of it. If one thread closed a
//! plain descriptor of the database while SQLite in another thread is inside a check, that check would go on without
//! its lock and could call a page torn by Chroma's writer corrupt. So plain descriptors that are closed while a
//! connection is open are kept aside until the last connection is gone.

use std::{
    fs::File,
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rusqlite::{Connection, OpenFlags};

/// The database file of one store and who in this process has it open.
#[derive(Debug)]
pub struct Database {
    path: PathBuf,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    connections: usize,
    /// Plain descriptors that wait for the last connection to close.
    kept: Vec<File>,
}

/// A plain read-only descriptor that knows when it may be closed.
#[derive(Debug)]
pub struct PlainFile<'a> {
    file: Option<File>,
    database: &'a Database,
}

/// A read-only SQLite connection; the last one to go closes the plain descriptors that were kept aside.
#[derive(Debug)]
pub struct ReadConnection<'a> {
    connection: Option<Connection>,
    database: &'a Database,
}

impl Database {
    /// The database at `path`. Touches nothing yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, open: Mutex::default() }
    }

    /// Its path as this process sees it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it as bytes, read-only; never blocks on a FIFO or a device put in its place.
    pub fn open_plain(&self) -> io::Result<PlainFile<'_>> {
        let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
        let file =
            File::options().read(true).custom_flags(flags.bits().cast_signed()).open(&self.path)?;
        Ok(PlainFile { file: Some(file), database: self })
    }

    /// Opens it by SQLite, read-only, so that nothing a hostile schema says is run and no page comes by a mapping that a
    /// truncation could turn into SIGBUS. Takes no lock before the first statement.
    pub fn connect(&self) -> rusqlite::Result<ReadConnection<'_>> {
        // Counted before the open: from here on nobody may close a plain descriptor.
        self.lock().connections += 1;
        let mut connection = ReadConnection { connection: None, database: self };
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let opened = Connection::open_with_flags(&self.path, flags)?;
        let opened = connection.connection.insert(opened);
        opened.busy_timeout(std::time::Duration::ZERO)?;
        opened.execute_batch(
            "PRAGMA query_only=ON; PRAGMA trusted_schema=OFF; PRAGMA cell_size_check=ON; PRAGMA mmap_size=0; \
             PRAGMA temp_store=MEMORY; PRAGMA cache_size=-2048;",
        )?;
        Ok(connection)
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::ops::Deref for PlainFile<'_> {
    type Target = File;

    fn deref(&self) -> &File {
        self.file.as_ref().expect("only drop takes it")
    }
}

impl Drop for PlainFile<'_> {
    fn drop(&mut self) {
        let mut open = self.database.lock();
        if open.connections > 0
            && let Some(file) = self.file.take()
        {
            open.kept.push(file);
        }
        // Otherwise the file closes here, still under the mutex, so that no connection can open in between.
        self.file = None;
    }
}

impl std::ops::Deref for ReadConnection<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("only drop takes it")
    }
}

impl std::ops::DerefMut for ReadConnection<'_> {
    fn deref_mut(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("only drop takes it")
    }
}

impl Drop for ReadConnection<'_> {
    fn drop(&mut self) {
        let mut open = self.database.lock();
        self.connection = None;
        open.connections -= 1;
        if open.connections == 0 {
            open.kept.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn database(dir: &Path) -> Database {
        let path = dir.join("chroma.sqlite3");
        Connection::open(&path)
            .unwrap()
            .execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES(1)")
            .unwrap();
        Database::new(path)
    }

    /// Whether this process holds a POSIX lock on the file.
    fn locked(path: &Path) -> bool {
        use std::os::unix::fs::MetadataExt;
        let inode = format!(":{} ", std::fs::metadata(path).unwrap().ino());
        let me = format!(" {} ", std::process::id());
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        locks.lines().any(|line| line.contains(&inode) && line.contains(&me))
    }

    #[test]
    fn closing_a_plain_descriptor_does_not_drop_the_lock_of_a_check() {
        let dir = tempfile::tempdir().unwrap();
        let database = database(dir.path());
        let check = database.connect().unwrap();
        let mut statement = check.prepare("SELECT x FROM t").unwrap();
        let mut rows = statement.query([]).unwrap();
        assert!(rows.next().unwrap().is_some());
        assert!(locked(database.path()), "a statement under way holds a SHARED lock");
        drop(database.open_plain().unwrap());
        assert!(locked(database.path()), "the plain descriptor was kept aside");
        assert_eq!(database.lock().kept.len(), 1);
        drop(rows);
        drop(statement);
        drop(check);
        assert!(!locked(database.path()));
        assert!(database.lock().kept.is_empty());
    }

    #[test]
    fn the_connection_cannot_write() {
        let dir = tempfile::tempdir().unwrap();
        let database = database(dir.path());
        assert!(database.connect().unwrap().execute_batch("INSERT INTO t VALUES(2)").is_err());
    }

    #[test]
    fn a_fifo_in_its_place_does_not_hang() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chroma.sqlite3");
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        let database = Database::new(path);
        assert!(database.open_plain().is_ok());
    }
}
