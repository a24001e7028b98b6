use std::{
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use super::*;

fn database(dir: &Path) -> Database {
    let path = dir.join("chroma.sqlite3");
    Connection::open(&path)
        .unwrap()
        .execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES(1)")
        .unwrap();
    Database::new(path)
}

/// Whether this process holds a POSIX lock on the file.
fn locked(path: &Path) -> bool {
    let inode = format!(":{} ", std::fs::metadata(path).unwrap().ino());
    let me = format!(" {} ", std::process::id());
    let locks = std::fs::read_to_string("/proc/locks").unwrap();
    locks.lines().any(|line| line.contains(&inode) && line.contains(&me))
}

fn limits(stop: &AtomicBool) -> Limits<'_> {
    Limits {
        hold: Duration::from_millis(50),
        hold_unwaited: Duration::from_mins(1),
        stop,
        progress: None,
    }
}

/// A statement that never ends by itself.
const ENDLESS: &str =
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT count(*) FROM n, t";

fn endless(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row(ENDLESS, [], |row| row.get(0))
}

#[test]
fn closing_a_plain_descriptor_does_not_drop_the_lock_of_a_check() {
    let dir = tempfile::tempdir().unwrap();
    let database = database(dir.path());
    let mut check = database.connect().unwrap();
    let stop = AtomicBool::new(false);
    let timed = check.within(&limits(&stop), |connection| {
        let mut statement = connection.prepare("SELECT x FROM t")?;
        let mut rows = statement.query([])?;
        assert!(rows.next()?.is_some());
        assert!(locked(database.path()), "a statement under way holds a SHARED lock");
        for _ in 0..100 {
            drop(database.open_plain().unwrap());
            drop(database.connect().unwrap());
        }
        assert!(locked(database.path()), "the plain descriptors were kept aside");
        assert!(database.lock().kept.len() <= 2, "and used again");
        Ok(())
    });
    timed.result.unwrap();
    assert!(!locked(database.path()), "nothing is held between two statements");
    drop(check);
    assert!(database.lock().kept.is_empty());
}

/// A child that has the file open as `redirect` says until it is killed.
fn opener(path: &Path, redirect: &str, script: &str) -> std::process::Child {
    let script = format!("exec 3{redirect}\"$1\"; echo ready; {script}");
    let mut child = Command::new("sh")
        .args(["-c", &script, "sh"])
        .arg(path)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0; 6];
    io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut said).unwrap();
    child
}

/// That nobody writes, in time: a child that another test starts has what this process has open, for the moment until it
/// is the other program, and so a connection that made the database can outlive its closing.
fn nobody_writes(database: &Database) -> bool {
    let began = crate::clock::ticks();
    while database.writers().unwrap() != Some(false) {
        if began.elapsed() > Duration::from_mins(1) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

#[test]
fn the_kernel_tells_whether_anybody_has_it_open_for_writing() {
    let dir = tempfile::tempdir().unwrap();
    let database = database(dir.path());
    assert!(nobody_writes(&database));
    let connection = database.connect().unwrap();
    let plain = database.open_plain().unwrap();
    let mut reader = opener(database.path(), "<", "read end");
    assert!(nobody_writes(&database), "readers do not count, nor do we");
    let mut writer = opener(database.path(), "<>", "read end");
    assert_eq!(database.writers().unwrap(), Some(true));
    for child in [&mut reader, &mut writer] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(nobody_writes(&database), "its end is seen");
    drop((plain, connection));
    assert!(Database::new(dir.path().join("none")).writers().is_err());
}

/// Whoever opens the file while the question is under way waits, and the kernel sends a signal because of it that would end
/// this program.
#[test]
fn asking_who_writes_beside_somebody_who_opens_and_closes_it_harms_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let database = database(dir.path());
    let mut busy = opener(database.path(), "<", "while :; do : <>\"$1\"; done");
    let (mut free, mut held) = (0, 0);
    let began = crate::clock::ticks();
    while began.elapsed() < Duration::from_mins(1) && (free < 3_000 || held < 100) {
        match database.writers().unwrap() {
            Some(true) => held += 1,
            Some(false) => free += 1,
            None => panic!("the owner may ask"),
        }
    }
    assert!(busy.try_wait().unwrap().is_none(), "it goes on");
    busy.kill().unwrap();
    busy.wait().unwrap();
    assert!(free > 0 && held > 0, "both were met: {free} and {held}");
}

#[test]
fn the_connection_cannot_write() {
    let dir = tempfile::tempdir().unwrap();
    let database = database(dir.path());
    let stop = AtomicBool::new(false);
    let insert = |connection: &Connection| connection.execute_batch("INSERT INTO t VALUES(2)");
    let mut connection = database.connect().unwrap();
    assert!(matches!(
        connection.within(&limits(&stop), insert).result,
        Err(QueryError::Unreadable(_))
    ));
}

#[test]
fn what_is_no_database_file_is_told_without_a_hang() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("chroma.sqlite3");
    let database = Database::new(path.clone());
    assert!(matches!(database.connect(), Err(QueryError::File(_))));
    std::fs::write(&path, b"").unwrap();
    assert!(matches!(database.connect(), Err(QueryError::Empty)));
    std::fs::remove_file(&path).unwrap();
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    assert!(database.open_plain().is_ok());
    assert!(matches!(database.connect(), Err(QueryError::NotRegular("a FIFO"))));
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(matches!(database.connect(), Err(QueryError::NotRegular("a directory"))));
    // Nor what stands in the place of its journal.
    std::fs::remove_dir(&path).unwrap();
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE t(x)").unwrap();
    assert!(database.connect().is_ok());
    for suffix in ["-journal", "-wal"] {
        let beside = dir.path().join(format!("chroma.sqlite3{suffix}"));
        assert!(Command::new("mkfifo").arg(&beside).status().unwrap().success());
        let error = database.connect().unwrap_err();
        let QueryError::File(source) = &error else { panic!("{error:?}") };
        assert!(source.to_string().ends_with("is a FIFO"), "{source}");
        std::fs::remove_file(&beside).unwrap();
    }
}

#[test]
fn a_database_in_wal_mode_is_not_opened_and_gets_no_files_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let database = database(dir.path());
    let writer = Connection::open(database.path()).unwrap();
    writer.pragma_update(None, "journal_mode", "wal").unwrap();
    drop(writer);
    assert!(matches!(database.connect(), Err(QueryError::Wal)));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    // SQLite plays a log whatever the header says of the mode, and makes its files for it.
    let file = File::options().write(true).open(database.path()).unwrap();
    file.write_all_at(&[1, 1], 18).unwrap();
    drop(database.connect().unwrap());
    for (log, opens) in [(&b""[..], true), (b"no log at all", false)] {
        std::fs::write(dir.path().join("chroma.sqlite3-wal"), log).unwrap();
        assert_eq!(database.connect().is_ok(), opens, "{log:?}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
}

#[test]
fn a_statement_ends_when_its_time_is_over_or_nobody_wants_it() {
    let dir = tempfile::tempdir().unwrap();
    let database = database(dir.path());
    let mut connection = database.connect().unwrap();
    let stop = AtomicBool::new(false);
    let short = Limits { hold_unwaited: Duration::from_millis(50), ..limits(&stop) };
    let timed = connection.within(&short, endless);
    let abort = Abort::Deadline(Duration::from_millis(50));
    assert!(matches!(timed.result, Err(QueryError::Aborted(found)) if found == abort));
    // Stopped as late as leaves time to stop, and not before.
    assert!(timed.held >= Duration::from_millis(48));
    std::thread::scope(|scope| {
        scope.spawn(|| stop.store(true, Ordering::Relaxed));
        let timed = connection.within(&limits(&stop), endless);
        assert!(matches!(timed.result, Err(QueryError::Aborted(Abort::Stopped))));
    });
    // The connection is as good as new afterwards.
    let stop = AtomicBool::new(false);
    let one =
        |connection: &Connection| connection.query_row("SELECT x FROM t", [], |row| row.get(0));
    assert_eq!(connection.within::<i64>(&limits(&stop), one).result.unwrap(), 1);
}

/// A writer in another process: locks of this one would not be seen as foreign.
fn writer_process(path: &Path) -> std::process::Child {
    Command::new("sqlite3")
        .arg(path)
        .arg(".timeout 60000")
        .arg("INSERT INTO t VALUES(3)")
        .spawn()
        .unwrap()
}

#[test]
#[cfg_attr(not(feature = "e2e"), ignore = "needs sqlite3: run with --features e2e")]
fn a_long_statement_makes_way_for_a_writer_that_waits() {
    let dir = tempfile::tempdir().unwrap();
    let database = database(dir.path());
    let mut connection = database.connect().unwrap();
    let stop = AtomicBool::new(false);
    let mut child = None;
    let timed = connection.within(&limits(&stop), |connection| {
        connection.query_row("SELECT x FROM t", [], |_| Ok(()))?;
        child = Some(writer_process(database.path()));
        endless(connection)
    });
    assert!(matches!(timed.result, Err(QueryError::Aborted(Abort::WriterWaiting))));
    assert!(child.unwrap().wait().unwrap().success(), "the writer could write");
    let stop = AtomicBool::new(false);
    let count = |connection: &Connection| {
        connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0))
    };
    assert_eq!(connection.within::<i64>(&limits(&stop), count).result.unwrap(), 2);
}

#[test]
#[cfg_attr(not(feature = "e2e"), ignore = "needs sqlite3: run with --features e2e")]
fn a_writer_of_another_process_is_seen_and_answers_busy() {
    let dir = tempfile::tempdir().unwrap();
    let database = database(dir.path());
    let plain = database.open_plain().unwrap();
    assert!(!plain.writer().unwrap());
    let mut child = Command::new("sqlite3")
        .arg(database.path())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::io::Write::write_all(&mut stdin, b"BEGIN EXCLUSIVE;\n.print ready\n").unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut io::BufReader::new(child.stdout.take().unwrap()), &mut line)
        .unwrap();
    assert_eq!(line, "ready\n");
    assert!(plain.writer().unwrap());
    let stop = AtomicBool::new(false);
    let timed = database.connect().unwrap().within(&limits(&stop), endless);
    assert!(matches!(timed.result, Err(QueryError::Busy)));
    drop(stdin);
    assert!(child.wait().unwrap().success());
    assert!(!plain.writer().unwrap());
}
