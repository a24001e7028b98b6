//! File events: a hint, never a fact. They only bring the next turn of a collector forward; a full look happens anyway,
//! so a lost event delays and hides nothing.

use std::{
    fmt,
    ops::BitOr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, MetadataKind, ModifyKind},
};
use tokio::sync::Notify;

use crate::store::DATABASE_FILE;

/// A set of kinds of file events.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Wake(u8);

impl Wake {
    /// Nothing happened.
    pub const NONE: Self = Self(0);
    /// Bytes of the database or a segment changed.
    pub const DATA: Self = Self(1);
    /// An entry appeared, vanished or was renamed.
    pub const NAMES: Self = Self(2);
    /// Owner or mode of an entry changed.
    pub const ATTRIBUTES: Self = Self(4);
    /// Somebody opened the database.
    pub const OPENED: Self = Self(8);
    /// The journal came, changed or went.
    pub const JOURNAL: Self = Self(16);
    /// Events were lost, or the directory itself was exchanged: look at everything.
    pub const RESCAN: Self = Self(32);

    /// Whether the sets share a kind.
    #[must_use]
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Wake {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for Wake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = ["data", "names", "attributes", "opened", "journal", "rescan"];
        f.debug_set()
            .entries(
                names
                    .iter()
                    .enumerate()
                    .filter(|(bit, _)| self.0 & (1 << bit) != 0)
                    .map(|(_, n)| n),
            )
            .finish()
    }
}

/// What one collector waits on.
#[derive(Debug)]
pub struct WakeSlot {
    mask: Wake,
    pending: AtomicU8,
    notify: Notify,
}

impl WakeSlot {
    /// A slot for the events in `mask`; lost events always reach it when it waits for any.
    #[must_use]
    pub fn new(mask: Wake) -> Arc<Self> {
        let mask = if mask.is_empty() { mask } else { mask | Wake::RESCAN };
        Arc::new(Self { mask, pending: AtomicU8::new(0), notify: Notify::new() })
    }

    /// Adds events; those outside the mask are dropped.
    pub fn add(&self, wake: Wake) {
        let wanted = wake.0 & self.mask.0;
        if wanted != 0 && self.pending.fetch_or(wanted, Ordering::AcqRel) == 0 {
            self.notify.notify_one();
        }
    }

    /// Takes what has come so far.
    #[must_use]
    pub fn take(&self) -> Wake {
        Wake(self.pending.swap(0, Ordering::AcqRel))
    }

    /// Waits until something has come.
    pub async fn wait(&self) {
        while self.pending.load(Ordering::Acquire) == 0 {
            self.notify.notified().await;
        }
    }
}

/// The events of one persist directory, handed to the slots of its collectors. Dropping it ends the watch.
#[derive(Debug)]
pub struct StoreWatch {
    _watcher: RecommendedWatcher,
}

impl StoreWatch {
    /// Watches `dir` and the segment folders below it. Errs when the directory cannot be watched: it is missing, or the
    /// host's limit of inotify instances or watches is reached.
    pub fn start(dir: &Path, slots: Vec<Arc<WakeSlot>>) -> notify::Result<Self> {
        let root = dir.to_owned();
        let handler = move |event: notify::Result<Event>| {
            let wake = event.map_or(Wake::RESCAN, |event| classify(&event, &root));
            for slot in &slots {
                slot.add(wake);
            }
        };
        // A link out of the directory must not make us watch a whole disk.
        let mut watcher = RecommendedWatcher::new(
            handler,
            notify::Config::default().with_follow_symlinks(false),
        )?;
        if let Err(error) = watcher.watch(dir, RecursiveMode::Recursive) {
            tracing::debug!(%error, dir = %dir.display(), "Folders cannot be watched, trying the directory alone.");
            watcher.watch(dir, RecursiveMode::NonRecursive)?;
        }
        Ok(Self { _watcher: watcher })
    }
}

/// What an event of the directory `root` means.
fn classify(event: &Event, root: &Path) -> Wake {
    if event.need_rescan() {
        return Wake::RESCAN;
    }
    let about = |test: &dyn Fn(&str) -> bool| {
        event.paths.iter().filter_map(|p| p.file_name()?.to_str()).any(test)
    };
    let exchanged =
        matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)))
            && event.paths.iter().any(|p| p == root);
    if exchanged {
        return Wake::RESCAN;
    }
    if about(&|name| {
        name.strip_prefix(DATABASE_FILE)
            .is_some_and(|rest| matches!(rest, "-journal" | "-wal" | "-shm"))
    }) {
        return match event.kind {
            EventKind::Access(AccessKind::Open(_) | AccessKind::Read) => Wake::NONE,
            EventKind::Modify(ModifyKind::Metadata(kind)) if kind != MetadataKind::WriteTime => {
                Wake::JOURNAL | Wake::ATTRIBUTES
            }
            _ => Wake::JOURNAL,
        };
    }
    match event.kind {
        EventKind::Access(AccessKind::Open(_)) if about(&|name| name == DATABASE_FILE) => {
            Wake::OPENED
        }
        EventKind::Create(_) | EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)) => {
            Wake::NAMES | Wake::DATA
        }
        EventKind::Modify(ModifyKind::Metadata(_)) => Wake::ATTRIBUTES,
        EventKind::Modify(_) => Wake::DATA,
        _ => Wake::NONE,
    }
}

/// A watch of one file by its directory, so that editors and `ConfigMap` volumes that replace it are seen too. Dropping
/// it ends the watch.
#[derive(Debug)]
pub struct FileWatch {
    _watcher: RecommendedWatcher,
}

impl FileWatch {
    /// Tells `changed` after anything happened in the directory of `file`; the caller compares the content.
    pub fn start(file: &Path, changed: Arc<Notify>) -> notify::Result<Self> {
        let dir = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.map_or(true, |e| {
                !matches!(e.kind, EventKind::Access(AccessKind::Open(_) | AccessKind::Read))
            }) {
                changed.notify_one();
            }
        })?;
        watcher.watch(dir, RecursiveMode::NonRecursive)?;
        Ok(Self { _watcher: watcher })
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

    use super::*;

    /// Waits until every kind in `want` has come to the slot; gives what came.
    fn collect(slot: &WakeSlot, want: Wake) -> Wake {
        let mut seen = Wake::NONE;
        for _ in 0..500 {
            seen = seen | slot.take();
            if seen.0 & want.0 == want.0 {
                return seen;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{want:?} did not come, only {seen:?}");
    }

    #[test]
    fn each_change_wakes_those_who_asked_for_its_kind() {
        let dir = tempfile::tempdir().unwrap();
        let segment = dir.path().join("7a7a");
        fs::create_dir(&segment).unwrap();
        let database = dir.path().join(DATABASE_FILE);
        fs::write(&database, "x").unwrap();
        let all = WakeSlot::new(Wake(0xff));
        let only_opened = WakeSlot::new(Wake::OPENED);
        let _watch =
            StoreWatch::start(dir.path(), vec![Arc::clone(&all), Arc::clone(&only_opened)])
                .unwrap();
        assert_eq!(all.take(), Wake::NONE);

        drop(fs::File::open(&database).unwrap());
        collect(&all, Wake::OPENED);
        fs::set_permissions(&database, fs::Permissions::from_mode(0o600)).unwrap();
        collect(&all, Wake::ATTRIBUTES);
        fs::write(segment.join("header.bin"), "y").unwrap();
        collect(&all, Wake::NAMES | Wake::DATA);
        let journal = dir.path().join("chroma.sqlite3-journal");
        fs::write(&journal, "z").unwrap();
        // The last write of the file before may still be on its way.
        let seen = collect(&all, Wake::JOURNAL);
        assert!(!seen.meets(Wake::NAMES), "a journal is no new name for the permissions walk");
        fs::remove_file(&journal).unwrap();
        collect(&all, Wake::JOURNAL);
        assert_eq!(only_opened.take(), Wake::OPENED);
        fs::remove_dir_all(dir.path()).unwrap();
        collect(&all, Wake::RESCAN);
    }

    #[test]
    fn a_link_out_of_the_directory_is_not_followed() {
        let outside = tempfile::tempdir().unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("link")).unwrap();
        let slot = WakeSlot::new(Wake(0xff));
        let _watch = StoreWatch::start(dir.path(), vec![Arc::clone(&slot)]).unwrap();
        fs::write(outside.path().join("file"), "x").unwrap();
        fs::write(dir.path().join("marker"), "x").unwrap();
        let seen = collect(&slot, Wake::NAMES);
        assert!(seen.meets(Wake::NAMES));
        fs::set_permissions(outside.path().join("file"), fs::Permissions::from_mode(0o600))
            .unwrap();
        fs::write(dir.path().join("marker"), "y").unwrap();
        assert!(!collect(&slot, Wake::DATA).meets(Wake::ATTRIBUTES));
    }

    #[test]
    fn a_replaced_file_is_noticed_by_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.yml");
        fs::write(&file, "a").unwrap();
        let changed = Arc::new(Notify::new());
        let _watch = FileWatch::start(&file, Arc::clone(&changed)).unwrap();
        let next = dir.path().join("next");
        fs::write(&next, "b").unwrap();
        fs::rename(&next, &file).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(10), changed.notified())
                .await
                .expect("an event");
        });
    }
}
