//! What a name in an archive is to a Chroma store: `./srv/chroma/chroma.sqlite3` is the database of a store that was packed below
//! `srv/chroma`. Only the names that Chroma itself writes, and the manifest, are anything. A name is never used as a path.

use super::{hnsw, manifest::MANIFEST_FILE, uuid::parse_uuid};

/// A file of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// `chroma.sqlite3`
    Database,
    /// Its rollback journal.
    Journal,
    /// Its write-ahead log.
    Wal,
    /// `manifest.json`
    Manifest,
    /// One of the five files in the folder of an index.
    Index(usize),
}

/// The five files of an index, by number. A flush writes the last one at its end.
pub const INDEX_FILES: [&str; 5] = hnsw::FILES;

/// Where a file belongs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Directories before it, without slashes at either end: names of the archive, for messages and to tell stores apart.
    pub prefix: String,
    /// What it is.
    pub part: Part,
    /// Its path below the store: at most one folder, with a name that Chroma gives.
    pub path: String,
}

/// What a name is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// A file of a store.
    Of(Place),
    /// Something else, which is left out.
    Other,
    /// A name that leads out of the archive, or none that a path could have.
    Hostile,
}

impl Named {
    /// Reads a name with slashes between its parts.
    #[must_use]
    pub fn parse(name: &[u8]) -> Self {
        let Ok(text) = str::from_utf8(name) else { return Self::Other };
        if text.len() > NAME_MAX {
            return Self::Other;
        }
        let parts: Vec<&str> = text.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        if parts.contains(&"..") || text.contains(['\0', '\\']) {
            return Self::Hostile;
        }
        // A name that ends with a slash is a directory.
        let Some((file, before)) = parts.split_last().filter(|_| !text.ends_with('/')) else {
            return Self::Other;
        };
        let part = match *file {
            DATABASE => Part::Database,
            JOURNAL => Part::Journal,
            WAL => Part::Wal,
            MANIFEST_FILE => Part::Manifest,
            other => match INDEX_FILES.iter().position(|file| *file == other) {
                Some(number) => Part::Index(number),
                None => return Self::Other,
            },
        };
        let (folder, before) = match (part, before.split_last()) {
            (Part::Index(_), Some((folder, before))) if is_folder(folder) => {
                (Some(*folder), before)
            }
            (Part::Index(_), _) => return Self::Other,
            _ => (None, before),
        };
        let path = folder.map_or((*file).to_owned(), |folder| format!("{folder}/{file}"));
        Self::Of(Place { prefix: before.join("/"), part, path })
    }
}

/// Whether a folder has a name as Chroma gives them: an id in lower case. Two names that differ in nothing but their case would be
/// one folder on some systems, and Chroma finds only this one.
#[must_use]
pub fn is_folder(name: &str) -> bool {
    parse_uuid(name.as_bytes()).is_some() && !name.contains(|c: char| c.is_ascii_uppercase())
}

const DATABASE: &str = "chroma.sqlite3";
const JOURNAL: &str = "chroma.sqlite3-journal";
const WAL: &str = "chroma.sqlite3-wal";
/// As long as a path may be.
const NAME_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "3f2504e0-4f89-41d3-9a0c-0305e82c3301";

    fn of(name: &str) -> Option<(String, String)> {
        match Named::parse(name.as_bytes()) {
            Named::Of(place) => Some((place.prefix, place.path)),
            _ => None,
        }
    }

    #[test]
    fn only_names_of_chroma_are_parts_of_a_store() {
        let header = format!("{ID}/header.bin");
        for (name, prefix, path) in [
            ("chroma.sqlite3", "", "chroma.sqlite3"),
            ("./chroma.sqlite3", "", "chroma.sqlite3"),
            ("/srv//chroma/chroma.sqlite3", "srv/chroma", "chroma.sqlite3"),
            ("a/b/chroma.sqlite3-journal", "a/b", "chroma.sqlite3-journal"),
            ("a/manifest.json", "a", "manifest.json"),
            (&header, "", &header),
            (&format!("./srv/{header}"), "srv", &header),
        ] {
            assert_eq!(of(name), Some((prefix.to_owned(), path.to_owned())), "{name}");
        }
        for name in [
            "",
            "/",
            "chroma.sqlite3/",
            "CHROMA.SQLITE3",
            "chroma.sqlite3.bak",
            "header.bin",
            "x/header.bin",
            &format!("{}/header.bin", ID.to_uppercase()),
            &format!("{ID}/other.bin"),
            &format!("{ID}/chroma/x"),
        ] {
            assert_eq!(Named::parse(name.as_bytes()), Named::Other, "{name}");
        }
        for name in ["../chroma.sqlite3", "a/../../chroma.sqlite3", "a\\chroma.sqlite3", ".."] {
            assert_eq!(Named::parse(name.as_bytes()), Named::Hostile, "{name}");
        }
        assert_eq!(Named::parse(b"\xff\xfe/chroma.sqlite3"), Named::Other);
        assert_eq!(Named::parse(&[b'a'; 5000]), Named::Other);
    }

    proptest! {
        #[test]
        fn no_name_gives_a_path_that_leads_anywhere(name in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Named::Of(place) = Named::parse(&name) {
                prop_assert!(place.path.split('/').count() <= 2);
                prop_assert!(!place.path.starts_with('/') && !place.path.contains(".."));
            }
        }
    }
}
