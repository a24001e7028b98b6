//! Work that waits for its turn without a thread: a thousand stores that all want their first check are a list, not a thousand
//! threads. One thread looks after the list for as long as anything is on it.

use std::{
    collections::BTreeMap,
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::{Mutex, MutexGuard};

use super::{Hold, JobQueue, Permit, STOP_PAUSE, Shared, State, Ticket, next, small};

/// Whether work reads so much that it keeps others waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    /// It is over in a moment, unless its filesystem hangs.
    Small,
    /// It reads whole files: one at a time on a device, and its store pays for it.
    Large,
}

/// Why work does not begin.
#[derive(Debug)]
pub enum NoPermit {
    /// It was told to stop before its turn came.
    Stopped,
    /// The system gave no thread.
    NoThread(io::Error),
}

/// What work needs to begin.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// The name of its thread.
    pub name: &'static str,
    /// How much it reads.
    pub size: Size,
    /// The device (`st_dev`) that it reads.
    pub device: u64,
    /// Whose it is.
    pub store: &'a Arc<str>,
    /// Takes it off the list when set.
    pub stop: &'a Arc<AtomicBool>,
}

type Work = Box<dyn FnOnce(Result<Permit, NoPermit>) + Send>;

/// Work on the list.
pub(super) struct Waiting {
    name: &'static str,
    stop: Arc<AtomicBool>,
    work: Work,
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting").field("name", &self.name).finish_non_exhaustive()
    }
}

/// All work that waits without a thread, by the number of its ticket.
#[derive(Debug, Default)]
pub(super) struct List {
    waiting: BTreeMap<u64, Waiting>,
    /// Whether a thread looks after it.
    attended: bool,
}

#[cfg(test)]
impl List {
    pub(super) fn is_attended(&self) -> bool {
        self.attended
    }
}

impl JobQueue {
    /// Begins `work` on a thread of its own when it is its turn. Whatever happens, it is called once: without a turn it must
    /// end at once, because others wait behind it.
    pub fn begin(
        &self,
        wanted: &Wanted<'_>,
        work: impl FnOnce(Result<Permit, NoPermit>) + Send + 'static,
    ) {
        let shared = &self.shared;
        let mut state = shared.lock();
        let number = state.enter(wanted.size, wanted.device, wanted.store);
        let (name, stop, work) = (wanted.name, Arc::clone(wanted.stop), Box::new(work));
        state.list.waiting.insert(number, Waiting { name, stop, work });
        if !state.list.attended {
            let attended = Arc::clone(shared);
            let attendant = std::thread::Builder::new().name("queue".to_owned());
            match attendant.spawn(move || attend(&attended)) {
                Ok(_) => state.list.attended = true,
                Err(error) => {
                    let work = state.leave(number);
                    drop(state);
                    if let Some(waiting) = work {
                        (waiting.work)(Err(NoPermit::NoThread(error)));
                    }
                    return;
                }
            }
        }
        drop(state);
        shared.changed.notify_all();
    }
}

impl State {
    /// A ticket at the end of its queue.
    pub(super) fn enter(&mut self, size: Size, device: u64, store: &Arc<str>) -> u64 {
        let number = self.next;
        self.next += 1;
        match size {
            Size::Small => self.small.enter(number, device),
            Size::Large => self.waiting.push_back(Ticket {
                number,
                device,
                store: Arc::clone(store),
                begun: false,
            }),
        }
        number
    }

    /// Takes a ticket out of its queue, and gives its work if that is on the list.
    fn leave(&mut self, number: u64) -> Option<Waiting> {
        self.waiting.retain(|ticket| ticket.number != number);
        self.small.leave(number);
        self.list.waiting.remove(&number)
    }

    fn told_to_stop(&self) -> Option<u64> {
        let mut all = self.list.waiting.iter();
        let reported = all.find(|(_, waiting)| waiting.stop.load(Ordering::Relaxed));
        reported.map(|(number, _)| *number)
    }
}

/// Gives threads to work whose turn has come, until there is none on the list.
fn attend(shared: &Arc<Shared>) {
    let mut state = shared.lock();
    loop {
        if let Some(number) = state.told_to_stop() {
            let waiting = state.leave(number);
            MutexGuard::unlocked(&mut state, || {
                if let Some(waiting) = waiting {
                    (waiting.work)(Err(NoPermit::Stopped));
                }
                // Somebody behind it may go now.
                shared.changed.notify_all();
            });
        } else if state.list.waiting.is_empty() {
            state.list.attended = false;
            return;
        } else if let Some((permit, waiting)) = shared.first(&mut state) {
            MutexGuard::unlocked(&mut state, || start(permit, waiting));
        } else {
            shared.changed.wait_for(&mut state, STOP_PAUSE);
        }
    }
}

impl Shared {
    /// Gives the turn to whoever is next, if that is on the list.
    fn first(self: &Arc<Self>, state: &mut State) -> Option<(Permit, Waiting)> {
        if let Some(number) = state.small.next() {
            let waiting = state.list.waiting.remove(&number)?;
            state.small.begin(number);
            let permit = Permit::Small(small::Place { shared: Arc::clone(self), number });
            return Some((permit, waiting));
        }
        let number = next(state, self.at_once, &self.shares)?;
        let waiting = state.list.waiting.remove(&number)?;
        let ticket = self.begin(state, number)?;
        Some((Permit::Large(Hold::new(self, ticket)), waiting))
    }
}

/// The work on a thread of its own; where none is to be had, it is told so.
fn start(permit: Permit, Waiting { name, work, .. }: Waiting) {
    let both = Arc::new(Mutex::new(Some((permit, work))));
    let taken = Arc::clone(&both);
    let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        // In a statement of its own: the lock is not held while it works.
        let both = taken.lock().take();
        if let Some((permit, work)) = both {
            work(Ok(permit));
        }
    });
    if let Err(error) = spawned {
        let both = both.lock().take();
        if let Some((permit, work)) = both {
            drop(permit);
            work(Err(NoPermit::NoThread(error)));
        }
    }
}
