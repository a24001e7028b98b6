//! Families of one snapshot: what the collectors read, how they fared, what was found.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    alerts,
    bound::{self, Group},
    families::{Families, Labels},
    own::{self, Facts, Own, flag},
};
use crate::{
    findings::{Code, Severity},
    sample::{Desc, HEALTH, Sample, SeriesKind, Snapshot, StoreReadings},
};

static FINDING: Desc = Desc::gauge(
    "chroma_finding",
    "1 when the finding is present, 0 when it was looked for and is absent. No series means that it is not known, because its collector could not judge it or has not run.",
)
.labelled(&["store", "code", "severity"]);
static STORE_INFO: Desc =
    Desc::gauge("chroma_store_info", "Persist directory of the store. Always 1.")
        .labelled(&["store", "path"]);

pub(super) const DESCS: &[&Desc] =
    &[&HEALTH[0], &HEALTH[1], &HEALTH[2], &HEALTH[3], &FINDING, &STORE_INFO];

/// Everything on one page but the program's counters.
#[derive(Debug)]
pub(super) struct Readings<'a> {
    snapshot: &'a Snapshot,
    /// What a running exporter tells of itself; `None` for a page of one look.
    around: Option<(&'a Own, &'a Facts)>,
    left_out: Vec<Group>,
}

impl<'a> Readings<'a> {
    pub(super) fn new(
        snapshot: &'a Snapshot,
        around: Option<(&'a Own, &'a Facts)>,
        series_max: usize,
    ) -> Self {
        let alerts =
            around.map_or(0, |(_, facts)| alerts::series_of_stores(&facts.alerts, snapshot));
        let must_stay = snapshot.stores.iter().map(must_stay).sum::<usize>() + alerts;
        let left_out = bound::left_out(groups(snapshot), series_max.saturating_sub(must_stay));
        Self { snapshot, around, left_out }
    }

    /// How many series of collectors the bound keeps off the page.
    pub(super) fn dropped_series(&self) -> usize {
        self.left_out.iter().map(|group| group.series).sum()
    }

    /// All families; which there are depends on what was read.
    pub(super) fn families(&self) -> Families<'a> {
        let mut families = Families::default();
        let dropped: BTreeSet<(&str, usize)> =
            self.left_out.iter().map(|group| (group.family, group.store)).collect();
        for (place, store) in self.snapshot.stores.iter().enumerate() {
            let path = store.path.to_string_lossy();
            families.insert(&STORE_INFO, Labels::Path(&store.store, path), 1.0);
            add_health(&mut families, store);
            for (code, severity, present) in findings(store) {
                let labels = [&*store.store, code.as_str(), severity.as_str()];
                families.add(&FINDING, &labels, flag(present));
            }
            for sample in samples(store) {
                // A counter of one look begins at zero each time: no rate of it means anything.
                let counts = self.around.is_some() || sample.desc.kind == SeriesKind::Gauge;
                if counts && !dropped.contains(&(sample.desc.name, place)) {
                    families.insert(sample.desc, Labels::Of(&store.store, sample), sample.value);
                }
            }
        }
        own::add_page(&mut families, self.snapshot);
        if let Some((own, facts)) = self.around {
            own.add_to(&mut families, self.snapshot, facts);
            alerts::add_to(&mut families, &facts.alerts, self.snapshot);
        }
        families.add(&own::DROPPED_SERIES, &[], self.dropped_series() as f64);
        families
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

fn add_health<'a>(families: &mut Families<'a>, store: &'a StoreReadings) {
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
