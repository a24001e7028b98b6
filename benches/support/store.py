"""Makes a store of about so many megabytes with real Chroma: documents of 3 kB, vectors of 768 numbers.

store.py DIR MEGABYTES
"""

import random
import sys

import chromadb

DIMENSION, BATCH, RECORD_BYTES = 768, 250, 15_000


def main(directory, megabytes):
    collection = chromadb.PersistentClient(directory).create_collection(
        "documents",
        configuration={"hnsw": {"space": "cosine", "sync_threshold": 2000, "batch_size": 500, "ef_construction": 20, "max_neighbors": 8}},
    )
    rng = random.Random(1)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 10))) for _ in range(20_000)]
    for start in range(0, int(megabytes) * 1_000_000 // RECORD_BYTES, BATCH):
        numbers = range(start, start + BATCH)
        collection.add(
            ids=[f"record-{number}" for number in numbers],
            embeddings=[[rng.gauss(0, 1) for _ in range(DIMENSION)] for _ in numbers],
            documents=[" ".join(rng.choices(words, k=430)) for _ in numbers],
            metadatas=[{"source": f"file-{number % 97}.md", "page": number % 50} for number in numbers],
        )


main(*sys.argv[1:])
