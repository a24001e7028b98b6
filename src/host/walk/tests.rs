use std::{
    collections::BTreeMap,
    fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::PathBuf,
};

use super::*;

const WIDE: Bounds = Bounds { entries_max: 1_000_000, depth_max: DEPTH_MAX };

fn collect(root: &Path, bounds: Bounds) -> (BTreeMap<Vec<u8>, Meta>, Vec<Problem>, Summary) {
    let (mut found, mut problems) = (BTreeMap::new(), Vec::new());
    let summary = walk(root, bounds, &mut |visit| {
        match visit {
            Ok(entry) => {
                let slashes = entry.path.split(|b| *b == b'/').count() - 1;
                let depth = if entry.path.is_empty() { 0 } else { slashes + 1 };
                assert_eq!(entry.depth as usize, depth);
                let joined = match entry.folder() {
                    b"" => entry.name().to_vec(),
                    folder => [folder, b"/", entry.name()].concat(),
                };
                assert_eq!(joined, entry.path);
                assert!(found.insert(entry.path.to_vec(), *entry.meta).is_none(), "told twice");
            }
            Err(problem) => problems.push(problem),
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    (found, problems, summary)
}

/// Every path below `root` by the standard library.
fn reference(root: &Path) -> Vec<PathBuf> {
    let (mut out, mut open) = (vec![root.to_owned()], vec![root.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                open.push(path.clone());
            }
            out.push(path);
        }
    }
    out
}

#[test]
fn every_entry_is_told_once_with_what_lstat_says_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for folder in 0..70 {
        let folder = root.join(format!("folder-{folder}"));
        fs::create_dir(&folder).unwrap();
        for file in ["header.bin", "data_level0.bin", "odd\nname\u{1b}[31m"] {
            fs::write(folder.join(file), b"some bytes").unwrap();
        }
    }
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"not-utf8-\xff\xfe")), b"x").unwrap();
    fs::hard_link(root.join("folder-0/header.bin"), root.join("second-name")).unwrap();
    std::os::unix::fs::symlink("/", root.join("link-to-root")).unwrap();
    std::os::unix::fs::symlink(".", root.join("folder-1/loop")).unwrap();
    std::os::unix::fs::symlink("nowhere", root.join("dangling")).unwrap();
    rustix::fs::mkfifoat(CWD, root.join("fifo"), Mode::RWXU).unwrap();

    let (found, problems, summary) = collect(root, WIDE);
    let expected = reference(root);
    assert_eq!(found.len(), expected.len());
    for path in expected {
        let relative = path.strip_prefix(root).unwrap().as_os_str().as_bytes();
        let meta = found[relative];
        let lstat = fs::symlink_metadata(&path).unwrap();
        assert_eq!(
            (u32::from(meta.mode), meta.uid, meta.gid, meta.size_bytes, meta.allocated_bytes),
            (lstat.mode(), lstat.uid(), lstat.gid(), lstat.size(), lstat.blocks() * 512),
            "{path:?}"
        );
        assert_eq!(
            (meta.device, meta.inode, u64::from(meta.links)),
            (lstat.dev(), lstat.ino(), lstat.nlink())
        );
        assert_eq!(meta.modified, Timestamp::from_parts(lstat.mtime(), lstat.mtime_nsec()));
        assert_eq!(meta.changed, Timestamp::from_parts(lstat.ctime(), lstat.ctime_nsec()));
    }
    assert_eq!(problems, []);
    assert!(summary.complete());
    assert_eq!(summary.entries, found.len() as u64);
}

#[test]
fn the_older_system_call_says_the_same() {
    let here = rustix::fs::open("/", DIRECTORY_FLAGS, Mode::empty()).unwrap();
    let new = stat(here.as_fd(), c"etc", AtFlags::SYMLINK_NOFOLLOW).unwrap();
    assert_eq!(stat_plain(here.as_fd(), c"etc", AtFlags::SYMLINK_NOFOLLOW).unwrap(), new);
}

#[test]
fn a_directory_larger_than_the_buffer_is_read_to_its_end() {
    let dir = tempfile::tempdir().unwrap();
    for file in 0..3_000 {
        fs::write(dir.path().join(format!("{file:0>60}")), b"").unwrap();
    }
    let (found, _, summary) = collect(dir.path(), WIDE);
    assert_eq!(found.len(), 3_001);
    assert!(summary.complete());
}

#[test]
fn bounds_hold_to_the_entry() {
    let dir = tempfile::tempdir().unwrap();
    for folder in 0..3 {
        let folder = dir.path().join(folder.to_string());
        fs::create_dir(&folder).unwrap();
        for file in 0..100 {
            fs::write(folder.join(file.to_string()), b"").unwrap();
        }
    }
    let all = 1 + 3 + 300;
    for (entries_max, reported, truncated) in
        [(1, 1, true), (4, 4, true), (all - 1, all - 1, true), (all, all, false)]
    {
        let (found, _, summary) = collect(dir.path(), Bounds { entries_max, ..WIDE });
        assert_eq!((found.len(), summary.truncated), (reported, truncated), "{entries_max}");
    }
    for (depth_max, reported, too_deep) in [(0, 1, 0), (1, 4, 3), (2, all, 0)] {
        let (found, _, summary) = collect(dir.path(), Bounds { depth_max, ..WIDE });
        assert_eq!((found.len(), summary.too_deep), (reported, too_deep), "{depth_max}");
    }
}

#[test]
fn nesting_deeper_than_the_bound_is_counted_not_entered() {
    let dir = tempfile::tempdir().unwrap();
    let mut deep = dir.path().to_owned();
    for _ in 0..100 {
        deep.push("d");
        fs::create_dir(&deep).unwrap();
    }
    let (found, _, summary) = collect(dir.path(), Bounds { entries_max: 1_000, depth_max: 1_000 });
    assert_eq!(found.len(), 1 + DEPTH_MAX as usize);
    assert_eq!(summary.too_deep, 1);
    assert!(!summary.complete());
}

#[test]
fn a_visitor_can_stop_and_a_walk_can_pause_between_steps() {
    let dir = tempfile::tempdir().unwrap();
    for file in 0..200 {
        fs::write(dir.path().join(file.to_string()), b"").unwrap();
    }
    let mut reported = 0;
    let summary = walk(dir.path(), WIDE, &mut |_| {
        reported += 1;
        if reported == 100 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .unwrap();
    assert_eq!((reported, summary.stopped, summary.complete()), (100, true, false));

    let mut walk = Walk::start(dir.path(), WIDE).unwrap();
    let (mut steps, mut reported) = (0, 0);
    while walk
        .step(&mut |_| {
            reported += 1;
            ControlFlow::Continue(())
        })
        .is_continue()
    {
        steps += 1;
    }
    assert!(steps > 3, "{steps}");
    assert_eq!(reported, 201);
}

#[test]
fn entries_that_vanish_between_steps_are_no_problem() {
    let dir = tempfile::tempdir().unwrap();
    for folder in 0..5 {
        let folder = dir.path().join(folder.to_string());
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("file"), b"").unwrap();
    }
    let mut walk = Walk::start(dir.path(), WIDE).unwrap();
    let mut reported = Vec::new();
    let mut visit = |visit: Visit<'_>| {
        reported.push(visit.unwrap().path.to_vec());
        ControlFlow::Continue(())
    };
    // The directory itself, its names, its five folders; then one folder is entered and everything is deleted.
    for _ in 0..4 {
        assert!(walk.step(&mut visit).is_continue());
    }
    for folder in 0..5 {
        fs::remove_dir_all(dir.path().join(folder.to_string())).unwrap();
    }
    while walk.step(&mut visit).is_continue() {}
    let summary = walk.summary();
    assert_eq!((reported.len(), summary.problems, summary.vanished), (6, 0, 4));
    assert!(summary.complete());
}

#[test]
fn what_is_not_a_directory_is_an_error() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let fails =
        |path: &Path| walk(path, WIDE, &mut |_| ControlFlow::Continue(())).unwrap_err().kind();
    assert_eq!(fails(file.path()), io::ErrorKind::NotADirectory);
    assert_eq!(fails(Path::new("/does/not/exist")), io::ErrorKind::NotFound);
}

#[test]
fn a_folder_that_may_not_be_read_is_told_and_the_rest_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mode = |path: &str, mode: u32| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        fs::set_permissions(dir.path().join(path), mode).unwrap();
    };
    for folder in ["closed", "listed"] {
        fs::create_dir(dir.path().join(folder)).unwrap();
        fs::write(dir.path().join(folder).join("file"), b"").unwrap();
    }
    mode("", 0o755);
    mode("closed", 0);
    mode("listed", 0o444);
    let path = dir.path().to_owned();
    let (found, problems, summary) = std::thread::spawn(move || {
        as_somebody_else();
        collect(&path, WIDE)
    })
    .join()
    .unwrap();
    mode("closed", 0o700);
    mode("listed", 0o700);
    assert_eq!(found.len(), 3);
    let reported: BTreeMap<_, _> = problems.into_iter().map(|p| (p.path, p.errno)).collect();
    let refused = |path: &str| (path.into(), Errno::ACCESS);
    assert_eq!(reported, BTreeMap::from([refused("closed"), refused("listed/file")]));
    assert!(!summary.complete());
}

/// Root may read everything; here this thread, and it alone, becomes a user that may not.
fn as_somebody_else() {
    let nobody = Some(rustix::fs::Uid::from_raw(65_534));
    if rustix::process::geteuid().is_root() {
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
    }
}
