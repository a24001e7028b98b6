//! The section `alerts` of the configuration: what every message says of this host, and changes of the rules.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::Disk;
use crate::{
    alert::{
        builtin::{self, DiskLevels},
        rule::{Comparison, Level, On, Rule},
    },
    facts::bad_value::BadValue,
    findings::{Code, Severity},
    format::words,
    keys::{
        key::{Declared, Kind, Written, choice, keys, span, switch, word},
        section::Section,
        yaml::{Scalar, ScalarKind, Value},
    },
    sample::{Desc, HEALTH},
};

keys! {
    /// What the alert hooks are told.
    pub struct Alerts {
        /// How messages call this host. Without it, its own name.
        host: Option<String> = None, word("one line", |text| one_line(text, 253)).optional().example("db1");
        /// Base of the links to the status page. Without it, the address of `web.listen_addresses`, unless that is for this host alone.
        external_url: String = String::new(), base_url().example("https://monitor.example.org/chroma");
        /// Base of the links to runbooks: CODE.md is put behind it. Without it, `external_url`, where the exporter serves them.
        runbook_url: String = String::new(), base_url().example("https://wiki.example.org/chroma");
        /// Changes of built-in rules, by their name, and rules of your own.
        rules: Vec<RuleChange> = Vec::new(), changes();
    }
}

impl Alerts {
    /// The host that links to the status page name, without its port.
    pub(crate) fn external_host(&self) -> Option<String> {
        let (_, rest) = self.external_url.split_once("://")?;
        let host = rest.split(['/', ':']).next().filter(|host| !host.is_empty())?;
        Some(host.to_owned())
    }
}

keys! {
    /// One item of `alerts.rules`: a change of the built-in rule of this name, or a rule of the operator's own.
    pub struct RuleChange {
        /// A built-in rule, which is named after its finding (`disk_usage_high` is `ChromaDiskUsageHigh`), or a name of your own.
        name: String = String::new(), word("name", rule_name)
            .required("must be given: a built-in rule, or a name of your own");
        /// Whether it is in force.
        enabled: bool = true, switch();
        /// Own rules: the series, any that every store has on /metrics.
        series: Option<String> = None, word("name of a series", |text| Ok(text.to_owned())).optional();
        /// Own rules: labels that its samples must have.
        matches as "match": BTreeMap<String, String> = BTreeMap::new(), labels();
        /// Own rules: how the value is compared with the threshold.
        comparison: Option<Comparison> = None, choice(&Comparison::ALL, Comparison::as_str).optional();
        /// Rules over a series: they fire at this level.
        threshold: Option<f64> = None, number().optional();
        /// Rules over a series: while it fires, the level that ends it.
        recover: Option<f64> = None, number().optional();
        /// How long it must hold before it fires.
        hold as "for": Option<Duration> = None, time().optional();
        /// How long it must be gone before it ends.
        keep_firing_for: Option<Duration> = None, time().optional();
        /// Severity of its alerts. Without it, that of the finding; warning for own rules.
        severity: Option<Severity> = None, choice(&SEVERITIES, Severity::as_str).optional();
        /// Labels of its alerts.
        labels: BTreeMap<String, String> = BTreeMap::new(), labels();
        /// What is the matter, in one line.
        summary: Option<String> = None, word("one line", |text| one_line(text, 200)).optional();
    }
}

impl From<&Disk> for DiskLevels {
    fn from(disk: &Disk) -> Self {
        let Disk { warn_ratio, recover_ratio, critical_ratio, .. } = *disk;
        Self { warn_ratio, recover_ratio, critical_ratio }
    }
}

/// Every rule in force: the built-in ones as they were changed, then the operator's own.
#[must_use]
pub fn rules(disk: &Disk, changes: &[RuleChange]) -> Vec<Rule> {
    let mut rules = builtin::rules(&disk.into());
    for change in changes {
        let place = rules.iter().position(|rule| *rule.name == change.name);
        let mut rule = match place {
            Some(place) => rules.remove(place),
            None => own(change),
        };
        if !change.enabled {
            continue;
        }
        apply(change, &mut rule);
        rules.insert(place.unwrap_or(rules.len()), rule);
    }
    rules
}

fn own(change: &RuleChange) -> Rule {
    Rule {
        name: change.name.as_str().into(),
        on: On::Series(Level {
            series: change.series.as_deref().unwrap_or_default().into(),
            labels: change.matches.clone(),
            comparison: Comparison::Greater,
            threshold: 0.0,
            recover: None,
            code: None,
        }),
        severity: Some(Severity::Warning),
        hold: Duration::ZERO,
        keep_firing_for: Duration::ZERO,
        labels: BTreeMap::new(),
        summary: change.name.as_str().into(),
    }
}

fn apply(change: &RuleChange, rule: &mut Rule) {
    if let On::Series(level) = &mut rule.on {
        level.comparison = change.comparison.unwrap_or(level.comparison);
        if let Some(threshold) = change.threshold {
            // A recovery level that the new threshold has passed would never let it fire or never let it end.
            level.recover =
                level.recover.filter(|recover| healthier(level.comparison, *recover, threshold));
            level.threshold = threshold;
        }
        level.recover = change.recover.or(level.recover);
    }
    rule.hold = change.hold.unwrap_or(rule.hold);
    rule.keep_firing_for = change.keep_firing_for.unwrap_or(rule.keep_firing_for);
    rule.severity = change.severity.or(rule.severity);
    rule.labels.clone_from(&change.labels);
    if let Some(summary) = &change.summary {
        rule.summary = summary.as_str().into();
    }
}

/// Whether `recover` lies on the healthy side of `threshold`, or on it.
fn healthier(comparison: Comparison, recover: f64, threshold: f64) -> bool {
    match comparison {
        Comparison::Greater | Comparison::GreaterOrEqual => recover <= threshold,
        Comparison::Less | Comparison::LessOrEqual => recover >= threshold,
        Comparison::Equal | Comparison::NotEqual => false,
    }
}

/// Reads the section. What is wrong is reported and left out. `series` are the families that every store may have.
pub(crate) fn read(section: &Section<'_>, disk: &Disk, series: &[&'static Desc]) -> Alerts {
    let mut alerts = Alerts::read(section);
    let builtin = builtin::rules(&disk.into());
    let mut names = BTreeSet::new();
    for item in section.list("rules", RULES_MAX) {
        let Some(section) = section.item(&item) else { continue };
        let rule = RuleChange::read(&section);
        if rule.name.is_empty() {
            continue;
        }
        check(&section, &rule, &builtin, series);
        if names.insert(rule.name.clone()) {
            alerts.rules.push(rule);
        } else {
            section.add(section.place("name").bad(&rule.name, "must not stand twice"));
        }
    }
    alerts
}

fn check(section: &Section<'_>, change: &RuleChange, builtin: &[Rule], series: &[&'static Desc]) {
    let known = builtin.iter().find(|rule| *rule.name == change.name);
    match known {
        Some(rule) => check_builtin(section, rule, change),
        None => check_own(section, change, series),
    }
    if let (Some(recover), Some(threshold)) = (change.recover, level(known, change)) {
        let comparison = change.comparison.unwrap_or(match known.map(|rule| &rule.on) {
            Some(On::Series(level)) => level.comparison,
            _ => Comparison::Greater,
        });
        if !healthier(comparison, recover, threshold) {
            let rule = format!("must lie on the healthy side of the threshold {threshold}");
            section.add(section.place("recover").bad(recover, rule));
        }
    }
}

fn level(known: Option<&Rule>, change: &RuleChange) -> Option<f64> {
    change.threshold.or(match known.map(|rule| &rule.on) {
        Some(On::Series(level)) => Some(level.threshold),
        _ => None,
    })
}

fn check_builtin(section: &Section<'_>, rule: &Rule, change: &RuleChange) {
    let refuse = |key: &'static str, why: &str| {
        if section.node(key).is_some() {
            section.add(section.place(key).wrong(why.to_owned()));
        }
    };
    for key in ["series", "match", "comparison"] {
        refuse(key, "belongs to rules of your own; this one is built in");
    }
    if let On::Finding(code) = rule.on {
        let why =
            format!("this rule fires when check finds {}, which has no level here", code.as_str());
        refuse("threshold", &why);
        refuse("recover", &why);
    } else if let (On::Series(level), Some(threshold)) = (&rule.on, change.threshold)
        && level.series.ends_with("_ratio")
        && !(0.0..=1.0).contains(&threshold)
    {
        section.add(section.place("threshold").bad(threshold, "must be a ratio from 0 to 1"));
    }
}

fn check_own(section: &Section<'_>, change: &RuleChange, series: &[&'static Desc]) {
    if !change.enabled {
        return;
    }
    let Some(wanted) = &change.series else {
        if section.node("series").is_none() {
            let known: Vec<String> = Code::ALL.iter().map(|code| builtin::name(*code)).collect();
            let near = words::nearest(&change.name, known.iter().map(String::as_str), builtin::key);
            let near = match near.first() {
                Some(near) => format!("; did you mean {near}?"),
                None => " (chroma_exporter explain lists them);".to_owned(),
            };
            let rule =
                format!("is no built-in rule{near} one of your own needs series and threshold");
            section.add(section.place("name").bad(&change.name, rule));
        }
        return;
    };
    let mut families = series.iter().copied().chain(&HEALTH);
    match families.find(|desc| desc.name == wanted) {
        None => section.add(
            section
                .place("series")
                .bad(wanted, "must be a series that every store has on /metrics"),
        ),
        Some(family) => {
            for label in change.matches.keys() {
                if !family.labels.contains(&label.as_str()) || label == "store" {
                    let labels: Vec<&str> =
                        family.labels.iter().copied().filter(|label| *label != "store").collect();
                    let rule = format!("must be a label of the series ({})", labels.join(", "));
                    section.add(section.place("match").bad(label, rule));
                }
            }
        }
    }
    if section.node("threshold").is_none() {
        section.add(section.place("threshold").wrong("must be given for a rule of your own"));
    }
}

/// Read apart, because what they may be depends on the built-in rules.
fn changes() -> Kind<Vec<RuleChange>> {
    let asked = |section: &Section<'_>, key| {
        section.node(key);
        None
    };
    let write = |rules: &Vec<RuleChange>| {
        Some(Written::List(rules.iter().map(Declared::written).collect()))
    };
    Kind::custom(format!("list of sections, at most {RULES_MAX}"), asked, write)
        .items(RuleChange::keys())
        .example(include_str!("example/rules.yml"))
}

fn labels() -> Kind<BTreeMap<String, String>> {
    let read = |section: &Section<'_>, key| Some(read_labels(section, key));
    let write = |labels: &BTreeMap<String, String>| {
        let text = |(key, value): (&String, &String)| (key.clone(), Written::Text(value.clone()));
        (!labels.is_empty()).then(|| Written::Map(labels.iter().map(text).collect()))
    };
    Kind::custom("labels and their values", read, write)
}

fn read_labels(section: &Section<'_>, key: &'static str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for (name, item) in section.pairs(key, LABELS_MAX) {
        if !plain(&name) {
            section.add(item.place.wrong("must be a label name of a-z A-Z 0-9 _"));
            continue;
        }
        if let Some(value) = section.judged(&item, |text| one_line(text, 1024)) {
            labels.insert(name, value);
        }
    }
    labels
}

fn rule_name(name: &str) -> Result<String, BadValue> {
    if name.len() <= 64 && plain(name) { Ok(name.to_owned()) } else { Err(NAME_RULE.into()) }
}

/// Whether it may name an alert or a label.
fn plain(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && !name.starts_with(|c: char| c.is_ascii_digit())
}

fn time() -> Kind<Duration> {
    span(Duration::ZERO..=Duration::from_hours(365 * 24))
}

fn number() -> Kind<f64> {
    Kind::one("number", parse_number, |number| Written::Number(*number))
}

fn parse_number(value: &Value) -> Result<f64, BadValue> {
    let Value::Scalar(Scalar { text, kind: ScalarKind::Number, .. }) = value else {
        return Err("must be a number".into());
    };
    let number = text.replace('_', "").parse::<f64>().ok().filter(|number| number.is_finite());
    number.ok_or(BadValue::Rule("must be a number"))
}

fn one_line(text: &str, chars_max: usize) -> Result<String, BadValue> {
    let good = !text.is_empty()
        && text.chars().count() <= chars_max
        && !text.chars().any(char::is_control);
    if good { Ok(text.to_owned()) } else { Err(BadValue::NotOneLine { chars_max }) }
}

fn base_url() -> Kind<String> {
    word("http:// or https:// URL", |text| match text {
        "" => Ok(String::new()),
        text => parse_base_url(text),
    })
}

fn parse_base_url(text: &str) -> Result<String, BadValue> {
    let url = one_line(text, 500)?;
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let good = rest.is_some_and(|rest| {
        !rest.is_empty()
            && !rest.starts_with('/')
            && !rest.contains(['@', '?', '#', ' ', '"', '<', '>'])
    });
    if !good {
        return Err(
            "must be an http:// or https:// address without user, query and fragment".into()
        );
    }
    Ok(url.trim_end_matches('/').to_owned())
}

const SEVERITIES: [Severity; 3] = [Severity::Info, Severity::Warning, Severity::Critical];
const NAME_RULE: &str = "must be 1 to 64 of a-z A-Z 0-9 _, not a digit first";
const RULES_MAX: usize = 500;
const LABELS_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_rules_are_retuned_switched_off_and_joined_by_name() {
        let disk = Disk::default();
        let change = |name: &str| RuleChange { name: name.to_owned(), ..RuleChange::default() };
        let all = rules(&disk, &[]);
        let changed = rules(
            &disk,
            &[
                RuleChange {
                    threshold: Some(0.7),
                    hold: Some(Duration::from_secs(5)),
                    severity: Some(Severity::Critical),
                    ..change("ChromaDiskUsageHigh")
                },
                RuleChange { enabled: false, ..change("ChromaWalMode") },
                RuleChange {
                    series: Some("chroma_disk_avail_bytes".to_owned()),
                    comparison: Some(Comparison::Less),
                    threshold: Some(1e9),
                    recover: Some(2e9),
                    summary: Some("Little room".to_owned()),
                    ..change("LittleRoom")
                },
            ],
        );
        assert_eq!(changed.len(), all.len());
        let find = |name: &str| changed.iter().find(|rule| &*rule.name == name);
        assert_eq!(find("ChromaWalMode"), None);
        let disk = find("ChromaDiskUsageHigh").unwrap();
        assert_eq!((disk.hold, disk.severity), (Duration::from_secs(5), Some(Severity::Critical)));
        let On::Series(level) = &disk.on else { panic!("{disk:?}") };
        assert_eq!((level.threshold, level.recover), (0.7, None), "0.75 would never let it end");
        let own = find("LittleRoom").unwrap();
        let On::Series(level) = &own.on else { panic!("{own:?}") };
        assert_eq!((level.comparison, level.recover), (Comparison::Less, Some(2e9)));
        assert_eq!(changed.last(), Some(own));
        let place =
            |rules: &[Rule]| rules.iter().position(|rule| &*rule.name == "ChromaDiskUsageHigh");
        // Its place in the list stays where a reader expects it, one up for the rule before it that is off.
        assert_eq!(place(&changed).unwrap() + 1, place(&all).unwrap());
    }
}
