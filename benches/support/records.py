"""What people write to get records out of a store and into a server, for `dump.rs`. Prints how many seconds it took, as its last line.

build DIR RECORDS                fills DIR: documents of 80 words, vectors of 384 numbers, some metadata
dump DIR FILE                    every record as a line of JSON, by collection.get in batches
load PORT FILE BATCH THREADS     the records of such lines into a server, by collection.upsert
"""

import json
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import chromadb
import numpy

DIMENSION = 384
WORDS = "ice core lake storm grain river stone market engine lantern harbour copper meadow violin winter signal".split()


def build(directory, records):
    settings = {"hnsw": {"ef_construction": 20, "max_neighbors": 8}}  # which only its making depends on
    collection = chromadb.PersistentClient(directory).create_collection("records", configuration=settings)
    numbers, words = numpy.random.default_rng(1), random.Random(1)
    for start in range(0, int(records), 5000):
        part = range(start, min(int(records), start + 5000))
        collection.add(
            ids=[f"r{number:07}" for number in part],
            embeddings=numbers.standard_normal((len(part), DIMENSION), dtype=numpy.float32),
            documents=[" ".join(words.choices(WORDS, k=80)) for _ in part],
            metadatas=[{"page": number % 50, "half": number / 2, "even": number % 2 == 0, "source": f"file{number % 97}.md"} for number in part],
        )


def dump(directory, file):
    collection = chromadb.PersistentClient(directory).get_collection("records", embedding_function=None)
    with open(file, "w") as out:
        for start in range(0, collection.count(), 5000):
            got = collection.get(include=["documents", "metadatas", "embeddings"], limit=5000, offset=start)
            for one, document, metadata, embedding in zip(got["ids"], got["documents"], got["metadatas"], got["embeddings"]):
                line = {"id": one, "document": document, "metadata": metadata, "embedding": embedding.tolist()}
                out.write(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n")


def batches(file, size):
    with open(file) as lines:
        settings = json.loads(next(lines))["configuration"]
        yield settings
        part = []
        for line in lines:
            part.append(json.loads(line))
            if len(part) == size:
                yield part
                part = []
        if part:
            yield part


def load(port, file, batch, threads):
    client = chromadb.HttpClient(host="127.0.0.1", port=int(port))
    parts = batches(file, int(batch))
    hnsw = next(parts)["keys"]["#embedding"]["float_list"]["vector_index"]["config"]["hnsw"]
    settings = {"hnsw": {key: hnsw[key] for key in ("ef_construction", "max_neighbors")}}
    collection = client.create_collection("records", configuration=settings, embedding_function=None)

    def send(part):
        collection.upsert(
            ids=[line["id"] for line in part],
            documents=[line["document"] for line in part],
            metadatas=[line["metadata"] for line in part],
            embeddings=[line["embedding"] for line in part],
        )
        return len(part)

    with ThreadPoolExecutor(int(threads)) as pool:
        waiting, sent = [], 0
        for part in parts:
            waiting.append(pool.submit(send, part))
            if len(waiting) > int(threads):  # or all of the file would be in memory
                sent += waiting.pop(0).result()
        sent += sum(one.result() for one in waiting)
    assert collection.count() == sent


began = time.monotonic()
{"build": build, "dump": dump, "load": load}[sys.argv[1]](*sys.argv[2:])
print(time.monotonic() - began)
