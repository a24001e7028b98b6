//! Checks under way: a thread that the collector owns, which ends when it is told to.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use super::{
    checks::{self, Check, Outcome},
    decay::Ledger,
    memory::Content,
};
use crate::{
    clock::{self, Timestamp},
    config::CollectorName,
    store::Context,
};

/// Checks under way. Dropping it tells them to stop.
#[derive(Debug)]
pub(super) struct Job {
    thread: Option<JoinHandle<Vec<Ran>>>,
    stop: Arc<AtomicBool>,
    /// What the checks are about.
    pub(super) about: Option<Content>,
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
    /// Starts a thread for the checks in `due`. With `patient` it waits its turn for those that take turns. Errs when the
    /// system gives no thread.
    pub(super) fn start(
        due: Vec<Check>,
        about: Option<Content>,
        context: &Context,
        patient: bool,
        now: Timestamp,
        kept: &Arc<Mutex<Option<Ledger>>>,
    ) -> std::io::Result<Self> {
        let kept = Arc::clone(kept);
        let stop = Arc::new(AtomicBool::new(false));
        let (context, stopped) = (context.clone(), Arc::clone(&stop));
        let work = move || run_checks(&due, &context, patient, now, &kept, &stopped);
        let thread = std::thread::Builder::new().name("integrity".to_owned()).spawn(work)?;
        Ok(Self { thread: Some(thread), stop, about })
    }

    /// Tells the checks to end; they do within moments.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether the thread has ended.
    pub(super) fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
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

/// Runs the checks one after the other. Whole-file checks of different stores take turns: one whose turn does not come is
/// left for later, and is then not among the results.
fn run_checks(
    due: &[Check],
    context: &Context,
    patient: bool,
    now: Timestamp,
    kept: &Mutex<Option<Ledger>>,
    stop: &AtomicBool,
) -> Vec<Ran> {
    let mut ran = Vec::new();
    let job_began = clock::ticks();
    for check in due.iter().copied() {
        let _turn = if check == Check::Schema {
            None
        } else if let Some(turn) = turn(&context.host.heavy, patient, stop) {
            Some(turn)
        } else {
            continue;
        };
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let began = clock::ticks();
        let progress = context.progress(CollectorName::Integrity);
        progress.start(check.as_str());
        let outcome = match check {
            Check::Decay => {
                let again_after = Some(context.config.collect.full_interval);
                let at = now.plus(job_began.elapsed());
                checks::decay(context, kept, again_after, patient, at, stop)
            }
            _ => Some(checks::run(check, context, stop)),
        };
        progress.end();
        let ended = now.plus(job_began.elapsed());
        ran.extend(outcome.map(|outcome| Ran { check, outcome, duration: began.elapsed(), ended }));
    }
    ran
}

/// The turn of a check; `None` when it is another's, and the caller is not patient or is to stop. The lock is tried again
/// and again instead of waited for, because nobody can wake a thread that waits for a lock.
fn turn<'a>(heavy: &'a Mutex<()>, patient: bool, stop: &AtomicBool) -> Option<MutexGuard<'a, ()>> {
    loop {
        match heavy.try_lock() {
            Ok(turn) => return Some(turn),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if !patient || stop.load(Ordering::Relaxed) => {
                return None;
            }
            Err(TryLockError::WouldBlock) => std::thread::sleep(TURN_PAUSE),
        }
    }
}

/// Time between two looks whether it is the turn of a check.
const TURN_PAUSE: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{BackupPolicy, Config, PermissionPolicy, Store},
        host::Host,
    };

    const SOON: Duration = Duration::from_secs(30);

    fn context(dir: &std::path::Path) -> Context {
        let config = Arc::new(Config::default());
        let store = Arc::new(Store {
            name: "main".into(),
            path: dir.into(),
            seen_path: dir.into(),
            backups: BackupPolicy::daily(Vec::new()),
            permissions: PermissionPolicy::default(),
            logs: Vec::new(),
            server: None,
            chroma_version: None,
        });
        Context::new(&config, &store, &Arc::new(Host::new(&config)))
    }

    fn wait_end(job: &Job) {
        let began = clock::ticks();
        while !job.is_finished() {
            assert!(began.elapsed() < SOON, "the job does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn a_check_that_waits_for_its_turn_ends_when_told() {
        let dir = tempfile::tempdir().unwrap();
        let context = context(dir.path());
        let others_turn = context.host.heavy.lock().unwrap();
        let now = Timestamp::from_secs(1_795_000_000);
        let job =
            Job::start(vec![Check::Quick], None, &context, true, now, &Arc::default()).unwrap();
        std::thread::sleep(3 * TURN_PAUSE);
        assert!(!job.is_finished(), "it is another's turn");
        job.stop();
        wait_end(&job);
        assert!(job.join().unwrap().is_empty(), "a check that never began said nothing");

        // Without patience nobody waits.
        let job = Job::start(
            vec![Check::Quick, Check::Full],
            None,
            &context,
            false,
            now,
            &Arc::default(),
        )
        .unwrap();
        wait_end(&job);
        assert!(job.join().unwrap().is_empty());
        drop(others_turn);
        let job =
            Job::start(vec![Check::Quick], None, &context, true, now, &Arc::default()).unwrap();
        let ran = job.join().unwrap();
        assert_eq!(ran.len(), 1);
        assert!(ran[0].ended >= now && ran[0].ended < now.plus(SOON), "by the clock of the caller");
    }

    #[test]
    fn a_job_that_is_dropped_is_told_to_stop() {
        let dir = tempfile::tempdir().unwrap();
        let context = context(dir.path());
        let _others_turn = context.host.heavy.lock().unwrap();
        let now = Timestamp::from_secs(1_795_000_000);
        let job =
            Job::start(vec![Check::Full], None, &context, true, now, &Arc::default()).unwrap();
        let stop = Arc::clone(&job.stop);
        drop(job);
        assert!(stop.load(Ordering::Relaxed));
        let began = clock::ticks();
        // The thread has the other clone.
        while Arc::strong_count(&stop) > 1 {
            assert!(began.elapsed() < SOON, "its thread does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
