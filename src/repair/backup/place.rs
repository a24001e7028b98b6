//! The destination: is it one, has it room, whose turn is it, and which backups of ours are there.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    ops::Range,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};

use super::{
    BackupError,
    names::{self, Form},
    pack,
};
use crate::{
    clock::{self, Timestamp},
    format::manifest::{BYTES_MAX, MANIFEST_FILE, Manifest},
    repair::{moment::Known, retention, steps::Steps},
    store::{Context, database::read_up_to, space::Space},
};

/// A destination that this run has for itself, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) dir: PathBuf,
    /// What the names of the backups begin with: that of the store's directory.
    pub(super) directory: String,
    /// Holds the lock.
    held: File,
}

impl Place {
    /// Takes the directory `to` for a backup of the store. Waits for a run that is at work there.
    /// Errs when it is no directory, lies in the store, stays locked, cannot be used, or the steps were stopped.
    pub(super) fn claim(context: &Context, to: &Path, steps: &Steps) -> Result<Self, BackupError> {
        let unusable = |source| BackupError::Destination { path: to.to_owned(), source };
        let dir = to.canonicalize().map_err(unusable)?;
        let held = File::open(&dir).map_err(unusable)?;
        if !held.metadata().map_err(unusable)?.is_dir() {
            return Err(unusable(io::ErrorKind::NotADirectory.into()));
        }
        let store = context.place();
        if let Some(inside) = inside(&dir, store.dir()).map_err(unusable)? {
            return Err(BackupError::Inside { to: to.to_owned(), store: inside });
        }
        let began = clock::ticks();
        steps.begin("waiting for another backup", None);
        while flock(&held, FlockOperation::NonBlockingLockExclusive).is_err() {
            if steps.stopped() {
                return Err(BackupError::Stopped);
            }
            if began.elapsed() >= WAIT_MAX {
                return Err(BackupError::Locked { to: to.to_owned(), waited: began.elapsed() });
            }
            thread::sleep(POLL_INTERVAL);
        }
        let name = context.store.path.file_name().unwrap_or("chroma".as_ref());
        let directory = name.to_string_lossy().into_owned();
        let place = Self { dir, directory, held };
        place.clean().map_err(unusable)?;
        Ok(place)
    }

    /// Removes what runs that were killed have left. Nobody else is at work here. Errs when one cannot be removed.
    fn clean(&self) -> io::Result<()> {
        for name in self.entries()? {
            if names::is_left(&name, &self.directory) {
                tracing::info!(name, "Removed what a backup that was cut off had left.");
                remove(&self.dir.join(&name))?;
            }
        }
        Ok(())
    }

    fn entries(&self) -> io::Result<Vec<String>> {
        let mut out = Vec::new();
        for entry in fs::read_dir(&self.dir)?.take(ENTRIES_MAX) {
            out.extend(entry?.file_name().into_string());
        }
        Ok(out)
    }

    /// The newest moment before `end` in the name of a backup of this directory, whoever made it. Errs when the directory cannot be read.
    pub(super) fn newest_before(&self, end: Timestamp) -> io::Result<Option<Timestamp>> {
        let entries = self.entries()?.into_iter();
        let moments = entries.filter_map(|name| Some(names::parse(&name, &self.directory)?.0));
        Ok(moments.filter(|moment| *moment < end).max())
    }

    /// The backups of this store that were made on this host, with their manifests. What has none, or cannot be read, is not ours.
    /// Errs when the directory cannot be read.
    fn backups(&self, store: &str, host: &str) -> io::Result<Vec<(String, Form, Manifest)>> {
        let mut out = Vec::new();
        for name in self.entries()? {
            let Some((_, form)) = names::parse(&name, &self.directory) else { continue };
            match manifest_of(&self.dir.join(&name), form) {
                Ok(manifest) if manifest.store == store && manifest.host == host => {
                    out.push((name, form, manifest));
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(name, %error, "No backup of ours."),
            }
        }
        Ok(out)
    }

    /// Errs when a backup of `need_bytes` would push the filesystem over `used_ratio_max`.
    pub(super) fn has_room(&self, need_bytes: u64, used_ratio_max: f64) -> Result<(), BackupError> {
        let vfs = rustix::fs::fstatvfs(&self.held).map_err(|errno| BackupError::Destination {
            path: self.dir.clone(),
            source: errno.into(),
        })?;
        let space = Space::of(&vfs);
        let after = space.used_ratio_with(need_bytes).unwrap_or(f64::INFINITY);
        if need_bytes <= space.avail_bytes && after < used_ratio_max {
            return Ok(());
        }
        Err(BackupError::NoRoom {
            to: self.dir.clone(),
            need_bytes,
            avail_bytes: space.avail_bytes,
            after,
            used_ratio_max,
        })
    }

    /// The newest proven backup in the form of a directory, whose files may be taken over.
    pub(super) fn previous(&self, store: &str, host: &str) -> Option<Previous> {
        let backups = self.backups(store, host).ok()?;
        let whole = |(_, form, manifest): &(String, Form, Manifest)| {
            *form == Form::Directory && manifest.is_proven()
        };
        let (name, _, manifest) =
            backups.into_iter().filter(whole).max_by_key(|(name, ..)| name.clone())?;
        Some(Previous { dir: self.dir.join(name), manifest, put: Mutex::default() })
    }

    /// Removes the backups that nothing keeps, each in one step; gives their names. `made` stays, whatever its name says: a clock
    /// that was set back makes it older than those before. Errs when one cannot be renamed or removed.
    pub(super) fn prune(
        &self,
        store: &str,
        host: &str,
        keep: &retention::Keep,
        made: &Path,
    ) -> io::Result<Vec<String>> {
        let backups = self.backups(store, host)?;
        let known: Vec<retention::Known> = backups
            .into_iter()
            .filter_map(|(name, _, manifest)| {
                let (moment, _) = names::parse(&name, &self.directory)?;
                Some(retention::Known { moment, proven: manifest.is_proven(), name })
            })
            .collect();
        let mut pruned = Vec::new();
        for name in retention::surplus(&known, keep) {
            if made.file_name().is_some_and(|made| made == name) {
                continue;
            }
            let hidden = self.dir.join(names::removed(name));
            fs::rename(self.dir.join(name), &hidden)?;
            self.sync()?;
            remove(&hidden)?;
            pruned.push(name.to_owned());
        }
        Ok(pruned)
    }

    /// Gives the names in it to the disk. Errs when the disk does.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.held.sync_all()
    }
}

/// The manifest of a backup at `path`; `None` when there is none that can be read.
pub(crate) fn manifest(path: &Path) -> Option<Manifest> {
    let form = if path.is_dir() { Form::Directory } else { Form::Archive };
    manifest_of(path, form).ok()
}

/// The manifest of a backup of ours. Errs when it cannot be read, or is none.
pub(super) fn manifest_of(path: &Path, form: Form) -> io::Result<Manifest> {
    if form == Form::Archive {
        return pack::manifest_of(path);
    }
    let path = path.join(MANIFEST_FILE);
    let meta = fs::metadata(&path)?;
    if !meta.is_file() || meta.len() > BYTES_MAX {
        return Err(io::Error::other("its manifest is no regular file of a usual size"));
    }
    Manifest::parse(&fs::read(&path)?).map_err(io::Error::other)
}

/// The directory of the store, or one in it, when `dir` is that or lies below it. By what they are: the same directory may have
/// many paths, and what is mounted elsewhere has other ones above it. Errs when a directory cannot be read.
fn inside(dir: &Path, store: &Path) -> io::Result<Option<PathBuf>> {
    let id = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
    let mut theirs = match id(store) {
        Ok(id) => vec![(id, store.to_owned())],
        // What is missing is told when it is read.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    for entry in fs::read_dir(store)?.take(ENTRIES_MAX).flatten() {
        let path = entry.path();
        if path.is_dir()
            && let Ok(id) = id(&path)
        {
            theirs.push((id, path));
        }
    }
    let above: BTreeSet<(u64, u64)> = dir.ancestors().filter_map(|path| id(path).ok()).collect();
    Ok(theirs.into_iter().find(|(id, _)| above.contains(id)).map(|(_, path)| path))
}

/// Removes a file, or a directory with all that is in it. Links are removed, not followed.
/// Errs when it cannot be removed; an absent one is no error.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// A proven backup whose files a new one may share, where the bytes are the same.
#[derive(Debug)]
pub(super) struct Previous {
    dir: PathBuf,
    pub(super) manifest: Manifest,
    put: Mutex<BTreeSet<String>>,
}

impl Previous {
    /// What was taken over, by its path.
    pub(super) fn shared(&self) -> BTreeSet<String> {
        self.put.lock().clone()
    }
}

impl Known for Previous {
    fn put(&self, path: &str, file: &File, to: &Path) -> io::Result<bool> {
        self.forget(path);
        let Some(known) = self.manifest.files.iter().find(|known| known.path == path) else {
            return Ok(false);
        };
        let own = self.dir.join(path);
        // What is wrong with an old backup is no reason to make none.
        let Ok(old) = fs::OpenOptions::new().read(true).custom_flags(NO_FOLLOW).open(&own) else {
            return Ok(false);
        };
        let lengths = [old.metadata()?.len(), file.metadata()?.len()];
        if lengths != [known.bytes; 2] || !same_bytes(&old, file, known.bytes).unwrap_or(false) {
            return Ok(false);
        }
        let shared = shared(&old, &own, to)?;
        if shared {
            self.put.lock().insert(path.to_owned());
        }
        Ok(shared)
    }

    fn forget(&self, path: &str) {
        self.put.lock().remove(path);
    }
}

/// A file of its own with the same blocks, where the filesystem can do that; otherwise another name of the same file.
/// Errs when none can be made.
fn shared(old: &File, own: &Path, to: &Path) -> io::Result<bool> {
    let new = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
    if rustix::fs::ioctl_ficlone(&new, old).is_ok() {
        return Ok(true);
    }
    drop(new);
    fs::remove_file(to)?;
    Ok(fs::hard_link(own, to).is_ok())
}

/// Whether two files hold the same `bytes` bytes. Both halves are compared at a time: one processor is slower than memory.
/// Errs when one cannot be read, or it was stopped.
fn same_bytes(one: &File, other: &File, bytes: u64) -> io::Result<bool> {
    let middle = bytes / 2;
    thread::scope(|scope| {
        let rest = scope.spawn(|| is_same_part(one, other, middle..bytes));
        let first = is_same_part(one, other, 0..middle);
        let rest = rest.join().unwrap_or_else(|_| Err(io::Error::other("comparing panicked")));
        // What has grown since is another file.
        let goes_on = || other.read_at(&mut [0], bytes).map(|read| read > 0);
        Ok(first? && rest? && !goes_on()?)
    })
}

fn is_same_part(one: &File, other: &File, part: Range<u64>) -> io::Result<bool> {
    let mut buffers = [vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]];
    let mut at = part.start;
    while at < part.end {
        let length = usize::try_from(part.end - at).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
        let [ours, theirs] = buffers.each_mut().map(|buffer| &mut buffer[..length]);
        let read = read_up_to(one, ours, at)?;
        if read < length || read_up_to(other, theirs, at)? < length || ours != theirs {
            return Ok(false);
        }
        at += length as u64;
    }
    Ok(true)
}

const NO_FOLLOW: i32 = libc::O_NOFOLLOW | libc::O_NONBLOCK;
const ENTRIES_MAX: usize = 100_000;
/// Two of them stay in the cache of a processor.
const CHUNK_BYTES: usize = 128 << 10;
const WAIT_MAX: Duration = Duration::from_mins(10);
const POLL_INTERVAL: Duration = Duration::from_millis(100);
