//! Moves pages from the database to the copy: in pieces, at a bounded rate, and giving back the page cache it filled.

use std::{
    fs::File,
    io::{self, IoSliceMut},
    os::unix::fs::FileExt,
    time::Duration,
};

use rustix::{
    fs::{Advice, fadvise},
    io::{ReadWriteFlags, preadv2},
};

use super::plan::Run;
use crate::{
    clock::{self, Ticks},
    database::read_up_to,
    holes,
    pagecache::{self, Stretch},
};

/// Reads from one file and writes to the other.
#[derive(Debug)]
pub(super) struct Transfer<'a> {
    from: &'a File,
    /// The copy.
    pub(super) to: &'a File,
    page_bytes: u64,
    /// Whether it has holes, which may be larger than the disk.
    sparse: bool,
    buffer: Vec<u8>,
    began: Ticks,
    /// Bytes moved so far.
    pub(super) bytes: u64,
}

impl<'a> Transfer<'a> {
    /// Between two open files.
    pub(super) fn new(from: &'a File, to: &'a File, page_bytes: u32) -> Self {
        // Without read-ahead, what is in the page cache before a read of ours was wanted by somebody else.
        if let Err(error) = fadvise(from, 0, None, Advice::Random) {
            tracing::debug!(%error, "Read-ahead cannot be switched off.");
        }
        let buffer = vec![0; BUFFER_BYTES.max(page_bytes as usize)];
        let page_bytes = u64::from(page_bytes);
        let sparse = holes::is_sparse(from);
        Self { from, to, page_bytes, sparse, buffer, began: clock::ticks(), bytes: 0 }
    }

    /// Most pages that are moved in one piece.
    pub(super) fn pages_max(&self) -> u32 {
        u32::try_from(self.buffer.len() as u64 / self.page_bytes).unwrap_or(u32::MAX)
    }

    /// Moves the pages of `run` that are there. Errs when one cannot be read or written.
    pub(super) fn pages(&mut self, run: Run) -> io::Result<()> {
        let Run { mut first, mut count } = run;
        while count > 0 {
            let piece = count.min(self.pages_max());
            let at = u64::from(first - 1) * self.page_bytes;
            let len = usize::try_from(u64::from(piece) * self.page_bytes).unwrap_or(usize::MAX);
            // A hole in both is the same in both.
            let hole = |file| holes::is_hole(file, at, len as u64);
            if self.sparse && hole(self.from) && hole(self.to) {
                // As long as the database, all the same.
                let end = self.from.metadata()?.len().min(at + len as u64);
                if self.to.metadata()?.len() < end {
                    self.to.set_len(end)?;
                }
            } else {
                let read = read_gently(self.from, &mut self.buffer[..len], at)?;
                self.to.write_all_at(&self.buffer[..read], at)?;
                self.bytes += read as u64;
            }
            first += piece;
            count -= piece;
        }
        Ok(())
    }

    /// Puts the old content of a page into the copy, which stands at `at` in a journal. Errs when it cannot be read or
    /// written.
    pub(super) fn old(&mut self, journal: &File, at: u64, page: u32) -> io::Result<()> {
        let len = usize::try_from(self.page_bytes).unwrap_or(usize::MAX);
        journal.read_exact_at(&mut self.buffer[..len], at)?;
        self.to.write_all_at(&self.buffer[..len], u64::from(page - 1) * self.page_bytes)
    }

    /// How long to wait until no more than `rate_bytes_max` a second were moved.
    pub(super) fn pace(&self, rate_bytes_max: u64) -> Duration {
        let due = self.bytes as f64 / rate_bytes_max.max(1) as f64;
        Duration::from_secs_f64(due.min(PACE_SECS_MAX)).saturating_sub(self.began.elapsed())
    }
}

/// Fills the buffer as far as the file goes. What was not in the page cache is given back to it, and nothing else: pages
/// that were there are wanted by somebody. Errs when it cannot be read.
fn read_gently(from: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    if let Some(absent) = pagecache::absent(from, at, at + buffer.len() as u64) {
        let read = read_up_to(from, buffer, at)?;
        pagecache::give_back(from, &absent);
        return Ok(read);
    }
    // Older kernels tell by a read without waiting, if the disk is not too fast.
    let cached = read_cached(from, buffer, at);
    if cached == buffer.len() {
        return Ok(cached);
    }
    let absent = absent(from, at + cached as u64, at + buffer.len() as u64);
    let read = cached + read_up_to(from, &mut buffer[cached..], at + cached as u64)?;
    pagecache::give_back(from, &absent);
    Ok(read)
}

/// Fills the buffer as far as the page cache has it, without waiting. A filesystem that cannot tell has nothing.
fn read_cached(from: &File, buffer: &mut [u8], at: u64) -> usize {
    preadv2(from, &mut [IoSliceMut::new(buffer)], at, ReadWriteFlags::NOWAIT).unwrap_or(0)
}

/// Stretches between two places of the file that are not in the page cache, to whole pages of memory. To be asked right
/// after a read without waiting, which has told the disk to bring in what is absent: such a page is not there yet, and
/// one that was there is. One byte of each is asked for, a third of a microsecond each.
fn absent(from: &File, start: u64, end: u64) -> Vec<Stretch> {
    let page = rustix::param::page_size() as u64;
    let mut stretches = Vec::new();
    let mut at = start - start % page;
    while at < end {
        if read_cached(from, &mut [0], at) == 0 {
            pagecache::add(&mut stretches, at, page);
        }
        at += page;
    }
    stretches
}

/// Memory for one piece: it is through in a tenth of a millisecond, so that a transaction which begins meanwhile does not
/// feel it; and most disks have not answered before all its pages were looked at.
const BUFFER_BYTES: usize = 256 << 10;

/// A rate so low that a piece is due later than this is kept by waiting again.
const PACE_SECS_MAX: f64 = 1e9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_cache_keeps_what_it_had_and_gives_back_what_it_had_not() {
        // Not where files for tests usually go: that may lie in memory, where nothing can be given back.
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let page = rustix::param::page_size();
        let bytes = vec![7; 64 * page];
        file.write_all_at(&bytes, 0).unwrap();
        file.sync_all().unwrap();
        fadvise(&file, 0, None, Advice::Random).unwrap();
        let wanted = [3, 40];
        // A disk that answers while we look makes a page look as if it had been there; not every time.
        for _ in 0..50 {
            fadvise(&file, 0, None, Advice::DontNeed).unwrap();
            if read_cached(&file, &mut [0], 63 * page as u64) == 1 {
                return; // This filesystem lies in memory, too.
            }
            for number in wanted {
                file.read_exact_at(&mut [0], number * page as u64).unwrap();
            }
            let mut buffer = vec![0; 64 * page];
            assert_eq!(read_gently(&file, &mut buffer, 0).unwrap(), buffer.len());
            assert_eq!(buffer, bytes);
            let is_there = |number: u64| read_cached(&file, &mut [0], number * page as u64) == 1;
            for number in wanted {
                assert!(is_there(number), "page {number} was there before and is gone");
            }
            // Looking at one brings it in, so each is asked once.
            if (0..64).filter(|number| is_there(*number)).count() < 32 {
                return;
            }
        }
        panic!("nothing is given back");
    }

    #[test]
    fn pages_arrive_where_they_belong_and_the_end_of_the_file_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(true);
            options.open(dir.path().join(name)).unwrap()
        };
        let (from, to) = (open("from"), open("to"));
        let bytes: Vec<u8> = (0..4096 * 700_u32).map(|i| (i / 4096 % 251) as u8).collect();
        from.write_all_at(&bytes, 0).unwrap();
        let mut transfer = Transfer::new(&from, &to, 4096);
        transfer.pages(Run { first: 3, count: 1 }).unwrap();
        assert_eq!(to.metadata().unwrap().len(), 3 * 4096);
        transfer.pages(Run { first: 1, count: 2000 }).unwrap();
        assert_eq!(std::fs::read(dir.path().join("to")).unwrap(), bytes);
        assert_eq!(transfer.bytes, 701 * 4096);
        to.set_len(0).unwrap();
        transfer.old(&from, 4096 * 7 + 5, 3).unwrap();
        let copied = std::fs::read(dir.path().join("to")).unwrap();
        assert_eq!(copied[8192..], bytes[4096 * 7 + 5..][..4096]);
        assert!(transfer.pace(1 << 30) < Duration::from_millis(3));
        assert!(transfer.pace(4096) > Duration::from_mins(10));
    }
}
