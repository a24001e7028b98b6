//! What `dump` costs against a loop of `collection.get` in Python that writes the same lines, and `load` against `collection.upsert` of the
//! official Python client: with batches of several sizes, from one thread and from four. Makes the store with real Chroma
//! 1.5.9 (`CHROMA_VENVS`, kept under `target/` between runs), which also serves. Of Python only the work is counted, not its start.
//! Prints times, the peak of memory, and how all that stands to the targets.
//!
//! `cargo bench --bench dump [-- RECORDS [ROUNDS]]`: 100,000 records of 384 numbers and one round unless said. It takes 2 GB of disk.

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use support::programs::{measured, median, run, target, venv};

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|word| word.parse().ok());
    let (records, rounds) = (numbers.next().unwrap_or(100_000), numbers.next().unwrap_or(1));
    let place = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("dump-{records}"));
    let store = place.join("chroma");
    if !place.join("ready").exists() {
        drop(fs::remove_dir_all(&place));
        fs::create_dir_all(&place).expect("a place");
        python(&["build".as_ref(), &store, records.to_string().as_ref()]);
        fs::write(place.join("ready"), "").expect("a mark");
    }
    println!("{records} records of 384 numbers with documents, {rounds} rounds, seconds");
    let (ours, theirs) = (place.join("ours.jsonl"), place.join("theirs.jsonl"));
    let mut rows = Rows::default();
    let (mut of_dump, mut of_load) = (0.0_f64, 0.0_f64);
    for _ in 0..rounds {
        // Opening a store with Chroma writes.
        let copy = place.join("copy");
        drop(fs::remove_dir_all(&copy));
        run(Command::new("cp").arg("-r").arg(&store).arg(&copy));
        rows.add("a loop of collection.get", python(&["dump".as_ref(), &copy, &theirs]));
        fs::remove_dir_all(&copy).expect("the copy");
        let words = ["dump", "--state.dir", "", "--scratch"].map(Path::new);
        let (took, kib) = measured(&words, &[&place, "--to".as_ref(), &ours, &store]);
        rows.add("dump", took);
        of_dump = of_dump.max(kib);
        for (batch, threads) in CLIENTS {
            let server = Server::start(&place);
            let took = python(&[
                "load".as_ref(),
                server.port.as_ref(),
                &ours,
                batch.as_ref(),
                threads.as_ref(),
            ]);
            rows.add(&format!("{CLIENT} {batch} per batch, {threads} threads"), took);
        }
        let server = Server::start(&place);
        let to = format!("http://127.0.0.1:{}", server.port);
        let (took, kib) = measured(&["load".as_ref()], &[&ours, "--to".as_ref(), to.as_ref()]);
        rows.add("load", took);
        of_load = of_load.max(kib);
    }
    rows.print();
    let best =
        rows.0.iter().filter(|(name, _)| name.starts_with(CLIENT)).map(|(_, row)| median(row));
    target("dump to the loop, time", rows.of("dump") / rows.of("a loop of collection.get"), 0.1);
    target(
        "load to the best client, time",
        rows.of("load") / best.fold(f64::MAX, f64::min),
        1.0 / 0.9,
    );
    target("peak memory of dump, MiB", of_dump / 1024.0, 96.0);
    println!("peak memory of load, MiB {:>30.1}", of_load / 1024.0);
    drop(fs::remove_file(&ours));
    drop(fs::remove_file(&theirs));
}

const CLIENT: &str = "client,";
/// Records in a batch, and threads. `load` puts about 3,400 of these records in one.
const CLIENTS: [(&str, &str); 4] = [("1000", "4"), ("3400", "1"), ("3400", "4"), ("5000", "2")];

/// What each took, in the order in which they were run first.
#[derive(Default)]
struct Rows(Vec<(String, Vec<f64>)>);

impl Rows {
    fn add(&mut self, name: &str, took: f64) {
        println!("{name:<44} {took:>8.2}");
        match self.0.iter_mut().find(|(there, _)| there == name) {
            Some((_, row)) => row.push(took),
            None => self.0.push((name.to_owned(), vec![took])),
        }
    }

    fn of(&self, name: &str) -> f64 {
        median(&self.0.iter().find(|(there, _)| there == name).expect("it was run").1)
    }

    fn print(&self) {
        println!("in the middle:");
        for (name, row) in &self.0 {
            println!("{name:<44} {:>8.2}", median(row));
        }
    }
}

/// Runs `benches/support/records.py` and gives the seconds that it printed last.
fn python(words: &[&Path]) -> f64 {
    let mut command = Command::new(venv("1.5.9").join("python"));
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/support/records.py"));
    command.args(words).env("ANONYMIZED_TELEMETRY", "False").stderr(Stdio::inherit());
    let output = command.output().expect("Python");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    text.lines().last().and_then(|line| line.parse().ok()).expect("seconds")
}

/// A server on an empty directory.
struct Server {
    child: Child,
    dir: PathBuf,
    port: String,
}

impl Server {
    fn start(place: &Path) -> Self {
        let dir = place.join("server");
        drop(fs::remove_dir_all(&dir));
        fs::create_dir(&dir).expect("a directory");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its number").port();
        drop(listener);
        let child = Command::new(venv("1.5.9").join("chroma"))
            .args(["run", "--host", "127.0.0.1", "--port", &port.to_string(), "--path"])
            .arg(&dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a server");
        let server = Self { child, dir, port: port.to_string() };
        for _ in 0..600 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return server;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("the server does not listen after a minute");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        drop(fs::remove_dir_all(&self.dir));
    }
}
