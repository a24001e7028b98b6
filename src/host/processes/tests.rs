//! Against real processes; where a right that the tests may not have would matter, against a directory that looks like a
//! procfs.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    os::unix::fs::{MetadataExt, symlink},
    process::{Child, Command, Stdio},
};

use super::*;
use crate::wait::{SOON, wait_until};

/// A process that has said `ready` and waits for the end of its input; killed when dropped.
pub(crate) struct Running {
    child: Child,
    /// What it said after `ready`.
    pub(crate) said: String,
}

impl Running {
    pub(crate) fn start(program: &str, arguments: &[&str], file: &Path) -> Self {
        let mut child = Command::new(program)
            .args(arguments)
            .arg(file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let said = line.trim().strip_prefix("ready").unwrap_or_else(|| panic!("{line:?}"));
        let said = said.trim().to_owned();
        Self { child, said }
    }

    /// A shell that holds the file by descriptor 3.
    pub(crate) fn shell(redirect: &str, file: &Path) -> Self {
        let script = format!("exec 3{redirect}\"$1\"; echo ready; read end");
        Self::start("sh", &["-c", &script, "sh"], file)
    }

    /// Python with `path` as the file.
    pub(crate) fn python(script: &str, file: &Path) -> Self {
        let script = format!(
            "import os,sys,signal,time\npath=sys.argv[1]\n\
             def ready(*a): print('ready',*a,flush=True)\n\
             def stay(): os.read(0,1)\n{script}"
        );
        Self::start("python3", &["-c", &script], file)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Its children see the end of the same input.
        drop(self.child.stdin.take());
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

pub(crate) fn id(path: &Path) -> FileId {
    let meta = fs::metadata(path).unwrap();
    FileId { device: meta.dev(), inode: meta.ino() }
}

fn database(dir: &Path) -> PathBuf {
    let path = dir.join("chroma.sqlite3");
    fs::write(&path, "x").unwrap();
    path
}

impl ProcessTable {
    /// Lets the next walk begin at once. How long a table rests between two of them, and whether it answers with the old one
    /// meanwhile, depends on how long this machine takes for one.
    pub(crate) fn rested(&self) -> &Self {
        self.shared.lock().next = None;
        self
    }
}

fn table() -> ProcessTable {
    ProcessTable::new("/proc".into())
}

fn pids(holders: &[Holder]) -> Vec<u32> {
    let mut pids: Vec<u32> = holders.iter().map(|holder| holder.pid).collect();
    pids.sort_unstable();
    pids
}

fn sorted<const N: usize>(mut pids: [u32; N]) -> [u32; N] {
    pids.sort_unstable();
    pids
}

#[test]
fn holders_are_found_with_how_they_hold_it_and_without_ourselves() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(dir.path());
    let _own = File::options().write(true).open(&path).unwrap();
    let table = table();
    // A child that another test starts has all that we have open until it becomes another program.
    wait_until("nobody but us to have it", SOON, || {
        table.rested().holders(id(&path), Duration::ZERO).unwrap().is_empty()
    });

    let writer = Running::shell("<>", &path);
    let reader = Running::shell("<", &path);
    wait_until("the two shells alone to have it", SOON, || {
        let holders = table.rested().holders(id(&path), Duration::ZERO).unwrap();
        pids(&holders) == sorted([writer.pid(), reader.pid()])
    });
    let holders = table.rested().holders(id(&path), Duration::ZERO).unwrap();
    for holder in &*holders {
        assert_eq!(holder.writes, holder.pid == writer.pid());
        assert_eq!((holder.descriptors.as_slice(), holder.server), (&[3][..], false));
        assert_eq!(holder.uid, rustix::process::geteuid().as_raw());
        assert_eq!(holder.gids[0], rustix::process::getegid().as_raw());
        let listed = fs::read_dir(format!("/proc/{}/fd", holder.pid)).unwrap().count();
        assert_eq!(holder.open_descriptors, listed as u64);
        let age = clock::now().as_secs() - holder.started.as_secs();
        assert!((-2..600).contains(&age), "{holder:?}");
    }
    assert_eq!(table.rested().held(id(&path), Duration::ZERO).unwrap(), Held::Yes);
    drop(writer);
    assert_eq!(pids(&table.rested().holders(id(&path), Duration::ZERO).unwrap()), [reader.pid()]);
}

#[test]
#[cfg_attr(not(feature = "e2e"), ignore = "needs python3: run with --features e2e")]
fn threads_and_children_that_only_inherited_are_their_process() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(dir.path());
    let server = Running::python(
        "import threading\nfd=os.open(path,os.O_RDWR)\n\
         [threading.Thread(target=stay,daemon=True).start() for _ in range(4)]\n\
         child=os.fork()\n\
         if child==0:\n  grandchild=os.fork()\n  if grandchild==0: stay()\n  else: ready(grandchild,os.getpid()); stay()\n\
         else: stay()",
        &path,
    );
    let holders = table().holders(id(&path), Duration::ZERO).unwrap();
    assert_eq!(pids(&holders), [server.pid()]);
    let mut children: Vec<u32> = server.said.split(' ').map(|pid| pid.parse().unwrap()).collect();
    children.sort_unstable();
    assert_eq!(holders[0].children, children);
}

#[test]
#[cfg_attr(not(feature = "e2e"), ignore = "needs python3: run with --features e2e")]
fn a_child_that_opened_it_itself_is_a_holder_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(dir.path());
    for (what, script) in [
        (
            "opened again beside what it inherited",
            "fd=os.open(path,os.O_RDWR)\nif os.fork()==0: again=os.open(path,os.O_RDWR); ready(os.getpid()); stay()\nelse: stay()",
        ),
        (
            "executed another program that kept the descriptor",
            "fd=os.open(path,os.O_RDWR); os.set_inheritable(fd,True)\nchild=os.fork()\n\
             if child==0: os.execvp('sh',['sh','-c','echo ready $$; read end'])\nelse: stay()",
        ),
    ] {
        let parent = Running::python(script, &path);
        let holders = table().holders(id(&path), Duration::ZERO).unwrap();
        let child = parent.said.parse().unwrap();
        assert_eq!(pids(&holders), sorted([parent.pid(), child]), "{what}");
        assert!(holders.iter().all(|holder| holder.children.is_empty()), "{what}");
    }
}

#[test]
#[cfg_attr(not(feature = "e2e"), ignore = "needs python3: run with --features e2e")]
fn workers_that_each_opened_it_after_the_fork_are_as_many_holders() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(dir.path());
    let parent = Running::python(
        "r,w=os.pipe()\n\
         for _ in range(2):\n  if os.fork()==0: fd=os.open(path,os.O_RDWR); os.write(w,b'%d '%os.getpid()); stay(); os._exit(0)\n\
         said=b''\n\
         while said.count(b' ')<2: said+=os.read(r,99)\n\
         ready(said.decode()); stay()",
        &path,
    );
    let workers: Vec<u32> = parent.said.split(' ').map(|pid| pid.parse().unwrap()).collect();
    let holders = table().holders(id(&path), Duration::ZERO).unwrap();
    assert_eq!(pids(&holders), sorted([workers[0], workers[1]]));
}

#[test]
fn a_deleted_database_is_found_by_its_last_name() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let path = root.join("chroma.sqlite3");
    fs::write(&path, vec![1; 40_960]).unwrap();
    let (file, other) = (id(&path), root.join("other"));
    let holder = Running::shell("<>", &path);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "new").unwrap();

    let table = table();
    let walk = table.rested().walk(&[id(&path)], &[], Duration::ZERO).unwrap();
    assert!(walk.holders(id(&path)).is_empty());
    let deleted: Vec<&Deleted> = walk.deleted().iter().filter(|d| d.file == file).collect();
    assert_eq!((deleted.len(), deleted[0].pid, deleted[0].descriptor), (1, holder.pid(), 3));
    assert!(table.was_named(deleted[0], &path));
    assert!(!table.was_named(deleted[0], &other.join("chroma.sqlite3")));
    assert!(table.was_below(deleted[0], &root) && !table.was_below(deleted[0], &other));

    let bytes = |dir| table.rested().deleted_bytes(dir, file.device, Duration::ZERO).unwrap();
    assert!(bytes(&root) >= 40_960);
    assert_eq!(bytes(&other), 0);
    let again = Running::shell("<", &PathBuf::from(format!("/proc/{}/fd/3", holder.pid())));
    assert!(bytes(&root) < 2 * 40_960, "two descriptors, one file: {}", again.pid());
}

#[test]
fn callers_share_a_walk_and_a_fresh_one_is_fresh() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(dir.path());
    let (table, file) = (table(), id(&path));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| table.holders(file, Duration::from_mins(5)).unwrap());
        }
    });
    assert_eq!(table.shared.lock().walks, 1);
    let holder = Running::shell("<", &path);
    assert!(
        table.holders(file, Duration::from_mins(5)).unwrap().is_empty(),
        "the old walk is new enough"
    );
    assert_eq!(pids(&table.rested().holders(file, Duration::ZERO).unwrap()), [holder.pid()]);
    // A file that nobody has asked for before is not answered from a walk that did not look for it.
    let second = dir.path().join("second");
    fs::write(&second, "x").unwrap();
    let other = Running::shell("<", &second);
    assert_eq!(pids(&table.holders(id(&second), Duration::from_mins(5)).unwrap()), [other.pid()]);
}

#[test]
#[cfg_attr(not(feature = "e2e"), ignore = "needs python3: run with --features e2e")]
fn attributes_by_sysinfo_and_by_our_parsers_are_equal() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(dir.path());
    let holder = Running::python(
        "import resource\nfd=os.open(path,os.O_RDWR)\n\
         resource.setrlimit(resource.RLIMIT_NOFILE,(321,resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n\
         x=bytearray(30<<20)\nend=time.process_time()+0.3\n\
         while time.process_time()<end: pass\nready(); stay()",
        &path,
    );
    let table = table();
    let found = table.rested().holders(id(&path), Duration::ZERO).unwrap();
    // What has just said that it is ready may still be on its way to rest.
    let same = (0..100).find_map(|_| {
        let text = table.attributes.by_text(&found[0]).unwrap();
        (table.attributes.by_sysinfo(found[0].pid) == Some(text)).then_some(text)
    });
    let text = same.expect("both say the same of a process at rest");
    assert_eq!(table.attributes(&found[0]).unwrap(), text);
    assert_eq!(text.max_descriptors, Some(321));
    assert!(text.resident_bytes > 30 << 20 && text.cpu_seconds >= 0.3, "{text:?}");
    drop(holder);
    assert!(table.attributes(&found[0]).is_err(), "it has ended");
    let mut reused = found[0].clone();
    (reused.pid, reused.start_ticks) = (std::process::id(), 1);
    assert!(table.attributes(&reused).is_err(), "another process has its pid");
}

#[test]
#[cfg_attr(not(feature = "e2e"), ignore = "needs python3: run with --features e2e")]
fn locks_name_the_process_and_what_it_does() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("chroma.sqlite3");
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES(1)").unwrap();
    let table = table();
    let locks = |why: &str| {
        let holders = table.rested().holders(id(&path), Duration::ZERO).unwrap();
        let mut locks = table.locks(id(&path), &holders).unwrap();
        locks.sort_by_key(|lock| (lock.exclusive, lock.pid));
        assert!(locks.iter().all(|lock| lock.pid != Some(std::process::id())), "{why}");
        locks
    };
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert_eq!(locks("our own lock is not told"), []);
    connection.execute_batch("COMMIT").unwrap();

    let sql = "import sqlite3\nc=sqlite3.connect(path,isolation_level=None)\n";
    let reader = Running::python(
        &format!(
            "{sql}c.execute('BEGIN'); c.execute('SELECT x FROM t').fetchall(); ready(); stay()"
        ),
        &path,
    );
    let want =
        |pid, shared, exclusive| LockHolder { pid: Some(pid), shared, exclusive, pending: false };
    assert_eq!(locks("a reader"), [want(reader.pid(), true, false)]);
    let writer =
        Running::python(&format!("{sql}c.execute('BEGIN IMMEDIATE'); ready(); stay()"), &path);
    assert_eq!(
        locks("a reader and a writer"),
        [want(reader.pid(), true, false), want(writer.pid(), true, true)]
    );
}

/// A directory with the shape of a procfs, in which any process can be made to look like anything.
pub(crate) struct Fake {
    pub(crate) dir: tempfile::TempDir,
}

impl Fake {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn process(&self, pid: u32, comm: &str, flags: u32, arguments: &str) -> PathBuf {
        let dir = self.dir.path().join(pid.to_string());
        fs::create_dir(&dir).unwrap();
        let stat = format!(
            "{pid} ({comm}) S 0 0 0 0 -1 {flags} 0 0 0 0 1 2 0 0 20 0 1 0 {pid}00 0 7 0 4096 0 8192\n"
        );
        fs::write(dir.join("stat"), stat).unwrap();
        fs::write(dir.join("cmdline"), arguments.replace(' ', "\0")).unwrap();
        let status = "Uid:\t0\t0\t0\t5\nGid:\t0\t0\t0\t6\nGroups:\t7\nCapEff:\t0\n";
        fs::write(dir.join("status"), status).unwrap();
        dir
    }

    fn table(&self) -> ProcessTable {
        ProcessTable::new(self.dir.path().to_owned())
    }
}

#[test]
fn what_cannot_be_looked_into_is_told_and_kernel_threads_are_not() {
    let fake = Fake::new();
    let path = database(fake.dir.path());
    for (pid, comm, flags) in [(2, "kthreadd", 0x0020_0000), (40, "sshd", 0), (41, "chroma", 0)] {
        // Not a directory: refused, whoever asks.
        fs::write(fake.process(pid, comm, flags, "/x/chroma run").join("fd"), "").unwrap();
    }
    // Its parent has not taken its end note yet: it holds nothing, whatever the kernel answers.
    let zombie = fake.process(42, "old", 0, "");
    fs::write(zombie.join("fd"), "").unwrap();
    let stat = fs::read_to_string(zombie.join("stat")).unwrap().replace(") S ", ") Z ");
    fs::write(zombie.join("stat"), stat).unwrap();
    fs::create_dir(fake.dir.path().join("43")).unwrap(); // ended between two looks
    fs::write(fake.dir.path().join("43/fd"), "").unwrap();
    fs::write(fake.dir.path().join("uptime"), "").unwrap();
    let table = fake.table();
    let walk = table.rested().walk(&[id(&path)], &[], Duration::ZERO).unwrap();
    let mut unreadable = walk.unreadable().to_vec();
    unreadable.sort_unstable();
    assert_eq!(unreadable, [40, 41]);
    assert_eq!(table.rested().held(id(&path), Duration::ZERO).unwrap(), Held::Unknown);
    fs::write(fake.dir.path().join("40/cmdline"), "sshd: /usr/sbin/sshd -D").unwrap();
    assert_eq!(table.suspects(&[40, 43]), []);
    let server = Suspect { pid: 41, comm: "chroma".to_owned(), server: true };
    assert_eq!(table.suspects(&unreadable), [server]);
    fs::write(fake.dir.path().join("41/cmdline"), "/bin/true").unwrap();
    fs::write(fake.dir.path().join("41/stat"), "41 (true) R 1").unwrap();
    assert_eq!(table.suspects(&unreadable).len(), 1, "what cannot be read may be anything");
    fs::remove_dir_all(fake.dir.path().join("41")).unwrap();
    let rights = table.rights();
    let right = |name| rights.iter().find(|right| right.name == name).map(|right| right.held);
    assert_eq!(right("all_processes_visible"), Some(false), "there is no process 1");
    assert_eq!(right("host_pid_namespace"), Some(true), "there is a kthreadd");
    let held = || table.rested().held(id(&path), Duration::ZERO).unwrap();
    assert_eq!(held(), Held::Unknown, "others may be hidden as the first one is");
    let init = fake.process(1, "systemd", 0, "/sbin/init");
    fs::create_dir(init.join("fd")).unwrap();
    assert_eq!(held(), Held::No, "sshd holds no store");
    fs::remove_dir_all(fake.dir.path().join("2")).unwrap();
    assert_eq!(held(), Held::Unknown, "without kthreadd it is a container");
    fs::remove_file(init.join("stat")).unwrap();
    let walk = table.rested().walk(&[id(&path)], &[], Duration::ZERO).unwrap();
    assert_eq!(walk.hidden(), Some(&Blind::Hidden), "hidepid=1 lists it and refuses its files");
}

#[test]
fn a_process_is_known_to_live_by_its_start() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(dir.path());
    let holder = Running::shell("<", &path);
    let table = table();
    let found = table.rested().holders(id(&path), Duration::ZERO).unwrap();
    let (pid, start) = (holder.pid(), found[0].start_ticks);
    assert_eq!(table.lives(pid, start), Some(true));
    assert_eq!(table.lives(pid, start + 1), Some(false), "another process has its pid");
    drop(holder);
    assert_eq!(table.lives(pid, start), Some(false));
    let fake = Fake::new();
    fs::create_dir_all(fake.dir.path().join("7/stat")).unwrap();
    assert_eq!(fake.table().lives(7, start), None, "it could not be asked");
}

#[test]
fn another_procfs_is_read_by_our_own_parsers() {
    let fake = Fake::new();
    let path = database(fake.dir.path());
    let process =
        fake.process(1, "python", 0, "/venv/bin/python /venv/bin/chroma run --path /data");
    fs::create_dir(process.join("fd")).unwrap();
    symlink(&path, process.join("fd/9")).unwrap();
    fs::write(fake.dir.path().join("stat"), "cpu 1\nbtime 1000\n").unwrap();
    fs::write(process.join("statm"), "9 7 1\n").unwrap();
    fs::write(process.join("limits"), "Max open files 77 99 files\n").unwrap();
    let table = fake.table();
    let holders = table.rested().holders(id(&path), Duration::ZERO).unwrap();
    let [holder] = &*holders else { panic!("{holders:?}") };
    assert!(holder.server && holder.writes);
    assert_eq!((holder.uid, holder.gids.as_slice(), holder.open_descriptors), (5, &[6, 7][..], 1));
    assert_eq!(holder.started, Timestamp::from_secs(1001));
    let got = table.attributes(holder).unwrap();
    assert_eq!((got.cpu_seconds, got.max_descriptors), (0.03, Some(77)));
    assert_eq!(got.resident_bytes, 7 * rustix::param::page_size() as u64);
}

#[test]
fn what_is_no_procfs_is_an_error_not_an_empty_host() {
    let dir = tempfile::tempdir().unwrap();
    let path = database(dir.path());
    let empty = ProcessTable::new(dir.path().to_owned());
    assert!(matches!(empty.holders(id(&path), Duration::ZERO), Err(CollectError::NoProcfs { .. })));
    let missing = ProcessTable::new(dir.path().join("no"));
    assert!(matches!(
        missing.holders(id(&path), Duration::ZERO),
        Err(CollectError::Unreadable { .. })
    ));
}

/// Needs the right to make mount namespaces; `tests/run` asks for the feature and has it.
#[test]
#[cfg_attr(not(feature = "e2e"), ignore = "needs root: run with --features e2e")]
fn a_holder_in_another_mount_namespace_is_found_and_its_deleted_file_named() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    fs::create_dir(root.join("srv")).unwrap();
    fs::create_dir(root.join("data")).unwrap();
    let path = database(&root.join("srv"));
    let script = "mount --bind \"$1/srv\" \"$1/data\" && exec 3<>\"$1/data/chroma.sqlite3\"; echo ready; read end";
    let holder = Running::start("unshare", &["-m", "sh", "-c", script, "sh"], &root);
    let (table, file) = (table(), id(&path));
    let holders = table.rested().holders(file, Duration::ZERO).unwrap();
    assert_eq!(pids(&holders), [holder.pid()]);
    assert!(!root.join("data/chroma.sqlite3").exists(), "the bind mount is not ours");

    fs::remove_file(&path).unwrap();
    let walk = table.rested().walk(&[], &[file.device], Duration::ZERO).unwrap();
    let deleted = walk.deleted().iter().find(|deleted| deleted.file == file).unwrap();
    assert_eq!(deleted.path, root.join("data/chroma.sqlite3"), "the name that the holder knows");
    assert!(table.was_named(deleted, &path));
    assert!(!table.was_named(deleted, &root.join("data/chroma.sqlite3")), "ours is another place");
}
