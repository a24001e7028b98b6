//! `permissions` on copies of real directories: it changes nothing unless it is told to, mends what differs and nothing else, and
//! takes that back.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use crate::support::{Exporter, SOON, fixture, run, wait_until};

/// Whose the stores of these tests are, when root runs them.
const OWNER: u32 = 4_321;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A copy of a real store, of one owner, with the same modes everywhere.
fn store(scratch: &Path) -> PathBuf {
    let dir = fixture("chroma-1.5.9", &scratch.canonicalize().unwrap());
    for path in entries(&dir) {
        set_mode(&path, if path.is_dir() { 0o755 } else { 0o644 });
        if is_root() {
            chown(&path, Some(OWNER), Some(OWNER)).unwrap();
        }
    }
    set_mode(scratch, 0o755);
    dir
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut all = vec![dir.to_owned()];
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() && !entry.is_symlink() {
            all.extend(entries(&entry));
        } else {
            all.push(entry);
        }
    }
    all.sort();
    all
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn give_to_root(path: &Path) {
    chown(path, Some(0), Some(0)).unwrap();
}

/// Owner, group, mode, times and bytes of everything below a directory.
type Seen = BTreeMap<PathBuf, (u32, u32, u32, i64, i64, i64, i64, Vec<u8>)>;

fn seen(dir: &Path) -> Seen {
    let look = |path: PathBuf| {
        let meta = fs::symlink_metadata(&path).unwrap();
        let bytes = if meta.is_file() { fs::read(&path).unwrap() } else { Vec::new() };
        let times = (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec());
        (path, (meta.uid(), meta.gid(), meta.mode(), times.0, times.1, times.2, times.3, bytes))
    };
    entries(dir).into_iter().map(look).collect()
}

/// Owner, group and mode alone.
fn modes(dir: &Path) -> BTreeMap<PathBuf, (u32, u32, u32)> {
    seen(dir).into_iter().map(|(path, all)| (path, (all.0, all.1, all.2))).collect()
}

fn permissions(dir: &Path, more: &[&str]) -> (i32, String, String) {
    let words = [&["permissions", "--store.path", dir.to_str().unwrap()], more].concat();
    let output = run(&words);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn json(dir: &Path, more: &[&str]) -> (i32, serde_json::Value) {
    let (code, out, err) = permissions(dir, &[more, &["--output", "json"]].concat());
    (code, serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}")))
}

#[test]
fn a_healthy_store_has_nothing_to_mend_and_is_not_touched() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = store(scratch.path());
    let before = seen(scratch.path());
    for more in [&[][..], &["--apply"]] {
        let (code, out, err) = permissions(&dir, more);
        assert_eq!((code, &*err), (0, ""), "{out}");
        assert!(
            out.contains("none differs") && out.contains("add its --config.file or --state.dir"),
            "{out}"
        );
    }
    let (code, _, err) = permissions(&dir, &["--undo"]);
    assert!(code == 3 && err.contains("nothing to undo"), "{code}: {err}");
    assert!(seen(scratch.path()) == before, "something was changed");
}

#[test]
fn what_a_command_as_root_left_is_given_back_and_nothing_else_is_touched() {
    if !is_root() {
        return; // only root gives files away
    }
    let scratch = tempfile::tempdir().unwrap();
    let dir = store(scratch.path());
    let file = |name: &str| entries(&dir).into_iter().find(|path| path.ends_with(name)).unwrap();
    let (database, header) = (dir.join("chroma.sqlite3"), file("header.bin"));
    let locked = file("length.bin");
    let healthy = modes(&dir);
    give_to_root(&database);
    give_to_root(&header);
    set_mode(&header, 0o600);
    set_mode(&locked, 0o444);
    // Nobody's business: a file that Chroma did not make.
    fs::write(dir.join("notes.txt"), "mine").unwrap();
    let before = seen(&dir);
    let before_all = seen(scratch.path());

    let (code, out, err) = permissions(&dir, &[]);
    assert_eq!((code, &*err), (1, ""), "{out}");
    assert!(
        out.contains("3 of ") && out.contains(&format!("uid {OWNER} owns most of it")),
        "{out}"
    );
    assert!(
        out.contains("chroma.sqlite3 is -rw-r--r-- 0:0, should be -rw-r--r-- 4321:4321"),
        "{out}"
    );
    let line =
        format!("To mend: chroma_exporter permissions --store.path {} --apply", dir.display());
    assert!(out.ends_with(&(line + "\n")), "{out}");
    let (code, document) = json(&dir, &[]);
    assert_eq!((code, document["differ"].as_array().unwrap().len()), (1, 3), "{document:#}");
    assert_eq!((&document["status"], &document["policy"]), (&"differs".into(), &"majority".into()));
    assert_eq!(document["changed"], serde_json::Value::Null);
    assert!(seen(scratch.path()) == before_all, "something was changed without --apply");

    let (code, out, err) = permissions(&dir, &["--apply"]);
    assert_eq!((code, &*err), (0, ""), "{out}");
    assert!(out.contains("3 entries mended."), "{out}");
    let line =
        format!("To undo: chroma_exporter permissions --store.path {} --undo", dir.display());
    assert!(out.ends_with(&(line + "\n")), "{out}");
    let mut wanted = healthy;
    wanted.get_mut(&header).unwrap().2 = 0o100_600;
    wanted.get_mut(&locked).unwrap().2 = 0o100_644;
    let mended = modes(&dir);
    assert_eq!(mended.get(&dir.join("notes.txt")), Some(&(0, 0, before[&dir.join("notes.txt")].2)));
    for (path, is) in wanted {
        assert_eq!(mended[&path], is, "{}", path.display());
    }
    let changed: Vec<PathBuf> = seen(&dir)
        .into_iter()
        .filter(|(path, is)| before[path] != *is)
        .map(|(path, is)| {
            assert_eq!(is.7, before[&path].7, "the bytes of {}", path.display());
            path
        })
        .collect();
    let mut touched = vec![database, header, locked];
    touched.sort();
    assert_eq!(changed, touched);
    assert_eq!(permissions(&dir, &[]).0, 0, "it is mended");

    let (code, out, err) = permissions(&dir, &["--undo"]);
    assert_eq!((code, &*err), (0, ""), "{out}");
    assert!(out.contains("3 entries taken back."), "{out}");
    let as_before: BTreeMap<_, _> =
        before.into_iter().map(|(path, all)| (path, (all.0, all.1, all.2))).collect();
    assert_eq!(modes(&dir), as_before);
    assert_eq!(permissions(&dir, &["--undo"]).0, 3, "once");
}

#[test]
fn what_the_exporter_learnt_is_given_back() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = store(scratch.path());
    let state = scratch.path().join("state");
    let state = state.to_str().unwrap();
    let database = dir.join("chroma.sqlite3");
    set_mode(&database, 0o640);
    let exporter = Exporter::start(&["--store.path", dir.to_str().unwrap(), "--state.dir", state]);
    wait_until("everything is learnt", SOON, || {
        exporter.page().text.contains("\nchroma_permission_walk_timestamp_seconds{")
    });
    exporter.stop();
    set_mode(&database, 0o660);
    set_mode(&dir, 0o775);
    let healthy_without = permissions(&dir, &[]);
    assert_eq!(healthy_without.0, 0, "both would do: {}", healthy_without.1);
    let (code, document) = json(&dir, &["--state.dir", state]);
    assert_eq!((code, &document["policy"]), (1, &"learnt".into()), "{document:#}");
    let before = seen(Path::new(state));
    let (code, out, _) = permissions(&dir, &["--state.dir", state, "--apply"]);
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("2 entries mended."), "{out}");
    assert_eq!(fs::metadata(&database).unwrap().mode(), 0o100_640);
    assert_eq!(fs::metadata(&dir).unwrap().mode(), 0o040_755);
    assert!(seen(Path::new(state)) == before, "the state of the exporter is its own");
}

#[test]
fn what_is_declared_is_given() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = store(scratch.path());
    let config = scratch.path().join("config.yml");
    let text = format!(
        "stores:\n  - path: {}\n    permissions: {{file_mode: \"0600\", directory_mode: \"0700\"}}\n",
        dir.display()
    );
    fs::write(&config, text).unwrap();
    let words = ["permissions", "--config.file", config.to_str().unwrap(), "--apply"];
    let output = run(&words);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    for path in entries(&dir) {
        let wanted = if path.is_dir() { 0o700 } else { 0o600 };
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, wanted, "{}", path.display());
    }
}

#[test]
fn what_everybody_may_change_is_for_its_owner_again() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = store(scratch.path());
    for path in entries(&dir) {
        set_mode(&path, 0o777);
    }
    let (code, out, err) = permissions(&dir, &["--apply"]);
    assert_eq!((code, &*err), (0, ""), "{out}");
    for path in entries(&dir) {
        // Only that: what else 0777 grants harms nobody's data.
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o775, "{}", path.display());
    }
    assert_eq!(permissions(&dir, &["--undo"]).0, 0);
    assert!(entries(&dir).iter().all(|path| fs::metadata(path).unwrap().mode() & 0o7777 == 0o777));
}

#[test]
fn where_nobody_can_tell_nothing_is_changed() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = store(scratch.path());
    if is_root() {
        // Most of it is root's: that may be the mistake, or how it should be.
        for path in entries(&dir) {
            if !path.ends_with("chroma.sqlite3") {
                give_to_root(&path);
            }
        }
        let before = seen(scratch.path());
        for more in [&[][..], &["--apply"]] {
            let (code, out, _) = permissions(&dir, more);
            assert_eq!(code, 3, "{out}");
            assert!(
                out.contains("nobody can tell whose") && out.contains("permissions: owner"),
                "{out}"
            );
        }
        assert!(seen(scratch.path()) == before, "something was changed");
        // Whoever knows says so.
        let (code, out, err) = permissions(&dir, &["--server-user", "4321:4321", "--apply"]);
        assert_eq!((code, &*err), (0, ""), "{out}");
        for (path, (uid, gid, _)) in modes(&dir) {
            assert_eq!((uid, gid), (OWNER, OWNER), "{}", path.display());
        }
        for wrong in ["me", "1:", ":1", "1:2:3", ""] {
            assert_eq!(permissions(&dir, &["--server-user", wrong]).0, 64, "{wrong:?}");
        }
    }
    // A path that was mistyped.
    let empty = scratch.path().join("other");
    fs::create_dir(&empty).unwrap();
    fs::write(empty.join("file"), "x").unwrap();
    for path in [empty, scratch.path().join("missing")] {
        let (code, out, err) = permissions(&path, &["--apply"]);
        assert_eq!((code, &*out), (3, ""), "{err}");
        assert!(err.contains("error: ") && err.contains("help: "), "{err}");
    }
}
