//! An index to which two processes wrote. hnswlib writes into its files what has changed since its own last flush, and each process
//! numbers elements in its own way: so the files hold elements of both, and the ids are those of the one that flushed last.
//!
//! What the last flush wrote is known: the elements of the newest ids, and every element that these chose as a neighbour. hnswlib keeps
//! the neighbours of an element in the order of their distances. An element belongs to the process that flushed last when it stands in
//! that order in the lists of several of those elements, and its own list names them again. Whatever has fewer witnesses is not
//! taken: it may be another record's.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    io,
};

use crate::{
    format::hnsw::{Metric, Space},
    repair::steps::Steps,
};

/// What is read of an index, place by place.
pub(super) trait Places {
    /// How many there are.
    fn count(&self) -> u64;
    /// The neighbours of the element at a place, in their order. Errs when it cannot be read.
    fn neighbours(&self, place: u64) -> io::Result<Vec<u32>>;
    /// Its vector. Errs when it cannot be read.
    fn vector(&self, place: u64) -> io::Result<Vec<f32>>;
}

/// An id that has a label and is a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) label: u64,
    /// The row of the queue that wrote the record last.
    pub(super) seq_id: i64,
}

/// Labels of elements that the last flush certainly wrote: an index at `position` was written at the latest after `flush` rows.
/// `in_order` is whether labels were given out in the order of the queue, and all rows were applied: Chroma 1.x does so. Before, a process
/// has its own rows only, and takes those of a batch in any order.
pub(super) fn newest(
    named: &[Named],
    position: i64,
    flush: usize,
    in_order: bool,
) -> BTreeSet<u64> {
    let flush = flush.min(NEWEST_MAX);
    let mut by_label: Vec<Named> =
        named.iter().copied().filter(|one| one.seq_id <= position).collect();
    by_label.sort_unstable_by_key(|one| std::cmp::Reverse(one.label));
    if in_order {
        let first = position.saturating_sub(i64::try_from(flush).unwrap_or(i64::MAX));
        let mut last = i64::MAX;
        let mut out = BTreeSet::new();
        for one in by_label.iter().take_while(|one| one.seq_id > first) {
            // One that was changed later is out of order: its element may be older.
            if one.seq_id < last {
                last = one.seq_id;
                out.insert(one.label);
            }
        }
        return out;
    }
    let labels: BTreeSet<u64> = by_label.iter().take(flush).map(|one| one.label).collect();
    by_label.sort_unstable_by_key(|one| std::cmp::Reverse(one.seq_id));
    let rows = by_label.iter().take(flush / 2).map(|one| one.label);
    rows.filter(|label| labels.contains(label)).collect()
}

/// Labels of records of which it is not certain that the row which wrote them last also made them: the process may have missed it, and
/// then it holds an older vector. `seq_ids` are those of all records of the database.
pub(super) fn perhaps_older(named: &[Named], seq_ids: &HashSet<i64>) -> BTreeSet<u64> {
    let mut by_label = named.to_vec();
    by_label.sort_unstable_by_key(|one| one.label);
    let mut out = BTreeSet::new();
    // The earliest row that can have made the record before.
    let mut made = 0_i64;
    for one in by_label {
        let mut row = made.saturating_add(1);
        // A row that wrote another record last has not made this one.
        while row < one.seq_id && seq_ids.contains(&row) {
            row += 1;
        }
        if row != one.seq_id {
            out.insert(one.label);
        }
        made = made.max(row.min(one.seq_id));
    }
    out
}

/// The places whose elements are certainly those of the process that flushed last, beginning with the places `newest`. Errs when an
/// element cannot be read, or it is stopped.
pub(super) fn of_last(
    places: &impl Places,
    metric: Metric,
    newest: &[u64],
    steps: &Steps,
) -> io::Result<HashSet<u64>> {
    let lists = Lists { places, space: metric.space(), steps };
    let mut written: BTreeSet<u64> = newest.iter().copied().collect();
    for place in newest {
        let list = lists.of(*place)?;
        written.extend(list.ordered().filter(|(_, fits)| *fits).map(|(other, _)| other));
        if written.len() > WRITTEN_MAX {
            break;
        }
    }
    let mut witnesses: BTreeMap<u64, Witnesses> = BTreeMap::new();
    for place in written {
        let list = lists.of(place)?;
        if !list.counts() {
            continue;
        }
        for (other, fits) in list.ordered() {
            let other = witnesses.entry(other).or_default();
            if fits {
                other.near.insert(place)
            } else {
                other.against.insert(place)
            };
        }
        for other in &list.links[list.ordered..] {
            witnesses.entry(u64::from(*other)).or_default().later.insert(place);
        }
    }
    let mut out = HashSet::new();
    for (place, known) in witnesses {
        if known.near.len() + known.later.len() < WITNESSES_MIN {
            continue;
        }
        let own = lists.of(place)?;
        let near = own.links.iter().filter(|other| known.near.contains(&u64::from(**other)));
        // In that list it came last, behind those that are in order.
        let fitting = own.ordered().filter(|(other, fits)| *fits && known.later.contains(other));
        let fitting = fitting.count();
        let enough = near.count() + fitting >= WITNESSES_MIN;
        if enough && known.against.len() * 4 <= known.near.len() + fitting {
            out.insert(place);
        }
    }
    Ok(out)
}

/// Which elements name one.
#[derive(Debug, Default)]
struct Witnesses {
    near: BTreeSet<u64>,
    later: BTreeSet<u64>,
    against: BTreeSet<u64>,
}

struct Lists<'a, P> {
    places: &'a P,
    space: Space,
    steps: &'a Steps,
}

/// The neighbours of one element.
#[derive(Debug, PartialEq, Eq)]
struct List {
    links: Vec<u32>,
    /// So many from the beginning are in the order of their distances, farthest first. The others came later.
    ordered: usize,
    /// Which of these are where they should be.
    fits: Vec<bool>,
}

impl List {
    fn ordered(&self) -> impl Iterator<Item = (u64, bool)> {
        self.links.iter().map(|other| u64::from(*other)).zip(self.fits.iter().copied())
    }

    /// Whether enough of it is in order to say anything.
    fn counts(&self) -> bool {
        let fits = self.fits.iter().filter(|fits| **fits).count();
        self.ordered >= LIST_MIN && fits * 5 >= self.ordered * 4
    }
}

impl<P: Places> Lists<'_, P> {
    fn of(&self, place: u64) -> io::Result<List> {
        if self.steps.stopped() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let mut links = self.places.neighbours(place)?;
        links.retain(|other| u64::from(*other) < self.places.count());
        let ordered = ordered(&links);
        let own = self.places.vector(place)?;
        let mut distances = Vec::with_capacity(ordered);
        for other in &links[..ordered] {
            let other = self.places.vector(u64::from(*other))?;
            distances.push(rounded(self.space.distance(&own, &other)));
        }
        Ok(List { fits: falling(&distances), ordered, links })
    }
}

/// How many links from the beginning were put in order together: later ones are added at the end, and are newer than all before.
fn ordered(links: &[u32]) -> usize {
    let mut ordered = links.len();
    while let Some((last, before)) = links[..ordered].split_last() {
        let newer = before.iter().all(|other| other < last);
        if !newer || links.get(ordered).is_some_and(|next| next <= last) {
            break;
        }
        ordered -= 1;
    }
    ordered
}

/// A distance without the bits that depend on the order in which a processor adds numbers up.
fn rounded(distance: f32) -> f32 {
    if distance.abs() < 0.1 {
        return (distance * 1e6).round() / 1e6;
    }
    f32::from_bits(distance.to_bits() & 0xffff_ff80)
}

/// Which of the numbers are part of the longest row of them that never grows.
fn falling(numbers: &[f32]) -> Vec<bool> {
    // The last number of the best row of each length, and its place.
    let mut ends: Vec<usize> = Vec::new();
    let mut before = vec![None; numbers.len()];
    for (at, number) in numbers.iter().enumerate() {
        let length = ends.partition_point(|end| numbers[*end] >= *number);
        before[at] = length.checked_sub(1).map(|last| ends[last]);
        match ends.get_mut(length) {
            Some(end) => *end = at,
            None => ends.push(at),
        }
    }
    let mut fits = vec![false; numbers.len()];
    let mut at = ends.last().copied();
    while let Some(place) = at {
        fits[place] = true;
        at = before[place];
    }
    fits
}

/// Places by label, where one element alone with that label is certain.
pub(super) fn by_label(
    bearers: impl Iterator<Item = (u64, u64)>,
    certain: &HashSet<u64>,
) -> HashMap<u64, u64> {
    let mut found: HashMap<u64, Option<u64>> = HashMap::new();
    for (label, place) in bearers.filter(|(_, place)| certain.contains(place)) {
        found.entry(label).and_modify(|other| *other = None).or_insert(Some(place));
    }
    found.into_iter().filter_map(|(label, place)| Some((label, place?))).collect()
}

/// How many elements must speak for one. Measured on 36 stores that two processes of Chroma 0.6.3, 1.1.1 and 1.5.9 had written to: with
/// two already, no element of the other process was taken.
const WITNESSES_MIN: usize = 3;
/// Neighbours in order without which a list says nothing.
const LIST_MIN: usize = 3;
const NEWEST_MAX: usize = 4096;
/// Elements whose lists are read.
const WRITTEN_MAX: usize = 1 << 16;

#[cfg(test)]
mod tests;
