//! What a deep check of a live database costs its writer. Builds a database like Chroma's (documents in a metadata table
//! with its indexes and in an FTS5 trigram table, vectors in a queue), kept under `target/` between runs, and lets a writer
//! process commit to it all the time. Windows alternate: nobody else; the `sqlite3` shell running `PRAGMA integrity_check`
//! in the file; ours, which is the whole deep check of the collector; ours again, copies only, one after the other. Prints
//! the writer's commit latency in each, as ratios to the windows in which it was alone, what the checks themselves took,
//! and how all that stands to the targets.
//!
//! `cargo bench --bench integrity [-- MEGABYTES] [hasty] [copies]`: a hasty writer syncs nothing and makes no pause;
//! `copies` leaves the checks out.

#[path = "../tests/support/random.rs"]
mod random;
mod support;

use std::{
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use chroma_exporter::{
    clock, collectors,
    config::{CollectorName, Config, Store},
    host::Host,
    scheduler,
    store::{
        Context,
        database::Database,
        view::{self, Options, Places},
    },
};
use random::Random;
use rusqlite::{Connection, params};
use support::{bytes_read, cpu_seconds, forget_peak, status_kib};

const ROUNDS: usize = 4;
const ALONE: Duration = Duration::from_secs(8);
const NAMES: [&str; 5] = [
    "nobody",
    "sqlite3 integrity_check",
    "ours, deep check",
    "ours, copies only",
    "nobody (noise)",
];

fn main() {
    if let Some(path) = std::env::var_os("INTEGRITY_WRITER") {
        return write_until_told(Path::new(&path));
    }
    if let Some(path) = std::env::var_os("INTEGRITY_BUILD") {
        return build(Path::new(&path), megabytes());
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    let megabytes = megabytes();
    let hasty = words.iter().any(|word| word == "hasty");
    let only_copies = words.iter().any(|word| word == "copies");
    let place = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("integrity-{megabytes}"));
    let path = place.join("store/chroma.sqlite3");
    if !place.join("ready").exists() {
        // In a process of its own, so that its memory is not counted as ours.
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.arg(megabytes.to_string()).env("INTEGRITY_BUILD", &path);
        assert!(command.status().expect("a process").success());
        std::fs::write(place.join("ready"), "").expect("marker");
    }
    let bytes = std::fs::metadata(&path).expect("database").len();
    println!("database of {:.0} MB", bytes as f64 / 1e6);
    // The peers without a writer, the file in memory.
    let mut file = std::fs::File::open(&path).expect("database");
    std::io::copy(&mut file, &mut std::io::sink()).expect("bytes");
    drop(file);
    let peers = [
        ("quick_check of the shell", timed(|| shell(&path, "quick_check"))),
        ("integrity_check of the shell", timed(|| shell(&path, "integrity_check"))),
        ("integrity_check, bundled SQLite", timed(|| bundled_check(&path))),
    ];
    for (name, wall) in peers {
        println!("{name:<34} {:>7.2} s warm, no writer", wall.as_secs_f64());
    }

    let mut windows: [Vec<Window>; 5] = Default::default();
    for round in 0..ROUNDS {
        // In turn, so that what drifts drifts over all of them; nobody else twice, to tell the noise.
        let mut order = [0, 1, 2, 3, 4];
        order.rotate_left(round);
        if round % 2 == 1 {
            order.reverse();
        }
        for kind in order.into_iter().filter(|kind| !only_copies || ![1, 2].contains(kind)) {
            let writer = Writer::start(&path, hasty);
            std::thread::sleep(Duration::from_millis(500));
            forget_peak();
            let (began, cpu, read) = (clock::ticks(), cpu_seconds(), bytes_read());
            let cost = match kind {
                1 => {
                    shell(&path, "integrity_check");
                    Cost { held: began.elapsed(), ..Cost::default() }
                }
                2 => deep_check(&path, &place),
                3 => copies(&path, &place),
                _ => {
                    std::thread::sleep(ALONE);
                    Cost::default()
                }
            };
            windows[kind].push(Window {
                wall: began.elapsed(),
                cpu: cpu_seconds() - cpu,
                read: bytes_read() - read,
                peak: status_kib("VmHWM") / 1024.0,
                latencies: writer.stop(),
                cost,
            });
        }
    }
    report(&windows, peers[2].1);
}

fn megabytes() -> u64 {
    std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(1000)
}

fn report(windows: &[Vec<Window>; 5], bundled: Duration) {
    let alone = Numbers::of(&windows[0]);
    println!(
        "{:<24} {:>8} {:>9} {:>9} {:>9} | {:>6} {:>6} {:>7} {:>6} | {:>7} {:>7} {:>9} {:>8} {:>8}",
        "beside the writer",
        "commits",
        "p50 ms",
        "p99 ms",
        "max ms",
        "p50 x",
        "p99 x",
        "max x",
        "rate x",
        "wall s",
        "CPU s",
        "hold ms",
        "peak MiB",
        "read MB"
    );
    for (name, windows) in NAMES.iter().zip(windows).filter(|(_, windows)| !windows.is_empty()) {
        let is = Numbers::of(windows);
        println!(
            "{name:<24} {:>8} {:>9.2} {:>9.2} {:>9.1} | {:>6.2} {:>6.2} {:>7.2} {:>6.2} | {:>7.2} {:>7.2} {:>9.3} {:>8.1} {:>8.0}",
            is.commits,
            is.p50,
            is.p99,
            is.max,
            is.p50 / alone.p50,
            is.p99 / alone.p99,
            is.max / alone.max,
            is.rate / alone.rate,
            is.wall,
            is.cpu,
            is.held,
            is.peak,
            is.read / 1e6
        );
    }
    let (deep, copies) = (Numbers::of(&windows[2]), Numbers::of(&windows[3]));
    let full = windows[2].iter().map(|window| window.cost.full.as_secs_f64());
    let full = full.sum::<f64>() / windows[2].len().max(1) as f64;
    let states: Vec<&str> = windows[2].iter().map(|window| window.cost.state).collect();
    println!("verdicts of the full check: {}", states.join(", "));
    let target = |what: &str, is: f64, target: f64| {
        let verdict = if is <= target { "met" } else { "missed" };
        println!("{what:<52} {is:>8.3}   target {target:>6.2}   {verdict}");
    };
    let made = windows[3].iter().map(|window| window.cost.holds.len()).sum::<usize>();
    let begun = windows[3].iter().map(|window| window.cost.begun).sum::<usize>();
    println!("copies proven: {made} of {begun}");
    if !windows[2].is_empty() {
        target("p50 of commits beside the deep check, ratio", deep.p50 / alone.p50, 1.05);
        target("p99 of commits beside the deep check, ratio", deep.p99 / alone.p99, 1.15);
        target("commits lost beside the deep check, share", 1.0 - deep.rate / alone.rate, 0.05);
        target(
            "full verdict to bundled integrity_check, wall ratio",
            full / bundled.as_secs_f64(),
            0.6,
        );
    }
    target("p50 of commits beside copies, ratio", copies.p50 / alone.p50, 1.05);
    target("p99 of commits beside copies, ratio", copies.p99 / alone.p99, 1.15);
    target("longest lock, ms", deep.held.max(copies.held), 10.0);
    target("99 of 100 longest locks of a copy, ms", percentile_of_holds(&windows[3]), 1.0);
    target("peak memory, MiB", deep.peak.max(copies.peak), 64.0);
}

/// What one window cost besides processor time.
#[derive(Default)]
struct Cost {
    /// Longest lock of all, and of each copy.
    held: Duration,
    holds: Vec<Duration>,
    /// Copies that were tried.
    begun: usize,
    /// Of the full check alone, and what it said.
    full: Duration,
    state: &'static str,
}

/// One stretch of time.
struct Window {
    /// Of each commit, in microseconds.
    latencies: Vec<u32>,
    wall: Duration,
    cpu: f64,
    read: f64,
    peak: f64,
    cost: Cost,
}

struct Numbers {
    commits: usize,
    p50: f64,
    p99: f64,
    max: f64,
    /// Commits a second.
    rate: f64,
    wall: f64,
    cpu: f64,
    held: f64,
    peak: f64,
    read: f64,
}

impl Numbers {
    fn of(windows: &[Window]) -> Self {
        let mut all: Vec<u32> =
            windows.iter().flat_map(|window| window.latencies.iter().copied()).collect();
        all.sort_unstable();
        let at =
            |share: usize| all.get(all.len() * share / 100).map_or(0.0, |us| f64::from(*us) / 1e3);
        let mean = |value: &dyn Fn(&Window) -> f64| {
            windows.iter().map(value).sum::<f64>() / windows.len().max(1) as f64
        };
        let wall = mean(&|window| window.wall.as_secs_f64());
        Self {
            commits: all.len(),
            p50: at(50),
            p99: at(99),
            max: all.last().map_or(0.0, |us| f64::from(*us) / 1e3),
            // The writer runs half a second before each window.
            rate: all.len() as f64 / windows.len().max(1) as f64 / (wall + 0.5),
            wall,
            cpu: mean(&|window| window.cpu),
            held: windows.iter().map(|w| w.cost.held.as_secs_f64() * 1e3).fold(0.0, f64::max),
            peak: windows.iter().map(|window| window.peak).fold(0.0, f64::max),
            read: mean(&|window| window.read),
        }
    }
}

fn percentile_of_holds(windows: &[Window]) -> f64 {
    let mut all: Vec<Duration> =
        windows.iter().flat_map(|window| window.cost.holds.iter().copied()).collect();
    all.sort_unstable();
    all.get(all.len() * 99 / 100).map_or(0.0, |held| held.as_secs_f64() * 1e3)
}

fn timed(work: impl FnOnce()) -> Duration {
    let began = clock::ticks();
    work();
    began.elapsed()
}

/// One read transaction over the whole of it.
fn shell(path: &Path, pragma: &str) {
    let out = Command::new("sqlite3")
        .arg(path)
        .args([".timeout 60000", &format!("PRAGMA {pragma}")])
        .output()
        .expect("the sqlite3 shell");
    assert_eq!(String::from_utf8_lossy(&out.stdout).trim(), "ok");
}

fn bundled_check(path: &Path) {
    let connection = Connection::open(path).expect("database");
    let said: String =
        connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("an answer");
    assert_eq!(said, "ok");
}

/// All that the collector does when `check` asks it.
fn deep_check(path: &Path, place: &Path) -> Cost {
    let dir = path.parent().expect("directory").to_owned();
    let mut config = Config::default();
    config.integrity.scratch_dir = Some(place.to_owned());
    config.disk.warn_ratio = 1.0;
    config.disk.critical_ratio = 1.0;
    let config = Arc::new(config);
    let store = Arc::new(Store::new("bench", dir));
    let context = Context::new(&config, &store, &Arc::new(Host::new(&config)));
    let mut collectors = collectors::registry(&context);
    let integrity = collectors
        .iter_mut()
        .find(|collector| collector.name() == CollectorName::Integrity)
        .expect("the collector");
    let reading = scheduler::run_once(&mut **integrity, &context, true, Arc::default());
    let of = |family: &str, check: &str| {
        let samples = &reading.observation.samples;
        let mut found = samples.iter().filter(|sample| {
            sample.desc.name == family && sample.values.iter().any(|value| &**value == check)
        });
        found.next().map_or(Duration::ZERO, |sample| Duration::from_secs_f64(sample.value))
    };
    let held =
        ["schema", "quick", "full"].map(|check| of("chroma_integrity_lock_hold_seconds", check));
    let checks = &reading.observation.checks;
    Cost {
        held: held.into_iter().max().unwrap_or_default(),
        holds: Vec::new(),
        begun: 0,
        full: of("chroma_integrity_duration_seconds", "full"),
        state: checks
            .iter()
            .find(|(name, _)| *name == "full")
            .map_or("none", |(_, state)| state.as_str()),
    }
}

/// Copies, one after the other, as long as a window takes.
fn copies(path: &Path, place: &Path) -> Cost {
    let database = Database::new(path.to_owned());
    let places = Places {
        configured: Some(place.to_owned()),
        fallback: Vec::new(),
        watched_ratio_max: 1.0,
        other_ratio_max: 1.0,
        name: None,
    };
    let (stop, progress) = (AtomicBool::new(false), chroma_exporter::progress::Progress::default());
    let options = Options {
        places: &places,
        rate_bytes_max: Config::default().integrity.read_rate_bytes_max,
        lock_hold_max: Duration::from_millis(10),
        time_max: Duration::from_mins(1),
        stop: &stop,
        progress: &progress,
    };
    let (began, mut cost) = (clock::ticks(), Cost::default());
    while began.elapsed() < ALONE {
        let this = clock::ticks();
        cost.begun += 1;
        let mut is = view::Cost::default();
        let taken = view::take_telling(&database, &options, &mut is);
        cost.held = cost.held.max(is.held);
        match taken {
            Ok(_) => {
                println!(
                    "  copied in {:.2} s, {} tries, {} transactions meanwhile, {:.0} MB read, lock {:.3} ms",
                    this.elapsed().as_secs_f64(),
                    is.tries,
                    is.transactions,
                    is.bytes_read as f64 / 1e6,
                    is.held.as_secs_f64() * 1e3
                );
                cost.holds.push(is.held);
            }
            Err(error) => {
                println!("  no copy after {:.2} s: {error}", this.elapsed().as_secs_f64());
            }
        }
    }
    cost
}

/// The writer, a process of its own: locks of this one would not be foreign to the check.
struct Writer(Child);

impl Writer {
    fn start(path: &Path, hasty: bool) -> Self {
        let program = std::env::current_exe().expect("this program");
        let mut command = Command::new(program);
        if hasty {
            command.env("INTEGRITY_HASTY", "1");
        }
        command.env("INTEGRITY_WRITER", path).stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(command.spawn().expect("the writer"))
    }

    fn stop(mut self) -> Vec<u32> {
        drop(self.0.stdin.take());
        let mut bytes = Vec::new();
        self.0.stdout.take().expect("piped").read_to_end(&mut bytes).expect("latencies");
        assert!(self.0.wait().expect("the writer").success());
        bytes.as_chunks::<4>().0.iter().map(|four| u32::from_le_bytes(*four)).collect()
    }
}

/// Adds a record and takes an old one away, in one commit after the other, until standard input ends; then tells how long
/// each commit took.
fn write_until_told(path: &Path) {
    let connection = Connection::open(path).expect("database");
    connection.busy_timeout(Duration::from_mins(10)).expect("timeout");
    let hasty = std::env::var_os("INTEGRITY_HASTY").is_some();
    if hasty {
        connection.pragma_update(None, "synchronous", "off").expect("pragma");
    }
    let reported = std::sync::Arc::new(AtomicBool::new(false));
    let tell = std::sync::Arc::clone(&reported);
    std::thread::spawn(move || {
        drop(std::io::stdin().read_to_end(&mut Vec::new()));
        tell.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    let mut random = Random(7);
    let mut latencies = Vec::new();
    let mut next: i64 =
        connection.query_row("SELECT max(id)+1 FROM embeddings", [], |row| row.get(0)).expect("id");
    while !reported.load(std::sync::atomic::Ordering::Relaxed) {
        let began = clock::ticks();
        connection.execute_batch("BEGIN IMMEDIATE").expect("begin");
        add(&connection, next, &mut random);
        for table in ["embedding_metadata", "embeddings", "embeddings_queue"] {
            let id = if table == "embeddings_queue" { "seq_id" } else { "id" };
            let sql = format!("DELETE FROM {table} WHERE {id}=?1");
            connection.execute(&sql, [next - 5000]).expect("delete");
        }
        connection
            .execute("DELETE FROM embedding_fulltext_search WHERE rowid=?1", [next - 5000])
            .expect("delete");
        connection.execute_batch("COMMIT").expect("commit");
        let micros = u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX);
        latencies.extend(micros.to_le_bytes());
        next += 1;
        if !hasty {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
    std::io::stdout().write_all(&latencies).expect("latencies");
}

fn build(path: &Path, megabytes: u64) {
    println!("building the database once");
    let dir = path.parent().expect("directory");
    drop(std::fs::remove_dir_all(dir));
    std::fs::create_dir_all(dir).expect("directory");
    let connection = Connection::open(path).expect("database");
    connection
        .execute_batch(
            "PRAGMA synchronous=OFF; PRAGMA cache_size=-500000;
             CREATE TABLE embeddings(id INTEGER PRIMARY KEY, segment_id TEXT NOT NULL, embedding_id TEXT NOT NULL, seq_id BLOB NOT NULL,
               created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, UNIQUE (segment_id, embedding_id));
             CREATE TABLE embedding_metadata(id INTEGER REFERENCES embeddings(id), key TEXT NOT NULL, string_value TEXT, int_value INTEGER,
               float_value REAL, bool_value INTEGER, PRIMARY KEY (id, key));
             CREATE INDEX embedding_metadata_int_value ON embedding_metadata (key, int_value) WHERE int_value IS NOT NULL;
             CREATE INDEX embedding_metadata_string_value ON embedding_metadata (key, string_value) WHERE string_value IS NOT NULL;
             CREATE VIRTUAL TABLE embedding_fulltext_search USING fts5(string_value, tokenize='trigram');
             CREATE TABLE embeddings_queue(seq_id INTEGER PRIMARY KEY, created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
               operation INTEGER NOT NULL, topic TEXT NOT NULL, id TEXT NOT NULL, vector BLOB, encoding TEXT, metadata TEXT);",
        )
        .expect("schema");
    let mut random = Random(3);
    let mut id = 0;
    while std::fs::metadata(path).expect("database").len() < megabytes * 1_000_000 {
        connection.execute_batch("BEGIN").expect("begin");
        for _ in 0..2000 {
            id += 1;
            add(&connection, id, &mut random);
        }
        connection.execute_batch("COMMIT").expect("commit");
    }
}

fn add(connection: &Connection, id: i64, random: &mut Random) {
    let document = (0..300).map(|_| word(random)).collect::<Vec<_>>().join(" ");
    let name = format!("record-{id}");
    let run = |sql: &str, params: &[&dyn rusqlite::ToSql]| {
        connection.prepare(sql).and_then(|mut s| s.execute(params)).expect("insert")
    };
    run(
        "INSERT INTO embeddings(id, segment_id, embedding_id, seq_id) VALUES(?1, 'segment', ?2, ?1)",
        params![id, name],
    );
    run(
        "INSERT INTO embedding_metadata(id, key, string_value) VALUES(?1, 'chroma:document', ?2)",
        params![id, document],
    );
    run("INSERT INTO embedding_metadata(id, key, int_value) VALUES(?1, 'n', ?1)", params![id]);
    run(
        "INSERT INTO embedding_fulltext_search(rowid, string_value) VALUES(?1, ?2)",
        params![id, document],
    );
    run(
        "INSERT INTO embeddings_queue(seq_id, operation, topic, id, vector, encoding, metadata) VALUES(?1, 0, 'topic', ?2, ?3, 'FLOAT32', '{}')",
        params![id, name, [17_u8; 1536].as_slice()],
    );
}

/// One of 4,000 words of three to nine letters.
fn word(random: &mut Random) -> String {
    let mut letters = Random(random.below(4000) * 2 + 1);
    letters.below(2);
    let len = 3 + letters.below(7);
    (0..len).map(|_| char::from(b'a' + u8::try_from(letters.below(26)).unwrap_or(0))).collect()
}
