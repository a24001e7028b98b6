//! What was copied in the middle of a transaction is brought to its end on the copy, as the next start of Chroma would do it: a hot journal
//! is rolled back, a write-ahead log is written to the database. Before that nothing can be said of it.

use std::{fs, io::Read, os::unix::fs::FileExt, path::Path};

use rusqlite::{Connection, OpenFlags};

use super::{Opened, Options, UnpackError};
use crate::{
    format::{
        journal::HEADER_LEN,
        sqlite::{self, SqliteHeader},
    },
    repair::steps::Steps,
    store::DATABASE_FILE,
};

/// Settles the copy, after making one where it was looked at in place. What cannot be settled is left as it is, and the checks say so.
/// Errs when the disk does.
pub(super) fn settle(
    opened: &mut Opened,
    options: &Options,
    steps: &Steps,
) -> Result<(), UnpackError> {
    let database = opened.dir.join(DATABASE_FILE);
    let (journal, wal) =
        (beside(&database, sqlite::JOURNAL_SUFFIX), beside(&database, sqlite::WAL_SUFFIX));
    let wal_mode = || {
        let mut head = [0; sqlite::HEADER_LEN];
        let read = fs::File::open(&database).and_then(|mut file| file.read_exact(&mut head));
        read.is_ok() && SqliteHeader::parse(&head).is_ok_and(|header| header.wal)
    };
    let what = if bytes(&wal) > 0 || wal_mode() {
        "the write-ahead log beside the database was written to it, as the next start does"
    } else if bytes(&journal) >= HEADER_LEN as u64 && begins_as_journal(&journal) {
        "a transaction was cut off, and was rolled back as the next start of Chroma does"
    } else {
        return Ok(());
    };
    // SQLite removes the file that a journal names, and reads whatever it is.
    if names_another(&journal) {
        opened.damage.push(
            "the journal beside the database names another file, which Chroma's never do: it was not played"
                .to_owned(),
        );
        return Ok(());
    }
    if super::super::proof::is_foreign(&opened.dir) {
        return Ok(());
    }
    if !opened.is_scratch() {
        super::directory::copy(opened, options, steps)?;
    }
    match play(&opened.dir.join(DATABASE_FILE)) {
        Ok(()) => opened.notes.push(what.to_owned()),
        Err(error) => {
            opened
                .notes
                .push(format!("the journal beside the database could not be played: {error}"));
        }
    }
    Ok(())
}

/// Opens the database for writing, which plays what is beside it. Errs when SQLite does.
pub(in crate::repair) fn play(database: &Path) -> rusqlite::Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(database, flags)?;
    connection
        .execute_batch("PRAGMA trusted_schema=OFF; PRAGMA mmap_size=0; PRAGMA cache_size=-8192;")?;
    let _: i64 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let mode: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0))?;
    if mode == "wal" {
        let _: String = connection.query_row("PRAGMA journal_mode=DELETE", [], |row| row.get(0))?;
    }
    connection.close().map_err(|(_, error)| error)
}

fn beside(database: &Path, suffix: &str) -> std::path::PathBuf {
    crate::store::database::beside(database, suffix)
}

fn bytes(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |meta| meta.len())
}

/// A journal of which the first bytes are zeros was ended, and SQLite does not play it.
fn begins_as_journal(path: &Path) -> bool {
    let mut magic = [0; 8];
    let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && magic == JOURNAL_MAGIC
}

/// Whether a journal ends with the name of a super-journal (`readSuperJournal` in SQLite's `pager.c`).
pub(in crate::repair) fn names_another(path: &Path) -> bool {
    let Ok(file) = fs::File::open(path) else { return false };
    let end = bytes(path);
    let mut magic = [0; 8];
    end >= 16 && file.read_exact_at(&mut magic, end - 8).is_ok() && magic == JOURNAL_MAGIC
}

const JOURNAL_MAGIC: [u8; 8] = [0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];
