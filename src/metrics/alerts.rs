//! Families of the alert hooks: what fires, and how delivery fares.

use std::collections::BTreeSet;

use super::families::Families;
use crate::{
    alert::{
        message::{Alert, Failure},
        report::AlertReport,
    },
    clock::Timestamp,
    sample::{Desc, Snapshot},
};

static FIRING: Desc = Desc::gauge(
    "chroma_alert_firing",
    "1 while this alert of this store fires, also when it is silenced. An alert that does not fire has no series, as in Prometheus' ALERTS.",
)
.labelled(&["store", "alert", "severity"]);
static PENDING: Desc = Desc::gauge(
    "chroma_exporter_alerts_pending",
    "Alerts whose condition holds, but not yet for as long as their rule asks.",
);
static PERSISTENT: Desc = Desc::gauge(
    "chroma_exporter_alert_state_persistent",
    "1 when alerts and outgoing messages are kept on disk, 0 when in memory only: a restart forgets them.",
);
static SILENCES: Desc = Desc::gauge("chroma_exporter_silences", "Silences in force.");
static ATTEMPTS: Desc = Desc::counter(
    "chroma_exporter_notifications_total",
    "Attempts to send a notification, including failed ones.",
)
.labelled(&["receiver"]);
static FAILED: Desc = Desc::counter(
    "chroma_exporter_notifications_failed_total",
    "Attempts to send a notification that failed, by reason.",
)
.labelled(&["receiver", "reason"]);
static DEAD: Desc = Desc::counter(
    "chroma_exporter_notification_dead_letters_total",
    "Alerts that were given up for this receiver, because it refused them for good or took nothing for too long.",
)
.labelled(&["receiver"]);
static QUEUE: Desc = Desc::gauge(
    "chroma_exporter_notification_queue_length",
    "Alerts that wait to be sent to the receiver.",
)
.labelled(&["receiver"]);
static OLDEST: Desc = Desc::gauge(
    "chroma_exporter_notification_oldest_timestamp_seconds",
    "When the oldest alert in the queue was put there, as seconds since the epoch. 0 when the queue is empty.",
)
.labelled(&["receiver"]);
static LAST_SUCCESS: Desc = Desc::gauge(
    "chroma_exporter_notification_last_success_timestamp_seconds",
    "When the receiver last took a notification, as seconds since the epoch. 0 when it took none since the start.",
)
.labelled(&["receiver"]);

pub(super) const DESCS: &[&Desc] = &[
    &FIRING,
    &PENDING,
    &PERSISTENT,
    &SILENCES,
    &ATTEMPTS,
    &FAILED,
    &DEAD,
    &QUEUE,
    &OLDEST,
    &LAST_SUCCESS,
];

/// How many series [`add_to`] gives for the stores, which no bound may keep off the page.
pub(super) fn series_of_stores(report: &AlertReport, snapshot: &Snapshot) -> usize {
    firing(report, snapshot).count()
}

/// The alerts that fire, of the stores that are watched. An alert that does not fire has no series: with eighty rules, zeros
/// would be a quarter of the page of a store and say what their absence says. Of receivers every label set is there from the
/// start, at 0, so that `rate()` sees the first failure.
pub(super) fn add_to<'a>(
    families: &mut Families<'a>,
    report: &'a AlertReport,
    snapshot: &'a Snapshot,
) {
    for alert in firing(report, snapshot) {
        families.add(&FIRING, &[&alert.store, &alert.name, alert.severity.as_str()], 1.0);
    }
    families.add(&PENDING, &[], report.pending.len() as f64);
    families.add(&PERSISTENT, &[], f64::from(u8::from(report.persistent)));
    families.add(&SILENCES, &[], report.silences.len() as f64);
    let moment = |at: Option<Timestamp>| at.map_or(0.0, Timestamp::as_secs_f64);
    for (name, receiver) in &report.receivers {
        let label = [name.as_str()];
        families.add(&ATTEMPTS, &label, receiver.counts.attempts as f64);
        for reason in Failure::ALL {
            let count = receiver.counts.failed.get(&reason).copied().unwrap_or(0);
            families.add(&FAILED, &[name, reason.as_str()], count as f64);
        }
        families.add(&DEAD, &label, receiver.counts.dead_letters as f64);
        families.add(&QUEUE, &label, receiver.queued as f64);
        families.add(&OLDEST, &label, moment(receiver.oldest));
        families.add(&LAST_SUCCESS, &label, moment(receiver.counts.last_success));
    }
}

fn firing<'a>(report: &'a AlertReport, snapshot: &'a Snapshot) -> impl Iterator<Item = &'a Alert> {
    let stores: BTreeSet<&str> = snapshot.stores.iter().map(|store| &*store.store).collect();
    let rules: BTreeSet<&str> = report.rules.iter().map(|(rule, _)| &**rule).collect();
    report
        .firing
        .iter()
        .filter(move |alert| stores.contains(&*alert.store) && rules.contains(&*alert.name))
}
