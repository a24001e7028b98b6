//! Whether the SQLite file is whole. Header and journal are looked at in every turn without a lock; schema, `quick_check`
//! and `integrity_check` run on a thread of their own, on schedule and after changes, and what they said survives a
//! restart. Busy is not corrupt, and what was given up is unknown.

mod checks;
mod judge;
mod look;
mod remains;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use self::{
    checks::{Check, Outcome},
    judge::{Background, Judged, Obstacle, judge},
    look::{Look, Stamps},
};
use super::{CollectError, Collector, Pace, Turn};
use crate::{
    clock::{self, Timestamp},
    config::CollectorName,
    findings::{Code, Finding},
    format::sqlite::SqliteHeader,
    sample::{CheckState, Desc, Observation, Sample},
    store::{Context, database::Stamp},
    watch::Wake,
};

static STATE: Desc = Desc::gauge(
    "chroma_integrity_state",
    "What the newest run of the check said; 1 for exactly one state per check. header and journal are of this turn, the others cached.",
)
.labelled(&["check", "state"]);
static LAST_RUN: Desc = Desc::gauge(
    "chroma_integrity_last_run_timestamp_seconds",
    "When the check last ended, as seconds since the epoch.",
)
.labelled(&["check"]);
static LAST_OK: Desc = Desc::gauge(
    "chroma_integrity_last_ok_timestamp_seconds",
    "When the check last ended without finding anything, as seconds since the epoch.",
)
.labelled(&["check"]);
static DURATION: Desc = Desc::gauge(
    "chroma_integrity_duration_seconds",
    "How long the newest run of the check took, cached.",
)
.labelled(&["check"]);
static LOCK_HOLD: Desc = Desc::gauge(
    "chroma_integrity_lock_hold_seconds",
    "Longest time that the newest run of the check held a shared lock, cached.",
)
.labelled(&["check"]);
static NEXT_DUE: Desc = Desc::gauge(
    "chroma_integrity_next_due_timestamp_seconds",
    "When the check is due next, as seconds since the epoch.",
)
.labelled(&["check"]);
static ABORTED: Desc = Desc::counter(
    "chroma_integrity_aborted_total",
    "Runs of the check that were given up so that no writer had to wait.",
)
.labelled(&["check"]);
static PAGES: Desc =
    Desc::gauge("chroma_integrity_pages", "Pages of the database as its header states them.");

static DESCS: [&Desc; 8] =
    [&STATE, &LAST_RUN, &LAST_OK, &DURATION, &LOCK_HOLD, &NEXT_DUE, &ABORTED, &PAGES];

static CODES: [Code; 22] = [
    Code::StoreMissing,
    Code::SqliteMissing,
    Code::SqliteEmpty,
    Code::SqliteNotRegular,
    Code::NotAStore,
    Code::SqliteNotADatabase,
    Code::SqliteHeaderDamaged,
    Code::SqliteTruncated,
    Code::SqliteCorrupt,
    Code::SqliteIndexCorrupt,
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
];

/// What is known of one check.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Past {
    state: CheckState,
    last_run: Option<Timestamp>,
    last_ok: Option<Timestamp>,
    seconds: f64,
    held_seconds: f64,
    aborted: u64,
    /// The content that the state is about.
    about: Option<Content>,
    /// Code, subject, evidence.
    findings: Vec<(String, String, String)>,
}

impl Default for Past {
    fn default() -> Self {
        Self {
            state: CheckState::Unknown,
            last_run: None,
            last_ok: None,
            seconds: 0.0,
            held_seconds: 0.0,
            aborted: 0,
            about: None,
            findings: Vec::new(),
        }
    }
}

/// Two equal ones have the same bytes, as far as SQLite wrote them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Content {
    device: u64,
    inode: u64,
    size_bytes: u64,
    change_counter: u32,
}

impl Content {
    fn of(stamp: Stamp, header: SqliteHeader) -> Self {
        let (device, inode) = (stamp.id.device, stamp.id.inode);
        Self { device, inode, size_bytes: stamp.size_bytes, change_counter: header.change_counter }
    }
}

/// What survives a restart.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Memory {
    had_database: bool,
    checks: BTreeMap<String, Past>,
}

/// What the cheap look said, for turns in which nothing changed.
#[derive(Debug)]
struct Cheap {
    stamps: Stamps,
    judged: Judged,
    at: Timestamp,
}

/// Checks under way.
#[derive(Debug)]
struct Job {
    thread: JoinHandle<Vec<Ran>>,
    stop: Arc<AtomicBool>,
    about: Option<Content>,
}

#[derive(Debug)]
struct Ran {
    check: Check,
    outcome: Outcome,
    duration: Duration,
    ended: Timestamp,
}

/// The collector.
#[derive(Debug)]
pub struct Integrity {
    context: Context,
    memory: Option<Memory>,
    cheap: Option<Cheap>,
    job: Option<Job>,
    /// Problems of the newest run of each check.
    problems: BTreeMap<&'static str, String>,
}

impl Integrity {
    /// Looks at nothing yet.
    #[must_use]
    pub fn new(context: &Context) -> Self {
        Self {
            context: context.clone(),
            memory: None,
            cheap: None,
            job: None,
            problems: BTreeMap::new(),
        }
    }

    /// Looks again until two looks in a row say the same of the same bytes, or calls it busy.
    fn look(&mut self, turn: &Turn) {
        let path = self.context.database.path().to_owned();
        let quick_interval = self.context.config.collect.quick_interval;
        if let Some(cheap) = &self.cheap
            && cheap.judged.calm()
            && cheap.judged.readable()
            && cheap.stamps == Stamps::take(&path)
            && cheap.stamps.database.is_some()
            && !turn.deep
            && turn.now.since(cheap.at) < quick_interval
        {
            return;
        }
        let background = Background { now: turn.now, was_there: self.was_there() };
        let take = || {
            let look = Look::take(&self.context.store.seen_path, &self.context.database);
            (look.stamps, judge(look, background))
        };
        let (mut stamps, mut judged) = take();
        for attempt in 0..LOOKS_MAX {
            if judged.calm() {
                break;
            }
            std::thread::sleep(LOOK_PAUSE);
            let (stamps_again, again) = take();
            let settled = stamps == stamps_again && judged.says_the_same(&again);
            (stamps, judged) = (stamps_again, again);
            if settled {
                break;
            }
            if attempt + 1 == LOOKS_MAX {
                // Something is at work on it: nothing can be said this time.
                for verdict in [&mut judged.header, &mut judged.journal] {
                    verdict.state = CheckState::Busy;
                    verdict.findings.clear();
                }
            }
        }
        self.cheap = Some(Cheap { stamps, judged, at: turn.now });
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

    /// Takes in what a finished job said; with `wait` a running one is waited for.
    fn reap(&mut self, wait: bool) {
        let finished = self.job.as_ref().is_some_and(|job| wait || job.thread.is_finished());
        let Some(job) = self.job.take_if(|_| finished) else { return };
        let Ok(ran) = job.thread.join() else {
            self.problems.insert("thread", "a check panicked".to_owned());
            return;
        };
        self.problems.clear();
        let memory = self.memory.get_or_insert_default();
        for Ran { check, outcome, duration, ended } in ran {
            if let Some(problem) = &outcome.problem {
                self.problems.insert(check.as_str(), problem.chain());
            }
            if let Some(reason) = &outcome.reason {
                tracing::debug!(store = %self.context.store.name, check = check.as_str(), reason, "Check without a verdict.");
            }
            note(
                memory.checks.entry(check.as_str().to_owned()).or_default(),
                &outcome,
                duration,
                ended,
                job.about,
            );
        }
        self.context.host.state.save(STATE_KIND, &self.context.store.path, memory);
    }

    fn start(&mut self, turn: &Turn) {
        if self.job.is_some() || self.obstacle().is_some() {
            return;
        }
        let content = self.content();
        let due: Vec<Check> = Check::ALL
            .into_iter()
            .filter(|check| turn.deep || self.due(*check, content) <= turn.now)
            .collect();
        if due.is_empty() {
            return;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, deep, stopped) = (self.context.clone(), turn.deep, Arc::clone(&stop));
        let work = move || run_checks(&due, &shared, deep, &stopped);
        match std::thread::Builder::new().name("integrity".to_owned()).spawn(work) {
            Ok(thread) => self.job = Some(Job { thread, stop, about: content }),
            Err(error) => {
                self.problems
                    .insert("thread", format!("cannot start a thread for the checks: {error}"));
            }
        }
    }

    /// When a check is to run next; a moment in the past is now.
    fn due(&self, check: Check, content: Option<Content>) -> Timestamp {
        let collect = &self.context.config.collect;
        let past = self.memory.as_ref().and_then(|memory| memory.checks.get(check.as_str()));
        let Some((past, last)) = past.and_then(|past| Some((past, past.last_run?))) else {
            return Timestamp::from_secs(0);
        };
        let interval = match check {
            Check::Schema | Check::Quick => collect.quick_interval,
            Check::Full => collect.full_interval,
        };
        let took = Duration::try_from_secs_f64(past.seconds.clamp(0.0, 1e6)).unwrap_or_default();
        let wait = match past.state {
            // No verdict: again soon, but a check that costs much not often.
            CheckState::Busy | CheckState::Unknown | CheckState::Unreadable => {
                (RETRY_MIN.max(took * DUTY)).min(interval)
            }
            // After a change the cheap checks come early.
            _ if past.about != content && check != Check::Full => {
                collect.contents_interval.max(took * DUTY).min(interval)
            }
            _ => interval,
        };
        last.plus(wait)
    }

    fn samples(&self, now: Timestamp) -> (Vec<Sample>, Vec<(&'static str, CheckState)>) {
        let mut samples = Vec::new();
        let mut states = Vec::new();
        if let Some(cheap) = &self.cheap {
            states.push(("header", cheap.judged.header.state));
            states.push(("journal", cheap.judged.journal.state));
            for check in ["header", "journal"] {
                samples.push(LAST_RUN.with(vec![check.into()], cheap.at.as_secs_f64()));
            }
            if let Some((_, Some(header))) = cheap.judged.database {
                samples.extend(header.pages().map(|pages| PAGES.sample(f64::from(pages))));
            }
        }
        let unasked = self.obstacle();
        for check in Check::ALL {
            let name = check.as_str();
            let none = Past::default();
            let past =
                self.memory.as_ref().and_then(|memory| memory.checks.get(name)).unwrap_or(&none);
            let state = match unasked {
                // Damage that was proved stays; anything else was said of a file that could be opened.
                Some(obstacle) if past.state != CheckState::Corrupt => obstacle.state(),
                _ => past.state,
            };
            states.push((name, state));
            let label = || vec![name.into()];
            samples.push(ABORTED.with(label(), past.aborted as f64));
            samples.extend(past.last_ok.map(|at| LAST_OK.with(label(), at.as_secs_f64())));
            if let Some(last) = past.last_run {
                samples.push(LAST_RUN.with(label(), last.as_secs_f64()));
                samples.push(DURATION.with(label(), past.seconds));
                samples.push(LOCK_HOLD.with(label(), past.held_seconds));
            }
            let due = self.due(check, self.content()).max(now);
            samples.push(NEXT_DUE.with(label(), due.as_secs_f64()));
        }
        for (check, state) in &states {
            for one in CheckState::ALL {
                let value = f64::from(u8::from(one == *state));
                samples.push(STATE.with(vec![(*check).into(), one.as_str().into()], value));
            }
        }
        (samples, states)
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
        for (code, subject, evidence) in checks.flat_map(|past| &past.findings) {
            let known = Code::ALL.iter().find(|known| known.as_str() == code);
            let Some(code) = known.filter(|_| !explained) else { continue };
            let twice = findings.iter().any(|f| f.code == *code && f.subject == *subject);
            if !twice {
                findings.push(Finding::new(*code, subject, evidence));
            }
        }
        findings
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
        let collect = &self.context.config.collect;
        Pace {
            interval: collect.interval,
            deadline: collect.deadline,
            wakes: Wake::DATA | Wake::NAMES | Wake::JOURNAL | Wake::RESCAN,
            touches_store: true,
        }
    }

    fn collect(&mut self, turn: &Turn) -> Observation {
        if self.memory.is_none() {
            self.memory = Some(
                self.context
                    .host
                    .state
                    .load(STATE_KIND, &self.context.store.path)
                    .unwrap_or_default(),
            );
        }
        self.look(turn);
        let there = self.cheap.as_ref().is_some_and(|cheap| cheap.judged.database.is_some());
        if let Some(memory) = self.memory.as_mut().filter(|memory| there && !memory.had_database) {
            memory.had_database = true;
        }
        self.reap(false);
        self.start(turn);
        if turn.deep {
            self.wait(turn);
        } else {
            // A small database is checked within a moment; then the first page has its verdict.
            std::thread::sleep(self.job.as_ref().map_or(Duration::ZERO, |_| SMALL_WAIT));
        }
        self.reap(false);
        let (samples, checks) = self.samples(turn.now);
        let mut problems: Vec<CollectError> =
            self.problems.values().cloned().map(CollectError::Other).collect();
        if let Some(cheap) = &mut self.cheap {
            let refused = [&mut cheap.judged.header, &mut cheap.judged.journal];
            problems.extend(refused.into_iter().filter_map(|verdict| verdict.problem.take()));
        }
        Observation {
            samples,
            checks,
            findings: self.findings(),
            problems,
            ..Observation::default()
        }
    }
}

impl Integrity {
    /// Until the job has ended, its time is over or nobody wants it any more.
    fn wait(&mut self, turn: &Turn) {
        let began = clock::ticks();
        while let Some(job) = &self.job {
            if job.thread.is_finished() {
                break;
            }
            if turn.stopped() || began.elapsed() > self.context.config.collect.check_deadline {
                job.stop.store(true, Ordering::Relaxed);
            }
            std::thread::sleep(LOOK_PAUSE);
        }
        self.reap(true);
    }
}

impl Drop for Integrity {
    fn drop(&mut self) {
        if let Some(job) = &self.job {
            job.stop.store(true, Ordering::Relaxed);
        }
    }
}

/// Runs the checks one after the other. Whole-file checks of different stores take turns: one whose turn it is not is
/// left for later, and is then not among the results.
fn run_checks(due: &[Check], context: &Context, deep: bool, stop: &AtomicBool) -> Vec<Ran> {
    let mut ran = Vec::new();
    for check in due.iter().copied() {
        let heavy = (check != Check::Schema).then(|| context.host.heavy.try_lock());
        let _turn = match heavy {
            Some(Ok(turn)) => Some(turn),
            Some(Err(TryLockError::Poisoned(poisoned))) => Some(poisoned.into_inner()),
            Some(Err(TryLockError::WouldBlock)) if deep => {
                Some(context.host.heavy.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
            }
            Some(Err(TryLockError::WouldBlock)) => continue,
            None => None,
        };
        let began = clock::ticks();
        let outcome = checks::run(check, context, stop);
        ran.push(Ran { check, outcome, duration: began.elapsed(), ended: clock::now() });
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    ran
}

/// Takes one outcome into the memory. Damage that was proved of these very bytes is not undone by a run that was given up.
fn note(
    past: &mut Past,
    outcome: &Outcome,
    duration: Duration,
    ended: Timestamp,
    about: Option<Content>,
) {
    past.last_run = Some(ended);
    past.seconds = duration.as_secs_f64();
    past.held_seconds = outcome.held.as_secs_f64();
    past.aborted += u64::from(outcome.aborted);
    let verdict = matches!(outcome.state, CheckState::Ok | CheckState::Corrupt);
    if !verdict && past.state == CheckState::Corrupt {
        return;
    }
    if outcome.state == CheckState::Ok {
        past.last_ok = Some(ended);
    }
    past.state = outcome.state;
    past.about = about;
    past.findings = outcome
        .findings
        .iter()
        .map(|f| (f.code.as_str().to_owned(), f.subject.clone(), f.evidence.clone()))
        .collect();
}

const STATE_KIND: &str = "integrity";
/// Looks beside a writer before it is called busy, and the time between them.
const LOOKS_MAX: u32 = 4;
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// Time that a turn gives checks of a small database to end within it.
const SMALL_WAIT: Duration = Duration::from_millis(100);
/// Shortest time to the next try of a check that gave no verdict.
const RETRY_MIN: Duration = Duration::from_secs(30);
/// Checks after changes take at most one part in this of the time.
const DUTY: u32 = 50;
