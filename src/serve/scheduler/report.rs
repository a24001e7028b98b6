//! What a reading is told to: the log, the finding of a collector that fails, the board.

use std::time::Duration;

use tracing::{debug, info, warn};

use super::Board;
use crate::{
    clock::{self, Ticks},
    collectors::{CollectError, Pace, Run},
    config::CollectorName,
    findings::{Code, Finding},
    sample::Reading,
    store::Context,
};

/// Tells the readings of one collector to whoever wants to know.
#[derive(Debug, Default)]
pub(super) struct Report {
    log: ProblemLog,
    failing: Failing,
}

impl Report {
    pub(super) fn put(
        &mut self,
        context: &Context,
        board: &Board,
        name: CollectorName,
        mut reading: Reading,
        pace: &Pace,
        run: &Run,
    ) {
        self.log.note(context, &reading);
        let failing = self.failing.note(&reading, pace.interval, clock::ticks());
        reading.observation.findings.extend(failing);
        board.put(&context.store.name, name, reading, !run.wake.is_empty());
    }
}

/// Since when a collector has been failing without a break.
#[derive(Debug, Default)]
pub(super) struct Failing {
    since: Option<Ticks>,
}

impl Failing {
    /// The finding once it has failed for more than three of its intervals, and not less than a minute: one bad reading is no
    /// news.
    pub(super) fn note(
        &mut self,
        reading: &Reading,
        interval: Duration,
        now: Ticks,
    ) -> Option<Finding> {
        // What cannot be seen from this place will not be seen tomorrow either: that is told, and is no failure.
        let mut problems = reading.observation.problems.iter();
        let Some(problem) = problems.find(|problem| !problem.by_place()) else {
            self.since = None;
            return None;
        };
        let failing = now.since(*self.since.get_or_insert(now));
        (failing > (interval * FAILING_INTERVALS).max(FAILING_MIN)).then(|| {
            let minutes = failing.as_secs() / 60;
            let evidence = format!("for {minutes} min: {}", problem.chain());
            Finding::new(Code::CollectorFailing, reading.collector, evidence)
        })
    }
}

const FAILING_INTERVALS: u32 = 3;
const FAILING_MIN: Duration = Duration::from_mins(1);

/// Logs the first problem and each different one, not every attempt.
#[derive(Debug, Default)]
struct ProblemLog {
    said: Vec<String>,
}

impl ProblemLog {
    pub(super) fn note(&mut self, context: &Context, reading: &Reading) {
        // Durations in a message change with every run; the variant and the path tell whether it is a new one.
        let kinds: Vec<String> = reading.observation.problems.iter().map(problem_key).collect();
        for (problem, kind) in reading.observation.problems.iter().zip(&kinds) {
            // The fleet tells once that a store ends, instead of each collector.
            if self.said.contains(kind) || matches!(problem, CollectError::OutOfReach(_)) {
                continue;
            }
            if problem.by_place() {
                info!(store = %context.store.name, collector = reading.collector, problem = %problem.chain(), hint = problem.hint(), "Not everything can be seen from here.");
            } else {
                warn!(store = %context.store.name, collector = reading.collector, problem = %problem.chain(), hint = problem.hint(), "Reading failed.");
            }
        }
        if kinds.is_empty() && !self.said.is_empty() {
            info!(store = %context.store.name, collector = reading.collector, "Reading works again.");
        }
        debug!(store = %context.store.name, collector = reading.collector, seconds = reading.duration.as_secs_f64(), "Collector run done.");
        self.said = kinds;
    }
}

fn problem_key(problem: &CollectError) -> String {
    match problem {
        CollectError::Hung { path, .. } => format!("hung {}", path.display()),
        other => other.chain(),
    }
}
