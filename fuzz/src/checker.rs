//! The second checker against SQLite. What it calls whole, SQLite must call whole; damage it tells in SQLite's words, so that
//! there is nothing to compare.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{OnceLock, atomic::AtomicBool},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags};
use sqlite_live::{
    database::{Database, Limits},
    progress::Progress,
    verdict,
};

use crate::parsers::{Target, paths};

/// The checker as a target.
pub(super) fn target() -> Target {
    Target { name: "second checker", corpus: databases(), parse: compare }
}

fn compare(bytes: &[u8]) {
    static SCRATCH: OnceLock<tempfile::TempDir> = OnceLock::new();
    let scratch = SCRATCH.get_or_init(|| in_memory().expect("a directory"));
    let path = scratch.path().join("chroma.sqlite3");
    fs::write(&path, bytes).expect("a database");
    if ours(&path) {
        let sqlite = sqlites(&path);
        assert_eq!(sqlite, "ok", "called whole by the second checker");
    }
}

fn in_memory() -> std::io::Result<tempfile::TempDir> {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())
}

/// Whether the second checker calls it whole.
fn ours(path: &Path) -> bool {
    let (stop, long) = (AtomicBool::new(false), Duration::from_mins(1));
    let limits = Limits { hold: long, hold_unwaited: long, stop: &stop, progress: None };
    let database = Database::new(PathBuf::from(path));
    let (Ok(first), Ok(second)) = (database.connect(), database.connect()) else { return false };
    verdict::whole(&mut [first, second], verdict::FULL, &limits, &Progress::default())
        .result
        .is_ok_and(|verdict| verdict.lines.is_empty())
}

/// What SQLite says.
fn sqlites(path: &Path) -> String {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY);
    let said = connection.and_then(|connection| {
        connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
    });
    said.unwrap_or_else(|error| error.to_string())
}

/// Databases of real Chroma with few rows and small pages, so that every page is reached.
fn databases() -> Vec<Vec<u8>> {
    let small = |path: PathBuf| -> rusqlite::Result<Vec<u8>> {
        let scratch = tempfile::tempdir().expect("a directory");
        let copy = scratch.path().join("chroma.sqlite3");
        fs::copy(path, &copy).expect("a copy");
        let connection = Connection::open(&copy)?;
        connection.execute_batch(
            "DELETE FROM embedding_metadata WHERE id > 4;
             DELETE FROM embedding_fulltext_search WHERE rowid > 4;
             DELETE FROM embeddings WHERE id > 4;
             DELETE FROM embeddings_queue WHERE seq_id > 4;
             UPDATE migrations SET sql = '';
             INSERT INTO embedding_fulltext_search(embedding_fulltext_search) VALUES('optimize');
             PRAGMA journal_mode = DELETE;
             PRAGMA page_size = 1024;
             VACUUM;",
        )?;
        drop(connection);
        Ok(fs::read(copy).expect("the copy"))
    };
    let mut found: Vec<Vec<u8>> =
        paths("chroma.sqlite3").into_iter().filter_map(|path| small(path).ok()).collect();
    found.sort_by_key(Vec::len);
    found.truncate(6);
    assert!(!found.is_empty(), "no fixture can be made small");
    found
}
