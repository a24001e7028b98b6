//! Unpacks what gzip, bzip2, xz and zstd made, as a stream that keeps nothing and ends at a bound.

use std::{
    fs::File,
    io::{self, BufReader, Read},
};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;

use crate::format::archive::ArchiveKind;

/// Where blocks come from.
pub(super) trait Blocks {
    /// Fills the buffer as far as there are bytes, and says how far. Errs when it cannot be read or unpacked.
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
    /// Steps over bytes; `false` when there are not so many. Errs when it cannot be read or unpacked.
    fn skip(&mut self, bytes: u64) -> io::Result<bool>;
}

/// What comes out of a packed file, as far as its bounds go.
pub(super) struct Unpacked<'a> {
    inner: Box<dyn Read + 'a>,
    bytes_left: u64,
    stopped: &'a dyn Fn() -> bool,
    scratch: Vec<u8>,
    /// The end of what came out.
    last: Vec<u8>,
}

impl<'a> Unpacked<'a> {
    /// Reads `file` from its begin. `None` for what is not packed, or in no such way.
    pub(super) fn new(
        file: &'a File,
        kind: ArchiveKind,
        bytes_max: u64,
        stopped: &'a dyn Fn() -> bool,
    ) -> Option<Self> {
        let packed = BufReader::with_capacity(SCRATCH_BYTES, file);
        let inner: Box<dyn Read + 'a> = match kind {
            ArchiveKind::Gzip => Box::new(MultiGzDecoder::new(packed)),
            ArchiveKind::Bzip2 => Box::new(MultiBzDecoder::new(packed)),
            ArchiveKind::Xz => Box::new(XzReader::new_mem_limit(packed, true, XZ_MEMORY_KIB_MAX)),
            ArchiveKind::Zstd => Box::new(zstd(packed).ok()?),
            ArchiveKind::Tar | ArchiveKind::Zip | ArchiveKind::Sqlite => return None,
        };
        let scratch = vec![0; SCRATCH_BYTES];
        Some(Self { inner, bytes_left: bytes_max, stopped, scratch, last: Vec::new() })
    }

    fn read(&mut self, len: usize) -> io::Result<usize> {
        if self.bytes_left == 0 || (self.stopped)() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "stopped at a limit"));
        }
        let read = self.inner.read(&mut self.scratch[..len.min(SCRATCH_BYTES)])?;
        self.bytes_left = self.bytes_left.saturating_sub(read as u64);
        let end = &self.scratch[read.saturating_sub(LAST_BYTES)..read];
        self.last.extend(end);
        let surplus = self.last.len().saturating_sub(LAST_BYTES);
        self.last.drain(..surplus);
        Ok(read)
    }

    /// Reads to the end, where checksums are compared. Gives the bytes that it read. Errs when it cannot be read or unpacked.
    pub(super) fn drain(&mut self) -> io::Result<u64> {
        let mut bytes = 0_u64;
        loop {
            match self.read(SCRATCH_BYTES)? {
                0 => return Ok(bytes),
                read => bytes += read as u64,
            }
        }
    }

    /// The last bytes that came out.
    pub(super) fn last(&self) -> &[u8] {
        &self.last
    }
}

impl Blocks for Unpacked<'_> {
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

/// Frame after frame, those that are to be stepped over included. Errs when the unpacker does not begin.
fn zstd(packed: BufReader<&File>) -> io::Result<impl Read> {
    let mut zstd = zstd::stream::read::Decoder::with_buffer(packed)?;
    zstd.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    Ok(zstd)
}

const SCRATCH_BYTES: usize = 64 * 1024;
/// Enough for the last line of a dump.
const LAST_BYTES: usize = 64;
/// `xz -9` takes 65 MB; a header may ask for 4 GB.
const XZ_MEMORY_KIB_MAX: u32 = 128 * 1024;
/// 128 MiB: what `zstd --long` takes.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;
