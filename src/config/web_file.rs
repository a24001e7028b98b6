//! The file of `--web.config.file`, in the form that Prometheus' own exporters share (exporter-toolkit,
//! `docs/web-configuration.md`): TLS, client certificates, users, headers, rate. Pure: the certificates that it names are read by
//! `http::secure`.
//!
//! What is not taken over: the client policies that ask for a certificate and do not verify it, TLS below 1.2, and the curves
//! and suites that ring does not have. Each is refused with its reason, never passed over in silence. HTTP/2 is not spoken,
//! whatever `http2` says; no scraper needs it.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use crate::{
    facts::bad_value::BadValue,
    keys::{
        ConfigError, Secret,
        key::{
            Declared, Key, Kind, Written, choice, count, keys, list, section, span, switch, word,
        },
        report::{At, Given, Place, Report},
        section::{Section, text, texts},
        yaml::{self, SOURCE_BYTES_MAX},
    },
};

/// What the file says.
#[derive(Debug, Default)]
pub(crate) struct WebFile {
    pub(crate) tls: Option<Tls>,
    /// Headers of every answer.
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

impl TlsVersion {
    const ALL: [Self; 2] = [Self::Tls12, Self::Tls13];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Tls12 => "TLS12",
            Self::Tls13 => "TLS13",
        }
    }
}

/// `rate_limit`: a request each `interval`, and so many at once after a quiet time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) interval: Duration,
    pub(crate) burst: u32,
}

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
    let folder = file.parent().unwrap_or(Path::new(""));
    let report = Report::new(Given { cwd: Some(folder.to_owned()), ..Given::default() });
    let name: Arc<str> = file.to_string_lossy().into();
    let web = of(&Section::top(&report, &name, &tree));
    let problems = report.into_problems();
    if problems.is_empty() { Ok(web) } else { Err(problems) }
}

keys! {
    /// The file of `--web.config.file`, in the form that Prometheus' own exporters share. It is read anew when it changes.
    struct File {
        /// TLS. Without it the server speaks plain HTTP.
        tls as "tls_server_config": Option<TlsKeys> = None, apart::<TlsKeys>();
        /// What is said of HTTP.
        http as "http_server_config": HttpKeys = HttpKeys::default(), section();
        /// Bcrypt hashes by user. Without any, nobody is asked who they are.
        users as "basic_auth_users": BTreeMap<String, Secret> = BTreeMap::new(), users();
        /// A limit for the requests of all clients together.
        rate as "rate_limit": RateKeys = RateKeys::default(), section();
    }
}

keys! {
    /// TLS of the server. Relative paths are meant from the folder of the file.
    struct TlsKeys {
        /// The certificate of the server in PEM, or below in a file.
        cert: Option<At<Secret>> = None, pem();
        /// The file of the certificate.
        cert_file: Option<At<Secret>> = None, pem_file("cert");
        /// The key of the certificate in PEM, or below in a file.
        key: Option<At<Secret>> = None, pem();
        /// The file of the key.
        key_file: Option<At<Secret>> = None, pem_file("key");
        /// Who signs the certificates of clients, in PEM, or below in a file.
        client_ca: Option<At<Secret>> = None, pem();
        /// The file of who signs the certificates of clients.
        client_ca_file: Option<At<Secret>> = None, pem_file("client_ca");
        /// Whether clients need a certificate that is verified.
        client_auth_type: ClientAuth = ClientAuth::None, client_auth();
        /// One of these must be a name in the certificate of a client. Any, when there is none.
        client_allowed_sans: Vec<String> = Vec::new(), list("names", LIST_MAX, |san| Ok(san.to_owned()));
        /// The oldest version that is spoken.
        min_version: TlsVersion = TlsVersion::Tls12, choice(&TlsVersion::ALL, TlsVersion::as_str);
        /// The newest.
        max_version: TlsVersion = TlsVersion::Tls13, choice(&TlsVersion::ALL, TlsVersion::as_str);
        /// Suites of TLS 1.2 in order of preference. All that are safe, when there is none.
        cipher_suites: Vec<&'static str> = Vec::new(), suites();
        /// Curves in order of preference. X25519, P-256 and P-384, when there is none.
        curve_preferences: Vec<&'static str> = Vec::new(), curves();
        /// Whether the order of the server counts, and not that of the client.
        server_prefers as "prefer_server_cipher_suites": bool = true, switch();
    }
}

keys! {
    /// HTTP.
    struct HttpKeys {
        /// Accepted for files of other exporters. HTTP/2 is not spoken.
        http2: bool = true, switch();
        /// Headers of every answer.
        headers: HeaderKeys = HeaderKeys::default(), section();
    }
}

keys! {
    /// Headers of every answer. Empty text leaves one out.
    struct HeaderKeys {
        /// How long browsers ask by HTTPS only.
        strict_transport_security as "Strict-Transport-Security": Option<String> = None, header(&[]);
        /// nosniff.
        content_type_options as "X-Content-Type-Options": Option<String> = None, header(&["nosniff"]);
        /// deny or sameorigin.
        frame_options as "X-Frame-Options": Option<String> = None, header(&["deny", "sameorigin"]);
        /// For old browsers.
        xss_protection as "X-XSS-Protection": Option<String> = None, header(&[]);
        /// What a page may load.
        content_security_policy as "Content-Security-Policy": Option<String> = None, header(&[]);
    }
}

keys! {
    /// A limit for the requests of all clients together.
    struct RateKeys {
        /// A request each so long. 0s is no limit.
        interval: Duration = Duration::ZERO, span(Duration::ZERO..=Duration::from_hours(1));
        /// So many at once after a quiet time.
        burst: usize = 1, count(1..=1_000_000);
    }
}

/// The keys of this file, for the page of all keys.
pub(crate) fn all_keys() -> Vec<Key> {
    File::keys()
}

fn of(top: &Section<'_>) -> WebFile {
    let file = File::read(top);
    let HeaderKeys {
        strict_transport_security,
        content_type_options,
        frame_options,
        xss_protection,
        content_security_policy,
    } = file.http.headers;
    let headers = [
        ("Strict-Transport-Security", strict_transport_security),
        ("X-Content-Type-Options", content_type_options),
        ("X-Frame-Options", frame_options),
        ("X-XSS-Protection", xss_protection),
        ("Content-Security-Policy", content_security_policy),
    ];
    let RateKeys { interval, burst } = file.rate;
    let burst = u32::try_from(burst).unwrap_or(u32::MAX);
    WebFile {
        tls: top.section("tls_server_config").and_then(|section| tls(&section)),
        headers: headers.into_iter().filter_map(|(name, value)| Some((name, value?))).collect(),
        users: file.users,
        rate: (!interval.is_zero()).then_some(Rate { interval, burst }),
    }
}

/// `None` when something that it cannot do without is wrong, which has been reported, or when nothing of it is there.
fn tls(section: &Section<'_>) -> Option<Tls> {
    let keys = TlsKeys::read(section);
    let certificate = keys.cert.or(keys.cert_file);
    let key = keys.key.or(keys.key_file);
    let authority = keys.client_ca.or(keys.client_ca_file);
    let (min, max) = (keys.min_version, keys.max_version);
    let wrong = |key: &'static str, rule: &str| section.add(section.place(key).wrong(rule));
    if min > max {
        wrong("min_version", "must not be above max_version");
    }
    let auth = keys.client_auth_type;
    match (&authority, auth) {
        (None, ClientAuth::IfGiven | ClientAuth::Required) => {
            wrong(
                "client_auth_type",
                "needs client_ca_file: who signs the certificates of clients",
            );
        }
        (Some(_), ClientAuth::None) => wrong("client_ca_file", NO_EFFECT),
        _ => {}
    }
    let allowed_sans = keys.client_allowed_sans;
    if auth == ClientAuth::None && !allowed_sans.is_empty() {
        wrong("client_allowed_sans", NO_EFFECT);
    }
    let required = auth == ClientAuth::Required;
    let clients = authority.map(|authority| Clients { authority, required, allowed_sans });
    match (certificate, key) {
        (Some(certificate), Some(key)) => Some(Tls {
            certificate,
            key,
            clients,
            min,
            max,
            suites: keys.cipher_suites,
            curves: keys.curve_preferences,
            server_prefers: keys.server_prefers,
        }),
        (None, _) => {
            wrong("cert_file", "must be given: the certificate of this server, PEM");
            None
        }
        (_, None) => {
            wrong("key_file", "must be given: the key of the certificate, PEM");
            None
        }
    }
}

const NO_EFFECT: &str = "has no effect without client_auth_type: RequireAndVerifyClientCert";

/// A section that is read apart, by who checks its keys against each other.
fn apart<T: Declared + 'static>() -> Kind<Option<T>> {
    let asked = |section: &Section<'_>, key| {
        section.node(key);
        None
    };
    let write = |value: &Option<T>| value.as_ref().map(Declared::written);
    Kind::custom("section", asked, write).with(T::keys())
}

/// PEM in the file itself. It is shown nowhere.
fn pem() -> Kind<Option<At<Secret>>> {
    let read = |section: &Section<'_>, key| {
        section.read(key, |value| Ok(Secret::inline(text(value)?))).map(Some)
    };
    Kind::custom("PEM", read, |_| None)
}

/// The name of a file with PEM, which must not stand beside `inline`.
fn pem_file(inline: &'static str) -> Kind<Option<At<Secret>>> {
    let read = move |section: &Section<'_>, key| {
        if section.node(key).is_some() && section.node(inline).is_some() {
            let rule = format!("stands beside {inline}: give one of them");
            section.add(section.place(key).wrong(rule));
        }
        let folder = section.cwd().unwrap_or(Path::new(""));
        let file = section.read(key, |value| match text(value)? {
            "" => Err("must be the name of a file".into()),
            name => Ok(Secret::file(folder.join(name))),
        });
        file.map(Some)
    };
    Kind::custom("path", read, |_| None)
}

fn users() -> Kind<BTreeMap<String, Secret>> {
    let read = |section: &Section<'_>, key| {
        let mut users = BTreeMap::new();
        for (user, hash) in section.pairs(key, USERS_MAX) {
            match text(&hash.value.value).and_then(bcrypt_hash) {
                Ok(hash) => drop(users.insert(user, Secret::inline(hash))),
                Err(rule) => section.add(hash.place.wrong(rule)),
            }
        }
        Some(users)
    };
    Kind::custom("bcrypt hashes by user", read, |_| None)
}

fn header(allowed: &'static [&'static str]) -> Kind<Option<String>> {
    let what = if allowed.is_empty() { "ASCII".to_owned() } else { allowed.join(", ") };
    word(&what, move |value| header_value(value, allowed)).or_nothing()
}

fn suites() -> Kind<Vec<&'static str>> {
    let read = |section: &Section<'_>, key| {
        Some(texts(section, key, LIST_MAX, suite).into_iter().flatten().collect())
    };
    Kind::custom("list of names", read, |all: &Vec<_>| Some(names(all)))
}

fn curves() -> Kind<Vec<&'static str>> {
    let read = |section: &Section<'_>, key| {
        Some(texts(section, key, LIST_MAX, |name| one_of(name, &CURVES)))
    };
    Kind::custom("list of names", read, |all: &Vec<_>| Some(names(all)))
}

fn names(all: &[&'static str]) -> Written {
    Written::List(all.iter().map(|name| Written::Text((*name).to_owned())).collect())
}

fn client_auth() -> Kind<ClientAuth> {
    let name = |auth: &ClientAuth| match auth {
        ClientAuth::None => "NoClientCert",
        ClientAuth::IfGiven => "VerifyClientCertIfGiven",
        ClientAuth::Required => "RequireAndVerifyClientCert",
    };
    let what = "NoClientCert, VerifyClientCertIfGiven, RequireAndVerifyClientCert";
    Kind::one(what, read_client_auth, move |auth| Written::Text(name(auth).to_owned()))
}

fn read_client_auth(value: &yaml::Value) -> Result<ClientAuth, BadValue> {
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

/// `None` for one of TLS 1.3, all of which are always on. Errs when it is none that this program knows.
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

fn header_value(value: &str, allowed: &[&'static str]) -> Result<String, BadValue> {
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
/// password that is tried. Errs when it is none, or its cost is out of range.
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
        let reported = problems(source).join("\n");
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
            assert!(reported.contains(part), "{part} in\n{reported}");
        }
        assert!(!reported.contains("hunter2") && !reported.contains("X0h1"), "{reported}");
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
            let reported = problems(source).join("\n");
            assert!(reported.contains(part), "{part} in {reported}");
        }
    }
}
