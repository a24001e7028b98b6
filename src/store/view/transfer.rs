//! Moves pages from the database to the copy: in pieces, at a bounded rate, and giving back the page cache it filled.

use std::{
    fs::File,
    io::{self, IoSliceMut},
    num::NonZeroU64,
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
    store::database::read_up_to,
};

/// Reads from one file and writes to the other.
#[derive(Debug)]
pub(super) struct Transfer<'a> {
    from: &'a File,
    to: &'a File,
    page_bytes: u64,
    buffer: Vec<u8>,
    began: Ticks,
    /// Bytes moved so far.
    pub(super) bytes: u64,
    rate_bytes_max: u64,
}

/// Pages that were read and not yet written.
#[derive(Debug)]
pub(super) struct Piece {
    at: u64,
    bytes: Vec<u8>,
}

impl<'a> Transfer<'a> {
    /// Between two open files, at most `rate_bytes_max` a second where [`Transfer::pace`] is asked.
    pub(super) fn new(from: &'a File, to: &'a File, page_bytes: u32, rate_bytes_max: u64) -> Self {
        // Without read-ahead, what is in the page cache before a read of ours was wanted by somebody else.
        if let Err(error) = fadvise(from, 0, None, Advice::Random) {
            tracing::debug!(%error, "Read-ahead cannot be switched off.");
        }
        let buffer = vec![0; BUFFER_BYTES.max(page_bytes as usize)];
        let page_bytes = u64::from(page_bytes);
        Self { from, to, page_bytes, buffer, began: clock::ticks(), bytes: 0, rate_bytes_max }
    }

    /// Most pages that are moved in one piece.
    pub(super) fn pages_max(&self) -> u32 {
        u32::try_from(self.buffer.len() as u64 / self.page_bytes).unwrap_or(u32::MAX)
    }

    /// Moves the pages of `run` that are there.
    pub(super) fn pages(&mut self, run: Run) -> io::Result<()> {
        let Run { mut first, mut count } = run;
        while count > 0 {
            let piece = count.min(self.pages_max());
            let at = u64::from(first - 1) * self.page_bytes;
            let len = usize::try_from(u64::from(piece) * self.page_bytes).unwrap_or(usize::MAX);
            let read = read_gently(self.from, &mut self.buffer[..len], at)?;
            self.to.write_all_at(&self.buffer[..read], at)?;
            self.bytes += read as u64;
            first += piece;
            count -= piece;
        }
        Ok(())
    }

    /// Reads the pages of `run` that are there, to be written by [`Transfer::put`]: where a lock is held, nobody should
    /// wait for a disk that takes our copy slowly.
    pub(super) fn read(&mut self, run: Run) -> io::Result<Piece> {
        let at = u64::from(run.first - 1) * self.page_bytes;
        let len = u64::from(run.count) * self.page_bytes;
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
        let read = read_gently(self.from, &mut bytes, at)?;
        bytes.truncate(read);
        self.bytes += read as u64;
        Ok(Piece { at, bytes })
    }

    /// Writes what was read.
    pub(super) fn put(&self, piece: &Piece) -> io::Result<()> {
        self.to.write_all_at(&piece.bytes, piece.at)
    }

    /// How long to wait before the next piece.
    pub(super) fn pace(&self) -> Duration {
        let due = self.bytes as f64 / self.rate_bytes_max.max(1) as f64;
        Duration::from_secs_f64(due.min(PACE_SECS_MAX)).saturating_sub(self.began.elapsed())
    }
}

/// Fills the buffer as far as the file goes. What was not in the page cache is given back to it.
fn read_gently(from: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let cached = preadv2(from, &mut [IoSliceMut::new(buffer)], at, ReadWriteFlags::NOWAIT);
    let cached = match cached {
        Ok(read) if read == buffer.len() => return Ok(read),
        Ok(read) => read,
        // Not in memory, or a filesystem that cannot tell.
        Err(_) => 0,
    };
    let start = at.saturating_add(cached as u64);
    let read = read_up_to(from, &mut buffer[cached..], start)?;
    if let Some(len) = NonZeroU64::new(read as u64)
        && let Err(error) = fadvise(from, start, Some(len), Advice::DontNeed)
    {
        tracing::trace!(%error, "The page cache keeps what was read.");
    }
    Ok(cached + read)
}

/// Memory for one piece.
const BUFFER_BYTES: usize = 1 << 20;

/// A rate so low that a piece is due later than this is kept by waiting again.
const PACE_SECS_MAX: f64 = 1e9;

#[cfg(test)]
mod tests {
    use super::*;

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
        let mut transfer = Transfer::new(&from, &to, 4096, 1 << 30);
        transfer.pages(Run { first: 3, count: 1 }).unwrap();
        assert_eq!(to.metadata().unwrap().len(), 3 * 4096);
        transfer.pages(Run { first: 1, count: 2000 }).unwrap();
        assert_eq!(std::fs::read(dir.path().join("to")).unwrap(), bytes);
        assert_eq!(transfer.bytes, 701 * 4096);
        to.set_len(0).unwrap();
        let piece = transfer.read(Run { first: 699, count: 5 }).unwrap();
        transfer.put(&piece).unwrap();
        let copied = std::fs::read(dir.path().join("to")).unwrap();
        assert_eq!(copied[698 * 4096..], bytes[698 * 4096..]);
        assert!(transfer.pace() < Duration::from_millis(3));
        transfer.rate_bytes_max = 4096;
        assert!(transfer.pace() > Duration::from_secs(690));
    }
}
