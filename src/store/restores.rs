//! What restores have left beside a store or in it: the folder of each, and the record in it. Only read here; [`crate::repair`] makes
//! and moves them.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use crate::{clock::Timestamp, format::manifest::rfc3339};

/// What is written in `restore.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// See [`FORMAT`].
    pub format: u32,
    /// Program and version that wrote it.
    pub by: String,
    /// How far it is.
    pub state: State,
    /// Whether it is an undo, by which the old content goes back.
    #[serde(default)]
    pub undo: bool,
    /// The directory of the store.
    pub store: PathBuf,
    /// What was restored, as it was named; of a repair the command.
    pub backup: String,
    /// What the new content is.
    #[serde(default)]
    pub came: Origin,
    /// What a repair did to it, in words.
    #[serde(default)]
    pub done: Vec<String>,
    /// When it began.
    #[serde(with = "rfc3339")]
    pub began: Timestamp,
    /// When the state was last written.
    #[serde(with = "rfc3339")]
    pub changed: Timestamp,
    /// How the content is exchanged.
    #[serde(default)]
    pub way: Way,
    /// Whether there was a database before.
    #[serde(default)]
    pub had_database: bool,
    /// Names in the store, the database apart, that go out.
    #[serde(default)]
    pub out: Vec<String>,
    /// Names of the new content, the database apart.
    #[serde(default)]
    pub into: Vec<String>,
    /// Names in the store that are not Chroma's and stay where they are.
    #[serde(default)]
    pub kept: Vec<String>,
    /// How far the queue of the restored database was, to notice what was written since.
    #[serde(default)]
    pub mark: Option<Mark>,
    /// What came back.
    #[serde(default)]
    pub collections: Vec<Came>,
}

/// How far a restore is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The new content is being written; the store is untouched.
    Staging,
    /// The content is being exchanged.
    Swapping,
    /// The backup is in place, and what was there before is in `old`.
    Restored,
    /// What was there before is in place again, and what was restored is in `undone`.
    Undone,
}

/// What the new content of a store is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A backup.
    #[default]
    Backup,
    /// What was there before, repaired.
    Repair,
    /// Nothing: Chroma begins a new store.
    Nothing,
}

/// How the content of a store is exchanged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// Two directories change places, in one call of the system.
    #[default]
    Directory,
    /// File by file, while the database cannot be opened.
    Files,
    /// There was no directory.
    Fresh,
}

/// A moment of a database that grows with every write and with nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Largest number in the queue of writes.
    pub queue: Option<i64>,
    /// Ids and names of the collections, sorted.
    pub collections: Vec<(String, String)>,
}

/// A collection that came back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Came {
    /// Its name.
    pub name: String,
    /// Its records.
    pub records: u64,
    /// Those with a vector.
    pub vectors: u64,
}

impl Record {
    /// The folder of what goes in.
    #[must_use]
    pub const fn incoming(&self) -> &'static str {
        if self.undo { OLD } else { NEW }
    }

    /// The folder of what goes out.
    #[must_use]
    pub const fn outgoing(&self) -> &'static str {
        if self.undo { UNDONE } else { OLD }
    }

    /// Reads it. What it names are single names: whoever may write here must not lead anybody elsewhere.
    /// Errs when it is no such record, is of a newer release, or names what is no single name.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, RecordError> {
        let record: Self = serde_json::from_slice(bytes).map_err(RecordError::Json)?;
        if record.format > FORMAT {
            return Err(RecordError::Newer { found: record.format });
        }
        let named = [&record.out, &record.into, &record.kept];
        let bad = named.into_iter().flatten().find(|name| !is_name(name)).cloned();
        bad.map_or(Ok(record), |name| Err(RecordError::Name { name }))
    }
}

/// Why a folder that has the name of one of a restore cannot be told to be one.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The operating system does not give it.
    #[error("{RECORD_FILE} cannot be read")]
    Unreadable(#[source] io::Error),
    /// Something else has its name.
    #[error(
        "{RECORD_FILE} is {found}, and a regular file of at most {RECORD_BYTES_MAX} bytes was expected"
    )]
    NotOurs {
        /// What it is.
        found: String,
    },
    /// It is not what this program writes.
    #[error("{RECORD_FILE} is not the record of a restore")]
    Json(#[source] serde_json::Error),
    /// A later version of this program wrote it.
    #[error("{RECORD_FILE} has format {found}, and {FORMAT} is the newest that is known")]
    Newer {
        /// Its format.
        found: u32,
    },
    /// A name in it leads elsewhere.
    #[error("{RECORD_FILE} names {name:?}, which is no name of a file")]
    Name {
        /// The name.
        name: String,
    },
}

impl RecordError {
    /// What to do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "run this as root or as the owner of the store",
            Self::Newer { .. } => "use the version of this program that made the restore",
            Self::NotOurs { .. } | Self::Json(_) | Self::Name { .. } => {
                "look into the folder; when nothing in it is missed, move it away"
            }
        }
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0'])
}

/// Such a folder, with what is written in it.
#[derive(Debug, Clone)]
pub struct Found {
    /// Where it is.
    pub path: PathBuf,
    /// Whether it stands in the store itself.
    pub inside: bool,
    /// What it says of itself.
    pub record: Record,
}

/// The name after a restore of the folder with this name during one.
pub(crate) fn kept_name(name: &OsStr) -> Option<OsString> {
    let name = name.as_bytes();
    let (word, kept) = (format!(".{WORKING}."), format!(".{KEPT}."));
    let at = name.windows(word.len()).rposition(|part| part == word.as_bytes())?;
    let (before, stamp) = (&name[..at], &name[at + word.len()..]);
    // Beside a store it was hidden; inside it stays so.
    let before = if before == INSIDE.as_bytes() { before } else { before.strip_prefix(b".")? };
    Some(OsString::from_vec([before, kept.as_bytes(), stamp].concat()))
}

impl Found {
    /// Whether a restore works in it, or one that did has not come to its end.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        match self.record.state {
            State::Staging | State::Swapping => true,
            State::Restored | State::Undone => self.path.file_name().and_then(kept_name).is_some(),
        }
    }

    /// Whether a restore works in it at this moment; `None` where that cannot be told. The lock of the folder, which a restore
    /// holds, is asked for and given back at once.
    #[must_use]
    pub fn is_at_work(&self) -> Option<bool> {
        let dir = fs::File::open(&self.path).ok()?;
        match flock(&dir, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Some(false),
            Err(Errno::WOULDBLOCK) => Some(true),
            Err(_) => None,
        }
    }
}

/// What stands in place of a database while a restore exchanges its files: a link to the directory itself, which nobody can open.
#[must_use]
pub fn is_gate(database: &Path) -> bool {
    fs::read_link(database).is_ok_and(|to| to == Path::new("."))
}

/// The folders of a store, newest first, and those that cannot be read, with the reason.
#[must_use]
pub fn all(store: &Path) -> (Vec<Found>, Vec<(PathBuf, RecordError)>) {
    find(store, |record, _| record.store == *store)
}

/// The folders of the store that is seen at `dir`, newest first. It may have another path where the restore ran, as in a container: a
/// folder beside it counts by the name of the store. Those that cannot be read are left out.
#[must_use]
pub fn seen(dir: &Path) -> Vec<Found> {
    find(dir, |record, inside| inside || record.store.file_name() == dir.file_name()).0
}

fn find(
    store: &Path,
    is_of: impl Fn(&Record, bool) -> bool,
) -> (Vec<Found>, Vec<(PathBuf, RecordError)>) {
    let (mut found, mut unread) = (Vec::new(), Vec::new());
    let name = store.file_name().unwrap_or_default().as_bytes();
    let mut collect = |dir: &Path, inside: bool, prefixes: [Vec<u8>; 2]| {
        let Ok(entries) = fs::read_dir(dir) else { return };
        for entry in entries.filter_map(Result::ok) {
            let named = entry.file_name();
            let fits = prefixes.iter().any(|prefix| named.as_bytes().starts_with(prefix));
            // Never through a link: whoever may write here must not lead us elsewhere.
            if !fits || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let path = entry.path();
            match read_record(&path) {
                Ok(record) if is_of(&record, inside) => {
                    found.push(Found { path, inside, record });
                }
                Ok(_) => {}
                Err(why) => unread.push((path, why)),
            }
        }
    };
    let prefix = |dot: &str, name: &[u8], word: &str| {
        [dot.as_bytes(), name, b".", word.as_bytes(), b"."].concat()
    };
    if let Some(parent) = store.parent() {
        collect(parent, false, [prefix(".", name, WORKING), prefix("", name, KEPT)]);
    }
    let own = INSIDE.as_bytes();
    collect(store, true, [prefix("", own, WORKING), prefix("", own, KEPT)]);
    // The path tells apart what began in one second.
    found.sort_by(|a, b| {
        let key = |one: &Found| (one.record.began, one.path.clone());
        key(b).cmp(&key(a))
    });
    (found, unread)
}

fn read_record(dir: &Path) -> Result<Record, RecordError> {
    let path = dir.join(RECORD_FILE);
    let meta = fs::symlink_metadata(&path).map_err(RecordError::Unreadable)?;
    if !meta.is_file() {
        return Err(RecordError::NotOurs { found: "no regular file".to_owned() });
    }
    if meta.len() > RECORD_BYTES_MAX {
        return Err(RecordError::NotOurs { found: format!("a file of {} bytes", meta.len()) });
    }
    Record::parse(&fs::read(&path).map_err(RecordError::Unreadable)?)
}

/// The version of the form of `restore.json`.
pub const FORMAT: u32 = 1;
/// What is written about a restore.
pub const RECORD_FILE: &str = "restore.json";
/// What goes in.
pub(crate) const NEW: &str = "new";
/// What goes in, before it is proven.
pub(crate) const UNPACKED: &str = "unpacked";
/// What was there.
pub(crate) const OLD: &str = "old";
/// What was restored, after an undo.
pub(crate) const UNDONE: &str = "undone";
pub(crate) const WORKING: &str = "restore";
pub(crate) const KEPT: &str = "quarantine";
pub(crate) const INSIDE: &str = ".chroma_exporter";
/// Thousands of segment folders are named in one; no more is believed.
const RECORD_BYTES_MAX: u64 = 64 * 1024 * 1024;
