//! Where a Python process has its packages, and which release of one is installed there: the text of `/proc/PID/maps`
//! (proc(5)) and of `METADATA` (Core metadata specification 2.1).

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// The directories of packages that a process has libraries of, those that hold `package`'s own libraries first; at
/// most [`DIRS_MAX`]. A library whose file was deleted since (an upgrade below a running process) counts too.
#[must_use]
pub fn package_dirs(maps: &[u8], package: &str) -> Vec<PathBuf> {
    let mut dirs: Vec<(bool, PathBuf)> = Vec::new();
    for path in maps.split(|byte| *byte == b'\n').filter_map(mapped_path) {
        let Some((dir, rest)) = split_at_packages(path) else { continue };
        let own = rest.starts_with(package.as_bytes());
        if let Some((known, _)) = dirs.iter_mut().find(|(_, known)| known == dir) {
            *known |= own;
        } else if dirs.len() < DIRS_MAX {
            dirs.push((own, dir.to_owned()));
        }
    }
    dirs.sort_by_key(|(own, _)| !own);
    dirs.into_iter().map(|(_, dir)| dir).collect()
}

/// The path of one line: the sixth field, which may hold spaces.
fn mapped_path(line: &[u8]) -> Option<&[u8]> {
    let at = line.iter().position(|byte| *byte == b'/')?;
    line.get(at..)
}

/// A path up to and with the component `site-packages` or `dist-packages`, and what follows it.
fn split_at_packages(path: &[u8]) -> Option<(&Path, &[u8])> {
    ["/site-packages/", "/dist-packages/"].iter().find_map(|name| {
        let at = path.windows(name.len()).position(|window| window == name.as_bytes())?;
        let (dir, rest) = path.split_at_checked(at + name.len())?;
        let dir = dir.strip_suffix(b"/")?;
        Some((Path::new(OsStr::from_bytes(dir)), rest))
    })
}

/// Whether a name in a directory of packages is that of the metadata of `package`.
#[must_use]
pub fn is_metadata_of(name: &OsStr, package: &str) -> bool {
    name.as_bytes()
        .strip_prefix(package.as_bytes())
        .and_then(|rest| rest.strip_prefix(b"-"))
        .is_some_and(|rest| rest.ends_with(b".dist-info"))
}

/// The field `Version` of the text of `METADATA`; `None` when it has none of letters, digits and `.+-!_`.
#[must_use]
pub fn version_of(metadata: &[u8]) -> Option<&str> {
    let header = metadata.split(|byte| *byte == b'\n').take_while(|line| !line.is_empty());
    let value = header.take(LINES_MAX).find_map(|line| line.strip_prefix(b"Version:"))?;
    let text = std::str::from_utf8(value).ok()?.trim();
    let plain = |c: char| c.is_ascii_alphanumeric() || ".+-!_".contains(c);
    (!text.is_empty() && text.len() <= VERSION_BYTES_MAX && text.chars().all(plain)).then_some(text)
}

/// Most directories that are told apart.
pub const DIRS_MAX: usize = 16;
const LINES_MAX: usize = 1000;
const VERSION_BYTES_MAX: usize = 40;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAPS: &[u8] = b"55e0-55e1 r-xp 00000000 08:01 11 /usr/bin/python3.11\n\
        7f00-7f01 r-xp 00000000 08:01 12 /usr/lib/python3/dist-packages/numpy/core/_multiarray.so\n\
        7f02-7f03 rw-p 00000000 00:00 0 \n\
        7f04-7f05 r-xp 00000000 08:01 13 /srv/my env/lib/python3.11/site-packages/chromadb_rust_bindings/a.abi3.so (deleted)\n\
        7f06-7f07 r-xp 00000000 08:01 14 /srv/my env/lib/python3.11/site-packages/numpy/x.so\n\
        7ffe-7fff r-xp 00000000 00:00 0 [vdso]\n";

    #[test]
    fn packages_are_found_by_the_libraries_that_are_loaded() {
        let dirs = package_dirs(MAPS, "chromadb");
        let want = ["/srv/my env/lib/python3.11/site-packages", "/usr/lib/python3/dist-packages"];
        assert_eq!(dirs, want.map(PathBuf::from));
        assert_eq!(package_dirs(b"", "chromadb"), [] as [PathBuf; 0]);
    }

    #[test]
    fn the_version_stands_in_the_header() {
        for (text, want) in [
            (
                &b"Metadata-Version: 2.4\nName: chromadb\nVersion: 1.5.9\n\nVersion: 2\n"[..],
                Some("1.5.9"),
            ),
            (b"Name: chromadb\nVersion: 0.6.3\r\n", Some("0.6.3")),
            (b"Name: chromadb\n\nVersion: 0.6.3\n", None),
            (b"Version: 1.0; rm -rf\n", None),
            (b"", None),
        ] {
            assert_eq!(version_of(text), want, "{text:?}");
        }
        for (name, want) in [
            ("chromadb-1.5.9.dist-info", true),
            ("chromadb_rust_bindings-1.0.dist-info", false),
            ("chromadb", false),
            ("~hromadb-1.5.9.dist-info", false),
        ] {
            assert_eq!(is_metadata_of(OsStr::new(name), "chromadb"), want, "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(package_dirs(&bytes, "chromadb").len() <= DIRS_MAX);
            prop_assert!(version_of(&bytes).is_none_or(|version| !version.is_empty()));
        }
    }
}
