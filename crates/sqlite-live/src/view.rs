//! A consistent copy of a live database that its writers do not feel: SHARED locks far below a millisecond, whatever the
//! size and the write load.
//!
//! 1. Under the first lock, when no transaction is half-way, the change counter is noted.
//! 2. Without a lock all pages are copied, while every rollback journal that appears is opened before its name is gone
//!    (`catch`). Each names the pages that its transaction may have changed (`touched`), and these are copied again after
//!    the transaction has ended (`plan`).
//! 3. Under the last lock the rest is copied: what the last journals named, page 1 and what grew (`copying`).
//!
//! Journals are opened by threads that come before everybody else, so that no writer is faster (`watch`). Where that is not
//! permitted, a writer that deletes its journals faster than they can be opened is kept from ending a transaction until its
//! journal is open (`gate`); this is done only after copies without have failed, and slows such a writer down.
//!
//! The copy is called consistent only when every transaction in between is known by a journal of its own and the change
//! counter agrees (`chain`); otherwise the answer is [`ViewError::Unproven`], after some tries. That is also the answer for
//! writers in WAL mode or with journals that are not deleted, and for a file that is exchanged meanwhile. Nothing is written
//! in the watched directory. The format of journals is SQLite's, section 3 of <https://www.sqlite.org/fileformat2.html>;
//! that commits go by them, and in which order, is `pager.c`.

mod catch;
mod chain;
mod copying;
mod gate;
mod plan;
mod scratch;
mod still;
mod touched;
mod transfer;

pub use chain::Unproven;
pub use scratch::{NoRoom, Places, Unfit};
pub use still::take_still;

use std::{
    fs::File,
    io,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{Scope, ScopedJoinHandle},
    time::Duration,
};

use rusqlite::Connection;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use self::{
    catch::Catcher,
    copying::Copying,
    gate::{Gate, GateMode},
    scratch::Scratch,
};
use super::database::{
    Database, Limits, QueryError, ReadConnection, SharedLock, Stamp, Timed, kind_of, read_up_to,
    run_within,
};
use crate::{clock, priority::Prompt, progress::Progress, space::REMOTE_MAGICS};
use chroma_format::sqlite::SqliteHeader;

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

/// A read-only connection to a view.
#[derive(Debug)]
pub struct CopyConnection<'a> {
    connection: &'a mut Connection,
    file: &'a File,
}

impl CopyConnection<'_> {
    /// The connection, to be set up.
    pub fn connection_mut(&mut self) -> &mut Connection {
        self.connection
    }

    /// Runs `work` within `limits`, on the connection and the bytes of the copy. It locks nobody out. Errs when SQLite or
    /// `work` does, or the time is over.
    pub fn within_file<T>(
        &mut self,
        limits: &Limits<'_>,
        work: impl FnOnce(&Connection, &File) -> rusqlite::Result<T>,
    ) -> Timed<T> {
        run_within(self.connection, self.file, limits, |connection| work(connection, self.file))
    }
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
    #[error(transparent)]
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

    /// Ends with the copy kept under its name ([`Places::name`]).
    pub fn keep(self) {
        self.scratch.keep();
    }

    /// What it cost.
    #[must_use]
    pub fn cost(&self) -> Cost {
        self.cost
    }

    /// Runs `work` on the copy, which locks nobody out, for at most `deadline`. Errs when SQLite or `work` does, or the time
    /// is over.
    pub fn within<T>(
        &mut self,
        deadline: Duration,
        stop: &AtomicBool,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Timed<T> {
        let limits = Limits { hold: deadline, hold_unwaited: deadline, stop, progress: None };
        run_within(&self.scratch.connections[0], &self.scratch.file, &limits, work)
    }

    /// Two connections to the copy that can be asked side by side.
    pub fn readers(&mut self) -> [CopyConnection<'_>; 2] {
        let Scratch { file, connections, .. } = &mut self.scratch;
        connections.each_mut().map(|connection| CopyConnection { connection, file })
    }
}

/// Copies the database. Tries again when a copy is unproven, some times and not beyond `time_max`: first without any lock
/// but two short ones, then, when a writer was too fast to be followed, with a gate that it has to pass (`gate`), and that
/// slows it down the more often it was too fast. Errs when no copy was proven, none may be made, or a file cannot be read.
pub fn take(database: &Database, options: &Options<'_>) -> Result<View, ViewError> {
    take_telling(database, options, &mut Cost::default())
}

/// The same, and says in `cost` what it has cost, also when there is no view. Errs alike.
pub fn take_telling(
    database: &Database,
    options: &Options<'_>,
    cost: &mut Cost,
) -> Result<View, ViewError> {
    let began = clock::ticks();
    *cost = Cost::default();
    let (mut hasty, mut refused, mut overdue) = (0, 0, 0);
    loop {
        cost.tries += 1;
        let mode = match mode(hasty, overdue, options.lock_hold_max) {
            // A thread that sleeps with a lock in its hand must be woken in time.
            GateMode::Pulses { .. } if !sleeps_are_kept() => GateMode::Awake,
            mode => mode,
        };
        let held = std::mem::take(&mut cost.held);
        let result = attempt(database, options, mode, cost);
        overdue += u32::from(cost.held > options.lock_hold_max);
        cost.held = cost.held.max(held);
        match result {
            Err(ViewError::Unproven(reason)) => {
                tracing::debug!(%reason, tries = cost.tries, ?mode, "A copy of the database is unproven.");
                let count = if reason.is_haste() { &mut hasty } else { &mut refused };
                *count += 1;
                if hasty >= HASTY_MAX
                    || refused >= REFUSED_MAX
                    || began.elapsed() >= options.time_max
                {
                    return Err(reason.into());
                }
                // Not in step with a writer that has a rhythm.
                wait(TRY_PAUSE * (1 + cost.tries % 8), options.stop)?;
            }
            Ok(view) => return Ok(View { cost: *cost, ..view }),
            other => return other,
        }
    }
}

/// How the journals of the next copy are watched, after so many copies for which the writer was too fast, and so many in
/// which a lock was held longer than it may: on such a machine no thread of ours may sleep while it holds one. Every other
/// copy is made without a gate all the same, because it is a matter of luck which of them comes through.
fn mode(hasty: u32, overdue: u32, lock_hold_max: Duration) -> GateMode {
    let half = lock_hold_max / 2;
    let gated = hasty.saturating_sub(FREE) / 2;
    match hasty {
        _ if hasty < FREE || hasty % 2 == 1 => GateMode::Free,
        _ if gated < AWAKE || overdue >= OVERDUE_MAX => GateMode::Awake,
        _ => {
            let steps = (gated - AWAKE) / 2;
            // Half the budget at most: what the scheduler takes comes on top.
            let slow = Duration::from_micros(125) * (1 << steps.min(8));
            let slow = if steps == 0 { Duration::ZERO } else { slow.min(half) };
            GateMode::Pulses { pulse: PULSE.min(half), slow }
        }
    }
}

/// Whether this machine wakes a thread about when it wanted to be woken. One with more work than processors does not.
fn sleeps_are_kept() -> bool {
    (0..SLEEPS).all(|_| {
        let began = clock::ticks();
        std::thread::sleep(PULSE);
        began.elapsed() < 2 * PULSE
    })
}

fn attempt(
    database: &Database,
    options: &Options<'_>,
    mode: GateMode,
    cost: &mut Cost,
) -> Result<View, ViewError> {
    // SQLite has the journal where the file is, not where a link to it is.
    let anchor = database.anchor()?;
    let path = anchor.path();
    let plain = database.open_plain()?;
    suited(&plain, &path)?;
    let mut connection = database.connect()?;
    let id = Stamp::of(&plain.metadata()?).id;
    let lock = || -> Result<SharedLock<'_>, ViewError> {
        let lock = SharedLock::new(database)?;
        let same = Stamp::of(&lock.file().metadata()?).id == id;
        if same { Ok(lock) } else { Err(QueryError::Replaced.into()) }
    };
    let mut own = lock()?;
    let gate = match mode {
        GateMode::Free => None,
        mode => Some(Gate::new(lock()?, mode)),
    };
    if connection.stamp()?.id != id {
        return Err(QueryError::Replaced.into());
    }
    let catcher = Catcher::new(&path, &plain)?;
    if cost.tries == 1 {
        vouch(&mut connection, options, cost)?;
    }
    let done = AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        let started = match gate {
            Some(gate) => keep(scope, gate, &catcher, &done).map(Some),
            None => watch(scope, &catcher, &done).map(|()| None),
        };
        let (result, kept) = match started {
            Ok(kept) => (copy(&path, &plain, &mut own, &catcher, options, cost), kept),
            Err(error) => (Err(error.into()), None),
        };
        done.store(true, Ordering::Release);
        // A panic in it would have been one of this scope.
        let held = kept.map_or(Duration::ZERO, |kept| kept.join().unwrap_or_default());
        cost.held = cost.held.max(held);
        result
    });
    cost.held = cost.held.max(own.longest);
    result
}

/// Starts the thread that keeps the gate, and opens journals by the way. Errs when the system gives no thread.
fn keep<'scope>(
    scope: &'scope Scope<'scope, '_>,
    gate: Gate<'scope>,
    catcher: &'scope Catcher<'_>,
    done: &'scope AtomicBool,
) -> io::Result<ScopedJoinHandle<'scope, Duration>> {
    let run = move || {
        let _prompt = Prompt::new();
        gate.run(catcher, done)
    };
    thread("journals").spawn_scoped(scope, run)
}

/// Starts the threads that open journals, one on each processor, and waits until they watch. Where they may come before
/// everybody else, the writer has to wait for the one on its own whenever a journal comes or goes: it cannot be faster than
/// that, also when the other processors are busy with something else, or the host has taken them away.
fn watch<'scope>(
    scope: &'scope Scope<'scope, '_>,
    catcher: &'scope Catcher<'_>,
    done: &'scope AtomicBool,
) -> io::Result<()> {
    let processors = processors();
    let ready = Arc::new(AtomicUsize::new(0));
    for processor in &processors {
        let (processor, ready) = (*processor, Arc::clone(&ready));
        let run = move || {
            let _prompt = Prompt::new();
            if let Some(cpus) = &processor
                && let Err(error) = sched_setaffinity(None, cpus)
            {
                tracing::debug!(%error, "A watch over journals has no processor of its own.");
            }
            ready.fetch_add(1, Ordering::AcqRel);
            catcher.run(done);
        };
        thread("journals").spawn_scoped(scope, run)?;
    }
    let began = clock::ticks();
    while ready.load(Ordering::Acquire) < processors.len() && began.elapsed() < READY_MAX {
        std::thread::sleep(LOCK_PAUSE);
    }
    Ok(())
}

/// Each processor that this thread may use, or one place that is no processor where they are too many.
fn processors() -> Vec<Option<CpuSet>> {
    let Ok(allowed) = sched_getaffinity(None) else { return vec![None] };
    if allowed.count() as usize > WATCHES_MAX {
        return vec![None];
    }
    let alone = |processor| {
        let mut cpus = CpuSet::new();
        cpus.set(processor);
        Some(cpus)
    };
    (0..CpuSet::MAX_CPU).filter(|processor| allowed.is_set(*processor)).map(alone).collect()
}

fn thread(name: &str) -> std::thread::Builder {
    std::thread::Builder::new().name(name.to_owned())
}

/// Refuses what this way cannot watch: another name of the file has journals elsewhere, and other hosts send no events.
fn suited(plain: &File, path: &Path) -> Result<(), ViewError> {
    let meta = plain.metadata()?;
    if !meta.is_file() {
        return Err(QueryError::NotRegular(kind_of(&meta)).into());
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
    lock: &mut SharedLock<'_>,
    catcher: &Catcher<'_>,
    options: &Options<'_>,
    cost: &mut Cost,
) -> Result<View, ViewError> {
    let (whole, first) = locked(lock, options, |_| match catcher.begin()? {
        Some(whole) => Ok(Some((whole, header_of(plain)?))),
        None => Ok(None),
    })?;
    if !whole {
        return Err(QueryError::HotJournal.into());
    }
    let first = first.ok_or(DAMAGED)?;
    let Some(pages) = first.pages() else {
        return Err(ViewError::Unsuited("its header does not tell its size"));
    };
    if first.auto_vacuum {
        return Err(ViewError::Unsuited("it uses auto_vacuum"));
    }
    let bytes = u64::from(pages) * u64::from(first.page_bytes);
    let scratch = options.places.make(path, bytes + bytes / 8 + growth(options, bytes))?;
    let mut copying = Copying::new(plain, &scratch.file, catcher, first, pages, options);
    let result = copying.sweep().and_then(|()| copying.finish(lock));
    cost.bytes_read += copying.bytes_read();
    cost.transactions = copying.transactions();
    let (header, pages) = result?;
    scratch.file.set_len(u64::from(pages) * u64::from(header.page_bytes))?;
    scratch.ready(pages, header.schema_cookie).map_err(QueryError::from)?;
    Ok(View { scratch, header, pages, cost: *cost })
}

/// Lets SQLite say once that it takes the file for a database in which no transaction was cut off; its words for what is
/// wrong are better than ours. Waits for its lock without holding anything. Errs when it does not, or a writer never pauses.
fn vouch(
    connection: &mut ReadConnection<'_>,
    options: &Options<'_>,
    cost: &mut Cost,
) -> Result<(), ViewError> {
    let hold = options.lock_hold_max;
    let limits = Limits { hold, hold_unwaited: hold, stop: options.stop, progress: None };
    let began = clock::ticks();
    let _prompt = Prompt::new();
    let mut hot = 0;
    loop {
        let timed = connection.within(&limits, |connection| {
            let since = clock::ticks();
            // Reads page 1 and no other, so that it is granted on a damaged schema too.
            connection.query_row("PRAGMA schema_version", [], |_| Ok(()))?;
            // Here and not where the transaction ends of itself, because that is after a thread was waited for.
            connection.execute_batch("ROLLBACK")?;
            cost.held = cost.held.max(since.elapsed());
            Ok(())
        });
        match timed.result {
            // Refused at once: nothing was held.
            Err(QueryError::Busy) if began.elapsed() < LOCK_WAIT_MAX => {}
            Err(QueryError::Busy) => return Err(Unproven::NeverCalm.into()),
            // SQLite takes a journal for hot that goes just when it looks inside.
            Err(QueryError::HotJournal) if hot < HOT_TRIES_MAX => hot += 1,
            other => return Ok(other?),
        }
        wait(LOCK_PAUSE, options.stop)?;
    }
}

/// Runs `work` under the lock, which is taken as soon as no writer has it. Nothing is held while it is waited for, nor
/// when `work` answers that it would have to wait. Errs when the lock cannot be taken, a writer never pauses, or it was stopped.
fn locked<T>(
    lock: &mut SharedLock<'_>,
    options: &Options<'_>,
    mut work: impl FnMut(&SharedLock<'_>) -> Result<Option<T>, ViewError>,
) -> Result<T, ViewError> {
    let began = clock::ticks();
    let _prompt = Prompt::new();
    loop {
        // What comes after a wait has a slice of the processor before it, and is rarely put aside while it holds the lock.
        std::thread::yield_now();
        for _ in 0..LOCK_SPINS {
            if lock.try_lock()? {
                let result = work(lock);
                lock.unlock()?;
                if let Some(result) = result.transpose() {
                    return result;
                }
                break;
            }
            std::hint::spin_loop();
        }
        if began.elapsed() >= LOCK_WAIT_MAX {
            return Err(Unproven::NeverCalm.into());
        }
        wait(LOCK_PAUSE, options.stop)?;
    }
}

/// The header as it stands in the file; `None` when it is damaged. Errs when it cannot be read.
fn header_of(plain: &File) -> io::Result<Option<SqliteHeader>> {
    let mut head = [0; chroma_format::sqlite::HEADER_LEN];
    let read = read_up_to(plain, &mut head, 0)?;
    Ok(SqliteHeader::parse(&head[..read]).ok())
}

/// Sleeps, in pieces, as long as somebody wants the view. Errs when nobody does any more.
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

/// How many copies are made without a gate first, how many then with one that is held in short stretches only; after how many
/// overdue locks it stays at that; how many copies in all may fail because the writer was too fast, and how many for another
/// reason; and the shortest time between two.
const FREE: u32 = 4;
const AWAKE: u32 = 4;
const OVERDUE_MAX: u32 = 1;
const HASTY_MAX: u32 = 100;
const REFUSED_MAX: u32 = 12;
const TRY_PAUSE: Duration = Duration::from_millis(3);
/// How often a hot journal is looked at again before it is believed.
const HOT_TRIES_MAX: u32 = 3;
/// How long a lock is asked for again and again, and the time in between. Far longer than a commit, shorter than the
/// patience of anybody.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(20);
const LOCK_PAUSE: Duration = Duration::from_micros(300);
const LOCK_SPINS: u32 = 100;
const WAIT_PIECE: Duration = Duration::from_millis(10);
/// Longest pulse of the gate while nobody writes, and how many sleeps of that length are looked at before.
const PULSE: Duration = Duration::from_millis(1);
const SLEEPS: u32 = 8;
/// On more processors than this a single thread watches, and how long the threads have to be ready.
const WATCHES_MAX: usize = 16;
const READY_MAX: Duration = Duration::from_millis(100);
const DAMAGED: ViewError = ViewError::Unsuited("its header is damaged");
/// Room for growth while we copy, besides an eighth of the size.
const GROWTH_BYTES: u64 = 64 << 20;

/// The same for a copy of so many bytes: a small one that is kept may go where there is little room.
fn growth(options: &Options<'_>, bytes: u64) -> u64 {
    if options.places.name.is_some() { GROWTH_BYTES.min(bytes) } else { GROWTH_BYTES }
}

#[cfg(test)]
mod tests;
