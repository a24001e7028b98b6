//! The status page and its document, from the built program over real directories: they say what `check` says, hide nothing,
//! follow what happens, and go on after a restart.

use std::{fs, path::Path};

use crate::support::{Exporter, SOON, fixture, get, request, run, wait_for};
use serde_json::Value;

fn document(exporter: &Exporter) -> Value {
    let answer = get(exporter.address, "/api/v1/status");
    assert_eq!(answer.status, 200, "{}", answer.body);
    serde_json::from_str(&answer.body).unwrap()
}

/// How full the disk of this machine is must make no difference.
const NO_DISK: &str = "--no-collector.disk";

/// Waits until the document satisfies `test`.
fn wait_document(exporter: &Exporter, what: &str, test: impl Fn(&Value) -> bool) -> Value {
    wait_for(what, 2 * SOON, || Some(document(exporter)).filter(&test))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// What of a finding does not change with the moment. That a collector has been failing for a minute does.
fn reported(store: &Value) -> Vec<[String; 6]> {
    let findings = store["findings"].as_array().unwrap().iter();
    let mut reported: Vec<_> = findings
        .filter(|finding| finding["code"] != "collector_failing")
        .map(|finding| {
            ["code", "severity", "collector", "subject", "remedy", "runbook"]
                .map(|key| finding[key].as_str().unwrap().to_owned())
        })
        .collect();
    reported.sort();
    reported
}

#[test]
fn the_document_says_what_check_says_and_more() {
    let scratch = tempfile::tempdir().unwrap();
    let names = ["chroma-1.5.9", "chroma-1.5.9-hot-journal", "chroma-0.6.3"];
    let paths = names.map(|name| fixture(name, scratch.path()));
    fs::write(paths[2].join("chroma.sqlite3"), b"not a database").unwrap();
    let stores: Vec<String> = names
        .iter()
        .zip(&paths)
        .map(|(n, p)| format!("--store.path={n}={}", p.display()))
        .collect();
    let args: Vec<&str> = stores.iter().map(String::as_str).chain([NO_DISK]).collect();

    let exporter = Exporter::start(&args);
    exporter.ready();
    let live = wait_document(&exporter, "a whole look", |document| {
        document["stores"].as_array().is_some_and(|stores| {
            stores.len() == 3
                && stores.iter().all(|store| store["collectors_missing"] == 0)
                && stores[0]["integrity"]["full"] == "ok"
        })
    });
    let check = run(&[&["check", "--output=json"], &args[..]].concat());
    let check: Value = serde_json::from_slice(&check.stdout).unwrap();

    assert_eq!((&live["status"], &check["status"]), (&"critical".into(), &"critical".into()));
    for (live, check) in
        live["stores"].as_array().unwrap().iter().zip(check["stores"].as_array().unwrap())
    {
        for key in ["store", "path", "status"] {
            assert_eq!(live[key], check[key]);
        }
        assert_eq!(reported(live), reported(check), "{}", live["store"]);
        for key in check.as_object().unwrap().keys() {
            assert!(live.get(key).is_some(), "{key}");
        }
    }
    let whole = &live["stores"][0];
    assert_eq!(whole["status"], "ok");
    assert_eq!(
        whole["figures"]["records"],
        exporter.page().value("chroma_records", &[("store", names[0])])
    );
    for key in ["generated_at", "host", "version", "alerts", "silences", "receivers"] {
        assert!(!live[key].is_null(), "{key}");
    }
    let firing = live["alerts"].as_array().unwrap();
    assert!(firing.iter().any(|alert| alert["alert"] == "ChromaSqliteNotADatabase"), "{firing:?}");

    let page = get(exporter.address, "/").body;
    let at = |text: &str| page.find(text).unwrap_or_else(|| panic!("no {text} in {page}"));
    assert!(at(">chroma-0.6.3</h3>") < at(">chroma-1.5.9-hot-journal</h3>"));
    assert!(at(">chroma-1.5.9-hot-journal</h3>") < at(">chroma-1.5.9</h3>"));
    at("<h1>1 of 3 stores needs action now</h1>");
    for code in ["sqlite_not_a_database", "hot_journal"] {
        let runbook = get(exporter.address, &format!("/runbooks/{code}"));
        assert_eq!(runbook.status, 200);
        assert!(runbook.body.contains(&format!("<h1>{code}</h1>")));
        at(&format!("href=\"runbooks/{code}\""));
    }
}

#[test]
fn what_happens_to_a_store_reaches_page_and_document_and_who_has_it_gets_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let store = fixture("chroma-1.5.9", scratch.path());
    let store_path = format!("--store.path=main={}", store.display());
    let exporter = Exporter::start(&[store_path.as_str(), NO_DISK]);
    wait_document(&exporter, "health", |document| document["status"] == "ok");
    let page = || get(exporter.address, "/");
    let well = wait_for("a healthy page", SOON, || {
        Some(page()).filter(|page| page.body.contains("<h1>main is healthy</h1>"))
    });
    let tag = header(&well.head, "etag").unwrap().to_owned();
    assert!(tag.starts_with("W/\""), "{tag}");

    let file = fs::OpenOptions::new().write(true).open(store.join("chroma.sqlite3")).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    let ill = wait_for("a page of the damage", SOON, || {
        Some(page()).filter(|page| page.body.contains("<h1>main needs action now</h1>"))
    });
    assert!(ill.body.contains("sqlite_truncated"));
    assert_ne!(header(&ill.head, "etag").unwrap(), tag);
    assert_eq!(document(&exporter)["status"], "critical");

    let head = request(exporter.address, "HEAD", "/api/v1/status");
    assert_eq!((head.status, &*head.body), (200, ""));
    assert_eq!(request(exporter.address, "POST", "/api/v1/status").status, 405);
}

#[test]
fn names_from_disk_stay_text() {
    let scratch = tempfile::tempdir().unwrap();
    let evil = "\"><img src=x onerror=alert(1)>\u{202e}<script>";
    let store = fixture("chroma-1.5.9", scratch.path());
    let moved = scratch.path().join(evil);
    fs::rename(&store, &moved).unwrap();
    {
        let database = rusqlite::Connection::open(moved.join("chroma.sqlite3")).unwrap();
        database
            .execute("UPDATE collections SET name = ?1 || id", [format!("{evil}</title>")])
            .unwrap();
    }
    for folder in
        fs::read_dir(&moved).unwrap().map(|entry| entry.unwrap().path()).filter(|p| p.is_dir())
    {
        fs::write(folder.join("header.bin"), b"short").unwrap();
    }
    let exporter = Exporter::start(&[format!("--store.path=main={}", moved.display())]);
    let document = wait_document(&exporter, "the finding", |document| {
        document["stores"][0]["findings"].to_string().contains("segment_truncated")
    });
    let text = document.to_string();
    assert!(text.contains("onerror") && text.contains("\\\\u{202e}") && !text.contains('\u{202e}'));
    let page = get(exporter.address, "/").body;
    assert!(page.contains("&lt;img src=x onerror=alert(1)&gt;\\u{202e}"), "{page}");
    assert!(page.contains("&lt;/title&gt;"), "the name of the collection is shown");
    assert!(!page.contains("<img") && !page.contains('\u{202e}'));
    assert_eq!(page.matches("<script").count(), 1);
}

#[test]
fn the_last_hours_survive_a_restart() {
    let scratch = tempfile::tempdir().unwrap();
    let state = scratch.path().join("state");
    let store = fixture("chroma-1.5.9", scratch.path());
    let args = [
        format!("--store.path=main={}", store.display()),
        format!("--state.dir={}", state.display()),
    ];
    let records = |document: &Value| document["stores"][0]["history"]["records"].clone();
    let exporter = Exporter::start(&args);
    let before = wait_document(&exporter, "a first point", |document| {
        records(document).as_array().is_some_and(|points| points.iter().any(Value::is_number))
    });
    assert!(exporter.stop().success());

    // An hour ago, so that what the program adds itself cannot be mistaken for it.
    let file = kept(&state);
    let mut document: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let ring = &mut document["data"]["stores"]["main"];
    ring["newest"] = (ring["newest"].as_i64().unwrap() - 30).into();
    fs::write(&file, document.to_string()).unwrap();
    let exporter = Exporter::start(&args);
    let after = wait_document(&exporter, "both ends of the gap", |document| {
        let points = records(document);
        points
            .as_array()
            .is_some_and(|points| points.len() > 30 && points.last() != Some(&Value::Null))
    });
    let first =
        records(&before).as_array().unwrap().iter().find(|point| point.is_number()).cloned();
    let points = records(&after);
    let points = points.as_array().unwrap();
    assert_eq!(points.iter().find(|point| point.is_number()).cloned(), first);
    assert!(points.iter().filter(|point| point.is_null()).count() >= 28, "a gap is a gap");
    assert!(exporter.stop().success());

    // Nonsense is no reason not to start.
    fs::write(&file, "{\"subject\":\"all stores\",\"data\":{\"step_seconds\":\"x\"}}").unwrap();
    let exporter = Exporter::start(&args);
    exporter.ready();
    wait_for("the damaged document to be told", SOON, || {
        exporter.log().contains("set aside").then_some(())
    });
}

/// The document of the history.
fn kept(state: &Path) -> std::path::PathBuf {
    let files = fs::read_dir(state).unwrap().map(|entry| entry.unwrap().path());
    let mut files =
        files.filter(|p| p.file_name().unwrap().to_string_lossy().starts_with("history-"));
    files.next().expect("the history is written at the end")
}
