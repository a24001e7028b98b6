//! The discipline over `chroma.sqlite3` in this process: who has it open, how long a statement may hold its lock, and
//! what an answer of SQLite means.
//!
//! POSIX drops *all* locks that a process holds on a file when it closes *any* descriptor of it. If one thread closed a
//! plain descriptor of the database while SQLite in another thread is inside a check, that check would go on without
//! its lock and could call a page torn by Chroma's writer corrupt. So plain descriptors that are closed while a
//! connection is open are kept aside, and used again, until the last connection is gone.

mod anchor;
mod answer;
mod guard;
mod rest;
mod shared;

pub use answer::{Abort, QueryError};
pub use guard::{Limits, Timed};

pub use anchor::Anchor;
pub use guard::within as run_within;
pub use shared::SharedLock;

use std::{
    fs::{File, Metadata},
    io,
    os::{
        fd::AsFd,
        unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{FcntlArg, fcntl},
    libc,
};
use parking_lot::{Mutex, MutexGuard};
use rusqlite::{Connection, OpenFlags, OptionalExtension, config::DbConfig, ffi, limits::Limit};

use self::rest::Rest;
use super::space::REMOTE_MAGICS;
use crate::{
    FileId,
    clock::{self, Timestamp},
    kernel, links,
};
use chroma_format::sqlite;

/// The database file of one store and who in this process has it open.
#[derive(Debug)]
pub struct Database {
    path: PathBuf,
    /// Where absolute targets of links begin.
    root: PathBuf,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    connections: usize,
    /// Plain descriptors that wait for the last connection to close.
    kept: Vec<File>,
}

/// A plain read-only descriptor that knows when it may be closed. Read it at offsets only: it may be shared.
#[derive(Debug)]
pub struct PlainFile<'a> {
    file: Option<File>,
    database: &'a Database,
}

/// A read-only SQLite connection; the last one to go closes the plain descriptors that were kept aside.
#[derive(Debug)]
pub struct ReadConnection<'a> {
    connection: Option<Connection>,
    /// The same file, to see who waits for our lock and whether the file changes below it.
    plain: Option<File>,
    database: &'a Database,
    /// Whether it is known that its tables are such as Chroma makes.
    known: bool,
    /// The directory, in which SQLite looks for the journal as long as it is connected.
    anchor: Anchor,
    rest: Rest,
}

/// What `stat` says of a file that changes when its bytes do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Which file.
    pub id: FileId,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// Last change of its bytes.
    pub modified: Timestamp,
    /// Last change of its bytes or attributes.
    pub changed: Timestamp,
}

impl Stamp {
    /// Of `stat`'s answer.
    #[must_use]
    pub fn of(meta: &Metadata) -> Self {
        Self {
            id: FileId { device: meta.dev(), inode: meta.ino() },
            size_bytes: meta.len(),
            modified: Timestamp::from_parts(meta.mtime(), meta.mtime_nsec()),
            changed: Timestamp::from_parts(meta.ctime(), meta.ctime_nsec()),
        }
    }
}

impl Database {
    /// The database at `path`, which is absolute. Touches nothing yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self::below(path, "/".into())
    }

    /// The same for a path of a host whose root is seen at `root`.
    #[must_use]
    pub fn below(path: PathBuf, root: PathBuf) -> Self {
        Self { path, root, open: Mutex::default() }
    }

    /// Its path as this process sees it, for messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of the file itself, without links; SQLite has the journal beside it, not beside a link to it. Links that
    /// lead to each other are left as they are.
    #[must_use]
    pub fn real_path(&self) -> PathBuf {
        links::follow(&self.root, &self.path).unwrap_or_else(|_| self.path.clone())
    }

    /// Holds the directory that the file lies in now. Errs when the directory cannot be opened.
    pub fn anchor(&self) -> io::Result<Anchor> {
        Anchor::new(&links::follow(&self.root, &self.path)?)
    }

    /// What `stat` says of it now. Opens nothing. Errs when the operating system does.
    pub fn stamp(&self) -> io::Result<Stamp> {
        std::fs::metadata(self.real_path()).map(|meta| Stamp::of(&meta))
    }

    /// Opens it as bytes, read-only; never blocks on a FIFO or a device put in its place. Errs when it cannot be opened, or
    /// is no regular file.
    pub fn open_plain(&self) -> io::Result<PlainFile<'_>> {
        Ok(PlainFile { file: Some(self.open_file(&self.anchor()?)?), database: self })
    }

    /// Opens it by SQLite, read-only, so that nothing a hostile schema says is run and no page comes by a mapping that a
    /// truncation could turn into SIGBUS. Takes no lock before the first statement. Refused in WAL mode and beside a `-wal`
    /// with bytes, whatever the header says of the mode: there even a read-only open makes `-wal` and `-shm` files. Refused
    /// without locks, and for what is no regular file, where it could block for ever. Errs then, and when SQLite does.
    pub fn connect(&self) -> Result<ReadConnection<'_>, QueryError> {
        let anchor = self.anchor().map_err(QueryError::File)?;
        let path = anchor.path();
        // Counted before the open: from here on nobody may close a plain descriptor.
        self.lock().connections += 1;
        let mut connection = ReadConnection {
            connection: None,
            plain: None,
            database: self,
            known: false,
            anchor,
            rest: Rest::default(),
        };
        let opened = self.open_file(&connection.anchor);
        let plain = connection.plain.insert(opened.map_err(QueryError::File)?);
        let meta = plain.metadata().map_err(QueryError::File)?;
        if !meta.is_file() {
            return Err(QueryError::NotRegular(kind_of(&meta)));
        }
        // An empty file is left alone: SQLite would try to delete a journal beside it.
        if meta.len() == 0 {
            return Err(QueryError::Empty);
        }
        let mut head = [0; sqlite::HEADER_LEN];
        let read = read_up_to(plain, &mut head, 0).map_err(QueryError::File)?;
        if sqlite::SqliteHeader::parse(&head[..read]).is_ok_and(|header| header.wal) {
            return Err(QueryError::Wal);
        }
        nothing_odd_beside(&path)?;
        writer(plain).map_err(QueryError::NoLocks)?;
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let layer = kernel::paths_as_given().map_err(QueryError::File)?;
        let opened = Connection::open_with_flags_and_vfs(&path, flags, layer)
            .map_err(|error| self.named(error, &path))?;
        let opened = connection.connection.insert(opened);
        let meant = Stamp::of(&meta).id;
        let found = kernel::opened_by_sqlite(opened).map_err(QueryError::File)?;
        let found = FileId { device: found.0, inode: found.1 };
        if found != meant {
            let exchanged = std::fs::metadata(&path).is_ok_and(|meta| Stamp::of(&meta).id == found);
            return Err(if exchanged {
                QueryError::Replaced
            } else {
                QueryError::OtherFile { meant, opened: found }
            });
        }
        opened.busy_timeout(std::time::Duration::ZERO)?;
        bound(opened)?;
        // None of these reads the file.
        opened.execute_batch(
            "PRAGMA query_only=ON; PRAGMA trusted_schema=OFF; PRAGMA cell_size_check=ON; PRAGMA mmap_size=0; \
             PRAGMA temp_store=MEMORY;",
        )?;
        let now = self.stamp().map_err(QueryError::File)?;
        if now.id != meant {
            return Err(QueryError::Replaced);
        }
        Ok(connection)
    }

    /// SQLite's words about the path that it was given, with the name by which the file is known here.
    fn named(&self, error: rusqlite::Error, given: &Path) -> rusqlite::Error {
        match error {
            rusqlite::Error::SqliteFailure(failure, Some(words)) => {
                let (given, known) = (given.to_string_lossy(), self.path.to_string_lossy());
                rusqlite::Error::SqliteFailure(failure, Some(words.replace(&*given, &known)))
            }
            other => other,
        }
    }

    /// Whether any process of this kernel has it open for writing, also one that `/proc` does not show; readers do not count,
    /// and neither does this program. `None` where that cannot be told: without the right to ask (the owner, root or
    /// `CAP_LEASE`), and on a filesystem that others write to by another way than this kernel. Errs when the file cannot be
    /// opened.
    pub fn writers(&self) -> io::Result<Option<bool>> {
        let plain = self.open_plain()?;
        if is_remote(&plain)? {
            return Ok(None);
        }
        Ok(kernel::is_open_for_writing(plain.as_fd()).ok())
    }

    fn open_file(&self, anchor: &Anchor) -> io::Result<File> {
        let path = anchor.path();
        let wanted = std::fs::metadata(&path).map(|meta| Stamp::of(&meta))?.id;
        if let Some(file) = self.lock().take_kept(wanted)? {
            return Ok(file);
        }
        open_bytes(&path)
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock()
    }
}

/// Whether programs of other hosts can write to `file`.
pub(crate) fn is_remote(file: &File) -> io::Result<bool> {
    let kind = i128::from(rustix::fs::fstatfs(file)?.f_type);
    Ok(REMOTE_MAGICS.iter().any(|magic| i128::from(*magic) == kind))
}

/// What any connection refuses: values and statements of a schema that would fill the memory, and views, which have no end when
/// somebody wants that. Chroma has none; to ask one that stands in the place of a table is an error.
pub(super) fn bound(connection: &Connection) -> rusqlite::Result<()> {
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, VALUE_BYTES_MAX)?;
    connection.set_limit(Limit::SQLITE_LIMIT_SQL_LENGTH, SQL_BYTES_MAX)?;
    for config in [DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER]
    {
        connection.set_db_config(config, false)?;
    }
    Ok(())
}

/// Errs when something else stands in the place of a table of Chroma: a virtual table, or one with columns that are computed when
/// they are read, for which there is no saying what a question would cost.
pub fn plain_tables(connection: &Connection) -> rusqlite::Result<()> {
    let sql = format!(
        "SELECT s.name, ifnull(s.rootpage, 0) = 0 FROM sqlite_schema AS s WHERE s.type = 'table' AND s.name IN ({TABLES}) \
         AND (ifnull(s.rootpage, 0) = 0 OR EXISTS (SELECT 1 FROM pragma_table_xinfo(s.name) WHERE hidden IN (2, 3))) LIMIT 1"
    );
    let found: Option<(String, bool)> =
        connection.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let Some((name, is_virtual)) = found else { return Ok(()) };
    let is = if is_virtual { "is a virtual table" } else { "has columns that are computed" };
    let words = format!("{name} {is}, which Chroma never makes; nothing is asked of it");
    Err(rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_PERM), Some(words)))
}

/// What Chroma makes, and FTS5 behind its full text.
const TABLES: &str = "'acquire_write', 'collection_metadata', 'collections', 'databases', \
    'embedding_fulltext_search_config', 'embedding_fulltext_search_content', 'embedding_fulltext_search_data', \
    'embedding_fulltext_search_docsize', 'embedding_fulltext_search_idx', 'embedding_metadata', 'embedding_metadata_array', \
    'embeddings', 'embeddings_queue', 'embeddings_queue_config', 'maintenance_log', 'max_seq_id', 'migrations', \
    'segment_metadata', 'segments', 'tenants'";

/// No value is read into memory that is longer. Documents may be; they are read piece by piece.
const VALUE_BYTES_MAX: i32 = 24 << 20;
const SQL_BYTES_MAX: i32 = 1 << 20;

/// SQLite opens what has the name of its journal, and would wait for ever for the other end of a FIFO there.
fn nothing_odd_beside(database: &Path) -> Result<(), QueryError> {
    for suffix in ["-journal", "-wal", "-shm"] {
        match std::fs::metadata(beside(database, suffix)) {
            Ok(meta) if !meta.is_file() => {
                let path = beside(database, suffix);
                let name = path.file_name().unwrap_or(path.as_os_str()).display();
                let words = format!("{name} is {}", kind_of(&meta));
                return Err(QueryError::File(io::Error::other(words)));
            }
            // What has no bytes SQLite passes over.
            Ok(meta) if suffix == "-wal" && meta.len() > 0 => return Err(QueryError::Wal),
            _ => {}
        }
    }
    Ok(())
}

impl Open {
    /// A descriptor of `wanted` that was kept aside. Errs when too many files took each other's place during one check.
    fn take_kept(&mut self, wanted: FileId) -> io::Result<Option<File>> {
        let is_it = |file: &File| file.metadata().is_ok_and(|meta| Stamp::of(&meta).id == wanted);
        if let Some(at) = self.kept.iter().position(is_it) {
            return Ok(Some(self.kept.swap_remove(at)));
        }
        if self.kept.len() >= KEPT_MAX {
            return Err(io::Error::other("it was replaced too often during one check"));
        }
        Ok(None)
    }

    fn put_away(&mut self, file: Option<File>) {
        if self.connections > 0 {
            self.kept.extend(file);
        }
        // Otherwise the file closes here, still under the mutex, so that no connection can open in between.
    }
}

/// Most plain descriptors that are kept aside: one per file that stood at the path during a check, and one per reader.
const KEPT_MAX: usize = 64;

impl PlainFile<'_> {
    /// The same; `None` when it is not there.
    pub fn open_if_there(path: &Path) -> io::Result<Option<File>> {
        match open_bytes(path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Fills the buffer from `offset` as far as the file goes, and says how far. Errs when the operating system does.
    pub fn read_up_to(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        read_up_to(self, buffer, offset)
    }

    /// Whether a process of this host writes to the database, is about to, or waits for readers to go; this one does
    /// not count. Asks for the write locks of SQLite, takes none. Errs when the kernel does not answer.
    pub fn writer(&self) -> io::Result<bool> {
        writer(self)
    }
}

impl ReadConnection<'_> {
    /// What `fstat` says of the open file now. Errs when the operating system does.
    pub fn stamp(&self) -> io::Result<Stamp> {
        self.plain().metadata().map(|meta| Stamp::of(&meta))
    }

    /// Runs `work` in one read transaction within `limits`, and tells how long the lock was held at most. Errs when SQLite
    /// or `work` does, or the time is over.
    pub fn within<T>(
        &mut self,
        limits: &Limits<'_>,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Timed<T> {
        let mut known = self.known;
        let timed = guard::within(self.connection(), self.plain(), limits, |connection| {
            if !known {
                plain_tables(connection)?;
                known = true;
            }
            work(connection)
        });
        self.known = known;
        timed
    }

    /// The same, whatever the tables are like: for who asks what there is. Errs alike.
    pub fn within_any<T>(
        &mut self,
        limits: &Limits<'_>,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Timed<T> {
        guard::within(self.connection(), self.plain(), limits, work)
    }

    /// The same for work that also reads the file as bytes; these stay as they are as long as the transaction has its lock.
    /// Errs alike.
    pub fn within_file<T>(
        &mut self,
        limits: &Limits<'_>,
        work: impl FnOnce(&Connection, &File) -> rusqlite::Result<T>,
    ) -> Timed<T> {
        let plain = self.plain();
        guard::within(self.connection(), plain, limits, |connection| work(connection, plain))
    }

    /// Keeps away for a while after a question that held the lock for `held`, when somebody writes.
    pub fn rest(&mut self, held: std::time::Duration) {
        let pause = self.rest.after(held, self.stamp().ok(), clock::ticks());
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
    }

    /// The connection, to be set up; statements go through [`Self::within`].
    #[expect(clippy::missing_panics_doc, reason = "it is there from connect to drop")]
    pub fn connection_mut(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("set by connect, only drop takes it")
    }

    fn connection(&self) -> &Connection {
        self.connection.as_ref().expect("set by connect, only drop takes it")
    }

    fn plain(&self) -> &File {
        self.plain.as_ref().expect("set by connect, only drop takes it")
    }
}

/// Whether somebody has a write lock on one of SQLite's bytes: PENDING, RESERVED and the shared range, where a reader's lock
/// is a read lock that does not conflict with the one asked for (`os_unix.c`, "Posix Advisory Locking").
fn writer(file: &File) -> io::Result<bool> {
    conflict(file, PENDING_BYTE, LOCK_BYTES)
}

/// Whether a read lock on these bytes would meet the write lock of another process, or of another file description. Takes none.
/// By nix: with rustix debug builds panic where the lock belongs to a file description, which has no process.
fn conflict(file: &File, start: u64, len: u64) -> io::Result<bool> {
    let mut lock = lock_of(libc::F_RDLCK, start, len)?;
    fcntl(file, FcntlArg::F_GETLK(&mut lock))?;
    Ok(libc::c_int::from(lock.l_type) != libc::F_UNLCK)
}

/// A lock of this kind on these bytes, as `fcntl` wants it told.
fn lock_of(kind: libc::c_int, start: u64, len: u64) -> io::Result<libc::flock> {
    let signed = |at: u64| libc::off_t::try_from(at).map_err(|_| io::Error::other("no lock byte"));
    Ok(libc::flock {
        l_type: libc::c_short::try_from(kind).map_err(|_| io::Error::other("no kind of lock"))?,
        l_whence: 0, // SEEK_SET
        l_start: signed(start)?,
        l_len: signed(len)?,
        l_pid: 0,
    })
}

const PENDING_BYTE: u64 = 0x4000_0000;
const LOCK_BYTES: u64 = 512;

/// Whether an error says that nothing is there. Every other one leaves that open.
#[must_use]
pub fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Opens a file read-only; never blocks on a FIFO or a device in its place. Errs when it cannot be opened.
pub fn open_bytes(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

/// The same; `None` when it is not there.
pub fn open_if_there(path: &Path) -> io::Result<Option<File>> {
    match open_bytes(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Fills the buffer from `offset` as far as the file goes, and says how far. Errs when the operating system does.
pub fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset.saturating_add(filled as u64)) {
            Ok(0) => break,
            Ok(more) => filled += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The path of a file that belongs to the database.
#[must_use]
pub fn beside(database: &Path, suffix: &str) -> PathBuf {
    let mut name = database.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// What stands in the place of a regular file, in words.
#[must_use]
pub fn kind_of(meta: &Metadata) -> &'static str {
    let kind = meta.file_type();
    match () {
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_socket() => "a socket",
        () if kind.is_block_device() || kind.is_char_device() => "a device",
        () if kind.is_symlink() => "a link",
        () => "a regular file",
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
        self.database.lock().put_away(self.file.take());
    }
}

impl Drop for ReadConnection<'_> {
    fn drop(&mut self) {
        let mut open = self.database.lock();
        self.connection = None;
        open.connections -= 1;
        open.put_away(self.plain.take());
        if open.connections == 0 {
            open.kept.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        process::Command,
        sync::atomic::{AtomicBool, Ordering},
        time::Duration,
    };

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
        let inode = format!(":{} ", std::fs::metadata(path).unwrap().ino());
        let me = format!(" {} ", std::process::id());
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        locks.lines().any(|line| line.contains(&inode) && line.contains(&me))
    }

    fn limits(stop: &AtomicBool) -> Limits<'_> {
        Limits {
            hold: Duration::from_millis(50),
            hold_unwaited: Duration::from_mins(1),
            stop,
            progress: None,
        }
    }

    /// A statement that never ends by itself.
    const ENDLESS: &str =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT count(*) FROM n, t";

    fn endless(connection: &Connection) -> rusqlite::Result<i64> {
        connection.query_row(ENDLESS, [], |row| row.get(0))
    }

    #[test]
    fn closing_a_plain_descriptor_does_not_drop_the_lock_of_a_check() {
        let dir = tempfile::tempdir().unwrap();
        let database = database(dir.path());
        let mut check = database.connect().unwrap();
        let stop = AtomicBool::new(false);
        let timed = check.within(&limits(&stop), |connection| {
            let mut statement = connection.prepare("SELECT x FROM t")?;
            let mut rows = statement.query([])?;
            assert!(rows.next()?.is_some());
            assert!(locked(database.path()), "a statement under way holds a SHARED lock");
            for _ in 0..100 {
                drop(database.open_plain().unwrap());
                drop(database.connect().unwrap());
            }
            assert!(locked(database.path()), "the plain descriptors were kept aside");
            assert!(database.lock().kept.len() <= 2, "and used again");
            Ok(())
        });
        timed.result.unwrap();
        assert!(!locked(database.path()), "nothing is held between two statements");
        drop(check);
        assert!(database.lock().kept.is_empty());
    }

    /// A child that has the file open as `redirect` says until it is killed.
    fn opener(path: &Path, redirect: &str, script: &str) -> std::process::Child {
        let script = format!("exec 3{redirect}\"$1\"; echo ready; {script}");
        let mut child = Command::new("sh")
            .args(["-c", &script, "sh"])
            .arg(path)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 6];
        io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut said).unwrap();
        child
    }

    /// That nobody writes, in time: a child that another test starts has what this process has open, for the moment until it
    /// is the other program, and so a connection that made the database can outlive its closing.
    fn nobody_writes(database: &Database) -> bool {
        let began = crate::clock::ticks();
        while database.writers().unwrap() != Some(false) {
            if began.elapsed() > Duration::from_mins(1) {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    #[test]
    fn the_kernel_tells_whether_anybody_has_it_open_for_writing() {
        let dir = tempfile::tempdir().unwrap();
        let database = database(dir.path());
        assert!(nobody_writes(&database));
        let connection = database.connect().unwrap();
        let plain = database.open_plain().unwrap();
        let mut reader = opener(database.path(), "<", "read end");
        assert!(nobody_writes(&database), "readers do not count, nor do we");
        let mut writer = opener(database.path(), "<>", "read end");
        assert_eq!(database.writers().unwrap(), Some(true));
        for child in [&mut reader, &mut writer] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(nobody_writes(&database), "its end is seen");
        drop((plain, connection));
        assert!(Database::new(dir.path().join("none")).writers().is_err());
    }

    /// Whoever opens the file while the question is under way waits, and the kernel sends a signal because of it that would end
    /// this program.
    #[test]
    fn asking_who_writes_beside_somebody_who_opens_and_closes_it_harms_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let database = database(dir.path());
        let mut busy = opener(database.path(), "<", "while :; do : <>\"$1\"; done");
        let (mut free, mut held) = (0, 0);
        let began = crate::clock::ticks();
        while began.elapsed() < Duration::from_mins(1) && (free < 3_000 || held < 100) {
            match database.writers().unwrap() {
                Some(true) => held += 1,
                Some(false) => free += 1,
                None => panic!("the owner may ask"),
            }
        }
        assert!(busy.try_wait().unwrap().is_none(), "it goes on");
        busy.kill().unwrap();
        busy.wait().unwrap();
        assert!(free > 0 && held > 0, "both were met: {free} and {held}");
    }

    #[test]
    fn the_connection_cannot_write() {
        let dir = tempfile::tempdir().unwrap();
        let database = database(dir.path());
        let stop = AtomicBool::new(false);
        let insert = |connection: &Connection| connection.execute_batch("INSERT INTO t VALUES(2)");
        let mut connection = database.connect().unwrap();
        assert!(matches!(
            connection.within(&limits(&stop), insert).result,
            Err(QueryError::Unreadable(_))
        ));
    }

    #[test]
    fn what_is_no_database_file_is_told_without_a_hang() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chroma.sqlite3");
        let database = Database::new(path.clone());
        assert!(matches!(database.connect(), Err(QueryError::File(_))));
        std::fs::write(&path, b"").unwrap();
        assert!(matches!(database.connect(), Err(QueryError::Empty)));
        std::fs::remove_file(&path).unwrap();
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert!(database.open_plain().is_ok());
        assert!(matches!(database.connect(), Err(QueryError::NotRegular("a FIFO"))));
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(matches!(database.connect(), Err(QueryError::NotRegular("a directory"))));
        // Nor what stands in the place of its journal.
        std::fs::remove_dir(&path).unwrap();
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE t(x)").unwrap();
        assert!(database.connect().is_ok());
        for suffix in ["-journal", "-wal"] {
            let beside = dir.path().join(format!("chroma.sqlite3{suffix}"));
            assert!(Command::new("mkfifo").arg(&beside).status().unwrap().success());
            let error = database.connect().unwrap_err();
            let QueryError::File(source) = &error else { panic!("{error:?}") };
            assert!(source.to_string().ends_with("is a FIFO"), "{source}");
            std::fs::remove_file(&beside).unwrap();
        }
    }

    #[test]
    fn a_database_in_wal_mode_is_not_opened_and_gets_no_files_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let database = database(dir.path());
        let writer = Connection::open(database.path()).unwrap();
        writer.pragma_update(None, "journal_mode", "wal").unwrap();
        drop(writer);
        assert!(matches!(database.connect(), Err(QueryError::Wal)));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        // SQLite plays a log whatever the header says of the mode, and makes its files for it.
        let file = File::options().write(true).open(database.path()).unwrap();
        file.write_all_at(&[1, 1], 18).unwrap();
        drop(database.connect().unwrap());
        for (log, opens) in [(&b""[..], true), (b"no log at all", false)] {
            std::fs::write(dir.path().join("chroma.sqlite3-wal"), log).unwrap();
            assert_eq!(database.connect().is_ok(), opens, "{log:?}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_statement_ends_when_its_time_is_over_or_nobody_wants_it() {
        let dir = tempfile::tempdir().unwrap();
        let database = database(dir.path());
        let mut connection = database.connect().unwrap();
        let stop = AtomicBool::new(false);
        let short = Limits { hold_unwaited: Duration::from_millis(50), ..limits(&stop) };
        let timed = connection.within(&short, endless);
        let abort = Abort::Deadline(Duration::from_millis(50));
        assert!(matches!(timed.result, Err(QueryError::Aborted(found)) if found == abort));
        // Stopped as late as leaves time to stop, and not before.
        assert!(timed.held >= Duration::from_millis(48));
        std::thread::scope(|scope| {
            scope.spawn(|| stop.store(true, Ordering::Relaxed));
            let timed = connection.within(&limits(&stop), endless);
            assert!(matches!(timed.result, Err(QueryError::Aborted(Abort::Stopped))));
        });
        // The connection is as good as new afterwards.
        let stop = AtomicBool::new(false);
        let one =
            |connection: &Connection| connection.query_row("SELECT x FROM t", [], |row| row.get(0));
        assert_eq!(connection.within::<i64>(&limits(&stop), one).result.unwrap(), 1);
    }

    /// A writer in another process: locks of this one would not be seen as foreign.
    fn writer_process(path: &Path) -> std::process::Child {
        Command::new("sqlite3")
            .arg(path)
            .arg(".timeout 60000")
            .arg("INSERT INTO t VALUES(3)")
            .spawn()
            .unwrap()
    }

    #[test]
    #[cfg_attr(not(feature = "e2e"), ignore = "needs sqlite3: run with --features e2e")]
    fn a_long_statement_makes_way_for_a_writer_that_waits() {
        let dir = tempfile::tempdir().unwrap();
        let database = database(dir.path());
        let mut connection = database.connect().unwrap();
        let stop = AtomicBool::new(false);
        let mut child = None;
        let timed = connection.within(&limits(&stop), |connection| {
            connection.query_row("SELECT x FROM t", [], |_| Ok(()))?;
            child = Some(writer_process(database.path()));
            endless(connection)
        });
        assert!(matches!(timed.result, Err(QueryError::Aborted(Abort::WriterWaiting))));
        assert!(child.unwrap().wait().unwrap().success(), "the writer could write");
        let stop = AtomicBool::new(false);
        let count = |connection: &Connection| {
            connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0))
        };
        assert_eq!(connection.within::<i64>(&limits(&stop), count).result.unwrap(), 2);
    }

    #[test]
    #[cfg_attr(not(feature = "e2e"), ignore = "needs sqlite3: run with --features e2e")]
    fn a_writer_of_another_process_is_seen_and_answers_busy() {
        let dir = tempfile::tempdir().unwrap();
        let database = database(dir.path());
        let plain = database.open_plain().unwrap();
        assert!(!plain.writer().unwrap());
        let mut child = Command::new("sqlite3")
            .arg(database.path())
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut stdin, b"BEGIN EXCLUSIVE;\n.print ready\n").unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(
            &mut io::BufReader::new(child.stdout.take().unwrap()),
            &mut line,
        )
        .unwrap();
        assert_eq!(line, "ready\n");
        assert!(plain.writer().unwrap());
        let stop = AtomicBool::new(false);
        let timed = database.connect().unwrap().within(&limits(&stop), endless);
        assert!(matches!(timed.result, Err(QueryError::Busy)));
        drop(stdin);
        assert!(child.wait().unwrap().success());
        assert!(!plain.writer().unwrap());
    }
}
