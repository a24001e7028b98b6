//! What the kinds declare their keys with: secrets, and the keys of a server over HTTP.

use std::path::{Path, PathBuf};

use crate::{
    facts::bad_value::BadValue,
    keys::{
        key::{Declared, Kind, Written, keys, path, plain_items, section, switch, word},
        rules,
        secret::{SHOWN, Secret, Source},
        section::{self, Section, text},
        target,
    },
};

keys! {
    /// How a server over HTTP is reached.
    pub struct Http {
        /// A proxy for every request: http, https, socks5 or socks5h. Without it none is used, whatever the environment says.
        proxy: Option<Secret> = None, secret(&PROXY, |_, text| target::proxy(text).map(drop)).optional();
        /// Whether http:// may lead to public addresses. Loopback and private ones are always allowed.
        allow_http: bool = false, switch();
        /// Certificates.
        tls: Tls = Tls::default(), section();
        /// Headers of every request.
        headers: Vec<Header> = Vec::new(), plain_items(HEADERS_MAX);
        /// Token of the header Authorization: Bearer.
        bearer_token: Option<Secret> = None, secret(&BEARER, |_, _| Ok(())).optional();
        /// User and password, instead of a token.
        basic_auth: Option<BasicAuth> = None, basic_auth();
    }
}

keys! {
    /// The certificates of a connection over TLS, in PEM. The files are read again when they change.
    pub struct Tls {
        /// Authorities that are trusted besides the system's.
        ca_file: Option<PathBuf> = None, path().optional();
        /// A certificate that is shown to the server.
        cert_file: Option<PathBuf> = None, together_with("key_file");
        /// Its key.
        key_file: Option<PathBuf> = None, together_with("cert_file");
    }
}

keys! {
    /// One header.
    pub struct Header {
        /// Its name.
        name: String = String::new(), word("name of a header", header_name).required("must be given");
        /// What it says.
        value: Secret = Secret::default(), needed(&HEADER_VALUE, |_, value| printable(value));
    }
}

keys! {
    /// Who this program is to a server.
    pub struct BasicAuth {
        /// The user.
        username: String = String::new(), word("name without a colon", user_name).required("must be given");
        /// Their password.
        password: Secret = Secret::default(), needed(&PASSWORD, |_, _| Ok(()));
    }
}

impl Tls {
    /// Certificate and key that this program shows, if any.
    #[must_use]
    pub fn identity(&self) -> Option<(&Path, &Path)> {
        self.cert_file.as_deref().zip(self.key_file.as_deref())
    }
}

fn together_with(other: &'static str) -> Kind<Option<PathBuf>> {
    let read = move |section: &Section<'_>, key| {
        if section.node(key).is_some() && section.node(other).is_none() {
            section.add(section.place(key).wrong(format!("must stand together with {other}")));
        }
        path().read(section, key).map(Some)
    };
    let write = |file: &Option<PathBuf>| file.as_deref().map(Written::path);
    Kind::custom("absolute path", read, write)
}

fn basic_auth() -> Kind<Option<BasicAuth>> {
    let read = |section: &Section<'_>, key| {
        let below = section.section(key)?;
        if BEARER.stands(section) {
            let rule = "must not stand beside bearer_token: one of them is enough";
            section.add(section.place(key).wrong(rule));
        }
        Some(Some(BasicAuth::read(&below)))
    };
    let write = |auth: &Option<BasicAuth>| auth.as_ref().map(Declared::written);
    Kind::custom("section", read, write).with(BasicAuth::keys())
}

/// The address of a server over HTTP.
pub(crate) fn url() -> Kind<Secret> {
    needed(&URL, url_rule)
}

/// The same for a kind that has an address of its own.
pub(crate) fn own_url() -> Kind<Option<Secret>> {
    secret(&URL, url_rule).optional()
}

fn url_rule(section: &Section<'_>, text: &str) -> Result<(), BadValue> {
    let allowed = section.node("allow_http").map(|node| section::flag(&node.value));
    target::url(text, matches!(allowed, Some(Ok(true)))).map(drop)
}

/// A secret; `rule` judges one that stands in the file itself.
pub(crate) fn secret(
    keys: &'static SecretKeys,
    rule: impl Fn(&Section<'_>, &str) -> Result<(), BadValue> + 'static,
) -> Kind<Secret> {
    let read = move |section: &Section<'_>, _| keys.read(section, |text| rule(section, text));
    Kind::custom("secret", read, move |secret| keys.written(secret))
}

/// A secret that must be given.
pub(crate) fn needed(
    keys: &'static SecretKeys,
    rule: impl Fn(&Section<'_>, &str) -> Result<(), BadValue> + 'static,
) -> Kind<Secret> {
    let read = move |section: &Section<'_>, _| keys.need(section, |text| rule(section, text));
    Kind::custom("secret", read, move |secret| keys.written(secret))
}

fn printable(value: &str) -> Result<(), BadValue> {
    let plain = value.bytes().all(|b| (0x20..0x7f).contains(&b));
    if plain { Ok(()) } else { Err("must be printable ASCII".into()) }
}

fn user_name(name: &str) -> Result<String, BadValue> {
    match name {
        "" => Err("must not be empty".into()),
        name if name.contains(':') => Err("must not hold a colon".into()),
        name => Ok(name.to_owned()),
    }
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
    /// The place of `secret` as the file says it, the secret itself as `<secret>`; `None` where none was given.
    pub(crate) fn written(&self, secret: &Secret) -> Option<Written> {
        let [inline, file, env, credential] = self.0;
        let (key, text) = match &secret.0 {
            Source::Inline(text) if text.is_empty() => return None,
            Source::Inline(_) => (inline, SHOWN.to_owned()),
            Source::File(path) => (file, path.to_string_lossy().into_owned()),
            Source::Env(name) => (env, name.clone()),
            Source::Credential(name) => (credential, name.clone()),
        };
        Some(Written::Elsewhere(key, Box::new(Written::Text(text))))
    }

    /// Whether any of the keys stands.
    pub(crate) fn stands(&self, section: &Section<'_>) -> bool {
        self.0.into_iter().any(|key| section.node(key).is_some())
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
        rule: impl Fn(&str) -> Result<(), BadValue>,
    ) -> Option<Secret> {
        if !self.stands(section) {
            let [inline, file, env, credential] = self.0;
            let rule = format!("must be given, or {file}, {env} or {credential}");
            section.missing(inline, &rule);
            return None;
        }
        self.read(section, rule)
    }
}

const HEADERS_MAX: usize = 32;
