//! The directory of a database, held by a descriptor, so that the file, its journal and whatever else SQLite looks for
//! beside it are all looked for in one directory, and so that a place that has no path of ours (a container's, seen by
//! `/proc/PID/root`) never needs one.

use std::{
    ffi::OsString,
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};

/// A directory, and the name of a file in it.
#[derive(Debug)]
pub struct Anchor {
    directory: OwnedFd,
    name: OsString,
    /// Where it was found, for when there is no `/proc`.
    found: PathBuf,
}

impl Anchor {
    /// Of the file at `path`, which has no links but those that only the kernel can follow. Errs when its directory cannot
    /// be opened.
    pub(super) fn new(path: &Path) -> io::Result<Self> {
        let (directory, name) = path
            .parent()
            .zip(path.file_name())
            .ok_or_else(|| io::Error::other("its path has no directory and name"))?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(directory, flags, Mode::empty())?;
        Ok(Self { directory, name: name.to_owned(), found: path.to_owned() })
    }

    /// A path of the file that leads through the descriptor: for this process, and as long as this lives. It must not be
    /// turned into text.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        let directory = PathBuf::from(format!("/proc/self/fd/{}", self.directory.as_raw_fd()));
        if std::fs::symlink_metadata(&directory).is_ok() {
            directory.join(&self.name)
        } else {
            self.found.clone()
        }
    }
}
