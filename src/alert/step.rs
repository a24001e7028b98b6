//! The life of one alert: inactive, pending, firing. Pure, so that a test is a time line.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::Timestamp;

/// What a reading says about a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Looked at, and it does not hold.
    Good,
    /// It holds.
    Bad,
    /// The reading failed or has not been taken: neither fires nor resolves.
    Unknown,
}

/// Where an alert stands. Inactive ones are not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nothing is the matter.
    #[default]
    Inactive,
    /// The condition holds, not yet for long enough.
    Pending {
        /// Since when.
        since: Timestamp,
    },
    /// It was told, or will be.
    Firing {
        /// When the condition began to hold.
        since: Timestamp,
        /// When it last held.
        bad_at: Timestamp,
    },
}

/// A change that somebody must hear of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// Began to fire.
    Fired,
    /// Ended.
    Resolved,
}

/// Advances one alert. `hold` is Prometheus' `for`: how long the condition must hold before it fires, zero for at once;
/// `keep` is `keep_firing_for`: how long it must be absent before it resolves. A repeated call with the same `now`
/// changes nothing more.
#[must_use]
pub fn step(
    (hold, keep): (Duration, Duration),
    condition: Condition,
    was: State,
    now: Timestamp,
) -> (State, Option<Transition>) {
    match (was.not_after(now), condition) {
        (was, Condition::Unknown) => (was, None),
        (State::Inactive | State::Pending { .. }, Condition::Good) => (State::Inactive, None),
        (State::Inactive, Condition::Bad) => begin(hold, now, now),
        (State::Pending { since }, Condition::Bad) => begin(hold, since, now),
        (State::Firing { since, .. }, Condition::Bad) => {
            (State::Firing { since, bad_at: now }, None)
        }
        (was @ State::Firing { bad_at, .. }, Condition::Good) => {
            if now.since(bad_at) < keep {
                (was, None)
            } else {
                (State::Inactive, Some(Transition::Resolved))
            }
        }
    }
}

fn begin(hold: Duration, since: Timestamp, now: Timestamp) -> (State, Option<Transition>) {
    if now.since(since) >= hold {
        (State::Firing { since, bad_at: now }, Some(Transition::Fired))
    } else {
        (State::Pending { since }, None)
    }
}

impl State {
    /// After the clock stepped back, moments that lie ahead would hold a pending alert back until it has caught up.
    fn not_after(self, now: Timestamp) -> Self {
        match self {
            Self::Inactive => self,
            Self::Pending { since } => Self::Pending { since: since.min(now) },
            Self::Firing { since, bad_at } => Self::Firing { since, bad_at: bad_at.min(now) },
        }
    }

    /// Whether it fires.
    #[must_use]
    pub const fn firing(self) -> bool {
        matches!(self, Self::Firing { .. })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays `minute:reading` words and gives back `minute:transition` words.
    fn play(hold: u64, keep: u64, readings: &str) -> String {
        let span = (Duration::from_secs(60 * hold), Duration::from_secs(60 * keep));
        let mut state = State::Inactive;
        let mut out = Vec::new();
        for word in readings.split_whitespace() {
            let (minute, reading) = word.split_once(':').unwrap();
            let now = Timestamp::from_secs(60 * minute.parse::<i64>().unwrap());
            let condition = match reading {
                "good" => Condition::Good,
                "bad" => Condition::Bad,
                _ => Condition::Unknown,
            };
            let (next, transition) = step(span, condition, state, now);
            assert_eq!(step(span, condition, next, now), (next, None), "{word}: repeated");
            state = next;
            if let Some(transition) = transition {
                out.push(format!("{minute}:{transition:?}").to_lowercase());
            }
        }
        out.join(" ")
    }

    #[test]
    fn alert_timelines() {
        for (hold, keep, readings, want) in [
            (0, 0, "0:good 1:bad 2:bad 3:good", "1:fired 3:resolved"),
            (5, 0, "0:bad 4:bad 5:bad 7:good", "5:fired 7:resolved"),
            (5, 0, "0:bad 4:good 5:bad 9:bad", ""), // the hold starts again
            (5, 0, "0:bad 5:bad 6:unknown 9:unknown", "5:fired"), // a failed reading is no recovery
            (5, 0, "0:bad 5:unknown 9:unknown", ""), // nor does it fire
            (5, 0, "0:bad 3:unknown 6:bad", "6:fired"), // and it does not start the hold again
            (0, 5, "0:bad 1:good 3:bad 4:good 7:good 9:good", "0:fired 9:resolved"), // flapping
            (0, 5, "0:bad 1:good 9:unknown 10:good", "0:fired 10:resolved"),
            // The clock steps back by 90 minutes: the hold is not made longer by it.
            (5, 0, "100:bad 10:bad 14:bad 15:bad", "15:fired"),
            (0, 5, "100:bad 10:good 14:good 15:good", "100:fired 15:resolved"),
            // And forwards.
            (5, 0, "0:bad 1000:bad 1001:good", "1000:fired 1001:resolved"),
        ] {
            assert_eq!(play(hold, keep, readings), want, "{hold} {keep} {readings}");
        }
    }
}
