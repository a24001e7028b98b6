use rusqlite::Connection;

use super::*;
use crate::repair::{
    recover::{
        Outcome, Report,
        tests::{Stand, must_be_mended, rows},
    },
    restore::Wish,
};

#[test]
fn the_next_best_source_counts() {
    use Text::{Bad, Good, None};
    for (family, schema, configuration, metadata, want) in [
        (Family::Rust, None, Good, false, Choice::Right),
        (Family::Rust, Good, Bad, false, Choice::FromSchema),
        (Family::Rust, Bad, Good, false, Choice::FromConfiguration),
        (Family::Rust, Bad, None, true, Choice::FromMetadata),
        (Family::Rust, Bad, None, false, Choice::FromIndex),
        (Family::Rust, None, Bad, false, Choice::FromIndex),
        (Family::Python, None, Bad, false, Choice::FromMetadata),
        (Family::Oldest, None, Bad, true, Choice::FromMetadata),
    ] {
        let texts = Texts { schema, configuration, metadata };
        assert_eq!(texts.choose(family), want, "{family:?} {texts:?}");
    }
}

#[test]
fn settings_that_stand_twice_lose_nothing() {
    // What this release has beside its schema is the same for every collection.
    for value in
        ["'garbage'", "''", "x'7b7d'", "'{\"vector_index\":{\"hnsw\":{\"space\":\"banana\"}}}'"]
    {
        let healthy = rows(&Stand::new("chroma-1.5.9").database());
        let sql =
            format!("UPDATE collections SET config_json_str = {value} WHERE name = 'articles'");
        must_be_mended(&Stand::broken("chroma-1.5.9", &sql), &healthy, value);
    }
    for (name, value) in
        [("chroma-0.6.3", "'{}'"), ("chroma-0.6.3", "'[]'"), ("chroma-0.5.5", "'garbage'")]
    {
        let sql = format!("UPDATE collections SET config_json_str = {value}");
        let healthy =
            rows(&Stand::broken(name, "UPDATE collections SET config_json_str = NULL").database());
        must_be_mended(&Stand::broken(name, &sql), &healthy, &format!("{name}: {value}"));
    }
    // A store that 1.1 made and a newer one migrated.
    let migrated = "ALTER TABLE collections ADD COLUMN schema_str TEXT";
    let stand = Stand::broken("chroma-1.1.1", migrated);
    let connection = Connection::open(stand.database()).unwrap();
    let one = chroma_format::schema::shipped().find(|one| one.filename.contains("schema")).unwrap();
    let sql =
        "INSERT INTO migrations(dir, version, filename, sql, hash) VALUES('sysdb', 10, ?1, ?2, ?3)";
    connection.execute(sql, [one.filename, one.sql, one.md5]).unwrap();
    let healthy = rows(&stand.database());
    connection.execute("UPDATE collections SET schema_str = 'garbage'", []).unwrap();
    drop(connection);
    must_be_mended(&stand, &healthy, "a schema that is not needed");
}

#[test]
fn settings_of_the_queue_are_those_that_its_rows_show() {
    for (name, value) in [("chroma-1.5.9", "'garbage'"), ("chroma-1.1.1", "NULL")] {
        let healthy = rows(&Stand::new(name).database());
        let sql = format!("UPDATE embeddings_queue_config SET config_json_str = {value}");
        must_be_mended(&Stand::broken(name, &sql), &healthy, name);
    }
    let off = "INSERT INTO embeddings_queue(seq_id, created_at, operation, topic, id) SELECT 1, created_at, 3, topic, 'x' FROM embeddings_queue WHERE seq_id = 90; \
               UPDATE embeddings_queue_config SET config_json_str = ";
    let stand = Stand::broken("chroma-1.5.9", &format!("{off}'['"));
    let healthy =
        Stand::broken("chroma-1.5.9", &format!("{off}'{}'", queue_config(false, Family::Rust)));
    must_be_mended(&stand, &rows(&healthy.database()), "purging was off");
}

fn of_index(name: &str, sql: &str) -> (Stand, Report) {
    let stand = Stand::broken(name, sql);
    assert_eq!(stand.apply().outcome, Outcome::NotAccepted, "{name}: {sql}");
    let report = stand.run(&Wish { dry: false, accept_loss: true, ..stand.wish.clone() });
    assert_eq!(report.outcome, Outcome::Repaired, "{name}: {report:#?}");
    (stand, report)
}

#[test]
fn the_index_proves_distance_and_neighbours() {
    for (name, set) in [
        ("chroma-1.1.1", "config_json_str = ''"),
        ("chroma-1.5.9", "schema_str = 'garbage'"),
        ("chroma-1.5.9", "schema_str = '{\"defaults\":{},\"keys\":{}}', config_json_str = 'x'"),
    ] {
        let (stand, report) = of_index(name, &format!("UPDATE collections SET {set}"));
        assert_eq!(report.losses.len(), 2, "{report:#?}");
        let connection = Connection::open(stand.database()).unwrap();
        for (collection, space, neighbours) in [("articles", "cosine", 16), ("notes", "l2", 4)] {
            let sql = "SELECT config_json_str FROM collections WHERE name = ?1";
            let text: String = connection.query_row(sql, [collection], |row| row.get(0)).unwrap();
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            let hnsw = &value["vector_index"]["hnsw"];
            assert_eq!(
                (&hnsw["space"], &hnsw["max_neighbors"]),
                (&space.into(), &neighbours.into()),
                "{name}: {text}"
            );
            assert_eq!(hnsw["ef_construction"], 100, "{text}");
        }
    }
    // Nothing was flushed yet: no index proves anything.
    let stand =
        Stand::broken("chroma-1.5.9-fresh", "UPDATE collections SET schema_str = 'garbage'");
    let report = stand.dry();
    assert_eq!(report.outcome, Outcome::NotRepaired, "{report:#?}");
    assert!(report.not_done.iter().any(|one| one.why.contains("which distance")), "{report:#?}");
}
