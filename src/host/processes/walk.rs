//! One walk over the open descriptors of every process.
//!
//! Each descriptor is asked for the identity of its file by one `statx` through its link in `/proc/PID/fd`, which works
//! across mount namespaces, bind mounts and deletion; `AT_STATX_DONT_SYNC` keeps a network or FUSE filesystem whose
//! server is away from holding the answer back. Only processes are listed there, so threads are never counted.

use std::{
    collections::HashMap,
    ffi::CStr,
    io,
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, RawDir, Statx, StatxFlags},
    io::Errno,
};

use crate::{facts::error::CollectError, format::proc::parse_stat, host::read::read_beginning};

/// Why a walk gave nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum WalkError {
    #[error("cannot read {}", .path.display())]
    Unreadable { path: PathBuf, source: Errno },
    #[error("{} lists no process; it is no procfs", .path.display())]
    NoProcess { path: PathBuf },
    #[error("the walk of {} panicked", .path.display())]
    Panicked { path: PathBuf },
}

impl From<WalkError> for CollectError {
    fn from(error: WalkError) -> Self {
        match error {
            WalkError::Unreadable { path, source } => {
                Self::Unreadable { path, source: source.into() }
            }
            WalkError::Panicked { .. } => Self::Panicked(error.to_string()),
            WalkError::NoProcess { path } => Self::NoProcfs { path },
        }
    }
}

/// One open descriptor of some process, while its directory is open.
pub(crate) struct Descriptor<'a> {
    /// The process.
    pub(crate) pid: u32,
    /// Its number there.
    pub(crate) number: u32,
    dir: BorrowedFd<'a>,
    name: &'a CStr,
}

impl Descriptor<'_> {
    /// The file behind it, without waiting for a filesystem that would have to ask a server. Errs when the kernel does.
    pub(crate) fn stat(&self) -> Result<Statx, Errno> {
        // Type, inode, links and sizes come with the basic set whether asked for or not; device numbers always do.
        rustix::fs::statx(self.dir, self.name, AT, StatxFlags::BASIC_STATS)
    }

    /// Whether it was opened for reading, and for writing: the kernel shows it as the mode of the link. Errs when the link
    /// has gone.
    pub(crate) fn access(&self) -> Result<Access, Errno> {
        let flags = AT | AtFlags::SYMLINK_NOFOLLOW;
        let link = rustix::fs::statx(self.dir, self.name, flags, StatxFlags::MODE)?;
        let mode = Mode::from_raw_mode(link.stx_mode.into());
        Ok(Access { reads: mode.contains(Mode::RUSR), writes: mode.contains(Mode::WUSR) })
    }

    /// The name that the kernel gives the file: a path from the root of the mount namespace that it was opened in, with
    /// ` (deleted)` at its end when it has no name any more. Errs when the link has gone.
    pub(crate) fn link(&self) -> Result<Vec<u8>, Errno> {
        rustix::fs::readlinkat(self.dir, self.name, Vec::new()).map(std::ffi::CString::into_bytes)
    }
}

/// How a descriptor was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) reads: bool,
    pub(crate) writes: bool,
}

/// Who looks at the descriptors.
pub(crate) trait Visitor {
    /// Looks at one. What could not be learnt is an error; the walk judges it.
    fn descriptor(&mut self, descriptor: &Descriptor<'_>) -> Result<(), Errno>;

    /// All descriptors of a process have been seen.
    fn process(&mut self, pid: u32, descriptors: u64);
}

/// What a walk says of itself.
#[derive(Debug, Default)]
pub(crate) struct Walked {
    /// Processes that have not been looked into, at least not in full.
    pub(crate) unreadable: Vec<u32>,
}

/// Which pids are threads of the kernel. They hold nothing, but whoever may not look into foreign processes cannot see
/// that by their (empty) list of descriptors. The inode of `/proc/PID` is part of the key: it changes when the kernel
/// gives the pid to another process.
#[derive(Debug, Default)]
pub(crate) struct KernelThreads {
    known: HashMap<(u32, u64), bool>,
}

/// Shows every descriptor of every process but `except` to `visitor`. Processes that end meanwhile are normal. Errs when
/// procfs cannot be listed.
pub(crate) fn walk(
    procfs: &Path,
    except: Option<u32>,
    kernel_threads: &mut KernelThreads,
    visitor: &mut impl Visitor,
) -> Result<Walked, WalkError> {
    let unreadable = |errno| WalkError::Unreadable { path: procfs.to_owned(), source: errno };
    let root = open_dir(rustix::fs::CWD, procfs).map_err(unreadable)?;
    let (mut pids, mut numbers) = (buffer(), buffer());
    let mut walked = Walked::default();
    let mut seen = HashMap::with_capacity(kernel_threads.known.len());
    let mut any = false;
    let mut processes = RawDir::new(&root, &mut pids);
    while let Some(entry) = processes.next() {
        let entry = entry.map_err(unreadable)?;
        let Some(pid) = number(entry.file_name()) else { continue };
        any = true;
        if Some(pid) == except {
            continue;
        }
        match read_process(&root, pid, &mut numbers, visitor) {
            Ok(()) | Err(Errno::NOENT | Errno::SRCH) => {} // done, or it has ended
            Err(errno @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM)) => {
                return Err(unreadable(errno));
            }
            Err(_) => {
                let key = (pid, entry.ino());
                let known = kernel_threads.known.get(&key).copied();
                let Some(kernel) = known.or_else(|| kernel_thread(procfs, pid)) else { continue };
                seen.insert(key, kernel);
                if !kernel {
                    walked.unreadable.push(pid);
                }
            }
        }
    }
    kernel_threads.known = seen;
    if any { Ok(walked) } else { Err(WalkError::NoProcess { path: procfs.to_owned() }) }
}

fn read_process(
    root: &OwnedFd,
    pid: u32,
    buffer: &mut [MaybeUninit<u8>],
    visitor: &mut impl Visitor,
) -> Result<(), Errno> {
    let dir = open_dir(root, format!("{pid}/fd"))?;
    let mut count = 0;
    let mut partly = None;
    let mut descriptors = RawDir::new(&dir, buffer);
    while let Some(entry) = descriptors.next() {
        let entry = entry?;
        let name = entry.file_name();
        let Some(number) = number(name) else { continue };
        count += 1;
        let dir = std::os::fd::AsFd::as_fd(&dir);
        match visitor.descriptor(&Descriptor { pid, number, dir, name }) {
            // Closed meanwhile, or a file that its server has forgotten: nobody can reach that by a path either.
            Ok(()) | Err(Errno::NOENT | Errno::SRCH | Errno::STALE) => {}
            // The right to look through a descriptor is one of the process: the others would answer the same.
            Err(errno @ (Errno::ACCESS | Errno::PERM)) => return Err(errno),
            Err(errno) => partly = Some(errno),
        }
    }
    visitor.process(pid, count);
    partly.map_or(Ok(()), Err)
}

/// Whether a process that refused is a thread of the kernel; `None` when it is ending: then the kernel refuses as well,
/// but it holds nothing any more.
fn kernel_thread(procfs: &Path, pid: u32) -> Option<bool> {
    match read(procfs, pid, "stat") {
        Ok(text) => match parse_stat(&text) {
            Ok(stat) if matches!(stat.state, b'Z' | b'X') => None,
            parsed => Some(parsed.is_ok_and(|stat| stat.kernel_thread())),
        },
        Err(error) if ended(&error) => None,
        Err(_) => Some(false),
    }
}

/// Whether the process that started then still runs, and is not another one that got its pid.
pub(crate) fn runs(procfs: &Path, pid: u32, start_ticks: u64) -> bool {
    started(procfs, pid) == Some(start_ticks)
}

/// When the process started, in clock ticks after boot; `None` when none runs under this pid.
pub(crate) fn started(procfs: &Path, pid: u32) -> Option<u64> {
    let stat = parse_stat(&read(procfs, pid, "stat").ok()?).ok()?;
    (!matches!(stat.state, b'Z' | b'X')).then_some(stat.start_ticks)
}

/// Whether an error of procfs means that the process is no more.
pub(crate) fn ended(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(Errno::SRCH.raw_os_error())
}

/// Reads a file of one process, at most [`TEXT_BYTES_MAX`] of it. Errs when the process has ended, or may not be read.
pub(crate) fn read(procfs: &Path, pid: u32, name: &str) -> io::Result<Vec<u8>> {
    read_text(&procfs.join(format!("{pid}/{name}")))
}

/// Reads a file of procfs, at most [`TEXT_BYTES_MAX`] of it. Errs when it cannot be read.
pub(crate) fn read_text(path: &Path) -> io::Result<Vec<u8>> {
    read_beginning(path, TEXT_BYTES_MAX)
}

/// The pid of this process in the namespace that `procfs` shows; `None` when it is not to be seen there.
pub(crate) fn own_pid(procfs: &Path) -> Option<u32> {
    std::fs::read_link(procfs.join("self")).ok()?.to_str()?.parse().ok()
}

fn open_dir(at: impl std::os::fd::AsFd, path: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(at, path, flags, Mode::empty())
}

fn number(name: &CStr) -> Option<u32> {
    let digits = name.to_bytes();
    digits[..].first().filter(|b| b.is_ascii_digit())?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn buffer() -> Vec<MaybeUninit<u8>> {
    vec![MaybeUninit::uninit(); DIRECTORY_BUFFER_BYTES]
}

pub(crate) const AT: AtFlags = AtFlags::STATX_DONT_SYNC.union(AtFlags::NO_AUTOMOUNT);
const DIRECTORY_BUFFER_BYTES: usize = 32 * 1024;
/// Mount tables of 100,000 mounts and lock tables of as many locks fit.
pub(crate) const TEXT_BYTES_MAX: u64 = 16 * 1024 * 1024;
