//! The first 100 bytes of a SQLite file: section 1.3 of <https://www.sqlite.org/fileformat2.html>, big-endian, no
//! checksum. What is refused here is what SQLite refuses to open (`lockBtree` in `btree.c`) or never writes. That the
//! numbers fit the file they stand in is for the caller, who knows its length.

/// Bytes of the header.
pub const HEADER_LEN: usize = 100;

/// Bytes that every SQLite file begins with.
pub const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// What SQLite appends to the name of a database for its rollback journal.
pub const JOURNAL_SUFFIX: &str = "-journal";
/// The same for the write-ahead log.
pub const WAL_SUFFIX: &str = "-wal";
/// The same for the index of that log.
pub const SHM_SUFFIX: &str = "-shm";
/// All of these: files that belong to a database and lie beside it.
pub const SUFFIXES: [&str; 3] = [JOURNAL_SUFFIX, WAL_SUFFIX, SHM_SUFFIX];

/// Whether this follows the name of a database in that of a file that belongs to it.
#[must_use]
pub fn is_suffix(end: &[u8]) -> bool {
    SUFFIXES.iter().any(|suffix| suffix.as_bytes() == end)
}

/// The header of a database, every field within the range that SQLite writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SqliteHeader {
    /// Bytes per page: a power of two, 512 to 65,536.
    pub page_bytes: u32,
    /// Whether it says that a write-ahead log belongs to it.
    pub wal: bool,
    /// Unused bytes at the end of each page.
    pub reserved_bytes: u8,
    /// Grows by one with each commit in rollback mode; wraps.
    pub change_counter: u32,
    /// Size in pages as stated; see [`SqliteHeader::pages`].
    pub pages_stated: u32,
    /// The change counter for which `pages_stated` holds.
    pub version_valid_for: u32,
    /// First page of the list of free pages, 0 when there is none.
    pub freelist_trunk: u32,
    /// Number of free pages.
    pub freelist_pages: u32,
    /// Grows with each change of the schema.
    pub schema_cookie: u32,
    /// 1 to 4; 0 while the database has no table.
    pub schema_format: u32,
    /// 1 UTF-8, 2 and 3 UTF-16; 0 while the database has no table.
    pub encoding: u32,
    /// Whether free pages are given back (`auto_vacuum`).
    pub auto_vacuum: bool,
    /// Whether that is done only when asked. Nobody sets it without `auto_vacuum`, and `integrity_check` says so.
    pub incremental_vacuum: bool,
    /// A number of the application.
    pub user_version: u32,
    /// A number of the application.
    pub application_id: u32,
}

/// Why bytes are not the header of a SQLite database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Fewer than 100 bytes, the beginning of a header as far as they go.
    #[error("only {found} of its 100 bytes are there")]
    Truncated {
        /// Bytes that are there.
        found: usize,
    },
    /// It does not begin with `SQLite format 3`.
    #[error("it does not begin with 'SQLite format 3'")]
    Magic,
    /// The page size is no power of two between 512 and 65,536.
    #[error("page size {0}, expected a power of two from 512 to 65536")]
    PageSize(u32),
    /// A version of the file format other than 1 (journal) and 2 (write-ahead log).
    #[error("write version {write} and read version {read}, expected 1 or 2")]
    Version {
        /// Byte 18.
        write: u8,
        /// Byte 19.
        read: u8,
    },
    /// Pages with fewer than 480 usable bytes.
    #[error(
        "{reserved} reserved bytes in pages of {page_bytes}, expected at least 480 usable ones"
    )]
    Reserved {
        /// Byte 20.
        reserved: u8,
        /// The page size.
        page_bytes: u32,
    },
    /// The three payload fractions are constants.
    #[error("payload fractions {}, {} and {}, expected 64, 32 and 32", .0[0], .0[1], .0[2])]
    Fractions([u8; 3]),
    /// The first page and the number of free pages contradict each other.
    #[error("freelist of {pages} pages that begins at page {trunk} in a file of {total}")]
    Freelist {
        /// Bytes 32 to 35.
        trunk: u32,
        /// Bytes 36 to 39.
        pages: u32,
        /// Size in pages.
        total: u32,
    },
    /// A schema format above 4.
    #[error("schema format {0}, expected 1 to 4")]
    SchemaFormat(u32),
    /// A text encoding above 3.
    #[error("text encoding {0}, expected 1 to 3")]
    Encoding(u32),
}

impl SqliteHeader {
    /// Reads the header at the beginning of `bytes`; more of them do no harm. Errs when they are too few, or no header of
    /// SQLite.
    pub fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        let known = bytes.len().min(MAGIC.len());
        if bytes[..known] != MAGIC[..known] {
            return Err(HeaderError::Magic);
        }
        let Some(head) = bytes.first_chunk::<HEADER_LEN>() else {
            return Err(HeaderError::Truncated { found: bytes.len() });
        };
        let page_bytes = match u16::from_be_bytes([head[16], head[17]]) {
            1 => 65_536,
            bytes => u32::from(bytes),
        };
        if page_bytes < 512 || !page_bytes.is_power_of_two() {
            return Err(HeaderError::PageSize(page_bytes));
        }
        let (write, read, reserved) = (head[18], head[19], head[20]);
        if !(1..=2).contains(&write) || !(1..=2).contains(&read) {
            return Err(HeaderError::Version { write, read });
        }
        if page_bytes - u32::from(reserved) < 480 {
            return Err(HeaderError::Reserved { reserved, page_bytes });
        }
        let fractions = [head[21], head[22], head[23]];
        if fractions != [64, 32, 32] {
            return Err(HeaderError::Fractions(fractions));
        }
        let header = Self {
            page_bytes,
            wal: write == 2 || read == 2,
            reserved_bytes: reserved,
            change_counter: u32_at(head, 24),
            pages_stated: u32_at(head, 28),
            version_valid_for: u32_at(head, 92),
            freelist_trunk: u32_at(head, 32),
            freelist_pages: u32_at(head, 36),
            schema_cookie: u32_at(head, 40),
            schema_format: u32_at(head, 44),
            encoding: u32_at(head, 56),
            auto_vacuum: u32_at(head, 52) != 0,
            incremental_vacuum: u32_at(head, 64) != 0,
            user_version: u32_at(head, 60),
            application_id: u32_at(head, 68),
        };
        header.check()
    }

    fn check(self) -> Result<Self, HeaderError> {
        let (trunk, pages) = (self.freelist_trunk, self.freelist_pages);
        let total = self.pages().unwrap_or(u32::MAX);
        // Page 1 is never free.
        if (trunk == 0) != (pages == 0) || trunk == 1 || trunk > total || pages >= total {
            return Err(HeaderError::Freelist { trunk, pages, total });
        }
        if self.schema_format > 4 {
            return Err(HeaderError::SchemaFormat(self.schema_format));
        }
        if self.encoding > 3 {
            return Err(HeaderError::Encoding(self.encoding));
        }
        Ok(self)
    }

    /// Size in pages; `None` when the header does not know it, because its last writer was a SQLite before 3.7.0, which
    /// counts by the length of the file.
    #[must_use]
    pub fn pages(&self) -> Option<u32> {
        (self.pages_stated > 0 && self.version_valid_for == self.change_counter)
            .then_some(self.pages_stated)
    }

    /// Bytes of all pages, where [`SqliteHeader::pages`] is known.
    #[must_use]
    pub fn stated_bytes(&self) -> Option<u64> {
        self.pages().map(|pages| u64::from(pages) * u64::from(self.page_bytes))
    }

    /// Bytes of the free pages: what a vacuum would give back, at least.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        u64::from(self.freelist_pages) * u64::from(self.page_bytes)
    }
}

fn u32_at(head: &[u8; HEADER_LEN], at: usize) -> u32 {
    u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The header of a database of 46 pages as Chroma 1.5.9 makes it.
    fn healthy() -> [u8; HEADER_LEN] {
        let mut head = [0; HEADER_LEN];
        head[..16].copy_from_slice(MAGIC);
        head[16..24].copy_from_slice(&[0x10, 0, 1, 1, 0, 64, 32, 32]);
        for (at, value) in
            [(24, 7_u32), (28, 46), (40, 30), (44, 4), (56, 1), (92, 7), (96, 3_046_000)]
        {
            head[at..at + 4].copy_from_slice(&value.to_be_bytes());
        }
        head
    }

    fn with(changes: &[(usize, &[u8])]) -> Result<SqliteHeader, HeaderError> {
        let mut head = healthy();
        for (at, bytes) in changes {
            head[*at..*at + bytes.len()].copy_from_slice(bytes);
        }
        SqliteHeader::parse(&head)
    }

    #[test]
    fn a_healthy_header_reads_as_it_was_written() {
        let header = with(&[]).unwrap();
        assert_eq!((header.page_bytes, header.pages(), header.wal), (4096, Some(46), false));
        assert_eq!((header.change_counter, header.schema_cookie), (7, 30));
        assert_eq!(header.stated_bytes(), Some(188_416));
        assert_eq!(with(&[(16, &[0, 1])]).unwrap().page_bytes, 65_536);
        assert!(with(&[(18, &[2, 2])]).unwrap().wal);
        let old_writer = with(&[(92, &[0, 0, 0, 6])]).unwrap();
        assert_eq!(old_writer.pages(), None, "the size holds for another change counter");
        let free = with(&[(32, &[0, 0, 0, 9, 0, 0, 0, 3])]).unwrap();
        assert_eq!(free.free_bytes(), 3 * 4096);
        assert!(with(&[(44, &[0; 4]), (56, &[0; 4])]).is_ok(), "a database without a table");
    }

    #[test]
    fn what_no_sqlite_writes_is_refused_by_name() {
        for (changes, want) in [
            (&[(0, &[0_u8; 16][..])][..], HeaderError::Magic),
            (&[(15, b"x")], HeaderError::Magic),
            (&[(16, &[0, 0])], HeaderError::PageSize(0)),
            (&[(16, &[0x10, 1])], HeaderError::PageSize(4097)),
            (&[(16, &[1, 0])], HeaderError::PageSize(256)),
            (&[(18, &[3])], HeaderError::Version { write: 3, read: 1 }),
            (&[(19, &[0])], HeaderError::Version { write: 1, read: 0 }),
            (
                &[(16, &[2, 0]), (20, &[33])],
                HeaderError::Reserved { reserved: 33, page_bytes: 512 },
            ),
            (&[(22, &[31])], HeaderError::Fractions([64, 31, 32])),
            (&[(39, &[1])], HeaderError::Freelist { trunk: 0, pages: 1, total: 46 }),
            (&[(35, &[47]), (39, &[1])], HeaderError::Freelist { trunk: 47, pages: 1, total: 46 }),
            (&[(35, &[9]), (39, &[46])], HeaderError::Freelist { trunk: 9, pages: 46, total: 46 }),
            (&[(47, &[5])], HeaderError::SchemaFormat(5)),
            (&[(56, &[1, 0, 0, 1])], HeaderError::Encoding(0x0100_0001)),
        ] {
            assert_eq!(with(changes), Err(want));
        }
    }

    #[test]
    fn a_header_cut_at_any_length_is_truncated_not_something_else() {
        for found in 0..HEADER_LEN {
            let cut = SqliteHeader::parse(&healthy()[..found]);
            assert_eq!(cut, Err(HeaderError::Truncated { found }));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            changes in proptest::collection::vec((0..HEADER_LEN, any::<u8>()), 0..8),
        ) {
            let mut near = healthy();
            for (at, byte) in changes {
                near[at] = byte;
            }
            for input in [&bytes[..], &near[..]] {
                if let Ok(header) = SqliteHeader::parse(input) {
                    prop_assert!(header.page_bytes.is_power_of_two());
                    prop_assert!(header.pages().is_none_or(|pages| header.freelist_pages < pages));
                    let _ = (header.stated_bytes(), header.free_bytes());
                }
            }
        }
    }
}
