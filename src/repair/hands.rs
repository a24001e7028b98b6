//! Every call of a swap that changes something on the disk goes through here, so that a test can stop after each of them, as a kill
//! does. Names are taken in directories that are open and were no links: whoever may write to the store leads nobody elsewhere.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, RenameFlags},
    io::Errno,
};

/// See above.
#[derive(Debug, Default)]
pub(crate) struct Hands {
    /// How many more calls there are before everything stops.
    #[cfg(test)]
    left: std::cell::Cell<Option<usize>>,
    /// What a filesystem without exchanges and links refuses.
    #[cfg(test)]
    pub(super) poor: std::cell::Cell<Poor>,
}

/// What a filesystem of a test cannot do.
#[cfg(test)]
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Poor {
    pub(super) exchange: bool,
    pub(super) link: bool,
    pub(super) folders: bool,
}

/// An open directory.
#[derive(Debug)]
pub(super) struct Dir(OwnedFd);

impl Dir {
    /// Opens a directory, which is no link. Errs when it cannot be opened.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// A directory in it, which is no link. Errs when it cannot be opened, or is none.
    pub(super) fn below(&self, name: &str) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        Ok(Self(rustix::fs::openat(&self.0, name, flags, Mode::empty())?))
    }

    /// What stands under this name. Errs when it cannot be looked at; an absent one is `None`.
    pub(super) fn kind(&self, name: &str) -> io::Result<Option<FileType>> {
        match rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether anything stands under this name. Errs when it cannot be looked at.
    pub(super) fn has(&self, name: &str) -> io::Result<bool> {
        self.kind(name).map(|kind| kind.is_some())
    }

    /// Whether a link to [`GATE_TARGET`] stands under this name. Errs when it cannot be read; what is absent or no link is none.
    pub(super) fn is_gate(&self, name: &str) -> io::Result<bool> {
        match rustix::fs::readlinkat(&self.0, name, Vec::new()) {
            Ok(target) => Ok(target.as_bytes() == GATE_TARGET.as_bytes()),
            Err(Errno::NOENT | Errno::INVAL) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether a folder is one that a test takes for part of a lower layer: it is in the store still, and of the old content.
    #[cfg(test)]
    fn is_lower(&self, name: &str) -> bool {
        use std::io::Read;
        let mut text = String::new();
        let file = || {
            let folder = self.below(name)?;
            let flags = OFlags::CLOEXEC;
            io::Result::Ok(rustix::fs::openat(&folder, "header.bin", flags, Mode::empty())?)
        };
        let read = file().and_then(|file| File::from(file).read_to_string(&mut text));
        self.has("notes.txt").unwrap_or(false) && read.is_ok() && text == "old"
    }

    /// The names in it, in no order. Errs when it cannot be read.
    pub(super) fn names(&self) -> io::Result<Vec<std::ffi::OsString>> {
        use std::os::unix::ffi::OsStringExt;
        let mut out = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.0)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                out.push(std::ffi::OsString::from_vec(name));
            }
        }
        Ok(out)
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Hands {
    /// Called before each call that changes something.
    #[cfg_attr(
        not(test),
        expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "tests count")
    )]
    /// Counts a call that changes the store. Errs in tests only: they stop after each of them.
    pub(crate) fn step(&self) -> io::Result<()> {
        #[cfg(test)]
        if let Some(left) = self.left.get() {
            self.left.set(Some(left.saturating_sub(1)));
            if left == 0 {
                return Err(io::Error::other(STOPPED));
            }
        }
        Ok(())
    }

    /// Stops after so many calls.
    #[cfg(test)]
    pub(super) fn stopping_after(calls: usize) -> Self {
        let hands = Self::default();
        hands.left.set(Some(calls));
        hands
    }

    /// Renames across directories. Errs when the kernel does.
    pub(super) fn rename(&self, from: (&Dir, &str), to: (&Dir, &str)) -> io::Result<()> {
        self.step()?;
        #[cfg(test)]
        if self.poor.get().folders
            && from.0.kind(from.1)? == Some(FileType::Directory)
            && from.0.is_lower(from.1)
        {
            return Err(Errno::XDEV.into());
        }
        Ok(rustix::fs::renameat(from.0, from.1, to.0, to.1)?)
    }

    /// Lets two names change places. Errs when the kernel or the filesystem cannot.
    pub(super) fn exchange(&self, one: (&Dir, &str), other: (&Dir, &str)) -> io::Result<()> {
        self.step()?;
        #[cfg(test)]
        if self.poor.get().exchange {
            return Err(Errno::INVAL.into());
        }
        Ok(rustix::fs::renameat_with(one.0, one.1, other.0, other.1, RenameFlags::EXCHANGE)?)
    }

    /// Gives a file a second name. Errs when the kernel or the filesystem cannot.
    pub(super) fn link(&self, from: (&Dir, &str), to: (&Dir, &str)) -> io::Result<()> {
        self.step()?;
        #[cfg(test)]
        if self.poor.get().link {
            return Err(Errno::PERM.into());
        }
        Ok(rustix::fs::linkat(from.0, from.1, to.0, to.1, AtFlags::empty())?)
    }

    /// A file as long as another, with its bytes and holes, owner, mode and all; synced. Errs when it cannot be read or written.
    pub(super) fn copy(&self, from: (&Dir, &str), to: (&Dir, &str)) -> io::Result<()> {
        self.step()?;
        let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut source = File::from(rustix::fs::openat(from.0, from.1, flags, Mode::empty())?);
        let anew = flags | OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        let private = Mode::RUSR | Mode::WUSR;
        let mut target = File::from(rustix::fs::openat(to.0, to.1, anew, private)?);
        io::copy(&mut source, &mut target)?;
        super::attributes::Attributes::of_file(&source)?.apply_to(&target)?;
        target.sync_all()
    }

    /// Puts the link that nobody can open. Errs when the kernel does.
    pub(super) fn gate(&self, at: (&Dir, &str)) -> io::Result<()> {
        self.symlink(GATE_TARGET, at)
    }

    /// Makes a link. Errs when the kernel does.
    pub(super) fn symlink(&self, target: &str, at: (&Dir, &str)) -> io::Result<()> {
        self.step()?;
        Ok(rustix::fs::symlinkat(target, at.0, at.1)?)
    }

    /// Makes a directory for its owner alone. Errs when the kernel does.
    pub(super) fn make_dir(&self, at: (&Dir, &str)) -> io::Result<()> {
        self.step()?;
        Ok(rustix::fs::mkdirat(at.0, at.1, Mode::RWXU)?)
    }

    /// Removes a file. Errs when the kernel does.
    pub(super) fn remove(&self, at: (&Dir, &str)) -> io::Result<()> {
        self.step()?;
        Ok(rustix::fs::unlinkat(at.0, at.1, AtFlags::empty())?)
    }

    /// Removes an empty directory. Errs when the kernel does.
    pub(super) fn remove_dir(&self, at: (&Dir, &str)) -> io::Result<()> {
        self.step()?;
        Ok(rustix::fs::unlinkat(at.0, at.1, AtFlags::REMOVEDIR)?)
    }

    /// Gives the names in a directory to the disk. Errs when the disk does.
    pub(super) fn sync(&self, dir: &Dir) -> io::Result<()> {
        self.step()?;
        synced(rustix::fs::fsync(dir))
    }

    /// The same by its path. Errs when it cannot be opened, or the disk does.
    pub(crate) fn sync_path(&self, path: &Path) -> io::Result<()> {
        self.step()?;
        synced(rustix::fs::fsync(File::open(path)?))
    }

    /// Writes a file that is there as a whole or as it was before. Errs when it cannot be written; then the old one stands.
    pub(crate) fn write_whole(&self, dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
        let beside = dir.join(format!("{name}.new"));
        self.step()?;
        let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(i32::try_from(flags.bits()).map_err(io::Error::other)?)
            .open(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        self.step()?;
        fs::rename(&beside, dir.join(name))?;
        self.sync_path(dir)
    }
}

/// Some filesystems do not sync directories, which is no error. Errs when the disk does for another reason.
fn synced(result: Result<(), Errno>) -> io::Result<()> {
    match result {
        Err(Errno::INVAL | Errno::NOTSUP) => Ok(()),
        result => Ok(result?),
    }
}

/// What a link in place of a database leads to: the directory that it stands in, wherever that is mounted. No program can open
/// that as a database, and SQLite looks for no journal beside it in the store.
pub(super) const GATE_TARGET: &str = ".";
/// What a folder is called that is moved file by file.
pub(super) const MOVING: &str = ".moving";
/// What a test that stops everything gets.
#[cfg(test)]
pub(super) const STOPPED: &str = "stopped by the test";
