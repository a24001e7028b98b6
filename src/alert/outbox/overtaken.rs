//! Episodes that a newer one of the same alert has overtaken: their end is told no more.

use std::collections::BTreeMap;

use super::{Entry, ReceiverQueue, policy::Policy};
use crate::{alert::silence::Silence, clock::Timestamp, findings::Severity};

impl ReceiverQueue {
    /// The episodes that the receiver was told as firing, also when they have ended since, and those that fire and that it will
    /// hear of as soon as it may.
    pub(super) fn overtaking(&self, silences: &[Silence], now: Timestamp) -> Overtaking<'_> {
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
    pub(super) fn forget_overtaken(&mut self) {
        let overtaking = self.overtaking_by(|_| false);
        let overtaken = self.entries.iter().filter(|(_, entry)| overtaking.passed(entry));
        let gone: Vec<String> = overtaken.map(|(episode, _)| episode.clone()).collect();
        for episode in gone {
            self.entries.remove(&episode);
            self.touched.episodes.insert(episode);
        }
    }
}

/// Whether the receiver was told of it.
fn heard(entry: &Entry) -> bool {
    entry.notice.is_some_and(|notice| !notice.given_up)
}

/// What makes two alerts one and the same to a receiver.
pub(super) type Identity<'a> = (&'a str, &'a str, Option<Severity>);

/// Since when the newest episode of each alert is there, by its identity.
pub(super) struct Overtaking<'a> {
    policy: &'a Policy,
    since: BTreeMap<Identity<'a>, Timestamp>,
}

impl Overtaking<'_> {
    /// Whether this episode has ended, and a newer one of the same identity fires or was told.
    pub(super) fn passed(&self, entry: &Entry) -> bool {
        entry.alert.ended.is_some()
            && self
                .since
                .get(&self.policy.identity(&entry.alert))
                .is_some_and(|since| *since > entry.alert.since)
    }
}
