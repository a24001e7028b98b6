//! Files of one index in the folder of another, where both have as many elements and dimensions: only the queue tells it. Stores of real
//! Chroma, and its answers after the repair.

use std::{fs, path::Path};

use crate::{
    recover::{recover, recover_with, run_python},
    support::{
        copy_tree,
        faults::{self, exchange, folder},
    },
};

/// For each distance two collections that were written to in the same way, with other vectors.
const MAKE: &str = r#"
import sys, random, chromadb
client = chromadb.PersistentClient(path=sys.argv[1])
def vector():
    length = dice.uniform(0.1, 20)
    return [dice.gauss(0, 1) * length for _ in range(16)]
for seed, name in enumerate(["cosine-first", "cosine-second", "l2-first", "l2-second", "ip-first", "ip-second"]):
    dice, steps = random.Random(seed), random.Random(7)
    metadata = {"hnsw:space": name.split("-")[0], "hnsw:sync_threshold": 100, "hnsw:batch_size": 50}
    c = client.create_collection(name, metadata=metadata)
    live = []
    for step in range(30):
        ids = [f"{name}-{step}-{n}" for n in range(8)]
        c.add(ids=ids, embeddings=[vector() for _ in ids], documents=["of " + id for id in ids])
        live += ids
        if step % 3 == 2:
            changed = steps.sample(live, 3)
            c.upsert(ids=changed, embeddings=[vector() for _ in changed], documents=["newer " + id for id in changed])
        if step % 5 == 4:
            c.update(ids=[steps.choice(live)], embeddings=[vector()])
        # An index that lacks labels says by that whose it is.
        if name.startswith("ip") and step in (3, 9):
            c.delete(ids=[live.pop(steps.randrange(len(live)))])
            c.update(ids=[steps.choice(live)], metadatas=[{"step": step}])
    c.query(query_embeddings=[vector()], n_results=1)
"#;

/// Compares every record of two stores but for the vectors of those that a report names, and gives these to Chroma again.
const COMPARE: &str = r#"
import sys, json, chromadb
truth, client, report = chromadb.PersistentClient(path=sys.argv[1] + "/truth"), chromadb.PersistentClient(path=sys.argv[1] + "/store"), json.load(open(sys.argv[1] + "/report"))
lost = {(r["collection"], r["id"]) for r in report["lost_records"] if r["part"] != "length"}
names = [space + "-" + name for space in ["cosine", "l2", "ip"] for name in ["first", "second"]]
def rows(of, name, ids):
    all = of.get_collection(name).get(ids=ids, include=["embeddings", "documents", "metadatas"])
    return {r[0]: r[1:] for r in zip(all["ids"], all["embeddings"], all["documents"], all["metadatas"])}
def same(a, b):
    return len(a) == len(b) and all(abs(x - y) <= 1e-4 * (1 + abs(x)) for x, y in zip(a, b))
for name in names:
    ids = truth.get_collection(name).get(include=[])["ids"]
    assert sorted(client.get_collection(name).get(include=[])["ids"]) == sorted(ids), name
    kept = [id for id in ids if (name, id) not in lost]
    was, now = rows(truth, name, kept), rows(client, name, kept)
    assert all(was[id][1:] == now[id][1:] for id in kept), name
    wrong = [id for id in kept if not same(was[id][0], now[id][0])]
    assert not wrong, (name, len(wrong), len(kept), wrong[:3])
    again = [id for id in ids if (name, id) in lost]
    if again:
        was = rows(truth, name, again)
        client.get_collection(name).upsert(ids=again, embeddings=[was[id][0] for id in again])
    c = client.get_collection(name)
    was = rows(truth, name, ids)
    if not name.startswith("ip"):
        own = [c.query(query_embeddings=[was[id][0]], n_results=1)["ids"][0] == [id] for id in ids]
        assert sum(own) >= 0.95 * len(own), (name, sum(own), len(own))
print(len(lost))
"#;

/// What Chroma says of a repaired store beside its truth: how many vectors are lost.
fn compared(version: &str, root: &Path, report: &serde_json::Value) -> usize {
    fs::write(root.join("report"), report["report"].to_string()).unwrap();
    run_python(version, COMPARE, root).parse().unwrap()
}

fn swap(dir: &Path, (one, other): (&str, &str), file: &str) {
    exchange(&folder(dir, one).join(file), &folder(dir, other).join(file));
}

fn files_come_back(version: &str) {
    let root = tempfile::tempdir().unwrap();
    let (truth, dir) = (root.path().join("truth"), root.path().join("store"));
    run_python(version, MAKE, &truth);
    let healthy = recover_with(&truth, &[]);
    assert_eq!(healthy["report"]["outcome"], "nothing_to_do", "{version}: {healthy:#}");

    // Exchanged: the queue proves which is whose.
    copy_tree(&truth, &dir);
    swap(&dir, ("cosine-first", "cosine-second"), "data_level0.bin");
    swap(&dir, ("l2-first", "l2-second"), "data_level0.bin");
    swap(&dir, ("ip-first", "ip-second"), "data_level0.bin");
    swap(&dir, ("ip-first", "ip-second"), "length.bin");
    let said = faults::check(&dir, "");
    assert_eq!(said.codes, ["segment_inconsistent"; 6], "{version}");
    assert!(said.evidence.matches("another vector").count() >= 4, "{version}: {}", said.evidence);
    let report = recover(&dir, "--apply");
    assert_eq!(report["report"]["outcome"], "repaired", "{version}: {report:#}");
    assert_eq!(compared(version, root.path(), &report), 0, "{version}");

    fs::remove_dir_all(&dir).unwrap();
    copy_tree(&truth, &dir);
    swap(&dir, ("cosine-first", "cosine-second"), "length.bin");
    assert_eq!(faults::check(&dir, "").codes, ["segment_inconsistent"; 2], "{version}");
    let report = recover(&dir, "--apply");
    assert_eq!(report["report"]["outcome"], "repaired", "{version}: {report:#}");
    assert_eq!(compared(version, root.path(), &report), 0, "{version}");

    // Written over: what the queue does not have is lost, and told.
    fs::remove_dir_all(&dir).unwrap();
    copy_tree(&truth, &dir);
    let file = |name: &str, file: &str| folder(&dir, name).join(file);
    fs::copy(file("l2-second", "data_level0.bin"), file("l2-first", "data_level0.bin")).unwrap();
    fs::copy(file("cosine-first", "data_level0.bin"), file("cosine-second", "data_level0.bin"))
        .unwrap();
    fs::copy(file("cosine-first", "length.bin"), file("cosine-second", "length.bin")).unwrap();
    assert_eq!(faults::check(&dir, "").codes, ["segment_inconsistent"; 2], "{version}");
    let whole = version == "0.4.24";
    let report = recover_with(&dir, &["--apply", "--accept-loss"]);
    assert_eq!(report["report"]["outcome"], "repaired", "{version}: {report:#}");
    assert_eq!(report["report"]["losses"] == serde_json::json!([]), whole, "{version}: {report:#}");
    let lost = compared(version, root.path(), &report);
    assert_eq!(lost == 0, whole, "{version}: {lost}");
}

#[test]
fn files_of_two_indexes_of_1_5_that_were_exchanged_come_back() {
    files_come_back("1.5.9");
}

#[test]
fn files_of_two_indexes_of_0_6_that_were_exchanged_come_back() {
    files_come_back("0.6.3");
}

#[test]
fn files_of_two_indexes_of_0_4_that_were_exchanged_come_back() {
    files_come_back("0.4.24");
}
