//! Builds the graph of an HNSW index as `addPoint` of chroma-core/hnswlib does (`hnswalg.h`). With one worker, the same vectors in the same
//! order and the same seed the graph is the same, but for distances that rounding makes different.
//!
//! The order of elements is the order in which they are pushed. What was deleted is left out by not being pushed.

use alloc::{
    collections::{BTreeSet, TryReserveError},
    vec::Vec,
};

use core::ops::ControlFlow;

use super::{
    DIMENSION_MAX, Space,
    connect::Scratch,
    lists::Lists,
    vectors::Vectors,
    workers::{Alone, Workers},
};

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
        let links = (self.neighbours as u64).checked_mul(4)?;
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

/// A graph that grows. With several workers it does not matter how many there are, and the graph is as good as hnswlib's and not the same.
#[derive(Debug)]
pub struct Builder<W = Alone> {
    graph: Graph,
    room: usize,
    seen: BTreeSet<u64>,
    levels: Levels,
    workers: W,
    scratches: Vec<Scratch>,
    /// Elements of the graph that are linked.
    linked: usize,
}

/// A graph that can be written. Its parts are [`Self::header`], [`Self::level0`], [`Self::lengths`] and [`Self::links`].
#[derive(Debug)]
pub struct Graph {
    pub(super) options: Options,
    pub(super) labels: Vec<u64>,
    /// Before vectors were normalised; 0 where they are not.
    pub(super) norms: Vec<f32>,
    pub(super) vectors: Vectors,
    /// Neighbours at level 0: a list for each element.
    pub(super) base: Lists,
    /// Neighbours on the levels above: as many lists for an element as it has levels.
    pub(super) upper: Lists,
    /// Where the lists of an element begin in `upper`.
    pub(super) places: Vec<usize>,
    pub(super) levels: Vec<u8>,
    pub(super) max_level: Option<u8>,
    pub(super) entry: u32,
}

impl Builder {
    /// An empty graph with room for so many elements, all of which is taken at once, that is built as hnswlib builds it. Errs when a
    /// number is out of its range, and when there is no memory.
    pub fn new(options: Options, elements: usize) -> Result<Self, BuildError> {
        Self::with(options, elements, Alone)
    }
}

impl<W: Workers> Builder<W> {
    /// The same with workers who do the work. Errs as [`Builder::new`] does.
    pub fn with(options: Options, elements: usize, workers: W) -> Result<Self, BuildError> {
        options.check(elements)?;
        let options =
            Options { ef_construction: options.ef_construction.max(options.neighbours), ..options };
        let memory = |error: TryReserveError| BuildError::from((error, elements));
        let (space, dimension) = (options.metric.space(), options.dimension);
        let mut graph = Graph {
            options,
            labels: room(elements)?,
            norms: room(elements)?,
            vectors: Vectors::new(space, dimension, elements).map_err(memory)?,
            base: Lists::new(2 * options.neighbours, elements).map_err(memory)?,
            upper: Lists::new(options.neighbours, 0).map_err(memory)?,
            places: room(elements)?,
            levels: room(elements)?,
            max_level: None,
            entry: u32::MAX,
        };
        workers.prepare(graph.vectors.spare());
        workers.prepare(graph.base.spare());
        let scratches = (0..workers.count().max(1)).map(|_| Scratch::new(elements));
        let scratches = scratches.collect::<Result<_, _>>().map_err(memory)?;
        let (levels, seen) = (Levels::new(options), BTreeSet::new());
        Ok(Self { graph, room: elements, seen, levels, workers, scratches, linked: 0 })
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
    pub fn finish(mut self) -> Graph {
        self.link();
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
        let elements = self.len();
        let level = self.levels.next();
        let is_higher = self.graph.max_level.is_none_or(|highest| level > highest);
        if is_higher {
            self.link();
        }
        let graph = &mut self.graph;
        graph.upper.grow(usize::from(level)).map_err(|error| (error, elements))?;
        graph.base.grow(1).map_err(|error| (error, elements))?;
        graph.places.push(graph.upper.len() - usize::from(level));
        graph.vectors.push(vector);
        graph.levels.push(level);
        graph.labels.push(label);
        graph.norms.push(norm);
        self.seen.insert(label);
        // A batch is small beside the graph: its elements hardly know each other.
        let batch = if self.workers.count() > 1 { self.linked / BATCHES_MIN } else { 1 };
        if is_higher || self.len() - self.linked >= batch.min(BATCH_MAX) {
            self.link();
        }
        Ok(())
    }

    fn link(&mut self) {
        if let Ok(first) = u32::try_from(self.linked)
            && self.linked < self.graph.len()
        {
            self.graph.link(first, &self.workers, &mut self.scratches);
            self.linked = self.graph.len();
        }
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
        self.vectors.of(index)
    }

    /// How many levels above 0 an element is on, and where its lists begin in `upper`.
    pub(super) fn upper_lists(&self, index: u32) -> core::ops::Range<usize> {
        let first = self.places[index as usize];
        first..first + usize::from(self.levels[index as usize])
    }
}

fn room<T>(elements: usize) -> Result<Vec<T>, BuildError> {
    let mut room = Vec::new();
    room.try_reserve_exact(elements).map_err(|error| (error, elements))?;
    Ok(room)
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

/// The label twice, norm, level, place, marks of some workers, and the share of the levels above 0 of an element.
const BESIDES: u64 = 90;
/// A batch is at most so small a part of the graph, one in so many.
const BATCHES_MIN: usize = 64;
/// Enough for many workers at once.
const BATCH_MAX: usize = 128;
const MODULUS: u64 = (1 << 31) - 1;
/// As high as a header is believed; hnswlib's own levels end at 62.
const LEVEL_MAX: f64 = 64.0;
/// The limit of hnswlib.
const NEIGHBOURS_MAX: usize = 10_000;
/// The last number means "none".
const ELEMENTS_MAX: usize = u32::MAX as usize - 1;
