//! What `quick_check` and `integrity_check` say, as findings: which code each line is, and what the pages in it belong to.

use super::places::{self, Tree};
use sqlite_live::verdict::{self, ROWS_MAX, Reader};

use crate::{
    findings::{Code, Finding},
    progress::Progress,
    store::{
        DATABASE_FILE,
        database::{Limits, Timed},
    },
};

/// What a whole-file check said of the pages it looked at.
#[derive(Debug)]
pub struct Verdict {
    /// Damage; none when all is well.
    pub findings: Vec<Finding>,
    /// Pages of the file.
    pub pages: u32,
}

/// Says what `quick_check` or `integrity_check` of the whole file would find. `limits` are those of each transaction; `progress`
/// is one over the bytes of the file.
pub fn whole<R: Reader>(
    mut readers: [R; 2],
    pragma: &str,
    limits: &Limits<'_>,
    progress: &Progress,
) -> Timed<Verdict> {
    let said = verdict::whole(&mut readers, pragma, limits, progress);
    in_words(&mut readers[0], said, limits)
}

/// The same as [`whole`], by SQLite's pragma alone.
pub(super) fn of_sqlite<R: Reader>(
    mut reader: R,
    pragma: &str,
    limits: &Limits<'_>,
    progress: &Progress,
) -> Timed<Verdict> {
    let said = verdict::of_sqlite(&mut reader, pragma, limits, progress);
    in_words(&mut reader, said, limits)
}

fn in_words<R: Reader>(
    reader: &mut R,
    said: Timed<verdict::Verdict>,
    limits: &Limits<'_>,
) -> Timed<Verdict> {
    let Timed { result, mut held } = said;
    let result = result.map(|said| {
        let findings = if said.lines.is_empty() {
            Vec::new()
        } else {
            // What they are about; damage may keep that from being known.
            let described = reader.within(limits, |connection, file| {
                let trees = places::trees(connection).unwrap_or_default();
                let described = places::describe(connection, file, &said.lines, &trees);
                Ok((trees, described))
            });
            held = held.max(described.held);
            let (trees, described) = described.result.unwrap_or_default();
            classify(&said.lines, &trees, &described, said.gave_up)
        };
        Verdict { findings, pages: said.pages }
    });
    Timed { result, held }
}

/// How the evidence begins when SQLite did not come to the end of a check.
pub(in super::super) const GAVE_UP: &str = "SQLite gave up: ";

/// The finding for an error by which SQLite gave up.
pub(super) fn gave_up(error: &rusqlite::Error) -> Finding {
    let code = code_of(&error.to_string(), false);
    Finding::new(code, DATABASE_FILE, format!("{GAVE_UP}{error}"))
}

/// One finding per code, with the first lines as evidence, and what the pages in them belong to.
fn classify(
    said: &[String],
    trees: &[Tree],
    described: &[(u32, String)],
    gave_up: bool,
) -> Vec<Finding> {
    let in_index = |root: u32| trees.iter().any(|tree| tree.root == root && tree.is_index);
    let mut by_code: Vec<(Code, Vec<&str>)> = Vec::new();
    for line in said.iter().filter(|line| !line.is_empty() && !line.starts_with("*** in database"))
    {
        let code = code_of(line, places::named_in(line).is_some_and(|(root, _)| in_index(root)));
        match by_code.iter_mut().find(|(known, _)| *known == code) {
            Some((_, lines)) => lines.push(line),
            None => by_code.push((code, vec![line])),
        }
    }
    let finding = |(code, lines): (Code, Vec<&str>)| {
        let more = lines.len().saturating_sub(LINES_QUOTED);
        let mut evidence = lines.iter().take(LINES_QUOTED).copied().collect::<Vec<_>>().join("; ");
        if more > 0 {
            // SQLite ended there, whatever else there is.
            let least = if said.len() >= ROWS_MAX as usize { "at least " } else { "" };
            evidence = format!("{evidence}; and {least}{more} more");
        }
        let of_code = |root: u32| match code {
            Code::SqliteIndexCorrupt => in_index(root),
            Code::SqliteCorrupt => !in_index(root),
            _ => false,
        };
        for (_, words) in described.iter().filter(|(root, _)| of_code(*root)) {
            evidence = format!("{evidence}; {words}");
        }
        if gave_up && code != Code::FtsCorrupt {
            evidence = format!("{evidence}; SQLite stopped there: there may be more");
        }
        Finding::new(code, DATABASE_FILE, evidence).with_items(lines)
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

const LINES_QUOTED: usize = 3;

#[cfg(test)]
mod tests {
    use std::{sync::atomic::AtomicBool, time::Duration};

    use rusqlite::Connection;

    use super::*;
    use crate::store::database::{Database, QueryError};

    #[test]
    fn rows_of_the_pragmas_are_told_apart() {
        let connection = Connection::open_in_memory().unwrap();
        connection
            .execute_batch(
                "CREATE TABLE a(x); CREATE TABLE b(x); CREATE TABLE c(x); CREATE TABLE d(x); CREATE TABLE e(x);
                 CREATE INDEX i ON a(x); CREATE TABLE f(x);",
            )
            .unwrap();
        let trees = places::trees(&connection).unwrap();
        assert_eq!(trees.iter().find(|tree| tree.is_index).unwrap().root, 7);
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
            let findings = classify(
                &["*** in database main ***".to_owned(), line.to_owned()],
                &trees,
                &[],
                false,
            );
            assert_eq!(findings.iter().map(|f| f.code).collect::<Vec<_>>(), [code], "{line}");
        }
        let many: Vec<String> = (0..10).map(|n| format!("row {n} missing from index x")).collect();
        let findings = classify(&many, &[], &[], false);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].evidence.ends_with("and 7 more"), "{}", findings[0].evidence);
        // More than SQLite says at once.
        let row = |n| format!("row {n} missing from index x");
        let many: Vec<String> = (0..ROWS_MAX).map(row).collect();
        let evidence = &classify(&many, &[], &[], false)[0].evidence;
        assert!(evidence.ends_with("and at least 997 more"), "{evidence}");
    }

    #[test]
    fn more_rows_are_told_than_sqlite_says_unless_it_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(DATABASE_FILE);
        let connection = Connection::open(&path).unwrap();
        connection
            .execute_batch(
                "PRAGMA synchronous=OFF; CREATE TABLE a(x); CREATE INDEX i ON a(x);
                 CREATE TABLE spare(x); CREATE INDEX other ON spare(x);
                 WITH RECURSIVE n(v) AS (SELECT 1 UNION ALL SELECT v+1 FROM n WHERE v<300)
                 INSERT INTO a SELECT v FROM n;
                 PRAGMA writable_schema=ON;
                 UPDATE sqlite_schema SET rootpage=(SELECT rootpage FROM sqlite_schema WHERE name='other')
                 WHERE name='i'; DELETE FROM sqlite_schema WHERE name='other';",
            )
            .unwrap();
        drop(connection);
        let database = Database::new(path);
        let stop = AtomicBool::new(false);
        let long = Duration::from_mins(10);
        let limits = Limits { hold: long, hold_unwaited: long, stop: &stop, progress: None };
        let readers = [database.connect().unwrap(), database.connect().unwrap()];
        let findings =
            whole(readers, "integrity_check", &limits, &Progress::default()).result.unwrap();
        let found = findings.findings.iter().find(|f| f.code == Code::SqliteIndexCorrupt).unwrap();
        assert!(found.items_total >= 300, "{}", found.evidence);
    }

    /// What a check of a database says that these statements make.
    fn codes(sql: &str) -> Vec<Code> {
        let verdict = verdict(sql).unwrap();
        verdict.findings.iter().map(|finding| finding.code).collect()
    }

    fn verdict(sql: &str) -> Result<Verdict, QueryError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(DATABASE_FILE);
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("PRAGMA synchronous=OFF").unwrap();
        connection
            .execute_batch(
                "CREATE VIRTUAL TABLE text USING fts5(x, tokenize='trigram');
                 INSERT INTO text(x) VALUES('first'), ('second'), ('third');
                 CREATE TABLE other(x); INSERT INTO other VALUES(NULL), (7);",
            )
            .unwrap();
        connection.execute_batch(sql).unwrap();
        drop(connection);
        let database = Database::new(path);
        let stop = AtomicBool::new(false);
        let long = Duration::from_mins(10);
        let limits = Limits { hold: long, hold_unwaited: long, stop: &stop, progress: None };
        let readers = [database.connect().unwrap(), database.connect().unwrap()];
        whole(readers, "integrity_check", &limits, &Progress::default()).result
    }

    #[test]
    fn the_word_of_sqlite_on_a_text_with_a_nul_is_not_told() {
        // As SQLite up to 3.46 leaves it; ours calls it malformed.
        let nul = "UPDATE text_content SET c0='first'||char(0)||' and more' WHERE id=1;";
        let size = "DELETE FROM text_docsize WHERE id=2;";
        let configured = "INSERT INTO text(text, rank) VALUES('automerge', 8);";
        let second = "CREATE VIRTUAL TABLE more USING fts5(x);";
        let not_null = "PRAGMA writable_schema=ON;
            UPDATE sqlite_schema SET sql='CREATE TABLE other(x NOT NULL)' WHERE name='other';";
        for (more, want) in [
            (vec![], Some(vec![])),
            (vec![size], Some(vec![Code::FtsCorrupt])),
            // What only SQLite can judge, and cannot.
            (vec![configured], None),
            (vec![second], None),
            // Damage elsewhere is told all the same.
            (vec![configured, not_null], Some(vec![Code::SqliteCorrupt])),
            (vec![second, not_null], Some(vec![Code::SqliteCorrupt])),
        ] {
            let said = match verdict(&[&[nul], &more[..]].concat().concat()) {
                Ok(said) => Some(said.findings.iter().map(|finding| finding.code).collect()),
                Err(QueryError::Unjudged(_)) => None,
                Err(error) => panic!("{more:?}: {error}"),
            };
            assert_eq!(said, want, "{more:?}");
        }
    }

    #[test]
    fn damage_is_found_beside_the_full_text_and_in_it() {
        let not_null = "PRAGMA writable_schema=ON;
            UPDATE sqlite_schema SET sql='CREATE TABLE other(x NOT NULL)' WHERE name='other';";
        let size = "DELETE FROM text_docsize WHERE id=2;";
        let unknown = "CREATE VIRTUAL TABLE more USING fts5(x);";
        for (sql, want) in [
            (String::new(), vec![]),
            (size.to_owned(), vec![Code::FtsCorrupt]),
            (not_null.to_owned(), vec![Code::SqliteCorrupt]),
            (format!("{size}{not_null}"), vec![Code::SqliteCorrupt, Code::FtsCorrupt]),
            (unknown.to_owned(), vec![]),
            (format!("{unknown}{size}"), vec![Code::FtsCorrupt]),
            // Not as SQLite writes it, and no fault to SQLite.
            ("INSERT INTO text(text, rank) VALUES('automerge', 8)".to_owned(), vec![]),
        ] {
            assert_eq!(codes(&sql), want, "{sql}");
        }
    }
}
