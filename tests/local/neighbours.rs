//! A store that could be read for hours, or that would fill the memory, beside others: they get their checks, and the program
//! stays small.

use std::{
    fs,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::support::{Exporter, ROOMY_FILE, SOON, binary, copy_tree, fixture, wait};
use rusqlite::Connection;

/// What is done to a store of Chroma.
type Change = fn(&Path);

/// As if somebody had done it by hand: tables that SQLite protects, too.
fn sql(dir: &Path, sql: &str) {
    let connection = Connection::open(dir.join("chroma.sqlite3")).unwrap();
    connection.execute_batch("PRAGMA writable_schema=ON; PRAGMA synchronous=OFF").unwrap();
    connection.execute_batch(sql).unwrap();
}

fn segment(dir: &Path) -> PathBuf {
    let mut folders: Vec<PathBuf> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.retain(|path| path.join("link_lists.bin").exists());
    folders.sort();
    folders.remove(0)
}

/// The most reported fault of Chroma: the file is as large as the disk or larger, and has hardly a block.
fn sparse_links(dir: &Path) {
    let path = segment(dir).join("link_lists.bin");
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_len(1 << 40).unwrap();
    assert!(file.metadata().unwrap().blocks() < 10_000, "this filesystem has no holes");
}

/// Elements without end, and nothing in any of them.
fn sparse_elements(dir: &Path) {
    let folder = segment(dir);
    let header = folder.join("header.bin");
    let bytes = fs::read(&header).unwrap();
    let element = u64::from_le_bytes(*bytes[28..].first_chunk().unwrap());
    let elements = (1_u64 << 40) / element;
    let elements = elements.min(u64::from(u32::MAX));
    let file = fs::File::options().write(true).open(header).unwrap();
    file.write_all_at(&elements.to_le_bytes(), 12).unwrap();
    file.write_all_at(&elements.to_le_bytes(), 20).unwrap();
    for name in ["data_level0.bin", "link_lists.bin", "length.bin"] {
        let file = fs::File::options().write(true).open(folder.join(name)).unwrap();
        file.set_len(elements * element).unwrap();
    }
}

const ENDLESS: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i";

fn endless_content(dir: &Path) {
    let name = "embedding_fulltext_search_content";
    sql(dir, &format!("DELETE FROM sqlite_schema WHERE name='{name}'"));
    sql(dir, &format!("CREATE VIEW {name} AS {ENDLESS} AS id, 'text' AS c0 FROM n"));
}

fn endless_fulltext(dir: &Path) {
    let name = "embedding_fulltext_search";
    sql(dir, &format!("DELETE FROM sqlite_schema WHERE name='{name}'"));
    sql(dir, &format!("CREATE VIEW {name} AS {ENDLESS} AS rowid, 'text' AS string_value FROM n"));
}

fn endless_everything(dir: &Path) {
    for name in ["embeddings", "embedding_metadata", "embeddings_queue", "max_seq_id", "segments"] {
        sql(dir, &format!("DELETE FROM sqlite_schema WHERE tbl_name='{name}'"));
        sql(
            dir,
            &format!("CREATE VIEW {name} AS {ENDLESS} AS id, i AS seq_id, 'x' AS topic FROM n"),
        );
    }
}

fn many_tables(dir: &Path) {
    let tables: Vec<String> =
        (0..20_000).map(|n| format!("CREATE TABLE t{n}(a, b UNIQUE);")).collect();
    sql(dir, &format!("BEGIN; {} COMMIT", tables.concat()));
}

#[test]
fn fifty_stores_are_checked_beside_one_that_could_be_read_for_hours() {
    let changes: [(&str, Change); 6] = [
        ("sparse_links", sparse_links),
        ("sparse_elements", sparse_elements),
        ("endless_content", endless_content),
        ("endless_fulltext", endless_fulltext),
        ("endless_everything", endless_everything),
        ("many_tables", many_tables),
    ];
    let scratch = tempfile::tempdir().unwrap();
    let healthy = fixture("chroma-1.5.9", scratch.path());
    let mut words = Vec::new();
    let mut add = |name: &str, change: Change| {
        let dir = scratch.path().join(name);
        copy_tree(&healthy, &dir);
        change(&dir);
        words.extend(["--store.path".to_owned(), format!("{name}={}", dir.display())]);
    };
    // First, so that they ask for their turns first.
    for (name, change) in changes {
        add(name, change);
    }
    for n in 0..50 {
        add(&format!("healthy{n}"), |_| {});
    }
    words.extend(["--state.dir".to_owned(), scratch.path().join("state").display().to_string()]);
    let exporter = Exporter::start(&words);
    wait("every store to be looked at", SOON * 5, || {
        let page = exporter.page();
        let whole = |check: &str| {
            let labels = [("check", check), ("state", "ok")];
            let ok = page.all("chroma_integrity_state", &labels);
            ok.filter(|(series, value)| series.contains("\"healthy") && *value > 0.0).count()
        };
        let done = ["quick", "full", "decay"].map(whole);
        // What comes to no verdict says so; what is never looked at says nothing.
        let waits: Vec<&str> = changes
            .iter()
            .map(|(name, _)| *name)
            .filter(|name| {
                let labels = [("store", *name), ("check", "full")];
                page.get("chroma_integrity_last_run_timestamp_seconds", &labels).is_none()
            })
            .collect();
        if done == [50; 3] && waits.is_empty() {
            return Ok(());
        }
        Err(format!("checked: {done:?}; without a full check: {waits:?}"))
    });
    let page = exporter.page();
    for (name, _) in changes {
        let of_store = [("store", name)];
        let failing = page.all("chroma_exporter_collector_success", &of_store);
        let failing = failing.filter(|(_, value)| *value == 0.0).count();
        let reported = !page.findings(name).is_empty() || failing > 0 || name == "many_tables";
        assert!(reported, "{name} is called whole");
    }
    assert!(exporter.stop().success());
}

/// What waits for its first check is a list, not a thread for each store.
#[test]
fn hundreds_of_stores_that_wait_for_their_checks_need_few_threads() {
    const STORES: usize = 200;
    let scratch = tempfile::tempdir().unwrap();
    let healthy = fixture("chroma-1.5.9", scratch.path());
    let mut words = Vec::new();
    for n in 0..STORES {
        let dir = scratch.path().join(format!("store{n}"));
        copy_tree(&healthy, &dir);
        words.extend(["--store.path".to_owned(), format!("store{n}={}", dir.display())]);
    }
    words.extend(["--state.dir".to_owned(), scratch.path().join("state").display().to_string()]);
    let exporter = Exporter::start(&words);
    let tasks = format!("/proc/{}/task", exporter.pid());
    let mut most = Vec::new();
    wait("every store to have its first full check", SOON * 10, || {
        let names = fs::read_dir(&tasks).unwrap().filter_map(|task| {
            // It may have ended meanwhile.
            fs::read_to_string(task.ok()?.path().join("comm")).ok()
        });
        let names: Vec<String> = names.map(|name| name.trim().to_owned()).collect();
        if names.len() > most.len() {
            most = names;
        }
        let page = exporter.page();
        let ran = page.all("chroma_integrity_last_run_timestamp_seconds", &[("check", "full")]);
        let ran = ran.count();
        if ran == STORES { Ok(()) } else { Err(format!("{ran} of {STORES}")) }
    });
    most.sort();
    // A machine that is busy lets threads live longer; one for each store would be two hundred.
    assert!(most.len() <= 150, "{} threads: {most:?}", most.len());
    assert!(exporter.stop().success());
}

/// The most memory that a run of `check` takes, in bytes.
fn peak_of_check(dir: &Path) -> (u64, String) {
    let mut child = Command::new(binary())
        .args(["check", "--output", "json", "--state.dir", "", "--store.path"])
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut stdout = child.stdout.take().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        std::io::Read::read_to_string(&mut stdout, &mut text).unwrap();
        text
    });
    let mut peak = 0;
    let mut waited = std::time::Duration::ZERO;
    while child.try_wait().unwrap().is_none() {
        peak = peak.max(high_water(&status).unwrap_or(0));
        let pause = std::time::Duration::from_millis(5);
        std::thread::sleep(pause);
        waited += pause;
        assert!(waited < SOON * 5, "the check of {} goes on and on", dir.display());
    }
    (peak, reader.join().unwrap())
}

fn high_water(status: &str) -> Option<u64> {
    let text = fs::read_to_string(status).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()? << 10)
}

fn long_document(dir: &Path) {
    let connection = Connection::open(dir.join("chroma.sqlite3")).unwrap();
    let text = "what a long document this is ".repeat((40 << 20) / 29);
    for sql in [
        "UPDATE embedding_metadata SET string_value=?1 WHERE key='chroma:document' AND id=2",
        "UPDATE embedding_fulltext_search SET string_value=?1 WHERE rowid=2",
    ] {
        assert_eq!(connection.execute(sql, [&text]).unwrap(), 1);
    }
}

/// Columns that are computed when they are read, and values of half a gigabyte each.
fn generated(dir: &Path) {
    for (table, column) in [
        ("embeddings", "embedding_id"),
        ("embedding_metadata", "string_value"),
        ("embeddings_queue", "topic"),
        ("embeddings_queue", "metadata"),
        ("collections", "name"),
    ] {
        sql(dir, &format!("ALTER TABLE {table} RENAME COLUMN {column} TO before"));
        let value = "printf('%.*c', 500000000, 'x')";
        sql(dir, &format!("ALTER TABLE {table} ADD COLUMN {column} TEXT AS ({value}) VIRTUAL"));
        sql(dir, &format!("ALTER TABLE {table} RENAME COLUMN before TO before_{column}"));
    }
}

fn endless_values(dir: &Path) {
    for (name, columns) in [
        ("embeddings", "i AS id, v AS segment_id, v AS embedding_id, i AS seq_id"),
        ("embedding_metadata", "i AS id, v AS key, v AS string_value"),
        ("embeddings_queue", "i AS seq_id, v AS topic, v AS metadata, v AS vector, v AS encoding"),
    ] {
        sql(dir, &format!("DELETE FROM sqlite_schema WHERE tbl_name='{name}'"));
        let value = "printf('%.*c', 500000000, 'x') AS v";
        let rows = format!("SELECT i, {value} FROM ({ENDLESS} FROM n)");
        sql(dir, &format!("CREATE VIEW {name} AS SELECT {columns} FROM ({rows})"));
    }
}

/// Two million ids, as Chroma 0.6 writes them.
fn many_ids(dir: &Path) {
    const IDS: u32 = 2_000_000;
    let id = |n: u32| format!("id-{n:08}");
    let mut bytes = b"\x80\x04\x8c\x32chromadb.segment.impl.vector.local_persistent_hnsw\x94\x8c\x0ePersistentData\x94\x93\x94)\x81\x94}\x94(".to_vec();
    let name = |bytes: &mut Vec<u8>, name: &str| {
        bytes.extend([0x8c, u8::try_from(name.len()).unwrap()]);
        bytes.extend(name.as_bytes());
        bytes.push(0x94);
    };
    let number = |bytes: &mut Vec<u8>, number: u32| {
        bytes.push(b'J');
        bytes.extend(number.to_le_bytes());
    };
    name(&mut bytes, "dimensionality");
    number(&mut bytes, 3);
    name(&mut bytes, "total_elements_added");
    number(&mut bytes, IDS);
    // What was remembered so far: five values and these two names.
    name(&mut bytes, "id_to_label");
    bytes.extend(b"}\x94(");
    let first = 9;
    for n in 0..IDS {
        name(&mut bytes, &id(n));
        number(&mut bytes, n + 1);
    }
    bytes.push(b'u');
    name(&mut bytes, "label_to_id");
    bytes.extend(b"}\x94(");
    for n in 0..IDS {
        number(&mut bytes, n + 1);
        bytes.push(b'j');
        bytes.extend((first + n).to_le_bytes());
    }
    bytes.extend(b"uub.");
    fs::write(segment(dir).join("index_metadata.pickle"), bytes).unwrap();
}

#[test]
fn no_content_makes_the_program_large() {
    let scratch = tempfile::tempdir().unwrap();
    let healthy = fixture("chroma-1.5.9", scratch.path());
    let (idle, _) = peak_of_check(&healthy);
    let changes: [(&str, bool, Change); 4] = [
        ("a document of 40 MB", true, long_document),
        ("two million ids", false, many_ids),
        ("columns that are computed", false, generated),
        ("views without an end", false, endless_values),
    ];
    for (what, whole, change) in changes {
        let dir = scratch.path().join(what);
        copy_tree(&healthy, &dir);
        change(&dir);
        let (peak, said) = peak_of_check(&dir);
        let more = peak.saturating_sub(idle);
        assert!(more <= 64 << 20, "{what}: {} MiB more than {} MiB", more >> 20, idle >> 20);
        let document: serde_json::Value = serde_json::from_str(&said).unwrap();
        let store = &document["stores"][0];
        assert!(!said.contains("segment_metadata_"), "{what}: {said}");
        if whole {
            let full = &store["integrity"]["full"];
            assert_eq!(full, "ok", "{what}: {store:#}");
        } else {
            assert_ne!(store["status"], "ok", "{what}: {store:#}");
        }
        fs::remove_dir_all(dir).unwrap();
    }
}

/// The same for the exporter, which goes on: what a store had in memory while it was read counts, too.
#[test]
fn no_content_makes_the_exporter_large() {
    let scratch = tempfile::tempdir().unwrap();
    let healthy = fixture("chroma-1.5.9", scratch.path());
    let idle = peak_of_serve(&healthy, false);
    for (what, found, change) in [
        ("a document of 40 MB", false, long_document as Change),
        ("two million ids", true, many_ids),
    ] {
        let dir = scratch.path().join(what);
        copy_tree(&healthy, &dir);
        change(&dir);
        let peak = peak_of_serve(&dir, found);
        let more = peak.saturating_sub(idle);
        assert!(more <= 64 << 20, "{what}: {} MiB more than {} MiB", more >> 20, idle >> 20);
    }
}

/// The most memory that an exporter took until everything was read once, in bytes; `found` says that there is something to find.
fn peak_of_serve(dir: &Path, found: bool) -> u64 {
    let store = format!("--store.path=only={}", dir.display());
    let exporter = Exporter::start(&["--config.file", ROOMY_FILE, &store, "--state.dir", ""]);
    wait("everything to be read", SOON * 10, || {
        let page = exporter.page();
        let ran = |check: &str| {
            let labels = [("check", check)];
            page.get("chroma_integrity_last_run_timestamp_seconds", &labels).is_some()
        };
        let (full, decay) = (ran("full"), ran("decay"));
        let findings = page.findings("only");
        if full && decay && findings.is_empty() != found {
            return Ok(());
        }
        Err(format!("full {full}, decay {decay}, {findings:?}"))
    });
    let peak = high_water(&format!("/proc/{}/status", exporter.pid())).unwrap();
    assert!(exporter.stop().success());
    peak
}
