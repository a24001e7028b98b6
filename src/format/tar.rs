//! Blocks of a tar archive (`ustar`, pax and GNU: POSIX.1-2018 `pax`, GNU tar manual "Basic Tar Format"): enough to step
//! from one entry to the next and to know the end. Owners, times and links are not looked at.

/// Headers, data and the end come in blocks of so many bytes.
pub const BLOCK_LEN: usize = 512;

/// What a block in the place of a header is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block<'a> {
    /// All zeros: half of the end.
    Zeros,
    /// A header with the right checksum.
    Header(Header<'a>),
    /// Something else: the archive is damaged, or none.
    Foreign,
}

/// The header of one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// Folders that stand before the name, at most 155 bytes, without a slash at the end; empty when there are none.
    pub prefix: &'a [u8],
    /// Name without its prefix, at most 100 bytes; an entry before it may have given a longer one.
    pub name: &'a [u8],
    /// Bytes of data behind the header, without the filling up to a whole block.
    pub data_bytes: u64,
    /// What the entry is.
    pub kind: EntryKind,
    /// Whether blocks with more of a sparse map stand between header and data.
    pub map_goes_on: bool,
    /// Whether the data are only the parts of a file between its holes (GNU).
    pub sparse: bool,
    /// When the file was changed, in seconds since the epoch.
    pub modified: Option<u64>,
}

impl Header<'_> {
    /// The path of the entry, when none before it gave a longer one.
    #[must_use]
    pub fn path(&self) -> Vec<u8> {
        let separator: &[u8] = if self.prefix.is_empty() { b"" } else { b"/" };
        [self.prefix, separator, self.name].concat()
    }
}

/// What an entry is, as far as it matters for stepping over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A file with data.
    File,
    /// Another name of a file that came before, without data.
    Link,
    /// The real name of the entry that follows is in the data (GNU).
    LongName,
    /// What the header that follows has no room for is in the data: see [`pax_records`].
    Pax,
    /// Its data say something of other entries.
    Aside,
    /// Anything else.
    Other,
}

impl<'a> Block<'a> {
    /// Reads one block. A size that cannot be read makes it foreign: nothing after it could be found.
    #[must_use]
    pub fn parse(bytes: &'a [u8; BLOCK_LEN]) -> Self {
        if bytes.iter().all(|byte| *byte == 0) {
            return Self::Zeros;
        }
        let stated = number(&bytes[CHECKSUM]);
        let plain: u64 = bytes.iter().map(|byte| u64::from(*byte)).sum();
        let filled: u64 = bytes[CHECKSUM].iter().map(|byte| u64::from(*byte)).sum();
        let checksum = plain - filled + CHECKSUM_BLANKS;
        let Some(data_bytes) = number(&bytes[SIZE]) else { return Self::Foreign };
        if stated != Some(checksum) {
            return Self::Foreign;
        }
        let kind = match bytes[TYPE] {
            b'0' | 0 | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::Link,
            b'L' => EntryKind::LongName,
            b'x' | b'X' => EntryKind::Pax,
            b'K' | b'N' | b'V' | b'g' => EntryKind::Aside,
            _ => EntryKind::Other,
        };
        // Links, devices, folders and pipes have no data, whatever size they state.
        let without_data = matches!(bytes[TYPE], b'1'..=b'6');
        // In GNU's own format, whose mark ends with blanks, times stand in the place of the prefix.
        let posix = bytes[MAGIC] == *b"ustar\0";
        Self::Header(Header {
            prefix: if posix { until_nul(&bytes[PREFIX]) } else { &[] },
            name: until_nul(&bytes[..NAME_LEN]),
            data_bytes: if without_data { 0 } else { data_bytes },
            kind,
            map_goes_on: bytes[TYPE] == b'S' && bytes[SPARSE_GOES_ON] != 0,
            sparse: bytes[TYPE] == b'S',
            modified: number(&bytes[MODIFIED]),
        })
    }
}

/// The records of a pax header: `LENGTH KEY=VALUE` and a newline each. Ends before the first that is none.
pub fn pax_records(data: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = data;
    std::iter::from_fn(move || {
        let blank = rest.iter().position(|byte| *byte == b' ')?;
        let length: usize = str::from_utf8(&rest[..blank]).ok()?.parse().ok()?;
        let (record, after) = rest.split_at_checked(length)?;
        rest = after;
        let record = record.get(blank + 1..)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        Some((&record[..equals], &record[equals + 1..]))
    })
}

/// A text that ends at the first NUL, or at the end of its field.
#[must_use]
pub fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// What entries before an entry say of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ahead {
    /// Its name, when the header has no room for it.
    pub name: Option<Vec<u8>>,
    /// Bytes of its data, when the header has no room for the number.
    pub data_bytes: Option<u64>,
    /// Whether the data are only the parts of a file between its holes (pax).
    pub sparse: bool,
}

impl Ahead {
    /// Takes in the data of an entry of `kind` [`EntryKind::LongName`] or [`EntryKind::Pax`].
    pub fn take_in(&mut self, kind: EntryKind, data: &[u8]) {
        if kind == EntryKind::LongName {
            self.name = Some(until_nul(data).to_vec());
            return;
        }
        for (key, value) in pax_records(data) {
            match key {
                // The path of a sparse file is one that was made up.
                b"GNU.sparse.name" => {
                    self.name = Some(value.to_vec());
                    self.sparse = true;
                }
                b"path" if !self.sparse => self.name = Some(value.to_vec()),
                b"size" => {
                    self.data_bytes = str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                }
                key if key.starts_with(b"GNU.sparse.") => self.sparse = true,
                _ => {}
            }
        }
    }
}

/// Whether a block of a sparse map is followed by another one.
#[must_use]
pub const fn sparse_map_goes_on(block: &[u8; BLOCK_LEN]) -> bool {
    block[SPARSE_BLOCK_GOES_ON] != 0
}

/// Bytes up to the next header; saturates.
#[must_use]
pub const fn padded(data_bytes: u64) -> u64 {
    data_bytes.saturating_add((BLOCK_LEN as u64 - 1) & data_bytes.wrapping_neg())
}

/// An octal number among blanks and NULs, or a binary one behind a byte `0x80` (GNU, for 8 GiB and more).
fn number(field: &[u8]) -> Option<u64> {
    let (first, rest) = field.split_first()?;
    if *first == 0x80 {
        let (high, low) = rest.split_at_checked(rest.len().checked_sub(8)?)?;
        let low = u64::from_be_bytes(low.try_into().ok()?);
        return high.iter().all(|byte| *byte == 0).then_some(low);
    }
    let text = field.trim_ascii_start();
    let digits = text.iter().take_while(|byte| (b'0'..=b'7').contains(*byte)).count();
    let (digits, rest) = text.split_at(digits);
    if !rest.iter().all(|byte| matches!(byte, 0 | b' ')) {
        return None;
    }
    digits
        .iter()
        .try_fold(0_u64, |sum, byte| sum.checked_mul(8)?.checked_add(u64::from(byte - b'0')))
}

const NAME_LEN: usize = 100;
const SIZE: std::ops::Range<usize> = 124..136;
const MODIFIED: std::ops::Range<usize> = 136..148;
const CHECKSUM: std::ops::Range<usize> = 148..156;
const TYPE: usize = 156;
const MAGIC: std::ops::Range<usize> = 257..263;
const PREFIX: std::ops::Range<usize> = 345..500;
const SPARSE_GOES_ON: usize = 482;
const SPARSE_BLOCK_GOES_ON: usize = 504;
/// The checksum counts its own field as blanks.
const CHECKSUM_BLANKS: u64 = 8 * b' ' as u64;

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A header as tar writes it.
    pub(crate) fn header(name: &str, size: &str, kind: u8) -> [u8; BLOCK_LEN] {
        let mut block = [0; BLOCK_LEN];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[124..124 + size.len()].copy_from_slice(size.as_bytes());
        block[156] = kind;
        block[148..156].copy_from_slice(b"        ");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }

    #[test]
    fn headers_of_every_kind() {
        for (size, kind, data_bytes, want) in [
            ("00000000017\0", b'0', 15, EntryKind::File),
            ("         17 ", 0, 15, EntryKind::File),
            ("00000000017\0", b'5', 0, EntryKind::Other),
            ("00000000017\0", b'1', 0, EntryKind::Link),
            ("00000000017\0", b'2', 0, EntryKind::Other),
            ("00000000200\0", b'L', 128, EntryKind::LongName),
            ("00000000200\0", b'x', 128, EntryKind::Pax),
            ("00000000200\0", b'g', 128, EntryKind::Aside),
            ("", b'0', 0, EntryKind::File),
        ] {
            let block = header("data/chroma.sqlite3", size, kind);
            let Block::Header(header) = Block::parse(&block) else { panic!("{size:?} {kind}") };
            assert_eq!((header.data_bytes, header.kind), (data_bytes, want), "{size:?} {kind}");
            assert_eq!(header.name, b"data/chroma.sqlite3");
        }
    }

    #[test]
    fn large_sizes_are_binary() {
        let mut block = header("x", "", b'0');
        block[124] = 0x80;
        block[128..136].copy_from_slice(&(9_u64 << 30).to_be_bytes());
        block[148..156].copy_from_slice(b"        ");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let Block::Header(header) = Block::parse(&block) else { panic!() };
        assert_eq!(header.data_bytes, 9 << 30);
    }

    #[test]
    fn only_posix_has_a_prefix() {
        for (magic, want) in [(&b"ustar\0"[..], &b"srv/chroma"[..]), (b"ustar ", b"")] {
            let mut block = header("x", "", b'0');
            block[257..263].copy_from_slice(magic);
            block[345..355].copy_from_slice(b"srv/chroma");
            block[148..156].copy_from_slice(b"        ");
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            let Block::Header(header) = Block::parse(&block) else { panic!("{magic:?}") };
            assert_eq!(header.prefix, want, "{magic:?}");
        }
    }

    #[test]
    fn records_of_pax_are_read_as_far_as_they_are_sound() {
        let read = |data: &[u8]| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            pax_records(data).map(|(key, value)| (text(key), text(value))).collect::<Vec<_>>()
        };
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(
            read(b"12 path=a=b\n11 size=17\n\0\0"),
            [pair("path", "a=b"), pair("size", "17")]
        );
        for broken in [
            &b""[..],
            b"99 path=a\n",
            b"2 path=a\n",
            b"x path=a\n",
            b"0 =\n",
            b"18446744073709551615 a=b\n",
        ] {
            assert_eq!(read(broken), [], "{broken:?}");
        }
    }

    #[test]
    fn zeros_and_what_is_no_header_are_told() {
        assert_eq!(Block::parse(&[0; BLOCK_LEN]), Block::Zeros);
        assert_eq!(Block::parse(&[7; BLOCK_LEN]), Block::Foreign);
        let good = header("x", "00000000017\0", b'0');
        for at in [0, 124, 150, 156, 300] {
            let mut bad = good;
            bad[at] ^= 1;
            assert_eq!(Block::parse(&bad), Block::Foreign, "{at}");
        }
        assert_eq!([0, 1, 511, 512, 513].map(padded), [0, 512, 512, 512, 1024]);
        assert_eq!(padded(u64::MAX), u64::MAX);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), BLOCK_LEN)) {
            std::hint::black_box(pax_records(&bytes).count());
            let block: [u8; BLOCK_LEN] = bytes.try_into().unwrap();
            std::hint::black_box((Block::parse(&block), sparse_map_goes_on(&block)));
        }
    }
}
