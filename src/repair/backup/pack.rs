//! The archive: a tar packed by zstd, with the manifest as its first entry and nothing but regular files. The manifest holds the
//! proof, and the proof takes as long as the packing. So both are done at the same time: room for the manifest is left at
//! the beginning, and what of it is not needed is a frame that every reader of zstd steps over (RFC 8878, 3.1.2).

use std::{
    fs::{self, File},
    hash::Hasher,
    io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    os::unix::fs::FileExt,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use sha2::{Digest, Sha256};
use twox_hash::XxHash3_64;

use crate::{
    clock::Timestamp,
    format::manifest::{self, MANIFEST_FILE, Manifest},
    human,
    repair::steps::Steps,
};

/// What was packed behind the manifest.
#[derive(Debug)]
pub(super) struct Content {
    /// Each file, in the order of the archive.
    pub(super) files: Vec<manifest::File>,
    /// XXH3 of the tar, without the entry of the manifest.
    hash: u64,
}

/// Room for the manifest of so many files with so many bytes. None for a small archive, which is packed when its manifest is
/// known; a large one is not made larger by it in a way that matters.
pub(super) fn room_for(files: usize, bytes: u64) -> u64 {
    if bytes < LARGE_BYTES { 0 } else { MANIFEST_ROOM_BYTES + files as u64 * 128 }
}

/// Packs `files` of `root` into `out`, from the byte `at` on. Errs when a file cannot be read, `out` cannot be written, or `stop` is set.
pub(super) fn content(
    out: &File,
    at: u64,
    root: &Path,
    files: &[String],
    moment: Timestamp,
    stop: &AtomicBool,
) -> io::Result<Content> {
    let mut place = out;
    place.seek(SeekFrom::Start(at))?;
    let packed = encoder(BufWriter::with_capacity(CHUNK_BYTES, place))?;
    let mut tar = Hashed { inner: packed, hash: XxHash3_64::with_seed(0) };
    let mut reported = Vec::new();
    let mut buffer = vec![0; CHUNK_BYTES];
    for path in files {
        let mut from = File::open(root.join(path))?;
        let bytes = from.metadata()?.len();
        tar.write_all(entry(path, bytes, moment)?.as_bytes())?;
        let mut sum = Sha256::new();
        let mut left = bytes;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            let read = from.read(&mut buffer[..wanted])?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            sum.update(&buffer[..read]);
            tar.write_all(&buffer[..read])?;
            left -= read as u64;
            go_on(stop)?;
        }
        tar.write_all(padding(bytes))?;
        reported.push(manifest::File {
            path: path.clone(),
            bytes,
            sha256: human::hex(&sum.finalize()),
        });
    }
    // Two blocks of zeros are the end of a tar.
    tar.write_all(&[0; 2 * BLOCK])?;
    let Hashed { inner, hash } = tar;
    inner.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    Ok(Content { files: reported, hash: hash.finish() })
}

/// Puts the manifest into the first `room` bytes of `out`. Whether it went in. Errs when `out` cannot be written.
pub(super) fn head(out: &File, room: u64, manifest: &Manifest) -> io::Result<bool> {
    let frame = packed_head(manifest)?;
    let rest = room.checked_sub(frame.len() as u64);
    let Some(rest) = rest.filter(|rest| *rest == 0 || *rest >= 8) else { return Ok(false) };
    out.write_all_at(&frame, 0)?;
    if rest > 0 {
        let length = u32::try_from(rest - 8).map_err(io::Error::other)?;
        let skipped = [SKIPPABLE, length.to_le_bytes()].concat();
        out.write_all_at(&skipped, frame.len() as u64)?;
        // What is stepped over has no blocks on the disk.
    }
    Ok(true)
}

/// The entry of the manifest as a frame of its own. Errs when it cannot be packed.
pub(super) fn packed_head(manifest: &Manifest) -> io::Result<Vec<u8>> {
    let mut packed = encoder(Vec::new())?;
    packed.write_all(&head_entry(manifest)?)?;
    packed.finish()
}

fn head_entry(manifest: &Manifest) -> io::Result<Vec<u8>> {
    let text = manifest.to_json();
    let bytes = text.len() as u64;
    let mut out = entry(MANIFEST_FILE, bytes, manifest.moment)?.as_bytes().to_vec();
    out.extend_from_slice(&text);
    out.extend_from_slice(padding(bytes));
    Ok(out)
}

/// Unpacks a whole archive, and errs when it is not what was packed. Gives the SHA-256 of the archive itself.
pub(super) fn read_back(
    archive: &Path,
    manifest: &Manifest,
    content: &Content,
    steps: &Steps,
    stop: &AtomicBool,
) -> io::Result<String> {
    thread::scope(|scope| {
        // A second reading costs less than the sum, which is ready this way when all is unpacked.
        let sum = scope.spawn(|| sum_of(archive, stop));
        unpack(archive, manifest, content, steps, stop)?;
        let sum = sum.join().unwrap_or_else(|_| Err(io::Error::other("the sum panicked")))?;
        Ok(sum.sha256)
    })
}

fn unpack(
    archive: &Path,
    manifest: &Manifest,
    content: &Content,
    steps: &Steps,
    stop: &AtomicBool,
) -> io::Result<()> {
    let file = File::open(archive)?;
    steps.begin("reading the archive back", Some(file.metadata()?.len()));
    let buffered = BufReader::with_capacity(CHUNK_BYTES, Counted { inner: file, steps });
    let mut unpacked = zstd::stream::read::Decoder::with_buffer(buffered)?;
    let wanted = head_entry(manifest)?;
    let mut head = vec![0; wanted.len()];
    unpacked.read_exact(&mut head)?;
    let mut hash = XxHash3_64::with_seed(0);
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        let read = unpacked.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        hash.write(&buffer[..read]);
        go_on(stop)?;
    }
    if head != wanted || hash.finish() != content.hash {
        return Err(io::Error::other("the archive does not unpack to what was packed"));
    }
    Ok(())
}

/// The manifest of an archive of ours. Reads no more than its first entry. Errs when that cannot be read, or is no manifest.
pub(super) fn manifest_of(archive: &Path) -> io::Result<Manifest> {
    let invalid = |what: &'static str| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut unpacked = zstd::stream::read::Decoder::new(File::open(archive)?)?;
    unpacked.window_log_max(WINDOW_LOG_MAX)?;
    let mut header = tar::Header::new_gnu();
    unpacked.read_exact(header.as_mut_bytes())?;
    let bytes = header.entry_size()?;
    let named = header.path_bytes() == MANIFEST_FILE.as_bytes();
    if !named || !header.entry_type().is_file() || bytes > manifest::BYTES_MAX {
        return Err(invalid("its first entry is no manifest"));
    }
    let mut text = Vec::new();
    unpacked.take(bytes).read_to_end(&mut text)?;
    Manifest::parse(&text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// SHA-256 of a file. Errs when it cannot be read, or `stop` is set.
pub(super) fn sum_of(path: &Path, stop: &AtomicBool) -> io::Result<manifest::File> {
    let mut from = File::open(path)?;
    let (mut sum, mut buffer, mut bytes) = (Sha256::new(), vec![0; CHUNK_BYTES], 0);
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        sum.update(&buffer[..read]);
        bytes += read as u64;
        go_on(stop)?;
    }
    Ok(manifest::File { path: String::new(), bytes, sha256: human::hex(&sum.finalize()) })
}

/// SHA-256 of bytes.
pub(super) fn sum_of_bytes(bytes: &[u8]) -> String {
    human::hex(&Sha256::digest(bytes))
}

fn go_on(stop: &AtomicBool) -> io::Result<()> {
    if stop.load(Ordering::Relaxed) { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
}

fn encoder<W: Write>(to: W) -> io::Result<zstd::stream::write::Encoder<'static, W>> {
    let mut packed = zstd::stream::write::Encoder::new(to, LEVEL)?;
    packed.include_checksum(true)?;
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    packed.multithread(u32::try_from(workers.min(WORKERS_MAX)).unwrap_or(1))?;
    Ok(packed)
}

/// The header of a regular file that its owner alone may read. Errs when the path is too long.
fn entry(path: &str, bytes: u64, moment: Timestamp) -> io::Result<tar::Header> {
    let mut header = tar::Header::new_gnu();
    header.set_path(path)?;
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(bytes);
    header.set_mode(0o600);
    header.set_mtime(u64::try_from(moment.as_secs()).unwrap_or(0));
    header.set_cksum();
    Ok(header)
}

/// What fills the last block.
fn padding(bytes: u64) -> &'static [u8] {
    const ZEROS: [u8; BLOCK] = [0; BLOCK];
    let over = usize::try_from(bytes % BLOCK as u64).unwrap_or(0);
    if over == 0 { &[] } else { &ZEROS[over..] }
}

/// Hashes what goes through.
struct Hashed<W> {
    inner: W,
    hash: XxHash3_64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.write(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Counts what is read.
struct Counted<'a> {
    inner: File,
    steps: &'a Steps,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.steps.add(read as u64);
        Ok(read)
    }
}

/// Gives an archive to the disk. Errs when the disk does.
pub(super) fn sync(path: &Path) -> io::Result<()> {
    fs::OpenOptions::new().read(true).open(path)?.sync_all()
}

const BLOCK: usize = 512;
const CHUNK_BYTES: usize = 1 << 20;
/// Vectors do not get smaller by more effort, and text hardly does.
const LEVEL: i32 = 1;
const WORKERS_MAX: usize = 4;
/// A manifest of ours needs none larger.
const WINDOW_LOG_MAX: u32 = 24;
const LARGE_BYTES: u64 = 64 << 20;
const MANIFEST_ROOM_BYTES: u64 = 256 << 10;
const SKIPPABLE: [u8; 4] = [0x50, 0x2a, 0x4d, 0x18];
