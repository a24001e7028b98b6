//! What became of a notification, and what a queue makes of it: told, tried again, or given up.

use std::time::Duration;

use super::{Attempt, DeliveryState, Notice, ReceiverQueue, SUMMARY, Wait};
use crate::{
    alert::message::{Notification, Outcome},
    clock::Timestamp,
};

impl ReceiverQueue {
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

/// Full jitter between nothing and 1 s, 2 s, 4 s … 5 min, but never less than a tenth of it: a receiver that is down
/// must not be asked again at once.
fn backoff(tries: u32, jitter: f64) -> Duration {
    let ceiling = Duration::from_secs(1 << tries.saturating_sub(1).min(9)).min(BACKOFF_MAX);
    ceiling.mul_f64(if jitter.is_finite() { jitter.clamp(0.1, 1.0) } else { 1.0 })
}

const BACKOFF_MAX: Duration = Duration::from_mins(5);
