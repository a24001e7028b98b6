//! Backups that a running exporter makes and opens by itself.

use std::{fs, path::Path, process::Command};

use crate::support::{Exporter, ROOMY, SOON, fixture, get, wait_until};

fn config(dir: &Path, store: &Path, more: &str) -> [String; 4] {
    let file = dir.join("config.yml");
    let path = store.display();
    let text = format!(
        "stores:\n  - {{name: main, path: {path}, {more}}}\ncollect: {{backups_interval: 1s}}\n{ROOMY}"
    );
    fs::write(&file, text).unwrap();
    let state = dir.join("state").display().to_string();
    ["--config.file".to_owned(), file.display().to_string(), "--state.dir".to_owned(), state]
}

const MAIN: [(&str, &str); 1] = [("store", "main")];

#[test]
fn a_backup_is_made_proven_and_told_with_nobody_asking_for_it() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = fixture("chroma-1.5.9", scratch.path());
    let to = scratch.path().join("backups");
    fs::create_dir(&to).unwrap();
    let after = scratch.path().join("after");
    let job = format!(
        "backup: {{to: {}, every: 1h, after: [cp, '{{manifest}}', {}]}}",
        to.display(),
        after.display()
    );
    let exporter = Exporter::start(&config(scratch.path(), &dir, &job));
    let page = exporter.wait_page("a proven backup", SOON, |page| {
        page.get("chroma_backups_proven", &MAIN) == Some(1.0)
            && page.get("chroma_backup_job_success", &MAIN) == Some(1.0)
    });
    assert_eq!(page.get("chroma_backup_job_after_exit_code", &MAIN), Some(0.0));
    let records = page.get("chroma_records", &MAIN);
    assert_eq!(page.get("chroma_backup_proven_records", &MAIN), records);
    let names: Vec<_> =
        fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let [name] = &names[..] else { panic!("{names:?}") };
    let name = name.to_string_lossy();
    assert!(name.starts_with("chroma-1.5.9.backup.") && name.ends_with(".tar.zst"), "{name}");
    let manifest = fs::read_to_string(&after).unwrap();
    assert!(manifest.contains("\"restores\": \"whole\""), "{manifest}");
    wait_until("the page tells it", SOON, || {
        get(exporter.address, "/").body.contains("newest proven: ")
    });
    assert!(exporter.stop().success());
}

#[test]
fn a_backup_that_cannot_be_made_is_a_finding_with_the_reason() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = fixture("chroma-1.5.9", scratch.path());
    let to = scratch.path().join("not-mounted");
    let job = format!("backup: {{to: {}, every: 1h}}", to.display());
    let exporter = Exporter::start(&config(scratch.path(), &dir, &job));
    let failed = [MAIN[0], ("code", "backup_failed")];
    exporter
        .wait_page("the failure", SOON, |page| page.get("chroma_finding", &failed) == Some(1.0));
    wait_until("the page says why", SOON, || {
        get(exporter.address, "/").body.contains("not-mounted")
    });
    assert!(!to.exists(), "a destination is never made: its disk may be missing");
    assert!(exporter.stop().success());
}

#[test]
fn the_newest_backup_of_whoever_is_opened_and_judged() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = fixture("chroma-1.5.9", scratch.path());
    let to = scratch.path().join("backups");
    fs::create_dir(&to).unwrap();
    let packed = to.join("chroma.tar.gz");
    let mut tar = Command::new("tar");
    tar.arg("-czf").arg(&packed).arg("-C").arg(scratch.path()).arg("chroma-1.5.9");
    assert!(tar.status().unwrap().success());
    let backups = format!("backups: {{patterns: [{}/*], settle: 1s}}", to.display());
    let exporter = Exporter::start(&config(scratch.path(), &dir, &backups));
    let page = exporter
        .wait_page("a proof", SOON, |page| page.get("chroma_backups_proven", &MAIN) == Some(1.0));
    assert!(page.has("chroma_backup_last_proof_timestamp_seconds", &MAIN, |at| at > 0.0));
    assert_eq!(page.get("chroma_backup_proven_records", &MAIN), page.get("chroma_records", &MAIN));
    let left: Vec<_> = fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["chroma.tar.gz"], "nothing of the unpacked copy is left");
    assert!(exporter.stop().success());
}
