//! Tenants, databases, collections and their segments: read whole, in short transactions, and judged purely.
//!
//! Chroma before 1.0 makes a collection in more than one transaction, so what is found is said only when a second reading
//! finds it too.

mod judge;

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;

use super::ask::{Asker, Cell, bounded, columns, first, tables};
use crate::{
    findings::{Code, Finding},
    format::{
        config::{Refused, SYNC_THRESHOLD, judge_config, judge_queue_config, judge_schema},
        schema::{self, Dir, Family},
    },
    store::database::QueryError,
};

/// Why Chroma does not accept what stands where its JSON belongs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum BadText {
    #[error(transparent)]
    Refused(#[from] Refused),
    /// What it is instead of a text.
    #[error("it is {0} instead of a text")]
    NoText(&'static str),
}

/// What the catalogue holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Catalogue {
    pub(super) family: Family,
    pub(super) counts: [u32; 3],
    /// Migrations of directories that are not known.
    unknown_dirs: u32,
    pub(super) tables: BTreeSet<String>,
    /// Ids; `None` when this release has no such table.
    pub(super) tenants: Option<BTreeSet<String>>,
    /// Id and tenant.
    pub(super) databases: Option<BTreeMap<String, Database>>,
    pub(super) collections: BTreeMap<String, Collection>,
    pub(super) segments: Vec<Segment>,
    /// The newest row of the queue when the reading began.
    pub(super) newest: Option<i64>,
    /// Whether the queue is purged by itself; `None` when nothing says so.
    pub(super) purge: Option<bool>,
    queue_config: Result<(), BadText>,
    /// More collections or segments than are read.
    pub(super) cut: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Database {
    name: String,
    tenant: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Collection {
    pub(super) name: String,
    pub(super) dimension: Cell,
    database: Option<String>,
    /// The column that Chroma does not accept, and why.
    config: Result<(), (&'static str, BadText)>,
    pub(super) sync_threshold: u64,
    /// Whether records are there although no dimension is.
    records_without_dimension: bool,
}

impl Collection {
    /// Chroma writes the dimension down with the first record.
    fn never_filled(&self) -> bool {
        self.dimension == Cell::Null && !self.records_without_dimension
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) id: String,
    kind: String,
    pub(super) scope: Option<Scope>,
    pub(super) collection: String,
    /// Whether the tables have records or a position of it; asked of segments without a collection alone.
    holds: bool,
}

/// What a segment holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Scope {
    Metadata,
    Vector,
}

impl Scope {
    pub(super) const ALL: [Self; 2] = [Self::Metadata, Self::Vector];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Metadata => "metadata",
            Self::Vector => "vector",
        }
    }
}

impl Catalogue {
    /// Reads it. `None` when a part took too long. Errs when SQLite does for another reason.
    pub(super) fn read(asker: &mut Asker<'_, '_>) -> Result<Option<Self>, QueryError> {
        let Some(mut catalogue) = asker.ask(Self::read_roots)? else { return Ok(None) };
        let has = |table: &str| catalogue.tables.contains(table);
        let (with_collections, with_segments) = (has("collections"), has("segments"));
        let holds = holds(&catalogue.tables);
        if with_collections {
            let Some(known) = asker.ask(|c| columns(c, "collections"))? else { return Ok(None) };
            let mut last = i64::MIN;
            while catalogue.collections.len() < COLLECTIONS_MAX {
                let part =
                    asker.slice(|c, rows| catalogue.read_collections(c, &known, last, rows))?;
                let Some(part) = part else { return Ok(None) };
                let Some(end) = part.last().map(|(rowid, _, _)| *rowid) else { break };
                last = end;
                catalogue.collections.extend(part.into_iter().map(|(_, id, row)| (id, row)));
            }
        }
        if with_segments {
            let mut last = i64::MIN;
            while catalogue.segments.len() < 2 * COLLECTIONS_MAX {
                let part = asker.slice(|c, rows| read_segments(c, &holds, last, rows))?;
                let Some(part) = part else { return Ok(None) };
                let Some(end) = part.last().map(|(rowid, _)| *rowid) else { break };
                last = end;
                catalogue.segments.extend(part.into_iter().map(|(_, segment)| segment));
            }
        }
        catalogue.cut = catalogue.collections.len() >= COLLECTIONS_MAX
            || catalogue.segments.len() >= 2 * COLLECTIONS_MAX;
        Ok(Some(catalogue))
    }

    /// Migrations that no release has which is known here.
    pub(super) fn newer_than_known(&self) -> Option<Finding> {
        let unknown = self.unknown_dirs > 0 || schema::lowest_that_knows(self.counts).is_none();
        unknown.then(|| {
            let words = |counts: [u32; 3]| counts.map(|count| count.to_string()).join("/");
            let (newest, known) = schema::newest_known();
            let others = match self.unknown_dirs {
                0 => String::new(),
                more => format!(" and {more} of a kind that is not known"),
            };
            let evidence = format!(
                "it has {}{others} migrations, the newest Chroma that is known here, {newest}, has {}",
                words(self.counts),
                words(known)
            );
            Finding::new(Code::SchemaNewerThanExporter, "migrations", evidence)
        })
    }

    /// Whether the full-text table that all releases since 0.4.6 have is still to be made.
    pub(super) fn full_text_to_come(&self) -> bool {
        let has = |table: &str| self.tables.contains(table);
        matches!(self.counts, [_, 1 | 2, _])
            && has("embedding_metadata")
            && !has("embedding_fulltext_search")
    }

    /// The small tables. Errs when SQLite does.
    fn read_roots(connection: &Connection) -> rusqlite::Result<Self> {
        let tables = tables(connection)?;
        let (mut counts, mut unknown_dirs) = ([0; 3], 0);
        if tables.contains("migrations") {
            for (count, dir) in counts.iter_mut().zip(Dir::ALL) {
                let sql = "SELECT count(*) FROM migrations WHERE dir=?1";
                *count = connection.query_row(sql, [dir.as_str()], |row| row.get(0))?;
            }
            let sql = "SELECT count(*) FROM migrations WHERE dir NOT IN (?1, ?2, ?3)";
            let dirs = Dir::ALL.map(Dir::as_str);
            unknown_dirs = connection.query_row(sql, dirs, |row| row.get(0))?;
        }
        let mut catalogue = Self {
            family: family(connection, &tables, counts)?,
            counts,
            unknown_dirs,
            tenants: None,
            databases: None,
            collections: BTreeMap::new(),
            segments: Vec::new(),
            newest: None,
            purge: None,
            queue_config: Ok(()),
            cut: false,
            tables,
        };
        if catalogue.tables.contains("embeddings_queue") {
            let sql = "SELECT max(seq_id) FROM embeddings_queue";
            catalogue.newest = first(connection, sql)?.and_then(|cell| cell.integer());
        }
        if catalogue.tables.contains("tenants") {
            let sql = format!("SELECT {} FROM tenants LIMIT {COLLECTIONS_MAX}", id("id"));
            let mut statement = connection.prepare(&sql)?;
            let rows = statement.query_map([], |row| Cell::of(row, 0))?;
            let ids = rows.map(|cell| cell.map(into_text)).collect::<Result<_, _>>()?;
            catalogue.tenants = Some(ids);
        }
        if catalogue.tables.contains("databases") {
            let [key, name, tenant] = ["id", "name", "tenant_id"].map(id);
            let sql =
                format!("SELECT {key}, {name}, {tenant} FROM databases LIMIT {COLLECTIONS_MAX}");
            let mut statement = connection.prepare(&sql)?;
            let rows = statement.query_map([], |row| {
                let cell = |column| Cell::of(row, column).map(into_text);
                Ok((cell(0)?, Database { name: cell(1)?, tenant: cell(2)? }))
            })?;
            catalogue.databases = Some(rows.collect::<Result<_, _>>()?);
        }
        if catalogue.tables.contains("embeddings_queue_config") {
            let text = bounded("config_json_str", JSON_BYTES_MAX);
            let sql = format!("SELECT {text} FROM embeddings_queue_config ORDER BY id LIMIT 1");
            match first(connection, &sql)? {
                // Without a row Chroma writes one.
                None => {}
                Some(Cell::Text(text)) => match judge_queue_config(&text) {
                    Ok(purge) => catalogue.purge = purge,
                    Err(refused) => catalogue.queue_config = Err(refused.into()),
                },
                Some(other) => catalogue.queue_config = Err(BadText::NoText(other.kind())),
            }
        }
        Ok(catalogue)
    }

    fn read_collections(
        &self,
        connection: &Connection,
        known: &BTreeSet<String>,
        after: i64,
        rows: u32,
    ) -> rusqlite::Result<Vec<(i64, String, Collection)>> {
        let column = |name: &str, sql: String| {
            if known.contains(name) { sql } else { "NULL".to_owned() }
        };
        let sql = format!(
            "SELECT rowid, {}, {}, {}, {}, {}, {} FROM collections WHERE rowid > ?1 ORDER BY rowid LIMIT ?2",
            id("id"),
            id("name"),
            column("dimension", bounded("dimension", 100)),
            column("database_id", id("database_id")),
            column("config_json_str", bounded("config_json_str", JSON_BYTES_MAX)),
            column("schema_str", bounded("schema_str", JSON_BYTES_MAX)),
        );
        let mut statement = connection.prepare(&sql)?;
        let mut rows = statement.query((after, rows.min(COLLECTION_ROWS_MAX)))?;
        let mut out = Vec::new();
        while let Some(row) = rows.next()? {
            let key = into_text(Cell::of(row, 1)?);
            let dimension = Cell::of(row, 3)?;
            let mut sync_threshold = self.sync_threshold_of(connection, &key)?;
            let mut config = Ok(());
            for (part, text) in [("config_json_str", 5), ("schema_str", 6)] {
                let stated = match Cell::of(row, text)? {
                    // None, or too long to look at.
                    Cell::Null => Ok(None),
                    Cell::Text(text) if part == "schema_str" => {
                        judge_schema(&text).map_err(BadText::from)
                    }
                    Cell::Text(text) => judge_config(&text, self.family).map_err(BadText::from),
                    other if self.family == Family::Rust => Err(BadText::NoText(other.kind())),
                    _ => Ok(None),
                };
                match stated {
                    Ok(stated) => sync_threshold = sync_threshold.max(stated),
                    Err(reason) if config.is_ok() && self.family != Family::Unknown => {
                        config = Err((part, reason));
                    }
                    Err(_) => {}
                }
            }
            let records_without_dimension =
                dimension == Cell::Null && self.has_records(connection, &key)?;
            let collection = Collection {
                name: into_text(Cell::of(row, 2)?),
                dimension,
                database: Some(into_text(Cell::of(row, 4)?))
                    .filter(|_| known.contains("database_id")),
                config,
                sync_threshold: sync_threshold.unwrap_or(SYNC_THRESHOLD),
                records_without_dimension,
            };
            out.push((row.get(0)?, key, collection));
        }
        Ok(out)
    }

    /// Where Chroma below 1.0 keeps it. Errs when SQLite does.
    fn sync_threshold_of(
        &self,
        connection: &Connection,
        key: &str,
    ) -> rusqlite::Result<Option<u64>> {
        if !self.tables.contains("collection_metadata") {
            return Ok(None);
        }
        let sql = "SELECT int_value FROM collection_metadata WHERE collection_id=?1 AND key='hnsw:sync_threshold'";
        let mut statement = connection.prepare(sql)?;
        let mut rows = statement.query([key])?;
        let cell = rows.next()?.map(|row| Cell::of(row, 0)).transpose()?;
        Ok(cell.and_then(|cell| u64::try_from(cell.integer()?).ok()))
    }

    fn has_records(&self, connection: &Connection, key: &str) -> rusqlite::Result<bool> {
        if !self.tables.contains("segments") || !self.tables.contains("embeddings") {
            return Ok(false);
        }
        let sql = "SELECT EXISTS(SELECT 1 FROM embeddings WHERE segment_id IN \
                   (SELECT id FROM segments WHERE collection=?1))";
        connection.prepare(sql)?.query_row([key], |row| row.get(0))
    }

    /// The segments of each collection.
    pub(super) fn segments_of(&self) -> BTreeMap<&str, Vec<&Segment>> {
        let mut out: BTreeMap<&str, Vec<&Segment>> = BTreeMap::new();
        for segment in &self.segments {
            out.entry(segment.collection.as_str()).or_default().push(segment);
        }
        out
    }
}

/// By the migrations that are recorded, unless the tables say otherwise: then only what holds for every Chroma is judged.
/// Errs when SQLite does.
fn family(
    connection: &Connection,
    tables: &BTreeSet<String>,
    counts: [u32; 3],
) -> rusqlite::Result<Family> {
    let recorded = Family::of(counts);
    let sql = "SELECT upper(type) FROM pragma_table_info('max_seq_id') WHERE name='seq_id'";
    let integers = first(connection, sql)?.map(|kind| kind.text() == Some("INTEGER"));
    let borne = match (integers, tables.contains("embeddings_queue_config")) {
        // The absence of a table is a finding of its own.
        (None, _) => recorded,
        (Some(true), _) => Family::Rust,
        (Some(false), true) => Family::Python,
        (Some(false), false) => Family::Oldest,
    };
    Ok(if borne == recorded { recorded } else { Family::Unknown })
}

/// The question whether a segment without a collection holds anything, as far as there are tables to ask.
fn holds(tables: &BTreeSet<String>) -> String {
    let of = |table: &str| {
        tables.contains(table).then(|| {
            format!("EXISTS(SELECT 1 FROM {table} WHERE {table}.segment_id = segments.id)")
        })
    };
    let parts: Vec<String> = ["embeddings", "max_seq_id"].into_iter().filter_map(of).collect();
    if parts.len() < 2 || !tables.contains("collections") {
        return "1".to_owned();
    }
    format!(
        "NOT EXISTS(SELECT 1 FROM collections WHERE collections.id = segments.collection) AND ({})",
        parts.join(" OR ")
    )
}

fn read_segments(
    connection: &Connection,
    holds: &str,
    after: i64,
    rows: u32,
) -> rusqlite::Result<Vec<(i64, Segment)>> {
    let [key, kind, scope, collection] = ["id", "type", "scope", "collection"].map(id);
    let sql = format!(
        "SELECT rowid, {key}, {kind}, {scope}, {collection}, {holds} FROM segments WHERE rowid > ?1 ORDER BY rowid LIMIT ?2"
    );
    let mut statement = connection.prepare(&sql)?;
    let rows = statement.query_map((after, rows), |row| {
        let cell = |column| Cell::of(row, column).map(into_text);
        let scope = match cell(3)?.as_str() {
            "METADATA" => Some(Scope::Metadata),
            "VECTOR" => Some(Scope::Vector),
            _ => None,
        };
        let (id, kind, collection) = (cell(1)?, cell(2)?, cell(4)?);
        Ok((row.get(0)?, Segment { id, kind, scope, collection, holds: row.get(5)? }))
    })?;
    rows.collect()
}

fn id(column: &str) -> String {
    bounded(column, ID_BYTES_MAX)
}

/// Ids and names that are no text, or too long for one, read as nothing and so are found nowhere.
fn into_text(cell: Cell) -> String {
    match cell {
        Cell::Text(text) => text,
        _ => String::new(),
    }
}

const DEFAULT_DATABASE_ID: &str = "00000000-0000-0000-0000-000000000000";
const ID_BYTES_MAX: u32 = 1000;
/// Longer texts are not looked at.
const JSON_BYTES_MAX: u32 = 1024 * 1024;
/// Most collections that are told apart.
pub(super) const COLLECTIONS_MAX: usize = 100_000;
/// Their rows are large.
const COLLECTION_ROWS_MAX: u32 = 500;
