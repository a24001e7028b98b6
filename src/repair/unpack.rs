//! Anything that people call a backup becomes a plain directory in scratch: our archives, a tar packed in any way, a zip, a database
//! alone, a directory. Nothing is unpacked by the names that an archive gives: they only say which file of a store an entry is. What
//! comes out is bounded in bytes, memory and number, and no link, device or mode of an archive is ever made.

mod directory;
mod files;
mod manifested;
mod scratch;
mod settle;
mod sink;
mod source;
mod tarball;
mod zipped;

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

pub use self::scratch::{PREFIX as SCRATCH_PREFIX, Scratch, sweep};
pub(super) use self::settle::{names_another, play};
use self::{
    sink::{Sink, StoreSeen},
    source::{Plain, Source, Unpacked},
};
use super::steps::Steps;
use crate::{
    clock::Timestamp,
    format::{
        archive::ArchiveKind,
        backup_name,
        manifest::{Manifest, Restores},
        parts::{Part, Place},
        sqlite::{JOURNAL_SUFFIX, WAL_SUFFIX},
        tar::{BLOCK_LEN, Block},
    },
    human,
    store::{
        DATABASE_FILE,
        database::{self, open_bytes},
    },
};

/// How a backup is opened.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Where it is unpacked, and nowhere else.
    pub scratch: Option<PathBuf>,
    /// Without that: where it is unpacked when beside the backup there is no room, or it may not be written to.
    pub fallback: Option<PathBuf>,
    /// Of several stores in one backup that whose path ends with this.
    pub only: Option<String>,
    /// Persist directories that are in use, and no backups.
    pub stores: Vec<PathBuf>,
    /// Unpack or copy in any case, so that the result can be taken away by [`Opened::into`].
    pub copy: bool,
}

/// A backup as a plain directory.
#[derive(Debug)]
pub struct Opened {
    /// The directory: a persist directory, as far as the backup has it.
    pub dir: PathBuf,
    /// What it was: `tar`, `zstd`, `directory`.
    pub form: &'static str,
    /// The manifest, when it has one that can be read.
    pub manifest: Option<Manifest>,
    /// What is wrong with the backup itself, a sentence each: it is cut off, a file is another than the manifest says.
    pub damage: Vec<String>,
    /// What was done or left out, a sentence each.
    pub notes: Vec<String>,
    /// Of what moment it is, as far as manifest, name or times say.
    pub moment: Option<Timestamp>,
    /// Bytes of all files in it.
    pub bytes: u64,
    /// `None` when it was looked at where it lies.
    scratch: Option<Scratch>,
}

impl Opened {
    /// Whether the directory is ours, and may be written to.
    #[must_use]
    pub const fn is_scratch(&self) -> bool {
        self.scratch.is_some()
    }

    /// Takes the directory away to `to`, which is on the same filesystem as the scratch directory and is not there yet. The rest of the
    /// scratch directory is removed. Errs for what was looked at where it lies ([`Options::copy`]).
    pub fn into(self, to: &Path) -> io::Result<()> {
        if self.scratch.is_none() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it was not copied"));
        }
        fs::rename(&self.dir, to)
    }
}

/// Why a backup was not opened.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It is not there, or may not be read.
    #[error("cannot read {}", .path.display())]
    Unreadable {
        /// The backup, or a file of it.
        path: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
    /// The scratch directory cannot be written to.
    #[error("cannot write {}; name another place with --scratch", .path.display())]
    Scratch {
        /// What was to be written.
        path: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
    /// There is no store in it.
    #[error("{0}")]
    Nothing(String),
    /// There are several.
    #[error("{} stores are in it; name one with --path: {}", .0.len(), .0.join(", "))]
    Several(Vec<String>),
    /// A process works in it.
    #[error("{} is a store that is in use, not a backup; `check` looks at it, `backup` copies it", .0.display())]
    InUse(PathBuf),
    /// It would fill the disk.
    #[error(
        "{} has room for {}, and {} are needed; name another place with --scratch",
        .place.display(), human::bytes(*.room), human::bytes(*.needs)
    )]
    NoRoom {
        /// Where it was to be unpacked.
        place: PathBuf,
        /// Bytes that are still to be written.
        needs: u64,
        /// Bytes that may be written.
        room: u64,
    },
    /// It has what no backup has.
    #[error("{0}")]
    Refused(String),
    /// It may be a good one, and cannot be read here.
    #[error(transparent)]
    Cannot(#[from] Cannot),
    /// It was not wanted any more.
    #[error("stopped before the end")]
    Stopped,
}

/// What cannot be read here.
#[derive(Debug, thiserror::Error)]
pub enum Cannot {
    /// The bytes are no archive of their kind.
    #[error("it cannot be unpacked: {0}")]
    Damaged(io::Error),
    /// Reading failed.
    #[error("it cannot be read")]
    Io(#[source] io::Error),
    /// It takes more memory than is given to it.
    #[error(
        "unpacking it takes too much memory ({0}); pack it again with `xz -9`, `zstd -19` or less"
    )]
    Memory(io::Error),
    /// Only what is between holes is stored.
    #[error(
        "{0} is stored with its holes left out (tar --sparse), which is not read here; unpack it with tar and verify the directory"
    )]
    Sparse(String),
    /// It needs a password.
    #[error("{0} is encrypted; unpack it and verify the directory")]
    Encrypted(String),
    /// It is packed in a way that is not known here.
    #[error(
        "{path} is packed by method {method} of zip, which is not read here; unpack it and verify the directory"
    )]
    Method {
        /// The file.
        path: String,
        /// Its method.
        method: u16,
    },
    /// It has a form that is not known here.
    #[error("{0}")]
    Form(String),
}

impl Cannot {
    /// What an error of a decoder or of the file means.
    fn read(error: io::Error) -> UnpackError {
        let text = error.to_string().to_lowercase();
        match error.kind() {
            io::ErrorKind::ConnectionAborted => UnpackError::Stopped,
            io::ErrorKind::QuotaExceeded if error.raw_os_error().is_none() => {
                UnpackError::Refused(error.to_string())
            }
            _ if error.raw_os_error().is_some() => Self::Io(error).into(),
            _ if ["memory", "window", "dictionary"].iter().any(|word| text.contains(word)) => {
                Self::Memory(error).into()
            }
            kind if kind == io::ErrorKind::UnexpectedEof || text.contains("incomplete") => {
                let cut = io::Error::new(io::ErrorKind::UnexpectedEof, "it is cut off");
                Self::Damaged(cut).into()
            }
            _ => Self::Damaged(error).into(),
        }
    }
}

impl UnpackError {
    /// What it says of the backup.
    #[must_use]
    pub const fn restores(&self) -> Restores {
        match self {
            Self::Nothing(_) | Self::Refused(_) | Self::Cannot(Cannot::Damaged(_)) => Restores::Not,
            _ => Restores::Unknown,
        }
    }

    /// The whole chain in one line.
    #[must_use]
    pub fn chain(&self) -> String {
        crate::facts::error::chain(self)
    }
}

/// Opens `backup`. Progress goes to `steps`. What is written goes to a scratch directory, which goes away with the result. Errs
/// when nothing can be unpacked, or nothing in it is a store.
pub fn open(backup: &Path, options: &Options, steps: &Steps) -> Result<Opened, UnpackError> {
    let unreadable = |source| UnpackError::Unreadable { path: backup.to_owned(), source };
    let real = backup.canonicalize().map_err(unreadable)?;
    let meta = fs::metadata(&real).map_err(unreadable)?;
    let mut opened = if meta.is_dir() {
        directory::open(&real, options, steps)?
    } else if meta.is_file() {
        archive(&real, meta.len(), options, steps)?
    } else {
        return Err(UnpackError::Nothing("it is neither a file nor a directory".to_owned()));
    };
    let named = backup.file_name().and_then(|name| backup_name::date_in(&name.to_string_lossy()));
    let stated = opened.manifest.as_ref().map(|manifest| manifest.moment);
    let modified = std::os::unix::fs::MetadataExt::mtime(&meta);
    let of_file = meta.is_file().then(|| Timestamp::from_secs(modified));
    opened.moment = stated.or(named).or(opened.moment).or(of_file);
    settle::settle(&mut opened, options, steps)?;
    Ok(opened)
}

/// A file that is a database or has stores in it. Errs when it is neither, is in use, or cannot be read or unpacked.
fn archive(
    path: &Path,
    bytes: u64,
    options: &Options,
    steps: &Steps,
) -> Result<Opened, UnpackError> {
    let unreadable = |source| UnpackError::Unreadable { path: path.to_owned(), source };
    if let Some(parent) = path.parent().filter(|_| path.ends_with(DATABASE_FILE))
        && (options.stores.iter().any(|store| store == parent) || directory::is_held(parent))
    {
        return Err(UnpackError::InUse(parent.to_owned()));
    }
    let mut file = open_bytes(path).map_err(unreadable)?;
    let mut head = [0; BLOCK_LEN];
    let read = source::fill(&mut file, &mut head).map_err(unreadable)?;
    io::Seek::rewind(&mut file).map_err(unreadable)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Some(kind) = ArchiveKind::of_bytes(&head[..read]) else {
        return Err(no_archive(bytes, &head[..read], &name));
    };
    let (scratch, mut notes) = scratch_for(path, bytes, kind, options)?;
    let mut sink = Sink::new(scratch.path(), options.only.as_deref(), options.copy)?;
    steps.begin("unpacking", Some(bytes));
    let end = match kind {
        ArchiveKind::Zip => zipped::walk(&file, bytes, &mut sink, steps)?,
        ArchiveKind::Tar => {
            let mut plain = Plain::new(file, bytes, steps);
            plain.fill(&mut head).map_err(Cannot::read)?;
            tarball::walk(&mut plain, &head, &mut sink)?
        }
        ArchiveKind::Sqlite => {
            let mut plain = Plain::new(file, bytes, steps);
            let end = alone(&mut plain, &[], Some(bytes), &mut sink)?;
            beside(path, &mut sink, steps)?;
            end
        }
        ArchiveKind::Gzip | ArchiveKind::Bzip2 | ArchiveKind::Xz | ArchiveKind::Zstd => {
            packed(file, bytes, kind, &name, &mut sink, steps)?
        }
    };
    if steps.stopped() {
        return Err(UnpackError::Stopped);
    }
    let (store, more) = choose(&mut sink, end.as_deref())?;
    notes.extend(more);
    notes.extend(std::mem::take(&mut sink.unrecognised));
    let mut damage: Vec<String> = end.into_iter().collect();
    damage.append(&mut sink.damage);
    if sink.hostile > 0 {
        damage.push(format!(
            "names in it lead out of the archive, which no backup tool writes ({} of them): they were left out",
            sink.hostile
        ));
    }
    let manifest = manifested::read(&store.dir, store.files.len(), &mut damage);
    if let Some(manifest) = &manifest {
        manifested::compare(manifest, &store.files, &mut damage);
    }
    let moment = store.files.get(DATABASE_FILE).and_then(|file| file.modified);
    let bytes = store.files.values().map(|file| file.bytes).fold(0, u64::saturating_add);
    Ok(Opened {
        dir: store.dir,
        form: kind.as_str(),
        manifest,
        damage,
        notes,
        moment,
        bytes,
        scratch: Some(scratch),
    })
}

/// What a file without any known beginning is.
fn no_archive(bytes: u64, head: &[u8], name: &str) -> UnpackError {
    UnpackError::Nothing(if bytes == 0 {
        "it has no bytes".to_owned()
    } else if crate::format::lfs::Pointer::parse(head).is_some() {
        "it is a Git LFS pointer: git has put a few lines of text in place of the content"
            .to_owned()
    } else if head.iter().all(|byte| *byte == 0) {
        "it begins with zeros: it was never written, or its first part is lost".to_owned()
    } else {
        let what =
            ArchiveKind::of_name(name).map_or("an archive or a database", ArchiveKind::as_str);
        format!("it does not begin as {what} does")
    })
}

/// What is packed by gzip, bzip2, xz or zstd: a tar, or a database alone. Errs when nothing of a store comes out, or it cannot be written.
fn packed(
    file: File,
    bytes: u64,
    kind: ArchiveKind,
    name: &str,
    sink: &mut Sink,
    steps: &Steps,
) -> Result<Option<String>, UnpackError> {
    let cannot = || Cannot::Form(format!("{name} is packed in a way that is not known here"));
    let unpacked = Unpacked::new(file, bytes, kind, steps).map_err(Cannot::read)?;
    let mut unpacked = unpacked.ok_or_else(cannot)?;
    let walked = inside(&mut unpacked, sink);
    match walked {
        // What came out before is there, and is looked at.
        Err(UnpackError::Cannot(Cannot::Damaged(error))) if !sink.stores.is_empty() => {
            let cut = error.kind() == io::ErrorKind::UnexpectedEof;
            Ok(Some(if cut {
                "it is cut off".to_owned()
            } else {
                format!("it is damaged: {error}")
            }))
        }
        walked => walked,
    }
}

fn inside(unpacked: &mut Unpacked, sink: &mut Sink) -> Result<Option<String>, UnpackError> {
    let mut head = [0; BLOCK_LEN];
    let read = unpacked.fill(&mut head).map_err(Cannot::read)?;
    match ArchiveKind::of_bytes(&head[..read]) {
        _ if read == 0 => Err(UnpackError::Nothing("nothing is packed in it".to_owned())),
        Some(ArchiveKind::Tar) => {
            let end = tarball::walk(unpacked, &head, sink)?;
            // Where its checksums are compared.
            if end.is_none() {
                drain(unpacked)?;
            }
            Ok(end)
        }
        Some(ArchiveKind::Sqlite) => alone(unpacked, &head[..read], None, sink),
        Some(other) => Err(UnpackError::Cannot(Cannot::Form(format!(
            "{} is packed in it once more; unpack it and verify what comes out",
            other.as_str()
        )))),
        None if Block::parse(&head) == Block::Zeros => {
            Err(UnpackError::Nothing("nothing but zeros is packed in it".to_owned()))
        }
        None => {
            Err(UnpackError::Nothing("neither a tar nor a database is packed in it".to_owned()))
        }
    }
}

fn drain(source: &mut impl Source) -> Result<(), UnpackError> {
    let mut buffer = vec![0; 64 * 1024];
    while source.fill(&mut buffer).map_err(Cannot::read)? > 0 {}
    Ok(())
}

/// A database without anything beside it; its first bytes were read already. Of a stream nobody knows the length.
/// Errs when it cannot be read or written, or there is no room.
fn alone(
    source: &mut impl Source,
    first: &[u8],
    bytes: Option<u64>,
    sink: &mut Sink,
) -> Result<Option<String>, UnpackError> {
    let place =
        Place { prefix: String::new(), part: Part::Database, path: DATABASE_FILE.to_owned() };
    let mut source = Joined { first, source };
    let whole = match bytes {
        Some(bytes) => sink.write(&mut source, &place, bytes, None)?,
        None => sink.write_all(&mut source, &place)?,
    };
    Ok((!whole).then(|| "it is cut off".to_owned()))
}

/// Bytes that were read already, and the rest.
struct Joined<'a, S> {
    first: &'a [u8],
    source: &'a mut S,
}

impl<S: Source> Source for Joined<'_, S> {
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let known = self.first.len().min(buffer.len());
        buffer[..known].copy_from_slice(&self.first[..known]);
        self.first = &self.first[known..];
        Ok(known + self.source.fill(&mut buffer[known..])?)
    }

    fn skip(&mut self, bytes: u64) -> io::Result<bool> {
        self.source.skip(bytes)
    }
}

/// The journal and the log beside a database that was copied alone. Errs when they cannot be read or written, or there is no room.
fn beside(path: &Path, sink: &mut Sink, steps: &Steps) -> Result<(), UnpackError> {
    for (suffix, part) in [(JOURNAL_SUFFIX, Part::Journal), (WAL_SUFFIX, Part::Wal)] {
        let path = database::beside(path, suffix);
        let Ok(file) = open_bytes(&path) else { continue };
        let Ok(bytes) = file.metadata().map(|meta| meta.len()) else { continue };
        let place = Place { prefix: String::new(), part, path: format!("{DATABASE_FILE}{suffix}") };
        sink.write(&mut Plain::new(file, bytes, steps), &place, bytes, None)?;
    }
    Ok(())
}

/// The one store of an archive, with notes on what was left out. Errs when there is none, or there are several.
fn choose(sink: &mut Sink, end: Option<&str>) -> Result<(StoreSeen, Vec<String>), UnpackError> {
    let has = |store: &StoreSeen| store.files.contains_key(DATABASE_FILE);
    let mut with: Vec<StoreSeen> = Vec::new();
    let mut without = 0;
    for store in std::mem::take(&mut sink.stores) {
        if has(&store) { with.push(store) } else { without += 1 }
    }
    let shown = |store: &StoreSeen| match store.prefix.as_str() {
        "" => ".".to_owned(),
        prefix => human::plain(prefix),
    };
    match with.len() {
        1 => {
            let notes = if without > 0 {
                vec![format!(
                    "files of {without} other places in it have no database, and were left out"
                )]
            } else {
                Vec::new()
            };
            Ok((with.remove(0), notes))
        }
        0 => {
            let why = end.map_or(String::new(), |end| format!("; {end}"));
            let odd = sink.unrecognised.first().map_or(String::new(), |odd| format!("; {odd}"));
            Err(UnpackError::Nothing(format!("no chroma.sqlite3 is in it{why}{odd}")))
        }
        _ => Err(UnpackError::Several(with.iter().map(shown).collect())),
    }
}

/// A scratch directory with enough room, as far as that can be told before. Errs when there is no room, or none can be made.
fn scratch_for(
    backup: &Path,
    bytes: u64,
    kind: ArchiveKind,
    options: &Options,
) -> Result<(Scratch, Vec<String>), UnpackError> {
    let packed = matches!(
        kind,
        ArchiveKind::Gzip
            | ArchiveKind::Bzip2
            | ArchiveKind::Xz
            | ArchiveKind::Zstd
            | ArchiveKind::Zip
    );
    // Text shrinks to a fifth, vectors hardly at all.
    let needs = if packed { bytes.saturating_mul(2) } else { bytes };
    make_scratch(backup, needs, options)
}

fn make_scratch(
    backup: &Path,
    needs: u64,
    options: &Options,
) -> Result<(Scratch, Vec<String>), UnpackError> {
    let near = backup.parent().unwrap_or(Path::new("/"));
    let places: Vec<&Path> = match &options.scratch {
        Some(place) => vec![place],
        None => [Some(near), options.fallback.as_deref()].into_iter().flatten().collect(),
    };
    let mut refused = None;
    for place in places {
        // The place of the program itself may not be there yet.
        if Some(place) == options.fallback.as_deref() {
            drop(fs::create_dir_all(place));
        }
        let failed = |source| UnpackError::Scratch { path: place.to_owned(), source };
        let room = match scratch::room(place) {
            Ok(room) => room,
            Err(error) => {
                refused.get_or_insert(failed(error));
                continue;
            }
        };
        if room < needs {
            refused.get_or_insert(UnpackError::NoRoom { place: place.to_owned(), needs, room });
            continue;
        }
        match Scratch::new(place) {
            Ok((scratch, swept)) => {
                let reported = |dir: PathBuf| {
                    format!("{} was left by a run that was killed, and was removed", dir.display())
                };
                return Ok((scratch, swept.into_iter().map(reported).collect()));
            }
            Err(error) => {
                refused.get_or_insert(failed(error));
            }
        }
    }
    Err(refused.unwrap_or(UnpackError::NoRoom { place: near.to_owned(), needs, room: 0 }))
}
