//! What the schema of a damaged database says of its tables and indexes. SQLite reads the texts, in memory; it never sees the file.

use chroma_format::{
    btree::{Kind, Page},
    record::{Fields, Value},
};
use rusqlite::Connection;

use super::{
    Failure, Read, Salvage,
    trees::{self, Met},
};

/// What stands in the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub kind: String,
    pub name: String,
    pub root: u32,
    pub sql: Option<String>,
}

/// A table with rows of its own.
#[derive(Debug)]
pub(super) struct Table {
    pub entry: Entry,
    pub name: String,
    pub root: u32,
    pub columns: Vec<Column>,
    pub without_rowid: bool,
    pub indexes: Vec<Index>,
}

#[derive(Debug)]
pub(super) struct Column {
    pub name: String,
    /// Its declared type, in capitals.
    kind: String,
    not_null: bool,
    /// Whether it is the number of the row, which its record does not hold.
    pub is_row: bool,
}

#[derive(Debug)]
pub(super) struct Index {
    pub root: u32,
    /// Of the table, in the order of the entries; the number of the row is the last value.
    pub columns: Vec<usize>,
}

impl Table {
    pub(super) fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// Whether a record can be a row of it at all: not more values than it has columns, and the number of the row left out.
    pub(super) fn may_have(&self, fields: &Fields, record: &[u8]) -> bool {
        (1..=self.columns.len()).contains(&fields.len())
            && (0..fields.len()).all(|nth| fields.value(record, nth).is_ok())
            && self.columns.iter().enumerate().all(|(nth, column)| {
                !column.is_row || fields.is_null(nth).is_none_or(|is_null| is_null)
            })
    }

    /// Whether a record is as Chroma writes rows of this table: of the types that its columns declare.
    pub(super) fn fits(&self, fields: &Fields, local: &[u8]) -> bool {
        if fields.is_empty() || fields.len() > self.columns.len() {
            return false;
        }
        let fits = |(nth, column): (usize, &Column)| match fields.is_null(nth) {
            // Added to the table after the row.
            None => !column.not_null,
            Some(true) => column.is_row || !column.not_null,
            Some(false) if column.is_row => false,
            Some(false) => {
                let text = fields.is_text(nth) == Some(true);
                let number = fields.is_number(nth) == Some(true);
                match &*column.kind {
                    "TEXT" | "TIMESTAMP" => text && column.looks_right(fields, local, nth),
                    "INTEGER" | "INT" | "REAL" => number,
                    "BLOB" => !text,
                    _ => true,
                }
            }
        };
        self.columns.iter().enumerate().all(fits)
    }
}

/// Whether a leaf in the tree of `table` is one of another table, as after a write that went to the wrong place: none of its rows is as
/// Chroma writes rows of this one, and each is as those of one of `others`.
pub(super) fn is_foreign(
    page: &Page<'_>,
    table: &Table,
    others: &[Table],
    fields: &mut Fields,
) -> bool {
    let mut all = |wanted: bool, table: &Table| {
        (0..page.cells).all(|nth| {
            page.cell(nth).is_ok_and(|cell| {
                fields.read(cell.local, cell.payload_bytes) == Ok(true)
                    && table.fits(fields, cell.local) == wanted
            })
        })
    };
    page.cells > 0
        && all(false, table)
        && others.iter().any(|other| !other.without_rowid && all(true, other))
}

impl Column {
    /// Whether a text is of the kind that Chroma keeps in a column of this name.
    fn looks_right(&self, fields: &Fields, local: &[u8], nth: usize) -> bool {
        let Ok(Some(Value::Text(text))) = fields.value(local, nth) else {
            // It goes on in other pages.
            return true;
        };
        match &*self.name {
            "segment_id" | "collection_id" | "database_id" => {
                chroma_format::uuid::parse_uuid(text).is_some()
            }
            "topic" => text.starts_with(b"persistent://"),
            "config_json_str" => text.starts_with(b"{"),
            "type" => text.starts_with(b"urn:"),
            "scope" => text.iter().all(u8::is_ascii_uppercase),
            _ => true,
        }
    }
}

/// Reads the schema from the first page on, and from leaves that nothing leads to any more. Says whether some may be missing.
/// Errs when the file cannot be read, or the steps were stopped while leaves were searched for.
pub(super) fn entries(salvage: &mut Salvage<'_>) -> Result<(Vec<Entry>, bool), Failure> {
    let mut entries: Vec<Entry> = Vec::new();
    let mut holes = false;
    let Salvage { pages, used, chained, read, .. } = salvage;
    trees::table(
        pages,
        1,
        used,
        |_| false,
        |met| -> Result<(), Failure> {
            match met {
                Met::Row { cell, sure: true } if entries.len() < ENTRIES_MAX => {
                    let Read { fields, record, page } = &mut *read;
                    let readable = cell.payload_bytes <= ENTRY_BYTES_MAX
                        && pages.payload(&cell, chained, record, page)?
                        && fields.read(record, record.len()) == Ok(true);
                    match readable.then(|| entry(fields, record)).flatten() {
                        Some(entry) => entries.push(entry),
                        None => holes = true,
                    }
                }
                _ => holes = true,
            }
            Ok(())
        },
    )?;
    if holes {
        more(salvage, &mut entries)?;
    }
    Ok((entries, holes))
}

/// Errs when a name is none that Chroma gives, or when there are `holes` and a table that every release has is not among these.
pub(super) fn judge(entries: &[Entry], holes: bool) -> Result<(), Failure> {
    let gone = |name: &&&str| holes && entries.iter().all(|entry| entry.name != **name);
    if let Some(name) = TABLES.iter().find(gone) {
        return Err(Failure::Damaged(format!(
            "The schema of the database is damaged: neither it nor the table of migrations says any more what the table {name} is like. Restore a backup."
        )));
    }
    let plain = |name: &str| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if entries.iter().any(|entry| !plain(&entry.name)) {
        return Err(odd());
    }
    Ok(())
}

/// Leaves of the schema that nothing leads to. One that says something else of a name than a page before it is of another time.
/// Errs when the disk does.
fn more(salvage: &mut Salvage<'_>, entries: &mut Vec<Entry>) -> Result<(), Failure> {
    let (mut room, mut extents) = (Vec::new(), Vec::new());
    for number in 2..=salvage.pages.count {
        if salvage.used.contains(number) || salvage.free.contains(number) {
            continue;
        }
        salvage.pages.read(number, &mut room)?;
        let geometry = salvage.pages.geometry;
        let Ok(page) = Page::parse(&room, number, geometry, &mut extents) else { continue };
        if page.kind != Kind::TableLeaf || page.cells == 0 {
            continue;
        }
        let mut found = Vec::new();
        for nth in 0..page.cells {
            let Ok(cell) = page.cell(nth) else { break };
            let Salvage { pages, chained, read, .. } = &mut *salvage;
            let Read { fields, record, page } = read;
            // What begins otherwise is another table's, and its overflow pages are not used here.
            if cell.payload_bytes > ENTRY_BYTES_MAX
                || fields.read(cell.local, cell.payload_bytes) != Ok(true)
                || !matches!(fields.value(cell.local, 0), Ok(Some(Value::Text(kind))) if is_kind(kind))
                || !pages.payload(&cell, chained, record, page)?
                || fields.read(record, record.len()) != Ok(true)
            {
                break;
            }
            let Some(entry) = entry(fields, record) else { break };
            if !begins(salvage, &entry)? {
                break;
            }
            found.push(entry);
        }
        let new = |entry: &Entry| entries.iter().all(|known| known.name != entry.name);
        if found.len() == page.cells
            && found.iter().all(new)
            && entries.len() + found.len() <= ENTRIES_MAX
        {
            salvage.used.insert(number);
            entries.extend(found);
        }
    }
    Ok(())
}

/// Whether a tree of the right kind begins where an entry says. Errs when the disk does.
fn begins(salvage: &Salvage<'_>, entry: &Entry) -> Result<bool, Failure> {
    if entry.root == 0 {
        return Ok(true);
    }
    let mut room = Vec::new();
    salvage.pages.read(entry.root, &mut room)?;
    let page = Page::parse(&room, entry.root, salvage.pages.geometry, &mut Vec::new());
    Ok(page.is_ok_and(|page| match page.kind {
        Kind::TableInterior | Kind::TableLeaf => entry.kind == "table",
        Kind::IndexInterior | Kind::IndexLeaf => {
            entry.kind == "index" || entry.sql.as_deref().is_some_and(is_without_rowid)
        }
    }))
}

fn entry(fields: &Fields, record: &[u8]) -> Option<Entry> {
    let text = |nth| match fields.value(record, nth) {
        Ok(Some(Value::Text(text))) => String::from_utf8(text.to_owned()).ok(),
        _ => None,
    };
    let root = match fields.value(record, 3) {
        Ok(Some(Value::Integer(root))) => u32::try_from(root).ok()?,
        Ok(Some(Value::Null)) => 0,
        _ => return None,
    };
    let kind = text(0).filter(|kind| is_kind(kind.as_bytes()))?;
    let sql = match fields.value(record, 4) {
        Ok(Some(Value::Null)) => None,
        _ => Some(text(4)?),
    };
    (fields.len() == 5).then_some(())?;
    text(2)?;
    Some(Entry { kind, name: text(1)?, root, sql })
}

fn is_kind(text: &[u8]) -> bool {
    matches!(text, b"table" | b"index" | b"view" | b"trigger")
}

/// The tables of a schema, those of the full text too, with their columns and indexes.
/// Errs when SQLite does, or the schema says what Chroma's never does.
pub(super) fn tables(entries: &[Entry]) -> Result<Vec<Table>, Failure> {
    let model = Connection::open_in_memory()?;
    model.execute_batch("PRAGMA trusted_schema=OFF")?;
    let all = || entries.iter().filter(|entry| entry.kind == "table");
    for entry in all().filter(|entry| entry.root > 0 && !entry.name.starts_with("sqlite_")) {
        // Those of the full text are in quotes, and not reserved without it.
        create(&model, entry, "CREATE TABLE ")?;
    }
    for entry in entries.iter().filter(|entry| entry.kind == "index" && entry.sql.is_some()) {
        create(&model, entry, "CREATE ")?;
    }
    let root = |name: &str| entries.iter().find(|entry| entry.name == name).map(|entry| entry.root);
    let mut tables = Vec::new();
    for entry in all().filter(|entry| entry.root > 0 && !entry.name.starts_with("sqlite_")) {
        let without_rowid = entry.sql.as_deref().is_some_and(is_without_rowid);
        let columns = columns(&model, &entry.name, without_rowid)?;
        let mut indexes = Vec::new();
        let mut names = model.prepare("SELECT name FROM pragma_index_list(?1)")?;
        let names = names.query_map([&entry.name], |row| row.get::<_, String>(0))?;
        for name in names.collect::<rusqlite::Result<Vec<_>>>()? {
            let sql = "SELECT cid FROM pragma_index_info(?1) ORDER BY seqno";
            let mut statement = model.prepare(sql)?;
            let ids = statement.query_map([&name], |row| row.get::<_, i64>(0))?;
            let ids = ids.collect::<rusqlite::Result<Vec<_>>>()?;
            let ids: Option<Vec<usize>> =
                ids.into_iter().map(|id| usize::try_from(id).ok()).collect();
            if let (Some(columns), Some(root), false) = (ids, root(&name), without_rowid) {
                indexes.push(Index { root, columns });
            }
        }
        let (entry, name, root) = (entry.clone(), entry.name.clone(), entry.root);
        tables.push(Table { entry, name, root, columns, without_rowid, indexes });
    }
    Ok(tables)
}

fn columns(model: &Connection, table: &str, without: bool) -> Result<Vec<Column>, Failure> {
    let sql = "SELECT name, upper(type), \"notnull\", pk, hidden FROM pragma_table_xinfo(?1) ORDER BY cid";
    let mut statement = model.prepare(sql)?;
    let (mut columns, mut keys) = (Vec::new(), Vec::new());
    let mut rows = statement.query([table])?;
    while let Some(row) = rows.next()? {
        let (name, kind): (String, String) = (row.get(0)?, row.get(1)?);
        if row.get::<_, i64>(4)? != 0 {
            return Err(odd());
        }
        let is_key = row.get::<_, i64>(3)? > 0;
        if is_key {
            keys.push(columns.len());
        }
        // SQLite lets a key be NULL, and Chroma has none that is.
        let not_null = is_key || row.get(2)?;
        columns.push(Column { name, kind, not_null, is_row: false });
    }
    if let [key] = keys[..]
        && !without
        && columns[key].kind == "INTEGER"
    {
        columns[key].is_row = true;
    }
    Ok(columns)
}

fn is_without_rowid(sql: &str) -> bool {
    sql.trim_end().to_ascii_uppercase().ends_with("WITHOUT ROWID")
}

/// The number of the row that an entry of an index names.
pub(super) fn row_of(fields: &Fields, record: &[u8], index: &Index) -> Option<i64> {
    match fields.value(record, index.columns.len()) {
        Ok(Some(Value::Integer(row))) if fields.len() == index.columns.len() + 1 => Some(row),
        _ => None,
    }
}

/// Makes what the old schema says, in the new database. Errs when SQLite does, or it says something else.
pub(super) fn create(connection: &Connection, entry: &Entry, begins: &str) -> Result<(), Failure> {
    let sql = entry.sql.as_deref().unwrap_or_default();
    if !sql.starts_with(begins) {
        return Err(odd());
    }
    connection.execute(sql, [])?;
    Ok(())
}

/// Makes the full-text table, with the tables that SQLite keeps for it. Errs when SQLite does, or it says something else.
pub(super) fn create_full_text(connection: &Connection, sql: &str) -> Result<(), Failure> {
    if !sql.starts_with("CREATE VIRTUAL TABLE ") || !sql.to_ascii_lowercase().contains("fts5") {
        return Err(Failure::Damaged("The full-text table is none that Chroma makes.".to_owned()));
    }
    connection.execute(sql, [])?;
    Ok(())
}

fn odd() -> Failure {
    Failure::Damaged("The schema of the database has a name that no Chroma gives.".to_owned())
}

/// Those that every Chroma since 0.4.15 has.
const TABLES: [&str; 12] = [
    "migrations",
    "collection_metadata",
    "segment_metadata",
    "tenants",
    "databases",
    "collections",
    "segments",
    "embeddings",
    "embedding_metadata",
    "max_seq_id",
    "embedding_fulltext_search",
    "embeddings_queue",
];
/// Chroma has some fifty.
const ENTRIES_MAX: usize = 1000;
const ENTRY_BYTES_MAX: usize = 1 << 20;
