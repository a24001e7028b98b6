//! Checks that have come to no verdict for too long.

use std::time::Duration;

use super::{Integrity, checks::Check, job::Job, judge::Obstacle, schedule};
use crate::{
    clock::Timestamp,
    facts::duration,
    findings::{Code, Finding},
    sample::CheckState,
};

impl Integrity {
    /// Keeps the books on checks that are overdue.
    pub(super) fn note_overdue(&mut self, now: Timestamp) {
        let memory = self.memory.get_or_insert_default();
        // Without a database there is nothing to check, which is said elsewhere.
        let since = *memory.since.get_or_insert(now);
        let since = if since > now { *memory.since.insert(now) } else { since };
        let nothing =
            self.cheap.as_ref().and_then(|cheap| cheap.judged.obstacle) == Some(Obstacle::NoFile);
        for check in Check::ALL {
            let (past, collect) = (memory.past(check), &self.context.config.collect);
            match schedule::overdue(check, past, since, collect, now).filter(|_| !nothing) {
                Some(without) => {
                    let noticed = self.overdue.get(check.as_str()).map_or(now, |(at, _)| *at);
                    self.overdue.insert(check.as_str(), (noticed.min(now), without));
                }
                None => drop(self.overdue.remove(check.as_str())),
            }
        }
    }

    /// Those that are overdue and had their chance: after a pause of the program or of the host every check is overdue, and
    /// gets the time to be run first; one that lasts long, or waits for its turn, is not told while it is under way. `deep`
    /// says that it was run just now.
    pub(super) fn overdue_findings(
        &self,
        now: Timestamp,
        deep: bool,
    ) -> impl Iterator<Item = Finding> {
        let overdue = Check::ALL.into_iter().filter_map(move |check| {
            let (noticed, without) = *self.overdue.get(check.as_str())?;
            (deep || self.had_its_chance(check, noticed, now)).then_some((check, without))
        });
        overdue.map(|(check, without)| {
            let state = match self.obstacle() {
                Some(obstacle) => obstacle.state(),
                None => self.past(check).map_or(CheckState::Unknown, |past| past.state),
            };
            let name = check.as_str();
            let interval = schedule::interval(check, &self.context.config.collect);
            let evidence = format!(
                "the check {name} has come to no verdict for {}, its interval is {}; the last attempt said {}",
                duration::format(whole_minutes(without)),
                duration::format(interval),
                state.as_str()
            );
            Finding::new(Code::CheckOverdue, name, evidence)
        })
    }

    /// Whether a check that was noticed to be overdue has been run in vain since, or does not get to it.
    fn had_its_chance(&self, check: Check, noticed: Timestamp, now: Timestamp) -> bool {
        let collect = &self.context.config.collect;
        if now.since(noticed) < schedule::interval(check, collect).min(OVERDUE_GRACE) {
            return false;
        }
        let tried = self.past(check).and_then(|past| past.last_run).is_some_and(|at| at > noticed);
        // One that holds it up counts as well: it is next.
        let expensive = check.reads_whole_files();
        let patience = collect.check_deadline * 2;
        let under_way =
            |job: &Job| job.is_expensive() == expensive && now.since(job.began) < patience;
        tried || !self.jobs.iter().any(under_way)
    }
}

/// For people: of what lasts long the seconds do not matter.
fn whole_minutes(duration: Duration) -> Duration {
    let unit = if duration < OVERDUE_GRACE { 1 } else { 60 };
    Duration::from_secs(duration.as_secs() / unit * unit)
}

/// How long a check that is overdue has to be run before that is told.
const OVERDUE_GRACE: Duration = Duration::from_mins(10);
