//! The commands of remedies, pasted into a shell as they stand, over the faults that they are for: the finding is gone
//! afterwards and nothing else has come. What cannot be run here is at least a command to a shell.

use std::{path::Path, process::Command};

use crate::support::{chroma, faults};
use chroma_exporter::findings::Code;
use rusqlite::Connection;

fn command(code: Code, dir: &Path) -> String {
    code.remedy(dir).command.unwrap_or_else(|| panic!("{code:?} has no command"))
}

fn shell(command: &str) {
    let out = Command::new("sh").args(["-c", command]).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.is_empty(), "{command}: {said}");
}

#[test]
fn the_command_of_a_remedy_ends_its_finding() {
    let mut ended = std::collections::BTreeSet::new();
    for (class, fault, base) in faults::cases() {
        let [code] = fault.codes else { continue };
        let code = code.split(' ').next().unwrap();
        if !ENDED_BY_COMMAND.contains(&code) || !fault.config.is_empty() {
            continue;
        }
        let scratch = tempfile::tempdir().unwrap();
        let dir = fault.strike(base, scratch.path());
        let known = Code::ALL.iter().find(|known| known.as_str() == code).unwrap();
        shell(&command(*known, &dir));
        let said = faults::check(&dir, "");
        assert!(said.codes.is_empty(), "{class}: {}, {base}: {}", fault.what, said.evidence);
        ended.insert(code);
    }
    assert_eq!(ended.into_iter().collect::<Vec<_>>(), ENDED_BY_COMMAND);
}

/// In the order of the alphabet.
const ENDED_BY_COMMAND: [&str; 5] = [
    "default_database_missing",
    "default_tenant_missing",
    "fts_corrupt",
    "fts_missing",
    "fts_out_of_step",
];

#[test]
fn an_upgrade_from_before_the_full_text_table_is_mended_by_the_command() {
    let (_, fault, base) =
        faults::cases().into_iter().find(|(_, f, _)| f.codes == ["fts_lost_at_upgrade"]).unwrap();
    for version in ["0.6.3", "1.5.9"] {
        let scratch = tempfile::tempdir().unwrap();
        let dir = fault.strike(base, scratch.path());
        assert_eq!(ask(version, &dir, LOOK), "86 False", "{version}: what the finding says");
        shell(&command(Code::FtsLostAtUpgrade, &dir));
        assert_eq!(ask(version, &dir, LOOK), "86 True", "{version}");
        assert_eq!(ask(version, &dir, ADD), "87 1", "{version}");
    }
}

const LOOK: &str = r#"
import sys, chromadb
c = chromadb.PersistentClient(path=sys.argv[1]).get_collection("articles")
print(c.count(), "articles-002" in c.get(where_document={"$contains": "articles-002: "}, include=[])["ids"])
"#;
const ADD: &str = r#"
import sys, chromadb
c = chromadb.PersistentClient(path=sys.argv[1]).get_collection("articles")
c.add(ids=["new"], embeddings=[[0.5] * 8], documents=["a new document"])
print(c.count(), len(c.get(where_document={"$contains": "a new document"})["ids"]))
"#;

fn ask(version: &str, dir: &Path, code: &str) -> String {
    let mut python = Command::new(chroma::python(version));
    python.args(["-W", "ignore", "-c", code]).arg(dir).env("ANONYMIZED_TELEMETRY", "False");
    let out = python.output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{version}: {said}");
    String::from_utf8(out.stdout).unwrap().lines().last().unwrap_or_default().to_owned()
}

#[test]
fn rows_beside_damaged_pages_are_saved_into_a_new_file() {
    let faults = faults::cases();
    let damaged =
        faults.iter().filter(|(_, f, base)| f.codes == ["sqlite_corrupt"] && *base == faults::V15);
    // Where the schema cannot be read, nothing can.
    let damaged = damaged.filter(|(_, f, _)| !f.what.starts_with("schema"));
    let mut saved = 0;
    for (_, fault, base) in damaged {
        let scratch = tempfile::tempdir().unwrap();
        let dir = fault.strike(base, scratch.path());
        let rescued = scratch.path().join("rescued");
        std::fs::create_dir(&rescued).unwrap();
        let new = rescued.join("chroma.sqlite3");
        let command = command(Code::SqliteCorrupt, &dir);
        let command = command.replace("/var/tmp/chroma.sqlite3.rescued", new.to_str().unwrap());
        // SQLite tells of the damage that it passes over.
        Command::new("sh").args(["-c", &command]).output().unwrap();
        // Check over the new file tells when the full-text index has to be made anew from the documents.
        if faults::check(&rescued, "").codes.iter().any(|code| code == "fts_corrupt") {
            shell(&self::command(Code::FtsCorrupt, &rescued));
        }
        let database = Connection::open(&new).unwrap();
        let ask = |sql: &str| database.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap();
        assert_eq!(ask("PRAGMA integrity_check"), "ok", "{}", fault.what);
        assert_ne!(ask("SELECT CAST(count(*) AS TEXT) FROM migrations"), "0", "{}", fault.what);
        saved += 1;
    }
    assert!(saved > 1, "{saved}");
}
