//! The folders of indexes: which state they are in, and copies of them that are not of the middle of a flush.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use super::{
    Copying, ENTRIES_MAX, MomentError, PAUSE_MAX, SETTLED, Stamps, TICK, remove, stamp_of,
};
use crate::{
    clock,
    format::{
        hnsw::{HEADER_LEN, Header, LENGTHS_FILE, LEVEL0_FILE, LINKS_FILE},
        parts::INDEX_FILES,
        uuid::parse_uuid,
    },
    host::priority::{Quiet, SpareDisk, quietly},
    store::{
        database::{open_bytes, read_up_to},
        holes::Holes,
    },
};

impl Copying<'_> {
    /// The stamps of all folders whose names may be those of segments. Errs when the directory cannot be read.
    pub(super) fn all_stamps(&self) -> Result<BTreeMap<String, Stamps>, MomentError> {
        let dir = self.place.dir();
        let wrong = |source| MomentError::File { path: dir.to_owned(), source };
        let mut out = BTreeMap::new();
        for entry in fs::read_dir(dir).map_err(wrong)?.take(ENTRIES_MAX) {
            let entry = entry.map_err(wrong)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if parse_uuid(name.as_bytes()).is_some() {
                let stamps = self.stamps(&name)?;
                out.insert(name, stamps);
            }
        }
        Ok(out)
    }

    /// The stamps of the five files of a folder. Errs when one cannot be looked at; an absent one has none.
    pub(super) fn stamps(&self, folder: &str) -> Result<Stamps, MomentError> {
        let mut out = [None; 5];
        for (stamp, name) in out.iter_mut().zip(INDEX_FILES) {
            let path = Path::new(folder).join(name);
            let wrong = |source| MomentError::File { path: path.clone(), source };
            let real = self.place.at(&path).map_err(wrong)?;
            *stamp = stamp_of(&real).map_err(wrong)?;
        }
        Ok(out)
    }

    /// Copies the folders that are not copied as they are now. Errs when a file cannot be read or copied, or it was stopped.
    pub(super) fn refresh_all(&mut self, wanted: &BTreeSet<String>) -> Result<(), MomentError> {
        let now = self.all_stamps()?;
        let stale: Vec<&String> = wanted
            .iter()
            .filter(|folder| {
                now.contains_key(*folder) && now.get(*folder) != self.copied.get(*folder)
            })
            .collect();
        if stale.is_empty() {
            return Ok(());
        }
        let sizes = stale.iter().filter_map(|folder| now.get(*folder)).flatten().flatten();
        let bytes = sizes.map(|stamp| stamp.size_bytes).fold(0, u64::saturating_add);
        self.copy_options.steps.begin("copying the indexes", Some(bytes));
        let copied = {
            let this = &*self;
            // What was begun anew on another thread copies each folder again.
            let work = |stop: &AtomicBool| {
                let mut copied = BTreeMap::new();
                for folder in &stale {
                    if let Some(stamps) = this.refresh(folder, stop)? {
                        copied.insert((*folder).clone(), stamps);
                    }
                }
                Ok(copied)
            };
            let here = self.into.to_owned();
            quietly(Quiet::Nice, &self.stop, work)
                .map_err(|source| MomentError::File { path: here, source })?
        };
        self.copied.extend(copied?);
        Ok(())
    }

    /// Copies one folder. `None` when it is written to all the time. Errs when a file cannot be read or copied, or it was stopped.
    fn refresh(&self, folder: &str, stop: &AtomicBool) -> Result<Option<Stamps>, MomentError> {
        let to = self.into.join(folder);
        for _ in 0..REFRESHES_MAX {
            if stop.load(Ordering::Relaxed) {
                return Err(MomentError::Stopped);
            }
            let before = self.stamps(folder)?;
            let newest = before.iter().flatten().map(|stamp| stamp.modified).max();
            let now = clock::now();
            if newest.is_some_and(|newest| newest <= now && now.since(newest) < TICK) {
                // Two writes within one tick of the kernel's clock have the same time.
                std::thread::sleep(TICK);
                continue;
            }
            match fs::DirBuilder::new().mode(0o700).create(&to) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(MomentError::File { path: to, source: error });
                }
                _ => {}
            }
            let header = self.header(folder)?;
            for (stamp, name) in before.iter().zip(INDEX_FILES) {
                let target = to.join(name);
                remove(&target)?;
                if stamp.is_none() {
                    continue;
                }
                let path = Path::new(folder).join(name);
                let wrong = |source| MomentError::File { path: path.clone(), source };
                let from = match self.place.at(&path).and_then(|real| open_bytes(&real)) {
                    Ok(from) => from,
                    // It went since, which the stamps tell.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(wrong(error)),
                };
                let known = self.known.map_or(Ok(false), |known| {
                    known.put(&format!("{folder}/{name}"), &from, &target)
                });
                if !known.map_err(wrong)? {
                    let bound = bound_of(name, header.as_ref());
                    self.copy_file(&from, &target, bound, stop).map_err(wrong)?;
                }
            }
            if self.stamps(folder)? == before {
                return Ok(Some(before));
            }
        }
        Ok(None)
    }

    fn header(&self, folder: &str) -> Result<Option<Header>, MomentError> {
        let path = Path::new(folder).join(INDEX_FILES[0]);
        let wrong = |source| MomentError::File { path: path.clone(), source };
        let file = match self.place.at(&path).and_then(|real| open_bytes(&real)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(wrong(error)),
        };
        let mut bytes = [0; HEADER_LEN];
        let read = read_up_to(&file, &mut bytes, 0).map_err(wrong)?;
        Ok(Header::parse(&bytes[..read]).ok())
    }

    /// Copies what a file has up to `bound`, with holes where it has holes. What is longer is cut.
    /// Errs when it is no regular file, cannot be read or written, or `stop` is set.
    pub(super) fn copy_file(
        &self,
        from: &File,
        to: &Path,
        bound: u64,
        stop: &AtomicBool,
    ) -> io::Result<()> {
        let _spare = SpareDisk::new();
        let meta = from.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        let (began, rate) = (clock::ticks(), self.rate_bytes_max());
        let out = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to)?;
        let mut holes = Holes::of(from);
        let mut buffer = vec![0; CHUNK_BYTES];
        let (mut at, mut moved) = (0, 0);
        loop {
            let data = holes.data_from(at).min(bound);
            self.copy_options.steps.add(data.saturating_sub(at));
            at = data;
            let room = usize::try_from(bound - at).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            let read = read_up_to(from, &mut buffer[..room], at)?;
            if read == 0 {
                break;
            }
            out.write_all_at(&buffer[..read], at)?;
            at += read as u64;
            moved += read as u64;
            self.copy_options.steps.add(read as u64);
            if stop.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let due = Duration::from_secs_f64(moved as f64 / rate.max(1) as f64);
            std::thread::sleep(due.saturating_sub(began.elapsed()).min(PAUSE_MAX));
        }
        out.set_len(at)
    }

    /// Which of `wanted` are in the middle of a flush. A writer that stands still does not keep us waiting for ever: what has
    /// not changed for some time counts as whole, and the proof looks at what is in it.
    pub(super) fn flushing(
        &self,
        stamps: &BTreeMap<String, Stamps>,
        wanted: &BTreeSet<String>,
    ) -> Vec<String> {
        let now = clock::now();
        let half = |stamps: &Stamps| {
            let [files @ .., pickle] = stamps;
            let newest = files.iter().flatten().map(|stamp| stamp.modified).max();
            let (Some(newest), Some(pickle)) = (newest, pickle) else { return false };
            newest > pickle.modified && now.since(newest) < SETTLED
        };
        let of = |folder: &&String| stamps.get(*folder).is_some_and(half);
        let half: Vec<String> = wanted.iter().filter(of).cloned().collect();
        if half.is_empty() || !self.is_held() { Vec::new() } else { half }
    }

    /// Waits until one of `moved` is flushed again, or for a moment. Errs when a folder cannot be looked at, or it was stopped.
    pub(super) fn wait_for_flush(
        &self,
        moved: &[String],
        since: &BTreeMap<String, Stamps>,
    ) -> Result<(), MomentError> {
        let began = clock::ticks();
        while began.elapsed() < FLUSH_WAIT_MAX {
            self.go_on()?;
            std::thread::sleep(POLL_INTERVAL);
            for folder in moved {
                if Some(&self.stamps(folder)?) != since.get(folder) {
                    // The rest of the flush.
                    std::thread::sleep(5 * POLL_INTERVAL);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Removes the copies of folders that nobody wants any more. Errs when one cannot be removed.
    pub(super) fn drop_unwanted(&mut self, wanted: &BTreeSet<String>) -> Result<(), MomentError> {
        let gone: Vec<String> =
            self.copied.keys().filter(|folder| !wanted.contains(*folder)).cloned().collect();
        for folder in gone {
            let path = self.into.join(&folder);
            fs::remove_dir_all(&path).map_err(|source| MomentError::File { path, source })?;
            self.copied.remove(&folder);
        }
        Ok(())
    }
}

/// Nothing of an index lies beyond this: a file that has grown far beyond what its header allows is cut there.
fn bound_of(name: &str, header: Option<&Header>) -> u64 {
    let Some(header) = header else { return u64::MAX };
    let most = match name {
        LINKS_FILE => header.links_bytes_max(),
        LEVEL0_FILE => header.max_elements.saturating_mul(header.element_bytes),
        LENGTHS_FILE => header.max_elements.saturating_mul(4),
        _ => return u64::MAX,
    };
    most.max(BOUND_MIN_BYTES)
}

const REFRESHES_MAX: u32 = 20;
/// A file of an index is never cut below this.
pub(super) const BOUND_MIN_BYTES: u64 = 64 << 20;
const CHUNK_BYTES: usize = 1 << 20;
/// How long a flush is waited for, and how often it is looked for.
const FLUSH_WAIT_MAX: Duration = Duration::from_secs(1);
const POLL_INTERVAL: Duration = Duration::from_millis(2);
