//! Checks under way, one after the other. Each waits for its turn without a thread, and ends when it is told to.

use std::{
    collections::VecDeque,
    os::unix::fs::MetadataExt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
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
    clock::{self, Ticks, Timestamp},
    collectors::CollectError,
    config::CollectorName,
    host::job_queue::{NoPermit, Permit, Size, Wanted},
    sample::CheckState,
    store::Context,
};

/// Checks under way. Dropping it tells them to stop.
#[derive(Debug)]
pub(super) struct Job {
    /// Whoever works, or waits to, has the other reference.
    said: Arc<Mutex<Results>>,
    stop: Arc<AtomicBool>,
    /// What the checks are about.
    pub(super) about: Option<Content>,
    pub(super) checks: Vec<Check>,
    /// When it was started; from then on it may wait for its turn.
    pub(super) began: Timestamp,
}

/// What has come of the checks so far.
#[derive(Debug, Default)]
struct Results {
    ran: Vec<Ran>,
    /// Why the rest does not run.
    failed: Option<CollectError>,
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
    /// Puts `checks` into the queue.
    pub(super) fn start(
        checks: Vec<Check>,
        about: Option<Content>,
        context: &Context,
        order: Order,
        kept: &Arc<Mutex<Option<Ledger>>>,
    ) -> Self {
        let said = Arc::new(Mutex::new(Results::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let mut due = checks.clone();
        due.sort_by_key(|check| *check == Check::Quick);
        let steps = Steps {
            due: due.into(),
            device: device(context),
            context: context.clone(),
            order,
            kept: Arc::clone(kept),
            stop: Arc::clone(&stop),
            began: clock::ticks(),
            reads_whole_files: checks.iter().any(|check| check.reads_whole_files()),
            said: Arc::clone(&said),
        };
        steps.go_on();
        Self { said, stop, about, checks, began: order.now }
    }

    /// Tells the checks to end; they do within moments.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether nothing of it works or waits any more.
    pub(super) fn is_finished(&self) -> bool {
        Arc::strong_count(&self.said) == 1
    }

    /// Whether it reads whole files, and so may wait for its turn.
    pub(super) fn is_expensive(&self) -> bool {
        self.checks.iter().any(|check| check.reads_whole_files())
    }

    /// What has come of it, and why the rest did not run. Waits for the end.
    pub(super) fn join(self) -> (Vec<Ran>, Option<CollectError>) {
        while !self.is_finished() {
            std::thread::sleep(READING_PAUSE);
        }
        let Results { ran, failed } = std::mem::take(&mut *self.said.lock());
        (ran, failed)
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What is still to be done of a job. Checks that read whole files take turns with those of other stores; what is told to stop
/// before its turn came is left for later, and is then not among the results.
struct Steps {
    due: VecDeque<Check>,
    device: u64,
    context: Context,
    order: Order,
    kept: Arc<Mutex<Option<Ledger>>>,
    stop: Arc<AtomicBool>,
    began: Ticks,
    reads_whole_files: bool,
    said: Arc<Mutex<Results>>,
}

impl Steps {
    /// Puts the next check into the queue.
    fn go_on(mut self) {
        while let Some(check) = self.due.pop_front() {
            let Some(ran) = self.without_reading(check) else {
                return self.ask(check);
            };
            self.said.lock().ran.push(ran);
        }
        self.end();
    }

    /// The answer of a check that needs none of its own, or gets none.
    fn without_reading(&self, check: Check) -> Option<Ran> {
        let said = self.said.lock();
        let full = said.ran.iter().find(|ran| ran.check == Check::Full);
        if let Some(full) = full.filter(|full| full.outcome.state == CheckState::Ok)
            && check == Check::Quick
        {
            // It looks at nothing that the full check has not just found whole.
            let outcome = full.outcome.covering();
            return Some(Ran { check, outcome, duration: full.duration, ended: full.ended });
        }
        let used_up_all = || self.context.host.job_queue.used_up(&self.context.store.name);
        (check.reads_whole_files() && used_up_all()).then(|| Ran {
            check,
            outcome: used_up(&self.context),
            duration: Duration::ZERO,
            ended: self.now(),
        })
    }

    fn ask(self, check: Check) {
        let expensive = check.reads_whole_files();
        if expensive {
            self.context.progress(CollectorName::Integrity).start(check.as_str());
        }
        let (context, stop) = (self.context.clone(), Arc::clone(&self.stop));
        let wanted = Wanted {
            name: "integrity",
            size: if expensive { Size::Large } else { Size::Small },
            device: self.device,
            store: &context.store.name,
            stop: &stop,
        };
        context.host.job_queue.begin(&wanted, move |permit| self.step(check, permit));
    }

    fn step(self, check: Check, permit: Result<Permit, NoPermit>) {
        let ran = match permit {
            Ok(permit) => catch_unwind(AssertUnwindSafe(|| self.run(check, &permit)))
                .map_err(|_| Some(CollectError::Panicked("in a check".to_owned()))),
            Err(NoPermit::Stopped) => Err(None),
            Err(NoPermit::NoThread(source)) => {
                Err(Some(CollectError::NoThread { what: "the checks", source }))
            }
        };
        match ran {
            Ok(ran) => {
                self.said.lock().ran.extend(ran);
                self.go_on();
            }
            Err(failed) => {
                self.said.lock().failed = failed;
                self.end();
            }
        }
    }

    fn run(&self, check: Check, permit: &Permit) -> Option<Ran> {
        let Self { context, order, stop, .. } = self;
        if stop.load(Ordering::Relaxed) {
            return None;
        }
        let progress = context.progress(CollectorName::Integrity);
        if check.reads_whole_files() {
            progress.paced_by(permit.pacer());
        }
        let (began, at) = (clock::ticks(), self.now());
        let outcome = match check {
            Check::Decay => {
                checks::decay(context, &self.kept, order.again_after, order.deep, at, stop)
            }
            _ => Some(checks::run(check, context, order.compare, stop)),
        };
        let outcome = match outcome {
            Some(Outcome { state: CheckState::Unknown, .. })
                if check.reads_whole_files() && progress.is_used_up() =>
            {
                Some(used_up(context))
            }
            other => other,
        };
        if check.reads_whole_files() {
            progress.paced_by(None);
        }
        outcome.map(|outcome| Ran { check, outcome, duration: began.elapsed(), ended: self.now() })
    }

    /// By the clock of the caller.
    fn now(&self) -> Timestamp {
        self.order.now.plus(self.began.elapsed())
    }

    fn end(self) {
        // One that reads no whole files says nothing of itself, and may run beside one that does.
        if self.reads_whole_files {
            self.context.progress(CollectorName::Integrity).end();
        }
    }
}

/// What is said of a check that did not come to its end because its store had all that one may have in a day.
fn used_up(context: &Context) -> Outcome {
    let day_max = context.host.job_queue.day_max();
    Outcome::given_up(CollectError::UsedUp { what: "the database was", day_max })
}

/// The number of the filesystem on which the store lies; 0 for one that is not there.
pub(super) fn device(context: &Context) -> u64 {
    std::fs::metadata(&context.store.seen_path).map_or(0, |meta| meta.dev())
}

/// Between two looks whether it has ended.
const READING_PAUSE: Duration = Duration::from_millis(5);

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
        let others_permit =
            context.host.job_queue.take(device(&context), &"other".into(), &go).unwrap();
        let now = Timestamp::from_secs(1_795_000_000);
        let kept = Arc::default();
        let job = Job::start(vec![Check::Quick], None, &context, order(now), &kept);
        wait("a word that it waits", SOON, || {
            let state = context.progress(CollectorName::Integrity).state();
            let waits = state.as_ref().map(|s| (s.task, s.phase.as_str()));
            if waits == Some(("quick", "waiting")) { Ok(()) } else { Err(format!("{waits:?}")) }
        });
        assert!(!job.is_finished(), "it is another's turn");
        // What reads no whole file waits for nobody.
        let light = Job::start(vec![Check::Schema], None, &context, order(now), &kept);
        assert!(!light.is_expensive() && job.is_expensive());
        assert_eq!(light.join().0.len(), 1);
        job.stop();
        wait_end(&job);
        assert!(job.join().0.is_empty(), "a check that never began said nothing");
        assert_eq!(context.progress(CollectorName::Integrity).state(), None);

        drop(others_permit);
        let job = Job::start(vec![Check::Quick], None, &context, order(now), &kept);
        let (ran, _) = job.join();
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
            let job = Job::start(checks, None, &context, order(now), &Arc::default());
            let (ran, _) = job.join();
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
        let _others_permit =
            context.host.job_queue.take(device(&context), &"other".into(), &go).unwrap();
        let now = Timestamp::from_secs(1_795_000_000);
        let job = Job::start(vec![Check::Full], None, &context, order(now), &Arc::default());
        let stop = Arc::clone(&job.stop);
        drop(job);
        assert!(stop.load(Ordering::Relaxed));
        // What waits has the other clone.
        wait_until("it to leave the queue", SOON, || Arc::strong_count(&stop) == 1);
    }
}
