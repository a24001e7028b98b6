//! A backup that is a directory: the store in it is looked at where it lies, or copied.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    super::{proof::context_of, steps::Steps},
    Opened, Options, UnpackError,
    files::{ENTRIES_MAX, entries, list},
    make_scratch, manifested,
    sink::Sink,
    source::Plain,
};
use crate::{
    clock::Timestamp,
    format::parts::Named,
    host::processes::Held,
    human,
    store::{DATABASE_FILE, database::open_bytes},
};

/// A directory that is a store, or has one in it. Errs when there is none or there are several, it is in use, or cannot be read.
pub(super) fn open(dir: &Path, options: &Options, steps: &Steps) -> Result<Opened, UnpackError> {
    let found = find(dir)?;
    let wanted = |path: &&PathBuf| options.only.as_ref().is_none_or(|only| path.ends_with(only));
    let mut stores: Vec<&PathBuf> = found.iter().filter(wanted).collect();
    let store = match (stores.pop(), stores.is_empty()) {
        (None, _) => {
            return Err(UnpackError::Nothing("no chroma.sqlite3 is in it".to_owned()));
        }
        (Some(store), true) => store,
        (Some(_), false) => {
            let names = found.iter().filter_map(|path| path.strip_prefix(dir).ok());
            let names = names.map(|path| human::plain(&path.display().to_string()));
            return Err(UnpackError::Several(names.collect()));
        }
    };
    if options.stores.contains(store) || is_held(store) {
        return Err(UnpackError::InUse(store.clone()));
    }
    let mut damage = Vec::new();
    let files = entries(store)?;
    let bytes = files.iter().map(|(_, meta)| meta.len()).fold(0, u64::saturating_add);
    let manifest = manifested::read(store, files.len(), &mut damage);
    let mut opened = Opened {
        dir: store.clone(),
        form: "directory",
        manifest: None,
        damage,
        notes: Vec::new(),
        moment: fs::metadata(store.join(DATABASE_FILE))
            .ok()
            .map(|meta| Timestamp::from_secs(meta.mtime())),
        bytes,
        scratch: None,
    };
    if options.copy {
        copy(&mut opened, options, steps)?;
    }
    if let Some(manifest) = manifest {
        steps.begin("comparing", Some(bytes));
        let seen = manifested::hash(&opened.dir, &manifest, steps)?;
        manifested::compare(&manifest, &seen, &mut opened.damage);
        opened.manifest = Some(manifest);
    }
    Ok(opened)
}

/// Makes what is looked at where it lies a copy in scratch.
/// Errs when there is no room, a file cannot be read or written, or the steps were stopped.
pub(super) fn copy(
    opened: &mut Opened,
    options: &Options,
    steps: &Steps,
) -> Result<(), UnpackError> {
    let (scratch, notes) = make_scratch(&opened.dir, opened.bytes, options)?;
    opened.notes.extend(notes);
    let mut sink = Sink::new(scratch.path(), None, options.copy)?;
    steps.begin("copying", Some(opened.bytes));
    for (path, meta) in entries(&opened.dir)? {
        let Named::Of(place) = Named::parse(path.as_bytes()) else { continue };
        let from = opened.dir.join(&path);
        let unreadable = |source| UnpackError::Unreadable { path: from.clone(), source };
        let file = open_bytes(&from).map_err(unreadable)?;
        let bytes = meta.len();
        if !sink.write(&mut Plain::new(file, bytes, steps), &place, bytes, None)? {
            return Err(UnpackError::InUse(opened.dir.clone()));
        }
    }
    opened.damage.append(&mut sink.damage);
    opened.dir = scratch.path().join("store-0");
    opened.scratch = Some(scratch);
    Ok(())
}

/// Directories with a database, at most [`DEPTH_MAX`] levels below `dir`. Errs when a directory cannot be read.
fn find(dir: &Path) -> Result<Vec<PathBuf>, UnpackError> {
    let mut found = Vec::new();
    let mut level = vec![dir.to_owned()];
    for depth in 0..=DEPTH_MAX {
        let mut next = Vec::new();
        for dir in level {
            if fs::symlink_metadata(dir.join(DATABASE_FILE)).is_ok() {
                found.push(dir);
                continue;
            }
            if depth == DEPTH_MAX {
                continue;
            }
            for entry in list(&dir)? {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) && next.len() < ENTRIES_MAX {
                    next.push(entry.path());
                }
            }
        }
        level = next;
    }
    found.sort();
    Ok(found)
}

/// Whether a process has the database open.
pub(super) fn is_held(store: &Path) -> bool {
    let context = context_of(store);
    let Ok(stamp) = context.database.stamp() else { return false };
    matches!(context.held(stamp.id, Duration::ZERO), Ok(Held::Yes))
}

/// Levels below a directory in which a store is looked for.
const DEPTH_MAX: usize = 3;
