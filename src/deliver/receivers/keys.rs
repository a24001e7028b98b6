//! What the kinds read their keys with: secrets, the keys of an HTTP server, and how all of them are printed.

use std::path::PathBuf;

use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Value, json};

use crate::{
    facts::bad_value::BadValue,
    keys::{
        report::{ConfigError, Place},
        rules,
        secret::{SHOWN, Secret, Source},
        section::{self, Section, text},
        target,
    },
};

/// The keys of one receiver, for its kind to read.
pub(crate) struct Keys<'a> {
    /// Where they stand.
    pub(crate) section: &'a Section<'a>,
    /// The item of the list.
    pub(crate) place: &'a Place,
    /// Whether `http://` may lead to public addresses.
    pub(crate) allow_http: bool,
}

impl Keys<'_> {
    /// The address that every server over HTTP must have.
    pub(crate) fn url(&self) -> Option<Secret> {
        URL.need(self.section, self.place, |text| self.url_rule(text))
    }

    /// The same for a kind that has an address of its own.
    pub(crate) fn url_if_given(&self) -> Option<Secret> {
        URL.read(self.section, |text| self.url_rule(text))
    }

    /// A secret that must be given and may be any text.
    pub(crate) fn need(&self, keys: &SecretKeys) -> Option<Secret> {
        keys.need(self.section, self.place, |_| Ok(()))
    }

    /// Reports that `key` is not there.
    pub(crate) fn missing(&self, key: &'static str, rule: &str) {
        missing(self.section, self.place, key, rule);
    }

    fn url_rule(&self, text: &str) -> Result<(), BadValue> {
        target::url(text, self.allow_http).map(drop)
    }
}

/// How a server is reached.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Http {
    /// Proxy of all requests; without one there is none, whatever the environment says.
    pub proxy: Option<Secret>,
    /// Whether `http://` may lead to public addresses.
    pub allow_http: bool,
    /// Certificates.
    pub tls: Tls,
    /// Headers of every request.
    pub headers: Vec<(String, Secret)>,
    /// What the `Authorization` header says.
    pub auth: Option<Auth>,
}

/// The certificates of a connection over TLS.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tls {
    /// Authorities in PEM that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Certificate and key in PEM that this program shows.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// How this program says who it is.
#[derive(Debug, Clone, PartialEq)]
pub enum Auth {
    /// `Authorization: Bearer`.
    Bearer(Secret),
    /// `Authorization: Basic`.
    Basic {
        /// The user.
        username: String,
        /// Their password.
        password: Secret,
    },
}

/// Reads the keys of a server over HTTP.
pub(crate) fn http(section: &Section<'_>) -> Http {
    let mut http = Http {
        proxy: PROXY.read(section, |text| target::proxy(text).map(drop)),
        ..Http::default()
    };
    section.set("allow_http", &mut http.allow_http, section::flag);
    http.tls = tls(section);
    for item in section.list("headers", HEADERS_MAX) {
        let Some(header) = section.item(&item) else { continue };
        let name = header.read("name", |value| header_name(text(value)?));
        let value = HEADER_VALUE.need(&header, &item.place, |value| {
            let plain = value.bytes().all(|b| (0x20..0x7f).contains(&b));
            if plain { Ok(()) } else { Err("must be printable ASCII".into()) }
        });
        if header.node("name").is_none() {
            missing(&header, &item.place, "name", "must be given");
        }
        http.headers.extend(name.map(|at| at.value).zip(value));
    }
    let bearer = BEARER.read(section, |_| Ok(()));
    let basic = section.section("basic_auth").and_then(|basic| {
        let username = basic.read("username", |value| match text(value)? {
            "" => Err("must not be empty".into()),
            name if name.contains(':') => Err("must not hold a colon".into()),
            name => Ok(name.to_owned()),
        });
        let place = section.place("basic_auth");
        if basic.node("username").is_none() {
            missing(&basic, &place, "username", "must be given");
        }
        let password = PASSWORD.need(&basic, &place, |_| Ok(()));
        Some(Auth::Basic { username: username?.value, password: password? })
    });
    if bearer.is_some() && section.node("basic_auth").is_some() {
        let rule = "must not stand beside bearer_token: one of them is enough";
        section.add(section.place("basic_auth").wrong(rule));
    }
    http.auth = bearer.map(Auth::Bearer).or(basic);
    http
}

/// Reads the section `tls`.
pub(crate) fn tls(section: &Section<'_>) -> Tls {
    let Some(tls) = section.section("tls") else { return Tls::default() };
    let path = |key| Some(tls.read(key, |value| rules::absolute_path(text(value)?))?.value);
    let ca_file = path("ca_file");
    let (cert, key) = (path("cert_file"), path("key_file"));
    for (one, other) in [("cert_file", "key_file"), ("key_file", "cert_file")] {
        if tls.node(one).is_some() && tls.node(other).is_none() {
            tls.add(tls.place(one).wrong(format!("must stand together with {other}")));
        }
    }
    Tls { ca_file, identity: cert.zip(key) }
}

fn header_name(name: &str) -> Result<String, BadValue> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let own = ["host", "content-length", "content-type", "transfer-encoding", "connection"];
    if name.is_empty() || name.len() > 128 || !name.bytes().all(token) {
        return Err("must be the name of a header".into());
    }
    if own.contains(&name.to_ascii_lowercase().as_str()) {
        return Err("must be another header: this one is set by the program".into());
    }
    Ok(name.to_owned())
}

/// A secret has four keys, of which one may stand.
pub(crate) struct SecretKeys(pub(crate) [&'static str; 4]);

macro_rules! secret_keys {
    ($name:ident, $key:literal) => {
        pub(crate) const $name: $crate::deliver::receivers::keys::SecretKeys =
            $crate::deliver::receivers::keys::SecretKeys([
                $key,
                concat!($key, "_file"),
                concat!($key, "_env"),
                concat!($key, "_credential"),
            ]);
    };
}

pub(crate) use secret_keys;

secret_keys!(URL, "url");
secret_keys!(PASSWORD, "password");
secret_keys!(PROXY, "proxy");
secret_keys!(HEADER_VALUE, "value");
secret_keys!(BEARER, "bearer_token");

impl SecretKeys {
    /// The key and the place of `secret` as the file says them, the secret itself as `<secret>`.
    pub(crate) fn written(&self, secret: &Secret) -> (&'static str, String) {
        let [inline, file, env, credential] = self.0;
        match &secret.0 {
            Source::Inline(_) => (inline, SHOWN.to_owned()),
            Source::File(path) => (file, path.to_string_lossy().into_owned()),
            Source::Env(name) => (env, name.clone()),
            Source::Credential(name) => (credential, name.clone()),
        }
    }

    /// Reads whichever of the keys stands; `rule` judges one that stands in the file itself.
    pub(crate) fn read(
        &self,
        section: &Section<'_>,
        rule: impl Fn(&str) -> Result<(), BadValue>,
    ) -> Option<Secret> {
        let [inline, file, env, credential] = self.0;
        let given: Vec<&'static str> =
            self.0.into_iter().filter(|key| section.node(key).is_some()).collect();
        if let [first, second, ..] = given[..] {
            let rule = format!("must not stand beside {first}: one of them is enough");
            section.add(section.place(second).wrong(rule));
        }
        let plain = |value: &_| {
            let name = text(value)?;
            let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
            if (1..=255).contains(&name.len()) && !name.starts_with('.') && name.chars().all(good) {
                return Ok(name.to_owned());
            }
            Err("must be a name of A-Z a-z 0-9 _ . -".into())
        };
        let source = match *given.first()? {
            key if key == inline => {
                // What stands there is never shown, whatever is wrong with it.
                let node = section.node(key)?;
                let judged = text(&node.value).and_then(|value| match value {
                    SHOWN => Err("must be the secret itself: `config print` leaves it out".into()),
                    "" => Err("must not be empty".into()),
                    value => rule(value).map(|()| value.to_owned()),
                });
                match judged {
                    Ok(value) => Source::Inline(value),
                    Err(rule) => {
                        section.add(section.place(key).bad(SHOWN, rule));
                        return None;
                    }
                }
            }
            key if key == file => {
                Source::File(section.read(key, |v| rules::absolute_path(text(v)?))?.value)
            }
            key if key == env => Source::Env(section.read(env, plain)?.value),
            _ => Source::Credential(section.read(credential, plain)?.value),
        };
        Some(Secret(source))
    }

    /// The same for one that must be there.
    pub(crate) fn need(
        &self,
        section: &Section<'_>,
        place: &Place,
        rule: impl Fn(&str) -> Result<(), BadValue>,
    ) -> Option<Secret> {
        if self.0.into_iter().all(|key| section.node(key).is_none()) {
            let [inline, file, env, credential] = self.0;
            section.add(ConfigError {
                line: place.line,
                ..section
                    .place(inline)
                    .wrong(format!("must be given, or {file}, {env} or {credential}"))
            });
            return None;
        }
        self.read(section, rule)
    }
}

/// Reports at `place` that `key` is not there.
pub(crate) fn missing(section: &Section<'_>, place: &Place, key: &'static str, rule: &str) {
    section.add(ConfigError { line: place.line, ..section.place(key).wrong(rule) });
}

/// Keys and values in the order of the example.
pub(crate) struct Printed(Vec<(&'static str, Value)>);

impl Serialize for Printed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl Printed {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn put(&mut self, key: &'static str, value: impl Into<Value>) {
        self.0.push((key, value.into()));
    }

    pub(crate) fn secret(&mut self, keys: &SecretKeys, secret: Option<&Secret>) {
        if let Some((key, text)) = secret.map(|secret| keys.written(secret)) {
            self.put(key, text);
        }
    }

    pub(crate) fn tls(&mut self, certificates: &Tls) {
        let mut tls = serde_json::Map::new();
        let mut file = |key: &str, path: &std::path::Path| {
            tls.insert(key.to_owned(), json!(path.to_string_lossy()));
        };
        if let Some(path) = &certificates.ca_file {
            file("ca_file", path);
        }
        if let Some((cert, key)) = &certificates.identity {
            file("cert_file", cert);
            file("key_file", key);
        }
        self.put("tls", Value::Object(tls));
    }

    pub(crate) fn http(&mut self, http: &Http) {
        self.secret(&PROXY, http.proxy.as_ref());
        self.put("allow_http", json!(http.allow_http));
        self.tls(&http.tls);
        let header = |(name, value): &(String, Secret)| {
            let (key, text) = HEADER_VALUE.written(value);
            json!({"name": name, key: text})
        };
        self.put("headers", http.headers.iter().map(header).collect::<Vec<_>>());
        match &http.auth {
            None => {}
            Some(Auth::Bearer(token)) => self.secret(&BEARER, Some(token)),
            Some(Auth::Basic { username, password }) => {
                let (key, text) = PASSWORD.written(password);
                self.put("basic_auth", json!({"username": username, key: text}));
            }
        }
    }
}

const HEADERS_MAX: usize = 32;
