//! Whether the SQLite file is whole. Header and journal are looked at in every run without a lock; schema, `quick_check`
//! and `integrity_check` run on a thread of their own, on schedule and after changes, and what they said survives a
//! restart. Busy is not corrupt, and what was given up is unknown.

pub mod checks;
mod compare;
mod cut_off;
mod decay;
mod inspection;
mod job;
mod judge;
mod memory;
mod nearby;
mod overdue;
mod remains;
mod samples;
mod schedule;

pub(super) use samples::DESCS;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;

use self::{
    checks::{Check, GAVE_UP, TORN_FULL_TEXT},
    compare::{Compare, Compared},
    cut_off::Left,
    decay::Ledger,
    inspection::{Inspection, Stamps},
    job::{Job, Order, Ran},
    judge::{Background, Judged, Obstacle, judge},
    memory::{Content, SavedChecks},
    nearby::Nearby,
    schedule::When,
};
use super::{
    CollectError, Collector, Pace, Run,
    rhythm::{self, Rhythm},
};
use crate::{
    clock::{self, Timestamp},
    config::{CollectorName, Config, Store},
    facts::wake::Wake,
    findings::{Code, Finding, Severity},
    host::links,
    sample::{CheckState, Desc, Observation, Restored},
    store::Context,
};

static CODES: [Code; 25] = [
    Code::StoreMissing,
    Code::SqliteMissing,
    Code::SqliteEmpty,
    Code::SqliteNotRegular,
    Code::RestoreInterrupted,
    Code::NotAStore,
    Code::SqliteNotADatabase,
    Code::SqliteHeaderDamaged,
    Code::SqliteTruncated,
    Code::SqliteCorrupt,
    Code::SqliteIndexCorrupt,
    Code::SegmentInconsistent,
    Code::FtsCorrupt,
    Code::FtsMissing,
    Code::HotJournal,
    Code::JournalForeign,
    Code::WalMode,
    Code::SchemaNewerThanServer,
    Code::MigrationMismatch,
    Code::MigrationsMissing,
    Code::TableMissing,
    Code::DefaultTenantMissing,
    Code::DefaultDatabaseMissing,
    Code::CatalogEmpty,
    Code::CheckOverdue,
];

/// What the cheap look said, for runs in which nothing changed.
#[derive(Debug)]
struct Cheap {
    stamps: Stamps,
    judged: Judged,
    at: Timestamp,
}

/// The collector.
#[derive(Debug)]
pub struct Integrity {
    context: Context,
    memory: Option<SavedChecks>,
    cheap: Option<Cheap>,
    /// Where the store may be that was meant, while the path is none, and when that was looked for.
    nearby: Option<(Timestamp, Nearby)>,
    /// What restores have left, and when that was looked for.
    left: Option<(Timestamp, Left)>,
    /// At most one that reads whole files, and may wait for its turn, and one that does not.
    jobs: Vec<Job>,
    /// Where the store stands among all.
    spread: u64,
    /// Hashes of what was read, when there is no state directory to keep them in.
    kept: Arc<Mutex<Option<Ledger>>>,
    /// Which checks are overdue, since when that has been known, and for how long they have been without a verdict.
    overdue: BTreeMap<&'static str, (Timestamp, Duration)>,
    /// What came of asking SQLite too, in the newest full check of this program.
    compared: Option<Compared>,
    /// Problems of the newest run of each check.
    problems: BTreeMap<&'static str, Arc<CollectError>>,
}

impl Integrity {
    /// Looks at nothing yet.
    #[must_use]
    pub fn new(context: &Context) -> Self {
        Self {
            context: context.clone(),
            memory: None,
            cheap: None,
            nearby: None,
            left: None,
            jobs: Vec::new(),
            spread: rhythm::spread(
                rustix::system::uname().nodename().to_bytes(),
                &context.store.path,
            ),
            kept: Arc::default(),
            overdue: BTreeMap::new(),
            compared: None,
            problems: BTreeMap::new(),
        }
    }

    /// What runs before this program knew, once.
    fn recall(&mut self) {
        if self.memory.is_none() {
            let state = &self.context.host.state;
            let known = state.load(STATE_KIND, &self.context.store.subject());
            self.memory = Some(known.unwrap_or_default());
        }
    }

    /// Looks again until two looks in a row say the same of the same bytes, or calls it busy.
    fn inspect(&mut self, run: &Run) {
        let path = self.context.database.path().to_owned();
        let quick_interval = self.context.config.collect.quick_check_interval;
        if let Some(cheap) = &self.cheap
            && cheap.judged.calm()
            && cheap.judged.readable()
            && !cheap.judged.writing
            && cheap.stamps == Stamps::take(&path)
            && cheap.stamps.database.is_some()
            && !run.deep
            && run.now.since(cheap.at) < quick_interval
        {
            return;
        }
        let background = Background { now: run.now, was_there: self.was_there() };
        let take = || {
            let inspection = Inspection::take(&self.context.place(), &self.context.database);
            (inspection.stamps, judge(inspection, background))
        };
        let (mut stamps, mut judged) = take();
        for attempt in 0..READINGS_MAX {
            if judged.calm() {
                break;
            }
            std::thread::sleep(READING_PAUSE);
            let (stamps_again, again) = take();
            let settled = stamps == stamps_again && judged.says_the_same(&again);
            (stamps, judged) = (stamps_again, again);
            if settled {
                break;
            }
            if attempt + 1 == READINGS_MAX {
                // Something is at work on it: nothing can be said this time.
                judged.header.make_busy();
                judged.journal.make_busy();
            }
        }
        self.name_the_store(&mut judged, run.now);
        self.cheap = Some(Cheap { stamps, judged, at: run.now });
    }

    /// When the path is no store and never was: which directory was meant.
    fn name_the_store(&mut self, judged: &mut Judged, now: Timestamp) {
        let lost = |finding: &Finding| matches!(finding.code, Code::StoreMissing | Code::NotAStore);
        if self.was_there() || !judged.header.findings.iter().any(lost) {
            self.nearby = None;
            return;
        }
        let (at, nearby) = match self.nearby.take() {
            Some((at, nearby)) if now.since(at) < NEARBY_INTERVAL && now >= at => (at, nearby),
            _ => {
                let store = &self.context.store;
                (now, Nearby::of(&self.context.config.rootfs, &store.seen_path, &store.path))
            }
        };
        let findings = std::mem::take(&mut judged.header.findings);
        judged.header.findings =
            findings.into_iter().map(|finding| nearby.add_to(finding)).collect();
        self.nearby = Some((at, nearby));
    }

    /// What restores have left. It lies beside the store and may change without it.
    fn find_restores(&mut self, run: &Run) {
        let known = self.left.as_ref().is_some_and(|(at, left)| {
            left.findings.is_empty() && run.now.since(*at) < LEFT_INTERVAL && run.now >= *at
        });
        if known && !run.deep {
            return;
        }
        let (rootfs, seen) = (&self.context.config.rootfs, &self.context.store.seen_path);
        let dir = links::follow(rootfs, seen).unwrap_or_else(|_| seen.clone());
        self.left = Some((run.now, cut_off::find(&dir, run.now)));
    }

    fn was_there(&self) -> bool {
        self.memory.as_ref().is_some_and(|memory| memory.had_database)
    }

    /// The content that checks would be about now.
    fn content(&self) -> Option<Content> {
        let (stamp, header) = self.cheap.as_ref()?.judged.database?;
        Some(Content::of(stamp, header?))
    }

    fn obstacle(&self) -> Option<Obstacle> {
        self.cheap.as_ref().and_then(|cheap| cheap.judged.obstacle)
    }

    /// Notes an end that was not in order: the checks are then due at once. A server that was killed leaves a hot journal when
    /// that mattered; after a crash of the host nothing is known of what came to the disk.
    fn note_unclean(&mut self, now: Timestamp) {
        let content = self.content();
        let hot = self.obstacle() == Some(Obstacle::HotJournal);
        let (boot, ended_in) = (&self.context.host.boot, &self.context.host.ended_in);
        let memory = self.memory.get_or_insert_default();
        let was_hot = memory.unclean;
        if hot {
            memory.unclean = Some(now);
        }
        let another = boot.is_some() && memory.boot != *boot;
        if another {
            let crashed = memory.boot.is_some() && memory.boot != *ended_in;
            let same = memory.past(Check::Full).is_some_and(|past| past.about == content);
            if crashed && content.is_some() && !same {
                memory.unclean = Some(now);
            }
            memory.boot.clone_from(boot);
        }
        // Once for each occasion: what a restart would forget is that there was one.
        let began = hot && was_hot.is_none_or(|at| now.since(at) > UNCLEAN_APART || at > now);
        if another || began {
            self.context.host.state.save(STATE_KIND, &self.context.store.subject(), memory);
        }
    }

    /// Takes in what finished jobs said; those that `wait` names are waited for.
    fn reap(&mut self, wait: impl Fn(&Job) -> bool) {
        let (done, under_way) = std::mem::take(&mut self.jobs)
            .into_iter()
            .partition(|job: &Job| job.is_finished() || wait(job));
        self.jobs = under_way;
        for job in done {
            self.take_in(job);
        }
    }

    fn take_in(&mut self, job: Job) {
        let about = job.about;
        for check in &job.checks {
            self.problems.remove(check.as_str());
        }
        self.problems.remove("thread");
        let (ran, failed) = job.join();
        if let Some(problem) = failed {
            self.problems.insert("thread", Arc::new(problem));
        }
        let memory = self.memory.get_or_insert_default();
        for Ran { check, mut outcome, duration, ended } in ran {
            if let Some(problem) = outcome.problem.take() {
                self.problems.insert(check.as_str(), Arc::new(problem));
            }
            if let Some(reason) = &outcome.reason {
                tracing::debug!(store = %self.context.store.name, check = check.as_str(), reason, "Check without a verdict.");
            }
            memory.past_mut(check).note(&outcome, duration, ended, about);
            if check == Check::Full {
                memory.comparisons.note(outcome.state, outcome.compared.as_ref(), ended);
                self.compared = outcome.compared;
            }
        }
        self.context.host.state.save(STATE_KIND, &self.context.store.subject(), memory);
    }

    /// Starts what is due and not under way. Gives whether anything was.
    fn start(&mut self, run: &Run) -> bool {
        if self.obstacle().is_some() {
            return false;
        }
        let content = self.content();
        let (expensive, light): (Vec<Check>, Vec<Check>) = Check::ALL
            .into_iter()
            .filter(|check| run.deep || self.due(*check, content, run.now) <= run.now)
            .filter(|check| !self.left_out(run, *check))
            .partition(|check| check.reads_whole_files());
        let order = Order {
            now: run.now,
            deep: run.deep,
            again_after: Some(schedule::again_after(&self.when(), run.now)),
            compare: self.compare(),
        };
        let mut started = false;
        for checks in [light, expensive] {
            let is_expensive = checks.iter().any(|check| check.reads_whole_files());
            if checks.is_empty() || self.jobs.iter().any(|job| job.is_expensive() == is_expensive) {
                continue;
            }
            self.jobs.push(Job::start(checks, content, &self.context, order, &self.kept));
            started = true;
        }
        started
    }

    /// Whether the next full check is to be compared.
    fn compare(&self) -> Compare {
        let context = &self.context;
        let known = self.memory.as_ref().map(|memory| memory.comparisons.clone());
        known.unwrap_or_default().next(context.single_run(), context.paranoid)
    }

    fn when(&self) -> When<'_> {
        let collect = &self.context.config.collect;
        let rhythm = Rhythm { spread: self.spread, window: collect.check_window.as_ref() };
        When { collect, rhythm, unclean: self.memory.as_ref().and_then(|memory| memory.unclean) }
    }

    fn due(&self, check: Check, content: Option<Content>, now: Timestamp) -> Timestamp {
        let past = self.memory.as_ref().and_then(|memory| memory.past(check));
        schedule::due(check, past, content, &self.when(), now)
    }

    fn past(&self, check: Check) -> Option<&memory::Past> {
        self.memory.as_ref().and_then(|memory| memory.past(check))
    }

    fn findings(&self) -> Vec<Finding> {
        let mut findings: Vec<Finding> = Vec::new();
        if let Some(cheap) = &self.cheap {
            findings.extend(cheap.judged.header.findings.iter().cloned());
            findings.extend(cheap.judged.journal.findings.iter().cloned());
        }
        // A header that is damaged explains what SQLite says; twice the same would only be noise.
        let explained = findings.iter().any(|finding| finding.code != Code::WalMode);
        let checks = self.memory.iter().flat_map(|memory| memory.checks.values());
        for finding in checks.flat_map(memory::Past::findings) {
            // Other files than the database are explained by nothing in it.
            if explained && finding.code != Code::SegmentInconsistent {
                continue;
            }
            let twice =
                findings.iter().any(|f| f.code == finding.code && f.subject == finding.subject);
            if !twice {
                findings.push(finding);
            }
        }
        without_consequences(&mut findings);
        let left = self.left.iter().flat_map(|(_, left)| &left.findings).cloned();
        let mut left = left.peekable();
        if left.peek().is_some_and(|finding| finding.severity == Severity::Critical) {
            // It says more than the link alone.
            findings.retain(|finding| finding.code != Code::RestoreInterrupted);
        }
        findings.extend(left);
        findings
    }
}

/// Leaves out what follows from something else that was found. A table with damaged pages has other rows than its indexes;
/// and when a check gave up after it had looked over the trees, and only those of indexes were damaged, it was these.
fn without_consequences(findings: &mut Vec<Finding>) {
    let of = |code| findings.iter().filter(move |finding: &&Finding| finding.code == code);
    let gave_up = |finding: &Finding| finding.evidence.starts_with(GAVE_UP);
    let torn_index = of(Code::SqliteIndexCorrupt).any(|f| f.evidence.starts_with("Tree "));
    let torn_table = of(Code::SqliteCorrupt).any(|finding| !gave_up(finding));
    // With a torn page the full text can be neither rebuilt nor dropped (tried): its own finding would say to do that.
    let torn_text =
        of(Code::SqliteCorrupt).any(|finding| finding.evidence.contains(TORN_FULL_TEXT));
    findings.retain(|finding| match finding.code {
        Code::SqliteCorrupt => !(gave_up(finding) && torn_index),
        Code::SqliteIndexCorrupt => !torn_table || finding.evidence.starts_with("Tree "),
        Code::FtsCorrupt => !torn_text,
        _ => true,
    });
}

impl Integrity {
    /// See [`super::at_rest`].
    pub(super) fn at_rest(Config { collect, .. }: &Config, _: &Store) -> Pace {
        Pace {
            interval: collect.interval,
            deadline: collect.deadline,
            wakes: Wake::DATA | Wake::NAMES | Wake::JOURNAL | Wake::RESCAN,
            touches_store: true,
        }
    }
}

impl Collector for Integrity {
    fn name(&self) -> CollectorName {
        CollectorName::Integrity
    }

    fn descs(&self) -> &'static [&'static Desc] {
        &DESCS
    }

    fn codes(&self) -> &'static [Code] {
        &CODES
    }

    fn pace(&self) -> Pace {
        Self::at_rest(&self.context.config, &self.context.store)
    }

    fn collect(&mut self, run: &Run) -> Observation {
        self.recall();
        self.inspect(run);
        self.find_restores(run);
        let there = self.cheap.as_ref().is_some_and(|cheap| cheap.judged.database.is_some());
        if let Some(memory) = self.memory.as_mut().filter(|memory| there && !memory.had_database) {
            memory.had_database = true;
        }
        self.note_unclean(run.now);
        self.reap(|_| false);
        let started = self.start(run);
        if run.deep {
            let steps = if self.compare() == Compare::No { 1 } else { 2 };
            self.wait(run, self.context.config.collect.check_deadline * steps);
        } else if self.context.single_run() {
            self.wait(run, self.quick_time());
        } else if started {
            // A small database is checked within a moment; then the first page has its verdict.
            std::thread::sleep(SMALL_WAIT);
        }
        self.reap(|_| false);
        self.note_overdue(run.now);
        let due = |check| self.due(check, self.content(), run.now);
        let (mut samples, mut checks) =
            samples::samples(self.cheap.as_ref(), self.memory.as_ref(), due, run.now);
        let mut left_out: Vec<&'static str> = Vec::new();
        for (check, words) in [
            (Check::Quick, "the quick check"),
            (Check::Full, "the full check"),
            (Check::Decay, "silent decay"),
        ] {
            let never = self.past(check).is_none_or(|past| past.last_run.is_none());
            if self.left_out(run, check) && never {
                checks.retain(|(name, _)| *name != check.as_str());
                left_out.push(words);
            }
        }
        let reasons = self.reasons(&checks);
        let asked = self.context.paranoid && run.deep;
        let compared = asked.then(|| Compared::describe(self.compared.as_ref()));
        let state = self.context.progress(CollectorName::Integrity).state();
        samples.extend(state.as_ref().map(samples::progress));
        let restores: Vec<Restored> =
            self.left.iter().flat_map(|(_, left)| &left.done).cloned().collect();
        samples.extend(samples::exchanged(&restores));
        let mut problems: Vec<CollectError> =
            self.problems.values().cloned().map(CollectError::Kept).collect();
        if let Some(cheap) = &mut self.cheap {
            let refused = [&mut cheap.judged.header, &mut cheap.judged.journal];
            problems.extend(refused.into_iter().filter_map(|verdict| verdict.problem.take()));
        }
        let mut findings = self.findings();
        findings.extend(self.overdue_findings(run.now, run.deep));
        Observation {
            samples,
            findings,
            checks,
            reasons,
            left_out,
            compared,
            problems,
            restores,
            ..Observation::default()
        }
    }
}

impl Integrity {
    /// Whether a check is none of a run that no other follows and that is not to read everything: `check --quick`, `guard`.
    fn left_out(&self, run: &Run, check: Check) -> bool {
        let last = self.context.single_run();
        let long = match check {
            Check::Full | Check::Decay => true,
            Check::Quick => self.context.glance,
            Check::Schema => false,
        };
        last && !run.deep && long
    }

    /// How long such a run waits for the quick check: in time for its own deadline.
    fn quick_time(&self) -> Duration {
        self.context.config.collect.deadline * 2 / 3
    }

    /// Why each check is in another state than ok, where no finding says it.
    fn reasons(&self, checks: &[(&'static str, CheckState)]) -> Vec<(&'static str, String)> {
        let why = |name: &str, state: CheckState| {
            let cheap = self.cheap.as_ref()?;
            let verdict = match name {
                "header" => Some(&cheap.judged.header),
                "journal" => Some(&cheap.judged.journal),
                _ => None,
            };
            if let Some(verdict) = verdict {
                return verdict.why.clone();
            }
            if let Some(obstacle) = self.obstacle() {
                return Some(obstacle.why().to_owned());
            }
            let check = Check::ALL.into_iter().find(|check| check.as_str() == name)?;
            match self.past(check) {
                Some(past) if past.last_run.is_some() => past.reason.clone(),
                _ if self.jobs.iter().any(|job| job.checks.contains(&check)) => {
                    Some("it runs for the first time".to_owned())
                }
                _ => Some(format!("it has not run yet ({})", state.as_str())),
            }
        };
        let open = checks
            .iter()
            .filter(|(_, state)| !matches!(state, CheckState::Ok | CheckState::Corrupt));
        open.filter_map(|(name, state)| Some((*name, why(name, *state)?))).collect()
    }

    /// Until the jobs have ended, `time_max` is over or nobody wants them any more.
    fn wait(&mut self, run: &Run, time_max: Duration) {
        let began = clock::ticks();
        // What is small ends within a moment.
        let mut pause = READING_PAUSE / 20;
        while self.jobs.iter().any(|job| !job.is_finished()) {
            if run.stopped() || began.elapsed() > time_max {
                self.jobs.iter().for_each(Job::stop);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(READING_PAUSE);
        }
        self.reap(|_| true);
    }
}

/// Time between two looks for the store that was meant.
const NEARBY_INTERVAL: Duration = Duration::from_mins(1);

const STATE_KIND: &str = "integrity";
/// Looks beside a writer before it is called busy, and the time between them.
const LEFT_INTERVAL: Duration = Duration::from_mins(1);
const READINGS_MAX: u32 = 4;
const READING_PAUSE: Duration = Duration::from_millis(20);
/// Time that a run gives checks of a small database to end within it.
const SMALL_WAIT: Duration = Duration::from_millis(100);
/// A hot journal that is there for so long is noted again.
const UNCLEAN_APART: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests;
