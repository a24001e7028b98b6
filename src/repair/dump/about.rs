//! What the files of a copy tell of a collection, and no line of its records does: how much room its index takes, and how old it is.

use std::{fs, path::Path};

use rusqlite::{Connection, OpenFlags};

use super::catalogue;
use crate::{repair::lines::Collection, store::DATABASE_FILE};

/// One collection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct About {
    tenant: String,
    database: String,
    name: String,
    /// Bytes of the files in the folder of its index.
    pub(crate) index_bytes: Option<u64>,
    /// When its first record was added: `2026-11-30 02:00:00`, in UTC.
    pub(crate) first_added: Option<String>,
    /// The same of the last one.
    pub(crate) last_added: Option<String>,
}

impl About {
    /// Whether it is of this collection.
    pub(crate) fn is(&self, collection: &Collection) -> bool {
        (&self.tenant, &self.database, &self.name)
            == (&collection.tenant, &collection.database, &collection.name)
    }
}

/// All collections of the copy in `dir`. What cannot be read is left out.
pub(crate) fn about(dir: &Path) -> Vec<About> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let Ok(connection) = Connection::open_with_flags(dir.join(DATABASE_FILE), flags) else {
        return Vec::new();
    };
    let collections = catalogue::read(&connection).unwrap_or_default();
    let one = |collection: catalogue::Collection| {
        let folder = collection.vectors_segment.as_ref().map(|segment| dir.join(segment));
        let (first_added, last_added) = added(&connection, &collection.records_segment);
        About {
            index_bytes: folder.and_then(|folder| bytes(&folder)),
            first_added,
            last_added,
            tenant: collection.tenant,
            database: collection.database,
            name: collection.name,
        }
    };
    collections.into_iter().map(one).collect()
}

/// The first and the last moment at which a record of a segment was added.
fn added(connection: &Connection, segment: &str) -> (Option<String>, Option<String>) {
    let sql = "SELECT min(created_at), max(created_at) FROM embeddings WHERE segment_id = ?1";
    let reported = connection.query_row(sql, [segment], |row| Ok((row.get(0)?, row.get(1)?)));
    reported.unwrap_or_else(|error| {
        tracing::debug!(%error, "Nobody knows how old the records are.");
        (None, None)
    })
}

/// Bytes of the files in a folder; `None` when there is none.
fn bytes(folder: &Path) -> Option<u64> {
    let entries = fs::read_dir(folder).ok()?;
    Some(entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|facts| facts.len()).sum())
}
