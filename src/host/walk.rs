//! A walk over the entries below a directory: relative to descriptors, so that a folder exchanged for a link meanwhile
//! leads nowhere; bounded in entries and depth; within one filesystem. It can be done in steps, with pauses between
//! them, and costs one descriptor and one buffer of names per level, however many entries there are.
//!
//! Entries that vanish while it runs are normal beside a server that works. What it may not read is told entry by
//! entry, and the rest goes on.

use std::{
    ffi::CStr,
    io,
    ops::{ControlFlow, Range},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, Statx, StatxAttributes, StatxFlags},
    io::Errno,
};

use crate::clock::Timestamp;

/// How far a walk goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Most entries that are looked at, the directory itself included.
    pub entries_max: usize,
    /// Entries this many levels below the directory are looked at, but not what is below them; at most
    /// [`DEPTH_MAX`].
    pub depth_max: u32,
}

/// Deepest level that a walk enters: one descriptor is open per level. Chroma's directories have two levels.
pub const DEPTH_MAX: u32 = 64;

/// What the kernel says of an entry itself; links are not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// Type and mode as in `st_mode`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes.
    pub size_bytes: u64,
    /// Bytes that it takes up on disk.
    pub allocated_bytes: u64,
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
    /// Number of names that lead to the inode.
    pub links: u32,
    /// Last change of its bytes.
    pub modified: Timestamp,
    /// Last change of its bytes, owner, mode, access list or number of names.
    pub changed: Timestamp,
    /// `chattr +i`: nobody may change it. `false` where the filesystem does not tell.
    pub immutable: bool,
    /// `chattr +a`: it may only grow. `false` where the filesystem does not tell.
    pub append_only: bool,
}

impl Meta {
    /// The type.
    #[must_use]
    pub fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.mode.into())
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.file_type() == FileType::Directory
    }
}

/// One entry of a walk.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// Path relative to the directory of the walk, any bytes but NUL; empty for that directory itself.
    pub path: &'a [u8],
    /// Length of the part of `path` before the name, the slash included.
    pub name_at: usize,
    /// 0 for the directory itself, 1 for what lies in it.
    pub depth: u32,
    /// What the kernel says of it.
    pub meta: &'a Meta,
}

impl<'a> Entry<'a> {
    /// The last part of the path.
    #[must_use]
    pub fn name(&self) -> &'a [u8] {
        self.path.get(self.name_at..).unwrap_or_default()
    }

    /// The folder it lies in, without a slash at the end; empty for the directory of the walk.
    #[must_use]
    pub fn folder(&self) -> &'a [u8] {
        self.path.get(..self.name_at.saturating_sub(1)).unwrap_or_default()
    }
}

/// An entry that could not be looked at, or a folder that could not be read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Path relative to the directory of the walk.
    pub path: Vec<u8>,
    /// What the operating system answered.
    pub errno: Errno,
}

/// What a visitor is told.
pub type Visit<'a> = Result<Entry<'a>, Problem>;

/// What a walk came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Entries that were told, the directory itself included.
    pub entries: u64,
    /// Problems that were told.
    pub problems: u64,
    /// Entries that were gone before they could be looked at.
    pub vanished: u64,
    /// Folders not entered, because another filesystem is mounted on them.
    pub other_filesystems: u64,
    /// Folders not entered, because they lie too deep.
    pub too_deep: u64,
    /// Whether there were more entries than the bound.
    pub truncated: bool,
    /// Whether the visitor ended it early.
    pub stopped: bool,
}

impl Summary {
    /// Whether every entry that stayed was told.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.problems == 0 && self.too_deep == 0 && !self.truncated && !self.stopped
    }
}

/// Tells `visit` every entry below `root`, and `root` itself first; folders before what is in them. Errs when `root`
/// cannot be opened as a directory (links that lead to it are followed).
pub fn walk(
    root: &Path,
    bounds: Bounds,
    visit: &mut dyn FnMut(Visit<'_>) -> ControlFlow<()>,
) -> io::Result<Summary> {
    let mut walk = Walk::start(root, bounds)?;
    while walk.step(visit).is_continue() {}
    Ok(walk.summary())
}

/// A walk under way.
#[derive(Debug)]
pub struct Walk {
    bounds: Bounds,
    /// The filesystem that it stays within.
    device: u64,
    /// Entries looked at so far.
    entries_seen: usize,
    /// Folders from the directory itself to the one that is being read.
    stack: Vec<Folder>,
    /// Path of the folder on top, with a slash at the end unless it is empty; scratch beyond that.
    path: Vec<u8>,
    /// What the present step has looked at: where the name stands in the folder on top, and its facts.
    batch: Vec<(Range<usize>, Meta)>,
    problems: Vec<Problem>,
    /// Where `getdents` writes.
    scratch: Vec<u8>,
    /// Buffers of folders that were left, for those that are entered next.
    spare: Vec<(Vec<u8>, Vec<Range<usize>>)>,
    summary: Summary,
}

/// A folder that is being read.
#[derive(Debug)]
struct Folder {
    directory: OwnedFd,
    /// Length of the walk's path without this folder's part.
    parent_len: usize,
    depth: u32,
    /// Names of one `getdents`, each with its NUL.
    names: Vec<u8>,
    /// Where the next name begins that was not looked at.
    at: usize,
    /// Where the names of folders stand that were looked at and not entered yet.
    folders: Vec<Range<usize>>,
    /// Whether the directory may have more names.
    more: bool,
}

impl Walk {
    /// Opens `root`; nothing below it is looked at yet. Errs when it cannot be opened.
    pub fn start(root: &Path, bounds: Bounds) -> io::Result<Self> {
        let flags = DIRECTORY_FLAGS.difference(OFlags::NOFOLLOW);
        let directory = rustix::fs::openat(CWD, root, flags, Mode::empty())?;
        let meta = stat(directory.as_fd(), c"", AtFlags::EMPTY_PATH)?;
        let bounds = Bounds { depth_max: bounds.depth_max.min(DEPTH_MAX), ..bounds };
        let folder = Folder {
            directory,
            parent_len: 0,
            depth: 0,
            names: vec![0],
            at: 1,
            folders: Vec::new(),
            more: bounds.depth_max > 0,
        };
        Ok(Self {
            bounds,
            device: meta.device,
            entries_seen: 1,
            stack: vec![folder],
            path: Vec::new(),
            batch: vec![(0..0, meta)],
            problems: Vec::new(),
            scratch: Vec::with_capacity(NAMES_BYTES),
            spare: Vec::new(),
            summary: Summary::default(),
        })
    }

    /// What it has come to so far.
    #[must_use]
    pub fn summary(&self) -> Summary {
        self.summary
    }

    /// Goes on for some dozens of entries. Breaks when there is nothing left, or when `visit` did.
    pub fn step(&mut self, visit: &mut dyn FnMut(Visit<'_>) -> ControlFlow<()>) -> ControlFlow<()> {
        // The directory itself is there to be told before any work.
        if self.batch.is_empty() && self.problems.is_empty() {
            self.advance()?;
        }
        self.tell(visit)
    }

    /// One piece of work: names read, entries looked at, or a folder entered or left. Breaks at the end.
    fn advance(&mut self) -> ControlFlow<()> {
        if self.summary.truncated {
            self.stack.clear();
        }
        let Some(folder) = self.stack.last_mut() else { return ControlFlow::Break(()) };
        if let Some(name) = folder.folders.pop() {
            self.enter(name);
        } else if folder.at < folder.names.len() {
            return self.read_batch();
        } else if folder.more {
            self.list();
        } else {
            self.leave();
        }
        ControlFlow::Continue(())
    }

    /// Goes back to the folder above the one on top.
    fn leave(&mut self) {
        let Some(mut folder) = self.stack.pop() else { return };
        self.path.truncate(folder.parent_len);
        folder.names.clear();
        self.spare.push((folder.names, folder.folders));
    }

    /// Looks at the next names of the folder on top.
    fn read_batch(&mut self) -> ControlFlow<()> {
        let Some(folder) = self.stack.last_mut() else { return ControlFlow::Break(()) };
        let allowed = self.bounds.entries_max.saturating_sub(self.entries_seen).min(BATCH);
        let mut taken = 0;
        while taken < allowed && folder.at < folder.names.len() {
            let Ok(name) = CStr::from_bytes_until_nul(&folder.names[folder.at..]) else { break };
            let range = folder.at..folder.at + name.to_bytes().len();
            folder.at = range.end + 1;
            match stat(folder.directory.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(meta) => {
                    if meta.is_directory() {
                        if meta.device != self.device {
                            self.summary.other_filesystems += 1;
                        } else if folder.depth + 1 >= self.bounds.depth_max {
                            self.summary.too_deep += 1;
                        } else {
                            folder.folders.push(range.clone());
                        }
                    }
                    taken += 1;
                    self.batch.push((range, meta));
                }
                Err(Errno::NOENT) => self.summary.vanished += 1,
                Err(errno) => {
                    taken += 1;
                    let path = [&self.path[..], &folder.names[range]].concat();
                    self.problems.push(Problem { path, errno });
                }
            }
        }
        self.entries_seen += taken; // names that vanished do not count
        if allowed < BATCH && folder.at < folder.names.len() {
            self.summary.truncated = true;
        }
        ControlFlow::Continue(())
    }

    /// Enters the folder that stands at `name` among the names of the folder on top.
    fn enter(&mut self, name: Range<usize>) {
        let Some(parent) = self.stack.last() else { return };
        let (parent_len, depth) = (self.path.len(), parent.depth + 1);
        let Ok(c_name) = CStr::from_bytes_until_nul(&parent.names[name.start..]) else { return };
        self.path.extend_from_slice(c_name.to_bytes());
        match rustix::fs::openat(&parent.directory, c_name, DIRECTORY_FLAGS, Mode::empty()) {
            Ok(directory) => {
                let (names, folders) = self.spare.pop().unwrap_or_default();
                self.path.push(b'/');
                self.stack.push(Folder {
                    directory,
                    parent_len,
                    depth,
                    names,
                    at: 0,
                    folders,
                    more: true,
                });
            }
            Err(errno) => {
                let path = self.path.clone();
                self.path.truncate(parent_len);
                match errno {
                    // Gone, or something else has taken its place.
                    Errno::NOENT | Errno::NOTDIR | Errno::LOOP => self.summary.vanished += 1,
                    _ => self.problems.push(Problem { path, errno }),
                }
            }
        }
    }

    /// Reads the next names of the folder on top: those of one `getdents`.
    fn list(&mut self) {
        let Some(folder) = self.stack.last_mut() else { return };
        folder.names.clear();
        folder.at = 0;
        let mut names = RawDir::new(&folder.directory, self.scratch.spare_capacity_mut());
        loop {
            match names.next() {
                None => folder.more = false,
                Some(Ok(entry)) => {
                    let name = entry.file_name();
                    if !matches!(name.to_bytes(), b"." | b"..") {
                        folder.names.extend_from_slice(name.to_bytes_with_nul());
                    }
                }
                Some(Err(errno)) => {
                    folder.more = false;
                    // The directory itself was removed meanwhile.
                    if errno != Errno::NOENT {
                        let path = self.path.strip_suffix(b"/").unwrap_or(&self.path).to_vec();
                        self.problems.push(Problem { path, errno });
                    }
                }
            }
            if !folder.more || names.is_buffer_empty() {
                return;
            }
        }
    }

    /// Tells what the present step found.
    fn tell(&mut self, visit: &mut dyn FnMut(Visit<'_>) -> ControlFlow<()>) -> ControlFlow<()> {
        let reported = self.tell_batch(visit);
        self.batch.clear();
        self.problems.clear();
        if reported.is_break() {
            self.summary.stopped = true;
            self.stack.clear();
        }
        reported
    }

    fn tell_batch(
        &mut self,
        visit: &mut dyn FnMut(Visit<'_>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        for problem in self.problems.drain(..) {
            self.summary.problems += 1;
            visit(Err(problem))?;
        }
        let (mut reported, mut entries) = (ControlFlow::Continue(()), 0);
        self.each(|entry| {
            if reported.is_continue() {
                entries += 1;
                reported = visit(Ok(entry));
            }
        });
        self.summary.entries += entries;
        reported
    }

    /// The entries that the present step looked at.
    fn each(&mut self, mut visit: impl FnMut(Entry<'_>)) {
        let (folder_len, folder) = (self.path.len(), self.stack.last());
        for (range, meta) in &self.batch {
            let name = folder.and_then(|f| f.names.get(range.clone())).unwrap_or_default();
            let depth = if name.is_empty() { 0 } else { folder.map_or(0, |f| f.depth) + 1 };
            self.path.extend_from_slice(name);
            visit(Entry { path: &self.path, name_at: folder_len, depth, meta });
            self.path.truncate(folder_len);
        }
    }
}

/// What the kernel says of `name` in `directory`. Never mounts anything to find out. Errs when the kernel does.
pub(crate) fn stat(directory: BorrowedFd<'_>, name: &CStr, flags: AtFlags) -> Result<Meta, Errno> {
    let flags = flags | AtFlags::NO_AUTOMOUNT;
    match rustix::fs::statx(directory, name, flags, StatxFlags::BASIC_STATS) {
        Ok(found) => Ok(from_statx(&found)),
        // Kernels before 4.11 do not know it, and sandboxes that do not know it refuse it.
        Err(Errno::NOSYS | Errno::PERM) => stat_plain(directory, name, flags),
        Err(errno) => Err(errno),
    }
}

fn from_statx(found: &Statx) -> Meta {
    let moment = |t: &rustix::fs::StatxTimestamp| Timestamp::from_parts(t.tv_sec, t.tv_nsec.into());
    Meta {
        mode: found.stx_mode,
        uid: found.stx_uid,
        gid: found.stx_gid,
        size_bytes: found.stx_size,
        allocated_bytes: found.stx_blocks.saturating_mul(512),
        device: rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor),
        inode: found.stx_ino,
        links: found.stx_nlink,
        modified: moment(&found.stx_mtime),
        changed: moment(&found.stx_ctime),
        immutable: found.stx_attributes.contains(StatxAttributes::IMMUTABLE),
        append_only: found.stx_attributes.contains(StatxAttributes::APPEND),
    }
}

#[allow(clippy::unnecessary_cast, clippy::cast_possible_wrap, clippy::cast_possible_truncation)]
fn stat_plain(directory: BorrowedFd<'_>, name: &CStr, flags: AtFlags) -> Result<Meta, Errno> {
    let found = rustix::fs::statat(directory, name, flags)?;
    let moment = |secs: i64, nanos: u64| Timestamp::from_parts(secs, nanos as i64);
    Ok(Meta {
        mode: found.st_mode as u16, // type and mode are sixteen bits in every kernel
        uid: found.st_uid,
        gid: found.st_gid,
        size_bytes: u64::try_from(found.st_size).unwrap_or(0),
        allocated_bytes: u64::try_from(found.st_blocks).unwrap_or(0).saturating_mul(512),
        device: found.st_dev as u64,
        inode: found.st_ino as u64,
        links: found.st_nlink as u32,
        modified: moment(found.st_mtime as i64, found.st_mtime_nsec as u64),
        changed: moment(found.st_ctime as i64, found.st_ctime_nsec as u64),
        immutable: false,
        append_only: false,
    })
}

/// A FIFO or a device in the place of a folder must not make the open wait or act.
const DIRECTORY_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);

/// Entries that one step looks at.
const BATCH: usize = 64;

/// Room for the names of one `getdents`: some 500 segment folders.
const NAMES_BYTES: usize = 32 * 1024;

#[cfg(test)]
mod tests;
