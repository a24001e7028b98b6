//! Writing the files of a store into scratch: only those, each as long as it can be at most, with its holes.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Seek, SeekFrom, Write},
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::{Cannot, UnpackError, scratch::room, source::Source};
use crate::{
    clock::Timestamp,
    format::{
        hnsw::{
            HEADER_FILE, HEADER_LEN as INDEX_HEADER_LEN, Header, LENGTHS_FILE, LEVEL0_FILE,
            LINKS_FILE,
        },
        manifest,
        parts::{INDEX_FILES, Part, Place},
        sqlite::{HEADER_LEN, SqliteHeader},
    },
    host::kernel,
    human,
};

/// One store of an archive.
#[derive(Debug, Default)]
pub(super) struct StoreSeen {
    /// Directories before it in the archive.
    pub(super) prefix: String,
    /// Where it was written to.
    pub(super) dir: PathBuf,
    /// Every file by its path below the store.
    pub(super) files: BTreeMap<String, FileSeen>,
    folders: usize,
}

/// One file as it came out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FileSeen {
    /// Length that the archive states.
    pub(super) bytes: u64,
    /// SHA-256 of what came out; `None` where nobody asked.
    pub(super) sha256: Option<String>,
    /// When it was changed, as the archive says.
    pub(super) modified: Option<Timestamp>,
}

/// Where files go.
pub(super) struct Sink {
    root: PathBuf,
    only: Option<String>,
    pub(super) stores: Vec<StoreSeen>,
    /// What is no part of a store, in words.
    pub(super) damage: Vec<String>,
    /// How many names led out of the archive; how many entries are links or devices of our names.
    pub(super) hostile: u64,
    /// The first of these.
    pub(super) unrecognised: Vec<String>,
    hash: bool,
    room: u64,
    until_asked: u64,
    zeros_left: u64,
    buffer: Vec<u8>,
    /// Whether the files are to stay: then the disk begins with them at once.
    stays: bool,
}

impl Sink {
    /// Writes below `root`; of several stores only that whose prefix ends with `only`. `stays` says that the files will be kept.
    /// Errs when its filesystem does not say how much is free.
    pub(super) fn new(root: &Path, only: Option<&str>, stays: bool) -> Result<Self, UnpackError> {
        let free = room(root)
            .map_err(|source| UnpackError::Unreadable { path: root.to_owned(), source })?;
        Ok(Self {
            root: root.to_owned(),
            only: only.map(|only| only.trim_matches('/').to_owned()),
            stores: Vec::new(),
            damage: Vec::new(),
            hostile: 0,
            unrecognised: Vec::new(),
            hash: false,
            room: free,
            until_asked: ROOM_ASKED_EVERY,
            zeros_left: ZEROS_MAX,
            buffer: vec![0; CHUNK],
            stays,
        })
    }

    /// Whether a file of this place is wanted.
    pub(super) fn wants(&self, place: &Place) -> bool {
        let Some(only) = &self.only else { return true };
        let before = place.prefix.strip_suffix(only.as_str());
        before.is_some_and(|before| before.is_empty() || before.ends_with('/'))
    }

    /// Notes an entry with one of our names that is no regular file.
    pub(super) fn unrecognised(&mut self, path: &str, what: &str) {
        if self.unrecognised.len() < UNRECOGNISED_MAX {
            self.unrecognised.push(format!("{path} is {what} in it, and was left out"));
        }
    }

    /// Writes all that comes out of `source` as one file. Errs when it cannot be unpacked or written, or there is no room.
    pub(super) fn write_all(
        &mut self,
        source: &mut impl Source,
        place: &Place,
    ) -> Result<bool, UnpackError> {
        self.put_file(source, place, None, None).map(|_| true)
    }

    /// Writes one file of `bytes` bytes from `source`, which stands at its first byte. `false` when the source ends within it.
    /// Errs when it cannot be unpacked or written, or there is no room.
    pub(super) fn write(
        &mut self,
        source: &mut impl Source,
        place: &Place,
        bytes: u64,
        modified: Option<Timestamp>,
    ) -> Result<bool, UnpackError> {
        self.put_file(source, place, Some(bytes), modified)
    }

    /// `None` for a length that nobody knows. Errs when it cannot be unpacked or written, there is no room, or there are too many files.
    fn put_file(
        &mut self,
        source: &mut impl Source,
        place: &Place,
        stated: Option<u64>,
        modified: Option<Timestamp>,
    ) -> Result<bool, UnpackError> {
        let bytes = stated.unwrap_or(u64::MAX);
        let store = self.store(&place.prefix)?;
        let dir = self.stores[store].dir.clone();
        let path = dir.join(&place.path);
        let failed = |source| UnpackError::Scratch { path: path.clone(), source };
        if let Part::Index(_) = place.part {
            let folder = path.parent().unwrap_or(&dir);
            if !folder.exists() {
                let seen = &mut self.stores[store];
                seen.folders += 1;
                if seen.folders > FOLDERS_MAX {
                    return Err(UnpackError::Refused(format!(
                        "it has more than {FOLDERS_MAX} folders of indexes"
                    )));
                }
                fs::create_dir(folder).map_err(failed)?;
            }
        }
        if stated.is_some_and(|bytes| bytes > self.room.saturating_add(ZEROS_MAX)) {
            return Err(self.no_room(bytes));
        }
        if self.stores[store].files.contains_key(&place.path) {
            self.damage.push(format!(
                "{} is in it twice, and the last one counts, as with tar",
                human::plain(&place.path)
            ));
        }
        self.hash |= place.part == Part::Manifest;
        let mut file = File::create(&path).map_err(failed)?;
        let mut hash = self.hash.then(Sha256::new);
        let mut buffer = std::mem::take(&mut self.buffer);
        let (mut at, mut most) = (0_u64, Self::most(&dir, place, bytes));
        let mut begun = 0;
        let mut whole = true;
        while at < bytes {
            let want = usize::try_from(bytes - at).unwrap_or(CHUNK).min(CHUNK);
            let read = source.fill(&mut buffer[..want]).map_err(Cannot::read)?;
            let data = &buffer[..read];
            if at == 0 && place.part == Part::Database {
                most = database_most(data, bytes);
            }
            if at < most {
                let fits = usize::try_from(most - at).unwrap_or(read).min(read);
                self.put(&mut file, &data[..fits]).map_err(|error| match error {
                    Put::Io(source) => failed(source),
                    Put::NoRoom if stated.is_none() => self.no_room(self.room.saturating_add(1)),
                    Put::NoRoom => self.no_room(bytes - at),
                    Put::Zeros => UnpackError::Refused(format!(
                        "more than {} of it are zeros, which no store has",
                        human::bytes(ZEROS_MAX)
                    )),
                })?;
            }
            if let Some(hash) = &mut hash {
                hash.update(data);
            }
            at += read as u64;
            if self.stays && at - begun >= WRITEBACK_BYTES {
                kernel::begin_writing(file.as_fd(), begun, at - begun);
                begun = at;
            }
            if read < want {
                whole = false;
                break;
            }
        }
        self.buffer = buffer;
        file.set_len(at.min(most)).map_err(failed)?;
        if at > most {
            self.damage.push(format!(
                "{} has {}, and at most {} of it can be its own: the rest was left out",
                human::plain(&place.path),
                human::bytes(at),
                human::bytes(most)
            ));
        }
        let sha256 = hash.map(|hash| human::hex(&hash.finalize()));
        let seen = FileSeen { bytes: at, sha256, modified };
        self.stores[store].files.insert(place.path.clone(), seen);
        Ok(whole)
    }

    /// The store of a prefix. Errs when there are too many, or its directory cannot be made.
    fn store(&mut self, prefix: &str) -> Result<usize, UnpackError> {
        if let Some(known) = self.stores.iter().position(|store| store.prefix == prefix) {
            return Ok(known);
        }
        if self.stores.len() >= STORES_MAX {
            return Err(UnpackError::Refused(format!(
                "it has files of stores in more than {STORES_MAX} places; name one with --path"
            )));
        }
        let dir = self.root.join(format!("store-{}", self.stores.len()));
        fs::create_dir(&dir)
            .map_err(|source| UnpackError::Scratch { path: dir.clone(), source })?;
        self.stores.push(StoreSeen { prefix: prefix.to_owned(), dir, ..StoreSeen::default() });
        Ok(self.stores.len() - 1)
    }

    /// The most bytes that a file can have of its own.
    fn most(dir: &Path, place: &Place, bytes: u64) -> u64 {
        match place.part {
            Part::Manifest => manifest::BYTES_MAX,
            Part::Database | Part::Journal | Part::Wal => bytes,
            Part::Index(number) => {
                let folder = place.path.split('/').next().unwrap_or_default();
                index_most(&dir.join(folder), number).unwrap_or(bytes)
            }
        }
    }

    /// Writes what is not zero, and leaves a hole for the rest.
    /// Errs when it cannot be written, there is no room, or too much of it is zero.
    fn put(&mut self, file: &mut File, data: &[u8]) -> Result<(), Put> {
        for block in data.chunks(HOLE) {
            let bytes = block.len() as u64;
            if block.len() == HOLE && block == ZEROS {
                self.zeros_left = self.zeros_left.checked_sub(bytes).ok_or(Put::Zeros)?;
                file.seek(SeekFrom::Current(HOLE_STEP)).map_err(Put::Io)?;
                continue;
            }
            self.room = self.room.checked_sub(bytes).ok_or(Put::NoRoom)?;
            self.until_asked = self.until_asked.saturating_sub(bytes);
            if self.until_asked == 0 {
                // Others write to this disk as well.
                self.until_asked = ROOM_ASKED_EVERY;
                self.room = self.room.min(room(&self.root).map_err(Put::Io)?);
            }
            // As many zeros as there is data may come on top.
            self.zeros_left = self.zeros_left.saturating_add(bytes).min(ZEROS_MAX);
            file.write_all(block).map_err(Put::Io)?;
        }
        Ok(())
    }

    fn no_room(&self, needs: u64) -> UnpackError {
        let place = self.root.parent().unwrap_or(&self.root).to_owned();
        UnpackError::NoRoom { place, needs, room: self.room }
    }
}

enum Put {
    Io(io::Error),
    NoRoom,
    Zeros,
}

/// The most that a database can have, by its first bytes. What no transaction has confirmed may stand behind its stated end.
fn database_most(first: &[u8], bytes: u64) -> u64 {
    match first.get(..HEADER_LEN).map(SqliteHeader::parse) {
        Some(Ok(header)) => match header.stated_bytes() {
            Some(stated) => stated.saturating_mul(2).saturating_add(UNCONFIRMED).min(bytes),
            None => bytes,
        },
        _ => NO_DATABASE.min(bytes),
    }
}

/// The most that a file of an index can have, when its header came before it and is sound.
fn index_most(folder: &Path, number: usize) -> Option<u64> {
    let name = INDEX_FILES[number];
    if name == HEADER_FILE {
        return Some(HEADER_MOST);
    }
    let bytes = fs::read(folder.join(HEADER_FILE)).ok()?;
    let header = Header::parse(bytes.get(..INDEX_HEADER_LEN)?).ok()?;
    let room = header.max_elements.saturating_mul(16).max(20_000);
    let most = match name {
        LEVEL0_FILE => room.saturating_mul(header.element_bytes),
        LENGTHS_FILE => room.saturating_mul(4),
        // The runaway of Chroma's own stays seen: its beginning is kept, and more than can be right.
        LINKS_FILE => header.links_bytes_max().saturating_mul(2),
        _ => room.saturating_mul(4096),
    };
    Some(most.saturating_add(SLACK))
}

const CHUNK: usize = 256 * 1024;
/// As much as a disk writes at once.
const WRITEBACK_BYTES: u64 = 4 << 20;
const HOLE: usize = 64 * 1024;
const HOLE_STEP: i64 = 64 * 1024;
static ZEROS: [u8; HOLE] = [0; HOLE];
/// Zeros in a row of all files, beside as many as there is data.
const ZEROS_MAX: u64 = 8 << 30;
const ROOM_ASKED_EVERY: u64 = 64 << 20;
const FOLDERS_MAX: usize = 20_000;
const STORES_MAX: usize = 64;
const UNRECOGNISED_MAX: usize = 20;
const HEADER_MOST: u64 = 64 * 1024;
/// More than what `hnsw` lets pass, so that it sees what is too long.
const SLACK: u64 = 4 << 20;
const UNCONFIRMED: u64 = 256 << 20;
/// Of what is no database only the beginning is kept.
const NO_DATABASE: u64 = 1 << 20;
