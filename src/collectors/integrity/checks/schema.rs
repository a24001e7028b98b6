//! The schema check: tables, migrations, default tenant and database, each query short.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
};

use rusqlite::{Connection, OptionalExtension};

use crate::{
    collectors::integrity::remains::Remains,
    findings::{Code, Finding, Remedy, Severity, Template},
    format::{
        hnsw::HEADER_FILE,
        schema::{self, Applied, Dir, Fault, Mark, NextStart, Schema},
    },
    store::{
        Context, DATABASE_FILE,
        database::{QueryError, is_absent},
    },
};

/// What the schema check reads in one transaction.
#[derive(Debug, Default)]
pub(super) struct SchemaRead {
    schema: Schema,
    /// Names of views. Chroma makes none.
    views: BTreeSet<String>,
    /// `None` when there is no such table.
    tenant: Option<bool>,
    database: Option<bool>,
    tenants: Option<i64>,
    collections: Option<i64>,
    segments: Option<i64>,
    /// Whether a record or an operation is there.
    written: bool,
    /// Whether a mark of a migration that is not recorded holds anything: a column with a value, a table with a row.
    filled: BTreeMap<Mark, bool>,
}

impl SchemaRead {
    /// Whether nothing was ever stored.
    fn is_unused(&self) -> bool {
        self.collections.unwrap_or(0) == 0 && !self.written
    }

    /// What the next start does, when the first one was cut off. Where anything was stored, some other accident has taken
    /// the rows of the migrations away.
    fn cut_first_start(&self) -> Option<NextStart> {
        self.schema.cut_first_start().filter(|_| self.is_unused())
    }
}

/// What the schema of the store says, as it was read. Errs when it says nothing and what lies beside the database may not be
/// looked at, which could say something else.
pub(super) fn findings(context: &Context, seen: &SchemaRead) -> Result<Vec<Finding>, QueryError> {
    let mut findings = schema_findings(seen, context.store.chroma_version.as_deref());
    // A start that was cut off has not come to what follows.
    if !seen.schema.is_chroma() || seen.cut_first_start().is_some() {
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
    if seen.collections != Some(0) {
        return Ok(findings);
    }
    let place = context.place();
    let remains = match Remains::of(&place) {
        Ok(remains) => remains,
        Err(error) if findings.is_empty() => return Err(unreadable_dir(place.dir(), &error)),
        Err(_) => return Ok(findings),
    };
    let mut unread = None;
    if seen.segments == Some(0)
        && !remains.with_vectors.is_empty()
        && (seen.tenants == Some(0)
            || older_than_database(context, &remains.with_vectors).unwrap_or_else(|error| {
                unread = Some(error);
                false
            }))
    {
        let cut = if seen.tenants == Some(0) {
            "; a reset() that was cut off leaves the same, with everything deleted but the folders"
        } else {
            ""
        };
        let evidence = format!("no collection is listed; {}{cut}", remains.describe());
        findings.push(Finding::new(Code::CatalogEmpty, "collections", evidence));
    }
    findings.extend(older_data(&remains));
    match unread {
        Some(error) if findings.is_empty() => Err(error),
        _ if findings.is_empty() && remains.unreadable > 0 => {
            let error = io::Error::from(io::ErrorKind::PermissionDenied);
            Err(unreadable_dir(place.dir(), &error))
        }
        _ => Ok(findings),
    }
}

/// No collection is listed, and the folders that could contradict it may not be looked into.
fn unreadable_dir(path: &Path, error: &io::Error) -> QueryError {
    let words = format!("{} may not be looked into: {error}", path.display());
    QueryError::File(io::Error::new(error.kind(), words))
}

/// Data of Chroma 0.3 beside a database that lists nothing: a newer Chroma was started on them.
fn older_data(remains: &Remains) -> Option<Finding> {
    if !remains.ancient {
        return None;
    }
    let evidence = format!(
        "{DATABASE_FILE} lists no collection, and files of Chroma 0.3 or older lie beside it ({} entries in all): a newer Chroma was started on them, and reads none of them",
        remains.entries
    );
    Some(Finding::new(Code::NotAStore, "", evidence).with_remedy(MIGRATE))
}

/// Whether a folder was last written before the database file was made. Folders of collections that were deleted in the
/// life of the database are younger, and normal. Errs when a header may not be looked at and no other one is older.
fn older_than_database(context: &Context, folders: &[String]) -> Result<bool, QueryError> {
    // Not every filesystem keeps when a file was made.
    let made = fs::metadata(context.database.real_path()).and_then(|meta| meta.created());
    let Ok(made) = made else { return Ok(false) };
    let place = context.place();
    let mut refused = None;
    for folder in folders {
        let name = Path::new(folder).join(HEADER_FILE);
        match place.at(&name).and_then(fs::metadata).and_then(|meta| meta.modified()) {
            Ok(written) if written < made => return Ok(true),
            Err(error) if !is_absent(&error) => {
                refused.get_or_insert_with(|| unreadable_dir(&place.dir().join(name), &error));
            }
            _ => {}
        }
    }
    refused.map_or(Ok(false), Err)
}

/// Reads the schema within a transaction. Errs when SQLite does.
pub(super) fn read(connection: &Connection) -> rusqlite::Result<SchemaRead> {
    let mut seen = SchemaRead::default();
    let mut statement = connection.prepare(
        "SELECT name FROM sqlite_schema WHERE type='table' AND name NOT LIKE 'sqlite_%'",
    )?;
    let names: Vec<String> =
        statement.query_map([], |row| row.get(0))?.take(TABLES_MAX).collect::<Result<_, _>>()?;
    let mut statement = connection
        .prepare("SELECT name FROM sqlite_schema WHERE type='view' AND octet_length(name) < 100")?;
    seen.views =
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
        let mut statement = connection.prepare(&format!(
            "SELECT dir, version, CASE WHEN octet_length(hash) <= {HASH_BYTES_MAX} THEN hash ELSE '' END, \
             CASE WHEN octet_length(sql) <= {SQL_BYTES_MAX} THEN sql ELSE '' END \
             FROM migrations WHERE octet_length(dir) <= {HASH_BYTES_MAX}"
        ))?;
        // Damage may leave a text that is none: it is another one then, and no reason to give the reading up.
        let text = |row: &rusqlite::Row<'_>, at| -> rusqlite::Result<String> {
            let value = row.get_ref(at)?;
            Ok(String::from_utf8_lossy(value.as_bytes().unwrap_or_default()).into_owned())
        };
        let rows = statement.query_map([], |row| {
            let dir = text(row, 0)?;
            let dir = Dir::ALL.into_iter().find(|known| known.as_str() == dir);
            Ok((dir, row.get(1)?, text(row, 2)?, text(row, 3)?))
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
    for table in ["embeddings_queue", "embeddings"] {
        seen.written |= has(table) && exists(&format!("SELECT 1 FROM {table}"))?;
    }
    for fault in seen.schema.faults() {
        let Fault::NotRecorded { mark, .. } = fault else { continue };
        // The names are constants of this program.
        let sql = match mark {
            Mark::Column(table, column) => {
                format!("SELECT 1 FROM {table} WHERE {column} IS NOT NULL")
            }
            Mark::Table(table) => format!("SELECT 1 FROM {table}"),
            _ => continue,
        };
        seen.filled.insert(mark, exists(&sql)?);
    }
    if has("databases") {
        seen.database = Some(exists("SELECT 1 FROM databases WHERE name='default_database'")?);
    }
    Ok(seen)
}

fn schema_findings(seen: &SchemaRead, server: Option<&str>) -> Vec<Finding> {
    let schema = &seen.schema;
    if !schema.is_chroma() {
        let evidence =
            format!("the database has {} tables, none of them Chroma's", schema.tables.len());
        return vec![Finding::new(Code::NotAStore, DATABASE_FILE, evidence)];
    }
    let mut findings = match seen.cut_first_start() {
        Some(next) => vec![cut_first_start(schema, next)],
        None => fault_findings(seen),
    };
    let dropped = schema.dropped();
    if !dropped.is_empty() {
        for finding in findings.iter_mut().filter(|f| f.code == Code::MigrationsMissing) {
            *finding = half_a_reset(&dropped);
        }
    }
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

fn half_a_reset(dropped: &[&str]) -> Finding {
    let evidence = format!(
        "there is no table migrations, and {} more of Chroma's tables are gone ({}), as after a reset() of Chroma 1.x that was cut off",
        dropped.len(),
        dropped.join(", ")
    );
    Finding::new(Code::MigrationsMissing, "migrations", evidence).with_remedy(HALF_A_RESET)
}

/// The first start of Chroma was cut off among its migrations.
fn cut_first_start(schema: &Schema, next: NextStart) -> Finding {
    let counts = schema.counts();
    let code = if counts == [0; 3] { Code::MigrationsMissing } else { Code::MigrationMismatch };
    let [sysdb, metadb, queue] = counts;
    let cut = format!(
        "the first start of Chroma was cut off after {sysdb}/{metadb}/{queue} migrations (sysdb/metadb/embeddings_queue)"
    );
    match next {
        NextStart::GoesOn => {
            let evidence = format!("{cut}; the next start goes on from there");
            Finding::new(code, "migrations", evidence)
                .with_severity(Severity::Info)
                .with_remedy(GOES_ON)
        }
        NextStart::Fails(dir, version, mark) => {
            let evidence = format!(
                "{cut}; {mark} is there, but {dir} {version}, which makes it, is not recorded: every release tries it again \
                 and fails with '{}'",
                failure(mark)
            );
            Finding::new(code, "migrations", evidence).with_remedy(NEW_DATABASE)
        }
    }
}

/// What Chroma says when a migration meets what it is to make.
fn failure(mark: Mark) -> String {
    match mark {
        Mark::Column(_, column) => format!("duplicate column name: {column}"),
        Mark::Table(table) | Mark::FullText(table) => format!("table {table} already exists"),
        Mark::NoColumn(_, column) => format!("no such column: \"{column}\""),
        Mark::Integer(table, column) => format!("{table}.{column} is an integer already"),
    }
}

fn fault_findings(seen: &SchemaRead) -> Vec<Finding> {
    let schema = &seen.schema;
    let mut faults = schema.faults();
    // The next start does it again, and passes over what is there.
    faults.retain(|fault| match fault {
        Fault::NotRecorded { dir, version, .. } => !schema::is_repeatable(*dir, *version),
        _ => true,
    });
    let cut = |fault: &Fault| match fault {
        Fault::NotRecorded { .. } => true,
        Fault::MarkMissing { mark: Mark::Table(table), .. } => replacement(schema, table).is_some(),
        _ => false,
    };
    if faults.iter().any(cut) || schema.tables.contains_key(SEGMENTS_TEMP) {
        // A start that was cut off had not come to the later directories.
        faults.retain(|fault| !matches!(fault, Fault::Gap { version: 1, .. }));
    }
    let mut findings: Vec<Finding> =
        faults.iter().map(|fault| fault_finding(fault, seen)).collect();
    let there = |table: &str| schema.tables.contains_key(table);
    if there(SEGMENTS_TEMP) && there("segments") {
        let evidence = format!(
            "table {SEGMENTS_TEMP} is left of sysdb 9, which was cut off and is not recorded: every release tries it again \
             and fails with 'table {SEGMENTS_TEMP} already exists'"
        );
        let remedy = undo(&[format!("DROP TABLE {SEGMENTS_TEMP}")]);
        findings.push(
            Finding::new(Code::MigrationMismatch, "migrations", evidence).with_remedy(remedy),
        );
    }
    findings
}

/// What takes back the part of a migration that was done before it was cut off, so that the next start can do it again.
fn steps_back(schema: &Schema, dir: Dir, version: i64, mark: Mark) -> Vec<String> {
    let has = |table: &str, column: &str| {
        let columns = schema.tables.get(table);
        columns.is_some_and(|columns| columns.iter().any(|(name, _)| name == column))
    };
    match mark {
        // It adds the column to two tables.
        Mark::Column(_, column) if (dir, version) == (Dir::Sysdb, 6) => {
            ["collection_metadata", "segment_metadata"]
                .into_iter()
                .filter(|table| has(table, column))
                .map(|table| format!("ALTER TABLE {table} DROP COLUMN {column}"))
                .collect()
        }
        Mark::Column(table, column) => vec![format!("ALTER TABLE {table} DROP COLUMN {column}")],
        Mark::Table(table) => vec![format!("DROP TABLE {table}")],
        // It takes the column from two tables.
        Mark::NoColumn(_, column) => ["collections", "segments"]
            .into_iter()
            .filter(|table| !has(table, column))
            .map(|table| format!("ALTER TABLE {table} ADD COLUMN {column} TEXT"))
            .collect(),
        Mark::FullText(_) | Mark::Integer(..) => Vec::new(),
    }
}

fn fault_finding(fault: &Fault, seen: &SchemaRead) -> Finding {
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
        Fault::NotRecorded { dir, version, mark } => {
            let finding = mismatch(format!(
                "{mark} is there, but {dir} {version}, which made it, is not recorded: every release tries it again and fails \
                 with '{}'",
                failure(*mark)
            ));
            // What a migration that was cut off has made is empty. Anything else is no such cut.
            let empty = seen.filled.get(mark) == Some(&false) || matches!(mark, Mark::NoColumn(..));
            let steps = steps_back(&seen.schema, *dir, *version, *mark);
            match seen.is_unused() {
                true => finding.with_remedy(NEW_DATABASE),
                false if empty && !steps.is_empty() => finding.with_remedy(undo(&steps)),
                false => finding,
            }
        }
        Fault::MarkMissing { dir, version, mark } => {
            let evidence = format!("{mark} of {dir} {version} is missing");
            match mark {
                Mark::FullText(table) => Finding::new(Code::FtsMissing, *table, evidence),
                Mark::Table(table) => match replacement(&seen.schema, table) {
                    Some(ready) => {
                        let evidence = format!(
                            "{evidence}; {ready} is there, which a migration was about to put in its place when it was cut off"
                        );
                        let step = format!("ALTER TABLE {ready} RENAME TO {table}");
                        Finding::new(Code::TableMissing, *table, evidence)
                            .with_remedy(undo(&[step]))
                    }
                    None if seen.views.contains(*table) => {
                        let evidence = format!(
                            "{evidence}: a view is in its place, and this program does not query views"
                        );
                        Finding::new(Code::TableMissing, *table, evidence)
                    }
                    None => Finding::new(Code::TableMissing, *table, evidence),
                },
                _ => mismatch(evidence),
            }
        }
    }
}

/// The table that a migration fills before it takes the old one away and gives it its name.
fn replacement(schema: &Schema, table: &str) -> Option<&'static str> {
    let ready = match table {
        "collections" => "collections_tmp",
        "segments" => SEGMENTS_TEMP,
        _ => return None,
    };
    schema.tables.contains_key(ready).then_some(ready)
}

/// Takes back what a migration that was cut off had done, so that the next start does it again.
fn undo(steps: &[String]) -> Remedy {
    let sql = steps.join("; ");
    Remedy::new(
        "Stop Chroma and keep a copy of the directory. Take back what the migration had done before it was cut off. Then start Chroma, which does it again.",
    )
    .with_command(Some(format!("sqlite3 {{path}}/chroma.sqlite3 \"{sql}\"")))
}

const SEGMENTS_TEMP: &str = "segments_temp";

const MIGRATE: Template = Template {
    words: "Nothing is lost. Keep a copy of the directory. Move the old data into a new directory with the chroma-migrate tool, and start Chroma on that.",
    command: "",
    note: "",
};
const HALF_A_RESET: Template = Template {
    words: "Chroma does not start on it. If you wanted to delete everything, stop Chroma, move the content of the directory elsewhere, and start it on the empty directory. If not, keep a copy and put the newest verified backup back.",
    command: "",
    note: "What the remaining tables and the segment folders hold can still be read.",
};
const GOES_ON: Template = Template {
    words: "Start Chroma on the directory. It goes on by itself.",
    command: "",
    note: "Nothing was stored yet.",
};
const NEW_DATABASE: Template = Template {
    words: "Nothing was stored in it yet. Stop Chroma and move the database aside. The next start makes a new one.",
    command: "mv {path}/chroma.sqlite3 {path}/chroma.sqlite3.cut",
    note: "",
};
/// What is longer is none of a migration.
const HASH_BYTES_MAX: u32 = 1000;
const SQL_BYTES_MAX: u32 = 64 << 10;
const TABLES_MAX: usize = 1000;
const MIGRATIONS_MAX: usize = 10_000;
