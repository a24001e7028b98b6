//! `backup` on directories that real Chroma made: what is in it, what is kept, and what is left of one that was cut off.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::support::{ROOMY, ROOMY_FILE, binary, copy_tree, fixture, random::Random, run};

/// Runs `backup --output json` and gives its exit code and what it says of the one store.
fn backup(store: &Path, to: &Path, more: &[&str]) -> (i32, Value) {
    let (store, to) = (store.to_str().unwrap(), to.to_str().unwrap());
    let words = ["backup", "--output", "json", "--config.file", ROOMY_FILE, "--to", to, store];
    reported(&run(&[&words[..], more].concat()))
}

fn reported(output: &Output) -> (i32, Value) {
    let text = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    let mut document: Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text} {err}"));
    (output.status.code().unwrap(), document["backups"][0].take())
}

fn path_of(reported: &Value) -> PathBuf {
    PathBuf::from(reported["backup"].as_str().unwrap_or_else(|| panic!("{reported}")))
}

/// Everything in an archive, in its order.
fn unpacked(archive: &Path) -> Vec<(String, Vec<u8>)> {
    let packed = fs::File::open(archive).unwrap();
    let mut tar = tar::Archive::new(zstd::stream::read::Decoder::new(packed).unwrap());
    let mut out = Vec::new();
    for entry in tar.entries().unwrap() {
        let mut entry = entry.unwrap();
        assert!(entry.header().entry_type().is_file(), "{:?}", entry.header());
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        out.push((name, bytes));
    }
    out
}

fn manifest(backup: &Path) -> Value {
    let text = if backup.is_dir() {
        fs::read(backup.join("manifest.json")).unwrap()
    } else {
        let (name, text) = unpacked(backup).swap_remove(0);
        assert_eq!(name, "manifest.json", "the first entry");
        text
    };
    serde_json::from_slice(&text).unwrap()
}

fn names(dir: &Path) -> BTreeSet<String> {
    let name =
        |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    fs::read_dir(dir).unwrap().map(name).collect()
}

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

/// A store and an empty destination.
fn rooms(scratch: &Path, name: &str) -> (PathBuf, PathBuf) {
    let (store, to) = (fixture(name, scratch), scratch.join("backups"));
    fs::create_dir_all(&to).unwrap();
    (store, to)
}

#[test]
fn stores_of_every_release_are_copied_whole_in_both_forms() {
    for name in [
        "chroma-0.4.24",
        "chroma-0.5.5",
        "chroma-0.6.3",
        "chroma-0.6.3-deleted",
        "chroma-1.1.1",
        "chroma-1.5.9",
        "chroma-1.5.9-deleted",
        "chroma-1.5.9-fresh",
        "chroma-1.5.9-journal-left",
    ] {
        let scratch = tempfile::tempdir().unwrap();
        let (store, to) = rooms(scratch.path(), name);
        let before = tree(&store);
        for form in ["archive", "directory"] {
            let (code, reported) = backup(&store, &to, &["--form", form]);
            assert_eq!(
                (code, reported["status"].as_str()),
                (0, Some("proven")),
                "{name}: {reported}"
            );
            let path = path_of(&reported);
            let files: BTreeMap<String, Vec<u8>> =
                if form == "archive" { unpacked(&path).into_iter().collect() } else { tree(&path) };
            let manifest = manifest(&path);
            let listed = manifest["files"].as_array().unwrap();
            assert_eq!(listed.len() + 1, files.len(), "{name}: {listed:?}");
            for file in listed {
                let bytes = &files[file["path"].as_str().unwrap()];
                assert_eq!(file["bytes"].as_u64(), Some(bytes.len() as u64), "{name}: {file}");
                assert_eq!(file["sha256"].as_str().unwrap(), sum(bytes), "{name}: {file}");
            }
            let whole = if form == "archive" {
                fs::read(&path).unwrap()
            } else {
                files["manifest.json"].clone()
            };
            assert_eq!(reported["sha256"].as_str().unwrap(), sum(&whole), "{name}");
            // No writer: every byte is that of the store.
            for (path, bytes) in files.iter().filter(|(path, _)| *path != "manifest.json") {
                assert!(before[path] == *bytes, "{name}: {path} is another");
            }
            assert_eq!(manifest["proof"]["restores"], "whole");
            assert_eq!(manifest["store"].as_str(), store.to_str());
        }
        assert!(tree(&store) == before, "{name}: the store was changed");
        assert_eq!(names(&to).len(), 2);
    }
}

/// All files below a directory.
fn tree(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut out = BTreeMap::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned();
                out.insert(name, fs::read(path).unwrap());
            }
        }
    }
    out
}

#[test]
fn a_transaction_that_was_cut_off_is_rolled_back_in_the_copy_alone() {
    let scratch = tempfile::tempdir().unwrap();
    let (store, to) = rooms(scratch.path(), "chroma-1.5.9-hot-journal");
    let before = tree(&store);
    let (code, reported) = backup(&store, &to, &["--form", "directory"]);
    assert_eq!(code, 0, "{reported}");
    assert!(reported["notes"].to_string().contains("journal was played"), "{reported}");
    let copy = tree(&path_of(&reported));
    assert!(!copy.contains_key("chroma.sqlite3-journal"));
    assert!(copy["chroma.sqlite3"] != before["chroma.sqlite3"], "nothing was rolled back");
    assert!(tree(&store) == before, "the store was changed");
}

#[test]
fn a_damaged_store_is_kept_but_counts_as_nothing_and_removes_nothing() {
    let scratch = tempfile::tempdir().unwrap();
    let (store, to) = rooms(scratch.path(), "chroma-1.5.9");
    for _ in 0..2 {
        assert_eq!(backup(&store, &to, &["--keep-last", "2"]).0, 0);
    }
    let whole = names(&to);
    let index = fs::read_dir(&store).unwrap().map(|entry| entry.unwrap().path());
    let index = index.filter(|path| path.is_dir()).max_by_key(|dir| {
        fs::metadata(dir.join("index_metadata.pickle")).map_or(0, |meta| meta.len())
    });
    let level0 =
        fs::File::options().write(true).open(index.unwrap().join("data_level0.bin")).unwrap();
    level0.set_len(100).unwrap();
    let hook = scratch.path().join("ran");
    let touch = ["--after", "touch", hook.to_str().unwrap()];
    let (code, reported) = backup(&store, &to, &[&["--keep-last", "1"][..], &touch].concat());
    assert_eq!((code, reported["status"].as_str()), (1, Some("with_losses")), "{reported}");
    assert!(!reported["losses"].as_array().unwrap().is_empty(), "{reported}");
    assert_ne!(manifest(&path_of(&reported))["proof"]["restores"], "whole");
    let names = names(&to);
    assert!(whole.is_subset(&names) && names.len() == 3, "{names:?}");
    assert!(!hook.exists(), "the program ran for a backup that is not proven");
    let (dir, out) = (store.to_str().unwrap(), to.to_str().unwrap());
    let reported = run(&["backup", dir, "--to", out, "--config.file", ROOMY_FILE]);
    let text = String::from_utf8(reported.stdout).unwrap();
    assert!(text.contains("not proven") && text.contains("missing: "), "{text}");
}

#[test]
fn without_a_destination_each_store_is_backed_up_as_its_configuration_says() {
    let scratch = tempfile::tempdir().unwrap();
    let (store, to) = rooms(scratch.path(), "chroma-1.5.9");
    let (dir, out) = (store.to_str().unwrap(), to.to_str().unwrap());
    let file = scratch.path().join("chroma_exporter.yml");
    let file = file.to_str().unwrap();
    let job = format!("backup: {{to: \"{out}\", at: \"02:00\", form: directory}}");
    let own = format!("{ROOMY}stores:\n  - name: own\n    path: \"{dir}\"\n    {job}\n");
    fs::write(file, own).unwrap();
    let words = ["backup", "--output", "json", "--config.file", file];
    let (code, reported) = reported(&run(&words));
    let found = (code, reported["store"].as_str(), reported["form"].as_str());
    assert_eq!(found, (0, Some("own"), Some("directory")), "{reported}");
    assert!(path_of(&reported).starts_with(&to), "{reported}");
    // Nobody says where to: nothing is made, also of a store for which it is known.
    let before = names(&to);
    let other = scratch.path().join("other");
    copy_tree(&store, &other);
    for more in [&[other.to_str().unwrap()][..], &["--form", "archive"]] {
        let output = run(&[&words[..], more].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("--to"), "{more:?}: {said}");
        assert_eq!(names(&to), before);
    }
}

#[test]
fn what_no_rule_keeps_is_removed_and_names_of_others_are_left_alone() {
    let scratch = tempfile::tempdir().unwrap();
    let (store, to) = rooms(scratch.path(), "chroma-1.1.1");
    let others = [
        "chroma-1.1.1.backup.20200101_020000.tar.gz",
        "chroma-1.1.1.backup.20200101_020000.tar.zst",
        "chroma-1.1.1.backup.20200101_020000",
        ".chroma-1.1.1.backup.partial",
        "notes.txt",
    ];
    for name in others {
        fs::write(to.join(name), "of somebody else").unwrap();
    }
    // Of runs that were killed.
    fs::create_dir(to.join(".chroma-1.1.1.backup.20200101_020000.partial")).unwrap();
    fs::create_dir(to.join(".chroma-1.1.1.backup.20200102_020000.removed")).unwrap();
    fs::write(to.join(".chroma-1.1.1.backup.20200101_020000.tar.zst.partial"), "x").unwrap();
    let mut made = Vec::new();
    for form in ["archive", "directory", "archive", "archive"] {
        let (code, reported) = backup(&store, &to, &["--form", form, "--keep-last", "2"]);
        assert_eq!(code, 0, "{reported}");
        made.push(path_of(&reported).file_name().unwrap().to_str().unwrap().to_owned());
        if made.len() > 2 {
            assert_eq!(
                reported["pruned"][0].as_str(),
                Some(made[made.len() - 3].as_str()),
                "{reported}"
            );
        }
    }
    let mut want: BTreeSet<String> = others.iter().map(ToString::to_string).collect();
    want.extend(made[2..].iter().cloned());
    assert_eq!(names(&to), want);
}

/// As after a clock that was set back: those before have later names.
#[test]
fn a_backup_that_was_just_made_is_never_removed_whatever_its_name_says() {
    let scratch = tempfile::tempdir().unwrap();
    let (store, to) = rooms(scratch.path(), "chroma-1.5.9");
    let mut want = BTreeSet::new();
    for year in [2098, 2099] {
        let made = path_of(&backup(&store, &to, &[]).1);
        let later = format!("chroma-1.5.9.backup.{year}0101_000000.tar.zst");
        fs::rename(made, to.join(&later)).unwrap();
        want.insert(later);
    }
    let (code, reported) = backup(&store, &to, &["--keep-last", "2"]);
    assert_eq!((code, reported["pruned"].as_array().map(Vec::len)), (0, Some(0)), "{reported}");
    want.insert(path_of(&reported).file_name().unwrap().to_str().unwrap().to_owned());
    assert_eq!(names(&to), want);
}

#[test]
fn a_directory_shares_what_did_not_change_with_the_one_before() {
    let scratch = tempfile::tempdir().unwrap();
    let (store, to) = rooms(scratch.path(), "chroma-1.5.9");
    let form = ["--form", "directory", "--keep-last", "9"];
    let all = tree(&store).len() as u64;
    assert_eq!(backup(&store, &to, &form).1["files_shared"], 0);
    // What was written a moment ago may be written again within the same tick of a clock.
    let (_, reported) =
        crate::support::wait_for("a store that is at rest", crate::support::SOON, || {
            let (code, reported) = backup(&store, &to, &form);
            assert_eq!(code, 0, "{reported}");
            (reported["files_shared"] == all).then_some((code, reported))
        });
    let copy = path_of(&reported);
    assert_eq!(manifest(&copy)["proof"]["restores"], "whole");
    assert!(fs::metadata(copy.join("chroma.sqlite3")).unwrap().nlink() > 1 || reflinks(&to));
    // Another store in its place: nothing of it is the same.
    let sqlite = rusqlite::Connection::open(store.join("chroma.sqlite3")).unwrap();
    sqlite.execute_batch("CREATE TABLE more(x); DROP TABLE more").unwrap();
    drop(sqlite);
    let (code, reported) = backup(&store, &to, &form);
    assert_eq!((code, reported["files_shared"].as_u64()), (0, Some(all - 1)), "{reported}");
    let new = fs::metadata(path_of(&reported).join("chroma.sqlite3")).unwrap();
    assert_eq!(new.nlink(), 1);
}

/// Whether the filesystem makes copies that share blocks, so that nothing is linked.
fn reflinks(dir: &Path) -> bool {
    fs::write(dir.join("x"), "x").unwrap();
    let status = Command::new("cp")
        .args(["--reflink=always", "x", "y"])
        .current_dir(dir)
        .stderr(Stdio::null())
        .status();
    status.unwrap().success()
}

#[test]
fn no_backup_goes_into_the_store_by_whatever_way() {
    let scratch = tempfile::tempdir().unwrap();
    let store = fixture("chroma-1.5.9", scratch.path());
    let before = tree(&store);
    let link = scratch.path().join("link");
    symlink(&store, &link).unwrap();
    let mut folders = fs::read_dir(&store).unwrap().map(|entry| entry.unwrap().path());
    let folder = folders.find(|path| path.is_dir()).unwrap();
    for to in [&store, &link, &folder, &link.join(".")] {
        let (code, reported) = backup(&store, to, &[]);
        assert_eq!((code, reported["status"].as_str()), (2, Some("not_made")), "{reported}");
        assert!(
            reported["error"].as_str().unwrap().contains("which is to be backed up"),
            "{reported}"
        );
    }
    assert!(tree(&store) == before);
}

#[test]
fn a_destination_that_cannot_be_used_is_refused_with_the_reason() {
    let scratch = tempfile::tempdir().unwrap();
    let (store, to) = rooms(scratch.path(), "chroma-1.5.9");
    let file = scratch.path().join("file");
    fs::write(&file, "x").unwrap();
    let full = scratch.path().join("full.yml");
    fs::write(
        &full,
        "disk:
  warn_ratio: 0.002
  recover_ratio: 0.001
",
    )
    .unwrap();
    let empty = scratch.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let full = ["--config.file", full.to_str().unwrap()];
    for (store, to, more, said) in [
        (&store, &scratch.path().join("none"), &[][..], "cannot use"),
        (&store, &file, &[], "cannot use"),
        (&empty, &to, &[], "no directory of Chroma"),
        (&scratch.path().join("gone"), &to, &[], "no directory of Chroma"),
        (&store, &to, &full, "not enough room"),
    ] {
        let (code, reported) = backup(store, to, more);
        assert_eq!((code, reported["status"].as_str()), (2, Some("not_made")), "{reported}");
        assert!(reported["error"].as_str().unwrap().contains(said), "{said}: {reported}");
        assert!(!reported["hint"].as_str().unwrap().is_empty());
    }
    assert!(names(&to).is_empty(), "something was left");
}

#[test]
fn the_program_after_it_is_told_which_backup_it_is_about() {
    let scratch = tempfile::tempdir().unwrap();
    let (store, to) = rooms(scratch.path(), "chroma-1.5.9");
    for form in ["archive", "directory"] {
        let script = "cat \"$1\" > \"$2.copy\"; echo \"$3\"; exit 3";
        let after = ["--after", "sh", "-c", script, "sh", "{manifest}", "{path}", "{sha256}"];
        let (code, reported) = backup(&store, &to, &[&["--form", form][..], &after].concat());
        // The backup is there and proven, whatever the program says.
        assert_eq!((code, reported["after"]["exit_code"].as_i64()), (0, Some(3)), "{reported}");
        let path = path_of(&reported);
        assert_eq!(reported["after"]["output"], reported["sha256"]);
        let copy = fs::read(format!("{}.copy", path.display())).unwrap();
        let copy: Value = serde_json::from_slice(&copy).unwrap();
        assert_eq!(copy, manifest(&path), "{form}");
    }
    assert_eq!(names(&to).len(), 4, "{:?}", names(&to));
}

#[test]
fn one_that_is_killed_at_any_instant_leaves_the_proven_ones_and_nothing_that_stays() {
    let scratch = tempfile::tempdir().unwrap();
    let (store, to) = rooms(scratch.path(), "chroma-0.6.3");
    for _ in 0..2 {
        assert_eq!(backup(&store, &to, &["--keep-last", "2"]).0, 0);
    }
    let mut random = Random(15);
    let mut cut = 0;
    for round in 0..40 {
        let form = if round % 2 == 0 { "archive" } else { "directory" };
        let mut child = Command::new(binary())
            .args([
                "backup",
                "--form",
                form,
                "--keep-last",
                "2",
                "--config.file",
                ROOMY_FILE,
                "--to",
            ])
            .args([&to, &store])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(random.below(400)));
        child.kill().unwrap();
        cut += usize::from(child.wait().unwrap().code().is_none());
        let (hidden, shown): (Vec<String>, Vec<String>) =
            names(&to).into_iter().partition(|name| name.starts_with('.'));
        assert!(shown.len() >= 2, "{round}: a proven one is gone: {shown:?} {hidden:?}");
        for name in &shown {
            assert_eq!(manifest(&to.join(name))["proof"]["restores"], "whole", "{round}: {name}");
        }
    }
    assert!(cut > 10, "only {cut} were killed");
    assert_eq!(backup(&store, &to, &["--keep-last", "2"]).0, 0);
    let left = names(&to);
    assert!(left.len() == 2 && !left.iter().any(|name| name.starts_with('.')), "{left:?}");
}

#[test]
fn several_stores_have_a_backup_each_and_the_worst_of_them_is_the_answer() {
    let scratch = tempfile::tempdir().unwrap();
    let (one, to) = rooms(scratch.path(), "chroma-1.5.9");
    let other = scratch.path().join("other");
    copy_tree(&one, &other);
    let none = scratch.path().join("none");
    let words = |stores: &[&Path]| {
        let mut command = Command::new(binary());
        command.args(["backup", "--config.file", ROOMY_FILE, "--to"]).arg(&to);
        for store in stores {
            command.arg(store);
        }
        let output = command.output().unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = words(&[&one, &other]);
    assert_eq!((code, text.matches("proven: it restores whole").count()), (0, 2), "{text}");
    assert_eq!(names(&to).len(), 2);
    let (code, text) = words(&[&one, &none]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("it restores whole") && text.contains("no backup was made"), "{text}");
}
