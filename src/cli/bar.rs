//! How far a long command is, on standard error: on a terminal one line that is drawn anew some times a second, elsewhere a line
//! of its own every few seconds. `check` has its own words for the line; backups, verify and restore have those of their steps.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use super::to_stderr;
use crate::{
    clock,
    human::{self, plain},
    repair::steps::{Step, Steps, Unit},
};

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProgressMode {
    Hidden,
    /// One line, drawn anew.
    Bar,
    /// Line after line, for a log.
    Lines,
}

impl ProgressMode {
    /// `asked`: by the flag. `people`: the report is for people.
    pub(super) fn of(asked: bool, people: bool) -> Self {
        Self::decide(asked, people, io::stderr().is_terminal())
    }

    const fn decide(asked: bool, people: bool, terminal: bool) -> Self {
        match (asked || people && terminal, terminal) {
            (false, _) => Self::Hidden,
            (true, true) => Self::Bar,
            (true, false) => Self::Lines,
        }
    }

    const fn pause(self) -> Duration {
        match self {
            Self::Lines => Duration::from_secs(5),
            _ => Duration::from_millis(250),
        }
    }
}

/// Runs `work`, and shows its steps when it takes long. Each line begins with `about`.
pub(super) fn steps<T: Send>(
    mode: ProgressMode,
    about: &str,
    steps: &Steps,
    work: impl FnOnce() -> T + Send,
) -> T {
    shown(mode, work, |elapsed| {
        let step = steps.now().map(|step| (step, step.began.elapsed()));
        line(about, step, elapsed)
    })
}

/// Runs `work`, and shows what `line` says after so long, when it takes long.
pub(super) fn shown<T: Send>(
    mode: ProgressMode,
    work: impl FnOnce() -> T + Send,
    line: impl Fn(Duration) -> String,
) -> T {
    if mode == ProgressMode::Hidden {
        return work();
    }
    let (ended, end) = (Mutex::new(false), Condvar::new());
    std::thread::scope(|scope| {
        let began = clock::ticks();
        let working = scope.spawn(|| {
            let done = work();
            *ended.lock() = true;
            end.notify_all();
            done
        });
        let mut drawn = false;
        loop {
            let mut over = ended.lock();
            end.wait_while_for(&mut over, |over| !*over, mode.pause());
            if *over || working.is_finished() {
                break;
            }
            drop(over);
            // What is done sooner shows nothing.
            if mode == ProgressMode::Bar && began.elapsed() < FIRST_AFTER {
                continue;
            }
            let line = plain(&line(began.elapsed()));
            drawn = true;
            match mode {
                ProgressMode::Lines => to_stderr(&format!("{line}\n")),
                _ => to_stderr(&format!("\r\x1b[2K{}", cut(&line))),
            }
        }
        if drawn && mode == ProgressMode::Bar {
            to_stderr("\r\x1b[2K");
        }
        drop(io::stderr().flush());
        working.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A line that would be longer than the terminal is wide could not be drawn over.
fn cut(line: &str) -> String {
    let columns = rustix::termios::tcgetwinsize(io::stderr()).map_or(0, |size| size.ws_col.into());
    let columns: usize = if columns == 0 { COLUMNS } else { columns };
    line.chars().take(columns.saturating_sub(1)).collect()
}

/// `docs: copying the database [=====     ] 50 %, 120.0 MB/s, 12 s left`. The time is that of the step; nobody knows how long
/// those after it take.
fn line(about: &str, step: Option<(Step, Duration)>, elapsed: Duration) -> String {
    let Some((step, stepped)) = step else { return format!("{about} ({})", human::span(elapsed)) };
    let mut line = format!("{about}: {}", step.what);
    let total = step.total.filter(|total| *total > 0);
    if let Some(total) = total {
        let ratio = (step.done as f64 / total as f64).min(1.0);
        line.extend([" ", &bar(ratio)]);
    }
    let seconds = stepped.as_secs_f64();
    if step.done > 0 && seconds > 0.2 {
        let rate = step.done as f64 / seconds;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        let reported = rate as u64;
        let reported = match step.unit {
            Unit::Bytes => human::bytes(reported),
            Unit::Records => format!("{} records", human::count(reported as f64)),
        };
        line.extend([", ", &reported, "/s"]);
        let left = total.map(|total| total.saturating_sub(step.done) as f64 / rate);
        if let Some(left) = left.and_then(|left| Duration::try_from_secs_f64(left).ok()) {
            line.extend([", ", &human::span(left), " left"]);
            return line;
        }
    }
    line.extend([" (", &human::span(elapsed), ")"]);
    line
}

/// `[=====     ] 50 %`.
pub(super) fn bar(ratio: f64) -> String {
    let filled = (ratio * BAR as f64).floor().clamp(0.0, BAR as f64);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped above")]
    let filled = filled as usize;
    let (full, empty) = ("=".repeat(filled), " ".repeat(BAR - filled));
    format!("[{full}{empty}] {:.0} %", (ratio * 100.0).floor())
}

const FIRST_AFTER: Duration = Duration::from_millis(500);
const BAR: usize = 20;
/// Of a terminal that does not tell.
const COLUMNS: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_shown_what() {
        for (asked, people, terminal, want) in [
            (false, true, true, ProgressMode::Bar),
            (false, true, false, ProgressMode::Hidden),
            (true, true, false, ProgressMode::Lines),
            (false, false, true, ProgressMode::Hidden), // JSON
            (true, false, true, ProgressMode::Bar),
            (true, false, false, ProgressMode::Lines),
        ] {
            assert_eq!(
                ProgressMode::decide(asked, people, terminal),
                want,
                "{asked} {people} {terminal}"
            );
        }
    }

    #[test]
    fn a_step_says_what_how_fast_and_how_long() {
        let unit = Unit::Bytes;
        let step = |done, total| Step { what: "packing", done, total, unit, began: clock::ticks() };
        for (step, want) in [
            (None, "docs (9 s)"),
            (Some(step(0, None)), "docs: packing (9 s)"),
            (Some(step(0, Some(0))), "docs: packing (9 s)"),
            (Some(step(0, Some(10))), "docs: packing [                    ] 0 % (9 s)"),
            (Some(step(400, None)), "docs: packing, 100 bytes/s (9 s)"),
            (
                Some(step(4_000, Some(16_000))),
                "docs: packing [=====               ] 25 %, 1.0 kB/s, 12 s left",
            ),
            (
                Some(Step { unit: Unit::Records, ..step(8_000, Some(16_000)) }),
                "docs: packing [==========          ] 50 %, 2,000 records/s, 4 s left",
            ),
            // More than was known.
            (
                Some(step(4_000, Some(1_000))),
                "docs: packing [====================] 100 %, 1.0 kB/s, 0 s left",
            ),
        ] {
            let step = step.map(|step| (step, Duration::from_secs(4)));
            assert_eq!(line("docs", step, Duration::from_secs(9)), want);
        }
    }

    #[test]
    fn what_the_work_gives_comes_back_whoever_is_shown_what() {
        for mode in [ProgressMode::Hidden, ProgressMode::Bar, ProgressMode::Lines] {
            assert_eq!(steps(mode, "docs", &Steps::default(), || 7), 7);
        }
    }
}
