//! The queue and how far each segment has applied it. A table of any length is walked in slices by its key, up to the
//! newest row of the moment at which the positions were read, so that what is counted belongs together.
//!
//! Chroma numbers rows by SQLite's rule for keys without AUTOINCREMENT: one more than the largest that is there. That is why
//! a queue that somebody emptied makes new rows with old numbers, which every segment passes over as long since applied:
//! they are acknowledged and lost (measured on 0.4.24, 0.6.3, 1.1.1 and 1.5.9).

mod index_files;

pub(super) use index_files::Unread;

use std::collections::{BTreeMap, HashMap};

use rusqlite::Connection;

use self::index_files::{dimension_of_index, flushed_before};
use super::{
    ask::{Asker, Cell, bounded},
    catalogue::{Catalogue, Scope, Segment},
    position::Position,
    tally::{Cases, Tally},
};
use crate::{
    clock::Timestamp,
    findings::{Code, Finding, Severity},
    format::{queue::Row, schema::Family},
    host::links::Place,
    store::database::QueryError,
};

/// One moment: all positions, and the newest row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Moment {
    positions: BTreeMap<String, Cell>,
    newest: Option<i64>,
    oldest_at: Option<i64>,
    /// There is no queue; that is a finding of its own.
    without_queue: bool,
}

/// What is known of the rows of one collection.
#[derive(Debug, Clone, Default)]
struct Topic {
    rows: u64,
    newest: i64,
    /// Rows that the segment of each scope has not applied.
    behind: [u64; 2],
    /// Rows that all segments have applied.
    applied: u64,
    /// Rows still to be applied whose vector has as many numbers as the collection says.
    fitting: u64,
    /// Those with another number of them, and the first of these numbers.
    other: Cases,
    other_dimension: Option<u64>,
    /// Whether there are several such numbers.
    others_differ: bool,
}

/// A walk over the queue.
#[derive(Debug)]
pub(super) struct Scan {
    moment: Moment,
    /// By collection.
    homes: HashMap<String, Home>,
    topics: HashMap<String, Topic>,
    /// The last row that was seen.
    at: i64,
    rows: u64,
    /// Rows of collections that are not in the catalogue.
    homeless: u64,
    /// A collection with operations still to be applied that have lists as metadata.
    lists: Option<String>,
    /// The newest row when the catalogue was read.
    newest_before: i64,
    tally: Tally,
    family: Family,
    unread: Option<Unread>,
}

/// What of the catalogue matters for the rows of a collection.
#[derive(Debug, Clone)]
struct Home {
    name: String,
    dimension: Option<i64>,
    sync_threshold: u64,
    /// The segment of each scope, and its position.
    segments: [Option<(String, Position)>; 2],
}

impl Home {
    fn position(&self, scope: Scope) -> Option<i64> {
        self.segments[scope as usize].as_ref().and_then(|(_, position)| position.at())
    }

    /// Rows up to this one are not read again; `None` when all are.
    fn applied_up_to(&self, family: Family) -> Option<i64> {
        let metadata = self.position(Scope::Metadata)?;
        match self.position(Scope::Vector) {
            Some(vector) => Some(metadata.min(vector)),
            // The pickle knows it.
            None if family == Family::Oldest => Some(metadata),
            None => None,
        }
    }
}

/// What a whole walk gave.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Queue {
    pub(super) rows: u64,
    pub(super) homeless: u64,
    /// A collection with operations still to be applied that have lists as metadata.
    pub(super) lists: Option<String>,
    /// When the oldest row was written, in seconds since the epoch.
    pub(super) oldest_at: Option<i64>,
    /// Operations that the furthest segment of each scope is behind.
    pub(super) lag: BTreeMap<Scope, u64>,
    pub(super) segments: Vec<Lag>,
    pub(super) findings: Vec<Finding>,
    /// What could not be looked at, so that something may be amiss that is not told.
    pub(super) unread: Option<Unread>,
}

/// How far one segment is behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lag {
    pub(super) segment: String,
    pub(super) collection: String,
    pub(super) scope: Scope,
    pub(super) position: Option<i64>,
    pub(super) newest: i64,
    pub(super) behind: u64,
    /// More than this is not normal.
    pub(super) behind_max: u64,
}

impl Scan {
    /// Begins at the oldest row. `None` when the positions could not be read in time. Errs when SQLite does.
    pub(super) fn begin(
        asker: &mut Asker<'_, '_>,
        catalogue: &Catalogue,
        dir: &Place,
    ) -> Result<Option<Self>, QueryError> {
        let Some(moment) = asker.ask(|c| read_moment(c, catalogue))? else { return Ok(None) };
        let mut scan = Self {
            homes: HashMap::new(),
            topics: HashMap::new(),
            at: i64::MIN,
            rows: 0,
            homeless: 0,
            lists: None,
            newest_before: catalogue.newest.unwrap_or(0),
            tally: Tally::default(),
            family: catalogue.family,
            moment,
            unread: None,
        };
        let segments = catalogue.segments_of();
        for (key, collection) in &catalogue.collections {
            let own = segments.get(key.as_str()).map(Vec::as_slice).unwrap_or_default();
            let of = |scope: Scope| {
                let segment = own.iter().find(|segment| segment.scope == Some(scope))?;
                let cell = scan.moment.positions.get(&segment.id).unwrap_or(&Cell::Null);
                Some((segment.id.clone(), Position::of(cell, catalogue.family)))
            };
            let home = Home {
                name: collection.name.clone(),
                dimension: collection.dimension.integer(),
                sync_threshold: collection.sync_threshold,
                segments: Scope::ALL.map(of),
            };
            scan.judge_positions(&home);
            scan.homes.insert(key.clone(), home);
        }
        let now = asker.now();
        if let Some((missing, unread)) = asker.ask(|c| scan.missing(c, catalogue, dir, now))? {
            scan.unread = unread;
            scan.tell_missing(&missing);
        }
        Ok(Some(scan))
    }

    fn judge_positions(&mut self, home: &Home) {
        let newest = self.moment.newest.unwrap_or(0);
        for (scope, segment) in Scope::ALL.into_iter().zip(&home.segments) {
            let Some((_, position)) = segment else { continue };
            let reason = match position {
                Position::Bad(reason) => format!("{reason}: the collection cannot be used"),
                Position::At(position) if *position > newest && !self.moment.without_queue => {
                    format!(
                        "it is {position}, ahead of the queue's newest row {newest}: new writes are acknowledged and lost"
                    )
                }
                _ => continue,
            };
            let words = || format!("{} position of \"{}\": {reason}", scope.as_str(), home.name);
            self.tally.add(Code::SeqIdInvalid, "max_seq_id", words);
        }
    }

    /// Segments that have applied rows and no position; those of a collection that was never flushed have none and are
    /// healthy. Errs when SQLite does.
    fn missing(
        &self,
        connection: &Connection,
        catalogue: &Catalogue,
        dir: &Place,
        now: Timestamp,
    ) -> rusqlite::Result<(Vec<Missing>, Option<Unread>)> {
        let (mut missing, mut unread) = (Vec::new(), None);
        if !catalogue.tables.contains("max_seq_id") {
            return Ok((missing, None)); // a finding of its own
        }
        let has_embeddings = catalogue.tables.contains("embeddings");
        let mut records = connection.prepare(if has_embeddings {
            "SELECT EXISTS(SELECT 1 FROM embeddings WHERE segment_id=?1)"
        } else {
            "SELECT 0 WHERE ?1 IS NOT NULL"
        })?;
        // The positions were read before, and a first use may have come in between: it writes rows and position together.
        let mut placed = connection.prepare(
            "SELECT EXISTS(SELECT 1 FROM max_seq_id WHERE segment_id=?1 AND seq_id IS NOT NULL)",
        )?;
        for home in self.homes.values() {
            for (scope, segment) in Scope::ALL.into_iter().zip(&home.segments) {
                let Some((id, Position::Missing)) = segment else { continue };
                let applied = match scope {
                    Scope::Metadata => {
                        has_embeddings && records.query_row([id], |row| row.get(0))?
                    }
                    // Below 0.5.7, and until the first use after an upgrade from there, the pickle knows it; then the queue
                    // is not purged either.
                    Scope::Vector => {
                        catalogue.purge == Some(true)
                            && self.family != Family::Oldest
                            && flushed_before(dir, id, now).unwrap_or_else(|problem| {
                                unread.get_or_insert(problem);
                                false
                            })
                    }
                };
                if applied && !placed.query_row([id], |row| row.get(0))? {
                    missing.push((scope, home.name.clone()));
                }
            }
        }
        Ok((missing, unread))
    }

    fn tell_missing(&mut self, missing: &[Missing]) {
        for (scope, name) in missing {
            let (severity, effect) = match (scope, self.family) {
                (Scope::Vector, Family::Python) => (Severity::Critical, "queries fail"),
                _ => (Severity::Info, "the queue is applied again from its oldest row"),
            };
            let words = || format!("\"{name}\" has no {} position: {effect}", scope.as_str());
            self.tally.add_with(Code::SeqIdMissing, severity, "max_seq_id", words);
        }
    }

    /// Goes on as far as the budget allows; says whether the end was reached. Errs when SQLite does.
    pub(super) fn go_on(&mut self, asker: &mut Asker<'_, '_>) -> Result<bool, QueryError> {
        let Some(newest) = self.moment.newest else { return Ok(true) };
        while self.at < newest {
            let (after, scan) = (self.at, &*self);
            let part = asker.slice(|c, rows| scan.read(c, after, newest, rows))?;
            let Some(part) = part else { return Ok(false) };
            let Some(last) = part.last() else { break };
            self.at = last.seq_id;
            for row in part {
                self.take(row);
            }
        }
        Ok(true)
    }

    fn read(
        &self,
        connection: &Connection,
        after: i64,
        upto: i64,
        rows: u32,
    ) -> rusqlite::Result<Vec<QueueRow>> {
        let sql = format!(
            "SELECT seq_id, {} FROM embeddings_queue WHERE seq_id > ?1 AND seq_id <= ?2 ORDER BY seq_id LIMIT ?3",
            bounded("topic", 1000)
        );
        // What stands behind the vector is read of rows that are still to be applied only: it may lie on pages of its own.
        let details = format!(
            "SELECT operation, CASE WHEN vector IS NOT NULL THEN octet_length(vector) END, {}, {} \
             FROM embeddings_queue WHERE seq_id=?1",
            bounded("encoding", 100),
            bounded("metadata", METADATA_BYTES_MAX)
        );
        let mut details = connection.prepare(&details)?;
        let mut statement = connection.prepare(&sql)?;
        let mut rows = statement.query((after, upto, rows))?;
        let mut out = Vec::new();
        while let Some(row) = rows.next()? {
            let seq_id = row.get(0)?;
            let topic = Cell::of(row, 1)?;
            let collection =
                topic.text().and_then(|topic| topic.rsplit('/').next()).unwrap_or_default();
            let collection = collection.to_owned();
            let mut seen =
                QueueRow { seq_id, collection, fault: None, dimension: None, lists: false };
            let home = self.homes.get(&seen.collection);
            if home.is_some_and(|home| self.to_be_applied(home, seq_id)) {
                details.query_row([seq_id], |row| {
                    let (operation, encoding, metadata) =
                        (Cell::of(row, 0)?, Cell::of(row, 2)?, Cell::of(row, 3)?);
                    let row = Row {
                        operation: operation.integer(),
                        vector_bytes: row
                            .get::<_, Option<i64>>(1)?
                            .and_then(|n| u64::try_from(n).ok()),
                        encoding: encoding.text(),
                        metadata: metadata.text(),
                    };
                    seen.fault = row.fault(self.family);
                    seen.dimension = row.dimension();
                    seen.lists = row.has_lists();
                    Ok(())
                })?;
            }
            out.push(seen);
        }
        Ok(out)
    }

    /// Whether a row is read again at the next start. Below 0.5.7 only the pickle knows how far the vector segment is; it is
    /// behind by no more than the sync threshold.
    fn to_be_applied(&self, home: &Home, seq_id: i64) -> bool {
        let Some(applied) = home.applied_up_to(self.family) else { return true };
        let margin = match self.family {
            Family::Oldest => i64::try_from(home.sync_threshold).unwrap_or(i64::MAX),
            _ => 0,
        };
        seq_id > applied.saturating_sub(margin)
    }

    fn take(&mut self, row: QueueRow) {
        self.rows += 1;
        let Some(home) = self.homes.get(&row.collection) else {
            // A later one may be of a collection that was made after the catalogue was read.
            self.homeless += u64::from(row.seq_id <= self.newest_before);
            return;
        };
        let topic = self.topics.entry(row.collection).or_default();
        topic.rows += 1;
        topic.newest = topic.newest.max(row.seq_id);
        for scope in Scope::ALL {
            let behind = home.position(scope).is_none_or(|position| row.seq_id > position);
            topic.behind[scope as usize] += u64::from(behind);
        }
        let applied = home.applied_up_to(self.family);
        topic.applied += u64::from(applied.is_some_and(|applied| row.seq_id < applied));
        if row.lists {
            self.lists.get_or_insert_with(|| home.name.clone());
        }
        if let Some(fault) = row.fault {
            let words = || format!("row {} for \"{}\": {fault}", row.seq_id, home.name);
            self.tally.add(Code::QueuePoisoned, "embeddings_queue", words);
        } else if let (Some(is), Some(wanted @ 1..)) = (row.dimension, home.dimension) {
            if i64::try_from(is) == Ok(wanted) {
                topic.fitting += 1;
                return;
            }
            let first = *topic.other_dimension.get_or_insert(is);
            topic.others_differ |= first != is;
            topic.other.add(|| {
                format!(
                    "\"{}\" has {wanted} dimensions, row {} of the queue brings a vector of {is}",
                    home.name, row.seq_id
                )
            });
        }
    }

    /// Rows whose vectors have another number of dimensions than their collection: a row is the odd one when others, or the
    /// index, agree with the collection. Measured: Chroma before 1.0 passes over it, 1.x takes it for a vector and answers
    /// wrongly; without the row, an upsert of its record makes all whole (0.4.24, 0.6.3, 1.1.1, 1.5.9).
    fn tell_dimensions(&mut self, dir: &Place) {
        for (key, topic) in &mut self.topics {
            let (Some(first), Some(home)) = (topic.other_dimension, self.homes.get(key)) else {
                continue;
            };
            let wanted = home.dimension.and_then(|wanted| u64::try_from(wanted).ok());
            let of_index = match &home.segments[Scope::Vector as usize] {
                Some((segment, _)) => dimension_of_index(dir, segment),
                None => Ok(None),
            };
            let of_index = of_index.unwrap_or_else(|problem| {
                self.unread.get_or_insert(problem);
                None
            });
            let row_is_odd = match of_index {
                Some(of_index) => Some(of_index) == wanted,
                None => topic.fitting > 0 || topic.others_differ,
            };
            let cases = std::mem::take(&mut topic.other);
            let code =
                if row_is_odd { Code::QueuePoisoned } else { Code::CollectionDimensionMismatch };
            let words = || {
                let rows = cases.words("; ");
                match (row_is_odd, of_index) {
                    (true, _) => format!("{rows}: its record is not found by its vector"),
                    (false, Some(of_index)) => format!("{rows}; the index has {of_index}"),
                    (false, None) => {
                        format!("{rows}; no row has the dimension that is stated, all have {first}")
                    }
                }
            };
            self.tally.add_about(code, code.severity(), "embeddings_queue", words, cases.clone());
        }
    }

    /// What the whole walk says.
    pub(super) fn finish(mut self, catalogue: &Catalogue, dir: &Place) -> Queue {
        self.tell_dimensions(dir);
        let mut queue = Queue {
            rows: self.rows,
            homeless: self.homeless,
            oldest_at: self.moment.oldest_at,
            ..Queue::default()
        };
        let none = Topic::default();
        for (key, home) in &self.homes {
            let topic = self.topics.get(key).unwrap_or(&none);
            for (scope, segment) in Scope::ALL.into_iter().zip(&home.segments) {
                let Some((id, position)) = segment else { continue };
                // Not known here: the pickle knows it.
                let unknown = matches!(position, Position::Opaque | Position::Bad(_))
                    || (scope == Scope::Vector
                        && self.family == Family::Oldest
                        && *position == Position::Missing);
                if unknown {
                    continue;
                }
                let behind = topic.behind[scope as usize];
                let lag = queue.lag.entry(scope).or_insert(0);
                *lag = behind.max(*lag);
                let threshold = if scope == Scope::Vector { home.sync_threshold } else { 0 };
                let behind_max = threshold.saturating_mul(2).saturating_add(BATCH_MAX);
                if behind > behind_max {
                    let words = || {
                        format!(
                            "{} segment of \"{}\" is {behind} operations behind, more than {behind_max}",
                            scope.as_str(),
                            home.name
                        )
                    };
                    self.tally.add(Code::QueueBacklog, "embeddings_queue", words);
                }
                queue.segments.push(Lag {
                    segment: id.clone(),
                    collection: home.name.clone(),
                    scope,
                    position: position.at(),
                    newest: topic.newest,
                    behind,
                    behind_max: if scope == Scope::Vector { behind_max } else { 0 },
                });
            }
        }
        for scope in Scope::ALL {
            let kept = scope == Scope::Metadata || self.family != Family::Oldest;
            if kept && !catalogue.cut {
                queue.lag.entry(scope).or_insert(0);
            }
        }
        let applied: u64 = self.topics.values().map(|topic| topic.applied).sum();
        if applied >= APPLIED_MAX {
            let why = match catalogue.purge {
                Some(false) => "automatically_purge is off",
                Some(true) => "although automatically_purge is on",
                None => "this Chroma never purges",
            };
            let words = || format!("{applied} rows that all segments have applied are kept; {why}");
            self.tally.add(Code::QueueNotPurged, "embeddings_queue", words);
        }
        if self.homeless > 0 && !catalogue.cut {
            let words = || {
                format!(
                    "{} rows of the queue belong to no collection; nothing reads them, their text is on disk",
                    self.homeless
                )
            };
            self.tally.add_with(Code::OrphanRows, Severity::Info, "embeddings_queue", words);
        }
        queue.segments.sort_by(|a, b| a.segment.cmp(&b.segment));
        queue.findings = self.tally.into_findings();
        queue.lists = self.lists;
        queue.unread = self.unread;
        queue
    }
}

/// A segment without position, by its scope and the name of its collection.
type Missing = (Scope, String);

/// One row.
#[derive(Debug)]
struct QueueRow {
    seq_id: i64,
    collection: String,
    fault: Option<&'static str>,
    dimension: Option<u64>,
    lists: bool,
}

fn read_moment(connection: &Connection, catalogue: &Catalogue) -> rusqlite::Result<Moment> {
    let mut moment = Moment::default();
    if catalogue.tables.contains("embeddings_queue") {
        let sql = "SELECT max(seq_id) FROM embeddings_queue";
        moment.newest = connection.query_row(sql, [], |row| row.get(0))?;
        let sql = "SELECT unixepoch(created_at) FROM embeddings_queue ORDER BY seq_id LIMIT 1";
        // Written by Chroma in UTC.
        moment.oldest_at = super::ask::first(connection, sql)?.and_then(|cell| cell.integer());
    }
    moment.without_queue = !catalogue.tables.contains("embeddings_queue");
    if catalogue.tables.contains("max_seq_id") {
        let sql = format!(
            "SELECT {}, CASE WHEN octet_length(seq_id) <= 100 THEN seq_id ELSE '' END FROM max_seq_id",
            bounded("segment_id", 1000)
        );
        let mut statement = connection.prepare(&sql)?;
        let mut rows = statement.query([])?;
        let known: std::collections::BTreeSet<&str> =
            catalogue.segments.iter().map(|segment: &Segment| segment.id.as_str()).collect();
        while let Some(row) = rows.next()? {
            if let Cell::Text(segment) = Cell::of(row, 0)?
                && known.contains(segment.as_str())
            {
                // NULL has no length, and reads as an empty text by the rule above.
                let cell = Cell::of(row, 1)?;
                let null = cell == Cell::Text(String::new());
                moment.positions.insert(segment, if null { Cell::Null } else { cell });
            }
        }
    }
    Ok(moment)
}

/// More operations than one call may bring (5461 on the releases that were measured), with room.
const BATCH_MAX: u64 = 10_000;
/// So many rows that nothing needs any more are worth a word.
const APPLIED_MAX: u64 = 10_000;
const METADATA_BYTES_MAX: u32 = 4 * 1024 * 1024;
