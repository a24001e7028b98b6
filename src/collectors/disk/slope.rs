//! When a filesystem will be full, from how its free bytes went in the last hours. Pure.
//!
//! A line through all readings is noise: a backup that comes and goes, or one large copy, bends it. So a window is cut into six
//! blocks, each stands for the median of its readings, and the disk counts as filling only when nearly every block has
//! less room than the one before; the pace is the median step. A spike or a single jump touches two steps of five
//! and changes nothing.
//!
//! A runaway file fills a disk in minutes, long before six hours have been seen; so shorter windows are asked too, but
//! none is believed further ahead than four times what it has seen.

use std::{collections::VecDeque, time::Duration};

use crate::clock::Timestamp;

/// How much room there was at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Point {
    /// When.
    pub(crate) at: Timestamp,
    /// Free bytes for everybody.
    pub(crate) avail_bytes: u64,
}

/// Readings of one filesystem, at most six hours of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trend {
    /// Oldest first, at least [`STEP`] and at most [`HOLE_MAX`] apart.
    points: VecDeque<Point>,
    /// Size of the filesystem that they are about.
    size_bytes: u64,
    /// When it will be full, by the points alone.
    full: Option<Timestamp>,
}

impl Trend {
    /// The trend that these points show, oldest first; those out of order are forgotten.
    pub(crate) fn restore(size_bytes: u64, points: impl IntoIterator<Item = Point>) -> Self {
        let mut trend = Self { size_bytes, ..Self::default() };
        for point in points {
            trend.push(point);
        }
        trend.full = trend.estimate();
        trend
    }

    /// Adds a reading; more than one in half a minute are not kept.
    pub(crate) fn note(&mut self, size_bytes: u64, point: Point) {
        // Another size is another filesystem, or a grown one: what went before says nothing.
        if self.size_bytes != size_bytes {
            *self = Self { size_bytes, ..Self::default() };
        }
        if self.push(point) {
            self.full = self.estimate();
        }
    }

    /// When it will be full; `None` while it is not filling, or when nothing can be said yet.
    pub(crate) fn full_at(&self) -> Option<Timestamp> {
        self.full
    }

    /// The readings, oldest first.
    pub(crate) fn points(&self) -> impl Iterator<Item = &Point> {
        self.points.iter()
    }

    /// Size of the filesystem that the readings are about.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn push(&mut self, point: Point) -> bool {
        if let Some(last) = self.points.back() {
            // A clock that jumped, a host that slept: a history with a hole shows no pace.
            if last.at.since(point.at) > STEP || point.at.since(last.at) > HOLE_MAX {
                self.points.clear();
            } else if point.at.since(last.at) < STEP {
                return false;
            }
        }
        self.points.push_back(point);
        while self.points.front().is_some_and(|first| point.at.since(first.at) > SPAN_MAX) {
            self.points.pop_front();
        }
        true
    }

    /// The earliest moment that a window shows and may be believed in.
    fn estimate(&self) -> Option<Timestamp> {
        let (first, last) = (self.points.front()?, self.points.back()?);
        let seen = last.at.since(first.at);
        // Once it fills, a pause of one block more does not end it: an alert that comes and goes is worth nothing.
        let falls_min = if self.full.is_some() { FALLS_MIN - 1 } else { FALLS_MIN };
        let windows = WINDOWS.into_iter().chain([seen]).filter(|w| *w <= seen && *w >= SPAN_MIN);
        windows
            .filter_map(|window| {
                let bytes_per_second = self.pace(window, falls_min)?;
                let left = last.avail_bytes as f64 / bytes_per_second;
                let horizon = if window >= WINDOWS[0] { FAR } else { window * FORESIGHT };
                (left <= horizon.as_secs_f64()).then(|| last.at.plus(Duration::from_secs_f64(left)))
            })
            .min()
    }

    /// Bytes that vanish per second over the last `window`; `None` when it is not filling.
    fn pace(&self, window: Duration, falls_min: usize) -> Option<f64> {
        let start = self.points.back()?.at.minus(window);
        let block = window.as_secs_f64() / BLOCKS as f64;
        let mut blocks: [Vec<u64>; BLOCKS] = Default::default();
        for point in self.points.iter().rev().take_while(|point| point.at >= start) {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a small number
            let index = (point.at.since(start).as_secs_f64() / block) as usize;
            blocks[index.min(BLOCKS - 1)].push(point.avail_bytes);
        }
        let mut levels = [0.0; BLOCKS];
        for (level, readings) in levels.iter_mut().zip(&mut blocks) {
            *level = median(readings)? as f64;
        }
        let mut steps: Vec<f64> = levels.windows(2).map(|pair| pair[0] - pair[1]).collect();
        let falls = steps.iter().filter(|step| **step > 0.0).count();
        steps.sort_by(f64::total_cmp);
        let pace = steps[steps.len() / 2] / block;
        (falls >= falls_min && pace > 0.0).then_some(pace)
    }
}

fn median(readings: &mut [u64]) -> Option<u64> {
    readings.sort_unstable();
    readings.get(readings.len() / 2).copied()
}

/// Shortest time between two points that are kept.
const STEP: Duration = Duration::from_secs(30);

/// A longer pause between two readings begins the history anew.
const HOLE_MAX: Duration = Duration::from_mins(10);

/// Windows that are asked, the longest first; besides them all that has been seen.
const WINDOWS: [Duration; 4] = [
    Duration::from_hours(6),
    Duration::from_hours(2),
    Duration::from_mins(40),
    Duration::from_mins(12),
];

/// Points are kept for a little longer than the longest window, so that it can be full.
const SPAN_MAX: Duration = WINDOWS[0].saturating_add(HOLE_MAX);

/// Nothing is said before this much has been seen.
const SPAN_MIN: Duration = WINDOWS[3];

/// Parts of a window.
const BLOCKS: usize = 6;

/// Steps of the five that must go down for the disk to count as filling.
const FALLS_MIN: usize = 4;

/// A window shorter than the longest sees so many times its own length ahead.
const FORESIGHT: u32 = 4;

/// Nobody's six hours say what will be in more than a year.
const FAR: Duration = Duration::from_hours(365 * 24);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GIB: u64 = 1 << 30;
    const START: i64 = 1_790_000_000;

    /// Free bytes at a minute.
    type Avail = Box<dyn Fn(f64) -> f64>;

    /// What is said after `minutes` of readings, one each half minute, of `avail` (of the minute).
    fn after(minutes: u32, avail: impl Fn(f64) -> f64) -> Option<f64> {
        let mut trend = Trend::default();
        for half in 0..=i64::from(minutes) * 2 {
            let at = Timestamp::from_secs(START + half * 30);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let avail_bytes = avail(half as f64 / 2.0) as u64;
            trend.note(1000 * GIB, Point { at, avail_bytes });
        }
        let end = Timestamp::from_secs(START + i64::from(minutes) * 60);
        trend.full_at().map(|full| full.since(end).as_secs_f64() / 60.0)
    }

    #[test]
    fn a_steady_pace_is_seen_and_nothing_else_is() {
        let gib = GIB as f64;
        let spike = move |minute: f64, from: f64, to: f64| {
            if (from..to).contains(&minute) { 50.0 * gib } else { 0.0 }
        };
        let cases: Vec<(&str, u32, Avail, Option<f64>)> = vec![
            ("idle", 400, Box::new(move |_| 100.0 * gib), None),
            ("emptying", 400, Box::new(move |m| (100.0 + m) * gib), None),
            ("1 GiB a minute, full in 20", 15, Box::new(move |m| (35.0 - m) * gib), Some(20.0)),
            // Fifteen minutes do not say what will be in two hours.
            ("1 GiB a minute, full in 120", 15, Box::new(move |m| (135.0 - m) * gib), None),
            ("the same, seen longer", 40, Box::new(move |m| (160.0 - m) * gib), Some(120.0)),
            ("too early", 11, Box::new(move |m| (35.0 - m) * gib), None),
            (
                "slow, six hours seen, full in 100 h",
                360,
                Box::new(move |m| (106.0 - m / 60.0) * gib),
                Some(6000.0),
            ),
            (
                "a runaway after hours of silence",
                380,
                Box::new(move |m| (200.0 - 5.0 * (m - 360.0).max(0.0)) * gib),
                Some(20.0),
            ),
            ("one large copy", 400, Box::new(move |m| 100.0 * gib - spike(m, 200.0, 900.0)), None),
            ("one just now", 400, Box::new(move |m| 100.0 * gib - spike(m, 398.0, 900.0)), None),
            (
                "a backup came and went",
                400,
                Box::new(move |m| 100.0 * gib - spike(m, 390.0, 398.0)),
                None,
            ),
            (
                "slow growth with a spike",
                360,
                Box::new(move |m| (106.0 - m / 60.0) * gib - spike(m, 100.0, 140.0)),
                Some(6000.0),
            ),
            (
                "a log that is rotated each hour",
                400,
                Box::new(move |m| (100.0 - (m % 60.0) / 60.0) * gib),
                None,
            ),
            (
                "hourly imports",
                420,
                Box::new(move |m| (100.0 - (m / 60.0).floor()) * gib),
                Some(93.0 * 60.0),
            ),
        ];
        for (case, minutes, avail, want) in cases {
            let got = after(minutes, avail);
            let near = match (got, want) {
                (Some(got), Some(want)) => (got - want).abs() <= want * 0.1 + 1.0,
                (got, want) => got == want,
            };
            assert!(near, "{case}: {got:?} minutes, not {want:?}");
        }
    }

    #[test]
    fn another_filesystem_a_hole_or_a_clock_that_jumps_begins_anew() {
        let filling = || {
            let mut trend = Trend::default();
            for half in 0..40 {
                let at = Timestamp::from_secs(START + half * 30);
                trend.note(GIB, Point { at, avail_bytes: GIB - half.unsigned_abs() * (GIB / 50) });
            }
            assert!(trend.full_at().is_some());
            trend
        };
        let last = START + 39 * 30;
        for (size_bytes, at) in [
            (2 * GIB, last + 30),
            (GIB, last + 3600),
            (GIB, last - 3600),
            (GIB, i64::MAX),
            (GIB, 0),
        ] {
            let mut trend = filling();
            trend.note(size_bytes, Point { at: Timestamp::from_secs(at), avail_bytes: GIB / 5 });
            assert_eq!((trend.full_at(), trend.points().count()), (None, 1), "{size_bytes} {at}");
        }
        let mut trend = filling();
        trend.note(GIB, Point { at: Timestamp::from_secs(last - 10), avail_bytes: GIB / 5 });
        assert_eq!(trend.points().count(), 40, "a small correction of the clock is waited for");
    }

    #[test]
    fn memory_is_bounded_and_a_restart_changes_nothing() {
        let mut trend = Trend::default();
        for second in 0..200_000_i64 {
            let at = Timestamp::from_secs(START + second * 5);
            let avail_bytes = (100 * GIB).saturating_sub(second.unsigned_abs() * 100_000);
            trend.note(200 * GIB, Point { at, avail_bytes });
        }
        assert!(trend.points().count() <= 741);
        let restored = Trend::restore(trend.size_bytes(), trend.points().copied());
        assert_eq!(restored.full_at(), trend.full_at());
        assert!(restored.full_at().is_some());
    }

    proptest! {
        #[test]
        fn a_line_is_found_whatever_its_slope(
            per_minute in 1_000_000_u64..2_000_000_000,
            hours_left in 1_u64..5000,
            noise in 0_u64..1_000,
        ) {
            let end = per_minute * 60 * hours_left;
            let start = end + per_minute * 365;
            let got = after(365, |m| {
                let wobble = ((m * 7919.0) % 13.0) * noise as f64;
                (start as f64 - per_minute as f64 * m + wobble).max(0.0)
            });
            let want = hours_left as f64 * 60.0;
            prop_assert!((got.unwrap() - want).abs() <= want * 0.02 + 2.0, "{got:?} {want}");
        }

        #[test]
        fn readings_of_any_kind_never_make_it_panic_or_speak_of_the_past(
            readings in prop::collection::vec((any::<i32>(), any::<u64>(), 0_u64..3), 0..200),
            steady in prop::collection::vec(any::<u64>(), 0..1000),
        ) {
            let mut trend = Trend::default();
            for (secs, avail_bytes, size) in readings {
                let point = Point { at: Timestamp::from_secs(secs.into()), avail_bytes };
                trend.note(size, point);
                prop_assert!(trend.full_at().is_none_or(|full| full >= point.at.minus(STEP)));
            }
            for (half, avail_bytes) in (0_i64..).zip(steady) {
                let point = Point { at: Timestamp::from_secs(START + half * 30), avail_bytes };
                trend.note(7, point);
                prop_assert!(trend.full_at().is_none_or(|full| full >= point.at));
            }
        }
    }
}
