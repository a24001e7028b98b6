//! Folders of indexes: one that is damaged, incomplete or another collection's is replaced by a fresh one, written from the vectors that
//! the old folder and the queue still hold. The database is not changed: a fresh folder holds what the old one held at the position that
//! the tables or the folder state, under the same labels, and Chroma applies the end of the queue to it as it always does.
//!
//! A vector counts only where it is certain whose it is. A record whose vector is nowhere any more is named. Where two processes wrote to
//! one index, `writers` says which vectors are certain.

mod elements;
mod folder;
mod foreign;
pub(super) mod gifts;
mod ids;
pub(super) mod lacking;
mod made;
mod reading;
mod settings;
pub(super) mod subject;
mod threads;
mod writers;

use std::{
    collections::{BTreeSet, HashSet},
    fs, io,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags};

use self::{
    elements::Elements,
    foreign::Foreign,
    gifts::{Gift, Give},
    ids::Ids,
    made::Made,
    reading::{Agreement, Reading},
    settings::Settings,
    subject::{Subject, exchanged, subjects},
    threads::Threads,
};
use super::{Effect, Failure, Part, rows};
use crate::{
    format::{
        hnsw::{BuildError, Builder, Options},
        lfs::{HEAD_LEN, Pointer},
        parts::INDEX_FILES,
        pickle::{self, Entry, Family as Written, NewMetadata},
        queue::Known,
        schema::Family,
        uuid::{Uuid, parse_uuid},
    },
    repair::{
        dump::{
            Pieces,
            catalogue::{self, Asker, Collection},
            tail::{self, Where},
        },
        steps::Steps,
    },
    store::{
        DATABASE_FILE,
        database::{open_if_there, read_up_to},
        position,
    },
};

/// Writes the folders of these segments anew in the copy `dir`; in those of `mixed`, two processes have left elements. What a folder
/// lacks is taken from `gifts`. Errs without a change to any folder.
pub(super) fn rebuild(
    dir: &Path,
    segments: &BTreeSet<Uuid>,
    mixed: &BTreeSet<Uuid>,
    gifts: Option<&dyn Give>,
    steps: &Steps,
) -> Result<Effect, Failure> {
    let connection = opened(dir)?;
    let family = rows::family(&connection)?;
    if family == Family::Unknown {
        return Err(Failure::Damaged(
            "This Chroma is newer than this program, which does not know what an index of it is like. Upgrade chroma_exporter.".to_owned(),
        ));
    }
    let collections = catalogue::read(&connection)?;
    let folders = folders(dir)?;
    let store = Store {
        dir,
        connection: &connection,
        family,
        collections: &collections,
        segments,
        folders,
        mixed,
        gifts,
        steps,
    };
    let of = |collection: &Collection| parse_uuid(collection.vectors_segment.as_ref()?.as_bytes());
    let all: Vec<Uuid> = collections.iter().filter_map(of).collect();
    let mut effect = Effect::default();
    let (mut made, mut words) = (Vec::new(), Vec::new());
    for collection in &collections {
        let Some(segment) = of(collection).filter(|segment| segments.contains(segment)) else {
            continue;
        };
        let name = collection.vectors_segment.as_deref().unwrap_or_default();
        let fresh = dir.join(format!("{name}{FRESH}"));
        let one = store.write(collection, segment, &all, &fresh)?;
        words.push(one.words(collection));
        let words = [
            one.norms_lost(collection),
            one.perhaps_older(collection),
            one.perhaps_there(collection),
        ];
        for words in words.into_iter().flatten() {
            effect.lose(INDEX, words);
        }
        effect.lost_records.extend(one.lost);
        made.push((segment, dir.join(name), fresh));
    }
    // Not before all are read: one may hold what belongs to another.
    for (segment, folder, fresh) in made {
        for old in store.folders.iter().filter(|(of, _)| *of == segment) {
            fs::remove_dir_all(&old.1)?;
        }
        // Without a vector there is none: Chroma makes it with the first one.
        if fresh.is_dir() {
            fs::rename(fresh, folder)?;
        }
    }
    effect.what = words.join("; ");
    Ok(effect)
}

/// Opens the database of a copy to read. Errs when SQLite does.
pub(super) fn opened(dir: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(dir.join(DATABASE_FILE), flags)
}

/// Hashes of the ids of which the folder of a collection has a vector, and how far it is in the queue where it says so itself.
/// Errs when the folder cannot be read.
pub(super) fn ids_of(
    dir: &Path,
    collection: &Collection,
) -> Result<(HashSet<u64>, Option<i64>), Failure> {
    let Some(folder) = folder_of(dir, collection)? else {
        return Ok((HashSet::new(), None));
    };
    let ids = read_ids(&folder, collection)?;
    Ok((ids.labels.into_keys().collect(), ids.position))
}

/// Hashes of the ids of which this folder has a vector; it may be that of the collection. Errs when the folder cannot be read.
pub(super) fn ids_in(folder: &Path, collection: &Collection) -> Result<HashSet<u64>, Failure> {
    Ok(read_ids(folder, collection)?.labels.into_keys().collect())
}

/// Numbers per vector as the header of the folder of a collection states them; `None` when it holds none.
/// Errs when the folder cannot be read.
pub(super) fn stated_dimension(
    dir: &Path,
    collection: &Collection,
) -> Result<Option<u64>, Failure> {
    let folder = folder_of(dir, collection)?;
    let stated = folder.as_deref().map(elements::stated_dimension).transpose()?.flatten();
    Ok(stated.map(|dimension| dimension as u64))
}

/// The folder of a collection, when it is there. Errs when the directory cannot be read.
pub(super) fn folder_of(dir: &Path, collection: &Collection) -> Result<Option<PathBuf>, Failure> {
    let segment = collection.vectors_segment.as_ref().and_then(|id| parse_uuid(id.as_bytes()));
    let mut folders = folders(dir)?;
    folders.retain(|(of, _)| Some(*of) == segment);
    Ok(folders.pop().map(|(_, path)| path))
}

/// The folders with names that Chroma gives. The same name in other letters is another folder. Errs when the directory cannot be read.
pub(super) fn folders(dir: &Path) -> io::Result<Vec<(Uuid, PathBuf)>> {
    let mut out = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if let Some(uuid) = name.to_str().and_then(|name| parse_uuid(name.as_bytes()))
            && entry.file_type()?.is_dir()
        {
            out.push((uuid, entry.path()));
        }
    }
    out.sort_unstable();
    Ok(out)
}

/// What all collections share.
struct Store<'a> {
    dir: &'a Path,
    connection: &'a Connection,
    family: Family,
    collections: &'a [Collection],
    /// Those whose folders are written anew.
    segments: &'a BTreeSet<Uuid>,
    folders: Vec<(Uuid, PathBuf)>,
    mixed: &'a BTreeSet<Uuid>,
    /// Vectors of a backup.
    gifts: Option<&'a dyn Give>,
    steps: &'a Steps,
}

/// Where the vectors of one collection are.
#[derive(Default)]
struct Source {
    ids: Ids,
    elements: Option<Elements>,
    /// Where two processes wrote to it: hashes of ids whose vector may be older than the record.
    older: Option<HashSet<u64>>,
    /// Where the queue contradicts its files.
    foreign: Option<Foreign>,
}

/// A vector that is written.
struct Vector<'a> {
    id: &'a str,
    label: u64,
    seq_id: u64,
    from: From,
}

enum From {
    /// The place of an element.
    Folder(u64),
    /// A row of the queue.
    Queue(Vec<f32>),
    /// Where a backup has it.
    Backup(Gift),
}

impl Store<'_> {
    /// Writes the index of a collection to `fresh`. Errs when SQLite or the disk does, or nothing says how many numbers a vector has.
    fn write(
        &self,
        collection: &Collection,
        segment: Uuid,
        all: &[Uuid],
        fresh: &Path,
    ) -> Result<Made, Failure> {
        let settings = Settings::of(collection);
        let mut asker = Asker::new(self.connection)?;
        let subjects = subjects(self.connection, collection)?;
        let folder = self.folder(segment);
        let dimension = dimension(collection, &subjects, folder, &mut asker)?;
        let reading = Reading { store: self, collection, settings, dimension, subjects: &subjects };
        let source = self.source(&reading, segment, all, &mut asker)?;
        let position = applied(self.family, collection, &source.ids);
        let mut vectors = self.vectors(&reading, &source, position, &mut asker)?;
        vectors.sort_unstable_by_key(|vector| match vector.from {
            From::Folder(place) => (place, vector.label),
            From::Queue(_) | From::Backup(_) => (u64::MAX, vector.label),
        });
        let (mixed, foreign) = (source.older.is_some(), source.foreign.clone());
        let mut made = Made { mixed, foreign, ..Made::default() };
        let norms = if vectors.is_empty() {
            HashSet::new()
        } else {
            self.build(&reading, &source, position, &vectors, fresh)?
        };
        made.vectors = vectors.len();
        made.given = vectors.iter().filter(|one| matches!(one.from, From::Backup(_))).count();
        made.queued = vectors.iter().filter(|one| matches!(one.from, From::Queue(_))).count();
        let there: HashSet<&[u8]> = vectors.iter().map(|vector| vector.id.as_bytes()).collect();
        let from_folder = vectors.iter().filter(|one| matches!(one.from, From::Folder(_)));
        let mut older: HashSet<u64> =
            from_folder.map(|one| pickle::hash(one.id.as_bytes())).collect();
        older.retain(|hash| source.older.as_ref().is_some_and(|older| older.contains(hash)));
        for subject in &subjects {
            let from = position.unwrap_or(i64::MIN);
            let in_index = there.contains(&*subject.id);
            let part = match tail::vector_of(in_index, &subject.operations, from) {
                Where::Nowhere => Part::Vector,
                Where::Index if older.contains(&subject.hash) => Part::NewestVector,
                Where::Index if norms.contains(&subject.hash) => Part::Length,
                Where::Index | Where::Queue(_) => continue,
            };
            if subject.is_there(collection.records_position) {
                made.lost.push(subject.lost(collection, part, &mut asker)?);
            }
        }
        Ok(made)
    }

    /// The folder of a segment: the one with its very name, or else one with the name in other letters.
    fn folder(&self, segment: Uuid) -> Option<&Path> {
        let mut of = self.folders.iter().filter(|(uuid, _)| *uuid == segment);
        // In the order of their names: capitals come first.
        of.next_back().map(|(_, path)| path.as_path())
    }

    /// The rows of the queue that wrote the records of all collections last. Errs when SQLite does.
    fn seq_ids(&self) -> Result<HashSet<i64>, Failure> {
        let mut statement = self.connection.prepare("SELECT seq_id FROM embeddings")?;
        let mut found = statement.query([])?;
        let mut out = HashSet::new();
        while let Some(row) = found.next()? {
            out.extend(position(row.get_ref(0)?));
        }
        Ok(out)
    }

    /// Where the vectors are: in the folder of the segment, or in that of another segment when the two were exchanged.
    /// Errs when SQLite or the disk does.
    fn source(
        &self,
        reading: &Reading<'_>,
        segment: Uuid,
        all: &[Uuid],
        asker: &mut Asker<'_>,
    ) -> Result<Source, Failure> {
        let Some(own) = self.folder(segment) else { return Ok(Source::default()) };
        let ids = read_ids(own, reading.collection)?;
        let hashes: HashSet<u64> = reading.subjects.iter().map(|subject| subject.hash).collect();
        let known = |ids: &Ids| ids.labels.keys().filter(|id| hashes.contains(id)).count();
        if ids.labels.is_empty() || known(&ids) > 0 {
            let elements = reading.elements(own, &ids, self.steps)?;
            let twice = elements.as_ref().is_some_and(Elements::is_mixed);
            if self.mixed.contains(&segment) || twice {
                return reading.of_last(ids, elements);
            }
            let (elements, foreign) = reading.believed((segment, own), &ids, elements, asker)?;
            return Ok(Source { ids, elements, foreign, older: None });
        }
        // All its ids are those of another collection.
        let mut best: Option<(usize, &Path, Ids)> = None;
        for (_, other) in self.folders.iter().filter(|(of, _)| *of != segment && all.contains(of)) {
            let ids = read_ids(other, reading.collection)?;
            let count = known(&ids);
            if count > best.as_ref().map_or(0, |(most, ..)| *most) {
                best = Some((count, other, ids));
            }
        }
        let Some((_, other, ids)) = best else { return Ok(Source::default()) };
        let mut fitting = Vec::new();
        for folder in [other, own] {
            let Some(elements) = reading.elements(folder, &ids, self.steps)? else { continue };
            let Agreement { same, other, .. } = reading.compare(&ids, &elements, asker)?;
            // Nearly every id has its element there.
            if other == 0 && elements.len() * 10 >= ids.labels.len() * 9 {
                fitting.push((same, elements));
            }
        }
        fitting.sort_by_key(|(same, _)| *same);
        let elements = match (fitting.pop(), fitting.pop()) {
            (Some((_, one)), None) => Some(one),
            // Only what the queue has of both tells them apart.
            (Some((same, one)), Some((0, _))) if same > 0 => Some(one),
            _ => None,
        };
        Ok(Source { ids, elements, ..Source::default() })
    }

    /// What the fresh folder holds: every vector of which it is certain whose it is.
    /// Errs when SQLite or the disk does, and when the backup is of another history.
    fn vectors<'s>(
        &self,
        reading: &Reading<'s>,
        source: &Source,
        position: Option<i64>,
        asker: &mut Asker<'_>,
    ) -> Result<Vec<Vector<'s>>, Failure> {
        let exchanged = exchanged(reading.subjects, &source.ids);
        let mut out = Vec::new();
        let mut next = source.ids.total();
        for subject in reading.subjects {
            let Ok(id) = std::str::from_utf8(&subject.id) else { continue };
            let certain = |hash: &u64| !exchanged.contains(hash);
            let label = source.ids.labels.get(&subject.hash).copied();
            let place = label
                .filter(|_| certain(&subject.hash))
                .and_then(|label| source.elements.as_ref()?.place(label));
            let row = match subject.known(position, self.family) {
                Known::Absent => continue,
                Known::Row(row) => asker.vector(row)?.filter(|vector| reading.fits(vector)),
                Known::Unknown => None,
            };
            // Without a position Chroma makes the index anew from the whole queue. What is behind it there Chroma applies itself.
            let gift = || {
                let (gifts, position) = self.gifts.zip(position)?;
                match tail::vector_of(false, &subject.operations, position) {
                    Where::Queue(_) => None,
                    _ => gifts.of(&reading.collection.id, subject.hash),
                }
            };
            let from = match (row, place) {
                (Some(vector), _) => From::Queue(vector),
                (None, place) => match (gift(), place) {
                    (Some((gift, better)), place) if better || place.is_none() => {
                        if !reading.fits(&self.given(reading, gift)?.0) {
                            continue;
                        }
                        From::Backup(gift)
                    }
                    (gift, Some(place)) => {
                        if let (Some((gift, _)), Some(elements)) = (gift, &source.elements)
                            && subject.is_applied(position)
                        {
                            let wanted = self.given(reading, gift)?.0;
                            reading.is_of_one_history(elements, place, &wanted, id)?;
                        }
                        From::Folder(place)
                    }
                    (_, None) => continue,
                },
            };
            let label = label.unwrap_or_else(|| {
                next += 1;
                next
            });
            out.push(Vector { id, label, seq_id: subject.seq_id(position), from });
        }
        Ok(out)
    }

    /// The vector that a backup has, as an index holds it, and its length; `None` where it has to be normalised first.
    /// Errs when there is none, or the backup cannot be read.
    fn given(&self, reading: &Reading<'_>, gift: Gift) -> Result<(Vec<f32>, Option<f32>), Failure> {
        let nothing = || io::Error::from(io::ErrorKind::NotFound);
        self.gifts.ok_or_else(nothing)?.read(&reading.collection.id, gift)
    }

    /// Builds the graph and writes the folder. Gives the hashes of the ids whose vectors have lost their length.
    /// Errs when there is no memory for the graph, the disk errs, or the work was stopped.
    fn build(
        &self,
        reading: &Reading<'_>,
        source: &Source,
        position: Option<i64>,
        vectors: &[Vector<'_>],
        fresh: &Path,
    ) -> Result<HashSet<u64>, Failure> {
        let Settings { metric, neighbours, ef_construction, .. } = reading.settings;
        let dimension = reading.dimension;
        let options = Options { dimension, metric, neighbours, ef_construction, seed: SEED };
        let name = &reading.collection.name;
        let refused = |error: BuildError| {
            Failure::Damaged(format!("The index of collection {name} cannot be written: {error}."))
        };
        let bytes = 4 * dimension as u64;
        self.steps.begin("writing an index anew", Some(bytes * vectors.len() as u64));
        let mut builder = Builder::with(options, vectors.len(), Threads::new()).map_err(refused)?;
        let mut without_norm = HashSet::new();
        for vector in vectors {
            if self.steps.stopped() {
                return Err(io::Error::from(io::ErrorKind::Interrupted).into());
            }
            match (&vector.from, &source.elements) {
                (From::Queue(numbers), _) => {
                    builder.push(vector.label, numbers).map_err(refused)?;
                }
                (From::Folder(place), Some(elements)) => {
                    let stored = elements.read(*place)?;
                    if stored.norm.is_none() {
                        without_norm.insert(pickle::hash(vector.id.as_bytes()));
                    }
                    let norm = stored.norm.unwrap_or(1.0);
                    builder.push_stored(vector.label, &stored.numbers, norm).map_err(refused)?;
                }
                (From::Backup(gift), _) => match self.given(reading, *gift)? {
                    (numbers, Some(norm)) => {
                        builder.push_stored(vector.label, &numbers, norm).map_err(refused)?;
                    }
                    (numbers, None) => builder.push(vector.label, &numbers).map_err(refused)?,
                },
                (From::Folder(_), None) => {}
            }
            self.steps.add(bytes);
        }
        let mut entries: Vec<Entry<'_>> = vectors
            .iter()
            .map(|one| Entry { id: one.id, label: one.label, seq_id: one.seq_id })
            .collect();
        entries.sort_unstable_by_key(|entry| entry.label);
        let last = entries.last().map_or(0, |entry| entry.label);
        let metadata = NewMetadata {
            family: if self.family == Family::Rust {
                Written::Plain
            } else {
                Written::PersistentData
            },
            dimensionality: dimension as u64,
            total_elements_added: source.ids.total().max(last),
            // Chroma from 0.5.7 on has it in the tables.
            max_seq_id: position
                .filter(|_| self.family == Family::Oldest)
                .and_then(|at| u64::try_from(at).ok()),
        };
        debug_assert!(fresh.starts_with(self.dir), "it is written into the copy");
        folder::write(fresh, &builder.finish(), &metadata, &entries)?;
        Ok(without_norm)
    }
}

/// Numbers per vector: of the newest vector in the queue, or as the catalogue or the header of the folder state.
/// Errs when nothing says it, and when SQLite or the disk does.
fn dimension(
    collection: &Collection,
    subjects: &[Subject],
    folder: Option<&Path>,
    asker: &mut Asker<'_>,
) -> Result<usize, Failure> {
    let operations = subjects.iter().flat_map(|subject| &subject.operations);
    let newest = operations.filter(|one| one.vector).map(|one| one.seq_id).max();
    if let Some(vector) = newest.map(|row| asker.vector(row)).transpose()?.flatten()
        && !vector.is_empty()
    {
        return Ok(vector.len());
    }
    let stated = collection.dimension.and_then(|dimension| usize::try_from(dimension).ok());
    if let Some(dimension) = stated.filter(|dimension| *dimension > 0) {
        return Ok(dimension);
    }
    let header = folder.map(elements::stated_dimension).transpose()?.flatten();
    header.ok_or_else(|| {
        Failure::Damaged(format!(
            "Nothing says how many numbers the vectors of collection {} have. Restore a backup.",
            collection.name
        ))
    })
}

/// How far the queue is in an index. Before 0.5.7 its own metadata say it, and an index that has lost them begins with the queue.
fn applied(family: Family, collection: &Collection, ids: &Ids) -> Option<i64> {
    let first = (family == Family::Oldest).then_some(0);
    collection.vectors_position.or(ids.position).or(first)
}

fn read_ids(folder: &Path, collection: &Collection) -> Result<Ids, Failure> {
    let name = &collection.name;
    for file in INDEX_FILES {
        let Some(file) = open_if_there(&folder.join(file))? else { continue };
        let mut head = [0; HEAD_LEN];
        let filled = read_up_to(&file, &mut head, 0)?;
        if Pointer::parse(&head[..filled]).is_some() {
            return Err(Failure::Damaged(format!(
                "The folder of collection {name} holds Git LFS pointers in place of its files. Nothing is lost: run git lfs pull in the clone that they came from, and put the real files in their place."
            )));
        }
    }
    let ids = match open_if_there(&folder.join(INDEX_FILES[4]))? {
        Some(file) => Ids::read(Pieces(file))?,
        None => Ids::default(),
    };
    if ids.hostile {
        return Err(Failure::Damaged(format!(
            "A file in the folder of collection {name} holds code. Nothing is to be kept of that folder: restore it from an older backup."
        )));
    }
    Ok(ids)
}

/// Stands for a table where a loss is one of vectors that are there and not as they were.
pub(super) const INDEX: &str = "index";
/// What follows the name of a segment in that of its fresh folder, until it is whole.
const FRESH: &str = ".fresh";
/// hnswlib's own.
const SEED: u32 = 100;
