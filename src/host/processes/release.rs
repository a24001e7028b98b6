//! Which Chroma is installed for a process: by the packages that it has libraries of, in its own root directory. What
//! `/api/v2/version` answers is not asked: it says 1.0.0 whatever is installed.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{Holder, ProcessTable, walk};
use crate::{
    format::{
        proc::parse_stat,
        python::{is_metadata_of, package_dirs, version_of},
    },
    host::{links, read::read_beginning},
};

/// An installed Chroma.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Installed {
    /// As its metadata write it: `1.5.9`.
    pub version: String,
    /// The directory of its packages, where this process sees the same files under the same path; the next Chroma
    /// will very likely come from there, also when the one that was asked has ended.
    pub packages: Option<PathBuf>,
}

impl ProcessTable {
    /// The Chroma that is installed where `holder` has its packages. `None` when it is no Python process, has ended, or may
    /// not be looked into; also when two releases are installed over each other.
    #[must_use]
    pub fn installed(&self, holder: &Holder) -> Option<Installed> {
        let procfs = &self.shared.procfs;
        let stat = parse_stat(&walk::read(procfs, holder.pid, "stat").ok()?).ok()?;
        // The map of a process that waits for a device may wait with it.
        if stat.start_ticks != holder.start_ticks || stat.state == b'D' {
            return None;
        }
        let maps = walk::read(procfs, holder.pid, "maps").ok()?;
        let root = procfs.join(holder.pid.to_string()).join("root");
        package_dirs(&maps, PACKAGE).into_iter().find_map(|dir| {
            let inside = root.join(dir.strip_prefix("/").ok()?);
            let version = installed_in(&inside)?;
            // Another process of this place sees it by the plain path.
            let same = same_dir(&inside, &dir).unwrap_or(false);
            Some(Installed { version, packages: same.then_some(dir) })
        })
    }
}

/// The release of Chroma that is installed in a directory of packages; `None` when there is none, or not exactly one.
#[must_use]
pub fn installed_in(packages: &Path) -> Option<String> {
    let mut versions = Vec::new();
    for entry in fs::read_dir(packages).ok()?.take(PACKAGES_MAX) {
        let name = entry.ok()?.file_name();
        if is_metadata_of(&name, PACKAGE) {
            // Some installers leave links into their cache, which begin at the root of that process.
            let real =
                links::follow(Path::new("/"), &packages.join(&name).join("METADATA")).ok()?;
            let text = read_beginning(&real, METADATA_BYTES_MAX).ok()?;
            versions.push(version_of(&text)?.to_owned());
        }
    }
    versions.dedup();
    match <[String; 1]>::try_from(versions) {
        Ok([version]) => Some(version),
        Err(_) => None,
    }
}

fn same_dir(a: &Path, b: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let (a, b) = (fs::metadata(a)?, fs::metadata(b)?);
    Ok((a.dev(), a.ino()) == (b.dev(), b.ino()))
}

/// The Python package.
const PACKAGE: &str = "chromadb";
const PACKAGES_MAX: usize = 100_000;
const METADATA_BYTES_MAX: u64 = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_installed_release_is_told_and_two_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let install = |version: &str| {
            let info = dir.path().join(format!("chromadb-{version}.dist-info"));
            fs::create_dir(&info).unwrap();
            fs::write(info.join("METADATA"), format!("Name: chromadb\nVersion: {version}\n"))
                .unwrap();
        };
        assert_eq!(installed_in(dir.path()), None);
        fs::create_dir(dir.path().join("chromadb")).unwrap();
        assert_eq!(installed_in(dir.path()), None);
        install("1.5.9");
        assert_eq!(installed_in(dir.path()).as_deref(), Some("1.5.9"));
        install("1.1.1");
        assert_eq!(installed_in(dir.path()), None);
        assert_eq!(installed_in(&dir.path().join("none")), None);
    }
}
