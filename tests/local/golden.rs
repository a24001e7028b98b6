//! The whole metrics page of every fixture, every line of it, against a golden file. A Chroma server holds the fixture, as
//! a procfs of the test's own tells it, and a backup lies beside it, so that what is said of processes, permissions and
//! backups is the same for every user on every host. Values that belong to the host or the moment are masked by name.
//! `UPDATE_GOLDEN=1 cargo test --test local golden::` rewrites the files.

use std::{
    fs,
    fs::{File, FileTimes},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use crate::support::{self, procfs};
use chroma_exporter::{
    alert::report::{AlertReport, ReceiverReport},
    clock::{self, Timestamp},
    collectors,
    config::{BackupPolicy, Collect, Config, Disk, Store, alerts},
    host::{Host, job_queue::Jobs},
    metrics::{self, Facts, Own, ProcessUsage},
    sample::{Snapshot, StoreReadings},
    scheduler,
    store::Context,
};

/// Families whose values are those of this host's filesystem, or of the moment of the test.
const MASKED_VALUES: [&str; 29] = [
    "chroma_backup_age_seconds",
    "chroma_backup_last_success_timestamp_seconds",
    "chroma_contents_age_seconds",
    "chroma_disk_avail_bytes",
    "chroma_disk_avail_low_water_bytes",
    "chroma_disk_free_bytes",
    "chroma_disk_inodes",
    "chroma_disk_inodes_free",
    "chroma_disk_size_bytes",
    "chroma_disk_used_ratio",
    "chroma_documents_compared_timestamp_seconds",
    "chroma_exporter_collector_duration_seconds",
    "chroma_exporter_collector_last_run_timestamp_seconds",
    "chroma_exporter_collector_last_success_timestamp_seconds",
    "chroma_hnsw_compared_timestamp_seconds",
    "chroma_hnsw_orphan_bytes",
    "chroma_hnsw_walk_duration_seconds",
    "chroma_hnsw_walk_timestamp_seconds",
    "chroma_integrity_duration_seconds",
    "chroma_integrity_last_ok_timestamp_seconds",
    "chroma_integrity_last_run_timestamp_seconds",
    "chroma_integrity_lock_hold_seconds",
    "chroma_integrity_next_due_timestamp_seconds",
    "chroma_integrity_way", // no copies are made where temporary files lie in memory
    "chroma_permission_walk_duration_seconds",
    "chroma_permission_walk_timestamp_seconds",
    "chroma_store_allocated_bytes",
    "chroma_store_walk_duration_seconds",
    "chroma_store_walk_timestamp_seconds",
];

/// Families whose labels are those of this host or this build.
const MASKED_LABELS: [&str; 2] = ["chroma_disk_info", "chroma_exporter_build_info"];

/// Families that a filesystem without a limit of inodes (btrfs) does not have.
const INODES: [&str; 2] = ["chroma_disk_inodes", "chroma_disk_inodes_free"];

#[test]
fn every_fixture_gives_its_page() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut names: Vec<_> = fs::read_dir(here.join("tests/fixtures"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("chroma-"))
        .collect();
    names.sort();
    assert!(names.len() >= 9);
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut differing = Vec::new();
    for name in names {
        let golden = here.join("tests/golden").join(format!("{name}.prom"));
        let (page, limited) = page(&name);
        if update {
            assert!(limited, "golden files are to be made where inodes are limited");
            fs::write(&golden, &page).unwrap();
        }
        let mut want = fs::read_to_string(&golden).unwrap_or_default();
        if !limited {
            want = lines(&want, |line| !INODES.contains(&family(line)));
        }
        if page != want {
            differing.push(format!("{}:\n{}", golden.display(), difference(&want, &page)));
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

/// The page of a fixture, and whether the filesystem that it lies on has a limit of inodes.
fn page(name: &str) -> (String, bool) {
    let scratch = tempfile::tempdir().unwrap();
    let dir = support::fixture(name, scratch.path());
    set_modes(&dir);
    back_up(&dir, &scratch.path().join("backups/chroma_db.backup"));
    let proc = scratch.path().join("proc");
    procfs::build(&proc, &dir.join("chroma.sqlite3"));

    let collect = Collect {
        // The file is held, so that statements have a deadline; a host that is busy is no reason to give one up.
        statement_deadline: Duration::from_mins(1),
        deadline: Duration::from_mins(2),
        device_timeout: Duration::from_secs(30),
        ..Collect::default()
    };
    // The findings about room are those of this host, unless nothing is ever too full.
    let disk = Disk {
        warn_ratio: 2.0,
        recover_ratio: 2.0,
        critical_ratio: 2.0,
        inodes_low_ratio: 0.0,
        ..Disk::default()
    };
    let config = Arc::new(Config { collect, disk, procfs: proc, ..Config::default() });
    let pattern = scratch.path().join("backups/chroma_db.backup*");
    let store = Arc::new(Store {
        backups: BackupPolicy {
            settle: Duration::ZERO, // the copy was made a moment ago
            ..BackupPolicy::daily(vec![pattern.to_string_lossy().into_owned()])
        },
        ..Store::new("store", dir.clone())
    });
    let context = Context::new(&config, &store, &Arc::new(Host::new(&config)));
    let readings: Vec<_> = collectors::registry(&context)
        .into_iter()
        .map(|mut collector| {
            Arc::new(scheduler::run_once(&mut *collector, &context, true, Arc::default()))
        })
        .collect();
    for reading in &readings {
        let problems = &reading.observation.problems;
        assert!(problems.is_empty(), "{name} {}: {problems:?}", reading.collector);
    }
    let stores = vec![StoreReadings {
        firsts: std::sync::Arc::default(),
        trial: None,
        store: Arc::clone(&store.name),
        path: PathBuf::from("/store").as_path().into(),
        collectors: readings.len(),
        readings,
    }];
    let at = Timestamp::from_secs(procfs::BOOTED + 24_274);
    let own = Own::new("/metrics", at).unwrap();
    let snapshot = Arc::new(Snapshot { taken_at: at, stores });
    let page = metrics::encode(&snapshot, &own, &facts(), 20_000).unwrap();
    let limited = rustix::fs::statvfs(&dir).unwrap().f_files > 0;
    (steady(std::str::from_utf8(&page.identity).unwrap()), limited)
}

/// A copy of the directory, six hours old.
fn back_up(from: &Path, to: &Path) {
    support::copy_tree(from, to);
    let now = u64::try_from(clock::now().as_secs()).unwrap();
    let made = FileTimes::new().set_modified(UNIX_EPOCH + Duration::from_secs(now - 6 * 3600));
    let database = File::options().write(true).open(to.join("chroma.sqlite3")).unwrap();
    database.set_times(made).unwrap();
}

/// As if this program ran somewhere.
fn facts() -> Facts {
    Facts {
        process: Some(ProcessUsage {
            cpu_seconds: 1.25,
            resident_bytes: 20_971_520,
            virtual_bytes: 83_886_080,
            open_fds: Some(21),
            max_fds: Some(1024),
            started: Timestamp::from_secs(procfs::BOOTED + 200),
            threads: Some(7),
        }),
        state_persistent: true,
        state_write_errors: 0,
        watched: [("store".into(), true)].into(),
        jobs: Jobs::default(),
        alerts: Arc::new(AlertReport {
            rules: alerts::rules(&Disk::default(), &[])
                .iter()
                .map(|rule| (Arc::clone(&rule.name), rule.usual_severity()))
                .collect(),
            receivers: [("ops".to_owned(), ReceiverReport::default())].into(),
            persistent: true,
            ..AlertReport::default()
        }),
    }
}

/// As a umask of 022 gives them, whatever the one of this host is.
fn set_modes(dir: &Path) {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            set_modes(&entry.path());
        } else {
            fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o644)).unwrap();
        }
    }
}

/// The family that a sample or a comment is about.
fn family(line: &str) -> &str {
    let name = line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE "));
    name.unwrap_or(line).split(['{', ' ']).next().unwrap_or_default()
}

/// The page with `*` for what changes; every line stays.
fn steady(page: &str) -> String {
    let mut out = String::new();
    for line in page.lines() {
        let (series, value) = line.rsplit_once(' ').unwrap_or((line, ""));
        let family = family(line);
        if line.starts_with('#') {
            out.push_str(line);
        } else if MASKED_VALUES.contains(&family) {
            assert!(value.parse::<f64>().unwrap() >= 0.0, "{line}");
            out.push_str(series);
            out.push_str(" *");
        } else if MASKED_LABELS.contains(&family) {
            out.extend([family, "{*} ", value]);
        } else {
            out.push_str(line);
        }
        out.push('\n');
    }
    out
}

fn lines(text: &str, keep: impl Fn(&str) -> bool) -> String {
    text.lines().filter(|line| keep(line)).flat_map(|line| [line, "\n"]).collect()
}

fn difference(want: &str, have: &str) -> String {
    let missing = lines(want, |line| !have.lines().any(|l| l == line));
    let new = lines(have, |line| !want.lines().any(|l| l == line));
    let marked = |text: &str, mark| -> Vec<String> {
        text.lines().map(|line| format!("{mark} {line}")).collect()
    };
    [marked(&missing, '-'), marked(&new, '+')].concat().join("\n")
}
