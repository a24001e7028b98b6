//! What is certain of the vectors in the folder of one collection.

use std::{
    collections::{HashMap, HashSet},
    io,
    path::Path,
};

use super::{
    Source, Store,
    elements::Elements,
    ids::Ids,
    settings::Settings,
    subject::Subject,
    writers::{self, Named},
};
use crate::{
    format::{hnsw::Metric, queue::Known, schema::Family},
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
        let position = self.store.position(self.collection, &ids).unwrap_or(i64::MIN);
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
        Ok(Source { ids, elements, older: Some(older) })
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
        if is_same(self.settings.metric, &elements.read(place)?.numbers, wanted) {
            return Ok(());
        }
        Err(Failure::Damaged(format!(
            "of record {id} of collection {} the backup has another vector under the same number: it is of another history, or one of the two is damaged",
            self.collection.name
        )))
    }

    /// Of how many ids the elements have the vector that the queue still has too, and of how many another one.
    /// Errs when SQLite does, or the elements cannot be read.
    pub(super) fn compare(
        &self,
        ids: &Ids,
        elements: &Elements,
        asker: &mut Asker<'_>,
    ) -> Result<(usize, usize), Failure> {
        let position = self.store.position(self.collection, ids);
        let (mut same, mut other) = (0, 0);
        for subject in self.subjects {
            let Known::Row(row) = subject.known(position, self.store.family) else { continue };
            let place = ids.labels.get(&subject.hash).and_then(|label| elements.place(*label));
            let Some(place) = place else { continue };
            let Some(wanted) = asker.vector(row)?.filter(|vector| self.fits(vector)) else {
                continue;
            };
            if is_same(self.settings.metric, &elements.read(place)?.numbers, &wanted) {
                same += 1;
            } else {
                other += 1;
            }
        }
        Ok((same, other))
    }
}

/// Whether an index holds this vector of a user.
fn is_same(metric: Metric, stored: &[f32], wanted: &[f32]) -> bool {
    let norm = wanted.iter().map(|number| number * number).sum::<f32>().sqrt();
    let factor = if metric == Metric::Cosine { 1.0 / (norm + 1e-30) } else { 1.0 };
    let near = |(stored, wanted): (&f32, &f32)| {
        let wanted = wanted * factor;
        (stored - wanted).abs() <= 1e-4 * (1.0 + wanted.abs())
    };
    stored.len() == wanted.len() && stored.iter().zip(wanted).all(near)
}
