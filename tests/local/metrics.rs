//! The metrics page as a scraper sees it: read back by a strict parser, held against the rules of `promtool`.

use std::{borrow::Cow, collections::BTreeMap, io::Read, path::Path, sync::Arc, time::Duration};

use chroma_exporter::{
    alert::{
        message::Alert,
        report::{AlertReport, ReceiverReport},
    },
    clock::Timestamp,
    collectors::{self, CollectError},
    config::{Config, Store},
    findings::{Code, Finding, Severity},
    host::{Host, job_queue::Jobs},
    metrics::{self, Facts, Own, Page, ProcessUsage, Route},
    sample::{Desc, Observation, Reading, Sample, SeriesKind, Snapshot, StoreReadings},
    store::Context,
};
use proptest::prelude::*;

use crate::support::exposition::{Family, family, lint, parse, value};

static PLAIN: Desc = Desc::gauge("chroma_test_bytes", "A \\ plain\nvalue.");
static WORDS: Desc =
    Desc::counter("chroma_test_words_total", "A labelled value.").labelled(&["word", "other"]);
static MANY: Desc = Desc::gauge("chroma_test_many", "Too many values.").labelled(&["n"]);
static DESCS: &[&Desc] = &[&PLAIN, &WORDS, &MANY];

const AT: i64 = 1_795_424_274;

fn reading(codes: &'static [Code], observation: Observation) -> Reading {
    let at = Timestamp::from_secs(AT);
    Reading {
        next_within: Duration::from_secs(30),
        collector: "disk",
        descs: DESCS,
        taken_at: at,
        duration: Duration::from_millis(1500),
        last_success: observation.problems.is_empty().then_some(at),
        observation,
        codes,
    }
}

fn store(name: &str, readings: Vec<Reading>) -> StoreReadings {
    StoreReadings {
        firsts: std::sync::Arc::default(),
        trial: None,
        store: name.into(),
        path: Path::new("/srv").join(name).into(),
        collectors: readings.len(),
        readings: readings.into_iter().map(Arc::new).collect(),
    }
}

fn snapshot(stores: Vec<StoreReadings>) -> Arc<Snapshot> {
    Arc::new(Snapshot { taken_at: Timestamp::from_secs(AT + 1), stores })
}

fn own() -> Own {
    Own::new("/metrics", Timestamp::from_secs(7)).unwrap()
}

fn encode(snapshot: &Arc<Snapshot>) -> Page {
    metrics::encode(snapshot, &own(), &Facts::default(), 20_000).unwrap()
}

fn read(page: &Page) -> Vec<Family> {
    let text = std::str::from_utf8(&page.identity).unwrap();
    parse(text).unwrap_or_else(|problem| panic!("{problem}\n{text}"))
}

fn with_samples(samples: Vec<Sample>) -> Vec<Family> {
    let observation = Observation { samples, ..Observation::default() };
    read(&encode(&snapshot(vec![store("s", vec![reading(&[], observation)])])))
}

#[test]
fn every_metric_keeps_the_rules_of_promtool_and_of_this_project() {
    let dir = tempfile::tempdir().unwrap();
    let config = Arc::new(Config::default());
    let host = Arc::new(Host::new(&config));
    let store = Arc::new(Store::new("s", dir.path()));
    let mut all = metrics::descs();
    for collector in collectors::registry(&Context::new(&config, &store, &host)) {
        for desc in collector.descs() {
            assert!(!desc.labels.contains(&"store"), "{}: the page adds the store", desc.name);
            assert!(desc.name.starts_with("chroma_"), "{}", desc.name);
            all.push(desc);
        }
    }
    let mut problems = Vec::new();
    let mut names = BTreeMap::new();
    for desc in all {
        if names.insert(desc.name, desc).is_some() {
            problems.push(format!("{}: described twice", desc.name));
        }
        let counter = desc.kind == SeriesKind::Counter;
        let Desc { name, help, labels, .. } = desc;
        problems.extend(lint::problems(lint::Metric { name, help, counter, labels }));
    }
    assert!(problems.is_empty(), "{problems:#?}");
    assert!(names.contains_key("chroma_finding") && names.contains_key("process_open_fds"));
}

#[test]
fn the_rules_find_what_promtool_would() {
    let good = lint::Metric {
        name: "chroma_good_bytes",
        help: "Good.",
        counter: false,
        labels: &["state"],
    };
    assert_eq!(lint::problems(good), Vec::<String>::new());
    for bad in [
        lint::Metric { help: "", ..good },
        lint::Metric { counter: true, ..good },
        lint::Metric { name: "chroma_x_total", ..good },
        lint::Metric { name: "chroma_x_milliseconds", ..good },
        lint::Metric { name: "chroma_x_days", ..good },
        lint::Metric { name: "chroma_x_gauge", ..good },
        lint::Metric { name: "chroma_gauge_bytes", ..good },
        lint::Metric { name: "chroma_x_ms", ..good },
        lint::Metric { name: "chroma_x_count", ..good },
        lint::Metric { name: "chroma:x", ..good },
        lint::Metric { name: "chroma_theX", ..good },
        lint::Metric { name: "theirs_x", ..good },
        lint::Metric { name: "chroma_timestamp", ..good },
        lint::Metric { labels: &["le"], ..good },
        lint::Metric { labels: &["theLabel"], ..good },
        lint::Metric { labels: &["path"], ..good },
        lint::Metric { labels: &["a", "a"], ..good },
    ] {
        assert!(!lint::problems(bad).is_empty(), "{bad:?}");
    }
}

#[test]
fn the_reader_refuses_what_prometheus_would_or_we_never_write() {
    let head = "# HELP a B.\n# TYPE a gauge\n";
    assert!(parse(&format!("{head}a 1\na{{b=\"c\\\\\\\"\\nd\"}} 2.5\n")).is_ok());
    for bad in [
        "a 1\n",
        "# HELP a B.\n# TYPE a gauge\n",
        "# HELP a B.\n# TYPE a gauge\na 1",
        "# HELP a B.\n# TYPE a gauge\na 1\na 1\n",
        "# HELP a B.\n# TYPE a gauge\na 1 1795424274\n",
        "# HELP a B.\n# TYPE a gauge\na NaN\n",
        "# HELP a B.\n# TYPE a gauge\na +Inf\n",
        "# HELP a B.\n# TYPE a gauge\n\na 1\n",
        "# HELP a B.\n# TYPE a gauge\nb 1\n",
        "# HELP a B.\n# TYPE a gauge\na{b=\"c} 1\n",
        "# HELP a B.\n# TYPE a gauge\na{b=\"\\t\"} 1\n",
        "# HELP a B.\n# TYPE a gauge\na{b=\"c\",b=\"d\"} 1\n",
        "# HELP a B.\n# TYPE a gauge\na{b=\"c\" d=\"e\"} 1\n",
        "# HELP a B.\na 1\n",
        "# TYPE a gauge\na 1\n",
        "# HELP a B.\n# TYPE a gauge\na 1\n# HELP a B.\n# TYPE a gauge\na{b=\"c\"} 1\n",
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_page_says_who_read_what_when() {
    let failed = Observation {
        problems: vec![CollectError::OutOfReach("no".to_owned())],
        ..Observation::default()
    };
    let page = encode(&snapshot(vec![
        store("a", vec![reading(&[], Observation::default())]),
        store("b", vec![reading(&[], failed)]),
    ]));
    let families = read(&page);
    let of = |name: &str, store: &str| {
        let name = format!("chroma_exporter_collector_{name}");
        value(&families, &name, &[("store", store), ("collector", "disk")])
    };
    let at = AT as f64;
    for (name, a, b) in [
        ("duration_seconds", 1.5, 1.5),
        ("success", 1.0, 0.0),
        ("last_run_timestamp_seconds", at, at),
        ("last_success_timestamp_seconds", at, 0.0),
    ] {
        assert_eq!((of(name, "a"), of(name, "b")), (Some(a), Some(b)), "{name}");
    }
    assert_eq!(
        value(&families, "chroma_store_info", &[("store", "a"), ("path", "/srv/a")]),
        Some(1.0)
    );
    assert_eq!(value(&families, "chroma_exporter_stores", &[]), Some(2.0));
    assert_eq!(value(&families, "chroma_exporter_snapshot_timestamp_seconds", &[]), Some(at + 1.0));
    assert_eq!(value(&families, "chroma_exporter_dropped_series", &[]), Some(0.0));
    let names: Vec<&str> = families.iter().map(|family| family.name.as_str()).collect();
    assert!(names.is_sorted(), "{names:?}");
}

#[test]
fn the_zipped_page_is_the_plain_one() {
    let page = encode(&snapshot(vec![store("a", vec![reading(&[], Observation::default())])]));
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(&page.gzip[..]).read_to_end(&mut plain).unwrap();
    assert_eq!(plain, page.identity);
    assert!(page.gzip.len() < page.identity.len() / 2);
}

#[test]
fn a_finding_is_one_zero_or_unknown_but_never_stale() {
    use Code::{BackupMissing as Missing, BackupStale as Stale, DiskReadonly as Readonly};
    use Severity::{Critical, Warning};
    const CODES: &[Code] = &[Missing, Stale, Readonly];
    struct Run {
        found: &'static [(Code, Severity)],
        failed: bool,
        judged: &'static [Code],
    }
    let fine = |found| Run { found, failed: false, judged: &[] };
    let failed = |found, judged| Run { found, failed: true, judged };
    for (runs, want) in [
        (
            vec![fine(&[])],
            "backup_missing/warning=0 backup_stale/warning=0 collector_failing/warning=0 disk_readonly/critical=0",
        ),
        (
            vec![fine(&[(Stale, Warning)])],
            "backup_missing/warning=0 backup_stale/warning=1 collector_failing/warning=0 disk_readonly/critical=0",
        ),
        // Graver than the catalogue says: the series of the usual severity is 0, and the other vanishes with it.
        (
            vec![fine(&[(Stale, Critical)])],
            "backup_missing/warning=0 backup_stale/critical=1 backup_stale/warning=0 collector_failing/warning=0 disk_readonly/critical=0",
        ),
        // Two subjects of one code.
        (
            vec![fine(&[(Stale, Critical), (Stale, Warning), (Stale, Warning)])],
            "backup_missing/warning=0 backup_stale/critical=1 backup_stale/warning=1 collector_failing/warning=0 disk_readonly/critical=0",
        ),
        // A failed run keeps what was found and disproves nothing but what it judged.
        (vec![failed(&[(Stale, Critical)], &[])], "backup_stale/critical=1"),
        (
            vec![failed(&[(Stale, Critical)], &[Missing])],
            "backup_missing/warning=0 backup_stale/critical=1",
        ),
        (vec![failed(&[], &[])], ""),
        // Where two collectors answer for a code, one that failed leaves it unknown, one that found it decides.
        (vec![fine(&[]), failed(&[], &[Readonly])], "disk_readonly/critical=0"),
        (vec![failed(&[], &[]), fine(&[(Missing, Warning)])], "backup_missing/warning=1"),
    ] {
        let readings = runs.iter().map(|run| {
            let finding = |(code, severity): &(Code, Severity)| {
                Finding::new(*code, "", "it is so").with_severity(*severity)
            };
            let problem = || CollectError::OutOfReach("no".to_owned());
            reading(
                CODES,
                Observation {
                    findings: run.found.iter().map(finding).collect(),
                    problems: run.failed.then(problem).into_iter().collect(),
                    judged: run.judged.to_vec(),
                    ..Observation::default()
                },
            )
        });
        let families = read(&encode(&snapshot(vec![store("s", readings.collect())])));
        let mut got: Vec<String> = family(&families, "chroma_finding")
            .map_or(&[][..], |family| &family.series)
            .iter()
            .map(|series| {
                let label = |name| series.label(name).unwrap();
                assert_eq!(label("store"), "s");
                format!("{}/{}={}", label("code"), label("severity"), series.value)
            })
            .collect();
        got.sort();
        assert_eq!(got.join(" "), want);
    }
}

#[test]
fn the_bound_takes_the_largest_family_and_never_findings_or_health() {
    let many = |n: usize| -> Vec<Sample> {
        (0..n).map(|i| MANY.with(vec![i.to_string().into()], 1.0)).collect()
    };
    let observed = |n| Observation {
        samples: [vec![PLAIN.sample(1.0)], many(n)].concat(),
        ..Observation::default()
    };
    let codes: &[Code] = &[Code::DiskReadonly, Code::InodesLow];
    let stores = vec![
        store("quiet", vec![reading(codes, observed(5))]),
        store("loud", vec![reading(codes, observed(500))]),
    ];
    let snapshot = snapshot(stores);
    let page = |series_max| {
        let page = metrics::encode(&snapshot, &own(), &Facts::default(), series_max).unwrap();
        (page.dropped_series, read(&page))
    };
    let series = |families: &[Family], name: &str| {
        family(families, name).map_or(0, |family| family.series.len())
    };
    // Information, health and findings of both stores: 2 × (1 + 4 + 2 and collector_failing); samples: 2 + 5 + 500.
    for (series_max, dropped) in
        [(1000, 0), (16 + 507, 0), (16 + 506, 500), (16 + 6, 505), (16, 507), (0, 507)]
    {
        let (count, families) = page(series_max);
        assert_eq!(count, dropped, "{series_max}");
        assert_eq!(value(&families, "chroma_exporter_dropped_series", &[]), Some(dropped as f64));
        assert_eq!(series(&families, "chroma_finding"), 6, "{series_max}");
        assert_eq!(series(&families, "chroma_exporter_collector_success"), 2, "{series_max}");
        assert_eq!(series(&families, "chroma_store_info"), 2, "{series_max}");
        let left = series(&families, MANY.name) + series(&families, PLAIN.name);
        assert_eq!(left, 507 - dropped, "{series_max}");
    }
    let (_, families) = page(16 + 506);
    assert_eq!(value(&families, PLAIN.name, &[("store", "loud")]), Some(1.0));
    assert_eq!(series(&families, MANY.name), 5, "the quiet store keeps its family");
}

#[test]
fn what_cannot_be_true_stays_off_the_page() {
    let words = |word: &'static str, value| WORDS.with(vec![word.into(), "x".into()], value);
    let families = with_samples(vec![
        words("nan", f64::NAN),
        words("inf", f64::INFINITY),
        words("minus", f64::NEG_INFINITY),
        words("twice", 1.0),
        words("twice", 2.0),
        words("large", 9_007_199_254_740_992.0),
        words("small", 1e-9),
        PLAIN.sample(f64::NAN),
    ]);
    let words = family(&families, WORDS.name).unwrap();
    assert_eq!(words.series.len(), 3, "{words:?}");
    for (word, want) in [("twice", 1.0), ("large", 9_007_199_254_740_992.0), ("small", 1e-9)] {
        assert_eq!(value(&families, WORDS.name, &[("word", word)]), Some(want));
    }
    assert!(family(&families, PLAIN.name).is_none(), "a family without a series has no head");
}

#[test]
fn names_from_disk_cannot_break_a_page() {
    use std::os::unix::ffi::OsStrExt;
    let mut broken = store("s", vec![reading(&[], Observation::default())]);
    broken.path = Path::new(std::ffi::OsStr::from_bytes(b"/srv/\"}\n# HELP x\\\xff\xfe")).into();
    let families = read(&encode(&snapshot(vec![broken])));
    let series = &family(&families, "chroma_store_info").unwrap().series[0];
    assert_eq!(series.label("path"), Some("/srv/\"}\n# HELP x\\\u{fffd}\u{fffd}"));
    let families = with_samples(vec![WORDS.with(vec!["a\0b".into(), "".into()], 1.0)]);
    assert_eq!(value(&families, WORDS.name, &[("word", "a\u{fffd}b")]), Some(1.0));
}

#[test]
fn a_family_of_very_many_series_has_one_head_and_each_series_once() {
    let sample = |n: usize| MANY.with(vec![n.to_string().into()], n as f64);
    let samples: Vec<Sample> = (0..2500).chain(1000..1100).map(sample).collect();
    let families = with_samples(samples);
    assert_eq!(family(&families, MANY.name).unwrap().series.len(), 2500);
    for n in [0, 1023, 1024, 2047, 2048, 2499] {
        assert_eq!(value(&families, MANY.name, &[("n", &n.to_string())]), Some(f64::from(n)));
    }
}

/// An alert of this store that fires.
fn firing(store: &str) -> Alert {
    Alert {
        name: "ChromaX".into(),
        severity: Severity::Critical,
        store: store.into(),
        path: "/srv".into(),
        summary: String::new(),
        evidence: String::new(),
        count: 1,
        reading: None,
        cause: String::new(),
        code: String::new(),
        items: 0,
        remedy: chroma_exporter::findings::Remedy::default(),
        runbook: String::new(),
        labels: BTreeMap::new(),
        since: Timestamp::from_secs(AT),
        stands_since: None,
        ended: None,
        episode: String::new(),
        known: false,
        merged: 0,
        done: String::new(),
        tried: String::new(),
    }
}

#[test]
fn own_health_is_told() {
    let own = own();
    own.count_request(Route::Metrics, 200);
    own.count_request(Route::Metrics, 200);
    own.count_refused();
    own.connections().inc();
    let process = ProcessUsage {
        cpu_seconds: 1.25,
        resident_bytes: 10_000_000,
        virtual_bytes: 20_000_000,
        open_fds: Some(12),
        max_fds: None,
        started: Timestamp::from_secs(AT - 60),
        threads: Some(9),
    };
    let facts = Facts {
        process: Some(process),
        state_persistent: true,
        state_write_errors: 3,
        watched: [("s".into(), true), ("gone".into(), true)].into(),
        jobs: Jobs { running: 1, waiting: 12 },
        alerts: Arc::new(AlertReport {
            rules: vec![("ChromaX".into(), Severity::Warning), ("ChromaY".into(), Severity::Info)],
            firing: vec![firing("s"), firing("gone")],
            receivers: [("ops".to_owned(), ReceiverReport { queued: 2, ..Default::default() })]
                .into(),
            ..AlertReport::default()
        }),
    };
    let snapshot = snapshot(vec![store("s", vec![])]);
    let page = |own: &Own| read(&metrics::encode(&snapshot, own, &facts, 20_000).unwrap());
    let families = page(&own);
    for (name, labels, want) in [
        ("chroma_exporter_http_requests_total", &[("path", "/metrics"), ("code", "200")][..], 2.0),
        ("chroma_exporter_http_requests_total", &[("path", "/metrics"), ("code", "405")], 0.0),
        ("chroma_exporter_http_requests_total", &[("path", "other"), ("code", "404")], 0.0),
        ("chroma_exporter_http_requests_total", &[("path", "/-/ready"), ("code", "503")], 0.0),
        (
            "chroma_alert_firing",
            &[("store", "s"), ("alert", "ChromaX"), ("severity", "critical")],
            1.0,
        ),
        ("chroma_exporter_notification_queue_length", &[("receiver", "ops")], 2.0),
        ("chroma_exporter_notifications_total", &[("receiver", "ops")], 0.0),
        (
            "chroma_exporter_notifications_failed_total",
            &[("receiver", "ops"), ("reason", "timeout")],
            0.0,
        ),
        ("chroma_exporter_http_connections", &[], 1.0),
        ("chroma_exporter_http_connections_refused_total", &[], 1.0),
        ("chroma_exporter_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0),
        ("chroma_exporter_state_persistent", &[], 1.0),
        ("chroma_exporter_state_write_errors_total", &[], 3.0),
        ("chroma_exporter_watch", &[("store", "s")], 1.0),
        ("chroma_exporter_expensive_jobs", &[("state", "running")], 1.0),
        ("chroma_exporter_expensive_jobs", &[("state", "waiting")], 12.0),
        ("chroma_exporter_config_last_reload_successful", &[], 1.0),
        ("chroma_exporter_config_last_reload_success_timestamp_seconds", &[], 7.0),
        ("process_cpu_seconds_total", &[], 1.25),
        ("process_resident_memory_bytes", &[], 10_000_000.0),
        ("process_virtual_memory_bytes", &[], 20_000_000.0),
        ("process_open_fds", &[], 12.0),
        ("process_threads", &[], 9.0),
        ("process_start_time_seconds", &[], (AT - 60) as f64),
    ] {
        assert_eq!(value(&families, name, labels), Some(want), "{name} {labels:?}");
    }
    assert!(family(&families, "process_max_fds").is_none(), "no limit is no number");
    let alerts = family(&families, "chroma_alert_firing").unwrap();
    assert_eq!(
        alerts.series.len(),
        1,
        "what does not fire and stores that are gone have no series"
    );
    let watched = family(&families, "chroma_exporter_watch").unwrap();
    assert_eq!(watched.series.len(), 1, "a store that is gone has no series");

    own.reload_failed("stores: none", Timestamp::from_secs(0));
    let families = page(&own);
    let reload = |families: &[Family], what: &str| {
        value(families, &format!("chroma_exporter_config_last_reload_{what}"), &[])
    };
    assert_eq!(reload(&families, "successful"), Some(0.0));
    assert_eq!(reload(&families, "success_timestamp_seconds"), Some(7.0));
    own.reload_succeeded(Timestamp::from_secs(9));
    let families = page(&own);
    assert_eq!(reload(&families, "successful"), Some(1.0));
    assert_eq!(reload(&families, "success_timestamp_seconds"), Some(9.0));
}

proptest! {
    #[test]
    fn whatever_stands_in_a_label_comes_back(word in any::<String>(), other in "[\\\\\"\n{}=,a ]{0,12}", value in any::<f64>()) {
        let sample = WORDS.with(vec![Cow::Owned(word.clone()), Cow::Owned(other.clone())], value);
        let families = with_samples(vec![sample]);
        let found = family(&families, WORDS.name);
        prop_assert_eq!(found.is_some(), value.is_finite());
        if let Some(found) = found {
            let series = &found.series[0];
            let clean = word.replace('\0', "\u{fffd}");
            prop_assert_eq!(series.label("word"), Some(clean.as_str()));
            prop_assert_eq!(series.label("other"), Some(other.as_str()));
            // The negative zero is a zero.
            prop_assert_eq!(series.value.to_bits(), (value + 0.0).to_bits());
        }
    }
}
