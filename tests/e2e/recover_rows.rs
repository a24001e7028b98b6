//! Faults of the schema, the catalogue and the queue, repaired, as real Chroma of the same release sees them: every answer is that of
//! the healthy store, and what cannot be had again is named and heals with an upsert.

use std::path::Path;

use crate::{
    faults::Prober,
    recover::{ask, asked, is_right, recover, state},
    support::{faults, fixture},
};

/// Their findings are repaired by what is tried here.
const CODES: &[&str] = &[
    "queue_poisoned",
    "collection_config_invalid",
    "collection_dimension_mismatch",
    "collection_without_segments",
    "migration_mismatch",
    "migrations_missing",
    "table_missing",
];

/// Faults that take away what nothing else says.
const LOSSY: &[&str] = &[
    "a reset that was cut off at the third table",
    "table embedding_metadata_array gone",
    "table embeddings_queue gone",
    "table collection_metadata gone",
    "configuration of a collection is empty",
    "configuration of a collection is bytes",
    "schema of a collection is no JSON",
    "schema of a collection without a vector index",
    "addition without a vector",
    "vector cut within a number",
    "vector of one number",
];

/// Faults after which nothing proves any more what was there.
const LEFT: &[&str] = &[
    "first start of 0.4 killed within a migration",
    "a reset that was cut off among the tables of the records",
    "id of a collection is no UUID",
];

#[test]
fn chroma_finds_all_that_its_rows_still_proved() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let ours = |(_, fault, _): &(&str, &faults::Fault, &str)| {
        fault.config.is_empty()
            && fault.opened_by.is_none()
            && fault
                .codes
                .first()
                .is_some_and(|code| CODES.contains(&code.trim_end_matches(" warning")))
    };
    let mut wrong = Vec::new();
    let mut tried = 0;
    for release in ["1.5.9", "1.1.1", "0.6.3", "0.4.24"] {
        let mut prober = Prober::start(release);
        let cases = faults::cases().into_iter().filter(ours);
        for (_, fault, base) in cases.filter(|(_, fault, base)| fault.release(base) == release) {
            let scratch = tempfile::tempdir().unwrap();
            let whole = fixtures.join(format!("chroma-{base}"));
            let dir = fault.strike(base, scratch.path());
            let mut report = recover(&dir, "--apply")["report"].clone();
            let outcome = report["outcome"].as_str().unwrap_or("none").to_owned();
            let lossy = LOSSY.contains(&fault.what);
            let fits = match &*outcome {
                "not_repaired" => LEFT.contains(&fault.what),
                "not_accepted" => lossy && report["losses"] != serde_json::json!([]),
                "repaired" => !lossy && report["losses"] == serde_json::json!([]),
                _ => false,
            };
            let said = if fits {
                asked(&mut prober, release, (&whole, &dir), &mut report)
            } else {
                String::new()
            };
            tried += 1;
            if !(fits && (outcome == "not_repaired" || is_right(&said, lossy))) {
                wrong.push(format!("{}, {base}: {outcome}: {said}\n{report}", fault.what));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {tried}:\n{}", wrong.len(), wrong.join("\n"));
    assert!(tried > 50, "{tried}");
}

/// Several faults at once, which lose nothing together.
const MANY: &str = "DELETE FROM segments; UPDATE collections SET dimension=9 WHERE name='articles'; \
    UPDATE embeddings_queue SET operation=9 WHERE seq_id=87; UPDATE embeddings_queue SET encoding=NULL WHERE seq_id=88; \
    UPDATE embeddings_queue SET metadata='garbage' WHERE seq_id=89; UPDATE embeddings_queue SET operation=77 WHERE seq_id=90; \
    DROP TABLE segment_metadata; DROP TABLE migrations";

#[test]
fn chroma_writes_more_and_opens_again_what_was_repaired_in_many_places() {
    for version in ["1.5.9", "1.1.1", "0.6.3", "0.4.24"] {
        let scratch = tempfile::tempdir().unwrap();
        let name = format!("chroma-{version}");
        let healthy = fixture(&name, &scratch.path().join("healthy"));
        let dir = fixture(&name, &scratch.path().join("broken"));
        faults::execute(&dir, MANY);
        if version.starts_with('1') {
            faults::execute(&dir, "UPDATE embeddings_queue_config SET config_json_str='x'");
        }
        if version == "1.5.9" {
            faults::execute(&dir, "UPDATE collections SET config_json_str='{'");
        }
        let report = recover(&dir, "--apply")["report"].clone();
        assert_eq!(report["outcome"], "repaired", "{version}: {report:#}");
        assert_eq!(report["losses"], serde_json::json!([]), "{version}");
        assert!(ask(version, &dir) == ask(version, &healthy), "{version}: before and after");
        for more in ["once", "twice"] {
            let (is, was) = (state(version, &dir), state(version, &healthy));
            assert!(is == was, "{version}: opened {more}");
        }
    }
}
