//! Keeps the alert store without ever holding the hooks up: writes run on another thread with a bound, and when the state disk
//! is full, read-only, hung or gone, alerts go on from memory until it can be written again.

use std::{path::PathBuf, time::Duration};

use tokio::task::JoinHandle;
use tracing::{error, info};

use super::alert_store::{AlertStore, AlertStoreError, Kept, Row};
use crate::{
    alert::silence::Silence,
    clock::{self, Ticks},
};

/// The alert store, or the memory of one.
#[derive(Debug)]
pub(super) struct Persistence {
    dir: Option<PathBuf>,
    alert_store: Option<AlertStore>,
    /// A piece of work that did not end in time; the alert store comes back with it, or never.
    away: Option<JoinHandle<Option<AlertStore>>>,
    /// An alert store that did not open in time at the start: what it holds is not known yet.
    late: Option<JoinHandle<Result<(AlertStore, Kept), AlertStoreError>>>,
    /// Whether the alert store lacks something that happened, so that all must be written.
    behind: bool,
    tried: Option<Ticks>,
    version: Option<i64>,
}

impl Persistence {
    /// Opens the alert store in `dir` and reads it; without one, everything lives in memory.
    pub(super) async fn open(dir: Option<PathBuf>) -> (Self, Kept) {
        let mut persistence = Self {
            dir,
            alert_store: None,
            away: None,
            late: None,
            behind: false,
            tried: None,
            version: None,
        };
        let Some(dir) = persistence.dir.clone() else { return (persistence, Kept::default()) };
        persistence.tried = Some(clock::ticks());
        let at = dir.clone();
        let mut opened = tokio::task::spawn_blocking(move || AlertStore::open(&at, clock::now()));
        match tokio::time::timeout(START_PATIENCE, &mut opened).await {
            Ok(Ok(Ok((alert_store, kept)))) => {
                persistence.alert_store = Some(alert_store);
                (persistence, kept)
            }
            Ok(Ok(Err(problem))) => {
                persistence.failed(&problem.chain());
                let peek = tokio::task::spawn_blocking(move || AlertStore::peek(&dir));
                let kept = tokio::time::timeout(START_PATIENCE, peek).await;
                (persistence, kept.ok().and_then(Result::ok).flatten().unwrap_or_default())
            }
            Ok(Err(_)) => {
                persistence.failed("the thread that read it ended");
                (persistence, Kept::default())
            }
            Err(_) => {
                persistence.late = Some(opened);
                persistence.failed("it does not answer");
                (persistence, Kept::default())
            }
        }
    }

    /// What the alert store held at the start, when that comes late. Nothing is written before it is known: it may tell of messages
    /// that nobody has yet.
    pub(super) async fn late(&mut self) -> Option<Kept> {
        let job = self.late.take_if(|job| job.is_finished())?;
        match job.await.ok()? {
            Ok((alert_store, kept)) => {
                self.alert_store = Some(alert_store);
                self.tried = None;
                Some(kept)
            }
            Err(_) => None,
        }
    }

    /// The last write. Work that is under way gets a moment, and no pause between attempts counts.
    pub(super) async fn finish(&mut self, rows: Vec<Row>, all: impl FnOnce() -> Vec<Row>) {
        if let Some(mut job) = self.away.take() {
            match tokio::time::timeout(LAST_PATIENCE, &mut job).await {
                Ok(alert_store) => self.alert_store = alert_store.ok().flatten(),
                Err(_) => return,
            }
        }
        self.tried = None;
        self.write(rows, all).await;
    }

    /// Whether what happened is on disk.
    #[must_use]
    pub(super) fn persistent(&self) -> bool {
        self.alert_store.is_some() && !self.behind
    }

    /// Writes rows down, or all of them when the alert store is behind. Comes back within [`PATIENCE`], written or not.
    pub(super) async fn write(&mut self, rows: Vec<Row>, all: impl FnOnce() -> Vec<Row>) {
        if self.dir.is_none() || (rows.is_empty() && !self.behind) {
            return;
        }
        let waits = self.tried.is_some_and(|tried| tried.elapsed() < RETRY);
        if self.behind && waits {
            return;
        }
        self.fetch_back().await;
        if self.alert_store.is_none() && self.away.is_none() && self.late.is_none() {
            self.reopen().await;
        }
        let Some(mut alert_store) = self.alert_store.take() else {
            self.tried = Some(clock::ticks());
            self.behind = true;
            return;
        };
        let anew = self.behind;
        let rows = if anew { all() } else { rows };
        let mut job = tokio::task::spawn_blocking(move || {
            let written = alert_store.write(&rows, anew);
            (alert_store, written)
        });
        match tokio::time::timeout(PATIENCE, &mut job).await {
            Ok(Ok((alert_store, Ok(())))) => {
                self.alert_store = Some(alert_store);
                if std::mem::replace(&mut self.behind, false) {
                    info!("Alert state is written to disk again.");
                }
            }
            Ok(Ok((alert_store, Err(problem)))) => {
                // An alert store that turned out to be damaged is opened anew, which sets it aside.
                self.alert_store = (!problem.damaged()).then_some(alert_store);
                self.failed(&problem.chain());
            }
            Ok(Err(_)) => self.failed("the thread that wrote it ended"),
            Err(_) => {
                self.away = Some(tokio::spawn(async move {
                    job.await.ok().map(|(alert_store, _)| alert_store)
                }));
                self.failed("it does not answer");
            }
        }
    }

    /// The silences, when they may have changed since the last call.
    pub(super) async fn silences(&mut self) -> Option<Vec<Silence>> {
        let alert_store = self.alert_store.take()?;
        let before = self.version;
        let mut job = tokio::task::spawn_blocking(move || {
            let version = alert_store.data_version().ok();
            let changed = version.is_none() || version != before;
            let silences = if changed { alert_store.silences().ok() } else { None };
            (alert_store, version, silences)
        });
        match tokio::time::timeout(PATIENCE, &mut job).await {
            Ok(Ok((alert_store, version, silences))) => {
                self.alert_store = Some(alert_store);
                self.version = version;
                silences
            }
            Ok(Err(_)) => None,
            Err(_) => {
                self.away = Some(tokio::spawn(async move {
                    job.await.ok().map(|(alert_store, ..)| alert_store)
                }));
                self.failed("it does not answer");
                None
            }
        }
    }

    async fn fetch_back(&mut self) {
        if self.away.as_ref().is_some_and(JoinHandle::is_finished)
            && let Some(job) = self.away.take()
        {
            self.alert_store = job.await.ok().flatten();
        }
    }

    async fn reopen(&mut self) {
        let Some(dir) = self.dir.clone() else { return };
        self.tried = Some(clock::ticks());
        let job = tokio::task::spawn_blocking(move || AlertStore::open(&dir, clock::now()));
        // What an alert store holds that could not be opened at the start was read then, as far as that went.
        if let Ok(Ok(Ok((alert_store, _)))) = tokio::time::timeout(PATIENCE, job).await {
            self.alert_store = Some(alert_store);
            self.version = None;
        }
    }

    fn failed(&mut self, problem: &str) {
        self.tried = Some(clock::ticks());
        if !std::mem::replace(&mut self.behind, true) {
            error!(
                problem,
                "Alert state cannot be written; alerts go on from memory, and a restart now would tell them again."
            );
        }
    }
}

/// A write that takes longer is left alone.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long an alert store may take to be read at the start: alerts that were told before would be told again without it.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// How long the end of the program waits for a write that is under way.
const LAST_PATIENCE: Duration = Duration::from_secs(2);

/// Time between two attempts while the alert store cannot be written.
const RETRY: Duration = Duration::from_secs(5);
