//! The famous panic, `range start index 10 out of range for slice of length 9`, made for real: a newer Chroma migrates the
//! directory of an older server. The exporter finds out by itself which Chroma is installed, names the cause and the
//! release that opens the directory, and goes on saying so after the old server has ended.

use crate::support::{self, Exporter, SOON, chroma, fixture};

const CODE: &str = "schema_newer_than_server";

#[test]
fn an_older_server_on_a_newer_directory_is_told() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = fixture("chroma-1.1.1", scratch.path());
    let state = scratch.path().join("state");
    let config = scratch.path().join("c.yml");
    std::fs::write(
        &config,
        "collect: {interval: 200ms, contents_interval: 200ms, statement_deadline: 5s}\n",
    )
    .unwrap();
    let (store, state) = (format!("main={}", dir.display()), state.to_str().unwrap());
    let words =
        ["--config.file", config.to_str().unwrap(), "--store.path", &store, "--state.dir", state];
    let server = chroma::Server::start("1.1.1", &dir);
    let exporter = Exporter::start(&words);
    let installed = |version| [("store", "main"), ("version", version)];
    let page = exporter.wait_page("the installed release", SOON, |page| {
        page.get("chroma_installed_info", &installed("1.1.1")) == Some(1.0)
    });
    assert!(!page.findings("main").contains(&CODE.to_owned()));

    // Opening it is all that it takes.
    drop(chroma::Embedded::start("1.5.9", &dir));
    let found = |page: &support::Page| page.findings("main").contains(&CODE.to_owned());
    exporter.wait_page("the finding", SOON, found);
    drop(server);
    let page = exporter.wait_page("the end of the server", SOON, |page| {
        page.get("chroma_processes", &[("store", "main"), ("access", "write")]) == Some(0.0)
    });
    assert!(found(&page), "the next start would panic");
    exporter.stop();

    let out = support::run(&[&["check", "--output", "json"][..], &words].concat());
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(
        text.contains(CODE) && text.contains("1.2.2 is the lowest release that opens it"),
        "{text}"
    );
    assert_eq!(out.status.code(), Some(2));

    let newer = chroma::Server::start("1.5.9", &dir);
    let exporter = Exporter::start(&words);
    let page = exporter.wait_page("the newer release", SOON, |page| {
        page.get("chroma_installed_info", &installed("1.5.9")) == Some(1.0)
    });
    assert!(!found(&page));
    drop(newer);
}
