//! Whether a backup has the folders that hold the vectors, and the log of the database.

use super::*;

/// Ways to back up a store: what goes into the backup without and with its folders.
const WAYS: [(&str, &str, &str); 5] = [
    ("a.sqlite3", "cp $S/chroma.sqlite3 $B", ""),
    ("a.sqlite3.gz", "gzip -c $S/chroma.sqlite3 > $B", ""),
    ("a.tar", "tar -cf $B -C $S chroma.sqlite3", "tar -cf $B -C $S ."),
    ("a.tgz", "tar -czf $B -C $S chroma.sqlite3", "tar -czf $B --format=pax $S"),
    ("a.copy", "mkdir $B; cp $S/chroma.sqlite3 $B", "cp -R $S $B"),
];

#[test]
fn a_backup_without_the_folders_of_a_purged_store_is_not_complete() {
    for (name, without, with) in WAYS {
        let (_scratch, store, place) = old_store("chroma-1.5.9");
        pack(&store, &place.join(name), without, NOW - 3 * 3600);
        // A directory must have been at rest for a moment of the real clock.
        let now = if name == "a.copy" { clock::now().as_secs() + 3600 } else { NOW };
        let mut collector = backups_of(&store, &place, "*");
        let (seen, codes) = observe(&mut collector, now);
        assert_eq!(codes, ["backup_incomplete", "backup_missing"], "{name}");
        assert!((incomplete(&seen, "without_vectors") - 1.0).abs() < f64::EPSILON, "{name}");
        assert_eq!((value(&seen, &AGE), value(&seen, &COUNT)), (None, Some(0.0)), "{name}");
        let evidence = &seen.findings[0].evidence;
        let names = "index folders of 2 of 2 collections (\"notes\", \"articles\")";
        assert!(evidence.contains(names), "{name}: {evidence}");
        let items = [
            "11f4c994-921f-420d-b9b5-cbe3dd08f50d of \"notes\"",
            "c2acc258-3dd5-40e9-927a-253f486f8565 of \"articles\"",
        ];
        assert_eq!(seen.findings[0].items, items, "{name}");
        if !with.is_empty() {
            pack(&store, &place.join("whole").with_extension(name), with, NOW - 2 * 3600);
            let (seen, codes) = observe(&mut collector, now);
            assert!(!codes.contains(&"backup_incomplete"), "{name}: {codes:?}");
            assert_eq!(value(&seen, &COUNT), Some(1.0), "{name}");
        }
    }
}

#[test]
#[cfg_attr(not(feature = "e2e"), ignore = "needs python3: run with --features e2e")]
fn what_is_in_other_archives_is_told_too() {
    let script = "import os,sys,tarfile,zipfile\ns,b,all=os.environ['S'],os.environ['B'],sys.argv[1]=='all'\n\
        names=[os.path.join(d,f) for d,_,fs in os.walk(s) for f in fs] if all else [s+'/chroma.sqlite3']\n\
        if b.endswith('zip'):\n z=zipfile.ZipFile(b,'w',zipfile.ZIP_DEFLATED)\n [z.write(n) for n in names]\n z.close()\n\
        else:\n t=tarfile.open(b,'w:'+b.rsplit('.',1)[1])\n [t.add(n) for n in names]\n t.close()";
    for name in ["a.zip", "a.tar.xz", "a.tar.bz2"] {
        for (all, want) in [("all", &[][..]), ("one", &["backup_incomplete", "backup_missing"])] {
            let (_scratch, store, place) = old_store("chroma-1.5.9");
            let command = format!("python3 -c \"{script}\" {all}");
            pack(&store, &place.join(name), &command, NOW - 3 * 3600);
            assert_eq!(observe(&mut backups_of(&store, &place, "*"), NOW).1, want, "{name} {all}");
        }
    }
}

#[test]
fn a_store_that_never_purged_needs_no_folders() {
    for base in ["chroma-0.4.24", "chroma-0.5.5", "chroma-1.5.9-fresh"] {
        let (_scratch, store, place) = old_store(base);
        pack(&store, &place.join("a.sqlite3"), "cp $S/chroma.sqlite3 $B", NOW - 3 * 3600);
        assert_eq!(observe(&mut backups_of(&store, &place, "*"), NOW).1, [""; 0], "{base}");
    }
}

#[test]
fn a_backup_is_held_against_the_folders_of_its_time() {
    let (_scratch, store, place) = old_store("chroma-1.5.9");
    let bare = place.join("a.sqlite3");
    pack(&store, &bare, "cp $S/chroma.sqlite3 $B", NOW - 120 * 3600);
    let mut collector = backups_of(&store, &place, "*");
    // A time that somebody gave it does not make it older than the folders.
    assert_eq!(observe(&mut collector, NOW).1, ["backup_incomplete", "backup_missing"]);
    let lacks = |collector: &Backups, hours: i64| {
        let content = collector.seen[&bare].content.clone().unwrap();
        let by = Timestamp::from_secs(NOW - hours * 3600);
        collector.vectors.lacking(by, &content).map(|fault| fault.reason)
    };
    // Made before the first flush: all vectors were in the database then.
    assert_eq!(lacks(&collector, 120), None);
    assert_eq!(lacks(&collector, 1), Some(Reason::WithoutVectors));
    // Unless one that is older still has the folders.
    pack(&store, &place.join("b.tar"), "tar -cf $B -C $S .", NOW - 130 * 3600);
    assert_eq!(observe(&mut collector, NOW).1, ["backup_incomplete", "backup_stale"]);
    assert_eq!(lacks(&collector, 120), Some(Reason::WithoutVectors));
    // A folder with a file missing or without a byte brings nothing back either.
    for command in [
        "tar -cf $B -C $S --exclude=header.bin .",
        "mkdir $B.d; cp -R $S/. $B.d; for f in $B.d/*/data_level0.bin; do : > $f; done; tar -cf $B -C $B.d .; rm -r $B.d",
        "mkdir $B.d; for f in $S/*; do ln -s $f $B.d; done; rm $B.d/chroma.sqlite3; cp $S/chroma.sqlite3 $B.d; tar -cf $B -C $B.d .; rm -r $B.d",
    ] {
        pack(&store, &place.join("c.tar"), command, NOW - 3600);
        let codes = observe(&mut collector, NOW).1;
        assert_eq!(codes, ["backup_incomplete", "backup_stale"], "{command}");
    }
    pack(&store, &place.join("c.tar"), "tar -cf $B -C $S .", NOW - 1800);
    assert_eq!(observe(&mut collector, NOW).1, [""; 0]);
}

#[test]
fn folders_that_come_late_make_a_directory_complete() {
    let (_scratch, store, place) = old_store("chroma-1.5.9");
    let copy = place.join("a");
    pack(&store, &copy, "mkdir $B; cp $S/chroma.sqlite3 $B", NOW);
    let now = clock::now().as_secs() + 3600;
    let mut collector = backups_of(&store, &place, "*");
    assert!(observe(&mut collector, now).1.contains(&"backup_incomplete"));
    pack(&store, &copy, "cp -R $S/*-*-*-*-* $B", NOW);
    assert!(!observe(&mut collector, now).1.contains(&"backup_incomplete"));
}

#[test]
fn what_the_store_had_is_known_when_it_is_gone_and_after_a_restart() {
    let (scratch, store, place) = old_store("chroma-1.5.9");
    pack(&store, &place.join("a.sqlite3"), "cp $S/chroma.sqlite3 $B", NOW - 3600);
    let state = scratch.path().join("state");
    let config = Arc::new(Config { state_dir: Some(state), ..Config::default() });
    let new = || {
        let mut backups = backups_of(&store, &place, "*");
        backups.context =
            Context::new(&config, &backups.context.store, &Arc::new(Host::new(&config)));
        backups
    };
    let want = ["backup_incomplete", "backup_missing"];
    let mut collector = new();
    assert_eq!(observe(&mut collector, NOW).1, want);
    fs::remove_file(store.join("chroma.sqlite3")).unwrap();
    assert_eq!(observe(&mut collector, NOW).1, want);
    drop(collector);
    assert_eq!(observe(&mut new(), NOW).1, want);
    // A store that was never seen tells nothing of a backup without folders.
    let mut stranger = backups_of(&store, &place, "*");
    let (seen, codes) = observe(&mut stranger, NOW);
    assert_eq!((codes, seen.problems.len()), (vec![], 1));
}

#[test]
fn what_is_too_large_to_be_unpacked_is_unknown_unless_it_is_larger_than_the_database() {
    let content = |bytes| Content { bytes, holds: None, stated: None };
    let (_scratch, store, place) = old_store("chroma-1.5.9");
    let mut collector = backups_of(&store, &place, "*");
    observe(&mut collector, NOW);
    let taken = Timestamp::from_secs(NOW - 3600);
    let lacking = |bytes| collector.vectors.lacking(taken, &content(bytes)).map(|f| f.reason);
    assert_eq!(lacking(4096), Some(Reason::Unknown));
    assert_eq!(lacking(1 << 30), None);
}

#[test]
fn a_backup_without_the_log_of_the_store_is_not_called_complete() {
    for (name, command, complete) in [
        ("a.tar", "tar -cf $B -C $S --exclude=chroma.sqlite3-wal .", false),
        ("a.tgz", "tar -czf $B -C $S --exclude=chroma.sqlite3-wal .", false),
        ("a.copy", "cp -R $S $B; rm -f $B/chroma.sqlite3-wal", false),
        ("b.tar", "tar -cf $B -C $S .", true),
        ("b.copy", "cp -R $S $B", true),
    ] {
        let (_scratch, store, place) = old_store("chroma-1.5.9");
        let now = clock::now().as_secs() + 3600;
        let pack = |name: &str| pack(&store, &place.join(name), command, now - 3 * 3600);
        let reported = || {
            let (seen, _) = observe(&mut backups_of(&store, &place, "*"), now);
            (value(&seen, &COUNT), incomplete(&seen, "unknown") > 0.0)
        };
        let database = rusqlite::Connection::open(store.join("chroma.sqlite3")).unwrap();
        database.pragma_update(None, "journal_mode", "WAL").unwrap();
        database.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
        database.execute_batch("INSERT INTO tenants(id) VALUES('new')").unwrap();
        pack(name);
        assert_eq!(reported(), (Some(f64::from(complete)), !complete), "{name}");
        // What SQLite has put back into the database is in a copy of that.
        database.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
        pack(&format!("later-{name}"));
        assert!(reported().0 >= Some(1.0) && !reported().1, "{name}");
    }
}
