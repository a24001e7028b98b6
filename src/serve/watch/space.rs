//! Notices that a filesystem fills up. The kernel tells nobody when somebody else takes the space of a store, and `statvfs` of a
//! local filesystem takes half a microsecond: one thread asks each of them a few times a second, and wakes whoever waits for
//! [`Wake::SPACE`] when enough has changed. Like every event it is a hint; the collector looks for itself.

use std::{
    collections::BTreeMap,
    io,
    ops::Bound,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{Wake, WakeSlot};
use crate::store::{
    device::{is_local, statvfs},
    space::Space,
};

/// The filesystems of the stores that are watched. The thread ends when this is dropped.
#[derive(Debug, Default)]
pub(super) struct SpaceWatch {
    shared: Arc<Shared>,
}

/// One store's share in it; dropping it ends that.
#[derive(Debug)]
pub(super) struct Registered {
    shared: Arc<Shared>,
    place: Place,
}

/// Filesystem, and number of the registration.
type Place = (u64, u64);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    stores: BTreeMap<Place, (PathBuf, Vec<Arc<WakeSlot>>)>,
    /// What was last told of each filesystem.
    reported: BTreeMap<u64, Level>,
    next: u64,
    running: bool,
    closed: bool,
}

/// As much of a filesystem's state as somebody is woken for.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Level {
    /// Used share of its bytes and of its inodes, 0 to 1; zero where there is no limit.
    ratios: [f64; 2],
    readonly: bool,
}

impl SpaceWatch {
    /// Watches the filesystem `device` of the directory `dir`, which answers now. `None` for a filesystem that may hang.
    /// Errs when the kernel does not watch it.
    pub(super) fn add(
        &self,
        dir: &Path,
        device: u64,
        slots: &[Arc<WakeSlot>],
    ) -> io::Result<Option<Registered>> {
        if !is_local(dir)? {
            return Ok(None);
        }
        let mut state = self.shared.lock();
        let place = (device, state.next);
        state.next += 1;
        state.stores.insert(place, (dir.to_owned(), slots.to_vec()));
        // Whoever looked before it was registered must look once more.
        state.reported.remove(&device);
        if !state.running {
            let shared = Arc::clone(&self.shared);
            thread::Builder::new()
                .name("space".to_owned())
                .stack_size(STACK_BYTES)
                .spawn(move || shared.ask_on())?;
            state.running = true;
        }
        drop(state);
        self.shared.changed.notify_all();
        Ok(Some(Registered { shared: Arc::clone(&self.shared), place }))
    }
}

impl Drop for SpaceWatch {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.stores.remove(&self.place);
        let State { stores, reported, .. } = &mut *state;
        reported
            .retain(|device, _| stores.range((*device, 0)..=(*device, u64::MAX)).next().is_some());
    }
}

impl Shared {
    fn ask_on(&self) {
        loop {
            let mut state = self.lock();
            while state.stores.is_empty() && !state.closed {
                self.changed.wait(&mut state);
            }
            if state.closed {
                return;
            }
            // Asked without the lock: a device may fail slowly.
            let asked = state.one_of_each();
            drop(state);
            for (device, dir) in asked {
                if let Ok(space) = statvfs(&dir) {
                    self.lock().note(device, Level::of(&space));
                }
            }
            thread::sleep(ASK_EVERY);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    /// One directory of each filesystem is enough, and is found without a look at every store: there may be a thousand.
    fn one_of_each(&self) -> Vec<(u64, PathBuf)> {
        let mut asked = Vec::new();
        let mut rest = self.stores.range(..);
        while let Some(((device, _), (dir, _))) = rest.next() {
            asked.push((*device, dir.clone()));
            let past = (Bound::Excluded((*device, u64::MAX)), Bound::Unbounded);
            rest = self.stores.range(past);
        }
        asked
    }

    fn note(&mut self, device: u64, now: Level) {
        if self.reported.get(&device).is_some_and(|reported| !reported.moved(&now)) {
            return;
        }
        self.reported.insert(device, now);
        let stores = self.stores.range((device, 0)..=(device, u64::MAX));
        for slot in stores.flat_map(|(_, (_, slots))| slots) {
            slot.add(Wake::SPACE);
        }
    }
}

impl Level {
    fn of(space: &Space) -> Self {
        let inodes = match space.inodes {
            0 => 0.0,
            all => 1.0 - space.inodes_free as f64 / all as f64,
        };
        Self { ratios: [space.used_ratio().unwrap_or_default(), inodes], readonly: space.readonly }
    }

    /// Whether somebody should look: half a percentage point more or less, or another whole percentage point, since the levels
    /// of rules are such. A share that sways around one by less than a hundredth of a point wakes nobody.
    fn moved(&self, now: &Self) -> bool {
        let percent = |ratio: f64| (ratio * 100.0).floor();
        let moved = |before: f64, now: f64| {
            let by = (now - before).abs();
            by >= 0.005 || (by >= 0.0001 && (percent(before) - percent(now)).abs() >= 1.0)
        };
        let [bytes, inodes] = self.ratios;
        self.readonly != now.readonly || moved(bytes, now.ratios[0]) || moved(inodes, now.ratios[1])
    }
}

/// Half of it is what a store waits on average.
const ASK_EVERY: Duration = Duration::from_millis(150);

const STACK_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn level(bytes: f64, inodes: f64, readonly: bool) -> Level {
        Level { ratios: [bytes, inodes], readonly }
    }

    #[test]
    fn somebody_is_woken_at_each_percent_and_not_by_swaying() {
        for (before, now, moved) in [
            (level(0.7999, 0.0, false), level(0.8001, 0.0, false), true),
            (level(0.8001, 0.0, false), level(0.7999, 0.0, false), true),
            (level(0.799_96, 0.0, false), level(0.800_01, 0.0, false), false),
            (level(0.801, 0.0, false), level(0.8055, 0.0, false), false),
            (level(0.801, 0.0, false), level(0.806, 0.0, false), true),
            (level(0.5, 0.0, false), level(0.5, 0.0, true), true),
            (level(0.5, 0.949, false), level(0.5, 0.951, false), true),
            (level(0.0, 0.0, false), level(0.0, 0.0, false), false),
        ] {
            assert_eq!(before.moved(&now), moved, "{before:?} {now:?}");
        }
    }

    #[test]
    fn the_stores_of_the_filesystem_that_moved_are_woken_and_no_others() {
        let mut state = State::default();
        let slots = [(1, 0), (1, 1), (2, 2)].map(|place| {
            let slot = WakeSlot::new(Wake::SPACE);
            state.stores.insert(place, (PathBuf::new(), vec![Arc::clone(&slot)]));
            slot
        });
        let woken =
            |slots: &[Arc<WakeSlot>; 3]| slots.each_ref().map(|slot| !slot.take().is_empty());
        state.note(1, level(0.5, 0.0, false));
        assert_eq!(woken(&slots), [true, true, false], "what changed before is not known");
        state.note(1, level(0.5001, 0.0, false));
        assert_eq!(woken(&slots), [false; 3]);
        state.note(1, level(0.9, 0.0, false));
        assert_eq!(woken(&slots), [true, true, false]);
        state.note(2, level(0.9, 0.0, false));
        assert_eq!(woken(&slots), [false, false, true]);
        let asked: Vec<u64> = state.one_of_each().into_iter().map(|(device, _)| device).collect();
        assert_eq!(asked, [1, 2], "each filesystem once");
    }

    #[test]
    fn what_is_no_longer_watched_is_not_asked() {
        let dir = tempfile::tempdir().unwrap();
        let watch = SpaceWatch::default();
        let slot = WakeSlot::new(Wake::SPACE);
        // The filesystem of temporary files may be of any kind.
        let Some(registered) = watch.add(dir.path(), 7, &[slot]).unwrap() else { return };
        assert_eq!(watch.shared.lock().stores.len(), 1);
        drop(registered);
        assert!(watch.shared.lock().stores.is_empty());
    }
}
