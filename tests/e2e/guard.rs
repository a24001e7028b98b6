//! `guard` in front of a real Chroma: it becomes the server, and a second one is refused.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::support::{
    Exporter, SOON, binary, chroma, fixture, free_port, get, run, signal, tmpfs::Tmpfs, wait_for,
    wait_until,
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

/// `guard` in a container: processes, mounts and a path of its own, with the directory as a volume at `/mnt`.
fn contained(dir: &Path, more: &[&str], program: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c"]);
    command.arg("mount --bind \"$0\" /mnt && exec \"$@\"").arg(dir).arg(binary());
    command.args(["guard", "--store.path", "/mnt"]).args(more).arg("--").args(program);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[test]
fn containers_that_share_a_volume_have_one_server() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().canonicalize().unwrap();
    let volume = Tmpfs::mount(&root.join("volume"), "32m");
    let dir = fixture("chroma-1.5.9", &volume.0);
    let script = "echo serves; exec sleep 600";
    let mut first = Guarded(contained(&dir, &[], &["sh", "-c", script]).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(first.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "serves\n");
    // Neither sees the other's processes; the lock is of the directory.
    let second = contained(&dir, &[], &["echo", "serves"]).output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert_eq!((second.status.code(), &*second.stdout), (Some(2), &b""[..]), "{said}");
    assert!(said.contains("another program holds the lock of /mnt"), "{said}");
    drop(first);
    wait_until("the lock to end with the container", SOON, || {
        contained(&dir, &[], &["true"]).output().unwrap().status.success()
    });
    // The root of a volume cannot be renamed: it is repaired file by file, and nothing of it leaves the volume.
    let database = rusqlite::Connection::open(dir.join("chroma.sqlite3")).unwrap();
    database.execute_batch("PRAGMA foreign_keys = OFF; DELETE FROM tenants").unwrap();
    database.close().unwrap();
    let repaired = contained(&dir, &[], &["echo", "serves"]).output().unwrap();
    let said = String::from_utf8_lossy(&repaired.stderr);
    assert_eq!((repaired.status.code(), &*repaired.stdout), (Some(0), &b"serves\n"[..]), "{said}");
    let kept = fs::read_dir(&dir).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_str().unwrap().starts_with(".chroma_exporter.quarantine.")
    });
    assert_eq!(kept.count(), 1);
    let empty = ["--on-loss", "reinitialise"];
    fs::write(dir.join("chroma.sqlite3"), vec![b'x'; 100_000]).unwrap();
    let begun = contained(&dir, &empty, &["ls", "/mnt"]).output().unwrap();
    let said = String::from_utf8_lossy(&begun.stderr);
    assert_eq!((begun.status.code(), &*begun.stdout), (Some(0), &b""[..]), "{said}");
}
