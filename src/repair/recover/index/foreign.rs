//! An index whose `data_level0.bin` or `length.bin` is not its own, or is of another time: the queue contradicts it. Labels are numbers that
//! begin with 1 in every index, and any length fits a direction, so that little else tells it: only which labels were deleted.

use std::path::Path;

use super::{
    Store, dimension,
    elements::Elements,
    ids::Ids,
    read_ids,
    reading::{Agreement, Reading},
    settings::Settings,
    subject::subjects,
};
use crate::{
    format::uuid::{Uuid, parse_uuid},
    repair::{
        dump::catalogue::{Asker, Collection},
        recover::Failure,
    },
};

/// What became of the files that the queue contradicts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Foreign {
    /// The right vectors lay in the folder of the collection with this name, whose own are not there either.
    Exchanged { with: String },
    /// No vector of the folder counts. They may be in the folder of the collection with this name, of which the queue says nothing.
    Dropped { perhaps: Option<String> },
    /// No length of the folder counts.
    Lengths,
}

impl Reading<'_> {
    /// The elements of `own`, the folder of this collection, as far as the queue does not contradict them, and what else became of them. The
    /// right ones may lie in the folder of another collection, when that one's are not its own either.
    /// Errs when SQLite does, or a file cannot be read.
    pub(super) fn believed(
        &self,
        (segment, own): (Uuid, &Path),
        ids: &Ids,
        elements: Option<Elements>,
        asker: &mut Asker<'_>,
    ) -> Result<(Option<Elements>, Option<Foreign>), Failure> {
        let Some(elements) = elements else { return Ok((None, None)) };
        let agreement = self.compare(ids, &elements, asker)?;
        if agreement.is_foreign() || agreement.says_nothing() && elements.contradict_ids() {
            drop(elements);
            return self.in_exchange((segment, own), ids, asker);
        }
        if !agreement.has_foreign_lengths() {
            return Ok((Some(elements), None));
        }
        // The places are the same in both files of an index.
        for (of, folder) in self.store.folders.iter().filter(|(of, _)| *of != segment) {
            let other = elements.reopened(Some(folder))?;
            let agreement = self.compare(ids, &other, asker)?;
            if agreement.has_proven_lengths()
                && self.store.has_foreign_lengths(*of, folder, asker)?
            {
                return Ok((Some(other), None));
            }
        }
        Ok((Some(elements.reopened(None)?), Some(Foreign::Lengths)))
    }

    fn in_exchange(
        &self,
        (segment, own): (Uuid, &Path),
        ids: &Ids,
        asker: &mut Asker<'_>,
    ) -> Result<(Option<Elements>, Option<Foreign>), Failure> {
        let (mut found, mut perhaps) = (Vec::new(), None);
        for (of, folder) in self.store.folders.iter().filter(|(of, _)| *of != segment) {
            let Some(elements) = self.elements(folder, ids, self.store.steps)? else { continue };
            let agreement = self.compare(ids, &elements, asker)?;
            // Of which labels were deleted says whose it is as well, where the queue says nothing.
            let proven = agreement.is_proven() || agreement.says_nothing() && elements.fit_ids();
            // Nearly every id has its element there.
            if !proven || elements.len() * 10 < ids.labels.len() * 9 {
                continue;
            }
            let Some(other) = self.store.collection_of(*of) else { continue };
            match self.store.theirs(other, folder, asker)? {
                Theirs::Not if self.store.segments.contains(of) => {
                    found.push((elements, agreement, other.name.clone()));
                }
                // Two collections may have the same vectors. What is proven to be the other one's stays so.
                Theirs::Proven => {}
                _ if agreement.is_proven() => perhaps = Some(other.name.clone()),
                _ => {}
            }
        }
        let (Some((elements, agreement, with)), None) = (found.pop(), found.pop()) else {
            return Ok((None, Some(Foreign::Dropped { perhaps })));
        };
        // Whether the lengths came with the vectors only the queue tells.
        let elements = if agreement.has_proven_lengths() {
            elements
        } else {
            let beside = elements.reopened(Some(own))?;
            let agreement = self.compare(ids, &beside, asker)?;
            if agreement.has_proven_lengths() { beside } else { elements.reopened(None)? }
        };
        Ok((Some(elements), Some(Foreign::Exchanged { with })))
    }
}

/// Whether the folder of another collection has the vectors of that one.
enum Theirs {
    Not,
    Proven,
    Unknown,
}

impl Store<'_> {
    fn collection_of(&self, segment: Uuid) -> Option<&Collection> {
        let is_its = |one: &&Collection| {
            let of = one.vectors_segment.as_ref().and_then(|id| parse_uuid(id.as_bytes()));
            of == Some(segment)
        };
        self.collections.iter().find(is_its)
    }

    /// Errs when SQLite does, or a file cannot be read.
    fn theirs(
        &self,
        collection: &Collection,
        folder: &Path,
        asker: &mut Asker<'_>,
    ) -> Result<Theirs, Failure> {
        let Some((elements, agreement)) = self.agreement(collection, folder, asker)? else {
            return Ok(Theirs::Unknown);
        };
        Ok(match agreement {
            _ if agreement.is_foreign() => Theirs::Not,
            _ if agreement.same > 0 => Theirs::Proven,
            _ if elements.contradict_ids() => Theirs::Not,
            _ => Theirs::Unknown,
        })
    }

    /// Whether the queue contradicts the lengths in the folder of another collection, which is written anew too.
    /// Errs when SQLite does, or a file cannot be read.
    fn has_foreign_lengths(
        &self,
        segment: Uuid,
        folder: &Path,
        asker: &mut Asker<'_>,
    ) -> Result<bool, Failure> {
        let Some(other) = self.collection_of(segment) else { return Ok(false) };
        let found = self.agreement(other, folder, asker)?;
        let foreign = found.is_some_and(|(_, agreement)| agreement.has_foreign_lengths());
        Ok(foreign && self.segments.contains(&segment))
    }

    /// The elements in the folder of another collection, and how far they agree with the queue; `None` when nothing can be read of it.
    /// Errs when SQLite does, or a file cannot be read.
    fn agreement(
        &self,
        collection: &Collection,
        folder: &Path,
        asker: &mut Asker<'_>,
    ) -> Result<Option<(Elements, Agreement)>, Failure> {
        // What speaks against the folder is said where it is its turn.
        let known = |failure| match failure {
            Failure::Damaged(_) => Ok(None),
            failure => Err(failure),
        };
        let ids = match read_ids(folder, collection) {
            Ok(ids) => ids,
            Err(failure) => return known(failure),
        };
        let subjects = subjects(self.connection, collection)?;
        let dimension = match dimension(collection, &subjects, Some(folder), asker) {
            Ok(dimension) => dimension,
            Err(failure) => return known(failure),
        };
        let settings = Settings::of(collection);
        let reading = Reading { store: self, collection, settings, dimension, subjects: &subjects };
        let Some(elements) = reading.elements(folder, &ids, self.steps)? else { return Ok(None) };
        let agreement = reading.compare(&ids, &elements, asker)?;
        Ok(Some((elements, agreement)))
    }
}
