//! A backup of the store, for what the store itself has lost. A record that is the same version in both gets back the part that it has lost;
//! one that is gone comes back when the queue proves that nothing was done to it since. Nothing else is taken: what was changed or
//! deleted since the backup, or may have been, is named.

mod gone;
mod instead;
mod outcome;
mod plan;
mod rule;
mod write;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet, HashSet},
    fs, io,
    path::{Path, PathBuf},
};

use rusqlite::Connection;
use serde::Serialize;

use self::plan::{Plan, Store};
pub use self::{
    gone::GoneCollection,
    instead::{Has, Instead},
};
pub(super) use self::{gone::named as named_in, instead::instead};
use super::{
    Done, Effect, Failure, LostRecord, Part, Report,
    index::{self, gifts::Gifts},
    positions,
    table::Action,
};
use crate::{
    clock::Timestamp,
    findings::{Code, Severity},
    format::{manifest::Restores, pickle, uuid::parse_uuid},
    human,
    repair::{
        dump::catalogue::{self, Asker, Collection},
        restore::RestoreError,
        steps::Steps,
        unpack::{self, Opened},
        verify,
    },
    store::position,
};

/// What came out of a backup.
#[derive(Debug, Clone, Default, Serialize)]
pub struct FromBackup {
    /// Which.
    pub backup: PathBuf,
    /// Of what moment it is.
    pub moment: Option<String>,
    /// Why nothing was taken from it.
    pub refused: Option<String>,
    /// What it has when the store is beyond repair.
    pub instead: Option<Instead>,
    /// What each collection got; those that got nothing are left out.
    pub collections: Vec<Given>,
    /// Records that have lost something, and of which the backup has a version that was, or may have been, changed since.
    pub older: Vec<Named>,
    /// Records that the backup has and the store has not: deleted since, or lost.
    pub uncertain: Vec<Named>,
}

/// What one collection got.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Given {
    /// Its name.
    pub collection: String,
    /// Records that were gone.
    pub records: usize,
    /// Records that got their metadata, and their document if they have one.
    pub metadata: usize,
    /// Records that got their vector.
    pub vectors: usize,
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Named {
    /// Name of its collection.
    pub collection: String,
    /// Its id.
    pub id: String,
}

/// What repairs have lost, as far as a backup may have it.
#[derive(Debug, Default)]
pub(super) struct Damage {
    /// Words about lost rows of a table.
    words: Vec<(String, String)>,
    /// Records of which it is not known what was done to them last.
    operations: BTreeSet<(String, String)>,
    queue_mended: bool,
    /// Collections whose row was put together, and the words about what is lost of it.
    remade: BTreeMap<String, Vec<String>>,
}

impl Damage {
    /// Takes in what an action has done.
    pub(super) fn add(&mut self, action: Action, effect: &Effect) {
        self.words.extend(effect.of_tables.iter().cloned());
        for (collection, words) in &effect.remade {
            self.remade.entry(collection.clone()).or_default().push(words.clone());
        }
        if action == Action::Queue {
            self.queue_mended = true;
            let of = |one: &LostRecord| (one.collection.clone(), one.id.clone());
            self.operations.extend(effect.lost_records.iter().map(of));
        }
    }

    fn of(&self, tables: &[&str]) -> bool {
        self.words.iter().any(|(table, _)| tables.contains(&&**table))
    }
}

/// An opened backup.
struct Backup {
    opened: Opened,
    connection: Connection,
    collections: Vec<Collection>,
    /// The last row of the queue that it knows of.
    newest: i64,
}

impl Backup {
    fn dir(&self) -> &Path {
        &self.opened.dir
    }

    /// Opens and proves it. Errs with the reason why it is not to be used.
    fn open(
        path: &Path,
        scratch: &Path,
        steps: &Steps,
        now: Timestamp,
    ) -> Result<(Self, Option<Timestamp>), Failure> {
        let options =
            unpack::Options { scratch: Some(scratch.to_owned()), ..unpack::Options::default() };
        let opened = unpack::open(path, &options, steps)
            .map_err(|error| Failure::Damaged(format!("it cannot be opened: {}", error.chain())))?;
        let options = verify::Options { unpack: options, ..verify::Options::default() };
        let found = verify::prove_opened(path, &opened, &options, steps, now);
        let grave = |code: Code, severity: Severity| {
            severity >= Severity::Warning && code != Code::RecordsWithoutVector
        };
        let lossy = !opened.damage.is_empty()
            || found.findings.iter().any(|one| grave(one.code, one.severity));
        match found.restores {
            Restores::Whole => {}
            // It gives nothing that it does not have.
            Restores::WithLosses if !lossy => {}
            _ => {
                let losses: Vec<String> = found.losses.iter().map(ToString::to_string).collect();
                return Err(Failure::Damaged(format!(
                    "verify does not call it whole: {}",
                    losses.join("; ")
                )));
            }
        }
        let connection = index::opened(&opened.dir)?;
        let collections = catalogue::read(&connection)?;
        let newest = positions::newest(&connection)?;
        let moment = opened.moment;
        Ok((Self { opened, connection, collections, newest }, moment))
    }
}

/// Where a backup is, and what it is wanted for.
pub(super) struct Wanted<'a> {
    pub(super) backup: &'a Path,
    /// The repaired copy.
    pub(super) dir: &'a Path,
    /// Where it may be unpacked.
    pub(super) scratch: &'a Path,
    pub(super) damage: &'a Damage,
    /// Whether collections that only the backup has are to come back.
    pub(super) adopt: bool,
}

/// Gives the copy what the backup has, and takes out of `report` and `losses` what is not lost any more. Says whether the copy was changed.
/// Errs when it is stopped.
pub(super) fn fill(
    wanted: &Wanted<'_>,
    report: &mut Report,
    losses: &mut Vec<String>,
    steps: &Steps,
    now: Timestamp,
) -> Result<bool, RestoreError> {
    steps.begin("reading the backup", None);
    let mut from = FromBackup { backup: wanted.backup.to_owned(), ..FromBackup::default() };
    let mut done = Vec::new();
    if let Err(failure) = give(wanted, &mut from, &mut done, report, losses, steps, now) {
        from.refused = Some(failure.to_string());
    }
    if steps.stopped() {
        return Err(RestoreError::Stopped);
    }
    report.from_backup = Some(from);
    if done.is_empty() {
        return Ok(false);
    }
    report.done.push(Done { action: Action::Backup, what: done.join("; ") });
    Ok(true)
}

fn give(
    wanted: &Wanted<'_>,
    from: &mut FromBackup,
    done: &mut Vec<String>,
    report: &mut Report,
    losses: &mut Vec<String>,
    steps: &Steps,
    now: Timestamp,
) -> Result<(), Failure> {
    let Wanted { dir, damage, adopt, .. } = *wanted;
    let (backup, moment) = Backup::open(wanted.backup, wanted.scratch, steps, now)?;
    from.moment = moment.map(|moment| moment.to_string());
    let (mut all, mut other) = (Vec::new(), 0);
    let lost_records = damage.of(&["embeddings"]);
    let lost_metadata =
        damage.of(&["embedding_metadata", "embedding_metadata_array"]) || lost_records;
    let (covered, gone): (bool, Vec<GoneCollection>);
    {
        let connection = index::opened(dir)?;
        covered = is_covered(&connection, backup.newest, damage)?;
        let repeated = repeated(&connection)?;
        let store = Store {
            connection: &connection,
            lost_metadata,
            lost_records,
            covered,
            repeated,
            is_gone: false,
        };
        let ours = catalogue::read(&connection)?;
        let mut found = gone::among(&connection, &ours, &backup, moment, wanted.backup)?;
        for collection in ours {
            let Some(mine) = backup.collections.iter().find(|one| one.id == collection.id) else {
                other += usize::try_from(collection.records).unwrap_or(usize::MAX);
                continue;
            };
            let lost = outcome::lost(report, damage, &collection.name);
            let plan = plan::plan(&store, &collection, &backup, mine, &lost, steps)?;
            all.push((collection, plan));
        }
        let store = Store { is_gone: true, ..store };
        for (one, mine) in found.iter_mut().filter(|(one, _)| adopt && one.why_not.is_none()) {
            let mine = *mine;
            let collection =
                Collection { records: 0, records_position: backup.newest, ..mine.clone() };
            let plan =
                plan::plan(&store, &collection, &backup, mine, &plan::Lost::default(), steps)?;
            all.push((collection, plan));
            one.is_back = true;
        }
        gone = found.into_iter().map(|(one, _)| one).collect();
    }
    let back: Vec<&str> = gone.iter().filter(|one| one.is_back).map(|one| &*one.id).collect();
    let mut given = write::write(dir, &backup, &all, &back, steps)?;
    empty_folders(dir, &all, &back)?;
    for one in gone.iter().filter(|one| one.is_back) {
        done.push(format!("the collection {} was made anew as the backup has it", one.name));
    }
    if !gone.is_empty() {
        report.gone_collections.clone_from(&gone);
    }
    let sum =
        |of: &dyn Fn(&Given) -> usize| human::count(given.iter().map(of).sum::<usize>() as f64);
    if given.iter().any(|one| one.records + one.metadata > 0) {
        done.push(format!(
            "the backup gave back {} records and the metadata and documents of {} others, and the full text was made anew",
            sum(&|one| one.records),
            sum(&|one| one.metadata)
        ));
    }
    // No folder was changed then; what the tables got stays.
    let got =
        vectors(&backup, dir, (&mut all, &back), report, done, steps).unwrap_or_else(|failure| {
            losses.push(format!("vectors of the backup cannot be taken: {failure}"));
            HashSet::new()
        });
    for (one, (collection, _)) in given.iter_mut().zip(&all) {
        one.vectors = got.iter().filter(|(name, _)| *name == collection.name).count();
    }
    let newer = other + all.iter().map(|(_, plan)| plan.newer).sum::<usize>();
    outcome::report(
        from,
        report,
        losses,
        &outcome::Outcome { all: &all, got: &got, damage, newer, covered },
    );
    given.retain(|one| one.records + one.metadata + one.vectors > 0);
    from.collections = given;
    let named = gone::name(dir, &backup, damage.remade.keys())?;
    for one in &named {
        losses.retain(|loss| !damage.remade[&one.id].contains(loss));
        losses.push(format!(
            "changes of the metadata and the settings of the collection {} since the backup, from which it has them, and its name where that was lost",
            one.now
        ));
        outcome::rename(from, report, &one.before, &one.now);
    }
    if !named.is_empty() {
        let count = human::count(named.len() as f64);
        done.push(format!("the backup gave back the settings of {count} collections, and the name where it was lost"));
    }
    Ok(())
}

/// Takes away the index folders that Chroma left of the collections `back`. Errs when one stays.
fn empty_folders(dir: &Path, all: &[(Collection, Plan)], back: &[&str]) -> io::Result<()> {
    // What Chroma left of their indexes may be newer than records that are all from the backup.
    let is_whole = |plan: &Plan| plan.newer == 0 && plan.fills.len() == plan.places.of.len();
    let emptied = all.iter().filter(|(one, plan)| back.contains(&&*one.id) && is_whole(plan));
    for (collection, _) in emptied {
        let segment =
            collection.vectors_segment.as_deref().filter(|id| parse_uuid(id.as_bytes()).is_some());
        match segment.map(|segment| fs::remove_dir_all(dir.join(segment))) {
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Writes the indexes anew that lack a vector which the backup has. Gives collection and id of the records that got one.
/// Errs when SQLite or the disk does.
fn vectors(
    backup: &Backup,
    dir: &Path,
    (all, back): (&mut [(Collection, Plan)], &[&str]),
    report: &Report,
    done: &mut Vec<String>,
    steps: &Steps,
) -> Result<HashSet<(String, String)>, Failure> {
    let of: BTreeSet<&str> = all.iter().map(|(collection, _)| &*collection.id).collect();
    let lacking = index::lacking::named(dir, &of)?;
    let mut gifts =
        Gifts { asker: RefCell::new(Asker::new(&backup.connection)?), of: BTreeMap::new() };
    let (mut wanted, mut segments) = (HashSet::new(), BTreeSet::new());
    for (collection, plan) in &mut *all {
        let mut places = std::mem::take(&mut plan.places);
        let worse = |one: &&LostRecord| matches!(one.part, Part::NewestVector | Part::Length);
        let better = report.lost_records.iter().filter(worse);
        let mut any = false;
        for (one, is_there) in
            lacking.iter().map(|one| (one, false)).chain(better.map(|one| (one, true)))
        {
            let hash = pickle::hash(one.id.as_bytes());
            if one.collection == collection.name && places.of.contains_key(&hash) {
                any = true;
                wanted.insert((one.collection.clone(), one.id.clone()));
                if is_there {
                    places.better.insert(hash);
                }
            }
        }
        let segment = collection.vectors_segment.as_ref().and_then(|id| parse_uuid(id.as_bytes()));
        if let Some(segment) = segment.filter(|_| any || back.contains(&&*collection.id)) {
            segments.insert(segment);
            gifts.of.insert(collection.id.clone(), places);
        }
    }
    if segments.is_empty() {
        return Ok(HashSet::new());
    }
    let effect = index::rebuild(dir, &segments, &BTreeSet::new(), Some(&gifts), steps)?;
    done.push(effect.what);
    for one in effect.lost_records {
        wanted.remove(&(one.collection, one.id));
    }
    Ok(wanted)
}

/// Whether the queue has every row that was written since the backup. Errs when SQLite does.
fn is_covered(connection: &Connection, newest: i64, damage: &Damage) -> Result<bool, Failure> {
    let last = positions::newest(connection)?;
    if damage.queue_mended || damage.of(&["embeddings_queue"]) || last < newest {
        return Ok(false);
    }
    let sql = "SELECT count(*) FROM embeddings_queue WHERE seq_id > ?1";
    let rows: i64 = connection.query_row(sql, [newest], |row| row.get(0))?;
    Ok(rows == last - newest)
}

/// Numbers that several records have. Errs when SQLite does.
fn repeated(connection: &Connection) -> Result<HashSet<i64>, Failure> {
    let sql = "SELECT seq_id FROM embeddings GROUP BY seq_id HAVING count(*) > 1";
    let mut statement = connection.prepare(sql)?;
    let rows = statement.query_map([], |row| Ok(position(row.get_ref(0)?)))?;
    let rows: Vec<Option<i64>> = rows.collect::<rusqlite::Result<_>>()?;
    Ok(rows.into_iter().flatten().collect())
}
