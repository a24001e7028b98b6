//! The looks themselves: at the core of a store in every run, at what lies directly in it, and at everything in slices.

use std::{
    collections::BTreeMap,
    ffi::CStr,
    io,
    ops::ControlFlow,
    os::{
        fd::{AsFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, StatxFlags},
    io::Errno,
};

use super::{
    SavedPermissions,
    baseline::{List, Shape},
    judge::{Judge, LISTED_MAX, Place, Refused, Tally, Tier, inode_of},
    lists::{self, Lists},
    servers::{Server, Users},
};
use crate::{
    clock::{self, Timestamp},
    collectors::{CollectError, Run},
    format::{
        access::{self, Identity},
        accounts::Accounts,
        hash::path_hash,
        uuid::is_segment_name,
    },
    host::{
        processes::FileId,
        walk::{self, Bounds, Entry, Meta, Problem, Summary, Walk},
    },
    store::{Context, DATABASE_FILE},
};

/// Opens the persist directory. Errs when it cannot be opened.
pub(super) fn open(path: &Path) -> Result<OwnedFd, CollectError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, path, flags, Mode::empty())
        .map_err(|errno| CollectError::Unreadable { path: path.to_owned(), source: errno.into() })
}

/// What is looked at in every run: the directory itself and the files that SQLite works with.
#[derive(Debug)]
pub(super) struct Core {
    root: OwnedFd,
    meta: Meta,
    files: Vec<(&'static CStr, Meta)>,
    /// What the database is when its name is a link.
    target: Option<Meta>,
}

const FILES: [&CStr; 4] =
    [c"chroma.sqlite3", c"chroma.sqlite3-journal", c"chroma.sqlite3-wal", c"chroma.sqlite3-shm"];

/// The entries that stay known although they are away for a while.
pub(super) fn core_hashes() -> [u64; 2] {
    [path_hash(b""), path_hash(DATABASE_FILE.as_bytes())]
}

impl Core {
    /// Looks at the core of the directory behind `root`. What is not there is left out. Errs when the directory itself
    /// cannot be read.
    pub(super) fn read(root: OwnedFd, path: &Path) -> Result<Self, CollectError> {
        let unreadable =
            |path: PathBuf, errno: Errno| CollectError::Unreadable { path, source: errno.into() };
        let meta = walk::stat(root.as_fd(), c"", AtFlags::EMPTY_PATH)
            .map_err(|errno| unreadable(path.to_owned(), errno))?;
        let mut files = Vec::with_capacity(FILES.len());
        for name in FILES {
            match walk::stat(root.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(meta) => files.push((name, meta)),
                Err(Errno::NOENT) => {}
                Err(errno) => {
                    return Err(unreadable(path.join(name.to_string_lossy().as_ref()), errno));
                }
            }
        }
        let link = files.first().is_some_and(|(name, meta)| {
            *name == FILES[0] && meta.file_type() == rustix::fs::FileType::Symlink
        });
        let target =
            if link { walk::stat(root.as_fd(), FILES[0], AtFlags::empty()).ok() } else { None };
        Ok(Self { root, meta, files, target })
    }

    /// Which directory it is.
    pub(super) fn directory_id(&self) -> FileId {
        FileId { device: self.meta.device, inode: self.meta.inode }
    }

    /// Which file the database is, links followed.
    pub(super) fn database_id(&self) -> Option<FileId> {
        let named = self.files.first().filter(|(name, _)| *name == FILES[0]).map(|(_, meta)| meta);
        let meta = self.target.as_ref().or(named)?;
        Some(FileId { device: meta.device, inode: meta.inode })
    }

    /// Whether Chroma ever worked here: its database or what SQLite leaves beside one, or the folder of a segment. Of the first
    /// entries only: a directory with more that has none of it is another one.
    pub(super) fn is_store(&self, path: &Path) -> bool {
        if !self.files.is_empty() {
            return true;
        }
        let entries = std::fs::read_dir(path).into_iter().flatten().take(TOP_ENTRIES_MAX);
        entries.flatten().any(|entry| {
            is_segment_name(entry.file_name().as_bytes())
                && entry.file_type().is_ok_and(|kind| kind.is_dir())
        })
    }

    /// Whether a link stands in place of the database.
    pub(super) const fn is_linked(&self) -> bool {
        self.target.is_some()
    }

    /// Owner and group of the directory.
    pub(super) fn owner(&self) -> (u32, u32) {
        (self.meta.uid, self.meta.gid)
    }

    /// The mount that the directory was opened through; `None` on kernels before 5.8.
    pub(super) fn mount_id(&self) -> Option<u64> {
        let found =
            rustix::fs::statx(&self.root, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
        (found.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(found.stx_mnt_id)
    }

    /// Judges the core.
    pub(super) fn judge(
        &self,
        context: &Context,
        memory: &mut SavedPermissions,
        users: &Users,
    ) -> Tally {
        let mut judge = judge(context, memory, users, None);
        let root = Entry { path: b"", name_at: 0, depth: 0, meta: &self.meta };
        judge.entry(&mut memory.baseline, &root);
        for (name, meta) in &self.files {
            let entry = Entry { path: name.to_bytes(), name_at: 0, depth: 1, meta };
            judge.entry(&mut memory.baseline, &entry);
        }
        if let Some(target) = &self.target {
            let entry = Entry { path: FILES[0].to_bytes(), name_at: 0, depth: 1, meta: target };
            judge.target(&entry, Place::Database);
        }
        let mut tally = std::mem::take(&mut judge.tallies[Tier::Core as usize]);
        if let Some(refused) = refused_parent(memory, &users.servers) {
            tally.unwritable += 1;
            tally.refused_examples.insert(0, refused);
            tally.refused_examples.truncate(LISTED_MAX);
        }
        tally
    }
}

/// The first folder above the directory that a server may not go through.
fn refused_parent(memory: &SavedPermissions, servers: &[Server]) -> Option<Refused> {
    for parent in memory.servers.parents(servers) {
        let Ok(found) = rustix::fs::stat(&parent) else { continue };
        let Ok(mode) = u16::try_from(found.st_mode) else { continue };
        let is = Shape { mode, uid: found.st_uid, gid: found.st_gid, list: List::Unread };
        let inode = access::Inode {
            mode,
            uid: is.uid,
            gid: is.gid,
            immutable: false,
            append_only: false,
            readonly: false,
        };
        for Server { identity, .. } in servers {
            let list = if access::list_counts(identity, &inode) {
                match lists::read(&parent, lists::ACCESS) {
                    Ok(list) => list,
                    Err(_) => continue, // not known
                }
            } else {
                None
            };
            if let Err(refusal) = access::may(identity, &inode, list.as_ref(), access::SEARCH) {
                return Some(Refused {
                    path: parent.as_os_str().as_bytes().to_vec(),
                    is,
                    refusal,
                    server: identity.clone(),
                });
            }
        }
    }
    None
}

/// A judge of one look.
pub(super) fn judge(
    context: &Context,
    memory: &SavedPermissions,
    users: &Users,
    lists_since: Option<Timestamp>,
) -> Judge {
    let servers = users.servers.iter().map(|s| s.identity.clone()).collect();
    let lists = Lists::new(&context.store.seen_path);
    let mut judge = Judge::new(&context.store.permissions, servers, lists);
    judge.readonly = users.readonly;
    judge.learning = memory.baseline.learnt_at.is_none();
    judge.lists_since = lists_since;
    judge
}

/// A look at what lies directly in the directory, and the work it was; no tally when there is too much, or when it
/// cannot be read.
pub(super) fn at_top(
    context: &Context,
    memory: &mut SavedPermissions,
    users: &Users,
    lists_since: Option<Timestamp>,
) -> (Option<Tally>, Duration) {
    let began = clock::ticks();
    let mut judge = judge(context, memory, users, lists_since);
    let bounds = Bounds { entries_max: TOP_ENTRIES_MAX, depth_max: 1 };
    let summary = walk::walk(&context.store.seen_path, bounds, &mut |found| {
        if let Ok(entry) = found {
            judge.entry(&mut memory.baseline, &entry);
        }
        ControlFlow::Continue(())
    });
    let whole = summary.is_ok_and(|s| s.problems == 0 && !s.truncated);
    let tally = std::mem::take(&mut judge.tallies[Tier::Top as usize]);
    (whole.then_some(tally), began.elapsed())
}

/// As whom Chroma runs, told from who owns what it made, for the time when no process was ever seen: the owner of more than half
/// of it, when that user may write in the directory itself. `None` when there is no such user, when it is root, who may do
/// everything, or when there is too much to look at. A store that nobody may write is one to read from.
pub(super) fn majority(context: &Context) -> Option<Server> {
    let mut owners: BTreeMap<(u32, u32), u64> = BTreeMap::new();
    let (mut entries, mut directory) = (0_u64, None);
    let bounds = Bounds { entries_max: TOP_ENTRIES_MAX, depth_max: 2 };
    let summary = walk::walk(&context.store.seen_path, bounds, &mut |found| {
        if let Ok(entry) = found {
            let place = Place::of(&entry);
            if place == Place::Directory {
                directory = Some(*entry.meta);
            }
            if !matches!(place, Place::Other | Place::Journal) {
                entries += 1;
                *owners.entry((entry.meta.uid, entry.meta.gid)).or_default() += 1;
            }
        }
        ControlFlow::Continue(())
    });
    if !summary.is_ok_and(|summary| summary.problems == 0) {
        return None;
    }
    let ((uid, gid), owned) = owners.into_iter().max_by_key(|(_, owned)| *owned)?;
    if uid == 0 || owned * 2 <= entries {
        return None;
    }
    let identity = Identity { uid, gids: groups_of(context, uid, gid), overrides: false };
    let inode = inode_of(&directory?, false);
    access::may(&identity, &inode, None, access::WRITE | access::SEARCH).ok()?;
    // Nothing is known of the mounts that it sees.
    Some(Server { identity, our_mounts: Some(false), writes: false })
}

/// The groups of a user as the host's files name them, the one that its files belong to first.
fn groups_of(context: &Context, uid: u32, gid: u32) -> Vec<u32> {
    let file = |name: &str| {
        std::fs::read(context.config.rootfs.join("etc").join(name)).unwrap_or_default()
    };
    let (passwd, group) = (file("passwd"), file("group"));
    let accounts = Accounts { passwd: &passwd, group: &group };
    let mut gids = vec![gid];
    let named = accounts.user_by_id(uid).map(|user| accounts.groups_of(user)).unwrap_or_default();
    gids.extend(named.into_iter().filter(|named| *named != gid));
    gids
}

/// What a walk could not look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Missed {
    /// An entry, or what is in a folder.
    Entry(Problem),
    /// This many more of the same sort.
    More(u64),
    /// What is beyond the bound of entries.
    Rest,
    /// What is in this many folders that lie too deep.
    Deep(u64),
}

/// A look at everything, under way or done.
#[derive(Debug)]
pub(super) struct Scan {
    walk: Walk,
    pub(super) judge: Judge,
    pub(super) users: Users,
    pub(super) began_at: Timestamp,
    pub(super) work: Duration,
    pub(super) missed: Vec<Missed>,
}

/// What one slice did.
pub(super) struct Worked {
    pub(super) time: Duration,
    pub(super) done: bool,
}

impl Scan {
    /// Begins at the root of the walk. Errs when it cannot be opened.
    pub(super) fn start(
        context: &Context,
        memory: &mut SavedPermissions,
        users: Users,
        lists_since: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Self, CollectError> {
        let bounds = Bounds { entries_max: context.config.limits.entries, depth_max: DEPTH_MAX };
        memory.baseline.begin();
        Ok(Self {
            walk: Walk::start(&context.store.seen_path, bounds)
                .map_err(|source| unreadable(context, source))?,
            judge: judge(context, memory, &users, lists_since),
            users,
            began_at: now,
            work: Duration::ZERO,
            missed: Vec::new(),
        })
    }

    /// Works for about `allowance`, or until everything is seen or the run is stopped.
    pub(super) fn run(
        &mut self,
        memory: &mut SavedPermissions,
        run: &Run,
        allowance: Duration,
    ) -> Worked {
        let began = clock::ticks();
        let mut done = false;
        while !done && !run.stopped() && began.elapsed() < allowance {
            let Self { walk, judge, missed, .. } = self;
            done = walk
                .step(&mut |found| {
                    match found {
                        Ok(entry) => {
                            judge.entry(&mut memory.baseline, &entry);
                        }
                        Err(problem) => note(missed, problem),
                    }
                    ControlFlow::Continue(())
                })
                .is_break();
        }
        let time = began.elapsed();
        self.work += time;
        if done {
            self.end(self.walk.summary());
        }
        Worked { time, done }
    }

    fn end(&mut self, summary: Summary) {
        let more = summary.problems.saturating_sub(self.missed.len() as u64);
        if more > 0 {
            self.missed.push(Missed::More(more));
        }
        if summary.truncated {
            self.missed.push(Missed::Rest);
        }
        if summary.too_deep > 0 {
            self.missed.push(Missed::Deep(summary.too_deep));
        }
    }
}

fn note(missed: &mut Vec<Missed>, problem: Problem) {
    if missed.len() < LISTED_MAX {
        missed.push(Missed::Entry(problem));
    }
}

fn unreadable(context: &Context, source: io::Error) -> CollectError {
    CollectError::Unreadable { path: context.store.seen_path.clone(), source }
}

/// Chroma's directories have two levels.
pub(super) const DEPTH_MAX: u32 = 16;

/// Some milliseconds of work.
const TOP_ENTRIES_MAX: usize = 4_096;
