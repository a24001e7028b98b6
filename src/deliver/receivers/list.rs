//! The list `receivers` of the configuration: what every kind has, and which kind each receiver is.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{Declared, Hears, KINDS, Kind, keys::Http};
use crate::{
    alert::outbox::policy::Policy,
    facts::{bad_value::BadValue, duration},
    findings::Severity,
    keys::{
        key::{self, Declared as _, Key, Written, choice, keys, span, switch, word},
        report::{At, Place, Report},
        rules,
        section::{self, Section},
        yaml::{Node, Value},
    },
};

keys! {
    /// What makes it a receiver.
    struct Head {
        /// What labels and logs call it: 1 to 64 of A-Z a-z 0-9 _ . -
        name: Option<At<String>> = None, word("name", |name| rules::store_name(name).map(str::to_owned))
            .placed().optional().required("must be given: what labels and logs call it");
        /// Its kind.
        kind as "type": Option<&'static Declared> = None, choice(KINDS, |kind| kind.word)
            .optional().required("must be given: slack, webhook, …");
    }
}

keys! {
    /// Which alerts are sent to it. A heartbeat has none of these keys.
    struct Filter {
        /// Alerts below this are not sent.
        min_severity: Severity = Severity::Warning, choice(&SEVERITIES, Severity::as_str);
        /// Shell patterns of names of stores. Alerts of others are not sent.
        stores: Vec<glob::Pattern> = glob::Pattern::new("*").into_iter().collect(), patterns();
        /// Whether it gets a message when an alert ends.
        send_resolved: bool = true, switch();
    }
}

keys! {
    /// How often it is sent something.
    struct Pace {
        /// An unchanged alert is sent again after this. For a heartbeat, the time between two requests.
        repeat_interval: Option<Duration> = None, span(Duration::from_secs(1)..=Duration::from_hours(365 * 24))
            .optional().otherwise("`4h`; alertmanager and heartbeat: `1m`");
        /// Shortest time between two messages about the same rule of the same store.
        group_interval: Option<Duration> = None, span(Duration::ZERO..=Duration::from_hours(1))
            .optional().otherwise("`10s`; alertmanager: `0s`");
        /// Longest time of one attempt.
        timeout: Option<Duration> = None, timeout().otherwise("`10s`; command: `30s`; email: `1m`");
    }
}

/// How long it may be depends on the kind.
fn timeout() -> key::Kind<Option<Duration>> {
    let read = |section: &Section<'_>, key| {
        let kind = choice(KINDS, |kind| kind.word).peek(section, "type")?;
        span(Duration::from_millis(100)..=kind.timeout_max).read(section, key).map(Some)
    };
    let write = |time: &Option<Duration>| time.map(|time| Written::Text(duration::format(time)));
    key::Kind::custom("duration, 100ms to 2m; email: 10m; command: 1h", read, write)
}

/// The keys that every receiver has, those of a server over HTTP, and those of each kind.
pub(crate) fn all_keys() -> Vec<(String, Vec<Key>)> {
    let every = [Head::keys(), Filter::keys(), Pace::keys()].concat();
    let over_http: Vec<&str> =
        KINDS.iter().filter(|kind| kind.http).map(|kind| kind.word).collect();
    let http = format!("Over HTTP ({})", over_http.join(", "));
    let mut all = vec![("Every receiver".to_owned(), every), (http, Http::keys())];
    all.extend(KINDS.iter().map(|kind| (format!("`type: {}`", kind.word), (kind.keys)())));
    all
}

const SEVERITIES: [Severity; 3] = [Severity::Info, Severity::Warning, Severity::Critical];

/// One receiver of alerts.
#[derive(Debug, Clone)]
pub struct Receiver {
    /// Its name in labels, logs and commands: 1 to 64 of `[A-Za-z0-9_.-]`, unique.
    pub name: Arc<str>,
    /// What its kind declares.
    pub(crate) declared: &'static Declared,
    /// What only its kind needs.
    pub(crate) kind: Arc<dyn Kind>,
    /// Alerts below this are not sent to it.
    pub min_severity: Severity,
    /// Shell patterns of names of stores; alerts of other stores are not sent to it.
    pub stores: Vec<glob::Pattern>,
    /// Whether it gets a message when an alert ends.
    pub send_resolved: bool,
    /// Time after which an unchanged alert is sent again; for a heartbeat the time between two pings.
    pub repeat_interval: Duration,
    /// Shortest time between two messages about the same rule of the same store, and between two summaries of a storm.
    pub group_interval: Duration,
    /// Longest time of one attempt, or of the command.
    pub timeout: Duration,
    /// How its server is reached; the defaults for a kind that needs no HTTP.
    pub http: Http,
}

/// Whether two of them are configured alike.
impl PartialEq for Receiver {
    fn eq(&self, other: &Self) -> bool {
        let Self {
            name,
            declared,
            kind,
            min_severity,
            stores,
            send_resolved,
            repeat_interval,
            group_interval,
            timeout,
            http,
        } = self;
        *name == other.name
            && declared.word == other.declared.word
            && kind.same(&*other.kind)
            && *min_severity == other.min_severity
            && *stores == other.stores
            && *send_resolved == other.send_resolved
            && *repeat_interval == other.repeat_interval
            && *group_interval == other.group_interval
            && *timeout == other.timeout
            && *http == other.http
    }
}

impl Receiver {
    /// The word of `type`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        self.declared.word
    }

    /// What it hears of.
    pub(crate) fn hears(&self) -> Hears {
        self.declared.hears
    }

    /// Whether alerts of this store and severity are for it.
    #[must_use]
    pub fn wants(&self, store: &str, severity: Severity) -> bool {
        severity >= self.min_severity && self.stores.iter().any(|pattern| pattern.matches(store))
    }

    /// Its notification policy: what its kind needs, and what the operator configured.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy {
            min_severity: self.min_severity,
            stores: self.stores.clone(),
            send_resolved: self.send_resolved,
            repeat: self.repeat_interval,
            group_interval: self.group_interval,
            ..self.kind.policy()
        }
    }

    /// As the file says it, secrets as places or `<secret>`.
    pub(crate) fn written(&self) -> Written {
        let nowhere = Place::outside("");
        let name = Some(At { value: self.name.to_string(), place: nowhere });
        let mut keys = Head { name, kind: Some(self.declared) }.written().into_keys();
        keys.extend(self.kind.written().into_keys());
        if self.hears() == Hears::Alerts {
            let Self { min_severity, send_resolved, .. } = *self;
            let stores = self.stores.clone();
            keys.extend(Filter { min_severity, stores, send_resolved }.written().into_keys());
        }
        let pace = Pace {
            repeat_interval: Some(self.repeat_interval),
            group_interval: Some(self.group_interval),
            timeout: Some(self.timeout),
        };
        keys.extend(pace.written().into_keys());
        if self.declared.http {
            keys.extend(self.http.written().into_keys());
        }
        Written::Keys(keys)
    }
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

/// Reads the list. What is wrong is reported and left out.
pub(crate) fn read(top: &Section<'_>) -> Vec<Arc<Receiver>> {
    let mut receivers: Vec<Arc<Receiver>> = Vec::new();
    let mut names: BTreeMap<String, Place> = BTreeMap::new();
    for item in top.list("receivers", RECEIVERS_MAX) {
        let Some(section) = top.item(&item) else { continue };
        let Head { name, kind } = Head::read(&section);
        if let Some(At { value, place }) = &name {
            if let Some(first) = names.get(value) {
                let rule = format!("must be unique, and {} has it too", first.field);
                section.add(place.bad(value, rule));
            } else {
                names.insert(value.clone(), item.place.clone());
            }
        }
        let Some(declared) = kind else {
            // Without it nobody knows which keys are right.
            section.ignore_rest();
            continue;
        };
        let receiver = receiver(&section, declared);
        if let (Some(name), Some(receiver)) = (name, receiver) {
            receivers.push(Arc::new(Receiver { name: name.value.into(), ..receiver }));
        }
    }
    receivers
}

/// A receiver without its name.
fn receiver(section: &Section<'_>, declared: &'static Declared) -> Option<Receiver> {
    let filter =
        if declared.hears == Hears::Alerts { Filter::read(section) } else { Filter::default() };
    let pace = Pace::read(section);
    let http = if declared.http { Http::read(section) } else { Http::default() };
    Some(Receiver {
        name: Arc::default(),
        declared,
        kind: (declared.read)(section)?,
        min_severity: filter.min_severity,
        stores: filter.stores,
        send_resolved: filter.send_resolved,
        repeat_interval: pace.repeat_interval.unwrap_or(declared.repeat_interval),
        group_interval: pace.group_interval.unwrap_or(declared.group_interval),
        timeout: pace.timeout.unwrap_or(declared.timeout),
        http,
    })
}

fn patterns() -> key::Kind<Vec<glob::Pattern>> {
    let pattern = |text: &str| {
        glob::Pattern::new(text)
            .map_err(|_| BadValue::Rule("must be a shell pattern such as docs-*"))
    };
    let read = move |section: &Section<'_>, key| {
        section.node(key)?;
        if section.is_empty_list(key) {
            let rule = "must name at least one store or pattern";
            section.add(section.place(key).wrong(rule));
        }
        Some(section::texts(section, key, PATTERNS_MAX, pattern))
    };
    let write = |patterns: &Vec<glob::Pattern>| {
        let text = |pattern: &glob::Pattern| Written::Text(pattern.as_str().to_owned());
        Some(Written::List(patterns.iter().map(text).collect()))
    };
    key::Kind::custom(format!("list of shell patterns, at most {PATTERNS_MAX}"), read, write)
}

const RECEIVERS_MAX: usize = 64;
const PATTERNS_MAX: usize = 100;

#[cfg(test)]
mod tests;
