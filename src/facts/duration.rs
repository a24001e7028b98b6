//! Durations in Prometheus' syntax (`1h30m`, `250ms`, `1d`; prometheus/common `model/time.go`): whole numbers with units,
//! each unit at most once, the largest first. A year has 365 days.

use std::time::Duration;

/// Units, the largest first, in milliseconds.
const UNITS: [(&str, u64); 7] = [
    ("y", 365 * 86_400_000),
    ("w", 7 * 86_400_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Reads `text`; `None` when it is not a duration or is longer than 64 bits of milliseconds. Only `0` needs no unit.
#[must_use]
pub fn parse(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut units = UNITS.iter();
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let number = &rest[..rest.bytes().take_while(u8::is_ascii_digit).count()];
        rest = &rest[number.len()..];
        let unit = &rest[..rest.bytes().take_while(u8::is_ascii_lowercase).count()];
        rest = &rest[unit.len()..];
        // Going on from the unit before refuses repeated units and wrong order.
        let (_, millis) = units.find(|(name, _)| *name == unit)?;
        total = number.parse::<u64>().ok()?.checked_mul(*millis)?.checked_add(total)?;
    }
    (!text.is_empty()).then(|| Duration::from_millis(total))
}

/// Writes `duration` so that [`parse`] reads it back. Parts of a millisecond are dropped; days are the largest unit,
/// because nobody reads `1y15w` at a glance.
#[must_use]
pub fn format(duration: Duration) -> String {
    let mut left = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (name, millis) in &UNITS[2..] {
        if left >= *millis {
            text.push_str(&(left / millis).to_string());
            text.push_str(name);
            left %= millis;
        }
    }
    if text.is_empty() { "0".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prometheus_syntax_is_read_and_nothing_else() {
        for (text, millis) in [
            ("0", Some(0)),
            ("0s", Some(0)),
            ("250ms", Some(250)),
            ("5m", Some(300_000)),
            ("1h30m", Some(5_400_000)),
            ("1d", Some(86_400_000)),
            ("1w2d", Some(9 * 86_400_000)),
            ("1y", Some(365 * 86_400_000)),
            ("1m1ms", Some(60_001)),
            ("", None),
            ("5", None),
            ("s", None),
            ("1.5h", None),
            ("-1s", None),
            ("+1s", None),
            ("1 s", None),
            ("1S", None),
            ("1s1m", None),   // smallest first
            ("1s1s", None),   // twice
            ("1sm", None),    // no such unit
            ("1h 30m", None), // space
            ("1µs", None),
            ("٣s", None), // digits of another script
            ("18446744073709551616ms", None),
            ("18446744073709551615s", None),
        ] {
            assert_eq!(parse(text), millis.map(Duration::from_millis), "{text:?}");
        }
    }

    #[test]
    fn durations_are_written_as_people_write_them() {
        for (millis, want) in
            [(0, "0"), (250, "250ms"), (90_000, "1m30s"), (86_400_000, "1d"), (93_600_000, "1d2h")]
        {
            assert_eq!(format(Duration::from_millis(millis)), want);
        }
        assert_eq!(format(Duration::from_nanos(999_999)), "0");
        assert_eq!(parse(&format(Duration::MAX)), Some(Duration::from_millis(u64::MAX)));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(millis: u64) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse(&format(duration)), Some(duration));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC*|[0-9ywdhms]{0,40}") {
            if let Some(duration) = parse(&text) {
                prop_assert_eq!(parse(&format(duration)), Some(duration));
            }
        }
    }
}
