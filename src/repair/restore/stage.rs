//! A backup becomes files on the filesystem of the store.

use std::{collections::BTreeMap, fs, io, os::unix::fs::OpenOptionsExt, path::Path};

use rustix::fs::OFlags;

use super::RestoreError;
use crate::{
    format::uuid::parse_uuid,
    repair::{quarantine::Quarantine, steps::Steps},
    store::DATABASE_FILE,
};

/// Every file of a store below `dir`, with its length: the database, and what lies in folders of segments.
pub(super) fn files(dir: &Path) -> io::Result<BTreeMap<String, u64>> {
    let mut out = BTreeMap::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let meta = entry.metadata()?;
        if meta.is_file() && is_database(name) {
            out.insert(name.to_owned(), meta.len());
        } else if meta.is_dir() && parse_uuid(name.as_bytes()).is_some() {
            for inner in fs::read_dir(entry.path())? {
                let inner = inner?;
                let meta = inner.metadata()?;
                if let Some(inner) = inner.file_name().to_str().filter(|_| meta.is_file()) {
                    out.insert(format!("{name}/{inner}"), meta.len());
                }
            }
        }
    }
    Ok(out)
}

fn is_database(name: &str) -> bool {
    matches!(name.strip_prefix(DATABASE_FILE), Some("" | "-journal" | "-wal"))
}

/// Bytes that it needs at least on the filesystem of the store.
pub(super) fn bytes(backup: &Path) -> io::Result<u64> {
    let meta = fs::metadata(backup)?;
    if meta.is_dir() {
        return Ok(files(backup)?.values().fold(0, |sum: u64, bytes| sum.saturating_add(*bytes)));
    }
    Ok(meta.len())
}

/// Writes it into the quarantine.
pub(super) fn unpack(
    backup: &Path,
    quarantine: &Quarantine,
    steps: &Steps,
) -> Result<(), RestoreError> {
    let unreadable = |source| RestoreError::Unreadable { path: backup.to_owned(), source };
    copy(backup, &quarantine.incoming(), steps).map_err(unreadable)
}

/// Copies a directory: regular files only, and none through a link.
fn copy(from: &Path, to: &Path, steps: &Steps) -> io::Result<()> {
    let files = files(from)?;
    let bytes = files.values().fold(0, |sum: u64, bytes| sum.saturating_add(*bytes));
    steps.begin("copying", Some(bytes));
    for (name, bytes) in files {
        if steps.stopped() {
            return Err(io::Error::other("stopped"));
        }
        let target = to.join(&name);
        if let Some(folder) = target.parent() {
            fs::create_dir_all(folder)?;
        }
        let flags = i32::try_from(OFlags::NOFOLLOW.bits()).map_err(io::Error::other)?;
        let mut source =
            fs::OpenOptions::new().read(true).custom_flags(flags).open(from.join(&name))?;
        let mut target = fs::File::create_new(&target)?;
        // Shares blocks where the filesystem can.
        io::copy(&mut source, &mut target)?;
        steps.add(bytes);
    }
    Ok(())
}
