//! Plain data that every room shares: what a series is, what one reading of a collector gave, and the immutable
//! snapshot of all of them. Nothing here decides anything.

use std::{path::PathBuf, sync::Arc, time::Duration};

use crate::{
    clock::Timestamp,
    facts::{error::CollectError, trial::Trial},
    findings::{Code, Finding},
    firsts::Firsts,
};

/// Whether a series may only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeriesKind {
    /// May go both ways.
    Gauge,
    /// Only grows, or starts again at zero; its name ends in `_total`.
    Counter,
}

/// Name, help and labels of a family of series. Lives beside the collector that yields it, shared with its tests.
#[derive(Debug, PartialEq, Eq)]
pub struct Desc {
    /// Full name, base unit last: `chroma_disk_avail_bytes`.
    pub name: &'static str,
    /// One sentence. Says "cached" when the reading is older than a turn.
    pub help: &'static str,
    /// Gauge or counter.
    pub kind: SeriesKind,
    /// Label names in order, without `store`, which every reading of a store gets from its snapshot.
    pub labels: &'static [&'static str],
}

impl Desc {
    /// A gauge without labels of its own.
    #[must_use]
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: SeriesKind::Gauge, labels: &[] }
    }

    /// A counter without labels of its own.
    #[must_use]
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self { name, help, kind: SeriesKind::Counter, labels: &[] }
    }

    /// The same with labels.
    #[must_use]
    pub const fn labelled(self, labels: &'static [&'static str]) -> Self {
        Self { labels, ..self }
    }

    /// One sample of a family without labels.
    #[must_use]
    pub fn sample(&'static self, value: f64) -> Sample {
        self.with(Vec::new(), value)
    }

    /// One sample with its label values, in the order of [`Desc::labels`].
    #[must_use]
    pub fn with(&'static self, values: Vec<Label>, value: f64) -> Sample {
        debug_assert_eq!(values.len(), self.labels.len(), "{}", self.name);
        // A sum of nothing is -0, which nobody wants to read.
        Sample { desc: self, values, value: value + 0.0 }
    }
}

/// A label value: nearly always one of a closed list.
pub type Label = std::borrow::Cow<'static, str>;

/// One value of one series at the moment of its observation.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// The family.
    pub desc: &'static Desc,
    /// Label values in the order of the family's label names.
    pub values: Vec<Label>,
    /// The value, in the unit that the name ends with.
    pub value: f64,
}

/// What one run of a collector gave: samples, findings, and what it could not read.
#[derive(Debug, Default)]
pub struct Observation {
    /// Samples without the `store` label.
    pub samples: Vec<Sample>,
    /// Findings of this run.
    pub findings: Vec<Finding>,
    /// States of the checks of the `integrity` collector, for `check` and the status page; empty for the others.
    pub checks: Vec<(&'static str, CheckState)>,
    /// Why a check is in another state than ok, for each that is and that no finding explains.
    pub reasons: Vec<(&'static str, String)>,
    /// What a single turn left out because it was not asked for: the verdict is not about it.
    pub left_out: Vec<&'static str>,
    /// What came of asking SQLite beside the full check, where `check` was told to.
    pub compared: Option<String>,
    /// What could not be read. Not empty means that the run failed, whatever else it gave; then a finding that is
    /// absent was not disproved, unless its code is in `judged`.
    pub problems: Vec<CollectError>,
    /// The codes that a failed run could judge all the same: absent findings of these are disproved. Without it, one
    /// folder that can never be read would keep a full disk alarming for ever.
    pub judged: Vec<Code>,
    /// The codes that a run could not judge although nothing failed: what they are about cannot be seen from here. Their series
    /// are left out, and a finding of the run before stays.
    pub unjudged: Vec<Code>,
    /// Which releases of Chroma open the store, in words, as far as its migrations say.
    pub opened_by: Option<String>,
    /// The restores of the store that have left a folder, the newest first.
    pub restores: Vec<Restored>,
}

/// A restore that came to its end, and whose old content is still there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// When it ended, or was undone.
    pub at: Timestamp,
    /// What was put in place: `restored from /b/x.tar.zst`, `repaired: the full text was made anew`.
    pub what: String,
    /// The folder that keeps what was there before, or what was restored when it was undone.
    pub kept: PathBuf,
    /// Whether it was undone.
    pub undone: bool,
    /// Whether `restore --undo` can put back what was there: there was a database, and it is not undone.
    pub undoable: bool,
}

impl Observation {
    /// Whether the absence of a finding with this code disproves it.
    #[must_use]
    pub fn disproves(&self, code: Code) -> bool {
        (self.problems.is_empty() || self.judged.contains(&code)) && !self.unjudged.contains(&code)
    }
}

impl Observation {
    /// Whether every rule would judge both the same; how the runs fared aside. Two that failed never say the same.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.problems.is_empty()
            && other.problems.is_empty()
            && self.findings == other.findings
            && self.judged == other.judged
            && self.unjudged == other.unjudged
            && self.samples == other.samples
    }
}

/// The five answers of an integrity check. Busy is not corrupt, unknown is not healthy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckState {
    /// Looked at in full, nothing wrong.
    Ok,
    /// Damage proved.
    Corrupt,
    /// A writer was at work; nothing can be said this time.
    Busy,
    /// The file could not be opened or read.
    Unreadable,
    /// Never run yet, or given up before the end.
    Unknown,
}

impl CheckState {
    /// All states, in the order of their series.
    pub const ALL: [Self; 5] =
        [Self::Ok, Self::Corrupt, Self::Busy, Self::Unreadable, Self::Unknown];

    /// The word of the `state` label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Corrupt => "corrupt",
            Self::Busy => "busy",
            Self::Unreadable => "unreadable",
            Self::Unknown => "unknown",
        }
    }
}

/// The last run of one collector over one store.
#[derive(Debug)]
pub struct Reading {
    /// Name of the collector.
    pub collector: &'static str,
    /// The families that it may yield, for HELP and TYPE and for the cardinality bound.
    pub descs: &'static [&'static Desc],
    /// What it gave.
    pub observation: Observation,
    /// When the run began.
    pub taken_at: Timestamp,
    /// How long it took.
    pub duration: Duration,
    /// When a run last gave no problem; `None` before the first.
    pub last_success: Option<Timestamp>,
    /// Within which time the next run should have ended, as the collector says: the longer of its interval and its deadline.
    pub next_within: Duration,
    /// The findings that it answers for, so that an absent one can be exported as 0.
    pub codes: &'static [Code],
}

impl Reading {
    /// Whether the run could read all that it should.
    #[must_use]
    pub fn success(&self) -> bool {
        self.observation.problems.is_empty()
    }

    /// Whether all that it could not read is out of sight in the place that this program runs in, so that nothing failed.
    #[must_use]
    pub fn limited_by_place(&self) -> bool {
        !self.success() && self.observation.problems.iter().all(CollectError::by_place)
    }

    /// The codes that it answers for: those of the collector, and that it fails itself.
    pub fn answers(&self) -> impl Iterator<Item = Code> {
        self.codes.iter().copied().chain([Code::CollectorFailing])
    }

    /// Whether the absence of a finding with this code disproves it.
    #[must_use]
    pub fn judged(&self, code: Code) -> bool {
        self.observation.disproves(code)
    }

    /// How the run fared, a value for each family of [`HEALTH`].
    #[must_use]
    pub fn health(&self) -> [f64; HEALTH.len()] {
        [
            self.duration.as_secs_f64(),
            f64::from(u8::from(self.success())),
            // Prometheus gives 0 to the moment of what never happened (prometheus_config_last_reload_success_timestamp_seconds),
            // so that `time() - x` is large and an alert on age fires; a series that is not there would keep it silent.
            self.last_success.map_or(0.0, Timestamp::as_secs_f64),
            self.taken_at.as_secs_f64(),
        ]
    }
}

/// The families that every collector has, whatever it reads; their labels are `store` and `collector`.
pub static HEALTH: [Desc; 4] = [
    Desc::gauge(
        "chroma_exporter_collector_duration_seconds",
        "How long the last run of the collector took.",
    )
    .labelled(HEALTH_LABELS),
    Desc::gauge(
        "chroma_exporter_collector_success",
        "Whether the last run of the collector could read all that it should.",
    )
    .labelled(HEALTH_LABELS),
    Desc::gauge(
        "chroma_exporter_collector_last_success_timestamp_seconds",
        "When the last run without a problem began, as seconds since the epoch. 0 when there was none since the start.",
    )
    .labelled(HEALTH_LABELS),
    Desc::gauge(
        "chroma_exporter_collector_last_run_timestamp_seconds",
        "When the last run began, as seconds since the epoch.",
    )
    .labelled(HEALTH_LABELS),
];

const HEALTH_LABELS: &[&str] = &["store", "collector"];

/// All readings of one store.
#[derive(Debug, Clone)]
pub struct StoreReadings {
    /// Value of the `store` label.
    pub store: Arc<str>,
    /// The persist directory, as configured.
    pub path: Arc<std::path::Path>,
    /// One reading per collector that has run, in the order of the registry.
    pub readings: Vec<Arc<Reading>>,
    /// Since when each of their findings is there.
    pub firsts: Arc<Firsts>,
    /// What came of trying a repair on a copy, as long as there is something to repair.
    pub trial: Option<Arc<Trial>>,
    /// Number of collectors that shall run; the snapshot of the store is complete when as many readings are there.
    pub collectors: usize,
}

#[cfg(test)]
impl StoreReadings {
    /// A store of which one collector has given one reading, at moment 0.
    pub(crate) fn of_one(
        store: &str,
        path: &str,
        collector: &'static str,
        observation: Observation,
    ) -> Self {
        let reading = Reading {
            collector,
            descs: &[],
            observation,
            taken_at: Timestamp::from_secs(0),
            duration: Duration::ZERO,
            last_success: None,
            next_within: Duration::from_secs(30),
            codes: &[],
        };
        Self {
            store: store.into(),
            path: std::path::Path::new(path).into(),
            readings: vec![Arc::new(reading)],
            firsts: Arc::default(),
            trial: None,
            collectors: 1,
        }
    }
}

/// Everything known at one moment. Immutable and replaced whole: page, hooks and status read the same one.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// When it was put together.
    pub taken_at: Timestamp,
    /// Stores in the order of the configuration.
    pub stores: Vec<StoreReadings>,
}

impl Snapshot {
    /// Whether every collector of every store has run at least once.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.stores.iter().all(|s| s.readings.len() >= s.collectors)
    }
}
