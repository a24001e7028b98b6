//! Every way to break a Chroma directory that the tests know, once: what is done to which real directory, and which
//! findings must come out of it and no other. `tests/local/faults.rs` holds the program to it, `tests/e2e/faults.rs` Chroma,
//! and `tests/faults.md` publishes both.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    unused_imports,
    reason = "each test binary uses its own part"
)]

mod broken;
mod host;
mod matrix;
mod rows;
mod segments;

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use chroma_exporter::findings::{Code, Severity};
pub use matrix::{Matrix, Row, codes_cell};
use rusqlite::Connection;

use crate::support::{fixture, run};

pub const V4: &str = "0.4.24";
pub const V6: &str = "0.6.3";
pub const V11: &str = "1.1.1";
pub const V15: &str = "1.5.9";
pub const ALL: &[&str] = &[V4, V6, V11, V15];
/// Those whose queue is purged, so that it is not a second copy of everything.
pub const PURGED: &[&str] = &[V6, V11, V15];
pub const NEWEST: &[&str] = &[V15];

/// The class of what happens beside running processes; `tests/e2e/faults.rs` has it.
pub const LIVE: &str = "Running processes";

/// One way to break a directory.
pub struct Fault {
    /// In words, unique within its class.
    pub what: &'static str,
    /// The fixtures it is done to, without their common `chroma-`.
    pub bases: &'static [&'static str],
    /// Codes that must come out; a severity behind a code where it is not that of the catalogue.
    pub codes: &'static [&'static str],
    /// What the evidence must contain.
    pub words: &'static str,
    pub how: How,
    /// Lines of the configuration of the store; `{dir}` stands for the directory beside which the store lies.
    pub config: &'static str,
    /// The release that opens it, where it is not the one that wrote it.
    pub opened_by: Option<&'static str>,
    /// What Chroma does with it depends on chance, as after reading beyond its memory.
    pub chance: bool,
}

pub enum How {
    /// SQL with the words of [`fill`].
    Sql(&'static str),
    /// Anything else, to the copy at this path.
    Do(fn(&Path)),
}

pub const fn sql(
    what: &'static str,
    bases: &'static [&'static str],
    codes: &'static [&'static str],
    words: &'static str,
    text: &'static str,
) -> Fault {
    Fault { words, ..new(what, bases, codes, How::Sql(text)) }
}

pub const fn file(
    what: &'static str,
    bases: &'static [&'static str],
    codes: &'static [&'static str],
    how: fn(&Path),
) -> Fault {
    new(what, bases, codes, How::Do(how))
}

const fn new(
    what: &'static str,
    bases: &'static [&'static str],
    codes: &'static [&'static str],
    how: How,
) -> Fault {
    let (words, config) = ("", "");
    Fault { what, bases, codes, words, how, config, opened_by: None, chance: false }
}

impl Fault {
    pub const fn by_chance(mut self) -> Self {
        self.chance = true;
        self
    }

    pub const fn saying(mut self, words: &'static str) -> Self {
        self.words = words;
        self
    }

    pub const fn opened_by(mut self, release: &'static str) -> Self {
        self.opened_by = Some(release);
        self
    }

    pub const fn configured(mut self, config: &'static str) -> Self {
        self.config = config;
        self
    }

    /// The release whose word on it counts.
    pub fn release(&self, base: &'static str) -> &'static str {
        self.opened_by.unwrap_or_else(|| base.split('-').next().unwrap())
    }

    /// Breaks a fresh copy of the fixture below `scratch`; gives its path.
    pub fn strike(&self, base: &str, scratch: &Path) -> PathBuf {
        let dir = fixture(&format!("chroma-{base}"), scratch);
        match self.how {
            How::Sql(text) => {
                execute(&dir, text);
                age(&dir);
            }
            How::Do(how) => how(&dir),
        }
        dir
    }
}

/// Every fault by class, in the order of the published matrix.
pub fn classes() -> Vec<(&'static str, &'static [Fault])> {
    vec![
        ("Directory", broken::DIRECTORY),
        ("SQLite file", broken::SQLITE),
        ("Full text", broken::FULL_TEXT),
        ("Journal", broken::JOURNAL),
        ("Schema", rows::SCHEMA),
        ("Rows of the catalogue", rows::CATALOGUE),
        ("Queue", rows::QUEUE),
        ("Documents", rows::DOCUMENTS),
        ("HNSW folders", segments::FOLDERS),
        ("Permissions", host::PERMISSIONS),
        ("Backups", host::BACKUPS),
        ("Copies of other hosts", host::SYNCED),
        ("Nothing wrong, though it may look so", rows::HEALTHY),
        ("Blind spots", rows::BLIND),
    ]
}

/// Every fault with each fixture it is done to.
pub fn cases() -> Vec<(&'static str, &'static Fault, &'static str)> {
    let each = |(class, faults): (&'static str, &'static [Fault])| {
        faults
            .iter()
            .flat_map(move |fault| fault.bases.iter().map(move |base| (class, fault, *base)))
    };
    classes().into_iter().flat_map(each).collect()
}

/// For each critical code that broken files or rows alone can show, the first fault of the table that shows it and nothing
/// else on what the newest Chroma wrote.
pub fn one_of_each() -> Vec<(&'static str, &'static Fault)> {
    let cases = cases();
    let alone = |code: &str| {
        let mut of_newest =
            cases.iter().filter(|(.., base)| *base == V15).map(|(_, fault, _)| fault);
        of_newest.find(|f| f.codes == [code] && f.config.is_empty() && f.opened_by.is_none())
    };
    let all = Code::ALL.iter();
    let critical = all.filter(|code| code.severity() == Severity::Critical);
    critical.filter_map(|code| Some((code.as_str(), *alone(code.as_str())?))).collect()
}

/// Puts a store with that fault at `root/name`.
pub fn stage(fault: &Fault, root: &Path, name: &str) {
    let dir = fault.strike(V15, root);
    if dir.exists() {
        fs::rename(dir, root.join(name)).unwrap();
    }
}

/// What the built binary says of a directory.
pub struct Said {
    /// Sorted; the severity behind each that differs from the catalogue.
    pub codes: Vec<String>,
    pub evidence: String,
    pub exit: i32,
}

/// Codes about the filesystem that this machine happens to have.
pub const HOST: [&str; 3] = ["disk_", "headroom_", "inodes_"];

/// Runs a deep `check` over `dir`. Fails when it changes a name or a byte of it.
pub fn check(dir: &Path, config: &str) -> Said {
    let before = digest(dir);
    let path = dir.parent().unwrap().join("check.yml");
    let beside = dir.parent().unwrap().to_str().unwrap();
    let lines: Vec<String> =
        config.replace("{dir}", beside).lines().map(|line| format!("    {line}\n")).collect();
    fs::write(
        &path,
        // A machine that is busy is no reason to give a statement or a filesystem up.
        format!(
            "collect: {{statement_deadline: 1m, device_timeout: 30s, deadline: 5m}}\nstores:\n  - name: main\n    path: {}\n{}",
            dir.display(),
            lines.concat()
        ),
    )
    .unwrap();
    let words = ["check", "--output", "json", "--state.dir", "", "--config.file"];
    let out = run(&[&words[..], &[path.to_str().unwrap()]].concat());
    assert!(before == digest(dir), "{}: the directory was changed", dir.display());
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let document: serde_json::Value = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{error}: {text}{}", String::from_utf8_lossy(&out.stderr)));
    let store = &document["stores"][0];
    let mut evidence = format!("problems: {}\n", store["problems"]);
    let mut codes = Vec::new();
    for finding in store["findings"].as_array().unwrap() {
        let word = |key: &str| finding[key].as_str().unwrap();
        let code = word("code");
        if !HOST.iter().any(|host| code.starts_with(host)) {
            codes.push(with_severity(code, word("severity")));
            writeln!(evidence, "{code}: {}", word("evidence")).unwrap();
        }
    }
    codes.sort();
    Said { codes, evidence, exit: out.status.code().unwrap_or(-1) }
}

/// The code, and its severity where it is not the one of the catalogue.
fn with_severity(code: &str, severity: &str) -> String {
    let known = Code::ALL.iter().find(|known| known.as_str() == code);
    if known.unwrap_or_else(|| panic!("no code {code}")).severity().as_str() == severity {
        code.to_owned()
    } else {
        format!("{code} {severity}")
    }
}

/// What `PRAGMA integrity_check` of the bundled SQLite says of a copy of the database that it may play a journal back in.
pub fn sqlite_says(dir: &Path) -> String {
    if fs::metadata(dir.join("chroma.sqlite3")).is_err() {
        return "nothing: there is no file".to_owned();
    }
    let scratch = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let name = entry.file_name();
        let kind = entry.file_type().unwrap();
        if name.to_string_lossy().starts_with("chroma.sqlite3") {
            let to = scratch.path().join(name);
            if kind.is_dir() {
                fs::create_dir(&to).unwrap();
            } else if kind.is_file() {
                fs::copy(entry.path(), &to).unwrap();
            } else {
                return "nothing: it is no file".to_owned();
            }
        }
    }
    let answer = Connection::open(scratch.path().join("chroma.sqlite3")).and_then(|database| {
        database.query_row("PRAGMA integrity_check", [], |row| row.get::<_, String>(0))
    });
    let said = answer.unwrap_or_else(|error| error.to_string());
    let said = said.replace(scratch.path().to_str().unwrap(), "").replace('/', "");
    // The first line says it; the following ones repeat it of other places.
    said.lines().find(|line| !line.starts_with("***")).unwrap_or("").trim().to_owned()
}

/// Every name and byte below `dir`; of what is no file or too large, the name.
fn digest(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut out = Vec::new();
    let Ok(entries) = fs::read_dir(dir) else { return out };
    for entry in entries.map(Result::unwrap) {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            out.extend(digest(&path));
        }
        let small = kind.is_file() && entry.metadata().unwrap().len() < 1 << 20;
        let bytes = if small { fs::read(&path).unwrap_or_default() } else { Vec::new() };
        out.push((path, bytes));
    }
    out.sort();
    out
}

pub fn database(dir: &Path) -> Connection {
    Connection::open(dir.join("chroma.sqlite3")).unwrap()
}

/// Executes SQL with the words of [`fill`] as somebody would who knows no foreign keys.
pub fn execute(dir: &Path, text: &str) {
    let connection = database(dir);
    connection.pragma_update(None, "foreign_keys", false).unwrap();
    connection.execute_batch(&fill(text)).unwrap_or_else(|error| panic!("{text}: {error}"));
}

/// Short words for what most cases are about.
fn fill(text: &str) -> String {
    let articles = "(SELECT id FROM collections WHERE name='articles')";
    let segment = |scope| {
        format!("(SELECT id FROM segments WHERE collection={articles} AND scope='{scope}')")
    };
    text.replace("{VECTOR}", &segment("VECTOR"))
        .replace("{METADATA}", &segment("METADATA"))
        .replace(
            "{LAST}",
            &format!("(SELECT max(seq_id) FROM embeddings_queue WHERE topic LIKE '%'||{articles})"),
        )
        .replace("{articles}", articles)
        .replace("{NEW}", "'11111111-1111-1111-1111-111111111111'")
        .replace("{MORE}", MORE)
}

/// Operations on `articles` from the newest row on, which nothing has applied.
const MORE: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<12000) \
    INSERT INTO embeddings_queue(operation,topic,id) SELECT 3, 'persistent://default/default/'||\
    (SELECT id FROM collections WHERE name='articles'), 'x'||i FROM n;";

/// A copy is as old as its files; a flush of this moment may not have written its position yet.
pub fn age(dir: &Path) {
    let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_hours(400_000);
    for folder in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if let Ok(pickle) = fs::File::open(folder.join("index_metadata.pickle")) {
            pickle.set_modified(long_ago).unwrap();
        }
    }
}

/// The folder of a collection.
pub fn folder(dir: &Path, collection: &str) -> PathBuf {
    let sql = "SELECT s.id FROM segments s JOIN collections c ON c.id = s.collection \
               WHERE s.scope = 'VECTOR' AND c.name = ?1";
    dir.join(database(dir).query_row(sql, [collection], |row| row.get::<_, String>(0)).unwrap())
}

pub fn articles(dir: &Path, file: &str) -> PathBuf {
    folder(dir, "articles").join(file)
}

pub fn overwrite(file: &Path, at: u64, bytes: &[u8]) {
    fs::File::options().write(true).open(file).unwrap().write_all_at(bytes, at).unwrap();
}

pub fn cut(file: &Path, length: u64) {
    let file = fs::File::options().write(true).open(file).unwrap();
    assert_ne!(file.metadata().unwrap().len(), length);
    file.set_len(length).unwrap();
}

/// Replaces text of the same length in a file, everywhere.
pub fn replace(file: &Path, from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len());
    let mut bytes = fs::read(file).unwrap();
    let mut found = 0;
    for at in 0..bytes.len().saturating_sub(from.len()) {
        if bytes[at..].starts_with(from) {
            bytes[at..at + to.len()].copy_from_slice(to);
            found += 1;
        }
    }
    assert!(found > 0);
    fs::write(file, bytes).unwrap();
}

pub fn exchange(a: &Path, b: &Path) {
    let aside = a.with_extension("aside");
    fs::rename(a, &aside).unwrap();
    fs::rename(b, a).unwrap();
    fs::rename(&aside, b).unwrap();
}
