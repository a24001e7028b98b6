//! What `guard` does about a store that may not be served: a repair that loses nothing; and where that is not enough, what the
//! operator chose for it: the newest backup that proves to restore, or an empty store. What was there is kept in any case.

use std::path::{Path, PathBuf};

use super::super::restore::complaint;
use crate::{
    clock,
    findings::{Finding, command},
    host::processes::ProcessTable,
    repair::{
        backup::dated,
        recover::{
            self, Outcome,
            table::{self, Answer},
        },
        restore::{self, RestoreError, Wish},
        steps::Steps,
        swap::{self, Settled},
    },
};

/// What to do when a repair would lose something, or there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum OnLoss {
    /// Do not start the program.
    Refuse,
    /// Put the newest backup in place that proves to restore whole.
    Restore,
    /// The same, and without such a backup start with an empty store.
    Reinitialise,
}

/// Where to repair, and how far that may go.
pub(super) struct Mender<'a> {
    /// The directory, without links.
    pub(super) store: PathBuf,
    /// Where the configuration has backups of it made.
    pub(super) made: Option<&'a Path>,
    pub(super) on_loss: OnLoss,
    /// Directories with backups.
    pub(super) backups: &'a [PathBuf],
    pub(super) processes: &'a ProcessTable,
    pub(super) say: &'a dyn Fn(&str),
}

impl Mender<'_> {
    /// Ends what an exchange that was cut off has left, where nobody is at work on it.
    pub(super) fn tidy(&self) {
        recover::sweep(&self.store);
        if swap::interrupted(&self.store).is_empty() {
            return;
        }
        match restore::resume(&self.wish(), self.processes, clock::now()) {
            Ok(report) => self.settled(&report.settled),
            // Who holds the store is told by the look at it.
            Err(RestoreError::Held(_)) => {}
            Err(error) => {
                self.failed(&error);
            }
        }
    }

    /// Whether the store is another one now, and worth another look. Says what it does, and why it does not.
    pub(super) fn mend(&self, findings: &[Finding]) -> bool {
        let repairable =
            |finding: &Finding| matches!(table::answer(finding.code), Answer::Repair(_));
        if findings.iter().any(repairable) && self.recover() {
            return true;
        }
        match self.on_loss {
            OnLoss::Refuse => false,
            OnLoss::Restore => self.restore(),
            OnLoss::Reinitialise => self.restore() || self.reinitialise(),
        }
    }

    fn wish(&self) -> Wish {
        Wish {
            store: self.store.clone(),
            accept_loss: false,
            chroma_is_stopped: false,
            dry: false,
            only: None,
        }
    }

    fn recover(&self) -> bool {
        (self.say)("repairing a copy of it");
        let (steps, now) = (Steps::default(), clock::now());
        // What a backup has in the same version is not lost.
        let backups = self.newest_backups();
        let means = recover::Means { backups: &backups, ..recover::Means::default() };
        let result = recover::recover(&self.wish(), means, self.processes, &steps, now);
        let report = match result {
            Ok(report) => report,
            Err(error) => return self.failed(&error),
        };
        self.settled(&report.settled);
        for done in &report.done {
            (self.say)(&format!("on the copy: {}", done.what));
        }
        if report.outcome == Outcome::Repaired {
            self.replaced("repaired, and nothing is lost", report.quarantine.as_deref());
            return true;
        }
        for one in &report.not_done {
            (self.say)(&format!("not repaired: {}: {}", one.code, one.why));
        }
        for loss in &report.losses {
            (self.say)(&format!("a repair would lose: {loss}"));
        }
        // An exchange that was brought to its end may have been all that was the matter.
        report.outcome == Outcome::NothingToDo && !report.settled.is_empty()
    }

    fn newest_backups(&self) -> Vec<PathBuf> {
        dated::newest(self.backups, self.made.map(|dir| (dir, &*self.store)))
    }

    fn restore(&self) -> bool {
        let candidates = self.newest_backups();
        if candidates.is_empty() {
            let named = self.backups.iter().map(|dir| &**dir);
            let places: Vec<String> =
                named.chain(self.made).map(|dir| dir.display().to_string()).collect();
            let place = if places.is_empty() {
                "no directory with backups is named; add --backups DIR".to_owned()
            } else {
                format!("there is none in {}", places.join(", "))
            };
            (self.say)(&format!("no backup to restore: {place}"));
        }
        for backup in &candidates {
            (self.say)(&format!("trying the backup {}", backup.display()));
            let (steps, now) = (Steps::default(), clock::now());
            match restore::restore(backup, &self.wish(), self.processes, &steps, now) {
                Ok(report) => {
                    let moment = report.moment.map(|at| format!(", as it was at {at}"));
                    let what =
                        format!("restored from {}{}", backup.display(), moment.unwrap_or_default());
                    self.replaced(&what, report.quarantine.as_deref());
                    return true;
                }
                Err(error) => {
                    self.failed(&error);
                }
            }
        }
        false
    }

    fn reinitialise(&self) -> bool {
        match restore::empty(&self.wish(), self.processes, clock::now()) {
            Ok(report) => {
                self.replaced(
                    "empty now: Chroma will begin a new store",
                    report.quarantine.as_deref(),
                );
                true
            }
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&self, error: &RestoreError) -> bool {
        for line in complaint(error).lines() {
            (self.say)(line);
        }
        false
    }

    fn settled(&self, settled: &[(PathBuf, Settled)]) {
        for (path, _) in settled {
            (self.say)(&format!(
                "an exchange that was cut off was brought to its end: {}",
                path.display()
            ));
        }
    }

    fn replaced(&self, what: &str, kept: Option<&Path>) {
        (self.say)(&format!("{what}: {}", self.store.display()));
        if let Some(kept) = kept {
            (self.say)(&format!("the old content is in {}", kept.display()));
        }
        let undo =
            command("chroma_exporter restore --store.path {path} --undo", &[("path", &self.store)]);
        if let Some(undo) = undo {
            (self.say)(&format!("to undo, with the program stopped: {undo}"));
        }
    }
}
