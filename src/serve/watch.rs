//! File events: a hint, never a fact. They only bring the next turn of a collector forward; a full look happens anyway,
//! so a lost event delays and hides nothing.

mod space;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        atomic::{AtomicU8, Ordering},
    },
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher,
    event::{AccessKind, AccessMode, MetadataKind, ModifyKind},
};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use self::space::{Registered, SpaceWatch};
pub use crate::facts::wake::Wake;
use crate::{format::sqlite::is_suffix, store::DATABASE_FILE};

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
        let wanted = wake.bits() & self.mask.bits();
        if wanted != 0 && self.pending.fetch_or(wanted, Ordering::AcqRel) == 0 {
            self.notify.notify_one();
        }
    }

    /// Takes what has come so far.
    #[must_use]
    pub fn take(&self) -> Wake {
        Wake::from_bits(self.pending.swap(0, Ordering::AcqRel))
    }

    /// Waits until something has come.
    pub async fn wait(&self) {
        while self.pending.load(Ordering::Acquire) == 0 {
            self.notify.notified().await;
        }
    }
}

/// The watches of all persist directories. Those of one filesystem share an inotify instance: a user may have 128 of them
/// (`fs.inotify.max_user_instances`), which two hundred stores would use up, and a filesystem that hangs holds up its own.
#[derive(Debug, Default)]
pub struct Watches {
    by_device: Mutex<BTreeMap<u64, Weak<Instance>>>,
    space: SpaceWatch,
}

/// One inotify instance with its thread.
#[derive(Debug)]
struct Instance {
    watcher: Mutex<RecommendedWatcher>,
    routes: Arc<Mutex<Routes>>,
}

/// Who wants the events below which directory.
#[derive(Debug, Default)]
struct Routes(BTreeMap<PathBuf, Vec<Arc<WakeSlot>>>);

/// The events of one persist directory, handed to the slots of its collectors. Dropping it ends that.
#[derive(Debug)]
pub struct StoreWatch {
    instance: Arc<Instance>,
    root: PathBuf,
    _space: Option<Registered>,
}

impl Watches {
    /// Watches `dir`, which lies on the filesystem `device` (`st_dev`), and the segment folders below it. Waits for that
    /// filesystem. Errs when the directory cannot be watched: it is missing, or the host's limit of inotify instances or
    /// watches is reached.
    pub fn start(
        &self,
        dir: &Path,
        device: u64,
        slots: Vec<Arc<WakeSlot>>,
    ) -> notify::Result<StoreWatch> {
        let space = self.space.add(dir, device, &slots).unwrap_or_else(|error| {
            tracing::debug!(%error, dir = %dir.display(), "Its free space is looked at in every turn only.");
            None
        });
        let instance = self.instance(dir, device)?;
        lock(&instance.routes).0.insert(dir.to_owned(), slots);
        let watch = StoreWatch { instance, root: dir.to_owned(), _space: space };
        let mut watcher = lock(&watch.instance.watcher);
        if let Err(error) = watcher.watch(dir, RecursiveMode::Recursive) {
            tracing::debug!(%error, dir = %dir.display(), "Folders cannot be watched, trying the directory alone.");
            watcher.watch(dir, RecursiveMode::NonRecursive)?;
        }
        drop(watcher);
        Ok(watch)
    }

    /// The instance of the filesystem, or one of its own for a directory within one that is watched, or around one: an
    /// instance knows a directory by one path only. Errs when the system gives none.
    fn instance(&self, dir: &Path, device: u64) -> notify::Result<Arc<Instance>> {
        let mut by_device = lock(&self.by_device);
        by_device.retain(|_, instance| instance.strong_count() > 0);
        let shared = by_device.get(&device).and_then(Weak::upgrade);
        if let Some(instance) = &shared
            && !lock(&instance.routes).overlaps(dir)
        {
            return Ok(Arc::clone(instance));
        }
        let instance = Arc::new(Instance::new()?);
        if shared.is_none() {
            by_device.insert(device, Arc::downgrade(&instance));
        }
        Ok(instance)
    }
}

impl Instance {
    fn new() -> notify::Result<Self> {
        let routes: Arc<Mutex<Routes>> = Arc::default();
        let reported = Arc::clone(&routes);
        let handler = move |event: notify::Result<Event>| lock(&reported).tell(event.ok().as_ref());
        // A link out of the directory must not make us watch a whole disk.
        let config = notify::Config::default().with_follow_symlinks(false);
        Ok(Self { watcher: Mutex::new(RecommendedWatcher::new(handler, config)?), routes })
    }
}

impl Routes {
    fn overlaps(&self, dir: &Path) -> bool {
        self.0.keys().any(|root| root.starts_with(dir) || dir.starts_with(root))
    }

    /// Hands an event on; one without a path, or none at all (events were lost), is everybody's.
    fn tell(&self, event: Option<&Event>) {
        let Some(event) = event.filter(|event| !event.need_rescan() && !event.paths.is_empty())
        else {
            self.0.values().flatten().for_each(|slot| slot.add(Wake::RESCAN));
            return;
        };
        let root_of = |path: &PathBuf| path.ancestors().find_map(|dir| self.0.get_key_value(dir));
        let mut reported: Option<&Path> = None;
        for (root, slots) in event.paths.iter().filter_map(root_of) {
            if reported.replace(root) != Some(root) {
                let wake = classify(event, root);
                for slot in slots {
                    slot.add(wake);
                }
            }
        }
    }
}

impl StoreWatch {
    /// Takes the watch off the directory, for which it waits for the filesystem.
    pub fn end(self) {
        // It is off by itself when the directory is gone.
        if let Err(error) = lock(&self.instance.watcher).unwatch(&self.root) {
            tracing::debug!(%error, dir = %self.root.display(), "The watch was off already.");
        }
    }
}

impl Drop for StoreWatch {
    fn drop(&mut self) {
        lock(&self.instance.routes).0.remove(&self.root);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

/// What an event of the directory `root` means.
fn classify(event: &Event, root: &Path) -> Wake {
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
        name.strip_prefix(DATABASE_FILE).is_some_and(|rest| is_suffix(rest.as_bytes()))
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
        EventKind::Access(AccessKind::Open(_) | AccessKind::Close(AccessMode::Write))
            if about(&|name| name == DATABASE_FILE) =>
        {
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
    /// Tells `changed` after anything happened in the directory of `file`; the caller compares the content. Errs when the
    /// kernel does not watch it.
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
    use crate::wait::{SOON, wait};

    /// Waits until every kind in `want` has come to the slot; gives what came.
    fn collect(slot: &WakeSlot, want: Wake) -> Wake {
        let mut seen = Wake::NONE;
        wait(&format!("{want:?}"), SOON, || {
            seen = seen | slot.take();
            if seen.bits() & want.bits() == want.bits() {
                Ok(seen)
            } else {
                Err(format!("only {seen:?}"))
            }
        })
    }

    #[test]
    fn each_change_wakes_those_who_asked_for_its_kind() {
        let dir = tempfile::tempdir().unwrap();
        let segment = dir.path().join("7a7a");
        fs::create_dir(&segment).unwrap();
        let database = dir.path().join(DATABASE_FILE);
        fs::write(&database, "x").unwrap();
        // How full the disk is changes by itself.
        let all = WakeSlot::new(Wake::from_bits(!Wake::SPACE.bits()));
        let only_opened = WakeSlot::new(Wake::OPENED);
        let watches = Watches::default();
        let _watch =
            watches.start(dir.path(), 1, vec![Arc::clone(&all), Arc::clone(&only_opened)]).unwrap();
        assert_eq!(all.take(), Wake::NONE);

        drop(fs::File::open(&database).unwrap());
        collect(&all, Wake::OPENED);
        let writer = fs::File::options().write(true).open(&database).unwrap();
        collect(&all, Wake::OPENED);
        drop(writer);
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
        let slot = WakeSlot::new(Wake::from_bits(!Wake::SPACE.bits()));
        let _watch = Watches::default().start(dir.path(), 1, vec![Arc::clone(&slot)]).unwrap();
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
    fn stores_of_one_filesystem_share_an_instance_and_no_events() {
        let parent = tempfile::tempdir().unwrap();
        let (one, two) = (parent.path().join("one"), parent.path().join("two"));
        let within = one.join("within");
        for dir in [&one, &two, &within] {
            fs::create_dir(dir).unwrap();
        }
        let watches = Watches::default();
        let slots: [Arc<WakeSlot>; 4] =
            std::array::from_fn(|_| WakeSlot::new(Wake::from_bits(!Wake::SPACE.bits())));
        let start = |dir: &Path, device, slot: usize| {
            watches.start(dir, device, vec![Arc::clone(&slots[slot])]).unwrap()
        };
        let watch = start(&one, 1, 0);
        let beside = start(&two, 1, 1);
        let inner = start(&within, 1, 2);
        let elsewhere = start(parent.path(), 2, 3);
        assert!(Arc::ptr_eq(&watch.instance, &beside.instance));
        assert!(!Arc::ptr_eq(&watch.instance, &inner.instance), "one path for each directory");
        assert!(!Arc::ptr_eq(&watch.instance, &elsewhere.instance), "another filesystem");

        fs::write(within.join("file"), "x").unwrap();
        for of in [0, 2, 3] {
            collect(&slots[of], Wake::NAMES | Wake::DATA);
        }
        assert_eq!(slots[1].take(), Wake::NONE);
        // The directory is exchanged: the watch moves to the new one.
        fs::rename(&two, parent.path().join("old")).unwrap();
        collect(&slots[1], Wake::RESCAN);
        beside.end();
        fs::create_dir(&two).unwrap();
        let _beside = start(&two, 1, 1);
        assert!(!slots[1].take().meets(Wake::OPENED));
        fs::write(parent.path().join("old/file"), "x").unwrap();
        fs::write(one.join("marker"), "x").unwrap();
        collect(&slots[0], Wake::NAMES);
        assert_eq!(slots[1].take(), Wake::NONE, "the old directory is nobody's");
        fs::write(two.join("file"), "x").unwrap();
        collect(&slots[1], Wake::NAMES);
        // Lost events are everybody's.
        lock(&watch.instance.routes).tell(None);
        assert!(slots[0].take().meets(Wake::RESCAN) && slots[1].take().meets(Wake::RESCAN));
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
            tokio::time::timeout(Duration::from_secs(30), changed.notified())
                .await
                .expect("an event");
        });
    }
}
