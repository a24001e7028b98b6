//! Finds the persist directories of running Chroma processes, for when none is configured: whoever has a file called
//! `chroma.sqlite3` open for reading and writing, as Chroma always has, serves its directory.
//!
//! Nothing is opened: closing a descriptor of a database would drop this process' locks on it, should a check be at
//! work. Copies that another `chroma_exporter` works on, and databases that somebody looks at in a SQLite shell, are not
//! stores.

pub mod roster;

use std::{
    collections::BTreeMap,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{FileType, StatxFlags},
    io::Errno,
};
use tracing::debug;

use crate::{
    collectors::CollectError,
    config::{Store, Through},
    format::{
        proc::{Mount, parse_fdinfo_mount, parse_mountinfo, parse_stat},
        programs::OWN_COMM,
    },
    host::processes::{
        FileId, Process, is_sqlite_tool, mounts,
        walk::{self, Descriptor, KernelThreads, Visitor},
    },
    keys::rules,
    store::{DATABASE_FILE, device::Device},
};

/// A directory that running Chroma processes hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// It, named by the name of the directory; other ones may have the same.
    pub store: Store,
    /// Its database.
    pub file: FileId,
    /// Who holds it.
    pub holders: Vec<Process>,
}

/// The directories that running Chroma processes hold, ordered by path, each with a name of its own: what a program that looks
/// once may check. Errs like [`found`].
pub fn stores(procfs: &Path, rootfs: &Path) -> Result<Vec<Store>, CollectError> {
    let mut stores: Vec<Store> = Vec::new();
    for Found { mut store, .. } in found(procfs, rootfs)? {
        store.name = roster::unused_name(&store.name, |name| {
            stores.iter().any(|other| &*other.name == name)
        });
        stores.push(store);
    }
    Ok(stores)
}

/// The directories that running Chroma processes hold, ordered by path and named by the directory's name.
/// A path of a container is translated to one below `rootfs` or at least to one that this process can see, and verified
/// by the identity of the file. Errs when `procfs` cannot be read; nothing is said of processes that cannot be looked into.
pub fn found(procfs: &Path, rootfs: &Path) -> Result<Vec<Found>, CollectError> {
    let mut finder = Finder { found: BTreeMap::new() };
    let except = walk::own_pid(procfs);
    let walked = walk::walk(procfs, except, &mut KernelThreads::default(), &mut finder)?;
    if !walked.unreadable.is_empty() {
        let processes = walked.unreadable.len();
        debug!(
            processes,
            "Some processes cannot be looked into; with CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH their stores would be found too."
        );
    }
    let own = walk::read_text(&procfs.join("self/mountinfo")).unwrap_or_default();
    let eyes = Eyes { procfs, rootfs, mounts: parse_mountinfo(&own) };
    let mut dirs: BTreeMap<PathBuf, Found> = BTreeMap::new();
    for (file, holders) in &finder.found {
        let chromas: Vec<(&Holder, Process)> =
            holders.iter().filter_map(|holder| Some((holder, eyes.chroma(holder.pid)?))).collect();
        let Some((first, _)) = chromas.first() else { continue };
        match chromas.iter().find_map(|(holder, process)| eyes.find(holder, *process, *file)) {
            Some((dir, through)) => {
                let found = dirs.entry(dir).or_insert_with_key(|dir| Found {
                    store: eyes.store(dir.clone(), through),
                    file: *file,
                    holders: Vec::new(),
                });
                found.holders.extend(chromas.iter().map(|(_, process)| *process));
            }
            None => {
                debug!(pid = first.pid, path = %first.path.display(), "A process holds a Chroma database that this program cannot reach.");
            }
        }
    }
    Ok(dirs.into_values().collect())
}

/// A process and the name under which it holds a database.
#[derive(Debug)]
struct Holder {
    pid: u32,
    descriptor: u32,
    path: PathBuf,
}

struct Finder {
    found: BTreeMap<FileId, Vec<Holder>>,
}

impl Visitor for Finder {
    fn descriptor(&mut self, descriptor: &Descriptor<'_>) -> Result<(), Errno> {
        let link = descriptor.link()?;
        if link.first() != Some(&b'/') || !link.ends_with(DATABASE_FILE.as_bytes()) {
            return Ok(());
        }
        let path = PathBuf::from(std::ffi::OsString::from_vec(link));
        let access = descriptor.access()?;
        if path.file_name().is_none_or(|name| name.as_bytes() != DATABASE_FILE.as_bytes())
            || !(access.reads && access.writes)
        {
            return Ok(());
        }
        let stat = descriptor.stat()?;
        let regular = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::RegularFile;
        if !regular || stat.stx_nlink == 0 {
            return Ok(());
        }
        let (pid, descriptor) = (descriptor.pid, descriptor.number);
        let room = self.found.len() < FILES_MAX;
        let file = FileId::from(&stat);
        if let Some(holders) = self.found.get_mut(&file) {
            if holders.len() < HOLDERS_MAX {
                holders.push(Holder { pid, descriptor, path });
            }
        } else if room {
            self.found.insert(file, vec![Holder { pid, descriptor, path }]);
        }
        Ok(())
    }

    fn process(&mut self, _pid: u32, _descriptors: u64) {}
}

/// How this process sees the host.
struct Eyes<'a> {
    procfs: &'a Path,
    rootfs: &'a Path,
    mounts: Vec<Mount>,
}

impl Eyes<'_> {
    fn chroma(&self, pid: u32) -> Option<Process> {
        let stat = parse_stat(&walk::read(self.procfs, pid, "stat").ok()?).ok()?;
        let chroma = !is_sqlite_tool(&stat.comm) && stat.comm != OWN_COMM;
        chroma.then_some(Process { pid, start_ticks: stat.start_ticks })
    }

    /// The directory of what `holder` holds, by a path that leads to the same file here, and how when that leads through the
    /// process.
    fn find(
        &self,
        holder: &Holder,
        process: Process,
        file: FileId,
    ) -> Option<(PathBuf, Option<Through>)> {
        let below_root = holder.path.strip_prefix("/").ok()?;
        let place = || {
            let theirs = walk::read(self.procfs, holder.pid, "mountinfo").ok()?;
            let info =
                walk::read(self.procfs, holder.pid, &format!("fdinfo/{}", holder.descriptor));
            let mount = parse_fdinfo_mount(&info.ok()?).ok()?;
            mounts::place_on(&parse_mountinfo(&theirs), mount, &holder.path)
        };
        let translated = || -> Vec<PathBuf> {
            let place = place();
            place.iter().flat_map(|place| mounts::paths_to(&self.mounts, place)).collect()
        };
        let here = std::iter::once(rules::below_root(self.rootfs, &holder.path))
            .chain(std::iter::once_with(translated).flatten())
            .filter(|path| path.file_name().is_some_and(|name| name == DATABASE_FILE))
            .filter(|path| leads_to(path, file))
            .find_map(|path| path.parent().map(Path::to_owned));
        if let Some(dir) = here {
            return Some((dir, None));
        }
        let path = self.procfs.join(format!("{}/root", holder.pid)).join(below_root);
        let Process { pid, start_ticks } = process;
        let through = Through { pid, start_ticks, path: holder.path.parent()?.to_owned() };
        // Seen through this process, not through another one that got its pid meanwhile.
        (leads_to(&path, file) && walk::runs(self.procfs, pid, start_ticks))
            .then(|| Some((path.parent()?.to_owned(), Some(through))))?
    }

    fn store(&self, seen_path: PathBuf, through: Option<Through>) -> Store {
        let path = match seen_path.strip_prefix(self.rootfs) {
            Ok(rest) => Path::new("/").join(rest),
            Err(_) => seen_path.clone(),
        };
        Store { seen_path, through, ..Store::new(name_of(&path), path) }
    }
}

/// Whether `path` leads to `file`, asking its filesystem no longer than a moment.
fn leads_to(path: &Path, file: FileId) -> bool {
    let Some(dir) = path.parent() else { return false };
    Device::new(dir.to_owned()).ask(ANSWER_WITHIN).is_ok()
        && rustix::fs::statx(rustix::fs::CWD, path, walk::AT, StatxFlags::BASIC_STATS)
            .is_ok_and(|stat| FileId::from(&stat) == file)
}

/// The name that the configuration would give the directory too. Volumes of containers all have the same last name; the
/// one above tells them apart.
fn name_of(path: &Path) -> String {
    let volume =
        |path: &&Path| path.file_name().is_some_and(|name| name == "_data" || name == "mount");
    let above = Some(path).filter(volume).and_then(Path::parent);
    rules::default_store_name(above.filter(|path| path.file_name().is_some()).unwrap_or(path))
}

const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Bounds of what is remembered of a host where somebody opens the name again and again.
const FILES_MAX: usize = 4096;
const HOLDERS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, os::unix::fs::symlink, sync::Arc};

    use super::*;
    use crate::host::processes::tests::{Fake, Running};

    fn database(dir: &Path) -> PathBuf {
        fs::create_dir_all(dir).unwrap();
        let path = dir.join(DATABASE_FILE);
        fs::write(&path, "x").unwrap();
        path
    }

    /// What is found below `dir` on this host, where other tests run too.
    fn found(rootfs: &Path, dir: &Path) -> Vec<Store> {
        let mut found = stores(Path::new("/proc"), rootfs).unwrap();
        found.retain(|store| store.seen_path.starts_with(dir));
        found
    }

    #[test]
    fn each_directory_is_found_once_and_named() {
        let (fake, dir) = (Fake::new(), tempfile::tempdir().unwrap());
        let root = dir.path().canonicalize().unwrap();
        let pids = 100..;
        for ((comm, place), pid) in [
            ("chroma", "a/chroma"),
            ("python", "a/chroma"),
            ("uvicorn", "b/chroma"),
            ("python", "c/my data"),
            ("chroma", "volumes/web/_data"),
            ("sqlite3", "looked-at"),
            ("chroma_exporter", "our-copy"),
        ]
        .into_iter()
        .zip(pids)
        {
            let fds = fake.process(pid, comm, 0, "").join("fd");
            fs::create_dir(&fds).unwrap();
            symlink(database(&root.join(place)), fds.join("7")).unwrap();
            symlink("socket:[1]", fds.join("8")).unwrap();
            symlink(root.join("not-chroma.sqlite3"), fds.join("9")).unwrap();
        }
        let stores = stores(fake.dir.path(), Path::new("/")).unwrap();
        let got: Vec<_> = stores.iter().map(|s| (&*s.name, s.path.clone())).collect();
        let want = [
            ("chroma", root.join("a/chroma")),
            ("chroma-2", root.join("b/chroma")),
            ("my_data", root.join("c/my data")),
            ("web", root.join("volumes/web/_data")),
        ];
        assert_eq!(got, want);
        assert!(stores.iter().all(|store| store.path == store.seen_path));
    }

    #[test]
    fn names_are_unique_whatever_their_length() {
        let eyes = Eyes { procfs: Path::new("/"), rootfs: Path::new("/"), mounts: Vec::new() };
        let mut names: BTreeSet<std::sync::Arc<str>> = BTreeSet::new();
        let long = "x".repeat(80);
        for path in
            [format!("/a/{long}"), format!("/b/{long}"), "/".to_owned(), "/_data".to_owned()]
        {
            let store = eyes.store(path.into(), None);
            let name = roster::unused_name(&store.name, |name| names.contains(name));
            assert!(rules::store_name(&name).is_ok(), "{name}");
            names.insert(name);
        }
        assert_eq!(names.len(), 4, "{names:?}");
    }

    #[test]
    fn only_what_is_held_for_reading_and_writing_is_a_store() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let served = database(&root.join("served"));
        let (copied, deleted) = (database(&root.join("copied")), database(&root.join("deleted")));
        let _server = Running::shell("<>", &served);
        let _reader = Running::shell("<", &database(&root.join("read")));
        let _writer = Running::shell(">>", &copied);
        let _leftover = Running::shell("<>", &deleted);
        fs::remove_file(&deleted).unwrap();
        let names: Vec<_> = found(Path::new("/"), &root).into_iter().map(|s| s.name).collect();
        assert_eq!(names, [Arc::from("served")]);
        let below = found(&root, &root);
        assert_eq!(
            (below[0].path.as_path(), &below[0].seen_path),
            (Path::new("/served"), &root.join("served"))
        );
    }

    #[test]
    #[cfg_attr(not(feature = "e2e"), ignore = "needs root: run with --features e2e")]
    fn the_path_of_a_container_is_translated() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        database(&root.join("srv/bound"));
        fs::create_dir_all(root.join("data")).unwrap();
        let bound = "mount --bind \"$1/srv/bound\" \"$1/data\" && exec 3<>\"$1/data/chroma.sqlite3\"; echo ready; read end";
        let holder = Running::start("unshare", &["-m", "sh", "-c", bound, "sh"], &root);
        let stores = found(Path::new("/"), &root);
        assert_eq!(stores.len(), 1);
        assert_eq!((&*stores[0].name, &stores[0].path), ("bound", &root.join("srv/bound")));
        assert_eq!(stores[0].through, None, "it has a path here");
        drop(holder);

        // A filesystem that is mounted nowhere here is reached through the process.
        let private = "mount -t tmpfs none \"$1/data\" && exec 3<>\"$1/data/chroma.sqlite3\"; echo ready; read end";
        let holder = Running::start("unshare", &["-m", "sh", "-c", private, "sh"], &root);
        let through = PathBuf::from(format!("/proc/{}/root{}/data", holder.pid(), root.display()));
        let stores = found(Path::new("/"), &through);
        assert_eq!(stores.len(), 1);
        assert_eq!((&*stores[0].name, &stores[0].seen_path), ("data", &through));
        let by = stores[0].through.as_ref().unwrap();
        assert_eq!((by.pid, &by.path), (holder.pid(), &root.join("data")));
        assert_eq!(stores[0].subject().to_string_lossy(), format!("data:{}/data", root.display()));
        let (pid, ticks) = (by.pid, by.start_ticks);
        assert!(walk::runs(Path::new("/proc"), pid, ticks));
        assert!(!walk::runs(Path::new("/proc"), pid, ticks + 1), "another process with that pid");
        drop(holder);
        assert!(!walk::runs(Path::new("/proc"), pid, ticks), "ended");
    }
}
