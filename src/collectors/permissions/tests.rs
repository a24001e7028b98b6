mod command;
mod walks;
mod writable;

use std::{
    fs,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, chown, symlink},
    },
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool},
};

use rustix::{
    fs::{Uid, XattrFlags},
    io::Errno,
};

use super::*;
use crate::{
    config::{Config, PermissionPolicy, Store},
    host::Host,
};

const SEGMENTS: [&str; 2] =
    ["0a1b2c3d-0000-4000-8000-000000000001", "0a1b2c3d-0000-4000-8000-000000000002"];
const FILES: [&str; 5] =
    ["header.bin", "data_level0.bin", "length.bin", "link_lists.bin", "index_metadata.pickle"];
/// The directory, the database, two folders and their files.
const ENTRIES_MADE: u64 = 14;

/// A store, a state directory and a collector that looks at the one and keeps the other.
struct Stand {
    scratch: tempfile::TempDir,
    policy: PermissionPolicy,
    config: Config,
    collector: Permissions,
    now: i64,
}

impl Stand {
    fn new() -> Self {
        Self::with(PermissionPolicy::default())
    }

    /// As a server of this user and group is to reach it.
    fn served_by(uid: u32, gid: u32) -> Self {
        Self::with(PermissionPolicy {
            server_uid: Some(uid),
            server_gids: vec![gid],
            ..PermissionPolicy::default()
        })
    }

    fn with(policy: PermissionPolicy) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        set_mode(scratch.path(), 0o755);
        let dir = scratch.path().join("store");
        fs::create_dir(&dir).unwrap();
        set_mode(&dir, 0o755);
        write(&dir.join(DATABASE), 0o644);
        for segment in SEGMENTS {
            make_segment(&dir.join(segment));
        }
        let config = Config::default();
        let collector = collector(scratch.path(), &policy, &config);
        Self { scratch, policy, config, collector, now: 1_000 }
    }

    fn path(&self, relative: &str) -> PathBuf {
        let dir = self.scratch.path().join("store");
        if relative.is_empty() { dir } else { dir.join(relative) }
    }

    /// The program ends and begins again, perhaps with another configuration.
    fn restart(&mut self) {
        let gone = collector(Path::new("/"), &self.policy, &self.config);
        drop(std::mem::replace(&mut self.collector, gone)); // the state directory has one user at a time
        self.collector = collector(self.scratch.path(), &self.policy, &self.config);
    }

    /// A look at everything.
    fn observe(&mut self) -> Observation {
        self.run(Wake::NONE, true)
    }

    /// A run, and more of them until a walk that it began has ended: on a busy machine it is cut into slices.
    fn whole(&mut self, wake: Wake) -> Observation {
        let mut seen = self.run(wake, false);
        while self.collector.scan.is_some() {
            self.collector.allowance = ALLOWANCE_MAX;
            seen = self.run(Wake::NONE, false);
        }
        seen
    }

    fn run(&mut self, wake: Wake, deep: bool) -> Observation {
        self.now += 5;
        let run = Run {
            now: Timestamp::from_secs(self.now),
            wake,
            deep,
            stop: Arc::new(AtomicBool::new(false)),
        };
        self.collector.collect(&run)
    }
}

const DATABASE: &str = "chroma.sqlite3";

fn collector(scratch: &Path, policy: &PermissionPolicy, config: &Config) -> Permissions {
    let store = Arc::new(Store {
        backups: crate::config::BackupPolicy::default(),
        permissions: policy.clone(),
        ..Store::new("main", scratch.join("store"))
    });
    let state = (scratch != Path::new("/")).then(|| scratch.join("state"));
    let config =
        Arc::new(Config { stores: vec![Arc::clone(&store)], state_dir: state, ..config.clone() });
    let host = Arc::new(Host::new(&config));
    Permissions::new(&Context::new(&config, &store, &host))
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn write(path: &Path, mode: u32) {
    fs::write(path, b"bytes").unwrap();
    set_mode(path, mode);
}

fn make_segment(folder: &Path) {
    fs::create_dir(folder).unwrap();
    set_mode(folder, 0o755);
    for file in FILES {
        write(&folder.join(file), 0o644);
    }
}

fn value(observation: &Observation, desc: &Desc, labels: &[&str]) -> Option<f64> {
    let sample = observation.samples.iter().find(|s| s.desc == desc && s.values == labels)?;
    Some(sample.value)
}

/// The kinds with drift and their counts: `mode=2 owner=1`.
fn drift(observation: &Observation) -> String {
    let mut out = Vec::new();
    for kind in DriftKind::ALL {
        let count = value(observation, &DRIFT, &[kind.as_str()]).expect("known");
        let first_seen = value(observation, &FIRST_SEEN, &[kind.as_str()]);
        assert_eq!(first_seen.is_some(), count > 0.0, "{kind:?}");
        if count > 0.0 {
            out.push(format!("{}={count}", kind.as_str()));
        }
    }
    out.join(" ")
}

fn evidence(observation: &Observation, code: Code) -> Option<String> {
    let found: Vec<_> = observation.findings.iter().filter(|f| f.code == code).collect();
    assert!(found.len() <= 1);
    found.first().map(|f| f.evidence.clone())
}

/// The command of the case, not that of the catalogue.
fn command_of(observation: &Observation, code: Code) -> Option<String> {
    let found = observation.findings.iter().find(|f| f.code == code)?;
    found.remedy.clone()?.command
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn me() -> (u32, u32) {
    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

#[test]
fn the_first_look_learns_and_finds_nothing() {
    let mut stand = Stand::new();
    let first = stand.observe();
    assert_eq!(drift(&first), "");
    assert_eq!(value(&first, &ENTRIES, &[]), Some(ENTRIES_MADE as f64));
    assert_eq!(value(&first, &WORLD_WRITABLE, &[]), Some(0.0));
    assert_eq!(value(&first, &UNWRITABLE, &[]), None, "nobody knows who the server is");
    assert_eq!(value(&first, &WALK_TIMESTAMP, &[]), Some(1_005.0));
    assert!(first.findings.is_empty() && first.problems.is_empty());
    for (sample, desc) in first.samples.iter().map(|s| (s, s.desc)) {
        assert!(stand.collector.descs().contains(&desc), "{sample:?}");
    }
}

type Change = Box<dyn Fn(&Path)>;

#[test]
fn every_change_is_seen_by_its_kind_and_its_end_too() {
    let header = format!("{}/header.bin", SEGMENTS[0]);
    let chmod = |mode: u32| move |path: &Path| set_mode(path, mode);
    let replaced = |by: fn(&Path)| -> Change {
        Box::new(move |path: &Path| {
            fs::rename(path, path.with_extension("aside")).unwrap();
            by(path);
            fs::rename(path.with_extension("aside"), path.parent().unwrap().join("../../aside"))
                .unwrap();
        })
    };
    let cases: Vec<(&str, Change, &str)> = vec![
        (DATABASE, Box::new(chmod(0o600)), "mode=1"),
        (DATABASE, Box::new(chmod(0o755)), "mode=1"),
        (DATABASE, Box::new(chmod(0o4644)), "mode=1"),
        ("", Box::new(chmod(0o700)), "mode=1"),
        ("", Box::new(chmod(0o2755)), "mode=1"),
        ("", Box::new(chmod(0o1755)), "mode=1"),
        (SEGMENTS[1], Box::new(chmod(0o750)), "mode=1"),
        (&header, Box::new(chmod(0o640)), "mode=1"),
        (&header, replaced(|path| symlink("/etc/passwd", path).unwrap()), "type=1"),
        (&header, replaced(|path| fs::create_dir(path).unwrap()), "type=1"),
        (
            &header,
            replaced(|path| {
                rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RWXU).unwrap();
            }),
            "type=1",
        ),
    ];
    for (path, change, kinds) in cases {
        let mut stand = Stand::new();
        stand.observe();
        let path = stand.path(path);
        let mode = fs::metadata(&path).unwrap().mode();
        change(&path);
        let seen = stand.observe();
        assert_eq!(drift(&seen), kinds, "{}", path.display());
        assert!(evidence(&seen, Code::PermissionDrift).is_some());
        assert_eq!(drift(&stand.observe()), kinds, "it does not become a habit");

        if fs::symlink_metadata(&path).unwrap().is_dir() && kinds.starts_with("type") {
            fs::remove_dir(&path).unwrap();
            write(&path, 0o644);
        } else if kinds.starts_with("type") {
            fs::remove_file(&path).unwrap();
            write(&path, 0o644);
        }
        set_mode(&path, mode & 0o7777);
        assert_eq!(drift(&stand.observe()), "", "{}", path.display());
    }
}

#[test]
fn owners_and_groups_are_compared() {
    if !is_root() {
        return; // only root may give a file away
    }
    let mut stand = Stand::new();
    stand.observe();
    let header = stand.path(SEGMENTS[0]).join("header.bin");
    for (path, uid, gid, kinds) in [
        (stand.path(DATABASE), Some(1_234), None, "owner=1"),
        (stand.path(""), None, Some(1_234), "group=1"),
        (header, Some(1_234), Some(1_234), "owner=1 group=1"),
    ] {
        chown(&path, uid, gid).unwrap();
        let seen = stand.observe();
        assert_eq!(drift(&seen), kinds);
        let evidence = evidence(&seen, Code::PermissionDrift).unwrap();
        assert!(evidence.contains("1234"), "{evidence}");
        let command = format!("chown 0:0 {}", path.display());
        assert!(command_of(&seen, Code::PermissionDrift).unwrap().starts_with(&command));
        chown(&path, Some(0), Some(0)).unwrap();
        assert_eq!(drift(&stand.observe()), "");
    }
}

/// The bytes of an access list that lets uid 4321 write.
fn list() -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in [
        (1_u16, 6_u16, u32::MAX),
        (2, 6, 4_321),
        (4, 4, u32::MAX),
        (16, 6, u32::MAX),
        (32, 4, u32::MAX),
    ] {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

#[test]
fn access_lists_are_compared() {
    let set =
        |path: &Path, name: &str| rustix::fs::setxattr(path, name, &list(), XattrFlags::empty());
    let mut stand = Stand::new();
    if set(&stand.path(DATABASE), lists::ACCESS) == Err(Errno::OPNOTSUPP) {
        return; // a filesystem without them
    }
    set_mode(&stand.path(SEGMENTS[1]), 0o755);
    stand.observe();
    stand.observe(); // the lists below the core are read at the second look
    let header = stand.path(SEGMENTS[0]).join("header.bin");
    set(&header, lists::ACCESS).unwrap();
    let seen = stand.observe();
    assert_eq!(drift(&seen), "mode=1 acl=1", "the mask shows in the mode");
    assert!(evidence(&seen, Code::PermissionDrift).unwrap().contains("getfacl"));
    set_mode(&header, 0o644);
    assert_eq!(drift(&stand.observe()), "acl=1");
    rustix::fs::removexattr(&header, lists::ACCESS).unwrap();
    set_mode(&header, 0o644);
    assert_eq!(drift(&stand.observe()), "");
    // What new entries of a folder would get, and the list of the database that was there from the beginning.
    set(&stand.path(SEGMENTS[0]), "system.posix_acl_default").unwrap();
    assert_eq!(drift(&stand.observe()), "acl=1");
    rustix::fs::removexattr(stand.path(SEGMENTS[0]), "system.posix_acl_default").unwrap();
    rustix::fs::removexattr(stand.path(DATABASE), lists::ACCESS).unwrap();
    set_mode(&stand.path(DATABASE), 0o664);
    assert_eq!(drift(&stand.observe()), "acl=1");
}

#[test]
fn what_chroma_makes_and_deletes_is_no_drift() {
    for mode in [0o755, 0o700, 0o770] {
        // The common advice chmod -R makes files that no server makes; new ones look different.
        let mut stand = Stand::new();
        for entry in walkdir(&stand.path("")) {
            set_mode(&entry, mode);
        }
        stand.observe();
        let folder = stand.path("11111111-2222-4333-8444-555555555555");
        make_segment(&folder);
        set_mode(&folder, 0o750);
        write(&stand.path("chroma.sqlite3-journal"), 0o644);
        let seen = stand.observe();
        assert_eq!(drift(&seen), "");
        assert_eq!(value(&seen, &ENTRIES, &[]), Some((ENTRIES_MADE + 6) as f64));
        fs::remove_dir_all(stand.path(SEGMENTS[0])).unwrap();
        fs::remove_file(stand.path("chroma.sqlite3-journal")).unwrap();
        write(&stand.path("notes.txt"), 0o755); // nothing of Chroma's
        assert_eq!(drift(&stand.observe()), "");
        // Now they are known.
        set_mode(&folder.join("header.bin"), 0o600);
        set_mode(&stand.path("notes.txt"), 0o700);
        assert_eq!(drift(&stand.observe()), "mode=2");
    }
}

#[test]
fn what_chroma_would_not_make_is_drift_although_nobody_knew_it() {
    let folder = "11111111-2222-4333-8444-555555555555";
    let mut stand = Stand::new();
    stand.observe();
    make_segment(&stand.path(folder));
    set_mode(&stand.path(folder).join("header.bin"), 0o755);
    set_mode(&stand.path(folder).join("length.bin"), 0o4644);
    fs::remove_file(stand.path(folder).join("link_lists.bin")).unwrap();
    symlink("/dev/null", stand.path(folder).join("link_lists.bin")).unwrap();
    assert_eq!(drift(&stand.observe()), "mode=2 type=1");
    if is_root() {
        chown(stand.path(folder), Some(99), Some(99)).unwrap();
        assert_eq!(drift(&stand.observe()), "owner=1 group=1 mode=2 type=1");
    }
}

#[test]
fn a_database_that_was_away_is_still_known() {
    let mut stand = Stand::new();
    stand.observe();
    fs::remove_file(stand.path(DATABASE)).unwrap();
    assert_eq!(drift(&stand.observe()), "");
    write(&stand.path(DATABASE), 0o640);
    assert_eq!(drift(&stand.observe()), "mode=1");
}

#[test]
fn a_store_that_was_restored_with_the_same_modes_is_as_it_was() {
    let mut stand = Stand::new();
    stand.observe();
    let copy = stand.scratch.path().join("copy");
    let status = std::process::Command::new("cp")
        .args(["-a", "--"])
        .args([&stand.path(""), &copy])
        .status()
        .unwrap();
    assert!(status.success());
    fs::remove_dir_all(stand.path("")).unwrap();
    let gone = stand.observe();
    assert!(gone.samples.is_empty() && gone.judged.is_empty(), "unknown is not healthy");
    assert!(matches!(&gone.problems[..], [CollectError::Unreadable { .. }]));
    fs::rename(&copy, stand.path("")).unwrap();
    let back = stand.observe();
    assert_eq!(drift(&back), "");
    assert_eq!(value(&back, &ENTRIES, &[]), Some(ENTRIES_MADE as f64));
}

#[test]
fn what_is_not_a_directory_is_a_problem() {
    let mut stand = Stand::new();
    fs::remove_dir_all(stand.path("")).unwrap();
    fs::write(stand.path(""), b"").unwrap();
    let seen = stand.observe();
    assert!(seen.samples.is_empty() && seen.problems.len() == 1);
    assert!(seen.problems[0].chain().contains("directory"), "{}", seen.problems[0].chain());
}

#[test]
fn a_declaration_is_held_against_the_first_look_and_learnt_when_it_comes_later() {
    let policy = PermissionPolicy { file_mode: Some(0o600), ..PermissionPolicy::default() };
    let mut stand = Stand::with(policy.clone());
    assert_eq!(drift(&stand.observe()), "mode=11", "every file");
    stand.policy = PermissionPolicy { directory_mode: Some(0o755), ..policy };
    stand.restart();
    for entry in walkdir(&stand.path("")).into_iter().filter(|path| path.is_file()) {
        set_mode(&entry, 0o600);
    }
    assert_eq!(drift(&stand.observe()), "");
    stand.policy = PermissionPolicy::default();
    stand.restart();
    assert_eq!(drift(&stand.observe()), "", "what was declared has been learnt");
    set_mode(&stand.path(DATABASE), 0o644);
    assert_eq!(drift(&stand.observe()), "mode=1");

    let (uid, gid) = me();
    stand.policy =
        PermissionPolicy { uid: Some(uid + 1), gid: Some(gid + 1), ..PermissionPolicy::default() };
    stand.restart();
    assert_eq!(drift(&stand.observe()), "owner=14 group=14 mode=1");
}

#[test]
fn drift_and_its_beginning_survive_a_restart() {
    let mut stand = Stand::new();
    stand.observe();
    set_mode(&stand.path(DATABASE), 0o600);
    let since = value(&stand.observe(), &FIRST_SEEN, &["mode"]);
    assert_eq!(since, Some(1_010.0));
    stand.restart();
    stand.now += 1_000;
    let seen = stand.observe();
    assert_eq!(drift(&seen), "mode=1");
    assert_eq!(value(&seen, &FIRST_SEEN, &["mode"]), since);
    // The clock is set back before that moment.
    stand.now = 100;
    assert_eq!(value(&stand.observe(), &FIRST_SEEN, &["mode"]), Some(105.0));
    set_mode(&stand.path(DATABASE), 0o644);
    assert_eq!(value(&stand.observe(), &FIRST_SEEN, &["mode"]), None);
    set_mode(&stand.path(DATABASE), 0o600);
    assert_eq!(value(&stand.observe(), &FIRST_SEEN, &["mode"]), Some(115.0));
}

#[test]
fn a_damaged_state_document_means_learning_anew() {
    let mut stand = Stand::new();
    stand.observe();
    let state = stand.scratch.path().join("state");
    for entry in fs::read_dir(&state).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "json") {
            fs::write(path, b"{\"subject\": 7").unwrap();
        }
    }
    set_mode(&stand.path(DATABASE), 0o600);
    stand.restart();
    assert_eq!(drift(&stand.observe()), "");
}

#[test]
fn a_state_directory_that_cannot_be_written_costs_nothing_but_memory() {
    let mut stand = Stand::new();
    fs::write(stand.scratch.path().join("elsewhere"), b"").unwrap();
    fs::remove_dir_all(stand.scratch.path().join("state")).ok();
    symlink("elsewhere", stand.scratch.path().join("state")).unwrap();
    stand.restart();
    stand.observe();
    set_mode(&stand.path(DATABASE), 0o600);
    assert_eq!(drift(&stand.observe()), "mode=1");
}

#[test]
fn names_may_be_any_bytes() {
    let mut stand = Stand::new();
    stand.observe();
    let folder = stand.path(SEGMENTS[0]);
    let names: [&[u8]; 4] = [b"a\nb", b"\x1b[31mred", b"\xff\xfe", b"$(reboot)"];
    for name in names {
        write(&folder.join(std::ffi::OsStr::from_bytes(name)), 0o644);
    }
    symlink(".", folder.join("loop")).unwrap();
    stand.observe();
    for name in names {
        set_mode(&folder.join(std::ffi::OsStr::from_bytes(name)), 0o666);
    }
    let seen = stand.observe();
    assert_eq!(drift(&seen), "mode=4");
    for finding in &seen.findings {
        assert!(finding.evidence.chars().all(|c| !c.is_control()), "{}", finding.evidence);
        assert!(finding.evidence.chars().count() <= 600);
    }
    assert_eq!(command_of(&seen, Code::PermissionDrift), None, "such names are not for typing");
}

/// `dir` and everything below it that is not a link.
fn walkdir(dir: &Path) -> Vec<PathBuf> {
    let mut out = vec![dir.to_owned()];
    let mut at = 0;
    while let Some(path) = out.get(at).cloned() {
        at += 1;
        if path.is_dir() {
            let below = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
            out.extend(below.filter(|path| !path.is_symlink()));
        }
    }
    out
}
