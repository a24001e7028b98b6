//! What was given up is never called ok: on a filesystem that gives no locks, and for what `--quick` leaves out. The kernel's
//! answer to the lock is exchanged by `strace`, so that the program is the one that is built.

use crate::support::{binary, copy_tree, fixture, now, run};
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

/// As if it had not been written for long.
fn rest(dir: &Path) {
    let long_ago = std::time::UNIX_EPOCH + Duration::from_hours(400_000);
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_file() {
            fs::File::open(entry).unwrap().set_modified(long_ago).unwrap();
        }
    }
}

fn document(stdout: &[u8]) -> serde_json::Value {
    let text = String::from_utf8_lossy(stdout);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn a_filesystem_without_locks_is_told_at_once_and_nothing_of_it_is_ok() {
    for errno in ["ENOLCK", "EINVAL"] {
        let scratch = tempfile::tempdir().unwrap();
        let dir = fixture("chroma-1.5.9", scratch.path());
        rest(&dir);
        let names = || {
            let mut names: Vec<_> =
                fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        };
        let before = names();
        let database = dir.join("chroma.sqlite3");
        let began = now();
        let out = Command::new("strace")
            .args(["--follow-forks", "--quiet=all", "--output=/dev/null", "--trace=fcntl"])
            .arg(format!("--trace-path={}", database.display()))
            .arg(format!("--inject=fcntl:error={errno}"))
            .arg(binary())
            .args([
                "check",
                "--output",
                "json",
                "--no-collector.disk",
                "--state.dir",
                "",
                "--store.path",
            ])
            .arg(&dir)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        // It took three minutes when such an answer was taken for a writer.
        assert!(began.elapsed() < Duration::from_mins(2), "{errno}: {:?}", began.elapsed());
        let document = document(&out.stdout);
        let store = &document["stores"][0];
        assert_eq!(out.status.code(), Some(3), "{errno}: {store:#}");
        assert_eq!(store["status"], "unknown");
        for collector in ["contents", "hnsw"] {
            let reported = store["problems"].as_array().unwrap().iter().any(|problem| {
                problem["collector"] == collector
                    && problem["problem"].as_str().unwrap().contains("gives no locks")
            });
            assert!(reported, "{errno}, {collector}: {store:#}");
        }
        // Nobody holds the file: a copy answers for the database itself.
        for check in ["schema", "quick", "full"] {
            let state = store["integrity"][check].as_str().unwrap();
            let reason = store["integrity_reasons"][check].as_str().unwrap_or_default();
            assert!(
                state == "ok" || state == "unknown" && reason.contains("gives no locks"),
                "{errno}, {check}: {store:#}"
            );
        }
        assert_eq!(names(), before, "a file was made in the directory");
    }
}

#[test]
fn a_quick_check_finds_damage_and_names_what_it_left_out() {
    let scratch = tempfile::tempdir().unwrap();
    let whole = fixture("chroma-1.5.9", scratch.path());
    let torn = scratch.path().join("torn");
    copy_tree(&whole, &torn);
    let database = fs::File::options().write(true).open(torn.join("chroma.sqlite3")).unwrap();
    let pages = database.metadata().unwrap().len() / 4096;
    // A leaf of records and its neighbours, which no header tells of.
    std::os::unix::fs::FileExt::write_all_at(&database, &[0xa5; 8192], (pages - 20) * 4096)
        .unwrap();
    for (dir, want) in [(&whole, "ok"), (&torn, "critical")] {
        let words = ["check", "--quick", "--output", "json", "--state.dir", "", "--store.path"];
        let out = run(&[&words[..], &[dir.to_str().unwrap()]].concat());
        let document = document(&out.stdout);
        let store = &document["stores"][0];
        let of_store: Vec<_> = store["findings"].as_array().unwrap().iter().collect();
        let corrupt = of_store.iter().any(|f| f["code"].as_str().unwrap().starts_with("sqlite_"));
        assert_eq!(corrupt, want == "critical", "{store:#}");
        let quick = &store["integrity"]["quick"];
        assert_eq!(*quick == "ok", want == "ok", "{store:#}");
        assert!(store["integrity"]["full"].is_null(), "it was not read: {store:#}");
        let left_out = store["left_out"].as_array().unwrap();
        assert!(left_out.iter().any(|what| what == "the full check"), "{store:#}");
    }
}
