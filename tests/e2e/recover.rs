//! What `recover` puts in place, as real Chroma sees it: every answer is that of the healthy store, before and after more writes.

use std::{fs, path::Path, process::Command};

use crate::support::{self, SOON, chroma, faults, fixture, wait_for};

/// Prints every record with its document, metadata and embedding, what each of some texts finds, and all of that again after more
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
        out[name] = [c.count(), sorted(rows), found]
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

fn ask(version: &str, dir: &Path) -> String {
    let mut python = Command::new(chroma::python(version));
    python.args(["-W", "ignore", "-c", ASK]).arg(dir).env("ANONYMIZED_TELEMETRY", "False");
    let out = python.output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{version}: {said}");
    String::from_utf8(out.stdout).unwrap().lines().last().unwrap_or_default().to_owned()
}

/// The page where an index begins becomes zeros.
fn zero(dir: &Path, index: &str) {
    let sql = "SELECT rootpage FROM sqlite_schema WHERE name = ?1";
    let page: i64 = faults::database(dir).query_row(sql, [index], |row| row.get(0)).unwrap();
    let at = u64::try_from(page - 1).unwrap() * 4096;
    faults::overwrite(&dir.join("chroma.sqlite3"), at, &[0; 4096]);
}

fn recover(dir: &Path, more: &str) -> serde_json::Value {
    // A process that another test starts may have the database open for a moment.
    wait_for("nobody to hold the store", SOON, || {
        let words = ["recover", "--output", "json", "--state.dir", "", more, "--store.path"];
        let out = support::run(&[&words[..], &[dir.to_str().unwrap()]].concat());
        let document: serde_json::Value = serde_json::from_slice(&out.stdout).ok()?;
        (document["status"] == "ok").then_some(document)
    })
}

#[test]
fn chroma_finds_everything_in_what_was_repaired() {
    for version in ["1.5.9", "0.6.3"] {
        let scratch = tempfile::tempdir().unwrap();
        let healthy = fixture(&format!("chroma-{version}"), &scratch.path().join("healthy"));
        let dir = fixture(&format!("chroma-{version}"), &scratch.path().join("broken"));
        faults::execute(
            &dir,
            "UPDATE embedding_fulltext_search_data SET block=x'ff00ff00ff00ff00' WHERE id>10",
        );
        zero(&dir, "sqlite_autoindex_embeddings_1");
        let broken = fs::read(dir.join("chroma.sqlite3")).unwrap();
        let told = recover(&dir, "--apply");
        assert_eq!(told["report"]["outcome"], "repaired", "{version}: {told:#}");
        assert_eq!(told["report"]["after"]["findings"], serde_json::json!([]), "{version}");
        let kept = Path::new(told["report"]["quarantine"].as_str().unwrap()).join("old");
        assert!(fs::read(kept.join("chroma.sqlite3")).unwrap() == broken, "{version}");
        assert!(
            ask(version, &dir) == ask(version, &healthy),
            "{version}: Chroma answers otherwise"
        );
    }
}
