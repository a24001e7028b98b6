//! When a backup is made, and when one is opened. Pure.

use std::time::Duration;

use crate::{
    clock::Timestamp,
    collectors::backups::ledger::{Ledger, Newest, Run},
    config::BackupJob,
    format::manifest::Restores,
};

/// What is known of a store and its backups.
pub(super) struct Known<'a> {
    pub(super) job: Option<&'a BackupJob>,
    /// How often the newest backup is opened; zero for never.
    pub(super) drill: Duration,
    pub(super) ledger: &'a Ledger,
    pub(super) newest: Option<Newest>,
    /// When this program began to watch the store.
    pub(super) started: Timestamp,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Work {
    Backup(Box<BackupJob>),
    Drill(Newest),
}

/// What is next, and when; `None` when nothing is.
pub(super) fn next(known: &Known<'_>) -> Option<(Timestamp, Work)> {
    let backup = known.job.and_then(|job| {
        let due = backup_due(job, known.ledger.job.as_ref(), known.started)?;
        Some((due, Work::Backup(Box::new(job.clone()))))
    });
    let drill =
        known.newest.as_ref().filter(|_| !known.drill.is_zero()).map(|newest| {
            (drill_due(known.drill, known.ledger, newest), Work::Drill(newest.clone()))
        });
    [backup, drill].into_iter().flatten().min_by_key(|(due, _)| *due)
}

/// A time that was missed, because the exporter was not running, is made up for at once. One that failed is tried again sooner
/// than at its next time, and more and more rarely.
fn backup_due(job: &BackupJob, last: Option<&Run>, started: Timestamp) -> Option<Timestamp> {
    let scheduled = |after: Timestamp| match &job.at {
        Some(daily) => daily.after(after),
        None => Some(after.plus(job.every)),
    };
    let Some(last) = last else {
        // The first of a daily one comes at its time. Without a time it comes as soon as the exporter is settled.
        let settled = started.plus(SETTLED_AFTER);
        return if job.at.is_some() { scheduled(started) } else { Some(settled) };
    };
    let regular = scheduled(last.began)?;
    let Some(failing) = last.failing_since else { return Some(regular) };
    let patience = last.ended.since(failing).clamp(RETRY_MIN, RETRY_MAX);
    Some(regular.min(last.ended.plus(patience)))
}

/// The first time as soon as there is a backup, then so long after the last proof of any. One of which nothing could be told is
/// opened again the next day.
fn drill_due(every: Duration, ledger: &Ledger, newest: &Newest) -> Timestamp {
    let last = ledger.proofs.iter().map(|proved| &proved.proof).max_by_key(|proof| proof.at);
    match last {
        None => newest.since.plus(SETTLED_AFTER),
        Some(proof) if proof.restores == Restores::Unknown => proof.at.plus(every.min(AGAIN_AFTER)),
        Some(proof) => proof.at.plus(every),
    }
}

const SETTLED_AFTER: Duration = Duration::from_secs(10);
const RETRY_MIN: Duration = Duration::from_mins(15);
const RETRY_MAX: Duration = Duration::from_hours(6);
const AGAIN_AFTER: Duration = Duration::from_hours(24);

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{collectors::backups::ledger::Proof, facts::window::Daily};

    const HOUR: i64 = 3600;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    fn ran(began: i64, ended: i64, failing_since: Option<i64>) -> Run {
        Run {
            began: at(began),
            ended: at(ended),
            path: None,
            fault: failing_since.map_or(String::new(), |_| "no room".to_owned()),
            failing_since: failing_since.map(at),
            after_exit: None,
        }
    }

    fn due(job: &BackupJob, last: Option<&Run>, started: i64) -> Timestamp {
        backup_due(job, last, at(started)).unwrap()
    }

    #[test]
    fn a_daily_backup_comes_at_its_time_and_one_that_was_missed_at_once() {
        let daily = Daily::parse("02:00", |_| None).unwrap();
        let job = BackupJob { at: Some(daily), ..BackupJob::default() };
        let day = 24 * HOUR;
        assert_eq!(due(&job, None, 3 * HOUR), at(day + 2 * HOUR), "the first at its time");
        assert_eq!(due(&job, Some(&ran(2 * HOUR, 3 * HOUR, None)), 0), at(day + 2 * HOUR));
        let missed = due(&job, Some(&ran(2 * HOUR, 3 * HOUR, None)), 5 * day);
        assert!(missed < at(5 * day), "overdue when the exporter starts: {missed}");
    }

    #[test]
    fn one_without_a_time_of_the_day_comes_soon_and_then_by_its_interval() {
        let job = BackupJob { every: Duration::from_hours(6), ..BackupJob::default() };
        assert_eq!(due(&job, None, 100), at(110));
        assert_eq!(due(&job, Some(&ran(100, 200, None)), 0), at(100 + 6 * HOUR));
    }

    #[test]
    fn one_that_failed_is_tried_again_more_and_more_rarely_but_not_later_than_its_time() {
        let job = BackupJob { every: Duration::from_hours(24), ..BackupJob::default() };
        assert_eq!(due(&job, Some(&ran(0, 10, Some(0))), 0), at(10 + 900));
        assert_eq!(due(&job, Some(&ran(2 * HOUR, 2 * HOUR, Some(0))), 0), at(4 * HOUR));
        assert_eq!(due(&job, Some(&ran(90 * HOUR, 90 * HOUR, Some(0))), 0), at(96 * HOUR));
        let often = BackupJob { every: Duration::from_mins(5), ..BackupJob::default() };
        assert_eq!(due(&often, Some(&ran(0, 10, Some(0))), 0), at(300));
    }

    #[test]
    fn the_newest_backup_is_opened_soon_and_then_by_the_age_of_the_last_proof() {
        let newest = Newest::next(None, Path::new("/b/x"), [0; 5], at(50));
        let week = Duration::from_hours(168);
        let mut ledger = Ledger::default();
        assert_eq!(drill_due(week, &ledger, &newest), at(60));
        let mut proof = Proof {
            restores: Restores::WithLosses,
            at: at(200),
            seconds: 1.0,
            records: 0,
            losses: Vec::new(),
        };
        ledger.note(&newest, proof.clone());
        assert_eq!(drill_due(week, &ledger, &newest), at(200).plus(week));
        proof.restores = Restores::Unknown;
        ledger.note(&newest, proof);
        assert_eq!(drill_due(week, &ledger, &newest), at(200 + 24 * HOUR));
        let known =
            |job, drill, newest| Known { job, drill, ledger: &ledger, newest, started: at(0) };
        let job = BackupJob::default();
        let both = known(Some(&job), week, Some(newest.clone()));
        assert!(matches!(next(&both), Some((_, Work::Backup(_)))), "what is due first");
        assert!(next(&known(None, Duration::ZERO, Some(newest))).is_none());
        assert!(next(&known(None, week, None)).is_none());
    }
}
