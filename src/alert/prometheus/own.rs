//! What only Prometheus can say: that an exporter is gone, has stopped reading, or cannot reach its receivers.

use std::{collections::BTreeMap, time::Duration};

use serde_saphyr::LitString;

use super::{
    Alerting, FLEET_DASHBOARD, GAP, OWN_RUNBOOKS, Options, STORE_DASHBOARD, dashboard, quoted,
};
use crate::facts::duration;

struct Own {
    alert: &'static str,
    expr: String,
    hold: Duration,
    severity: &'static str,
    summary: &'static str,
    description: &'static str,
    /// What to type on the host of the exporter; empty where no command helps.
    command: &'static str,
}

#[expect(clippy::too_many_lines, reason = "a table")]
pub(super) fn rules(options: &Options) -> Vec<Alerting> {
    let down = format!(
        "up{{job={}}} == 0\nor (\n  up == 0\n  and on (instance, job) last_over_time(chroma_exporter_build_info[1d])\n)",
        quoted(&options.job)
    );
    // Three runs of the slowest collector and no less than half an hour.
    let stale = (options.slowest * 3).max(Duration::from_mins(30)).as_secs();
    let last_run =
        format!("time() - chroma_exporter_collector_last_run_timestamp_seconds > {stale}");
    let minutes = Duration::from_mins;
    let all = [
        Own {
            alert: "ChromaExporterAbsent",
            expr: "absent(chroma_exporter_build_info)".to_owned(),
            hold: minutes(5),
            severity: "critical",
            summary: "No chroma_exporter is being scraped",
            description: "Nobody says whether the data of any Chroma is safe. Look at the targets of Prometheus and at the service.",
            command: "systemctl status chroma_exporter",
        },
        Own {
            alert: "ChromaExporterDown",
            expr: down,
            hold: minutes(5),
            severity: "critical",
            summary: "A chroma_exporter does not answer",
            description: "Nobody says whether the data of the Chromas on {{ $labels.instance }} is safe. Look at the service there.",
            command: "systemctl status chroma_exporter; journalctl -u chroma_exporter",
        },
        Own {
            alert: "ChromaStoreUnwatched",
            // One that was found by itself ends with its process, and what is to be said of that the exporter says.
            expr: "(\n  last_over_time(chroma_store_info[6h])\n  and on (instance, job) chroma_exporter_build_info\n  unless on (instance, job, store) last_over_time(chroma_store_discovered[6h]) == 1\n)\nunless on (instance, job, store) chroma_store_info".to_owned(),
            hold: minutes(10),
            severity: "warning",
            summary: "A Chroma store is not watched any more",
            description: "The exporter on {{ $labels.instance }} answers, but it does not know {{ $labels.store }} ({{ $labels.path }}) any more, which it watched within the last six hours. If that was wanted, silence this alert. If not, look at its configuration.",
            command: "chroma_exporter config print",
        },
        Own {
            alert: "ChromaReadingsStale",
            expr: "time() - chroma_exporter_snapshot_timestamp_seconds > 300".to_owned(),
            hold: minutes(1),
            severity: "warning",
            summary: "A chroma_exporter reads nothing any more",
            description: "The exporter on {{ $labels.instance }} answers, but it has read nothing for {{ $value | humanizeDuration }}, or its clock differs from that of Prometheus. Look at its log, then restart it.",
            command: "journalctl -u chroma_exporter",
        },
        Own {
            alert: "ChromaCollectorStale",
            expr: last_run,
            hold: minutes(1),
            severity: "warning",
            summary: "A collector of a Chroma store does not run any more",
            description: "The collector {{ $labels.collector }} of {{ $labels.store }} on {{ $labels.instance }} last ran {{ $value | humanizeDuration }} ago. Its series are that old. Look for a mount that hangs, then restart the exporter.",
            command: "",
        },
        Own {
            alert: "ChromaIntegrityCheckStale",
            expr: "time() - chroma_integrity_next_due_timestamp_seconds > 21600".to_owned(),
            hold: minutes(5),
            severity: "warning",
            summary: "An integrity check of a Chroma store is not run",
            description: "The check {{ $labels.check }} of {{ $labels.store }} on {{ $labels.instance }} has been due for {{ $value | humanizeDuration }}. Damage would not be noticed. Run it by hand, and restart the exporter.",
            command: "chroma_exporter check",
        },
        Own {
            alert: "ChromaIntegrityCheckersDisagree",
            expr: "increase(chroma_integrity_checker_disagreements_total[1d]) > 0".to_owned(),
            hold: Duration::ZERO,
            severity: "warning",
            summary: "The second checker and SQLite disagree; please report this",
            description: "SQLite found damage in {{ $labels.store }} on {{ $labels.instance }} that the full check of the exporter does not see. The damage is told as a finding. That the exporter does not see it is a mistake in the exporter: please report it.",
            command: "chroma_exporter check --paranoid",
        },
        Own {
            alert: "ChromaNotificationsFailing",
            expr: "chroma_exporter_notification_queue_length > 0\nand on (instance, job, receiver)\n  (time() - chroma_exporter_notification_oldest_timestamp_seconds > 300)".to_owned(),
            hold: minutes(1),
            severity: "warning",
            summary: "A receiver accepts no alerts of a chroma_exporter",
            description: "{{ $value }} alerts of {{ $labels.instance }} have waited for {{ $labels.receiver }} for minutes. Try that receiver on the host.",
            command: "chroma_exporter notify {{ $labels.receiver }}",
        },
        Own {
            alert: "ChromaNotificationsLost",
            expr: "increase(chroma_exporter_notification_dead_letters_total[1h]) > 0".to_owned(),
            hold: Duration::ZERO,
            severity: "warning",
            summary: "Alerts of a chroma_exporter did not reach a receiver",
            description: "{{ $labels.receiver }} of {{ $labels.instance }} refused alerts for good or accepted none for too long: {{ $value | humanize }} in the last hour. The log of the exporter says which and why.",
            command: "journalctl -u chroma_exporter",
        },
        Own {
            alert: "ChromaAlertStateNotKept",
            expr: "chroma_exporter_alert_state_persistent == 0\nand on (instance, job) chroma_exporter_notification_queue_length".to_owned(),
            hold: minutes(15),
            severity: "warning",
            summary: "A chroma_exporter keeps its alerts in memory only",
            description: "A restart of the exporter on {{ $labels.instance }} would forget which alerts fire and which are still to be sent. See whether its state directory (--state.dir) is full or cannot be written.",
            command: "",
        },
        Own {
            alert: "ChromaConfigReloadFailed",
            expr: "chroma_exporter_config_last_reload_successful == 0".to_owned(),
            hold: minutes(5),
            severity: "warning",
            summary: "A chroma_exporter could not load its configuration",
            description: "The exporter on {{ $labels.instance }} goes on with its previous configuration. See what is wrong with the new one.",
            command: "chroma_exporter config check",
        },
        Own {
            alert: "ChromaSeriesDropped",
            expr: "chroma_exporter_dropped_series > 0".to_owned(),
            hold: minutes(15),
            severity: "warning",
            summary: "A chroma_exporter leaves series out",
            description: "The page of {{ $labels.instance }} leaves out {{ $value }} series, because its configuration limits them (limits). Your own rules over them see nothing. Findings are never left out.",
            command: "",
        },
        Own {
            alert: "ChromaWatchdog",
            expr: "vector(1)".to_owned(),
            hold: Duration::ZERO,
            severity: "info",
            summary: "The path of alerts works",
            description: "This alert always fires. Whoever receives it should give an alarm when it stops coming.",
            command: "",
        },
    ];
    all.into_iter().map(|own| alerting(own, options)).collect()
}

fn alerting(own: Own, options: &Options) -> Alerting {
    let page =
        if own.description.contains("$labels.store") { STORE_DASHBOARD } else { FLEET_DASHBOARD };
    let anchor = format!("runbooks/exporter.md#{}", own.alert.to_lowercase());
    let lines = [own.description, own.command].into_iter().filter(|line| !line.is_empty());
    let description = lines.collect::<Vec<_>>().join("\n");
    let mut annotations = BTreeMap::from([
        ("summary", LitString(own.summary.to_owned())),
        ("description", LitString(description)),
    ]);
    if !own.command.is_empty() {
        annotations.insert("command", LitString(own.command.to_owned()));
    }
    annotations.extend(dashboard(options, page));
    // An exporter that is gone serves no runbook, and without an instance nobody is asked.
    let answers = !NOBODY_ANSWERS.contains(&own.alert);
    let base = if options.runbooks.is_empty() { OWN_RUNBOOKS } else { &options.runbooks };
    if answers || !options.runbooks.is_empty() {
        annotations.insert("runbook_url", LitString(format!("{base}/{anchor}")));
    }
    // These speak of a gap or outlast it by their own means; only those about readings are ended by one.
    let keep = own.expr.starts_with("chroma_") || own.expr.starts_with("time()");
    Alerting {
        alert: own.alert.to_owned(),
        expr: LitString(own.expr),
        hold: (!own.hold.is_zero()).then(|| duration::format(own.hold)),
        keep_firing_for: keep.then(|| duration::format(GAP)),
        labels: BTreeMap::from([("severity".to_owned(), own.severity.to_owned())]),
        annotations,
    }
}

const NOBODY_ANSWERS: [&str; 3] = ["ChromaExporterAbsent", "ChromaExporterDown", "ChromaWatchdog"];
