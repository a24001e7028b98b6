//! What a schema says about its trees. Only forms are known whose rules are few; they are those of Chroma and of FTS5.

use rusqlite::{Connection, Row};

/// A tree of a database.
#[derive(Debug, Clone, Copy)]
pub(super) enum Tree<'a> {
    Table(&'a Table),
    Index(&'a Index),
}

/// All trees of a database.
#[derive(Debug)]
pub(in super::super) struct Shape {
    tables: Vec<Table>,
}

#[derive(Debug)]
pub(super) struct Table {
    pub(super) root: u32,
    /// In the order in which they are stored.
    pub(super) columns: Vec<Column>,
    pub(super) indexes: Vec<Index>,
    /// How many of the first columns are the key, when it stands in for the row id (`WITHOUT ROWID`).
    pub(super) key: Option<usize>,
}

#[derive(Debug, Clone)]
pub(super) struct Column {
    name: String,
    pub(super) affinity: Affinity,
    pub(super) not_null: bool,
    /// Older rows, which end before this column, have NULL there and not another value.
    pub(super) null_by_default: bool,
    /// It is another name of the row id and stored as NULL.
    pub(super) rowid: bool,
}

/// Which values a column takes ("Determination Of Column Affinity", <https://www.sqlite.org/datatype3.html>).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Affinity {
    Text,
    /// No text that is a number.
    Numeric,
    /// The same, and whole numbers may be stored as integers.
    Real,
    /// As they are.
    Blob,
}

#[derive(Debug)]
pub(super) struct Index {
    pub(super) root: u32,
    /// What stands before the row id.
    pub(super) columns: Vec<Indexed>,
    pub(super) unique: bool,
    /// Place of the column that a row must have a value in to have an entry.
    pub(super) unless_null: Option<usize>,
}

#[derive(Debug)]
pub(super) struct Indexed {
    /// In the table.
    pub(super) place: usize,
    pub(super) affinity: Affinity,
}

impl Tree<'_> {
    pub(super) fn root(self) -> u32 {
        match self {
            Self::Table(table) => table.root,
            Self::Index(index) => index.root,
        }
    }
}

impl Shape {
    /// Every tree, each table before its indexes.
    pub(super) fn trees(&self) -> Vec<Tree<'_>> {
        let mut trees = Vec::new();
        for table in &self.tables {
            trees.push(Tree::Table(table));
            trees.extend(table.indexes.iter().map(Tree::Index));
        }
        trees
    }
}

/// What the schema says; `None` when anything in it has rules that are not known here. Virtual tables have no tree. Errs
/// when SQLite does.
pub(in super::super) fn shape(connection: &Connection) -> rusqlite::Result<Option<Shape>> {
    let sql = "SELECT type, name, tbl_name, rootpage, coalesce(sql, '') FROM sqlite_schema \
               WHERE rootpage > 0 LIMIT 10000";
    let entry = |row: &Row<'_>| {
        Ok(Entry {
            is_table: row.get::<_, String>(0)? == "table",
            name: row.get(1)?,
            of: row.get(2)?,
            root: row.get(3)?,
            sql: row.get(4)?,
        })
    };
    let entries =
        connection.prepare(sql)?.query_map([], entry)?.collect::<Result<Vec<Entry>, _>>()?;
    let mut tables = vec![schema_table()];
    for entry in entries.iter().filter(|entry| entry.is_table) {
        let Some(table) = table(connection, entry, &entries)? else { return Ok(None) };
        tables.push(table);
    }
    let shape = Shape { tables };
    // Each has been met, and no other: the schema's own is not in itself.
    Ok((shape.trees().len() == entries.len() + 1).then_some(shape))
}

/// A row of the schema.
struct Entry {
    is_table: bool,
    name: String,
    of: String,
    root: u32,
    sql: String,
}

/// `sqlite_schema`, which no row describes.
fn schema_table() -> Table {
    let column = |affinity| Column {
        name: String::new(),
        affinity,
        not_null: false,
        null_by_default: true,
        rowid: false,
    };
    let [text, number] = [Affinity::Text, Affinity::Numeric];
    let columns = [text, text, text, number, text].map(column).to_vec();
    Table { root: 1, columns, indexes: Vec::new(), key: None }
}

fn table(
    connection: &Connection,
    entry: &Entry,
    entries: &[Entry],
) -> rusqlite::Result<Option<Table>> {
    let sql = "SELECT wr, strict FROM pragma_table_list(?1) WHERE schema = 'main'";
    let kinds: Vec<(bool, bool)> =
        rows(connection, sql, &entry.name, |row| Ok((row.get(0)?, row.get(1)?)))?;
    // A condition on the values of a row has this word in it; so may a comment.
    let conditions = entry.sql.to_ascii_uppercase().contains("CHECK");
    let &[(without_rowid, false)] = kinds.as_slice() else { return Ok(None) };
    let lists = index_lists(connection, &entry.name)?;
    let has_key_index = lists.iter().any(|list| list.is_key);
    let sql = "SELECT name, type, \"notnull\", dflt_value IS NULL, pk, hidden FROM pragma_table_xinfo(?1) ORDER BY cid";
    let columns = rows(connection, sql, &entry.name, |row| {
        let (in_key, hidden): (u32, u32) = (row.get(4)?, row.get(5)?);
        let declared: String = row.get(1)?;
        let column = Column {
            name: row.get(0)?,
            affinity: affinity(&declared),
            not_null: row.get(2)?,
            null_by_default: row.get(3)?,
            // A key that needs no index is the row id itself.
            rowid: in_key > 0 && !has_key_index && declared.eq_ignore_ascii_case("INTEGER"),
        };
        Ok((column, hidden > 0))
    })?;
    if conditions || columns.iter().any(|(_, hidden)| *hidden) {
        return Ok(None);
    }
    let columns: Vec<Column> = columns.into_iter().map(|(column, _)| column).collect();
    let mut table = Table { root: entry.root, columns, indexes: Vec::new(), key: None };
    if without_rowid {
        let [list] = lists.as_slice() else { return Ok(None) };
        let Some(stored) = index_columns(connection, &list.name)? else { return Ok(None) };
        let columns: Option<Vec<Column>> =
            stored.iter().map(|(place, _)| table.columns.get((*place)?).cloned()).collect();
        let (Some(columns), true) = (columns, stored.len() == table.columns.len()) else {
            return Ok(None);
        };
        table.columns = columns;
        table.key = Some(stored.iter().filter(|(_, in_key)| *in_key).count());
        return Ok(Some(table));
    }
    for list in lists {
        let its_own =
            |other: &&Entry| !other.is_table && other.name == list.name && other.of == entry.name;
        let Some(own) = entries.iter().find(its_own) else { return Ok(None) };
        let Some(index) = index(connection, &table, own, &list)? else { return Ok(None) };
        table.indexes.push(index);
    }
    Ok(Some(table))
}

fn index(
    connection: &Connection,
    table: &Table,
    entry: &Entry,
    list: &IndexList,
) -> rusqlite::Result<Option<Index>> {
    let Some(mut stored) = index_columns(connection, &list.name)? else { return Ok(None) };
    let (Some((None, false)), true) = (stored.pop(), stored.iter().all(|(_, in_key)| *in_key))
    else {
        return Ok(None);
    };
    let indexed = |(place, _): (Option<usize>, bool)| {
        let place = place?;
        // The row id within an index is told from the row, not from its columns.
        let column = table.columns.get(place).filter(|column| !column.rowid)?;
        Some(Indexed { place, affinity: column.affinity })
    };
    let Some(columns) = stored.into_iter().map(indexed).collect() else { return Ok(None) };
    let unless_null = if list.partial {
        let name = has_value(&entry.sql);
        let place = table.columns.iter().position(|column| Some(column.name.as_str()) == name);
        if place.is_none_or(|place| table.columns[place].rowid) {
            return Ok(None);
        }
        place
    } else {
        None
    };
    Ok(Some(Index { root: entry.root, columns, unique: list.unique, unless_null }))
}

/// What `PRAGMA index_list` says of one index.
struct IndexList {
    name: String,
    unique: bool,
    is_key: bool,
    partial: bool,
}

fn index_lists(connection: &Connection, table: &str) -> rusqlite::Result<Vec<IndexList>> {
    let sql = "SELECT name, \"unique\", origin = 'pk', partial FROM pragma_index_list(?1)";
    rows(connection, sql, table, |row| {
        Ok(IndexList {
            name: row.get(0)?,
            unique: row.get(1)?,
            is_key: row.get(2)?,
            partial: row.get(3)?,
        })
    })
}

/// The columns of an index in their order, and whether each is part of its key; `None` for the row id. Only such as are in
/// ascending order of their bytes; no expressions. Errs when SQLite does.
#[expect(clippy::type_complexity, reason = "two answers to each column")]
fn index_columns(
    connection: &Connection,
    index: &str,
) -> rusqlite::Result<Option<Vec<(Option<usize>, bool)>>> {
    let sql =
        "SELECT cid, key, \"desc\" OR coll <> 'BINARY' FROM pragma_index_xinfo(?1) ORDER BY seqno";
    let columns: Vec<(i64, bool, bool)> =
        rows(connection, sql, index, |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let column = |(place, in_key, other): (i64, bool, bool)| match (place, other) {
        (-1, false) => Some((None, in_key)),
        (_, false) => Some((Some(usize::try_from(place).ok()?), in_key)),
        _ => None,
    };
    Ok(columns.into_iter().map(column).collect())
}

fn rows<T>(
    connection: &Connection,
    sql: &str,
    name: &str,
    row: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    connection.prepare(sql)?.query_map([name], row)?.collect()
}

/// The column of `… WHERE column IS NOT NULL`; `None` for every other condition.
fn has_value(sql: &str) -> Option<&str> {
    let words: Vec<&str> = sql.split_ascii_whitespace().collect();
    let [.., before, name, is, not, null] = words.as_slice() else { return None };
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let known = [(before, "WHERE"), (is, "IS"), (not, "NOT"), (null, "NULL")]
        .iter()
        .all(|(word, known)| word.eq_ignore_ascii_case(known));
    // A second `WHERE` would be one within a name.
    let one = words.iter().filter(|word| word.eq_ignore_ascii_case("WHERE")).count() == 1;
    (plain && known && one).then_some(*name)
}

fn affinity(declared: &str) -> Affinity {
    let declared = declared.to_ascii_uppercase();
    let has = |words: &[&str]| words.iter().any(|word| declared.contains(word));
    if has(&["INT"]) {
        Affinity::Numeric
    } else if has(&["CHAR", "CLOB", "TEXT"]) {
        Affinity::Text
    } else if declared.is_empty() || has(&["BLOB"]) {
        Affinity::Blob
    } else if has(&["REAL", "FLOA", "DOUB"]) {
        Affinity::Real
    } else {
        Affinity::Numeric
    }
}
