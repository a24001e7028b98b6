//! Databases whose pages are damaged, as real Chroma sees them once `recover` has read what is left: every answer that the bytes still
//! allow is that of the healthy store, nothing deleted comes back, and the rest is named.

use std::{collections::BTreeMap, path::Path};

use serde_json::Value;

use crate::{
    recover::{recover_with, run_python},
    support::{faults, fixture},
};

/// Prints every record of every collection with its document, metadata and embedding, and what some texts find; then again after more
/// writes.
const ASK: &str = r#"
import sys, json, chromadb
client = chromadb.PersistentClient(path=sys.argv[1])
def state():
    out = {}
    for name in ["articles", "notes"]:
        c = client.get_collection(name)
        all = c.get(include=["documents", "metadatas", "embeddings"])
        rows = zip(all["ids"], all["documents"], all["metadatas"], [[float(x) for x in e] for e in all["embeddings"]])
        texts = ["articles-00", "articles-007: ", "notes-01", "nothing has this"]
        found = {t: sorted(c.get(where_document={"$contains": t}, include=[])["ids"]) for t in texts}
        out[name] = {"count": c.count(), "records": {r[0]: r[1:] for r in rows}, "found": found}
    return out
first = state()
for name, size in [("articles", 8), ("notes", 12)]:
    c = client.get_collection(name)
    for batch in range(4):
        ids = [f"more-{batch}-{i}" for i in range(50)]
        c.add(ids=ids, embeddings=[[float(i + 1)] * size for i in range(50)], documents=[f"{i} came after" for i in ids])
    assert len(c.get(where_document={"$contains": "came after"}, include=[])["ids"]) == 200
print(json.dumps([first, state()], sort_keys=True))
"#;

fn ask(version: &str, dir: &Path) -> Value {
    serde_json::from_str(&run_python(version, ASK, dir)).unwrap()
}

/// Where the page begins that is the root of a table.
fn root(dir: &Path, name: &str) -> u64 {
    let sql = "SELECT rootpage FROM sqlite_schema WHERE name = ?1";
    let page: i64 = faults::database(dir).query_row(sql, [name], |row| row.get(0)).unwrap();
    u64::try_from(page - 1).unwrap() * 4096
}

fn zero(dir: &Path, at: u64) {
    faults::overwrite(&dir.join("chroma.sqlite3"), at, &[0; 4096]);
}

/// The leaves of a table, as places in the file.
fn leaves(dir: &Path, name: &str) -> Vec<u64> {
    let sql =
        "SELECT pageno FROM dbstat WHERE name = ?1 AND pagetype = 'leaf' AND aggregate = FALSE";
    let database = faults::database(dir);
    let mut statement = database.prepare(sql).unwrap();
    let pages = statement.query_map([name], |row| row.get::<_, i64>(0)).unwrap();
    pages.map(|page| u64::try_from(page.unwrap() - 1).unwrap() * 4096).collect()
}

type Damage = (&'static str, fn(&Path));

#[test]
fn chroma_finds_everything_that_other_pages_still_have() {
    let faults: [Damage; 4] = [
        ("the first page", |dir| zero(dir, 0)),
        ("the top of the metadata", |dir| zero(dir, root(dir, "embedding_metadata"))),
        ("a page of records", |dir| zero(dir, leaves(dir, "embeddings")[0])),
        ("tenants and databases", |dir| {
            zero(dir, root(dir, "tenants"));
            zero(dir, root(dir, "databases"));
        }),
    ];
    for (version, faults) in [
        ("1.5.9", &faults[..]),
        ("1.1.1", &faults[1..3]),
        ("0.6.3", &faults[..3]),
        ("0.4.24", &faults[1..3]),
    ] {
        let scratch = tempfile::tempdir().unwrap();
        let healthy = fixture(&format!("chroma-{version}"), &scratch.path().join("healthy"));
        let truth = ask(version, &healthy);
        for (nth, (what, damage)) in faults.iter().enumerate() {
            let place = scratch.path().join(nth.to_string());
            let dir = fixture(&format!("chroma-{version}"), &place);
            damage(&dir);
            let reported = recover_with(&dir, &["--apply"]);
            assert_eq!(
                reported["report"]["outcome"], "repaired",
                "{version}: {what}: {reported:#}"
            );
            assert_eq!(reported["report"]["losses"], serde_json::json!([]), "{version}: {what}");
            assert!(ask(version, &dir) == truth, "{version}: {what}: Chroma answers otherwise");
        }
    }
}

/// Half of the schema is gone, and with it where tables begin: the migrations say what they are like, and their rows where they are. That
/// this is all cannot be known.
#[test]
fn chroma_finds_everything_without_half_of_the_schema() {
    for version in ["1.5.9", "0.6.3"] {
        let scratch = tempfile::tempdir().unwrap();
        let healthy = fixture(&format!("chroma-{version}"), &scratch.path().join("healthy"));
        let truth = ask(version, &healthy);
        for nth in 0..2 {
            let place = scratch.path().join(nth.to_string());
            let dir = fixture(&format!("chroma-{version}"), &place);
            zero(&dir, leaves(&dir, "sqlite_schema")[nth]);
            let reported = recover_with(&dir, &["--apply", "--accept-loss"]);
            assert_eq!(reported["report"]["outcome"], "repaired", "{version}, {nth}: {reported:#}");
            assert_eq!(reported["report"]["lost_rows"], serde_json::json!([]), "{version}, {nth}");
            assert!(
                ask(version, &dir) == truth,
                "{version}, {nth}: Chroma answers otherwise: {reported:#}"
            );
        }
    }
}

/// What the metadata of a record has, after a page of it was lost: never anything else than before, and what is missing is named.
#[test]
fn what_chroma_misses_is_what_was_named() {
    for version in ["1.5.9", "0.4.24"] {
        let scratch = tempfile::tempdir().unwrap();
        let healthy = fixture(&format!("chroma-{version}"), &scratch.path().join("healthy"));
        let truth = ask(version, &healthy);
        let dir = fixture(&format!("chroma-{version}"), &scratch.path().join("broken"));
        zero(&dir, leaves(&dir, "embedding_metadata")[1]);
        // Values that are true or false stand in no index. Before 0.5.7 the queue has all of them, later the newest.
        let lost = version != "0.4.24";
        if lost {
            let refused = recover_with(&dir, &["--apply"]);
            assert_eq!(refused["report"]["outcome"], "not_accepted", "{version}: {refused:#}");
        }
        let flags: &[&str] = if lost { &["--apply", "--accept-loss"] } else { &["--apply"] };
        let reported = recover_with(&dir, flags);
        assert_eq!(reported["report"]["outcome"], "repaired", "{version}: {reported:#}");
        let mut named: BTreeMap<(String, String), usize> = BTreeMap::new();
        for row in reported["report"]["lost_rows"].as_array().unwrap() {
            let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
            assert_eq!(text("table"), "embedding_metadata", "{version}: {row}");
            *named.entry((text("collection"), text("id"))).or_default() += 1;
        }
        let found = ask(version, &dir);
        for state in 0..2 {
            for name in ["articles", "notes"] {
                let (was, is) = (&truth[state][name], &found[state][name]);
                assert_eq!(was["count"], is["count"], "{version}: {name}");
                assert_eq!(was["found"], is["found"], "{version}: {name}");
                for (id, record) in was["records"].as_object().unwrap() {
                    let kept = &is["records"][id];
                    let lost = named.get(&(name.to_owned(), id.clone())).copied().unwrap_or(0);
                    assert_eq!((&record[0], &record[2]), (&kept[0], &kept[2]), "{version}: {id}");
                    let values =
                        |record: &Value| record[1].as_object().cloned().unwrap_or_default();
                    let (before, after) = (values(record), values(kept));
                    assert_eq!(before.len(), after.len() + lost, "{version}: {id}: {kept}");
                    assert!(
                        after.iter().all(|(key, value)| before[key] == *value),
                        "{version}: {id}"
                    );
                }
            }
        }
        assert_eq!(!named.is_empty(), lost, "{version}");
    }
}

/// The names stand in an index too, the settings nowhere but as far as the vectors prove them: that is told, and Chroma goes on.
#[test]
fn collections_keep_their_records_when_their_settings_are_lost() {
    for version in ["1.5.9", "1.1.1", "0.6.3"] {
        let scratch = tempfile::tempdir().unwrap();
        let healthy = fixture(&format!("chroma-{version}"), &scratch.path().join("healthy"));
        let truth = ask(version, &healthy);
        let dir = fixture(&format!("chroma-{version}"), &scratch.path().join("broken"));
        zero(&dir, root(&dir, "collections"));
        let refused = recover_with(&dir, &["--apply"]);
        assert_eq!(refused["report"]["outcome"], "not_accepted", "{version}: {refused:#}");
        let reported = recover_with(&dir, &["--apply", "--accept-loss"]);
        assert_eq!(reported["report"]["outcome"], "repaired", "{version}: {reported:#}");
        let losses = reported["report"]["losses"].as_array().unwrap();
        let settings =
            |loss: &&Value| loss.as_str().unwrap().starts_with("the settings of the collection ");
        assert_eq!(losses.iter().filter(settings).count(), 2, "{version}: {reported:#}");
        let found = ask(version, &dir);
        for name in ["articles", "notes"] {
            for what in ["count", "found"] {
                assert_eq!(truth[0][name][what], found[0][name][what], "{version}: {name}");
                assert_eq!(truth[1][name][what], found[1][name][what], "{version}: {name}");
            }
            assert_eq!(
                truth[0][name]["records"], found[0][name]["records"],
                "{version}: {name}: with the distance that the index proves, vectors are as they were"
            );
        }
    }
}

/// Gives collections that `recover` named after their ids the names of the healthy store.
const RENAME: &str = r#"
import sys, chromadb
client = chromadb.PersistentClient(path=sys.argv[1])
for id, name in NAMES:
    client.get_collection("recovered-" + id[:8]).modify(name=name)
"#;

/// No page has the names of the collections any more, nor their settings. All their records are there under other names.
#[test]
fn collections_without_a_name_keep_all_their_records() {
    let everywhere: fn(&Path) = |dir| {
        let pages =
            ["collections", "sqlite_autoindex_collections_1", "sqlite_autoindex_collections_2"];
        for at in pages.map(|name| root(dir, name)) {
            zero(dir, at);
        }
    };
    let rows: fn(&Path) = |dir| {
        faults::database(dir).execute("DELETE FROM collections", []).unwrap();
    };
    let both = [
        (everywhere, &["--apply", "--accept-loss"][..]),
        (rows, &["--apply", "--accept-loss", "--adopt-orphans"]),
    ];
    for version in ["1.5.9", "1.1.1", "0.6.3", "0.4.24"] {
        let scratch = tempfile::tempdir().unwrap();
        let healthy = fixture(&format!("chroma-{version}"), &scratch.path().join("healthy"));
        let names: Vec<(String, String)> = {
            let database = faults::database(&healthy);
            let mut names = database.prepare("SELECT id, name FROM collections").unwrap();
            let names = names.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
            names.map(Result::unwrap).collect()
        };
        let rename = RENAME.replace("NAMES", &serde_json::to_string(&names).unwrap());
        let truth = ask(version, &healthy);
        for (nth, (damage, flags)) in both.into_iter().enumerate() {
            let place = scratch.path().join(nth.to_string());
            let dir = fixture(&format!("chroma-{version}"), &place);
            damage(&dir);
            let reported = recover_with(&dir, flags);
            assert_eq!(reported["report"]["outcome"], "repaired", "{version}: {reported:#}");
            let losses = reported["report"]["losses"].as_array().unwrap();
            let name =
                |loss: &&Value| loss.as_str().unwrap().starts_with("the name of the collection ");
            assert_eq!(losses.iter().filter(name).count(), 2, "{version}: {reported:#}");
            run_python(version, &rename, &dir);
            assert!(
                ask(version, &dir) == truth,
                "{version}: Chroma answers otherwise: {reported:#}"
            );
        }
        // It may also be what Chroma left of a database that was deleted: that comes back on demand only.
        let dir = fixture(&format!("chroma-{version}"), &scratch.path().join("deleted"));
        rows(&dir);
        let reported = recover_with(&dir, &["--apply", "--accept-loss"]);
        assert_eq!(reported["report"]["outcome"], "nothing_to_do", "{version}: {reported:#}");
    }
}

/// Half of the file is gone: Chroma opens what is left of it, and what it gives is nothing else than before.
#[test]
fn what_is_left_of_a_cut_file_is_as_it_was() {
    for version in ["1.5.9", "0.6.3"] {
        let scratch = tempfile::tempdir().unwrap();
        let healthy = fixture(&format!("chroma-{version}"), &scratch.path().join("healthy"));
        let truth = ask(version, &healthy);
        for part in [60, 90] {
            let dir = fixture(&format!("chroma-{version}"), &scratch.path().join(part.to_string()));
            let database = dir.join("chroma.sqlite3");
            let length = std::fs::metadata(&database).unwrap().len();
            faults::cut(&database, length * part / 100);
            let reported = recover_with(&dir, &["--apply", "--accept-loss"]);
            assert_eq!(
                reported["report"]["outcome"], "repaired",
                "{version}, {part} %: {reported:#}"
            );
            let found = ask(version, &dir);
            for name in ["articles", "notes"] {
                let (was, is) = (&truth[0][name]["records"], &found[0][name]["records"]);
                for (id, record) in is.as_object().unwrap() {
                    let before = was.get(id).unwrap_or_else(|| panic!("{version}: {id} is new"));
                    assert!(
                        record[0].is_null() || record[0] == before[0],
                        "{version}: {id}: {record}"
                    );
                    for (key, value) in record[1].as_object().into_iter().flatten() {
                        assert_eq!(before[1][key], *value, "{version}: {id}: {key}");
                    }
                }
            }
        }
    }
}
