//! Dates in the names of backups: `chroma_db.backup.20260101.tar.gz`, `chroma-2026-01-01_020000/`.

use jiff::civil::DateTime;

use crate::clock::Timestamp;

/// The last date in `name`, read as UTC: `YYYYMMDD` or `YYYY-MM-DD`, perhaps followed by `HHMM` or `HHMMSS` after one
/// separator. `None` when there is none that the calendar knows, between 2000 and 2199.
#[must_use]
pub fn date_in(name: &str) -> Option<Timestamp> {
    let bytes = name.as_bytes();
    (0..bytes.len())
        .rev()
        .filter(|start| start.checked_sub(1).is_none_or(|before| !bytes[before].is_ascii_digit()))
        .find_map(|start| date_at(&bytes[start..]))
}

fn date_at(bytes: &[u8]) -> Option<Timestamp> {
    let (year, rest) = number(bytes, 4)?;
    let dashed = rest.first() == Some(&b'-');
    let rest = if dashed { rest.get(1..)? } else { rest };
    let (month, rest) = number(rest, 2)?;
    let rest = if dashed { (rest.first() == Some(&b'-')).then(|| &rest[1..])? } else { rest };
    let (day, rest) = number(rest, 2)?;
    if !(2000..2200).contains(&year) {
        return None;
    }
    let (hour, minute, second) = time_of_day(rest)?;
    let part = |value: i32| i8::try_from(value).ok();
    let moment = DateTime::new(
        i16::try_from(year).ok()?,
        part(month)?,
        part(day)?,
        part(hour)?,
        part(minute)?,
        part(second)?,
        0,
    )
    .ok()?;
    let moment = moment.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
    Some(Timestamp::from_secs(moment.as_second()))
}

/// What follows the day: nothing that is a time gives midnight, more digits right behind the day are no date at all.
fn time_of_day(rest: &[u8]) -> Option<(i32, i32, i32)> {
    let midnight = Some((0, 0, 0));
    let time = match rest.first() {
        Some(first) if first.is_ascii_digit() => rest,
        Some(b'_' | b'-' | b'T' | b't' | b'.') => &rest[1..],
        _ => return midnight,
    };
    let glued = time.len() == rest.len();
    let digits = time.iter().take_while(|b| b.is_ascii_digit()).count();
    let read = |at: usize| number(time.get(at..)?, 2).map(|(value, _)| value);
    let found = match digits {
        4 => Some((read(0)?, read(2)?, 0)),
        6 => Some((read(0)?, read(2)?, read(4)?)),
        _ => None,
    };
    match found.filter(|(h, m, s)| *h < 24 && *m < 60 && *s < 60) {
        Some(found) => Some(found),
        None if glued => None,
        None => midnight,
    }
}

/// The number of exactly so many digits at the start, and what follows it.
fn number(bytes: &[u8], digits: usize) -> Option<(i32, &[u8])> {
    let (head, rest) = bytes.split_at_checked(digits)?;
    let mut value = 0;
    for byte in head {
        value = value * 10 + i32::from(byte.is_ascii_digit().then(|| byte - b'0')?);
    }
    Some((value, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dates_of_common_cron_lines() {
        for (name, want) in [
            ("chroma_db.backup.20260101.tar.gz", Some("2026-01-01T00:00:00Z")),
            ("chroma_db.backup.20260101_020000", Some("2026-01-01T02:00:00Z")),
            ("chroma-2026-01-31.tar", Some("2026-01-31T00:00:00Z")),
            ("chroma-2026-01-31T0230.tar.zst", Some("2026-01-31T02:30:00Z")),
            ("20260101020000.tgz", Some("2026-01-01T02:00:00Z")),
            ("backup-20251231-20260101.tar.gz", Some("2026-01-01T00:00:00Z")),
            ("chroma.20260230.tar.gz", None), // no such day
            ("chroma.19991231.tar.gz", None),
            ("chroma-123456789012345", None),
            ("2026-0101", None),
            ("chroma.tar.gz", None),
            ("", None),
            ("é20260101", Some("2026-01-01T00:00:00Z")),
        ] {
            assert_eq!(date_in(name).map(|at| at.to_string()).as_deref(), want, "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_name_makes_it_panic(name in ".*") {
            prop_assert!(date_in(&name).is_none_or(|date| date > Timestamp::from_secs(946_684_799)));
        }

        #[test]
        fn every_day_is_read_back(days in 0_i64..70_000) {
            let at = Timestamp::from_secs(946_684_800 + days * 86_400);
            let text = at.to_string();
            let name = format!("chroma_db.backup.{}.tar.gz", text[..10].replace('-', ""));
            prop_assert_eq!(date_in(&name), Some(at));
        }
    }
}
