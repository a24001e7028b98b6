//! A window of the day in which dear work may begin: `01:00-05:00`, in UTC unless a time zone follows, `22:00-04:00
//! Europe/Berlin`, `01:00-05:00 local`. Changes of the clock are right by the rules of the zone: where an end of the window
//! does not exist on a day, it is the moment to which the clock jumps.

use std::time::Duration;

use jiff::{civil, tz::TimeZone};

use crate::clock::Timestamp;

/// Times of the day between which work may begin.
#[derive(Debug, Clone, PartialEq)]
pub struct Window {
    opens: civil::Time,
    closes: civil::Time,
    zone: TimeZone,
    text: String,
}

impl Window {
    /// Reads `text`. `zone` finds a time zone by its name. Errs with the rule that is broken.
    pub fn parse(text: &str, zone: impl FnOnce(&str) -> Option<TimeZone>) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let (times, name) = (words.next().unwrap_or_default(), words.next());
        let ends = times.split_once('-').and_then(|(from, to)| Some((time(from)?, time(to)?)));
        let Some((opens, closes)) = ends.filter(|_| words.next().is_none()) else {
            return Err("must be two times of the day such as 01:00-05:00, in UTC unless a time zone follows: \
                        01:00-05:00 Europe/Berlin, 01:00-05:00 local"
                .to_owned());
        };
        if opens == closes {
            return Err("must end at another time than it begins".to_owned());
        }
        let zone = match name {
            None | Some("UTC") => TimeZone::UTC,
            Some(name) => zone(name).ok_or_else(|| {
                format!("{name} must be a time zone that this host knows, UTC or local")
            })?,
        };
        Ok(Self {
            opens,
            closes,
            zone,
            text: text.split_whitespace().collect::<Vec<_>>().join(" "),
        })
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The window that is open at `moment`, or else the next one: when it opens and how long it is. `None` at the ends of
    /// what a calendar knows.
    #[must_use]
    pub fn at_or_after(&self, moment: Timestamp) -> Option<(Timestamp, Duration)> {
        let at = jiff::Timestamp::from_nanosecond(moment.as_nanos().into()).ok()?;
        let mut day = at.to_zoned(self.zone.clone()).date().yesterday().ok()?;
        // A day may have no window, when the clock jumps over the whole of it.
        for _ in 0..DAYS {
            let next = day.tomorrow().ok()?;
            let last = if self.closes > self.opens { day } else { next };
            let moment_of = |date: civil::Date, time| {
                let zoned = date.to_datetime(time).to_zoned(self.zone.clone()).ok()?;
                i64::try_from(zoned.timestamp().as_nanosecond())
                    .ok()
                    .map(|nanos| Timestamp::from_parts(0, nanos))
            };
            let (opens, closes) = (moment_of(day, self.opens)?, moment_of(last, self.closes)?);
            if closes > moment && closes > opens {
                return Some((opens, closes.since(opens)));
            }
            day = next;
        }
        None
    }
}

fn time(text: &str) -> Option<civil::Time> {
    let (hour, minute) = text.split_once(':')?;
    let number = |text: &str| {
        let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| digits)
    };
    civil::Time::new(number(hour)?, number(minute)?, 0, 0).ok()
}

/// Yesterday's window may reach into today; a clock jumps over at most one.
const DAYS: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        let moment: jiff::Timestamp = text.parse().unwrap();
        Timestamp::from_secs(moment.as_second())
    }

    /// Central Europe, by rule: no file of the host is read.
    fn zone(name: &str) -> Option<TimeZone> {
        let rule = (name == "Europe/Berlin").then_some("CET-1CEST,M3.5.0,M10.5.0/3")?;
        TimeZone::posix(rule).ok()
    }

    #[test]
    fn windows_open_when_they_say_through_midnight_and_changes_of_the_clock() {
        for (text, moment, opens, hours) in [
            ("01:00-05:00", "2026-11-26T00:59:59Z", "2026-11-26T01:00:00Z", 4.0),
            ("01:00-05:00", "2026-11-26T01:00:00Z", "2026-11-26T01:00:00Z", 4.0),
            ("01:00-05:00", "2026-11-26T04:59:59Z", "2026-11-26T01:00:00Z", 4.0),
            ("01:00-05:00 UTC", "2026-11-26T05:00:00Z", "2026-11-27T01:00:00Z", 4.0),
            ("22:30-04:00", "2026-11-26T03:00:00Z", "2026-11-25T22:30:00Z", 5.5),
            ("22:30-04:00", "2026-11-26T12:00:00Z", "2026-11-26T22:30:00Z", 5.5),
            ("22:30-00:00", "2026-12-31T23:00:00Z", "2026-12-31T22:30:00Z", 1.5),
            ("01:00-05:00 Europe/Berlin", "2026-11-26T00:30:00Z", "2026-11-26T00:00:00Z", 4.0),
            ("01:00-05:00 Europe/Berlin", "2026-07-01T12:00:00Z", "2026-07-01T23:00:00Z", 4.0),
            // the night in which an hour is missing, and the one in which there is one more
            ("01:00-05:00 Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-29T00:00:00Z", 3.0),
            ("01:00-05:00 Europe/Berlin", "2026-10-24T12:00:00Z", "2026-10-24T23:00:00Z", 5.0),
            // a window that the clock jumps over is there a day later
            (
                "02:10-02:50 Europe/Berlin",
                "2026-03-28T12:00:00Z",
                "2026-03-29T01:10:00Z",
                2.0 / 3.0,
            ),
        ] {
            let window = Window::parse(text, zone).unwrap();
            let (is, len) = window.at_or_after(at(moment)).unwrap();
            assert_eq!(is.to_string(), opens, "{text} {moment}");
            assert!((len.as_secs_f64() - hours * 3600.0).abs() < 1.0, "{text} {moment} {len:?}");
        }
    }

    #[test]
    fn what_is_no_window_is_refused_with_the_rule() {
        for (text, rule) in [
            ("", "two times"),
            ("01:00", "two times"),
            ("1:00-05:00", "two times"),
            ("01:00-24:00", "two times"),
            ("01:00-05:60", "two times"),
            ("01:00-05:00 UTC UTC", "two times"),
            ("01:00-01:00", "another time"),
            ("01:00-05:00 Mars/Olympus", "Mars/Olympus must be a time zone"),
        ] {
            let error = Window::parse(text, zone).unwrap_err();
            assert!(error.contains(rule), "{text}: {error}");
        }
        assert_eq!(Window::parse("01:00-05:00   UTC", zone).unwrap().as_str(), "01:00-05:00 UTC");
    }

    #[test]
    fn the_ends_of_time_are_no_panic() {
        let window = Window::parse("01:00-05:00", zone).unwrap();
        for secs in [i64::MIN, -10_000_000_000, 0, 9_000_000_000, i64::MAX] {
            let found = window.at_or_after(Timestamp::from_secs(secs));
            assert!(found.is_none_or(|(_, len)| !len.is_zero()), "{secs}");
        }
    }
}
