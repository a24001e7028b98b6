//! `check` against real directories of Chroma that were broken in one way each: the expected finding comes out, and the
//! directory is left as it was.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
};

use rusqlite::Connection;
use support::{fixture, run};

/// Findings and exit code of `check` over a copy of a fixture that `damage` has changed; `backup`, `disk` and
/// `permission` ones are left out, because they are about this host.
fn check(name: &str, damage: impl FnOnce(&Path)) -> (Vec<String>, i32) {
    let scratch = tempfile::tempdir().unwrap();
    let dir = fixture(name, scratch.path());
    damage(&dir);
    let listing = |dir: &Path| {
        let mut names: Vec<_> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        (names, fs::read(dir.join("chroma.sqlite3")).ok())
    };
    let before = listing(&dir);
    let out = run(&[
        "check",
        "--output",
        "json",
        "--state.dir",
        "",
        "--store.path",
        dir.to_str().unwrap(),
    ]);
    assert!(before == listing(&dir), "{name}: the directory was changed");
    let document: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let findings = document["stores"][0]["findings"].as_array().unwrap();
    let code = |finding: &serde_json::Value| finding["code"].as_str().unwrap().to_owned();
    let mut codes: Vec<String> = findings.iter().map(code).collect();
    codes.retain(|code| {
        !["disk", "headroom", "inodes", "permission"].iter().any(|about| code.starts_with(about))
    });
    codes.sort();
    (codes, out.status.code().unwrap())
}

fn database(dir: &Path) -> Connection {
    Connection::open(dir.join("chroma.sqlite3")).unwrap()
}

fn overwrite(dir: &Path, at: u64, bytes: &[u8]) {
    File::options()
        .write(true)
        .open(dir.join("chroma.sqlite3"))
        .unwrap()
        .write_all_at(bytes, at)
        .unwrap();
}

/// The first page of a table or index, counted from 1.
fn root(dir: &Path, name: &str) -> u64 {
    let sql = "SELECT rootpage FROM sqlite_schema WHERE name=?1";
    let page: i64 = database(dir).query_row(sql, [name], |row| row.get(0)).unwrap();
    u64::try_from(page).unwrap()
}

#[test]
fn every_family_is_healthy() {
    for name in [
        "chroma-0.4.24",
        "chroma-0.6.3",
        "chroma-1.1.1",
        "chroma-1.5.9",
        "chroma-1.5.9-empty",
        "chroma-1.5.9-fresh",
        "chroma-1.5.9-journal-left",
    ] {
        assert_eq!(check(name, |_| {}).0, [""; 0], "{name}");
    }
}

#[test]
fn damage_is_told_by_its_name() {
    type Damage = fn(&Path);
    let cases: &[(&str, Damage)] = &[
        ("sqlite_not_a_database", |dir| overwrite(dir, 0, &[0; 100])),
        ("sqlite_header_damaged", |dir| overwrite(dir, 16, &[0x12, 0x34])),
        ("sqlite_truncated", |dir| {
            let file = File::options().write(true).open(dir.join("chroma.sqlite3")).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        }),
        ("sqlite_empty", |dir| fs::write(dir.join("chroma.sqlite3"), "").unwrap()),
        ("sqlite_missing", |dir| fs::remove_file(dir.join("chroma.sqlite3")).unwrap()),
        ("sqlite_not_regular", |dir| {
            fs::remove_file(dir.join("chroma.sqlite3")).unwrap();
            fs::create_dir(dir.join("chroma.sqlite3")).unwrap();
        }),
        ("sqlite_corrupt", |dir| {
            overwrite(dir, (root(dir, "embedding_metadata") - 1) * 4096, &[0xa5; 64]);
        }),
        ("sqlite_index_corrupt", |dir| {
            let index = "embedding_metadata_int_value";
            overwrite(dir, (root(dir, index) - 1) * 4096 + 8, &[0xff; 16]);
        }),
        ("fts_corrupt", |dir| {
            let sql =
                "UPDATE embedding_fulltext_search_data SET block=x'ff00ff00ff00ff00' WHERE id>10";
            database(dir).execute_batch(sql).unwrap();
        }),
        ("default_tenant_missing", |dir| {
            database(dir).execute_batch("DELETE FROM tenants").unwrap();
        }),
        ("default_database_missing", |dir| {
            database(dir).execute_batch("DELETE FROM databases").unwrap();
        }),
        ("migrations_missing", |dir| database(dir).execute_batch("DROP TABLE migrations").unwrap()),
        ("migration_mismatch", |dir| {
            database(dir)
                .execute_batch("DELETE FROM migrations WHERE dir='sysdb' AND version=5")
                .unwrap();
        }),
        ("table_missing", |dir| {
            database(dir).execute_batch("DROP TABLE collection_metadata").unwrap();
        }),
        ("fts_missing", |dir| {
            database(dir).execute_batch("DROP TABLE embedding_fulltext_search").unwrap();
        }),
        ("wal_mode", |dir| {
            let connection = database(dir);
            connection.query_row("PRAGMA journal_mode=WAL", [], |_| Ok(())).unwrap();
        }),
    ];
    for (code, damage) in cases {
        let (codes, exit) = check("chroma-1.5.9", damage);
        assert!(codes.iter().any(|found| found == code), "{code}: {codes:?}");
        assert!(exit == 2 || *code == "wal_mode", "{code}: exit {exit}");
    }
}

#[test]
fn a_hot_journal_is_no_damage() {
    assert_eq!(check("chroma-1.5.9-hot-journal", |_| {}), (vec!["hot_journal".to_owned()], 1));
}

#[test]
fn a_writer_at_work_is_no_damage() {
    let (codes, _) = check("chroma-1.5.9", |dir| {
        // A transaction that is open for as long as the check runs, and one page longer than the header says.
        let connection = database(dir);
        connection
            .execute_batch(
                "BEGIN IMMEDIATE; CREATE TABLE t(x); INSERT INTO t VALUES(zeroblob(100000))",
            )
            .unwrap();
        std::mem::forget(connection);
    });
    let alarms: Vec<_> =
        codes.iter().filter(|code| code.starts_with("sqlite") || code.starts_with("fts")).collect();
    assert!(alarms.is_empty(), "{codes:?}");
}
