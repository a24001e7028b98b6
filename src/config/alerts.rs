//! The section `alerts` of the configuration: what every message says of this host, and changes of the rules.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    Disk,
    report::{At, Place},
    section::{self, Section, duration, shown, text},
    yaml::{Kind, Scalar, Value},
};
use crate::{
    alert::{
        builtin::{self, DiskLevels},
        rule::{Comparison, Level, On, Rule},
    },
    collectors,
    findings::{Code, Severity},
    format::words,
    sample::{Desc, HEALTH},
};

/// What the alert hooks are told.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Alerts {
    /// How messages call this host; `None` takes its name from the kernel.
    pub host: Option<String>,
    /// Base of the links to the status page, without a slash at its end; empty for the address that the program listens on.
    pub external_url: String,
    /// What links to runbooks begin with, without a slash at its end; empty for the exporter, which
    /// serves them.
    pub runbook_url: String,
    /// Changes of built-in rules, and rules of the operator's own.
    pub rules: Vec<RuleChange>,
}

impl Alerts {
    /// The host that links to the status page name, without its port.
    pub(crate) fn external_host(&self) -> Option<String> {
        let (_, rest) = self.external_url.split_once("://")?;
        let host = rest.split(['/', ':']).next().filter(|host| !host.is_empty())?;
        Some(host.to_owned())
    }
}

/// One item of `alerts.rules`: a change of the built-in rule of this name, or a rule of the operator's own.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RuleChange {
    /// Name of the rule.
    pub name: String,
    /// Whether it is in force.
    pub disabled: bool,
    /// The series of a rule of one's own.
    pub series: Option<String>,
    /// Labels that its samples must have.
    pub matches: BTreeMap<String, String>,
    /// How values are compared.
    pub comparison: Option<Comparison>,
    /// With what.
    pub threshold: Option<f64>,
    /// While it fires, the level that ends it.
    pub recover: Option<f64>,
    /// Key `for`.
    pub hold: Option<Duration>,
    /// Key `keep_firing_for`.
    pub keep_firing_for: Option<Duration>,
    /// Another severity.
    pub severity: Option<Severity>,
    /// Labels of the alert.
    pub labels: BTreeMap<String, String>,
    /// What is the matter, in one line.
    pub summary: Option<String>,
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
        if change.disabled {
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

/// Reads the section. What is wrong is reported and left out.
pub(crate) fn read(top: &Section<'_>, disk: &Disk) -> Alerts {
    let Some(section) = top.section("alerts") else { return Alerts::default() };
    let line = |value: &Value| one_line(text(value)?, 253);
    let mut alerts = Alerts {
        host: section.read("host", line).map(|at| at.value),
        external_url: section.read("external_url", base_url).map(|at| at.value).unwrap_or_default(),
        runbook_url: section.read("runbook_url", base_url).map(|at| at.value).unwrap_or_default(),
        rules: Vec::new(),
    };
    let builtin = builtin::rules(&disk.into());
    let mut names = BTreeSet::new();
    for item in section.list("rules", RULES_MAX) {
        let Some(section) = section.item(&item) else { continue };
        let Some(rule) = rule(&section, &item.place, &builtin) else { continue };
        if names.insert(rule.name.clone()) {
            alerts.rules.push(rule);
        } else {
            section.add(section.place("name").bad(&rule.name, "must not stand twice"));
        }
    }
    alerts
}

fn rule(section: &Section<'_>, place: &Place, builtin: &[Rule]) -> Option<RuleChange> {
    let name = section.read("name", |value| {
        let name = text(value)?;
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let good = (1..=64).contains(&name.len())
            && name.bytes().all(word)
            && !name.starts_with(|c: char| c.is_ascii_digit());
        if good { Ok(name.to_owned()) } else { Err(NAME_RULE.to_owned()) }
    });
    if section.node("name").is_none() {
        section.add(super::ConfigError {
            line: place.line,
            ..section.place("name").wrong("must be given: a built-in rule, or a name of your own")
        });
    }
    let known = name.as_ref().and_then(|name| builtin.iter().find(|rule| *rule.name == name.value));
    let span = || duration(Duration::ZERO..=Duration::from_hours(365 * 24));
    let change = RuleChange {
        name: name.as_ref().map(|at| at.value.clone()).unwrap_or_default(),
        disabled: section.read("enabled", section::flag).is_some_and(|on| !on.value),
        series: section.read("series", |value| Ok(text(value)?.to_owned())).map(|at| at.value),
        matches: labels(section, "match"),
        comparison: section
            .read("comparison", section::choice(&Comparison::ALL, Comparison::as_str))
            .map(|at| at.value),
        threshold: section.read("threshold", number).map(|at| at.value),
        recover: section.read("recover", number).map(|at| at.value),
        hold: section.read("for", span()).map(|at| at.value),
        keep_firing_for: section.read("keep_firing_for", span()).map(|at| at.value),
        severity: section
            .read("severity", section::choice(&SEVERITIES, Severity::as_str))
            .map(|at| at.value),
        labels: labels(section, "labels"),
        summary: section.read("summary", |value| one_line(text(value)?, 200)).map(|at| at.value),
    };
    let name = name?;
    match known {
        Some(rule) => check_builtin(section, rule, &change),
        None => check_own(section, &name, &change),
    }
    if let (Some(recover), Some(threshold)) = (change.recover, level(known, &change)) {
        let comparison = change.comparison.unwrap_or(match known.map(|rule| &rule.on) {
            Some(On::Series(level)) => level.comparison,
            _ => Comparison::Greater,
        });
        if !healthier(comparison, recover, threshold) {
            let rule = format!("must lie on the healthy side of the threshold {threshold}");
            section.add(section.place("recover").bad(recover, rule));
        }
    }
    Some(change)
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

fn check_own(section: &Section<'_>, name: &At<String>, change: &RuleChange) {
    if change.disabled {
        return;
    }
    let Some(series) = &change.series else {
        if section.node("series").is_none() {
            let known: Vec<String> = Code::ALL.iter().map(|code| builtin::name(*code)).collect();
            let near = words::nearest(&name.value, known.iter().map(String::as_str), builtin::key);
            let near = match near.first() {
                Some(near) => format!("; did you mean {near}?"),
                None => " (chroma_exporter explain lists them);".to_owned(),
            };
            let rule =
                format!("is no built-in rule{near} one of your own needs series and threshold");
            section.add(name.place.bad(&name.value, rule));
        }
        return;
    };
    match family(series) {
        None => section.add(
            section
                .place("series")
                .bad(series, "must be a series that every store has on /metrics"),
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

/// The family of this name, if stores have it.
fn family(name: &str) -> Option<&'static Desc> {
    let mut families = collectors::families();
    families.find(|desc| desc.name == name).or_else(|| HEALTH.iter().find(|desc| desc.name == name))
}

fn labels(section: &Section<'_>, key: &'static str) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::new();
    for (name, At { value: node, place }) in section.pairs(key, LABELS_MAX) {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        if name.is_empty()
            || !name.bytes().all(word)
            || name.starts_with(|c: char| c.is_ascii_digit())
        {
            section.add(place.wrong("must be a label name of a-z A-Z 0-9 _"));
            continue;
        }
        match text(&node.value).and_then(|text| one_line(text, 1024)) {
            Ok(value) => drop(labels.insert(name, value)),
            Err(rule) => section.add(place.bad(shown(&node.value), rule)),
        }
    }
    labels
}

fn number(value: &Value) -> Result<f64, String> {
    let Value::Scalar(Scalar { text, kind: Kind::Number, .. }) = value else {
        return Err("must be a number".to_owned());
    };
    let number = text.replace('_', "").parse::<f64>().ok().filter(|number| number.is_finite());
    number.ok_or_else(|| "must be a number".to_owned())
}

fn one_line(text: &str, chars_max: usize) -> Result<String, String> {
    let good = !text.is_empty()
        && text.chars().count() <= chars_max
        && !text.chars().any(char::is_control);
    if good {
        Ok(text.to_owned())
    } else {
        Err(format!("must be one line of 1 to {chars_max} characters"))
    }
}

fn base_url(value: &Value) -> Result<String, String> {
    let url = one_line(text(value)?, 500)?;
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let good = rest.is_some_and(|rest| {
        !rest.is_empty()
            && !rest.starts_with('/')
            && !rest.contains(['@', '?', '#', ' ', '"', '<', '>'])
    });
    if !good {
        return Err(
            "must be an http:// or https:// address without user, query and fragment".to_owned()
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
                RuleChange { disabled: true, ..change("ChromaWalMode") },
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
