//! What the database says of segments: which there are, of which collection, and how far the queue is in them. One short
//! read transaction.

use std::collections::{BTreeMap, HashMap, HashSet};

use rusqlite::Connection;

use crate::{
    format::{
        config::judge_queue_config,
        schema::{Dir, Family},
        uuid::{Uuid, parse_uuid},
    },
    store::{
        Context,
        database::{Limits, QueryError, Stamp},
        position,
    },
};

/// A segment with vectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    /// Id of the collection.
    pub(super) collection: String,
    /// Its name, empty when the catalogue does not list it.
    pub(super) name: String,
    /// The segment of the same collection that holds its records; `None` when there is not exactly one, which `contents`
    /// tells.
    pub(super) records_segment: Option<String>,
    /// Whether the collection has another segment with vectors, so that its records may be in either.
    pub(super) twin: bool,
    /// Numbers per vector, known since the first record.
    pub(super) dimension: Option<u64>,
    /// How far its vectors are from each other. With cosine they are normalised, so that `length.bin` means something; otherwise
    /// that holds what was in memory.
    pub(super) distance: Distance,
    /// How far the queue is in the index on disk; since 0.5, and only after the first flush.
    pub(super) position: Option<i64>,
    /// Whether it has a folder: other kinds live in memory.
    pub(super) persisted: bool,
    /// Whether Chroma may take rows out of the queue once their numbers are up to the position.
    pub(super) purged: bool,
}

/// Chroma's `hnsw:space`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Distance {
    /// Unless something says otherwise.
    L2,
    Cosine,
    Product,
    /// Two texts say different things.
    Unknown,
}

/// Whether an answer is no failure of ours: Chroma was at work, or `integrity` tells what is wrong.
pub(super) fn reported_elsewhere(error: &QueryError) -> bool {
    match error {
        QueryError::Busy
        | QueryError::HotJournal
        | QueryError::Replaced
        | QueryError::Aborted(_) => true,
        QueryError::Other(error) => error.to_string().contains("no such table"),
        _ => false,
    }
}

/// Whether nothing else says why there is no answer: whoever looks once must say it.
pub(super) fn reported_nowhere(error: &QueryError) -> bool {
    reported_elsewhere(error) && !matches!(error, QueryError::HotJournal | QueryError::Other(_))
}

/// What the tables say, and of which state of the file.
#[derive(Debug)]
pub(super) struct Catalogue {
    pub(super) stamp: Stamp,
    pub(super) segments: BTreeMap<Uuid, Row>,
    pub(super) collections: u64,
    /// Collections without any segment with vectors: a folder that nobody claims may be theirs.
    pub(super) without_vector_segment: u64,
    /// Which Chroma opened the database last; `None` when nothing says so, which `contents` tells.
    pub(super) family: Option<Family>,
}

impl Catalogue {
    /// Asks the database, within `limits`. Errs when it is busy, damaged or not there.
    pub(super) fn read(context: &Context, limits: &Limits<'_>) -> Result<Self, QueryError> {
        let mut connection = context.database.connect()?;
        // Before the question: what changes during it makes the answer old, not wrong.
        let stamp = connection.stamp().map_err(QueryError::File)?;
        let Answer { segments, collections, without_vector_segment, family } =
            connection.within(limits, ask).result?;
        Ok(Self { stamp, segments, collections, without_vector_segment, family })
    }
}

struct Answer {
    segments: BTreeMap<Uuid, Row>,
    collections: u64,
    without_vector_segment: u64,
    family: Option<Family>,
}

fn ask(connection: &Connection) -> rusqlite::Result<Answer> {
    let family = family(connection)?;
    let purged = purged(connection, family)?;
    let mut positions: HashMap<String, i64> = HashMap::new();
    each(connection, "SELECT segment_id, seq_id FROM max_seq_id", |row| {
        if let (Some(segment), Some(at)) = (text(row, 0)?, position(row.get_ref(1)?)) {
            positions.insert(segment, at);
        }
        Ok(())
    })?;
    let (cosine, product) = (with_space(connection, "cosine")?, with_space(connection, "ip")?);
    let mut records: HashMap<String, Option<String>> = HashMap::new();
    each(connection, "SELECT collection, id FROM segments WHERE scope = 'METADATA'", |row| {
        if let (Some(collection), Some(id)) = (text(row, 0)?, text(row, 1)?) {
            records.entry(collection).and_modify(|one| *one = None).or_insert(Some(id));
        }
        Ok(())
    })?;
    let mut segments = BTreeMap::new();
    let sql = "SELECT s.id, s.type, s.collection, c.dimension, c.name, c.id IS NULL FROM segments s \
               LEFT JOIN collections c ON c.id = s.collection WHERE s.scope = 'VECTOR'";
    each(connection, sql, |row| {
        let Some(id) = text(row, 0)? else { return Ok(()) };
        let Some(uuid) = parse_uuid(id.as_bytes()) else { return Ok(()) };
        let collection = text(row, 2)?.unwrap_or_default();
        let records_segment = records.get(&collection).cloned();
        // Chroma leaves the row and the folder of a segment when it deletes a database with its collections.
        if row.get(5)? && is_empty(connection, &positions, &id, records_segment.as_ref())? {
            return Ok(());
        }
        let row = Row {
            distance: match (cosine.contains(&collection), product.contains(&collection)) {
                (false, false) => Distance::L2,
                (true, false) => Distance::Cosine,
                (false, true) => Distance::Product,
                (true, true) => Distance::Unknown,
            },
            records_segment: records_segment.flatten(),
            twin: false,
            dimension: row.get_ref(3)?.as_i64().ok().and_then(|n| u64::try_from(n).ok()),
            position: positions.get(&id).copied(),
            persisted: text(row, 1)?.as_deref() == Some(PERSISTED),
            purged,
            name: text(row, 4)?.unwrap_or_default(),
            collection,
        };
        segments.insert(uuid, row);
        Ok(())
    })?;
    let mut claimed: HashMap<String, usize> = HashMap::new();
    for row in segments.values() {
        *claimed.entry(row.collection.clone()).or_default() += 1;
    }
    for row in segments.values_mut() {
        row.twin = claimed.get(&row.collection).is_some_and(|count| *count > 1);
    }
    let (mut collections, mut without_vector_segment) = (0, 0);
    each(connection, "SELECT id FROM collections", |row| {
        collections += 1;
        without_vector_segment +=
            u64::from(text(row, 0)?.is_none_or(|id| !claimed.contains_key(&id)));
        Ok(())
    })?;
    Ok(Answer { segments, collections, without_vector_segment, family })
}

/// Which Chroma opened the database last, by the migrations that it recorded. Errs when SQLite does.
fn family(connection: &Connection) -> rusqlite::Result<Option<Family>> {
    let sql = "SELECT count(*) FROM migrations WHERE dir = ?1";
    let Ok(mut statement) = connection.prepare(sql) else { return Ok(None) };
    let mut counts = [0; 3];
    for (count, dir) in counts.iter_mut().zip(Dir::ALL) {
        *count = statement.query_row([dir.as_str()], |row| row.get(0))?;
    }
    Ok(Some(Family::of(counts)))
}

/// Whether the queue is purged by itself. Nothing did that before 0.5.7. Errs when SQLite does.
fn purged(connection: &Connection, family: Option<Family>) -> rusqlite::Result<bool> {
    if family == Some(Family::Oldest) {
        return Ok(false);
    }
    let sql = "SELECT config_json_str FROM embeddings_queue_config ORDER BY id LIMIT 1";
    let mut reported = None;
    if connection.prepare(sql).is_ok() {
        each(connection, sql, |row| {
            reported = text(row, 0)?.and_then(|text| judge_queue_config(&text).ok().flatten());
            Ok(())
        })?;
    }
    Ok(reported != Some(false))
}

/// Whether nothing is left of a collection but its segments: neither a position nor a record. Errs when SQLite does.
fn is_empty(
    connection: &Connection,
    positions: &HashMap<String, i64>,
    vectors: &str,
    records: Option<&Option<String>>,
) -> rusqlite::Result<bool> {
    let records = match records {
        None => return Ok(!positions.contains_key(vectors)),
        Some(None) => return Ok(false), // there are two
        Some(Some(records)) => records,
    };
    if positions.contains_key(vectors) || positions.contains_key(records) {
        return Ok(false);
    }
    let sql = "SELECT NOT EXISTS(SELECT 1 FROM embeddings WHERE segment_id = ?1)";
    connection.prepare(sql)?.query_row([records], |row| row.get(0))
}

/// The collections with this distance: by their metadata below 1.0, by their configuration or schema from then on. Errs when SQLite does.
fn with_space(connection: &Connection, space: &str) -> rusqlite::Result<HashSet<String>> {
    let mut found = HashSet::new();
    for sql in [
        "SELECT collection_id FROM collection_metadata WHERE key = 'hnsw:space' AND str_value = 'SPACE'",
        "SELECT id FROM collections WHERE instr(replace(config_json_str, ' ', ''), '\"space\":\"SPACE\"')",
        "SELECT id FROM collections WHERE instr(replace(schema_str, ' ', ''), '\"space\":\"SPACE\"')",
    ] {
        let sql = &sql.replace("SPACE", space);
        // A release may not have the column or the table.
        if connection.prepare(sql).is_err() {
            continue;
        }
        each(connection, sql, |row| {
            found.extend(text(row, 0)?);
            Ok(())
        })?;
    }
    Ok(found)
}

/// A text; what else may stand in its place is the business of `contents`. Errs when SQLite does.
fn text(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Option<String>> {
    Ok(row.get_ref(column)?.as_str().ok().map(str::to_owned))
}

/// Every row of a question, at most [`ROWS_MAX`]. Errs when SQLite does.
fn each(
    connection: &Connection,
    sql: &str,
    mut visit: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<()>,
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    for _ in 0..ROWS_MAX {
        let Some(row) = rows.next()? else { break };
        visit(row)?;
    }
    Ok(())
}

/// The kind of segment that all releases since 0.4 write.
const PERSISTED: &str = "urn:chroma:segment/vector/hnsw-local-persisted";

/// As many as folders are looked at, twice over.
const ROWS_MAX: usize = 200_000;
