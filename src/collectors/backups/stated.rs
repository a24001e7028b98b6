//! The manifest of a backup of ours, where there is one: in the directory, or as the first entry of the archive.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek},
    path::Path,
};

use super::proof::Proof;
use crate::{
    format::{
        manifest::{BYTES_MAX, MANIFEST_FILE, Manifest},
        tar::{BLOCK_LEN, Block},
    },
    store::database::open_bytes,
};

/// What the manifest in the directory `path` says of how it was proven; `None` without one, or where it says nothing.
pub(super) fn in_directory(path: &Path) -> Option<Proof> {
    let file = open_bytes(&path.join(MANIFEST_FILE)).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    read(file).ok().flatten()
}

/// The same of an archive, of which only the beginning is unpacked.
pub(super) fn in_archive(mut file: &File) -> Option<Proof> {
    file.rewind().ok()?;
    let packed = zstd::Decoder::with_buffer(BufReader::new(file)).and_then(|mut decoder| {
        decoder.window_log_max(WINDOW_LOG_MAX)?;
        Ok(decoder)
    });
    let mut unpacked = packed.ok()?;
    let mut block = [0; BLOCK_LEN];
    unpacked.read_exact(&mut block).ok()?;
    let Block::Header(header) = Block::parse(&block) else { return None };
    let ours = header.name == MANIFEST_FILE.as_bytes() && header.data_bytes <= BYTES_MAX;
    if ours { read(unpacked.take(header.data_bytes)).ok().flatten() } else { None }
}

fn read(from: impl Read) -> io::Result<Option<Proof>> {
    let mut text = Vec::new();
    from.take(BYTES_MAX + 1).read_to_end(&mut text)?;
    let Ok(manifest) = Manifest::parse(&text) else { return Ok(None) };
    let records = manifest.records();
    Ok(manifest.proof.map(|proof| Proof {
        restores: proof.restores,
        at: proof.moment,
        seconds: proof.seconds,
        records,
        losses: proof.findings.into_iter().collect(),
    }))
}

/// Windows of 8 MiB, as zstd itself bounds them without `--long`.
const WINDOW_LOG_MAX: u32 = 23;
