//! Keeps the book without ever holding the hooks up: writes run on another thread with a bound, and when the state disk
//! is full, read-only, hung or gone, alerts go on from memory until it can be written again.

use std::{path::PathBuf, time::Duration};

use tokio::task::JoinHandle;
use tracing::{error, info};

use super::book::{Book, Kept, Row};
use crate::{
    alert::silence::Silence,
    clock::{self, Ticks},
};

/// The book, or the memory of one.
#[derive(Debug)]
pub(super) struct Keeper {
    dir: Option<PathBuf>,
    book: Option<Book>,
    /// A piece of work that did not end in time; the book comes back with it, or never.
    away: Option<JoinHandle<Option<Book>>>,
    /// Whether the book lacks something that happened, so that all must be written.
    behind: bool,
    tried: Option<Ticks>,
    version: Option<i64>,
}

impl Keeper {
    /// Opens the book in `dir` and reads it; without one, everything lives in memory.
    pub(super) async fn open(dir: Option<PathBuf>) -> (Self, Kept) {
        let mut keeper =
            Self { dir, book: None, away: None, behind: false, tried: None, version: None };
        let Some(dir) = keeper.dir.clone() else { return (keeper, Kept::default()) };
        keeper.tried = Some(clock::ticks());
        let opened = tokio::task::spawn_blocking(move || {
            Book::open(&dir, clock::now()).map_err(|problem| (problem.chain(), Book::peek(&dir)))
        });
        match tokio::time::timeout(PATIENCE, opened).await {
            Ok(Ok(Ok((book, kept)))) => {
                keeper.book = Some(book);
                (keeper, kept)
            }
            Ok(Ok(Err((problem, kept)))) => {
                keeper.failed(&problem);
                (keeper, kept.unwrap_or_default())
            }
            Ok(Err(_)) | Err(_) => {
                keeper.failed("it does not answer");
                (keeper, Kept::default())
            }
        }
    }

    /// Whether what happened is on disk.
    #[must_use]
    pub(super) fn persistent(&self) -> bool {
        self.book.is_some() && !self.behind
    }

    /// Writes rows down, or all of them when the book is behind. Comes back within [`PATIENCE`], written or not.
    pub(super) async fn write(&mut self, rows: Vec<Row>, all: impl FnOnce() -> Vec<Row>) {
        if self.dir.is_none() || (rows.is_empty() && !self.behind) {
            return;
        }
        let waits = self.tried.is_some_and(|tried| tried.elapsed() < RETRY);
        if self.behind && waits {
            return;
        }
        self.fetch_back().await;
        if self.book.is_none() && self.away.is_none() {
            self.reopen().await;
        }
        let Some(mut book) = self.book.take() else {
            self.tried = Some(clock::ticks());
            self.behind = true;
            return;
        };
        let anew = self.behind;
        let rows = if anew { all() } else { rows };
        let mut job = tokio::task::spawn_blocking(move || {
            let written = book.write(&rows, anew);
            (book, written)
        });
        match tokio::time::timeout(PATIENCE, &mut job).await {
            Ok(Ok((book, Ok(())))) => {
                self.book = Some(book);
                if std::mem::replace(&mut self.behind, false) {
                    info!("Alert state is written to disk again.");
                }
            }
            Ok(Ok((book, Err(problem)))) => {
                // A book that turned out to be damaged is opened anew, which sets it aside.
                self.book = (!problem.damaged()).then_some(book);
                self.failed(&problem.chain());
            }
            Ok(Err(_)) => self.failed("the thread that wrote it ended"),
            Err(_) => {
                self.away = Some(tokio::spawn(async move { job.await.ok().map(|(book, _)| book) }));
                self.failed("it does not answer");
            }
        }
    }

    /// The silences, when they may have changed since the last call.
    pub(super) async fn silences(&mut self) -> Option<Vec<Silence>> {
        let book = self.book.take()?;
        let before = self.version;
        let mut job = tokio::task::spawn_blocking(move || {
            let version = book.data_version().ok();
            let changed = version.is_none() || version != before;
            let silences = if changed { book.silences().ok() } else { None };
            (book, version, silences)
        });
        match tokio::time::timeout(PATIENCE, &mut job).await {
            Ok(Ok((book, version, silences))) => {
                self.book = Some(book);
                self.version = version;
                silences
            }
            Ok(Err(_)) => None,
            Err(_) => {
                self.away =
                    Some(tokio::spawn(async move { job.await.ok().map(|(book, ..)| book) }));
                self.failed("it does not answer");
                None
            }
        }
    }

    async fn fetch_back(&mut self) {
        if self.away.as_ref().is_some_and(JoinHandle::is_finished)
            && let Some(job) = self.away.take()
        {
            self.book = job.await.ok().flatten();
        }
    }

    async fn reopen(&mut self) {
        let Some(dir) = self.dir.clone() else { return };
        self.tried = Some(clock::ticks());
        let job = tokio::task::spawn_blocking(move || Book::open(&dir, clock::now()));
        // What a book holds that could not be opened at the start was read then, as far as that went.
        if let Ok(Ok(Ok((book, _)))) = tokio::time::timeout(PATIENCE, job).await {
            self.book = Some(book);
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

/// Time between two attempts while the book cannot be written.
const RETRY: Duration = Duration::from_secs(5);
