//! What `dump` writes of stores of real Chroma, against what that Chroma gives back of each record.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::support::{binary, chroma, copy_tree};

fn made(version: &str, dir: &Path) {
    let status = chroma::script(version).arg("everything").arg(dir).status().unwrap();
    assert!(status.success(), "{version}");
}

/// What Chroma gives; it opens a copy, because opening writes.
fn told(version: &str, dir: &Path, condition: &str) -> Vec<Value> {
    let scratch = tempfile::tempdir().unwrap();
    let copy = scratch.path().join("copy");
    copy_tree(dir, &copy);
    let out = chroma::script(version).arg("lines").arg(&copy).arg(condition).output().unwrap();
    assert!(out.status.success(), "{version}: {}", String::from_utf8_lossy(&out.stderr));
    values(&out.stdout)
}

fn values(lines: &[u8]) -> Vec<Value> {
    let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
}

fn dump(from: &Path, scratch: &Path, more: &[&str]) -> Vec<u8> {
    let out = Command::new(binary())
        .args(["dump", "--state.dir", "", "--scratch"])
        .arg(scratch)
        .args(more)
        .arg(from)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

/// Record by record. Numbers may differ by what is lost when Chroma makes unit vectors and multiplies them again.
fn same(version: &str, dumped: &[Value], told: &[Value]) {
    assert_eq!(dumped.len(), told.len(), "{version}");
    for (ours, theirs) in dumped.iter().zip(told) {
        for key in ["id", "document", "metadata"] {
            assert_eq!(ours[key], theirs[key], "{version}: {key} of {}", theirs["id"]);
        }
        let numbers = |value: &Value| -> Vec<f64> {
            value["embedding"].as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect()
        };
        let (ours, theirs) = (numbers(ours), numbers(theirs));
        assert_eq!(ours.len(), theirs.len(), "{version}");
        let worst = ours.iter().zip(&theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(worst < 1e-6, "{version}: {worst}");
    }
}

fn records(lines: &[u8]) -> Vec<Value> {
    values(lines).into_iter().filter(|line| line.get("id").is_some()).collect()
}

#[test]
fn every_record_is_what_chroma_gives() {
    for version in ["0.4.24", "0.6.3", "1.1.1", "1.5.9"] {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("store");
        made(version, &dir);
        let told = told(version, &dir, "all");
        let lines = dump(&dir, scratch.path(), &[]);
        let collections: Vec<String> = values(&lines)
            .iter()
            .filter_map(|line| Some(line.get("collection")?.as_str()?.to_owned()))
            .collect();
        assert_eq!(collections, ["first", "second", "third"], "{version}");
        assert_eq!(dump(&dir, scratch.path(), &[]), lines, "{version}: twice");
        same(version, &records(&lines), &told);
    }
}

#[test]
fn a_backup_gives_the_same_lines_as_its_store() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("store");
    made("1.5.9", &dir);
    let backup = scratch.path().join("store.tar.gz");
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(scratch.path()).arg("-czf").arg(&backup).arg("store");
    assert!(tar.status().unwrap().success());
    let lines = dump(&dir, scratch.path(), &[]);
    assert_eq!(dump(&backup, scratch.path(), &[]), lines);
    let packed = scratch.path().join("all.jsonl.zst");
    dump(&dir, scratch.path(), &["--to", packed.to_str().unwrap()]);
    let unpacked = zstd::decode_all(std::fs::File::open(packed).unwrap()).unwrap();
    assert!(unpacked == lines, "packed");
    let left: Vec<_> = std::fs::read_dir(scratch.path()).unwrap().flatten().collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn conditions_choose_what_chroma_chooses() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("store");
    made("1.5.9", &dir);
    for condition in [
        r#"{"n": 12}"#,
        r#"{"n": {"$ne": 12}}"#,
        r#"{"half": {"$gte": 20.5}}"#,
        r#"{"even": false}"#,
        r#"{"n": {"$in": [1, 2, 3000, 4]}}"#,
        r#"{"n": {"$nin": [1, 2, 3000, 4]}}"#,
        r#"{"$or": [{"n": {"$lt": 5}}, {"$and": [{"even": true}, {"n": {"$gt": 80}}]}]}"#,
        r#"{"tags": {"$contains": "t3"}}"#,
    ] {
        let told = told("1.5.9", &dir, condition);
        let lines = dump(&dir, scratch.path(), &["--collection", "first", "--where", condition]);
        assert!(!told.is_empty(), "{condition}");
        same(condition, &records(&lines), &told);
    }
}
