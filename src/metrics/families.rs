//! Families on their way to the encoder.

use std::{borrow::Cow, collections::BTreeMap};

use prometheus::{
    Encoder, TextEncoder,
    proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType},
};

use crate::sample::{Desc, Sample, SeriesKind};

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
pub(super) enum Labels<'a> {
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

    /// Adds a series; one that is no number is left out.
    pub(super) fn insert(&mut self, desc: &'static Desc, labels: Labels<'a>, value: f64) {
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
        SeriesKind::Gauge => MetricType::GAUGE,
        SeriesKind::Counter => MetricType::COUNTER,
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
            SeriesKind::Gauge => {
                let mut gauge = Gauge::default();
                gauge.set_value(self.value);
                metric.set_gauge(gauge);
            }
            SeriesKind::Counter => {
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
