//! The full text: that its index holds the words of its documents, all of them, and no others. SQLite's own check of it
//! takes nine tenths of the time of a whole-file pragma; this one reads each byte once, in parts that can be read side by
//! side. It only ever says that all is well, or that SQLite must be asked.

use std::{
    io::Read,
    sync::atomic::{AtomicUsize, Ordering},
};

use rusqlite::{Connection, Rows, types::ValueRef};

use super::meeting;
use crate::progress::Progress;
use chroma_format::{
    fts5::{
        self, Declaration, FORMAT_VERSION, STRUCTURE_ID, Segment, Source, Split, Structure, Sum,
        TOTALS_ID, Tokens, Totals, Trigrams,
    },
    unrecognised::Unrecognised,
};

/// Why it cannot be said that the full text is whole.
#[derive(Debug, thiserror::Error)]
pub(super) enum Doubt {
    #[error("{0}")]
    Unrecognised(#[from] Unrecognised),
    /// Nothing contradicts itself; it is of a form that is not known here.
    #[error("{0}")]
    Form(&'static str),
    #[error(transparent)]
    Query(#[from] rusqlite::Error),
}

/// What a database has of virtual tables.
#[derive(Debug)]
pub(super) enum Text {
    /// None.
    Nothing,
    /// One, of a form that is known.
    Known(Declaration),
    /// Others, or more than one.
    Other,
}

/// Looks for virtual tables. Errs when SQLite does.
pub(super) fn table(connection: &Connection) -> rusqlite::Result<Text> {
    let mut statement = connection.prepare(
        "SELECT sql FROM sqlite_schema WHERE type='table' AND sql LIKE '%virtual%' LIMIT 2",
    )?;
    let sql = statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
    let encoding: String = connection.query_row("PRAGMA encoding", [], |row| row.get(0))?;
    let known = match sql.as_slice() {
        [] => return Ok(Text::Nothing),
        [sql] if encoding == "UTF-8" => Declaration::parse(sql),
        _ => None,
    };
    Ok(known.map_or(Text::Other, Text::Known))
}

/// What one side says: the words, and how many rows and tokens there are. Both sides of a whole full text say the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct TextSum {
    sum: Sum,
    totals: Totals,
}

impl TextSum {
    /// What two parts of a side say together; `None` when no whole full text says so much.
    pub(super) fn and(self, other: Self) -> Option<Self> {
        let totals = Totals {
            rows: self.totals.rows.checked_add(other.totals.rows)?,
            tokens: self.totals.tokens.checked_add(other.totals.tokens)?,
        };
        Some(Self { sum: self.sum.and(other.sum), totals })
    }
}

/// The part of a progress that stands for one side.
pub(super) struct Share<'a> {
    pub(super) progress: &'a Progress,
    pub(super) bytes: u64,
}

impl Share<'_> {
    /// So many of `all` equal parts are done.
    fn add(&self, parts: u64, all: u64) {
        self.progress.add(self.bytes.saturating_mul(parts) / all.max(1));
    }
}

/// The documents in parts of as many ids each, to be taken by whoever is free. Together they are all ids there can be.
#[derive(Debug, Default)]
pub(super) struct Parts {
    /// The last id of each part but the last one.
    ends: Vec<i64>,
    next: AtomicUsize,
}

impl Parts {
    /// Shares out the documents of now; those that come later belong to a part too. Errs when SQLite does.
    pub(super) fn of(connection: &Connection, declaration: &Declaration) -> rusqlite::Result<Self> {
        let tables = Tables { connection, name: &declaration.table };
        let mut statement = tables
            .prepare("SELECT (SELECT min(id) FROM {}_content), (SELECT max(id) FROM {}_content)")?;
        let (first, last): (Option<i64>, Option<i64>) =
            statement.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let (first, last) = (first.unwrap_or_default(), last.unwrap_or_default());
        let ids_each = last.saturating_sub(first) / PARTS + 1;
        let ends = (1..PARTS).map(|part| first.saturating_add(ids_each.saturating_mul(part)));
        Ok(Self { ends: ends.collect(), next: AtomicUsize::new(0) })
    }

    /// The first and the last id of the next part; `None` when all are taken.
    fn take(&self) -> Option<[i64; 2]> {
        let part = self.next.fetch_add(1, Ordering::Relaxed);
        let end = |part: usize| self.ends.get(part).copied();
        let first = match part.checked_sub(1) {
            None => i64::MIN,
            Some(before) => end(before)?.checked_add(1)?,
        };
        Some([first, end(part).unwrap_or(i64::MAX)])
    }
}

/// What the documents of all `parts` say that are left to be taken. Errs when that cannot be told: SQLite must be asked
/// then.
pub(super) fn of_documents(
    connection: &Connection,
    declaration: &Declaration,
    parts: &Parts,
    progress: &Share<'_>,
) -> Result<TextSum, Doubt> {
    let tables = Tables { connection, name: &declaration.table };
    let within = "WHERE id BETWEEN ?1 AND ?2 ORDER BY id";
    let mut contents = tables.prepare(&format!(
        "SELECT id, CASE WHEN octet_length(c0) <= {LONG_BYTES} THEN c0 END, octet_length(c0) > {LONG_BYTES}, typeof(c0) FROM {{}}_content {within}"
    ))?;
    let mut sizes = tables.prepare(&format!("SELECT id, sz FROM {{}}_docsize {within}"))?;
    let mut said = TextSum::default();
    while let Some(ids) = parts.take() {
        let rows = (contents.query(ids)?, sizes.query(ids)?);
        let part = documents(tables, rows, declaration.tokenizer)?;
        said = said.and(part).ok_or(Unrecognised("more tokens than can be counted"))?;
        progress.add(1, parts.ends.len() as u64 + 1);
    }
    Ok(said)
}

fn documents(
    tables: Tables<'_>,
    (mut contents, mut sizes): (Rows<'_>, Rows<'_>),
    tokenizer: Trigrams,
) -> Result<TextSum, Doubt> {
    let TextSum { mut sum, mut totals } = TextSum::default();
    while let Some(content) = contents.next()? {
        let size = sizes.next()?.ok_or(Unrecognised("a document without a size"))?;
        let id = content.get_ref(0)?.as_i64().map_err(|_| Unrecognised("a document's id"))?;
        if size.get_ref(0)? != ValueRef::Integer(id) {
            return Err(Unrecognised("sizes of other documents").into());
        }
        let size = size.get_ref(1)?.as_blob().map_err(|_| Unrecognised("a document's size"))?;
        let stated = fts5::tokens_of_row(size)?;
        let is_text = content.get_ref(3)? == ValueRef::Text(b"text");
        let tokens = match content.get_ref(1)? {
            ValueRef::Null if content.get::<_, Option<bool>>(2)? != Some(true) => 0,
            ValueRef::Null if is_text => tables.long_tokens(tokenizer, id, stated, &mut sum)?,
            ValueRef::Text(text) => tokens(tokenizer, id, text, stated, &mut sum)?,
            _ => return Err(Doubt::Form("a document that is no text")),
        };
        if stated != tokens {
            return Err(Unrecognised("a document of another size").into());
        }
        totals = Totals { rows: totals.rows + 1, tokens: totals.tokens + tokens };
    }
    if sizes.next()?.is_some() {
        return Err(Unrecognised("sizes of other documents").into());
    }
    Ok(TextSum { sum, totals })
}

/// Adds the tokens of a document to `sum`, and says how many there are. The SQLite that wrote them may have stopped at a
/// U+0000; the size that it `stated` tells whether it did. Errs when the tokenizer does not know what SQLite makes of it.
fn tokens(
    tokenizer: Trigrams,
    id: i64,
    text: &[u8],
    stated: u64,
    sum: &mut Sum,
) -> Result<u64, Doubt> {
    let unknown = |reason: Unrecognised| Doubt::Form(reason.0);
    if let Some(before) = fts5::before_nul(text) {
        let mut cut = Sum::default();
        let tokens = tokenizer.add(id, before, &mut cut).map_err(unknown)?;
        if tokens == stated {
            *sum = sum.and(cut);
            return Ok(tokens);
        }
    }
    tokenizer.add(id, text, sum).map_err(unknown)
}

/// Whether a document of the full-text table `name` has a U+0000. Then SQLite as we have it calls an index damaged that an
/// older one wrote and finds whole, so that its word on the index says nothing. Errs when SQLite does.
pub(super) fn has_nul(connection: &Connection, name: &str) -> rusqlite::Result<bool> {
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let table = format!("{name}_content");
    let mut statement = connection
        .prepare("SELECT name FROM pragma_table_info(?1) WHERE name GLOB 'c[0-9]*' LIMIT 100")?;
    let columns = statement.query_map([&table], |row| row.get(0))?;
    let columns = columns.collect::<Result<Vec<String>, _>>()?;
    let any = columns.iter().map(|column| format!("instr({}, char(0)) > 0", quoted(column)));
    let any = any.collect::<Vec<_>>().join(" OR ");
    if any.is_empty() {
        return Ok(false);
    }
    let sql = format!("SELECT EXISTS(SELECT 1 FROM {} WHERE {any})", quoted(&table));
    connection.query_row(&sql, [], |row| row.get(0))
}

/// What the index says, and the small records beside it: totals, version. Errs when that cannot be told: SQLite must be
/// asked then.
pub(super) fn of_index(
    connection: &Connection,
    declaration: &Declaration,
    progress: &Share<'_>,
) -> Result<TextSum, Doubt> {
    let tables = Tables { connection, name: &declaration.table };
    tables.version()?;
    let totals = Totals::parse(&tables.record(TOTALS_ID)?)?;
    let structure = Structure::parse(&tables.record(STRUCTURE_ID)?)?;
    if structure.segments.len() > SEGMENTS_MAX {
        return Err(Doubt::Form("too many segments"));
    }
    let mut leaves = Vec::new();
    let mut splits = Vec::new();
    for _ in &structure.segments {
        leaves.push(
            tables
                .prepare("SELECT id, block FROM {}_data WHERE id BETWEEN ?1 AND ?2 ORDER BY id")?,
        );
        splits.push(tables.prepare("SELECT term, pgno FROM {}_idx WHERE segid=?1 ORDER BY term")?);
    }
    let leaves_all =
        structure.segments.iter().map(|extent| u64::from(extent.last - extent.first) + 1);
    let leaves_all = leaves_all.sum::<u64>();
    let mut segments = Vec::new();
    for ((extent, leaves), splits) in structure.segments.iter().zip(&mut leaves).zip(&mut splits) {
        let range = [fts5::leaf_id(extent.id, extent.first), fts5::leaf_id(extent.id, extent.last)];
        let records = Records {
            tables,
            segment: extent.id,
            leaves: leaves.query(range)?,
            splits: splits.query([extent.id])?,
            read: 0,
            leaves_all,
            progress,
        };
        segments.push(Segment::new(records, extent.first, extent.last));
    }
    Ok(TextSum { sum: fts5::sum_of_index(segments)?, totals })
}

/// The tables behind a full-text table.
#[derive(Clone, Copy)]
struct Tables<'a> {
    connection: &'a Connection,
    /// Letters, digits and underlines.
    name: &'a str,
}

impl<'a> Tables<'a> {
    fn prepare(&self, sql: &str) -> rusqlite::Result<rusqlite::Statement<'a>> {
        self.connection.prepare(&sql.replace("{}", self.name))
    }

    /// The tokens of a document that is too long to be held in memory.
    /// Errs when it cannot be read, is unlike what SQLite writes, or the check was given up.
    fn long_tokens(
        &self,
        tokenizer: Trigrams,
        id: i64,
        stated: u64,
        sum: &mut Sum,
    ) -> Result<u64, Doubt> {
        let unknown = |reason: Unrecognised| Doubt::Form(reason.0);
        let table = format!("{}_content", self.name);
        let mut document = self.connection.blob_open("main", table.as_str(), "c0", id, true)?;
        let (mut tokens, mut whole) = (Tokens::new(tokenizer, id), Sum::default());
        // What stands before the first U+0000.
        let mut before = None;
        let mut buffer = vec![0; PIECE_BYTES];
        let mut filled = 0;
        loop {
            if self.connection.is_interrupted() {
                return Err(meeting::interrupted().into());
            }
            let read = document
                .read(&mut buffer[filled..])
                .map_err(|_| Doubt::Form("a document that cannot be read"))?;
            filled += read;
            let end = if read == 0 { filled } else { fts5::whole_characters(&buffer[..filled]) };
            if read > 0 && end == 0 && filled == buffer.len() {
                return Err(Doubt::Form("a character without an end"));
            }
            let mut piece = &buffer[..end];
            if before.is_none()
                && let Some(at) = piece.iter().position(|byte| *byte == 0)
            {
                tokens.add(&piece[..at], &mut whole).map_err(unknown)?;
                before = Some((tokens.count(), whole));
                piece = &piece[at..];
            }
            tokens.add(piece, &mut whole).map_err(unknown)?;
            buffer.copy_within(end..filled, 0);
            filled -= end;
            if read == 0 {
                break;
            }
        }
        match before {
            Some((count, cut)) if count == stated => {
                *sum = sum.and(cut);
                Ok(count)
            }
            _ => {
                *sum = sum.and(whole);
                Ok(tokens.count())
            }
        }
    }

    fn record(&self, id: i64) -> Result<Vec<u8>, Doubt> {
        let mut record = Vec::new();
        let sql = format!("SELECT block FROM {}_data WHERE id=?1", self.name);
        let mut statement = self.connection.prepare(&sql)?;
        let mut rows = statement.query([id])?;
        let row = rows.next()?.ok_or(Unrecognised("a record that is missing"))?;
        record.extend_from_slice(blob(row.get_ref(0)?)?);
        Ok(record)
    }

    /// Errs when the table is configured in any way.
    fn version(&self) -> Result<(), Doubt> {
        let mut statement = self.prepare("SELECT k, v FROM {}_config")?;
        let mut rows = statement.query([])?;
        let mut known = 0;
        while let Some(row) = rows.next()? {
            let key = row.get_ref(0)? == ValueRef::Text(b"version");
            if !key || row.get_ref(1)? != ValueRef::Integer(FORMAT_VERSION) {
                return Err(Doubt::Form("a table that is configured"));
            }
            known += 1;
        }
        if known == 1 { Ok(()) } else { Err(Doubt::Form("a table without a version")) }
    }
}

fn blob(value: ValueRef<'_>) -> Result<&[u8], Unrecognised> {
    match value {
        ValueRef::Blob(bytes) => Ok(bytes),
        _ => Err(Unrecognised("a record that is no blob")),
    }
}

/// The records of one segment, each read once and in order.
struct Records<'a> {
    tables: Tables<'a>,
    segment: u16,
    leaves: Rows<'a>,
    splits: Rows<'a>,
    /// Leaves that were read and not told yet, of those of all segments.
    read: u64,
    leaves_all: u64,
    progress: &'a Share<'a>,
}

impl Source for Records<'_> {
    type Error = Doubt;

    fn leaf(&mut self, page: u32, leaf: &mut Vec<u8>) -> Result<(), Doubt> {
        let row = self.leaves.next()?.ok_or(Unrecognised("a leaf that is missing"))?;
        if row.get_ref(0)? != ValueRef::Integer(fts5::leaf_id(self.segment, page)) {
            return Err(Unrecognised("a leaf that is missing").into());
        }
        leaf.clear();
        leaf.extend_from_slice(blob(row.get_ref(1)?)?);
        self.read += 1;
        if self.read == REPORT_EVERY {
            self.progress.add(std::mem::take(&mut self.read), self.leaves_all);
        }
        Ok(())
    }

    fn split(&mut self, first: u32, split: &mut Split) -> Result<bool, Doubt> {
        while let Some(row) = self.splits.next()? {
            let place =
                row.get_ref(1)?.as_i64().map_err(|_| Unrecognised("a split without a page"))?;
            let page = u32::try_from(place >> 1).map_err(|_| Unrecognised("a split of no page"))?;
            if page < first {
                continue;
            }
            split.term.clear();
            split.term.extend_from_slice(blob(row.get_ref(0)?)?);
            (split.page, split.indexed) = (page, place & 1 == 1);
            return Ok(true);
        }
        Ok(false)
    }

    fn doclist_index(&mut self, level: u8, page: u32, record: &mut Vec<u8>) -> Result<(), Doubt> {
        *record = self.tables.record(fts5::doclist_index_id(self.segment, level, page))?;
        Ok(())
    }
}

/// A document that is longer is read piece by piece.
const LONG_BYTES: i64 = 1 << 20;
const PIECE_BYTES: usize = 256 << 10;

/// Few enough to be seen moving, and so many that telling takes no time.
const REPORT_EVERY: u64 = 64;

/// Small enough that two who share them end at about the same time.
const PARTS: i64 = 64;

/// Each holds a few pages in memory. FTS5 merges long before there are so many.
const SEGMENTS_MAX: usize = 500;

#[cfg(test)]
mod tests;
