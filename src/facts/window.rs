//! Times of the day: a window in which expensive work may begin (`01:00-05:00`), and a moment of every day (`02:00`). In UTC
//! unless a time zone follows: `22:00-04:00 Europe/Berlin`, `02:00 local`. Changes of the clock are right by the rules of the
//! zone: a time that does not exist on a day is the moment to which the clock jumps.

use std::time::Duration;

use jiff::{civil, tz::TimeZone};

use super::bad_value::BadValue;
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
    pub fn parse(
        text: &str,
        zone: impl FnOnce(&str) -> Option<TimeZone>,
    ) -> Result<Self, BadValue> {
        let mut words = text.split_whitespace();
        let (times, name) = (words.next().unwrap_or_default(), words.next());
        let ends = times.split_once('-').and_then(|(from, to)| Some((time(from)?, time(to)?)));
        let Some((opens, closes)) = ends.filter(|_| words.next().is_none()) else {
            return Err("must be two times of the day such as 01:00-05:00, in UTC unless a time zone follows: \
                        01:00-05:00 Europe/Berlin, 01:00-05:00 local".into());
        };
        if opens == closes {
            return Err("must end at another time than it begins".into());
        }
        Ok(Self { opens, closes, zone: zone_of(name, zone)?, text: in_one_line(text) })
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
            let opens = moment_of(day, self.opens, &self.zone)?;
            let closes = moment_of(last, self.closes, &self.zone)?;
            if closes > moment && closes > opens {
                return Some((opens, closes.since(opens)));
            }
            day = next;
        }
        None
    }
}

/// A time of the day, once every day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Daily {
    time: civil::Time,
    zone: TimeZone,
    text: String,
}

impl Daily {
    /// Reads `text`. `zone` finds a time zone by its name. Errs with the rule that is broken.
    pub fn parse(
        text: &str,
        zone: impl FnOnce(&str) -> Option<TimeZone>,
    ) -> Result<Self, BadValue> {
        let mut words = text.split_whitespace();
        let (of_day, name) = (words.next().and_then(time), words.next());
        let Some(time) = of_day.filter(|_| words.next().is_none()) else {
            return Err("must be a time of the day such as 02:00, in UTC unless a time zone follows: 02:00 Europe/Berlin, \
                        02:00 local"
                .into());
        };
        Ok(Self { time, zone: zone_of(name, zone)?, text: in_one_line(text) })
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The first such moment after `moment`. `None` at the ends of what a calendar knows.
    #[must_use]
    pub fn after(&self, moment: Timestamp) -> Option<Timestamp> {
        let at = jiff::Timestamp::from_nanosecond(moment.as_nanos().into()).ok()?;
        let mut day = at.to_zoned(self.zone.clone()).date();
        // A clock that jumps over midnight may leave a day without one.
        for _ in 0..DAYS {
            let next = moment_of(day, self.time, &self.zone)?;
            if next > moment {
                return Some(next);
            }
            day = day.tomorrow().ok()?;
        }
        None
    }
}

fn moment_of(date: civil::Date, time: civil::Time, zone: &TimeZone) -> Option<Timestamp> {
    let zoned = date.to_datetime(time).to_zoned(zone.clone()).ok()?;
    let nanos = i64::try_from(zoned.timestamp().as_nanosecond()).ok()?;
    Some(Timestamp::from_parts(0, nanos))
}

fn zone_of(
    name: Option<&str>,
    zone: impl FnOnce(&str) -> Option<TimeZone>,
) -> Result<TimeZone, BadValue> {
    match name {
        None | Some("UTC") => Ok(TimeZone::UTC),
        Some(name) => zone(name).ok_or_else(|| BadValue::TimeZone(name.to_owned())),
    }
}

fn in_one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
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
            let error = Window::parse(text, zone).unwrap_err().to_string();
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

    #[test]
    fn a_moment_comes_once_a_day_also_when_the_clock_changes() {
        for (text, moment, next) in [
            ("02:00", "2026-11-26T01:59:59Z", "2026-11-26T02:00:00Z"),
            ("02:00", "2026-11-26T02:00:00Z", "2026-11-27T02:00:00Z"),
            ("02:00 Europe/Berlin", "2026-07-01T12:00:00Z", "2026-07-02T00:00:00Z"),
            ("02:30 Europe/Berlin", "2026-03-28T12:00:00Z", "2026-03-29T01:30:00Z"),
            ("23:30 Europe/Berlin", "2026-11-26T22:29:00Z", "2026-11-26T22:30:00Z"),
        ] {
            let daily = Daily::parse(text, zone).unwrap();
            assert_eq!(daily.after(at(moment)).unwrap().to_string(), next, "{text} {moment}");
        }
        for text in ["", "2:00", "24:00", "02:00-03:00", "02:00 UTC UTC"] {
            assert!(
                Daily::parse(text, zone).unwrap_err().to_string().contains("a time of the day"),
                "{text}"
            );
        }
        assert!(Daily::parse("02:00 Mars/Olympus", zone).is_err());
        let daily = Daily::parse("02:00", zone).unwrap();
        for secs in [i64::MIN, 0, i64::MAX] {
            let moment = Timestamp::from_secs(secs);
            assert!(daily.after(moment).is_none_or(|next| next > moment), "{secs}");
        }
    }
}
