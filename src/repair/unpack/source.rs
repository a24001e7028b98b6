//! Reading what is packed, as a stream that is bounded in memory, in bytes and in time. Unpacking has a thread of its own.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    sync::mpsc::{self, Receiver, Sender},
    thread,
};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;

use crate::{format::archive::ArchiveKind, repair::steps::Steps};

/// Where an archive comes from.
pub(super) trait Source {
    /// Fills the buffer as far as there are bytes, and says how far. Errs when it cannot be read or unpacked.
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
    /// Steps over bytes; `false` when there are not so many. Errs when it cannot be read or unpacked.
    fn skip(&mut self, bytes: u64) -> io::Result<bool>;
}

/// A file as it is: what is not wanted is not read.
pub(super) struct Plain {
    file: File,
    bytes: u64,
    at: u64,
    steps: Steps,
}

impl Plain {
    pub(super) fn new(file: File, bytes: u64, steps: &Steps) -> Self {
        Self { file, bytes, at: 0, steps: steps.clone() }
    }
}

impl Source for Plain {
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        stop(&self.steps)?;
        let read = fill(&mut self.file, buffer)?;
        self.at += read as u64;
        self.steps.add(read as u64);
        Ok(read)
    }

    fn skip(&mut self, bytes: u64) -> io::Result<bool> {
        stop(&self.steps)?;
        self.at = self.at.saturating_add(bytes);
        self.steps.add(bytes);
        if self.at > self.bytes {
            return Ok(false);
        }
        self.file.seek(SeekFrom::Start(self.at))?;
        Ok(true)
    }
}

/// What comes out of a packed file.
pub(super) struct Unpacked {
    pieces: Receiver<io::Result<Vec<u8>>>,
    /// Takes pieces back: a new one each time costs more in page faults than unpacking does.
    used: Sender<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
    left: u64,
    steps: Steps,
}

impl Unpacked {
    /// Unpacks `file` from its beginning, `bytes` long. `None` when it is not packed in a known way.
    /// Errs when the unpacker does not begin, or the system gives no thread.
    pub(super) fn new(
        file: File,
        bytes: u64,
        kind: ArchiveKind,
        steps: &Steps,
    ) -> io::Result<Option<Self>> {
        let packed = Counted { file, steps: steps.clone() };
        let packed = BufReader::with_capacity(PIECE, packed);
        let mut inner: Box<dyn Read + Send> = match kind {
            ArchiveKind::Gzip => Box::new(MultiGzDecoder::new(packed)),
            ArchiveKind::Bzip2 => Box::new(MultiBzDecoder::new(packed)),
            ArchiveKind::Xz => Box::new(XzReader::new_mem_limit(packed, true, XZ_MEMORY_KIB_MAX)),
            ArchiveKind::Zstd => {
                let mut zstd = zstd::stream::read::Decoder::with_buffer(packed)?;
                zstd.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Box::new(zstd)
            }
            ArchiveKind::Tar | ArchiveKind::Zip | ArchiveKind::Sqlite => return Ok(None),
        };
        let (send, pieces) = mpsc::sync_channel(PIECES);
        let (used, again) = mpsc::channel::<Vec<u8>>();
        let stopped = steps.clone();
        thread::Builder::new().name("unpack".to_owned()).spawn(move || {
            loop {
                let mut piece = again.try_recv().unwrap_or_default();
                piece.resize(PIECE, 0);
                let (read, failed) = fill_until(&mut inner, &mut piece);
                piece.truncate(read);
                // Nobody listens any more when it is not wanted. What came out before an error is there.
                if stopped.stopped()
                    || (read > 0 || failed.is_none()) && send.send(Ok(piece)).is_err()
                {
                    return;
                }
                if let Some(error) = failed {
                    drop(send.send(Err(error)));
                    return;
                }
                if read == 0 {
                    return;
                }
            }
        })?;
        let left = bytes.saturating_mul(RATIO_MAX).saturating_add(UNPACKED_MIN);
        let piece = Vec::new();
        Ok(Some(Self { pieces, used, piece, at: 0, left, steps: steps.clone() }))
    }

    /// What there is, at most `most` bytes; empty at the end. Errs when it cannot be unpacked, is too long, or the steps were stopped.
    fn next(&mut self, most: usize) -> io::Result<&[u8]> {
        stop(&self.steps)?;
        if self.at == self.piece.len() {
            // The thread that unpacks ends without a word when it was told to stop.
            let next = self.pieces.recv().unwrap_or_else(|_| Ok(Vec::new()))?;
            let piece = std::mem::replace(&mut self.piece, next);
            if piece.capacity() > 0 {
                // It has no use any more once unpacking has ended.
                drop(self.used.send(piece));
            }
            self.at = 0;
            let bytes = self.piece.len() as u64;
            self.left = self.left.checked_sub(bytes).ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::QuotaExceeded,
                    "far more comes out of it than a backup of this size holds",
                )
            })?;
        }
        let end = self.piece.len().min(self.at.saturating_add(most));
        let part = &self.piece[self.at..end];
        self.at = end;
        Ok(part)
    }
}

impl Source for Unpacked {
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            let part = self.next(buffer.len() - filled)?;
            if part.is_empty() {
                break;
            }
            buffer[filled..filled + part.len()].copy_from_slice(part);
            filled += part.len();
        }
        Ok(filled)
    }

    fn skip(&mut self, bytes: u64) -> io::Result<bool> {
        let mut left = bytes;
        while left > 0 {
            let read = self.next(usize::try_from(left).unwrap_or(usize::MAX))?.len();
            if read == 0 {
                return Ok(false);
            }
            left -= read as u64;
        }
        Ok(true)
    }
}

/// Counts what is read of the packed file.
struct Counted {
    file: File,
    steps: Steps,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.steps.add(read as u64);
        Ok(read)
    }
}

/// Reads until the buffer is full or the end is there. Errs when it cannot be read.
pub(super) fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    match fill_until(from, buffer) {
        (filled, None) => Ok(filled),
        (_, Some(error)) => Err(error),
    }
}

/// The same, with what was read before an error.
fn fill_until(from: &mut impl Read, buffer: &mut [u8]) -> (usize, Option<io::Error>) {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (filled, Some(error)),
        }
    }
    (filled, None)
}

/// Errs when the job is not wanted any more.
pub(super) fn stop(steps: &Steps) -> io::Result<()> {
    if steps.stopped() {
        return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "stopped"));
    }
    Ok(())
}

/// Bytes that are handed over at a time, and how many pieces may wait: 2 MiB.
const PIECE: usize = 256 * 1024;
const PIECES: usize = 8;
/// `xz -9` takes 65 MB, `xz -6`, which tar takes, 9 MB; a header may ask for 4 GB.
const XZ_MEMORY_KIB_MAX: u32 = 68 * 1024;
/// 32 MiB; `zstd -19` takes 8 MiB, `--long` 128 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 25;
/// Vectors shrink to a tenth at best and texts to a twentieth. Holes of a file come on top, as zeros.
const RATIO_MAX: u64 = 100;
const UNPACKED_MIN: u64 = 16 << 30;
