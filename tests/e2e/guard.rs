//! `guard` in front of a real Chroma: it becomes the server, and a second one is refused.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::support::{
    Exporter, SOON, binary, chroma, free_port, get, run, signal, wait_for, wait_until,
};

/// Killed when dropped.
struct Guarded(Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn guard(release: &str, dir: &Path, port: u16) -> Command {
    let program = chroma::python(release).with_file_name("chroma");
    let mut command = Command::new(binary());
    command.args(["guard", "--store.path"]).arg(dir).arg("--").arg(program);
    command.args(["run", "--host", "127.0.0.1", "--port", &port.to_string(), "--path"]).arg(dir);
    command.current_dir(dir.parent().unwrap()).env("ANONYMIZED_TELEMETRY", "False");
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn start(release: &str, dir: &Path) -> (Guarded, SocketAddr) {
    let port = free_port();
    let mut server = Guarded(guard(release, dir, port).stderr(Stdio::null()).spawn().unwrap());
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    wait_for("chroma to listen", 2 * SOON, || {
        if let Some(status) = server.0.try_wait().unwrap() {
            panic!("chroma ended with {status}");
        }
        TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()
    });
    (server, address)
}

#[test]
fn a_real_server_is_started_once_and_a_second_one_is_refused() {
    let scratch = tempfile::tempdir().unwrap();
    for (release, heartbeat) in [("1.5.9", "/api/v2/heartbeat"), ("0.6.3", "/api/v2/heartbeat")] {
        let dir = scratch.path().canonicalize().unwrap().join(release);
        // The very first start, and one of a store that was served before.
        fs::create_dir(&dir).unwrap();
        for round in ["first", "second"] {
            let (mut server, address) = start(release, &dir);
            assert_eq!(get(address, heartbeat).status, 200, "{release}: {round}");
            let second = guard(release, &dir, free_port()).stderr(Stdio::piped()).output().unwrap();
            let said = String::from_utf8_lossy(&second.stderr).into_owned();
            assert_eq!(second.status.code(), Some(2), "{said}");
            assert!(said.contains(&format!("process {} (", server.0.id())), "{said}");
            assert!(said.contains("chroma run") && said.contains("holds the lock"), "{said}");
            // Neither a check nor a running exporter takes the lock for a second writer.
            let check = run(&["check", "--quick", dir.to_str().unwrap()]);
            let text = String::from_utf8_lossy(&check.stdout).into_owned();
            assert!(!text.contains("second_writer"), "{text}");
            let exporter =
                Exporter::start(&["--state.dir", "", "--store.path", dir.to_str().unwrap()]);
            wait_until("the server is seen as the one writer", SOON, || {
                let page = exporter.page();
                page.all("chroma_process_writers", &[]).any(|(_, writers)| writers > 0.0)
            });
            let page = exporter.page();
            let mut writers = page.all("chroma_finding", &[("code", "second_writer")]);
            assert!(writers.all(|(_, found)| found == 0.0), "{}", page.text);
            // A restore would have to wait, too, and says for whom.
            let words = ["restore", "--undo", "--store.path", dir.to_str().unwrap()];
            assert_ne!(run(&words).status.code(), Some(0));
            drop(exporter);
            signal(server.0.id(), "TERM");
            server.0.wait().unwrap();
        }
    }
}

#[test]
fn a_server_that_was_started_without_guard_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().canonicalize().unwrap().join("store");
    let mut server = chroma::Server::start("1.5.9", &dir);
    let refused = guard("1.5.9", &dir, free_port()).stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("chroma.sqlite3 open") && said.contains("chroma run"), "{said}");
    server.end();
    drop(start("1.5.9", &dir));
}
