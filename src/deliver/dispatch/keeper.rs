//! Keeps the book without ever holding the hooks up: writes run on another thread with a bound, and when the state disk
//! is full, read-only, hung or gone, alerts go on from memory until it can be written again.

use std::{path::PathBuf, time::Duration};

use tokio::task::JoinHandle;
use tracing::{error, info};

use super::book::{Book, BookError, Kept, Row};
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
    /// A book that did not open in time at the start: what it holds is not known yet.
    late: Option<JoinHandle<Result<(Book, Kept), BookError>>>,
    /// Whether the book lacks something that happened, so that all must be written.
    behind: bool,
    tried: Option<Ticks>,
    version: Option<i64>,
}

impl Keeper {
    /// Opens the book in `dir` and reads it; without one, everything lives in memory.
    pub(super) async fn open(dir: Option<PathBuf>) -> (Self, Kept) {
        let mut keeper = Self {
            dir,
            book: None,
            away: None,
            late: None,
            behind: false,
            tried: None,
            version: None,
        };
        let Some(dir) = keeper.dir.clone() else { return (keeper, Kept::default()) };
        keeper.tried = Some(clock::ticks());
        let at = dir.clone();
        let mut opened = tokio::task::spawn_blocking(move || Book::open(&at, clock::now()));
        match tokio::time::timeout(START_PATIENCE, &mut opened).await {
            Ok(Ok(Ok((book, kept)))) => {
                keeper.book = Some(book);
                (keeper, kept)
            }
            Ok(Ok(Err(problem))) => {
                keeper.failed(&problem.chain());
                let peek = tokio::task::spawn_blocking(move || Book::peek(&dir));
                let kept = tokio::time::timeout(START_PATIENCE, peek).await;
                (keeper, kept.ok().and_then(Result::ok).flatten().unwrap_or_default())
            }
            Ok(Err(_)) => {
                keeper.failed("the thread that read it ended");
                (keeper, Kept::default())
            }
            Err(_) => {
                keeper.late = Some(opened);
                keeper.failed("it does not answer");
                (keeper, Kept::default())
            }
        }
    }

    /// What the book held at the start, when that comes late. Nothing is written before it is known: it may tell of messages
    /// that nobody has yet.
    pub(super) async fn late(&mut self) -> Option<Kept> {
        let job = self.late.take_if(|job| job.is_finished())?;
        match job.await.ok()? {
            Ok((book, kept)) => {
                self.book = Some(book);
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
                Ok(book) => self.book = book.ok().flatten(),
                Err(_) => return,
            }
        }
        self.tried = None;
        self.write(rows, all).await;
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
        if self.book.is_none() && self.away.is_none() && self.late.is_none() {
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

/// How long a book may take to be read at the start: alerts that were told before would be told again without it.
const START_PATIENCE: Duration = Duration::from_secs(30);

/// How long the end of the program waits for a write that is under way.
const LAST_PATIENCE: Duration = Duration::from_secs(2);

/// Time between two attempts while the book cannot be written.
const RETRY: Duration = Duration::from_secs(5);
