//! A real Alertmanager takes what we post, groups it, tells its own webhook, and hears of the end.

use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use crate::support::{
    self, SOON, free_port,
    receiver::{Receiver as Loopback, says},
};
use chroma_exporter::{
    alert::message::{Alert, Notification, Outcome, Reason},
    clock,
    config::{self, Overrides},
    deliver::send::Sender,
    findings::{Code, Severity},
};
use serde_json::Value;

/// A real Alertmanager that tells one webhook; killed when dropped.
struct Alertmanager {
    child: Child,
    address: SocketAddr,
}

impl Alertmanager {
    async fn start(dir: &Path, webhook: &str) -> Self {
        let config = dir.join("alertmanager.yml");
        let text = format!(
            "route:\n  receiver: hook\n  group_by: [store]\n  group_wait: 100ms\n  group_interval: 1s\n  repeat_interval: 1h\nreceivers:\n  - name: hook\n    webhook_configs:\n      - url: '{webhook}'\n        send_resolved: true\n"
        );
        fs::write(&config, text).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let log = fs::File::create(dir.join("alertmanager.log")).unwrap();
        let child = Command::new("prometheus-alertmanager")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.path={}", dir.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .args(["--cluster.listen-address=", "--web.route-prefix=/am"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("prometheus-alertmanager, which tests/run installs");
        let found = Self { child, address };
        until("Alertmanager to listen", || std::net::TcpStream::connect(address).ok()).await;
        found
    }
}

impl Drop for Alertmanager {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

async fn until<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    support::wait_within(what, SOON, async || ready().ok_or_else(|| "nothing".to_owned())).await
}

fn receiver(dir: &Path, address: SocketAddr) -> Sender {
    let file = dir.join("c.yml");
    let text = format!(
        "receivers: [{{name: am, type: alertmanager, url: 'http://{address}/am', labels: {{env: test}}}}]"
    );
    fs::write(&file, text).unwrap();
    let flags = Overrides { config_file: Some(file), ..Overrides::default() };
    let config = config::file::load(&flags, &[]).unwrap();
    Sender::new(Arc::clone(&config.receivers[0]))
}

/// One alert for each finding that there is, with names that need every kind of escape.
fn message() -> Notification {
    let now = clock::now();
    let alerts = Code::ALL.iter().map(|code| Alert {
        name: format!("Chroma_{}", code.as_str()),
        severity: Severity::Critical,
        store: "docs".into(),
        path: "/srv/chroma \"ä\\<!channel>\"".into(),
        summary: "It is \"odd\" \\ <&>".into(),
        evidence: "\u{1F600} 87 %".into(),
        count: 1,
        reading: None,
        cause: code.cause().into(),
        code: code.as_str().to_owned(),
        items: 0,
        remedy: code.remedy(Path::new("/srv/chroma")),
        runbook: code.runbook(),
        labels: [("team".into(), "search & \"find\"".into()), ("empty".into(), String::new())]
            .into(),
        since: now.minus(Duration::from_mins(5)),
        ended: None,
        episode: "0011223344556677".into(),
        known: false,
        merged: 0,
        done: String::new(),
        tried: String::new(),
        stands_since: None,
    });
    Notification {
        id: "0123456789abcdef0123456789abcdef".into(),
        group: "store=docs".into(),
        reason: Reason::Firing,
        at: now,
        host: "db-1".into(),
        external_url: "http://db-1:18000".into(),
        alerts: alerts.collect(),
        left_out: 0,
    }
}

/// The last post with this status, once the webhook was told it of so many alerts. Alertmanager may tell of the first ones
/// before it has the last, and of an end it tells once.
fn reported(hook: &Loopback, status: &str, count: usize) -> Option<Value> {
    let bodies = hook.seen().into_iter().map(|seen| serde_json::from_str(&seen.body).unwrap());
    let bodies: Vec<Value> = bodies.collect();
    let alerts = bodies.iter().flat_map(|body| body["alerts"].as_array().unwrap());
    let names: BTreeSet<&str> = alerts
        .filter(|alert| alert["status"] == status)
        .map(|alert| alert["fingerprint"].as_str().unwrap())
        .collect();
    assert!(names.len() <= count, "{names:?}");
    let last = bodies.iter().rfind(|body| body["status"] == status)?;
    (names.len() == count).then(|| last.clone())
}

#[tokio::test]
async fn alertmanager_takes_alerts_and_tells_of_their_beginning_and_end() {
    let dir = tempfile::tempdir().unwrap();
    let hook = Loopback::start(vec![says("200 OK", "", "")]).await;
    let alertmanager = Alertmanager::start(dir.path(), &hook.url("/hook")).await;
    let receiver = receiver(dir.path(), alertmanager.address);
    let mut message = message();
    let count = message.alerts.len();

    let sent = until_taken(&receiver, &message).await;
    assert_eq!(sent, Outcome::Delivered);
    let body = until("the webhook to hear of the beginning", || {
        reported(&hook, "firing", count)
            .filter(|body| body["alerts"].as_array().is_some_and(|all| all.len() == count))
    })
    .await;
    let alerts = body["alerts"].as_array().unwrap();
    let one = alerts.iter().find(|a| a["labels"]["alertname"] == "Chroma_sqlite_corrupt").unwrap();
    let labels = serde_json::json!({
        "alertname": "Chroma_sqlite_corrupt", "store": "docs", "severity": "critical",
        "instance": "db-1", "job": "chroma_exporter", "env": "test", "team": "search & \"find\"",
    });
    assert_eq!(one["labels"], labels);
    assert_eq!(one["annotations"]["path"], message.alerts[0].path.as_str());
    assert_eq!(one["generatorURL"], "http://db-1:18000/");
    assert_eq!(body["groupLabels"], serde_json::json!({"store": "docs"}));

    for alert in &mut message.alerts {
        alert.ended = Some(clock::now());
    }
    assert_eq!(until_taken(&receiver, &message).await, Outcome::Delivered);
    let body = until("the webhook to hear of the end", || reported(&hook, "resolved", count)).await;
    assert!(body["alerts"].as_array().unwrap().iter().all(|alert| alert["status"] == "resolved"));

    // The same fingerprints, groups and words as our own webhook of this message has.
    let file = dir.path().join("w.yml");
    fs::write(&file, "receivers: [{name: hook, type: webhook, url: 'http://127.0.0.1:9'}]")
        .unwrap();
    let flags = Overrides { config_file: Some(file), ..Overrides::default() };
    let config = config::file::load(&flags, &[]).unwrap();
    let ours = Sender::new(Arc::clone(&config.receivers[0])).payload(&message, clock::now());
    let ours: Value = serde_json::from_str(&ours.bodies[0]).unwrap();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    for key in keys(&body) {
        assert!(ours.get(&key).is_some(), "Alertmanager says {key}, we do not");
    }
    assert_eq!(keys(&ours["alerts"][0]), keys(&body["alerts"][0]));
    assert_eq!(ours["groupKey"], body["groupKey"]);
    assert_eq!(ours["version"], body["version"]);
}

/// Sends until Alertmanager has begun to answer its API.
async fn until_taken(receiver: &Sender, message: &Notification) -> Outcome {
    support::wait_within("Alertmanager to take it", SOON, async || {
        let answer = receiver.send(message, clock::now()).await;
        match answer.outcome {
            Outcome::Retry { .. } => Err(answer.text),
            outcome => {
                assert_eq!(outcome, Outcome::Delivered, "{}", answer.text);
                Ok(outcome)
            }
        }
    })
    .await
}
