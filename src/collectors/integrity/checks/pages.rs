//! `quick_check` and `integrity_check`: what SQLite says, and which code each of its lines is.

use rusqlite::Connection;

use crate::{
    findings::{Code, Finding},
    store::DATABASE_FILE,
};

/// What a whole-file check said of the pages it looked at.
#[derive(Debug)]
pub(super) struct Verdict {
    pub(super) findings: Vec<Finding>,
    pub(super) pages: u32,
}

/// Runs the pragma over the whole file.
pub(super) fn ask(connection: &Connection, pragma: &str) -> rusqlite::Result<Verdict> {
    let pages = connection.query_row("PRAGMA page_count", [], |row| row.get(0))?;
    let mut statement = connection.prepare(&format!("PRAGMA {pragma}({ROWS_MAX})"))?;
    let mut rows = statement.query([])?;
    let mut said: Vec<String> = Vec::new();
    while let Some(row) = rows.next()? {
        let text: String = row.get(0)?;
        // One row may hold many lines.
        said.extend(text.lines().map(|line| line.chars().take(LINE_MAX).collect()));
    }
    drop(rows);
    let whole = matches!(said.as_slice(), [only] if only == "ok");
    let indexes = if whole { Vec::new() } else { index_roots(connection).unwrap_or_default() };
    let findings = if whole { Vec::new() } else { classify(&said, &indexes) };
    Ok(Verdict { findings, pages })
}

/// The finding for an error by which SQLite gave up.
pub(super) fn gave_up(error: &rusqlite::Error) -> Finding {
    let code = code_of(&error.to_string(), false);
    Finding::new(code, DATABASE_FILE, format!("SQLite gave up: {error}"))
}

/// First pages of all indexes.
fn index_roots(connection: &Connection) -> rusqlite::Result<Vec<u32>> {
    let mut statement =
        connection.prepare("SELECT rootpage FROM sqlite_schema WHERE type='index'")?;
    statement.query_map([], |row| row.get(0))?.take(ROOTS_MAX).collect()
}

/// One finding per code, with the first lines as evidence.
fn classify(said: &[String], index_roots: &[u32]) -> Vec<Finding> {
    let mut by_code: Vec<(Code, Vec<&str>)> = Vec::new();
    for line in said.iter().filter(|line| !line.is_empty() && !line.starts_with("*** in database"))
    {
        let code = code_of(line, tree_of(line).is_some_and(|root| index_roots.contains(&root)));
        match by_code.iter_mut().find(|(known, _)| *known == code) {
            Some((_, lines)) => lines.push(line),
            None => by_code.push((code, vec![line])),
        }
    }
    let finding = |(code, lines): (Code, Vec<&str>)| {
        let more = lines.len().saturating_sub(LINES_QUOTED);
        let mut evidence = lines.into_iter().take(LINES_QUOTED).collect::<Vec<_>>().join("; ");
        if more > 0 {
            evidence = format!("{evidence}; and {more} more");
        }
        Finding::new(code, DATABASE_FILE, evidence)
    };
    by_code.into_iter().map(finding).collect()
}

fn code_of(line: &str, in_index: bool) -> Code {
    let lower = line.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if says(&["fts5", "vtable constructor failed", "inverted index"]) {
        Code::FtsCorrupt
    } else if in_index
        || says(&["missing from index", "entries in index", "entry in index", "rowid not at end"])
    {
        Code::SqliteIndexCorrupt
    } else {
        Code::SqliteCorrupt
    }
}

/// The first page of the tree that a line is about: `Tree 7 page 12 cell 3: …`.
fn tree_of(line: &str) -> Option<u32> {
    line.strip_prefix("Tree ")?.split(' ').next()?.parse().ok()
}

const ROWS_MAX: u32 = 100;
const LINE_MAX: usize = 300;
const LINES_QUOTED: usize = 3;
const ROOTS_MAX: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_the_pragmas_are_told_apart() {
        for (line, code) in [
            ("row 3 missing from index sqlite_autoindex_embeddings_1", Code::SqliteIndexCorrupt),
            ("wrong # of entries in index embedding_metadata_int_value", Code::SqliteIndexCorrupt),
            ("Tree 7 page 12: btreeInitPage() returns error code 11", Code::SqliteIndexCorrupt),
            ("Tree 8 page 12: btreeInitPage() returns error code 11", Code::SqliteCorrupt),
            ("Freelist: freelist leaf count too big on page 9", Code::SqliteCorrupt),
            (
                "malformed inverted index for FTS5 table main.embedding_fulltext_search",
                Code::FtsCorrupt,
            ),
        ] {
            let findings =
                classify(&["*** in database main ***".to_owned(), line.to_owned()], &[7]);
            assert_eq!(findings.iter().map(|f| f.code).collect::<Vec<_>>(), [code], "{line}");
        }
        let many: Vec<String> = (0..10).map(|n| format!("row {n} missing from index x")).collect();
        let findings = classify(&many, &[]);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].evidence.ends_with("and 7 more"), "{}", findings[0].evidence);
    }
}
