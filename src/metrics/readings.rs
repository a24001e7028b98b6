//! Families of one snapshot: what the collectors read, how they fared, what was found.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use prometheus::{
    core::Collector,
    proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};

use super::{
    alerts,
    bound::{self, Group},
    own::{self, Facts, Own, flag},
};
use crate::{
    findings::{Code, Severity},
    sample::{Desc, HEALTH, Kind, Sample, Snapshot, StoreReadings},
};

static FINDING: Desc = Desc::gauge(
    "chroma_finding",
    "Whether the finding is present (1) or was looked for and is absent (0); no series means not known, because a collector that answers for it could not judge it or has not run.",
)
.labelled(&["store", "code", "severity"]);
static STORE_INFO: Desc =
    Desc::gauge("chroma_store_info", "Persist directory of the store; always 1.")
        .labelled(&["store", "path"]);

pub(super) const DESCS: &[&Desc] =
    &[&HEALTH[0], &HEALTH[1], &HEALTH[2], &HEALTH[3], &FINDING, &STORE_INFO];

/// Everything on one page but the program's counters.
#[derive(Debug)]
pub(super) struct Readings {
    snapshot: Arc<Snapshot>,
    own: Own,
    facts: Facts,
    left_out: Vec<Group>,
}

impl Readings {
    pub(super) fn new(
        snapshot: &Arc<Snapshot>,
        own: &Own,
        facts: Facts,
        series_max: usize,
    ) -> Self {
        let must_stay = snapshot.stores.iter().map(must_stay).sum::<usize>()
            + alerts::series_of_stores(&facts.alerts, snapshot);
        let left_out = bound::left_out(groups(snapshot), series_max.saturating_sub(must_stay));
        Self { snapshot: Arc::clone(snapshot), own: own.clone(), facts, left_out }
    }

    /// How many series of collectors the bound keeps off the page.
    pub(super) fn dropped_series(&self) -> usize {
        self.left_out.iter().map(|group| group.series).sum()
    }
}

impl Collector for Readings {
    /// None: which families there are depends on what was read (`client_golang` calls such a collector unchecked).
    fn desc(&self) -> Vec<&prometheus::core::Desc> {
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = Families::default();
        let dropped: BTreeSet<(&str, usize)> =
            self.left_out.iter().map(|group| (group.family, group.store)).collect();
        for (place, store) in self.snapshot.stores.iter().enumerate() {
            families.add(&STORE_INFO, &[&store.store, &store.path.to_string_lossy()], 1.0);
            add_health(&mut families, store);
            for (code, severity, present) in findings(store) {
                let labels = [&*store.store, code.as_str(), severity.as_str()];
                families.add(&FINDING, &labels, flag(present));
            }
            for sample in samples(store) {
                if !dropped.contains(&(sample.desc.name, place)) {
                    families.add_of_store(&store.store, sample);
                }
            }
        }
        self.own.add_to(&mut families, &self.snapshot, &self.facts);
        alerts::add_to(&mut families, &self.facts.alerts, &self.snapshot);
        families.add(&own::DROPPED_SERIES, &[], self.dropped_series() as f64);
        families.finish()
    }
}

/// How many series of a store are on the page whatever the bound says.
fn must_stay(store: &StoreReadings) -> usize {
    1 + store.readings.len() * HEALTH.len() + findings(store).len()
}

/// The samples of each family of each store.
fn groups(snapshot: &Snapshot) -> Vec<Group> {
    let mut sizes: BTreeMap<(&'static str, usize), usize> = BTreeMap::new();
    for (place, store) in snapshot.stores.iter().enumerate() {
        for sample in samples(store) {
            *sizes.entry((sample.desc.name, place)).or_default() += 1;
        }
    }
    let groups = sizes.into_iter();
    groups.map(|((family, store), series)| Group { family, store, series }).collect()
}

fn samples(store: &StoreReadings) -> impl Iterator<Item = &Sample> {
    store.readings.iter().flat_map(|reading| &reading.observation.samples)
}

fn add_health(families: &mut Families, store: &StoreReadings) {
    for reading in &store.readings {
        let labels = [&*store.store, reading.collector];
        for (desc, value) in HEALTH.iter().zip(reading.health()) {
            families.add(desc, &labels, value);
        }
    }
}

/// 1 for each severity at which a code was found. 0 at the severity of the catalogue for a code that was looked for and
/// not found there, so that `chroma_finding == 1` needs no `absent()` and a graver or lighter finding of the same code
/// leaves no stale 1 behind: its own series vanishes with it. A failed run gives no 0 but for the codes that it judged
/// all the same: what was not looked at is unknown, and unknown is not healthy.
fn findings(store: &StoreReadings) -> Vec<(Code, Severity, bool)> {
    let mut found: BTreeSet<(Code, Severity)> = BTreeSet::new();
    let mut looked_for: BTreeMap<Code, bool> = BTreeMap::new();
    for reading in &store.readings {
        found.extend(reading.observation.findings.iter().map(|f| (f.code, f.severity)));
        for code in reading.answers() {
            *looked_for.entry(code).or_insert(true) &= reading.judged(code);
        }
    }
    let absent = looked_for
        .into_iter()
        .filter(|(code, in_full)| *in_full && !found.contains(&(*code, code.severity())))
        .map(|(code, _)| (code, code.severity(), false));
    let present = found.iter().map(|(code, severity)| (*code, *severity, true));
    present.chain(absent).collect()
}

/// Families under construction, by name.
#[derive(Debug, Default)]
pub(super) struct Families {
    by_name: BTreeMap<&'static str, (&'static Desc, Vec<Metric>)>,
}

impl Families {
    /// Adds a series whose description names all its labels.
    pub(super) fn add(&mut self, desc: &'static Desc, values: &[&str], value: f64) {
        let labels = desc.labels.iter().zip(values).map(|(name, value)| pair(name, value));
        self.insert(desc, labels.collect(), value);
    }

    /// Adds a series of a collector: the label `store` goes in front.
    fn add_of_store(&mut self, store: &str, sample: &Sample) {
        let labels = sample.desc.labels.iter().zip(&sample.values);
        let labels = labels.map(|(name, value)| pair(name, value));
        let labels = std::iter::once(pair("store", store)).chain(labels).collect();
        self.insert(sample.desc, labels, sample.value);
    }

    fn insert(&mut self, desc: &'static Desc, labels: Vec<LabelPair>, value: f64) {
        // Never a reading, but a division by zero on the way to one.
        if !value.is_finite() {
            return;
        }
        let (desc, metrics) = self.by_name.entry(desc.name).or_insert_with(|| (desc, Vec::new()));
        let mut metric = Metric::from_label(labels);
        match desc.kind {
            Kind::Gauge => {
                let mut gauge = Gauge::default();
                gauge.set_value(value);
                metric.set_gauge(gauge);
            }
            Kind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(value);
                metric.set_counter(counter);
            }
        }
        metrics.push(metric);
    }

    fn finish(self) -> Vec<MetricFamily> {
        self.by_name.into_values().map(|(desc, metrics)| family(desc, metrics)).collect()
    }
}

fn family(desc: &Desc, mut metrics: Vec<Metric>) -> MetricFamily {
    // A second series with the same labels would spoil the page for Prometheus; the first one stays.
    // (`LabelPair` itself is ordered by name alone.)
    metrics.sort_by(|a, b| words(a).cmp(words(b)));
    metrics.dedup_by(|a, b| a.get_label() == b.get_label());
    let mut family = MetricFamily::default();
    family.set_name(desc.name.to_owned());
    family.set_help(desc.help.to_owned());
    family.set_field_type(match desc.kind {
        Kind::Gauge => MetricType::GAUGE,
        Kind::Counter => MetricType::COUNTER,
    });
    family.set_metric(metrics);
    family
}

fn words(metric: &Metric) -> impl Iterator<Item = (&str, &str)> {
    metric.get_label().iter().map(|label| (label.name(), label.value()))
}

fn pair(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    // Prometheus' scanner takes a NUL for the end of the page (promlex.l): one in a name from disk would cut it off.
    pair.set_value(value.replace('\0', "\u{fffd}"));
    pair
}
