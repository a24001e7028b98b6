//! SQLite's rollback journal: section 3 of <https://www.sqlite.org/fileformat2.html>, big-endian. It holds pages of a
//! database as they were before a transaction, in segments that each begin with a header at a multiple of the sector
//! size. What counts as a journal that waits to be played back follows `hasHotJournal`, `readJournalHdr` and
//! `pager_playback` in SQLite's `pager.c`. The name of a super-journal is not looked at: only transactions over several
//! attached databases have one, and Chroma makes none.

use core::ops::ControlFlow;

/// Bytes of a header that mean something; it takes up a whole sector.
pub const HEADER_LEN: usize = 28;

/// Bytes that a synced header begins with.
pub const MAGIC: &[u8; 8] = &[0xd9, 0xd5, 0x05, 0xf9, 0x20, 0xa1, 0x63, 0xd7];

/// The header of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalHeader {
    /// Page records that follow; `None` when they go on to the end of the file.
    pub records: Option<u32>,
    /// Start value of the records' checksums, random per segment.
    pub nonce: u32,
    /// Size of the database in pages before the transaction.
    pub initial_pages: u32,
    /// Headers stand at multiples of this.
    pub sector_bytes: u32,
    /// Bytes per page; `None` in journals of a SQLite before 3.5.8.
    pub page_bytes: Option<u32>,
}

/// What SQLite makes of the beginning of a journal that no process is writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// No bytes: passed over.
    Empty,
    /// A first byte of zero: never synced or already committed; passed over.
    Zeroed,
    /// Played back at the next open for writing. A read-only open is refused until then.
    Hot(JournalHeader),
    /// A read-only open is refused, but the play-back finds nothing that it can use and drops the journal.
    Unusable,
}

impl Start {
    /// Judges `bytes`, the first of a journal file.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        match bytes.first() {
            None => Self::Empty,
            Some(0) => Self::Zeroed,
            Some(_) => JournalHeader::parse(bytes).map_or(Self::Unusable, Self::Hot),
        }
    }
}

/// Size in pages that a database had before a transaction whose journal was never synced: its header then begins with
/// zeros, and the rest of it was written. `None` when that is not to be told.
#[must_use]
pub fn initial_pages_unsynced(bytes: &[u8]) -> Option<u32> {
    let mut head = *bytes.first_chunk::<HEADER_LEN>()?;
    if head[..12] != [0; 12] {
        return None;
    }
    head[..8].copy_from_slice(MAGIC);
    JournalHeader::parse(&head).map(|header| header.initial_pages)
}

impl JournalHeader {
    /// Reads the header at the beginning of `bytes`; `None` when SQLite would not play it back.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let head = bytes.first_chunk::<HEADER_LEN>()?;
        if head[..8] != MAGIC[..] {
            return None;
        }
        let (sector_bytes, page_bytes) = (u32_at(head, 20), u32_at(head, 24));
        let sizes_fit = power_of_two(sector_bytes, 32, SECTOR_BYTES_MAX)
            && (page_bytes == 0 || power_of_two(page_bytes, 512, PAGE_BYTES_MAX));
        sizes_fit.then(|| Self {
            records: Some(u32_at(head, 8)).filter(|count| *count != u32::MAX),
            nonce: u32_at(head, 12),
            initial_pages: u32_at(head, 16),
            sector_bytes,
            page_bytes: (page_bytes != 0).then_some(page_bytes),
        })
    }
}

/// One page record: 4 bytes page number, the page, 4 bytes checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Number of the page, from 1.
    pub page: u32,
    /// Where the page's content begins in the journal.
    pub content_at: u64,
    /// Start value of its checksum.
    pub nonce: u32,
}

impl Record {
    /// Whether `content` and `checksum`, read where the record says, belong together. SQLite stops its play-back at the
    /// first record of which this is not true.
    #[must_use]
    pub fn holds(&self, content: &[u8], checksum: [u8; 4]) -> bool {
        let mut sum = self.nonce;
        let mut at = content.len().saturating_sub(200);
        while at > 0 {
            sum = sum.wrapping_add(u32::from(content[at]));
            at = at.saturating_sub(200);
        }
        sum == u32::from_be_bytes(checksum)
    }
}

/// How a walk ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Walked {
    /// Every record was visited.
    All,
    /// The visitor wanted no more.
    Stopped,
    /// There are more records than the bound.
    TooMany,
}

/// Visits the page records of a journal of `len` bytes that begins with `first`, over all its segments, reading nothing
/// but headers and page numbers. `read` fills the buffer from an offset, and answers `false` when the file ends before; its errors, and those of `visit`, end the walk.
/// `page_bytes` is used where the header states none. Checksums are for the visitor to check.
pub fn walk<E>(
    first: &JournalHeader,
    len: u64,
    page_bytes: u32,
    records_max: u32,
    mut read: impl FnMut(u64, &mut [u8]) -> Result<bool, E>,
    mut visit: impl FnMut(Record) -> Result<ControlFlow<()>, E>,
) -> Result<Walked, E> {
    let page_bytes = u64::from(first.page_bytes.unwrap_or(page_bytes));
    let sector = u64::from(first.sector_bytes);
    let record_bytes = page_bytes + 8;
    let (mut header, mut at, mut left) = (*first, sector, records_max);
    loop {
        let in_file = len.saturating_sub(at) / record_bytes;
        // A count above what is there is a lie of a torn header: SQLite stops at the end of the file.
        let count = header.records.map_or(in_file, |stated| in_file.min(u64::from(stated)));
        for _ in 0..count {
            let Some(rest) = left.checked_sub(1) else { return Ok(Walked::TooMany) };
            left = rest;
            let mut number = [0; 4];
            if !read(at, &mut number)? {
                return Ok(Walked::All);
            }
            let page = u32::from_be_bytes(number);
            if page == 0 {
                return Ok(Walked::All);
            }
            let record = Record { page, content_at: at + 4, nonce: header.nonce };
            if visit(record)?.is_break() {
                return Ok(Walked::Stopped);
            }
            at += record_bytes;
        }
        at = at.next_multiple_of(sector);
        let mut head = [0; HEADER_LEN];
        if at.saturating_add(sector) > len || !read(at, &mut head)? {
            return Ok(Walked::All);
        }
        // Later headers state no sizes that count.
        let Some(next) = Later::parse(&head) else { return Ok(Walked::All) };
        header = JournalHeader { records: next.records, nonce: next.nonce, ..header };
        at += sector;
        // Headers without records are bounded like records.
        let Some(rest) = left.checked_sub(1) else { return Ok(Walked::TooMany) };
        left = rest;
    }
}

/// What counts in the header of a later segment.
struct Later {
    records: Option<u32>,
    nonce: u32,
}

impl Later {
    fn parse(head: &[u8; HEADER_LEN]) -> Option<Self> {
        (head[..8] == MAGIC[..]).then(|| Self {
            records: Some(u32_at(head, 8)).filter(|count| *count != u32::MAX),
            nonce: u32_at(head, 12),
        })
    }
}

fn power_of_two(value: u32, min: u32, max: u32) -> bool {
    (min..=max).contains(&value) && value.is_power_of_two()
}

fn u32_at(head: &[u8; HEADER_LEN], at: usize) -> u32 {
    u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
}

/// `MAX_SECTOR_SIZE` of SQLite.
const SECTOR_BYTES_MAX: u32 = 0x1_0000;

/// `SQLITE_MAX_PAGE_SIZE` of SQLite.
const PAGE_BYTES_MAX: u32 = 65_536;

#[cfg(test)]
mod tests {
    use core::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    fn header(records: u32) -> Vec<u8> {
        let mut head = MAGIC.to_vec();
        for value in [records, 17, 46, 512, 512] {
            head.extend(u32::to_be_bytes(value));
        }
        head
    }

    /// A segment as SQLite writes it, with pages of 512 bytes filled with their number.
    fn segment(records: u32, pages: &[u32]) -> Vec<u8> {
        let mut bytes = header(records);
        bytes.resize(512, 0);
        for page in pages {
            let content = [page.to_be_bytes()[3]; 512];
            let sum = 17 + u32::from(content[312]) + u32::from(content[112]);
            bytes.extend(page.to_be_bytes().iter().chain(&content).chain(&sum.to_be_bytes()));
        }
        bytes
    }

    fn reader(bytes: &[u8]) -> impl FnMut(u64, &mut [u8]) -> Result<bool, Infallible> {
        |at, buffer| {
            let at = usize::try_from(at).unwrap();
            let Some(source) = bytes.get(at..at.saturating_add(buffer.len())) else {
                return Ok(false);
            };
            buffer.copy_from_slice(source);
            Ok(true)
        }
    }

    fn pages(bytes: &[u8], records_max: u32) -> (Vec<u32>, Walked) {
        let mut seen = Vec::new();
        let Start::Hot(first) = Start::parse(bytes) else { return (seen, Walked::All) };
        let ended = walk(&first, bytes.len() as u64, 512, records_max, reader(bytes), |record| {
            let at = usize::try_from(record.content_at).unwrap();
            if let Some(content) = bytes.get(at..at + 512)
                && let Some(sum) = bytes.get(at + 512..at + 516)
            {
                assert!(record.holds(content, sum.try_into().unwrap()), "page {}", record.page);
            }
            seen.push(record.page);
            Ok(ControlFlow::Continue(()))
        });
        (seen, ended.unwrap())
    }

    #[test]
    fn the_beginning_tells_what_sqlite_will_do() {
        let whole = header(3);
        let Start::Hot(head) = Start::parse(&whole) else { panic!("a synced header is hot") };
        assert_eq!((head.records, head.initial_pages, head.page_bytes), (Some(3), 46, Some(512)));
        assert_eq!(Start::parse(&[]), Start::Empty);
        assert_eq!(Start::parse(&[0; 512]), Start::Zeroed);
        let mut unsynced = whole.clone();
        unsynced[..12].fill(0);
        assert_eq!(Start::parse(&unsynced), Start::Zeroed, "the count is written at the sync");
        assert_eq!(initial_pages_unsynced(&unsynced), Some(46));
        assert_eq!(initial_pages_unsynced(&whole), None);
        assert_eq!(initial_pages_unsynced(&[0; 512]), None, "nothing was written");
        // A transaction that only appended pages: nothing to restore, but the file is cut back.
        assert!(matches!(
            Start::parse(&header(0)),
            Start::Hot(JournalHeader { records: Some(0), .. })
        ));
        assert!(matches!(
            Start::parse(&header(u32::MAX)),
            Start::Hot(JournalHeader { records: None, .. })
        ));
        for (at, byte) in [(7, 0), (23, 1), (22, 0), (27, 1), (24, 1)] {
            let mut bad = whole.clone();
            bad[at] = byte;
            assert_eq!(Start::parse(&bad), Start::Unusable, "byte {at}");
        }
        for len in 1..HEADER_LEN {
            assert_eq!(Start::parse(&whole[..len]), Start::Unusable, "{len} bytes");
        }
    }

    #[test]
    fn records_are_found_over_all_segments() {
        let mut bytes = segment(2, &[5, 1]);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes.extend(segment(1, &[9]));
        assert_eq!(pages(&bytes, 10), (vec![5, 1, 9], Walked::All));
        assert_eq!(pages(&bytes, 2).1, Walked::TooMany);
        assert_eq!(pages(&segment(u32::MAX, &[5, 1, 7]), 10), (vec![5, 1, 7], Walked::All));
        // The last segment was never synced: its header is zero and its records do not count.
        let synced = bytes.len().next_multiple_of(512);
        bytes.resize(synced, 0);
        let mut unsynced = segment(0, &[11]);
        unsynced[..12].fill(0);
        bytes.extend(unsynced);
        assert_eq!(pages(&bytes, 10), (vec![5, 1, 9], Walked::All));
    }

    #[test]
    fn a_flipped_byte_of_the_sum_is_noticed() {
        let record = Record { page: 1, content_at: 0, nonce: 17 };
        let mut content = [3; 512];
        assert!(record.holds(&content, 23_u32.to_be_bytes()));
        content[312] = 4;
        assert!(!record.holds(&content, 23_u32.to_be_bytes()));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_run_for_ever(
            tail in proptest::collection::vec(any::<u8>(), 0..4096),
            records in any::<u32>(),
            sector in 5_u32..17,
            cut in 0_usize..5000,
        ) {
            let mut bytes = header(records);
            bytes[20..24].copy_from_slice(&(1_u32 << sector).to_be_bytes());
            bytes.extend(&tail);
            bytes.truncate(cut);
            for input in [&bytes, &tail] {
                if let Start::Hot(first) = Start::parse(input) {
                    let mut visits = 0;
                    let ended = walk(&first, input.len() as u64, 4096, 100, reader(input), |record| {
                        visits += 1;
                        assert_ne!(record.page, 0);
                        Ok(ControlFlow::Continue(()))
                    });
                    prop_assert!(ended.is_ok() && visits <= 100);
                }
            }
        }
    }
}
