//! The document of a running exporter, `/api/v1/status`: that of `check`, and what only a running one knows. It holds no secret:
//! of a receiver it has the name that the operator gave it, its type and counts.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::{Status, StoreReport, figures::Figures};
use crate::{
    alert::{
        message::{Alert, Failure},
        report::AlertReport,
    },
    clock::Timestamp,
    findings::{Code, Severity},
    history::{History, Ring, STEP, Series},
    human::plain,
    sample::{Reading, Snapshot, StoreReadings},
};

/// Everything that is known at one moment.
#[derive(Debug, Serialize)]
pub(crate) struct Live {
    /// The gravest of the stores'; unknown without any.
    pub(crate) status: Status,
    #[serde(serialize_with = "moment")]
    pub(crate) generated_at: Timestamp,
    /// Name of this host, as the operator knows it.
    pub(crate) host: String,
    pub(crate) version: &'static str,
    pub(crate) revision: &'static str,
    /// In the order of the configuration.
    pub(crate) stores: Vec<LiveStore>,
    /// Those that fire and those that wait for their hold to pass, the most urgent first.
    pub(crate) alerts: Vec<LiveAlert>,
    pub(crate) silences: Vec<LiveSilence>,
    pub(crate) receivers: Vec<LiveReceiver>,
    /// What is wrong with a configuration that was refused; then the one before it is still in force.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) configuration_refused: Option<Refused>,
    /// Whether alerts and messages are on disk; without it a restart forgets them.
    pub(crate) alerts_persistent: bool,
}

/// One store: what `check` says of it, and how it came to be known.
#[derive(Debug, Serialize)]
pub(crate) struct LiveStore {
    #[serde(flatten)]
    pub(crate) report: StoreReport,
    #[serde(flatten)]
    pub(crate) figures: Figures,
    /// By name.
    pub(crate) collectors: BTreeMap<&'static str, CollectorReport>,
    /// Collectors that have not run yet.
    pub(crate) collectors_missing: usize,
    pub(crate) history: Option<LiveHistory>,
}

/// How one collector fares.
#[derive(Debug, Serialize)]
pub(crate) struct CollectorReport {
    pub(crate) success: bool,
    #[serde(serialize_with = "moment")]
    pub(crate) last_run: Timestamp,
    #[serde(serialize_with = "perhaps")]
    pub(crate) last_success: Option<Timestamp>,
    pub(crate) duration_seconds: f64,
}

/// An alert that is pending or fires.
#[derive(Debug, Serialize)]
pub(crate) struct LiveAlert {
    pub(crate) alert: String,
    /// `firing` or `pending`.
    pub(crate) state: &'static str,
    pub(crate) severity: Severity,
    /// The code of the finding behind it; empty for a rule of the operator's own.
    pub(crate) code: &'static str,
    pub(crate) store: String,
    #[serde(serialize_with = "moment")]
    pub(crate) since: Timestamp,
    pub(crate) summary: String,
    pub(crate) evidence: String,
    /// The number and its limit as a person says it; empty for alerts over findings.
    pub(crate) reading: String,
    /// Ids of the silences that hold it back.
    pub(crate) silenced_by: Vec<String>,
}

/// A silence that is in force.
#[derive(Debug, Serialize)]
pub(crate) struct LiveSilence {
    pub(crate) id: String,
    /// Shell patterns.
    pub(crate) store: String,
    pub(crate) alert: String,
    #[serde(serialize_with = "moment")]
    pub(crate) since: Timestamp,
    #[serde(serialize_with = "moment")]
    pub(crate) until: Timestamp,
    pub(crate) comment: String,
    pub(crate) by: String,
}

/// How delivery to one receiver fares, counted since the start.
#[derive(Debug, Serialize)]
pub(crate) struct LiveReceiver {
    pub(crate) receiver: String,
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    /// Alerts that wait to be told.
    pub(crate) queued: usize,
    /// Since when the oldest of them waits.
    #[serde(serialize_with = "perhaps")]
    pub(crate) oldest: Option<Timestamp>,
    #[serde(serialize_with = "perhaps")]
    pub(crate) last_success: Option<Timestamp>,
    pub(crate) attempts: u64,
    /// Attempts that failed, by reason.
    pub(crate) failed: BTreeMap<&'static str, u64>,
    /// Alerts that were given up.
    pub(crate) dead_letters: u64,
    /// Why the last attempt failed, in words; absent after one that arrived.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_failure: Option<LastFailure>,
}

/// An attempt that failed.
#[derive(Debug, Serialize)]
pub(crate) struct LastFailure {
    #[serde(serialize_with = "moment")]
    pub(crate) at: Timestamp,
    pub(crate) why: String,
}

/// A configuration that could not be loaded.
#[derive(Debug, Serialize)]
pub(crate) struct Refused {
    #[serde(serialize_with = "moment")]
    pub(crate) at: Timestamp,
    /// One each; without secrets.
    pub(crate) problems: Vec<String>,
}

/// The last hours of a store, oldest point first; `null` where nothing is known.
#[derive(Debug, Serialize)]
pub(crate) struct LiveHistory {
    /// When the newest point begins.
    #[serde(serialize_with = "moment")]
    until: Timestamp,
    step_seconds: u64,
    disk_used_ratio: Points,
    records: Points,
    check_duration_seconds: Points,
    backup_age_seconds: Points,
}

/// Items of a finding that stand in the document itself, which is made anew every second: the rest is asked for in pages.
const ITEMS_SHOWN: usize = 10;

/// The points of one series.
pub(crate) type Points = Vec<Option<f64>>;

impl Live {
    /// What `snapshot` and `report` say, with the history up to now.
    pub(crate) fn new(
        host: &str,
        snapshot: &Snapshot,
        figures: Vec<Figures>,
        report: &AlertReport,
        history: &History,
    ) -> Self {
        let stores: Vec<LiveStore> = snapshot
            .stores
            .iter()
            .zip(figures)
            .map(|(store, figures)| LiveStore::new(store, figures, history.of(&store.store)))
            .collect();
        let mut alerts: Vec<LiveAlert> = report
            .firing
            .iter()
            .map(|alert| LiveAlert::new(alert, "firing", report))
            .chain(report.pending.iter().map(|alert| LiveAlert::new(alert, "pending", report)))
            .collect();
        // By the place of what they are about among the findings of the store, so that causes stand first here too. The sorts
        // are stable: among equals those that fire stand first, by store and name.
        let places: BTreeMap<(&str, &str), usize> = stores
            .iter()
            .flat_map(|store| {
                let findings = store.report.findings.iter().enumerate();
                findings.rev().map(|(at, f)| ((&*store.report.store, f.code.as_str()), at))
            })
            .collect();
        alerts.sort_by_cached_key(|alert| {
            let place = places.get(&(&*alert.store, alert.code)).copied().unwrap_or(usize::MAX);
            (std::cmp::Reverse(alert.severity), alert.state, alert.store.clone(), place)
        });
        Self {
            status: stores.iter().map(|s| s.report.status).max().unwrap_or(Status::Unknown),
            generated_at: snapshot.taken_at,
            host: plain(host),
            version: crate::VERSION,
            revision: crate::REVISION,
            stores,
            alerts,
            silences: report.silences.iter().map(LiveSilence::new).collect(),
            receivers: report
                .receivers
                .iter()
                .map(|(name, receiver)| LiveReceiver {
                    receiver: plain(name),
                    kind: receiver.kind,
                    queued: receiver.queued,
                    oldest: receiver.oldest,
                    last_success: receiver.counts.last_success,
                    attempts: receiver.counts.attempts,
                    failed: Failure::ALL
                        .into_iter()
                        .filter_map(|failure| {
                            let count = *receiver.counts.failed.get(&failure)?;
                            Some((failure.as_str(), count))
                        })
                        .collect(),
                    dead_letters: receiver.counts.dead_letters,
                    last_failure: receiver
                        .failure
                        .as_ref()
                        .map(|(at, why)| LastFailure { at: *at, why: plain(why) }),
                })
                .collect(),
            configuration_refused: None,
            alerts_persistent: report.persistent,
        }
    }

    /// The same with what the newest configuration was refused for.
    pub(crate) fn with_refused(self, refused: Option<(Timestamp, String)>) -> Self {
        let configuration_refused =
            refused.map(|(at, text)| Refused { at, problems: text.lines().map(plain).collect() });
        Self { configuration_refused, ..self }
    }

    /// How many stores fare so.
    pub(crate) fn count(&self, status: Status) -> usize {
        self.stores.iter().filter(|store| store.report.status == status).count()
    }

    /// The stores, the most urgent first; equals in the order of the configuration.
    pub(crate) fn worst_first(&self) -> Vec<&LiveStore> {
        let mut stores: Vec<&LiveStore> = self.stores.iter().collect();
        stores.sort_by_key(|store| std::cmp::Reverse(store.report.status));
        stores
    }
}

impl LiveStore {
    fn new(store: &StoreReadings, figures: Figures, ring: Option<&Ring>) -> Self {
        let seen = store.readings.iter().map(|r| (r.collector, &r.observation));
        let mut report =
            StoreReport::new(&store.store, &store.path, seen, ITEMS_SHOWN, &store.firsts);
        if let Some(trial) = &store.trial {
            report.add_trial(trial);
        }
        let missing = store.collectors.saturating_sub(store.readings.len());
        if missing > 0 {
            report.status = report.status.max(Status::Unknown);
        }
        let collectors = store.readings.iter().map(|r| (r.collector, CollectorReport::new(r)));
        Self {
            report,
            figures,
            collectors: collectors.collect(),
            collectors_missing: missing,
            history: ring.map(LiveHistory::new),
        }
    }
}

impl CollectorReport {
    fn new(reading: &Reading) -> Self {
        Self {
            success: reading.success(),
            last_run: reading.taken_at,
            last_success: reading.last_success,
            duration_seconds: reading.duration.as_secs_f64(),
        }
    }
}

impl LiveAlert {
    fn new(alert: &Alert, state: &'static str, report: &AlertReport) -> Self {
        let silences = report.silences.iter().filter(|silence| silence.hides(alert));
        Self {
            alert: plain(&alert.name),
            state,
            severity: alert.severity,
            code: Code::ALL.iter().map(|c| c.as_str()).find(|c| *c == alert.code).unwrap_or(""),
            store: plain(&alert.store),
            since: alert.since,
            summary: plain(&alert.summary),
            evidence: plain(&alert.evidence),
            reading: alert.reading.as_ref().map(|n| plain(&n.text())).unwrap_or_default(),
            silenced_by: silences.map(|silence| plain(&silence.id)).collect(),
        }
    }
}

impl LiveSilence {
    fn new(silence: &crate::alert::silence::Silence) -> Self {
        let or_all = |text: &str| if text.is_empty() { "*".to_owned() } else { plain(text) };
        Self {
            id: plain(&silence.id),
            store: or_all(&silence.store),
            alert: or_all(&silence.alert),
            since: silence.since,
            until: silence.until,
            comment: plain(&silence.comment),
            by: plain(&silence.by),
        }
    }
}

impl LiveHistory {
    fn new(ring: &Ring) -> Self {
        let points = |series| ring.series(series).collect();
        Self {
            until: ring.until(),
            step_seconds: STEP.as_secs(),
            disk_used_ratio: points(Series::DiskUsed),
            records: points(Series::Records),
            check_duration_seconds: points(Series::CheckDuration),
            backup_age_seconds: points(Series::BackupAge),
        }
    }

    pub(crate) fn points(&self, series: Series) -> &Points {
        match series {
            Series::DiskUsed => &self.disk_used_ratio,
            Series::Records => &self.records,
            Series::CheckDuration => &self.check_duration_seconds,
            Series::BackupAge => &self.backup_age_seconds,
        }
    }
}

/// RFC 3339 in UTC, whole seconds. Errs when the serializer does.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn moment<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(at)
}

#[expect(clippy::ref_option, reason = "serde asks for a reference")]
fn perhaps<S: Serializer>(at: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => serializer.collect_str(at),
        None => serializer.serialize_none(),
    }
}
