//! Reads access lists. By path, never by a descriptor of the file: closing one of the database would drop the locks that
//! this process holds on it.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use rustix::io::Errno;

use super::baseline::{List, Shape};
use crate::format::{
    access::{AccessList, AccessListError},
    hash,
};

/// Why an access list is not known.
#[derive(Debug, thiserror::Error)]
pub(super) enum ListError {
    /// The kernel did not give it.
    #[error(transparent)]
    Unreadable(#[from] std::io::Error),
    /// It has another form than those of Linux.
    #[error(transparent)]
    Form(#[from] AccessListError),
}

/// Where the lists of one store are.
#[derive(Debug, Clone)]
pub(super) struct Lists {
    root: PathBuf,
    /// Whether the filesystem has such lists at all.
    supported: bool,
}

impl Lists {
    /// The lists below `root`.
    pub(super) fn new(root: &Path) -> Self {
        let supported = !matches!(get(root, ACCESS), Err(Errno::OPNOTSUPP | Errno::NOSYS));
        Self { root: root.to_owned(), supported }
    }

    /// The list that decides about the entry at `path`, and a digest of it and of the list that new entries in it would
    /// get. Errs when it cannot be known.
    pub(super) fn read(
        &self,
        path: &[u8],
        shape: &Shape,
    ) -> Result<(Option<AccessList>, List), ListError> {
        if !self.supported || shape.is_link() {
            return Ok((None, List::None));
        }
        let path = if path.is_empty() {
            self.root.clone()
        } else {
            self.root.join(OsStr::from_bytes(path))
        };
        let list = read(&path, ACCESS)?;
        let inherited = if shape.is_directory() { read(&path, DEFAULT)? } else { None };
        let digest = match (list.as_ref().and_then(AccessList::digest), &inherited) {
            (None, None) => List::None,
            (list, inherited) => {
                let both = [list, inherited.as_ref().map(AccessList::digest_whole)];
                let bytes = both.into_iter().flat_map(|d| d.unwrap_or(0).to_le_bytes());
                List::Digest(hash::fnv1a(hash::FNV_START, bytes))
            }
        };
        Ok((list, digest))
    }
}

/// The list `name` of `path`; `None` when there is none, or when the entry has just gone. Errs when it cannot be known.
pub(super) fn read(path: &Path, name: &str) -> Result<Option<AccessList>, ListError> {
    match get(path, name) {
        Ok(bytes) => Ok(Some(AccessList::parse(&bytes)?)),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(std::io::Error::from(errno).into()),
    }
}

fn get(path: &Path, name: &str) -> Result<Vec<u8>, Errno> {
    let mut small = [0; 512];
    match rustix::fs::getxattr(path, name, &mut small[..]) {
        Ok(len) => Ok(small[..len.min(small.len())].to_vec()),
        Err(Errno::RANGE) => {
            let mut large = vec![0; ATTRIBUTE_BYTES_MAX];
            let len = rustix::fs::getxattr(path, name, &mut large[..])?;
            large.truncate(len);
            Ok(large)
        }
        Err(errno) => Err(errno),
    }
}

pub(super) const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

/// The kernel's own bound (`XATTR_SIZE_MAX`).
const ATTRIBUTE_BYTES_MAX: usize = 64 * 1024;
