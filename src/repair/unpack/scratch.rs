//! Where backups are unpacked: a directory of ours that goes away when nobody needs it any more. One that a killed run left is known by
//! its name and by the lock that nobody holds, and the next run removes it.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use crate::store::space::Space;

/// A directory that is removed with everything in it, unless it is kept.
#[derive(Debug)]
pub struct Scratch {
    dir: PathBuf,
    /// Held as long as this run is at work.
    _lock: File,
}

impl Scratch {
    /// Makes one in `place`, and removes what killed runs left there. Gives it with the names of those.
    pub(in crate::repair) fn new(place: &Path) -> io::Result<(Self, Vec<PathBuf>)> {
        let swept = sweep(place);
        for _ in 0..TRIES {
            let mut random = [0; 8];
            getrandom::fill(&mut random).map_err(io::Error::other)?;
            let dir = place.join(format!("{PREFIX}{:016x}", u64::from_ne_bytes(random)));
            match DirBuilder::new().mode(0o700).create(&dir) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error),
            }
            let lock =
                File::options().write(true).create_new(true).mode(0o600).open(dir.join(LOCK));
            let locked = lock.and_then(|lock| {
                flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
                Ok(lock)
            });
            return match locked {
                Ok(lock) => Ok((Self { dir, _lock: lock }, swept)),
                Err(error) => {
                    drop(fs::remove_dir_all(&dir));
                    Err(error)
                }
            };
        }
        Err(io::Error::new(io::ErrorKind::AlreadyExists, "every name that was tried is taken"))
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            tracing::warn!(dir = %self.dir.display(), %error, "Scratch directory not removed.");
        }
    }
}

/// Removes what runs that were killed left in `place`. What cannot be removed is left: the next run tries again.
#[must_use]
pub fn sweep(place: &Path) -> Vec<PathBuf> {
    let mut swept = Vec::new();
    let Ok(entries) = fs::read_dir(place) else { return swept };
    for entry in entries.take(ENTRIES_MAX).flatten() {
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        if !ours || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let dir = entry.path();
        // Without a lock it was made this very moment, or its removal was cut off.
        let idle = match File::options().write(true).open(dir.join(LOCK)) {
            Ok(lock) => flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok(),
            Err(error) => error.kind() == io::ErrorKind::NotFound && is_old(&dir),
        };
        if idle && fs::remove_dir_all(&dir).is_ok() {
            swept.push(dir);
        }
    }
    swept
}

/// Whether a directory was not changed for a while.
fn is_old(dir: &Path) -> bool {
    let Ok(meta) = fs::metadata(dir) else { return false };
    let modified = std::os::unix::fs::MetadataExt::mtime(&meta);
    crate::clock::now().as_secs().saturating_sub(modified) > 3600
}

/// Bytes that may be written to the filesystem of `dir`: what is free, without a reserve for everybody else.
pub(super) fn room(dir: &Path) -> io::Result<u64> {
    let space = Space::of(&rustix::fs::statvfs(dir)?);
    let reserve = (space.size_bytes / RESERVE_PART).min(RESERVE_MAX);
    Ok(space.avail_bytes.saturating_sub(reserve))
}

/// Begins the name of a scratch directory.
pub const PREFIX: &str = ".chroma_exporter.verify.";
const LOCK: &str = "lock";
const TRIES: u32 = 8;
const ENTRIES_MAX: usize = 100_000;
/// A twentieth of a small filesystem, 2 GiB of a large one.
const RESERVE_PART: u64 = 20;
const RESERVE_MAX: u64 = 2 << 30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_away_and_so_does_what_a_killed_run_left() {
        let place = tempfile::tempdir().unwrap();
        let (first, swept) = Scratch::new(place.path()).unwrap();
        assert!(swept.is_empty() && first.path().is_dir());
        // One that is at work is left alone.
        let (second, swept) = Scratch::new(place.path()).unwrap();
        assert!(swept.is_empty());
        let left = place.path().join(format!("{PREFIX}0123456789abcdef"));
        fs::create_dir(&left).unwrap();
        fs::write(left.join(LOCK), "").unwrap();
        fs::create_dir(place.path().join("other")).unwrap();
        assert_eq!(sweep(place.path()), std::slice::from_ref(&left));
        assert!(first.path().is_dir() && second.path().is_dir() && !left.exists());
        drop((first, second));
        let names: Vec<_> = fs::read_dir(place.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "only what is not ours: {names:?}");
    }
}
