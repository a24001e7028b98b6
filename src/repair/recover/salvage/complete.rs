//! Rows that are put together from what indexes say of them. An index has the number of a row and its key, often also its value; the
//! full text has every document. Where all that Chroma gives its users of a row is known, the row is written; what only Chroma itself
//! uses is made from the rest. Where anything else is missing, the row is lost.

use std::{collections::BTreeSet, fs::File, os::unix::fs::FileExt, path::Path};

use chroma_format::{
    hnsw::{HEADER_LEN, Header},
    uuid::parse_uuid,
};
use rusqlite::{Connection, OptionalExtension, params, types::Value};

use super::{
    Failure, Found,
    model::Table,
    writer::{named, quoted},
};
use crate::{
    repair::recover::{Gone, positions},
    store::database::open_bytes,
};

/// Writes the rows that are known enough, of the database in the directory `store`. `with_text` says whether there is a full text. Says how many rows were written.
/// Errs when SQLite does, or a folder cannot be read.
pub(super) fn complete(
    connection: &Connection,
    store: &Path,
    all: &[Found<'_>],
    with_text: bool,
    gone: &mut Gone,
) -> Result<u64, Failure> {
    let lacking = |name: &str| {
        let found = all.iter().find(|found| found.table.name == name && !found.is_whole());
        found.map(|found| found.table)
    };
    let mut count = 0;
    for found in all.iter().filter(|found| !found.is_whole()) {
        count += take(connection, found.table, &every(found.table), &[])?;
    }
    if let Some(table) = lacking("collections") {
        count += collections(connection, table, &mut gone.settings)?;
        gone.rows = true;
        dimensions(connection, store)?;
    }
    if let Some(table) = lacking("embeddings") {
        count += embeddings(connection, table)?;
    }
    if let Some(table) = lacking("max_seq_id") {
        count += put_positions(connection, table, store)?;
    }
    for name in ["embedding_metadata", "embedding_metadata_array"] {
        if let Some(table) = lacking(name) {
            count += metadata(connection, table, with_text)?;
        }
    }
    Ok(count)
}

/// A bit for each of these columns; `None` when the table has not all of them.
fn bits(table: &Table, columns: &[&str]) -> Option<u64> {
    columns.iter().try_fold(0, |bits, column| Some(bits | 1 << table.column(column)?))
}

/// The column of the table beside that has what indexes say of this one.
fn place(table: &Table, column: &str) -> String {
    table.column(column).map_or_else(|| "NULL".to_owned(), |nth| format!("named.c{nth}"))
}

/// That all columns of a table are known.
fn every(table: &Table) -> String {
    let kept = table.columns.iter().enumerate().filter(|(_, column)| !column.is_row);
    let all = kept.fold(0_u64, |all, (nth, _)| all | 1 << (nth % 64));
    format!("k & {all} = {all}")
}

/// Writes the rows of which indexes say enough; `made` are columns with the SQL of what they get. Says how many. Errs when SQLite does.
fn take(
    connection: &Connection,
    table: &Table,
    enough: &str,
    made: &[(&str, String)],
) -> Result<u64, Failure> {
    let kept = || table.columns.iter().enumerate().filter(|(_, column)| !column.is_row);
    let names: Vec<String> = kept().map(|(_, column)| quoted(&column.name)).collect();
    let value = |(nth, column): (usize, &super::model::Column)| {
        let made = made.iter().find(|(name, _)| *name == column.name);
        made.map_or_else(|| format!("c{nth}"), |(_, sql)| sql.clone())
    };
    let values: Vec<String> = kept().map(value).collect();
    let beside = named(table);
    let count = connection.execute(
        &format!(
            "INSERT OR IGNORE INTO main.\"{}\"(rowid, {}) SELECT n, {} FROM temp.{beside} AS named WHERE {enough} ORDER BY n",
            table.name,
            names.join(", "),
            values.join(", "),
        ),
        [],
    )?;
    let there =
        format!("DELETE FROM temp.{beside} WHERE n IN (SELECT rowid FROM main.\"{}\")", table.name);
    connection.execute(&there, [])?;
    Ok(count as u64)
}

/// Most values of metadata stand in an index, from Chroma 0.5 on all but those that are true or false. The queue may know the others.
/// Every document stands in the full text too. Errs when SQLite does.
fn metadata(connection: &Connection, table: &Table, with_text: bool) -> Result<u64, Failure> {
    let columns = ["id", "key", "string_value", "int_value", "float_value"];
    let (Some(own), Some(_)) = (bits(table, &columns[..2]), bits(table, &columns)) else {
        return Ok(0);
    };
    let value = bits(table, &columns[2..]).unwrap_or_default();
    let text = bits(table, &["string_value"]).unwrap_or_default();
    let (id, key) = (place(table, "id"), place(table, "key"));
    if let (true, "embedding_metadata", Some(string)) =
        (with_text, &*table.name, table.column("string_value"))
    {
        let text_of = format!(
            "(SELECT t.c0 FROM main.embedding_fulltext_search_content AS t WHERE t.id = {id} AND typeof(t.c0) = 'text')"
        );
        connection.execute(
            &format!(
                "UPDATE temp.{} AS named SET c{string} = {text_of}, k = k | {text} \
                 WHERE {key} = 'chroma:document' AND k & {own} = {own} AND k & {value} = 0 AND {text_of} IS NOT NULL",
                named(table)
            ),
            [],
        )?;
    }
    let queued = queued_values(connection, table, (own, value), (&id, &key))?;
    take(connection, table, &format!("k & {own} = {own} AND k & {} > 0", value | queued), &[])
}

/// What the newest operation of the queue on a record and a key says is what the table had, or what Chroma is going to write there. Takes
/// the values that no index has from it. Gives the bits of their columns. Errs when SQLite does.
fn queued_values(
    connection: &Connection,
    table: &Table,
    (own, value): (u64, u64),
    (id, key): (&str, &str),
) -> Result<u64, Failure> {
    let lacking = format!("k & {own} = {own} AND k & {value} = 0");
    let any = format!("SELECT EXISTS (SELECT 1 FROM temp.{} WHERE {lacking})", named(table));
    if table.name != "embedding_metadata" || !connection.query_row(&any, [], |row| row.get(0))? {
        return Ok(0);
    }
    // Beside max() SQLite takes the other columns from the row that has it.
    connection.execute_batch(
        "CREATE TABLE temp.queued AS SELECT substr(q.topic, -36) AS collection, q.id AS id, j.key AS key, j.type AS kind, j.value AS value, \
         max(q.seq_id) AS newest FROM main.embeddings_queue AS q, \
         json_each(CASE WHEN typeof(q.metadata) = 'text' AND json_valid(q.metadata) THEN q.metadata ELSE '{}' END) AS j GROUP BY 1, 2, 3; \
         CREATE INDEX temp.queued_by_id ON queued(id)",
    )?;
    let mut bits = 0;
    for (column, kinds) in [
        ("string_value", "'text'"),
        ("int_value", "'integer'"),
        ("float_value", "'real'"),
        ("bool_value", "'true', 'false'"),
    ] {
        let Some(column) = table.column(column) else { continue };
        let bit = 1_u64 << column;
        let said = format!(
            "(SELECT q.value FROM main.embeddings AS e JOIN main.segments AS s ON s.id = e.segment_id \
             JOIN temp.queued AS q ON q.id = e.embedding_id AND q.collection = s.collection AND q.key = {key} \
             WHERE e.id = {id} AND q.kind IN ({kinds}))"
        );
        let sql = format!(
            "UPDATE temp.{} AS named SET c{column} = {said}, k = k | {bit} WHERE {lacking} AND {said} IS NOT NULL",
            named(table)
        );
        connection.execute(&sql, [])?;
        bits |= bit;
    }
    connection.execute_batch("DROP TABLE temp.queued")?;
    Ok(bits)
}

/// The index has segment and id. Position and time are used by Chroma alone: the position is that of the last operation in the queue,
/// or that of the record before. Errs when SQLite does.
fn embeddings(connection: &Connection, table: &Table) -> Result<u64, Failure> {
    let Some(own) = bits(table, &["segment_id", "embedding_id"]) else { return Ok(0) };
    let (segment, id) = (place(table, "segment_id"), place(table, "embedding_id"));
    let rows: Vec<(i64, String, String)> = {
        let sql = format!(
            "SELECT n, {segment}, {id} FROM temp.{} AS named WHERE k & {own} = {own} \
             AND typeof({segment}) = 'text' AND typeof({id}) = 'text' ORDER BY n",
            named(table)
        );
        let mut statement = connection.prepare(&sql)?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        rows.collect::<rusqlite::Result<_>>()?
    };
    let queued = "SELECT max(q.seq_id) FROM main.embeddings_queue AS q JOIN main.segments AS s \
         ON q.topic LIKE '%' || s.collection WHERE q.id = ?2 AND s.id = ?1";
    let near = |order: &str| {
        format!("SELECT seq_id, created_at FROM main.embeddings WHERE id {order} LIMIT 1")
    };
    let insert = "INSERT OR IGNORE INTO main.embeddings(id, segment_id, embedding_id, seq_id, created_at) VALUES(?1, ?2, ?3, ?4, ?5)";
    let mut queued = connection.prepare(queued)?;
    let mut near = [
        connection.prepare(&near("< ?1 ORDER BY id DESC"))?,
        connection.prepare(&near("> ?1 ORDER BY id"))?,
    ];
    let mut insert = connection.prepare(insert)?;
    let mut count = 0;
    for (number, segment, id) in rows {
        let queued: Option<i64> = queued.query_row(params![segment, id], |row| row.get(0))?;
        let (mut seq_id, mut time) =
            (first_position(connection)?, Value::Text("1970-01-01 00:00:00".to_owned()));
        for statement in &mut near {
            let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
            if let Some(found) = statement.query_row([number], row).optional()? {
                (seq_id, time) = found;
                break;
            }
        }
        let seq_id = match (queued, seq_id) {
            (Some(queued), Value::Blob(_)) => Value::Blob(queued.to_be_bytes().to_vec()),
            (Some(queued), _) => Value::Integer(queued),
            (None, near) => near,
        };
        count += insert.execute(params![number, segment, id, seq_id, time])? as u64;
    }
    let there =
        format!("DELETE FROM temp.{} WHERE n IN (SELECT rowid FROM main.embeddings)", named(table));
    connection.execute(&there, [])?;
    Ok(count)
}

/// A position before every other. Errs when SQLite does.
pub(super) fn first_position(connection: &Connection) -> Result<Value, Failure> {
    Ok(positions::value(connection, 0)?)
}

/// The index has the segment. From Chroma 1.0 on a position that is too low does no harm: what the queue still has is applied once more.
/// So the position is the highest that is certain: that of the records of the segment, or the one before the queue of its collection.
/// Before 1.0 an index that is given what it has fails; there its own metadata say how far it is.
fn put_positions(connection: &Connection, table: &Table, store: &Path) -> Result<u64, Failure> {
    let (Some(own), false) = (bits(table, &["segment_id"]), bits(table, &["seq_id"]).is_none())
    else {
        return Ok(0);
    };
    let segment = place(table, "segment_id");
    let mut of_indexes = 0;
    let first = match first_position(connection)? {
        Value::Blob(_) => {
            of_indexes = positions_of_indexes(connection, table, store)?;
            "zeroblob(8)"
        }
        _ => "0",
    };
    let made = format!(
        "coalesce((SELECT max(e.seq_id) FROM main.embeddings AS e WHERE e.segment_id = {segment}), {first})"
    );
    Ok(of_indexes + take(connection, table, &format!("k & {own} = {own}"), &[("seq_id", made)])?)
}

fn positions_of_indexes(
    connection: &Connection,
    table: &Table,
    store: &Path,
) -> Result<u64, Failure> {
    let segment = place(table, "segment_id");
    let sql = format!(
        "SELECT named.n, s.id FROM temp.{} AS named JOIN main.segments AS s ON s.id = {segment} WHERE s.scope = 'VECTOR'",
        named(table)
    );
    let mut statement = connection.prepare(&sql)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let rows: Vec<(i64, String)> = rows.collect::<rusqlite::Result<_>>()?;
    let mut count = 0;
    for (row, segment) in rows {
        // Without a folder that can be read there is nothing that could be given twice.
        if let Ok(Some(position)) = positions::flushed(&store.join(&segment)) {
            count += positions::insert(connection, Some(row), &segment, position)? as u64;
        }
    }
    Ok(count)
}

/// Two indexes have id, name and database. The dimension stands in the queue and in the folder of the vectors; whose settings are
/// lost is kept in `settings`. Errs when SQLite does.
fn collections(
    connection: &Connection,
    table: &Table,
    settings: &mut BTreeSet<String>,
) -> Result<u64, Failure> {
    let Some(own) = bits(table, &["id", "name", "database_id"]) else { return Ok(0) };
    let known = format!("k & {own} = {own}");
    let has_settings =
        ["config_json_str", "schema_str"].iter().any(|name| table.column(name).is_some());
    if has_settings {
        let id = place(table, "id");
        let sql = format!(
            "SELECT CAST({id} AS TEXT) FROM temp.{} AS named WHERE {known} ORDER BY n",
            named(table)
        );
        let mut statement = connection.prepare(&sql)?;
        let ids = statement.query_map([], |row| row.get::<_, String>(0))?;
        settings.extend(ids.collect::<rusqlite::Result<Vec<_>>>()?);
    }
    let topic = format!("'persistent://default/default/' || {}", place(table, "id"));
    take(connection, table, &known, &[("topic", topic)])
}

/// Puts a dimension into the collections that were put together. Errs when SQLite does, or a folder cannot be read.
pub(in crate::repair::recover) fn dimensions(
    connection: &Connection,
    store: &Path,
) -> Result<(), Failure> {
    let sql = "SELECT c.id, s.id FROM main.collections AS c LEFT JOIN main.segments AS s ON s.collection = c.id AND s.scope = 'VECTOR' WHERE c.dimension IS NULL";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let rows: Vec<(String, Option<String>)> = rows.collect::<rusqlite::Result<_>>()?;
    for (collection, segment) in rows {
        let sql = "SELECT length(vector) / 4 FROM main.embeddings_queue WHERE topic LIKE '%' || ?1 AND typeof(vector) = 'blob' AND encoding = 'FLOAT32' LIMIT 1";
        let queued: Option<i64> =
            connection.query_row(sql, [&collection], |row| row.get(0)).optional()?;
        let dimension = match (queued, segment) {
            (Some(queued), _) => Some(queued),
            (None, Some(segment)) if parse_uuid(segment.as_bytes()).is_some() => {
                of_folder(&store.join(segment).join("header.bin"))
            }
            _ => None,
        };
        if let Some(dimension) = dimension.filter(|dimension| *dimension > 0) {
            let sql = "UPDATE main.collections SET dimension = ?2 WHERE id = ?1";
            connection.execute(sql, params![collection, dimension])?;
        }
    }
    Ok(())
}

fn of_folder(header: &Path) -> Option<i64> {
    let mut head = [0; HEADER_LEN];
    let file: File = open_bytes(header).ok()?;
    file.read_exact_at(&mut head, 0).ok()?;
    i64::try_from(Header::parse(&head).ok()?.dimension).ok()
}
