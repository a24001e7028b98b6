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

/// One file of the directory, with all that its reading takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its name.
    pub name: Vec<u8>,
    /// How it is packed: 0 not at all, 8 deflate.
    pub method: u16,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// CRC-32 of its content.
    pub crc: u32,
    /// Packed length.
    pub packed: u64,
    /// Length.
    pub bytes: u64,
    /// Where its local header stands.
    pub offset: u64,
    /// Whether it is a regular file, as far as a Unix wrote it; other systems know nothing else.
    pub regular: bool,
}

/// Length of an entry of the directory before its name.
pub const FILE_LEN: usize = 4 + ENTRY_LEN;
/// Length of the header before each file, without its name and what follows it.
pub const LOCAL_LEN: usize = 30;

/// The beginning of an entry of the directory: how long its name, and all that follows that, are.
#[must_use]
pub fn file_lengths(head: &[u8; FILE_LEN]) -> Option<(usize, usize)> {
    head.starts_with(b"PK\x01\x02").then_some(())?;
    let length = |at: usize| usize::from(u16::from_le_bytes([head[at], head[at + 1]]));
    Some((length(28), length(30) + length(32)))
}

/// An entry of the directory, with `name` and what follows it.
#[must_use]
pub fn file(head: &[u8; FILE_LEN], name: &[u8], rest: &[u8]) -> Option<File> {
    let short = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
    let long = |at: usize| u32_at(head, at).map(u64::from);
    let (mut packed, mut bytes, mut offset) = (long(20)?, long(24)?, long(42)?);
    let extra = rest.get(..usize::from(short(30)))?;
    // What does not fit stands in a field of its own, in this order, each only if it does not fit.
    let mut wide = extra_field(extra, ZIP64_FIELD).unwrap_or_default();
    for value in [&mut bytes, &mut packed, &mut offset] {
        if *value == u64::from(u32::MAX) {
            *value = u64_at(wide, 0)?;
            wide = &wide[8..];
        }
    }
    let mode = u32_at(head, 38)? >> 16 & 0o170_000;
    let unix = head[5] == 3;
    Some(File {
        name: name.to_vec(),
        method: short(10),
        encrypted: short(8) & 1 != 0,
        crc: u32_at(head, 16)?,
        packed,
        bytes,
        offset,
        regular: !unix || matches!(mode, 0 | 0o100_000),
    })
}

/// How far behind its local header the content of a file begins.
#[must_use]
pub fn content_at(local: &[u8; LOCAL_LEN]) -> Option<u64> {
    local.starts_with(b"PK\x03\x04").then_some(())?;
    let length = |at: usize| u64::from(u16::from_le_bytes([local[at], local[at + 1]]));
    Some(LOCAL_LEN as u64 + length(26) + length(28))
}

fn extra_field(mut extra: &[u8], id: u16) -> Option<&[u8]> {
    loop {
        let (head, rest) = extra.split_first_chunk::<4>()?;
        let (data, after) =
            rest.split_at_checked(usize::from(u16::from_le_bytes([head[2], head[3]])))?;
        if u16::from_le_bytes([head[0], head[1]]) == id {
            return Some(data);
        }
        extra = after;
    }
}

const ZIP64_FIELD: u16 = 1;

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
    fn what_does_not_fit_stands_in_a_field_of_its_own() {
        let mut head = [0; FILE_LEN];
        head[..4].copy_from_slice(b"PK\x01\x02");
        head[10] = 8;
        head[20..28].copy_from_slice(&[0xff; 8]);
        head[30] = 24;
        head[42..46].copy_from_slice(&7_u32.to_le_bytes());
        assert_eq!(file_lengths(&head), Some((0, 24)));
        let mut extra = vec![9, 0, 0, 0, 1, 0, 16, 0];
        extra.extend(5_000_000_000_u64.to_le_bytes());
        extra.extend(4_000_000_000_u64.to_le_bytes());
        let read = file(&head, b"x", &extra).unwrap();
        assert_eq!((read.bytes, read.packed), (5_000_000_000, 4_000_000_000));
        assert_eq!((read.offset, read.method, read.regular), (7, 8, true));
        assert_eq!(file(&head, b"x", &extra[..16]), None, "cut off");
        head[5] = 3;
        head[41] = 0o240;
        assert!(!file(&head, b"x", &extra).unwrap().regular, "a link");
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
