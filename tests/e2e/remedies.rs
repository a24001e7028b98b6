//! The commands of remedies, pasted into a shell as they stand, over the faults that they are for: the finding is gone
//! afterwards and nothing else has come. What cannot be run here is at least a command to a shell.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use crate::support::{self, chroma, faults};
use chroma_exporter::findings::Code;
use rusqlite::Connection;

fn command(code: Code, dir: &Path) -> String {
    code.remedy(dir).command.unwrap_or_else(|| panic!("{code:?} has no command"))
}

fn shell(command: &str) {
    let program = Path::new(support::binary());
    let path = format!("{}:{}", program.parent().unwrap().display(), env!("PATH"));
    let out = Command::new("sh").args(["-c", command]).env("PATH", path).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.is_empty(), "{command}: {said}");
}

#[test]
fn the_command_of_a_remedy_ends_its_finding() {
    let mut ended = std::collections::BTreeSet::new();
    for (class, fault, base) in faults::cases() {
        let [code] = fault.codes else { continue };
        let code = code.split(' ').next().unwrap();
        // What only the full text still has is named, and waits for a word.
        let lossy = fault.what == "a text in the full-text table only";
        if !ENDED_BY_COMMAND.contains(&code) || !fault.config.is_empty() || lossy {
            continue;
        }
        let scratch = tempfile::tempdir().unwrap();
        let dir = fault.strike(base, scratch.path());
        let known = Code::ALL.iter().find(|known| known.as_str() == code).unwrap();
        let aside = scratch.path().to_str().unwrap();
        shell(&command(*known, &dir).replace("/var/tmp", aside));
        let said = faults::check(&dir, "");
        assert!(said.codes.is_empty(), "{class}: {}, {base}: {}", fault.what, said.evidence);
        ended.insert(code);
    }
    assert_eq!(ended.into_iter().collect::<Vec<_>>(), ENDED_BY_COMMAND);
}

/// In the order of the alphabet.
const ENDED_BY_COMMAND: [&str; 8] = [
    "collection_dimension_mismatch",
    "collection_without_segments",
    "default_database_missing",
    "default_tenant_missing",
    "fts_corrupt",
    "fts_missing",
    "fts_out_of_step",
    "journal_foreign",
];

/// Whatever is broken in the folder of an index: it is sound afterwards. What is lost besides is told, and waits for a word.
#[test]
fn the_command_writes_an_index_anew() {
    let codes = [
        "segment_missing",
        "segment_incomplete",
        "segment_truncated",
        "segment_header_invalid",
        "segment_metadata_invalid",
        "segment_inconsistent",
        "segment_bloated",
        "records_unreachable",
    ];
    let mut ended = std::collections::BTreeSet::new();
    for (class, fault, base) in faults::cases() {
        let [code, same @ ..] = fault.codes else { continue };
        let alone = same.iter().all(|other| other == code) && fault.config.is_empty();
        // What git has not fetched is lost by no repair, and what belongs to another store by any.
        let elsewhere = fault.what.contains("Git LFS") || fault.what.contains("another store");
        if class != "HNSW folders" || !codes.contains(code) || !alone || elsewhere {
            continue;
        }
        if ![faults::V6, faults::V15].contains(&base) {
            continue;
        }
        let scratch = tempfile::tempdir().unwrap();
        let dir = fault.strike(base, scratch.path());
        let known = Code::ALL.iter().find(|known| known.as_str() == *code).unwrap();
        let apply = command(*known, &dir);
        let program = Path::new(support::binary()).parent().unwrap();
        let path = format!("{}:{}", program.display(), env!("PATH"));
        let run = |more: &str| {
            let line = format!("{apply}{more} > /dev/null");
            Command::new("sh").args(["-c", &line]).env("PATH", &path).status().unwrap().code()
        };
        let case = format!("{}, {base}", fault.what);
        let mut lost = &[][..];
        match run("") {
            Some(0) => {}
            Some(3) => {
                assert_eq!(run(" --accept-loss"), Some(1), "{case}");
                lost = &["records_without_vector", "segment_behind", "segment_missing"];
            }
            other => panic!("{case}: {other:?}"),
        }
        let said = faults::check(&dir, "");
        let left = |code: &String| !lost.contains(&&**code);
        assert!(!said.codes.iter().any(left), "{case}: {}", said.evidence);
        ended.insert(*code);
    }
    assert_eq!(ended.len(), codes.len(), "{ended:?}");
}

/// The second way of the runbooks, with the sqlite3 of this host.
#[test]
fn the_sql_of_the_runbooks_makes_the_full_text_anew() {
    let mut mended = 0;
    for (class, fault, base) in faults::cases() {
        let [code] = fault.codes else { continue };
        if class != "Full text" {
            continue;
        }
        let known = Code::ALL.iter().find(|known| known.as_str() == *code).unwrap();
        let lines: Vec<&str> =
            known.runbook_page().lines().filter(|line| line.starts_with("sqlite3 DIR/")).collect();
        let [anew, by_force @ ..] = &lines[..] else { panic!("{code} has no SQL") };
        let scratch = tempfile::tempdir().unwrap();
        let dir = fault.strike(base, scratch.path());
        let here = |line: &str| line.replace("DIR/", &format!("{}/", dir.display()));
        let direct = Command::new("sh").args(["-c", &here(anew)]).stderr(Stdio::null()).status();
        if !direct.unwrap().success() {
            assert!(!by_force.is_empty(), "{code}: {}", fault.what);
            for line in by_force {
                shell(&here(line));
            }
            shell(&here(&anew.replace("DROP TABLE embedding_fulltext_search; ", "")));
        }
        let said = faults::check(&dir, "");
        assert!(said.codes.is_empty(), "{class}: {}, {base}: {}", fault.what, said.evidence);
        mended += 1;
    }
    assert!(mended > 5, "{mended}");
}

/// The commands of the case, as the document gives them: each is run, and the finding that it is for is gone.
#[test]
fn the_command_of_a_case_ends_its_finding() {
    let mut ended = std::collections::BTreeSet::new();
    for (class, fault, base) in faults::cases() {
        let codes = ["permission_drift", "permission_world_writable", "permission_unwritable"];
        if fault.config.is_empty() || !fault.codes.iter().any(|code| codes.contains(code)) {
            continue;
        }
        for code in fault.codes.iter().filter(|code| codes.contains(code)) {
            let scratch = tempfile::tempdir().unwrap();
            let dir = fault.strike(base, scratch.path());
            faults::check(&dir, fault.config);
            let config = dir.parent().unwrap().join("check.yml");
            let Some(command) = command_of(&config, code) else { continue };
            if command.starts_with("ls ") {
                continue; // it shows what is there, where no command mends it
            }
            shell(&command);
            let said = faults::check(&dir, fault.config);
            let codes: Vec<&str> = said.codes.iter().map(String::as_str).collect();
            assert!(!codes.contains(code), "{class}: {}: {command}: {}", fault.what, said.evidence);
            ended.insert(*code);
        }
    }
    assert_eq!(ended.len(), 3, "{ended:?}");
}

/// What the document says to run for `code`.
fn command_of(config: &Path, code: &str) -> Option<String> {
    let words = ["check", "--output", "json", "--state.dir", "", "--config.file"];
    let out = support::run(&[&words[..], &[config.to_str().unwrap()]].concat());
    let document: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    let findings = document["stores"][0]["findings"].as_array().unwrap();
    let finding = findings.iter().find(|finding| finding["code"] == code)?;
    Some(finding["remedy_command"].as_str()?.to_owned())
}

/// What only reads, or writes elsewhere, runs over any store and leaves it as it is.
#[test]
fn a_command_that_only_looks_runs_everywhere() {
    let scratch = tempfile::tempdir().unwrap();
    let program = Path::new(support::binary());
    let path = format!("{}:{}", program.parent().unwrap().display(), env!("PATH"));
    let mut ran = 0;
    for base in ["chroma-0.6.3", "chroma-1.5.9"] {
        let dir = support::fixture(base, &scratch.path().join("my stores"));
        for code in Code::ALL {
            let Some(command) = code.remedy(&dir).command else { continue };
            let looks =
                ["sqlite3 -readonly ", "ls ", "df -h", "du ", "findmnt ", "chroma_exporter "];
            let copies = ["cp -a ", "sqlite3 '"].iter().any(|start| command.starts_with(start))
                && command.contains("/var/tmp/")
                && !command.contains(" .dump ");
            if command.contains("pgrep") || !copies && !looks.iter().any(|s| command.starts_with(s))
            {
                continue;
            }
            let command = command.replace("/var/tmp", scratch.path().to_str().unwrap());
            let mut sh = Command::new("sh");
            let out = sh.args(["-c", &command]).env("PATH", &path).stdin(Stdio::null());
            let out = out.output().unwrap();
            let said = String::from_utf8_lossy(&out.stderr);
            // The code of a check says what it found; another one would say that it was called wrongly.
            let known = command.starts_with("chroma_exporter ")
                && out.status.code().is_some_and(|code| code < 4);
            assert!(out.status.success() || known, "{code:?}: {command}: {:?} {said}", out.status);
            assert!(known || said.is_empty(), "{code:?}: {command}: {said}");
            ran += 1;
        }
    }
    assert!(ran > 60, "{ran}");
}

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

/// With the loss accepted where there is one: what comes of it is a database that SQLite calls whole, with rows, and the damage is gone.
#[test]
fn what_is_left_of_a_damaged_database_is_put_in_place() {
    let codes =
        ["sqlite_corrupt", "sqlite_truncated", "sqlite_not_a_database", "sqlite_header_damaged"];
    let mut mended = 0;
    for (_, fault, base) in faults::cases() {
        let [code] = fault.codes else { continue };
        // Where something else stands in place of the database, nothing is left of it.
        let is_none =
            ["text", "compressed", "Git LFS"].iter().any(|word| fault.what.starts_with(word));
        if !codes.contains(code) || is_none || base != faults::V15 || !fault.config.is_empty() {
            continue;
        }
        let scratch = tempfile::tempdir().unwrap();
        let dir = fault.strike(base, scratch.path());
        let known = Code::ALL.iter().find(|known| known.as_str() == *code).unwrap();
        let command = format!("{} --accept-loss > /dev/null || [ $? = 1 ]", command(*known, &dir));
        shell(&command);
        let said = faults::check(&dir, "");
        assert!(
            said.codes.iter().all(|code| !code.starts_with("sqlite_")),
            "{}: {}",
            fault.what,
            said.evidence
        );
        let database = Connection::open(dir.join("chroma.sqlite3")).unwrap();
        let ask = |sql: &str| database.query_row(sql, [], |row| row.get::<_, String>(0)).unwrap();
        assert_eq!(ask("PRAGMA integrity_check"), "ok", "{}", fault.what);
        assert_ne!(ask("SELECT CAST(count(*) AS TEXT) FROM migrations"), "0", "{}", fault.what);
        mended += 1;
    }
    assert!(mended > 4, "{mended}");
}
