//! The checks that ask SQLite. The schema check is a short read transaction. `quick_check` and `integrity_check` run in the
//! file itself while no process holds it, and make way for a writer that comes; otherwise they run on a consistent copy
//! (`store::view`), which locks nobody out, whatever the write load. Where no copy can be had, they get the time of one
//! statement in the file itself, and then every row is looked at in slices. What is given up is unknown, never corrupt.

pub mod pages;
mod places;
mod schema;
mod slices;

use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use parking_lot::Mutex;

use self::pages::Verdict;
pub(super) use self::{pages::GAVE_UP, places::TORN_FULL_TEXT};
use super::{
    compare::{Compare, Compared},
    decay::{self, Ledger},
};
use crate::{
    clock::{self, Timestamp},
    collectors::CollectError,
    config::{CollectorName, Config},
    findings::{Finding, Severity},
    host::{
        priority::{Quiet, quietly},
        processes::Held,
    },
    progress::{Phase, Progress},
    sample::CheckState,
    store::{
        Context,
        database::{Abort, Limits, QueryError},
        pagecache,
        view::{self, Cost, Options, Places, View, ViewError},
    },
};

/// A check that asks SQLite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    Schema,
    Quick,
    Full,
    /// Not of SQLite: whether bytes changed by themselves.
    Decay,
}

impl Check {
    pub(super) const ALL: [Self; 4] = [Self::Schema, Self::Quick, Self::Full, Self::Decay];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Schema => "schema",
            Self::Quick => "quick",
            Self::Full => "full",
            Self::Decay => "decay",
        }
    }

    /// Whether it reads whole files, and so takes turns with others on the same disk.
    pub(super) const fn reads_whole_files(self) -> bool {
        !matches!(self, Self::Schema)
    }

    const fn pragma(self) -> &'static str {
        match self {
            Self::Full => "integrity_check",
            _ => "quick_check",
        }
    }
}

/// Where a check looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// In the file itself, under a lock.
    File,
    /// In a consistent copy.
    Copy,
    /// In the file, row by row in short slices.
    Slices,
}

impl Way {
    pub(super) const ALL: [Self; 3] = [Self::File, Self::Copy, Self::Slices];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Copy => "copy",
            Self::Slices => "slices",
        }
    }
}

/// What one run of a check gave.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) state: CheckState,
    pub(super) findings: Vec<Finding>,
    pub(super) problem: Option<CollectError>,
    /// Why it is neither ok nor corrupt, or why it went the way it did.
    pub(super) reason: Option<String>,
    pub(super) aborted: bool,
    /// Longest lock on the database.
    pub(super) held: Duration,
    pub(super) way: Way,
    /// Pages that a whole-file check looked at; `None` without a verdict.
    pub(super) pages: Option<u32>,
    /// How much of what there is could be judged, 0 to 1; `None` when that is not known.
    pub(super) coverage: Option<f64>,
    /// Whether it is to come again soon although it came to a verdict.
    pub(super) unsettled: bool,
    /// What came of asking SQLite too; `None` when that was not tried.
    pub(super) compared: Option<Compared>,
}

impl Outcome {
    /// That of a check which was given up for a reason that is to be told.
    pub(super) fn given_up(problem: CollectError) -> Self {
        Self {
            state: CheckState::Unknown,
            findings: Vec::new(),
            reason: Some(problem.chain()),
            problem: Some(problem),
            aborted: true,
            held: Duration::ZERO,
            way: Way::File,
            pages: None,
            coverage: None,
            unsettled: false,
            compared: None,
        }
    }

    /// That of a check which asks nothing that this one has not found in order.
    pub(super) fn covering(&self) -> Self {
        Self {
            state: CheckState::Ok,
            findings: Vec::new(),
            problem: None,
            reason: self.reason.clone(),
            aborted: false,
            held: self.held,
            way: self.way,
            pages: self.pages,
            coverage: self.coverage,
            unsettled: false,
            compared: None,
        }
    }
}

/// Runs one check. `compare`: whether a full one is to be compared with what SQLite says.
pub(super) fn run(check: Check, context: &Context, compare: Compare, stop: &AtomicBool) -> Outcome {
    let compare = if check == Check::Full { compare } else { Compare::No };
    let (held, way) = (Duration::ZERO, Way::File);
    let mut asking = Asking { context, stop, compare, held, way, reason: None, compared: None };
    let answer = asking.ask(check);
    let Asking { held, way, reason, compared, .. } = asking;
    let mut outcome = Outcome {
        state: CheckState::Ok,
        findings: Vec::new(),
        problem: None,
        reason,
        aborted: false,
        held,
        way,
        pages: None,
        coverage: None,
        unsettled: false,
        compared,
    };
    match answer {
        Ok(said) => {
            // What is only worth knowing is no damage.
            if said.findings.iter().any(|finding| finding.severity > Severity::Info) {
                outcome.state = CheckState::Corrupt;
            }
            outcome.findings = said.findings;
            outcome.pages = said.pages;
            // What SQLite checks it checks to the last page.
            outcome.coverage = said.pages.map(|_| 1.0);
        }
        Err(error) => {
            let ended = error.chain();
            outcome.reason = Some(match outcome.reason {
                Some(reason) => format!("{ended}; {reason}"),
                None => ended,
            });
            outcome.state = state_of(&error);
            outcome.aborted = matches!(error, QueryError::Aborted(_));
            match error {
                QueryError::Damaged(error) => outcome.findings.push(pages::gave_up(&error)),
                QueryError::Unreadable(_) | QueryError::Other(_) => {
                    outcome.problem = Some(CollectError::of_query(error, context.database.path()));
                }
                // Said by the header check in better words, or no failure of ours.
                _ => {}
            }
        }
    }
    judge_comparison(&mut outcome, compare);
    outcome
}

/// Leaves of a comparison what is true of the whole check: one that could not be made matters only beside an ok, and takes
/// that back where it was required.
fn judge_comparison(outcome: &mut Outcome, compare: Compare) {
    if outcome.state != CheckState::Ok {
        outcome.compared.take_if(|compared| *compared != Compared::Disagreed);
    } else if compare == Compare::Required
        && let Some(why) = outcome.compared.as_ref().and_then(Compared::why_not)
    {
        outcome.reason = Some(format!(
            "the check found nothing, but SQLite's own integrity_check had to agree and gave no answer: {why}"
        ));
        outcome.state = CheckState::Unknown;
    }
}

/// Looks for bytes that changed by themselves. `None` when nothing is known that could be compared, and nobody would keep
/// what was learnt.
pub(super) fn decay(
    context: &Context,
    kept: &Mutex<Option<Ledger>>,
    again_after: Option<Duration>,
    all: bool,
    now: Timestamp,
    stop: &AtomicBool,
) -> Option<Outcome> {
    let (host, path) = (&context.host, &context.store.subject());
    let in_memory = kept.lock().take();
    let ledger: Option<Ledger> = in_memory.or_else(|| host.state.load(DECAY_KIND, path));
    if ledger.is_none() && host.state.is_read_only() {
        return None;
    }
    let before = ledger.unwrap_or_default();
    let mut ledger = before.clone();
    let mode = decay::PassMode {
        now,
        all,
        again_after,
        boot: host.boot.as_deref(),
        ended_in: host.ended_in.as_deref(),
        learn: !host.state.is_read_only(),
        stop,
    };
    let passed = quietly(Quiet::Nice, stop, |stop| {
        decay::pass(context, &mut ledger, &decay::PassMode { stop, ..mode })
    });
    if ledger != before {
        host.state.save(DECAY_KIND, path, &ledger);
    }
    if !host.state.persistent() {
        *kept.lock() = Some(ledger);
    }
    let passed = match passed {
        Ok(passed) => passed,
        Err(source) => decay::Passed {
            problem: Some(CollectError::NoThread { what: "the look for decay", source }),
            ..decay::Passed::default()
        },
    };
    let state = match &passed {
        passed if !passed.findings.is_empty() => CheckState::Corrupt,
        decay::Passed { problem: Some(_), .. } => CheckState::Unreadable,
        decay::Passed { unfinished: Some(_), .. } => CheckState::Unknown,
        _ => CheckState::Ok,
    };
    let ratio = passed.known_bytes as f64 / passed.total_bytes as f64;
    Some(Outcome {
        state,
        findings: passed.findings,
        problem: passed.problem,
        reason: passed.unfinished.map(str::to_owned),
        aborted: false,
        held: passed.held,
        way: Way::File,
        pages: None,
        coverage: (passed.total_bytes > 0).then_some(ratio),
        unsettled: passed.unsettled,
        compared: None,
    })
}

fn state_of(error: &QueryError) -> CheckState {
    match error {
        QueryError::Busy | QueryError::Replaced => CheckState::Busy,
        QueryError::NotADatabase(_) | QueryError::Damaged(_) => CheckState::Corrupt,
        QueryError::File(_)
        | QueryError::NotRegular(_)
        | QueryError::OtherFile { .. }
        | QueryError::Empty
        | QueryError::Unreadable(_) => CheckState::Unreadable,
        QueryError::HotJournal
        | QueryError::Wal
        | QueryError::NoLocks(_)
        | QueryError::Aborted(_)
        | QueryError::Unjudged(_)
        | QueryError::Other(_) => CheckState::Unknown,
    }
}

/// The answer of a check that came to its end.
struct Answer {
    findings: Vec<Finding>,
    pages: Option<u32>,
}

/// One check under way.
struct Asking<'a> {
    context: &'a Context,
    stop: &'a AtomicBool,
    /// Whether SQLite is to be asked too, about a copy that was found whole.
    compare: Compare,
    held: Duration,
    way: Way,
    reason: Option<String>,
    compared: Option<Compared>,
}

impl Asking<'_> {
    fn progress(&self) -> &Progress {
        self.context.progress(CollectorName::Integrity)
    }

    fn ask(&mut self, check: Check) -> Result<Answer, QueryError> {
        match self.ask_file(check) {
            // SQLite may not be asked in the file itself.
            Err(error @ (QueryError::Wal | QueryError::NoLocks(_))) => {
                match self.in_still_copies(check) {
                    Ok(said) => Ok(said),
                    Err(ViewError::Stopped) => Err(QueryError::Aborted(Abort::Stopped)),
                    Err(ViewError::Query(QueryError::Damaged(error))) => {
                        Err(QueryError::Damaged(error))
                    }
                    Err(refused) => {
                        self.reason = Some(format!("nor can it be copied: {refused}"));
                        Err(error)
                    }
                }
            }
            other => other,
        }
    }

    /// Whether no other process holds the file, so that nobody has to wait for us; not knowing is as good as yes.
    fn held(&self) -> Result<bool, QueryError> {
        let file = self.context.database.stamp().map_err(QueryError::File)?.id;
        let held = self.context.held(file, HOLDERS_AGE_MAX);
        Ok(!matches!(held, Ok(Held::No)))
    }

    fn ask_file(&mut self, check: Check) -> Result<Answer, QueryError> {
        let collect = &self.context.config.collect;
        if check == Check::Schema {
            return self.schema();
        }
        // SQLite is asked too only where it keeps nobody waiting, so such a check begins with a copy.
        let mut refused = None;
        if self.compare != Compare::No {
            match self.in_copy(check) {
                Ok(said) => return Ok(said),
                Err(ViewError::Stopped) => return Err(QueryError::Aborted(Abort::Stopped)),
                Err(error) => {
                    self.compared = Some(Compared::NotMade(error.to_string()));
                    refused = Some(error);
                }
            }
        }
        if !self.held()? {
            let file = self.context.database.open_plain().map_err(QueryError::File)?;
            let mode = pagecache::ReadMode {
                rate_bytes_max: self.context.config.integrity.read_rate_bytes_max,
                time_max: collect.check_deadline,
                stop: self.stop,
                progress: self.progress(),
            };
            let _brought = pagecache::bring(&file, &mode);
            match self.in_file(check, collect.check_deadline) {
                // Somebody has come meanwhile.
                Err(QueryError::Aborted(Abort::WriterWaiting) | QueryError::Busy) => {}
                other => return other,
            }
        }
        match refused.map_or_else(|| self.in_copy(check), Err) {
            Ok(said) => Ok(said),
            Err(ViewError::Query(error)) => Err(error),
            Err(ViewError::Stopped) => Err(QueryError::Aborted(Abort::Stopped)),
            Err(error) => {
                self.reason = Some(error.to_string());
                match self.in_file(check, collect.statement_deadline) {
                    Err(
                        aborted @ QueryError::Aborted(Abort::Deadline(_) | Abort::WriterWaiting),
                    ) => self.in_slices(aborted),
                    // A writer without pauses; a slice finds its moment between two commits.
                    Err(QueryError::Busy) => {
                        self.in_slices(QueryError::Aborted(Abort::WriterWaiting))
                    }
                    other => other,
                }
            }
        }
    }

    /// Asks for the schema, again and again while a writer keeps it out. The answer takes moments, and one of them comes
    /// beside any writer; busy is said only of a lock that stays. Where nobody has to wait for it, it may take its time, and
    /// beside a holder a copy answers what takes too long in the file.
    fn schema(&mut self) -> Result<Answer, QueryError> {
        match self.schema_in_file() {
            Err(QueryError::Aborted(abort)) if abort != Abort::Stopped => {
                match self.in_one_copy(Check::Schema) {
                    Ok(verdict) => Ok(Answer { findings: verdict.findings, pages: None }),
                    Err(ViewError::Stopped) => Err(QueryError::Aborted(Abort::Stopped)),
                    Err(refused) => {
                        self.reason = Some(refused.to_string());
                        Err(QueryError::Aborted(abort))
                    }
                }
            }
            other => other,
        }
    }

    fn schema_in_file(&mut self) -> Result<Answer, QueryError> {
        let collect = &self.context.config.collect;
        let time = self.context.question_time(true);
        let (began, patience) = (clock::ticks(), SCHEMA_PATIENCE.min(collect.check_deadline));
        let mut tries = 0;
        loop {
            let kept_out = match self.in_file(Check::Schema, time) {
                Err(
                    error @ (QueryError::Busy
                    | QueryError::Replaced
                    | QueryError::Aborted(Abort::WriterWaiting | Abort::Deadline(_))),
                ) => error,
                // SQLite takes a journal that is gone when it looks inside for a hot one, for a moment.
                Err(error @ QueryError::HotJournal) if tries < HOT_TRIES_MAX => error,
                other => return other,
            };
            if began.elapsed() >= patience || self.stop.load(Ordering::Relaxed) {
                return Err(kept_out);
            }
            // Each pause is another one, so as not to be in step with a writer that has a rhythm.
            std::thread::sleep(SCHEMA_PAUSE * (1 + tries % 5));
            tries += 1;
        }
    }

    /// Asks in the file itself, where a writer has to wait for us no longer than the lock budget.
    fn in_file(&mut self, check: Check, hold_unwaited: Duration) -> Result<Answer, QueryError> {
        self.way = Way::File;
        let database = &self.context.database;
        let before = database.stamp().map_err(QueryError::File)?;
        let limits = Limits {
            hold: LOCK_BUDGET.min(hold_unwaited),
            hold_unwaited,
            stop: self.stop,
            // The schema check may run beside a dear one, whose pauses are none of its own.
            progress: (check != Check::Schema).then(|| self.progress()),
        };
        let mut connection = database.connect()?;
        let said = if check == Check::Schema {
            let timed = connection.within_any(&limits, schema::read);
            self.held = timed.held.max(self.held);
            Answer { findings: schema::findings(self.context, &timed.result?)?, pages: None }
        } else {
            self.progress().begin(Phase::Checking, before.size_bytes);
            let readers = [connection, database.connect()?];
            let timed = pages::whole(readers, check.pragma(), &limits, self.progress());
            self.held = timed.held.max(self.held);
            let verdict = timed.result?;
            #[cfg(test)]
            let verdict = blindness::of(self.context.database.path(), verdict);
            verdict.into()
        };
        // Damage in a file that was exchanged meanwhile would be said of the wrong one.
        let same = database.stamp().is_ok_and(|after| after.id == before.id);
        if same { Ok(said) } else { Err(QueryError::Replaced) }
    }

    /// Looks at every row without a writer noticing. What it finds is damage; when it finds none, the check as a whole has
    /// still been given up, as `aborted` says.
    fn in_slices(&mut self, aborted: QueryError) -> Result<Answer, QueryError> {
        self.way = Way::Slices;
        let time_max = self.context.config.collect.check_deadline;
        let seen = slices::walk(&self.context.database, time_max, self.stop, self.progress())?;
        self.held = self.held.max(seen.held);
        if !seen.findings.is_empty() {
            return Ok(Answer { findings: seen.findings, pages: None });
        }
        let reason = self.reason.take().unwrap_or_default();
        self.reason = Some(format!(
            "{reason}; {} {} rows were found in every index, {} were too large to be read in a moment",
            if seen.complete { "all" } else { "the first" },
            seen.rows,
            seen.skipped
        ));
        Err(aborted)
    }

    /// Asks in a consistent copy. Damage is said only when a second copy has it too: the place of the copy may be the one
    /// that is broken.
    fn in_copy(&mut self, check: Check) -> Result<Answer, ViewError> {
        let first = self.in_one_copy(check)?;
        if first.findings.is_empty() {
            return Ok(first.into());
        }
        let compared = self.compared.clone();
        match self.in_one_copy(check) {
            Ok(second) if second.findings.is_empty() => {
                if compared == Some(Compared::Disagreed) && self.compared != Some(Compared::Agreed)
                {
                    // SQLite did not come to its end in the second; the first was proven.
                    self.compared = compared;
                    return Ok(first.into());
                }
                Err(ViewError::Unsuited("of two copies one was damaged and one was not"))
            }
            Ok(second) => Ok(second.into()),
            Err(ViewError::Stopped) => Err(ViewError::Stopped),
            // The first was proven.
            Err(_) => Ok(first.into()),
        }
    }

    /// Asks in a copy of a file that nobody is writing. Damage is said only when a second copy has it too.
    fn in_still_copies(&mut self, check: Check) -> Result<Answer, ViewError> {
        if self.held().map_err(ViewError::Query)? {
            return Err(ViewError::Unsuited("a process may hold it"));
        }
        let mut found = None;
        for _ in 0..2 {
            let places = places(self.context);
            let view = view::take_still(&self.context.database, &self.options(&places))?;
            self.way = Way::Copy;
            let verdict = self.in_view(check, view)?;
            if verdict.findings.is_empty() {
                if found.is_some() {
                    return Err(ViewError::Unsuited(
                        "of two copies one was damaged and one was not",
                    ));
                }
                found = Some(verdict);
                break;
            }
            found = Some(verdict);
        }
        let Verdict { findings, pages } = found.ok_or(ViewError::Unsuited("there is no copy"))?;
        Ok(Answer { findings, pages: (check != Check::Schema).then_some(pages) })
    }

    fn options<'b>(&'b self, places: &'b Places) -> Options<'b> {
        Options {
            places,
            rate_bytes_max: self.context.config.integrity.read_rate_bytes_max,
            lock_hold_max: LOCK_BUDGET,
            time_max: VIEW_TIME_MAX,
            stop: self.stop,
            progress: self.progress(),
        }
    }

    fn in_one_copy(&mut self, check: Check) -> Result<Verdict, ViewError> {
        let places = places(self.context);
        let mut cost = Cost::default();
        let taken = view::take_telling(&self.context.database, &self.options(&places), &mut cost);
        // Also of copies that came to nothing.
        self.held = self.held.max(cost.held);
        let view = taken?;
        self.way = Way::Copy;
        tracing::debug!(
            store = %self.context.store.name, pages = view.pages(), tries = cost.tries, transactions = cost.transactions,
            "A consistent copy was taken."
        );
        self.in_view(check, view)
    }

    /// Asks in a copy, which nobody else has.
    fn in_view(&mut self, check: Check, mut view: View) -> Result<Verdict, ViewError> {
        let pages = view.pages();
        let bytes = u64::from(view.pages()) * u64::from(view.header().page_bytes);
        self.progress().begin(Phase::Checking, bytes);
        let deadline = self.context.config.collect.check_deadline;
        if check == Check::Schema {
            let seen = view.within(deadline, self.stop, schema::read).result?;
            return Ok(Verdict { findings: schema::findings(self.context, &seen)?, pages });
        }
        let quiet = if bytes < LONG_BYTES { Quiet::Nice } else { Quiet::Idle };
        let progress = self.progress();
        let work = |stop: &AtomicBool| {
            let (hold, hold_unwaited) = (deadline, deadline);
            let limits = Limits { hold, hold_unwaited, stop, progress: Some(progress) };
            pages::whole(view.readers(), check.pragma(), &limits, progress).result
        };
        let answer = quietly(quiet, self.stop, work)?;
        let verdict = match answer {
            // Nobody else has this file: what SQLite comes upon is damage.
            Err(QueryError::Damaged(error)) => {
                Verdict { findings: vec![pages::gave_up(&error)], pages }
            }
            other => other?,
        };
        #[cfg(test)]
        let verdict = blindness::of(self.context.database.path(), verdict);
        if self.compare == Compare::No || !verdict.findings.is_empty() {
            return Ok(verdict);
        }
        let (compared, findings) = self.compare(check, &mut view, quiet);
        self.compared = Some(compared);
        Ok(Verdict { findings, pages })
    }

    /// Asks SQLite about a copy that was found whole. Gives what it found there.
    fn compare(&self, check: Check, view: &mut View, quiet: Quiet) -> (Compared, Vec<Finding>) {
        let progress = self.progress();
        // How far SQLite is nobody knows, so the bar begins anew.
        progress.start(check.as_str());
        progress.begin(Phase::Comparing, 0);
        let deadline = self.context.config.collect.check_deadline;
        let answer = quietly(quiet, self.stop, |stop| {
            let (hold, hold_unwaited) = (deadline, deadline);
            let limits = Limits { hold, hold_unwaited, stop, progress: Some(progress) };
            let [reader, _] = view.readers();
            pages::of_sqlite(reader, check.pragma(), &limits, progress).result
        });
        let found = match answer {
            Ok(Ok(verdict)) if verdict.findings.is_empty() => {
                return (Compared::Agreed, Vec::new());
            }
            Ok(Ok(verdict)) => verdict.findings,
            Ok(Err(QueryError::Damaged(error))) => vec![pages::gave_up(&error)],
            Ok(Err(QueryError::Aborted(Abort::Stopped))) => return (Compared::Stopped, Vec::new()),
            Ok(Err(error)) => return (Compared::NotMade(error.chain()), Vec::new()),
            Err(error) => return (Compared::NotMade(error.to_string()), Vec::new()),
        };
        tracing::warn!(
            store = %self.context.store.name,
            "SQLite found damage in a copy that the check of this program found whole; please report this."
        );
        let told = |mut finding: Finding| {
            finding.evidence.push_str(UNSEEN);
            finding
        };
        (Compared::Disagreed, found.into_iter().map(told).collect())
    }
}

impl From<Verdict> for Answer {
    fn from(verdict: Verdict) -> Self {
        Self { findings: verdict.findings, pages: Some(verdict.pages) }
    }
}

/// Where copies of this store may go.
fn places(context: &Context) -> Places {
    let Config { integrity, disk, state_dir, .. } = &*context.config;
    let fallback: [Option<PathBuf>; 2] = [state_dir.clone(), Some(std::env::temp_dir())];
    Places {
        configured: integrity.scratch_dir.clone(),
        fallback: fallback.into_iter().flatten().collect(),
        watched_ratio_max: disk.warn_ratio,
        other_ratio_max: disk.critical_ratio,
        name: None,
    }
}

/// What is added to damage that SQLite alone has seen.
const UNSEEN: &str = "; only SQLite's own integrity_check sees this, not the faster check of this program: please report that";
/// A copy of this size is checked in about a second.
const LONG_BYTES: u64 = 128 << 20;
/// A statement beside a writer that waits is given up after this, and no lock for a copy is held longer.
const LOCK_BUDGET: Duration = Duration::from_millis(10);
/// How long the schema is asked for beside a writer, and the shortest time between two tries.
const SCHEMA_PATIENCE: Duration = Duration::from_secs(20);
const SCHEMA_PAUSE: Duration = Duration::from_millis(2);
/// How often a hot journal is looked at again before it is believed.
const HOT_TRIES_MAX: u32 = 3;
/// How old the knowledge may be that nobody holds the file.
const HOLDERS_AGE_MAX: Duration = Duration::from_secs(5);
/// No new copy is begun after so long.
const VIEW_TIME_MAX: Duration = Duration::from_mins(1);
/// The document of hashes.
const DECAY_KIND: &str = "decay";

/// Lets tests make a check that misses damage.
#[cfg(test)]
pub(super) mod blindness {
    use std::{
        path::{Path, PathBuf},
        sync::Mutex,
    };

    use super::Verdict;

    /// The databases in which this program sees no damage.
    pub(in super::super) static IN: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

    pub(super) fn of(path: &Path, mut verdict: Verdict) -> Verdict {
        if IN.lock().unwrap().iter().any(|blind| blind == path) {
            verdict.findings.clear();
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        process::{Command, Stdio},
        sync::Arc,
    };

    use super::*;
    use crate::{
        config::{Config, Store},
        findings::Code,
        host::Host,
    };

    #[test]
    #[cfg_attr(not(feature = "e2e"), ignore = "needs sqlite3: run with --features e2e")]
    fn the_schema_is_asked_for_until_a_writer_is_through_and_busy_is_a_lock_that_stays() {
        for (locked_ms, patience_ms, want) in
            [(400, 60_000, CheckState::Corrupt), (60_000, 300, CheckState::Busy)]
        {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("chroma.sqlite3");
            rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE t(x)").unwrap();
            let mut writer = Command::new("sqlite3")
                .arg(&path)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut stdin = writer.stdin.take().unwrap();
            stdin.write_all(b"BEGIN EXCLUSIVE;\n.print ready\n").unwrap();
            let mut line = String::new();
            BufReader::new(writer.stdout.take().unwrap()).read_line(&mut line).unwrap();
            assert_eq!(line, "ready\n");
            let mut config = Config::default();
            config.collect.check_deadline = Duration::from_millis(patience_ms);
            let store = Store::new("main", dir.path());
            let config = Arc::new(config);
            let context = Context::new(&config, &Arc::new(store), &Arc::new(Host::new(&config)));
            let stop = AtomicBool::new(false);
            let outcome = std::thread::scope(|scope| {
                let check = scope.spawn(|| run(Check::Schema, &context, Compare::No, &stop));
                let began = clock::ticks();
                while began.elapsed() < Duration::from_millis(locked_ms) && !check.is_finished() {
                    std::thread::sleep(Duration::from_millis(5));
                }
                // The end of its input ends the writer, and its lock.
                drop(stdin);
                check.join().unwrap()
            });
            assert!(writer.wait().unwrap().success());
            assert_eq!(outcome.state, want, "{outcome:?}");
            let codes: Vec<Code> = outcome.findings.iter().map(|finding| finding.code).collect();
            assert_eq!(
                codes.as_slice(),
                if want == CheckState::Busy { &[] } else { &[Code::NotAStore][..] }
            );
        }
    }
}
