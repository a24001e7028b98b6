//! A backup of a store that is beyond repair. Nothing is put together of the two: without its database nobody knows which of the newer vectors
//! were deleted, or changed once more, and their documents are gone. So it is said what the backup has, what it has not, and of which
//! newer records the indexes still have the vectors.

use std::{
    collections::{BTreeSet, HashSet},
    fs::File,
    io,
    path::Path,
};

use serde::Serialize;

use super::{
    super::{
        Failure,
        index::{self, subject::subjects},
    },
    Backup, FromBackup, Named, Wanted,
};
use crate::{
    clock::Timestamp,
    format::{parts::INDEX_FILES, pickle, uuid::parse_uuid},
    repair::{
        dump::{Pieces, catalogue},
        restore::RestoreError,
        steps::Steps,
    },
};

/// What a backup has in place of a store that is beyond repair, and what it has not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Instead {
    /// What it has of each collection.
    pub has: Vec<Has>,
    /// Records of which an index of the store has a vector, and which the backup has not: made since, and perhaps deleted again. The first
    /// hundred thousand.
    pub newer: Vec<Named>,
    /// How many these are in all.
    pub newer_total: u64,
    /// Folders of indexes that belong to no collection of the backup: made since, or left by a collection that was deleted.
    pub unknown_folders: Vec<String>,
    /// Folders whose ids cannot be read.
    pub unreadable_folders: Vec<String>,
}

/// What a backup has of one collection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Has {
    /// Its name.
    pub collection: String,
    /// Its records.
    pub records: u64,
}

/// Says what the first of these backups that may be used has. Errs when it is stopped.
pub(in super::super) fn instead(
    wanted: &[Wanted<'_>],
    steps: &Steps,
    now: Timestamp,
) -> Result<Option<FromBackup>, RestoreError> {
    let mut first = None;
    for one in wanted {
        steps.begin("reading the backup", None);
        let mut from = FromBackup { backup: one.backup.to_owned(), ..FromBackup::default() };
        let told = tell(one, &mut from, steps, now);
        if steps.stopped() {
            return Err(RestoreError::Stopped);
        }
        match told {
            Ok(instead) => {
                let is_readable =
                    index::opened(one.dir).is_ok_and(|opened| catalogue::read(&opened).is_ok());
                from.refused = Some(if is_readable { INSTEAD } else { UNREADABLE }.to_owned());
                from.instead = Some(instead);
                return Ok(Some(from));
            }
            Err(failure) => {
                from.refused = Some(failure.to_string());
                first.get_or_insert(from);
            }
        }
    }
    Ok(first)
}

fn tell(
    wanted: &Wanted<'_>,
    from: &mut FromBackup,
    steps: &Steps,
    now: Timestamp,
) -> Result<Instead, Failure> {
    let (backup, moment) = Backup::open(wanted.backup, wanted.scratch, steps, now)?;
    from.moment = moment.map(|moment| moment.to_string());
    let mut out = Instead::default();
    let mut known = BTreeSet::new();
    for collection in &backup.collections {
        let (collection_name, records) = (collection.name.clone(), collection.records);
        out.has.push(Has { collection: collection_name, records });
        let segment = collection.vectors_segment.as_ref();
        known.extend(segment.and_then(|id| parse_uuid(id.as_bytes())));
        let Some(folder) = index::folder_of(wanted.dir, collection)? else { continue };
        let has = subjects(&backup.connection, collection)?;
        let has: HashSet<u64> = has.into_iter().map(|subject| subject.hash).collect();
        let mut name = |id: &[u8]| {
            out.newer_total += 1;
            if out.newer.len() < NEWER_MAX {
                let id = String::from_utf8_lossy(id).into_owned();
                out.newer.push(Named { collection: collection.name.clone(), id });
            }
        };
        if !each_other(&folder, &has, &mut name)? {
            out.unreadable_folders.push(name_of(&folder));
        }
    }
    for (segment, folder) in index::folders(wanted.dir)? {
        if !known.contains(&segment) {
            out.unknown_folders.push(name_of(&folder));
        }
    }
    Ok(out)
}

/// Calls `name` for each id of an index that is none of `has`. Says whether the ids can be read. Errs when the disk does.
fn each_other(folder: &Path, has: &HashSet<u64>, name: &mut dyn FnMut(&[u8])) -> io::Result<bool> {
    let open = || match File::open(folder.join(INDEX_FILES[4])) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        file => file.map(Some),
    };
    let mut others = HashSet::new();
    // Nothing was flushed yet.
    let Some(file) = open()? else { return Ok(true) };
    let read = pickle::read(Pieces(file), pickle::Limits::default(), &mut |id, _| {
        if !has.contains(&id) {
            others.insert(id);
        }
    });
    match read {
        Ok(_) => {}
        Err(pickle::ReadError::Source(error)) => return Err(error),
        Err(pickle::ReadError::Content(_)) => return Ok(false),
    }
    let Some(file) = open()?.filter(|_| !others.is_empty()) else { return Ok(true) };
    let read = pickle::read_naming(Pieces(file), pickle::Limits::default(), &mut |hash, text| {
        if others.remove(&hash) {
            name(text);
        }
    });
    match read {
        Err(pickle::ReadError::Source(error)) => Err(error),
        read => Ok(read.is_ok()),
    }
}

fn name_of(folder: &Path) -> String {
    folder.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// What helps when the store itself is beyond repair.
const INSTEAD: &str = "The store could not be repaired so far that it could be given something. `chroma_exporter dump` writes what can be read of it, and \
     `chroma_exporter restore` puts the backup in its place";
const UNREADABLE: &str = "The database of the store cannot be read, so that nothing can be put into it. `chroma_exporter restore` puts the backup in its \
     place";
/// So many records are named.
const NEWER_MAX: usize = 100_000;
