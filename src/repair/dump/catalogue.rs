//! Which collections there are, and what the tables say of one record. The columns are those of all releases since 0.4.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{
    Connection,
    Error::FromSqlConversionFailure,
    OptionalExtension, Row, Statement,
    types::{Type, ValueRef},
};
use serde_json::{Map, Value};

use super::{Metadata, record::Record};
use crate::{
    format::config::space_of,
    repair::records::{collections_sql, has, text},
    store::position,
};

/// A collection, and where its records and vectors are.
#[derive(Debug, Clone, Default)]
pub(in crate::repair) struct Collection {
    pub(in crate::repair) id: String,
    pub(in crate::repair) name: String,
    pub(in crate::repair) tenant: String,
    pub(in crate::repair) database: String,
    pub(in crate::repair) space: Option<String>,
    pub(in crate::repair) dimension: Option<u64>,
    pub(in crate::repair) metadata: Metadata,
    /// As Chroma keeps it: `schema_str` since 1.3, `config_json_str` before.
    pub(in crate::repair) configuration: Option<Value>,
    pub(in crate::repair) records: u64,
    pub(in crate::repair) records_segment: String,
    /// How far the queue is in the tables.
    pub(in crate::repair) records_position: i64,
    pub(in crate::repair) vectors_segment: Option<String>,
    /// How far the queue is in the index, where the tables say so.
    pub(in crate::repair) vectors_position: Option<i64>,
}

impl Collection {
    /// What collections are ordered by.
    pub(in crate::repair) fn place(&self) -> (&str, &str, &str, &str) {
        (&self.tenant, &self.database, &self.name, &self.id)
    }
}

/// Reads all of them. Errs when SQLite does.
pub(in crate::repair) fn read(connection: &Connection) -> rusqlite::Result<Vec<Collection>> {
    let positions = positions(connection)?;
    let mut segments: BTreeMap<(String, bool), String> = BTreeMap::new();
    each(connection, "SELECT collection, scope, id FROM segments ORDER BY rowid", |row| {
        let vectors = text(row, 1)? == "VECTOR";
        segments.entry((text(row, 0)?, vectors)).or_insert(text(row, 2)?);
        Ok(())
    })?;
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    // Only for how far it is: a damaged index is told when the records are read.
    let counted =
        each(connection, "SELECT segment_id, count(*) FROM embeddings GROUP BY 1", |row| {
            counts.insert(text(row, 0)?, row.get_ref(1)?.as_i64().map_or(0, i64::unsigned_abs));
            Ok(())
        });
    if let Err(error) = counted {
        tracing::debug!(%error, "Records cannot be counted.");
    }
    let mut metadata = collection_metadata(connection)?;
    let sql = collections_sql(connection)?;
    let rows = rows(connection, &sql).or_else(|_| {
        // The index over the names of databases is damaged; what it is made of may not be.
        rows(connection, &sql.replace("databases d ON", "databases d NOT INDEXED ON"))
    })?;
    let mut out = Vec::new();
    for CollectionRow { id, name, tenant, database, dimension, schema, config } in rows {
        let metadata = metadata.remove(&id).unwrap_or_default();
        let reported = metadata.get("hnsw:space").and_then(Value::as_str);
        let space = space_of(schema.as_deref(), config.as_deref(), reported);
        let parsed = |text: Option<String>| {
            let value: Value = serde_json::from_str(&text?).ok()?;
            (value.as_object().is_some_and(|object| !object.is_empty())).then_some(value)
        };
        let records_segment = segments.remove(&(id.clone(), false)).unwrap_or_default();
        let vectors_segment = segments.remove(&(id.clone(), true));
        out.push(Collection {
            name,
            tenant,
            database,
            // Chroma takes l2 when nothing else is said.
            space: space.or_else(|| Some("l2".to_owned())),
            dimension,
            metadata,
            configuration: parsed(schema).or_else(|| parsed(config)),
            records: counts.get(&records_segment).copied().unwrap_or_default(),
            records_position: positions.get(&records_segment).copied().unwrap_or_default(),
            vectors_position: vectors_segment.as_ref().and_then(|id| positions.get(id).copied()),
            records_segment,
            vectors_segment,
            id,
        });
    }
    Ok(out)
}

/// A row of the table of collections.
struct CollectionRow {
    id: String,
    name: String,
    tenant: String,
    database: String,
    dimension: Option<u64>,
    schema: Option<String>,
    config: Option<String>,
}

fn rows(connection: &Connection, sql: &str) -> rusqlite::Result<Vec<CollectionRow>> {
    let mut out = Vec::new();
    each(connection, sql, |row| {
        let optional = |at| row.get_ref(at).map(|value| value.as_str().ok().map(str::to_owned));
        out.push(CollectionRow {
            id: text(row, 0)?,
            name: text(row, 1)?,
            tenant: text(row, 2)?,
            database: text(row, 3)?,
            dimension: row.get_ref(4)?.as_i64().ok().and_then(|n| u64::try_from(n).ok()),
            schema: optional(5)?,
            config: optional(6)?,
        });
        Ok(())
    })?;
    Ok(out)
}

/// How far the queue is in each segment. Errs when SQLite does.
fn positions(connection: &Connection) -> rusqlite::Result<BTreeMap<String, i64>> {
    let mut out = BTreeMap::new();
    each(connection, "SELECT segment_id, seq_id FROM max_seq_id", |row| {
        out.extend(position(row.get_ref(1)?).map(|at| (text(row, 0).unwrap_or_default(), at)));
        Ok(())
    })?;
    Ok(out)
}

fn collection_metadata(connection: &Connection) -> rusqlite::Result<BTreeMap<String, Metadata>> {
    let mut out: BTreeMap<String, Metadata> = BTreeMap::new();
    let boolean = column_or_null(connection, "collection_metadata", "bool_value")?;
    let sql = format!(
        "SELECT collection_id, key, str_value, int_value, float_value, {boolean} FROM collection_metadata"
    );
    each(connection, &sql, |row| {
        let value = typed(row, 2)?;
        out.entry(text(row, 0)?).or_default().insert(text(row, 1)?, value);
        Ok(())
    })?;
    Ok(out)
}

/// Asks for one record after the other.
pub(in crate::repair) struct Asker<'a> {
    connection: &'a Connection,
    metadata: Statement<'a>,
    /// Lists, which 1.5 brought.
    arrays: Option<Statement<'a>>,
    queued: Statement<'a>,
    vector: Statement<'a>,
    /// Whether the tables were read without their indexes, and whether that worked.
    copied: Option<bool>,
    /// Keys whose value is a number that JSON does not have, and which were therefore left out.
    infinite: BTreeSet<String>,
}

impl<'a> Asker<'a> {
    /// Prepares the questions. Errs when SQLite does.
    pub(in crate::repair) fn new(connection: &'a Connection) -> rusqlite::Result<Self> {
        let boolean = column_or_null(connection, METADATA, "bool_value")?;
        let metadata = connection.prepare(&asks(METADATA, boolean))?;
        let arrays = if has(connection, ARRAYS, "key")? {
            Some(connection.prepare(&asks(ARRAYS, "bool_value"))?)
        } else {
            None
        };
        let queued =
            connection.prepare("SELECT metadata FROM embeddings_queue WHERE seq_id = ?1")?;
        let vector = connection
            .prepare("SELECT vector, encoding FROM embeddings_queue WHERE seq_id = ?1")?;
        Ok(Self {
            connection,
            metadata,
            arrays,
            queued,
            vector,
            copied: None,
            infinite: BTreeSet::new(),
        })
    }

    /// What the tables have of the record in row `rowid`. When an index of theirs is damaged, they are read to their end once.
    /// Errs when SQLite does, and reading to the end does not help.
    pub(in crate::repair) fn record(&mut self, rowid: i64) -> rusqlite::Result<Record> {
        match self.ask(rowid) {
            Err(error) if self.copied.is_none() => {
                let copied = self.copy_tables();
                self.copied = Some(copied.is_ok());
                match copied {
                    Ok(()) => self.ask(rowid),
                    Err(_) => Err(error),
                }
            }
            asked => asked,
        }
    }

    /// Whether an index was damaged and the tables were not.
    pub(in crate::repair) fn went_without_index(&self) -> bool {
        self.copied == Some(true)
    }

    /// Which keys were left out since this was asked last, because JSON has no such number.
    pub(in crate::repair) fn take_infinite(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.infinite)
    }

    fn ask(&mut self, rowid: i64) -> rusqlite::Result<Record> {
        let mut record = Record::default();
        let mut rows = self.metadata.query([rowid])?;
        while let Some(row) = rows.next()? {
            let value = typed(row, 1)?;
            if is_infinite(row, 1, &value)? {
                self.infinite.insert(text(row, 0)?);
            }
            record.set(text(row, 0)?, value);
        }
        drop(rows);
        if let Some(arrays) = &mut self.arrays {
            let mut rows = arrays.query([rowid])?;
            let mut lists: BTreeMap<String, Vec<Value>> = BTreeMap::new();
            while let Some(row) = rows.next()? {
                let value = typed(row, 1)?;
                if is_infinite(row, 1, &value)? {
                    self.infinite.insert(text(row, 0)?);
                }
                lists.entry(text(row, 0)?).or_default().push(value);
            }
            lists.retain(|key, _| !self.infinite.contains(key));
            record.metadata.extend(lists.into_iter().map(|(key, list)| (key, list.into())));
        }
        Ok(record)
    }

    /// Copies the tables, without their indexes, to temporary ones of this connection, on the disk. Errs when a table itself is damaged:
    /// then the records are lost that stand there, and no others.
    fn copy_tables(&mut self) -> rusqlite::Result<()> {
        let connection = self.connection;
        let boolean = column_or_null(connection, METADATA, "bool_value")?;
        let copy = |table: &str, boolean: &str| -> rusqlite::Result<Statement<'a>> {
            connection.execute_batch(&format!(
                "CREATE TEMP TABLE IF NOT EXISTS copied_{table} AS \
                 SELECT id, key, string_value, int_value, float_value, {boolean} AS bool_value \
                 FROM {table} NOT INDEXED ORDER BY rowid; \
                 CREATE INDEX IF NOT EXISTS temp.copied_{table}_id ON copied_{table}(id)"
            ))?;
            connection.prepare(&asks(&format!("copied_{table}"), "bool_value"))
        };
        let metadata = copy(METADATA, boolean)?;
        let arrays = self.arrays.as_ref().map(|_| copy(ARRAYS, "bool_value")).transpose()?;
        (self.metadata, self.arrays) = (metadata, arrays);
        Ok(())
    }

    /// The metadata of a row of the queue; empty when it has none. Errs when what it has is no JSON.
    pub(in crate::repair) fn queued(
        &mut self,
        seq_id: i64,
    ) -> rusqlite::Result<Map<String, Value>> {
        let text: Option<String> =
            self.queued.query_row([seq_id], |row| row.get(0)).optional()?.flatten();
        let Some(text) = text else { return Ok(Map::new()) };
        let (map, words): (Option<Map<String, Value>>, bool) = match serde_json::from_str(&text) {
            Ok(map) => (map, false),
            Err(error) => match serde_json::from_str(&finite(&text)) {
                Ok(map) => (map, true),
                Err(_) => return Err(FromSqlConversionFailure(0, Type::Text, Box::new(error))),
            },
        };
        let mut map = map.unwrap_or_default();
        for (key, value) in &mut map {
            // 1.5 writes null for such a number in a list, and cannot read it again.
            let list = value.as_array().is_some_and(|list| list.iter().any(Value::is_null));
            if list {
                *value = Value::Null;
            }
            if list || words && value.is_null() {
                self.infinite.insert(key.clone());
            } else {
                // What comes later counts.
                self.infinite.remove(key);
            }
        }
        Ok(map)
    }

    /// The vector of a row of the queue; `None` when it has none that can be read. Errs when SQLite does.
    pub(in crate::repair) fn vector(&mut self, seq_id: i64) -> rusqlite::Result<Option<Vec<f32>>> {
        let mut rows = self.vector.query([seq_id])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        let Ok(bytes) = row.get_ref(0)?.as_blob() else { return Ok(None) };
        let numbers = bytes.as_chunks::<4>().0.iter();
        Ok(match row.get_ref(1)?.as_str() {
            Ok("FLOAT32") => Some(numbers.map(|bytes| f32::from_le_bytes(*bytes)).collect()),
            #[expect(clippy::cast_precision_loss, reason = "Chroma makes the same of it")]
            Ok("INT32") => Some(numbers.map(|bytes| i32::from_le_bytes(*bytes) as f32).collect()),
            _ => None,
        })
    }
}

/// The question for the keys of one record. The values of a list have the order of their rows.
fn asks(table: &str, boolean: &str) -> String {
    format!(
        "SELECT key, string_value, int_value, float_value, {boolean} FROM {table} WHERE id = ?1"
    ) + if table.ends_with(ARRAYS) { " ORDER BY rowid" } else { "" }
}

const METADATA: &str = "embedding_metadata";
const ARRAYS: &str = "embedding_metadata_array";

/// The value of four columns, of which one is filled: text, whole number, number, truth. Errs when SQLite does.
fn typed(row: &Row<'_>, first: usize) -> rusqlite::Result<Value> {
    if let Ok(text) = row.get_ref(first)?.as_bytes() {
        return Ok(String::from_utf8_lossy(text).into_owned().into());
    }
    if let ValueRef::Integer(number) = row.get_ref(first + 1)? {
        return Ok(number.into());
    }
    match row.get_ref(first + 2)? {
        ValueRef::Real(number) => return Ok(number.into()),
        #[expect(
            clippy::cast_precision_loss,
            reason = "SQLite stores whole numbers so, to save room"
        )]
        ValueRef::Integer(number) => return Ok((number as f64).into()),
        _ => {}
    }
    Ok(match row.get_ref(first + 3)? {
        ValueRef::Integer(truth) => (truth != 0).into(),
        _ => Value::Null,
    })
}

/// Whether the value that `typed` made of these columns is null because JSON has no such number. Errs when SQLite does.
fn is_infinite(row: &Row<'_>, first: usize, value: &Value) -> rusqlite::Result<bool> {
    Ok(value.is_null() && matches!(row.get_ref(first + 2)?, ValueRef::Real(_)))
}

/// Python writes `NaN`, `Infinity` and `-Infinity` where JSON has no number. Outside of texts they become null.
fn finite(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find('"') {
        out.push_str(&without_words(&rest[..at]));
        // Its end is the first quote that is not escaped.
        let mut escaped = false;
        let end = rest[at + 1..].bytes().position(|byte| {
            let ends = byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        });
        let end = end.map_or(rest.len(), |end| at + 1 + end + 1);
        out.push_str(&rest[at..end]);
        rest = &rest[end..];
    }
    out + &without_words(rest)
}

fn without_words(text: &str) -> String {
    ["-Infinity", "Infinity", "NaN"]
        .iter()
        .fold(text.to_owned(), |text, word| text.replace(word, "null"))
}

fn column_or_null(
    connection: &Connection,
    table: &str,
    column: &'static str,
) -> rusqlite::Result<&'static str> {
    Ok(if has(connection, table, column)? { column } else { "NULL" })
}

fn each(
    connection: &Connection,
    sql: &str,
    mut visit: impl FnMut(&Row<'_>) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        visit(row)?;
    }
    Ok(())
}
