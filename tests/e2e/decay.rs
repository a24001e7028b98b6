//! Bits that flip below a real filesystem: in the blocks of an ext4 image, so that no time of any file changes, as on a disk
//! that rots. SQLite's own check sees nothing; the exporter tells of it, whether or not the page cache still hides it.

use crate::support::{self, Exporter, run};
use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// An ext4 filesystem in a file, mounted.
struct Image {
    file: PathBuf,
    at: PathBuf,
}

fn ok(command: &str, args: &[&str]) -> String {
    let out = Command::new(command).args(args).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "{command} {args:?} (needs root): {said}");
    String::from_utf8(out.stdout).unwrap()
}

impl Image {
    fn new(scratch: &Path) -> Self {
        let image = Self { file: scratch.join("disk.img"), at: scratch.join("disk") };
        fs::File::create(&image.file).unwrap().set_len(64 << 20).unwrap();
        fs::create_dir(&image.at).unwrap();
        ok("mkfs.ext4", &["-q", "-b", "4096", image.file.to_str().unwrap()]);
        ok("mount", &["-o", "loop", image.file.to_str().unwrap(), image.at.to_str().unwrap()]);
        image
    }

    /// Flips a bit of the byte `at` of a file where it stands on the disk.
    fn rot(&self, path: &Path, at: u64) {
        ok("sync", &["-f", path.to_str().unwrap()]);
        let inside = path.strip_prefix(&self.at).unwrap();
        let ask = format!("bmap /{} {}", inside.display(), at / 4096);
        let block = ok("debugfs", &["-R", &ask, self.file.to_str().unwrap()]);
        let place = block.trim().parse::<u64>().unwrap() * 4096 + at % 4096;
        let disk = fs::File::options().read(true).write(true).open(&self.file).unwrap();
        let (mut there, mut seen) = ([0], [0]);
        disk.read_exact_at(&mut there, place).unwrap();
        fs::File::open(path).unwrap().read_exact_at(&mut seen, at).unwrap();
        assert_eq!(there, seen, "that is not where the byte stands");
        disk.write_all_at(&[there[0] ^ 1], place).unwrap();
        disk.sync_all().unwrap();
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.at).status());
    }
}

/// The finding `code`: its evidence and its remedy.
fn found(page: &serde_json::Value, code: &str) -> Option<(String, String)> {
    let findings = page["stores"][0]["findings"].as_array().unwrap();
    let finding = findings.iter().find(|finding| finding["code"] == code)?;
    let text = |key: &str| finding[key].as_str().unwrap().to_owned();
    Some((text("evidence"), text("remedy")))
}

#[test]
fn a_bit_that_flips_on_the_disk_is_found_in_a_vector_and_in_a_blob_of_the_queue() {
    let scratch = tempfile::tempdir().unwrap();
    let image = Image::new(scratch.path());
    let dir = support::fixture("chroma-1.5.9", &image.at);
    let (config, state) = (scratch.path().join("config.yml"), scratch.path().join("state"));
    let text = format!(
        "stores:\n  - name: main\n    path: {}\ncollect:\n  interval: 500ms\n  contents_interval: 500ms\n  \
         quick_check_interval: 1s\n  full_check_interval: 2s\n",
        dir.display()
    );
    fs::write(&config, text).unwrap();
    let args = ["--config.file", config.to_str().unwrap(), "--state.dir", state.to_str().unwrap()];
    let exporter = Exporter::start(&args);
    let check = ["check", "--output", "json", args[0], args[1], args[2], args[3]];
    let check = || {
        let out = run(&check);
        serde_json::from_slice::<serde_json::Value>(&out.stdout).unwrap()
    };

    // Files are noted when nobody has written to them for a minute.
    let state_of = |state| [("check", "decay"), ("state", state)];
    exporter.wait_page("every byte to be known", LONG, |page| {
        page.get("chroma_integrity_coverage_ratio", &[("check", "decay")]) == Some(1.0)
            && page.get("chroma_integrity_state", &state_of("ok")) == Some(1.0)
    });

    // A vector that stands in the queue only, and one of an index.
    let database = dir.join("chroma.sqlite3");
    let blob: Vec<u8> = rusqlite::Connection::open(&database)
        .unwrap()
        .query_row(
            "SELECT vector FROM embeddings_queue WHERE vector IS NOT NULL LIMIT 1",
            [],
            |row| row.get(0),
        )
        .unwrap();
    let bytes = fs::read(&database).unwrap();
    let at = bytes.windows(blob.len()).position(|window| window == blob).unwrap();
    image.rot(&database, at as u64 + 1);
    let folders = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
    let mut vectors: Vec<PathBuf> = folders.map(|folder| folder.join("data_level0.bin")).collect();
    vectors.retain(|path| path.exists());
    let good = fs::read(&vectors[0]).unwrap();
    image.rot(&vectors[0], good.len() as u64 - 16);

    exporter.wait_page("both findings", LONG, |page| {
        let findings = page.findings("main");
        ["sqlite_corrupt", "segment_inconsistent"]
            .iter()
            .all(|code| findings.contains(&(*code).to_owned()))
    });
    let seen = check();
    for code in ["sqlite_corrupt", "segment_inconsistent"] {
        let (evidence, remedy) = found(&seen, code).unwrap();
        assert!(evidence.contains("nobody wrote them: 1 of "), "{evidence}");
        assert!(evidence.contains("two readings past the page cache gave the same"), "{evidence}");
        assert!(evidence.contains("the page cache still has the good bytes"), "{evidence}");
        assert!(remedy.contains("\ncp -p "), "{remedy}");
    }
    // Every check that SQLite has says that all is well, before and after the cache is gone.
    assert_eq!(fs::read(&vectors[0]).unwrap(), good, "as the remedy promises");
    // Pages that somebody reads just now stay.
    support::wait_for("the page cache to be empty", support::SOON, || {
        fs::write("/proc/sys/vm/drop_caches", "1").unwrap();
        (fs::read(&vectors[0]).unwrap() != good).then_some(())
    });
    let pragma = rusqlite::Connection::open(&database).unwrap().query_row(
        "PRAGMA integrity_check",
        [],
        |row| row.get::<_, String>(0),
    );
    assert_eq!(pragma.unwrap(), "ok");

    // A restart neither forgets nor takes the bad bytes for good ones.
    drop(exporter);
    let exporter = Exporter::start(&args);
    let reported = |page: &support::Page| {
        let findings = page.findings("main");
        (
            findings.contains(&"sqlite_corrupt".to_owned()),
            findings.contains(&"segment_inconsistent".to_owned()),
        )
    };
    exporter
        .wait_page("both findings after a restart", LONG, |page| reported(page) == (true, true));
    // The folder comes from a backup: that finding ends, the other stays.
    fs::write(&vectors[0], &good).unwrap();
    exporter.wait_page("the end of one finding", LONG, |page| reported(page) == (true, false));
}

const LONG: Duration = Duration::from_mins(4);
