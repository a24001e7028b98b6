//! What a receiver is notified of, and how often.

use std::time::Duration;

use crate::{alert::message::Alert, findings::Severity};

/// What may differ between receivers.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// What one notification is about.
    pub grouping: Grouping,
    /// Alerts below this severity are not sent.
    pub min_severity: Severity,
    /// Whether an alert of another severity is another alert to the receiver: to those that know alerts by their labels.
    pub severity_identifies: bool,
    /// Shell patterns of stores; empty means all.
    pub stores: Vec<glob::Pattern>,
    /// Whether a message says that an alert ended.
    pub send_resolved: bool,
    /// Whether an alert is sent that ended before it could be sent. Receivers that keep only the present state do not need it.
    pub tell_short: bool,
    /// Time between two messages about an alert that goes on.
    pub repeat: Duration,
    /// For this long after the end, the end is sent again at each `repeat`.
    pub resend_resolved: Option<Duration>,
    /// Shortest time between two notifications.
    pub gap: Duration,
    /// Shortest time between two notifications about the same rule of the same store, and between two summaries.
    pub group_interval: Duration,
    /// Most alerts in one notification, at least 1.
    pub batch: usize,
    /// What could not be delivered for this long is given up.
    pub age_max: Duration,
}

/// What one notification is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grouping {
    /// One store, or all of them when many have news at once.
    Store,
    /// One alert.
    Alert,
    /// Everything there is.
    All,
}

impl Default for Policy {
    /// For people: grouped by store, reminders every four hours.
    fn default() -> Self {
        Self {
            grouping: Grouping::Store,
            min_severity: Severity::Warning,
            severity_identifies: false,
            stores: Vec::new(),
            send_resolved: true,
            tell_short: true,
            repeat: Duration::from_hours(4),
            resend_resolved: None,
            gap: Duration::ZERO,
            group_interval: Duration::from_secs(10),
            batch: 256,
            age_max: Duration::from_hours(24),
        }
    }
}

impl Policy {
    /// What Alertmanager expects of its clients: everything again each minute while it fires, and its end for five minutes.
    #[must_use]
    pub fn alertmanager() -> Self {
        Self {
            grouping: Grouping::All,
            min_severity: Severity::Info,
            severity_identifies: true,
            tell_short: false,
            repeat: Duration::from_mins(1),
            resend_resolved: Some(Duration::from_mins(5)),
            group_interval: Duration::ZERO,
            ..Self::default()
        }
    }

    pub(super) fn accepts(&self, alert: &Alert) -> bool {
        alert.severity >= self.min_severity
            && (self.stores.is_empty() || self.stores.iter().any(|p| p.matches(&alert.store)))
    }

    /// What makes two alerts one and the same to the receiver.
    pub(super) fn identity<'a>(&self, alert: &'a Alert) -> (&'a str, &'a str, Option<Severity>) {
        (&alert.store, &alert.name, self.severity_identifies.then_some(alert.severity))
    }

    pub(super) fn group_of(&self, alert: &Alert) -> String {
        match self.grouping {
            Grouping::Store => format!("store={}", alert.store),
            Grouping::Alert => format!("store={},alert={}", alert.store, alert.name),
            Grouping::All => "all".to_owned(),
        }
    }
}
