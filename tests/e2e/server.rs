//! A real Chroma whose database is damaged or taken away while it serves, and which then ends: what its heartbeat hides is
//! said, and the remedy saves the data.

use crate::support::{self, Exporter, SOON, chroma::Server, run, wait_for};
use std::{fs, io::Write, path::Path, process::Command};

/// Records of the collection that every server here gets.
const RECORDS: &str = "120";

/// What takes the database away from under a server.
#[derive(Debug, Clone, Copy)]
enum Loss {
    Deleted,
    RenamedOver,
    DirectoryDeleted,
    DirectoryExchanged,
}

impl Loss {
    fn strike(self, dir: &Path) {
        let database = dir.join("chroma.sqlite3");
        match self {
            Self::Deleted => fs::remove_file(&database).unwrap(),
            Self::RenamedOver => {
                let new = dir.with_file_name("restored.sqlite3");
                fs::copy(&database, &new).unwrap();
                fs::rename(&new, &database).unwrap();
            }
            Self::DirectoryDeleted => fs::remove_dir_all(dir).unwrap(),
            Self::DirectoryExchanged => {
                let new = dir.with_file_name("new");
                support::copy_tree(dir, &new);
                fs::rename(dir, dir.with_file_name("old")).unwrap();
                fs::rename(&new, dir).unwrap();
            }
        }
    }
}

/// The findings of `check` over one store, by code.
fn findings(arguments: &[&str]) -> Vec<serde_json::Value> {
    let output = run(&[&["check", "--quick", "--output=json"], arguments].concat());
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    document["stores"][0]["findings"].as_array().unwrap().clone()
}

#[test]
fn a_database_that_was_taken_away_is_told_with_the_command_that_saves_it() {
    for version in ["1.5.9", "0.6.3"] {
        for loss in
            [Loss::Deleted, Loss::RenamedOver, Loss::DirectoryDeleted, Loss::DirectoryExchanged]
        {
            let scratch = tempfile::tempdir().unwrap();
            let root = scratch.path().canonicalize().unwrap();
            let dir = root.join("store");
            fs::create_dir(&dir).unwrap();
            let server = Server::start(version, &dir);
            assert!(server.client("fill", &[RECORDS]).status().unwrap().success());

            let path = format!("main={}", dir.display());
            let state = format!("--state.dir={}", root.join("state").display());
            let exporter = Exporter::start(&["--store.path", &path, &state]);
            let before = exporter.ready().findings("main");
            assert!(!before.contains(&"store_replaced".to_owned()), "{before:?}");
            loss.strike(&dir);
            exporter.wait_page("store_replaced", SOON, |page| {
                page.findings("main").contains(&"store_replaced".to_owned())
            });

            let found = findings(&["--store.path", &path, &state]);
            let replaced = found.iter().find(|f| f["code"] == "store_replaced");
            let replaced = replaced.unwrap_or_else(|| panic!("{version} {loss:?}: {found:#?}"));
            let evidence = replaced["evidence"].as_str().unwrap();
            let pid = format!("(pid {})", server.child.id());
            assert!(evidence.contains(&pid), "{evidence}");
            let command = replaced["remedy_command"].as_str().unwrap();
            let saved = root.join("saved.sqlite3");
            let command = command.replace("/var/tmp/chroma.sqlite3.saved", saved.to_str().unwrap());
            assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success());
            drop(server);
            assert_eq!(sql(&saved, "PRAGMA integrity_check"), "ok", "{version} {loss:?}");
            assert_eq!(sql(&saved, "SELECT count(*) FROM embeddings"), RECORDS, "{loss:?}");

            exporter.wait_page("server_gone", SOON, |page| {
                let codes = page.findings("main");
                codes.contains(&"server_gone".to_owned())
                    && !codes.contains(&"store_replaced".to_owned())
            });
        }
    }
}

/// Zeroes the first page, as a bad disk or a wrong `dd` does.
fn zero_first_page(database: &Path) {
    let mut file = fs::OpenOptions::new().write(true).open(database).unwrap();
    file.write_all(&[0; 4096]).unwrap();
}

#[test]
fn a_server_is_followed_from_health_over_damage_to_its_end() {
    for (version, api, damaged) in [
        ("1.5.9", "v2", "counting the collections gives 500"),
        ("1.1.1", "v2", "counting the collections gives 500"),
        ("0.6.3", "v2", "file is not a database"),
        ("0.4.24", "v1", "file is not a database"),
    ] {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap();
        let dir = root.join("store");
        fs::create_dir(&dir).unwrap();
        let log = root.join("server.log");
        let server = Server::start_logging(version, &dir, &log);
        // The client of 0.4.24 does not agree with the FastAPI of today; its server answers all the same.
        let collections = if version == "0.4.24" { 0.0 } else { 1.0 };
        if version != "0.4.24" {
            assert!(server.client("fill", &[RECORDS]).status().unwrap().success());
        }
        let config = root.join("config.yml");
        let text = format!(
            "stores:\n  - name: main\n    path: {}\n    logs: [{}]\n    server: {{url: 'http://127.0.0.1:{}', interval: 1s, timeout: 20s}}\n\
             state:\n  dir: {}\ncollect:\n  interval: 1s\n",
            dir.display(),
            log.display(),
            server.port,
            root.join("state").display()
        );
        fs::write(&config, text).unwrap();
        let exporter = Exporter::start(&["--config.file", config.to_str().unwrap()]);
        exporter.ready();
        let page = exporter.wait_page("a healthy server", SOON, |page| {
            page.get("chroma_server_collections", &[]) == Some(collections)
        });
        assert_eq!(page.get("chroma_server_info", &[("api", api)]), Some(1.0), "{}", page.text);
        assert_eq!(page.get("chroma_server_up", &[]), Some(1.0));
        let reported = page.findings("main");
        assert!(
            reported.iter().all(|code| !code.starts_with("server_") && !code.starts_with("log_")),
            "{reported:?}"
        );

        zero_first_page(&dir.join("chroma.sqlite3"));
        let page = exporter.wait_page("server_failing", SOON, |page| {
            page.findings("main").contains(&"server_failing".to_owned())
        });
        assert_eq!(page.get("chroma_server_up", &[]), Some(1.0), "{version}: it still answers");
        let state = format!("--state.dir={}", root.join("state").display());
        let found = findings(&["--config.file", config.to_str().unwrap(), &state]);
        let failing = found.iter().find(|f| f["code"] == "server_failing").unwrap();
        assert!(failing["evidence"].as_str().unwrap().contains(damaged), "{failing:#}");
        if version != "1.1.1" {
            // That release logs nothing unless it is told to.
            exporter.wait_page("log_error", SOON, |page| {
                page.findings("main").contains(&"log_error".to_owned())
            });
        }

        drop(server);
        let page = exporter.wait_page("server_unreachable", SOON, |page| {
            let codes = page.findings("main");
            ["server_unreachable", "server_gone"]
                .iter()
                .all(|code| codes.contains(&(*code).to_owned()))
        });
        assert_eq!(page.get("chroma_server_up", &[]), Some(0.0));
    }
}

#[test]
fn a_server_on_another_directory_is_told_until_it_is_on_this_one() {
    for version in ["1.5.9", "0.6.3"] {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().canonicalize().unwrap();
        let dir = support::fixture(&format!("chroma-{version}"), &root);
        let other = root.join("other");
        fs::create_dir(&other).unwrap();
        let mut server = Server::start(version, &other);
        let config = root.join("config.yml");
        let text = format!(
            "stores:\n  - name: main\n    path: {}\n    server: {{url: 'http://127.0.0.1:{}', interval: 1s, timeout: 20s}}\n\
             state:\n  dir: {}\ncollect:\n  interval: 1s\n",
            dir.display(),
            server.port,
            root.join("state").display()
        );
        fs::write(&config, text).unwrap();
        let exporter = Exporter::start(&["--config.file", config.to_str().unwrap()]);
        let elsewhere = "server_elsewhere".to_owned();
        let page = exporter
            .wait_page("server_elsewhere", SOON, |page| page.findings("main").contains(&elsewhere));
        let labels = [("code", "server_elsewhere"), ("severity", "critical")];
        assert_eq!(page.get("chroma_finding", &labels), Some(1.0), "{version}: {}", page.text);
        let state = format!("--state.dir={}", root.join("state").display());
        let found = findings(&["--config.file", config.to_str().unwrap(), &state]);
        let found = found.iter().find(|f| f["code"] == "server_elsewhere").unwrap();
        let evidence = found["evidence"].as_str().unwrap();
        assert!(evidence.contains("has 0 collections in default_database, the directory has 2"));
        assert!(evidence.contains("no process of this host has it open"), "{evidence}");

        server.end();
        server.start_again(&dir);
        exporter.wait_page("the right directory", SOON, |page| {
            page.get("chroma_server_collections", &[]) == Some(2.0)
                && !page.findings("main").contains(&elsewhere)
        });
    }
}

fn sql(database: &Path, statement: &str) -> String {
    let answer = wait_for("sqlite3", SOON, || {
        Command::new("sqlite3").arg(database).arg(statement).output().ok()
    });
    String::from_utf8(answer.stdout).unwrap().trim().to_owned()
}
