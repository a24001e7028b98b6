//! Families of one snapshot: what the collectors read, how they fared, what was found.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use prometheus::{
    Encoder, TextEncoder,
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
pub(super) struct Readings<'a> {
    snapshot: &'a Snapshot,
    own: &'a Own,
    facts: &'a Facts,
    left_out: Vec<Group>,
}

impl<'a> Readings<'a> {
    pub(super) fn new(
        snapshot: &'a Snapshot,
        own: &'a Own,
        facts: &'a Facts,
        series_max: usize,
    ) -> Self {
        let must_stay = snapshot.stores.iter().map(must_stay).sum::<usize>()
            + alerts::series_of_stores(&facts.alerts, snapshot);
        let left_out = bound::left_out(groups(snapshot), series_max.saturating_sub(must_stay));
        Self { snapshot, own, facts, left_out }
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
                if !dropped.contains(&(sample.desc.name, place)) {
                    families.insert(sample.desc, Labels::Of(&store.store, sample), sample.value);
                }
            }
        }
        self.own.add_to(&mut families, self.snapshot, self.facts);
        alerts::add_to(&mut families, &self.facts.alerts, self.snapshot);
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

/// Families under construction, by name. A series takes a hundred bytes here and five hundred as the encoder wants it, so that
/// these are made for a part of a family at a time.
#[derive(Debug, Default)]
pub(super) struct Families<'a> {
    by_name: BTreeMap<&'static str, (&'static Desc, Vec<Row<'a>>)>,
}

/// One series.
#[derive(Debug)]
struct Row<'a> {
    labels: Labels<'a>,
    value: f64,
}

/// Label values in the order of the names, without copies of them.
#[derive(Debug)]
enum Labels<'a> {
    /// At most as many as there is room for; the rest is empty.
    Words([&'a str; WORDS_MAX]),
    /// Of a collector: the label `store` goes in front.
    Of(&'a str, &'a Sample),
    /// A store, and its path, which may not be text.
    Path(&'a str, Cow<'a, str>),
}

const WORDS_MAX: usize = 3;

impl<'a> Families<'a> {
    /// Adds a series whose description names all its labels, at most [`WORDS_MAX`].
    pub(super) fn add(&mut self, desc: &'static Desc, values: &[&'a str], value: f64) {
        debug_assert!(values.len() == desc.labels.len() && values.len() <= WORDS_MAX, "{desc:?}");
        let word = |place: usize| values.get(place).copied().unwrap_or_default();
        self.insert(desc, Labels::Words(std::array::from_fn(word)), value);
    }

    fn insert(&mut self, desc: &'static Desc, labels: Labels<'a>, value: f64) {
        // Never a reading, but a division by zero on the way to one.
        if value.is_finite() {
            let (_, rows) = self.by_name.entry(desc.name).or_insert_with(|| (desc, Vec::new()));
            rows.push(Row { labels, value });
        }
    }

    /// Writes all of them and `others`, by name. Errs when the `prometheus` crate refuses a family.
    pub(super) fn encode(
        self,
        others: Vec<MetricFamily>,
        page: &mut Vec<u8>,
    ) -> prometheus::Result<()> {
        let mut others = others.into_iter().peekable();
        for (name, (desc, rows)) in self.by_name {
            while let Some(other) = others.next_if(|other| other.name() < name) {
                TextEncoder::new().encode(&[other], page)?;
            }
            encode_family(desc, rows, page)?;
        }
        TextEncoder::new().encode(&others.collect::<Vec<_>>(), page)
    }
}

fn encode_family(
    desc: &'static Desc,
    mut rows: Vec<Row<'_>>,
    page: &mut Vec<u8>,
) -> prometheus::Result<()> {
    // A second series with the same labels would spoil the page for Prometheus; the first one stays.
    rows.sort_by(|a, b| a.labels.words(desc).cmp(b.labels.words(desc)));
    rows.dedup_by(|a, b| a.labels.words(desc).eq(b.labels.words(desc)));
    for (number, part) in rows.chunks(PART).enumerate() {
        let family = family(desc, part);
        let begin = page.len();
        TextEncoder::new().encode(&[family], page)?;
        if number > 0 {
            // Each part comes with the two lines that say what the family is.
            let lines = page[begin..].split_inclusive(|byte| *byte == b'\n').take(2);
            let head: usize = lines.map(<[u8]>::len).sum();
            page.drain(begin..begin + head);
        }
    }
    Ok(())
}

/// Series of a family that are made ready for the encoder at a time.
const PART: usize = 1024;

fn family(desc: &'static Desc, rows: &[Row<'_>]) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(desc.name.to_owned());
    family.set_help(desc.help.to_owned());
    family.set_field_type(match desc.kind {
        Kind::Gauge => MetricType::GAUGE,
        Kind::Counter => MetricType::COUNTER,
    });
    family.set_metric(rows.iter().map(|row| row.metric(desc)).collect());
    family
}

impl Row<'_> {
    fn metric(&self, desc: &'static Desc) -> Metric {
        let names = self.labels.names(desc);
        let pairs = names.zip(self.labels.words(desc)).map(|(name, value)| pair(name, value));
        let mut metric = Metric::from_label(pairs.collect());
        match desc.kind {
            Kind::Gauge => {
                let mut gauge = Gauge::default();
                gauge.set_value(self.value);
                metric.set_gauge(gauge);
            }
            Kind::Counter => {
                let mut counter = Counter::default();
                counter.set_value(self.value);
                metric.set_counter(counter);
            }
        }
        metric
    }
}

impl Labels<'_> {
    fn names(&self, desc: &'static Desc) -> impl Iterator<Item = &'static str> + use<> {
        let store = matches!(self, Self::Of(..)).then_some("store");
        store.into_iter().chain(desc.labels.iter().copied())
    }

    fn words(&self, desc: &'static Desc) -> impl Iterator<Item = &str> {
        let count = match self {
            Self::Words(_) => desc.labels.len(),
            Self::Of(_, sample) => 1 + sample.values.len().min(desc.labels.len()),
            Self::Path(..) => 2,
        };
        (0..count).map(move |place| match (self, place) {
            (Self::Words(words), _) => words[place],
            (Self::Of(store, _) | Self::Path(store, _), 0) => store,
            (Self::Of(_, sample), _) => &sample.values[place - 1],
            (Self::Path(_, path), _) => path,
        })
    }
}

fn pair(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    // Prometheus' scanner takes a NUL for the end of the page (promlex.l): one in a name from disk would cut it off.
    pair.set_value(value.replace('\0', "\u{fffd}"));
    pair
}
