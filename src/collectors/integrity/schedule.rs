//! When each check runs next: a pure function of what is known, so that restarts, changes and clocks that jump stand in a
//! table.

use std::time::Duration;

use super::{
    checks::Check,
    memory::{Content, Past},
};
use crate::{
    clock::Timestamp,
    collectors::rhythm::{Rhythm, WINDOW_WAIT_MAX},
    config::Collect,
    sample::CheckState,
};

/// Time between two runs of a check that nothing brings forward.
pub(super) fn interval(check: Check, collect: &Collect) -> Duration {
    match check {
        Check::Schema | Check::Quick | Check::Decay => collect.quick_check_interval,
        Check::Full => collect.full_check_interval,
    }
}

/// What moments depend on besides the check itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct When<'a> {
    pub(super) collect: &'a Collect,
    pub(super) rhythm: Rhythm<'a>,
    /// When something last came down without an end in order.
    pub(super) unclean: Option<Timestamp>,
}

/// When a check is to run next; a moment in the past is now. `content` is what it would be about.
///
/// One that never ran is due at once, and so is one that has not run since an unclean end. A last run in the future was noted
/// by a clock that has been set back since: how long ago it was is not known, so the check is due at once, and its next run
/// puts the note right. A clock that is set forward brings every check forward once.
pub(super) fn due(
    check: Check,
    past: Option<&Past>,
    content: Option<Content>,
    when: &When<'_>,
    now: Timestamp,
) -> Timestamp {
    let at_once = Timestamp::from_secs(0);
    let Some((past, last)) = past.and_then(|past| Some((past, past.last_run?))) else {
        return at_once;
    };
    if last > now.plus(CLOCK_SLACK) || when.unclean.is_some_and(|unclean| last < unclean) {
        return at_once;
    }
    let collect = when.collect;
    let interval = interval(check, collect);
    let took = Duration::try_from_secs_f64(past.seconds.clamp(0.0, 1e6)).unwrap_or_default();
    // Decay looks at names alone but for what is new or was read long ago, which is decided file by file.
    let expensive = matches!(check, Check::Quick | Check::Full);
    let rhythm = if expensive { when.rhythm } else { Rhythm { window: None, ..when.rhythm } };
    match past.state {
        // No verdict: again soon, but a check that costs much not often, and in its window.
        CheckState::Busy | CheckState::Unknown | CheckState::Unreadable => {
            let due = last.plus((RETRY_MIN.max(took * DUTY)).min(interval));
            if took < CHEAP { due } else { rhythm.admit(due, now) }
        }
        // After a change the quick check comes early.
        _ if past.about != content && check != Check::Full => {
            let wait = collect.contents_interval.max(took * DUTY).min(interval);
            rhythm.admit(last.plus(wait), now)
        }
        _ => rhythm.admit(rhythm.next(last, interval), now),
    }
}

/// After what time files that nobody wrote are read again for the sake of decay: at once when that is due and the window is
/// open, and in no case later than a missed window allows.
pub(super) fn again_after(when: &When<'_>, now: Timestamp) -> Duration {
    let interval = when.collect.full_check_interval;
    if when.rhythm.open(now) { interval } else { interval.saturating_add(WINDOW_WAIT_MAX) }
}

/// For how long a check has been without a verdict, when that is more than twice its interval, and the longest wait for a
/// window where there is one. `since` is when the store was
/// first seen, for a check that never came to one. A verdict in the future, by a clock that has been set back, is none of
/// today; the check is due at once then.
pub(super) fn overdue(
    check: Check,
    past: Option<&Past>,
    since: Timestamp,
    collect: &Collect,
    now: Timestamp,
) -> Option<Duration> {
    // What older versions kept knows good verdicts only.
    let last = past.and_then(|past| past.last_verdict.or(past.last_ok));
    let without = now.since(last.unwrap_or(since));
    let windows = collect.check_window.is_some() && matches!(check, Check::Quick | Check::Full);
    let window = if windows { WINDOW_WAIT_MAX } else { Duration::ZERO };
    (without > interval(check, collect) * 2 + window).then_some(without)
}

/// Clocks are disciplined by so much while nothing is wrong.
const CLOCK_SLACK: Duration = Duration::from_mins(1);
/// Shortest time to the next try of a check that gave no verdict.
const RETRY_MIN: Duration = Duration::from_secs(30);
/// Checks after changes take at most one part in this of the time.
const DUTY: u32 = 50;
/// A try that ended so soon has read nothing to speak of.
const CHEAP: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;

    /// Of a store whose own moments are one interval after a run at the beginning of these tests.
    fn when(collect: &Collect) -> When<'_> {
        let rhythm = Rhythm { spread: 1_795_000_000_000, window: collect.check_window.as_ref() };
        When { collect, rhythm, unclean: None }
    }

    /// Seconds from a last run at 0 that took `seconds` to the next one, on `changed` content, as it looks `at`.
    fn wait(check: Check, state: CheckState, seconds: f64, changed: bool, at: i64) -> i64 {
        let began = 1_795_000_000;
        let last = Timestamp::from_secs(began);
        let past = Past { state, last_run: Some(last), seconds, ..Past::default() };
        let other = serde_json::from_str(
            r#"{"device": 1, "inode": 2, "size_bytes": 4096, "change_counter": 5}"#,
        );
        let content = changed.then(|| other.unwrap());
        let now = Timestamp::from_secs(began + at);
        let due = due(check, Some(&past), content, &when(&Collect::default()), now);
        if due.as_secs() == 0 { 0 } else { due.as_secs() - began }
    }

    #[test]
    fn a_check_that_never_ran_is_due_at_once() {
        let now = Timestamp::from_secs(1_795_000_000);
        for past in [None, Some(&Past::default())] {
            for check in Check::ALL {
                let due = due(check, past, None, &when(&Collect::default()), now);
                assert!(due <= now, "{check:?}");
            }
        }
    }

    #[test]
    fn intervals_changes_and_retries() {
        use Check::{Full, Quick, Schema};
        use CheckState::{Busy, Corrupt, Ok, Unknown, Unreadable};
        for (check, state, seconds, changed, want) in [
            (Schema, Ok, 0.01, false, HOUR),
            (Quick, Ok, 1.0, false, HOUR),
            (Full, Ok, 1.0, false, DAY),
            (Full, Corrupt, 1.0, false, DAY),
            // after a change: a minute, or as long as the duty allows, never longer than the interval
            (Schema, Ok, 0.01, true, MINUTE),
            (Quick, Ok, 6.0, true, 5 * MINUTE),
            (Quick, Ok, 3600.0, true, HOUR),
            (Full, Ok, 1.0, true, DAY),
            // without a verdict: soon
            (Quick, Busy, 0.01, false, 30),
            (Full, Unknown, 0.01, true, 30),
            (Full, Unreadable, 12.0, false, 10 * MINUTE),
            (Full, Unknown, 1e300, false, DAY),
        ] {
            let is = wait(check, state, seconds, changed, 1);
            assert_eq!(is, want, "{check:?} {state:?} {seconds} {changed}");
        }
    }

    #[test]
    fn an_unclean_end_brings_every_check_forward_once() {
        let (began, collect) = (Timestamp::from_secs(1_795_000_000), Collect::default());
        let now = began.plus(Duration::from_mins(1));
        for (last, unclean, want) in [
            (0, None, false),
            (0, Some(-1), false), // it has run since
            (0, Some(1), true),
            (30, Some(1), false),
        ] {
            let last = Timestamp::from_secs(began.as_secs() + last);
            let past = Past { state: CheckState::Ok, last_run: Some(last), ..Past::default() };
            let unclean = unclean.map(|at: i64| Timestamp::from_secs(began.as_secs() + at));
            let when = When { unclean, ..when(&collect) };
            for check in Check::ALL {
                let due = due(check, Some(&past), None, &when, now);
                assert_eq!(due <= now, want, "{check:?} {last} {unclean:?}");
            }
        }
    }

    #[test]
    fn outside_the_window_only_what_reads_whole_files_waits() {
        use CheckState::{Ok, Unknown};
        let window = crate::facts::window::Window::parse("01:00-05:00", |_| None).unwrap();
        let collect = Collect { check_window: Some(window), ..Collect::default() };
        let at = |text: &str| {
            let moment: jiff::Timestamp = text.parse().unwrap();
            Timestamp::from_secs(moment.as_second())
        };
        // at noon, a day after the last run in the window
        let (last, noon) = (at("2026-11-25T03:00:00Z"), at("2026-11-26T12:00:00Z"));
        for (check, state, seconds, changed, waits) in [
            (Check::Schema, Ok, 0.1, false, false),
            (Check::Schema, Ok, 0.1, true, false),
            (Check::Quick, Ok, 5.0, false, true),
            (Check::Quick, Ok, 5.0, true, true),
            (Check::Full, Ok, 5.0, false, true),
            (Check::Full, Unknown, 5.0, false, true),
            (Check::Full, Unknown, 0.1, false, false), // a refusal costs nothing
            (Check::Decay, Ok, 5.0, true, false),      // what was written is noted when it is quiet
        ] {
            let other = r#"{"device": 1, "inode": 2, "size_bytes": 4096, "change_counter": 5}"#;
            let content = changed.then(|| serde_json::from_str(other).unwrap());
            let past = Past { state, seconds, last_run: Some(last), ..Past::default() };
            let due = due(check, Some(&past), content, &when(&collect), noon);
            assert_eq!(due > noon, waits, "{check:?} {state:?} {changed}");
            if waits {
                let opens = at("2026-11-27T01:00:00Z");
                assert!(due >= opens && due <= opens.plus(Duration::from_hours(4)), "{due}");
            }
        }
        let day = Duration::from_hours(24);
        assert_eq!(again_after(&when(&collect), last), day);
        assert_eq!(again_after(&when(&collect), noon), day * 3);
        assert_eq!(again_after(&when(&Collect::default()), noon), day);
        // Twice the interval of an hour is over in every window's pause.
        let past = Past { last_verdict: Some(last), ..Past::default() };
        assert_eq!(overdue(Check::Quick, Some(&past), last, &collect, noon), None);
        let much_later = last.plus(Duration::from_hours(51));
        assert!(overdue(Check::Quick, Some(&past), last, &collect, much_later).is_some());
    }

    #[test]
    fn a_clock_that_jumps_stops_no_check_and_starts_no_storm() {
        let quick = |at| wait(Check::Quick, CheckState::Ok, 1.0, false, at);
        for (jump, want) in [
            (-30, HOUR),      // disciplined
            (-2 * MINUTE, 0), // set back: at once, not after an hour and two minutes
            (-400 * DAY, 0),
            (30, HOUR),
            (400 * DAY, HOUR), // long past, so it runs; the run notes the new time
        ] {
            assert_eq!(quick(jump), want, "{jump}");
        }
        // The run that follows a jump notes the time of the new clock: the next one is an interval away again.
        assert_eq!(quick(0), HOUR);
    }

    #[test]
    fn a_check_is_overdue_after_twice_its_interval_without_a_verdict() {
        let at = Timestamp::from_secs;
        let past = |verdict: Option<i64>, ok: Option<i64>| Past {
            last_run: Some(at(9 * DAY)),
            last_verdict: verdict.map(at),
            last_ok: ok.map(at),
            ..Past::default()
        };
        let never = past(None, None);
        for (check, past, now, want) in [
            (Check::Quick, None, 2 * HOUR, None), // first seen at 0
            (Check::Quick, None, 2 * HOUR + 1, Some(2 * HOUR + 1)),
            (Check::Full, None, 2 * DAY, None),
            (Check::Full, Some(&never), 3 * DAY, Some(3 * DAY)), // tried, and given up
            (Check::Full, Some(&past(Some(DAY), None)), 3 * DAY, None),
            (Check::Full, Some(&past(Some(DAY), None)), 4 * DAY, Some(3 * DAY)),
            (Check::Schema, Some(&past(None, Some(HOUR))), 5 * HOUR, Some(4 * HOUR)),
            (Check::Full, Some(&past(Some(400 * DAY), None)), 9 * DAY, None), // the clock went back
        ] {
            let is = overdue(check, past, at(0), &Collect::default(), at(now));
            assert_eq!(is.map(|is| is.as_secs().cast_signed()), want, "{check:?} {now}");
        }
    }
}
