//! What the tests of the whole program share: the built binary, a plain HTTP client, a strict reader of the text format,
//! bounded waits that say what they waited for.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test binary uses its own part")]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

pub mod browser;
pub mod chroma;
pub mod cut;
pub mod exported;
pub mod exposition;
pub mod faults;
pub mod hook;
pub mod own_process;
pub mod parsers;
pub mod procfs;
pub mod prometheus;
pub mod promql;
pub mod random;
pub mod receiver;
pub mod rulefile;
pub mod smtp;
pub mod tmpfs;
pub mod wait;

#[allow(unused_imports, reason = "each test binary uses its own part")]
pub use wait::{SOON, now, wait, wait_every, wait_for, wait_until, wait_within};

/// The part of a configuration that lets disks be as full as they like: how full the one of the tests is says nothing of the
/// program.
pub const ROOMY: &str = include_str!("roomy.yml");
/// A configuration file of that part alone.
pub const ROOMY_FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/roomy.yml");

/// A fixture made by real Chroma, copied so that the test may change it.
pub fn fixture(name: &str, to: &Path) -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let dir = to.join(name);
    copy_tree(&from, &dir);
    dir
}

/// Gives a file another content in one step, as editors do: whoever looks meanwhile sees the one or the other, never a part,
/// and another inode even when size and time are the same.
pub fn replace_file(file: &Path, content: impl AsRef<[u8]>) {
    let mut beside = file.as_os_str().to_owned();
    beside.push(".new");
    fs::write(&beside, content).expect("written beside it");
    fs::rename(&beside, file).expect("in its place");
}

/// Copies a directory with its files, modes as the umask gives them.
pub fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("target directory");
    for entry in fs::read_dir(from).unwrap_or_else(|e| panic!("{}: {e}", from.display())) {
        let entry = entry.expect("entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("type").is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).expect("copy");
        }
    }
}

/// Zeroes the first half of the vectors of every index of a store.
pub fn zero_half_of_the_vectors(dir: &Path) {
    let entries = fs::read_dir(dir).expect("directory").map(|entry| entry.expect("entry").path());
    for file in entries.map(|folder| folder.join("data_level0.bin")).filter(|file| file.exists()) {
        let mut bytes = fs::read(&file).expect("vectors");
        let half = bytes.len() / 2;
        bytes[..half].fill(0);
        fs::write(&file, bytes).expect("vectors");
    }
}

/// A running exporter; killed when dropped.
pub struct Exporter {
    child: Child,
    pub address: SocketAddr,
    log: Arc<Mutex<String>>,
}

impl Exporter {
    /// Starts `serve` with these arguments on a port of the system's choice and waits until it listens.
    pub fn start<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Self {
        Self::start_with(args, |command| command)
    }

    /// The same with a command that the caller may change.
    pub fn start_with<S: AsRef<std::ffi::OsStr>>(
        args: &[S],
        change: impl FnOnce(&mut Command) -> &mut Command,
    ) -> Self {
        let mut command = Command::new(binary());
        command.args(["--web.listen-address", "127.0.0.1:0"]).args(args);
        change(&mut command);
        Self::start_command(command)
    }

    /// The same by a command of the caller, which has the address in it; killed with it when that hands a kill on.
    pub fn start_command(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("exporter starts");
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = child.stderr.take().expect("piped");
        let sink = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                writeln!(sink.lock().expect("log"), "{line}").expect("string");
            }
        });
        let address = wait_for("the exporter to listen", SOON, || {
            if let Some(status) = child.try_wait().expect("child") {
                panic!("exporter ended with {status}: {}", log.lock().expect("log"));
            }
            listening(&log.lock().expect("log"))
        });
        Self { child, address, log }
    }

    /// Everything logged so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("log").clone()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A line of `/proc/PID/status`, such as `VmRSS:` in KiB.
    pub fn status(&self, field: &str) -> u64 {
        let text =
            std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a process");
        let line = text.lines().find_map(|line| line.strip_prefix(field)).expect("the field");
        line.split_whitespace().next().and_then(|word| word.parse().ok()).expect("a number")
    }

    /// Waits until every full check of so many stores has passed.
    pub fn wait_full_checks(&self, stores: usize, bound: Duration) {
        self.wait_page("every full check", bound, |page| {
            let full = [("check", "full"), ("state", "ok")];
            page.all("chroma_integrity_state", &full).filter(|(_, value)| *value > 0.5).count()
                == stores
        });
    }

    /// Sends a signal by name: `TERM`, `HUP`, `STOP`, `CONT`.
    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// The metrics page as it is now.
    pub fn page(&self) -> Page {
        let answer = get(self.address, "/metrics");
        assert_eq!(answer.status, 200, "{}", answer.body);
        Page::parse(&answer.body)
    }

    /// Waits until every collector has run once.
    pub fn ready(&self) -> Page {
        wait_for("the first snapshot", SOON, || {
            (get(self.address, "/-/ready").status == 200).then_some(())
        });
        self.page()
    }

    /// Waits until a page satisfies `test`.
    pub fn wait_page(
        &self,
        what: &str,
        bound: Duration,
        mut test: impl FnMut(&Page) -> bool,
    ) -> Page {
        wait_every(Duration::from_millis(50), what, bound, || {
            let page = self.page();
            if test(&page) {
                return Ok(page);
            }
            Err(format!("page:\n{}\nlog:\n{}", page.text, self.log()))
        })
    }

    /// Sends TERM and waits for the end.
    pub fn stop(mut self) -> ExitStatus {
        self.signal("TERM");
        wait("the end of the exporter", SOON, || {
            let status = self.child.try_wait().expect("child");
            status.ok_or_else(|| format!("it runs; log:\n{}", self.log()))
        })
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        drop(self.child.kill());
        // Whom a hung mount holds in the kernel, a kill does not end: a test that failed is not to wait for it for ever.
        let began = now();
        while matches!(self.child.try_wait(), Ok(None)) && began.elapsed() < SOON {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn listening(log: &str) -> Option<SocketAddr> {
    let mut said = log.lines().filter(|line| line.contains("Listening"));
    let rest = said.find_map(|line| Some(line.split_once("address=")?.1))?;
    let text: String = rest
        .trim_start_matches('"')
        .chars()
        .take_while(|c| !c.is_whitespace() && *c != '"')
        .collect();
    text.parse().ok()
}

/// The binary under test.
pub fn binary() -> &'static str {
    env!("CARGO_BIN_EXE_chroma_exporter")
}

/// Runs the binary to its end.
pub fn run<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> std::process::Output {
    Command::new(binary()).args(args).stdin(Stdio::null()).output().expect("binary runs")
}

/// A free port for a program that cannot choose one itself. It is below those that the kernel gives to clients: one that
/// asks a port of theirs, before anybody listens there, may be connected to itself. No other test of this machine gets it
/// as long as this process lives: whoever has the UDP port of the same number, which none of the programs uses, has this one.
pub fn free_port() -> u16 {
    static CLAIMS: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());
    let mut claims = CLAIMS.lock().expect("claims");
    let taken = u32::try_from(claims.len()).expect("a count");
    // Where a process begins makes no difference but that fewer ports are tried in vain.
    let first = std::process::id().wrapping_mul(61).wrapping_add(taken);
    for number in 0..PORTS {
        let port = first.wrapping_add(number) % PORTS + PORT_FIRST;
        let port = u16::try_from(port).expect("a port");
        let Ok(claim) = UdpSocket::bind(("127.0.0.1", port)) else { continue };
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            claims.push(claim);
            return port;
        }
    }
    panic!("no port is free");
}

const PORT_FIRST: u32 = 20_000;
const PORTS: u32 = 12_000;

/// Sends a signal to any process.
pub fn signal(pid: u32, name: &str) {
    use rustix::process::{Pid, Signal, kill_process};
    let signal = match name {
        "TERM" => Signal::TERM,
        "HUP" => Signal::HUP,
        "STOP" => Signal::STOP,
        "CONT" => Signal::CONT,
        "KILL" => Signal::KILL,
        "INT" => Signal::INT,
        _ => panic!("no signal {name} here"),
    };
    let pid = Pid::from_raw(pid.try_into().expect("pid")).expect("pid");
    kill_process(pid, signal).unwrap_or_else(|error| panic!("kill -{name} {pid:?}: {error}"));
}

/// An HTTP answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

/// One GET on a connection of its own.
pub fn get(address: SocketAddr, path: &str) -> Answer {
    request(address, "GET", path)
}

/// One request without a body on a connection of its own.
pub fn request(address: SocketAddr, method: &str, path: &str) -> Answer {
    let mut stream = TcpStream::connect_timeout(&address, SOON).expect("connects");
    stream.set_read_timeout(Some(SOON)).expect("timeout");
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    )
    .expect("request");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("answer");
    let (head, body) = text.split_once("\r\n\r\n").expect("head ends");
    let status = head.split(' ').nth(1).expect("status").parse().expect("number");
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

/// A parsed page of the text format.
#[derive(Debug, Clone)]
pub struct Page {
    pub text: String,
    series: BTreeMap<String, f64>,
}

impl Page {
    /// Reads the text format strictly: a line that is neither comment nor sample, or a series that stands twice, is a
    /// failure.
    pub fn parse(text: &str) -> Self {
        let mut series = BTreeMap::new();
        for line in text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line}"));
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("not a number: {line}"));
            assert!(series.insert(name.to_owned(), value).is_none(), "twice: {name}");
        }
        Self { text: text.to_owned(), series }
    }

    /// The value of the one series with this name and at least these labels; `None` when there is none.
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let found: Vec<_> = self.all(name, labels).collect();
        assert!(found.len() < 2, "{name} {labels:?} is not one series: {found:?}");
        found.first().map(|(_, value)| *value)
    }

    /// Whether it is there and satisfies `test`. What a busy machine had no time to read is not there for a while.
    pub fn has(&self, name: &str, labels: &[(&str, &str)], test: impl FnOnce(f64) -> bool) -> bool {
        self.get(name, labels).is_some_and(test)
    }

    /// The same, which must be there.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.get(name, labels).unwrap_or_else(|| panic!("no {name} {labels:?} in\n{}", self.text))
    }

    /// Every series of this name with at least these labels.
    pub fn all<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = (&'a str, f64)> + 'a {
        self.series.iter().filter_map(move |(series, value)| {
            let rest = series.strip_prefix(name)?;
            let fits = (rest.is_empty() || rest.starts_with('{'))
                && labels.iter().all(|(k, v)| {
                    rest.contains(&format!("{{{k}=\"{v}\""))
                        || rest.contains(&format!(",{k}=\"{v}\""))
                });
            fits.then_some((series.as_str(), *value))
        })
    }

    /// Codes of the findings of a store that are 1.
    pub fn findings(&self, store: &str) -> Vec<String> {
        let mut codes: Vec<String> = self
            .all("chroma_finding", &[("store", store)])
            .filter(|(_, value)| *value > 0.0)
            .map(|(series, _)| label(series, "code"))
            .collect();
        codes.sort();
        codes
    }
}

/// The value of one label of a series.
pub fn label(series: &str, name: &str) -> String {
    let (_, rest) =
        series.split_once(&format!("{name}=\"")).unwrap_or_else(|| panic!("no {name} in {series}"));
    rest.split('"').next().expect("ends").to_owned()
}
