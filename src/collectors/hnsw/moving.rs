//! Which records have no vector in an index that Chroma writes anew all the time, so that no comparison ends with the files with
//! which it began.
//!
//! What such a comparison found missing are suspects. One is lost for certain when a later state of the index lacks it that
//! holds its operation, which is known from three things read in this order: the position of the index in the queue; its ids; and
//! the record, still there with an operation not above that position, in tables that are not behind the index, while the
//! queue has nothing newer to say of it. Whatever adds, changes, deletes, flushes or purges in between makes one of them untrue.

use std::time::Duration;

use rusqlite::Connection;

use super::{
    catalogue::Row,
    directory::{Folder, Part},
    records::{Asker, Compared, Queue, Suspect, ids_of},
    walk::{self, ReadMode, Refused},
};
use crate::{
    collectors::pause,
    format::{
        hnsw::Pair,
        pickle,
        uuid::{Uuid, uuid_text},
    },
    host::links::Place,
    store::{database::QueryError, position},
};

/// Records without a vector for certain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Lost {
    /// Records of the collection when they were read.
    pub(super) records: u64,
    pub(super) missing: u64,
    /// Their ids, as far as there is room for them.
    pub(super) ids: Vec<String>,
}

/// Why it is not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unsettled {
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error("its ids cannot be read: {0:?}")]
    Index(Refused),
    #[error("{0}")]
    Unsure(&'static str),
}

/// An index that moves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moving<'a> {
    pub(super) root: &'a Place,
    pub(super) folder: &'a Folder,
    pub(super) segment: Uuid,
    pub(super) row: &'a Row,
    pub(super) mode: ReadMode<'a>,
}

impl Moving<'_> {
    /// Tells which suspects of a comparison are lost. Errs when that cannot be told now.
    pub(super) fn settle(
        self,
        asker: &mut Asker<'_>,
        queue: &mut Queue,
        compared: &Compared,
        suspects: Option<Vec<Suspect>>,
    ) -> Result<Lost, Unsettled> {
        let mut suspects =
            suspects.ok_or(Unsettled::Unsure("too many records seem to be missing"))?;
        // A position that no queue ever reached says nothing about any record.
        if compared.position_ahead {
            return Err(Unsettled::Unsure("its position is beyond the end of the queue"));
        }
        // A second time, against a state that was written after the first, for what no reasoning foresaw.
        for round in 0..ROUNDS {
            if suspects.is_empty() {
                break;
            }
            if round > 0 {
                pause(BETWEEN);
            }
            let ids = || {
                let read = |mode: ReadMode<'_>| walk::newest_ids(self.root, self.folder, mode);
                let (metadata, pairs) =
                    walk::quietly(self.folder, &[Part::Metadata], self.mode, read)?;
                // Before 0.5 the metadata says it.
                let at = metadata.max_seq_id.and_then(|at| i64::try_from(at).ok());
                Ok((at, pairs))
            };
            self.round(asker, queue, &mut suspects, ids)?;
        }
        let (records, missing) = (compared.records, suspects.len() as u64);
        Ok(Lost { records, missing, ids: ids_of(&suspects) })
    }

    /// Leaves those in `suspects` that are lost for certain. `newest_ids` reads the index, and how far it says the queue is in it.
    /// Errs when SQLite or the index cannot be read, or nothing says how far the queue is.
    fn round(
        self,
        asker: &mut Asker<'_>,
        queue: &mut Queue,
        suspects: &mut Vec<Suspect>,
        newest_ids: impl FnOnce() -> Result<(Option<i64>, Vec<Pair>), Refused>,
    ) -> Result<(), Unsettled> {
        let (reported, _) = asker.ask(|connection| self.positions(connection))?;
        let (own, mut pairs) = newest_ids().map_err(Unsettled::Index)?;
        let at =
            reported.or(own).ok_or(Unsettled::Unsure("nothing says how far the queue is in it"))?;
        // Sorted in place: a set of two million ids takes three times their memory.
        pairs.sort_unstable_by_key(|pair| pair.id);
        suspects
            .retain(|suspect| pairs.binary_search_by_key(&suspect.hash, |pair| pair.id).is_err());
        drop(pairs);
        for slice in suspects.chunks_mut(SLICE) {
            let (vectors, tables) = asker.ask(|connection| {
                self.look_up(connection, slice, at)?;
                self.positions(connection)
            })?;
            let index = at.max(vectors.unwrap_or(at));
            if tables.is_none_or(|tables| tables < index) {
                return Err(Unsettled::Unsure("the tables are behind it"));
            }
        }
        suspects.retain(|suspect| suspect.lost);
        let pending = queue.pending_of(asker, self.segment)?;
        suspects.retain(|suspect| !pending.contains(&suspect.hash));
        Ok(())
    }

    /// How far the queue is in the index, and in the tables. Errs when SQLite does.
    fn positions(self, connection: &Connection) -> rusqlite::Result<(Option<i64>, Option<i64>)> {
        let of = |segment: &str| -> rusqlite::Result<Option<i64>> {
            let sql = "SELECT seq_id FROM max_seq_id WHERE segment_id = ?1";
            let mut statement = connection.prepare(sql)?;
            let mut rows = statement.query([segment])?;
            Ok(match rows.next()? {
                Some(row) => position(row.get_ref(0)?),
                None => None,
            })
        };
        let tables = self.row.records_segment.as_deref().unwrap_or_default();
        Ok((of(&uuid_text(self.segment))?, of(tables)?))
    }

    /// Notes which records are there, with an operation up to `at`. Errs when SQLite does.
    fn look_up(
        self,
        connection: &Connection,
        suspects: &mut [Suspect],
        at: i64,
    ) -> rusqlite::Result<()> {
        let sql = "SELECT embedding_id, seq_id FROM embeddings WHERE id = ?1 AND segment_id = ?2";
        let mut statement = connection.prepare(sql)?;
        for suspect in suspects {
            let mut rows = statement.query((suspect.rowid, &self.row.records_segment))?;
            suspect.lost = match rows.next()? {
                Some(row) => {
                    let id = row.get_ref(0)?.as_bytes().ok().map(pickle::hash);
                    let operation = position(row.get_ref(1)?);
                    id == Some(suspect.hash) && operation.is_some_and(|operation| operation <= at)
                }
                None => false,
            };
        }
        Ok(())
    }
}

const ROUNDS: usize = 2;
/// A flush is over by then.
const BETWEEN: Duration = Duration::from_secs(2);
/// Records that are asked for in one transaction: some milliseconds.
const SLICE: usize = 500;

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::atomic::AtomicBool};

    use super::*;
    use crate::{
        collectors::{
            hnsw::records::{
                self,
                tests::{Model, SEGMENT, row},
            },
            testing::context,
        },
        progress::Progress,
        store::database::Limits,
    };

    /// Lets the model go on, with flushes that empty the queue, and notes which records it touches.
    fn go_on(model: &mut Model, touched: &mut BTreeSet<u64>) {
        for _ in 0..model.draw(10) {
            touched.insert(pickle::hash(model.step().as_bytes()));
            if model.draw(3) == 0 {
                let purge = model.draw(3) > 0;
                model.flush(purge);
            }
        }
    }

    #[test]
    fn whatever_is_written_meanwhile_what_is_lost_is_told_and_nothing_else() {
        let (mut reported, mut suspected) = (0, 0);
        for seed in 0..60 {
            let dir = tempfile::tempdir().unwrap();
            let mut model = Model::new(dir.path(), seed);
            model.database.execute_batch("COMMIT; PRAGMA synchronous=OFF").unwrap();
            let mut before = BTreeSet::new();
            while model.position.is_none() || before.len() < 20 {
                go_on(&mut model, &mut before);
            }
            model.flush(true);
            // Another process wrote an index without some of them.
            model.index.retain(|_, label| *label % 5 != 0);
            model.flush(true);
            let in_index = |model: &Model, hash: u64| {
                model.index.keys().any(|id| pickle::hash(id.as_bytes()) == hash)
            };
            let records = model.records.iter().map(|id| pickle::hash(id.as_bytes()));
            let lost: BTreeSet<u64> = records.filter(|id| !in_index(&model, *id)).collect();

            let context = context(dir.path());
            let stop = AtomicBool::new(false);
            let hold = Duration::from_secs(5);
            let limits = Limits { hold, hold_unwaited: hold, stop: &stop, progress: None };
            let mut asker = Asker::new(&context, limits).unwrap();
            let row = row(model.position);
            let segments = [(SEGMENT, &row, model.position)];
            let (mut touched, pairs, position) = (BTreeSet::new(), model.pairs(), model.position);
            go_on(&mut model, &mut touched);
            let mut queue = Queue::read(&mut asker, segments.into_iter(), |_| false).unwrap();
            go_on(&mut model, &mut touched);
            let comparison =
                records::compare(&mut asker, &mut queue, SEGMENT, &row, position, pairs).unwrap();
            let mut suspects = comparison.suspects.unwrap();
            suspected += suspects.len();
            let moving = Moving {
                root: &Place::own(dir.path()),
                folder: &Folder::default(),
                segment: SEGMENT,
                row: &row,
                mode: ReadMode { stop: &stop, gentle: false, progress: &Progress::default() },
            };
            for _ in 0..2 {
                go_on(&mut model, &mut touched);
                let newest_ids = || {
                    go_on(&mut model, &mut touched);
                    let pairs = model.pairs();
                    go_on(&mut model, &mut touched);
                    Ok((None, pairs))
                };
                moving.round(&mut asker, &mut queue, &mut suspects, newest_ids).unwrap();
            }
            let found: BTreeSet<u64> = suspects.iter().map(|suspect| suspect.hash).collect();
            assert!(found.is_subset(&lost), "{seed}: {suspects:?}");
            let untouched: BTreeSet<u64> = lost.difference(&touched).copied().collect();
            assert!(untouched.is_subset(&found), "{seed}: {untouched:?} {suspects:?}");
            reported += found.len();
        }
        assert!(reported > 20 && suspected > 2 * reported, "{reported} of {suspected}");
    }
}
