//! What it means who holds the database. Functions of values.

use std::{cmp::Reverse, fmt::Write, time::Duration};

use serde::{Deserialize, Serialize};

use super::{FirstSeen, Held, Located};
use crate::{
    clock::Timestamp,
    findings::{Code, Finding, Remedy, Severity},
    host::processes::{Holder, is_sqlite_tool},
    store::DATABASE_FILE,
};

/// Who served the store when it was last looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Served {
    pub(super) pid: u32,
    pub(super) start_ticks: u64,
    pub(super) comm: String,
    pub(super) started: Timestamp,
    /// A server, or a program that embeds Chroma and held the store for long.
    pub(super) server: bool,
    /// When it was first found to be gone.
    pub(super) gone: Option<Timestamp>,
}

impl Served {
    fn by(holder: &Holder) -> Self {
        Self {
            pid: holder.pid,
            start_ticks: holder.start_ticks,
            comm: holder.comm.clone(),
            started: holder.started,
            server: holder.server,
            gone: None,
        }
    }

    /// Whether it is this process.
    pub(super) fn is(&self, holder: &Holder) -> bool {
        self.pid == holder.pid && self.start_ticks == holder.start_ticks
    }

    /// The finding that it is gone. A program that embeds Chroma may have come to its natural end: a warning.
    pub(super) fn gone(&self, now: Timestamp) -> Finding {
        let what = if self.server { "server" } else { "program" };
        let finding = Finding::new(
            Code::ServerGone,
            "",
            format!(
                "the {what} {} (pid {}, started {}) was gone at {}, and no other holds {DATABASE_FILE} in its place",
                self.comm,
                self.pid,
                self.started,
                self.gone.unwrap_or(now)
            ),
        )
        .with_since(self.gone.unwrap_or(now));
        if self.server { finding } else { finding.with_severity(Severity::Warning) }
    }
}

/// Whether somebody serves the store.
#[derive(Debug, PartialEq)]
pub(super) enum Serving {
    /// This one does.
    By(Served),
    /// Nobody does, but this one did.
    Nobody(Served),
    /// Nobody does, and as far as is known nobody ever did, or not for long enough to be missed.
    Unjudged,
}

/// A server serves from its first moment. A program that embeds Chroma does when it has held the store for a while, so
/// that a nightly import is not missed when it ends, or when it takes the place of another such program; `seen` says
/// since when.
pub(super) fn serving(
    last: Option<&Served>,
    holders: &[Holder],
    seen: &FirstSeen,
    now: Timestamp,
) -> Serving {
    let held_long = |holder: &Holder| {
        let since = seen.get(&(holder.pid, holder.start_ticks)).copied().unwrap_or(now);
        now.since(since) >= EMBEDDED_SERVES_AFTER
    };
    let replaces = last.is_some_and(|last| !last.server);
    let found = ranked(holders).into_iter().find(|holder| {
        holder.server
            || (holder.writes
                && !is_sqlite_tool(&holder.comm)
                && (replaces || held_long(holder) || last.is_some_and(|last| last.is(holder))))
    });
    match (found, last) {
        (Some(holder), _) => Serving::By(Served::by(holder)),
        (None, Some(last)) => {
            Serving::Nobody(Served { gone: Some(last.gone.unwrap_or(now)), ..last.clone() })
        }
        (None, None) => Serving::Unjudged,
    }
}

/// Those that write, the server first, then who builds vectors, then the oldest.
pub(super) fn ranked(holders: &[Holder]) -> Vec<&Holder> {
    let mut ranked: Vec<&Holder> =
        holders.iter().filter(|holder| holder.writes || holder.server).collect();
    ranked.sort_by_key(|h| {
        (Reverse(h.server), Reverse(h.writes), is_sqlite_tool(&h.comm), h.start_ticks, h.pid)
    });
    ranked
}

/// The process whose attributes are the store's: the server, else the first writer. It changes only when a better one
/// comes or it ends, so the counter of its CPU time does not jump to and fro.
pub(super) fn main(holders: &[Holder]) -> Option<&Holder> {
    ranked(holders).first().copied()
}

/// Those that write as Chroma does, with an index in their memory: all but SQLite tools.
pub(super) fn chromas(holders: &[Holder]) -> Vec<&Holder> {
    let mut chromas = ranked(holders);
    chromas.retain(|holder| holder.writes && !is_sqlite_tool(&holder.comm));
    chromas
}

/// Two Chromas that write.
pub(super) fn second_writer(holders: &[Holder]) -> Option<Finding> {
    let writers = chromas(holders);
    if writers.len() < 2 {
        return None;
    }
    let mut evidence =
        format!("{} processes hold {DATABASE_FILE} open for writing: ", writers.len());
    list(&mut evidence, &writers, |holder| {
        let kind = if holder.server { "server" } else { "embedded in" };
        format!("{kind} {} (pid {}, started {})", holder.comm, holder.pid, holder.started)
    });
    let pids = writers.iter().map(|holder| holder.pid.to_string());
    Some(Finding::new(Code::SecondWriter, "", evidence).with_items(pids))
}

/// A SQLite tool beside a Chroma. It opens the database for writing even to read it, and has no index in memory.
pub(super) fn sqlite_tool(holders: &[Holder]) -> Option<Finding> {
    let chroma = *chromas(holders).first()?;
    let tools: Vec<&Holder> =
        holders.iter().filter(|holder| holder.writes && is_sqlite_tool(&holder.comm)).collect();
    let first = tools.first()?;
    let named = |holder: &&Holder| {
        format!("{} (pid {}, started {})", holder.comm, holder.pid, holder.started)
    };
    let mut evidence = String::new();
    list(&mut evidence, &tools, named);
    let verb = if tools.len() == 1 { "has" } else { "have" };
    // Writing to a string cannot fail.
    write!(
        evidence,
        " {verb} {DATABASE_FILE} open for writing beside {} (pid {})",
        chroma.comm, chroma.pid
    )
    .unwrap_or_default();
    let pids = tools.iter().map(|holder| holder.pid.to_string());
    Some(Finding::new(Code::SqliteToolOpen, &first.comm, evidence).with_items(pids))
}

/// Writers of a file that the path no longer leads to.
pub(super) fn store_replaced(files: &[Held], located: Located) -> Option<Finding> {
    let held: Vec<(bool, &Holder)> = files
        .iter()
        .filter(|file| file.stale)
        .flat_map(|file| file.holders.iter().map(|holder| (file.deleted, holder)))
        .filter(|(_, holder)| holder.writes)
        .collect();
    if held.is_empty() {
        return None;
    }
    let mut evidence = String::new();
    list(&mut evidence, &held, |(deleted, holder)| {
        let what = if *deleted { "deleted" } else { "moved away" };
        let numbers: Vec<String> =
            holder.descriptors.iter().take(LISTED_MAX).map(ToString::to_string).collect();
        format!(
            "{} (pid {}) uses a {DATABASE_FILE} that was {what}, through descriptor {}",
            holder.comm,
            holder.pid,
            numbers.join(" and ")
        )
    });
    evidence.push_str(match located {
        Located::At(..) => "; the path leads to another file",
        Located::Nowhere => "; the path leads to nothing",
        Located::Unknown => "",
    });
    let finding = Finding::new(Code::StoreReplaced, DATABASE_FILE, evidence);
    let (_, first) = held.first()?;
    let number = first.descriptors.first()?;
    // SQLite refuses writes to a file that lost its name (SQLITE_READONLY_DBMOVED), so a plain copy is whole.
    let (pid, file) = (first.pid, DATABASE_FILE);
    let words = format!("Do not stop pid {pid} before its open file is saved elsewhere.");
    let command = format!("cp /proc/{pid}/fd/{number} /var/tmp/{file}.saved");
    Some(finding.with_remedy(Remedy::new(words).with_command(Some(command))))
}

/// The first few in words, the rest as a number.
pub(super) fn list<T>(out: &mut String, items: &[T], say: impl Fn(&T) -> String) {
    let said: Vec<String> = items.iter().take(LISTED_MAX).map(say).collect();
    out.push_str(&said.join("; "));
    if let Some(more) = items.len().checked_sub(LISTED_MAX).filter(|more| *more > 0) {
        // Writing to a string cannot fail.
        write!(out, "; and {more} more").unwrap_or_default();
    }
}

/// A program that embeds Chroma is missed when it has held the store for this long.
const EMBEDDED_SERVES_AFTER: Duration = Duration::from_mins(10);
pub(super) const LISTED_MAX: usize = 4;
