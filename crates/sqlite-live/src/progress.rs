//! How far long work is: what a metric and a bar show while a whole file is read. Whoever works tells it; whoever shows it
//! asks; neither waits for the other longer than for a few numbers to be copied.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};

use crate::clock::{self, Ticks};

/// Whoever says when long work has to pause for other work.
pub trait Pacer: Send + Sync + std::fmt::Debug {
    /// See [`Progress::checkpoint`].
    fn checkpoint(&self, stop: &AtomicBool) -> bool;
    /// Ends a pause.
    fn wake(&self);
    /// See [`Progress::paused`].
    fn paused(&self) -> Duration;
    /// See [`Progress::is_used_up`].
    fn is_used_up(&self) -> bool;
}

/// A part of long work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// For other work on the same disk to end.
    Waiting,
    /// Making a consistent copy.
    Copying,
    /// Bringing into memory what is checked there.
    Reading,
    /// Reading and comparing.
    Checking,
    /// Asking SQLite too, which does not say how far it is.
    Comparing,
}

impl Phase {
    /// The word of the bar.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Copying => "copying",
            Self::Reading => "reading",
            Self::Checking => "checking",
            Self::Comparing => "comparing",
        }
    }

    /// Where the whole stands when this part is done: a copy is made about as fast as it is checked.
    const fn end(self) -> f64 {
        match self {
            Self::Waiting => 0.0,
            Self::Copying => 0.5,
            Self::Reading => 0.3,
            Self::Checking | Self::Comparing => 1.0,
        }
    }
}

/// One piece of long work after the other. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    shared: Arc<Mutex<Option<Work>>>,
    /// Who says when it has to pause.
    pacer: Arc<Mutex<Option<Arc<dyn Pacer>>>>,
    /// Somebody waits for a lock that it has.
    gives_way: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Work {
    task: &'static str,
    phase: Phase,
    phase_began: Ticks,
    began: Ticks,
    /// Where the whole stood when the phase began.
    from: f64,
    done: u64,
    total: u64,
}

/// What is known of work under way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProgressState {
    /// What was begun: a word such as `full`.
    pub task: &'static str,
    /// The part that is under way.
    pub phase: Phase,
    /// Bytes of this part that are done, and all of them; 0 of 0 when that is not known.
    pub done: u64,
    /// All of them.
    pub total: u64,
    /// How much of the whole is done, 0 to 1; never less than before within one task.
    pub ratio: f64,
    /// Since this part began.
    pub phase_elapsed: Duration,
    /// Time that the rest will take at the pace so far; `None` while nothing can be told from it.
    pub remaining: Option<Duration>,
}

impl Progress {
    /// A new piece of work has begun.
    pub fn start(&self, task: &'static str) {
        let now = clock::ticks();
        *self.lock() = Some(Work {
            task,
            phase: Phase::Waiting,
            phase_began: now,
            began: now,
            from: 0.0,
            done: 0,
            total: 0,
        });
    }

    /// A part of it has begun, over `total` bytes (0: not known). May be told again, when a part is done twice.
    pub fn begin(&self, phase: Phase, total: u64) {
        if let Some(work) = self.lock().as_mut() {
            let now = clock::ticks();
            if work.phase == Phase::Waiting {
                // Time in which nothing was done says nothing of the pace.
                work.began = now;
            }
            work.from = work.ratio();
            (work.phase, work.phase_began, work.done, work.total) = (phase, now, 0, total);
        }
    }

    /// There is more of this part than was known: what runs beside it, or what grew.
    pub fn grow(&self, bytes: u64) {
        if let Some(work) = self.lock().as_mut() {
            work.total = work.total.saturating_add(bytes);
        }
    }

    /// So many more bytes of this part are done. From several threads at once, if they like.
    pub fn add(&self, bytes: u64) {
        if let Some(work) = self.lock().as_mut() {
            work.done = work.done.saturating_add(bytes);
        }
    }

    /// Who says from now on when it has to pause.
    pub fn paced_by(&self, pacer: Option<Arc<dyn Pacer>>) {
        *self.pacer.lock() = pacer;
    }

    fn pacer(&self) -> Option<Arc<dyn Pacer>> {
        self.pacer.lock().clone()
    }

    /// Pauses while it is the turn of others, or until `stop` is set; `false` when the store has had all that it may have in a
    /// day, and the work is to end.
    #[must_use]
    pub fn checkpoint(&self, stop: &AtomicBool) -> bool {
        self.pacer().is_none_or(|pacer| pacer.checkpoint(stop))
    }

    /// The same within a transaction, which [`Self::give_way`] ends.
    pub fn checkpoint_within(&self) {
        // Whoever watches the transaction sees that the share is used up.
        let _goes_on = self.checkpoint(&self.gives_way);
    }

    /// Nothing pauses any more within a transaction, because it is to end.
    pub fn give_way(&self) {
        self.gives_way.store(true, Ordering::Relaxed);
        if let Some(pacer) = self.pacer() {
            pacer.wake();
        }
    }

    /// Transactions begin, within which the work may pause.
    pub fn take_way(&self) {
        self.gives_way.store(false, Ordering::Relaxed);
    }

    /// For how long it has paused so far.
    #[must_use]
    pub fn paused(&self) -> Duration {
        self.pacer().map_or(Duration::ZERO, |pacer| pacer.paused())
    }

    /// Whether the store has had all that it may have in a day.
    #[must_use]
    pub fn is_used_up(&self) -> bool {
        self.pacer().is_some_and(|pacer| pacer.is_used_up())
    }

    /// The work has ended, well or not.
    pub fn end(&self) {
        self.paced_by(None);
        *self.lock() = None;
    }

    /// How it stands; `None` when nothing is under way.
    #[must_use]
    pub fn state(&self) -> Option<ProgressState> {
        let work = self.lock();
        let work = work.as_ref()?;
        let ratio = work.ratio();
        Some(ProgressState {
            task: work.task,
            phase: work.phase,
            done: work.done.min(work.total),
            total: work.total,
            ratio,
            phase_elapsed: work.phase_began.elapsed(),
            remaining: remaining(ratio, work.began.elapsed()),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Work>> {
        self.shared.lock()
    }
}

impl Work {
    fn ratio(&self) -> f64 {
        if self.total == 0 {
            return self.from;
        }
        let part = (self.done as f64 / self.total as f64).min(1.0);
        // A part that is done again stands still instead of going back.
        self.from + (self.phase.end() - self.from).max(0.0) * part
    }
}

/// What `ratio` in `elapsed` leaves to do; nothing is said before a hundredth is done.
fn remaining(ratio: f64, elapsed: Duration) -> Option<Duration> {
    if ratio < 0.01 {
        return None;
    }
    Duration::try_from_secs_f64(elapsed.as_secs_f64() * (1.0 - ratio) / ratio).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_never_goes_back_and_ends_at_one() {
        let progress = Progress::default();
        assert_eq!(progress.state(), None);
        progress.add(7); // nothing has begun
        let ratio = || progress.state().unwrap().ratio;
        let near = |want: f64| assert!((ratio() - want).abs() < 1e-9, "{} {want}", ratio());
        progress.start("full");
        near(0.0);
        progress.begin(Phase::Copying, 100);
        progress.add(50);
        near(0.25);
        progress.grow(100);
        progress.add(150);
        near(0.5);
        progress.add(1000);
        near(0.5);
        progress.begin(Phase::Checking, 0);
        near(0.5); // how much there is to do is not known
        progress.begin(Phase::Checking, 10);
        progress.add(5);
        near(0.75);
        progress.begin(Phase::Copying, 100); // a second copy confirms what was found
        progress.add(50);
        near(0.75);
        progress.begin(Phase::Checking, 10);
        progress.add(10);
        near(1.0);
        let state = progress.state().unwrap();
        assert_eq!((state.task, state.done, state.total), ("full", 10, 10));
        progress.end();
        assert_eq!(progress.state(), None);
    }

    #[test]
    fn what_remains_follows_from_the_pace() {
        let secs = Duration::from_secs;
        for (ratio, elapsed, want) in [
            (0.0, 5, None),
            (0.005, 5, None),
            (0.5, 10, Some(10)),
            (0.25, 10, Some(30)),
            (1.0, 10, Some(0)),
        ] {
            assert_eq!(remaining(ratio, secs(elapsed)), want.map(secs), "{ratio}");
        }
    }
}
