//! Vectors of one length, and how far they are from each other.

use alloc::{collections::TryReserveError, vec::Vec};

use wide::f32x4;

/// How far two vectors are from each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Space {
    /// The square of the distance.
    L2,
    /// One less the product: of normalised vectors the cosine distance.
    Product,
}

impl Space {
    /// Smaller is nearer. Vectors of different length are compared as far as both go.
    #[must_use]
    pub fn distance(self, a: &[f32], b: &[f32]) -> f32 {
        let [distance] = self.distances(a, [b]);
        distance
    }

    fn distances<const N: usize>(self, a: &[f32], others: [&[f32]; N]) -> [f32; N] {
        match self {
            Self::L2 => sums(a, others, |a, b| (a - b) * (a - b)),
            Self::Product => sums(a, others, |a, b| a * b).map(|sum| 1.0 - sum),
        }
    }
}

/// The vectors of a graph.
#[derive(Debug)]
pub(super) struct Vectors {
    space: Space,
    dimension: usize,
    numbers: Vec<f32>,
}

impl Vectors {
    /// None, and memory for so many. Errs when that is not there.
    pub(super) fn new(
        space: Space,
        dimension: usize,
        count: usize,
    ) -> Result<Self, TryReserveError> {
        let mut numbers = Vec::new();
        numbers.try_reserve_exact(count.saturating_mul(dimension))?;
        Ok(Self { space, dimension, numbers })
    }

    /// The memory that they will fill.
    pub(super) fn spare(&mut self) -> &mut [core::mem::MaybeUninit<f32>] {
        self.numbers.spare_capacity_mut()
    }

    pub(super) fn push(&mut self, vector: impl Iterator<Item = f32>) {
        self.numbers.extend(vector);
    }

    pub(super) fn of(&self, index: u32) -> &[f32] {
        &self.numbers[index as usize * self.dimension..][..self.dimension]
    }

    /// Appends the distances of a vector to others, each as [`Space::distance`] gives it.
    pub(super) fn distances(&self, from: u32, to: &[u32], out: &mut Vec<f32>) {
        let vector = self.of(from);
        let (fours, rest) = to.as_chunks::<4>();
        for four in fours {
            out.extend(self.space.distances(vector, four.map(|index| self.of(index))));
        }
        for index in rest {
            out.push(self.space.distance(vector, self.of(*index)));
        }
    }
}

/// Adds up sixteen terms at a time, each in its lane: the compiler may not change the order in which numbers are added.
fn sums<const N: usize>(
    a: &[f32],
    others: [&[f32]; N],
    term: impl Fn(f32x4, f32x4) -> f32x4,
) -> [f32; N] {
    let length = others.iter().fold(a.len(), |length, other| length.min(other.len()));
    let mut all = [[f32x4::ZERO; LANES / 4]; N];
    for start in (0..length).step_by(PIECE) {
        let end = (start + PIECE).min(length);
        for (lanes, other) in all.iter_mut().zip(others) {
            let mut sums = *lanes;
            let (a, a_rest) = a[start..end].as_chunks::<LANES>();
            let (b, b_rest) = other[start..end].as_chunks::<LANES>();
            let mut add = |a: &[f32; LANES], b: &[f32; LANES]| {
                let (a, b) = (a.as_chunks::<4>().0, b.as_chunks::<4>().0);
                for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
                    *sum += term(f32x4::new(*a), f32x4::new(*b));
                }
            };
            for (a, b) in a.iter().zip(b) {
                add(a, b);
            }
            if !a_rest.is_empty() {
                // Zeros are at no distance, and their product is none.
                let (mut a, mut b) = ([0.0; LANES], [0.0; LANES]);
                a[..a_rest.len()].copy_from_slice(a_rest);
                b[..b_rest.len()].copy_from_slice(b_rest);
                add(&a, &b);
            }
            *lanes = sums;
        }
    }
    all.map(|[a, b, c, d]| ((a + b) + (c + d)).reduce_add())
}

/// Four registers of the least processor that 64-bit programs run on.
const LANES: usize = 16;
/// Numbers of one vector that are read before those of the next: the memory is asked for several at once.
const PIECE: usize = 64;
