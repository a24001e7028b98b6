//! The key figures of a store, picked out of its samples: what a person looks at first.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use crate::{
    history::{self, Row},
    sample::{CheckState, Sample, StoreReadings},
};

/// The key figures of one store.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Figures {
    /// By place in [`FIGURES`]; `None` where the series is not there.
    #[serde(rename = "figures", serialize_with = "known")]
    values: [Option<f64>; FIGURES.len()],
    /// In the order of the collector; a map in the document.
    #[serde(serialize_with = "by_name")]
    pub(crate) checks: Vec<Check>,
    /// What is under way, from 0 to 1, by what its samples are about; a map in the document.
    #[serde(serialize_with = "as_map")]
    pub(crate) progress: Vec<(String, f64)>,
}

/// One integrity check.
#[derive(Debug, Serialize)]
pub(crate) struct Check {
    #[serde(skip)]
    pub(crate) name: &'static str,
    pub(crate) state: CheckState,
    /// By series, see [`OF_CHECKS`].
    #[serde(flatten)]
    values: BTreeMap<&'static str, f64>,
}

/// Every series of which a figure is made; where one has labels it is the sum. In the document each stands under its name
/// without `chroma_`.
pub(crate) const FIGURES: [&str; 26] = [
    "chroma_disk_used_ratio",
    "chroma_disk_avail_bytes",
    "chroma_disk_size_bytes",
    "chroma_disk_full_timestamp_seconds",
    "chroma_store_apparent_bytes",
    "chroma_collections",
    "chroma_records",
    "chroma_records_without_vector",
    "chroma_queue_records",
    "chroma_process_servers",
    "chroma_process_writers",
    "chroma_process_resident_memory_bytes",
    "chroma_process_start_timestamp_seconds",
    "chroma_processes_unreadable",
    "chroma_server_up",
    "chroma_permission_entries",
    "chroma_permission_drift",
    "chroma_permission_unwritable",
    "chroma_permission_world_writable",
    "chroma_backups",
    "chroma_backup_age_seconds",
    "chroma_backup_size_bytes",
    "chroma_backups_proven",
    "chroma_backup_proven_timestamp_seconds",
    "chroma_backup_proven_records",
    "chroma_backup_last_proof_duration_seconds",
];

/// What is told of each check, by its label `check`.
pub(crate) const OF_CHECKS: [&str; 3] = [
    "chroma_integrity_last_run_timestamp_seconds",
    "chroma_integrity_last_ok_timestamp_seconds",
    "chroma_integrity_duration_seconds",
];

/// The check whose duration has a history: the one of the whole file that runs most often.
const TIMED: &str = "quick";

/// Families that end so tell how far something is.
const PROGRESS: &str = "_progress_ratio";

impl Figures {
    pub(crate) fn of(store: &StoreReadings) -> Self {
        let mut out = Self::default();
        for (name, state) in store.readings.iter().flat_map(|r| &r.observation.checks) {
            out.checks.push(Check { name, state: *state, values: BTreeMap::new() });
        }
        for sample in store.readings.iter().flat_map(|r| &r.observation.samples) {
            out.take(sample);
        }
        out
    }

    fn take(&mut self, sample: &Sample) {
        let name = sample.desc.name;
        if let Some(place) = FIGURES.iter().position(|known| *known == name) {
            *self.values[place].get_or_insert(0.0) += sample.value;
        } else if let Some(series) = OF_CHECKS.iter().find(|known| **known == name) {
            let label = sample.values.first().map(|label| &**label);
            if let Some(check) = self.checks.iter_mut().find(|check| Some(check.name) == label) {
                check.values.insert(short(series), sample.value);
            }
        } else if name.ends_with(PROGRESS) {
            let about = sample.values.iter().map(|label| &**label).collect::<Vec<_>>().join(" ");
            let subject = name.trim_start_matches("chroma_").trim_end_matches(PROGRESS);
            let subject = subject.replace('_', " ");
            self.progress.push((format!("{subject} {about}").trim().to_owned(), sample.value));
        }
    }

    /// The figure that is made of `series`, one of [`FIGURES`]; `None` where it is not known.
    pub(crate) fn get(&self, series: &str) -> Option<f64> {
        debug_assert!(FIGURES.contains(&series), "{series}");
        let place = FIGURES.iter().position(|known| *known == series)?;
        self.values[place].filter(|value| value.is_finite())
    }

    /// What the history keeps of them.
    pub(crate) fn row(&self) -> Row {
        let timed = self.checks.iter().find(|check| check.name == TIMED);
        let value = |series: history::Series| match series {
            history::Series::DiskUsed => self.get("chroma_disk_used_ratio"),
            history::Series::Records => self.get("chroma_records"),
            history::Series::CheckDuration => {
                timed.and_then(|check| check.get("chroma_integrity_duration_seconds"))
            }
            history::Series::BackupAge => self.get("chroma_backup_age_seconds"),
        };
        history::Series::ALL.map(value)
    }
}

impl Check {
    /// What one of [`OF_CHECKS`] says of it.
    pub(crate) fn get(&self, series: &str) -> Option<f64> {
        debug_assert!(OF_CHECKS.contains(&series), "{series}");
        self.values.get(short(series)).copied().filter(|value| value.is_finite())
    }
}

/// Names of figures in the document: as of the series, shorter.
fn short(series: &str) -> &str {
    let series = series.strip_prefix("chroma_").unwrap_or(series);
    series.strip_prefix("integrity_").unwrap_or(series)
}

fn known<S: Serializer>(values: &[Option<f64>], serializer: S) -> Result<S::Ok, S::Error> {
    let known = FIGURES.iter().zip(values);
    serializer.collect_map(known.filter_map(|(series, value)| Some((short(series), (*value)?))))
}

fn by_name<S: Serializer>(checks: &[Check], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(checks.iter().map(|check| (check.name, check)))
}

fn as_map<S: Serializer>(pairs: &[(String, f64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        collectors,
        config::{CollectorName, Config, Store},
        host::Host,
        sample::{Desc, Observation},
        store::Context,
    };

    #[test]
    fn every_figure_is_made_of_series_that_collectors_have() {
        let config = Arc::new(Config::default());
        let store = Arc::new(Store::new("s", "/s"));
        let context = Context::new(&config, &store, &Arc::new(Host::new(&config)));
        let collectors = CollectorName::ALL.map(|name| collectors::build(name, &context));
        let known: Vec<&Desc> = collectors.iter().flat_map(|c| c.descs().iter().copied()).collect();
        for series in FIGURES.iter().chain(&OF_CHECKS) {
            let desc = known.iter().find(|desc| desc.name == *series);
            let desc = desc.unwrap_or_else(|| panic!("nobody has {series}"));
            if OF_CHECKS.contains(series) {
                assert_eq!(desc.labels, ["check"], "{series}");
            }
        }
    }

    #[test]
    fn what_is_not_known_is_left_out_and_labels_are_summed() {
        static SIZE: Desc = Desc::gauge("chroma_store_apparent_bytes", "x").labelled(&["class"]);
        static TOOK: Desc =
            Desc::gauge("chroma_integrity_duration_seconds", "x").labelled(&["check"]);
        static BAR: Desc = Desc::gauge("chroma_integrity_progress_ratio", "x").labelled(&["check"]);
        let observation = Observation {
            samples: vec![
                SIZE.with(vec!["sqlite".into()], 5.0),
                SIZE.with(vec!["other".into()], 7.0),
                TOOK.with(vec!["quick".into()], 1.5),
                TOOK.with(vec!["full".into()], 9.0),
                BAR.with(vec!["full".into()], 0.25),
            ],
            checks: vec![("quick", CheckState::Ok), ("full", CheckState::Unknown)],
            ..Observation::default()
        };
        let figures = Figures::of(&StoreReadings::of_one("s", "/s", "x", observation));
        assert_eq!(figures.row(), [None, None, Some(1.5), None]);
        let want = serde_json::json!({
            "figures": {"store_apparent_bytes": 12.0},
            "checks": {
                "quick": {"state": "ok", "duration_seconds": 1.5},
                "full": {"state": "unknown", "duration_seconds": 9.0},
            },
            "progress": {"integrity full": 0.25},
        });
        assert_eq!(serde_json::to_value(&figures).unwrap(), want);
    }
}
