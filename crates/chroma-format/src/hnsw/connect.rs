//! Finds the neighbours of an element and links them: `searchBaseLayer`, `getNeighborsByHeuristic2` and `mutuallyConnectNewElement` of
//! chroma-core/hnswlib (`hnswalg.h`).
//!
//! Elements are added in batches. For each of a batch the neighbours are looked for in the graph as it was before, and among those of the
//! batch that come before it; then each list that the batch changes is made anew. Both can be done by many workers, who only read, and the
//! graph does not depend on how many there are. A batch of one gives the graph of hnswlib.

use alloc::{collections::BinaryHeap, vec::Vec};
use core::cmp::Reverse;

use super::{build::Graph, lists::Near, workers::Workers};

/// What a worker needs, kept so that it is not made anew for each element.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// Which search has seen an element last.
    marks: Vec<u32>,
    mark: u32,
    waiting: BinaryHeap<Reverse<Near>>,
    best: BinaryHeap<Near>,
    unseen: Vec<u32>,
    distances: Vec<f32>,
    candidates: Vec<Candidate>,
    chosen: Vec<Candidate>,
}

impl Scratch {
    /// For a graph with room for so many. Errs when there is no memory for it.
    pub(super) fn new(elements: usize) -> Result<Self, alloc::collections::TryReserveError> {
        let mut marks = Vec::new();
        marks.try_reserve_exact(elements)?;
        marks.resize(elements, 0);
        Ok(Self { marks, ..Self::default() })
    }
}

/// Who may become a neighbour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    near: Near,
    /// Not nearer to another one that is spread out too than to the element.
    spread: bool,
}

/// A list of neighbours as it will be: farthest first where they were chosen, as hnswlib writes them.
struct List {
    near: Vec<Near>,
    spread: usize,
}

/// An element that is to stand in the list of another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Back {
    level: u8,
    target: u32,
    source: u32,
    near: Near,
}

impl Graph {
    /// Links the elements from `first` on, which stand in the graph and are not linked, with it and with each other. None of them is
    /// higher than all before, unless it is the only one.
    pub(super) fn link(&mut self, first: u32, workers: &impl Workers, scratches: &mut [Scratch]) {
        let (this, count) = (&*self, self.len() - first as usize);
        let Some(max_level) = self.max_level else {
            (self.max_level, self.entry) = (Some(self.levels[first as usize]), first);
            return;
        };
        let index = |task: usize| first + u32::try_from(task).unwrap_or(0);
        let lists = workers.map(scratches, count, &|scratch, task| {
            this.neighbours_of(index(task), first, max_level, scratch)
        });
        let mut backs = Vec::new();
        for (task, lists) in lists.into_iter().enumerate() {
            let source = index(task);
            for (level, list) in (0..).zip(&lists) {
                self.set(source, level, list);
                backs.extend(list.near.iter().map(|near| Back {
                    level,
                    target: near.index(),
                    source,
                    near: Near::new(near.distance(), source),
                }));
            }
        }
        backs.sort_unstable();
        let groups: Vec<&[Back]> =
            backs.chunk_by(|a, b| (a.level, a.target) == (b.level, b.target)).collect();
        let this = &*self;
        let lists =
            workers.map(scratches, groups.len(), &|scratch, task| this.with(groups[task], scratch));
        for (group, list) in groups.iter().zip(lists) {
            self.set(group[0].target, group[0].level, &list);
        }
        let last = index(count - 1);
        let level = self.levels[last as usize];
        if level > max_level {
            (self.max_level, self.entry) = (Some(level), last);
        }
    }

    fn set(&mut self, index: u32, level: u8, list: &List) {
        match usize::from(level).checked_sub(1) {
            None => self.base.set(index as usize, &list.near, list.spread),
            Some(above) => {
                let at = self.places[index as usize] + above;
                self.upper.set(at, &list.near, list.spread);
            }
        }
    }

    fn neighbours(&self, index: u32, level: u8) -> &[Near] {
        match usize::from(level).checked_sub(1) {
            None => self.base.of(index as usize),
            Some(above) => self.upper.of(self.places[index as usize] + above),
        }
    }

    /// The lists of a new element, from level 0 up to its own or the highest of the graph. `first` is the first of its batch.
    fn neighbours_of(
        &self,
        index: u32,
        first: u32,
        max_level: u8,
        scratch: &mut Scratch,
    ) -> Vec<List> {
        let level = self.levels[index as usize];
        let mut at = self.descend(index, max_level, level, scratch);
        let mut lists = Vec::new();
        for level in (0..=level.min(max_level)).rev() {
            self.search(index, at, level, scratch);
            // The others of the batch have no links yet.
            at = scratch.candidates.first().map_or(at, |nearest| nearest.near.index());
            let batch = (first..index).filter(|other| self.levels[*other as usize] >= level);
            scratch.unseen.clear();
            scratch.unseen.extend(batch);
            scratch.distances.clear();
            self.vectors.distances(index, &scratch.unseen, &mut scratch.distances);
            let batch = scratch.distances.iter().zip(&scratch.unseen);
            scratch.candidates.extend(batch.map(|(distance, other)| Candidate {
                near: Near::new(*distance, *other),
                spread: false,
            }));
            if !scratch.unseen.is_empty() {
                scratch.candidates.sort_unstable();
                scratch.candidates.truncate(self.options.ef_construction);
            }
            lists.push(self.select(self.options.neighbours, scratch));
        }
        lists.reverse();
        lists
    }

    /// From the entry point to the nearest element that is found above `level`.
    fn descend(&self, index: u32, max_level: u8, level: u8, scratch: &mut Scratch) -> u32 {
        let Scratch { unseen, distances, .. } = scratch;
        let mut nearest = Near::new(self.distance(index, self.entry), self.entry);
        for level in (level + 1..=max_level).rev() {
            loop {
                let before = nearest;
                unseen.clear();
                unseen
                    .extend(self.neighbours(before.index(), level).iter().map(|near| near.index()));
                distances.clear();
                self.vectors.distances(index, unseen, distances);
                for (distance, neighbour) in distances.iter().zip(&*unseen) {
                    if *distance < nearest.distance() {
                        nearest = Near::new(*distance, *neighbour);
                    }
                }
                if nearest == before {
                    break;
                }
            }
        }
        nearest.index()
    }

    fn distance(&self, a: u32, b: u32) -> f32 {
        self.options.metric.space().distance(self.vector(a), self.vector(b))
    }

    /// Finds the elements nearest to `index` at `level`, nearest first.
    fn search(&self, index: u32, start: u32, level: u8, scratch: &mut Scratch) {
        let ef = self.options.ef_construction;
        let Scratch { marks, mark, waiting, best, unseen, distances, candidates, .. } = scratch;
        *mark = mark.wrapping_add(1);
        if *mark == 0 {
            marks.fill(0);
            *mark = 1;
        }
        let mut is_new =
            |index: u32| core::mem::replace(&mut marks[index as usize], *mark) != *mark;
        let first = Near::new(self.distance(index, start), start);
        is_new(start);
        waiting.clear();
        best.clear();
        waiting.push(Reverse(first));
        best.push(first);
        let mut bound = first.distance();
        while let Some(Reverse(near)) = waiting.pop() {
            if near.distance() > bound && best.len() == ef {
                break;
            }
            let neighbours = self.neighbours(near.index(), level).iter().map(|near| near.index());
            unseen.clear();
            unseen.extend(neighbours.filter(|neighbour| is_new(*neighbour)));
            distances.clear();
            self.vectors.distances(index, unseen, distances);
            for (distance, neighbour) in distances.iter().zip(&*unseen) {
                let near = Near::new(*distance, *neighbour);
                if best.len() < ef || bound > near.distance() {
                    waiting.push(Reverse(near));
                    best.push(near);
                    if best.len() > ef {
                        best.pop();
                    }
                    bound = best.peek().map_or(bound, |farthest| farthest.distance());
                }
            }
        }
        candidates.clear();
        candidates.extend(best.drain().map(|near| Candidate { near, spread: false }));
        candidates.sort_unstable();
    }

    /// The list of an element after others have taken it as their neighbour, one after the other.
    fn with(&self, group: &[Back], scratch: &mut Scratch) -> List {
        let Back { level, target, .. } = group[0];
        let (lists, at) = match usize::from(level).checked_sub(1) {
            None => (&self.base, target as usize),
            Some(above) => (&self.upper, self.places[target as usize] + above),
        };
        let mut list = List { near: lists.of(at).to_vec(), spread: lists.spread(at) };
        for back in group {
            list.near.push(back.near);
            if list.near.len() > lists.room() {
                scratch.candidates.clear();
                scratch.candidates.extend(
                    list.near.iter().enumerate().map(|(place, near)| Candidate {
                        near: *near,
                        spread: place < list.spread,
                    }),
                );
                scratch.candidates.sort_unstable();
                list = self.select(lists.room(), scratch);
            }
        }
        list
    }

    /// Chooses at most so many candidates: those that are nearer to the element than to any chosen before.
    fn select(&self, most: usize, scratch: &mut Scratch) -> List {
        let Scratch { candidates, chosen, unseen, distances, .. } = scratch;
        if candidates.len() < most {
            let near = candidates.iter().rev().map(|candidate| candidate.near).collect();
            return List { near, spread: 0 };
        }
        chosen.clear();
        for candidate in &*candidates {
            if chosen.len() >= most {
                break;
            }
            let of = candidate.near;
            unseen.clear();
            let unknown = chosen.iter().filter(|before| !(before.spread && candidate.spread));
            unseen.extend(unknown.map(|before| before.near.index()));
            let mut is_nearer = |some: &[u32]| {
                distances.clear();
                self.vectors.distances(of.index(), some, distances);
                distances.iter().any(|distance| *distance < of.distance())
            };
            if !unseen.chunks(4).any(&mut is_nearer) {
                chosen.push(*candidate);
            }
        }
        List { near: chosen.iter().rev().map(|one| one.near).collect(), spread: chosen.len() }
    }
}
