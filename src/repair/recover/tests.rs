use std::collections::BTreeMap;

use rusqlite::Connection;

use super::*;
use crate::{
    clock,
    repair::holders::Holds,
    wait::{SOON, wait_for},
};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

pub(super) type Content = BTreeMap<PathBuf, Vec<u8>>;

fn content(dir: &Path) -> Content {
    let mut out = Content::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            out.extend(content(&entry.path()));
        } else {
            out.insert(entry.path(), fs::read(entry.path()).unwrap());
        }
    }
    out
}

pub(super) struct Stand {
    scratch: tempfile::TempDir,
    pub(super) wish: Wish,
    processes: ProcessTable,
}

impl Stand {
    pub(super) fn new(name: &str) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let store = scratch.path().canonicalize().unwrap().join("chroma");
        copy_tree(&fixture(name), &store);
        let wish =
            Wish { store, accept_loss: false, chroma_is_stopped: false, dry: true, only: None };
        Self { scratch, wish, processes: ProcessTable::new("/proc".into()) }
    }

    pub(super) fn broken(name: &str, sql: &str) -> Self {
        let stand = Self::new(name);
        let database = Connection::open(stand.database()).unwrap();
        database.execute_batch("PRAGMA foreign_keys=OFF").unwrap();
        database.execute_batch(sql).unwrap();
        stand
    }

    pub(super) fn database(&self) -> PathBuf {
        self.wish.store.join(DATABASE_FILE)
    }

    pub(super) fn content(&self) -> Content {
        content(&self.wish.store)
    }

    /// Until nobody whom another test starts has inherited the database.
    fn settled<T: std::fmt::Debug>(
        mut act: impl FnMut() -> Result<T, RestoreError>,
    ) -> Result<T, RestoreError> {
        wait_for("nobody to hold the store", SOON, || match act() {
            Err(
                RestoreError::Held(
                    Holds::Held { .. } | Holds::Elsewhere { .. } | Holds::Locked { .. },
                )
                | RestoreError::Swap(swap::SwapError::Held(_) | swap::SwapError::Came { .. }),
            ) => None,
            result => Some(result),
        })
    }

    pub(super) fn run(&self, wish: &Wish) -> Report {
        let steps = Steps::default();
        Self::settled(|| recover(wish, Means::default(), &self.processes, &steps, clock::now()))
            .unwrap()
    }

    pub(super) fn dry(&self) -> Report {
        let before = self.content();
        let report = self.run(&self.wish);
        assert!(self.content() == before, "the store was changed");
        assert_eq!(fs::read_dir(self.scratch.path()).unwrap().count(), 1, "something is left");
        report
    }

    pub(super) fn apply(&self) -> Report {
        self.run(&Wish { dry: false, ..self.wish.clone() })
    }

    fn undo(&self) -> restore::Report {
        let wish = Wish { dry: false, ..self.wish.clone() };
        Self::settled(|| restore::undo(&wish, &self.processes, clock::now())).unwrap()
    }
}

/// Every row of every table that Chroma keeps, the full text apart.
pub(super) fn rows(database: &Path) -> BTreeMap<String, Vec<String>> {
    let connection = Connection::open(database).unwrap();
    let list = |sql: &str| -> Vec<String> {
        let mut statement = connection.prepare(sql).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let tables = list("SELECT name FROM sqlite_schema WHERE type = 'table' AND rootpage > 0");
    let kept = tables.into_iter().filter(|name| !fulltext::is_part(name));
    kept.map(|table| {
        let columns = list(&format!("SELECT name FROM pragma_table_info('{table}')"));
        let quoted = columns.iter().map(|column| format!("quote(\"{column}\")"));
        let row = quoted.collect::<Vec<_>>().join("||','||");
        (table.clone(), list(&format!("SELECT {row} FROM \"{table}\" NOT INDEXED ORDER BY 1")))
    })
    .collect()
}

#[test]
fn healthy_stores_need_nothing_and_keep_every_byte() {
    for name in [
        "chroma-0.4.24",
        "chroma-0.5.5",
        "chroma-0.6.3",
        "chroma-0.6.3-deleted",
        "chroma-1.1.1",
        "chroma-1.5.9",
        "chroma-1.5.9-deleted",
        "chroma-1.5.9-empty",
        "chroma-1.5.9-fresh",
        "chroma-1.5.9-journal-left",
    ] {
        let stand = Stand::new(name);
        let before = stand.content();
        let report = stand.dry();
        assert_eq!(report.outcome, Outcome::NothingToDo, "{name}: {report:?}");
        let report = stand.apply();
        assert_eq!(report.outcome, Outcome::NothingToDo, "{name}: {report:?}");
        assert!(stand.content() == before, "{name}");
        assert!(report.done.is_empty() && report.losses.is_empty(), "{name}: {report:?}");
    }
}

/// Repairs, looks at the result, and undoes.
pub(super) fn must_be_mended(stand: &Stand, healthy: &BTreeMap<String, Vec<String>>, what: &str) {
    let broken = stand.content();
    let report = stand.dry();
    assert_eq!(report.outcome, Outcome::WouldRepair, "{what}: {report:#?}");
    assert!(report.losses.is_empty() && report.not_done.is_empty(), "{what}: {report:#?}");
    let report = stand.apply();
    assert_eq!(report.outcome, Outcome::Repaired, "{what}: {report:#?}");
    let after = report.after.as_ref().unwrap();
    assert_eq!(after.restores, Restores::Whole, "{what}: {report:#?}");
    assert!(after.findings.is_empty() && !report.before.findings.is_empty(), "{what}: {report:#?}");
    assert!(rows(&stand.database()) == *healthy, "{what}: rows differ");
    assert_eq!(stand.dry_again(), Outcome::NothingToDo, "{what}");
    assert!(stand.undo().quarantine.is_some(), "{what}");
    assert!(stand.content() == broken, "{what}: the undo did not bring everything back");
}

impl Stand {
    fn dry_again(&self) -> Outcome {
        self.run(&self.wish).outcome
    }
}

#[test]
fn full_text_is_made_anew_on_every_release() {
    let faults = [
        ("gone", "DROP TABLE embedding_fulltext_search"),
        (
            "blocks overwritten",
            "UPDATE embedding_fulltext_search_data SET block=x'ff00ff00ff00ff00' WHERE id>10",
        ),
        (
            "structure overwritten",
            "UPDATE embedding_fulltext_search_data SET block=x'ff' WHERE id=10",
        ),
        ("rows missing", "DELETE FROM embedding_fulltext_search WHERE rowid<=5"),
        (
            "filled as the upgrade from before 0.4.6 does",
            "DELETE FROM embedding_fulltext_search; INSERT INTO embedding_fulltext_search(rowid,string_value) SELECT rowid,string_value FROM embedding_metadata",
        ),
        (
            "a text at the place of the next record",
            "INSERT INTO embedding_fulltext_search(rowid,string_value) VALUES((SELECT max(id)+1 FROM embeddings),'stale')",
        ),
    ];
    for name in ["chroma-0.4.24", "chroma-0.6.3", "chroma-1.1.1", "chroma-1.5.9"] {
        let healthy = rows(&Stand::new(name).database());
        // Before 1.0 a text at that place does no harm.
        let known = if name < "chroma-1" { 5 } else { 6 };
        for (what, sql) in &faults[..known] {
            let stand = Stand::broken(name, sql);
            must_be_mended(&stand, &healthy, &format!("{name}: {what}"));
        }
    }
}

/// The page where a table or an index begins, as bytes from the start of the file.
fn page_of(database: &Path, name: &str) -> u64 {
    let sql = "SELECT rootpage FROM sqlite_schema WHERE name = ?1";
    let connection = Connection::open(database).unwrap();
    let page: i64 = connection.query_row(sql, [name], |row| row.get(0)).unwrap();
    u64::try_from(page - 1).unwrap() * 4096
}

fn overwrite(database: &Path, at: u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    fs::File::options().write(true).open(database).unwrap().write_all_at(bytes, at).unwrap();
}

#[test]
fn damaged_indexes_and_lists_of_free_pages_cost_no_row() {
    for (name, indexes) in [
        ("chroma-0.4.24", &["sqlite_autoindex_embeddings_1"][..]),
        ("chroma-1.1.1", &["sqlite_autoindex_embedding_metadata_1"]),
        (
            "chroma-1.5.9",
            &[
                "sqlite_autoindex_embeddings_1",
                "sqlite_autoindex_collections_1",
                "embedding_metadata_string_value",
            ],
        ),
    ] {
        let healthy = rows(&Stand::new(name).database());
        for index in indexes {
            let stand = Stand::new(name);
            overwrite(&stand.database(), page_of(&stand.database(), index), &[0; 4096]);
            must_be_mended(&stand, &healthy, &format!("{name}: {index}"));
        }
        let stand = Stand::new(name);
        overwrite(&stand.database(), 36, &77_u32.to_be_bytes());
        must_be_mended(&stand, &healthy, &format!("{name}: number of free pages"));
    }
    let stand = Stand::new("chroma-1.5.9");
    let healthy = rows(&stand.database());
    let page = u32::try_from(page_of(&stand.database(), "collections") / 4096 + 1).unwrap();
    overwrite(&stand.database(), 32, &[page.to_be_bytes(), 1_u32.to_be_bytes()].concat());
    must_be_mended(&stand, &healthy, "list of free pages leads to a table");
    let stand = Stand::new("chroma-1.5.9");
    let name = "embedding_fulltext_search_content";
    overwrite(&stand.database(), page_of(&stand.database(), name), &[0; 4096]);
    must_be_mended(&stand, &healthy, "a page of the full text");
}

/// `(what, damage to the database)`.
type Damage = (&'static str, fn(&Path));

#[test]
fn rows_that_still_stand_somewhere_are_put_back_from_damaged_pages() {
    let faults: [Damage; 6] = [
        ("the first page of a table, with leaves below it", |database| {
            overwrite(database, page_of(database, "embedding_metadata"), &[0; 4096]);
        }),
        ("a list of free pages and the first page of a table", |database| {
            overwrite(database, page_of(database, "embedding_metadata"), &[0; 4096]);
            overwrite(database, 36, &77_u32.to_be_bytes());
        }),
        ("tenants and databases", |database| {
            for table in ["tenants", "databases"] {
                overwrite(database, page_of(database, table), &[0xee; 4096]);
            }
        }),
        ("the first page", |database| overwrite(database, 0, &[0; 4096])),
        ("the header", |database| overwrite(database, 0, &[0; 100])),
        ("the size of a page in the header", |database| overwrite(database, 16, &[0x12, 0x34])),
    ];
    for name in ["chroma-0.6.3", "chroma-1.1.1", "chroma-1.5.9"] {
        let healthy = rows(&Stand::new(name).database());
        for (what, damage) in faults {
            let stand = Stand::new(name);
            damage(&stand.database());
            must_be_mended(&stand, &healthy, &format!("{name}: {what}"));
        }
    }
}

#[test]
fn rows_that_stand_nowhere_else_are_named_and_need_a_word() {
    for (table, at_least) in [("segments", 4), ("collection_metadata", 2)] {
        let stand = Stand::new("chroma-1.5.9");
        overwrite(&stand.database(), page_of(&stand.database(), table), &[0; 4096]);
        let before = stand.content();
        for report in [stand.dry(), stand.apply()] {
            assert_ne!(report.outcome, Outcome::Repaired, "{table}: {report:#?}");
            let lost: Vec<_> = report.lost_rows.iter().filter(|row| row.table == table).collect();
            assert!(lost.len() >= at_least, "{table}: {report:#?}");
            assert!(lost.iter().all(|row| !row.what.is_empty()), "{table}: {report:#?}");
            assert!(!report.losses.is_empty(), "{table}");
        }
        assert!(stand.content() == before, "{table}");
    }
}

#[test]
fn a_transaction_that_was_cut_off_is_rolled_back() {
    let stand = Stand::new("chroma-1.5.9-hot-journal");
    let mut healthy = Stand::new("chroma-1.5.9-hot-journal");
    healthy.wish.dry = false;
    // What SQLite makes of it.
    let connection = Connection::open(healthy.database()).unwrap();
    connection
        .query_row("SELECT count(*) FROM embeddings", [], |row| row.get::<_, i64>(0))
        .unwrap();
    drop(connection);
    must_be_mended(&stand, &rows(&healthy.database()), "hot journal");
}

#[test]
fn rows_that_every_store_has_are_put_back() {
    let healthy = rows(&Stand::new("chroma-1.5.9").database());
    for (what, sql) in [
        ("tenant", "DELETE FROM tenants"),
        ("database", "DELETE FROM databases"),
        (
            "both, and the full text",
            "DELETE FROM tenants; DELETE FROM databases; DROP TABLE embedding_fulltext_search",
        ),
    ] {
        must_be_mended(&Stand::broken("chroma-1.5.9", sql), &healthy, what);
    }
    let ahead = "UPDATE max_seq_id SET seq_id=100000 WHERE segment_id IN (SELECT id FROM segments WHERE scope='METADATA')";
    let stand = Stand::broken("chroma-1.5.9", ahead);
    assert_eq!(stand.apply().outcome, Outcome::Repaired);
    let mut rows_now = rows(&stand.database());
    let (positions, healthy_positions) =
        (rows_now.remove("max_seq_id").unwrap(), healthy["max_seq_id"].clone());
    let zero = positions.iter().filter(|row| row.ends_with(",0")).count();
    assert_eq!((zero, positions.len()), (2, healthy_positions.len()), "{positions:?}");
    let mut others = healthy;
    others.remove("max_seq_id");
    assert!(rows_now == others);
    // Before 1.0 nobody knows which rows were applied.
    let old = Stand::broken("chroma-0.6.3", ahead);
    let report = old.dry();
    assert_eq!(report.outcome, Outcome::NotRepaired, "{report:#?}");
}

#[test]
fn texts_that_only_the_full_text_has_are_named_before_they_go() {
    let sql = "DELETE FROM embedding_metadata WHERE key='chroma:document' AND id=4";
    let stand = Stand::broken("chroma-1.1.1", sql);
    let broken = stand.content();
    let report = stand.dry();
    assert_eq!(report.outcome, Outcome::WouldRepair, "{report:#?}");
    assert_eq!(report.lost_documents.len(), 1, "{report:#?}");
    assert!(
        !report.lost_documents[0].id.is_empty() && !report.lost_documents[0].document.is_empty()
    );
    assert_eq!(report.losses.len(), 1, "{report:#?}");
    assert_eq!(stand.apply().outcome, Outcome::NotAccepted);
    assert!(stand.content() == broken);
    let accepted = Wish { dry: false, accept_loss: true, ..stand.wish.clone() };
    assert_eq!(stand.run(&accepted).outcome, Outcome::Repaired);
}

#[test]
fn texts_at_wrong_numbers_are_no_loss() {
    // The first records have no document, so that every text stands at the number of another record.
    let sql = "DELETE FROM embedding_metadata WHERE key='chroma:document' AND id<=3; \
               UPDATE embedding_metadata SET string_value='text '||hex(zeroblob(id)) WHERE key='chroma:document'; DROP TABLE embedding_fulltext_search; \
               CREATE VIRTUAL TABLE embedding_fulltext_search USING fts5(string_value, tokenize='trigram'); \
               INSERT INTO embedding_fulltext_search(string_value) \
               SELECT string_value FROM embedding_metadata WHERE key='chroma:document' ORDER BY id";
    for name in ["chroma-0.6.3", "chroma-1.1.1", "chroma-1.5.9"] {
        let stand = Stand::broken(name, sql);
        let healthy = rows(&stand.database());
        must_be_mended(&stand, &healthy, name);
    }
    // One that is there once more than records have it was the document of a record.
    let twice = "DELETE FROM embedding_fulltext_search WHERE rowid=5; UPDATE embedding_metadata SET string_value='the same' WHERE key='chroma:document' AND id IN (3, 4); \
                 DELETE FROM embedding_fulltext_search WHERE rowid IN (3, 4); \
                 INSERT INTO embedding_fulltext_search(rowid, string_value) VALUES(3, 'the same'), (4, 'the same'); \
                 DELETE FROM embedding_metadata WHERE key='chroma:document' AND id=4";
    let report = Stand::broken("chroma-1.5.9", twice).dry();
    assert_eq!((report.lost_documents.len(), report.losses.len()), (1, 1), "{report:#?}");
}

#[test]
fn positions_that_are_gone_are_those_of_records_and_index() {
    let positions = |database: &Path| -> Vec<(String, Vec<u8>)> {
        let sql = "SELECT s.id, m.seq_id FROM segments AS s LEFT JOIN max_seq_id AS m ON m.segment_id = s.id WHERE s.scope = 'VECTOR' ORDER BY 1";
        let connection = Connection::open(database).unwrap();
        let mut statement = connection.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
        rows.unwrap().map(Result::unwrap).collect()
    };
    let healthy = positions(&fixture("chroma-0.6.3").join(DATABASE_FILE));
    let stand = Stand::broken("chroma-0.6.3", "DELETE FROM max_seq_id");
    let report = stand.apply();
    assert_eq!(report.outcome, Outcome::Repaired, "{report:#?}");
    assert!(report.losses.is_empty(), "{report:#?}");
    assert_eq!(positions(&stand.database()), healthy);
}

#[test]
fn two_copies_that_differ_are_both_kept() {
    let sql = "UPDATE embedding_metadata SET string_value=replace(string_value,'a','e') WHERE key='chroma:document' AND id=3; \
               DELETE FROM embedding_fulltext_search WHERE rowid=5";
    // Each of the two indexes has taken the copy that stands beside it.
    let stand = Stand::broken("chroma-1.5.9", sql);
    let report = stand.dry();
    assert_eq!(report.outcome, Outcome::WouldRepair, "{report:#?}");
    assert_eq!((report.losses.len(), report.lost_documents.len()), (1, 1), "{report:#?}");
    assert_eq!(stand.apply().outcome, Outcome::NotAccepted);
}

#[test]
fn what_is_repaired_is_put_in_place_beside_what_cannot_be_when_that_is_accepted() {
    let stand = Stand::broken("chroma-1.5.9", "DROP TABLE embedding_fulltext_search");
    let mut entries = fs::read_dir(&stand.wish.store).unwrap().map(|entry| entry.unwrap().path());
    fs::remove_dir_all(entries.find(|path| path.is_dir()).unwrap()).unwrap();
    let report = stand.dry();
    assert_eq!(report.outcome, Outcome::WouldRepair, "{report:#?}");
    assert!(report.not_done.iter().any(|one| one.code == "records_without_vector"), "{report:#?}");
    assert!(!report.losses.is_empty() && !report.lost_records.is_empty());
    assert_eq!(stand.apply().outcome, Outcome::NotAccepted);
}

/// The file of the folder of a collection.
fn index_file(stand: &Stand, collection: &str, file: &str) -> PathBuf {
    let sql = "SELECT s.id FROM segments s JOIN collections c ON c.id = s.collection WHERE s.scope = 'VECTOR' AND c.name = ?1";
    let connection = Connection::open(stand.database()).unwrap();
    let segment: String = connection.query_row(sql, [collection], |row| row.get(0)).unwrap();
    stand.wish.store.join(segment).join(file)
}

#[test]
fn an_index_is_written_anew_beside_a_database_that_stays_as_it_is() {
    for name in ["chroma-0.4.24", "chroma-0.5.5", "chroma-0.6.3", "chroma-1.1.1", "chroma-1.5.9"] {
        let stand = Stand::new(name);
        let healthy = rows(&stand.database());
        overwrite(&index_file(&stand, "articles", "header.bin"), 0, &[0; 100]);
        fs::write(index_file(&stand, "notes", "link_lists.bin"), [7; 1000]).unwrap();
        must_be_mended(&stand, &healthy, name);
        let stand = Stand::new(name);
        let folder = |name| index_file(&stand, name, "x").parent().unwrap().to_owned();
        let (a, b) = (folder("articles"), folder("notes"));
        let between = stand.wish.store.join("between");
        fs::rename(&a, &between).unwrap();
        fs::rename(&b, &a).unwrap();
        fs::rename(&between, &b).unwrap();
        must_be_mended(&stand, &healthy, &format!("{name}: folders exchanged"));
    }
}

#[test]
fn records_whose_vector_is_lost_are_named_with_all_that_is_left_of_them() {
    let stand = Stand::new("chroma-1.5.9");
    let elements = index_file(&stand, "articles", "data_level0.bin");
    let file = fs::File::options().write(true).open(&elements).unwrap();
    // 78 elements of 80, and the beginning of the next one.
    file.set_len(78 * (4 + 4 * 32 + 4 * 8 + 8) + 5).unwrap();
    let broken = stand.content();
    let report = stand.apply();
    assert_eq!(report.outcome, Outcome::NotAccepted, "{report:#?}");
    assert!(stand.content() == broken);
    let accepted = Wish { dry: false, accept_loss: true, ..stand.wish.clone() };
    let report = stand.run(&accepted);
    assert_eq!(report.outcome, Outcome::Repaired, "{report:#?}");
    let lost = &report.lost_records;
    assert_eq!(lost.len(), 2, "{lost:#?}");
    assert!(lost[0].collection == "articles" && lost[0].part == Part::Vector, "{lost:#?}");
    assert!(lost[0].document.is_some() && !lost[0].metadata.is_empty(), "{lost:#?}");
    assert!(report.losses.iter().any(|loss| loss.contains(&lost[0].id)), "{report:#?}");
}

#[test]
fn pointers_and_code_in_place_of_an_index_are_left_alone() {
    for (file, text, outcome, why) in [
        (
            "header.bin",
            "version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 100\n",
            Outcome::NotRepaired,
            "git lfs pull",
        ),
        (
            "index_metadata.pickle",
            "cposix\nsystem\n(X\u{4}\0\0\0truetR.",
            Outcome::WouldRepair,
            "holds code",
        ),
    ] {
        let stand = Stand::new("chroma-1.5.9");
        fs::write(index_file(&stand, "articles", file), text).unwrap();
        // Another one can be written anew.
        overwrite(&index_file(&stand, "notes", "header.bin"), 0, &[0; 100]);
        let report = stand.dry();
        assert_eq!(report.outcome, outcome, "{file}: {report:#?}");
        assert!(report.not_done.iter().any(|one| one.why.contains(why)), "{file}: {report:#?}");
        assert!(!report.losses.is_empty(), "{file}: {report:#?}");
    }
}

#[test]
fn a_document_with_nul_is_indexed_as_chroma_does() {
    let sql = "UPDATE embedding_metadata SET string_value='a text'||char(0)||' and more' WHERE key='chroma:document' AND id=3; \
               DROP TABLE embedding_fulltext_search";
    let stand = Stand::broken("chroma-1.5.9", sql);
    let report = stand.dry();
    assert_eq!(report.outcome, Outcome::WouldRepair, "{report:#?}");
    assert!(report.losses.is_empty() && report.after.unwrap().findings.is_empty());
}

#[test]
fn a_store_that_changes_meanwhile_is_left_alone() {
    let stand = Stand::broken("chroma-1.5.9", "DROP TABLE embedding_fulltext_search");
    let inventory = Inventory::of(&stand.wish.store).unwrap();
    unchanged(&stand.wish.store, &inventory).unwrap();
    overwrite(&stand.database(), 4096 * 3, b"another");
    let error = unchanged(&stand.wish.store, &inventory).unwrap_err();
    assert!(error.is_refusal(), "{error}");
}
