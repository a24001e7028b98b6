"""Breaks a store in ways that no table lists, lets `recover` repair it, and holds the result to the truth.

    damage.py PROGRAM FIRST COUNT [KIND…]

The Chroma of this Python makes one store: the spaces l2, cosine and ip, several flushes, updates, upserts, deletions, and a tail that
only the queue has. For each number from FIRST on, a copy is broken as the number says (pages of zeros, noise, exchanged pages, files of an
index cut, gone or exchanged, rows and tables deleted), repaired with `--apply --accept-loss`, opened by Chroma, and compared record by
record. Vectors that are named as lost are upserted first, as a user would. Prints a line for each number and ends with 1 when something
is wrong:

- Chroma cannot open, read, search or write what was put in place;
- a record, document, metadata or vector is missing or another one, and nothing names it; where the report says that rows are lost which
  nothing names any more, what such a row held need not be named;
- a record has the vector of another one, or is back although it was deleted;
- the program fails, or refuses without a sentence.
"""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # threads do not survive a fork
os.environ["ANONYMIZED_TELEMETRY"] = "False"
os.environ["RUST_BACKTRACE"] = "0"

import chromadb  # noqa: E402
from chromadb.config import Settings  # noqa: E402

VERSION = tuple(int(part) for part in chromadb.__version__.split("."))
PAGE = 4096
SPACES = [("alpha", "l2", 16), ("beta", "cosine", 8), ("gamma", "ip", 24)]
RECORDS = 400
SECONDS_MAX = 300


def client(path):
    return chromadb.PersistentClient(path=str(path), settings=Settings(anonymized_telemetry=False))


def vector(name, number, version, dimension):
    dice = random.Random(f"{name}/{number}/{version}")
    return [dice.gauss(0, 1) for _ in range(dimension)]


def make(path):
    """The store that is broken."""
    chroma = client(path)
    for name, space, dimension in SPACES:
        dice = random.Random(name)
        made = chroma.create_collection(name, metadata={"hnsw:space": space, "hnsw:sync_threshold": 60, "hnsw:batch_size": 20})

        def metadata(n):
            found = {"page": n, "weight": n / 7.0, "colour": dice.choice(["red", "green", "blue"]), "title": f"title of {n} in {name}"}
            if n % 3 == 0:
                found["flag"] = bool(n % 2)
            if VERSION >= (1, 5) and n % 5 == 0:
                found["list"] = [f"a{n}", "b"]
            return found

        def document(n):
            length = 900 if n % 50 == 0 else dice.randint(3, 40)
            return f"{name} {n}: " + " ".join(dice.choice("lorem ipsum dolor sit amet consetetur sadipscing".split()) for _ in range(length))

        def put(numbers, documents):
            part = {"ids": [f"{name}-{n}" for n in numbers], "embeddings": [vector(name, n, 0, dimension) for n in numbers]}
            part["metadatas"] = [metadata(n) for n in numbers]
            if documents:
                part["documents"] = [document(n) for n in numbers]
            made.add(**part)

        for start in range(0, RECORDS, 20):
            put([n for n in range(start, start + 20) if n % 10 != 9], True)
            put([n for n in range(start, start + 20) if n % 10 == 9], False)
        for n in range(5, RECORDS, 17):
            made.update(ids=[f"{name}-{n}"], embeddings=[vector(name, n, 1, dimension)], documents=[f"{name} {n} updated"], metadatas=[{"more": f"x{n}"}])
        for n in range(8, RECORDS, 23):
            made.upsert(ids=[f"{name}-{n}"], embeddings=[vector(name, n, 2, dimension)], documents=[f"{name} {n} upserted"], metadatas=[{"version": 2}])
        for n in range(11, RECORDS, 29):
            made.delete(ids=[f"{name}-{n}"])
        put(range(RECORDS, RECORDS + 13), True)
        made.update(ids=[f"{name}-3"], metadatas=[{"late": True}])
        made.delete(ids=[f"{name}-4"])


def ask(path, upserts):
    """Every record of every collection, by name and id, after these upserts. Then writes more, and looks for it."""
    chroma = client(path)
    for name, records in upserts.items():
        for record, embedding in records.items():
            chroma.get_collection(name).upsert(ids=[record], embeddings=[embedding])
    out = {}
    for name, _, dimension in SPACES:
        found = chroma.get_collection(name)
        got = found.get(include=["documents", "metadatas", "embeddings"])
        if len(set(got["ids"])) != len(got["ids"]):
            raise ValueError(f"{name}: ids twice")
        vectors = [None if one is None else [float(x) for x in one] for one in got["embeddings"]]
        records = {record: [got["documents"][k], got["metadatas"][k], vectors[k]] for k, record in enumerate(got["ids"])}
        asked = [record for record in list(records)[::3] if records[record][2] and any(records[record][2])]
        own = [record for record in asked if record in found.query(query_embeddings=[records[record][2]], n_results=3, include=[])["ids"][0]]
        words = {word: sorted(found.get(where_document={"$contains": word}, include=[])["ids"]) for word in ("updated", "upserted", "lorem")}
        out[name] = {"count": found.count(), "records": records, "own": len(own), "asked": len(asked), "words": words}
        for part in range(4):
            more = [f"more-{part}-{n}" for n in range(25)]
            found.add(ids=more, embeddings=[vector(name, one, 9, dimension) for one in more], documents=[f"{one} came after" for one in more])
        after = found.get(where_document={"$contains": "came after"}, include=[])["ids"]
        if len(after) != 100:
            raise ValueError(f"{name}: {len(after)} of 100 later records are found by text")
        nearest = found.query(query_embeddings=[vector(name, "more-2-7", 9, dimension)], n_results=5, include=[])["ids"][0]
        # With ip another one may be nearer than itself.
        if name != "gamma" and "more-2-7" not in nearest:
            raise ValueError(f"{name}: a later record is not found by its vector")
    return out


def in_child(work):
    """What `work` gives, from a child of its own: what is broken may end it, or hold it up, and Chroma's threads survive no fork."""
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(source)
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        signal.alarm(SECONDS_MAX)
        try:
            answer = {"state": work()}
        except BaseException as error:  # pyo3_runtime.PanicException is no Exception
            answer = {"error": f"{type(error).__name__}: {error}"[:300]}
        with os.fdopen(sink, "w") as pipe:
            json.dump(answer, pipe)
        os._exit(0)
    os.close(sink)
    with os.fdopen(source) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text) if text else {"error": "Chroma died"}


# How a store is broken: each takes the directory and the dice, and says in words what it did.


def write(path, at, data):
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(data)


def read(path, at, count):
    with open(path, "rb") as file:
        file.seek(at)
        return file.read(count)


def database(directory):
    path = directory / "chroma.sqlite3"
    return path, path.stat().st_size // PAGE


def a_page(directory, dice):
    path, pages = database(directory)
    page = dice.randrange(pages)
    data = dice.choice([bytes(PAGE), dice.randbytes(PAGE)])
    write(path, page * PAGE, data)
    return f"page {page + 1} {'noise' if any(data) else 'zeros'}"


def several_pages(directory, dice):
    path, pages = database(directory)
    page = dice.randrange(pages)
    count = min(dice.randint(2, 12), pages - page)
    write(path, page * PAGE, bytes(PAGE * count))
    return f"pages {page + 1} to {page + count} zeros"


def a_sector(directory, dice):
    path, pages = database(directory)
    at = dice.randrange(pages * PAGE // 512)
    write(path, at * 512, bytes(512))
    return f"sector {at} zeros"


def some_bytes(directory, dice):
    path, pages = database(directory)
    at = dice.randrange(pages * PAGE - 200)
    write(path, at, dice.randbytes(dice.randint(1, 200)))
    return f"noise at {at}"


def a_bit(directory, dice):
    path, pages = database(directory)
    at = dice.randrange(pages * PAGE)
    write(path, at, bytes([read(path, at, 1)[0] ^ (1 << dice.randrange(8))]))
    return f"a bit at {at}"


def exchanged_pages(directory, dice):
    path, pages = database(directory)
    one, two = dice.sample(range(pages), 2)
    first, second = read(path, one * PAGE, PAGE), read(path, two * PAGE, PAGE)
    write(path, one * PAGE, second)
    write(path, two * PAGE, first)
    return f"pages {one + 1} and {two + 1} exchanged"


def the_end(directory, dice):
    path, pages = database(directory)
    left = dice.randrange(pages // 3, pages) * PAGE + dice.choice([0, 511])
    os.truncate(path, left)
    return f"cut to {left} bytes"


def folders(directory):
    """Those of the indexes. Their names are drawn by lot; their order is that of their sizes, the same each time."""
    of = [path for path in directory.iterdir() if path.is_dir() and len(list(path.iterdir())) >= 4]
    return sorted(of, key=lambda path: sum(file.stat().st_size for file in path.iterdir()))


def a_file(directory, dice):
    return dice.choice([path for path in sorted(dice.choice(folders(directory)).iterdir()) if path.stat().st_size])


def index_file_gone(directory, dice):
    path = a_file(directory, dice)
    path.unlink()
    return f"{path.name} gone"


def index_gone(directory, dice):
    shutil.rmtree(dice.choice(folders(directory)))
    return "a folder gone"


def index_file_cut(directory, dice):
    path = a_file(directory, dice)
    left = dice.randrange(path.stat().st_size)
    os.truncate(path, left)
    return f"{path.name} cut to {left} bytes"


def index_sector(directory, dice):
    path = a_file(directory, dice)
    size = path.stat().st_size
    at = dice.randrange(size) // 512 * 512
    write(path, at, bytes(min(512, size - at)))
    return f"{path.name} zeros at {at}"


def index_files_exchanged(directory, dice):
    one, two = dice.sample(folders(directory), 2)
    # The lengths of vectors are held by nothing else, so that nobody can tell whose they are.
    names = ["header.bin", "data_level0.bin", "link_lists.bin", "index_metadata.pickle"]
    names = [name for name in names if (one / name).exists() and (two / name).exists()]
    if not names:
        return "nothing: no file is in both"
    name = dice.choice(names)
    aside = directory / "aside"
    os.rename(one / name, aside)
    os.rename(two / name, one / name)
    os.rename(aside, two / name)
    return f"{name} exchanged"


def indexes_exchanged(directory, dice):
    one, two = dice.sample(folders(directory), 2)
    aside = directory / "aside"
    os.rename(one, aside)
    os.rename(two, one)
    os.rename(aside, two)
    return "folders exchanged"


# What is deleted from other tables by SQL is as if Chroma had done it.
TABLES = "embeddings_queue segments max_seq_id migrations tenants databases collection_metadata".split()


def rows(directory, dice):
    table, how = dice.choice(TABLES), dice.choice(["some", "all"])
    connection = sqlite3.connect(database(directory)[0])
    try:
        connection.execute("PRAGMA foreign_keys=OFF")
        connection.execute(f"DELETE FROM {table}" + (f" WHERE rowid % {dice.randint(2, 30)} = 0" if how == "some" else ""))
        connection.commit()
    except sqlite3.DatabaseError:
        return "nothing: the database is damaged already"
    finally:
        connection.close()
    return f"{how} rows of {table} deleted"


KINDS = {
    "database": [a_page, several_pages, a_sector, some_bytes, a_bit, exchanged_pages, the_end],
    "index": [index_file_gone, index_gone, index_file_cut, index_sector, index_files_exchanged, indexes_exchanged],
    "rows": [rows],
}


def same(one, two):
    return one is two or (one and two and len(one) == len(two) and all(abs(a - b) <= 1e-5 * max(1, abs(a)) for a, b in zip(one, two)))


def compare(truth, state, report):
    """What is wrong, as a list of sentences."""
    wrong = []
    parts = report["lost_records"] + report["lost_documents"] + report["lost_rows"]
    told = {(part.get("collection"), part["id"]) for part in parts if part.get("id")}
    nameless = any("nothing names any more" in loss or "rows of the queue" in loss for loss in report["losses"])
    for name, was in truth.items():
        now = state[name]
        owners = {tuple(round(x, 4) for x in record[2]): one for one, record in was["records"].items()}
        found = {}
        for one, (document, metadata, embedding) in was["records"].items():
            got = now["records"].get(one)
            if got is None:
                problem = "missing"
            elif not same(embedding, got[2]):
                owner = owners.get(tuple(round(x, 4) for x in got[2] or []))
                if owner not in (None, one):
                    wrong.append(f"{one} has the vector of {owner}")
                problem = "vector"
            elif got[0] != document:
                problem = "document"
            elif got[1] != metadata:
                problem = "metadata"
            else:
                continue
            if (name, one) not in told:
                found.setdefault(problem, []).append(one)
        for problem, ones in found.items() if not nameless else ():
            kind = "not named" if report["losses"] else "in silence"
            wrong.append(f"{name}: {len(ones)} {problem} {kind}: {', '.join(ones[:3])}")
        more = sorted(set(now["records"]) - set(was["records"]))
        if more:
            wrong.append(f"{name}: {len(more)} that were not there: {', '.join(more[:3])}")
        if now["asked"] and now["own"] < 0.95 * now["asked"] <= was["own"]:
            wrong.append(f"{name}: finds {now['own']} of {now['asked']} by their own vectors")
        if not report["losses"] and now["words"] != was["words"]:
            wrong.append(f"{name}: other records are found by text")
    return wrong


def judge(program, directory, truth):
    """Repairs the store and says what came of it, and what is wrong."""
    path = directory.parent / "report.json"
    path.unlink(missing_ok=True)
    words = ["recover", "--output", "json", "--state.dir", "", "--store.path", directory, "--apply", "--accept-loss", "--report", path]
    out = subprocess.run([program, *words], capture_output=True, text=True, timeout=SECONDS_MAX)
    try:
        document = json.loads(out.stdout)
        report = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return "failed", [f"exit {out.returncode}: {out.stdout[-300:]}{out.stderr[-300:]}"]
    if document["status"] != "ok":
        return "failed", [out.stdout[-300:]]
    report = report.get("report", report)
    outcome = report["outcome"]
    if outcome not in ("repaired", "nothing_to_do"):
        return f"{outcome}: {json.dumps(report['not_done'])[:300]}", [] if report["not_done"] else ["refused without a word"]
    upserts = {}
    for lost in report["lost_records"]:
        record = truth.get(lost["collection"], {"records": {}})["records"].get(lost["id"])
        if record and lost["part"] in ("vector", "newest_vector"):
            upserts.setdefault(lost["collection"], {})[lost["id"]] = record[2]
    answer = in_child(lambda: ask(directory, upserts))
    if "error" in answer:
        return outcome, [answer["error"], *report["losses"]]
    named = sum(map(len, upserts.values()))
    return f"{outcome}, {named} upserted, {len(report['losses'])} losses", compare(truth, answer["state"], report)


def main():
    program, first, count, kinds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:] or list(KINDS)
    bad = 0
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        in_child(lambda: make(place / "made"))
        shutil.copytree(place / "made", place / "whole")
        answer = in_child(lambda: ask(place / "whole", {}))
        truth = answer["state"] if "state" in answer else sys.exit(answer["error"])
        for number in range(first, first + count):
            dice = random.Random(f"{chromadb.__version__}/{number}")
            directory = place / "store"
            for left in place.glob("store*"):
                shutil.rmtree(left)
            shutil.copytree(place / "made", directory)
            ways = [way for kind in kinds for way in KINDS[kind]]
            # Most stores break in one way, and some in several.
            times = dice.choice([1, 1, 1, 2, 3])
            what = []
            for _ in range(times):
                if folders(directory):
                    what.append(dice.choice(ways)(directory, dice))
            outcome, wrong = judge(program, directory, truth)
            bad += bool(wrong)
            print(f"{number}: {'; '.join(what)}: {outcome}{'; WRONG: ' if wrong else ''}{'; '.join(wrong)}", flush=True)
    print(f"{chromadb.__version__}: {bad} of {count} are wrong", flush=True)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
