//! What the user of the server can and cannot write, and the command that helps.

use super::*;

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
    let seen = stand.observe();
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
    let seen = stand.observe();
    assert_eq!(value(&seen, &UNWRITABLE, &[]), Some(0.0));
    assert_eq!(value(&seen, &WORLD_WRITABLE, &[]), Some((ENTRIES_MADE + 1) as f64));
    assert!(evidence(&seen, Code::PermissionWorldWritable).unwrap().contains("15 entries"));

    // The journal of a transaction that was cut off: it must be read, played and deleted.
    write(&stand.path("chroma.sqlite3-journal"), 0o600);
    assert_eq!(value(&stand.observe(), &UNWRITABLE, &[]), Some(1.0));
    fs::remove_file(stand.path("chroma.sqlite3-journal")).unwrap();
    // A folder above it that may not be gone through.
    set_mode(stand.scratch.path(), 0o750);
    let seen = stand.observe();
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
        assert_eq!(value(&stand.observe(), &UNWRITABLE, &[]), None, "nothing is told of root");
        for entry in walkdir(&stand.path("")) {
            chown(entry, Some(owner), Some(owner)).unwrap();
        }
        stand.restart();
    }
    let seen = stand.observe();
    assert_eq!(value(&seen, &UNWRITABLE, &[]), None, "not known, only likely");
    assert_eq!(evidence(&seen, Code::PermissionUnwritable), None);
    let database = stand.path(DATABASE);
    set_mode(&database, 0o444);
    if is_root() {
        chown(&database, Some(0), Some(0)).unwrap();
    }
    let seen = stand.observe();
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
    // The next run knows it too.
    assert_eq!(evidence(&stand.run(Wake::NONE, false), Code::PermissionUnwritable), Some(said));
    // A directory in which its owner may not write is one to read from.
    set_mode(&stand.path(""), 0o555);
    assert_eq!(evidence(&stand.observe(), Code::PermissionUnwritable), None);
}

#[test]
fn of_a_directory_that_is_no_store_nothing_is_told() {
    let mut stand = Stand::new();
    fs::remove_dir_all(stand.path("")).unwrap();
    fs::create_dir_all(stand.path("somebody's")).unwrap();
    set_mode(&stand.path(""), 0o1777);
    for _ in 0..2 {
        let seen = stand.observe();
        assert!(seen.findings.is_empty() && seen.samples.is_empty() && seen.problems.is_empty());
    }
    // A store that lost its database is one.
    make_segment(&stand.path(SEGMENTS[0]));
    let command = format!("chmod o-w {}", stand.path("").display());
    assert_eq!(command_of(&stand.observe(), Code::PermissionWorldWritable), Some(command));
}

#[test]
fn the_owner_and_those_that_a_list_names_can_write() {
    let (uid, gid) = me();
    let mut stand = Stand::served_by(uid, gid);
    assert_eq!(value(&stand.observe(), &UNWRITABLE, &[]), Some(0.0));
    let database = stand.path(DATABASE);
    set_mode(&database, 0o444);
    let expected = if uid == 0 { 0.0 } else { 1.0 };
    assert_eq!(
        value(&stand.observe(), &UNWRITABLE, &[]),
        Some(expected),
        "root writes all the same"
    );

    stand.policy.server_uid = Some(4_321);
    stand.policy.server_gids = vec![4_321];
    for folder in ["", SEGMENTS[0], SEGMENTS[1]] {
        set_mode(&stand.path(folder), 0o777);
    }
    stand.restart();
    assert_eq!(value(&stand.observe(), &UNWRITABLE, &[]), Some(11.0));
    if rustix::fs::setxattr(&database, lists::ACCESS, &list(), XattrFlags::empty()).is_ok() {
        assert_eq!(value(&stand.observe(), &UNWRITABLE, &[]), Some(10.0));
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
        assert_eq!(value(&stand.observe(), &UNWRITABLE, &[]), Some(unwritable as f64));
    }
}

#[test]
fn a_frozen_database_is_unwritable_even_for_root() {
    let (uid, gid) = me();
    let mut stand = Stand::served_by(uid, gid);
    stand.observe();
    let database = fs::File::open(stand.path(DATABASE)).unwrap();
    for (flag, word) in
        [(rustix::fs::IFlags::IMMUTABLE, "immutable"), (rustix::fs::IFlags::APPEND, "append-only")]
    {
        match rustix::fs::ioctl_setflags(&database, flag) {
            // Needs root, and a filesystem that has them.
            Err(Errno::PERM | Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL) => return,
            other => other.unwrap(),
        }
        let seen = stand.observe();
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
    let seen = stand.observe();
    assert_eq!(value(&seen, &UNWRITABLE, &[]), Some((ENTRIES_MADE - 1) as f64));
    let said = evidence(&seen, Code::PermissionUnwritable).unwrap();
    assert!(said.starts_with("uid 4321 (groups 4322)"), "{said}");
    // A program that was started just now could be a tool; one that runs for a minute is the server.
    stand.now = clock::now().as_secs() + 120;
    stand.observe();
    holder.kill().unwrap();
    holder.wait().unwrap();
    stand.restart();
    let seen = stand.observe();
    assert_eq!(value(&seen, &UNWRITABLE, &[]), Some((ENTRIES_MADE - 1) as f64), "remembered");
}
