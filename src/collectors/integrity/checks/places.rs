//! What a damaged page belongs to, and what that means for the records: SQLite's checks name a page and the first page of its
//! tree, which tells nothing to whoever has to decide what to do. An index and the full text are made anew from the rows; a
//! page of a table has rows, and how many at most is told from the page above it, which bounds them.

use std::{collections::BTreeSet, fs::File, os::unix::fs::FileExt};

use rusqlite::Connection;

use crate::format::{
    btree::{Geometry, Kind, Page},
    sqlite::{HEADER_LEN, SqliteHeader},
};

/// A tree by its first page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tree {
    pub(super) root: u32,
    pub(super) is_index: bool,
    name: String,
    table: String,
}

/// All trees of the schema. Errs when SQLite does.
pub(super) fn trees(connection: &Connection) -> rusqlite::Result<Vec<Tree>> {
    let mut statement = connection
        .prepare("SELECT rootpage, type, name, tbl_name FROM sqlite_schema WHERE rootpage > 0")?;
    let tree = |row: &rusqlite::Row<'_>| {
        Ok(Tree {
            root: row.get(0)?,
            is_index: row.get::<_, String>(1)? == "index",
            name: row.get(2)?,
            table: row.get(3)?,
        })
    };
    statement.query_map([], tree)?.take(TREES_MAX).collect()
}

/// The first page of the tree that a line is about, and the page: `Tree 7 page 12 cell 3: …`.
pub(super) fn named_in(line: &str) -> Option<(u32, Option<u32>)> {
    let mut words = line.strip_prefix("Tree ")?.split([' ', ':']);
    let root = words.next()?.parse().ok()?;
    let page = (words.next() == Some("page")).then(|| words.next()?.parse().ok()).flatten();
    Some((root, page))
}

/// What the pages in `lines` belong to and what is affected, in words, each with the first page of its tree.
pub(super) fn describe(
    connection: &Connection,
    file: &File,
    lines: &[String],
    trees: &[Tree],
) -> Vec<(u32, String)> {
    let named: BTreeSet<(u32, u32)> =
        lines.iter().filter_map(|line| named_in(line)).filter_map(|(r, p)| Some((r, p?))).collect();
    let mut said = Vec::new();
    for (root, page) in named.into_iter().take(PAGES_MAX) {
        let Some(tree) = trees.iter().find(|tree| tree.root == root) else { continue };
        let effect = effect(connection, file, tree, page);
        let what = if tree.is_index { "index" } else { "table" };
        said.push((root, format!("page {page} is of the {what} {}: {effect}", tree.name)));
    }
    said
}

fn effect(connection: &Connection, file: &File, tree: &Tree, page: u32) -> String {
    if tree.is_index {
        return format!("no record is affected, REINDEX {} makes it anew", tree.name);
    }
    if tree.name.starts_with(FULL_TEXT) && tree.name.len() > FULL_TEXT.len() {
        return "no record is affected, the documents are in embedding_metadata too".to_owned();
    }
    let bounds = bounds_of(file, tree.root, page);
    let count = bounds.and_then(|bounds| affected(connection, tree, bounds));
    match (tree.name.as_str(), count) {
        ("embedding_metadata", Some(records)) => {
            format!("documents and metadata of at most {records} records are affected")
        }
        ("embedding_metadata", None) => "documents and metadata of records are affected".to_owned(),
        ("embeddings", Some(records)) => format!("at most {records} records are affected"),
        ("embeddings", None) => "records are affected".to_owned(),
        ("embeddings_queue", Some(rows)) => {
            format!("at most {rows} rows of the queue are affected, with their vectors")
        }
        (_, Some(rows)) => format!("at most {rows} of its rows are affected"),
        (_, None) => "its rows are affected".to_owned(),
    }
}

/// Row ids above the first and up to the second; `None` where nothing bounds them.
type Bounds = (Option<i64>, Option<i64>);

/// How many records or rows stand within `bounds` at most. Asked of an index, which holds the row ids as well, so that the
/// table itself is not read; otherwise told from the bounds alone.
fn affected(connection: &Connection, tree: &Tree, bounds: Bounds) -> Option<u64> {
    let by_index = match tree.name.as_str() {
        "embedding_metadata" => {
            Some(("count(DISTINCT id)", "sqlite_autoindex_embedding_metadata_1"))
        }
        "embeddings" => Some(("count(*)", "sqlite_autoindex_embeddings_1")),
        _ => None,
    };
    let (low, high) = (bounds.0.unwrap_or(i64::MIN), bounds.1.unwrap_or(i64::MAX));
    let counted = by_index.and_then(|(count, index)| {
        // The sign keeps SQLite from looking the rows up in the table.
        let sql = format!(
            "SELECT {count} FROM {} INDEXED BY {index} WHERE +rowid > ?1 AND +rowid <= ?2",
            tree.table
        );
        connection.query_row(&sql, (low, high), |row| row.get::<_, i64>(0)).ok()?.try_into().ok()
    });
    counted.or_else(|| bounds.1?.checked_sub(bounds.0.unwrap_or(0)).and_then(|n| n.try_into().ok()))
}

/// Which row ids may stand on `page` of the table that begins at `root`; `None` when the page is not found.
fn bounds_of(file: &File, root: u32, page: u32) -> Option<Bounds> {
    let mut head = [0; HEADER_LEN];
    file.read_exact_at(&mut head, 0).ok()?;
    let header = SqliteHeader::parse(&head).ok()?;
    let page_bytes = header.page_bytes as usize;
    let geometry = Geometry { page_bytes, usable: page_bytes - usize::from(header.reserved_bytes) };
    let mut search = Search { file, geometry, wanted: page, left: SEARCHED_MAX };
    if root == page { Some((None, None)) } else { search.below(root, (None, None), 0) }
}

struct Search<'a> {
    file: &'a File,
    geometry: Geometry,
    wanted: u32,
    left: u32,
}

impl Search<'_> {
    fn below(&mut self, number: u32, bounds: Bounds, level: u32) -> Option<Bounds> {
        self.left = self.left.checked_sub(1)?;
        if level > LEVELS_MAX {
            return None;
        }
        let mut bytes = vec![0; self.geometry.page_bytes];
        let place = u64::from(number.checked_sub(1)?) * self.geometry.page_bytes as u64;
        self.file.read_exact_at(&mut bytes, place).ok()?;
        let page = Page::parse(&bytes, number, self.geometry, &mut Vec::new()).ok()?;
        if page.kind != Kind::TableInterior {
            return None;
        }
        let mut children = Vec::new();
        let mut low = bounds.0;
        for nth in 0..page.cells {
            let cell = page.cell(nth).ok()?;
            children.push((cell.child, (low, Some(cell.rowid))));
            low = Some(cell.rowid);
        }
        children.push((page.right, (low, bounds.1)));
        if let Some((_, bounds)) = children.iter().find(|(child, _)| *child == self.wanted) {
            return Some(*bounds);
        }
        children.into_iter().find_map(|(child, bounds)| self.below(child, bounds, level + 1))
    }
}

/// What stands in the evidence when a page of the full text is damaged.
pub(in super::super) const TORN_FULL_TEXT: &str = " is of the table embedding_fulltext_search_";

/// The name that the tables of the full text begin with.
const FULL_TEXT: &str = "embedding_fulltext_search_";
const TREES_MAX: usize = 10_000;
/// Pages that are described: evidence has no room for more.
const PAGES_MAX: usize = 3;
/// Pages that are read to find one.
const SEARCHED_MAX: u32 = 100_000;
const LEVELS_MAX: u32 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_name_a_tree_and_a_page() {
        for (line, want) in [
            ("Tree 7 page 12 cell 3: Rowid 9 out of order", Some((7, Some(12)))),
            ("Tree 34 page 55: btreeInitPage() returns error code 11", Some((34, Some(55)))),
            ("Tree 7: something else", Some((7, None))),
            ("Freelist: size is 3 but should be 4", None),
            ("Page 9: never used", None),
        ] {
            assert_eq!(named_in(line), want, "{line}");
        }
    }

    #[test]
    fn the_rows_of_a_page_are_bounded_by_the_page_above() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chroma.sqlite3");
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch(
                "CREATE TABLE t(id INTEGER PRIMARY KEY, x);
                 WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<20000)
                 INSERT INTO t SELECT i, zeroblob(200) FROM n;",
            )
            .unwrap();
        let root = trees(&connection).unwrap()[0].root;
        let file = File::open(&path).unwrap();
        // Every page but the root is in the tree, and the leaves share out all rows.
        let pages = u32::try_from(file.metadata().unwrap().len() / 4096).unwrap();
        let mut rows = 0;
        for page in (3..=pages).filter(|page| *page != root) {
            let (low, high) = bounds_of(&file, root, page).expect("a page of the tree");
            let mut kind = [0];
            file.read_exact_at(&mut kind, u64::from(page - 1) * 4096).unwrap();
            if kind == [13] {
                rows += high.unwrap_or(20_000) - low.unwrap_or(0);
            }
        }
        assert_eq!(rows, 20_000);
        assert_eq!(bounds_of(&file, root, 1), None, "a page of another tree");
    }
}
