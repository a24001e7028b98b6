//! The first promise, proved from outside: every system call of a serving exporter is written down by `strace` while a
//! real Chroma works on the directory under load. Nothing is opened for writing, created, renamed, changed or deleted
//! there, no lock but a short shared one is taken, none is left, and Chroma's data are whole at the end.

use crate::support::{self, Exporter, ROOMY_FILE, chroma};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// "For minutes", and long enough for every collector's slow tier to run several times at the paces below.
const LOAD_SECONDS: u64 = 120;

const CALLS: &str = "openat,open,creat,openat2,unlink,unlinkat,rename,renameat,renameat2,mkdir,mkdirat,rmdir,link,linkat,\
    symlink,symlinkat,truncate,ftruncate,fallocate,chmod,fchmod,fchmodat,chown,fchown,fchownat,lchown,utimensat,\
    setxattr,lsetxattr,fsetxattr,removexattr,lremovexattr,fremovexattr,mknod,mknodat,write,pwrite64,writev,pwritev,fcntl,flock,\
    mmap,copy_file_range,sendfile,splice,utime,utimes,futimesat,?pwritev2,?fchmodat2,?setxattrat,?removexattrat,?io_uring_setup";

/// What a path begins with that leads to a watched directory without saying so: SQLite is given such a one.
const ELSEWHERE: [&str; 2] = ["/proc/self/fd/", "/proc/thread-self/fd/"];

#[test]
fn nothing_is_written_locked_for_long_or_deleted_beside_a_busy_chroma() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("store");
    fs::create_dir(&dir).unwrap();
    let server = chroma::Server::start("1.5.9", &dir);
    let load = server.start_load(LOAD_SECONDS);

    // A journal that was left beside a database, all of which belongs to somebody else: SQLite opens that each time, and as root
    // would make it its own.
    let left = support::fixture("chroma-1.5.9-journal-left", scratch.path());
    for (entry, owner) in
        [("", 12_345), ("chroma.sqlite3", 12_345), ("chroma.sqlite3-journal", 54_321)]
    {
        std::os::unix::fs::chown(left.join(entry), Some(owner), Some(owner)).unwrap();
    }

    let config = scratch.path().join("config.yml");
    fs::write(&config, paces(&[&dir, &left], &scratch.path().join("state"))).unwrap();
    let exporter = Exporter::start(&["--config.file", config.to_str().unwrap()]);
    let trace = scratch.path().join("trace");
    let mut strace = Command::new("strace")
        .args(["-f", "-y", "-ttt", "-s", "0", "-e", &format!("trace={CALLS}"), "-o"])
        .arg(&trace)
        .args(["-p", &exporter.pid().to_string()])
        .stderr(Stdio::null())
        .spawn()
        .expect("strace");

    let ledger = load.wait_with_output().unwrap();
    assert!(ledger.status.success(), "the load failed");
    let page = exporter.wait_page("a success of every collector", support::SOON, |page| {
        let name = "chroma_exporter_collector_last_success_timestamp_seconds";
        ["disk", "integrity", "contents", "hnsw", "processes", "permissions", "backups"].iter().all(
            |collector| {
                let labels = [("store", "main"), ("collector", *collector)];
                page.has(name, &labels, |at| at > 0.0)
            },
        )
    });
    let alarms: Vec<_> =
        page.findings("main").into_iter().filter(|code| code != "headroom_low").collect();
    assert!(
        alarms.iter().all(|code| !code.starts_with("sqlite") && !code.starts_with("fts")),
        "{alarms:?}"
    );

    assert!(exporter.stop().success());
    assert!(strace.wait().unwrap().success() || trace.exists());
    let calls = fs::read_to_string(&trace).unwrap();
    let held = judge(&calls, &dir, 50);
    assert!(!held.is_empty(), "the trace shows no lock");
    assert!(!judge(&calls, &left, 50).is_empty(), "the trace shows no lock");
    let journal = fs::metadata(left.join("chroma.sqlite3-journal")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&journal), 54_321);
    let (usual, longest) = (held[held.len() / 2], held[held.len() - 1]);
    println!(
        "{} calls traced; {} shared locks, {usual:.4} s usually and {longest:.3} s at most",
        calls.lines().count(),
        held.len()
    );
    // The deadline of a statement on a live file is 0.25 s. A machine that stands still makes one lock long, or a few of them,
    // but not the usual one; and none is forgotten.
    assert!(
        usual < 0.5 && longest < 30.0,
        "locks were held for {usual} s usually, {longest} s once"
    );

    let locks = fs::read_to_string("/proc/locks").unwrap();
    assert!(!locks.contains(&format!(" {} ", strace.id())), "{locks}");
    server.verify(&ledger.stdout);
    drop(server);
    let sound = Command::new("sqlite3")
        .arg(dir.join("chroma.sqlite3"))
        .arg("PRAGMA integrity_check")
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&sound.stdout).trim(), "ok");
}

#[test]
fn a_backup_changes_nothing_beside_a_busy_chroma() {
    let scratch = tempfile::tempdir().unwrap();
    let (dir, to) = (scratch.path().join("store"), scratch.path().join("backups"));
    for dir in [&dir, &to] {
        fs::create_dir(dir).unwrap();
    }
    let server = chroma::Server::start("1.5.9", &dir);
    let load = server.start_load(20);
    let mut made = 0;
    while made < 4 {
        let trace = scratch.path().join("trace");
        let form = if made % 2 == 0 { "archive" } else { "directory" };
        let output = Command::new("strace")
            .args(["-f", "-y", "-ttt", "-s", "0", "-e", &format!("trace={CALLS}"), "-o"])
            .arg(&trace)
            .arg(support::binary())
            .args(["backup", "--form", form, "--config.file"])
            .args([Path::new(ROOMY_FILE), Path::new("--to"), &to, &dir])
            .output()
            .expect("strace");
        let text = String::from_utf8_lossy(&output.stdout);
        // Before its first record there is no database.
        if text.contains("no directory of Chroma") {
            continue;
        }
        assert!(output.status.success(), "{text}");
        // Its locks are those of the copy alone, which end another way than those that the judge measures.
        judge(&fs::read_to_string(&trace).unwrap(), &dir, 5);
        made += 1;
    }
    let ledger = load.wait_with_output().unwrap();
    assert!(ledger.status.success(), "the load failed");
    server.verify(&ledger.stdout);
}

/// Every tier as often as the configuration allows.
fn paces([dir, left]: &[&Path; 2], state: &Path) -> String {
    format!(
        "stores:\n  - name: main\n    path: {}\n    backups: [\"{}/nothing*\"]\n  - name: left\n    path: {}\nstate:\n  dir: {}\ncollect:\n  interval: 1s\n  \
         quick_check_interval: 10s\n  full_check_interval: 15s\n  contents_interval: 1s\n  permissions_interval: 5s\n  backups_interval: 5s\n",
        dir.display(),
        dir.parent().unwrap().display(),
        left.display(),
        state.display()
    )
}

/// The lines of the trace, each call in one: `strace` cuts one that ends after another thread has called something.
fn whole(trace: &str) -> Vec<String> {
    let mut cut: BTreeMap<&str, &str> = BTreeMap::new();
    let mut lines = Vec::new();
    for line in trace.lines() {
        let mut words = line.split_whitespace();
        let (thread, at) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if let Some(begin) = line.strip_suffix("<unfinished ...>") {
            cut.insert(thread, begin);
        } else if let Some((_, end)) = line.split_once(" resumed>") {
            // One that was under way when strace came has no beginning.
            let Some(begin) = cut.remove(thread) else { continue };
            let call = begin.split_whitespace().skip(2).collect::<Vec<_>>().join(" ");
            // It counts from when it has happened.
            lines.push(format!("{thread} {at} {call}{end}"));
        } else {
            lines.push(line.to_owned());
        }
    }
    lines.extend(cut.into_values().map(str::to_owned));
    lines
}

/// Whether a call is about the directory.
fn concerns(line: &str, dir: &str) -> bool {
    line.contains(dir) || ELSEWHERE.iter().any(|way| line.contains(way))
}

/// What a call may change of the directory, if anything: by the words of `strace`.
fn may_change(line: &str) -> bool {
    let call = line.split_whitespace().nth(2).and_then(|word| word.split('(').next());
    match call.unwrap_or_default() {
        "openat" | "open" | "openat2" => {
            ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_APPEND", "O_TMPFILE"]
                .iter()
                .any(|flag| line.contains(flag))
        }
        "fcntl" if line.contains("F_SETLK") || line.contains("F_OFD_SETLK") => {
            !(line.contains("F_RDLCK") || line.contains("F_UNLCK"))
        }
        "fcntl" | "+++" | "---" => false,
        "mmap" => line.contains("PROT_WRITE") && !line.contains("MAP_PRIVATE"),
        _ => true,
    }
}

/// Reads the trace; panics at the first call that could harm, gives the times for which shared locks were held, sorted.
fn judge(trace: &str, dir: &Path, opens_min: u32) -> Vec<f64> {
    let dir = dir.to_str().unwrap();
    let mut since: BTreeMap<PathBuf, f64> = BTreeMap::new();
    let mut held = Vec::new();
    let mut reads = 0;
    for line in whole(trace).iter().filter(|line| concerns(line, dir)) {
        let mut words = line.split_whitespace();
        let _thread = words.next();
        let Some(at) = words.next().and_then(|word| word.parse::<f64>().ok()) else { continue };
        let call = words.next().and_then(|word| word.split('(').next()).unwrap_or_default();
        assert!(!may_change(line), "a call that may change something: {line}");
        match call {
            "openat" | "open" | "openat2" => reads += 1,
            "fcntl" if line.contains("F_SETLK") || line.contains("F_OFD_SETLK") => {
                let file = PathBuf::from(
                    line.split('<').nth(1).unwrap_or_default().split('>').next().unwrap(),
                );
                // The range of the SHARED lock; the other ones are asked for on the way to it, and may be refused.
                if line.contains("F_RDLCK") {
                    if !line.contains("l_start=1073741826") || line.contains("= -1") {
                        continue;
                    }
                    since.entry(file).or_insert(at);
                } else if line.contains("l_start=0, l_len=0")
                    && let Some(began) = since.remove(&file)
                {
                    held.push(at - began);
                }
            }
            _ => {}
        }
    }
    assert!(reads > opens_min, "the trace shows only {reads} opens: was the program at work?");
    held.sort_by(f64::total_cmp);
    held
}

/// The judge itself: a program does one thing in the directory, and each is seen, whichever way it is named.
#[test]
fn every_call_that_changes_something_is_seen() {
    const PROLOGUE: &str = "import os, sys, mmap, fcntl\n\
        d = os.open(sys.argv[1], os.O_RDONLY)\n\
        here, there = sys.argv[1] + '/', sys.argv[2] + '/'\n\
        way = '/proc/self/fd/%d/' % d\n";
    const READS: [&str; 5] = [
        "os.stat(here + 'a'); open(here + 'a').read(); os.listdir(here)",
        "os.read(os.open(way + 'a', os.O_RDONLY), 9)",
        "mmap.mmap(os.open(here + 'a', os.O_RDONLY), 1, prot=mmap.PROT_READ)",
        "fcntl.lockf(os.open(here + 'a', os.O_RDONLY), fcntl.LOCK_SH)",
        "open(there + 'x', 'w').write('y'); os.chmod(there + 'x', 0o600)",
    ];
    const CHANGES: [&str; 36] = [
        "os.chmod(here + 'a', 0o600)",
        "os.chmod(way + 'a', 0o600)",
        "os.chmod('a', 0o600, dir_fd=d)",
        "os.chmod(here, 0o700)",
        "os.fchmod(d, 0o700)",
        "os.fchmod(os.open(here + 'a', os.O_RDONLY), 0o600)",
        "os.chown(here + 'a', 1, 1)",
        "os.chown(way + 'a', 1, 1)",
        "os.lchown(here + 'a', 1, 1)",
        "os.fchown(os.open(here + 'a', os.O_RDONLY), 0, 0)",
        "os.chown('a', 0, 0, dir_fd=d, follow_symlinks=False)",
        "os.unlink(here + 'a')",
        "os.unlink(way + 'a')",
        "os.unlink('a', dir_fd=d)",
        "os.rename(here + 'a', there + 'a')",
        "os.rename(there + 'b', here + 'b')",
        "os.rename('a', 'c', src_dir_fd=d, dst_dir_fd=d)",
        "os.rename(way + 'a', way + 'c')",
        "os.link(here + 'a', there + 'l')",
        "os.symlink('x', here + 's')",
        "os.symlink('x', 's', dir_fd=d)",
        "os.mkdir(here + 'm')",
        "os.mkdir('m', dir_fd=d)",
        "os.rmdir(here + 'e')",
        "os.mkfifo(here + 'f')",
        "os.truncate(here + 'a', 0)",
        "os.utime(here + 'a')",
        "os.utime(d)",
        "os.open(here + 'a', os.O_RDWR)",
        "os.open('n', os.O_RDONLY | os.O_CREAT, dir_fd=d)",
        "os.open(way + 'n', os.O_WRONLY | os.O_CREAT)",
        "os.open(here, os.O_TMPFILE | os.O_RDWR)",
        "fcntl.flock(os.open(here + 'a', os.O_RDONLY), fcntl.LOCK_EX)",
        "fcntl.lockf(os.open(here + 'a', os.O_RDWR), fcntl.LOCK_EX)",
        "os.setxattr(here + 'a', 'user.x', b'y')",
        "os.removexattr(here + 'a', 'user.x')",
    ];
    let scratch = tempfile::tempdir().unwrap();
    let seen = |act: &str| {
        let (here, there) = (scratch.path().join("here"), scratch.path().join("there"));
        for dir in [&here, &there] {
            drop(fs::remove_dir_all(dir));
            fs::create_dir_all(dir).unwrap();
        }
        for file in [here.join("a"), there.join("b")] {
            fs::write(file, "text").unwrap();
        }
        fs::create_dir(here.join("e")).unwrap();
        let trace = scratch.path().join("trace");
        // What the filesystem refuses is asked all the same.
        let script = format!("{PROLOGUE}try:\n    {act}\nexcept OSError:\n    pass\n");
        let status = Command::new("strace")
            .args(["-f", "-y", "-ttt", "-s", "0", "-e", &format!("trace={CALLS}"), "-o"])
            .arg(&trace)
            .args(["python3", "-I", "-S", "-c", &script])
            .args([&here, &there])
            .status()
            .expect("strace");
        assert!(status.success(), "{act}");
        let calls = whole(&fs::read_to_string(&trace).unwrap());
        let here = here.to_str().unwrap();
        calls.into_iter().filter(|line| concerns(line, here)).any(|line| may_change(&line))
    };
    for act in READS {
        assert!(!seen(act), "this changes nothing: {act}");
    }
    for act in CHANGES {
        assert!(seen(act), "nobody saw this: {act}");
    }
}
