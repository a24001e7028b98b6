//! What `recover` puts in place, as real Chroma sees it: every answer is that of the healthy store, before and after more writes.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    faults::Prober,
    support::{self, ROOMY_FILE, SOON, chroma, faults, fixture},
};

/// Prints every record with its document, metadata and embedding, what each of some texts finds, and all of that again after more
/// writes.
const ASK: &str = r#"
import sys, json, random, chromadb
dice = random.Random(7)
client = chromadb.PersistentClient(path=sys.argv[1])
def out_rows(all):
    return [(id, None, None, [float(x) for x in e]) for id, e in zip(all["ids"], all["embeddings"])]
def state():
    out = {}
    for name in ["articles", "notes"]:
        c = client.get_collection(name)
        all = c.get(include=["documents", "metadatas", "embeddings"])
        rows = zip(all["ids"], all["documents"], all["metadatas"], [[float(x) for x in e] for e in all["embeddings"]])
        texts = ["articles-00", "articles-007: ", "notes-01", "nothing has this"]
        found = {t: sorted(c.get(where_document={"$contains": t}, include=[])["ids"]) for t in texts}
        own = [c.query(query_embeddings=[r[3]], n_results=1)["ids"][0] == [r[0]] for r in out_rows(all)]
        assert sum(own) >= 0.95 * len(own), (name, sum(own), len(own))
        out[name] = [c.count(), sorted(rows), found]
    return out
first = state()
for name, size in [("articles", 8), ("notes", 12)]:
    c = client.get_collection(name)
    for batch in range(4):
        ids = [f"more-{batch}-{i}" for i in range(50)]
        c.add(ids=ids, embeddings=[[dice.gauss(0, 1) for _ in range(size)] for i in range(50)], documents=[f"{i} came after" for i in ids])
    assert len(c.get(where_document={"$contains": "came after"}, include=[])["ids"]) == 200
print(json.dumps([first, state()], sort_keys=True))
"#;

pub(crate) fn ask(version: &str, dir: &Path) -> String {
    run_python(version, ASK, dir)
}

pub(crate) fn run_python(version: &str, script: &str, dir: &Path) -> String {
    let mut python = Command::new(chroma::python(version));
    python.args(["-W", "ignore", "-c", script]).arg(dir).env("ANONYMIZED_TELEMETRY", "False");
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

const RECOVER: [&str; 7] =
    ["recover", "--config.file", ROOMY_FILE, "--output", "json", "--state.dir", ""];

pub(crate) fn recover(dir: &Path, more: &str) -> serde_json::Value {
    recover_with(dir, &[more])
}

pub(crate) fn recover_with(dir: &Path, more: &[&str]) -> serde_json::Value {
    // A process that another test starts may have the database open for a moment.
    support::wait("nobody to hold the store", SOON, || {
        let words = [&RECOVER[..], &["--store.path", dir.to_str().unwrap()], more].concat();
        let out = support::run(&words);
        let document: serde_json::Value =
            serde_json::from_slice(&out.stdout).map_err(|error| format!("{error}: {out:?}"))?;
        if document["status"] == "ok" { Ok(document) } else { Err(document.to_string()) }
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
        let reported = recover(&dir, "--apply");
        assert_eq!(reported["report"]["outcome"], "repaired", "{version}: {reported:#}");
        assert_eq!(reported["report"]["after"]["findings"], serde_json::json!([]), "{version}");
        let kept = Path::new(reported["report"]["quarantine"].as_str().unwrap()).join("old");
        assert!(fs::read(kept.join("chroma.sqlite3")).unwrap() == broken, "{version}");
        assert!(
            ask(version, &dir) == ask(version, &healthy),
            "{version}: Chroma answers otherwise"
        );
    }
}

#[test]
fn a_repair_is_tried_beside_a_running_chroma_and_put_in_place_when_it_has_stopped() {
    let scratch = tempfile::tempdir().unwrap();
    let healthy = fixture("chroma-1.5.9", &scratch.path().join("healthy"));
    let dir = fixture("chroma-1.5.9", &scratch.path().join("broken"));
    let server = chroma::Server::start("1.5.9", &dir);
    faults::execute(
        &dir,
        "UPDATE embedding_fulltext_search_data SET block=x'ff00ff00ff00ff00' WHERE id>10",
    );
    let broken = fs::read(dir.join("chroma.sqlite3")).unwrap();
    let reported = recover_with(&dir, &[]);
    assert_eq!(reported["report"]["outcome"], "would_repair", "{reported:#}");
    assert_eq!(reported["report"]["losses"], serde_json::json!([]), "{reported:#}");
    assert!(reported["report"]["beside"].as_str().unwrap().contains("chroma"), "{reported:#}");
    let words = [&RECOVER[..], &["--apply", "--store.path", dir.to_str().unwrap()]].concat();
    let refused = support::run(&words);
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    assert!(fs::read(dir.join("chroma.sqlite3")).unwrap() == broken, "nothing was changed");
    drop(server);
    assert_eq!(recover(&dir, "--apply")["report"]["outcome"], "repaired");
    assert!(ask("1.5.9", &dir) == ask("1.5.9", &healthy));
}

/// Gives Chroma the lost records of a report again: what the report has of each, with the vector of the healthy store.
const UPSERT: &str = r#"
import sys, json, chromadb
report = json.load(sys.stdin)
truth, client = chromadb.PersistentClient(path=sys.argv[1]), chromadb.PersistentClient(path=sys.argv[2])
for name in sorted({r["collection"] for r in report["lost_records"]}):
    lost = [r for r in report["lost_records"] if r["collection"] == name]
    ids = [r["id"] for r in lost]
    was = truth.get_collection(name).get(ids=ids, include=["embeddings", "documents", "metadatas"])
    at = {id: n for n, id in enumerate(was["ids"])}
    for r in lost:
        meta = was["metadatas"][at[r["id"]]] or {}
        assert r["document"] == was["documents"][at[r["id"]]], r
        assert r["metadata"] == meta, (r, meta)
    c = client.get_collection(name)
    c.upsert(ids=ids, embeddings=[was["embeddings"][at[id]] for id in ids])
"#;

/// Faults of index folders, on every release that shows them.
fn of_indexes() -> Vec<(&'static faults::Fault, &'static str)> {
    let all = faults::cases().into_iter().filter(|(class, ..)| *class == "HNSW folders");
    all.map(|(_, fault, base)| (fault, base)).collect()
}

/// Faults that take vectors away, or after which it is not certain any more whose a vector is. Chroma before 0.5.7 still has all of them
/// in its queue.
const LOSSY: &[&str] = &[
    "elements missing",
    "elements empty",
    "elements cut",
    "elements of zeros",
    "label of another element",
    "label never given out",
    "labels of two elements exchanged",
    "labels of two ids exchanged in the metadata",
    "number that is none",
    "norms missing",
    "norms empty",
    "norms cut",
    "infinite norm",
    "metadata missing",
    "metadata empty",
    "metadata cut",
    "metadata are text",
    "folder of another store",
    "folder missing",
    "folder missing, nobody knows which Chroma opens it",
    "folder missing, before 1.0",
    "folder missing, opened by 1.x next",
    "both folders exchanged for those of another store",
    "folder empty",
];

/// Faults of which nothing is repaired here, and nothing is known to be lost.
const LEFT: &[&str] = &[
    "metadata call code",
    "metadata call code, header cut",
    "both folders exchanged for those of another store, all vectors still in the queue",
    "database older than folder",
    "Git LFS pointers in place of the index",
    "Git LFS pointer in place of the metadata",
];

/// Faults of which nothing is repaired here, because no file has the vector any more of records that the report names.
const NAMED: &[&str] = &[
    "database newer than folder",
    "database and folder went apart",
    "a record that only the tables have",
];

#[test]
fn chroma_finds_every_vector_that_was_still_there() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut wrong = Vec::new();
    for release in ["1.5.9", "1.1.1", "0.6.3", "0.4.24"] {
        let mut prober = Prober::start(release);
        for (fault, base) in of_indexes().into_iter().filter(|(f, b)| f.release(b) == release) {
            let scratch = tempfile::tempdir().unwrap();
            let whole = fixtures.join(format!("chroma-{base}"));
            let dir = fault.strike(base, scratch.path());
            let reported = recover(&dir, "--apply");
            let mut report = reported["report"].clone();
            let outcome = report["outcome"].as_str().unwrap_or("none").to_owned();
            let lost = report["lost_records"].as_array().unwrap().len();
            let lossy = LOSSY.contains(&fault.what) && base != "0.4.24";
            let fits = match &*outcome {
                "not_repaired" if lost == 0 => LEFT.contains(&fault.what),
                "not_repaired" => NAMED.contains(&fault.what),
                "not_accepted" => lossy && lost > 0,
                // What is lost elsewhere may still be in the queue.
                "repaired" => lost == 0 && report["losses"] == serde_json::json!([]),
                "nothing_to_do" => true,
                _ => false,
            };
            let said = if fits {
                asked(&mut prober, release, (&whole, &dir), &mut report)
            } else {
                String::new()
            };
            if !(fits && (outcome == "not_repaired" || is_right(&said, lossy))) {
                wrong.push(format!(
                    "{}, {base}: {outcome}, {lost} lost: {said}\n{report}",
                    fault.what
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What Chroma says of a store beside the whole one, when it was repaired. What is lost is accepted first, and given to `upsert` from
/// the report of that.
pub(crate) fn asked(
    prober: &mut Prober,
    release: &str,
    (whole, dir): (&Path, &Path),
    report: &mut serde_json::Value,
) -> String {
    match report["outcome"].as_str() {
        Some("not_repaired") => return String::new(),
        Some("not_accepted") => {
            *report = recover_with(dir, &["--apply", "--accept-loss"])["report"].clone();
            assert_eq!(report["outcome"], "repaired", "{}: {report:#}", dir.display());
            upsert(release, whole, dir, report);
        }
        _ => {}
    }
    prober.ask(whole, dir)
}

/// An index that Chroma has filled again finds nearly all by their vectors, as every index of its own.
pub(crate) fn is_right(said: &str, filled: bool) -> bool {
    let nearly = |part: &str| {
        let words: Vec<&str> = part.split(' ').collect();
        let [_, "finds", found, "of", all, "by", "vector"] = words[..] else { return false };
        found.parse::<u64>().unwrap() * 100 >= all.parse::<u64>().unwrap() * 95
    };
    said == "all right" || filled && said.split("; ").all(nearly)
}

pub(crate) fn upsert(release: &str, whole: &Path, dir: &Path, report: &serde_json::Value) {
    let scratch = tempfile::tempdir().unwrap();
    let truth = scratch.path().join("truth");
    support::copy_tree(whole, &truth);
    let mut python = Command::new(chroma::python(release));
    python.args(["-W", "ignore", "-c", UPSERT]).arg(&truth).arg(dir);
    python.env("ANONYMIZED_TELEMETRY", "False").stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = python.spawn().unwrap();
    child.stdin.take().unwrap().write_all(report.to_string().as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{release}: {}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn an_index_that_was_written_anew_takes_more_and_is_opened_again() {
    for version in ["1.5.9", "1.1.1", "0.6.3", "0.4.24"] {
        let scratch = tempfile::tempdir().unwrap();
        let name = format!("chroma-{version}");
        let healthy = fixture(&name, &scratch.path().join("healthy"));
        let dir = fixture(&name, &scratch.path().join("broken"));
        faults::cut(&faults::articles(&dir, "header.bin"), 40);
        faults::cut(&faults::articles(&dir, "link_lists.bin"), 9);
        faults::overwrite(&faults::folder(&dir, "notes").join("header.bin"), 0, &[0; 100]);
        let reported = recover(&dir, "--apply");
        assert_eq!(reported["report"]["outcome"], "repaired", "{version}: {reported:#}");
        assert_eq!(reported["report"]["losses"], serde_json::json!([]), "{version}");
        assert!(ask(version, &dir) == ask(version, &healthy), "{version}: before and after");
        // The same once more, with what came after.
        for more in ["once", "twice"] {
            let (is, was) = (state(version, &dir), state(version, &healthy));
            assert!(is == was, "{version}: opened {more}");
        }
    }
}

pub(crate) fn state(version: &str, dir: &Path) -> String {
    let only = ASK.split("first = state()").next().unwrap();
    run_python(version, &format!("{only}print(json.dumps(state(), sort_keys=True))"), dir)
}
