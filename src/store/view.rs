//! A consistent copy of a live database that its writers do not feel: two SHARED locks of about a millisecond each,
//! whatever the size and the write load.
//!
//! 1. Under the first lock, when SQLite itself vouches that no transaction is half-way, the change counter is noted.
//! 2. Without a lock all pages are copied, while every rollback journal that appears is opened before its name is gone
//!    (`catch`). Each names the pages that its transaction may have changed (`touched`), and these are copied again after
//!    the transaction has ended (`plan`).
//! 3. Under the second lock the rest is copied: what the last journals named, page 1 and what grew.
//!
//! The copy is called consistent only when every transaction in between is known by a journal of its own and the change
//! counter agrees (`chain`); otherwise the answer is [`ViewError::Unproven`], after some tries. That is also the answer for
//! writers in WAL mode or with journals that are not deleted, and for a file that is exchanged meanwhile. Nothing is written
//! in the watched directory. The format of journals is SQLite's, section 3 of <https://www.sqlite.org/fileformat2.html>;
//! that commits go by them, and in which order, is `pager.c`.

mod catch;
mod chain;
mod plan;
mod scratch;
mod touched;
mod transfer;

pub use chain::Unproven;
pub use scratch::{NoRoom, Places};

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use rusqlite::Connection;

use self::{
    catch::{Catcher, Journal},
    chain::{Finished, Ledger},
    plan::{Plan, Run},
    scratch::Scratch,
    touched::Touched,
    transfer::{Piece, Transfer},
};
use super::database::{Database, Limits, QueryError, ReadConnection, Timed, run_within};
use crate::{
    clock::{self, Ticks},
    format::{journal, sqlite::SqliteHeader},
    progress::{Phase, Progress},
};

/// How a view is to be taken.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// Where the copy may go.
    pub places: &'a Places,
    /// Bytes read a second at most, on the average.
    pub rate_bytes_max: u64,
    /// Longest single lock.
    pub lock_hold_max: Duration,
    /// No new try begins after this.
    pub time_max: Duration,
    /// Set when nobody wants the view any more.
    pub stop: &'a AtomicBool,
    /// Told how far the copy is.
    pub progress: &'a Progress,
}

/// A state of the database that was committed, as a file of ours without a name.
#[derive(Debug)]
pub struct View {
    scratch: Scratch,
    header: SqliteHeader,
    pages: u32,
    cost: Cost,
}

/// What a view cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Longest time for which a lock was held.
    pub held: Duration,
    /// How often it was begun.
    pub tries: u32,
    /// Transactions that ended while the last try copied.
    pub transactions: u32,
    /// Bytes read of the database, over all tries.
    pub bytes_read: u64,
}

/// Why there is no view.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// SQLite does not give the lock, or refuses the file.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// No place for a copy.
    #[error("no place for a copy: {0}")]
    NoRoom(#[from] NoRoom),
    /// This way does not fit the database.
    #[error("{0}")]
    Unsuited(&'static str),
    /// No copy was proven to be consistent.
    #[error("no copy was proven consistent: {0}")]
    Unproven(#[from] Unproven),
    /// The operating system refused.
    #[error("cannot copy the database: {0}")]
    Io(#[from] io::Error),
    /// Nobody wants it any more.
    #[error("stopped")]
    Stopped,
}

impl View {
    /// The bytes of the database, [`View::pages`] pages long.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.scratch.file
    }

    /// The header of this state.
    #[must_use]
    pub fn header(&self) -> &SqliteHeader {
        &self.header
    }

    /// Its size in pages.
    #[must_use]
    pub fn pages(&self) -> u32 {
        self.pages
    }

    /// What it cost.
    #[must_use]
    pub fn cost(&self) -> Cost {
        self.cost
    }

    /// Runs `work` on the copy, which locks nobody out, for at most `deadline`.
    pub fn within<T>(
        &mut self,
        deadline: Duration,
        stop: &AtomicBool,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Timed<T> {
        let limits = Limits { hold: deadline, hold_unwaited: deadline, stop };
        run_within(&self.scratch.connection, &self.scratch.file, &limits, work)
    }
}

/// Copies the database. Tries again when a copy is unproven, some times and not beyond `time_max`.
pub fn take(database: &Database, options: &Options<'_>) -> Result<View, ViewError> {
    let began = clock::ticks();
    let mut cost = Cost::default();
    loop {
        cost.tries += 1;
        match attempt(database, options, &mut cost) {
            Err(ViewError::Unproven(reason)) => {
                tracing::debug!(%reason, tries = cost.tries, "A copy of the database is unproven.");
                if cost.tries >= TRIES_MAX || began.elapsed() >= options.time_max {
                    return Err(reason.into());
                }
                // Not in step with a writer that has a rhythm.
                wait(TRY_PAUSE * (1 + cost.tries % 12), options.stop)?;
            }
            other => return other,
        }
    }
}

fn attempt(database: &Database, options: &Options<'_>, cost: &mut Cost) -> Result<View, ViewError> {
    // SQLite follows links, and puts the journal where the file is.
    let path = fs::canonicalize(database.path())?;
    let plain = database.open_plain()?;
    suited(&plain, &path)?;
    let mut connection = database.connect()?;
    if connection.stamp()?.id != super::database::Stamp::of(&plain.metadata()?).id {
        return Err(QueryError::Replaced.into());
    }
    let catcher = Catcher::new(&path, &plain)?;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = std::thread::Builder::new()
            .name("journals".to_owned())
            .spawn_scoped(scope, || catcher.run(&done))?;
        let result = copy(&path, &plain, &mut connection, &catcher, options, cost);
        done.store(true, Ordering::Release);
        // It has nothing to say, and a panic in it would have been one of this scope.
        drop(watch.join());
        result
    })
}

/// Refuses what this way cannot watch: another name of the file has journals elsewhere, and other hosts send no events.
fn suited(plain: &File, path: &Path) -> Result<(), ViewError> {
    let meta = plain.metadata()?;
    if !meta.is_file() {
        return Err(QueryError::NotRegular(super::database::kind_of(&meta)).into());
    }
    if meta.nlink() != 1 {
        return Err(ViewError::Unsuited("the file has several names"));
    }
    let kind = rustix::fs::statfs(path).map_err(io::Error::from)?.f_type;
    if REMOTE_MAGICS.iter().any(|magic| i128::from(*magic) == i128::from(kind)) {
        return Err(ViewError::Unsuited("its filesystem does not tell of every change"));
    }
    Ok(())
}

fn copy(
    path: &Path,
    plain: &File,
    connection: &mut ReadConnection<'_>,
    catcher: &Catcher<'_>,
    options: &Options<'_>,
    cost: &mut Cost,
) -> Result<View, ViewError> {
    let first = locked(connection, options, cost, |_| {
        catcher.begin()?;
        header_of(plain)
    })?;
    let Some(pages) = first.pages() else {
        return Err(ViewError::Unsuited("its header does not tell its size"));
    };
    if first.auto_vacuum {
        return Err(ViewError::Unsuited("it uses auto_vacuum"));
    }
    let bytes = u64::from(pages) * u64::from(first.page_bytes);
    let scratch = options.places.make(path, bytes + bytes / 8 + GROWTH_BYTES)?;
    let mut copying = Copying {
        plain,
        catcher,
        form: first,
        plan: Plan::new(pages),
        ledger: Ledger::new(first.change_counter),
        transfer: Transfer::new(plain, &scratch.file, first.page_bytes, options.rate_bytes_max),
        read: Vec::new(),
    };
    let result = copying.sweep(options).and_then(|()| copying.finish(connection, options, cost));
    cost.bytes_read += copying.transfer.bytes;
    cost.transactions = copying.ledger.transactions;
    let (header, pages) = result?;
    scratch.file.set_len(u64::from(pages) * u64::from(header.page_bytes))?;
    scratch.ready(pages, header.schema_cookie).map_err(QueryError::from)?;
    Ok(View { scratch, header, pages, cost: *cost })
}

/// One try under way.
struct Copying<'a> {
    plain: &'a File,
    catcher: &'a Catcher<'a>,
    form: SqliteHeader,
    plan: Plan,
    ledger: Ledger,
    transfer: Transfer<'a>,
    /// Journals that were read under the lock, and are closed after it.
    read: Vec<Finished<Journal>>,
}

impl Copying<'_> {
    /// Copies every page once, and takes in the journals that come.
    fn sweep(&mut self, options: &Options<'_>) -> Result<(), ViewError> {
        let page_bytes = u64::from(self.form.page_bytes);
        options
            .progress
            .begin(Phase::Copying, u64::from(self.form.pages().unwrap_or(0)) * page_bytes);
        while let Some(run) = self.plan.sweep(self.transfer.pages_max()) {
            self.transfer.pages(run)?;
            options.progress.add(u64::from(run.count) * page_bytes);
            self.pause(options)?;
        }
        Ok(())
    }

    /// Waits as the rate of reading demands, and takes in the journals that come meanwhile.
    fn pause(&mut self, options: &Options<'_>) -> Result<(), ViewError> {
        loop {
            self.take_in()?;
            let left = self.transfer.pace();
            if left.is_zero() {
                return wait(left, options.stop);
            }
            wait(left.min(WAIT_PIECE), options.stop)?;
        }
    }

    /// Copies again what has changed until little is left, and the rest under a lock.
    fn finish(
        &mut self,
        connection: &mut ReadConnection<'_>,
        options: &Options<'_>,
        cost: &mut Cost,
    ) -> Result<(SqliteHeader, u32), ViewError> {
        let began = clock::ticks();
        for _ in 0..ROUNDS_MAX {
            self.catch_up(options)?;
            if began.elapsed() >= FINISH_MAX {
                break;
            }
            let hold_max = options.lock_hold_max;
            let end = locked(connection, options, cost, |since| self.rest(since, hold_max))?;
            if let Some((header, pages, pieces)) = end {
                pieces.iter().try_for_each(|piece| self.transfer.put(piece))?;
                return Ok((header, pages));
            }
        }
        Err(Unproven::NeverCalm.into())
    }

    fn catch_up(&mut self, options: &Options<'_>) -> Result<(), ViewError> {
        for _ in 0..CATCH_UPS_MAX {
            self.take_in()?;
            let pages = self.pages_now()?;
            if self.plan.left(pages) <= PAGES_LOCKED_MAX / 4 {
                break;
            }
            for run in self.plan.take(pages) {
                self.transfer.pages(run)?;
                self.pause(options)?;
            }
        }
        Ok(())
    }

    /// Reads the rest under the lock, `None` when it would take too long.
    fn rest(
        &mut self,
        since: Ticks,
        hold_max: Duration,
    ) -> Result<Option<(SqliteHeader, u32, Vec<Piece>)>, ViewError> {
        let finished = {
            let mut chain = self.catcher.drained();
            chain.whole_at_rest()?;
            let finished = chain.take_finished()?;
            let bytes: u64 =
                finished.iter().map(|f| f.journal.metadata().map_or(0, |m| m.len())).sum();
            if bytes > JOURNAL_LOCKED_BYTES_MAX {
                chain.give_back(finished);
                return Ok(None);
            }
            finished
        };
        let added = finished.iter().try_for_each(|finished| self.add(finished));
        self.read.extend(finished);
        added?;
        let header = header_of(self.plain)?;
        let Some(pages) = header.pages() else { return Err(Unproven::FormChanged.into()) };
        let form = |header: &SqliteHeader| {
            (header.page_bytes, header.wal, header.reserved_bytes, header.auto_vacuum)
        };
        if form(&header) != form(&self.form) {
            return Err(Unproven::FormChanged.into());
        }
        if header.change_counter != self.ledger.counter {
            return Err(Unproven::Counter.into());
        }
        if self.plan.left(pages) > PAGES_LOCKED_MAX {
            return Ok(None);
        }
        let runs = self.plan.take(pages);
        let mut pieces = Vec::with_capacity(runs.len() + 1);
        for run in runs.into_iter().chain([Run { first: 1, count: 1 }]) {
            if since.elapsed() >= hold_max {
                // What was taken is copied again in the next try.
                return Err(Unproven::NeverCalm.into());
            }
            pieces.push(self.transfer.read(run)?);
        }
        Ok(Some((header, pages, pieces)))
    }

    fn take_in(&mut self) -> Result<(), ViewError> {
        self.read.clear();
        let (finished, retired) = {
            let mut chain = self.catcher.drained();
            (chain.take_finished()?, chain.take_retired())
        };
        // Closed here and not while the chain is locked, because the watch would wait.
        drop(retired);
        finished.iter().try_for_each(|finished| self.add(finished))
    }

    fn add(&mut self, finished: &Finished<Journal>) -> Result<(), ViewError> {
        if let Some(touched) = read_journal(finished, self.form.page_bytes)? {
            self.ledger.add(finished, &touched)?;
            self.plan.touched(&touched);
        }
        Ok(())
    }

    fn pages_now(&self) -> io::Result<u32> {
        let pages = self.plain.metadata()?.len() / u64::from(self.form.page_bytes);
        Ok(u32::try_from(pages).unwrap_or(u32::MAX))
    }
}

/// What a transaction has touched; `None` when it ended before anything was written to the database.
fn read_journal(
    finished: &Finished<Journal>,
    page_bytes: u32,
) -> Result<Option<Touched>, ViewError> {
    let file: &File = &finished.journal;
    let len = file.metadata()?.len();
    let read = |at: u64, buffer: &mut [u8]| match file.read_exact_at(buffer, at) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    };
    if !finished.written {
        let mut head = [0; journal::HEADER_LEN];
        let there = read(0, &mut head)?;
        // The header is filled at the sync that must come before the first write to the database.
        if !there || matches!(journal::Start::parse(&head), journal::Start::Zeroed) {
            return Ok(None);
        }
    }
    match touched::read(len, page_bytes, RECORDS_MAX, read) {
        Ok(touched) => Ok(Some(touched)),
        Err(error) => {
            tracing::debug!(%error, "A journal does not tell what its transaction changed.");
            Err(Unproven::Unclear.into())
        }
    }
}

fn header_of(plain: &File) -> Result<SqliteHeader, ViewError> {
    let mut head = [0; crate::format::sqlite::HEADER_LEN];
    let read = super::database::read_up_to(plain, &mut head, 0)?;
    SqliteHeader::parse(&head[..read]).map_err(|_| ViewError::Unsuited("its header is damaged"))
}

/// Runs `work` while SQLite holds a SHARED lock, which it grants only when no transaction is half-way in the file. Waits
/// for the lock without holding anything.
fn locked<T>(
    connection: &mut ReadConnection<'_>,
    options: &Options<'_>,
    cost: &mut Cost,
    mut work: impl FnMut(Ticks) -> Result<T, ViewError>,
) -> Result<T, ViewError> {
    let hold = options.lock_hold_max;
    let limits = Limits { hold, hold_unwaited: hold, stop: options.stop };
    let began = clock::ticks();
    loop {
        let timed = connection.within(&limits, |connection| {
            let since = clock::ticks();
            // Reads page 1 and no other, so that it is granted on a damaged schema too.
            connection.query_row("PRAGMA schema_version", [], |_| Ok(()))?;
            let result = work(since);
            // Here and not where the transaction ends of itself, because that is after a thread was waited for.
            connection.execute_batch("ROLLBACK")?;
            cost.held = cost.held.max(since.elapsed());
            Ok(result)
        });
        match timed.result {
            // Refused at once: nothing was held.
            Err(QueryError::Busy) if began.elapsed() < LOCK_WAIT_MAX => {
                wait(LOCK_PAUSE, options.stop)?;
            }
            Err(QueryError::Busy) => return Err(Unproven::NeverCalm.into()),
            Err(error) => return Err(error.into()),
            Ok(result) => return result,
        }
    }
}

/// Sleeps, in pieces, as long as somebody wants the view.
fn wait(mut time: Duration, stop: &AtomicBool) -> Result<(), ViewError> {
    loop {
        if stop.load(Ordering::Relaxed) {
            return Err(ViewError::Stopped);
        }
        if time.is_zero() {
            return Ok(());
        }
        let piece = time.min(WAIT_PIECE);
        std::thread::sleep(piece);
        time -= piece;
    }
}

/// How often a copy is begun, and the shortest time between two tries.
const TRIES_MAX: u32 = 100;
const TRY_PAUSE: Duration = Duration::from_millis(7);
/// How often the rest is tried, and for how long at most.
const ROUNDS_MAX: u32 = 500;
const FINISH_MAX: Duration = Duration::from_secs(20);
/// How often changed pages are copied again before a lock is asked for.
const CATCH_UPS_MAX: u32 = 16;
/// Most pages and bytes of journals for which a lock is held: well below a millisecond of memory traffic each.
const PAGES_LOCKED_MAX: usize = 512;
const JOURNAL_LOCKED_BYTES_MAX: u64 = 1 << 20;
/// Most records of one journal: 2 GiB of pages, 16 MiB of memory.
const RECORDS_MAX: usize = 500_000;
/// How long a lock is asked for again and again, and the time in between. Far longer than a commit, shorter than the
/// patience of anybody.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(20);
const LOCK_PAUSE: Duration = Duration::from_micros(300);
const WAIT_PIECE: Duration = Duration::from_millis(10);
/// Room for growth while we copy, besides an eighth of the size.
const GROWTH_BYTES: u64 = 64 << 20;
/// `f_type` of filesystems whose files others may change unseen: NFS, SMB (three), FUSE, 9P, Ceph, AFS, Coda, GFS2, OCFS2.
const REMOTE_MAGICS: [u32; 11] = [
    0x6969,
    0x517b,
    0xff53_4d42,
    0xfe53_4d42,
    0x6573_5546,
    0x0102_1997,
    0x00c3_6400,
    0x5346_414f,
    0x7375_7245,
    0x0116_1970,
    0x7461_636f,
];

#[cfg(test)]
mod tests;
