//! Which label each id has, by a metadata file that may be damaged. A pair counts only where nothing speaks against it: a record must
//! never get the vector of another one.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::format::pickle::{self, Map, PickleError, ReadError, Source};

/// What a metadata file gives.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ids {
    /// Labels by the hash of the id.
    pub(super) labels: HashMap<u64, u64>,
    /// Rows of the queue that ids have their vectors from, by the hash of the id; only before 1.0.
    pub(super) rows: HashMap<u64, u64>,
    /// Labels given out so far, where it says so.
    pub(super) total: Option<u64>,
    /// How far the queue is in the index; only before 0.5.
    pub(super) position: Option<i64>,
    /// Whether running it would call code. Nothing of it counts then.
    pub(super) hostile: bool,
}

impl Ids {
    /// Reads what can be read. Errs when the source does.
    pub(super) fn read<R: Source>(source: R) -> Result<Self, R::Error> {
        let (mut pairs, mut rows) = (Vec::new(), HashMap::new());
        let said = pickle::salvage(source, pickle::Limits::default(), &mut |map, id, number| {
            if map == Map::IdToSeqId {
                rows.insert(id, number);
            } else {
                pairs.push((map, id, number));
            }
        });
        match said.error {
            Some(ReadError::Source(error)) => return Err(error),
            Some(ReadError::Content(PickleError::Hostile { .. })) => {
                return Ok(Self { hostile: true, ..Self::default() });
            }
            // What is cut ends with a whole pair. Other damage may have begun in the last one.
            Some(ReadError::Content(PickleError::Truncated { .. })) | None => {}
            Some(ReadError::Content(_)) => drop(pairs.pop()),
        }
        Ok(Self {
            labels: certain(&pairs),
            rows,
            total: said.total_elements_added,
            position: said.max_seq_id.and_then(|at| i64::try_from(at).ok()),
            hostile: false,
        })
    }

    /// Labels given out so far, as far as that can be known.
    pub(super) fn total(&self) -> u64 {
        let greatest = self.labels.values().copied().max().unwrap_or(0);
        // No index has so many: a number that was damaged.
        let stated = self.total.filter(|total| *total <= LABELS_MAX).unwrap_or(0);
        stated.max(greatest)
    }
}

/// The pairs that both dictionaries have, and of the others those that nothing contradicts: what only one of them has, because the file
/// ends before the other or is damaged there.
fn certain(pairs: &[(Map, u64, u64)]) -> HashMap<u64, u64> {
    let of = |wanted: Map| pairs.iter().filter(move |(map, ..)| *map == wanted);
    let second: HashSet<(u64, u64)> =
        of(Map::LabelToId).map(|(_, id, label)| (*id, *label)).collect();
    let mut labels = HashMap::new();
    let mut given = HashSet::new();
    let mut twice = (HashSet::new(), HashSet::new());
    for (_, id, label) in
        of(Map::IdToLabel).filter(|(_, id, label)| second.contains(&(*id, *label)))
    {
        if labels.insert(*id, *label).is_some_and(|before| before != *label) {
            twice.0.insert(*id);
        }
        if !given.insert(*label) {
            twice.1.insert(*label);
        }
    }
    let mut by_id: HashMap<u64, BTreeSet<u64>> = HashMap::new();
    let mut by_label: HashMap<u64, BTreeSet<u64>> = HashMap::new();
    for (_, id, label) in pairs {
        if !labels.contains_key(id) && !given.contains(label) {
            by_id.entry(*id).or_default().insert(*label);
            by_label.entry(*label).or_default().insert(*id);
        }
    }
    for (id, claimed) in &by_id {
        let mut claimed = claimed.iter();
        if let (Some(label), None) = (claimed.next(), claimed.next())
            && by_label[label].len() == 1
        {
            labels.insert(*id, *label);
        }
    }
    // Chroma counts from 1.
    labels.retain(|id, label| *label > 0 && !twice.0.contains(id) && !twice.1.contains(label));
    labels
}

/// Elements are numbered with 32 bits; those that were deleted have had labels too.
const LABELS_MAX: u64 = 1 << 40;

#[cfg(test)]
mod tests {
    use super::*;
    use Map::{IdToLabel as I, LabelToId as L};

    #[test]
    fn a_pair_counts_where_nothing_speaks_against_it() {
        for (pairs, want) in [
            (&[][..], &[][..]),
            // Whole, and cut in each of the two dictionaries.
            (&[(I, 7, 1), (I, 8, 2), (L, 7, 1), (L, 8, 2)], &[(7, 1), (8, 2)]),
            (&[(I, 7, 1), (I, 8, 2), (L, 7, 1)], &[(7, 1), (8, 2)]),
            (&[(I, 7, 1), (I, 8, 2)], &[(7, 1), (8, 2)]),
            // One label was changed in the first: the second has it, and nobody else wants it.
            (&[(I, 7, 2), (I, 8, 2), (L, 7, 1), (L, 8, 2)], &[(7, 1), (8, 2)]),
            // The second was cut before it could decide between two.
            (&[(I, 7, 2), (I, 8, 2), (I, 9, 3)], &[(9, 3)]),
            // Two maps that contradict each other.
            (&[(I, 7, 1), (L, 8, 1), (I, 9, 3), (L, 9, 3)], &[(9, 3)]),
            (&[(I, 7, 1), (L, 7, 2), (I, 9, 3), (L, 9, 3)], &[(9, 3)]),
            (&[(I, 7, 1), (I, 7, 2), (L, 7, 1), (L, 7, 2)], &[]),
            (&[(I, 7, 0), (L, 7, 0)], &[]),
        ] {
            let want: HashMap<u64, u64> = want.iter().copied().collect();
            assert_eq!(certain(pairs), want, "{pairs:?}");
        }
    }

    #[test]
    fn of_a_file_with_code_nothing_counts() {
        let code = b"\x80\x03}(X\x14\x00\x00\x00total_elements_addedK\x01X\x0b\x00\x00\x00id_to_label}(X\x01\x00\x00\x00aK\x01u\
            cposix\nsystem\n";
        let found = Ids::read(&code[..]).unwrap();
        assert_eq!(found, Ids { hostile: true, ..Ids::default() });
        // Bytes that no Chroma writes: the pair in front of them may be damaged too.
        let damaged =
            b"\x80\x03}(X\x14\x00\x00\x00total_elements_addedK\x05X\x0b\x00\x00\x00id_to_label}(\
            X\x01\x00\x00\x00aK\x01X\x01\x00\x00\x00bK\x02X\x01\x00\x00\x00cK\x03\0\0\0";
        let found = Ids::read(&damaged[..]).unwrap();
        assert_eq!((found.labels.len(), found.total), (1, Some(5)));
        let cut = &damaged[..damaged.len() - 3];
        assert_eq!(Ids::read(cut).unwrap().labels.len(), 2);
    }
}
