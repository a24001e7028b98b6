//! The cheap look that every run takes: `stat`, the first bytes of database and journal, and who holds SQLite's write
//! locks. It takes no lock and asks SQLite nothing. What it means is decided in `judge`.

use std::{
    fs::{self, File},
    io,
    ops::ControlFlow,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::remains::Remains;
use crate::{
    collectors::CollectError,
    format::{
        journal,
        sqlite::{self, JOURNAL_SUFFIX, WAL_SUFFIX},
        wal,
    },
    host::links::Place,
    store::{
        database::{Database, Stamp, beside, is_absent as absent, kind_of, open_bytes, read_up_to},
        restores,
    },
};

/// What `stat` says of the files of a database. Equal stamps mean that nothing was written in between, to the
/// granularity of the filesystem's clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Stamps {
    pub(super) database: Option<Stamp>,
    pub(super) journal: Option<Stamp>,
    pub(super) wal: Option<Stamp>,
}

impl Stamps {
    /// Takes them; what cannot be asked is as good as absent.
    pub(super) fn take(database: &Path) -> Self {
        let stamp = |path: &Path| fs::metadata(path).ok().map(|meta| Stamp::of(&meta));
        Self {
            database: stamp(database),
            journal: stamp(&beside(database, JOURNAL_SUFFIX)),
            wal: stamp(&beside(database, WAL_SUFFIX)),
        }
    }
}

/// All facts of one look.
#[derive(Debug)]
pub(super) struct Inspection {
    pub(super) stamps: Stamps,
    pub(super) database: DatabaseState,
    pub(super) journal: JournalState,
    pub(super) wal: WalState,
    pub(super) writer: Writer,
}

/// What stands at `chroma.sqlite3`.
#[derive(Debug)]
pub(super) enum DatabaseState {
    /// The persist directory is missing or is none.
    NoDirectory(&'static str),
    /// No such name in it.
    Missing(Remains),
    /// Something else.
    NotRegular(&'static str),
    /// The link of a restore that exchanges files, and whether one is at work.
    Gate { at_work: bool },
    /// A file without bytes.
    Empty(Stamp, Remains),
    /// A file; its first bytes.
    File(Stamp, Head),
    /// The operating system refused.
    Refused(Refused),
}

/// Whether a process writes, is about to, or waits for readers.
#[derive(Debug)]
pub(super) enum Writer {
    No,
    Yes,
    /// The filesystem does not tell who holds locks.
    Unknown(io::Error),
}

impl Writer {
    fn of(answer: io::Result<bool>) -> Self {
        match answer {
            Ok(true) => Self::Yes,
            Ok(false) => Self::No,
            Err(error) => Self::Unknown(error),
        }
    }
}

/// What stands at `chroma.sqlite3-wal`.
#[derive(Debug)]
pub(super) enum WalState {
    /// No such file, or one without bytes, which SQLite passes over.
    Absent,
    /// SQLite takes it for a log.
    Log {
        stamp: Stamp,
        page_bytes: u32,
        committed: wal::Committed,
    },
    /// Its header does not hold: SQLite plays nothing of it.
    Unusable(Stamp),
    Refused(Refused),
}

/// The first bytes of a database, as many as there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    bytes: [u8; sqlite::HEADER_LEN],
    len: usize,
}

impl Head {
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// What stands at `chroma.sqlite3-journal`.
#[derive(Debug)]
pub(super) enum JournalState {
    Absent,
    File {
        stamp: Stamp,
        start: journal::Start,
        page_one: PageOne,
        /// See [`journal::initial_pages_unsynced`].
        unsynced_pages: Option<u32>,
    },
    Refused(Refused),
}

/// The content of page 1 before the transaction of a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PageOne {
    /// Not looked for, or not found before the bound.
    Unknown,
    /// The journal does not have it.
    Absent,
    /// Its first bytes, from a record whose checksum holds.
    Found([u8; sqlite::HEADER_LEN]),
}

/// A file that the operating system would not give.
#[derive(Debug)]
pub(super) struct Refused {
    path: PathBuf,
    error: io::Error,
}

impl Refused {
    pub(super) fn into_problem(self) -> CollectError {
        CollectError::Unreadable { path: self.path, source: self.error }
    }
}

impl Inspection {
    /// Looks at the database in the directory `place`.
    pub(super) fn take(place: &Place, database: &Database) -> Self {
        let mut inspection = Self {
            stamps: Stamps::default(),
            database: DatabaseState::NoDirectory(""),
            journal: JournalState::Absent,
            wal: WalState::Absent,
            writer: Writer::No,
        };
        match inspect_database(place, database) {
            Ok((seen, writer_before)) => {
                inspection.database = seen;
                let written = !matches!(writer_before, Writer::No);
                inspection.journal = inspect_journal(database, &inspection.database, written);
                inspection.wal = inspect_wal(&beside(&database.real_path(), WAL_SUFFIX));
                // Asked again after the journal was read: one that belongs to a transaction of this moment is normal.
                inspection.writer = match writer_before {
                    Writer::No => writer(database),
                    known => known,
                };
            }
            Err(refused) => inspection.database = DatabaseState::Refused(refused),
        }
        inspection.stamps = Stamps::take(&database.real_path());
        inspection
    }
}

fn inspect_database(
    place: &Place,
    database: &Database,
) -> Result<(DatabaseState, Writer), Refused> {
    let dir = place.dir();
    let refused = |path: &Path, error| Refused { path: path.to_owned(), error };
    match fs::metadata(dir) {
        Ok(meta) if meta.is_dir() => {}
        Ok(meta) => return Ok((DatabaseState::NoDirectory(kind_of(&meta)), Writer::No)),
        Err(error) if absent(&error) => {
            return Ok((DatabaseState::NoDirectory("missing"), Writer::No));
        }
        Err(error) => return Err(refused(dir, error)),
    }
    let path = &*database.real_path();
    let remains = || Remains::of(place).map_err(|error| refused(dir, error));
    match fs::metadata(path) {
        Ok(meta) if meta.is_file() => {}
        Ok(_) if restores::is_gate(database.path()) => {
            let at_work = restores::seen(dir).iter().any(|one| one.is_at_work() == Some(true));
            return Ok((DatabaseState::Gate { at_work }, Writer::No));
        }
        Ok(meta) => return Ok((DatabaseState::NotRegular(kind_of(&meta)), Writer::No)),
        Err(error) if !absent(&error) => return Err(refused(path, error)),
        Err(_) if fs::symlink_metadata(database.path()).is_ok() => {
            return Ok((DatabaseState::NotRegular("a link that leads nowhere"), Writer::No));
        }
        Err(_) => return Ok((DatabaseState::Missing(remains()?), Writer::No)),
    }
    let file = match database.open_plain() {
        Ok(file) => file,
        // It vanished in between; the next look will tell.
        Err(error) if absent(&error) => {
            return Ok((DatabaseState::Missing(remains()?), Writer::No));
        }
        Err(error) => return Err(refused(path, error)),
    };
    let writer = Writer::of(file.writer());
    let mut head = Head { bytes: [0; sqlite::HEADER_LEN], len: 0 };
    head.len = file.read_up_to(&mut head.bytes, 0).map_err(|error| refused(path, error))?;
    let meta = file.metadata().map_err(|error| refused(path, error))?;
    let seen = match (meta.is_file(), meta.len()) {
        (false, _) => DatabaseState::NotRegular(kind_of(&meta)),
        (true, 0) => DatabaseState::Empty(Stamp::of(&meta), remains()?),
        (true, _) => DatabaseState::File(Stamp::of(&meta), head),
    };
    Ok((seen, writer))
}

fn writer(database: &Database) -> Writer {
    match database.open_plain() {
        Ok(file) => Writer::of(file.writer()),
        Err(_) => Writer::No,
    }
}

fn inspect_wal(path: &Path) -> WalState {
    match read_wal(path) {
        Ok(state) => state,
        Err(error) if absent(&error) => WalState::Absent,
        Err(error) => WalState::Refused(Refused { path: path.to_owned(), error }),
    }
}

fn read_wal(path: &Path) -> io::Result<WalState> {
    let file = open_bytes(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other(format!("it is {}", kind_of(&meta))));
    }
    let stamp = Stamp::of(&meta);
    if stamp.size_bytes == 0 {
        return Ok(WalState::Absent);
    }
    let mut head = [0; wal::HEADER_LEN];
    let len = read_up_to(&file, &mut head, 0)?;
    let Some(header) = wal::WalHeader::parse(&head[..len]) else {
        return Ok(WalState::Unusable(stamp));
    };
    let read =
        |at: u64, buffer: &mut [u8]| read_up_to(&file, buffer, at).map(|read| read == buffer.len());
    let mut committed = wal::walk(&header, FRAMES_MAX, read, |_| Ok(()))?;
    if committed.transactions == 0 && !committed.whole {
        // The end of its first transaction is further on.
        committed = wal::walk(&header, FRAMES_OF_FIRST_MAX, read, |_| Ok(()))?;
    }
    Ok(WalState::Log { stamp, page_bytes: header.page_bytes, committed })
}

fn inspect_journal(database: &Database, seen: &DatabaseState, writer: bool) -> JournalState {
    let path = beside(&database.real_path(), JOURNAL_SUFFIX);
    match read_journal(&path, seen, writer) {
        Ok(Some(state)) => state,
        Ok(None) => JournalState::Absent,
        Err(error) => JournalState::Refused(Refused { path, error }),
    }
}

fn read_journal(
    path: &Path,
    seen: &DatabaseState,
    writer: bool,
) -> io::Result<Option<JournalState>> {
    let file = match open_bytes(path) {
        Ok(file) => file,
        Err(error) if absent(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other(format!("it is {}", kind_of(&meta))));
    }
    let mut bytes = [0; journal::HEADER_LEN];
    let len = read_up_to(&file, &mut bytes, 0)?;
    let start = journal::Start::parse(&bytes[..len]);
    let page_one = match (&start, seen) {
        (journal::Start::Hot(header), DatabaseState::File(_, head)) if !writer => {
            let page_bytes = sqlite::SqliteHeader::parse(head.as_bytes()).map(|h| h.page_bytes);
            find_page_one(&file, header, meta.len(), page_bytes.unwrap_or(4096))?
        }
        _ => PageOne::Unknown,
    };
    let unsynced_pages = journal::initial_pages_unsynced(&bytes[..len]);
    Ok(Some(JournalState::File { stamp: Stamp::of(&meta), start, page_one, unsynced_pages }))
}

fn find_page_one(
    file: &File,
    header: &journal::JournalHeader,
    len: u64,
    page_bytes: u32,
) -> io::Result<PageOne> {
    let mut found = None;
    let read = |at: u64, buffer: &mut [u8]| match file.read_exact_at(buffer, at) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    };
    let page_bytes = header.page_bytes.unwrap_or(page_bytes);
    let ended = journal::walk(header, len, page_bytes, RECORDS_MAX, read, |record| {
        if record.page != 1 {
            return Ok(ControlFlow::Continue(()));
        }
        let mut content = vec![0; page_bytes as usize];
        let mut sum = [0; 4];
        let whole = read(record.content_at, &mut content)?
            && read(record.content_at + u64::from(page_bytes), &mut sum)?;
        found = Some(record)
            .filter(|record| whole && record.holds(&content, sum))
            .and_then(|_| content.first_chunk().copied());
        Ok(ControlFlow::Break(()))
    })?;
    Ok(match (found, ended) {
        (Some(head), _) => PageOne::Found(head),
        (None, journal::Walked::All) => PageOne::Absent,
        (None, _) => PageOne::Unknown,
    })
}

/// Most page numbers of a journal that are read to find page 1: a transaction over 256 MiB of pages.
const RECORDS_MAX: u32 = 65_536;

/// Most frames of a log that are followed in a look, 2 MiB of pages, and in search of the end of its first transaction.
const FRAMES_MAX: u32 = 512;
const FRAMES_OF_FIRST_MAX: u32 = 65_536;
