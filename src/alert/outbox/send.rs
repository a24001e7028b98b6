//! What a queue sends next: which news is ready, in which groups, under which id.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use super::{
    About, Attempt, Entry, Next, ReceiverQueue, SUMMARY, earliest,
    overtaken::{Identity, Overtaking},
    policy::Grouping,
};
use crate::{
    alert::{
        message::{Alert, Notification, Reason},
        silence::Silence,
    },
    clock::Timestamp,
    findings::{Code, Severity, order::order},
    human,
};

impl ReceiverQueue {
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

/// More groups than this at once are told as one summary.
const STORM_GROUPS: usize = 5;
