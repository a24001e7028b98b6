//! A search over the files of an index as hnswlib does it (`searchKnn` and `searchBaseLayerST` of `hnswalg.h`): down the levels
//! of `link_lists.bin` to the nearest element, then the best `ef` at level 0. Nothing is kept in memory but the links above
//! level 0 and a bit per element; whoever searches reads elements one by one.
//!
//! An element that no search with its own vector comes to is one that Chroma does not find either, although it is there.

use alloc::{
    collections::{BTreeMap, BinaryHeap},
    vec,
    vec::Vec,
};

use core::cmp::Ordering;

use super::{Header, Space};

/// Where elements come from: `index` is below the number of elements, and `into` as long as one of them.
pub trait Elements {
    /// Why there is none.
    type Error;

    /// Reads one. Errs when it cannot be read.
    fn read(&mut self, index: u32, into: &mut [u8]) -> Result<(), Self::Error>;
}

/// The links above level 0.
#[derive(Debug)]
pub struct UpperLinks {
    bytes: Vec<u8>,
    /// Where the links of an element begin, and how many levels it has.
    records: BTreeMap<u32, (usize, usize)>,
    level_bytes: usize,
}

impl UpperLinks {
    /// Takes in `link_lists.bin`. `None` when its records do not fit together.
    #[must_use]
    pub fn parse(bytes: Vec<u8>, header: &Header) -> Option<Self> {
        let level_bytes = usize::try_from(header.level_bytes()).ok()?;
        let mut records = BTreeMap::new();
        let mut at = 0_usize;
        for index in 0..u32::try_from(header.elements).ok()? {
            let length = usize::try_from(u32_at(bytes.get(at..)?)?).ok()?;
            at += 4;
            let levels = length / level_bytes;
            if length % level_bytes != 0 || bytes.len() - at < length {
                return None;
            }
            if levels > 0 {
                records.insert(index, (at, levels));
            }
            at += length;
        }
        Some(Self { bytes, records, level_bytes })
    }

    /// The neighbours of `index` at `level`, counted from 1.
    pub(super) fn of(&self, index: u32, level: usize) -> impl Iterator<Item = u32> {
        let record = self.records.get(&index).filter(|(_, levels)| (1..=*levels).contains(&level));
        let links = record.and_then(|(at, _)| {
            let at = at + (level - 1) * self.level_bytes;
            self.bytes.get(at..at + self.level_bytes)
        });
        neighbours(links.unwrap_or_default())
    }
}

/// Searches one index.
#[derive(Debug)]
pub struct Search<'a, E> {
    header: Header,
    space: Space,
    upper: &'a UpperLinks,
    elements: E,
    /// One of them.
    buffer: Vec<u8>,
    vector: Vec<f32>,
    /// A bit for each that the search under way has seen.
    visited: Vec<u64>,
    links_bytes: usize,
    /// Elements that were read.
    reads: u64,
}

/// One element as it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Read {
    /// Its label.
    pub label: u64,
    /// Whether it is marked as deleted.
    pub deleted: bool,
    /// Its vector.
    pub vector: Vec<f32>,
}

impl<'a, E: Elements> Search<'a, E> {
    /// A search over elements that fit `header`; `None` when these are more than memory can address.
    #[must_use]
    pub fn new(header: Header, space: Space, upper: &'a UpperLinks, elements: E) -> Option<Self> {
        let element_bytes = usize::try_from(header.element_bytes).ok()?;
        let count = usize::try_from(header.elements).ok()?;
        u32::try_from(count).ok()?;
        Some(Self {
            header,
            space,
            upper,
            elements,
            buffer: vec![0; element_bytes],
            vector: Vec::new(),
            visited: vec![0; count.div_ceil(64)],
            links_bytes: usize::try_from(4 + 8 * header.neighbours).ok()?,
            reads: 0,
        })
    }

    /// How many elements were read up to now.
    #[must_use]
    pub const fn reads(&self) -> u64 {
        self.reads
    }

    /// Reads the element at `index`, which is below the number of elements. Errs when the reader does.
    pub fn element(&mut self, index: u32) -> Result<Read, E::Error> {
        self.load(index)?;
        let label = self.buffer.last_chunk().map_or(0, |label| u64::from_le_bytes(*label));
        Ok(Read { label, deleted: self.is_deleted(), vector: self.vector.clone() })
    }

    /// The elements nearest to `query` as hnswlib finds them, at most `ef`, nearest first, those marked as deleted left out.
    /// `deletions` is whether any is marked: hnswlib ends sooner when none is. Errs when the reader does.
    pub fn nearest(
        &mut self,
        query: &[f32],
        ef: usize,
        deletions: bool,
    ) -> Result<Vec<(f32, u32)>, E::Error> {
        if self.header.elements == 0 {
            return Ok(Vec::new());
        }
        let mut at = self.header.entry_point;
        let mut nearest = self.distance(query, at)?;
        for level in (1..=usize::try_from(self.header.levels()).unwrap_or(0)).rev() {
            loop {
                let before = at;
                for neighbour in self.upper.of(before, level) {
                    if !self.exists(neighbour) {
                        continue;
                    }
                    let distance = self.distance(query, neighbour)?;
                    if distance < nearest {
                        (nearest, at) = (distance, neighbour);
                    }
                }
                if at == before {
                    break;
                }
            }
        }
        self.base_level(query, at, ef, deletions)
    }

    fn base_level(
        &mut self,
        query: &[f32],
        start: u32,
        ef: usize,
        deletions: bool,
    ) -> Result<Vec<(f32, u32)>, E::Error> {
        self.visited.fill(0);
        let (mut best, mut waiting) = (BinaryHeap::new(), BinaryHeap::new());
        let distance = self.distance(query, start)?;
        let mut bound = f32::MAX;
        if self.is_deleted() {
            waiting.push(Nearest(f32::MAX, start));
        } else {
            bound = distance;
            best.push(Farthest(distance, start));
            waiting.push(Nearest(distance, start));
        }
        self.visit(start);
        while let Some(Nearest(distance, index)) = waiting.pop() {
            if distance > bound && (best.len() == ef || !deletions) {
                break;
            }
            self.load(index)?;
            let found: Vec<u32> = neighbours(&self.buffer[..self.links_bytes]).collect();
            for neighbour in found {
                if !self.exists(neighbour) || !self.visit(neighbour) {
                    continue;
                }
                let distance = self.distance(query, neighbour)?;
                if best.len() < ef || bound > distance {
                    waiting.push(Nearest(distance, neighbour));
                    if !self.is_deleted() {
                        best.push(Farthest(distance, neighbour));
                    }
                    if best.len() > ef {
                        best.pop();
                    }
                    if let Some(Farthest(distance, _)) = best.peek() {
                        bound = *distance;
                    }
                }
            }
        }
        let sorted = best.into_sorted_vec();
        Ok(sorted.into_iter().map(|Farthest(distance, index)| (distance, index)).collect())
    }

    /// Reads an element and tells how far it is. Errs when the reader does.
    fn distance(&mut self, query: &[f32], index: u32) -> Result<f32, E::Error> {
        self.load(index)?;
        Ok(self.space.distance(query, &self.vector))
    }

    fn load(&mut self, index: u32) -> Result<(), E::Error> {
        self.reads += 1;
        self.elements.read(index, &mut self.buffer)?;
        let end = self.buffer.len() - LABEL_BYTES;
        let numbers = self.buffer[self.links_bytes..end].as_chunks::<4>().0;
        self.vector.clear();
        self.vector.extend(numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)));
        Ok(())
    }

    fn is_deleted(&self) -> bool {
        self.buffer[2] & 1 != 0
    }

    fn exists(&self, index: u32) -> bool {
        u64::from(index) < self.header.elements
    }

    /// Notes that an element was seen; whether it was not before.
    fn visit(&mut self, index: u32) -> bool {
        let (word, bit) = (index as usize / 64, 1 << (index % 64));
        let new = self.visited[word] & bit == 0;
        self.visited[word] |= bit;
        new
    }
}

/// The neighbours in a list that begins with their number.
pub(super) fn neighbours(links: &[u8]) -> impl Iterator<Item = u32> {
    let (head, ids) = links.split_first_chunk::<4>().unwrap_or((&[0; 4], &[]));
    let count = u16::from_le_bytes([head[0], head[1]]);
    ids.as_chunks::<4>().0.iter().take(count.into()).map(|id| u32::from_le_bytes(*id))
}

fn u32_at(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

/// The farthest comes first.
#[derive(Debug, Clone, Copy)]
struct Farthest(f32, u32);

/// The nearest comes first.
#[derive(Debug, Clone, Copy)]
struct Nearest(f32, u32);

macro_rules! ordered {
    ($name:ident, $a:ident, $b:ident => $order:expr) => {
        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                let ($a, $b) = (self, other);
                $order
            }
        }
        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }
        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.cmp(other).is_eq()
            }
        }
        impl Eq for $name {}
    };
}

ordered!(Farthest, a, b => a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
ordered!(Nearest, a, b => b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)));

const LABEL_BYTES: usize = 8;

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    struct Bytes(Vec<u8>);

    impl Elements for Bytes {
        type Error = ();

        fn read(&mut self, index: u32, into: &mut [u8]) -> Result<(), ()> {
            let at = index as usize * into.len();
            into.copy_from_slice(self.0.get(at..at + into.len()).ok_or(())?);
            Ok(())
        }
    }

    /// Header, links and elements of the index with so many elements.
    fn index(fixture: &str, elements: u64) -> (Header, UpperLinks, Vec<u8>) {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(fixture);
        let mut folders = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        let (folder, header) = folders
            .find_map(|folder| {
                let header = Header::parse(&fs::read(folder.join("header.bin")).ok()?).ok()?;
                (header.elements == elements).then_some((folder, header))
            })
            .unwrap();
        let links = fs::read(folder.join("link_lists.bin")).unwrap();
        let upper = UpperLinks::parse(links, &header).unwrap();
        (header, upper, fs::read(folder.join("data_level0.bin")).unwrap())
    }

    #[test]
    fn own_vectors_are_found_first_and_the_rest_as_by_looking_at_all() {
        for (fixture, elements, space) in [
            ("chroma-1.5.9", 80, Space::Product),
            ("chroma-1.5.9", 40, Space::L2),
            ("chroma-0.4.24", 80, Space::Product),
            ("chroma-1.5.9-deleted", 90, Space::Product),
        ] {
            let (header, upper, bytes) = index(fixture, elements);
            let mut search = Search::new(header, space, &upper, Bytes(bytes)).unwrap();
            let all: Vec<Read> =
                (0..u32::try_from(elements).unwrap()).map(|i| search.element(i).unwrap()).collect();
            for (at, own) in (0..).zip(&all) {
                let found = search.nearest(&own.vector, 100, true).unwrap();
                let mut want: Vec<(f32, u32)> = (0..)
                    .zip(&all)
                    .filter(|(_, other)| !other.deleted)
                    .map(|(i, other)| (space.distance(&own.vector, &other.vector), i))
                    .collect();
                want.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
                assert_eq!(found, want, "{fixture} {elements}");
                assert!(own.deleted || found[0].1 == at, "{fixture} {elements}: element {at}");
            }
        }
    }

    #[test]
    fn an_element_that_nothing_leads_to_is_not_found() {
        let (header, upper, mut bytes) = index("chroma-1.5.9", 40);
        let lost = (header.entry_point + 1) % 40;
        let size = usize::try_from(header.element_bytes).unwrap();
        let links = 4 + 8 * usize::try_from(header.neighbours).unwrap();
        for element in bytes.chunks_exact_mut(size).take(40) {
            for id in element[4..links].chunks_exact_mut(4) {
                if id == lost.to_le_bytes() {
                    id.copy_from_slice(&header.entry_point.to_le_bytes());
                }
            }
        }
        let upper = UpperLinks { records: BTreeMap::new(), ..upper };
        let mut search = Search::new(header, Space::L2, &upper, Bytes(bytes)).unwrap();
        let own = search.element(lost).unwrap();
        let found = search.nearest(&own.vector, 100, false).unwrap();
        assert!(!found.is_empty() && found.iter().all(|(_, index)| *index != lost), "{found:?}");
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let (header, _, bytes) = index("chroma-1.5.9", 40);
        let level = usize::try_from(header.level_bytes()).unwrap();
        let mut state = 1_u64;
        for round in 0..200 {
            let mut noise = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                state.to_le_bytes()[6]
            };
            let mut links = Vec::new();
            for _ in 0..40 {
                let levels = usize::from(noise()) % 3;
                links.extend(u32::try_from(levels * level).unwrap().to_le_bytes());
                links.extend((0..levels * level).map(|_| noise()));
            }
            let mut bytes = bytes.clone();
            bytes.fill_with(&mut noise);
            let header = Header { max_level: round % 4, ..header };
            let upper = UpperLinks::parse(links.clone(), &header).unwrap();
            let mut search = Search::new(header, Space::L2, &upper, Bytes(bytes)).unwrap();
            assert!(search.nearest(&[0.5; 12], 10, true).unwrap().len() <= 10);
            links.pop();
            assert!(UpperLinks::parse(links, &header).is_none(), "it ends in a record");
        }
    }
}
