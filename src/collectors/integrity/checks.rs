//! The checks that ask SQLite. The schema check is a short read transaction. `quick_check` and `integrity_check` run in the
//! file itself while no process holds it, and make way for a writer that comes; otherwise they run on a consistent copy
//! (`store::view`), which locks nobody out, whatever the write load. Where no copy can be had, they get the time of one
//! statement in the file itself, and then every row is looked at in slices. What is given up is unknown, never corrupt.

mod asking;
pub mod pages;
mod places;
mod schema;
mod slices;

use std::{sync::atomic::AtomicBool, time::Duration};

use parking_lot::Mutex;

use self::asking::Asking;
pub(super) use self::{pages::GAVE_UP, places::TORN_FULL_TEXT};
use super::{
    compare::{Compare, Compared},
    decay::{self, Ledger},
};
use crate::{
    clock::Timestamp,
    collectors::CollectError,
    findings::{Finding, Severity},
    host::priority::{Quiet, quietly},
    sample::CheckState,
    store::{Context, database::QueryError},
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

/// The document of hashes.
const DECAY_KIND: &str = "decay";

/// Lets tests make a check that misses damage.
#[cfg(test)]
pub(super) mod blindness {
    use std::{
        path::{Path, PathBuf},
        sync::Mutex,
    };

    use super::pages::Verdict;

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
        clock,
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
