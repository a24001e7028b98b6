//! When SQLite's own `integrity_check` is run over a copy that our reading of the file found whole, and what came of it. Two
//! that look at the same bytes must say the same, so one disagreement is a mistake of this program.

use serde::{Deserialize, Serialize};

use crate::{clock::Timestamp, sample::CheckState};

/// Whether a full check is to be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compare {
    /// It stands alone.
    No,
    /// It is, where that can be; where it cannot, the check stands alone.
    Wanted,
    /// It is not called ok without.
    Required,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Compared {
    /// Both found nothing.
    Agreed,
    /// SQLite found damage that was not seen otherwise.
    Disagreed,
    /// SQLite was not asked, or did not come to its end: why.
    NotMade(String),
    /// The check was told to stop first.
    Stopped,
}

impl Compared {
    /// Why there is nothing to compare with; `None` when there is.
    pub(super) fn why_not(&self) -> Option<&str> {
        match self {
            Self::Agreed | Self::Disagreed => None,
            Self::NotMade(why) => Some(why),
            Self::Stopped => Some("its time was over, or the program was stopping"),
        }
    }

    /// One line for `check`.
    pub(super) fn describe(this: Option<&Self>) -> String {
        match this {
            None => format!("{PRAGMA} was not run: the full check did not say ok by itself"),
            Some(Self::Agreed) => format!("{PRAGMA} of a copy agrees: it found nothing either"),
            Some(Self::Disagreed) => {
                format!(
                    "{PRAGMA} of a copy found damage that the check of this program does not see"
                )
            }
            Some(other) => {
                format!("{PRAGMA} gave no answer: {}", other.why_not().unwrap_or_default())
            }
        }
    }
}

const PRAGMA: &str = "SQLite's own integrity_check";

/// What is known of all comparisons of a store. It survives a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Comparisons {
    /// Those in which SQLite came to its end.
    pub(super) made: u64,
    /// Of these, those in which it found something else.
    pub(super) disagreements: u64,
    /// Those that were due and could not be made.
    pub(super) not_made: u64,
    /// When the last one was made.
    pub(super) last: Option<Timestamp>,
    /// Full checks with a verdict since one was last tried.
    checks_since: u32,
    /// Whether the last one that was made disagreed.
    disagrees: bool,
}

impl Comparisons {
    /// Whether the next full check is to be compared. `alone`: the program runs every check once and keeps nothing (`check`),
    /// so that none is due by count; `asked`: it was told to (`check --paranoid`).
    pub(super) fn next(&self, alone: bool, asked: bool) -> Compare {
        if self.disagrees || asked {
            // Our own ok would take back what SQLite found, and we are known not to see it.
            Compare::Required
        } else if !alone && self.checks_since.saturating_add(1) >= EVERY {
            Compare::Wanted
        } else {
            Compare::No
        }
    }

    /// Takes in what one full check gave. One that could not be compared waits as long for the next try as any other, so that a
    /// copy without room or time costs no more than one with.
    pub(super) fn note(
        &mut self,
        state: CheckState,
        compared: Option<&Compared>,
        ended: Timestamp,
    ) {
        match compared {
            Some(compared @ (Compared::Agreed | Compared::Disagreed)) => {
                self.made = self.made.saturating_add(1);
                self.last = Some(ended);
                self.checks_since = 0;
                self.disagrees = *compared == Compared::Disagreed;
                self.disagreements = self.disagreements.saturating_add(u64::from(self.disagrees));
            }
            Some(Compared::NotMade(_)) => {
                self.not_made = self.not_made.saturating_add(1);
                self.checks_since = 0;
            }
            None if matches!(state, CheckState::Ok | CheckState::Corrupt) => {
                self.checks_since = self.checks_since.saturating_add(1);
            }
            Some(Compared::Stopped) | None => {}
        }
    }
}

/// One full check in so many.
const EVERY: u32 = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_twentieth_full_check_is_compared_also_over_restarts() {
        let mut known = Comparisons::default();
        let mut compared = Vec::new();
        for check in 1..=60 {
            // A restart between any two.
            let kept = serde_json::to_string(&known).unwrap();
            known = serde_json::from_str(&kept).unwrap();
            assert_eq!(known.next(true, false), Compare::No, "none is due for `check`");
            let made = match known.next(false, false) {
                Compare::No => None,
                Compare::Wanted => {
                    compared.push(check);
                    Some(Compared::Agreed)
                }
                Compare::Required => panic!("{known:?}"),
            };
            known.note(CheckState::Ok, made.as_ref(), Timestamp::from_secs(check));
            // One without a verdict counts for nothing.
            known.note(CheckState::Busy, None, Timestamp::from_secs(check));
        }
        assert_eq!(compared, [20, 40, 60]);
        assert_eq!((known.made, known.disagreements, known.not_made), (3, 0, 0));
        assert_eq!(known.last, Some(Timestamp::from_secs(60)));
    }

    #[test]
    fn what_disagreed_is_compared_until_it_agrees_and_what_failed_is_not_tried_at_once() {
        let mut known = Comparisons::default();
        assert_eq!(known.next(true, true), Compare::Required);
        let at = Timestamp::from_secs(7);
        known.note(CheckState::Corrupt, Some(&Compared::Disagreed), at);
        for alone in [false, true] {
            assert_eq!(known.next(alone, false), Compare::Required);
        }
        let no_room = || Some(Compared::NotMade("no room".to_owned()));
        known.note(CheckState::Unknown, no_room().as_ref(), at);
        known.note(CheckState::Corrupt, None, at);
        assert_eq!(known.next(false, false), Compare::Required);
        known.note(CheckState::Ok, Some(&Compared::Agreed), at);
        assert_eq!(known.next(false, false), Compare::No);
        assert_eq!((known.made, known.disagreements, known.not_made), (2, 1, 1));

        for _ in 0..19 {
            known.note(CheckState::Ok, None, at);
        }
        assert_eq!(known.next(false, false), Compare::Wanted);
        known.note(CheckState::Ok, Some(&Compared::Stopped), at);
        assert_eq!(known.next(false, false), Compare::Wanted, "it is still due");
        known.note(CheckState::Ok, no_room().as_ref(), at);
        assert_eq!(known.next(false, false), Compare::No);
        assert_eq!((known.made, known.disagreements, known.not_made), (2, 1, 2));
    }
}
