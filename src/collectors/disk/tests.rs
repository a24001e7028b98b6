#![allow(clippy::float_cmp, reason = "whole numbers, exact in a double")]

use std::{fs, os::unix::fs::symlink, path::PathBuf, process::Command, sync::atomic::AtomicBool};

use super::*;
use crate::{
    config::{Config, Store},
    host::Host,
    wait::{SOON, wait, wait_until},
};

fn context_with(path: &Path, change: impl FnOnce(&mut Config)) -> Context {
    let mut config = Config::default();
    change(&mut config);
    let store = Arc::new(Store::new("test", path));
    let host = Arc::new(Host::new(&config));
    Context::new(&Arc::new(config), &store, &host)
}

fn context(path: &Path) -> Context {
    context_with(path, |_| {})
}

fn run(deep: bool) -> Run {
    Run { now: clock::now(), wake: Wake::NONE, deep, stop: Arc::new(AtomicBool::new(false)) }
}

/// One deep run of a new collector.
fn observe(path: &Path) -> Observation {
    Disk::new(&context(path)).collect(&run(true))
}

fn value(seen: &Observation, desc: &'static Desc, labels: &[&str]) -> Option<f64> {
    seen.samples.iter().find(|s| s.desc == desc && s.values == labels).map(|s| s.value)
}

fn bytes_of(seen: &Observation, desc: &'static Desc) -> Vec<(String, u64)> {
    let of = seen.samples.iter().filter(|s| s.desc == desc);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    of.map(|s| (s.values[0].to_string(), s.value as u64)).collect()
}

fn fixture(name: &str, to: &Path) -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let dir = to.join("store");
    assert!(Command::new("cp").arg("-r").args([&from, &dir]).status().unwrap().success());
    dir
}

fn output(program: &str, args: &[&str], path: &Path) -> String {
    let said = Command::new(program).args(args).arg(path).output().unwrap();
    assert!(said.status.success(), "{program}");
    String::from_utf8(said.stdout).unwrap()
}

#[test]
fn room_is_what_df_says() {
    for path in ["/", "/dev/shm"] {
        let path = Path::new(path);
        let ours = || {
            let space = context(path).device.ask(Duration::from_secs(30)).unwrap();
            let facts = Facts {
                now: clock::now(),
                space,
                low_water_bytes: space.avail_bytes,
                full_at: None,
                readonly: None,
                database_bytes: None,
            };
            let seen =
                Observation { samples: space_samples(&facts, None), ..Observation::default() };
            let get = |desc| value(&seen, desc, &[]).unwrap();
            let percent = (get(&USED_RATIO) * 100.0).ceil();
            let used = get(&SIZE_BYTES) - get(&FREE_BYTES);
            [get(&SIZE_BYTES), used, get(&AVAIL_BYTES), get(&INODES), get(&INODES_FREE), percent]
        };
        // Others write to these disks meanwhile: what `df` says lies between what we say before and after, and is the same in
        // a quiet moment.
        let agreed = (0..200).any(|_| {
            let before = ours();
            let args = ["-B1", "--output=size,used,avail,itotal,iavail,pcent"];
            let df = output("df", &args, path);
            let df = df.lines().nth(1).unwrap().split_whitespace();
            let df: Vec<f64> = df.map(|word| word.trim_end_matches('%').parse().unwrap()).collect();
            let after = ours();
            assert_eq!(df.len(), before.len());
            let mut each = df.iter().zip(before.iter().zip(&after));
            each.all(|(df, (one, two))| (one.min(*two)..=one.max(*two)).contains(df))
        });
        assert!(agreed, "{}", path.display());
    }
}

#[test]
fn bytes_are_what_du_says() {
    let dir = tempfile::tempdir().unwrap();
    let store = fixture("chroma-1.5.9", dir.path());
    fs::write(store.join("chroma.sqlite3-journal"), [0; 5000]).unwrap();
    fs::create_dir_all(store.join("foreign/deep/deeper")).unwrap();
    fs::write(store.join("foreign/deep/deeper/file"), [1; 12345]).unwrap();
    // A file with holes, one with two names, and links that lead out and round.
    fs::File::create(store.join("holes")).unwrap().set_len(1 << 40).unwrap();
    fs::hard_link(store.join("chroma.sqlite3"), store.join("second-name")).unwrap();
    symlink("/", store.join("root")).unwrap();
    symlink(".", store.join("foreign/round")).unwrap();

    let seen = observe(&store);
    assert!(seen.problems.is_empty(), "{:?}", seen.problems);
    let sum = |desc| bytes_of(&seen, desc).iter().map(|(_, bytes)| bytes).sum::<u64>();
    let du = output("du", &["-s", "-x", "-B1"], &store);
    assert_eq!(sum(&ALLOCATED_BYTES).to_string(), du.split_whitespace().next().unwrap());

    let listed = Command::new("find")
        .arg(&store)
        .args(["!", "-type", "d", "-printf", "%i %s\\n"])
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(value(&seen, &FILES, &[]), Some(listed.lines().count() as f64));
    let once: BTreeSet<&str> = listed.lines().collect();
    let apparent: u64 =
        once.iter().map(|l| l.split(' ').nth(1).unwrap().parse::<u64>().unwrap()).sum();
    assert_eq!(sum(&APPARENT_BYTES), apparent);

    let class = |class: &str| {
        let bytes = value(&seen, &APPARENT_BYTES, &[class]);
        bytes.unwrap_or_else(|| panic!("{class} is not known: {:?}", seen.samples))
    };
    assert_eq!(class("journal"), 5000.0);
    let database = fs::metadata(store.join("chroma.sqlite3")).unwrap().len();
    assert_eq!(class("sqlite"), database as f64);
    assert!(class("other") > (1_u64 << 40) as f64);
    assert_eq!(class("orphan_segments"), 0.0);
    let segments: u64 = fs::read_dir(&store)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.join("header.bin").exists())
        .flat_map(|p| fs::read_dir(p).unwrap())
        .map(|e| e.unwrap().metadata().unwrap().len())
        .sum();
    assert_eq!(class("segments"), segments as f64);
}

#[test]
fn folders_that_no_row_names_are_orphans() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["chroma-0.4.24", "chroma-0.6.3", "chroma-1.1.1", "chroma-1.5.9"] {
        let dir = tempfile::tempdir().unwrap();
        let seen = observe(&fixture(name, dir.path()));
        assert_eq!(value(&seen, &APPARENT_BYTES, &["orphan_segments"]), Some(0.0), "{name}");
        assert!(value(&seen, &APPARENT_BYTES, &["segments"]).unwrap() > 0.0, "{name}");
    }
    // One of its two collections was deleted: Chroma left the folder.
    let store = fixture("chroma-1.5.9-deleted", dir.path());
    let seen = observe(&store);
    let orphans = value(&seen, &APPARENT_BYTES, &["orphan_segments"]).unwrap();
    assert!(orphans > 0.0 && value(&seen, &APPARENT_BYTES, &["segments"]).unwrap() > 0.0);
    // A folder without an index, or one whose name is no segment's, is no orphan.
    fs::create_dir(store.join("3f2504e0-4f89-41d3-9a0c-0305e82c3301")).unwrap();
    fs::create_dir(store.join("not-a-segment")).unwrap();
    fs::write(store.join("not-a-segment/header.bin"), [0; 100]).unwrap();
    assert_eq!(value(&observe(&store), &APPARENT_BYTES, &["orphan_segments"]), Some(orphans));
}

#[test]
fn while_the_database_cannot_be_asked_nothing_is_called_an_orphan() {
    let dir = tempfile::tempdir().unwrap();
    let store = fixture("chroma-1.5.9-deleted", dir.path());
    let context = context(&store);
    let mut disk = Disk::new(&context);
    let orphans = |seen: &Observation| value(seen, &APPARENT_BYTES, &["orphan_segments"]);
    let before = orphans(&disk.collect(&run(true)));
    assert!(before.is_some());

    // A writer has it locked: what was known stands, and a new collector knows nothing.
    let database = store.join("chroma.sqlite3");
    let writer = rusqlite::Connection::open(&database).unwrap();
    writer.execute_batch("BEGIN EXCLUSIVE").unwrap();
    disk.survey.asked = None;
    let seen = disk.collect(&run(true));
    assert_eq!(orphans(&seen), before);
    assert!(seen.problems.is_empty(), "{:?}", seen.problems);
    let fresh = observe(&store);
    assert_eq!(orphans(&fresh), None);
    let all = value(&fresh, &APPARENT_BYTES, &["segments"]).unwrap();
    assert_eq!(all, value(&seen, &APPARENT_BYTES, &["segments"]).unwrap() + before.unwrap());
    drop(writer);

    // Another file in its place: what was known holds for it no longer.
    fs::rename(&database, store.join("old")).unwrap();
    fs::write(&database, b"no database").unwrap();
    assert_eq!(orphans(&disk.collect(&run(true))), None);
}

#[test]
fn a_database_in_write_ahead_mode_is_not_asked_because_that_makes_files() {
    let dir = tempfile::tempdir().unwrap();
    let store = fixture("chroma-1.5.9-deleted", dir.path());
    let writer = rusqlite::Connection::open(store.join("chroma.sqlite3")).unwrap();
    writer.execute_batch("PRAGMA journal_mode=WAL; DELETE FROM tenants WHERE 0").unwrap();
    drop(writer);
    let names = || fs::read_dir(&store).unwrap().count();
    let before = names();
    let seen = observe(&store);
    assert_eq!(value(&seen, &APPARENT_BYTES, &["orphan_segments"]), None);
    assert_eq!(names(), before);
}

#[test]
fn too_many_entries_leave_the_sizes_out_and_the_disk_is_judged_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let store = fixture("chroma-1.5.9", dir.path());
    let context = context_with(&store, |config| config.limits.entries = 4);
    let seen = Disk::new(&context).collect(&run(true));
    assert!(bytes_of(&seen, &APPARENT_BYTES).is_empty());
    assert_eq!(value(&seen, &FILES, &[]), None);
    assert!(matches!(seen.problems[..], [CollectError::TooMany { bound: 4, .. }]));
    assert!(value(&seen, &AVAIL_BYTES, &[]).is_some());
    assert!(seen.judged.contains(&Code::DiskUsageHigh));
}

#[test]
fn a_directory_that_is_not_there_is_no_error_of_a_device() {
    let seen = observe(Path::new("/does/not/exist"));
    assert!(matches!(seen.problems[..], [CollectError::Unreadable { .. }]));
    assert!(seen.samples.is_empty() && seen.judged.is_empty());
    let unreadable = |errno: Errno| {
        device_fails(&CollectError::Unreadable { path: "/x".into(), source: errno.into() })
    };
    assert!(unreadable(Errno::IO) && unreadable(Errno::STALE) && unreadable(Errno::NOTCONN));
    assert!(!unreadable(Errno::NOENT) && !unreadable(Errno::ACCESS) && !unreadable(Errno::NOTDIR));
    assert!(device_fails(&CollectError::Hung { path: "/x".into(), waited: Duration::ZERO }));
}

#[test]
fn a_restart_keeps_what_was_found() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    // Whatever this disk is, it is fuller than nothing; in the second life it is between the two levels.
    let with = |warn: f64, recover: f64| {
        let context = context_with(dir.path(), |config| {
            config.state_dir = Some(state.clone());
            (config.disk.warn_ratio, config.disk.recover_ratio) = (warn, recover);
        });
        let seen = Disk::new(&context).collect(&run(true));
        seen.findings.iter().any(|finding| finding.code == Code::DiskUsageHigh)
    };
    assert!(with(0.0, 0.0));
    assert!(with(1.1, 0.0), "kept until it falls below the lower level");
    assert!(!with(1.1, 1.1));
    assert!(!with(1.1, 0.0), "it had ended");
}

#[test]
fn a_large_database_on_a_small_rest_lacks_headroom() {
    let dir = tempfile::tempdir().unwrap();
    assert!(!observe(dir.path()).findings.iter().any(|f| f.code == Code::HeadroomLow));
    // Holes make it large without taking any room.
    fs::File::create(dir.path().join("chroma.sqlite3")).unwrap().set_len(1 << 43).unwrap();
    let seen = observe(dir.path());
    let finding = seen.findings.iter().find(|f| f.code == Code::HeadroomLow).unwrap();
    assert!(finding.evidence.ends_with("chroma.sqlite3 has 8.8 TB"), "{}", finding.evidence);
}

#[test]
fn a_deleted_file_counts_as_long_as_somebody_holds_it() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("chroma.sqlite3"), vec![1; 100_000]).unwrap();
    // This process does not count: somebody else must hold it.
    let mut holder = Command::new("tail")
        .arg("-f")
        .arg(dir.path().join("chroma.sqlite3"))
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let context = context_with(dir.path(), |c| c.collect.interval = Duration::ZERO);
    let mut disk = Disk::new(&context);
    let holds = || {
        fs::read_dir(format!("/proc/{}/fd", holder.id()))
            .unwrap()
            .filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
            .any(|link| link.starts_with(dir.path()))
    };
    wait_until("a process to hold it", SOON, holds);
    fs::remove_file(dir.path().join("chroma.sqlite3")).unwrap();
    let seen = disk.collect(&run(true));
    let held = value(&seen, &DELETED_OPEN_BYTES, &[]);
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert_eq!(held, Some(102_400.0), "{:?}", seen.problems);
}

#[test]
fn a_small_directory_is_walked_at_every_turn() {
    let dir = tempfile::tempdir().unwrap();
    let store = fixture("chroma-1.5.9", dir.path());
    let context = context_with(&store, |config| config.collect.interval = Duration::from_millis(2));
    let mut disk = Disk::new(&context);
    let files = disk.collect(&run(true));
    let files = value(&files, &FILES, &[]).unwrap();
    fs::write(store.join("one-more"), b"").unwrap();
    // On a busy host a walk takes long, and the next one comes so many times later.
    wait("one file more", SOON, || {
        let seen = value(&disk.collect(&run(false)), &FILES, &[]);
        if seen == Some(files + 1.0) { Ok(()) } else { Err(format!("{seen:?}")) }
    });
}

#[test]
fn the_mount_is_told_as_the_host_knows_it() {
    let seen = observe(Path::new("/dev/shm"));
    let info = seen.samples.iter().find(|s| s.desc == &INFO).unwrap();
    assert_eq!(info.values[1..], ["tmpfs", "/dev/shm"]);
    assert_eq!(host_path(Path::new("/host/srv"), Path::new("/host")), "/srv");
    assert_eq!(host_path(Path::new("/host"), Path::new("/host")), "/");
    assert_eq!(host_path(Path::new("/srv"), Path::new("/")), "/srv");
    assert_eq!(host_path(Path::new("/srv"), Path::new("/host")), "/srv");
}

#[test]
fn every_sample_is_of_a_family_that_was_announced() {
    let dir = tempfile::tempdir().unwrap();
    let seen = observe(&fixture("chroma-1.5.9", dir.path()));
    for sample in &seen.samples {
        assert!(DESCS.contains(&sample.desc), "{}", sample.desc.name);
    }
    for finding in &seen.findings {
        assert!(CODES.contains(&finding.code));
    }
}
