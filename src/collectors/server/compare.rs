//! Whether the server serves this directory: it and the database count the same collections. A server on another directory,
//! such as one whose volume is mounted elsewhere, answers well and lists nothing.

use std::{sync::atomic::AtomicBool, time::Duration};

use rusqlite::Connection;

use crate::{
    findings::{Code, Finding, Severity},
    host::processes::Held,
    store::{
        Context,
        database::{Limits, Stamp},
    },
};

/// What the database lists, and of which state of the file that is true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    /// Collections of `default_database`.
    pub(super) collections: u64,
    /// The other databases with the most collections.
    pub(super) others: Vec<Other>,
    stamp: Stamp,
}

/// A database that is not the default one, and how many collections are in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Other {
    pub(super) tenant: String,
    pub(super) database: String,
    pub(super) collections: u64,
}

/// Asks the database. `None` when it cannot be asked now: it is busy, damaged or not there, which others tell.
pub(super) fn listed(context: &Context, stop: &AtomicBool) -> Option<Listed> {
    let timeout = context.config.collect.device_timeout;
    context.device.ask_recent(DEVICE_ANSWER_AGE_MAX, timeout).ok()?;
    let hold = context.config.collect.statement_deadline;
    let limits =
        Limits { hold: HOLD_BESIDE_WRITER.min(hold), hold_unwaited: hold, stop, progress: None };
    let mut connection = context.database.connect().ok()?;
    let stamp = connection.stamp().ok()?;
    let collections = connection.within(&limits, count).result.ok()?;
    // Before 0.4.15 there were none.
    let others = connection.within(&limits, others).result.unwrap_or_default();
    Some(Listed { collections, others, stamp })
}

/// The collections that the server counts when it is asked for the default ones; before 0.4.15 there were no databases.
/// Errs when SQLite does.
fn count(database: &Connection) -> rusqlite::Result<u64> {
    let of_default = "SELECT count(*) FROM collections c JOIN databases d ON d.id = c.database_id \
                      WHERE d.name = 'default_database' AND d.tenant_id = 'default_tenant'";
    let mut statement = database
        .prepare(of_default)
        .or_else(|_| database.prepare("SELECT count(*) FROM collections"))?;
    let count: i64 = statement.query_row([], |row| row.get(0))?;
    Ok(u64::try_from(count).unwrap_or(0)) // no count is negative
}

/// The other databases that have collections. Errs when SQLite does.
fn others(database: &Connection) -> rusqlite::Result<Vec<Other>> {
    let mut statement = database.prepare(&format!(
        "SELECT d.tenant_id, d.name, count(*) FROM collections c JOIN databases d ON d.id = c.database_id \
         WHERE NOT (d.name = 'default_database' AND d.tenant_id = 'default_tenant') \
         AND octet_length(d.name) <= {NAME_BYTES_MAX} AND octet_length(d.tenant_id) <= {NAME_BYTES_MAX} \
         GROUP BY d.id ORDER BY count(*) DESC, d.id LIMIT {OTHERS_MAX}"
    ))?;
    let rows = statement.query_map([], |row| {
        let collections: i64 = row.get(2)?;
        Ok(Other {
            tenant: row.get(0)?,
            database: row.get(1)?,
            collections: u64::try_from(collections).unwrap_or(0),
        })
    })?;
    rows.collect()
}

/// What it means that a server at `url` counted `served` collections while the database listed others: in `other`, or in the
/// default database.
pub(super) fn elsewhere(
    context: &Context,
    url: &str,
    served: u64,
    listed: &Listed,
    other: Option<&Other>,
) -> Finding {
    let held = context.host.processes.held(listed.stamp.id, PROCESSES_AGE_MAX).ok();
    let holder = match held {
        Some(Held::No) => "; no process of this host has it open",
        _ => "",
    };
    let evidence = format!(
        "the server at {url} has {served} collections in {}, the directory has {}{holder}",
        other.map_or_else(
            || "default_database".to_owned(),
            |other| format!("the database \"{}\" of \"{}\"", other.database, other.tenant)
        ),
        other.map_or(listed.collections, |other| other.collections)
    );
    let finding = Finding::new(Code::ServerElsewhere, "", evidence);
    // What is written now goes to another place, perhaps one that goes with its container.
    if served == 0 { finding.with_severity(Severity::Critical) } else { finding }
}

/// Each is a question to the server.
const OTHERS_MAX: u32 = 8;
const NAME_BYTES_MAX: u32 = 512;
/// A question beside a writer that waits is given up after this.
const HOLD_BESIDE_WRITER: Duration = Duration::from_millis(10);
const DEVICE_ANSWER_AGE_MAX: Duration = Duration::from_secs(10);
const PROCESSES_AGE_MAX: Duration = Duration::from_mins(1);
