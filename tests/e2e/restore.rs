//! `restore` and its undo beside real Chroma, in real mounts and namespaces, and killed at every call that moves something. Whatever
//! happens, the store is the old one or the new one, whole. Needs root.

use crate::support::{
    self, ROOMY_FILE, SOON, chroma, copy_tree,
    cut::{self, CALLS, was_killed},
    fixture,
    tmpfs::{Mount, Tmpfs},
    wait_for,
};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

/// A store, and a backup of another state of it.
struct Lab {
    scratch: tempfile::TempDir,
    store: PathBuf,
    backup: PathBuf,
}

impl Lab {
    /// With the store below this directory of the scratch.
    fn new(below: &str) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap();
        let store = root.join(below).join("chroma");
        let lab = Self { store, backup: root.join("backup"), scratch };
        lab.refill();
        copy_tree(&fixture("chroma-1.5.9-deleted", &root), &lab.backup);
        lab
    }

    /// The old content, and nothing that a restore has left.
    fn refill(&self) {
        fs::create_dir_all(&self.store).unwrap();
        for dir in [&self.store, self.store.parent().unwrap()] {
            for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()) {
                let name = entry.file_name();
                let ours = name.to_str().unwrap().contains("chroma") && name != "chroma"
                    || *dir == self.store;
                if !ours || name.to_str().unwrap().starts_with("chroma-") {
                    continue;
                }
                if entry.file_type().unwrap().is_dir() {
                    fs::remove_dir_all(entry.path()).unwrap();
                } else {
                    fs::remove_file(entry.path()).unwrap();
                }
            }
        }
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chroma-1.5.9");
        copy_tree(&from, &self.store);
        fs::write(self.store.join("notes.txt"), "mine").unwrap();
    }

    fn command(&self) -> Command {
        let mut command = Command::new(support::binary());
        self.arguments(&mut command);
        command
    }

    fn arguments(&self, command: &mut Command) {
        command.args(["restore", "--state.dir", "/nonexistent", "--store.path"]).arg(&self.store);
        command.stdin(Stdio::null());
    }

    fn restore(&self) -> Output {
        self.command().arg(&self.backup).output().unwrap()
    }

    fn undo(&self) -> Output {
        self.command().arg("--undo").output().unwrap()
    }

    /// Ends what was cut off.
    fn resume(&self) -> Output {
        self.command().output().unwrap()
    }

    fn old() -> Content {
        content(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chroma-1.5.9"))
    }

    /// What a Chroma that starts now would find.
    fn must_be_whole(&self, what: &str) -> &'static str {
        let database = self.store.join("chroma.sqlite3");
        match fs::symlink_metadata(&database) {
            Ok(meta) if meta.is_symlink() => {
                assert!(fs::metadata(&database).unwrap().is_dir(), "{what}: it can be opened");
                return "gate";
            }
            Ok(_) => {}
            Err(error) => panic!("{what}: a Chroma that starts now makes an empty store: {error}"),
        }
        let found = content(&self.store);
        if found == Self::old() {
            "old"
        } else {
            assert!(found == content(&self.backup), "{what}: neither old nor new");
            "new"
        }
    }
}

type Content = BTreeMap<PathBuf, Vec<u8>>;

/// Chroma's files in a directory.
fn content(dir: &Path) -> Content {
    let mut out = Content::new();
    for entry in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()) {
        let name = PathBuf::from(entry.file_name());
        let text = name.to_str().unwrap();
        if entry.file_type().unwrap().is_dir() && text.len() == 36 {
            for inner in fs::read_dir(entry.path()).unwrap().map(|inner| inner.unwrap()) {
                out.insert(name.join(inner.file_name()), fs::read(inner.path()).unwrap());
            }
        } else if text.starts_with("chroma.sqlite3") {
            out.insert(name, fs::read(entry.path()).unwrap());
        }
    }
    out
}

fn must_end(out: &Output, code: i32, words: &str) {
    let text =
        format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert_eq!(out.status.code(), Some(code), "{text}");
    assert!(text.contains(words), "no {words:?} in: {text}");
}

/// Killed when dropped, with those whom a kill is handed on to.
struct Kill(Child);

impl Drop for Kill {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// What real Chroma has after the restore of an archive of ours, and after its undo, although it was opened in between: the state
/// after the last operation of the one ledger, and of the other.
fn real_chroma(release: &'static str) {
    let scratch = tempfile::tempdir().unwrap();
    let root = scratch.path().canonicalize().unwrap();
    let store = root.join("chroma");
    let churned = |dir: &Path, seconds: &str| {
        let ledger = dir.with_extension("ledger");
        let mut churn = chroma::script(release);
        churn.arg("churn").arg(dir).arg(&ledger).arg(seconds);
        assert!(churn.status().unwrap().success());
        ledger
    };
    let last = |ledger: &Path| fs::read_to_string(ledger).unwrap().lines().count();
    let must_have = |ledger: &Path| {
        let out = chroma::script(release).arg("restored").arg(&store).arg(ledger).output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(document["operation"], last(ledger), "{document}");
    };
    let run = |words: &[&str]| {
        let mut command = Command::new(support::binary());
        command.args(words).args(["--state.dir", "/nonexistent", "--store.path"]).arg(&store);
        command.output().unwrap()
    };
    let first = churned(&store, "3");
    let backups = root.join("backups");
    fs::create_dir(&backups).unwrap();
    must_end(
        &run(&["backup", "--config.file", ROOMY_FILE, "--to", backups.to_str().unwrap()]),
        0,
        "",
    );
    let named = |entry: fs::DirEntry| {
        entry.file_name().to_str().unwrap().ends_with(".tar.zst").then(|| entry.path())
    };
    let backup = fs::read_dir(&backups).unwrap().find_map(|entry| named(entry.unwrap())).unwrap();
    let other = root.join("other");
    let second = churned(&other, "6");
    assert_ne!(last(&first), last(&second));
    fs::remove_dir_all(&store).unwrap();
    fs::rename(&other, &store).unwrap();

    let backup = backup.to_str().unwrap();
    let restored = "To undo: chroma_exporter restore --undo --store.path ";
    must_end(&run(&["restore", backup]), 0, restored);
    must_have(&first);
    must_end(&run(&["restore", "--undo"]), 0, "as it was before the restore");
    must_have(&second);
    must_end(&run(&["restore", "--undo"]), 3, "no restore of");
    // Records that are written after a restore are not put away unasked.
    must_end(&run(&["restore", backup]), 0, restored);
    chroma::Embedded::start(release, &store).end();
    must_end(&run(&["restore", "--undo"]), 3, "were written since");
    must_end(&run(&["restore", "--undo", "--accept-loss"]), 0, "as it was before the restore");
    must_have(&second);
}

#[test]
fn chroma_1_5_9_has_what_was_restored_and_what_was_put_back() {
    real_chroma("1.5.9");
}

#[test]
fn chroma_0_6_3_has_what_was_restored_and_what_was_put_back() {
    real_chroma("0.6.3");
}

#[test]
fn a_store_that_somebody_uses_is_left_alone() {
    let lab = Lab::new("here");
    let server = chroma::Server::start("1.5.9", &lab.store);
    let out = lab.restore();
    must_end(&out, 3, &format!("process {} (", server.child.id()));
    must_end(&out, 3, "kill ");
    let out =
        lab.command().args(["--output", "json", "--chroma-is-stopped"]).arg(&lab.backup).output();
    let document: serde_json::Value = serde_json::from_slice(&out.unwrap().stdout).unwrap();
    assert_eq!(document["held_by"][0]["pid"], server.child.id(), "{document}");
    // Where /proc shows nobody else, as in a container.
    let alone = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];
    let mut command = Command::new(alone[0]);
    command.args(&alone[1..]).arg(support::binary());
    lab.arguments(&mut command);
    let out = command.arg("--chroma-is-stopped").arg(&lab.backup).output().unwrap();
    must_end(&out, 3, "in another container");
    drop(server);
    let free = || lab.restore().status.code().filter(|code| *code == 0);
    wait_for("the store to be free", SOON, free);
    assert_eq!(lab.must_be_whole("free"), "new");
}

#[test]
fn our_own_exporter_is_in_nobodys_way() {
    let lab = Lab::new("here");
    let exporter = support::Exporter::start(&[
        "--store.path",
        &format!("main={}", lab.store.display()),
        "--state.dir",
        "/nonexistent",
    ]);
    exporter.wait_page("the contents", SOON, |page| page.get("chroma_records", &[]).is_some());
    must_end(&lab.restore(), 0, "restored from");
    assert_eq!(lab.must_be_whole("watched"), "new");
}

#[test]
fn owners_and_modes_stay_those_of_the_store() {
    let lab = Lab::new("here");
    let mut open = vec![lab.store.clone()];
    while let Some(path) = open.pop() {
        chown(&path, Some(12_345), Some(54_321)).unwrap();
        let mode = if path.is_dir() { 0o2770 } else { 0o640 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        if path.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    must_end(&lab.restore(), 0, "restored from");
    let mut open = vec![lab.store.clone()];
    let mut seen = 0;
    while let Some(path) = open.pop() {
        let meta = fs::metadata(&path).unwrap();
        let mode = if path.is_dir() { 0o2770 } else { 0o640 };
        assert_eq!(
            (meta.uid(), meta.gid(), meta.mode() & 0o7777),
            (12_345, 54_321, mode),
            "{path:?}"
        );
        if path.is_dir() {
            open.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        seen += 1;
    }
    assert!(seen > 5);
    // Somebody else may not give files away, and says so before anything is touched.
    let all = fs::Permissions::from_mode(0o777);
    for dir in [lab.scratch.path(), lab.store.parent().unwrap(), &lab.store] {
        fs::set_permissions(dir, all.clone()).unwrap();
    }
    let program = lab.scratch.path().join("chroma_exporter");
    fs::copy(support::binary(), &program).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&program);
    lab.arguments(&mut command);
    let out = command.arg("--chroma-is-stopped").arg(&lab.backup).output().unwrap();
    assert_ne!(out.status.code(), Some(0));
    assert_eq!(lab.must_be_whole("another user"), "new");
}

/// Restores and undoes, and gives the way by which that was done.
fn there_and_back(lab: &Lab, words: &str) {
    must_end(&lab.restore(), 0, words);
    assert_eq!(lab.must_be_whole("restored"), "new");
    assert_eq!(fs::read_to_string(lab.store.join("notes.txt")).unwrap(), "mine");
    must_end(&lab.undo(), 0, "as it was before");
    assert_eq!(lab.must_be_whole("undone"), "old");
    assert_eq!(fs::read_to_string(lab.store.join("notes.txt")).unwrap(), "mine");
}

#[test]
fn the_root_of_a_volume_is_exchanged_from_inside() {
    let lab = Lab::new("volume");
    fs::remove_dir_all(&lab.store).unwrap();
    let volume = Tmpfs::mount(&lab.store, "64m");
    lab.refill();
    there_and_back(&lab, "Files are exchanged one by one: the directory is a mount point");
    let (kept, beside): (Vec<_>, Vec<_>) = fs::read_dir(&volume.0)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .partition(|name| name.starts_with(".chroma_exporter.quarantine."));
    assert_eq!(kept.len(), 1, "{beside:?}");
}

#[test]
fn a_directory_of_the_lower_layer_of_an_overlay_is_exchanged() {
    let lab = Lab::new("lower");
    let root = lab.scratch.path().canonicalize().unwrap();
    let base = Mount::new(&root.join("base"), &["-t", "tmpfs", "-o", "size=64m", "tmpfs"]);
    for name in ["upper", "work"] {
        fs::create_dir(base.0.join(name)).unwrap();
    }
    let options = format!(
        "lowerdir={}/lower,upperdir={1}/upper,workdir={1}/work",
        root.display(),
        base.0.display()
    );
    let merged = Mount::new(&root.join("merged"), &["-t", "overlay", "-o", &options, "overlay"]);
    let inside = Lab { store: merged.0.join("chroma"), ..lab };
    there_and_back(&inside, "restored from");
}

#[test]
fn a_container_that_has_the_directory_mounted_sees_the_new_content() {
    let lab = Lab::new("here");
    let inside = lab.scratch.path().join("inside");
    fs::create_dir(&inside).unwrap();
    let script = format!(
        "mount --bind '{}' '{1}' && : > '{1}/notes.txt.ready' && exec sleep 600",
        lab.store.display(),
        inside.display()
    );
    let container = Command::new("unshare")
        .args(["--mount", "--fork", "--kill-child", "sh", "-c", &script])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let container = Kill(container);
    let ready = lab.store.join("notes.txt.ready");
    wait_for("the container", SOON, || ready.exists().then_some(()));
    must_end(&lab.restore(), 0, "has the directory mounted at");
    // The shell has become a sleep, the child of unshare.
    let children = format!("/proc/{0}/task/{0}/children", container.0.id());
    let pid = fs::read_to_string(children).unwrap();
    let seen =
        PathBuf::from(format!("/proc/{}/root", pid.trim())).join(inside.strip_prefix("/").unwrap());
    assert!(content(&seen) == content(&lab.backup), "the container sees what was restored");
}

/// What the program makes of it when the `at`th call of this kind fails, or when it is killed at it.
fn injected(lab: &Lab, call: &str, what: &str, at: usize, more: &[&str]) -> Output {
    let mut command = cut::injected(call, what, at);
    lab.arguments(&mut command);
    command.args(more).output().unwrap()
}

/// What `check` says of a store that nobody can open, with the command that helps.
fn must_be_told(lab: &Lab, what: &str) {
    let out = Command::new(support::binary())
        .args([
            "check",
            "--quick",
            "--output",
            "json",
            "--no-collector.disk",
            "--state.dir",
            "/nonexistent",
        ])
        .arg("--store.path")
        .arg(&lab.store)
        .output()
        .unwrap();
    let document: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let findings = document["stores"][0]["findings"].as_array().unwrap();
    let of = |code: &str| findings.iter().filter(|finding| finding["code"] == code).count();
    assert_eq!(
        (out.status.code(), of("restore_interrupted")),
        (Some(2), 1),
        "{what}: {findings:?}"
    );
    assert_eq!(of("sqlite_not_regular"), 0, "{what}: {findings:?}");
    let command = findings[0]["remedy_command"].as_str().unwrap();
    let want = format!("chroma_exporter restore --store.path {}", lab.store.display());
    assert_eq!(command, want, "{what}");
}

/// Killed at each call in turn; the next run ends it one way or the other.
fn kill_everywhere(lab: &Lab) {
    let backup = lab.backup.to_str().unwrap();
    let (mut kills, mut gates) = (0, 0);
    for call in CALLS {
        for at in 1.. {
            lab.refill();
            let survived = !was_killed(&injected(lab, call, "signal=KILL", at, &[backup]));
            let what = format!("killed at {call} {at}");
            let was = lab.must_be_whole(&what);
            kills += usize::from(!survived);
            gates += usize::from(was == "gate");
            if was == "gate" {
                must_be_told(lab, &what);
            }
            if !survived {
                // The same command once more, the one that only ends what was cut off, or an undo.
                match at % 3 {
                    0 => must_end(&lab.restore(), 0, "restored from"),
                    1 => drop(lab.resume()),
                    _ => drop(lab.undo()),
                }
            }
            let now = lab.must_be_whole(&format!("{what}, then ended"));
            assert_ne!(now, "gate", "{what}");
            if at % 3 == 0 {
                assert_eq!(now, "new", "{what}");
            }
            if now == "new" {
                // And an undo, killed at the same call.
                let killed = was_killed(&injected(lab, call, "signal=KILL", at, &["--undo"]));
                let what = format!("undo {what}");
                lab.must_be_whole(&what);
                drop(lab.resume());
                let now = lab.must_be_whole(&format!("{what}, then ended"));
                assert!(killed || now == "old", "{what}");
                assert_ne!(now, "gate", "{what}");
            }
            if survived {
                break;
            }
        }
    }
    assert!(kills > 15, "only {kills} kills");
    println!("{kills} kills, {gates} of them left a database that nobody can open");
}

#[test]
fn killed_at_any_call_in_a_plain_directory_it_is_the_old_or_the_new() {
    kill_everywhere(&Lab::new("here"));
}

#[test]
fn killed_at_any_call_in_a_volume_it_is_the_old_or_the_new() {
    let lab = Lab::new("volume");
    fs::remove_dir_all(&lab.store).unwrap();
    let _volume = Tmpfs::mount(&lab.store, "64m");
    kill_everywhere(&lab);
}

#[test]
fn a_filesystem_that_is_too_small_at_any_point_changes_nothing() {
    let lab = Lab::new("small");
    let needed = du(&lab.backup) + du(&lab.store);
    let (mut refused, mut restored) = (0, 0);
    fs::remove_dir_all(&lab.store).unwrap();
    for kib in (needed / 2..needed + 256).step_by(48) {
        let volume = Tmpfs::mount(&lab.store, &format!("{kib}k"));
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chroma-1.5.9");
        // Where even the store has no room there is nothing to try.
        let all = format!("{}/.", from.display());
        if !Command::new("cp").arg("-r").arg(all).arg(&volume.0).status().unwrap().success() {
            continue;
        }
        let out = lab.restore();
        match out.status.code() {
            Some(0) => {
                restored += 1;
                assert_eq!(lab.must_be_whole("enough"), "new");
            }
            code => {
                refused += 1;
                assert_eq!(code, Some(2), "{}", String::from_utf8_lossy(&out.stderr));
                assert_eq!(lab.must_be_whole("too small"), "old");
                let left = fs::read_dir(&volume.0).unwrap();
                let names: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
                assert!(
                    names
                        .iter()
                        .all(|name| !name.to_str().unwrap().starts_with(".chroma_exporter")),
                    "{names:?}"
                );
            }
        }
    }
    assert!(refused > 0 && restored > 0, "{refused} refused, {restored} restored");
}

/// Kibibytes that a directory takes.
fn du(dir: &Path) -> usize {
    let out = Command::new("du").arg("-sk").arg(dir).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn a_disk_that_refuses_a_call_leaves_the_old_or_the_new() {
    let lab = Lab::new("volume");
    fs::remove_dir_all(&lab.store).unwrap();
    let _volume = Tmpfs::mount(&lab.store, "64m");
    let mut refused = 0;
    for call in CALLS {
        let mut fine = 0;
        for at in 1.. {
            lab.refill();
            let error = if at % 2 == 0 { "error=ENOSPC" } else { "error=EIO" };
            let out = injected(&lab, call, error, at, &[lab.backup.to_str().unwrap()]);
            let what = format!("{error} at {call} {at}: {}", String::from_utf8_lossy(&out.stderr));
            match lab.must_be_whole(&what) {
                "gate" => panic!("{what}"),
                "new" if out.status.code() == Some(0) => fine += 1,
                _ => {
                    assert_eq!(out.status.code(), Some(2), "{what}");
                    (fine, refused) = (0, refused + 1);
                }
            }
            drop(lab.resume());
            assert_ne!(lab.must_be_whole(&what), "gate");
            // There are no more calls of this kind; one whose failure does not matter is not taken for that.
            if fine == 2 {
                break;
            }
        }
    }
    assert!(refused > 15, "only {refused} refused");
}
