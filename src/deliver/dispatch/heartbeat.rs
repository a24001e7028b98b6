//! The dead man's switch: a URL that is pinged only while every check is fresh. Whoever watches it on the other side
//! notices what nobody here can tell: that this program, this host or its network is gone.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::{
    alert::message::{Notification, Outcome, Reason},
    clock::{self, Ticks, Timestamp},
    config::Config,
    deliver::{receivers::Hears, send::Sender},
    sample::Snapshot,
};

/// All heartbeat receivers.
#[derive(Debug)]
pub(super) struct Heartbeats {
    beats: BTreeMap<String, Beat>,
    stale: bool,
}

#[derive(Debug)]
struct Beat {
    every: Duration,
    last: Option<Ticks>,
    job: Option<JoinHandle<()>>,
    failing: Arc<AtomicBool>,
}

impl Heartbeats {
    pub(super) fn new(config: &Config) -> Self {
        let mut beats = Self { beats: BTreeMap::new(), stale: false };
        beats.configure(config);
        beats
    }

    pub(super) fn configure(&mut self, config: &Config) {
        let mut before = std::mem::take(&mut self.beats);
        for receiver in &config.receivers {
            if receiver.hears() == Hears::Heartbeats {
                let every = receiver.repeat_interval;
                let fresh = Beat { every, last: None, job: None, failing: Arc::default() };
                let beat = before.remove(&*receiver.name).unwrap_or(fresh);
                self.beats.insert(receiver.name.to_string(), Beat { every, ..beat });
            }
        }
    }

    /// Sends what is due. A ping that has not come back keeps its receiver from another one.
    pub(super) fn ping(
        &mut self,
        snapshot: &Snapshot,
        now: Timestamp,
        receivers: &BTreeMap<String, Arc<Sender>>,
    ) {
        if self.beats.is_empty() {
            return;
        }
        let fresh = fresh(snapshot, now);
        if fresh == self.stale {
            self.stale = !fresh;
            if fresh {
                info!("Every check is fresh; heartbeats are sent.");
            } else {
                warn!("A check is not fresh; heartbeats are held back.");
            }
        }
        for (name, beat) in &mut self.beats {
            if beat.job.as_ref().is_some_and(|job| !job.is_finished()) {
                continue;
            }
            let due = beat.last.is_none_or(|last| last.elapsed() >= beat.every);
            let Some(receiver) = receivers.get(name).filter(|_| due && fresh) else { continue };
            beat.last = Some(clock::ticks());
            let (receiver, name, failing) =
                (Arc::clone(receiver), name.clone(), Arc::clone(&beat.failing));
            beat.job = Some(tokio::spawn(async move {
                let answer = receiver.send(&nothing(now), now).await;
                let fails = answer.outcome != Outcome::Delivered;
                if fails && !failing.swap(fails, Ordering::Relaxed) {
                    warn!(receiver = name, answer = answer.text, "Heartbeat not delivered.");
                } else if !fails && failing.swap(false, Ordering::Relaxed) {
                    info!(receiver = name, "Heartbeat delivered again.");
                }
            }));
        }
    }
}

/// What a heartbeat tells: that there is nothing to tell.
fn nothing(now: Timestamp) -> Notification {
    Notification {
        id: format!("{:032x}", now.as_nanos()),
        group: "heartbeat".to_owned(),
        reason: Reason::Test,
        at: now,
        host: String::new(),
        external_url: String::new(),
        alerts: Vec::new(),
        left_out: 0,
    }
}

/// Whether every collector of every store has read all that it should, and not long ago; or all that can be seen from here.
fn fresh(snapshot: &Snapshot, now: Timestamp) -> bool {
    snapshot.complete()
        && !snapshot.stores.is_empty()
        && snapshot.stores.iter().flat_map(|store| &store.readings).all(|reading| {
            let read = if reading.limited_by_place() {
                Some(reading.taken_at)
            } else {
                reading.last_success
            };
            let age_max = (reading.next_within * MISSED_MAX).max(AGE_MIN);
            read.is_some_and(|at| now.since(at) <= age_max)
        })
}

/// So many runs of a collector may fail or come late.
const MISSED_MAX: u32 = 3;

/// No reading is stale before this, however short its interval is: a busy host is no alarm.
const AGE_MIN: Duration = Duration::from_mins(3);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        collectors,
        config::{CollectorName, ServerProbe, Store},
        sample::{Observation, Reading, StoreReadings},
    };

    /// A probe every `interval`, the last one `age` ago.
    fn probed(interval: Duration, age: Duration) -> (Snapshot, Timestamp) {
        let server =
            Some(ServerProbe { interval, ..ServerProbe::at("http://127.0.0.1:8000".to_owned()) });
        let store = Store { server, ..Store::new("s", "/s") };
        let pace = collectors::at_rest(CollectorName::Server, &Config::default(), &store);
        let mut readings = StoreReadings::of_one("s", "/s", "server", Observation::default());
        let at = Timestamp::from_secs(0);
        readings.readings = vec![Arc::new(Reading {
            last_success: Some(at),
            next_within: pace.turnaround(),
            ..Arc::into_inner(readings.readings.remove(0)).unwrap()
        })];
        (Snapshot { taken_at: at, stores: vec![readings] }, at.plus(age))
    }

    #[test]
    fn a_collector_that_rests_for_long_holds_no_heartbeat_back() {
        let minutes = Duration::from_mins;
        for (interval, age, want) in [
            (Duration::from_secs(30), minutes(3), true),
            (Duration::from_secs(30), minutes(4), false),
            (minutes(5), minutes(5), true),
            (minutes(5), minutes(15), true),
            (minutes(5), minutes(16), false),
            (minutes(60), minutes(61), true),
            (minutes(60), minutes(181), false),
        ] {
            let (snapshot, now) = probed(interval, age);
            assert_eq!(fresh(&snapshot, now), want, "every {interval:?}, {age:?} ago");
        }
    }
}
