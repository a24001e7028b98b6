//! Builds the graph of an HNSW index as hnswlib does: `addPoint`, `searchBaseLayer`, `mutuallyConnectNewElement` and
//! `getNeighborsByHeuristic2` of chroma-core/hnswlib (`hnswalg.h`), with one thread. With the same vectors in the same order and
//! the same seed the graph is the same, but for distances that rounding makes different.
//!
//! The order of elements is the order in which they are pushed. What was deleted is left out by not being pushed.

use alloc::{
    collections::{BTreeSet, BinaryHeap, TryReserveError},
    vec::Vec,
};

use core::{cmp::Reverse, ops::ControlFlow};

use super::{DIMENSION_MAX, Space};

/// How an index compares vectors: `hnsw:space` of Chroma.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// `l2`: the square of the distance.
    L2,
    /// `ip`: one less the product.
    Product,
    /// `cosine`: one less the product of normalised vectors. The index keeps the length that each had before.
    Cosine,
}

impl Metric {
    /// By Chroma's name; `None` for a name that it does not know.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "l2" => Some(Self::L2),
            "ip" => Some(Self::Product),
            "cosine" => Some(Self::Cosine),
            _ => None,
        }
    }

    /// What is compared once vectors are stored.
    #[must_use]
    pub const fn space(self) -> Space {
        match self {
            Self::L2 => Space::L2,
            Self::Product | Self::Cosine => Space::Product,
        }
    }
}

/// What an index is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Numbers per vector: 1 to 1,048,576.
    pub dimension: usize,
    /// How vectors are compared.
    pub metric: Metric,
    /// Most neighbours above level 0, and half as many as at level 0: 2 to 10,000. Chroma's `hnsw:M`, 16 unless set.
    pub neighbours: usize,
    /// Elements that are looked at for neighbours: 1 to 4,294,967,295, and at least `neighbours`, whatever stands here. Chroma's
    /// `hnsw:construction_ef`, 100 unless set.
    pub ef_construction: usize,
    /// Where the levels of elements start from; hnswlib's own default is 100.
    pub seed: u32,
}

/// Why there is no graph, or why an element is not in it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum BuildError {
    /// A number that no index has.
    #[error("{what} is {found}, {least} to {most} are possible")]
    Option {
        /// Of what.
        what: &'static str,
        /// What was asked for.
        found: usize,
        /// The least.
        least: usize,
        /// The greatest.
        most: usize,
    },
    /// More than the machine gives, or can address.
    #[error("there is no memory for {elements} elements")]
    Memory {
        /// How many elements there would be.
        elements: usize,
    },
    /// More elements than were announced.
    #[error("there is room for {room} elements and no more")]
    Full {
        /// Elements that were announced.
        room: usize,
    },
    /// A vector of another length.
    #[error("the vector of label {label} has {found} numbers of {wanted}")]
    Dimension {
        /// Whose.
        label: u64,
        /// Numbers in it.
        found: usize,
        /// Numbers in the others.
        wanted: usize,
    },
    /// A vector that cannot be compared.
    #[error("the vector of label {label} has a number or a length that is not finite")]
    NotFinite {
        /// Whose.
        label: u64,
    },
    /// Chroma counts labels from 1, and each is there once.
    #[error("label {label} is 0, or another element has it")]
    Label {
        /// Which.
        label: u64,
    },
    /// The caller had enough.
    #[error("it was stopped after {elements} elements")]
    Stopped {
        /// Elements in the graph by then.
        elements: usize,
    },
}

impl From<(TryReserveError, usize)> for BuildError {
    fn from((_, elements): (TryReserveError, usize)) -> Self {
        Self::Memory { elements }
    }
}

impl Options {
    /// About how many bytes a graph of so many elements takes while it is built. `None` when that is more than 64 bits count.
    #[must_use]
    pub fn memory_bytes(&self, elements: u64) -> Option<u64> {
        let links = (self.neighbours as u64).checked_mul(2)?.checked_add(1)?;
        let words = links.checked_add(self.dimension as u64)?;
        elements.checked_mul(words.checked_mul(4)?.checked_add(BESIDES)?)
    }

    fn check(&self, elements: usize) -> Result<(), BuildError> {
        let within = |what, found, least, most| {
            let fits = (least..=most).contains(&found);
            if fits { Ok(()) } else { Err(BuildError::Option { what, found, least, most }) }
        };
        within(
            "the dimension",
            self.dimension,
            1,
            usize::try_from(DIMENSION_MAX).unwrap_or(usize::MAX),
        )?;
        within("the number of neighbours", self.neighbours, 2, NEIGHBOURS_MAX)?;
        within("ef_construction", self.ef_construction, 1, u32::MAX as usize)?;
        within("the number of elements", elements, 0, ELEMENTS_MAX)
    }
}

/// A graph that grows.
#[derive(Debug)]
pub struct Builder {
    graph: Graph,
    room: usize,
    seen: BTreeSet<u64>,
    levels: Levels,
    search: Scratch,
}

/// A graph that can be written. Its parts are [`Self::header`], [`Self::level0`], [`Self::lengths`] and [`Self::links`].
#[derive(Debug)]
pub struct Graph {
    pub(super) options: Options,
    pub(super) labels: Vec<u64>,
    /// Before vectors were normalised; 0 where they are not.
    pub(super) norms: Vec<f32>,
    vectors: Vec<f32>,
    /// For each element the number of its neighbours at level 0, and room for all that it may have.
    base: Vec<u32>,
    /// The same for the levels above, level by level, of the elements that have any.
    upper: Vec<u32>,
    /// Where the levels of an element begin in `upper`.
    places: Vec<usize>,
    levels: Vec<u8>,
    pub(super) max_level: Option<u8>,
    pub(super) entry: u32,
}

impl Builder {
    /// An empty graph with room for so many elements, all of which is taken at once. Errs when a number is out of its range, and
    /// when there is no memory.
    pub fn new(options: Options, elements: usize) -> Result<Self, BuildError> {
        options.check(elements)?;
        let options =
            Options { ef_construction: options.ef_construction.max(options.neighbours), ..options };
        let graph = Graph {
            options,
            labels: room(elements, 1)?,
            norms: room(elements, 1)?,
            vectors: room(elements, options.dimension)?,
            base: room(elements, 2 * options.neighbours + 1)?,
            upper: Vec::new(),
            places: room(elements, 1)?,
            levels: room(elements, 1)?,
            max_level: None,
            entry: u32::MAX,
        };
        let mut search = Scratch { marks: room(elements, 1)?, ..Scratch::default() };
        search.marks.resize(elements, 0);
        let levels = Levels::new(options);
        Ok(Self { graph, room: elements, seen: BTreeSet::new(), levels, search })
    }

    /// Adds a vector as a user gave it to Chroma. Errs when it does not fit; the graph is as before then, and may grow on.
    pub fn push(&mut self, label: u64, vector: &[f32]) -> Result<(), BuildError> {
        if self.graph.options.metric != Metric::Cosine {
            return self.push_stored(label, vector, 0.0);
        }
        // As `normalize_vector` of hnswlib does it.
        let norm = libm::sqrtf(vector.iter().map(|number| number * number).sum());
        let factor = 1.0 / (norm + 1e-30);
        self.check(label, vector, norm)?;
        self.add(label, vector.iter().map(|number| number * factor), norm)
    }

    /// Adds a vector as an index holds it: with `cosine` it is normalised, and `norm` is the length that it had before, which stands
    /// in `length.bin`. `norm` means nothing otherwise. Errs as [`Self::push`] does.
    pub fn push_stored(&mut self, label: u64, vector: &[f32], norm: f32) -> Result<(), BuildError> {
        let norm = if self.graph.options.metric == Metric::Cosine { norm } else { 0.0 };
        self.check(label, vector, norm)?;
        self.add(label, vector.iter().copied(), norm)
    }

    /// Pushes one after the other, and tells `progress` after each how many elements there are. Errs at the first that does not fit
    /// and when `progress` breaks off; the elements before it are in the graph.
    pub fn extend<'v>(
        &mut self,
        vectors: impl IntoIterator<Item = (u64, &'v [f32])>,
        progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<(), BuildError> {
        for (label, vector) in vectors {
            self.push(label, vector)?;
            let elements = self.len();
            if progress(elements).is_break() {
                return Err(BuildError::Stopped { elements });
            }
        }
        Ok(())
    }

    /// Elements up to now.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.graph.labels.len()
    }

    /// Whether there is none yet.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.graph.labels.is_empty()
    }

    /// The graph as it is now.
    #[must_use]
    pub fn finish(self) -> Graph {
        self.graph
    }

    fn check(&self, label: u64, vector: &[f32], norm: f32) -> Result<(), BuildError> {
        let (found, wanted) = (vector.len(), self.graph.options.dimension);
        if found != wanted {
            return Err(BuildError::Dimension { label, found, wanted });
        }
        if !norm.is_finite() || vector.iter().any(|number| !number.is_finite()) {
            return Err(BuildError::NotFinite { label });
        }
        if label == 0 || self.seen.contains(&label) {
            return Err(BuildError::Label { label });
        }
        if self.len() >= self.room {
            return Err(BuildError::Full { room: self.room });
        }
        Ok(())
    }

    fn add(
        &mut self,
        label: u64,
        vector: impl Iterator<Item = f32>,
        norm: f32,
    ) -> Result<(), BuildError> {
        let graph = &mut self.graph;
        let elements = graph.labels.len();
        let Ok(index) = u32::try_from(elements) else {
            return Err(BuildError::Full { room: elements });
        };
        let level = self.levels.next();
        let upper = (graph.options.neighbours + 1) * usize::from(level);
        graph.upper.try_reserve(upper).map_err(|error| (error, elements))?;
        graph.places.push(graph.upper.len());
        graph.upper.resize(graph.upper.len() + upper, 0);
        graph.base.resize(graph.base.len() + 2 * graph.options.neighbours + 1, 0);
        graph.vectors.extend(vector);
        graph.levels.push(level);
        graph.labels.push(label);
        graph.norms.push(norm);
        self.seen.insert(label);
        graph.connect(index, level, &mut self.search);
        Ok(())
    }
}

impl Graph {
    /// Elements in it.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    pub(super) fn vector(&self, index: u32) -> &[f32] {
        let dimension = self.options.dimension;
        &self.vectors[index as usize * dimension..][..dimension]
    }

    /// The number of neighbours at level 0, and the room for them.
    pub(super) fn base_record(&self, index: u32) -> &[u32] {
        let words = 2 * self.options.neighbours + 1;
        &self.base[index as usize * words..][..words]
    }

    /// The same for all levels above.
    pub(super) fn upper_records(&self, index: u32) -> &[u32] {
        let words = (self.options.neighbours + 1) * usize::from(self.levels[index as usize]);
        &self.upper[self.places[index as usize]..][..words]
    }

    fn neighbours(&self, index: u32, level: u8) -> &[u32] {
        let words = self.options.neighbours + 1;
        let record = match usize::from(level).checked_sub(1) {
            None => self.base_record(index),
            Some(above) => &self.upper_records(index)[above * words..][..words],
        };
        &record[1..][..record[0] as usize]
    }

    fn record_mut(&mut self, index: u32, level: u8) -> &mut [u32] {
        let m = self.options.neighbours;
        match usize::from(level).checked_sub(1) {
            None => &mut self.base[index as usize * (2 * m + 1)..][..=2 * m],
            Some(above) => &mut self.upper[self.places[index as usize] + above * (m + 1)..][..=m],
        }
    }

    /// An overflow makes a distance infinite, or no number: as far as can be then.
    fn distance(&self, a: &[f32], b: &[f32]) -> f32 {
        let distance = self.options.metric.space().distance(a, b);
        if distance.is_nan() { f32::INFINITY } else { distance }
    }

    fn connect(&mut self, index: u32, level: u8, search: &mut Scratch) {
        let Some(max_level) = self.max_level else {
            (self.max_level, self.entry) = (Some(level), index);
            return;
        };
        let mut at = self.descend(index, max_level, level);
        for level in (0..=level.min(max_level)).rev() {
            self.candidates(index, at, level, search);
            at = self.link(index, level, search);
        }
        if level > max_level {
            (self.max_level, self.entry) = (Some(level), index);
        }
    }

    /// From the entry point to the nearest element that is found above `level`.
    fn descend(&self, index: u32, max_level: u8, level: u8) -> u32 {
        let query = self.vector(index);
        let mut at = self.entry;
        let mut nearest = self.distance(query, self.vector(at));
        for level in (level + 1..=max_level).rev() {
            loop {
                let before = at;
                for neighbour in self.neighbours(before, level) {
                    let distance = self.distance(query, self.vector(*neighbour));
                    if distance < nearest {
                        (nearest, at) = (distance, *neighbour);
                    }
                }
                if at == before {
                    break;
                }
            }
        }
        at
    }

    /// Finds the elements nearest to `index` at `level`, nearest first.
    fn candidates(&self, index: u32, start: u32, level: u8, search: &mut Scratch) {
        let query = self.vector(index);
        let ef = self.options.ef_construction;
        let Scratch { marks, mark, waiting, best, sorted, .. } = search;
        *mark = mark.wrapping_add(1);
        if *mark == 0 {
            marks.fill(0);
            *mark = 1;
        }
        let first = Near::new(self.distance(query, self.vector(start)), start);
        marks[start as usize] = *mark;
        waiting.clear();
        best.clear();
        waiting.push(Reverse(first));
        best.push(first);
        let mut bound = first.distance();
        while let Some(Reverse(near)) = waiting.pop() {
            if near.distance() > bound && best.len() == ef {
                break;
            }
            for neighbour in self.neighbours(near.index(), level) {
                if core::mem::replace(&mut marks[*neighbour as usize], *mark) == *mark {
                    continue;
                }
                let distance = self.distance(query, self.vector(*neighbour));
                if best.len() < ef || bound > distance {
                    let near = Near::new(distance, *neighbour);
                    waiting.push(Reverse(near));
                    best.push(near);
                    if best.len() > ef {
                        best.pop();
                    }
                    bound = best.peek().map_or(bound, |farthest| farthest.distance());
                }
            }
        }
        sorted.clear();
        sorted.extend(best.drain());
        sorted.sort_unstable();
    }

    /// Links an element with the best of those found, and these with it. Gives the nearest.
    fn link(&mut self, index: u32, level: u8, search: &mut Scratch) -> u32 {
        let m = self.options.neighbours;
        self.select(search, m);
        let chosen = core::mem::take(&mut search.chosen);
        set(self.record_mut(index, level), &chosen);
        let most = if level == 0 { 2 * m } else { m };
        for near in chosen.iter().rev() {
            let other = near.index();
            let record = self.record_mut(other, level);
            let count = record[0] as usize;
            if count < most {
                record[count + 1] = index;
                record[0] += 1;
                continue;
            }
            let centre = self.vector(other);
            let near = |index| Near::new(self.distance(self.vector(index), centre), index);
            search.sorted.clear();
            search.sorted.push(near(index));
            search.sorted.extend(self.neighbours(other, level).iter().map(|index| near(*index)));
            search.sorted.sort_unstable();
            self.select(search, most);
            set(self.record_mut(other, level), &search.chosen);
        }
        let nearest = chosen.first().map_or(self.entry, |near| near.index());
        search.chosen = chosen;
        nearest
    }

    /// Chooses at most so many of `sorted`: those that are nearer to the element than to any chosen before.
    fn select(&self, search: &mut Scratch, most: usize) {
        let Scratch { sorted, chosen, .. } = search;
        chosen.clear();
        if sorted.len() < most {
            chosen.extend_from_slice(sorted);
            return;
        }
        for near in sorted.iter() {
            if chosen.len() >= most {
                break;
            }
            let vector = self.vector(near.index());
            let nearer =
                |other: &Near| self.distance(self.vector(other.index()), vector) < near.distance();
            if !chosen.iter().any(nearer) {
                chosen.push(*near);
            }
        }
    }
}

/// Writes a list of neighbours as hnswlib does: the farthest first, and what stands behind them is left.
fn set(record: &mut [u32], chosen: &[Near]) {
    record[0] = u32::try_from(chosen.len()).unwrap_or(0);
    for (slot, near) in record[1..].iter_mut().zip(chosen.iter().rev()) {
        *slot = near.index();
    }
}

fn room<T>(elements: usize, each: usize) -> Result<Vec<T>, BuildError> {
    let mut room = Vec::new();
    let count = elements.checked_mul(each).ok_or(BuildError::Memory { elements })?;
    room.try_reserve_exact(count).map_err(|error| (error, elements))?;
    Ok(room)
}

/// What a search needs, kept so that it is not made anew for each.
#[derive(Debug, Default)]
struct Scratch {
    /// Which search has seen an element last.
    marks: Vec<u32>,
    mark: u32,
    waiting: BinaryHeap<Reverse<Near>>,
    best: BinaryHeap<Near>,
    sorted: Vec<Near>,
    chosen: Vec<Near>,
}

/// An element and its distance, ordered by that; of equal ones the greater index comes first, as in hnswlib.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Near(u64);

impl Near {
    const fn new(distance: f32, index: u32) -> Self {
        let bits = distance.to_bits();
        let ordered = if bits & SIGN == 0 { bits | SIGN } else { !bits };
        Self((ordered as u64) << 32 | !index as u64)
    }

    const fn distance(self) -> f32 {
        let ordered = (self.0 >> 32) as u32;
        f32::from_bits(if ordered & SIGN == 0 { !ordered } else { ordered & !SIGN })
    }

    #[expect(clippy::cast_possible_truncation, reason = "the lower half")]
    const fn index(self) -> u32 {
        !(self.0 as u32)
    }
}

/// The levels of elements: `minstd_rand0` and `uniform_real_distribution` of libstdc++, of which Chroma's builds take them.
#[derive(Debug)]
struct Levels {
    state: u64,
    factor: f64,
}

impl Levels {
    fn new(options: Options) -> Self {
        let state = u64::from(options.seed) % MODULUS;
        Self { state: state.max(1), factor: multiplier(options.neighbours) }
    }

    fn next(&mut self) -> u8 {
        let range = (MODULUS - 1) as f64;
        let mut draw = || {
            self.state = self.state * 16_807 % MODULUS;
            (self.state - 1) as f64
        };
        let uniform = (draw() + draw() * range) / (range * range);
        let level = -libm::log(uniform) * self.factor;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 64")]
        let level = level.clamp(0.0, LEVEL_MAX) as u8;
        level
    }
}

/// What the logarithm is multiplied with: 1/ln(M).
pub(super) fn multiplier(neighbours: usize) -> f64 {
    1.0 / libm::log(neighbours as f64)
}

/// The label twice, norm, level, place and mark of an element, and its share of the levels above 0.
const BESIDES: u64 = 58;
const MODULUS: u64 = (1 << 31) - 1;
const SIGN: u32 = 1 << 31;
/// As high as a header is believed; hnswlib's own levels end at 62.
const LEVEL_MAX: f64 = 64.0;
/// The limit of hnswlib.
const NEIGHBOURS_MAX: usize = 10_000;
/// The last number means "none".
const ELEMENTS_MAX: usize = u32::MAX as usize - 1;
