//! One id, and what tables and queue say of it.

use std::collections::{BTreeMap, HashMap, HashSet};

use rusqlite::Connection;

use super::ids::Ids;
use crate::{
    format::{
        hnsw::Order,
        pickle,
        queue::{Known, known},
        schema::Family,
    },
    repair::{
        dump::{
            catalogue::{Asker, Collection},
            tail::{Kind, Operation, Tail},
        },
        recover::{Failure, LostRecord, Part},
    },
    store::position,
};

/// A record as the tables have it.
#[derive(Debug, Clone, Copy)]
pub(in crate::repair::recover) struct Row {
    pub(in crate::repair::recover) rowid: i64,
    /// The row of the queue that it is from.
    pub(in crate::repair::recover) seq_id: Option<i64>,
}

/// What a record is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::repair::recover) enum Version {
    /// There is no such record.
    Absent,
    /// It is not known.
    Unknown,
    /// A row of the queue.
    Row(i64),
}

/// One id: a record of the tables, or one that only the queue speaks of.
pub(in crate::repair::recover) struct Subject {
    pub(in crate::repair::recover) id: Vec<u8>,
    pub(in crate::repair::recover) hash: u64,
    pub(in crate::repair::recover) row: Option<Row>,
    pub(in crate::repair::recover) operations: Vec<Operation>,
}

impl Subject {
    pub(super) fn known(&self, position: Option<i64>, family: Family) -> Known {
        let Some(position) = position else { return Known::Unknown };
        let record = self.row.and_then(|row| row.seq_id);
        // Before 0.5.7 nothing was ever taken out of the queue. A record that it does not speak of contradicts that.
        let whole = family == Family::Oldest && !self.operations.is_empty();
        known(&self.operations, position, whole, record)
    }

    /// The row of the queue that the index has it from, as far as that is known: Chroma 0.x keeps the number and never asks for the row.
    pub(super) fn seq_id(&self, position: Option<i64>) -> u64 {
        let position = position.unwrap_or(i64::MAX);
        let applied = self.operations.iter().map(|one| one.seq_id).filter(|at| *at <= position);
        let of_record = self.row.and_then(|row| row.seq_id).filter(|at| *at <= position);
        applied.max().max(of_record).and_then(|at| u64::try_from(at).ok()).unwrap_or(0)
    }

    /// The row of the queue that the record is from after everything in the queue behind the position of the tables.
    pub(in crate::repair::recover) fn version(&self, records_position: i64) -> Version {
        let of_row = |row: Row| row.seq_id.map_or(Version::Unknown, Version::Row);
        let newer = self.operations.iter().filter(|one| one.seq_id > records_position);
        newer.fold(self.row.map_or(Version::Absent, of_row), |version, one| {
            match (one.kind, version) {
                (Kind::Delete, _) | (Kind::Update, Version::Absent) => Version::Absent,
                // An addition of what is there changes nothing.
                (Kind::Add, Version::Row(_) | Version::Unknown) => version,
                (Kind::Add | Kind::Update | Kind::Upsert, _) => Version::Row(one.seq_id),
            }
        })
    }

    /// Whether an index at `position` has everything of it.
    pub(super) fn is_applied(&self, position: Option<i64>) -> bool {
        let last = self.operations.iter().map(|one| one.seq_id).max();
        let row = self.row.and_then(|row| row.seq_id);
        row.is_some() && last.max(row) <= position
    }

    /// Whether it is a record after everything in the queue behind the position of the tables.
    pub(super) fn is_there(&self, records_position: i64) -> bool {
        let newer = self.operations.iter().filter(|one| one.seq_id > records_position);
        newer.fold(self.row.is_some(), |there, one| match one.kind {
            Kind::Delete => false,
            Kind::Add | Kind::Upsert => true,
            Kind::Update => there,
        })
    }

    /// What is lost of it, with what the tables have. Errs when SQLite does.
    pub(super) fn lost(
        &self,
        collection: &Collection,
        part: Part,
        asker: &mut Asker<'_>,
    ) -> Result<LostRecord, Failure> {
        let record = self.row.map(|row| asker.record(row.rowid)).transpose()?.unwrap_or_default();
        Ok(LostRecord {
            collection: collection.name.clone(),
            id: String::from_utf8_lossy(&self.id).into_owned(),
            part,
            document: record.document,
            metadata: record.metadata,
        })
    }
}

/// The records of the tables, and what the queue has beside them, in the order of their ids. Errs when SQLite does.
pub(in crate::repair::recover) fn subjects(
    connection: &Connection,
    collection: &Collection,
) -> Result<Vec<Subject>, Failure> {
    let mut rows: BTreeMap<Vec<u8>, Option<Row>> = BTreeMap::new();
    let sql = "SELECT id, embedding_id, seq_id FROM embeddings WHERE segment_id = ?1";
    let mut statement = connection.prepare(sql)?;
    let mut found = statement.query([&collection.records_segment])?;
    while let Some(row) = found.next()? {
        let id = row.get_ref(1)?.as_bytes().unwrap_or_default().to_vec();
        rows.insert(id, Some(Row { rowid: row.get(0)?, seq_id: position(row.get_ref(2)?) }));
    }
    let mut tail = Tail::read(connection, &collection.id, (i64::MIN, i64::MIN))?;
    let mut operations: BTreeMap<Vec<u8>, Vec<Operation>> = tail.rest().collect();
    for id in operations.keys() {
        rows.entry(id.clone()).or_default();
    }
    let subject = |(id, row): (Vec<u8>, Option<Row>)| Subject {
        hash: pickle::hash(&id),
        operations: operations.remove(&id).unwrap_or_default(),
        row,
        id,
    };
    Ok(rows.into_iter().map(subject).collect())
}

/// The ids of two records that have each other's label: all others have labels in the order in which they were added. Which of the two
/// vectors is whose is not certain any more.
pub(super) fn exchanged(subjects: &[Subject], ids: &Ids) -> HashSet<u64> {
    let mut rows: Vec<(u64, u64, u64)> = Vec::new();
    for subject in subjects {
        let label = ids.labels.get(&subject.hash);
        let rowid = subject.row.and_then(|row| u64::try_from(row.rowid).ok());
        rows.extend(label.zip(rowid).map(|(label, rowid)| (*label, rowid, subject.hash)));
    }
    rows.sort_unstable();
    let mut order = Order::default();
    for (_, rowid, _) in &rows {
        order.push(*rowid);
    }
    let of: HashMap<u64, u64> = rows.iter().map(|(_, rowid, hash)| (*rowid, *hash)).collect();
    order
        .exchanges()
        .iter()
        .flat_map(|one| one.numbers)
        .filter_map(|row| of.get(&row).copied())
        .collect()
}
