//! When expensive work that comes again and again is due: spread over the stores, so that two hundred of them on one host or one
//! on each of a thousand hosts do not begin at the same minute, and within the window of the day that the operator chose.
//! Pure; the place of a store is drawn from its path and the name of its host, and so survives restarts.

use std::{path::Path, time::Duration};

use crate::{
    clock::Timestamp,
    facts::window::Window,
    format::hash::{FNV_START, fnv1a},
};

/// The rhythm of one store.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rhythm<'a> {
    /// Where the store stands among all.
    pub(super) spread: u64,
    /// When expensive work may begin; always without one.
    pub(super) window: Option<&'a Window>,
}

/// A number for the store at `path` on the host of this name, the same at each start.
pub(super) fn spread(host: &[u8], path: &Path) -> u64 {
    let bytes = host.iter().chain(b"\n").chain(path.as_os_str().as_encoded_bytes());
    let hash = fnv1a(FNV_START, bytes.copied());
    // The last bytes reach only the lower bits of the hash; a remainder needs all of them.
    (hash ^ hash >> 32).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16
}

impl Rhythm<'_> {
    /// The next moment after a run at `last`. Without a window the moments of a store are one interval apart, at a place
    /// of its own, and the first one that is at least half an interval away is taken: at most one and a half.
    pub(super) fn next(&self, last: Timestamp, interval: Duration) -> Timestamp {
        if self.window.is_some() {
            // The window says when. A daily check asks for it from half a day earlier on, or a run that began late in one
            // window would miss the next.
            let early = if interval >= HALF_DAY * 2 { HALF_DAY } else { Duration::ZERO };
            return last.plus(interval.saturating_sub(early));
        }
        let step = i64::try_from(interval.as_nanos()).unwrap_or(i64::MAX).max(1);
        let phase =
            i64::try_from(u128::from(self.spread) * 1_000_000 % u128::from(step.cast_unsigned()));
        let phase = phase.unwrap_or(0);
        let earliest = last.plus(interval / 2).as_nanos();
        let over = earliest.saturating_sub(phase).rem_euclid(step);
        let wait = if over == 0 { 0 } else { step - over };
        Timestamp::from_parts(0, earliest.saturating_add(wait))
    }

    /// `due`, or the next opening of the window when that is later, at a place of the store's own in its first three quarters.
    /// Not more than [`WINDOW_WAIT_MAX`] after `due`.
    pub(super) fn admit(&self, due: Timestamp, now: Timestamp) -> Timestamp {
        let Some(window) = self.window else { return due };
        let moment = due.max(now);
        let latest = due.plus(WINDOW_WAIT_MAX);
        if moment >= latest {
            return due;
        }
        let admitted = match window.at_or_after(moment) {
            Some((opens, _)) if opens <= moment && due < opens => {
                // It waited for this opening.
                self.place(window, opens)
            }
            Some((opens, _)) if opens <= moment => due,
            Some((opens, _)) => self.place(window, opens),
            None => due,
        };
        admitted.min(latest)
    }

    /// Whether the window is open.
    pub(super) fn open(&self, now: Timestamp) -> bool {
        let Some(window) = self.window else { return true };
        window.at_or_after(now).is_none_or(|(opens, _)| opens <= now)
    }

    fn place(&self, window: &Window, opens: Timestamp) -> Timestamp {
        let len = window.at_or_after(opens).map_or(Duration::ZERO, |(_, len)| len);
        let room = u64::try_from((len * 3 / 4).as_millis()).unwrap_or(0).max(1);
        opens.plus(Duration::from_millis(self.spread % room))
    }
}

const HALF_DAY: Duration = Duration::from_hours(12);
/// A window comes every day. When one was missed (the host slept, others had their turns), work waits for the next; then it
/// is done at once.
pub(super) const WINDOW_WAIT_MAX: Duration = Duration::from_hours(48);

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);
    const HOUR: Duration = Duration::from_hours(1);
    const DAY: Duration = Duration::from_hours(24);

    fn at(text: &str) -> Timestamp {
        let moment: jiff::Timestamp = text.parse().unwrap();
        Timestamp::from_secs(moment.as_second())
    }

    #[test]
    fn two_hundred_stores_and_a_thousand_hosts_do_not_begin_together() {
        let began = at("2026-11-26T08:00:00Z");
        let paths = (0..200).map(|n| spread(b"host", Path::new(&format!("/srv/chroma/{n}"))));
        let hosts =
            (0..1000).map(|n| spread(format!("db{n}").as_bytes(), Path::new("/srv/chroma")));
        for (spreads, interval) in [
            (paths.clone().collect::<Vec<_>>(), HOUR),
            (paths.collect(), DAY),
            (hosts.collect(), HOUR),
        ] {
            let mut by_minute = std::collections::BTreeMap::new();
            let minutes = interval.as_secs() / 60;
            for spread in &spreads {
                let next = Rhythm { spread: *spread, window: None }.next(began, interval);
                let wait = next.since(began);
                assert!(wait >= interval / 2 && wait <= interval * 3 / 2, "{wait:?}");
                *by_minute.entry(wait.as_secs() / 60).or_insert(0_u64) += 1;
                // And keeps its place from then on.
                let after =
                    Rhythm { spread: *spread, window: None }.next(next.plus(MINUTE), interval);
                assert_eq!(after.since(next), interval);
            }
            let most = by_minute.values().max().unwrap();
            let fair = (spreads.len() as u64).div_ceil(minutes);
            assert!(*most <= fair * 3 + 6, "{most} of {} in one minute", spreads.len());
        }
    }

    #[test]
    fn the_window_holds_back_and_not_for_ever() {
        let window = Window::parse("01:00-05:00", |_| None).unwrap();
        // a spread of an hour: stores wait until 02:00
        let rhythm = Rhythm { spread: 3_600_000, window: Some(&window) };
        for (what, due, now, want) in [
            ("in it", "2026-11-26T03:00:00Z", "2026-11-26T03:00:00Z", "2026-11-26T03:00:00Z"),
            ("before it", "2026-11-26T00:10:00Z", "2026-11-26T00:30:00Z", "2026-11-26T02:00:00Z"),
            (
                "waited for it",
                "2026-11-26T00:10:00Z",
                "2026-11-26T01:30:00Z",
                "2026-11-26T02:00:00Z",
            ),
            ("after it", "2026-11-26T05:00:00Z", "2026-11-26T06:00:00Z", "2026-11-27T02:00:00Z"),
            (
                "due in it, and it closed",
                "2026-11-26T04:59:00Z",
                "2026-11-26T05:01:00Z",
                "2026-11-27T02:00:00Z",
            ),
            (
                "two windows missed",
                "2026-11-24T06:00:00Z",
                "2026-11-26T06:00:00Z",
                "2026-11-24T06:00:00Z",
            ),
        ] {
            assert_eq!(rhythm.admit(at(due), at(now)).to_string(), want, "{what}");
        }
        let always = Rhythm { window: None, ..rhythm };
        assert_eq!(
            always.admit(at("2026-11-26T12:00:00Z"), at("2026-11-26T12:00:00Z")).to_string(),
            "2026-11-26T12:00:00Z"
        );
        assert!(
            rhythm.open(at("2026-11-26T01:00:00Z")) && !rhythm.open(at("2026-11-26T05:00:00Z"))
        );
        assert!(always.open(at("2026-11-26T05:00:00Z")));
    }

    #[test]
    fn a_daily_check_runs_in_every_window_and_an_hourly_one_all_through_it() {
        let window = Window::parse("01:00-05:00", |_| None).unwrap();
        for (interval, spread, want) in
            [(DAY, 0, 5), (DAY, 10_000_000, 5), (HOUR, 0, 18), (DAY * 5, 0, 1)]
        {
            let rhythm = Rhythm { spread, window: Some(&window) };
            let mut last = at("2026-11-20T03:00:00Z");
            let (mut now, mut runs) = (last, 0);
            while now < at("2026-11-25T12:00:00Z") {
                if rhythm.admit(rhythm.next(last, interval), now) <= now {
                    assert!(rhythm.open(now), "{now}");
                    (last, runs) = (now, runs + 1);
                }
                now = now.plus(MINUTE);
            }
            let fits = if interval == HOUR { runs > want } else { runs == want };
            assert!(fits, "{interval:?} {spread}: {runs}");
        }
    }
}
