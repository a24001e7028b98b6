//! Who on this host holds which files: one walk of `/proc/*/fd` that serves every store.
//!
//! A store asks for the identities (device, inode) that it cares about; the walk keeps only descriptors of files that
//! somebody has asked for lately, and of deleted files on their devices. Callers at the same moment share a walk, a walk
//! runs on a thread of its own so that nobody is stuck with it, and a host with very many descriptors is looked at less
//! often, not with more of its time.

mod attributes;
mod holders;
mod locks;
pub(crate) mod mounts;
pub mod release;
mod rights;
pub(crate) mod walk;

use std::{
    collections::BTreeMap,
    os::unix::ffi::OsStrExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use parking_lot::{Condvar, Mutex, MutexGuard};
use rustix::{fs::FileType, io::Errno};

pub use self::{attributes::Attributes, locks::LockHolder, rights::Right};
use self::{
    holders::{Hit, LastWalk},
    walk::{Descriptor, Visitor, WalkError},
};
use crate::{
    clock::{self, Ticks, Timestamp},
    facts::error::CollectError,
    format::{
        proc::{Mount, parse_cmdline, parse_fdinfo_mount, parse_mountinfo, parse_stat},
        programs::{is_chroma_server, may_embed_chroma},
    },
    host::links,
};

pub use crate::facts::blind::{Blind, Suspect};
pub use sqlite_live::FileId;

/// A process, and not another one that got its pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Process id in the namespace of the procfs that was read.
    pub pid: u32,
    /// When it started, in clock ticks after boot.
    pub start_ticks: u64,
}

/// One process that holds a file of a store.
#[derive(Debug, Clone, PartialEq)]
pub struct Holder {
    /// Process id in the namespace of the procfs that was read.
    pub pid: u32,
    /// Short name as the kernel knows it, cleaned of control characters.
    pub comm: String,
    /// A Chroma server, or a program that embeds Chroma.
    pub server: bool,
    /// Whether it holds `chroma.sqlite3` open for writing.
    pub writes: bool,
    /// Effective user and groups (filesystem uid, filesystem gid and supplementary ones).
    pub uid: u32,
    /// See `uid`; the first is the filesystem gid.
    pub gids: Vec<u32>,
    /// When it started.
    pub started: Timestamp,
    /// The same in clock ticks after boot: with the pid it names one process for as long as the host is up.
    pub start_ticks: u64,
    /// Its descriptors of the file.
    pub descriptors: Vec<u32>,
    /// All its open descriptors.
    pub open_descriptors: u64,
    /// Forked children that only inherited descriptors of the file.
    pub children: Vec<u32>,
}

impl Holder {
    /// Whether `other` is the same process, not another one that got its pid.
    #[must_use]
    pub const fn is(&self, other: &Self) -> bool {
        self.pid == other.pid && self.start_ticks == other.start_ticks
    }
}

/// Whether anybody holds a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Somebody does.
    Yes,
    /// None does, and none that could not be looked into may be a Chroma.
    No,
    /// None of those that could be looked into does, but a [`Suspect`] may.
    Unknown,
}

/// A file without a name that a process keeps alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deleted {
    /// Who.
    pub pid: u32,
    /// By which descriptor.
    pub descriptor: u32,
    /// Which file.
    pub file: FileId,
    /// Whether that may write.
    pub writes: bool,
    /// Bytes that come free when the last such descriptor closes.
    pub allocated_bytes: u64,
    /// Its last name, from the root of the mount namespace that it was opened in.
    pub path: PathBuf,
}

/// What one walk found.
#[derive(Debug)]
pub struct Walk {
    files: BTreeMap<FileId, Arc<[Holder]>>,
    devices: Vec<u64>,
    deleted: Vec<Deleted>,
    unreadable: Vec<u32>,
    /// Why processes may be missing from it altogether.
    hidden: Option<Blind>,
}

impl Walk {
    /// The processes that hold `file`, oldest first; none when the walk was not asked for it.
    #[must_use]
    pub fn holders(&self, file: FileId) -> Arc<[Holder]> {
        self.files.get(&file).cloned().unwrap_or_default()
    }

    /// Deleted files that processes keep alive, on every device that the walk was asked for; at most
    /// [`DELETED_MAX`] descriptors of them.
    #[must_use]
    pub fn deleted(&self) -> &[Deleted] {
        &self.deleted
    }

    /// Processes whose open files could not be looked at (in full); each may hold anything.
    #[must_use]
    pub fn unreadable(&self) -> &[u32] {
        &self.unreadable
    }

    /// Why processes may be missing from it altogether.
    #[must_use]
    pub const fn hidden(&self) -> Option<&Blind> {
        self.hidden.as_ref()
    }

    fn covers(&self, files: &[FileId], devices: &[u64]) -> bool {
        files.iter().all(|file| self.files.contains_key(file))
            && devices.iter().all(|device| self.devices.contains(device))
    }
}

/// The processes of the host, read anew when asked for.
#[derive(Debug)]
pub struct ProcessTable {
    shared: Arc<Shared>,
    attributes: attributes::Reader,
    rights: OnceLock<Vec<Right>>,
}

#[derive(Debug)]
struct Shared {
    procfs: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
    /// What one walk leaves to the next; only the walk that is running takes it.
    memory: Mutex<LastWalk>,
}

#[derive(Debug, Default)]
struct State {
    /// What was asked for, and when last.
    files: BTreeMap<FileId, Ticks>,
    devices: BTreeMap<u64, Ticks>,
    running: Option<Ticks>,
    last: Option<(Ticks, Result<Arc<Walk>, WalkError>)>,
    /// The next walk may begin then.
    next: Option<Ticks>,
    walks: u64,
}

impl ProcessTable {
    /// The table behind `procfs`. Reads nothing yet.
    #[must_use]
    pub fn new(procfs: PathBuf) -> Self {
        Self {
            attributes: attributes::Reader::new(procfs.clone()),
            rights: OnceLock::new(),
            shared: Arc::new(Shared {
                procfs,
                state: Mutex::default(),
                changed: Condvar::new(),
                memory: Mutex::default(),
            }),
        }
    }

    /// The processes, without this one, that hold `file` (the identity of a `chroma.sqlite3`), from a walk that is not
    /// older than `max_age`. Forked children that only inherited the descriptors count as their parent. Where
    /// [`Walk::unreadable`] names any, there may be more: ask [`Self::held`] before relying on an empty answer. Errs when
    /// the processes could not be looked at.
    pub fn holders(&self, file: FileId, max_age: Duration) -> Result<Arc<[Holder]>, CollectError> {
        Ok(self.walk(&[file], &[], max_age)?.holders(file))
    }

    /// Whether any process but this one holds `file`. Errs when that cannot be told.
    pub fn held(&self, file: FileId, max_age: Duration) -> Result<Held, CollectError> {
        let walk = self.walk(&[file], &[], max_age)?;
        Ok(if !walk.holders(file).is_empty() {
            Held::Yes
        } else if self.blind(&walk).is_none() {
            Held::No
        } else {
            Held::Unknown
        })
    }

    /// Bytes of deleted files with a last name below `dir` on `device` that processes keep alive: what `df` counts and
    /// `du` does not. `dir` is a path of this process without links. Errs when the processes could not be looked at.
    pub fn deleted_bytes(
        &self,
        dir: &Path,
        device: u64,
        max_age: Duration,
    ) -> Result<u64, CollectError> {
        let walk = self.walk(&[], &[device], max_age)?;
        let mut counted = BTreeMap::new();
        for deleted in walk.deleted().iter().filter(|deleted| deleted.file.device == device) {
            if !counted.contains_key(&deleted.file) && self.was_below(deleted, dir) {
                counted.insert(deleted.file, deleted.allocated_bytes);
            }
        }
        Ok(counted.values().fold(0, |sum: u64, bytes| sum.saturating_add(*bytes)))
    }

    /// Everything that a walk not older than `max_age` knows of `files` and of deleted files on `devices`. Errs when
    /// procfs cannot be read, or when the walk does not come to an end.
    pub fn walk(
        &self,
        files: &[FileId],
        devices: &[u64],
        max_age: Duration,
    ) -> Result<Arc<Walk>, CollectError> {
        let asked = clock::ticks();
        let mut state = self.shared.lock();
        for file in files {
            state.files.insert(*file, asked);
        }
        for device in devices {
            state.devices.insert(*device, asked);
        }
        loop {
            let now = clock::ticks();
            let mut older = None;
            match &state.last {
                Some((began, Err(error))) if *began >= asked => return Err(error.clone().into()),
                Some((began, Ok(walk))) if walk.covers(files, devices) => {
                    if asked.since(*began) <= max_age {
                        return Ok(Arc::clone(walk));
                    }
                    older = Some(walk);
                }
                _ => {}
            }
            let pause = state.next.map_or(Duration::ZERO, |next| next.since(now));
            let wait = if let Some(began) = state.running {
                let waited = now.since(began);
                if waited >= WALK_DEADLINE {
                    let path = self.shared.procfs.clone();
                    return Err(CollectError::Hung { path, waited });
                }
                WALK_DEADLINE.saturating_sub(waited)
            } else if pause.is_zero() {
                self.shared.start(&mut state, now)?;
                continue;
            } else if let Some(older) = older.filter(|_| pause > PAUSE_WAIT_MAX) {
                return Ok(Arc::clone(older)); // better than a turn that only waits
            } else {
                pause
            };
            self.shared.changed.wait_for(&mut state, wait);
        }
    }

    /// Why somebody may hold a file whom `walk` has not seen; `None` when it has seen everybody who may be a Chroma.
    #[must_use]
    pub fn blind(&self, walk: &Walk) -> Option<Blind> {
        // The most telling one: a server.
        let suspect = || self.suspects(walk.unreadable()).into_iter().max_by_key(|s| s.server);
        walk.hidden.clone().or_else(|| suspect().map(Blind::Suspect))
    }

    /// Whether the process with this pid is still the one that started at `start_ticks`; `None` when that cannot be told.
    #[must_use]
    pub fn lives(&self, pid: u32, start_ticks: u64) -> Option<bool> {
        match walk::read(&self.shared.procfs, pid, "stat") {
            Ok(text) => {
                let stat = parse_stat(&text).ok()?;
                Some(stat.start_ticks == start_ticks && !matches!(stat.state, b'Z' | b'X'))
            }
            Err(error) if walk::ended(&error) => Some(false),
            Err(_) => None,
        }
    }

    /// The command line of a process, at most `COMMAND_CHARS_MAX` characters of it; `None` when it has none, or may not be read.
    #[must_use]
    pub fn command(&self, pid: u32) -> Option<String> {
        let text = walk::read(&self.shared.procfs, pid, "cmdline").ok()?;
        let words = parse_cmdline(&text).into_iter().map(String::from_utf8_lossy);
        let line = words.collect::<Vec<_>>().join(" ");
        let line: String = line.chars().take(COMMAND_CHARS_MAX).collect();
        (!line.trim().is_empty()).then_some(line)
    }

    /// Whether a lock of the kind that `flock` takes belongs to this descriptor of a process, as `fdinfo` says it.
    #[must_use]
    pub fn holds_flock(&self, pid: u32, descriptor: u32) -> bool {
        let text = walk::read(&self.shared.procfs, pid, &format!("fdinfo/{descriptor}"));
        text.is_ok_and(|text| {
            let text = String::from_utf8_lossy(&text);
            text.lines().any(|line| line.starts_with("lock:") && line.contains("FLOCK"))
        })
    }

    /// The mounts of every process that can be looked at, each mount namespace once, with one process in it.
    #[must_use]
    pub fn mounts(&self) -> Vec<(u32, Vec<Mount>)> {
        let procfs = &self.shared.procfs;
        let Ok(entries) = std::fs::read_dir(procfs) else { return Vec::new() };
        let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let (mut seen, mut out) = (std::collections::BTreeSet::new(), Vec::new());
        for pid in pids {
            let Ok(text) = walk::read(procfs, pid, "mountinfo") else { continue };
            if !text.is_empty() && seen.insert(text.clone()) {
                out.push((pid, parse_mountinfo(&text)));
            }
        }
        out
    }

    /// Attributes of one holder as they are now. Errs when it has ended.
    pub fn attributes(&self, holder: &Holder) -> Result<Attributes, CollectError> {
        self.attributes.read(holder)
    }

    /// Locks that processes other than this one hold on `file` by SQLite's rules. Errs when they cannot be read.
    pub fn locks(&self, file: FileId, holders: &[Holder]) -> Result<Vec<LockHolder>, CollectError> {
        locks::read(&self.shared.procfs, file, holders)
    }

    /// What this process may do, as far as it matters here; read once.
    #[must_use]
    pub fn rights(&self) -> &[Right] {
        self.rights.get_or_init(|| rights::read(&self.shared.procfs))
    }

    /// Those of `pids` that may be a Chroma, server or embedded, by their command lines, which are open to everybody where
    /// open files are not. On most hosts somebody may not be looked into, at least the first process; if each of them
    /// might hold every store, nobody would ever be known to hold none.
    #[must_use]
    pub fn suspects(&self, pids: &[u32]) -> Vec<Suspect> {
        pids.iter().filter_map(|pid| self.suspect(*pid)).collect()
    }

    fn suspect(&self, pid: u32) -> Option<Suspect> {
        let procfs = &self.shared.procfs;
        let stat = match walk::read(procfs, pid, "stat") {
            Err(error) if walk::ended(&error) => return None,
            text => text.ok().and_then(|text| parse_stat(&text).ok()),
        };
        let comm = stat.as_ref().map_or_else(String::new, |stat| stat.comm.clone());
        // The command line of a process that waits for a device may wait with it.
        let text = match stat {
            Some(stat) if stat.state != b'D' => walk::read(procfs, pid, "cmdline").ok(),
            _ => None,
        };
        let Some(text) = text else { return Some(Suspect { pid, comm, server: false }) };
        let arguments = parse_cmdline(&text);
        let server = is_chroma_server(&arguments);
        (server || may_embed_chroma(&comm, &arguments)).then_some(Suspect { pid, comm, server })
    }

    /// Whether the last name of `deleted` lay in `dir` or below it. `dir` is a path of this process without links, and
    /// both are compared by their place in the filesystem, whoever mounted it where.
    #[must_use]
    pub fn was_below(&self, deleted: &Deleted, dir: &Path) -> bool {
        self.place_of(deleted, dir).is_some_and(|(was, is)| was.starts_with(is))
    }

    /// Whether the last name of `deleted` was `path`, by the same rules.
    #[must_use]
    pub fn was_named(&self, deleted: &Deleted, path: &Path) -> bool {
        // The name is cheap to look at, the mounts are not.
        deleted.path.file_name() == path.file_name()
            && self.place_of(deleted, path).is_some_and(|(was, is)| was == is)
    }

    /// Both paths in terms in which they can be compared.
    fn place_of(&self, deleted: &Deleted, path: &Path) -> Option<(PathBuf, PathBuf)> {
        let procfs = &self.shared.procfs;
        // A path through the root of another process is a name among its mounts.
        let through = links::through_process(procfs, path);
        let (eyes, path) = match &through {
            Some((pid, inner)) => (pid.to_string(), inner.as_path()),
            None => ("self".to_owned(), path),
        };
        let own = parse_mountinfo(&walk::read_text(&procfs.join(&eyes).join("mountinfo")).ok()?);
        let theirs = walk::read(procfs, deleted.pid, "mountinfo").ok()?;
        let theirs = parse_mountinfo(&theirs);
        let info = walk::read(procfs, deleted.pid, &format!("fdinfo/{}", deleted.descriptor));
        let mount = info.ok().and_then(|text| parse_fdinfo_mount(&text).ok());
        let is = mounts::place(&own, path);
        let was = mount.and_then(|id| mounts::place_on(&theirs, id, &deleted.path));
        if let (Some(was), Some(is)) = (was, is) {
            return (was.device == is.device).then_some((was.path, is.path));
        }
        // A process that changed its root shows mounts below it only; names are those of the namespace, which then is
        // often ours.
        let namespace = |pid: &str| std::fs::read_link(procfs.join(pid).join("ns/mnt")).ok();
        let shared =
            namespace(&eyes).is_some_and(|own| namespace(&deleted.pid.to_string()) == Some(own));
        shared.then(|| (deleted.path.clone(), path.to_owned()))
    }
}

/// A file of this process in `procfs`.
fn read_own(procfs: &Path, name: &str) -> Option<Vec<u8>> {
    walk::read_text(&procfs.join("self").join(name)).ok()
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn start(self: &Arc<Self>, state: &mut State, now: Ticks) -> Result<(), CollectError> {
        state.files.retain(|_, asked| now.since(*asked) <= FORGET_AFTER);
        state.devices.retain(|_, asked| now.since(*asked) <= FORGET_AFTER);
        let files: Vec<FileId> = state.files.keys().copied().collect();
        let mut devices: Vec<u64> = state.devices.keys().copied().collect();
        devices.extend(files.iter().map(|file| file.device));
        devices.sort_unstable();
        devices.dedup();
        let shared = Arc::clone(self);
        std::thread::Builder::new()
            .name("processes".to_owned())
            .spawn(move || shared.run(now, &files, devices))
            .map_err(|source| CollectError::Unreadable { path: self.procfs.clone(), source })?;
        state.running = Some(now);
        state.walks += 1;
        Ok(())
    }

    fn run(&self, began: Ticks, files: &[FileId], devices: Vec<u64>) {
        let mut memory = self.memory.lock();
        let cost = clock::thread_cpu();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            read_all(&self.procfs, began, files, devices, &mut memory).map(Arc::new)
        }))
        .unwrap_or_else(|_| {
            *memory = LastWalk::default();
            Err(WalkError::Panicked { path: self.procfs.clone() })
        });
        drop(memory);
        let mut state = self.lock();
        state.running = None;
        let cost = clock::thread_cpu().saturating_sub(cost);
        state.next = Some(began.plus(cost * PAUSE_FACTOR));
        state.last = Some((began, outcome));
        drop(state);
        self.changed.notify_all();
    }
}

fn read_all(
    procfs: &Path,
    began: Ticks,
    files: &[FileId],
    devices: Vec<u64>,
    memory: &mut LastWalk,
) -> Result<Walk, WalkError> {
    let mut finder = Finder {
        files,
        devices: &devices,
        hits: Vec::new(),
        deleted: Vec::new(),
        open_descriptors: BTreeMap::new(),
    };
    let except = walk::own_pid(procfs);
    let walked = walk::walk(procfs, except, &mut memory.kernel_threads, &mut finder)?;
    let Finder { hits, deleted, open_descriptors, .. } = finder;
    let found = holders::Found { files, hits: &hits, open_descriptors: &open_descriptors };
    let (files, lost) = holders::build(procfs, began, except, &found, memory);
    let unreadable = walked.unreadable.into_iter().chain(lost).collect();
    Ok(Walk { files, devices, deleted, unreadable, hidden: rights::hidden(procfs) })
}

/// Picks the descriptors that somebody asked for.
struct Finder<'a> {
    /// Sorted.
    files: &'a [FileId],
    devices: &'a [u64],
    hits: Vec<Hit>,
    deleted: Vec<Deleted>,
    /// Of the processes in `hits`.
    open_descriptors: BTreeMap<u32, u64>,
}

impl Visitor for Finder<'_> {
    fn descriptor(&mut self, descriptor: &Descriptor<'_>) -> Result<(), Errno> {
        let stat = descriptor.stat()?;
        let file = FileId::from(&stat);
        if !self.devices.contains(&file.device) {
            return Ok(()); // sockets, pipes and nearly all the rest
        }
        if self.files.binary_search(&file).is_ok() {
            let access = descriptor.access()?;
            self.hits.push(Hit {
                pid: descriptor.pid,
                descriptor: descriptor.number,
                file,
                writes: access.writes,
            });
        }
        let regular = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::RegularFile;
        if stat.stx_nlink == 0 && regular && self.deleted.len() < DELETED_MAX {
            let (link, access) = (descriptor.link()?, descriptor.access()?);
            let name = link.strip_suffix(b" (deleted)").unwrap_or(&link);
            self.deleted.push(Deleted {
                pid: descriptor.pid,
                descriptor: descriptor.number,
                file,
                writes: access.writes,
                allocated_bytes: stat.stx_blocks.saturating_mul(512),
                path: std::ffi::OsStr::from_bytes(name).into(),
            });
        }
        Ok(())
    }

    fn process(&mut self, pid: u32, descriptors: u64) {
        if self.hits.last().is_some_and(|hit| hit.pid == pid) {
            self.open_descriptors.insert(pid, descriptors);
        }
    }
}

/// Whether a process of this short name looks at databases by SQLite alone: it builds no vectors, so it cannot lose any.
pub(crate) fn is_sqlite_tool(comm: &str) -> bool {
    SQLITE_TOOLS.contains(&comm)
}

const SQLITE_TOOLS: [&str; 11] = [
    "sqlite3",
    "sqlite3_analyze",
    "sqldiff",
    "sqlite3_rsync",
    "sqlitebrowser",
    "sqlitestudio",
    "sqlite-utils",
    "sqlite_web",
    "litecli",
    "datasette",
    "litestream",
];

/// A store that asks no more is forgotten after this long.
const FORGET_AFTER: Duration = Duration::from_mins(10);
/// Nobody waits longer for a walk.
const WALK_DEADLINE: Duration = Duration::from_secs(10);
/// From one beginning to the next there are this many times its processor time: at most 5 % of one core, however many wake us.
const PAUSE_FACTOR: u32 = 20;
/// A pause longer than this is not waited for.
const PAUSE_WAIT_MAX: Duration = Duration::from_secs(1);
/// More of a command line than says what it is.
const COMMAND_CHARS_MAX: usize = 200;
/// Most descriptors of deleted files that a walk remembers.
pub const DELETED_MAX: usize = 10_000;

#[cfg(test)]
pub(crate) mod tests;
