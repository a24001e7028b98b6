//! What became of one index.

use super::{
    super::{LostRecord, Part},
    foreign::Foreign,
};
use crate::{human, repair::dump::catalogue::Collection};

/// What became of one index.
#[derive(Default)]
pub(super) struct Made {
    pub(super) vectors: usize,
    pub(super) queued: usize,
    /// Of a backup.
    pub(super) given: usize,
    /// Whether two processes wrote to it.
    pub(super) mixed: bool,
    /// Where the queue contradicts its files.
    pub(super) foreign: Option<Foreign>,
    pub(super) lost: Vec<LostRecord>,
}

impl Made {
    pub(super) fn words(&self, collection: &Collection) -> String {
        let number = |number: usize| human::count(number as f64);
        if self.mixed {
            return format!(
                "two processes wrote to the index of collection {} at once; it was written anew with {} vectors, {} of them proven by the queue \
                 and {} by the links of the index; the vectors of {} records cannot be told from those of others and are left out",
                collection.name,
                number(self.vectors),
                number(self.queued),
                number(self.vectors - self.queued),
                number(self.count(Part::Vector)),
            );
        }
        let foreign = match &self.foreign {
            Some(Foreign::Exchanged { with }) => {
                format!("; its data_level0.bin was that of another index, and its own lay in the folder of collection {with}")
            }
            Some(Foreign::Dropped { .. }) => {
                "; its data_level0.bin is that of another index or of another time, and nothing was taken of it".to_owned()
            }
            Some(Foreign::Lengths) => {
                "; its length.bin is that of another index or of another time, and nothing was taken of it".to_owned()
            }
            None => String::new(),
        };
        if self.vectors == 0 {
            return format!(
                "the index of collection {} was put aside: no vector can be read out of it, and Chroma makes it anew from the queue{foreign}",
                collection.name
            );
        }
        let queued = match self.queued {
            0 => String::new(),
            queued => format!(", {} of them from the queue", number(queued)),
        };
        let given = match self.given {
            0 => String::new(),
            given => format!(", {} of them from the backup", number(given)),
        };
        format!(
            "the index of collection {} was written anew with {} vectors{queued}{given}{foreign}",
            collection.name,
            number(self.vectors)
        )
    }

    pub(super) fn norms_lost(&self, collection: &Collection) -> Option<String> {
        let norms = self.count(Part::Length);
        (norms > 0).then(|| {
            format!(
                "collection {}: the lengths of {} vectors are lost; searches with cosine do not need them, and Chroma gives these vectors back with the length 1",
                collection.name,
                human::count(norms as f64)
            )
        })
    }

    pub(super) fn perhaps_older(&self, collection: &Collection) -> Option<String> {
        let older = self.count(Part::NewestVector);
        (older > 0).then(|| {
            format!(
                "collection {}: {} vectors may be older than their records: the process that wrote the index may have missed a change of them",
                collection.name,
                human::count(older as f64)
            )
        })
    }

    pub(super) fn perhaps_there(&self, collection: &Collection) -> Option<String> {
        let Some(Foreign::Dropped { perhaps: Some(other) }) = &self.foreign else { return None };
        Some(format!(
            "collection {}: the folder of collection {other} may hold its data_level0.bin, and {other} then has not its own; the queue has nothing newer of {other} that would tell it",
            collection.name
        ))
    }

    pub(super) fn count(&self, part: Part) -> usize {
        self.lost.iter().filter(|record| record.part == part).count()
    }
}
