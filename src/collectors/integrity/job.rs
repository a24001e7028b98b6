//! Checks under way: a thread that the collector owns, which ends when it is told to.

use std::{
    os::unix::fs::MetadataExt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use parking_lot::Mutex;

use super::{
    checks::{self, Check, Outcome},
    compare::Compare,
    decay::Ledger,
    memory::Content,
};
use crate::{
    clock::{self, Timestamp},
    collectors::CollectError,
    config::CollectorName,
    host::turns::Turn,
    sample::CheckState,
    store::Context,
};

/// Checks under way. Dropping it tells them to stop.
#[derive(Debug)]
pub(super) struct Job {
    thread: Option<JoinHandle<Vec<Ran>>>,
    stop: Arc<AtomicBool>,
    /// What the checks are about.
    pub(super) about: Option<Content>,
    pub(super) checks: Vec<Check>,
    /// When it was started; from then on it may wait for its turn.
    pub(super) began: Timestamp,
}

/// How checks are to be run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    pub(super) now: Timestamp,
    /// Somebody asked for everything.
    pub(super) deep: bool,
    /// Files that nobody wrote are read again when they were read longer ago than this.
    pub(super) again_after: Option<Duration>,
    /// Whether the full check is to be compared with what SQLite says.
    pub(super) compare: Compare,
}

/// One check that has run.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) check: Check,
    pub(super) outcome: Outcome,
    pub(super) duration: Duration,
    pub(super) ended: Timestamp,
}

impl Job {
    /// Starts a thread for `checks`. Errs when the system gives no thread.
    pub(super) fn start(
        checks: Vec<Check>,
        about: Option<Content>,
        context: &Context,
        order: Order,
        kept: &Arc<Mutex<Option<Ledger>>>,
    ) -> std::io::Result<Self> {
        let kept = Arc::clone(kept);
        let stop = Arc::new(AtomicBool::new(false));
        let (context, stopped) = (context.clone(), Arc::clone(&stop));
        let due = checks.clone();
        let work = move || run_checks(&due, &context, order, &kept, &stopped);
        let thread = std::thread::Builder::new().name("integrity".to_owned()).spawn(work)?;
        Ok(Self { thread: Some(thread), stop, about, checks, began: order.now })
    }

    /// Tells the checks to end; they do within moments.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether the thread has ended.
    pub(super) fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Whether it reads whole files, and so may wait for its turn.
    pub(super) fn is_dear(&self) -> bool {
        self.checks.iter().any(|check| check.reads_whole_files())
    }

    /// Waits for the end. Errs when a check panicked.
    pub(super) fn join(mut self) -> std::thread::Result<Vec<Ran>> {
        self.thread.take().map_or_else(|| Ok(Vec::new()), JoinHandle::join)
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Runs the checks one after the other. Those that read whole files take turns with those of other stores; what is told to
/// stop before its turn came is left for later, and is then not among the results.
fn run_checks(
    due: &[Check],
    context: &Context,
    order: Order,
    kept: &Mutex<Option<Ledger>>,
    stop: &AtomicBool,
) -> Vec<Ran> {
    let mut ran: Vec<Ran> = Vec::new();
    let progress = context.progress(CollectorName::Integrity);
    let job_began = clock::ticks();
    let mut in_order = due.to_vec();
    in_order.sort_by_key(|check| *check == Check::Quick);
    for check in in_order {
        let full = ran.iter().find(|ran| ran.check == Check::Full);
        if let Some(full) = full.filter(|full| full.outcome.state == CheckState::Ok)
            && check == Check::Quick
        {
            // It looks at nothing that the full check has not just found whole.
            let outcome = full.outcome.covering();
            ran.push(Ran { check, outcome, duration: full.duration, ended: full.ended });
            continue;
        }
        let dear = check.reads_whole_files();
        let mut turn = None;
        if dear {
            progress.start(check.as_str());
            if context.host.turns.used_up(&context.store.name) {
                let ended = order.now.plus(job_began.elapsed());
                let outcome = used_up(context);
                ran.push(Ran { check, outcome, duration: Duration::ZERO, ended });
                continue;
            }
            turn = context.host.turns.take(device(context), &context.store.name, stop);
            progress.paced_by(turn.as_ref().map(Turn::pacer));
        }
        if stop.load(Ordering::Relaxed) || dear && turn.is_none() {
            break;
        }
        let began = clock::ticks();
        let at = order.now.plus(job_began.elapsed());
        let outcome = match check {
            Check::Decay => checks::decay(context, kept, order.again_after, order.deep, at, stop),
            _ => Some(checks::run(check, context, order.compare, stop)),
        };
        let outcome = match outcome {
            Some(Outcome { state: CheckState::Unknown, .. }) if progress.is_used_up() => {
                Some(used_up(context))
            }
            other => other,
        };
        progress.paced_by(None);
        let ended = order.now.plus(job_began.elapsed());
        ran.extend(outcome.map(|outcome| Ran { check, outcome, duration: began.elapsed(), ended }));
    }
    if due.iter().any(|check| check.reads_whole_files()) {
        progress.end();
    }
    ran
}

/// What is said of a check that did not come to its end because its store had all that one may have in a day.
fn used_up(context: &Context) -> Outcome {
    let day_max = context.host.turns.day_max();
    Outcome::given_up(CollectError::UsedUp { what: "the database was", day_max })
}

/// The number of the filesystem on which the store lies; 0 for one that is not there.
pub(super) fn device(context: &Context) -> u64 {
    std::fs::metadata(&context.store.seen_path).map_or(0, |meta| meta.dev())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        collectors::testing::context,
        wait::{SOON, wait, wait_until},
    };

    fn wait_end(job: &Job) {
        wait_until("the end of the job", SOON, || job.is_finished());
    }

    fn order(now: Timestamp) -> Order {
        Order { now, deep: false, again_after: None, compare: Compare::No }
    }

    #[test]
    fn a_check_that_waits_for_its_turn_ends_when_told() {
        let dir = tempfile::tempdir().unwrap();
        let context = context(dir.path());
        let go = AtomicBool::new(false);
        let others_turn = context.host.turns.take(device(&context), &"other".into(), &go).unwrap();
        let now = Timestamp::from_secs(1_795_000_000);
        let kept = Arc::default();
        let job = Job::start(vec![Check::Quick], None, &context, order(now), &kept).unwrap();
        wait("a word that it waits", SOON, || {
            let standing = context.progress(CollectorName::Integrity).standing();
            let waits = standing.as_ref().map(|s| (s.task, s.phase.as_str()));
            if waits == Some(("quick", "waiting")) { Ok(()) } else { Err(format!("{waits:?}")) }
        });
        assert!(!job.is_finished(), "it is another's turn");
        // What reads no whole file waits for nobody.
        let light = Job::start(vec![Check::Schema], None, &context, order(now), &kept).unwrap();
        assert!(!light.is_dear() && job.is_dear());
        assert_eq!(light.join().unwrap().len(), 1);
        job.stop();
        wait_end(&job);
        assert!(job.join().unwrap().is_empty(), "a check that never began said nothing");
        assert_eq!(context.progress(CollectorName::Integrity).standing(), None);

        drop(others_turn);
        let job = Job::start(vec![Check::Quick], None, &context, order(now), &kept).unwrap();
        let ran = job.join().unwrap();
        assert_eq!(ran.len(), 1);
        assert!(ran[0].ended >= now && ran[0].ended < now.plus(SOON), "by the clock of the caller");
    }

    #[test]
    fn a_full_check_that_finds_nothing_answers_the_quick_one_too() {
        let dir = tempfile::tempdir().unwrap();
        let context = context(dir.path());
        let connection = rusqlite::Connection::open(context.database.path()).unwrap();
        connection.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES(NULL)").unwrap();
        let now = Timestamp::from_secs(1_795_000_000);
        let states = || {
            let checks = vec![Check::Quick, Check::Full];
            let job = Job::start(checks, None, &context, order(now), &Arc::default()).unwrap();
            let ran = job.join().unwrap();
            let same = ran[0].ended == ran[1].ended;
            (ran.iter().map(|ran| (ran.check, ran.outcome.state)).collect::<Vec<_>>(), same)
        };
        let both = |state| vec![(Check::Full, state), (Check::Quick, state)];
        assert_eq!(states(), (both(CheckState::Ok), true));
        let sql = "PRAGMA writable_schema=ON;
                   UPDATE sqlite_schema SET sql='CREATE TABLE t(x NOT NULL)'";
        connection.execute_batch(sql).unwrap();
        assert_eq!(states(), (both(CheckState::Corrupt), false), "each in its own words");
    }

    #[test]
    fn a_job_that_is_dropped_is_told_to_stop() {
        let dir = tempfile::tempdir().unwrap();
        let context = context(dir.path());
        let go = AtomicBool::new(false);
        let _others_turn = context.host.turns.take(device(&context), &"other".into(), &go).unwrap();
        let now = Timestamp::from_secs(1_795_000_000);
        let job =
            Job::start(vec![Check::Full], None, &context, order(now), &Arc::default()).unwrap();
        let stop = Arc::clone(&job.stop);
        drop(job);
        assert!(stop.load(Ordering::Relaxed));
        // The thread has the other clone.
        wait_until("the end of its thread", SOON, || Arc::strong_count(&stop) == 1);
    }
}
