//! The lines for cron that call a push URL when all is well, as the page shows them, with a server of the test at the other end.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    path::Path,
    process::Command,
    sync::mpsc,
    thread,
};

use crate::support::{SOON, binary, fixture};

const PAGE: &str = include_str!("../../docs/without-a-daemon.md");

/// The command of a line for cron, with the store, the program and the server of the test.
fn command(host: &str, store: &Path, server: &str) -> String {
    let line = PAGE.lines().find(|line| line.contains(host)).unwrap_or_else(|| panic!("{host}"));
    let command = line.splitn(6, ' ').nth(5).unwrap();
    let change = [
        // How full the disk of this machine is must make no difference.
        ("/usr/bin/chroma_exporter check", format!("{} check --no-collector.disk", binary())),
        ("/srv/chroma", store.to_str().unwrap().to_owned()),
        (host, format!("http://{server}")),
    ];
    change.into_iter().fold(command.to_owned(), |command, (named, here)| {
        assert!(command.contains(named), "{command} has no {named}");
        command.replace(named, &here)
    })
}

fn shell(command: &str, home: &Path) -> std::process::Output {
    let mut shell = Command::new("/bin/sh");
    shell.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", home);
    shell.args(["-c", command]).output().unwrap()
}

#[test]
fn a_push_url_is_called_when_all_is_well_and_only_then() {
    let scratch = tempfile::tempdir().unwrap();
    let store = fixture("chroma-1.5.9", scratch.path());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = listener.local_addr().unwrap().to_string();
    let (asked, asks) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
            let request = lines.next().unwrap_or_default();
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nOK")
                .unwrap();
            asked.send(request).unwrap();
        }
    });
    let services = [
        ("https://hc-ping.com", "GET /YOUR-UUID HTTP/1.1"),
        ("https://kuma.example.org", "GET /api/push/YOUR-KEY?status=up HTTP/1.1"),
    ];
    for (host, request) in services {
        let output = shell(&command(host, &store, &server), scratch.path());
        assert!(output.status.success(), "{output:?}");
        assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
        assert_eq!(asks.recv_timeout(SOON).unwrap(), request);
    }
    // A store that is broken is told by mail, and the service misses the call.
    fs::write(store.join("chroma.sqlite3"), vec![0xa5; 40_000]).unwrap();
    for (host, _) in services {
        let output = shell(&command(host, &store, &server), scratch.path());
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        assert!(
            String::from_utf8_lossy(&output.stdout).contains("sqlite_not_a_database"),
            "{output:?}"
        );
    }
    assert!(asks.try_recv().is_err(), "it was called although the store is broken");
}
