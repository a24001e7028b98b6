//! What the exporter itself did with the backups of a store: those that it made, and those that it opened to prove that they
//! restore. `serve` writes it down, the collector reads it.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

pub use super::proof::Proof;

use super::entry::{Entry, Stamp};
use crate::{clock::Timestamp, host::state::StateDir};

/// What was done, as a state document of the store.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    /// The last backup that was tried.
    pub job: Option<Run>,
    /// The last proof of each backup, the newest first.
    pub proofs: Vec<Proved>,
}

/// One run of the backup that the exporter makes by itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// When it began.
    pub began: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// The backup, when there is one.
    pub path: Option<PathBuf>,
    /// Why there is none, or what is wrong with it; empty when all is well.
    pub fault: String,
    /// Since when no run went well.
    pub failing_since: Option<Timestamp>,
    /// Exit code of the program that runs afterwards; absent when there is none, or when it was not run.
    pub after_exit: Option<i32>,
}

/// One backup that was opened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Proved {
    /// Where it lies.
    pub path: PathBuf,
    /// Its bytes then: one that has changed since is unproven.
    stamp: Stamp,
    /// What came of it.
    #[serde(flatten)]
    pub proof: Proof,
}

/// The newest backup that the collector knows: what the drill opens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Newest {
    /// Where it lies.
    pub path: PathBuf,
    /// Its bytes.
    stamp: Stamp,
    /// When a backup was seen for the first time.
    pub since: Timestamp,
}

impl Ledger {
    /// What was written down about the store `subject`; empty when nothing was.
    #[must_use]
    pub fn load(state: &StateDir, subject: &Path) -> Self {
        state.load(LEDGER, subject).unwrap_or_default()
    }

    /// Writes it down.
    pub fn save(&self, state: &StateDir, subject: &Path) {
        state.save(LEDGER, subject, self);
    }

    /// Notes what came of opening `backup`.
    pub fn note(&mut self, backup: &Newest, proof: Proof) {
        self.proofs.retain(|proved| proved.path != backup.path);
        let proved = Proved { path: backup.path.clone(), stamp: backup.stamp, proof };
        self.proofs.insert(0, proved);
        self.proofs.truncate(PROOFS_MAX);
    }

    /// What is known of the backup at `path`, as long as its bytes are the same.
    pub(super) fn proof(&self, path: &Path, stamp: &Stamp) -> Option<&Proof> {
        let known = self.proofs.iter().find(|proved| proved.path == path)?;
        (known.stamp == *stamp).then_some(&known.proof)
    }
}

impl Newest {
    /// What the collector has written down.
    #[must_use]
    pub fn load(state: &StateDir, subject: &Path) -> Option<Self> {
        state.load(NEWEST, subject)
    }

    /// The backup at `path` as it is now. Errs when it cannot be looked at.
    pub fn at(path: &Path, now: Timestamp) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), stamp: Entry::of(path)?.stamp(), since: now })
    }

    /// The newest backup now; `before` is what was the newest at the last look.
    pub(crate) fn next(before: Option<&Self>, path: &Path, stamp: Stamp, now: Timestamp) -> Self {
        let since = before.map_or(now, |before| before.since);
        Self { path: path.to_owned(), stamp, since }
    }

    pub(super) fn save(&self, state: &StateDir, subject: &Path) {
        state.save(NEWEST, subject, self);
    }
}

const LEDGER: &str = "backup-jobs";
const NEWEST: &str = "backup-newest";
/// As many backups as anybody keeps an eye on.
const PROOFS_MAX: usize = 500;
