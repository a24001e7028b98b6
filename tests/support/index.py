"""Makes stores whose index folders are written anew, and proves that Chroma takes these for its own.

make DIR                   collections in l2 and cosine, flushed, with updates and deletes; prints what must be there, as JSON
check DIR                  reads that from standard input, proves that all of it is there, adds records and proves it again
random DIR LINKS ROUNDS    1,200 random vectors, which every graph misses many of, with so many links each; then all of them are updated so often
graph DIR                  builds indexes of whole numbers with the release's own hnswlib into DIR, one thread
"""

import json
import os
import random
import sys

DIMENSION = 24
RECORDS = 600


def vector(name):
    rng = random.Random(name)
    return [rng.uniform(-3, 3) for _ in range(DIMENSION)]


def settings(space):
    import chromadb

    if chromadb.__version__.startswith("0"):
        return {"metadata": {"hnsw:space": space, "hnsw:sync_threshold": 100, "hnsw:batch_size": 50}}
    return {"configuration": {"hnsw": {"space": space, "sync_threshold": 100, "batch_size": 50}}}


def make(directory):
    import pickle
    import sqlite3

    import chromadb

    client = chromadb.PersistentClient(directory)
    truth = {}
    for space in ["l2", "cosine"]:
        collection = client.create_collection(f"space-{space}", **settings(space))
        vectors = {}
        for start in range(0, RECORDS + 50, 50):
            ids = [f"{space}-{n}" for n in range(start, start + 50)]
            vectors.update({one: vector(one) for one in ids})
            collection.add(ids=ids, embeddings=[vectors[one] for one in ids])
        for n in range(5, RECORDS, 40):
            one = f"{space}-{n}"
            vectors[one] = vector(one + " anew")
            collection.update(ids=[one], embeddings=[vectors[one]])
        gone = [f"{space}-{n}" for n in range(3, 50 * 13, 13)]
        collection.delete(ids=gone)
        for one in gone:
            del vectors[one]
        # Makes 950 operations: the last flush of 1.x is behind none of them, that of 0.x leaves some in the queue.
        ids = [f"{space}-more-{n}" for n in range(235)]
        vectors.update({one: vector(one) for one in ids})
        collection.add(ids=ids, embeddings=[vectors[one] for one in ids])
        truth[space] = {"collection": str(collection.id), "vectors": vectors}
    del client, collection
    database = sqlite3.connect(os.path.join(directory, "chroma.sqlite3"))
    for space, known in truth.items():
        [[segment]] = database.execute(
            "select id from segments where scope = 'VECTOR' and collection = ?", [known["collection"]]
        )
        with open(os.path.join(directory, segment, "index_metadata.pickle"), "rb") as file:
            metadata = pickle.load(file)
        if not isinstance(metadata, dict):
            metadata = vars(metadata)
        known["segment"] = segment
        known["total"] = metadata["total_elements_added"]
        known["labels"] = metadata["id_to_label"]
        known["seq_ids"] = metadata["id_to_seq_id"]
        known["max_seq_id"] = metadata.get("max_seq_id")
    json.dump(truth, sys.stdout)


def whole(collection, vectors, when):
    assert collection.count() == len(vectors), (when, collection.count(), len(vectors))
    got = collection.get(include=["embeddings"])
    assert sorted(got["ids"]) == sorted(vectors), when
    for one, found in zip(got["ids"], got["embeddings"]):
        for a, b in zip(found, vectors[one]):
            assert abs(a - b) < 1e-5, (when, one, a, b)
    ids = sorted(vectors)
    found = collection.query(query_embeddings=[vectors[one] for one in ids], n_results=1)["ids"]
    lost = [one for one, answer in zip(ids, found) if answer != [one]]
    assert not lost, (when, len(lost), lost[:5])


def check(directory):
    import chromadb

    client = chromadb.PersistentClient(directory)
    truth = json.load(sys.stdin)
    release = chromadb.__version__
    for space, known in truth.items():
        vectors, collection = known["vectors"], client.get_collection(f"space-{space}")
        whole(collection, vectors, f"{release}, {space}, as written")
        before = len(vectors)
        ids = [f"{space}-{before}-{n}" for n in range(200)]
        vectors.update({one: vector(one) for one in ids})
        for start in range(0, 200, 50):
            part = ids[start : start + 50]
            collection.add(ids=part, embeddings=[vectors[one] for one in part])
        one, other = sorted(known["labels"])[:2]
        vectors[one] = vector(f"{one} after {before}")
        collection.update(ids=[one], embeddings=[vectors[one]])
        collection.delete(ids=[other])
        del vectors[other], known["labels"][other]
        ids = [f"{space}-{before}-then-{n}" for n in range(100)]
        vectors.update({one: vector(one) for one in ids})
        collection.add(ids=ids, embeddings=[vectors[one] for one in ids])
        whole(collection, vectors, f"{release}, {space}, after more")
    json.dump(truth, sys.stdout)


def random_vectors(directory, links, rounds):
    import chromadb
    import numpy

    client, modern = chromadb.PersistentClient(directory), not chromadb.__version__.startswith("0.")
    if modern:
        parameters = {"configuration": {"hnsw": {"space": "l2", "max_neighbors": int(links), "sync_threshold": 600}}}
    else:
        parameters = {"metadata": {"hnsw:M": int(links), "hnsw:sync_threshold": 600}}
    collection = client.create_collection("random", **parameters)
    numbers = numpy.random.default_rng(7)
    for round_ in range(1 + int(rounds)):
        order = numbers.permutation(1200)
        for part in order.reshape(12, 100):
            write = collection.update if round_ else collection.add
            write(ids=[f"r-{n}" for n in part], embeddings=numbers.normal(size=(100, 384)).tolist())


def graph(directory):
    import hnswlib
    import numpy

    for space, count, dimension, m, ef in [("l2", 2000, 3, 16, 100), ("l2", 1000, 4, 5, 30), ("ip", 1000, 3, 16, 100)]:
        # Whole numbers, so that no distance is rounded, whatever the order in which its terms are added.
        vectors = numpy.random.default_rng(1).integers(-1000, 1000, size=(count, dimension)).astype(numpy.float32)
        folder = os.path.join(directory, f"{space}-{count}-{dimension}-{m}-{ef}")
        os.makedirs(folder)
        index = hnswlib.Index(space=space, dim=dimension)
        index.init_index(
            max_elements=count, ef_construction=ef, M=m, random_seed=100, is_persistent_index=True, persistence_location=folder
        )
        index.add_items(vectors, numpy.arange(1, count + 1), num_threads=1)
        index.persist_dirty()
        index.close_file_handles()
        vectors.astype("<f4").tofile(os.path.join(folder, "vectors"))


if __name__ == "__main__":
    {"make": make, "check": check, "random": random_vectors, "graph": graph}[sys.argv[1]](*sys.argv[2:])
