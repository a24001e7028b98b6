//! What two processes of real Chroma leave in one index, repaired: no record has the vector of another one, and what is told to be lost
//! heals with an upsert.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Output, Stdio},
};

use crate::{
    recover::{recover, recover_with},
    support::{self, chroma},
};

/// Adds records for so long, which the file beside the store says in the end.
fn share(version: &str, dir: &Path, prefix: &str, seconds: &str) -> Child {
    let mut command = chroma::script(version);
    command.arg("share").arg(dir).args([prefix, seconds]).arg(ledger(dir, prefix));
    command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn ledger(dir: &Path, prefix: &str) -> PathBuf {
    dir.with_file_name(format!("{prefix}ledger"))
}

/// Whether it did everything that it says: before 1.0, a row of the queue is lost in the tables where two lock each other out.
fn is_done(out: &Output) -> bool {
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    !String::from_utf8_lossy(&out.stderr).contains("Exception occurred")
}

/// A store in which the index contradicts itself and lacks records.
fn of_two_writers(version: &str, scratch: &Path) -> Option<PathBuf> {
    let dir = scratch.join("store");
    assert!(is_done(&share(version, &dir, "first-", "0").wait_with_output().unwrap()));
    let writers = [share(version, &dir, "a-", "3"), share(version, &dir, "b-", "3")];
    let done = writers.map(|writer| is_done(&writer.wait_with_output().unwrap()));
    let codes = support::faults::check(&dir, "").codes;
    let wanted = ["segment_inconsistent", "records_without_vector"];
    let both = wanted.iter().all(|wanted| codes.iter().any(|code| code == wanted));
    (done == [true, true] && both).then_some(dir)
}

/// Proves with Chroma that all is as the report says.
fn mended(version: &str, dir: &Path, report: &serde_json::Value, ledgers: &[&str]) -> String {
    let mut python = chroma::script(version);
    python.arg("mended").arg(dir).args(ledgers.iter().map(|prefix| ledger(dir, prefix)));
    python.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = python.spawn().unwrap();
    child.stdin.take().unwrap().write_all(report.to_string().as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{version}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn no_record_has_the_vector_of_another(version: &str) {
    let made = (0..ATTEMPTS_MAX).find_map(|_| {
        let scratch = tempfile::tempdir().unwrap();
        of_two_writers(version, scratch.path()).map(|dir| (scratch, dir))
    });
    let (_scratch, dir) = made.unwrap_or_else(|| panic!("{version}: two writers left nothing"));
    let refused = recover(&dir, "--apply");
    assert_eq!(refused["report"]["outcome"], "not_accepted", "{version}: {refused:#}");
    let report = recover_with(&dir, &["--apply", "--accept-loss"])["report"].clone();
    assert_eq!(report["outcome"], "repaired", "{version}: {report:#}");
    let done = report["done"][0]["what"].as_str().unwrap();
    assert!(done.starts_with("two processes wrote to the index"), "{version}: {done}");
    let said = mended(version, &dir, &report, &["first-", "a-", "b-"]);
    println!("{version}: {done}: {said}");
    let nothing = serde_json::json!({ "lost_records": [] });
    mended(version, &dir, &nothing, &["first-"]);
    let codes = support::faults::check(&dir, "").codes;
    assert!(!codes.iter().any(|code| code.starts_with("segment_")), "{version}: {codes:?}");
}

#[test]
fn what_two_writers_left_in_an_index_of_1_5_is_told_apart() {
    no_record_has_the_vector_of_another("1.5.9");
}

#[test]
fn what_two_writers_left_in_an_index_of_0_6_is_told_apart() {
    no_record_has_the_vector_of_another("0.6.3");
}

const ATTEMPTS_MAX: u32 = 8;
