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

use crate::support::{SOON, wait_every};

/// Longest wait for one answer of the driver. What the page itself may take has an end before that.
const PATIENCE: Duration = Duration::from_mins(3);
/// Longest that a page may take to load, and a script to call back.
const PAGE_MS: u64 = 120_000;
/// A browser sometimes does not come up beside others, or beside what was left of one that was killed.
const STARTS: u32 = 3;

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
    /// Starts chromedriver on a port of the system's choice and a browser with an empty profile; tries again when it does not
    /// come up.
    pub fn start() -> Self {
        let mut said = String::new();
        for _ in 0..STARTS {
            match Self::start_once() {
                Ok(browser) => return browser,
                Err(error) => {
                    println!("the browser did not start: {error}");
                    said = error;
                }
            }
        }
        panic!("the browser did not start {STARTS} times; at last: {said}");
    }

    fn start_once() -> Result<Self, String> {
        let profile = tempfile::tempdir().expect("profile");
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver starts (Debian: chromium-driver)");
        let lines = BufReader::new(driver.stdout.take().expect("piped")).lines();
        let mut browser = Self {
            driver,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            session: String::new(),
            profile,
        };
        // Read to its end: a full pipe would stop it.
        let (tell, reported) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some((_, rest)) = line.split_once("successfully on port ") {
                    tell.send(rest.trim_end_matches('.').parse::<u16>()).unwrap_or_default();
                }
            }
        });
        let port = reported.recv_timeout(SOON).map_err(|_| "chromedriver does not say its port")?;
        browser.address.set_port(port.map_err(|error| error.to_string())?);
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
        let session = browser.ask("POST", "/session", &capabilities)?;
        session["sessionId"].as_str().ok_or("no session")?.clone_into(&mut browser.session);
        browser.post("/timeouts", &json!({"script": PAGE_MS, "pageLoad": PAGE_MS}));
        Ok(browser)
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

    /// One command of the session; panics with what the driver says when it refuses, or does not answer.
    fn post(&self, path: &str, body: &Value) -> Value {
        self.ask("POST", &format!("/session/{}{path}", self.session), body)
            .unwrap_or_else(|error| panic!("{error}"))
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Result<Value, String> {
        let answer = self.exchange(method, path, body);
        let answer = answer.map_err(|error| {
            format!("{method} {path}: no answer of the browser within {PATIENCE:?}: {error}")
        })?;
        let value = &answer["value"];
        match value.get("error") {
            Some(error) => Err(format!("{method} {path}: {error} {}", value["message"])),
            None => Ok(value.clone()),
        }
    }

    fn exchange(&self, method: &str, path: &str, body: &Value) -> std::io::Result<Value> {
        let body = body.to_string();
        let mut stream = TcpStream::connect_timeout(&self.address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: localhost:{}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.address.port(),
            body.len()
        )?;
        let mut answer = Vec::new();
        let mut reader = BufReader::new(stream);
        let (mut line, mut length) = (String::new(), 0);
        while reader.read_line(&mut line)? > 2 {
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().map_err(std::io::Error::other)?;
            }
            line.clear();
        }
        reader.take(length).read_to_end(&mut answer)?;
        Ok(serde_json::from_slice(&answer)?)
    }

    /// Ends every process of this browser: they are known by its profile, which nobody else has.
    fn kill(&self) {
        let profile = format!("--user-data-dir={}", self.profile.path().display());
        for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = process.file_name().to_str().and_then(|pid| pid.parse::<i32>().ok());
            let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) else { continue };
            let words = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&words).contains(&profile) {
                let kill = rustix::process::Signal::KILL;
                rustix::process::kill_process(pid, kill).unwrap_or_default();
            }
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Chromium ends with its session. Where nobody hears that any more, waiting for an answer would only take time.
        if !self.session.is_empty() && !std::thread::panicking() {
            let ended = self.ask("DELETE", &format!("/session/{}", self.session), &json!({}));
            drop(ended);
        }
        drop(self.driver.kill());
        drop(self.driver.wait());
        self.kill();
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
