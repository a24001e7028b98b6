//! Stores that have lost something which a backup still has, as real Chroma sees them: what was not changed since the backup is whole
//! again, what was changed never gets its old content, what was deleted does not come back, and what is missing is named.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    recover::{recover_with, run_python},
    support::{self, ROOMY_FILE, faults},
};

/// Makes a store, changes it, or prints all that it has.
const CHROMA: &str = r#"
import sys, json, random, chromadb
client = chromadb.PersistentClient(path=sys.argv[1])
dice = random.Random(MODE)
def vectors(n): return [[dice.gauss(0, 1) for _ in range(8)] for _ in range(n)]
def meta(i, what): return {"what": what, "number": i, "share": i / 7, "even": i % 2 == 0}
def text(name, i, what): return f"{what} {name} {i}: " + "lorem ipsum " * (i % 23)
def put(do, c, numbers, what):
    do(ids=[f"r{i}" for i in numbers], embeddings=vectors(len(numbers)),
       documents=[text(c.name, i, what) for i in numbers], metadatas=[meta(i, what) for i in numbers])
names = {"euclid": "l2", "angles": "cosine"}
if MODE == "make":
    for name, space in names.items():
        client.create_collection(name, metadata={"hnsw:space": space, "hnsw:sync_threshold": 50, "hnsw:batch_size": 10})
    for first in range(0, 300, 25):
        for name in names:
            put(client.get_collection(name).add, client.get_collection(name), range(first, first + 25), "made")
elif MODE in ["few", "many"]:
    step = 1 if MODE == "few" else 12
    for name in names:
        c = client.get_collection(name)
        ids = lambda first: [f"r{i}" for i in range(first, first + step)]
        c.delete(ids=ids(0))
        c.update(ids=ids(30), embeddings=vectors(step), documents=[text(name, i, "changed") for i in range(30, 30 + step)])
        c.update(ids=ids(60), embeddings=vectors(step))
        c.update(ids=ids(90), metadatas=[{"what": "changed"}] * step)
        put(c.upsert, c, range(120, 120 + step), "upserted")
        c.delete(ids=ids(150))
        put(c.add, c, range(150, 150 + step), "again")
        put(c.add, c, range(300, 300 + 4 * step), "new")
elif MODE == "drop":
    client.delete_collection("angles")
    del names["angles"]
out = {}
for name in names:
    c = client.get_collection(name)
    all = c.get(include=["documents", "metadatas"])
    rows = {id: {"document": d, "metadata": m or {}} for id, d, m in zip(all["ids"], all["documents"], all["metadatas"])}
    assert c.count() == len(rows)
    def vectors_of(ids):
        # Of many at once Chroma gives none when it has not the vector of one.
        try:
            all = c.get(ids=ids, include=["embeddings"])
            return {id: [float(x) for x in e] for id, e in zip(all["ids"], all["embeddings"])}
        except Exception:
            half = len(ids) // 2
            return {**vectors_of(ids[:half]), **vectors_of(ids[half:])} if half else {}
    given = vectors_of(list(rows))
    for id in rows: rows[id]["vector"] = given.get(id)
    word = "lorem"
    found = set(c.get(where_document={"$contains": word}, include=[])["ids"])
    assert found == {id for id, r in rows.items() if word in (r["document"] or "")}, name
    out[name] = rows
print(json.dumps(out))
"#;

fn chroma(version: &str, mode: &str, dir: &Path) -> Value {
    let script = format!("MODE = '{mode}'\n{CHROMA}");
    serde_json::from_str(&run_python(version, &script, dir)).unwrap()
}

fn zero(dir: &Path, tables: &[&str], every: usize) {
    let database = faults::database(dir);
    let sql = "SELECT pageno FROM dbstat WHERE name = ?1 AND pagetype = 'leaf' AND aggregate = FALSE ORDER BY path";
    let mut pages = Vec::new();
    for table in tables {
        let mut statement = database.prepare(sql).unwrap();
        let found = statement.query_map([table], |row| row.get::<_, i64>(0)).unwrap();
        pages.extend(found.map(|page| page.unwrap().unsigned_abs()).skip(1).step_by(every));
    }
    drop(database);
    for page in pages {
        faults::overwrite(&dir.join("chroma.sqlite3"), (page - 1) * 4096, &[0; 4096]);
    }
}

/// The middle of the elements of both indexes becomes zeros.
fn vectors(dir: &Path) {
    for name in ["euclid", "angles"] {
        let file = faults::folder(dir, name).join("data_level0.bin");
        let size = fs::metadata(&file).unwrap().len().min(300 * 180);
        faults::overwrite(&file, size / 4, &vec![0; usize::try_from(size / 2).unwrap()]);
    }
}

/// A third of the metadata, wherever it stands.
fn metadata(dir: &Path) {
    let tables = [
        "embedding_metadata",
        "sqlite_autoindex_embedding_metadata_1",
        "embedding_metadata_string_value",
        "embedding_metadata_int_value",
        "embedding_metadata_float_value",
        "embedding_fulltext_search_content",
    ];
    zero(dir, &tables, 3);
}

/// Half of the records, also in the index over them.
fn records(dir: &Path) {
    zero(dir, &["embeddings", "sqlite_autoindex_embeddings_1"], 2);
}

/// Nothing says any more which ids the indexes have.
fn ids(dir: &Path) {
    for name in ["euclid", "angles"] {
        fs::remove_file(faults::folder(dir, name).join("index_metadata.pickle")).unwrap();
    }
}

type Damage = (&'static str, &'static [fn(&Path)]);

const DAMAGE: [Damage; 3] = [
    ("vectors and metadata", &[vectors, metadata]),
    ("records", &[records]),
    ("records and ids", &[records, ids]),
];

fn backup(store: &Path, to: &Path) -> PathBuf {
    fs::create_dir(to).unwrap();
    let (from, into) = (store.to_str().unwrap(), to.to_str().unwrap());
    let words = ["backup", "--config.file", ROOMY_FILE, "--store.path", from, "--to", into];
    let out = support::run(&words);
    assert!(out.status.success(), "{out:?}");
    let made = fs::read_dir(to).unwrap().map(|entry| entry.unwrap().path());
    made.filter(|path| path.to_string_lossy().contains(".backup.")).max().unwrap()
}

/// Whether the report names a record of a collection among those that have lost something.
fn is_named(report: &Value, collection: &str, id: &str) -> bool {
    [
        "/lost_records",
        "/lost_rows",
        "/lost_documents",
        "/from_backup/older",
        "/from_backup/uncertain",
    ]
    .iter()
    .flat_map(|list| report.pointer(list).and_then(Value::as_array).into_iter().flatten())
    .any(|one| one["collection"] == collection && one["id"] == id)
}

fn is_near(a: &Value, b: &Value) -> bool {
    let numbers = |value: &Value| -> Vec<f64> {
        value.as_array().into_iter().flatten().map(|one| one.as_f64().unwrap()).collect()
    };
    let (a, b) = (numbers(a), numbers(b));
    a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-4)
}

/// What is wrong with what Chroma has now, and how many records have lost something. `is_certain` is whether it is known of every record that
/// it was not changed since the backup.
fn compare(
    (before, after, is): (&Value, &Value, &Value),
    report: &Value,
    is_certain: bool,
) -> (Vec<String>, usize) {
    let (mut wrong, mut lost) = (Vec::new(), 0);
    // What no name says is said in words.
    let in_words = report["losses"].as_array().is_some_and(|losses| !losses.is_empty());
    for name in ["euclid", "angles"] {
        let (before, after, is) = (&before[name], &after[name], &is[name]);
        for id in is.as_object().unwrap().keys() {
            if after.get(id).is_none() {
                wrong.push(format!("{name} {id} came back"));
            }
        }
        for (id, truth) in after.as_object().unwrap() {
            let named = is_named(report, name, id);
            let unchanged = before.get(id) == Some(truth);
            let Some(now) = is.get(id) else {
                lost += 1;
                // What was made since the backup, and was in the lost rows alone, has no name any more.
                let is_told = named || !is_certain && before.get(id).is_none() && in_words;
                if !is_told || is_certain && unchanged {
                    wrong.push(format!("{name} {id} is gone; named: {named}"));
                }
                continue;
            };
            let document = now["document"] == truth["document"];
            let vector = is_near(&now["vector"], &truth["vector"]);
            let metadata = now["metadata"] == truth["metadata"];
            if document && vector && metadata {
                continue;
            }
            lost += 1;
            if is_certain && unchanged {
                wrong.push(format!("{name} {id} was not changed since, and is not whole: {now}"));
            }
            let part = now["metadata"].as_object().unwrap();
            let older = part.iter().any(|(key, value)| truth["metadata"][key] != *value);
            if older
                || !(document || now["document"].is_null())
                || !(vector || now["vector"].is_null())
            {
                wrong.push(format!("{name} {id} has what it never had: {now} for {truth}"));
            }
            if !(named || in_words && vector) {
                wrong.push(format!("{name} {id} has lost something and is not named: {now}"));
            }
        }
    }
    (wrong, lost)
}

fn given_back(version: &str, mode: &str, damage: &[Damage]) {
    let scratch = tempfile::tempdir().unwrap();
    let store = scratch.path().join("store");
    let before = chroma(version, "make", &store);
    let backup = backup(&store, &scratch.path().join("backups"));
    let after = chroma(version, mode, &store);
    for (nth, (what, faults)) in damage.iter().enumerate() {
        let about = format!("{version}, {mode} changes, {what}");
        let dir = scratch.path().join(nth.to_string());
        support::copy_tree(&store, &dir);
        for fault in *faults {
            fault(&dir);
        }
        // The backup itself, or the directory where it lies.
        let named = if mode == "few" { backup.parent().unwrap() } else { &*backup };
        let given = ["--backup", named.to_str().unwrap()];
        let tried = (nth == 0).then(|| recover_with(&dir, &given)["report"].clone());
        let flags = [&["--apply", "--accept-loss"][..], &given].concat();
        let report = recover_with(&dir, &flags)["report"].clone();
        assert_eq!(report["outcome"], "repaired", "{about}: {report:#}");
        if let Some(tried) = tried {
            assert_eq!(tried["outcome"], "would_repair", "{about}: {tried:#}");
            assert_eq!(tried["from_backup"], report["from_backup"], "{about}");
        }
        let got = &report["from_backup"];
        assert_eq!(got["refused"], Value::Null, "{about}: {report:#}");
        assert_eq!(got["backup"], backup.to_str().unwrap(), "{about}");
        // After many changes the queue has not all of them any more.
        let is_certain = mode == "few" || !what.contains("records");
        let is = chroma(version, "show", &dir);
        let (wrong, lost) = compare((&before, &after, &is), &report, is_certain);
        eprintln!("{about}: {lost} lost, {}", got["collections"]);
        assert!(wrong.is_empty(), "{about}: {}\n{:#}", wrong.join("\n"), report["losses"]);
        if is_certain {
            assert_ne!(got["collections"], serde_json::json!([]), "{about}: {report:#}");
        }
        if lost == 0 {
            assert_eq!(report["losses"], serde_json::json!([]), "{about}: {report:#}");
        } else {
            assert_ne!(report["losses"], serde_json::json!([]), "{about}: {report:#}");
        }
    }
}

#[test]
fn what_was_not_changed_since_the_backup_is_whole_again() {
    for version in ["1.5.9", "0.6.3"] {
        given_back(version, "many", &DAMAGE[..2]);
        given_back(version, "few", &DAMAGE[1..]);
    }
}

#[test]
fn a_collection_that_only_the_backup_has_is_named_and_comes_back_when_that_is_asked_for() {
    for version in ["1.5.9", "0.6.3"] {
        let scratch = tempfile::tempdir().unwrap();
        let store = scratch.path().join("store");
        let before = chroma(version, "make", &store);
        let backup = backup(&store, &scratch.path().join("backups"));
        let given = ["--backup", backup.to_str().unwrap()];
        let same = |dir: &Path, about: &str| {
            let none = serde_json::json!([]);
            let is = chroma(version, "show", dir);
            let report = serde_json::json!({"losses": none});
            let (wrong, lost) = compare((&before, &before, &is), &report, true);
            assert!(wrong.is_empty() && lost == 0, "{version}, {about}: {}", wrong.join("\n"));
        };
        let unnamed = scratch.path().join("unnamed");
        support::copy_tree(&store, &unnamed);

        chroma(version, "drop", &store);
        let report = recover_with(&store, &given)["report"].clone();
        assert_eq!(report["outcome"], "nothing_to_do", "{version}: {report:#}");
        let gone = &report["gone_collections"];
        assert_eq!(gone.as_array().map(Vec::len), Some(1), "{version}: {report:#}");
        assert_eq!(gone[0]["name"], "angles", "{version}");
        assert_eq!(gone[0]["records"], 300, "{version}");
        assert_eq!(gone[0]["is_back"], false, "{version}");
        let words = [
            &["recover", "--config.file", ROOMY_FILE, "--store.path", store.to_str().unwrap()][..],
            &given,
        ]
        .concat();
        let said = String::from_utf8(support::run(&words).stdout).unwrap();
        assert!(said.contains("the collection angles with 300 records"), "{version}: {said}");

        let flags = [&["--apply", "--adopt-orphans"][..], &given].concat();
        let report = recover_with(&store, &flags)["report"].clone();
        assert_eq!(report["outcome"], "repaired", "{version}: {report:#}");
        assert_eq!(report["gone_collections"][0]["is_back"], true, "{version}: {report:#}");
        same(&store, "deleted");
        let more = chroma(version, "few", &store);
        assert!(more["angles"].get("r300").is_some() && more["angles"].get("r0").is_none());

        // Of this one the row is lost, and everything else is there: its name and settings are in the backup.
        faults::execute(
            &unnamed,
            "PRAGMA foreign_keys = OFF; DELETE FROM collection_metadata; DELETE FROM collections WHERE name = 'angles'",
        );
        let flags = [&["--apply", "--adopt-orphans", "--accept-loss"][..], &given].concat();
        let report = recover_with(&unnamed, &flags)["report"].clone();
        assert_eq!(report["outcome"], "repaired", "{version}: {report:#}");
        assert_eq!(report["gone_collections"], serde_json::json!([]), "{version}: {report:#}");
        same(&unnamed, "without a row");
    }
}

#[test]
fn a_backup_of_another_history_gives_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let (store, other) = (scratch.path().join("store"), scratch.path().join("other"));
    chroma("1.5.9", "make", &store);
    support::copy_tree(&store, &other);
    // Both go on from one state, each in its own way, and give the same numbers.
    chroma("1.5.9", "few", &store);
    chroma("1.5.9", "many", &other);
    let backup = backup(&other, &scratch.path().join("backups"));
    vectors(&store);
    let report = recover_with(&store, &["--backup", backup.to_str().unwrap()])["report"].clone();
    let refused = report["from_backup"]["refused"].as_str().unwrap_or_default();
    assert!(refused.contains("another history"), "{report:#}");
    assert_eq!(report["from_backup"]["collections"], serde_json::json!([]), "{report:#}");
}
