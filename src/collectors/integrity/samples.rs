//! What is known of the checks, as series.

use super::{
    Cheap,
    checks::{Check, Way},
    compare::Comparisons,
    memory::{Past, SavedChecks},
};
use crate::{
    clock::Timestamp,
    progress::ProgressState,
    sample::{CheckState, Desc, Restored, Sample},
};

static STATE: Desc = Desc::gauge(
    "chroma_integrity_state",
    "Result of the last run of the check: 1 for exactly one state per check. header and journal are looked at in each run, the others are cached.",
)
.labelled(&["check", "state"]);
static LAST_RUN: Desc = Desc::gauge(
    "chroma_integrity_last_run_timestamp_seconds",
    "When the check last ended, as seconds since the epoch.",
)
.labelled(&["check"]);
static LAST_OK: Desc = Desc::gauge(
    "chroma_integrity_last_ok_timestamp_seconds",
    "When the check last ended without finding anything, as seconds since the epoch.",
)
.labelled(&["check"]);
static DURATION: Desc = Desc::gauge(
    "chroma_integrity_duration_seconds",
    "How long the last run of the check took (cached).",
)
.labelled(&["check"]);
static LOCK_HOLD: Desc = Desc::gauge(
    "chroma_integrity_lock_hold_seconds",
    "Longest time that the last run of the check held a shared lock (cached).",
)
.labelled(&["check"]);
static NEXT_DUE: Desc = Desc::gauge(
    "chroma_integrity_next_due_timestamp_seconds",
    "When the check is due next, as seconds since the epoch.",
)
.labelled(&["check"]);
static ABORTED: Desc = Desc::counter(
    "chroma_integrity_aborted_total",
    "Runs of the check that were cut short so that no writer had to wait.",
)
.labelled(&["check"]);
static PAGES: Desc =
    Desc::gauge("chroma_integrity_pages", "Pages of the database as its header states them.");

static CHECKED_PAGES: Desc = Desc::gauge(
    "chroma_integrity_checked_pages",
    "Database pages that the last run with a result looked at (cached).",
)
.labelled(&["check"]);
static COVERAGE: Desc = Desc::gauge(
    "chroma_integrity_coverage_ratio",
    "Share of the data that the last run with a result could judge, 0 to 1 (cached). For decay: the bytes whose present state is known by their hashes.",
)
.labelled(&["check"]);
static PROGRESS: Desc = Desc::gauge(
    "chroma_integrity_progress_ratio",
    "How far the running check is, 0 to 1. 0 while it waits for its turn on the disk, absent when none is running.",
)
.labelled(&["check"]);
static WAY: Desc = Desc::gauge(
    "chroma_integrity_way",
    "Where the last run of the check looked: the file, a consistent copy, or slices of rows. 1 for exactly one way per check (cached).",
)
.labelled(&["check", "way"]);

static DISAGREEMENTS: Desc = Desc::counter(
    "chroma_integrity_checker_disagreements_total",
    "Full checks that found nothing while SQLite's own integrity_check found damage in the same copy. Anything but 0 is a mistake of this program.",
);
static COMPARISONS: Desc = Desc::counter(
    "chroma_integrity_checker_comparisons_total",
    "Times that SQLite's own integrity_check finished on the copy of a full check. It runs after one in 20.",
);
static COMPARISONS_NOT_MADE: Desc = Desc::counter(
    "chroma_integrity_checker_comparisons_not_made_total",
    "Times that SQLite's own integrity_check was due after a full check and did not finish, for lack of room or time.",
);
static COMPARED: Desc = Desc::gauge(
    "chroma_integrity_checker_compared_timestamp_seconds",
    "When SQLite's own integrity_check last finished beside a full check, as seconds since the epoch. Absent until then.",
);

static EXCHANGED: Desc = Desc::gauge(
    "chroma_restore_timestamp_seconds",
    "When the content of the store was last exchanged by restore, recover or guard, as seconds since the epoch. Absent when that never was, or when the old content was deleted.",
);

pub(in crate::collectors) static DESCS: [&Desc; 17] = [
    &STATE,
    &LAST_RUN,
    &LAST_OK,
    &DURATION,
    &LOCK_HOLD,
    &NEXT_DUE,
    &ABORTED,
    &PAGES,
    &CHECKED_PAGES,
    &COVERAGE,
    &PROGRESS,
    &WAY,
    &DISAGREEMENTS,
    &COMPARISONS,
    &COMPARISONS_NOT_MADE,
    &COMPARED,
    &EXCHANGED,
];

/// When the last of these restores came to its end.
pub(super) fn exchanged(restores: &[Restored]) -> Option<Sample> {
    let last = restores.iter().map(|one| one.at).max()?;
    Some(EXCHANGED.sample(last.as_secs_f64()))
}

/// How far the check under way is.
pub(super) fn progress(state: &ProgressState) -> Sample {
    PROGRESS.with(vec![state.task.into()], state.ratio)
}

/// The samples, and the state of each check.
pub(super) fn samples(
    cheap: Option<&Cheap>,
    memory: Option<&SavedChecks>,
    due: impl Fn(Check) -> Timestamp,
    now: Timestamp,
) -> (Vec<Sample>, Vec<(&'static str, CheckState)>) {
    let mut samples = Vec::new();
    let mut states = Vec::new();
    if let Some(cheap) = cheap {
        states.push(("header", cheap.judged.header.state));
        states.push(("journal", cheap.judged.journal.state));
        for check in ["header", "journal"] {
            samples.push(LAST_RUN.with(vec![check.into()], cheap.at.as_secs_f64()));
        }
        if let Some((_, Some(header))) = cheap.judged.database {
            samples.extend(header.pages().map(|pages| PAGES.sample(f64::from(pages))));
        }
    }
    let unasked = cheap.and_then(|cheap| cheap.judged.obstacle);
    for check in Check::ALL {
        let name = check.as_str();
        let none = Past::default();
        let past = memory.and_then(|memory| memory.past(check)).unwrap_or(&none);
        let state = match unasked {
            // Damage that was proved stays; anything else was said of a file that could be opened.
            Some(obstacle) if past.state != CheckState::Corrupt => obstacle.state(),
            _ => past.state,
        };
        if check == Check::Decay && past.last_run.is_none() {
            // A program that only reads has nothing to compare with.
            continue;
        }
        states.push((name, state));
        let label = || vec![name.into()];
        samples.push(ABORTED.with(label(), past.aborted as f64));
        samples.extend(past.last_ok.map(|at| LAST_OK.with(label(), at.as_secs_f64())));
        if let Some(last) = past.last_run {
            samples.push(LAST_RUN.with(label(), last.as_secs_f64()));
            samples.push(DURATION.with(label(), past.seconds));
            samples.push(LOCK_HOLD.with(label(), past.held_seconds));
            samples.extend(past.pages.map(|n| CHECKED_PAGES.with(label(), f64::from(n))));
            samples.extend(past.coverage.map(|ratio| COVERAGE.with(label(), ratio)));
            let ways = past.way.iter().filter(|_| check != Check::Decay);
            for way in ways.flat_map(|_| Way::ALL) {
                let taken = past.way.as_deref() == Some(way.as_str());
                let labels = vec![name.into(), way.as_str().into()];
                samples.push(WAY.with(labels, f64::from(u8::from(taken))));
            }
        }
        samples.push(NEXT_DUE.with(label(), due(check).max(now).as_secs_f64()));
    }
    let none = Comparisons::default();
    let compared = memory.map_or(&none, |memory| &memory.comparisons);
    samples.push(DISAGREEMENTS.sample(compared.disagreements as f64));
    samples.push(COMPARISONS.sample(compared.made as f64));
    samples.push(COMPARISONS_NOT_MADE.sample(compared.not_made as f64));
    samples.extend(compared.last.map(|at| COMPARED.sample(at.as_secs_f64())));
    for (check, state) in &states {
        for one in CheckState::ALL {
            let value = f64::from(u8::from(one == *state));
            samples.push(STATE.with(vec![(*check).into(), one.as_str().into()], value));
        }
    }
    (samples, states)
}
