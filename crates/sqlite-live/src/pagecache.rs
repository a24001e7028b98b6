//! The page cache: what it has of a file, what we bring into it, and giving that back. Pages that were there before are
//! wanted by somebody and stay.

use std::{
    fs::File,
    io,
    num::NonZeroU64,
    os::fd::AsFd,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use rustix::fs::{Advice, fadvise};
use sysinfo::System;

use super::{database::read_up_to, holes::Holes};
use crate::{
    clock,
    kernel::cached_pages,
    priority::SpareDisk,
    progress::{Phase, Progress},
};

/// A stretch of a file: where it begins, and its bytes.
pub(super) type Stretch = (u64, u64);

/// Stretches between two places of the file that are not in the page cache, to whole pages of memory. `None` when the kernel
/// does not tell. Nothing is read for it.
pub(super) fn absent(file: &File, start: u64, end: u64) -> Option<Vec<Stretch>> {
    let page = rustix::param::page_size() as u64;
    let mut stretches = Vec::new();
    let mut open = vec![(start / page, end.div_ceil(page))];
    // Halved until a part is there as a whole or not at all.
    while let Some((first, after)) = open.pop() {
        let pages = after.saturating_sub(first);
        if pages == 0 {
            continue;
        }
        match cached_pages(file.as_fd(), first * page, pages * page).ok()? {
            0 => add(&mut stretches, first * page, pages * page),
            cached if cached >= pages => {}
            _ => open.extend([(first + pages / 2, after), (first, first + pages / 2)]),
        }
    }
    Some(stretches)
}

/// Adds a stretch behind those that are there.
pub(super) fn add(stretches: &mut Vec<Stretch>, start: u64, len: u64) {
    match stretches.last_mut() {
        Some((first, before)) if *first + *before == start => *before += len,
        _ => stretches.push((start, len)),
    }
}

/// Lets the page cache forget `stretches`, as far as nobody else has them in use.
pub(super) fn give_back(file: &File, stretches: &[Stretch]) {
    for (start, len) in stretches {
        if let Err(error) = fadvise(file, *start, NonZeroU64::new(*len), Advice::DontNeed) {
            tracing::trace!(%error, "The page cache keeps what was read.");
        }
    }
}

/// A file that is wholly in the page cache, until this is dropped.
#[derive(Debug)]
pub struct Brought<'a> {
    file: &'a File,
    stretches: Vec<Stretch>,
}

impl Drop for Brought<'_> {
    fn drop(&mut self) {
        give_back(self.file, &self.stretches);
    }
}

/// Reads what is not in the page cache, in the order of the file, at most `rate_bytes_max` a second: trees read one page here and
/// one there, which a disk answers a third as fast. Leaves it when the file would take more than half of the memory that is
/// free, as it would be gone again before it was wanted. No lock may be held.
pub fn bring<'a>(file: &'a File, mode: &ReadMode<'_>) -> Brought<'a> {
    let mut brought = Brought { file, stretches: Vec::new() };
    if let Err(error) = brought.fill(mode) {
        // Who reads it next says so in better words.
        tracing::debug!(%error, "A file is not brought into the page cache.");
    }
    brought
}

/// How a file is to be read.
#[derive(Debug)]
pub struct ReadMode<'a> {
    /// Bytes a second, at most.
    pub rate_bytes_max: u64,
    /// No piece is begun after so long.
    pub time_max: Duration,
    /// Set when nobody wants it any more.
    pub stop: &'a AtomicBool,
    /// Told of each piece.
    pub progress: &'a Progress,
}

impl Brought<'_> {
    fn fill(&mut self, mode: &ReadMode<'_>) -> io::Result<()> {
        let file = self.file;
        let len = file.metadata()?.len();
        if len > free_memory_bytes() / 2 {
            return Ok(());
        }
        mode.progress.begin(Phase::Reading, len);
        let _spare = SpareDisk::new();
        let (began, mut moved) = (clock::ticks(), 0);
        let mut behind = None;
        let mut holes = Holes::of(file);
        for start in (0..len).step_by(PIECE_BYTES) {
            let goes_on = mode.progress.checkpoint(mode.stop);
            let worked = began.elapsed().saturating_sub(mode.progress.paused());
            if mode.stop.load(Ordering::Relaxed) || !goes_on || worked >= mode.time_max {
                break;
            }
            let end = len.min(start + PIECE_BYTES as u64);
            let Some(mut absent) = absent(file, start, end) else { break };
            if holes.data_from(start) >= end {
                absent.clear();
            }
            for (start, len) in absent {
                fadvise(file, start, NonZeroU64::new(len), Advice::WillNeed)?;
                if self.stretches.len() < STRETCHES_MAX {
                    add(&mut self.stretches, start, len);
                }
                // The disk has two pieces to read, and no more.
                if let Some(last) = behind.replace(start + len - 1) {
                    read_up_to(file, &mut [0], last)?;
                }
                moved += len;
            }
            mode.progress.add(end - start);
            let due = Duration::from_secs_f64(moved as f64 / mode.rate_bytes_max.max(1) as f64);
            std::thread::sleep(due.saturating_sub(worked).min(PAUSE_MAX));
        }
        Ok(())
    }
}

/// Memory that can be had without anybody losing what they use, of the host and of this control group.
fn free_memory_bytes() -> u64 {
    let Ok(mut system) = System::new() else { return 0 };
    system.refresh_memory();
    let group = system.cgroup_limits().map_or(u64::MAX, |limits| limits.free_memory);
    system.available_memory().min(group)
}

const PIECE_BYTES: usize = 1 << 20;
/// 16 MiB of memory; what is brought in beyond that stays.
const STRETCHES_MAX: usize = 1 << 20;
/// A piece is due by then at any rate that can be configured.
const PAUSE_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn what_was_brought_is_given_back_and_nothing_else() {
        // Not where files for tests usually go: that may lie in memory, where nothing can be given back.
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let page = rustix::param::page_size() as u64;
        file.write_all_at(&vec![7; 600 * rustix::param::page_size()], 0).unwrap();
        file.sync_all().unwrap();
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
        fadvise(&file, 0, None, Advice::Random).unwrap();
        let whole = |file: &File| absent(file, 0, 600 * page);
        // A kernel that does not tell, or a filesystem in memory.
        if whole(&file) != Some(vec![(0, 600 * page)]) {
            return;
        }
        for wanted in [3, 40, 599] {
            file.read_exact_at(&mut [0], wanted * page).unwrap();
        }
        let before = whole(&file).unwrap();
        assert_eq!(before.len(), 3, "{before:?}");
        let (stop, progress) = (AtomicBool::new(false), Progress::default());
        let time_max = Duration::from_mins(10);
        let mode =
            ReadMode { rate_bytes_max: u64::MAX, time_max, stop: &stop, progress: &progress };
        let brought = bring(&file, &mode);
        let mut bytes = vec![0; 600 * rustix::param::page_size()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(whole(&file), Some(Vec::new()));
        assert_eq!(brought.stretches, before);
        drop(brought);
        assert_eq!(whole(&file), Some(before));
        // Nobody wants it any more.
        stop.store(true, Ordering::Relaxed);
        assert!(bring(&file, &mode).stretches.is_empty());
    }
}
