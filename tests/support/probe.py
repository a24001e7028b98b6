"""What a real Chroma says of directories, one after the other: reads lines `BASE<TAB>DIRECTORY` from standard input, where
BASE is the fixture as it was, and prints for each a line of JSON `{"said": TEXT}`.

Each directory is opened in a child of its own, made by fork after Chroma was imported, so that one that dies or hangs
takes nothing else with it and a case costs a fraction of a second. What it does there, in this order: open, list, count,
read every record, read every vector, search with every vector, search for the text of ten records, add 60 records to each
collection, and look for these by id and by vector. Only what is not as it should be is said.
"""

import importlib.machinery
import importlib.util
import json
import os
import re
import select
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # threads do not survive a fork
os.environ["ANONYMIZED_TELEMETRY"] = "False"
os.environ["RUST_BACKTRACE"] = "0"

import chromadb  # noqa: E402
from chromadb.config import Settings  # noqa: E402

MAKE = str(Path(__file__).parent.parent / "fixtures" / "make")
loader = importlib.machinery.SourceFileLoader("make", MAKE)
make = importlib.util.module_from_spec(importlib.util.spec_from_loader("make", loader))
sys.dont_write_bytecode = True
loader.exec_module(make)

DIMENSIONS = {"articles": 8, "notes": 12}
ADDED = 60
# A child that neither ends nor uses the processor for so long hangs; one that uses it for so long spins.
IDLE_SECONDS, BUSY_SECONDS = 10, 15


def brief(error, directory):
    """The error in one line without what differs from run to run."""
    text = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    text = text.replace(str(directory), "DIR")
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "ID", text)
    text = re.sub(r"/\S*/site-packages/", "", text)
    return text if len(text) <= 160 else text[:159] + "…"


class Report:
    def __init__(self, write, directory):
        self.write, self.directory, self.parts = write, directory, []

    def step(self, name):
        self.write({"step": name})

    def say(self, text):
        self.parts.append(text)

    def attempt(self, name, work):
        """The result of `work`, None when it failed, which is said."""
        self.step(name)
        try:
            return work()
        except Exception as error:
            self.say(f"{name}: error {brief(error, self.directory)}")
        except BaseException as panic:  # pyo3_runtime.PanicException
            self.say(f"{name}: panic {brief(panic, self.directory)}")
        return None


def get_all(collection, include):
    return collection.get(include=include)


def close(a, b):
    return all(abs(x - y) < 1e-3 for x, y in zip(a, b))


def expected(base):
    """Ids and texts of the fixture as it was, from its tables: the release that is asked may not be able to open it."""
    database = sqlite3.connect(base / "chroma.sqlite3")
    out = {}
    for name, record, text in database.execute(
        "SELECT c.name, e.embedding_id, m.string_value FROM collections c "
        "JOIN segments s ON s.collection = c.id AND s.scope = 'METADATA' JOIN embeddings e ON e.segment_id = s.id "
        "LEFT JOIN embedding_metadata m ON m.id = e.id AND m.key = 'chroma:document'"
    ):
        out.setdefault(name, {})[record] = text
    database.close()
    return out


def examine(report, directory, wanted):
    chroma = report.attempt("open", lambda: chromadb.PersistentClient(path=str(directory), settings=Settings(anonymized_telemetry=False)))
    if chroma is None:
        return
    listed = report.attempt("list", chroma.list_collections)
    if listed is not None:
        names = sorted(one if isinstance(one, str) else one.name for one in listed)
        if not set(wanted) <= set(names):
            report.say(f"lists {len(set(names) & set(wanted))} of {len(wanted)} collections")
        if not set(names) & set(wanted):
            return
    for name, records in wanted.items():
        collection = report.attempt(f"{name}", lambda: chroma.get_collection(name))
        if collection is not None:
            examine_collection(report, name, collection, records)


def examine_collection(report, name, collection, records):
    dim = DIMENSIONS[name]
    ids = sorted(records)
    vectors = {one: make.vector(one, dim) for one in ids}
    count = report.attempt(f"{name} count", collection.count)
    if count is not None and count != len(ids):
        report.say(f"{name}: counts {count} of {len(ids)} records")
    got = report.attempt(f"{name} get", lambda: get_all(collection, ["documents"]))
    if got is not None:
        texts = dict(zip(got["ids"], got["documents"]))
        right = sum(1 for one in ids if one in texts and texts[one] == records[one])
        if right != len(ids):
            report.say(f"{name}: gives {right} of {len(ids)} records")
    got = report.attempt(f"{name} get vectors", lambda: get_all(collection, ["embeddings"]))
    if got is not None:
        held = dict(zip(got["ids"], got["embeddings"]))
        right = sum(1 for one in ids if one in held and held[one] is not None and close(held[one], vectors[one]))
        if right != len(ids):
            report.say(f"{name}: gives {right} of {len(ids)} vectors rightly")
    found = report.attempt(f"{name} query", lambda: collection.query(query_embeddings=[vectors[one] for one in ids], n_results=1, include=["distances"]))
    if found is not None:
        own = sum(1 for one, answer in zip(ids, found["ids"]) if answer == [one])
        if own != len(ids):
            report.say(f"{name}: finds {own} of {len(ids)} by vector")
    # The first ones, where most faults are, that still have the text they were given.
    told = [one for one in ids if (records[one] or "").startswith(f"{one}: ")][:10]
    hits = report.attempt(f"{name} search", lambda: sum(1 for one in told if one in collection.get(where_document={"$contains": f"{one}: "}, include=[])["ids"]))
    if hits is not None and hits != len(told):
        report.say(f"{name}: finds {hits} of {len(told)} by text")
    pages = [n for n in range(0, 80, 7) if f"{name}-{n:03}" in records and f"{name}-{n:03}" not in ("articles-005", "articles-006")]
    hits = report.attempt(f"{name} filter", lambda: sum(1 for n in pages if collection.get(where={"page": n}, include=[])["ids"] == [f"{name}-{n:03}"]))
    if hits is not None and hits != len(pages):
        report.say(f"{name}: filters {hits} of {len(pages)} rightly")
    new = [f"added-{name}-{n}" for n in range(ADDED)]

    def add():
        for start in range(0, ADDED, 20):
            part = new[start : start + 20]
            collection.add(ids=part, embeddings=[make.vector(one, dim) for one in part], documents=[f"{one}: new" for one in part])
        return True

    if report.attempt(f"{name} add", add) is None:
        return
    got = report.attempt(f"{name} get added", lambda: collection.get(ids=new, include=[])["ids"])
    if got is not None and len(got) != ADDED:
        report.say(f"{name}: takes {ADDED} additions and has {len(got)}")
    found = report.attempt(f"{name} query added", lambda: collection.query(query_embeddings=[make.vector(one, dim) for one in new], n_results=1, include=["distances"])["ids"])
    if found is not None:
        own = sum(1 for one, answer in zip(new, found) if answer == [one])
        if own != ADDED:
            report.say(f"{name}: takes {ADDED} additions and finds {own} by vector")


def bloat(directory):
    """A file that grew out of all proportion, in words."""
    for file in sorted(directory.glob("*/*.bin")):
        if file.stat().st_size > 4 << 20:
            return f"{file.name} grows to {file.stat().st_size >> 20} MiB"
    return None


def cpu_seconds(pid):
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def in_child(work):
    """Runs `work` in a child and gives its lines, its last step, and how it ended when it ended badly."""
    source, sink = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(source)
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        try:
            work(lambda value: os.write(sink, json.dumps(value).encode() + b"\n"))
        finally:
            os._exit(0)
    os.close(sink)
    text, idle_since, used = b"", time.monotonic(), 0.0
    ended = None
    while True:
        ready, _, _ = select.select([source], [], [], 0.5)
        if ready:
            piece = os.read(source, 65536)
            if not piece:
                break
            text += piece
        now, spent = time.monotonic(), cpu_seconds(pid)
        if spent > used + 0.05:
            used, idle_since = spent, now
        if now - idle_since > IDLE_SECONDS or spent > BUSY_SECONDS:
            ended = "hangs" if spent <= BUSY_SECONDS else "never ends"
            os.kill(pid, signal.SIGKILL)
            break
    os.close(source)
    _, status = os.waitpid(pid, 0)
    if ended is None and os.WIFSIGNALED(status):
        ended = f"dies of {signal.Signals(os.WTERMSIG(status)).name}"
    lines = [json.loads(line) for line in text.decode().splitlines() if line.endswith("}")]
    steps = [line["step"] for line in lines if "step" in line]
    return lines, (steps[-1] if steps else "open"), ended


def summary(parts):
    """The parts in one line: an error that several steps give, or both collections, is written once."""
    merged = {}
    for part in parts:
        where, found, what = part.partition(": ")
        name, _, step = where.partition(" ") if found else (part, "", "")
        merged.setdefault((name, what), []).append(step)
    texts = {}
    for (name, what), steps in merged.items():
        steps = [step for step in steps if step]
        texts.setdefault((", ".join(steps), what), []).append(name)
    out = []
    for (steps, what), names in texts.items():
        names = "both" if set(names) == set(DIMENSIONS) else ", ".join(names)
        where = f"{names} ({steps})" if steps else names
        out.append(f"{where}: {what}" if what else where)
    return "; ".join(out)


def say(base, directory, known):
    if base not in known:
        with tempfile.TemporaryDirectory() as place:
            copy = Path(place) / "copy"
            shutil.copytree(base, copy)
            known[base] = expected(copy)

    def work(write):
        report = Report(write, directory)
        examine(report, directory, known[base])
        if grown := bloat(Path(directory)):
            report.say(grown)
        write({"parts": report.parts})

    lines, step, ended = in_child(work)
    done = [line["parts"] for line in lines if "parts" in line]
    parts = done[-1] if done else []
    if ended:
        parts = [f"{ended} at {step}"]
        if grown := bloat(Path(directory)):
            parts.append(grown)
    elif not done:
        parts = [f"ends at {step}"]
    return summary(parts) or "all right"


if __name__ == "__main__":
    healthy = {}
    for line in sys.stdin:
        fixture, place = line.rstrip("\n").split("\t")
        print(json.dumps({"said": say(fixture, Path(place), healthy)}), flush=True)
