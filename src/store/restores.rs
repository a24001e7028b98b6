//! What restores have left beside a store or in it: the folder of each, and the record in it. Only read here; [`crate::repair`] makes
//! and moves them.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
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
    /// What was restored, as it was named.
    pub backup: String,
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
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let record: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if record.format > FORMAT {
            return Err(format!("its format is {}, {FORMAT} is known", record.format));
        }
        let named = [&record.out, &record.into, &record.kept];
        let bad = named.into_iter().flatten().find(|name| !is_name(name)).cloned();
        bad.map_or(Ok(record), |name| Err(format!("{name:?} is no name of a file")))
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

/// The folders of a store, newest first, and those that cannot be read, with the reason.
#[must_use]
pub fn all(store: &Path) -> (Vec<Found>, Vec<(PathBuf, String)>) {
    let (mut found, mut unread) = (Vec::new(), Vec::new());
    let name = store.file_name().unwrap_or_default().as_bytes();
    let mut look = |dir: &Path, inside: bool, prefixes: [Vec<u8>; 2]| {
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
                Ok(record) if record.store == *store => {
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
        look(parent, false, [prefix(".", name, WORKING), prefix("", name, KEPT)]);
    }
    let own = INSIDE.as_bytes();
    look(store, true, [prefix("", own, WORKING), prefix("", own, KEPT)]);
    // The path tells apart what began in one second.
    found.sort_by(|a, b| {
        let key = |one: &Found| (one.record.began, one.path.clone());
        key(b).cmp(&key(a))
    });
    (found, unread)
}

fn read_record(dir: &Path) -> Result<Record, String> {
    let path = dir.join(RECORD_FILE);
    let meta = fs::symlink_metadata(&path).map_err(|error| format!("{RECORD_FILE}: {error}"))?;
    if !meta.is_file() || meta.len() > RECORD_BYTES_MAX {
        return Err(format!("{RECORD_FILE} is no file of this program"));
    }
    let bytes = fs::read(&path).map_err(|error| format!("{RECORD_FILE}: {error}"))?;
    Record::parse(&bytes).map_err(|why| format!("{RECORD_FILE}: {why}"))
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
