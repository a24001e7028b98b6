//! The examples of `docs/backups.md` as they stand there: restic and rclone and what comes back from them, the cron line in cron's
//! bare environment, the systemd units, and the configuration. Only paths are replaced. Needs root.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use sha2::{Digest, Sha256};

use crate::support::{Exporter, SOON, binary, fixture, tmpfs::Tmpfs};

const PAGE: &str = include_str!("../../docs/backups.md");

/// The blocks of this language below this heading.
fn blocks(heading: &str, language: &str) -> Vec<&'static str> {
    let (_, section) = PAGE.split_once(&format!("\n{heading}\n")).expect(heading);
    let section = section.split("\n## ").next().unwrap().split("\n### ").next().unwrap();
    let begin = format!("{language}\n");
    section.split("```").skip(1).step_by(2).filter_map(|block| block.strip_prefix(&begin)).collect()
}

/// A store, a destination with room, a place elsewhere, and what the examples call them.
struct Lab {
    paths: Vec<(&'static str, PathBuf)>,
    root: PathBuf,
    to: Tmpfs,
    _scratch: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap();
        let store = root.join("chroma");
        fs::rename(fixture("chroma-1.5.9", &root), &store).unwrap();
        // How full the disk of this machine is does not matter.
        let to = Tmpfs::mount(&root.join("kept"), "64m");
        let paths = vec![
            ("/restored", root.join("restored")),
            ("/backup", to.0.clone()),
            ("/srv/chroma", store),
            ("/mnt/restic", root.join("repository")),
            ("/etc/restic-password", root.join("secret")),
            ("/usr/local/bin/take-away", root.join("take-away")),
            ("/usr/bin/chroma_exporter", PathBuf::from(binary())),
        ];
        fs::write(root.join("secret"), "a password").unwrap();
        let elsewhere = root.join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        let remote = format!("[remote]\ntype = alias\nremote = {}\n", elsewhere.display());
        fs::write(root.join("rclone.conf"), remote).unwrap();
        let lab = Self { paths, root, to, _scratch: scratch };
        let script = blocks("### A script of your own", "sh")[0];
        assert!(script.starts_with("#!/bin/sh\n# /usr/local/bin/take-away: "), "{script}");
        let file = lab.root.join("take-away");
        fs::write(&file, lab.put_in(script)).unwrap();
        fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
        lab
    }

    /// An example with the paths of this test. The longest that begins at a place is the one that is meant.
    fn put_in(&self, example: &str) -> String {
        let (mut out, mut rest) = (String::new(), example);
        'next: while let Some(first) = rest.chars().next() {
            for (named, path) in &self.paths {
                if let Some(after) = rest.strip_prefix(named) {
                    out.push_str(path.to_str().unwrap());
                    rest = after;
                    continue 'next;
                }
            }
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
        out
    }

    /// A program with what cron gives to one, and the configuration of rclone.
    fn bare(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear().current_dir(&self.root);
        command.env("HOME", &self.root).env("LOGNAME", "root").env("SHELL", "/bin/sh");
        command.env("PATH", "/usr/bin:/bin").env("RCLONE_CONFIG", self.root.join("rclone.conf"));
        command
    }

    /// Runs a block of shell to its end. Programs are found, as in the shell of a person.
    fn shell(&self, example: &str) -> String {
        let programs = Path::new(binary()).parent().unwrap().display();
        let mut shell = self.bare("/bin/sh");
        shell.env("PATH", format!("{programs}:/usr/bin:/bin"));
        let output = shell.args(["-exc", &self.put_in(example)]).output().unwrap();
        well(&output, example)
    }

    /// The only backup.
    fn backup(&self) -> PathBuf {
        let found: Vec<_> = fs::read_dir(&self.to.0).unwrap().map(|e| e.unwrap().path()).collect();
        let [one] = &found[..] else { panic!("{found:?}") };
        one.clone()
    }

    fn elsewhere(&self, backup: &Path) -> PathBuf {
        self.root.join("elsewhere/chroma").join(backup.file_name().unwrap())
    }
}

/// What it said, when it went well.
fn well(output: &Output, what: &str) -> String {
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{what}\n{}\n{said}", output.status);
    said
}

fn hash(file: &Path) -> Vec<u8> {
    Sha256::digest(fs::read(file).unwrap()).to_vec()
}

#[test]
fn what_restic_kept_comes_back_whole() {
    let lab = Lab::new();
    let [keep, bring_back] = blocks("### restic", "sh")[..] else { panic!("two blocks") };
    let said = lab.shell(keep);
    assert!(said.contains("proven: it restores whole"), "{said}");
    // Once more: snapshots of backups with other names are one series to `forget`.
    let again: String = keep
        .lines()
        .filter(|line| !line.starts_with("restic init"))
        .fold(String::new(), |lines, line| lines + line + "\n");
    lab.shell(&again);
    assert_eq!(fs::read_dir(&lab.to.0).unwrap().count(), 2);
    let variables = keep.lines().next().unwrap();
    let said = lab.shell(&format!("{variables}\nset +x\nrestic snapshots --json"));
    let listed = said.lines().find(|line| line.starts_with('[')).expect(&said);
    let listed: serde_json::Value = serde_json::from_str(listed).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 1, "one a day is kept: {listed}");
    let said = lab.shell(&format!("{variables}\n{bring_back}"));
    assert!(said.contains("restores whole"), "{said}");
}

#[test]
fn what_rclone_took_comes_back_whole() {
    let lab = Lab::new();
    let [take, bring_back] = blocks("### rclone", "sh")[..] else { panic!("two blocks") };
    let said = lab.shell(take);
    assert!(said.contains("0 differences found"), "{said}");
    let backup = lab.backup();
    assert_eq!(hash(&backup), hash(&lab.elsewhere(&backup)));
    let said = lab.shell(bring_back);
    assert!(said.contains("restores whole"), "{said}");
    // What the comparison is for.
    fs::write(lab.elsewhere(&backup), "another").unwrap();
    let compare = take.lines().last().unwrap();
    let output = lab.bare("/bin/sh").args(["-c", &lab.put_in(compare)]).output().unwrap();
    assert!(!output.status.success(), "{output:?}");
}

#[test]
fn a_script_of_ones_own_is_told_path_and_hash_and_compares() {
    let lab = Lab::new();
    let example = blocks("### A script of your own", "sh")[1];
    lab.shell(example);
    let backup = lab.backup();
    assert_eq!(hash(&backup), hash(&lab.elsewhere(&backup)));
    let script = lab.root.join("take-away");
    let output =
        lab.bare(script.to_str().unwrap()).arg(&backup).arg("0".repeat(64)).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("not the same"), "{output:?}");
}

#[test]
fn the_exporter_itself_makes_a_backup_and_has_it_taken_elsewhere() {
    let lab = Lab::new();
    let [example] = blocks("## By the exporter itself", "yaml")[..] else { panic!("one block") };
    // Nobody waits until two in the morning: the other way that the comment names.
    let schedule = example.lines().find(|line| line.contains("at: ")).unwrap();
    let (_, other) = schedule.split_once("# or ").unwrap();
    let example = example.replace(schedule.trim(), other);
    let file = lab.root.join("config.yml");
    let often = "collect: {backups_interval: 1s}\n";
    fs::write(&file, lab.put_in(&example) + often).unwrap();
    let state = lab.root.join("state");
    let words = ["--config.file", file.to_str().unwrap(), "--state.dir", state.to_str().unwrap()];
    let exporter = Exporter::start_with(&words, |command| {
        command.env("RCLONE_CONFIG", lab.root.join("rclone.conf"))
    });
    let store = [("store", "documents")];
    let page = exporter.wait_page("a backup", SOON, |page| {
        page.get("chroma_backup_job_success", &store) == Some(1.0)
    });
    assert_eq!(page.get("chroma_backup_job_after_exit_code", &store), Some(0.0));
    let backup = lab.backup();
    assert_eq!(hash(&backup), hash(&lab.elsewhere(&backup)));
    assert!(exporter.stop().success());
}

#[test]
fn the_lines_for_cron_work_with_what_cron_gives_them() {
    let lab = Lab::new();
    let lines: Vec<_> = blocks("## From cron", "cron").iter().flat_map(|b| b.lines()).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    for line in &lines {
        let table = lab.root.join("crontab");
        fs::write(&table, lab.put_in(line) + "\n").unwrap();
        well(&Command::new("crontab").arg("-n").arg(&table).output().unwrap(), line);
        // To cron it is the end of the line.
        assert!(!line.contains('%'), "{line}");
    }
    let run = |line: &str| {
        let command = line.splitn(6, ' ').nth(5).unwrap();
        let output = lab.bare("/bin/sh").args(["-c", &lab.put_in(command)]).output().unwrap();
        well(&output, line)
    };
    let said = run(lines[0]);
    assert!(said.contains("proven: it restores whole"), "{said}");
    assert_eq!(run(lines[1]), "", "a mail although all is well");
    assert_eq!(fs::read_dir(&lab.to.0).unwrap().count(), 2);
    fs::remove_file(lab.root.join("chroma/chroma.sqlite3")).unwrap();
    let said = run(lines[1]);
    assert!(said.contains("no directory of Chroma"), "{said}");
}

#[test]
fn the_units_for_systemd_are_valid_and_the_service_makes_a_backup_with_the_rights_that_it_has() {
    let lab = Lab::new();
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd");
    // The other way is the Debian package.
    let ways = blocks("## From a systemd timer", "sh");
    let install = ways.iter().find(|block| block.contains("packaging/systemd"));
    let install = install.unwrap_or_else(|| panic!("no block has the units: {ways:?}"));
    let mut files = Vec::new();
    for name in ["chroma-backup.service", "chroma-backup.timer"] {
        assert!(install.contains(&format!(" packaging/systemd/{name} ")), "{install}");
        let file = lab.root.join(name);
        fs::write(&file, lab.put_in(&fs::read_to_string(here.join(name)).unwrap())).unwrap();
        files.push(file);
    }
    let [service, timer] = &files[..] else { panic!("{files:?}") };
    assert_eq!(service.with_extension("timer"), *timer, "a timer starts the service of its name");
    let said = well(
        &Command::new("systemd-analyze").arg("verify").args(&files).output().unwrap(),
        "units",
    );
    let complaint = said.lines().find(|line| line.contains("chroma-backup"));
    assert_eq!(complaint, None, "{said}");
    let unit = fs::read_to_string(service).unwrap();
    let value = |key: &str| {
        unit.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_else(|| panic!("{key}"))
    };
    let command = value("ExecStart=");
    // No shell is involved: as systemd takes a line without quotes apart.
    let words: Vec<_> = command.split(' ').collect();
    assert!(!command.contains(['"', '\'', '$', '%', '\\']), "{command}");
    assert!(words.contains(&value("ReadWritePaths=")), "{command}");
    // What of the unit's limits can be had without systemd: root with that one capability, in a store of somebody else.
    let capability = value("CapabilityBoundingSet=").strip_prefix("CAP_").unwrap().to_lowercase();
    let store = lab.root.join("chroma");
    for path in [store.join("chroma.sqlite3"), store] {
        std::os::unix::fs::chown(&path, Some(65_534), Some(65_534)).unwrap();
        let mode = if path.is_dir() { 0o700 } else { 0o600 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let bounding = format!("--bounding-set=-all,+{capability}");
    let mut limited = lab.bare("setpriv");
    limited.args([&bounding, "--no-new-privs", "--"]).args(&words);
    let said = well(&limited.output().unwrap(), command);
    assert!(said.contains("proven: it restores whole"), "{said}");
    lab.backup();
}
