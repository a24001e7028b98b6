//! Paths without links, followed as the process would whose path it is.
//!
//! A link with an absolute target means another file for each root: ours, the host's below `--path.rootfs`, a
//! container's below `/proc/PID/root`. The kernel knows only ours. And a link of procfs (`/proc/PID/root`, `cwd`, `fd/N`)
//! leads to a directory that may have no path here at all: its text is the path in another process, and whoever opens
//! that opens a file of ours. So such a link stays as it is, and only the kernel follows it.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    io,
    path::{Component, Path, PathBuf},
};

use rustix::io::Errno;

/// The absolute `path` without links, but for those of procfs that only the kernel can follow. Targets of links begin at
/// `root` when `path` does, and below the root of a process when it leads through one. What does not exist, or may not be
/// looked at, is taken as it stands: whoever opens it is told. Errs when links lead to each other.
pub fn follow(root: &Path, path: &Path) -> io::Result<PathBuf> {
    let below = path.strip_prefix(root).ok();
    // Where absolute targets begin, and where `..` ends.
    let mut base = below.map_or_else(|| PathBuf::from("/"), |_| root.to_owned());
    let mut waiting: VecDeque<OsString> = names(below.unwrap_or(path)).collect();
    let mut out = base.clone();
    let mut links = 0;
    while let Some(name) = waiting.pop_front() {
        if name == ".." {
            match out.file_name() {
                _ if out == base => {}
                // Above where the kernel was led: only it knows.
                None => out.push(name),
                Some(_) if led_by_procfs(&out) => out.push(name),
                Some(_) => {
                    out.pop();
                }
            }
            continue;
        }
        let next = out.join(&name);
        match std::fs::read_link(&next) {
            Ok(_) if is_magic(&out, &name) => {
                if name == "root" {
                    base.clone_from(&next);
                }
                out = next;
            }
            Ok(target) => {
                links += 1;
                if links > LINKS_MAX {
                    return Err(Errno::LOOP.into());
                }
                if target.is_absolute() {
                    out.clone_from(&base);
                }
                for name in names(&target).rev() {
                    waiting.push_front(name);
                }
            }
            Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => out = next,
            Err(_) => {
                out = next;
                out.extend(waiting);
                break;
            }
        }
    }
    Ok(out)
}

/// Where `path` leads below `root`. Where that is ours, the kernel follows links by itself, and the path stays as it is.
#[must_use]
pub fn placed(root: &Path, path: PathBuf) -> PathBuf {
    if !is_foreign(root, &path) {
        return path;
    }
    follow(root, &path).unwrap_or(path)
}

/// A directory and the root at which absolute targets of links begin: whatever lies in the directory is named as the host or
/// the process would find it whose directory it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    root: PathBuf,
    dir: PathBuf,
    foreign: bool,
}

impl Place {
    /// `dir`, seen below `root`.
    #[must_use]
    pub fn new(root: &Path, dir: &Path) -> Self {
        Self { root: root.to_owned(), dir: dir.to_owned(), foreign: is_foreign(root, dir) }
    }

    /// `dir` of this process.
    #[must_use]
    pub fn own(dir: &Path) -> Self {
        Self::new(Path::new("/"), dir)
    }

    /// The directory itself.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The path of `name` in it, without links that would lead the kernel elsewhere. Errs when links lead to each other.
    pub fn at(&self, name: impl AsRef<Path>) -> io::Result<PathBuf> {
        let path = self.dir.join(name);
        if self.foreign { follow(&self.root, &path) } else { Ok(path) }
    }
}

/// Whether the kernel might follow links of `path` to another place than those whose path it is. Says so of some paths that
/// are ours as well, for which both ways lead to the same.
fn is_foreign(root: &Path, path: &Path) -> bool {
    let magic = |part: Component<'_>| MAGIC_DIRS.iter().any(|name| part.as_os_str() == *name);
    root != Path::new("/") || path.components().any(magic)
}

/// A shell pattern below `root` whose leading folders, those without a wildcard, are followed in the same way. Where `root`
/// is ours, the kernel does that.
#[must_use]
pub fn follow_pattern(root: &Path, pattern: &str) -> String {
    if root == Path::new("/") {
        return pattern.to_owned();
    }
    let prefix = format!("{}/", glob::Pattern::escape(&root.to_string_lossy()));
    let Some(below) = pattern.strip_prefix(&prefix) else { return pattern.to_owned() };
    let wild = below.find(['*', '?', '[']).unwrap_or(below.len());
    let (folder, rest) = below.split_at(below[..wild].rfind('/').map_or(0, |at| at + 1));
    match follow(root, &root.join(folder)) {
        Ok(folder) => format!("{}/{rest}", glob::Pattern::escape(&folder.to_string_lossy())),
        Err(_) => pattern.to_owned(),
    }
}

/// The process through whose root `path` leads, and the path as that process sees it. `procfs` is where the host's `/proc`
/// is seen.
#[must_use]
pub fn through_process(procfs: &Path, path: &Path) -> Option<(u32, PathBuf)> {
    let below = path.strip_prefix(procfs).or_else(|_| path.strip_prefix("/proc")).ok()?;
    let mut names = below.components();
    let pid = names.next()?.as_os_str().to_str()?.parse().ok()?;
    if names.next()?.as_os_str() != "root" {
        return None;
    }
    Some((pid, Path::new("/").join(names.as_path())))
}

fn names(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
    })
}

/// Whether the link `name` in `dir` is one of procfs that is no text.
fn is_magic(dir: &Path, name: &OsStr) -> bool {
    !TEXT_LINKS.iter().any(|text| name == *text)
        && rustix::fs::statfs(dir)
            .is_ok_and(|found| i128::from(found.f_type) == i128::from(PROC_SUPER_MAGIC))
}

/// Whether the last component of `out`, which has no other links, is a link: one that was left to the kernel.
fn led_by_procfs(out: &Path) -> bool {
    out.ends_with("..") || std::fs::symlink_metadata(out).is_ok_and(|meta| meta.is_symlink())
}

/// The links of procfs through which a path can lead to what has none here.
const MAGIC_DIRS: [&str; 3] = ["root", "cwd", "fd"];
/// The links of procfs that are made of text (`proc(5)`).
const TEXT_LINKS: [&str; 4] = ["self", "thread-self", "mounts", "net"];
/// `linux/magic.h`.
const PROC_SUPER_MAGIC: u32 = 0x9fa0;
/// As the kernel has it (`MAXSYMLINKS`).
const LINKS_MAX: u32 = 40;

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn absolute_targets_begin_at_the_root_that_is_meant() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        for folder in ["mnt/big/chroma", "srv", "var/lib"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        symlink("/mnt/big/chroma", root.join("srv/data")).unwrap();
        symlink("../srv/data", root.join("var/relative")).unwrap();
        symlink("../../../../../../../../../../mnt/./big//", root.join("var/lib/out")).unwrap();
        symlink("/b", root.join("a")).unwrap();
        symlink("/a", root.join("b")).unwrap();
        for (path, want) in [
            ("srv/data/chroma.sqlite3", "mnt/big/chroma/chroma.sqlite3"),
            ("var/relative", "mnt/big/chroma"),
            ("var/lib/out/chroma/../x", "mnt/big/x"),
            ("srv/data/none/../x/y", "mnt/big/chroma/none/../x/y"),
            ("srv/../../../mnt", "mnt"),
            ("", ""),
        ] {
            assert_eq!(follow(&root, &root.join(path)).unwrap(), root.join(want), "{path}");
        }
        assert!(follow(&root, &root.join("a/x")).is_err(), "links that lead to each other");
        // Without another root it is what the kernel says.
        let own = follow(Path::new("/"), &root.join("var/relative")).unwrap();
        assert_eq!(own, Path::new("/mnt/big/chroma"));
        let at = |path: &str| format!("{}/{path}", root.display());
        for (pattern, want) in [
            (at("srv/data/*.log"), at("mnt/big/chroma/*.log")),
            (at("srv/data/x.log"), at("mnt/big/chroma/x.log")),
            (at("srv/d*/x.log"), at("srv/d*/x.log")),
            (at("*.log"), at("*.log")),
            ("/elsewhere/*".to_owned(), "/elsewhere/*".to_owned()),
        ] {
            assert_eq!(follow_pattern(&root, &pattern), want);
        }
        for path in ["/usr/bin/env", "/proc/mounts", "/bin", "/etc/localtime"] {
            let real = Path::new(path).canonicalize().unwrap();
            assert_eq!(follow(Path::new("/"), Path::new(path)).unwrap(), real, "{path}");
        }
    }

    #[test]
    fn what_lies_in_a_place_is_named_as_its_host_would_find_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("srv/store")).unwrap();
        symlink("/mnt/segment", root.join("srv/store/one")).unwrap();
        symlink("/srv/store/two", root.join("srv/store/two")).unwrap();
        let place = Place::new(&root, &root.join("srv/store"));
        assert_eq!(place.at("one/header.bin").unwrap(), root.join("mnt/segment/header.bin"));
        assert_eq!(place.at("three").unwrap(), root.join("srv/store/three"));
        assert!(place.at("two/x").is_err(), "never left to the kernel, which knows other links");
        // Where the kernel follows links by itself, names stay as they are.
        let own = Place::own(&root.join("srv/store"));
        assert_eq!(own.at("one/x").unwrap(), root.join("srv/store/one/x"));
        // Through the root of a process.
        let through = PathBuf::from(format!("/proc/{}/root", std::process::id()));
        let store = through.join(root.join("srv/store").strip_prefix("/").unwrap());
        let place = Place::own(&store);
        assert_eq!(place.at("one/x").unwrap(), through.join("mnt/segment/x"));
    }

    #[test]
    fn a_link_that_only_the_kernel_can_follow_stays_one() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().canonicalize().unwrap();
        symlink("/usr", inside.join("link")).unwrap();
        let pid = std::process::id();
        let root = PathBuf::from(format!("/proc/{pid}/root"));
        let at = |path: &Path| follow(Path::new("/"), path).unwrap();
        let path = Path::new("/proc/self/root").join(inside.strip_prefix("/").unwrap());
        assert_eq!(at(&path), root.join(inside.strip_prefix("/").unwrap()));
        assert_eq!(at(&path.join("link/lib")), at(&root.join("usr/lib")), "an absolute target");
        assert_eq!(at(&root.join("../../etc")), root.join("etc"), "`/..` is `/`");
        let cwd = PathBuf::from(format!("/proc/{pid}/cwd"));
        assert_eq!(at(Path::new("/proc/self/cwd/../x")), cwd.join("../x"));
        let (at, path) = through_process(Path::new("/proc"), &root.join("mnt/data")).unwrap();
        assert_eq!((at, path.as_path()), (pid, Path::new("/mnt/data")));
        let (at, path) =
            through_process(Path::new("/host/proc"), Path::new("/host/proc/7/root")).unwrap();
        assert_eq!((at, path.as_path()), (7, Path::new("/")));
        for other in ["/proc/7/cwd/x", "/proc/self/root/x", "/proc/7", "/srv/7/root"] {
            assert_eq!(through_process(Path::new("/proc"), Path::new(other)), None, "{other}");
        }
    }
}
