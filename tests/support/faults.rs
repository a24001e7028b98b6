//! One fault for each finding that a file or a table alone can show, done to a copy of the fixture `chroma-1.5.9`.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test binary uses its own part")]

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use rusqlite::Connection;

/// What is done to the persist directory.
pub type Fault = fn(&Path);

/// By the code that must be found; others may be found with it.
#[rustfmt::skip]
pub const FAULTS: &[(&str, Fault)] = &[
    ("store_missing", |d| fs::remove_dir_all(d).unwrap()),
    ("sqlite_missing", |d| fs::remove_file(database(d)).unwrap()),
    ("sqlite_empty", |d| fs::write(database(d), "").unwrap()),
    ("sqlite_not_regular", |d| {
        fs::remove_file(database(d)).unwrap();
        fs::create_dir(database(d)).unwrap();
    }),
    ("sqlite_not_a_database", |d| overwrite(&database(d), 0, &[0; 100])),
    ("sqlite_header_damaged", |d| overwrite(&database(d), 16, &[0x12, 0x34])),
    ("sqlite_truncated", |d| cut(&database(d), fs::metadata(database(d)).unwrap().len() / 2)),
    ("sqlite_corrupt", |d| overwrite(&database(d), (root(d, "embedding_metadata") - 1) * 4096, &[0xa5; 64])),
    ("sqlite_index_corrupt", |d| overwrite(&database(d), (root(d, "embedding_metadata_int_value") - 1) * 4096 + 8, &[0xff; 16])),
    ("fts_corrupt", |d| sql(d, "UPDATE embedding_fulltext_search_data SET block=x'ff00ff00ff00ff00' WHERE id>10")),
    ("fts_missing", |d| sql(d, "DROP TABLE embedding_fulltext_search")),
    ("journal_foreign", |d| {
        let journal = fixtures().join("chroma-1.5.9-hot-journal/chroma.sqlite3-journal");
        fs::copy(journal, d.join("chroma.sqlite3-journal")).unwrap();
    }),
    ("migration_mismatch", |d| sql(d, "DELETE FROM migrations WHERE dir='sysdb' AND version=5")),
    ("migrations_missing", |d| sql(d, "DROP TABLE migrations")),
    ("table_missing", |d| sql(d, "DROP TABLE collection_metadata")),
    ("default_tenant_missing", |d| sql(d, "DELETE FROM tenants")),
    ("default_database_missing", |d| sql(d, "DELETE FROM databases")),
    ("catalog_empty", |d| sql(d, "DELETE FROM collections; DELETE FROM segments; DELETE FROM databases; DELETE FROM tenants")),
    ("collection_config_invalid", |d| sql(d, "UPDATE collections SET config_json_str='garbage' WHERE name='articles'")),
    ("collection_dimension_mismatch", |d| sql(d, "UPDATE collections SET dimension=9 WHERE name='articles'")),
    ("collection_without_segments", |d| {
        sql(d, "DELETE FROM segments WHERE scope='VECTOR' AND collection=(SELECT id FROM collections WHERE name='articles')");
    }),
    ("seq_id_invalid", |d| sql(d, "DELETE FROM embeddings_queue")),
    ("queue_poisoned", |d| sql(d, "UPDATE embeddings_queue SET operation=9 WHERE seq_id=(SELECT max(seq_id) FROM embeddings_queue)")),
    ("segment_missing", |d| fs::remove_dir_all(articles(d)).unwrap()),
    ("segment_incomplete", |d| fs::remove_file(articles(d).join("header.bin")).unwrap()),
    ("segment_truncated", |d| cut(&articles(d).join("length.bin"), 160)),
    ("segment_header_invalid", |d| overwrite(&articles(d).join("header.bin"), 0, &[0; 100])),
    ("segment_metadata_invalid", |d| cut(&articles(d).join("index_metadata.pickle"), 700)),
    ("segment_metadata_hostile", |d| {
        fs::write(articles(d).join("index_metadata.pickle"), b"cposix\nsystem\n(X\x04\x00\x00\x00truetR.").unwrap();
    }),
    ("segment_inconsistent", |d| overwrite(&articles(d).join("length.bin"), 40, &f32::INFINITY.to_le_bytes())),
    ("segment_bloated", |d| cut(&articles(d).join("link_lists.bin"), 1 << 40)),
    ("segment_behind", |d| {
        sql(d, "UPDATE max_seq_id SET seq_id=90 WHERE segment_id=(SELECT s.id FROM segments s JOIN collections c ON c.id=s.collection \
                WHERE s.scope='VECTOR' AND c.name='articles'); DELETE FROM embeddings_queue WHERE seq_id<90");
    }),
    ("records_without_vector", |d| sql(d, "UPDATE embeddings SET embedding_id='nobody' WHERE embedding_id='articles-020'")),
];

pub fn database(dir: &Path) -> PathBuf {
    dir.join("chroma.sqlite3")
}

pub fn overwrite(file: &Path, at: u64, bytes: &[u8]) {
    File::options().write(true).open(file).unwrap().write_all_at(bytes, at).unwrap();
}

fn cut(file: &Path, length: u64) {
    File::options().write(true).open(file).unwrap().set_len(length).unwrap();
}

fn sql(dir: &Path, text: &str) {
    let connection = Connection::open(database(dir)).unwrap();
    connection.pragma_update(None, "foreign_keys", false).unwrap();
    connection.execute_batch(text).unwrap_or_else(|error| panic!("{text}: {error}"));
}

/// The first page of a table or index, counted from 1.
fn root(dir: &Path, name: &str) -> u64 {
    let connection = Connection::open(database(dir)).unwrap();
    let sql = "SELECT rootpage FROM sqlite_schema WHERE name=?1";
    let page: i64 = connection.query_row(sql, [name], |row| row.get(0)).unwrap();
    u64::try_from(page).unwrap()
}

/// The folder of the collection `articles`.
fn articles(dir: &Path) -> PathBuf {
    let connection = Connection::open(database(dir)).unwrap();
    let sql = "SELECT s.id FROM segments s JOIN collections c ON c.id=s.collection WHERE s.scope='VECTOR' AND c.name='articles'";
    dir.join(connection.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap())
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}
