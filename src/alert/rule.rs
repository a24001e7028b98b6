//! Rules as data: over a finding of the catalogue or over a series, and what a store's readings say about one.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{message::Number, step::Condition};
use crate::{
    clock::Timestamp,
    findings::{Code, Finding, Remedy, Severity},
    sample::{HEALTH, StoreReadings},
};

/// One rule. There is one alert per rule and store, whatever the number of findings or series behind it.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// Unique; also the `alert` label: `ChromaDiskUsageHigh`.
    pub name: Arc<str>,
    /// What it looks at.
    pub on: On,
    /// Severity; `None` takes that of the finding.
    pub severity: Option<Severity>,
    /// How long it must hold before it fires (Prometheus' `for`).
    pub hold: Duration,
    /// How long it must be gone before it resolves.
    pub keep_firing_for: Duration,
    /// Labels of the operator's own.
    pub labels: BTreeMap<String, String>,
    /// What is the matter, in one line without numbers.
    pub summary: Arc<str>,
}

impl Rule {
    /// The severity that it fires with unless the evidence says otherwise.
    #[must_use]
    pub fn usual_severity(&self) -> Severity {
        match (self.severity, &self.on) {
            (Some(severity), _) => severity,
            (None, On::Finding(code)) => code.severity(),
            (None, On::Series(_)) => Severity::Warning,
        }
    }
}

/// What a rule looks at.
#[derive(Debug, Clone, PartialEq)]
pub enum On {
    /// A finding of this code is there.
    Finding(Code),
    /// A sample passes a level.
    Series(Level),
}

/// A level of a series.
#[derive(Debug, Clone, PartialEq)]
pub struct Level {
    /// Name of the family.
    pub series: Arc<str>,
    /// Labels that a sample must have, `store` aside.
    pub labels: BTreeMap<String, String>,
    /// How the value is compared.
    pub comparison: Comparison,
    /// With what, in the unit of the series.
    pub threshold: f64,
    /// While it fires, the same comparison with this level: between the two nothing changes.
    pub recover: Option<f64>,
    /// The entry of the catalogue that tells cause and remedy.
    pub code: Option<Code>,
}

/// How a value is compared with a level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
}

impl Comparison {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Less,
        Self::LessOrEqual,
        Self::Greater,
        Self::GreaterOrEqual,
        Self::Equal,
        Self::NotEqual,
    ];

    /// The operator, as in PromQL.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::Equal => "==",
            Self::NotEqual => "!=",
        }
    }

    #[expect(clippy::float_cmp, reason = "states are 0 and 1, and this is what was asked for")]
    fn holds(self, value: f64, level: f64) -> bool {
        match self {
            Self::Less => value < level,
            Self::LessOrEqual => value <= level,
            Self::Greater => value > level,
            Self::GreaterOrEqual => value >= level,
            Self::Equal => value == level,
            Self::NotEqual => value != level,
        }
    }

    /// Which of two values that hold is the worse one to show.
    fn worse(self, new: f64, old: f64) -> bool {
        match self {
            Self::Less | Self::LessOrEqual => new < old,
            _ => new > old,
        }
    }
}

/// What was found for a rule that holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The gravest severity of what was found.
    pub severity: Severity,
    /// The numbers of the first finding, or empty.
    pub evidence: String,
    /// What to do in this case; else what the catalogue says.
    pub remedy: Option<Remedy>,
    /// How many findings or samples there are; those that are only worth knowing do not count beside graver ones.
    pub count: usize,
    /// How many records, rows or entries the findings are about, where those are listed.
    pub items: u64,
    /// The number and its level.
    pub number: Option<Number>,
    /// Since when the oldest of the findings is there, as far as it is known.
    pub stands_since: Option<Timestamp>,
}

/// What the readings of a store say about a rule; `firing` tells whether it fires now, for its recovery level.
#[must_use]
pub fn judge(rule: &Rule, store: &StoreReadings, firing: bool) -> (Condition, Option<Found>) {
    match &rule.on {
        On::Finding(code) => judge_finding(rule, *code, store),
        On::Series(level) => judge_series(rule, level, store, firing),
    }
}

fn judge_finding(rule: &Rule, code: Code, store: &StoreReadings) -> (Condition, Option<Found>) {
    let answering =
        || store.readings.iter().filter(|reading| reading.answers().any(|other| other == code));
    let mut seen: Vec<&Finding> = answering()
        .flat_map(|reading| &reading.observation.findings)
        .filter(|finding| finding.code == code && !finding.kept)
        .collect();
    seen.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    let grave = |severity| severity > Severity::Info;
    if let Some(first) = seen.first() {
        let evidence = match &*first.subject {
            "" => first.evidence.clone(),
            subject => format!("{subject}: {}", first.evidence),
        };
        let severity = rule.severity.unwrap_or(first.severity);
        return (
            Condition::Bad,
            Some(Found {
                severity,
                evidence,
                count: seen.iter().filter(|f| grave(f.severity) == grave(first.severity)).count(),
                items: seen.iter().fold(0, |sum, f| f.items_total.saturating_add(sum)),
                number: None,
                remedy: first.remedy.clone(),
                stands_since: seen.iter().filter_map(|f| store.firsts.since(f)).min(),
            }),
        );
    }
    let mut readings = answering().peekable();
    if readings.peek().is_some() && readings.all(|reading| reading.judged(code)) {
        (Condition::Good, None)
    } else {
        (Condition::Unknown, None)
    }
}

fn judge_series(
    rule: &Rule,
    level: &Level,
    store: &StoreReadings,
    firing: bool,
) -> (Condition, Option<Found>) {
    let limit = level.recover.filter(|_| firing).unwrap_or(level.threshold);
    let mut scan = Scan { level, limit, worst: None, count: 0, known: true };
    let mut owners = 0;
    for reading in &store.readings {
        if let Some(place) = HEALTH.iter().position(|desc| desc.name == &*level.series) {
            owners += 1;
            scan.take(reading.health()[place], &[("collector", reading.collector)]);
        } else if reading.descs.iter().any(|desc| desc.name == &*level.series) {
            owners += 1;
            let mut found = false;
            for sample in &reading.observation.samples {
                if sample.desc.name == &*level.series {
                    let values = sample.values.iter().map(|value| &**value);
                    let labels: Vec<_> = sample.desc.labels.iter().copied().zip(values).collect();
                    found |= scan.take(sample.value, &labels);
                }
            }
            // A series that is absent after a good reading does not hold; after a failed one nobody knows.
            scan.known &= found || reading.success();
        }
    }
    let Scan { worst, count, known, .. } = scan;
    match worst {
        Some((value, series)) => {
            let number = Number {
                series,
                value,
                comparison: level.comparison.as_str().to_owned(),
                threshold: level.threshold,
            };
            let severity = rule.usual_severity();
            let evidence = String::new();
            let number = Some(number);
            (
                Condition::Bad,
                Some(Found {
                    severity,
                    evidence,
                    count,
                    items: 0,
                    number,
                    remedy: None,
                    stands_since: None,
                }),
            )
        }
        None if owners > 0 && known => (Condition::Good, None),
        None => (Condition::Unknown, None),
    }
}

/// Goes through the samples of a series.
struct Scan<'l> {
    level: &'l Level,
    limit: f64,
    worst: Option<(f64, String)>,
    count: usize,
    known: bool,
}

impl Scan<'_> {
    /// Takes a sample in, and answers whether it has the labels that were asked for.
    fn take(&mut self, value: f64, labels: &[(&str, &str)]) -> bool {
        let wanted = &self.level.labels;
        if !wanted.iter().all(|(name, value)| labels.contains(&(name.as_str(), value.as_str()))) {
            return false;
        }
        let comparison = self.level.comparison;
        if value.is_nan() {
            self.known = false;
        } else if comparison.holds(value, self.limit) {
            self.count += 1;
            if self.worst.as_ref().is_none_or(|(old, _)| comparison.worse(value, *old)) {
                self.worst = Some((value, series_text(&self.level.series, labels)));
            }
        }
        true
    }
}

fn series_text(series: &str, labels: &[(&str, &str)]) -> String {
    if labels.is_empty() {
        return series.to_owned();
    }
    let pairs: Vec<String> =
        labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    format!("{series}{{{}}}", pairs.join(","))
}
