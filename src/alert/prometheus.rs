//! The same rules for Prometheus: one table, two engines, so that a fleet may alert from its own and know that it says
//! the same. What belongs to the path between the two (exporter gone, readings stale, delivery failing) is added.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::rule::{Level, On, Rule};
use crate::{findings::Code, format::duration};

/// A rule file.
#[derive(Debug, Serialize)]
pub struct File {
    groups: Vec<Group>,
}

#[derive(Debug, Serialize)]
struct Group {
    name: &'static str,
    rules: Vec<Alerting>,
}

#[derive(Debug, Serialize)]
struct Alerting {
    alert: String,
    expr: String,
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    hold: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keep_firing_for: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<&'static str, String>,
}

impl File {
    /// The file for these rules; `runbooks` is what links to runbooks begin with, empty for their paths alone.
    #[must_use]
    pub fn new(rules: &[Rule], runbooks: &str) -> Self {
        let stores = Group {
            name: "chroma",
            rules: rules.iter().map(|rule| alerting(rule, runbooks)).collect(),
        };
        Self { groups: vec![stores, Group { name: "chroma_exporter", rules: own() }] }
    }

    /// As Prometheus reads it. Errs never with rules of ours; the error is serde's own.
    pub fn to_yaml(&self) -> Result<String, serde_saphyr::SerializeError> {
        serde_saphyr::to_string(self)
    }
}

fn alerting(rule: &Rule, runbooks: &str) -> Alerting {
    let (expr, code) = match &rule.on {
        On::Finding(code) => {
            (format!("chroma_finding{{code=\"{}\"}} == 1", code.as_str()), Some(*code))
        }
        On::Series(level) => (level_expr(&rule.name, level), level.code),
    };
    let mut labels = rule.labels.clone();
    // A finding carries the severity of its case; another one is set only where the rule says so.
    if rule.severity.is_some() || matches!(rule.on, On::Series(_)) {
        labels.insert("severity".to_owned(), rule.usual_severity().as_str().to_owned());
    }
    let mut annotations = BTreeMap::from([(
        "summary",
        format!("{} in store {{{{ $labels.store }}}} on {{{{ $labels.instance }}}}", rule.summary),
    )]);
    if let Some(code) = code {
        let remedy = code.remedy_template().replace("{path}", PATH);
        annotations.insert("description", format!("{} What to do: {remedy}", code.cause()));
        annotations.insert("runbook_url", runbook(code, runbooks));
    } else {
        annotations.insert("description", "The value is {{ $value }}.".to_owned());
    }
    Alerting {
        alert: rule.name.to_string(),
        expr,
        hold: span(rule.hold),
        keep_firing_for: span(rule.keep_firing_for),
        labels,
        annotations,
    }
}

/// Between the level and the one that ends it nothing changes: what fires goes on, what does not is left alone.
fn level_expr(name: &str, level: &Level) -> String {
    let labels: Vec<String> =
        level.labels.iter().map(|(label, value)| format!("{label}={}", quoted(value))).collect();
    let series = match labels.as_slice() {
        [] => level.series.to_string(),
        labels => format!("{}{{{}}}", level.series, labels.join(",")),
    };
    let (compare, threshold) = (level.comparison.as_str(), level.threshold);
    match level.recover {
        None => format!("{series} {compare} {threshold}"),
        Some(recover) => format!(
            "{series} {compare} {threshold} or ({series} {compare} {recover} and on (instance, job, store) \
             ALERTS{{alertname=\"{name}\",alertstate=\"firing\"}})"
        ),
    }
}

fn own() -> Vec<Alerting> {
    let rule =
        |alert: &str, expr: &str, hold: &str, severity: &str, summary: &str, description: &str| {
            Alerting {
                alert: alert.to_owned(),
                expr: expr.to_owned(),
                hold: (!hold.is_empty()).then(|| hold.to_owned()),
                keep_firing_for: None,
                labels: BTreeMap::from([("severity".to_owned(), severity.to_owned())]),
                annotations: BTreeMap::from([
                    ("summary", summary.to_owned()),
                    ("description", description.to_owned()),
                ]),
            }
        };
    vec![
        rule(
            "ChromaExporterAbsent",
            "absent(chroma_exporter_build_info)",
            "5m",
            "critical",
            "No chroma_exporter is being scraped",
            "Nobody says whether the data of any Chroma is safe. Look at the targets of Prometheus and at the service.",
        ),
        rule(
            "ChromaReadingsStale",
            "time() - chroma_exporter_snapshot_timestamp_seconds > 300",
            "1m",
            "warning",
            "The readings of {{ $labels.instance }} stand still",
            "The exporter answers and reads nothing any more. Look at its log and restart it.",
        ),
        rule(
            "ChromaNotificationsFailing",
            "chroma_exporter_notification_queue_length > 0 and on (instance, job, receiver) (time() - chroma_exporter_notification_oldest_timestamp_seconds > 300)",
            "1m",
            "warning",
            "Receiver {{ $labels.receiver }} of {{ $labels.instance }} takes no alerts",
            "{{ $value }} alerts have been waiting for minutes. Try it with: chroma_exporter notify {{ $labels.receiver }}",
        ),
        rule(
            "ChromaNotificationsLost",
            "increase(chroma_exporter_notification_dead_letters_total[1h]) > 0",
            "",
            "warning",
            "Receiver {{ $labels.receiver }} of {{ $labels.instance }} was not told of alerts",
            "Alerts were refused for good or waited too long. The log of the exporter says which and why.",
        ),
        rule(
            "ChromaWatchdog",
            "vector(1)",
            "",
            "info",
            "The path of alerts works",
            "Always fires: whoever receives it should say so when it stops coming.",
        ),
    ]
}

fn runbook(code: Code, base: &str) -> String {
    match base {
        "" => code.runbook(),
        base => format!("{base}/{}", code.runbook()),
    }
}

fn span(span: Duration) -> Option<String> {
    (!span.is_zero()).then(|| duration::format(span))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Prometheus knows the store by its name; the path stands in `chroma_store_info`.
const PATH: &str = "PATH";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{alert::builtin, config::Collect};

    #[test]
    fn every_built_in_rule_is_there_and_a_level_has_its_recovery() {
        let rules = builtin::rules(&Collect::default());
        let text = File::new(&rules, "https://x").to_yaml().unwrap();
        for rule in &rules {
            assert_eq!(
                text.matches(&format!("alert: {}\n", rule.name)).count(),
                1,
                "{}",
                rule.name
            );
        }
        assert!(
            text.contains("chroma_disk_used_ratio >= 0.8 or (chroma_disk_used_ratio >= 0.75 and")
        );
        assert!(text.contains("https://x/runbooks/second_writer.md"));
        assert!(!text.contains("{path}"));
    }
}
