//! `check` against real directories of four releases of Chroma whose rows were broken in one way each by SQL: exactly the
//! expected codes come out, at the expected severity, and nothing else; and none from directories that only look odd.
//! What each fault does to Chroma itself was measured with that release.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{fs, path::Path};

use rusqlite::Connection;
use support::{fixture, run};

const V4: &str = "chroma-0.4.24";
const V6: &str = "chroma-0.6.3";
const V11: &str = "chroma-1.1.1";
const V15: &str = "chroma-1.5.9";

/// `code severity` of each finding about the contents, and all evidence.
fn check(name: &str, damage: impl FnOnce(&Path)) -> (Vec<String>, String) {
    let scratch = tempfile::tempdir().unwrap();
    let dir = fixture(name, scratch.path());
    damage(&dir);
    age(&dir);
    let before = fs::read(dir.join("chroma.sqlite3")).unwrap();
    let store = dir.to_str().unwrap();
    let words = ["check", "--output", "json", "--state.dir", "", "--store.path", store];
    let out = run(&words);
    assert!(
        before == fs::read(dir.join("chroma.sqlite3")).unwrap(),
        "{name}: the file was changed"
    );
    let document: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let store = &document["stores"][0];
    let problems = store["problems"].as_array().map_or(0, Vec::len);
    assert_eq!(problems, 0, "{name}: {store}");
    let mut codes = Vec::new();
    let mut evidence = String::new();
    for finding in store["findings"].as_array().unwrap() {
        let text = |key: &str| finding[key].as_str().unwrap();
        // About this host, and about files beside the database.
        let others = ["disk", "headroom", "inodes", "permission", "segment_", "records_without"];
        if !others.iter().any(|about| text("code").starts_with(about)) {
            codes.push(format!("{} {}", text("code"), text("severity")));
            evidence.push_str(text("evidence"));
            evidence.push('\n');
        }
    }
    codes.sort();
    (codes, evidence)
}

/// A copy is as old as its files; a flush of this moment may not have written its position yet.
fn age(dir: &Path) {
    let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_hours(400_000);
    for folder in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if let Ok(pickle) = fs::File::open(folder.join("index_metadata.pickle")) {
            pickle.set_modified(long_ago).unwrap();
        }
    }
}

fn sql(dir: &Path, text: &str) {
    let connection = Connection::open(dir.join("chroma.sqlite3")).unwrap();
    connection.pragma_update(None, "foreign_keys", false).unwrap();
    connection.execute_batch(&fill(text)).unwrap_or_else(|error| panic!("{text}: {error}"));
}

/// Short words for what most cases are about.
fn fill(text: &str) -> String {
    let articles = "(SELECT id FROM collections WHERE name='articles')";
    let segment = |scope| {
        format!("(SELECT id FROM segments WHERE collection={articles} AND scope='{scope}')")
    };
    text.replace("{VECTOR}", &segment("VECTOR"))
        .replace("{METADATA}", &segment("METADATA"))
        .replace(
            "{LAST}",
            &format!("(SELECT max(seq_id) FROM embeddings_queue WHERE topic LIKE '%'||{articles})"),
        )
        .replace("{articles}", articles)
        .replace("{NEW}", "'11111111-1111-1111-1111-111111111111'")
}

/// Release, SQL, expected findings, words that the evidence must have.
type Case = (&'static str, &'static str, &'static [&'static str], &'static str);

fn prove(cases: &[Case]) {
    for (name, text, want, words) in cases {
        let (codes, evidence) = check(name, |dir| sql(dir, text));
        assert_eq!(codes, *want, "{name}: {text}\n{evidence}");
        assert!(evidence.contains(words), "{name}: {text}\n{evidence}");
    }
}

const CONFIG: &[&str] = &["collection_config_invalid critical"];
const DIMENSION: &[&str] = &["collection_dimension_mismatch critical"];
const SEGMENTS: &[&str] = &["collection_without_segments critical"];
const ORPHANS: &[&str] = &["orphan_rows warning"];
const HIDDEN: &[&str] = &["orphan_rows critical"];
const LEFT: &[&str] = &["orphan_rows info"];
const INVALID: &[&str] = &["seq_id_invalid critical"];
const POISON: &[&str] = &["queue_poisoned critical"];
const STEP: &[&str] = &["fts_out_of_step warning"];
const VALUE: &[&str] = &["sqlite_value_mismatch warning"];
const MISMATCH: &[&str] = &["migration_mismatch critical"];

#[test]
fn broken_rows_of_the_catalogue_are_named() {
    prove(&[
        (
            V15,
            "UPDATE collections SET config_json_str='garbage' WHERE name='articles'",
            CONFIG,
            "no JSON",
        ),
        (
            V11,
            "UPDATE collections SET config_json_str='' WHERE name='articles'",
            CONFIG,
            "articles",
        ),
        (
            V11,
            "UPDATE collections SET config_json_str=x'7b7d' WHERE name='articles'",
            CONFIG,
            "bytes",
        ),
        (
            V15,
            "UPDATE collections SET config_json_str='{\"vector_index\":{\"hnsw\":{\"space\":\"banana\"}}}' WHERE name='articles'",
            CONFIG,
            "space",
        ),
        (V6, "UPDATE collections SET config_json_str='{}' WHERE name='articles'", CONFIG, "_type"),
        (V6, "UPDATE collections SET config_json_str='[]'", CONFIG, "notes"),
        (
            V15,
            "UPDATE collections SET schema_str='garbage' WHERE name='articles'",
            CONFIG,
            "schema_str",
        ),
        (
            V15,
            "UPDATE collections SET schema_str='{\"defaults\":{},\"keys\":{}}' WHERE name='notes'",
            CONFIG,
            "vector index",
        ),
        (
            V15,
            "UPDATE collections SET id='banana' WHERE name='notes'; UPDATE segments SET collection='banana' WHERE collection NOT IN (SELECT id FROM collections); UPDATE embeddings_queue SET topic='persistent://default/default/banana' WHERE substr(topic,30) NOT IN (SELECT id FROM collections)",
            CONFIG,
            "no UUID",
        ),
        (
            V15,
            "UPDATE embeddings_queue_config SET config_json_str='garbage'",
            CONFIG,
            "does not open",
        ),
        (V11, "UPDATE embeddings_queue_config SET config_json_str=NULL", CONFIG, "no text"),
        (V15, "UPDATE collections SET dimension=9 WHERE name='articles'", DIMENSION, "vector of 8"),
        (V6, "UPDATE collections SET dimension=9 WHERE name='articles'", DIMENSION, "9 dimensions"),
        (V4, "UPDATE collections SET dimension=9 WHERE name='articles'", DIMENSION, "9 dimensions"),
        (
            V15,
            "UPDATE collections SET dimension=NULL WHERE name='articles'",
            DIMENSION,
            "without an error",
        ),
        (V11, "UPDATE collections SET dimension=-8 WHERE name='articles'", DIMENSION, "-8"),
        (V15, "UPDATE collections SET dimension=0 WHERE name='articles'", DIMENSION, "is 0"),
        (V4, "UPDATE collections SET dimension='abc' WHERE name='articles'", DIMENSION, "a text"),
        (V15, "DELETE FROM segments WHERE id={VECTOR}", SEGMENTS, "no vector segment"),
        (V4, "DELETE FROM segments WHERE id={VECTOR}", SEGMENTS, "no vector segment"),
        (
            V6,
            "INSERT INTO segments SELECT {NEW}, type, scope, collection FROM segments WHERE id={METADATA}",
            SEGMENTS,
            "2 metadata segments",
        ),
        (
            V15,
            "INSERT INTO segments SELECT {NEW}, type, scope, collection FROM segments WHERE id={VECTOR}",
            SEGMENTS,
            "2 vector segments",
        ),
        (
            V15,
            "UPDATE segments SET type='urn:chroma:segment/vector/banana' WHERE id={VECTOR}",
            SEGMENTS,
            "kind",
        ),
        (
            V11,
            "UPDATE segments SET scope='BANANA' WHERE id={VECTOR}",
            SEGMENTS,
            "no vector segment",
        ),
        (
            V15,
            "DELETE FROM segments WHERE id={METADATA}",
            &["collection_without_segments critical", "orphan_rows warning"],
            "86 records",
        ),
    ]);
}

#[test]
fn rows_that_belong_to_nothing_are_named() {
    prove(&[
        (V15, "UPDATE collections SET database_id={NEW} WHERE name='articles'", HIDDEN, "hidden"),
        (
            V6,
            "UPDATE databases SET tenant_id='nobody' WHERE 0; INSERT INTO databases VALUES({NEW},'other','nobody')",
            ORPHANS,
            "with 0 collections",
        ),
        (
            V15,
            "INSERT INTO databases VALUES({NEW},'other','nobody'); UPDATE collections SET database_id={NEW}",
            HIDDEN,
            "with 2 collections",
        ),
        (
            V15,
            "INSERT INTO segments VALUES({NEW},'urn:chroma:segment/metadata/sqlite','METADATA','22222222-2222-2222-2222-222222222222')",
            ORPHANS,
            "its name is lost",
        ),
        (V15, "UPDATE embeddings SET segment_id={NEW} WHERE id<=3", ORPHANS, "3 records"),
        (V6, "UPDATE embeddings SET segment_id={NEW} WHERE id<=3", LEFT, "3 records"),
        (V11, "DELETE FROM embeddings WHERE id<=2", ORPHANS, "embeddings.id 1, 2"),
        (V4, "DELETE FROM embeddings WHERE id=7", ORPHANS, "embeddings.id 7"),
        (
            V15,
            "INSERT INTO embeddings_queue(operation,topic,id) VALUES(3,'persistent://default/default/22222222-2222-2222-2222-222222222222','x')",
            LEFT,
            "1 rows",
        ),
    ]);
}

#[test]
fn faults_of_the_queue_are_named() {
    prove(&[
        (V15, "UPDATE max_seq_id SET seq_id=100000 WHERE segment_id={VECTOR}", INVALID, "ahead"),
        (V6, "UPDATE max_seq_id SET seq_id=100000 WHERE segment_id={METADATA}", INVALID, "ahead"),
        (
            V4,
            "UPDATE max_seq_id SET seq_id=x'0000000000ffffff' WHERE segment_id={METADATA}",
            INVALID,
            "ahead",
        ),
        // Common advice against a large file; every later write is lost without a word.
        (V15, "DELETE FROM embeddings_queue", INVALID, "newest row 0"),
        (V4, "DELETE FROM embeddings_queue", INVALID, "acknowledged and lost"),
        (
            V15,
            "UPDATE max_seq_id SET seq_id=x'0000000000000050' WHERE segment_id={VECTOR}",
            INVALID,
            "it is bytes",
        ),
        (V11, "UPDATE max_seq_id SET seq_id='abc' WHERE segment_id={METADATA}", INVALID, "a text"),
        (V11, "UPDATE max_seq_id SET seq_id=-3 WHERE segment_id={METADATA}", INVALID, "negative"),
        (V4, "UPDATE max_seq_id SET seq_id=80 WHERE segment_id={METADATA}", INVALID, "eight bytes"),
        (V6, "UPDATE max_seq_id SET seq_id='abc' WHERE segment_id={METADATA}", INVALID, "a text"),
        (
            V15,
            "DELETE FROM max_seq_id WHERE segment_id={VECTOR}",
            &["seq_id_missing info"],
            "articles",
        ),
        (
            V11,
            "DELETE FROM max_seq_id WHERE segment_id={METADATA}",
            &["seq_id_missing info"],
            "no metadata",
        ),
        (
            V6,
            "DELETE FROM max_seq_id WHERE segment_id={VECTOR}",
            &["seq_id_missing critical"],
            "queries fail",
        ),
        (V15, "UPDATE embeddings_queue SET operation=9 WHERE seq_id={LAST}", POISON, "row 90"),
        (V6, "UPDATE embeddings_queue SET operation=9 WHERE seq_id={LAST}", POISON, "operation"),
        (
            V15,
            "UPDATE embeddings_queue SET encoding='XYZ' WHERE seq_id={LAST}-1",
            POISON,
            "encoding",
        ),
        (V4, "UPDATE embeddings_queue SET encoding=NULL WHERE seq_id={LAST}-1", POISON, "encoding"),
        (
            V11,
            "UPDATE embeddings_queue SET vector=NULL WHERE seq_id={LAST}-5",
            POISON,
            "without a vector",
        ),
        (
            V15,
            "UPDATE embeddings_queue SET vector=x'0000803f00' WHERE seq_id={LAST}-1",
            POISON,
            "within a number",
        ),
        (
            V15,
            "UPDATE embeddings_queue SET metadata='garbage' WHERE seq_id={LAST}-1",
            POISON,
            "no JSON",
        ),
        (
            V11,
            "UPDATE embeddings_queue SET metadata='{\"a\":{\"b\":1}}' WHERE seq_id={LAST}-1",
            POISON,
            "plain value",
        ),
        (
            V15,
            "UPDATE embeddings_queue SET vector=x'0000803f' WHERE seq_id={LAST}-1",
            DIMENSION,
            "vector of 1",
        ),
    ]);
}

#[test]
fn rows_that_pile_up_are_named() {
    // Operations on `articles` from the newest row on, which nothing has applied.
    const MORE: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<12000) \
        INSERT INTO embeddings_queue(operation,topic,id) SELECT 3, 'persistent://default/default/'||{articles}, 'x'||i FROM n;";
    let applied =
        format!("{MORE} UPDATE max_seq_id SET seq_id=(SELECT max(seq_id) FROM embeddings_queue)");
    for (text, want, words) in [
        (
            MORE.to_owned(),
            &["queue_backlog warning"],
            "metadata segment of \"articles\" is 12000 operations behind",
        ),
        (applied, &["queue_not_purged info"], "although automatically_purge is on"),
    ] {
        let (codes, evidence) = check(V15, |dir| sql(dir, &text));
        assert_eq!(codes, want, "{evidence}");
        assert!(evidence.contains(words), "{evidence}");
    }
}

#[test]
fn faults_of_the_documents_are_named() {
    // Content rows of the full-text table, so that its index stays as it is; SQLite's own check tells such an index apart.
    const BOTH: &[&str] = &["fts_corrupt critical", "fts_out_of_step warning"];
    prove(&[
        (
            V15,
            "UPDATE embedding_metadata SET string_value=replace(string_value,'a','e') WHERE key='chroma:document' AND id=3",
            VALUE,
            "embeddings.id 3",
        ),
        (
            V4,
            "UPDATE embedding_metadata SET string_value=replace(string_value,'a','e') WHERE key='chroma:document' AND id=3",
            VALUE,
            "1 record",
        ),
        (
            V6,
            "UPDATE embedding_metadata SET string_value='banana' WHERE key='chroma:document' AND id IN (3,4)",
            STEP,
            "another text: 2 records, embeddings.id 3, 4",
        ),
        (
            V15,
            "DELETE FROM embedding_fulltext_search WHERE rowid<=5",
            STEP,
            "not in the full-text table: 5 records",
        ),
        (
            V4,
            "DELETE FROM embedding_fulltext_search WHERE rowid=5",
            STEP,
            "not in the full-text table",
        ),
        (
            V11,
            "DELETE FROM embedding_metadata WHERE key='chroma:document' AND id=4",
            STEP,
            "has no document",
        ),
        (
            V15,
            "INSERT INTO embedding_fulltext_search(rowid,string_value) VALUES((SELECT max(id)+1 FROM embeddings),'stale')",
            &["fts_out_of_step critical"],
            "additions fail",
        ),
        (
            V15,
            "DELETE FROM embedding_fulltext_search_content WHERE id=5",
            BOTH,
            "not in the full-text table",
        ),
    ]);
}

#[test]
fn faults_of_the_schema_are_named() {
    let dropped = |table: &str| format!("DROP TABLE {table}");
    prove(&[
        (
            V15,
            "UPDATE migrations SET hash='x' WHERE dir='sysdb' AND version=3",
            MISMATCH,
            "sysdb 3",
        ),
        (
            V4,
            "UPDATE migrations SET sql=sql||' ' WHERE dir='metadb' AND version=2",
            MISMATCH,
            "metadb 2",
        ),
        (V15, "DELETE FROM migrations WHERE dir='metadb' AND version=6", MISMATCH, "metadb 6"),
        // Chroma 1.1.1 opens it, runs the migration again and loses every later write.
        (V11, "DELETE FROM migrations WHERE dir='metadb' AND version=5", MISMATCH, "metadb 5"),
        (
            V6,
            "DELETE FROM migrations WHERE dir='embeddings_queue' AND version=2",
            MISMATCH,
            "embeddings_queue 2",
        ),
        (V6, "DELETE FROM migrations WHERE dir='sysdb' AND version=4", MISMATCH, "sysdb 4"),
        (
            V15,
            "DELETE FROM migrations WHERE dir='embeddings_queue'",
            MISMATCH,
            "embeddings_queue 1",
        ),
        (V4, "DELETE FROM migrations", &["migrations_missing critical"], "no row"),
        (V15, "DELETE FROM tenants", &["default_tenant_missing critical"], ""),
        (V6, "DELETE FROM databases", &["default_database_missing critical"], ""),
    ]);
    for (name, table) in [
        (V15, "embedding_metadata_array"),
        (V15, "embeddings_queue"),
        (V11, "max_seq_id"),
        (V11, "embeddings_queue_config"),
        (V6, "segment_metadata"),
        (V6, "collection_metadata"),
        (V4, "embedding_metadata"),
    ] {
        let (codes, evidence) = check(name, |dir| sql(dir, &dropped(table)));
        assert_eq!(codes, ["table_missing critical"], "{name} {table}: {evidence}");
        assert!(evidence.contains(table), "{evidence}");
    }
}

#[test]
fn odd_directories_are_healthy() {
    for name in [
        V4,
        V6,
        V11,
        V15,
        "chroma-1.5.9-deleted",
        "chroma-1.5.9-empty",
        "chroma-1.5.9-fresh",
        "chroma-1.5.9-journal-left",
    ] {
        let (codes, evidence) = check(name, |_| ());
        assert_eq!(codes, [""; 0], "{name}: {evidence}");
    }
    prove(&[
        // A collection without a record has no dimension, and its queue no row.
        (
            V15,
            "INSERT INTO collections(id,name,database_id,config_json_str) VALUES({NEW},'empty','00000000-0000-0000-0000-000000000000','{}'); \
               INSERT INTO segments VALUES('33333333-3333-3333-3333-333333333333','urn:chroma:segment/metadata/sqlite','METADATA',{NEW}), \
               ('44444444-4444-4444-4444-444444444444','urn:chroma:segment/vector/hnsw-local-persisted','VECTOR',{NEW})",
            &[],
            "",
        ),
        // Tenants and databases of one's own.
        (
            V11,
            "INSERT INTO tenants VALUES('acme'); INSERT INTO databases VALUES({NEW},'books','acme'); UPDATE collections SET database_id={NEW} WHERE name='notes'",
            &[],
            "",
        ),
        (V15, "UPDATE databases SET id={NEW}; UPDATE collections SET database_id={NEW}", &[], ""),
        // Configurations that Chroma was seen to take.
        (
            V15,
            "UPDATE collections SET schema_str=NULL, config_json_str=NULL WHERE name='articles'",
            &[],
            "",
        ),
        (
            V15,
            "UPDATE collections SET config_json_str='{\"_type\":\"CollectionConfigurationInternal\",\"hnsw_configuration\":{}}'",
            &[],
            "",
        ),
        (V6, "UPDATE collections SET config_json_str=NULL", &[], ""),
        // The queue: without its configuration, purging switched off, an old state of a segment, rows of before.
        (V15, "DELETE FROM embeddings_queue_config", &[], ""),
        (
            V15,
            "UPDATE embeddings_queue_config SET config_json_str='{\"automatically_purge\":false}'",
            &[],
            "",
        ),
        (V15, "UPDATE max_seq_id SET seq_id=82 WHERE segment_id={METADATA}", &[], ""),
        (V6, "UPDATE max_seq_id SET seq_id=82 WHERE segment_id={METADATA}", &[], ""),
        (V15, "INSERT INTO max_seq_id VALUES({NEW},5)", &[], ""),
        // What Chroma below 1.0 leaves of deleted collections and records.
        (
            V6,
            "INSERT INTO collection_metadata(collection_id,key) VALUES({NEW},'a'); INSERT INTO max_seq_id VALUES({NEW},x'0000000000000005')",
            &[],
            "",
        ),
        (
            V4,
            "DELETE FROM embedding_metadata WHERE id=5; DELETE FROM embeddings WHERE id=5",
            &[],
            "",
        ),
        // Deleted records, an index that somebody added, a table of somebody else.
        (
            V15,
            "DELETE FROM embeddings WHERE id=9; DELETE FROM embedding_metadata WHERE id=9; DELETE FROM embedding_metadata_array WHERE id=9; DELETE FROM embedding_fulltext_search WHERE rowid=9",
            &[],
            "",
        ),
        (V15, "CREATE INDEX mine ON embeddings(seq_id); CREATE TABLE theirs(x)", &[], ""),
        // A newer Chroma than any that is known here.
        (
            V15,
            "INSERT INTO migrations VALUES('sysdb',11,'00011-x.sqlite.sql','x','x'); UPDATE segments SET type='urn:chroma:segment/vector/new' WHERE id={VECTOR}; UPDATE collections SET config_json_str='{\"vector_index\":{\"new\":{},\"hnsw\":{}}}'",
            &[],
            "",
        ),
    ]);
}
