//! A small filesystem of a test's own, so that how full this host is does not matter.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test binary uses its own part")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Unmounted when dropped.
pub struct Tmpfs(pub PathBuf);

impl Tmpfs {
    /// Mounts one of this `size` (`20m`) at a directory that is made for it.
    pub fn mount(at: &Path, size: &str) -> Self {
        fs::create_dir_all(at).expect("a place to mount at");
        let options = format!("size={size}");
        let args = ["-t", "tmpfs", "-o", &options, "tmpfs"];
        let status = Command::new("mount").args(args).arg(at).status().expect("mount");
        assert!(status.success(), "mount tmpfs {} (needs root)", at.display());
        Self(at.to_owned())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}
