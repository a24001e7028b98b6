//! How tables are asked: cells of any type, columns that a release may not have, and slices that hold the lock for a few
//! milliseconds each, however large the table.

use std::{collections::BTreeSet, time::Duration};

use rusqlite::{Connection, OptionalExtension, Row, types::ValueRef};

use crate::{
    clock::{self, Ticks, Timestamp},
    collectors::Run,
    store::database::{Abort, Limits, QueryError, ReadConnection},
};

/// A value of any column, which need not be what the column was made for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cell {
    Null,
    Integer(i64),
    Text(String),
    Blob(Vec<u8>),
    Real,
}

impl Cell {
    /// Of a column of a row. Ask for no more bytes than are wanted: they are copied. Errs when there is no such column.
    pub(super) fn of(row: &Row<'_>, column: usize) -> rusqlite::Result<Self> {
        Ok(match row.get_ref(column)? {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(value) => Self::Integer(value),
            ValueRef::Real(_) => Self::Real,
            ValueRef::Text(text) => Self::Text(String::from_utf8_lossy(text).into_owned()),
            ValueRef::Blob(bytes) => Self::Blob(bytes.to_vec()),
        })
    }

    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) const fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(value) => Some(*value),
            _ => None,
        }
    }

    /// The kind of the value, in words.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Integer(_) => "an integer",
            Self::Real => "a fraction",
            Self::Text(_) => "a text",
            Self::Blob(_) => "bytes",
        }
    }
}

/// A column that is read only when it has at most so many bytes; otherwise it reads as NULL.
pub(super) fn bounded(column: &str, bytes_max: u32) -> String {
    format!("CASE WHEN octet_length({column}) <= {bytes_max} THEN {column} END")
}

/// Names of all tables. Errs when SQLite does.
pub(super) fn tables(connection: &Connection) -> rusqlite::Result<BTreeSet<String>> {
    let mut statement =
        connection.prepare("SELECT name FROM sqlite_schema WHERE type='table' LIMIT 1000")?;
    statement.query_map([], |row| row.get(0))?.collect()
}

/// Names of the columns of a table; empty when there is no such table. Errs when SQLite does.
pub(super) fn columns(connection: &Connection, table: &str) -> rusqlite::Result<BTreeSet<String>> {
    let mut statement = connection.prepare("SELECT name FROM pragma_table_info(?1)")?;
    statement.query_map([table], |row| row.get(0))?.collect()
}

/// The first column of the first row, when there is one. Errs when SQLite does.
pub(super) fn first(connection: &Connection, sql: &str) -> rusqlite::Result<Option<Cell>> {
    connection.query_row(sql, [], |row| Cell::of(row, 0)).optional()
}

/// Asks one question after another over one connection, each in a short read transaction of its own.
#[derive(Debug)]
pub(super) struct Asker<'a, 'd> {
    connection: &'a mut ReadConnection<'d>,
    run: &'a Run,
    /// How long a question may take while no writer waits.
    time: Duration,
    /// Slices end then.
    until: Option<(Ticks, Duration)>,
    /// Rows of a slice.
    rows: u32,
    gave_up: bool,
}

impl<'a, 'd> Asker<'a, 'd> {
    pub(super) fn new(
        connection: &'a mut ReadConnection<'d>,
        run: &'a Run,
        time: Duration,
    ) -> Self {
        Self { connection, run, time, until: None, rows: ROWS_FIRST, gave_up: false }
    }

    /// Whether a question took too long, so that its answer is not known.
    pub(super) const fn gave_up(&self) -> bool {
        self.gave_up
    }

    /// The moment of the run.
    pub(super) const fn now(&self) -> Timestamp {
        self.run.now
    }

    /// Slices from now on take at most `budget` together.
    pub(super) fn slices_for(&mut self, budget: Duration) {
        self.until = Some((clock::ticks(), budget));
        self.rows = ROWS_FIRST;
    }

    /// One question. `None` when it took too long: then the answer is not known. Errs when SQLite does for another reason.
    pub(super) fn ask<T>(
        &mut self,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, QueryError> {
        let hold = self.time;
        match self.within(HOLD_BESIDE_WRITER.min(hold), hold, question) {
            Ok((answer, _)) => Ok(Some(answer)),
            // It took too long: that number is not known, the others may be.
            Err(QueryError::Aborted(_)) => {
                self.gave_up = true;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// One slice of about so many rows as take a few milliseconds. `None` when the budget is used up; then nothing was
    /// read, and the next run goes on from the same place. Errs when SQLite does for another reason.
    pub(super) fn slice<T>(
        &mut self,
        mut question: impl FnMut(&Connection, u32) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, QueryError> {
        loop {
            if self.run.stopped() || self.until.is_some_and(|(at, budget)| at.elapsed() > budget) {
                return Ok(None);
            }
            let rows = self.rows;
            let deadline = self.time;
            match self
                .within(SLICE.min(deadline), deadline, |connection| question(connection, rows))
            {
                Ok((answer, held)) => {
                    if held < SLICE / 3 {
                        self.rows = rows.saturating_mul(2).min(ROWS_MAX);
                    } else if held > SLICE {
                        self.rows = (rows / 2).max(1);
                    }
                    return Ok(Some(answer));
                }
                // A writer is at work, or waited for us: it goes first.
                Err(QueryError::Busy) => std::thread::sleep(PAUSE),
                Err(QueryError::Aborted(Abort::WriterWaiting | Abort::Deadline(_))) if rows > 1 => {
                    self.rows = (rows / 4).max(1);
                    std::thread::sleep(PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn within<T>(
        &mut self,
        hold: Duration,
        hold_unwaited: Duration,
        question: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<(T, Duration), QueryError> {
        let limits = Limits { hold, hold_unwaited, stop: &self.run.stop, progress: None };
        let timed = self.connection.within(&limits, question);
        self.connection.rest(timed.held);
        timed.result.map(|answer| (answer, timed.held))
    }
}

/// A question beside a writer that waits is given up after this.
const HOLD_BESIDE_WRITER: Duration = Duration::from_millis(10);
/// A slice shall hold the lock for no longer.
const SLICE: Duration = Duration::from_millis(5);
/// Between two tries beside a writer.
const PAUSE: Duration = Duration::from_millis(20);
const ROWS_FIRST: u32 = 200;
const ROWS_MAX: u32 = 20_000;
