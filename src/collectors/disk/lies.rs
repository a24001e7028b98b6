//! What it means for a store where it lies: on a filesystem of another host, on one that is gone with a container or the
//! next start, or in a folder that a tool keeps in step with other hosts. Pure.

use crate::{
    findings::{Code, Finding},
    format::proc::Mount,
};

/// Whose mount it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// One of the host.
    Host,
    /// One that only processes of a container have.
    Container,
}

/// The findings about the mount under a directory, which the host sees at `point`.
pub(crate) fn judge(mount: &Mount, whose: Whose, point: &str) -> Vec<Finding> {
    let fstype = &*mount.fstype;
    if is_remote(fstype) {
        let evidence = format!("{fstype} from {} at {point}", mount.source);
        return vec![Finding::new(Code::DiskRemote, "", evidence)];
    }
    let evidence = match whose {
        Whose::Container if is_memory(fstype) => {
            format!(
                "{fstype} at {point} in a container: its data are gone when the container stops"
            )
        }
        Whose::Host if is_memory(fstype) => {
            format!(
                "{fstype} at {point} is in memory: its data are gone with the next start of the host"
            )
        }
        _ if is_layer(mount, whose) => {
            format!(
                "{fstype} at {point} is the layer of a container: its data are gone when the container is removed"
            )
        }
        _ => return Vec::new(),
    };
    vec![Finding::new(Code::DiskTemporary, "", evidence)]
}

/// Filesystems whose files other hosts, or the host outside, change as well. What cluster filesystems with locks of their own
/// do (GFS2, OCFS2, Lustre, GPFS) is no fault.
fn is_remote(fstype: &str) -> bool {
    let fuse = fstype.strip_prefix("fuse.").is_some_and(|kind| !LOCAL_FUSE.contains(&kind));
    fuse || REMOTE.contains(&fstype)
}

fn is_memory(fstype: &str) -> bool {
    ["tmpfs", "ramfs", "rootfs"].contains(&fstype)
}

/// A union of a container's image and its changes. One that somebody mounted for another reason may be kept.
fn is_layer(mount: &Mount, whose: Whose) -> bool {
    let union = ["overlay", "aufs", "fuse.fuse-overlayfs", "fuse.fuse-overlay"];
    // Where Docker, podman and containerd mount them.
    let theirs = ["merged", "rootfs"].iter().any(|name| mount.mount_point.ends_with(name));
    union.contains(&&*mount.fstype) && (whose == Whose::Container || theirs)
}

/// Which tool has left its mark in a file of this name: it copies the files of the store while Chroma writes them.
pub(crate) fn synced_by(name: &[u8]) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    let has = |words: &str| name.windows(words.len()).any(|window| window == words.as_bytes());
    if has(".sync-conflict-")
        || name.starts_with(b".syncthing.")
        || name.starts_with(b"~syncthing~")
    {
        Some("Syncthing")
    } else if has("conflicted copy") {
        Some("Dropbox or Nextcloud")
    } else {
        None
    }
}

/// The names by which tools mark the folders that they keep in step, with the tools.
pub(crate) const MARKS: [(&str, &str); 4] = [
    (".stfolder", "Syncthing"),
    (".dropbox.cache", "Dropbox"),
    (".dropbox", "Dropbox"),
    (".owncloudsync.log", "Nextcloud"),
];

const REMOTE: [&str; 13] = [
    "nfs", "nfs3", "nfs4", "cifs", "smb3", "smbfs", "ncpfs", "9p", "afs", "coda", "ceph", "davfs",
    "fuse",
];

/// Those of FUSE that keep their data on this host.
const LOCAL_FUSE: [&str; 13] = [
    "fuse-overlayfs",
    "fuse-overlay",
    "mergerfs",
    "ntfs-3g",
    "exfat",
    "bindfs",
    "encfs",
    "gocryptfs",
    "cryfs",
    "lxcfs",
    "fuse2fs",
    "apfs",
    "zfs",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_keep_data_or_locks_is_told_and_nothing_else_is() {
        use Whose::{Container, Host};
        for (fstype, point, whose, want) in [
            ("ext4", "/", Host, ""),
            ("xfs", "/data", Container, ""),
            ("btrfs", "/", Host, ""),
            ("zfs", "/tank", Host, ""),
            ("fuseblk", "/mnt/usb", Host, ""),
            ("fuse.mergerfs", "/pool", Host, ""),
            ("gfs2", "/cluster", Host, ""),
            ("virtiofs", "/srv", Host, ""),
            ("nfs4", "/srv", Host, "disk_remote nfs4 from what at /srv"),
            ("cifs", "/srv", Container, "disk_remote cifs from what at /srv"),
            ("9p", "/mnt/c", Host, "disk_remote 9p from what at /mnt/c"),
            ("fuse.sshfs", "/srv", Host, "disk_remote fuse.sshfs from what at /srv"),
            ("fuse.s3fs", "/srv", Host, "disk_remote fuse.s3fs from what at /srv"),
            ("tmpfs", "/tmp", Host, "disk_temporary tmpfs at /tmp is in memory"),
            ("tmpfs", "/data", Container, "disk_temporary tmpfs at /data in a container"),
            ("overlay", "/", Container, "disk_temporary overlay at / is the layer"),
            ("overlay", "/", Host, ""),
            ("overlay", "/etc", Host, ""),
            ("overlay", "/var/lib/docker/overlay2/x/merged", Host, "disk_temporary overlay at"),
            ("fuse.fuse-overlayfs", "/", Container, "disk_temporary fuse.fuse-overlayfs at /"),
        ] {
            let mount = Mount {
                id: 1,
                device: (0, 1),
                root: "/".into(),
                mount_point: point.into(),
                fstype: fstype.to_owned(),
                source: "what".to_owned(),
                readonly_here: false,
                readonly_everywhere: false,
            };
            let found = judge(&mount, whose, point);
            let said: Vec<String> = found
                .iter()
                .map(|finding| format!("{} {}", finding.code.as_str(), finding.evidence))
                .collect();
            let said = said.join("; ");
            let good = if want.is_empty() { said.is_empty() } else { said.starts_with(want) };
            assert!(good, "{fstype} {point} {whose:?}: {said:?}");
        }
    }

    #[test]
    fn copies_of_tools_are_known_by_their_names() {
        for (name, want) in [
            ("chroma (web1's conflicted copy 2026-11-29).sqlite3", Some("Dropbox or Nextcloud")),
            ("chroma (conflicted copy 2026-11-29 101500).sqlite3", Some("Dropbox or Nextcloud")),
            ("chroma.sync-conflict-20261129-101500-ABCDEFG.sqlite3", Some("Syncthing")),
            (".syncthing.chroma.sqlite3.tmp", Some("Syncthing")),
            ("~syncthing~data_level0.bin.tmp", Some("Syncthing")),
            ("chroma.sqlite3", None),
            ("chroma.sqlite3-journal", None),
            ("chroma (1).sqlite3", None),
            ("data_level0.bin", None),
            ("", None),
        ] {
            assert_eq!(synced_by(name.as_bytes()), want, "{name}");
        }
    }
}
