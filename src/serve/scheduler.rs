//! Runs every collector of every store at its own pace and publishes what they give as one immutable snapshot after
//! another. One task per collector and store: a store that is missing, hung or broken delays nobody else. Their turns run
//! on the threads of a small pool ([`Workers`]), so that a thousand stores need no more threads than ten.

mod board;
mod moments;
mod report;
mod watching;
mod workers;

pub use self::{board::Board, workers::Workers};
use self::{moments::keep_firsts, report::Report, watching::keep_watching};

use std::{
    borrow::Cow,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{task::JoinHandle, time::sleep_until};
use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    collectors::{self, CollectError, Collector, Pace, Run},
    config::CollectorName,
    findings::Code,
    format::hash::path_hash,
    hidden, logging,
    sample::{Observation, Reading},
    store::Context,
    watch::{Wake, WakeSlot, Watches},
};

/// File events are merged for at least and at most this long after the beginning of a run; see [`Storm`].
const WAKE_PAUSE_MIN: Duration = Duration::from_millis(30);
const WAKE_PAUSE_MAX: Duration = Duration::from_millis(150);

/// How long an answer of the filesystem is good enough to let other collectors of the store start.
const DEVICE_ANSWER_AGE_MAX: Duration = Duration::from_secs(1);

/// Runs the collectors of one store until `stop`. Their threads may outlive it when the filesystem hangs.
pub async fn run_store(
    context: Context,
    board: Board,
    watches: Arc<Watches>,
    workers: Workers,
    stop: CancellationToken,
) {
    let mut tasks = tokio::task::JoinSet::new();
    let mut slots = Vec::new();
    let collectors = collectors::registry(&context);
    let count = u32::try_from(collectors.len().max(1)).unwrap_or(u32::MAX);
    let share = share_of(&context.store.name);
    for (index, collector) in (0_u32..).zip(collectors) {
        let slot = WakeSlot::new(collector.pace().wakes);
        slots.push(Arc::clone(&slot));
        // Runs of one store are spread over the interval, and those of different stores among them: no spike.
        let part = collector.pace().interval / count;
        let phase = part * index + part.mul_f64(share);
        let (context, board) = (context.clone(), board.clone());
        let life = CollectorLife { context, board, slot, workers: workers.clone(), phase };
        tasks.spawn(life.run(collector, stop.clone()));
    }
    tasks.spawn(keep_firsts(context.clone(), board, workers.clone(), stop.clone()));
    tasks.spawn(keep_watching(context, watches, workers, slots, stop));
    while tasks.join_next().await.is_some() {}
}

/// Runs one collector once, on this thread, until it ends or `stop` is set: what `check` does.
#[must_use]
pub fn run_once(
    collector: &mut dyn Collector,
    context: &Context,
    deep: bool,
    stop: Arc<AtomicBool>,
) -> Reading {
    let run = Run { now: clock::now(), wake: Wake::RESCAN, deep, stop };
    collect_caught(collector, context, &run).0
}

/// One collector of one store, for as long as that is watched.
struct CollectorLife {
    context: Context,
    board: Board,
    slot: Arc<WakeSlot>,
    workers: Workers,
    /// How much later than an interval its second run comes.
    phase: Duration,
}

impl CollectorLife {
    async fn run(self, collector: Box<dyn Collector>, stop: CancellationToken) {
        // Whatever it waits for, it ends at once when told to.
        stop.clone().run_until_cancelled(self.run_loop(collector, stop)).await;
    }

    async fn run_loop(self, mut collector: Box<dyn Collector>, stop: CancellationToken) {
        let Self { context, board, slot, workers, phase } = self;
        let (name, descs, codes) = (collector.name(), collector.descs(), collector.codes());
        let mut report = Report::default();
        let mut first = true;
        let mut storm = Storm::default();
        loop {
            let pace = collector.pace();
            let asked = clock::ticks();
            if asks_filesystem(name, &pace) {
                let timeout = context.config.collect.device_timeout;
                context.device.ready(DEVICE_ANSWER_AGE_MAX, timeout).await;
            }
            let mut held = Some(workers.place().await);
            let started = clock::ticks();
            let run = Run {
                now: clock::now(),
                wake: slot.take(),
                deep: false,
                stop: Arc::new(AtomicBool::new(false)),
            };
            // Nobody waits for a run that is told to stop.
            let _told = StopOnDrop(&stop, Arc::clone(&run.stop));
            let mut job = spawn_run(collector, context.clone(), run.clone());
            let mut patience = pace.deadline;
            let finished = loop {
                if let Some(finished) = workers.wait(&mut held, patience, &mut job).await {
                    break finished;
                }
                held = None;
                // Its thread is left alone, and no second one starts before it has ended. That it goes on is told again and
                // again, so that the time for which it fails is known.
                give_up(&run);
                patience = pace.interval.max(pace.deadline);
                let overdue = Observation {
                    problems: vec![CollectError::Overdue { deadline: pace.deadline }],
                    ..Observation::default()
                };
                let reading =
                    reading_of(name, descs, codes, overdue, &run, started.elapsed(), &pace);
                report.put(&context, &board, name, reading, &pace, &run);
            };
            drop(held);
            let Ok((returned, reading, panicked)) = finished else { return }; // the runtime is shutting down
            report.put(&context, &board, name, reading, &pace, &run);
            // After a panic its memory cannot be trusted.
            collector = if panicked { collectors::build(name, &context) } else { returned };

            let pause = storm.pause();
            // Counted from when it was due, so that waiting for a place does not add up.
            let interval = collector.pace().interval;
            // One that wants to run again soon does.
            let later = if first { phase.min(interval) } else { Duration::ZERO };
            let due = asked.plus(interval + later);
            first = false;
            let next = started.plus(pause);
            tokio::select! {
                () = sleep_until(due.into_std().into()) => storm = Storm::default(),
                () = slot.wait() => {
                    storm.event(clock::ticks() > next);
                    sleep_until(next.into_std().into()).await;
                }
            }
        }
    }
}

/// Tells a run to stop when nobody waits for it any more.
struct StopOnDrop<'a>(&'a CancellationToken, Arc<AtomicBool>);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        if self.0.is_cancelled() {
            self.1.store(true, Ordering::Relaxed);
        }
    }
}

/// Whether its turns ask the filesystem of the store, or wait until it is known that it does not answer.
fn asks_filesystem(name: CollectorName, pace: &Pace) -> bool {
    pace.touches_store || matches!(name, CollectorName::Disk | CollectorName::Processes)
}

/// Where a store stands among all, 0 to 1, the same at each start.
fn share_of(store: &str) -> f64 {
    f64::from(u16::try_from(path_hash(store.as_bytes()) & 0xffff).unwrap_or_default()) / 65536.0
}

/// How closely runs follow file events. The first event of a quiet time starts a run at once and the next one soon after,
/// so that what a long write does is seen when it ends; while events go on and on, runs come less and less often.
#[derive(Debug, Default)]
struct Storm {
    runs: u32,
}

impl Storm {
    /// Time from the beginning of one run to that of the next one that events start.
    fn pause(&self) -> Duration {
        (WAKE_PAUSE_MIN * (1 << self.runs.min(8))).min(WAKE_PAUSE_MAX)
    }

    /// An event has come; `late` when the pause had passed without any.
    fn event(&mut self, late: bool) {
        self.runs = if late { 0 } else { self.runs + 1 };
    }
}

fn give_up(run: &Run) {
    run.stop.store(true, Ordering::Relaxed);
}

type Finished = (Box<dyn Collector>, Reading, bool);

fn spawn_run(
    mut collector: Box<dyn Collector>,
    context: Context,
    run: Run,
) -> JoinHandle<Finished> {
    tokio::task::spawn_blocking(move || {
        let (reading, panicked) = collect_caught(&mut *collector, &context, &run);
        (collector, reading, panicked)
    })
}

/// One run behind the gate of the store's filesystem; a panic becomes a problem.
fn collect_caught(collector: &mut dyn Collector, context: &Context, run: &Run) -> (Reading, bool) {
    let began = clock::ticks();
    let mut panicked = false;
    let failed = |problem| Observation { problems: vec![problem], ..Observation::default() };
    let mut observation = match gate(&collector.pace(), context) {
        Err(problem) => failed(problem),
        Ok(()) => {
            catch_unwind(AssertUnwindSafe(|| collector.collect(run))).unwrap_or_else(|panic| {
                panicked = true;
                let problem = CollectError::Panicked(logging::panic_text(&*panic));
                Observation { problems: vec![problem], ..Observation::default() }
            })
        }
    };
    // What was read while that process ended may have been another file.
    if let Err(problem) = context.within_reach() {
        observation = failed(problem);
    }
    let (name, descs, codes) = (collector.name(), collector.descs(), collector.codes());
    let pace = collector.pace();
    (reading_of(name, descs, codes, observation, run, began.elapsed(), &pace), panicked)
}

/// Only a filesystem that hangs closes the gate, or a store that is out of reach; a filesystem that answers with an error is the
/// collector's own business.
fn gate(pace: &Pace, context: &Context) -> Result<(), CollectError> {
    context.within_reach()?;
    if !pace.touches_store {
        return Ok(());
    }
    match context.device.ask_recent(DEVICE_ANSWER_AGE_MAX, context.config.collect.device_timeout) {
        Err(hung @ CollectError::Hung { .. }) => Err(hung),
        _ => Ok(()),
    }
}

fn reading_of(
    name: CollectorName,
    descs: &'static [&'static crate::sample::Desc],
    codes: &'static [Code],
    mut observation: Observation,
    run: &Run,
    duration: Duration,
    pace: &Pace,
) -> Reading {
    // Whatever was read may hold what this program sent, or has in its files.
    for finding in &mut observation.findings {
        if let Cow::Owned(plain) = hidden::shown(&finding.evidence) {
            finding.evidence = plain;
        }
    }
    for problem in &mut observation.problems {
        problem.hide_secrets();
    }
    // Whether it fails is known of every run.
    observation.judged.push(Code::CollectorFailing);
    let last_success = observation.problems.is_empty().then_some(run.now);
    Reading {
        collector: name.as_str(),
        descs,
        codes,
        observation,
        taken_at: run.now,
        duration,
        last_success,
        next_within: pace.turnaround(),
    }
}

#[cfg(test)]
mod tests;
