//! The repaired copy, put in place of the content of the store.

use std::{fs, io, path::Path};

use super::{Report, copy::Inventory, or_stopped};
use crate::{
    clock,
    format::manifest::Collection,
    host::processes::ProcessTable,
    repair::{
        holders,
        quarantine::{Came, Origin},
        restore::{self, RestoreError, Wish},
        steps::Steps,
        swap,
    },
    store::DATABASE_FILE,
};

/// Puts the copy in place of the content of the store.
/// Errs when it cannot be staged or exchanged, the store is in use, or the steps were stopped.
pub(super) fn exchange(
    copy: &Path,
    inventory: &Inventory,
    wish: &Wish,
    processes: &ProcessTable,
    steps: &Steps,
    report: &mut Report,
) -> Result<(), RestoreError> {
    let store = &wish.store;
    let mut quarantine = swap::begin(store, BY, clock::now())?;
    let incoming = quarantine.incoming();
    let unwritable = |source| RestoreError::Unwritable { path: incoming.clone(), source };
    if let Err(error) = stage(copy, &incoming, steps) {
        // What is left is named by the next run.
        drop(swap::discard(quarantine));
        return Err(or_stopped(error, steps, unwritable));
    }
    let mark = restore::mark::of(&incoming.join(DATABASE_FILE));
    let collections = report.after.iter().flat_map(|state| &state.collections);
    let came = |one: &Collection| Came {
        name: one.name.clone(),
        records: one.records,
        vectors: one.vectors,
    };
    swap::describe(&mut quarantine, mark, collections.map(came).collect());
    let done = report.done.iter().map(|done| done.what.clone()).collect();
    swap::made(&mut quarantine, Origin::Repair, done);
    let plan = swap::plan(quarantine, &restore::own_mounts(), &processes.mounts())?;
    let free = match holders::free(store, processes, wish.chroma_is_stopped) {
        Ok(free) => free,
        Err(holds) => {
            drop(plan.discard());
            return Err(holds.into());
        }
    };
    if let Err(error) = unchanged(store, inventory) {
        drop(plan.discard());
        return Err(error);
    }
    report.reason = plan.reason().map(str::to_owned);
    let done = swap::execute(plan, &free, clock::now())?;
    (report.way, report.quarantine) = (done.way, done.quarantine);
    Ok(())
}

/// Moves the copy to where the exchange takes it from; copies it where that is another filesystem. Errs when the disk does.
fn stage(copy: &Path, incoming: &Path, steps: &Steps) -> io::Result<()> {
    for entry in fs::read_dir(copy)? {
        let entry = entry?;
        match fs::rename(entry.path(), incoming.join(entry.file_name())) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => {
                return Inventory::of(copy)?.copy(copy, incoming, steps);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Errs when somebody has written to the store since it was copied.
pub(super) fn unchanged(store: &Path, inventory: &Inventory) -> Result<(), RestoreError> {
    let unreadable = |source| RestoreError::Unreadable { path: store.to_owned(), source };
    if Inventory::of(store).map_err(unreadable)? == *inventory {
        return Ok(());
    }
    Err(RestoreError::Senseless {
        what: format!("{} was written to while its copy was repaired", store.display()),
        help: "stop whatever writes to it, then run this again; nothing was changed",
    })
}

/// What the folder of the old content says that it was exchanged by.
const BY: &str = "chroma_exporter recover";
