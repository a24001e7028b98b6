//! The files of a store, and a copy of them.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

use chroma_format::uuid::parse_uuid;

use crate::{
    repair::{
        moment::{self, MomentError},
        proof,
        steps::Steps,
    },
    store::{
        DATABASE_FILE,
        database::{Stamp, open_bytes},
        holes::Holes,
    },
};

/// Every file of Chroma's in a store as it is at one moment, and the folders that they are in. Two that are equal are of a store that
/// nobody wrote to in between.
#[derive(Debug)]
pub(super) struct Inventory {
    folders: Vec<PathBuf>,
    files: Vec<(PathBuf, Stamp)>,
    /// Bytes on the disk.
    bytes: u64,
}

/// Copies one moment of a store that somebody uses, into the directory `to`. Files of no segment are left out. Errs when there is
/// no such moment, or when the filesystem would be too full.
pub(super) fn beside_its_server(store: &Path, to: &Path, steps: &Steps) -> Result<(), MomentError> {
    let context = proof::context_of(store);
    let copy_options = moment::CopyOptions { used_ratio_max: moment::PASSING_RATIO_MAX, steps };
    moment::take(&context, to, None, copy_options).map(|_| ())
}

/// What the files take on the disk is left out: a filesystem gives a file its blocks some seconds after it was written.
impl PartialEq for Inventory {
    fn eq(&self, other: &Self) -> bool {
        (&self.folders, &self.files) == (&other.folders, &other.files)
    }
}

impl Inventory {
    /// Errs when there is something that is no file where the database belongs, or no folder where an index belongs.
    pub(super) fn of(store: &Path) -> io::Result<Self> {
        let mut all = Self { folders: Vec::new(), files: Vec::new(), bytes: 0 };
        for entry in fs::read_dir(store)? {
            let entry = entry?;
            let name = PathBuf::from(entry.file_name());
            let text = name.to_str().unwrap_or_default();
            if matches!(text.strip_prefix(DATABASE_FILE), Some("" | "-journal" | "-wal")) {
                all.add(store, name)?;
            } else if parse_uuid(text.as_bytes()).is_some() {
                if !entry.file_type()?.is_dir() {
                    return Err(odd(&entry.path(), "a folder"));
                }
                for inner in fs::read_dir(entry.path())? {
                    let inner = inner?;
                    // What is no file is none of an index, which is written anew without it.
                    if inner.file_type()?.is_file() {
                        all.add(store, name.join(inner.file_name()))?;
                    }
                }
                all.folders.push(name);
            }
        }
        all.folders.sort_unstable();
        all.files.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        Ok(all)
    }

    fn add(&mut self, store: &Path, name: PathBuf) -> io::Result<()> {
        let path = store.join(&name);
        let meta = fs::symlink_metadata(&path)?;
        if !meta.is_file() {
            return Err(odd(&path, "a file"));
        }
        self.bytes = self.bytes.saturating_add(meta.len().min(meta.blocks().saturating_mul(512)));
        self.files.push((name, Stamp::of(&meta)));
        Ok(())
    }

    /// Bytes that a copy needs at most, with a database that is written anew beside it, and what SQLite sorts meanwhile.
    pub(super) fn needed(&self) -> u64 {
        let database = self.files.iter().find(|(name, _)| name == Path::new(DATABASE_FILE));
        let database = database.map_or(0, |(_, stamp)| stamp.size_bytes);
        self.bytes.saturating_add(database.saturating_mul(2))
    }

    /// Copies everything from `store` to `dir`, which is there. Holes stay holes. Errs when it is stopped too.
    pub(super) fn copy(&self, store: &Path, dir: &Path, steps: &Steps) -> io::Result<()> {
        steps.begin("copying the store", Some(self.bytes));
        for folder in &self.folders {
            fs::create_dir_all(dir.join(folder))?;
        }
        for (name, _) in &self.files {
            file(&store.join(name), &dir.join(name), steps)?;
        }
        Ok(())
    }
}

fn odd(path: &Path, wanted: &str) -> io::Error {
    io::Error::other(format!("{} is no {}", path.display(), wanted.trim_start_matches("a ")))
}

fn file(from: &Path, to: &Path, steps: &Steps) -> io::Result<()> {
    let from = open_bytes(from)?;
    let to = File::create_new(to)?;
    let size = from.metadata()?.len();
    let mut holes = Holes::of(&from);
    let mut buffer = vec![0; CHUNK];
    let mut at = 0;
    while at < size {
        if steps.stopped() {
            return Err(io::Error::from(io::ErrorKind::Interrupted));
        }
        at = holes.data_from(at);
        if at >= size {
            break;
        }
        let read = match from.read_at(&mut buffer, at) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        to.write_all_at(&buffer[..read], at)?;
        at += read as u64;
        steps.add(read as u64);
    }
    to.set_len(size)
}

const CHUNK: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const FOLDER: &str = "3fa85f64-5717-4562-b3fc-2c963f66afa6";

    #[test]
    fn what_is_chromas_is_copied_with_its_holes_and_nothing_else_is() {
        let scratch = tempfile::tempdir().unwrap();
        let (store, to) = (scratch.path().join("store"), scratch.path().join("to"));
        fs::create_dir_all(store.join(FOLDER)).unwrap();
        fs::create_dir(&to).unwrap();
        fs::write(store.join(DATABASE_FILE), "database").unwrap();
        fs::write(store.join("notes.txt"), "mine").unwrap();
        let sparse = File::create(store.join(FOLDER).join("link_lists.bin")).unwrap();
        sparse.write_all_at(b"links", 0).unwrap();
        sparse.set_len(1 << 40).unwrap();
        let inventory = Inventory::of(&store).unwrap();
        assert!(inventory.needed() < 1 << 20, "{}", inventory.needed());
        inventory.copy(&store, &to, &Steps::default()).unwrap();
        let copy = fs::metadata(to.join(FOLDER).join("link_lists.bin")).unwrap();
        assert!(copy.len() == 1 << 40 && copy.blocks() < 1 << 12, "{copy:?}");
        assert_eq!(fs::read(to.join(DATABASE_FILE)).unwrap(), b"database");
        assert!(!to.join("notes.txt").exists());
        fs::create_dir(store.join(FOLDER).join("header.bin")).unwrap();
        assert_eq!(Inventory::of(&store).unwrap(), inventory, "what is no file counts");
        fs::write(store.join(FOLDER).join("data_level0.bin"), vec![1; 4 << 20]).unwrap();
        let inventory = Inventory::of(&store).unwrap();
        File::open(store.join(FOLDER).join("data_level0.bin")).unwrap().sync_all().unwrap();
        assert_eq!(Inventory::of(&store).unwrap(), inventory, "its blocks come later");
        fs::write(store.join(DATABASE_FILE), "another!").unwrap();
        assert_ne!(Inventory::of(&store).unwrap(), inventory);
        fs::remove_file(store.join(DATABASE_FILE)).unwrap();
        symlink("/etc/passwd", store.join(DATABASE_FILE)).unwrap();
        assert!(Inventory::of(&store).unwrap_err().to_string().ends_with("is no file"));
    }
}
