//! Who holds SQLite's locks on a file. SQLite locks bytes at 1 GiB (`os.h`, `PENDING_BYTE`): a reader a range of shared
//! bytes, a writer RESERVED, then PENDING while it waits for readers to leave, then all of them.

use std::path::Path;

use super::{FileId, Holder, walk};
use crate::{
    facts::error::CollectError,
    format::proc::{Lock, parse_locks},
};

/// The locks of one process on one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockHolder {
    /// Who; `None` for locks that belong to an open file description instead of a process.
    pub pid: Option<u32>,
    /// Whether it is a reader: it stops commits, but no other reader.
    pub shared: bool,
    /// Whether it is a writer: RESERVED or more.
    pub exclusive: bool,
    /// Whether it is a writer that waits for readers to leave.
    pub pending: bool,
}

/// Reads `/proc/locks`. Errs when it cannot be read.
pub(super) fn read(
    procfs: &Path,
    file: FileId,
    holders: &[Holder],
) -> Result<Vec<LockHolder>, CollectError> {
    let path = procfs.join("locks");
    let text =
        walk::read_text(&path).map_err(|source| CollectError::Unreadable { path, source })?;
    let own = walk::own_pid(procfs);
    let mut out: Vec<LockHolder> = Vec::new();
    for lock in parse_locks(&text).filter(|lock| concerns(lock, file, holders)) {
        if lock.pid.is_some() && lock.pid == own {
            continue;
        }
        let at = out.iter().position(|holder| holder.pid == lock.pid).unwrap_or_else(|| {
            let (shared, exclusive, pending) = (false, false, false);
            out.push(LockHolder { pid: lock.pid, shared, exclusive, pending });
            out.len() - 1
        });
        let covers = |byte| (lock.start..=lock.end).contains(&byte);
        out[at].shared |= !lock.exclusive && covers(SHARED_FIRST);
        out[at].exclusive |= lock.exclusive && covers(RESERVED_BYTE);
        out[at].pending |= lock.exclusive && covers(PENDING_BYTE);
    }
    out.retain(|holder| holder.shared || holder.exclusive || holder.pending);
    Ok(out)
}

fn concerns(lock: &Lock, file: FileId, holders: &[Holder]) -> bool {
    let (major, minor) = (rustix::fs::major(file.device), rustix::fs::minor(file.device));
    // Where volumes of one filesystem have device numbers of their own (btrfs), the kernel writes another one here; a
    // process that holds the file and locks an inode of its number is then good enough.
    lock.inode == file.inode
        && (lock.device == (major, minor)
            || holders.iter().any(|holder| Some(holder.pid) == lock.pid))
}

const PENDING_BYTE: u64 = 0x4000_0000;
const RESERVED_BYTE: u64 = PENDING_BYTE + 1;
const SHARED_FIRST: u64 = PENDING_BYTE + 2;
