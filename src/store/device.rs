//! Asks the filesystem of a store whether it answers, with a deadline. A dead NFS or FUSE mount blocks `statvfs` for
//! ever; one thread waits for it, everybody else is told at once and touches nothing.

use std::{
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::{fs::StatVfsMountFlags, io::Errno};

use crate::{
    clock::{self, Ticks},
    collectors::CollectError,
};

/// The filesystem under one persist directory.
#[derive(Debug)]
pub struct Device {
    path: PathBuf,
    shared: Arc<Shared>,
}

/// What a filesystem says of its room. Plain numbers of `statvfs`, multiplied out to bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Size in bytes.
    pub size_bytes: u64,
    /// Free bytes, those reserved for root included.
    pub free_bytes: u64,
    /// Free bytes for everybody.
    pub avail_bytes: u64,
    /// Inodes; 0 where the filesystem has no limit (btrfs).
    pub inodes: u64,
    /// Free inodes.
    pub inodes_free: u64,
    /// Whether it is mounted read-only.
    pub readonly: bool,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    answered: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// When the one question on its way was asked.
    asked: Option<Ticks>,
    /// The newest answer and when it came.
    answer: Option<(Ticks, Result<Space, Errno>)>,
}

impl Device {
    /// The filesystem under `path`. Touches nothing yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, shared: Arc::default() }
    }

    /// `statvfs` of the directory, waiting at most `timeout`. Callers at the same moment share one question, and while
    /// one is stuck no other is asked: a hung mount costs one thread.
    pub fn ask(&self, timeout: Duration) -> Result<Space, CollectError> {
        self.ask_since(clock::ticks(), timeout)
    }

    /// The same, content with an answer not older than `max_age`.
    pub fn ask_recent(&self, max_age: Duration, timeout: Duration) -> Result<Space, CollectError> {
        let now = clock::ticks();
        let recent = self.lock().answer.filter(|(at, _)| now.since(*at) <= max_age);
        match recent {
            Some((_, answer)) => self.told(answer),
            None => self.ask_since(now, timeout),
        }
    }

    fn ask_since(&self, since: Ticks, timeout: Duration) -> Result<Space, CollectError> {
        let mut state = self.lock();
        let asked = match state.asked {
            Some(asked) if asked.elapsed() >= timeout => return Err(self.hung(asked)),
            Some(asked) => asked,
            None => {
                self.spawn_question().map_err(|source| CollectError::Unreadable {
                    path: self.path.clone(),
                    source,
                })?;
                *state.asked.insert(since)
            }
        };
        // In pieces: a machine that stands still uses up one of them only, and then the question still has time.
        let piece = timeout / WAIT_PIECES;
        let mut waited = Duration::ZERO;
        loop {
            if let Some((at, answer)) = state.answer
                && at >= asked
            {
                return self.told(answer);
            }
            let left = piece.min(timeout.saturating_sub(waited));
            if left.is_zero() {
                return Err(self.hung(asked));
            }
            let began = clock::ticks();
            state = self
                .shared
                .answered
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            waited += began.elapsed().min(left);
        }
    }

    fn spawn_question(&self) -> std::io::Result<()> {
        let (path, shared) = (self.path.clone(), Arc::clone(&self.shared));
        std::thread::Builder::new()
            .name("statvfs".to_owned())
            .stack_size(QUESTION_STACK_BYTES)
            .spawn(move || {
                let answer = statvfs(&path);
                let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
                state.asked = None;
                state.answer = Some((clock::ticks(), answer));
                shared.answered.notify_all();
            })?;
        Ok(())
    }

    fn told(&self, answer: Result<Space, Errno>) -> Result<Space, CollectError> {
        answer.map_err(|errno| CollectError::Unreadable {
            path: self.path.clone(),
            source: errno.into(),
        })
    }

    fn hung(&self, asked: Ticks) -> CollectError {
        CollectError::Hung { path: self.path.clone(), waited: asked.elapsed() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One question, for as long as the filesystem takes.
pub(crate) fn statvfs(path: &std::path::Path) -> Result<Space, Errno> {
    rustix::fs::statvfs(path).map(|vfs| Space::of(&vfs))
}

impl Space {
    /// From `statvfs`' answer.
    #[must_use]
    pub fn of(vfs: &rustix::fs::StatVfs) -> Self {
        Self {
            size_bytes: vfs.f_blocks.saturating_mul(vfs.f_frsize),
            free_bytes: vfs.f_bfree.saturating_mul(vfs.f_frsize),
            avail_bytes: vfs.f_bavail.saturating_mul(vfs.f_frsize),
            inodes: vfs.f_files,
            inodes_free: vfs.f_ffree,
            readonly: vfs.f_flag.contains(StatVfsMountFlags::RDONLY),
        }
    }

    /// `df`'s Use%, 0 to 1: used of what is used or available, so that the part reserved for root is neither. `None` for a
    /// filesystem without blocks.
    #[must_use]
    pub fn used_ratio(&self) -> Option<f64> {
        let used = self.size_bytes.saturating_sub(self.free_bytes);
        let all = used.checked_add(self.avail_bytes).filter(|all| *all > 0)?;
        Some(used as f64 / all as f64)
    }
}

const QUESTION_STACK_BYTES: usize = 64 * 1024;
const WAIT_PIECES: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_answers_and_a_missing_one_is_an_error_not_a_hang() {
        let here = Device::new("/".into());
        assert!(here.ask(Duration::from_secs(5)).unwrap().size_bytes > 0);
        assert!(here.ask_recent(Duration::from_mins(1), Duration::ZERO).is_ok());
        let gone = Device::new("/does/not/exist".into());
        assert!(matches!(gone.ask(Duration::from_secs(5)), Err(CollectError::Unreadable { .. })));
    }

    #[test]
    fn while_a_question_is_stuck_no_other_is_asked() {
        let device = Device::new("/".into());
        device.lock().asked = Some(clock::ticks());
        assert!(matches!(device.ask(Duration::from_millis(10)), Err(CollectError::Hung { .. })));
        assert!(matches!(device.ask(Duration::ZERO), Err(CollectError::Hung { .. })));
        assert!(device.lock().answer.is_none(), "no thread was started");
    }

    const EMPTY: Space = Space {
        size_bytes: 0,
        free_bytes: 0,
        avail_bytes: 0,
        inodes: 0,
        inodes_free: 0,
        readonly: false,
    };

    #[test]
    fn a_filesystem_without_blocks_or_with_absurd_numbers_is_not_full() {
        assert_eq!(EMPTY.used_ratio(), None);
        let free = Space { free_bytes: u64::MAX, avail_bytes: u64::MAX, ..EMPTY };
        assert_eq!(free.used_ratio(), Some(0.0));
        let absurd = Space { size_bytes: u64::MAX, avail_bytes: u64::MAX, ..EMPTY };
        assert_eq!(absurd.used_ratio(), None, "more bytes than can be counted");
    }

    #[test]
    fn the_part_reserved_for_root_is_neither_used_nor_available() {
        let space = Space { size_bytes: 100, free_bytes: 30, avail_bytes: 25, ..EMPTY };
        assert_eq!(space.used_ratio(), Some(70.0 / 95.0));
    }
}
