//! Locks that last. One look at `/proc/locks` cannot tell a lock that is held from one that comes and goes, so a lock
//! counts as held without a break only when it is there in every run, no commit happened in between (none can while
//! somebody reads), and several looks within the run all find it.

use std::{collections::BTreeMap, time::Duration};

use super::Version;
use crate::{
    clock::Timestamp,
    collectors::{CollectError, Run},
    findings::{Code, Finding},
    host::processes::{Holder, LockHolder},
    store::DATABASE_FILE,
};

/// Locks that were there at the last run.
#[derive(Debug, Default)]
pub(super) struct LockWatch {
    held: BTreeMap<u32, (Timestamp, Version)>,
}

/// A lock that has been held for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HeldLock {
    pub(super) pid: u32,
    /// A writer's, not a reader's.
    pub(super) exclusive: bool,
    pub(super) lasted: Duration,
    /// Somebody who waits for it.
    pub(super) waiting: Option<u32>,
}

impl LockWatch {
    /// Looks at the locks of everybody but `main`: the server's own are its work. Locks that belong to no process are
    /// left out, they may be ours. Errs when `/proc/locks` cannot be read.
    pub(super) fn check(
        &mut self,
        run: &Run,
        version: Version,
        main: Option<u32>,
        read: impl Fn() -> Result<Vec<LockHolder>, CollectError>,
    ) -> Result<Vec<HeldLock>, CollectError> {
        let before = std::mem::take(&mut self.held);
        let mut locks = read()?;
        for lock in &locks {
            let Some(pid) = lock.pid.filter(|pid| Some(*pid) != main) else { continue };
            let since = match before.get(&pid) {
                Some((since, then)) if *then == version => *since,
                _ => run.now,
            };
            self.held.insert(pid, (since, version));
        }
        for _ in 0..SAMPLES {
            if !self.held.values().any(|(since, _)| run.now.since(*since) >= LONG) || run.stopped()
            {
                break;
            }
            std::thread::sleep(BETWEEN_SAMPLES);
            locks = read()?;
            for (pid, (since, _)) in &mut self.held {
                if !locks.iter().any(|lock| lock.pid == Some(*pid)) {
                    *since = run.now;
                }
            }
        }
        Ok(self
            .held
            .iter()
            .map(|(pid, (since, _))| HeldLock {
                pid: *pid,
                exclusive: locks.iter().any(|lock| lock.pid == Some(*pid) && lock.exclusive),
                lasted: run.now.since(*since),
                waiting: locks
                    .iter()
                    .find(|lock| lock.pending && lock.pid != Some(*pid))
                    .and_then(|lock| lock.pid),
            })
            .collect())
    }

    /// There is nothing to be locked.
    pub(super) fn forget(&mut self) {
        self.held.clear();
    }
}

/// The finding for the locks that have lasted too long.
pub(super) fn lock_held(held: &[HeldLock], holders: &[Holder]) -> Option<Finding> {
    let comm = |pid: u32| {
        let holder = holders.iter().find(|h| h.pid == pid || h.children.contains(&pid));
        holder.map_or("a process", |holder| holder.comm.as_str())
    };
    let longest = held.iter().filter(|held| held.lasted >= LONG).max_by_key(|held| held.lasted)?;
    let kind = if longest.exclusive { "a write lock" } else { "a read lock" };
    let mut evidence = format!(
        "{} (pid {}) has held {kind} for at least {} s without a break",
        comm(longest.pid),
        longest.pid,
        longest.lasted.as_secs()
    );
    if let Some(waiting) = longest.waiting {
        evidence.extend([", and ", comm(waiting), " waits to write"]);
    }
    let command = format!("ps -fp {}", longest.pid);
    Some(Finding::new(Code::LockHeld, DATABASE_FILE, evidence).with_command(Some(command)))
}

/// Two runs of the default pace, less what the clock may have been slewed by.
pub(super) const LONG: Duration = Duration::from_millis(4_900);
const SAMPLES: usize = 10;
const BETWEEN_SAMPLES: Duration = Duration::from_millis(10);
