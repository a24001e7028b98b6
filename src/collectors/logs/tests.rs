//! Against real files that are rotated in every usual way, with `now` in the hand of the test.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use super::*;
use crate::{
    collectors::testing::{as_nobody, close},
    config::{Config, Store},
    host::Host,
};

/// A store with logs, and an exporter that can be restarted.
struct Lab {
    dir: tempfile::TempDir,
    config: Arc<Config>,
    patterns: Vec<String>,
    collector: Logs,
    now: i64,
}

impl Lab {
    /// Follows what fits these patterns below its directory.
    fn new(patterns: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config =
            Arc::new(Config { state_dir: Some(dir.path().join("state")), ..Config::default() });
        let patterns: Vec<String> =
            patterns.iter().map(|p| dir.path().join(p).to_str().unwrap().to_owned()).collect();
        let collector = collector(&config, &patterns);
        Self { dir, config, patterns, collector, now: 0 }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn append(&self, name: &str, text: &str) {
        let mut file = OpenOptions::new().create(true).append(true).open(self.path(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    /// As logrotate's `copytruncate` does it.
    fn copy_truncate(&self, from: &str, to: &str) {
        fs::copy(self.path(from), self.path(to)).unwrap();
        File::options().write(true).open(self.path(from)).unwrap().set_len(0).unwrap();
    }

    fn restart(&mut self) {
        let without = Arc::new(Config { state_dir: None, ..(*self.config).clone() });
        self.collector = collector(&without, &self.patterns);
        self.collector = collector(&self.config, &self.patterns);
    }

    fn observe(&mut self) -> Observation {
        self.now += 5;
        let now = Timestamp::from_secs(self.now);
        let stop = Arc::new(AtomicBool::new(false));
        self.collector.collect(&Run { now, wake: Wake::NONE, deep: false, stop })
    }

    /// The lines of a signature so far, after a run that went well.
    fn total(&mut self, signature: &str) -> u64 {
        let seen = self.observe();
        assert!(seen.problems.is_empty(), "{:?}", seen.problems);
        count(&seen, signature)
    }
}

fn count(seen: &Observation, signature: &str) -> u64 {
    let sample = seen.samples.iter().find(|s| s.desc == &LINES && s.values == [signature]);
    let value = sample.unwrap_or_else(|| panic!("no {signature}")).value;
    format!("{value}").parse().unwrap()
}

fn collector(config: &Arc<Config>, patterns: &[String]) -> Logs {
    let store = Arc::new(Store { logs: patterns.to_vec(), ..Store::new("main", "/srv/chroma") });
    Logs::new(&Context::new(config, &store, &Arc::new(Host::new(config))))
}

const LOCKED: &str = "ERROR: database is locked\n";
/// Longer than what a file is recognised by.
const BANNER: &str = "Saving data to: /srv/chroma, and more of the kind that every start writes\n";

fn banner() -> String {
    BANNER.repeat(40)
}

#[test]
fn every_signature_is_there_from_the_first_turn_and_old_lines_do_not_count() {
    let mut lab = Lab::new(&["chroma.log"]);
    lab.append("chroma.log", LOCKED);
    let seen = lab.observe();
    assert_eq!(seen.samples.iter().filter(|s| s.desc == &LINES).count(), Signature::ALL.len());
    assert!(seen.samples.iter().filter(|s| s.desc == &LINES).all(|s| s.value.abs() < 0.5));
    assert!(seen.findings.is_empty());
    lab.append("chroma.log", LOCKED);
    assert_eq!(lab.total("locked"), 1);
    assert_eq!(lab.total("locked"), 1);
    lab.restart();
    assert_eq!(lab.total("locked"), 1, "a restart of ours forgets nothing");
    lab.append("chroma.log", &LOCKED.repeat(3));
    assert_eq!(lab.total("locked"), 4);
    lab.restart();
    lab.append("chroma.log", LOCKED);
    assert_eq!(lab.total("locked"), 5, "written while we were away");
}

#[test]
fn a_store_without_logs_says_nothing() {
    let mut lab = Lab::new(&[]);
    let seen = lab.observe();
    assert!(seen.samples.is_empty() && seen.problems.is_empty());
    assert!(lab.collector.codes().is_empty());
}

#[test]
fn rotation_by_renaming_loses_and_repeats_nothing() {
    for patterns in [&["chroma.log"][..], &["chroma.log*"]] {
        let mut lab = Lab::new(patterns);
        lab.append("chroma.log", &banner());
        assert_eq!(lab.total("locked"), 0);
        lab.append("chroma.log", LOCKED);
        assert_eq!(lab.total("locked"), 1);
        lab.append("chroma.log", LOCKED);
        lab.rename("chroma.log", "chroma.log.1");
        lab.append("chroma.log.1", LOCKED); // the server has not opened the new one yet
        lab.append("chroma.log", &(banner() + LOCKED));
        assert_eq!(lab.total("locked"), 4, "{patterns:?}");
        lab.append("chroma.log.1", LOCKED);
        lab.append("chroma.log", LOCKED);
        assert_eq!(lab.total("locked"), 6, "{patterns:?}");
        lab.rename("chroma.log.1", "chroma.log.2");
        lab.rename("chroma.log", "chroma.log.1");
        lab.append("chroma.log", LOCKED);
        assert_eq!(lab.total("locked"), 7, "{patterns:?}");
        lab.restart();
        lab.append("chroma.log", LOCKED);
        lab.rename("chroma.log", "chroma.log.0");
        lab.append("chroma.log", LOCKED);
        assert_eq!(lab.total("locked"), 9, "{patterns:?}: rotated while we were away");
        assert_eq!(lab.total("locked"), 9, "{patterns:?}");
    }
}

#[test]
fn rotation_that_deletes_the_file_still_gives_its_last_lines() {
    let mut lab = Lab::new(&["chroma.log"]);
    lab.append("chroma.log", &banner());
    lab.observe();
    lab.append("chroma.log", LOCKED);
    fs::remove_file(lab.path("chroma.log")).unwrap();
    lab.append("chroma.log", LOCKED);
    assert_eq!(lab.total("locked"), 2);
    for _ in 0..3 {
        assert_eq!(lab.total("locked"), 2);
    }
    let files = lab.collector.memory.as_ref().unwrap().tail.count();
    assert_eq!(files, 1, "a deleted file is not kept open for ever");
}

#[test]
fn a_file_that_is_copied_and_emptied_is_not_counted_twice() {
    for patterns in [&["chroma.log"][..], &["chroma.log*"]] {
        let mut lab = Lab::new(patterns);
        lab.append("chroma.log", &banner());
        lab.observe();
        lab.append("chroma.log", LOCKED);
        assert_eq!(lab.total("locked"), 1);
        lab.append("chroma.log", LOCKED); // stands in the copy only, when we look
        lab.copy_truncate("chroma.log", "chroma.log.1");
        lab.append("chroma.log", LOCKED);
        assert_eq!(lab.total("locked"), 3, "{patterns:?}");
        assert_eq!(lab.total("locked"), 3, "{patterns:?}");

        // The run falls between the copy and the emptying.
        fs::copy(lab.path("chroma.log"), lab.path("chroma.log.2")).unwrap();
        assert_eq!(lab.total("locked"), 3, "{patterns:?}: the copy holds nothing new");
        lab.append("chroma.log", LOCKED);
        lab.copy_truncate("chroma.log", "chroma.log.2");
        lab.append("chroma.log", &(banner() + LOCKED + LOCKED));
        assert_eq!(lab.total("locked"), 6, "{patterns:?}");
        lab.restart();
        assert_eq!(lab.total("locked"), 6, "{patterns:?}");
    }
}

#[test]
fn a_file_that_was_emptied_and_grew_beyond_its_old_end_is_read_from_its_beginning() {
    let mut lab = Lab::new(&["chroma.log"]);
    lab.append("chroma.log", &banner());
    lab.observe();
    // The same beginning, as every start of the server writes it.
    fs::write(lab.path("chroma.log"), banner() + LOCKED + &BANNER.repeat(9)).unwrap();
    // What stands before the old position is the same: only the size could tell, and it grew as if by appending.
    assert_eq!(lab.total("locked"), 1);
    let text = LOCKED.to_owned() + &banner() + "another end\n";
    fs::write(lab.path("chroma.log"), text.repeat(2)).unwrap();
    assert_eq!(lab.total("locked"), 3);
}

#[test]
fn a_log_that_appears_later_is_read_from_its_first_byte() {
    let mut lab = Lab::new(&["*.log"]);
    lab.append("a.log", LOCKED);
    assert_eq!(lab.total("locked"), 0);
    lab.append("b.log", LOCKED);
    assert_eq!(lab.total("locked"), 1);
    fs::write(lab.path("c.log.gz"), LOCKED).unwrap();
    fs::create_dir(lab.path("d.log")).unwrap();
    assert_eq!(lab.total("locked"), 1);
    let more = lab.path("e.txt");
    lab.append("e.txt", LOCKED);
    lab.patterns.push(more.to_str().unwrap().to_owned());
    lab.restart();
    assert_eq!(lab.total("locked"), 1, "a pattern that is new in the configuration: from the end");
    lab.append("e.txt", LOCKED);
    assert_eq!(lab.total("locked"), 2);
}

#[test]
fn lines_without_an_end_and_lines_without_measure_count_once() {
    let mut lab = Lab::new(&["chroma.log"]);
    lab.append("chroma.log", "unfinished database is loc");
    lab.observe();
    lab.append("chroma.log", "ked database is locked\n");
    assert_eq!(lab.total("locked"), 0, "begun before the first look");
    lab.append("chroma.log", "ERROR: database is");
    assert_eq!(lab.total("locked"), 0);
    lab.append("chroma.log", " locked\n");
    assert_eq!(lab.total("locked"), 1, "a line that came in two parts");
    lab.append("chroma.log", LOCKED.trim_end());
    assert_eq!(lab.total("locked"), 1, "it may still be growing");
    assert_eq!(lab.total("locked"), 2, "the last words of a server that died");
    lab.append("chroma.log", " database is locked\n");
    assert_eq!(lab.total("locked"), 2, "the rest of that line");
    let long = "x".repeat(300_000);
    lab.append("chroma.log", &format!("{LOCKED}{long}{LOCKED}{LOCKED}"));
    assert_eq!(lab.total("locked"), 4, "the end of a line that is too long is not looked at");
    let zeros = String::from_utf8(vec![0; 200_000]).unwrap();
    lab.append("chroma.log", &zeros);
    assert_eq!(lab.total("locked"), 4);
    lab.append("chroma.log", &format!("\n{LOCKED}"));
    assert_eq!(lab.total("locked"), 5);
}

#[test]
fn one_turn_reads_a_bounded_part_and_the_rest_comes_later() {
    let mut lab = Lab::new(&["chroma.log"]);
    lab.append("chroma.log", "");
    lab.observe();
    let some = format!("INFO {}\n", "x".repeat(1000)).repeat(100) + LOCKED;
    let blocks = usize::try_from(tail::BYTES_MAX).unwrap() / some.len() * 2;
    lab.append("chroma.log", &some.repeat(blocks));
    let first = lab.observe();
    assert!(count(&first, "locked") < blocks as u64);
    let unread = first.samples.iter().find(|s| s.desc == &UNREAD).unwrap().value;
    assert!(unread > 1e6, "{unread}");
    let mut total = 0;
    for _ in 0..4 {
        total = lab.total("locked");
    }
    assert_eq!(total, blocks as u64);
}

#[test]
fn findings_hold_for_a_while_after_the_last_line_and_no_longer() {
    let mut lab = Lab::new(&["chroma.log"]);
    lab.append("chroma.log", "x\n");
    lab.observe();
    lab.append(
        "chroma.log",
        "thread 'main' panicked at src/x.rs:1:2:\ntoken=abc \u{1b}[31mbroken\u{1b}[0m\n",
    );
    lab.append("chroma.log", &LOCKED.repeat(2));
    lab.append("chroma.log", "No space left on device\n");
    let reported = |seen: &Observation| -> Vec<(Code, String)> {
        seen.findings.iter().map(|f| (f.code, f.subject.clone())).collect()
    };
    let seen = lab.observe();
    let error = |subject: &str| (Code::LogError, subject.to_owned());
    let panic = (Code::LogPanic, "panic".to_owned());
    assert_eq!(reported(&seen), [panic.clone(), error("disk_full"), error("locked")]);
    assert_eq!(
        seen.findings[0].evidence,
        "at 1970-01-01T00:00:10Z in chroma.log: thread 'main' panicked at src/x.rs:1:2: token=<redacted> broken"
    );
    assert!(
        seen.findings[2].evidence.starts_with("2 lines since 1970-01-01T00:00:10Z, the last at ")
    );
    lab.now += 14 * 60;
    lab.append("chroma.log", LOCKED);
    assert!(lab.observe().findings[2].evidence.starts_with("3 lines since 1970-01-01T00:00:10Z"));
    lab.now += 14 * 60;
    assert_eq!(reported(&lab.observe()), [panic.clone(), error("locked")]);
    lab.restart();
    lab.now += 60;
    assert_eq!(reported(&lab.observe()), [panic]);
    lab.now += 3600;
    assert_eq!(reported(&lab.observe()), []);
    lab.append("chroma.log", LOCKED);
    assert!(lab.observe().findings[0].evidence.starts_with("at 1970-01-01T"), "a new episode");
}

#[test]
fn a_rotated_log_that_may_not_be_read_is_a_problem() {
    for copied in [false, true] {
        let mut lab = Lab::new(&["chroma.log"]);
        close(lab.dir.path(), false);
        lab.append("chroma.log", &banner());
        assert_eq!(lab.total("locked"), 0);
        lab.append("chroma.log", LOCKED);
        if copied {
            lab.copy_truncate("chroma.log", "chroma.log.1");
        } else {
            // The descriptor is not kept over a restart, so that the file has to be opened again.
            lab.restart();
            lab.rename("chroma.log", "chroma.log.1");
        }
        for kept in fs::read_dir(lab.path("state")).unwrap() {
            close(&kept.unwrap().path(), false);
        }
        close(&lab.path("state"), false);
        lab.append("chroma.log", "x\n");
        close(&lab.path("chroma.log.1"), true);
        let lab = as_nobody(move || {
            let seen = lab.observe();
            let reported = seen
                .problems
                .iter()
                .map(crate::collectors::CollectError::chain)
                .collect::<Vec<_>>()
                .join("; ");
            let named = reported.contains("chroma.log.1") && reported.contains("ermission denied");
            assert!(named, "copied: {copied}: {reported}");
            lab
        });
        close(&lab.path("chroma.log.1"), false);
    }
}

#[test]
fn what_cannot_be_read_is_a_problem_and_no_verdict() {
    let mut lab = Lab::new(&["none.log"]);
    let seen = lab.observe();
    assert!(seen.problems[0].to_string().contains("no log file fits"), "{seen:?}");
    lab.append("none.log", LOCKED);
    assert_eq!(lab.total("locked"), 1, "it was not there before");

    let mut pipe = Lab::new(&["pipe"]);
    let status = std::process::Command::new("mkfifo").arg(pipe.path("pipe")).status().unwrap();
    assert!(status.success());
    let seen = pipe.observe();
    assert!(seen.problems[0].chain().contains("not a regular file"), "{seen:?}");

    let mut many = Lab::new(&["*.log"]);
    for n in 0..tail::FILES_MAX + 3 {
        many.append(&format!("{n:03}.log"), "x\n");
    }
    assert!(many.observe().problems[0].to_string().contains("more than 128 log files"));
    assert!(Path::new(&many.path("000.log")).exists());
}
