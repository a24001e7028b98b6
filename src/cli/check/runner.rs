//! Runs collectors once, each on a thread of its own with a deadline: one that hangs is left behind and said, and hides
//! nothing else.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};

use crate::{
    clock::{self, Timestamp},
    collectors::{self, CollectError, Collector},
    config::{CollectorName, Config, Store},
    findings::Code,
    host::Host,
    progress::{Progress, ProgressState},
    sample::{Desc, Observation, Reading},
    scheduler,
    store::Context,
};

/// What one collector saw in one store.
#[derive(Debug)]
pub(in crate::cli) struct CollectorRun {
    pub(in crate::cli) collector: CollectorName,
    pub(in crate::cli) observation: Observation,
    pub(in crate::cli) run: RunStats,
}

/// Which run it was. What it answers for is known after it only.
#[derive(Debug)]
pub(in crate::cli) struct RunStats {
    began: Timestamp,
    took: Duration,
    descs: &'static [&'static Desc],
    codes: &'static [Code],
}

impl CollectorRun {
    /// The same as a running exporter knows it.
    pub(super) fn into_reading(self) -> Reading {
        let Self { collector, observation, run } = self;
        Reading {
            collector: collector.as_str(),
            descs: run.descs,
            taken_at: run.began,
            duration: run.took,
            last_success: observation.problems.is_empty().then_some(run.began),
            next_within: run.took,
            observation,
            codes: run.codes,
        }
    }

    /// One that nobody timed.
    #[cfg(test)]
    pub(super) fn of(collector: CollectorName, observation: Observation) -> Self {
        let began = Timestamp::from_secs(0);
        let run = RunStats { began, took: Duration::ZERO, descs: &[], codes: &[] };
        Self { collector, observation, run }
    }
}

/// How much `check` reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli) enum Depth {
    /// No page that is not on the way to what is asked.
    Glance,
    /// No whole file.
    Quick,
    /// Everything.
    Full,
    /// Everything, and SQLite reads it again.
    Paranoid,
}

/// Looks at every store with every collector that is on. Gives the looks of each store in the order of the registry.
pub(in crate::cli) fn run_all(
    config: &Arc<Config>,
    stores: &[Arc<Store>],
    host: &Arc<Host>,
    depth: Depth,
    running: &Running,
) -> Vec<Vec<CollectorRun>> {
    let (glance, paranoid) = (depth == Depth::Glance, depth == Depth::Paranoid);
    let deep = matches!(depth, Depth::Full | Depth::Paranoid);
    let context = |store| Context { paranoid, glance, ..Context::new(config, store, host) };
    let contexts: Vec<Context> = stores.iter().map(context).collect();
    // Whole-file checks read as fast as the disk can: one at a time, after everything that is cheap. Their deadlines
    // begin when their turn comes.
    let (heavy, cheap): (Vec<_>, Vec<_>) =
        config.enabled.iter().copied().partition(|name| deep && reads_whole_files(*name));
    // A server waits for a glance, and nobody else uses the store.
    let collectors_at_once = if glance { cheap.len() } else { 1 };
    let mut runs = side_by_side(&contexts, STORES_AT_ONCE, |context| {
        let runs =
            side_by_side(&cheap, collectors_at_once, |name| run_one(*name, context, deep, running));
        running.finished();
        runs
    });
    running.start_over();
    let mut host = Arc::clone(host);
    for (context, runs) in contexts.iter().zip(&mut runs) {
        for name in &heavy {
            let run = run_one(
                *name,
                &Context { host: Arc::clone(&host), ..context.clone() },
                deep,
                running,
            );
            if run.observation.problems.iter().any(|p| matches!(p, CollectError::Overdue { .. })) {
                // The thread that was left behind may hold what all stores of a host share.
                host = Arc::new(Host::read_only(config));
            }
            runs.push(run);
        }
        runs.sort_by_key(|run| run.collector);
        running.finished();
    }
    runs
}

/// `work` over all of them, so many at a time, with the results in their order.
fn side_by_side<I: Sync, T: Send>(
    all: &[I],
    at_once: usize,
    work: impl Fn(&I) -> T + Sync,
) -> Vec<T> {
    let queue: Mutex<VecDeque<usize>> = Mutex::new((0..all.len()).collect());
    let done: Mutex<BTreeMap<usize, T>> = Mutex::default();
    let next = || queue.lock().pop_front();
    thread::scope(|scope| {
        for _ in 0..all.len().min(at_once) {
            scope.spawn(|| {
                while let Some(index) = next() {
                    let result = work(&all[index]);
                    done.lock().insert(index, result);
                }
            });
        }
    });
    done.into_inner().into_values().collect()
}

fn run_one(name: CollectorName, context: &Context, deep: bool, running: &Running) -> CollectorRun {
    let collector = collectors::build(name, context);
    let mut deadline = collector.pace().deadline;
    if deep && reads_whole_files(name) {
        // The quick and the full check, or the queue and the records, one after the other.
        let steps = if context.paranoid { 3 } else { 2 };
        deadline = deadline.max(context.config.collect.check_deadline * steps);
    }
    running.begin(context, name);
    let Reading { observation, taken_at: began, duration: took, descs, codes, .. } =
        run_bounded(collector, context, deep, deadline, GRACE);
    running.end_of(&context.store.name);
    CollectorRun { collector: name, observation, run: RunStats { began, took, descs, codes } }
}

const fn reads_whole_files(name: CollectorName) -> bool {
    matches!(name, CollectorName::Integrity | CollectorName::Contents | CollectorName::Hnsw)
}

/// One run that is told to stop at `deadline`, and left behind when it has not stopped after `grace`.
fn run_bounded(
    mut collector: Box<dyn Collector>,
    context: &Context,
    deep: bool,
    deadline: Duration,
    grace: Duration,
) -> Reading {
    let stop = Arc::new(AtomicBool::new(false));
    let (send, receive) = mpsc::channel();
    let (name, descs, codes) = (collector.name(), collector.descs(), collector.codes());
    let (taken_at, began) = (clock::now(), clock::ticks());
    let (context, reported) = (context.clone(), Arc::clone(&stop));
    let started =
        thread::Builder::new().name(format!("check {}", name.as_str())).spawn(move || {
            // Nobody listens any more when it comes too late.
            drop(send.send(scheduler::run_once(&mut *collector, &context, deep, reported)));
        });
    let failed = |problems| Reading {
        collector: name.as_str(),
        descs,
        observation: Observation { problems, ..Observation::default() },
        taken_at,
        duration: began.elapsed(),
        last_success: None,
        next_within: deadline,
        codes,
    };
    if let Err(source) = started {
        return failed(vec![CollectError::NoThread { what: "a collector", source }]);
    }
    match receive.recv_timeout(deadline) {
        Ok(reading) => reading,
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            failed(vec![CollectError::Panicked("its thread ended".to_owned())])
        }
        Err(mpsc::RecvTimeoutError::Timeout) => {
            stop.store(true, Ordering::Relaxed);
            let mut late = receive.recv_timeout(grace).unwrap_or_else(|_| failed(Vec::new()));
            late.observation.problems.push(CollectError::Overdue { deadline });
            late
        }
    }
}

/// What is being looked at now, for the progress line.
#[derive(Debug, Default)]
pub(in crate::cli) struct Running {
    state: Mutex<State>,
}

/// A collector at work.
#[derive(Debug)]
pub(super) struct Now {
    pub(super) store: Arc<str>,
    pub(super) collector: CollectorName,
    /// How far it is, where it tells.
    pub(super) state: Option<ProgressState>,
}

#[derive(Debug, Default)]
struct State {
    now: BTreeMap<Arc<str>, (CollectorName, Progress)>,
    finished: usize,
}

impl Running {
    fn begin(&self, context: &Context, collector: CollectorName) {
        let progress = context.progress(collector).clone();
        self.lock().now.insert(Arc::clone(&context.store.name), (collector, progress));
    }

    fn end_of(&self, store: &str) {
        self.lock().now.remove(store);
    }

    fn finished(&self) {
        self.lock().finished += 1;
    }

    /// The second pass over the stores begins.
    fn start_over(&self) {
        self.lock().finished = 0;
    }

    /// How many stores this pass over them is through with.
    pub(super) fn stores_done(&self) -> usize {
        self.lock().finished
    }

    /// What is being looked at.
    pub(super) fn now(&self) -> Vec<Now> {
        let now = |(store, (collector, progress)): (&Arc<str>, &(CollectorName, Progress))| Now {
            store: Arc::clone(store),
            collector: *collector,
            state: progress.state(),
        };
        self.lock().now.iter().map(now).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

const STORES_AT_ONCE: usize = 8;

/// How long a run that was told to stop may take to do so.
const GRACE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        collectors::{Pace, Run},
        findings::{Code, Finding},
        sample::Desc,
        watch::Wake,
    };

    const SOON: Duration = Duration::from_secs(30);
    const MOMENT: Duration = Duration::from_millis(20);

    /// Behaves as it is told.
    struct Actor<F: FnMut(&Run) -> Observation + Send>(F);

    impl<F: FnMut(&Run) -> Observation + Send> Collector for Actor<F> {
        fn name(&self) -> CollectorName {
            CollectorName::Disk
        }

        fn descs(&self) -> &'static [&'static Desc] {
            &[]
        }

        fn codes(&self) -> &'static [Code] {
            &[]
        }

        fn pace(&self) -> Pace {
            Pace { interval: SOON, deadline: SOON, wakes: Wake::NONE, touches_store: false }
        }

        fn collect(&mut self, run: &Run) -> Observation {
            (self.0)(run)
        }
    }

    fn store(name: &str, path: &Path) -> Arc<Store> {
        Arc::new(Store::new(name, path))
    }

    fn play(
        deadline: Duration,
        act: impl FnMut(&Run) -> Observation + Send + 'static,
    ) -> Observation {
        let config = Arc::new(Config::default());
        let host = Arc::new(Host::read_only(&config));
        let context = Context::new(&config, &store("a", Path::new("/")), &host);
        run_bounded(Box::new(Actor(act)), &context, true, deadline, deadline.min(MOMENT))
            .observation
    }

    fn found() -> Observation {
        let findings = vec![Finding::new(Code::DiskUsageHigh, "", "full")];
        Observation { findings, ..Observation::default() }
    }

    #[test]
    fn a_run_that_ends_gives_what_it_saw() {
        let seen = play(SOON, |run| {
            assert!(run.deep && !run.stopped());
            found()
        });
        assert_eq!((seen.findings.len(), seen.problems.len()), (1, 0));
    }

    #[test]
    fn a_run_that_hangs_is_left_behind_and_said() {
        let (open, wait) = mpsc::channel::<()>();
        let seen = play(MOMENT, move |_| {
            assert!(wait.recv().is_err(), "the test is over");
            found()
        });
        assert!(seen.findings.is_empty());
        assert!(matches!(seen.problems[..], [CollectError::Overdue { .. }]), "{seen:?}");
        drop(open);
    }

    #[test]
    fn a_run_that_heeds_the_stop_gives_what_it_has_and_is_late_all_the_same() {
        let config = Arc::new(Config::default());
        let host = Arc::new(Host::read_only(&config));
        let context = Context::new(&config, &store("a", Path::new("/")), &host);
        let heeds = Actor(|run: &Run| {
            while !run.stopped() {
                thread::sleep(Duration::from_millis(1));
            }
            found()
        });
        let seen = run_bounded(Box::new(heeds), &context, false, MOMENT, SOON).observation;
        assert_eq!(seen.findings.len(), 1);
        assert!(matches!(seen.problems[..], [CollectError::Overdue { .. }]), "{seen:?}");
    }

    #[test]
    fn a_panic_is_a_problem_of_that_collector_alone() {
        let seen = play(SOON, |_| panic!("on purpose"));
        assert!(
            matches!(&seen.problems[..], [CollectError::Panicked(text)] if text == "on purpose"),
            "{seen:?}"
        );
    }

    #[test]
    fn every_store_gets_every_collector_in_the_order_of_the_registry() {
        let dir = tempfile::tempdir().unwrap();
        let stores: Vec<_> = (0..20)
            .map(|n| {
                let path = dir.path().join(n.to_string());
                if n % 2 == 0 {
                    std::fs::create_dir(&path).unwrap();
                }
                store(&n.to_string(), &path)
            })
            .collect();
        let config = Arc::new(Config { stores: stores.clone(), ..Config::default() });
        let host = Arc::new(Host::read_only(&config));
        for depth in [Depth::Quick, Depth::Full, Depth::Paranoid] {
            let running = Running::default();
            let runs = run_all(&config, &stores, &host, depth, &running);
            assert_eq!(runs.len(), stores.len());
            for runs in runs {
                let names: Vec<_> = runs.iter().map(|run| run.collector).collect();
                assert_eq!(names, CollectorName::ALL);
            }
            assert_eq!((running.stores_done(), running.now().len()), (20, 0));
        }
    }

    #[test]
    fn what_is_looked_at_is_known_with_its_progress() {
        let running = Running::default();
        let config = Arc::new(Config::default());
        let host = Arc::new(Host::read_only(&config));
        let context = Context::new(&config, &store("docs", Path::new("/")), &host);
        running.begin(&context, CollectorName::Integrity);
        context.progress(CollectorName::Integrity).start("full");
        let now = running.now();
        assert_eq!((&*now[0].store, now[0].collector), ("docs", CollectorName::Integrity));
        assert_eq!(now[0].state.unwrap().task, "full");
        running.end_of("docs");
        assert!(running.now().is_empty() && running.stores_done() == 0);
    }
}
