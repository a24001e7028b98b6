//! The ledger: stores that flap, an exporter that is killed at random moments, and receivers of every kind that hang, reset,
//! redirect, answer 429, 500, 400, nonsense or half an answer. After each round all of them come to their senses, and then the
//! books must agree: every receiver knows what fires and what does not, no id has two texts, nothing is told again to a
//! receiver that has it unless the program was killed in between, and no end closes an episode that began after it.
//!
//! `CHROMA_LEDGER_ROUNDS` asks for more rounds, `CHROMA_LEDGER_SEED` for the same ones again.
#![allow(clippy::float_cmp, reason = "states are 0 and 1")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::support::{
    self, Exporter, SOON,
    hook::{Hook, Post, Reply},
    random::Random,
    wait, wait_for,
};
use serde_json::Value;

const OPEN: &str = "ChromaPermissionWorldWritable";
const STORES: usize = 8;
/// Rounds where nobody asks for more.
const ROUNDS: usize = 4;
/// Kinds that hear of alerts by messages, each below a path of its own.
const KINDS: [&str; 5] = ["webhook", "pagerduty", "slack", "mattermost", "discord"];

/// A real Alertmanager; killed when dropped.
struct Alertmanager {
    child: Child,
    address: SocketAddr,
}

impl Alertmanager {
    fn start(dir: &Path) -> Self {
        let config = dir.join("alertmanager.yml");
        fs::write(&config, "route:\n  receiver: nobody\nreceivers:\n  - name: nobody\n").unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], support::free_port()));
        let child = Command::new("prometheus-alertmanager")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.path={}", dir.join("am").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--cluster.listen-address=")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus-alertmanager, which tests/run installs");
        let found = Self { child, address };
        wait_for("Alertmanager to listen", SOON, || std::net::TcpStream::connect(address).ok());
        found
    }

    /// The stores whose directory is open to all, as it has been told.
    fn firing(&self) -> BTreeSet<String> {
        let body = support::get(self.address, "/api/v2/alerts?active=true").body;
        // A long answer comes in pieces, each behind its length.
        let is_length =
            |line: &&str| line.is_empty() || line.bytes().all(|b| b.is_ascii_hexdigit());
        let body: String = body.split("\r\n").filter(|line| !is_length(line)).collect();
        let alerts: Value = serde_json::from_str(&body).unwrap_or_else(|e| panic!("{e}: {body}"));
        let alerts = alerts.as_array().cloned().unwrap_or_default();
        alerts
            .iter()
            .filter(|alert| alert["labels"]["alertname"] == OPEN)
            .map(|alert| word(&alert["labels"]["store"]))
            .collect()
    }
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn word(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn set_open(store: &Path, open: bool) {
    let mode = if open { 0o646 } else { 0o644 };
    fs::set_permissions(store.join("chroma.sqlite3"), fs::Permissions::from_mode(mode)).unwrap();
}

/// What is told of one alert by one message, whatever the form of the message.
#[derive(Debug, Clone)]
struct Said {
    /// Which alert, as the receiver knows it.
    key: String,
    firing: bool,
    /// When the episode began, where the form says so.
    since: String,
}

/// What a post says of the alert of this test; what stands beside news of its group counts too, because it is said all the same.
fn said(post: &Post) -> Vec<Said> {
    let kind = kind_of(post);
    let json: Value = serde_json::from_str(&post.text).unwrap_or_default();
    match kind {
        "webhook" => post
            .received()
            .into_iter()
            .filter(|reported| reported.name == OPEN)
            .map(|reported| Said {
                key: reported.store,
                firing: reported.status == "firing",
                since: reported.starts_at,
            })
            .collect(),
        "pagerduty" => vec![Said {
            key: word(&json["dedup_key"]),
            firing: json["event_action"] == "trigger",
            since: word(&json["payload"]["timestamp"]),
        }],
        _ => Vec::new(),
    }
}

fn kind_of(post: &Post) -> &str {
    post.path.trim_start_matches('/').split('/').next().unwrap_or_default()
}

struct Lab {
    scratch: tempfile::TempDir,
    stores: Vec<(String, PathBuf)>,
    hook: Hook,
    alertmanager: Alertmanager,
    dice: Random,
    open: Vec<bool>,
    /// From when on the program was no more until it was there again.
    kills: Vec<(Instant, Instant)>,
    flaps: usize,
    bad: Arc<AtomicUsize>,
}

impl Lab {
    fn new(seed: u64) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let from = Path::new(env!("CARGO_MANIFEST_DIR"));
        let stores: Vec<(String, PathBuf)> = (0..STORES)
            .map(|n| {
                let dir = scratch.path().join(format!("s{n}"));
                fs::create_dir(&dir).unwrap();
                let fixture = from.join("tests/fixtures/chroma-1.5.9/chroma.sqlite3");
                fs::copy(fixture, dir.join("chroma.sqlite3")).unwrap();
                set_open(&dir, false);
                (format!("s{n}"), dir)
            })
            .collect();
        let alertmanager = Alertmanager::start(scratch.path());
        let hook = Hook::start();
        let lab = Self {
            scratch,
            stores,
            hook,
            alertmanager,
            dice: Random(seed),
            open: vec![false; STORES],
            kills: Vec::new(),
            flaps: 0,
            bad: Arc::default(),
        };
        lab.configure();
        lab
    }

    fn configure(&self) {
        use std::fmt::Write as _;
        let mut text =
            format!("state:\n  dir: {}\nstores:\n", self.scratch.path().join("state").display());
        for (name, path) in &self.stores {
            writeln!(text, "  - name: {name}\n    path: {}", path.display()).unwrap();
        }
        text.push_str(
            "collectors:\n  disk: false\n  integrity: false\n  contents: false\n  hnsw: false\n  processes: false\n  backups: false\n\
             collect:\n  interval: 200ms\nalerts:\n  host: ledger\n  rules:\n    - name: ChromaPermissionDrift\n      enabled: false\nreceivers:\n",
        );
        for kind in KINDS {
            let key = if kind == "pagerduty" { "    routing_key: key\n" } else { "" };
            let url = format!("http://{}/{kind}", self.hook.address);
            write!(text, "  - name: {kind}\n    type: {kind}\n    url: {url}\n    timeout: 1s\n    group_interval: 0s\n{key}").unwrap();
        }
        let url = format!("http://{}", self.alertmanager.address);
        write!(text, "  - name: am\n    type: alertmanager\n    url: {url}\n    timeout: 5s\n")
            .unwrap();
        fs::write(self.config(), text).unwrap();
    }

    fn config(&self) -> PathBuf {
        self.scratch.path().join("config.yml")
    }

    fn start(&self) -> Exporter {
        Exporter::start(&["--config.file", self.config().to_str().unwrap()])
    }

    fn kill(&mut self, exporter: Exporter) -> Exporter {
        let from = support::now();
        drop(exporter);
        let exporter = self.start();
        self.kills.push((from, support::now()));
        exporter
    }

    /// Half of what is asked is answered badly, in every way there is.
    fn go_mad(&self, seed: u64) {
        let bad = Arc::clone(&self.bad);
        let dice = Mutex::new(Random(seed));
        self.hook.answer_by(move |_| {
            let mut dice = dice.lock().unwrap();
            let answer = match dice.below(18) {
                0 => Reply::Hang(Duration::from_millis(1500)),
                1 => Reply::Reset,
                2 => Reply::Say(307, "Location: http://127.0.0.1:1/\r\n", ""),
                3 => Reply::Say(429, "Retry-After: 1\r\n", "rate_limited"),
                4 => Reply::Say(500, "", "no"),
                5 => Reply::Say(503, "Retry-After: 1\r\n", "later"),
                6 => Reply::Garbage,
                7 => Reply::Cut,
                8 => Reply::Say(400, "", "no_such_thing"),
                _ => Reply::Say(200, "", "ok"),
            };
            if !matches!(answer, Reply::Say(200, ..)) {
                bad.fetch_add(1, Ordering::Relaxed);
            }
            answer
        });
    }

    /// Stores flap, the program is killed, receivers are mad.
    fn trouble(&mut self, mut exporter: Exporter) -> Exporter {
        let seed = self.dice.below(u64::MAX / 2) + 1;
        self.go_mad(seed);
        for _ in 0..3 {
            for _ in 0..10 {
                let store = self.dice.place(STORES);
                self.open[store] = !self.open[store];
                set_open(&self.stores[store].1, self.open[store]);
                self.flaps += 1;
                std::thread::sleep(Duration::from_millis(20 + self.dice.below(500)));
            }
            exporter = self.kill(exporter);
        }
        exporter
    }

    /// All is well with the receivers; waits until each has heard what there is to hear.
    fn settle(&self, exporter: &Exporter) {
        self.hook.answer(Reply::Say(200, "", "ok"));
        let want = self.firing();
        exporter.wait_page("every store as it is, told and written down", SOON * 2, |page| {
            let firing = self.stores.iter().all(|(store, _)| {
                page.get("chroma_alert_firing", &[("store", store), ("alert", OPEN)])
                    == want.contains(store).then_some(1.0)
            });
            let reported = page.all("chroma_exporter_notification_queue_length", &[]);
            let queued: Vec<f64> = reported.map(|(_, length)| length).collect();
            firing
                && queued.len() == KINDS.len() + 1
                && queued.iter().all(|length| *length == 0.0)
                && page.get("chroma_exporter_alert_state_persistent", &[]) == Some(1.0)
        });
        wait("Alertmanager to know the same", SOON, || {
            let known = self.alertmanager.firing();
            if known == want { Ok(()) } else { Err(format!("{known:?} instead of {want:?}")) }
        });
    }

    fn firing(&self) -> BTreeSet<String> {
        let open = self.stores.iter().zip(&self.open).filter(|(_, open)| **open);
        open.map(|((name, _), _)| name.clone()).collect()
    }

    /// All that a receiver was told of one store, and when the program was killed, for whoever reads why a test failed.
    fn story(&self, kind: &str, name: &str, stores: &BTreeMap<String, String>) -> String {
        let mut lines = Vec::new();
        let posts = self.hook.posts();
        let Some(began) = posts.first().map(|post| post.at) else { return String::new() };
        for post in posts.iter().filter(|post| kind_of(post) == kind) {
            for said in said(post) {
                if said.key == name || stores.get(&said.key).is_some_and(|store| store == name) {
                    let answer = match (post.taken, post.refused, post.cut) {
                        (true, ..) => "taken",
                        (_, true, _) => "refused",
                        (.., true) => "taken, cut",
                        _ => "unclear or later",
                    };
                    let id = post.headers.get("webhook-id").cloned().unwrap_or_default();
                    let firing = if said.firing { "firing" } else { "resolved" };
                    lines.push((post.at, format!("{firing} since {} {answer} {id}", said.since)));
                }
            }
        }
        lines.extend(self.kills.iter().map(|(from, _)| (*from, "killed".to_owned())));
        lines.sort();
        let line = |(at, text): &(Instant, String)| {
            format!("\n{:8.3} s {text}", at.saturating_duration_since(began).as_secs_f64())
        };
        lines.iter().map(line).collect()
    }

    /// The books of the receivers that say what they speak of.
    fn audit(&self) {
        let posts = self.hook.posts();
        let want = self.firing();
        let mut texts: BTreeMap<String, &str> = BTreeMap::new();
        let mut had: BTreeMap<String, Instant> = BTreeMap::new();
        // The other forms have no id, and two ends of one alert read the same.
        for post in posts.iter().filter(|post| kind_of(post) == "webhook") {
            let id = post.headers["webhook-id"].clone();
            let text = texts.entry(id.clone()).or_insert(&post.text);
            assert_eq!(*text, post.text, "one id, two texts");
            if let Some(before) = had.get(&id) {
                // Whoever is killed between an answer and writing it down has to ask again, under the same id.
                let killed = self.kills.iter().any(|(from, to)| *to >= *before && *from <= post.at);
                assert!(killed, "told again without a reason: {} {}", post.path, post.text);
            }
            if post.taken {
                had.insert(id, post.at);
            }
        }
        let mut stores: BTreeMap<String, String> = BTreeMap::new();
        for post in posts.iter().filter(|post| kind_of(post) == "pagerduty") {
            let json: Value = serde_json::from_str(&post.text).unwrap();
            if json["event_action"] == "trigger" && json["payload"]["class"] == OPEN {
                stores.insert(word(&json["dedup_key"]), word(&json["payload"]["component"]));
            }
        }
        for kind in ["webhook", "pagerduty"] {
            // Of each alert: what it was told last, whether anything was refused since, and the newest beginning that it heard of.
            let mut last: BTreeMap<String, (Said, bool)> = BTreeMap::new();
            let mut newest: BTreeMap<String, String> = BTreeMap::new();
            for post in posts.iter().filter(|post| kind_of(post) == kind) {
                for said in said(post) {
                    let name = stores.get(&said.key).filter(|_| kind == "pagerduty");
                    let key = name.unwrap_or(&said.key).clone();
                    if post.refused {
                        if let Some((_, refused)) = last.get_mut(&key) {
                            *refused = true;
                        }
                        continue;
                    }
                    if !post.taken && !post.cut {
                        continue;
                    }
                    if said.firing {
                        let before = newest.entry(key.clone()).or_default();
                        assert!(
                            *before <= said.since,
                            "{kind} {key}: an older episode begins after a newer one: {}",
                            self.story(kind, &key, &stores)
                        );
                        before.clone_from(&said.since);
                    } else if let Some(begun) = newest.get(&key).filter(|_| !said.since.is_empty())
                    {
                        assert!(
                            *begun <= said.since,
                            "{kind} {key}: an older end after a newer beginning: {}",
                            self.story(kind, &key, &stores)
                        );
                    }
                    last.insert(key, (said, false));
                }
            }
            for (name, _) in &self.stores {
                let Some((said, refused)) = last.get(name) else { continue };
                if !refused {
                    assert_eq!(
                        said.firing,
                        want.contains(name),
                        "{kind} was told last of {name}: {said:?}; {}",
                        self.story(kind, name, &stores)
                    );
                }
            }
            // Nobody is left out, but for those of whom every word was refused.
            let refused = |name: &String| {
                posts.iter().any(|post| {
                    post.refused
                        && kind_of(post) == kind
                        && said(post).iter().any(|s| {
                            s.key == *name || stores.get(&s.key).is_some_and(|store| store == name)
                        })
                })
            };
            for name in want.iter().filter(|name| !last.contains_key(*name)) {
                assert!(
                    refused(name),
                    "{kind} never heard of {name}; {}",
                    self.story(kind, name, &stores)
                );
            }
        }
    }
}

#[test]
fn the_books_of_all_receivers_agree_after_every_kind_of_trouble() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = number("CHROMA_LEDGER_SEED")
        .unwrap_or_else(|| u64::from(std::process::id()).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let rounds = number("CHROMA_LEDGER_ROUNDS").map_or(ROUNDS, |n| usize::try_from(n).unwrap());
    println!("CHROMA_LEDGER_SEED={seed}");
    let mut lab = Lab::new(seed);
    // A first quiet run learns the permissions.
    let mut exporter = lab.start();
    exporter.ready();
    for round in 1..=rounds {
        exporter = lab.trouble(exporter);
        lab.settle(&exporter);
        lab.audit();
        // Who is killed with everything told and written down has nothing to tell afterwards.
        let before = lab.hook.posts().len();
        exporter = lab.kill(exporter);
        exporter.ready();
        lab.settle(&exporter);
        let posts = lab.hook.posts();
        let news: Vec<&String> = posts[before..].iter().map(|post| &post.text).collect();
        assert!(
            news.is_empty(),
            "round {round}, seed {seed}: told after a quiet restart: {news:?}"
        );
        let (bad, kills) = (lab.bad.load(Ordering::Relaxed), lab.kills.len());
        println!(
            "round {round}: {} flaps, {kills} kills, {bad} bad answers, {} posts",
            lab.flaps,
            posts.len()
        );
    }
    assert!(exporter.stop().success());
    let faults = lab.kills.len() + lab.bad.load(Ordering::Relaxed);
    assert!(faults > rounds * 4, "only {faults} faults: the receivers were not asked");
}
