//! The list `receivers` of the configuration: who is told of alerts, and how.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use crate::{
    config::{
        ConfigError,
        report::{At, Place, Report},
        rules,
        secret::{SHOWN, Secret, Source},
        section::{self, Section, duration, shown, text},
        target,
        yaml::{Node, Value},
    },
    findings::Severity,
};

/// One receiver of alerts.
#[derive(Debug, Clone, PartialEq)]
pub struct Receiver {
    /// Its name in labels, logs and commands: 1 to 64 of `[A-Za-z0-9_.-]`, unique.
    pub name: Arc<str>,
    /// What it is and what only its kind needs.
    pub kind: Kind,
    /// Alerts below this are not sent to it.
    pub min_severity: Severity,
    /// Shell patterns of names of stores; alerts of other stores are not sent to it.
    pub stores: Vec<glob::Pattern>,
    /// Whether it is told when an alert ends.
    pub send_resolved: bool,
    /// Time after which an unchanged alert is told again; for a heartbeat the time between two pings.
    pub repeat_interval: Duration,
    /// Shortest time between two messages about the same rule of the same store, and between two summaries of a storm.
    pub group_interval: Duration,
    /// Longest time of one attempt, or of the command.
    pub timeout: Duration,
    /// How its server is reached; the defaults for a command.
    pub http: Http,
}

impl Receiver {
    /// Whether alerts of this store and severity are for it.
    #[must_use]
    pub fn wants(&self, store: &str, severity: Severity) -> bool {
        severity >= self.min_severity && self.stores.iter().any(|pattern| pattern.matches(store))
    }
}

/// What a receiver is, with what only this kind needs.
#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Incoming webhook of Slack.
    Slack {
        /// The webhook.
        url: Secret,
    },
    /// Incoming webhook of a program that takes Slack's older form, or its own.
    Compatible {
        /// Which program.
        flavour: Flavour,
        /// The webhook.
        url: Secret,
    },
    /// Alertmanager's webhook JSON, version 4.
    Webhook {
        /// Where it is posted.
        url: Secret,
        /// Keys of Standard-Webhooks signatures: none, one, or the new and the old during a rotation.
        signing_keys: Vec<Secret>,
    },
    /// One Alertmanager; each replica is a receiver of its own.
    Alertmanager {
        /// Its address, with the prefix that it is served below.
        url: Secret,
        /// Labels that every alert gets.
        labels: BTreeMap<String, String>,
    },
    /// `PagerDuty`, Events API v2.
    PagerDuty {
        /// Where events are posted; `None` is `PagerDuty`'s own.
        url: Option<Secret>,
        /// Integration key of the service.
        routing_key: Secret,
    },
    /// A local program that reads JSON on its standard input.
    Command {
        /// Program and arguments; no shell sees them.
        command: Vec<String>,
    },
    /// A URL that is asked for as long as all is well, so that somebody else notices when it is not.
    Heartbeat {
        /// What is asked for.
        url: Secret,
        /// Whether with POST instead of GET.
        post: bool,
    },
}

/// Programs that take Slack's older form, or nearly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// Slack's form without blocks, with Markdown.
    Mattermost,
    /// Slack's form without blocks.
    RocketChat,
    /// Embeds of its own.
    Discord,
}

/// How a server is reached.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Http {
    /// Proxy of all requests; without one there is none, whatever the environment says.
    pub proxy: Option<Secret>,
    /// Whether `http://` may lead to public addresses.
    pub allow_http: bool,
    /// Authorities in PEM that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    /// Certificate and key in PEM that this program shows.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Headers of every request.
    pub headers: Vec<(String, Secret)>,
    /// What the `Authorization` header says.
    pub auth: Option<Auth>,
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

/// Notes every text of the list `receivers` that looks like an address, so that no problem shows it: it is put into wrong places
/// more often than into the right one.
pub(crate) fn hide_addresses(top: &Section<'_>, report: &Report) {
    let mut waiting: Vec<&Node> = top.node("receivers").into_iter().collect();
    while let Some(node) = waiting.pop() {
        match &node.value {
            Value::Scalar(scalar) => report.hide(&scalar.text),
            Value::List(items) => waiting.extend(items),
            Value::Mapping(entries) => {
                for (key, node) in entries {
                    report.hide(&key.text);
                    waiting.push(node);
                }
            }
        }
    }
}

/// The words of `type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    Slack,
    Mattermost,
    RocketChat,
    Discord,
    Webhook,
    Alertmanager,
    PagerDuty,
    Command,
    Heartbeat,
}

impl Type {
    const ALL: [Self; 9] = [
        Self::Slack,
        Self::Mattermost,
        Self::RocketChat,
        Self::Discord,
        Self::Webhook,
        Self::Alertmanager,
        Self::PagerDuty,
        Self::Command,
        Self::Heartbeat,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Slack => "slack",
            Self::Mattermost => "mattermost",
            Self::RocketChat => "rocketchat",
            Self::Discord => "discord",
            Self::Webhook => "webhook",
            Self::Alertmanager => "alertmanager",
            Self::PagerDuty => "pagerduty",
            Self::Command => "command",
            Self::Heartbeat => "heartbeat",
        }
    }

    /// Alertmanager groups by itself.
    const fn group_interval(self) -> Duration {
        match self {
            Self::Alertmanager => Duration::ZERO,
            _ => Duration::from_secs(10),
        }
    }

    /// Alertmanager forgets what is not told again; people do not.
    const fn repeat_interval(self) -> Duration {
        match self {
            Self::Alertmanager | Self::Heartbeat => Duration::from_mins(1),
            _ => Duration::from_hours(4),
        }
    }
}

impl Kind {
    /// The word of `type`.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        self.word().as_str()
    }

    fn word(&self) -> Type {
        match self {
            Self::Slack { .. } => Type::Slack,
            Self::Compatible { flavour: Flavour::Mattermost, .. } => Type::Mattermost,
            Self::Compatible { flavour: Flavour::RocketChat, .. } => Type::RocketChat,
            Self::Compatible { flavour: Flavour::Discord, .. } => Type::Discord,
            Self::Webhook { .. } => Type::Webhook,
            Self::Alertmanager { .. } => Type::Alertmanager,
            Self::PagerDuty { .. } => Type::PagerDuty,
            Self::Command { .. } => Type::Command,
            Self::Heartbeat { .. } => Type::Heartbeat,
        }
    }
}

/// A secret has four keys, of which one may stand.
pub(crate) struct SecretKeys([&'static str; 4]);

macro_rules! secret_keys {
    ($name:ident, $key:literal) => {
        pub(crate) const $name: SecretKeys = SecretKeys([
            $key,
            concat!($key, "_file"),
            concat!($key, "_env"),
            concat!($key, "_credential"),
        ]);
    };
}

secret_keys!(URL, "url");
secret_keys!(PROXY, "proxy");
secret_keys!(HEADER_VALUE, "value");
secret_keys!(BEARER, "bearer_token");
secret_keys!(PASSWORD, "password");
secret_keys!(SIGNING, "signing_key");
secret_keys!(SIGNING_OLD, "signing_key_old");
secret_keys!(ROUTING, "routing_key");

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
    fn read(
        &self,
        section: &Section<'_>,
        rule: impl Fn(&str) -> Result<(), String>,
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
            Err("must be a name of A-Z a-z 0-9 _ . -".to_owned())
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
    fn need(
        &self,
        section: &Section<'_>,
        place: &Place,
        rule: impl Fn(&str) -> Result<(), String>,
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

/// Reads the list. What is wrong is reported and left out.
pub(crate) fn read(top: &Section<'_>) -> Vec<Arc<Receiver>> {
    let mut receivers: Vec<Arc<Receiver>> = Vec::new();
    let mut names: BTreeMap<String, Place> = BTreeMap::new();
    for item in top.list("receivers", RECEIVERS_MAX) {
        let Some(section) = top.item(&item) else { continue };
        let name = section.read("name", |value| Ok(rules::store_name(text(value)?)?.to_owned()));
        if section.node("name").is_none() {
            missing(&section, &item.place, "name", "must be given: what labels and logs call it");
        }
        if let Some(At { value, place }) = &name {
            if let Some(first) = names.get(value) {
                let rule = format!("must be unique, and {} has it too", first.field);
                section.add(place.bad(value, rule));
            } else {
                names.insert(value.clone(), item.place.clone());
            }
        }
        let of = section.read("type", section::choice(&Type::ALL, Type::as_str));
        if section.node("type").is_none() {
            missing(&section, &item.place, "type", "must be given: slack, webhook, …");
        }
        let Some(of) = of else {
            // Without it nobody knows which keys are right.
            section.ignore_rest();
            continue;
        };
        let receiver = receiver(&section, &item.place, of.value);
        if let (Some(name), Some(receiver)) = (name, receiver) {
            receivers.push(Arc::new(Receiver { name: name.value.into(), ..receiver }));
        }
    }
    receivers
}

fn missing(section: &Section<'_>, place: &Place, key: &'static str, rule: &str) {
    section.add(ConfigError { line: place.line, ..section.place(key).wrong(rule) });
}

/// A receiver without its name.
fn receiver(section: &Section<'_>, place: &Place, of: Type) -> Option<Receiver> {
    let (heartbeat, command) = (of == Type::Heartbeat, of == Type::Command);
    let mut min_severity = Severity::Warning;
    let mut send_resolved = true;
    let mut stores = glob::Pattern::new("*").ok().map(|all| vec![all]);
    if !heartbeat {
        let choices = [Severity::Info, Severity::Warning, Severity::Critical];
        section.set("min_severity", &mut min_severity, section::choice(&choices, Severity::as_str));
        section.set("send_resolved", &mut send_resolved, section::flag);
        if section.node("stores").is_some() {
            stores = patterns(section);
        }
    }
    let mut repeat_interval = of.repeat_interval();
    let range = Duration::from_secs(1)..=Duration::from_hours(365 * 24);
    section.set("repeat_interval", &mut repeat_interval, duration(range));
    let mut group_interval = of.group_interval();
    section.set(
        "group_interval",
        &mut group_interval,
        duration(Duration::ZERO..=Duration::from_hours(1)),
    );
    let mut timeout = Duration::from_secs(if command { 30 } else { 10 });
    let longest = if command { Duration::from_hours(1) } else { Duration::from_mins(2) };
    section.set("timeout", &mut timeout, duration(Duration::from_millis(100)..=longest));
    let http = if command { Http::default() } else { http(section) };
    let allow_http = http.allow_http;
    let url_rule = |text: &str| target::url(text, allow_http).map(drop).map_err(str::to_owned);
    let any = |_: &str| Ok(());
    let url = || URL.need(section, place, url_rule);
    let kind = match of {
        Type::Slack => url().map(|url| Kind::Slack { url }),
        Type::Mattermost => url().map(|url| Kind::Compatible { flavour: Flavour::Mattermost, url }),
        Type::RocketChat => url().map(|url| Kind::Compatible { flavour: Flavour::RocketChat, url }),
        Type::Discord => url().map(|url| Kind::Compatible { flavour: Flavour::Discord, url }),
        Type::Webhook => {
            let keys =
                [SIGNING.read(section, signing_rule), SIGNING_OLD.read(section, signing_rule)];
            url().map(|url| Kind::Webhook {
                url,
                signing_keys: keys.into_iter().flatten().collect(),
            })
        }
        Type::Alertmanager => {
            let labels = labels(section);
            url().map(|url| Kind::Alertmanager { url, labels })
        }
        Type::PagerDuty => {
            let url = URL.read(section, url_rule);
            let key = ROUTING.need(section, place, any);
            key.map(|routing_key| Kind::PagerDuty { url, routing_key })
        }
        Type::Command => self::command(section, place).map(|command| Kind::Command { command }),
        Type::Heartbeat => {
            let mut post = false;
            section.set(
                "method",
                &mut post,
                section::choice(&[false, true], |post| if post { "POST" } else { "GET" }),
            );
            url().map(|url| Kind::Heartbeat { url, post })
        }
    };
    let kind = kind?;
    let stores = stores?;
    let name = Arc::default();
    Some(Receiver {
        name,
        kind,
        min_severity,
        stores,
        send_resolved,
        repeat_interval,
        group_interval,
        timeout,
        http,
    })
}

fn patterns(section: &Section<'_>) -> Option<Vec<glob::Pattern>> {
    let mut all = Vec::new();
    let items = section.list("stores", PATTERNS_MAX);
    let count = items.len();
    for At { value: node, place } in items {
        let pattern = text(&node.value).and_then(|text| {
            glob::Pattern::new(text).map_err(|_| "must be a shell pattern such as docs-*".into())
        });
        match pattern {
            Ok(pattern) => all.push(pattern),
            Err(rule) => section.add(place.bad(shown(&node.value), rule)),
        }
    }
    if count == 0 {
        section.add(section.place("stores").wrong("must name at least one store or pattern"));
    }
    (all.len() == count && count > 0).then_some(all)
}

fn http(section: &Section<'_>) -> Http {
    let mut http = Http {
        proxy: PROXY.read(section, |text| target::proxy(text).map(drop).map_err(str::to_owned)),
        ..Http::default()
    };
    section.set("allow_http", &mut http.allow_http, section::flag);
    if let Some(tls) = section.section("tls") {
        let path = |key| Some(tls.read(key, |value| rules::absolute_path(text(value)?))?.value);
        http.ca_file = path("ca_file");
        let (cert, key) = (path("cert_file"), path("key_file"));
        for (one, other) in [("cert_file", "key_file"), ("key_file", "cert_file")] {
            if tls.node(one).is_some() && tls.node(other).is_none() {
                tls.add(tls.place(one).wrong(format!("must stand together with {other}")));
            }
        }
        http.identity = cert.zip(key);
    }
    for item in section.list("headers", HEADERS_MAX) {
        let Some(header) = section.item(&item) else { continue };
        let name = header.read("name", |value| header_name(text(value)?));
        let value = HEADER_VALUE.need(&header, &item.place, |value| {
            let plain = value.bytes().all(|b| (0x20..0x7f).contains(&b));
            if plain { Ok(()) } else { Err("must be printable ASCII".to_owned()) }
        });
        if header.node("name").is_none() {
            missing(&header, &item.place, "name", "must be given");
        }
        http.headers.extend(name.map(|at| at.value).zip(value));
    }
    let bearer = BEARER.read(section, |_| Ok(()));
    let basic = section.section("basic_auth").and_then(|basic| {
        let username = basic.read("username", |value| match text(value)? {
            "" => Err("must not be empty".to_owned()),
            name if name.contains(':') => Err("must not hold a colon".to_owned()),
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

fn header_name(name: &str) -> Result<String, String> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let own = ["host", "content-length", "content-type", "transfer-encoding", "connection"];
    if name.is_empty() || name.len() > 128 || !name.bytes().all(token) {
        return Err("must be the name of a header".to_owned());
    }
    if own.contains(&name.to_ascii_lowercase().as_str()) {
        return Err("must be another header: this one is set by the program".to_owned());
    }
    Ok(name.to_owned())
}

/// Standard-Webhooks keys carry 24 to 64 bytes as base64 behind `whsec_`; other text is the key as it stands.
fn signing_rule(text: &str) -> Result<(), String> {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    match text.strip_prefix("whsec_").map(|rest| BASE64_STANDARD.decode(rest)) {
        Some(Err(_)) => Err("must be base64 after whsec_".to_owned()),
        _ => Ok(()),
    }
}

fn labels(section: &Section<'_>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for (name, At { value: node, place }) in section.pairs("labels", LABELS_MAX) {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        if !name.bytes().all(word) || name.starts_with(|c: char| c.is_ascii_digit()) {
            section.add(place.wrong("must be a label name of a-z A-Z 0-9 _"));
            continue;
        }
        match text(&node.value) {
            Ok(value) if value.len() <= 1024 => drop(labels.insert(name, value.to_owned())),
            Ok(_) => section.add(place.wrong("must be at most 1024 bytes")),
            Err(rule) => section.add(place.bad(shown(&node.value), rule)),
        }
    }
    labels
}

fn command(section: &Section<'_>, place: &Place) -> Option<Vec<String>> {
    const RULE: &str = "must be a list: an absolute path of a program, then its arguments";
    if section.node("command").is_none() {
        missing(section, place, "command", "must be given: program and arguments as a list");
        return None;
    }
    let items: Vec<At<&Node>> = section.list("command", ARGUMENTS_MAX);
    let mut words = Vec::new();
    for At { value: node, place } in &items {
        let first = words.is_empty();
        let word = text(&node.value).and_then(|text| match text {
            _ if text.contains('\0') => Err("must not hold a NUL".to_owned()),
            _ if first => Ok(rules::absolute_path(text)?.to_string_lossy().into_owned()),
            _ => Ok(text.to_owned()),
        });
        match word {
            Ok(word) => words.push(word),
            Err(rule) => {
                section.add(place.bad(shown(&node.value), rule));
                return None;
            }
        }
    }
    if words.is_empty() {
        section.add(section.place("command").wrong(RULE));
        return None;
    }
    Some(words)
}

const RECEIVERS_MAX: usize = 64;
const PATTERNS_MAX: usize = 100;
const HEADERS_MAX: usize = 32;
const LABELS_MAX: usize = 32;
const ARGUMENTS_MAX: usize = 256;

#[cfg(test)]
mod tests;
