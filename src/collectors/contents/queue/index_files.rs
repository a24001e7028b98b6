//! What the folder of an index says about it, where the tables do not.

use std::{
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::io::Errno;

use crate::{
    clock::Timestamp,
    collectors::CollectError,
    format::hnsw::{self, Header},
    host::links::Place,
    store::database::{is_absent, open_bytes, read_up_to},
};

/// A file that may not be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::collectors::contents) struct Unread {
    path: PathBuf,
    errno: Errno,
}

impl Unread {
    fn of(path: PathBuf, error: &io::Error) -> Self {
        Self { path, errno: Errno::from_io_error(error).unwrap_or(Errno::IO) }
    }

    pub(in crate::collectors::contents) fn problem(&self) -> CollectError {
        CollectError::Unreadable { path: self.path.clone(), source: self.errno.into() }
    }
}

/// How many numbers the vectors of an index have; `None` when it has no header, or one that cannot be judged.
/// Errs when the header cannot be read.
pub(super) fn dimension_of_index(dir: &Place, segment: &str) -> Result<Option<u64>, Unread> {
    let name = Path::new(segment).join(hnsw::HEADER_FILE);
    let read = || {
        let mut head = [0; hnsw::HEADER_LEN];
        let read = read_up_to(&open_bytes(&dir.at(&name)?)?, &mut head, 0)?;
        Ok(Header::parse(&head[..read]).ok().map(|header| header.dimension))
    };
    unless_absent(read(), dir.dir().join(&name))
}

/// Whether a segment was flushed, and not just now: the position is written after the files.
/// Errs when the metadata file cannot be looked at; an absent one is no error.
pub(super) fn flushed_before(dir: &Place, segment: &str, now: Timestamp) -> Result<bool, Unread> {
    let name = Path::new(segment).join(hnsw::METADATA_FILE);
    let written = || {
        let meta = std::fs::metadata(dir.at(&name)?)?;
        Ok(Some(Timestamp::from_parts(meta.mtime(), meta.mtime_nsec())))
    };
    let written = unless_absent(written(), dir.dir().join(&name))?;
    Ok(written.is_some_and(|at| now.since(at) >= FLUSH_SETTLES))
}

/// What is not there has nothing to tell. What may not be looked at is something else. Errs with that.
fn unless_absent<T>(read: io::Result<Option<T>>, path: PathBuf) -> Result<Option<T>, Unread> {
    match read {
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(Unread::of(path, &error)),
        Ok(read) => Ok(read),
    }
}

/// Longest time from the files of a flush to its position.
const FLUSH_SETTLES: Duration = Duration::from_secs(30);
