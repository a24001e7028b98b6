//! What the command of a finding, and `permissions --apply`, would change: what was learnt, and no more.

use super::*;

#[test]
fn much_that_drifted_is_counted_and_mended_by_one_command() {
    let mut stand = Stand::new();
    stand.observe();
    for entry in walkdir(&stand.path("")) {
        set_mode(&entry, 0o770);
    }
    let seen = stand.observe();
    assert_eq!(drift(&seen), "mode=14");
    let said = evidence(&seen, Code::PermissionDrift).unwrap();
    assert!(said.starts_with("14 entries are not as before, first seen 1970-01-01T00:16:50Z: "));
    assert!(said.ends_with(" more"), "{said}");
    assert_eq!(command_of(&seen, Code::PermissionDrift), None, "that of the catalogue");
}

#[test]
fn what_was_learnt_wrong_and_is_mended_is_no_drift() {
    // Root could write anything.
    let (uid, gid) = if is_root() { (4_321, 4_321) } else { me() };
    let mut stand = Stand::served_by(uid, gid);
    for entry in walkdir(&stand.path("")) {
        chown(entry, Some(uid), Some(gid)).unwrap();
    }
    set_mode(&stand.path(SEGMENTS[0]), 0o777);
    set_mode(&stand.path(DATABASE), 0o444);
    let seen = stand.observe();
    assert_eq!((drift(&seen), value(&seen, &UNWRITABLE, &[])), (String::new(), Some(1.0)));
    for (path, mode) in [(DATABASE, 0o644), (SEGMENTS[0], 0o775)] {
        set_mode(&stand.path(path), mode);
    }
    let seen = stand.observe();
    assert_eq!((drift(&seen), value(&seen, &UNWRITABLE, &[])), (String::new(), Some(0.0)));
    // From now on it should be so.
    set_mode(&stand.path(DATABASE), 0o444);
    assert_eq!(drift(&stand.observe()), "mode=1");
    // More for everybody mends nothing.
    set_mode(&stand.path(DATABASE), 0o666);
    assert_eq!(drift(&stand.observe()), "mode=1");
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
    let mut stand = Stand::served_by(uid, gid);
    write(&stand.path("readme"), 0o600);
    stand.observe();
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
    let (before, _) = (drift(&stand.observe()), wanted(&stand));
    assert_eq!(drift(&stand.observe()), before);
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
    stand.observe();
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
