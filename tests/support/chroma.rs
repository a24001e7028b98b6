//! Real Chroma for the tests behind the `e2e` feature: a server, load through it, embedded holders.

#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test binary uses its own part")]

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::support::{SOON, free_port, signal, wait_for};

/// The Python of the environment that holds this release of chromadb; made by `tests/venv`.
pub fn python(version: &str) -> PathBuf {
    let venvs = std::env::var_os("CHROMA_VENVS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/.venv"), PathBuf::from);
    let python = venvs.join(version).join("bin/python");
    assert!(python.exists(), "{} is missing: run tests/venv {version}", python.display());
    python
}

/// A running `chroma run`; killed when dropped.
pub struct Server {
    pub child: Child,
    pub port: u16,
    pub version: &'static str,
}

impl Server {
    /// Starts a server of `version` on `dir` and waits until its port answers.
    pub fn start(version: &'static str, dir: &Path) -> Self {
        Self::start_with(version, dir, Stdio::null(), Stdio::null())
    }

    /// The same, with all that it says in the file `log`.
    pub fn start_logging(version: &'static str, dir: &Path, log: &Path) -> Self {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(log).expect("log");
        Self::start_with(version, dir, file.try_clone().expect("log").into(), file.into())
    }

    /// Starts it at the port of one that has ended.
    pub fn start_again(&mut self, dir: &Path) {
        *self = Self::start_at(self.port, self.version, dir, Stdio::null(), Stdio::null());
    }

    /// Ends it as a service manager does, and waits for that.
    pub fn end(&mut self) {
        signal(self.child.id(), "TERM");
        wait_for("chroma to end", SOON, || self.child.try_wait().expect("child").map(drop));
    }

    fn start_with(version: &'static str, dir: &Path, out: Stdio, err: Stdio) -> Self {
        Self::start_at(free_port(), version, dir, out, err)
    }

    fn start_at(port: u16, version: &'static str, dir: &Path, out: Stdio, err: Stdio) -> Self {
        let program = python(version).with_file_name("chroma");
        let mut child = Command::new(program)
            .args(["run", "--host", "127.0.0.1", "--port", &port.to_string(), "--path"])
            .arg(dir)
            // Releases before 1.0 write chroma.log where they are started.
            .current_dir(dir.parent().expect("an absolute path"))
            .env("ANONYMIZED_TELEMETRY", "False")
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .expect("chroma starts");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        wait_for("chroma to listen", 2 * SOON, || {
            if let Some(status) = child.try_wait().expect("child") {
                panic!("chroma ended with {status}");
            }
            TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()
        });
        Self { child, port, version }
    }

    /// A client of the same release that does `what` with this server.
    pub fn client(&self, what: &str, more: &[&str]) -> Command {
        let mut command = script(self.version);
        command.args([what, "127.0.0.1", &self.port.to_string()]).args(more);
        command
    }

    /// Adds, updates and deletes for so long; gives the ledger of what must be there.
    pub fn start_load(&self, seconds: u64) -> Child {
        let mut command = self.client("load", &[&seconds.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("load starts")
    }

    /// Proves that everything of the ledger is there.
    pub fn verify(&self, ledger: &[u8]) {
        let mut child =
            self.client("verify", &[]).stdin(Stdio::piped()).spawn().expect("verify starts");
        child.stdin.take().expect("piped").write_all(ledger).expect("ledger");
        assert!(child.wait().expect("verify").success(), "Chroma's data are not whole");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A program that embeds Chroma and keeps the directory open; ends when dropped.
pub struct Embedded(pub Child);

impl Embedded {
    pub fn start(version: &str, dir: &Path) -> Self {
        let mut command = script(version);
        command.arg("hold").arg(dir).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("line");
        assert_eq!(line.trim(), "holding");
        Self(child)
    }

    /// Lets the program come to its end, and waits for that.
    pub fn end(mut self) {
        drop(self.0.stdin.take());
        wait_for("the program to end", SOON, || self.0.try_wait().expect("child").map(drop));
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

pub fn script(version: &str) -> Command {
    let mut command = Command::new(python(version));
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/chroma.py"));
    command.env("ANONYMIZED_TELEMETRY", "False");
    command
}
