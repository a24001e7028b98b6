//! Whether the kernel would let somebody read, write or search: mode bits, owner and group, POSIX access lists, the
//! capability that overrides them, immutable and append-only inodes, read-only filesystems. What Linux does in
//! `fs/namei.c` (`acl_permission_check`, `generic_permission`, `sb_permission`) and `fs/posix_acl.c`
//! (`posix_acl_permission`), as a function of values.
//!
//! The bytes of an access list are those of the attributes `system.posix_acl_access` and `system.posix_acl_default`
//! (`include/uapi/linux/posix_acl_xattr.h`): version 2, then entries of tag, permissions and id, all little-endian. What
//! security modules, id-mapped mounts and richer lists (`NFSv4`) would say is not known here.

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Identity {
    /// Filesystem uid.
    pub uid: u32,
    /// Filesystem gid and supplementary groups, in any order.
    pub gids: Vec<u32>,
    /// Whether it has `CAP_DAC_OVERRIDE`, as root usually has: then mode and access list do not count.
    pub overrides: bool,
}

/// What is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inode {
    /// Type and mode as in `st_mode`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// `chattr +i`.
    pub immutable: bool,
    /// `chattr +a`.
    pub append_only: bool,
    /// Whether its filesystem is read-only.
    pub readonly: bool,
}

/// What is wanted: any of [`READ`], [`WRITE`] and [`SEARCH`] together.
pub type Want = u8;
/// To read bytes or names.
pub const READ: Want = 4;
/// To change bytes, or to create and delete names.
pub const WRITE: Want = 2;
/// To go through a directory, or to execute a file.
pub const SEARCH: Want = 1;

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// The filesystem is read-only.
    ReadOnly,
    /// The inode is immutable.
    Immutable,
    /// The inode may only grow: a journal could not be deleted, a page not be changed.
    AppendOnly,
    /// Owner, group and mode do not allow it.
    Mode,
    /// The access list does not allow it.
    List,
}

impl Refusal {
    /// In words, to follow the name of the entry.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ReadOnly => "its filesystem is read-only",
            Self::Immutable => "it is immutable (chattr -i)",
            Self::AppendOnly => "it is append-only (chattr -a)",
            Self::Mode => "owner and mode do not allow it",
            Self::List => "its access list does not allow it (getfacl)",
        }
    }
}

/// Whether `identity` may do all of `want` with `inode`, which has the access list `list`, if any. Errs with what is
/// refused.
pub fn may(
    identity: &Identity,
    inode: &Inode,
    list: Option<&AccessList>,
    want: Want,
) -> Result<(), Refusal> {
    if want & WRITE != 0 {
        if inode.readonly {
            return Err(Refusal::ReadOnly);
        }
        if inode.immutable {
            return Err(Refusal::Immutable);
        }
        if inode.append_only {
            return Err(Refusal::AppendOnly);
        }
    }
    let refusal = match list.filter(|_| list_counts(identity, inode)) {
        Some(list) if list.allows(identity, inode, want) => return Ok(()),
        Some(_) => Refusal::List,
        None if want & !mode_class(identity, inode) == 0 => return Ok(()),
        None => Refusal::Mode,
    };
    // Even the capability does not execute a file that nobody may execute.
    let executable = inode.mode & TYPE_MASK == TYPE_DIRECTORY || inode.mode & 0o111 != 0;
    if identity.overrides && (want & SEARCH == 0 || executable) { Ok(()) } else { Err(refusal) }
}

/// Whether the answer of [`may`] could depend on an access list; if not, there is no need to read it.
#[must_use]
pub fn list_counts(identity: &Identity, inode: &Inode) -> bool {
    // The kernel looks at the list only when the group bits, which show its mask, are not all clear.
    identity.uid != inode.uid && inode.mode & 0o070 != 0
}

/// The three bits of the mode that count for `identity`.
fn mode_class(identity: &Identity, inode: &Inode) -> Want {
    let shift = if identity.uid == inode.uid {
        6
    } else if identity.gids.contains(&inode.gid) {
        3
    } else {
        0
    };
    (inode.mode >> shift & 7) as Want
}

/// A POSIX access list, read but not proved to be complete.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AccessList {
    entries: Vec<AclEntry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct AclEntry {
    tag: Tag,
    permissions: Want,
    /// 0 where the tag has none.
    id: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
enum Tag {
    Owner = 0x01,
    User = 0x02,
    OwningGroup = 0x04,
    Group = 0x08,
    Mask = 0x10,
    Other = 0x20,
}

/// Bytes that are no access list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AccessListError {
    /// Not four bytes and then eight per entry.
    #[error("an access list of {found} bytes is cut off")]
    Truncated {
        /// Length in bytes.
        found: usize,
    },
    /// Another format.
    #[error("access list of version {found}, known is 2")]
    Version {
        /// The version it states.
        found: u32,
    },
    /// More entries than an attribute can hold on any filesystem of Linux.
    #[error("access list of {found} entries, at most {LIST_ENTRIES_MAX} are possible")]
    TooLong {
        /// Number of entries.
        found: usize,
    },
    /// A tag or permissions that the kernel would refuse.
    #[error("access list with tag {tag:#x} and permissions {permissions:#o}")]
    Entry {
        /// The tag as it stands.
        tag: u16,
        /// The permissions as they stand.
        permissions: u16,
    },
}

impl AccessList {
    /// Reads the value of the attribute. Checks version, length, tags and permissions; not order and completeness. Errs when
    /// one of them is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, AccessListError> {
        let Some((version, rest)) = bytes.split_first_chunk::<4>() else {
            return Err(AccessListError::Truncated { found: bytes.len() });
        };
        let version = u32::from_le_bytes(*version);
        if version != 2 {
            return Err(AccessListError::Version { found: version });
        }
        let (entries, cut) = rest.as_chunks::<8>();
        if !cut.is_empty() {
            return Err(AccessListError::Truncated { found: bytes.len() });
        }
        if entries.len() > LIST_ENTRIES_MAX {
            return Err(AccessListError::TooLong { found: entries.len() });
        }
        Ok(Self { entries: entries.iter().map(|e| AclEntry::parse(*e)).collect::<Result<_, _>>()? })
    }

    /// What it grants beyond the nine bits of a mode: its named users and groups and the owning group, whose bits the
    /// mask hides. `None` when there is no such thing. `chmod` does not change it.
    #[must_use]
    pub fn digest(&self) -> Option<u64> {
        let named = self.entries.iter().any(|e| matches!(e.tag, Tag::User | Tag::Group));
        let masked = self.entries.iter().any(|e| e.tag == Tag::Mask);
        (named || masked)
            .then(|| self.digest_of(|tag| matches!(tag, Tag::User | Tag::OwningGroup | Tag::Group)))
    }

    /// The whole of it: for the list that new entries of a directory get, which no mode shows.
    #[must_use]
    pub fn digest_whole(&self) -> u64 {
        self.digest_of(|_| true)
    }

    fn digest_of(&self, counts: impl Fn(Tag) -> bool) -> u64 {
        let mut entries: Vec<AclEntry> =
            self.entries.iter().copied().filter(|e| counts(e.tag)).collect();
        entries.sort_unstable();
        let bytes = entries.iter().flat_map(|e| {
            let [a, b, c, d] = e.id.to_le_bytes();
            [e.tag as u8, e.permissions, a, b, c, d]
        });
        super::hash::fnv1a(super::hash::FNV_START, bytes)
    }

    /// `posix_acl_permission`, for one who does not own the inode.
    fn allows(&self, identity: &Identity, inode: &Inode, want: Want) -> bool {
        let find = |tag| self.entries.iter().find(|e| e.tag == tag).map(|e| e.permissions);
        let mask = find(Tag::Mask).unwrap_or(READ | WRITE | SEARCH);
        let grants = |permissions: Want| want & !permissions == 0;
        let user = self.entries.iter().find(|e| e.tag == Tag::User && e.id == identity.uid);
        if let Some(user) = user {
            return grants(user.permissions & mask);
        }
        let mut in_a_group = false;
        for entry in &self.entries {
            let gid = match entry.tag {
                Tag::OwningGroup => inode.gid,
                Tag::Group => entry.id,
                _ => continue,
            };
            if identity.gids.contains(&gid) {
                in_a_group = true;
                if grants(entry.permissions & mask) {
                    return true;
                }
            }
        }
        !in_a_group && find(Tag::Other).is_some_and(grants)
    }
}

impl AclEntry {
    fn parse(bytes: [u8; 8]) -> Result<Self, AccessListError> {
        let [t0, t1, p0, p1, id @ ..] = bytes;
        let (tag, permissions) = (u16::from_le_bytes([t0, t1]), u16::from_le_bytes([p0, p1]));
        let known = match tag {
            0x01 => Tag::Owner,
            0x02 => Tag::User,
            0x04 => Tag::OwningGroup,
            0x08 => Tag::Group,
            0x10 => Tag::Mask,
            0x20 => Tag::Other,
            _ => return Err(AccessListError::Entry { tag, permissions }),
        };
        if permissions > 7 {
            return Err(AccessListError::Entry { tag, permissions });
        }
        let named = matches!(known, Tag::User | Tag::Group);
        let id = if named { u32::from_le_bytes(id) } else { 0 };
        Ok(Self { tag: known, permissions: p0, id })
    }
}

/// `S_IFMT`.
pub const TYPE_MASK: u16 = 0o170_000;
/// `S_IFDIR`.
pub const TYPE_DIRECTORY: u16 = 0o040_000;
/// `S_IFREG`.
pub const TYPE_REGULAR: u16 = 0o100_000;
/// `S_IFLNK`.
pub const TYPE_SYMLINK: u16 = 0o120_000;

/// An extended attribute holds at most 64 KiB.
pub const LIST_ENTRIES_MAX: usize = 8191;

/// A mode as `ls -l` shows it: `drwxr-sr-x`.
#[must_use]
pub fn mode_text(mode: u16) -> String {
    let kind = match mode & TYPE_MASK {
        TYPE_REGULAR => '-',
        TYPE_DIRECTORY => 'd',
        TYPE_SYMLINK => 'l',
        0o010_000 => 'p',
        0o020_000 => 'c',
        0o060_000 => 'b',
        0o140_000 => 's',
        _ => '?',
    };
    let special = [(0o4000, 's'), (0o2000, 's'), (0o1000, 't')];
    let mut out = String::with_capacity(10);
    out.push(kind);
    for (shift, (bit, letter)) in [6, 3, 0].into_iter().zip(special) {
        let class = mode >> shift & 7;
        out.push(if class & 4 != 0 { 'r' } else { '-' });
        out.push(if class & 2 != 0 { 'w' } else { '-' });
        out.push(match (mode & bit != 0, class & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
        });
    }
    out
}

#[cfg(test)]
mod tests;
