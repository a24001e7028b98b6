"""What a real Chroma says of the copy in argv[1], which it may change: reads the collections from standard input as JSON, prints a
line of JSON for each thing that it knows. Whoever reads them knows from the last line where a process died that says nothing more."""

import json
import os
import sys

os.environ["ANONYMIZED_TELEMETRY"] = "False"
os.environ.setdefault("OMP_NUM_THREADS", "1")
BATCH, SEARCHED = 500, 5000


def say(**words):
    print(json.dumps(words), flush=True)


def brief(error):
    return f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]


def open_collection(client, name):
    try:
        return client.get_collection(name)
    except ValueError:
        # The embedding function that it was made with cannot be built here, and is not needed.
        return client.get_collection(name, embedding_function=None)


def nearest(numpy, space, all_vectors, wanted):
    """Rows of the nearest vectors by brute force, for inner products only: there the own vector need not be the nearest."""
    return numpy.argmax(wanted @ all_vectors.T, axis=1) if space == "ip" else None


def look(client, told):
    import numpy

    collection = open_collection(client, told["name"])
    say(id=told["id"], step="count")
    out = {"id": told["id"], "step": "done", "count": collection.count()}
    ids, vectors = [], []
    say(id=told["id"], step="get")
    while True:
        got = collection.get(include=["embeddings"], limit=BATCH, offset=len(ids))
        if not len(got["ids"]):
            break
        ids += got["ids"]
        vectors += [one for one in got["embeddings"]]
    held = [(one, vector) for one, vector in zip(ids, vectors) if vector is not None and len(vector)]
    out.update(records=len(ids), vectors=len(held))
    step = max(1, -(-len(held) // SEARCHED))
    chosen = list(range(0, len(held), step))
    all_vectors = numpy.array([vector for _, vector in held], dtype=numpy.float32) if held else None
    own = 0
    say(id=told["id"], step="query")
    for start in range(0, len(chosen), 100):
        part = chosen[start : start + 100]
        wanted = all_vectors[part]
        answer = collection.query(query_embeddings=wanted.tolist(), n_results=1, include=[])["ids"]
        best = nearest(numpy, told["space"], all_vectors, wanted)
        for place, row in enumerate(part):
            right = held[row if best is None else int(best[place])][0]
            found = answer[place][0] if answer[place] else None
            if found is None:
                continue
            if found == right:
                own += 1
            else:
                # Two records of one vector are as good as each other.
                other = next((vector for one, vector in held if one == found), None)
                mine = held[row if best is None else int(best[place])][1]
                own += other is not None and bool(numpy.allclose(other, mine, rtol=1e-5, atol=1e-6))
    say(**out, searched=len(chosen), own=own)


def main():
    try:
        import chromadb
        from chromadb.config import Settings
    except BaseException as error:
        say(step="import", error=brief(error))
        return
    say(step="version", version=chromadb.__version__)
    for told in json.load(sys.stdin):
        say(id=told["id"], step="open")
        try:
            client = chromadb.PersistentClient(
                path=sys.argv[1],
                settings=Settings(anonymized_telemetry=False),
                tenant=told["tenant"],
                database=told["database"],
            )
            look(client, told)
        except BaseException as error:  # pyo3_runtime.PanicException is no Exception
            say(id=told["id"], step="failed", error=brief(error))
    say(step="end")


main()
