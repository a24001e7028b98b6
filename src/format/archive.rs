//! What an archive is by its first bytes, and whether its end is there by its last ones. Nothing is unpacked here: a whole
//! end proves that the writer came to its end, not what is inside.
//!
//! gzip: RFC 1952. bzip2: the end of the stream is the BCD digits of the square root of pi. xz: "The .xz File Format" 1.1,
//! section 2.1.2. zip: `zip.rs`. zstd: RFC 8878.

use std::ops::Range;

/// An archive or a database, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveKind {
    /// Blocks of 512 bytes.
    Tar,
    /// `.gz`.
    Gzip,
    /// `.bz2`.
    Bzip2,
    /// `.xz`.
    Xz,
    /// `.zst`.
    Zstd,
    /// `.zip`.
    Zip,
    /// A plain copy of the database.
    Sqlite,
}

impl ArchiveKind {
    /// As it is called in a sentence.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tar => "tar",
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Zip => "zip",
            Self::Sqlite => "SQLite",
        }
    }

    /// What the file is, by its first [`HEAD_LEN`] bytes, or as many as there are.
    #[must_use]
    pub fn of_bytes(head: &[u8]) -> Option<Self> {
        let starts = |magic: &[u8]| head.starts_with(magic);
        if starts(&[0x1f, 0x8b]) {
            Some(Self::Gzip)
        } else if starts(b"BZh") {
            Some(Self::Bzip2)
        } else if starts(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
            Some(Self::Xz)
        } else if starts(&ZSTD_MAGIC) {
            Some(Self::Zstd)
        } else if starts(b"PK\x03\x04") || starts(b"PK\x05\x06") {
            Some(Self::Zip)
        } else if starts(b"SQLite format 3\0") {
            Some(Self::Sqlite)
        } else {
            let block = head.first_chunk::<{ super::tar::BLOCK_LEN }>()?;
            let header = matches!(super::tar::Block::parse(block), super::tar::Block::Header(_));
            header.then_some(Self::Tar)
        }
    }

    /// What the file should be by its name; `None` when the name does not say.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        let name = name.to_lowercase();
        let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
        if ends(&[".gz", ".tgz"]) {
            Some(Self::Gzip)
        } else if ends(&[".bz2", ".tbz", ".tbz2"]) {
            Some(Self::Bzip2)
        } else if ends(&[".xz", ".txz"]) {
            Some(Self::Xz)
        } else if ends(&[".zst", ".tzst"]) {
            Some(Self::Zstd)
        } else if ends(&[".tar"]) {
            Some(Self::Tar)
        } else if ends(&[".zip"]) {
            Some(Self::Zip)
        } else if ends(&[".sqlite3", ".sqlite", ".db"]) {
            Some(Self::Sqlite)
        } else {
            None
        }
    }
}

/// First bytes that [`ArchiveKind::of_bytes`] wants.
pub const HEAD_LEN: usize = super::tar::BLOCK_LEN;

/// What the last four bytes of gzip make plausible. They are the unpacked length modulo 2^32; of a file that was cut off
/// they are some bytes of the middle, which look like the length of a padded tar in one of 10,240 cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GzipEnd {
    /// A tar of whole records of 10,240 bytes, which is what GNU tar, bsdtar and Python write.
    TarRecords,
    /// A tar of whole blocks, or a database.
    Blocks,
    /// Neither.
    Other,
}

impl GzipEnd {
    /// Reads the last four bytes of a file of `size` bytes.
    #[must_use]
    pub fn parse(tail: [u8; 4], size: u64) -> Self {
        let length = u64::from(u32::from_le_bytes(tail));
        // Deflate makes at most 1032 bytes of one, and adds next to nothing to what cannot be packed. From 4 GiB on only the
        // lower part of the length is there.
        let possible =
            size.saturating_mul(1032) > u64::from(u32::MAX) || length <= size.saturating_mul(1032);
        let enough = size > u64::from(u32::MAX) || length.saturating_mul(101) / 100 + 1024 >= size;
        if length == 0 || !possible || !enough {
            Self::Other
        } else if length.is_multiple_of(10_240) {
            Self::TarRecords
        } else if length.is_multiple_of(512) {
            Self::Blocks
        } else {
            Self::Other
        }
    }
}

/// Whether `tail`, the last bytes of a file, ends with the footer of an xz stream. `crc32` is that of zlib.
#[must_use]
pub fn ends_xz(tail: &[u8], crc32: impl Fn(&[u8]) -> u32) -> bool {
    // Filling with zeros in fours is allowed.
    let end = tail.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    let Some(footer) = tail[..end].last_chunk::<12>() else { return false };
    footer.ends_with(b"YZ") && crc32(&footer[4..10]).to_le_bytes() == footer[..4]
}

/// Whether `tail`, at least the last 11 bytes of a file, ends with the end of a bzip2 stream: a mark of 48 bits, a
/// checksum of 32, and up to 7 bits of filling.
#[must_use]
pub fn ends_bzip2(tail: &[u8]) -> bool {
    let Some(last) = tail.last_chunk::<11>() else { return false };
    let bits = last.iter().fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
    (0..8).any(|filling| (bits >> (filling + 32)) & 0xffff_ffff_ffff == 0x1772_4538_5090)
}

/// The end of a zip's directory with the longest comment.
pub const ZIP_TAIL_MAX: usize = 22 + 65_535;

/// The header of a zstd frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ZstdFrame {
    /// Blocks begin after so many bytes; a checksum of four follows the last one when `checksum`.
    Blocks {
        /// Bytes of the header, the magic included.
        header_bytes: u64,
        /// Whether four bytes follow the last block.
        checksum: bool,
    },
    /// To be stepped over, so many bytes in all.
    Skippable(u64),
}

impl ZstdFrame {
    /// Reads the first bytes of a frame; five are enough for the header, eight for one that is stepped over.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<4>()?;
        if magic[0] & 0xf0 == 0x50 && magic[1..] == [0x2a, 0x4d, 0x18] {
            let length = u32::from_le_bytes(*rest.first_chunk()?);
            return Some(Self::Skippable(8 + u64::from(length)));
        }
        let descriptor = *rest.first()?;
        if *magic != ZSTD_MAGIC || descriptor & 0b1000 != 0 {
            return None;
        }
        let single = descriptor & 0b10_0000 != 0;
        let window = u64::from(!single);
        let dictionary = [0, 1, 2, 4][usize::from(descriptor & 0b11)];
        let content = match descriptor >> 6 {
            0 => u64::from(single),
            code => 1 << code,
        };
        let header_bytes = 5 + window + dictionary + content;
        Some(Self::Blocks { header_bytes, checksum: descriptor & 0b100 != 0 })
    }
}

/// The header of a block of zstd, three bytes: whether it is the last one, and how many bytes follow. `None` when it is no
/// such header.
#[must_use]
pub fn zstd_block(bytes: [u8; 3]) -> Option<(bool, u64)> {
    let header = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]);
    let size = u64::from(header >> 3);
    let stored = match (header >> 1) & 0b11 {
        0 | 2 if size <= ZSTD_BLOCK_MAX => size,
        1 => 1,
        _ => return None,
    };
    Some((header & 1 == 1, stored))
}

const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Larger blocks are not allowed.
const ZSTD_BLOCK_MAX: u64 = 128 * 1024;

/// Bytes of a file of `size` bytes that its last `wanted` ones are; fewer when it is shorter.
#[must_use]
pub fn tail_range(size: u64, wanted: usize) -> Range<u64> {
    size.saturating_sub(wanted as u64)..size
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn kinds_by_bytes_and_by_name() {
        let tar = super::super::tar::tests::header("x", "", b'0');
        for (bytes, want) in [
            (&[0x1f, 0x8b, 8, 0][..], Some(ArchiveKind::Gzip)),
            (b"BZh91AY", Some(ArchiveKind::Bzip2)),
            (b"\xfd7zXZ\0\0", Some(ArchiveKind::Xz)),
            (b"\x28\xb5\x2f\xfd\0", Some(ArchiveKind::Zstd)),
            (b"PK\x03\x04", Some(ArchiveKind::Zip)),
            (b"SQLite format 3\0....", Some(ArchiveKind::Sqlite)),
            (&tar, Some(ArchiveKind::Tar)),
            (&tar[..511], None),
            (&[0; 512], None),
            (b"", None),
        ] {
            assert_eq!(ArchiveKind::of_bytes(bytes), want, "{bytes:?}");
        }
        for (name, want) in [
            ("chroma_db.backup.20260101.tar.gz", Some(ArchiveKind::Gzip)),
            ("CHROMA.TGZ", Some(ArchiveKind::Gzip)),
            ("a.tar.bz2", Some(ArchiveKind::Bzip2)),
            ("a.txz", Some(ArchiveKind::Xz)),
            ("a.tar.zst", Some(ArchiveKind::Zstd)),
            ("a.tar", Some(ArchiveKind::Tar)),
            ("a.zip", Some(ArchiveKind::Zip)),
            ("chroma-2026-01-01.sqlite3", Some(ArchiveKind::Sqlite)),
            ("chroma.sqlite3.20260101", None),
            ("backup.gpg", None),
        ] {
            assert_eq!(ArchiveKind::of_name(name), want, "{name}");
        }
    }

    #[test]
    fn the_end_of_gzip_is_plausible_or_not() {
        use GzipEnd::{Blocks, Other, TarRecords};
        for (length, size, want) in [
            (10_240_u32, 500, TarRecords),
            (10_240, 9, Other),      // no packing is so good
            (10_240, 30_000, Other), // more than was packed
            (1024, 300, Blocks),
            (1000, 300, Other),
            (0, 300, Other),
            (10_240, 20 << 30, TarRecords), // beyond 4 GiB only the rest is there
        ] {
            assert_eq!(GzipEnd::parse(length.to_le_bytes(), size), want, "{length} {size}");
        }
    }

    #[test]
    fn frames_and_blocks_of_zstd() {
        let frame =
            |descriptor: u8| ZstdFrame::parse(&[0x28, 0xb5, 0x2f, 0xfd, descriptor, 0, 0, 0]);
        let blocks = |header_bytes, checksum| Some(ZstdFrame::Blocks { header_bytes, checksum });
        assert_eq!(frame(0x04), blocks(6, true)); // what a pipe gives
        assert_eq!(frame(0x24), blocks(6, true)); // one byte of content size
        assert_eq!(frame(0xa0), blocks(9, false));
        assert_eq!(frame(0x08), None);
        let skippable = ZstdFrame::parse(&[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0]);
        assert_eq!(skippable, Some(ZstdFrame::Skippable(11)));
        assert_eq!(zstd_block([0x01, 0, 0]), Some((true, 0)));
        assert_eq!(zstd_block([0x48, 0, 0]), Some((false, 9)));
        assert_eq!(zstd_block([0x4a, 0, 0]), Some((false, 1)), "one byte, nine times");
        assert_eq!(zstd_block([0x4e, 0, 0]), None);
        assert_eq!(zstd_block([0, 0, 0xff]), None, "larger than a block may be");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let ends = (ends_xz(&bytes, |_| 0), ends_bzip2(&bytes));
            std::hint::black_box((ArchiveKind::of_bytes(&bytes), ends, ZstdFrame::parse(&bytes)));
        }
    }
}
