//! Work that yields to others, and still comes to its end on a machine whose processors are never free: such a thread gets a
//! thousandth of one beside ten that want it, and it may not raise itself without privileges. So what gets nothing is begun
//! again on a thread that yields less.

use std::{
    io,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    time::Duration,
};

use super::idle;
use crate::clock;

/// How much a piece of work yields to everybody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quiet {
    /// It takes long and keeps nobody waiting: only when nobody else wants the processor or the disk.
    Idle,
    /// It is done soon, or locks others out for moments: with the least niceness.
    Nice,
    /// It got next to nothing: with some niceness.
    Starved,
    /// It got next to nothing then, too: as others.
    Usual,
}

impl Quiet {
    const fn less(self) -> Self {
        match self {
            Self::Idle | Self::Nice => Self::Starved,
            Self::Starved | Self::Usual => Self::Usual,
        }
    }

    fn begin(self) -> io::Result<()> {
        // The number 0 is this thread (`setpriority(2)`, "C library/kernel differences").
        let nice = |nice| rustix::process::setpriority_process(None, nice).map_err(io::Error::from);
        match self {
            Self::Idle => idle(),
            Self::Nice => nice(NICE_MOST),
            Self::Starved => nice(NICE_SOME),
            Self::Usual => Ok(()),
        }
    }
}

/// Runs `work` on a thread that yields to others: it cannot take that back without privileges. The watch over journals, which
/// must be prompt, never runs there. `work` is told by its flag to stop, when `stop` is set or when it got no time on a
/// processor; then it is begun again on one that yields less.
///
/// # Errors
///
/// When no thread can be had, or the work panicked.
pub fn quietly<T: Send>(
    quiet: Quiet,
    stop: &AtomicBool,
    work: impl FnMut(&AtomicBool) -> T + Send,
) -> io::Result<T> {
    let quiet = if IS_WAITED_FOR.load(Ordering::Relaxed) { Quiet::Usual } else { quiet };
    quietly_for(PATIENCE, quiet, stop, work)
}

/// From now on nothing in this process yields to others: a server is to start when it has ended.
pub fn is_waited_for() {
    IS_WAITED_FOR.store(true, Ordering::Relaxed);
}

static IS_WAITED_FOR: AtomicBool = AtomicBool::new(false);

fn quietly_for<T: Send>(
    patience: Duration,
    mut quiet: Quiet,
    stop: &AtomicBool,
    mut work: impl FnMut(&AtomicBool) -> T + Send,
) -> io::Result<T> {
    loop {
        let (own_stop, starved) = (AtomicBool::new(false), AtomicBool::new(false));
        let result = std::thread::scope(|scope| {
            let (ended, end) = mpsc::channel();
            let (own_stop, work) = (&own_stop, &mut work);
            let run = move || {
                if let Err(error) = quiet.begin() {
                    tracing::debug!(%error, "The check runs with ordinary priority.");
                }
                let result = work(own_stop);
                drop(ended);
                result
            };
            let thread =
                std::thread::Builder::new().name("check".to_owned()).spawn_scoped(scope, run)?;
            watch(patience, quiet, stop, own_stop, &starved, &end);
            thread.join().map_err(|_| io::Error::other("the check panicked"))
        })?;
        if !starved.load(Ordering::Relaxed) || stop.load(Ordering::Relaxed) {
            return Ok(result);
        }
        quiet = quiet.less();
        tracing::debug!(?quiet, "A check got no time on a processor, and begins again.");
    }
}

/// Until the work has ended: hands a stop on, and stops it when it gets nothing.
fn watch(
    patience: Duration,
    quiet: Quiet,
    stop: &AtomicBool,
    own_stop: &AtomicBool,
    starved: &AtomicBool,
    end: &mpsc::Receiver<()>,
) {
    let (mut since, mut before) = (clock::ticks(), None);
    while let Err(RecvTimeoutError::Timeout) = end.recv_timeout(POLL_INTERVAL) {
        if stop.load(Ordering::Relaxed) {
            own_stop.store(true, Ordering::Relaxed);
        }
        if quiet == Quiet::Usual {
            continue;
        }
        let Some(before) = before else {
            before = Times::of_quiet_threads();
            continue;
        };
        if since.elapsed() < patience {
            continue;
        }
        let now = Times::of_quiet_threads();
        if now.is_some_and(|now| now.starved_since(before)) {
            starved.store(true, Ordering::Relaxed);
            own_stop.store(true, Ordering::Relaxed);
        }
        since = clock::ticks();
    }
}

/// Nanoseconds on a processor, and in line for one.
#[derive(Debug, Clone, Copy)]
struct Times {
    ran: u64,
    waited: u64,
}

impl Times {
    /// Of all threads of this program that yield: those of one check, and of others beside it, which fare the same. `None` where
    /// the kernel does not tell.
    fn of_quiet_threads() -> Option<Self> {
        let mut times = Self { ran: 0, waited: 0 };
        for entry in std::fs::read_dir("/proc/self/task").ok()?.flatten() {
            let read = |name: &str| std::fs::read(entry.path().join(name)).ok();
            // A thread that has ended meanwhile.
            let Some(stat) = read("stat") else { continue };
            if !yields(&stat) {
                continue;
            }
            let Some(line) = read("schedstat") else { continue };
            let text = String::from_utf8_lossy(&line);
            let mut numbers = text.split_ascii_whitespace().map(|word| word.parse::<u64>().ok());
            times.ran += numbers.next()??;
            times.waited += numbers.next()??;
        }
        Some(times)
    }

    /// Whether they were in line nearly all the time.
    fn starved_since(self, before: Self) -> bool {
        let (ran, waited) =
            (self.ran.saturating_sub(before.ran), self.waited.saturating_sub(before.waited));
        waited > ran.saturating_mul(STARVED)
    }
}

/// Whether the thread of a line of `/proc/PID/task/TID/stat` yields to others: by its niceness (the 19th field), or because it
/// runs only when nobody else wants to (the 41st, `SCHED_IDLE`).
fn yields(stat: &[u8]) -> bool {
    let Some(end) = stat.iter().rposition(|byte| *byte == b')') else { return false };
    let text = String::from_utf8_lossy(&stat[end + 1..]);
    // The third field is the first behind the name.
    let field = |number: usize| {
        text.split_ascii_whitespace().nth(number - 3).and_then(|word| word.parse::<i64>().ok())
    };
    field(19).is_some_and(|nice| nice >= 10) || field(41) == Some(SCHED_IDLE)
}

/// `linux/sched.h`.
const SCHED_IDLE: i64 = 5;

/// Whether the scheduler tells how long a thread waited.
#[cfg(test)]
fn is_told() -> bool {
    std::path::Path::new("/proc/self/schedstat").exists() && Times::of_quiet_threads().is_some()
}

/// For so long a check may get nothing.
const PATIENCE: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// It gets nothing when it waits for so many times as long as it runs: a fiftieth of a processor.
const STARVED: u64 = 50;
const NICE_MOST: i32 = 19;
/// A tenth of the share of others, and seven times that of the least niceness.
const NICE_SOME: i32 = 10;

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, atomic::AtomicUsize};

    use super::*;
    use crate::wait::{SOON, wait_until};

    #[test]
    fn the_result_comes_back_and_a_stop_is_handed_on() {
        let stop = AtomicBool::new(false);
        assert_eq!(quietly(Quiet::Nice, &stop, |_| 7).unwrap(), 7);
        let seen = quietly(Quiet::Idle, &stop, |own| {
            stop.store(true, Ordering::Relaxed);
            wait_until("the stop", SOON, || own.load(Ordering::Relaxed));
        });
        seen.unwrap();
        let panicked = quietly(Quiet::Usual, &stop, |_| panic!("on purpose"));
        assert!(panicked.is_err());
    }

    #[test]
    fn what_gets_no_time_begins_again_and_yields_less() {
        if !is_told() {
            return;
        }
        let (stop, done) = (AtomicBool::new(false), AtomicBool::new(false));
        let begun = AtomicUsize::new(0);
        let niceness = Mutex::new(Vec::new());
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        std::thread::scope(|scope| {
            for _ in 0..cores * 4 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            }
            let patience = Duration::from_millis(600);
            quietly_for(patience, Quiet::Idle, &stop, |own| {
                let nice = rustix::process::getpriority_process(None).unwrap();
                niceness.lock().unwrap().push(nice);
                // The first time it works until nobody wants it; it would take for ever.
                if begun.fetch_add(1, Ordering::Relaxed) == 0 {
                    while !own.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                }
            })
            .unwrap();
            done.store(true, Ordering::Relaxed);
        });
        // Beside other tests the second one may get nothing either.
        assert!(begun.load(Ordering::Relaxed) >= 2);
        assert_eq!(niceness.lock().unwrap()[1], NICE_SOME);
    }

    #[test]
    fn starved_is_who_waits_nearly_all_the_time() {
        let times = |ran, waited| Times { ran, waited };
        for (ran, waited, want) in
            [(1, 100, true), (10, 100, false), (0, 0, false), (0, 5, true), (100, 0, false)]
        {
            assert_eq!(times(ran + 7, waited + 9).starved_since(times(7, 9)), want);
        }
    }

    #[test]
    fn threads_that_yield_are_told_by_niceness_or_policy() {
        let line = |nice: i64, policy: i64| {
            let rest = ["0"; 19].join(" ");
            format!("7 (a) b) S 1 7 7 0 -1 4 0 0 0 0 1 2 3 4 20 {nice} 1 0 {rest} {policy} 0 0")
        };
        for (nice, policy, want) in [
            (0, 0, false),
            (19, 0, true),
            (10, 0, true),
            (5, 0, false),
            (0, 5, true),
            (-5, 1, false),
        ] {
            // As in the kernel's text, the policy stands 22 places behind the niceness.
            let line = line(nice, policy);
            let words: Vec<&str> = line.rsplit(')').next().unwrap().split(' ').skip(1).collect();
            let (place, nice, policy) = (words.len(), nice.to_string(), policy.to_string());
            assert!(place > 38 && words[16] == nice && words[38] == policy, "{line}");
            assert_eq!(yields(line.as_bytes()), want, "{line}");
        }
        assert!(!yields(b"") && !yields(b"7 (a) S"));
    }
}
