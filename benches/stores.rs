//! What the exporter costs while nothing happens: memory, threads, processor time and the size of its page with so many idle
//! stores, each a copy of a real directory of Chroma. The program runs as a process of its own, with a state directory and its
//! default settings, and is looked at when every check has run.
//!
//! `cargo bench --bench stores [-- STORES...]`: 10, 50, 200 and 1000 if not given. `CHROMA_EXPORTER=PATH` measures that program
//! instead of the one that was built with the bench. The copies, 0.4 MB each, go to the directory of temporary files.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a benchmark that cannot run should say where and stop"
)]

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

use chroma_exporter::clock;

/// Most memory in MiB and most threads, for as many stores as there are targets for.
const MEMORY: [(usize, f64); 3] = [(10, 15.0), (50, 60.0), (1000, 250.0)];
const THREADS: [(usize, f64); 2] = [(50, 40.0), (1000, 60.0)];
/// Most processor time in per cent of a core and most memory in MiB, of each store.
const CPU_OF_A_STORE: f64 = 0.03;
const MEMORY_OF_A_STORE: f64 = 0.25;
/// The thread that asks each filesystem for its free space, and the most that it may take, in per cent of a core.
const SPACE_WATCH: (&str, f64) = ("space", 0.05);

/// How long the processor time is watched.
const WATCHED: Duration = Duration::from_mins(1);
/// Checks of many stores take their time; this is only a bound.
const SETTLED_WITHIN: Duration = Duration::from_mins(15);

fn main() {
    let arguments = std::env::args().skip(1);
    let mut counts: Vec<usize> = arguments.filter_map(|text| text.parse().ok()).collect();
    if counts.is_empty() {
        counts = vec![10, 50, 200, 1000];
    }
    println!(
        "{:>6} | {:>8} {:>8} {:>7} | {:>9} {:>9} | {:>9} {:>9} {:>7} {:>6} | {:>7}",
        "stores",
        "RSS MiB",
        "PSS MiB",
        "threads",
        "CPU % a",
        "MiB a",
        "page kB",
        "gzip kB",
        "series",
        "a store",
        "settled"
    );
    let mut verdicts = String::new();
    let mut empty = None;
    for count in [1].into_iter().chain(counts) {
        let seen = measure(count);
        println!(
            "{count:>6} | {:>8.1} {:>8.1} {:>7.0} | {:>9.4} {:>9.3} | {:>9.0} {:>9.0} {:>7} {:>6} | {:>5} s",
            seen.rss_mib,
            seen.pss_mib,
            seen.threads,
            seen.cpu_percent / count as f64,
            empty.map_or(0.0, |base: f64| (seen.rss_mib - base) / (count as f64 - 1.0)),
            seen.page_bytes as f64 / 1000.0,
            seen.gzip_bytes as f64 / 1000.0,
            seen.series,
            seen.series / count,
            seen.settled.as_secs(),
        );
        let Some(base) = empty else {
            // What one store costs is counted from here.
            empty = Some(seen.rss_mib);
            continue;
        };
        let mut verdict = |what: &str, is: f64, target: f64| {
            let met = if is <= target { "met" } else { "missed" };
            writeln!(verdicts, "{count:>6} stores: {what} {is:.3}, target {target}: {met}")
                .unwrap();
        };
        let target =
            |of: &[(usize, f64)]| of.iter().find(|(n, _)| *n == count).map(|(_, most)| *most);
        if let Some(most) = target(&MEMORY) {
            verdict("MiB", seen.rss_mib, most);
        }
        if let Some(most) = target(&THREADS) {
            verdict("threads", seen.threads, most);
        }
        if count >= 200 {
            verdict("% of a core for each", seen.cpu_percent / count as f64, CPU_OF_A_STORE);
            let each = (seen.rss_mib - base) / (count as f64 - 1.0);
            verdict("MiB for each", each, MEMORY_OF_A_STORE);
        }
        verdict("% of a core for the watch over free space", seen.space_percent, SPACE_WATCH.1);
        for (name, threads) in seen.names {
            println!("{:>6} | {threads:>4} × {name}", "");
        }
    }
    println!("\n{verdicts}");
}

struct Seen {
    rss_mib: f64,
    pss_mib: f64,
    threads: f64,
    /// Threads by name, many first.
    names: Vec<(String, usize)>,
    cpu_percent: f64,
    /// Of the watch over free space alone.
    space_percent: f64,
    page_bytes: usize,
    gzip_bytes: usize,
    series: usize,
    settled: Duration,
}

fn measure(count: usize) -> Seen {
    let scratch = tempfile::tempdir().unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chroma-1.5.9");
    let mut yaml = String::from("stores:\n");
    for number in 0..count {
        let dir = scratch.path().join(format!("store-{number}"));
        copy(&from, &dir);
        writeln!(yaml, "  - {{name: store-{number}, path: {}}}", dir.display()).unwrap();
    }
    let config = scratch.path().join("config.yml");
    fs::write(&config, yaml).unwrap();
    let exporter = Exporter::start(&config, &scratch.path().join("state"));
    let began = clock::ticks();
    let settled = exporter.settle();
    let settled = settled.unwrap_or_else(|| panic!("still at work after {:?}", began.elapsed()));
    let space_before = exporter.thread_seconds(SPACE_WATCH.0);
    let (before, at) = (exporter.cpu_seconds(), clock::ticks());
    let (mut rss_mib, mut threads, mut names) = (0.0_f64, 0.0_f64, Vec::new());
    while at.elapsed() < WATCHED {
        sleep(Duration::from_millis(500));
        rss_mib = rss_mib.max(exporter.status("VmRSS:") / 1024.0);
        let now = exporter.status("Threads:");
        if now > threads {
            threads = now;
            names = exporter.thread_names();
        }
    }
    let cpu_percent = (exporter.cpu_seconds() - before) / at.elapsed().as_secs_f64() * 100.0;
    let space = exporter.thread_seconds(SPACE_WATCH.0) - space_before;
    let space_percent = space / at.elapsed().as_secs_f64() * 100.0;
    let pss_mib = exporter.field("smaps_rollup", "Pss:") / 1024.0;
    let (page, gzip) = (exporter.get("/metrics", false), exporter.get("/metrics", true));
    let text = String::from_utf8_lossy(&page);
    let series = text.lines().filter(|line| line.starts_with("chroma_")).count();
    Seen {
        rss_mib,
        pss_mib,
        threads,
        names,
        cpu_percent,
        space_percent,
        page_bytes: page.len(),
        gzip_bytes: gzip.len(),
        series,
        settled,
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// A running exporter; ends with this.
struct Exporter {
    child: Child,
    address: SocketAddr,
}

impl Exporter {
    fn start(config: &Path, state: &Path) -> Self {
        let program = std::env::var_os("CHROMA_EXPORTER")
            .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_chroma_exporter")), PathBuf::from);
        let mut child = Command::new(program)
            .arg("--config.file")
            .arg(config)
            .arg("--state.dir")
            .arg(state)
            .args(["--web.listen-address", "127.0.0.1:0", "--log.format", "json"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "it ended before it listened");
            let Some((_, rest)) = line.split_once("\"address\":\"") else { continue };
            break rest.split('"').next().unwrap().parse().unwrap();
        };
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { child, address }
    }

    /// Waits until it is ready and every check has run: until it needs no less processor time than in the ten seconds before.
    fn settle(&self) -> Option<Duration> {
        let began = clock::ticks();
        let mut before = f64::INFINITY;
        while began.elapsed() < SETTLED_WITHIN {
            let at = self.cpu_seconds();
            sleep(Duration::from_secs(10));
            let used = self.cpu_seconds() - at;
            let ready = self.get("/-/ready", false).starts_with(b"chroma_exporter is ready");
            if ready && used > before * 0.8 - 0.03 && began.elapsed() > Duration::from_secs(40) {
                return Some(began.elapsed());
            }
            before = used;
        }
        None
    }

    fn get(&self, path: &str, gzip: bool) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let encoding = if gzip { "Accept-Encoding: gzip\r\n" } else { "" };
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{encoding}\r\n"
        )
        .unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let head = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        answer.split_off(head)
    }

    /// User and system time.
    fn cpu_seconds(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields = stat.rsplit(')').next().unwrap().split_whitespace();
        fields.skip(11).take(2).map(|field| field.parse::<f64>().unwrap()).sum::<f64>() / 100.0
    }

    /// Processor time of the threads of this name, to the nanosecond (`proc(5)`, schedstat); 0 where the kernel does not tell.
    fn thread_seconds(&self, name: &str) -> f64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let nanos = tasks.filter_map(|task| {
            let task = task.ok()?.path();
            let is = fs::read_to_string(task.join("comm")).ok()?.trim() == name;
            let times = is.then(|| fs::read_to_string(task.join("schedstat")).ok())??;
            times.split_whitespace().next()?.parse::<f64>().ok()
        });
        nanos.sum::<f64>() / 1e9
    }

    fn status(&self, field: &str) -> f64 {
        self.field("status", field)
    }

    fn field(&self, file: &str, field: &str) -> f64 {
        let text = fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    fn thread_names(&self) -> Vec<(String, usize)> {
        let mut names = std::collections::BTreeMap::<String, usize>::new();
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap() {
            let name = fs::read_to_string(task.unwrap().path().join("comm"));
            *names.entry(name.unwrap_or_default().trim().to_owned()).or_default() += 1;
        }
        let mut names: Vec<(String, usize)> = names.into_iter().collect();
        names.sort_by_key(|(_, threads)| std::cmp::Reverse(*threads));
        names
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
