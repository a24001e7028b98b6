//! A sum over positions that does not depend on their order.

use crate::hash::{SEEDS, fold};

/// How many positions there are, and a sum over a hash of each (row, position, term).
///
/// Two sets of positions that differ have the same sum by chance only, one in 2^64. FTS5's own check compares a sum that
/// is weaker: exclusive or of a polynomial.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    /// How many.
    pub positions: u64,
    hash: u64,
}

/// The rows' part of the hash.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row(u64);

impl Row {
    #[inline]
    pub(super) fn new(rowid: i64) -> Self {
        Self(fold(rowid.cast_unsigned() ^ SEEDS[0], SEEDS[1]))
    }

    /// Moves `positions` on, from position 0.
    #[inline]
    pub(super) fn forward(&mut self, positions: u32) {
        self.0 = self.0.wrapping_add(u64::from(positions).wrapping_mul(SEEDS[2]));
    }
}

impl Sum {
    /// The sum over two sets of positions together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            positions: self.positions.wrapping_add(other.positions),
            hash: self.hash.wrapping_add(other.hash),
        }
    }

    /// Takes in the position at which `row` stands. `term` is the three characters of it, 21 bits each.
    #[inline]
    pub(super) fn add(&mut self, row: Row, term: u64) {
        self.positions += 1;
        self.hash = self.hash.wrapping_add(fold(row.0, term ^ SEEDS[3]));
    }
}
