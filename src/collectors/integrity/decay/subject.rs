//! What decay is looked for in: the database, and of each segment's folder the files that Chroma reads.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::ledger;
use crate::{
    clock::Timestamp,
    collectors::CollectError,
    format::{
        hnsw,
        sqlite::{HEADER_LEN, SqliteHeader},
        uuid::parse_uuid,
    },
    host::links::Place,
    store::{
        Context, DATABASE_FILE,
        database::{Stamp, is_absent as absent},
    },
};

/// A database, or the folder of a segment.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) name: String,
    pub(super) files: Vec<FileState>,
}

/// A file as `stat` tells of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct FileState {
    pub(super) part: usize,
    pub(super) stamp: Stamp,
    pub(super) state: u64,
}

impl Subject {
    pub(super) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.stamp.size_bytes).sum()
    }

    pub(super) fn is_database(&self) -> bool {
        self.name == DATABASE_FILE
    }

    pub(super) fn changed(&self) -> Option<Timestamp> {
        self.files.iter().map(|file| file.stamp.modified.max(file.stamp.changed)).max()
    }

    pub(super) fn file(&self, seen: &FileState) -> &'static str {
        file_name(self.is_database(), seen.part)
    }
}

/// What there is to be looked at.
#[derive(Debug, Default)]
pub(super) struct Subjects {
    pub(super) list: Vec<Subject>,
    /// Folders that may not be looked into: what is known of them stays.
    pub(super) unread: Vec<String>,
    /// Of the first of them.
    pub(super) problem: Option<CollectError>,
}

/// The database and the folders of segments, with the files that Chroma reads of them. Errs when a directory cannot be read.
pub(super) fn subjects(context: &Context) -> Result<Subjects, CollectError> {
    let root = &context.store.seen_path;
    let place = context.place();
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| CollectError::Unreadable { path, source }
    };
    if remote(root).map_err(unreadable(root))? {
        return Ok(Subjects::default());
    }
    let mut subjects = Subjects::default();
    subjects.list.extend(database(context).map_err(unreadable(context.database.path()))?);
    let entries = fs::read_dir(root).map_err(unreadable(root))?;
    for entry in entries.take(context.config.limits.entries) {
        let entry = entry.map_err(unreadable(root))?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        if parse_uuid(name.as_bytes()).is_none() {
            continue;
        }
        let files = match files_of(&place, &name) {
            Ok(files) => files,
            Err((path, source)) => {
                subjects.problem.get_or_insert(CollectError::Unreadable { path, source });
                subjects.unread.push(name);
                continue;
            }
        };
        if !files.is_empty() {
            subjects.list.push(Subject { name, files });
        }
    }
    subjects.list.sort_by(|a, b| (!a.is_database(), &a.name).cmp(&(!b.is_database(), &b.name)));
    Ok(subjects)
}

/// The files of a segment's folder. Chroma follows links of folders and of files; where they lead elsewhere for us, only `place`
/// knows. Errs when it may not be looked into.
fn files_of(place: &Place, folder: &str) -> Result<Vec<FileState>, (PathBuf, io::Error)> {
    let mut files = Vec::new();
    for (part, file) in SEGMENT_FILES.into_iter().enumerate() {
        let name = Path::new(folder).join(file);
        let meta = match place.at(&name).and_then(fs::metadata) {
            Ok(meta) => meta,
            Err(error) if absent(&error) => continue,
            Err(error) => return Err((place.dir().join(name), error)),
        };
        if meta.is_file() && meta.len() > 0 {
            let stamp = Stamp::of(&meta);
            files.push(FileState { part, stamp, state: ledger::state_of(&stamp, None) });
        }
    }
    Ok(files)
}

fn database(context: &Context) -> io::Result<Option<Subject>> {
    let Some((stamp, counter)) = database_state(context)? else { return Ok(None) };
    let seen = FileState { part: 0, stamp, state: ledger::state_of(&stamp, Some(counter)) };
    Ok(Some(Subject { name: DATABASE_FILE.to_owned(), files: vec![seen] }))
}

/// `None` when there is no database that can be judged this way: in WAL mode its newest pages stand elsewhere. Errs when the
/// file cannot be read.
pub(super) fn database_state(context: &Context) -> io::Result<Option<(Stamp, u32)>> {
    let file = match context.database.open_plain() {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let meta = file.metadata()?;
    let mut head = [0; HEADER_LEN];
    if !meta.is_file() {
        return Ok(None);
    }
    let read = file.read_up_to(&mut head, 0)?;
    let header = SqliteHeader::parse(&head[..read]).ok().filter(|header| !header.wal);
    // By `stat`, as everywhere: overlayfs has another device by `fstat`.
    let stamp = context.database.stamp()?;
    Ok(header.map(|header| (stamp, header.change_counter)))
}

/// Whether other hosts may write there, whose changes show late. Errs when the filesystem does not say.
fn remote(root: &Path) -> io::Result<bool> {
    let kind = rustix::fs::statfs(root).map_err(io::Error::from)?.f_type;
    Ok(REMOTE_MAGICS.iter().any(|magic| i128::from(*magic) == i128::from(kind)))
}

/// The name of a file on disk.
pub(super) fn file_name(database: bool, part: usize) -> &'static str {
    if database { DATABASE_FILE } else { SEGMENT_FILES.get(part).copied().unwrap_or_default() }
}

/// The files of a segment's folder. Their places in this list are kept in the state.
pub(super) const SEGMENT_FILES: [&str; 5] = hnsw::FILES;

/// NFS, CIFS, SMB2, SMB, AFS, 9p, Ceph, Lustre, GPFS, OCFS2, GFS2, FUSE, which may be any of these.
const REMOTE_MAGICS: [i64; 12] = [
    0x6969,
    0xff53_4d42,
    0xfe53_4d42,
    0x517b,
    0x5346_414f,
    0x0102_1997,
    0x00c3_6400,
    0x0bd0_0bd0,
    0x4750_4653,
    0x7461_636f,
    0x0116_1970,
    0x6573_5546,
];
