"""A real Chroma that adds records, for `beside.rs`.

build DIR MEGABYTES   fills DIR until its database has so many megabytes
add DIR               for each line `SECONDS` of standard input adds one record after the other for so long, and prints what
                      each addition took, in seconds, as a JSON list in a line
"""

import json
import os
import random
import sys
import time

import chromadb

DIMENSION = 384
WORDS = "ice core lake storm grain river stone market engine lantern harbour copper meadow violin winter signal".split()


def record(number):
    rng = random.Random(number)
    words = " ".join(rng.choice(WORDS) for _ in range(120))
    return f"r{number}", [rng.uniform(-1, 1) for _ in range(DIMENSION)], f"{number} {words}"


def add(collection, numbers):
    ids, vectors, documents = zip(*map(record, numbers))
    collection.add(
        ids=list(ids), embeddings=list(vectors), documents=list(documents),
        metadatas=[{"n": number} for number in numbers],
    )


def build(directory, megabytes):
    collection = chromadb.PersistentClient(directory).get_or_create_collection("filled")
    database = os.path.join(directory, "chroma.sqlite3")
    while os.path.getsize(database) < int(megabytes) * 1_000_000:
        count = collection.count()
        add(collection, range(count, count + 1000))


def serve(directory):
    collection = chromadb.PersistentClient(directory).get_collection("filled")
    number = 1_000_000_000 + int(time.time() * 1000)
    print("ready", flush=True)
    for line in sys.stdin:
        took, end = [], time.monotonic() + float(line)
        while (began := time.monotonic()) < end:
            add(collection, [number])
            took.append(time.monotonic() - began)
            number += 1
        print(json.dumps(took), flush=True)


if __name__ == "__main__":
    {"build": build, "add": serve}[sys.argv[1]](*sys.argv[2:])
