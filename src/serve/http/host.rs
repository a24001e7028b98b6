//! Whether a request is meant for this server: the `Host` header (RFC 9112, section 3.2).
//!
//! A web page may give its own name the address 127.0.0.1 and then read what a server on the visitor's loopback says (DNS
//! rebinding). Such a request names the page's host. So on loopback addresses only names of this machine are answered; an
//! address in place of a name cannot be rebound. On other addresses any name is good: scrapers reach this host by names that
//! only their own resolver knows.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
};

use hyper::{Request, Version, header};

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Misdirected {
    /// 400: HTTP/1.1 without exactly one `Host`, or with one that is none.
    NoHost,
    /// 421: a name that is not one of this server's.
    OtherHost,
}

/// The names by which this server answers on loopback, in lower case.
#[derive(Debug)]
pub(super) struct Names(BTreeSet<String>);

impl Names {
    /// `localhost`, the name of this machine with and without its domain, and those of the configuration.
    pub(super) fn new(machine: &str, configured: &[String]) -> Self {
        let short = machine.split('.').next().unwrap_or_default();
        let all = ["localhost", machine, short].into_iter().chain(configured.iter().map(|n| &**n));
        Self(all.filter(|name| !name.is_empty()).map(str::to_ascii_lowercase).collect())
    }

    /// Whether a request that came in on the address `local` is to be answered. Errs when another host was meant.
    pub(super) fn check<B>(&self, request: &Request<B>, local: IpAddr) -> Result<(), Misdirected> {
        let mut hosts = request.headers().get_all(header::HOST).iter();
        let host = match (hosts.next(), hosts.next()) {
            (Some(host), None) => Some(host.to_str().map_err(|_| Misdirected::NoHost)?),
            // HTTP/1.0 knew no Host.
            (None, None) if request.version() < Version::HTTP_11 => None,
            _ => return Err(Misdirected::NoHost),
        };
        if !is_loopback(local) {
            return Ok(());
        }
        // The form for proxies, `GET http://name/ HTTP/1.1`, counts before the header.
        let named = request.uri().authority().map(hyper::http::uri::Authority::as_str);
        let known = host.into_iter().chain(named).all(|host| self.knows(host));
        if known { Ok(()) } else { Err(Misdirected::OtherHost) }
    }

    fn knows(&self, host: &str) -> bool {
        let name = without_port(host);
        if name.starts_with('[') {
            let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
            return address.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok());
        }
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        name.parse::<IpAddr>().is_ok() || name.ends_with(".localhost") || self.0.contains(&name)
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Also of IPv4 in IPv6, as a socket on all addresses sees it.
fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(version: Version, uri: &str, hosts: &[&str]) -> Request<()> {
        let mut request = Request::builder().version(version).uri(uri);
        for host in hosts {
            request = request.header(header::HOST, *host);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn on_loopback_only_names_of_this_machine_are_answered() {
        let names = Names::new("Web-1.example.org", &["monitor.example.com".to_owned()]);
        let local = |text: &str| text.parse::<IpAddr>().unwrap();
        for host in [
            "localhost",
            "LOCALHOST:18000",
            "localhost.",
            "chroma.localhost:80",
            "127.0.0.1:18000",
            "127.0.0.1",
            "10.0.0.7",
            "[::1]:18000",
            "[::1]",
            "web-1.example.org:18000",
            "web-1",
            "Monitor.example.com",
        ] {
            let request = request(Version::HTTP_11, "/", &[host]);
            for address in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "10.0.0.7"] {
                assert_eq!(names.check(&request, local(address)), Ok(()), "{host} at {address}");
            }
        }
        for host in
            ["evil.example", "evil.example:18000", "", "[evil]", "[::1", "127.0.0.1.evil.example"]
        {
            let request = request(Version::HTTP_11, "/", &[host]);
            let refused = Err(Misdirected::OtherHost);
            assert_eq!(names.check(&request, local("127.0.0.1")), refused, "{host}");
            assert_eq!(names.check(&request, local("::ffff:127.0.0.1")), refused, "{host}");
            assert_eq!(names.check(&request, local("10.0.0.7")), Ok(()), "{host}");
        }
        let proxied = request(Version::HTTP_11, "http://evil.example/", &["localhost"]);
        assert_eq!(names.check(&proxied, local("127.0.0.1")), Err(Misdirected::OtherHost));
    }

    #[test]
    fn http_1_1_names_exactly_one_host() {
        let names = Names::new("", &[]);
        for address in ["127.0.0.1", "10.0.0.7"] {
            let address = address.parse().unwrap();
            for hosts in [&[][..], &["localhost", "localhost"], &["\u{fc}ber"]] {
                let request = request(Version::HTTP_11, "/", hosts);
                assert_eq!(names.check(&request, address), Err(Misdirected::NoHost), "{hosts:?}");
            }
            assert_eq!(names.check(&request(Version::HTTP_10, "/", &[]), address), Ok(()));
        }
    }
}
