//! `guard` on copies of real directories: it becomes the program, keeps a second one away, and writes nothing.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    os::unix::{fs::MetadataExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Output, Stdio},
    sync::mpsc::{Receiver, channel},
};

use crate::support::{
    Exporter, ROOMY_FILE, SOON, binary, fixture, get, own_process, signal, wait, wait_for,
    wait_until, zero_half_of_the_vectors,
};

/// Ends when dropped, with what it became.
struct Guarded {
    child: Child,
    lines: Receiver<String>,
}

impl Guarded {
    fn start(dir: &Path, more: &[&str], program: &[&str]) -> Self {
        let mut child = guard(dir, more, program).stderr(Stdio::piped()).spawn().unwrap();
        let lines = lines_of(child.stderr.take().unwrap());
        Self { child, lines }
    }

    /// The next line that begins like this.
    fn line(&self, begins: &str) -> String {
        let mut all = Vec::new();
        loop {
            match self.lines.recv_timeout(SOON) {
                Ok(line) if line.starts_with(begins) => return line,
                Ok(line) => all.push(line),
                Err(error) => panic!("no line {begins:?}: {error}; {all:#?}"),
            }
        }
    }

    fn started(self) -> Self {
        self.line("guard: ");
        self.started_as("sleep")
    }

    fn started_as(self, program: &str) -> Self {
        wait_until("the program to run", SOON, || {
            let command = fs::read(format!("/proc/{}/cmdline", self.child.id())).unwrap();
            command.starts_with(program.as_bytes())
        });
        self
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn lines_of(stderr: ChildStderr) -> Receiver<String> {
    let (send, receive) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if send.send(line).is_err() {
                break;
            }
        }
    });
    receive
}

fn guard(dir: &Path, more: &[&str], program: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(["guard", "--store.path"]).arg(dir).args(more).arg("--").args(program);
    command.stdin(Stdio::null());
    command
}

/// A guard that comes to its end.
fn guarded(dir: &Path, program: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = guard(dir, &[], program).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code(), text(stdout), text(stderr))
}

fn store(scratch: &Path) -> PathBuf {
    fixture("chroma-1.5.9", &scratch.canonicalize().unwrap())
}

/// Inode, mode, times and bytes.
type Entry = (u64, u32, i64, i64, i64, i64, Vec<u8>);

/// Everything of a directory that a write would change.
fn seen(dir: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut all = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(path) = folders.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let bytes = if meta.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        if meta.is_dir() {
            folders.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        let (m, c) = ((meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()));
        all.insert(path, (meta.ino(), meta.mode(), m.0, m.1, c.0, c.1, bytes));
    }
    all
}

/// Descriptors with what they are of; masks of the standard signals, priority and policy.
type Finds = (Vec<(u32, PathBuf)>, Vec<String>);

fn finds(pid: u32) -> Finds {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let mut descriptors: Vec<(u32, PathBuf)> = fs::read_dir(proc.join("fd"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            let number = entry.file_name().to_str().unwrap().parse().unwrap();
            (number, fs::read_link(entry.path()).unwrap_or_default())
        })
        .collect();
    descriptors.sort();
    let status = fs::read_to_string(proc.join("status")).unwrap();
    let masks =
        status.lines().filter(|line| line.starts_with("SigBlk") || line.starts_with("SigIgn"));
    // The C library of whoever starts it uses those above 31 for itself.
    let mut all: Vec<String> = masks
        .map(|line| format!("{:08x}", u64::from_str_radix(&line[8..], 16).unwrap() & 0x7fff_ffff))
        .collect();
    let stat = fs::read_to_string(proc.join("stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    all.extend([15, 16, 38].map(|field| fields[field].to_owned()));
    (descriptors, all)
}

#[test]
fn it_becomes_the_program_with_its_pid_its_exit_code_and_nothing_of_ours() {
    // Children of one program inherit what another of its tests has open for a moment.
    if !own_process::is_mine(
        "guard::it_becomes_the_program_with_its_pid_its_exit_code_and_nothing_of_ours",
    ) {
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let dir = store(scratch.path());
    let before = seen(scratch.path());
    let (code, out, err) = guarded(&dir, &["sh", "-c", "echo $$; exit 41"]);
    assert_eq!(code, Some(41), "{err}");
    assert!(out.trim_end().parse::<u32>().is_ok(), "{out}");
    // What a program finds: its pid, its descriptors, what signals do, how it is scheduled.
    let ours = Guarded::start(&dir, &[], &["sleep", "600"]).started();
    let mut plain = Command::new("sleep");
    let plain = plain.arg("600").stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let plain = Guarded { child: plain, lines: channel().1 }.started_as("sleep");
    let numbers = |all: &Finds| all.0.iter().map(|(number, _)| *number).collect::<Vec<_>>();
    // The loader has a library open for a moment; what is inherited stays.
    wait("a program that finds what it finds without guard", SOON, || {
        let (mut ours, plain) = (finds(ours.child.id()), finds(plain.child.id()));
        let lock = ours.0.iter().position(|(_, target)| *target == dir);
        ours.0.remove(lock.unwrap_or_else(|| panic!("no descriptor of the directory: {ours:?}")));
        let same = (numbers(&ours), &ours.1) == (numbers(&plain), &plain.1);
        if same { Ok(()) } else { Err(format!("{ours:?} against {plain:?}")) }
    });
    assert!(seen(scratch.path()) == before, "something was changed");
}

#[test]
fn signals_arrive_at_the_program() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = store(scratch.path());
    let script = "trap 'exit 7' TERM; echo ready >&2; while :; do sleep 0.05; done";
    let mut one = Guarded::start(&dir, &[], &["sh", "-c", script]);
    one.line("ready");
    signal(one.child.id(), "TERM");
    assert_eq!(one.child.wait().unwrap().code(), Some(7));
    // One that catches nothing is ended by it. SIGTERM: whoever runs tests in the background may have SIGINT ignored, and that is
    // inherited.
    let mut other = Guarded::start(&dir, &[], &["sleep", "600"]).started();
    signal(other.child.id(), "TERM");
    assert_eq!(other.child.wait().unwrap().signal(), Some(15));
}

#[test]
fn a_second_one_is_refused_and_the_first_is_named_until_it_ends_however_it_does() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = store(scratch.path());
    let before = seen(scratch.path());
    for end in ["TERM", "KILL"] {
        let mut first = Guarded::start(&dir, &[], &["sleep", "600"]).started();
        let (code, out, err) = guarded(&dir, &["echo", "started"]);
        assert_eq!((code, &*out), (Some(2), ""), "{err}");
        let named =
            format!("process {} (sleep 600) holds the lock of {}", first.child.id(), dir.display());
        assert!(err.contains(&named), "{err}");
        assert!(err.contains(&format!("kill {}", first.child.id())), "{err}");
        // The lock is no second writer, and a check goes on beside it.
        let check = Command::new(binary()).args(["check", "--quick"]).arg(&dir).output().unwrap();
        let said = String::from_utf8(check.stdout).unwrap();
        assert!(!said.contains("second_writer"), "{said}");
        signal(first.child.id(), end);
        first.child.wait().unwrap();
        let (code, out, err) = guarded(&dir, &["echo", "started"]);
        assert_eq!((code, &*out), (Some(0), "started\n"), "after {end}: {err}");
    }
    // A child of the server holds it too: it may write still.
    let script = "sleep 600 & echo $! >&2; exit 0";
    let mut first = Guarded::start(&dir, &[], &["sh", "-c", script]);
    first.line("guard: ");
    let child: u32 = first.line("").parse().unwrap();
    first.child.wait().unwrap();
    let (code, _, err) = guarded(&dir, &["true"]);
    assert!(code == Some(2) && err.contains(&format!("process {child} (sleep 600)")), "{err}");
    signal(child, "KILL");
    wait_for("the lock to be free", SOON, || (guarded(&dir, &["true"]).0 == Some(0)).then_some(()));
    assert!(seen(scratch.path()) == before, "something was changed");
}

#[test]
fn who_serves_it_without_guard_is_named_too() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = store(scratch.path());
    let database = fs::OpenOptions::new().append(true).open(dir.join("chroma.sqlite3")).unwrap();
    let mut writer = Command::new("sleep").arg("600").stdin(Stdio::from(database)).spawn().unwrap();
    let (code, out, err) = guarded(&dir, &["echo", "started"]);
    assert_eq!((code, &*out), (Some(2), ""), "{err}");
    assert!(
        err.contains(&format!("process {} (sleep 600) has {}", writer.id(), dir.display())),
        "{err}"
    );
    writer.kill().unwrap();
    writer.wait().unwrap();
    assert_eq!(guarded(&dir, &["true"]).0, Some(0));
}

#[test]
fn a_broken_store_is_refused_with_the_finding_and_its_remedy_until_it_is_mended() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = store(scratch.path());
    let database = dir.join("chroma.sqlite3");
    let healthy = fs::read(&database).unwrap();
    fs::write(&database, b"no database any more").unwrap();
    let before = seen(&dir);
    let (code, out, err) = guarded(&dir, &["echo", "started"]);
    assert_eq!((code, &*out), (Some(2), ""), "{err}");
    for said in ["guard: refused: ", "guard: critical: sqlite_not_a_database", "guard: help: "] {
        assert!(err.contains(said), "{err}");
    }
    assert!(seen(&dir) == before, "something was changed");
    let waiting = Guarded::start(
        &dir,
        &["--when-refused", "wait"],
        &["sh", "-c", "echo started >&2; exec sleep 600"],
    );
    waiting.line("guard: waiting");
    // It does not keep whoever mends it away.
    let words = ["permissions", "--store.path", dir.to_str().unwrap()];
    assert_eq!(Command::new(binary()).args(words).output().unwrap().status.code(), Some(0));
    let lock = fs::File::open(&dir).unwrap();
    wait_for("the lock to be free", SOON, || {
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).ok()
    });
    fs::write(&database, healthy).unwrap();
    drop(lock);
    waiting.line("started");
}

/// The folders beside the store that hold what was there before.
fn kept(scratch: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(scratch.canonicalize().unwrap()).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.to_str().unwrap().contains(".quarantine.")).collect()
}

fn tenants(dir: &Path) -> i64 {
    let database = rusqlite::Connection::open(dir.join("chroma.sqlite3")).unwrap();
    database.query_row("SELECT count(*) FROM tenants", [], |row| row.get(0)).unwrap()
}

#[test]
fn what_loses_nothing_is_repaired_on_the_way_and_what_was_there_is_kept() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = store(scratch.path());
    let database = rusqlite::Connection::open(dir.join("chroma.sqlite3")).unwrap();
    database.execute_batch("PRAGMA foreign_keys = OFF; DELETE FROM tenants").unwrap();
    database.close().unwrap();
    let before = seen(scratch.path());
    let words = ["guard", "--only-look", "--store.path", dir.to_str().unwrap(), "--", "true"];
    assert_eq!(Command::new(binary()).args(words).output().unwrap().status.code(), Some(2));
    assert!(seen(scratch.path()) == before, "something was changed");
    let (code, out, err) = guarded(&dir, &["echo", "started"]);
    assert_eq!((code, &*out), (Some(0), "started\n"), "{err}");
    assert!(err.contains("nothing is lost") && err.contains("--undo"), "{err}");
    let kept = kept(scratch.path());
    assert!(kept.len() == 1 && err.contains(kept[0].to_str().unwrap()), "{kept:?}: {err}");
    assert_eq!((tenants(&dir), tenants(&kept[0].join("old"))), (1, 0));
    // A running exporter tells it.
    let exporter = Exporter::start(&["--state.dir", "", "--store.path", dir.to_str().unwrap()]);
    wait_until("the repair to be told", SOON, || {
        exporter.page().all("chroma_restore_timestamp_seconds", &[]).any(|(_, at)| at > 0.0)
            && get(exporter.address, "/api/v1/status").body.contains("\"what\":\"repaired: ")
    });
    drop(exporter);
    // The second start finds nothing to do.
    let after = seen(scratch.path());
    assert_eq!(guarded(&dir, &["true"]).0, Some(0));
    assert!(seen(scratch.path()) == after, "something was changed");
}

/// A directory beside the store that has a proven backup of it.
fn backed_up(dir: &Path) -> PathBuf {
    let backups = dir.with_file_name("backups");
    fs::create_dir(&backups).unwrap();
    let mut backup = Command::new(binary());
    backup.arg("backup").arg("--config.file").arg(ROOMY_FILE).arg("--to").arg(&backups).arg(dir);
    assert_eq!(backup.output().unwrap().status.code(), Some(0));
    backups
}

#[test]
fn where_that_is_not_enough_the_operator_has_chosen_a_backup_or_an_empty_store() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = store(scratch.path());
    let backups = backed_up(&dir);
    // A newer one is of no use, and is passed over.
    fs::write(backups.join("chroma.backup.21000101_000000.tar.zst"), "cut").unwrap();
    let guard = |more: &[&str]| {
        let mut command = Command::new(binary());
        command
            .args(["guard", "--store.path"])
            .arg(&dir)
            .args(more)
            .args(["--", "echo", "started"]);
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (status.code(), text(stdout), text(stderr))
    };
    let destroy = || {
        drop(fs::remove_dir_all(&dir));
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("chroma.sqlite3"), vec![b'x'; 100_000]).unwrap();
    };
    destroy();
    let (code, out, err) = guard(&["--on-loss", "restore"]);
    assert!(code == Some(2) && out.is_empty() && err.contains("--backups DIR"), "{code:?} {err}");
    let at = backups.to_str().unwrap();
    let (code, out, err) = guard(&["--on-loss", "restore", "--backups", at]);
    assert_eq!((code, &*out), (Some(0), "started\n"), "{err}");
    assert!(err.contains("21000101_000000") && err.contains("guard: restored from "), "{err}");
    assert_eq!((tenants(&dir), kept(scratch.path()).len()), (1, 1));
    // With a backup, reinitialise is the same; without one, the store is empty.
    destroy();
    let (code, _, err) = guard(&["--on-loss", "reinitialise", "--backups", at]);
    assert!(code == Some(0) && err.contains("guard: restored from "), "{code:?} {err}");
    destroy();
    let (code, out, err) = guard(&["--on-loss", "reinitialise"]);
    assert_eq!((code, &*out), (Some(0), "started\n"), "{err}");
    assert!(err.contains("empty now"), "{err}");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    assert_eq!(kept(scratch.path()).len(), 3);
    let words = ["restore", "--undo", "--accept-loss", "--store.path", dir.to_str().unwrap()];
    assert_eq!(Command::new(binary()).args(words).output().unwrap().status.code(), Some(0));
    assert_eq!(fs::read(dir.join("chroma.sqlite3")).unwrap(), vec![b'x'; 100_000]);
}

#[test]
fn what_a_backup_still_has_is_no_loss() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = store(scratch.path());
    let backups = backed_up(&dir);
    zero_half_of_the_vectors(&dir);
    let (code, _, err) = guarded(&dir, &["true"]);
    assert!(code == Some(2) && err.contains("a repair would lose"), "{code:?} {err}");
    let words = ["--backups", backups.to_str().unwrap()];
    let out = guard(&dir, &words, &["true"]).output().unwrap();
    let err = String::from_utf8(out.stderr).unwrap();
    assert_eq!(out.status.code(), Some(0), "{err}");
    assert!(err.contains("repaired, and nothing is lost"), "{err}");
    assert_eq!(kept(scratch.path()).len(), 1);
}

#[test]
fn healthy_and_first_starts_are_let_through_and_what_is_not_there_is_not() {
    let scratch = tempfile::tempdir().unwrap();
    let place = scratch.path().canonicalize().unwrap();
    let empty = place.join("empty");
    fs::create_dir(&empty).unwrap();
    let mut stores = vec![empty];
    for name in [
        "chroma-0.4.24",
        "chroma-0.6.3",
        "chroma-1.1.1",
        "chroma-1.5.9-empty",
        "chroma-1.5.9-fresh",
        "chroma-1.5.9-hot-journal",
        "chroma-1.5.9-journal-left",
        "cut-0.4.24-between",
        "cut-1.5.9-first-start",
        "cut-1.5.9-unwritten",
    ] {
        stores.push(fixture(name, &place));
    }
    for dir in stores {
        let before = seen(&dir);
        let (code, out, err) = guarded(&dir, &["echo", "started"]);
        assert_eq!((code, &*out), (Some(0), "started\n"), "{}: {err}", dir.display());
        assert!(seen(&dir) == before, "{} was changed", dir.display());
    }
    let missing = place.join("missing");
    let (code, out, err) = guarded(&missing, &["echo", "started"]);
    assert_eq!((code, &*out), (Some(2), ""), "{err}");
    assert!(err.contains("does not exist") && err.contains("mkdir"), "{err}");
    assert!(!missing.exists());
    // What the program is called is looked up in PATH; what is not there is told as a shell does.
    let (code, _, err) = guarded(&place.join("empty"), &["no-such-program"]);
    assert!(code == Some(127) && err.contains("cannot start no-such-program"), "{code:?} {err}");
    let words = ["guard", "--store.path", "/x"];
    assert_eq!(Command::new(binary()).args(words).output().unwrap().status.code(), Some(64));
}
