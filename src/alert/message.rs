//! What a receiver is told: plain data that every payload is made of. A notification is kept as it is until its outcome
//! is known, so that a second attempt carries the same words under the same id.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    findings::{Remedy, Severity},
    human,
};

/// One message to one receiver: alerts of one store, or of many when a storm is told as a summary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Notification {
    /// Stable over all attempts and restarts: 32 hexadecimal digits. The receiver's key against doubles.
    pub id: String,
    /// Identifies the group over time, `store=name`, or `all` for one that spans stores.
    pub group: String,
    /// Why it is sent.
    pub reason: Reason,
    /// When it was put together.
    pub at: Timestamp,
    /// Name of this host, as the operator knows it.
    pub host: String,
    /// Base of the links to the status page, without a slash at its end; empty when none is configured.
    pub external_url: String,
    /// What it tells, firing first, then the most urgent, causes above what they brought about; never empty.
    pub alerts: Vec<Alert>,
    /// Alerts that belong to it and were left out by the bound of the receiver.
    pub left_out: usize,
}

impl Notification {
    /// Firing while at least one of its alerts fires.
    #[must_use]
    pub fn status(&self) -> Status {
        if self.alerts.iter().any(|alert| alert.status() == Status::Firing) {
            Status::Firing
        } else {
            Status::Resolved
        }
    }

    /// The highest severity of the alerts that fire, or of all of them when none does.
    #[must_use]
    pub fn severity(&self) -> Severity {
        let status = self.status();
        let alerts = self.alerts.iter().filter(|alert| alert.status() == status);
        alerts.map(|alert| alert.severity).max().unwrap_or(Severity::Info)
    }

    /// The store that all its alerts are about; `None` for a summary over stores.
    #[must_use]
    pub fn store(&self) -> Option<&str> {
        let first = self.alerts.first()?;
        self.alerts.iter().all(|alert| alert.store == first.store).then_some(&*first.store)
    }
}

/// Why a notification is sent, the weightiest first; also the `reason` of its log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// An alert began to fire.
    Firing,
    /// An alert that was told is graver now.
    Escalated,
    /// The repair of an alert that was told was tried on a copy.
    Tried,
    /// Alerts ended and nothing new began.
    Resolved,
    /// Nothing changed since the last message for the repeat interval.
    Reminder,
    /// `chroma_exporter notify`.
    Test,
}

impl Reason {
    /// The word of logs and payloads.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Firing => "firing",
            Self::Escalated => "escalated",
            Self::Tried => "tried",
            Self::Resolved => "resolved",
            Self::Reminder => "reminder",
            Self::Test => "test",
        }
    }
}

/// Whether an alert fires or has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It fires.
    Firing,
    /// It has ended.
    Resolved,
}

impl Status {
    /// The word of payloads.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Firing => "firing",
            Self::Resolved => "resolved",
        }
    }
}

/// One episode of one rule in one store, with everything that a tired person must know. Texts carry names from disk:
/// free of control characters and bounded, but not escaped for any markup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// Name of the rule: `ChromaDiskUsageHigh`.
    pub name: String,
    /// How grave it is now.
    pub severity: Severity,
    /// Value of the `store` label.
    pub store: String,
    /// The persist directory.
    pub path: String,
    /// One line: what is the matter, without numbers: `The filesystem of the directory is filling up`.
    pub summary: String,
    /// The numbers of this case; empty when there are none.
    pub evidence: String,
    /// How many findings of this kind there are; the evidence is that of the first.
    pub count: usize,
    /// The number and its limit, for rules over a series.
    pub reading: Option<Number>,
    /// The cause and what it leads to, in one sentence; empty for a rule of the operator's own.
    pub cause: String,
    /// The entry of the catalogue behind it; empty for a rule of the operator's own.
    #[serde(default)]
    pub code: String,
    /// How many records, rows or entries it is about, where those are listed one by one.
    #[serde(default)]
    pub items: u64,
    /// What to do; empty for a rule of the operator's own.
    pub remedy: Remedy,
    /// Link to the runbook; empty where no address is known, and for a rule of the operator's own.
    pub runbook: String,
    /// Labels that the operator gave the rule.
    pub labels: BTreeMap<String, String>,
    /// When it began to fire.
    pub since: Timestamp,
    /// Since when the oldest finding behind it is there, as far as it is known: an alert may begin later, after a silence of this
    /// program or a change of its rule.
    #[serde(default)]
    pub stands_since: Option<Timestamp>,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// What was put in place of the store while it fired, which may have ended it; empty when nothing was.
    #[serde(default)]
    pub done: String,
    /// What came of trying the repair on a copy; empty as long as that was not done.
    #[serde(default)]
    pub tried: String,
    /// Identifies the episode for good: 16 hexadecimal digits.
    pub episode: String,
    /// The receiver has been told and nothing changed: it stands here because its group is told whole. People need a
    /// line of it, machines all.
    #[serde(default)]
    pub known: bool,
    /// How many episodes before it came and went unheard and are told by this number only: it is flapping.
    #[serde(default)]
    pub merged: usize,
}

impl Alert {
    /// Whether it fires.
    #[must_use]
    pub fn status(&self) -> Status {
        if self.ended.is_some() { Status::Resolved } else { Status::Firing }
    }

    /// Identifies rule and store over all episodes, for receivers that keep one incident per alert.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.store, self.name)
    }
}

/// A reading beside the level that it passed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Number {
    /// The series, with its labels when it has any.
    pub series: String,
    /// What was read last while it was bad, in the unit that the name of the series ends with.
    pub value: f64,
    /// The comparison that held: `>=`.
    pub comparison: String,
    /// The level.
    pub threshold: f64,
}

impl Number {
    /// As a person says it: `87.3 % (limit 80.0 %)`, `1 d 3 h (limit 1 d 2 h)`.
    #[must_use]
    pub fn text(&self) -> String {
        format!("{} (limit {})", self.in_unit(self.value), self.in_unit(self.threshold))
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the range stands before it"
    )]
    fn in_unit(&self, value: f64) -> String {
        let family = self.series.split('{').next().unwrap_or_default();
        let unit = family.rsplit('_').next().unwrap_or_default();
        match unit {
            _ if !value.is_finite() => value.to_string(),
            "ratio" => human::ratio(value),
            "bytes" if (0.0..1e18).contains(&value) => human::bytes(value as u64),
            "seconds" if !family.ends_with("_timestamp_seconds") => {
                Duration::try_from_secs_f64(value).map_or_else(|_| rounded(value), human::span)
            }
            _ => rounded(value),
        }
    }
}

/// At most two digits after the point.
fn rounded(value: f64) -> String {
    if value.abs() >= 1e15 {
        return format!("{value:e}");
    }
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// What became of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver has it.
    Delivered,
    /// Not now. `after` is how long the receiver asked to be left alone. `unclear` when it may have it all the same
    /// (a timeout, half an answer): then the same notification is sent again under the same id.
    Retry {
        /// Why.
        failure: Failure,
        /// What it asked for.
        after: Option<Duration>,
        /// Whether it may have arrived.
        unclear: bool,
    },
    /// Never in this form: it would be refused the same way again.
    Rejected {
        /// Why.
        failure: Failure,
    },
}

/// Why an attempt failed: the closed list of the `reason` label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// The secret could not be read, or the receiver is not usable as configured.
    Config,
    /// No connection: name, route, TLS, refused.
    Connect,
    /// Nothing came in time.
    Timeout,
    /// The connection broke or the answer was no HTTP.
    Broken,
    /// 429.
    RateLimited,
    /// 4xx other than 429, a redirect, or a word that means no.
    Client,
    /// 5xx.
    Server,
    /// A success status with an answer that is none.
    Answer,
    /// The local command failed.
    Command,
}

impl Failure {
    /// All of them, so that every series can start at 0.
    pub const ALL: [Self; 9] = [
        Self::Config,
        Self::Connect,
        Self::Timeout,
        Self::Broken,
        Self::RateLimited,
        Self::Client,
        Self::Server,
        Self::Answer,
        Self::Command,
    ];

    /// The reason as a person says it.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Config => "cannot be used as it is configured",
            Self::Connect => "no connection",
            Self::Timeout => "no answer in time",
            Self::Broken => "the connection broke off",
            Self::RateLimited => "it asked for fewer messages",
            Self::Client => "it refused the message",
            Self::Server => "it had an error of its own",
            Self::Answer => "its answer made no sense",
            Self::Command => "the command failed",
        }
    }

    /// The word of the `reason` label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Broken => "broken",
            Self::RateLimited => "rate_limited",
            Self::Client => "client",
            Self::Server => "server",
            Self::Answer => "answer",
            Self::Command => "command",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_in_their_unit() {
        for (series, value, threshold, want) in [
            ("chroma_disk_used_ratio", 0.873, 0.8, "87.3 % (limit 80.0 %)"),
            ("chroma_disk_avail_bytes", 1536.0, 2_147_483_648.0, "1.5 kB (limit 2.1 GB)"),
            ("chroma_backup_age_seconds", 97_200.0, 93_600.0, "1 d 3 h (limit 1 d 2 h)"),
            ("chroma_queue_records{topic=\"a_bytes\"}", 5001.0, 5000.0, "5001 (limit 5000)"),
            ("chroma_x_timestamp_seconds", 1.5, 1.0, "1.5 (limit 1)"),
            ("chroma_x_ratio", f64::NAN, 1.0, "NaN (limit 100.0 %)"),
        ] {
            let number =
                Number { series: series.to_owned(), value, comparison: ">=".to_owned(), threshold };
            assert_eq!(number.text(), want, "{series}");
        }
    }
}
