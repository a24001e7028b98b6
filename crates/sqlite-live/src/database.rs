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
        only_files_beside(&path)?;
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

/// Whether programs of other hosts can write to `file`. Errs when the filesystem does not answer `fstatfs`.
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
/// Errs when something else is there, or a log is.
fn only_files_beside(database: &Path) -> Result<(), QueryError> {
    for suffix in sqlite::SUFFIXES {
        match std::fs::metadata(beside(database, suffix)) {
            Ok(meta) if !meta.is_file() => {
                let path = beside(database, suffix);
                let name = path.file_name().unwrap_or(path.as_os_str()).display();
                let words = format!("{name} is {}", kind_of(&meta));
                return Err(QueryError::File(io::Error::other(words)));
            }
            // What has no bytes SQLite passes over.
            Ok(meta) if suffix == sqlite::WAL_SUFFIX && meta.len() > 0 => {
                return Err(QueryError::Wal);
            }
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
/// is a read lock that does not conflict with the one asked for (`os_unix.c`, "Posix Advisory Locking"). Errs when the kernel does not say.
fn writer(file: &File) -> io::Result<bool> {
    conflict(file, PENDING_BYTE, LOCK_BYTES)
}

/// Whether a read lock on these bytes would meet the write lock of another process, or of another file description. Takes none.
/// By nix: with rustix debug builds panic where the lock belongs to a file description, which has no process.
/// Errs when the kernel does not say.
fn conflict(file: &File, start: u64, len: u64) -> io::Result<bool> {
    let mut lock = lock_of(libc::F_RDLCK, start, len)?;
    fcntl(file, FcntlArg::F_GETLK(&mut lock))?;
    Ok(libc::c_int::from(lock.l_type) != libc::F_UNLCK)
}

/// A lock of this kind on these bytes, as `fcntl` wants it told. Errs when a number is too large for the kernel.
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

/// The same; `None` when it is not there. Errs when it cannot be opened.
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
mod tests;
