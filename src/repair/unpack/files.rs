//! Which files of a store a directory has.

use std::{fs, io, path::Path};

use super::UnpackError;
use crate::format::parts::{Named, is_folder};

/// Files of the store in `dir`, by their path below it. Errs when a directory cannot be read.
pub(super) fn entries(dir: &Path) -> Result<Vec<(String, fs::Metadata)>, UnpackError> {
    let mut out = Vec::new();
    for entry in list(dir)? {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let Ok(meta) = fs::metadata(entry.path()) else { continue };
        if meta.is_file() {
            out.push((name, meta));
        } else if meta.is_dir() && is_folder(&name) {
            for file in list(&entry.path())? {
                let Ok(file_name) = file.file_name().into_string() else { continue };
                match fs::metadata(file.path()) {
                    Ok(meta) if meta.is_file() => out.push((format!("{name}/{file_name}"), meta)),
                    _ => {}
                }
            }
        }
    }
    out.retain(|(path, _)| matches!(Named::parse(path.as_bytes()), Named::Of(_)));
    out.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(out)
}

/// What lies in a directory, up to a bound. Errs when it cannot be read.
pub(super) fn list(dir: &Path) -> Result<Vec<fs::DirEntry>, UnpackError> {
    let unreadable = |source| UnpackError::Unreadable { path: dir.to_owned(), source };
    let entries = fs::read_dir(dir).map_err(unreadable)?;
    entries.take(ENTRIES_MAX).collect::<io::Result<_>>().map_err(unreadable)
}

/// More are not looked at.
pub(super) const ENTRIES_MAX: usize = 100_000;
