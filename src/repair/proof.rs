//! Whether Chroma would have everything if this copy were its directory. The collectors that read whole files look at it as
//! `check` would; one closed table says of each finding what it means to whoever has to restore. Nothing is written into the
//! copy, and no process may hold it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use super::{
    records::{self, Tables},
    steps::Steps,
};
use crate::{
    clock::{self, Timestamp},
    collectors::{
        Collector, Run,
        contents::Contents,
        hnsw::{Hnsw, Vectors},
        integrity::Integrity,
    },
    config::{CollectorName, Config, Store},
    facts::{
        error::{CollectError, chain},
        wake::Wake,
    },
    findings::{Code, Finding, Severity},
    format::{
        manifest::{Collection, Proof, Restores},
        uuid::{Uuid, parse_uuid},
    },
    host::Host,
    sample::{CheckState, Observation},
    store::{Context, DATABASE_FILE},
};

/// What a copy would bring back.
#[derive(Debug, Clone)]
pub struct Proven {
    /// The verdict, and how it was come to.
    pub proof: Proof,
    /// Every collection, in the order of their ids; empty when the tables cannot be read.
    pub collections: Vec<Collection>,
    /// Which releases of Chroma open it, in words, as far as its migrations say.
    pub opened_by: Option<String>,
    /// Everything that was found, gravest first. Also what is no loss.
    pub findings: Vec<Finding>,
    /// What is missing or damaged, or why nothing can be said.
    pub losses: Vec<Loss>,
}

/// One thing that would not come back as it was.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Loss {
    /// Name of the collection; `None` for the database as a whole.
    pub collection: Option<String>,
    /// In words, a sentence without a full stop.
    pub words: String,
}

impl std::fmt::Display for Loss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.collection {
            Some(collection) => write!(f, "collection {collection}: {}", self.words),
            None => f.write_str(&self.words),
        }
    }
}

/// Why nothing was proven, and nothing disproved.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// It is not there, no directory, or may not be read.
    #[error("cannot read {}", .path.display())]
    Unreadable {
        /// The copy.
        path: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
    /// It was not wanted any more.
    #[error("stopped before the end")]
    Stopped,
}

/// Looks at the copy in `dir`, which nobody holds and nobody changes meanwhile. Writes nothing. Progress goes to `steps`, whose
/// stop ends it within a moment. Errs when the directory cannot be read at all, or when it was told to stop. Damage is an
/// answer.
pub fn prove(dir: &Path, steps: &Steps, now: Timestamp) -> Result<Proven, ProofError> {
    let unreadable = |source| ProofError::Unreadable { path: dir.to_owned(), source };
    let dir = &dir.canonicalize().map_err(unreadable)?;
    let (database_bytes, index_bytes) = sizes(dir).map_err(unreadable)?;
    let began = clock::ticks();
    steps.begin("checking", Some(database_bytes.saturating_add(index_bytes)));
    let context = context_of(dir);
    let run = Run { now, wake: Wake::NONE, deep: true, stop: steps.flag() };
    // Nobody writes to a copy: what was flushed a moment before it was made has no commit that is still to come.
    let settled = Run { now: now.plus(SETTLED), wake: Wake::NONE, deep: true, stop: steps.flag() };
    let mut hnsw = Hnsw::new(&context);
    let observations = thread::scope(|scope| {
        let integrity = scope.spawn(|| observe(&mut Integrity::new(&context), &run));
        let contents = scope.spawn(|| observe(&mut Contents::new(&context), &settled));
        let indexes = scope.spawn(|| observe(&mut hnsw, &run));
        let mut reported = 0;
        while !(integrity.is_finished() && contents.is_finished() && indexes.is_finished()) {
            thread::sleep(PACE);
            let done = |name, bytes: u64| {
                let state = context.progress(name).state();
                state.map_or(0.0, |state| state.ratio * bytes as f64)
            };
            let done = done(CollectorName::Integrity, database_bytes)
                + done(CollectorName::Hnsw, index_bytes);
            // A share of what is there: no less than nothing, and no more than all of it.
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let done = done as u64;
            steps.add(done.saturating_sub(reported));
            reported = reported.max(done);
        }
        let join = |thread: thread::ScopedJoinHandle<'_, Observation>| {
            thread.join().unwrap_or_else(|_| panicked("its thread ended".to_owned()))
        };
        [join(integrity), join(contents), join(indexes)]
    });
    if steps.stopped() {
        return Err(ProofError::Stopped);
    }
    let vectors = hnsw.vectors(now);
    let tables = records::read(&context.database, &run.stop);
    let positions =
        vectors.iter().map(|(collection, of)| (collection.clone(), of.position)).collect();
    let queued = records::queued(&context.database, &positions, &run.stop).unwrap_or_default();
    let unread = tables.as_ref().err().map(sqlite_live::database::QueryError::chain);
    let collections = collections(tables.unwrap_or_default(), &vectors, &queued);
    let segments: BTreeMap<Uuid, String> =
        vectors.iter().map(|(collection, of)| (of.segment, collection.clone())).collect();
    let [integrity, contents, indexes] = observations;
    let opened_by = contents.opened_by.clone();
    let verdict = judge(&[&integrity, &contents, &indexes], &collections, &segments, unread);
    let mut checks: BTreeMap<String, String> = integrity
        .checks
        .iter()
        .map(|(name, state)| ((*name).to_owned(), state.as_str().to_owned()))
        .collect();
    for (name, observation) in [("tables", &contents), ("indexes", &indexes)] {
        let state =
            if observation.problems.is_empty() { CheckState::Ok } else { CheckState::Unknown };
        checks.insert(name.to_owned(), state.as_str().to_owned());
    }
    let mut findings: Vec<Finding> = [integrity, contents, indexes]
        .into_iter()
        .flat_map(|observation| observation.findings)
        .collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let codes = findings
        .iter()
        .filter(|finding| finding.severity >= Severity::Warning)
        .map(|finding| finding.code.as_str().to_owned());
    let proof = Proof {
        restores: verdict.restores,
        moment: now,
        by: format!("chroma_exporter {}", crate::VERSION),
        checks,
        findings: codes.collect::<BTreeSet<_>>(),
        seconds: began.elapsed().as_secs_f64(),
    };
    Ok(Proven { proof, collections, opened_by, findings, losses: verdict.losses })
}

/// Longer than a collector waits for what belongs to a flush.
const SETTLED: Duration = Duration::from_hours(1);

/// What the collectors of a copy share: nothing is configured, and nothing is kept.
pub(super) fn context_of(dir: &Path) -> Context {
    let config = Arc::new(Config::default());
    let store = Arc::new(Store::new("backup", dir));
    let host = Arc::new(Host::read_only(&config));
    Context::new(&config, &store, &host)
}

/// Whether the journal beside a database belongs to another one, so that it must not be played.
pub(super) fn is_foreign(dir: &Path) -> bool {
    let run = Run { now: clock::now(), wake: Wake::NONE, deep: false, stop: Arc::default() };
    let observation = observe(&mut Integrity::new(&context_of(dir)), &run);
    observation.findings.iter().any(|finding| finding.code == Code::JournalForeign)
        || !observation.problems.is_empty()
}

/// One collector over the copy, on its own thread. One that panics proves nothing.
fn observe(collector: &mut dyn Collector, run: &Run) -> Observation {
    let caught = catch_unwind(AssertUnwindSafe(|| collector.collect(run)));
    caught.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        panicked(text.unwrap_or_else(|| "without a word".to_owned()))
    })
}

fn panicked(text: String) -> Observation {
    Observation { problems: vec![CollectError::Panicked(text)], ..Observation::default() }
}

/// Bytes of the database, and of what lies in the folders beside it. Errs when the directory cannot be read.
fn sizes(dir: &Path) -> io::Result<(u64, u64)> {
    let (mut database, mut indexes) = (0, 0_u64);
    for entry in fs::read_dir(dir)?.take(ENTRIES_MAX) {
        let entry = entry?;
        let meta = entry.metadata()?;
        if meta.is_file() && entry.file_name() == DATABASE_FILE {
            database = meta.len();
        } else if meta.is_dir() {
            let Ok(files) = fs::read_dir(entry.path()) else { continue };
            for file in files.take(FILES_MAX).flatten() {
                let bytes = file.metadata().map_or(0, |meta| meta.len());
                indexes = indexes.saturating_add(bytes);
            }
        }
    }
    Ok((database, indexes))
}

fn collections(
    tables: Vec<Tables>,
    vectors: &[(String, Vectors)],
    queued: &BTreeMap<String, u64>,
) -> Vec<Collection> {
    let of = |tables: Tables| {
        let known = vectors.iter().find(|(collection, _)| *collection == tables.id);
        let there = known.map_or(0, |(_, of)| match of.without {
            Some(without) => tables.records.saturating_sub(without),
            None => of.pending.min(tables.records),
        });
        let Tables { id, name, tenant, database, space, dimension, records, documents } = tables;
        Collection {
            queued: queued.get(&id).copied().unwrap_or(0),
            vectors: there,
            id,
            name,
            tenant,
            database,
            space,
            dimension,
            records,
            documents,
        }
    };
    tables.into_iter().map(of).collect()
}

struct Verdict {
    restores: Restores,
    losses: Vec<Loss>,
}

/// What the observations mean together. `unread` says why the tables could not be read.
fn judge(
    observations: &[&Observation],
    collections: &[Collection],
    segments: &BTreeMap<Uuid, String>,
    unread: Option<String>,
) -> Verdict {
    let (mut fatal, mut lost, mut open) = (Vec::new(), Vec::new(), Vec::new());
    let mut reported = BTreeSet::new();
    let name_of = |id: &str| collections.iter().find(|collection| collection.id == id);
    for finding in observations.iter().flat_map(|observation| &observation.findings) {
        let collection = parse_uuid(finding.subject.as_bytes())
            .and_then(|segment| segments.get(&segment))
            .and_then(|id| name_of(id));
        let loss_of = |words: &str| {
            let name = collection.map(|collection| collection.name.clone());
            // The loss says of which collection it is.
            let before = name.as_ref().map(|name| format!("collection {name}: "));
            let evidence = finding.evidence.as_str();
            let reported = before.and_then(|before| evidence.strip_prefix(before.as_str()));
            let words = format!("{words} ({})", reported.unwrap_or(evidence));
            Loss { collection: name, words }
        };
        // What the evidence made harmless: all vectors of a folder that is gone may still be in the queue.
        let harmless = finding.severity == Severity::Info;
        match meaning(finding.code) {
            Meaning::Nothing => {}
            Meaning::Loss(_) | Meaning::Fatal(_) if harmless => {}
            Meaning::Loss(words) => {
                reported.extend(collection.map(|collection| collection.id.as_str()));
                lost.push(loss_of(words));
            }
            Meaning::Fatal(words) => fatal.push(loss_of(words)),
            Meaning::Unknown(words) => open.push(loss_of(words)),
        }
    }
    for collection in collections {
        let without = collection.records.saturating_sub(collection.vectors);
        if without > 0 && !reported.contains(collection.id.as_str()) {
            let words = format!(
                "{without} of {} records have no vector: no search by vector finds them",
                collection.records
            );
            lost.push(Loss { collection: Some(collection.name.clone()), words });
        }
    }
    for observation in observations {
        for (check, state) in &observation.checks {
            let why = observation.reasons.iter().find(|(name, _)| name == check);
            let why = why.map_or(String::new(), |(_, why)| format!(": {why}"));
            match state {
                CheckState::Ok => {}
                // The finding behind it says what it means.
                CheckState::Corrupt if !(fatal.is_empty() && lost.is_empty()) => {}
                CheckState::Corrupt => fatal.push(whole(format!("the check {check} found damage"))),
                CheckState::Busy | CheckState::Unreadable | CheckState::Unknown => {
                    open.push(whole(format!("the check {check} came to no verdict{why}")));
                }
            }
        }
        open.extend(observation.problems.iter().map(|problem| whole(chain(problem))));
    }
    open.extend(unread.map(|why| whole(format!("the tables could not be read: {why}"))));
    let (restores, mut losses) = match (fatal.is_empty(), open.is_empty(), lost.is_empty()) {
        (false, ..) => (Restores::Not, [fatal, lost].concat()),
        (true, false, _) => (Restores::Unknown, [open, lost].concat()),
        (true, true, false) => (Restores::WithLosses, lost),
        (true, true, true) => (Restores::Whole, lost),
    };
    let mut seen = BTreeSet::new();
    losses.retain(|loss| seen.insert(loss.clone()));
    Verdict { restores, losses }
}

fn whole(words: String) -> Loss {
    Loss { collection: None, words }
}

/// What a finding in a copy means to whoever has to restore it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// Nothing is missing: it is about the host, about the past, or as it should be.
    Nothing,
    /// Chroma opens it, and this is missing or does not work.
    Loss(&'static str),
    /// Chroma does not open it, or gets nothing out of it.
    Fatal(&'static str),
    /// It could not be looked at.
    Unknown(&'static str),
}

/// The closed table. Only findings graver than info are losses.
#[expect(clippy::too_many_lines, reason = "one line for each finding")]
const fn meaning(code: Code) -> Meaning {
    use Meaning::{Fatal, Loss, Nothing, Unknown};
    match code {
        Code::StoreMissing => Fatal("there is no such directory"),
        Code::SqliteMissing => Fatal("the database is not in it: Chroma would start empty"),
        Code::SqliteEmpty => Fatal("the database has no bytes: Chroma would start empty"),
        Code::SqliteNotRegular => Fatal("in place of the database there is something else"),
        Code::RestoreInterrupted => Fatal("a restore into it was cut off, and has to be brought to its end first"),
        Code::NotAStore => Fatal("there is no Chroma database in it"),
        Code::SqliteNotADatabase => Fatal("chroma.sqlite3 is no database"),
        Code::SqliteHeaderDamaged => Fatal("the header of the database is damaged"),
        Code::SqliteTruncated => Fatal("the end of the database is missing"),
        Code::SqliteCorrupt => Fatal(
            "the database is damaged: Chroma may open it and then fail, or answer with what is left",
        ),
        Code::SqliteIndexCorrupt => {
            Loss("an index of the database is damaged: the records are there, some questions miss them")
        }
        Code::SqliteValueMismatch => {
            Loss("documents differ from their second copy: one of the two was damaged")
        }
        Code::FtsCorrupt => Loss(
            "the full-text index is damaged: searches for words in documents fail, the documents are there",
        ),
        Code::FtsMissing => {
            Loss("the full-text index is missing: searches for words in documents fail, the documents are there")
        }
        Code::FtsOutOfStep => {
            Loss("searches for words in documents miss some or find wrong ones, the documents are there")
        }
        Code::HotJournal => {
            Unknown("a transaction was cut off and has to be rolled back first, which changes the copy")
        }
        Code::JournalForeign => Fatal(
            "the journal beside the database belongs to another one: the first start would play it over this one",
        ),
        Code::MigrationMismatch => Fatal("Chroma refuses to open it: its migrations have a gap or were changed"),
        Code::MigrationsMissing => Fatal("Chroma refuses to open it: its table of migrations is missing"),
        Code::TableMissing => Fatal("a table is missing"),
        Code::DefaultTenantMissing => {
            Loss("the tenant default_tenant is missing: clients cannot connect until it is inserted again")
        }
        Code::DefaultDatabaseMissing => {
            Loss("the database default_database is missing: clients cannot connect until it is inserted again")
        }
        Code::CatalogEmpty => Fatal("the database lists no collection: an empty one was started over old data"),
        Code::CollectionConfigInvalid => {
            Fatal("Chroma cannot read a configuration in it, and then lists no collection at all")
        }
        Code::CollectionDimensionMismatch => {
            Loss("the dimension of a collection is stated wrongly: searches in it fail")
        }
        Code::CollectionWithoutSegments => Loss("a collection cannot be used: its segments are not as they should be"),
        Code::SeqIdInvalid => {
            Loss("a position in the queue is wrong: new records would be lost, or the collection cannot be used")
        }
        Code::SeqIdMissing => {
            Loss("the position of an index is not recorded: Chroma before 1.0 fails at every search in it, 1.x reads it")
        }
        Code::QueuePoisoned => Loss("a row of the queue cannot be applied: reads of the collection fail"),
        Code::SegmentMissing => Loss("the folder with its vectors is not there"),
        Code::SegmentIncomplete => Loss("a file of its index is missing"),
        Code::SegmentTruncated => Loss("a file of its index is cut off: loading it may end the server"),
        Code::SegmentHeaderInvalid => Loss("the header of its index is damaged: loading it ends the server"),
        Code::SegmentMetadataInvalid => Loss("the list of ids of its index is damaged: it cannot be searched"),
        Code::SegmentMetadataHostile => {
            Loss("the list of ids of its index holds code, which Chroma before 1.0 would run")
        }
        Code::SegmentInconsistent => Loss("its index is damaged: searches fail or answer wrongly"),
        Code::SegmentBloated => Loss("its index is damaged: it would grow without end"),
        Code::SegmentBehind => Loss("its index is older than the database: records have no vector"),
        Code::SegmentAhead => {
            Loss("its index is newer than the database: the two were not copied at one moment")
        }
        Code::RecordsWithoutVector => Loss("records have no vector: no search by vector finds them"),
        Code::CheckOverdue => Unknown("a check came to no verdict"),
        Code::CollectorFailing => Unknown("something could not be read"),
        // As it was in the store, and all of it is there.
        Code::FreePagesHigh
        | Code::FtsCutAtNul
        | Code::FtsLostAtUpgrade
        | Code::OrphanRows
        | Code::QueueBacklog
        | Code::QueueNotPurged
        | Code::IndexLag
        | Code::RecordsUnreachable
        | Code::SegmentOrphan
        // Where a `-wal` is there, the checks say that they could not observation.
        | Code::WalMode
        // Which Chroma is to open it is a choice, not a loss.
        | Code::SchemaNewerThanServer
        | Code::SchemaNewerThanExporter
        // Of the host and of its processes.
        | Code::SecondWriter
        | Code::SqliteToolOpen
        | Code::ServerGone
        | Code::StoreReplaced
        | Code::LockHeld
        | Code::DescriptorsLow
        | Code::DiskUsageHigh
        | Code::DiskUsageCritical
        | Code::DiskWillFill
        | Code::InodesLow
        | Code::DiskReadonly
        | Code::HeadroomLow
        | Code::DiskRemote
        | Code::DiskTemporary
        | Code::StoreSynced
        | Code::PermissionDrift
        | Code::PermissionUnwritable
        | Code::PermissionWorldWritable
        | Code::BackupMissing
        | Code::BackupStale
        | Code::BackupInvalid
        | Code::BackupIncomplete
        | Code::BackupShrunk
        | Code::BackupSameDisk
        | Code::BackupUnverified
        | Code::BackupFailed
        | Code::ServerUnreachable
        | Code::ServerFailing
        | Code::ServerElsewhere
        | Code::LogPanic
        | Code::LogError => Nothing,
    }
}

/// How often the progress is told.
const PACE: Duration = Duration::from_millis(20);
const ENTRIES_MAX: usize = 200_000;
/// A folder has five.
const FILES_MAX: usize = 64;

#[cfg(test)]
mod tests;
