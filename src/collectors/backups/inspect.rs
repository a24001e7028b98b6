//! Whether an entry is a complete backup. An archive is what its first bytes say; whether it is whole is told from its
//! structure where that costs little, otherwise from its end, and what cannot be told is unknown, not a success.

use std::{
    ffi::OsStr,
    fs::{File, Metadata},
    ops::ControlFlow,
    os::unix::ffi::OsStrExt,
    path::Path,
};

use rustix::fs::{Advice, FileType};

use super::{
    content::{Walked, is_dump, walk_packed, walk_tar, whole_dump},
    entry::{Entry, Fault, Reason, name_of},
    holds::Holds,
    proof::Proof,
    stated,
};
use crate::{
    clock::Timestamp,
    format::{
        archive::{
            ArchiveKind, GzipEnd, HEAD_LEN, ZIP_TAIL_MAX, ZstdFrame, ends_bzip2, ends_xz,
            tail_range, zstd_block,
        },
        lfs,
        sqlite::{HEADER_LEN, SqliteHeader},
        uuid::parse_uuid,
        zip,
    },
    host::walk::{self, Bounds, DEPTH_MAX, walk},
    human,
    store::{
        DATABASE_FILE,
        database::{open_bytes, read_up_to},
    },
};

/// How much may be done for one look.
pub(super) struct Effort<'a> {
    /// Whether a packed file may be unpacked to its end; otherwise its end must do.
    pub(super) unpack: bool,
    /// Most entries of a directory that are looked at.
    pub(super) entries_max: usize,
    /// Whether to end early.
    pub(super) stopped: &'a dyn Fn() -> bool,
}

/// What a look into a whole entry gave.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Content {
    /// Its size.
    pub(super) bytes: u64,
    /// What is in it; `None` when that cannot be told.
    pub(super) holds: Option<Holds>,
    /// What its manifest says of how it was proven, when it has one.
    pub(super) stated: Option<Proof>,
}

/// Looks into a copied directory. Gives its bytes, and when anything in it last changed in any way.
pub(super) fn directory(
    path: &Path,
    entry: &Entry,
    effort: &Effort<'_>,
) -> (Result<Content, Fault>, Timestamp) {
    let mut holds = Holds::default();
    let (mut bytes, mut changed, mut missed) = (0_u64, Timestamp::from_secs(0), None);
    let bounds = Bounds { entries_max: effort.entries_max, depth_max: DEPTH_MAX };
    let walked = walk(path, bounds, &mut |visit| {
        match visit {
            Ok(entry) if !entry.meta.is_directory() => {
                bytes = bytes.saturating_add(entry.meta.size_bytes);
                changed = changed.max(entry.meta.changed);
                let file = entry.meta.file_type() == FileType::RegularFile;
                if file && !is_pointer(path, &entry) {
                    holds.note(entry.path, entry.meta.size_bytes);
                }
            }
            Ok(_) => {}
            Err(problem) => missed = Some(problem.errno),
        }
        if (effort.stopped)() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let content = match (walked, missed) {
        (Err(error), _) => Err(Fault::unreadable(&error)),
        (Ok(_), Some(errno)) => Err(Fault::unreadable(&errno.into())),
        (Ok(walked), None) if !walked.complete() => Err(too_large()),
        (Ok(_), None) => {
            let stated = stated::in_directory(path);
            database_of(entry).map(|()| Content { bytes, holds: Some(holds), stated })
        }
    };
    (content, changed)
}

/// Whether git put a few lines in place of this file of an index.
fn is_pointer(root: &Path, entry: &walk::Entry<'_>) -> bool {
    let small = entry.meta.size_bytes <= lfs::HEAD_LEN as u64;
    let folder = entry.folder().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    if !small || parse_uuid(folder).is_none() {
        return false;
    }
    let head = open(&root.join(OsStr::from_bytes(entry.path)))
        .and_then(|file| read(&file, 0, lfs::HEAD_LEN));
    head.is_ok_and(|head| lfs::Pointer::parse(&head).is_some())
}

fn pointer() -> Fault {
    let words = "git put the few lines of a Git LFS pointer in its place; git lfs pull fetches it";
    Fault::new(Reason::Damaged, words)
}

fn database_of(entry: &Entry) -> Result<(), Fault> {
    let damaged = |words: String| Err(Fault::new(Reason::Damaged, words));
    let Some((database, meta)) = &entry.database else {
        return damaged(format!("there is no {DATABASE_FILE} in it"));
    };
    if !meta.is_file() {
        return damaged(format!("its {DATABASE_FILE} is not a regular file"));
    }
    sqlite(&open(database)?, meta.len())
}

/// Looks into a file. Errs when it is no backup that restores, or cannot be read.
pub(super) fn file(path: &Path, meta: &Metadata, effort: &Effort<'_>) -> Result<Content, Fault> {
    if !meta.is_file() {
        return Err(Fault::new(Reason::Damaged, "it is neither a file nor a directory"));
    }
    let size = meta.len();
    if size == 0 {
        return Err(Fault::new(Reason::Empty, "it has no bytes"));
    }
    let file = open(path)?;
    let head = read(&file, 0, HEAD_LEN)?;
    let name = name_of(path);
    if lfs::Pointer::parse(&head).is_some() {
        return Err(pointer());
    }
    let (is, should) = (ArchiveKind::of_bytes(&head), ArchiveKind::of_name(&name));
    if let Some(should) = should.filter(|should| is != Some(*should)) {
        let words = format!("it does not begin like a {} file", should.as_str());
        return Err(Fault::new(Reason::Damaged, words));
    }
    let holds = match is {
        None if is_dump(&head) => {
            whole_dump(&tail(&file, size, DUMP_TAIL)?)?;
            Some(Holds::database_alone())
        }
        None => {
            return Err(Fault::new(Reason::Unknown, "its format does not show where it ends"));
        }
        Some(ArchiveKind::Sqlite) => {
            sqlite(&file, size)?;
            Some(Holds::database_alone())
        }
        Some(ArchiveKind::Tar) => match walk_tar(&file, size, effort.stopped)? {
            Walked::Whole(holds) => Some(holds),
            Walked::GivenUp => return Err(too_large()),
        },
        Some(ArchiveKind::Zip) => Some(zip(&file, size)?),
        Some(kind) => packed(&file, size, kind, &name, effort)?,
    };
    let stated = (is == Some(ArchiveKind::Zstd)).then(|| stated::in_archive(&file)).flatten();
    Ok(Content { bytes: size, holds, stated })
}

/// Looks at the end of a packed file, and unpacks it when that is not too much; `None` when it was, and the end is right.
/// Errs when the file is cut off or damaged, or cannot be read.
fn packed(
    file: &File,
    size: u64,
    kind: ArchiveKind,
    name: &str,
    effort: &Effort<'_>,
) -> Result<Option<Holds>, Fault> {
    match kind {
        ArchiveKind::Zstd => zstd(file, size, effort.stopped)?,
        ArchiveKind::Xz => {
            let whole = ends_xz(&tail(file, size, 1024)?, |bytes| {
                let mut crc = flate2::Crc::new();
                crc.update(bytes);
                crc.sum()
            });
            ended(whole, "xz stream")?;
        }
        ArchiveKind::Bzip2 => ended(ends_bzip2(&tail(file, size, 16)?), "bzip2 stream")?,
        _ if size < GZIP_MIN => {
            let words = "it is cut off: a gzip file is longer";
            return Err(Fault::new(Reason::Damaged, words));
        }
        _ => {}
    }
    if effort.unpack && size <= UNPACK_MAX {
        let unpacked_max = size.saturating_mul(UNPACK_FACTOR).max(UNPACK_MAX);
        match walk_packed(file, kind, unpacked_max, effort.stopped)? {
            Walked::Whole(holds) => return Ok(Some(holds)),
            Walked::GivenUp => {}
        }
    }
    if kind == ArchiveKind::Gzip {
        gzip_end(file, size, name)?;
    }
    Ok(None)
}

fn gzip_end(file: &File, size: u64, name: &str) -> Result<(), Fault> {
    let Ok(end) = <[u8; 4]>::try_from(tail(file, size, 4)?) else { return Err(too_large()) };
    match GzipEnd::parse(end, size) {
        GzipEnd::TarRecords => Ok(()),
        GzipEnd::Other if name.contains(".tar") || name.ends_with("tgz") => Err(Fault::new(
            Reason::Damaged,
            "it is cut off: its end is not the end of a packed tar",
        )),
        GzipEnd::Blocks | GzipEnd::Other => Err(too_large()),
    }
}

/// The names in the directory of a zip. Errs when the zip is cut off or damaged, holds no database, or cannot be read.
fn zip(file: &File, size: u64) -> Result<Holds, Fault> {
    let damaged = |words: &str| Err(Fault::new(Reason::Damaged, words));
    let end = zip::end(&tail(file, size, ZIP_TAIL_MAX)?);
    let directory = match end {
        Some(zip::End::At(directory)) => Some(directory),
        Some(zip::End::Zip64(at)) => zip::end_of_zip64(&read(file, at, zip::ZIP64_END_LEN)?),
        None => None,
    };
    let Some(directory) = directory else {
        return damaged("it is cut off: the end of a directory of a zip is missing");
    };
    if directory.offset.saturating_add(directory.bytes) > size {
        return damaged("its end states a directory that lies outside of it");
    }
    if directory.bytes > ZIP_DIRECTORY_MAX {
        return Err(too_large());
    }
    let bytes = read(file, directory.offset, usize::try_from(directory.bytes).unwrap_or(0))?;
    let mut holds = Holds::default();
    for (name, unpacked) in zip::entries(&bytes) {
        holds.note(name, unpacked);
    }
    if holds.database { Ok(holds) } else { damaged("no database is in it") }
}

/// Steps from block to block; what is in them is not looked at. Errs when a frame is cut off or damaged, or cannot be read.
fn zstd(file: &File, size: u64, stopped: &dyn Fn() -> bool) -> Result<(), Fault> {
    rustix::fs::fadvise(file, 0, None, Advice::Random).unwrap_or_default();
    let damaged = |words: &str| Err(Fault::new(Reason::Damaged, words));
    let (mut at, mut blocks) = (0_u64, 0_usize);
    while at < size {
        let (header_bytes, checksum) = match ZstdFrame::parse(&read(file, at, 8)?) {
            Some(ZstdFrame::Skippable(bytes)) => {
                at = at.saturating_add(bytes);
                blocks += 1;
                if blocks > ZSTD_BLOCKS_MAX {
                    return Err(too_large());
                }
                continue;
            }
            Some(ZstdFrame::Blocks { header_bytes, checksum }) => (header_bytes, checksum),
            None => return damaged("it is cut off or damaged: a zstd frame has no header"),
        };
        at = at.saturating_add(header_bytes);
        loop {
            blocks += 1;
            if blocks > ZSTD_BLOCKS_MAX || stopped() {
                return Err(too_large());
            }
            let header = <[u8; 3]>::try_from(read(file, at, 3)?).ok().and_then(zstd_block);
            let Some((last, bytes)) = header else {
                return damaged("it is cut off or damaged: a zstd block has no header");
            };
            at = at.saturating_add(3 + bytes);
            if last {
                at = at.saturating_add(if checksum { 4 } else { 0 });
                break;
            }
        }
    }
    if at == size { Ok(()) } else { damaged("it is cut off within a zstd frame") }
}

/// A database whose header is sound and whose pages are all there. Errs when it is not, or cannot be read.
fn sqlite(file: &File, size: u64) -> Result<(), Fault> {
    if size == 0 {
        return Err(Fault::new(Reason::Empty, "its database has no bytes"));
    }
    let damaged = |words: String| Err(Fault::new(Reason::Damaged, words));
    let head = read(file, 0, HEADER_LEN)?;
    if lfs::Pointer::parse(&head).is_some() {
        return Err(pointer());
    }
    match SqliteHeader::parse(&head) {
        Err(error) => damaged(format!("its database has no sound header: {error}")),
        Ok(header) => match header.stated_bytes() {
            Some(stated) if size < stated => damaged(format!(
                "its database is cut off: {} of {}",
                human::exact_bytes(size),
                human::exact_bytes(stated)
            )),
            _ => Ok(()),
        },
    }
}

fn ended(whole: bool, what: &str) -> Result<(), Fault> {
    if whole {
        return Ok(());
    }
    Err(Fault::new(Reason::Damaged, format!("it is cut off: the end of a {what} is missing")))
}

fn too_large() -> Fault {
    Fault::new(Reason::Unknown, "it is too large to be read to its end")
}

fn open(path: &Path) -> Result<File, Fault> {
    open_bytes(path).map_err(|error| Fault::unreadable(&error))
}

fn tail(file: &File, size: u64, len: usize) -> Result<Vec<u8>, Fault> {
    read(file, tail_range(size, len).start, len)
}

fn read(file: &File, offset: u64, len: usize) -> Result<Vec<u8>, Fault> {
    let mut bytes = vec![0; len];
    let filled = read_up_to(file, &mut bytes, offset).map_err(|error| Fault::unreadable(&error))?;
    bytes.truncate(filled);
    Ok(bytes)
}

/// Last bytes of a dump that are looked at.
const DUMP_TAIL: usize = 64;
/// The directory of a zip with some hundred thousand names.
const ZIP_DIRECTORY_MAX: u64 = 64 * 1024 * 1024;
/// Header and trailer of gzip.
const GZIP_MIN: u64 = 18;
/// Larger files are not unpacked: it takes some seconds.
pub(super) const UNPACK_MAX: u64 = 256 * 1024 * 1024;
/// Vectors shrink to a tenth at best; zeros to a thousandth.
const UNPACK_FACTOR: u64 = 20;
/// Up to 16 GiB of what was packed.
const ZSTD_BLOCKS_MAX: usize = 131_072;
