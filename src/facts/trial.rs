//! What came of a repair that was tried on a copy of a store, so that an alert says it before anybody acts.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{findings::Code, human};
use crate::clock::Timestamp;

/// One such trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// When it ended.
    pub at: Timestamp,
    /// Seconds that it took, the copy included: about as long as the repair itself.
    pub seconds: f64,
    /// The findings that it was for, by their codes.
    pub codes: Vec<String>,
    /// What came of it.
    pub came: Came,
}

/// What came of a trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Came {
    /// The copy is whole afterwards.
    Whole,
    /// It was repaired, and this is lost: the first of them, and how many there are.
    WithLosses {
        /// In words.
        first: Vec<String>,
        /// All.
        count: usize,
    },
    /// It was not repaired.
    NotRepaired {
        /// Why not.
        why: String,
    },
    /// Nothing was tried.
    Untried {
        /// Why not.
        why: String,
    },
}

impl Trial {
    /// Whether it was for a finding of this code.
    #[must_use]
    pub fn is_about(&self, code: &str) -> bool {
        self.codes.iter().any(|one| one == code)
    }

    /// In a sentence or two, for people.
    #[must_use]
    pub fn words(&self) -> String {
        let at = human::moment(self.at);
        let took = match Duration::try_from_secs_f64(self.seconds).unwrap_or_default() {
            took if took < Duration::from_secs(1) => "less than a second".to_owned(),
            took => human::span(took),
        };
        let text = match &self.came {
            Came::Whole => {
                format!("The repair was tried on a copy at {at}: nothing is lost. It took {took}.")
            }
            Came::WithLosses { first, count } => {
                let more = count.saturating_sub(first.len());
                let more = if more > 0 { format!("; and {more} more") } else { String::new() };
                let lost = first.join("; ");
                format!(
                    "The repair was tried on a copy at {at}, and this is lost: {lost}{more}. It took {took}."
                )
            }
            Came::NotRepaired { why } => {
                format!("The repair was tried on a copy at {at}, and does not help: {why}")
            }
            Came::Untried { why } => {
                format!("The repair could not be tried on a copy at {at}: {why}")
            }
        };
        human::plain(&text)
    }
}

/// The codes of these findings, in their order.
#[must_use]
pub fn names(codes: impl IntoIterator<Item = Code>) -> Vec<String> {
    codes.into_iter().map(|code| code.as_str().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_of_it_is_told_in_words() {
        let reported = |came| {
            let at = Timestamp::from_secs(1_700_000_000);
            Trial { at, seconds: 12.4, codes: vec!["fts_corrupt".to_owned()], came }.words()
        };
        for (came, want) in [
            (
                Came::Whole,
                "The repair was tried on a copy at 2023-11-14 22:13 UTC: nothing is lost. It took 12 s.",
            ),
            (
                Came::WithLosses { first: vec!["a".to_owned(), "b\u{1b}".to_owned()], count: 5 },
                "The repair was tried on a copy at 2023-11-14 22:13 UTC, and this is lost: a; b\\u{1b}; and 3 more. It took 12 s.",
            ),
            (
                Came::NotRepaired { why: "No.".to_owned() },
                "The repair was tried on a copy at 2023-11-14 22:13 UTC, and does not help: No.",
            ),
            (
                Came::Untried { why: "no room".to_owned() },
                "The repair could not be tried on a copy at 2023-11-14 22:13 UTC: no room",
            ),
        ] {
            assert_eq!(reported(came), want);
        }
        let quick = Trial {
            at: Timestamp::from_secs(0),
            seconds: 0.2,
            codes: Vec::new(),
            came: Came::Whole,
        };
        assert!(quick.words().ends_with("It took less than a second."), "{}", quick.words());
    }
}
