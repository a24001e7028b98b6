//! What is in a backup, by the names in it: the database, and the index folders of the segments.

use std::collections::BTreeMap;

use crate::format::{
    hnsw::{FILES, LINKS_FILE},
    sqlite::{SUFFIXES, WAL_SUFFIX},
    uuid::{Uuid, parse_uuid},
};

/// Names of what is in a backup, as far as they matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Holds {
    /// Whether a database, or a dump of one, is in it.
    pub(super) database: bool,
    /// Whether a write-ahead log with bytes is in it.
    pub(super) log: bool,
    /// Which files of an index each folder has, a bit for each of [`FILES`].
    folders: BTreeMap<Uuid, u8>,
}

impl Holds {
    /// Nothing but a database: a plain copy of the file, or a dump.
    pub(super) fn database_alone() -> Self {
        Self { database: true, log: false, folders: BTreeMap::new() }
    }

    /// Takes in a regular file of so many bytes; `path` has slashes between its parts.
    pub(super) fn note(&mut self, path: &[u8], bytes: u64) {
        let mut parts = path.rsplit(|byte| *byte == b'/');
        let name = parts.next().unwrap_or_default();
        self.database |= is_database(name);
        self.log |= bytes > 0 && name.ends_with(WAL_SUFFIX.as_bytes());
        let Some(folder) = parts.next().and_then(parse_uuid) else { return };
        let Some(at) = FILES.iter().position(|file| file.as_bytes() == name) else { return };
        // Vectors of the lowest layer alone have no links.
        if bytes > 0 || FILES[at] == LINKS_FILE {
            if self.folders.len() >= FOLDERS_MAX && !self.folders.contains_key(&folder) {
                return;
            }
            *self.folders.entry(folder).or_default() |= 1 << at;
        }
    }

    /// Whether the folder of a segment is in it with all files of an index.
    pub(super) fn folder(&self, segment: Uuid) -> bool {
        self.folders.get(&segment).is_some_and(|files| *files == ALL_FILES)
    }

    /// Whether any index is in it.
    pub(super) fn any_folder(&self) -> bool {
        self.folders.values().any(|files| *files == ALL_FILES)
    }
}

/// Whether a file of this name may be a database, or a dump of one.
fn is_database(name: &[u8]) -> bool {
    let beside = SUFFIXES.iter().any(|suffix| name.ends_with(suffix.as_bytes()));
    let has = |word: &[u8]| name.windows(word.len()).any(|part| part == word);
    !beside && (has(b".sqlite") || has(b".db") || has(b".sql"))
}

const ALL_FILES: u8 = (1 << FILES.len()) - 1;
/// As many as are looked at in a store.
const FOLDERS_MAX: usize = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_there_when_all_files_of_an_index_are() {
        let id = "3f2504e0-4f89-41d3-9a0c-0305e82c3301";
        let uuid = parse_uuid(id.as_bytes()).unwrap();
        let mut holds = Holds::default();
        for file in FILES {
            assert!(!holds.folder(uuid) && !holds.any_folder(), "{file}");
            let bytes = u64::from(file != LINKS_FILE);
            holds.note(format!("./srv/chroma/{id}/{file}").as_bytes(), bytes);
        }
        assert!(holds.folder(uuid) && holds.any_folder() && !holds.database);
        assert!(!holds.folder(uuid + 1));
        holds.note(b"srv/chroma/chroma.sqlite3-journal", 512);
        assert!(!holds.database);
        holds.note(b"chroma.sqlite3-wal", 0);
        assert!(!holds.log, "nothing is in it");
        holds.note(b"chroma.sqlite3-wal", 4152);
        assert!(holds.log && !holds.database);
        holds.note(b"chroma.sqlite3", 512);
        assert!(holds.database);
    }

    #[test]
    fn empty_files_and_files_elsewhere_are_no_index() {
        let id = "3f2504e0-4f89-41d3-9a0c-0305e82c3301";
        let mut holds = Holds::default();
        for file in FILES {
            holds.note(format!("{id}/{file}").as_bytes(), 0);
            holds.note(format!("{id}/old/{file}").as_bytes(), 9);
            holds.note(format!("{id}.old/{file}").as_bytes(), 9);
            holds.note(file.as_bytes(), 9);
        }
        assert!(!holds.any_folder());
    }
}
