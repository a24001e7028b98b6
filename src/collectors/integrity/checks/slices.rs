//! What can be checked of a live database without a copy: its rows, in slices of a few milliseconds with a pause after
//! each, which no writer feels. Every value of every row is read, with its overflow pages, and each row is looked up in every
//! index, all within one short read transaction per slice, so that what is found is no mixture of two states.
//!
//! Not seen: entries of an index without a row, free and doubly used pages, the full text. So this way finds damage, and
//! never says that there is none.

use std::{sync::atomic::AtomicBool, time::Duration};

use rusqlite::Connection;

use crate::{
    clock,
    findings::{Code, Finding},
    progress::Progress,
    store::{
        DATABASE_FILE,
        database::{Abort, Database, Limits, QueryError, ReadConnection},
    },
};

/// What the slices saw.
#[derive(Debug, Default)]
pub(super) struct SlicesRead {
    pub(super) findings: Vec<Finding>,
    /// Rows that were read and found in each index.
    pub(super) rows: u64,
    /// Rows too large to be read within a slice.
    pub(super) skipped: u64,
    /// Whether it came to the end of every table.
    pub(super) complete: bool,
    pub(super) held: Duration,
}

struct Table {
    name: String,
    indexes: Vec<Index>,
}

struct Index {
    name: String,
    /// Counts the rows of a slice that it lacks, and names the first.
    sql: String,
}

/// Walks all tables that have row ids, for at most `time_max`. Errs when SQLite does for another reason than damage.
pub(super) fn walk(
    database: &Database,
    time_max: Duration,
    stop: &AtomicBool,
    progress: &Progress,
) -> Result<SlicesRead, QueryError> {
    walk_holding(database, HOLD_MAX, time_max, stop, progress)
}

/// The same, holding the lock for at most `hold` at a time. Errs when SQLite could not be asked, or the file is another by now.
fn walk_holding(
    database: &Database,
    hold: Duration,
    time_max: Duration,
    stop: &AtomicBool,
    progress: &Progress,
) -> Result<SlicesRead, QueryError> {
    let limits = Limits { hold, hold_unwaited: hold, stop, progress: None };
    let mut walk = Walk {
        connection: database.connect()?,
        limits,
        ends: clock::ticks().plus(time_max),
        progress,
        paused: progress.paused(),
        seen: SlicesRead::default(),
    };
    let file = walk.connection.stamp().map_err(QueryError::File)?.id;
    let tables = walk.ask(tables)?;
    walk.seen.complete = true;
    for table in &tables {
        walk.seen.complete &= walk.table(table)?;
    }
    let same = database.stamp().is_ok_and(|stamp| stamp.id == file);
    if same { Ok(walk.seen) } else { Err(QueryError::Replaced) }
}

struct Walk<'a> {
    connection: ReadConnection<'a>,
    limits: Limits<'a>,
    /// Pauses come on top.
    ends: clock::Ticks,
    progress: &'a Progress,
    paused: Duration,
    seen: SlicesRead,
}

impl Walk<'_> {
    /// One short read transaction; waits without a lock while a writer has the file. Errs when SQLite could not be asked in time.
    fn ask<T>(
        &mut self,
        mut work: impl FnMut(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, QueryError> {
        loop {
            let timed = self.connection.within(&self.limits, &mut work);
            match timed.result {
                Err(QueryError::Busy) if clock::ticks() < self.ends => {
                    std::thread::sleep(BUSY_PAUSE);
                }
                result => {
                    self.seen.held = self.seen.held.max(timed.held);
                    return result;
                }
            }
        }
    }

    /// Waits for its turn without a lock, and says whether there is time left.
    fn goes_on(&mut self) -> bool {
        if !self.progress.checkpoint(self.limits.stop) {
            return false;
        }
        let paused = self.progress.paused();
        self.ends = self.ends.plus(paused.saturating_sub(self.paused));
        self.paused = paused;
        clock::ticks() < self.ends
    }

    /// Walks one table; `false` when it was given up before its end. Errs when SQLite could not be asked.
    fn table(&mut self, table: &Table) -> Result<bool, QueryError> {
        let (mut after, mut rows) = (i64::MIN, ROWS_FIRST);
        while self.goes_on() && self.seen.findings.len() < FINDINGS_MAX {
            match self.ask(|connection| slice(connection, table, after, rows)) {
                Ok(None) => return Ok(true),
                Ok(Some(slice)) => {
                    self.seen.rows += slice.rows;
                    self.seen.findings.extend(slice.findings);
                    after = slice.last;
                    rows = (rows * 2).min(ROWS_MAX);
                }
                Err(QueryError::Aborted(Abort::Deadline(_) | Abort::WriterWaiting)) if rows > 1 => {
                    rows = (rows / 4).max(1);
                }
                Err(QueryError::Aborted(Abort::Deadline(_) | Abort::WriterWaiting)) => {
                    // Its key costs next to nothing to find.
                    match self.ask(|connection| last_of(connection, table, after, 1))? {
                        Some(last) => (after, self.seen.skipped) = (last, self.seen.skipped + 1),
                        None => return Ok(true),
                    }
                }
                Err(QueryError::Damaged(error)) => {
                    let evidence = format!("table {}: {error}", table.name);
                    let finding = Finding::new(Code::SqliteCorrupt, DATABASE_FILE, evidence);
                    self.seen.findings.push(finding);
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
            std::thread::sleep(PAUSE);
        }
        Ok(false)
    }
}

struct Slice {
    last: i64,
    rows: u64,
    findings: Vec<Finding>,
}

/// The row id that ends the next `rows` rows. Errs when SQLite does.
fn last_of(
    connection: &Connection,
    table: &Table,
    after: i64,
    rows: i64,
) -> rusqlite::Result<Option<i64>> {
    let sql = format!(
        "SELECT max(r) FROM (SELECT rowid AS r FROM {} NOT INDEXED WHERE rowid>?1 ORDER BY rowid LIMIT ?2)",
        quoted(&table.name)
    );
    connection.query_row(&sql, [after, rows], |row| row.get(0))
}

fn slice(
    connection: &Connection,
    table: &Table,
    after: i64,
    rows: i64,
) -> rusqlite::Result<Option<Slice>> {
    let Some(last) = last_of(connection, table, after, rows)? else { return Ok(None) };
    let mut slice = Slice { last, rows: 0, findings: Vec::new() };
    let name = quoted(&table.name);
    let sql = format!("SELECT * FROM {name} NOT INDEXED WHERE rowid>?1 AND rowid<=?2");
    let mut statement = connection.prepare(&sql)?;
    let columns = statement.column_count();
    let mut found = statement.query([after, last])?;
    while let Some(row) = found.next()? {
        for column in 0..columns {
            // Reads the value to its end, overflow pages included.
            row.get_ref(column)?;
        }
        slice.rows += 1;
    }
    for index in &table.indexes {
        // An index that SQLite does not use for this question, because of another collation, is passed over.
        let Ok(mut statement) = connection.prepare(&index.sql) else { continue };
        let (missing, first): (i64, Option<i64>) =
            statement.query_row([after, last], |row| Ok((row.get(0)?, row.get(1)?)))?;
        if missing > 0 {
            let evidence = format!(
                "{missing} of {} rows of {} are missing from index {}, row {} first",
                slice.rows,
                table.name,
                index.name,
                first.unwrap_or_default()
            );
            slice.findings.push(Finding::new(Code::SqliteIndexCorrupt, DATABASE_FILE, evidence));
        }
    }
    Ok(Some(slice))
}

fn tables(connection: &Connection) -> rusqlite::Result<Vec<Table>> {
    let mut statement = connection.prepare(
        "SELECT name FROM pragma_table_list WHERE schema='main' AND type IN ('table', 'shadow') AND wr=0",
    )?;
    let names: Vec<String> =
        statement.query_map([], |row| row.get(0))?.take(TABLES_MAX).collect::<Result<_, _>>()?;
    let table = |name: String| Ok(Table { indexes: indexes(connection, &name)?, name });
    names.into_iter().map(table).collect()
}

fn indexes(connection: &Connection, table: &str) -> rusqlite::Result<Vec<Index>> {
    let mut statement = connection.prepare(
        "SELECT l.name, l.partial, s.sql FROM pragma_index_list(?1) AS l JOIN sqlite_schema AS s ON s.name=l.name",
    )?;
    let listed: Vec<(String, bool, Option<String>)> = statement
        .query_map([table], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .take(TABLES_MAX)
        .collect::<Result<_, _>>()?;
    let mut columns = connection.prepare("SELECT name FROM pragma_index_info(?1)")?;
    let mut indexes = Vec::new();
    for (name, partial, sql) in listed {
        let columns: Vec<Option<String>> =
            columns.query_map([&name], |row| row.get(0))?.collect::<Result<_, _>>()?;
        // Over an expression: no column to compare.
        let Some(columns) = columns.into_iter().collect::<Option<Vec<String>>>() else { continue };
        let condition = match (partial, sql.as_deref().and_then(condition)) {
            (false, _) => None,
            (true, Some(condition)) => Some(condition),
            (true, None) => continue,
        };
        let sql = missing_sql(table, &name, &columns, condition);
        indexes.push(Index { name, sql });
    }
    Ok(indexes)
}

/// The condition of a partial index, as its statement says it.
fn condition(sql: &str) -> Option<&str> {
    let at = sql.to_ascii_uppercase().rfind(" WHERE ")?;
    sql.get(at + " WHERE ".len()..)
}

fn missing_sql(table: &str, index: &str, columns: &[String], condition: Option<&str>) -> String {
    let (table, index) = (quoted(table), quoted(index));
    let mut same = String::new();
    for column in columns.iter().map(|column| quoted(column)) {
        same.extend(["b.", &column, " IS a.", &column, " AND "]);
    }
    let only = condition.map_or_else(String::new, |condition| format!(" AND ({condition})"));
    format!(
        "SELECT count(*), min(a.rowid) FROM {table} AS a NOT INDEXED WHERE a.rowid>?1 AND a.rowid<=?2{only} \
         AND NOT EXISTS (SELECT 1 FROM {table} AS b INDEXED BY {index} WHERE {same}b.rowid=a.rowid{only})"
    )
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A lock of this length every so often is within the noise of a writer's own latency.
const HOLD_MAX: Duration = Duration::from_millis(5);
const PAUSE: Duration = Duration::from_millis(50);
const BUSY_PAUSE: Duration = Duration::from_millis(2);
/// Rows of the first slice of a table, and at most.
const ROWS_FIRST: i64 = 64;
const ROWS_MAX: i64 = 4096;
const FINDINGS_MAX: usize = 20;
const TABLES_MAX: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;

    const TABLES: &str = "CREATE TABLE t(x TEXT UNIQUE, y INTEGER, z BLOB); CREATE INDEX \"odd \"\"name\" ON t(y) WHERE y IS NOT NULL; \
         CREATE INDEX by_length ON t(length(z)); CREATE TABLE w(k TEXT PRIMARY KEY) WITHOUT ROWID; INSERT INTO w VALUES('k'); \
         CREATE VIRTUAL TABLE f USING fts5(c, tokenize='trigram'); INSERT INTO f VALUES('some text'); \
         INSERT INTO t WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<300) \
           SELECT 'x' || i, iif(i % 3, i, NULL), randomblob(i * 20) FROM n;";

    fn walked(more: &str) -> Result<SlicesRead, QueryError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chroma.sqlite3");
        Connection::open(&path).unwrap().execute_batch(&format!("{TABLES}{more}")).unwrap();
        let stop = AtomicBool::new(false);
        let database = Database::new(path);
        // On a machine that is busy with other tests a slice would be too short again and again.
        let progress = Progress::default();
        walk_holding(&database, Duration::from_mins(1), Duration::from_mins(5), &stop, &progress)
    }

    #[test]
    fn rows_of_a_healthy_database_are_all_seen() {
        let seen = walked("").unwrap();
        assert!(seen.findings.is_empty(), "{:?}", seen.findings);
        assert!(seen.complete && seen.rows + seen.skipped > 300, "{seen:?}");
    }

    #[test]
    fn an_index_that_lacks_rows_is_told_by_name() {
        // The index is led to the pages of another one, in which only some of the rows stand.
        let seen = walked(
            "CREATE TABLE u(y); CREATE INDEX few ON u(y) WHERE y IS NOT NULL; INSERT INTO u(rowid, y) SELECT rowid, y FROM t WHERE rowid<100; \
             PRAGMA writable_schema=ON; \
             UPDATE sqlite_schema SET rootpage=(SELECT rootpage FROM sqlite_schema WHERE name='few') WHERE name='odd \"name';",
        )
        .unwrap();
        assert!(!seen.findings.is_empty());
        assert!(seen.findings.iter().all(|finding| finding.code == Code::SqliteIndexCorrupt));
        assert!(seen.findings[0].evidence.contains("index odd \"name, row"), "{seen:?}");
    }

    #[test]
    fn what_was_found_is_told_however_much_it_is() {
        // Each index is led to an empty one.
        let mut many = String::from("CREATE TABLE u(y, x);");
        for n in 0..FINDINGS_MAX + 5 {
            let index = format!("CREATE INDEX i{n} ON t(y, x); CREATE INDEX e{n} ON u(y, x);");
            many.push_str(&index);
        }
        let seen = walked(&format!(
            "{many} PRAGMA writable_schema=ON; CREATE TEMP TABLE o AS SELECT name, rootpage FROM sqlite_schema; \
             UPDATE sqlite_schema SET rootpage=(SELECT rootpage FROM o WHERE o.name='e' || substr(sqlite_schema.name, 2)) WHERE name GLOB 'i[0-9]*';"
        ))
        .unwrap();
        assert!(seen.findings.len() >= FINDINGS_MAX && !seen.complete, "{seen:?}");
    }

    #[test]
    fn nobody_waits_for_a_walk_that_is_not_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chroma.sqlite3");
        Connection::open(&path).unwrap().execute_batch(TABLES).unwrap();
        let stop = AtomicBool::new(false);
        let seen = walk(&Database::new(path), Duration::ZERO, &stop, &Progress::default()).unwrap();
        assert!(!seen.complete && seen.rows == 0, "{seen:?}");
    }
}
