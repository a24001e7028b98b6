//! Which file it is, whatever path leads to it.

use rustix::fs::Statx;

/// The identity of a file on this host.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct FileId {
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
}

impl From<&Statx> for FileId {
    fn from(stat: &Statx) -> Self {
        let device = rustix::fs::makedev(stat.stx_dev_major, stat.stx_dev_minor);
        Self { device, inode: stat.stx_ino }
    }
}
