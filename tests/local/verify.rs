//! `verify` over real stores, packed in every way that people pack them, and broken in the ways in which backups are.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use chroma_exporter::{
    clock,
    format::manifest::{File, Manifest, Restores},
    repair::{
        proof,
        steps::Steps,
        unpack,
        verify::{self, Options, Verified},
    },
};
use sha2::{Digest, Sha256};

use crate::support::{SOON, copy_tree, fixture, run, wait_until};

const FORMS: [&str; 7] = ["directory", "tar", "tar.gz", "tar.zst", "tar.xz", "tar.bz2", "zip"];

/// Packs `dir` as a user would, with its own name as the prefix.
pub(crate) fn pack(dir: &Path, form: &str) -> PathBuf {
    let (parent, name) = (dir.parent().unwrap(), dir.file_name().unwrap().to_str().unwrap());
    let out = parent.join(format!("{name}.backup.20261130_020000.{form}"));
    let mut command = Command::new(if form == "zip" { "zip" } else { "tar" });
    command.current_dir(parent).stdout(Stdio::null());
    let how = match form {
        "tar" => "-cf",
        "tar.gz" => "-czf",
        "tar.zst" => "--zstd",
        "tar.xz" => "-cJf",
        "tar.bz2" => "-cjf",
        "zip" => "-qr",
        _ => return dir.to_owned(),
    };
    command.arg(how);
    if form == "tar.zst" {
        command.arg("-cf");
    }
    let done = command.arg(&out).arg(name).status().unwrap();
    assert!(done.success(), "{form}: {done}");
    out
}

fn verified_with(backup: &Path, options: &Options) -> Verified {
    verify::run(backup, options, &Steps::default(), clock::now())
}

fn verified(backup: &Path) -> Verified {
    verified_with(backup, &Options::default())
}

fn words(verified: &Verified) -> String {
    verified.losses.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Every path below `dir` with its bytes.
pub(crate) fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut out = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            out.extend(tree(&entry.path()));
        }
        let bytes = if kind.is_file() { fs::read(entry.path()).unwrap() } else { Vec::new() };
        out.insert(entry.path(), bytes);
    }
    out
}

/// The folder of the larger collection.
fn folder(dir: &Path) -> PathBuf {
    let database = rusqlite::Connection::open(dir.join("chroma.sqlite3")).unwrap();
    let sql = "SELECT s.id FROM segments s JOIN collections c ON c.id = s.collection \
               WHERE s.scope = 'VECTOR' AND c.name = 'articles'";
    let id: String = database.query_row(sql, [], |row| row.get(0)).unwrap();
    dir.join(id)
}

#[test]
fn every_store_restores_whole_from_everything_that_it_can_be_packed_in() {
    for (name, forms, records) in [
        ("chroma-1.5.9", &FORMS[..], 136),
        ("chroma-1.5.9-hot-journal", &FORMS[..], 136),
        ("chroma-1.5.9-fresh", &["tar", "zip"], 35),
        ("chroma-1.5.9-empty", &["tar.gz"], 0),
        ("chroma-1.5.9-deleted", &["tar.zst"], 65),
        ("chroma-1.1.1", &["tar.zst"], 136),
        ("chroma-0.6.3", &["directory", "zip"], 136),
        ("chroma-0.4.24", &["tar.gz"], 136),
    ] {
        for form in forms {
            let scratch = tempfile::tempdir().unwrap();
            let backup = pack(&fixture(name, scratch.path()), form);
            let before = tree(scratch.path());
            let verified = verified(&backup);
            let about = format!("{name} {form}: {}", words(&verified));
            assert_eq!(verified.restores, Restores::Whole, "{about}");
            assert_eq!((verified.records(), verified.vectors()), (records, records), "{about}");
            assert!(verified.opened_by.is_some() && verified.moment.is_some(), "{about}");
            let rolled = verified.notes.iter().any(|note| note.contains("rolled back"));
            assert_eq!(rolled, name.ends_with("hot-journal"), "{about} {:?}", verified.notes);
            assert_eq!(tree(scratch.path()), before, "{about}: nothing is left, nothing changed");
        }
    }
}

#[test]
fn a_database_alone_has_no_vectors_in_it() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = fixture("chroma-1.5.9", scratch.path());
    let alone = scratch.path().join("chroma.backup.20261130.sqlite3");
    fs::copy(dir.join("chroma.sqlite3"), &alone).unwrap();
    assert!(Command::new("gzip").arg("-k").arg(&alone).status().unwrap().success());
    let packed = scratch.path().join("chroma.backup.20261130.sqlite3.gz");
    fs::create_dir(scratch.path().join("in")).unwrap();
    fs::copy(&alone, scratch.path().join("in/chroma.sqlite3")).unwrap();
    let tar = pack(&scratch.path().join("in"), "tar");
    for backup in [alone, packed, tar] {
        let verified = verified(&backup);
        assert_eq!(verified.restores, Restores::WithLosses, "{}", backup.display());
        assert_eq!(verified.records(), 136);
        // What the queue still holds.
        assert!(verified.vectors() < 25, "{}", verified.vectors());
        let words = words(&verified);
        assert!(words.contains("collection articles: the folder with its vectors is not there"));
        assert!(words.contains("collection notes:"), "{words}");
    }
}

#[test]
fn what_is_cut_off_is_never_called_whole() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = fixture("chroma-1.5.9", scratch.path());
    for form in &FORMS[1..] {
        let whole = fs::read(pack(&dir, form)).unwrap();
        let cut = scratch.path().join(format!("cut.{form}"));
        // A tar ends with zeros, of which some may be missing.
        let end =
            if *form == "tar" { whole.iter().rposition(|b| *b != 0).unwrap() } else { whole.len() };
        for part in 0..12 {
            let at = if part == 11 { end - 1 } else { end / 12 * part };
            fs::write(&cut, &whole[..at]).unwrap();
            let verified = verified(&cut);
            let about = format!("{form} cut at {at} of {end}: {}", words(&verified));
            assert_ne!(verified.restores, Restores::Whole, "{about}");
            assert!(!verified.losses.is_empty(), "{about}");
        }
    }
}

#[test]
fn a_torn_copy_of_a_live_store_does_not_restore() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = fixture("chroma-1.5.9", scratch.path());
    let path = dir.join("chroma.sqlite3");
    let mut torn = fs::read(&path).unwrap();
    for page in (20..torn.len() / 4096 - 1).step_by(5) {
        let (from, to) = (page * 4096, (page + 1) * 4096);
        torn.copy_within(from..from + 4096, to);
    }
    fs::write(&path, torn).unwrap();
    let verified = verified(&pack(&dir, "tar.gz"));
    assert_eq!(verified.restores, Restores::Not, "{}", words(&verified));
}

#[test]
fn a_backup_is_compared_with_its_manifest() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = fixture("chroma-1.5.9", scratch.path());
    let proven = proof::prove(&dir, &Steps::default(), clock::now()).unwrap();
    let mut files: Vec<File> = tree(&dir)
        .into_iter()
        .filter(|(path, _)| path.is_file())
        .map(|(path, bytes)| File {
            path: path.strip_prefix(&dir).unwrap().to_str().unwrap().to_owned(),
            bytes: bytes.len() as u64,
            sha256: Sha256::digest(&bytes)
                .iter()
                .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}")),
        })
        .collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let manifest = Manifest {
        format: 1,
        made_by: "a test".to_owned(),
        host: "here".to_owned(),
        store: "/srv/chroma".to_owned(),
        moment: clock::Timestamp::from_secs(1_700_000_000),
        opened_by: proven.opened_by,
        files,
        collections: proven.collections,
        proof: Some(proven.proof),
    };
    let write = |manifest: &Manifest| fs::write(dir.join("manifest.json"), manifest.to_json());
    write(&manifest).unwrap();
    // Ours has the manifest first.
    let tar = scratch.path().join("ours.tar");
    let packed = || {
        let mut command = Command::new("tar");
        command.arg("-C").arg(&dir).arg("-cf").arg(&tar).arg("manifest.json");
        let names = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name());
        command.args(names.filter(|name| name != "manifest.json"));
        assert!(command.status().unwrap().success());
    };
    packed();
    for backup in [&dir, &tar] {
        let verified = verified(backup);
        assert_eq!(verified.restores, Restores::Whole, "{}", words(&verified));
        assert_eq!(verified.moment, Some(manifest.moment));
    }
    // A byte that no check of Chroma's files would miss: a norm of an index.
    let lengths = folder(&dir).join("length.bin");
    let sound = fs::read(&lengths).unwrap();
    let mut other = sound.clone();
    let last = other.len() - 1;
    other[last] ^= 1;
    fs::write(&lengths, other).unwrap();
    packed();
    for backup in [&dir, &tar] {
        let verified = verified(backup);
        assert_ne!(verified.restores, Restores::Whole);
        assert!(words(&verified).contains("its SHA-256 is another one"), "{}", words(&verified));
    }
    fs::write(&lengths, sound).unwrap();
    let mut lying = manifest.clone();
    lying.collections[0].records += 1;
    lying.files[0].bytes += 1;
    lying.files.push(File { path: "gone".to_owned(), bytes: 1, sha256: String::new() });
    write(&lying).unwrap();
    let verified = verified(&dir);
    assert_eq!(verified.restores, Restores::WithLosses);
    let words = words(&verified);
    for reported in
        ["the manifest says", "gone is in the manifest and not in the backup", "records, the"]
    {
        assert!(words.contains(reported), "{reported}: {words}");
    }
}

#[test]
fn of_several_stores_one_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let both = scratch.path().join("both");
    fs::create_dir(&both).unwrap();
    fixture("chroma-1.5.9", &both);
    fixture("chroma-0.6.3", &both);
    for backup in [both.clone(), pack(&both, "tar.gz"), pack(&both, "zip")] {
        let several = verified(&backup);
        assert_eq!(several.restores, Restores::Unknown);
        let reported = words(&several);
        assert!(reported.contains("chroma-0.6.3") && reported.contains("--path"), "{reported}");
        let unpack =
            unpack::Options { only: Some("chroma-1.5.9".to_owned()), ..Default::default() };
        let one = verified_with(&backup, &Options { unpack, ..Options::default() });
        assert_eq!(one.restores, Restores::Whole, "{}: {}", backup.display(), words(&one));
    }
}

#[test]
fn a_store_in_use_is_no_backup() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = fixture("chroma-1.5.9", scratch.path());
    let unpack = unpack::Options { stores: vec![dir.clone()], ..Default::default() };
    let watched = verified_with(&dir, &Options { unpack, ..Options::default() });
    assert!(words(&watched).contains("a store that is in use"), "{}", words(&watched));
    let file = fs::File::options().append(true).open(dir.join("chroma.sqlite3")).unwrap();
    let mut holder = Command::new("sleep").arg("600").stdin(file).spawn().unwrap();
    wait_until("the holder is seen", SOON, || verified(&dir).restores == Restores::Unknown);
    holder.kill().unwrap();
    holder.wait().unwrap();
}

#[test]
fn what_was_opened_can_be_taken_away() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = fixture("chroma-1.5.9", scratch.path());
    let backup = pack(&dir, "tar.zst");
    let opened = unpack::open(&backup, &unpack::Options::default(), &Steps::default()).unwrap();
    let staged = scratch.path().join("staged");
    assert!(opened.is_scratch());
    opened.into(&staged).unwrap();
    let sound = |dir: &Path| -> Vec<Vec<u8>> { tree(dir).into_values().collect() };
    assert_eq!(sound(&staged), sound(&dir));
    let left: Vec<_> = fs::read_dir(scratch.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(unpack::SCRATCH_PREFIX))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let copy = unpack::Options { copy: true, ..Default::default() };
    let copied = unpack::open(&dir, &copy, &Steps::default()).unwrap();
    assert!(copied.is_scratch() && copied.dir != dir);
    assert_eq!(sound(&copied.dir), sound(&dir));
}

#[test]
fn the_command_answers_with_its_exit_code_and_says_why() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = fixture("chroma-1.5.9", scratch.path());
    let whole = pack(&dir, "tar.gz");
    let answer = |backups: &[&Path], more: &[&str]| {
        let mut args = vec!["verify"];
        args.extend(more);
        args.extend(backups.iter().map(|path| path.to_str().unwrap()));
        let out = run(&args);
        let text = String::from_utf8(out.stdout).unwrap();
        (out.status.code().unwrap(), text + &String::from_utf8_lossy(&out.stderr))
    };
    let (code, text) = answer(&[&whole], &[]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("restores whole") && text.contains("articles"), "{text}");
    assert!(text.contains("of 2026-11-30 02:00 UTC"), "{text}");
    let lossy = scratch.path().join("lossy");
    copy_tree(&dir, &lossy);
    fs::remove_dir_all(folder(&lossy)).unwrap();
    let (code, text) = answer(&[&lossy], &[]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("What does not come back:"), "{text}");
    let bad = scratch.path().join("bad.tar.gz");
    fs::write(&bad, b"\x1f\x8b").unwrap();
    let (code, text) = answer(&[&bad], &[]);
    assert_eq!(code, 2, "{text}");
    let (code, _) = answer(&[&scratch.path().join("gone")], &[]);
    assert_eq!(code, 3);
    let (code, text) = answer(&[&whole, &lossy, &bad], &["--output", "json"]);
    assert_eq!(code, 2, "{text}");
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["restores"], "not");
    let restores: Vec<_> =
        document["backups"].as_array().unwrap().iter().map(|one| &one["restores"]).collect();
    assert_eq!(restores, ["whole", "with_losses", "not"]);
    assert_eq!(document["backups"][0]["collections"][0]["tenant"], "default_tenant");
    assert_eq!(document["backups"][0]["proof"]["checks"]["full"], "ok");
    assert_eq!(answer(&[], &[]).0, 64);
    let empty = fixture("chroma-1.5.9-empty", scratch.path());
    let (code, text) = answer(&[&empty], &[]);
    assert!(code == 0 && text.contains("No collection is in it."), "{text}");
}
