//! What can be seen with one process; writers of their own stand in `tests/e2e/view.rs`.

use std::{fs, os::unix::fs::FileExt, path::PathBuf};

use super::*;

struct Place {
    _dir: tempfile::TempDir,
    path: PathBuf,
    places: Places,
}

fn place(sql: &str) -> Place {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    fs::create_dir(&store).unwrap();
    let path = store.join("chroma.sqlite3");
    Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    let places = Places {
        configured: Some(dir.path().to_owned()),
        fallback: Vec::new(),
        watched_ratio_max: 1.0,
        other_ratio_max: 1.0,
        name: None,
    };
    Place { _dir: dir, path, places }
}

fn look(place: &Place) -> Result<View, ViewError> {
    let stop = AtomicBool::new(false);
    let options = Options {
        places: &place.places,
        rate_bytes_max: 1 << 30,
        lock_hold_max: Duration::from_millis(100),
        time_max: Duration::ZERO,
        stop: &stop,
        progress: &Progress::default(),
    };
    take(&Database::new(place.path.clone()), &options)
}

const TABLE: &str = "CREATE TABLE t(x); INSERT INTO t VALUES(randomblob(100000)), (7);";

#[test]
fn the_view_of_a_quiet_database_has_its_bytes() {
    let place = place(TABLE);
    let mut view = look(&place).unwrap();
    let bytes = fs::read(&place.path).unwrap();
    assert_eq!(view.pages() as usize * 4096, bytes.len());
    let mut copied = vec![0; bytes.len()];
    view.file().read_exact_at(&mut copied, 0).unwrap();
    assert_eq!(copied, bytes);
    assert_eq!(view.file().metadata().unwrap().len(), bytes.len() as u64);
    assert_eq!((view.cost().tries, view.cost().transactions), (1, 0));
    assert_eq!(view.header().change_counter, 2);
    let stop = AtomicBool::new(false);
    let sum = |connection: &Connection| {
        connection.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0))
    };
    assert_eq!(view.within(Duration::from_mins(1), &stop, sum).result.unwrap(), 2);
    assert_eq!(fs::read_dir(place.path.parent().unwrap()).unwrap().count(), 1);
}

#[test]
fn what_this_way_cannot_watch_is_refused() {
    let wal = place(&format!("PRAGMA journal_mode=WAL; {TABLE}"));
    assert!(matches!(look(&wal), Err(ViewError::Query(QueryError::Wal))));
    let vacuum = place(&format!("PRAGMA auto_vacuum=INCREMENTAL; {TABLE}"));
    assert!(matches!(look(&vacuum), Err(ViewError::Unsuited(why)) if why.contains("auto_vacuum")));
    let names = place(TABLE);
    fs::hard_link(&names.path, names.path.with_extension("second")).unwrap();
    assert!(matches!(look(&names), Err(ViewError::Unsuited(why)) if why.contains("names")));
    let mut full = place(TABLE);
    full.places.watched_ratio_max = 0.0;
    full.places.other_ratio_max = 0.0;
    assert!(matches!(look(&full), Err(ViewError::NoRoom(_))));
    let cut = place(TABLE);
    File::options().write(true).open(&cut.path).unwrap().set_len(8192).unwrap();
    assert!(matches!(look(&cut), Err(ViewError::Query(QueryError::Damaged(_)))));
    let stopped = place(TABLE);
    let stop = AtomicBool::new(true);
    let options = Options {
        places: &stopped.places,
        rate_bytes_max: 1,
        lock_hold_max: Duration::from_millis(100),
        time_max: Duration::ZERO,
        stop: &stop,
        progress: &Progress::default(),
    };
    let taken = take(&Database::new(stopped.path.clone()), &options);
    assert!(matches!(taken, Err(ViewError::Stopped)));
}

#[test]
fn a_writer_is_slowed_down_only_after_it_was_too_fast_again_and_again() {
    let budget = Duration::from_millis(10);
    let pulses = |slow| GateMode::Pulses {
        pulse: Duration::from_millis(1),
        slow: Duration::from_micros(slow),
    };
    for (hasty, overdue, want) in [
        (0, 0, GateMode::Free),
        (3, 9, GateMode::Free),
        (4, 0, GateMode::Awake),
        (5, 0, GateMode::Free),
        (10, 0, GateMode::Awake),
        (12, 0, pulses(0)),
        (14, 0, pulses(0)),
        (15, 0, GateMode::Free),
        (16, 0, pulses(250)),
        (20, 0, pulses(500)),
        (98, 0, pulses(5000)),
        (16, 1, GateMode::Awake), // a lock came out too long: no sleep with one in hand
    ] {
        assert_eq!(mode(hasty, overdue, budget), want, "{hasty} {overdue}");
    }
}
