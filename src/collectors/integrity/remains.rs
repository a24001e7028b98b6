//! What lies in a persist directory beside the database: the folders of HNSW segments, which stay when the database is
//! lost. Only asked for when the database is missing, empty or lists nothing.

use std::{fs, io, path::Path};

use crate::{
    format::{
        hnsw::{FILES, HEADER_FILE},
        uuid::is_segment_name,
    },
    host::links::Place,
    store::database::{is_absent as absent, open_bytes, read_up_to},
};

/// The segment folders and other entries of a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Remains {
    /// Folders with the name of a segment and a `header.bin`, and those of which nobody can say whether they have one.
    pub(super) folders: u32,
    /// The latter: they may not be looked into.
    pub(super) unreadable: u32,
    /// The names of those whose header counts at least one vector.
    pub(super) with_vectors: Vec<String>,
    /// Folders with the name of a segment and some other file of an index.
    pub(super) torn: u32,
    /// Vectors in them, deleted ones included, as far as the headers are to be believed.
    pub(super) vectors: u64,
    /// Files of Chroma 0.3 and older.
    pub(super) ancient: bool,
    /// All entries.
    pub(super) entries: u32,
}

impl Remains {
    /// Looks at the entries of the directory, at most [`ENTRIES_MAX`]. Errs when the directory cannot be read.
    pub(super) fn of(place: &Place) -> io::Result<Self> {
        let mut remains = Self::default();
        for entry in fs::read_dir(place.dir())?.take(ENTRIES_MAX) {
            let entry = entry?;
            remains.entries += 1;
            let Ok(name) = entry.file_name().into_string() else { continue };
            remains.ancient |= ANCIENT.contains(&name.as_str());
            if !is_segment_name(name.as_bytes()) {
                continue;
            }
            let at = |file: &str| place.at(Path::new(&name).join(file));
            let vectors = match at(HEADER_FILE).and_then(|header| vectors_of(&header)) {
                Ok(Some(vectors)) => vectors,
                Ok(None) => {
                    let has = |file: &&str| at(file).is_ok_and(|path| path.is_file());
                    remains.torn += u32::from(FILES.iter().any(has));
                    continue;
                }
                Err(_) => {
                    remains.unreadable += 1;
                    0
                }
            };
            remains.folders += 1;
            if vectors > 0 {
                remains.vectors = remains.vectors.saturating_add(vectors);
                remains.with_vectors.push(name);
            }
        }
        Ok(remains)
    }

    /// In words, for the evidence.
    pub(super) fn describe(&self) -> String {
        let unreadable = match self.unreadable {
            0 => String::new(),
            count => format!("; {count} of them may not be looked into"),
        };
        let reported = match (self.folders, self.with_vectors.len()) {
            (0, _) if self.torn > 0 => {
                format!("{} segment folder(s) without header.bin are there", self.torn)
            }
            (0, _) => "no segment folder is there".to_owned(),
            (folders, 0) => {
                format!("{folders} segment folder(s) without flushed vectors are there")
            }
            (folders, full) => format!(
                "{folders} segment folder(s) are there, {full} of them with {} vectors",
                self.vectors
            ),
        };
        reported + &unreadable
    }
}

/// `cur_element_count` of an HNSW header (hnswlib: 64 bits little-endian at byte 20 of 100); `None` without such a file.
/// Nothing else in it is checked here. Errs when it may not be read.
fn vectors_of(header: &Path) -> io::Result<Option<u64>> {
    let mut head = [0; 28];
    let file = match open_bytes(header) {
        Ok(file) => file,
        Err(error) if absent(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let whole = read_up_to(&file, &mut head, 0)? == head.len();
    Ok(Some(head.last_chunk().filter(|_| whole).map_or(0, |count| u64::from_le_bytes(*count))))
}

/// What Chroma before 0.4 kept its data in.
const ANCIENT: [&str; 3] =
    ["chroma-collections.parquet", "chroma-embeddings.parquet", "chroma.duckdb"];

/// Most entries that are looked at: evidence needs no more.
const ENTRIES_MAX: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_an_absolute_link_is_looked_for_below_the_root_of_its_host() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let rootfs = root.join("host");
        let store = rootfs.join("srv/store");
        let (here, there) = (root.join("segment"), rootfs.join(root.strip_prefix("/").unwrap()));
        for folder in [&store, &here, &there.join("segment")] {
            fs::create_dir_all(folder).unwrap();
        }
        let mut head = vec![0; 100];
        for (folder, vectors) in [(here.clone(), 7_u64), (there.join("segment"), 240)] {
            head[20..28].copy_from_slice(&vectors.to_le_bytes());
            fs::write(folder.join("header.bin"), &head).unwrap();
        }
        let name = "0d2b7a0c-1111-4222-8333-944455556666";
        std::os::unix::fs::symlink(&here, store.join(name)).unwrap();
        let vectors = |place: &Place| Remains::of(place).unwrap().vectors;
        assert_eq!(vectors(&Place::new(&rootfs, &store)), 240);
        assert_eq!(vectors(&Place::own(&store)), 7);
    }

    #[test]
    fn segment_folders_are_told_from_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let folder = |name: &str, count: Option<u64>| {
            let folder = dir.path().join(name);
            fs::create_dir(&folder).unwrap();
            if let Some(count) = count {
                let mut head = vec![0; 100];
                head[20..28].copy_from_slice(&count.to_le_bytes());
                fs::write(folder.join("header.bin"), head).unwrap();
            }
        };
        assert_eq!(Remains::of(&Place::own(dir.path())).unwrap(), Remains::default());
        folder("0d2b7a0c-1111-4222-8333-944455556666", Some(240));
        folder("1d2b7a0c-1111-4222-8333-944455556666", Some(0));
        folder("2d2b7a0c-1111-4222-8333-944455556666", None);
        folder("some-other-folder", Some(7));
        let pickle = dir.path().join("2d2b7a0c-1111-4222-8333-944455556666/index_metadata.pickle");
        fs::write(pickle, b"").unwrap();
        fs::write(dir.path().join("chroma-collections.parquet"), b"PAR1").unwrap();
        let remains = Remains::of(&Place::own(dir.path())).unwrap();
        assert_eq!((remains.folders, remains.vectors, remains.entries), (2, 240, 5));
        assert_eq!(remains.with_vectors, ["0d2b7a0c-1111-4222-8333-944455556666"]);
        assert!(remains.ancient);
        assert_eq!(remains.torn, 1);
    }
}
