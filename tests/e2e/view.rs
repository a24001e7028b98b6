//! The consistent view, beside writers that are as nasty as can be and beside a real Chroma: every view that is called
//! consistent passes `integrity_check` and is the state after some one commit. Each transaction of the synthetic writers
//! keeps the sum of all row hashes in a table of its own, so that no mixture of two states adds up.

use std::{
    collections::BTreeMap,
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::AtomicBool,
    time::Duration,
};

use crate::support::{self, chroma, random::Random};
use chroma_exporter::{
    clock,
    store::{
        database::Database,
        view::{self, Options, Places, View, ViewError},
    },
};
use rusqlite::{Connection, params};

/// What a writer process does; told through the environment.
#[derive(Clone, Copy)]
struct Writer {
    journal: &'static str,
    synchronous: &'static str,
    /// Pages of cache: few make a transaction spill.
    cache: i32,
    /// `tiny`, `huge`, `free`, `rollback`, `vacuum`, `mixed`.
    kind: &'static str,
    pause_ms: u64,
}

const TINY: Writer =
    Writer { journal: "delete", synchronous: "full", cache: 2000, kind: "tiny", pause_ms: 5 };

struct Story {
    name: &'static str,
    writers: &'static [Writer],
    /// Kill the writers every now and then, and start them again.
    kill: bool,
    /// Views that must be proven at least, to show that the way works at all.
    proven_min: u32,
}

const STORIES: &[Story] = &[
    Story { name: "tiny commits", writers: &[TINY], kill: false, proven_min: 1 },
    Story {
        name: "tiny commits without pause or sync",
        writers: &[Writer { synchronous: "off", pause_ms: 0, ..TINY }],
        kill: false,
        proven_min: 1,
    },
    Story {
        name: "tiny commits without sync every 10 ms",
        writers: &[Writer { synchronous: "off", pause_ms: 10, ..TINY }],
        kill: false,
        proven_min: 1,
    },
    Story {
        name: "two writers without pause or sync",
        writers: &[
            Writer { synchronous: "off", pause_ms: 0, ..TINY },
            Writer { synchronous: "off", pause_ms: 0, kind: "free", ..TINY },
        ],
        kill: false,
        proven_min: 1,
    },
    Story {
        name: "spilling commits without pause or sync",
        writers: &[Writer { synchronous: "off", pause_ms: 0, kind: "huge", cache: 10, ..TINY }],
        kill: false,
        proven_min: 1,
    },
    Story {
        name: "killed in tiny commits without pause or sync",
        writers: &[Writer { synchronous: "off", pause_ms: 0, ..TINY }],
        kill: true,
        proven_min: 1,
    },
    Story {
        name: "huge spilling commits",
        writers: &[Writer { kind: "huge", cache: 10, pause_ms: 20, ..TINY }],
        kill: false,
        proven_min: 1,
    },
    Story {
        name: "pages from the freelist",
        writers: &[Writer { kind: "free", pause_ms: 10, ..TINY }],
        kill: false,
        proven_min: 1,
    },
    Story {
        name: "rollbacks that have spilled",
        writers: &[Writer { kind: "rollback", cache: 10, pause_ms: 10, ..TINY }],
        kill: false,
        proven_min: 1,
    },
    Story {
        name: "vacuums",
        writers: &[Writer { kind: "vacuum", pause_ms: 30, ..TINY }],
        kill: false,
        proven_min: 1,
    },
    Story {
        name: "two writers that do everything",
        writers: &[
            Writer { kind: "mixed", cache: 10, ..TINY },
            Writer { kind: "mixed", synchronous: "off", ..TINY },
        ],
        kill: false,
        proven_min: 1,
    },
    Story {
        name: "killed inside transactions",
        writers: &[Writer { kind: "mixed", cache: 10, pause_ms: 2, ..TINY }],
        kill: true,
        proven_min: 1,
    },
    Story {
        name: "journals that are cut",
        writers: &[Writer { journal: "truncate", kind: "mixed", cache: 10, ..TINY }],
        kill: false,
        proven_min: 0,
    },
    Story {
        name: "journals that are kept",
        writers: &[Writer { journal: "persist", kind: "mixed", cache: 10, ..TINY }],
        kill: false,
        proven_min: 0,
    },
    Story {
        name: "journals deleted by one and kept by another",
        writers: &[
            Writer { kind: "mixed", cache: 10, ..TINY },
            Writer { journal: "persist", kind: "mixed", cache: 10, ..TINY },
        ],
        kill: true,
        proven_min: 0,
    },
    Story {
        name: "journals deleted by one and cut by another",
        writers: &[
            Writer { kind: "rollback", cache: 10, pause_ms: 1, ..TINY },
            Writer { journal: "truncate", kind: "tiny", pause_ms: 1, ..TINY },
        ],
        kill: false,
        proven_min: 0,
    },
    Story {
        name: "journals in memory",
        writers: &[Writer { journal: "memory", kind: "mixed", cache: 10, ..TINY }],
        kill: false,
        proven_min: 0,
    },
    Story {
        name: "a write-ahead log",
        writers: &[Writer { journal: "wal", kind: "mixed", ..TINY }],
        kill: false,
        proven_min: 0,
    },
];

const SECONDS_EACH: u64 = 3;
const CHROMA_SECONDS: u64 = 15;

#[test]
fn no_view_that_is_called_consistent_is_not() {
    // By hand: one story, or all for longer.
    let only = std::env::var("VIEW_STORY").unwrap_or_default();
    let seconds = std::env::var("VIEW_SECONDS").map_or(SECONDS_EACH, |text| text.parse().unwrap());
    for story in STORIES.iter().filter(|story| story.name.contains(&only)) {
        let scratch = tempfile::tempdir().unwrap();
        let store = scratch.path().join("store");
        std::fs::create_dir(&store).unwrap();
        let path = store.join("chroma.sqlite3");
        prepare(&path);
        let mut writers: Vec<Child> =
            (0..).zip(story.writers).map(|(seed, writer)| start(&path, writer, seed)).collect();
        let mut tally = Tally::default();
        let began = clock::ticks();
        let mut rounds = 0_u64;
        // A machine that is busy with other things gets more time to show that the way works.
        while began.elapsed() < Duration::from_secs(seconds)
            || (tally.proven < story.proven_min && began.elapsed() < Duration::from_mins(2))
        {
            rounds += 1;
            tally.look(&path, scratch.path(), rounds, check_sums);
            if story.kill && rounds.is_multiple_of(3) {
                for (writer, seed) in story.writers.iter().zip(0_u64..) {
                    let at = usize::try_from(seed).unwrap();
                    writers[at].kill().unwrap();
                    writers[at].wait().unwrap();
                    writers[at] = start(&path, writer, seed + rounds * 10);
                }
            }
        }
        for writer in &mut writers {
            assert!(
                writer.try_wait().unwrap().is_none(),
                "{}: a writer has ended by itself",
                story.name
            );
            writer.kill().unwrap();
            writer.wait().unwrap();
        }
        println!("{:<45} {tally}", story.name);
        assert!(tally.proven >= story.proven_min, "{}: {tally}", story.name);
    }
}

#[test]
fn a_real_chroma_is_copied_whole() {
    let scratch = tempfile::tempdir().unwrap();
    let store = scratch.path().join("store");
    std::fs::create_dir(&store).unwrap();
    let server = chroma::Server::start("1.5.9", &store);
    let load = server.start_load(CHROMA_SECONDS);
    let path = store.join("chroma.sqlite3");
    let mut tally = Tally::default();
    let mut rounds = 0_u32;
    let began = clock::ticks();
    while began.elapsed() < Duration::from_secs(CHROMA_SECONDS) {
        rounds += 1;
        tally.look(&path, scratch.path(), rounds.into(), |connection| {
            let tenants = "SELECT count(*) FROM tenants";
            let count: i64 = connection.query_row(tenants, [], |row| row.get(0)).unwrap();
            assert_eq!(count, 1);
        });
    }
    let ledger = load.wait_with_output().unwrap();
    assert!(ledger.status.success());
    server.verify(&ledger.stdout);
    println!("{:<45} {tally}", "Chroma 1.5.9");
    assert!(tally.proven * 2 > rounds, "{tally}");
    // One that was held longer was so because this machine had other work; the usual one tells what is asked of it, as far
    // as threads are woken in time here.
    let late = usual_delay();
    assert!(tally.held_usually() < Duration::from_millis(100) + 20 * late, "{tally}, {late:?}");
}

/// By how much a thread that sleeps for a moment is usually woken late.
fn usual_delay() -> Duration {
    let moment = Duration::from_millis(1);
    let delays = (0..101).map(|_| {
        let began = support::now();
        std::thread::sleep(moment);
        began.elapsed().saturating_sub(moment)
    });
    let mut delays: Vec<_> = delays.collect();
    delays.sort_unstable();
    delays[delays.len() / 2]
}

#[test]
fn a_deep_check_beside_a_busy_chroma_comes_to_its_end() {
    let scratch = tempfile::tempdir().unwrap();
    let store = scratch.path().join("store");
    std::fs::create_dir(&store).unwrap();
    let server = chroma::Server::start("1.5.9", &store);
    let database = store.join("chroma.sqlite3");
    let written = || std::fs::metadata(&database).unwrap().modified().unwrap();
    let before = written();
    let load = server.start_load(10);
    support::wait_until("the load to write", support::SOON, || written() != before);
    let store = store.to_str().unwrap();
    let out =
        support::run(&["check", "--output", "json", "--state.dir", "", "--store.path", store]);
    let ledger = load.wait_with_output().unwrap();
    assert!(ledger.status.success());
    server.verify(&ledger.stdout);
    let document: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    for check in ["schema", "quick", "full"] {
        assert_eq!(document["stores"][0]["integrity"][check], "ok", "{document:#}");
    }
}

#[derive(Default)]
struct Tally {
    proven: u32,
    transactions: u64,
    tries: u64,
    held: Vec<Duration>,
    refused: BTreeMap<String, u32>,
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} proven, {:.1} transactions and {:.1} tries each, held {:.2} ms usually and {:.2} at most; refused {:?}",
            self.proven,
            self.transactions as f64 / f64::from(self.proven.max(1)),
            self.tries as f64 / f64::from(self.proven.max(1)),
            self.held_usually().as_secs_f64() * 1e3,
            self.held.iter().max().map_or(0.0, |held| held.as_secs_f64() * 1e3),
            self.refused
        )
    }
}

impl Tally {
    /// The median of the longest locks of each view.
    fn held_usually(&self) -> Duration {
        let mut held = self.held.clone();
        held.sort();
        held.get(held.len() / 2).copied().unwrap_or_default()
    }

    /// Takes a view, at a rate that changes from round to round, and proves it whole.
    fn look(&mut self, path: &Path, places: &Path, round: u64, check: impl FnOnce(&Connection)) {
        let database = Database::new(path.to_owned());
        let places = Places {
            configured: Some(places.to_owned()),
            fallback: Vec::new(),
            watched_ratio_max: 0.99,
            other_ratio_max: 0.99,
            name: None,
        };
        let stop = AtomicBool::new(false);
        let options = Options {
            places: &places,
            rate_bytes_max: [30 << 20, 100 << 20, 1 << 30][usize::try_from(round % 3).unwrap()],
            lock_hold_max: Duration::from_millis(10),
            time_max: Duration::from_secs(2),
            stop: &stop,
            progress: &chroma_exporter::progress::Progress::default(),
        };
        match view::take(&database, &options) {
            Ok(view) => {
                self.proven += 1;
                self.transactions += u64::from(view.cost().transactions);
                self.tries += u64::from(view.cost().tries);
                self.held.push(view.cost().held);
                prove(view, check);
            }
            // All watches that a user may have can be taken by other programs of this machine (`EMFILE`).
            Err(ViewError::Io(error)) if error.raw_os_error() != Some(24) => panic!("{error}"),
            Err(other) => *self.refused.entry(other.to_string()).or_default() += 1,
        }
    }
}

fn prove(mut view: View, check: impl FnOnce(&Connection)) {
    let stop = AtomicBool::new(false);
    let timed = view.within(Duration::from_mins(1), &stop, |connection| {
        let said: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        assert_eq!(said, "ok");
        check(connection);
        Ok(())
    });
    timed.result.unwrap();
}

fn check_sums(connection: &Connection) {
    let mut statement = connection.prepare("SELECT v, h FROM data").unwrap();
    let mut rows = statement.query([]).unwrap();
    let mut sum = 0_i64;
    while let Some(row) = rows.next().unwrap() {
        let (value, hash): (Vec<u8>, i64) = (row.get(0).unwrap(), row.get(1).unwrap());
        assert_eq!(hash_of(&value), hash, "a row and its hash");
        sum = sum.wrapping_add(hash);
    }
    let stated: i64 = connection.query_row("SELECT s FROM total", [], |row| row.get(0)).unwrap();
    assert_eq!(sum, stated, "the rows are not those of one commit");
}

fn hash_of(bytes: &[u8]) -> i64 {
    let start = 0xcbf2_9ce4_8422_2325_u64;
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(start, step).cast_signed()
}

/// About 8 MB in 4,000 rows.
fn prepare(path: &Path) {
    let mut connection = Connection::open(path).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE data(id INTEGER PRIMARY KEY, v BLOB, h INTEGER); CREATE INDEX by_hash ON data(h); \
             CREATE TABLE total(s INTEGER); INSERT INTO total VALUES(0)",
        )
        .unwrap();
    let transaction = connection.transaction().unwrap();
    let mut random = Random(1);
    let mut sum = 0_i64;
    for id in 0..4000 {
        sum = sum.wrapping_add(put(&transaction, id, &mut random).unwrap());
    }
    transaction.execute("UPDATE total SET s=?1", [sum]).unwrap();
    transaction.commit().unwrap();
}

/// Writes the row and gives its hash.
fn put(connection: &Connection, id: i64, random: &mut Random) -> rusqlite::Result<i64> {
    let len = 100 + usize::try_from(random.below(3800)).unwrap();
    let mut value = vec![0; len];
    value.fill_with(|| u8::try_from(random.below(256)).unwrap());
    let hash = hash_of(&value);
    connection
        .prepare("INSERT OR REPLACE INTO data VALUES(?1, ?2, ?3)")?
        .execute(params![id, value, hash])?;
    Ok(hash)
}

fn start(path: &Path, writer: &Writer, seed: u64) -> Child {
    let spec = format!(
        "{} {} {} {} {} {seed}",
        writer.journal, writer.synchronous, writer.cache, writer.kind, writer.pause_ms
    );
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "view::a_writer_process", "--ignored"])
        .env("VIEW_WRITER", spec)
        .env("VIEW_DATABASE", path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "the writer that the other tests start as a process of its own"]
fn a_writer_process() {
    let Some(path) = std::env::var_os("VIEW_DATABASE") else { return };
    let spec = std::env::var("VIEW_WRITER").unwrap();
    let words: Vec<&str> = spec.split(' ').collect();
    let [journal, synchronous, cache, kind, pause_ms, seed] = words[..] else { panic!("{spec}") };
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_mins(10)).unwrap();
    connection
        .execute_batch(&format!(
            "PRAGMA journal_mode={journal}; PRAGMA synchronous={synchronous}; PRAGMA cache_size={cache};"
        ))
        .unwrap();
    let pause = Duration::from_millis(pause_ms.parse().unwrap());
    let mut random = Random(seed.parse::<u64>().unwrap() * 7919 + 1);
    loop {
        let kind = match kind {
            "mixed" => ["tiny", "tiny", "huge", "free", "rollback", "tiny", "free", "vacuum"]
                [usize::try_from(random.below(8)).unwrap()],
            kind => kind,
        };
        write(&connection, kind, &mut random);
        std::thread::sleep(pause);
    }
}

fn write(connection: &Connection, kind: &str, random: &mut Random) {
    if kind == "vacuum" && random.below(4) == 0 {
        connection.execute_batch("VACUUM").unwrap();
        return;
    }
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    let sum: i64 = connection.query_row("SELECT s FROM total", [], |row| row.get(0)).unwrap();
    let mut change = 0_i64;
    let mut forget = |from: i64, to: i64| {
        let old: i64 = connection
            .prepare("SELECT h FROM data WHERE id>=?1 AND id<?2")
            .unwrap()
            .query_map([from, to], |row| row.get::<_, i64>(0))
            .unwrap()
            .fold(0, |sum, hash| sum.wrapping_add(hash.unwrap()));
        connection
            .prepare("DELETE FROM data WHERE id>=?1 AND id<?2")
            .unwrap()
            .execute([from, to])
            .unwrap();
        change = change.wrapping_sub(old);
    };
    let rows = match kind {
        "tiny" => 1,
        "huge" | "rollback" => 600,
        _ => 150,
    };
    let first = i64::try_from(random.below(4000)).unwrap();
    forget(first, first + rows);
    // Every other transaction of this kind leaves the pages free, and the next takes them for other rows.
    if !(kind == "free" && random.below(2) == 0) {
        let first = if kind == "free" { i64::try_from(random.below(6000)).unwrap() } else { first };
        forget(first, first + rows);
        for id in first..first + rows {
            change = change.wrapping_add(put(connection, id, random).unwrap());
        }
    }
    connection.execute("UPDATE total SET s=?1", [sum.wrapping_add(change)]).unwrap();
    let back = kind == "rollback" && random.below(2) == 0;
    connection.execute_batch(if back { "ROLLBACK" } else { "COMMIT" }).unwrap();
}
