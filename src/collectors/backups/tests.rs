mod archives;
mod folders;
mod verified;

use std::{
    fs::{File, FileTimes},
    io::Write,
    os::unix::fs::{PermissionsExt, symlink},
    process::Command,
    sync::Arc,
    time::SystemTime,
};

use super::*;
use crate::{
    clock,
    config::{BackupPolicy, Config, Store},
    host::Host,
};

const NOW: i64 = 1_795_000_000;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// Backups of a store without any record, which has no folders.
fn backups(dir: &Path, pattern: &str) -> Backups {
    backups_of(&fixture("chroma-1.5.9-empty"), dir, pattern)
}

fn backups_of(store: &Path, dir: &Path, pattern: &str) -> Backups {
    let config = Arc::new(Config::default());
    let store = Arc::new(Store {
        backups: BackupPolicy::daily(vec![dir.join(pattern).to_string_lossy().into_owned()]),
        ..Store::new("main", store)
    });
    Backups::new(&Context::new(&config, &store, &Arc::new(Host::new(&config))))
}

fn observe(collector: &mut Backups, now: i64) -> (Observation, Vec<&'static str>) {
    let now = Timestamp::from_secs(now);
    let run = Run { now, wake: Wake::NONE, deep: false, stop: Arc::default() };
    let seen = collector.collect(&run);
    let mut codes: Vec<_> = seen.findings.iter().map(|f| f.code.as_str()).collect();
    codes.retain(|code| *code != "backup_same_disk");
    (seen, codes)
}

fn value(seen: &Observation, desc: &Desc) -> Option<f64> {
    seen.samples.iter().find(|s| s.desc == desc).map(|s| s.value)
}

fn incomplete(seen: &Observation, reason: &str) -> f64 {
    seen.samples.iter().find(|s| s.desc == &INCOMPLETE && s.values[0] == reason).unwrap().value
}

fn touch(path: &Path, at: i64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(at).unwrap());
    File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_times(FileTimes::new().set_modified(time))
        .unwrap();
}

/// A real tar of a real store, as cron makes it; with `z` a gzipped one.
fn tar(flags: &str, path: &Path) -> Vec<u8> {
    let mut tar = Command::new("tar");
    tar.arg(flags).arg(path).arg("-C").arg(fixture("")).arg("chroma-1.5.9-empty");
    assert!(tar.status().unwrap().success());
    fs::read(path).unwrap()
}

fn archive(dir: &Path, name: &str, at: i64) -> PathBuf {
    let path = dir.join(name);
    tar("-czf", &path);
    touch(&path, at);
    path
}

/// What is said of a file with these bytes and this name.
fn said(name: &str, bytes: &[u8], unpack: bool) -> Result<u64, Fault> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    let effort = Effort { unpack, entries_max: 1000, stopped: &|| false };
    inspect::file(&path, &fs::metadata(&path).unwrap(), &effort).map(|content| content.bytes)
}

fn reason(said: &Result<u64, Fault>) -> Option<Reason> {
    said.as_ref().err().map(|fault| fault.reason)
}

#[test]
fn the_newest_complete_archive_counts() {
    let dir = tempfile::tempdir().unwrap();
    let mut collector = backups(dir.path(), "chroma_db.backup.*");
    assert_eq!(observe(&mut collector, NOW).1, ["backup_missing"]);
    archive(dir.path(), "chroma_db.backup.20261117.tar.gz", NOW - 30 * 3600);
    let newest = archive(dir.path(), "chroma_db.backup.20261118.tar.gz", NOW - 6 * 3600);
    let (seen, codes) = observe(&mut collector, NOW);
    assert_eq!(codes, [""; 0]);
    assert_eq!(value(&seen, &NEWEST), Some((NOW - 6 * 3600) as f64));
    assert_eq!(value(&seen, &AGE), Some(6.0 * 3600.0));
    assert_eq!(value(&seen, &COUNT), Some(2.0));
    assert_eq!(value(&seen, &SIZE), Some(newest.metadata().unwrap().len() as f64));

    let (later, codes) = observe(&mut collector, NOW + 21 * 3600);
    assert_eq!((codes, later.findings[0].severity), (vec!["backup_stale"], Severity::Warning));
    let (later, codes) = observe(&mut collector, NOW + 45 * 3600);
    let both = vec!["backup_stale", "backup_unverified"];
    assert_eq!((codes, later.findings[0].severity), (both, Severity::Critical));
}

#[test]
fn growing_empty_cut_off_and_future_ones_are_no_success() {
    let dir = tempfile::tempdir().unwrap();
    let mut collector = backups(dir.path(), "chroma_db.backup.*");
    let good = archive(dir.path(), "chroma_db.backup.20261117.tar.gz", NOW - 20 * 3600);
    let bytes = fs::read(&good).unwrap();
    let (good_at, other) =
        ((NOW - 20 * 3600) as f64, dir.path().join("chroma_db.backup.20261118.tar.gz"));
    for (content, at, reason, want) in [
        (&bytes[..], NOW - 3, "growing", &[][..]),
        (&bytes[..0], NOW - 3600, "empty", &["backup_invalid"]),
        (&bytes[..bytes.len() / 2], NOW - 3600, "damaged", &["backup_invalid"]),
        (b"not a gzip file at all", NOW - 3600, "damaged", &["backup_invalid"]),
        (&bytes[..], NOW + 3600, "future", &[]),
    ] {
        fs::write(&other, content).unwrap();
        touch(&other, at);
        let (seen, codes) = observe(&mut collector, NOW);
        assert_eq!(codes, want, "{reason}");
        assert!((incomplete(&seen, reason) - 1.0).abs() < f64::EPSILON, "{reason}");
        assert_eq!(value(&seen, &NEWEST), Some(good_at), "{reason}");
    }
    fs::remove_file(&other).unwrap();
    let future = archive(dir.path(), "chroma_db.backup.20990101.tar.gz", NOW - 3600);
    assert!((incomplete(&observe(&mut collector, NOW).0, "future") - 1.0).abs() < f64::EPSILON);
    fs::remove_file(future).unwrap();
    // A copy made today of an archive from last year is a year old.
    archive(dir.path(), "chroma_db.backup.20251101.tar.gz", NOW - 60);
    assert_eq!(value(&observe(&mut collector, NOW).0, &NEWEST), Some(good_at));
}

#[test]
fn what_cannot_be_told_is_a_failed_reading_and_no_finding() {
    let dir = tempfile::tempdir().unwrap();
    let mut collector = backups(dir.path(), "chroma*");
    archive(dir.path(), "chroma.1.tar.gz", NOW - 90 * 3600);
    assert_eq!(observe(&mut collector, NOW).1, ["backup_stale"]);
    let other = dir.path().join("chroma.2");
    for (what, reason) in [("a loop of links", "unreadable"), ("encrypted", "unknown")] {
        if reason == "unreadable" {
            symlink("chroma.2", &other).unwrap();
        } else {
            fs::remove_file(&other).unwrap();
            fs::write(&other, "age-encryption.org/v1").unwrap();
            touch(&other, NOW - 3600);
        }
        let (seen, codes) = observe(&mut collector, NOW);
        assert_eq!((codes, seen.problems.len()), (vec![], 1), "{what}");
        assert!((incomplete(&seen, reason) - 1.0).abs() < f64::EPSILON, "{what}");
        assert_eq!(value(&seen, &AGE), None, "{what}: there may be a younger one");
        assert_eq!(seen.judged, [Code::BackupMissing, Code::BackupFailed], "{what}");
    }
    // One that is older than a complete one says nothing about the newest.
    touch(&other, NOW - 91 * 3600);
    let (seen, codes) = observe(&mut collector, NOW);
    assert_eq!((codes, seen.problems.len()), (vec!["backup_stale"], 0));
    archive(dir.path(), "chroma.3.tar.gz", NOW - 3600);
    touch(&other, NOW - 1800);
    let (seen, codes) = observe(&mut collector, NOW);
    assert_eq!((codes, seen.problems.len()), (vec![], 1));
    assert_eq!(
        seen.judged,
        [Code::BackupMissing, Code::BackupStale, Code::BackupFailed],
        "a younger one changes nothing"
    );
}

#[test]
fn a_copied_directory_is_judged_by_its_database() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("chroma_db.backup.copy");
    fs::create_dir(&copy).unwrap();
    let database = copy.join("chroma.sqlite3");
    fs::copy(fixture("chroma-1.5.9-empty/chroma.sqlite3"), &database).unwrap();
    let made = fs::metadata(&database).unwrap().ctime();
    touch(&database, made - 7200);
    let mut collector = backups(dir.path(), "chroma_db.backup.*");
    let (seen, codes) = observe(&mut collector, made + 3);
    assert!((incomplete(&seen, "growing") - 1.0).abs() < f64::EPSILON, "a copy that keeps times");
    assert_eq!(codes, ["backup_missing"]);
    let now = made + 3600;
    let (seen, codes) = observe(&mut collector, now);
    assert_eq!((codes, value(&seen, &COUNT)), (vec![], Some(1.0)));
    assert_eq!(value(&seen, &AGE), Some(3.0 * 3600.0));

    let whole = fs::read(&database).unwrap();
    fs::write(&database, &whole[..whole.len() - 8192]).unwrap();
    touch(&database, made - 7200);
    let (seen, codes) = observe(&mut collector, now);
    assert_eq!(codes, ["backup_invalid", "backup_missing"]);
    assert!((incomplete(&seen, "damaged") - 1.0).abs() < f64::EPSILON);
    fs::remove_file(&database).unwrap();
    assert_eq!(observe(&mut collector, now).1, ["backup_invalid", "backup_missing"]);
}

#[test]
fn neither_a_new_name_nor_a_new_mode_makes_a_directory_young() {
    let dir = tempfile::tempdir().unwrap();
    let mut collector = backups(dir.path(), "chroma*");
    let inner = dir.path().join("chroma/data");
    fs::create_dir_all(&inner).unwrap();
    let database = inner.join("chroma.sqlite3");
    fs::copy(fixture("chroma-1.5.9-empty/chroma.sqlite3"), &database).unwrap();
    // Ages are told against a clock that is ahead of the changes that the kernel notes below.
    let now = fs::metadata(&database).unwrap().ctime() + 10 * 86_400;
    touch(&database, now - 12 * 86_400);
    let twelve_days = Some(12.0 * 86_400.0);
    assert_eq!(value(&observe(&mut collector, now).0, &AGE), twelve_days);
    fs::rename(dir.path().join("chroma"), dir.path().join("chroma.old")).unwrap();
    assert_eq!(value(&observe(&mut collector, now).0, &AGE), twelve_days, "renamed");
    for path in [dir.path().join("chroma.old"), inner.clone(), database.clone()] {
        let path = path.to_string_lossy().replace("chroma/data", "chroma.old/data");
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
    }
    let changed = fs::metadata(dir.path().join("chroma.old/data/chroma.sqlite3")).unwrap().ctime();
    let (seen, codes) = observe(&mut collector, changed + 1);
    assert_eq!(codes, ["backup_stale"], "known already, so that its new mode is no growth");
    assert_eq!(value(&seen, &COUNT), Some(1.0));

    // The name decides: a copy of an idle store is as young as its name, and an old one stays old.
    for (name, days) in [(now - 86_400, 1.0), (now - 30 * 86_400, 30.0)] {
        let date = Timestamp::from_secs(name).to_string();
        let stamp = format!("{}_{}", date[..10].replace('-', ""), date[11..19].replace(':', ""));
        let named = dir.path().join(format!("chroma_db.backup.{stamp}"));
        let before = dir.path().join("chroma.old");
        fs::rename(&before, &named).unwrap();
        assert_eq!(value(&observe(&mut collector, now).0, &AGE), Some(days * 86_400.0), "{stamp}");
        fs::rename(&named, &before).unwrap();
    }
}

#[test]
fn the_newest_of_very_many_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut collector = backups(dir.path(), "chroma.*");
    let database = fs::read(fixture("chroma-1.5.9-empty/chroma.sqlite3")).unwrap();
    for day in 0..3000_i64 {
        let date = Timestamp::from_secs(NOW - 4 * 3600 - day * 86_400).to_string();
        let path = dir.path().join(format!("chroma.{}.sqlite3", &date[..10]));
        fs::write(&path, if day == 0 { &database[..] } else { b"" }).unwrap();
        touch(&path, NOW - 4 * 3600 - day * 86_400);
    }
    let (seen, codes) = observe(&mut collector, NOW);
    assert_eq!((codes, value(&seen, &AGE)), (vec![], Some(4.0 * 3600.0)));
    assert_eq!(value(&seen, &COUNT), Some(1.0));
    assert!((incomplete(&seen, "empty") - (BACKUPS_MAX - 1) as f64).abs() < f64::EPSILON);
    assert!(collector.seen.len() <= BACKUPS_MAX);
}

#[test]
fn one_backup_with_two_names_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let first = archive(dir.path(), "chroma.20261118.tar.gz", NOW - 3600);
    symlink(&first, dir.path().join("chroma.latest")).unwrap();
    fs::hard_link(&first, dir.path().join("chroma.weekly.tar.gz")).unwrap();
    let (seen, codes) = observe(&mut backups(dir.path(), "chroma.*"), NOW);
    assert_eq!((codes, value(&seen, &COUNT)), (vec![], Some(1.0)));
    // The name with a date decides, whichever comes first: this one was copied here an hour ago.
    fs::rename(&first, dir.path().join("chroma.20251118.tar.gz")).unwrap();
    let (seen, codes) = observe(&mut backups(dir.path(), "chroma.*"), NOW);
    assert_eq!((codes, value(&seen, &COUNT)), (vec!["backup_stale"], Some(1.0)));
}

#[test]
fn a_backup_that_lost_most_of_its_data_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let database = fs::read(fixture("chroma-1.5.9-empty/chroma.sqlite3")).unwrap();
    for (name, more, at) in [("a.db", 9, 50_000), ("b.db", 9, 40_000), ("c.db", 0, 30_000)] {
        // More than the header states may be there: the checks of a live database tell.
        let mut bytes = database.clone();
        bytes.resize(database.len() * (1 + more), 1);
        fs::write(dir.path().join(name), bytes).unwrap();
        touch(&dir.path().join(name), NOW - at);
    }
    assert_eq!(observe(&mut backups(dir.path(), "*.db"), NOW).1, ["backup_shrunk"]);
}

#[test]
fn the_store_itself_and_checksums_are_no_backups() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = fixture("chroma-1.5.9-empty/chroma.sqlite3");
    fs::copy(fixture, dir.path().join("chroma.sqlite3")).unwrap();
    fs::hard_link(dir.path().join("chroma.sqlite3"), dir.path().join("linked.sqlite3")).unwrap();
    fs::write(dir.path().join("old.tar.gz.sha256"), "0123  old.tar.gz").unwrap();
    // On their way: a copy that is being opened, and a backup that is being made.
    for on_its_way in [".chroma_exporter.verify.0123", ".chroma.backup.20261118_000000.partial"] {
        let copy = dir.path().join(on_its_way);
        fs::create_dir(&copy).unwrap();
        fs::copy(dir.path().join("chroma.sqlite3"), copy.join("chroma.sqlite3")).unwrap();
    }
    for pattern in ["", "*"] {
        let (seen, codes) = observe(&mut backups_of(dir.path(), dir.path(), pattern), NOW * 2);
        assert_eq!(
            (codes, value(&seen, &COUNT)),
            (vec!["backup_missing"], Some(0.0)),
            "{pattern:?}"
        );
    }
}

#[test]
fn without_patterns_nothing_is_expected() {
    let dir = tempfile::tempdir().unwrap();
    let mut context = backups(dir.path(), "*").context;
    let mut store = (*context.store).clone();
    store.backups.globs.clear();
    context.store = Arc::new(store);
    let mut collector = Backups::new(&context);
    let (seen, codes) = observe(&mut collector, NOW);
    assert!(seen.samples.is_empty() && codes.is_empty() && collector.codes().is_empty());
}

/// A copy of a fixture that lay there long before [`NOW`], and a place for its backups.
fn old_store(name: &str) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let scratch = tempfile::tempdir().unwrap();
    let (store, place) = (scratch.path().join("store"), scratch.path().join("backups"));
    let copied = Command::new("cp").arg("-R").arg(fixture(name)).arg(&store).status();
    assert!(copied.unwrap().success());
    for folder in fs::read_dir(&store).unwrap().map(|entry| entry.unwrap().path()) {
        if folder.is_dir() {
            for file in fs::read_dir(folder).unwrap() {
                touch(&file.unwrap().path(), NOW - 100 * 3600);
            }
        }
    }
    fs::create_dir(&place).unwrap();
    (scratch, store, place)
}

/// Packs what is named in a store by a command of a shell, in which `$S` is the store and `$B` the backup.
fn pack(store: &Path, backup: &Path, command: &str, at: i64) {
    let mut shell = Command::new("sh");
    let status = shell.args(["-ec", command]).env("S", store).env("B", backup).status();
    assert!(status.unwrap().success(), "{command}");
    if backup.is_dir() {
        touch(&backup.join("chroma.sqlite3"), at);
    } else {
        touch(backup, at);
    }
}

#[test]
fn what_git_left_in_place_of_a_file_is_no_backup() {
    const POINTER: &str =
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 184320\n";
    for name in ["chroma.sqlite3", "chroma.tar.gz", "chroma_backup"] {
        let fault = said(name, POINTER.as_bytes(), true).unwrap_err();
        assert_eq!(fault.reason, Reason::Damaged, "{name}");
        assert!(fault.words.contains("git lfs pull"), "{name}: {}", fault.words);
    }
    let (_scratch, store, place) = old_store("chroma-1.5.9");
    let copy = place.join("a");
    pack(&store, &copy, "cp -R $S $B", NOW);
    let now = clock::now().as_secs() + 3600;
    let mut collector = backups_of(&store, &place, "*");
    assert!(!observe(&mut collector, now).1.contains(&"backup_incomplete"));
    for folder in fs::read_dir(&copy).unwrap().map(|entry| entry.unwrap().path()) {
        if folder.is_dir() {
            fs::write(folder.join("header.bin"), POINTER).unwrap();
        }
    }
    assert!(observe(&mut backups_of(&store, &place, "*"), now).1.contains(&"backup_incomplete"));
    fs::write(copy.join("chroma.sqlite3"), POINTER).unwrap();
    touch(&copy.join("chroma.sqlite3"), NOW);
    let (seen, codes) = observe(&mut collector, now);
    assert!(codes.contains(&"backup_invalid"), "{codes:?}");
    assert!(seen.findings[0].evidence.contains("git lfs pull"), "{}", seen.findings[0].evidence);
}
