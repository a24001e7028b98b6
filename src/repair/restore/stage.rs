//! A backup becomes files on the filesystem of the store.

use std::{collections::BTreeMap, fs, io, path::Path};

use super::{RestoreError, Wish};
use crate::{
    clock,
    format::{
        manifest::Restores,
        sqlite::{JOURNAL_SUFFIX, WAL_SUFFIX},
        uuid::parse_uuid,
    },
    repair::{
        quarantine::Quarantine,
        steps::Steps,
        unpack::{self, UnpackError},
        verify::{self, Verified},
    },
    store::DATABASE_FILE,
};

/// Every file of a store below `dir`, with its length: the database, and what lies in folders of segments.
/// Errs when a directory cannot be read.
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
    let end = name.strip_prefix(DATABASE_FILE);
    end.is_some_and(|end| ["", JOURNAL_SUFFIX, WAL_SUFFIX].contains(&end))
}

/// Bytes that it needs at least on the filesystem of the store. Errs when it cannot be looked at.
pub(super) fn bytes(backup: &Path) -> io::Result<u64> {
    let meta = fs::metadata(backup)?;
    if meta.is_dir() {
        return Ok(files(backup)?.values().fold(0, |sum: u64, bytes| sum.saturating_add(*bytes)));
    }
    Ok(meta.len())
}

/// Unpacks it into the quarantine and proves it. Errs when it is not to be put in place.
pub(super) fn prove(
    backup: &Path,
    quarantine: &Quarantine,
    wish: &Wish,
    steps: &Steps,
) -> Result<Verified, RestoreError> {
    let scratch = quarantine.unpacked();
    let unwritable = |source| RestoreError::Unwritable { path: scratch.clone(), source };
    fs::create_dir(&scratch).map_err(unwritable)?;
    let options = verify::Options {
        unpack: unpack::Options {
            scratch: Some(scratch.clone()),
            only: wish.only.clone(),
            stores: vec![wish.store.clone()],
            copy: true,
            ..unpack::Options::default()
        },
        ..verify::Options::default()
    };
    let opened = unpack::open(backup, &options.unpack, steps)
        .map_err(|error| restore_error(error, backup))?;
    let verified = verify::prove_opened(backup, &opened, &options, steps, clock::now());
    if steps.stopped() {
        return Err(RestoreError::Stopped);
    }
    let losses = || verified.losses.iter().map(ToString::to_string).collect();
    let backup = backup.to_owned();
    match verified.restores {
        Restores::Whole => {}
        Restores::WithLosses if wish.accept_loss => {}
        Restores::WithLosses => return Err(RestoreError::Losses { backup, losses: losses() }),
        Restores::Not => return Err(RestoreError::NotRestorable { backup, losses: losses() }),
        Restores::Unknown => return Err(RestoreError::Unproven { backup, why: losses() }),
    }
    opened.into(&quarantine.incoming()).map_err(unwritable)?;
    only_chromas(&quarantine.incoming()).map_err(unwritable)?;
    fs::remove_dir_all(&scratch).map_err(unwritable)?;
    Ok(verified)
}

/// What keeps a backup from being unpacked.
fn restore_error(error: UnpackError, backup: &Path) -> RestoreError {
    let words = error.chain();
    let restores = error.restores();
    let backup = backup.to_owned();
    match error {
        UnpackError::Unreadable { path, source } => RestoreError::Unreadable { path, source },
        UnpackError::Scratch { path, source } => RestoreError::Unwritable { path, source },
        UnpackError::NoRoom { place, needs, room } => {
            RestoreError::NoRoom { path: place, free: room, needed: needs }
        }
        UnpackError::Several(_) => RestoreError::Senseless {
            what: words,
            help: "say which with --path; `chroma_exporter verify` lists them too",
        },
        UnpackError::InUse(_) => RestoreError::Senseless {
            what: words,
            help: "make a backup of it with `chroma_exporter backup`, and restore that",
        },
        UnpackError::Stopped => RestoreError::Stopped,
        _ if restores == Restores::Not => {
            RestoreError::NotRestorable { backup, losses: vec![words] }
        }
        _ => RestoreError::Unproven { backup, why: vec![words] },
    }
}

/// A manifest, and whatever else is of the backup and not of the store, does not go into the store. Errs when the disk does.
fn only_chromas(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let of_chroma = name
            .to_str()
            .is_some_and(|name| is_database(name) || parse_uuid(name.as_bytes()).is_some());
        if of_chroma {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}
