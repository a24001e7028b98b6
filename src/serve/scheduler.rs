//! Runs every collector of every store at its own pace and publishes what they give as one immutable snapshot after
//! another. One task per collector and store: a store that is missing, hung or broken delays nobody else. Their turns run
//! on the threads of a small pool ([`Workers`]), so that a thousand stores need no more threads than ten.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, watch},
    task::{JoinError, JoinHandle},
    time::{sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    clock::{self, Ticks, Timestamp},
    collectors::{self, CollectError, Collector, Pace, Turn},
    config::CollectorName,
    findings::{Code, Finding},
    firsts::{self, Firsts},
    format::hash::path_hash,
    hidden, logging,
    sample::{Observation, Reading, Snapshot, StoreReadings},
    store::Context,
    watch::{StoreWatch, Wake, WakeSlot, Watches},
};

/// File events are merged for at least and at most this long after the beginning of a turn; see [`Storm`].
const WAKE_PAUSE_MIN: Duration = Duration::from_millis(30);
const WAKE_PAUSE_MAX: Duration = Duration::from_millis(150);

/// How long an answer of the filesystem is good enough to let other collectors of the store start.
const DEVICE_ANSWER_AGE_MAX: Duration = Duration::from_secs(1);

/// Moments of findings are written down at most so often, and at the end for so long.
const FIRSTS_PAUSE: Duration = Duration::from_secs(1);
const FIRSTS_LAST_WRITE: Duration = Duration::from_secs(2);

/// Snapshots follow each other at least this far apart, so that many stores cost one page, not many.
const PUBLISH_PAUSE: Duration = Duration::from_millis(20);

/// The same when nothing but numbers and times has changed, and no event asked for the look.
const QUIET_PAUSE: Duration = Duration::from_millis(500);

/// Turns that run at the same time.
const WORKERS: usize = 10;

/// Turns that take long: they wait for the walk over all processes, or look a second time at a file that is being written.
const SLOW: usize = 10;

/// A turn that lasts longer is a slow one.
const PLACE_FOR: Duration = Duration::from_millis(250);

/// Where there is no room for another slow one, a turn keeps its place for this long. Then it counts as one that never ends: it
/// has a thread and no place.
const PLACE_FOR_MAX: Duration = Duration::from_secs(1);

/// The places for the turns of all stores. Whoever asks first is first. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Workers {
    quick: Arc<Semaphore>,
    slow: Arc<Semaphore>,
}

/// A place; given back when dropped.
struct Place {
    _held: Option<OwnedSemaphorePermit>,
}

impl Default for Workers {
    fn default() -> Self {
        Self { quick: Arc::new(Semaphore::new(WORKERS)), slow: Arc::new(Semaphore::new(SLOW)) }
    }
}

impl Workers {
    async fn place(&self) -> Place {
        // Errs when the semaphore is closed, which nobody does.
        Place { _held: Arc::clone(&self.quick).acquire_owned().await.ok() }
    }

    /// Runs something else on a thread, at a place, however long it takes; `None` when the runtime is shutting down.
    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let mut place = Some(self.place().await);
        let mut job = tokio::task::spawn_blocking(work);
        self.wait(&mut place, Duration::MAX, &mut job).await?.ok()
    }

    /// Waits for a turn for at most `patience`. What takes long keeps its thread, but not its place among the others, so that no
    /// number of stores that hang holds them up.
    async fn wait<T>(
        &self,
        place: &mut Option<Place>,
        patience: Duration,
        turn: &mut JoinHandle<T>,
    ) -> Option<Result<T, JoinError>> {
        if place.is_none() {
            return timeout(patience, turn).await.ok();
        }
        let mut waited = Duration::ZERO;
        for (until, last) in [(PLACE_FOR, false), (PLACE_FOR_MAX, true)] {
            let piece = until.min(patience).saturating_sub(waited);
            if let Ok(ended) = timeout(piece, &mut *turn).await {
                return Some(ended);
            }
            waited += piece;
            let slow = Arc::clone(&self.slow).try_acquire_owned().ok();
            if slow.is_some() || last {
                *place = slow.map(|held| Place { _held: Some(held) });
                break;
            }
        }
        timeout(patience.saturating_sub(waited), turn).await.ok()
    }
}

/// Where readings come together. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Board {
    shared: Arc<BoardShared>,
}

#[derive(Debug, Default)]
struct BoardShared {
    stores: Mutex<Vec<Row>>,
    changed: Notify,
    /// Whether something has changed that nobody waits for.
    quietly: AtomicBool,
}

#[derive(Debug)]
struct Row {
    readings: BTreeMap<CollectorName, Arc<Reading>>,
    empty: StoreReadings,
    /// Since when findings are there, and who waits for that to change.
    firsts: Arc<Firsts>,
    firsts_changed: Arc<Notify>,
}

impl Board {
    /// Gives `context`'s store a row, in the order of the calls.
    pub fn add(&self, context: &Context) {
        let empty = StoreReadings {
            store: Arc::clone(&context.store.name),
            path: context.store.path.as_path().into(),
            readings: Vec::new(),
            firsts: Arc::default(),
            collectors: context.config.enabled.len(),
        };
        self.rows().push(Row {
            readings: BTreeMap::new(),
            empty,
            firsts: Arc::default(),
            firsts_changed: Arc::default(),
        });
        self.shared.changed.notify_one();
    }

    /// Puts the rows into this order.
    pub fn order<'a>(&self, names: impl Iterator<Item = &'a str>) {
        let place: BTreeMap<&str, usize> =
            names.enumerate().map(|(place, name)| (name, place)).collect();
        self.rows().sort_by_key(|row| place.get(&*row.empty.store).copied().unwrap_or(usize::MAX));
        self.shared.changed.notify_one();
    }

    /// Takes the row of a store away.
    pub fn remove(&self, store: &str) {
        self.rows().retain(|row| &*row.empty.store != store);
        self.shared.changed.notify_one();
    }

    /// Replaces the reading of one collector. The findings of the run before are added to those of a run that failed:
    /// what could not be looked at was not disproved.
    pub fn put(&self, store: &str, name: CollectorName, mut reading: Reading, woken: bool) {
        let mut rows = self.rows();
        let Some(row) = rows.iter_mut().find(|row| &*row.empty.store == store) else { return };
        if let Some(before) = row.readings.get(&name) {
            reading.last_success = reading.last_success.or(before.last_success);
            keep_undisproved(&mut reading.observation, &before.observation.findings);
        }
        let judged = reading.answers().filter(|code| reading.judged(*code));
        let mut firsts = Firsts::clone(&row.firsts);
        if firsts.note(&reading.observation.findings, judged, reading.taken_at) {
            row.firsts = Arc::new(firsts);
            row.firsts_changed.notify_one();
        }
        let news = woken || row.readings.get(&name).is_none_or(|before| is_news(before, &reading));
        row.readings.insert(name, Arc::new(reading));
        drop(rows);
        if news {
            self.shared.changed.notify_one();
        } else {
            self.shared.quietly.store(true, Ordering::Relaxed);
        }
    }

    /// Takes in what an earlier run of the program knew of a store, and gives what is known now, and what wakes when that
    /// changes; `None` when the store is not watched any more.
    fn resume(&self, store: &str, kept: Firsts) -> Option<(Arc<Firsts>, Arc<Notify>)> {
        let mut rows = self.rows();
        let row = rows.iter_mut().find(|row| &*row.empty.store == store)?;
        let mut firsts = Firsts::clone(&row.firsts);
        firsts.resume(kept, |code| {
            let mut readings = row.readings.values();
            readings.any(|r| r.answers().any(|known| known.as_str() == code && r.judged(known)))
        });
        row.firsts = Arc::new(firsts);
        self.shared.changed.notify_one();
        Some((Arc::clone(&row.firsts), Arc::clone(&row.firsts_changed)))
    }

    fn firsts(&self, store: &str) -> Option<Arc<Firsts>> {
        let rows = self.rows();
        rows.iter().find(|row| &*row.empty.store == store).map(|row| Arc::clone(&row.firsts))
    }

    /// Everything known now.
    #[must_use]
    pub fn snapshot(&self, now: Timestamp) -> Snapshot {
        let stores = self
            .rows()
            .iter()
            .map(|row| StoreReadings {
                readings: row.readings.values().map(Arc::clone).collect(),
                firsts: Arc::clone(&row.firsts),
                ..row.empty.clone()
            })
            .collect();
        Snapshot { taken_at: now, stores }
    }

    /// Publishes snapshots, the newest only, until `stop`: news at once, and what nobody waits for soon.
    pub async fn publish(self, to: watch::Sender<Arc<Snapshot>>, stop: CancellationToken) {
        loop {
            let news = timeout(QUIET_PAUSE, self.shared.changed.notified());
            let Some(news) = stop.run_until_cancelled(news).await else { return };
            if !self.shared.quietly.swap(false, Ordering::Relaxed) && news.is_err() {
                continue;
            }
            to.send_replace(Arc::new(self.snapshot(clock::now())));
            tokio::time::sleep(PUBLISH_PAUSE).await;
        }
    }

    fn rows(&self) -> MutexGuard<'_, Vec<Row>> {
        self.shared.stores.lock()
    }
}

/// Whether a reading says something else than the one before, beside numbers and times.
fn is_news(before: &Reading, now: &Reading) -> bool {
    let (before, now) = (&before.observation, &now.observation);
    let found = |seen: &Observation| -> Vec<_> {
        seen.findings.iter().map(|f| (f.code, f.severity, f.subject.clone(), f.kept)).collect()
    };
    before.problems.len() != now.problems.len()
        || before.checks != now.checks
        || before.judged != now.judged
        || before.unjudged != now.unjudged
        || before.findings.len() != now.findings.len()
        || found(before) != found(now)
}

/// What the run before found and this one neither found nor disproved.
fn keep_undisproved(seen: &mut Observation, before: &[Finding]) {
    let kept: Vec<Finding> = before
        .iter()
        .filter(|f| !seen.disproves(f.code))
        .filter(|f| !seen.findings.iter().any(|g| g.code == f.code && g.subject == f.subject))
        .map(|f| Finding { kept: true, ..f.clone() })
        .collect();
    seen.findings.extend(kept);
}

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
        // Turns of one store are spread over the interval, and those of different stores among them: no spike.
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

/// Keeps over restarts since when the findings of a store are there. A state directory that hangs holds up this task alone.
async fn keep_firsts(context: Context, board: Board, workers: Workers, stop: CancellationToken) {
    let (store, path) = (Arc::clone(&context.store.name), context.store.path.clone());
    let load = {
        let (host, path) = (Arc::clone(&context.host), path.clone());
        move || host.state.load(firsts::KIND, &path).unwrap_or_default()
    };
    let Some(Some(kept)) = stop.run_until_cancelled(workers.run(load)).await else { return };
    let mut saved = Arc::new(kept);
    let Some((mut known, changed)) = board.resume(&store, Firsts::clone(&saved)) else { return };
    let save = |known: Arc<Firsts>| {
        let (host, path) = (Arc::clone(&context.host), path.clone());
        workers.run(move || host.state.save(firsts::KIND, &path, &*known))
    };
    while !stop.is_cancelled() {
        if known != saved {
            let written = save(Arc::clone(&known));
            if stop.run_until_cancelled(written).await.is_some() {
                saved = Arc::clone(&known);
            }
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = changed.notified() => {}
        }
        // What changes in a burst is written once.
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(FIRSTS_PAUSE) => {}
        }
        let Some(now) = board.firsts(&store) else { break };
        known = now;
    }
    if known != saved {
        // What is not written in time is younger after the restart than it is.
        drop(timeout(FIRSTS_LAST_WRITE, save(known)).await);
    }
}

/// Runs one collector once, on this thread, until it ends or `stop` is set: what `check` does.
#[must_use]
pub fn run_once(
    collector: &mut dyn Collector,
    context: &Context,
    deep: bool,
    stop: Arc<AtomicBool>,
) -> Reading {
    let turn = Turn { now: clock::now(), wake: Wake::RESCAN, deep, stop };
    run(collector, context, &turn).0
}

/// One collector of one store, for as long as that is watched.
struct CollectorLife {
    context: Context,
    board: Board,
    slot: Arc<WakeSlot>,
    workers: Workers,
    /// How much later than an interval its second turn comes.
    phase: Duration,
}

impl CollectorLife {
    async fn run(self, collector: Box<dyn Collector>, stop: CancellationToken) {
        // Whatever it waits for, it ends at once when told to.
        stop.clone().run_until_cancelled(self.turns(collector, stop)).await;
    }

    async fn turns(self, mut collector: Box<dyn Collector>, stop: CancellationToken) {
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
            let turn = Turn {
                now: clock::now(),
                wake: slot.take(),
                deep: false,
                stop: Arc::new(AtomicBool::new(false)),
            };
            // Nobody waits for a turn that is told to stop.
            let _told = StopOnDrop(&stop, Arc::clone(&turn.stop));
            let mut job = spawn_run(collector, context.clone(), turn.clone());
            let mut patience = pace.deadline;
            let finished = loop {
                if let Some(finished) = workers.wait(&mut held, patience, &mut job).await {
                    break finished;
                }
                held = None;
                // Its thread is left alone, and no second one starts before it has ended. That it goes on is told again and
                // again, so that the time for which it fails is known.
                give_up(&turn);
                patience = pace.interval.max(pace.deadline);
                let overdue = Observation {
                    problems: vec![CollectError::Overdue { deadline: pace.deadline }],
                    ..Observation::default()
                };
                let reading =
                    reading_of(name, descs, codes, overdue, &turn, started.elapsed(), &pace);
                report.put(&context, &board, name, reading, &pace, &turn);
            };
            drop(held);
            let Ok((returned, reading, panicked)) = finished else { return }; // the runtime is shutting down
            report.put(&context, &board, name, reading, &pace, &turn);
            // After a panic its memory cannot be trusted.
            collector = if panicked { collectors::build(name, &context) } else { returned };

            let pause = storm.pause();
            // Counted from when it was due, so that waiting for a place does not add up.
            let later = if first { phase } else { Duration::ZERO };
            let due = asked.plus(collector.pace().interval + later);
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

/// Tells a turn to stop when nobody waits for it any more.
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

/// How closely turns follow file events. The first event of a quiet time starts a turn at once and the next one soon after,
/// so that what a long write does is seen when it ends; while events go on and on, turns come less and less often.
#[derive(Debug, Default)]
struct Storm {
    turns: u32,
}

impl Storm {
    /// Time from the beginning of one turn to that of the next one that events start.
    fn pause(&self) -> Duration {
        (WAKE_PAUSE_MIN * (1 << self.turns.min(8))).min(WAKE_PAUSE_MAX)
    }

    /// An event has come; `late` when the pause had passed without any.
    fn event(&mut self, late: bool) {
        self.turns = if late { 0 } else { self.turns + 1 };
    }
}

fn give_up(turn: &Turn) {
    turn.stop.store(true, Ordering::Relaxed);
}

type Finished = (Box<dyn Collector>, Reading, bool);

fn spawn_run(
    mut collector: Box<dyn Collector>,
    context: Context,
    turn: Turn,
) -> JoinHandle<Finished> {
    tokio::task::spawn_blocking(move || {
        let (reading, panicked) = run(&mut *collector, &context, &turn);
        (collector, reading, panicked)
    })
}

/// One run behind the gate of the store's filesystem; a panic becomes a problem.
fn run(collector: &mut dyn Collector, context: &Context, turn: &Turn) -> (Reading, bool) {
    let began = clock::ticks();
    let mut panicked = false;
    let failed = |problem| Observation { problems: vec![problem], ..Observation::default() };
    let mut observation = match gate(&collector.pace(), context) {
        Err(problem) => failed(problem),
        Ok(()) => {
            catch_unwind(AssertUnwindSafe(|| collector.collect(turn))).unwrap_or_else(|panic| {
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
    (reading_of(name, descs, codes, observation, turn, began.elapsed(), &pace), panicked)
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
    turn: &Turn,
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
    let last_success = observation.problems.is_empty().then_some(turn.now);
    Reading {
        collector: name.as_str(),
        descs,
        codes,
        observation,
        taken_at: turn.now,
        duration,
        last_success,
        next_within: pace.turnaround(),
    }
}

/// Tells the readings of one collector to whoever wants to know.
#[derive(Debug, Default)]
struct Report {
    log: ProblemLog,
    failing: Failing,
}

impl Report {
    fn put(
        &mut self,
        context: &Context,
        board: &Board,
        name: CollectorName,
        mut reading: Reading,
        pace: &Pace,
        turn: &Turn,
    ) {
        self.log.note(context, &reading);
        let failing = self.failing.note(&reading, pace.interval, clock::ticks());
        reading.observation.findings.extend(failing);
        board.put(&context.store.name, name, reading, !turn.wake.is_empty());
    }
}

/// Since when a collector has been failing without a break.
#[derive(Debug, Default)]
struct Failing {
    since: Option<Ticks>,
}

impl Failing {
    /// The finding once it has failed for more than three of its intervals, and not less than a minute: one bad reading is no
    /// news.
    fn note(&mut self, reading: &Reading, interval: Duration, now: Ticks) -> Option<Finding> {
        // What cannot be seen from this place will not be seen tomorrow either: that is told, and is no failure.
        let mut problems = reading.observation.problems.iter();
        let Some(problem) = problems.find(|problem| !problem.by_place()) else {
            self.since = None;
            return None;
        };
        let failing = now.since(*self.since.get_or_insert(now));
        (failing > (interval * FAILING_INTERVALS).max(FAILING_MIN)).then(|| {
            let minutes = failing.as_secs() / 60;
            let evidence = format!("for {minutes} min: {}", problem.chain());
            Finding::new(Code::CollectorFailing, reading.collector, evidence)
        })
    }
}

const FAILING_INTERVALS: u32 = 3;
const FAILING_MIN: Duration = Duration::from_mins(1);

/// Logs the first problem and each different one, not every attempt.
#[derive(Debug, Default)]
struct ProblemLog {
    said: Vec<String>,
}

impl ProblemLog {
    fn note(&mut self, context: &Context, reading: &Reading) {
        // Durations in a message change with every turn; the variant and the path tell whether it is a new one.
        let kinds: Vec<String> = reading.observation.problems.iter().map(problem_key).collect();
        for (problem, kind) in reading.observation.problems.iter().zip(&kinds) {
            // The fleet tells once that a store ends, instead of each collector.
            if self.said.contains(kind) || matches!(problem, CollectError::OutOfReach(_)) {
                continue;
            }
            if problem.by_place() {
                info!(store = %context.store.name, collector = reading.collector, problem = %problem.chain(), hint = problem.hint(), "Not everything can be seen from here.");
            } else {
                warn!(store = %context.store.name, collector = reading.collector, problem = %problem.chain(), hint = problem.hint(), "Reading failed.");
            }
        }
        if kinds.is_empty() && !self.said.is_empty() {
            info!(store = %context.store.name, collector = reading.collector, "Reading works again.");
        }
        debug!(store = %context.store.name, collector = reading.collector, seconds = reading.duration.as_secs_f64(), "Turn done.");
        self.said = kinds;
    }
}

fn problem_key(problem: &CollectError) -> String {
    match problem {
        CollectError::Hung { path, .. } => format!("hung {}", path.display()),
        other => other.chain(),
    }
}

/// Keeps file events coming: the watch ends with the directory that it was set on, so it is set again when the path
/// leads to another one.
async fn keep_watching(
    context: Context,
    watches: Arc<Watches>,
    workers: Workers,
    slots: Vec<Arc<WakeSlot>>,
    stop: CancellationToken,
) {
    let mut current: Option<Watched> = None;
    let mut said = false;
    let context = Arc::new(context);
    while !stop.is_cancelled() {
        let had = current.as_ref().map(|watched| watched.id);
        let ready =
            context.device.ready(DEVICE_ANSWER_AGE_MAX, context.config.collect.device_timeout);
        if stop.run_until_cancelled(ready).await.is_none() {
            break;
        }
        let (context_, watches_, slots_) =
            (Arc::clone(&context), Arc::clone(&watches), slots.clone());
        let before = current.take();
        let looked = workers.run(move || rewatch(&context_, &watches_, slots_, before));
        // A filesystem that hangs has this thread; the watch ends with it.
        let Some(Some(looked)) = stop.run_until_cancelled(looked).await else { return };
        match looked {
            Ok(found) => current = found,
            Err(error) => {
                if !std::mem::replace(&mut said, true) {
                    warn!(store = %context.store.name, %error, "File events are not to be had; readings come at their interval only.");
                }
            }
        }
        if let Some(Watched { id, .. }) = &current
            && had != Some(*id)
        {
            said = false;
            for slot in &slots {
                slot.add(Wake::RESCAN);
            }
        }
        context.host.note_watch(&context.store.name, current.is_some());
        let pause = tokio::time::sleep(context.config.collect.interval);
        if stop.run_until_cancelled(pause).await.is_none() {
            break;
        }
    }
    if let Some(Watched { watch, .. }) = current {
        // Nobody waits for it: the filesystem may hang.
        drop(tokio::task::spawn_blocking(move || watch.end()));
    }
}

/// A watch and the directory that it was set on.
struct Watched {
    watch: StoreWatch,
    /// Device and inode.
    id: (u64, u64),
}

/// The watch of the directory that the path leads to now: the one from before where that is the same; `None` when there is
/// no directory, or its filesystem does not answer.
fn rewatch(
    context: &Context,
    watches: &Watches,
    slots: Vec<Arc<WakeSlot>>,
    before: Option<Watched>,
) -> notify::Result<Option<Watched>> {
    use std::os::unix::fs::MetadataExt;
    let timeout = context.config.collect.device_timeout;
    if context.device.ask_recent(DEVICE_ANSWER_AGE_MAX, timeout).is_err() {
        return Ok(None);
    }
    let id = std::fs::metadata(&context.store.seen_path).ok().map(|meta| (meta.dev(), meta.ino()));
    let before = match before {
        Some(before) if Some(before.id) == id => return Ok(Some(before)),
        before => before,
    };
    if let Some(Watched { watch, .. }) = before {
        watch.end();
    }
    let Some(id) = id else { return Ok(None) };
    let watch = watches.start(&context.store.seen_path, id.0, slots)?;
    Ok(Some(Watched { watch, id }))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::{
        config::{Config, Store},
        host::Host,
        wait::{SOON, wait_until},
    };

    const PACE: Pace = Pace {
        interval: Duration::from_secs(5),
        deadline: Duration::from_secs(30),
        wakes: Wake::NONE,
        touches_store: false,
    };

    #[test]
    fn what_cannot_be_seen_from_here_is_no_failure() {
        use crate::host::processes::{Blind, Suspect};
        let suspect = Blind::Suspect(Suspect { pid: 7, comm: "chroma".to_owned(), server: true });
        let began = clock::ticks();
        for (blinds, other, fails, limited) in [
            (vec![Blind::Namespace], false, false, true),
            (vec![Blind::Hidden], false, false, true),
            (vec![suspect.clone()], false, true, false),
            (vec![Blind::Namespace, suspect], false, true, false),
            (vec![Blind::Hidden], true, true, false),
            (vec![], false, false, false),
        ] {
            let mut observation = observation(&[], &[], other);
            let unseen = |why| CollectError::Unseen { what: "who has it open is not known", why };
            observation.problems.splice(0..0, blinds.iter().cloned().map(unseen));
            let turn = Turn {
                now: Timestamp::from_secs(1_795_000_000),
                wake: Wake::NONE,
                deep: false,
                stop: Arc::default(),
            };
            let name = CollectorName::Processes;
            let reading = reading_of(name, &[], &[], observation, &turn, Duration::ZERO, &PACE);
            let mut failing = Failing::default();
            let interval = Duration::from_secs(5);
            failing.note(&reading, interval, began);
            let later = began.plus(Duration::from_hours(1));
            let told = failing.note(&reading, interval, later).is_some();
            assert_eq!((told, reading.limited_by_place()), (fails, limited), "{blinds:?} {other}");
            assert_eq!(reading.success(), blinds.is_empty() && !other, "it is not called well");
        }
    }

    fn observation(codes: &[Code], judged: &[Code], failed: bool) -> Observation {
        Observation {
            findings: codes.iter().map(|code| Finding::new(*code, "", "")).collect(),
            judged: judged.to_vec(),
            problems: failed
                .then(|| CollectError::OutOfReach("no".to_owned()))
                .into_iter()
                .collect(),
            ..Observation::default()
        }
    }

    #[test]
    fn turns_follow_events_closely_at_first_and_seldom_in_a_storm() {
        let mut storm = Storm::default();
        let mut pauses = Vec::new();
        for late in [false, false, false, false, true, false] {
            pauses.push(storm.pause().as_millis());
            storm.event(late);
        }
        pauses.push(storm.pause().as_millis());
        assert_eq!(pauses, [30, 60, 120, 150, 150, 30, 60]);
    }

    #[test]
    fn a_collector_that_fails_for_long_is_told_until_it_reads_again() {
        let turn = Turn {
            now: Timestamp::from_secs(1_795_000_000),
            wake: Wake::NONE,
            deep: false,
            stop: Arc::default(),
        };
        let began = clock::ticks();
        for (interval, readings) in [
            // second:what is said; a reading of `ok` is without a problem
            (5, "0:- 15:- 60:- 61:failing 500:failing ok505:- 506:- 566:- 567:failing"),
            (60, "0:- 60:- 120:- 180:- 181:failing ok240:-"),
            (600, "0:- 600:- ok700:- 1200:- 3000:- 3001:failing"),
        ] {
            let mut failing = Failing::default();
            for step in readings.split(' ') {
                let (at, want) = step.split_once(':').unwrap();
                let failed = !at.starts_with("ok");
                let second = at.trim_start_matches("ok").parse().unwrap();
                let observation = observation(&[], &[], failed);
                let name = CollectorName::Disk;
                let reading = reading_of(name, &[], &[], observation, &turn, Duration::ZERO, &PACE);
                assert!(reading.judged(Code::CollectorFailing), "{step}");
                let now = began.plus(Duration::from_secs(second));
                let found = failing.note(&reading, Duration::from_secs(interval), now);
                let said = found.as_ref().map_or("-", |found| &found.code.as_str()[10..]);
                assert_eq!(said, want, "{interval} {step}");
                assert!(found.is_none_or(|f| f.subject == "disk" && f.evidence.ends_with(": no")));
            }
        }
    }

    fn read_at(second: i64, observation: Observation) -> Reading {
        let turn = Turn {
            now: Timestamp::from_secs(second),
            wake: Wake::NONE,
            deep: false,
            stop: Arc::default(),
        };
        reading_of(CollectorName::Disk, &[], &[], observation, &turn, Duration::ZERO, &PACE)
    }

    #[test]
    fn news_is_what_was_found_and_what_could_be_read_and_no_number_or_time() {
        use Code::{DiskUsageHigh as High, HeadroomLow as Headroom};
        let before = read_at(0, observation(&[High], &[], false));
        let graver = Observation {
            findings: vec![Finding {
                severity: crate::findings::Severity::Critical,
                ..Finding::new(High, "", "")
            }],
            ..Observation::default()
        };
        let words = Observation {
            findings: vec![Finding::new(High, "", "81 % used")],
            ..Observation::default()
        };
        let unjudged = Observation { unjudged: vec![Headroom], ..observation(&[High], &[], false) };
        for (now, news) in [
            (observation(&[High], &[], false), false),
            (words, false),
            (observation(&[High, Headroom], &[], false), true),
            (observation(&[Headroom], &[], false), true),
            (observation(&[], &[], false), true),
            (observation(&[High], &[], true), true),
            (observation(&[High], &[Headroom], false), true),
            (graver, true),
            (unjudged, true),
        ] {
            let now = read_at(5, now);
            assert_eq!(is_news(&before, &now), news, "{now:?}");
        }
    }

    #[test]
    fn what_is_no_news_is_published_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let config = Arc::new(Config::default());
        let store = Arc::new(Store::new("main", dir.path()));
        let board = Board::default();
        board.add(&Context::new(&config, &store, &Arc::new(Host::new(&config))));
        let nothing = Snapshot { taken_at: Timestamp::from_secs(0), stores: Vec::new() };
        let (to, seen) = watch::channel(Arc::new(nothing));
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().unwrap();
        let stop = CancellationToken::new();
        let publishing = runtime.spawn(board.clone().publish(to, stop.clone()));
        for second in [1, 2, 3] {
            let reading = read_at(second, Observation::default());
            board.put("main", CollectorName::Disk, reading, second == 3);
            wait_until("a snapshot with the reading", SOON, || {
                let snapshot = Arc::clone(&seen.borrow());
                let mut readings = snapshot.stores.iter().flat_map(|store| &store.readings);
                readings.any(|reading| reading.taken_at == Timestamp::from_secs(second))
            });
        }
        stop.cancel();
        let ended = runtime.block_on(async { timeout(SOON, publishing).await });
        ended.expect("it ends when told").unwrap();
    }

    /// Takes as long as it is told to.
    struct Patient {
        go: Arc<AtomicBool>,
        running: Arc<AtomicUsize>,
    }

    impl Collector for Patient {
        fn name(&self) -> CollectorName {
            CollectorName::Server
        }

        fn descs(&self) -> &'static [&'static crate::sample::Desc] {
            &[]
        }

        fn codes(&self) -> &'static [Code] {
            &[]
        }

        fn pace(&self) -> Pace {
            let (interval, deadline) = (Duration::from_secs(1), SOON);
            Pace { interval, deadline, wakes: Wake::NONE, touches_store: false }
        }

        fn collect(&mut self, _: &Turn) -> Observation {
            self.running.fetch_add(1, Ordering::SeqCst);
            while !self.go.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(5));
            }
            self.running.fetch_sub(1, Ordering::SeqCst);
            Observation::default()
        }
    }

    fn has_read(board: &Board) -> bool {
        let snapshot = board.snapshot(Timestamp::from_secs(0));
        snapshot.stores.iter().any(|store| !store.readings.is_empty())
    }

    #[test]
    fn turns_that_do_not_end_hold_up_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let config = Arc::new(Config::default());
        let store = Arc::new(Store::new("main", dir.path()));
        let context = Context::new(&config, &store, &Arc::new(Host::new(&config)));
        let board = Board::default();
        board.add(&context);
        let workers = Workers::default();
        let (stop, running) = (CancellationToken::new(), Arc::<AtomicUsize>::default());
        let start = |go: &Arc<AtomicBool>, board: &Board| {
            let collector = Box::new(Patient { go: Arc::clone(go), running: Arc::clone(&running) });
            let life = CollectorLife {
                context: context.clone(),
                board: board.clone(),
                slot: WakeSlot::new(Wake::NONE),
                workers: workers.clone(),
                phase: Duration::ZERO,
            };
            tokio::spawn(life.run(collector, stop.clone()))
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().unwrap();
        let (stuck, free) = (Arc::default(), Arc::new(AtomicBool::new(true)));
        let lives = runtime.block_on(async {
            let mut lives: Vec<_> =
                (0..=2 * WORKERS).map(|_| start(&stuck, &Board::default())).collect();
            lives.push(start(&free, &board));
            lives
        });
        wait_until("all that are stuck, and the one that is not", SOON, || {
            let read = has_read(&board);
            running.load(Ordering::SeqCst) > 2 * WORKERS && read
        });
        stop.cancel();
        runtime.block_on(async {
            for life in lives {
                timeout(SOON, life).await.expect("a life that ends at once").unwrap();
            }
        });
        stuck.store(true, Ordering::SeqCst);
    }

    #[test]
    fn a_failed_run_disproves_only_what_it_could_judge() {
        use Code::{DiskUsageHigh as High, HeadroomLow as Headroom};
        for (before, judged, found, want) in [
            (&[High, Headroom][..], &[][..], &[][..], &[High, Headroom][..]),
            (&[High, Headroom], &[High], &[], &[Headroom]),
            (&[High], &[High], &[High], &[High]),
            (&[High], &[], &[High, Headroom], &[High, Headroom]),
        ] {
            let mut failed = observation(found, judged, true);
            keep_undisproved(&mut failed, &observation(before, &[], false).findings);
            let codes: Vec<Code> = failed.findings.iter().map(|f| f.code).collect();
            assert_eq!(codes, want, "{before:?} {judged:?}");
        }
        let mut well = Observation { unjudged: vec![High], ..observation(&[], &[], false) };
        keep_undisproved(&mut well, &observation(&[High, Headroom], &[], false).findings);
        let codes: Vec<Code> = well.findings.iter().map(|f| f.code).collect();
        assert_eq!(codes, [High], "a run that went well disproves what it could look at");
    }
}
