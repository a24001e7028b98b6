//! One id, and what tables and queue say of it.

use std::collections::{HashMap, HashSet};

use super::{
    ids::Ids,
    known::{Known, known},
};
use crate::{
    format::{hnsw::Order, schema::Family},
    repair::{
        dump::{
            catalogue::{Asker, Collection},
            tail::{Kind, Operation},
        },
        recover::{Failure, LostRecord, Part},
    },
};

/// A record as the tables have it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    pub(super) rowid: i64,
    /// The row of the queue that it is from.
    pub(super) seq_id: Option<i64>,
}

/// One id: a record of the tables, or one that only the queue speaks of.
pub(super) struct Subject {
    pub(super) id: Vec<u8>,
    pub(super) hash: u64,
    pub(super) row: Option<Row>,
    pub(super) operations: Vec<Operation>,
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

    /// Whether it is a record after everything in the queue behind the position of the tables.
    pub(super) fn is_there(&self, records_position: i64) -> bool {
        let newer = self.operations.iter().filter(|one| one.seq_id > records_position);
        newer.fold(self.row.is_some(), |there, one| match one.kind {
            Kind::Delete => false,
            Kind::Add | Kind::Upsert => true,
            Kind::Update => there,
        })
    }

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
