//! How many values there are, and how many of them are copies, in bounded memory. Values are known by their hashes. As long as there
//! are few, all of them are remembered and the answer is exact. When there are too many, only those with a small hash are, each with all
//! of its copies: a fair part of all values, from which the rest is estimated.

use std::collections::HashMap;

use twox_hash::XxHash3_64;

use super::Number;

/// Remembers at most `MAX` different values.
#[derive(Debug)]
pub(super) struct Sample<const MAX: usize> {
    /// Hash and how often it came.
    seen: HashMap<u64, u32>,
    /// Hashes below this are remembered: all, one half, one quarter, …
    below: u64,
}

impl<const MAX: usize> Default for Sample<MAX> {
    fn default() -> Self {
        Self { seen: HashMap::new(), below: u64::MAX }
    }
}

impl<const MAX: usize> Sample<MAX> {
    pub(super) fn add(&mut self, value: &[u8]) {
        let hash = XxHash3_64::oneshot(value);
        if hash > self.below {
            return;
        }
        let count = self.seen.entry(hash).or_default();
        *count = count.saturating_add(1);
        while self.seen.len() > MAX {
            self.below /= 2;
            let below = self.below;
            self.seen.retain(|hash, _| *hash <= below);
        }
    }

    /// Different values.
    pub(super) fn different(&self) -> Number {
        self.number(self.seen.len() as u64)
    }

    /// Values that came before.
    pub(super) fn copies(&self) -> Number {
        self.number(self.seen.values().map(|count| u64::from(*count) - 1).sum())
    }

    fn number(&self, counted: u64) -> Number {
        if self.below == u64::MAX {
            return Number { count: counted, estimated: false };
        }
        let share = self.below as f64 / u64::MAX as f64;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        let count = (counted as f64 / share).round() as u64;
        Number { count, estimated: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_values_are_counted_and_many_are_estimated() {
        let mut sample = Sample::<1024>::default();
        for number in 0..1_000_u32 {
            sample.add(&number.to_le_bytes());
            if number % 10 == 0 {
                sample.add(&number.to_le_bytes());
            }
        }
        assert_eq!(sample.different(), Number { count: 1_000, estimated: false });
        assert_eq!(sample.copies(), Number { count: 100, estimated: false });
        for number in 1_000..100_000_u32 {
            sample.add(&number.to_le_bytes());
            sample.add(&number.to_le_bytes());
        }
        let (different, copies) = (sample.different(), sample.copies());
        assert!(sample.seen.len() <= 1024 && different.estimated && copies.estimated);
        assert!(different.count.abs_diff(100_000) < 15_000, "{different:?}");
        assert!(copies.count.abs_diff(99_100) < 15_000, "{copies:?}");
    }
}
