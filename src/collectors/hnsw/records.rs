//! Which records have no vector: the ids of the tables against those of an index and what the queue still holds for it.
//!
//! The tables are read in slices, each in a transaction of its own, and Chroma writes in between. What seems to be missing
//! counts only when the queue has nothing newer to say of it and the index on disk is still the same at the end: Chroma
//! takes operations out of the queue only after it wrote them to the index. When it is another by then, `moving` goes on.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use rusqlite::{
    Connection, ToSql,
    types::{ToSqlOutput, Type, ValueRef},
};

use super::catalogue::Row;
use crate::{
    findings::{ITEMS_BYTES_MAX, ITEMS_MAX},
    format::{
        hnsw::{Exchange, Order, Pair},
        pickle,
        uuid::Uuid,
    },
    store::{
        Context,
        database::{Abort, Limits, QueryError, ReadConnection},
    },
};

/// What a comparison gave.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Compared {
    /// Records of the collection.
    pub(super) records: u64,
    /// Those of which neither index nor queue has a vector.
    pub(super) missing: u64,
    /// Their ids, as far as there is room for them; in the state directory fewer.
    #[serde(alias = "examples", serialize_with = "beginning")]
    pub(super) ids: Vec<String>,
    /// Whether all of them came after every record that is in the index.
    pub(super) missing_last: bool,
    /// Ids of the index that the tables know.
    pub(super) known: u64,
    /// Ids of the index that they do not know, and that the queue does not delete.
    pub(super) strays: u64,
    /// Whether all of these came after every id that is known.
    pub(super) strays_last: bool,
    /// Those, when they did, as far as there is room for them; in the state directory fewer.
    #[serde(default, serialize_with = "beginning")]
    pub(super) stray_ids: Vec<String>,
    /// Vectors that the queue still holds for the index.
    pub(super) pending_adds: u64,
    /// Ids that the queue still deletes from it.
    pub(super) pending_deletes: HashSet<u64>,
    /// Whether the position of the index is beyond the end of the queue, so that the queue says nothing.
    pub(super) position_ahead: bool,
    /// Two ids with each other's label, by the rows of their records.
    pub(super) exchanged: Option<Exchange>,
    /// Of an index that Chroma makes anew because there is none to be loaded.
    #[serde(default)]
    pub(super) anew: Option<Anew>,
    /// What the queue says of vectors that are in the index.
    #[serde(default)]
    pub(super) held: Held,
}

/// What was found of ids whose vectors are both in the index and in the queue.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Held {
    /// How many they are.
    pub(super) compared: u64,
    /// Those of which the index has another vector.
    pub(super) vectors: Vec<String>,
    /// Those with the right vector and another length.
    pub(super) lengths: Vec<String>,
}

/// What is missing when the whole queue is read, whatever the position says.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct Anew {
    /// Records of which the queue has no vector.
    pub(super) missing: u64,
    /// Their ids, as far as there is room for them; in the state directory fewer.
    #[serde(serialize_with = "beginning")]
    pub(super) ids: Vec<String>,
}

/// What Chroma reads of the queue when it finds no index to load: a folder without `index_metadata.pickle` is none. Measured
/// on 0.4.24, 0.6.3, 1.1.1 and 1.5.9.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Replay {
    /// All of it. Since 1.0, whatever the position is; before 0.5.7 the position is lost with the index.
    Whole,
    /// What is behind the position: 0.5.7 to 0.6.3.
    Behind,
    /// It is not known which of them opens the store next.
    Either,
}

impl Compared {
    /// The fewest and the most records that have no vector, with the ids of those in the second case.
    pub(super) fn lost(&self, replay: Replay) -> (u64, u64, &[String]) {
        let behind = (self.missing, self.ids.as_slice());
        let Some(anew) = &self.anew else { return (behind.0, behind.0, behind.1) };
        let whole = (anew.missing, anew.ids.as_slice());
        match replay {
            Replay::Whole => (whole.0, whole.0, whole.1),
            Replay::Behind => (behind.0, behind.0, behind.1),
            Replay::Either if whole.0 > behind.0 => (behind.0, whole.0, whole.1),
            Replay::Either => (whole.0, behind.0, behind.1),
        }
    }
}

/// A record that seems to have no vector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Suspect {
    /// Hash of its id.
    pub(super) hash: u64,
    /// Its row.
    pub(super) rowid: i64,
    /// Its id; empty when those before it took all the room.
    pub(super) text: String,
    /// Whether it is one for certain, as far as `moving` has come.
    pub(super) lost: bool,
}

/// A comparison, and what it is about.
#[derive(Debug)]
pub(super) struct Comparison {
    pub(super) compared: Compared,
    /// The records without a vector; `None` when they are too many to be told apart.
    pub(super) suspects: Option<Vec<Suspect>>,
    /// Hashes of the ids of the index that the tables do not know.
    pub(super) strays: HashSet<u64>,
}

/// One operation that is not in an index yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pending {
    id: u64,
    what: What,
    /// Whether the position says that the index has it.
    applied: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    /// An addition or an upsert: the vector is there afterwards.
    Add,
    Delete,
}

/// The connection, with patience: a slice that meets a writer comes again.
pub(super) struct Asker<'a> {
    connection: ReadConnection<'a>,
    limits: Limits<'a>,
}

impl<'a> Asker<'a> {
    /// Opens the database. Errs when SQLite may not or cannot.
    pub(super) fn new(context: &'a Context, limits: Limits<'a>) -> Result<Self, QueryError> {
        Ok(Self { connection: context.database.connect()?, limits })
    }

    /// Asks one question. Errs when SQLite does, or the time is over.
    pub(super) fn ask<T>(
        &mut self,
        mut question: impl FnMut(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, QueryError> {
        let mut tries = 0;
        loop {
            let answer = self.connection.within(&self.limits, &mut question);
            // Between two slices a writer may go on.
            std::thread::sleep(PAUSE);
            self.connection.rest(answer.held);
            match answer.result {
                Err(QueryError::Busy | QueryError::Aborted(Abort::WriterWaiting))
                    if tries < TRIES_MAX =>
                {
                    tries += 1;
                }
                answer => return answer,
            }
        }
    }
}

/// What the queue holds for each index.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pending: BTreeMap<Uuid, Vec<Pending>>,
    /// By hash of the collection's id as the tables write it.
    wanted: HashMap<u64, Wanted>,
    /// The last operation that was read.
    last: i64,
    /// The newest operation of any collection; 0 when the queue is empty.
    end: i64,
    operations: usize,
}

/// What is read of the queue for one index.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    segment: Uuid,
    /// How far the queue is in it.
    position: i64,
    /// Whether what is not behind the position is wanted too: there is no index to be loaded.
    whole: bool,
}

impl Queue {
    /// Reads what is behind the positions of `segments`; without a position everything counts. Of those that `whole` says it of,
    /// everything is read. Errs when SQLite does, or the time is over.
    pub(super) fn read<'r>(
        asker: &mut Asker<'_>,
        segments: impl Iterator<Item = (Uuid, &'r Row, Option<i64>)>,
        whole: impl Fn(Uuid) -> bool,
    ) -> Result<Self, QueryError> {
        let mut queue = Self::default();
        let mut first = i64::MAX;
        for (segment, row, position) in segments {
            let collection = pickle::hash(row.collection.as_bytes());
            let position = position.unwrap_or(i64::MIN);
            let wanted = Wanted { segment, position, whole: whole(segment) };
            first = first.min(if wanted.whole { i64::MIN } else { position });
            queue.wanted.insert(collection, wanted);
        }
        let end = "SELECT coalesce(max(seq_id), 0) FROM embeddings_queue";
        queue.end = asker.ask(|connection| connection.query_row(end, [], |row| row.get(0)))?;
        queue.last = first;
        queue.go_on(asker)?;
        Ok(queue)
    }

    /// The ids of which it has held an operation that was not in the index, up to now. Errs when SQLite does, or the time is
    /// over.
    pub(super) fn pending_of(
        &mut self,
        asker: &mut Asker<'_>,
        segment: Uuid,
    ) -> Result<HashSet<u64>, QueryError> {
        self.go_on(asker)?;
        let pending = self.pending.get(&segment).into_iter().flatten();
        Ok(pending.filter(|pending| !pending.applied).map(|pending| pending.id).collect())
    }

    /// Reads what has come since. Errs when SQLite does.
    fn go_on(&mut self, asker: &mut Asker<'_>) -> Result<(), QueryError> {
        if self.wanted.is_empty() {
            return Ok(());
        }
        loop {
            let from = self.last;
            let slice = asker.ask(|connection| queue_slice(connection, from))?;
            for (seq_id, topic, pending) in &slice {
                self.last = *seq_id;
                self.end = self.end.max(*seq_id);
                let Some(wanted) = topic.and_then(|topic| self.wanted.get(&topic)) else {
                    continue;
                };
                let applied = *seq_id <= wanted.position;
                if let Some(pending) = pending
                    && (!applied || wanted.whole)
                    && self.operations < OPERATIONS_MAX
                {
                    self.operations += 1;
                    let pending = Pending { applied, ..*pending };
                    self.pending.entry(wanted.segment).or_default().push(pending);
                }
            }
            if slice.len() < usize::from(SLICE) {
                return Ok(());
            }
        }
    }
}

type QueueRow = (i64, Option<u64>, Option<Pending>);

fn queue_slice(connection: &Connection, from: i64) -> rusqlite::Result<Vec<QueueRow>> {
    let mut statement = connection.prepare(
        "SELECT seq_id, topic, operation, id FROM embeddings_queue \
         WHERE seq_id > ?1 ORDER BY seq_id LIMIT ?2",
    )?;
    let mut rows = statement.query((from, SLICE))?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        let topic = row.get_ref(1)?.as_bytes().ok();
        let collection =
            topic.and_then(|topic| topic.rsplit(|byte| *byte == b'/').next()).map(pickle::hash);
        let what = match row.get_ref(2)?.as_i64().ok() {
            // Chroma's operations: 0 add, 1 update, 2 upsert, 3 delete. An update makes no vector. An addition without one
            // cannot be applied, which `queue_poisoned` tells.
            Some(0 | 2) => Some(What::Add),
            Some(3) => Some(What::Delete),
            _ => None,
        };
        let id = row.get_ref(3)?.as_bytes().ok().map(pickle::hash);
        let pending = what.zip(id).map(|(what, id)| Pending { id, what, applied: false });
        out.push((row.get(0)?, collection, pending));
    }
    Ok(out)
}

/// Compares the records of one collection with the ids of its index. Errs when SQLite does, or the time is over.
pub(super) fn compare(
    asker: &mut Asker<'_>,
    queue: &mut Queue,
    segment: Uuid,
    row: &Row,
    position: Option<i64>,
    mut pairs: Vec<Pair>,
) -> Result<Comparison, QueryError> {
    let whole = queue.wanted.values().any(|wanted| wanted.segment == segment && wanted.whole);
    pairs.sort_unstable_by_key(|pair| pair.id);
    let index = |id: u64| pairs.binary_search_by_key(&id, |pair| pair.id).ok();
    let rows = if pairs.len() <= ORDERED_MAX { vec![0; pairs.len()] } else { Vec::new() };
    let mut found = Found { met: vec![false; pairs.len()], rows, ..Found::default() };
    let mut anew = whole.then(|| (Found::default(), replay_whole(queue.pending.get(&segment))));
    let mut last = None;
    let pending = replay(queue.pending.get(&segment), |id| index(id).is_some());
    while let Some(records) = &row.records_segment {
        let mut slice =
            asker.ask(|connection| records_slice(connection, records, last.as_ref()))?;
        for (rowid, id) in &slice {
            let hash = pickle::hash(&id.bytes);
            found.note(*rowid, &id.bytes, hash, index(hash), &pending);
            if let Some((found, pending)) = &mut anew {
                found.note(*rowid, &id.bytes, hash, None, pending);
            }
        }
        let full = slice.len() == usize::from(SLICE);
        last = slice.pop().map(|(_, id)| id).filter(|_| full);
        if last.is_none() {
            break;
        }
    }
    let nothing_odd = found.missing.is_empty() && found.met.iter().all(|met| *met);
    let pending = if nothing_odd && anew.as_ref().is_none_or(|(anew, _)| anew.missing.is_empty()) {
        pending
    } else {
        // What came, or went, while the slices were read.
        queue.go_on(asker)?;
        replay(queue.pending.get(&segment), |id| index(id).is_some())
    };
    let ahead = queue.end > 0 && position.is_some_and(|position| position > queue.end);
    let mut comparison = found.finish(&pairs, &pending, ahead);
    comparison.compared.anew = anew.map(|(anew, _)| {
        let pending = replay_whole(queue.pending.get(&segment));
        let Compared { missing, ids, .. } = anew.finish(&[], &pending, false).compared;
        Anew { missing, ids }
    });
    Ok(comparison)
}

/// An id to the letter: one that is no text, or none that can be read, has its place in the order too.
#[derive(Debug)]
struct RecordId {
    bytes: Vec<u8>,
    blob: bool,
}

impl ToSql for RecordId {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let kind = if self.blob { ValueRef::Blob } else { ValueRef::Text };
        Ok(ToSqlOutput::Borrowed(kind(&self.bytes)))
    }
}

/// The next records in the order of their ids, from an index that holds all that is asked for. Errs when SQLite does.
fn records_slice(
    connection: &Connection,
    segment: &str,
    after: Option<&RecordId>,
) -> rusqlite::Result<Vec<(i64, RecordId)>> {
    let condition = if after.is_some() { "embedding_id > ?2" } else { "?2 IS NULL" };
    let mut statement = connection.prepare(&format!(
        "SELECT id, embedding_id FROM embeddings WHERE segment_id = ?1 AND {condition} \
         ORDER BY embedding_id LIMIT ?3"
    ))?;
    let mut rows = statement.query((segment, after, SLICE))?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        let id = row.get_ref(1)?;
        let blob = id.data_type() == Type::Blob;
        out.push((
            row.get(0)?,
            RecordId { bytes: id.as_bytes().unwrap_or_default().to_vec(), blob },
        ));
    }
    Ok(out)
}

/// Whether each id of the queue has a vector when all that is not in the index is applied.
fn replay(pending: Option<&Vec<Pending>>, in_index: impl Fn(u64) -> bool) -> HashMap<u64, End> {
    let behind = pending.into_iter().flatten().filter(|pending| !pending.applied);
    ends(behind, in_index)
}

/// The same when all of it is applied to an empty index.
fn replay_whole(pending: Option<&Vec<Pending>>) -> HashMap<u64, End> {
    ends(pending.into_iter().flatten(), |_| false)
}

fn ends<'p>(
    pending: impl Iterator<Item = &'p Pending>,
    in_index: impl Fn(u64) -> bool,
) -> HashMap<u64, End> {
    let mut ends: HashMap<u64, End> = HashMap::new();
    for Pending { id, what, .. } in pending {
        let end = ends.entry(*id).or_insert_with(|| End { there: in_index(*id), deleted: false });
        end.there = *what == What::Add;
        end.deleted |= *what == What::Delete;
    }
    ends
}

#[derive(Debug, Clone, Copy)]
struct End {
    there: bool,
    /// Whether it was deleted on the way.
    deleted: bool,
}

#[derive(Debug, Default)]
struct Found {
    /// Which pairs of the index the tables know.
    met: Vec<bool>,
    /// The rows of their records; empty when there are too many to keep.
    rows: Vec<i64>,
    records: u64,
    /// The records without a vector.
    missing: Vec<Suspect>,
    /// Bytes of their ids.
    missing_bytes: usize,
    /// How many more there are.
    missing_more: u64,
    /// Latest row of a record that is in the index.
    latest: Option<i64>,
}

impl Found {
    /// Takes in a record; `at` is the place of its id among those of the index.
    fn note(
        &mut self,
        rowid: i64,
        id: &[u8],
        hash: u64,
        at: Option<usize>,
        pending: &HashMap<u64, End>,
    ) {
        self.records += 1;
        if let Some(at) = at {
            self.met[at] = true;
            if let Some(row) = self.rows.get_mut(at) {
                *row = rowid;
            }
            self.latest = self.latest.max(Some(rowid));
        }
        if pending.get(&hash).map_or(at.is_some(), |end| end.there) {
            return;
        }
        if self.missing.len() < MISSING_MAX {
            self.missing_bytes = self.missing_bytes.saturating_add(id.len());
            let room = self.missing_bytes <= ITEMS_BYTES_MAX;
            let text = if room { String::from_utf8_lossy(id).into_owned() } else { String::new() };
            self.missing.push(Suspect { hash, rowid, text, lost: false });
        } else {
            self.missing_more += 1;
        }
    }

    fn finish(self, pairs: &[Pair], pending: &HashMap<u64, End>, ahead: bool) -> Comparison {
        // One that the queue speaks of by now has its vector there, or is deleted.
        let mut missing = self.missing;
        missing.retain(|suspect| !pending.contains_key(&suspect.hash));
        let earliest = missing.iter().map(|suspect| suspect.rowid).min();
        let (mut strays, mut known) = (0, 0);
        let mut stray_hashes = HashSet::new();
        let (mut known_last, mut strays_first) = (0, u64::MAX);
        for (pair, met) in pairs.iter().zip(&self.met) {
            if *met {
                known += 1;
                known_last = known_last.max(pair.label);
            } else if !pending.contains_key(&pair.id) {
                strays += 1;
                if stray_hashes.len() < ITEMS_MAX {
                    stray_hashes.insert(pair.id);
                }
                strays_first = strays_first.min(pair.label);
            }
        }
        let exchanged = exchanged(pairs, &self.met, self.rows);
        let compared = Compared {
            records: self.records,
            missing: missing.len() as u64 + self.missing_more,
            ids: ids_of(&missing),
            missing_last: self.missing_more == 0
                && earliest.zip(self.latest).is_some_and(|(earliest, latest)| earliest > latest),
            known,
            strays,
            strays_last: strays_first > known_last,
            stray_ids: Vec::new(),
            pending_adds: pending.values().filter(|end| end.there).count() as u64,
            pending_deletes: pending
                .iter()
                .filter(|(_, end)| end.deleted)
                .map(|(id, _)| *id)
                .collect(),
            position_ahead: ahead,
            exchanged,
            anew: None,
            held: Held::default(),
        };
        let suspects = (self.missing_more == 0).then_some(missing);
        Comparison { compared, suspects, strays: stray_hashes }
    }
}

/// The ids of the suspects that are named. They are a beginning: after the first that had no room none is named.
pub(super) fn ids_of(suspects: &[Suspect]) -> Vec<String> {
    let named = suspects.iter().take_while(|suspect| !suspect.text.is_empty());
    named.map(|suspect| suspect.text.clone()).collect()
}

/// The document in the state directory is written whole each time: it keeps so many that somebody can begin, and the next
/// comparison names the rest. Errs when the serializer does.
fn beginning<S: serde::Serializer>(ids: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(kept(ids))
}

/// Those of `ids` that are kept over a restart.
pub(super) fn kept(ids: &[String]) -> &[String] {
    let mut bytes = 0_usize;
    let fit = ids.iter().take(KEPT_MAX).take_while(|id| {
        bytes += id.len();
        bytes <= KEPT_BYTES_MAX
    });
    &ids[..fit.count()]
}

/// Whether the labels of two ids were exchanged: Chroma 1.x gives rows and labels out in the same order.
fn exchanged(pairs: &[Pair], met: &[bool], rows: Vec<i64>) -> Option<Exchange> {
    let known = pairs.iter().zip(rows).zip(met).filter(|(_, met)| **met);
    let mut by_label: Vec<(u64, i64)> = known.map(|((pair, row), _)| (pair.label, row)).collect();
    by_label.sort_unstable();
    let mut order = Order::default();
    by_label.iter().filter_map(|(_, row)| u64::try_from(*row).ok()).for_each(|row| order.push(row));
    order.exchanges().first().copied()
}

/// Rows of one question: some milliseconds.
const SLICE: u16 = 1000;

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(5);

/// Questions that meet a writer come again so often.
const TRIES_MAX: u32 = 100;

/// Operations of the queue that are kept: some hundred megabytes. Chroma flushes every thousand by default.
const OPERATIONS_MAX: usize = 8_000_000;

/// Records without a vector that are told apart.
const MISSING_MAX: usize = 100_000;

/// Ids of one index whose order is looked at: 24 MB while it is compared.
const ORDERED_MAX: usize = 1_000_000;

/// Ids of one segment in the state directory.
const KEPT_MAX: usize = 5_000;
const KEPT_BYTES_MAX: usize = 512 << 10;

#[cfg(test)]
pub(super) mod tests;
