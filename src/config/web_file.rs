//! The file of `--web.config.file`, in the form that Prometheus' own exporters share (exporter-toolkit,
//! `docs/web-configuration.md`): TLS, client certificates, users, headers, rate. Pure: the certificates that it names are read by
//! `http::secure`.
//!
//! What is not taken over: the client policies that ask for a certificate and do not verify it, TLS below 1.2, and the curves
//! and suites that ring does not have. Each is refused with its reason, never passed over in silence. HTTP/2 is not spoken,
//! whatever `http2` says; no scraper needs it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::{
    facts::bad_value::BadValue,
    keys::{
        ConfigError, Secret,
        report::{At, Place, Report},
        section::{Section, choice, count, duration, flag, text, texts},
        yaml::{self, SOURCE_BYTES_MAX},
    },
};

/// What the file says.
#[derive(Debug, Default)]
pub(crate) struct WebFile {
    pub(crate) tls: Option<Tls>,
    /// Headers of every answer, by the names of [`HEADERS`].
    pub(crate) headers: Vec<(&'static str, String)>,
    /// Bcrypt hashes by user; without any nobody is asked who he is.
    pub(crate) users: BTreeMap<String, Secret>,
    pub(crate) rate: Option<Rate>,
}

/// `tls_server_config`.
#[derive(Debug)]
pub(crate) struct Tls {
    /// PEM, as the key is.
    pub(crate) certificate: At<Secret>,
    pub(crate) key: At<Secret>,
    /// Who signs the certificates of clients, and whether they must have one.
    pub(crate) clients: Option<Clients>,
    pub(crate) min: TlsVersion,
    pub(crate) max: TlsVersion,
    /// Names of suites of TLS 1.2, in order of preference; empty for all.
    pub(crate) suites: Vec<&'static str>,
    /// In order of preference; empty for all.
    pub(crate) curves: Vec<&'static str>,
    pub(crate) server_prefers: bool,
}

/// How certificates of clients are verified.
#[derive(Debug)]
pub(crate) struct Clients {
    pub(crate) authority: At<Secret>,
    /// Whether a client without a certificate is turned away.
    pub(crate) required: bool,
    /// One of these must be a name in the certificate; empty for any.
    pub(crate) allowed_sans: Vec<String>,
}

/// A version that can be spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TlsVersion {
    Tls12,
    Tls13,
}

/// `rate_limit`: a request each `interval`, and so many at once after a quiet time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) interval: Duration,
    pub(crate) burst: u32,
}

/// Headers that may be set, with the values that some are bound to.
const HEADERS: [(&str, &[&str]); 5] = [
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-XSS-Protection", &[]),
    ("Content-Security-Policy", &[]),
];

/// Suites of TLS 1.2 by the names of Go and the IANA.
const SUITES: [&str; 6] = [
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
];

const CURVES: [&str; 3] = ["X25519", "CurveP256", "CurveP384"];

/// The client policies of Go, by what they come to here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ClientAuth {
    None,
    IfGiven,
    Required,
}

/// Reads the text of `file`, by whose folder relative paths are meant. Errs with every problem at once.
pub(crate) fn read(file: &Path, source: &str) -> Result<WebFile, Vec<ConfigError>> {
    let tree = yaml::parse(source).map_err(|error| {
        vec![Place { line: error.line, ..Place::file(file) }.wrong(error.message)]
    })?;
    let report = Report::default();
    let name: Arc<str> = file.to_string_lossy().into();
    let folder = file.parent().unwrap_or(Path::new(""));
    let web = of(&Section::top(&report, &name, &tree), folder);
    let problems = report.into_problems();
    if problems.is_empty() { Ok(web) } else { Err(problems) }
}

fn of(top: &Section<'_>, folder: &Path) -> WebFile {
    let mut web = WebFile {
        tls: top.section("tls_server_config").and_then(|section| tls(&section, folder)),
        ..WebFile::default()
    };
    if let Some(http) = top.section("http_server_config") {
        // Read so that a value that is none is told.
        drop(http.read("http2", flag));
        if let Some(headers) = http.section("headers") {
            for (name, allowed) in HEADERS {
                let set = headers.read(name, |value| header(text(value)?, allowed));
                web.headers
                    .extend(set.filter(|at| !at.value.is_empty()).map(|at| (name, at.value)));
            }
        }
    }
    for (user, hash) in top.pairs("basic_auth_users", USERS_MAX) {
        match text(&hash.value.value).and_then(bcrypt_hash) {
            Ok(hash) => drop(web.users.insert(user, Secret::inline(hash))),
            Err(rule) => top.add(hash.place.wrong(rule)),
        }
    }
    if let Some(rate) = top.section("rate_limit") {
        let interval = rate.read("interval", duration(Duration::ZERO..=Duration::from_hours(1)));
        let burst = rate.read("burst", count(1..=1_000_000));
        let interval = interval.map_or(Duration::ZERO, |at| at.value);
        if !interval.is_zero() {
            let burst = burst.map_or(1, |at| u32::try_from(at.value).unwrap_or(u32::MAX));
            web.rate = Some(Rate { interval, burst });
        }
    }
    web
}

/// `None` when something that it cannot do without is wrong, which has been reported, or when nothing of it is there.
fn tls(section: &Section<'_>, folder: &Path) -> Option<Tls> {
    let certificate = pem(section, folder, ["cert", "cert_file"]);
    let key = pem(section, folder, ["key", "key_file"]);
    let authority = pem(section, folder, ["client_ca", "client_ca_file"]);
    let auth = section.read("client_auth_type", client_auth);
    let allowed_sans: Vec<String> =
        texts(section, "client_allowed_sans", LIST_MAX, |san| Ok(san.to_owned()));
    let mut min = TlsVersion::Tls12;
    let mut max = TlsVersion::Tls13;
    let versions = choice(&[TlsVersion::Tls12, TlsVersion::Tls13], |version| match version {
        TlsVersion::Tls12 => "TLS12",
        TlsVersion::Tls13 => "TLS13",
    });
    section.set("min_version", &mut min, &versions);
    section.set("max_version", &mut max, &versions);
    if min > max {
        section.add(section.place("min_version").wrong("must not be above max_version"));
    }
    let suites = texts(section, "cipher_suites", LIST_MAX, suite).into_iter().flatten().collect();
    let curves = texts(section, "curve_preferences", LIST_MAX, |name| one_of(name, &CURVES));
    let mut server_prefers = true;
    section.set("prefer_server_cipher_suites", &mut server_prefers, flag);
    let auth_is = auth.as_ref().map_or(ClientAuth::None, |at| at.value);
    match (&authority, auth_is) {
        (None, ClientAuth::IfGiven | ClientAuth::Required) => section.add(
            section
                .place("client_auth_type")
                .wrong("needs client_ca_file: who signs the certificates of clients"),
        ),
        (Some(_), ClientAuth::None) => section.add(
            section
                .place("client_ca_file")
                .wrong("has no effect without client_auth_type: RequireAndVerifyClientCert"),
        ),
        _ => {}
    }
    if auth_is == ClientAuth::None && !allowed_sans.is_empty() {
        section.add(
            section
                .place("client_allowed_sans")
                .wrong("has no effect without client_auth_type: RequireAndVerifyClientCert"),
        );
    }
    let required = auth_is == ClientAuth::Required;
    let clients = authority.map(|authority| Clients { authority, required, allowed_sans });
    match (certificate, key) {
        (Some(certificate), Some(key)) => {
            Some(Tls { certificate, key, clients, min, max, suites, curves, server_prefers })
        }
        (None, _) => {
            section.add(
                section
                    .place("cert_file")
                    .wrong("must be given: the certificate of this server, PEM"),
            );
            None
        }
        (_, None) => {
            section.add(
                section.place("key_file").wrong("must be given: the key of the certificate, PEM"),
            );
            None
        }
    }
}

/// PEM that stands in the file itself or in one that it names, not both.
fn pem(
    section: &Section<'_>,
    folder: &Path,
    [inline, file]: [&'static str; 2],
) -> Option<At<Secret>> {
    let here = section.read(inline, |value| Ok(Secret::inline(text(value)?)));
    let there = section.read(file, |value| match text(value)? {
        "" => Err("must be the name of a file".into()),
        name => Ok(Secret::file(folder.join(PathBuf::from(name)))),
    });
    if here.is_some() && there.is_some() {
        section.add(section.place(file).wrong(format!("stands beside {inline}: give one of them")));
    }
    here.or(there)
}

fn client_auth(value: &yaml::Value) -> Result<ClientAuth, BadValue> {
    match text(value)? {
        "NoClientCert" => Ok(ClientAuth::None),
        "VerifyClientCertIfGiven" => Ok(ClientAuth::IfGiven),
        "RequireAndVerifyClientCert" => Ok(ClientAuth::Required),
        "RequestClientCert" | "RequireAnyClientCert" => {
            Err("would take any certificate: write RequireAndVerifyClientCert".into())
        }
        _ => {
            Err("must be NoClientCert, VerifyClientCertIfGiven or RequireAndVerifyClientCert"
                .into())
        }
    }
}

/// `None` for one of TLS 1.3, all of which are always on.
fn suite(name: &str) -> Result<Option<&'static str>, BadValue> {
    if name.starts_with("TLS_AES_") || name.starts_with("TLS_CHACHA20_") {
        return Ok(None);
    }
    // Go has short names for two.
    let name = match name {
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305" => "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305" => "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        name => name,
    };
    one_of(name, &SUITES).map(Some)
}

fn one_of(name: &str, known: &'static [&'static str]) -> Result<&'static str, BadValue> {
    known.iter().copied().find(|known| *known == name).ok_or(BadValue::NotToBeHad(known))
}

fn header(value: &str, allowed: &[&'static str]) -> Result<String, BadValue> {
    let fits = value.is_empty() || allowed.is_empty() || allowed.contains(&value);
    let writable = value.len() <= HEADER_BYTES_MAX
        && value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    match (fits, writable) {
        (true, true) => Ok(value.to_owned()),
        (false, _) => Err(BadValue::NoneOf(allowed.to_vec())),
        (_, false) => Err("must be ASCII of at most 4000 characters".into()),
    }
}

/// A hash as `htpasswd -nBC 10 ""` makes it. A cost above the bound would keep a processor busy for minutes at each new
/// password that is tried.
fn bcrypt_hash(text: &str) -> Result<&str, BadValue> {
    let mut parts = text.splitn(4, '$');
    let (empty, kind, cost, rest) = (parts.next(), parts.next(), parts.next(), parts.next());
    let is_hash = empty == Some("")
        && matches!(kind, Some("2a" | "2b" | "2y"))
        && rest.is_some_and(|rest| {
            rest.len() == 53
                && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'/')
        });
    // What was meant for a hash may be a password.
    match cost.and_then(|cost| cost.parse::<u32>().ok()).filter(|_| is_hash) {
        Some(cost) if COSTS.contains(&cost) => Ok(text),
        Some(_) => Err(BadValue::outside("must have a cost from", &COSTS)),
        None => Err("must be a bcrypt hash, as `htpasswd -nBC 10 \"\"` prints it".into()),
    }
}

/// Most users.
const USERS_MAX: usize = 1000;
const LIST_MAX: usize = 100;
const HEADER_BYTES_MAX: usize = 4000;
const COSTS: std::ops::RangeInclusive<u32> = 4..=16;

/// Largest such file.
pub(crate) const WEB_FILE_BYTES_MAX: usize = SOURCE_BYTES_MAX;

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG";

    fn problems(source: &str) -> Vec<String> {
        match read(Path::new("/etc/web.yml"), source) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn everything_that_the_shared_form_knows_is_read() {
        let source = format!(
            "tls_server_config:\n  cert_file: server.crt\n  key_file: /keys/server.key\n  client_auth_type: RequireAndVerifyClientCert\n  \
             client_ca_file: ca.crt\n  client_allowed_sans: [prometheus.example.org]\n  min_version: TLS13\n  \
             cipher_suites: [TLS_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305]\n  curve_preferences: [CurveP256]\n  \
             prefer_server_cipher_suites: false\nhttp_server_config:\n  http2: true\n  headers:\n    X-Frame-Options: deny\n    \
             X-XSS-Protection: ''\nbasic_auth_users:\n  alice: {HASH}\nrate_limit:\n  interval: 1s\n  burst: 20\n"
        );
        let web = read(Path::new("/etc/web.yml"), &source).unwrap();
        let tls = web.tls.unwrap();
        assert_eq!(tls.certificate.value, Secret::file("/etc/server.crt"));
        assert_eq!(tls.key.value, Secret::file("/keys/server.key"));
        let clients = tls.clients.unwrap();
        assert!(clients.required && clients.allowed_sans == ["prometheus.example.org"]);
        assert_eq!((tls.min, tls.max), (TlsVersion::Tls13, TlsVersion::Tls13));
        assert_eq!(tls.suites, ["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"]);
        assert_eq!((tls.curves.as_slice(), tls.server_prefers), (&["CurveP256"][..], false));
        assert_eq!(web.headers, [("X-Frame-Options", "deny".to_owned())]);
        assert_eq!(web.users.keys().collect::<Vec<_>>(), ["alice"]);
        assert_eq!(web.rate, Some(Rate { interval: Duration::from_secs(1), burst: 20 }));
        assert!(!format!("{:?}", web.users).contains("X0h1"), "a hash is a secret");
        for nothing in ["", "rate_limit: {interval: 0s, burst: 5}", "http_server_config: {}"] {
            let web = read(Path::new("web.yml"), nothing).unwrap();
            assert!(web.tls.is_none() && web.users.is_empty() && web.rate.is_none(), "{nothing}");
        }
    }

    #[test]
    fn every_mistake_is_told_at_once_and_no_secret_with_it() {
        let source = "tls_server_config:\n  cert_file: a\n  cert: b\n  client_auth_type: RequireAnyClientCert\n  min_version: TLS10\n  \
                      cipher_suites: [TLS_RSA_WITH_RC4_128_SHA]\n  curve_preferences: [CurveP521]\nbasic_auth_users:\n  bob: hunter2\n  \
                      eve: $2y$31$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG\nhttp_server_config:\n  headers:\n    X-Frame-Options: maybe\n    \
                      Server: x\nbasic_auth: {}\n";
        let told = problems(source).join("\n");
        for part in [
            "web.yml:2: tls_server_config.cert_file: stands beside cert",
            "key_file: must be given",
            "RequireAnyClientCert: would take any certificate",
            "min_version = TLS10: must be TLS12, TLS13",
            "TLS_RSA_WITH_RC4_128_SHA: is not to be had here",
            "CurveP521: is not to be had here",
            "basic_auth_users.bob: must be a bcrypt hash",
            "basic_auth_users.eve: must have a cost from 4 to 16",
            "X-Frame-Options = maybe: must be deny, sameorigin",
            "Server: unknown key",
            "basic_auth: unknown key; known here: basic_auth_users",
        ] {
            assert!(told.contains(part), "{part} in\n{told}");
        }
        assert!(!told.contains("hunter2") && !told.contains("X0h1"), "{told}");
        for (source, part) in [
            (
                "tls_server_config: {cert_file: a, key_file: b, client_auth_type: RequireAndVerifyClientCert}",
                "needs client_ca_file",
            ),
            ("tls_server_config: {cert_file: a, key_file: b, client_ca_file: c}", "has no effect"),
            (
                "tls_server_config: {cert_file: a, key_file: b, client_allowed_sans: [x]}",
                "has no effect",
            ),
            (
                "tls_server_config: {cert_file: a, key_file: b, min_version: TLS13, max_version: TLS12}",
                "must not be above",
            ),
            ("tls_server_config: {}", "cert_file: must be given"),
            ("a: [", "is not YAML"),
        ] {
            let told = problems(source).join("\n");
            assert!(told.contains(part), "{part} in {told}");
        }
    }
}
