//! The file that `check` writes, read by the real `node_exporter`, through the line for cron that the page shows.

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::{Command, Stdio},
};

use crate::support::{Page, SOON, binary, fixture, free_port, wait};

const PAGE: &str = include_str!("../../docs/without-a-daemon.md");

#[test]
fn node_exporter_publishes_what_check_wrote() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    let store = fixture("chroma-1.5.9", dir);
    let line = PAGE.lines().find(|line| line.contains("--output prometheus")).unwrap();
    let command = line
        .splitn(6, ' ')
        .nth(5)
        .unwrap()
        .replace("/usr/bin/chroma_exporter", binary())
        .replace("/var/lib/prometheus/node-exporter", dir.to_str().unwrap())
        .replace("/srv/chroma", store.to_str().unwrap());
    let mut shell = Command::new("/bin/sh");
    shell.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", dir).args(["-c", &command]);
    let output = shell.output().unwrap();
    // How full the disk of this machine is decides the exit code; nothing is printed whatever it is.
    assert!(output.status.code().is_some_and(|code| code <= 2), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");

    let port = free_port();
    let mut node = Command::new("prometheus-node-exporter")
        .args(["--collector.disable-defaults", "--collector.textfile"])
        .arg(format!("--collector.textfile.directory={}", dir.display()))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    let mut stream = wait("node_exporter to listen", SOON, || {
        TcpStream::connect(address).map_err(|error| error.to_string())
    });
    // By 1.0, so that the answer comes in one piece.
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect(&answer);
    assert!(head.contains(" 200 "), "{answer}");
    let page = Page::parse(body);
    node.kill().unwrap();
    node.wait().unwrap();
    assert_eq!(page.get("node_textfile_scrape_error", &[]), Some(0.0));
    let file = dir.join("chroma.prom");
    let file = [("file", file.to_str().unwrap())];
    assert!(page.get("node_textfile_mtime_seconds", &file).is_some(), "{}", page.text);
    let name = [("store", "chroma-1.5.9")];
    assert!(page.has("chroma_records", &name, |records| records > 0.0), "{}", page.text);
    assert_eq!(page.get("chroma_finding", &[name[0], ("code", "second_writer")]), Some(0.0));
}
