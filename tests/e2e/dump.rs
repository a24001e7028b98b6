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
fn reported(version: &str, dir: &Path, condition: &str) -> Vec<Value> {
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

/// Record by record, and vectors number by number. With the space cosine Chroma makes unit vectors and multiplies them again: of what is
/// still in the queue, `dump` gives the numbers that were added.
fn same(version: &str, dumped: &[Value], reported: &[Value]) {
    assert_eq!(dumped.len(), reported.len(), "{version}");
    for (ours, theirs) in dumped.iter().zip(reported) {
        for key in ["id", "document", "metadata"] {
            assert_eq!(ours[key], theirs[key], "{version}: {key} of {}", theirs["id"]);
        }
        let apart = apart(&ours["embedding"], &theirs["embedding"]);
        let most = if ours["space"] == "cosine" { COSINE_STEPS } else { 0 };
        assert!(apart <= most, "{version}: {} is {apart} steps apart", theirs["id"]);
    }
}

/// How far two vectors are apart: the largest number of steps, from one 32-bit float to the next, between two of their numbers.
pub(crate) fn apart(one: &Value, two: &Value) -> i64 {
    let numbers = |value: &Value| -> Vec<i64> {
        let numbers = value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap());
        #[expect(clippy::cast_possible_truncation, reason = "Chroma keeps 32 bits")]
        let bits = numbers.map(|number| (number as f32).to_bits());
        // In the order of the numbers.
        bits.map(|bits| {
            let size = i64::from(bits & 0x7fff_ffff);
            if bits >> 31 == 1 { -size } else { size }
        })
        .collect()
    };
    let (one, two) = (numbers(one), numbers(two));
    assert_eq!(one.len(), two.len());
    one.iter().zip(&two).map(|(a, b)| (a - b).abs()).max().unwrap_or(0)
}

/// What going through an index with the space cosine costs at most, as docs/move.md has it.
pub(crate) const COSINE_STEPS: i64 = 2;

/// Records, each with the space of its collection.
fn records(lines: &[u8]) -> Vec<Value> {
    let mut space = Value::Null;
    let mut out = Vec::new();
    for mut line in values(lines) {
        if line.get("collection").is_some() {
            space = line["space"].take();
        } else {
            line["space"] = space.clone();
            out.push(line);
        }
    }
    out
}

#[test]
fn every_record_is_what_chroma_gives() {
    for version in ["0.4.24", "0.5.5", "0.6.3", "1.1.1", "1.5.9"] {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("store");
        made(version, &dir);
        let reported = reported(version, &dir, "all");
        let lines = dump(&dir, scratch.path(), &[]);
        let collections: Vec<String> = values(&lines)
            .iter()
            .filter_map(|line| Some(line.get("collection")?.as_str()?.to_owned()))
            .collect();
        assert_eq!(collections, ["first", "second", "third"], "{version}");
        assert_eq!(dump(&dir, scratch.path(), &[]), lines, "{version}: twice");
        same(version, &records(&lines), &reported);
    }
}

#[test]
fn what_is_rare_is_kept_and_what_no_line_can_hold_is_told() {
    for version in ["0.4.24", "0.6.3", "1.1.1", "1.5.9"] {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("store");
        let reported = chroma::script(version).arg("strange").arg(&dir).output().unwrap();
        assert!(
            reported.status.success(),
            "{version}: {}",
            String::from_utf8_lossy(&reported.stderr)
        );
        let reported = values(&reported.stdout);
        let out = Command::new(binary())
            .args(["dump", "--state.dir", "", "--scratch"])
            .args([scratch.path(), &dir])
            .output()
            .unwrap();
        let lines = values(&out.stdout);
        let records: Vec<&Value> = lines.iter().filter(|line| line.get("id").is_some()).collect();
        assert!(reported.len() > 12, "{version}: {}", reported.len());
        assert_eq!(records.len(), reported.len(), "{version}");
        for (ours, theirs) in records.iter().zip(&reported) {
            for key in ["id", "document", "metadata"] {
                assert_eq!(ours[key], theirs[key], "{version}: {key} of {}", theirs["id"]);
            }
            let vectors = (&ours["embedding"], &theirs["embedding"]);
            assert_eq!(vectors.0.is_null(), vectors.1.is_null(), "{version}: {}", theirs["id"]);
            assert!(vectors.0.is_null() || apart(vectors.0, vectors.1) == 0, "{vectors:?}");
        }
        // From 1.0 on Chroma forgets such a number in metadata; not every release takes one in a vector.
        let stderr = String::from_utf8_lossy(&out.stderr);
        let number = version.starts_with("0.");
        let vector = reported.iter().any(|record| record["id"] == "no end");
        assert_eq!(out.status.code(), Some(i32::from(number || vector)), "{version}: {stderr}");
        for (said, is_there) in [
            ("record infinite: metadata.k: ", number),
            ("record no end: its vector has a number", vector),
        ] {
            assert_eq!(stderr.contains(said), is_there, "{version}: {stderr}");
        }
    }
}

#[test]
fn collections_of_all_tenants_and_databases_are_there() {
    for version in ["0.4.24", "0.5.5", "0.6.3", "1.1.1", "1.5.9"] {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("store");
        let status = chroma::script(version).arg("tenants").arg(&dir).status().unwrap();
        assert!(status.success(), "{version}");
        let lines = values(&dump(&dir, scratch.path(), &["--collection", "docs"]));
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let (mut places, mut records) = (Vec::new(), Vec::new());
        for line in &lines {
            match line.get("collection") {
                Some(_) => {
                    places.push(format!("{}/{}", text(&line["tenant"]), text(&line["database"])));
                }
                None => records.push(text(&line["metadata"]["of"])),
            }
        }
        assert_eq!(
            places,
            ["another/archive", "default_tenant/archive", "default_tenant/default_database"],
            "{version}"
        );
        assert_eq!(records, places, "{version}");
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
        r#"{"halves": {"$contains": 7.0}}"#,
        r#"{"flags": {"$contains": false}}"#,
    ] {
        let reported = reported("1.5.9", &dir, condition);
        let lines = dump(&dir, scratch.path(), &["--collection", "first", "--where", condition]);
        assert!(!reported.is_empty(), "{condition}");
        same(condition, &records(&lines), &reported);
    }
}
