//! The directory at the end of a zip (APPNOTE.TXT 4.3.12 to 4.3.16): which names are in it, and how many bytes each has.
//! Nothing is unpacked, and no checksum is compared.

/// Where the directory stands in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Directory {
    /// Offset of its first byte.
    pub offset: u64,
    /// Its length in bytes.
    pub bytes: u64,
}

/// What the end of a zip says of its directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Where it stands.
    At(Directory),
    /// It is large: the end of a zip64 stands at this offset, [`ZIP64_END_LEN`] bytes long.
    Zip64(u64),
}

/// Reads the end in `tail`, at least the last [`super::archive::ZIP_TAIL_MAX`] bytes of a file. `None` when there is none.
#[must_use]
pub fn end(tail: &[u8]) -> Option<End> {
    let comment_of = |end: &[u8]| usize::from(u16::from_le_bytes([end[20], end[21]]));
    let windows = tail.windows(END_LEN).enumerate().rev();
    let (at, end) = windows.zip(0_usize..).find_map(|((at, end), comment)| {
        (end.starts_with(b"PK\x05\x06") && comment_of(end) == comment).then_some((at, end))
    })?;
    let (bytes, offset) = (u32_at(end, 12)?, u32_at(end, 16)?);
    let locator = at.checked_sub(LOCATOR_LEN).and_then(|from| tail.get(from..at));
    match locator.filter(|locator| locator.starts_with(b"PK\x06\x07")) {
        Some(locator) => Some(End::Zip64(u64_at(locator, 8)?)),
        None => Some(End::At(Directory { offset: offset.into(), bytes: bytes.into() })),
    }
}

/// Reads the end of a zip64. `None` when it is none.
#[must_use]
pub fn end_of_zip64(bytes: &[u8]) -> Option<Directory> {
    let bytes = bytes.strip_prefix(b"PK\x06\x06")?;
    Some(Directory { bytes: u64_at(bytes, 36)?, offset: u64_at(bytes, 44)? })
}

/// The names in the directory and their unpacked lengths, up to what is no entry. A length of 4 GiB or more is only "at
/// least so much": where it stands depends on what else does not fit.
pub fn entries(directory: &[u8]) -> impl Iterator<Item = (&[u8], u64)> {
    let mut rest = directory;
    std::iter::from_fn(move || {
        let entry = rest.strip_prefix(b"PK\x01\x02")?;
        let length = |at: usize| {
            Some(usize::from(u16::from_le_bytes([*entry.get(at)?, *entry.get(at + 1)?])))
        };
        let (name, extra, comment) = (length(24)?, length(26)?, length(28)?);
        let unpacked = u32_at(entry, 20)?;
        let text = entry.get(ENTRY_LEN..)?.get(..name)?;
        rest = entry.get(ENTRY_LEN + name + extra + comment..)?;
        Some((text, unpacked.into()))
    })
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Length of the end of a zip64, as far as it is read.
pub const ZIP64_END_LEN: usize = 56;
/// Without the comment.
const END_LEN: usize = 22;
/// Says where the end of a zip64 stands, right before the end.
const LOCATOR_LEN: usize = 20;
/// Without the mark before it and the name after it.
const ENTRY_LEN: usize = 42;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(name: &str, bytes: u32, extra: usize) -> Vec<u8> {
        let mut out = b"PK\x01\x02".to_vec();
        out.resize(4 + 20, 0);
        out.extend(bytes.to_le_bytes());
        out.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
        out.extend(u16::try_from(extra).unwrap().to_le_bytes());
        out.resize(4 + ENTRY_LEN, 0);
        out.extend(name.as_bytes());
        out.resize(out.len() + extra, 7);
        out
    }

    #[test]
    fn names_and_lengths_stand_in_the_directory() {
        let mut directory = entry("chroma/", 0, 9);
        directory.extend(entry("chroma/chroma.sqlite3", 4096, 0));
        let read: Vec<_> = entries(&directory).collect();
        assert_eq!(read, [(&b"chroma/"[..], 0), (&b"chroma/chroma.sqlite3"[..], 4096)]);
        assert_eq!(entries(&directory[..directory.len() - 1]).count(), 1, "cut off");
    }

    #[test]
    fn the_end_says_where_the_directory_is() {
        let end_of = |comment: &[u8], before: &[u8]| {
            let mut bytes = before.to_vec();
            bytes.extend(b"PK\x05\x06");
            bytes.resize(before.len() + 12, 0);
            bytes.extend(100_u32.to_le_bytes());
            bytes.extend(7000_u32.to_le_bytes());
            bytes.extend(u16::try_from(comment.len()).unwrap().to_le_bytes());
            bytes.extend(comment);
            end(&bytes)
        };
        let at = Some(End::At(Directory { offset: 7000, bytes: 100 }));
        assert_eq!(end_of(b"", b""), at);
        assert_eq!(end_of(b"nightly", b"what was packed, and more of it"), at);
        let mut locator = b"PK\x06\x07\0\0\0\0".to_vec();
        locator.extend(5_000_000_000_u64.to_le_bytes());
        locator.extend([1, 0, 0, 0]);
        assert_eq!(end_of(b"", &locator), Some(End::Zip64(5_000_000_000)));
        assert_eq!(end(b"PK\x05\x06"), None);
        let mut large = b"PK\x06\x06".to_vec();
        large.resize(40, 0);
        large.extend(300_u64.to_le_bytes());
        large.extend(5_000_000_000_u64.to_le_bytes());
        assert_eq!(large.len(), ZIP64_END_LEN);
        let want = Directory { offset: 5_000_000_000, bytes: 300 };
        assert_eq!(end_of_zip64(&large), Some(want));
        assert_eq!(end_of_zip64(&large[..50]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut marked = b"PK\x01\x02".to_vec();
            marked.extend(&bytes);
            std::hint::black_box((end(&bytes), end_of_zip64(&bytes), entries(&marked).count()));
        }
    }
}
