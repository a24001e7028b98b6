//! Backups of a real Chroma that writes without pause: several collections, additions, updates, deletions, dropped collections
//! and flushes all the time. Each one that is called proven is unpacked and opened by the same Chroma: it is the state after one
//! operation, with the document, the metadata and the vector of every record.
//!
//! `BACKUPS=500` takes so many of each release.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::support::{ROOMY_FILE, binary, chroma, tmpfs::Tmpfs};

fn count() -> usize {
    std::env::var("BACKUPS").ok().and_then(|count| count.parse().ok()).unwrap_or(4)
}

/// Killed with the test.
struct Writer(Child);

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn unpack(backup: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    if backup.is_dir() {
        crate::support::copy_tree(backup, to);
        return;
    }
    let packed = fs::File::open(backup).unwrap();
    let unpacked = zstd::stream::read::Decoder::new(packed).unwrap();
    tar::Archive::new(unpacked).unpack(to).unwrap();
}

#[test]
fn a_destination_that_fills_up_is_told_and_has_nothing_of_it_left() {
    let scratch = tempfile::tempdir().unwrap();
    let store = crate::support::fixture("chroma-1.5.9", scratch.path());
    for (number, (size, said)) in [
        // No room for another file in the middle of it, which nobody could know before.
        ("64m,nr_inodes=6", "is full"),
        ("64m,nr_inodes=3", "is full"),
        ("256k", "not enough room"),
    ]
    .iter()
    .enumerate()
    {
        let to = scratch.path().join(format!("small-{number}"));
        let _small = Tmpfs::mount(&to, size);
        for form in ["archive", "directory"] {
            let output = Command::new(binary())
                .args(["backup", "--form", form, "--config.file"])
                .args([Path::new(ROOMY_FILE), Path::new("--to"), &to, &store])
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert_eq!(output.status.code(), Some(2), "{size} {form}: {text}");
            assert!(text.contains(said), "{size} {form}: {text}");
            assert_eq!(fs::read_dir(&to).unwrap().count(), 0, "{size} {form}: something is left");
        }
    }
}

#[test]
fn every_backup_that_is_called_proven_is_the_state_after_one_operation() {
    for version in ["1.5.9", "0.6.3"] {
        let scratch = tempfile::tempdir().unwrap();
        let (store, to) = (scratch.path().join("chroma"), scratch.path().join("backups"));
        let ledger = scratch.path().join("ledger");
        fs::create_dir(&to).unwrap();
        let mut churn = chroma::script(version);
        churn.arg("churn").arg(&store).arg(&ledger).arg("100000");
        let mut writer = Writer(churn.stdout(Stdio::null()).spawn().expect("python starts"));
        crate::support::wait_for("some operations", 4 * crate::support::SOON, || {
            assert!(writer.0.try_wait().unwrap().is_none(), "the writer ended");
            fs::read_to_string(&ledger).is_ok_and(|text| text.lines().count() > 60).then_some(())
        });
        let (mut proven, mut tries, mut said) = (0, 0, Vec::new());
        for number in 0..count() {
            let form = if number % 3 == 2 { "directory" } else { "archive" };
            let before = fs::read_to_string(&ledger).unwrap().lines().count();
            let output = Command::new(binary())
                .args(["backup", "--output", "json", "--form", form, "--config.file"])
                .args([Path::new(ROOMY_FILE), Path::new("--to"), &to, &store])
                .output()
                .unwrap();
            assert!(writer.0.try_wait().unwrap().is_none(), "the writer ended");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let reported: serde_json::Value = serde_json::from_str(&text).expect(&text);
            let reported = &reported["backups"][0];
            if output.status.code() != Some(0) {
                println!("{version} {number}: {text}");
                said.push(reported["error"].as_str().unwrap_or("not proven").to_owned());
                continue;
            }
            tries += reported["tries"].as_u64().unwrap();
            let backup = PathBuf::from(reported["backup"].as_str().unwrap());
            let copy = scratch.path().join("copy");
            unpack(&backup, &copy);
            let mut restored = chroma::script(version);
            let answer = restored.arg("restored").arg(&copy).arg(&ledger).output().unwrap();
            let err = String::from_utf8_lossy(&answer.stderr);
            assert!(answer.status.success(), "{version} {number} {}: {err}", backup.display());
            let answer: serde_json::Value = serde_json::from_slice(&answer.stdout).unwrap();
            let operation = answer["operation"].as_u64().unwrap();
            // The operation that was written down last may not have begun.
            assert!(
                operation + 1 >= before as u64,
                "{version} {number}: {operation} is before {before}"
            );
            assert!(
                answer["records"].as_u64() > Some(0) && reported["records"].as_u64() > Some(0),
                "{answer} {reported}"
            );
            fs::remove_dir_all(&copy).unwrap();
            proven += 1;
        }
        println!(
            "{version}: {proven} of {} proven, {tries} copies of the database, {said:?}",
            count()
        );
        assert!(proven * 2 > count(), "{version}: only {proven} were proven: {said:?}");
        let left: Vec<_> =
            fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), proven.min(3), "{left:?}");
    }
}
