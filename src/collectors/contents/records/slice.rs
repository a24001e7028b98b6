//! One slice of the walk: what is read of the tables, and how the two copies of a document are compared.

use std::io::Read;

use rusqlite::{Connection, types::ValueRef};

use super::{CONTENT, FULLTEXT, WholeWalk};
use crate::{
    collectors::contents::{ask::Cell, catalogue::Catalogue, tally::Cases},
    format::fts5::{self, Trigrams},
};

/// One slice.
pub(super) struct Slice {
    pub(super) upto: i64,
    pub(super) seen: WholeWalk,
}

/// Which tables there are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts {
    metadata: bool,
    arrays: bool,
    /// `None` without documents or the full text; whether the sizes of the full text are there.
    fulltext: Option<bool>,
}

impl Parts {
    /// `None` without the table of the records: then there is nothing to walk over.
    pub(super) fn of(catalogue: &Catalogue) -> Option<Self> {
        let has = |table: &str| catalogue.tables.contains(table);
        has("embeddings").then(|| Self {
            metadata: has("embedding_metadata"),
            arrays: has("embedding_metadata_array"),
            fulltext: (has("embedding_metadata") && has(FULLTEXT) && has(CONTENT))
                .then(|| has(DOCSIZE)),
        })
    }

    /// The records behind `after`, in about `rows` rows of each table. Errs when SQLite does.
    pub(super) fn read(
        self,
        connection: &Connection,
        after: i64,
        rows: u32,
    ) -> rusqlite::Result<Slice> {
        let mut seen = WholeWalk::default();
        let upto = self.end(connection, after, rows)?;
        let range = (after, upto);
        let sql = "SELECT CASE WHEN octet_length(segment_id) <= 1000 THEN segment_id ELSE '' END, count(*) \
                   FROM embeddings WHERE id > ?1 AND id <= ?2 GROUP BY 1";
        let mut statement = connection.prepare(sql)?;
        let mut rows = statement.query(range)?;
        while let Some(row) = rows.next()? {
            let (segment, records) = (Cell::of(row, 0)?, row.get::<_, i64>(1)?.unsigned_abs());
            seen.records += records;
            seen.homeless.insert(segment.text().unwrap_or_default().to_owned(), records);
        }
        if self.metadata {
            ids(connection, &headless("embedding_metadata"), range, &mut seen.headless)?;
        }
        if self.arrays {
            let mut cases = Cases::default();
            ids(connection, &headless("embedding_metadata_array"), range, &mut cases)?;
            seen.lists = cases.count;
        }
        if let Some(sizes) = self.fulltext {
            compare(connection, range, sizes, &mut seen)?;
        }
        Ok(Slice { upto, seen })
    }

    /// The end of the slice: no table has more than about `rows` rows up to it. Errs when SQLite does.
    fn end(self, connection: &Connection, after: i64, rows: u32) -> rusqlite::Result<i64> {
        let mut upto = i64::MAX;
        for (there, table) in [
            (true, "embeddings"),
            (self.metadata, "embedding_metadata"),
            (self.arrays, "embedding_metadata_array"),
            (self.fulltext.is_some(), CONTENT),
        ] {
            if !there {
                continue;
            }
            let sql = format!("SELECT id FROM {table} WHERE id > ?1 ORDER BY id LIMIT 1 OFFSET ?2");
            let mut statement = connection.prepare(&sql)?;
            let mut found = statement.query((after, rows))?;
            if let Some(row) = found.next()? {
                upto = upto.min(row.get(0)?);
            }
        }
        Ok(upto)
    }
}

/// Distinct ids of rows whose record is not there.
pub(super) fn headless(table: &str) -> String {
    format!(
        "SELECT DISTINCT id FROM {table} AS m WHERE id > ?1 AND id <= ?2 \
         AND NOT EXISTS (SELECT 1 FROM embeddings AS e WHERE e.id = m.id)"
    )
}

/// Whether the index has the tokens behind the U+0000 of a text too, as the number of tokens at `size` says; `None` when there
/// are none.
fn indexed_whole(text: &[u8], before: &[u8], size: Option<&[u8]>) -> Option<bool> {
    if text[before.len()..].iter().all(|byte| *byte == 0) {
        return None;
    }
    let tokens = |text| CHROMAS.count(text).ok();
    let stated = size.and_then(|size| fts5::tokens_of_row(size).ok());
    Some(stated.is_some() && stated == tokens(text) && stated != tokens(before))
}

/// A record by the id that its user gave it.
fn named(id: i64, name: Option<&str>) -> String {
    match name {
        Some(name) => name.to_owned(),
        None => format!("embeddings.id {id}"),
    }
}

fn ids(
    connection: &Connection,
    sql: &str,
    range: (i64, i64),
    cases: &mut Cases,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query(range)?;
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        cases.add(|| id.to_string());
    }
    Ok(())
}

/// Documents of the records in the range whose two copies differ, and those with U+0000. The order of the tables is written
/// down: left to itself SQLite takes the index over all texts, and each slice would read every document.
pub(super) fn differing(sizes: bool) -> String {
    let (size, join) = if sizes {
        ("d.sz", format!("LEFT JOIN {DOCSIZE} AS d ON d.id = m.id"))
    } else {
        ("NULL", String::new())
    };
    let nul = "instr(m.string_value, char(0)) > 0";
    let long = format!(
        "(octet_length(m.string_value) > {LONG_BYTES} OR ifnull(octet_length(f.c0), 0) > {LONG_BYTES})"
    );
    let short_nul = format!("CASE WHEN {long} THEN 0 ELSE {nul} END");
    format!(
        "SELECT m.id, f.id IS NULL, octet_length(f.c0) = octet_length(m.string_value), \
         CASE WHEN {short_nul} THEN m.string_value END, CASE WHEN {short_nul} THEN f.c0 END, {size}, e.embedding_id, \
         CASE WHEN {long} THEN 0 ELSE m.rowid <> m.id AND EXISTS (SELECT 1 FROM {CONTENT} AS w WHERE w.id = m.rowid AND w.c0 = m.string_value) END, \
         {long}, m.rowid \
         FROM embeddings AS e \
         CROSS JOIN embedding_metadata AS m ON m.id = e.id AND m.key = 'chroma:document' \
         LEFT JOIN {CONTENT} AS f ON f.id = m.id {join} WHERE e.id > ?1 AND e.id <= ?2 \
         AND m.string_value IS NOT NULL AND (f.id IS NULL OR CASE WHEN {long} THEN 1 ELSE f.c0 IS NOT m.string_value OR {nul} END)"
    )
}

fn compare(
    connection: &Connection,
    range: (i64, i64),
    sizes: bool,
    seen: &mut WholeWalk,
) -> rusqlite::Result<()> {
    let sql = differing(sizes);
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query(range)?;
    while let Some(row) = rows.next()? {
        let (id, missing, same_length): (i64, bool, Option<bool>) =
            (row.get(0)?, row.get(1)?, row.get(2)?);
        if let (ValueRef::Text(text), ValueRef::Text(searched), false) =
            (row.get_ref(3)?, row.get_ref(4)?, missing)
        {
            let before = fts5::before_nul(text).unwrap_or(text);
            // Searches read neither of the copies beyond it.
            if searched == text || searched == before {
                let size = row.get_ref(5)?.as_blob().ok();
                if let Some(whole) = indexed_whole(text, before, size) {
                    let cases = if whole { &mut seen.whole_with_nul } else { &mut seen.cut_at_nul };
                    let name = Cell::of(row, 6)?;
                    cases.add(|| named(id, name.text()));
                }
                continue;
            }
        }
        let by_rowid: bool = row.get(7)?;
        if !missing && row.get(8)? && long_agree(connection, row.get(9)?, id)? {
            continue;
        }
        let cases = match (missing, same_length) {
            _ if by_rowid => &mut seen.by_rowid,
            (true, _) => &mut seen.missing,
            (false, Some(true)) => &mut seen.changed,
            (false, _) => &mut seen.other,
        };
        cases.add(|| id.to_string());
    }
    let without_document = format!(
        "FROM {CONTENT} AS f WHERE f.id > ?1 AND f.id <= ?2 AND NOT EXISTS \
         (SELECT 1 FROM embedding_metadata AS m WHERE m.id = f.id AND m.key = 'chroma:document')"
    );
    let there = "EXISTS (SELECT 1 FROM embeddings AS e WHERE e.id = f.id)";
    ids(
        connection,
        &format!("SELECT f.id {without_document} AND {there}"),
        range,
        &mut seen.stale,
    )?;
    let sql = format!("SELECT count(*) {without_document} AND NOT {there}");
    let leftover: i64 = connection.query_row(&sql, range, |row| row.get(0))?;
    seen.leftover += leftover.unsigned_abs();
    Ok(())
}

/// Whether the two copies of a document that is too long to be held in memory agree: the one in row `rowid` of
/// `embedding_metadata`, and the one of the full text, which may end where the other has a U+0000. Errs when SQLite does.
fn long_agree(connection: &Connection, rowid: i64, id: i64) -> rusqlite::Result<bool> {
    let open = |table: &str, column: &str, row: i64| {
        connection.blob_open("main", table, column, row, true)
    };
    let mut text = open("embedding_metadata", "string_value", rowid)?;
    // What is no text or bytes is another thing than a document.
    let Ok(mut searched) = open(CONTENT, "c0", id) else { return Ok(false) };
    let (whole, common) = (text.len(), text.len().min(searched.len()));
    let (longer, shorter) = (whole > common, searched.len() > common);
    let [mut one, mut other] = [vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]];
    let mut at = 0;
    let io = |_| rusqlite::Error::BlobSizeError;
    while at < common {
        if connection.is_interrupted() {
            let interrupted = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_INTERRUPT);
            return Err(rusqlite::Error::SqliteFailure(interrupted, None));
        }
        let len = PIECE_BYTES.min(common - at);
        text.read_exact(&mut one[..len]).map_err(io)?;
        searched.read_exact(&mut other[..len]).map_err(io)?;
        if one[..len] != other[..len] {
            return Ok(false);
        }
        at += len;
    }
    if longer {
        text.read_exact(&mut one[..1]).map_err(io)?;
    }
    Ok(!shorter && (!longer || one[0] == 0))
}

/// A document that is longer is compared piece by piece.
const LONG_BYTES: u32 = 1 << 20;
const PIECE_BYTES: usize = 64 << 10;

/// Where it keeps how many tokens they have.
const DOCSIZE: &str = "embedding_fulltext_search_docsize";
/// The tokenizer of the table that Chroma makes.
const CHROMAS: Trigrams = Trigrams { folds: true };
