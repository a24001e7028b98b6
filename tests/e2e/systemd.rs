//! The units in `packaging/systemd`, and what systemd hands over: how open they are to attacks by systemd's own measure, and a socket
//! that the real `systemd-socket-activate` has opened.

use std::{
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::{self, Exporter, SOON, binary, fixture, free_port, get, wait_for};

fn units() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd")
}

/// What `systemd-analyze security` says of a unit: 0 is closed, 10 is open.
fn exposure(unit: &str) -> f64 {
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager"])
        .arg(units().join(unit))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let (_, level) = said.split_once("Overall exposure level for").expect(&said);
    level.split_whitespace().find_map(|word| word.parse().ok()).expect(&said)
}

#[test]
fn units_are_as_closed_as_their_work_allows() {
    for (unit, most) in [("chroma_exporter.service", 2.6), ("chroma-backup.service", 1.5)] {
        let exposure = exposure(unit);
        assert!(exposure <= most, "{unit}: {exposure}");
    }
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let scratch = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for name in ["chroma_exporter.service", "chroma_exporter.socket"] {
        let unit = std::fs::read_to_string(units().join(name)).unwrap();
        let file = scratch.path().join(name);
        std::fs::write(&file, unit.replace("/usr/bin/chroma_exporter", binary())).unwrap();
        files.push(file);
    }
    let output = Command::new("systemd-analyze").arg("verify").args(&files).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let complaint = said.lines().find(|line| line.contains("chroma_exporter"));
    assert_eq!(complaint, None, "{said}");
    assert!(output.status.success(), "{said}");
}

#[test]
fn a_socket_of_systemd_is_taken_over() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = fixture("chroma-1.5.9", scratch.path());
    let port = free_port();
    let mut command = Command::new("systemd-socket-activate");
    command.args(["-l", &format!("127.0.0.1:{port}"), binary(), "--web.systemd-socket"]);
    command.args(["--web.listen-address", "127.0.0.1:1", "--state.dir="]);
    command.args(["--store.path", dir.to_str().unwrap()]);
    // It starts the program at the first connection, which waits in the socket until the program takes it.
    let first = std::thread::spawn(move || {
        wait_for("systemd to listen", SOON, || TcpStream::connect(("127.0.0.1", port)).ok())
    });
    let exporter = Exporter::start_command(command);
    assert_eq!(exporter.address.port(), port, "{}", exporter.log());
    drop(first.join().unwrap());
    exporter.ready();
    assert_eq!(get(exporter.address, "/-/healthy").status, 200);
    assert!(exporter.stop().success());
}

#[test]
fn what_was_not_passed_or_cannot_be_used_is_said() {
    let none = support::run(&["serve", "--web.systemd-socket", "--state.dir=", "--store.path=/x"]);
    let said = String::from_utf8_lossy(&none.stderr).into_owned();
    assert_eq!(none.status.code(), Some(1), "{said}");
    assert!(said.contains("has passed no socket") && said.contains(".socket unit"), "{said}");

    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("socket");
    let mut command = Command::new("systemd-socket-activate");
    command.arg("-l").arg(&path).args([binary(), "--web.systemd-socket", "--state.dir="]);
    command.arg("--store.path=/x").stderr(std::process::Stdio::piped());
    let child = command.spawn().unwrap();
    let first =
        wait_for("systemd to listen", SOON, || std::os::unix::net::UnixStream::connect(&path).ok());
    let output = child.wait_with_output().unwrap();
    drop(first);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("is not a TCP socket that listens"), "{said}");
}
