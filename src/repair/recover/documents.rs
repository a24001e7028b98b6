//! Documents of which the two copies differ: the one in the table of metadata, and the one in the content of the full text. Each was
//! taken into an index when it was written, and an index says which of the two it took. Where none does, both are named.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, types::ValueRef};

use super::{Effect, Failure, LostDocument, rows};
use crate::{human, store::DATABASE_FILE};

/// Writes the copy that an index took over the other one. Where no index says which, the copy in the table of metadata stays, which
/// Chroma gives, and the other one is a loss. Errs without a change.
pub(super) fn put_right(dir: &Path) -> Result<Effect, Failure> {
    let mut connection = rows::open(&dir.join(DATABASE_FILE))?;
    let transaction = connection.transaction()?;
    let records = differing(&transaction)?;
    let by_value = values(&transaction, &records)?;
    let (mut table, mut full_text, mut open) = (Vec::new(), Vec::new(), Vec::new());
    for (record, by_value) in records.into_iter().zip(by_value) {
        let of = match record.valid() {
            Some(only) => Some(only),
            None => one(by_value, by_trigrams(&transaction, &record)),
        };
        match of {
            Some(Which::Table) => table.push(record),
            Some(Which::FullText) => full_text.push(record),
            None => open.push(record),
        }
    }
    let mut effect = Effect::default();
    if !full_text.is_empty() {
        // An entry that does not say what its row says cannot be taken out by SQLite.
        let index = index(&transaction)?;
        if let Some((name, _)) = &index {
            transaction.execute_batch(&format!("DROP INDEX \"{name}\""))?;
        }
        let sql = "UPDATE embedding_metadata SET string_value = ?2 WHERE id = ?1 AND key = 'chroma:document'";
        let mut update = transaction.prepare(sql)?;
        for record in &full_text {
            update.execute((record.number, text(&record.full_text)))?;
        }
        if let Some((_, sql)) = &index {
            transaction.execute_batch(sql)?;
        }
    }
    let losing = open.iter().map(|record| record.named(&transaction)).collect::<Result<_, _>>()?;
    effect.lost_documents = losing;
    let sql = "UPDATE embedding_fulltext_search_content SET c0 = ?2 WHERE id = ?1";
    let mut update = transaction.prepare(sql)?;
    // Where its index took neither, the full text is found to be damaged now, and is made anew.
    for record in table.iter().chain(&open) {
        update.execute((record.number, text(&record.table)))?;
    }
    drop(update);
    transaction.commit()?;
    connection.close().map_err(|(_, error)| error)?;
    let number = |records: &[Record]| human::count(records.len() as f64);
    let mut words = Vec::new();
    for (records, damaged, from) in [
        (&full_text, "the table of metadata", "the full text"),
        (&table, "the full text", "the table of metadata"),
    ] {
        if !records.is_empty() {
            let number = number(records);
            words.push(format!(
                "{number} documents that were damaged in {damaged} were taken from {from}, which an index confirms"
            ));
        }
    }
    if !open.is_empty() {
        let number = number(&open);
        words.push(format!("{number} documents were left as the table of metadata has them"));
        effect.lose("embedding_metadata", format!(
            "of {number} documents there are two copies that differ, and no index says which is right: the one that Chroma gives was kept, the other one is in the report"
        ));
    }
    effect.what = words.join("; ");
    Ok(effect)
}

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Table,
    FullText,
}

/// A record whose copies differ, as bytes.
struct Record {
    /// In the table of records.
    number: i64,
    /// In the table of metadata.
    row: i64,
    table: Vec<u8>,
    full_text: Vec<u8>,
}

impl Record {
    /// The only copy that is a text at all: Chroma writes no other.
    fn valid(&self) -> Option<Which> {
        match (str::from_utf8(&self.table), str::from_utf8(&self.full_text)) {
            (Ok(_), Err(_)) => Some(Which::Table),
            (Err(_), Ok(_)) => Some(Which::FullText),
            _ => None,
        }
    }

    fn named(&self, connection: &Connection) -> Result<LostDocument, Failure> {
        let (collection, id) = rows::whose(connection, self.number)?;
        let document = String::from_utf8_lossy(&self.full_text).into_owned();
        let (collection, id) = (collection.unwrap_or_default(), id.unwrap_or_default());
        Ok(LostDocument { collection, id, document })
    }
}

/// The records that `check` tells: of the same length, and not the same. Errs when SQLite does.
fn differing(connection: &Connection) -> Result<Vec<Record>, Failure> {
    let sql = "SELECT m.id, m.rowid, m.string_value, f.c0 FROM embedding_metadata AS m NOT INDEXED \
         JOIN embedding_fulltext_search_content AS f ON f.id = m.id \
         WHERE m.key = 'chroma:document' AND typeof(m.string_value) = 'text' AND typeof(f.c0) = 'text' \
         AND octet_length(m.string_value) = octet_length(f.c0) AND m.string_value IS NOT f.c0 ORDER BY m.id";
    let mut statement = connection.prepare(sql)?;
    let bytes = |value: ValueRef<'_>| value.as_bytes().unwrap_or_default().to_vec();
    let rows = statement.query_map([], |row| {
        Ok(Record {
            number: row.get(0)?,
            row: row.get(1)?,
            table: bytes(row.get_ref(2)?),
            full_text: bytes(row.get_ref(3)?),
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// The index of texts among metadata, with its SQL; releases before 0.4.15 have none. Errs when SQLite does.
fn index(connection: &Connection) -> Result<Option<(String, String)>, Failure> {
    let sql = "SELECT l.name, s.sql FROM pragma_index_list('embedding_metadata') AS l JOIN sqlite_schema AS s ON s.name = l.name \
         WHERE s.sql LIKE 'CREATE INDEX %' AND EXISTS (SELECT 1 FROM pragma_index_info(l.name) WHERE name = 'string_value')";
    let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
    Ok(connection.query_row(sql, [], row).optional()?)
}

/// Which copy the index of texts has, for each record; `None` where it has neither, or cannot be read. Errs when SQLite does.
fn values(connection: &Connection, records: &[Record]) -> Result<Vec<Option<Which>>, Failure> {
    let mut out = vec![None; records.len()];
    let Some((name, _)) = index(connection)? else { return Ok(out) };
    let mut by_row: Vec<(i64, usize)> =
        records.iter().enumerate().map(|(at, record)| (record.row, at)).collect();
    by_row.sort_unstable();
    // The index has all columns that are asked for, so that the table is not read.
    let sql = format!(
        "SELECT rowid, string_value FROM embedding_metadata INDEXED BY \"{name}\" WHERE key = 'chroma:document' AND string_value IS NOT NULL"
    );
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query([])?;
    loop {
        match rows.next() {
            Ok(Some(row)) => {
                let number: i64 = row.get(0)?;
                let Ok(found) = by_row.binary_search_by_key(&number, |(row, _)| *row) else {
                    continue;
                };
                let (at, value) = (by_row[found].1, row.get_ref(1)?.as_bytes().unwrap_or_default());
                let record = &records[at];
                out[at] = match () {
                    () if value == record.table => Some(Which::Table),
                    () if value == record.full_text => Some(Which::FullText),
                    () => None,
                };
            }
            Ok(None) => return Ok(out),
            Err(error) if of_damage(&error) => return Ok(vec![None; records.len()]),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Which copy the index of the full text has taken: that of which it has every part around the difference, when it lacks one of the
/// other. It folds letters, and what only folds to the same is not told apart.
fn by_trigrams(connection: &Connection, record: &Record) -> Option<Which> {
    let (table, full_text) =
        (str::from_utf8(&record.table).ok()?, str::from_utf8(&record.full_text).ok()?);
    let has = |query: Option<String>| -> Option<bool> {
        let sql = "SELECT 1 FROM embedding_fulltext_search WHERE embedding_fulltext_search MATCH ?1 AND rowid = ?2";
        let found = connection.query_row(sql, (query?, record.number), |_| Ok(())).optional();
        // Damage in the index says nothing.
        Some(found.ok()?.is_some())
    };
    match (has(around(table, full_text))?, has(around(full_text, table))?) {
        (true, false) => Some(Which::Table),
        (false, true) => Some(Which::FullText),
        _ => None,
    }
}

/// A query for the parts of `text` that have a letter in which it differs from `other`; `None` when it has no such part.
fn around(text: &str, other: &str) -> Option<String> {
    let (text, other): (Vec<char>, Vec<char>) = (text.chars().collect(), other.chars().collect());
    let before = text.iter().zip(&other).take_while(|(a, b)| a == b).count();
    let shorter = text.len().min(other.len()) - before;
    let same = |(a, b): &(&char, &char)| a == b;
    let after = text.iter().rev().zip(other.iter().rev()).take(shorter).take_while(same).count();
    let parts = text.windows(PART).skip(before.saturating_sub(PART - 1));
    let count = (text.len() - after).saturating_sub(before.saturating_sub(PART - 1));
    let parts: Vec<String> = parts
        .take(count.min(PARTS_MAX))
        .filter(|part| !part.contains(&'\0'))
        .map(|part| format!("\"{}\"", part.iter().collect::<String>().replace('"', "\"\"")))
        .collect();
    (!parts.is_empty()).then(|| parts.join(" AND "))
}

/// What two witnesses say together: `None` when they contradict each other, or none says anything.
fn one(by_value: Option<Which>, by_trigrams: Option<Which>) -> Option<Which> {
    match (by_value, by_trigrams) {
        (Some(a), Some(b)) => (a == b).then_some(a),
        (a, b) => a.or(b),
    }
}

/// As SQLite takes a text, also one that is none.
fn text(bytes: &[u8]) -> rusqlite::types::ToSqlOutput<'_> {
    rusqlite::types::ToSqlOutput::Borrowed(ValueRef::Text(bytes))
}

fn of_damage(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::DatabaseCorrupt)
}

/// Letters of a part that the full text has in its index.
const PART: usize = 3;
/// Parts that are asked for at once.
const PARTS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::*;

    #[test]
    fn the_parts_around_a_difference_are_asked_for() {
        for (text, other, want) in [
            ("a text", "a test", Some(r#""tex" AND "ext""#)),
            ("a test", "a text", Some(r#""tes" AND "est""#)),
            ("xbc", "abc", Some(r#""xbc""#)),
            ("he said \"no\"", "he said \"so\"", Some(r#"" ""n" AND """no" AND "no""""#)),
            ("äöü", "äöo", Some("\"äöü\"")),
            ("ab", "ac", None),
            ("a\0b", "a\0c", None),
        ] {
            assert_eq!(around(text, other).as_deref(), want, "{text} {other}");
        }
    }

    /// A fixture with one change in the table of metadata, and one in the content of the full text, as of bits that flipped on the disk:
    /// no index is told.
    fn changed(release: &str, scratch: &Path, table: &str, content: &str) -> PathBuf {
        let dir = scratch.join("store");
        fs::create_dir(&dir).unwrap();
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let from = fixture.join(format!("chroma-{release}")).join(DATABASE_FILE);
        fs::copy(from, dir.join(DATABASE_FILE)).unwrap();
        let open = || {
            let connection = rows::open(&dir.join(DATABASE_FILE)).unwrap();
            connection.execute_batch("PRAGMA writable_schema=ON").unwrap();
            connection
        };
        let connection = open();
        let of = "type = 'index' AND tbl_name = 'embedding_metadata' AND sql IS NOT NULL";
        connection
            .execute_batch(&format!(
                "CREATE TABLE hidden AS SELECT * FROM sqlite_schema WHERE {of}; DELETE FROM sqlite_schema WHERE {of}"
            ))
            .unwrap();
        drop(connection);
        let connection = open();
        connection
            .execute_batch(&format!(
                "UPDATE embedding_metadata SET string_value = replace(string_value, 'notes', '{table}') WHERE key = 'chroma:document' AND id = {A}; \
                 UPDATE embedding_fulltext_search_content SET c0 = replace(c0, 'notes', '{content}') WHERE id = {B}; \
                 INSERT INTO sqlite_schema SELECT * FROM hidden; DROP TABLE hidden"
            ))
            .unwrap();
        dir
    }

    const A: &str = "(SELECT id FROM embeddings WHERE embedding_id = 'notes-003')";
    const B: &str = "(SELECT id FROM embeddings WHERE embedding_id = 'notes-004')";

    fn documents(dir: &Path) -> Vec<(i64, String, String)> {
        let sql = "SELECT m.id, m.string_value, f.c0 FROM embedding_metadata AS m NOT INDEXED \
             JOIN embedding_fulltext_search_content AS f ON f.id = m.id WHERE m.key = 'chroma:document' ORDER BY 1";
        let connection = Connection::open(dir.join(DATABASE_FILE)).unwrap();
        let mut statement = connection.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        rows.unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn the_copy_that_an_index_took_is_written_over_the_other() {
        for release in ["0.4.24", "0.5.5", "0.6.3", "1.1.1", "1.5.9"] {
            let scratch = tempfile::tempdir().unwrap();
            let dir = changed(release, scratch.path(), "nodes", "nokes");
            let differ = documents(&dir).into_iter().filter(|(_, a, b)| a != b).count();
            assert_eq!(differ, 2, "{release}");
            let effect = put_right(&dir).unwrap();
            let all = documents(&dir);
            let right = |(_, a, b): &(i64, String, String)| {
                a == b && !a.contains("nodes") && !a.contains("nokes")
            };
            assert!(all.iter().all(right), "{release}: {effect:?}");
            assert!(effect.losses.is_empty() && effect.lost_documents.is_empty(), "{effect:?}");
            let connection = Connection::open(dir.join(DATABASE_FILE)).unwrap();
            let said: String =
                connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
            assert_eq!(said, "ok", "{release}");
        }
    }

    #[test]
    fn where_no_index_says_which_both_are_kept() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = changed("0.6.3", scratch.path(), "nodes", "notes");
        let connection = rows::open(&dir.join(DATABASE_FILE)).unwrap();
        let sql = format!(
            "UPDATE embedding_fulltext_search_content SET c0 = replace(c0, 'notes', 'nokes') WHERE id = {A}"
        );
        connection.execute_batch(&sql).unwrap();
        drop(connection);
        let effect = put_right(&dir).unwrap();
        assert_eq!((effect.losses.len(), effect.lost_documents.len()), (1, 1), "{effect:?}");
        let lost = &effect.lost_documents[0];
        assert_eq!((&*lost.collection, &*lost.id), ("notes", "notes-003"));
        assert!(lost.document.contains("nokes"), "{lost:?}");
        assert!(documents(&dir).iter().any(|(_, a, b)| a == b && a.contains("nodes")));
    }

    #[test]
    fn witnesses_that_contradict_each_other_say_nothing() {
        use Which::{FullText, Table};
        for (a, b, want) in [
            (None, None, None),
            (Some(Table), None, Some(Table)),
            (None, Some(FullText), Some(FullText)),
            (Some(Table), Some(Table), Some(Table)),
            (Some(Table), Some(FullText), None),
        ] {
            assert_eq!(one(a, b), want);
        }
    }
}
