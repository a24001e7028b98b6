//! Many idle stores on one host: threads and memory do not grow with them as they would with a thread for each collector and a
//! heap for each thread. The bounds are generous, because a build for tests is larger; `benches/stores.rs` measures.

use crate::support::{self, Exporter, SOON, copy_tree, fixture, wait_for};
use std::{fmt::Write as _, fs};

const STORES: usize = 100;

/// Of what the program needs with many stores that do nothing; the checks at the start have threads of their own.
const THREADS_MAX: u64 = 60;
const RESIDENT_KIB_MAX: u64 = 160 * 1024;

#[test]
fn a_hundred_idle_stores_need_few_threads_and_little_memory() {
    let scratch = tempfile::tempdir().unwrap();
    let source = fixture("chroma-1.5.9", scratch.path());
    let mut yaml = String::from("stores:\n");
    for number in 0..STORES {
        let dir = scratch.path().join(format!("store-{number}"));
        copy_tree(&source, &dir);
        writeln!(yaml, "  - {{name: store-{number}, path: {}}}", dir.display()).unwrap();
    }
    let config = scratch.path().join("config.yml");
    fs::write(&config, yaml).unwrap();
    let state = scratch.path().join("state");
    let exporter = Exporter::start(&[
        "--config.file",
        config.to_str().unwrap(),
        "--state.dir",
        state.to_str().unwrap(),
    ]);
    exporter.ready();
    exporter.wait_full_checks(STORES, SOON);
    let mut seen = Vec::new();
    wait_for("threads that nobody needs to end", SOON, || {
        seen.push((exporter.status("Threads:"), exporter.status("VmRSS:")));
        let last = seen.last()?;
        (last.0 <= THREADS_MAX && last.1 <= RESIDENT_KIB_MAX).then_some(())
    });
    // And it stays so: several runs later no more are needed.
    let turns = |page: &support::Page| {
        let disk = [("store", "store-0"), ("collector", "disk")];
        page.value("chroma_exporter_collector_last_run_timestamp_seconds", &disk)
    };
    let began = turns(&exporter.page());
    exporter.wait_page("three more turns", SOON, |page| turns(page) > began + 14.0);
    let (threads, resident) = (exporter.status("Threads:"), exporter.status("VmRSS:"));
    assert!(threads <= THREADS_MAX, "{threads} threads; before: {seen:?}");
    assert!(resident <= RESIDENT_KIB_MAX, "{resident} KiB; before: {seen:?}");
}
