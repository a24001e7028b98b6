//! When each check runs next: a pure function of what is known, so that restarts, changes and clocks that jump stand in a
//! table.

use std::time::Duration;

use super::{
    checks::Check,
    memory::{Content, Past},
};
use crate::{clock::Timestamp, config::Collect, sample::CheckState};

/// Time between two runs of a check that nothing brings forward.
pub(super) fn interval(check: Check, collect: &Collect) -> Duration {
    match check {
        Check::Schema | Check::Quick | Check::Decay => collect.quick_interval,
        Check::Full => collect.full_interval,
    }
}

/// When a check is to run next; a moment in the past is now. `content` is what it would be about.
///
/// A last run in the future was noted by a clock that has been set back since: how long ago it was is not known, so the
/// check is due at once, and its next run puts the note right. A clock that is set forward brings every check forward once.
pub(super) fn due(
    check: Check,
    past: Option<&Past>,
    content: Option<Content>,
    collect: &Collect,
    now: Timestamp,
) -> Timestamp {
    let at_once = Timestamp::from_secs(0);
    let Some((past, last)) = past.and_then(|past| Some((past, past.last_run?))) else {
        return at_once;
    };
    if last > now.plus(CLOCK_SLACK) {
        return at_once;
    }
    let interval = interval(check, collect);
    let took = Duration::try_from_secs_f64(past.seconds.clamp(0.0, 1e6)).unwrap_or_default();
    let wait = match past.state {
        // No verdict: again soon, but a check that costs much not often.
        CheckState::Busy | CheckState::Unknown | CheckState::Unreadable => {
            (RETRY_MIN.max(took * DUTY)).min(interval)
        }
        // After a change the cheap checks come early.
        _ if past.about != content && check != Check::Full => {
            collect.contents_interval.max(took * DUTY).min(interval)
        }
        _ => interval,
    };
    last.plus(wait)
}

/// For how long a check has been without a verdict, when that is more than twice its interval. `since` is when the store was
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
    (without > interval(check, collect) * 2).then_some(without)
}

/// Clocks are disciplined by so much while nothing is wrong.
const CLOCK_SLACK: Duration = Duration::from_mins(1);
/// Shortest time to the next try of a check that gave no verdict.
const RETRY_MIN: Duration = Duration::from_secs(30);
/// Checks after changes take at most one part in this of the time.
const DUTY: u32 = 50;

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;

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
        let due = due(check, Some(&past), content, &Collect::default(), now);
        if due.as_secs() == 0 { 0 } else { due.as_secs() - began }
    }

    #[test]
    fn a_check_that_never_ran_is_due_at_once() {
        let now = Timestamp::from_secs(1_795_000_000);
        for past in [None, Some(&Past::default())] {
            for check in Check::ALL {
                assert!(due(check, past, None, &Collect::default(), now) <= now, "{check:?}");
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
