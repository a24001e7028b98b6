//! What each receiver has been told and has still to be told. A [`ReceiverQueue`] per receiver decides by itself what to send next
//! and what an answer means; it is pure, and every change of it comes back as rows to be written down before anything
//! goes out.
//!
//! The promise: at least once, in order, under a stable id. A notification that may have arrived without an answer (a timeout,
//! a kill) is sent again word for word until its outcome is known; one that was clearly refused every time is put together
//! anew, so that what happened in between merges.
//!
//! Receivers keep one incident for all episodes of a rule in a store. So the end of an episode is told before the next one
//! begins, or not at all: once a newer episode is told as firing, the end of the older one would close its incident.

mod outcome;
mod overtaken;
pub mod policy;
mod send;

pub use outcome::Recorded;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    engine::Event,
    message::{Alert, Failure, Notification, Reason, Status},
    silence::Silence,
};
use crate::{clock::Timestamp, findings::Severity};
use policy::Policy;

/// What one receiver knows of one episode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// As it stands now.
    pub alert: Alert,
    /// The last notice that the receiver got; `None` when none yet.
    #[serde(rename = "told")]
    pub notice: Option<Notice>,
    /// Since when it has something to hear.
    pub queued_at: Timestamp,
}

/// What a receiver was last sent about an episode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// When.
    pub at: Timestamp,
    /// That it fires, or that it has ended.
    pub status: Status,
    /// How grave it was then.
    pub severity: Severity,
    /// Whether it said what came of trying the repair on a copy.
    #[serde(default)]
    pub tried: bool,
    /// It was given up: refused for good, or too old. The receiver never got it.
    pub given_up: bool,
}

/// A notification on its way. Written down before the first attempt and kept until its outcome is known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// What is sent, the same each time.
    pub notification: Notification,
    /// When it was first tried.
    pub began: Timestamp,
    /// Whether an attempt may have arrived without an answer. From then on it keeps its id and its words until its outcome
    /// is known.
    #[serde(default)]
    pub unclear: bool,
}

/// How long a queue must wait. Both ends are kept, so that a clock that steps back cannot make it longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// From when.
    pub from: Timestamp,
    /// Until when.
    pub until: Timestamp,
}

impl Wait {
    fn over(self, now: Timestamp) -> bool {
        now >= self.until || now < self.from
    }
}

/// What a queue must survive a restart with, besides its entries.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DeliveryState {
    /// The notification whose outcome is not known.
    pub attempt: Option<Attempt>,
    /// Failures in a row.
    pub tries: u32,
    /// Nothing is sent before it is over.
    pub wait: Option<Wait>,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Send this, once [`ReceiverQueue::take_touched`] has been written down.
    Send(Notification),
    /// Ask again at this moment.
    WaitUntil(Timestamp),
    /// Nothing to say.
    Idle,
}

/// What is counted for the page.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Counts {
    /// Attempts made.
    pub attempts: u64,
    /// Of these, failed, by reason.
    pub failed: BTreeMap<Failure, u64>,
    /// Alerts that were given up.
    pub dead_letters: u64,
    /// When a notification last arrived.
    pub last_success: Option<Timestamp>,
}

/// The rows of a queue that must be written down.
#[derive(Debug, Default, PartialEq)]
pub struct Touched {
    /// Episodes whose entry changed or is gone.
    pub episodes: BTreeSet<String>,
    /// Whether the delivery changed.
    pub delivery: bool,
}

/// One receiver's side of everything.
#[derive(Debug)]
pub struct ReceiverQueue {
    /// Name of the receiver.
    pub name: String,
    policy: Policy,
    entries: BTreeMap<String, Entry>,
    delivery: DeliveryState,
    /// Between taking a notification and knowing what became of it.
    sending: bool,
    /// When each rule of each store was last told, for the interval of a group; when a summary was.
    recent: BTreeMap<String, BTreeMap<String, Timestamp>>,
    sent_at: Option<Timestamp>,
    counts: Counts,
    touched: Touched,
}

impl ReceiverQueue {
    /// A queue with what was written down before a restart.
    #[must_use]
    pub fn new(
        name: &str,
        policy: Policy,
        entries: BTreeMap<String, Entry>,
        mut delivery: DeliveryState,
    ) -> Self {
        if let Some(attempt) = &mut delivery.attempt {
            // Whoever was at work on it was ended before the answer came, or before it could be written down.
            attempt.unclear = true;
        }
        Self {
            name: name.to_owned(),
            policy,
            entries,
            delivery,
            sending: false,
            recent: BTreeMap::new(),
            sent_at: None,
            counts: Counts::default(),
            touched: Touched::default(),
        }
    }

    /// Takes in what was written down before a restart and comes late. What is known of an episode by now stays, and so does a
    /// notification that is on its way.
    pub fn resume(&mut self, entries: BTreeMap<String, Entry>, delivery: DeliveryState) {
        for (episode, entry) in entries {
            self.touched.episodes.insert(episode.clone());
            self.entries.entry(episode).or_insert(entry);
        }
        if self.delivery.attempt.is_none() && !self.sending {
            self.delivery = delivery;
            self.touched.delivery = true;
            if let Some(attempt) = &mut self.delivery.attempt {
                attempt.unclear = true;
            }
        }
    }

    /// Another configuration; what is queued stays.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// What it knows, by episode.
    #[must_use]
    pub fn entries(&self) -> &BTreeMap<String, Entry> {
        &self.entries
    }

    /// What else must survive a restart.
    #[must_use]
    pub fn delivery(&self) -> &DeliveryState {
        &self.delivery
    }

    /// What it counted.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The rows that changed since the last call.
    pub fn take_touched(&mut self) -> Touched {
        std::mem::take(&mut self.touched)
    }

    /// How many alerts wait to be told, and since when the oldest does.
    #[must_use]
    pub fn waiting(&self, now: Timestamp) -> (usize, Option<Timestamp>) {
        let mut count = 0;
        let mut oldest = None;
        let overtaking = self.overtaking(&[], now);
        for entry in self.entries.values().filter(|entry| !overtaking.passed(entry)) {
            let since = match self.news(entry, now) {
                None => continue,
                Some(Reason::Reminder) => self.due_at(entry),
                Some(_) => Some(entry.queued_at),
            };
            count += 1;
            oldest = earliest(oldest, since);
        }
        (count, oldest)
    }

    /// Takes in what happened.
    pub fn note(&mut self, event: &Event, silences: &[Silence], now: Timestamp) {
        match event {
            Event::Fired(alert) | Event::Escalated(alert) | Event::Tried(alert) => {
                if self.policy.accepts(alert) {
                    self.enter(alert, now);
                }
            }
            Event::Resolved(alert) => {
                let Some(entry) = self.entries.get_mut(&alert.episode) else { return };
                let heard = entry.notice.is_some_and(|notice| !notice.given_up);
                // An attempt whose outcome is not known may have told it.
                let perhaps = self.delivery.attempt.as_ref().is_some_and(|attempt| {
                    attempt.notification.alerts.iter().any(|a| a.episode == alert.episode)
                });
                let unwanted = silences.iter().any(|silence| silence.covers(alert, now));
                let worth = self.policy.send_resolved
                    && (heard
                        || perhaps
                        || (self.policy.tell_short && !unwanted && entry.notice.is_none()));
                if worth {
                    entry.alert = alert.clone();
                    entry.queued_at = now;
                    let unheard = !heard && !perhaps;
                    if unheard {
                        self.merge_flaps(alert);
                    }
                } else {
                    self.entries.remove(&alert.episode);
                }
                self.touched.episodes.insert(alert.episode.clone());
            }
        }
    }

    /// Makes sure that every alert that fires has its entry and newest words: after a start, a reload, a new receiver.
    pub fn sync<'a>(&mut self, firing: impl Iterator<Item = &'a Alert>, now: Timestamp) {
        let firing: BTreeMap<&str, &Alert> = firing.map(|alert| (&*alert.episode, alert)).collect();
        for alert in firing.values() {
            if !self.entries.contains_key(&alert.episode) && self.policy.accepts(alert) {
                self.enter(alert, now);
            }
        }
        // An episode that nobody tracks any more ended while nobody looked.
        let lost: Vec<Alert> = self
            .entries
            .values()
            .filter(|e| e.alert.ended.is_none() && !firing.contains_key(&*e.alert.episode))
            .map(|entry| Alert { ended: Some(now), ..entry.alert.clone() })
            .collect();
        for alert in lost {
            self.note(&Event::Resolved(alert), &[], now);
        }
    }

    /// Folds the oldest episodes of the same kind that came and went unheard into the next ones.
    fn merge_flaps(&mut self, alert: &Alert) {
        let mut flaps: Vec<(Timestamp, String)> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.notice.is_none() && entry.alert.ended.is_some())
            .filter(|(_, entry)| entry.alert.store == alert.store && entry.alert.name == alert.name)
            .map(|(episode, entry)| (entry.alert.since, episode.clone()))
            .collect();
        flaps.sort();
        let surplus = flaps.len().saturating_sub(FLAPS_MAX);
        for pair in flaps.windows(2).take(surplus) {
            let ((_, old), (_, next)) = (&pair[0], &pair[1]);
            let merged = self.entries.remove(old).map_or(0, |entry| entry.alert.merged + 1);
            if let Some(entry) = self.entries.get_mut(next) {
                entry.alert.merged += merged;
            }
            self.touched.episodes.extend([old.clone(), next.clone()]);
        }
    }

    fn last_sent_at(&self, store: &str, name: &str) -> Option<Timestamp> {
        self.recent.get(store)?.get(name).copied()
    }

    fn note_sent(&mut self, store: &str, name: &str, now: Timestamp) {
        self.recent.entry(store.to_owned()).or_default().insert(name.to_owned(), now);
    }

    fn enter(&mut self, alert: &Alert, now: Timestamp) {
        self.touched.episodes.insert(alert.episode.clone());
        if let Some(entry) = self.entries.get_mut(&alert.episode) {
            entry.alert = alert.clone();
            entry.queued_at = now;
            return;
        }
        if self.entries.len() >= ENTRIES_MAX {
            self.make_room();
        }
        let entry = Entry { alert: alert.clone(), notice: None, queued_at: now };
        self.entries.insert(alert.episode.clone(), entry);
    }

    /// Gives up the oldest entry, one that has ended before one that fires.
    fn make_room(&mut self) {
        let oldest = self
            .entries
            .iter()
            .min_by_key(|(_, entry)| (entry.alert.ended.is_none(), entry.queued_at))
            .map(|(episode, _)| episode.clone());
        if let Some(episode) = oldest {
            self.entries.remove(&episode);
            self.touched.episodes.insert(episode);
            self.counts.dead_letters += 1;
        }
    }

    /// What the receiver should hear of an entry, and from when on; `None` when it knows all.
    fn news(&self, entry: &Entry, now: Timestamp) -> Option<Reason> {
        let ended = entry.alert.ended.is_some();
        let Some(notice) = entry.notice else {
            return Some(if ended { Reason::Resolved } else { Reason::Firing });
        };
        let again = |interval: Duration| now < notice.at || now.since(notice.at) >= interval;
        match (notice.status, ended) {
            (Status::Firing, true) => Some(Reason::Resolved),
            (Status::Firing, false) if entry.alert.severity > notice.severity => {
                Some(Reason::Escalated)
            }
            (Status::Firing, false) if !notice.tried && !entry.alert.tried.is_empty() => {
                Some(Reason::Tried)
            }
            (Status::Firing, false) => again(self.policy.repeat).then_some(Reason::Reminder),
            (Status::Resolved, _) => {
                let keep = self.policy.resend_resolved?;
                let in_time = entry.alert.ended.is_some_and(|ended| now.since(ended) < keep);
                (in_time && again(self.policy.repeat)).then_some(Reason::Resolved)
            }
        }
    }

    /// Drops what is too old to be told, and what the receiver has heard to the end.
    fn prune(&mut self, now: Timestamp) {
        let interval = self.policy.group_interval;
        self.recent.retain(|_, names| {
            names.retain(|_, last| now >= *last && now.since(*last) < interval);
            !names.is_empty()
        });
        if self.sending || self.delivery.attempt.is_some() {
            return;
        }
        let mut gone = Vec::new();
        let mut given_up = 0;
        let age_max = self.policy.age_max;
        let keep = self.policy.resend_resolved;
        for (episode, entry) in &mut self.entries {
            let old = now.since(entry.queued_at) >= age_max;
            match (entry.notice, entry.alert.ended) {
                (Some(Notice { status: Status::Resolved, .. }), Some(ended))
                    if keep.is_none_or(|keep| now.since(ended) >= keep) =>
                {
                    gone.push(episode.clone());
                }
                (None | Some(Notice { status: Status::Firing, .. }), Some(_)) if old => {
                    given_up += 1;
                    gone.push(episode.clone());
                }
                (None, None) if old && self.delivery.tries > 0 => {
                    // It fires still, so the reminder will try again.
                    given_up += 1;
                    let severity = entry.alert.severity;
                    let tried = !entry.alert.tried.is_empty();
                    let (at, status) = (now, Status::Firing);
                    entry.notice = Some(Notice { at, status, severity, tried, given_up: true });
                    self.touched.episodes.insert(episode.clone());
                }
                _ => {}
            }
        }
        self.counts.dead_letters += given_up;
        for episode in gone {
            self.entries.remove(&episode);
            self.touched.episodes.insert(episode);
        }
        self.forget_overtaken();
    }

    /// When an entry that has no news now will have some.
    fn due_at(&self, entry: &Entry) -> Option<Timestamp> {
        let notice = entry.notice?;
        let again = notice.at.plus(self.policy.repeat);
        match notice.status {
            Status::Firing => Some(again),
            Status::Resolved => {
                let end = entry.alert.ended?.plus(self.policy.resend_resolved?);
                Some(again.min(end))
            }
        }
    }
}

/// What every notification of this host says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// Name of the host.
    pub host: String,
    /// Base of the links to the status page, without a slash at its end, or empty.
    pub external_url: String,
}

fn earliest(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// So many episodes of a kind that came and went unheard are told one by one.
const FLAPS_MAX: usize = 3;

/// Group of a summary over stores.
const SUMMARY: &str = "all";

/// Most episodes that a queue keeps.
pub const ENTRIES_MAX: usize = 10_000;

#[cfg(test)]
mod tests;
