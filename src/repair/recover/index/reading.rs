//! What is certain of the vectors in the folder of one collection.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::Path,
};

use super::{
    Source, Store, applied,
    elements::Elements,
    ids::Ids,
    settings::Settings,
    subject::Subject,
    writers::{self, Named},
};
use crate::{
    format::{
        hnsw::{Metric, holds, holds_length},
        queue::Known,
        schema::Family,
    },
    repair::{
        dump::catalogue::{Asker, Collection},
        recover::Failure,
        steps::Steps,
    },
};

/// What is known of a collection before its vectors are read.
pub(super) struct Reading<'a> {
    pub(super) store: &'a Store<'a>,
    pub(super) collection: &'a Collection,
    pub(super) settings: Settings,
    pub(super) dimension: usize,
    pub(super) subjects: &'a [Subject],
}

impl Reading<'_> {
    /// The elements of a folder that have one of these ids. Errs when its files cannot be read.
    pub(super) fn elements(
        &self,
        folder: &Path,
        ids: &Ids,
        steps: &Steps,
    ) -> io::Result<Option<Elements>> {
        let labels: HashSet<u64> = ids.labels.values().copied().collect();
        let shape = (self.dimension, self.settings.neighbours);
        let given = |label| labels.contains(&label);
        Elements::find(folder, shape, self.settings.metric, (ids.total(), &given), steps)
    }

    /// What is certain of an index to which two processes wrote. Errs when SQLite does.
    pub(super) fn of_last(&self, ids: Ids, elements: Option<Elements>) -> Result<Source, Failure> {
        let in_order = self.store.family == Family::Rust;
        let (mut named, mut hashes) = (Vec::new(), HashMap::new());
        let mut older = HashSet::new();
        for subject in self.subjects {
            let Some(label) = ids.labels.get(&subject.hash).copied() else { continue };
            let Some(seq_id) = subject.row.and_then(|row| row.seq_id) else { continue };
            named.push(Named { label, seq_id });
            hashes.insert(label, subject.hash);
            let row = ids.rows.get(&subject.hash).and_then(|row| i64::try_from(*row).ok());
            if !in_order && row != Some(seq_id) {
                older.insert(subject.hash);
            }
        }
        if in_order {
            let labels = writers::perhaps_older(&named, &self.store.seq_ids()?);
            older.extend(labels.iter().filter_map(|label| hashes.get(label)));
        }
        let position = applied(self.store.family, self.collection, &ids).unwrap_or(i64::MIN);
        let newest = writers::newest(&named, position, self.settings.flush, in_order);
        let certain = |elements: Elements| -> io::Result<Elements> {
            let bearers: Vec<(u64, u64)> = elements.bearers().collect();
            let all = bearers.iter().map(|(_, place)| *place).collect();
            let alone = writers::by_label(bearers.iter().copied(), &all);
            let first: Vec<u64> =
                newest.iter().filter_map(|label| alone.get(label).copied()).collect();
            let steps = self.store.steps;
            steps.begin("telling the vectors of two processes apart", None);
            let of_last = writers::of_last(&elements, self.settings.metric, &first, steps)?;
            Ok(elements.only(&writers::by_label(bearers.into_iter(), &of_last)))
        };
        let elements = elements.map(certain).transpose()?;
        Ok(Source { ids, elements, older: Some(older), foreign: None })
    }

    pub(super) fn fits(&self, vector: &[f32]) -> bool {
        vector.len() == self.dimension && vector.iter().all(|number| number.is_finite())
    }

    /// Errs when a backup has another vector of a record than the folder, which both say is the same version.
    pub(super) fn is_of_one_history(
        &self,
        elements: &Elements,
        place: u64,
        wanted: &[f32],
        id: &str,
    ) -> Result<(), Failure> {
        if holds(self.settings.metric, &elements.read(place)?.numbers, wanted) != Some(false) {
            return Ok(());
        }
        Err(Failure::Damaged(format!(
            "of record {id} of collection {} the backup has another vector under the same number: it is of another history, or one of the two is damaged",
            self.collection.name
        )))
    }

    /// How far the elements agree with the rows of the queue that the index has applied. Errs when SQLite does, or the elements cannot
    /// be read.
    pub(super) fn compare(
        &self,
        ids: &Ids,
        elements: &Elements,
        asker: &mut Asker<'_>,
    ) -> Result<Agreement, Failure> {
        let position = applied(self.store.family, self.collection, ids);
        let mut agreement = Agreement::default();
        for subject in self.subjects {
            let Known::Row(row) = subject.known(position, self.store.family) else { continue };
            // The files may be ahead of the position: what is behind it is applied once more.
            if subject.operations.iter().any(|one| position < Some(one.seq_id)) {
                continue;
            }
            let place = ids.labels.get(&subject.hash).and_then(|label| elements.place(*label));
            let Some(place) = place else { continue };
            let Some(wanted) = asker.vector(row)?.filter(|vector| self.fits(vector)) else {
                continue;
            };
            let stored = elements.read(place)?;
            match holds(self.settings.metric, &stored.numbers, &wanted) {
                Some(true) => agreement.same += 1,
                Some(false) => {
                    agreement.other += 1;
                    continue;
                }
                None => continue,
            }
            if self.settings.metric == Metric::Cosine
                && let Some(norm) = stored.norm
            {
                match holds_length(norm, &wanted) {
                    Some(true) => agreement.lengths += 1,
                    Some(false) => agreement.other_lengths += 1,
                    None => {}
                }
            }
        }
        Ok(agreement)
    }
}

/// Of how many ids an index has what the queue still has too, and of how many something else.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Agreement {
    /// Vectors.
    pub(super) same: usize,
    pub(super) other: usize,
    /// Lengths beside them, with cosine.
    pub(super) lengths: usize,
    pub(super) other_lengths: usize,
}

impl Agreement {
    /// Whether the vectors are those of another index, or of another time.
    pub(super) const fn is_foreign(self) -> bool {
        self.other > self.same
    }

    /// Whether the queue has nothing to compare them with.
    pub(super) const fn says_nothing(self) -> bool {
        self.same + self.other == 0
    }

    /// Whether the queue proves that they are the right ones.
    pub(super) const fn is_proven(self) -> bool {
        self.same > 0 && self.other == 0
    }

    /// Whether the queue proves that the lengths are the right ones.
    pub(super) const fn has_proven_lengths(self) -> bool {
        self.lengths > 0 && self.other_lengths == 0
    }

    /// Whether the lengths are those of another index, or of another time.
    pub(super) const fn has_foreign_lengths(self) -> bool {
        self.other_lengths > self.lengths
    }
}
