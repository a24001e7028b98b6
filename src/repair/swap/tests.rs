use std::{collections::BTreeMap, ffi::OsStr, fs};

use super::{
    hands::{GATE_TARGET, Poor},
    *,
};

const ONE: &str = "11f4c994-921f-420d-b9b5-cbe3dd08f50d";
const TWO: &str = "c2acc258-3dd5-40e9-927a-253f486f8565";
const THREE: &str = "665dc9d7-5d2a-45ae-9ff1-041102f722ed";

type Files = BTreeMap<String, String>;

fn files(named: &[(&str, &str)]) -> Files {
    named.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

/// What Chroma has of the store before and after.
fn old() -> Files {
    files(&[
        (DATABASE_FILE, "old"),
        ("chroma.sqlite3-journal", "old"),
        (&format!("{ONE}/header.bin"), "old"),
        (&format!("{ONE}/link_lists.bin"), "old"),
        (&format!("{TWO}/header.bin"), "old"),
    ])
}

fn new() -> Files {
    files(&[
        (DATABASE_FILE, "new"),
        (&format!("{ONE}/header.bin"), "new"),
        (&format!("{THREE}/header.bin"), "new"),
    ])
}

const FOREIGN: [(&str, &str); 2] = [("notes.txt", "mine"), ("lost+found/x", "mine")];

fn write(dir: &Path, files: &Files) {
    for (name, text) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

/// Every file below a directory, the gate as `gate`.
fn read(dir: &Path) -> Files {
    let mut out = Files::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if quarantine::is_ours_inside(OsStr::new(&name)) || name == exchange::MARKER {
            continue;
        }
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            for (inner, text) in read(&entry.path()) {
                out.insert(format!("{name}/{inner}"), text);
            }
        } else if kind.is_symlink() {
            assert_eq!(fs::read_link(entry.path()).unwrap(), Path::new(GATE_TARGET));
            out.insert(name, "gate".to_owned());
        } else {
            out.insert(name, fs::read_to_string(entry.path()).unwrap());
        }
    }
    out
}

fn with(mut files: Files, more: &[(&str, &str)]) -> Files {
    files.extend(more.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())));
    files
}

fn foreign(mut files: Files) -> Files {
    files.retain(|name, _| FOREIGN.iter().any(|(foreign, _)| foreign == name));
    files
}

/// A store with old content, and new content that is staged.
struct Stand {
    _scratch: tempfile::TempDir,
    store: PathBuf,
}

impl Stand {
    fn new() -> Self {
        // Many of them, and each step is synced.
        let shm = Path::new("/dev/shm");
        let scratch = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() };
        let scratch = scratch.unwrap();
        let store = scratch.path().canonicalize().unwrap().join("chroma");
        write(&store, &with(old(), &FOREIGN));
        Self { _scratch: scratch, store }
    }

    fn stage(&self, inside: bool) -> Quarantine {
        let place = Place::of(&self.store).unwrap();
        let place = if inside { place.within() } else { place };
        let hands = Hands::default();
        let quarantine =
            Quarantine::begin(&hands, &place, "backup", Timestamp::from_secs(1_796_004_000))
                .unwrap();
        write(&quarantine.incoming(), &new());
        quarantine
    }

    fn planned(&self, inside: bool) -> Quarantine {
        plan(self.stage(inside), &[], &[]).unwrap().quarantine
    }

    /// What a Chroma that starts now would find: nothing but the old, the new, or what it cannot open.
    fn must_be_whole(&self, what: &str) -> &'static str {
        let mut found = read(&self.store);
        found.retain(|name, _| !FOREIGN.iter().any(|(foreign, _)| foreign == name));
        match found.get(DATABASE_FILE).map(String::as_str) {
            Some("gate") => "gate",
            Some("old") => {
                assert_eq!(found, old(), "{what}");
                "old"
            }
            Some("new") => {
                assert_eq!(found, new(), "{what}");
                "new"
            }
            other => panic!("{what}: a Chroma that starts now finds {other:?}: {found:?}"),
        }
    }

    /// What is where at the end of a restore.
    fn must_be_restored(&self, what: &str) {
        assert_eq!(self.must_be_whole(what), "new", "{what}");
        let kept = read(&self.store);
        assert_eq!(
            foreign(kept),
            with(Files::new(), &FOREIGN),
            "{what}: what is not Chroma's stays"
        );
        let (found, unread) = quarantine::all(&self.store);
        assert!(unread.is_empty(), "{what}: {unread:?}");
        assert_eq!(found.len(), 1, "{what}");
        assert_eq!(found[0].record.state, State::Restored, "{what}");
        assert!(!found[0].is_named_for_work(), "{what}: {}", found[0].path.display());
        assert_eq!(read(&found[0].path.join("old")), old(), "{what}");
        assert!(!self.store.join(exchange::MARKER).exists(), "{what}");
    }

    fn must_be_as_before(&self, what: &str) {
        assert_eq!(self.must_be_whole(what), "old", "{what}");
        assert_eq!(foreign(read(&self.store)), with(Files::new(), &FOREIGN), "{what}");
        assert!(!self.store.join(exchange::MARKER).exists(), "{what}");
    }
}

/// Every kind of place: what the filesystem cannot do, and whether everything happens inside the store.
const PLACES: [(Poor, bool); 6] = [
    (Poor { exchange: false, link: false, folders: false }, false),
    (Poor { exchange: true, link: false, folders: false }, false),
    (Poor { exchange: false, link: false, folders: false }, true),
    (Poor { exchange: true, link: true, folders: false }, true),
    (Poor { exchange: true, link: false, folders: true }, true),
    (Poor { exchange: true, link: true, folders: true }, false),
];

fn hands(poor: Poor, calls: Option<usize>) -> Hands {
    let hands = calls.map_or_else(Hands::default, Hands::stopping_after);
    hands.poor.set(poor);
    hands
}

fn now() -> Timestamp {
    Timestamp::from_secs(1_796_004_010)
}

/// What another test starts inherits a lock for a moment.
fn settle_at_last(hands: &Hands, store: &Path, onward: bool, what: &str) -> Settled {
    crate::wait::wait_for("the lock of the folder", crate::wait::SOON, || {
        let left = interrupted(store).pop().unwrap_or_else(|| panic!("{what}: nothing is left"));
        match settle_by(hands, left, onward, &Free::unchecked(), now()) {
            Err(SwapError::Held(Holds::Locked { .. })) => None,
            result => Some(result.unwrap_or_else(|error| panic!("{what}: {error:?}"))),
        }
    })
}

fn is_stop(error: &SwapError) -> bool {
    use std::error::Error;
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text.contains(hands::STOPPED)
}

#[test]
fn old_goes_out_and_new_comes_in_everywhere_and_back() {
    for (poor, inside) in PLACES {
        let what = format!("{poor:?}, inside: {inside}");
        let stand = Stand::new();
        let free = Free::unchecked();
        let done = execute_by(&hands(poor, None), stand.planned(inside), &free, now()).unwrap();
        let way = if poor.exchange || inside { Way::Files } else { Way::Directory };
        assert_eq!(done.way, way, "{what}");
        stand.must_be_restored(&what);
        let (mut found, _) = quarantine::all(&stand.store);
        assert_eq!(Some(&found[0].path), done.quarantine.as_ref(), "{what}");
        let back = plan(undo(found.remove(0)).unwrap(), &[], &[]).unwrap();
        let done = execute_by(&hands(poor, None), back.quarantine, &free, now()).unwrap();
        stand.must_be_as_before(&what);
        let (mut found, _) = quarantine::all(&stand.store);
        assert_eq!(Some(&found[0].path), done.quarantine.as_ref(), "{what}");
        assert_eq!(read(&found[0].path.join("undone")), new(), "{what}");
        assert_eq!(found[0].record.state, State::Undone);
        assert!(undo(found.remove(0)).is_err(), "once");
    }
}

#[test]
fn stopped_at_any_call_it_is_one_or_the_other_and_the_next_run_ends_it() {
    let mut stops = 0;
    for (poor, inside) in PLACES {
        for onward in [true, false] {
            for calls in 0.. {
                let what = format!("{poor:?}, inside: {inside}, onward: {onward}, after {calls}");
                let stand = Stand::new();
                let free = Free::unchecked();
                let planned = stand.planned(inside);
                match execute_by(&hands(poor, Some(calls)), planned, &free, now()) {
                    Ok(_) => break,
                    Err(error) => assert!(is_stop(&error), "{what}: {error:?}"),
                }
                stops += 1;
                let was = stand.must_be_whole(&what);
                // The next run is killed too, at several places, and the one after that is not.
                for calls in [calls % 5, calls % 11] {
                    let Some(left) = interrupted(&stand.store).pop() else { break };
                    drop(settle_by(&hands(poor, Some(calls)), left, onward, &free, now()));
                    stand.must_be_whole(&what);
                }
                if interrupted(&stand.store).is_empty() {
                    assert!(stand.must_be_whole(&what) != "gate", "{what}");
                } else {
                    settle_at_last(&hands(poor, None), &stand.store, onward, &what);
                }
                match stand.must_be_whole(&what) {
                    "new" => {
                        assert!(onward || was == "new", "{what}");
                        stand.must_be_restored(&what);
                    }
                    "old" => {
                        stand.must_be_as_before(&what);
                        let (found, unread) = quarantine::all(&stand.store);
                        assert!(found.is_empty() && unread.is_empty(), "{what}: {found:?}");
                    }
                    other => panic!("{what}: {other}"),
                }
            }
        }
    }
    assert!(stops > 200, "only {stops} places to stop at");
}

#[test]
fn an_undo_that_is_stopped_is_ended_too() {
    for (poor, inside) in PLACES {
        for onward in [true, false] {
            for calls in 0.. {
                let what = format!("{poor:?}, inside: {inside}, onward: {onward}, after {calls}");
                let stand = Stand::new();
                let free = Free::unchecked();
                execute_by(&hands(poor, None), stand.planned(inside), &free, now()).unwrap();
                let (mut found, _) = quarantine::all(&stand.store);
                let back = plan(undo(found.remove(0)).unwrap(), &[], &[]).unwrap().quarantine;
                // What the restore has moved is in the upper layer by now.
                let poor = Poor { folders: false, ..poor };
                match execute_by(&hands(poor, Some(calls)), back, &free, now()) {
                    Ok(_) => break,
                    Err(error) => assert!(is_stop(&error), "{what}: {error:?}"),
                }
                stand.must_be_whole(&what);
                if !interrupted(&stand.store).is_empty() {
                    settle_at_last(&hands(poor, None), &stand.store, onward, &what);
                }
                let (found, _) = quarantine::all(&stand.store);
                match stand.must_be_whole(&what) {
                    "new" => stand.must_be_restored(&what),
                    "old" => {
                        stand.must_be_as_before(&what);
                        assert_eq!(found[0].record.state, State::Undone, "{what}");
                        assert_eq!(read(&found[0].path.join("undone")), new(), "{what}");
                    }
                    other => panic!("{what}: {other}"),
                }
            }
        }
    }
}

#[test]
fn a_store_that_is_missing_or_empty_leaves_nothing_behind() {
    for empty in [true, false] {
        for inside in [true, false] {
            if inside && !empty {
                continue; // nothing to be inside of
            }
            let stand = Stand::new();
            fs::remove_dir_all(&stand.store).unwrap();
            if empty {
                fs::create_dir(&stand.store).unwrap();
            }
            let planned = stand.planned(inside);
            let done = execute_by(&Hands::default(), planned, &Free::unchecked(), now()).unwrap();
            assert_eq!(done.quarantine, None);
            assert_eq!(read(&stand.store), new());
            assert!(interrupted(&stand.store).is_empty());
            assert_eq!(fs::read_dir(stand.store.parent().unwrap()).unwrap().count(), 1);
        }
    }
}

#[test]
fn a_database_that_appears_meanwhile_is_not_overwritten() {
    for inside in [true, false] {
        let stand = Stand::new();
        fs::remove_dir_all(&stand.store).unwrap();
        if inside {
            fs::create_dir(&stand.store).unwrap();
        }
        let planned = stand.planned(inside);
        // A Chroma has started in the empty directory.
        write(&stand.store, &files(&[(DATABASE_FILE, "its own")]));
        let result = execute_by(&Hands::default(), planned, &Free::unchecked(), now());
        assert!(matches!(result, Err(SwapError::AsBefore { .. })), "{result:?}");
        assert_eq!(read(&stand.store), files(&[(DATABASE_FILE, "its own")]));
    }
}

#[test]
fn what_is_given_for_the_database_is_looked_at_first() {
    let stand = Stand::new();
    let database = stand.store.join(DATABASE_FILE);
    fs::rename(&database, stand.store.join("elsewhere")).unwrap();
    std::os::unix::fs::symlink("elsewhere", &database).unwrap();
    let reported = plan(stand.stage(false), &[], &[]).unwrap_err();
    assert!(reported.to_string().ends_with("chroma.sqlite3 is a link"), "{reported}");
}
