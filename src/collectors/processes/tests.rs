//! Against real processes, with `now` in the hand of the test.
#![expect(clippy::float_cmp, reason = "counts and given moments are exact")]

use std::{
    cell::RefCell,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use super::*;
use crate::{
    config::{Collect, Config, Store},
    findings::{Finding, Severity},
    host::{
        Host,
        processes::{
            LockHolder,
            tests::{Fake, Running},
        },
    },
    sample::Sample,
    wait::{SOON, wait_until},
};

/// One store in a directory of its own, and an exporter that can be restarted.
struct Lab {
    _dir: tempfile::TempDir,
    /// The persist directory.
    store: PathBuf,
    config: Arc<Config>,
    collector: Processes,
}

impl Lab {
    fn new() -> Self {
        Self::with_procfs(Path::new("/proc"), Config::default().collect.interval)
    }

    fn with_procfs(procfs: &Path, interval: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().canonicalize().unwrap().join("store");
        fs::create_dir(&store).unwrap();
        fs::write(store.join(DATABASE_FILE), "x").unwrap();
        let config = Arc::new(Config {
            state_dir: Some(dir.path().join("state")),
            procfs: procfs.into(),
            collect: Collect { interval, ..Collect::default() },
            ..Config::default()
        });
        let collector = collector(&config, &store);
        Self { _dir: dir, store, config, collector }
    }

    fn database(&self) -> PathBuf {
        self.store.join(DATABASE_FILE)
    }

    /// Another life of the program on the same state.
    fn restart(&mut self) {
        // The first one gives the lock of the state directory back before the second takes it.
        let without = Arc::new(Config { state_dir: None, ..(*self.config).clone() });
        self.collector = collector(&without, &self.store);
        self.collector = collector(&self.config, &self.store);
    }

    fn run(&mut self, at: i64) -> Observation {
        self.collector.context.host.processes.rested();
        self.collector.collect(&run(at))
    }

    /// The findings of a run that went well.
    fn findings(&mut self, at: i64) -> Vec<Finding> {
        let observation = self.run(at);
        assert!(observation.problems.is_empty(), "{:?}", observation.problems);
        observation.findings
    }

    fn codes(&mut self, at: i64) -> Vec<(Code, Severity)> {
        self.findings(at).into_iter().map(|f| (f.code, f.severity)).collect()
    }

    /// Waits until nothing is found: what other tests of this program start has, for an instant, what it had open.
    fn finds_nothing(&mut self, at: i64) {
        wait_until("nothing to be found", SOON, || self.codes(at).is_empty());
    }

    /// A program of this name that holds the database by descriptor 3.
    fn named(&self, name: &str, arguments: &str) -> Running {
        let program = self.store.parent().unwrap().join(name);
        if !program.exists() {
            symlink("/bin/sh", &program).unwrap();
        }
        let script = "exec 3<>\"$1\"; echo ready; read end";
        let mut all = vec!["-c", script];
        all.extend(arguments.split_whitespace());
        Running::start(program.to_str().unwrap(), &all, &self.database())
    }

    /// Something whose command line is that of a Chroma server.
    fn server(&self) -> Running {
        self.named("chroma", "run")
    }
}

fn collector(config: &Arc<Config>, dir: &Path) -> Processes {
    let store = Arc::new(Store::new("main", dir));
    Processes::new(&Context::new(config, &store, &Arc::new(Host::new(config))))
}

fn run(at: i64) -> Run {
    Run {
        now: Timestamp::from_secs(at),
        wake: Wake::RESCAN,
        deep: false,
        stop: Arc::new(AtomicBool::new(false)),
    }
}

/// Name, labels and value of each sample.
fn read(observation: &Observation) -> BTreeMap<String, f64> {
    let name = |s: &Sample| format!("{} {}", s.desc.name, s.values.join(","));
    observation.samples.iter().map(|s| (name(s).trim().to_owned(), s.value)).collect()
}

const CRITICAL: Severity = Severity::Critical;
const WARNING: Severity = Severity::Warning;

#[test]
fn holders_are_counted_and_the_server_is_measured() {
    let mut lab = Lab::new();
    let none = read(&lab.run(0));
    assert_eq!(none.get("chroma_processes write"), none.get("chroma_process_servers"));
    assert!(!none.contains_key("chroma_process_resident_memory_bytes"), "nobody to measure");
    assert_eq!(none["chroma_process_lock_seconds"], 0.0);

    let reader = Running::shell("<", &lab.database());
    let embedded = Running::shell("<>", &lab.database());
    let server = lab.server();
    let observation = lab.run(5);
    let got = read(&observation);
    for (name, want) in [
        ("chroma_processes write", 2.0),
        ("chroma_processes read", 1.0),
        ("chroma_process_writers", 2.0),
        ("chroma_process_servers", 1.0),
        ("chroma_process_children", 0.0),
    ] {
        assert_eq!(got[name], want, "{name} of {}", reader.pid());
    }
    assert!(got["chroma_process_resident_memory_bytes"] > 0.0);
    assert!(got["chroma_process_start_timestamp_seconds"] > 1.7e9);
    assert!(got.contains_key("chroma_exporter_capability cap_sys_ptrace"));
    let allowed: Vec<&str> = DESCS.iter().map(|desc| desc.name).collect();
    assert!(observation.samples.iter().all(|sample| allowed.contains(&sample.desc.name)));

    let [finding] = &observation.findings[..] else { panic!("{:?}", observation.findings) };
    assert_eq!((finding.code, finding.severity), (Code::SecondWriter, CRITICAL));
    for part in [
        format!(
            "2 processes hold chroma.sqlite3 open for writing: server chroma (pid {}, ",
            server.pid()
        ),
        format!("embedded in sh (pid {}, started ", embedded.pid()),
    ] {
        assert!(finding.evidence.contains(&part), "{part} in {}", finding.evidence);
    }
    drop(embedded);
    let left = lab.findings(10);
    assert_eq!(left.len(), 1, "what it wrote is not known: {left:?}");
    assert!(left[0].evidence.starts_with(&format!("the server chroma (pid {}, ", server.pid())));
}

#[test]
fn a_sqlite_shell_beside_a_chroma_is_no_second_one() {
    let mut lab = Lab::new();
    let shell = lab.named("sqlite3", "x");
    assert_eq!(lab.codes(0), [], "alone it is nobody's business");
    let _server = lab.server();
    assert_eq!(lab.codes(5), [(Code::SqliteToolOpen, Severity::Info)]);
    let evidence = &lab.findings(6)[0].evidence;
    assert!(evidence.starts_with(&format!("sqlite3 (pid {}, started ", shell.pid())), "{evidence}");
    let _second = lab.server();
    let both = [(Code::SecondWriter, CRITICAL), (Code::SqliteToolOpen, Severity::Info)];
    assert_eq!(lab.codes(10), both);
    drop(shell);
    assert_eq!(lab.codes(15), [(Code::SecondWriter, CRITICAL)]);
}

#[test]
fn a_writer_that_has_left_is_told_until_the_one_that_stays_has_restarted() {
    let mut lab = Lab::new();
    fs::remove_file(lab.database()).unwrap();
    let own = rusqlite::Connection::open(lab.database()).unwrap();
    own.execute_batch("CREATE TABLE embeddings_queue(seq_id INTEGER PRIMARY KEY)").unwrap();
    let add = || own.execute_batch("INSERT INTO embeddings_queue DEFAULT VALUES").unwrap();
    add();
    let server = lab.server();
    lab.finds_nothing(0);
    let second_writer = [(Code::SecondWriter, CRITICAL)];

    let reads = Running::shell("<>", &lab.database());
    assert_eq!(lab.codes(5), second_writer);
    drop(reads);
    // Nothing was written meanwhile.
    lab.finds_nothing(10);

    let job = Running::shell("<>", &lab.database());
    assert_eq!(lab.codes(15), second_writer);
    add();
    let pid = job.pid();
    drop(job);
    let left = lab.findings(20);
    assert_eq!((left.len(), left[0].code, left[0].severity), (1, Code::SecondWriter, CRITICAL));
    for part in [
        format!("the server chroma (pid {}, ", server.pid()),
        format!("together with the program sh (pid {pid}, "),
        "which had ended by 1970-01-01T00:00:20Z".to_owned(),
    ] {
        assert!(left[0].evidence.contains(&part), "{part} in {}", left[0].evidence);
    }
    let remedy = left[0].remedy(Path::new("/")).words;
    assert!(remedy.starts_with(&format!("Restart chroma (pid {})", server.pid())), "{remedy}");
    add();
    assert_eq!(lab.findings(25), left, "it stays as it was");
    lab.restart();
    assert_eq!(lab.findings(30), left, "over a restart of ours too");
    drop(server);
    let _again = lab.server();
    assert_eq!(lab.codes(35), []);
    lab.restart();
    assert_eq!(lab.codes(40), []);
}

#[test]
fn a_server_that_is_gone_is_missed_until_one_is_back() {
    let gone = [(Code::ServerGone, CRITICAL)];
    let mut lab = Lab::new();
    assert_eq!(lab.codes(0), [], "there never was one");
    let server = lab.server();
    assert_eq!(lab.codes(5), []);
    let pid = server.pid();
    drop(server);
    assert_eq!(lab.codes(10), gone);
    let first = lab.findings(15)[0].evidence.clone();
    assert!(first.contains(&format!("the server chroma (pid {pid}, ")), "{first}");
    assert!(first.contains("was gone at 1970-01-01T00:00:10Z"), "{first}");
    lab.restart();
    assert_eq!(lab.findings(20)[0].evidence, first, "a restart of ours forgets nothing");

    let import = Running::shell("<>", &lab.database());
    assert_eq!(lab.codes(25), gone, "an import serves nobody");
    drop(import);
    let again = lab.server();
    assert_eq!(lab.codes(30), []);
    lab.restart();
    drop(again);
    assert_eq!(lab.codes(35), gone, "it went while we were away");
}

#[test]
fn a_program_that_embeds_chroma_is_missed_only_when_it_held_it_for_long() {
    let mut lab = Lab::new();
    let import = Running::shell("<>", &lab.database());
    assert_eq!(lab.codes(0), []);
    drop(import);
    assert_eq!(lab.codes(5), [], "a short import ends");
    let service = Running::shell("<>", &lab.database());
    assert_eq!(lab.codes(10), []);
    assert_eq!(lab.codes(610), []);
    drop(service);
    assert_eq!(lab.codes(615), [(Code::ServerGone, WARNING)]);
    let shell = lab.named("sqlite3", "x");
    assert_eq!(lab.codes(620), [(Code::ServerGone, WARNING)], "looking at it does not serve it");
    drop(shell);
    let _restarted = Running::shell("<>", &lab.database());
    assert_eq!(lab.codes(625), []);
}

#[test]
fn a_server_that_works_on_a_file_that_is_gone_is_named_with_its_descriptor() {
    for (what, words) in [("mv", "moved away"), ("rm", "deleted")] {
        let mut lab = Lab::new();
        let server = lab.server();
        assert_eq!(lab.codes(0), []);
        let path = lab.database();
        match what {
            "mv" => fs::rename(&path, path.with_extension("old")).unwrap(),
            _ => fs::remove_file(&path).unwrap(),
        }
        let want = |lead: &str| {
            let pid = server.pid();
            format!(
                "chroma (pid {pid}) uses a chroma.sqlite3 that was {words}, through descriptor 3; the path leads to {lead}"
            )
        };
        let missing = lab.findings(5);
        assert_eq!((missing.len(), missing[0].code), (1, Code::StoreReplaced), "{missing:?}");
        assert_eq!(missing[0].evidence, want("nothing"));
        let command = format!("cp /proc/{}/fd/3 /var/tmp/chroma.sqlite3.saved", server.pid());
        assert!(missing[0].remedy(Path::new("/")).command == Some(command), "{missing:?}");
        fs::write(&path, "restored").unwrap();
        assert_eq!(lab.findings(10)[0].evidence, want("another file"));
        lab.restart();
        assert_eq!(lab.findings(15)[0].evidence, want("another file"), "{what}: after a restart");
        assert_eq!(read(&lab.run(16))["chroma_process_servers"], 1.0, "it is still the server");
        drop(server);
        assert_eq!(lab.codes(20), [(Code::ServerGone, CRITICAL)]);
        let _server = lab.server();
        assert_eq!(lab.codes(25), []);
    }
}

#[test]
fn a_file_that_was_replaced_before_we_came_is_found_by_its_last_name() {
    let mut lab = Lab::new();
    let holder = Running::shell("<>", &lab.database());
    let other = lab.store.join("other");
    fs::write(&other, "x").unwrap();
    let _unrelated = Running::shell("<>", &other);
    fs::remove_file(&other).unwrap();
    fs::remove_dir_all(&lab.store).unwrap();
    assert_eq!(lab.codes(0), [(Code::StoreReplaced, CRITICAL)], "the directory is gone too");
    fs::create_dir(&lab.store).unwrap();
    fs::write(lab.database(), "new").unwrap();
    assert_eq!(lab.codes(5), [(Code::StoreReplaced, CRITICAL)]);
    drop(holder);
    assert_eq!(lab.codes(10), []);
}

#[test]
fn an_inode_that_became_another_file_accuses_nobody() {
    let mut lab = Lab::new();
    let server = lab.server();
    assert_eq!(lab.codes(0), []);
    drop(server);
    // As after a restore whose first file got the old inode: the same inode, another name, another process.
    let segment = lab.store.join("data_level0.bin");
    fs::rename(lab.database(), &segment).unwrap();
    fs::write(lab.database(), "restored").unwrap();
    let _server = lab.server();
    let _segment = Running::shell("<>", &segment);
    assert_eq!(lab.codes(5), []);
}

#[test]
fn what_cannot_be_looked_into_is_neither_nobody_nor_gone() {
    let fake = Fake::new();
    let mut lab = Lab::with_procfs(fake.dir.path(), Duration::ZERO);
    fs::write(fake.dir.path().join("locks"), "").unwrap();
    for (pid, comm, flags) in [(1, "init", 0), (2, "kthreadd", 0x0020_0000)] {
        fs::create_dir(fake.process(pid, comm, flags, "").join("fd")).unwrap();
    }
    let process = fake.process(100, "chroma", 0, "/usr/bin/chroma run");
    for name in ["statm", "limits"] {
        fs::write(process.join(name), "9 7\nMax open files 100 100 files\n").unwrap();
    }
    fs::create_dir(process.join("fd")).unwrap();
    symlink(lab.database(), process.join("fd/9")).unwrap();
    let seen = lab.run(0);
    assert!(seen.findings.is_empty() && seen.problems.is_empty(), "{seen:?}");
    assert_eq!(read(&seen)["chroma_process_servers"], 1.0);

    fs::rename(process.join("fd"), process.join("hidden")).unwrap();
    fs::write(process.join("fd"), "").unwrap();
    // As the server would have it; this process is not in that procfs.
    let own = fs::OpenOptions::new().write(true).open(lab.database()).unwrap();
    let hidden = lab.run(5);
    let got = read(&hidden);
    assert_eq!(got["chroma_processes_unreadable"], 1.0);
    for absent in COUNTS {
        assert!(!got.contains_key(absent), "{absent} would be a false zero");
    }
    assert!(hidden.findings.is_empty(), "{hidden:?}");
    for code in [Code::ServerGone, Code::SecondWriter, Code::StoreReplaced] {
        assert!(!hidden.disproves(code), "{code:?}");
    }
    assert!(hidden.disproves(Code::LockHeld), "the table of locks is whole");
    let [problem] = &hidden.problems[..] else { panic!("{hidden:?}") };
    let problem = problem.chain();
    assert!(problem.starts_with("a process that this program cannot see has"), "{problem}");
    assert!(problem.contains("process 100 (chroma)"), "{problem}");

    // The kernel knows that nobody writes; who has the file open by no name it does not tell.
    drop(own);
    let nobody = lab.run(6);
    assert_eq!(nobody.findings[0].code, Code::ServerGone);
    assert!(nobody.problems.is_empty() && nobody.disproves(Code::SecondWriter), "{nobody:?}");
    assert!(!nobody.disproves(Code::StoreReplaced));
    let got = read(&nobody);
    assert_eq!((got["chroma_process_writers"], got["chroma_processes write"]), (0.0, 0.0));
    assert!(!got.contains_key("chroma_processes read"), "a reader may be hidden");

    // Another process that may not be looked into, but which is no server.
    fs::write(process.join("cmdline"), "sshd").unwrap();
    let gone = lab.run(10);
    assert_eq!(gone.findings[0].code, Code::ServerGone);
    assert_eq!(read(&gone)["chroma_process_servers"], 0.0);
}

#[test]
fn who_is_alone_in_a_container_does_not_take_it_for_the_host() {
    let fake = Fake::new();
    let mut lab = Lab::with_procfs(fake.dir.path(), Duration::ZERO);
    fs::write(fake.dir.path().join("locks"), "").unwrap();
    fs::create_dir(fake.process(1, "chroma_exporter", 0, "chroma_exporter").join("fd")).unwrap();
    assert_eq!(lab.codes(0), [], "the kernel says that nobody has it open for writing");
    let elsewhere = fs::OpenOptions::new().write(true).open(lab.database()).unwrap();
    let seen = lab.run(5);
    assert!(seen.findings.is_empty(), "{seen:?}");
    assert!(COUNTS.iter().all(|absent| !read(&seen).contains_key(*absent)), "{seen:?}");
    assert!(!read(&seen).contains_key("chroma_processes_unreadable"), "most are not even listed");
    assert!(CODES.iter().all(|code| !seen.disproves(*code)), "{seen:?}");
    assert!(seen.problems[0].hint().contains("--pid host"), "{seen:?}");

    // One that is seen says nothing of the others.
    let server = fake.process(9, "chroma", 0, "/usr/bin/chroma run");
    for name in ["statm", "limits"] {
        fs::write(server.join(name), "9 7\nMax open files 100 100 files\n").unwrap();
    }
    fs::create_dir(server.join("fd")).unwrap();
    symlink(lab.database(), server.join("fd/9")).unwrap();
    let seen = lab.run(10);
    assert!(seen.problems[0].chain().contains("whether two of them write"), "{seen:?}");
    assert!(!read(&seen).contains_key("chroma_process_writers"));
    assert!(seen.disproves(Code::ServerGone), "there it is");
    drop(elsewhere);
    fs::remove_file(fake.dir.path().join("1/stat")).unwrap();
    let seen = lab.run(15);
    assert!(seen.problems.is_empty(), "nobody writes, whoever is hidden: {seen:?}");
}

/// The series that may not be told while somebody may be hidden.
const COUNTS: [&str; 5] = [
    "chroma_processes write",
    "chroma_processes read",
    "chroma_process_writers",
    "chroma_process_servers",
    "chroma_process_children",
];

#[test]
fn without_a_procfs_only_the_capabilities_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut lab = Lab::with_procfs(&dir.path().join("none"), Duration::ZERO);
    let observation = lab.run(0);
    assert_eq!((observation.problems.len(), observation.judged.len()), (1, 0));
    assert!(
        observation.samples.iter().all(|sample| [&CAPABILITY, &DISCOVERED].contains(&sample.desc))
    );
}

#[test]
#[cfg_attr(not(feature = "e2e"), ignore = "needs python3: run with --features e2e")]
fn a_lock_of_somebody_else_that_lasts_is_named() {
    let mut lab = Lab::new();
    fs::remove_file(lab.database()).unwrap();
    let connection = rusqlite::Connection::open(lab.database()).unwrap();
    connection.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES(1)").unwrap();
    drop(connection);
    let sql = "import sqlite3\nc=sqlite3.connect(path,isolation_level=None)\n";
    let hold = "c.execute('BEGIN'); c.execute('SELECT x FROM t').fetchall(); ready(); stay()";
    let server = lab.server();
    let reader = Running::python(
        &format!(
            "import sqlite3\nc=sqlite3.connect('file:'+path+'?mode=ro',uri=True,isolation_level=None)\n{hold}"
        ),
        &lab.database(),
    );
    assert_eq!(lab.codes(0), []);
    let observation = lab.run(5);
    let [finding] = &observation.findings[..] else { panic!("{:?}", observation.findings) };
    assert_eq!((finding.code, finding.subject.as_str()), (Code::LockHeld, DATABASE_FILE));
    let want = format!("(pid {}) has held a read lock for at least 5 s", reader.pid());
    assert!(finding.evidence.contains(&want), "{finding:?}");
    assert_eq!(read(&observation)["chroma_process_lock_seconds"], 5.0);
    drop(reader);
    assert_eq!(lab.codes(10), []);

    // The lock of the process that works here is its work.
    drop(server);
    let main = Running::python(&format!("{sql}{hold}"), &lab.database());
    for at in [15, 20, 25] {
        assert!(lab.codes(at).iter().all(|(code, _)| *code != Code::LockHeld), "{}", main.pid());
    }
}

#[test]
fn a_lock_that_comes_and_goes_is_not_one_that_lasts() {
    let lock =
        |pid, pending| LockHolder { pid: Some(pid), shared: true, exclusive: pending, pending };
    let version = |size| Version { modified: (0, 0), size };
    let steady = || Ok(vec![lock(7, false), lock(8, true)]);
    let mut watch = LockWatch::default();
    let mut glance = |at, size, read: &dyn Fn() -> Result<Vec<LockHolder>, CollectError>| {
        let held = watch.check(&run(at), version(size), Some(8), read).unwrap();
        held.first().map(|held| (held.lasted.as_secs(), held.waiting))
    };
    assert_eq!(glance(0, 1, &steady), Some((0, Some(8))));
    assert_eq!(glance(5, 1, &steady), Some((5, Some(8))), "and the server waits for it");
    assert_eq!(glance(10, 2, &steady), Some((0, Some(8))), "a commit came between");
    let calls = RefCell::new(0);
    let flickering = || {
        *calls.borrow_mut() += 1;
        Ok(if *calls.borrow() == 4 { Vec::new() } else { vec![lock(7, false)] })
    };
    assert_eq!(glance(15, 2, &flickering), Some((0, None)), "one look did not find it");
    assert_eq!(glance(16, 2, &|| Ok(Vec::new())), None);
    assert_eq!(glance(21, 2, &steady), Some((0, Some(8))), "a turn did not find it");
    assert_eq!(glance(0, 2, &steady), Some((0, Some(8))), "a clock that steps back");
}

#[test]
fn of_many_writers_the_first_few_are_named() {
    let holder = Holder {
        pid: 7,
        comm: "chroma".to_owned(),
        server: true,
        writes: true,
        uid: 0,
        gids: Vec::new(),
        started: Timestamp::from_secs(0),
        start_ticks: 1,
        descriptors: vec![3],
        open_descriptors: 0,
        children: Vec::new(),
    };
    let many: Vec<Holder> = (1..=9).map(|pid| Holder { pid, ..holder.clone() }).collect();
    let evidence = judge::second_writer(&many).unwrap().evidence;
    assert!(
        evidence.starts_with("9 processes hold") && evidence.ends_with("; and 5 more"),
        "{evidence}"
    );
}
