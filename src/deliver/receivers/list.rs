//! The list `receivers` of the configuration: what every kind has, and which kind each receiver is.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    Declared, Hears, KINDS, Kind,
    keys::{self, Http, Keys, Printed, missing},
};
use crate::{
    alert::outbox::policy::Policy,
    facts::duration,
    findings::Severity,
    keys::{
        report::{At, Place, Report},
        rules,
        section::{self, Section, shown, text},
        yaml::{Node, Value},
    },
};

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
    pub(crate) fn printed(&self) -> Printed {
        let mut out = Printed::new();
        out.put("name", &*self.name);
        out.put("type", self.declared.word);
        self.kind.print(&mut out);
        if self.hears() == Hears::Alerts {
            let stores: Vec<_> = self.stores.iter().map(glob::Pattern::as_str).collect();
            out.put("min_severity", self.min_severity.as_str());
            out.put("stores", stores);
            out.put("send_resolved", self.send_resolved);
        }
        out.put("repeat_interval", duration::format(self.repeat_interval));
        out.put("group_interval", duration::format(self.group_interval));
        out.put("timeout", duration::format(self.timeout));
        if self.declared.http {
            out.http(&self.http);
        }
        out
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
        let of = section.read("type", section::choice(KINDS, |kind: &Declared| kind.word));
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

/// A receiver without its name.
fn receiver(section: &Section<'_>, place: &Place, declared: &'static Declared) -> Option<Receiver> {
    let mut min_severity = Severity::Warning;
    let mut send_resolved = true;
    let mut stores = glob::Pattern::new("*").ok().map(|all| vec![all]);
    if declared.hears == Hears::Alerts {
        let choices = [Severity::Info, Severity::Warning, Severity::Critical];
        section.set("min_severity", &mut min_severity, section::choice(&choices, Severity::as_str));
        section.set("send_resolved", &mut send_resolved, section::flag);
        if section.node("stores").is_some() {
            stores = patterns(section);
        }
    }
    let Declared { mut repeat_interval, mut group_interval, mut timeout, timeout_max, .. } =
        *declared;
    let range = Duration::from_secs(1)..=Duration::from_hours(365 * 24);
    section.set("repeat_interval", &mut repeat_interval, section::duration(range));
    let range = Duration::ZERO..=Duration::from_hours(1);
    section.set("group_interval", &mut group_interval, section::duration(range));
    let range = Duration::from_millis(100)..=timeout_max;
    section.set("timeout", &mut timeout, section::duration(range));
    let http = if declared.http { keys::http(section) } else { Http::default() };
    let keys = Keys { section, place, allow_http: http.allow_http };
    let kind = (declared.read)(&keys)?;
    Some(Receiver {
        name: Arc::default(),
        declared,
        kind,
        min_severity,
        stores: stores?,
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

const RECEIVERS_MAX: usize = 64;
const PATTERNS_MAX: usize = 100;

#[cfg(test)]
mod tests;
