//! The same walk on two threads: one hands the other half of what lies before it whenever that has nothing to do.

use std::{
    io,
    ops::{ControlFlow, Range},
    path::Path,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{Bounds, Entry, Folder, NAMES_BYTES, Problem, Summary, Walk};

/// Is told an entry and what was prepared for it.
pub type PreparedVisitor<'a, T> =
    dyn FnMut(Result<(Entry<'_>, T), Problem>) -> ControlFlow<()> + Send + 'a;

/// As [`super::walk`], on two threads when there is enough to do, in an order of its own: a folder still comes before
/// what is in it. `prepare` runs on either thread for each entry; `visit` runs on one at a time and is given what
/// `prepare` gave. Near the bound of entries some dozens fewer may be told.
pub fn walk_on_two_threads<T: Send>(
    root: &Path,
    bounds: Bounds,
    prepare: &(dyn Fn(&Entry<'_>) -> T + Sync),
    visit: &mut PreparedVisitor<'_, T>,
) -> io::Result<Summary> {
    let walk = Walk::start(root, bounds)?;
    let shared = Shared {
        visit: Mutex::new(visit),
        prepare,
        stop: AtomicBool::new(false),
        hungry: AtomicBool::new(false),
        exchange: Mutex::new(Exchange { task: None, waiting: 0, workers: 1 }),
        changed: Condvar::new(),
    };
    let summary = std::thread::scope(|scope| {
        let mut helper = None;
        let mut alone = true;
        let mut summary = shared.work(Some(walk), &mut |told| {
            if alone && told > ALONE_MAX {
                alone = false;
                shared.lock().workers += 1;
                let thread = std::thread::Builder::new().name("walk".to_owned());
                let spawned = thread.spawn_scoped(scope, || {
                    let _leave = Leave(&shared);
                    shared.work(None, &mut |_| {})
                });
                match spawned {
                    Ok(spawned) => helper = Some(spawned),
                    Err(_) => shared.lock().workers -= 1, // no thread to be had: one does it all
                }
            }
        });
        if let Some(helper) = helper {
            match helper.join() {
                Ok(other) => summary = merge(summary, other),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        summary
    });
    Ok(summary)
}

struct Shared<'a, T> {
    visit: Mutex<&'a mut PreparedVisitor<'a, T>>,
    prepare: &'a (dyn Fn(&Entry<'_>) -> T + Sync),
    stop: AtomicBool,
    /// Whether a thread waits for work; only a hint, the exchange knows.
    hungry: AtomicBool,
    exchange: Mutex<Exchange>,
    changed: Condvar,
}

struct Exchange {
    task: Option<Walk>,
    waiting: usize,
    workers: usize,
}

/// A thread that ends, even by a panic, must not be waited for.
struct Leave<'a, 'b, T>(&'a Shared<'b, T>);

impl<T> Drop for Leave<'_, '_, T> {
    fn drop(&mut self) {
        self.0.lock().workers -= 1;
        self.0.changed.notify_all();
    }
}

impl<T> Shared<'_, T> {
    fn lock(&self) -> MutexGuard<'_, Exchange> {
        self.exchange.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Walks `first`, then what the other thread hands over, until nobody has anything left.
    fn work(&self, first: Option<Walk>, progress: &mut dyn FnMut(u64)) -> Summary {
        let mut total = Summary::default();
        let mut next = first;
        let mut prepared = Vec::new();
        while let Some(mut walk) = next.or_else(|| self.wait()) {
            while !self.stop.load(Ordering::Relaxed)
                && self.step(&mut walk, &mut prepared).is_continue()
            {
                progress(total.entries + walk.summary.entries);
                if self.hungry.load(Ordering::Relaxed) {
                    self.hand_over(&mut walk);
                }
            }
            if walk.summary.stopped || walk.summary.truncated {
                self.stop.store(true, Ordering::Relaxed);
            }
            total = merge(total, walk.summary);
            next = None;
        }
        total
    }

    fn step(&self, walk: &mut Walk, prepared: &mut Vec<T>) -> ControlFlow<()> {
        walk.find()?;
        if walk.batch.is_empty() && walk.problems.is_empty() {
            return ControlFlow::Continue(());
        }
        prepared.clear();
        walk.each(|entry| prepared.push((self.prepare)(&entry)));
        let mut prepared = prepared.drain(..);
        let mut visit = self.visit.lock().unwrap_or_else(PoisonError::into_inner);
        walk.tell(&mut |found| match found {
            Ok(entry) => match prepared.next() {
                Some(prepared) => visit(Ok((entry, prepared))),
                None => ControlFlow::Continue(()), // one was prepared for each
            },
            Err(problem) => visit(Err(problem)),
        })
    }

    fn hand_over(&self, walk: &mut Walk) {
        let mut exchange = self.lock();
        if exchange.task.is_none()
            && exchange.waiting > 0
            && let Some(half) = walk.split()
        {
            exchange.task = Some(half);
            self.hungry.store(false, Ordering::Relaxed);
            self.changed.notify_all();
        }
    }

    /// Waits for work; `None` when no thread has any.
    fn wait(&self) -> Option<Walk> {
        let mut exchange = self.lock();
        exchange.waiting += 1;
        loop {
            if let Some(task) = exchange.task.take() {
                exchange.waiting -= 1;
                return Some(task);
            }
            if exchange.waiting >= exchange.workers {
                self.changed.notify_all();
                return None;
            }
            self.hungry.store(true, Ordering::Relaxed);
            exchange = self.changed.wait(exchange).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Walk {
    /// Gives away half of what lies ahead, as near to the top as it can.
    fn split(&mut self) -> Option<Self> {
        for level in 0..self.stack.len() {
            let path_len = self.stack.get(level + 1).map_or(self.path.len(), |f| f.parent_len);
            let folder = &mut self.stack[level];
            let given = folder.split_names().or_else(|| folder.split_folders());
            if let Some(given) = given {
                return Some(Self {
                    limits: Arc::clone(&self.limits),
                    stack: vec![given],
                    path: self.path[..path_len].to_vec(),
                    batch: Vec::new(),
                    problems: Vec::new(),
                    scratch: Vec::with_capacity(NAMES_BYTES),
                    spare: Vec::new(),
                    summary: Summary::default(),
                });
            }
        }
        None
    }
}

impl Folder {
    /// The second half of the names that were not looked at yet.
    fn split_names(&mut self) -> Option<Self> {
        let middle = self.at + (self.names.len() - self.at) / 2;
        if middle - self.at < SPLIT_BYTES_MIN {
            return None;
        }
        let end = middle + self.names[middle..].iter().position(|b| *b == 0)? + 1;
        let names = self.names.split_off(end);
        Some(Self { names, at: 0, folders: Vec::new(), ..self.shared() })
    }

    /// Half of the folders that were not entered yet.
    fn split_folders(&mut self) -> Option<Self> {
        if self.folders.len() < 2 {
            return None;
        }
        let mut names = Vec::new();
        let copy = |range: Range<usize>| {
            let start = names.len();
            names.extend_from_slice(&self.names[range]);
            names.push(0);
            start..names.len() - 1
        };
        let folders = self.folders.drain(..self.folders.len() / 2).map(copy).collect();
        Some(Self { at: names.len(), names, folders, ..self.shared() })
    }

    /// The same directory with nothing to do in it.
    fn shared(&self) -> Self {
        Self {
            directory: Arc::clone(&self.directory),
            parent_len: 0,
            depth: self.depth,
            names: Vec::new(),
            at: 0,
            folders: Vec::new(),
            more: false,
        }
    }
}

fn merge(one: Summary, other: Summary) -> Summary {
    Summary {
        entries: one.entries + other.entries,
        problems: one.problems + other.problems,
        vanished: one.vanished + other.vanished,
        other_filesystems: one.other_filesystems + other.other_filesystems,
        too_deep: one.too_deep + other.too_deep,
        truncated: one.truncated || other.truncated,
        stopped: one.stopped || other.stopped,
    }
}

/// A second thread costs more than it saves below this many entries.
const ALONE_MAX: u64 = 500;

/// Less than some dozens of names are not worth handing over.
const SPLIT_BYTES_MIN: usize = 512;

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, sync::atomic::AtomicU64, time::Duration};

    use rustix::io::Errno;

    use super::*;
    use crate::host::walk::{DEPTH_MAX, walk};

    const WIDE: Bounds = Bounds { entries_max: 1_000_000, depth_max: DEPTH_MAX };

    /// Trees of different shapes, each with more entries than one thread does alone.
    fn trees() -> Vec<(&'static str, tempfile::TempDir)> {
        let new = || tempfile::tempdir().unwrap();
        let (flat, folders, lopsided) = (new(), new(), new());
        for file in 0..5_000 {
            fs::write(flat.path().join(format!("{file:x}")), b"").unwrap();
        }
        for folder in 0..800 {
            let folder = folders.path().join(format!("{folder:0>36}"));
            fs::create_dir(&folder).unwrap();
            for file in 0..5 {
                fs::write(folder.join(file.to_string()), b"").unwrap();
            }
        }
        let mut deep = lopsided.path().to_owned();
        for level in 0..30 {
            for file in 0..150 {
                fs::write(deep.join(format!("{level}-{file}")), b"").unwrap();
            }
            deep.push("next");
            fs::create_dir(&deep).unwrap();
        }
        vec![("flat", flat), ("folders", folders), ("lopsided", lopsided)]
    }

    #[test]
    fn two_threads_tell_what_one_does() {
        for (name, tree) in trees() {
            let mut alone = BTreeMap::new();
            let summary = walk(tree.path(), WIDE, &mut |found| {
                let entry = found.unwrap();
                alone.insert(entry.path.to_vec(), *entry.meta);
                ControlFlow::Continue(())
            })
            .unwrap();
            for _ in 0..10 {
                let mut told = BTreeMap::new();
                let both = walk_on_two_threads(
                    tree.path(),
                    WIDE,
                    &|entry| entry.path.len(),
                    &mut |found| {
                        let (entry, prepared) = found.unwrap();
                        assert_eq!(prepared, entry.path.len());
                        let folder_known = entry.depth == 0 || told.contains_key(entry.folder());
                        assert!(folder_known, "a folder comes before what is in it");
                        assert!(told.insert(entry.path.to_vec(), *entry.meta).is_none());
                        ControlFlow::Continue(())
                    },
                )
                .unwrap();
                assert_eq!(both, summary, "{name}");
                assert_eq!(told, alone, "{name}");
            }
        }
    }

    #[test]
    fn bounds_and_stops_end_both_threads() {
        let (_, tree) = trees().remove(1);
        for stop_at in [1, 3_000] {
            let mut told = 0;
            let summary = walk_on_two_threads(tree.path(), WIDE, &|_| {}, &mut |_| {
                told += 1;
                if told >= stop_at { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .unwrap();
            assert!(summary.stopped);
            assert!(told <= stop_at + 1, "{told}: at most one more entry of the other thread");
        }
        let bounds = Bounds { entries_max: 3_000, ..WIDE };
        let summary =
            walk_on_two_threads(tree.path(), bounds, &|_| {}, &mut |_| ControlFlow::Continue(()))
                .unwrap();
        assert!(summary.truncated);
        assert!((2_800..=3_000).contains(&summary.entries), "{}", summary.entries);
    }

    #[test]
    fn a_panic_on_either_thread_comes_out_and_hangs_nobody() {
        let (_, tree) = trees().remove(1);
        let main = std::thread::current().id();
        for helper in [false, true] {
            let (told, came) = (AtomicU64::new(0), AtomicBool::new(false));
            let panicked = std::panic::catch_unwind(|| {
                walk_on_two_threads(
                    tree.path(),
                    WIDE,
                    &|_| {
                        let helps = std::thread::current().id() != main;
                        came.fetch_or(helps, Ordering::Relaxed);
                        assert!(helps != helper, "wanted");
                        // Leaves something over for the other thread, however late it begins.
                        let alone = told.fetch_add(1, Ordering::Relaxed) > ALONE_MAX;
                        if alone && !came.load(Ordering::Relaxed) {
                            std::thread::sleep(Duration::from_millis(1));
                        }
                    },
                    &mut |_| ControlFlow::Continue(()),
                )
            });
            assert!(panicked.is_err());
        }
    }

    #[test]
    fn problems_of_both_are_told() {
        let (_, tree) = trees().remove(1);
        let file = tree.path().join("plain");
        fs::write(&file, b"").unwrap();
        let refused = walk_on_two_threads(&file, WIDE, &|_| {}, &mut |_| ControlFlow::Continue(()));
        assert_eq!(Errno::from_io_error(&refused.unwrap_err()), Some(Errno::NOTDIR));
    }
}
