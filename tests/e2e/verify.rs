//! What `verify` says of backups of real Chroma, against what real Chroma says after they were restored.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use chroma_exporter::{
    clock,
    format::manifest::Restores,
    repair::{
        steps::Steps,
        verify::{self, Options, Python, Verified},
    },
};

use crate::support::{SOON, chroma, fixture, wait_for};

fn verified(backup: &Path) -> Verified {
    verify::run(backup, &Options::default(), &Steps::default(), clock::now())
}

fn asked(backup: &Path, python: PathBuf) -> Verified {
    let options = Options { chroma: Some(Python::At(python)), ..Options::default() };
    verify::run(backup, &options, &Steps::default(), clock::now())
}

fn words(verified: &Verified) -> String {
    verified.losses.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn write(version: &str, dir: &Path, seconds: &str) -> Child {
    let mut command = chroma::script(version);
    command.args(["write".as_ref(), dir.as_os_str(), "one-".as_ref(), seconds.as_ref()]);
    command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// How many records have no vector, as Chroma says; `None` when it fails, or dies.
fn lost(version: &str, dir: &Path) -> Option<u64> {
    let out = chroma::script(version).arg("lost").arg(dir).stderr(Stdio::null()).output().unwrap();
    out.status.success().then(|| String::from_utf8(out.stdout).unwrap().trim().parse().unwrap())
}

/// Packs a directory as a line of cron does, whatever happens in it meanwhile.
fn tar(dir: &Path, to: &Path) {
    let (parent, name) = (dir.parent().unwrap(), dir.file_name().unwrap());
    let mut command = Command::new("tar");
    command.arg("-C").arg(parent).arg("-czf").arg(to).arg(name).stderr(Stdio::null());
    // It ends with 1 when a file changed while it was read.
    assert!(command.status().unwrap().code().is_some_and(|code| code <= 1));
}

#[test]
fn a_tar_of_a_live_directory_is_judged_as_chroma_judges_it_after_the_restore() {
    let mut seen = Vec::new();
    for version in ["1.5.9", "0.6.3"] {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("store");
        let mut writer = write(version, &dir, "12");
        wait_for("a flush", 2 * SOON, || {
            let entries = fs::read_dir(&dir).ok()?.flatten();
            entries.map(|entry| entry.path().join("index_metadata.pickle")).find(|p| p.exists())
        });
        let mut backups = Vec::new();
        while writer.try_wait().unwrap().is_none() && backups.len() < 5 {
            let backup = scratch.path().join(format!("live-{}.tar.gz", backups.len()));
            tar(&dir, &backup);
            backups.push(backup);
            // Spread over the life of the writer: the larger the store, the more likely a copy is torn.
            std::thread::sleep(std::time::Duration::from_millis(1200));
        }
        assert!(writer.wait().unwrap().success() && !backups.is_empty());
        let quiet = scratch.path().join("quiet.tar.gz");
        tar(&dir, &quiet);
        backups.push(quiet);
        for backup in &backups {
            let verified = verified(backup);
            let restored = scratch.path().join("restored");
            fs::create_dir(&restored).unwrap();
            let mut command = Command::new("tar");
            command.arg("-C").arg(&restored).arg("-xzf").arg(backup);
            // A tar that was cut off by a file that shrank is unpacked as far as it goes.
            command.stderr(Stdio::null()).status().unwrap();
            let lost = lost(version, &restored.join("store"));
            fs::remove_dir_all(&restored).unwrap();
            let about = format!(
                "{version} {}: {:?}, Chroma: {lost:?}; {}",
                backup.display(),
                verified.restores,
                words(&verified)
            );
            println!("{about}");
            match verified.restores {
                Restores::Whole => assert_eq!(lost, Some(0), "{about}"),
                Restores::WithLosses | Restores::Not => {}
                Restores::Unknown => panic!("{about}"),
            }
            seen.push(verified.restores);
        }
        // Nobody wrote any more.
        assert_eq!(seen.last(), Some(&Restores::Whole), "{version}");
    }
    println!("{seen:?}");
}

#[test]
fn a_real_chroma_confirms_what_is_whole() {
    for version in ["1.5.9", "1.1.1", "0.6.3", "0.4.24"] {
        let scratch = tempfile::tempdir().unwrap();
        let dir = fixture(&format!("chroma-{version}"), scratch.path());
        let backup = scratch.path().join("backup.tar.gz");
        tar(&dir, &backup);
        let verified = asked(&backup, chroma::python(version));
        assert_eq!(verified.restores, Restores::Whole, "{version}: {}", words(&verified));
        let answer = verified.chroma.unwrap();
        assert_eq!((answer.version.as_deref(), answer.whole), (Some(version), 2));
    }
}

#[test]
fn a_real_chroma_finds_what_it_cannot_give_back_and_may_die_of_it() {
    let break_it = |dir: &Path, what: &str| {
        let folder = fs::read_dir(dir).unwrap().flatten().find(|entry| entry.path().is_dir());
        let folder = folder.unwrap().path();
        let header = folder.join("header.bin");
        if what == "folder" {
            fs::remove_dir_all(&folder).unwrap();
        } else {
            let bytes = fs::read(&header).unwrap();
            fs::write(&header, &bytes[..40]).unwrap();
        }
    };
    for (what, want) in [("folder", &[Restores::WithLosses][..]), ("header", &[Restores::Not][..])]
    {
        let scratch = tempfile::tempdir().unwrap();
        let dir = fixture("chroma-1.5.9", scratch.path());
        break_it(&dir, what);
        let verified = asked(&dir, chroma::python("1.5.9"));
        assert!(want.contains(&verified.restores), "{what}: {}", words(&verified));
        assert!(words(&verified).contains("Chroma 1.5.9 "), "{what}: {}", words(&verified));
    }
}

#[test]
fn an_index_of_inner_products_is_searched_by_brute_force() {
    const MAKE: &str = "
import sys, random, chromadb
client = chromadb.PersistentClient(path=sys.argv[1])
made = client.create_collection('inner', configuration={'hnsw': {'space': 'ip', 'sync_threshold': 100, 'batch_size': 50}})
rng = random.Random(5)
for start in range(0, 330, 30):
    made.add(ids=[str(n) for n in range(start, start + 30)],
             embeddings=[[rng.uniform(-1, 1) for _ in range(16)] for _ in range(30)],
             documents=['text'] * 30)
";
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path().join("store");
    let python = chroma::python("1.5.9");
    let made = Command::new(&python).args(["-c", MAKE]).arg(&dir).status().unwrap();
    assert!(made.success());
    let verified = asked(&dir, python);
    assert_eq!(verified.restores, Restores::Whole, "{}", words(&verified));
    assert_eq!(verified.collections[0].space.as_deref(), Some("ip"));
    assert_eq!((verified.records(), verified.vectors()), (330, 330));
}
