//! The mount under a directory, by the number that the kernel gives it: right on bind mounts, overlays and mounts over
//! mounts, where the longest path in a table is not.

use std::{os::fd::AsRawFd, path::Path};

use rustix::fs::{Mode, OFlags};

use super::lies::Whose;
use crate::{
    format::proc::{Mount, parse_fdinfo_mount, parse_mountinfo},
    host::read::read_beginning,
};

/// A mount, and who else sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountView {
    /// The mount as this process sees it.
    pub(crate) mount: Mount,
    /// Whether it is a mount of the host's own first process, and not one of a container or a hardened unit.
    pub(crate) shared_with_host: bool,
    /// Whether it is one of the host, or of a container.
    pub(crate) whose: Whose,
}

impl MountView {
    /// The mount under `directory`; `None` when the kernel or a sandbox does not tell. `procfs` is where the host's
    /// `/proc` is seen; `through` is the process through whose root the path leads.
    pub(crate) fn of(directory: &Path, procfs: &Path, through: Option<u32>) -> Option<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(directory, flags, Mode::empty()).ok()?;
        let fdinfo = Path::new("/proc/self/fdinfo").join(opened.as_raw_fd().to_string());
        let fdinfo = read_beginning(&fdinfo, TABLE_BYTES_MAX).ok()?;
        let id = parse_fdinfo_mount(&fdinfo).ok()?;
        if let Some(pid) = through {
            // A mount of another namespace stands in the table of who has it.
            let mount = find(&procfs.join(format!("{pid}/mountinfo")), id)?;
            return Some(Self { mount, shared_with_host: false, whose: Whose::Container });
        }
        let mount = find(Path::new("/proc/self/mountinfo"), id)?;
        // Asked only where the answer matters.
        let union = mount.fstype.contains("overlay") || mount.fstype == "aufs";
        let is_root = union && mount.mount_point == Path::new("/");
        let of_host = (mount.readonly_here || is_root) && is_of_host(id, procfs);
        let whose = if is_root && !of_host { Whose::Container } else { Whose::Host };
        Some(Self { shared_with_host: mount.readonly_here && of_host, mount, whose })
    }

    /// Whether Chroma, too, finds it read-only. A mount of ours alone may be read-only while Chroma's is not: that is
    /// how containers and hardened units are given a directory to watch.
    pub(crate) fn readonly_for_all(&self) -> bool {
        self.mount.readonly_everywhere || (self.mount.readonly_here && self.shared_with_host)
    }
}

/// The first process of a container shares our mounts too, and proves nothing: only the host's own counts.
fn is_of_host(id: u32, procfs: &Path) -> bool {
    let namespace = std::fs::read_link("/proc/self/ns/pid");
    namespace.is_ok_and(|name| name.as_os_str() == HOST_PID_NAMESPACE)
        && find(&procfs.join("1/mountinfo"), id).is_some()
}

fn find(table: &Path, id: u32) -> Option<Mount> {
    parse_mountinfo(&read_beginning(table, TABLE_BYTES_MAX).ok()?)
        .into_iter()
        .find(|mount| mount.id == id)
}

/// The pid namespace that the kernel makes at boot has a fixed number (`PROC_PID_INIT_INO`).
const HOST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// A hundred thousand mounts.
const TABLE_BYTES_MAX: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_is_the_one_that_findmnt_names() {
        for directory in ["/", "/dev/shm", "/proc"] {
            let view = MountView::of(Path::new(directory), Path::new("/proc"), None).unwrap();
            let said = std::process::Command::new("findmnt")
                .args(["-n", "-o", "FSTYPE,TARGET", "-T", directory])
                .output()
                .unwrap();
            let said = String::from_utf8(said.stdout).unwrap();
            let ours = [&view.mount.fstype, &*view.mount.mount_point.to_string_lossy()].join(" ");
            // Of mounts over each other the last is the one that is seen.
            let last = said.lines().last().unwrap().split_whitespace().collect::<Vec<_>>();
            assert_eq!(last.join(" "), ours);
        }
        assert_eq!(MountView::of(Path::new("/does/not/exist"), Path::new("/proc"), None), None);
    }

    #[test]
    fn a_mount_that_is_read_only_for_us_alone_is_no_fault() {
        let view = |mount_readonly, filesystem_readonly, shared_with_host| {
            let mount = Mount {
                id: 1,
                device: (8, 1),
                root: "/".into(),
                mount_point: "/".into(),
                fstype: String::new(),
                source: String::new(),
                readonly_here: mount_readonly,
                readonly_everywhere: filesystem_readonly,
            };
            MountView { mount, shared_with_host, whose: Whose::Host }.readonly_for_all()
        };
        assert!(!view(false, false, true));
        assert!(!view(true, false, false));
        assert!(view(true, false, true));
        assert!(view(false, true, false));
    }
}
