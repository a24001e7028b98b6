//! Expensive work takes turns: never two pieces of it on one disk, and no more at a time than there are processors.
//!
//! What a store needs in a day is mostly little, and who has had little is first, in the order of asking. Who has had more
//! gets it in short turns: when one is used up and somebody waits, the work pauses where it is and goes to the end of the queue
//! ([`Hold::checkpoint`]). So a store that could be read for hours takes from the others no more than a short turn at a time. What
//! one store may have in a day is bounded.
//!
//! Who waits has no thread ([`JobQueue::begin`]). Only work that pauses in the middle keeps its own, and of that there is little.

mod small;
mod waiting;

pub use waiting::{NoPermit, Size, Wanted};

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::{
    clock::{self, Ticks},
    progress::Pacer,
};

/// Who works, and who waits. Cloning shares it.
#[derive(Debug, Clone)]
pub struct JobQueue {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    at_once: usize,
    shares: Shares,
}

/// How long is what.
#[derive(Debug, Clone, Copy)]
pub struct Shares {
    /// A store that has had less in this day is first, and is not made to pause.
    pub little: Duration,
    /// A turn of one that has had more, while one waits that has had little.
    pub short: Duration,
    /// A turn of one that has had more, while others like it wait.
    pub long: Duration,
    /// What a store may have in a day.
    pub day_max: Duration,
}

impl Default for Shares {
    fn default() -> Self {
        Self {
            little: Duration::from_secs(5),
            short: Duration::from_secs(1),
            long: Duration::from_secs(30),
            day_max: Duration::from_hours(4),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    running: Vec<Running>,
    waiting: VecDeque<Ticket>,
    /// What each store has had, and when about: by the quarter of an hour.
    had: BTreeMap<Arc<str>, VecDeque<(Ticks, Duration)>>,
    small: small::Small,
    /// Work of either size that waits without a thread.
    list: waiting::List,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Ticket {
    number: u64,
    device: u64,
    store: Arc<str>,
    /// It is work that pauses, and may keep a copy of a database meanwhile.
    begun: bool,
}

#[derive(Debug)]
struct Running {
    ticket: Ticket,
    since: Ticks,
}

/// The right to work on a device, given back when dropped.
#[derive(Debug)]
pub enum Permit {
    /// Of work that may have to pause.
    Large(Arc<Hold>),
    /// Of work that is over in a moment.
    Small(small::Place),
}

/// How much work there is that reads whole files.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Jobs {
    /// Has its turn.
    pub running: usize,
    /// Waits for one, also in the middle of its work.
    pub waiting: usize,
}

/// What the threads of one piece of work ask whether to go on.
#[derive(Debug)]
pub struct Hold {
    shared: Arc<Shared>,
    ticket: Ticket,
    began: Ticks,
    /// Milliseconds since it began at which the queue is looked at again.
    look_at: AtomicU64,
    paused: AtomicBool,
    used_up: AtomicBool,
    /// For how long it has paused, in milliseconds, and since when it does.
    paused_ms: AtomicU64,
    paused_since: Mutex<Option<Ticks>>,
}

impl JobQueue {
    /// Turns of which `at_once` may be taken at the same time, on different devices; at least one.
    #[must_use]
    pub fn new(at_once: usize) -> Self {
        Self::with(at_once, Shares::default())
    }

    /// The same with other shares than the usual ones.
    #[must_use]
    pub fn with(at_once: usize, shares: Shares) -> Self {
        let (state, changed) = (Mutex::default(), Condvar::new());
        Self { shared: Arc::new(Shared { state, changed, at_once: at_once.max(1), shares }) }
    }

    /// Waits on this thread for its turn on `device` (`st_dev`) for work on `store`; `None` when `stop` is set first.
    #[cfg(test)]
    pub fn take(&self, device: u64, store: &Arc<str>, stop: &AtomicBool) -> Option<Permit> {
        let shared = &self.shared;
        let mut state = shared.lock();
        let number = state.enter(Size::Large, device, store);
        loop {
            if stop.load(Ordering::Relaxed) {
                state.waiting.retain(|waiting| waiting.number != number);
                drop(state);
                // Somebody behind it may go now.
                shared.changed.notify_all();
                return None;
            }
            if let Some(ticket) = shared.begin(&mut state, number) {
                drop(state);
                shared.changed.notify_all();
                return Some(Permit::Large(Hold::new(shared, ticket)));
            }
            shared.wait(&mut state);
        }
    }

    /// Whether `store` has had all that it may have in a day.
    #[must_use]
    pub fn used_up(&self, store: &str) -> bool {
        self.shared.lock().had_today(store) >= self.shared.shares.day_max
    }

    /// How long the queue of large work is at this moment.
    #[must_use]
    pub fn jobs(&self) -> Jobs {
        let state = self.shared.lock();
        Jobs { running: state.running.len(), waiting: state.waiting.len() }
    }

    /// What a store may have in a day.
    #[must_use]
    pub fn day_max(&self) -> Duration {
        self.shared.shares.day_max
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Nobody tells of a stop.
    fn wait(&self, state: &mut MutexGuard<'_, State>) {
        self.changed.wait_for(state, STOP_PAUSE);
    }

    /// Lets a ticket begin, or go on, if it is next.
    fn begin(&self, state: &mut State, number: u64) -> Option<Ticket> {
        if next(state, self.at_once, &self.shares) != Some(number) {
            return None;
        }
        let at = state.waiting.iter().position(|ticket| ticket.number == number)?;
        let ticket = state.waiting.remove(at)?;
        state.running.push(Running { ticket: ticket.clone(), since: clock::ticks() });
        Some(ticket)
    }
}

impl State {
    fn had_today(&self, store: &str) -> Duration {
        let had = self.had.get(store).into_iter().flatten();
        let before = had.filter(|(at, _)| at.elapsed() < DAY).map(|(_, had)| *had).sum();
        let now = self.running.iter().filter(|running| &*running.ticket.store == store);
        now.map(|running| running.since.elapsed()).fold(before, Duration::saturating_add)
    }

    /// Takes the right away from who works, and notes what that has had.
    fn end(&mut self, number: u64) -> Option<Ticket> {
        let at = self.running.iter().position(|running| running.ticket.number == number)?;
        let Running { ticket, since } = self.running.swap_remove(at);
        self.had.retain(|_, had| {
            while had.front().is_some_and(|(at, _)| at.elapsed() > DAY) {
                had.pop_front();
            }
            !had.is_empty()
        });
        let had = self.had.entry(Arc::clone(&ticket.store)).or_default();
        match had.back_mut() {
            Some((at, had)) if at.elapsed() < GRAIN => *had += since.elapsed(),
            _ => had.push_back((clock::ticks(), since.elapsed())),
        }
        Some(ticket)
    }
}

/// Who is next: of those whose device nobody works on the first that has had little, and then the first other one. Of those who
/// have had more only so many begin before one of them has ended: each may keep a copy of its database.
fn next(state: &State, at_once: usize, shares: &Shares) -> Option<u64> {
    if state.running.len() >= at_once {
        return None;
    }
    let busy = |device| state.running.iter().any(|running| running.ticket.device == device);
    let free = || state.waiting.iter().filter(|ticket| !busy(ticket.device));
    let little = |ticket: &&Ticket| state.had_today(&ticket.store) < shares.little;
    let begun = |device| {
        state.waiting.iter().filter(|ticket| ticket.begun && ticket.device == device).count()
    };
    let may_begin = |ticket: &&Ticket| ticket.begun || begun(ticket.device) < BEGUN_MAX;
    let first = free().find(little).or_else(|| free().find(may_begin));
    first.map(|ticket| ticket.number)
}

impl Permit {
    /// What the threads of the work ask; `None` for small work, which never pauses.
    #[must_use]
    pub fn pacer(&self) -> Option<Arc<dyn Pacer>> {
        match self {
            Self::Large(hold) => Some(Arc::clone(hold) as Arc<dyn Pacer>),
            Self::Small(_) => None,
        }
    }
}

impl Pacer for Hold {
    /// Pauses while it is the turn of others; `false` when the store has had all that it may have in a day, and the work is to
    /// end. Costs next to nothing when it was asked a moment ago. Ends at once when `stop` is set. No lock may be held that
    /// others wait for, unless somebody looks out for them and calls [`Self::wake`].
    fn checkpoint(&self, stop: &AtomicBool) -> bool {
        let elapsed = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let soon = elapsed < self.look_at.load(Ordering::Relaxed);
        if soon && !self.paused.load(Ordering::Relaxed) || self.is_used_up() {
            return !self.is_used_up();
        }
        let number = self.ticket.number;
        let mut state = self.shared.lock();
        loop {
            let since = state
                .running
                .iter()
                .find(|running| running.ticket.number == number)
                .map(|r| r.since);
            if let Some(since) = since {
                let had = state.had_today(&self.ticket.store);
                if had >= self.shared.shares.day_max {
                    self.used_up.store(true, Ordering::Relaxed);
                    return false;
                }
                if !self.is_others_permit(&state, since.elapsed(), had) {
                    self.look_at.store(elapsed + POLL_INTERVAL_MS, Ordering::Relaxed);
                    return true;
                }
                self.note_pause(true);
                if let Some(ticket) = state.end(number) {
                    state.waiting.push_back(Ticket { begun: true, ..ticket });
                }
                self.shared.changed.notify_all();
            }
            if stop.load(Ordering::Relaxed) {
                return true;
            }
            if self.shared.begin(&mut state, number).is_some() {
                self.note_pause(false);
                drop(state);
                self.shared.changed.notify_all();
                return true;
            }
            // Another thread of the same work may begin it again meanwhile.
            self.shared.wait(&mut state);
        }
    }

    /// For how long the work has paused so far.
    fn paused(&self) -> Duration {
        let since = *self.paused_since.lock();
        let now = since.map_or(Duration::ZERO, Ticks::elapsed);
        now + Duration::from_millis(self.paused_ms.load(Ordering::Relaxed))
    }

    /// Lets threads that pause look at once whether they are to stop.
    fn wake(&self) {
        self.shared.changed.notify_all();
    }

    /// Whether the store has had all that it may have in a day.
    fn is_used_up(&self) -> bool {
        self.used_up.load(Ordering::Relaxed)
    }
}

impl Hold {
    fn new(shared: &Arc<Shared>, ticket: Ticket) -> Arc<Self> {
        Arc::new(Self {
            shared: Arc::clone(shared),
            ticket,
            began: clock::ticks(),
            look_at: AtomicU64::new(0),
            paused: AtomicBool::new(false),
            used_up: AtomicBool::new(false),
            paused_ms: AtomicU64::new(0),
            paused_since: Mutex::new(None),
        })
    }

    fn is_others_permit(&self, state: &State, ran: Duration, had: Duration) -> bool {
        let shares = &self.shared.shares;
        if had < shares.little || ran < shares.short {
            return false;
        }
        let full = state.running.len() >= self.shared.at_once;
        let busy = |ticket: &Ticket| {
            let by = |running: &Running| {
                running.ticket.device == ticket.device
                    && running.ticket.number != self.ticket.number
            };
            state.running.iter().any(by)
        };
        let device = self.ticket.device;
        let mut others = state
            .waiting
            .iter()
            .filter(|ticket| (full || ticket.device == device) && !busy(ticket));
        let begun =
            state.waiting.iter().filter(|ticket| ticket.begun && ticket.device == device).count();
        others.any(|ticket| {
            let little = state.had_today(&ticket.store) < shares.little;
            little || ran >= shares.long && (ticket.begun || begun + 1 < BEGUN_MAX)
        })
    }

    fn note_pause(&self, begins: bool) {
        let mut since = self.paused_since.lock();
        if begins {
            *since = Some(clock::ticks());
        } else if let Some(since) = since.take() {
            let paused = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.paused_ms.fetch_add(paused, Ordering::Relaxed);
        }
        self.paused.store(begins, Ordering::Relaxed);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        // The place of a small one gives itself back.
        let Self::Large(hold) = self else { return };
        let (shared, number) = (&hold.shared, hold.ticket.number);
        let mut state = shared.lock();
        state.end(number);
        state.waiting.retain(|ticket| ticket.number != number);
        drop(state);
        shared.changed.notify_all();
    }
}

/// How soon a stop is seen by who waits.
const STOP_PAUSE: Duration = Duration::from_millis(250);
/// How often who works looks whether somebody waits.
const POLL_INTERVAL_MS: u64 = 20;
/// Work that may have begun and pause, on one device.
const BEGUN_MAX: usize = 4;
const DAY: Duration = Duration::from_hours(24);
/// How exactly it is known when a store has had what.
const GRAIN: Duration = Duration::from_mins(15);

#[cfg(test)]
mod tests;
