//! Holds a statement to its time. Readers keep Chroma's commits waiting, in silence and for up to 1000 s, so none of ours
//! may stay longer than it was given, whatever it is doing inside SQLite.
//!
//! A thread beside the statement calls `sqlite3_interrupt`. A progress handler was refused: `count(*)` and other single
//! instructions do not call it.

use std::{
    fs::File,
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    time::Duration,
};

use rusqlite::{Connection, InterruptHandle};

use super::{Abort, QueryError, writer};
use crate::{
    clock::{self, Ticks},
    progress::Progress,
};

/// How long a statement may hold its lock.
#[derive(Debug, Clone, Copy)]
pub struct Limits<'a> {
    /// So long at most while a writer waits; it is stopped a little before.
    pub hold: Duration,
    /// So long as long as no writer waits for the lock; at least `hold`.
    pub hold_unwaited: Duration,
    /// Set when nobody wants the answer any more.
    pub stop: &'a AtomicBool,
    /// What it is a part of, when that may pause within it; that time does not count.
    pub progress: Option<&'a Progress>,
}

/// An answer and what it cost the writers.
#[derive(Debug)]
pub struct Timed<T> {
    /// The answer.
    pub result: Result<T, QueryError>,
    /// Time from before the lock was asked for until after it was given back.
    pub held: Duration,
}

/// Runs `work` in one read transaction of `connection`. Errs when SQLite or `work` does, or the time is over.
pub fn within<T>(
    connection: &Connection,
    plain: &File,
    limits: &Limits<'_>,
    work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> Timed<T> {
    let interrupt = connection.get_interrupt_handle();
    let (done, waiting) = mpsc::channel::<()>();
    let began = clock::ticks();
    let paused = limits.progress.map_or(Duration::ZERO, Progress::paused);
    let (result, abort) = std::thread::scope(|scope| {
        let watch = move || watch(began, paused, plain, limits, &interrupt, &waiting);
        // Without a watch nothing may run: it could hold its lock for ever.
        let watch = match std::thread::Builder::new()
            .name("statement".to_owned())
            .spawn_scoped(scope, watch)
        {
            Ok(watch) => watch,
            Err(error) => return (Err(QueryError::File(error)), None),
        };
        let result = connection.execute_batch("BEGIN").and_then(|()| work(connection));
        drop(done);
        let abort = watch.join().unwrap_or(None);
        (result.map_err(QueryError::from), abort)
    });
    // Ends the transaction and with it the lock, also after an error; SQLite refuses only when there is none.
    if !connection.is_autocommit()
        && let Err(error) = connection.execute_batch("ROLLBACK")
    {
        tracing::debug!(%error, "A read transaction could not be ended.");
    }
    let result = match (result, abort) {
        (Err(QueryError::Other(error)), Some(abort)) if is_interrupt(&error) => {
            Err(QueryError::Aborted(abort))
        }
        (result, _) => result,
    };
    Timed { result, held: began.elapsed() }
}

fn is_interrupt(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationInterrupted)
}

/// Interrupts the statement when its time is over, again and again until it has ended: SQLite forgets an interrupt that
/// comes between two statements.
fn watch(
    began: Ticks,
    paused_before: Duration,
    plain: &File,
    limits: &Limits<'_>,
    interrupt: &InterruptHandle,
    done: &mpsc::Receiver<()>,
) -> Option<Abort> {
    let mut reason = None;
    loop {
        // In time for the first moment at which it may have to stop.
        let until_then = in_time_for(limits.hold).saturating_sub(began.elapsed());
        let pause =
            if until_then.is_zero() { POLL_INTERVAL } else { until_then.min(POLL_INTERVAL) };
        match done.recv_timeout(pause) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return reason,
        }
        let paused = limits.progress.map_or(paused_before, Progress::paused);
        let worked = began.elapsed().saturating_sub(paused.saturating_sub(paused_before));
        reason = reason.or_else(|| reason_to_stop(began.elapsed(), worked, plain, limits));
        if reason.is_some() {
            interrupt.interrupt();
            if let Some(progress) = limits.progress {
                progress.give_way();
            }
        }
    }
}

fn reason_to_stop(
    held: Duration,
    worked: Duration,
    plain: &File,
    limits: &Limits<'_>,
) -> Option<Abort> {
    if limits.stop.load(Ordering::Relaxed) {
        return Some(Abort::Stopped);
    }
    if limits.progress.is_some_and(Progress::is_used_up) {
        return Some(Abort::UsedUp);
    }
    if held < in_time_for(limits.hold) {
        return None;
    }
    let longest = limits.hold_unwaited.max(limits.hold);
    if worked >= in_time_for(longest) {
        return Some(Abort::Deadline(longest));
    }
    // A file that cannot be asked is taken for one that somebody waits for.
    writer(plain).unwrap_or(true).then_some(Abort::WriterWaiting)
}

/// When to stop so as to have ended by `limit`.
fn in_time_for(limit: Duration) -> Duration {
    limit.saturating_sub((limit / 5).min(STOPPING))
}

const STOPPING: Duration = Duration::from_millis(2);
/// How exactly a deadline is kept.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
