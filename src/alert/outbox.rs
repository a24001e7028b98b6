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

pub mod policy;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    engine::Event,
    message::{Alert, Failure, Notification, Outcome, Reason, Status},
    silence::Silence,
};
use crate::{
    clock::Timestamp,
    findings::{Code, Severity, order::order},
    human,
};
use policy::{Grouping, Policy};

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

    /// Decides what to send. A notification that is handed out is on its way until [`ReceiverQueue::record`] is called.
    pub fn next(&mut self, silences: &[Silence], about: &About, now: Timestamp) -> Next {
        self.prune(now);
        if self.sending {
            return Next::Idle;
        }
        if let Some(wait) = self.delivery.wait
            && !wait.over(now)
        {
            return Next::WaitUntil(wait.until);
        }
        if let Some(sent_at) = self.sent_at
            && now >= sent_at
            && now.since(sent_at) < self.policy.gap
        {
            return Next::WaitUntil(sent_at.plus(self.policy.gap));
        }
        if let Some(attempt) = &self.delivery.attempt {
            let again = attempt.notification.clone();
            return self.hand_out(again, now);
        }
        let mut later: Option<Timestamp> = None;
        let mut ready: BTreeMap<String, Vec<(&Entry, Reason)>> = BTreeMap::new();
        let overtaking = self.overtaking(silences, now);
        for entry in self.entries.values().filter(|entry| !overtaking.passed(entry)) {
            let Some(reason) = self.news(entry, now) else {
                later = earliest(later, self.due_at(entry));
                continue;
            };
            let telling_anew = !(reason == Reason::Resolved && entry.notice.is_some());
            if telling_anew
                && let Some(silence) = silences.iter().find(|s| s.covers(&entry.alert, now))
            {
                later = earliest(later, Some(silence.until));
                continue;
            }
            if let Some(last) = self.last_sent_at(&entry.alert.store, &entry.alert.name)
                && now >= last
                && now.since(last) < self.policy.group_interval
            {
                later = earliest(later, Some(last.plus(self.policy.group_interval)));
                continue;
            }
            let group = self.policy.group_of(&entry.alert);
            ready.entry(group).or_default().push((entry, reason));
        }
        if ready.is_empty() {
            return later.map_or(Next::Idle, Next::WaitUntil);
        }
        let notification = if self.policy.grouping == Grouping::Store && ready.len() > STORM_GROUPS
        {
            if let Some(last) = self.last_sent_at(SUMMARY, "")
                && now >= last
                && now.since(last) < self.policy.group_interval
            {
                return Next::WaitUntil(last.plus(self.policy.group_interval));
            }
            let news = ready.into_values().flatten().collect();
            self.compose(SUMMARY.to_owned(), news, &overtaking, about, now)
        } else {
            // The most urgent group first, then the one that has waited longest.
            let first = ready.into_iter().min_by_key(|(_, entries)| {
                let severity = entries.iter().map(|(entry, _)| entry.alert.severity).max();
                let oldest = entries.iter().map(|(entry, _)| entry.queued_at).min();
                (std::cmp::Reverse(severity), oldest)
            });
            let Some((group, entries)) = first else { return Next::Idle };
            self.compose(group, entries, &overtaking, about, now)
        };
        self.hand_out(notification, now)
    }

    fn hand_out(&mut self, notification: Notification, now: Timestamp) -> Next {
        if self.delivery.attempt.is_none() {
            let attempt =
                Attempt { notification: notification.clone(), began: now, unclear: false };
            self.delivery.attempt = Some(attempt);
            self.touched.delivery = true;
        }
        self.sending = true;
        self.sent_at = Some(now);
        self.counts.attempts += 1;
        Next::Send(notification)
    }

    fn compose(
        &self,
        group: String,
        mut news: Vec<(&Entry, Reason)>,
        overtaking: &Overtaking<'_>,
        about: &About,
        now: Timestamp,
    ) -> Notification {
        // What does not fit goes with the next one.
        news.sort_by_key(|(entry, _)| urgency(&entry.alert));
        news.truncate(self.policy.batch.max(1));
        let reasons: BTreeSet<Reason> = news.iter().map(|(_, reason)| *reason).collect();
        let reason = reasons.into_iter().next().unwrap_or(Reason::Firing);
        let id = notification_id(&self.name, &group, news.iter().map(|(entry, _)| *entry));
        let mut alerts: Vec<Alert> = news.iter().map(|(entry, _)| entry.alert.clone()).collect();
        let mut flaps: BTreeMap<Identity<'_>, usize> = BTreeMap::new();
        for old in self.entries.values() {
            if old.notice.is_none() && overtaking.passed(old) {
                *flaps.entry(self.policy.identity(&old.alert)).or_default() += 1 + old.alert.merged;
            }
        }
        for alert in alerts.iter_mut().filter(|alert| alert.ended.is_none()) {
            alert.merged += flaps.get(&self.policy.identity(alert)).copied().unwrap_or_default();
        }
        if self.policy.grouping == Grouping::Store && group != SUMMARY {
            let known = self.entries.values().filter(|entry| {
                entry.alert.ended.is_none()
                    && entry.notice.is_some_and(|notice| !notice.given_up)
                    && self.policy.group_of(&entry.alert) == group
                    && !news.iter().any(|(new, _)| new.alert.episode == entry.alert.episode)
            });
            let room = self.policy.batch.saturating_sub(alerts.len());
            alerts.extend(known.take(room).map(|e| Alert { known: true, ..e.alert.clone() }));
        }
        alerts.sort_by_key(urgency);
        let alerts = causes_first(alerts);
        Notification {
            id,
            group,
            reason,
            at: now,
            host: about.host.clone(),
            external_url: about.external_url.clone(),
            alerts,
            left_out: 0,
        }
    }

    /// Takes in what became of the notification that was handed out. `jitter` is drawn evenly from 0 to 1.
    pub fn record(&mut self, outcome: &Outcome, jitter: f64, now: Timestamp) -> Recorded {
        self.sending = false;
        self.touched.delivery = true;
        let Some(attempt) = self.delivery.attempt.take() else { return Recorded::Arrived };
        match outcome {
            Outcome::Delivered => {
                self.delivery = DeliveryState::default();
                self.counts.last_success = Some(now);
                self.settle(&attempt.notification, Fate::Heard, now);
                Recorded::Arrived
            }
            Outcome::Rejected { failure } => {
                self.delivery = DeliveryState::default();
                *self.counts.failed.entry(*failure).or_default() += 1;
                let fate = if attempt.unclear { Fate::PerhapsHeard } else { Fate::Unheard };
                let alerts = self.settle(&attempt.notification, fate, now);
                Recorded::GivenUp { alerts }
            }
            Outcome::Retry { failure, after, unclear } => {
                *self.counts.failed.entry(*failure).or_default() += 1;
                self.delivery.tries = self.delivery.tries.saturating_add(1);
                let pause = backoff(self.delivery.tries, jitter).max(after.unwrap_or_default());
                self.delivery.wait = Some(Wait { from: now, until: now.plus(pause) });
                let unclear = *unclear || attempt.unclear;
                if unclear && now.since(attempt.began) < self.policy.age_max {
                    self.delivery.attempt = Some(Attempt { unclear, ..attempt });
                    return Recorded::Again { pause };
                }
                if unclear {
                    let alerts = self.settle(&attempt.notification, Fate::Unheard, now);
                    return Recorded::GivenUp { alerts };
                }
                Recorded::Again { pause }
            }
        }
    }

    /// Notes what a notification told, or failed to tell for good; answers how many alerts it was about.
    fn settle(&mut self, notification: &Notification, fate: Fate, now: Timestamp) -> u64 {
        let mut count = 0;
        let unheard = fate == Fate::Unheard;
        if notification.group == SUMMARY {
            self.note_sent(SUMMARY, "", now);
        }
        for sent in notification.alerts.iter().filter(|alert| !alert.known) {
            count += 1;
            self.note_sent(&sent.store, &sent.name, now);
            self.touched.episodes.insert(sent.episode.clone());
            let Some(entry) = self.entries.get_mut(&sent.episode) else { continue };
            let was = entry.notice;
            entry.notice = Some(Notice {
                at: now,
                status: sent.status(),
                severity: sent.severity,
                tried: !sent.tried.is_empty(),
                given_up: unheard && was.is_none_or(|was| was.given_up),
            });
            let refused = fate != Fate::Heard;
            let done = sent.ended.is_some() && (refused || self.policy.resend_resolved.is_none());
            // It ended while a firing was under way that has now been given up: nobody waits for its end.
            let unawaited = unheard && was.is_none() && entry.alert.ended.is_some();
            if done || unawaited {
                self.entries.remove(&sent.episode);
            }
        }
        if fate != Fate::Heard {
            self.counts.dead_letters += count;
        }
        count
    }

    /// The episodes that the receiver was told as firing, also when they have ended since, and those that fire and that it will
    /// hear of as soon as it may.
    fn overtaking(&self, silences: &[Silence], now: Timestamp) -> Overtaking<'_> {
        self.overtaking_by(|entry| {
            entry.notice.is_some() || !silences.iter().any(|s| s.covers(&entry.alert, now))
        })
    }

    fn overtaking_by(&self, counts: impl Fn(&Entry) -> bool) -> Overtaking<'_> {
        let mut overtaking = Overtaking { policy: &self.policy, since: BTreeMap::new() };
        for entry in self.entries.values() {
            if heard(entry) || (entry.alert.ended.is_none() && counts(entry)) {
                let since = entry.alert.since;
                let newest = overtaking.since.entry(self.policy.identity(&entry.alert));
                newest.and_modify(|newest| *newest = since.max(*newest)).or_insert(since);
            }
        }
        overtaking
    }

    /// Forgets the episodes that a newer one has overtaken, once the receiver has heard of that.
    fn forget_overtaken(&mut self) {
        let overtaking = self.overtaking_by(|_| false);
        let overtaken = self.entries.iter().filter(|(_, entry)| overtaking.passed(entry));
        let gone: Vec<String> = overtaken.map(|(episode, _)| episode.clone()).collect();
        for episode in gone {
            self.entries.remove(&episode);
            self.touched.episodes.insert(episode);
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

/// Whether the receiver was told of it.
fn heard(entry: &Entry) -> bool {
    entry.notice.is_some_and(|notice| !notice.given_up)
}

/// What became of a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The receiver has it.
    Heard,
    /// It was refused for good, after an attempt that may have arrived.
    PerhapsHeard,
    /// The receiver never got it.
    Unheard,
}

/// What makes two alerts one and the same to a receiver.
type Identity<'a> = (&'a str, &'a str, Option<Severity>);

/// Since when the newest episode of each alert is there, by its identity.
struct Overtaking<'a> {
    policy: &'a Policy,
    since: BTreeMap<Identity<'a>, Timestamp>,
}

impl Overtaking<'_> {
    /// Whether this episode has ended, and a newer one of the same identity fires or was told.
    fn passed(&self, entry: &Entry) -> bool {
        entry.alert.ended.is_some()
            && self
                .since
                .get(&self.policy.identity(&entry.alert))
                .is_some_and(|since| *since > entry.alert.since)
    }
}

/// What [`ReceiverQueue::record`] made of an outcome, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded {
    /// The receiver has it.
    Arrived,
    /// It is tried again after this pause.
    Again {
        /// How long.
        pause: Duration,
    },
    /// It is not tried again.
    GivenUp {
        /// How many alerts it was about.
        alerts: u64,
    },
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

/// News before what is known, firing before ended, then the gravest, then the oldest.
fn urgency(alert: &Alert) -> (bool, bool, std::cmp::Reverse<Severity>, Timestamp, String) {
    let ended = alert.ended.is_some();
    (alert.known, ended, std::cmp::Reverse(alert.severity), alert.since, alert.key())
}

/// Among those of one store that are told anew and fire, causes stand above what they brought about.
fn causes_first(alerts: Vec<Alert>) -> Vec<Alert> {
    let (firing, rest): (Vec<Alert>, Vec<Alert>) =
        alerts.into_iter().partition(|alert| alert.ended.is_none() && !alert.known);
    let one_store = firing.windows(2).all(|pair| pair[0].store == pair[1].store);
    let codes: Option<Vec<(Code, Severity)>> =
        firing.iter().map(|alert| Some((Code::parse(&alert.code)?, alert.severity))).collect();
    // A rule of the operator's own has no place among causes.
    let firing = match codes.filter(|_| one_store) {
        None => firing,
        Some(codes) => {
            let mut firing: Vec<Option<Alert>> = firing.into_iter().map(Some).collect();
            order(&codes).into_iter().filter_map(|at| firing[at].take()).collect()
        }
    };
    firing.into_iter().chain(rest).collect()
}

/// The same for the same news, so that a program that could not write down what it sent, and was killed, sends it again under
/// the same id: receiver, group, and of each alert its episode, what is told of it and what was told before.
fn notification_id<'a>(
    receiver: &str,
    group: &str,
    news: impl Iterator<Item = &'a Entry>,
) -> String {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(receiver.as_bytes());
    part(group.as_bytes());
    for Entry { alert, notice, .. } in news {
        part(alert.episode.as_bytes());
        part(alert.status().as_str().as_bytes());
        part(alert.severity.as_str().as_bytes());
        part(&notice.map_or(0, |notice| notice.at.as_nanos()).to_le_bytes());
    }
    human::hex(&hash.finalize()[..16])
}

/// Full jitter between nothing and 1 s, 2 s, 4 s … 5 min, but never less than a tenth of it: a receiver that is down
/// must not be asked again at once.
fn backoff(tries: u32, jitter: f64) -> Duration {
    let ceiling = Duration::from_secs(1 << tries.saturating_sub(1).min(9)).min(BACKOFF_MAX);
    ceiling.mul_f64(if jitter.is_finite() { jitter.clamp(0.1, 1.0) } else { 1.0 })
}

const BACKOFF_MAX: Duration = Duration::from_mins(5);

/// More groups than this at once are told as one summary.
const STORM_GROUPS: usize = 5;

/// So many episodes of a kind that came and went unheard are told one by one.
const FLAPS_MAX: usize = 3;

/// Group of a summary over stores.
const SUMMARY: &str = "all";

/// Most episodes that a queue keeps.
pub const ENTRIES_MAX: usize = 10_000;

#[cfg(test)]
mod tests;
