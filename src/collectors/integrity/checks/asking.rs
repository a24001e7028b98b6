//! One check under way: where it looks (in the file, in a copy, in slices), and what it does when that is refused.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use super::{
    Check, Way,
    pages::{self, Verdict},
    schema, slices,
};
use crate::{
    clock,
    collectors::integrity::compare::{Compare, Compared},
    config::{CollectorName, Config},
    findings::Finding,
    host::{
        priority::{Quiet, quietly},
        processes::Held,
    },
    progress::{Phase, Progress},
    store::{
        Context,
        database::{Abort, Limits, QueryError},
        pagecache,
        view::{self, Cost, Options, Places, View, ViewError},
    },
};

/// The answer of a check that came to its end.
pub(super) struct Answer {
    pub(super) findings: Vec<Finding>,
    pub(super) pages: Option<u32>,
}

/// One check under way.
pub(super) struct Asking<'a> {
    pub(super) context: &'a Context,
    pub(super) stop: &'a AtomicBool,
    /// Whether SQLite is to be asked too, about a copy that was found whole.
    pub(super) compare: Compare,
    pub(super) held: Duration,
    pub(super) way: Way,
    pub(super) reason: Option<String>,
    pub(super) compared: Option<Compared>,
}

impl Asking<'_> {
    fn progress(&self) -> &Progress {
        self.context.progress(CollectorName::Integrity)
    }

    /// Answers one check, in the file or in copies of it. Errs when SQLite could not be asked, or gave no answer.
    pub(super) fn ask(&mut self, check: Check) -> Result<Answer, QueryError> {
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
    /// Errs when the file cannot be looked at.
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
    /// beside a holder a copy answers what takes too long in the file. Errs when SQLite could not be asked, or it was stopped.
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
    /// Errs when SQLite could not be asked, or the file is another by now.
    fn in_file(&mut self, check: Check, hold_unwaited: Duration) -> Result<Answer, QueryError> {
        self.way = Way::File;
        let database = &self.context.database;
        let before = database.stamp().map_err(QueryError::File)?;
        let limits = Limits {
            hold: LOCK_BUDGET.min(hold_unwaited),
            hold_unwaited,
            stop: self.stop,
            // The schema check may run beside an expensive one, whose pauses are none of its own.
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
            let verdict = super::blindness::of(self.context.database.path(), verdict);
            verdict.into()
        };
        // Damage in a file that was exchanged meanwhile would be said of the wrong one.
        let same = database.stamp().is_ok_and(|after| after.id == before.id);
        if same { Ok(said) } else { Err(QueryError::Replaced) }
    }

    /// Looks at every row without a writer noticing. What it finds is damage; when it finds none, the check as a whole has
    /// still been given up, as `aborted` says. Errs with `aborted` when it finds none, and when SQLite could not be asked.
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
    /// that is broken. Errs when no copy can be made or read, or two of them disagree.
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
    /// Errs when a process may hold the file, no copy can be made or read, or two of them disagree.
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

    /// Asks in a copy, which nobody else has. Errs when the copy cannot be read, or it was stopped.
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
        let verdict = super::blindness::of(self.context.database.path(), verdict);
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
        let reported = |mut finding: Finding| {
            finding.evidence.push_str(UNSEEN);
            finding
        };
        (Compared::Disagreed, found.into_iter().map(reported).collect())
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
