//! `data_level0.bin`: one element after the other, each with its neighbours at level 0, its vector and its label.

use alloc::{format, vec::Vec};

use super::{Header, Problems};

/// Walks over the elements that the header states.
#[derive(Debug)]
pub struct Level0Walk {
    header: Header,
    /// The part of an element that the pieces so far ended with.
    carry: Vec<u8>,
    index: u64,
    deleted: u64,
    problems: Problems,
}

/// One element.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Element {
    /// Its place in the file; neighbours are named by it.
    pub index: u64,
    /// Its name in `index_metadata.pickle`.
    pub label: u64,
    /// Whether it is marked as deleted.
    pub deleted: bool,
}

impl Level0Walk {
    /// A walk that has seen nothing.
    #[must_use]
    pub const fn new(header: Header) -> Self {
        Self { header, carry: Vec::new(), index: 0, deleted: 0, problems: Problems::new() }
    }

    /// Goes on with the next bytes of the file. What lies beyond the last element is room, and is not looked at.
    pub fn push(&mut self, mut piece: &[u8], visit: &mut dyn FnMut(Element)) {
        let Ok(size) = usize::try_from(self.header.element_bytes) else { return };
        if !self.carry.is_empty() {
            let wanted = size - self.carry.len().min(size);
            let (more, rest) = piece.split_at(wanted.min(piece.len()));
            self.carry.extend_from_slice(more);
            piece = rest;
            if self.carry.len() < size {
                return;
            }
            let whole = core::mem::take(&mut self.carry);
            self.element(&whole, visit);
        }
        let mut elements = piece.chunks_exact(size);
        for element in &mut elements {
            if self.done() {
                return;
            }
            self.element(element, visit);
        }
        if !self.done() {
            self.carry.extend_from_slice(elements.remainder());
        }
    }

    /// Whether every stated element was seen; otherwise the file ended before.
    #[must_use]
    pub const fn done(&self) -> bool {
        self.index >= self.header.elements
    }

    /// Elements seen so far.
    #[must_use]
    pub const fn seen(&self) -> u64 {
        self.index
    }

    /// Elements that are marked as deleted.
    #[must_use]
    pub const fn deleted(&self) -> u64 {
        self.deleted
    }

    /// What is wrong in the elements.
    #[must_use]
    pub const fn problems(&self) -> &Problems {
        &self.problems
    }

    fn element(&mut self, bytes: &[u8], visit: &mut dyn FnMut(Element)) {
        if self.done() {
            return;
        }
        let index = self.index;
        self.index += 1;
        let Some((head, rest)) = bytes.split_first_chunk::<4>() else { return };
        let neighbours_max = 2 * self.header.neighbours;
        let count = u16::from_le_bytes([head[0], head[1]]);
        let deleted = head[2] & 1 != 0;
        let links_bytes = usize::try_from(4 * neighbours_max).unwrap_or(usize::MAX);
        let Some((links, rest)) = rest.split_at_checked(links_bytes) else { return };
        let Some((vector, label)) = rest.split_last_chunk::<8>() else { return };
        let problems = &mut self.problems;
        if u64::from(count) > neighbours_max {
            problems.note(|| {
                format!("element {index} states {count} neighbours of {neighbours_max} at most")
            });
        } else {
            let ids = links.as_chunks::<4>().0.iter().take(count.into());
            if let Some(id) = beyond(ids.map(|id| u32::from_le_bytes(*id)), self.header.elements) {
                let elements = self.header.elements;
                problems.note(|| {
                    format!("element {index} has the neighbour {id}, there are {elements} elements")
                });
            }
        }
        // An infinity or NaN has all bits of its exponent set: one more there overflows into the sign. No early end, and
        // nothing but whole words, so that the compiler takes many at a time.
        let overflow =
            |number: &[u8; 4]| (u32::from_le_bytes(*number) & EXPONENT).wrapping_add(EXPONENT_ONE);
        let numbers = vector.as_chunks::<4>().0;
        if numbers.iter().fold(0, |all, number| all | overflow(number)).cast_signed() < 0 {
            problems
                .note(|| format!("the vector of element {index} has a number that is not finite"));
        }
        self.deleted += u64::from(deleted);
        visit(Element { index, label: u64::from_le_bytes(*label), deleted });
    }
}

/// The first of `ids` that is none of `elements`, at least one. It is looked for only when the sign of an id, or of what is
/// left above it, says that there may be one: that takes a few instructions for many ids.
pub(super) fn beyond(mut ids: impl Iterator<Item = u32> + Clone, elements: u64) -> Option<u32> {
    let last = u32::try_from(elements.saturating_sub(1)).unwrap_or(u32::MAX);
    let signs = ids.clone().fold(0, |signs, id| signs | id | last.wrapping_sub(id));
    if signs.cast_signed() < 0 { ids.find(|id| *id > last) } else { None }
}

/// The bits of the exponent of a 32-bit float.
pub(super) const EXPONENT: u32 = 0x7f80_0000;
const EXPONENT_ONE: u32 = 0x0080_0000;
