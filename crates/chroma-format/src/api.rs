//! Answers of Chroma's HTTP API (measured with 0.6.3, 1.1.1 and 1.5.9): a version, a count, an error. What comes is foreign,
//! whoever listens there.

use alloc::string::String;

/// The release in the answer of `/version`, a JSON string. From 1.0 on it is `1.0.0` whatever the release.
#[must_use]
pub fn version(body: &[u8]) -> Option<String> {
    let text: String = serde_json::from_slice(body).ok()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '+');
    (!text.is_empty() && text.len() <= VERSION_BYTES_MAX && text.chars().all(plain)).then_some(text)
}

/// A number alone, as `collections_count` answers.
#[must_use]
pub fn count(body: &[u8]) -> Option<u64> {
    serde_json::from_slice(body).ok()
}

/// Whether it is a heartbeat: an object with the time of the server.
#[must_use]
pub fn is_heartbeat(body: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(body)
        .is_ok_and(|answer| answer.get("nanosecond heartbeat").is_some())
}

/// What an answer says went wrong, for people: its message, or its first words.
#[must_use]
pub fn message(body: &[u8]) -> String {
    let answer = serde_json::from_slice::<serde_json::Value>(body).ok();
    let reported = answer.as_ref().and_then(|answer| {
        ["message", "error", "detail"].iter().find_map(|key| answer.get(key)?.as_str())
    });
    let raw = String::from_utf8_lossy(&body[..body.len().min(4 * MESSAGE_CHARS_MAX)]);
    let text = reported.unwrap_or_else(|| raw.trim());
    text.chars().take(MESSAGE_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

const VERSION_BYTES_MAX: usize = 32;
const MESSAGE_CHARS_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn answers_of_real_servers_are_read() {
        assert_eq!(version(b"\"0.6.3\"").as_deref(), Some("0.6.3"));
        for wrong in [&b""[..], b"1", b"\"\"", b"\"a b\"", b"\"1.0\n\"", b"<html>"] {
            assert_eq!(version(wrong), None);
        }
        assert_eq!(
            (count(b"330"), count(b" 2\n"), count(b"-1"), count(b"[]")),
            (Some(330), Some(2), None, None)
        );
        assert!(is_heartbeat(b"{\"nanosecond heartbeat\":1795469866979980235}"));
        assert!(!is_heartbeat(b"{\"status\":\"ok\"}") && !is_heartbeat(b"<html>"));
        for (body, want) in [
            (
                &b"{\"error\":\"InternalError\",\"message\":\"Internal error in getting count\"}"[..],
                "Internal error in getting count",
            ),
            (
                b"{\"error\":\"DatabaseError('file is not a database')\"}",
                "DatabaseError('file is not a database')",
            ),
            (b"{\"detail\":\"Not Found\"}", "Not Found"),
            (b"Bad \x1b[31mGateway\n", "Bad  [31mGateway"),
            (b"", ""),
        ] {
            assert_eq!(message(body), want);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            drop((version(&body), count(&body), is_heartbeat(&body)));
            prop_assert!(message(&body).chars().all(|c| !c.is_control()));
        }
    }
}
