//! Rows on their way into the new database. Those that are certain go into their table at once. Those that may be what was left of
//! deleted ones wait in a table beside it, and so does what indexes say of rows that are missing.

use std::collections::{BTreeMap, btree_map::Entry};

use chroma_format::record::{Fields, Value};
use rusqlite::{
    Connection, ErrorCode, Statement, ToSql,
    types::{ToSqlOutput, ValueRef},
};

use super::{
    Failure,
    model::{Index, Table},
};

/// Writes the rows of one table.
pub(super) struct Writer<'a> {
    connection: &'a Connection,
    table: &'a Table,
    /// By the number of values that a row has.
    statements: Vec<Option<Statement<'a>>>,
    aside: Option<Statement<'a>>,
    is_there: Option<Statement<'a>>,
    /// By the page where the index begins.
    of_indexes: BTreeMap<u32, Statement<'a>>,
    waits: bool,
}

struct Bound<'a>(Value<'a>);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self.0 {
            Value::Null => ValueRef::Null,
            Value::Integer(integer) => ValueRef::Integer(integer),
            Value::Real(real) => ValueRef::Real(real),
            Value::Text(text) => ValueRef::Text(text),
            Value::Blob(blob) => ValueRef::Blob(blob),
        }))
    }
}

impl<'a> Writer<'a> {
    pub(super) fn new(connection: &'a Connection, table: &'a Table) -> Self {
        let statements = (0..=table.columns.len()).map(|_| None).collect();
        Self {
            connection,
            table,
            statements,
            aside: None,
            is_there: None,
            of_indexes: BTreeMap::new(),
            waits: false,
        }
    }

    /// Writes a row. `false` when the rules of the table forbid it, such as a key that is there already.
    /// Errs when SQLite does for another reason.
    pub(super) fn row(
        &mut self,
        number: i64,
        fields: &Fields,
        record: &[u8],
    ) -> Result<bool, Failure> {
        let Some(place) = self.statements.get_mut(fields.len()) else { return Ok(false) };
        let statement = match place {
            Some(statement) => statement,
            None => place.insert(self.connection.prepare(&insert(self.table, fields.len()))?),
        };
        let mut at = 1;
        if !self.table.without_rowid {
            statement.raw_bind_parameter(at, number)?;
            at += 1;
        }
        for (nth, column) in self.table.columns.iter().enumerate().take(fields.len()) {
            if !column.is_row {
                statement.raw_bind_parameter(at, Bound(value(fields, record, nth)))?;
                at += 1;
            }
        }
        match statement.raw_execute() {
            Ok(_) => Ok(true),
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Puts a row aside that an index has to name. Errs when SQLite does.
    pub(super) fn doubtful(
        &mut self,
        number: i64,
        fields: &Fields,
        record: &[u8],
    ) -> Result<(), Failure> {
        self.wait()?;
        let columns = self.table.columns.len();
        let statement = match &mut self.aside {
            Some(statement) => statement,
            place => {
                let places = ", ?".repeat(columns);
                let sql = format!("INSERT INTO temp.{} VALUES(?{places})", maybe(self.table));
                place.insert(self.connection.prepare(&sql)?)
            }
        };
        statement.raw_bind_parameter(1, number)?;
        for nth in 0..columns {
            statement.raw_bind_parameter(nth + 2, Bound(value(fields, record, nth)))?;
        }
        statement.raw_execute()?;
        Ok(())
    }

    /// Keeps what an index says of a row that is missing. Errs when SQLite does.
    pub(super) fn named(
        &mut self,
        number: i64,
        index: &Index,
        fields: &Fields,
        record: &[u8],
    ) -> Result<(), Failure> {
        self.wait()?;
        let is_there = match &mut self.is_there {
            Some(statement) => statement,
            place => {
                let sql = format!("SELECT 1 FROM main.\"{}\" WHERE rowid = ?1", self.table.name);
                place.insert(self.connection.prepare(&sql)?)
            }
        };
        if is_there.exists([number])? {
            return Ok(());
        }
        let known = index.columns.iter().fold(0_u64, |known, column| known | 1 << (column % 64));
        let statement = match self.of_indexes.entry(index.root) {
            Entry::Occupied(statement) => statement.into_mut(),
            Entry::Vacant(place) => {
                place.insert(self.connection.prepare(&keep(self.table, index))?)
            }
        };
        statement.raw_bind_parameter(1, number)?;
        statement.raw_bind_parameter(2, known.cast_signed())?;
        for nth in 0..index.columns.len() {
            statement.raw_bind_parameter(nth + 3, Bound(value(fields, record, nth)))?;
        }
        statement.raw_execute()?;
        Ok(())
    }

    /// Writes the rows that were put aside and that an index names with the same values. Where two differ, neither is taken. Says how
    /// many were. Errs when SQLite does.
    pub(super) fn take_doubtful(&mut self) -> Result<u64, Failure> {
        self.wait()?;
        let same =
            |nth: usize| format!("(named.k & {} = 0 OR named.c{nth} IS m.c{nth})", 1_u64 << nth);
        let same: Vec<String> = (0..self.table.columns.len().min(63)).map(same).collect();
        let of = format!(
            "FROM (SELECT DISTINCT * FROM temp.{}) AS m JOIN temp.{} AS named USING(n) WHERE {}",
            maybe(self.table),
            named(self.table),
            same.join(" AND ")
        );
        self.take(&of)
    }

    /// Writes every row that was put aside, where no two of a number differ. Says how many. Errs when SQLite does.
    pub(super) fn take_all_doubtful(&mut self) -> Result<u64, Failure> {
        self.wait()?;
        let of =
            format!("FROM (SELECT DISTINCT * FROM temp.{}) AS m WHERE TRUE", maybe(self.table));
        self.take(&of)
    }

    fn take(&self, of: &str) -> Result<u64, Failure> {
        let kept = || self.table.columns.iter().enumerate().filter(|(_, column)| !column.is_row);
        let names: Vec<String> = kept().map(|(_, column)| quoted(&column.name)).collect();
        let values: Vec<String> = kept().map(|(nth, _)| format!("m.c{nth}")).collect();
        let sql = format!(
            "INSERT OR IGNORE INTO main.\"{}\"(rowid, {}) SELECT m.n, {} {of} GROUP BY m.n HAVING count(*) = 1",
            self.table.name,
            names.join(", "),
            values.join(", ")
        );
        let count = self.connection.execute(&sql, [])? as u64;
        let there = format!(
            "DELETE FROM temp.{} WHERE n IN (SELECT rowid FROM main.\"{}\")",
            named(self.table),
            self.table.name
        );
        self.connection.execute(&there, [])?;
        Ok(count)
    }

    /// Makes the tables beside, once. Errs when SQLite does.
    pub(super) fn wait(&mut self) -> Result<(), Failure> {
        if self.waits {
            return Ok(());
        }
        let columns: Vec<String> =
            (0..self.table.columns.len()).map(|nth| format!(", c{nth}")).collect();
        let columns = columns.concat();
        self.connection.execute_batch(&format!(
            "CREATE TEMP TABLE IF NOT EXISTS {}(n INTEGER{columns}); \
             CREATE TEMP TABLE IF NOT EXISTS {}(n INTEGER PRIMARY KEY, k INTEGER{columns})",
            maybe(self.table),
            named(self.table)
        ))?;
        self.waits = true;
        Ok(())
    }
}

/// Where rows wait that an index has to name.
fn maybe(table: &Table) -> String {
    format!("\"maybe {}\"", table.name)
}

/// Where it stands what indexes say of missing rows: `n` is the number of a row, `k` has a bit for each column that is known.
pub(super) fn named(table: &Table) -> String {
    format!("\"named {}\"", table.name)
}

pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Writes a row of `count` values. Columns that were added to the table after the row have their default.
fn insert(table: &Table, count: usize) -> String {
    let kept = table.columns.iter().take(count).filter(|column| !column.is_row);
    let mut names: Vec<String> = kept.map(|column| quoted(&column.name)).collect();
    if !table.without_rowid {
        names.insert(0, "rowid".to_owned());
    }
    let places = vec!["?"; names.len()].join(", ");
    format!("INSERT INTO main.\"{}\"({}) VALUES({places})", table.name, names.join(", "))
}

/// Keeps what an entry of an index says beside what others said of the same row.
fn keep(table: &Table, index: &Index) -> String {
    let names: Vec<String> = index.columns.iter().map(|column| format!("c{column}")).collect();
    let set: Vec<String> = names.iter().map(|name| format!("{name}=excluded.{name}")).collect();
    format!(
        "INSERT INTO temp.{}(n, k, {}) VALUES(?, ?{}) ON CONFLICT(n) DO UPDATE SET k=k|excluded.k, {}",
        named(table),
        names.join(", "),
        ", ?".repeat(names.len()),
        set.join(", ")
    )
}

/// NULL where the record has no such value; that all can be read was looked at before.
fn value<'r>(fields: &Fields, record: &'r [u8], nth: usize) -> Value<'r> {
    fields.value(record, nth).ok().flatten().unwrap_or(Value::Null)
}
