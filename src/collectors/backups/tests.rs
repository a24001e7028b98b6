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

fn look(collector: &mut Backups, now: i64) -> (Observation, Vec<&'static str>) {
    let now = Timestamp::from_secs(now);
    let turn = Turn { now, wake: Wake::NONE, deep: false, stop: Arc::default() };
    let seen = collector.collect(&turn);
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

/// Lengths at which to cut: around every edge that matters, and many others.
fn cuts(len: usize) -> Vec<usize> {
    let mut cuts: Vec<usize> = (1..len).step_by((len / 60).max(1)).collect();
    cuts.extend((512..len).step_by(512 * (len / 512 / 60).max(1)));
    cuts.extend((1..len.min(40)).chain(len.saturating_sub(40)..len));
    cuts.sort_unstable();
    cuts.dedup();
    cuts
}

#[test]
fn the_newest_complete_archive_counts() {
    let dir = tempfile::tempdir().unwrap();
    let mut collector = backups(dir.path(), "chroma_db.backup.*");
    assert_eq!(look(&mut collector, NOW).1, ["backup_missing"]);
    archive(dir.path(), "chroma_db.backup.20261117.tar.gz", NOW - 30 * 3600);
    let newest = archive(dir.path(), "chroma_db.backup.20261118.tar.gz", NOW - 6 * 3600);
    let (seen, codes) = look(&mut collector, NOW);
    assert_eq!(codes, [""; 0]);
    assert_eq!(value(&seen, &NEWEST), Some((NOW - 6 * 3600) as f64));
    assert_eq!(value(&seen, &AGE), Some(6.0 * 3600.0));
    assert_eq!(value(&seen, &COUNT), Some(2.0));
    assert_eq!(value(&seen, &SIZE), Some(newest.metadata().unwrap().len() as f64));

    let (later, codes) = look(&mut collector, NOW + 21 * 3600);
    assert_eq!((codes, later.findings[0].severity), (vec!["backup_stale"], Severity::Warning));
    let (later, codes) = look(&mut collector, NOW + 45 * 3600);
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
        let (seen, codes) = look(&mut collector, NOW);
        assert_eq!(codes, want, "{reason}");
        assert!((incomplete(&seen, reason) - 1.0).abs() < f64::EPSILON, "{reason}");
        assert_eq!(value(&seen, &NEWEST), Some(good_at), "{reason}");
    }
    fs::remove_file(&other).unwrap();
    let future = archive(dir.path(), "chroma_db.backup.20990101.tar.gz", NOW - 3600);
    assert!((incomplete(&look(&mut collector, NOW).0, "future") - 1.0).abs() < f64::EPSILON);
    fs::remove_file(future).unwrap();
    // A copy made today of an archive from last year is a year old.
    archive(dir.path(), "chroma_db.backup.20251101.tar.gz", NOW - 60);
    assert_eq!(value(&look(&mut collector, NOW).0, &NEWEST), Some(good_at));
}

#[test]
fn a_tar_that_was_cut_off_anywhere_is_not_complete() {
    let dir = tempfile::tempdir().unwrap();
    let whole = tar("-cf", &dir.path().join("a.tar"));
    assert_eq!(said("a.tar", &whole, false), Ok(whole.len() as u64));
    // GNU tar fills the last record with zeros: the end is behind the first two empty blocks after the last file.
    let data = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let end = data.next_multiple_of(512) + 1024;
    assert!(said("a.tar", &whole[..end], false).is_ok(), "busybox writes no more");
    for cut in cuts(end) {
        assert_eq!(reason(&said("a.tar", &whole[..cut], false)), Some(Reason::Damaged), "{cut}");
    }
    let mut flipped = whole.clone();
    flipped[3] ^= 1;
    assert_eq!(reason(&said("a.tar", &flipped, false)), Some(Reason::Damaged));
    // The same with a file of zeros at its end: every tail of it looks like the end of a tar.
    let mut zeros = whole[..data.next_multiple_of(512)].to_vec();
    zeros.extend(crate::format::tar::tests::header("zeros", "00000040000\0", b'0'));
    zeros.resize(zeros.len() + 16384 + 1024, 0);
    assert!(said("b.tar", &zeros, false).is_ok());
    for cut in (1..zeros.len() - 16384).rev().step_by(512).take(30) {
        assert_eq!(reason(&said("b.tar", &zeros[..cut + 8192], false)), Some(Reason::Damaged));
    }
    let empty = [0; 10_240];
    assert_eq!(reason(&said("c.tar", &empty, false)), Some(Reason::Damaged), "of nothing");
}

#[test]
fn long_names_sparse_files_and_folders_are_stepped_over() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("x".repeat(120)).join("y".repeat(120));
    fs::create_dir_all(&deep).unwrap();
    fs::copy(fixture("chroma-1.5.9-empty/chroma.sqlite3"), deep.join("chroma.sqlite3")).unwrap();
    let sparse = File::create(deep.join("data_level0.bin")).unwrap();
    sparse.set_len(1 << 20).unwrap();
    (&sparse).write_all(b"head").unwrap();
    symlink("chroma.sqlite3", deep.join("link")).unwrap();
    for flags in [&["--format=gnu"][..], &["--format=pax"], &["--format=gnu", "-S"]] {
        let path = dir.path().join("a.tar");
        let mut tar = Command::new("tar");
        tar.args(flags).arg("-cf").arg(&path).arg("-C").arg(dir.path()).arg("x".repeat(120));
        assert!(tar.status().unwrap().success());
        let bytes = fs::read(&path).unwrap();
        assert_eq!(said("a.tar", &bytes, false), Ok(bytes.len() as u64), "{flags:?}");
        let half = &bytes[..bytes.len() / 2];
        assert_eq!(reason(&said("a.tar", half, false)), Some(Reason::Damaged), "{flags:?}");
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

#[test]
fn a_gzipped_tar_that_was_cut_off_anywhere_is_not_complete() {
    let dir = tempfile::tempdir().unwrap();
    let whole = tar("-czf", &dir.path().join("a.tar.gz"));
    for unpack in [true, false] {
        assert_eq!(said("a.tar.gz", &whole, unpack), Ok(whole.len() as u64), "{unpack}");
    }
    for cut in cuts(whole.len()) {
        let said = said("a.tar.gz", &whole[..cut], true);
        assert_eq!(reason(&said), Some(Reason::Damaged), "{cut}");
    }
    // Whole as gzip, but what was packed is not: the disk was full, or the pipe broke.
    let tar = tar("-cf", &dir.path().join("a.tar"));
    for cut in [512, 1024, 10_240, tar.len() / 2 / 512 * 512] {
        let said = said("a.tar.gz", &gzip(&tar[..cut]), true);
        assert_eq!(reason(&said), Some(Reason::Damaged), "{cut}");
    }
    // Zeros, packed and cut off: the tail is zeros.
    let mut zeros = gzip(&tar);
    zeros.truncate(zeros.len() - 100);
    zeros.extend([0; 100]);
    for unpack in [true, false] {
        assert_eq!(reason(&said("a.tar.gz", &zeros, unpack)), Some(Reason::Damaged), "{unpack}");
    }
    let nothing = gzip(b"");
    assert_eq!(reason(&said("a.gz", &nothing, true)), Some(Reason::Empty));
}

#[test]
fn what_is_packed_without_tar_is_told_by_what_it_is() {
    let database = fs::read(fixture("chroma-1.5.9-empty/chroma.sqlite3")).unwrap();
    let packed = gzip(&database);
    assert!(said("chroma.sqlite3.20260101.gz", &packed, true).is_ok());
    let short = gzip(&database[..database.len() - 4096]);
    assert_eq!(reason(&said("chroma.sqlite3.gz", &short, true)), Some(Reason::Damaged));
    for (dump, want) in [
        ("PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\nCOMMIT;\n", None),
        ("PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;\nINSERT INTO t VAL", Some(Reason::Damaged)),
        ("BEGIN TRANSACTION;\nROLLBACK; -- due to errors\n", Some(Reason::Damaged)),
    ] {
        let packed = gzip(dump.as_bytes());
        assert_eq!(reason(&said("chroma.sql.gz", &packed, true)), want, "{dump}");
        assert_eq!(reason(&said("chroma.sql", dump.as_bytes(), true)), want, "{dump}");
        assert_eq!(reason(&said("chroma.sql.gz", &packed, false)), Some(Reason::Unknown));
    }
    assert!(said("notes.gz", &gzip(b"its checksum is right"), true).is_ok());
    for (name, cut, want) in [
        ("chroma.sqlite3.20260101", 0, None),
        ("chroma_20260101.db", 0, None),
        ("chroma_20260101.db", 4096, Some(Reason::Damaged)),
        ("chroma.sqlite3.bak", 4096, Some(Reason::Damaged)),
        ("chroma.tar", 0, Some(Reason::Damaged)),
    ] {
        let said = said(name, &database[..database.len() - cut], true);
        assert_eq!(reason(&said), want, "{name} {cut}");
    }
    assert_eq!(reason(&said("chroma.gpg", b"\x85\x02\x0c\x03", true)), Some(Reason::Unknown));
}

#[test]
#[cfg_attr(not(feature = "e2e"), ignore = "needs python3: run with --features e2e")]
fn other_archives_are_told_by_their_ends() {
    let dir = tempfile::tempdir().unwrap();
    let tar = tar("-cf", &dir.path().join("a.tar"));
    let script = "import sys,lzma,bz2,zipfile\nd=sys.argv[1]\nb=open(d+'/a.tar','rb').read()\n\
        open(d+'/a.tar.xz','wb').write(lzma.compress(b))\n\
        open(d+'/a.tar.bz2','wb').write(bz2.compress(b))\n\
        z=zipfile.ZipFile(d+'/a.zip','w',zipfile.ZIP_DEFLATED); z.writestr('chroma.sqlite3',b)\n\
        z.comment=b'nightly'; z.close()";
    let made = Command::new("python3").args(["-c", script]).arg(dir.path()).status();
    assert!(made.unwrap().success());
    // Two frames of stored blocks, one that is stepped over between them.
    let mut zst = Vec::new();
    for part in tar.chunks(tar.len() / 2 + 1) {
        zst.extend([0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58]);
        let blocks: Vec<_> = part.chunks(100_000).collect();
        for (at, block) in blocks.iter().enumerate() {
            let header = block.len() << 3 | usize::from(at + 1 == blocks.len());
            zst.extend(&header.to_le_bytes()[..3]);
            zst.extend(*block);
        }
        zst.extend([0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
    }
    fs::write(dir.path().join("a.tar.zst"), zst).unwrap();
    for name in ["a.tar.xz", "a.tar.bz2", "a.zip", "a.tar.zst"] {
        let whole = fs::read(dir.path().join(name)).unwrap();
        for unpack in [true, false] {
            assert_eq!(said(name, &whole, unpack), Ok(whole.len() as u64), "{name} {unpack}");
        }
        let without_end = name == "a.tar.zst";
        for cut in cuts(whole.len()) {
            // A zstd file that ends with a frame is a zstd file.
            let frame = without_end && (cut + 11 == whole.len());
            let said = said(name, &whole[..cut], false);
            assert!(frame || reason(&said) == Some(Reason::Damaged), "{name} {cut}: {said:?}");
        }
        assert_eq!(reason(&said(name, b"something else", false)), Some(Reason::Damaged), "{name}");
    }
}

#[test]
fn what_cannot_be_told_is_a_failed_reading_and_no_finding() {
    let dir = tempfile::tempdir().unwrap();
    let mut collector = backups(dir.path(), "chroma*");
    archive(dir.path(), "chroma.1.tar.gz", NOW - 90 * 3600);
    assert_eq!(look(&mut collector, NOW).1, ["backup_stale"]);
    let other = dir.path().join("chroma.2");
    for (what, reason) in [("a loop of links", "unreadable"), ("encrypted", "unknown")] {
        if reason == "unreadable" {
            symlink("chroma.2", &other).unwrap();
        } else {
            fs::remove_file(&other).unwrap();
            fs::write(&other, "age-encryption.org/v1").unwrap();
            touch(&other, NOW - 3600);
        }
        let (seen, codes) = look(&mut collector, NOW);
        assert_eq!((codes, seen.problems.len()), (vec![], 1), "{what}");
        assert!((incomplete(&seen, reason) - 1.0).abs() < f64::EPSILON, "{what}");
        assert_eq!(value(&seen, &AGE), None, "{what}: there may be a younger one");
        assert_eq!(seen.judged, [Code::BackupMissing, Code::BackupFailed], "{what}");
    }
    // One that is older than a complete one says nothing about the newest.
    touch(&other, NOW - 91 * 3600);
    let (seen, codes) = look(&mut collector, NOW);
    assert_eq!((codes, seen.problems.len()), (vec!["backup_stale"], 0));
    archive(dir.path(), "chroma.3.tar.gz", NOW - 3600);
    touch(&other, NOW - 1800);
    let (seen, codes) = look(&mut collector, NOW);
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
    let (seen, codes) = look(&mut collector, made + 3);
    assert!((incomplete(&seen, "growing") - 1.0).abs() < f64::EPSILON, "a copy that keeps times");
    assert_eq!(codes, ["backup_missing"]);
    let now = made + 3600;
    let (seen, codes) = look(&mut collector, now);
    assert_eq!((codes, value(&seen, &COUNT)), (vec![], Some(1.0)));
    assert_eq!(value(&seen, &AGE), Some(3.0 * 3600.0));

    let whole = fs::read(&database).unwrap();
    fs::write(&database, &whole[..whole.len() - 8192]).unwrap();
    touch(&database, made - 7200);
    let (seen, codes) = look(&mut collector, now);
    assert_eq!(codes, ["backup_invalid", "backup_missing"]);
    assert!((incomplete(&seen, "damaged") - 1.0).abs() < f64::EPSILON);
    fs::remove_file(&database).unwrap();
    assert_eq!(look(&mut collector, now).1, ["backup_invalid", "backup_missing"]);
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
    assert_eq!(value(&look(&mut collector, now).0, &AGE), twelve_days);
    fs::rename(dir.path().join("chroma"), dir.path().join("chroma.old")).unwrap();
    assert_eq!(value(&look(&mut collector, now).0, &AGE), twelve_days, "renamed");
    for path in [dir.path().join("chroma.old"), inner.clone(), database.clone()] {
        let path = path.to_string_lossy().replace("chroma/data", "chroma.old/data");
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
    }
    let changed = fs::metadata(dir.path().join("chroma.old/data/chroma.sqlite3")).unwrap().ctime();
    let (seen, codes) = look(&mut collector, changed + 1);
    assert_eq!(codes, ["backup_stale"], "known already, so that its new mode is no growth");
    assert_eq!(value(&seen, &COUNT), Some(1.0));

    // The name decides: a copy of an idle store is as young as its name, and an old one stays old.
    for (name, days) in [(now - 86_400, 1.0), (now - 30 * 86_400, 30.0)] {
        let date = Timestamp::from_secs(name).to_string();
        let stamp = format!("{}_{}", date[..10].replace('-', ""), date[11..19].replace(':', ""));
        let named = dir.path().join(format!("chroma_db.backup.{stamp}"));
        let before = dir.path().join("chroma.old");
        fs::rename(&before, &named).unwrap();
        assert_eq!(value(&look(&mut collector, now).0, &AGE), Some(days * 86_400.0), "{stamp}");
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
    let (seen, codes) = look(&mut collector, NOW);
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
    let (seen, codes) = look(&mut backups(dir.path(), "chroma.*"), NOW);
    assert_eq!((codes, value(&seen, &COUNT)), (vec![], Some(1.0)));
    // The name with a date decides, whichever comes first: this one was copied here an hour ago.
    fs::rename(&first, dir.path().join("chroma.20251118.tar.gz")).unwrap();
    let (seen, codes) = look(&mut backups(dir.path(), "chroma.*"), NOW);
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
    assert_eq!(look(&mut backups(dir.path(), "*.db"), NOW).1, ["backup_shrunk"]);
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
        let (seen, codes) = look(&mut backups_of(dir.path(), dir.path(), pattern), NOW * 2);
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
    let (seen, codes) = look(&mut collector, NOW);
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

/// Ways to back up a store: what goes into the backup without and with its folders.
const WAYS: [(&str, &str, &str); 5] = [
    ("a.sqlite3", "cp $S/chroma.sqlite3 $B", ""),
    ("a.sqlite3.gz", "gzip -c $S/chroma.sqlite3 > $B", ""),
    ("a.tar", "tar -cf $B -C $S chroma.sqlite3", "tar -cf $B -C $S ."),
    ("a.tgz", "tar -czf $B -C $S chroma.sqlite3", "tar -czf $B --format=pax $S"),
    ("a.copy", "mkdir $B; cp $S/chroma.sqlite3 $B", "cp -R $S $B"),
];

#[test]
fn a_backup_without_the_folders_of_a_purged_store_is_not_complete() {
    for (name, without, with) in WAYS {
        let (_scratch, store, place) = old_store("chroma-1.5.9");
        pack(&store, &place.join(name), without, NOW - 3 * 3600);
        // A directory must have been at rest for a moment of the real clock.
        let now = if name == "a.copy" { clock::now().as_secs() + 3600 } else { NOW };
        let mut collector = backups_of(&store, &place, "*");
        let (seen, codes) = look(&mut collector, now);
        assert_eq!(codes, ["backup_incomplete", "backup_missing"], "{name}");
        assert!((incomplete(&seen, "without_vectors") - 1.0).abs() < f64::EPSILON, "{name}");
        assert_eq!((value(&seen, &AGE), value(&seen, &COUNT)), (None, Some(0.0)), "{name}");
        let evidence = &seen.findings[0].evidence;
        let names = "index folders of 2 of 2 collections (\"notes\", \"articles\")";
        assert!(evidence.contains(names), "{name}: {evidence}");
        let items = [
            "11f4c994-921f-420d-b9b5-cbe3dd08f50d of \"notes\"",
            "c2acc258-3dd5-40e9-927a-253f486f8565 of \"articles\"",
        ];
        assert_eq!(seen.findings[0].items, items, "{name}");
        if !with.is_empty() {
            pack(&store, &place.join("whole").with_extension(name), with, NOW - 2 * 3600);
            let (seen, codes) = look(&mut collector, now);
            assert!(!codes.contains(&"backup_incomplete"), "{name}: {codes:?}");
            assert_eq!(value(&seen, &COUNT), Some(1.0), "{name}");
        }
    }
}

#[test]
#[cfg_attr(not(feature = "e2e"), ignore = "needs python3: run with --features e2e")]
fn what_is_in_other_archives_is_told_too() {
    let script = "import os,sys,tarfile,zipfile\ns,b,all=os.environ['S'],os.environ['B'],sys.argv[1]=='all'\n\
        names=[os.path.join(d,f) for d,_,fs in os.walk(s) for f in fs] if all else [s+'/chroma.sqlite3']\n\
        if b.endswith('zip'):\n z=zipfile.ZipFile(b,'w',zipfile.ZIP_DEFLATED)\n [z.write(n) for n in names]\n z.close()\n\
        else:\n t=tarfile.open(b,'w:'+b.rsplit('.',1)[1])\n [t.add(n) for n in names]\n t.close()";
    for name in ["a.zip", "a.tar.xz", "a.tar.bz2"] {
        for (all, want) in [("all", &[][..]), ("one", &["backup_incomplete", "backup_missing"])] {
            let (_scratch, store, place) = old_store("chroma-1.5.9");
            let command = format!("python3 -c \"{script}\" {all}");
            pack(&store, &place.join(name), &command, NOW - 3 * 3600);
            assert_eq!(look(&mut backups_of(&store, &place, "*"), NOW).1, want, "{name} {all}");
        }
    }
}

#[test]
fn a_store_that_never_purged_needs_no_folders() {
    for base in ["chroma-0.4.24", "chroma-0.5.5", "chroma-1.5.9-fresh"] {
        let (_scratch, store, place) = old_store(base);
        pack(&store, &place.join("a.sqlite3"), "cp $S/chroma.sqlite3 $B", NOW - 3 * 3600);
        assert_eq!(look(&mut backups_of(&store, &place, "*"), NOW).1, [""; 0], "{base}");
    }
}

#[test]
fn a_backup_is_held_against_the_folders_of_its_time() {
    let (_scratch, store, place) = old_store("chroma-1.5.9");
    let bare = place.join("a.sqlite3");
    pack(&store, &bare, "cp $S/chroma.sqlite3 $B", NOW - 120 * 3600);
    let mut collector = backups_of(&store, &place, "*");
    // A time that somebody gave it does not make it older than the folders.
    assert_eq!(look(&mut collector, NOW).1, ["backup_incomplete", "backup_missing"]);
    let lacks = |collector: &Backups, hours: i64| {
        let content = collector.seen[&bare].content.clone().unwrap();
        let by = Timestamp::from_secs(NOW - hours * 3600);
        collector.vectors.lacking(by, &content).map(|fault| fault.reason)
    };
    // Made before the first flush: all vectors were in the database then.
    assert_eq!(lacks(&collector, 120), None);
    assert_eq!(lacks(&collector, 1), Some(Reason::WithoutVectors));
    // Unless one that is older still has the folders.
    pack(&store, &place.join("b.tar"), "tar -cf $B -C $S .", NOW - 130 * 3600);
    assert_eq!(look(&mut collector, NOW).1, ["backup_incomplete", "backup_stale"]);
    assert_eq!(lacks(&collector, 120), Some(Reason::WithoutVectors));
    // A folder with a file missing or without a byte brings nothing back either.
    for command in [
        "tar -cf $B -C $S --exclude=header.bin .",
        "mkdir $B.d; cp -R $S/. $B.d; for f in $B.d/*/data_level0.bin; do : > $f; done; tar -cf $B -C $B.d .; rm -r $B.d",
        "mkdir $B.d; for f in $S/*; do ln -s $f $B.d; done; rm $B.d/chroma.sqlite3; cp $S/chroma.sqlite3 $B.d; tar -cf $B -C $B.d .; rm -r $B.d",
    ] {
        pack(&store, &place.join("c.tar"), command, NOW - 3600);
        let codes = look(&mut collector, NOW).1;
        assert_eq!(codes, ["backup_incomplete", "backup_stale"], "{command}");
    }
    pack(&store, &place.join("c.tar"), "tar -cf $B -C $S .", NOW - 1800);
    assert_eq!(look(&mut collector, NOW).1, [""; 0]);
}

#[test]
fn folders_that_come_late_make_a_directory_complete() {
    let (_scratch, store, place) = old_store("chroma-1.5.9");
    let copy = place.join("a");
    pack(&store, &copy, "mkdir $B; cp $S/chroma.sqlite3 $B", NOW);
    let now = clock::now().as_secs() + 3600;
    let mut collector = backups_of(&store, &place, "*");
    assert!(look(&mut collector, now).1.contains(&"backup_incomplete"));
    pack(&store, &copy, "cp -R $S/*-*-*-*-* $B", NOW);
    assert!(!look(&mut collector, now).1.contains(&"backup_incomplete"));
}

#[test]
fn what_the_store_had_is_known_when_it_is_gone_and_after_a_restart() {
    let (scratch, store, place) = old_store("chroma-1.5.9");
    pack(&store, &place.join("a.sqlite3"), "cp $S/chroma.sqlite3 $B", NOW - 3600);
    let state = scratch.path().join("state");
    let config = Arc::new(Config { state_dir: Some(state), ..Config::default() });
    let new = || {
        let mut backups = backups_of(&store, &place, "*");
        backups.context =
            Context::new(&config, &backups.context.store, &Arc::new(Host::new(&config)));
        backups
    };
    let want = ["backup_incomplete", "backup_missing"];
    let mut collector = new();
    assert_eq!(look(&mut collector, NOW).1, want);
    fs::remove_file(store.join("chroma.sqlite3")).unwrap();
    assert_eq!(look(&mut collector, NOW).1, want);
    drop(collector);
    assert_eq!(look(&mut new(), NOW).1, want);
    // A store that was never seen tells nothing of a backup without folders.
    let mut stranger = backups_of(&store, &place, "*");
    let (seen, codes) = look(&mut stranger, NOW);
    assert_eq!((codes, seen.problems.len()), (vec![], 1));
}

#[test]
fn what_is_too_large_to_be_unpacked_is_unknown_unless_it_is_larger_than_the_database() {
    let content = |bytes| Content { bytes, holds: None, stated: None };
    let (_scratch, store, place) = old_store("chroma-1.5.9");
    let mut collector = backups_of(&store, &place, "*");
    look(&mut collector, NOW);
    let taken = Timestamp::from_secs(NOW - 3600);
    let lacking = |bytes| collector.vectors.lacking(taken, &content(bytes)).map(|f| f.reason);
    assert_eq!(lacking(4096), Some(Reason::Unknown));
    assert_eq!(lacking(1 << 30), None);
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
    assert!(!look(&mut collector, now).1.contains(&"backup_incomplete"));
    for folder in fs::read_dir(&copy).unwrap().map(|entry| entry.unwrap().path()) {
        if folder.is_dir() {
            fs::write(folder.join("header.bin"), POINTER).unwrap();
        }
    }
    assert!(look(&mut backups_of(&store, &place, "*"), now).1.contains(&"backup_incomplete"));
    fs::write(copy.join("chroma.sqlite3"), POINTER).unwrap();
    touch(&copy.join("chroma.sqlite3"), NOW);
    let (seen, codes) = look(&mut collector, now);
    assert!(codes.contains(&"backup_invalid"), "{codes:?}");
    assert!(seen.findings[0].evidence.contains("git lfs pull"), "{}", seen.findings[0].evidence);
}

#[test]
fn a_backup_without_the_log_of_the_store_is_not_called_complete() {
    for (name, command, complete) in [
        ("a.tar", "tar -cf $B -C $S --exclude=chroma.sqlite3-wal .", false),
        ("a.tgz", "tar -czf $B -C $S --exclude=chroma.sqlite3-wal .", false),
        ("a.copy", "cp -R $S $B; rm -f $B/chroma.sqlite3-wal", false),
        ("b.tar", "tar -cf $B -C $S .", true),
        ("b.copy", "cp -R $S $B", true),
    ] {
        let (_scratch, store, place) = old_store("chroma-1.5.9");
        let now = clock::now().as_secs() + 3600;
        let pack = |name: &str| pack(&store, &place.join(name), command, now - 3 * 3600);
        let told = || {
            let (seen, _) = look(&mut backups_of(&store, &place, "*"), now);
            (value(&seen, &COUNT), incomplete(&seen, "unknown") > 0.0)
        };
        let database = rusqlite::Connection::open(store.join("chroma.sqlite3")).unwrap();
        database.pragma_update(None, "journal_mode", "WAL").unwrap();
        database.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
        database.execute_batch("INSERT INTO tenants(id) VALUES('new')").unwrap();
        pack(name);
        assert_eq!(told(), (Some(f64::from(complete)), !complete), "{name}");
        // What SQLite has put back into the database is in a copy of that.
        database.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        pack(&format!("later-{name}"));
        assert!(told().0 >= Some(1.0) && !told().1, "{name}");
    }
}

/// A manifest as a backup of ours has it.
fn manifest(restores: Restores, at: i64) -> Vec<u8> {
    let proof = crate::format::manifest::Proof {
        restores,
        moment: Timestamp::from_secs(at),
        by: "chroma_exporter".to_owned(),
        checks: BTreeMap::new(),
        findings: BTreeSet::new(),
        seconds: 2.5,
    };
    let collection = crate::format::manifest::Collection {
        id: "c".to_owned(),
        name: "c".to_owned(),
        tenant: "default_tenant".to_owned(),
        database: "default_database".to_owned(),
        space: None,
        dimension: None,
        records: 7,
        documents: 7,
        vectors: 7,
        queued: 0,
    };
    let manifest = crate::format::manifest::Manifest {
        format: 1,
        made_by: "chroma_exporter".to_owned(),
        host: "h".to_owned(),
        store: "/srv/chroma".to_owned(),
        moment: Timestamp::from_secs(at),
        opened_by: None,
        files: Vec::new(),
        collections: vec![collection],
        proof: Some(proof),
    };
    manifest.to_json()
}

fn unverified(seen: &Observation) -> Option<(Severity, &str)> {
    let finding = seen.findings.iter().find(|f| f.code == Code::BackupUnverified)?;
    Some((finding.severity, &finding.evidence))
}

#[test]
fn a_backup_that_nobody_opened_is_told_when_the_drill_had_its_time() {
    let dir = tempfile::tempdir().unwrap();
    let mut collector = backups(dir.path(), "chroma_db.backup.*");
    archive(dir.path(), "chroma_db.backup.tar.gz", NOW - 3600);
    let (seen, _) = look(&mut collector, NOW);
    assert_eq!(unverified(&seen), None, "it is about to be opened");
    assert_eq!(value(&seen, &proven::PROVEN_COUNT), Some(0.0));
    assert_eq!(value(&seen, &proven::PROVEN), None);
    let (later, _) = look(&mut collector, NOW + 27 * 3600);
    let (severity, evidence) = unverified(&later).unwrap();
    assert_eq!(severity, Severity::Warning);
    assert!(evidence.ends_with("chroma_db.backup.tar.gz was never opened"), "{evidence}");
}

#[test]
fn a_manifest_says_how_a_backup_was_proven_in_a_directory_and_in_an_archive() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("chroma.backup.20261118");
    fs::create_dir(&copy).unwrap();
    fs::copy(fixture("chroma-1.5.9-empty/chroma.sqlite3"), copy.join("chroma.sqlite3")).unwrap();
    let at = NOW - 3600;
    fs::write(copy.join("manifest.json"), manifest(Restores::Whole, at)).unwrap();
    touch(&copy.join("chroma.sqlite3"), at);
    let packed = dir.path().join("chroma.backup.tar.zst");
    let mut tar = Command::new("tar");
    tar.arg("-cf").arg(dir.path().join("x.tar")).arg("-C").arg(&copy);
    assert!(tar.args(["manifest.json", "chroma.sqlite3"]).status().unwrap().success());
    let bytes = fs::read(dir.path().join("x.tar")).unwrap();
    fs::write(&packed, zstd::encode_all(&bytes[..], 1).unwrap()).unwrap();
    fs::remove_file(dir.path().join("x.tar")).unwrap();
    for pattern in ["chroma.backup.20261118", "chroma.backup.tar.zst"] {
        let mut collector = backups(dir.path(), pattern);
        // All of it was written a moment ago, whatever its times say.
        let now = clock::now().plus(Duration::from_mins(1)).as_secs();
        let (seen, _) = look(&mut collector, now);
        assert_eq!(value(&seen, &proven::PROVEN_COUNT), Some(1.0), "{pattern}");
        assert_eq!(value(&seen, &proven::PROVEN_RECORDS), Some(7.0), "{pattern}");
        assert_eq!(value(&seen, &proven::PROOF_SECONDS), Some(2.5), "{pattern}");
        assert_eq!(value(&seen, &proven::PROOF), Some(at as f64), "{pattern}");
    }
    fs::write(copy.join("manifest.json"), manifest(Restores::Not, at)).unwrap();
    let mut collector = backups(dir.path(), "chroma.backup.20261118");
    let now = clock::now().plus(Duration::from_mins(1)).as_secs();
    let (seen, codes) = look(&mut collector, now);
    assert_eq!(codes, ["backup_invalid", "backup_missing"], "{:?}", seen.findings);
}

#[test]
fn what_the_exporter_has_opened_itself_counts_as_long_as_the_bytes_are_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let state = tempfile::tempdir().unwrap();
    let config = Arc::new(Config { state_dir: Some(state.path().to_owned()), ..Config::default() });
    let policy = BackupPolicy::daily(vec![dir.path().join("*.gz").to_string_lossy().into_owned()]);
    let store =
        Arc::new(Store { backups: policy, ..Store::new("main", fixture("chroma-1.5.9-empty")) });
    let context = Context::new(&config, &store, &Arc::new(Host::new(&config)));
    let mut collector = Backups::new(&context);
    let path = archive(dir.path(), "a.tar.gz", NOW - 3600);
    look(&mut collector, NOW);
    let newest = Newest::load(&context.host.state, &store.path).unwrap();
    assert_eq!((&newest.path, newest.since), (&path, Timestamp::from_secs(NOW)));
    let mut ledger = Ledger::default();
    let proof = |restores, losses: &[&str]| ledger::Proof {
        restores,
        at: Timestamp::from_secs(NOW),
        seconds: 1.0,
        records: 3,
        losses: losses.iter().map(|loss| (*loss).to_owned()).collect(),
    };
    ledger.note(&newest, proof(Restores::Whole, &[]));
    ledger.save(&context.host.state, &store.path);
    let (seen, _) = look(&mut collector, NOW + 60);
    assert_eq!(unverified(&seen), None);
    assert_eq!(value(&seen, &proven::PROVEN_RECORDS), Some(3.0));
    let (seen, _) = look(&mut collector, NOW + 9 * 86_400);
    let (severity, evidence) = unverified(&seen).unwrap();
    assert!(evidence.starts_with("no backup was opened for 9 days"), "{evidence}");
    assert_eq!(severity, Severity::Warning);

    ledger.note(&newest, proof(Restores::WithLosses, &["docs: 2 records have no vector"]));
    ledger.save(&context.host.state, &store.path);
    let (seen, _) = look(&mut collector, NOW + 120);
    let (_, evidence) = unverified(&seen).unwrap();
    assert!(
        evidence.ends_with("restores with losses: docs: 2 records have no vector"),
        "{evidence}"
    );
    ledger.note(&newest, proof(Restores::Not, &["its database is cut off"]));
    ledger.save(&context.host.state, &store.path);
    assert_eq!(look(&mut collector, NOW + 180).1, ["backup_invalid", "backup_missing"]);

    touch(&path, NOW - 1800);
    let (seen, codes) = look(&mut collector, NOW + 240);
    assert_eq!(codes, [""; 0], "another file than the one that was opened: {:?}", seen.findings);
}

#[test]
fn a_backup_of_the_exporter_that_failed_is_told_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let state = tempfile::tempdir().unwrap();
    let config = Arc::new(Config { state_dir: Some(state.path().to_owned()), ..Config::default() });
    let job = crate::config::BackupJob { to: dir.path().to_owned(), ..Default::default() };
    let store =
        Arc::new(Store { backup: Some(job), ..Store::new("main", fixture("chroma-1.5.9-empty")) });
    let context = Context::new(&config, &store, &Arc::new(Host::new(&config)));
    let mut ledger = Ledger {
        job: Some(ledger::Run {
            began: Timestamp::from_secs(NOW),
            ended: Timestamp::from_secs(NOW + 5),
            path: None,
            fault: "not enough room".to_owned(),
            failing_since: Some(Timestamp::from_secs(NOW - 60)),
            after_exit: Some(3),
        }),
        ..Ledger::default()
    };
    ledger.save(&context.host.state, &store.path);
    let mut collector = Backups::new(&context);
    let (seen, codes) = look(&mut collector, NOW + 10);
    assert_eq!(codes, ["backup_missing", "backup_failed"], "its own place is looked at");
    assert!(seen.findings[1].evidence.contains("not enough room"));
    assert_eq!(value(&seen, &proven::JOB_SUCCESS), Some(0.0));
    assert_eq!(value(&seen, &proven::JOB_SECONDS), Some(5.0));
    assert_eq!(value(&seen, &proven::AFTER_EXIT), Some(3.0));
    if let Some(run) = &mut ledger.job {
        run.fault.clear();
    }
    ledger.save(&context.host.state, &store.path);
    let (seen, codes) = look(&mut collector, NOW + 20);
    assert_eq!((codes, value(&seen, &proven::JOB_SUCCESS)), (vec!["backup_missing"], Some(1.0)));
}
