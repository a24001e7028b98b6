//! A real Chroma whose database is taken away while it serves: the finding names process and descriptor, and its remedy
//! saves the data.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/chroma.rs"]
mod chroma;

mod support;

use std::{fs, path::Path, process::Command};

use chroma::Server;
use support::{Exporter, SOON, run, wait_for};

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
            let remedy = replaced["remedy"].as_str().unwrap();
            let (_, command) = remedy.split_once("elsewhere: ").unwrap();
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

fn sql(database: &Path, statement: &str) -> String {
    let answer = wait_for("sqlite3", SOON, || {
        Command::new("sqlite3").arg(database).arg(statement).output().ok()
    });
    String::from_utf8(answer.stdout).unwrap().trim().to_owned()
}
