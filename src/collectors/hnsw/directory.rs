//! The cheap look that every run takes: one walk over the names and lengths below the persist directory, and the hundred
//! bytes of each header that changed. It asks nobody and keeps nothing open.

use std::{
    collections::BTreeMap,
    io,
    ops::ControlFlow,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::fs::FileType;
use serde::{Deserialize, Serialize};

use crate::{
    clock::{self, Ticks, Timestamp},
    collectors::CollectError,
    format::{
        hnsw::{self, HEADER_LEN, Header, HeaderError},
        lfs,
        uuid::{Uuid, parse_uuid, uuid_text},
    },
    host::{
        links::Place,
        processes::FileId,
        walk::{self, Bounds, Entry, Meta},
    },
    store::database::{Stamp, open_bytes, read_up_to},
};

/// The files of a segment's folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Part {
    Header,
    Level0,
    Lengths,
    Links,
    Metadata,
}

impl Part {
    pub(super) const ALL: [Self; 5] =
        [Self::Header, Self::Level0, Self::Lengths, Self::Links, Self::Metadata];

    /// Its name on disk.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Header => hnsw::HEADER_FILE,
            Self::Level0 => hnsw::LEVEL0_FILE,
            Self::Lengths => hnsw::LENGTHS_FILE,
            Self::Links => hnsw::LINKS_FILE,
            Self::Metadata => hnsw::METADATA_FILE,
        }
    }
}

/// What `stat` says of one of them. Equal ones have the same bytes, to the granularity of the filesystem's clock.
#[derive(Debug, Clone, Copy, Eq, Serialize, Deserialize)]
pub(super) struct FileStat {
    pub(super) id: FileId,
    pub(super) size_bytes: u64,
    pub(super) allocated_bytes: u64,
    pub(super) modified: Timestamp,
    changed: Timestamp,
    pub(super) regular: bool,
}

/// Without what it takes on the disk: the filesystem decides that some seconds after the write, and what was read of the file
/// would be void.
impl PartialEq for FileStat {
    fn eq(&self, other: &Self) -> bool {
        let bytes = |stat: &Self| (stat.id, stat.size_bytes, stat.modified, stat.changed);
        bytes(self) == bytes(other) && self.regular == other.regular
    }
}

impl FileStat {
    fn of(meta: &Meta) -> Self {
        Self {
            id: FileId { device: meta.device, inode: meta.inode },
            size_bytes: meta.size_bytes,
            allocated_bytes: meta.allocated_bytes,
            modified: meta.modified,
            changed: meta.changed,
            regular: meta.file_type() == FileType::RegularFile,
        }
    }

    /// What `stat` says of `path` now. Errs when it says nothing.
    fn at(path: &Path) -> io::Result<Self> {
        let meta = std::fs::metadata(path)?;
        let stamp = Stamp::of(&meta);
        Ok(Self {
            id: stamp.id,
            size_bytes: stamp.size_bytes,
            allocated_bytes: meta.blocks() * 512,
            modified: stamp.modified,
            changed: stamp.changed,
            regular: meta.is_file(),
        })
    }
}

/// What lies in the folder of a segment.
#[derive(Debug, Clone, Default)]
pub(super) struct Folder {
    /// Its name on disk.
    pub(super) name: String,
    files: [Option<FileStat>; 5],
    /// Bytes on disk of all that lies in it.
    pub(super) allocated_bytes: u64,
    /// `None` when there is no regular `header.bin`, or when it could not be read.
    pub(super) header: Option<Result<Header, HeaderError>>,
    /// Which of the files are Git LFS pointers.
    pointers: [bool; 5],
    /// Whether something in it may not be looked at, so that nobody knows what is missing.
    pub(super) unreadable: bool,
}

impl Folder {
    pub(super) const fn file(&self, part: Part) -> Option<FileStat> {
        self.files[part as usize]
    }

    /// The names of the files that are Git LFS pointers.
    pub(super) fn pointers(&self) -> Vec<&'static str> {
        let is_one = |part: &Part| self.pointers[*part as usize];
        Part::ALL.into_iter().filter(is_one).map(Part::name).collect()
    }

    /// Where the file is that Chroma would open. Errs when its folder cannot be read.
    pub(super) fn path(&self, root: &Place, part: Part) -> io::Result<PathBuf> {
        root.at(Path::new(&self.name).join(part.name()))
    }

    /// The same with one of its files as it is now. Errs when that file cannot be read.
    pub(super) fn with_now(mut self, root: &Place, part: Part) -> io::Result<Self> {
        let stat = match self.path(root, part).and_then(|path| FileStat::at(&path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            stat => Some(stat?),
        };
        self.files[part as usize] = stat;
        Ok(self)
    }

    /// Equal ones hold the same index.
    pub(super) const fn stamps(&self) -> [Option<FileStat>; 5] {
        self.files
    }

    /// Takes in an entry of the folder.
    fn add(&mut self, entry: &Entry<'_>) {
        self.allocated_bytes = self.allocated_bytes.saturating_add(entry.meta.allocated_bytes);
        if let Some(part) = Part::ALL.into_iter().find(|p| p.name().as_bytes() == entry.name()) {
            self.files[part as usize] = Some(FileStat::of(entry.meta));
        }
    }

    /// Whether none of the files was written to in the last moments, as far as clocks can be trusted.
    pub(super) fn quiet(&self, now: Timestamp) -> bool {
        self.newest().is_none_or(|newest| newest > now || now.since(newest) >= QUIET)
    }

    /// Whether none of the files was written to for so long that no flush is under way.
    pub(super) fn untouched(&self, now: Timestamp) -> bool {
        self.newest().is_some_and(|newest| now.since(newest) >= UNTOUCHED)
    }

    fn newest(&self) -> Option<Timestamp> {
        self.files.iter().flatten().map(|file| file.modified).max()
    }

    /// The header, when it could be read and is sound.
    pub(super) fn sound_header(&self) -> Option<Header> {
        self.header.and_then(Result::ok)
    }
}

/// What lies in the directory.
#[derive(Debug)]
pub(super) struct Directory {
    /// When it began, and how long it took.
    at: Ticks,
    took: Duration,
    pub(super) folders: BTreeMap<Uuid, Folder>,
    /// Whether every entry could be looked at: only then is a folder that is not there missing.
    pub(super) complete: bool,
    pub(super) problems: Vec<Arc<CollectError>>,
    device: u64,
    overflown: bool,
    /// Folders that are links or mounts: Chroma follows them, the walk does not.
    elsewhere: Vec<(Uuid, String)>,
}

impl Directory {
    /// Looks at the directory `root`. Headers that have not changed since `before` are not read again. Errs when the
    /// directory cannot be read.
    pub(super) fn take(
        place: &Place,
        entries_max: usize,
        before: Option<&Self>,
    ) -> Result<Self, CollectError> {
        let root = place.dir();
        let mut directory = Self {
            at: clock::ticks(),
            took: Duration::ZERO,
            folders: BTreeMap::new(),
            complete: true,
            problems: Vec::new(),
            device: 0,
            overflown: false,
            elsewhere: Vec::new(),
        };
        let bounds = Bounds { entries_max, depth_max: 2 };
        let walked = walk::walk(root, bounds, &mut |visit| {
            match visit {
                Ok(entry) => directory.add(&entry),
                Err(problem) => directory.fail(root, &problem),
            }
            ControlFlow::Continue(())
        });
        let summary =
            walked.map_err(|source| CollectError::Unreadable { path: root.to_owned(), source })?;
        if summary.truncated || directory.overflown {
            directory.complete = false;
            let (what, bound) = if directory.overflown {
                ("segment folders", FOLDERS_MAX)
            } else {
                ("entries", entries_max)
            };
            directory.problems.push(Arc::new(CollectError::TooMany {
                path: root.to_owned(),
                what,
                bound,
            }));
        }
        directory.read_elsewhere(place);
        directory.read_heads(place, before);
        directory.took = directory.at.elapsed();
        Ok(directory)
    }

    /// Whether it is so recent that another one would cost too much: looks take one part in fifty of the time.
    pub(super) fn recent(&self) -> bool {
        self.at.elapsed() < self.took * 50
    }

    fn add(&mut self, entry: &Entry<'_>) {
        if entry.depth == 0 {
            self.device = entry.meta.device;
        }
        let top = entry.path.split(|byte| *byte == b'/').next().unwrap_or_default();
        let Some(uuid) = parse_uuid(top) else { return };
        if entry.depth == 1 {
            // Chroma opens the name that the tables have, and writes it in one way.
            let name = uuid_text(uuid);
            if name.as_bytes() != top {
                return;
            }
            if self.folders.len() + self.elsewhere.len() >= FOLDERS_MAX {
                self.overflown = true;
                return;
            }
            let kind = entry.meta.file_type();
            if kind == FileType::Symlink
                || kind == FileType::Directory && entry.meta.device != self.device
            {
                self.elsewhere.push((uuid, name));
                return;
            }
            if kind != FileType::Directory {
                return;
            }
            self.folders.insert(uuid, Folder { name, ..Folder::default() });
        }
        let Some(folder) = self.folders.get_mut(&uuid) else { return };
        if entry.depth == 2 {
            folder.add(entry);
        } else {
            folder.allocated_bytes =
                folder.allocated_bytes.saturating_add(entry.meta.allocated_bytes);
        }
    }

    fn fail(&mut self, root: &Path, problem: &walk::Problem) {
        let top = problem.path.split(|byte| *byte == b'/').next().unwrap_or_default();
        // What lies beside the segments is the business of other collectors.
        if parse_uuid(top).is_none() && !top.is_empty() {
            return;
        }
        self.complete = false;
        if let Some(folder) = parse_uuid(top).and_then(|uuid| self.folders.get_mut(&uuid)) {
            folder.unreadable = true;
        }
        if self.problems.len() < PROBLEMS_MAX {
            let path = root.join(String::from_utf8_lossy(&problem.path).as_ref());
            let source = problem.errno.into();
            self.problems.push(Arc::new(CollectError::Unreadable { path, source }));
        }
    }

    fn read_elsewhere(&mut self, root: &Place) {
        for (uuid, name) in std::mem::take(&mut self.elsewhere) {
            let path = match root.at(&name) {
                Ok(path) => path,
                Err(source) => {
                    self.not_read(root.dir().join(&name), source);
                    continue;
                }
            };
            let mut folder = Folder { name, ..Folder::default() };
            let bounds = Bounds { entries_max: ELSEWHERE_ENTRIES_MAX, depth_max: 1 };
            let mut problem = None;
            let walked = walk::walk(&path, bounds, &mut |visit| {
                match visit {
                    Ok(entry) if entry.depth == 1 => folder.add(&entry),
                    Ok(_) => {}
                    Err(unseen) => problem = Some(unseen.errno),
                }
                ControlFlow::Continue(())
            });
            folder.unreadable = problem.is_some();
            match walked.and_then(|_| problem.map_or(Ok(()), |errno| Err(errno.into()))) {
                Ok(()) => drop(self.folders.insert(uuid, folder)),
                // A link that leads nowhere, or to a file, is no folder.
                Err(error)
                    if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory]
                        .contains(&error.kind()) => {}
                Err(source) => {
                    if folder.unreadable {
                        self.folders.insert(uuid, folder);
                    }
                    self.not_read(path, source);
                }
            }
        }
    }

    fn not_read(&mut self, path: PathBuf, source: io::Error) {
        self.complete = false;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Arc::new(CollectError::Unreadable { path, source }));
        }
    }

    fn read_heads(&mut self, root: &Place, before: Option<&Self>) {
        let mut unread = Vec::new();
        for (uuid, folder) in &mut self.folders {
            let known = before.and_then(|before| before.folders.get(uuid));
            for part in Part::ALL {
                let Some(file) = folder.file(part).filter(|file| file.regular) else { continue };
                let same = known.filter(|known| known.file(part) == Some(file));
                let header = part == Part::Header;
                if let Some(known) = same.filter(|known| !header || known.header.is_some()) {
                    folder.pointers[part as usize] = known.pointers[part as usize];
                    if header {
                        folder.header = known.header;
                    }
                    continue;
                }
                // A pointer is longer than a header, and shorter than nearly everything else.
                let short =
                    (HEADER_LEN as u64 + 1..lfs::HEAD_LEN as u64).contains(&file.size_bytes);
                if !header && !short {
                    continue;
                }
                let mut bytes = [0; lfs::HEAD_LEN];
                let opened = folder.path(root, part).and_then(|path| open_bytes(&path));
                match opened.and_then(|file| read_up_to(&file, &mut bytes, 0)) {
                    Ok(read) => {
                        let head = &bytes[..read];
                        folder.pointers[part as usize] = lfs::Pointer::parse(head).is_some();
                        if header {
                            folder.header = Some(Header::parse(head));
                        }
                    }
                    // It vanished in between; the next look will tell.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(source) => {
                        folder.unreadable = true;
                        let path = root.dir().join(&folder.name).join(part.name());
                        unread.push((path, source));
                    }
                }
            }
        }
        for (path, source) in unread {
            self.not_read(path, source);
        }
    }
}

const QUIET: Duration = Duration::from_secs(2);
const UNTOUCHED: Duration = Duration::from_mins(1);

/// Chroma has five files in a folder.
const ELSEWHERE_ENTRIES_MAX: usize = 10_000;

/// Some fifty megabytes of folders.
const FOLDERS_MAX: usize = 100_000;

/// One is as good as a thousand to whoever reads the log.
const PROBLEMS_MAX: usize = 3;
