//! What of a damaged database is lost, each row by what an index still says of it.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, types::ValueRef};

use super::{Failure, Found, model::Table, trees::Hole, writer::named};
use crate::{
    human,
    repair::recover::{Effect, LostRecord, LostRow, Part, positions, rows::shown},
    store::position,
};

/// Says in `effect` what is lost. Returns whether a document is. Errs when SQLite does.
pub(super) fn tell(
    connection: &Connection,
    effect: &mut Effect,
    all: &[Found<'_>],
) -> Result<bool, Failure> {
    let mut document = false;
    // Chroma writes its rows anew at each start.
    let of_use = |found: &&Found<'_>| !found.is_whole() && found.table.name != "acquire_write";
    for found in all.iter().filter(of_use) {
        let table = found.table;
        let rows = rows(connection, table)?;
        document |= rows.iter().any(|row| row.what.starts_with(DOCUMENT));
        if !rows.is_empty() {
            let count = human::count(rows.len() as f64);
            effect.lose(&table.name, format!("{count} rows of the table {}", table.name));
        }
        let nameless = rows.iter().any(|row| row.id.is_none());
        effect.lost_rows.extend(rows);
        if table.name == "embedding_metadata" && (nameless || !found.indexes_hold) {
            bare(connection, effect)?;
        }
        if table.name == "embeddings_queue" {
            let words = queue(connection, found)?;
            if let Some(words) = words {
                effect.lose(&table.name, words);
            }
        } else if !(found.indexes_hold || found.holes.is_empty() && found.refused.is_empty()) {
            // Where a whole tree is gone, it may have had no row.
            effect.lose(
                &table.name,
                format!(
                    "rows of the table {} that nothing names any more, if there were any",
                    table.name
                ),
            );
            document |= table.name == "embedding_metadata";
        }
    }
    Ok(document)
}

/// Names the records that have nothing but their id and vector now. Where no index says whose a lost row was, it was one of theirs, or of
/// a record that has lost a part of its metadata. Errs when SQLite does.
fn bare(connection: &Connection, effect: &mut Effect) -> Result<(), Failure> {
    let sql = "SELECT c.name, e.embedding_id FROM main.embeddings AS e \
         LEFT JOIN main.segments AS s ON s.id = e.segment_id LEFT JOIN main.collections AS c ON c.id = s.collection \
         WHERE NOT EXISTS (SELECT 1 FROM main.embedding_metadata AS m WHERE m.id = e.id) ORDER BY e.id";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |row| {
        Ok((shown(row.get_ref(0)?).unwrap_or_default(), shown(row.get_ref(1)?).unwrap_or_default()))
    })?;
    let rows: Vec<(String, String)> = rows.collect::<rusqlite::Result<_>>()?;
    let named: BTreeSet<(&str, &str)> = effect
        .lost_rows
        .iter()
        .filter_map(|row| Some((row.collection.as_deref()?, row.id.as_deref()?)))
        .collect();
    let unnamed: Vec<LostRecord> = rows
        .into_iter()
        .filter(|(collection, id)| !named.contains(&(collection, id)))
        .map(|(collection, id)| LostRecord {
            collection,
            id,
            part: Part::AllMetadata,
            document: None,
            metadata: BTreeMap::new(),
        })
        .collect();
    if !unnamed.is_empty() {
        let count = human::count(unnamed.len() as f64);
        effect.lose("embedding_metadata", format!(
            "document and metadata of {count} records, if they had any: which lost rows were theirs is not known"
        ));
    }
    effect.lost_records.extend(unnamed);
    Ok(())
}

/// Takes out metadata of records that are lost themselves: Chroma would give it to the next new records, which get their numbers. Says
/// in `effect` what that was, and returns whether a document is among it. Errs when SQLite does.
pub(super) fn strays(
    connection: &Connection,
    effect: &mut Effect,
    all: &[Found<'_>],
) -> Result<bool, Failure> {
    let records = all.iter().find(|found| found.table.name == "embeddings");
    // Where an index names every record that a page lost, what belongs to none of them was left by Chroma.
    let Some(records) = records.filter(|found| !found.is_whole() && !found.indexes_hold) else {
        return Ok(false);
    };
    let (mut document, mut values) = (false, 0_usize);
    for found in all {
        let table = found.table;
        if !["embedding_metadata", "embedding_metadata_array"].contains(&&*table.name)
            || table.column("id").is_none()
        {
            continue;
        }
        let of_none = "NOT EXISTS (SELECT 1 FROM main.embeddings AS e WHERE e.id = m.id)";
        let id = table.columns.iter().position(|column| column.name == "id").unwrap_or_default();
        let sql = format!("SELECT m.rowid, m.* FROM main.\"{}\" AS m WHERE {of_none}", table.name);
        let mut statement = connection.prepare(&sql)?;
        let mut rows = statement.query([])?;
        let mut lost = Vec::new();
        while let Some(row) = rows.next()? {
            if !matches!(row.get_ref(id + 1)?, ValueRef::Integer(id) if records.lacks(id)) {
                continue;
            }
            let mut what = Vec::new();
            for (nth, column) in table.columns.iter().enumerate().filter(|(nth, _)| *nth != id) {
                let value = shown(row.get_ref(nth + 1)?);
                what.extend(value.map(|value| format!("{} {value}", column.name)));
            }
            let (table, what) = (table.name.clone(), what.join(", "));
            lost.push(LostRow { table, row: row.get(0)?, collection: None, id: None, what });
        }
        let sql = format!("DELETE FROM main.\"{}\" WHERE rowid = ?1", table.name);
        let mut delete = connection.prepare(&sql)?;
        for row in &lost {
            delete.execute([row.row])?;
        }
        document |= lost.iter().any(|row| row.what.starts_with(DOCUMENT));
        values += lost.len();
        effect.lost_rows.extend(lost);
    }
    if values > 0 {
        let values = human::count(values as f64);
        let words = format!("{values} values and documents of records whose ids are lost");
        effect.lose("embeddings", words);
    }
    Ok(document)
}

/// Keeps the last number of the queue when its last rows are lost: without that, Chroma gives the numbers once more, and passes over what
/// is written under them. The row belongs to no collection, so that nobody applies it. Errs when SQLite does.
pub(super) fn keep_the_last_number(
    connection: &Connection,
    all: &[Found<'_>],
) -> Result<(), Failure> {
    let lacks = |found: &Found<'_>| found.table.name == "embeddings_queue" && !found.is_whole();
    if !all.iter().any(lacks) {
        return Ok(());
    }
    let newest = positions::newest(connection)?;
    let sql = "INSERT OR IGNORE INTO main.embeddings_queue(seq_id, operation, topic, id) \
         SELECT ?1, 3, 'persistent://default/default/00000000-0000-0000-0000-000000000000', 'lost' \
         WHERE ?1 > 0 AND ?1 > (SELECT coalesce(max(seq_id), 0) FROM main.embeddings_queue)";
    connection.execute(sql, [newest])?;
    Ok(())
}

/// The rows that an index names, and of which it does not say enough. Errs when SQLite does.
fn rows(connection: &Connection, table: &Table) -> Result<Vec<LostRow>, Failure> {
    let known: Vec<usize> =
        table.indexes.iter().flat_map(|index| index.columns.iter().copied()).collect();
    let mut columns: Vec<usize> = (0..table.columns.len()).collect();
    columns.retain(|column| known.contains(column));
    let list: Vec<String> = columns.iter().map(|column| format!(", named.c{column}")).collect();
    let list = list.concat();
    // Whose it is: the record, and its collection.
    let (of, record) = match (&*table.name, table.column("id")) {
        ("embedding_metadata" | "embedding_metadata_array", Some(id)) => {
            ("c.name, e.embedding_id", format!("e.id = named.c{id}"))
        }
        ("embeddings", _) => ("c.name, NULL", "FALSE".to_owned()),
        _ => ("NULL, NULL", "FALSE".to_owned()),
    };
    let segment = match (&*table.name, table.column("segment_id")) {
        ("embeddings", Some(segment)) => format!("named.c{segment}"),
        _ => "e.segment_id".to_owned(),
    };
    let sql = format!(
        "SELECT named.n, {of}{list} FROM temp.{} AS named LEFT JOIN main.embeddings AS e ON {record} \
         LEFT JOIN main.segments AS s ON s.id = {segment} LEFT JOIN main.collections AS c ON c.id = s.collection ORDER BY named.n",
        named(table)
    );
    let mut statement = connection.prepare(&sql)?;
    let rows = statement.query_map([], |row| {
        let mut what = Vec::new();
        let mut id = shown(row.get_ref(2)?);
        for (at, column) in columns.iter().enumerate() {
            let Some(value) = shown(row.get_ref(at + 3)?) else { continue };
            let name = &*table.columns[*column].name;
            if table.name == "embeddings" && name == "embedding_id" {
                id = Some(value);
            } else if id.is_none() || name != "id" {
                what.push(format!("{name} {value}"));
            }
        }
        Ok(LostRow {
            table: table.name.clone(),
            row: row.get(0)?,
            collection: shown(row.get_ref(1)?),
            id,
            what: what.join(", "),
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Rows of the queue that are gone: no index names them. What every segment has applied is no loss. Errs when SQLite does.
fn queue(connection: &Connection, found: &Found<'_>) -> Result<Option<String>, Failure> {
    let applied = applied(connection)?;
    let newest = positions::newest(connection)?;
    let refused = found.refused.iter().map(|row| Hole { first: *row, last: *row });
    let holes = found.holes.iter().copied().chain(refused);
    let (mut count, mut first, mut last) = (0_u64, i64::MAX, i64::MIN);
    let mut open = false;
    for hole in holes {
        // Chroma counts from 1.
        let (from, to) = (hole.first.max(applied.saturating_add(1)).max(1), hole.last.min(newest));
        open |= hole.last > newest;
        if from <= to {
            count = count.saturating_add(to.abs_diff(from).saturating_add(1));
            (first, last) = (first.min(from), last.max(to));
        }
    }
    let (count, and) = (
        human::count(count as f64),
        if open { ", and what was written after that, if anything" } else { "" },
    );
    Ok(match (first <= last, open) {
        (true, _) => Some(format!(
            "at most {count} rows of the queue, with seq_id from {first} to {last}{and}"
        )),
        (false, true) => {
            Some(format!("rows of the queue with a seq_id above {newest}, if there were any"))
        }
        (false, false) => None,
    })
}

/// Up to where every segment has applied the queue; 0 when that is not known of one. Errs when SQLite does.
pub(super) fn applied(connection: &Connection) -> Result<i64, Failure> {
    let sql = "SELECT s.id, m.seq_id FROM main.segments AS s LEFT JOIN main.max_seq_id AS m ON m.segment_id = s.id";
    let mut statement = connection.prepare(sql)?;
    let positions = statement.query_map([], |row| Ok(position(row.get_ref(1)?)))?;
    let positions: Vec<Option<i64>> = positions.collect::<rusqlite::Result<_>>()?;
    Ok(positions.into_iter().map(|one| one.unwrap_or(0)).min().unwrap_or(0))
}

/// What is said of a document.
const DOCUMENT: &str = "key chroma:document";
