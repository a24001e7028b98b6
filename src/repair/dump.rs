//! Every record of a store as a line of JSON, in an order that does not change: two dumps of one state are the same bytes. It reads
//! a copy that nobody writes to: the tables, what the queue holds for them and for the indexes, and the vectors of the folders.

mod about;
pub(super) mod catalogue;
mod filter;
mod line;
pub(super) mod record;
mod scan;
mod stages;
pub(super) mod tail;
mod vectors;

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

pub(crate) use self::about::{About, about};
pub use self::filter::{Filter, FilterError};
pub(super) use self::vectors::{Index, Pieces};
use self::{
    catalogue::Collection,
    stages::{Onward, Unwritten, Whole},
    tail::{Operation, Tail, Where},
};
use super::{
    moment::{self, MomentError},
    steps::Steps,
    unpack::{self, Opened, Scratch, UnpackError},
};
use crate::{
    facts::error::chain,
    human::plain,
    store::{Context, DATABASE_FILE},
};

/// What is wanted of a store.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Names of collections; all of them when it is empty.
    pub collections: Vec<String>,
    /// Ids of records; all of them when it is `None`.
    pub ids: Option<BTreeSet<String>>,
    /// What the metadata of a record must be like.
    pub filter: Option<Filter>,
    /// Whether lines have the vectors.
    pub embeddings: bool,
}

/// What was written.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Dumped {
    /// Collections.
    pub collections: u64,
    /// Records of all of them, as many as there are lines.
    pub records: u64,
    /// Records that are there and cannot be read. They have no line.
    pub unreadable: u64,
    /// Records of which neither index nor queue has a vector. Their lines say `"embedding":null`.
    pub without_vector: u64,
    /// What could not be read, a sentence each; of single records the first thousand.
    pub losses: Vec<String>,
    /// What was read another way than usual, a sentence each.
    pub notes: Vec<String>,
}

impl Dumped {
    /// Names one record, as long as there is room.
    fn lose(&mut self, collection: &Collection, id: &str, why: &dyn std::fmt::Display) {
        if self.losses.len() < LOSSES_MAX {
            let (name, id) = (plain(&collection.name), plain(id));
            self.losses.push(format!("collection {name}: record {id}: {why}"));
        }
    }
}

/// Why it did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The database cannot be opened, or does not say which collections there are.
    #[error("cannot read the collections of {DATABASE_FILE}")]
    Catalogue(#[source] rusqlite::Error),
    /// There is no collection of this name.
    #[error("there is no collection {name:?}; there are: {there}")]
    NoCollection {
        /// What was asked for.
        name: String,
        /// Names that there are.
        there: String,
    },
    /// The lines cannot be written.
    #[error("cannot write")]
    Write(#[source] io::Error),
    /// Nobody wants it any more.
    #[error("stopped")]
    Stopped,
}

/// Writes what is `wanted` of the copy in `dir`, which nobody holds and nobody changes meanwhile, to `out`. Records that cannot be
/// read are told in the result; errs when the collections cannot be read, or `out` takes no more.
pub fn run(
    dir: &Path,
    wanted: &Wanted,
    out: &mut dyn Write,
    steps: &Steps,
) -> Result<Dumped, DumpError> {
    stages::run(out, wanted.embeddings, |onward| read(dir, wanted, onward, steps))
}

fn read(dir: &Path, wanted: &Wanted, out: &mut Onward, steps: &Steps) -> Result<Dumped, DumpError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(dir.join(DATABASE_FILE), flags)
        .map_err(DumpError::Catalogue)?;
    let mut collections = catalogue::read(&connection).map_err(DumpError::Catalogue)?;
    chosen(&mut collections, &wanted.collections)?;
    let records = collections.iter().map(|collection| collection.records).sum();
    steps.begin_records("writing", Some(records));
    let mut dumped = Dumped::default();
    for collection in &collections {
        out.push(Unwritten::Text(line::collection(collection).map_err(DumpError::Write)?))?;
        dumped.collections += 1;
        let mut reading = Reading { dir, connection: &connection, collection, wanted, steps };
        reading.write(out, &mut dumped)?;
    }
    Ok(dumped)
}

/// Leaves those that are wanted, in the order of tenant, database and name. Errs when a wanted one is not there.
fn chosen(collections: &mut Vec<Collection>, names: &[String]) -> Result<(), DumpError> {
    if let Some(name) = names.iter().find(|name| !collections.iter().any(|c| c.name == **name)) {
        let there: Vec<String> =
            collections.iter().take(NAMED_MAX).map(|collection| plain(&collection.name)).collect();
        let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
        return Err(DumpError::NoCollection { name: name.clone(), there });
    }
    collections.retain(|collection| names.is_empty() || names.contains(&collection.name));
    collections.sort_by(|a, b| a.place().cmp(&b.place()));
    Ok(())
}

/// One collection.
struct Reading<'a> {
    dir: &'a Path,
    connection: &'a Connection,
    collection: &'a Collection,
    wanted: &'a Wanted,
    steps: &'a Steps,
}

impl Reading<'_> {
    fn write(&mut self, out: &mut Onward, dumped: &mut Dumped) -> Result<(), DumpError> {
        let name = plain(&self.collection.name);
        let mut index = None;
        if self.wanted.embeddings {
            match Index::open(self.dir, self.collection) {
                Ok(opened) => index = opened,
                Err(error) => {
                    dumped.losses.push(format!("collection {name}: its index: {error}"));
                }
            }
        }
        // Without an index Chroma makes one of the whole queue.
        let vectors_from = index.as_ref().map_or(i64::MIN, |index| index.position);
        let positions = (self.collection.records_position, vectors_from);
        let mut tail = match Tail::read(self.connection, &self.collection.id, positions) {
            Ok(tail) => tail,
            Err(error) => {
                dumped.losses.push(format!("collection {name}: its queue: {error}"));
                Tail::default()
            }
        };
        let before = dumped.records;
        match self.all(index.as_ref(), &mut tail, out, dumped) {
            Ok(()) => Ok(()),
            Err(Stopped::Dump(error)) => Err(error),
            Err(Stopped::Table(error)) => {
                let (records, lines) = (self.collection.records, dumped.records - before);
                dumped.losses.push(format!(
                    "collection {name}: its records cannot be read to their end: {error}; it has {records}, and {lines} lines were written"
                ));
                Ok(())
            }
        }
    }

    /// The records of the table and those that only the queue has, in the order of their ids.
    /// Errs when SQLite does, `out` takes no more, or the steps were stopped.
    fn all(
        &self,
        index: Option<&Index>,
        tail: &mut Tail,
        out: &mut Onward,
        dumped: &mut Dumped,
    ) -> Result<(), Stopped> {
        let mut asker = catalogue::Asker::new(self.connection)?;
        let mut last = None;
        let damage = self.by_index(&mut |id, rowid| {
            self.row(id, rowid, tail, index, &mut asker, out, dumped)?;
            last = Some(id.to_vec());
            Ok(())
        })?;
        if let Some(error) = damage {
            // The index that gives the order is damaged. The table itself has the same, in another order.
            let scan =
                scan::ids(self.connection, &self.collection.records_segment, last.as_deref());
            if scan.ids.is_empty() && scan.gaps > 0 {
                return Err(Stopped::Table(error));
            }
            let name = plain(&self.collection.name);
            dumped.notes.push(format!(
                "collection {name}: an index of its table is damaged ({error}); its records were read from the table itself"
            ));
            if scan.gaps > 0 {
                dumped.losses.push(format!(
                    "collection {name}: {} parts of its table cannot be read, and nobody knows which records are in them",
                    scan.gaps
                ));
            }
            for (id, rowid) in &scan.ids {
                self.row(id, *rowid, tail, index, &mut asker, out, dumped)?;
            }
        }
        for (id, operations) in tail.rest() {
            self.record(&id, None, &operations, index, &mut asker, out, dumped)?;
        }
        if asker.went_without_index() {
            let name = plain(&self.collection.name);
            dumped.notes.push(format!(
                "collection {name}: an index of its metadata is damaged; the metadata was read from the table itself"
            ));
        }
        Ok(())
    }

    /// Visits the rows of the table in the order of their ids. Gives what keeps the index from being read to its end.
    /// Errs when `visit` does, or SQLite refuses the question.
    fn by_index(&self, visit: &mut Visit<'_>) -> Result<Option<rusqlite::Error>, Stopped> {
        let mut statement = self.connection.prepare(BY_INDEX)?;
        let mut rows = statement.query([&self.collection.records_segment])?;
        loop {
            match rows.next() {
                Ok(Some(row)) => {
                    let rowid = row.get_ref(0)?.as_i64().unwrap_or_default();
                    visit(row.get_ref(1)?.as_bytes().unwrap_or_default(), rowid)?;
                }
                Ok(None) => return Ok(None),
                Err(error) => return Ok(Some(error)),
            }
        }
    }

    /// A row of the table, and before it what only the queue has. Errs when `out` takes no more, or the steps were stopped.
    #[expect(clippy::too_many_arguments, reason = "all of it is one reading, and lives as long")]
    fn row(
        &self,
        id: &[u8],
        rowid: i64,
        tail: &mut Tail,
        index: Option<&Index>,
        asker: &mut catalogue::Asker<'_>,
        out: &mut Onward,
        dumped: &mut Dumped,
    ) -> Result<(), Stopped> {
        if self.steps.stopped() {
            return Err(Stopped::Dump(DumpError::Stopped));
        }
        for (only_queued, operations) in tail.before(id) {
            self.record(&only_queued, None, &operations, index, asker, out, dumped)?;
        }
        let operations = tail.take(id);
        self.record(id, Some(rowid), &operations, index, asker, out, dumped)
    }

    /// One id: what it is after its operations, if it still is, and if it is wanted. Errs when `out` takes no more.
    #[expect(clippy::too_many_arguments, reason = "all of it is one reading, and lives as long")]
    fn record(
        &self,
        id: &[u8],
        rowid: Option<i64>,
        operations: &[Operation],
        index: Option<&Index>,
        asker: &mut catalogue::Asker<'_>,
        out: &mut Onward,
        dumped: &mut Dumped,
    ) -> Result<(), Stopped> {
        self.steps.add(1);
        let Ok(id) = std::str::from_utf8(id) else {
            dumped.unreadable += 1;
            dumped.lose(self.collection, &String::from_utf8_lossy(id), &"its id is no text");
            return Ok(());
        };
        if self.wanted.ids.as_ref().is_some_and(|ids| !ids.contains(id)) {
            return Ok(());
        }
        drop(asker.take_infinite());
        let mut record = match rowid.map(|rowid| asker.record(rowid)).transpose() {
            Ok(record) => record,
            // A page that is damaged takes the records on it, and no others.
            Err(error) => {
                dumped.unreadable += 1;
                dumped.lose(self.collection, id, &error);
                return Ok(());
            }
        };
        let newer = operations.iter().filter(|op| op.seq_id > self.collection.records_position);
        for operation in newer {
            match tail::applied(record, operation.kind, || asker.queued(operation.seq_id)) {
                Ok(applied) => record = applied,
                Err(error) => {
                    dumped.unreadable += 1;
                    dumped.lose(self.collection, id, &format!("what the queue has of it: {error}"));
                    return Ok(());
                }
            }
        }
        let Some(record) = record else { return Ok(()) };
        if self.wanted.filter.as_ref().is_some_and(|filter| !filter.holds(&record.metadata)) {
            return Ok(());
        }
        for key in asker.take_infinite() {
            let why = format!(
                "metadata.{}: it is no finite number, and JSON has no such; the line is without it",
                plain(&key)
            );
            dumped.lose(self.collection, id, &why);
        }
        let vector = if self.wanted.embeddings {
            self.vector(id, operations, index, asker, dumped)
        } else {
            None
        };
        let whole = Whole { id: id.to_owned(), record, vector };
        out.push(Unwritten::Record(Box::new(whole))).map_err(Stopped::Dump)?;
        dumped.records += 1;
        Ok(())
    }

    /// The vector of a record: from the queue where it has a newer one, or else from the index.
    fn vector(
        &self,
        id: &str,
        operations: &[Operation],
        index: Option<&Index>,
        asker: &mut catalogue::Asker<'_>,
        dumped: &mut Dumped,
    ) -> Option<Vec<f32>> {
        let from = index.map_or(i64::MIN, |index| index.position);
        let place = index.and_then(|index| index.find(id));
        let vector = match tail::vector_of(place.is_some(), operations, from) {
            Where::Queue(seq_id) => asker.vector(seq_id).unwrap_or_else(|error| {
                dumped.lose(self.collection, id, &format!("its vector in the queue: {error}"));
                None
            }),
            Where::Index => match index.zip(place).map(|(index, place)| index.read(place)) {
                Some(Ok(vector)) => Some(vector),
                Some(Err(error)) => {
                    dumped.lose(self.collection, id, &format!("its vector: {error}"));
                    None
                }
                None => None,
            },
            Where::Nowhere => None,
        };
        let vector = vector.filter(|vector| {
            let finite = vector.iter().all(|number| number.is_finite());
            if !finite {
                let why = "its vector has a number that is not finite, and JSON has no such";
                dumped.lose(self.collection, id, &why);
            }
            finite
        });
        dumped.without_vector += u64::from(vector.is_none());
        vector
    }
}

/// A copy that a dump is made from. It goes away with this.
#[derive(Debug)]
pub struct Copied {
    dir: PathBuf,
    /// What was done, and what is wrong with the copy itself, a sentence each.
    pub notes: Vec<String>,
    _opened: Option<Opened>,
    _scratch: Option<Scratch>,
}

impl Copied {
    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// One moment of a store, beside any writer, in a directory below `place`. One that cannot be copied so, because it is
    /// damaged, is copied file by file when nobody holds it. Errs when no such copy can be made.
    pub fn of_store(context: &Context, place: &Path, steps: &Steps) -> Result<Self, CopyError> {
        let (scratch, _) = Scratch::new(place)
            .map_err(|source| CopyError::Scratch { place: place.to_owned(), source })?;
        let dir = scratch.path().join("store");
        fs::create_dir(&dir)
            .map_err(|source| CopyError::Scratch { place: place.to_owned(), source })?;
        let copy_options = moment::CopyOptions { used_ratio_max: moment::PASSING_RATIO_MAX, steps };
        match moment::take(context, &dir, None, copy_options) {
            Ok(taken) => {
                Ok(Self { dir, notes: taken.notes, _opened: None, _scratch: Some(scratch) })
            }
            Err(error @ MomentError::Database(_)) if !moment::is_held(context, Duration::ZERO) => {
                let options = unpack::Options {
                    scratch: Some(place.to_owned()),
                    copy: true,
                    ..unpack::Options::default()
                };
                let mut copied = Self::of_backup(&context.store.seen_path, &options, steps)?;
                copied.notes.push(format!("it was copied as it lies: {}", chain(&error)));
                Ok(copied)
            }
            Err(error) => Err(CopyError::Moment(error)),
        }
    }

    /// What `verify` would look at. Errs when the backup cannot be opened.
    pub fn of_backup(
        backup: &Path,
        options: &unpack::Options,
        steps: &Steps,
    ) -> Result<Self, CopyError> {
        let opened = unpack::open(backup, options, steps).map_err(CopyError::Backup)?;
        let notes = opened.damage.iter().chain(&opened.notes).cloned().collect();
        Ok(Self { dir: opened.dir.clone(), notes, _opened: Some(opened), _scratch: None })
    }
}

/// Why there is nothing to dump from.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// There is no place for the copy.
    #[error("cannot make a directory for a copy in {}", .place.display())]
    Scratch {
        /// Where it was to be.
        place: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
    /// The store cannot be copied.
    #[error("cannot copy the store")]
    Moment(#[source] MomentError),
    /// The backup cannot be opened.
    #[error("cannot open it")]
    Backup(#[source] UnpackError),
}

/// Takes an id and the number of its row.
type Visit<'a> = dyn FnMut(&[u8], i64) -> Result<(), Stopped> + 'a;

/// Why no further record of a collection was read.
enum Stopped {
    Table(rusqlite::Error),
    Dump(DumpError),
}

impl From<rusqlite::Error> for Stopped {
    fn from(error: rusqlite::Error) -> Self {
        Self::Table(error)
    }
}

/// Metadata of a record or of a collection.
pub(crate) type Metadata = std::collections::BTreeMap<String, Value>;

const BY_INDEX: &str =
    "SELECT id, embedding_id FROM embeddings WHERE segment_id = ?1 ORDER BY embedding_id";
/// Collections that are named to somebody who asked for another one.
const NAMED_MAX: usize = 20;
/// What is told one by one; all of it is counted.
const LOSSES_MAX: usize = 1_000;

#[cfg(test)]
mod tests;
