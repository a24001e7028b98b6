//! The rules in Prometheus: its own tools take the file without a word; every alert fires when it should and is silent when
//! it should be; every description finds its words.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::support::{
    SOON,
    prometheus::Prometheus,
    rulefile::{self, Rule},
    wait_for,
};
use chroma_exporter::findings::Code;

fn promtool(args: &[&str], file: &Path) {
    let out = Command::new("promtool").args(args).arg(file).output().expect("promtool");
    let said =
        format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "promtool {args:?}: {said}");
}

#[test]
fn promtool_takes_the_rules() {
    promtool(&["check", "rules", "--lint=all", "--lint-fatal"], &rulefile::path());
}

/// One play for `promtool test rules`: series with a value a minute, and what fires when.
#[derive(Default)]
struct Play {
    series: String,
    asked: String,
    /// Alerts of which it shows that they fire, and that they do not.
    fires: BTreeSet<String>,
    silent: BTreeSet<String>,
}

impl Play {
    fn series(&mut self, series: &str, values: &str) -> &mut Self {
        writeln!(self.series, "      - series: '{series}'\n        values: '{values}'").unwrap();
        self
    }

    /// At `minute` the alert fires for exactly these label sets (without `alertname`), among those that `matchers` select.
    fn alert(&mut self, name: &str, matchers: &str, minute: u32, firing: &[&str]) -> &mut Self {
        let (which, comma) = (matchers, if matchers.is_empty() { "" } else { ", " });
        writeln!(
            self.asked,
            "      - expr: 'ALERTS{{alertname=\"{name}\", alertstate=\"firing\"{comma}{which}}}'\n        eval_time: {minute}m"
        )
        .unwrap();
        if firing.is_empty() {
            self.silent.insert(name.to_owned());
        } else {
            self.fires.insert(name.to_owned());
            self.asked.push_str("        exp_samples:\n");
        }
        for labels in firing {
            let comma = if labels.is_empty() { "" } else { ", " };
            writeln!(
                self.asked,
                "          - labels: 'ALERTS{{alertname=\"{name}\", alertstate=\"firing\"{comma}{labels}}}'\n            value: 1"
            )
            .unwrap();
        }
        self
    }

    fn text(&self) -> String {
        format!(
            "  - interval: 1m\n    input_series:\n{}    promql_expr_test:\n{}",
            self.series, self.asked
        )
    }
}

/// All alerts over findings at once. Each has: a host where its finding comes and goes and another one where it is missing
/// for three minutes; a host where all is well; one where another finding is there; and one where it is not known.
fn play_findings(rules: &[Rule]) -> Play {
    let mut play = Play::default();
    let codes: Vec<&str> = rules.iter().map(|rule| rule.expr.split('"').nth(1).unwrap()).collect();
    for (at, (rule, code)) in rules.iter().zip(&codes).enumerate() {
        let name = &rule.alert;
        let usual = Code::ALL.iter().find(|c| c.as_str() == *code).unwrap().severity().as_str();
        let other = if usual == "critical" { "warning" } else { "critical" };
        let finding = |instance: &str, store: &str, code: &str, severity: &str| {
            format!(
                "chroma_finding{{job=\"j\",instance=\"{instance}\",store=\"{store}\",code=\"{code}\",severity=\"{severity}\"}}"
            )
        };
        let labels = |instance: &str, severity: &str| {
            format!(
                "code=\"{code}\", instance=\"{instance}\", job=\"j\", severity=\"{severity}\", store=\"s{at}\""
            )
        };
        let store = format!("s{at}");
        // Everything lasts so much longer as the alert waits.
        let hold = rule.hold_minutes();
        let next = codes[(at + 1) % codes.len()];
        let next_severity =
            Code::ALL.iter().find(|c| c.as_str() == next).unwrap().severity().as_str();
        play.series(&finding("bad", &store, code, usual), &format!("0 1x{} 0x20", 4 + hold));
        play.series(
            &finding("gap", &store, code, usual),
            &format!("1x{} stale _x2 1x20", 3 + hold),
        );
        // Graver or lighter than usual: the series of the catalogue's severity stays at 0.
        play.series(&finding("other", &store, code, usual), "0x25");
        play.series(&finding("other", &store, code, other), &format!("1x{}", 25 + hold));
        play.series(&finding("well", &store, code, usual), "0x25");
        play.series(&finding("elsewhere", &store, code, usual), "0x25");
        play.series(&finding("elsewhere", &store, next, next_severity), "1x25");
        play.series(&finding("unknown", &store, code, usual), "0x3 stale");

        let of = |instance: &str| format!("instance=\"{instance}\", store=\"s{at}\"");
        play.alert(name, &of("bad"), 0, &[]);
        play.alert(name, &of("bad"), 3 + hold, &[&labels("bad", usual)]);
        play.alert(name, &of("bad"), 20 + hold, &[]);
        for minute in [2, 4, 6, 20] {
            play.alert(name, &of("gap"), minute + hold, &[&labels("gap", usual)]);
        }
        play.alert(name, &of("other"), 4 + hold, &[&labels("other", other)]);
        for instance in ["well", "elsewhere", "unknown"] {
            play.alert(name, &of(instance), 4, &[]);
            play.alert(name, &of(instance), 20, &[]);
        }
    }
    play
}

/// A level and its recovery, whatever they are.
fn play_level(rule: &Rule) -> Play {
    let numbers: Vec<f64> = rule
        .expr
        .lines()
        .filter_map(|line| line.split(">= ").nth(1)?.trim().parse().ok())
        .collect();
    let [level, recover] = numbers[..] else { panic!("{}: {}", rule.alert, rule.expr) };
    let series = rule.expr.split_whitespace().next().unwrap();
    let (between, below) = (f64::midpoint(level, recover), recover - 0.01);
    let severity = &rule.labels["severity"];
    let mut play = Play::default();
    for (instance, values) in [
        ("bad", format!("{below} {level} {between}x10 {below}x20")),
        ("never", format!("{between}x30")),
        ("well", format!("{below}x30")),
        ("unknown", format!("{below}x3 stale")),
    ] {
        play.series(&format!("{series}{{job=\"j\",instance=\"{instance}\",store=\"s\"}}"), &values);
    }
    let labels = format!("instance=\"bad\", job=\"j\", severity=\"{severity}\", store=\"s\"");
    play.alert(&rule.alert, "", 0, &[]);
    for minute in [1, 6, 11] {
        play.alert(&rule.alert, "", minute, &[&labels]);
    }
    play.alert(&rule.alert, "", 25, &[]);
    play
}

/// The alerts of the path: series with their values, when it fires with which labels, and when it is silent.
type Own = (
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static [(u32, &'static [&'static str])],
);

const AT: &str = "instance=\"i\", job=\"j\"";

#[rustfmt::skip]
const OWN: &[Own] = &[
    ("ChromaExporterAbsent", &[("chroma_exporter_build_info{{AT}}", "1 1 stale _x20 1x20")],
        &[(1, &[]), (5, &[]), (9, &["severity=\"critical\""]), (30, &[])]),
    ("ChromaExporterDown", &[
        ("up{{AT}}", "1 1 0x20 1x20"), ("chroma_exporter_build_info{{AT}}", "1 1 stale _x20 1x20"),
        // Of the documented job, and never seen; and a stranger that is down.
        ("up{instance=\"new\", job=\"chroma\"}", "0x10 1x40"), ("up{instance=\"stranger\", job=\"node\"}", "0x50")],
        &[(1, &[]), (5, &["instance=\"new\", job=\"chroma\", severity=\"critical\""]), (6, &["instance=\"new\", job=\"chroma\", severity=\"critical\""]),
          (15, &["{AT}, severity=\"critical\""]), (40, &[])]),
    ("ChromaStoreUnwatched", &[
        ("chroma_exporter_build_info{{AT}}", "1x600"), ("chroma_store_info{{AT}, path=\"/a\", store=\"a\"}", "1x600"),
        ("chroma_store_info{{AT}, path=\"/b\", store=\"b\"}", "1x5 stale _x600"),
        // It moved: the name is what counts.
        ("chroma_store_info{{AT}, path=\"/old\", store=\"c\"}", "1x5 stale _x600"), ("chroma_store_info{{AT}, path=\"/new\", store=\"c\"}", "_x5 1x600"),
        // Its exporter is down, which is another alert.
        ("chroma_store_info{instance=\"down\", job=\"j\", path=\"/d\", store=\"d\"}", "1x5 stale _x600")],
        &[(4, &[]), (10, &[]), (20, &["{AT}, path=\"/b\", severity=\"warning\", store=\"b\""]), (380, &[])]),
    ("ChromaReadingsStale", &[("chroma_exporter_snapshot_timestamp_seconds{{AT}}", "0x20 1200+60x20"),
        ("chroma_exporter_snapshot_timestamp_seconds{instance=\"well\", job=\"j\"}", "0+60x60")],
        &[(4, &[]), (8, &["{AT}, severity=\"warning\""]), (35, &[])]),
    ("ChromaCollectorStale", &[("chroma_exporter_collector_last_run_timestamp_seconds{{AT}, collector=\"disk\", store=\"s\"}", "0x60 3600+60x60"),
        ("chroma_exporter_collector_last_run_timestamp_seconds{{AT}, collector=\"permissions\", store=\"s\"}", "0x10 600x10 1200x10 1800x10 2400x10 3000x10 3600x10 4200x10")],
        &[(29, &[]), (33, &["collector=\"disk\", {AT}, severity=\"warning\", store=\"s\""]), (75, &[])]),
    ("ChromaIntegrityCheckStale", &[("chroma_integrity_next_due_timestamp_seconds{{AT}, check=\"full\", store=\"s\"}", "3600x480 90000x40"),
        ("chroma_integrity_next_due_timestamp_seconds{{AT}, check=\"quick\", store=\"s\"}", "3600+60x600")],
        &[(360, &[]), (430, &["check=\"full\", {AT}, severity=\"warning\", store=\"s\""]), (500, &[])]),
    ("ChromaIntegrityCheckersDisagree", &[("chroma_integrity_checker_disagreements_total{{AT}, store=\"s\"}", "0x4 1x2000"),
        // One of long ago, and none.
        ("chroma_integrity_checker_disagreements_total{{AT}, store=\"old\"}", "3x2000"),
        ("chroma_integrity_checker_disagreements_total{{AT}, store=\"well\"}", "0x2000")],
        &[(3, &[]), (6, &["{AT}, severity=\"warning\", store=\"s\""]), (1400, &["{AT}, severity=\"warning\", store=\"s\""]), (1500, &[])]),
    ("ChromaNotificationsFailing", &[
        ("chroma_exporter_notification_queue_length{{AT}, receiver=\"r\"}", "0 3x20 0x20"), ("chroma_exporter_notification_oldest_timestamp_seconds{{AT}, receiver=\"r\"}", "0 60x20 0x20"),
        // One that is emptied again and again.
        ("chroma_exporter_notification_queue_length{{AT}, receiver=\"busy\"}", "1x40"), ("chroma_exporter_notification_oldest_timestamp_seconds{{AT}, receiver=\"busy\"}", "0+60x40"),
        // None waits: 0 is no moment.
        ("chroma_exporter_notification_queue_length{{AT}, receiver=\"idle\"}", "0x40"), ("chroma_exporter_notification_oldest_timestamp_seconds{{AT}, receiver=\"idle\"}", "0x40")],
        &[(5, &[]), (9, &["{AT}, receiver=\"r\", severity=\"warning\""]), (35, &[])]),
    ("ChromaNotificationsLost", &[("chroma_exporter_notification_dead_letters_total{{AT}, receiver=\"r\"}", "0x4 2x200"),
        ("chroma_exporter_notification_dead_letters_total{{AT}, receiver=\"old\"}", "7x200")],
        &[(3, &[]), (6, &["{AT}, receiver=\"r\", severity=\"warning\""]), (100, &[])]),
    ("ChromaAlertStateNotKept", &[("chroma_exporter_alert_state_persistent{{AT}}", "1 0x30 1x20"), ("chroma_exporter_notification_queue_length{{AT}, receiver=\"r\"}", "0x60"),
        // Nobody is to be told: nothing can be forgotten.
        ("chroma_exporter_alert_state_persistent{instance=\"alone\", job=\"j\"}", "0x60")],
        &[(10, &[]), (20, &["{AT}, severity=\"warning\""]), (45, &[])]),
    ("ChromaConfigReloadFailed", &[("chroma_exporter_config_last_reload_successful{{AT}}", "1 0x20 1x20"), ("chroma_exporter_config_last_reload_successful{instance=\"well\", job=\"j\"}", "1 0x3 1x40")],
        &[(4, &[]), (8, &["{AT}, severity=\"warning\""]), (35, &[])]),
    ("ChromaSeriesDropped", &[("chroma_exporter_dropped_series{{AT}}", "0 4x30 0x20"), ("chroma_exporter_dropped_series{instance=\"well\", job=\"j\"}", "0x60")],
        &[(10, &[]), (20, &["{AT}, severity=\"warning\""]), (45, &[])]),
    ("ChromaWatchdog", &[("up{{AT}}", "1x20")], &[(0, &["severity=\"info\""]), (15, &["severity=\"info\""])]),
];

#[test]
fn every_alert_fires_when_it_should_and_is_silent_when_it_should_be() {
    let alerts = rulefile::alerts();
    let (findings, others): (Vec<Rule>, Vec<Rule>) =
        alerts.iter().cloned().partition(|rule| rule.expr.starts_with("chroma_finding{"));
    let mut plays = vec![play_findings(&findings)];
    plays.extend(others.iter().filter(|rule| rule.group == "chroma-stores").map(play_level));
    for (name, series, times) in OWN {
        let mut play = Play::default();
        let filled = |text: &str| text.replace("{AT}", AT);
        for (series, values) in *series {
            play.series(&filled(series), values);
        }
        for (minute, firing) in *times {
            let firing: Vec<String> = firing.iter().map(|labels| filled(labels)).collect();
            let firing: Vec<&str> = firing.iter().map(String::as_str).collect();
            play.alert(name, "", *minute, &firing);
        }
        plays.push(play);
    }
    let fires: BTreeSet<&String> = plays.iter().flat_map(|play| &play.fires).collect();
    let silent: BTreeSet<&String> = plays.iter().flat_map(|play| &play.silent).collect();
    for rule in &alerts {
        assert!(fires.contains(&rule.alert), "{} is never seen to fire", rule.alert);
        let always = rule.alert == "ChromaWatchdog";
        assert!(always || silent.contains(&rule.alert), "{} is never seen silent", rule.alert);
    }
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("test.yml");
    let head = format!(
        "rule_files: ['{}']\nevaluation_interval: 1m\ntests:\n",
        rulefile::path().display()
    );
    let text: String = plays.iter().map(Play::text).collect();
    fs::write(&file, head + &text).unwrap();
    promtool(&["test", "rules"], &file);
}

/// The page of a store for which every finding is there, and of an exporter about which every alert is right.
fn worst_page(golden: &str, scrape: u64) -> String {
    let mut page = String::new();
    for line in golden.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let family = series.split('{').next().unwrap();
        let series = match family {
            "chroma_disk_info" => "chroma_disk_info{store=\"store\"}".to_owned(),
            "chroma_exporter_build_info" => "chroma_exporter_build_info{version=\"1\"}".to_owned(),
            "chroma_store_info" => {
                "chroma_store_info{store=\"store\",path=\"/srv/it's mine\"}".to_owned()
            }
            _ => series.to_owned(),
        };
        let value = match family {
            "chroma_finding" | "chroma_exporter_dropped_series" => "1".to_owned(),
            "chroma_disk_used_ratio" => "0.95".to_owned(),
            "chroma_exporter_collector_success"
            | "chroma_exporter_alert_state_persistent"
            | "chroma_exporter_config_last_reload_successful" => "0".to_owned(),
            "chroma_exporter_notification_queue_length" => "3".to_owned(),
            "chroma_exporter_notification_dead_letters_total"
            | "chroma_integrity_checker_disagreements_total" => (scrape * 2).to_string(),
            "chroma_process_writers" => "2".to_owned(),
            _ if value == "*" || family.ends_with("timestamp_seconds") => "1".to_owned(),
            _ => value.to_owned(),
        };
        writeln!(page, "{series} {value}").unwrap();
    }
    let known: BTreeSet<&str> =
        golden.lines().filter_map(|line| line.split("code=\"").nth(1)?.split('"').next()).collect();
    for code in Code::ALL.iter().filter(|code| !known.contains(code.as_str())) {
        let (code, severity) = (code.as_str(), code.severity().as_str());
        writeln!(
            page,
            "chroma_finding{{store=\"store\",code=\"{code}\",severity=\"{severity}\"}} 1"
        )
        .unwrap();
    }
    page.push_str("chroma_server_probe_success{store=\"store\",probe=\"heartbeat\"} 0\n");
    if scrape < 10 {
        page.push_str("chroma_store_info{store=\"gone\",path=\"/srv/gone\"} 1\n");
    }
    page
}

fn serve_pages(golden: String) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let scrapes = AtomicU64::new(0);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut head = [0; 4096];
            drop(stream.read(&mut head));
            let page = worst_page(&golden, scrapes.fetch_add(1, Ordering::Relaxed));
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{page}",
                page.len()
            );
            drop(stream.write_all(answer.as_bytes()));
        }
    });
    address
}

#[test]
fn every_alert_finds_its_words() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/chroma-1.5.9.prom");
    let page = serve_pages(fs::read_to_string(golden).unwrap());
    let scratch = tempfile::tempdir().unwrap();
    // At once: the time that each must hold is what `promtool test rules` is for.
    let text = fs::read_to_string(rulefile::path()).unwrap();
    let text: String =
        text.lines().filter(|l| !l.trim().starts_with("for: ")).flat_map(|l| [l, "\n"]).collect();
    fs::write(scratch.path().join("rules.yml"), text).unwrap();
    let config = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\nrule_files: [rules.yml]\nscrape_configs:\n\
         \x20 - job_name: chroma\n    static_configs: [{{targets: ['{page}', '127.0.0.1:1']}}]\n"
    );
    let prometheus = Prometheus::start(&config, scratch.path());
    let alerts = rulefile::alerts();
    // There is an exporter, so that this one is silent; it has no template either.
    let absent = alerts.iter().find(|rule| rule.alert == "ChromaExporterAbsent").unwrap();
    assert!(absent.annotations.values().all(|text| !text.contains("{{")));
    let expected: BTreeSet<&str> =
        alerts.iter().map(|rule| &*rule.alert).filter(|name| *name != absent.alert).collect();
    let firing = wait_for("every alert to fire", 2 * SOON, || {
        let firing = prometheus.api("alerts")["alerts"].as_array().unwrap().clone();
        let names: BTreeSet<&str> =
            firing.iter().filter_map(|alert| alert["labels"]["alertname"].as_str()).collect();
        expected.is_subset(&names).then_some(firing)
    });
    let mut numbers = BTreeMap::new();
    for alert in &firing {
        let labels = &alert["labels"];
        let name = labels["alertname"].as_str().unwrap();
        for (key, text) in alert["annotations"].as_object().unwrap() {
            let text = text.as_str().unwrap();
            for bad in ["{{", "<error", "<no value>", "PATH", "%!", "{path}"] {
                assert!(!text.contains(bad), "{name}: {key}: {text}");
            }
        }
        let description = alert["annotations"]["description"].as_str().unwrap();
        if labels["store"] == "store"
            && name != "ChromaCollectorStale"
            && !name.ends_with("CheckStale")
            && name != "ChromaIntegrityCheckersDisagree"
        {
            let begins = format!("store ('/srv/it'\\''s mine') on {page}: ");
            assert!(description.starts_with(&begins), "{name}: {description}");
            numbers.insert(name, description.to_owned());
        }
    }
    for (name, number) in [
        ("ChromaSecondWriter", "2 processes hold it open for writing."),
        ("ChromaDiskUsageCritical", "Now: 95%."),
        ("ChromaCollectorFailing", "The collector hnsw fails."),
        ("ChromaServerUnreachable", "The probe heartbeat fails."),
        ("ChromaSegmentOrphan", "They take 3"),
        ("ChromaInodesLow", "100% are left."),
    ] {
        assert!(numbers[name].contains(number), "{name}: {}", numbers[name]);
    }
    assert!(
        numbers["ChromaSqliteIndexCorrupt"]
            .contains("recover --store.path '/srv/it'\\''s mine' --apply")
    );
}
