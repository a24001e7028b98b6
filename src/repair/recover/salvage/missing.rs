//! Entries that the schema has lost. The migrations that the database records say of which release it is, and so which tables and indexes
//! belong to it. Where their trees begin is not known any more: a table gets every leaf that no other tree has and whose rows are its own.

use chroma_format::{
    btree::{Kind, Page},
    record::{Fields, Value},
    schema::Dir,
};
use rusqlite::OptionalExtension;

use super::{
    Failure, Salvage,
    model::{self, Entry, Table},
};
use crate::repair::recover::schema::{self, Counts};

/// The place of a tree of which nobody knows where it begins: no file has so many pages.
const NOWHERE: u32 = u32::MAX;

/// Adds the entries that the release of the database has beside `entries`; none when it is not known which release that is.
/// Errs when the file cannot be read, SQLite does, or the steps were stopped.
pub(super) fn add(salvage: &Salvage<'_>, entries: &mut Vec<Entry>) -> Result<(), Failure> {
    let Some(counts) = recorded(salvage)? else { return Ok(()) };
    let model = schema::model(counts)?;
    let sql = "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%' ORDER BY rowid";
    let mut statement = model.prepare(sql)?;
    let all = statement.query_map([], |row| {
        let (kind, name, sql): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let root = if sql.starts_with("CREATE VIRTUAL") { 0 } else { NOWHERE };
        Ok(Entry { kind, name, root, sql: Some(sql) })
    })?;
    for entry in all {
        let entry = entry?;
        if entries.iter().all(|known| known.name != entry.name) {
            entries.push(entry);
        }
    }
    Ok(())
}

/// How many migrations the rows of their table record, wherever its leaves are; `None` when they are none that Chroma makes.
/// Errs when SQLite or the disk does.
fn recorded(salvage: &Salvage<'_>) -> Result<Option<Counts>, Failure> {
    let table = model::tables(&[Entry {
        kind: "table".to_owned(),
        name: "migrations".to_owned(),
        root: NOWHERE,
        sql: Some(schema::MIGRATIONS.to_owned()),
    }])?;
    let (mut room, mut extents, mut fields) = (Vec::new(), Vec::new(), Fields::default());
    let mut found = [const { Vec::new() }; Dir::ALL.len()];
    for number in (2..=salvage.pages.count).filter(|number| !salvage.free.contains(*number)) {
        salvage.go_on()?;
        salvage.pages.read(number, &mut room)?;
        let Ok(page) = Page::parse(&room, number, salvage.pages.geometry, &mut extents) else {
            continue;
        };
        if page.kind != Kind::TableLeaf {
            continue;
        }
        for cell in (0..page.cells).map_while(|nth| page.cell(nth).ok()) {
            let is_one = fields.read(cell.local, cell.payload_bytes) == Ok(true)
                && fields.len() == 5
                && table.iter().all(|table| table.fits(&fields, cell.local));
            let (Ok(Some(Value::Text(dir))), Ok(Some(Value::Integer(version)))) =
                (fields.value(cell.local, 0), fields.value(cell.local, 1))
            else {
                break;
            };
            let at = Dir::ALL.iter().position(|one| one.as_str().as_bytes() == dir);
            match at.zip(u32::try_from(version).ok()) {
                Some((at, version)) if is_one => found[at].push(version),
                _ => break,
            }
        }
    }
    let mut counts = [0; Dir::ALL.len()];
    for (count, mut versions) in counts.iter_mut().zip(found) {
        versions.sort_unstable();
        // One after the other, from the first on: else a page of them is lost too.
        for version in versions {
            *count += 1;
            if version != *count {
                return Ok(None);
            }
        }
    }
    Ok(chroma_format::schema::known_counts().any(|known| known == counts).then_some(counts))
}

/// Which of several tables a leaf is of, when all its rows could be those of each. `None` when nothing tells. Errs when SQLite does.
pub(super) fn whose(
    salvage: &mut Salvage<'_>,
    page: &Page<'_>,
    tables: &[&Table],
) -> Result<Option<usize>, Failure> {
    let Ok(cell) = page.cell(0) else { return Ok(None) };
    let fields = &mut salvage.read.fields;
    if fields.read(cell.local, cell.payload_bytes) != Ok(true) {
        return Ok(None);
    }
    // Chroma writes every column that the table had.
    let mut left: Vec<usize> = (0..tables.len()).collect();
    let most = tables.iter().map(|table| table.columns.len()).max().unwrap_or(0);
    if fields.len() < most {
        let exact = |nth: &usize| tables[*nth].columns.len() == fields.len();
        if left.iter().any(exact) {
            left.retain(exact);
        }
    }
    if let [only] = left[..] {
        return Ok(Some(only));
    }
    let first = match fields.value(cell.local, 0) {
        Ok(Some(Value::Text(text))) => String::from_utf8(text.to_vec()).ok(),
        _ => None,
    };
    for nth in left {
        let of = match &*tables[nth].name {
            "collection_metadata" => "SELECT 1 FROM main.collections WHERE id = ?1",
            "segment_metadata" => "SELECT 1 FROM main.segments WHERE id = ?1",
            "embedding_metadata" if has_document(page, fields) => return Ok(Some(nth)),
            _ => continue,
        };
        if salvage.connection.query_row(of, [&first], |_| Ok(())).optional()?.is_some() {
            return Ok(Some(nth));
        }
    }
    Ok(None)
}

/// Whether a leaf has the document of a record, which stands in no list.
fn has_document(page: &Page<'_>, fields: &mut Fields) -> bool {
    (0..page.cells).filter_map(|nth| page.cell(nth).ok()).any(|cell| {
        fields.read(cell.local, cell.payload_bytes) == Ok(true)
            && fields.value(cell.local, 1) == Ok(Some(Value::Text(b"chroma:document")))
    })
}
