//! Silences: what nobody wants to hear of for a while. A silence holds back what would be told anew; the end of
//! something that was told is told all the same.

use serde::{Deserialize, Serialize};

use super::message::Alert;
use crate::clock::Timestamp;

/// One silence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// Eight hexadecimal digits.
    pub id: String,
    /// Shell pattern over store names; empty matches every store.
    #[serde(default)]
    pub store: String,
    /// Shell pattern over names of rules; empty matches every rule.
    #[serde(default)]
    pub alert: String,
    /// When it was made.
    pub since: Timestamp,
    /// When it ends.
    pub until: Timestamp,
    /// Why, in the words of whoever made it.
    #[serde(default)]
    pub comment: String,
    /// Who made it.
    #[serde(default)]
    pub by: String,
}

impl Silence {
    /// Whether it is in force.
    #[must_use]
    pub fn active(&self, now: Timestamp) -> bool {
        now < self.until
    }

    /// Whether it is in force for this alert.
    #[must_use]
    pub fn covers(&self, alert: &Alert, now: Timestamp) -> bool {
        self.active(now) && self.hides(alert)
    }

    /// Whether it is for this alert, whenever that is.
    #[must_use]
    pub fn hides(&self, alert: &Alert) -> bool {
        fits(&self.store, &alert.store) && fits(&self.alert, &alert.name)
    }
}

/// Whether `text` fits a shell pattern; an empty pattern fits all, a broken one only itself.
#[must_use]
pub fn fits(pattern: &str, text: &str) -> bool {
    pattern.is_empty()
        || glob::Pattern::new(pattern).map_or(pattern == text, |pattern| pattern.matches(text))
}
