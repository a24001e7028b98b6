//! Git LFS pointers: the few lines of text that git puts in place of a large file, until `git lfs pull` fetches it. Source: the
//! specification of git-lfs, version 1 (`docs/spec.md`).

/// What a pointer says of the file that it stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pointer {
    /// Bytes of the real file; `None` when the pointer does not say it, or is cut.
    pub size_bytes: Option<u64>,
}

impl Pointer {
    /// Reads a file by its first bytes, of which [`HEAD_LEN`] are enough. `None` when it is no pointer.
    #[must_use]
    pub fn parse(head: &[u8]) -> Option<Self> {
        let lines = head.strip_prefix(MAGIC)?;
        // Whatever git-lfs has written since its first days begins with the version, and the keys follow by name.
        if !lines.is_empty() && !lines.starts_with(b"\n") && !lines.starts_with(b"\r\n") {
            return None;
        }
        let line = |line: &[u8]| {
            let digits = line.strip_prefix(b"size ")?.trim_ascii();
            core::str::from_utf8(digits).ok()?.parse().ok()
        };
        Some(Self { size_bytes: lines.split(|byte| *byte == b'\n').find_map(line) })
    }
}

/// A pointer is shorter than this.
pub const HEAD_LEN: usize = 1024;

/// The first line, without its end.
const MAGIC: &[u8] = b"version https://git-lfs.github.com/spec/v1";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_are_told_from_everything_else() {
        let oid = format!("oid sha256:{}", "4d".repeat(32));
        let head = "version https://git-lfs.github.com/spec/v1";
        let size = |size_bytes| Some(Pointer { size_bytes });
        for (text, want) in [
            (format!("{head}\n{oid}\nsize 12345\n"), size(Some(12345))),
            (format!("{head}\r\n{oid}\r\nsize 7\r\n"), size(Some(7))),
            (format!("{head}\n{oid}\nsize 12345"), size(Some(12345))),
            (format!("{head}\next-0-foo sha256:00\n{oid}\nsize 3\n"), size(Some(3))),
            (format!("{head}\n{oid}\n"), size(None)),
            (format!("{head}\n{oid}\nsize many\n"), size(None)),
            (head.to_owned(), size(None)),
            (format!("{head}.1\n"), None),
            (format!(" {head}\n{oid}\nsize 1\n"), None),
            (head[..20].to_owned(), None),
            (String::new(), None),
            ("SQLite format 3\0".to_owned(), None),
        ] {
            assert_eq!(Pointer::parse(text.as_bytes()), want, "{text:?}");
        }
    }

    #[test]
    fn no_bytes_behind_the_first_line_make_it_fail() {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(b"\nsize \xff\xfe\nsize 99999999999999999999999\n");
        assert_eq!(Pointer::parse(&bytes), Some(Pointer { size_bytes: None }));
    }
}
