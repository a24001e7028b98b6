//! Names of segment folders: the id of the segment, as Chroma writes ids.

use alloc::{format, string::String};

/// The number that an id stands for.
pub type Uuid = u128;

/// `3f2504e0-4f89-41d3-9a0c-0305e82c3301`, in either case: how Chroma names segments and their folders.
#[must_use]
pub fn parse_uuid(text: &[u8]) -> Option<Uuid> {
    if text.len() != 36 {
        return None;
    }
    text.iter().enumerate().try_fold(0, |value: Uuid, (at, byte)| match (at, byte) {
        (8 | 13 | 18 | 23, b'-') => Some(value),
        (8 | 13 | 18 | 23, _) => None,
        (_, byte) => Some(value << 4 | Uuid::from(char::from(*byte).to_digit(16)?)),
    })
}

/// Whether a name is that of the folder of a segment: an id, in either case.
#[must_use]
pub fn is_segment_name(name: &[u8]) -> bool {
    parse_uuid(name).is_some()
}

/// An id as Chroma writes it, in lower case.
#[must_use]
pub fn uuid_text(uuid: Uuid) -> String {
    let hex = format!("{uuid:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_like_chromas_are_segments() {
        for (name, want) in [
            ("3f2504e0-4f89-41d3-9a0c-0305e82c3301", true),
            ("3F2504E0-4F89-41D3-9A0C-0305E82C3301", true),
            ("3f2504e0-4f89-41d3-9a0c-0305e82c330", false),
            ("3f2504e0-4f89-41d3-9a0c-0305e82c33011", false),
            ("3f2504e0x4f89-41d3-9a0c-0305e82c3301", false),
            ("3f2504e0-4f89-41d3-9a0c-0305e82c330g", false),
            ("3f2504e0-4f89-41d3-9a0c-0305e82c33-1", false),
            ("", false),
        ] {
            assert_eq!(parse_uuid(name.as_bytes()).is_some(), want, "{name}");
        }
        assert_eq!(parse_uuid(b"00000000-0000-0000-0000-0000000000ff"), Some(255));
    }
}
