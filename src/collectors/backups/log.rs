//! Whether a backup has the rows that are in the write-ahead log of the store alone. SQLite plays a `-wal` whatever the header of
//! the database says of its mode, so that a copy of `chroma.sqlite3` without the log lacks them. One that was made by SQLite itself
//! (`.backup`) has them and looks the same from the outside: that is why what is said is "unknown".

use std::{io, time::UNIX_EPOCH};

use super::{
    entry::{Fault, Reason},
    holds::Holds,
};
use crate::{
    clock::Timestamp,
    format::{
        sqlite::WAL_SUFFIX,
        wal::{self, WalHeader},
    },
    store::{
        Context,
        database::{beside, is_absent, open_bytes, read_up_to},
    },
};

/// What the log of the store says.
#[derive(Debug, Default)]
pub(super) enum Log {
    /// Nothing that SQLite would play.
    #[default]
    Nothing,
    /// Committed transactions.
    Rows {
        /// How many there are, at least.
        transactions: u32,
        /// Since when the file is there: a backup that was made before was made without it.
        since: Timestamp,
    },
    /// It may not be read.
    Unreadable,
}

impl Log {
    /// Looks at the beginning of the log of the store.
    pub(super) fn of(context: &Context) -> Self {
        match Self::read(context) {
            Ok(log) => log,
            Err(error) if is_absent(&error) => Self::Nothing,
            Err(_) => Self::Unreadable,
        }
    }

    fn read(context: &Context) -> io::Result<Self> {
        let file = open_bytes(&beside(&context.database.real_path(), WAL_SUFFIX))?;
        let meta = file.metadata()?;
        let mut head = [0; wal::HEADER_LEN];
        let len = read_up_to(&file, &mut head, 0)?;
        let Some(header) = WalHeader::parse(&head[..len]) else { return Ok(Self::Nothing) };
        let read = |at: u64, buffer: &mut [u8]| {
            read_up_to(&file, buffer, at).map(|read| read == buffer.len())
        };
        let committed = wal::walk(&header, FRAMES_MAX, read, |_| Ok(()))?;
        if committed.transactions == 0 && committed.whole {
            return Ok(Self::Nothing);
        }
        // Where the filesystem does not keep when it was made, the last write has to do.
        let born = meta.created().or_else(|_| meta.modified())?;
        let since = born.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let since = Timestamp::from_secs(i64::try_from(since).unwrap_or(i64::MAX));
        Ok(Self::Rows { transactions: committed.transactions.max(1), since })
    }

    /// What is to be said of a backup that is whole otherwise and was all there at `complete_by`; `None` when its rows are all
    /// known to be in it.
    pub(super) fn lacking(&self, complete_by: Timestamp, holds: Option<&Holds>) -> Option<Fault> {
        if holds.is_some_and(|holds| holds.log) {
            return None;
        }
        let words = match self {
            Self::Rows { transactions, since } if *since <= complete_by => format!(
                "the store has a chroma.sqlite3-wal with at least {transactions} committed transaction(s), and the backup has none: a plain copy of chroma.sqlite3 lacks their rows, one made by the .backup command of sqlite3 has them. Put chroma.sqlite3-wal into the backup as well"
            ),
            Self::Unreadable => "the store has a chroma.sqlite3-wal that may not be read, and the backup has none: whether rows are missing in it is not known".to_owned(),
            _ => return None,
        };
        Some(Fault::new(Reason::Unknown, words))
    }
}

/// 2 MiB of pages: one committed transaction is enough.
const FRAMES_MAX: u32 = 512;
