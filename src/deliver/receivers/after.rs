//! How long a server asks to be left alone: `Retry-After` in seconds or as a date (RFC 9110, section 10.2.3), or a number
//! `retry_after` in a JSON body (Slack, Discord). Pure.

use std::time::Duration;

use jiff::fmt::rfc2822::DateTimeParser;

use crate::clock::Timestamp;

/// Nobody may silence us for longer.
pub(crate) const AFTER_MAX: Duration = Duration::from_hours(1);

/// A wrong day of the week makes the moment no less clear.
static DATE: DateTimeParser = DateTimeParser::new().relaxed_weekday(true);

/// What the answer asks for, at most [`AFTER_MAX`]; `None` when it asks for nothing that can be understood.
pub(crate) fn after(header: Option<&str>, body: &[u8], now: Timestamp) -> Option<Duration> {
    let header = header.and_then(|text| from_header(text.trim(), now));
    let body = from_body(body);
    header.max(body).map(|asked| asked.min(AFTER_MAX))
}

fn from_header(text: &str, now: Timestamp) -> Option<Duration> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return Some(text.parse().map_or(AFTER_MAX, Duration::from_secs));
    }
    let date = DATE.parse_zoned(text).ok()?;
    Some(Timestamp::from_secs(date.timestamp().as_second()).since(now))
}

fn from_body(body: &[u8]) -> Option<Duration> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    let seconds = value.get("retry_after")?.as_f64().filter(|seconds| *seconds >= 0.0)?;
    Some(Duration::try_from_secs_f64(seconds).unwrap_or(AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_form_of_a_request_to_wait_is_understood() {
        let now = Timestamp::from_secs(784_111_777); // Sun, 06 Nov 1994 08:49:37 GMT
        let seconds = |seconds: u64| Some(Duration::from_secs(seconds));
        for (header, body, want) in [
            (None, "", None),
            (Some("30"), "", seconds(30)),
            (Some("0"), "", seconds(0)),
            (Some(" 7 "), "", seconds(7)),
            (Some("-1"), "", None),
            (Some("1.5"), "", None),
            (Some("soon"), "", None),
            (Some("99999999999999999999999"), "", Some(AFTER_MAX)),
            (Some("7200"), "", Some(AFTER_MAX)),
            (Some("Sun, 06 Nov 1994 08:51:37 GMT"), "", seconds(120)),
            (Some("Sun, 06 Nov 1994 08:49:00 GMT"), "", seconds(0)),
            (Some("Sun, 06 Nov 2094 08:49:37 GMT"), "", Some(AFTER_MAX)),
            (None, r#"{"retry_after":1,"ok":false,"error":"rate_limited"}"#, seconds(1)),
            (None, r#"{"retry_after":0.25}"#, Some(Duration::from_millis(250))),
            (None, r#"{"retry_after":1e300}"#, Some(AFTER_MAX)),
            (None, r#"{"retry_after":-5}"#, None),
            (None, r#"{"retry_after":"5"}"#, None),
            (None, r#"[{"retry_after":5}]"#, None),
            (Some("2"), r#"{"retry_after":2.5}"#, Some(Duration::from_millis(2500))),
        ] {
            assert_eq!(after(header, body.as_bytes(), now), want, "{header:?} {body}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(header in "\\PC{0,40}", body in any::<Vec<u8>>()) {
            let asked = after(Some(&header), &body, Timestamp::from_secs(0));
            prop_assert!(asked.is_none_or(|asked| asked <= AFTER_MAX));
        }
    }
}
