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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) collections: u64,
    stamp: Stamp,
}

/// Asks the database. `None` when it cannot be asked now: it is busy, damaged or not there, which others tell.
pub(super) fn listed(context: &Context, stop: &AtomicBool) -> Option<Listed> {
    let timeout = context.config.collect.device_timeout;
    context.device.ask_recent(DEVICE_ANSWER_AGE_MAX, timeout).ok()?;
    let hold = context.config.collect.statement_deadline;
    let limits = Limits { hold: HOLD_BESIDE_WRITER.min(hold), hold_unwaited: hold, stop };
    let mut connection = context.database.connect().ok()?;
    let stamp = connection.stamp().ok()?;
    let collections = connection.within(&limits, count).result.ok()?;
    Some(Listed { collections, stamp })
}

/// The collections that the server counts when it is asked for the default ones; before 0.4.15 there were no databases.
fn count(database: &Connection) -> rusqlite::Result<u64> {
    let of_default = "SELECT count(*) FROM collections c JOIN databases d ON d.id = c.database_id \
                      WHERE d.name = 'default_database' AND d.tenant_id = 'default_tenant'";
    let mut statement = database
        .prepare(of_default)
        .or_else(|_| database.prepare("SELECT count(*) FROM collections"))?;
    let count: i64 = statement.query_row([], |row| row.get(0))?;
    Ok(u64::try_from(count).unwrap_or(0)) // no count is negative
}

/// What it means that a server at `url` counted `served` collections while the database listed others.
pub(super) fn elsewhere(context: &Context, url: &str, served: u64, listed: Listed) -> Finding {
    let held = context.host.processes.held(listed.stamp.id, PROCESSES_AGE_MAX).ok();
    let holder = match held {
        Some(Held::No) => "; no process of this host has it open",
        _ => "",
    };
    let evidence = format!(
        "the server at {url} has {served} collections in default_database, the directory has {}{holder}",
        listed.collections
    );
    let finding = Finding::new(Code::ServerElsewhere, "", evidence);
    // What is written now goes to another place, perhaps one that goes with its container.
    if served == 0 { finding.with_severity(Severity::Critical) } else { finding }
}

/// A question beside a writer that waits is given up after this.
const HOLD_BESIDE_WRITER: Duration = Duration::from_millis(10);
const DEVICE_ANSWER_AGE_MAX: Duration = Duration::from_secs(10);
const PROCESSES_AGE_MAX: Duration = Duration::from_mins(1);
