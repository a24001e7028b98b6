//! Which segment folders no row of the database names any more. Chroma never removes the folder of a deleted
//! collection; the folder bears the id of the *segment*, not of the collection.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::AtomicBool},
};

use super::count::Folder;
use crate::{
    format::uuid::{Uuid, parse_uuid},
    host::processes::FileId,
    store::{Context, database::Limits},
};

/// What the database said of the folders.
#[derive(Debug)]
pub(crate) struct Orphans {
    /// The file that was asked: another one knows other segments.
    database: FileId,
    /// Folders that it does not know. One that appeared since is none.
    pub(crate) folders: HashSet<Uuid>,
}

impl Orphans {
    /// The orphans among `folders`. The database is asked only if `ask`, after the walk that found them: Chroma writes
    /// the row before the folder. When it cannot be asked (a writer has it locked, a crash left a hot journal, it is
    /// damaged), what was `known` of the same file stands; otherwise nothing is known, which is for the `integrity`
    /// collector to explain.
    pub(crate) fn among(
        folders: &HashMap<Uuid, Folder>,
        context: &Context,
        database: FileId,
        known: Option<Arc<Self>>,
        ask: bool,
        stop: &AtomicBool,
    ) -> Option<Arc<Self>> {
        let candidates: HashSet<Uuid> =
            folders.iter().filter(|(_, f)| f.has_index).map(|(uuid, _)| *uuid).collect();
        if candidates.is_empty() {
            return Some(Arc::new(Self { database, folders: candidates }));
        }
        let asked = if ask { unknown_to(context, &candidates, stop) } else { None };
        asked
            .map(|folders| Arc::new(Self { database, folders }))
            .or_else(|| known.filter(|known| known.database == database))
    }
}

/// The `candidates` that no segment with vectors is named after; `None` when the database cannot be asked now.
fn unknown_to(
    context: &Context,
    candidates: &HashSet<Uuid>,
    stop: &AtomicBool,
) -> Option<HashSet<Uuid>> {
    let limit = context.config.collect.statement_deadline;
    let limits = Limits { hold: limit, hold_unwaited: limit, stop, progress: None };
    let asked = context.database.connect().ok()?.within(&limits, |connection| {
        let mut unknown = candidates.clone();
        let mut statement = connection.prepare("SELECT id FROM segments WHERE scope = 'VECTOR'")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            if let Some(uuid) = row.get_ref(0)?.as_bytes().ok().and_then(parse_uuid) {
                unknown.remove(&uuid);
            }
        }
        Ok(unknown)
    });
    asked.result.ok()
}
