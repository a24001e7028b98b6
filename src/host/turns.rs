//! Dear work takes turns: never two pieces of it on one disk, and no more at a time than there are processors. Who asks
//! first is first, so that none of many stores starves.

use std::{
    collections::VecDeque,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// Who works, and who waits.
#[derive(Debug)]
pub struct Turns {
    state: Mutex<State>,
    changed: Condvar,
    at_once: usize,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// Devices that are being worked on.
    running: Vec<u64>,
    waiting: VecDeque<Ticket>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ticket {
    number: u64,
    device: u64,
}

/// The right to work on a device; given back when dropped.
#[derive(Debug)]
pub struct Turn<'a> {
    turns: &'a Turns,
    device: u64,
}

impl Turns {
    /// Turns of which `at_once` may be taken at the same time, on different devices; at least one.
    #[must_use]
    pub fn new(at_once: usize) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), at_once: at_once.max(1) }
    }

    /// Waits for its turn on `device` (`st_dev`); `None` when `stop` is set first.
    pub fn take(&self, device: u64, stop: &AtomicBool) -> Option<Turn<'_>> {
        let mut state = self.lock();
        let number = state.next;
        state.next += 1;
        state.waiting.push_back(Ticket { number, device });
        loop {
            if stop.load(Ordering::Relaxed) {
                state.waiting.retain(|ticket| ticket.number != number);
                drop(state);
                // Somebody behind it may go now.
                self.changed.notify_all();
                return None;
            }
            if next(&state.waiting, &state.running, self.at_once)
                .is_some_and(|t| t.number == number)
            {
                state.waiting.retain(|ticket| ticket.number != number);
                state.running.push(device);
                drop(state);
                self.changed.notify_all();
                return Some(Turn { turns: self, device });
            }
            // Nobody tells of a stop.
            let waited = self.changed.wait_timeout(state, STOP_PAUSE);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who is next: the first whose device nobody works on.
fn next(waiting: &VecDeque<Ticket>, running: &[u64], at_once: usize) -> Option<Ticket> {
    let free = |ticket: &&Ticket| !running.contains(&ticket.device);
    waiting.iter().find(free).copied().filter(|_| running.len() < at_once)
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.turns.lock();
        if let Some(at) = state.running.iter().position(|device| *device == self.device) {
            state.running.swap_remove(at);
        }
        drop(state);
        self.turns.changed.notify_all();
    }
}

/// How soon a stop is seen by who waits.
const STOP_PAUSE: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn who_is_next() {
        // devices that wait in this order, devices at work, at once → place of who may go
        for (waiting, running, at_once, want) in [
            (&[1_u64][..], &[][..], 2, Some(0)),
            (&[1, 1], &[1_u64][..], 2, None),
            (&[1, 2], &[1], 2, Some(1)),
            (&[2, 1], &[1], 2, Some(0)),
            (&[3], &[1, 2], 2, None),
            (&[1, 2], &[], 1, Some(0)),
            (&[], &[], 1, None),
        ] {
            let waiting: VecDeque<Ticket> = (0..)
                .zip(waiting)
                .map(|(number, device)| Ticket { number, device: *device })
                .collect();
            let is = next(&waiting, running, at_once).map(|ticket| ticket.number);
            assert_eq!(is, want, "{waiting:?} {running:?}");
        }
    }

    #[test]
    fn every_one_of_many_gets_its_turn_and_no_two_work_on_one_disk() {
        let turns = Turns::new(2);
        let stop = AtomicBool::new(false);
        let at_work: [AtomicUsize; 3] = Default::default();
        let all = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for n in 0..60_usize {
                let (turns, stop, at_work, all) = (&turns, &stop, &at_work, &all);
                scope.spawn(move || {
                    let turn = turns.take(n as u64 % 3, stop).unwrap();
                    assert_eq!(at_work[n % 3].fetch_add(1, Ordering::SeqCst), 0);
                    assert!(all.fetch_add(1, Ordering::SeqCst) < 2);
                    std::thread::sleep(Duration::from_millis(1));
                    at_work[n % 3].fetch_sub(1, Ordering::SeqCst);
                    all.fetch_sub(1, Ordering::SeqCst);
                    drop(turn);
                });
            }
        });
        assert!(turns.lock().running.is_empty() && turns.lock().waiting.is_empty());
    }

    #[test]
    fn who_is_told_to_stop_leaves_the_queue() {
        let turns = Turns::new(4);
        let go = AtomicBool::new(false);
        let mine = turns.take(7, &go).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let first = scope.spawn(|| turns.take(7, &stop).is_none());
            crate::wait::wait_until("it to wait", crate::wait::SOON, || {
                !turns.lock().waiting.is_empty()
            });
            // Another disk is nobody's business.
            assert!(turns.take(8, &go).is_some());
            stop.store(true, Ordering::Relaxed);
            assert!(first.join().unwrap());
        });
        drop(mine);
        assert!(turns.take(7, &go).is_some());
    }
}
