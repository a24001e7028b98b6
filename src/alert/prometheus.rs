//! The same rules for Prometheus: one table, two engines, so that a fleet may alert from its own and know that it says
//! the same. What belongs to the path between the two (exporter gone, readings stale, delivery failing) is added, and
//! what dashboards ask of many hosts at once is recorded.
//!
//! Nothing here names a job or a host: series of this program are known by their names, and alerts keep every label that
//! the scrape gave them. The one exception is `up`, which every target has ([`Options::job`]).

mod number;
mod own;
mod record;

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use serde_saphyr::LitString;

use super::rule::{Level, On, Rule};
use crate::{facts::duration, findings::Template};

/// A rule file.
#[derive(Debug, Serialize)]
pub struct File {
    groups: Vec<Group>,
}

/// What differs from one installation to the other.
#[derive(Debug, Clone)]
pub struct Options {
    /// What links to runbooks begin with, without a slash at its end; empty for the exporter that is scraped, which serves them
    /// under the address of its target.
    pub runbooks: String,
    /// Address of Grafana, without a slash at its end; empty for no links to dashboards.
    pub grafana: String,
    /// The job that scrapes the exporters; only an exporter that never answered is known by it alone.
    pub job: String,
    /// The longest time between two runs of one collector.
    pub slowest: Duration,
    /// Which groups, in the order of the file.
    pub parts: Vec<Part>,
}

/// A group of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// What the dashboards need
    Recording,
    /// The alerts of the stores; leave these out where the alert hooks of the exporters already tell the same people
    Stores,
    /// The alerts of the exporters themselves, which only Prometheus can give
    Exporters,
}

impl Part {
    /// All of them, in the order of the file.
    pub const ALL: [Self; 3] = [Self::Recording, Self::Stores, Self::Exporters];
}

#[derive(Debug, Serialize)]
struct Group {
    name: &'static str,
    rules: Vec<Entry>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Entry {
    Recording { record: &'static str, expr: LitString },
    Alerting(Alerting),
}

#[derive(Debug, Serialize)]
struct Alerting {
    alert: String,
    expr: LitString,
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    hold: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keep_firing_for: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<&'static str, LitString>,
}

impl File {
    /// The file for these rules.
    #[must_use]
    pub fn new(rules: &[Rule], options: &Options) -> Self {
        let group = |part: &Part| match part {
            Part::Recording => Group { name: "chroma-recording", rules: record::rules() },
            Part::Stores => {
                let rules = rules.iter().map(|rule| Entry::Alerting(alerting(rule, options)));
                Group { name: "chroma-stores", rules: rules.collect() }
            }
            Part::Exporters => {
                let rules = own::rules(options).into_iter().map(Entry::Alerting);
                Group { name: "chroma-exporters", rules: rules.collect() }
            }
        };
        Self { groups: options.parts.iter().map(group).collect() }
    }

    /// As Prometheus reads it. Errs never with rules of ours; the error is serde's own.
    pub fn to_yaml(&self) -> Result<String, serde_saphyr::SerializeError> {
        serde_saphyr::to_string(self)
    }
}

fn alerting(rule: &Rule, options: &Options) -> Alerting {
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
    let value = match &rule.on {
        On::Series(level) if level.code.is_some() => " Now: {{ $value | humanizePercentage }}.",
        On::Series(_) => " Now: {{ $value }}.",
        On::Finding(_) => "",
    };
    let mut annotations = BTreeMap::from([
        // Without names, so that it is the same for all alerts of a group.
        ("summary", LitString(format!("{} in a Chroma store", rule.summary))),
    ]);
    annotations.extend(dashboard(options, STORE_DASHBOARD));
    let description = if let Some(code) = code {
        let base = if options.runbooks.is_empty() { OWN_RUNBOOKS } else { &options.runbooks };
        annotations.insert("runbook_url", LitString(format!("{base}/{}", code.runbook())));
        let Template { words, command, note } = code.template();
        let command = command.replace("{path}", "{{ $path }}");
        if !command.is_empty() {
            annotations.insert("command", LitString(format!("{HEAD}\n{command}")));
        }
        let finding = if command.starts_with("chroma_exporter check") { "" } else { FINDING };
        let further = [&command, note, finding].into_iter().filter(|text| !text.is_empty());
        let further: String = further.flat_map(|text| ["\n", text]).collect();
        let numbers = number::of(code).map(|number| number.template()).unwrap_or_default();
        format!("{HEAD}\n{WHERE} {}{value}{numbers}\nWhat to do: {words}{further}", code.cause())
    } else {
        format!("{HEAD}\n{WHERE} {}.{value}", rule.summary)
    };
    annotations.insert("description", LitString(description));
    Alerting {
        alert: rule.name.to_string(),
        expr: LitString(expr),
        hold: span(rule.hold),
        keep_firing_for: span(rule.keep_firing_for.max(GAP)),
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
            "{series} {compare} {threshold}\nor (\n  {series} {compare} {recover}\n  and on (instance, job, store) \
             ALERTS{{alertname=\"{name}\",alertstate=\"firing\"}}\n)"
        ),
    }
}

/// A link to a dashboard, where somebody said where Grafana is: a path alone leads nowhere from a message.
fn dashboard(options: &Options, page: &str) -> Option<(&'static str, LitString)> {
    let grafana = &options.grafana;
    (!grafana.is_empty()).then(|| ("dashboard_url", LitString(format!("{grafana}{page}"))))
}

fn span(span: Duration) -> Option<String> {
    (!span.is_zero()).then(|| duration::format(span))
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// A series that is missing ends an alert of Prometheus like one that is healthy. A restart of the exporter, a scrape that
/// timed out, or a reading that failed once is no recovery, so every alert of a store outlasts this gap.
const GAP: Duration = Duration::from_mins(5);

/// The exporter itself, as Prometheus reaches it.
const OWN_RUNBOOKS: &str = "http://{{ $labels.instance }}";

/// The dashboard of one store; its uid is fixed (`dashboards/chroma-store.json`).
const STORE_DASHBOARD: &str = "/d/chroma-store?var-job={{ $labels.job | urlquery }}\
     &var-instance={{ $labels.instance | urlquery }}&var-store={{ $labels.store | urlquery }}";

/// The dashboard of all hosts.
const FLEET_DASHBOARD: &str = "/d/chroma-fleet";

/// `$at` selects the store; `$path` is its directory as a shell takes it for one word, and `PATH` when it is not known.
const HEAD: &str = r#"{{- $at := printf "instance=%q,job=%q,store=%q" $labels.instance $labels.job $labels.store -}}
{{- $path := "PATH" -}}
{{- range query (printf "chroma_store_info{%s}" $at) -}}
{{- $path = .Labels.path -}}
{{- if not (match "^[a-zA-Z0-9/._+@%:,=-]+$" $path) -}}{{- $path = printf "'%s'" (reReplaceAll "'" "'\\''" $path) -}}{{- end -}}
{{- end -}}"#;

/// Prometheus knows that something is wrong, and not what it is about.
const FINDING: &str = "The finding itself, with what it names: chroma_exporter check {{ $path }}";

const WHERE: &str = "{{ $labels.store }} ({{ $path }}) on {{ $labels.instance }}:";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{alert::builtin, findings::Code};

    fn options() -> Options {
        Options {
            runbooks: "https://x".to_owned(),
            grafana: "https://g".to_owned(),
            job: "chroma".to_owned(),
            slowest: Duration::from_mins(10),
            parts: Part::ALL.to_vec(),
        }
    }

    #[test]
    fn every_built_in_rule_is_there_and_a_level_has_its_recovery() {
        let rules = builtin::rules(&builtin::USUAL);
        let text = File::new(&rules, &options()).to_yaml().unwrap();
        for rule in &rules {
            assert_eq!(
                text.matches(&format!("alert: {}\n", rule.name)).count(),
                1,
                "{}",
                rule.name
            );
        }
        assert!(text.contains("chroma_disk_used_ratio >= 0.8\n"));
        assert!(text.contains("chroma_disk_used_ratio >= 0.75\n"));
        assert!(text.contains("https://x/runbooks/second_writer.md"));
        assert!(text.contains("https://g/d/chroma-store?var-job="));
        assert!(!text.contains("{path}"));
    }

    #[test]
    fn links_lead_somewhere_and_no_text_speaks_of_what_is_not_there() {
        let rules = builtin::rules(&builtin::USUAL);
        let bare = Options { runbooks: String::new(), grafana: String::new(), ..options() };
        let text = File::new(&rules, &bare).to_yaml().unwrap();
        assert!(!text.contains("dashboard_url") && !text.contains("/d/chroma"));
        assert!(text.contains("http://{{ $labels.instance }}/runbooks/second_writer.md"));
        for line in text.lines() {
            let (start, link) = line.split_once("runbooks/").unwrap_or((line, ""));
            assert!(link.is_empty() || start.ends_with("http://{{ $labels.instance }}/"), "{line}");
        }
        for code in Code::ALL {
            let Template { words, note, .. } = code.template();
            for word in ["named here", "the evidence", "as found", "shown below"] {
                let reported = [words, note].concat();
                assert!(
                    !reported.contains(word),
                    "{code:?} speaks of what an alert does not have: {reported}"
                );
            }
        }
    }

    #[test]
    fn a_part_can_be_left_out() {
        let rules = builtin::rules(&builtin::USUAL);
        let only = Options { parts: vec![Part::Exporters], ..options() };
        let text = File::new(&rules, &only).to_yaml().unwrap();
        assert!(text.contains("ChromaWatchdog") && !text.contains("ChromaSecondWriter"));
        assert!(!text.contains("record:"));
    }

    #[test]
    fn braces_of_a_template_are_ours_alone() {
        for code in Code::ALL {
            let Template { words, command, note } = code.template();
            let words = [code.cause(), words, command, note].concat();
            assert!(!words.contains("{{") && !words.contains("}}"), "{code:?}");
        }
    }
}
