//! What a manager hears that listens as systemd does: a socket for datagrams, by a path or by an abstract name.

use std::{
    fs,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    path::Path,
    time::Duration,
};

use crate::support::{Exporter, SOON, fixture, replace_file, wait};

/// The other end of `NOTIFY_SOCKET`.
struct Manager {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Manager {
    fn new(socket: UnixDatagram) -> Self {
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        Self { socket, heard: Vec::new() }
    }

    fn at(path: &Path) -> Self {
        Self::new(UnixDatagram::bind(path).unwrap())
    }

    /// Waits until a line has come that begins with this, and gives it.
    fn hears(&mut self, begin: &str) -> String {
        wait(begin, SOON, || {
            let mut bytes = [0; 4096];
            if let Ok(length) = self.socket.recv(&mut bytes) {
                let message = String::from_utf8(bytes[..length].to_vec()).unwrap();
                self.heard.extend(message.lines().map(str::to_owned));
            }
            let found = self.heard.iter().position(|line| line.starts_with(begin));
            // What came before has been heard.
            found
                .map(|at| self.heard.drain(..=at).next_back().unwrap())
                .ok_or_else(|| format!("{:?}", self.heard))
        })
    }
}

#[test]
fn a_manager_hears_of_start_findings_life_reload_and_end() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = fixture("chroma-1.5.9", scratch.path());
    let file = scratch.path().join("config.yml");
    let config = format!(
        "collect: {{interval: 100ms}}\nstores: [{{name: main, path: {}}}]\n",
        dir.display()
    );
    fs::write(&file, &config).unwrap();
    let path = scratch.path().join("notify");
    let mut manager = Manager::at(&path);
    let words = ["--config.file", file.to_str().unwrap(), "--state.dir="];
    let exporter = Exporter::start_with(&words, |command| {
        command
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "2000000")
            .env_remove("WATCHDOG_PID")
    });
    manager.hears("READY=1");
    assert!(!manager.heard.iter().any(|line| line.starts_with("WATCHDOG")), "before it was ready");
    // It stands in the same message.
    let status = manager.hears("STATUS=");
    assert!(status.contains("1 store"), "{status}");
    manager.hears("WATCHDOG=1");
    manager.hears("WATCHDOG=1");

    let aside = scratch.path().join("aside");
    fs::rename(&dir, &aside).unwrap();
    let status = manager.hears("STATUS=1 store. critical: main: store_missing");
    assert!(status.len() < 400, "{status}");
    fs::rename(&aside, &dir).unwrap();

    exporter.signal("HUP");
    manager.hears("RELOADING=1");
    let since: u64 = manager.hears("MONOTONIC_USEC=").split('=').nth(1).unwrap().parse().unwrap();
    assert!(since > 0);
    manager.hears("READY=1");
    replace_file(&file, "nonsense: true\n");
    manager.hears("STATUS=The configuration was refused");
    replace_file(&file, config);

    exporter.signal("TERM");
    manager.hears("STOPPING=1");
    assert!(exporter.stop().success());
}

#[test]
fn an_abstract_name_is_one_too_and_a_manager_that_is_gone_stops_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = fixture("chroma-1.5.9", scratch.path());
    let name = format!("chroma_exporter-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let mut manager = Manager::new(UnixDatagram::bind_addr(&address).unwrap());
    let words = ["--store.path", dir.to_str().unwrap(), "--state.dir="];
    let exporter = Exporter::start_with(&words, |command| {
        // That of another process: nobody here waits for it.
        command
            .env("NOTIFY_SOCKET", format!("@{name}"))
            .env("WATCHDOG_USEC", "1000000")
            .env("WATCHDOG_PID", "1")
    });
    manager.hears("READY=1");
    drop(manager);
    exporter.signal("HUP");
    wait("the reload", SOON, || {
        if exporter.log().contains("Configuration loaded") { Ok(()) } else { Err(exporter.log()) }
    });
    assert!(exporter.log().contains("systemd does not take messages"), "{}", exporter.log());
    assert!(exporter.stop().success());

    let nobody = scratch.path().join("nobody");
    let exporter = Exporter::start_with(&words, |command| command.env("NOTIFY_SOCKET", &nobody));
    exporter.ready();
    assert!(exporter.log().contains("systemd cannot be told how it goes"), "{}", exporter.log());
}
