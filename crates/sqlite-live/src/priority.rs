//! How a thread stands beside others: what must be prompt comes before everybody, what can wait takes only what nobody
//! else wants, of processor and disk.

mod quietly;

use std::io;

use super::kernel::{
    IOPRIO_IDLE, IOPRIO_NONE, scheduling, set_disk_class, set_scheduling, set_slice,
};

pub use quietly::{Quiet, is_waited_for, quietly};

/// While it lives this thread comes before all others that are not prompt. Where that is not permitted it asks for short
/// turns instead, which Linux 6.12 and later give at once to a thread that has slept; older ones ignore it. To be held for
/// moments, or by threads that sleep nearly always.
#[derive(Debug)]
pub struct Prompt {
    before: Option<(libc::c_int, libc::sched_param)>,
    short: bool,
    /// Not for another thread.
    _here: std::marker::PhantomData<*const ()>,
}

impl Prompt {
    /// Begins now.
    #[must_use]
    pub fn new() -> Self {
        let before = scheduling().ok();
        let first = libc::sched_param { sched_priority: 1 };
        // What a prompt thread starts is not prompt.
        let prompt = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
        let raised = |(policy, _): &(libc::c_int, _)| {
            policy & !libc::SCHED_RESET_ON_FORK != libc::SCHED_FIFO
                && set_scheduling(prompt, first).is_ok()
        };
        let usual = before.is_some_and(|(policy, _)| policy == libc::SCHED_OTHER);
        let before = before.filter(raised);
        let short = before.is_none() && usual && set_slice(SLICE_NANOS).is_ok();
        Self { before, short, _here: std::marker::PhantomData }
    }

    #[cfg(test)]
    fn is_first(&self) -> bool {
        self.before.is_some()
    }
}

impl Default for Prompt {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Prompt {
    fn drop(&mut self) {
        if let Some((policy, param)) = self.before
            && let Err(error) = set_scheduling(policy, param)
        {
            tracing::debug!(%error, "A thread stays prompt.");
        }
        if self.short
            && let Err(error) = set_slice(0)
        {
            tracing::debug!(%error, "A thread keeps its short turns.");
        }
    }
}

/// While it lives the disk serves this thread only when nobody else asks, where the scheduler of the disk knows that. To be
/// held by no thread that has a lock.
#[derive(Debug)]
pub struct SpareDisk {
    _here: std::marker::PhantomData<*const ()>,
}

impl SpareDisk {
    /// Begins now.
    #[must_use]
    pub fn new() -> Self {
        if let Err(error) = set_disk_class(IOPRIO_IDLE) {
            tracing::debug!(%error, "The disk serves this thread as others.");
        }
        Self { _here: std::marker::PhantomData }
    }
}

impl Default for SpareDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for SpareDisk {
    fn drop(&mut self) {
        if let Err(error) = set_disk_class(IOPRIO_NONE) {
            tracing::debug!(%error, "A thread stays last at the disk.");
        }
    }
}

/// Lets this thread, and those that it starts, work only when nobody else wants to, from now to its end: a thread without
/// privileges cannot take that back. It must hold no lock that others wait for.
///
/// # Errors
///
/// What the kernel says when it refuses.
pub fn idle() -> io::Result<()> {
    set_disk_class(IOPRIO_IDLE)?;
    set_scheduling(libc::SCHED_IDLE, libc::sched_param { sched_priority: 0 })
}

/// The shortest that Linux takes.
const SLICE_NANOS: u64 = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// What `/proc/thread-self/stat` says of this thread: its policy, the 41st field.
    fn policy() -> libc::c_int {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let after_name = stat.rsplit(')').next().unwrap();
        after_name.split_whitespace().nth(38).unwrap().parse().unwrap()
    }

    #[test]
    fn a_thread_is_prompt_as_long_as_it_wants_and_no_thread_that_it_starts() {
        let before = policy();
        let prompt = Prompt::new();
        let during = if prompt.is_first() { libc::SCHED_FIFO } else { before };
        assert_eq!(policy(), during);
        assert!(!Prompt::new().is_first() || !prompt.is_first(), "nested: nothing to give back");
        assert_eq!(policy(), during);
        assert_eq!(std::thread::spawn(policy).join().unwrap(), before);
        drop(prompt);
        assert_eq!(policy(), before);
    }

    #[test]
    fn a_thread_that_can_wait_says_so_and_so_do_those_it_starts() {
        let policies = std::thread::spawn(|| {
            drop(SpareDisk::new());
            idle().unwrap();
            [policy(), std::thread::spawn(policy).join().unwrap()]
        });
        assert_eq!(policies.join().unwrap(), [libc::SCHED_IDLE; 2]);
    }
}
