//! What the manifest of a backup says against what is there.

use std::{collections::BTreeMap, fs, path::Path};

use sha2::{Digest, Sha256};

use super::{
    Cannot, UnpackError,
    files::entries,
    sink::FileSeen,
    source::{Plain, Source},
};
use crate::{
    format::manifest::{BYTES_MAX, MANIFEST_FILE, Manifest},
    human,
    repair::steps::Steps,
    store::database::open_bytes,
};

/// The manifest in `dir`, when there is one. One that cannot be read is damage.
pub(super) fn read(dir: &Path, files: usize, damage: &mut Vec<String>) -> Option<Manifest> {
    let path = dir.join(MANIFEST_FILE);
    let bytes = fs::metadata(&path).ok()?.len();
    // Of a backup with so few files none is so long, and memory is bounded.
    let most = LINE_MAX.saturating_mul(files as u64).saturating_add(BASE).min(BYTES_MAX);
    if bytes > most {
        damage.push(format!(
            "{MANIFEST_FILE} has {}, which is too much for {files} files: it was not read",
            human::bytes(bytes)
        ));
        return None;
    }
    let text = fs::read(&path).ok()?;
    match Manifest::parse(&text) {
        Ok(manifest) => Some(manifest),
        Err(error) => {
            damage.push(format!("{MANIFEST_FILE} cannot be read: {error}"));
            None
        }
    }
}

/// Lengths and hashes of the files that the manifest names. Errs when a file cannot be read, or the steps were stopped.
pub(super) fn hash(
    dir: &Path,
    manifest: &Manifest,
    steps: &Steps,
) -> Result<BTreeMap<String, FileSeen>, UnpackError> {
    let mut seen: BTreeMap<String, FileSeen> = BTreeMap::new();
    for (path, meta) in entries(dir)? {
        let known = manifest.files.iter().any(|file| file.path == path);
        let sha256 = if known { Some(hash_of(&dir.join(&path), meta.len(), steps)?) } else { None };
        seen.insert(path, FileSeen { bytes: meta.len(), sha256, modified: None });
    }
    Ok(seen)
}

fn hash_of(path: &Path, bytes: u64, steps: &Steps) -> Result<String, UnpackError> {
    let unreadable = |source| UnpackError::Unreadable { path: path.to_owned(), source };
    let mut source = Plain::new(open_bytes(path).map_err(unreadable)?, bytes, steps);
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 256 * 1024]);
    loop {
        let read = source.fill(&mut buffer).map_err(Cannot::read)?;
        if read == 0 {
            return Ok(human::hex(&hash.finalize()));
        }
        hash.update(&buffer[..read]);
    }
}

/// Tells every difference, as far as there is room.
pub(super) fn compare(
    manifest: &Manifest,
    files: &BTreeMap<String, FileSeen>,
    damage: &mut Vec<String>,
) {
    let mut reported = Vec::new();
    for file in &manifest.files {
        let name = human::plain(&file.path);
        match files.get(&file.path) {
            None => reported.push(format!("{name} is in the manifest and not in the backup")),
            Some(found) if found.bytes != file.bytes => reported.push(format!(
                "{name} has {}, the manifest says {}",
                human::exact_bytes(found.bytes),
                human::exact_bytes(file.bytes)
            )),
            Some(FileSeen { sha256: Some(sha256), .. }) if *sha256 != file.sha256 => {
                reported
                    .push(format!("{name} is not what was backed up: its SHA-256 is another one"));
            }
            Some(_) => {}
        }
    }
    for path in files.keys().filter(|path| *path != MANIFEST_FILE) {
        if !manifest.files.iter().any(|file| file.path == *path) {
            reported
                .push(format!("{} is in the backup and not in the manifest", human::plain(path)));
        }
    }
    let more = reported.len().saturating_sub(LISTED_MAX);
    reported.truncate(LISTED_MAX);
    damage.append(&mut reported);
    if more > 0 {
        damage.push(format!("{more} more files differ from the manifest"));
    }
}

const LINE_MAX: u64 = 8 * 1024;
const BASE: u64 = 4 << 20;
const LISTED_MAX: usize = 10;
