//! The directory itself, the file of the database, its full-text table and its journal.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::PermissionsExt as _,
    os::unix::fs::{FileExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use super::{Fault, NEWEST, PURGED, V4, V6, V11, V15, cut, database, file, overwrite, sql};
use crate::support::copy_tree;

fn db(dir: &Path) -> PathBuf {
    dir.join("chroma.sqlite3")
}

const PAGE: u64 = 4096;

/// The first page of a table or index, counted from 1.
fn root(dir: &Path, name: &str) -> u64 {
    let sql = "SELECT rootpage FROM sqlite_schema WHERE name=?1";
    let page: i64 = database(dir).query_row(sql, [name], |row| row.get(0)).unwrap();
    u64::try_from(page).unwrap()
}

/// Where the first page of a table or index begins.
fn at(dir: &Path, name: &str) -> u64 {
    (root(dir, name) - 1) * PAGE
}

/// The `n`-th child of the interior page that is the root of `name`, counted from 1.
fn child(dir: &Path, name: &str, n: u64) -> u64 {
    let file = File::open(db(dir)).unwrap();
    let page = at(dir, name);
    let mut kind = [0];
    file.read_exact_at(&mut kind, page).unwrap();
    assert!([2, 5].contains(&kind[0]), "{name} is a leaf");
    let mut cell = [0; 2];
    file.read_exact_at(&mut cell, page + 12 + 2 * n).unwrap();
    let mut number = [0; 4];
    file.read_exact_at(&mut number, page + u64::from(u16::from_be_bytes(cell))).unwrap();
    u64::from(u32::from_be_bytes(number))
}

fn zero_page(dir: &Path, page: u64) {
    overwrite(&db(dir), (page - 1) * PAGE, &[0; 4096]);
}

fn length(dir: &Path) -> u64 {
    fs::metadata(db(dir)).unwrap().len()
}

/// The page on which the long text of `articles-007` begins to overflow, from the end of its cell.
fn overflow(dir: &Path) -> u64 {
    let bytes = fs::read(db(dir)).unwrap();
    let text = b"articles-007: ";
    let found = |page: &&[u8]| page[0] == 13 && page.windows(text.len()).any(|part| part == text);
    let leaf = bytes.chunks(4096).find(found).expect("a leaf with the text");
    let cells = usize::from(u16::from_be_bytes([leaf[3], leaf[4]]));
    for cell in 0..cells {
        let pointer = 8 + 2 * cell;
        let start = usize::from(u16::from_be_bytes([leaf[pointer], leaf[pointer + 1]]));
        let payload = (u64::from(leaf[start] & 0x7f) << 7) | u64::from(leaf[start + 1]);
        if leaf[start] & 0x80 == 0 || payload < 4061 {
            continue;
        }
        // How much of a long row stays on its leaf: fileformat2.html, section 1.6.
        let least = (4096 - 12) * 32 / 255 - 23;
        let stays = least + (payload - least) % (4096 - 4);
        let stays = usize::try_from(if stays <= 4061 { stays } else { least }).unwrap();
        let rowid = if leaf[start + 2] & 0x80 == 0 { 1 } else { 2 };
        let end = start + 2 + rowid + stays;
        let number = [leaf[end], leaf[end + 1], leaf[end + 2], leaf[end + 3]];
        return u64::from(u32::from_be_bytes(number));
    }
    panic!("no row overflows");
}

/// Takes the definition of an index away while `change` works, so that the index does not follow.
fn behind_the_back_of(dir: &Path, index: &str, change: &str) {
    let keep = "SELECT type, name, tbl_name, rootpage, sql FROM sqlite_schema WHERE name = ?1";
    let (kind, table, page, text): (String, String, i64, String) = database(dir)
        .query_row(keep, [index], |row| Ok((row.get(0)?, row.get(2)?, row.get(3)?, row.get(4)?)))
        .unwrap();
    let schema = |text: &str| {
        let database = database(dir);
        database.pragma_update(None, "writable_schema", true).unwrap();
        database.execute_batch(text).unwrap();
    };
    schema(&format!("DELETE FROM sqlite_schema WHERE name = '{index}'"));
    super::execute(dir, change);
    let text = text.replace('\'', "''");
    schema(&format!(
        "INSERT INTO sqlite_schema VALUES('{kind}', '{index}', '{table}', {page}, '{text}')"
    ));
}

fn beside(dir: &Path, fixture: &str) -> PathBuf {
    let dir = dir.with_file_name(format!("beside-{fixture}"));
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(fixture);
    copy_tree(&from, &dir);
    dir
}

/// Puts another fixture in the place of this one.
pub(super) fn instead(dir: &Path, fixture: &str) {
    fs::remove_dir_all(dir).unwrap();
    fs::rename(beside(dir, fixture), dir).unwrap();
}

/// The folder of a restore that has come so far.
fn restoring(folder: &Path, store: &Path, state: &str) {
    fs::create_dir_all(folder).unwrap();
    let record = serde_json::json!({
        "format": 1, "by": "chroma_exporter", "state": state, "store": store, "backup": "/backup/a.tar.zst",
        "began": "2026-11-30T02:00:00Z", "changed": "2026-11-30T02:00:00Z", "way": "files", "had_database": true,
    });
    fs::write(folder.join("restore.json"), record.to_string()).unwrap();
}

/// Leaves nothing in the directory but one file.
fn leave(dir: &Path, file: &Path) {
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            fs::remove_dir_all(entry).unwrap();
        } else if entry != file {
            fs::remove_file(entry).unwrap();
        }
    }
}

/// Rows that stand in the -wal file alone, as after a kill: copies of the files while they are open. The header says that
/// the database is not in WAL mode, as that of an older copy does.
fn log_without_the_mode(dir: &Path) {
    let held_open = database(dir);
    held_open.execute_batch("PRAGMA journal_mode=WAL; INSERT INTO collection_metadata SELECT id, 'wal', 'x', NULL, NULL, NULL FROM collections").unwrap();
    let saved = dir.with_file_name("saved");
    copy_tree(dir, &saved);
    drop(held_open);
    fs::remove_dir_all(dir).unwrap();
    fs::rename(saved, dir).unwrap();
    fs::remove_file(dir.join("chroma.sqlite3-shm")).unwrap();
    overwrite(&db(dir), 18, &[1, 1]);
    for name in ["chroma.sqlite3", "chroma.sqlite3-wal"] {
        rest(&dir.join(name));
    }
}

/// As if it had not been written for long.
fn rest(file: &Path) {
    let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_hours(400_000);
    File::open(file).unwrap().set_modified(long_ago).unwrap();
}

fn journal(dir: &Path) -> PathBuf {
    dir.join("chroma.sqlite3-journal")
}

#[rustfmt::skip]
pub(super) const DIRECTORY: &[Fault] = &[
    file("directory gone", NEWEST, &["store_missing"], |d| fs::remove_dir_all(d).unwrap()),
    file("directory empty, as a volume that is not mounted", NEWEST, &["not_a_store"], |d| {
        fs::remove_dir_all(d).unwrap();
        fs::create_dir(d).unwrap();
    }),
    file("a file in the place of the directory", NEWEST, &["store_missing"], |d| {
        fs::remove_dir_all(d).unwrap();
        fs::write(d, "not a directory").unwrap();
    }),
    file("a dangling link in the place of the directory", NEWEST, &["store_missing"], |d| {
        fs::remove_dir_all(d).unwrap();
        symlink("/nowhere/at/all", d).unwrap();
    }),
    file("database gone, folders there", PURGED, &["sqlite_missing"], |d| fs::remove_file(db(d)).unwrap()),
    file("database of 0 bytes, folders there", PURGED, &["sqlite_empty"], |d| fs::write(db(d), "").unwrap()),
    file("only a journal left", NEWEST, &["sqlite_missing"], |d| {
        instead(d, "chroma-1.5.9-hot-journal");
        leave(d, &journal(d));
    }),
    file("only a -wal file left", NEWEST, &["sqlite_missing"], |d| {
        log_without_the_mode(d);
        leave(d, &d.join("chroma.sqlite3-wal"));
    }),
    file("only metadata of indexes left", PURGED, &["sqlite_missing"], |d| {
        fs::remove_file(db(d)).unwrap();
        for folder in fs::read_dir(d).unwrap().map(|entry| entry.unwrap().path()) {
            leave(&folder, &folder.join("index_metadata.pickle"));
        }
    }),
    file("a directory in the place of the database", NEWEST, &["sqlite_not_regular"], |d| {
        fs::remove_file(db(d)).unwrap();
        fs::create_dir(db(d)).unwrap();
    }),
    file("a dangling link in the place of the database", NEWEST, &["sqlite_not_regular"], |d| {
        fs::remove_file(db(d)).unwrap();
        symlink("/nowhere/at/all", db(d)).unwrap();
    }),
    file("a pipe in the place of the database", NEWEST, &["sqlite_not_regular"], |d| {
        fs::remove_file(db(d)).unwrap();
        assert!(Command::new("mkfifo").arg(db(d)).status().unwrap().success());
    }),
    file("a restore that was killed while files moved", NEWEST, &["restore_interrupted"], |d| {
        let folder = d.join(".chroma_exporter.restore.20261130_020000");
        restoring(&folder, d, "swapping");
        fs::create_dir(folder.join("old")).unwrap();
        fs::rename(db(d), folder.join("old/chroma.sqlite3")).unwrap();
        symlink(".", db(d)).unwrap();
    }),
    file("the folder of a restore that was killed early", NEWEST, &["restore_interrupted info"], |d| {
        let name = d.file_name().unwrap().to_str().unwrap();
        restoring(&d.with_file_name(format!(".{name}.restore.20261130_020000")), d, "staging");
    }),
    file("an empty database over the folders of another", NEWEST, &["catalog_empty"], |d| {
        fs::remove_file(db(d)).unwrap();
        fs::copy(beside(d, "chroma-1.5.9-empty").join("chroma.sqlite3"), db(d)).unwrap();
    }),
    file("another directory, open to everybody", NEWEST, &["not_a_store"], |d| {
        fs::remove_dir_all(d).unwrap();
        fs::create_dir_all(d.join("somebody's")).unwrap();
        for open in [d.join("somebody's"), d.to_owned()] {
            fs::set_permissions(open, fs::Permissions::from_mode(0o1777)).unwrap();
        }
    }),
    file("files of Chroma 0.3", NEWEST, &["not_a_store"], |d| {
        fs::remove_dir_all(d).unwrap();
        fs::create_dir_all(d.join("index")).unwrap();
        fs::write(d.join("chroma-embeddings.parquet"), b"PAR1").unwrap();
        fs::write(d.join("chroma-collections.parquet"), b"PAR1").unwrap();
    }),
    file("files of Chroma 0.3 beside a database that a newer one made", &["1.5.9-empty"], &["not_a_store"], |d| {
        fs::write(d.join("chroma-collections.parquet"), b"PAR1").unwrap();
    }),
];

#[rustfmt::skip]
pub(super) const SQLITE: &[Fault] = &[
    file("header of zeros", &[V6, V15], &["sqlite_not_a_database"], |d| overwrite(&db(d), 0, &[0; 100])),
    file("first page of zeros", NEWEST, &["sqlite_not_a_database"], |d| zero_page(d, 1)),
    file("text instead of a database", NEWEST, &["sqlite_not_a_database"], |d| fs::write(db(d), "<html>504 Gateway Time-out</html>").unwrap()),
    file("compressed instead of a database", NEWEST, &["sqlite_not_a_database"], |d| {
        assert!(Command::new("gzip").arg("-f").arg(db(d)).status().unwrap().success());
        fs::rename(d.join("chroma.sqlite3.gz"), db(d)).unwrap();
    }),
    file("impossible size of a page", NEWEST, &["sqlite_header_damaged"], |d| overwrite(&db(d), 16, &[0x12, 0x34])),
    file("impossible format number", NEWEST, &["sqlite_header_damaged"], |d| overwrite(&db(d), 18, &[9, 9])),
    file("schema on the first page damaged", NEWEST, &["sqlite_corrupt"], |d| overwrite(&db(d), 100, &[0xee; 40])),
    file("half of the file gone", &[V6, V15], &["sqlite_truncated"], |d| cut(&db(d), length(d) / 2)),
    file("last page gone", NEWEST, &["sqlite_truncated"], |d| cut(&db(d), length(d) - PAGE)),
    file("last byte gone", NEWEST, &["sqlite_truncated"], |d| cut(&db(d), length(d) - 1)),
    file("root of a table damaged", NEWEST, &["sqlite_corrupt"], |d| overwrite(&db(d), at(d, "embedding_metadata"), &[0xa5; 64])),
    file("inner page of a table of zeros", &[V4, V15], &["sqlite_corrupt"], |d| zero_page(d, root(d, "embedding_metadata"))),
    file("leaf of a table of zeros", NEWEST, &["sqlite_corrupt"], |d| zero_page(d, child(d, "embedding_metadata", 1))).saying("is of the table embedding_metadata: documents and metadata of at most"),
    file("leaf of the full-text index of zeros", NEWEST, &["sqlite_corrupt"], |d| zero_page(d, child(d, "embedding_fulltext_search_data", 1))).saying("is of the table embedding_fulltext_search_data: no record is affected"),
    file("table of collections of zeros", NEWEST, &["sqlite_corrupt"], |d| zero_page(d, root(d, "collections"))),
    file("table of segments of zeros", NEWEST, &["sqlite_corrupt"], |d| zero_page(d, root(d, "segments"))),
    file("leaf of the queue of zeros", NEWEST, &["sqlite_corrupt"], |d| zero_page(d, root(d, "embeddings_queue"))),
    file("leaf of a table filled with noise", NEWEST, &["sqlite_corrupt"], |d| {
        let noise: Vec<u8> = (0..4096_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
        overwrite(&db(d), (child(d, "embedding_metadata", 1) - 1) * PAGE, &noise);
    }),
    file("page of an index damaged", NEWEST, &["sqlite_index_corrupt"], |d| overwrite(&db(d), at(d, "embedding_metadata_int_value") + 8, &[0xff; 16])),
    file("page of an index of zeros", NEWEST, &["sqlite_index_corrupt"], |d| zero_page(d, root(d, "embedding_metadata_int_value"))).saying("is of the index embedding_metadata_int_value: no record is affected"),
    file("rows missing from an index", NEWEST, &["sqlite_index_corrupt"], |d| {
        behind_the_back_of(d, "embedding_metadata_int_value", "UPDATE embedding_metadata SET int_value = int_value + 7 WHERE key = 'page' AND id < 4");
    }),
    file("rows too many in an index", NEWEST, &["sqlite_index_corrupt"], |d| {
        behind_the_back_of(d, "embedding_metadata_int_value", "UPDATE embedding_metadata SET int_value = NULL, string_value = 'x' WHERE key = 'page' AND id < 4");
    }),
    file("chain of a long text broken", NEWEST, &["sqlite_corrupt"], |d| overwrite(&db(d), (overflow(d) - 1) * PAGE, &0xffff_u32.to_be_bytes())),
    file("a bit of a long text flipped", NEWEST, &["sqlite_index_corrupt", "sqlite_value_mismatch"], |d| {
        let at = (overflow(d) - 1) * PAGE + 1000;
        let mut byte = [0];
        File::open(db(d)).unwrap().read_exact_at(&mut byte, at).unwrap();
        overwrite(&db(d), at, &[byte[0] ^ 1]);
    }),
    file("wrong number of free pages", NEWEST, &["sqlite_corrupt"], |d| overwrite(&db(d), 36, &77_u32.to_be_bytes())),
    file("list of free pages leads to a table", NEWEST, &["sqlite_corrupt"], |d| {
        overwrite(&db(d), 32, &[u32::try_from(root(d, "collections")).unwrap().to_be_bytes(), 1_u32.to_be_bytes()].concat());
    }),
    file("a page used twice", NEWEST, &["sqlite_corrupt"], |d| {
        // The first child of the root becomes the second as well.
        let (file, page) = (File::open(db(d)).unwrap(), at(d, "embedding_metadata"));
        let cell = |n: u64| {
            let mut at = [0; 2];
            file.read_exact_at(&mut at, page + 12 + 2 * n).unwrap();
            page + u64::from(u16::from_be_bytes(at))
        };
        let mut number = [0; 4];
        file.read_exact_at(&mut number, cell(0)).unwrap();
        overwrite(&db(d), cell(1), &number);
    }),
    file("database of another store", NEWEST, &["segment_missing", "segment_missing"], |d| {
        fs::copy(beside(d, "chroma-1.5.9-journal-left").join("chroma.sqlite3"), db(d)).unwrap();
    }).saying("2 folders with an index are here that the database does not know, and none that it does"),
    file("Git LFS pointer in place of the database", NEWEST, &["sqlite_not_a_database"], |d| super::segments::point(&db(d))).saying("it is a Git LFS pointer"),
    sql("most of the file is free pages", NEWEST, &["free_pages_high"], "are free pages", "CREATE TABLE t(x); INSERT INTO t VALUES(zeroblob(67200000)); DROP TABLE t"),
];

#[rustfmt::skip]
pub(super) const FULL_TEXT: &[Fault] = &[
    sql("blocks of the full-text index overwritten", &[V6, V15], &["fts_corrupt"], "", "UPDATE embedding_fulltext_search_data SET block=x'ff00ff00ff00ff00' WHERE id>10"),
    sql("blocks of the full-text index gone", NEWEST, &["fts_corrupt"], "", "DELETE FROM embedding_fulltext_search_data WHERE id>10"),
    sql("structure of the full-text index overwritten", NEWEST, &["fts_corrupt"], "", "UPDATE embedding_fulltext_search_data SET block=x'ff' WHERE id=10"),
    sql("the full-text table gone", &[V6, V15], &["fts_missing"], "", "DROP TABLE embedding_fulltext_search"),
    sql("the full-text table empty", NEWEST, &["fts_out_of_step"], "", "DELETE FROM embedding_fulltext_search"),
];

#[rustfmt::skip]
pub(super) const JOURNAL: &[Fault] = &[
    file("writer killed in a transaction", &["1.5.9-hot-journal"], &["hot_journal"], |_| {}),
    file("writer killed before its journal was synced: nothing to do", &["1.5.9-journal-left"], &[], |_| {}),
    file("journal of a killed writer cut off", &["1.5.9-hot-journal"], &["hot_journal critical"], |d| super::cut(&journal(d), 5000)).saying("cut off"),
    file("hot journal deleted by hand", &["1.5.9-hot-journal"], &["sqlite_corrupt"], |d| fs::remove_file(journal(d)).unwrap()),
    file("journal of another database", NEWEST, &["journal_foreign"], |d| {
        fs::copy(journal(&beside(d, "chroma-1.5.9-hot-journal")), journal(d)).unwrap();
    }),
    file("first start killed in its first transaction", NEWEST, &["hot_journal"], |d| instead(d, "cut-1.5.9-first-start")).saying("nothing was stored"),
    file("first start killed before its first page", NEWEST, &["hot_journal"], |d| {
        instead(d, "cut-1.5.9-unwritten");
        rest(&db(d));
    }).saying("nothing was stored"),
    file("journal of a first transaction beside a database", NEWEST, &["journal_foreign"], |d| {
        fs::copy(journal(&beside(d, "cut-1.5.9-first-start")), journal(d)).unwrap();
    }).saying("would empty the database"),
    file("journal of a store beside a database of 0 bytes", &["1.5.9-hot-journal"], &["sqlite_empty"], |d| fs::write(db(d), "").unwrap()).saying("which the next start deletes"),
    file("text in the place of the journal", NEWEST, &["hot_journal critical"], |d| fs::write(journal(d), "not a journal").unwrap()),
    file("journal of 0 bytes left behind", NEWEST, &[], |d| File::create(journal(d)).unwrap().write_all(b"").unwrap()),
    file("rows in a -wal file beside a database that is not in WAL mode", &[V6, V11, V15], &["wal_mode"], log_without_the_mode).saying("not in WAL mode, and SQLite plays the log"),
    file("a -wal file that is none", NEWEST, &[], |d| {
        let path = d.join("chroma.sqlite3-wal");
        fs::write(&path, "not a log").unwrap();
        rest(&path);
        rest(&db(d));
    }),
    sql("WAL mode, everything in the file", NEWEST, &["wal_mode"], "", "PRAGMA journal_mode=WAL"),
    file("WAL mode, the newest rows in the -wal file only", NEWEST, &["wal_mode"], |d| {
        let held_open = database(d);
        held_open.execute_batch("PRAGMA journal_mode=WAL; INSERT INTO collection_metadata SELECT id, 'wal', 'x', NULL, NULL, NULL FROM collections").unwrap();
        // As after a kill: copies of the files while they are open.
        let saved = d.with_file_name("saved");
        copy_tree(d, &saved);
        drop(held_open);
        fs::remove_dir_all(d).unwrap();
        fs::rename(saved, d).unwrap();
    }),
];
