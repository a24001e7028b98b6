//! How far a long job is. Whoever works tells it, whoever shows it asks, and neither waits for the other.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;

use crate::clock::{self, Ticks};

/// One step of a job after the other, and whether the job is still wanted. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Steps {
    now: Arc<Mutex<Option<Step>>>,
    stop: Arc<AtomicBool>,
}

/// What a job is at.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// What is done: `copying the database`.
    pub what: &'static str,
    /// Done so far.
    pub done: u64,
    /// When the step is over; `None` when nobody knows.
    pub total: Option<u64>,
    /// What is counted.
    pub unit: Unit,
    /// When it began.
    pub began: Ticks,
}

/// What a step counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes that were read or written.
    Bytes,
    /// Records of a collection.
    Records,
}

impl Steps {
    /// The next step begins; it counts bytes.
    pub fn begin(&self, what: &'static str, total: Option<u64>) {
        self.begin_with(what, total, Unit::Bytes);
    }

    /// The next step begins; it counts records.
    pub fn begin_records(&self, what: &'static str, total: Option<u64>) {
        self.begin_with(what, total, Unit::Records);
    }

    fn begin_with(&self, what: &'static str, total: Option<u64>, unit: Unit) {
        *self.now.lock() = Some(Step { what, done: 0, total, unit, began: clock::ticks() });
    }

    /// So many more of what the step counts are done.
    pub fn add(&self, done: u64) {
        if let Some(step) = &mut *self.now.lock() {
            step.done = step.done.saturating_add(done);
        }
    }

    /// What is being done.
    #[must_use]
    pub fn now(&self) -> Option<Step> {
        *self.now.lock()
    }

    /// The job is not wanted any more: it ends soon, and leaves nothing half done.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether the job should end.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// A part of the job that can be stopped, and begun again, without the rest. Its steps are those of the job.
    #[must_use]
    pub fn part(&self) -> Self {
        Self { now: Arc::clone(&self.now), stop: Arc::default() }
    }

    /// The flag itself, for those who take one.
    #[must_use]
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_counts_from_its_own_beginning() {
        let steps = Steps::default();
        assert!(steps.now().is_none());
        steps.begin("copying the database", Some(10));
        steps.add(4);
        steps.clone().add(5);
        assert_eq!(steps.now().map(|step| (step.done, step.total)), Some((9, Some(10))));
        steps.begin("packing", None);
        assert_eq!(steps.now().map(|step| (step.what, step.done)), Some(("packing", 0)));
        assert!(!steps.stopped());
        let part = steps.part();
        part.add(3);
        assert_eq!(steps.now().map(|step| step.done), Some(3));
        part.stop();
        assert!(part.stopped() && !steps.stopped());
        steps.clone().stop();
        assert!(steps.stopped() && steps.flag().load(Ordering::Relaxed));
    }
}
