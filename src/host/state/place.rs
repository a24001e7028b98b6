//! The state directory itself: reached without trusting a name that another user could have made, and entered by a
//! descriptor. A program of root follows links and makes files with all its rights, so it takes no directory that
//! somebody else owns or may write to, nor one below such a directory: whoever can plant a link there would say which file of
//! the host is changed.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, RawMode, Stat, fstat, openat},
    io::Errno,
    process::{Gid, Uid, geteuid},
};
use tracing::{info, warn};

/// Why a directory is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Obstacle {
    /// The operating system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Somebody else could say what happens in it.
    #[error("{what}")]
    Unsafe {
        /// What is wrong, and where.
        what: String,
        /// What to do.
        hint: String,
    },
}

impl Obstacle {
    /// What to do, as a line of its own for a terminal; empty where the cause says it.
    pub(crate) fn help(&self) -> String {
        match self {
            Self::Io(_) => String::new(),
            Self::Unsafe { hint, .. } => format!("help: {hint}\n"),
        }
    }
}

impl From<Errno> for Obstacle {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// Opens the state directory at `path` for its owner, makes what is absent of it (mode 0700), and takes away the right of
/// others to write there when it is ours. Errs when it belongs to another user than us or root, or, as root, when somebody else
/// could exchange a directory above it.
pub(super) fn claim(path: &Path) -> Result<OwnedFd, Obstacle> {
    let user = geteuid().as_raw();
    let trust = Trust { user, mapped: maps_all_users() };
    let dir = if user == 0 { walk(path, trust)? } else { make(path)? };
    let stat = fstat(&dir)?;
    trust.owner(&stat, path)?;
    let writable_by = writable_by(&stat, user);
    if writable_by != 0 {
        close_to_others(&dir, &stat, path, writable_by);
    }
    Ok(dir)
}

/// Enters the state directory at `path` for a command that ends soon and writes there, and gives its path from then on. As root,
/// in a directory of another user, the command becomes that user with the directory for its root: whatever lies there leads to no
/// other file, and what is made belongs to who needs it. Nothing outside can be opened after that; the caller has no other
/// threads. Errs with what is in the way.
pub(crate) fn enter(path: &Path) -> Result<PathBuf, Obstacle> {
    if geteuid().as_raw() != 0 {
        return Ok(path.to_owned());
    }
    let foreign = visit(path).and_then(|dir| Ok((fstat(&dir)?, dir)));
    let Some((stat, dir)) = foreign.ok().filter(|(stat, _)| stat.st_uid != 0) else {
        return claim(path).map(|_| path.to_owned());
    };
    rustix::process::fchdir(&dir)?;
    rustix::process::chroot(".")?;
    let (user, group) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(group, group, group)?;
    rustix::thread::set_thread_res_uid(user, user, user)?;
    Ok(PathBuf::from("/"))
}

/// Opens the directory at `path` to read what an exporter keeps there, whoever owns it. Nothing is made. Errs when it is not
/// there, or no directory.
pub(super) fn visit(path: &Path) -> io::Result<OwnedFd> {
    Ok(openat(CWD, path, DIRECTORY, Mode::empty())?)
}

/// Opens `name` in `dir` for reading: a regular file, never a link, a pipe or a device. Errs when it is not there, or
/// something else.
pub(super) fn read(dir: impl AsFd, name: &OsStr) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = openat(dir, name, flags, Mode::empty())?;
    regular(&fstat(&file)?)?;
    Ok(file.into())
}

/// Makes the file `name` in `dir` (mode 0600). What is there under this name, of a program that was killed, goes; it is not
/// followed. Errs when the operating system does.
pub(super) fn create(dir: impl AsFd, name: &OsStr) -> io::Result<File> {
    match rustix::fs::unlinkat(&dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?.into())
}

/// Errs when `name` in `dir` is there and not a file of its own: a link would lead SQLite, which opens by name, to a file
/// elsewhere, and so would a second name of one.
pub(crate) fn expect_own_file(dir: impl AsFd, name: &OsStr) -> io::Result<()> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => {
            regular(&stat)?;
            if stat.st_nlink > 1 {
                return Err(io::Error::other("it has a second name elsewhere; remove it"));
            }
            Ok(())
        }
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn regular(stat: &Stat) -> io::Result<()> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(()),
        FileType::Symlink => {
            Err(io::Error::other("it is a link, which is not followed; remove it"))
        }
        other => Err(io::Error::other(format!("it is no file but a {other:?}; remove it"))),
    }
}

/// Whom a directory may belong to.
#[derive(Debug, Clone, Copy)]
struct Trust {
    user: u32,
    /// Whether all users have a number here. Otherwise those of outside show as one, which nobody here can be.
    mapped: bool,
}

impl Trust {
    fn owner(self, stat: &Stat, at: &Path) -> Result<(), Obstacle> {
        let owner = stat.st_uid;
        // A server of files shows root as nobody.
        let nobody = owner == OVERFLOW_USER && (!self.mapped || self.user != 0);
        if owner == 0 || owner == self.user || nobody {
            return Ok(());
        }
        let at = at.display();
        Err(Obstacle::Unsafe {
            what: format!(
                "{at} belongs to the user {owner}, who could lead this program to any other file"
            ),
            hint: format!(
                "run the program as the user {owner}, give the directory to the user {} (`chown -R {0} {at}`), or choose another with --state.dir",
                self.user
            ),
        })
    }

    /// A directory above: nobody else may exchange what lies in it. Where the bit for that is set (as in `/tmp`), only owners
    /// may. Errs when somebody else may.
    fn above(self, stat: &Stat, at: &Path) -> Result<(), Obstacle> {
        self.owner(stat, at)?;
        let mode = stat.st_mode & 0o7777;
        if mode & 0o002 != 0 && mode & 0o1000 == 0 {
            let at = at.display();
            return Err(Obstacle::Unsafe {
                what: format!(
                    "everybody may write to {at} (mode {mode:04o}) and could exchange what lies in it"
                ),
                hint: format!("`chmod o-w {at}`, or choose another with --state.dir"),
            });
        }
        Ok(())
    }
}

/// The bits by which others may make files in the directory.
fn writable_by(stat: &Stat, user: u32) -> RawMode {
    // Outside of root, a group that may write is how a volume is shared with a container.
    let group = if user == 0 && stat.st_gid != 0 { 0o020 } else { 0 };
    stat.st_mode & (0o002 | group)
}

fn close_to_others(dir: &OwnedFd, stat: &Stat, path: &Path, bits: RawMode) {
    let before = stat.st_mode & 0o7777;
    let mode = before & !bits;
    let path = path.display();
    match rustix::fs::fchmod(dir, Mode::from_raw_mode(mode)) {
        Ok(()) => {
            let (before, mode) = (format!("{before:04o}"), format!("{mode:04o}"));
            info!(dir = %path, before, mode, "Others could write to the state directory; they cannot any more.");
        }
        Err(Errno::ROFS) => {} // nobody can
        // Root's, and open to everybody, is a volume that Kubernetes makes (emptyDir).
        Err(error) => {
            warn!(dir = %path, %error, "Others may write to the state directory, and that is not ours to change; a directory below it, made by this program, is safer.");
        }
    }
}

fn make(path: &Path) -> Result<OwnedFd, Obstacle> {
    use std::os::unix::fs::DirBuilderExt;
    match std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path) {
        // A filesystem that is read-only says so also of what is there.
        Err(error) if !path.is_dir() => return Err(error.into()),
        _ => {}
    }
    Ok(visit(path)?)
}

/// Goes to `path` step by step from the root, links included, and looks at each directory on the way.
/// Errs when one cannot be opened or made, or is not safe.
fn walk(path: &Path, trust: Trust) -> Result<OwnedFd, Obstacle> {
    let path = std::path::absolute(path)?;
    let mut at = PathBuf::from("/");
    let mut dir = openat(CWD, "/", DIRECTORY_PATH, Mode::empty())?;
    let mut waiting: VecDeque<OsString> = names(&path);
    let mut links = 0;
    while let Some(name) = waiting.pop_front() {
        trust.above(&fstat(&dir)?, &at)?;
        if name == ".." {
            dir = openat(&dir, "..", DIRECTORY_PATH, Mode::empty())?;
            at.pop();
            continue;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let next = match openat(&dir, &name, flags, Mode::empty()) {
            Err(Errno::NOENT) => {
                match rustix::fs::mkdirat(&dir, &name, Mode::RWXU) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno.into()),
                }
                openat(&dir, &name, flags, Mode::empty())?
            }
            opened => opened?,
        };
        let kind = FileType::from_raw_mode(fstat(&next)?.st_mode);
        if kind == FileType::Symlink && !is_procfs(&dir) {
            links += 1;
            if links > LINKS_MAX {
                return Err(Errno::LOOP.into());
            }
            let target = rustix::fs::readlinkat(&next, "", Vec::new())?;
            let target = PathBuf::from(<OsString as std::os::unix::ffi::OsStringExt>::from_vec(
                target.into_bytes(),
            ));
            if target.is_absolute() {
                dir = openat(CWD, "/", DIRECTORY_PATH, Mode::empty())?;
                at = PathBuf::from("/");
            }
            for name in names(&target).into_iter().rev() {
                waiting.push_front(name);
            }
            continue;
        }
        // A link of procfs is no text; the kernel alone can follow it.
        dir = openat(&dir, &name, DIRECTORY_PATH, Mode::empty())?;
        at.push(name);
    }
    Ok(openat(&dir, ".", DIRECTORY, Mode::empty())?)
}

fn names(path: &Path) -> VecDeque<OsString> {
    let name = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    };
    path.components().filter_map(name).collect()
}

fn is_procfs(dir: &OwnedFd) -> bool {
    rustix::fs::fstatfs(dir)
        .is_ok_and(|found| i128::from(found.f_type) == i128::from(PROC_SUPER_MAGIC))
}

/// Whether every user has a number of its own in this namespace of users. What cannot be told counts as yes: it is stricter.
fn maps_all_users() -> bool {
    std::fs::read_to_string("/proc/self/uid_map")
        .map_or(true, |map| map.split_whitespace().collect::<Vec<_>>() == ["0", "0", "4294967295"])
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const DIRECTORY_PATH: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// `linux/magic.h`.
const PROC_SUPER_MAGIC: u32 = 0x9fa0;
/// As the kernel has it (`MAXSYMLINKS`).
const LINKS_MAX: u32 = 40;
/// `/proc/sys/kernel/overflowuid`, which nobody changes.
const OVERFLOW_USER: u32 = 65_534;
