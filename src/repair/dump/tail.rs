//! What the queue holds beyond what tables and indexes have taken in. Chroma takes it in when the collection is read next.

use std::collections::BTreeMap;

use rusqlite::Connection;
use serde_json::{Map, Value};

use super::record::Record;
pub(in crate::repair) use crate::format::queue::{Kind, Operation};

/// The operations of one collection, by id, those of an id in their order. A vector stays in the database until it is written.
#[derive(Debug, Default)]
pub(in crate::repair) struct Tail {
    operations: BTreeMap<Vec<u8>, Vec<Operation>>,
}

impl Tail {
    /// Reads what is behind either of the positions: that of the tables, and that of the index. Errs when SQLite does.
    pub(in crate::repair) fn read(
        connection: &Connection,
        collection: &str,
        (tables, index): (i64, i64),
    ) -> rusqlite::Result<Self> {
        let mut tail = Self::default();
        let mut statement = connection.prepare(
            "SELECT seq_id, operation, topic, id, vector IS NOT NULL FROM embeddings_queue \
             WHERE seq_id > ?1 ORDER BY seq_id",
        )?;
        let mut rows = statement.query([tables.min(index)])?;
        while let Some(row) = rows.next()? {
            let topic = row.get_ref(2)?.as_str().unwrap_or_default();
            if topic.rsplit('/').next() != Some(collection) {
                continue;
            }
            let Some(kind) = row.get_ref(1)?.as_i64().ok().and_then(Kind::of) else { continue };
            let Ok(id) = row.get_ref(3)?.as_bytes() else { continue };
            let operation = Operation { seq_id: row.get(0)?, kind, vector: row.get(4)? };
            tail.operations.entry(id.to_vec()).or_default().push(operation);
        }
        Ok(tail)
    }

    /// The operations of `id`.
    pub(in crate::repair) fn take(&mut self, id: &[u8]) -> Vec<Operation> {
        self.operations.remove(id).unwrap_or_default()
    }

    /// Those of all ids in front of `id`.
    pub(in crate::repair) fn before(&mut self, id: &[u8]) -> Vec<(Vec<u8>, Vec<Operation>)> {
        let mut out = Vec::new();
        while let Some(first) = self.operations.first_entry().filter(|first| &**first.key() < id) {
            out.push(first.remove_entry());
        }
        out
    }

    /// Those that are left.
    pub(in crate::repair) fn rest(&mut self) -> impl Iterator<Item = (Vec<u8>, Vec<Operation>)> {
        std::mem::take(&mut self.operations).into_iter()
    }
}

/// A record after one more operation, as Chroma's tables take it in: an addition of what is there and an update of what is not
/// there change nothing. `queued` gives the metadata of the row. Errs when `queued` does.
pub(in crate::repair) fn applied<E>(
    record: Option<Record>,
    kind: Kind,
    queued: impl FnOnce() -> Result<Map<String, Value>, E>,
) -> Result<Option<Record>, E> {
    let mut record = match (kind, record) {
        (Kind::Delete, _) | (Kind::Update, None) => return Ok(None),
        (Kind::Add, Some(record)) => return Ok(Some(record)),
        (_, record) => record.unwrap_or_default(),
    };
    for (key, value) in queued()? {
        record.set(key, value);
    }
    Ok(Some(record))
}

/// Where the vector of a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::repair) enum Where {
    Index,
    /// In the row of this number.
    Queue(i64),
    Nowhere,
}

/// Where the vector is after the operations behind `position`, when the index has one of this id or not.
pub(in crate::repair) fn vector_of(
    in_index: bool,
    operations: &[Operation],
    position: i64,
) -> Where {
    let mut place = if in_index { Where::Index } else { Where::Nowhere };
    for operation in operations.iter().filter(|operation| operation.seq_id > position) {
        let there = place != Where::Nowhere;
        match operation.kind {
            Kind::Delete => place = Where::Nowhere,
            Kind::Add if there => {}
            Kind::Update if !there => {}
            Kind::Add | Kind::Update | Kind::Upsert if operation.vector => {
                place = Where::Queue(operation.seq_id);
            }
            Kind::Add | Kind::Update | Kind::Upsert => {}
        }
    }
    place
}
