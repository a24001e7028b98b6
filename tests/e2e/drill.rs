//! The drill: for every critical alert a real store is broken, and the webhook hears of it through the exporter, the rule file
//! and the Prometheus and Alertmanager of `deploy/`; of stores that are well it hears nothing. The files are used as they stand
//! but for addresses and times.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs::{self, File},
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::support::{
    self, Exporter, SOON, chroma, faults, fixture, free_port, get,
    hook::Hook,
    prometheus::{Prometheus, fetch},
    tmpfs::Tmpfs,
    wait_every, wait_for,
};
use chroma_exporter::{
    alert::builtin,
    findings::{Code, Severity},
};
use serde_json::Value;

/// A target that nobody answers at.
const NOBODY: &str = "127.0.0.1:1";

/// Two stores of which nothing is to be heard: one at rest, one that a server works on.
const WELL: [&str; 2] = ["at_rest", "served"];

/// Critical findings that need more than a broken file: a process, a mount, a line of the configuration.
const LIVE: [&str; 11] = [
    "schema_newer_than_server",
    "second_writer",
    "server_gone",
    "store_replaced",
    "disk_usage_critical",
    "disk_readonly",
    "permission_unwritable",
    "backup_invalid",
    "server_unreachable",
    "server_failing",
    "log_panic",
];

/// A real Alertmanager; killed when dropped.
struct Alertmanager {
    child: Child,
    address: SocketAddr,
}

impl Alertmanager {
    fn start(config: &Path, dir: &Path) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let child = Command::new("prometheus-alertmanager")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.path={}", dir.join("alertmanager").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--cluster.listen-address=")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(dir.join("alertmanager.log")).unwrap())
            .spawn()
            .expect("prometheus-alertmanager, which tests/run installs");
        let started = Self { child, address };
        wait_for("Alertmanager to be ready", 2 * SOON, || {
            (fetch(address, "/-/ready")?.0 == 200).then_some(())
        });
        started
    }

    /// Names and stores of alerts that it holds back for a graver one.
    fn inhibited(&self) -> BTreeSet<(String, String)> {
        let (_, body) = fetch(self.address, "/api/v2/alerts?inhibited=true").unwrap();
        let alerts: Vec<Value> = serde_json::from_str(&body).unwrap();
        let word = |alert: &Value, label: &str| {
            alert["labels"][label].as_str().unwrap_or_default().to_owned()
        };
        alerts
            .iter()
            .filter(|alert| alert["status"]["state"] == "suppressed")
            .map(|alert| (word(alert, "alertname"), word(alert, "store")))
            .collect()
    }
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A copy of `deploy/` and `alerts/` with other words in some places; each must be there.
fn deploy(to: &Path, changes: &[(&str, &[(&str, &str)])]) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    for part in ["deploy", "alerts"] {
        support::copy_tree(&here.join(part), &to.join(part));
    }
    for (name, words) in changes {
        let file = to.join(name);
        let mut text = fs::read_to_string(&file).unwrap();
        for (from, into) in *words {
            assert!(text.contains(from), "{name} has no {from:?} any more");
            text = text.replace(from, into);
        }
        fs::write(&file, text).unwrap();
    }
    to.join("deploy")
}

/// Every store of the drill, with the real processes that some of them need.
struct Stage {
    root: PathBuf,
    config: PathBuf,
    served: chroma::Server,
    failing: chroma::Server,
    doubled: chroma::Server,
    leaving: chroma::Server,
    holder: chroma::Embedded,
    /// Unmounted last, the inner ones before the outer one.
    mounts: [Tmpfs; 3],
    scratch: tempfile::TempDir,
}

impl Stage {
    fn set() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let disk = Tmpfs::mount(&scratch.path().join("disk"), "1g");
        let root = disk.0.join("stores");
        let store = |name: &str| {
            let made = fixture("chroma-1.5.9", &root);
            fs::rename(made, root.join(name)).unwrap();
        };
        let mounted = ["disk_usage_critical", "disk_readonly"];
        let full = Tmpfs::mount(&root.join(mounted[0]), "20m");
        let readonly = Tmpfs::mount(&root.join(mounted[1]), "20m");
        for name in mounted {
            let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chroma-1.5.9");
            support::copy_tree(&from, &root.join(name));
        }
        for name in WELL.iter().chain(&LIVE).filter(|name| !mounted.contains(name)) {
            store(name);
        }
        for (name, fault) in faults::one_of_each() {
            faults::stage(fault, &root, name);
        }
        fs::write(full.0.join("ballast"), vec![1; 18_600_000]).unwrap();
        let remount =
            Command::new("mount").args(["-o", "remount,ro"]).arg(&readonly.0).status().unwrap();
        assert!(remount.success());

        let log = |name: &str| scratch.path().join(format!("{name}.log"));
        fs::write(log("log_panic"), "").unwrap();
        fs::create_dir(scratch.path().join("backups")).unwrap();
        File::create(scratch.path().join("backups/today.tar.gz")).unwrap();
        let [served, failing, doubled, leaving] =
            ["served", "server_failing", "second_writer", "server_gone"].map(|name| {
                let (dir, log) = (root.join(name), log(name));
                std::thread::spawn(move || chroma::Server::start_logging("1.5.9", &dir, &log))
            });
        let holder = chroma::Embedded::start("1.5.9", &root.join("store_replaced"));
        let [served, failing, doubled, leaving] =
            [served, failing, doubled, leaving].map(|server| server.join().unwrap());
        let config = scratch.path().join("config.yml");
        let stage = Self {
            root,
            config,
            served,
            failing,
            doubled,
            leaving,
            holder,
            mounts: [full, readonly, disk],
            scratch,
        };
        fs::write(&stage.config, stage.configuration()).unwrap();
        stage
    }

    fn configuration(&self) -> String {
        let at = self.scratch.path().display();
        let mut text = format!(
            "state: {{dir: {at}/state}}\ncollect: {{interval: 2s, contents_interval: 2s, backups_interval: 2s}}\nstores:\n"
        );
        let names = faults::one_of_each().into_iter().map(|(name, _)| name).chain(LIVE).chain(WELL);
        for name in names {
            let more = match name {
                "schema_newer_than_server" => "chroma_version: 1.1.1".to_owned(),
                "permission_unwritable" => "permissions: {server_user: nobody}".to_owned(),
                "backup_invalid" => {
                    format!("backups: {{patterns: ['{at}/backups/*'], settle: 0s}}")
                }
                "server_unreachable" => format!("server: {{url: 'http://{NOBODY}', interval: 1s}}"),
                "log_panic" => format!("logs: ['{at}/log_panic.log']"),
                "server_failing" => format!(
                    "server: {{url: 'http://127.0.0.1:{}', interval: 1s, timeout: 20s}}",
                    self.failing.port
                ),
                "served" => format!(
                    "server: {{url: 'http://127.0.0.1:{}', interval: 1s, timeout: 20s}}, logs: ['{at}/served.log']",
                    self.served.port
                ),
                _ => String::new(),
            };
            let comma = if more.is_empty() { "" } else { ", " };
            let path = self.root.join(name);
            writeln!(text, "  - {{name: {name}, path: {}{comma}{more}}}", path.display()).unwrap();
        }
        text
    }

    /// What must happen while the exporter looks on.
    fn strike(self) -> Struck {
        let second = chroma::Embedded::start("1.5.9", &self.root.join("second_writer"));
        drop(self.leaving);
        let database = self.root.join("store_replaced/chroma.sqlite3");
        let restored = database.with_extension("restored");
        fs::copy(&database, &restored).unwrap();
        fs::rename(&restored, &database).unwrap();
        faults::overwrite(&self.root.join("server_failing/chroma.sqlite3"), 0, &[0; 4096]);
        let log = self.scratch.path().join("log_panic.log");
        let mut log = File::options().append(true).open(log).unwrap();
        writeln!(
            log,
            "thread 'main' panicked at rust/sqlite/src/db.rs:157:42:\nrange start index 10 out of range for slice of length 9"
        )
        .unwrap();
        Struck {
            _processes: (second, self.holder, self.served, self.failing, self.doubled),
            _mounts: self.mounts,
            _scratch: self.scratch,
        }
    }
}

/// Keeps everything until the end.
struct Struck {
    _processes:
        (chroma::Embedded, chroma::Embedded, chroma::Server, chroma::Server, chroma::Server),
    _mounts: [Tmpfs; 3],
    _scratch: tempfile::TempDir,
}

/// Alerts that the webhook heard of at this path, by name and store.
fn heard(hook: &Hook, path: &str) -> BTreeMap<(String, String), Value> {
    let mut heard = BTreeMap::new();
    for post in hook.posts().into_iter().filter(|post| post.path == path) {
        for alert in post.json()["alerts"].as_array().into_iter().flatten() {
            let word = |label: &str| alert["labels"][label].as_str().unwrap_or_default().to_owned();
            heard.insert((word("alertname"), word("store")), alert.clone());
        }
    }
    heard
}

#[test]
fn every_critical_code_is_in_the_drill() {
    let drilled: BTreeSet<&str> =
        faults::one_of_each().into_iter().map(|(code, _)| code).chain(LIVE).collect();
    let critical: BTreeSet<&str> = Code::ALL
        .iter()
        .filter(|code| code.severity() == Severity::Critical)
        .map(|code| code.as_str())
        .collect();
    assert_eq!(drilled, critical);
}

#[test]
fn every_critical_alert_reaches_the_webhook_and_nothing_else_does() {
    let began = support::now();
    let hook = Hook::start();
    let (people, watchdog) =
        (format!("http://{}/people", hook.address), format!("http://{}/watchdog", hook.address));
    let stage = Stage::set();
    let dir = stage.scratch.path().to_owned();
    let exporter = Exporter::start(&["--config.file", stage.config.to_str().unwrap()]);

    let address = exporter.address.to_string();
    let two = format!("{address}\n    - {NOBODY}");
    let files = deploy(
        &dir,
        &[
            ("deploy/targets.yml", &[("127.0.0.1:18000", &two)]),
            (
                "deploy/alertmanager.yml",
                &[
                    ("http://127.0.0.1:9095/people", &people),
                    ("http://127.0.0.1:9095/watchdog", &watchdog),
                    ("group_wait: 30s", "group_wait: 1s"),
                    ("group_interval: 5m", "group_interval: 2s"),
                    ("group_interval: 1m", "group_interval: 2s"),
                    ("repeat_interval: 1m", "repeat_interval: 2s"),
                ],
            ),
            (
                "alerts/chroma.rules.yml",
                &[("\n    for: 5m", "\n    for: 10s"), ("\n    for: 15s", "\n    for: 4s")],
            ),
        ],
    );
    let alertmanager = Alertmanager::start(&files.join("alertmanager.yml"), &dir);
    let at = alertmanager.address.to_string();
    let file = files.join("prometheus.yml");
    let mut text = fs::read_to_string(&file).unwrap();
    for (from, into) in [
        ("127.0.0.1:9093", &*at),
        ("scrape_interval: 15s", "scrape_interval: 3s"),
        ("evaluation_interval: 15s", "evaluation_interval: 2s"),
        ("scrape_timeout: 10s", "scrape_timeout: 3s"),
    ] {
        assert!(text.contains(from), "prometheus.yml has no {from:?} any more");
        text = text.replace(from, into);
    }
    fs::write(&file, text).unwrap();
    let prometheus = Prometheus::start_at(&file, &dir, free_port());

    wait_for("the first look at every store", 2 * SOON, || {
        (get(exporter.address, "/-/ready").status == 200).then_some(())
    });
    println!("all stores looked at after {:?}", began.elapsed());
    let struck = stage.strike();
    println!("the last faults are there after {:?}", began.elapsed());

    let mut wanted: BTreeSet<(String, String)> = faults::one_of_each()
        .into_iter()
        .map(|(code, _)| code)
        .chain(LIVE)
        .map(|code| {
            let known = Code::ALL.iter().find(|known| known.as_str() == code).unwrap();
            (builtin::name(*known), code.to_owned())
        })
        .collect();
    wanted.insert(("ChromaExporterDown".to_owned(), String::new()));
    wait_told(&hook, &wanted, &exporter, &dir);
    println!("{} critical alerts have arrived after {:?}", wanted.len(), began.elapsed());

    // A warning beside a critical alert of the same store is held back.
    let high = ("ChromaDiskUsageHigh".to_owned(), "disk_usage_critical".to_owned());
    wait_for("the milder alert to be held back", SOON, || {
        alertmanager.inhibited().contains(&high).then_some(())
    });
    wait_for("the watchdog", SOON, || (heard(&hook, "/watchdog").len() == 1).then_some(()));
    look_at_all(&hook, &wanted);

    assert!(exporter.stop().success());
    wanted.insert(("ChromaExporterAbsent".to_owned(), String::new()));
    wait_for("the alert that there is no exporter", 2 * SOON, || {
        heard(&hook, "/people")
            .contains_key(&("ChromaExporterAbsent".to_owned(), String::new()))
            .then_some(())
    });
    look_at_all(&hook, &wanted);
    // Whoever waits for the watchdog must not take this for the end of the path.
    let posts = hook.posts().iter().filter(|post| post.path == "/watchdog").count();
    wait_for("the watchdog once more", SOON, || {
        (hook.posts().iter().filter(|post| post.path == "/watchdog").count() > posts).then_some(())
    });
    drop((prometheus, struck));
    println!("over after {:?}", began.elapsed());
}

fn wait_told(hook: &Hook, wanted: &BTreeSet<(String, String)>, exporter: &Exporter, dir: &Path) {
    wait_every(Duration::from_millis(200), "every critical alert", 4 * SOON, || {
        let heard = heard(hook, "/people");
        let missing: Vec<_> = wanted.iter().filter(|key| !heard.contains_key(key)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let page = exporter.page();
        let found: Vec<_> =
            missing.iter().map(|(name, store)| (name, page.findings(store))).collect();
        let log = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
        Err(format!(
            "not heard of: {found:#?}\nPrometheus:\n{}\nAlertmanager:\n{}",
            log("prometheus.log"),
            log("alertmanager.log")
        ))
    });
}

/// Everything that was heard has its words; what was wanted is critical; nothing is about a store that is well.
fn look_at_all(hook: &Hook, wanted: &BTreeSet<(String, String)>) {
    let all = heard(hook, "/people");
    for ((name, store), alert) in &all {
        assert!(!WELL.contains(&store.as_str()), "{name} of {store}, which is well: {alert}");
        if store.is_empty() {
            let known = wanted.contains(&(name.clone(), String::new()));
            assert!(known, "{name} without a store: {alert}");
        }
        if name == "ChromaExporterDown"
            && !wanted.contains(&("ChromaExporterAbsent".to_owned(), String::new()))
        {
            assert_eq!(alert["labels"]["instance"], NOBODY, "{alert}");
        }
        let annotations = alert["annotations"].as_object().unwrap();
        for (key, text) in annotations {
            let text = text.as_str().unwrap();
            for bad in ["{{", "<error", "<no value>", "%!", "PATH"] {
                assert!(!text.contains(bad), "{name}: {key}: {text}");
            }
        }
        let words = |key: &str| annotations[key].as_str().unwrap();
        assert!(words("summary").len() > 10, "{alert}");
        assert!(words("description").contains(store.as_str()), "{alert}");
        // An exporter that is gone serves no runbook.
        let gone = ["ChromaExporterAbsent", "ChromaExporterDown", "ChromaWatchdog"];
        if !gone.contains(&&**name) {
            let runbook = words("runbook_url");
            assert!(runbook.starts_with("http://") && runbook.contains("/runbooks/"), "{alert}");
        }
        assert!(!annotations.contains_key("dashboard_url"), "{alert}");
        if wanted.contains(&(name.clone(), store.clone())) {
            assert_eq!(alert["labels"]["severity"], "critical", "{alert}");
        }
    }
    let watchdog: Vec<_> = heard(hook, "/watchdog").into_keys().collect();
    assert_eq!(watchdog, [("ChromaWatchdog".to_owned(), String::new())]);
}

#[test]
fn the_examples_name_files_that_are_there_and_are_understood() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    let run = |program: &str, args: &[&str]| {
        let out = Command::new(program).args(args).current_dir(&here).output().expect(program);
        assert!(out.status.success(), "{program} {args:?}: {out:?}");
    };
    run("promtool", &["check", "config", "prometheus.yml"]);
    run("amtool", &["check-config", "alertmanager.yml"]);
    run(support::binary(), &["config", "check", "--config.file", "chroma_exporter.yml"]);

    let yaml = |name: &str| -> Value {
        serde_saphyr::from_str(&fs::read_to_string(here.join(name)).unwrap()).unwrap()
    };
    let compose = yaml("compose.yaml");
    let services = compose["services"].as_object().unwrap();
    let named = compose["volumes"].as_object().unwrap();
    let mut mounted = BTreeSet::new();
    for (service, what) in services {
        for volume in what["volumes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let (from, rest) = volume.split_once(':').unwrap();
            if from.starts_with('.') {
                assert!(here.join(from).exists(), "{service}: {from}");
                assert!(rest.ends_with(":ro"), "{service}: {volume}");
                mounted.insert(rest.trim_end_matches(":ro").to_owned());
            } else {
                assert!(named.contains_key(from), "{service}: {volume}");
            }
        }
    }
    let dashboards = yaml("grafana/dashboards.yml");
    let path = dashboards["providers"][0]["options"]["path"].as_str().unwrap();
    assert!(mounted.contains(path), "{path} is not mounted: {mounted:?}");
    assert_eq!(yaml("grafana/datasource.yml")["datasources"][0]["type"], "prometheus");
    // Flags of the exporter there and in the unit are flags that it has.
    let words = compose["services"]["exporter"]["command"].as_array().unwrap();
    let mut flags: Vec<String> =
        words.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let unit = here.join("../packaging/systemd/chroma_exporter.service");
    let unit = fs::read_to_string(unit).unwrap();
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    flags.extend(start.split(' ').map(str::to_owned));
    let help = support::run(&["serve", "--help"]);
    let help = String::from_utf8(help.stdout).unwrap();
    for flag in flags.iter().filter(|word| word.starts_with("--")) {
        let name = flag.split('=').next().unwrap();
        assert!(help.contains(name), "{name} is no flag");
    }
}
