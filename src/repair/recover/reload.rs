//! A database written anew: every table is copied, row by row, into a new file with the same schema, and its indexes are made from the
//! rows. Free pages, indexes and whatever else stood in the old file are left behind. Only whole tables are copied: one whose own
//! pages are damaged ends it, so that nothing is lost in silence.

use std::{collections::BTreeMap, fs, path::Path};

use rusqlite::{Connection, ErrorCode, params};

use super::{
    Effect, Failure, LostRow, fulltext,
    rows::{self, shown},
    salvage,
};
use crate::{human, repair::steps::Steps, store::database::beside};

/// Puts a new database in place of the one at `database`; with `full_text`, the full text is made anew too. One that SQLite cannot read
/// to its end is read page by page. Errs without a change.
pub(super) fn reload(database: &Path, full_text: bool, steps: &Steps) -> Result<Effect, Failure> {
    match by_sql(database, full_text, steps) {
        Err(failure) if of_damage(&failure) => {
            tracing::debug!(%failure, "SQLite cannot read the database to its end.");
            salvage::salvage(database, steps)
        }
        result => result,
    }
}

/// Whether it is about what stands in the file.
fn of_damage(failure: &Failure) -> bool {
    match failure {
        Failure::Damaged(_) => true,
        Failure::Sqlite(error) => matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
        ),
        Failure::Disk(_) => false,
    }
}

fn by_sql(database: &Path, full_text: bool, steps: &Steps) -> Result<Effect, Failure> {
    let new = beside(database, ".new");
    let mut connection = Connection::open(&new)?;
    let stopped = steps.clone();
    connection.progress_handler(STEPS, Some(move || stopped.stopped()))?;
    let effect = write(&connection, database, full_text)?;
    connection.close().map_err(|(_, error)| error)?;
    fs::rename(&new, database)?;
    // What was left of the journal of the old file belongs to no database any more.
    match fs::remove_file(beside(database, "-journal")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(effect),
    }
}

/// What stands in the schema.
struct Entry {
    kind: String,
    name: String,
    root: i64,
    sql: Option<String>,
}

fn write(connection: &Connection, database: &Path, full_text: bool) -> Result<Effect, Failure> {
    connection.execute_batch(
        "PRAGMA trusted_schema=OFF; PRAGMA foreign_keys=OFF; PRAGMA cell_size_check=ON; PRAGMA mmap_size=0; PRAGMA cache_size=-32768;",
    )?;
    connection.execute("ATTACH ?1 AS old", [database.to_str().ok_or_else(odd)?])?;
    for pragma in ["page_size", "auto_vacuum"] {
        let value = number(connection, &format!("PRAGMA old.{pragma}"))?;
        connection.execute_batch(&format!("PRAGMA main.{pragma}={value}"))?;
    }
    let entries = schema(connection)?;
    let searched = fulltext::table(entries.iter().map(|one| (&*one.name, one.sql.as_deref())));
    let tables = || entries.iter().filter(|entry| entry.kind == "table");
    let copied =
        || tables().filter(|one| !fulltext::is_part(&one.name) && !one.name.starts_with("sqlite_"));
    for entry in copied() {
        check(connection, entry)?;
    }
    // Damage in the full text is made good from the documents.
    let mut parts = tables().filter(|entry| fulltext::is_part(&entry.name));
    let anew = full_text || parts.any(|entry| check(connection, entry).is_err());
    // Whatever stops it, the new file is thrown away.
    connection.execute_batch("PRAGMA main.journal_mode=OFF; PRAGMA main.synchronous=OFF; BEGIN")?;
    let (mut rows, mut count) = (0, 0);
    for entry in copied() {
        create(connection, entry, "CREATE TABLE ")?;
        rows += copy(connection, entry)?;
        count += 1;
    }
    if entries.iter().any(|entry| entry.name == "sqlite_sequence") {
        connection.execute_batch(
            "DELETE FROM main.sqlite_sequence; INSERT INTO main.sqlite_sequence(name, seq) SELECT name, seq FROM old.sqlite_sequence",
        )?;
    }
    let mut effect = Effect::default();
    let rows = human::count(rows as f64);
    effect.what = format!("{rows} rows of {count} tables were copied into a new database");
    let has_full_text = searched.is_some() || full_text;
    if has_full_text {
        effect.what.push_str(&fulltext::make(connection, searched, anew)?);
    }
    for kind in ["index", "view", "trigger"] {
        for entry in entries.iter().filter(|entry| entry.kind == kind && entry.sql.is_some()) {
            create(connection, entry, "CREATE ")?;
        }
    }
    for pragma in ["user_version", "application_id"] {
        let value = number(connection, &format!("PRAGMA old.{pragma}"))?;
        connection.execute_batch(&format!("PRAGMA main.{pragma}={value}"))?;
    }
    connection.execute_batch("COMMIT")?;
    // After the transaction, which would not survive the damage that may be met here.
    for entry in copied() {
        let words = only_in_indexes(connection, &entry.name)?;
        if let Some(words) = words {
            effect.lose(&entry.name, words);
        }
        let differing = other_in_indexes(connection, &entry.name)?;
        if !differing.is_empty() {
            let count = human::count(differing.len() as f64);
            effect.lose(&entry.name, format!(
                "{count} rows of the table {}, of which an index says something else: what the table says was kept, and it is not known which is right",
                entry.name
            ));
        }
        effect.lost_rows.extend(differing);
    }
    if has_full_text && anew {
        effect.lost_documents = fulltext::only_there(connection)?;
        let lost = effect.lost_documents.len();
        if lost > 0 {
            let lost = human::count(lost as f64);
            effect.lose(
                "embedding_metadata",
                format!(
                    "the text that only the full text had for {lost} records without a document"
                ),
            );
        }
    }
    connection.execute_batch("DETACH old")?;
    Ok(effect)
}

fn odd() -> Failure {
    Failure::Damaged("The schema of the database has a name that no Chroma gives.".to_owned())
}

fn number(connection: &Connection, sql: &str) -> rusqlite::Result<i64> {
    connection.query_row(sql, [], |row| row.get(0))
}

fn schema(connection: &Connection) -> Result<Vec<Entry>, Failure> {
    let sql = "SELECT type, name, coalesce(rootpage, 0), sql FROM old.sqlite_schema";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |row| {
        Ok(Entry { kind: row.get(0)?, name: row.get(1)?, root: row.get(2)?, sql: row.get(3)? })
    })?;
    let entries: Vec<Entry> = rows.collect::<rusqlite::Result<_>>()?;
    let plain = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if entries.iter().any(|entry| !plain(&entry.name)) {
        return Err(odd());
    }
    Ok(entries)
}

/// Makes what the old schema says, in the new database. Errs when SQLite does.
fn create(connection: &Connection, entry: &Entry, begins: &str) -> Result<(), Failure> {
    let sql = entry.sql.as_deref().unwrap_or_default();
    if !sql.starts_with(begins) {
        return Err(odd());
    }
    connection.execute(sql, [])?;
    Ok(())
}

/// Errs when a page of the table itself is damaged. Its indexes are made anew.
fn check(connection: &Connection, entry: &Entry) -> Result<(), Failure> {
    let damaged = |why: &str| {
        Failure::Damaged(format!(
            "A page of the table {} itself is damaged ({why}). Its rows are not put together from elsewhere yet. Restore a backup.",
            entry.name
        ))
    };
    let mut statement = connection.prepare(&format!("PRAGMA old.quick_check('{}')", entry.name))?;
    let lines = statement.query_map([], |row| row.get::<_, String>(0));
    let lines: rusqlite::Result<Vec<String>> = lines.and_then(Iterator::collect);
    let lines = match lines {
        Ok(lines) => lines,
        Err(error) if of_stop(&error) => return Err(error.into()),
        Err(error) => return Err(damaged(&error.to_string())),
    };
    let own = format!("Tree {} ", entry.root);
    match lines.iter().flat_map(|line| line.lines()).find(|line| line.contains(&own)) {
        None => Ok(()),
        Some(line) => Err(damaged(line)),
    }
}

/// Rows of which an index of the old table says something else, as after a bit that flipped in a text. An index that cannot be read
/// says nothing. Errs when SQLite does.
fn other_in_indexes(connection: &Connection, table: &str) -> Result<Vec<LostRow>, Failure> {
    let sql = "SELECT l.name, c.name FROM pragma_index_list(?1, 'old') AS l JOIN pragma_index_info(l.name, 'old') AS c \
         WHERE l.partial = 0 AND c.name IS NOT NULL ORDER BY l.seq, c.seqno";
    let mut statement = connection.prepare(sql)?;
    let mut indexes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut rows = statement.query([table])?;
    while let Some(row) = rows.next()? {
        indexes.entry(row.get(0)?).or_default().push(row.get(1)?);
    }
    let mut out: BTreeMap<i64, LostRow> = BTreeMap::new();
    for (index, columns) in indexes {
        let list = |of: &str| columns.iter().map(|c| format!("{of}\"{c}\"")).collect::<Vec<_>>();
        let differ: Vec<String> =
            columns.iter().map(|column| format!("i.\"{column}\" IS NOT m.\"{column}\"")).collect();
        // The index has all columns that are asked for, so that the old table is not read.
        let sql = format!(
            "SELECT m.rowid, {} FROM (SELECT rowid AS number, {} FROM old.\"{table}\" INDEXED BY \"{index}\") AS i \
             JOIN main.\"{table}\" AS m ON m.rowid = i.number WHERE {}",
            list("i.").join(", "),
            list("").join(", "),
            differ.join(" OR ")
        );
        let read = || -> rusqlite::Result<Vec<(i64, String)>> {
            let mut statement = connection.prepare(&sql)?;
            let rows = statement.query_map([], |row| {
                let value = |(nth, column): (usize, &String)| {
                    let value = shown(row.get_ref(nth + 1)?);
                    Ok(format!("{column} {}", value.as_deref().unwrap_or("nothing")))
                };
                let said: rusqlite::Result<Vec<String>> =
                    columns.iter().enumerate().map(value).collect();
                Ok((row.get(0)?, said?.join(", ")))
            })?;
            rows.collect()
        };
        match read() {
            Ok(rows) => {
                for (row, said) in rows {
                    let what = format!("an index says {said}");
                    let (collection, id) = whose(connection, table, row)?;
                    let reported = LostRow { table: table.to_owned(), row, collection, id, what };
                    out.entry(row).or_insert(reported);
                }
            }
            Err(error) if of_stop(&error) => return Err(error.into()),
            Err(error) => tracing::debug!(index, %error, "Index not compared."),
        }
    }
    Ok(out.into_values().collect())
}

/// Collection and id of the record that a row of metadata belongs to. Errs when SQLite does.
fn whose(
    connection: &Connection,
    table: &str,
    row: i64,
) -> rusqlite::Result<(Option<String>, Option<String>)> {
    if !["embedding_metadata", "embedding_metadata_array"].contains(&table) {
        return Ok((None, None));
    }
    let sql = format!("SELECT id FROM main.\"{table}\" WHERE rowid = ?1");
    rows::whose(connection, connection.query_row(&sql, [row], |row| row.get(0))?)
}

fn of_stop(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted)
}

/// Copies the rows of a table in the order of the table itself. Says how many.
/// Errs when the table cannot be read to its end or holds what its own rules forbid, and when SQLite does.
fn copy(connection: &Connection, entry: &Entry) -> Result<u64, Failure> {
    let name = &entry.name;
    let mut columns = Vec::new();
    let mut keys = Vec::new();
    let sql = "SELECT name, type, pk FROM pragma_table_info(?1, 'old') ORDER BY cid";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([name])?;
    while let Some(row) = rows.next()? {
        let (column, kind, key): (String, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        if key > 0 {
            keys.push(kind);
        }
        columns.push(format!("\"{}\"", column.replace('"', "\"\"")));
    }
    let text = entry.sql.as_deref().unwrap_or_default().to_ascii_uppercase();
    let without = text.trim_end().ends_with("WITHOUT ROWID");
    let own_key = matches!(&keys[..], [kind] if kind.eq_ignore_ascii_case("INTEGER"));
    // The number of a row stays, also where no column has it.
    if !(without || own_key) {
        columns.insert(0, "rowid".to_owned());
    }
    let columns = columns.join(", ");
    let order = if without { "" } else { "ORDER BY rowid" };
    let sql = format!(
        "INSERT INTO main.\"{name}\"({columns}) SELECT {columns} FROM old.\"{name}\" NOT INDEXED {order}"
    );
    match connection.execute(&sql, []) {
        Ok(count) => Ok(count as u64),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
            Err(Failure::Damaged(format!(
                "The table {name} holds rows that its own rules forbid, such as one twice ({error}). It is not known which are right. Restore a backup."
            )))
        }
        Err(error) if of_stop(&error) => Err(error.into()),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) => {
            Err(Failure::Damaged(format!(
                "The table {name} cannot be read to its end ({error}). Its rows are not put together from elsewhere yet. Restore a backup."
            )))
        }
        Err(error) => Err(error.into()),
    }
}

/// Rows that an index of the old table names, and the table has not. An index that cannot be read says nothing. Errs when SQLite does.
fn only_in_indexes(connection: &Connection, table: &str) -> Result<Option<String>, Failure> {
    let sql = "SELECT name FROM pragma_index_list(?1, 'old') WHERE partial = 0";
    let mut statement = connection.prepare(sql)?;
    let names = statement.query_map(params![table], |row| row.get::<_, String>(0))?;
    let mut most = 0_i64;
    for index in names.collect::<rusqlite::Result<Vec<_>>>()? {
        let sql = format!(
            "SELECT count(*) FROM (SELECT rowid AS number FROM old.\"{table}\" INDEXED BY \"{index}\") \
             WHERE number NOT IN (SELECT rowid FROM main.\"{table}\")"
        );
        match connection.query_row(&sql, [], |row| row.get::<_, i64>(0)) {
            Ok(count) => most = most.max(count),
            Err(error) if of_stop(&error) => return Err(error.into()),
            Err(error) => tracing::debug!(index, %error, "Index not compared."),
        }
    }
    Ok((most > 0).then(|| {
        format!("{most} rows of the table {table}, which only one of its indexes still names")
    }))
}

/// How often SQLite asks whether it should go on, in its own steps.
const STEPS: i32 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn database(sql: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("chroma.sqlite3");
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        (scratch, path)
    }

    fn all(path: &Path, sql: &str) -> Vec<String> {
        let connection = Connection::open(path).unwrap();
        let mut statement = connection.prepare(sql).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    const TABLES: &str = "PRAGMA user_version=7; CREATE TABLE a(id INTEGER PRIMARY KEY, v); CREATE TABLE b(k TEXT PRIMARY KEY, v INT); \
        CREATE TABLE w(k TEXT PRIMARY KEY, v) WITHOUT ROWID; CREATE TABLE s(id INTEGER PRIMARY KEY AUTOINCREMENT); CREATE INDEX b_v ON b(v); \
        INSERT INTO a VALUES(3, x'00ff'), (9, 'text'), (-4, 1.5); INSERT INTO b(rowid, k, v) VALUES(70, 'x', 1), (5, 'y', NULL); \
        INSERT INTO w VALUES('k', 1); INSERT INTO s VALUES(41); DELETE FROM s;";

    #[test]
    fn every_row_keeps_its_number_type_and_schema() {
        let (_scratch, path) = database(TABLES);
        let queries = [
            "SELECT type||name||tbl_name||coalesce(sql,'') FROM sqlite_schema ORDER BY 1",
            "SELECT id||typeof(v)||quote(v) FROM a",
            "SELECT rowid||k||quote(v) FROM b ORDER BY rowid",
            "SELECT k||v FROM w",
            "SELECT name||seq FROM sqlite_sequence",
            "SELECT CAST(user_version AS TEXT) FROM pragma_user_version",
        ];
        let before = queries.map(|sql| all(&path, sql));
        let effect = reload(&path, false, &Steps::default()).unwrap();
        assert_eq!(queries.map(|sql| all(&path, sql)), before);
        assert_eq!(effect.what, "6 rows of 4 tables were copied into a new database");
        assert!(effect.losses.is_empty(), "{:?}", effect.losses);
        assert_eq!(all(&path, "PRAGMA integrity_check"), ["ok"]);
    }

    #[test]
    fn rows_that_only_an_index_names_are_told() {
        let (_scratch, path) = database(TABLES);
        // The definition of the index is away while the row goes.
        let connection = Connection::open(&path).unwrap();
        let page: i64 = connection
            .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'b_v'", [], |r| r.get(0))
            .unwrap();
        connection
            .execute_batch("PRAGMA writable_schema=ON; DELETE FROM sqlite_schema WHERE name='b_v'")
            .unwrap();
        drop(connection);
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("DELETE FROM b WHERE k = 'x'; PRAGMA writable_schema=ON").unwrap();
        connection
            .execute(
                "INSERT INTO sqlite_schema VALUES('index', 'b_v', 'b', ?1, 'CREATE INDEX b_v ON b(v)')",
                [page],
            )
            .unwrap();
        drop(connection);
        let effect = reload(&path, false, &Steps::default()).unwrap();
        assert_eq!(
            effect.losses,
            ["1 rows of the table b, which only one of its indexes still names"]
        );
    }

    #[test]
    fn rows_of_which_an_index_says_something_else_are_told() {
        let (_scratch, path) = database(TABLES);
        let bytes = fs::read(&path).unwrap();
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("UPDATE b SET v = 77 WHERE k = 'x'").unwrap();
        let page: i64 = connection
            .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'b_v'", [], |r| r.get(0))
            .unwrap();
        drop(connection);
        // The index as it was.
        let page = usize::try_from(page).unwrap() * 4096;
        let mut now = fs::read(&path).unwrap();
        now[page - 4096..page].copy_from_slice(&bytes[page - 4096..page]);
        fs::write(&path, now).unwrap();
        let effect = reload(&path, false, &Steps::default()).unwrap();
        let lost: Vec<(i64, &str)> =
            effect.lost_rows.iter().map(|lost| (lost.row, &*lost.what)).collect();
        assert_eq!(lost, [(70, "an index says v 1")]);
        assert_eq!(effect.losses.len(), 1, "{:?}", effect.losses);
        assert_eq!(all(&path, "SELECT k||v FROM b WHERE k = 'x'"), ["x77"]);
    }

    #[test]
    fn a_stop_leaves_the_database_as_it_was() {
        let (_scratch, path) = database(
            "CREATE TABLE a(v); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<50000) INSERT INTO a SELECT i FROM n",
        );
        let before = fs::read(&path).unwrap();
        let steps = Steps::default();
        steps.stop();
        assert!(reload(&path, false, &steps).is_err());
        assert_eq!(fs::read(&path).unwrap(), before);
    }
}
