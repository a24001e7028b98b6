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
    /// Name without its prefix, at most 100 bytes; what follows it may give a longer one.
    pub name: &'a [u8],
    /// Bytes of data behind the header, without the filling up to a whole block.
    pub data_bytes: u64,
    /// What the entry is.
    pub kind: Kind,
    /// Whether blocks with more of a sparse map stand between header and data.
    pub map_goes_on: bool,
}

/// What an entry is, as far as it matters for stepping over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file with data.
    File,
    /// The real name of the entry that follows is in the data.
    LongName,
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
            b'0' | 0 | b'7' | b'S' => Kind::File,
            b'L' | b'x' | b'X' => Kind::LongName,
            _ => Kind::Other,
        };
        // Links, devices, folders and pipes have no data, whatever size they state.
        let without_data = matches!(bytes[TYPE], b'1'..=b'6');
        let name = &bytes[..NAME_LEN];
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(NAME_LEN);
        Self::Header(Header {
            name: &name[..end],
            data_bytes: if without_data { 0 } else { data_bytes },
            kind,
            map_goes_on: bytes[TYPE] == b'S' && bytes[SPARSE_GOES_ON] != 0,
        })
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
const CHECKSUM: std::ops::Range<usize> = 148..156;
const TYPE: usize = 156;
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
            ("00000000017\0", b'0', 15, Kind::File),
            ("         17 ", 0, 15, Kind::File),
            ("00000000017\0", b'5', 0, Kind::Other),
            ("00000000017\0", b'1', 0, Kind::Other),
            ("00000000200\0", b'L', 128, Kind::LongName),
            ("00000000200\0", b'x', 128, Kind::LongName),
            ("00000000200\0", b'g', 128, Kind::Other),
            ("", b'0', 0, Kind::File),
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
            let block: [u8; BLOCK_LEN] = bytes.try_into().unwrap();
            std::hint::black_box((Block::parse(&block), sparse_map_goes_on(&block)));
        }
    }
}
