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
    fn look(&mut self) -> Observation {
        self.turn(Wake::NONE, true)
    }

    /// A turn, and more of them until a walk that it began has ended: on a busy machine it is cut into slices.
    fn whole(&mut self, wake: Wake) -> Observation {
        let mut seen = self.turn(wake, false);
        while self.collector.scan.is_some() {
            self.collector.allowance = ALLOWANCE_MAX;
            seen = self.turn(Wake::NONE, false);
        }
        seen
    }

    fn turn(&mut self, wake: Wake, deep: bool) -> Observation {
        self.now += 5;
        let turn = Turn {
            now: Timestamp::from_secs(self.now),
            wake,
            deep,
            stop: Arc::new(AtomicBool::new(false)),
        };
        self.collector.collect(&turn)
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
    for kind in Kind::ALL {
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
    let first = stand.look();
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
        stand.look();
        let path = stand.path(path);
        let mode = fs::metadata(&path).unwrap().mode();
        change(&path);
        let seen = stand.look();
        assert_eq!(drift(&seen), kinds, "{}", path.display());
        assert!(evidence(&seen, Code::PermissionDrift).is_some());
        assert_eq!(drift(&stand.look()), kinds, "it does not become a habit");

        if fs::symlink_metadata(&path).unwrap().is_dir() && kinds.starts_with("type") {
            fs::remove_dir(&path).unwrap();
            write(&path, 0o644);
        } else if kinds.starts_with("type") {
            fs::remove_file(&path).unwrap();
            write(&path, 0o644);
        }
        set_mode(&path, mode & 0o7777);
        assert_eq!(drift(&stand.look()), "", "{}", path.display());
    }
}

#[test]
fn owners_and_groups_are_compared() {
    if !is_root() {
        return; // only root may give a file away
    }
    let mut stand = Stand::new();
    stand.look();
    let header = stand.path(SEGMENTS[0]).join("header.bin");
    for (path, uid, gid, kinds) in [
        (stand.path(DATABASE), Some(1_234), None, "owner=1"),
        (stand.path(""), None, Some(1_234), "group=1"),
        (header, Some(1_234), Some(1_234), "owner=1 group=1"),
    ] {
        chown(&path, uid, gid).unwrap();
        let seen = stand.look();
        assert_eq!(drift(&seen), kinds);
        let evidence = evidence(&seen, Code::PermissionDrift).unwrap();
        assert!(evidence.contains("1234"), "{evidence}");
        let command = format!("chown 0:0 {}", path.display());
        assert!(command_of(&seen, Code::PermissionDrift).unwrap().starts_with(&command));
        chown(&path, Some(0), Some(0)).unwrap();
        assert_eq!(drift(&stand.look()), "");
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
    stand.look();
    stand.look(); // the lists below the core are read at the second look
    let header = stand.path(SEGMENTS[0]).join("header.bin");
    set(&header, lists::ACCESS).unwrap();
    let seen = stand.look();
    assert_eq!(drift(&seen), "mode=1 acl=1", "the mask shows in the mode");
    assert!(evidence(&seen, Code::PermissionDrift).unwrap().contains("getfacl"));
    set_mode(&header, 0o644);
    assert_eq!(drift(&stand.look()), "acl=1");
    rustix::fs::removexattr(&header, lists::ACCESS).unwrap();
    set_mode(&header, 0o644);
    assert_eq!(drift(&stand.look()), "");
    // What new entries of a folder would get, and the list of the database that was there from the beginning.
    set(&stand.path(SEGMENTS[0]), "system.posix_acl_default").unwrap();
    assert_eq!(drift(&stand.look()), "acl=1");
    rustix::fs::removexattr(stand.path(SEGMENTS[0]), "system.posix_acl_default").unwrap();
    rustix::fs::removexattr(stand.path(DATABASE), lists::ACCESS).unwrap();
    set_mode(&stand.path(DATABASE), 0o664);
    assert_eq!(drift(&stand.look()), "acl=1");
}

#[test]
fn what_chroma_makes_and_deletes_is_no_drift() {
    for mode in [0o755, 0o700, 0o770] {
        // The common advice chmod -R makes files that no server makes; new ones look different.
        let mut stand = Stand::new();
        for entry in walkdir(&stand.path("")) {
            set_mode(&entry, mode);
        }
        stand.look();
        let folder = stand.path("11111111-2222-4333-8444-555555555555");
        make_segment(&folder);
        set_mode(&folder, 0o750);
        write(&stand.path("chroma.sqlite3-journal"), 0o644);
        let seen = stand.look();
        assert_eq!(drift(&seen), "");
        assert_eq!(value(&seen, &ENTRIES, &[]), Some((ENTRIES_MADE + 6) as f64));
        fs::remove_dir_all(stand.path(SEGMENTS[0])).unwrap();
        fs::remove_file(stand.path("chroma.sqlite3-journal")).unwrap();
        write(&stand.path("notes.txt"), 0o755); // nothing of Chroma's
        assert_eq!(drift(&stand.look()), "");
        // Now they are known.
        set_mode(&folder.join("header.bin"), 0o600);
        set_mode(&stand.path("notes.txt"), 0o700);
        assert_eq!(drift(&stand.look()), "mode=2");
    }
}

#[test]
fn what_chroma_would_not_make_is_drift_although_nobody_knew_it() {
    let folder = "11111111-2222-4333-8444-555555555555";
    let mut stand = Stand::new();
    stand.look();
    make_segment(&stand.path(folder));
    set_mode(&stand.path(folder).join("header.bin"), 0o755);
    set_mode(&stand.path(folder).join("length.bin"), 0o4644);
    fs::remove_file(stand.path(folder).join("link_lists.bin")).unwrap();
    symlink("/dev/null", stand.path(folder).join("link_lists.bin")).unwrap();
    assert_eq!(drift(&stand.look()), "mode=2 type=1");
    if is_root() {
        chown(stand.path(folder), Some(99), Some(99)).unwrap();
        assert_eq!(drift(&stand.look()), "owner=1 group=1 mode=2 type=1");
    }
}

#[test]
fn a_database_that_was_away_is_still_known() {
    let mut stand = Stand::new();
    stand.look();
    fs::remove_file(stand.path(DATABASE)).unwrap();
    assert_eq!(drift(&stand.look()), "");
    write(&stand.path(DATABASE), 0o640);
    assert_eq!(drift(&stand.look()), "mode=1");
}

#[test]
fn a_store_that_was_restored_with_the_same_modes_is_as_it_was() {
    let mut stand = Stand::new();
    stand.look();
    let copy = stand.scratch.path().join("copy");
    let status = std::process::Command::new("cp")
        .args(["-a", "--"])
        .args([&stand.path(""), &copy])
        .status()
        .unwrap();
    assert!(status.success());
    fs::remove_dir_all(stand.path("")).unwrap();
    let gone = stand.look();
    assert!(gone.samples.is_empty() && gone.judged.is_empty(), "unknown is not healthy");
    assert!(matches!(&gone.problems[..], [CollectError::Unreadable { .. }]));
    fs::rename(&copy, stand.path("")).unwrap();
    let back = stand.look();
    assert_eq!(drift(&back), "");
    assert_eq!(value(&back, &ENTRIES, &[]), Some(ENTRIES_MADE as f64));
}

#[test]
fn what_is_not_a_directory_is_a_problem() {
    let mut stand = Stand::new();
    fs::remove_dir_all(stand.path("")).unwrap();
    fs::write(stand.path(""), b"").unwrap();
    let seen = stand.look();
    assert!(seen.samples.is_empty() && seen.problems.len() == 1);
    assert!(seen.problems[0].chain().contains("directory"), "{}", seen.problems[0].chain());
}

#[test]
fn a_declaration_is_held_against_the_first_look_and_learnt_when_it_comes_later() {
    let policy = PermissionPolicy { file_mode: Some(0o600), ..PermissionPolicy::default() };
    let mut stand = Stand::with(policy.clone());
    assert_eq!(drift(&stand.look()), "mode=11", "every file");
    stand.policy = PermissionPolicy { directory_mode: Some(0o755), ..policy };
    stand.restart();
    for entry in walkdir(&stand.path("")).into_iter().filter(|path| path.is_file()) {
        set_mode(&entry, 0o600);
    }
    assert_eq!(drift(&stand.look()), "");
    stand.policy = PermissionPolicy::default();
    stand.restart();
    assert_eq!(drift(&stand.look()), "", "what was declared has been learnt");
    set_mode(&stand.path(DATABASE), 0o644);
    assert_eq!(drift(&stand.look()), "mode=1");

    let (uid, gid) = me();
    stand.policy =
        PermissionPolicy { uid: Some(uid + 1), gid: Some(gid + 1), ..PermissionPolicy::default() };
    stand.restart();
    assert_eq!(drift(&stand.look()), "owner=14 group=14 mode=1");
}

#[test]
fn drift_and_its_beginning_survive_a_restart() {
    let mut stand = Stand::new();
    stand.look();
    set_mode(&stand.path(DATABASE), 0o600);
    let since = value(&stand.look(), &FIRST_SEEN, &["mode"]);
    assert_eq!(since, Some(1_010.0));
    stand.restart();
    stand.now += 1_000;
    let seen = stand.look();
    assert_eq!(drift(&seen), "mode=1");
    assert_eq!(value(&seen, &FIRST_SEEN, &["mode"]), since);
    // The clock is set back before that moment.
    stand.now = 100;
    assert_eq!(value(&stand.look(), &FIRST_SEEN, &["mode"]), Some(105.0));
    set_mode(&stand.path(DATABASE), 0o644);
    assert_eq!(value(&stand.look(), &FIRST_SEEN, &["mode"]), None);
    set_mode(&stand.path(DATABASE), 0o600);
    assert_eq!(value(&stand.look(), &FIRST_SEEN, &["mode"]), Some(115.0));
}

#[test]
fn a_damaged_state_document_means_learning_anew() {
    let mut stand = Stand::new();
    stand.look();
    let state = stand.scratch.path().join("state");
    for entry in fs::read_dir(&state).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "json") {
            fs::write(path, b"{\"subject\": 7").unwrap();
        }
    }
    set_mode(&stand.path(DATABASE), 0o600);
    stand.restart();
    assert_eq!(drift(&stand.look()), "");
}

#[test]
fn a_state_directory_that_cannot_be_written_costs_nothing_but_memory() {
    let mut stand = Stand::new();
    fs::write(stand.scratch.path().join("elsewhere"), b"").unwrap();
    fs::remove_dir_all(stand.scratch.path().join("state")).ok();
    symlink("elsewhere", stand.scratch.path().join("state")).unwrap();
    stand.restart();
    stand.look();
    set_mode(&stand.path(DATABASE), 0o600);
    assert_eq!(drift(&stand.look()), "mode=1");
}

#[test]
fn a_server_that_cannot_write_is_told_with_the_command_that_helps() {
    let (uid, _) = me();
    let policy = PermissionPolicy {
        server_uid: Some(uid + 1_000),
        server_gids: vec![3_000],
        ..PermissionPolicy::default()
    };
    let mut stand = Stand::with(policy);
    fs::write(stand.path("readme"), b"").unwrap(); // not a file that Chroma writes
    let seen = stand.look();
    assert_eq!(value(&seen, &UNWRITABLE, &[]), Some(ENTRIES_MADE as f64));
    assert_eq!(drift(&seen), "", "it is so from the beginning, and told all the same");
    let said = evidence(&seen, Code::PermissionUnwritable).unwrap();
    assert!(said.contains("the directory itself"), "{said}");
    let (dir, server) = (stand.path(""), uid + 1_000);
    let command = format!(
        "chroma_exporter permissions --store.path {} --server-user {server}:3000 --apply",
        dir.display()
    );
    assert_eq!(command_of(&seen, Code::PermissionUnwritable), Some(command));

    for entry in walkdir(&stand.path("")) {
        let wanted = if entry.is_dir() { 0o777 } else { 0o666 };
        set_mode(&entry, wanted);
    }
    let seen = stand.look();
    assert_eq!(value(&seen, &UNWRITABLE, &[]), Some(0.0));
    assert_eq!(value(&seen, &WORLD_WRITABLE, &[]), Some((ENTRIES_MADE + 1) as f64));
    assert!(evidence(&seen, Code::PermissionWorldWritable).unwrap().contains("15 entries"));

    // The journal of a transaction that was cut off: it must be read, played and deleted.
    write(&stand.path("chroma.sqlite3-journal"), 0o600);
    assert_eq!(value(&stand.look(), &UNWRITABLE, &[]), Some(1.0));
    fs::remove_file(stand.path("chroma.sqlite3-journal")).unwrap();
    // A folder above it that may not be gone through.
    set_mode(stand.scratch.path(), 0o750);
    let seen = stand.look();
    assert_eq!(value(&seen, &UNWRITABLE, &[]), Some(1.0));
    let said = evidence(&seen, Code::PermissionUnwritable).unwrap();
    assert!(said.contains(stand.scratch.path().to_str().unwrap()), "{said}");
}

#[test]
fn without_a_server_the_owner_of_most_of_a_store_must_be_able_to_write() {
    let (uid, _) = me();
    let owner = if is_root() { 4_321 } else { uid };
    let mut stand = Stand::new();
    if is_root() {
        assert_eq!(value(&stand.look(), &UNWRITABLE, &[]), None, "nothing is told of root");
        for entry in walkdir(&stand.path("")) {
            chown(entry, Some(owner), Some(owner)).unwrap();
        }
        stand.restart();
    }
    let seen = stand.look();
    assert_eq!(value(&seen, &UNWRITABLE, &[]), None, "not known, only likely");
    assert_eq!(evidence(&seen, Code::PermissionUnwritable), None);
    let database = stand.path(DATABASE);
    set_mode(&database, 0o444);
    if is_root() {
        chown(&database, Some(0), Some(0)).unwrap();
    }
    let seen = stand.look();
    let said = evidence(&seen, Code::PermissionUnwritable).unwrap();
    for want in
        [format!("most of it belongs to uid {owner}"), "chroma.sqlite3 is -r--r--r-- ".to_owned()]
    {
        assert!(said.contains(&want), "{said}");
    }
    let finding = seen.findings.iter().find(|f| f.code == Code::PermissionUnwritable).unwrap();
    let remedy = finding.remedy.clone().unwrap().command.unwrap();
    assert!(remedy.ends_with(&format!("chmod u+rwX {}", database.display())), "{remedy}");
    assert_eq!(remedy.contains(&format!("chown {owner}:")), is_root(), "{remedy}");
    // The next turn knows it too.
    assert_eq!(evidence(&stand.turn(Wake::NONE, false), Code::PermissionUnwritable), Some(said));
    // A directory in which its owner may not write is one to read from.
    set_mode(&stand.path(""), 0o555);
    assert_eq!(evidence(&stand.look(), Code::PermissionUnwritable), None);
}

#[test]
fn of_a_directory_that_is_no_store_nothing_is_told() {
    let mut stand = Stand::new();
    fs::remove_dir_all(stand.path("")).unwrap();
    fs::create_dir_all(stand.path("somebody's")).unwrap();
    set_mode(&stand.path(""), 0o1777);
    for _ in 0..2 {
        let seen = stand.look();
        assert!(seen.findings.is_empty() && seen.samples.is_empty() && seen.problems.is_empty());
    }
    // A store that lost its database is one.
    make_segment(&stand.path(SEGMENTS[0]));
    let command = format!("chmod o-w {}", stand.path("").display());
    assert_eq!(command_of(&stand.look(), Code::PermissionWorldWritable), Some(command));
}

#[test]
fn the_owner_and_those_that_a_list_names_can_write() {
    let (uid, gid) = me();
    let policy = PermissionPolicy {
        server_uid: Some(uid),
        server_gids: vec![gid],
        ..PermissionPolicy::default()
    };
    let mut stand = Stand::with(policy);
    assert_eq!(value(&stand.look(), &UNWRITABLE, &[]), Some(0.0));
    let database = stand.path(DATABASE);
    set_mode(&database, 0o444);
    let expected = if uid == 0 { 0.0 } else { 1.0 };
    assert_eq!(value(&stand.look(), &UNWRITABLE, &[]), Some(expected), "root writes all the same");

    stand.policy.server_uid = Some(4_321);
    stand.policy.server_gids = vec![4_321];
    for folder in ["", SEGMENTS[0], SEGMENTS[1]] {
        set_mode(&stand.path(folder), 0o777);
    }
    stand.restart();
    assert_eq!(value(&stand.look(), &UNWRITABLE, &[]), Some(11.0));
    if rustix::fs::setxattr(&database, lists::ACCESS, &list(), XattrFlags::empty()).is_ok() {
        assert_eq!(value(&stand.look(), &UNWRITABLE, &[]), Some(10.0));
    }
}

#[test]
fn a_database_behind_a_link_is_judged_by_itself() {
    let (uid, _) = me();
    let policy = PermissionPolicy { server_uid: Some(uid + 1), ..PermissionPolicy::default() };
    let mut stand = Stand::with(policy);
    let elsewhere = stand.scratch.path().join("elsewhere");
    fs::rename(stand.path(DATABASE), &elsewhere).unwrap();
    symlink(&elsewhere, stand.path(DATABASE)).unwrap();
    for (mode, unwritable) in [(0o644, ENTRIES_MADE), (0o666, ENTRIES_MADE - 1)] {
        set_mode(&elsewhere, mode);
        assert_eq!(value(&stand.look(), &UNWRITABLE, &[]), Some(unwritable as f64));
    }
}

#[test]
fn a_frozen_database_is_unwritable_even_for_root() {
    let (uid, gid) = me();
    let policy = PermissionPolicy {
        server_uid: Some(uid),
        server_gids: vec![gid],
        ..PermissionPolicy::default()
    };
    let mut stand = Stand::with(policy);
    stand.look();
    let database = fs::File::open(stand.path(DATABASE)).unwrap();
    for (flag, word) in
        [(rustix::fs::IFlags::IMMUTABLE, "immutable"), (rustix::fs::IFlags::APPEND, "append-only")]
    {
        match rustix::fs::ioctl_setflags(&database, flag) {
            // Needs root, and a filesystem that has them.
            Err(Errno::PERM | Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL) => return,
            other => other.unwrap(),
        }
        let seen = stand.look();
        rustix::fs::ioctl_setflags(&database, rustix::fs::IFlags::empty()).unwrap();
        assert_eq!(value(&seen, &UNWRITABLE, &[]), Some(1.0));
        let said = evidence(&seen, Code::PermissionUnwritable).unwrap();
        assert!(said.contains(word) && !said.contains("chown"), "{said}");
    }
}

#[test]
fn who_holds_the_database_is_the_server_and_is_remembered() {
    if !is_root() {
        return; // only root can start somebody else's process
    }
    let mut stand = Stand::new();
    set_mode(&stand.path(DATABASE), 0o666);
    let mut holder = std::process::Command::new("setpriv")
        .args(["--reuid=4321", "--regid=4322", "--clear-groups", "sh", "-c"])
        .args(["exec sleep 600 3<>\"$0\"", stand.path(DATABASE).to_str().unwrap()])
        .spawn()
        .unwrap();
    crate::wait::wait_until("a process of another user to hold it", crate::wait::SOON, || {
        let held = fs::read_dir(format!("/proc/{}/fd", holder.id())).is_ok_and(|fds| {
            fds.flatten()
                .any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to == stand.path(DATABASE)))
        });
        held && fs::read(format!("/proc/{}/comm", holder.id())).is_ok_and(|c| c == b"sleep\n")
    });
    let seen = stand.look();
    assert_eq!(value(&seen, &UNWRITABLE, &[]), Some((ENTRIES_MADE - 1) as f64));
    let said = evidence(&seen, Code::PermissionUnwritable).unwrap();
    assert!(said.starts_with("uid 4321 (groups 4322)"), "{said}");
    // A program that was started just now could be a tool; one that runs for a minute is the server.
    stand.now = clock::now().as_secs() + 120;
    stand.look();
    holder.kill().unwrap();
    holder.wait().unwrap();
    stand.restart();
    let seen = stand.look();
    assert_eq!(value(&seen, &UNWRITABLE, &[]), Some((ENTRIES_MADE - 1) as f64), "remembered");
}

#[test]
fn names_may_be_any_bytes() {
    let mut stand = Stand::new();
    stand.look();
    let folder = stand.path(SEGMENTS[0]);
    let names: [&[u8]; 4] = [b"a\nb", b"\x1b[31mred", b"\xff\xfe", b"$(reboot)"];
    for name in names {
        write(&folder.join(std::ffi::OsStr::from_bytes(name)), 0o644);
    }
    symlink(".", folder.join("loop")).unwrap();
    stand.look();
    for name in names {
        set_mode(&folder.join(std::ffi::OsStr::from_bytes(name)), 0o666);
    }
    let seen = stand.look();
    assert_eq!(drift(&seen), "mode=4");
    for finding in &seen.findings {
        assert!(finding.evidence.chars().all(|c| !c.is_control()), "{}", finding.evidence);
        assert!(finding.evidence.chars().count() <= 600);
    }
    assert_eq!(command_of(&seen, Code::PermissionDrift), None, "such names are not for typing");
}

#[test]
fn much_that_drifted_is_counted_and_mended_by_one_command() {
    let mut stand = Stand::new();
    stand.look();
    for entry in walkdir(&stand.path("")) {
        set_mode(&entry, 0o770);
    }
    let seen = stand.look();
    assert_eq!(drift(&seen), "mode=14");
    let said = evidence(&seen, Code::PermissionDrift).unwrap();
    assert!(said.starts_with("14 entries are not as before, first seen 1970-01-01T00:16:50Z: "));
    assert!(said.ends_with(" more"), "{said}");
    assert_eq!(command_of(&seen, Code::PermissionDrift), None, "that of the catalogue");
}

#[test]
fn a_folder_that_may_not_be_read_is_a_problem_and_the_rest_goes_on() {
    let mut stand = Stand::new();
    set_mode(&stand.path(SEGMENTS[0]), 0o700);
    if is_root() {
        for entry in walkdir(stand.scratch.path()) {
            chown(entry, Some(4_321), Some(4_321)).unwrap();
        }
        chown(stand.path(SEGMENTS[0]), Some(4_322), Some(4_322)).unwrap();
    } else {
        set_mode(&stand.path(SEGMENTS[0]), 0o000);
    }
    let stand = std::thread::spawn(move || {
        if is_root() {
            let user = Some(Uid::from_raw(4_321));
            rustix::thread::set_thread_res_uid(user, user, user).unwrap();
        }
        let first = stand.whole(Wake::NONE);
        assert_eq!(first.problems.len(), 1, "{:?}", first.problems);
        assert!(first.problems[0].chain().contains(SEGMENTS[0]));
        assert_eq!(value(&first, &ENTRIES, &[]), Some((ENTRIES_MADE - 5) as f64));
        assert!(first.judged.contains(&Code::PermissionDrift));
        set_mode(&stand.path(SEGMENTS[1]).join("header.bin"), 0o600);
        let seen = stand.whole(Wake::RESCAN);
        assert_eq!(drift(&seen), "mode=1");
        stand
    })
    .join()
    .unwrap();
    let mut stand = stand;
    // What comes into sight later is not new.
    set_mode(&stand.path(SEGMENTS[0]), 0o700);
    set_mode(&stand.path(SEGMENTS[0]).join("header.bin"), 0o755);
    let seen = stand.look();
    assert_eq!(seen.problems.len(), 0);
    assert_eq!(drift(&seen), if is_root() { "mode=1" } else { "mode=2" });
}

#[test]
fn more_entries_than_the_bound_are_a_problem() {
    let mut stand = Stand::new();
    stand.config.limits.entries = 10;
    stand.restart();
    let seen = stand.look();
    assert!(matches!(&seen.problems[..], [CollectError::TooMany { bound: 10, .. }]));
    assert_eq!(drift(&seen), "");
}

/// A walk that would exceed its share of a core goes on in the next turns.
#[test]
fn a_large_store_is_walked_in_slices_between_which_the_core_is_seen() {
    let mut stand = Stand::new();
    for folder in 0..40 {
        let folder = stand.path(&format!("{folder:08}-0000-4000-8000-000000000000"));
        make_segment(&folder);
    }
    let total = (ENTRIES_MADE + 40 * 6) as f64;
    let slice = |stand: &mut Stand, wake: Wake| {
        stand.collector.allowance = Duration::from_micros(1);
        stand.collector.allowed_at = None;
        stand.turn(wake, false)
    };
    let to_the_end = |stand: &mut Stand| {
        for turns in 0..10_000 {
            let seen = slice(stand, Wake::NONE);
            if stand.collector.scan.is_none() {
                return (turns, seen);
            }
            assert_eq!(stand.collector.pace().interval, SLICE_PAUSE);
        }
        panic!("the walk never ends");
    };
    let first = slice(&mut stand, Wake::NONE);
    assert_eq!(value(&first, &ENTRIES, &[]), None, "not known before the first walk has ended");
    let (turns, seen) = to_the_end(&mut stand);
    assert!(turns > 40, "{turns}");
    assert_eq!(value(&seen, &ENTRIES, &[]), Some(total));

    // Events come while a walk is under way: the core is seen in the same turn, and another walk follows.
    slice(&mut stand, Wake::RESCAN);
    assert!(stand.collector.scan.is_some());
    set_mode(&stand.path(DATABASE), 0o600);
    assert_eq!(drift(&slice(&mut stand, Wake::ATTRIBUTES)), "mode=1");
    set_mode(&stand.path(SEGMENTS[1]), 0o700);
    stand.collector.last_top = None;
    assert_eq!(drift(&slice(&mut stand, Wake::ATTRIBUTES)), "mode=2", "so is the top");
    set_mode(&stand.path(SEGMENTS[1]).join("header.bin"), 0o600);
    slice(&mut stand, Wake::ATTRIBUTES);
    to_the_end(&mut stand);
    assert!(stand.collector.owed);
    std::thread::sleep(stand.collector.last.as_ref().unwrap().work * WOKEN_REST);
    let (_, seen) = to_the_end(&mut stand);
    assert_eq!(drift(&seen), "mode=3");
    assert!(!stand.collector.owed);
}

#[test]
fn walks_are_due_by_events_by_interval_and_by_overflow() {
    let mut stand = Stand::new();
    stand.whole(Wake::NONE);
    let header = stand.path(SEGMENTS[0]).join("header.bin");
    set_mode(&header, 0o600);
    // As if it had been dear: nothing but its interval, or lost events, brings the next one.
    stand.collector.last.as_mut().unwrap().work = Duration::from_hours(1);
    assert_eq!(drift(&stand.whole(Wake::ATTRIBUTES)), "");
    assert_eq!(stand.collector.pace().interval, stand.config.collect.interval);
    assert_eq!(drift(&stand.whole(Wake::RESCAN)), "mode=1");
    set_mode(&header, 0o644);
    stand.collector.last.as_mut().unwrap().work = Duration::from_hours(1);
    assert_eq!(drift(&stand.whole(Wake::NONE)), "mode=1");
    stand.config.collect.permissions_interval = Duration::ZERO;
    stand.restart();
    stand.whole(Wake::NONE);
    stand.collector.last.as_mut().unwrap().work = Duration::from_hours(1);
    set_mode(&header, 0o600);
    assert_eq!(drift(&stand.whole(Wake::NONE)), "mode=1");
    // As if it had cost nothing: it is due at once.
    stand.config.collect.permissions_interval = Duration::from_hours(1);
    stand.restart();
    stand.whole(Wake::NONE);
    stand.collector.last.as_mut().unwrap().work = Duration::ZERO;
    set_mode(&header, 0o644);
    assert_eq!(drift(&stand.whole(Wake::ATTRIBUTES)), "");
}

#[test]
fn a_turn_that_is_stopped_leaves_what_was_known() {
    let mut stand = Stand::new();
    stand.look();
    set_mode(&stand.path(SEGMENTS[0]), 0o700);
    let turn = Turn {
        now: Timestamp::from_secs(2_000),
        wake: Wake::NONE,
        deep: true,
        stop: Arc::new(AtomicBool::new(true)),
    };
    let stopped = stand.collector.collect(&turn);
    assert_eq!(drift(&stopped), "");
    assert_eq!(value(&stopped, &WALK_TIMESTAMP, &[]), Some(1_005.0), "its age shows");
    assert_eq!(drift(&stand.look()), "mode=1");
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

#[test]
fn what_was_learnt_wrong_and_is_mended_is_no_drift() {
    // Root could write anything.
    let (uid, gid) = if is_root() { (4_321, 4_321) } else { me() };
    let policy = PermissionPolicy {
        server_uid: Some(uid),
        server_gids: vec![gid],
        ..PermissionPolicy::default()
    };
    let mut stand = Stand::with(policy);
    for entry in walkdir(&stand.path("")) {
        chown(entry, Some(uid), Some(gid)).unwrap();
    }
    set_mode(&stand.path(SEGMENTS[0]), 0o777);
    set_mode(&stand.path(DATABASE), 0o444);
    let seen = stand.look();
    assert_eq!((drift(&seen), value(&seen, &UNWRITABLE, &[])), (String::new(), Some(1.0)));
    for (path, mode) in [(DATABASE, 0o644), (SEGMENTS[0], 0o775)] {
        set_mode(&stand.path(path), mode);
    }
    let seen = stand.look();
    assert_eq!((drift(&seen), value(&seen, &UNWRITABLE, &[])), (String::new(), Some(0.0)));
    // From now on it should be so.
    set_mode(&stand.path(DATABASE), 0o444);
    assert_eq!(drift(&stand.look()), "mode=1");
    // More for everybody mends nothing.
    set_mode(&stand.path(DATABASE), 0o666);
    assert_eq!(drift(&stand.look()), "mode=1");
}

/// What the command would change, as `path mode uid`.
fn wanted(stand: &Stand) -> Vec<String> {
    let found = survey::survey(&stand.collector.context, Timestamp::from_secs(stand.now)).unwrap();
    let words = |one: &survey::Difference| {
        let rest = one.rest.as_deref().map_or(String::new(), |rest| format!(" ({rest})"));
        let path = String::from_utf8_lossy(&one.path).into_owned();
        format!("{path} {:04o} {}{rest}", one.to.mode & 0o7777, one.to.uid)
    };
    found.differences.iter().map(words).collect()
}

#[test]
fn the_command_gives_back_what_was_learnt_and_no_more() {
    let (uid, gid) = me();
    let policy = PermissionPolicy {
        server_uid: Some(uid),
        server_gids: vec![gid],
        ..PermissionPolicy::default()
    };
    let mut stand = Stand::with(policy);
    write(&stand.path("readme"), 0o600);
    stand.look();
    assert_eq!(wanted(&stand), [""; 0]);
    set_mode(&stand.path(DATABASE), 0o400);
    set_mode(&stand.path("readme"), 0o644);
    fs::remove_file(stand.path(SEGMENTS[0]).join(FILES[0])).unwrap();
    fs::create_dir(stand.path(SEGMENTS[0]).join(FILES[0])).unwrap();
    let header = format!("{}/{} ", SEGMENTS[0], FILES[0]);
    let seen = wanted(&stand);
    assert_eq!(seen.len(), 3, "{seen:?}");
    assert!(seen[0].starts_with(&header) && seen[0].contains("something else stood"), "{seen:?}");
    assert_eq!(seen[1..], [format!("{DATABASE} 0644 {uid}"), format!("readme 0600 {uid}")]);
    // The collector learns nothing by that.
    let (before, _) = (drift(&stand.look()), wanted(&stand));
    assert_eq!(drift(&stand.look()), before);
}

#[test]
fn what_was_learnt_locked_is_opened_for_its_server_alone() {
    let (uid, gid) = me();
    let policy = PermissionPolicy {
        server_uid: Some(uid + 1_000),
        server_gids: vec![gid + 1_000],
        ..PermissionPolicy::default()
    };
    let mut stand = Stand::with(policy);
    let group_may = stand.path(SEGMENTS[1]);
    set_mode(&group_may, 0o777);
    stand.look();
    let seen = wanted(&stand);
    assert_eq!(seen.len() as u64, ENTRIES_MADE, "{seen:?}");
    assert!(seen.iter().all(|one| one.ends_with(&format!(" {}", uid + 1_000))), "{seen:?}");
    assert!(seen.contains(&format!("{DATABASE} 0644 {}", uid + 1_000)), "{seen:?}");
    // Everybody's folder is the server's alone then, for it must still be able to write there.
    assert!(seen.contains(&format!("{} 0775 {}", SEGMENTS[1], uid + 1_000)), "{seen:?}");
    // A declaration that says otherwise is not guessed away.
    stand.policy.uid = Some(uid);
    stand.restart();
    assert!(wanted(&stand).iter().all(|one| one.contains("say in the configuration")));
}
