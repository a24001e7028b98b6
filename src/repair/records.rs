//! What the tables of a copy hold of each collection. One read transaction over a database that nobody writes to.

use std::{collections::BTreeMap, sync::atomic::AtomicBool, time::Duration};

use rusqlite::{Connection, OptionalExtension, Row};

use crate::{
    format::config::space_of,
    store::database::{Database, Limits, QueryError},
};

/// A collection as the tables have it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tables {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) tenant: String,
    pub(super) database: String,
    pub(super) space: Option<String>,
    pub(super) dimension: Option<u64>,
    pub(super) records: u64,
    pub(super) documents: u64,
}

/// Reads all collections, in the order of their ids, at most [`COLLECTIONS_MAX`].
/// Errs when the database cannot be opened, SQLite does, or `stop` is set.
pub(super) fn read(database: &Database, stop: &AtomicBool) -> Result<Vec<Tables>, QueryError> {
    let mut connection = database.connect()?;
    let limits = Limits { hold: PATIENCE, hold_unwaited: PATIENCE, stop, progress: None };
    connection.within(&limits, ask).result
}

/// Rows of the queue behind `position` of the index, by the id of the collection.
/// Errs when the database cannot be opened, SQLite does, or `stop` is set.
pub(super) fn queued(
    database: &Database,
    positions: &BTreeMap<String, Option<i64>>,
    stop: &AtomicBool,
) -> Result<BTreeMap<String, u64>, QueryError> {
    let mut connection = database.connect()?;
    let limits = Limits { hold: PATIENCE, hold_unwaited: PATIENCE, stop, progress: None };
    connection
        .within(&limits, |connection| {
            let mut counts = BTreeMap::new();
            let mut statement = connection.prepare("SELECT topic, seq_id FROM embeddings_queue")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let Ok(topic) = row.get_ref(0)?.as_str() else { continue };
                let collection = topic.rsplit('/').next().unwrap_or_default();
                let seq_id = row.get_ref(1)?.as_i64().unwrap_or(i64::MAX);
                if let Some(position) = positions.get(collection)
                    && position.is_none_or(|position| seq_id > position)
                {
                    *counts.entry(collection.to_owned()).or_default() += 1;
                }
            }
            Ok(counts)
        })
        .result
}

fn ask(connection: &Connection) -> rusqlite::Result<Vec<Tables>> {
    let records = counts(connection, "SELECT segment_id, count(*) FROM embeddings GROUP BY 1")?;
    let documents = counts(
        connection,
        "SELECT e.segment_id, count(*) FROM embedding_metadata m JOIN embeddings e ON e.id = m.id \
         WHERE m.key = 'chroma:document' AND m.string_value IS NOT NULL GROUP BY 1",
    )?;
    let mut segments: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let sql = "SELECT collection, id FROM segments WHERE scope = 'METADATA'";
    each(connection, sql, |row| {
        segments.entry(text(row, 0)?).or_default().push(text(row, 1)?);
        Ok(())
    })?;
    let mut spaces = BTreeMap::new();
    if has(connection, "collection_metadata", "str_value")? {
        let sql =
            "SELECT collection_id, str_value FROM collection_metadata WHERE key = 'hnsw:space'";
        each(connection, sql, |row| {
            spaces.insert(text(row, 0)?, text(row, 1)?);
            Ok(())
        })?;
    }
    let sql = format!("{} ORDER BY c.id", collections_sql(connection)?);
    let mut out = Vec::new();
    each(connection, &sql, |row| {
        let id = text(row, 0)?;
        let optional = |at| row.get_ref(at).map(|value| value.as_str().ok().map(str::to_owned));
        let (schema, config) = (optional(5)?, optional(6)?);
        let metadata = spaces.get(&id).map(String::as_str);
        let of = |counts: &BTreeMap<String, u64>| {
            let own = segments.get(&id).into_iter().flatten();
            own.filter_map(|segment| counts.get(segment)).sum()
        };
        out.push(Tables {
            name: text(row, 1)?,
            tenant: text(row, 2)?,
            database: text(row, 3)?,
            // Chroma takes l2 when nothing else is said.
            space: space_of(schema.as_deref(), config.as_deref(), metadata)
                .or_else(|| Some("l2".to_owned())),
            dimension: row.get_ref(4)?.as_i64().ok().and_then(|n| u64::try_from(n).ok()),
            records: of(&records),
            documents: of(&documents),
            id,
        });
        Ok(())
    })?;
    Ok(out)
}

/// The question for all collections: id, name, tenant, database, dimension, `schema_str` and `config_json_str`, with null for columns
/// that this release has not. Errs when SQLite does.
pub(super) fn collections_sql(connection: &Connection) -> rusqlite::Result<String> {
    let column = |name: &str| -> rusqlite::Result<String> {
        Ok(if has(connection, "collections", name)? {
            format!("c.{name}")
        } else {
            "NULL".to_owned()
        })
    };
    // Before 0.4.15 there were neither databases nor tenants.
    let (database, tenant, join) = if has(connection, "collections", "database_id")? {
        ("d.name", "d.tenant_id", "LEFT JOIN databases d ON d.id = c.database_id")
    } else {
        ("'default_database'", "'default_tenant'", "")
    };
    Ok(format!(
        "SELECT c.id, c.name, {tenant}, {database}, {}, {}, {} FROM collections c {join}",
        column("dimension")?,
        column("schema_str")?,
        column("config_json_str")?,
    ))
}

/// Whether the table is there and has this column. Errs when SQLite does.
pub(super) fn has(connection: &Connection, table: &str, column: &str) -> rusqlite::Result<bool> {
    let sql = "SELECT 1 FROM pragma_table_info(?1) WHERE name = ?2";
    let found = connection.query_row(sql, (table, column), |_| Ok(())).optional()?;
    Ok(found.is_some())
}

fn counts(connection: &Connection, sql: &str) -> rusqlite::Result<BTreeMap<String, u64>> {
    let mut out = BTreeMap::new();
    each(connection, sql, |row| {
        out.insert(text(row, 0)?, row.get_ref(1)?.as_i64().map_or(0, i64::unsigned_abs));
        Ok(())
    })?;
    Ok(out)
}

/// A text; what else may stand in its place is told by the checks. Errs when there is no such column.
pub(super) fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    Ok(row.get_ref(column)?.as_str().unwrap_or_default().to_owned())
}

fn each(
    connection: &Connection,
    sql: &str,
    mut visit: impl FnMut(&Row<'_>) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    for _ in 0..COLLECTIONS_MAX {
        let Some(row) = rows.next()? else { break };
        visit(row)?;
    }
    Ok(())
}

/// More than Chroma bears.
const COLLECTIONS_MAX: usize = 200_000;
/// Nobody waits for the lock on a copy.
const PATIENCE: Duration = Duration::from_hours(1);
