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
    deliver::{receivers::list::Kind, send::Receiver},
    sample::Snapshot,
};

/// All heartbeat receivers.
#[derive(Debug)]
pub(super) struct Heartbeats {
    beats: BTreeMap<String, Beat>,
    /// A reading that is older than this is stale.
    fresh_for: Duration,
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
        let mut beats = Self { beats: BTreeMap::new(), fresh_for: Duration::ZERO, stale: false };
        beats.configure(config);
        beats
    }

    pub(super) fn configure(&mut self, config: &Config) {
        let collect = &config.collect;
        let slowest = collect.interval.max(collect.contents_interval).max(collect.backups_interval);
        self.fresh_for = slowest.max(collect.deadline) * 3;
        let mut before = std::mem::take(&mut self.beats);
        for receiver in &config.receivers {
            if let Kind::Heartbeat { .. } = receiver.kind {
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
        receivers: &BTreeMap<String, Arc<Receiver>>,
    ) {
        if self.beats.is_empty() {
            return;
        }
        let fresh = fresh(snapshot, self.fresh_for, now);
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
fn fresh(snapshot: &Snapshot, age_max: Duration, now: Timestamp) -> bool {
    snapshot.complete()
        && !snapshot.stores.is_empty()
        && snapshot.stores.iter().flat_map(|store| &store.readings).all(|reading| {
            let read = if reading.limited_by_place() {
                Some(reading.taken_at)
            } else {
                reading.last_success
            };
            read.is_some_and(|at| now.since(at) <= age_max)
        })
}
