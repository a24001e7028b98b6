//! `recover`: repairs a copy of a store, measures what came of it, and puts the copy in place when that is wanted. A closed table says
//! what is done about each finding. The store itself is touched by the exchange at the end, and by nothing else.

mod backup;
mod collections;
mod copy;
mod dimension;
mod documents;
mod exchange;
mod fulltext;
mod index;
mod journal;
mod lost;
mod migrations;
mod pages;
mod positions;
mod queue;
mod reload;
mod report;
mod rows;
mod salvage;
mod schema;
mod segments;
mod settings;
pub mod table;
mod tables;

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

pub use self::backup::{FromBackup, Given, GoneCollection, Has, Instead, Named};
pub use self::lost::{LostDocument, LostRecord, LostRow, Part};
pub use self::report::{Done, NotDone, Outcome, Report, Reported, StoreState};
use self::{
    backup::Damage,
    copy::Inventory,
    exchange::{exchange, unchanged},
    table::{Action, Choice},
};
use super::{
    holders::{self, Holds},
    moment::MomentError,
    proof::{self, Proven},
    quarantine::Place,
    restore::{self, RestoreError, Wish},
    steps::Steps,
    swap,
    unpack::{self, Scratch},
};
use crate::{
    clock::Timestamp,
    findings::{Code, Finding, Severity},
    format::{
        manifest::{Collection, Restores},
        uuid::{Uuid, parse_uuid},
    },
    host::processes::ProcessTable,
    store::DATABASE_FILE,
};

/// Why an action came to no end. The copy is of no use then.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// What is missing cannot be made out of what is there.
    #[error("{0}")]
    Damaged(String),
    /// SQLite, in the copy.
    #[error("SQLite says of the copy: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The disk.
    #[error("{0}")]
    Disk(#[from] io::Error),
}

/// What an action did.
#[derive(Debug, Default)]
struct Effect {
    what: String,
    /// In words, what it lost.
    losses: Vec<String>,
    /// Those of them that are about rows of a table, by the name of the table.
    of_tables: Vec<(String, String)>,
    /// Those that are about a collection whose row was put together, by its id.
    remade: Vec<(String, String)>,
    lost_documents: Vec<LostDocument>,
    lost_records: Vec<LostRecord>,
    lost_rows: Vec<LostRow>,
    gone: Gone,
}

/// What is known to be gone of the rows of `collections`.
#[derive(Debug, Default)]
struct Gone {
    /// Whether rows are: a segment without one is then a collection that was lost, and not one that was deleted.
    rows: bool,
    /// Ids of collections whose row was put together without its settings.
    settings: BTreeSet<String>,
}

impl Gone {
    /// What is to be done about that too.
    fn with(&self, mut choice: Choice, codes: &BTreeSet<Code>) -> Choice {
        if self.rows && codes.contains(&Code::OrphanRows) || !self.settings.is_empty() {
            choice.actions.insert(Action::Collections);
        }
        choice
    }
}

impl Effect {
    /// Says that rows of `table` are lost.
    fn lose(&mut self, table: &str, words: String) {
        self.of_tables.push((table.to_owned(), words.clone()));
        self.losses.push(words);
    }
}

/// What a recovery goes by.
#[derive(Debug, Clone, Copy, Default)]
pub struct Means<'a> {
    /// Where the copy is made; without that, on the filesystem of the store.
    pub scratch: Option<&'a Path>,
    /// Backups of the store, for what the store has lost: the first one that may be used is.
    pub backups: &'a [PathBuf],
    /// Segments whose collection is gone get a new one.
    pub adopt: bool,
}

/// Recovers the store of `wish`, whose `dry` is that nothing is put in place, which needs no stopped server. Errs without a change to the store, or says in which state it is.
pub fn recover(
    wish: &Wish,
    means: Means<'_>,
    processes: &ProcessTable,
    steps: &Steps,
    now: Timestamp,
) -> Result<Report, RestoreError> {
    let store = &wish.store;
    let mut report = Report::new(store);
    if wish.dry {
        if !swap::interrupted(store).is_empty() {
            return Err(RestoreError::Senseless {
                what: format!("an exchange of {} was cut off", store.display()),
                help: "bring it to its end first: chroma_exporter restore --store.path DIR",
            });
        }
    } else {
        report.settled = restore::settle(wish, processes, true, now)?.settled;
    }
    let holds = match holders::free(store, processes, wish.chroma_is_stopped) {
        // Whoever comes while it is being copied does not wait: what was copied is compared before the exchange.
        Ok(_) => None,
        // What is only tried needs no more than a copy of one moment.
        Err(holds) if wish.dry && !matches!(holds, Holds::Deleted { .. }) => Some(holds),
        Err(holds) => return Err(holds.into()),
    };
    let unreadable = |source| RestoreError::Unreadable { path: store.clone(), source };
    let inventory = Inventory::of(store).map_err(unreadable)?;
    let place = match means.scratch {
        Some(place) => place.to_owned(),
        None => scratch_place(store, wish.dry).map_err(unreadable)?,
    };
    restore::room_in(&place, inventory.needed())?;
    let unwritable = |source| RestoreError::Unwritable { path: place.clone(), source };
    let (scratch, _) = Scratch::new(&place).map_err(unwritable)?;
    let copy = scratch.path().join("store");
    fs::create_dir(&copy).map_err(unwritable)?;
    if let Some(holds) = holds {
        copy::beside_its_server(store, &copy, steps).map_err(|source| match source {
            MomentError::Stopped => RestoreError::Stopped,
            source => RestoreError::Busy { holds: holds.to_string(), source: Box::new(source) },
        })?;
        report.beside = Some(holds.to_string());
    } else {
        inventory
            .copy(store, &copy, steps)
            .map_err(|error| or_stopped(error, steps, unwritable))?;
        unchanged(store, &inventory)?;
    }
    repair(&copy, scratch.path(), means, &mut report, steps, now)?;
    if !matches!(report.outcome, Outcome::WouldRepair) || wish.dry {
        return Ok(report);
    }
    if !report.losses.is_empty() && !wish.accept_loss {
        report.outcome = Outcome::NotAccepted;
        return Ok(report);
    }
    exchange(&copy, &inventory, wish, processes, steps, &mut report)?;
    report.outcome = Outcome::Repaired;
    Ok(report)
}

/// Repairs the copy in `dir`, and says in the report what came of it. Backups are unpacked in `scratch`.
/// Errs when it was stopped, or the copy cannot be read; what cannot be repaired is in the report.
fn repair(
    dir: &Path,
    scratch: &Path,
    means: Means<'_>,
    report: &mut Report,
    steps: &Steps,
    now: Timestamp,
) -> Result<(), RestoreError> {
    let mut proven = prove(dir, steps, now)?;
    report.before = StoreState::of(&proven);
    // What is compared with the end: a transaction that was cut off is no part of the store.
    let mut counted = proven.collections.clone();
    let mut tried: BTreeSet<Action> = BTreeSet::new();
    let (mut losses, mut damage) = (Vec::new(), Damage::default());
    let mut later = false;
    let mut gone = Gone { rows: means.adopt, ..Gone::default() };
    loop {
        let choice = choose(dir, &proven, &gone, &tried);
        let Some(next) = choice.actions.iter().find(|action| !tried.contains(*action)).copied()
        else {
            break;
        };
        // The full text is made anew together with the rest of the database.
        let together = |action: &Action| next == *action || next.is_with(*action) && !later;
        let all: Vec<Action> = choice.actions.iter().copied().filter(together).collect();
        steps.begin(next.step(), None);
        let result = match next {
            Action::Collections => collections::put_back(dir, &std::mem::take(&mut gone), steps),
            _ => act(dir, &all, &choice.codes_of(&all), &proven.findings, steps),
        };
        if steps.stopped() {
            return Err(RestoreError::Stopped);
        }
        tried.extend(&all);
        match result {
            Ok(effect) => {
                damage.add(next, &effect);
                gone.rows |= effect.gone.rows;
                gone.settings.extend(effect.gone.settings.iter().cloned());
                losses.extend(report.take(next, effect));
            }
            // The index that would say which copy is right is damaged itself. Once it is read page by page, the two are compared again.
            Err(Failure::Sqlite(failure))
                if next == Action::Documents && choice.actions.contains(&Action::Reload) =>
            {
                tracing::debug!(%failure, "Documents not compared.");
                later = true;
            }
            Err(failure) => {
                let of = choice.codes_of(&all);
                let why = |code: Code| NotDone { code: code.as_str(), why: failure.to_string() };
                report.not_done.extend(of.into_iter().map(why));
                break;
            }
        }
        if next == Action::Reload && std::mem::take(&mut later) {
            tried.remove(&Action::Documents);
        }
        proven = prove(dir, steps, now)?;
        if next == Action::Journal {
            counted.clone_from(&proven.collections);
        }
    }
    let named = !report.lost_records.is_empty();
    name_the_rest(dir, &proven, report);
    let lacks = !losses.is_empty() || report.names_losses();
    if proven.proof.restores != Restores::Unknown {
        report.gone_collections =
            backup::named_in(means.backups, &report.store, &proven.collections);
    }
    let is_broken = !report.not_done.is_empty() || proven.proof.restores == Restores::Not;
    let adopt = means.adopt;
    let wanted = |backup| backup::Wanted { backup, dir, scratch, damage: &damage, adopt };
    let all = means.backups.iter().map(PathBuf::as_path).map(wanted);
    if is_broken {
        let all: Vec<_> = all.collect();
        report.from_backup = backup::instead(&all, steps, now)?;
    } else if lacks || adopt && !report.gone_collections.is_empty() {
        for wanted in all {
            if backup::fill(&wanted, report, &mut losses, steps, now)? {
                proven = prove(dir, steps, now)?;
            }
            if report.from_backup.as_ref().is_some_and(|from| from.refused.is_none()) {
                break;
            }
        }
    }
    let codes = grave(&proven);
    let choice = table::choose(&codes);
    let failed = !report.not_done.is_empty();
    // What was tried, and is still there.
    let mut stays: Vec<Code> = choice.codes_of(&choice.actions.iter().copied().collect::<Vec<_>>());
    if named {
        // An index without any vector is no folder at all: its records are named.
        stays.retain(|code| *code != Code::SegmentMissing);
    }
    say_what_stays(report, &choice, &stays);
    if !report.done.is_empty() {
        report.after = Some(StoreState::of(&proven));
    }
    losses.extend(fewer(&counted, &proven.collections));
    losses.extend(proven.losses.iter().map(ToString::to_string));
    if losses.is_empty() {
        // Chroma opens it and gets everything, but a finding stays that is more than a warning.
        let found = proven.findings.iter().filter(|one| one.severity == Severity::Critical);
        losses.extend(found.map(|one| format!("{}: {}", one.code.as_str(), one.evidence)));
    }
    report.outcome = match outcome(&proven, &codes, report.done.is_empty()) {
        _ if failed || !stays.is_empty() => Outcome::NotRepaired,
        outcome => outcome,
    };
    report.losses = losses;
    Ok(())
}

/// What came of it, when all that was tried is done.
fn outcome(proven: &Proven, codes: &BTreeSet<Code>, nothing_done: bool) -> Outcome {
    let critical = |code: &Code| code.severity() == Severity::Critical;
    match proven.proof.restores {
        Restores::Unknown => Outcome::CannotTell,
        Restores::Not => Outcome::NotRepaired,
        Restores::Whole if nothing_done && !codes.iter().any(critical) => Outcome::NothingToDo,
        _ if nothing_done => Outcome::NotRepaired,
        Restores::Whole | Restores::WithLosses => Outcome::WouldRepair,
    }
}

/// Says of each finding that stays why it does.
fn say_what_stays(report: &mut Report, choice: &table::Choice, stays: &[Code]) {
    for code in stays {
        if !report.not_done.iter().any(|one| one.code == code.as_str()) {
            let why = match code {
                Code::SegmentMissing => ALL_IN_QUEUE,
                _ => "The repair was tried, and the check still finds it.",
            };
            let why = why.to_owned();
            report.not_done.push(NotDone { code: code.as_str(), why });
        }
    }
    report
        .not_done
        .extend(choice.others(|code, why| NotDone { code: code.as_str(), why: why.to_owned() }));
}

/// Names the records without a vector that no action has named: those that were so before, and those of which rows of the queue are lost.
fn name_the_rest(dir: &Path, proven: &Proven, report: &mut Report) {
    let lacks = |one: &&Collection| one.vectors < one.records;
    let of: BTreeSet<&str> = proven.collections.iter().filter(lacks).map(|one| &*one.id).collect();
    if of.is_empty() {
        return;
    }
    match index::lacking::named(dir, &of) {
        Ok(records) => lost::add_once(&mut report.lost_records, records),
        // How many there are is said all the same.
        Err(failure) => tracing::debug!(%failure, "Records without a vector not named."),
    }
}

/// Does what belongs together to the copy. Errs when an action does.
fn act(
    dir: &Path,
    actions: &[Action],
    codes: &[Code],
    findings: &[Finding],
    steps: &Steps,
) -> Result<Effect, Failure> {
    let database = dir.join(DATABASE_FILE);
    match actions.first() {
        Some(Action::Journal) => journal::settle(dir),
        Some(Action::Documents) => documents::put_right(dir),
        Some(Action::Rows) => rows::put_right(&database, codes),
        Some(Action::Migrations) => migrations::put_right(dir),
        Some(Action::Tables) => tables::put_back(dir, steps),
        Some(Action::Settings) => settings::put_right(dir, steps),
        Some(Action::Segments) => segments::put_right(dir),
        Some(Action::Dimension) => dimension::put_right(dir),
        Some(Action::Queue) => queue::mend(dir),
        Some(Action::Reload | Action::FullText) => {
            reload::reload(&database, actions.contains(&Action::FullText), steps)
        }
        Some(Action::Index) => {
            // An index that contradicts itself, and lacks records: two processes wrote to it.
            let torn = segments_of(findings, &[Code::SegmentInconsistent]);
            let mixed = &torn & &segments_of(findings, &[Code::RecordsWithoutVector]);
            index::rebuild(dir, &segments_of(findings, codes), &mixed, None, steps)
        }
        Some(Action::Collections | Action::Backup) | None => Ok(Effect::default()),
    }
}

/// The segments that these findings are about, where they are at least warnings.
fn segments_of(findings: &[Finding], codes: &[Code]) -> BTreeSet<Uuid> {
    let found = findings.iter().filter(|one| codes.contains(&one.code));
    let grave = found.filter(|one| one.severity >= Severity::Warning);
    grave.filter_map(|one| parse_uuid(one.subject.as_bytes())).collect()
}

fn prove(dir: &Path, steps: &Steps, now: Timestamp) -> Result<Proven, RestoreError> {
    proof::prove(dir, steps, now).map_err(|error| match error {
        proof::ProofError::Unreadable { path, source } => RestoreError::Unreadable { path, source },
        proof::ProofError::Stopped => RestoreError::Stopped,
    })
}

/// What is to be done about what was found, and about what is gone.
fn choose(dir: &Path, proven: &Proven, gone: &Gone, tried: &BTreeSet<Action>) -> Choice {
    let codes = grave(proven);
    let mut choice = gone.with(table::choose(&codes), &codes);
    // Nothing else is left to do but the indexes, so that the tables can be believed.
    let next = choice.actions.iter().find(|action| !tried.contains(*action));
    if next.is_none_or(|next| *next == Action::Index) && !tried.contains(&Action::Index) {
        let segments = segments_of(&proven.findings, &[Code::RecordsWithoutVector]);
        match index::lacking::is_in_queue(dir, &segments) {
            Ok(true) => choice.repair(Code::RecordsWithoutVector, Action::Index),
            Ok(false) => {}
            Err(failure) => tracing::debug!(%failure, "The queue not searched for vectors."),
        }
    }
    choice
}

/// What was found that is at least a warning.
fn grave(proven: &Proven) -> BTreeSet<Code> {
    let grave = proven.findings.iter().filter(|finding| finding.severity >= Severity::Warning);
    grave.map(|finding| finding.code).collect()
}

/// What a collection had before, and has not any more.
fn fewer(before: &[Collection], after: &[Collection]) -> Vec<String> {
    let mut out = Vec::new();
    for was in before {
        let Some(is) = after.iter().find(|is| is.id == was.id) else {
            out.push(format!("collection {}: it is not there any more", was.name));
            continue;
        };
        for (what, was_count, count) in [
            ("records", was.records, is.records),
            ("documents", was.documents, is.documents),
            ("vectors", was.vectors, is.vectors),
        ] {
            if count < was_count {
                out.push(format!("collection {}: {count} {what} of {was_count}", was.name));
            }
        }
    }
    out
}

/// Bytes that a copy of `store` needs while it is repaired, at most. Errs when the store cannot be looked at.
pub fn needed_bytes(store: &Path) -> io::Result<u64> {
    Ok(Inventory::of(store)?.needed())
}

/// Takes away the copies that runs which were killed left where they are made when nobody says where.
pub fn sweep(store: &Path) {
    if let Ok(place) = scratch_place(store, false) {
        drop(unpack::sweep(&place));
    }
}

/// Where the copy is made when nobody says where. Errs when the directory of the store cannot be looked at.
fn scratch_place(store: &Path, dry: bool) -> io::Result<PathBuf> {
    let place = Place::of(store)?;
    // Not even a hidden folder appears in a store that is only looked at.
    Ok(if dry && place.is_inside() { std::env::temp_dir() } else { place.above().to_owned() })
}

/// A stop is no failure of the disk.
fn or_stopped(
    error: io::Error,
    steps: &Steps,
    otherwise: impl FnOnce(io::Error) -> RestoreError,
) -> RestoreError {
    if steps.stopped() { RestoreError::Stopped } else { otherwise(error) }
}

/// Why no folder is written for an index that is not there.
const ALL_IN_QUEUE: &str = "No folder is needed: Chroma makes the index anew from the queue, which has all its vectors. What is wrong is that other folders are there, which the database does not know.";

#[cfg(test)]
mod tests;
