//! `check` against real Chroma directories whose indexes were broken in one way each: exactly the expected findings come
//! out, and nothing else.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use rusqlite::Connection;
use support::{copy_tree, fixture, run};

const ALL: &[&str] = &["chroma-0.4.24", "chroma-0.6.3", "chroma-1.1.1", "chroma-1.5.9"];
/// Those whose queue is purged, so that it is not a second copy of everything.
const PURGED: &[&str] = &["chroma-0.6.3", "chroma-1.1.1", "chroma-1.5.9"];
const NEWEST: &[&str] = &["chroma-1.5.9"];

/// Codes and evidence that `check` gives for a copy of a fixture that `damage` has changed, but for those about this host.
fn check(name: &str, damage: impl FnOnce(&Path)) -> (Vec<String>, String) {
    let scratch = tempfile::tempdir().unwrap();
    let dir = fixture(name, scratch.path());
    damage(&dir);
    let before = digest(&dir);
    let path = dir.to_str().unwrap();
    let out = run(&["check", "--output", "json", "--state.dir", "", "--store.path", path]);
    assert!(before == digest(&dir), "{name}: the directory was changed");
    let document: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let findings = document["stores"][0]["findings"].as_array().unwrap();
    let mut codes: Vec<String> = findings
        .iter()
        .map(|finding| finding["code"].as_str().unwrap().to_owned())
        .filter(|code| {
            let about = ["disk", "headroom", "inodes", "permission"];
            !about.iter().any(|about| code.starts_with(about))
        })
        .collect();
    codes.sort();
    (codes, String::from_utf8(out.stdout).unwrap())
}

/// Every name and byte below `dir`.
fn digest(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut out = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            out.extend(digest(&entry));
        } else {
            let bytes = if fs::metadata(&entry).unwrap().len() < 1 << 20 {
                fs::read(&entry).unwrap()
            } else {
                Vec::new()
            };
            out.push((entry, bytes));
        }
    }
    out.sort();
    out
}

fn database(dir: &Path) -> Connection {
    Connection::open(dir.join("chroma.sqlite3")).unwrap()
}

/// The folder of a collection.
fn folder(dir: &Path, collection: &str) -> PathBuf {
    let sql = "SELECT s.id FROM segments s JOIN collections c ON c.id = s.collection \
               WHERE s.scope = 'VECTOR' AND c.name = ?1";
    dir.join(database(dir).query_row(sql, [collection], |row| row.get::<_, String>(0)).unwrap())
}

fn articles(dir: &Path, file: &str) -> PathBuf {
    folder(dir, "articles").join(file)
}

fn overwrite(file: &Path, at: u64, bytes: &[u8]) {
    File::options().write(true).open(file).unwrap().write_all_at(bytes, at).unwrap();
}

fn cut(file: &Path, length: u64) {
    let file = File::options().write(true).open(file).unwrap();
    assert_ne!(file.metadata().unwrap().len(), length);
    file.set_len(length).unwrap();
}

/// Where the element stands and how long each is: 8 numbers, and 16 neighbours above level 0.
const ELEMENT: u64 = 4 + 4 * 32 + 4 * 8 + 8;

/// Replaces text of the same length in a file, everywhere.
fn replace(file: &Path, from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len());
    let mut bytes = fs::read(file).unwrap();
    let mut found = 0;
    for at in 0..bytes.len().saturating_sub(from.len()) {
        if bytes[at..].starts_with(from) {
            bytes[at..at + to.len()].copy_from_slice(to);
            found += 1;
        }
    }
    assert!(found > 0);
    fs::write(file, bytes).unwrap();
}

fn exchange(a: &Path, b: &Path) {
    let aside = a.with_extension("aside");
    fs::rename(a, &aside).unwrap();
    fs::rename(b, a).unwrap();
    fs::rename(&aside, b).unwrap();
}

/// The database as it would be with everything flushed and purged, beside folders that are older.
fn advance_database(dir: &Path) {
    let database = database(dir);
    let sql = "SELECT s.id FROM segments s JOIN collections c ON c.id = s.collection \
               WHERE s.scope = 'VECTOR' AND c.name = 'articles'";
    let segment: String = database.query_row(sql, [], |row| row.get(0)).unwrap();
    let old = dir.to_str().unwrap().contains("chroma-0.");
    let position = if old { "x'000000000000005a'" } else { "90" };
    database
        .execute_batch(&format!(
            "UPDATE max_seq_id SET seq_id = {position} WHERE segment_id = '{segment}'; \
             DELETE FROM embeddings_queue WHERE seq_id < 90"
        ))
        .unwrap();
}

/// The database as it was before the last twenty flushed records, beside folders that are newer.
fn rewind_database(dir: &Path) {
    let database = database(dir);
    let newer =
        "SELECT id FROM embeddings WHERE embedding_id >= 'articles-060' AND embedding_id < 'b'";
    let array = "SELECT count(*) FROM sqlite_schema WHERE name = 'embedding_metadata_array'";
    let array: i64 = database.query_row(array, [], |row| row.get(0)).unwrap();
    if array > 0 {
        database
            .execute_batch(&format!("DELETE FROM embedding_metadata_array WHERE id IN ({newer})"))
            .unwrap();
    }
    database
        .execute_batch(&format!(
            "DELETE FROM embedding_fulltext_search WHERE rowid IN ({newer}); \
             DELETE FROM embedding_metadata WHERE id IN ({newer}); \
             DELETE FROM embeddings WHERE id IN ({newer}); \
             DELETE FROM embeddings_queue WHERE seq_id < 90 AND seq_id > 60"
        ))
        .unwrap();
}

fn rename_record(dir: &Path) {
    let sql = "UPDATE embeddings SET embedding_id = 'nobody' WHERE embedding_id = 'articles-020'";
    assert_eq!(database(dir).execute(sql, []).unwrap(), 1);
}

const HOSTILE: &[u8] = b"cposix\nsystem\n(X\x04\x00\x00\x00truetR.";

type Damage = fn(&Path);

#[rustfmt::skip]
const CASES: &[(&str, &[&str], &[&str], Damage)] = &[
    ("header missing", ALL, &["segment_incomplete"], |d| fs::remove_file(articles(d, "header.bin")).unwrap()),
    ("header empty", NEWEST, &["segment_incomplete"], |d| cut(&articles(d, "header.bin"), 0)),
    ("header is a directory", NEWEST, &["segment_incomplete"], |d| {
        fs::remove_file(articles(d, "header.bin")).unwrap();
        fs::create_dir(articles(d, "header.bin")).unwrap();
    }),
    ("header cut", ALL, &["segment_truncated"], |d| cut(&articles(d, "header.bin"), 40)),
    ("header zeroed", NEWEST, &["segment_header_invalid"], |d| overwrite(&articles(d, "header.bin"), 0, &[0; 100])),
    ("header of another version", NEWEST, &["segment_header_invalid"], |d| overwrite(&articles(d, "header.bin"), 0, &[2])),
    ("more elements than room", ALL, &["segment_header_invalid"], |d| overwrite(&articles(d, "header.bin"), 20, &1_000_000_u64.to_le_bytes())),
    ("entry point nowhere", ALL, &["segment_header_invalid"], |d| overwrite(&articles(d, "header.bin"), 56, &80_u32.to_le_bytes())),
    ("other number of neighbours", NEWEST, &["segment_header_invalid"], |d| overwrite(&articles(d, "header.bin"), 60, &8_u64.to_le_bytes())),
    ("another level", NEWEST, &["segment_inconsistent"], |d| overwrite(&articles(d, "header.bin"), 52, &3_i32.to_le_bytes())),
    ("one element less", ALL, &["segment_inconsistent"], |d| overwrite(&articles(d, "header.bin"), 20, &79_u64.to_le_bytes())),
    ("elements missing", NEWEST, &["segment_incomplete"], |d| fs::remove_file(articles(d, "data_level0.bin")).unwrap()),
    ("elements empty", NEWEST, &["segment_incomplete"], |d| cut(&articles(d, "data_level0.bin"), 0)),
    ("elements cut", ALL, &["segment_truncated"], |d| cut(&articles(d, "data_level0.bin"), 10 * ELEMENT + 7)),
    ("neighbour nowhere", ALL, &["segment_inconsistent"], |d| overwrite(&articles(d, "data_level0.bin"), 5 * ELEMENT + 4, &[0xff; 4])),
    ("too many neighbours", NEWEST, &["segment_inconsistent"], |d| overwrite(&articles(d, "data_level0.bin"), 5 * ELEMENT, &[0xff])),
    ("label of another element", ALL, &["segment_inconsistent"], |d| overwrite(&articles(d, "data_level0.bin"), 6 * ELEMENT - 8, &9_u64.to_le_bytes())),
    ("label never given out", NEWEST, &["segment_inconsistent"], |d| overwrite(&articles(d, "data_level0.bin"), 6 * ELEMENT - 8, &999_u64.to_le_bytes())),
    ("number that is none", ALL, &["segment_inconsistent"], |d| overwrite(&articles(d, "data_level0.bin"), 6 * ELEMENT - 12, &f32::NAN.to_le_bytes())),
    ("marked as deleted", ALL, &["segment_inconsistent"], |d| overwrite(&articles(d, "data_level0.bin"), 5 * ELEMENT + 2, &[1])),
    ("no longer marked as deleted", &["chroma-1.5.9-deleted"], &["segment_inconsistent", "segment_orphan"], |d| overwrite(&articles(d, "data_level0.bin"), 5 * ELEMENT + 2, &[0])),
    ("norms missing", NEWEST, &["segment_incomplete"], |d| fs::remove_file(articles(d, "length.bin")).unwrap()),
    ("norms empty", NEWEST, &["segment_incomplete"], |d| cut(&articles(d, "length.bin"), 0)),
    ("norms cut", ALL, &["segment_truncated"], |d| cut(&articles(d, "length.bin"), 160)),
    ("infinite norm", ALL, &["segment_inconsistent"], |d| overwrite(&articles(d, "length.bin"), 40, &f32::INFINITY.to_le_bytes())),
    ("links missing", NEWEST, &["segment_incomplete"], |d| fs::remove_file(articles(d, "link_lists.bin")).unwrap()),
    ("links empty", ALL, &["segment_incomplete"], |d| cut(&articles(d, "link_lists.bin"), 0)),
    ("links cut", ALL, &["segment_truncated"], |d| {
        let file = articles(d, "link_lists.bin");
        cut(&file, fs::metadata(&file).unwrap().len() - 1);
    }),
    ("links cut below their lengths", NEWEST, &["segment_truncated"], |d| cut(&articles(d, "link_lists.bin"), 100)),
    ("impossible length of links", ALL, &["segment_inconsistent"], |d| overwrite(&articles(d, "link_lists.bin"), 0, &[1, 2, 3, 4])),
    ("bytes behind the links", NEWEST, &["segment_inconsistent"], |d| {
        let file = articles(d, "link_lists.bin");
        cut(&file, fs::metadata(&file).unwrap().len() + 8);
    }),
    ("links without end", ALL, &["segment_bloated"], |d| cut(&articles(d, "link_lists.bin"), 1 << 40)),
    ("elements without end", NEWEST, &["segment_bloated"], |d| cut(&articles(d, "data_level0.bin"), 1 << 40)),
    ("metadata missing", ALL, &["segment_incomplete"], |d| fs::remove_file(articles(d, "index_metadata.pickle")).unwrap()),
    ("metadata empty", NEWEST, &["segment_incomplete"], |d| cut(&articles(d, "index_metadata.pickle"), 0)),
    ("metadata cut", ALL, &["segment_metadata_invalid"], |d| cut(&articles(d, "index_metadata.pickle"), 700)),
    ("metadata are text", NEWEST, &["segment_metadata_invalid"], |d| fs::write(articles(d, "index_metadata.pickle"), "hello").unwrap()),
    ("metadata call code", ALL, &["segment_metadata_hostile"], |d| fs::write(articles(d, "index_metadata.pickle"), HOSTILE).unwrap()),
    ("metadata call code, header cut", NEWEST, &["segment_metadata_hostile"], |d| {
        fs::write(articles(d, "index_metadata.pickle"), HOSTILE).unwrap();
        cut(&articles(d, "header.bin"), 40);
    }),
    ("one map of the metadata differs", NEWEST, &["segment_metadata_invalid"], |d| {
        let file = articles(d, "index_metadata.pickle");
        let mut from = b"articles-020J\x15".to_vec();
        let mut to = from.clone();
        to[13] = 0x16;
        from.extend([0; 3]);
        to.extend([0; 3]);
        replace(&file, &from, &to);
    }),
    ("metadata exchanged", ALL, &["segment_inconsistent", "segment_inconsistent"], |d| {
        let name = "index_metadata.pickle";
        exchange(&articles(d, name), &folder(d, "notes").join(name));
    }),
    ("folders exchanged", ALL, &["segment_inconsistent", "segment_inconsistent"], |d| {
        exchange(&folder(d, "articles"), &folder(d, "notes"));
    }),
    ("folder of another store", ALL, &["segment_inconsistent"], |d| {
        replace(&articles(d, "index_metadata.pickle"), b"articles-", b"artifact-");
    }),
    ("folder missing", ALL, &["segment_missing"], |d| fs::remove_dir_all(folder(d, "articles")).unwrap()),
    ("folder empty", ALL, &["segment_incomplete"], |d| {
        fs::remove_dir_all(folder(d, "articles")).unwrap();
        fs::create_dir(folder(d, "articles")).unwrap();
    }),
    ("folder of nobody", ALL, &["segment_orphan"], |d| {
        copy_tree(&folder(d, "articles"), &d.join("3f2504e0-4f89-41d3-9a0c-0305e82c3301"));
    }),
    ("database newer than folder", PURGED, &["segment_behind"], advance_database),
    ("database older than folder", ALL, &["segment_ahead"], rewind_database),
    ("a record that only the tables have", ALL, &["records_without_vector"], rename_record),
    ("unpersisted folder missing", &["chroma-1.5.9-fresh"], &["segment_missing"], |d| fs::remove_dir_all(folder(d, "articles")).unwrap()),
];

#[test]
fn healthy_directories_have_no_finding() {
    for name in
        ALL.iter().chain(&["chroma-1.5.9-fresh", "chroma-1.5.9-empty", "chroma-1.5.9-journal-left"])
    {
        assert_eq!(check(name, |_| {}).0, [""; 0], "{name}");
    }
    assert_eq!(check("chroma-1.5.9-deleted", |_| {}).0, ["segment_orphan"]);
    assert_eq!(check("chroma-1.5.9-hot-journal", |_| {}).0, ["hot_journal"]);
}

#[test]
fn every_damage_is_told_by_its_name_and_nothing_else_is() {
    let cases: Vec<_> = CASES
        .iter()
        .flat_map(|(what, stores, codes, damage)| {
            stores.iter().map(move |store| (*what, *store, *codes, *damage))
        })
        .collect();
    assert!(cases.len() > 90);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let wrong = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some((what, store, codes, damage)) = cases.get(at) else { break };
                    let (found, document) = check(store, damage);
                    if found != *codes {
                        wrong
                            .lock()
                            .unwrap()
                            .push(format!("{what}, {store}: {found:?}\n{document}"));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn a_loss_is_counted_and_named() {
    let (_, document) = check("chroma-1.5.9", rename_record);
    assert!(document.contains("1 of 86 records") && document.contains("nobody"), "{document}");
    let (_, document) = check("chroma-0.4.24", |dir| {
        fs::remove_dir_all(folder(dir, "articles")).unwrap();
    });
    assert!(document.contains("all 86 vectors are still in the queue"), "{document}");
    let (_, document) = check("chroma-1.5.9", |dir| {
        fs::remove_dir_all(folder(dir, "articles")).unwrap();
    });
    assert!(document.contains("78 of 86 records have no vector any more"), "{document}");
}
