//! Where a message may go: which URLs a receiver may have, and which addresses a connection may be made to. Pure; the
//! addresses behind a name are judged when the connection is made, because a name may mean another one by then.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use reqwest::Url;

use crate::facts::bad_value::BadValue;

/// A URL that messages are sent to. Errs with the rule, which says nothing of the URL.
pub(crate) fn url(text: &str, allow_http: bool) -> Result<Url, BadValue> {
    const RULE: &str = "must be a URL such as https://example.org/hook";
    if text.len() > URL_BYTES_MAX || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(RULE.into());
    }
    let url = Url::parse(text).map_err(|_| RULE)?;
    if !matches!(url.scheme(), "https" | "http") || !url.has_host() {
        return Err(RULE.into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold a user or password: write them below basic_auth".into());
    }
    if let Some(ip) = literal(&url) {
        address(ip, plain_needs_private(&url, allow_http))?;
    }
    Ok(url)
}

/// A proxy. It may be anywhere and have user and password. Errs with the rule, which says nothing of the URL.
pub(crate) fn proxy(text: &str) -> Result<Url, BadValue> {
    const RULE: &str = "must be a URL such as http://proxy:3128 or socks5h://proxy:1080";
    let url = Url::parse(text).map_err(|_| RULE)?;
    let known = matches!(url.scheme(), "http" | "https" | "socks5" | "socks5h");
    if text.len() > URL_BYTES_MAX || !known || !url.has_host() {
        return Err(RULE.into());
    }
    Ok(url)
}

/// Whether a connection for `url` may only go to loopback and private addresses: it would carry the secret in clear.
pub(crate) fn plain_needs_private(url: &Url, allow_http: bool) -> bool {
    url.scheme() == "http" && !allow_http
}

/// The address that stands in the URL instead of a name.
pub(crate) fn literal(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// Judges an address that a connection would go to. Errs with the rule.
pub(crate) fn address(ip: IpAddr, private_only: bool) -> Result<(), BadValue> {
    let ip = match ip {
        IpAddr::V6(v6) => embedded(v6).map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    };
    let (link_local, private) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.is_loopback() || v4.is_private()),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.is_loopback() || v6.is_unique_local()),
    };
    if link_local {
        // The metadata service of clouds hands out the host's own rights there.
        return Err("must not be a link-local address (169.254.0.0/16, fe80::/10)".into());
    }
    if private_only && !private {
        return Err(
            "must be https: http is only for loopback and private addresses, unless allow_http is true"
                .into(),
        );
    }
    Ok(())
}

/// The IPv4 address that an IPv6 one stands for: mapped, compatible or of NAT64.
fn embedded(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let nat64 = v6.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0];
    let [.., a, b, c, d] = v6.octets();
    if nat64 { Some(Ipv4Addr::new(a, b, c, d)) } else { v6.to_ipv4().filter(|_| !v6.is_loopback()) }
}

const URL_BYTES_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn urls_are_judged_by_scheme_and_address() {
        for (text, allow_http, ok) in [
            ("https://hooks.slack.com/services/T0/B0/x", false, true),
            ("https://203.0.113.7/x", false, true),
            ("http://127.0.0.1:9093", false, true),
            ("http://[::1]:9093", false, true),
            ("http://10.1.2.3/", false, true),
            ("http://[fd00::1]/", false, true),
            ("http://mattermost.internal/hooks/x", false, true),
            ("http://203.0.113.7/x", false, false),
            ("http://203.0.113.7/x", true, true),
            ("https://169.254.169.254/latest", false, false),
            ("http://169.254.169.254/latest", true, false),
            ("https://0xa9fea9fe/", true, false),
            ("https://2852039166/", true, false),
            ("https://[fe80::1]/", true, false),
            ("https://[::ffff:169.254.169.254]/", true, false),
            ("https://[64:ff9b::a9fe:a9fe]/", true, false),
            ("http://[::ffff:127.0.0.1]/", false, true),
            ("https://user:word@example.org/", false, false),
            ("ftp://example.org/", false, false),
            ("file:///etc/passwd", false, false),
            ("example.org/hook", false, false),
            ("https://", false, false),
            ("https://example.org/a b", false, false),
            ("<secret>", false, false),
            ("", false, false),
        ] {
            assert_eq!(url(text, allow_http).is_ok(), ok, "{text} {allow_http}");
        }
        for (text, ok) in [
            ("http://proxy:3128", true),
            ("socks5h://user:word@10.0.0.1:1080", true),
            ("ftp://proxy", false),
            ("proxy:3128", false),
        ] {
            assert_eq!(proxy(text).is_ok(), ok, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(https?://)?\\PC{0,60}") {
            drop((url(&text, false), proxy(&text)));
        }

        #[test]
        fn link_local_is_refused_in_every_spelling(c in any::<u8>(), d in any::<u8>()) {
            let v4 = Ipv4Addr::new(169, 254, c, d);
            prop_assert!(address(v4.into(), false).is_err());
            prop_assert!(address(v4.to_ipv6_mapped().into(), false).is_err());
        }
    }
}
