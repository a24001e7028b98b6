//! The shell of the alert hooks: hands every snapshot to the engine, writes down what changed, and only then sends. One
//! task owns all state; sends run beside it, one at a time for each receiver, so that a dead receiver delays no other.

pub mod alert_store;
mod heartbeat;
pub mod manager;
mod persistence;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use self::{heartbeat::Heartbeats, manager::Manager, persistence::Persistence};
use crate::{
    alert::{
        message::{Failure, Notification, Outcome},
        outbox::Recorded,
        report::AlertReport,
    },
    clock,
    config::Config,
    deliver::send::{Answer, Sender},
    sample::Snapshot,
};

/// The alert hooks of one program.
#[derive(Debug)]
pub struct Dispatch {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    configs: watch::Receiver<Arc<Config>>,
    reports: watch::Sender<Arc<AlertReport>>,
    state_dir: Option<PathBuf>,
}

/// A send that has come to its end.
struct Sent {
    receiver: String,
    notification: Notification,
    answer: Answer,
}

impl Dispatch {
    /// Hooks on these snapshots; `state_dir` must be ours alone, without one all lives in memory. What they tell of
    /// themselves comes through the channel that is handed back.
    #[must_use]
    pub fn new(
        snapshots: watch::Receiver<Arc<Snapshot>>,
        configs: watch::Receiver<Arc<Config>>,
        state_dir: Option<PathBuf>,
    ) -> (Self, watch::Receiver<Arc<AlertReport>>) {
        let (reports, seen) = watch::channel(Arc::default());
        (Self { snapshots, configs, reports, state_dir }, seen)
    }

    /// Runs until `stop`; then what is under way gets a moment to arrive, and the rest waits in the alert store.
    pub async fn run(self, stop: CancellationToken) {
        let Self { mut snapshots, mut configs, reports, state_dir } = self;
        let (mut persistence, kept) = Persistence::open(state_dir).await;
        let config = Arc::clone(&configs.borrow_and_update());
        let mut manager = Manager::new(&config, kept, clock::now());
        let mut receivers = Receivers::default();
        receivers.configure(&config);
        let mut heartbeats = Heartbeats::new(&config);
        let mut sends: JoinSet<Sent> = JoinSet::new();
        let mut log = FailureLog::default();
        loop {
            if let Some(silences) = persistence.silences().await {
                manager.set_silences(silences);
            }
            let now = clock::now();
            if let Some(kept) = persistence.late().await {
                manager.resume(kept, now);
            }
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            manager.evaluate(&snapshot, now);
            let due = manager.due(now);
            persistence.write(manager.take_rows(), || manager.all_rows()).await;
            for (name, notification) in due {
                receivers.send(&mut sends, name, notification);
            }
            heartbeats.ping(&snapshot, now, &receivers.by_name);
            let report = manager.report(persistence.persistent(), now);
            reports.send_if_modified(|before| {
                let changed = **before != report;
                if changed {
                    *before = Arc::new(report);
                }
                changed
            });
            tokio::select! {
                () = stop.cancelled() => break,
                changed = snapshots.changed() => if changed.is_err() { break },
                changed = configs.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    let config = Arc::clone(&configs.borrow_and_update());
                    for (receiver, alerts) in manager.configure(&config, clock::now()) {
                        warn!(receiver, alerts, "A receiver is gone from the configuration with alerts still waiting for it.");
                    }
                    receivers.configure(&config);
                    heartbeats.configure(&config);
                }
                Some(sent) = sends.join_next(), if !sends.is_empty() => record(&mut manager, sent, &mut log),
                () = sleep(manager.quiet_for(clock::now()).min(SILENCE_POLL)) => {}
            }
        }
        let last = async {
            while let Some(sent) = sends.join_next().await {
                record(&mut manager, sent, &mut log);
            }
        };
        if timeout(LAST_WORDS, last).await.is_err() {
            debug!("Notifications that are under way are sent again at the next start.");
        }
        persistence.finish(manager.take_rows(), || manager.all_rows()).await;
    }
}

fn record(manager: &mut Manager, sent: Result<Sent, tokio::task::JoinError>, log: &mut FailureLog) {
    let Sent { receiver, notification, answer } = match sent {
        Ok(sent) => sent,
        Err(error) => {
            // Sends are guarded against panics; this one was cancelled with the runtime.
            error!(%error, "A send came to no end.");
            return;
        }
    };
    let why = match &answer.outcome {
        Outcome::Delivered => None,
        Outcome::Retry { failure, .. } | Outcome::Rejected { failure } => {
            Some(why(*failure, &answer))
        }
    };
    manager.note_failure(&receiver, why, clock::now());
    let Some(recorded) = manager.record(&receiver, &answer.outcome, jitter(), clock::now()) else {
        return;
    };
    log.note(&receiver, &notification, &answer, recorded);
}

/// Why an attempt failed, as a person says it.
fn why(failure: Failure, answer: &Answer) -> String {
    let words = failure.words();
    match (answer.status, answer.text.trim()) {
        (Some(status), "") => format!("{words} (status {status})"),
        (Some(status), text) => format!("{words} (status {status}): {text}"),
        (None, "") => words.to_owned(),
        (None, text) => text.to_owned(),
    }
}

/// The receivers of the configuration, each with its own connections.
#[derive(Debug, Default)]
struct Receivers {
    by_name: BTreeMap<String, Arc<Sender>>,
}

impl Receivers {
    /// Those that did not change keep their connections.
    fn configure(&mut self, config: &Config) {
        let mut before = std::mem::take(&mut self.by_name);
        for wanted in &config.receivers {
            let kept = before.remove(&*wanted.name).filter(|r| **r.config() == **wanted);
            let receiver = kept.unwrap_or_else(|| Arc::new(Sender::new(Arc::clone(wanted))));
            self.by_name.insert(wanted.name.to_string(), receiver);
        }
    }

    fn send(&self, sends: &mut JoinSet<Sent>, name: String, notification: Notification) {
        let Some(receiver) = self.by_name.get(&name).map(Arc::clone) else { return };
        sends.spawn(async move {
            debug!(
                receiver = name,
                id = notification.id,
                reason = notification.reason.as_str(),
                "Sending."
            );
            let attempt = Arc::clone(&receiver);
            let again = notification.clone();
            let job = tokio::spawn(async move { attempt.send(&again, clock::now()).await });
            let answer = job.await.unwrap_or_else(|error| Answer {
                outcome: Outcome::Retry { failure: Failure::Broken, after: None, unclear: true },
                status: None,
                text: format!("the send ended early: {error}"),
                took: Duration::ZERO,
            });
            Sent { receiver: name, notification, answer }
        });
    }
}

/// Logs the first failure of a receiver and each different one, not every attempt.
#[derive(Debug, Default)]
struct FailureLog {
    said: BTreeMap<String, String>,
}

impl FailureLog {
    fn note(
        &mut self,
        receiver: &str,
        notification: &Notification,
        answer: &Answer,
        recorded: Recorded,
    ) {
        let id = &*notification.id;
        let failure = match &answer.outcome {
            Outcome::Delivered => "",
            Outcome::Retry { failure, .. } | Outcome::Rejected { failure } => failure.as_str(),
        };
        match recorded {
            Recorded::Arrived => {
                let alerts = notification.alerts.len();
                let reason = notification.reason.as_str();
                info!(receiver, id, reason, alerts, "Notification delivered.");
                self.said.remove(receiver);
            }
            Recorded::Again { pause } => {
                if self.said.get(receiver).is_none_or(|said| said != failure) {
                    self.said.insert(receiver.to_owned(), failure.to_owned());
                    let pause = pause.as_secs_f64();
                    warn!(
                        receiver,
                        id,
                        failure,
                        answer = answer.text,
                        pause,
                        "Notification not delivered; it is tried again."
                    );
                }
            }
            Recorded::GivenUp { alerts } => {
                error!(
                    receiver,
                    id,
                    failure,
                    answer = answer.text,
                    alerts,
                    "Notification given up; the receiver does not hear of these alerts."
                );
            }
        }
    }
}

/// Evenly from 0 to 1. Without the system's randomness the middle, which is only less kind to the receiver.
fn jitter() -> f64 {
    getrandom::u32().map_or(0.5, |drawn| f64::from(drawn) / f64::from(u32::MAX))
}

/// Silences of `chroma_exporter silence` are in force within this time.
const SILENCE_POLL: Duration = Duration::from_secs(1);

/// How long the end of the program waits for answers that are under way.
const LAST_WORDS: Duration = Duration::from_secs(2);
