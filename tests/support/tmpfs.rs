//! Filesystems of a test's own: small ones, so that how full this host is does not matter, and mounts of any kind.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test binary uses its own part")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A mount point; unmounted when dropped.
pub struct Mount(pub PathBuf);

impl Mount {
    /// Mounts at a directory that is made for it; `args` are those of mount(8) before the directory.
    pub fn new(at: &Path, args: &[&str]) -> Self {
        fs::create_dir_all(at).expect("a place to mount at");
        let status = Command::new("mount").args(args).arg(at).status().expect("mount");
        assert!(status.success(), "mount {args:?} {} (needs root)", at.display());
        Self(at.to_owned())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

/// A small filesystem in memory; unmounted when dropped.
pub struct Tmpfs(pub PathBuf, Mount);

impl Tmpfs {
    /// Mounts one of this `size` (`20m`) at a directory that is made for it.
    pub fn mount(at: &Path, size: &str) -> Self {
        let mount = Mount::new(at, &["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]);
        Self(at.to_owned(), mount)
    }
}
