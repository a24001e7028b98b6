//! Two directories change places, in one call. A file in the new one says whether they have: it lies where the new one is.

use std::{ffi::OsStr, io, path::Path};

use rustix::{fs::RenameFlags, io::Errno};

use super::{
    Free, Quarantine, alone,
    hands::{Dir, Hands},
};

/// The directory above the store, and the name of the store in it.
fn above(store: &Path) -> io::Result<(Dir, String)> {
    let name = store.file_name().and_then(OsStr::to_str);
    let parent = store.parent();
    match (parent, name) {
        (Some(parent), Some(name)) => Ok((Dir::open(parent)?, name.to_owned())),
        _ => Err(io::Error::from(Errno::INVAL)), // file by file then
    }
}

/// Exchanges, or goes on where that was interrupted.
pub(super) fn forward(hands: &Hands, quarantine: &Quarantine, free: &Free) -> io::Result<()> {
    let record = &quarantine.record;
    let (incoming, outgoing) = (record.incoming(), record.outgoing());
    let (parent, name) = above(&record.store)?;
    let case = Dir::open(&quarantine.path)?;
    let has_incoming = case.has(incoming)?;
    if has_incoming && !parent.below(&name)?.has(MARKER)? {
        if !case.below(incoming)?.has(MARKER)? {
            hands.write_whole(&quarantine.incoming(), MARKER, TEXT)?;
        }
        hands.exchange((&parent, &name), (&case, incoming))?;
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

/// Exchanges back, however far it was.
pub(super) fn backward(hands: &Hands, quarantine: &Quarantine) -> io::Result<()> {
    let record = &quarantine.record;
    let (incoming, outgoing) = (record.incoming(), record.outgoing());
    let (parent, name) = above(&record.store)?;
    let case = Dir::open(&quarantine.path)?;
    let exchanged = !case.has(incoming)? || parent.below(&name)?.has(MARKER)?;
    if exchanged {
        let store = parent.below(&name)?;
        if !store.has(MARKER)? {
            hands.write_whole(&record.store, MARKER, TEXT)?;
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

/// Puts the new directory where none is.
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

/// Takes it away again.
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

/// Over nothing: a Chroma that started meanwhile has made a directory of its own.
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
const TEXT: &[u8] = b"a restore by chroma_exporter ends here; it takes this file away\n";
