//! What surrounds the data: rights and backups.

use std::{
    fs::{self, File, FileTimes, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
    time::{Duration, SystemTime},
};

use super::{Fault, NEWEST, PURGED, V4, articles, file};
use crate::support::copy_tree;

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A tree with the modes that Chroma gives.
fn usual(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            usual(&entry);
        } else {
            mode(&entry, 0o644);
        }
    }
    mode(dir, 0o755);
}

const DECLARED: &str = "permissions: {file_mode: \"0644\", directory_mode: \"0755\"}";
/// Nobody else needs to exist for what a user may do by the modes alone.
const SERVED: &str = "permissions: {server_user: \"65534\"}";

#[rustfmt::skip]
pub(super) const PERMISSIONS: &[Fault] = &[
    file("database writable for everybody", NEWEST, &["permission_drift", "permission_world_writable"], |d| {
        usual(d);
        mode(&d.join("chroma.sqlite3"), 0o666);
    }).configured(DECLARED),
    file("directory writable for everybody", NEWEST, &["permission_drift", "permission_world_writable"], |d| {
        usual(d);
        mode(d, 0o777);
    }).configured(DECLARED),
    file("database without any right", NEWEST, &["permission_drift"], |d| {
        usual(d);
        mode(&d.join("chroma.sqlite3"), 0o600);
    }).configured(DECLARED),
    file("owned by another user than the server", NEWEST, &["permission_unwritable"], usual).configured(SERVED),
    file("elements of an index read-only, the rest as it should be", NEWEST, &["permission_drift"], |d| {
        usual(d);
        mode(&articles(d, "data_level0.bin"), 0o444);
    }).configured(DECLARED),
];

#[rustfmt::skip]
pub(super) const SYNCED: &[Fault] = &[
    file("a conflicted copy of the database, left by Dropbox", NEWEST, &["store_synced"], |d| {
        fs::copy(d.join("chroma.sqlite3"), d.join("chroma (web1's conflicted copy 2026-11-29).sqlite3")).unwrap();
    }).saying("was left by Dropbox or Nextcloud"),
    file("a conflict of Syncthing in the folder of an index", NEWEST, &["store_synced"], |d| {
        let copy = articles(d, "header.bin").with_file_name("header.sync-conflict-20261129-101500-ABCDEFG.bin");
        fs::copy(articles(d, "header.bin"), copy).unwrap();
    }).saying("was left by Syncthing"),
    file("the directory in a folder of Syncthing", NEWEST, &["store_synced"], |d| {
        fs::create_dir(d.join(".stfolder")).unwrap();
    }).saying("in step with other hosts"),
];

/// A backup beside the store, as old as is said.
fn backup(dir: &Path, name: &str, bytes: &[u8], hours: u64) {
    let folder = dir.with_file_name("backups");
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap();
    let taken = now() - Duration::from_hours(hours);
    File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_times(FileTimes::new().set_modified(taken))
        .unwrap();
}

#[allow(clippy::disallowed_methods, reason = "files of a test are as old as its case says")]
fn now() -> SystemTime {
    SystemTime::now()
}

/// A real archive of the store.
fn archive(dir: &Path) -> Vec<u8> {
    let parent = dir.parent().unwrap();
    let name = dir.file_name().unwrap();
    let out = std::process::Command::new("tar")
        .arg("-cz")
        .arg("-C")
        .arg(parent)
        .arg(name)
        .output()
        .unwrap();
    assert!(out.status.success());
    out.stdout
}

/// As if the folders had been there for a week.
fn flushed_long_ago(dir: &Path) {
    for folder in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if folder.is_dir() {
            for file in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                let times = FileTimes::new().set_modified(now() - Duration::from_hours(170));
                File::options().write(true).open(file).unwrap().set_times(times).unwrap();
            }
        }
    }
}

const PATTERN: &str = "backups: [\"{dir}/backups/chroma_db.backup.*\"]";
const NAME: &str = "chroma_db.backup.tar.gz";

#[rustfmt::skip]
pub(super) const BACKUPS: &[Fault] = &[
    file("a whole backup of yesterday", NEWEST, &["backup_same_disk"], |d| backup(d, NAME, &archive(d), 20)).configured(PATTERN),
    file("no backup at all", NEWEST, &["backup_missing"], |_| {}).configured(PATTERN),
    file("newest backup two days old", NEWEST, &["backup_same_disk", "backup_stale"], |d| backup(d, NAME, &archive(d), 30)).configured(PATTERN),
    file("newest backup a week old", NEWEST, &["backup_same_disk", "backup_stale critical"], |d| backup(d, NAME, &archive(d), 170)).configured(PATTERN),
    file("the only backup has 0 bytes", NEWEST, &["backup_invalid", "backup_missing"], |d| backup(d, NAME, b"", 2)).configured(PATTERN),
    file("the only backup is cut off", NEWEST, &["backup_invalid", "backup_missing"], |d| {
        let archive = archive(d);
        backup(d, NAME, &archive[..archive.len() / 2], 2);
    }).configured(PATTERN),
    file("the only backup is an error page", NEWEST, &["backup_invalid", "backup_missing"], |d| backup(d, NAME, b"<html>403 Forbidden</html>", 2)).configured(PATTERN),
    file("newest backup a fraction of those before", NEWEST, &["backup_same_disk", "backup_shrunk"], |d| {
        let (small, more) = (archive(d), d.with_file_name("more"));
        // What cannot be packed: as if many records had been deleted since.
        let mut random = 1_u32;
        let noise: Vec<u8> = (0..3_000_000).map(|_| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            random.to_be_bytes()[0]
        }).collect();
        copy_tree(d, &more);
        fs::write(more.join("documents.bin"), noise).unwrap();
        let whole = archive(&more);
        for (name, hours) in [("chroma_db.backup.1.tar.gz", 20), ("chroma_db.backup.2.tar.gz", 15), ("chroma_db.backup.3.tar.gz", 10)] {
            backup(d, name, &whole, hours);
        }
        backup(d, "chroma_db.backup.4.tar.gz", &small, 2);
    }).configured(PATTERN),
    file("the only backup is a copy of chroma.sqlite3", PURGED, &["backup_incomplete", "backup_missing"], |d| {
        flushed_long_ago(d);
        backup(d, "chroma_db.backup.sqlite3", &fs::read(d.join("chroma.sqlite3")).unwrap(), 2);
    }).configured(PATTERN),
    file("the only backup is a copy of chroma.sqlite3, and the queue was never purged", &[V4], &["backup_same_disk"], |d| {
        flushed_long_ago(d);
        backup(d, "chroma_db.backup.sqlite3", &fs::read(d.join("chroma.sqlite3")).unwrap(), 2);
    }).configured(PATTERN),
    file("newest backup without the folders that the one before had", NEWEST, &["backup_incomplete", "backup_same_disk"], |d| {
        backup(d, "chroma_db.backup.1.tar.gz", &archive(d), 20);
        backup(d, "chroma_db.backup.2.tar.gz", &archive(&d.join("chroma.sqlite3")), 2);
    }).configured(PATTERN),
];
