//! Which index folders a backup must have: those of the store whose vectors are nowhere else. Chroma flushes vectors into
//! the folder of their segment and then takes them out of the queue, so that from then on a copy of the database without the
//! folder brings no vector back. A store that was never purged has them all in the queue, and needs no folders.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt,
    sync::atomic::AtomicBool,
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension};
use serde::{Deserialize, Serialize};

use super::{
    entry::{Fault, Reason},
    holds::Holds,
    inspect::Content,
};
use crate::{
    clock::Timestamp,
    format::uuid::{Uuid, parse_uuid, uuid_text},
    host::links::Place,
    store::{
        Context,
        database::{Limits, QueryError, Stamp, is_absent},
        position,
    },
};

/// What is known of the folders of one store.
#[derive(Debug, Default)]
pub(super) struct Vectors {
    /// Segments whose vectors are in their folder alone.
    flushed: BTreeMap<Uuid, Flushed>,
    /// Segments of which it could not be told.
    undecided: BTreeSet<Uuid>,
    /// Whether the database was ever asked, by this run or one before it.
    known: bool,
    database_bytes: Option<u64>,
    stamp: Option<Stamp>,
    recalled: bool,
}

/// One segment whose vectors are in its folder alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Flushed {
    /// A backup made after this moment must have the folder.
    since: Timestamp,
    /// Name of the collection.
    collection: String,
}

/// What outlives a restart, so that backups are judged while the store is gone, too.
#[derive(Debug, Serialize, Deserialize)]
struct SavedSegments {
    segments: BTreeMap<String, Flushed>,
}

impl Vectors {
    /// Asks the database of the store when it changed. What it does not answer leaves things as they were.
    pub(super) fn refresh(&mut self, context: &Context, now: Timestamp, stop: &AtomicBool) {
        self.recall(context);
        let Ok(stamp) = context.database.stamp() else { return };
        if self.stamp == Some(stamp) && self.undecided.is_empty() {
            return;
        }
        let hold = context.config.collect.statement_deadline;
        let limits = Limits {
            hold: HOLD_BESIDE_WRITER.min(hold),
            hold_unwaited: hold,
            stop,
            progress: None,
        };
        let before = self.flushed.clone();
        if self.ask(context, &limits, now).is_ok() {
            self.stamp = Some(stamp);
            self.database_bytes = Some(stamp.size_bytes);
            let first = !std::mem::replace(&mut self.known, true);
            if first || self.flushed != before {
                self.remember(context);
            }
        }
    }

    fn ask(
        &mut self,
        context: &Context,
        limits: &Limits<'_>,
        now: Timestamp,
    ) -> Result<(), QueryError> {
        let mut connection = context.database.connect()?;
        let listed = connection.within(limits, segments).result?;
        self.flushed.retain(|uuid, _| listed.contains_key(uuid));
        self.undecided.clear();
        for (uuid, segment) in listed {
            // What was once taken out of the queue does not come back into it.
            if self.flushed.contains_key(&uuid) {
                continue;
            }
            let Some(records) = segment.records else { continue };
            match connection.within(limits, |database| out_of_queue(database, &records)).result {
                Ok(false) => {}
                Ok(true) => {
                    match made(&context.place(), &uuid_text(uuid)) {
                        Ok(since) => {
                            let (since, collection) = (since.unwrap_or(now), segment.collection);
                            self.flushed
                                .insert(uuid, Flushed { since: since.min(now), collection });
                        }
                        // How old its vectors are nobody knows, so that no backup without it is called complete.
                        Err(_) => drop(self.undecided.insert(uuid)),
                    }
                }
                Err(_) => drop(self.undecided.insert(uuid)),
            }
        }
        Ok(())
    }

    fn recall(&mut self, context: &Context) {
        if std::mem::replace(&mut self.recalled, true) {
            return;
        }
        let memory: Option<SavedSegments> =
            context.host.state.load(STATE_KIND, &context.store.path);
        let Some(memory) = memory else { return };
        self.known = true;
        let segments = memory.segments.into_iter();
        self.flushed.extend(
            segments.filter_map(|(uuid, flushed)| Some((parse_uuid(uuid.as_bytes())?, flushed))),
        );
    }

    fn remember(&self, context: &Context) {
        let segments = self.flushed.iter();
        let segments =
            segments.map(|(uuid, flushed)| (uuid_text(*uuid), flushed.clone())).collect();
        context.host.state.save(STATE_KIND, &context.store.path, &SavedSegments { segments });
    }

    /// Takes in a backup that was made at `taken`: what is in it, later ones must have as well.
    pub(super) fn take_in(&mut self, taken: Timestamp, holds: &Holds) {
        for (uuid, flushed) in &mut self.flushed {
            if taken < flushed.since && holds.folder(*uuid) {
                flushed.since = taken;
            }
        }
    }

    /// What a backup that was written at `complete_by` or before lacks; `None` when nothing is known to be missing. Its own
    /// times may be older than what is in it (`touch`, dates in names), so they excuse no folder; one that was made before the
    /// first flush and renamed after it is called incomplete until the next one.
    pub(super) fn lacking(&self, complete_by: Timestamp, content: &Content) -> Option<Fault> {
        let due: Vec<_> =
            self.flushed.iter().filter(|(_, flushed)| flushed.since <= complete_by).collect();
        let unknown = |words: &str| Some(Fault::new(Reason::Unknown, words));
        let Some(holds) = &content.holds else {
            // Packed vectors are nearly as large as they were, a packed database is a fraction of one.
            let larger = self.database_bytes.is_some_and(|bytes| content.bytes > bytes);
            return if self.known && due.is_empty() && self.undecided.is_empty() || larger {
                None
            } else {
                unknown(
                    "it is too large to be unpacked here: it is not known whether the index folders are in it",
                )
            };
        };
        let missing: Vec<_> =
            due.iter().filter(|(uuid, _)| !holds.folder(**uuid)).copied().collect();
        if let Some((_, first)) = missing.first() {
            let name = |flushed: &Flushed| format!("\"{}\"", flushed.collection);
            let names: Vec<_> =
                missing.iter().take(NAMES_MAX).map(|(_, flushed)| name(flushed)).collect();
            let more = if missing.len() > names.len() { ", …" } else { "" };
            let words = format!(
                "it lacks the index folders of {} of {} collections ({}{more}), and since {} their vectors are nowhere else",
                missing.len(),
                due.len(),
                names.join(", "),
                first.since
            );
            let all = missing
                .iter()
                .map(|(uuid, flushed)| format!("{} of {}", uuid_text(**uuid), name(flushed)));
            let fault = Fault::new(Reason::WithoutVectors, words);
            return Some(Fault { missing: all.collect(), ..fault });
        }
        let undecided = self.undecided.iter().any(|uuid| !holds.folder(*uuid));
        if undecided || !self.known && !holds.any_folder() {
            return unknown(
                "the store cannot be asked whether its vectors are in the database or in folders, and folders are missing from the backup",
            );
        }
        None
    }
}

/// A segment with vectors, as the tables have it.
struct Segment {
    /// Name of its collection.
    collection: String,
    /// The segment of the same collection that holds its records.
    records: Option<String>,
}

fn segments(database: &Connection) -> rusqlite::Result<BTreeMap<Uuid, Segment>> {
    let mut found = BTreeMap::new();
    let mut statement = database.prepare(
        "SELECT s.id, c.name, (SELECT r.id FROM segments r WHERE r.collection = s.collection AND r.scope = 'METADATA') \
         FROM segments s JOIN collections c ON c.id = s.collection WHERE s.scope = 'VECTOR'",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if found.len() >= SEGMENTS_MAX {
            break;
        }
        let text = |column: usize| -> rusqlite::Result<Option<String>> {
            Ok(row.get_ref(column)?.as_str().ok().map(str::to_owned))
        };
        let Some(uuid) = text(0)?.and_then(|id| parse_uuid(id.as_bytes())) else { continue };
        found.insert(uuid, Segment { collection: text(1)?.unwrap_or_default(), records: text(2)? });
    }
    Ok(found)
}

/// Whether the newest operation of any of the records of a segment is no longer in the queue, as far as a sample says.
/// Chroma takes away all up to a position, so that of a purged collection most are gone. Errs when SQLite does.
fn out_of_queue(database: &Connection, records: &str) -> rusqlite::Result<bool> {
    let mut queued = database.prepare("SELECT 1 FROM embeddings_queue WHERE seq_id = ?1")?;
    // Both ends of the index over ids: those are often in the order in which records came.
    for order in ["", " DESC"] {
        let mut sample = database.prepare(&format!(
            "SELECT seq_id FROM embeddings WHERE segment_id = ?1 ORDER BY embedding_id{order} LIMIT {SAMPLE}"
        ))?;
        let mut rows = sample.query([records])?;
        while let Some(row) = rows.next()? {
            let Some(position) = position(row.get_ref(0)?) else { continue };
            if queued.query_row([position], |_| Ok(())).optional()?.is_none() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// When the folder of a segment came to be, as far as its times tell: a copy that keeps times is as old as its files. `None` when
/// there is none; errs when it may not be looked at.
fn made(place: &Place, folder: &str) -> io::Result<Option<Timestamp>> {
    let of = |meta: &fs::Metadata| Timestamp::from_parts(meta.mtime(), meta.mtime_nsec());
    let folder = place.at(folder)?;
    let meta = match fs::metadata(&folder) {
        Err(error) if is_absent(&error) => return Ok(None),
        meta => meta?,
    };
    let born = meta.created().ok().and_then(|born| born.duration_since(std::time::UNIX_EPOCH).ok());
    let mut first =
        born.and_then(|born| i64::try_from(born.as_secs()).ok()).map(Timestamp::from_secs);
    if !meta.is_dir() {
        return Ok(first);
    }
    for file in fs::read_dir(&folder)?.take(FILES_MAX) {
        match file.and_then(|file| file.metadata()) {
            Ok(meta) => first = Some(first.map_or(of(&meta), |first| first.min(of(&meta)))),
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(first)
}

const STATE_KIND: &str = "backups";
/// A question beside a writer that waits is given up after this.
const HOLD_BESIDE_WRITER: Duration = Duration::from_millis(10);
/// As many as folders are looked at in a store.
const SEGMENTS_MAX: usize = 100_000;
/// Records that are looked at from each end.
const SAMPLE: usize = 1000;
/// Chroma has five files in a folder.
const FILES_MAX: usize = 100;
const NAMES_MAX: usize = 3;
