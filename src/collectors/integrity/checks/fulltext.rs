//! The full text: that its index holds the words of its documents, all of them, and no others. SQLite's own check of it
//! takes nine tenths of the time of a whole-file pragma; this one reads each byte once, and its two halves can run side by
//! side. It only ever says that all is well, or that SQLite must be asked.

use rusqlite::{Connection, Rows, types::ValueRef};

use crate::format::{
    fts5::{
        self, Declaration, FORMAT_VERSION, STRUCTURE_ID, Segment, Source, Split, Structure, Sum,
        TOTALS_ID, Totals,
    },
    odd::Odd,
};

/// Why it cannot be said that the full text is whole.
#[derive(Debug, thiserror::Error)]
pub(super) enum Doubt {
    #[error("{0}")]
    Odd(#[from] Odd),
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

/// Looks for virtual tables.
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

/// Everything that the documents say, and the small records: totals, sizes, version.
pub(super) fn of_documents(
    connection: &Connection,
    declaration: &Declaration,
) -> Result<Sum, Doubt> {
    let tables = Tables { connection, name: &declaration.table };
    tables.version()?;
    let totals = Totals::parse(&tables.record(TOTALS_ID)?)?;
    let mut contents = tables.prepare("SELECT id, c0 FROM {}_content ORDER BY id")?;
    let mut sizes = tables.prepare("SELECT id, sz FROM {}_docsize ORDER BY id")?;
    let (mut contents, mut sizes) = (contents.query([])?, sizes.query([])?);
    let (mut sum, mut seen) = (Sum::default(), Totals::default());
    while let Some(content) = contents.next()? {
        let size = sizes.next()?.ok_or(Odd("a document without a size"))?;
        let id = content.get_ref(0)?.as_i64().map_err(|_| Odd("a document's id"))?;
        if size.get_ref(0)? != ValueRef::Integer(id) {
            return Err(Odd("sizes of other documents").into());
        }
        let text = match content.get_ref(1)? {
            ValueRef::Null => &[],
            ValueRef::Text(text) => text,
            _ => return Err(Odd("a document that is no text").into()),
        };
        let tokens = declaration.tokenizer.add(id, text, &mut sum)?;
        let size = size.get_ref(1)?.as_blob().map_err(|_| Odd("a document's size"))?;
        if fts5::tokens_of_row(size)? != tokens {
            return Err(Odd("a document of another size").into());
        }
        seen = Totals { rows: seen.rows + 1, tokens: seen.tokens + tokens };
    }
    if sizes.next()?.is_some() || seen != totals {
        return Err(Odd("totals that are not those of the documents").into());
    }
    Ok(sum)
}

/// Everything that the index says.
pub(super) fn of_index(connection: &Connection, declaration: &Declaration) -> Result<Sum, Doubt> {
    let tables = Tables { connection, name: &declaration.table };
    let structure = Structure::parse(&tables.record(STRUCTURE_ID)?)?;
    if structure.segments.len() > SEGMENTS_MAX {
        return Err(Odd("too many segments").into());
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
    let mut segments = Vec::new();
    for ((extent, leaves), splits) in structure.segments.iter().zip(&mut leaves).zip(&mut splits) {
        let range = [fts5::leaf_id(extent.id, extent.first), fts5::leaf_id(extent.id, extent.last)];
        let records = Records {
            tables,
            segment: extent.id,
            leaves: leaves.query(range)?,
            splits: splits.query([extent.id])?,
        };
        segments.push(Segment::new(records, extent.first, extent.last));
    }
    fts5::sum_of_index(segments)
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

    fn record(&self, id: i64) -> Result<Vec<u8>, Doubt> {
        let mut record = Vec::new();
        let sql = format!("SELECT block FROM {}_data WHERE id=?1", self.name);
        let mut statement = self.connection.prepare(&sql)?;
        let mut rows = statement.query([id])?;
        let row = rows.next()?.ok_or(Odd("a record that is missing"))?;
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
                return Err(Odd("a table that is configured").into());
            }
            known += 1;
        }
        if known == 1 { Ok(()) } else { Err(Odd("a table without a version").into()) }
    }
}

fn blob(value: ValueRef<'_>) -> Result<&[u8], Odd> {
    match value {
        ValueRef::Blob(bytes) => Ok(bytes),
        _ => Err(Odd("a record that is no blob")),
    }
}

/// The records of one segment, each read once and in order.
struct Records<'a> {
    tables: Tables<'a>,
    segment: u16,
    leaves: Rows<'a>,
    splits: Rows<'a>,
}

impl Source for Records<'_> {
    type Error = Doubt;

    fn leaf(&mut self, page: u32, leaf: &mut Vec<u8>) -> Result<(), Doubt> {
        let row = self.leaves.next()?.ok_or(Odd("a leaf that is missing"))?;
        if row.get_ref(0)? != ValueRef::Integer(fts5::leaf_id(self.segment, page)) {
            return Err(Odd("a leaf that is missing").into());
        }
        leaf.clear();
        leaf.extend_from_slice(blob(row.get_ref(1)?)?);
        Ok(())
    }

    fn split(&mut self, first: u32, split: &mut Split) -> Result<bool, Doubt> {
        while let Some(row) = self.splits.next()? {
            let place = row.get_ref(1)?.as_i64().map_err(|_| Odd("a split without a page"))?;
            let page = u32::try_from(place >> 1).map_err(|_| Odd("a split of no page"))?;
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

/// Each holds a few pages in memory. FTS5 merges long before there are so many.
const SEGMENTS_MAX: usize = 500;

#[cfg(test)]
mod tests;
