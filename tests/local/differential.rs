//! Nothing that SQLite finds is missed: hundreds of real databases of Chroma are broken at random places, and what `check`
//! says of each is compared with what `PRAGMA integrity_check` of the bundled SQLite says of the same bytes at rest. The
//! checks run on a copy, as they do beside a server, because a process holds the file.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::Path,
};

use crate::support::{fixture, random::Random, run};
use rusqlite::{Connection, OpenFlags};

const CASES: u64 = 200;

#[test]
fn nothing_that_integrity_check_reports_is_missed() {
    let (mut damaged, mut harmless) = (0, 0);
    for case in 0..CASES {
        let scratch = tempfile::tempdir().unwrap();
        let name = ["chroma-1.5.9", "chroma-0.6.3", "chroma-1.5.9-deleted", "chroma-0.4.24"]
            [usize::try_from(case % 4).unwrap()];
        let dir = fixture(name, scratch.path());
        let path = dir.join("chroma.sqlite3");
        let what = damage(&path, case);
        let at_rest = integrity_check(&path);
        // Held open by this process, as by a server: the checks cannot have the file for themselves.
        let _held = File::options().read(true).write(true).open(&path).unwrap();
        let out = run(&[
            "check",
            "--output",
            "json",
            "--state.dir",
            "",
            "--store.path",
            dir.to_str().unwrap(),
        ]);
        let document: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
        let findings = document["stores"][0]["findings"].as_array().unwrap();
        let integrity: Vec<&str> = findings
            .iter()
            .filter(|finding| finding["collector"] == "integrity")
            .map(|finding| finding["code"].as_str().unwrap())
            .collect();
        let full = document["stores"][0]["integrity"]["full"].as_str().unwrap();
        if at_rest == "ok" {
            harmless += 1;
            assert_eq!(full, "ok", "case {case}, {what}: {integrity:?}");
        } else {
            damaged += 1;
            // A header that is damaged is told by the look that comes before SQLite is asked.
            assert!(
                !integrity.is_empty() && ["corrupt", "unreadable", "unknown"].contains(&full),
                "case {case}, {what}: {full}, but SQLite says {at_rest}"
            );
            assert_eq!(document["status"], "critical", "case {case}, {what}: {at_rest}");
        }
    }
    println!("{damaged} damaged, {harmless} of no consequence");
    assert!(damaged > CASES / 4, "too few cases: {damaged}");
}

/// What the bundled SQLite says of the file; an error is an answer too.
fn integrity_check(path: &Path) -> String {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    let answer = connection
        .execute_batch("PRAGMA cell_size_check=ON")
        .and_then(|()| connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)));
    answer.unwrap_or_else(|error| error.to_string())
}

/// Breaks the file in one of several ways and says how.
fn damage(path: &Path, case: u64) -> String {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let len = fs::metadata(path).unwrap().len();
    let mut random = Random(case * 7919 + 1);
    let page = random.below(len / 4096);
    match case / 4 % 4 {
        0 => {
            // Single bytes, anywhere.
            let places: Vec<u64> = (0..=random.below(8)).map(|_| random.below(len)).collect();
            for at in &places {
                let mut byte = [0];
                file.read_exact_at(&mut byte, *at).unwrap();
                file.write_all_at(&[byte[0] ^ (1 << random.below(8))], *at).unwrap();
            }
            format!("bits at {places:?}")
        }
        1 => {
            // The part of a page where its structure is.
            let at = page * 4096 + random.below(40);
            file.write_all_at(&[u8::try_from(random.below(256)).unwrap()], at).unwrap();
            format!("a byte at {at}")
        }
        2 => {
            let from = random.below(len / 4096);
            let mut content = vec![0; 4096];
            file.read_exact_at(&mut content, from * 4096).unwrap();
            file.write_all_at(&content, page * 4096).unwrap();
            format!("page {} over page {}", from + 1, page + 1)
        }
        _ => {
            file.write_all_at(&[0; 4096], page * 4096).unwrap();
            format!("page {} of zeros", page + 1)
        }
    }
}
