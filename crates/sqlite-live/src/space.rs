//! How much room a filesystem has.

use rustix::fs::StatVfsMountFlags;

/// What a filesystem says of its room. Plain numbers of `statvfs`, multiplied out to bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Size in bytes.
    pub size_bytes: u64,
    /// Free bytes, those reserved for root included.
    pub free_bytes: u64,
    /// Free bytes for everybody.
    pub avail_bytes: u64,
    /// Inodes; 0 where the filesystem has no limit (btrfs).
    pub inodes: u64,
    /// Free inodes.
    pub inodes_free: u64,
    /// Whether it is mounted read-only.
    pub readonly: bool,
}

impl Space {
    /// From `statvfs`' answer.
    #[must_use]
    pub fn of(vfs: &rustix::fs::StatVfs) -> Self {
        Self {
            size_bytes: vfs.f_blocks.saturating_mul(vfs.f_frsize),
            free_bytes: vfs.f_bfree.saturating_mul(vfs.f_frsize),
            avail_bytes: vfs.f_bavail.saturating_mul(vfs.f_frsize),
            inodes: vfs.f_files,
            inodes_free: vfs.f_ffree,
            readonly: vfs.f_flag.contains(StatVfsMountFlags::RDONLY),
        }
    }

    /// `df`'s Use%, 0 to 1: used of what is used or available, so that the part reserved for root is neither. `None` for a
    /// filesystem without blocks.
    #[must_use]
    pub fn used_ratio(&self) -> Option<f64> {
        self.used_ratio_with(0)
    }

    /// The same when `more` bytes are written. Above 1 when they do not fit.
    #[must_use]
    pub fn used_ratio_with(&self, more: u64) -> Option<f64> {
        let used = self.size_bytes.saturating_sub(self.free_bytes);
        let all = used.checked_add(self.avail_bytes).filter(|all| *all > 0)?;
        Some(used.saturating_add(more) as f64 / all as f64)
    }
}

/// `f_type` of filesystems whose files others may change unseen: NFS, SMB (three), FUSE, 9P, Ceph, AFS, Coda, GFS2, OCFS2.
pub const REMOTE_MAGICS: [u32; 11] = [
    0x6969,
    0x517b,
    0xff53_4d42,
    0xfe53_4d42,
    0x6573_5546,
    0x0102_1997,
    0x00c3_6400,
    0x5346_414f,
    0x7375_7245,
    0x0116_1970,
    0x7461_636f,
];

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: Space = Space {
        size_bytes: 0,
        free_bytes: 0,
        avail_bytes: 0,
        inodes: 0,
        inodes_free: 0,
        readonly: false,
    };

    #[test]
    fn a_filesystem_without_blocks_or_with_absurd_numbers_is_not_full() {
        assert_eq!(EMPTY.used_ratio(), None);
        let free = Space { free_bytes: u64::MAX, avail_bytes: u64::MAX, ..EMPTY };
        assert_eq!(free.used_ratio(), Some(0.0));
        let absurd = Space { size_bytes: u64::MAX, avail_bytes: u64::MAX, ..EMPTY };
        assert_eq!(absurd.used_ratio(), None, "more bytes than can be counted");
    }

    #[test]
    fn the_part_reserved_for_root_is_neither_used_nor_available() {
        let space = Space { size_bytes: 100, free_bytes: 30, avail_bytes: 25, ..EMPTY };
        assert_eq!(space.used_ratio(), Some(70.0 / 95.0));
    }
}
