//! How far the queue is in each segment: put back where that is lost.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Transaction, types::Value};

use super::Failure;
use crate::{
    format::{parts::INDEX_FILES, pickle},
    repair::dump::Pieces,
    store::{database::open_if_there, position},
};

/// Puts positions where a segment has none: that of the newest record for its records, and for its index what the folder says. One that
/// is behind a deletion does no harm: Chroma passes over what is not there. Says how many.
/// Errs when SQLite does, or a folder cannot be read.
pub(super) fn put_back(transaction: &Transaction<'_>, dir: &Path) -> Result<usize, Failure> {
    let newest = "INSERT INTO max_seq_id(segment_id, seq_id) SELECT s.id, max(e.seq_id) FROM segments AS s \
         JOIN embeddings AS e ON e.segment_id = s.id WHERE s.id NOT IN (SELECT segment_id FROM max_seq_id) GROUP BY s.id";
    let mut put = transaction.execute(newest, [])?;
    let sql = "SELECT id FROM segments WHERE scope = 'VECTOR' AND id NOT IN (SELECT segment_id FROM max_seq_id)";
    let mut statement = transaction.prepare(sql)?;
    let segments = statement.query_map([], |row| row.get::<_, String>(0))?;
    for segment in segments.collect::<rusqlite::Result<Vec<_>>>()? {
        if let Some(position) = flushed(&dir.join(&segment))? {
            put += insert(transaction, None, &segment, position)?;
        }
    }
    Ok(put)
}

/// The newest row of the queue that anything names; 0 when nothing does. Errs when SQLite does.
pub(super) fn newest(connection: &Connection) -> rusqlite::Result<i64> {
    let sql = "SELECT max(seq_id) FROM main.embeddings UNION ALL SELECT max(seq_id) FROM main.max_seq_id UNION ALL SELECT max(seq_id) FROM main.embeddings_queue";
    let mut statement = connection.prepare(sql)?;
    let positions = statement.query_map([], |row| Ok(position(row.get_ref(0)?)))?;
    let positions: Vec<Option<i64>> = positions.collect::<rusqlite::Result<_>>()?;
    Ok(positions.into_iter().flatten().max().unwrap_or(0))
}

/// Writes a position, with this number of its row or the next one. Says how many rows that are. Errs when SQLite does.
pub(super) fn insert(
    connection: &Connection,
    row: Option<i64>,
    segment: &str,
    position: i64,
) -> rusqlite::Result<usize> {
    let sql = "INSERT OR REPLACE INTO max_seq_id(rowid, segment_id, seq_id) VALUES(?1, ?2, ?3)";
    connection.execute(sql, (row, segment, value(connection, position)?))
}

/// A position in the form in which this release keeps them: bytes before 1.0. Errs when SQLite does.
pub(super) fn value(connection: &Connection, position: i64) -> rusqlite::Result<Value> {
    let sql = "SELECT upper(type) FROM pragma_table_info('max_seq_id') WHERE name = 'seq_id'";
    let kind: Option<String> = connection.query_row(sql, [], |row| row.get(0)).optional()?;
    Ok(match kind.as_deref() {
        Some("BLOB") => Value::Blob(position.to_be_bytes().to_vec()),
        _ => Value::Integer(position),
    })
}

/// How far the queue is in the index in `folder`, as its metadata say; `None` when there is none. Errs when they cannot be read.
pub(super) fn flushed(folder: &Path) -> Result<Option<i64>, Failure> {
    let Some(file) = open_if_there(&folder.join(INDEX_FILES[4]))? else { return Ok(None) };
    match pickle::read(Pieces(file), pickle::Limits::default(), &mut |_, _| {}) {
        Ok(read) => {
            let position = read.max_seq_id.or(read.newest_seq_id);
            Ok(position.and_then(|position| i64::try_from(position).ok()))
        }
        Err(pickle::ReadError::Source(error)) => Err(error.into()),
        Err(pickle::ReadError::Content(error)) => Err(Failure::Damaged(format!(
            "How far the queue is in an index is not known: {} cannot be read ({error}).",
            INDEX_FILES[4]
        ))),
    }
}
