//! A bound on bytes between threads: whoever makes something waits until what was made before is used up.

use parking_lot::{Condvar, Mutex};

/// So many bytes may be on their way.
#[derive(Debug)]
pub(super) struct Room {
    bytes_max: usize,
    used: Mutex<Used>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Used {
    bytes: usize,
    closed: bool,
}

impl Room {
    pub(super) fn of(bytes_max: usize) -> Self {
        Self { bytes_max, used: Mutex::default(), changed: Condvar::new() }
    }

    /// Waits until there is room, and takes it. What is too large for any room goes when there is nothing else. `false` when nobody
    /// wants more.
    pub(super) fn take(&self, bytes: usize) -> bool {
        let mut used = self.used.lock();
        while !used.closed && used.bytes > 0 && used.bytes + bytes > self.bytes_max {
            self.changed.wait(&mut used);
        }
        used.bytes += bytes;
        !used.closed
    }

    /// Waits until all of it is used up. For whoever made what is too large for any room, before the next such thing is made.
    pub(super) fn wait_empty(&self) {
        let mut used = self.used.lock();
        while !used.closed && used.bytes > 0 {
            self.changed.wait(&mut used);
        }
    }

    /// So many bytes are used up.
    pub(super) fn give_back(&self, bytes: usize) {
        let mut used = self.used.lock();
        used.bytes = used.bytes.saturating_sub(bytes);
        self.changed.notify_one();
    }

    /// Nobody wants more: whoever waits goes on, and is told.
    pub(super) fn close(&self) {
        self.used.lock().closed = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn what_is_too_large_goes_alone_and_who_waits_is_told_of_the_end() {
        let room = Room::of(10);
        assert!(room.take(4) && room.take(6));
        thread::scope(|scope| {
            let waiting = scope.spawn(|| room.take(100));
            room.give_back(4);
            room.give_back(6);
            assert!(waiting.join().unwrap());
            let waiting = scope.spawn(|| room.wait_empty());
            room.give_back(100);
            waiting.join().unwrap();
            assert!(room.take(10));
            let waiting = scope.spawn(|| room.take(1));
            room.close();
            room.wait_empty();
            assert!(!waiting.join().unwrap());
        });
    }
}
