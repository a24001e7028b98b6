//! Documents and metadata of records whose tables are gone: documents from the full text, the rest from the queue, where it has every
//! operation on a record since it was made.

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, Transaction, params};
use serde_json::{Map, Value};

use crate::{
    format::schema::Family,
    human,
    repair::{
        dump::{
            catalogue,
            record::Record,
            tail::{Kind, Operation, Tail, applied},
        },
        records::has,
        recover::{Effect, Failure, LostRecord, Part},
    },
};

/// Fills `embedding_metadata`. Says with what. Errs when SQLite does.
pub(super) fn put_back(
    transaction: &Transaction<'_>,
    family: Family,
    effect: &mut Effect,
) -> Result<String, Failure> {
    let documents = if has(transaction, "embedding_fulltext_search_content", "c0")? {
        let sql = "INSERT INTO embedding_metadata(id, key, string_value) SELECT t.id, 'chroma:document', t.c0 \
                   FROM embedding_fulltext_search_content AS t JOIN embeddings AS e ON e.id = t.id WHERE typeof(t.c0) = 'text'";
        transaction.execute(sql, [])?
    } else {
        0
    };
    let mut whole = 0;
    each(transaction, family, |of, record| {
        match record {
            Some(record) => {
                write(transaction, of.rowid, &record)?;
                whole += 1;
            }
            None => effect.lost_records.push(of.lost(transaction)?),
        }
        Ok(())
    })?;
    if !effect.lost_records.is_empty() {
        effect.lose(
            "embedding_metadata",
            format!(
                "the metadata of {} records are lost, their documents apart",
                human::count(effect.lost_records.len() as f64)
            ),
        );
    }
    Ok(format!(
        "{} documents from the full text and the metadata of {} records from the queue",
        human::count(documents as f64),
        human::count(f64::from(whole))
    ))
}

/// Fills `embedding_metadata_array`. Gives the number of values. Errs when SQLite does.
pub(super) fn put_back_lists(
    transaction: &Transaction<'_>,
    effect: &mut Effect,
) -> Result<usize, Failure> {
    let (mut values, mut unknown) = (0, 0);
    each(transaction, Family::Rust, |of, record| {
        match record {
            Some(record) => values += write_lists(transaction, of.rowid, &record)?,
            None => unknown += 1,
        }
        Ok(())
    })?;
    if unknown > 0 {
        effect.lose(
            "embedding_metadata_array",
            format!(
                "lists in the metadata of {} records are lost, where they had any",
                human::count(f64::from(unknown))
            ),
        );
    }
    Ok(values)
}

/// A record of the tables.
struct Of {
    collection: String,
    id: Vec<u8>,
    rowid: i64,
}

impl Of {
    fn lost(&self, connection: &Connection) -> Result<LostRecord, Failure> {
        let sql =
            "SELECT string_value FROM embedding_metadata WHERE id = ?1 AND key = 'chroma:document'";
        let document = connection.query_row(sql, [self.rowid], |row| row.get(0)).optional()?;
        Ok(LostRecord {
            collection: self.collection.clone(),
            id: String::from_utf8_lossy(&self.id).into_owned(),
            part: Part::Metadata,
            document,
            metadata: BTreeMap::default(),
        })
    }
}

/// Calls `visit` for every record, with all that the queue proves of it; `None` when it does not know all. Errs when SQLite does.
fn each(
    transaction: &Transaction<'_>,
    family: Family,
    mut visit: impl FnMut(&Of, Option<Record>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    // Below 0.5.7 nothing was ever taken out of it.
    let oldest: Option<i64> =
        transaction.query_row("SELECT min(seq_id) FROM embeddings_queue", [], |row| row.get(0))?;
    let whole = family == Family::Oldest && oldest == Some(1);
    let mut queued =
        transaction.prepare("SELECT metadata FROM embeddings_queue WHERE seq_id = ?1")?;
    for collection in catalogue::read(transaction)? {
        let mut tail = Tail::read(transaction, &collection.id, (i64::MIN, i64::MIN))?;
        let mut operations: BTreeMap<Vec<u8>, Vec<Operation>> = tail.rest().collect();
        let mut statement = transaction
            .prepare("SELECT id, embedding_id, seq_id FROM embeddings WHERE segment_id = ?1")?;
        let mut rows = statement.query([&collection.records_segment])?;
        while let Some(row) = rows.next()? {
            let id = row.get_ref(1)?.as_bytes().unwrap_or_default().to_vec();
            let all = operations.remove(&id).unwrap_or_default();
            // What is behind the position Chroma applies itself.
            let applied_up_to = crate::store::position(row.get_ref(2)?).unwrap_or(i64::MIN);
            let all: Vec<Operation> = all
                .into_iter()
                .filter(|one| one.seq_id <= applied_up_to.max(collection.records_position))
                .collect();
            let of = Of { collection: collection.name.clone(), id, rowid: row.get(0)? };
            let record = played(&all, whole, applied_up_to, |row| {
                let text: Option<String> =
                    queued.query_row([row], |row| row.get(0)).optional()?.flatten();
                let value = text.and_then(|text| serde_json::from_str(&text).ok());
                Ok(match value {
                    Some(Value::Object(map)) => map,
                    _ => Map::new(),
                })
            })?;
            visit(&of, record)?;
        }
    }
    Ok(())
}

/// The record after its operations, of which the last one that changed it is `written_by`. `None` when it may have been there before.
/// Errs when `queued` does.
fn played(
    operations: &[Operation],
    whole: bool,
    written_by: i64,
    mut queued: impl FnMut(i64) -> Result<Map<String, Value>, Failure>,
) -> Result<Option<Record>, Failure> {
    let delete = operations.iter().rposition(|one| one.kind == Kind::Delete);
    let since = delete.map_or(0, |at| at + 1);
    let operations = &operations[since..];
    // An addition that wrote the record made it: there was none before.
    let made = operations.iter().position(|one| one.kind == Kind::Add && one.seq_id == written_by);
    let from = match (whole || delete.is_some(), made) {
        (true, _) => 0,
        (false, Some(made)) => made,
        (false, None) => return Ok(None),
    };
    let mut record = None;
    for one in &operations[from..] {
        record = applied(record, one.kind, || queued(one.seq_id))?;
    }
    Ok(record)
}

/// Writes the lists of a record. Gives the number of values. Errs when SQLite does.
pub(in crate::repair::recover) fn write_lists(
    transaction: &Transaction<'_>,
    rowid: i64,
    record: &Record,
) -> Result<usize, Failure> {
    let mut values = 0;
    for (key, value) in &record.metadata {
        for value in value.as_array().into_iter().flatten() {
            put(transaction, "embedding_metadata_array", rowid, key, value)?;
            values += 1;
        }
    }
    Ok(values)
}

/// Writes all values of a record. Its document may be there already. Errs when SQLite does.
pub(in crate::repair::recover) fn write(
    transaction: &Transaction<'_>,
    rowid: i64,
    record: &Record,
) -> Result<(), Failure> {
    for (key, text) in [("chroma:document", &record.document), ("chroma:uri", &record.uri)] {
        if let Some(text) = text {
            let sql = "INSERT OR IGNORE INTO embedding_metadata(id, key, string_value) VALUES(?1, ?2, ?3)";
            transaction.execute(sql, params![rowid, key, text])?;
        }
    }
    for (key, value) in &record.metadata {
        if !value.is_array() {
            put(transaction, "embedding_metadata", rowid, key, value)?;
        }
    }
    Ok(())
}

/// Writes one value into the column of its kind. Errs when SQLite does.
fn put(
    transaction: &Transaction<'_>,
    table: &str,
    rowid: i64,
    key: &str,
    value: &Value,
) -> Result<(), Failure> {
    let (column, cell): (&str, rusqlite::types::Value) = match value {
        Value::String(text) => ("string_value", text.clone().into()),
        Value::Bool(truth) => ("bool_value", truth.to_owned().into()),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => ("int_value", whole.into()),
            (None, Some(real)) => ("float_value", real.into()),
            (None, None) => return Ok(()),
        },
        // A sparse vector is kept as its text.
        Value::Object(_) => ("string_value", value.to_string().into()),
        Value::Null | Value::Array(_) => return Ok(()),
    };
    // The first releases have none for truths.
    if !has(transaction, table, column)? {
        return Ok(());
    }
    let sql = format!("INSERT INTO {table}(id, key, {column}) VALUES(?1, ?2, ?3)");
    transaction.prepare(&sql)?.execute(params![rowid, key, cell])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_is_put_together_only_from_all_that_was_done_to_it() {
        let rows = |row: i64| -> Result<Map<String, Value>, Failure> {
            Ok(json!({ "row": row, (format!("r{row}")): true }).as_object().unwrap().clone())
        };
        for (operations, whole, written_by, want) in [
            ("A", false, 1, Some(&["r1", "row"][..])),
            ("A", false, 0, None),
            ("U", false, 1, None),
            ("S", false, 1, None),
            ("DS", false, 2, Some(&["r2", "row"])),
            ("SU", true, 2, Some(&["r1", "r2", "row"])),
            ("AUDAU", false, 5, Some(&["r4", "r5", "row"])),
        ] {
            let operations: Vec<Operation> = (1..)
                .zip(operations.chars())
                .map(|(seq_id, letter)| Operation {
                    seq_id,
                    kind: match letter {
                        'A' => Kind::Add,
                        'U' => Kind::Update,
                        'S' => Kind::Upsert,
                        _ => Kind::Delete,
                    },
                    vector: true,
                })
                .collect();
            let record = played(&operations, whole, written_by, rows).unwrap();
            let keys = record.map(|record| record.metadata.into_keys().collect::<Vec<_>>());
            let want = want.map(|keys| keys.iter().map(|key| (*key).to_owned()).collect());
            assert_eq!(keys, want, "{operations:?}");
        }
    }
}
