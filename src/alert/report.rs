//! What the alert hooks tell of themselves, for the metrics page and the status page: plain data.

use std::{collections::BTreeMap, sync::Arc};

use super::{message::Alert, outbox::Counts, silence::Silence};
use crate::{clock::Timestamp, findings::Severity};

/// Everything at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AlertReport {
    /// Name and usual severity of every rule in force.
    pub rules: Vec<(Arc<str>, Severity)>,
    /// The alerts that fire, by store and name.
    pub firing: Vec<Alert>,
    /// Those that wait for their hold to pass, by store and name.
    pub pending: Vec<Alert>,
    /// The receivers, by name.
    pub receivers: BTreeMap<String, ReceiverReport>,
    /// The silences in force.
    pub silences: Vec<Silence>,
    /// Whether episodes and outbox are on disk; without it a restart forgets them.
    pub persistent: bool,
}

/// One receiver.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReceiverReport {
    /// The word of its `type`.
    pub kind: &'static str,
    /// What was counted since the start.
    pub counts: Counts,
    /// Alerts that wait to be told.
    pub queued: usize,
    /// Since when the oldest of them waits.
    pub oldest: Option<Timestamp>,
    /// When its last attempt failed and why, in words; `None` after one that arrived.
    pub failure: Option<(Timestamp, String)>,
}
