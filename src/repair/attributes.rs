//! Owner, group, mode and access lists of what goes into a store: as those of what was there.

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs::{self, File},
    io,
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::Path,
};

use chroma_format::uuid::parse_uuid;
use rustix::{
    fs::{Gid, Mode, OFlags, Uid, XattrFlags},
    io::Errno,
};

/// Who may do what with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Attributes {
    owner: (u32, u32),
    mode: u32,
    /// Access lists and labels.
    extended: BTreeMap<CString, Vec<u8>>,
}

impl Attributes {
    fn of(path: &Path) -> io::Result<Self> {
        Self::of_file(&open(path)?)
    }

    /// Those of an open file. Errs when they cannot be read.
    pub(super) fn of_file(file: impl AsFd) -> io::Result<Self> {
        let meta = rustix::fs::fstat(&file)?;
        Ok(Self {
            owner: (meta.st_uid, meta.st_gid),
            mode: meta.st_mode & 0o7777,
            extended: extended(&file)?,
        })
    }

    /// Gives them to an open file. Errs when that is not ours to give.
    pub(super) fn apply_to(&self, file: impl AsFd) -> io::Result<()> {
        let now = rustix::fs::fstat(&file)?;
        if (now.st_uid, now.st_gid) != self.owner {
            let (uid, gid) = (Uid::from_raw(self.owner.0), Gid::from_raw(self.owner.1));
            rustix::fs::fchown(&file, Some(uid), Some(gid))?;
        }
        rustix::fs::fchmod(&file, Mode::from_raw_mode(self.mode))?;
        for (name, value) in &self.extended {
            match rustix::fs::fsetxattr(&file, name, value, XattrFlags::empty()) {
                // Labels of the system are not everybody's to set; an access list is, and without it others could not read.
                Err(Errno::PERM | Errno::ACCESS | Errno::NOTSUP | Errno::INVAL)
                    if !name.as_bytes().starts_with(ACCESS_LISTS) => {}
                result => result?,
            }
        }
        Ok(())
    }

    fn apply(&self, path: &Path) -> io::Result<()> {
        self.apply_to(open(path)?)
    }

    fn with_mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self.extended = BTreeMap::new();
        self
    }
}

fn extended(file: &impl AsFd) -> io::Result<BTreeMap<CString, Vec<u8>>> {
    let mut names = vec![0_u8; LIST_BYTES_MAX];
    let listed = match rustix::fs::flistxattr(file, &mut names[..]) {
        Ok(listed) => listed,
        Err(Errno::NOTSUP | Errno::NOSYS) => return Ok(BTreeMap::new()),
        Err(error) => return Err(error.into()),
    };
    let mut out = BTreeMap::new();
    for name in names[..listed].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = CString::new(name).map_err(io::Error::other)?;
        let mut value = vec![0_u8; LIST_BYTES_MAX];
        match rustix::fs::fgetxattr(file, &name, &mut value[..]) {
            Ok(length) => {
                value.truncate(length);
                out.insert(name, value);
            }
            Err(Errno::NODATA | Errno::PERM | Errno::ACCESS | Errno::NOTSUP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(out)
}

/// A file or directory that is no link. Errs when it cannot be opened, or is a link.
fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    fs::OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// Gives everything in `new` owner, mode and access lists: those of what has the same name in `old`; else those of its database,
/// of one of its folders, or of the directory. Without an old directory the owner is that of `above`, and modes are those with
/// which Chroma makes files. Everything is synced. Errs when something cannot be read, or given away.
pub(super) fn adopt(old: Option<&Path>, above: &Path, new: &Path) -> io::Result<()> {
    let whole = match old {
        Some(old) => Attributes::of(old)?,
        None => Attributes::of(above)?.with_mode(0o755),
    };
    let first = |is_dir: bool| -> io::Result<Option<Attributes>> {
        let Some(old) = old else { return Ok(None) };
        if !is_dir {
            let database = old.join(crate::store::DATABASE_FILE);
            return if is_plain(&database, false) {
                Attributes::of(&database).map(Some)
            } else {
                Ok(None)
            };
        }
        for entry in fs::read_dir(old)? {
            let entry = entry?;
            if entry.file_type()?.is_dir()
                && parse_uuid(entry.file_name().as_encoded_bytes()).is_some()
            {
                return Attributes::of(&entry.path()).map(Some);
            }
        }
        Ok(None)
    };
    let file = first(false)?.unwrap_or_else(|| whole.clone().with_mode(whole.mode & 0o666 | 0o600));
    let dir = first(true)?.unwrap_or_else(|| whole.clone());
    give(new, old, &Usual { file, dir }, 0)?;
    whole.apply(new)?;
    // Not each after it was given: one commit of the filesystem takes all.
    sync(new)
}

/// Syncs a directory with all that is below it. Errs when the disk does.
fn sync(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync(&entry.path())?;
        } else {
            open(&entry.path())?.sync_all()?;
        }
    }
    open(dir)?.sync_all()
}

struct Usual {
    file: Attributes,
    dir: Attributes,
}

fn give(new: &Path, old: Option<&Path>, usual: &Usual, depth: u32) -> io::Result<()> {
    for entry in fs::read_dir(new)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let kind = entry.file_type()?;
        if !(kind.is_dir() || kind.is_file()) || depth > DEPTH_MAX {
            let words = format!("{} is neither a file nor a folder of Chroma", path.display());
            return Err(io::Error::other(words));
        }
        let before = old.map(|old| old.join(&name)).filter(|old| is_plain(old, kind.is_dir()));
        if kind.is_dir() {
            give(&path, before.as_deref(), usual, depth + 1)?;
        }
        let other = if kind.is_dir() { &usual.dir } else { &usual.file };
        match before {
            Some(before) => Attributes::of(&before)?.apply(&path)?,
            None => other.apply(&path)?,
        }
    }
    Ok(())
}

fn is_plain(path: &Path, dir: bool) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| if dir { meta.is_dir() } else { meta.is_file() })
}

/// The user that `path` belongs to: what belongs to another one is root's alone to give away.
/// Errs when it cannot be looked at.
pub(super) fn owner(path: &Path) -> io::Result<u32> {
    fs::symlink_metadata(path).map(|meta| meta.uid())
}

const ACCESS_LISTS: &[u8] = b"system.posix_acl_";
/// The kernel's own bound (`XATTR_SIZE_MAX`, `XATTR_LIST_MAX`).
const LIST_BYTES_MAX: usize = 65_536;
const DEPTH_MAX: u32 = 4;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_goes_in_looks_like_what_was_there() {
        let scratch = tempfile::tempdir().unwrap();
        let (old, new) = (scratch.path().join("old"), scratch.path().join("new"));
        let (one, two) =
            ("11f4c994-921f-420d-b9b5-cbe3dd08f50d", "c2acc258-3dd5-40e9-927a-253f486f8565");
        for dir in [&old, &new] {
            fs::create_dir_all(dir.join(one)).unwrap();
            fs::write(dir.join(crate::store::DATABASE_FILE), "x").unwrap();
            fs::write(dir.join(one).join("header.bin"), "x").unwrap();
        }
        fs::create_dir(new.join(two)).unwrap();
        fs::write(new.join(two).join("header.bin"), "x").unwrap();
        set(&old, 0o2770);
        set(&old.join(crate::store::DATABASE_FILE), 0o660);
        set(&old.join(one), 0o750);
        set(&old.join(one).join("header.bin"), 0o640);
        let has_lists = rustix::fs::setxattr(
            old.join(one).join("header.bin"),
            "user.kept",
            b"yes",
            XattrFlags::empty(),
        );
        adopt(Some(&old), scratch.path(), &new).unwrap();
        assert_eq!(mode(&new), 0o2770);
        assert_eq!(mode(&new.join(crate::store::DATABASE_FILE)), 0o660);
        assert_eq!(mode(&new.join(one)), 0o750);
        assert_eq!(mode(&new.join(one).join("header.bin")), 0o640);
        assert_eq!(mode(&new.join(two)), 0o750, "as the other folder");
        assert_eq!(mode(&new.join(two).join("header.bin")), 0o660, "as the database");
        if has_lists.is_ok() {
            let mut value = [0; 3];
            rustix::fs::getxattr(new.join(one).join("header.bin"), "user.kept", &mut value[..])
                .unwrap();
            assert_eq!(&value, b"yes");
        }
        adopt(None, scratch.path(), &new).unwrap();
        assert_eq!(mode(&new), 0o755);
        assert_eq!(mode(&new.join(crate::store::DATABASE_FILE)), 0o644);
        assert_eq!(mode(&new.join(two)), 0o755);
        std::os::unix::fs::symlink("/etc/passwd", new.join("x")).unwrap();
        assert!(
            adopt(None, scratch.path(), &new).is_err(),
            "nothing is given to what a link leads to"
        );
    }
}
