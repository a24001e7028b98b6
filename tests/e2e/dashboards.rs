//! Every question of all dashboards and every series that a rule asks for, put to a real Prometheus that scrapes a real
//! exporter on stores that are well, broken and gone: it gives data, or stands in a list of those that give none, with why.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, UNIX_EPOCH},
};

use crate::support::{
    self, Exporter, ROOMY, SOON, chroma, fixture,
    prometheus::{self, Prometheus},
    promql, rulefile,
    tmpfs::Tmpfs,
    wait_every, wait_for,
};
use serde_json::Value;

/// Parts of questions that rightly have no answer here.
const EMPTY: &[(&str, &str)] = &[
    ("chroma_disk_full_timestamp_seconds", "a disk that does not fill has no such moment"),
    ("chroma_exporter_capability{", "this test may look into every process"),
    ("up{} == 0", "the exporter answers"),
    (
        "store:chroma_verdict:max{} == 0",
        "the stores of this test lie in memory, which is a finding",
    ),
];

/// Stores: `well` is served by a real Chroma, `broken` has lost a tenant and a vector, `open` may be changed by everybody,
/// `gone` is taken out of the configuration later.
struct Scene {
    server: chroma::Server,
    /// A deleted file of `broken` that a process, this one, keeps open.
    _deleted: fs::File,
    stores: Tmpfs,
    scratch: tempfile::TempDir,
}

impl Scene {
    fn stage() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let disk = Tmpfs::mount(&scratch.path().join("stores"), "256m");
        let stores = disk.0.clone();
        for name in ["well", "broken", "open", "gone"] {
            let made = fixture("chroma-1.5.9", &stores);
            fs::rename(made, stores.join(name)).unwrap();
        }
        let database = rusqlite::Connection::open(stores.join("broken/chroma.sqlite3")).unwrap();
        database
            .execute_batch(
                "DELETE FROM tenants; UPDATE embeddings SET embedding_id = 'nobody' WHERE embedding_id = 'articles-020'",
            )
            .unwrap();
        drop(database);
        let deleted = stores.join("broken/deleted");
        let handle = fs::File::create(&deleted).unwrap();
        handle.write_all_at(&[1; 8192], 0).unwrap();
        fs::remove_file(deleted).unwrap();
        let everybody = fs::Permissions::from_mode(0o646);
        fs::set_permissions(stores.join("open/chroma.sqlite3"), everybody).unwrap();
        let backups = scratch.path().join("backups");
        fs::create_dir(&backups).unwrap();
        fs::create_dir(scratch.path().join("made")).unwrap();
        let tar = Command::new("tar")
            .arg("-czf")
            .arg(backups.join("well.tar.gz"))
            .arg("-C")
            .arg(&stores)
            .arg("well")
            .status();
        assert!(tar.unwrap().success());
        // One that failed a month ago is no alarm, and is shown.
        let failed = fs::File::create(backups.join("failed.tar.gz")).unwrap();
        failed.set_modified(UNIX_EPOCH + Duration::from_hours(24 * 365 * 55)).unwrap();
        let log = scratch.path().join("chroma.log");
        fs::write(&log, "").unwrap();
        let server = chroma::Server::start_logging("1.5.9", &stores.join("well"), &log);
        Self { server, _deleted: handle, stores: disk, scratch }
    }

    fn path(&self) -> &Path {
        self.scratch.path()
    }

    fn configure(&self, with_gone: bool) -> PathBuf {
        let (at, stores) = (self.path().display(), self.stores.0.display());
        let port = self.server.port;
        let gone = if with_gone {
            format!("  - {{name: gone, path: {stores}/gone}}\n")
        } else {
            String::new()
        };
        let text = format!(
            "{ROOMY}state: {{dir: {at}/state}}\nstores:\n  - name: well\n    path: {stores}/well\n    backups: {{patterns: ['{at}/backups/*'], settle: 0s}}\n    backup: {{to: '{at}/made', every: 1h}}\n    \
             logs: ['{at}/chroma.log']\n    server: {{url: 'http://127.0.0.1:{port}', interval: 1s, timeout: 20s}}\n  - {{name: broken, path: {stores}/broken}}\n  - {{name: open, path: {stores}/open}}\n{gone}\
             collect: {{interval: 1s, contents_interval: 1s, backups_interval: 1s}}\n\
             receivers: [{{name: nobody, type: webhook, url: 'http://127.0.0.1:1/'}}]\n"
        );
        let file = self.path().join("config.yml");
        fs::write(&file, text).unwrap();
        file
    }
}

/// A question as Grafana would put it.
fn filled(query: &str, store: &str) -> String {
    query
        .replace("$__rate_interval", "10s")
        .replace("\"$job\"", "\".+\"")
        .replace("\"$instance\"", "\".+\"")
        .replace("\"$store\"", &format!("\"{store}\""))
        .replace("\"$store|\"", &format!("\"{store}|\""))
}

/// Panel, question and legend of every target; a legend is empty where the question is about this moment.
fn questions(dashboard: &Value) -> Vec<(String, String, String)> {
    let mut out = Vec::new();
    let shown = dashboard["panels"].as_array().unwrap();
    let folded = shown.iter().filter_map(|row| row["panels"].as_array()).flatten();
    for panel in shown.iter().chain(folded) {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let title = format!("{}: {}", dashboard["title"], panel["title"]);
            let expr = target["expr"].as_str().unwrap().to_owned();
            out.push((title, expr, target["legendFormat"].as_str().unwrap().to_owned()));
        }
    }
    out
}

fn dashboards() -> Vec<Value> {
    ["chroma-exporters", "chroma-fleet", "chroma-store"]
        .map(|uid| {
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("dashboards/{uid}.json"));
            serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
        })
        .to_vec()
}

/// Why a question may go without an answer.
fn excused(query: &str) -> Option<&'static str> {
    let plain = query
        .replace("job=~\"$job\", instance=~\"$instance\"", "")
        .replace(", store=~\"$store\"", "");
    EMPTY.iter().find(|(part, _)| plain.contains(part)).map(|(part, _)| *part)
}

#[test]
fn every_question_of_dashboards_and_rules_is_answered() {
    let scene = Scene::stage();
    let config = scene.configure(true);
    let exporter = Exporter::start(&["--config.file", config.to_str().unwrap()]);
    exporter.ready();
    let text = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\nrule_files: ['{}']\nscrape_configs:\n\
         \x20 - job_name: chroma\n    static_configs: [{{targets: ['{}']}}]\n",
        rulefile::path().display(),
        exporter.address
    );
    let prometheus = Prometheus::start(&text, scene.path());
    prometheus.wait("count(chroma_store_info)", |count| count > 3.5);
    // The first findings must be there before a store goes, and two scrapes for what asks for a rate.
    prometheus.wait("count(store:chroma_verdict:max{store=\"gone\"})", |count| count > 0.5);
    scene.configure(false);
    exporter.signal("HUP");
    prometheus.wait("count(chroma_store_info)", |count| count < 3.5);
    prometheus.wait("sum(chroma_exporter_notifications_failed_total)", |count| count > 0.5);
    prometheus.wait("sum(chroma_backups)", |count| count > 0.5);
    prometheus.wait("sum(chroma_backup_job_success)", |count| count > 0.5);
    prometheus.wait("count(rate(chroma_process_cpu_seconds_total[10s]))", |count| count > 0.5);

    ask_dashboards(&prometheus);
    ask_rules(&prometheus);
    judge(&prometheus);
    assert!(exporter.stop().success());
}

fn ask_dashboards(prometheus: &Prometheus) {
    let mut used = BTreeSet::new();
    for dashboard in dashboards() {
        for (title, query, legend) in questions(&dashboard) {
            let asked = filled(&query, ".+");
            let ask = || {
                let series = if legend.is_empty() {
                    prometheus.query(&asked)
                } else {
                    prometheus.range(&asked, Duration::from_mins(1))
                };
                for label in legend.split("{{").skip(1).map(|rest| rest.split("}}").next().unwrap())
                {
                    let named = |one: &Value| one["metric"][label].is_string();
                    assert!(
                        series.iter().all(named),
                        "{title}: nothing is called {label}: {asked}"
                    );
                }
                (!series.is_empty()).then_some(())
            };
            if let Some(part) = excused(&query) {
                ask();
                used.insert(part);
                continue;
            }
            // What hangs on the next evaluation of a rule, or on the end of a first check, may take a moment.
            let what = format!("data for {title}: {asked}");
            wait_every(Duration::from_millis(200), &what, SOON, || {
                ask().ok_or_else(|| "none".to_owned())
            });
        }
        for variable in dashboard["templating"]["list"].as_array().unwrap() {
            let Some(query) = variable["query"]["query"].as_str() else { continue };
            let inner = query.strip_prefix("label_values(").unwrap().strip_suffix(')').unwrap();
            let (expr, label) = inner.rsplit_once(", ").unwrap();
            let expr = prometheus::encoded(&filled(expr, ".+"));
            let values = prometheus.api(&format!("label/{label}/values?match[]={expr}"));
            assert!(!values.as_array().unwrap().is_empty(), "{query}");
        }
        let annotation = dashboard["annotations"]["list"][0]["expr"].as_str().unwrap();
        wait_for("an alert to mark", SOON, || {
            (!prometheus.query(&filled(annotation, ".+")).is_empty()).then_some(())
        });
    }
    for (part, why) in EMPTY {
        assert!(used.contains(part), "no question asks for {part} any more ({why})");
    }
}

/// Every rule is understood, and every series that one asks for is there: an alert over a series that is not cannot fire.
fn ask_rules(prometheus: &Prometheus) {
    let mut series = BTreeSet::new();
    for rule in rulefile::rules() {
        prometheus.query(&rule.expr);
        for selector in promql::named(&rule.expr).selectors {
            let matchers: Vec<String> = selector
                .matchers
                .iter()
                // Whether it fires now is not the question.
                .filter(|matcher| {
                    !matcher.label.starts_with("alert") && matcher.label != "severity"
                })
                .map(|matcher| format!("{}{}\"{}\"", matcher.label, matcher.op, matcher.value))
                .collect();
            series.insert(format!("{}{{{}}}", selector.metric, matchers.join(",")));
        }
    }
    // A scrape that failed a moment ago is no answer.
    support::wait("series that every rule can see", SOON, || {
        series.retain(|series| prometheus.query(series).is_empty());
        if series.is_empty() { Ok(()) } else { Err(format!("not there: {series:#?}")) }
    });
}

/// What a person would see first. That the stores lie in memory is a warning of each.
fn judge(prometheus: &Prometheus) {
    let store = &dashboards()[2];
    let verdict =
        questions(store).into_iter().find(|(title, ..)| title.ends_with("\"Verdict\"")).unwrap().1;
    for (store, want) in [("broken", 3.0), ("open", 2.0), ("gone", 1.0), ("well", 2.0)] {
        let value = wait_for(&format!("the verdict of {store}"), SOON, || {
            prometheus.ask(&filled(&verdict, store)).filter(|value| (value - want).abs() < 0.1)
        });
        let recorded = format!("max(store:chroma_verdict:max{{store=\"{store}\"}})");
        prometheus.wait(&recorded, |recorded| (recorded - value).abs() < 0.1);
    }
    let fleet = &dashboards()[1];
    for (title, want) in [
        ("Unsafe stores", 1.0),
        ("Stores with warnings", 3.0),
        ("Stores watched", 3.0),
        ("Stores not fully known", 1.0), // the one that is gone
        ("Exporters down", 0.0),
    ] {
        let ends = format!("\"{title}\"");
        let (_, query, _) =
            questions(fleet).into_iter().find(|(panel, ..)| panel.ends_with(&ends)).unwrap();
        prometheus.wait(&filled(&query, ".+"), |value| (value - want).abs() < 0.1);
    }
}
