//! How far a database is: what grows when records are written or collections are changed, and does not when Chroma only opens it.

use std::{path::Path, sync::atomic::AtomicBool};

use rusqlite::Connection;

use super::PATIENCE;
use crate::{
    repair::quarantine::Mark,
    store::database::{Database, Limits},
};

/// Reads it; `None` when it cannot be read.
pub(in crate::repair) fn of(database: &Path) -> Option<Mark> {
    let stop = AtomicBool::new(false);
    let limits = Limits { hold: PATIENCE, hold_unwaited: PATIENCE, stop: &stop, progress: None };
    let database = Database::new(database.to_owned());
    let mut connection = database.connect().ok()?;
    connection.within(&limits, ask).result.ok()
}

fn ask(connection: &Connection) -> rusqlite::Result<Mark> {
    let sql = "SELECT max(seq_id) FROM embeddings_queue";
    let queue = connection.query_row(sql, [], |row| row.get(0))?;
    let mut statement = connection.prepare("SELECT id, name FROM collections ORDER BY id")?;
    let collections = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(Mark { queue, collections: collections.collect::<rusqlite::Result<_>>()? })
}
