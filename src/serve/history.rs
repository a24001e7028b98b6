//! The last hours of a few figures of each store, for the sparklines: a ring per store, filled by whoever has the time.
//! Pure: `now` is an argument, and what survives a restart comes in and goes out as plain data.
//!
//! A store takes [`POINTS`] × 4 series × 8 bytes, 5.6 KiB, whatever happens; at most [`STORES_MAX`] are kept.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// Time between two points.
pub const STEP: Duration = Duration::from_secs(STEP_SECONDS as u64);

/// Points of a series: six hours.
pub const POINTS: usize = 180;

/// Stores whose history is kept.
pub const STORES_MAX: usize = 2_000;

/// What is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Series {
    /// Used part of the filesystem, 0 to 1.
    DiskUsed,
    /// Records in the tables.
    Records,
    /// Seconds that the newest `quick` check took.
    CheckDuration,
    /// Seconds since the newest complete backup.
    BackupAge,
}

impl Series {
    /// All of them, in the order of a [`Row`].
    pub const ALL: [Self; 4] =
        [Self::DiskUsed, Self::Records, Self::CheckDuration, Self::BackupAge];

    /// More digits than a picture shows are noise, and cost room where they are written down.
    fn rounded(self, value: f64) -> f64 {
        let steps = match self {
            Self::DiskUsed => 10_000.0,
            Self::Records | Self::BackupAge => 1.0,
            Self::CheckDuration => 1_000.0,
        };
        (value * steps).round() / steps
    }
}

/// A value for each of [`Series::ALL`]; `None` where it is not known.
pub type Row = [Option<f64>; Series::ALL.len()];

/// The last hours of all stores.
#[derive(Debug, Default)]
pub struct History {
    stores: BTreeMap<Arc<str>, Ring>,
}

/// The last hours of one store.
#[derive(Debug, Clone, Default)]
pub struct Ring {
    /// Number of the newest point: how many [`STEP`]s after the epoch it begins.
    newest: i64,
    /// NaN where nothing is known. The newest stands last; at most [`POINTS`].
    rows: VecDeque<[f64; Series::ALL.len()]>,
}

impl History {
    /// Takes in what is known now. A second call within one step replaces what it knows better; steps without a call are
    /// gaps. Stores that were not named for the whole of the history are forgotten.
    pub fn note<'a>(
        &mut self,
        now: Timestamp,
        stores: impl IntoIterator<Item = (&'a Arc<str>, Row)>,
    ) {
        let point = point_of(now);
        for (store, row) in stores {
            if let Some(ring) = self.stores.get_mut(store) {
                ring.note(point, row);
            } else if self.stores.len() < STORES_MAX {
                let mut ring = Ring::default();
                ring.note(point, row);
                self.stores.insert(Arc::clone(store), ring);
            }
        }
        self.stores.retain(|_, ring| !outlived(ring.newest, point));
    }

    /// The last hours of `store`, if anything is known.
    #[must_use]
    pub fn of(&self, store: &str) -> Option<&Ring> {
        self.stores.get(store)
    }

    /// What is to be written down.
    #[must_use]
    pub fn keep(&self) -> Kept {
        let stores = self.stores.iter().map(|(name, ring)| {
            let series =
                Series::ALL.iter().map(|series| runs(ring.series(*series).collect())).collect();
            (name.to_string(), KeptRing { newest: ring.newest, series })
        });
        Kept { step_seconds: STEP.as_secs(), stores: stores.collect() }
    }

    /// Goes on where `kept` left off. What does not fit (another step, more points than there are, another number of series,
    /// moments that lie ahead of `now`) is left out: a picture is not worth an error.
    #[must_use]
    pub fn resume(kept: Kept, now: Timestamp) -> Self {
        let mut out = Self::default();
        if kept.step_seconds != STEP.as_secs() {
            return out;
        }
        for (name, ring) in kept.stores.into_iter().take(STORES_MAX) {
            if let Some(ring) = ring.unpack().filter(|ring| ring.newest <= point_of(now)) {
                out.stores.insert(name.into(), ring);
            }
        }
        out
    }
}

impl Ring {
    fn note(&mut self, point: i64, row: Row) {
        // After the clock stepped back, what lies ahead is of a time that has not come.
        while self.newest > point && self.rows.pop_back().is_some() {
            self.newest -= 1;
        }
        if self.rows.is_empty() || outlived(self.newest, point) {
            self.rows.clear();
            self.newest = point - 1;
        }
        while self.newest < point {
            if self.rows.len() == POINTS {
                self.rows.pop_front();
            }
            self.rows.push_back([f64::NAN; Series::ALL.len()]);
            self.newest += 1;
        }
        let Some(last) = self.rows.back_mut() else { return };
        for ((slot, value), series) in last.iter_mut().zip(row).zip(Series::ALL) {
            // A reading that failed a moment later does not take away what was known.
            if let Some(value) = value.filter(|value| value.is_finite()) {
                *slot = series.rounded(value);
            }
        }
    }

    /// The points of one series, oldest first; `None` where nothing is known.
    #[must_use]
    pub fn series(&self, series: Series) -> impl ExactSizeIterator<Item = Option<f64>> {
        self.rows.iter().map(move |row| Some(row[series as usize]).filter(|value| !value.is_nan()))
    }

    /// When the newest point begins.
    #[must_use]
    pub fn until(&self) -> Timestamp {
        Timestamp::from_secs(self.newest.saturating_mul(i64::from(STEP_SECONDS)))
    }
}

/// Whether nothing of a ring whose newest point is `newest` belongs to the last hours any more.
fn outlived(newest: i64, point: i64) -> bool {
    usize::try_from(point.saturating_sub(newest)).is_ok_and(|steps| steps >= POINTS)
}

fn point_of(now: Timestamp) -> i64 {
    now.as_secs().div_euclid(i64::from(STEP_SECONDS))
}

const STEP_SECONDS: u32 = 120;

/// A history as it is written down.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Kept {
    step_seconds: u64,
    stores: BTreeMap<String, KeptRing>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptRing {
    newest: i64,
    series: Vec<Vec<Run>>,
}

/// So many equal values in a row: most figures stand still.
type Run = (Option<f64>, u32);

fn runs(values: Vec<Option<f64>>) -> Vec<Run> {
    let mut out: Vec<Run> = Vec::new();
    for value in values {
        match out.last_mut() {
            Some((last, count)) if *last == value => *count += 1,
            _ => out.push((value, 1)),
        }
    }
    out
}

impl KeptRing {
    fn unpack(self) -> Option<Ring> {
        let length =
            |runs: &Vec<Run>| runs.iter().try_fold(0_u32, |sum, run| sum.checked_add(run.1));
        let points = usize::try_from(length(self.series.first()?)?).ok()?;
        if points > POINTS || self.series.len() != Series::ALL.len() {
            return None;
        }
        let mut rows = VecDeque::from(vec![[f64::NAN; Series::ALL.len()]; points]);
        for (place, runs) in self.series.iter().enumerate() {
            if length(runs)? as usize != points {
                return None;
            }
            let values = runs.iter().flat_map(|(value, count)| {
                std::iter::repeat_n(value.unwrap_or(f64::NAN), *count as usize)
            });
            for (row, value) in rows.iter_mut().zip(values) {
                row[place] = value;
            }
        }
        Some(Ring { newest: self.newest, rows })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_secs(60 * minute)
    }

    fn row(disk: Option<f64>) -> Row {
        [disk, None, None, None]
    }

    /// Plays `minute:value` words (`-` is a failed reading) and gives back the points of the disk.
    fn play(words: &str) -> (i64, Vec<Option<f64>>) {
        let (mut history, name) = (History::default(), Arc::from("s"));
        for word in words.split_whitespace() {
            let (minute, value) = word.split_once(':').unwrap();
            history.note(at(minute.parse().unwrap()), [(&name, row(value.parse().ok()))]);
        }
        let ring = history.of("s").unwrap();
        assert!(ring.rows.len() <= POINTS);
        (ring.until().as_secs() / 60, ring.series(Series::DiskUsed).collect())
    }

    #[test]
    fn histories() {
        let (a, b, c, no) = (Some(0.1), Some(0.2), Some(0.3), None);
        for (words, until, want) in [
            ("0:0.1", 0, &[a][..]),
            ("0:0.1 1:0.2", 0, &[b]), // the newest of a step counts
            ("0:0.1 1:-", 0, &[a]),   // a failed reading takes nothing away
            ("0:0.1 2:0.2 9:0.3", 8, &[a, b, no, no, c]), // steps without a reading are gaps
            ("0:0.1 2:- 4:0.3", 4, &[a, no, c]),
            ("0:0.1 2:0.2 4:0.3 2:0.1", 2, &[a, a]), // the clock steps back
            ("100:0.1 4:0.3", 4, &[c]),
            ("0:0.1 100000:0.2", 100_000, &[b]), // and far ahead
            ("-4:0.1 -2:0.2 0:0.3", 0, &[a, b, c]),
        ] {
            assert_eq!(play(words), (until, want.to_vec()), "{words}");
        }
    }

    #[test]
    fn a_ring_is_bounded_and_a_store_that_is_gone_is_forgotten() {
        let mut history = History::default();
        let (kept, gone): (Arc<str>, Arc<str>) = ("kept".into(), "gone".into());
        history.note(at(0), [(&kept, row(Some(0.0))), (&gone, row(Some(0.0)))]);
        for minute in 1..1_000 {
            history.note(at(minute), [(&kept, row(Some(0.5)))]);
            assert_eq!(history.of("gone").is_some(), minute < 360, "{minute}");
        }
        let ring = history.of("kept").unwrap();
        assert_eq!(ring.series(Series::DiskUsed).collect::<Vec<_>>(), vec![Some(0.5); POINTS]);
        let names: Vec<Arc<str>> = (0..STORES_MAX + 5).map(|n| n.to_string().into()).collect();
        history.note(at(1_000), names.iter().map(|name| (name, row(None))));
        assert_eq!(history.stores.len(), STORES_MAX);
    }

    #[test]
    fn what_was_written_down_goes_on_and_nonsense_is_left_out() {
        let (mut history, name) = (History::default(), Arc::from("s"));
        for (minute, records) in [(0, 7.4), (2, 7.4), (4, 8.0)] {
            history.note(at(minute), [(&name, [Some(0.123_456), Some(records), None, Some(1e9)])]);
        }
        let text = serde_json::to_string(&history.keep()).unwrap();
        assert!(text.contains("[[7.0,2],[8.0,1]],[[null,3]]"), "{text}");
        let read = |text: &str| History::resume(serde_json::from_str(text).unwrap(), at(5));
        let again = read(&text);
        for series in Series::ALL {
            let points =
                |history: &History| history.of("s").unwrap().series(series).collect::<Vec<_>>();
            assert_eq!(points(&again), points(&history));
        }
        assert!(History::resume(serde_json::from_str(&text).unwrap(), at(3)).of("s").is_none());
        for (from, to) in [
            ("[[7.0,2],[8.0,1]]", "[[7.0,2]]"),
            ("[[7.0,2],[8.0,1]]", "[[7.0,4294967295],[8.0,1]]"),
            (",[[null,3]]", ""),
            ("[0.1235,3]", "[0.1235,999999]"),
            ("\"step_seconds\":120", "\"step_seconds\":60"),
        ] {
            let bad = text.replace(from, to);
            assert_ne!(bad, text, "{from}");
            assert!(read(&bad).of("s").is_none(), "{bad}");
        }
    }
}
