//! Two directories change places, in one call. A link in the new one, which leads nowhere, says whether they have: it lies
//! where the new one is.

use std::{ffi::OsStr, io, path::Path};

use rustix::{fs::RenameFlags, io::Errno};

use super::{
    Free, NoExchange, Quarantine, alone,
    hands::{Dir, Hands},
    needs_files,
};

/// The directory above the store, and the name of the store in it. Errs when there is none, or the name is no text.
fn above(store: &Path) -> io::Result<(Dir, String)> {
    let name = store.file_name().and_then(OsStr::to_str);
    let parent = store.parent();
    match (parent, name) {
        (Some(parent), Some(name)) => Ok((Dir::open(parent)?, name.to_owned())),
        // A name that is no text: file by file then.
        _ => Err(io::Error::other(NoExchange(Errno::INVAL.into()))),
    }
}

/// Whether they have changed places. Errs when the directories cannot be read.
pub(super) fn has_begun(quarantine: &Quarantine) -> io::Result<bool> {
    let (parent, name) = above(&quarantine.record.store)?;
    let case = Dir::open(&quarantine.path)?;
    Ok(!case.has(quarantine.record.incoming())? || parent.below(&name)?.has(MARKER)?)
}

/// Exchanges, or goes on where that was interrupted. Errs when the disk does.
pub(super) fn forward(hands: &Hands, quarantine: &Quarantine, free: &Free) -> io::Result<()> {
    let record = &quarantine.record;
    let (incoming, outgoing) = (record.incoming(), record.outgoing());
    let (parent, name) = above(&record.store)?;
    let case = Dir::open(&quarantine.path)?;
    let has_incoming = case.has(incoming)?;
    if has_incoming && !parent.below(&name)?.has(MARKER)? {
        let new = case.below(incoming)?;
        if !new.has(MARKER)? {
            hands.symlink(TEXT, (&new, MARKER))?;
            hands.sync(&new)?;
        }
        hands.exchange((&parent, &name), (&case, incoming)).map_err(|error| {
            if needs_files(&error) { io::Error::other(NoExchange(error)) } else { error }
        })?;
        hands.sync(&parent)?;
        hands.sync(&case)?;
        alone(free)?;
    }
    let store = parent.below(&name)?;
    if has_incoming {
        let old = case.below(incoming)?;
        for kept in &record.kept {
            if old.has(kept)? && !store.has(kept)? {
                hands.rename((&old, kept), (&store, kept))?;
            }
        }
        hands.sync(&store)?;
        hands.sync(&old)?;
        hands.rename((&case, incoming), (&case, outgoing))?;
        hands.sync(&case)?;
    }
    if store.has(MARKER)? {
        hands.remove((&store, MARKER))?;
        hands.sync(&store)?;
    }
    Ok(())
}

/// Exchanges back, however far it was. Errs when a call does; the next run goes on from there.
pub(super) fn backward(hands: &Hands, quarantine: &Quarantine) -> io::Result<()> {
    let record = &quarantine.record;
    let (incoming, outgoing) = (record.incoming(), record.outgoing());
    let (parent, name) = above(&record.store)?;
    let case = Dir::open(&quarantine.path)?;
    if has_begun(quarantine)? {
        let store = parent.below(&name)?;
        if !store.has(MARKER)? {
            hands.symlink(TEXT, (&store, MARKER))?;
            hands.sync(&store)?;
        }
        if !case.has(incoming)? {
            hands.rename((&case, outgoing), (&case, incoming))?;
        }
        let old = case.below(incoming)?;
        for kept in &record.kept {
            if store.has(kept)? && !old.has(kept)? {
                hands.rename((&store, kept), (&old, kept))?;
            }
        }
        hands.sync(&store)?;
        hands.sync(&old)?;
        hands.exchange((&parent, &name), (&case, incoming))?;
        hands.sync(&parent)?;
        hands.sync(&case)?;
    }
    let new = case.below(incoming)?;
    if new.has(MARKER)? {
        hands.remove((&new, MARKER))?;
    }
    Ok(())
}

/// Puts the new directory where none is. Errs when a call does; the next run goes on from there.
pub(super) fn put(hands: &Hands, quarantine: &Quarantine) -> io::Result<()> {
    let record = &quarantine.record;
    let (parent, name) = above(&record.store)?;
    let case = Dir::open(&quarantine.path)?;
    if case.has(record.incoming())? {
        place((hands, &case, record.incoming()), (&parent, &name))?;
        hands.sync(&parent)?;
        hands.sync(&case)?;
    }
    Ok(())
}

/// Takes it away again. Errs when a call does; the next run goes on from there.
pub(super) fn take(hands: &Hands, quarantine: &Quarantine) -> io::Result<()> {
    let record = &quarantine.record;
    let (parent, name) = above(&record.store)?;
    let case = Dir::open(&quarantine.path)?;
    if !case.has(record.incoming())? && parent.has(&name)? {
        hands.rename((&parent, &name), (&case, record.incoming()))?;
        hands.sync(&parent)?;
    }
    Ok(())
}

/// Over nothing: a Chroma that started meanwhile has made a directory of its own. Errs when something is there by now, or the kernel does.
fn place((hands, case, from): (&Hands, &Dir, &str), to: (&Dir, &str)) -> io::Result<()> {
    hands.step()?;
    match rustix::fs::renameat_with(case, from, to.0, to.1, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) if !to.0.has(to.1)? => {
            Ok(rustix::fs::renameat(case, from, to.0, to.1)?)
        }
        result => Ok(result?),
    }
}

/// See above.
pub(super) const MARKER: &str = ".chroma_exporter.restored";
/// What it says: a link is made in one call, with its text.
const TEXT: &str = "a restore by chroma_exporter ends here and takes this link away";
