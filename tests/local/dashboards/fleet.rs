//! Every store on every host: which one is unsafe, and why.

use serde_json::json;

use super::{
    model::{
        Dashboard,
        Item::{self, Folded, Panel as P, Row},
        Panel, mapping,
    },
    shared::{VERDICT, VERDICTS, findings, how_many, store_link, yes_no},
};

pub fn dashboard() -> Dashboard {
    Dashboard {
        uid: "chroma-fleet",
        title: "Chroma / Fleet",
        description: "Every Chroma store on every host, the worst first. Needs the rules of alerts/chroma.rules.yml for what is shown over time.",
        others: &[
            ("One store in depth", "chroma-store"),
            ("The exporters themselves", "chroma-exporters"),
        ],
        one: false,
        items: [numbers(), vec![P(stores()), P(findings())], over_time(), exporters()]
            .into_iter()
            .flatten()
            .collect(),
    }
}

fn numbers() -> Vec<Item> {
    vec![
        how_many(
            "Unsafe stores",
            "count(max by (job, instance, store) (chroma_finding{STORE, severity=\"critical\"}) == 1) or vector(0)",
            "red",
            "Stores with a critical finding: data is lost or at stake now.",
        ),
        how_many(
            "Stores with warnings",
            "count(max by (job, instance, store) (chroma_finding{STORE, severity=\"warning\"}) == 1) or vector(0)",
            "orange",
            "Stores with a warning: act, not now. Unsafe ones may be among them.",
        ),
        how_many(
            "Stores not fully known",
            "count(\n    (min by (job, instance, store) (chroma_exporter_collector_success{STORE}) == 0)\n  or\n    max by (job, instance, store) (last_over_time(chroma_store_info{STORE}[6h]) unless on (job, instance, store) chroma_store_info{STORE})\n) or vector(0)",
            "purple",
            "Stores of which a collector fails, or that were watched within six hours and are not now: what is not known is not healthy.",
        ),
        P(Panel::number("Stores watched", "none", "Stores of which the exporters tell.")
            .now("count(chroma_store_info{STORE}) or vector(0)")
            .levels("blue", &[])
            .nothing("not known")),
        how_many(
            "Exporters down",
            "count(up{HOST} == 0 and on (job, instance) last_over_time(chroma_exporter_build_info{HOST}[1d])) or vector(0)",
            "red",
            "Exporters that answered within a day and do not now: nobody says whether the data on their hosts is safe.",
        ),
        how_many(
            "Alerts not delivered",
            "sum(chroma_exporter_notification_queue_length{HOST}) or vector(0)",
            "orange",
            "Alerts of the exporters' own hooks that wait for a receiver.",
        ),
    ]
}

fn stores() -> Panel {
    let by_store =
        |agg: &str, selector: &str| format!("{agg} by (job, instance, store) ({selector})");
    let ago = json!("dateTimeFromNow");
    Panel::table(
        "Stores, worst first",
        "none",
        "One row for each store. Verdict: the words of `check`; not known when a collector fails or the store is not watched any more. A click on the store opens it in depth.",
    )
    .size(24, 11)
    .now(VERDICT)
    .now(&by_store("sum", "chroma_finding{STORE, severity=\"critical\"}"))
    .now(&by_store("sum", "chroma_finding{STORE, severity=\"warning\"}"))
    .now(&by_store("max", "chroma_disk_used_ratio{STORE}"))
    .now(&format!("1000 * {}", by_store("min", "chroma_disk_full_timestamp_seconds{STORE}")))
    .now(&by_store("max", "chroma_records{STORE}"))
    .now(&by_store("max", "chroma_records_without_vector{STORE}"))
    .now(&by_store("max", "chroma_process_writers{STORE}"))
    .now(&format!("1000 * {}", by_store("max", "chroma_integrity_last_ok_timestamp_seconds{STORE, check=\"full\"}")))
    .now(&format!("1000 * {}", by_store("max", "chroma_backup_last_success_timestamp_seconds{STORE}")))
    .now(&format!("1000 * {}", by_store("max", "chroma_backup_proven_timestamp_seconds{STORE}")))
    .columns(
        &[
            ("Value #A", "Verdict"),
            ("store", "store"),
            ("instance", "instance"),
            ("Value #B", "Critical"),
            ("Value #C", "Warnings"),
            ("Value #D", "Disk used"),
            ("Value #E", "Disk full"),
            ("Value #F", "Records"),
            ("Value #G", "Without vector"),
            ("Value #H", "Writers"),
            ("Value #I", "Full check well"),
            ("Value #J", "Newest backup"),
            ("Value #K", "Newest proven backup"),
            ("job", "job"),
        ],
        &["Time"],
        &[("Verdict", true), ("Critical", true)],
    )
    .field(
        "Verdict",
        &[
            ("mappings", json!([mapping(VERDICTS)])),
            ("custom.cellOptions", json!({"type": "color-background", "mode": "basic"})),
            ("custom.width", json!(110)),
        ],
    )
    .field("store", &[("links", json!([store_link()]))])
    .field("Critical", &steps("red", 1.0))
    .field("Warnings", &steps("orange", 1.0))
    .field("Without vector", &steps("red", 1.0))
    .field("Writers", &steps("red", 2.0))
    .field(
        "Disk used",
        &[
            ("unit", json!("percentunit")),
            ("min", json!(0)),
            ("max", json!(1)),
            ("custom.cellOptions", json!({"type": "gauge", "mode": "basic"})),
            ("thresholds", json!({"mode": "absolute", "steps": [
                {"color": "green", "value": null}, {"color": "orange", "value": 0.8}, {"color": "red", "value": 0.9}]})),
            ("color", json!({"mode": "thresholds"})),
        ],
    )
    .nothing("No exporter tells of a store: are job and instance right, and does Prometheus scrape them?")
    .field("Disk full", &[("unit", ago.clone())])
    .field("Full check well", &[("unit", ago.clone())])
    .field("Newest backup", &[("unit", ago.clone())])
    .field("Newest proven backup", &[("unit", ago)])
}

/// The text takes the colour from this value on.
fn steps(color: &str, from: f64) -> Vec<(&'static str, serde_json::Value)> {
    vec![
        ("custom.cellOptions", json!({"type": "color-text"})),
        (
            "thresholds",
            json!({"mode": "absolute", "steps": [{"color": "text", "value": null}, {"color": color, "value": from}]}),
        ),
        ("color", json!({"mode": "thresholds"})),
        ("custom.width", json!(95)),
    ]
}

fn over_time() -> Vec<Item> {
    let color = |name: &str| [("color", json!({"mode": "fixed", "fixedColor": name}))];
    let verdict = |value: u8| format!("count(store:chroma_verdict:max{{STORE}} == {value})");
    vec![
        Row("Over time"),
        P(Panel::areas(
            "Stores by verdict",
            "none",
            "How many stores were unsafe, warned of, not known and well. From the recording rule store:chroma_verdict:max.",
        )
        .ask(&verdict(3), "unsafe")
        .ask(&verdict(2), "warning")
        .ask(&verdict(1), "not known")
        .ask(&verdict(0), "ok")
        .field("unsafe", &color("red"))
        .field("warning", &color("orange"))
        .field("not known", &color("purple"))
        .field("ok", &color("green"))
        .nothing("Load alerts/chroma.rules.yml into Prometheus")),
        P(Panel::areas(
            "Alerts firing",
            "none",
            "Alerts of the rule file that fire, by name; the one that always fires is left out.",
        )
        .ask(
            "count by (alertname) (ALERTS{HOST, alertname=~\"Chroma.+\", alertstate=\"firing\"})",
            "{{alertname}}",
        )
        .nothing("None")),
        P(Panel::curves(
            "Fullest disks",
            "percentunit",
            "Used share of the filesystems of the ten fullest stores, as df shows it. Warning at 80 %, critical at 90 %.",
        )
        .ask("topk(10, chroma_disk_used_ratio{STORE})", "{{instance}} {{store}}")
        .marks(&[(0.8, "orange"), (0.9, "red")])
        .nothing("No exporter tells of a disk")),
        P(Panel::curves(
            "Oldest backups",
            "s",
            "Age of the newest complete backup, of the ten stores where it is oldest. Warning at 26 hours, critical at 50.",
        )
        .ask(
            "topk(10, time() - chroma_backup_last_success_timestamp_seconds{STORE})",
            "{{instance}} {{store}}",
        )
        .marks(&[(93_600.0, "orange"), (180_000.0, "red")])
        .nothing("No backups are watched")),
        P(Panel::curves(
            "Records without a vector",
            "none",
            "Records that no search by vector finds, of the ten worst stores: what a second writer leaves. 0 in every healthy store.",
        )
        .ask("topk(10, chroma_records_without_vector{STORE})", "{{instance}} {{store}}")
        .marks(&[(1.0, "red")])
        .nothing("Not known of any store: the collector hnsw is off or fails")),
        P(Panel::curves(
            "Longest queues of vectors",
            "none",
            "Operations that the furthest index is behind the queue, of the ten worst stores. Up to the sync threshold (1000) is normal.",
        )
        .ask(
            "topk(10, chroma_queue_lag_records{STORE, scope=\"vector\"})",
            "{{instance}} {{store}}",
        )
        .nothing("Not known of any store: the collector contents is off or fails")),
    ]
}

fn exporters() -> Vec<Item> {
    let by_host = |agg: &str, selector: &str| format!("{agg} by (job, instance) ({selector})");
    vec![
        Folded("Exporters"),
        P(Panel::table(
            "Exporters",
            "none",
            "One row for each exporter that answered within a day: whether it answers, what it runs, how old its readings are, what it takes.",
        )
        .size(24, 8)
        .now(&by_host("min", "up{HOST} and on (job, instance) last_over_time(chroma_exporter_build_info{HOST}[1d])"))
        .now("max by (job, instance, version) (chroma_exporter_build_info{HOST})")
        .now(&by_host("max", "chroma_exporter_stores{HOST}"))
        .now(&by_host("max", "time() - chroma_exporter_snapshot_timestamp_seconds{HOST}"))
        .now(&by_host("min", "chroma_exporter_collector_success{HOST}"))
        .now(&by_host("min", "chroma_exporter_alert_state_persistent{HOST}"))
        .now(&by_host("min", "chroma_exporter_config_last_reload_successful{HOST}"))
        .now(&by_host("max", "process_resident_memory_bytes{HOST} and on (job, instance) chroma_exporter_build_info{HOST}"))
        .columns(
            &[
                ("Value #A", "Answers"),
                ("instance", "instance"),
                ("job", "job"),
                ("version", "Version"),
                ("Value #C", "Stores"),
                ("Value #D", "Age of readings"),
                ("Value #E", "All collectors work"),
                ("Value #F", "Alerts kept on disk"),
                ("Value #G", "Configuration in force"),
                ("Value #H", "Memory"),
            ],
            &["Time", "Value #B"],
            &[("Answers", false)],
        )
        .field("Answers", &yes_no())
        .field("All collectors work", &yes_no())
        .field("Alerts kept on disk", &yes_no())
        .field("Configuration in force", &yes_no())
        .field("Age of readings", &[("unit", json!("s"))])
        .field("Memory", &[("unit", json!("bytes"))])
        .nothing("No exporter answered within a day")),
        P(Panel::curves(
            "Collectors that fail",
            "none",
            "How many stores a collector fails for: what it watches there is not known.",
        )
        .ask(
            "sum by (collector) (1 - chroma_exporter_collector_success{STORE})",
            "{{collector}}",
        )
        .nothing("No exporter tells of a store")),
        P(Panel::curves(
            "Notifications that fail",
            "cps",
            "Attempts of the exporters' own hooks that failed, by reason.",
        )
        .ask(
            "sum by (reason) (rate(chroma_exporter_notifications_failed_total{HOST}[$__rate_interval]))",
            "{{reason}}",
        )
        .nothing("No receivers are configured")),
    ]
}
