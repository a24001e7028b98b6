//! `guard` under a real pm2: one process, started again after its end, repaired on the way, and no loop while it is refused.

use std::{fs, path::PathBuf, process::Command};

use serde_json::Value;

use crate::support::{SOON, binary, chroma, fixture, free_port, signal, wait, wait_until};

/// A pm2 of the test's own, with its daemon; both end with it.
struct Pm2 {
    program: PathBuf,
    home: tempfile::TempDir,
}

impl Pm2 {
    fn new() -> Self {
        let venvs = chroma::python("1.5.9").ancestors().nth(3).unwrap().to_owned();
        let program = venvs.join("pm2/node_modules/.bin/pm2");
        assert!(program.exists(), "{} is missing: tests/run makes it", program.display());
        Self { program, home: tempfile::tempdir().unwrap() }
    }

    fn run(&self, words: &[&str]) -> String {
        let mut command = Command::new(&self.program);
        command.args(words).env("PM2_HOME", self.home.path()).env("HOME", self.home.path());
        let out = command.env("ANONYMIZED_TELEMETRY", "False").output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(out.status.success(), "{words:?}: {text}{}", String::from_utf8_lossy(&out.stderr));
        text
    }

    /// Starts Chroma under guard, as `docs/guard.md` says.
    fn start(&self, name: &str, dir: &str) {
        let server = chroma::python("1.5.9").with_file_name("chroma");
        let port = free_port().to_string();
        let server = server.to_str().unwrap();
        self.run(&[
            "start",
            "--name",
            name,
            "--interpreter",
            "none",
            binary(),
            "--",
            "guard",
            "--store.path",
            dir,
            "--when-refused",
            "wait",
            "--",
            server,
            "run",
            "--host",
            "127.0.0.1",
            "--port",
            &port,
            "--path",
            dir,
        ]);
    }

    /// Process id and number of restarts.
    fn state(&self, name: &str) -> (u32, u64) {
        let text = self.run(&["jlist"]);
        // What pm2 has to say to people comes before it.
        let list = text.lines().find(|line| line.starts_with('[')).expect("a list");
        let list: Value = serde_json::from_str(list).unwrap();
        let all = list.as_array().unwrap();
        let one = all.iter().find(|one| one["name"] == name).unwrap();
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        (u32::try_from(number(&one["pid"])).unwrap(), number(&one["pm2_env"]["restart_time"]))
    }

    fn log(&self, name: &str) -> String {
        let path = self.home.path().join(format!("logs/{name}-error.log"));
        fs::read_to_string(path).unwrap_or_default()
    }

    /// Waits until the process of this name is Chroma itself, and answers its pid.
    fn serves(&self, name: &str) -> u32 {
        wait(&format!("{name} to be the server"), 2 * SOON, || {
            let (pid, _) = self.state(name);
            if is_server(pid) { Ok(pid) } else { Err(format!("{pid}; {}", self.log(name))) }
        })
    }
}

/// Whether this process is Chroma and no longer the guard, whose arguments name Chroma too.
fn is_server(pid: u32) -> bool {
    let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    command.contains("chroma\0run") && !command.contains("\0guard\0")
}

impl Drop for Pm2 {
    fn drop(&mut self) {
        self.run(&["kill"]);
    }
}

#[test]
fn pm2_keeps_one_server_and_a_second_one_waits_without_a_loop() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = fixture("chroma-1.5.9", &scratch.path().canonicalize().unwrap());
    let at = dir.to_str().unwrap();
    let pm2 = Pm2::new();
    pm2.start("chroma", at);
    let first = pm2.serves("chroma");
    pm2.start("second", at);
    let refused = format!("process {first} (");
    wait_until("the second one to name the first", SOON, || {
        let log = pm2.log("second");
        log.contains(&refused) && log.contains("guard: waiting")
    });
    // Killed, it comes back; which of the two does is theirs to settle, but it is one, and the other waits.
    signal(first, "KILL");
    let (server, waits) = wait("one to serve and one to wait", 2 * SOON, || {
        let pids = ["chroma", "second"].map(|name| (name, pm2.state(name)));
        let serves = |(_, (pid, _)): &&(&str, (u32, u64))| *pid != first && is_server(*pid);
        let serving: Vec<_> = pids.iter().filter(serves).collect();
        match &serving[..] {
            [one] => Ok((one.0, if one.0 == "chroma" { "second" } else { "chroma" })),
            other => Err(format!("{other:?} serve")),
        }
    });
    assert_eq!(pm2.state("second").1, 0, "{}", pm2.log("second"));
    // Broken while it is down, without a loss: repaired on the way up.
    pm2.run(&["stop", waits]);
    pm2.run(&["stop", server]);
    let database = rusqlite::Connection::open(dir.join("chroma.sqlite3")).unwrap();
    database.execute_batch("PRAGMA foreign_keys = OFF; DELETE FROM tenants").unwrap();
    database.close().unwrap();
    pm2.run(&["start", server]);
    pm2.serves(server);
    // What is said goes through pm2, which may write it after the server is there.
    wait("what was repaired to be told", SOON, || {
        let log = pm2.log(server);
        if log.contains("repaired, and nothing is lost") { Ok(()) } else { Err(log) }
    });
}

/// The file that people copy, with the paths of this test: Chroma comes up by guard, and the exporter beside it.
#[test]
fn the_ecosystem_file_starts_chroma_and_the_exporter() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().canonicalize().unwrap();
    let store = root.join("chroma");
    fs::rename(fixture("chroma-1.5.9", &root), &store).unwrap();
    let config = root.join("chroma_exporter.yml");
    let (chroma_port, port) = (free_port(), free_port());
    let text = format!(
        "stores: [{{name: main, path: {}}}]\nweb: {{listen_addresses: [\"127.0.0.1:{port}\"]}}\nstate: {{dir: {}}}\n",
        store.display(),
        root.join("state").display()
    );
    fs::write(&config, text).unwrap();
    let example = include_str!("../../packaging/pm2/ecosystem.config.js");
    let server = chroma::python("1.5.9").with_file_name("chroma");
    let mut file = example.to_owned();
    for (named, path) in [
        ("/srv/venv/bin/chroma_exporter", binary()),
        ("/srv/venv/bin/chroma", server.to_str().unwrap()),
        ("/srv/chroma_exporter.yml", config.to_str().unwrap()),
        ("\"/srv/chroma\"", &format!("\"{}\"", store.display())),
    ] {
        assert!(file.contains(named), "{named}");
        file = file.replace(named, path);
    }
    // Chroma's own port may be taken on this machine.
    let run = "\"run\", \"--path\"";
    assert!(file.contains(run));
    file = file.replace(run, &format!("\"run\", \"--port\", \"{chroma_port}\", \"--path\""));
    let ecosystem = root.join("ecosystem.config.js");
    fs::write(&ecosystem, file).unwrap();

    let pm2 = Pm2::new();
    pm2.run(&["start", ecosystem.to_str().unwrap()]);
    let pid = pm2.serves("chroma");
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    wait("the exporter to see the server", 2 * SOON, || {
        // Nobody listens at first.
        if std::net::TcpStream::connect(address).is_err() {
            return Err(pm2.log("chroma_exporter"));
        }
        let page = crate::support::Page::parse(&crate::support::get(address, "/metrics").body);
        let servers = page.get("chroma_process_servers", &[("store", "main")]);
        if servers == Some(1.0) { Ok(()) } else { Err(format!("{servers:?} servers, {pid}")) }
    });
    for name in ["chroma", "chroma_exporter"] {
        assert_eq!(pm2.state(name).1, 0, "{name} was started again: {}", pm2.log(name));
    }
    let init = crate::support::run(&["config", "init"]);
    let init = String::from_utf8(init.stdout).unwrap();
    let home = pm2.home.path().canonicalize().unwrap();
    let begin = init.find(store.to_str().unwrap()).unwrap_or_else(|| panic!("{init}"));
    let item = init[begin..].split("\n  - name").next().unwrap();
    assert!(item.contains(&format!("{}/logs/chroma-error.log", home.display())), "{item}");
    assert!(item.contains(&format!("http://127.0.0.1:{chroma_port}")), "{item}");
}
