//! The least room that there was in the last hour. A transaction that fills a disk is rolled back and its journal
//! deleted: moments later the disk looks half empty again, and only the low-water mark tells why the write failed.

use std::{collections::VecDeque, time::Duration};

use crate::clock::Timestamp;

/// The least reading of each minute of the last hour.
#[derive(Debug, Default)]
pub(crate) struct LowWater {
    minutes: VecDeque<(i64, u64)>,
}

impl LowWater {
    /// Adds a reading and says the least one of the last hour, this one included.
    pub(crate) fn note(&mut self, now: Timestamp, avail_bytes: u64) -> u64 {
        let minute = now.as_secs().div_euclid(60);
        // Minutes that lie ahead were noted before the clock stepped back; they would stay for ever.
        while self.minutes.back().is_some_and(|(at, _)| *at > minute) {
            self.minutes.pop_back();
        }
        match self.minutes.back_mut() {
            Some((at, least)) if *at == minute => *least = (*least).min(avail_bytes),
            _ => self.minutes.push_back((minute, avail_bytes)),
        }
        let oldest = now.minus(KEPT).as_secs().div_euclid(60);
        while self.minutes.front().is_some_and(|(at, _)| *at < oldest) {
            self.minutes.pop_front();
        }
        self.minutes.iter().map(|(_, least)| *least).min().unwrap_or(avail_bytes)
    }
}

const KEPT: Duration = Duration::from_hours(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_of_the_last_hour_is_kept_and_no_longer() {
        let mut low = LowWater::default();
        for (secs, avail, want) in [
            (0, 100, 100),
            (10, 7, 7),
            (20, 100, 7),
            (3_600, 90, 7),
            (3_670, 90, 90),
            (3_675, 40, 40),
            (3_000, 80, 80), // the clock stepped back
            (i64::MAX, 60, 60),
            (i64::MIN, 70, 70),
        ] {
            assert_eq!(low.note(Timestamp::from_secs(secs), avail), want, "{secs}");
        }
        for second in 0..100_000 {
            low.note(Timestamp::from_secs(second), 1);
        }
        assert!(low.minutes.len() <= 61);
    }
}
