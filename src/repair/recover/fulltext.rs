//! The full text of a database that is written anew: as it was where it is whole, or made anew from the documents.

use rusqlite::Connection;

use super::{Failure, LostDocument};
use crate::human;

/// The full-text table among names and texts of a schema: its text.
pub(super) fn table<'a>(
    entries: impl Iterator<Item = (&'a str, Option<&'a str>)>,
) -> Option<&'a str> {
    entries.filter(|(name, _)| *name == TABLE).find_map(|(_, sql)| sql)
}

/// Whether a table is the full-text table or one of those that SQLite keeps for it.
pub(super) fn is_part(name: &str) -> bool {
    name.strip_prefix(TABLE).is_some_and(|end| end.is_empty() || SHADOWS.contains(&end))
}

/// Makes the full text of the new database `main` from `old`, whose other tables are copied. `sql` is what the old schema says of it.
/// Says what was done. Errs when the schema says something else, or SQLite does.
pub(super) fn make(
    connection: &Connection,
    sql: Option<&str>,
    anew: bool,
) -> Result<String, Failure> {
    let sql = sql.unwrap_or(CREATE);
    if !sql.starts_with("CREATE VIRTUAL TABLE ") || !sql.to_ascii_lowercase().contains("fts5") {
        return Err(Failure::Damaged("The full-text table is none that Chroma makes.".to_owned()));
    }
    connection.execute(sql, [])?;
    if !anew {
        for shadow in SHADOWS {
            connection.execute_batch(&format!(
                "DELETE FROM main.{TABLE}{shadow}; INSERT INTO main.{TABLE}{shadow} SELECT * FROM old.{TABLE}{shadow}"
            ))?;
        }
        return Ok(", with the full text as it was".to_owned());
    }
    // Chroma's own SQLite indexes a text up to the first U+0000, and would call an index of more than that damaged.
    let count = connection.execute(
        &format!(
            "INSERT INTO main.{TABLE}(rowid, string_value) SELECT id, \
             CASE WHEN instr(string_value, char(0)) > 0 THEN substr(string_value, 1, instr(string_value, char(0)) - 1) ELSE string_value END \
             FROM main.embedding_metadata WHERE key = 'chroma:document' AND string_value IS NOT NULL ORDER BY id"
        ),
        [],
    )?;
    connection.execute(
        &format!(
            "UPDATE main.{TABLE}_content SET c0 = (SELECT string_value FROM main.embedding_metadata AS m WHERE m.id = {TABLE}_content.id AND m.key = 'chroma:document') \
             WHERE id IN (SELECT id FROM main.embedding_metadata WHERE key = 'chroma:document' AND instr(string_value, char(0)) > 0)"
        ),
        [],
    )?;
    let count = human::count(count as f64);
    Ok(format!(", and the full text was made anew from {count} documents"))
}

/// Texts of live records that have no document, and that are not the document of another one either: a table that has texts at wrong
/// numbers has lost none. The upgrade from Chroma before 0.4.6 also puts every other text of the metadata there, by the number of its row.
/// It may be the document that they lost, or one that a deleted record left. Errs when SQLite does.
pub(super) fn only_there(connection: &Connection) -> Result<Vec<LostDocument>, Failure> {
    let sql = format!(
        "WITH documents(text, number) AS (SELECT string_value, count(*) FROM main.embedding_metadata \
         WHERE key = 'chroma:document' AND string_value IS NOT NULL GROUP BY 1), \
         texts(text, number) AS (SELECT t.c0, count(*) FROM old.{TABLE}_content AS t \
         JOIN main.embeddings AS e ON e.id = t.id WHERE typeof(t.c0) = 'text' GROUP BY 1) \
         SELECT coalesce(c.name, ''), e.embedding_id, t.c0 FROM old.{TABLE}_content AS t \
         JOIN texts ON texts.text = t.c0 LEFT JOIN documents ON documents.text = t.c0 \
         JOIN main.embeddings AS e ON e.id = t.id \
         LEFT JOIN main.segments AS s ON s.id = e.segment_id LEFT JOIN main.collections AS c ON c.id = s.collection \
         WHERE typeof(t.c0) = 'text' AND texts.number > coalesce(documents.number, 0) AND NOT EXISTS \
         (SELECT 1 FROM main.embedding_metadata AS m WHERE m.id = t.id AND m.key = 'chroma:document' AND m.string_value IS NOT NULL) \
         AND NOT EXISTS (SELECT 1 FROM main.embedding_metadata AS m WHERE m.rowid = t.id AND m.string_value = t.c0) \
         ORDER BY e.id"
    );
    let text = |row: &rusqlite::Row<'_>, at| -> rusqlite::Result<String> {
        Ok(String::from_utf8_lossy(row.get_ref(at)?.as_bytes().unwrap_or_default()).into_owned())
    };
    let read = || -> rusqlite::Result<Vec<LostDocument>> {
        let mut statement = connection.prepare(&sql)?;
        let rows = statement.query_map([], |row| {
            Ok(LostDocument {
                collection: text(row, 0)?,
                id: text(row, 1)?,
                document: text(row, 2)?,
            })
        })?;
        rows.collect()
    };
    match read() {
        Ok(lost) => Ok(lost),
        Err(error)
            if error.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationInterrupted) =>
        {
            Err(error.into())
        }
        // The table is gone or damaged: then it has nothing that could be kept.
        Err(error) => {
            tracing::debug!(%error, "Texts of the full text not compared.");
            Ok(Vec::new())
        }
    }
}

const TABLE: &str = "embedding_fulltext_search";
/// What follows its name in those of the tables that FTS5 keeps.
const SHADOWS: [&str; 5] = ["_data", "_idx", "_content", "_docsize", "_config"];
/// As every Chroma from 0.4.6 on makes it.
const CREATE: &str =
    "CREATE VIRTUAL TABLE embedding_fulltext_search USING fts5(string_value, tokenize='trigram')";
