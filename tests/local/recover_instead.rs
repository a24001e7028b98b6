//! A store that is beyond repair, and a backup of it: `recover` says what the backup has, what it has not, and the line that puts it
//! in place.

use std::fs;

use crate::support::{self, faults, fixture};

/// 100 kB that are no database, the same each time.
fn noise() -> Vec<u8> {
    let mut state = 7_u64;
    let byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(byte).take(100_000).collect()
}

#[test]
fn a_backup_is_described_and_named_in_place_of_a_store_that_is_beyond_repair() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = fixture("chroma-1.5.9", &scratch.path().join("store"));
    let backup = fixture("chroma-1.5.9", &scratch.path().join("backup"));
    let (store, backup) = (dir.to_str().unwrap(), backup.to_str().unwrap());
    // Ten records that are in the index alone: made after the backup.
    faults::replace(
        &faults::articles(&dir, "index_metadata.pickle"),
        b"articles-02",
        b"articles-92",
    );
    fs::write(dir.join("chroma.sqlite3"), noise()).unwrap();
    let before = fs::read(dir.join("chroma.sqlite3")).unwrap();

    let recover = |more: &[&str]| {
        let words = ["recover", "--state.dir", "", "--backup", backup, "--store.path", store];
        support::run(&[&words[..], more].concat())
    };
    let out = recover(&["--output", "json", "--apply"]);
    assert_eq!(out.status.code(), Some(2), "{out:?}");
    let document: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let report = &document["report"];
    assert_eq!(report["outcome"], "not_repaired", "{document:#}");
    let instead = &report["from_backup"]["instead"];
    let has = serde_json::json!([
        { "collection": "articles", "records": 86 },
        { "collection": "notes", "records": 50 },
    ]);
    let mut found: Vec<_> = instead["has"].as_array().unwrap().clone();
    found.sort_by_key(|one| one["collection"].to_string());
    assert_eq!(serde_json::Value::from(found), has, "{document:#}");
    assert_eq!(instead["newer_total"], 10, "{document:#}");
    let mut newer: Vec<&str> = instead["newer"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["id"].as_str().unwrap())
        .collect();
    newer.sort_unstable();
    assert_eq!((newer[0], newer[9]), ("articles-920", "articles-929"));
    assert_eq!(instead["unknown_folders"], serde_json::json!([]));
    assert!(fs::read(dir.join("chroma.sqlite3")).unwrap() == before, "it was not touched");

    let said = String::from_utf8(recover(&[]).stdout).unwrap();
    for words in ["articles  86 records", "of 10 records", "nothing that was written after"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let line = said.lines().find_map(|line| line.split_once("chroma_exporter restore ")).unwrap().1;
    let mut words = vec!["restore"];
    words.extend(line.split(' '));
    let out = support::run(&words);
    assert!(out.status.success(), "{line}: {out:?}");
    let out = support::run(&["recover", "--state.dir", "", "--store.path", store]);
    let said = String::from_utf8(out.stdout).unwrap();
    assert!(said.contains("nothing to do"), "{said}");
}
