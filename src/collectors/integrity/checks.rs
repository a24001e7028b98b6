//! The checks that ask SQLite: schema, `quick_check` and `integrity_check`, each in short read transactions. On a file that
//! a process holds every statement has its time; what is given up is unknown, never corrupt.

use std::{fs, path::Path, sync::atomic::AtomicBool, time::Duration};

use rusqlite::{Connection, OptionalExtension};

use super::remains::Remains;
use crate::{
    collectors::CollectError,
    findings::{Code, Finding},
    format::schema::{self, Applied, Dir, Fault, Mark, Schema},
    host::processes::Held,
    sample::CheckState,
    store::{
        Context, DATABASE_FILE,
        database::{Limits, QueryError, ReadConnection},
    },
};

/// A check that asks SQLite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    Schema,
    Quick,
    Full,
}

impl Check {
    pub(super) const ALL: [Self; 3] = [Self::Schema, Self::Quick, Self::Full];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Schema => "schema",
            Self::Quick => "quick",
            Self::Full => "full",
        }
    }
}

/// What one run of a check gave.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) state: CheckState,
    pub(super) findings: Vec<Finding>,
    pub(super) problem: Option<CollectError>,
    /// Why it is neither ok nor corrupt.
    pub(super) reason: Option<String>,
    pub(super) aborted: bool,
    pub(super) held: Duration,
}

/// Runs one check.
pub(super) fn run(check: Check, context: &Context, stop: &AtomicBool) -> Outcome {
    let mut held = Duration::ZERO;
    let answer = ask(check, context, stop, &mut held);
    let mut outcome = Outcome {
        state: CheckState::Ok,
        findings: Vec::new(),
        problem: None,
        reason: None,
        aborted: false,
        held,
    };
    match answer {
        Ok(findings) => {
            if !findings.is_empty() {
                outcome.state = CheckState::Corrupt;
            }
            outcome.findings = findings;
        }
        Err(error) => {
            outcome.reason = Some(error.chain());
            outcome.state = match &error {
                QueryError::Busy | QueryError::Replaced => CheckState::Busy,
                QueryError::NotADatabase(_) | QueryError::Damaged(_) => CheckState::Corrupt,
                QueryError::File(_)
                | QueryError::NotRegular(_)
                | QueryError::Empty
                | QueryError::Unreadable(_) => CheckState::Unreadable,
                QueryError::HotJournal
                | QueryError::Wal
                | QueryError::Aborted(_)
                | QueryError::Other(_) => CheckState::Unknown,
            };
            outcome.aborted = matches!(error, QueryError::Aborted(_));
            match error {
                QueryError::Damaged(error) => {
                    let code = code_of(&error.to_string(), false);
                    let evidence = format!("SQLite gave up: {error}");
                    outcome.findings.push(Finding::new(code, DATABASE_FILE, evidence));
                }
                QueryError::Unreadable(_) | QueryError::Other(_) => {
                    outcome.problem = Some(error.into_problem(context.database.path()));
                }
                // Said by the header check in better words, or no failure of ours.
                _ => {}
            }
        }
    }
    outcome
}

/// The findings of a check that came to its end over one and the same file.
fn ask(
    check: Check,
    context: &Context,
    stop: &AtomicBool,
    held: &mut Duration,
) -> Result<Vec<Finding>, QueryError> {
    let collect = &context.config.collect;
    let before = context.database.stamp().map_err(QueryError::File)?;
    // Whether anybody would have to wait for us; not knowing is as good as yes.
    let quiet = matches!(context.host.processes.held(before.id, HOLDERS_AGE_MAX), Ok(Held::No));
    let hold_unwaited = if quiet && check != Check::Schema {
        collect.check_deadline
    } else {
        collect.statement_deadline
    };
    let limits = Limits { hold: LOCK_BUDGET.min(hold_unwaited), hold_unwaited, stop };
    let mut connection = context.database.connect()?;
    let findings = match check {
        Check::Schema => check_schema(context, &mut connection, &limits, held)?,
        Check::Quick => check_pages("quick_check", &mut connection, &limits, held)?,
        Check::Full => check_pages("integrity_check", &mut connection, &limits, held)?,
    };
    // Damage in a file that was exchanged meanwhile would be said of the wrong one.
    let same = context.database.stamp().is_ok_and(|after| after.id == before.id);
    if same { Ok(findings) } else { Err(QueryError::Replaced) }
}

fn check_pages(
    pragma: &str,
    connection: &mut ReadConnection<'_>,
    limits: &Limits<'_>,
    held: &mut Duration,
) -> Result<Vec<Finding>, QueryError> {
    let timed = connection.within(limits, |connection| {
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
        Ok(if whole { Vec::new() } else { classify(&said, &indexes) })
    });
    *held = timed.held.max(*held);
    timed.result
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

/// What the schema check reads in one transaction.
#[derive(Debug, Default)]
struct Seen {
    schema: Schema,
    /// `None` when there is no such table.
    tenant: Option<bool>,
    database: Option<bool>,
    tenants: Option<i64>,
    collections: Option<i64>,
    segments: Option<i64>,
}

fn check_schema(
    context: &Context,
    connection: &mut ReadConnection<'_>,
    limits: &Limits<'_>,
    held: &mut Duration,
) -> Result<Vec<Finding>, QueryError> {
    let timed = connection.within(limits, read_schema);
    *held = timed.held.max(*held);
    let seen = timed.result?;
    let mut findings = schema_findings(&seen.schema, context.store.chroma_version.as_deref());
    if !seen.schema.is_chroma() {
        return Ok(findings);
    }
    if seen.tenant == Some(false) {
        let evidence = format!("{} other tenants are there", seen.tenants.unwrap_or(0));
        findings.push(Finding::new(Code::DefaultTenantMissing, "tenants", evidence));
    }
    if seen.database == Some(false) {
        findings.push(Finding::new(
            Code::DefaultDatabaseMissing,
            "databases",
            "no row has its name",
        ));
    }
    if seen.collections == Some(0)
        && seen.segments == Some(0)
        && let Ok(remains) = Remains::of(&context.store.seen_path)
        && !remains.with_vectors.is_empty()
        && (seen.tenants == Some(0) || older_than_database(context, &remains.with_vectors))
    {
        let evidence = format!("no collection is listed; {}", remains.describe());
        findings.push(Finding::new(Code::CatalogEmpty, "collections", evidence));
    }
    Ok(findings)
}

/// Whether a folder was last written before the database file was made. Folders of collections that were deleted in the
/// life of the database are younger, and normal.
fn older_than_database(context: &Context, folders: &[String]) -> bool {
    let made = fs::metadata(context.database.path()).and_then(|meta| meta.created());
    let Ok(made) = made else { return false };
    let header = |folder: &String| context.store.seen_path.join(folder).join("header.bin");
    let written = |path: &Path| fs::metadata(path).and_then(|meta| meta.modified());
    folders.iter().any(|folder| written(&header(folder)).is_ok_and(|at| at < made))
}

fn read_schema(connection: &Connection) -> rusqlite::Result<Seen> {
    let mut seen = Seen::default();
    let mut statement = connection.prepare(
        "SELECT name FROM sqlite_schema WHERE type='table' AND name NOT LIKE 'sqlite_%'",
    )?;
    let names: Vec<String> =
        statement.query_map([], |row| row.get(0))?.take(TABLES_MAX).collect::<Result<_, _>>()?;
    let mut columns = connection.prepare("SELECT name, upper(type) FROM pragma_table_info(?1)")?;
    for name in names {
        // A virtual table that cannot be opened has no columns to tell; that it is there is known all the same.
        let found = columns
            .query_map([&name], |row| Ok((row.get(0)?, row.get(1)?)))
            .and_then(|rows| rows.collect::<Result<Vec<(String, String)>, _>>());
        seen.schema.tables.insert(name, found.unwrap_or_default());
    }
    let has = |table: &str| seen.schema.tables.contains_key(table);
    if has("migrations") {
        let mut statement = connection.prepare("SELECT dir, version, hash, sql FROM migrations")?;
        let rows = statement.query_map([], |row| {
            let dir: String = row.get(0)?;
            let dir = Dir::ALL.into_iter().find(|known| known.as_str() == dir);
            Ok((dir, row.get(1)?, row.get(2)?, row.get(3)?))
        })?;
        let mut applied = Vec::new();
        for row in rows.take(MIGRATIONS_MAX) {
            let (dir, version, hash, sql) = row?;
            // A directory that is not known here belongs to a newer Chroma.
            applied.extend(dir.map(|dir| Applied { dir, version, hash, sql }));
        }
        seen.schema.applied = Some(applied);
    }
    let count = |table: &str| {
        let rows = |row: &rusqlite::Row<'_>| row.get(0);
        has(table)
            .then(|| connection.query_row(&format!("SELECT count(*) FROM {table}"), [], rows))
            .transpose()
    };
    (seen.tenants, seen.collections, seen.segments) =
        (count("tenants")?, count("collections")?, count("segments")?);
    let exists =
        |sql: &str| connection.query_row(sql, [], |_| Ok(())).optional().map(|row| row.is_some());
    if has("tenants") {
        seen.tenant = Some(exists("SELECT 1 FROM tenants WHERE id='default_tenant'")?);
    }
    if has("databases") {
        seen.database = Some(exists("SELECT 1 FROM databases WHERE name='default_database'")?);
    }
    Ok(seen)
}

fn schema_findings(schema: &Schema, server: Option<&str>) -> Vec<Finding> {
    if !schema.is_chroma() {
        let evidence =
            format!("the database has {} tables, none of them Chroma's", schema.tables.len());
        return vec![Finding::new(Code::NotAStore, DATABASE_FILE, evidence)];
    }
    let mut findings: Vec<Finding> = schema.faults().iter().map(fault_finding).collect();
    let counts = schema.counts();
    if let Some(release) = server.and_then(schema::parse_release)
        && !schema::opens(release, counts)
    {
        let (major, minor, patch) = schema::lowest_that_opens(counts);
        let evidence = format!(
            "Chroma {} serves a directory with {}/{}/{} migrations; {major}.{minor}.{patch} is the lowest release that opens it",
            server.unwrap_or_default(),
            counts[0],
            counts[1],
            counts[2]
        );
        findings.push(Finding::new(Code::SchemaNewerThanServer, "migrations", evidence));
    }
    findings
}

fn fault_finding(fault: &Fault) -> Finding {
    let mismatch = |evidence: String| Finding::new(Code::MigrationMismatch, "migrations", evidence);
    match fault {
        Fault::NoMigrationsTable => {
            Finding::new(Code::MigrationsMissing, "migrations", "there is no table migrations")
        }
        Fault::NoMigrations => Finding::new(Code::MigrationsMissing, "migrations", "it has no row"),
        Fault::Gap { dir, version } => mismatch(format!("{dir} {version} is not recorded")),
        Fault::Changed { dir, version } => {
            mismatch(format!("{dir} {version} has another text or hash than Chroma's"))
        }
        Fault::NotRecorded { dir, version, mark } => mismatch(format!(
            "{mark} is there, but {dir} {version}, which made it, is not recorded"
        )),
        Fault::MarkMissing { dir, version, mark } => {
            let evidence = format!("{mark} of {dir} {version} is missing");
            match mark {
                Mark::FullText(table) => Finding::new(Code::FtsMissing, *table, evidence),
                Mark::Table(table) => Finding::new(Code::TableMissing, *table, evidence),
                _ => mismatch(evidence),
            }
        }
    }
}

/// A statement beside a writer that waits is given up after this.
const LOCK_BUDGET: Duration = Duration::from_millis(10);
/// How old the knowledge may be that nobody holds the file.
const HOLDERS_AGE_MAX: Duration = Duration::from_secs(5);
const ROWS_MAX: u32 = 100;
const LINE_MAX: usize = 300;
const LINES_QUOTED: usize = 3;
const ROOTS_MAX: usize = 10_000;
const TABLES_MAX: usize = 1000;
const MIGRATIONS_MAX: usize = 10_000;

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
