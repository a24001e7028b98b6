//! What an answer of SQLite means. Busy is not corrupt, and what was given up is neither.

use std::{io, time::Duration};

use rusqlite::ffi::{self, ErrorCode};

use crate::FileId;

/// Why the database gave no answer to a question.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The file itself cannot be opened or read.
    #[error("cannot open the file")]
    File(#[source] io::Error),
    /// Something else stands in its place.
    #[error("it is {0}")]
    NotRegular(&'static str),
    /// It has no bytes.
    #[error("it has no bytes")]
    Empty,
    /// Another file took its place meanwhile.
    #[error("another file took its place meanwhile")]
    Replaced,
    /// SQLite has opened another file than the one that is meant.
    #[error("SQLite opened another file (device {}, inode {}) than the one that is meant (device {}, inode {}); nothing was read of it", .opened.device, .opened.inode, .meant.device, .meant.inode)]
    OtherFile {
        /// What the path leads to.
        meant: FileId,
        /// What SQLite has.
        opened: FileId,
    },
    /// It is in WAL mode or has a log: opening it would make files beside it.
    #[error(
        "it is in WAL mode, or a -wal file lies beside it; opening it would make files in the directory"
    )]
    Wal,
    /// Its filesystem gives no locks (`ENOLCK`, `EINVAL`): what is read beside a writer could be torn.
    #[error(
        "its filesystem gives no locks, so that it cannot be read safely beside a writer; run check on the host that has the disk"
    )]
    NoLocks(#[source] io::Error),
    /// A writer is at work.
    #[error("a writer is at work")]
    Busy,
    /// A transaction was cut off and waits to be rolled back (`SQLITE_READONLY_ROLLBACK`).
    #[error("an interrupted transaction waits to be rolled back")]
    HotJournal,
    /// SQLite does not take it for a database (`SQLITE_NOTADB`).
    #[error("SQLite does not take it for a database")]
    NotADatabase(#[source] rusqlite::Error),
    /// SQLite came upon damage (`SQLITE_CORRUPT` and its kin).
    #[error("SQLite came upon damage")]
    Damaged(#[source] rusqlite::Error),
    /// The operating system refused SQLite.
    #[error("SQLite cannot read it")]
    Unreadable(#[source] rusqlite::Error),
    /// Given up before the end.
    #[error("given up {0}")]
    Aborted(Abort),
    /// What was read allows no judgement.
    #[error("it cannot be judged: {0}")]
    Unjudged(&'static str),
    /// Anything else: a missing table, no memory.
    #[error("SQLite gave an error")]
    Other(#[source] rusqlite::Error),
}

/// Why a statement was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Abort {
    /// It had its time.
    #[error("after {} ms", .0.as_millis())]
    Deadline(Duration),
    /// A writer waited for its lock.
    #[error("for a writer that was waiting")]
    WriterWaiting,
    /// Its store has had all the work that it may have in a day.
    #[error("because the expensive checks of this store took as long as they may in one day")]
    UsedUp,
    /// The program comes to an end, or the caller wants no answer any more.
    #[error("because the time for it was over or the program was stopping")]
    Stopped,
}

impl From<rusqlite::Error> for QueryError {
    fn from(error: rusqlite::Error) -> Self {
        let Some(failure) = error.sqlite_error() else { return Self::Other(error) };
        match failure.code {
            _ if failure.extended_code == ffi::SQLITE_READONLY_ROLLBACK => Self::HotJournal,
            _ if LOCK_FAILURES.contains(&failure.extended_code) => {
                Self::NoLocks(io::Error::other(error))
            }
            // The schema changed between two steps: as good as busy.
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::SchemaChanged
            | ErrorCode::FileLockingProtocolFailed => Self::Busy,
            ErrorCode::TooBig => Self::Unjudged(
                "a value in it is too long to be read into memory (24 MiB), or computed when it is read",
            ),
            ErrorCode::NotADatabase => Self::NotADatabase(error),
            ErrorCode::DatabaseCorrupt => Self::Damaged(error),
            ErrorCode::SystemIoFailure
            | ErrorCode::CannotOpen
            | ErrorCode::PermissionDenied
            | ErrorCode::ReadOnly
            | ErrorCode::AuthorizationForStatementDenied => Self::Unreadable(error),
            _ => Self::Other(error),
        }
    }
}

/// What SQLite answers when a lock was refused for another reason than that somebody has it.
const LOCK_FAILURES: [i32; 4] = [
    ffi::SQLITE_IOERR_RDLOCK,
    ffi::SQLITE_IOERR_LOCK,
    ffi::SQLITE_IOERR_UNLOCK,
    ffi::SQLITE_IOERR_CHECKRESERVEDLOCK,
];

impl QueryError {
    /// The whole chain in one line.
    #[must_use]
    pub fn chain(&self) -> String {
        match std::error::Error::source(self) {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }
}
