//! The whole metrics page of every fixture against a golden file. What differs from host to host is dropped by name, what
//! differs from run to run keeps its series and loses its value. `UPDATE_GOLDEN=1 cargo test --test golden` rewrites them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use chroma_exporter::{
    clock::Timestamp,
    collectors,
    config::{BackupPolicy, Config, PermissionPolicy, Store},
    host::Host,
    metrics::{self, Facts, Own},
    sample::{Snapshot, StoreReadings},
    scheduler,
    store::Context,
};

/// Lines about this host: its disk, its processes, its user.
const DROPPED: [&str; 12] = [
    "chroma_disk_",
    "chroma_store_info",
    "chroma_exporter_capability",
    "chroma_exporter_build_info",
    "chroma_processes_unreadable",
    "chroma_permission_unwritable",
    "process_",
    "chroma_finding{store=\"store\",code=\"disk_",
    "chroma_finding{store=\"store\",code=\"headroom_low",
    "chroma_finding{store=\"store\",code=\"inodes_low",
    "chroma_finding{store=\"store\",code=\"permission_unwritable",
    "chroma_store_allocated_bytes",
];

/// Parts of names whose values change from run to run.
const VOLATILE: [&str; 5] =
    ["_timestamp_seconds", "_duration_seconds", "_age_seconds", "_hold_seconds", "_success{"];

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
    for name in names {
        let golden = here.join("tests/golden").join(format!("{name}.prom"));
        let page = page(&name);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&golden, &page).unwrap();
        }
        let want = fs::read_to_string(&golden).unwrap_or_default();
        assert!(
            page == want,
            "{name} differs from {}:\n{}",
            golden.display(),
            difference(&want, &page)
        );
    }
}

fn page(name: &str) -> String {
    let scratch = tempfile::tempdir().unwrap();
    let dir = support::fixture(name, scratch.path());
    set_modes(&dir);
    let config = Arc::new(Config::default());
    let store = Arc::new(Store {
        name: "store".into(),
        path: dir.clone(),
        seen_path: dir,
        backups: BackupPolicy::daily(vec![format!("{}/none*", scratch.path().display())]),
        permissions: PermissionPolicy::default(),
        chroma_version: None,
    });
    let context = Context::new(&config, &store, &Arc::new(Host::new(&config)));
    let readings: Vec<_> = collectors::registry(&context)
        .into_iter()
        .map(|mut collector| {
            Arc::new(scheduler::run_once(&mut *collector, &context, true, Arc::default()))
        })
        .collect();
    let stores = vec![StoreReadings {
        store: Arc::clone(&store.name),
        path: PathBuf::from("/store").as_path().into(),
        collectors: readings.len(),
        readings,
    }];
    let at = Timestamp::from_secs(1_795_424_274);
    let own = Own::new("/metrics", at).unwrap();
    let snapshot = Arc::new(Snapshot { taken_at: at, stores });
    let page = metrics::encode(&snapshot, &own, Facts::default(), 20_000).unwrap();
    steady(std::str::from_utf8(&page.identity).unwrap())
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

fn steady(page: &str) -> String {
    let about_host = |line: &str| {
        let name =
            line.strip_prefix("# HELP ").or_else(|| line.strip_prefix("# TYPE ")).unwrap_or(line);
        DROPPED.iter().any(|dropped| name.starts_with(dropped))
    };
    let mut out = String::new();
    for line in page.lines().filter(|line| !about_host(line)) {
        match line.rsplit_once(' ') {
            Some((series, _))
                if !line.starts_with('#') && VOLATILE.iter().any(|part| series.contains(part)) =>
            {
                out.push_str(series);
                out.push_str(" *");
            }
            _ => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

fn difference(want: &str, have: &str) -> String {
    let missing =
        want.lines().filter(|line| !have.lines().any(|l| l == *line)).map(|l| format!("- {l}"));
    let new =
        have.lines().filter(|line| !want.lines().any(|l| l == *line)).map(|l| format!("+ {l}"));
    missing.chain(new).collect::<Vec<_>>().join("\n")
}
