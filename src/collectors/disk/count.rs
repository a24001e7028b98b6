//! The bytes below a persist directory, summed by what they are for while a walk goes on. Reads nothing itself.

use std::{
    collections::{BTreeSet, HashMap, HashSet, hash_map},
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use rustix::{fs::FileType, io::Errno};

use super::lies::synced_by;
use crate::{
    collectors::CollectError,
    format::{
        hnsw::HEADER_FILE,
        sqlite::is_suffix,
        uuid::{Uuid, parse_uuid},
    },
    host::{
        processes::FileId,
        walk::{Entry, Problem},
    },
    store::DATABASE_FILE,
};

/// What bytes below a persist directory are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// `chroma.sqlite3`.
    Sqlite,
    /// Its journal, or the files of its write-ahead log.
    Journal,
    /// Folders named like segments, but for the next.
    Segments,
    /// Those that hold an index and that no row of the database names.
    OrphanSegments,
    /// Everything else, the directory itself included.
    Other,
}

impl Class {
    /// All of them.
    pub(crate) const ALL: [Self; 5] =
        [Self::Sqlite, Self::Journal, Self::Segments, Self::OrphanSegments, Self::Other];

    /// The word of the `class` label.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Journal => "journal",
            Self::Segments => "segments",
            Self::OrphanSegments => "orphan_segments",
            Self::Other => "other",
        }
    }
}

/// Bytes as `ls` and as `du` count them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Bytes {
    /// Lengths of regular files and links.
    pub(crate) apparent: u64,
    /// Blocks on disk, those of folders included.
    pub(crate) allocated: u64,
}

impl Bytes {
    fn add(&mut self, more: Self) {
        self.apparent = self.apparent.saturating_add(more.apparent);
        self.allocated = self.allocated.saturating_add(more.allocated);
    }
}

/// A folder named like a segment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Folder {
    pub(crate) bytes: Bytes,
    /// Whether it has a `header.bin`.
    pub(crate) has_index: bool,
}

/// The regular file `chroma.sqlite3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DatabaseFile {
    pub(crate) id: FileId,
    pub(crate) bytes: u64,
}

/// Something that keeps a sum from being whole.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An entry that could not be looked at.
    Unreadable(PathBuf, Errno),
    /// More than the bound.
    TooMany(&'static str, usize),
    /// The processes could not be looked at.
    Processes(String),
}

impl Failure {
    /// The problem of a directory at `root`.
    pub(crate) fn problem(&self, root: &Path) -> CollectError {
        match self {
            Self::Unreadable(path, errno) => {
                CollectError::Unreadable { path: root.join(path), source: (*errno).into() }
            }
            Self::TooMany(what, bound) => {
                CollectError::TooMany { path: root.to_owned(), what, bound: *bound }
            }
            Self::Processes(why) => CollectError::Processes { why: why.clone() },
        }
    }
}

/// The marks of a tool that keeps the directory in step with other hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Synced {
    /// Files that it made, with the tool; at most [`SYNCED_MAX`].
    pub(crate) files: Vec<(PathBuf, &'static str)>,
    /// How many there are.
    pub(crate) count: u64,
    /// The folder that it has marked, this one or one above, with the tool.
    pub(crate) folder: Option<(PathBuf, &'static str)>,
}

/// The sums.
#[derive(Debug, Default)]
pub(crate) struct Count {
    sqlite: Bytes,
    journal: Bytes,
    other: Bytes,
    /// Of all folders named like segments.
    segments: Bytes,
    /// Each of them; only so many that memory stays bounded.
    pub(crate) folders: HashMap<Uuid, Folder>,
    pub(crate) folders_overflown: bool,
    /// Entries that are no folders.
    pub(crate) files: u64,
    pub(crate) database: Option<DatabaseFile>,
    /// Classes of which something could not be looked at.
    pub(crate) incomplete: BTreeSet<Class>,
    /// At most [`FAILURES_MAX`]: one is as good as a thousand to whoever reads the log.
    pub(crate) failures: Vec<Failure>,
    /// `st_dev` of the directory.
    pub(crate) device: Option<u64>,
    /// What tools have left that copy files between hosts.
    pub(crate) synced: Synced,
    /// Files with several names that were counted, and as what.
    linked: HashMap<u64, Class>,
}

impl Count {
    /// Counts one entry of a walk; a file with several names once, like `du`, whichever of them comes first.
    pub(crate) fn add(&mut self, entry: &Entry<'_>) {
        let meta = entry.meta;
        let folder = meta.is_directory();
        let device = *self.device.get_or_insert(meta.device);
        // The root of another filesystem, mounted here. A file may well say another device than its folder (overlayfs).
        if folder && meta.device != device {
            return;
        }
        let length = matches!(meta.file_type(), FileType::RegularFile | FileType::Symlink);
        let mut bytes = Bytes {
            apparent: if length { meta.size_bytes } else { 0 },
            allocated: meta.allocated_bytes,
        };
        let top = top_name(entry.path);
        let class = class_of(top, folder || entry.depth > 1);
        if !folder {
            self.files += 1;
            if let Some(tool) = synced_by(entry.name()) {
                self.synced.count += 1;
                if self.synced.files.len() < SYNCED_MAX {
                    self.synced.files.push((OsStr::from_bytes(entry.path).into(), tool));
                }
            }
            if meta.links > 1 {
                bytes = self.not_counted(meta.inode, class, bytes);
            }
        }
        match class {
            Class::Sqlite => {
                self.sqlite.add(bytes);
                if meta.file_type() == FileType::RegularFile {
                    let id = FileId { device: meta.device, inode: meta.inode };
                    self.database = Some(DatabaseFile { id, bytes: meta.size_bytes });
                }
            }
            Class::Journal => self.journal.add(bytes),
            Class::Segments | Class::OrphanSegments => {
                self.segments.add(bytes);
                let index = entry.depth == 2 && entry.name() == HEADER_FILE.as_bytes();
                self.add_to_folder(top, bytes, index);
            }
            Class::Other => self.other.add(bytes),
        }
    }

    /// What of a file with several names is still to be counted, under one that is of this class. The database is one by its
    /// own name, whatever else it is called.
    fn not_counted(&mut self, inode: u64, class: Class, bytes: Bytes) -> Bytes {
        match self.linked.entry(inode) {
            hash_map::Entry::Vacant(first) => {
                first.insert(class);
                bytes
            }
            hash_map::Entry::Occupied(mut before)
                if class == Class::Sqlite && *before.get() == Class::Other =>
            {
                before.insert(class);
                self.other.apparent = self.other.apparent.saturating_sub(bytes.apparent);
                self.other.allocated = self.other.allocated.saturating_sub(bytes.allocated);
                bytes
            }
            hash_map::Entry::Occupied(_) => Bytes::default(),
        }
    }

    fn add_to_folder(&mut self, name: &[u8], bytes: Bytes, index: bool) {
        let Some(uuid) = parse_uuid(name) else { return };
        if self.folders.len() >= FOLDERS_MAX && !self.folders.contains_key(&uuid) {
            self.folders_overflown = true;
            return;
        }
        let folder = self.folders.entry(uuid).or_default();
        folder.bytes.add(bytes);
        folder.has_index |= index;
    }

    /// Notes an entry that could not be looked at.
    pub(crate) fn fail(&mut self, problem: &Problem) {
        let top = top_name(&problem.path);
        // Each fresh ext filesystem has this folder, closed to all but root. It is empty unless fsck found something.
        if problem.path == b"lost+found" && problem.errno == Errno::ACCESS {
            return;
        }
        match (top, class_of(top, true), class_of(top, false)) {
            (b"", ..) => self.incomplete.extend(Class::ALL),
            (_, Class::Segments, _) => {
                self.incomplete.extend([Class::Segments, Class::OrphanSegments]);
            }
            (.., class) => {
                self.incomplete.insert(class);
            }
        }
        self.note(Failure::Unreadable(OsStr::from_bytes(&problem.path).into(), problem.errno));
    }

    /// Notes a failure.
    pub(crate) fn note(&mut self, failure: Failure) {
        if self.failures.len() < FAILURES_MAX {
            self.failures.push(failure);
        }
    }

    /// The sums of the classes that are whole. Without `orphans` all folders count as segments.
    pub(crate) fn classes(&self, orphans: Option<&HashSet<Uuid>>) -> Vec<(Class, Bytes)> {
        let orphaned = orphans.map(|orphans| {
            let mut sum = Bytes::default();
            for folder in orphans.iter().filter_map(|uuid| self.folders.get(uuid)) {
                sum.add(folder.bytes);
            }
            sum
        });
        let taken = orphaned.unwrap_or_default();
        let segments = Bytes {
            apparent: self.segments.apparent.saturating_sub(taken.apparent),
            allocated: self.segments.allocated.saturating_sub(taken.allocated),
        };
        let sums = [
            (Class::Sqlite, Some(self.sqlite)),
            (Class::Journal, Some(self.journal)),
            (Class::Segments, Some(segments)),
            (Class::OrphanSegments, orphaned),
            (Class::Other, Some(self.other)),
        ];
        sums.into_iter()
            .filter(|(class, _)| !self.incomplete.contains(class))
            .filter_map(|(class, bytes)| Some((class, bytes?)))
            .collect()
    }
}

/// The name, in the directory itself, of what `path` is or lies in.
fn top_name(path: &[u8]) -> &[u8] {
    path.split(|byte| *byte == b'/').next().unwrap_or_default()
}

/// The class of an entry of the directory itself, and so of all below it.
fn class_of(name: &[u8], folder: bool) -> Class {
    if folder {
        return if parse_uuid(name).is_some() { Class::Segments } else { Class::Other };
    }
    match name.strip_prefix(DATABASE_FILE.as_bytes()) {
        Some(b"") => Class::Sqlite,
        Some(end) if is_suffix(end) => Class::Journal,
        _ => Class::Other,
    }
}

/// Five megabytes of folders. Beyond that orphans are not told apart.
const FOLDERS_MAX: usize = 100_000;

const FAILURES_MAX: usize = 3;

const SYNCED_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Timestamp, host::walk::Meta};

    #[test]
    fn entries_are_told_by_their_name_in_the_directory() {
        let uuid = b"3f2504e0-4f89-41d3-9a0c-0305e82c3301";
        for (name, folder, want) in [
            (&b"chroma.sqlite3"[..], false, Class::Sqlite),
            (b"chroma.sqlite3", true, Class::Other),
            (b"chroma.sqlite3-journal", false, Class::Journal),
            (b"chroma.sqlite3-wal", false, Class::Journal),
            (b"chroma.sqlite3-shm", false, Class::Journal),
            (b"chroma.sqlite3.bak", false, Class::Other),
            (uuid, true, Class::Segments),
            (uuid, false, Class::Other),
            (b"", true, Class::Other),
        ] {
            assert_eq!(class_of(name, folder), want, "{name:?} {folder}");
        }
    }

    #[test]
    fn what_could_not_be_looked_at_leaves_its_class_out() {
        let left = |path: &[u8], errno| {
            let mut count = Count::default();
            count.fail(&Problem { path: path.to_vec(), errno });
            let whole: Vec<_> = count.classes(Some(&HashSet::new())).iter().map(|c| c.0).collect();
            Class::ALL.into_iter().filter(|c| !whole.contains(c)).collect::<Vec<_>>()
        };
        assert_eq!(left(b"", Errno::IO), Class::ALL);
        assert_eq!(left(b"chroma.sqlite3", Errno::ACCESS), [Class::Sqlite]);
        assert_eq!(left(b"stuff/deeper", Errno::ACCESS), [Class::Other]);
        assert_eq!(
            left(b"3f2504e0-4f89-41d3-9a0c-0305e82c3301", Errno::ACCESS),
            [Class::Segments, Class::OrphanSegments]
        );
        assert_eq!(left(b"lost+found", Errno::ACCESS), []);
        assert_eq!(left(b"lost+found", Errno::IO), [Class::Other]);
    }

    #[test]
    fn a_file_with_several_names_is_counted_once_whichever_comes_first() {
        let meta = Meta {
            mode: 0o100_644,
            uid: 0,
            gid: 0,
            size_bytes: 100,
            allocated_bytes: 512,
            device: 1,
            inode: 7,
            links: 3,
            modified: Timestamp::from_secs(0),
            changed: Timestamp::from_secs(0),
            immutable: false,
            append_only: false,
        };
        let names: [&[u8]; 3] = [b"a-copy", b"chroma.sqlite3", b"z-copy"];
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2]] {
            let mut count = Count::default();
            for path in order.map(|at| names[at]) {
                count.add(&Entry { path, name_at: 0, depth: 1, meta: &meta });
            }
            let database = DatabaseFile { id: FileId { device: 1, inode: 7 }, bytes: 100 };
            assert_eq!(count.database, Some(database), "{order:?}");
            let once = Bytes { apparent: 100, allocated: 512 };
            assert_eq!((count.sqlite, count.other, count.files), (once, Bytes::default(), 3));
        }
    }
}
