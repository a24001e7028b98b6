//! Numbers as people read them in evidence: bytes in decimal units, as disks are sold and `df -H` tells, ratios in per cent, spans of time in two units; and text
//! from disk as it can be shown. Series never carry these.

use std::time::Duration;

use crate::clock::Timestamp;

/// `512 bytes`, `1.5 kB`, `83.2 GB`.
#[must_use]
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if count < 1000 {
        return if count == 1 { "1 byte".to_owned() } else { format!("{count} bytes") };
    }
    let mut value = count as f64 / 1000.0;
    let mut unit = 0;
    // What would be rounded to 1000.0 goes to the next unit.
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `12.3 MB (12,345,678 bytes)`: where a few bytes more or less make the difference.
#[must_use]
pub(crate) fn exact_bytes(number: u64) -> String {
    match number {
        0..1000 => bytes(number),
        _ => format!("{} ({} bytes)", bytes(number), count(number as f64)),
    }
}

/// Hexadecimal digits: `00ff`.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

/// `83.4 %`.
#[must_use]
pub(crate) fn ratio(value: f64) -> String {
    format!("{:.1} %", value * 100.0)
}

/// `1,234,567`: a count, without what stands behind the point.
#[must_use]
pub(crate) fn count(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut out = String::from(if value <= -0.5 { "-" } else { "" });
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `2 d 3 h`, `5 min`, `12 s`: the two largest units, the rest dropped.
#[must_use]
pub(crate) fn span(duration: Duration) -> String {
    const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)];
    let mut left = duration.as_secs();
    let Some(first) = UNITS.iter().position(|(_, secs)| left >= *secs) else {
        return "0 s".to_owned();
    };
    let mut parts = Vec::new();
    for (unit, secs) in UNITS.iter().skip(first).take(2) {
        if left >= *secs {
            parts.push(format!("{} {unit}", left / secs));
        }
        left %= secs;
    }
    parts.join(" ")
}

/// `2026-11-23 08:57 UTC`.
pub(crate) fn moment(at: Timestamp) -> String {
    let text = at.to_string();
    match text.get(..16) {
        Some(minutes) if text.ends_with('Z') => format!("{} UTC", minutes.replace('T', " ")),
        _ => text,
    }
}

/// Text with names from disk in it: one line; what would drive a terminal, turn the direction of text or not be seen at all is
/// written as an escape, `\u{202e}`.
#[must_use]
pub(crate) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' => out.push(' '),
            c if c.is_control() || hidden(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

/// Format characters of Unicode that a name has no use for: marks and overrides of direction, characters without width
/// (but for the joiners, which scripts and emoji need), separators of lines, invisible operators, tags.
pub(crate) const fn hidden(c: char) -> bool {
    matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_disk_is_one_line_that_hides_nothing() {
        for (text, want) in [
            ("Ärger 数据 👩‍🚀", "Ärger 数据 👩‍🚀"),
            ("a\r\nb\tc", "a  b c"),
            ("\u{1b}[2J\u{9b}\u{0}", "\\u{1b}[2J\\u{9b}\\u{0}"),
            ("x\u{202e}gpj.exe\u{2066}", "x\\u{202e}gpj.exe\\u{2066}"),
            ("zero\u{200b}width\u{e0041}", "zero\\u{200b}width\\u{e0041}"),
        ] {
            assert_eq!(plain(text), want);
        }
    }

    #[test]
    fn numbers_read_as_people_write_them() {
        for (count, want) in [
            (0, "0 bytes"),
            (1, "1 byte"),
            (999, "999 bytes"),
            (1000, "1.0 kB"),
            (1536, "1.5 kB"),
            (999_999, "1.0 MB"),
            (89_335_000_000, "89.3 GB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(bytes(count), want);
        }
        assert_eq!(exact_bytes(12_345_678), "12.3 MB (12,345,678 bytes)");
        assert_eq!(exact_bytes(999), "999 bytes");
        assert_eq!(ratio(0.8339), "83.4 %");
        for (value, want) in [
            (0.0, "0"),
            (999.0, "999"),
            (1_000.4, "1,000"),
            (1_234_567.0, "1,234,567"),
            (-1e3, "-1,000"),
        ] {
            assert_eq!(count(value), want);
        }
        for (secs, want) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (3_661, "1 h 1 min"),
            (86_400, "1 d"),
            (93_600, "1 d 2 h"),
            (90_061, "1 d 1 h"),
            (86_460, "1 d"),
        ] {
            assert_eq!(span(Duration::from_secs(secs)), want);
        }
    }

    #[test]
    fn moments_are_told_to_the_minute() {
        assert_eq!(moment(Timestamp::from_secs(1_795_424_274)), "2026-11-23 08:57 UTC");
    }
}
