//! Vectors of a backup for the indexes that are written anew. Only where they are is kept in memory.

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap, HashSet},
    io,
};

use super::super::Failure;
use crate::repair::dump::{Index, catalogue::Asker};

/// Where the backup has a vector.
#[derive(Debug, Clone, Copy)]
pub(in crate::repair::recover) enum Gift {
    /// The place of an element in its index.
    Index(u64),
    /// A row of its queue.
    Queue(i64),
}

/// What one collection may get.
#[derive(Default)]
pub(in crate::repair::recover) struct Places {
    pub(in crate::repair::recover) index: Option<Index>,
    /// By the hash of the id: records of which the store has the same version.
    pub(in crate::repair::recover) of: HashMap<u64, Gift>,
    /// Those that the store has a vector of which is not the right one, or has lost its length.
    pub(in crate::repair::recover) better: HashSet<u64>,
}

/// What all collections may get, by their ids.
pub(in crate::repair::recover) struct Gifts<'a> {
    pub(in crate::repair::recover) asker: RefCell<Asker<'a>>,
    pub(in crate::repair::recover) of: BTreeMap<String, Places>,
}

/// What gives vectors to an index that is written anew.
pub(in crate::repair::recover) trait Give {
    /// Where the vector of a record is, and whether it is better than the one that the store has.
    fn of(&self, collection: &str, hash: u64) -> Option<(Gift, bool)>;

    /// The vector, and its length where it is normalised. Errs when it cannot be read.
    fn read(&self, collection: &str, gift: Gift) -> Result<(Vec<f32>, Option<f32>), Failure>;
}

impl Give for Gifts<'_> {
    fn of(&self, collection: &str, hash: u64) -> Option<(Gift, bool)> {
        let places = self.of.get(collection)?;
        Some((*places.of.get(&hash)?, places.better.contains(&hash)))
    }

    fn read(&self, collection: &str, gift: Gift) -> Result<(Vec<f32>, Option<f32>), Failure> {
        let nothing = || io::Error::from(io::ErrorKind::NotFound);
        match gift {
            Gift::Index(place) => {
                let index = self.of.get(collection).and_then(|places| places.index.as_ref());
                Ok(index.ok_or_else(nothing)?.stored(place)?)
            }
            // What is no vector has no numbers, and fits nowhere.
            Gift::Queue(row) => {
                Ok((self.asker.borrow_mut().vector(row)?.unwrap_or_default(), None))
            }
        }
    }
}
