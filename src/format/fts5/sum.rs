//! A sum over positions that does not depend on their order.

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
    /// Takes in the position at which `row` stands. `term` is the three characters of it, 21 bits each.
    #[inline]
    pub(super) fn add(&mut self, row: Row, term: u64) {
        self.positions += 1;
        self.hash = self.hash.wrapping_add(fold(row.0, term ^ SEEDS[3]));
    }
}

/// The two halves of the product, one laid over the other: every bit of both factors reaches every bit.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "each half on its own")]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// Arbitrary odd numbers with half of their bits set: the first digits of π, e, √2 and √3 behind the point.
const SEEDS: [u64; 4] =
    [0x243f_6a88_85a3_08d3, 0xb7e1_5162_8aed_2a6b, 0x6a09_e667_f3bc_c909, 0xbb67_ae85_84ca_a73b];
