//! What a long check shows on standard error: on a terminal one line that is drawn anew some times a second, elsewhere a
//! line of its own every few seconds.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use super::{
    super::{plain, to_stderr},
    runner::{Now, Running},
};
use crate::{
    clock, human,
    progress::{Phase, Standing},
};

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    Hidden,
    /// One line, drawn anew.
    Bar,
    /// Line after line, for a log.
    Lines,
}

impl Manner {
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

/// Runs `work` over so many stores, and shows how far it is when it takes long.
pub(super) fn shown<T: Send>(
    manner: Manner,
    stores: usize,
    work: impl FnOnce(&Running) -> T + Send,
) -> T {
    let running = Running::default();
    if manner == Manner::Hidden {
        return work(&running);
    }
    std::thread::scope(|scope| {
        let began = clock::ticks();
        let working = scope.spawn(|| {
            let done = work(&running);
            running.end();
            done
        });
        let mut drawn = false;
        while !running.wait_end(manner.pause()) && !working.is_finished() {
            // What is done sooner shows nothing.
            if manner == Manner::Bar && began.elapsed() < FIRST_AFTER {
                continue;
            }
            let line = plain(&line(&running.now(), running.stores_done(), stores, began.elapsed()));
            drawn = true;
            match manner {
                Manner::Lines => to_stderr(&format!("{line}\n")),
                _ => to_stderr(&format!("\r\x1b[2K{}", cut(&line))),
            }
        }
        if drawn && manner == Manner::Bar {
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

/// `1 of 3 stores, docs: integrity full, checking [=====     ] 50 %, 120.0 MB/s, 12 s left`.
fn line(now: &[Now], done: usize, stores: usize, elapsed: Duration) -> String {
    let mut line = format!("{done} of {stores} stores");
    for Now { store, collector, standing } in now.iter().take(SHOWN_MAX) {
        let separator = if line.ends_with("stores") { ", " } else { "; " };
        line.extend([separator, store, ": ", collector.as_str()]);
        if let Some(standing) = standing {
            line.push(' ');
            add(&mut line, standing);
        }
    }
    if now.len() > SHOWN_MAX {
        line.extend(["; and ", &(now.len() - SHOWN_MAX).to_string(), " more"]);
    }
    if now.iter().all(|now| now.standing.is_none_or(|s| s.remaining.is_none())) {
        line.extend([" (", &human::span(elapsed), ")"]);
    }
    line
}

fn add(line: &mut String, standing: &Standing) {
    line.extend([standing.task, ", ", standing.phase.as_str()]);
    if standing.phase == Phase::Waiting {
        return;
    }
    let filled = (standing.ratio * BAR as f64).floor().clamp(0.0, BAR as f64);
    // Between 0 and the width of the bar.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped above")]
    let filled = filled as usize;
    let bar = format!("{}{}", "=".repeat(filled), " ".repeat(BAR - filled));
    line.extend([" [", &bar, "] ", &format!("{:.0} %", (standing.ratio * 100.0).floor())]);
    let seconds = standing.phase_elapsed.as_secs_f64();
    if standing.done > 0 && seconds > 0.2 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        let rate = (standing.done as f64 / seconds) as u64;
        line.extend([", ", &human::bytes(rate), "/s"]);
    }
    if let Some(remaining) = standing.remaining {
        line.extend([", ", &human::span(remaining), " left"]);
    }
}

const FIRST_AFTER: Duration = Duration::from_millis(500);
const SHOWN_MAX: usize = 3;
const BAR: usize = 20;
/// Of a terminal that does not tell.
const COLUMNS: usize = 80;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CollectorName;

    #[test]
    fn who_is_shown_what() {
        for (asked, people, terminal, want) in [
            (false, true, true, Manner::Bar),
            (false, true, false, Manner::Hidden),
            (true, true, false, Manner::Lines),
            (false, false, true, Manner::Hidden), // JSON
            (true, false, true, Manner::Bar),
            (true, false, false, Manner::Lines),
        ] {
            assert_eq!(
                Manner::decide(asked, people, terminal),
                want,
                "{asked} {people} {terminal}"
            );
        }
    }

    #[test]
    fn the_line_says_what_how_fast_and_how_long() {
        let secs = Duration::from_secs;
        let standing = Standing {
            task: "full",
            phase: Phase::Checking,
            done: 400 << 20,
            total: 800 << 20,
            ratio: 0.6,
            phase_elapsed: secs(4),
            remaining: Some(secs(75)),
        };
        let now =
            |standing| Now { store: "docs".into(), collector: CollectorName::Integrity, standing };
        for (standings, want) in [
            (vec![], "1 of 3 stores (5 s)"),
            (vec![None], "1 of 3 stores, docs: integrity (5 s)"),
            (
                vec![Some(standing)],
                "1 of 3 stores, docs: integrity full, checking [============        ] 60 %, 104.9 MB/s, 1 min 15 s left",
            ),
            (
                vec![Some(Standing { phase: Phase::Waiting, remaining: None, ..standing })],
                "1 of 3 stores, docs: integrity full, waiting (5 s)",
            ),
            (
                vec![Some(Standing { done: 0, ratio: 0.0, remaining: None, ..standing })],
                "1 of 3 stores, docs: integrity full, checking [                    ] 0 % (5 s)",
            ),
            (
                vec![None, None, None, None],
                "1 of 3 stores, docs: integrity; docs: integrity; docs: integrity; and 1 more (5 s)",
            ),
        ] {
            let now: Vec<Now> = standings.into_iter().map(now).collect();
            assert_eq!(line(&now, 1, 3, secs(5)), want);
        }
    }
}
