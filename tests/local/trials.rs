//! Repairs that a running exporter tries on a copy.

use std::fs;

use crate::support::{
    Exporter, ROOMY, SOON, fixture, get, run, wait, wait_until, zero_half_of_the_vectors,
};

#[test]
fn a_repair_is_tried_on_a_copy_and_the_store_stays_as_it_is() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = fixture("chroma-1.5.9", scratch.path());
    let database = rusqlite::Connection::open(dir.join("chroma.sqlite3")).unwrap();
    database.execute_batch("PRAGMA foreign_keys = OFF; DELETE FROM tenants").unwrap();
    database.close().unwrap();
    let before = fs::read(dir.join("chroma.sqlite3")).unwrap();
    let file = scratch.path().join("config.yml");
    let text = format!("stores: [{{name: main, path: {}}}]\n{ROOMY}", dir.display());
    fs::write(&file, text).unwrap();
    let state = scratch.path().join("state").display().to_string();
    let file = file.display().to_string();
    let args = ["--config.file", &file, "--state.dir", &state];
    let exporter = Exporter::start(&args);
    let tried = |exporter: &Exporter| {
        wait("what came of the trial", 2 * SOON, || {
            let body = get(exporter.address, "/api/v1/status").body;
            let status: serde_json::Value = serde_json::from_str(&body).unwrap();
            let findings = status["stores"][0]["findings"].as_array();
            let of = |one: &&serde_json::Value| one["code"] == "default_tenant_missing";
            let found = findings.and_then(|all| all.iter().find(of));
            found.and_then(|found| found["tried"].as_str()).map(str::to_owned).ok_or(body)
        })
    };
    let words = tried(&exporter);
    assert!(words.contains("nothing is lost"), "{words}");
    wait_until("the page tells it", SOON, || get(exporter.address, "/").body.contains(&words));
    assert_eq!(fs::read(dir.join("chroma.sqlite3")).unwrap(), before);
    let left = fs::read_dir(scratch.path().join("state")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    let ours = |name: &std::ffi::OsString| name.to_string_lossy().starts_with(".chroma_exporter");
    assert!(!left.iter().any(ours), "nothing of the copy is left: {left:?}");
    assert!(exporter.stop().success());
    // It is known after a restart, without another try.
    let exporter = Exporter::start(&args);
    assert_eq!(tried(&exporter), words);
    assert!(exporter.stop().success());
}

#[test]
fn nothing_is_tried_where_a_disk_would_be_too_full() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = fixture("chroma-1.5.9", scratch.path());
    let database = rusqlite::Connection::open(dir.join("chroma.sqlite3")).unwrap();
    database.execute_batch("PRAGMA foreign_keys = OFF; DELETE FROM tenants").unwrap();
    database.close().unwrap();
    let file = scratch.path().join("config.yml");
    let full = "disk: {warn_ratio: 0.0001, recover_ratio: 0.00005, critical_ratio: 0.999}";
    let text = format!("stores: [{{name: main, path: {}}}]\n{full}\n", dir.display());
    fs::write(&file, text).unwrap();
    let state = scratch.path().join("state").display().to_string();
    let exporter =
        Exporter::start(&["--config.file", &file.display().to_string(), "--state.dir", &state]);
    wait_until("the page says why it was not tried", 2 * SOON, || {
        get(exporter.address, "/").body.contains("has no room for a copy")
    });
    assert!(exporter.stop().success());
}

#[test]
fn what_the_backup_of_the_configuration_has_is_no_loss_in_a_trial() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = fixture("chroma-1.5.9", scratch.path());
    let (backups, file) = (scratch.path().join("backups"), scratch.path().join("config.yml"));
    fs::create_dir(&backups).unwrap();
    let (place, to) = (dir.display(), backups.display());
    let text = format!(
        "stores: [{{name: main, path: {place}, backup: {{to: {to}, every: 30d}}}}]\n{ROOMY}"
    );
    fs::write(&file, text).unwrap();
    let file = file.display().to_string();
    let to = to.to_string();
    let made = run(&["backup", "--to", &to, "--state.dir", "", "--config.file", &file]);
    assert!(made.status.success(), "{made:?}");
    zero_half_of_the_vectors(&dir);
    let state = scratch.path().join("state").display().to_string();
    let exporter = Exporter::start(&["--config.file", &file, "--state.dir", &state]);
    let words = wait("what came of the trial", 2 * SOON, || {
        let body = get(exporter.address, "/api/v1/status").body;
        let status: serde_json::Value = serde_json::from_str(&body).unwrap();
        let findings = status["stores"][0]["findings"].as_array();
        let tried = findings.and_then(|all| all.iter().find_map(|one| one["tried"].as_str()));
        tried.map(str::to_owned).ok_or(body)
    });
    assert!(words.contains("nothing is lost"), "{words}");
    assert!(exporter.stop().success());
}
