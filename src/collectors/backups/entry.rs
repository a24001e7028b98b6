//! One file or directory in the place of backups: when it was made, and whether it has changed since it was looked at.

use std::{
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use super::proof::Proof;
use crate::{
    clock::Timestamp,
    format::{backup_name::date_in, manifest::Restores},
    store::DATABASE_FILE,
};

/// One entry that was judged; of a complete one its bytes are known, or all of its content.
#[derive(Debug, Clone)]
pub(super) struct Backup<T = Complete> {
    pub(super) path: PathBuf,
    /// See [`Entry::stamp`].
    pub(super) stamp: Stamp,
    pub(super) directory: bool,
    /// When its data were copied; of one that may not be asked, by its name, or else unknown and as good as now.
    pub(super) taken: Timestamp,
    /// See [`Entry::complete_by`].
    pub(super) complete_by: Timestamp,
    pub(super) device: u64,
    /// What it is when it is complete, otherwise why it is not.
    pub(super) state: Result<T, Fault>,
}

/// A backup in which nothing is missing, as far as its structure and names say.
#[derive(Debug, Clone)]
pub(super) struct Complete {
    /// Its size.
    pub(super) bytes: u64,
    /// What came of opening it, when that was done.
    pub(super) proof: Option<Proof>,
}

impl Complete {
    /// Whether it was opened, and restores whole.
    pub(super) fn is_proven(&self) -> bool {
        self.proof.as_ref().is_some_and(|proof| proof.restores == Restores::Whole)
    }
}

/// Why something is not a complete backup, in words too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) reason: Reason,
    pub(super) words: String,
    /// With which error of the operating system, for the hint.
    pub(super) kind: io::ErrorKind,
    /// All that is missing in it, one each.
    pub(super) missing: Vec<String>,
}

/// The closed list of reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    Empty,
    Growing,
    Future,
    Damaged,
    /// It is whole, but index folders that the store needs are not in it.
    WithoutVectors,
    Unreadable,
    /// It is of a kind, or so large, that its end or what is in it cannot be told.
    Unknown,
}

impl Reason {
    pub(super) const ALL: [Self; 7] = [
        Self::Empty,
        Self::Growing,
        Self::Future,
        Self::Damaged,
        Self::WithoutVectors,
        Self::Unreadable,
        Self::Unknown,
    ];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Growing => "growing",
            Self::Future => "future",
            Self::Damaged => "damaged",
            Self::WithoutVectors => "without_vectors",
            Self::Unreadable => "unreadable",
            Self::Unknown => "unknown",
        }
    }
}

impl Reason {
    /// Whether it is a failure of whoever made the backup. One under way is neither that nor a success, and the future
    /// proves nothing.
    pub(super) const fn is_told(self) -> bool {
        matches!(self, Self::Empty | Self::Damaged | Self::WithoutVectors)
    }
}

impl Fault {
    pub(super) fn new(reason: Reason, words: impl Into<String>) -> Self {
        Self { reason, words: words.into(), kind: io::ErrorKind::Other, missing: Vec::new() }
    }

    pub(super) fn unreadable(error: &io::Error) -> Self {
        Self { kind: error.kind(), ..Self::new(Reason::Unreadable, error.to_string()) }
    }

    /// Whether it may be a complete backup for all that is known.
    pub(super) fn may_be_complete(&self) -> bool {
        matches!(self.reason, Reason::Unreadable | Reason::Unknown)
    }
}

/// What `stat` says of an entry.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) meta: Metadata,
    /// Of a directory: the newest database in it, or in a folder in it.
    pub(super) database: Option<(PathBuf, Metadata)>,
}

impl Entry {
    /// Asks for it. Errs when it, or what is in it, may not be asked for.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let meta = fs::metadata(path)?;
        let database = if meta.is_dir() { newest_database(path)? } else { None };
        Ok(Self { meta, database })
    }

    /// When its data were last written. Never the time of change, which a new name or mode makes young.
    pub(super) fn written(&self) -> Timestamp {
        let written = |meta: &Metadata| Timestamp::from_parts(meta.mtime(), meta.mtime_nsec());
        match &self.database {
            Some((_, database)) => written(database),
            None => written(&self.meta),
        }
    }

    /// When its data were copied. A date in the name that is far from the time of the data decides: a backup that was
    /// copied or touched later is as old as what is in it, and a copy of an idle store (`cp -a`, `rsync -a` keep times) is
    /// as young as its name. Close to it, of a file, the time of the file is the more exact one.
    pub(super) fn taken(&self, path: &Path) -> Timestamp {
        let written = self.written();
        match name_date(path) {
            Some(date) if date.since(written) > NAME_SLACK || written.since(date) > NAME_SLACK => {
                date
            }
            Some(date) if self.meta.is_dir() => date.max(written),
            _ => written,
        }
    }

    /// A moment at which its data were all there: no program can set it, and a new name or mode makes it later.
    pub(super) fn complete_by(&self) -> Timestamp {
        let meta = self.database.as_ref().map_or(&self.meta, |(_, database)| database);
        Timestamp::from_parts(meta.ctime(), meta.ctime_nsec()).max(self.written())
    }

    /// What is equal as long as its bytes are.
    pub(super) fn stamp(&self) -> Stamp {
        let of = |meta: &Metadata| {
            [
                meta.dev(),
                meta.ino(),
                meta.size(),
                meta.mtime().cast_unsigned(),
                meta.mtime_nsec().cast_unsigned(),
            ]
        };
        // The times of a directory change with names in it, which are no data.
        match &self.database {
            Some((_, database)) => of(database),
            None => of(&self.meta),
        }
    }
}

/// See [`Entry::stamp`].
pub(super) type Stamp = [u64; 5];

/// The date that the name states.
pub(super) fn name_date(path: &Path) -> Option<Timestamp> {
    date_in(&path.file_name()?.to_string_lossy())
}

/// The newest database in a copied directory or in a folder in it. Errs when the directory cannot be read.
fn newest_database(directory: &Path) -> io::Result<Option<(PathBuf, Metadata)>> {
    let at = |dir: &Path| {
        let path = dir.join(DATABASE_FILE);
        match fs::symlink_metadata(&path) {
            Ok(meta) => Ok(Some((path, meta))),
            Err(error) if is_absence(&error) => Ok(None),
            Err(error) => Err(error),
        }
    };
    if let Some(found) = at(directory)? {
        return Ok(Some(found));
    }
    let mut newest: Option<(PathBuf, Metadata)> = None;
    for entry in fs::read_dir(directory)?.take(INNER_MAX) {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            continue;
        }
        if let Some((path, meta)) = at(&entry.path())? {
            let time = |meta: &Metadata| (meta.mtime(), meta.mtime_nsec());
            if newest.as_ref().is_none_or(|(_, known)| time(&meta) > time(known)) {
                newest = Some((path, meta));
            }
        }
    }
    Ok(newest)
}

/// Whether the error means that there is nothing.
pub(super) fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// What lies beside backups and is none: checksums, signatures, logs, files on their way. Those of `backup`, `verify` and rsync
/// have hidden names.
pub(super) fn beside_a_backup(path: &Path) -> bool {
    const ENDINGS: [&str; 10] =
        [".sha256", ".sha512", ".sha1", ".md5", ".asc", ".sig", ".log", ".txt", ".tmp", ".part"];
    let name = name_of(path).to_lowercase();
    name.starts_with('.') || ENDINGS.iter().any(|ending| name.ends_with(ending))
}

pub(super) fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A name and the time of its data may differ by time zones and the time that a backup takes.
pub(super) const NAME_SLACK: Duration = Duration::from_hours(26);
/// Most entries of a copied directory among which its inner folders are looked for.
const INNER_MAX: usize = 1000;
