use std::{collections::BTreeSet, path::Path, sync::atomic::AtomicBool};

use super::*;
use crate::{
    collectors::{hnsw::catalogue::Distance, testing::context},
    format::uuid::uuid_text,
};

const COLLECTION: &str = "3f2504e0-4f89-41d3-9a0c-0305e82c3301";

/// Its segment with vectors; `m` is the other one.
pub(in super::super) const SEGMENT: Uuid = 7;

/// A Chroma with one collection that applies operations, flushes and purges as the real one does.
pub(in super::super) struct Model {
    pub(in super::super) database: Connection,
    pub(in super::super) records: BTreeSet<String>,
    pub(in super::super) index: BTreeMap<String, u64>,
    flushed: BTreeMap<String, u64>,
    labels: u64,
    seq_id: i64,
    pub(in super::super) position: Option<i64>,
    seed: u64,
}

impl Model {
    pub(in super::super) fn new(dir: &Path, seed: u64) -> Self {
        let database = Connection::open(dir.join("chroma.sqlite3")).unwrap();
        database
            .execute_batch(
                "CREATE TABLE embeddings(id INTEGER PRIMARY KEY, segment_id TEXT, embedding_id TEXT, seq_id INTEGER, \
                   UNIQUE(segment_id, embedding_id)); \
                 CREATE TABLE max_seq_id(segment_id TEXT PRIMARY KEY, seq_id INTEGER); \
                 CREATE TABLE embeddings_queue(seq_id INTEGER PRIMARY KEY, operation INTEGER, topic TEXT, \
                   id TEXT, vector BLOB); \
                 BEGIN",
            )
            .unwrap();
        Self {
            database,
            records: BTreeSet::new(),
            index: BTreeMap::new(),
            flushed: BTreeMap::new(),
            labels: 0,
            seq_id: 0,
            position: None,
            seed,
        }
    }

    pub(in super::super) fn draw(&mut self, below: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.seed >> 33) % below
    }

    /// Does something to one record, and says to which.
    pub(in super::super) fn step(&mut self) -> String {
        let id = format!("id-{}", self.draw(40));
        let operation = self.draw(4);
        let vector = (operation != 3 && (operation != 1 || self.draw(2) == 0)).then_some([0_u8; 8]);
        let topic = format!("persistent://default/default/{COLLECTION}");
        self.seq_id += 1;
        let row = (self.seq_id, operation.cast_signed(), topic, &id, vector);
        let sql = "INSERT INTO embeddings_queue VALUES(?1, ?2, ?3, ?4, ?5)";
        self.database.execute(sql, row).unwrap();
        let there = self.records.contains(&id);
        let sql = match operation {
            0 | 2 if !there => {
                "INSERT INTO embeddings(segment_id, embedding_id, seq_id) VALUES('m', ?1, ?2)"
            }
            1 | 2 if there => "UPDATE embeddings SET seq_id = ?2 WHERE embedding_id = ?1",
            3 => "DELETE FROM embeddings WHERE embedding_id = ?1 AND ?2 > 0",
            _ => "SELECT ?1, ?2",
        };
        let mut statement = self.database.prepare(sql).unwrap();
        let mut rows = statement.query((&id, self.seq_id)).unwrap();
        while rows.next().unwrap().is_some() {}
        drop(rows);
        drop(statement);
        match operation {
            0 | 2 => {
                self.records.insert(id.clone());
                if operation == 2 && !self.index.contains_key(&id) || !there {
                    self.labels += 1;
                    self.index.insert(id.clone(), self.labels);
                }
            }
            3 => {
                self.records.remove(&id);
                self.index.remove(&id);
            }
            _ => {}
        }
        self.note_position("m");
        id
    }

    fn note_position(&self, segment: &str) {
        let sql = "INSERT OR REPLACE INTO max_seq_id VALUES(?1, ?2)";
        self.database.execute(sql, (segment, self.seq_id)).unwrap();
    }

    pub(in super::super) fn flush(&mut self, purge: bool) {
        self.flushed = self.index.clone();
        self.position = Some(self.seq_id);
        self.note_position(&uuid_text(SEGMENT));
        if purge {
            let sql = "DELETE FROM embeddings_queue WHERE seq_id < ?1";
            self.database.execute(sql, [self.seq_id]).unwrap();
        }
    }

    pub(in super::super) fn pairs(&self) -> Vec<Pair> {
        let pair =
            |(id, label): (&String, &u64)| Pair { label: *label, id: pickle::hash(id.as_bytes()) };
        self.flushed.iter().map(pair).collect()
    }
}

/// What the database says of the segment.
pub(in super::super) fn row(position: Option<i64>) -> Row {
    Row {
        collection: COLLECTION.to_owned(),
        name: String::new(),
        records_segment: Some("m".to_owned()),
        dimension: None,
        twin: false,
        distance: Distance::L2,
        position,
        persisted: true,
        purged: true,
    }
}

fn compare_now(dir: &Path, pairs: Vec<Pair>, position: Option<i64>) -> Compared {
    let context = context(dir);
    let stop = AtomicBool::new(false);
    let hold = Duration::from_secs(5);
    let limits = Limits { hold, hold_unwaited: hold, stop: &stop, progress: None };
    let mut asker = Asker::new(&context, limits).unwrap();
    let row = row(position);
    let segments = [(SEGMENT, &row, position)];
    let mut queue = Queue::read(&mut asker, segments.into_iter(), |_| pairs.is_empty()).unwrap();
    compare(&mut asker, &mut queue, SEGMENT, &row, position, pairs).unwrap().compared
}

#[test]
fn whatever_was_done_nothing_is_missing_and_what_is_lost_is_counted() {
    for seed in 0..40 {
        let dir = tempfile::tempdir().unwrap();
        let mut model = Model::new(dir.path(), seed);
        let steps = model.draw(200) + 1;
        for _ in 0..steps {
            model.step();
            if model.draw(30) == 0 {
                model.flush(seed % 2 == 0);
            }
        }
        model.database.execute_batch("COMMIT").unwrap();
        let pairs = model.pairs();
        let found = compare_now(dir.path(), pairs.clone(), model.position);
        let records = model.records.len() as u64;
        assert_eq!((found.records, found.missing, found.strays), (records, 0, 0), "{seed}");
        assert!(!found.position_ahead);

        // Another process wrote an index that lacks every third id, and the queue was purged.
        let kept: Vec<Pair> = pairs.iter().filter(|pair| pair.label % 3 != 0).copied().collect();
        let sql = "DELETE FROM embeddings_queue WHERE seq_id < (SELECT max(seq_id) FROM embeddings_queue)";
        model.database.execute_batch(sql).unwrap();
        let found = compare_now(dir.path(), kept.clone(), Some(model.seq_id));
        let there = |id: &&String| kept.iter().any(|pair| pair.id == pickle::hash(id.as_bytes()));
        let lost = model.records.iter().filter(|id| !there(id)).count() as u64;
        assert_eq!(found.missing, lost, "{seed}");
    }
}

#[test]
fn slices_meet_without_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let model = Model::new(dir.path(), 1);
    let mut insert = model
        .database
        .prepare("INSERT INTO embeddings(segment_id, embedding_id) VALUES('m', ?1)")
        .unwrap();
    let ids: Vec<String> = (0..2500).map(|n| format!("{n}-é")).collect();
    for id in &ids {
        insert.execute([id]).unwrap();
    }
    model.database.execute_batch("COMMIT").unwrap();
    let pairs: Vec<Pair> = (1..)
        .zip(&ids[..2400])
        .map(|(label, id)| Pair { label, id: pickle::hash(id.as_bytes()) })
        .collect();
    let found = compare_now(dir.path(), pairs.clone(), Some(0));
    assert_eq!((found.records, found.missing, found.known), (2500, 100, 2400));
    assert!(found.missing_last && found.ids[..] == ids[2400..]);
    // One of the older is gone as well: these are no longer the newest alone.
    let found = compare_now(dir.path(), pairs[1..].to_vec(), Some(0));
    assert_eq!((found.missing, found.missing_last), (101, false));
}

#[test]
fn ids_that_are_no_text_are_read_once_each() {
    let dir = tempfile::tempdir().unwrap();
    let model = Model::new(dir.path(), 1);
    let sql = "CREATE TEMP TABLE n AS WITH RECURSIVE n(i) AS \
                 (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1500) SELECT i FROM n; \
               INSERT INTO embeddings(segment_id, embedding_id) SELECT 'm', 'a' || i FROM n; \
               INSERT INTO embeddings(segment_id, embedding_id) SELECT 'm', CAST(x'ff' AS TEXT) || i FROM n; \
               INSERT INTO embeddings(segment_id, embedding_id) SELECT 'm', CAST('a' || i AS BLOB) FROM n; \
               COMMIT";
    model.database.execute_batch(sql).unwrap();
    let found = compare_now(dir.path(), Vec::new(), Some(0));
    assert_eq!((found.records, found.missing), (4500, 4500));
}

#[test]
fn without_an_index_the_whole_queue_counts_for_a_chroma_that_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut model = Model::new(dir.path(), 3);
    for _ in 0..60 {
        model.step();
    }
    model.flush(false);
    model.step();
    model.database.execute_batch("COMMIT").unwrap();
    let found = compare_now(dir.path(), Vec::new(), model.position);
    let records = model.records.len() as u64;
    assert_eq!(found.anew.as_ref().unwrap().missing, 0, "all of it is still there");
    assert!(found.missing >= records - 1 && found.records == records, "{found:?}");
    assert_eq!(found.lost(Replay::Whole).1, 0);
    assert_eq!(found.lost(Replay::Behind).1, found.missing);
    let (least, most, ids) = found.lost(Replay::Either);
    assert_eq!((least, most, ids), (0, found.missing, found.ids.as_slice()));

    // A purge leaves the row of the position: Chroma reads that one as well.
    let sql = "DELETE FROM embeddings_queue WHERE seq_id < 60";
    model.database.execute_batch(sql).unwrap();
    let found = compare_now(dir.path(), Vec::new(), model.position);
    let whole = found.anew.unwrap();
    assert!(whole.missing <= found.missing && whole.missing >= records - 2, "{whole:?}");
    // With an index nothing but its end counts.
    assert_eq!(compare_now(dir.path(), model.pairs(), model.position).anew, None);
}
