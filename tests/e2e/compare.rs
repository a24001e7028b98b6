//! `diff` and `stats` of stores of real Chroma, of their backups and of their dumps.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

use crate::support::{binary, chroma, copy_tree};

fn made(version: &str, dir: &Path) {
    let status = chroma::script(version).arg("everything").arg(dir).status().unwrap();
    assert!(status.success(), "{version}");
}

fn run(scratch: &Path, arguments: &[&str]) -> Output {
    Command::new(binary())
        .args(arguments)
        .args(["--state.dir", "", "--scratch", scratch.to_str().unwrap()])
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn reported(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

fn report(out: &Output) -> Value {
    serde_json::from_slice(&out.stdout).unwrap_or_else(|_| panic!("{}", reported(out)))
}

#[test]
fn a_store_its_backup_and_its_dump_are_the_same_and_a_change_is_not() {
    let scratch = tempfile::tempdir().unwrap();
    let path = |name: &str| scratch.path().join(name).to_str().unwrap().to_owned();
    made("1.5.9", Path::new(&path("store")));
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(scratch.path()).args(["-czf", &path("store.tar.gz"), "store"]);
    assert!(tar.status().unwrap().success());
    let out = run(scratch.path(), &["dump", &path("store"), "--to", &path("store.jsonl.zst")]);
    assert!(out.status.success(), "{}", reported(&out));
    for (a, b) in [
        ("store", "store.tar.gz"),
        ("store.jsonl.zst", "store"),
        ("store.tar.gz", "store.jsonl.zst"),
    ] {
        let out = run(
            scratch.path(),
            &["diff", &path(a), &path(b), "--epsilon", "0", "--output", "json"],
        );
        let report = report(&out);
        assert_eq!((out.status.code(), &report["status"]), (Some(0), &json!("same")), "{report:#}");
        assert_eq!(
            (&report["collections"], &report["records_a"], &report["records_b"]),
            (&json!(3), &json!(270), &json!(270))
        );
    }
    copy_tree(Path::new(&path("store")), Path::new(&path("changed")));
    let status = chroma::script("1.5.9").args(["change", &path("changed")]).status().unwrap();
    assert!(status.success());
    let out = run(scratch.path(), &["diff", &path("store"), &path("changed"), "--output", "json"]);
    let changed = report(&out);
    assert_eq!(
        (out.status.code(), &changed["status"]),
        (Some(1), &json!("different")),
        "{changed:#}"
    );
    let first = &changed["differing"][0];
    let ids = |kind: &str| {
        first[kind]["first"]
            .as_array()
            .unwrap()
            .iter()
            .map(|id| id.as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(first["name"], "first", "{changed:#}");
    assert_eq!(ids("only_a"), ["r008"]);
    assert_eq!(ids("only_b"), ["added"]);
    assert_eq!(ids("documents"), ["r009"]);
    assert_eq!(ids("metadata"), ["r010: n differs"]);
    assert_eq!(first["vectors"]["count"], 1, "{changed:#}");
    assert!(ids("vectors")[0].starts_with("r011: "), "{changed:#}");
    assert_eq!(
        (&changed["differing"][1]["name"], &changed["differing"][1]["only_in"]),
        (&json!("more"), &json!("b"))
    );
    assert_eq!(changed["differing_collections"], 2, "{changed:#}");
    let out = run(scratch.path(), &["diff", &path("store"), &path("changed")]);
    assert!(reported(&out).ends_with("They differ.\n"), "{}", reported(&out));
    // What is not there is not the same as anything.
    let out = run(scratch.path(), &["diff", &path("store"), &path("nothing")]);
    assert_eq!(out.status.code(), Some(2), "{}", reported(&out));
    let out =
        run(scratch.path(), &["diff", &path("store"), &path("store"), "--collection", "none"]);
    assert_eq!(out.status.code(), Some(2), "{}", reported(&out));
}

#[test]
fn stores_of_all_releases_are_described() {
    for version in ["0.4.24", "0.6.3", "1.1.1", "1.5.9"] {
        let scratch = tempfile::tempdir().unwrap();
        let store = scratch.path().join("store");
        made(version, &store);
        let out = run(scratch.path(), &["stats", store.to_str().unwrap(), "--output", "json"]);
        assert_eq!(out.status.code(), Some(0), "{version}: {}", reported(&out));
        let report = report(&out);
        let names: Vec<&str> = report["collections"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["first", "second", "third"], "{version}");
        let second = &report["collections"][1];
        // 90 and "bare" and "new", less 3, and "r005" once more but in 0.4.
        let records = if version == "0.4.24" { 89 } else { 90 };
        let key = |name: &str| {
            second["keys"]
                .as_array()
                .unwrap()
                .iter()
                .find(|key| key["name"] == name)
                .cloned()
                .unwrap_or_default()
        };
        assert_eq!(second["records"], records, "{version}: {report:#}");
        assert_eq!(
            (&second["space"], &second["dimension"]),
            (&json!("cosine"), &json!(16)),
            "{version}"
        );
        assert_eq!(
            (&second["vectors"]["count"], &second["vectors"]["missing"]),
            (&json!(records), &json!(0)),
            "{version}"
        );
        assert_eq!(
            second["documents"]["copies"],
            json!({"count": 0, "estimated": false}),
            "{version}"
        );
        assert_eq!(
            (&key("n")["types"], &key("n")["records"]),
            (&json!({"integer": 87}), &json!(87)),
            "{version}"
        );
        assert_eq!(
            (&key("even")["types"], &key("even")["values"]["count"]),
            (&json!({"boolean": 87}), &json!(2)),
            "{version}"
        );
        assert_eq!(key("n")["max"], 3000.0, "{version}");
        assert_eq!(
            key("tags")["types"]["list"].is_u64(),
            version == "1.5.9",
            "{version}: {report:#}"
        );
        assert!(second["index_bytes"].as_u64().unwrap() > 1_000, "{version}: {report:#}");
        let added = second["first_added"].as_str().unwrap();
        assert!(added.starts_with("20") && added.len() == 19, "{version}: {added}");
        let out = run(scratch.path(), &["stats", store.to_str().unwrap()]);
        assert!(
            reported(&out).contains("second: ")
                && reported(&out).contains("    n: integer in 87 records"),
            "{}",
            reported(&out)
        );
    }
}
