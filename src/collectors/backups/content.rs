//! Walks the entries of a tar, plain or gzipped, to its end. A file that was cut off anywhere, within a run of zeros or
//! between two blocks too, is told from a whole one; what was packed must hold a database.

use std::{
    fs::File,
    io::{self, BufReader, Read},
};

use flate2::read::MultiGzDecoder;
use rustix::fs::Advice;

use super::entry::{Fault, Reason};
use crate::{
    format::{
        archive::Kind,
        sqlite::{HEADER_LEN, SqliteHeader},
        tar::{BLOCK_LEN, Block, Header, Kind as EntryKind, padded, sparse_map_goes_on},
    },
    store::database::read_up_to,
};

/// How a walk came out, when nothing is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Walked {
    /// Everything is there.
    Whole,
    /// It was given up at a bound.
    GivenUp,
}

/// Where blocks come from.
trait Blocks {
    /// Fills the buffer as far as there are bytes, and says how far.
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
    /// Steps over bytes; `false` when there are not so many.
    fn skip(&mut self, bytes: u64) -> io::Result<bool>;
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

/// A stream that is unpacked, as far as its bounds go.
struct Unpacked<'a, R> {
    inner: R,
    bytes_left: u64,
    stopped: &'a dyn Fn() -> bool,
    scratch: Vec<u8>,
}

impl<R: Read> Unpacked<'_, R> {
    fn read(&mut self, len: usize) -> io::Result<usize> {
        if self.bytes_left == 0 || (self.stopped)() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "given up at a bound"));
        }
        let read = self.inner.read(&mut self.scratch[..len.min(SCRATCH_BYTES)])?;
        self.bytes_left = self.bytes_left.saturating_sub(read as u64);
        Ok(read)
    }

    /// Reads to the end, where the checksum is compared.
    fn drain(&mut self) -> io::Result<u64> {
        let mut bytes = 0_u64;
        loop {
            match self.read(SCRATCH_BYTES)? {
                0 => return Ok(bytes),
                read => bytes += read as u64,
            }
        }
    }
}

impl<R: Read> Blocks for Unpacked<'_, R> {
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            let read = self.read(buffer.len() - filled)?;
            if read == 0 {
                break;
            }
            buffer[filled..filled + read].copy_from_slice(&self.scratch[..read]);
            filled += read;
        }
        Ok(filled)
    }

    fn skip(&mut self, bytes: u64) -> io::Result<bool> {
        let mut left = bytes;
        while left > 0 {
            let read = self.read(usize::try_from(left).unwrap_or(usize::MAX))?;
            if read == 0 {
                return Ok(false);
            }
            left -= read as u64;
        }
        Ok(true)
    }
}

/// Walks a plain tar of `size` bytes, header by header.
pub(super) fn walk_tar(
    file: &File,
    size: u64,
    stopped: &dyn Fn() -> bool,
) -> Result<Walked, Fault> {
    // A walk jumps from header to header: reading ahead would read everything.
    rustix::fs::fadvise(file, 0, None, Advice::Random).unwrap_or_default();
    finish(walk(&mut Plain { file, size, at: 0 }, None, stopped))
}

/// Unpacks a gzip file to its end, keeping nothing, and walks the tar in it; of anything else the checksum is proof enough.
/// Gives up when more than `bytes_max` come out.
pub(super) fn walk_gzip(
    file: &File,
    bytes_max: u64,
    stopped: &dyn Fn() -> bool,
) -> Result<Walked, Fault> {
    let inner = MultiGzDecoder::new(BufReader::with_capacity(SCRATCH_BYTES, file));
    let scratch = vec![0; SCRATCH_BYTES];
    let mut stream = Unpacked { inner, bytes_left: bytes_max, stopped, scratch };
    finish(unpack(&mut stream, stopped))
}

fn unpack<R: Read>(
    stream: &mut Unpacked<'_, R>,
    stopped: &dyn Fn() -> bool,
) -> io::Result<Result<Walked, Fault>> {
    let mut first = [0; BLOCK_LEN];
    let filled = stream.fill(&mut first)?;
    let kind = Kind::of_bytes(&first[..filled]);
    if kind == Some(Kind::Tar) {
        let walked = walk(stream, Some(&first), stopped)?;
        if walked == Ok(Walked::Whole) {
            stream.drain()?;
        }
        return Ok(walked);
    }
    let unpacked = stream.drain()? + filled as u64;
    Ok(match kind {
        _ if unpacked == 0 => Err(Fault::new(Reason::Empty, "nothing is packed in it")),
        Some(Kind::Sqlite) => whole_database(&first[..filled.min(HEADER_LEN)], unpacked),
        _ => Ok(Walked::Whole),
    })
}

/// Whether a packed database has all the pages that its header states.
fn whole_database(header: &[u8], bytes: u64) -> Result<Walked, Fault> {
    let damaged = |words: String| Err(Fault::new(Reason::Damaged, words));
    match SqliteHeader::parse(header) {
        Err(error) => damaged(format!("its database has no sound header: {error}")),
        Ok(header) => match header.stated_bytes() {
            Some(stated) if bytes < stated => {
                damaged(format!("its database is cut off: {bytes} of {stated} bytes"))
            }
            _ => Ok(Walked::Whole),
        },
    }
}

/// What an error while unpacking means: the bytes are wrong, a bound was reached, or they cannot be read.
fn finish(walked: io::Result<Result<Walked, Fault>>) -> Result<Walked, Fault> {
    walked.unwrap_or_else(|error| match error.kind() {
        io::ErrorKind::TimedOut => Ok(Walked::GivenUp),
        io::ErrorKind::UnexpectedEof => Err(Fault::new(Reason::Damaged, "it is cut off")),
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
            Err(Fault::new(Reason::Damaged, format!("it cannot be unpacked: {error}")))
        }
        _ => Err(Fault::unreadable(&error)),
    })
}

fn walk(
    blocks: &mut impl Blocks,
    first: Option<&[u8; BLOCK_LEN]>,
    stopped: &dyn Fn() -> bool,
) -> io::Result<Result<Walked, Fault>> {
    let damaged = |words: &str| Ok(Err(Fault::new(Reason::Damaged, words)));
    let mut block = [0; BLOCK_LEN];
    let mut first = first;
    let mut database = false;
    for _ in 0..ENTRIES_MAX {
        if stopped() {
            return Ok(Ok(Walked::GivenUp));
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
                return if database {
                    Ok(Ok(Walked::Whole))
                } else {
                    damaged("no database is in it")
                };
            }
        };
        let (name_says, data_bytes) = (is_database(header.name), header.data_bytes);
        let (long_name, map_goes_on) = (header.kind == EntryKind::LongName, header.map_goes_on);
        database |= name_says && matches!(header, Header { kind: EntryKind::File, .. });
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
        let mut rest = padded(data_bytes);
        if long_name && data_bytes <= LONG_NAME_MAX {
            let mut name = vec![0; usize::try_from(rest).unwrap_or(0)];
            if blocks.fill(&mut name)? < name.len() {
                return damaged("it is cut off");
            }
            database |= name.windows(DATABASE_WORD.len()).any(|part| part == DATABASE_WORD);
            rest = 0;
        }
        if !blocks.skip(rest)? {
            return damaged("it is cut off within a file");
        }
    }
    Ok(Ok(Walked::GivenUp))
}

/// Whether the file may be a database, or a dump of one.
fn is_database(name: &[u8]) -> bool {
    let name = name.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let beside = name.ends_with(b"-journal") || name.ends_with(b"-wal") || name.ends_with(b"-shm");
    let has = |word: &[u8]| name.windows(word.len()).any(|part| part == word);
    !beside && (has(DATABASE_WORD) || has(b".db") || has(b".sql"))
}

const DATABASE_WORD: &[u8] = b".sqlite";
/// Chroma's directories have a few files per collection.
const ENTRIES_MAX: usize = 200_000;
const SPARSE_BLOCKS_MAX: usize = 100_000;
const LONG_NAME_MAX: u64 = 64 * 1024;
const SCRATCH_BYTES: usize = 64 * 1024;
