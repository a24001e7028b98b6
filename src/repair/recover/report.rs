//! What a recovery says of itself.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{
    Effect, FromBackup, GoneCollection, LostDocument, LostRecord, LostRow, lost, table::Action,
};
use crate::{
    findings::Severity,
    format::manifest::{Collection, Restores},
    repair::{proof::Proven, quarantine::Way, swap::Settled},
};

/// What was found, what was done, and what came of it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Which.
    pub outcome: Outcome,
    /// The directory of the store.
    pub store: PathBuf,
    /// Who uses the store: the copy that was tried is of one moment.
    pub beside: Option<String>,
    /// The store as it was found.
    pub before: StoreState,
    /// The repaired copy; absent when nothing was done.
    pub after: Option<StoreState>,
    /// What was done to the copy, in this order.
    pub done: Vec<Done>,
    /// What was not repaired, and why.
    pub not_done: Vec<NotDone>,
    /// What is missing or damaged in the end.
    pub losses: Vec<String>,
    /// Documents that no record has any more, all of them.
    pub lost_documents: Vec<LostDocument>,
    /// Records that are there and have lost a part of themselves, all of them.
    pub lost_records: Vec<LostRecord>,
    /// Rows of damaged pages that stand nowhere else, as far as anything still names them.
    pub lost_rows: Vec<LostRow>,
    /// Collections that the newest backup has, and the store has not.
    pub gone_collections: Vec<GoneCollection>,
    /// What a backup gave back, when one was named and something was lost.
    pub from_backup: Option<FromBackup>,
    /// Where the old content is, when the copy is in place.
    pub quarantine: Option<PathBuf>,
    /// How the content was exchanged.
    pub way: Way,
    /// Why not in one call.
    pub reason: Option<String>,
    /// What runs that ended half-way had left, and what became of it.
    pub settled: Vec<(PathBuf, Settled)>,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The store needs no repair.
    NothingToDo,
    /// The copy was repaired; the store is as it was.
    WouldRepair,
    /// The repaired copy is in place.
    Repaired,
    /// The copy was repaired with losses, and nobody has said that they are accepted. The store is as it was.
    NotAccepted,
    /// The store is as it was.
    NotRepaired,
    /// Not everything could be looked at. The store is as it was.
    CannotTell,
}

/// What all checks say of a store.
#[derive(Debug, Clone, Serialize)]
pub struct StoreState {
    /// Whether Chroma gets everything out of it.
    pub restores: Restores,
    /// Findings that are at least a warning, gravest first.
    pub findings: Vec<Reported>,
    /// Every collection; empty when the tables cannot be read.
    pub collections: Vec<Collection>,
}

/// A finding of a look.
#[derive(Debug, Clone, Serialize)]
pub struct Reported {
    /// Its code.
    pub code: &'static str,
    /// What was seen.
    pub evidence: String,
}

/// A step that was done.
#[derive(Debug, Clone, Serialize)]
pub struct Done {
    /// Which.
    pub action: Action,
    /// What it did, with its numbers.
    pub what: String,
}

/// A finding that stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotDone {
    /// Its code.
    pub code: &'static str,
    /// Why, and what helps instead.
    pub why: String,
}

impl StoreState {
    pub(super) fn of(proven: &Proven) -> Self {
        let grave = proven.findings.iter().filter(|one| one.severity >= Severity::Warning);
        Self {
            restores: proven.proof.restores,
            findings: grave
                .map(|one| Reported { code: one.code.as_str(), evidence: one.evidence.clone() })
                .collect(),
            collections: proven.collections.clone(),
        }
    }
}

impl Report {
    /// Takes in what an action did, and gives its losses in words.
    pub(super) fn take(&mut self, action: Action, effect: Effect) -> Vec<String> {
        self.done.push(Done { action, what: effect.what });
        self.lost_documents.extend(effect.lost_documents);
        lost::add_once(&mut self.lost_records, effect.lost_records);
        self.lost_rows.extend(effect.lost_rows);
        effect.losses
    }

    /// Whether something is named that is lost.
    pub(super) const fn names_losses(&self) -> bool {
        !(self.lost_records.is_empty()
            && self.lost_rows.is_empty()
            && self.lost_documents.is_empty())
    }

    pub(super) fn new(store: &Path) -> Self {
        let before = StoreState {
            restores: Restores::Unknown,
            findings: Vec::new(),
            collections: Vec::new(),
        };
        Self {
            outcome: Outcome::CannotTell,
            store: store.to_owned(),
            beside: None,
            before,
            after: None,
            done: Vec::new(),
            not_done: Vec::new(),
            losses: Vec::new(),
            lost_documents: Vec::new(),
            lost_records: Vec::new(),
            lost_rows: Vec::new(),
            gone_collections: Vec::new(),
            from_backup: None,
            quarantine: None,
            way: Way::default(),
            reason: None,
            settled: Vec::new(),
        }
    }
}
