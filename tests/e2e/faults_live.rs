//! The part of the published matrix that happens beside running processes: real servers, real kills, a disk that is really
//! full. `serve` must come to exactly the findings that are expected and stay with them, and Chroma must do what
//! `tests/faults.md` says of it. `UPDATE_FAULTS=1` writes these lines anew.

use crate::support::{
    self, Exporter, SOON,
    chroma::{self, Embedded, Server},
    faults::{self, LIVE, Matrix, Row, codes_cell},
    fixture, wait_for,
};
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// A store that a server serves, and what the fault brings with it; all of it ends with the scene.
struct Scene {
    scratch: tempfile::TempDir,
    dir: PathBuf,
    log: PathBuf,
    servers: Vec<Server>,
    others: Vec<Box<dyn std::any::Any>>,
    mount: Option<PathBuf>,
    exporter: Option<Exporter>,
}

/// Killed when dropped.
struct Kill(Child);

impl Drop for Kill {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.servers.clear();
        self.others.clear();
        if let Some(mount) = &self.mount {
            drop(Command::new("umount").arg("-l").arg(mount).status());
        }
    }
}

impl Scene {
    fn new(release: &str) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap();
        let dir = fixture(&format!("chroma-{release}"), &root);
        let log = root.join("server.log");
        fs::write(&log, "").unwrap();
        Self {
            scratch,
            dir,
            log,
            servers: Vec::new(),
            others: Vec::new(),
            mount: None,
            exporter: None,
        }
    }

    fn database(&self) -> PathBuf {
        self.dir.join("chroma.sqlite3")
    }

    fn serve(&mut self, release: &'static str) {
        self.servers.push(Server::start(release, &self.dir));
    }

    /// Watches the store as `serve` does, with the server's address when there is one.
    fn watch(&self) -> Exporter {
        let root = self.scratch.path();
        let server = self.servers.first().map_or(String::new(), |server| {
            format!(
                "    server: {{url: 'http://127.0.0.1:{}', interval: 1s, timeout: 10s}}\n",
                server.port
            )
        });
        let text = format!(
            "stores:\n  - name: main\n    path: {}\n    logs: [{}]\n{server}state:\n  dir: {}\n\
             collect:\n  interval: 500ms\n  contents_interval: 500ms\n  statement_deadline: 5s\n  device_timeout: 20s\n",
            self.dir.display(),
            self.log.display(),
            root.join("state").display()
        );
        let config = root.join("config.yml");
        fs::write(&config, text).unwrap();
        Exporter::start(&["--config.file", config.to_str().unwrap()])
    }

    /// Waits until exactly these codes are told, those of the host left out.
    fn until(&self, codes: &[&str]) {
        let exporter = self.exporter.as_ref().unwrap();
        wait_for(&format!("{codes:?}"), SOON, || {
            (findings(exporter, false) == codes).then_some(())
        });
    }

    /// A client of the first server does something, and succeeds.
    fn client(&self, what: &str, more: &[&str]) {
        assert!(self.servers[0].client(what, more).status().unwrap().success(), "{what}");
    }

    /// Ends the first server as a service manager does, and lets `meanwhile` happen before it comes back.
    fn restart(&mut self, meanwhile: impl FnOnce(&Self)) {
        self.servers[0].end();
        self.until(&["server_gone", "server_unreachable"]);
        meanwhile(self);
        let dir = self.dir.clone();
        self.servers[0].start_again(&dir);
    }

    /// What the first server says, in one line.
    fn server_says(&self) -> String {
        let Some(server) = self.servers.first() else { return "–".to_owned() };
        let out = server.client("state", &[]).stderr(Stdio::null()).output().unwrap();
        assert!(out.status.success());
        let said = String::from_utf8(out.stdout).unwrap().trim().to_owned();
        said.replace(self.dir.to_str().unwrap(), "DIR")
    }
}

struct Live {
    what: &'static str,
    release: &'static str,
    codes: &'static [&'static str],
    /// Codes of the host are part of what this one is about.
    disk: bool,
    /// Makes the store ready, before it is watched.
    before: fn(&mut Scene),
    /// What happens then.
    strike: fn(&mut Scene),
}

fn serve(scene: &mut Scene) {
    scene.serve("1.5.9");
}

fn python(release: &str, code: &str, words: &[&Path]) -> Child {
    let mut command = Command::new(chroma::python(release));
    command.args(["-W", "ignore", "-c", code]).args(words).env("ANONYMIZED_TELEMETRY", "False");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

/// Adds without pause until it is killed.
const WRITER: &str = "
import sys, chromadb
c = chromadb.PersistentClient(sys.argv[1]).get_collection('articles')
n = 0
while True:
    n += 1
    c.add(ids=[f'{n}-{i}' for i in range(4000)], embeddings=[[0.5] * 7 + [float(i)] for i in range(4000)], documents=[f'text {n} {i} ' * 40 for i in range(4000)])
";

/// Kills a writer in the middle of a transaction. It is stopped as soon as its journal is seen to be hot, and killed only when
/// that is still so once it stands still: whether a bare kill hits that moment is chance, and slow machines never have it.
fn kill_in_a_transaction(scene: &mut Scene) {
    let journal = scene.dir.join("chroma.sqlite3-journal");
    // SQLite writes these bytes, synced, before it touches the database.
    let hot = || fs::read(&journal).is_ok_and(|bytes| bytes.starts_with(&[0xd9, 0xd5, 0x05, 0xf9]));
    let writer = Kill(python("1.5.9", WRITER, &[&scene.dir]));
    let pid = writer.0.id();
    // Each thread: one that is still in a system call can yet take the journal away.
    let stands_still = || {
        fs::read_dir(format!("/proc/{pid}/task")).unwrap().all(|task| {
            let stat = fs::read_to_string(task.unwrap().path().join("stat")).unwrap_or_default();
            stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('T')
        })
    };
    let began = support::now();
    loop {
        assert!(began.elapsed() < 2 * SOON, "no moment with a hot journal was met");
        if hot() {
            support::signal(pid, "STOP");
            wait_for("the writer stands still", SOON, || stands_still().then_some(()));
            if hot() {
                return drop(writer);
            }
            support::signal(pid, "CONT");
        }
    }
}

/// Moves the store to a small filesystem of its own.
fn small_disk(scene: &mut Scene) {
    let mount = scene.scratch.path().join("small");
    fs::create_dir(&mount).unwrap();
    let status = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=6m", "tmpfs"])
        .arg(&mount)
        .status()
        .unwrap();
    assert!(status.success(), "mount (needs root)");
    scene.mount = Some(mount.clone());
    let dir = mount.join("store");
    support::copy_tree(&scene.dir, &dir);
    scene.dir = dir;
    serve(scene);
}

fn fill_disk(scene: &mut Scene) {
    let mut file = fs::File::create(scene.mount.as_ref().unwrap().join("filler")).unwrap();
    // Until nothing more fits.
    while file.write_all(&[7; 4096]).is_ok() {}
}

/// `chroma vacuum` of the release that serves it.
fn vacuum(scene: &Scene) {
    let mut command = Command::new(chroma::python("1.5.9").with_file_name("chroma"));
    command.args(["vacuum", "--force", "--path"]).arg(&scene.dir).stdout(Stdio::null());
    assert!(command.status().unwrap().success());
}

/// One program after the other embeds Chroma; the last one stays.
fn embed_again_and_again(scene: &mut Scene) {
    for _ in 0..2 {
        Embedded::start("1.5.9", &scene.dir).end();
        scene.until(&[]);
    }
    let last = Embedded::start("1.5.9", &scene.dir);
    scene.others.push(Box::new(last));
}

/// A program of the release that serves the store opens it, does this with the collection `articles`, is seen beside the server,
/// and ends.
fn beside(scene: &mut Scene, what: &str) {
    let release = scene.servers[0].version;
    let code = format!(
        "import sys, chromadb\nc = chromadb.PersistentClient(sys.argv[1]).get_collection('articles')\n\
         sys.stdin.readline()\n{what}\nprint('done', flush=True)\nsys.stdin.read()\n"
    );
    let mut program = Kill(python(release, &code, &[&scene.dir]));
    scene.until(&["second_writer"]);
    let mut input = program.0.stdin.take().unwrap();
    writeln!(input, "go").unwrap();
    let mut line = String::new();
    BufReader::new(program.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line.trim(), "done");
    drop(input);
    wait_for("the program to end", SOON, || program.0.try_wait().unwrap().map(drop));
}

const READER: &str = "
import sqlite3, sys
d = sqlite3.connect('file:' + sys.argv[1] + '?mode=ro', uri=True)
d.execute('BEGIN')
d.execute('SELECT count(*) FROM embeddings').fetchall()
print('holding', flush=True)
sys.stdin.read()
";

#[rustfmt::skip]
const CASES: &[Live] = &[
    Live { what: "a server at work", release: "1.5.9", codes: &[], disk: false, before: serve, strike: |_| {} },
    Live { what: "a server of 0.6.3 at work", release: "0.6.3", codes: &[], disk: false, before: |s| s.serve("0.6.3"), strike: |_| {} },
    Live { what: "server stopped in order (SIGTERM) and started again", release: "1.5.9", codes: &[], disk: false, before: serve, strike: |s| s.restart(|_| {}) },
    Live { what: "server stopped, chroma vacuum, started again", release: "1.5.9", codes: &[], disk: false, before: serve, strike: |s| s.restart(vacuum) },
    Live { what: "collections with settings of many kinds filled, changed and searched", release: "1.5.9", codes: &[], disk: false, before: serve, strike: |s| s.client("settings", &[]) },
    Live { what: "programs that embed Chroma one after the other", release: "1.5.9", codes: &[], disk: false, before: |_| {}, strike: embed_again_and_again },
    Live { what: "a collection deleted through the server", release: "1.5.9", codes: &["segment_orphan"], disk: false, before: serve, strike: |s| s.client("drop", &["articles"]) },
    Live { what: "database deleted under the server", release: "1.5.9", codes: &["sqlite_missing", "store_replaced"], disk: false, before: serve, strike: |s| fs::remove_file(s.database()).unwrap() },
    Live { what: "database exchanged under the server", release: "1.5.9", codes: &["store_replaced"], disk: false, before: serve, strike: |s| {
        let copy = s.scratch.path().join("restored");
        fs::copy(s.database(), &copy).unwrap();
        fs::rename(copy, s.database()).unwrap();
    } },
    Live { what: "directory exchanged under the server", release: "1.5.9", codes: &["store_replaced"], disk: false, before: serve, strike: |s| {
        let copy = s.scratch.path().join("restored");
        support::copy_tree(&s.dir, &copy);
        fs::rename(&s.dir, s.scratch.path().join("old")).unwrap();
        fs::rename(copy, &s.dir).unwrap();
    } },
    Live { what: "directory deleted under the server", release: "1.5.9", codes: &["store_missing", "store_replaced"], disk: false, before: serve, strike: |s| fs::remove_dir_all(&s.dir).unwrap() },
    Live { what: "first page zeroed under the server", release: "1.5.9", codes: &["server_failing", "sqlite_not_a_database"], disk: false, before: serve, strike: |s| faults::overwrite(&s.database(), 0, &[0; 4096]) },
    Live { what: "folder of an index deleted under the server", release: "1.5.9", codes: &["segment_missing"], disk: false, before: serve, strike: |s| fs::remove_dir_all(faults::folder(&s.dir, "articles")).unwrap() },
    Live { what: "server killed", release: "1.5.9", codes: &["server_gone", "server_unreachable"], disk: false, before: serve, strike: |s| s.servers[0].child.kill().unwrap() },
    Live { what: "server stopped (SIGSTOP)", release: "1.5.9", codes: &["server_unreachable"], disk: false, before: serve, strike: |s| support::signal(s.servers[0].child.id(), "STOP") },
    Live { what: "a second server on the directory", release: "1.5.9", codes: &["second_writer"], disk: false, before: serve, strike: serve },
    Live { what: "a program that embeds Chroma beside the server", release: "1.5.9", codes: &["second_writer"], disk: false, before: serve, strike: |s| {
        let embedded = Embedded::start("1.5.9", &s.dir);
        s.others.push(Box::new(embedded));
    } },
    Live { what: "a program that embeds Chroma has written beside the server and ended", release: "1.5.9", codes: &["second_writer"], disk: false, before: serve, strike: |s| beside(s, "c.add(ids=['beside'], embeddings=[[0.5] * 8])") },
    Live { what: "a program that embeds Chroma has written beside the server and ended", release: "0.6.3", codes: &["second_writer"], disk: false, before: |s| s.serve("0.6.3"), strike: |s| beside(s, "c.add(ids=['beside'], embeddings=[[0.5] * 8])") },
    Live { what: "a program that embeds Chroma has only counted beside the server and ended", release: "1.5.9", codes: &[], disk: false, before: serve, strike: |s| beside(s, "c.count()") },
    Live { what: "a program that embeds Chroma has written beside the server and ended, and the server was started again", release: "1.5.9", codes: &[], disk: false, before: serve, strike: |s| {
        beside(s, "c.add(ids=['beside'], embeddings=[[0.5] * 8])");
        s.restart(|_| {});
    } },
    Live { what: "a sqlite3 shell beside the server", release: "1.5.9", codes: &["sqlite_tool_open"], disk: false, before: serve, strike: |s| {
        let mut shell = Command::new("sqlite3").arg(s.database()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // It opens the file with the first question.
        writeln!(shell.stdin.as_mut().unwrap(), "SELECT count(*) FROM embeddings;").unwrap();
        let mut line = String::new();
        BufReader::new(shell.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert!(line.trim().parse::<u64>().is_ok(), "{line:?}");
        s.others.push(Box::new(Kill(shell)));
    } },
    Live { what: "a forgotten reader holds a lock", release: "1.5.9", codes: &["lock_held"], disk: false, before: serve, strike: |s| {
        let mut reader = Kill(python("1.5.9", READER, &[&s.database()]));
        let mut line = String::new();
        BufReader::new(reader.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        s.others.push(Box::new(reader));
    } },
    Live { what: "server nearly out of descriptors", release: "1.5.9", codes: &["descriptors_low"], disk: false, before: serve, strike: |s| {
        let pid = s.servers[0].child.id();
        let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        let status = Command::new("prlimit").arg(format!("--nofile={}", open + 1)).arg(format!("--pid={pid}")).status().unwrap();
        assert!(status.success());
    } },
    Live { what: "migrated by a newer Chroma under the server of an older one", release: "1.1.1", codes: &["schema_newer_than_server", "second_writer"], disk: false, before: |s| s.serve("1.1.1"), strike: |s| {
        let newer = Embedded::start("1.5.9", &s.dir);
        // One that is gone before anybody looked is not seen.
        s.until(&["schema_newer_than_server", "second_writer"]);
        drop(newer);
    } },
    Live { what: "panic in the log", release: "1.5.9", codes: &["log_error", "log_panic"], disk: false, before: serve, strike: |s| {
        let mut log = fs::OpenOptions::new().append(true).open(&s.log).unwrap();
        writeln!(log, "thread '<unnamed>' panicked at rust/sqlite/src/db.rs:157:42:\nrange start index 10 out of range for slice of length 9").unwrap();
    } },
    Live { what: "writer killed (kill -9) in a transaction", release: "1.5.9", codes: &["hot_journal"], disk: false, before: |_| {}, strike: kill_in_a_transaction },
    Live { what: "filesystem really full", release: "1.5.9", codes: &["disk_temporary", "disk_usage_critical", "disk_usage_high", "headroom_low"], disk: true, before: small_disk, strike: fill_disk },
];

fn findings(exporter: &Exporter, disk: bool) -> Vec<String> {
    let host = ["disk_", "headroom_", "inodes_"];
    let mut codes = exporter.page().findings("main");
    codes.retain(|code| disk || !host.iter().any(|host| code.starts_with(host)));
    // Comes in addition where something could not be read for a minute, which depends on how long the case takes.
    codes.retain(|code| code != "collector_failing");
    codes
}

#[test]
fn what_happens_beside_running_processes_is_told_and_nothing_else_is() {
    let published = Matrix::read();
    let only = std::env::var("FAULT").ok();
    let (next, rows) = (std::sync::Mutex::new(0), std::sync::Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let at = {
                        let mut next = next.lock().unwrap();
                        *next += 1;
                        *next - 1
                    };
                    let Some(case) = CASES.get(at) else { return };
                    if only.as_ref().is_none_or(|only| case.what.contains(only.as_str())) {
                        let row = play(case);
                        rows.lock().unwrap().push((at, row));
                    }
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap();
    rows.sort_by_key(|(at, _)| *at);
    if std::env::var_os("UPDATE_FAULTS").is_some() {
        let mut matrix = published;
        matrix.rows.retain(|((class, ..), _)| class != LIVE);
        let key = |case: &Live| (LIVE.to_owned(), case.what.to_owned(), case.release.to_owned());
        matrix.rows.extend(rows.into_iter().map(|(at, row)| (key(&CASES[at]), row)));
        matrix.write();
        return;
    }
    for (at, row) in rows {
        let case = &CASES[at];
        let want = published.get(LIVE, case.what, case.release);
        let want = want.unwrap_or_else(|| panic!("{}: not in tests/faults.md", case.what));
        // Its words differ from run to run, with the connection that a server happens to ask. With an exchanged database
        // or few descriptors left, whether it fails at all is such a chance: an old connection may do where a new one cannot.
        let by_chance =
            ["store_replaced", "descriptors_low"].iter().any(|code| case.codes.contains(code));
        let comparable = |row: &Row| {
            let well = by_chance || ["all right", "–"].contains(&row.chroma.as_str());
            (row.sqlite.clone(), well, row.codes.clone())
        };
        assert_eq!(
            comparable(&row),
            comparable(want),
            "{}: {row:?}, published is {want:?}",
            case.what
        );
    }
}

/// Waits until every collector that looks at each run has ended so many more of them.
fn further_turns(exporter: &Exporter, turns: u32) {
    let ran = || {
        let page = exporter.page();
        let at = |collector: &&str| {
            let labels = [("store", "main"), ("collector", *collector)];
            page.value("chroma_exporter_collector_last_run_timestamp_seconds", &labels)
        };
        ["disk", "integrity", "contents", "hnsw", "processes", "descriptors", "logs"]
            .iter()
            .map(at)
            .collect()
    };
    for turn in 1..=turns {
        let before: Vec<f64> = ran();
        support::wait(&format!("turn {turn} of each collector"), SOON, || {
            let now: Vec<f64> = ran();
            let all = now.iter().zip(&before).all(|(now, before)| now > before);
            if all { Ok(()) } else { Err(format!("{now:?} after {before:?}")) }
        });
    }
}

fn play(case: &Live) -> Row {
    let mut scene = Scene::new(case.release);
    (case.before)(&mut scene);
    let exporter = scene.watch();
    exporter.ready();
    scene.exporter = Some(exporter);
    let reported = |scene: &Scene| findings(scene.exporter.as_ref().unwrap(), case.disk);
    let calm = |codes: &[String]| codes.is_empty() || case.disk;
    wait_for(&format!("{}: nothing before", case.what), SOON, || {
        calm(&reported(&scene)).then_some(())
    });
    (case.strike)(&mut scene);
    let log = |scene: &Scene| scene.exporter.as_ref().unwrap().log();
    support::wait(case.what, 2 * SOON, || {
        let seen = reported(&scene);
        if seen == case.codes {
            return Ok(());
        }
        Err(format!("{seen:?} instead of {:?}\n{}", case.codes, log(&scene)))
    });
    // What comes after it is not wanted either.
    further_turns(scene.exporter.as_ref().unwrap(), 3);
    assert_eq!(reported(&scene), case.codes, "{}: it does not stay\n{}", case.what, log(&scene));
    let sqlite = faults::sqlite_says(&scene.dir);
    let chroma = scene.server_says();
    Row { sqlite, chroma, codes: codes_cell(case.codes) }
}

#[test]
fn a_server_that_flushes_all_the_time_has_no_finding() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().canonicalize().unwrap().join("store");
    fs::create_dir(&dir).unwrap();
    let server = Server::start("1.5.9", &dir);
    let config = scratch.path().join("config.yml");
    let text = format!(
        "stores:\n  - name: main\n    path: {}\nstate:\n  dir: ''\n\
         collect:\n  interval: 200ms\n  contents_interval: 500ms\n  quick_check_interval: 10s\n",
        dir.display()
    );
    fs::write(&config, text).unwrap();
    let exporter = Exporter::start(&["--config.file", config.to_str().unwrap()]);
    let mut load = Kill(server.start_load(25));
    // What it prints at its end is more than a pipe takes.
    let mut ledger = load.0.stdout.take().unwrap();
    let drain = std::thread::spawn(move || std::io::copy(&mut ledger, &mut std::io::sink()));
    let mut looks = 0;
    while load.0.try_wait().unwrap().is_none() {
        assert_eq!(findings(&exporter, false), [""; 0], "look {looks}\n{}", exporter.log());
        looks += 1;
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(looks > 0);
    assert!(drain.join().unwrap().unwrap() > 0);
}
