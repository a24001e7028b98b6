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
    /// Errs when none can be made or locked.
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
                // Swept before it had its lock.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
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
        if let Err(error) = remove(&self.dir) {
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
        let gone = match File::options().write(true).open(dir.join(LOCK)) {
            Ok(lock) => {
                flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
                    && remove(&dir).is_ok()
            }
            // Its removal was cut off, and it is empty; or it was made this very moment, and whoever makes it tries again.
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::remove_dir(&dir).is_ok(),
            Err(_) => false,
        };
        if gone {
            swept.push(dir);
        }
    }
    swept
}

/// Removes one, the lock last: wherever it is cut off, the next run knows what is left for one of ours.
/// Errs when something in it cannot be removed.
fn remove(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name() == LOCK {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    fs::remove_file(dir.join(LOCK))?;
    fs::remove_dir(dir)
}

/// Bytes that may be written to the filesystem of `dir`: what is free, without a reserve for everybody else.
/// Errs when the filesystem does not say.
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
        fs::write(left.join("copy"), "x").unwrap();
        // The removal of another was cut off at its end.
        let emptied = place.path().join(format!("{PREFIX}fedcba9876543210"));
        fs::create_dir(&emptied).unwrap();
        fs::create_dir(place.path().join("other")).unwrap();
        let swept = sweep(place.path());
        assert!(swept.contains(&left) && swept.contains(&emptied) && swept.len() == 2, "{swept:?}");
        assert!(first.path().is_dir() && second.path().is_dir());
        assert!(!left.exists() && !emptied.exists());
        drop((first, second));
        let names: Vec<_> = fs::read_dir(place.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "only what is not ours: {names:?}");
    }
}
