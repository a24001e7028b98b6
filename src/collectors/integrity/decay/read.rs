//! Reads a file past the page cache where the filesystem can do that: what rotted on the disk hides behind pages that are
//! still in memory, and pages that Chroma works with stay where they are. A direct read also has the kernel write out
//! what was changed through a mapping, so that later changes must show in the times of the file.

use std::{
    fs::File,
    hash::Hasher,
    io::{self, IoSliceMut},
    num::NonZeroU64,
    os::unix::fs::FileExt,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use rustix::{
    fs::{Advice, OFlags, fadvise, fcntl_getfl, fcntl_setfl},
    io::{Errno, ReadWriteFlags, preadv2},
};
use twox_hash::XxHash3_64;

use crate::{
    clock::{self, Ticks},
    progress::Progress,
    store::{database::read_up_to, holes::Holes},
};

/// A file that is read past the page cache while this lives, if that can be had.
#[derive(Debug)]
pub(super) struct Source<'a> {
    file: &'a File,
    direct: bool,
}

impl<'a> Source<'a> {
    pub(super) fn new(file: &'a File, direct: bool) -> Self {
        Self { file, direct: direct && set_direct(file, true) }
    }

    pub(super) const fn is_direct(&self) -> bool {
        self.direct
    }

    /// Fills the buffer as far as the file goes. `at` is a multiple of [`PIECE_BYTES`] or of a region. Errs when it cannot be read.
    fn read(&mut self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        if self.direct {
            match read_once(self.file, buffer, at) {
                // The flag was taken, and the filesystem cannot do it after all.
                Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                    set_direct(self.file, false);
                    self.direct = false;
                }
                result => return result,
            }
        }
        read_gently(self.file, buffer, at)
    }

    /// Forgets what the page cache has of a range, where it is not wanted by somebody else.
    pub(super) fn forget(&self, at: u64, len: u64) {
        if let Err(error) = fadvise(self.file, at, NonZeroU64::new(len), Advice::DontNeed) {
            tracing::trace!(%error, "The page cache keeps a region.");
        }
    }
}

impl Drop for Source<'_> {
    fn drop(&mut self) {
        // The descriptor may be used by others later, whose buffers lie anywhere.
        if self.direct {
            set_direct(self.file, false);
        }
    }
}

fn set_direct(file: &File, on: bool) -> bool {
    let set = fcntl_getfl(file).and_then(|mut flags| {
        flags.set(OFlags::DIRECT, on);
        fcntl_setfl(file, flags)
    });
    set.is_ok()
}

/// One read of the system: a short one is the end of the file, and going on from there would not be aligned. Errs when the system does.
fn read_once(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, at) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// What was not in the page cache is given back to it. Errs when it cannot be read.
fn read_gently(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let cached = preadv2(file, &mut [IoSliceMut::new(buffer)], at, ReadWriteFlags::NOWAIT);
    let cached = match cached {
        Ok(read) if read == buffer.len() => return Ok(read),
        Ok(read) => read,
        Err(_) => 0,
    };
    let start = at.saturating_add(cached as u64);
    let read = read_up_to(file, &mut buffer[cached..], start)?;
    if let Some(len) = NonZeroU64::new(read as u64)
        && let Err(error) = fadvise(file, start, Some(len), Advice::DontNeed)
    {
        tracing::trace!(%error, "The page cache keeps what was read.");
    }
    Ok(cached + read)
}

/// How the reading goes: at a bounded rate, until nobody wants it.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    buffer: Vec<u8>,
    rate_bytes_max: u64,
    stop: &'a AtomicBool,
    progress: &'a Progress,
    began: Ticks,
    bytes: u64,
}

/// The hash of a region: of its blocks that are not all zeros, and of their places. A block that was never written is not
/// read, and one of zeros in its place is the same.
#[derive(Default)]
struct RegionHash(XxHash3_64);

impl RegionHash {
    /// The next block, `at` bytes from the beginning of the region.
    fn block(&mut self, at: u64, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<16>();
        if rest.iter().any(|byte| *byte != 0) || words.iter().any(|word| *word != [0; 16]) {
            self.0.write(&at.to_le_bytes());
            self.0.write(bytes);
        }
    }

    fn finish(self) -> u64 {
        self.0.finish()
    }
}

/// Why there are no hashes.
#[derive(Debug)]
pub(super) enum NotRead {
    /// The file has another length than it should have.
    Changed,
    Stopped,
    Io(io::Error),
}

impl<'a> Reader<'a> {
    pub(super) fn new(rate_bytes_max: u64, stop: &'a AtomicBool, progress: &'a Progress) -> Self {
        // Room to begin at an address that a direct read takes.
        let buffer = vec![0; BUFFER_BYTES + ALIGN];
        let began = clock::ticks();
        Self { buffer, rate_bytes_max, stop, progress, began, bytes: 0 }
    }

    /// One hash for each region of the whole file of `size_bytes`. Errs when the file changed, cannot be read, or the run
    /// was stopped.
    pub(super) fn hashes(
        &mut self,
        source: &mut Source<'_>,
        size_bytes: u64,
        region_log2: u32,
    ) -> Result<Vec<u64>, NotRead> {
        let region = 1_u64 << region_log2;
        let mut holes = Holes::of(source.file);
        let mut hashes = Vec::new();
        let mut hash = RegionHash::default();
        let mut at = 0;
        while at < size_bytes {
            let data = self.skip(&mut holes, at, size_bytes);
            while at < data {
                let end = (at / region + 1).saturating_mul(region).min(size_bytes);
                at = end.min(data);
                if at == end {
                    hashes.push(std::mem::take(&mut hash).finish());
                }
            }
            if at >= size_bytes {
                break;
            }
            let mut piece = self.piece(source, at, size_bytes)?;
            while !piece.is_empty() {
                let (block, rest) = piece.split_at(piece.len().min(PIECE_BYTES));
                hash.block(at % region, block);
                piece = rest;
                at += block.len() as u64;
                if at.is_multiple_of(region) || at == size_bytes {
                    hashes.push(std::mem::take(&mut hash).finish());
                }
            }
            self.pause()?;
        }
        Ok(hashes)
    }

    /// The hash of one region. Errs alike.
    pub(super) fn region(
        &mut self,
        source: &mut Source<'_>,
        size_bytes: u64,
        region_bytes: u64,
        number: usize,
    ) -> Result<u64, NotRead> {
        let start = (number as u64).saturating_mul(region_bytes);
        let end = start.saturating_add(region_bytes).min(size_bytes);
        let mut holes = Holes::of(source.file);
        let mut hash = RegionHash::default();
        let mut at = start;
        loop {
            at = self.skip(&mut holes, at, end);
            if at >= end {
                return Ok(hash.finish());
            }
            let piece = self.piece(source, at, end)?;
            for block in piece.chunks(PIECE_BYTES) {
                hash.block(at - start, block);
                at += block.len() as u64;
            }
        }
    }

    /// The block from `at` on, and before `end`, that has bytes.
    fn skip(&self, holes: &mut Holes<'_>, at: u64, end: u64) -> u64 {
        let data = holes.data_from(at).min(end);
        if data < end && data / PIECE_BYTES as u64 == at / PIECE_BYTES as u64 {
            return at;
        }
        let data = if data < end { data - data % PIECE_BYTES as u64 } else { end };
        self.progress.add(data.saturating_sub(at));
        data.max(at)
    }

    /// The bytes from `at` on, as many as fit and not beyond `end`; at least one.
    /// Errs when it cannot be read, became shorter, or it was stopped.
    fn piece(&mut self, source: &mut Source<'_>, at: u64, end: u64) -> Result<&[u8], NotRead> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(NotRead::Stopped);
        }
        let start = self.buffer.as_ptr().align_offset(ALIGN).min(ALIGN);
        let wanted = end - at;
        let whole = usize::try_from(wanted.next_multiple_of(PIECE_BYTES as u64));
        let len = whole.map_or(BUFFER_BYTES, |whole| whole.min(BUFFER_BYTES));
        let read = source.read(&mut self.buffer[start..start + len], at).map_err(NotRead::Io)?;
        self.bytes += read as u64;
        self.progress.add(read as u64);
        let read = read.min(usize::try_from(wanted).unwrap_or(usize::MAX));
        // Cut off: fewer bytes than `stat` promised.
        if read == 0 || (read as u64) < wanted.min(len as u64) {
            return Err(NotRead::Changed);
        }
        Ok(&self.buffer[start..start + read])
    }

    fn pause(&self) -> Result<(), NotRead> {
        if !self.progress.checkpoint(self.stop) {
            return Err(NotRead::Stopped);
        }
        loop {
            let due = self.bytes as f64 / self.rate_bytes_max.max(1) as f64;
            let due = Duration::try_from_secs_f64(due).unwrap_or(Duration::MAX);
            let left =
                due.saturating_sub(self.began.elapsed().saturating_sub(self.progress.paused()));
            if left.is_zero() {
                return Ok(());
            }
            if self.stop.load(Ordering::Relaxed) {
                return Err(NotRead::Stopped);
            }
            std::thread::sleep(left.min(PAUSE_PIECE));
        }
    }
}

/// What the largest blocks of disks need.
const ALIGN: usize = 4096;
/// Direct reads are a multiple of this long.
const PIECE_BYTES: usize = 64 << 10;
const BUFFER_BYTES: usize = 1 << 20;
const PAUSE_PIECE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_of_reading_give_the_same_and_leave_the_descriptor_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for len in [0_usize, 1, 65_535, 65_536, 65_537, 1 << 20, (3 << 20) + 4097] {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 7 / 5).to_le_bytes()[1]).collect();
            std::fs::write(&path, &bytes).unwrap();
            let file = File::open(&path).unwrap();
            let (stop, progress) = (AtomicBool::new(false), Progress::default());
            let mut reader = Reader::new(1 << 40, &stop, &progress);
            let want: Vec<u64> = bytes.chunks(1 << 17).map(hash_of).collect();
            for direct in [true, false] {
                let mut source = Source::new(&file, direct);
                let is = reader.hashes(&mut source, len as u64, 17).unwrap();
                assert_eq!(is, want, "{len} {direct}");
                for (number, want) in want.iter().enumerate() {
                    let is = reader.region(&mut source, len as u64, 1 << 17, number).unwrap();
                    assert_eq!(is, *want, "{len} {number} {direct}");
                }
                source.forget(0, len as u64);
                let longer = reader.hashes(&mut source, len as u64 + 1, 17);
                assert!(matches!(longer, Err(NotRead::Changed)), "{len} {direct}");
            }
            let mut odd = vec![0; len.min(7)];
            let at = len - odd.len();
            file.read_exact_at(&mut odd, at as u64).unwrap();
            assert!(!fcntl_getfl(&file).unwrap().contains(OFlags::DIRECT));
        }
    }

    fn hash_of(region: &[u8]) -> u64 {
        let mut hash = RegionHash::default();
        for (at, block) in (0..).step_by(PIECE_BYTES).zip(region.chunks(PIECE_BYTES)) {
            hash.block(at, block);
        }
        hash.finish()
    }

    #[test]
    fn holes_are_not_read_and_are_the_same_as_zeros() {
        let (stop, progress) = (AtomicBool::new(false), Progress::default());
        let mut reader = Reader::new(1 << 20, &stop, &progress);
        let file = tempfile::tempfile().unwrap();
        let (size, place) = (1_u64 << 40, (1_u64 << 39) + (5 << 20));
        file.write_all_at(&vec![7; 70_000], 0).unwrap();
        file.write_all_at(&vec![9; 70_000], place).unwrap();
        file.set_len(size).unwrap();
        for direct in [true, false] {
            let mut source = Source::new(&file, direct);
            let hashes = reader.hashes(&mut source, size, 24).unwrap();
            assert_eq!(hashes.len(), 1 << 16);
            let nothing = RegionHash::default().finish();
            let at = usize::try_from(place >> 24).unwrap();
            let differing: Vec<usize> =
                (0..hashes.len()).filter(|number| hashes[*number] != nothing).collect();
            assert_eq!(differing, [0, at]);
            for number in [0, 1, at, hashes.len() - 1] {
                let again = reader.region(&mut source, size, 1 << 24, number).unwrap();
                assert_eq!(again, hashes[number], "{number}");
            }
            assert!(reader.bytes < 32 << 20, "{} bytes were read", reader.bytes);
        }
        // The same bytes without holes, and with another one in a place where there was one.
        let file = tempfile::tempfile().unwrap();
        let mut bytes = vec![0; (8 << 20) + 100];
        bytes[3 << 20] = 1;
        let hashes = |file: &File| {
            let mut reader = Reader::new(1 << 40, &stop, &progress);
            reader.hashes(&mut Source::new(file, true), bytes.len() as u64, 16).unwrap()
        };
        file.write_all_at(&[1], 3 << 20).unwrap();
        file.set_len(bytes.len() as u64).unwrap();
        let sparse = hashes(&file);
        file.write_all_at(&bytes, 0).unwrap();
        assert_eq!(hashes(&file), sparse);
        file.write_all_at(&[1], 4 << 20).unwrap();
        assert_eq!((0..sparse.len()).filter(|n| hashes(&file)[*n] != sparse[*n]).count(), 1);
    }

    #[test]
    fn nobody_waits_for_a_reading_that_is_not_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![1; 3 << 20]).unwrap();
        let file = File::open(&path).unwrap();
        let (stop, progress) = (AtomicBool::new(false), Progress::default());
        let began = clock::ticks();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(50));
                stop.store(true, Ordering::Relaxed);
            });
            let mut reader = Reader::new(1, &stop, &progress); // a byte a second
            let read = reader.hashes(&mut Source::new(&file, true), 3 << 20, 16);
            assert!(matches!(read, Err(NotRead::Stopped)));
        });
        assert!(began.elapsed() < Duration::from_mins(1));
    }
}
