//! Turns of small work: a few at once on each device, and a few at once in all. What takes long although it is small is on a
//! filesystem that hangs, or on a machine that is busy; it counts for its own device alone then, so that no number of
//! filesystems that hang keeps the others waiting.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use super::Shared;
use crate::clock::{self, Ticks};

/// On one device.
pub(super) const ON_A_DEVICE: usize = 4;
/// In all, of those that have not worked for long.
const IN_ALL: usize = 8;
const LONG: Duration = Duration::from_secs(2);

/// Who waits, and who works.
#[derive(Debug, Default)]
pub(super) struct Small {
    waiting: VecDeque<(u64, u64)>,
    running: Vec<(u64, u64, Ticks)>,
}

impl Small {
    pub(super) fn enter(&mut self, number: u64, device: u64) {
        self.waiting.push_back((number, device));
    }

    pub(super) fn leave(&mut self, number: u64) {
        self.waiting.retain(|(waiting, _)| *waiting != number);
    }

    /// The first whose device has room.
    pub(super) fn next(&self) -> Option<u64> {
        let soon = self.running.iter().filter(|(_, _, since)| since.elapsed() < LONG).count();
        if soon >= IN_ALL {
            return None;
        }
        let on = |device| self.running.iter().filter(|(_, on, _)| *on == device).count();
        let mut free = self.waiting.iter().filter(|(_, device)| on(*device) < ON_A_DEVICE);
        free.next().map(|(number, _)| *number)
    }

    pub(super) fn begin(&mut self, number: u64) {
        if let Some(at) = self.waiting.iter().position(|(waiting, _)| *waiting == number)
            && let Some((number, device)) = self.waiting.remove(at)
        {
            self.running.push((number, device, clock::ticks()));
        }
    }

    fn end(&mut self, number: u64) {
        self.running.retain(|(running, ..)| *running != number);
    }
}

/// A place among them; given back when dropped.
#[derive(Debug)]
pub struct Place {
    pub(super) shared: Arc<Shared>,
    pub(super) number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.lock().small.end(self.number);
        self.shared.changed.notify_all();
    }
}
