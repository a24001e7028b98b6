//! Whether an index holds the vectors of the queue's rows that it has taken in: `data_level0.bin` and `length.bin` of another index fit as
//! well as its own in every other way, because labels are numbers that begin with 1 in each. From 0.5.7 on Chroma keeps the newest row of
//! each collection in the queue; before that, and where nothing is purged, it keeps all.
//!
//! Rows are taken from the newest on, a bounded number. One counts when it certainly made the vector that the index has of its id, and
//! nothing behind the position of the index speaks of that id: the files may be ahead of the position while Chroma flushes.

use std::collections::{BTreeMap, HashMap, HashSet};

use rusqlite::{Connection, OptionalExtension};

use super::{
    catalogue::{Distance, Row},
    directory::{Folder, Part},
    records::{Asker, Held},
    walk::{self, ReadMode, Refused},
};
use crate::{
    format::{
        hnsw::{Header, Metric, Pair, holds, holds_length},
        pickle,
        queue::{Kind, Known, Operation, known},
        uuid::{Uuid, uuid_text},
    },
    host::links::Place,
    store::{
        database::{QueryError, read_up_to},
        position,
    },
};

/// Why nothing is known.
#[derive(Debug)]
pub(super) enum Unknown {
    Query(QueryError),
    Index(Refused),
}

impl From<QueryError> for Unknown {
    fn from(error: QueryError) -> Self {
        Self::Query(error)
    }
}

impl From<Refused> for Unknown {
    fn from(refused: Refused) -> Self {
        Self::Index(refused)
    }
}

/// One index.
#[derive(Debug, Clone, Copy)]
pub(super) struct Index<'a> {
    pub(super) root: &'a Place,
    pub(super) folder: &'a Folder,
    pub(super) segment: Uuid,
    pub(super) row: &'a Row,
    /// How far the queue is in it.
    pub(super) position: i64,
    pub(super) mode: ReadMode<'a>,
}

/// What the queue says of the vector of an id.
#[derive(Debug)]
struct Witness {
    id: String,
    label: u64,
    vector: Vec<f32>,
}

impl Index<'_> {
    /// Compares rows of the queue with the files, in which ids have the labels of `pairs`.
    /// Errs when SQLite does, or the files cannot be read or change meanwhile.
    pub(super) fn compare(self, asker: &mut Asker<'_>, pairs: &[Pair]) -> Result<Held, Unknown> {
        let mut held = Held::default();
        let (Some(header), Some(records)) = (self.folder.sound_header(), &self.row.records_segment)
        else {
            return Ok(held);
        };
        let newest = self.newest(asker)?;
        let hashes: HashSet<u64> = newest.keys().map(|id| pickle::hash(id.as_bytes())).collect();
        let mut labels: HashMap<u64, u64> = HashMap::new();
        let wanted = pairs.iter().filter(|pair| hashes.contains(&pair.id));
        labels.extend(wanted.map(|pair| (pair.id, pair.label)));
        if labels.is_empty() {
            return Ok(held);
        }
        let Some(files) = Files::open(self, header)? else { return Ok(held) };
        let newest: Vec<_> = newest.into_iter().collect();
        let bytes = 4 * header.dimension;
        let at_once = usize::try_from(VECTOR_BYTES / bytes.max(1)).unwrap_or(1);
        for slice in newest.chunks(at_once.clamp(1, RECORDS)) {
            self.go_on()?;
            let witnesses = asker
                .ask(|connection| self.witnesses(connection, records, slice, &labels, bytes))?;
            for witness in witnesses {
                self.note(&files, witness, &mut held)?;
            }
        }
        if !held.vectors.is_empty() || !held.lengths.is_empty() {
            self.without_newer(asker, &mut held)?;
        }
        Ok(held)
    }

    /// Compares what the queue says with the files. Errs when they cannot be read.
    fn note(self, files: &Files<'_>, witness: Witness, held: &mut Held) -> Result<(), Refused> {
        let Some(place) = files.place(witness.label)? else { return Ok(()) };
        match has(&files.vector(place)?, &witness.vector) {
            None => return Ok(()),
            Some(false) => held.vectors.push(witness.id),
            Some(true) if self.row.distance == Distance::Cosine => {
                if holds_length(files.length(place)?, &witness.vector) == Some(false) {
                    held.lengths.push(witness.id);
                }
            }
            Some(true) => {}
        }
        held.compared += 1;
        Ok(())
    }

    fn go_on(self) -> Result<(), Refused> {
        if self.mode.is_over() { Err(Refused::Stopped) } else { Ok(()) }
    }

    /// Whether the tables say another position by now. Before 0.5 the metadata say it, whose stamp is compared. Errs when SQLite does.
    fn has_moved(self, connection: &Connection) -> rusqlite::Result<bool> {
        let sql = "SELECT seq_id FROM max_seq_id WHERE segment_id = ?1";
        let mut statement = connection.prepare(sql)?;
        let mut rows = statement.query([uuid_text(self.segment)])?;
        let reported = match rows.next()? {
            Some(row) => position(row.get_ref(0)?),
            None => None,
        };
        Ok(reported != self.row.position)
    }

    /// The newest rows of the collection that the index has taken in, by their ids and in their order. None when the position is not
    /// that of such a row: then it is not known what the index has taken in. Errs when SQLite does, or the position is another by now.
    fn newest(self, asker: &mut Asker<'_>) -> Result<BTreeMap<String, Vec<Operation>>, Unknown> {
        let mut found: BTreeMap<String, Vec<Operation>> = BTreeMap::new();
        let collection = self.row.collection.as_bytes();
        let (mut from, mut scanned, mut taken) = (self.position, 0, 0);
        while scanned < SCANNED_MAX && taken < ROWS_MAX {
            self.go_on()?;
            let (moved, slice) = asker.ask(|connection| {
                Ok((self.has_moved(connection)?, applied_slice(connection, from, collection)?))
            })?;
            if moved {
                return Err(Refused::Changed.into());
            }
            for (id, operation) in slice.rows.into_iter().take(ROWS_MAX - taken) {
                if found.is_empty() && operation.seq_id != self.position {
                    return Ok(found);
                }
                taken += 1;
                found.entry(id).or_default().push(operation);
            }
            scanned += slice.scanned;
            match slice.last {
                Some(last) if last > i64::MIN => from = last - 1,
                _ => break,
            }
        }
        for operations in found.values_mut() {
            operations.reverse();
        }
        Ok(found)
    }

    /// The vectors of those rows that made what the index has. Errs when SQLite does.
    fn witnesses(
        self,
        connection: &Connection,
        records: &str,
        newest: &[(String, Vec<Operation>)],
        labels: &HashMap<u64, u64>,
        bytes: u64,
    ) -> rusqlite::Result<Vec<Witness>> {
        let sql = "SELECT seq_id FROM embeddings WHERE segment_id = ?1 AND embedding_id = ?2";
        let mut statement = connection.prepare(sql)?;
        let mut out = Vec::new();
        for (id, operations) in newest {
            let Some(label) = labels.get(&pickle::hash(id.as_bytes())) else { continue };
            let record = statement
                .query_row((records, id), |row| Ok(position(row.get_ref(0)?)))
                .optional()?;
            // They are the newest of more, whatever the release keeps.
            let known = known(operations, self.position, false, record.flatten());
            let Known::Row(seq_id) = known else { continue };
            if let Some(vector) = vector(connection, seq_id, bytes)? {
                out.push(Witness { id: id.clone(), label: *label, vector });
            }
        }
        Ok(out)
    }

    /// Takes out those of which the queue says something newer: the files may have it already. Errs when SQLite does.
    fn without_newer(self, asker: &mut Asker<'_>, held: &mut Held) -> Result<(), Unknown> {
        let mut from = self.position;
        loop {
            self.go_on()?;
            let (moved, slice) = asker.ask(|connection| {
                Ok((self.has_moved(connection)?, newer_slice(connection, from)?))
            })?;
            // Rows may be gone that the files have.
            if moved {
                return Err(Refused::Changed.into());
            }
            for (_, id) in &slice {
                let is_it = |name: &String| name.as_bytes() == &**id;
                held.vectors.retain(|name| !is_it(name));
                held.lengths.retain(|name| !is_it(name));
            }
            match slice.last() {
                Some((last, _)) if slice.len() == usize::from(SLICE) => from = *last,
                _ => return Ok(()),
            }
        }
    }
}

/// Whether an index holds this vector. Whichever distance the catalogue is read to have: another one is no other vector.
fn has(stored: &[f32], wanted: &[f32]) -> Option<bool> {
    Some(holds(Metric::L2, stored, wanted)? || holds(Metric::Cosine, stored, wanted)?)
}

/// The files of an index that hold its vectors.
struct Files<'a> {
    index: Index<'a>,
    header: Header,
    elements: std::fs::File,
    lengths: std::fs::File,
}

impl<'a> Files<'a> {
    /// `None` when they are no files with so many elements, which is told elsewhere. Errs when they cannot be opened, or changed.
    fn open(index: Index<'a>, header: Header) -> Result<Option<Self>, Refused> {
        let open = |part, least| {
            let file = index.folder.file(part);
            let whole = file.filter(|file| file.regular && file.size_bytes >= least);
            whole.map(|file| walk::open(index.root, index.folder, part, file)).transpose()
        };
        let Some(elements) = open(Part::Level0, header.level0_bytes())? else { return Ok(None) };
        let lengths = open(Part::Lengths, header.lengths_bytes())?;
        Ok(lengths.map(|lengths| Self { index, header, elements, lengths }))
    }

    /// The place of the element with this label. Labels are given out in the order of the places, but for some that several threads
    /// added at once: it is looked for where it should be, and around that. Errs when it cannot be read.
    fn place(&self, label: u64) -> Result<Option<u64>, Refused> {
        let should = label.saturating_sub(1);
        for distance in 0..AROUND {
            let around = [should.checked_add(distance), should.checked_sub(distance)];
            for place in around.into_iter().flatten().filter(|place| *place < self.header.elements)
            {
                let at = (place + 1) * self.header.element_bytes - 8;
                let bytes = read(&self.elements, Part::Level0, at, 8)?;
                if bytes.first_chunk().is_some_and(|bytes| u64::from_le_bytes(*bytes) == label) {
                    return Ok(Some(place));
                }
            }
            self.index.go_on()?;
        }
        Ok(None)
    }

    fn vector(&self, place: u64) -> Result<Vec<f32>, Refused> {
        let at = place * self.header.element_bytes + 4 + 8 * self.header.neighbours;
        let bytes = read(&self.elements, Part::Level0, at, 4 * self.header.dimension)?;
        Ok(bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    fn length(&self, place: u64) -> Result<f32, Refused> {
        let bytes = read(&self.lengths, Part::Lengths, 4 * place, 4)?;
        Ok(bytes.first_chunk().map_or(f32::NAN, |bytes| f32::from_le_bytes(*bytes)))
    }
}

/// Errs when they are not there, or the operating system refuses.
fn read(file: &std::fs::File, part: Part, at: u64, length: u64) -> Result<Vec<u8>, Refused> {
    let length = usize::try_from(length).map_err(|_| Refused::Changed)?;
    let mut bytes = vec![0; length];
    let read = read_up_to(file, &mut bytes, at).map_err(|error| Refused::Io(part, error))?;
    if read == length { Ok(bytes) } else { Err(Refused::Changed) }
}

struct Slice {
    rows: Vec<(String, Operation)>,
    scanned: usize,
    /// The oldest row that was looked at, when there may be more.
    last: Option<i64>,
}

/// The rows of a collection up to `from`, the newest first. Errs when SQLite does.
fn applied_slice(connection: &Connection, from: i64, collection: &[u8]) -> rusqlite::Result<Slice> {
    let mut statement = connection.prepare(
        "SELECT seq_id, topic, operation, id, vector IS NOT NULL FROM embeddings_queue \
         WHERE seq_id <= ?1 ORDER BY seq_id DESC LIMIT ?2",
    )?;
    let mut rows = statement.query((from, SLICE))?;
    let mut out = Slice { rows: Vec::new(), scanned: 0, last: None };
    while let Some(row) = rows.next()? {
        out.scanned += 1;
        let seq_id = row.get(0)?;
        out.last = Some(seq_id);
        let topic = row.get_ref(1)?.as_bytes().unwrap_or_default();
        if topic.rsplit(|byte| *byte == b'/').next() != Some(collection) {
            continue;
        }
        let kind = row.get_ref(2)?.as_i64().ok().and_then(Kind::of);
        let id = row.get_ref(3)?.as_str().ok().filter(|id| id.len() <= ID_BYTES_MAX);
        if let Some((kind, id)) = kind.zip(id) {
            let operation = Operation { seq_id, kind, vector: row.get(4)? };
            out.rows.push((id.to_owned(), operation));
        }
    }
    if out.scanned < usize::from(SLICE) {
        out.last = None;
    }
    Ok(out)
}

/// Rows behind `from`, with their ids. Errs when SQLite does.
fn newer_slice(connection: &Connection, from: i64) -> rusqlite::Result<Vec<(i64, Vec<u8>)>> {
    let sql = "SELECT seq_id, id FROM embeddings_queue WHERE seq_id > ?1 ORDER BY seq_id LIMIT ?2";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query((from, SLICE))?;
    let mut out = Vec::new();
    while let Some(row) = rows.next()? {
        out.push((row.get(0)?, row.get_ref(1)?.as_bytes().unwrap_or_default().to_vec()));
    }
    Ok(out)
}

/// The vector of a row, when it is of 32-bit numbers and so many bytes. Errs when SQLite does.
fn vector(connection: &Connection, seq_id: i64, bytes: u64) -> rusqlite::Result<Option<Vec<f32>>> {
    let sql = "SELECT vector FROM embeddings_queue \
               WHERE seq_id = ?1 AND encoding = 'FLOAT32' AND length(vector) = ?2";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query((seq_id, bytes.cast_signed()))?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let Ok(blob) = row.get_ref(0)?.as_blob() else { return Ok(None) };
    Ok(Some(blob.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()))
}

/// Rows that are taken, and that are looked at for them.
const ROWS_MAX: usize = 256;
const SCANNED_MAX: usize = 10_000;
/// Rows of one question: some milliseconds.
const SLICE: u16 = 1000;
/// Records of one question, and bytes of their vectors.
const RECORDS: usize = 64;
const VECTOR_BYTES: u64 = 1 << 20;
/// A longer id is not looked at.
const ID_BYTES_MAX: usize = 4096;
/// So far from where it should be a label is looked for.
const AROUND: u64 = 1024;

#[cfg(test)]
mod tests;
