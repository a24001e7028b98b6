//! Debian's Chromium without a window, driven over `WebDriver` (<https://www.w3.org/TR/webdriver2/>), which is JSON over HTTP.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test binary uses its own part")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::support::{SOON, wait_every};

/// Longest wait for the browser itself, which has much to do on a loaded machine.
const PATIENCE: Duration = Duration::from_mins(6);

/// The keys of `WebDriver`.
pub const TAB: &str = "\u{e004}";
pub const ENTER: &str = "\u{e007}";

/// One Chromium with one page; ended when dropped.
pub struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    profile: tempfile::TempDir,
}

impl Browser {
    /// Starts chromedriver on a port of the system's choice and a browser with an empty profile.
    pub fn start() -> Self {
        let profile = tempfile::tempdir().expect("profile");
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver starts (Debian: chromium-driver)");
        let mut lines = BufReader::new(driver.stdout.take().expect("piped")).lines();
        let port = loop {
            let line = lines.next().expect("chromedriver says its port").expect("text");
            if let Some((_, rest)) = line.split_once("successfully on port ") {
                break rest.trim_end_matches('.').parse::<u16>().expect("a port");
            }
        };
        // It writes on; a full pipe would stop it.
        std::thread::spawn(move || lines.for_each(drop));
        let mut browser = Self {
            driver,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            session: String::new(),
            profile,
        };
        let profile = browser.profile.path().display();
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:loggingPrefs": {"browser": "ALL"},
            "goog:chromeOptions": {"args": [
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--force-device-scale-factor=1",
                "--hide-scrollbars",
                format!("--user-data-dir={profile}"),
            ]},
        }}});
        let session = browser.ask("POST", "/session", &capabilities);
        session["sessionId"].as_str().expect("a session").clone_into(&mut browser.session);
        browser.post("/timeouts", &json!({"script": 300_000, "pageLoad": 300_000}));
        browser
    }

    pub fn open(&self, url: &str) {
        self.post("/url", &json!({ "url": url }));
    }

    /// What the body of a function gives: `return document.title`.
    pub fn run(&self, body: &str) -> Value {
        self.post("/execute/sync", &json!({"script": body, "args": []}))
    }

    /// The same for a body that calls `done`.
    pub fn run_until_done(&self, body: &str) -> Value {
        let script = format!("const done = arguments[0];{body}");
        self.post("/execute/async", &json!({"script": script, "args": []}))
    }

    /// Waits until the body of a function gives something true, and gives it.
    pub fn wait(&self, what: &str, body: &str) -> Value {
        wait_every(Duration::from_millis(100), what, SOON * 2, || {
            let value = self.run(body);
            if value.as_bool().unwrap_or(!value.is_null()) {
                return Ok(value);
            }
            Err(format!("page:\n{}", self.text()))
        })
    }

    /// What a person sees.
    pub fn text(&self) -> String {
        self.run("return document.body.innerText").as_str().unwrap_or_default().to_owned()
    }

    /// Presses and lets go a key.
    pub fn key(&self, key: &str) {
        let actions =
            [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})];
        self.post(
            "/actions",
            &json!({"actions": [{"type": "key", "id": "k", "actions": actions}]}),
        );
    }

    /// A command of the `DevTools` protocol.
    pub fn devtools(&self, command: &str, parameters: &Value) -> Value {
        self.post("/goog/cdp/execute", &json!({"cmd": command, "params": parameters}))
    }

    /// The window from now on: its width in CSS pixels, whether the person likes it dark.
    pub fn view(&self, width: u32, dark: bool) {
        let metrics =
            json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false});
        self.devtools("Emulation.setDeviceMetricsOverride", &metrics);
        let scheme = if dark { "dark" } else { "light" };
        let features = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.devtools("Emulation.setEmulatedMedia", &json!({ "features": features }));
    }

    /// A picture of the whole page, at most `height` pixels of it.
    pub fn picture(&self, file: &Path, height: u64) {
        let size = self.run("return [innerWidth, document.documentElement.scrollHeight]");
        let clip = json!({
            "x": 0, "y": 0, "scale": 1,
            "width": size[0], "height": size[1].as_u64().unwrap_or(height).min(height),
        });
        let shot = json!({"format": "png", "captureBeyondViewport": true, "clip": clip});
        let shot = self.devtools("Page.captureScreenshot", &shot);
        let bytes = BASE64_STANDARD.decode(shot["data"].as_str().expect("data")).expect("base64");
        std::fs::create_dir_all(file.parent().expect("a folder")).expect("folder");
        std::fs::write(file, bytes).expect("picture");
    }

    /// What stood in the console since the last call.
    pub fn console(&self) -> Vec<String> {
        let log = self.post("/se/log", &json!({"type": "browser"}));
        let entries = log.as_array().map(Vec::as_slice).unwrap_or_default();
        entries.iter().map(|entry| format!("{}: {}", entry["level"], entry["message"])).collect()
    }

    /// What axe-core finds wrong with the page, one text per kind.
    pub fn axe(&self) -> Vec<String> {
        let source = std::fs::read_to_string(axe()).expect("axe-core");
        let found = self.run_until_done(&format!(
            "{source};axe.run(document, {{resultTypes: ['violations']}}).then(\
             (r) => done(r.violations.map((v) => v.id + ': ' + v.help + ': ' + v.nodes.slice(0, 3).map((n) => n.html).join(' | '))),\
             (e) => done(['axe failed: ' + e]))"
        ));
        let found = found.as_array().expect("a list").iter();
        found.map(|text| text.as_str().unwrap_or_default().to_owned()).collect()
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        self.ask("POST", &format!("/session/{}{path}", self.session), body)
    }

    /// One command; panics with what the driver says when it refuses.
    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let mut stream = TcpStream::connect_timeout(&self.address, PATIENCE).expect("connects");
        stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost:{}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.address.port(),
            body.len()
        )
        .expect("request");
        let mut answer = Vec::new();
        let mut reader = BufReader::new(stream);
        let (mut line, mut length) = (String::new(), 0);
        while reader.read_line(&mut line).expect("answer") > 2 {
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().expect("a length");
            }
            line.clear();
        }
        reader.take(length).read_to_end(&mut answer).expect("answer");
        let answer: Value = serde_json::from_slice(&answer).expect("JSON");
        let value = &answer["value"];
        assert!(
            value.get("error").is_none(),
            "{method} {path}: {} {}",
            value["error"],
            value["message"]
        );
        value.clone()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Chromium ends with its session; without a driver that hears this it would be left behind.
        if !self.session.is_empty() && !std::thread::panicking() {
            self.ask("DELETE", &format!("/session/{}", self.session), &json!({}));
        } else if let Ok(mut stream) = TcpStream::connect_timeout(&self.address, SOON) {
            let path = format!("/session/{}", self.session);
            drop(write!(
                stream,
                "DELETE {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            ));
            drop(stream.set_read_timeout(Some(SOON)));
            // The answer, not the end of the connection, which may stay open.
            drop(stream.read(&mut [0; 64]));
        }
        drop(self.driver.kill());
        drop(self.driver.wait());
    }
}

/// The script of axe-core, which `tests/venv browser` installs.
fn axe() -> PathBuf {
    let venvs = std::env::var_os("CHROMA_VENVS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/.venv"), PathBuf::from);
    let libraries = venvs.join("browser/lib");
    let python = std::fs::read_dir(&libraries)
        .unwrap_or_else(|_| panic!("{} is missing: run tests/venv browser", libraries.display()));
    let python = python.flatten().next().expect("a Python").path();
    python.join("site-packages/axe_playwright_python/axe.min.js")
}
