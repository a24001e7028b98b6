use crate::repair::recover::{
    Outcome, Report,
    tests::{Stand, must_be_mended, rows},
};

const NEW: &str = "11111111-1111-1111-1111-111111111111";

/// `{articles}`, `{VECTOR}` and `{METADATA}` are its id and those of its segments.
fn fill(sql: &str) -> String {
    let articles = "(SELECT id FROM collections WHERE name = 'articles')";
    let segment = |scope| {
        format!("(SELECT id FROM segments WHERE collection = {articles} AND scope = '{scope}')")
    };
    sql.replace("{VECTOR}", &segment("VECTOR"))
        .replace("{METADATA}", &segment("METADATA"))
        .replace("{articles}", articles)
        .replace("{NEW}", NEW)
}

#[test]
fn a_row_is_put_back_with_the_id_that_hangs_on_it() {
    for name in ["chroma-0.4.24", "chroma-0.5.5", "chroma-0.6.3", "chroma-1.1.1", "chroma-1.5.9"] {
        let healthy = rows(&Stand::new(name).database());
        for sql in [
            "DELETE FROM segments WHERE id = {VECTOR}",
            "DELETE FROM segments WHERE id = {METADATA}",
            "DELETE FROM segments WHERE collection = {articles}",
            "DELETE FROM segments",
            "UPDATE segments SET type = 'urn:chroma:segment/vector/banana' WHERE id = {VECTOR}",
            "UPDATE segments SET scope = 'BANANA' WHERE id = {VECTOR}",
            "INSERT INTO segments(id, type, scope, collection) SELECT '{NEW}', type, scope, collection FROM segments WHERE id = {METADATA}",
            "INSERT INTO segments(id, type, scope, collection) SELECT '{NEW}', type, scope, collection FROM segments WHERE id = {VECTOR}",
            "DELETE FROM segment_metadata WHERE segment_id = {VECTOR}; DELETE FROM segments WHERE id = {VECTOR}",
        ] {
            let stand = Stand::broken(name, &fill(sql));
            must_be_mended(&stand, &healthy, &format!("{name}: {sql}"));
        }
    }
}

#[test]
fn a_collection_that_was_never_flushed_gets_a_new_one_for_its_vectors() {
    let name = "chroma-1.5.9-fresh";
    let stand = Stand::broken(name, "DELETE FROM segments WHERE scope = 'VECTOR'");
    for folder in std::fs::read_dir(&stand.wish.store).unwrap().map(|entry| entry.unwrap().path()) {
        if folder.is_dir() {
            std::fs::remove_dir_all(folder).unwrap();
        }
    }
    let report = stand.apply();
    assert_eq!(report.outcome, Outcome::Repaired, "{report:#?}");
    assert!(report.losses.is_empty(), "{report:#?}");
    let mut healthy = rows(&Stand::new(name).database());
    let mut mended = rows(&stand.database());
    let (was, is) = (healthy.remove("segments").unwrap(), mended.remove("segments").unwrap());
    assert!(was.len() == is.len() && was != is && healthy == mended);
}

fn refused(report: &Report, word: &str) {
    assert_eq!(report.outcome, Outcome::NotRepaired, "{report:#?}");
    assert!(report.not_done.iter().any(|one| one.why.contains(word)), "{report:#?}");
}

#[test]
fn what_is_of_another_collection_is_never_taken() {
    // Nothing in the queue and no folder says whose records these are.
    let name = "chroma-1.5.9";
    let sql = "DELETE FROM segments WHERE id = {METADATA}; UPDATE embeddings SET segment_id = '{NEW}', embedding_id = 'x' || embedding_id \
               WHERE segment_id NOT IN (SELECT id FROM segments)";
    refused(&Stand::broken(name, &fill(sql)).dry(), "records of collection articles");
    // Records of both segments: which one is right is not certain.
    let sql = "INSERT INTO segments(id, type, scope, collection) SELECT '{NEW}', type, scope, collection FROM segments WHERE id = {METADATA}; \
               UPDATE embeddings SET segment_id = '{NEW}' WHERE id = 1";
    refused(
        &Stand::broken(
            name,
            &sql.replace("{NEW}", NEW).replace(
                "{METADATA}",
                "(SELECT id FROM segments WHERE scope = 'METADATA' LIMIT 1)",
            ),
        )
        .dry(),
        "several segments",
    );
    // The folder of articles is away: that of notes is not taken for it.
    let stand = Stand::broken(name, &fill("DELETE FROM segments WHERE scope = 'VECTOR'"));
    let mut folders: Vec<_> =
        std::fs::read_dir(&stand.wish.store).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.retain(|path| path.is_dir());
    std::fs::remove_dir_all(&folders[0]).unwrap();
    refused(&stand.dry(), "which segment has the vectors");
}
