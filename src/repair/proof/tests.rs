use std::{collections::BTreeMap, os::unix::fs::MetadataExt};

use super::*;

fn fixture(name: &str) -> (tempfile::TempDir, PathBuf) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join(name);
    fs::create_dir(&dir).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = dir.join(entry.file_name());
        if !entry.file_type().unwrap().is_dir() {
            fs::copy(entry.path(), to).unwrap();
            continue;
        }
        fs::create_dir(&to).unwrap();
        for file in fs::read_dir(entry.path()).unwrap().map(Result::unwrap) {
            fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
    (scratch, dir)
}

fn proven(dir: &Path) -> Proven {
    prove(dir, &Steps::default(), clock::now()).unwrap()
}

/// Name, records, documents, vectors and rows of the queue of each collection.
fn rows(proven: &Proven) -> Vec<(&str, u64, u64, u64, u64)> {
    let mut rows: Vec<_> = proven
        .collections
        .iter()
        .map(|c| (c.name.as_str(), c.records, c.documents, c.vectors, c.queued))
        .collect();
    rows.sort_unstable();
    rows
}

/// The folder of the index of a collection.
fn folder(dir: &Path, collection: &str) -> PathBuf {
    let database = rusqlite::Connection::open_with_flags(
        dir.join(DATABASE_FILE),
        rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY,
    )
    .unwrap();
    let sql = "SELECT s.id FROM segments s JOIN collections c ON c.id = s.collection \
               WHERE s.scope = 'VECTOR' AND c.name = ?1";
    let id: String = database.query_row(sql, [collection], |row| row.get(0)).unwrap();
    dir.join(id)
}

/// Runs statements over the database of the copy.
fn edit(dir: &Path, sql: &str) {
    rusqlite::Connection::open(dir.join(DATABASE_FILE)).unwrap().execute_batch(sql).unwrap();
}

/// A process that was killed between its first flush and the commit leaves that. Measured: 0.6.3 then fails at every search, 1.1.1 and
/// 1.5.9 give every vector.
#[test]
fn an_index_without_its_position_is_no_whole_copy_for_those_who_cannot_open_it() {
    for (name, restores) in
        [("chroma-0.6.3", Restores::WithLosses), ("chroma-1.5.9", Restores::Whole)]
    {
        let (_scratch, dir) = fixture(name);
        edit(
            &dir,
            "DELETE FROM max_seq_id WHERE segment_id IN (SELECT id FROM segments WHERE scope = 'VECTOR')",
        );
        let proven = proven(&dir);
        assert_eq!(proven.proof.restores, restores, "{name}: {:?}", proven.losses);
    }
}

#[test]
fn healthy_stores_of_every_release_restore_whole() {
    for (name, queued, space) in [
        ("chroma-0.4.24", [10, 10], "l2"),
        ("chroma-0.5.5", [10, 10], "l2"),
        ("chroma-0.6.3", [10, 10], "l2"),
        ("chroma-1.1.1", [10, 10], "l2"),
        ("chroma-1.5.9", [10, 10], "l2"),
        ("chroma-1.5.9-journal-left", [10, 10], "l2"),
    ] {
        let (_scratch, dir) = fixture(name);
        let proven = proven(&dir);
        assert_eq!(proven.proof.restores, Restores::Whole, "{name}: {:?}", proven.losses);
        let want = [("articles", 86, 76, 86, queued[0]), ("notes", 50, 50, 50, queued[1])];
        assert_eq!(rows(&proven), want, "{name}");
        let of = |name: &str| proven.collections.iter().find(|c| c.name == name).unwrap();
        assert_eq!(of("articles").space.as_deref(), Some("cosine"), "{name}");
        assert_eq!((of("articles").dimension, of("notes").dimension), (Some(8), Some(12)));
        assert_eq!(of("notes").space.as_deref(), Some(space), "{name}");
        assert_eq!(of("notes").tenant, "default_tenant", "{name}");
        assert_eq!(of("notes").database, "default_database", "{name}");
        assert!(proven.losses.is_empty() && proven.opened_by.is_some(), "{name}");
        for check in ["header", "journal", "schema", "full", "tables", "indexes"] {
            assert_eq!(proven.proof.checks.get(check).map(String::as_str), Some("ok"), "{name}");
        }
    }
}

#[test]
fn what_was_never_flushed_or_has_no_collection_is_whole_too() {
    let (_scratch, dir) = fixture("chroma-1.5.9-fresh");
    let proven_fresh = proven(&dir);
    assert_eq!(proven_fresh.proof.restores, Restores::Whole, "{:?}", proven_fresh.losses);
    let vectors: u64 = proven_fresh.collections.iter().map(|c| c.vectors).sum();
    assert_eq!((vectors, proven_fresh.collections.len()), (35, 2));
    let (_scratch, dir) = fixture("chroma-1.5.9-empty");
    let empty = proven(&dir);
    assert_eq!((empty.proof.restores, rows(&empty).len()), (Restores::Whole, 0));
}

#[test]
fn an_index_that_is_gone_is_a_loss_with_its_numbers() {
    let (_scratch, dir) = fixture("chroma-1.5.9");
    fs::remove_dir_all(folder(&dir, "articles")).unwrap();
    let proven = proven(&dir);
    assert_eq!(proven.proof.restores, Restores::WithLosses);
    let of = rows(&proven)[0];
    assert!(of.1 == 86 && of.3 < 20, "{of:?}");
    let loss = &proven.losses[0];
    assert_eq!(loss.collection.as_deref(), Some("articles"));
    assert!(loss.words.contains("the folder with its vectors is not there"), "{loss}");
    assert!(loss.words.contains("of 86 records have no vector"), "{loss}");
    assert!(proven.proof.findings.contains("segment_missing"));
}

#[test]
fn an_index_that_chroma_cannot_load_gives_what_the_queue_has() {
    for file in ["header.bin", "data_level0.bin", "index_metadata.pickle"] {
        let (_scratch, dir) = fixture("chroma-1.5.9");
        let path = folder(&dir, "notes").join(file);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 3]).unwrap();
        let proven = proven(&dir);
        assert_eq!(proven.proof.restores, Restores::WithLosses, "{file}");
        let of = rows(&proven)[1];
        assert!(of.1 == 50 && of.3 <= 11, "{file}: {of:?}");
        assert!(proven.losses.iter().all(|loss| loss.collection.as_deref() == Some("notes")));
    }
}

#[test]
fn what_chroma_would_not_open_does_not_restore() {
    let (_scratch, dir) = fixture("chroma-1.5.9");
    let whole = fs::read(dir.join(DATABASE_FILE)).unwrap();
    for (what, content) in [
        ("cut", whole[..whole.len() / 2].to_vec()),
        ("empty", Vec::new()),
        ("zeroed", [vec![0; 4096], whole[4096..].to_vec()].concat()),
        ("other", b"hello".to_vec()),
    ] {
        fs::write(dir.join(DATABASE_FILE), content).unwrap();
        let proven = proven(&dir);
        assert_eq!(proven.proof.restores, Restores::Not, "{what}: {:?}", proven.losses);
        assert!(!proven.losses.is_empty(), "{what}");
    }
    fs::remove_file(dir.join(DATABASE_FILE)).unwrap();
    assert_eq!(proven(&dir).proof.restores, Restores::Not);
    fs::write(dir.join(DATABASE_FILE), &whole).unwrap();
    edit(&dir, "DELETE FROM migrations WHERE dir = 'sysdb' AND version = 5");
    assert_eq!(proven(&dir).proof.restores, Restores::Not);
}

#[test]
fn pages_of_another_moment_do_not_restore() {
    let (_scratch, dir) = fixture("chroma-1.5.9");
    let mut torn = fs::read(dir.join(DATABASE_FILE)).unwrap();
    // As a copy beside a writer has it: pages from before a transaction among those from after it.
    for at in (4096 * 20..torn.len() - 4096).step_by(4096 * 7) {
        let (before, after) = torn.split_at_mut(at);
        after[..4096].copy_from_slice(&before[at - 4096..]);
    }
    fs::write(dir.join(DATABASE_FILE), torn).unwrap();
    let proven = proven(&dir);
    assert_eq!(proven.proof.restores, Restores::Not, "{:?}", proven.losses);
}

#[test]
fn a_transaction_that_was_cut_off_is_not_judged_and_not_rolled_back() {
    let (_scratch, dir) = fixture("chroma-1.5.9-hot-journal");
    let before = tree(&dir);
    let proven = proven(&dir);
    assert_eq!(proven.proof.restores, Restores::Unknown, "{:?}", proven.losses);
    assert!(proven.losses.iter().any(|loss| loss.words.contains("rolled back")));
    assert_eq!(tree(&dir), before);
}

#[test]
fn records_that_lost_their_vectors_are_counted() {
    let (_scratch, dir) = fixture("chroma-1.5.9");
    let id = "SELECT id FROM collections WHERE name = 'notes'";
    edit(
        &dir,
        &format!("DELETE FROM embeddings_queue WHERE operation = 0 AND topic LIKE '%' || ({id})"),
    );
    let proven = proven(&dir);
    assert_eq!(proven.proof.restores, Restores::WithLosses);
    let of = rows(&proven)[1];
    assert!(of.1 == 50 && of.3 < 50 && of.3 >= 40, "{of:?}");
    let lost = proven.losses.iter().find(|loss| loss.collection.as_deref() == Some("notes"));
    assert!(lost.unwrap().words.contains("of 50 records have no vector"), "{:?}", proven.losses);
}

#[test]
fn a_newer_schema_and_a_missing_text_index_are_told_apart() {
    let (_scratch, dir) = fixture("chroma-1.5.9");
    edit(&dir, "DELETE FROM embedding_fulltext_search");
    let lost = proven(&dir);
    assert_eq!(lost.proof.restores, Restores::WithLosses);
    assert!(lost.losses[0].words.contains("searches for words"), "{:?}", lost.losses);
    assert_eq!(rows(&lost)[0].3, 86);
    let (_scratch, dir) = fixture("chroma-1.5.9");
    edit(
        &dir,
        "INSERT INTO migrations(dir, version, filename, sql, hash) \
         VALUES('sysdb', 11, '00011-new.sqlite.sql', 'SELECT 1', '71568061b2970a4b7c5160fe75356e10')",
    );
    let newer = proven(&dir);
    assert_eq!(newer.proof.restores, Restores::Whole, "{:?}", newer.losses);
}

#[test]
fn nothing_is_written_into_the_copy() {
    for name in ["chroma-1.5.9", "chroma-0.6.3", "chroma-1.5.9-journal-left"] {
        let (_scratch, dir) = fixture(name);
        let before = tree(&dir);
        proven(&dir);
        assert_eq!(tree(&dir), before, "{name}");
    }
}

#[test]
fn what_is_not_there_is_said_and_a_stop_ends_it() {
    let scratch = tempfile::tempdir().unwrap();
    let gone = prove(&scratch.path().join("gone"), &Steps::default(), clock::now());
    assert!(matches!(gone, Err(ProofError::Unreadable { .. })));
    let (_scratch, dir) = fixture("chroma-1.5.9");
    let steps = Steps::default();
    steps.stop();
    assert!(matches!(prove(&dir, &steps, clock::now()), Err(ProofError::Stopped)));
}

#[test]
fn a_check_that_panics_or_cannot_read_proves_nothing() {
    let problem = || panicked("on purpose".to_owned());
    let fine = Observation::default;
    let verdict = judge(&[&fine(), &problem(), &fine()], &[], &BTreeMap::new(), None);
    assert_eq!(verdict.restores, Restores::Unknown);
    assert!(verdict.losses[0].words.contains("on purpose"));
    let verdict = judge(&[&fine()], &[], &BTreeMap::new(), Some("busy".to_owned()));
    assert_eq!(verdict.restores, Restores::Unknown);
    for (state, want) in [
        (CheckState::Ok, Restores::Whole),
        (CheckState::Corrupt, Restores::Not),
        (CheckState::Busy, Restores::Unknown),
        (CheckState::Unreadable, Restores::Unknown),
        (CheckState::Unknown, Restores::Unknown),
    ] {
        let observation = Observation { checks: vec![("full", state)], ..fine() };
        assert_eq!(judge(&[&observation], &[], &BTreeMap::new(), None).restores, want, "{state:?}");
    }
}

/// The compiler asks for a line for every code; this asks for its sense.
#[test]
fn every_finding_has_its_meaning_in_plain_words() {
    let verdict = |finding: Finding| {
        let observation = Observation { findings: vec![finding], ..Observation::default() };
        judge(&[&observation], &[], &BTreeMap::new(), None)
    };
    for code in Code::ALL {
        let found = || Finding::new(*code, "", "the evidence");
        let want = match meaning(*code) {
            Meaning::Nothing => Restores::Whole,
            Meaning::Loss(_) => Restores::WithLosses,
            Meaning::Fatal(_) => Restores::Not,
            Meaning::Unknown(_) => Restores::Unknown,
        };
        let graver = verdict(found().with_severity(Severity::Critical));
        assert_eq!(graver.restores, want, "{code:?}");
        if let Meaning::Loss(words) | Meaning::Fatal(words) | Meaning::Unknown(words) =
            meaning(*code)
        {
            assert!(!words.ends_with('.') && words.len() > 10, "{code:?}: {words}");
            assert_eq!(graver.losses[0].words, format!("{words} (the evidence)"));
        }
        // What the catalogue itself calls info is no loss; a position is one that only some releases can do without.
        if code.severity() == Severity::Info && *code != Code::SeqIdMissing {
            assert_eq!(meaning(*code), Meaning::Nothing, "{code:?}");
        }
        let lighter = verdict(found().with_severity(Severity::Info));
        let harmless = want != Restores::Unknown;
        assert_eq!(lighter.restores == Restores::Whole, harmless, "{code:?}");
    }
}

/// Every entry with its inode, length, times and bytes.
fn tree(dir: &Path) -> BTreeMap<PathBuf, (u64, u64, i64, i64, Vec<u8>)> {
    let mut out = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        let meta = fs::metadata(&dir).unwrap();
        out.insert(dir.clone(), (meta.ino(), 0, meta.mtime_nsec(), meta.ctime_nsec(), Vec::new()));
        for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            let meta = entry.metadata().unwrap();
            if meta.is_dir() {
                dirs.push(entry.path());
                continue;
            }
            let bytes = fs::read(entry.path()).unwrap();
            let of = (meta.ino(), meta.len(), meta.mtime_nsec(), meta.ctime_nsec(), bytes);
            out.insert(entry.path(), of);
        }
    }
    out
}
