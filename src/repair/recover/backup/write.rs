//! Records, documents and metadata of a backup, written into the tables of a copy.

use std::path::Path;

use rusqlite::{Connection, params};

use super::{
    super::{Failure, fulltext, positions, rows, tables::metadata},
    Backup, Given, gone,
    plan::Plan,
};
use crate::{
    repair::{
        dump::catalogue::{Asker, Collection},
        records::has,
        steps::Steps,
    },
    store::DATABASE_FILE,
};

/// Writes what was planned, in one transaction, and makes the collections `back` anew before. Says what each collection got. Errs without a
/// change.
pub(super) fn write(
    dir: &Path,
    backup: &Backup,
    all: &[(Collection, Plan)],
    back: &[&str],
    steps: &Steps,
) -> Result<Vec<Given>, Failure> {
    let named = |(collection, _): &(Collection, Plan)| Given {
        collection: collection.name.clone(),
        ..Given::default()
    };
    let mut given: Vec<Given> = all.iter().map(named).collect();
    if back.is_empty() && all.iter().all(|(_, plan)| plan.fills.is_empty()) {
        return Ok(given);
    }
    let mut connection = rows::open(&dir.join(DATABASE_FILE))?;
    let transaction = connection.transaction()?;
    for id in back {
        gone::insert(&transaction, &backup.connection, id, backup.newest)?;
    }
    let mut asker = Asker::new(&backup.connection)?;
    let lists = has(&transaction, "embedding_metadata_array", "key")?;
    for ((collection, plan), given) in all.iter().zip(&mut given) {
        for fill in &plan.fills {
            if steps.stopped() {
                return Err(std::io::Error::from(std::io::ErrorKind::Interrupted).into());
            }
            let Some(record) = fill.record.read(&mut asker)? else { continue };
            let row = match fill.row {
                Some(row) => row,
                None => insert(&transaction, &collection.records_segment, &fill.id, fill.version)?,
            };
            transaction.execute("DELETE FROM embedding_metadata WHERE id = ?1", [row])?;
            metadata::write(&transaction, row, &record)?;
            if lists {
                transaction.execute("DELETE FROM embedding_metadata_array WHERE id = ?1", [row])?;
                metadata::write_lists(&transaction, row, &record)?;
            }
            if fill.row.is_some() { given.metadata += 1 } else { given.records += 1 }
        }
    }
    let searched: Option<String> = {
        let sql = "SELECT name, sql FROM sqlite_schema WHERE type = 'table'";
        let mut statement = transaction.prepare(sql)?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let rows: Vec<(String, Option<String>)> = rows.collect::<rusqlite::Result<_>>()?;
        let all = rows.iter().map(|(name, sql)| (&**name, sql.as_deref()));
        fulltext::table(all).map(str::to_owned)
    };
    if let Some(sql) = searched {
        transaction.execute_batch("DROP TABLE embedding_fulltext_search")?;
        fulltext::make(&transaction, Some(&sql), true)?;
    }
    transaction.commit()?;
    connection.close().map_err(|(_, error)| error)?;
    Ok(given)
}

/// Makes a record anew, under a number that nothing has. Gives the number. Errs when SQLite does.
fn insert(connection: &Connection, segment: &str, id: &str, version: i64) -> Result<i64, Failure> {
    let sql = "INSERT INTO embeddings(id, segment_id, embedding_id, seq_id, created_at) \
         SELECT 1 + max(coalesce((SELECT max(id) FROM embeddings), 0), coalesce((SELECT max(id) FROM embedding_metadata), 0)), \
         ?1, ?2, ?3, CURRENT_TIMESTAMP";
    connection.execute(sql, params![segment, id, positions::value(connection, version)?])?;
    Ok(connection.last_insert_rowid())
}
