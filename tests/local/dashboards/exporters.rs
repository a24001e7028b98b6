//! The exporters themselves, for those who run hundreds: which one is down, blind, old or costly.

use serde_json::json;

use super::{
    model::{
        Dashboard,
        Item::{self, Panel as P, Row},
        Panel,
    },
    shared::{how_many, yes_no},
};

pub fn dashboard() -> Dashboard {
    Dashboard {
        uid: "chroma-exporters",
        title: "Chroma / Exporters",
        description: "The exporters themselves, all at once: which one does not answer, reads nothing, cannot see or send, and what they cost.",
        others: &[
            ("Every store on every host", "chroma-fleet"),
            ("One store in depth", "chroma-store"),
        ],
        one: false,
        items: [numbers(), vec![P(table())], readings(), cost(), scrapes(), sending()]
            .into_iter()
            .flatten()
            .collect(),
    }
}

fn numbers() -> Vec<Item> {
    vec![
        P(Panel::number("Exporters", "none", "Exporters that answer.")
            .now("count(chroma_exporter_build_info{HOST}) or vector(0)")
            .levels("blue", &[])
            .nothing("not known")),
        how_many(
            "Down",
            "count(up{HOST} == 0 and on (job, instance) last_over_time(chroma_exporter_build_info{HOST}[1d])) or vector(0)",
            "red",
            "Exporters that answered within a day and do not now.",
        ),
        how_many(
            "Readings too old",
            "count(time() - chroma_exporter_snapshot_timestamp_seconds{HOST} > 300) or vector(0)",
            "red",
            "Exporters that answer and have read nothing for five minutes, or whose clock differs from that of Prometheus.",
        ),
        how_many(
            "Collectors that fail",
            "count(chroma_exporter_collector_success{STORE} == 0) or vector(0)",
            "purple",
            "Collectors of all stores that could not read what they should: what they watch is not known.",
        ),
        how_many(
            "Configurations refused",
            "count(chroma_exporter_config_last_reload_successful{HOST} == 0) or vector(0)",
            "orange",
            "Exporters that were given a configuration with mistakes, and go on with the one before.",
        ),
        how_many(
            "State in memory only",
            "count(chroma_exporter_state_persistent{HOST} == 0) or vector(0)",
            "orange",
            "Exporters that forget alerts, learnt permissions and results of checks when they end.",
        ),
    ]
}

fn table() -> Panel {
    let by_host = |agg: &str, expr: &str| format!("{agg} by (job, instance) ({expr})");
    Panel::table(
        "Every exporter",
        "none",
        "One row for each exporter that answered within a day: whether it answers, what it runs, how much it watches, how old its readings are, what it costs.",
    )
    .size(24, 10)
    .now(&by_host("min", "up{HOST} and on (job, instance) last_over_time(chroma_exporter_build_info{HOST}[1d])"))
    .now("max by (job, instance, version) (chroma_exporter_build_info{HOST})")
    .now(&by_host("max", &format!("1000 * ({})", of_exporters("process_start_time_seconds{HOST}"))))
    .now(&by_host("max", "chroma_exporter_stores{HOST}"))
    .now(&by_host("max", "time() - chroma_exporter_snapshot_timestamp_seconds{HOST}"))
    .now(&by_host("min", "chroma_exporter_collector_success{HOST}"))
    .now(&by_host("max", &of_exporters("scrape_samples_scraped{HOST}")))
    .now(&by_host("max", &of_exporters("scrape_duration_seconds{HOST}")))
    .now(&by_host("max", &of_exporters("process_resident_memory_bytes{HOST}")))
    .now(&by_host("max", &of_exporters("process_threads{HOST}")))
    .now(&by_host("sum", "chroma_exporter_notification_queue_length{HOST}"))
    .columns(
        &[
            ("Value #A", "Answers"),
            ("instance", "instance"),
            ("job", "job"),
            ("version", "Version"),
            ("Value #C", "Started"),
            ("Value #D", "Stores"),
            ("Value #E", "Age of readings"),
            ("Value #F", "All collectors work"),
            ("Value #G", "Series"),
            ("Value #H", "Scrape takes"),
            ("Value #I", "Memory"),
            ("Value #J", "Threads"),
            ("Value #K", "Alerts waiting"),
        ],
        &["Time", "Value #B"],
        &[("Answers", false)],
    )
    .field("Answers", &yes_no())
    .field("All collectors work", &yes_no())
    .field("Started", &[("unit", json!("dateTimeFromNow"))])
    .field("Age of readings", &[("unit", json!("s"))])
    .field("Scrape takes", &[("unit", json!("s"))])
    .field("Memory", &[("unit", json!("bytes"))])
    .nothing("No exporter answered within a day")
}

fn readings() -> Vec<Item> {
    vec![
        Row("What they read"),
        P(Panel::curves(
            "Oldest readings",
            "s",
            "Age of the readings that the ten slowest exporters show. They are put together anew at every change, and at least once an interval.",
        )
        .ask("topk(10, time() - chroma_exporter_snapshot_timestamp_seconds{HOST})", "{{instance}}")
        .marks(&[(300.0, "red")])
        .nothing("No exporter answers")),
        P(Panel::curves(
            "Failing collectors",
            "none",
            "For how many stores a collector could not read what it should.",
        )
        .ask("sum by (collector) (1 - chroma_exporter_collector_success{STORE})", "{{collector}}")
        .nothing("No exporter tells of a store")),
        P(Panel::curves(
            "Slowest collectors",
            "s",
            "How long the last runs took that took longest.",
        )
        .ask(
            "topk(10, max by (job, instance, store, collector) (chroma_exporter_collector_duration_seconds{STORE}))",
            "{{instance}} {{store}} {{collector}}",
        )
        .nothing("No exporter tells of a store")),
        P(Panel::areas(
            "Checks and backups that read whole files",
            "none",
            "How many run, and how many wait for their turn. One at a time runs on a device.",
        )
        .ask("sum by (state) (chroma_exporter_expensive_jobs{HOST})", "{{state}}")
        .nothing("No exporter answers")),
        P(Panel::curves(
            "Stores without file events",
            "none",
            "Stores whose changes are seen only at the interval, because the system gives no more watches.",
        )
        .ask("sum(1 - chroma_exporter_watch{STORE})", "stores")
        .nothing("No exporter tells of a store")),
        P(Panel::curves(
            "Rights that are missing",
            "none",
            "Stores whose exporter lacks a right to look into the processes of others. Without it, who writes may stay unknown.",
        )
        .ask("sum by (capability) (1 - chroma_exporter_capability{STORE})", "{{capability}}")
        .nothing("No exporter tells of a store")),
    ]
}

/// What exporters of ours have of what other programs have as well.
fn of_exporters(asked: &str) -> String {
    format!("{asked} and on (job, instance) chroma_exporter_build_info{{HOST}}")
}

/// The ten with the most of it.
fn ten_of(asked: &str) -> String {
    format!("topk(10, {})", of_exporters(asked))
}

fn cost() -> Vec<Item> {
    vec![
        Row("What they cost"),
        P(Panel::curves("Most memory", "bytes", "Resident memory of the ten largest exporters.")
            .ask(&ten_of("process_resident_memory_bytes{HOST}"), "{{instance}}")
            .nothing("No exporter answers")),
        P(Panel::curves(
            "Most processor time",
            "percentunit",
            "Share of one core that the ten busiest exporters take.",
        )
        .ask(
            &ten_of("rate(process_cpu_seconds_total{HOST}[$__rate_interval])"),
            "{{instance}}",
        )
        .nothing("No exporter answers")),
        P(Panel::curves(
            "Most threads",
            "none",
            "Threads of the ten exporters that have most. A filesystem that hangs keeps one for good.",
        )
        .ask(&ten_of("process_threads{HOST}"), "{{instance}}")
        .nothing("No exporter answers")),
        P(Panel::curves(
            "File descriptors",
            "percentunit",
            "Open descriptors as a share of those allowed, of the ten nearest to their limit.",
        )
        .ask(
            &ten_of("process_open_fds{HOST} / process_max_fds{HOST}"),
            "{{instance}}",
        )
        .marks(&[(0.8, "orange")])
        .nothing("No exporter answers")),
    ]
}

fn scrapes() -> Vec<Item> {
    vec![
        Row("Scrapes and requests"),
        P(Panel::curves("Slowest scrapes", "s", "How long Prometheus waits for the ten slowest pages.")
            .ask(&ten_of("scrape_duration_seconds{HOST}"), "{{instance}}")
            .nothing("No exporter answers")),
        P(Panel::curves("Largest pages", "none", "Samples of the ten largest pages.")
            .ask(&ten_of("scrape_samples_scraped{HOST}"), "{{instance}}")
            .nothing("No exporter answers")),
        P(Panel::curves(
            "Series left out",
            "none",
            "Series that are not on a page because limits.series was reached, of the ten worst exporters.",
        )
        .ask("topk(10, chroma_exporter_dropped_series{HOST})", "{{instance}}")
        .marks(&[(1.0, "orange")])
        .nothing("No exporter answers")),
        P(Panel::curves(
            "Requests that were turned away",
            "cps",
            "By reason: wrong credentials, TLS, a name that is not the server's, too many at once.",
        )
        .ask(
            "sum by (reason) (rate(chroma_exporter_http_requests_rejected_total{HOST}[$__rate_interval]))",
            "{{reason}}",
        )
        .nothing("No exporter answers")),
    ]
}

fn sending() -> Vec<Item> {
    vec![
        Row("What they send"),
        P(Panel::curves(
            "Alerts that wait",
            "none",
            "Alerts in the queues of the exporters' own hooks, by receiver.",
        )
        .ask(
            "sum by (receiver) (chroma_exporter_notification_queue_length{HOST})",
            "{{receiver}}",
        )
        .nothing("No receivers are configured")),
        P(Panel::curves(
            "Attempts to send that fail",
            "cps",
            "By receiver and reason.",
        )
        .ask(
            "sum by (receiver, reason) (rate(chroma_exporter_notifications_failed_total{HOST}[$__rate_interval]))",
            "{{receiver}} {{reason}}",
        )
        .nothing("No receivers are configured")),
        P(Panel::curves(
            "Alerts given up",
            "cps",
            "Alerts that a receiver refused for good, or that waited too long.",
        )
        .ask(
            "sum by (receiver) (rate(chroma_exporter_notification_dead_letters_total{HOST}[$__rate_interval]))",
            "{{receiver}}",
        )
        .nothing("No receivers are configured")),
        P(Panel::curves(
            "State that could not be written",
            "cps",
            "Documents of the state directory: a full disk there, or no right to write.",
        )
        .ask(
            "sum(rate(chroma_exporter_state_write_errors_total{HOST}[$__rate_interval]))",
            "errors",
        )
        .nothing("No exporter answers")),
    ]
}
