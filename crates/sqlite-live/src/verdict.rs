//! What `quick_check` and `integrity_check` of a whole file would say, told in a fraction of their time.
//!
//! Where a schema is of a form that is known, neither pragma is run: the trees (`trees`) and the full text (`fulltext`), to
//! which nine tenths of the pragmas' time go, are checked side by side. When one of them comes upon anything that is not as it
//! should be, SQLite is asked about that part, and only what it says is told.

mod counts;
mod fulltext;
mod meeting;
#[cfg(test)]
#[path = "../../../tests/support/random.rs"]
mod random;
mod trees;

use std::{
    fs::File,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rusqlite::{
    Connection, ErrorCode,
    hooks::{AuthAction, AuthContext, Authorization},
};

use self::{
    fulltext::{Doubt, Parts, Share, Text},
    trees::Shape,
};
use crate::{
    database::{Limits, QueryError, ReadConnection, Timed, plain_tables},
    progress::Progress,
    view::CopyConnection,
};
use chroma_format::{fts5::Declaration, unrecognised::Unrecognised};

/// What a check of a whole file says.
#[derive(Debug)]
pub struct Verdict {
    /// What SQLite says of the damage, line by line, [`ROWS_MAX`] at most; none when all is well.
    pub lines: Vec<String>,
    /// Pages of the file.
    pub pages: u32,
    /// Whether SQLite gave up after these lines, so that there may be more.
    pub gave_up: bool,
}

/// A connection by which a check looks at a database. Two are asked side by side.
pub trait Reader: Send {
    /// The connection, to be set up.
    fn connection_mut(&mut self) -> &mut Connection;

    /// Runs `work` in one read transaction, on the connection and the bytes of the file.
    fn within<T>(
        &mut self,
        limits: &Limits<'_>,
        work: impl FnOnce(&Connection, &File) -> rusqlite::Result<T>,
    ) -> Timed<T>;
}

macro_rules! readers {
    ($($reader:ident),+) => {
        $(impl Reader for $reader<'_> {
            fn connection_mut(&mut self) -> &mut Connection {
                self.connection_mut()
            }

            fn within<T>(
                &mut self,
                limits: &Limits<'_>,
                work: impl FnOnce(&Connection, &File) -> rusqlite::Result<T>,
            ) -> Timed<T> {
                self.within_file(limits, work)
            }
        })+
    };
}
readers!(ReadConnection, CopyConnection);

/// For each page a bit is kept in memory, here and in SQLite: 32 MiB for a terabyte of usual pages.
const PAGES_MAX: u32 = 1 << 28;
const MANY_PAGES: &str =
    "it has more pages than fit into the memory that a check may take (268 million)";

/// Steps of SQLite between two looks whether it is the turn of others: some hundred microseconds.
const STEPS: i32 = 10_000;

/// Says what `quick_check` or `integrity_check` of the whole file would find. `limits` are those of each transaction; `progress`
/// is one over the bytes of the file.
pub fn whole<R: Reader>(
    readers: &mut [R; 2],
    pragma: &str,
    limits: &Limits<'_>,
    progress: &Progress,
) -> Timed<Verdict> {
    progress.take_way();
    for reader in readers.iter_mut() {
        if let Err(error) = pause_within(reader, progress) {
            return Timed { result: Err(error.into()), held: Duration::ZERO };
        }
    }
    let mut asking = Asking { readers, pragma, limits, progress, held: Duration::ZERO };
    let result = asking.ask();
    Timed { result, held: asking.held }
}

/// What SQLite itself says of the whole file, by nothing but its pragma: what [`whole`] is compared with. It takes much
/// longer. What SQLite says of a full text that it cannot judge is left out; the check is unjudged when it says nothing else.
pub fn of_sqlite<R: Reader>(
    reader: &mut R,
    pragma: &str,
    limits: &Limits<'_>,
    progress: &Progress,
) -> Timed<Verdict> {
    progress.take_way();
    if let Err(error) = pause_within(reader, progress) {
        return Timed { result: Err(error.into()), held: Duration::ZERO };
    }
    let Timed { result, held } = reader.within(limits, |connection, _| {
        let mut said = said(connection, &format!("PRAGMA {pragma}({ROWS_MAX})"))?;
        let unsure = drop_unsure(connection, &mut said.lines)?;
        Ok((said, unsure))
    });
    let result = result.and_then(|(said, unsure)| match said {
        SqliteReport { lines, .. } if unsure && lines.is_empty() => {
            Err(QueryError::Unjudged(UNSURE))
        }
        SqliteReport { lines, pages, gave_up, .. } => Ok(Verdict { lines, pages, gave_up }),
    });
    Timed { result, held }
}

/// Lets SQLite pause within a statement while it is the turn of others. Errs when SQLite does.
fn pause_within<R: Reader>(reader: &mut R, progress: &Progress) -> rusqlite::Result<()> {
    let progress = progress.clone();
    let pause = move || {
        progress.checkpoint_within();
        false
    };
    reader.connection_mut().progress_handler(STEPS, Some(pause))
}

/// Whether all trees are whole, told without a pragma; `false` when it would have to be asked. With `entries`, each index is
/// compared with its table. A part of [`whole`], to be measured alone.
pub fn trees_alone<R: Reader>(reader: &mut R, entries: bool, limits: &Limits<'_>) -> Timed<bool> {
    reader.within(limits, |connection, file| {
        let shape = trees::shape(connection)?;
        let whole = |shape: &Shape| {
            trees::read(connection, file, shape, entries, &Progress::default()).is_ok()
        };
        Ok(shape.as_ref().is_some_and(whole))
    })
}

struct Asking<'a, R> {
    readers: &'a mut [R; 2],
    pragma: &'a str,
    limits: &'a Limits<'a>,
    progress: &'a Progress,
    /// Longest transaction.
    held: Duration,
}

/// What SQLite said, line by line.
#[derive(Default)]
struct SqliteReport {
    lines: Vec<String>,
    pages: u32,
    /// Whether it is known that indexes have no entry too many.
    entries_agree: bool,
    /// Whether SQLite gave up after these lines.
    gave_up: bool,
}

/// What a side of the full text says, or why that is not known.
type Reckoned = Result<fulltext::TextSum, Doubt>;

impl<R: Reader> Asking<'_, R> {
    fn ask(&mut self) -> Result<Verdict, QueryError> {
        let known = self.alone(|connection, _| {
            plain_tables(connection)?;
            Ok((fulltext::table(connection)?, trees::shape(connection)?))
        });
        let (text, shape) = match known {
            Ok(known) => known,
            // The pragma says it in its own words.
            Err(QueryError::Damaged(_) | QueryError::Other(_)) => (Text::Other, None),
            Err(error) => return Err(error),
        };
        let pages: u32 = self.alone(|connection, _| {
            connection.query_row("PRAGMA page_count", [], |row| row.get(0))
        })?;
        if pages > PAGES_MAX {
            return Err(QueryError::Unjudged(MANY_PAGES));
        }
        let (pragma, progress) = (self.pragma, self.progress);
        let mut said = match text {
            Text::Known(text) => self.apart(&text, shape.as_ref())?,
            Text::Nothing => self.alone(|connection, file| {
                structure(connection, file, shape.as_ref(), pragma, progress)
            })?,
            Text::Other => {
                let said = |connection: &Connection, file: &File| {
                    structure(connection, file, None, pragma, progress)
                };
                let mut said = self.alone(said)?;
                let unsure =
                    self.alone(|connection, _| drop_unsure(connection, &mut said.lines))?;
                if unsure && said.lines.is_empty() {
                    return Err(QueryError::Unjudged(UNSURE));
                }
                said
            }
        };
        if pragma == FULL && said.lines.is_empty() && !said.entries_agree {
            said.lines = self.alone(|connection, _| counts::differences(connection))?;
        }
        Ok(Verdict { lines: said.lines, pages: said.pages, gave_up: said.gave_up })
    }

    /// One question on the first reader. Errs when the question does, or was given up.
    fn alone<T>(
        &mut self,
        work: impl FnOnce(&Connection, &File) -> rusqlite::Result<T>,
    ) -> Result<T, QueryError> {
        let timed = self.readers[0].within(self.limits, work);
        self.held = self.held.max(timed.held);
        timed.result
    }

    /// The pragma without the full text, and the full text. Errs when SQLite gave no answer.
    fn apart(
        &mut self,
        known: &Declaration,
        shape: Option<&Shape>,
    ) -> Result<SqliteReport, QueryError> {
        // Where that cannot be told, one takes them all. Asked before documents are refused.
        let (parts, bytes) = self
            .alone(|connection, _| Ok((Parts::of(connection, known)?, bytes_of(connection)?)))
            .unwrap_or_default();
        // As long as both sides of the full text take, trees could be read twice again.
        let shares =
            [bytes / 2 * 3, bytes / 2].map(|bytes| Share { progress: self.progress, bytes });
        self.progress.grow(bytes * 2);
        let refusing = Arc::new(AtomicBool::new(true));
        leave_out(self.readers[0].connection_mut(), Some((known.table.as_str(), &refusing)))?;
        let both = self.side_by_side(known, &parts, &shares, shape, &refusing);
        leave_out(self.readers[0].connection_mut(), None)?;
        let (mut said, text) = both?;
        let doubt = match text {
            Ok(None) => return Ok(said),
            Ok(Some(doubt)) => doubt,
            // Given up, but damage is damage.
            Err(_) if !said.lines.is_empty() => return Ok(said),
            Err(error) => return Err(error),
        };
        // What contradicts itself does so for every SQLite.
        let form = matches!(doubt, Doubt::Form(_));
        let asked = self.alone(|connection, _| {
            let mut more =
                self::said(connection, &format!("PRAGMA quick_check('{}')", known.table))?;
            let unsure = form && drop_unsure(connection, &mut more.lines)?;
            Ok((more, unsure))
        });
        match asked {
            Ok((more, unsure)) if more.lines.is_empty() => {
                tracing::debug!(%doubt, "SQLite finds a full text whole that is not as it writes them.");
                if unsure && said.lines.is_empty() {
                    return Err(QueryError::Unjudged(UNSURE));
                }
            }
            Ok((more, _)) => said.lines.extend(more.lines),
            Err(_) if !said.lines.is_empty() => {}
            Err(error) => return Err(error),
        }
        Ok(said)
    }

    /// The doubt is `None` when the full text is whole. The first reader begins with all else, the second with the index of the
    /// full text, and both share its documents. Errs when SQLite gave no answer about all else.
    fn side_by_side(
        &mut self,
        known: &Declaration,
        parts: &Parts,
        [of_index, of_documents]: &[Share<'_>; 2],
        shape: Option<&Shape>,
        refusing: &AtomicBool,
    ) -> Result<(SqliteReport, Result<Option<Doubt>, QueryError>), QueryError> {
        let (pragma, limits, progress) = (self.pragma, self.limits, self.progress);
        let [first, second] = &mut *self.readers;
        let [here, there] = meeting::two();
        let documents = |connection: &Connection| {
            reckoned(fulltext::of_documents(connection, known, parts, of_documents))
        };
        let (pages, text) = thread::scope(|scope| {
            let text = move || {
                second.within(limits, |connection, _| {
                    if !there.meet(connection)? {
                        return Ok(None);
                    }
                    let index = reckoned(fulltext::of_index(connection, known, of_index))?;
                    Ok(Some((index, documents(connection)?)))
                })
            };
            let text =
                thread::Builder::new().name("full text".to_owned()).spawn_scoped(scope, text);
            let pages = first.within(limits, move |connection, file| {
                if !here.meet(connection)? {
                    return Ok(None);
                }
                let said = structure(connection, file, shape, pragma, progress)?;
                refusing.store(false, Ordering::Relaxed);
                Ok(Some((said, documents(connection)?)))
            });
            (pages, text.map(thread::ScopedJoinHandle::join))
        });
        let text = match text {
            Ok(Ok(text)) => text,
            Ok(Err(_)) => {
                return Err(QueryError::File(std::io::Error::other("the check panicked")));
            }
            Err(error) => return Err(QueryError::File(error)),
        };
        self.held = self.held.max(pages.held).max(text.held);
        match (pages.result, text.result) {
            (Ok(Some((said, some))), Ok(Some((index, others)))) => {
                Ok((said, Ok(doubt(some, others, index))))
            }
            // Damage is told although the rest was given up.
            (Ok(Some((said, _))), Err(error)) => Ok((said, Err(error))),
            (Err(error), _) | (_, Err(error)) => Err(error),
            (Ok(None), _) | (_, Ok(None)) => Err(QueryError::File(std::io::Error::other(
                "one of two transactions gave up without an error",
            ))),
        }
    }
}

/// Why the full text cannot be called whole, from what two say of the documents and one of the index.
fn doubt(some: Reckoned, others: Reckoned, index: Reckoned) -> Option<Doubt> {
    match (some, others, index) {
        (Ok(some), Ok(others), Ok(index)) => (some.and(others) != Some(index))
            .then(|| Unrecognised("other words than those of its documents").into()),
        (Err(doubt), ..) | (_, Err(doubt), _) | (.., Err(doubt)) => Some(doubt),
    }
}

/// Lets a check that was given up be known as such. Errs when it was.
fn reckoned(result: Reckoned) -> rusqlite::Result<Reckoned> {
    match result {
        Err(Doubt::Query(error))
            if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) =>
        {
            Err(error)
        }
        result => Ok(result),
    }
}

/// Keeps the check of the full-text table `table` out of the pragmas: the statement by which that reads its documents is
/// refused, which ends the pragma. Virtual tables come last in it, so it has said all else by then. `None` ends this, and
/// the flag lifts it while it is `false`.
///
/// Taking the table out of the schema would need a connection that writes, and a pragma per table does not see pages that
/// belong to none or to two.
fn leave_out(
    connection: &mut Connection,
    table: Option<(&str, &Arc<AtomicBool>)>,
) -> rusqlite::Result<()> {
    let refuse = table.map(|(table, refusing)| {
        let (refused, refusing) = (format!("{table}_content"), Arc::clone(refusing));
        move |context: AuthContext<'_>| match context.action {
            AuthAction::Read { table_name, .. }
                if table_name == refused && refusing.load(Ordering::Relaxed) =>
            {
                Authorization::Deny
            }
            _ => Authorization::Allow,
        }
    });
    connection.authorizer(refuse)
}

/// Everything but virtual tables: by a walk over the trees when their `shape` is known and nothing is unrecognised, by the pragma
/// otherwise. Errs when SQLite does, or the check was given up.
fn structure(
    connection: &Connection,
    file: &File,
    shape: Option<&Shape>,
    pragma: &str,
    progress: &Progress,
) -> rusqlite::Result<SqliteReport> {
    if let Some(shape) = shape {
        let full = pragma == FULL;
        match trees::read(connection, file, shape, full, progress) {
            Ok(pages) => {
                return Ok(SqliteReport { pages, entries_agree: full, ..SqliteReport::default() });
            }
            Err(trees::Doubt::GivenUp) => {
                return Err(meeting::interrupted());
            }
            Err(doubt) => {
                tracing::debug!(%doubt, "SQLite is asked about trees that are not as expected.");
            }
        }
    }
    said(connection, &format!("PRAGMA {pragma}({ROWS_MAX})"))
}

/// Takes out what SQLite says of full-text tables of which its word says nothing (`fulltext::has_nul`), and says whether there
/// was such a line. Errs when SQLite does.
fn drop_unsure(connection: &Connection, lines: &mut Vec<String>) -> rusqlite::Result<bool> {
    let before = lines.len();
    let mut kept = Vec::with_capacity(before);
    for line in lines.drain(..) {
        let table = line.strip_prefix(MALFORMED_INDEX).map(str::trim);
        if !table.map_or(Ok(false), |table| fulltext::has_nul(connection, table))? {
            kept.push(line);
        }
    }
    *lines = kept;
    Ok(lines.len() < before)
}

fn bytes_of(connection: &Connection) -> rusqlite::Result<u64> {
    let ask = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, u32>(0));
    Ok(u64::from(ask("PRAGMA page_count")?) * u64::from(ask("PRAGMA page_size")?))
}

/// Runs a pragma. Errs when SQLite does.
fn said(connection: &Connection, sql: &str) -> rusqlite::Result<SqliteReport> {
    let pages = connection.query_row("PRAGMA page_count", [], |row| row.get(0))?;
    let mut said = SqliteReport { pages, ..SqliteReport::default() };
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    loop {
        match rows.next() {
            Ok(Some(row)) => {
                let text: String = row.get(0)?;
                // One row may hold many lines.
                said.lines.extend(text.lines().map(|line| line.chars().take(LINE_MAX).collect()));
            }
            Ok(None) => break,
            // It has come to the table that is left out.
            Err(error)
                if error.sqlite_error_code()
                    == Some(ErrorCode::AuthorizationForStatementDenied) =>
            {
                break;
            }
            // What it has said until then says more than that it goes no further.
            Err(error)
                if error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt)
                    && !said.lines.is_empty() =>
            {
                said.gave_up = true;
                break;
            }
            Err(error) => return Err(error),
        }
    }
    said.lines.retain(|line| line != "ok");
    Ok(said)
}

/// How SQLite begins to say that documents and index differ (`fts5IntegrityMethod`).
const MALFORMED_INDEX: &str = "malformed inverted index for FTS5 table main.";
const UNSURE: &str = "documents hold U+0000, at which SQLite up to 3.46 stops and this one does not, and their full-text table is of a form that SQLite alone can judge";
/// The check after which entries of indexes are counted.
pub const FULL: &str = "integrity_check";
/// SQLite says 100 unless it is asked for more. Who looks for how far damage goes wants more, and memory has an end.
pub const ROWS_MAX: u32 = 1000;
const LINE_MAX: usize = 300;
