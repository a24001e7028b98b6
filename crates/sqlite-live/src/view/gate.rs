//! Lets no commit pass whose journal is not open here, however short its life is.
//!
//! While no journal has its name, a SHARED lock is held in pulses. A writer can begin under it, and make and fill its
//! journal, but it cannot bring its transaction to an end; so each journal that is made meanwhile is opened, and the lock is
//! given back at that moment: before the writer has come to the point where it would wait for it. When its journal is
//! deleted, the lock is taken again before the next commit can come through. Without the gate a writer that syncs nothing
//! deletes its journal sooner than a thread without privileges that sleeps can be woken.
//!
//! The gate proves nothing. What it makes probable, `chain` proves or refuses as it does without.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use super::{
    catch::{Catcher, IDLE},
    chain::Unproven,
};
use crate::{clock, database::SharedLock};

/// How journals are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GateMode {
    /// Without a gate.
    Free,
    /// With a gate that is shut for a fraction of a millisecond after each commit, which is enough for a writer without
    /// pauses, and by a thread that stays awake meanwhile.
    Awake,
    /// With a gate that is shut for `pulse` again and again while no journal is there, and for `slow` after one was made, so
    /// that fewer commits come through while a copy is made. The thread sleeps meanwhile, and may be woken late.
    Pulses { pulse: Duration, slow: Duration },
}

/// The lock and how it is to be held.
#[derive(Debug)]
pub(super) struct Gate<'a> {
    lock: SharedLock<'a>,
    /// Longest time for which the thread sleeps with the lock in its hand: while no journal is there, and when one is.
    pulse: Duration,
    slow: Duration,
    /// Nobody came while the gate was shut, and it stays open until somebody does.
    idle: bool,
}

impl<'a> Gate<'a> {
    /// Not yet shut.
    pub(super) fn new(lock: SharedLock<'a>, mode: GateMode) -> Self {
        let (pulse, slow) = match mode {
            GateMode::Free | GateMode::Awake => (Duration::ZERO, Duration::ZERO),
            GateMode::Pulses { pulse, slow } => (pulse, slow),
        };
        Self { lock, pulse, slow, idle: false }
    }

    /// Keeps the gate until `stop` is set, handling all events, and tells the longest time for which it was shut.
    pub(super) fn run(mut self, catcher: &Catcher<'_>, stop: &AtomicBool) -> Duration {
        while !stop.load(Ordering::Acquire) {
            if let Err(error) = self.work_once(catcher) {
                tracing::debug!(%error, "The gate cannot be kept.");
                catcher.break_by(Unproven::EventsLost);
                break;
            }
        }
        // An error was told by the turn, or the lock ends with its descriptor.
        drop(self.lock.unlock());
        self.lock.longest
    }

    fn work_once(&mut self, catcher: &Catcher<'_>) -> io::Result<()> {
        // Whoever has the chain may be put aside by the scheduler: nobody waits for it with the lock in hand.
        let Some(chain) = catcher.try_drained() else {
            if self.is_over()? {
                self.lock.unlock()?;
            }
            std::thread::yield_now();
            return Ok(());
        };
        let (whole, under_way, behind) = (chain.whole(), chain.under_way(), chain.is_behind());
        drop(chain);
        if whole.is_err() {
            self.lock.unlock()?;
            return catcher.wait(IDLE);
        }
        self.idle &= !under_way;
        match (under_way, self.lock.held()) {
            // Its journal is open: let it through.
            (true, Some(held)) => {
                let wanted = if behind { self.pulse.max(self.slow) } else { self.slow };
                match wanted.checked_sub(held) {
                    Some(left) if !left.is_zero() => std::thread::sleep(left.min(STEP)),
                    _ => self.lock.unlock()?,
                }
                Ok(())
            }
            (true, None) => {
                let ended = || catcher.try_drained().is_some_and(|chain| !chain.under_way());
                if spin(|| Ok(ended()))? { Ok(()) } else { catcher.wait(IDLE) }
            }
            (false, None) if self.idle => catcher.wait(IDLE),
            (false, None) => {
                let lock = &mut self.lock;
                let came = || catcher.try_drained().is_some_and(|chain| chain.under_way());
                let shut = spin(|| Ok(lock.try_lock()? || came()))?;
                if shut { Ok(()) } else { catcher.wait(STEP) }
            }
            (false, Some(_)) => {
                let came = || catcher.try_drained().is_some_and(|chain| chain.under_way());
                if spin(|| Ok(came()))? {
                    return Ok(());
                }
                if self.pulse.is_zero() {
                    self.idle = true;
                    self.lock.unlock()
                } else if self.is_over()? {
                    self.lock.unlock()
                } else {
                    catcher.wait(STEP.min(self.pulse))
                }
            }
        }
    }

    /// Whether a pulse without a journal has lasted long enough, or somebody waits who has none. Errs when the kernel does not say.
    fn is_over(&self) -> io::Result<bool> {
        let Some(held) = self.lock.held() else { return Ok(false) };
        Ok(held >= self.pulse || self.lock.writer_waits()?)
    }
}

/// Asks again and again for a moment, because a thread that sleeps comes too late. Tells whether `ready` became true.
/// Errs when `ready` does.
fn spin(mut ready: impl FnMut() -> io::Result<bool>) -> io::Result<bool> {
    let began = clock::ticks();
    while began.elapsed() < SPIN_MAX {
        if ready()? {
            return Ok(true);
        }
        std::hint::spin_loop();
    }
    Ok(false)
}

/// Longer than a commit without sync takes, far shorter than a slice of the processor.
const SPIN_MAX: Duration = Duration::from_micros(300);
/// Longest sleep while the lock is held, or while it is asked for again and again.
const STEP: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        process::{Command, Stdio},
    };

    use super::*;
    use crate::{
        database::Database,
        wait::{SOON, wait_every},
    };

    fn wait_until(what: &str, mut is: impl FnMut() -> bool) {
        let look = || if is() { Ok(()) } else { Err("nothing".to_owned()) };
        wait_every(Duration::from_micros(200), what, SOON, look);
    }

    struct End<'a>(&'a AtomicBool);

    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Release);
        }
    }

    /// The writer waits for each step to be seen, so that nothing here depends on who is faster; that is measured by
    /// `tests/e2e/view.rs`.
    #[test]
    #[cfg_attr(not(feature = "e2e"), ignore = "needs sqlite3: run with --features e2e")]
    fn the_gate_lets_each_commit_through_whose_journal_is_open_and_misses_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chroma.sqlite3");
        rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE t(x)").unwrap();
        let database = Database::new(path.clone());
        for mode in [
            GateMode::Awake,
            GateMode::Pulses { pulse: STEP, slow: Duration::ZERO },
            GateMode::Pulses { pulse: STEP, slow: STEP },
        ] {
            let plain = database.open_plain().unwrap();
            let catcher = Catcher::new(&path, &plain).unwrap();
            assert_eq!(catcher.begin().unwrap(), Some(true));
            let gate = Gate::new(SharedLock::new(&database).unwrap(), mode);
            let mut writer = Command::new("sqlite3")
                .arg(&path)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut input = writer.stdin.take().unwrap();
            let mut answers = BufReader::new(writer.stdout.take().unwrap());
            let mut tell = |statement: &str| {
                writeln!(input, "{statement}\n.print done").unwrap();
                let mut line = String::new();
                answers.read_line(&mut line).unwrap();
                assert_eq!(line, "done\n", "{statement}");
            };
            tell(".timeout 60000");
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let watch = scope.spawn(|| gate.run(&catcher, &stop));
                // A step that fails must not leave the watch running.
                let _end = End(&stop);
                for _ in 0..5 {
                    tell("BEGIN IMMEDIATE; INSERT INTO t VALUES(1);");
                    wait_until("the journal", || catcher.lock().under_way());
                    tell("COMMIT;");
                    wait_until("the end", || !catcher.lock().under_way());
                }
                stop.store(true, Ordering::Release);
                watch.join().unwrap();
            });
            drop(input);
            assert!(writer.wait().unwrap().success());
            assert_eq!(catcher.drained().take_finished().unwrap().len(), 5, "{mode:?}");
        }
        let count = "SELECT count(*) FROM t";
        let rows: i64 = rusqlite::Connection::open(&path)
            .unwrap()
            .query_row(count, [], |row| row.get(0))
            .unwrap();
        assert_eq!(rows, 15);
    }
}
