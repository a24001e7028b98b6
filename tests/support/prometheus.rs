//! A real Prometheus for the tests behind the `e2e` feature, and what it answers.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test binary uses its own part")]

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;

use crate::support::{self, SOON, free_port, wait_for};

/// Killed when dropped.
pub struct Prometheus {
    child: Child,
    pub address: SocketAddr,
}

impl Prometheus {
    /// Starts one with this configuration, its data below `dir`, and waits until it answers.
    pub fn start(config: &str, dir: &Path) -> Self {
        let file = dir.join("prometheus.yml");
        fs::write(&file, config).expect("configuration");
        Self::start_at(&file, dir, free_port())
    }

    /// The same with a file and on a port of the caller's.
    pub fn start_at(config: &Path, dir: &Path, port: u16) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let log = dir.join("prometheus.log");
        let mut child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", dir.join("prometheus").display()))
            .arg(format!("--web.listen-address={address}"))
            // What fires before the first Alertmanager is known is dropped, and would be told again after a minute only.
            .arg("--rules.alert.resend-delay=2s")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).expect("log"))
            .spawn()
            .expect("prometheus, which tests/run installs");
        wait_for("Prometheus to be ready", 2 * SOON, || {
            if let Some(status) = child.try_wait().expect("child") {
                panic!(
                    "prometheus ended with {status}: {}",
                    fs::read_to_string(&log).unwrap_or_default()
                );
            }
            (fetch(address, "/-/ready")?.0 == 200).then_some(())
        });
        Self { child, address }
    }

    /// The answer of its API below `/api/v1/`.
    pub fn api(&self, path: &str) -> Value {
        let path = format!("/api/v1/{path}");
        // A machine that is busy with other tests may keep it from answering in time once.
        let (status, body) =
            wait_for("an answer of Prometheus", 4 * SOON, || fetch(self.address, &path));
        let json: Value =
            serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"));
        assert_eq!((status, &json["status"]), (200, &Value::from("success")), "{path}: {body}");
        json["data"].clone()
    }

    /// The samples of a query at this moment.
    pub fn query(&self, query: &str) -> Vec<Value> {
        let data = self.api(&format!("query?query={}", encoded(query)));
        match data["resultType"].as_str() {
            Some("vector") => data["result"].as_array().expect("samples").clone(),
            _ => vec![data["result"].clone()],
        }
    }

    /// The series of a query over the last `span`, in steps of a second.
    pub fn range(&self, query: &str, span: Duration) -> Vec<Value> {
        let now = chroma_exporter::clock::now().as_secs();
        let start = now - i64::try_from(span.as_secs()).expect("seconds");
        let path = format!("query_range?query={}&start={start}&end={now}&step=1", encoded(query));
        self.api(&path)["result"].as_array().expect("series").clone()
    }

    /// The one value that the query gives now, or none.
    pub fn ask(&self, query: &str) -> Option<f64> {
        let result = self.query(query);
        assert!(result.len() < 2, "{query} gives {} series", result.len());
        result.first()?["value"][1].as_str()?.parse().ok()
    }

    /// Waits until the query gives a value that satisfies `test`.
    pub fn wait(&self, query: &str, mut test: impl FnMut(f64) -> bool) -> f64 {
        let mut last = None;
        support::wait_every(Duration::from_millis(200), query, SOON, || {
            last = self.ask(query).or(last);
            last.filter(|value| test(*value)).ok_or_else(|| format!("{last:?}"))
        })
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Status and body of a GET; `None` while nobody listens. HTTP/1.0, so that the body comes in one piece.
pub fn fetch(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, SOON).ok()?;
    stream.set_read_timeout(Some(SOON)).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: test\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

/// A question as part of an address.
pub fn encoded(query: &str) -> String {
    query.bytes().map(|b| format!("%{b:02X}")).collect::<Vec<_>>().concat()
}
