//! The kernel drops file events when nobody reads them fast enough. The exporter is stopped while more happens in a
//! store than the queue can hold; what it was not told about it still finds, long before the next full walk is due.

use crate::support::{self, Exporter, SOON, fixture};
use std::{fs, os::unix::fs::PermissionsExt};

#[test]
fn a_change_whose_event_was_lost_is_found_at_once() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = fixture("chroma-1.5.9", scratch.path());
    let state = scratch.path().join("state");
    let exporter = Exporter::start(&[
        "--store.path",
        dir.to_str().unwrap(),
        "--state.dir",
        state.to_str().unwrap(),
    ]);
    exporter.ready();
    let drift = |page: &support::Page| page.get("chroma_permission_drift", &[("kind", "mode")]);
    exporter.wait_page("no drift", SOON, |page| drift(page) == Some(0.0));
    exporter
        .wait_page("file events", SOON, |page| page.get("chroma_exporter_watch", &[]) == Some(1.0));

    let segment =
        fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).find(|p| p.is_dir()).unwrap();
    let victim = segment.join("data_level0.bin");
    let queue: usize = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events")
        .unwrap()
        .trim()
        .parse()
        .unwrap();

    exporter.signal("STOP");
    // Four events for each file, so the queue is full before the one that matters.
    let noise = dir.join("noise");
    for _ in 0..=queue / 3 {
        fs::write(&noise, "x").unwrap();
        fs::remove_file(&noise).unwrap();
    }
    let mode = fs::metadata(&victim).unwrap().permissions().mode();
    fs::set_permissions(&victim, fs::Permissions::from_mode(mode ^ 0o040)).unwrap();
    exporter.signal("CONT");

    exporter.wait_page("the drift", SOON, |page| drift(page) > Some(0.5));
    fs::set_permissions(&victim, fs::Permissions::from_mode(mode)).unwrap();
    exporter.wait_page("the drift to end", SOON, |page| drift(page) == Some(0.0));
}
