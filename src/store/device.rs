//! Asks the filesystem of a store whether it answers, with a deadline. A dead NFS or FUSE mount blocks `statvfs` for
//! ever; one thread waits for it, everybody else is told at once and touches nothing. A filesystem that answered from
//! memory the last time is asked without a thread of its own: that takes a microsecond, a thread takes fifty.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::io::Errno;
use tokio::sync::Notify;

use super::space::Space;
use crate::{
    clock::{self, Ticks},
    facts::error::CollectError,
};

/// The filesystem under one persist directory.
#[derive(Debug)]
pub struct Device {
    path: PathBuf,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    answered: Condvar,
    /// The same for those who wait without a thread.
    reported: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// When the one question on its way was asked.
    asked: Option<Ticks>,
    /// The newest answer and when it came.
    answer: Option<(Ticks, Result<Space, Errno>)>,
    /// Whether that came from a filesystem that has all answers in memory.
    local: bool,
}

impl Device {
    /// The filesystem under `path`. Touches nothing yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, shared: Arc::default() }
    }

    /// `statvfs` of the directory, waiting at most `timeout`. Callers at the same moment share one question, and while
    /// one is stuck no other is asked: a hung mount costs one thread. Errs when no answer came in time, or the kernel
    /// refused.
    pub fn ask(&self, timeout: Duration) -> Result<Space, CollectError> {
        self.ask_since(clock::ticks(), timeout)
    }

    /// The same, content with an answer not older than `max_age`. Errs alike.
    pub fn ask_recent(&self, max_age: Duration, timeout: Duration) -> Result<Space, CollectError> {
        let now = clock::ticks();
        let recent = self.lock().recent(now, max_age);
        match recent {
            Some(answer) => self.checked(answer),
            None => self.ask_since(now, timeout),
        }
    }

    /// Waits, without a thread that does, until [`Self::ask_recent`] with the same arguments need not wait: the filesystem
    /// has answered, or it has had its time.
    pub async fn ready(&self, max_age: Duration, timeout: Duration) {
        for _ in 0..=WAIT_PIECES {
            // Before the look: an answer in between wakes whoever has this.
            let reported = self.shared.reported.notified();
            if self.need_not_wait(max_age, timeout) {
                return;
            }
            drop(tokio::time::timeout(timeout / WAIT_PIECES, reported).await);
        }
    }

    fn need_not_wait(&self, max_age: Duration, timeout: Duration) -> bool {
        let now = clock::ticks();
        let mut state = self.lock();
        match state.asked {
            _ if state.recent(now, max_age).is_some() => true,
            Some(asked) => asked.elapsed() >= timeout,
            None if state.local => true,
            None => {
                let asks = self.spawn_question().is_ok();
                state.asked = asks.then_some(now);
                !asks // whoever asks next is told why
            }
        }
    }

    fn ask_since(&self, since: Ticks, timeout: Duration) -> Result<Space, CollectError> {
        let mut state = self.lock();
        let asked = match state.asked {
            Some(asked) if asked.elapsed() >= timeout => return Err(self.hung(asked)),
            Some(asked) => asked,
            None if state.local => {
                state.asked = Some(since);
                drop(state);
                // Should it hang after all, because something else is mounted there by now, that costs this thread, and
                // everybody else is told.
                return self.checked(self.shared.answer(&self.path));
            }
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
                return self.checked(answer);
            }
            let left = piece.min(timeout.saturating_sub(waited));
            if left.is_zero() {
                return Err(self.hung(asked));
            }
            let began = clock::ticks();
            self.shared.answered.wait_for(&mut state, left);
            waited += began.elapsed().min(left);
        }
    }

    fn spawn_question(&self) -> std::io::Result<()> {
        let (path, shared) = (self.path.clone(), Arc::clone(&self.shared));
        std::thread::Builder::new()
            .name("statvfs".to_owned())
            .stack_size(QUESTION_STACK_BYTES)
            .spawn(move || shared.answer(&path))?;
        Ok(())
    }

    fn checked(&self, answer: Result<Space, Errno>) -> Result<Space, CollectError> {
        answer.map_err(|errno| CollectError::Unreadable {
            path: self.path.clone(),
            source: errno.into(),
        })
    }

    fn hung(&self, asked: Ticks) -> CollectError {
        CollectError::Hung { path: self.path.clone(), waited: asked.elapsed() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }
}

impl Shared {
    /// Asks on this thread, and tells everybody. Errs when the filesystem does.
    fn answer(&self, path: &Path) -> Result<Space, Errno> {
        let answer = statvfs(path);
        let local = answer.is_ok() && is_local(path).unwrap_or(false);
        let mut state = self.lock();
        *state = State { asked: None, answer: Some((clock::ticks(), answer)), local };
        drop(state);
        self.answered.notify_all();
        self.reported.notify_waiters();
        answer
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    fn recent(&self, now: Ticks, max_age: Duration) -> Option<Result<Space, Errno>> {
        self.answer.filter(|(at, _)| now.since(*at) <= max_age).map(|(_, answer)| answer)
    }
}

/// One question, for as long as the filesystem takes. Errs when the kernel does.
pub(crate) fn statvfs(path: &Path) -> Result<Space, Errno> {
    rustix::fs::statvfs(path).map(|vfs| Space::of(&vfs))
}

/// Whether the filesystem at `path` answers from memory. Waits for it. Errs when the kernel does.
pub(crate) fn is_local(path: &Path) -> Result<bool, Errno> {
    let kind = rustix::fs::statfs(path)?.f_type;
    Ok(LOCAL.iter().any(|local| i64::from(*local) == kind))
}

/// Filesystems that answer from memory (statfs(2), linux/magic.h): ext4, XFS, Btrfs, tmpfs, overlay, F2FS, ZFS, bcachefs. All
/// others may wait for a network or a program.
const LOCAL: [u32; 8] = [
    0xEF53,
    0x5846_5342,
    0x9123_683E,
    0x0102_1994,
    0x794C_7630,
    0xF2F5_2010,
    0x2FC1_2FC1,
    0xCA45_1A4E,
];

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
    fn a_filesystem_that_may_hang_is_asked_by_a_thread_and_one_in_memory_by_the_caller() {
        // procfs is none of those that are known to answer.
        for (path, local) in [("/proc", false), ("/dev/shm", true)] {
            let device = Device::new(path.into());
            device.ask(SOON).unwrap();
            assert_eq!(device.lock().local, local, "{path}");
            assert_eq!(device.need_not_wait(Duration::ZERO, SOON), local, "{path}");
            device.ask(SOON).unwrap();
        }
    }

    #[test]
    fn waiting_for_an_answer_takes_no_thread_and_ends_in_time() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let device = Device::new("/proc".into());
            device.ready(Duration::from_mins(1), SOON).await;
            assert!(device.lock().answer.is_some(), "it waited for the answer");
            let stuck = Device::new("/proc".into());
            stuck.lock().asked = Some(clock::ticks());
            let timeout = Duration::from_millis(40);
            stuck.ready(Duration::ZERO, timeout).await;
            assert!(matches!(stuck.ask_recent(timeout, timeout), Err(CollectError::Hung { .. })));
            assert!(stuck.lock().answer.is_none(), "no thread was started");
        });
    }

    const SOON: Duration = Duration::from_secs(30);

    #[test]
    fn while_a_question_is_stuck_no_other_is_asked() {
        let device = Device::new("/".into());
        device.lock().asked = Some(clock::ticks());
        assert!(matches!(device.ask(Duration::from_millis(10)), Err(CollectError::Hung { .. })));
        assert!(matches!(device.ask(Duration::ZERO), Err(CollectError::Hung { .. })));
        assert!(device.lock().answer.is_none(), "no thread was started");
    }
}
