//! Two that stand in each other's place in a sequence that otherwise only grows. Chroma gives labels out in the order in
//! which records come, so that a pair of labels that was exchanged is visible, although every label is there once and every
//! count agrees. Chroma 1.x keeps that order between records and labels, and adds the elements of a batch from several
//! threads; the releases before keep it between labels and elements, and take the ids of a batch in any order. What was
//! shuffled in a batch never looks like one exact exchange over so many places, all between in order.

use alloc::vec::Vec;

/// Looks at a sequence, a number at a time. Remembers only where it falls.
#[derive(Debug, Clone, Default)]
pub struct Order {
    len: u64,
    /// The last two numbers.
    last: [Option<u64>; 2],
    falls: Vec<Fall>,
    /// Set when it falls so often that it is in no order.
    shuffled: bool,
}

/// A number below the one before it.
#[derive(Debug, Clone, Copy)]
struct Fall {
    at: u64,
    before_last: Option<u64>,
    last: u64,
    number: u64,
    next: Option<u64>,
}

/// Two that were exchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Exchange {
    /// Their places, counted from 0.
    pub places: [u64; 2],
    /// What stands there.
    pub numbers: [u64; 2],
}

impl Order {
    /// Goes on with the next number.
    pub fn push(&mut self, number: u64) {
        let at = self.len;
        self.len += 1;
        if let Some(fall) = self.falls.last_mut()
            && fall.at + 1 == at
        {
            fall.next = Some(number);
        }
        let [before_last, last] = self.last;
        self.last = [last, Some(number)];
        if let Some(last) = last
            && number < last
            && !self.shuffled
        {
            if self.falls.len() == 2 * EXCHANGES_MAX {
                self.shuffled = true;
                self.falls = Vec::new();
            } else {
                self.falls.push(Fall { at, before_last, last, number, next: None });
            }
        }
    }

    /// The exchanges, when these are all that is not in order; none otherwise.
    #[must_use]
    pub fn exchanges(&self) -> Vec<Exchange> {
        let (pairs, rest) = self.falls.as_chunks::<2>();
        let all: Option<Vec<Exchange>> = pairs.iter().map(Fall::exchange).collect();
        all.filter(|_| rest.is_empty()).unwrap_or_default()
    }
}

impl Fall {
    /// Whether both would be in order if the first's high number and the second's low number changed places.
    fn exchange([first, second]: &[Self; 2]) -> Option<Exchange> {
        let (low_place, high_place) = (first.at - 1, second.at);
        let (high, low) = (first.last, second.number);
        let between = |before: Option<u64>, number: u64, after: Option<u64>| {
            before.is_none_or(|before| before < number) && after.is_none_or(|after| number < after)
        };
        (high_place - low_place >= DISTANCE_MIN
            && between(first.before_last, low, Some(first.number))
            && between(Some(second.last), high, second.next))
        .then_some(Exchange { places: [low_place, high_place], numbers: [high, low] })
    }
}

/// Nearer ones may be the work of two threads, or of a small batch whose ids were taken in any order.
const DISTANCE_MIN: u64 = 32;

/// More than these are no exchanges but another order.
const EXCHANGES_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn order(numbers: impl IntoIterator<Item = u64>) -> Vec<[u64; 2]> {
        let mut order = Order::default();
        numbers.into_iter().for_each(|number| order.push(number));
        order.exchanges().iter().map(|exchange| exchange.places).collect()
    }

    fn with(swaps: &[(usize, usize)]) -> Vec<u64> {
        let mut numbers: Vec<u64> = (0..200).map(|n| 3 * n + 1).collect();
        for (a, b) in swaps {
            numbers.swap(*a, *b);
        }
        numbers
    }

    #[test]
    fn only_exact_exchanges_are_told() {
        for (swaps, want) in [
            (&[][..], &[][..]),
            (&[(10, 90)], &[[10, 90]]),
            (&[(0, 199)], &[[0, 199]]),
            (&[(0, 40), (50, 100)], &[[0, 40], [50, 100]]),
            (&[(10, 11)], &[]),
            (&[(10, 40)], &[]),
            (&[(10, 90), (50, 150)], &[]),
            (&[(10, 90), (20, 21)], &[]),
            (&[(10, 90), (90, 150)], &[]),
        ] {
            assert_eq!(order(with(swaps)), want, "{swaps:?}");
        }
        // A record that was deleted and added again, or whose vector was added later, stands behind all others.
        let mut numbers = with(&[]);
        numbers.remove(50);
        numbers.push(50 * 3 + 1);
        assert_eq!(order(numbers.iter().copied()), [[0; 2]; 0]);
        numbers.remove(20);
        numbers.push(20 * 3 + 1);
        assert_eq!(order(numbers), [[0; 2]; 0]);
    }

    proptest! {
        #[test]
        fn batches_in_any_order_are_no_exchange(seed: u64, batch in 2_usize..400) {
            let mut numbers: Vec<u64> = (0..2000).collect();
            let mut state = seed | 1;
            let mut draw = |below: usize| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                usize::try_from(state >> 33).unwrap_or(0) % below
            };
            for part in numbers.chunks_mut(batch) {
                for at in (1..part.len()).rev() {
                    part.swap(at, draw(at + 1));
                }
            }
            prop_assert_eq!(order(numbers), [[0; 2]; 0]);
        }

        #[test]
        fn an_exchange_is_found_wherever_it_is(a in 0_usize..200, b in 0_usize..200) {
            let (low, high) = (a.min(b), a.max(b));
            let want = (high - low >= 32).then_some([low as u64, high as u64]);
            prop_assert_eq!(order(with(&[(a, b)])), want.into_iter().collect::<Vec<_>>());
        }
    }
}
