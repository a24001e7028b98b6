//! What is known of backups that were opened, and of those that the exporter makes by itself: the numbers, and when their lack is
//! a finding.

use std::time::Duration;

use super::{
    Backups,
    entry::{Backup, Complete, Fault, Reason, name_of},
    proof::Proof,
};
use crate::{
    clock::Timestamp,
    findings::{Code, Finding, command},
    format::manifest::Restores,
    sample::{Desc, Sample},
};

pub(super) static PROVEN: Desc = Desc::gauge(
    "chroma_backup_proven_timestamp_seconds",
    "When the newest backup that was opened and proven to restore was made, cached; absent when there is none.",
);
pub(super) static PROVEN_COUNT: Desc = Desc::gauge(
    "chroma_backups_proven",
    "Complete backups that were opened and proven to restore, among the 500 newest that were found, cached.",
);
pub(super) static PROVEN_RECORDS: Desc = Desc::gauge(
    "chroma_backup_proven_records",
    "Records in the newest backup that was proven to restore, cached; absent when there is none.",
);
pub(super) static PROOF: Desc = Desc::gauge(
    "chroma_backup_last_proof_timestamp_seconds",
    "When a backup was opened last to see whether it restores, whatever came of it, cached; absent when none was.",
);
pub(super) static PROOF_SECONDS: Desc = Desc::gauge(
    "chroma_backup_last_proof_duration_seconds",
    "How long that took, cached; absent when no backup was opened.",
);
pub(super) static JOB_SUCCESS: Desc = Desc::gauge(
    "chroma_backup_job_success",
    "Whether the last backup that the exporter tried to make by itself was made and proven, and what runs afterwards succeeded; absent when it has tried none.",
);
pub(super) static JOB_TIME: Desc = Desc::gauge(
    "chroma_backup_job_last_run_timestamp_seconds",
    "When the last backup that the exporter tried to make by itself began; absent when it has tried none.",
);
pub(super) static JOB_SECONDS: Desc = Desc::gauge(
    "chroma_backup_job_last_run_duration_seconds",
    "How long that took; absent when the exporter has tried none.",
);
pub(super) static AFTER_EXIT: Desc = Desc::gauge(
    "chroma_backup_job_after_exit_code",
    "Exit code of the program that ran after the last backup of the exporter; absent when none ran.",
);

impl Backups {
    /// Whether no backup was opened for longer than the policy allows, or the newest that was does not restore whole.
    pub(super) fn unverified(
        &self,
        backups: &[Backup],
        newest: &Backup,
        now: Timestamp,
    ) -> Option<Finding> {
        let drill = self.context.store.backups.drill;
        if drill.is_zero() {
            return None;
        }
        let complete = |backup: &&Backup| backup.state.is_ok();
        let proof = |backup: &Backup| backup.state.as_ref().ok()?.proof.clone();
        let opened = backups.iter().filter(complete).filter(|backup| proof(backup).is_some());
        let last = opened.max_by_key(|backup| backup.taken);
        let name = name_of(&newest.path);
        let path = newest.path.display();
        let verify = |backup: &Backup| {
            command("chroma_exporter verify {backup}", &[("backup", backup.path.as_path())])
        };
        let finding = |of: &Backup, evidence| {
            Finding::new(Code::BackupUnverified, name.clone(), evidence).with_command(verify(of))
        };
        let Some((last, proof)) = last.and_then(|last| Some((last, proof(last)?))) else {
            // The exporter opens it soon; where none runs it is no alarm.
            let since = self.newest.as_ref().map(|newest| now.since(newest.since));
            let due = since.is_some_and(|since| since > UNVERIFIED_AFTER);
            let evidence = format!("the newest backup {path} was never opened");
            return due.then(|| finding(newest, evidence));
        };
        if proof.restores != Restores::Whole {
            let what = match proof.restores {
                Restores::Unknown => "could not be told to restore",
                _ => "restores with losses",
            };
            let losses = list_losses(&proof.losses);
            let evidence = format!("the backup {} {what}{losses}", last.path.display());
            return Some(finding(last, evidence).with_items(&proof.losses));
        }
        let age = now.since(proof.at);
        (age > drill.saturating_add(UNVERIFIED_AFTER)).then(|| {
            let days = age.as_secs() / 86_400;
            let words = format!("no backup was opened for {days} days, the newest is {path}");
            finding(newest, words)
        })
    }

    /// Whether the last backup that the exporter tried to make by itself failed.
    pub(super) fn failed(&self) -> Option<Finding> {
        let job = self.context.store.backup.as_ref()?;
        let run = self.ledger.job.as_ref().filter(|run| !run.fault.is_empty())?;
        let since = run.failing_since.unwrap_or(run.began);
        let evidence =
            format!("the backup of {} to {}: {}", run.began, job.to.display(), run.fault);
        Some(Finding::new(Code::BackupFailed, "", format!("{evidence}. It fails since {since}")))
    }

    /// What was done by this program, as numbers.
    pub(super) fn done(&self, backups: &[Backup], blind: bool) -> Vec<Sample> {
        let mut out = Vec::new();
        if let Some(run) = &self.ledger.job {
            out.push(JOB_SUCCESS.sample(f64::from(u8::from(run.fault.is_empty()))));
            out.push(JOB_TIME.sample(run.began.as_secs_f64()));
            out.push(JOB_SECONDS.sample(run.ended.since(run.began).as_secs_f64()));
            out.extend(run.after_exit.map(|code| AFTER_EXIT.sample(f64::from(code))));
        }
        let complete = |b: &'_ Backup| b.state.as_ref().ok().cloned();
        let proofs = backups.iter().filter_map(|b| complete(b)?.proof);
        let ledger = self.ledger.proofs.iter().map(|proved| proved.proof.clone());
        if let Some(last) = proofs.chain(ledger).max_by_key(|proof| proof.at) {
            out.push(PROOF.sample(last.at.as_secs_f64()));
            out.push(PROOF_SECONDS.sample(last.seconds));
        }
        if blind {
            return out;
        }
        let proven = |b: &&Backup| b.state.as_ref().is_ok_and(Complete::is_proven);
        out.push(PROVEN_COUNT.sample(backups.iter().filter(proven).count() as f64));
        if let Some(newest) = backups.iter().filter(proven).max_by_key(|backup| backup.taken) {
            out.push(PROVEN.sample(newest.taken.as_secs_f64()));
            let records = complete(newest).and_then(|whole| whole.proof).map(|proof| proof.records);
            out.extend(records.map(|records| PROVEN_RECORDS.sample(records as f64)));
        }
        out
    }
}

/// A backup of which nothing would come back.
pub(super) fn does_not_restore(proof: &Proof) -> Fault {
    Fault::new(
        Reason::Damaged,
        format!("it was opened and does not restore{}", list_losses(&proof.losses)),
    )
}

/// What is missing, as the end of a sentence.
fn list_losses(losses: &[String]) -> String {
    if losses.is_empty() { String::new() } else { format!(": {}", losses.join(", ")) }
}

/// A backup may wait so long to be opened for the first time, and the drill may be late by so much.
const UNVERIFIED_AFTER: Duration = Duration::from_hours(26);
