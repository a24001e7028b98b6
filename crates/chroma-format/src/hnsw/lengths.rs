//! `length.bin`: the norm of each vector before it was normalised, 32-bit floats; Chroma multiplies with it when it gives
//! vectors back from a cosine index.

use alloc::{format, vec::Vec};

use super::{Header, Problems};

/// The roots of the smallest and of the greatest number that 32 bits hold, rounded away from each other: hnswlib adds squares, and takes
/// the root of the sum.
const NORM_MIN: f32 = 3.7e-23;
const NORM_MAX: f32 = 1.85e19;

/// Walks over the numbers of the elements that the header states.
#[derive(Debug)]
pub struct LengthWalk {
    elements: u64,
    carry: Vec<u8>,
    index: u64,
    problems: Problems,
}

impl LengthWalk {
    /// A walk that has seen nothing.
    #[must_use]
    pub const fn new(header: &Header) -> Self {
        Self { elements: header.elements, carry: Vec::new(), index: 0, problems: Problems::new() }
    }

    /// Goes on with the next bytes of the file.
    pub fn push(&mut self, mut piece: &[u8]) {
        while !self.carry.is_empty() && self.carry.len() < 4 {
            let Some((byte, rest)) = piece.split_first() else { return };
            self.carry.push(*byte);
            piece = rest;
        }
        if let Some(number) = self.carry.first_chunk().copied() {
            self.carry.clear();
            self.number(number);
        }
        let (numbers, rest) = piece.as_chunks::<4>();
        for number in numbers {
            if self.done() {
                return;
            }
            self.number(*number);
        }
        self.carry.extend_from_slice(rest);
    }

    /// Whether a number was seen for every element.
    #[must_use]
    pub const fn done(&self) -> bool {
        self.index >= self.elements
    }

    /// What is wrong in them.
    #[must_use]
    pub const fn problems(&self) -> &Problems {
        &self.problems
    }

    fn number(&mut self, bytes: [u8; 4]) {
        if self.done() {
            return;
        }
        let index = self.index;
        self.index += 1;
        let norm = f32::from_le_bytes(bytes);
        if !norm.is_finite() {
            self.problems.note(|| format!("the norm of element {index} is not finite"));
        } else if norm < 0.0 {
            self.problems.note(|| format!("the norm of element {index} is negative"));
        } else if norm > 0.0 && !(NORM_MIN..=NORM_MAX).contains(&norm) {
            self.problems.note(|| format!("the norm of element {index} is none that a vector has"));
        }
    }
}
