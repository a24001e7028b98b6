use std::{
    fs,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use super::*;
use crate::{
    collectors::testing::patient,
    config::{Collect, Config, Store},
    host::Host,
};

/// A store with a database of real Chroma, and where its exporter keeps its state.
struct Scene {
    scratch: tempfile::TempDir,
    now: Timestamp,
}

impl Scene {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        fs::create_dir(scratch.path().join("store")).unwrap();
        fs::copy(
            fixtures.join("chroma-1.5.9-empty/chroma.sqlite3"),
            scratch.path().join("store/chroma.sqlite3"),
        )
        .unwrap();
        Self { scratch, now: Timestamp::from_secs(1_795_000_000) }
    }

    /// The collector of a program that has just started. The one before must be gone: it holds the state directory.
    fn start(&self) -> Integrity {
        self.start_with(patient())
    }

    fn start_with(&self, collect: Collect) -> Integrity {
        let state_dir = Some(self.scratch.path().join("state"));
        self.start_as(Config { collect, state_dir, ..Config::default() })
    }

    /// The same, with copies in the directory `copies`, which need not be there.
    fn start_with_copies(&self, copies: &str) -> Integrity {
        let mut config = Config {
            collect: patient(),
            state_dir: Some(self.scratch.path().join("state")),
            ..Config::default()
        };
        config.integrity.scratch_dir = Some(self.scratch.path().join(copies));
        // However full the disk of the tests is.
        (config.disk.warn_ratio, config.disk.critical_ratio) = (1.0, 1.0);
        self.start_as(config)
    }

    fn start_as(&self, config: Config) -> Integrity {
        let config = Arc::new(config);
        let dir = self.scratch.path().join("store");
        let store = Arc::new(Store::new("main", dir));
        Integrity::new(&Context::new(&config, &store, &Arc::new(Host::new(&config))))
    }

    /// A run at `now`; what it began has ended when this returns. Gives which checks ran in it.
    fn run(&self, collector: &mut Integrity, deep: bool) -> Vec<&'static str> {
        let runs = |collector: &Integrity| {
            let last = |check| collector.memory.as_ref()?.past(check)?.last_run;
            Check::ALL.map(last)
        };
        let run =
            Run { now: self.now, wake: Wake::NONE, deep, stop: Arc::new(AtomicBool::new(false)) };
        collector.recall();
        let before = runs(collector);
        drop(collector.collect(&run));
        collector.reap(|_| true);
        let after = runs(collector);
        let ran = Check::ALL.iter().zip(before.iter().zip(&after));
        ran.filter(|(_, (before, after))| before != after && after.is_some())
            .map(|(check, _)| check.as_str())
            .collect()
    }
}

fn states(collector: &mut Integrity, now: Timestamp) -> Vec<(&'static str, CheckState)> {
    let (wake, stop) = (Wake::NONE, Arc::new(AtomicBool::new(false)));
    collector.collect(&Run { now, wake, deep: false, stop }).checks
}

#[test]
fn a_restart_starts_no_storm_and_forgets_nothing() {
    let mut scene = Scene::new();
    let mut collector = scene.start();
    assert_eq!(scene.run(&mut collector, false), ["schema", "quick", "full", "decay"]);
    let before = states(&mut collector, scene.now);
    assert!(before.iter().all(|(_, state)| *state == CheckState::Ok), "{before:?}");
    drop(collector);

    for hours in [0, 0, 2] {
        scene.now = scene.now.plus(Duration::from_hours(hours));
        let mut collector = scene.start();
        let want = if hours == 0 { &[][..] } else { &["schema", "quick", "decay"] };
        assert_eq!(scene.run(&mut collector, false), want, "after {hours} h");
        assert_eq!(states(&mut collector, scene.now), before);
    }
}

#[test]
fn damage_that_was_proved_is_known_after_a_restart_even_of_a_file_that_is_gone() {
    let scene = Scene::new();
    let database = scene.scratch.path().join("store/chroma.sqlite3");
    let sqlite = rusqlite::Connection::open(&database).unwrap();
    sqlite
        .execute_batch("PRAGMA writable_schema=ON; DELETE FROM sqlite_schema WHERE name='tenants';")
        .unwrap();
    drop(sqlite);
    let mut collector = scene.start();
    assert_eq!(scene.run(&mut collector, true), ["schema", "quick", "full", "decay"]);
    let schema = |collector: &mut Integrity| {
        let seen = states(collector, scene.now);
        seen.into_iter().find(|(check, _)| *check == "schema").unwrap().1
    };
    assert_eq!(schema(&mut collector), CheckState::Corrupt);
    drop(collector);

    fs::rename(&database, scene.scratch.path().join("elsewhere")).unwrap();
    let mut collector = scene.start();
    assert_eq!(scene.run(&mut collector, false), [""; 0], "there is nothing to check");
    assert_eq!(schema(&mut collector), CheckState::Corrupt);
    // The memory knows that there was a database: its absence is damage, not a fresh store.
    let codes: Vec<_> = collector.findings().iter().map(|finding| finding.code).collect();
    assert!(codes.contains(&Code::SqliteMissing), "{codes:?}");
}

#[test]
fn clocks_that_jump_bring_checks_forward_once() {
    let mut scene = Scene::new();
    let mut collector = scene.start();
    scene.run(&mut collector, false);
    let all = ["schema", "quick", "full", "decay"];
    let start = scene.now;
    for (moment, want) in [
        (start.minus(Duration::from_secs(5)), &[][..]), // disciplined
        (start.minus(Duration::from_hours(24 * 365)), &all),
        (start.minus(Duration::from_hours(24 * 365)), &[]),
        (start.plus(Duration::from_hours(24 * 3650)), &all),
        (start.plus(Duration::from_hours(24 * 3650)), &[]),
        (start, &all),
        (start, &[]),
    ] {
        scene.now = moment;
        assert_eq!(scene.run(&mut collector, false), want, "{moment}");
    }
}

#[test]
fn a_deep_turn_that_waits_for_its_turn_ends_when_told() {
    let mut seen = Vec::new();
    for millis in [300, 3_000, 30_000] {
        let scene = Scene::new();
        let mut collector = scene.start();
        let host = Arc::clone(&collector.context.host);
        let go = AtomicBool::new(false);
        let others_permit =
            host.job_queue.take(job::device(&collector.context), &"other".into(), &go).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let run = Run { now: scene.now, wake: Wake::NONE, deep: true, stop: Arc::clone(&stop) };
        seen = std::thread::scope(|scope| {
            let work = scope.spawn(|| collector.collect(&run).checks);
            std::thread::sleep(Duration::from_millis(millis));
            assert!(!work.is_finished(), "a deep turn is patient");
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            // It is another's turn until here: to end at all is to heed the word.
            work.join().unwrap()
        });
        drop(others_permit);
        let state = |check| seen.iter().find(|(name, _)| *name == check).unwrap().1;
        assert_eq!(state("quick"), CheckState::Unknown);
        // What waits for nobody has ended, unless the machine stood still just then.
        if state("schema") == CheckState::Ok {
            return;
        }
    }
    panic!("the schema is not looked at: {seen:?}");
}

/// The checks that are told to be overdue. What reads no whole file is run all the while.
fn overdue(collector: &mut Integrity, now: Timestamp) -> Vec<String> {
    let mut findings = || {
        let (wake, stop) = (Wake::NONE, Arc::new(AtomicBool::new(false)));
        let seen = collector.collect(&Run { now, wake, deep: false, stop });
        collector.reap(|job| !job.is_expensive());
        seen.findings.into_iter().filter(|finding| finding.code == Code::CheckOverdue)
    };
    drop(findings());
    findings().map(|finding| finding.subject).collect()
}

#[test]
fn a_check_that_lasts_long_is_not_overdue_while_it_is_under_way() {
    let mut scene = Scene::new();
    let collect = || Collect {
        quick_check_interval: Duration::from_secs(30),
        full_check_interval: Duration::from_mins(1),
        ..patient()
    };
    let mut collector = scene.start_with(collect());
    scene.run(&mut collector, false);
    let host = Arc::clone(&collector.context.host);
    let device = job::device(&collector.context);
    let go = AtomicBool::new(false);
    // Others work on this disk: a job that was started lasts.
    let others_permit = host.job_queue.take(device, &"other".into(), &go).unwrap();
    for (seconds, want) in [
        (46, &[][..]), // due, and started
        (61, &[]),     // twice the interval
        (100, &[]),
        (3600, &[]),
        (3700, &["quick", "full", "decay"]), // twice as long as a check may last
    ] {
        let now = scene.now.plus(Duration::from_secs(seconds));
        assert_eq!(overdue(&mut collector, now), want, "{seconds} s");
    }
    drop(others_permit);
    collector.reap(|_| true);
    scene.now = scene.now.plus(Duration::from_secs(3800));
    scene.run(&mut collector, false);
    assert_eq!(overdue(&mut collector, scene.now), [""; 0]);
    drop((collector, host));

    // After a week's pause all of them are overdue, and run first, however long that takes.
    scene.now = scene.now.plus(Duration::from_hours(200));
    let mut collector = scene.start();
    let host = Arc::clone(&collector.context.host);
    let others_permit = host.job_queue.take(device, &"other".into(), &go).unwrap();
    for minutes in [0, 1, 11, 50] {
        let now = scene.now.plus(Duration::from_mins(minutes));
        assert_eq!(overdue(&mut collector, now), [""; 0], "{minutes} min");
    }
    // One that was given up since is told, and the next try does not take that back.
    let quick = collector.memory.as_mut().unwrap().past_mut(Check::Quick);
    (quick.state, quick.last_run) =
        (CheckState::Busy, Some(scene.now.plus(Duration::from_mins(51))));
    let now = scene.now.plus(Duration::from_mins(52));
    assert_eq!(overdue(&mut collector, now), ["quick"]);
    drop(others_permit);
}

#[test]
fn a_check_without_a_verdict_for_long_is_told_once_it_had_its_chance() {
    let mut scene = Scene::new();
    let mut collector = scene.start();
    scene.run(&mut collector, false);
    // Checks that take turns cannot be run any more.
    let host = Arc::clone(&collector.context.host);
    let go = AtomicBool::new(false);
    let others_permit =
        host.job_queue.take(job::device(&collector.context), &"other".into(), &go).unwrap();
    let start = scene.now;
    for (minutes, want) in [
        (0, &[][..]),
        (119, &[]),
        (121, &[]), // overdue, and not yet for long enough
        (132, &[]), // under way
        (180, &["quick", "decay"]),
        (47 * 60, &["quick", "decay"]),
        (49 * 60, &["quick", "decay"]),
        (49 * 60 + 11, &["quick", "full", "decay"]),
    ] {
        let now = start.plus(Duration::from_mins(minutes));
        assert_eq!(overdue(&mut collector, now), want, "{minutes} min");
    }
    drop(others_permit);
    collector.reap(|_| true);
    scene.now = start.plus(Duration::from_hours(51));
    assert_eq!(scene.run(&mut collector, false), ["schema", "quick", "full", "decay"]);
    assert_eq!(overdue(&mut collector, scene.now), [""; 0]);

    // A program that comes back after a week runs its checks first.
    drop(collector);
    drop(host);
    scene.now = scene.now.plus(Duration::from_hours(200));
    let mut collector = scene.start();
    assert_eq!(overdue(&mut collector, scene.now), [""; 0]);
    collector.reap(|_| true);
    assert_eq!(overdue(&mut collector, scene.now.plus(Duration::from_hours(1))), [""; 0]);
}

#[test]
fn a_writer_that_is_killed_in_its_transaction_is_seen_although_no_byte_changes() {
    use nix::{
        fcntl::{FcntlArg, fcntl},
        libc,
    };
    let scene = Scene::new();
    let store = scene.scratch.path().join("store");
    let fixture =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chroma-1.5.9-hot-journal");
    for name in ["chroma.sqlite3", "chroma.sqlite3-journal"] {
        fs::copy(fixture.join(name), store.join(name)).unwrap();
    }
    let mut collector = scene.start();
    let mut codes = || {
        let run = Run { now: scene.now, wake: Wake::NONE, deep: false, stop: Arc::default() };
        let findings = collector.collect(&run).findings;
        findings.iter().map(|finding| finding.code).collect::<Vec<_>>()
    };

    // As a writer in a transaction holds it (RESERVED), for F_GETLK another one: the lock belongs to a file description.
    let writer =
        fs::OpenOptions::new().read(true).write(true).open(store.join("chroma.sqlite3")).unwrap();
    let lock = libc::flock {
        l_type: libc::F_WRLCK.try_into().unwrap(),
        l_whence: libc::SEEK_SET.try_into().unwrap(),
        l_start: 0x4000_0001,
        l_len: 1,
        l_pid: 0,
    };
    fcntl(&writer, FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    assert!(!codes().contains(&Code::HotJournal));
    drop(writer);
    assert!(codes().contains(&Code::HotJournal));
}

/// The series `name` after a run in which nothing runs.
fn value(collector: &mut Integrity, now: Timestamp, name: &str) -> Option<f64> {
    let run = Run { now, wake: Wake::NONE, deep: false, stop: Arc::default() };
    let samples = collector.collect(&run).samples;
    samples.iter().find(|sample| sample.desc.name == name).map(|sample| sample.value)
}

/// Comparisons that were made, that disagreed, that could not be made.
fn comparisons(collector: &mut Integrity, now: Timestamp) -> String {
    let name = |name| format!("chroma_integrity_checker_{name}");
    ["comparisons_total", "disagreements_total", "comparisons_not_made_total"]
        .map(|short| value(collector, now, &name(short)).unwrap().to_string())
        .join(" ")
}

fn full(collector: &Integrity) -> &memory::Past {
    collector.past(Check::Full).unwrap()
}

const COMPARED_AT: &str = "chroma_integrity_checker_compared_timestamp_seconds";

#[test]
fn the_twentieth_full_check_asks_sqlite_too_on_a_copy_whatever_restarts_come_between() {
    let mut scene = Scene::new();
    fs::create_dir(scene.scratch.path().join("copies")).unwrap();
    let mut ways = Vec::new();
    for _ in 0..3 {
        let mut collector = scene.start_with_copies("copies");
        for _ in 0..7 {
            scene.now = scene.now.plus(Duration::from_hours(72));
            assert!(scene.run(&mut collector, false).contains(&"full"));
            assert_eq!(full(&collector).state, CheckState::Ok);
            ways.push(full(&collector).way.clone().unwrap());
            let made = if ways.len() < 20 { "0 0 0" } else { "1 0 0" };
            assert_eq!(comparisons(&mut collector, scene.now), made);
            let at = value(&mut collector, scene.now, COMPARED_AT);
            assert_eq!(at.is_some(), ways.len() >= 20, "{at:?}");
        }
    }
    // Nobody holds the file, so all others run in it.
    let want: Vec<&str> = (1..=21).map(|n| if n == 20 { "copy" } else { "file" }).collect();
    assert_eq!(ways, want);
}

#[test]
fn damage_that_only_sqlite_sees_is_told_counted_and_kept_until_sqlite_says_ok() {
    let mut scene = Scene::new();
    fs::create_dir(scene.scratch.path().join("copies")).unwrap();
    let database = scene.scratch.path().join("store/chroma.sqlite3");
    let sql =
        |sql: &str| rusqlite::Connection::open(&database).unwrap().execute_batch(sql).unwrap();
    let declare = |columns: &str| {
        format!(
            "PRAGMA writable_schema=ON;
             UPDATE sqlite_schema SET sql='CREATE TABLE other({columns})' WHERE name='other';"
        )
    };
    sql("CREATE TABLE other(x); INSERT INTO other VALUES(NULL)");
    sql(&declare("x NOT NULL"));
    checks::blindness::IN.lock().unwrap().push(database.clone());
    let reported = |collector: &Integrity| {
        let findings = collector.findings();
        let found = findings.iter().find(|finding| finding.code == Code::SqliteCorrupt);
        found.map(|finding| finding.evidence.clone())
    };
    let run = |scene: &mut Scene, collector: &mut Integrity| {
        scene.now = scene.now.plus(Duration::from_hours(72));
        assert!(scene.run(collector, false).contains(&"full"));
        scene.now
    };

    let mut collector = scene.start_with_copies("copies");
    run(&mut scene, &mut collector);
    assert_eq!((full(&collector).state, reported(&collector)), (CheckState::Ok, None));

    collector.context.paranoid = true;
    let now = run(&mut scene, &mut collector);
    assert_eq!(full(&collector).state, CheckState::Corrupt);
    let evidence = reported(&collector).unwrap();
    assert!(evidence.contains("NULL value in other.x"), "{evidence}");
    assert!(evidence.contains("only SQLite's own integrity_check sees this"), "{evidence}");
    assert_eq!(comparisons(&mut collector, now), "1 1 0");
    drop(collector);

    // Every check asks again; ours alone would take it back.
    let mut collector = scene.start_with_copies("copies");
    let now = run(&mut scene, &mut collector);
    assert!(reported(&collector).is_some());
    assert_eq!(comparisons(&mut collector, now), "2 2 0");
    drop(collector);
    let mut collector = scene.start_with_copies("no such directory");
    let now = run(&mut scene, &mut collector);
    assert!(reported(&collector).is_some(), "no answer heals nothing");
    assert_eq!(comparisons(&mut collector, now), "2 2 1");
    drop(collector);

    sql(&declare("x"));
    let mut collector = scene.start_with_copies("copies");
    let now = run(&mut scene, &mut collector);
    assert_eq!((full(&collector).state, reported(&collector)), (CheckState::Ok, None));
    assert_eq!(comparisons(&mut collector, now), "3 2 1");
    run(&mut scene, &mut collector);
    assert_eq!(full(&collector).way.as_deref(), Some("file"), "the next one stands alone");
}

#[test]
fn nothing_is_compared_without_a_copy_and_that_is_no_disagreement() {
    let mut scene = Scene::new();
    let mut collector = scene.start_with_copies("no such directory");
    for _ in 0..20 {
        scene.now = scene.now.plus(Duration::from_hours(72));
        assert!(scene.run(&mut collector, false).contains(&"full"));
        // It runs in the file as always, and SQLite's pragma is not among what it does there.
        assert_eq!(full(&collector).state, CheckState::Ok);
        assert_eq!(full(&collector).way.as_deref(), Some("file"));
    }
    assert_eq!(comparisons(&mut collector, scene.now), "0 0 1");
    assert_eq!(value(&mut collector, scene.now, COMPARED_AT), None);

    // Who asks for it is not told ok.
    collector.context.paranoid = true;
    let run = Run { now: scene.now, wake: Wake::NONE, deep: true, stop: Arc::default() };
    let seen = collector.collect(&run);
    let state = |name| seen.checks.iter().find(|(check, _)| *check == name).unwrap().1;
    assert_eq!((state("quick"), state("full")), (CheckState::Ok, CheckState::Unknown));
    let why = &seen.reasons.iter().find(|(check, _)| *check == "full").unwrap().1;
    assert!(why.contains("no place for a copy"), "{why}");
    let line = seen.compared.unwrap();
    assert!(line.starts_with("SQLite's own integrity_check gave no answer: no place"), "{line}");
    assert!(seen.findings.is_empty(), "{:?}", seen.findings);
}
