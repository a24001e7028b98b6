//! Sparklines: the last hours of one figure as a line, and in words for who cannot see it.

use std::{fmt::Write as _, time::Duration};

use super::markup::Html;
use crate::{
    history::{POINTS, STEP},
    human,
    status::live::Points,
};

/// What a value means and where the line stands.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scale {
    /// From 0 to 1, as per cent.
    Ratio,
    /// Between the least and the most, so that a loss is seen whatever the number.
    Count,
    /// Seconds from 0 to the most.
    Seconds,
}

/// Nothing before there are two points to draw a line between.
pub(super) fn render(h: &mut Html, what: &'static str, points: &Points, scale: Scale) {
    let known = || points.iter().flatten().copied();
    let (low, high) = (known().fold(f64::INFINITY, f64::min), known().fold(0.0, f64::max));
    let Some(now) = known().next_back().filter(|_| known().count() > 1) else { return };
    let span = human::span(STEP * u32::try_from(points.len()).unwrap_or(0));
    let (bottom, top) = match scale {
        Scale::Ratio => (0.0, 1.0),
        Scale::Count => (low, high),
        Scale::Seconds => (0.0, high),
    };
    h.raw("<dd><svg class=\"spark\" viewBox=\"0 0 180 40\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"");
    h.raw(what).raw(", last ").text(&span);
    h.raw(": from ").text(&say(low, scale)).raw(" to ").text(&say(high, scale));
    h.raw(", now ")
        .text(&say(now, scale))
        .raw("\"><path class=\"base\" d=\"M0 39.5H180\"/><path d=\"");
    h.text(&path(points, bottom, top)).raw("\"/></svg>");
    h.raw("last ").text(&span).raw(": ");
    if say(low, scale) == say(high, scale) {
        h.raw("steady");
    } else {
        h.text(&say(low, scale)).raw(" – ").text(&say(high, scale));
    }
    h.raw("</dd>");
}

/// Steps, because a figure holds until the next reading; the newest point is at the right edge, what is not known a gap.
fn path(points: &Points, bottom: f64, top: f64) -> String {
    let mut d = String::new();
    let mut before: Option<i64> = None;
    let first = POINTS.saturating_sub(points.len());
    for (place, point) in points.iter().enumerate() {
        let x = first + place;
        let y = point.map(|value| height(value, bottom, top));
        match (before, y) {
            (None, Some(y)) => push(&mut d, format_args!("M{x} {y}")),
            (Some(old), Some(y)) if old != y => push(&mut d, format_args!("H{x}V{y}")),
            (Some(_), None) => push(&mut d, format_args!("H{x}")),
            _ => {}
        }
        before = y;
    }
    if before.is_some() {
        push(&mut d, format_args!("H{POINTS}"));
    }
    d
}

/// Between 2 at the top and 38 at the bottom; in the middle when there is nothing to tell apart.
#[expect(clippy::cast_possible_truncation, reason = "it is between 0 and 36")]
fn height(value: f64, bottom: f64, top: f64) -> i64 {
    let range = top - bottom;
    let part = if range > 0.0 { ((value - bottom) / range).clamp(0.0, 1.0) } else { 0.5 };
    38 - (36.0 * part).round() as i64
}

fn push(d: &mut String, what: std::fmt::Arguments<'_>) {
    d.write_fmt(what).unwrap_or_default(); // writing to a string cannot fail
}

fn say(value: f64, scale: Scale) -> String {
    match scale {
        Scale::Ratio => human::ratio(value),
        Scale::Count => human::count(value),
        Scale::Seconds => short(value),
    }
}

/// `12 ms`, `1.4 s`, `5 min 3 s`.
pub(super) fn short(seconds: f64) -> String {
    if seconds < 0.001 {
        "under 1 ms".to_owned()
    } else if seconds < 1.0 {
        format!("{:.0} ms", seconds * 1_000.0)
    } else if seconds < 60.0 {
        format!("{seconds:.1} s")
    } else {
        human::span(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_holds_its_steps_and_gaps() {
        for (points, want) in [
            (&[][..], ""),
            (&[Some(0.5)], "M179 20H180"),
            (&[Some(0.0), Some(1.0)], "M178 38H179V2H180"),
            (&[Some(0.5), Some(0.5), Some(0.5)], "M177 20H180"),
            (&[Some(0.5), None, Some(1.0)], "M177 20H178M179 2H180"),
            (&[None, Some(9.0), None], "M178 2H179"), // out of range is at the edge
        ] {
            assert_eq!(path(&points.to_vec(), 0.0, 1.0), want, "{points:?}");
        }
        assert_eq!(path(&vec![Some(7.0); POINTS], 7.0, 7.0), "M0 20H180");
    }

    #[test]
    fn it_is_told_in_words_too() {
        let mut h = Html::default();
        render(&mut h, "Records", &vec![None, Some(12.0), Some(12_000.0), None], Scale::Count);
        assert!(
            h.into_string()
                .contains("aria-label=\"Records, last 8 min: from 12 to 12,000, now 12,000\"")
        );
        let mut h = Html::default();
        render(&mut h, "Records", &vec![None; 7], Scale::Count);
        assert_eq!(h.into_string(), "");
        for (seconds, want) in [(0.0124, "12 ms"), (1.44, "1.4 s"), (303.0, "5 min 3 s")] {
            assert_eq!(short(seconds), want);
        }
    }
}
