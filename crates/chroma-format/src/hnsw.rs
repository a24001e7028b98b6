//! The files of one HNSW folder: `header.bin`, `data_level0.bin`, `length.bin`, `link_lists.bin`, little-endian, without
//! checksums. Source: `persistDirty` and `loadPersistedIndex` of chroma-core/hnswlib (`hnswalg.h`), checked on folders of
//! Chroma 0.4 to 1.5. Chroma's loader checks almost none of what is checked here: a wrong count or neighbour ends the
//! whole server with SIGSEGV.
//!
//! They are written too: a graph that [`Builder`] builds gives the bytes of all four.
//!
//! The walks are fed with pieces of any length and keep at most one element, so that memory does not grow with the file.

use alloc::{format, string::String};

mod build;
mod connect;
mod held;
mod labels;
mod lengths;
mod level0;
mod links;
mod lists;
mod order;
mod reachable;
mod readable;
mod search;
mod vectors;
mod workers;
mod write;

pub use build::{BuildError, Builder, Graph, Metric, Options};
pub use held::{holds, holds_length};
pub use labels::{LabelProblems, Labels, Pair};
pub use lengths::LengthWalk;
pub use level0::{Element, Level0Walk};
pub use links::LinkWalk;
pub use order::{Exchange, Order};
pub use reachable::Reachable;
pub use readable::{ReadableWalk, Shape};
pub use search::{Elements, Read, Search, UpperLinks};
pub use vectors::Space;
pub use workers::{Alone, Workers};

/// Counts, sizes and where the search begins.
pub const HEADER_FILE: &str = "header.bin";
/// The elements: links of the lowest layer, vector and label of each.
pub const LEVEL0_FILE: &str = "data_level0.bin";
/// The length of each vector, where the space is cosine.
pub const LENGTHS_FILE: &str = "length.bin";
/// Links of the upper layers.
pub const LINKS_FILE: &str = "link_lists.bin";
/// Which record has which label: a pickle of Chroma's own.
pub const METADATA_FILE: &str = "index_metadata.pickle";
/// The five files in the folder of an index, the same in all releases since 0.4. A flush writes the last one at its end.
pub const FILES: [&str; 5] = [HEADER_FILE, LEVEL0_FILE, LENGTHS_FILE, LINKS_FILE, METADATA_FILE];

/// Bytes of `header.bin`: the fields one after the other, none aligned.
pub const HEADER_LEN: usize = 100;

const VERSION: usize = 0;
const OFFSET_LEVEL0: usize = 4;
const MAX_ELEMENTS: usize = 12;
const ELEMENTS: usize = 20;
const ELEMENT_BYTES: usize = 28;
const LABEL_OFFSET: usize = 36;
const DATA_OFFSET: usize = 44;
const MAX_LEVEL: usize = 52;
const ENTRY_POINT: usize = 56;
const MAX_M: usize = 60;
const MAX_M0: usize = 68;
const M: usize = 76;
const MULT: usize = 84;
const EF_CONSTRUCTION: usize = 92;

/// A header whose fields agree with each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Header {
    /// Room that was reserved, in elements.
    pub max_elements: u64,
    /// Elements, those marked as deleted included.
    pub elements: u64,
    /// Bytes per element in `data_level0.bin`.
    pub element_bytes: u64,
    /// Numbers per vector.
    pub dimension: u64,
    /// Highest level of the graph; -1 while there is no element.
    pub max_level: i32,
    /// Index of the element at which searches begin.
    pub entry_point: u32,
    /// Most neighbours of an element above level 0; twice as many at level 0.
    pub neighbours: u64,
}

/// Why a header is none that hnswlib writes.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum HeaderError {
    /// Shorter than a header.
    #[error("it has {found} bytes of {HEADER_LEN}")]
    Truncated {
        /// Bytes that are there.
        found: usize,
    },
    /// Another version, or other bytes.
    #[error("version is {found}, 1 is known")]
    Version {
        /// What stands there.
        found: u32,
    },
    /// More elements than room.
    #[error("{elements} elements exceed the stated maximum {max}")]
    CountAboveMax {
        /// Stated elements.
        elements: u64,
        /// Stated room.
        max: u64,
    },
    /// More room than ids can name.
    #[error("a maximum of {found} elements is more than ids can name")]
    Maximum {
        /// Stated room.
        found: u64,
    },
    /// Numbers of neighbours that do not fit together.
    #[error("maxM {max_m}, maxM0 {max_m0} and M {m} do not fit together")]
    Neighbours {
        /// Above level 0.
        max_m: u64,
        /// At level 0.
        max_m0: u64,
        /// As asked for.
        m: u64,
    },
    /// An offset that does not follow from the others.
    #[error("{field} is {found}, which does not follow from the other fields")]
    Offset {
        /// Which field.
        field: &'static str,
        /// What stands there.
        found: u64,
    },
    /// The entry point is no element.
    #[error("entry point {found} is none of {elements} elements")]
    EntryPoint {
        /// What stands there.
        found: u32,
        /// Stated elements.
        elements: u64,
    },
    /// A level that no graph reaches, or none although there are elements.
    #[error("maximum level {found} with {elements} elements")]
    Level {
        /// What stands there.
        found: i32,
        /// Stated elements.
        elements: u64,
    },
    /// The level multiplier is not 1/ln(M).
    #[error("level multiplier {found} does not belong to M {m}")]
    Multiplier {
        /// What stands there.
        found: f64,
        /// Stated M.
        m: u64,
    },
}

impl Header {
    /// Reads `header.bin`. Bytes beyond the hundredth are not looked at. Errs when it is too short, of another version, or
    /// contradicts itself.
    pub fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        let Some(head) = bytes.first_chunk::<HEADER_LEN>() else {
            return Err(HeaderError::Truncated { found: bytes.len() });
        };
        let version = u32_at(head, VERSION);
        if version != 1 {
            return Err(HeaderError::Version { found: version });
        }
        let (max_m, level0_m, m) = (u64_at(head, MAX_M), u64_at(head, MAX_M0), u64_at(head, M));
        // hnswlib refuses M above 10,000, and Chroma asks for 2 at least.
        if !(1..=10_000).contains(&max_m) || level0_m != 2 * max_m || m != max_m {
            return Err(HeaderError::Neighbours { max_m, max_m0: level0_m, m });
        }
        let offset = |field, found, wanted: bool| {
            if wanted { Ok(found) } else { Err(HeaderError::Offset { field, found }) }
        };
        let first = u64_at(head, OFFSET_LEVEL0);
        offset("offsetLevel0", first, first == 0)?;
        let data = u64_at(head, DATA_OFFSET);
        offset("offsetData", data, data == 4 + 4 * level0_m)?;
        let label = u64_at(head, LABEL_OFFSET);
        let vector_bytes = label.wrapping_sub(data);
        let fits = label > data && vector_bytes.is_multiple_of(4);
        offset("label_offset", label, fits && vector_bytes / 4 <= DIMENSION_MAX)?;
        let element_bytes = u64_at(head, ELEMENT_BYTES);
        offset("size_data_per_element", element_bytes, element_bytes == label + 8)?;
        let ef = u64_at(head, EF_CONSTRUCTION);
        offset("ef_construction", ef, (1..=u64::from(u32::MAX)).contains(&ef))?;
        let (elements, max_elements) = (u64_at(head, ELEMENTS), u64_at(head, MAX_ELEMENTS));
        if max_elements > u64::from(u32::MAX) {
            return Err(HeaderError::Maximum { found: max_elements });
        }
        if elements > max_elements {
            return Err(HeaderError::CountAboveMax { elements, max: max_elements });
        }
        let (max_level, entry_point) = (i32_at(head, MAX_LEVEL), u32_at(head, ENTRY_POINT));
        // A level is -ln(u)/ln(M) of a random double u: 54 at the very most.
        let levels = if elements == 0 { -1..=64 } else { 0..=64 };
        if !levels.contains(&max_level) {
            return Err(HeaderError::Level { found: max_level, elements });
        }
        if elements > 0 && u64::from(entry_point) >= elements {
            return Err(HeaderError::EntryPoint { found: entry_point, elements });
        }
        let factor = f64::from_bits(u64_at(head, MULT));
        if m > 1 && (factor * libm::log(m as f64) - 1.0).abs() > 1e-6 || factor.is_nan() {
            return Err(HeaderError::Multiplier { found: factor, m });
        }
        Ok(Self {
            max_elements,
            elements,
            element_bytes,
            dimension: vector_bytes / 4,
            max_level,
            entry_point,
            neighbours: max_m,
        })
    }

    /// Least length of `data_level0.bin`.
    #[must_use]
    pub const fn level0_bytes(&self) -> u64 {
        self.elements.saturating_mul(self.element_bytes)
    }

    /// Least length of `length.bin`: a 32-bit float per element.
    #[must_use]
    pub const fn lengths_bytes(&self) -> u64 {
        self.elements.saturating_mul(4)
    }

    /// Least length of `link_lists.bin`: a 32-bit length per element.
    #[must_use]
    pub const fn links_bytes_min(&self) -> u64 {
        self.elements.saturating_mul(4)
    }

    /// Greatest length of `link_lists.bin`: every element at the highest level.
    #[must_use]
    pub const fn links_bytes_max(&self) -> u64 {
        self.elements.saturating_mul(self.level_bytes().saturating_mul(self.levels()) + 4)
    }

    /// Bytes of the links of one element at one level above 0.
    #[must_use]
    pub const fn level_bytes(&self) -> u64 {
        4 * self.neighbours + 4
    }

    /// Levels above 0.
    #[must_use]
    pub const fn levels(&self) -> u64 {
        if self.max_level > 0 { self.max_level.unsigned_abs() as u64 } else { 0 }
    }
}

/// The first of several things wrong, and how many there are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Problems {
    first: Option<String>,
    count: u64,
}

impl Problems {
    const fn new() -> Self {
        Self { first: None, count: 0 }
    }

    fn note(&mut self, what: impl FnOnce() -> String) {
        if self.count == 0 {
            self.first = Some(what());
        }
        self.count = self.count.saturating_add(1);
    }

    /// How many.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// One line, `None` when nothing is wrong.
    #[must_use]
    pub fn line(&self) -> Option<String> {
        let first = self.first.as_ref()?;
        Some(match self.count {
            1 => first.clone(),
            count => format!("{first} (and {} more)", count - 1),
        })
    }
}

fn u32_at(bytes: &[u8; HEADER_LEN], at: usize) -> u32 {
    let mut field = [0; 4];
    field.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(field)
}

fn i32_at(bytes: &[u8; HEADER_LEN], at: usize) -> i32 {
    u32_at(bytes, at).cast_signed()
}

fn u64_at(bytes: &[u8; HEADER_LEN], at: usize) -> u64 {
    let mut field = [0; 8];
    field.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(field)
}

/// Four megabytes per vector; embedding models give some thousand numbers.
const DIMENSION_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests;
