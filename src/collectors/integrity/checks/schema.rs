//! The schema check: tables, migrations, default tenant and database, each query short.

use std::{fs, path::Path, time::Duration};

use rusqlite::{Connection, OptionalExtension};

use crate::{
    collectors::integrity::remains::Remains,
    findings::{Code, Finding},
    format::schema::{self, Applied, Dir, Fault, Mark, Schema},
    store::{
        Context, DATABASE_FILE,
        database::{Limits, QueryError, ReadConnection},
    },
};

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

pub(super) fn check(
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
    if seen.collections == Some(0) {
        findings.extend(older_data(context));
    }
    Ok(findings)
}

/// Data of Chroma 0.3 beside a database that lists nothing: a newer Chroma was started on them.
fn older_data(context: &Context) -> Option<Finding> {
    let remains = Remains::of(&context.store.seen_path).ok().filter(|remains| remains.ancient)?;
    let evidence = format!(
        "{DATABASE_FILE} lists no collection, and files of Chroma 0.3 or older lie beside it ({} entries in all): a newer Chroma was started on them, and reads none of them",
        remains.entries
    );
    let remedy = "Nothing is lost. Keep a copy of the directory, then move the old data into a new directory with the chroma-migrate tool, and start Chroma on that.";
    Some(Finding::new(Code::NotAStore, "", evidence).with_remedy(remedy))
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

const TABLES_MAX: usize = 1000;
const MIGRATIONS_MAX: usize = 10_000;
