//! What `check` finds in its one deep turn, `serve` finds too in its cheap ones: all faults at once, each in a store of its own.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/faults/mod.rs"]
mod faults;
mod support;

use std::fs;

use support::{Exporter, SOON, fixture, now};

#[test]
fn every_fault_is_found_by_a_running_exporter_and_a_whole_store_stays_whole() {
    let scratch = tempfile::tempdir().unwrap();
    let config = scratch.path().join("config.yml");
    fs::write(&config, "collect: {interval: 1s}\n").unwrap();
    let state = scratch.path().join("state");
    let mut words: Vec<String> = [("--config.file", &config), ("--state.dir", &state)]
        .iter()
        .flat_map(|(flag, path)| [(*flag).to_owned(), path.display().to_string()])
        .collect();
    let faults = faults::one_of_each();
    for (name, fault) in &faults {
        faults::stage(fault, scratch.path(), name);
    }
    fs::rename(fixture("chroma-1.5.9", scratch.path()), scratch.path().join("whole")).unwrap();
    for name in faults.iter().map(|(name, _)| *name).chain(["whole"]) {
        let dir = scratch.path().join(name);
        words.extend(["--store.path".to_owned(), format!("{name}={}", dir.display())]);
    }
    let exporter = Exporter::start(&words);
    let began = now();
    loop {
        let page = exporter.page();
        let missing: Vec<&str> = faults
            .iter()
            .map(|(code, _)| *code)
            .filter(|code| !page.findings(code).contains(&(*code).to_owned()))
            .collect();
        if missing.is_empty() {
            break;
        }
        assert!(began.elapsed() < 4 * SOON, "not found: {missing:?}");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    // Those about room are this host's.
    let mut whole = exporter.ready().findings("whole");
    whole.retain(|code| !["disk", "headroom", "inodes"].iter().any(|a| code.starts_with(a)));
    assert_eq!(whole, [""; 0]);
    assert!(exporter.stop().success());
}
