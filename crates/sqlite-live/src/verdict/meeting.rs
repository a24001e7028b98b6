//! Two read transactions of the same state. As long as one of them has its lock nobody can commit, so it is enough that there
//! is a moment at which both have it.

use std::{
    sync::mpsc::{self, Receiver, RecvTimeoutError, Sender},
    time::Duration,
};

use rusqlite::{Connection, ffi};

/// What one of the two meets the other by. Who gives up drops it.
pub(super) struct Meeting {
    here: Sender<()>,
    other: Receiver<()>,
}

/// One for each.
pub(super) fn two() -> [Meeting; 2] {
    let ((here, there), (left, right)) = (mpsc::channel(), mpsc::channel());
    [Meeting { here, other: right }, Meeting { here: left, other: there }]
}

impl Meeting {
    /// Takes the lock of the transaction of `connection` and waits until the other has its own; `false` when that gave up.
    /// Ends with an error when the statement is interrupted.
    pub(super) fn meet(self, connection: &Connection) -> rusqlite::Result<bool> {
        let _: u32 = connection.query_row("PRAGMA page_count", [], |row| row.get(0))?;
        if self.here.send(()).is_err() {
            return Ok(false);
        }
        loop {
            match self.other.recv_timeout(POLL_INTERVAL) {
                Ok(()) => return Ok(true),
                Err(RecvTimeoutError::Disconnected) => return Ok(false),
                Err(RecvTimeoutError::Timeout) if connection.is_interrupted() => {
                    return Err(interrupted());
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

/// The error of a statement that was interrupted.
pub(super) fn interrupted() -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_INTERRUPT), None)
}

/// How soon an interrupt is seen.
const POLL_INTERVAL: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_have_their_lock_at_once_and_who_gives_up_holds_up_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("database");
        let writer = Connection::open(&path).unwrap();
        writer.busy_timeout(Duration::ZERO).unwrap();
        writer.execute_batch("CREATE TABLE t(x); INSERT INTO t VALUES(0)").unwrap();
        let begun = || {
            let connection = Connection::open(&path).unwrap();
            connection.busy_timeout(Duration::from_mins(2)).unwrap();
            connection.execute_batch("BEGIN").unwrap();
            connection
        };
        let seen = |connection: &Connection| -> i64 {
            connection.query_row("SELECT x FROM t", [], |row| row.get(0)).unwrap()
        };
        let [one, other] = two();
        std::thread::scope(|scope| {
            // Each reads when both are there, whoever was first; the writer comes in between.
            let reader = |meeting: Meeting| {
                let connection = begun();
                assert!(meeting.meet(&connection).unwrap());
                (seen(&connection), connection)
            };
            let first = scope.spawn(move || reader(one));
            while !first.is_finished() && writer.execute_batch("UPDATE t SET x = x + 1").is_ok() {
                // A reader comes in between.
                std::thread::sleep(POLL_INTERVAL);
            }
            let second = scope.spawn(move || reader(other));
            let ((first, _held), (second, _)) = (first.join().unwrap(), second.join().unwrap());
            assert_eq!(first, second);
        });
        let [one, other] = two();
        drop(other);
        assert!(!one.meet(&begun()).unwrap());
        let [one, _silent] = two();
        let connection = begun();
        let interrupt = connection.get_interrupt_handle();
        std::thread::scope(|scope| {
            let (over, until) = mpsc::channel::<()>();
            scope.spawn(move || {
                while until.recv_timeout(POLL_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                    interrupt.interrupt();
                }
            });
            let error = one.meet(&connection).unwrap_err();
            assert_eq!(error.sqlite_error_code(), interrupted().sqlite_error_code());
            drop(over);
        });
    }
}
