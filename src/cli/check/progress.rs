//! The line that a long check shows on standard error.

use std::time::Duration;

use super::{
    super::bar,
    runner::{Now, Running},
};
use crate::{
    human,
    progress::{Phase, ProgressState},
};

/// Runs `work` over so many stores, and shows how far it is when it takes long.
pub(super) fn shown<T: Send>(
    mode: bar::ProgressMode,
    stores: usize,
    work: impl FnOnce(&Running) -> T + Send,
) -> T {
    let running = Running::default();
    bar::shown(
        mode,
        || work(&running),
        |elapsed| line(&running.now(), running.stores_done(), stores, elapsed),
    )
}

/// `1 of 3 stores, docs: integrity full, checking [=====     ] 50 %, 120.0 MB/s, 12 s left`.
fn line(now: &[Now], done: usize, stores: usize, elapsed: Duration) -> String {
    let mut line = format!("{done} of {stores} stores");
    for Now { store, collector, state } in now.iter().take(SHOWN_MAX) {
        let separator = if line.ends_with("stores") { ", " } else { "; " };
        line.extend([separator, store, ": ", collector.as_str()]);
        if let Some(state) = state {
            line.push(' ');
            add(&mut line, state);
        }
    }
    if now.len() > SHOWN_MAX {
        line.extend(["; and ", &(now.len() - SHOWN_MAX).to_string(), " more"]);
    }
    if now.iter().all(|now| now.state.is_none_or(|s| s.remaining.is_none())) {
        line.extend([" (", &human::span(elapsed), ")"]);
    }
    line
}

fn add(line: &mut String, state: &ProgressState) {
    line.extend([state.task, ", ", state.phase.as_str()]);
    if state.phase == Phase::Waiting {
        return;
    }
    line.extend([" ", &bar::bar(state.ratio)]);
    let seconds = state.phase_elapsed.as_secs_f64();
    if state.done > 0 && seconds > 0.2 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        let rate = (state.done as f64 / seconds) as u64;
        line.extend([", ", &human::bytes(rate), "/s"]);
    }
    if let Some(remaining) = state.remaining {
        line.extend([", ", &human::span(remaining), " left"]);
    }
}

const SHOWN_MAX: usize = 3;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CollectorName;

    #[test]
    fn the_line_says_what_how_fast_and_how_long() {
        let secs = Duration::from_secs;
        let state = ProgressState {
            task: "full",
            phase: Phase::Checking,
            done: 400 << 20,
            total: 800 << 20,
            ratio: 0.6,
            phase_elapsed: secs(4),
            remaining: Some(secs(75)),
        };
        let now = |state| Now { store: "docs".into(), collector: CollectorName::Integrity, state };
        for (states, want) in [
            (vec![], "1 of 3 stores (5 s)"),
            (vec![None], "1 of 3 stores, docs: integrity (5 s)"),
            (
                vec![Some(state)],
                "1 of 3 stores, docs: integrity full, checking [============        ] 60 %, 104.9 MB/s, 1 min 15 s left",
            ),
            (
                vec![Some(ProgressState { phase: Phase::Waiting, remaining: None, ..state })],
                "1 of 3 stores, docs: integrity full, waiting (5 s)",
            ),
            (
                vec![Some(ProgressState { done: 0, ratio: 0.0, remaining: None, ..state })],
                "1 of 3 stores, docs: integrity full, checking [                    ] 0 % (5 s)",
            ),
            (
                vec![None, None, None, None],
                "1 of 3 stores, docs: integrity; docs: integrity; docs: integrity; and 1 more (5 s)",
            ),
        ] {
            let now: Vec<Now> = states.into_iter().map(now).collect();
            assert_eq!(line(&now, 1, 3, secs(5)), want);
        }
    }
}
