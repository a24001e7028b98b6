//! SQLite's write-ahead log, `-wal`: section 4 of <https://www.sqlite.org/fileformat2.html>. It holds pages as they are after
//! transactions, in frames whose checksums go on from one to the next. What counts follows `walIndexRecover` in SQLite's
//! `wal.c`: a header that holds, then frames with its salts, up to the last that ends a transaction. SQLite plays such a log
//! whatever the header of the database says of its mode.

use alloc::{vec, vec::Vec};

/// Bytes of the header.
pub const HEADER_LEN: usize = 32;

/// Bytes before the page of a frame.
pub const FRAME_HEADER_LEN: usize = 24;

/// The header of a log, its checksum verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalHeader {
    /// Bytes per page: a power of two, 512 to 65,536.
    pub page_bytes: u32,
    /// Drawn anew whenever the log is begun from its start; frames of before have others.
    salts: [u8; 8],
    sum: Sum,
}

/// What of a log counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Committed {
    /// Transactions that were brought to their end.
    pub transactions: u32,
    /// Their frames.
    pub frames: u32,
    /// Size of the database after the last of them, in pages.
    pub pages: u32,
    /// Whether the log was followed to the end of what is valid in it; otherwise there may be more.
    pub whole: bool,
}

/// A frame of a valid log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Number of the page, from 1.
    pub page: u32,
    /// Where its content begins in the log.
    pub content_at: u64,
}

/// The running checksum: two sums over words of 32 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sum {
    big_endian: bool,
    sums: [u32; 2],
}

impl Sum {
    /// Goes on over `bytes`, a multiple of eight.
    fn over(mut self, bytes: &[u8]) -> Self {
        let word = |bytes: &[u8]| {
            let bytes = [bytes[0], bytes[1], bytes[2], bytes[3]];
            if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
        };
        let [mut first, mut second] = self.sums;
        for pair in bytes.chunks_exact(8) {
            first = first.wrapping_add(word(&pair[..4])).wrapping_add(second);
            second = second.wrapping_add(word(&pair[4..])).wrapping_add(first);
        }
        self.sums = [first, second];
        self
    }
}

impl WalHeader {
    /// Reads the header at the beginning of `bytes`; `None` when SQLite would take the log for empty.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let head = bytes.first_chunk::<HEADER_LEN>()?;
        let (magic, version, page_bytes) = (u32_at(head, 0), u32_at(head, 4), u32_at(head, 8));
        let fits = magic & !1 == MAGIC
            && version == VERSION
            && (512..=65_536).contains(&page_bytes)
            && page_bytes.is_power_of_two();
        let sum = Sum { big_endian: magic & 1 == 1, sums: [0, 0] }.over(&head[..24]);
        let mut salts = [0; 8];
        salts.copy_from_slice(&head[16..24]);
        (fits && sum.sums == [u32_at(head, 24), u32_at(head, 28)]).then_some(Self {
            page_bytes,
            salts,
            sum,
        })
    }
}

/// Follows a log that begins with `header` over at most `frames_max` frames. `read` fills the buffer from an offset, and
/// answers `false` when the file ends before. `take` gets the frames of each transaction when its end has been found. Errors of either end the walk.
pub fn walk<E>(
    header: &WalHeader,
    frames_max: u32,
    mut read: impl FnMut(u64, &mut [u8]) -> Result<bool, E>,
    mut take: impl FnMut(&[Frame]) -> Result<(), E>,
) -> Result<Committed, E> {
    let mut frame = vec![0; FRAME_HEADER_LEN + header.page_bytes as usize];
    let (mut sum, mut at) = (header.sum, HEADER_LEN as u64);
    let mut committed = Committed { whole: true, ..Committed::default() };
    let mut open: Vec<Frame> = Vec::new();
    for _ in 0..frames_max {
        if !read(at, &mut frame)? {
            return Ok(committed);
        }
        let (page, pages) = (u32_at(&frame, 0), u32_at(&frame, 4));
        sum = sum.over(&frame[..8]).over(&frame[FRAME_HEADER_LEN..]);
        let holds = page != 0
            && frame[8..16] == header.salts
            && sum.sums == [u32_at(&frame, 16), u32_at(&frame, 20)];
        if !holds {
            return Ok(committed);
        }
        open.push(Frame { page, content_at: at + FRAME_HEADER_LEN as u64 });
        if pages != 0 {
            take(&open)?;
            committed.transactions += 1;
            committed.frames += u32::try_from(open.len()).unwrap_or(u32::MAX);
            committed.pages = pages;
            open.clear();
        }
        at += frame.len() as u64;
    }
    Ok(Committed { whole: false, ..committed })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The last bit tells in which order bytes are summed up.
const MAGIC: u32 = 0x377f_0682;
const VERSION: u32 = 3_007_000;

#[cfg(test)]
mod tests {
    use core::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    fn reader(bytes: &[u8]) -> impl FnMut(u64, &mut [u8]) -> Result<bool, Infallible> + '_ {
        |at, buffer| {
            let at = usize::try_from(at).unwrap();
            let Some(part) = bytes.get(at..at + buffer.len()) else { return Ok(false) };
            buffer.copy_from_slice(part);
            Ok(true)
        }
    }

    fn follow(bytes: &[u8], frames_max: u32) -> (Committed, Vec<u32>) {
        let header = WalHeader::parse(bytes).expect("a header that holds");
        let mut pages = Vec::new();
        let take = |frames: &[Frame]| {
            pages.extend(frames.iter().map(|frame| frame.page));
            Ok(())
        };
        let committed = walk(&header, frames_max, reader(bytes), take).unwrap();
        (committed, pages)
    }

    /// The log of two transactions that SQLite wrote: `t` was made in the first, and got a row in the second.
    fn real() -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chroma.sqlite3");
        let connection = rusqlite::Connection::open(&path).unwrap();
        connection
            .execute_batch(
                "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=0; CREATE TABLE t(x); \
                 INSERT INTO t VALUES('a row')",
            )
            .unwrap();
        std::fs::read(dir.path().join("chroma.sqlite3-wal")).unwrap()
    }

    #[test]
    fn a_log_of_sqlite_is_followed_to_its_last_transaction() {
        let log = real();
        let (committed, pages) = follow(&log, 100);
        let want = Committed { transactions: 2, frames: 3, pages: 2, whole: true };
        assert_eq!((committed, pages), (want, vec![1, 2, 2]));
        // The frames of a transaction without an end do not count.
        let frame = FRAME_HEADER_LEN + 4096;
        for frames in 0..3 {
            let (committed, pages) = follow(&log[..HEADER_LEN + frames * frame + 7], 100);
            let want = u32::from(frames >= 2);
            assert_eq!((committed.transactions, committed.whole), (want, true), "{frames}");
            assert_eq!(pages.len(), if frames < 2 { 0 } else { 2 });
        }
        let (committed, _) = follow(&log, 2);
        assert_eq!((committed.transactions, committed.whole), (1, false), "there may be more");
        assert!(log.len() > HEADER_LEN + 3 * frame - 1);
    }

    #[test]
    fn what_sqlite_would_not_play_does_not_count() {
        let log = real();
        for at in 0..HEADER_LEN {
            let mut bad = log.clone();
            bad[at] ^= 0x10;
            assert_eq!(WalHeader::parse(&bad), None, "byte {at}");
        }
        for len in 0..HEADER_LEN {
            assert_eq!(WalHeader::parse(&log[..len]), None, "{len} bytes");
        }
        let second = HEADER_LEN + FRAME_HEADER_LEN + 4096;
        // Number of the page, salt, checksum and a byte of the page.
        for at in [3, 8, 15, 16, 23, 24, 4000] {
            let mut bad = log.clone();
            bad[second + at] ^= 1;
            assert_eq!(follow(&bad, 100).0.transactions, 0, "byte {at} of the second frame");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_run_for_ever(
            tail in proptest::collection::vec(any::<u8>(), 0..9000),
            cut in 0_usize..20_000,
            change in proptest::option::of((0_usize..12_000, any::<u8>())),
        ) {
            let mut near = real();
            if let Some((at, byte)) = change
                && let Some(place) = near.get_mut(at)
            {
                *place = byte;
            }
            near.truncate(cut);
            near.extend(&tail);
            for input in [&near, &tail] {
                if let Some(header) = WalHeader::parse(input) {
                    let committed = walk(&header, 10, reader(input), |_| Ok(())).unwrap();
                    prop_assert!(committed.frames <= 10);
                }
            }
        }
    }
}
