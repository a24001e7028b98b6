//! `recover --apply` and `guard`, killed or refused at each call that moves something, and killed at any moment of any repair: the store
//! is what it was or what was repaired, whole, and another run ends it.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use crate::support::{
    binary, copy_tree,
    cut::{self, CALLS, was_killed},
    faults::execute,
    now,
    random::Random,
    run,
    tmpfs::Tmpfs,
};

/// A store that is broken in one way.
struct Lab {
    _scratch: tempfile::TempDir,
    store: PathBuf,
    /// A copy of it, which nothing happens to.
    broken: PathBuf,
}

type Files = BTreeMap<PathBuf, Vec<u8>>;

impl Lab {
    /// One that has lost a row which every store has.
    fn new() -> Self {
        Self::broken_by(without_tenants)
    }

    fn broken_by(damage: fn(&Path)) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap();
        let broken = root.join("broken");
        let healthy = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chroma-1.5.9");
        copy_tree(&healthy, &broken);
        damage(&broken);
        let store = root.join("place/chroma");
        fs::create_dir_all(&store).unwrap();
        Self { _scratch: scratch, store, broken }
    }

    /// The broken store, and nothing else beside it or in it.
    fn refill(&self) {
        for dir in [&self.store, self.store.parent().unwrap()] {
            for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
                if entry == self.store {
                    continue;
                }
                if fs::symlink_metadata(&entry).unwrap().is_dir() {
                    fs::remove_dir_all(entry).unwrap();
                } else {
                    fs::remove_file(entry).unwrap();
                }
            }
        }
        copy_tree(&self.broken, &self.store);
    }

    /// Whether a server that starts now finds a gate, which it cannot open as a database.
    fn is_shut(&self, what: &str) -> bool {
        let path = self.store.join("chroma.sqlite3");
        let meta = fs::symlink_metadata(&path)
            .unwrap_or_else(|error| panic!("{what}: a server would begin an empty store: {error}"));
        assert!(
            !meta.is_symlink() || fs::metadata(&path).unwrap().is_dir(),
            "{what}: it can be opened"
        );
        meta.is_symlink()
    }

    /// Every record as a line.
    fn lines(&self, what: &str) -> String {
        let out = run(&["dump", "--state.dir", "", self.store.to_str().unwrap()]);
        assert!(out.status.success(), "{what}: {}", said(&out));
        String::from_utf8(out.stdout).unwrap()
    }

    /// `old`, `new`, or `gate`.
    fn state(&self, what: &str) -> &'static str {
        if self.is_shut(what) {
            return "gate";
        }
        let (found, broken) = (files(&self.store), files(&self.broken));
        if found == broken {
            return "old";
        }
        // Everything but the database is what it was.
        let indexes = |files: Files| -> Files {
            files.into_iter().filter(|(path, _)| path.components().count() > 1).collect()
        };
        assert_eq!(
            indexes(found).keys().collect::<Vec<_>>(),
            indexes(broken).keys().collect::<Vec<_>>(),
            "{what}"
        );
        let database = rusqlite::Connection::open(self.store.join("chroma.sqlite3")).unwrap();
        let count = |table: &str| -> i64 {
            let sql = format!("SELECT count(*) FROM {table}");
            database.query_row(&sql, [], |row| row.get(0)).unwrap()
        };
        let counts = ["tenants", "databases", "collections", "segments", "embeddings"].map(count);
        assert_eq!(counts, [1, 1, 2, 4, RECORDS], "{what}");
        "new"
    }

    fn ended(&self, what: &str) {
        assert_eq!(self.state(what), "new", "{what}");
        self.is_tidy(what);
    }

    /// Nothing is left over but what is kept for `--undo`.
    fn is_tidy(&self, what: &str) {
        let above = [self.store.parent().unwrap(), &self.store];
        for entry in above.iter().flat_map(|dir| fs::read_dir(dir).unwrap()) {
            let name = entry.unwrap().file_name();
            let name = name.to_str().unwrap();
            let kept = name.contains(".quarantine.");
            assert!(
                kept || name == "chroma" || name == "chroma.sqlite3" || name.len() == 36,
                "{what}: {name} is left"
            );
        }
    }
}

/// Chroma's files below a directory.
fn files(dir: &Path) -> Files {
    let mut out = Files::new();
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()) {
        let name = PathBuf::from(entry.file_name());
        if entry.file_type().unwrap().is_file() {
            out.insert(name, fs::read(entry.path()).unwrap());
        } else if name.to_str().unwrap().len() == 36 {
            for inner in fs::read_dir(entry.path()).unwrap().map(|inner| inner.unwrap()) {
                out.insert(name.join(inner.file_name()), fs::read(inner.path()).unwrap());
            }
        }
    }
    out
}

fn words<'a>(command: &str, store: &'a str) -> Vec<&'a str> {
    match command {
        "recover" => vec!["recover", "--apply", "--store.path", store],
        _ => vec!["guard", "--store.path", store, "--", "true"],
    }
}

fn said(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

fn everywhere(lab: &Lab, command: &str, hows: &[&str]) {
    let store = lab.store.to_str().unwrap();
    let (mut kills, mut refusals) = (0, 0);
    for call in CALLS {
        for how in hows {
            let mut fine = 0;
            for at in 1.. {
                lab.refill();
                let mut injected = cut::injected(call, how, at);
                injected.args(words(command, store)).stdin(Stdio::null());
                let out = injected.output().unwrap();
                let killed = *how == KILL && was_killed(&out);
                let what = format!("{command}: {how} at {call} {at}: {}", said(&out));
                let state = lab.state(&what);
                if killed {
                    kills += 1;
                } else {
                    assert_ne!(state, "gate", "{what}");
                    let done = out.status.code() == Some(0);
                    // Put in place, but not all could be written that is to be said of it.
                    let untold = state == "new" && what.contains("in place");
                    assert!(done == (state == "new") || untold, "{state}: {what}");
                    refusals += usize::from(!done);
                    fine = if done { fine + 1 } else { 0 };
                }
                let again = run(&words(command, store));
                assert_eq!(again.status.code(), Some(0), "{what}, then: {}", said(&again));
                lab.ended(&what);
                // There are no more calls of this kind; one whose failure does not matter is not taken for that.
                if fine == 2 || (fine == 1 && *how == KILL) {
                    break;
                }
            }
        }
    }
    let enough = kills > 10 && (refusals > 5 || !hows.contains(&FULL));
    assert!(enough, "only {kills} kills and {refusals} refusals");
    println!("{command}: {kills} kills, {refusals} refusals");
}

#[test]
fn recover_cut_off_anywhere_in_a_plain_directory_leaves_the_old_or_the_new() {
    everywhere(&Lab::new(), "recover", &[KILL, FULL]);
}

#[test]
fn guard_cut_off_anywhere_in_a_volume_leaves_the_old_or_the_new() {
    let lab = Lab::new();
    let _volume = Tmpfs::mount(&lab.store, "64m");
    everywhere(&lab, "guard", &[KILL]);
}

/// `CUTS=500` by hand takes a quarter of an hour.
#[test]
fn a_repair_of_any_kind_that_is_killed_at_any_moment_leaves_the_old_or_the_new() {
    let cuts: u64 = std::env::var("CUTS").map_or(15, |text| text.parse().expect("a number"));
    let mut random = Random(0x5eed);
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    let damages =
        [without_tenants, without_a_head, without_first_page, without_words, all_but_the_page];
    for (number, damage) in (0..).zip(damages) {
        let lab = Lab::broken_by(damage);
        let store = lab.store.to_str().unwrap();
        let volume = (number % 2 == 1).then(|| Tmpfs::mount(&lab.store, "64m"));
        lab.refill();
        let began = now();
        let out = run(&words("recover", store));
        let took = began.elapsed();
        assert!(out.status.success(), "{}", said(&out));
        let repaired = lab.lines("whole");
        for cut in 0..cuts / damages.len() as u64 {
            let command = ["recover", "guard"][usize::from(cut % 2 == 1)];
            // Most of it is work on the copy; what matters comes late.
            let share = random.below(1300).max(random.below(1300));
            let after = took.mul_f64(share as f64 / 1000.0);
            let what = format!("damage {number}, {command} killed after {after:?}");
            lab.refill();
            let mut child = Command::new(binary());
            child.args(words(command, store)).stdin(Stdio::null());
            let mut child = child.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(after);
            child.kill().unwrap();
            child.wait().unwrap();
            let is = match lab.is_shut(&what) {
                true => "gate",
                false if files(&lab.store) == files(&lab.broken) => "old",
                false => {
                    assert_eq!(lab.lines(&what), repaired, "{what}");
                    "new"
                }
            };
            *seen.entry(is).or_default() += 1;
            let again = run(&words(command, store));
            assert_eq!(again.status.code(), Some(0), "{what}, then: {}", said(&again));
            assert_eq!(lab.lines(&what), repaired, "{what}");
            lab.is_tidy(&what);
        }
        drop(volume);
    }
    println!("after {cuts} kills: {seen:?}");
}

fn without_tenants(dir: &Path) {
    execute(dir, "DELETE FROM tenants");
}

fn without_a_head(dir: &Path) {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let head = entries.map(|path| path.join("header.bin")).find(|path| path.exists());
    fs::remove_file(head.unwrap()).unwrap();
}

fn without_first_page(dir: &Path) {
    let database = fs::File::options().write(true).open(dir.join("chroma.sqlite3")).unwrap();
    database.write_all_at(&[0; 4096], 0).unwrap();
}

fn without_words(dir: &Path) {
    execute(dir, "DELETE FROM embedding_fulltext_search_data WHERE id > 100");
}

fn all_but_the_page(dir: &Path) {
    without_tenants(dir);
    without_a_head(dir);
    without_words(dir);
}

const KILL: &str = "signal=KILL";
const FULL: &str = "error=ENOSPC";
/// Records of the fixture.
const RECORDS: i64 = 136;
