//! Walks the entries of a tar, plain or packed, to its end. A file that was cut off anywhere, within a run of zeros or
//! between two blocks too, is told from a whole one; what was packed must hold a database.

use std::{fs::File, io};

use rustix::fs::Advice;

use super::{
    entry::{Fault, Reason},
    holds::Holds,
    packed::{Blocks, Unpacked},
};
use crate::{
    format::{
        archive::ArchiveKind,
        sqlite::{HEADER_LEN, SqliteHeader},
        tar::{Ahead, BLOCK_LEN, Block, EntryKind, padded, sparse_map_goes_on},
    },
    human,
    store::database::read_up_to,
};

/// How a walk came out, when nothing is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Walked {
    /// Everything is there; what is in it.
    Whole(Holds),
    /// It was stopped at a limit.
    GivenUp,
}

/// Why a walk did not come to its end.
#[derive(Debug)]
enum WalkError {
    /// What was read shows that the backup does not restore.
    Fault(Fault),
    /// Reading or unpacking ended.
    Io(io::Error),
}

impl From<Fault> for WalkError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<io::Error> for WalkError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A file that is read where it must be.
struct Plain<'a> {
    file: &'a File,
    size: u64,
    at: u64,
}

impl Blocks for Plain<'_> {
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let filled = read_up_to(self.file, buffer, self.at)?;
        self.at += filled as u64;
        Ok(filled)
    }

    fn skip(&mut self, bytes: u64) -> io::Result<bool> {
        self.at = self.at.saturating_add(bytes);
        Ok(self.at <= self.size)
    }
}

/// Walks a plain tar of `size` bytes, header by header. Errs when it is damaged or cannot be read.
pub(super) fn walk_tar(
    file: &File,
    size: u64,
    stopped: &dyn Fn() -> bool,
) -> Result<Walked, Fault> {
    // A walk jumps from header to header: reading ahead would read everything.
    rustix::fs::fadvise(file, 0, None, Advice::Random).unwrap_or_default();
    finish(walk(&mut Plain { file, size, at: 0 }, None, stopped), ArchiveKind::Tar)
}

/// Unpacks a file to its end, keeping nothing, and walks the tar in it; of a database the header is looked at, of a dump
/// the end, of anything else the checksum is proof enough. Gives up when more than `bytes_max` come out.
/// Errs when it is damaged or cannot be read.
pub(super) fn walk_packed(
    file: &File,
    kind: ArchiveKind,
    bytes_max: u64,
    stopped: &dyn Fn() -> bool,
) -> Result<Walked, Fault> {
    match Unpacked::new(file, kind, bytes_max, stopped) {
        Some(mut stream) => finish(unpack(&mut stream, stopped), kind),
        None => Ok(Walked::GivenUp),
    }
}

fn unpack(stream: &mut Unpacked<'_>, stopped: &dyn Fn() -> bool) -> Result<Walked, WalkError> {
    let mut first = [0; BLOCK_LEN];
    let filled = stream.fill(&mut first)?;
    let kind = ArchiveKind::of_bytes(&first[..filled]);
    if kind == Some(ArchiveKind::Tar) {
        let walked = walk(stream, Some(&first), stopped)?;
        if matches!(walked, Walked::Whole(_)) {
            stream.drain()?;
        }
        return Ok(walked);
    }
    let unpacked = stream.drain()? + filled as u64;
    match kind {
        _ if unpacked == 0 => {
            return Err(Fault::new(Reason::Empty, "nothing is packed in it").into());
        }
        Some(ArchiveKind::Sqlite) => {
            whole_database(&first[..filled.min(HEADER_LEN)], unpacked)?;
        }
        None if is_dump(&first[..filled]) => whole_dump(stream.last())?,
        None => {}
        // An archive in an archive: what is in that one is not looked at.
        Some(_) => return Ok(Walked::GivenUp),
    }
    Ok(Walked::Whole(Holds::database_alone()))
}

/// Whether a text begins as `sqlite3 .dump` does.
pub(super) fn is_dump(head: &[u8]) -> bool {
    head.starts_with(b"PRAGMA foreign_keys=OFF;") || head.starts_with(b"BEGIN TRANSACTION;")
}

/// Whether a dump came to its end, by its last bytes. SQLite writes ROLLBACK when it met damage, and such a dump restores
/// nothing. Errs when it did not.
pub(super) fn whole_dump(last: &[u8]) -> Result<(), Fault> {
    let last = last.trim_ascii_end();
    if last.ends_with(b"COMMIT;") {
        return Ok(());
    }
    let failed = last.windows(ROLLBACK.len()).any(|part| part == ROLLBACK);
    let words = if failed {
        "it is a dump that ends in ROLLBACK: the database was damaged, and the dump restores nothing"
    } else {
        "it is a dump that does not end with COMMIT: it is cut off"
    };
    Err(Fault::new(Reason::Damaged, words))
}

/// Whether a packed database has all the pages that its header states. Errs when it has not, or its header is damaged.
fn whole_database(header: &[u8], bytes: u64) -> Result<(), Fault> {
    let damaged = |words: String| Err(Fault::new(Reason::Damaged, words));
    match SqliteHeader::parse(header) {
        Err(error) => damaged(format!("its database has no sound header: {error}")),
        Ok(header) => match header.stated_bytes() {
            Some(stated) if bytes < stated => damaged(format!(
                "its database is cut off: {} of {}",
                human::exact_bytes(bytes),
                human::exact_bytes(stated)
            )),
            _ => Ok(()),
        },
    }
}

/// What an error while unpacking means: the bytes are wrong, a bound was reached, or they cannot be read.
fn finish(walked: Result<Walked, WalkError>, kind: ArchiveKind) -> Result<Walked, Fault> {
    let error = match walked {
        Ok(walked) => return Ok(walked),
        Err(WalkError::Fault(fault)) => return Err(fault),
        Err(WalkError::Io(error)) => error,
    };
    match (error.kind(), kind) {
        (io::ErrorKind::TimedOut, _) => Ok(Walked::GivenUp),
        _ if error.raw_os_error().is_some() => Err(Fault::unreadable(&error)),
        (io::ErrorKind::UnexpectedEof, _) => Err(Fault::new(Reason::Damaged, "it is cut off")),
        (io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput, _) => {
            Err(Fault::new(Reason::Damaged, format!("it cannot be unpacked: {error}")))
        }
        // These decoders also err on what is sound and only needs more memory, or a dictionary.
        (_, ArchiveKind::Xz | ArchiveKind::Zstd) => Err(Fault::new(
            Reason::Unknown,
            format!("it cannot be unpacked here ({error}): its content is not known"),
        )),
        _ => Err(Fault::unreadable(&error)),
    }
}

fn walk(
    blocks: &mut impl Blocks,
    first: Option<&[u8; BLOCK_LEN]>,
    stopped: &dyn Fn() -> bool,
) -> Result<Walked, WalkError> {
    let damaged = |words: &str| Err(Fault::new(Reason::Damaged, words).into());
    let mut block = [0; BLOCK_LEN];
    let mut first = first;
    let mut holds = Holds::default();
    let mut ahead = Ahead::default();
    for _ in 0..ENTRIES_MAX {
        if stopped() {
            return Ok(Walked::GivenUp);
        }
        match first.take() {
            Some(known) => block = *known,
            None if blocks.fill(&mut block)? < BLOCK_LEN => {
                return damaged(
                    "it is cut off: the two empty blocks at the end of a tar are missing",
                );
            }
            None => {}
        }
        let header = match Block::parse(&block) {
            Block::Header(header) => header,
            Block::Foreign => return damaged("a header in it is damaged"),
            Block::Zeros => {
                if blocks.fill(&mut block)? < BLOCK_LEN || Block::parse(&block) != Block::Zeros {
                    return damaged("it is cut off: a tar ends with two empty blocks");
                }
                return if holds.database {
                    Ok(Walked::Whole(holds))
                } else {
                    damaged("no database is in it")
                };
            }
        };
        let (kind, mut data_bytes, map_goes_on) =
            (header.kind, header.data_bytes, header.map_goes_on);
        match kind {
            EntryKind::LongName | EntryKind::Pax if data_bytes <= LONG_NAME_MAX => {
                let mut data = vec![0; usize::try_from(padded(data_bytes)).unwrap_or(0)];
                if blocks.fill(&mut data)? < data.len() {
                    return damaged("it is cut off");
                }
                data.truncate(usize::try_from(data_bytes).unwrap_or(0));
                ahead.take_in(kind, &data);
                continue;
            }
            EntryKind::LongName | EntryKind::Pax | EntryKind::Aside => {}
            EntryKind::File | EntryKind::Link | EntryKind::Other => {
                let Ahead { name, data_bytes: stated, .. } = std::mem::take(&mut ahead);
                let path = name.unwrap_or_else(|| header.path());
                match kind {
                    EntryKind::File => {
                        data_bytes = stated.unwrap_or(data_bytes);
                        holds.note(&path, data_bytes);
                    }
                    // Its bytes stand with the first of its names.
                    EntryKind::Link => holds.note(&path, 1),
                    _ => {}
                }
            }
        }
        if map_goes_on {
            for _ in 0..SPARSE_BLOCKS_MAX {
                if blocks.fill(&mut block)? < BLOCK_LEN {
                    return damaged("it is cut off");
                }
                if !sparse_map_goes_on(&block) {
                    break;
                }
            }
        }
        if !blocks.skip(padded(data_bytes))? {
            return damaged("it is cut off within a file");
        }
    }
    Ok(Walked::GivenUp)
}

const ROLLBACK: &[u8] = b"ROLLBACK;";
/// Chroma's directories have a few files per collection.
const ENTRIES_MAX: usize = 200_000;
const SPARSE_BLOCKS_MAX: usize = 100_000;
const LONG_NAME_MAX: u64 = 64 * 1024;
