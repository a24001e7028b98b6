//! What the tables hold: collections, records, the queue and how far the segments are behind it, applied migrations, room
//! that a vacuum would give back. Asked of SQLite in short read transactions, after a change and not more often than
//! configured; between two looks the page shows the last one, with its age.

mod release;

use std::{collections::BTreeMap, time::Duration};

use rusqlite::{Connection, OptionalExtension, types::Value};

use super::{CollectError, Collector, Pace, Turn};
use crate::{
    clock::Timestamp,
    config::CollectorName,
    findings::{Code, Finding},
    format::{
        schema,
        sqlite::{HEADER_LEN, SqliteHeader},
    },
    sample::{Desc, Observation, Sample},
    store::{
        Context,
        database::{Limits, QueryError, Stamp},
    },
    watch::Wake,
};

static COLLECTIONS: Desc =
    Desc::gauge("chroma_collections", "Collections in the catalogue, cached.");
static RECORDS: Desc =
    Desc::gauge("chroma_records", "Records of all collections that are in the tables, cached.");
static QUEUE_RECORDS: Desc = Desc::gauge(
    "chroma_queue_records",
    "Operations in the queue, those kept after they were applied included, cached.",
);
static QUEUE_LAG: Desc = Desc::gauge(
    "chroma_queue_lag_records",
    "Operations that the furthest segment of this scope is behind the queue, cached; up to the sync threshold is normal for vector.",
)
.labelled(&["scope"]);
static MIGRATIONS: Desc =
    Desc::gauge("chroma_migrations_applied", "Migrations of the schema applied, by group, cached.")
        .labelled(&["dir"]);
static TENANT: Desc = Desc::gauge(
    "chroma_default_tenant_present",
    "Whether the tenant default_tenant is there, cached.",
);
static DATABASE: Desc = Desc::gauge(
    "chroma_default_database_present",
    "Whether the database default_database is there, cached.",
);
static FREE_PAGES: Desc =
    Desc::gauge("chroma_sqlite_free_pages", "Free pages of the database file, cached.");
static RECLAIMABLE: Desc = Desc::gauge(
    "chroma_sqlite_reclaimable_bytes",
    "Bytes of free pages, which a vacuum would give back to the filesystem, cached.",
);
static INSTALLED: Desc = Desc::gauge(
    "chroma_installed_info",
    "The release of Chroma that is installed where the process that holds the database has its packages, or that is configured; always 1, cached.",
)
.labelled(&["version"]);
static AGE: Desc = Desc::gauge(
    "chroma_contents_age_seconds",
    "Time since the tables were last looked at, or found unchanged since.",
);

static DESCS: [&Desc; 11] = [
    &COLLECTIONS,
    &RECORDS,
    &QUEUE_RECORDS,
    &QUEUE_LAG,
    &MIGRATIONS,
    &TENANT,
    &DATABASE,
    &FREE_PAGES,
    &RECLAIMABLE,
    &INSTALLED,
    &AGE,
];

static CODES: [Code; 1] = [Code::SchemaNewerThanServer];

/// What one look gave; what a release has no table for, or what took too long, is absent.
#[derive(Debug, Clone, Default, PartialEq)]
struct Facts {
    collections: Option<i64>,
    records: Option<i64>,
    queue_records: Option<i64>,
    lag: BTreeMap<&'static str, i64>,
    migrations: Vec<(&'static str, i64)>,
    tenant: Option<bool>,
    database: Option<bool>,
    free: Option<(u32, u64)>,
}

impl Facts {
    /// Migrations by directory; `None` when none are recorded.
    fn counts(&self) -> Option<[u32; 3]> {
        let count = |dir: schema::Dir| {
            let found = self.migrations.iter().find(|(name, _)| *name == dir.as_str());
            found.map_or(0, |(_, n)| u32::try_from(*n).unwrap_or(u32::MAX))
        };
        (!self.migrations.is_empty()).then(|| schema::Dir::ALL.map(count))
    }
}

/// The collector.
#[derive(Debug)]
pub struct Contents {
    context: Context,
    facts: Facts,
    server: release::Server,
    /// The release that serves the directory, or would.
    release: Option<String>,
    /// When the facts were true, and the state of the file that they are about.
    looked: Option<(Timestamp, Stamp)>,
    tried: Option<Timestamp>,
}

impl Contents {
    /// Looks at nothing yet.
    #[must_use]
    pub fn new(context: &Context) -> Self {
        Self {
            context: context.clone(),
            facts: Facts::default(),
            server: release::Server::default(),
            release: None,
            looked: None,
            tried: None,
        }
    }

    /// Looks when the file changed and the last try is long enough ago.
    fn look(&mut self, turn: &Turn) -> Result<(), QueryError> {
        let stamp = self.context.database.stamp().map_err(QueryError::File)?;
        if let Some((at, about)) = &mut self.looked
            && *about == stamp
        {
            *at = turn.now;
            return Ok(());
        }
        let pause = self.context.config.collect.contents_interval;
        // A try in the future means that the clock stepped back. A file that could not be read is tried in every turn.
        let soon = self.tried.is_some_and(|at| at <= turn.now && turn.now.since(at) < pause);
        if soon && self.looked.is_some() && !turn.deep {
            return Ok(());
        }
        self.tried = Some(turn.now);
        self.facts = self.read(turn)?;
        self.looked = Some((turn.now, stamp));
        Ok(())
    }

    fn read(&self, turn: &Turn) -> Result<Facts, QueryError> {
        let mut facts = Facts { free: self.free()?, ..Facts::default() };
        let hold = self.context.config.collect.statement_deadline;
        let limits =
            Limits { hold: HOLD_BESIDE_WRITER.min(hold), hold_unwaited: hold, stop: &turn.stop };
        let mut connection = self.context.database.connect()?;
        // Each question in a transaction of its own: between them a writer may go on.
        let mut ask = |question: &mut dyn FnMut(&Connection) -> rusqlite::Result<()>| {
            match connection.within(&limits, question).result {
                // It took too long: that number is not known, the others may be.
                Err(QueryError::Aborted(_)) => Ok(()),
                other => other,
            }
        };
        ask(&mut |c| {
            facts.collections = count(c, "collections")?;
            facts.tenant = row_exists(c, "tenants", "id='default_tenant'")?;
            facts.database = row_exists(c, "databases", "name='default_database'")?;
            facts.migrations = migrations(c)?;
            Ok(())
        })?;
        ask(&mut |c| {
            facts.records = count(c, "embeddings")?;
            Ok(())
        })?;
        ask(&mut |c| {
            facts.queue_records = count(c, "embeddings_queue")?;
            Ok(())
        })?;
        ask(&mut |c| {
            facts.lag = lag(c)?;
            Ok(())
        })?;
        Ok(facts)
    }

    /// From the header alone; no lock. A header that cannot be read is the business of `integrity`.
    fn free(&self) -> Result<Option<(u32, u64)>, QueryError> {
        let mut head = [0; HEADER_LEN];
        let plain = self.context.database.open_plain().map_err(QueryError::File)?;
        let read = plain.read_up_to(&mut head, 0).map_err(QueryError::File)?;
        let header = head.get(..read).and_then(|head| SqliteHeader::parse(head).ok());
        Ok(header.map(|header| (header.freelist_pages, header.free_bytes())))
    }

    fn samples(&self, now: Timestamp) -> Vec<Sample> {
        let Some((at, _)) = &self.looked else { return Vec::new() };
        let facts = &self.facts;
        let mut out = vec![AGE.sample(now.since(*at).as_secs_f64())];
        for (desc, value) in [
            (&COLLECTIONS, facts.collections),
            (&RECORDS, facts.records),
            (&QUEUE_RECORDS, facts.queue_records),
            (&TENANT, facts.tenant.map(i64::from)),
            (&DATABASE, facts.database.map(i64::from)),
        ] {
            out.extend(value.map(|value| desc.sample(value as f64)));
        }
        out.extend(
            facts.lag.iter().map(|(scope, lag)| QUEUE_LAG.with(vec![(*scope).into()], *lag as f64)),
        );
        out.extend(
            facts.migrations.iter().map(|(dir, n)| MIGRATIONS.with(vec![(*dir).into()], *n as f64)),
        );
        out.extend(
            self.release.iter().map(|version| INSTALLED.with(vec![version.clone().into()], 1.0)),
        );
        if let Some((pages, bytes)) = facts.free {
            out.extend([FREE_PAGES.sample(f64::from(pages)), RECLAIMABLE.sample(bytes as f64)]);
        }
        out
    }
}

impl Collector for Contents {
    fn name(&self) -> CollectorName {
        CollectorName::Contents
    }

    fn descs(&self) -> &'static [&'static Desc] {
        &DESCS
    }

    fn codes(&self) -> &'static [Code] {
        &CODES
    }

    fn pace(&self) -> Pace {
        let collect = &self.context.config.collect;
        Pace {
            interval: collect.interval,
            deadline: collect.deadline,
            wakes: Wake::RESCAN,
            touches_store: true,
        }
    }

    fn collect(&mut self, turn: &Turn) -> Observation {
        let problem = match self.look(turn) {
            // Chroma was writing, or had just been killed: the last look stands, its age grows.
            Ok(()) | Err(QueryError::Busy | QueryError::HotJournal | QueryError::Replaced) => None,
            Err(error) => {
                // Nothing that was read from this file before may pass for its present content.
                self.looked = None;
                Some(self.problem(error))
            }
        };
        if let Some((_, stamp)) = &self.looked {
            self.release = self.server.release(&self.context, stamp.id, turn.now);
        }
        Observation {
            samples: self.samples(turn.now),
            findings: self.skew().into_iter().collect(),
            problems: problem.into_iter().collect(),
            ..Observation::default()
        }
    }
}

impl Contents {
    /// Whether the Chroma that would open the directory is too old for it. A release that is configured is judged by the
    /// schema check of `integrity`.
    fn skew(&self) -> Option<Finding> {
        self.looked.as_ref()?;
        let release = self.release.as_ref().filter(|_| self.context.store.chroma_version.is_none());
        let evidence = schema::skew(release?, self.facts.counts()?)?;
        Some(Finding::new(Code::SchemaNewerThanServer, "migrations", evidence))
    }

    fn problem(&self, error: QueryError) -> CollectError {
        error.into_problem(self.context.database.path())
    }
}

/// Rows of a table; `None` when this release has no such table. The names are constants of this file.
fn count(connection: &Connection, table: &str) -> rusqlite::Result<Option<i64>> {
    if !table_exists(connection, table)? {
        return Ok(None);
    }
    connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).map(Some)
}

fn row_exists(
    connection: &Connection,
    table: &str,
    condition: &str,
) -> rusqlite::Result<Option<bool>> {
    if !table_exists(connection, table)? {
        return Ok(None);
    }
    let sql = format!("SELECT EXISTS(SELECT 1 FROM {table} WHERE {condition})");
    connection.query_row(&sql, [], |row| row.get(0)).map(Some)
}

fn table_exists(connection: &Connection, table: &str) -> rusqlite::Result<bool> {
    let sql = "SELECT 1 FROM sqlite_schema WHERE type='table' AND name=?1";
    Ok(connection.query_row(sql, [table], |_| Ok(())).optional()?.is_some())
}

fn migrations(connection: &Connection) -> rusqlite::Result<Vec<(&'static str, i64)>> {
    if !table_exists(connection, "migrations")? {
        return Ok(Vec::new());
    }
    crate::format::schema::Dir::ALL
        .iter()
        .map(|dir| {
            let sql = "SELECT count(*) FROM migrations WHERE dir=?1";
            Ok((dir.as_str(), connection.query_row(sql, [dir.as_str()], |row| row.get(0))?))
        })
        .collect()
}

/// For each scope the operations that its furthest segment is behind. A vector segment that was never flushed is behind
/// by all its operations; releases before 0.5 keep no position for it, then it is left out.
fn lag(connection: &Connection) -> rusqlite::Result<BTreeMap<&'static str, i64>> {
    let mut lags = BTreeMap::new();
    for table in ["segments", "max_seq_id", "embeddings_queue"] {
        if !table_exists(connection, table)? {
            return Ok(lags);
        }
    }
    let keeps_vector_position = table_exists(connection, "embeddings_queue_config")?;
    let mut ends: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    let mut statement = connection
        .prepare("SELECT topic, min(seq_id), max(seq_id) FROM embeddings_queue GROUP BY topic")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let topic: String = row.get(0)?;
        let collection = topic.rsplit('/').next().unwrap_or_default().to_owned();
        if ends.len() < COLLECTIONS_MAX {
            ends.insert(collection, (row.get(1)?, row.get(2)?));
        }
    }
    let mut statement = connection.prepare(
        "SELECT s.scope, s.collection, m.seq_id FROM segments s LEFT JOIN max_seq_id m ON m.segment_id = s.id",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (scope, collection): (String, String) = (row.get(0)?, row.get(1)?);
        let scope = match scope.as_str() {
            "METADATA" => "metadata",
            "VECTOR" => "vector",
            _ => continue,
        };
        let Some((first, last)) = ends.get(&collection) else {
            lags.entry(scope).or_insert(0);
            continue;
        };
        let behind = match position(&row.get(2)?) {
            Some(position) => last.saturating_sub(position).max(0),
            None if scope == "vector" && !keeps_vector_position => continue,
            None => last.saturating_sub(*first).saturating_add(1),
        };
        let lag = lags.entry(scope).or_insert(0);
        *lag = behind.max(*lag);
    }
    Ok(lags)
}

/// A position in the queue: an integer since 1.0, eight bytes before, most significant first.
fn position(value: &Value) -> Option<i64> {
    match value {
        Value::Integer(position) => Some(*position),
        Value::Blob(bytes) => {
            let bytes: [u8; 8] = bytes.as_slice().try_into().ok()?;
            i64::try_from(u64::from_be_bytes(bytes)).ok()
        }
        _ => None,
    }
}

/// A question beside a writer that waits is given up after this.
const HOLD_BESIDE_WRITER: Duration = Duration::from_millis(10);

/// More topics than this are not told apart.
const COLLECTIONS_MAX: usize = 100_000;

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use super::*;
    use crate::{
        config::{BackupPolicy, Config, PermissionPolicy, Store},
        host::Host,
        scheduler,
    };

    fn contents(dir: &Path) -> (Contents, Context) {
        let config = Arc::new(Config::default());
        let store = Arc::new(Store {
            name: "main".into(),
            path: dir.into(),
            seen_path: dir.into(),
            backups: BackupPolicy::default(),
            permissions: PermissionPolicy::default(),
            logs: Vec::new(),
            server: None,
            chroma_version: None,
        });
        let context = Context::new(&config, &store, &Arc::new(Host::new(&config)));
        (Contents::new(&context), context)
    }

    fn fixture(name: &str, to: &Path) {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
        std::fs::copy(from.join("chroma.sqlite3"), to.join("chroma.sqlite3")).unwrap();
    }

    #[test]
    fn every_family_of_releases_is_counted() {
        for (name, sysdb) in
            [("chroma-0.4.24", 4), ("chroma-0.6.3", 9), ("chroma-1.1.1", 9), ("chroma-1.5.9", 10)]
        {
            let dir = tempfile::tempdir().unwrap();
            fixture(name, dir.path());
            let truth = Connection::open(dir.path().join("chroma.sqlite3")).unwrap();
            let records: i64 =
                truth.query_row("SELECT count(*) FROM embeddings", [], |row| row.get(0)).unwrap();
            drop(truth);
            let (mut contents, context) = contents(dir.path());
            let reading = scheduler::run_once(&mut contents, &context, false, Arc::default());
            assert!(reading.success(), "{name}: {:?}", reading.observation.problems);
            let facts = &contents.facts;
            assert_eq!((facts.collections, facts.records), (Some(2), Some(records)), "{name}");
            assert_eq!((facts.tenant, facts.database), (Some(true), Some(true)), "{name}");
            assert_eq!(
                facts.migrations.iter().find(|(dir, _)| *dir == "sysdb"),
                Some(&("sysdb", sysdb)),
                "{name}"
            );
            assert_eq!(facts.lag.get("metadata"), Some(&0), "{name}");
            assert_eq!(facts.lag.contains_key("vector"), name != "chroma-0.4.24", "{name}");
        }
    }

    #[test]
    fn an_unchanged_file_is_not_opened_again_and_a_missing_one_is_a_problem() {
        let dir = tempfile::tempdir().unwrap();
        fixture("chroma-1.5.9-fresh", dir.path());
        let (mut contents, context) = contents(dir.path());
        assert!(scheduler::run_once(&mut contents, &context, false, Arc::default()).success());
        assert!(contents.facts.lag["vector"] > 0, "nothing was flushed yet");
        let tried = contents.tried;
        let reading = scheduler::run_once(&mut contents, &context, false, Arc::default());
        assert!(reading.success() && contents.tried == tried);
        std::fs::remove_file(dir.path().join("chroma.sqlite3")).unwrap();
        let reading = scheduler::run_once(&mut contents, &context, false, Arc::default());
        assert!(!reading.success());
        assert!(reading.observation.samples.is_empty(), "old numbers would pass for present ones");
    }

    #[test]
    fn positions_are_read_in_both_forms() {
        assert_eq!(position(&Value::Integer(7)), Some(7));
        assert_eq!(position(&Value::Blob(vec![0, 0, 0, 0, 0, 0, 1, 2])), Some(258));
        assert_eq!(position(&Value::Blob(vec![1])), None);
        assert_eq!(position(&Value::Blob(vec![0xff; 8])), None);
        assert_eq!(position(&Value::Null), None);
    }
}
