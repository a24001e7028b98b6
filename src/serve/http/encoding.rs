//! What a client takes and what it has: `Accept-Encoding` and `If-None-Match` as RFC 9110 (sections 12.5.3 and 13.1.2) has
//! them.

use hyper::header::{ACCEPT_ENCODING, HeaderMap, IF_NONE_MATCH};

/// Whether gzip is acceptable and not liked less than plain bytes. Plain bytes are always sent rather than nothing: a
/// scraper that refuses both is better off with a page than with 406.
pub(super) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let (mut gzip, mut identity, mut any) = (None, None, None);
    for value in headers.get_all(ACCEPT_ENCODING) {
        // A value that is not visible ASCII names no coding of ours.
        let Ok(value) = value.to_str() else { continue };
        for member in value.split(',') {
            let mut parts = member.split(';');
            let coding = parts.next().unwrap_or("").trim();
            let Some(weight) = weight(parts) else { continue };
            if coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip") {
                gzip = Some(weight);
            } else if coding.eq_ignore_ascii_case("identity") {
                identity = Some(weight);
            } else if coding == "*" {
                any = Some(weight);
            }
        }
    }
    let gzip = gzip.or(any).unwrap_or(0);
    gzip > 0 && gzip >= identity.unwrap_or(0)
}

/// Whether the client has what `etag` names: one of its tags is the same by weak comparison, or it is content with anything.
pub(super) fn has(headers: &HeaderMap, etag: &[u8]) -> bool {
    fn opaque(tag: &[u8]) -> &[u8] {
        let tag = tag.trim_ascii();
        tag.strip_prefix(b"W/").unwrap_or(tag)
    }
    // Our tags hold no comma, so what is cut at one in a tag of somebody else's is none of ours.
    let tags =
        headers.get_all(IF_NONE_MATCH).into_iter().flat_map(|v| v.as_bytes().split(|b| *b == b','));
    tags.map(opaque).any(|tag| tag == b"*" || tag == opaque(etag))
}

/// The weight in thousandths; 1000 when none is given, `None` when it is not one.
fn weight<'a>(parameters: impl Iterator<Item = &'a str>) -> Option<u16> {
    for parameter in parameters {
        let Some((name, value)) = parameter.split_once('=') else { continue };
        if name.trim().eq_ignore_ascii_case("q") {
            let weight: f32 = value.trim().parse().ok()?;
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "the range is checked"
            )]
            return (0.0..=1.0).contains(&weight).then_some((weight * 1000.0) as u16);
        }
    }
    Some(1000)
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn who_has_it_does_not_get_it_again() {
        for (values, want) in [
            (&[][..], false),
            (&["W/\"1a-7\""], true),
            (&["\"1a-7\""], true),
            (&["*"], true),
            (&["\"x\", W/\"1a-7\""], true),
            (&["\"x\"", "\"1a-7\""], true),
            (&["W/\"1a-8\""], false),
            (&["1a-7"], false),
            (&["\"1a-7"], false),
            (&["", ",,"], false),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(IF_NONE_MATCH, HeaderValue::from_static(value));
            }
            assert_eq!(has(&headers, b"W/\"1a-7\""), want, "{values:?}");
        }
    }

    #[test]
    fn gzip_is_sent_to_those_who_want_it() {
        for (values, want) in [
            (&[][..], false),
            (&[""], false),
            (&["gzip"], true),
            (&["GZip"], true),
            (&["x-gzip"], true),
            (&["deflate, gzip;q=1.0, *;q=0.5"], true),
            (&["gzip;q=0"], false),
            (&["gzip;q=0.000"], false),
            (&["gzip ; Q=0.001"], true),
            (&["*"], true),
            (&["*;q=0"], false),
            (&["gzip, *;q=0"], true),
            (&["gzip;q=0, *"], false),
            (&["identity"], false),
            (&["identity;q=0"], false),
            (&["identity, gzip;q=0.5"], false),
            (&["identity;q=0.5, gzip;q=0.5"], true),
            (&["br", "gzip"], true),
            (&["gzip;q=nonsense"], false),
            (&["gzip;q=2"], false),
            (&["gzip;q=NaN"], false),
            (&["gzip;q=-0.1"], false),
            (&["gzipped, notgzip"], false),
            (&[",,;;,gzip"], true),
        ] {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(ACCEPT_ENCODING, HeaderValue::from_static(value));
            }
            assert_eq!(accepts_gzip(&headers), want, "{values:?}");
        }
        let mut headers = HeaderMap::new();
        headers.append(ACCEPT_ENCODING, HeaderValue::from_bytes(b"gzip, \xff").unwrap());
        assert!(!accepts_gzip(&headers));
    }
}
