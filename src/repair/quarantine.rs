//! The folder that a restore works in, and that keeps the old content afterwards. It stands beside the store, or inside where the
//! store is a mount point. Its `restore.json` is written before anything moves, so that whoever comes after a kill knows what was
//! going on:
//!
//! ```text
//! .chroma.restore.20261130_020000/      while a restore works (inside a volume: .chroma_exporter.restore.…)
//! chroma.quarantine.20261130_020000/    afterwards           (inside a volume: .chroma_exporter.quarantine.…)
//!   restore.json                        what is done, or was
//!   unpacked/, new/                     what goes in, before and after it is proven; gone when it is in
//!   old/                                what was there before; what `--undo` puts back
//!   undone/                             what was restored, after `--undo`
//! ```
//!
//! Nothing in it is deleted but a copy that was never put in place.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, DirBuilder, File},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use super::hands::Hands;
use crate::{
    clock::Timestamp,
    store::restores::{
        self, Found, INSIDE, KEPT, NEW, OLD, RECORD_FILE, UNDONE, UNPACKED, WORKING, kept_name,
    },
};

pub use crate::store::restores::{Came, FORMAT, Mark, Origin, Record, RecordError, State, Way};

/// Such a folder.
#[derive(Debug)]
pub struct Quarantine {
    pub(super) path: PathBuf,
    /// Whether it stands in the store itself.
    pub(super) inside: bool,
    pub(super) record: Record,
    /// As long as this run works in it.
    pub(super) lock: Option<File>,
}

impl Quarantine {
    /// Makes one for a restore that begins now. Errs when the disk does.
    pub(super) fn begin(
        hands: &Hands,
        place: &Place,
        backup: &str,
        now: Timestamp,
    ) -> io::Result<Self> {
        let store = &place.store;
        let stamp = stamp(now);
        let path = (0..TRIES)
            .map(|at| if at == 0 { stamp.clone() } else { format!("{stamp}_{at}") })
            .map(|stamp| [true, false].map(|working| place.named(&stamp, working)))
            .find(|paths| paths.iter().all(|path| fs::symlink_metadata(path).is_err()))
            .map(|[path, _]| path);
        let path = path.ok_or_else(|| io::Error::other("too many restores in one second"))?;
        hands.step()?;
        DirBuilder::new().mode(0o700).create(&path)?;
        let record = Record {
            format: FORMAT,
            by: format!("chroma_exporter {}", crate::VERSION),
            state: State::Staging,
            undo: false,
            store: store.clone(),
            backup: backup.to_owned(),
            came: Origin::default(),
            done: Vec::new(),
            began: now,
            changed: now,
            way: Way::default(),
            had_database: false,
            out: Vec::new(),
            into: Vec::new(),
            kept: Vec::new(),
            mark: None,
            collections: Vec::new(),
        };
        let quarantine = Self { path, inside: place.inside, record, lock: None };
        quarantine.save(hands)?;
        hands.step()?;
        fs::create_dir(quarantine.incoming())?;
        Ok(quarantine)
    }

    /// Where the new content is written to.
    #[must_use]
    pub fn incoming(&self) -> PathBuf {
        self.path.join(self.record.incoming())
    }

    /// Where it is unpacked to before.
    #[must_use]
    pub fn unpacked(&self) -> PathBuf {
        self.path.join(UNPACKED)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is written in it.
    #[must_use]
    pub const fn record(&self) -> &Record {
        &self.record
    }

    /// Writes what it says of itself: wholly or not at all. Errs when it cannot be written.
    pub(super) fn save(&self, hands: &Hands) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(&self.record).map_err(io::Error::other)?;
        text.push(b'\n');
        hands.write_whole(&self.path, RECORD_FILE, &text)
    }

    /// Notes a new state. Errs when it cannot be written.
    pub(super) fn enter(&mut self, hands: &Hands, state: State, now: Timestamp) -> io::Result<()> {
        self.record.state = state;
        self.record.changed = now;
        self.save(hands)
    }

    /// Gives it the name that it keeps. Errs when it cannot be renamed, or the disk does.
    pub(super) fn keep(&mut self, hands: &Hands) -> io::Result<()> {
        let (Some(parent), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return Ok(());
        };
        let Some(kept) = kept_name(name) else { return Ok(()) };
        let to = parent.join(kept);
        hands.step()?;
        fs::rename(&self.path, &to)?;
        hands.sync_path(parent)?;
        self.path = to;
        Ok(())
    }

    /// Whether it has the name of one that a restore works in.
    pub(super) fn is_named_for_work(&self) -> bool {
        self.path.file_name().and_then(kept_name).is_some()
    }

    /// Takes its record away: what is staged in it is nobody's any more. Errs when it cannot be removed; an absent one is no error.
    pub(super) fn forget(&self, hands: &Hands) -> io::Result<()> {
        hands.step()?;
        absent_is_fine(fs::remove_file(self.path.join(RECORD_FILE)))
    }

    /// Takes away what never was in place, or a folder that keeps nothing. Errs when there is anything in it that was in a store.
    pub(super) fn discard(self, hands: &Hands) -> io::Result<()> {
        let kept = [OLD, UNDONE].map(|name| self.path.join(name));
        let undoing = self.record.undo && self.record.state != State::Undone;
        if undoing || kept.iter().any(|path| has_entries(path)) {
            return Err(io::Error::other("it keeps what was in a store"));
        }
        if self.record.state == State::Staging {
            for name in [UNPACKED, NEW] {
                hands.step()?;
                remove_tree(&self.path.join(name))?;
            }
        }
        for name in [UNPACKED, NEW, OLD, UNDONE] {
            hands.step()?;
            absent_is_fine(fs::remove_dir(self.path.join(name)))?;
        }
        // The record last: as long as it is there, the next run knows what to do.
        for name in [GATE, &format!("{RECORD_FILE}.new"), RECORD_FILE] {
            hands.step()?;
            absent_is_fine(fs::remove_file(self.path.join(name)))?;
        }
        hands.step()?;
        fs::remove_dir(&self.path)
    }
}

/// Takes away a folder of a run that ended before it had written a record, or after it had taken it away: only one that is empty.
pub(super) fn sweep(path: &Path) {
    let named_for_work = path.file_name().and_then(kept_name).is_some();
    if named_for_work && fs::symlink_metadata(path.join(RECORD_FILE)).is_err() {
        drop(fs::remove_file(path.join(format!("{RECORD_FILE}.new"))));
        drop(fs::remove_dir(path));
    }
}

fn has_entries(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    absent_is_fine(fs::remove_dir_all(dir))
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Where the folder of a store stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    store: PathBuf,
    inside: bool,
}

impl Place {
    /// Beside the store where that is the same filesystem and may be written to, inside it otherwise. Errs when there is neither.
    pub fn of(store: &Path) -> io::Result<Self> {
        let parent = store.parent().ok_or_else(|| io::Error::other("it is the root directory"))?;
        let above = fs::metadata(parent)?;
        let inside = match fs::symlink_metadata(store) {
            Ok(meta) => meta.dev() != above.dev() || is_mount_point(store)? || !may_write(parent),
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        Ok(Self { store: store.to_owned(), inside })
    }

    /// The directory that it stands in.
    #[must_use]
    pub fn above(&self) -> &Path {
        if self.inside { &self.store } else { self.store.parent().unwrap_or(&self.store) }
    }

    /// Whether it stands in the store itself.
    #[must_use]
    pub const fn is_inside(&self) -> bool {
        self.inside
    }

    /// Inside the store, whatever there is beside it.
    #[cfg(test)]
    pub(super) fn within(self) -> Self {
        Self { inside: true, ..self }
    }

    fn named(&self, stamp: &str, working: bool) -> PathBuf {
        let word = if working { WORKING } else { KEPT };
        let mut name = OsString::new();
        if self.inside {
            name.push(INSIDE);
        } else {
            if working {
                name.push(".");
            }
            name.push(self.store.file_name().unwrap_or_default());
        }
        name.push(format!(".{word}.{stamp}"));
        self.above().join(name)
    }
}

fn may_write(dir: &Path) -> bool {
    use rustix::fs::Access;
    rustix::fs::access(dir, Access::WRITE_OK | Access::EXEC_OK).is_ok()
}

/// Whether something is mounted at `path` itself. Errs when it cannot be looked at.
pub(super) fn is_mount_point(path: &Path) -> io::Result<bool> {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    let seen = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty())?;
    Ok(seen.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Whether an entry of a store is a folder of ours.
pub(super) fn is_ours_inside(name: &OsStr) -> bool {
    [WORKING, KEPT]
        .iter()
        .any(|word| name.as_bytes().starts_with(format!("{INSIDE}.{word}.").as_bytes()))
}

/// The folders of a store, newest first, and those that cannot be read, with the reason.
#[must_use]
pub fn all(store: &Path) -> (Vec<Quarantine>, Vec<(PathBuf, RecordError)>) {
    let (found, unread) = restores::all(store);
    let quarantine =
        |Found { path, inside, record }| Quarantine { path, inside, record, lock: None };
    (found.into_iter().map(quarantine).collect(), unread)
}

/// `20261130_020000`, in UTC.
pub(super) fn stamp(now: Timestamp) -> String {
    let text = now.to_string();
    let digits = |part: Option<&str>| -> String {
        part.unwrap_or_default().chars().filter(char::is_ascii_digit).collect()
    };
    let (day, time) = (digits(text.get(..10)), digits(text.get(11..19)));
    format!("{day}_{time}")
}

/// The link that takes the place of a database, before it does.
pub(super) const GATE: &str = "gate";
const TRIES: u32 = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(store: &Path, at: i64) -> Quarantine {
        let place = Place::of(store).unwrap();
        Quarantine::begin(&Hands::default(), &place, "b", Timestamp::from_secs(at)).unwrap()
    }

    #[test]
    fn it_is_found_by_the_store_under_both_names() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap();
        let store = root.join("chroma");
        fs::create_dir(&store).unwrap();
        let mut first = begin(&store, 1_796_004_000);
        let second = begin(&store, 1_796_004_000);
        assert_eq!(first.path, root.join(".chroma.restore.20261130_020000"));
        assert_eq!(second.path, root.join(".chroma.restore.20261130_020000_1"));
        assert!(first.incoming().is_dir());
        first.keep(&Hands::default()).unwrap();
        assert_eq!(first.path, root.join("chroma.quarantine.20261130_020000"));
        let third = begin(&store, 1_796_004_000);
        assert_eq!(third.path, root.join(".chroma.restore.20261130_020000_2"));
        begin(&root.join("chroma.other"), 1_796_004_001);
        let inside = Place { store: store.clone(), inside: true };
        Quarantine::begin(&Hands::default(), &inside, "b", Timestamp::from_secs(1_796_004_002))
            .unwrap();
        std::os::unix::fs::symlink(&first.path, root.join("chroma.quarantine.x")).unwrap();
        fs::create_dir(root.join("chroma.quarantine.mine")).unwrap();
        let (found, unread) = all(&store);
        let names: Vec<_> = found
            .iter()
            .map(|one| one.path.strip_prefix(&root).unwrap().to_str().unwrap())
            .collect();
        assert_eq!(
            names,
            [
                "chroma/.chroma_exporter.restore.20261130_020002",
                "chroma.quarantine.20261130_020000",
                ".chroma.restore.20261130_020000_2",
                ".chroma.restore.20261130_020000_1",
            ]
        );
        assert!(unread.len() == 1 && unread[0].0 == root.join("chroma.quarantine.mine"));
        let kept = kept_name(OsStr::new(".chroma_exporter.restore.1")).unwrap();
        assert_eq!(kept, ".chroma_exporter.quarantine.1");
        assert!(is_ours_inside(&kept) && !is_ours_inside(OsStr::new(".chroma_exporter.x")));
    }

    #[test]
    fn only_what_never_was_in_place_is_deleted() {
        let scratch = tempfile::tempdir().unwrap();
        let store = scratch.path().canonicalize().unwrap().join("chroma");
        let hands = Hands::default();
        let staged = begin(&store, 1);
        fs::write(staged.incoming().join("x"), "x").unwrap();
        let path = staged.path.clone();
        staged.discard(&hands).unwrap();
        assert!(!path.exists());
        let mut swapping = begin(&store, 2);
        fs::write(swapping.incoming().join("x"), "x").unwrap();
        swapping.enter(&hands, State::Swapping, Timestamp::from_secs(2)).unwrap();
        let path = swapping.path.clone();
        assert!(swapping.discard(&hands).is_err());
        assert!(path.join("new/x").exists());
        let staged = begin(&store, 3);
        let path = staged.path.clone();
        fs::create_dir(path.join(OLD)).unwrap();
        fs::write(path.join("old/x"), "x").unwrap();
        assert!(staged.discard(&hands).is_err());
        assert!(path.join("old/x").exists());
    }

    #[test]
    fn a_record_that_leads_elsewhere_is_refused() {
        let record = begin(&tempfile::tempdir().unwrap().path().join("x"), 1).record;
        for (name, fine) in [("a", true), ("..", false), ("a/b", false), ("", false), (".", false)]
        {
            let record = Record { out: vec![name.to_owned()], ..record.clone() };
            let read = Record::parse(&serde_json::to_vec(&record).unwrap());
            assert_eq!(read.is_ok(), fine, "{name}: {read:?}");
        }
        let newer = Record { format: FORMAT + 1, ..record };
        assert!(Record::parse(&serde_json::to_vec(&newer).unwrap()).is_err());
    }
}
