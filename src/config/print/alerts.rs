//! The section `alerts` as a file would say it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    alert::rule::Comparison,
    config::alerts::{Alerts, RuleChange},
    findings::Severity,
    format::duration,
};

#[derive(Serialize)]
pub(super) struct Printed<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    external_url: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    runbook_url: &'a str,
    rules: Vec<PrintedRule<'a>>,
}

#[derive(Serialize)]
struct PrintedRule<'a> {
    name: &'a str,
    enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    series: Option<&'a str>,
    #[serde(rename = "match", skip_serializing_if = "BTreeMap::is_empty")]
    matches: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comparison: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    threshold: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recover: Option<f64>,
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    hold: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keep_firing_for: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    severity: Option<&'static str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<&'a str>,
}

impl<'a> Printed<'a> {
    pub(super) fn new(alerts: &'a Alerts) -> Self {
        Self {
            host: alerts.host.as_deref(),
            external_url: &alerts.external_url,
            runbook_url: &alerts.runbook_url,
            rules: alerts.rules.iter().map(PrintedRule::new).collect(),
        }
    }
}

impl<'a> PrintedRule<'a> {
    fn new(rule: &'a RuleChange) -> Self {
        Self {
            name: &rule.name,
            enabled: !rule.disabled,
            series: rule.series.as_deref(),
            matches: &rule.matches,
            comparison: rule.comparison.map(Comparison::as_str),
            threshold: rule.threshold,
            recover: rule.recover,
            hold: rule.hold.map(duration::format),
            keep_firing_for: rule.keep_firing_for.map(duration::format),
            severity: rule.severity.map(Severity::as_str),
            labels: &rule.labels,
            summary: rule.summary.as_deref(),
        }
    }
}
