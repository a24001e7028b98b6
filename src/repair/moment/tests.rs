use std::{collections::BTreeSet, os::unix::fs::FileExt, sync::Arc};

use parking_lot::Mutex;

use super::{folders::BOUND_MIN_BYTES, *};
use crate::{
    config::{Config, Store},
    host::Host,
};

const FOLDER: &str = "0e6c1f6a-3b7d-4c52-9a41-7d2f8b90c3e5";

/// A store whose files say of which flush they are, the database included.
fn store(dir: &Path) {
    fs::create_dir(dir.join(FOLDER)).unwrap();
    let sql = format!(
        "CREATE TABLE segments(id TEXT, scope TEXT); CREATE TABLE max_seq_id(seq_id INTEGER);
         INSERT INTO segments VALUES('{FOLDER}', 'VECTOR'), ('{FOLDER}', 'METADATA'), ('../x', 'VECTOR');
         INSERT INTO max_seq_id VALUES(0);"
    );
    Connection::open(dir.join(DATABASE_FILE)).unwrap().execute_batch(&sql).unwrap();
    flush(dir);
}

/// As Chroma does it: the files, the pickle, the position.
fn flush(dir: &Path) {
    let database = Connection::open(dir.join(DATABASE_FILE)).unwrap();
    let number = position(&database) + 1;
    for name in INDEX_FILES {
        fs::write(dir.join(FOLDER).join(name), number.to_string()).unwrap();
    }
    database.execute("UPDATE max_seq_id SET seq_id = ?1", [number]).unwrap();
}

fn position(database: &Connection) -> i64 {
    database.query_row("SELECT seq_id FROM max_seq_id", [], |row| row.get(0)).unwrap()
}

/// Flushes when these files are copied, counted from the first of all.
struct Flushes<'a> {
    dir: &'a Path,
    at: BTreeSet<usize>,
    asked: Mutex<usize>,
}

impl Known for Flushes<'_> {
    fn put(&self, _: &str, _: &File, _: &Path) -> io::Result<bool> {
        let mut asked = self.asked.lock();
        if self.at.contains(&asked) {
            flush(self.dir);
        }
        *asked += 1;
        Ok(false)
    }

    fn forget(&self, _: &str) {}
}

fn context(dir: &Path) -> Context {
    let config = Arc::new(Config::default());
    let store = Arc::new(Store::new("main", dir));
    Context::new(&config, &store, &Arc::new(Host::new(&config)))
}

#[test]
fn an_index_that_is_flushed_meanwhile_is_copied_again_with_the_database() {
    for at in [&[][..], &[0], &[1], &[4], &[0, 5], &[2, 7, 9], &[4, 9, 14]] {
        let scratch = tempfile::tempdir().unwrap();
        let (dir, into) = (scratch.path().join("store"), scratch.path().join("copy"));
        for dir in [&dir, &into] {
            fs::create_dir(dir).unwrap();
        }
        store(&dir);
        let known = Flushes { dir: &dir, at: at.iter().copied().collect(), asked: Mutex::new(0) };
        let steps = Steps::default();
        let copy_options = CopyOptions { used_ratio_max: 1.0, steps: &steps };
        let taken = take(&context(&dir), &into, Some(&known), copy_options).unwrap();
        let want = position(&Connection::open(into.join(DATABASE_FILE)).unwrap());
        assert_eq!(
            usize::try_from(want).unwrap(),
            1 + at.len(),
            "{at:?}: a flush was not waited for"
        );
        for name in INDEX_FILES {
            let found = fs::read_to_string(into.join(FOLDER).join(name)).unwrap();
            assert_eq!(found, want.to_string(), "{at:?}: {name} is of another flush");
        }
        assert_eq!(taken.tries > 1, !at.is_empty(), "{at:?}");
        let files: BTreeSet<String> =
            INDEX_FILES.iter().map(|name| format!("{FOLDER}/{name}")).collect();
        let found: BTreeSet<String> = taken.files.into_iter().collect();
        assert_eq!(found, &files | &BTreeSet::from([DATABASE_FILE.to_owned()]));
    }
}

#[test]
fn a_file_that_has_run_away_is_cut_where_its_header_ends_it_and_holes_stay_holes() {
    use std::os::unix::fs::MetadataExt;
    let scratch = tempfile::tempdir().unwrap();
    let (dir, into) = (scratch.path().join("store"), scratch.path().join("copy"));
    for dir in [&dir, &into] {
        fs::create_dir(dir).unwrap();
    }
    store(&dir);
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chroma-1.5.9");
    let header = fixture.join("c2acc258-3dd5-40e9-927a-253f486f8565/header.bin");
    fs::copy(header, dir.join(FOLDER).join("header.bin")).unwrap();
    let links = File::options().write(true).open(dir.join(FOLDER).join("link_lists.bin")).unwrap();
    links.set_len(1 << 40).unwrap();
    links.write_all_at(b"far out", (1 << 40) - 7).unwrap();
    let steps = Steps::default();
    let copy_options = CopyOptions { used_ratio_max: 1.0, steps: &steps };
    take(&context(&dir), &into, None, copy_options).unwrap();
    let copy = fs::metadata(into.join(FOLDER).join("link_lists.bin")).unwrap();
    assert_eq!(copy.len(), BOUND_MIN_BYTES);
    // A hole of less than a piece is read and written.
    assert!(copy.blocks() < 10_000, "{} blocks", copy.blocks());
}

#[test]
fn what_is_no_store_is_told_and_a_stop_ends_it() {
    let scratch = tempfile::tempdir().unwrap();
    let (dir, into) = (scratch.path().join("store"), scratch.path().join("copy"));
    for dir in [&dir, &into] {
        fs::create_dir(dir).unwrap();
    }
    let steps = Steps::default();
    let copy_options = CopyOptions { used_ratio_max: 1.0, steps: &steps };
    let none = take(&context(&dir), &into, None, copy_options).map(|_| ()).unwrap_err();
    assert!(matches!(none, MomentError::NoDatabase { .. }), "{none}");
    store(&dir);
    steps.stop();
    let stopped = take(&context(&dir), &into, None, copy_options).map(|_| ()).unwrap_err();
    assert!(matches!(stopped, MomentError::Stopped), "{stopped}");
}
