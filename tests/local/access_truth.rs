//! The decision who may write, held against what the kernel answers the very same user about the very same inode. As
//! root every class of user is tried; as anybody else the owner's bits are.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use chroma_exporter::format::access::{
    AccessList, Identity, Inode, READ, SEARCH, WRITE, Want, may,
};
use rustix::{
    fs::{Access, AtFlags, CWD, Gid, IFlags, Mode, OFlags, Uid, XattrFlags},
    io::Errno,
};

const LIST: &str = "system.posix_acl_access";

/// Every mode that makes a difference for one class, on a file and on a directory, with and without access lists.
#[test]
fn the_decision_is_the_kernels() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let root = rustix::process::geteuid().is_root();
    let me = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let owner = if root { (1_000, 2_000) } else { me };
    let identities: Vec<Identity> = if root {
        let plain = |uid, gids: &[u32]| Identity { uid, gids: gids.to_vec(), overrides: false };
        vec![
            plain(1_000, &[1]),
            plain(1_001, &[2_000, 5]),
            plain(1_001, &[3_000, 2_001]),
            plain(1_002, &[1, 2_001, 2_002]),
            plain(1_003, &[1]),
            Identity { uid: 0, gids: vec![0], overrides: true },
        ]
    } else {
        vec![Identity { uid: me.0, gids: vec![me.1], overrides: false }]
    };

    let mut inodes = Vec::new();
    for directory in [false, true] {
        for mode in (0..0o1000).step_by(5).chain([0o644, 0o600, 0o755, 0o700, 0o770, 0o070, 0o007])
        {
            inodes.push(make(dir.path(), inodes.len(), directory, mode, owner, None));
        }
        if root {
            for (named, mask) in (0..64_u16).map(|bits| (bits >> 3, bits & 7)) {
                let list = list_bytes(named, mask);
                inodes.push(make(dir.path(), inodes.len(), directory, 0o604, owner, Some(&list)));
            }
        }
    }
    let mut asked = 0;
    for identity in identities {
        let facts: Vec<_> = inodes.iter().map(|path| (path.clone(), facts(path))).collect();
        asked += std::thread::spawn(move || {
            become_one(&identity);
            let mut asked = 0;
            for (path, (inode, list)) in &facts {
                for want in 1..8 {
                    let ours = may(&identity, inode, list.as_ref(), want).is_ok();
                    assert_eq!(ours, kernel(path, want), "{identity:?} {inode:?} {list:?} {want}");
                    asked += 1;
                }
            }
            asked
        })
        .join()
        .unwrap();
    }
    assert!(asked > 1_000, "{asked}");
}

/// Nobody, root included, writes to these.
#[test]
fn flags_of_the_inode_bind_root_too() {
    let dir = tempfile::tempdir().unwrap();
    let root = Identity { uid: 0, gids: vec![0], overrides: true };
    for flag in [IFlags::IMMUTABLE, IFlags::APPEND] {
        let path = dir.path().join("file");
        fs::write(&path, b"").unwrap();
        let file = fs::File::open(&path).unwrap();
        match rustix::fs::ioctl_setflags(&file, flag) {
            // Needs root, and a filesystem that has them.
            Err(Errno::PERM | Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL) => return,
            other => other.unwrap(),
        }
        let found = rustix::fs::statx(
            CWD,
            &path,
            AtFlags::SYMLINK_NOFOLLOW,
            rustix::fs::StatxFlags::BASIC_STATS,
        )
        .unwrap();
        let inode = Inode {
            immutable: found.stx_attributes.contains(rustix::fs::StatxAttributes::IMMUTABLE),
            append_only: found.stx_attributes.contains(rustix::fs::StatxAttributes::APPEND),
            ..facts(&path).0
        };
        let opened = rustix::fs::open(&path, OFlags::WRONLY, Mode::empty()).is_ok();
        rustix::fs::ioctl_setflags(&file, IFlags::empty()).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(!opened);
        assert!(may(&root, &inode, None, WRITE).is_err(), "{inode:?}");
        assert!(may(&root, &inode, None, READ).is_ok(), "{inode:?}");
    }
}

fn make(
    dir: &Path,
    number: usize,
    directory: bool,
    mode: u32,
    owner: (u32, u32),
    list: Option<&[u8]>,
) -> PathBuf {
    let path = dir.join(number.to_string());
    if directory {
        fs::create_dir(&path).unwrap();
    } else {
        fs::write(&path, b"").unwrap();
    }
    chown(&path, Some(owner.0), Some(owner.1)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    if let Some(list) = list {
        match rustix::fs::lsetxattr(&path, LIST, list, XattrFlags::empty()) {
            Err(Errno::OPNOTSUPP) => {} // then there is nothing to compare but the mode
            other => other.unwrap(),
        }
    }
    path
}

/// A user, the owning group, two groups and others, all different.
fn list_bytes(named: u16, mask: u16) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in [
        (0x01, 6, u32::MAX),
        (0x02, named, 1_001),
        (0x04, 4, u32::MAX),
        (0x08, named ^ 7, 2_001),
        (0x08, 5, 2_002),
        (0x10, mask, u32::MAX),
        (0x20, 4, u32::MAX),
    ] {
        bytes.extend(u16::to_le_bytes(tag));
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn facts(path: &Path) -> (Inode, Option<AccessList>) {
    let meta = fs::symlink_metadata(path).unwrap();
    let mut bytes = vec![0; 1024];
    let list = rustix::fs::lgetxattr(path, LIST, &mut bytes[..]).ok();
    let inode = Inode {
        mode: u16::try_from(meta.mode()).unwrap(),
        uid: meta.uid(),
        gid: meta.gid(),
        immutable: false,
        append_only: false,
        readonly: false,
    };
    (inode, list.map(|len| AccessList::parse(&bytes[..len]).unwrap()))
}

/// This thread, and it alone, becomes that user.
fn become_one(identity: &Identity) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let gid = |gid: &u32| Gid::from_raw(*gid);
    let first = identity.gids.first().map(gid);
    let groups: Vec<Gid> = identity.gids.iter().skip(1).map(gid).collect();
    rustix::thread::set_thread_groups(&groups).unwrap();
    rustix::thread::set_thread_res_gid(first, first, first).unwrap();
    let uid = Some(Uid::from_raw(identity.uid));
    rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
}

fn kernel(path: &Path, want: Want) -> bool {
    let mut access = Access::empty();
    for (bit, flag) in
        [(READ, Access::READ_OK), (WRITE, Access::WRITE_OK), (SEARCH, Access::EXEC_OK)]
    {
        if want & bit != 0 {
            access |= flag;
        }
    }
    rustix::fs::accessat(CWD, path, access, AtFlags::empty()).is_ok()
}
