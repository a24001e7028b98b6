//! What the program exports: families with their labels, and the values of labels that are a closed list. Rules and
//! dashboards may name nothing else.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test binary uses its own part")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    sync::Arc,
};

use chroma_exporter::{
    alert::builtin,
    collectors,
    config::{Config, Disk, Store},
    findings::Code,
    host::Host,
    metrics,
    sample::SeriesKind,
    store::Context,
};

use super::promql::{Named, Selector};

/// Families by name.
pub struct Exported {
    families: BTreeMap<String, Family>,
    values: BTreeMap<(String, String), BTreeSet<String>>,
}

struct Family {
    labels: BTreeSet<String>,
    counter: bool,
}

/// Labels that name something of the operator's and have any value.
const OPEN: [&str; 6] = ["job", "instance", "store", "receiver", "path", "alertname"];

impl Exported {
    /// Everything; `recorded` are the names of recording rules.
    pub fn new(recorded: &[String]) -> Self {
        let mut families = BTreeMap::new();
        let mut add = |name: &str, labels: &[&str], counter: bool| {
            let labels =
                labels.iter().chain(&["job", "instance"]).map(|l| (*l).to_owned()).collect();
            families.insert(name.to_owned(), Family { labels, counter });
        };
        for desc in metrics::descs() {
            add(desc.name, desc.labels, desc.kind == SeriesKind::Counter);
        }
        let config = Arc::new(Config::default());
        let store = Arc::new(Store::new("s", Path::new("/nowhere")));
        let context = Context::new(&config, &store, &Arc::new(Host::new(&config)));
        for collector in collectors::registry(&context) {
            for desc in collector.descs() {
                let labels: Vec<&str> = desc.labels.iter().copied().chain(["store"]).collect();
                add(desc.name, &labels, desc.kind == SeriesKind::Counter);
            }
        }
        // What Prometheus itself makes.
        for name in ["up", "scrape_duration_seconds", "scrape_samples_scraped"] {
            add(name, &[], false);
        }
        for name in ["ALERTS", "ALERTS_FOR_STATE"] {
            add(name, &["alertname", "alertstate", "severity", "store", "code", "receiver"], false);
        }
        for name in recorded {
            add(name, &["store", "severity"], false);
        }
        Self { families, values: values() }
    }

    pub fn is_counter(&self, metric: &str) -> bool {
        self.families.get(metric).is_some_and(|family| family.counter)
    }

    /// What is wrong with the names of an expression.
    pub fn problems(&self, named: &Named) -> Vec<String> {
        let mut problems = Vec::new();
        let mut known = BTreeSet::new();
        for selector in &named.selectors {
            let Some(family) = self.families.get(&selector.metric) else {
                problems.push(format!("{} is not exported", selector.metric));
                continue;
            };
            known.extend(family.labels.iter().cloned());
            problems.extend(self.wrong_matchers(selector, family));
        }
        for label in named.labels.iter().filter(|label| !known.contains(*label)) {
            problems.push(format!("no series of it has the label {label}"));
        }
        problems
    }

    fn wrong_matchers(&self, selector: &Selector, family: &Family) -> Vec<String> {
        let mut problems = Vec::new();
        for matcher in &selector.matchers {
            let (metric, label) = (&selector.metric, &matcher.label);
            if !family.labels.contains(label) {
                problems.push(format!("{metric} has no label {label}"));
                continue;
            }
            if OPEN.contains(&label.as_str()) || matcher.value.contains('$') {
                continue;
            }
            let of_metric = self.values.get(&(metric.clone(), label.clone()));
            let of_all = self.values.get(&(String::new(), label.clone()));
            for value in matcher.value.split('|') {
                let known = of_metric.or(of_all).is_some_and(|values| values.contains(value));
                if !known {
                    problems.push(format!("{metric} never has {label}={value:?}"));
                }
            }
        }
        problems
    }
}

/// Values by metric and label, as the golden pages have them; those of closed lists for every metric.
fn values() -> BTreeMap<(String, String), BTreeSet<String>> {
    let mut values: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    for page in
        fs::read_dir(golden).expect("golden pages").map(|entry| entry.expect("entry").path())
    {
        if page.extension().is_none_or(|extension| extension != "prom") {
            continue;
        }
        for line in fs::read_to_string(page).expect("page").lines().filter(|l| !l.starts_with('#'))
        {
            let Some((metric, rest)) = line.split_once('{') else { continue };
            for pair in rest.split("\",") {
                if let Some((label, value)) = pair.split_once("=\"") {
                    let value = value.split('"').next().unwrap_or_default().to_owned();
                    values.entry((metric.to_owned(), label.to_owned())).or_default().insert(value);
                }
            }
        }
    }
    let mut closed = |metric: &str, label: &str, all: Vec<String>| {
        values.entry((metric.to_owned(), label.to_owned())).or_default().extend(all);
    };
    let codes = Code::ALL.iter().map(|code| code.as_str().to_owned()).collect::<Vec<_>>();
    // A host that has no server and no log to look at leaves their findings out.
    closed("chroma_finding", "code", codes.clone());
    closed("", "code", codes);
    let severities = ["critical", "warning", "info"].map(str::to_owned).to_vec();
    closed("chroma_finding", "severity", severities.clone());
    // Healthy stores have none that fires.
    closed("chroma_alert_firing", "severity", severities.clone());
    closed("", "severity", severities);
    closed("", "alertstate", ["firing", "pending"].map(str::to_owned).to_vec());
    let names = builtin::rules(&(&Disk::default()).into())
        .iter()
        .map(|rule| rule.name.to_string())
        .collect();
    closed("chroma_alert_firing", "alert", names);
    values
}
