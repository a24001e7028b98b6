//! The state of the alert manager: engine, receiver queues and silences. Everything that happens goes through here and
//! comes out as notifications to send and rows to write down; still pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use super::alert_store::{Kept, Row, json};
use crate::{
    alert::{
        engine::{Engine, Key},
        message::{Notification, Outcome},
        outbox::{About, Next, ReceiverQueue, Recorded, policy::Policy},
        report::{AlertReport, ReceiverReport},
        silence::Silence,
    },
    clock::Timestamp,
    config::{Config, alerts},
    deliver::receivers::Hears,
    sample::Snapshot,
};

/// Engine, queues and silences.
#[derive(Debug)]
pub struct Manager {
    engine: Engine,
    queues: BTreeMap<String, ReceiverQueue>,
    kinds: BTreeMap<String, &'static str>,
    silences: Vec<Silence>,
    about: About,
    touched: BTreeSet<Key>,
    rows: Vec<Row>,
    /// Why the last attempt of a receiver failed, in words; none after one that arrived.
    failures: BTreeMap<String, (Timestamp, String)>,
    /// When the first queue wants to be asked again.
    wake: Option<Timestamp>,
}

impl Manager {
    /// Goes on where `kept` left off.
    #[must_use]
    pub fn new(config: &Config, kept: Kept, now: Timestamp) -> Self {
        let mut manager = Self {
            engine: Engine::new(Vec::new(), "", kept.tracked),
            queues: BTreeMap::new(),
            kinds: BTreeMap::new(),
            silences: Vec::new(),
            about: About::default(),
            touched: BTreeSet::new(),
            rows: Vec::new(),
            failures: BTreeMap::new(),
            wake: None,
        };
        let mut deliveries = kept.deliveries;
        for (name, entries) in kept.entries {
            let delivery = deliveries.remove(&name).unwrap_or_default();
            manager.queues.insert(
                name.clone(),
                ReceiverQueue::new(&name, Policy::default(), entries, delivery),
            );
        }
        manager.configure(config, now);
        manager
    }

    /// Takes in what was written down before the start and could not be read then. What is known since goes before.
    pub fn resume(&mut self, kept: Kept, now: Timestamp) {
        self.engine.resume(kept.tracked);
        let mut deliveries = kept.deliveries;
        for (name, entries) in kept.entries {
            let delivery = deliveries.remove(&name).unwrap_or_default();
            if let Some(queue) = self.queues.get_mut(&name) {
                queue.resume(entries, delivery);
            }
        }
        for queue in self.queues.values_mut() {
            queue.sync(self.engine.firing(), now);
        }
    }

    /// Puts a configuration into force. What waits for a receiver that is no longer there is dropped; answers with how
    /// many alerts that were, by receiver.
    pub fn configure(&mut self, config: &Config, now: Timestamp) -> Vec<(String, usize)> {
        self.about = about(config);
        let rules = alerts::rules(&config.disk, &config.alerts.rules);
        self.engine.set_rules(rules, runbooks(config, &self.about));
        let reported = config.receivers.iter().filter(|r| r.hears() == Hears::Alerts);
        self.kinds = reported.clone().map(|r| (r.name.to_string(), r.word())).collect();
        self.failures.retain(|name, _| self.kinds.contains_key(name));
        let mut dropped = Vec::new();
        let gone: Vec<String> =
            self.queues.keys().filter(|name| !self.kinds.contains_key(*name)).cloned().collect();
        for name in gone {
            if let Some(queue) = self.queues.remove(&name) {
                let (waiting, _) = queue.waiting(now);
                if waiting > 0 {
                    dropped.push((name.clone(), waiting));
                }
                for episode in queue.entries().keys() {
                    let (receiver, episode) = (name.clone(), episode.clone());
                    self.rows.push(Row::Entry { receiver, episode, data: None });
                }
                self.rows.push(Row::Delivery { receiver: name, data: None });
            }
        }
        for receiver in reported {
            let policy = receiver.policy();
            if let Some(queue) = self.queues.get_mut(&*receiver.name) {
                queue.set_policy(policy);
            } else {
                let queue = ReceiverQueue::new(
                    &receiver.name,
                    policy,
                    BTreeMap::new(),
                    crate::alert::outbox::DeliveryState::default(),
                );
                self.queues.insert(receiver.name.to_string(), queue);
            }
        }
        for queue in self.queues.values_mut() {
            queue.sync(self.engine.firing(), now);
        }
        dropped
    }

    /// Other silences are in force.
    pub fn set_silences(&mut self, silences: Vec<Silence>) {
        self.silences = silences;
    }

    /// Judges a snapshot and tells the queues; answers whether anything changed.
    pub fn evaluate(&mut self, snapshot: &Snapshot, now: Timestamp) -> bool {
        let evaluated = self.engine.evaluate(snapshot, now);
        for event in &evaluated.events {
            for queue in self.queues.values_mut() {
                queue.note(event, &self.silences, now);
            }
        }
        let changed = !evaluated.touched.is_empty();
        self.touched.extend(evaluated.touched);
        changed
    }

    /// What is to be sent now, by receiver. The rows of [`Manager::take_rows`] must be written down before.
    pub fn due(&mut self, now: Timestamp) -> Vec<(String, Notification)> {
        let mut out = Vec::new();
        self.wake = None;
        for (name, queue) in &mut self.queues {
            match queue.next(&self.silences, &self.about, now) {
                Next::Send(notification) => out.push((name.clone(), notification)),
                Next::WaitUntil(at) => {
                    self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
                }
                Next::Idle => {}
            }
        }
        out
    }

    /// How long nothing can happen by itself.
    #[must_use]
    pub fn quiet_for(&self, now: Timestamp) -> Duration {
        let queues = self.wake.map_or(QUIET_MAX, |wake| wake.since(now));
        let engine = if self.engine.waits_for_time() { TICK } else { QUIET_MAX };
        queues.min(engine)
    }

    /// Takes in what became of a notification; `None` when its receiver is gone meanwhile.
    pub fn record(
        &mut self,
        receiver: &str,
        outcome: &Outcome,
        jitter: f64,
        now: Timestamp,
    ) -> Option<Recorded> {
        Some(self.queues.get_mut(receiver)?.record(outcome, jitter, now))
    }

    /// Notes in words why an attempt failed; `None` for one that arrived.
    pub fn note_failure(&mut self, receiver: &str, why: Option<String>, now: Timestamp) {
        match why {
            Some(why) => drop(self.failures.insert(receiver.to_owned(), (now, why))),
            None => drop(self.failures.remove(receiver)),
        }
    }

    /// The rows that changed since the last call.
    pub fn take_rows(&mut self) -> Vec<Row> {
        let mut rows = std::mem::take(&mut self.rows);
        for key in std::mem::take(&mut self.touched) {
            let data = self.engine.tracked().get(&key).map(json);
            rows.push(Row::Episode { key, data });
        }
        for (name, queue) in &mut self.queues {
            let touched = queue.take_touched();
            for episode in touched.episodes {
                let data = queue.entries().get(&episode).map(json);
                rows.push(Row::Entry { receiver: name.clone(), episode, data });
            }
            if touched.delivery {
                rows.push(Row::Delivery {
                    receiver: name.clone(),
                    data: Some(json(queue.delivery())),
                });
            }
        }
        rows
    }

    /// Every row that there is.
    #[must_use]
    pub fn all_rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for (key, tracked) in self.engine.tracked() {
            rows.push(Row::Episode { key: key.clone(), data: Some(json(tracked)) });
        }
        for (name, queue) in &self.queues {
            for (episode, entry) in queue.entries() {
                let (receiver, episode) = (name.clone(), episode.clone());
                rows.push(Row::Entry { receiver, episode, data: Some(json(entry)) });
            }
            rows.push(Row::Delivery { receiver: name.clone(), data: Some(json(queue.delivery())) });
        }
        rows
    }

    /// What the pages show.
    #[must_use]
    pub fn report(&self, persistent: bool, now: Timestamp) -> AlertReport {
        let receivers = self.queues.iter().map(|(name, queue)| {
            let (queued, oldest) = queue.waiting(now);
            let kind = self.kinds.get(name).copied().unwrap_or_default();
            let failure = self.failures.get(name).cloned();
            let counts = queue.counts().clone();
            (name.clone(), ReceiverReport { kind, counts, queued, oldest, failure })
        });
        let tracked = self.engine.tracked().values();
        AlertReport {
            rules: self
                .engine
                .rules()
                .iter()
                .map(|rule| (rule.name.clone(), rule.usual_severity()))
                .collect(),
            firing: self.engine.firing().cloned().collect(),
            pending: tracked.filter(|t| !t.state.firing()).map(|t| t.alert.clone()).collect(),
            receivers: receivers.collect(),
            silences: self.silences.iter().filter(|s| s.active(now)).cloned().collect(),
            persistent,
        }
    }
}

/// What every notification says of this host. Where no address is configured links lead to the one that the program listens
/// on, unless that is of this host alone, or behind a password or certificate of which nothing is known here.
#[must_use]
pub fn about(config: &Config) -> About {
    let kernel = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    let host = config.alerts.host.clone().unwrap_or_else(kernel);
    let external_url = match &*config.alerts.external_url {
        "" if config.web.config_file.is_none() => {
            listening(&config.web.listen_addresses, &kernel())
        }
        configured => configured.to_owned(),
    };
    About { host, external_url }
}

/// The address under which others reach the program, without a slash at its end; empty when there is none.
fn listening(listen: &[SocketAddr], name: &str) -> String {
    let reached = listen.iter().find(|at| !at.ip().is_loopback() && at.port() != 0);
    match reached {
        None => String::new(),
        Some(at) if at.ip().is_unspecified() => format!("http://{name}:{}", at.port()),
        Some(at) => format!("http://{at}"),
    }
}

/// What links to runbooks begin with: the exporter has them too.
#[must_use]
pub fn runbooks<'a>(config: &'a Config, about: &'a About) -> &'a str {
    match &*config.alerts.runbook_url {
        "" => &about.external_url,
        configured => configured,
    }
}

/// Nothing waits longer than this: the wall clock may be set meanwhile.
const QUIET_MAX: Duration = Duration::from_mins(1);

/// How often time alone is looked at while an alert waits for it.
const TICK: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_to_where_the_program_is_reached() {
        for (listen, want) in [
            (&["127.0.0.1:18000"][..], ""),
            (&["127.0.0.1:18000", "10.0.0.7:18001"], "http://10.0.0.7:18001"),
            (&["0.0.0.0:18000"], "http://db1:18000"),
            (&["[::]:18000"], "http://db1:18000"),
            (&["[fd00::1]:9"], "http://[fd00::1]:9"),
            (&["0.0.0.0:0"], ""),
            (&[], ""),
        ] {
            let listen: Vec<SocketAddr> = listen.iter().map(|at| at.parse().unwrap()).collect();
            assert_eq!(listening(&listen, "db1"), want, "{listen:?}");
        }
        let mut config = Config::default();
        config.web.listen_addresses = vec!["0.0.0.0:18000".parse().unwrap()];
        assert!(about(&config).external_url.ends_with(":18000"));
        assert_eq!(runbooks(&config, &about(&config)), about(&config).external_url);
        config.web.config_file = Some("/etc/web.yml".into());
        assert_eq!(about(&config).external_url, "", "nobody knows whether it is https");
        config.alerts.external_url = "https://x".to_owned();
        assert_eq!(runbooks(&config, &about(&config)), "https://x");
        config.alerts.runbook_url = "https://wiki".to_owned();
        assert_eq!(runbooks(&config, &about(&config)), "https://wiki");
    }

    #[test]
    fn the_last_failure_of_a_receiver_is_told_until_one_arrives() {
        let mut manager =
            Manager::new(&Config::default(), Kept::default(), Timestamp::from_secs(0));
        manager.note_failure("team", Some("refused".to_owned()), Timestamp::from_secs(1));
        assert_eq!(manager.failures["team"], (Timestamp::from_secs(1), "refused".to_owned()));
        manager.note_failure("team", None, Timestamp::from_secs(2));
        assert!(manager.failures.is_empty());
        manager.note_failure("gone", Some("refused".to_owned()), Timestamp::from_secs(3));
        manager.configure(&Config::default(), Timestamp::from_secs(4));
        assert!(manager.failures.is_empty(), "a receiver that is gone has no failure");
    }
}
