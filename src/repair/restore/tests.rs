use std::{os::unix::fs::symlink, path::Path};

use super::*;
use crate::wait::{SOON, wait_for};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A store and a backup of another state of it.
struct Stand {
    _scratch: tempfile::TempDir,
    backup: PathBuf,
    wish: Wish,
    processes: ProcessTable,
}

impl Stand {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap();
        let (store, backup) = (root.join("chroma"), root.join("chroma.backup"));
        copy_tree(&fixture("chroma-1.5.9"), &store);
        copy_tree(&fixture("chroma-1.5.9-deleted"), &backup);
        let wish =
            Wish { store, accept_loss: false, chroma_is_stopped: false, dry: false, only: None };
        let processes = ProcessTable::new("/proc".into());
        Self { _scratch: scratch, backup, wish, processes }
    }

    /// Until nobody whom another test starts has inherited the database.
    fn settled<T: std::fmt::Debug>(
        mut act: impl FnMut() -> Result<T, RestoreError>,
    ) -> Result<T, RestoreError> {
        wait_for("nobody to hold the store", SOON, || match act() {
            Err(
                RestoreError::Held(
                    Holds::Held { .. } | Holds::Elsewhere { .. } | Holds::Locked { .. },
                )
                | RestoreError::Swap(SwapError::Held(_) | SwapError::Came { .. }),
            ) => None,
            result => Some(result),
        })
    }

    fn restore(&self) -> Result<Report, RestoreError> {
        Self::settled(|| {
            restore(&self.backup, &self.wish, &self.processes, &Steps::default(), clock::now())
        })
    }

    fn undo(&self) -> Result<Report, RestoreError> {
        Self::settled(|| undo(&self.wish, &self.processes, clock::now()))
    }

    /// What is in the store, byte for byte.
    fn content(&self) -> Vec<(String, Vec<u8>)> {
        content(&self.wish.store)
    }

    /// That a try left nothing beside the store.
    fn must_be_clean(&self) {
        let beside = fs::read_dir(self.wish.store.parent().unwrap()).unwrap();
        let mut names: Vec<_> = beside.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["chroma", "chroma.backup"]);
    }
}

fn content(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let files = stage::files(dir).unwrap();
    files.into_keys().map(|name| (name.clone(), fs::read(dir.join(name)).unwrap())).collect()
}

#[test]
fn a_backup_goes_in_and_the_old_content_comes_back() {
    let stand = Stand::new();
    let before = stand.content();
    let dry = Wish { dry: true, ..stand.wish.clone() };
    let reported = Stand::settled(|| {
        restore(&stand.backup, &dry, &stand.processes, &Steps::default(), clock::now())
    });
    assert_eq!(reported.unwrap().outcome, Outcome::WouldRestore);
    assert_eq!(stand.content(), before);
    stand.must_be_clean();

    let report = stand.restore().unwrap();
    assert_eq!((report.outcome, report.way), (Outcome::Restored, Way::Directory));
    assert!(!report.collections.is_empty() && report.losses.is_empty(), "{report:?}");
    assert_eq!(stand.content(), content(&stand.backup));
    let kept = report.quarantine.unwrap();
    assert_eq!(content(&kept.join("old")), before);

    let dry = Stand::settled(|| {
        undo(&Wish { dry: true, ..stand.wish.clone() }, &stand.processes, clock::now())
    });
    assert_eq!(dry.unwrap().outcome, Outcome::WouldUndo);
    assert_eq!(stand.content(), content(&stand.backup));
    let report = stand.undo().unwrap();
    assert_eq!((report.outcome, report.quarantine), (Outcome::Undone, Some(kept)));
    assert_eq!(stand.content(), before);
    assert!(matches!(stand.undo(), Err(RestoreError::NothingToUndo { .. })));
}

#[test]
fn two_restores_are_undone_one_after_the_other() {
    let stand = Stand::new();
    let first = stand.content();
    stand.restore().unwrap();
    let second = stand.content();
    let other = Stand { backup: fixture("chroma-1.1.1"), ..stand };
    other.restore().unwrap();
    assert_ne!(other.content(), second);
    other.undo().unwrap();
    assert_eq!(other.content(), second);
    other.undo().unwrap();
    assert_eq!(other.content(), first);
}

#[test]
fn records_that_were_written_since_are_not_put_away_unasked() {
    let stand = Stand::new();
    stand.restore().unwrap();
    let database = stand.wish.store.join(DATABASE_FILE);
    let write =
        |sql: &str| rusqlite::Connection::open(&database).unwrap().execute_batch(sql).unwrap();
    // What an open by Chroma does: it writes, and no record.
    write("CREATE TABLE opened(x); DROP TABLE opened");
    let record = &newest(&stand.wish.store, State::Restored).unwrap().record;
    assert_eq!(written_since(&stand.wish.store, record), None);
    write("INSERT INTO embeddings_queue(operation, topic, id) VALUES(0, 't', 'x')");
    let reported = stand.undo().unwrap_err();
    assert!(reported.to_string().contains("records were written since"), "{reported}");
    assert!(reported.is_refusal());
    write("DELETE FROM embeddings_queue WHERE id = 'x'; UPDATE collections SET name = name || 'x'");
    let reported = stand.undo().unwrap_err();
    assert!(reported.to_string().contains("collections were changed since"), "{reported}");
    let accepting = Stand { wish: Wish { accept_loss: true, ..stand.wish.clone() }, ..stand };
    accepting.undo().unwrap();
}

#[test]
fn what_does_not_restore_changes_nothing() {
    let stand = Stand::new();
    let before = stand.content();
    let database = stand.backup.join(DATABASE_FILE);
    let good = fs::read(&database).unwrap();
    fs::write(&database, "not a database").unwrap();
    let reported = stand.restore().unwrap_err();
    assert!(matches!(reported, RestoreError::NotRestorable { .. }), "{reported}");
    fs::remove_file(&database).unwrap();
    assert!(stand.restore().is_err());
    fs::write(&database, good).unwrap();
    // An index is missing: told, and only put in place when that is accepted.
    let folders: Vec<_> = stage::files(&stand.backup).unwrap().into_keys().collect();
    let folder = folders.iter().find_map(|name| name.split_once('/')).unwrap().0;
    fs::remove_dir_all(stand.backup.join(folder)).unwrap();
    let reported = stand.restore().unwrap_err();
    assert!(matches!(reported, RestoreError::Losses { .. }) && reported.is_refusal(), "{reported}");
    assert_eq!(stand.content(), before);
    stand.must_be_clean();
    let accepting = Stand { wish: Wish { accept_loss: true, ..stand.wish.clone() }, ..stand };
    let report = accepting.restore().unwrap();
    assert!(!report.losses.is_empty());
    assert_eq!(accepting.content(), content(&accepting.backup));
}

#[test]
fn a_store_that_is_missing_is_made() {
    let stand = Stand::new();
    fs::remove_dir_all(&stand.wish.store).unwrap();
    let report = stand.restore().unwrap();
    assert_eq!((report.way, report.quarantine), (Way::Fresh, None));
    assert_eq!(stand.content(), content(&stand.backup));
    stand.must_be_clean();
    assert!(matches!(stand.undo(), Err(RestoreError::NothingToUndo { .. })));
}

#[test]
fn a_backup_in_the_store_or_around_it_is_refused() {
    for (backup, fine) in [
        ("/srv/chroma", false),
        ("/srv/chroma/backups/1", false),
        ("/srv", false),
        ("/srv/chroma.backup", true),
        ("/srv/chroma/.chroma_exporter.quarantine.20261130_020000/old", true),
    ] {
        assert_eq!(apart(Path::new(backup), Path::new("/srv/chroma")).is_ok(), fine, "{backup}");
    }
}

#[test]
fn the_place_of_a_store_has_no_links() {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().canonicalize().unwrap();
    fs::create_dir(root.join("real")).unwrap();
    symlink("real", root.join("link")).unwrap();
    symlink("nowhere", root.join("lost")).unwrap();
    assert_eq!(place(&root.join("link")).unwrap(), root.join("real"));
    assert_eq!(place(&root.join("link/new")).unwrap(), root.join("real/new"));
    assert!(place(&root.join("lost")).is_err());
    assert!(place(&root.join("none/new")).is_err());
}
