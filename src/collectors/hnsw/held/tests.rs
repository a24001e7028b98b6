use std::sync::Arc;

use rusqlite::Connection;

use crate::{
    collectors::{
        hnsw::Hnsw,
        testing::{context, copy_fixture},
    },
    findings::Code,
    scheduler,
};

/// What is said of a fixture after some SQL.
fn said(fixture: &str, sql: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    copy_fixture(fixture, dir.path());
    let database = Connection::open(dir.path().join("chroma.sqlite3")).unwrap();
    database.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
    database.execute_batch(sql).unwrap();
    drop(database);
    let context = context(dir.path());
    let mut segments = Hnsw::new(&context);
    let seen = scheduler::run_once(&mut segments, &context, true, Arc::default()).observation;
    let torn = seen.findings.iter().filter(|one| one.code == Code::SegmentInconsistent);
    torn.map(|one| one.evidence.clone()).collect()
}

/// The index has the vector of row 80, and that of row 81 not yet.
const ANOTHER: &str = "UPDATE embeddings_queue SET vector = (SELECT vector FROM embeddings_queue WHERE seq_id = 81) \
                       WHERE seq_id = 80;";

#[test]
fn only_a_row_that_certainly_made_the_vector_speaks_against_it() {
    for (what, sql, told) in [
        ("nothing", "", false),
        ("another vector", ANOTHER, true),
        (
            "an upsert of what was there before",
            "UPDATE embeddings_queue SET operation = 2 WHERE seq_id = 80; \
             UPDATE embeddings SET seq_id = 7 WHERE embedding_id = (SELECT id FROM embeddings_queue WHERE seq_id = 80);",
            true,
        ),
        (
            "an addition of what was there before",
            "UPDATE embeddings SET seq_id = 7 WHERE embedding_id = (SELECT id FROM embeddings_queue WHERE seq_id = 80);",
            false,
        ),
        ("an update", "UPDATE embeddings_queue SET operation = 1 WHERE seq_id = 80;", true),
        (
            "an update of what is not there",
            "UPDATE embeddings_queue SET operation = 1 WHERE seq_id = 80; \
             DELETE FROM embeddings WHERE embedding_id = (SELECT id FROM embeddings_queue WHERE seq_id = 80);",
            false,
        ),
        ("a deletion", "UPDATE embeddings_queue SET operation = 3 WHERE seq_id = 80;", false),
        (
            "something newer of the same id",
            "INSERT INTO embeddings_queue(operation, topic, id, metadata) \
             SELECT 1, topic, id, '{}' FROM embeddings_queue WHERE seq_id = 80;",
            false,
        ),
        (
            "whole numbers",
            "UPDATE embeddings_queue SET encoding = 'INT32' WHERE seq_id = 80;",
            false,
        ),
        (
            "fewer numbers",
            "UPDATE embeddings_queue SET vector = substr(vector, 5) WHERE seq_id = 80;",
            false,
        ),
        (
            "a number that is none",
            "UPDATE embeddings_queue SET vector = CAST(x'0000c07f' || substr(vector, 5) AS BLOB) WHERE seq_id = 80;",
            false,
        ),
        (
            "a row of another collection",
            "UPDATE embeddings_queue SET topic = 'persistent://default/default/another' WHERE seq_id = 80;",
            false,
        ),
        (
            "a tenant of another name",
            "UPDATE embeddings_queue SET topic = replace(topic, 'default', 'another') WHERE seq_id = 80;",
            true,
        ),
        ("a row that is gone", "DELETE FROM embeddings_queue WHERE seq_id = 80;", false),
    ] {
        for fixture in ["chroma-1.5.9", "chroma-1.1.1", "chroma-0.6.3", "chroma-0.4.24"] {
            let sql = if what == "nothing" { String::new() } else { format!("{ANOTHER}{sql}") };
            let said = said(fixture, &sql);
            assert_eq!(said.len(), usize::from(told), "{fixture}, {what}: {said:?}");
            let words = said.iter().all(|said| said.contains("data_level0.bin has another vector"));
            assert!(words, "{fixture}, {what}: {said:?}");
        }
    }
}

#[test]
fn a_whole_queue_is_compared_from_its_newest_row_on() {
    let said = said(
        "chroma-0.4.24",
        "UPDATE embeddings_queue SET vector = (SELECT vector FROM embeddings_queue WHERE seq_id = 9) \
         WHERE seq_id BETWEEN 20 AND 22",
    );
    assert!(said[0].contains("of 3 of") && said[0].contains("articles-0"), "{said:?}");
}
