//! Where readings come together, and become snapshots.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use tokio::{
    sync::{Notify, watch},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::{self, Timestamp},
    config::CollectorName,
    facts::trial::Trial,
    findings::Finding,
    firsts::Firsts,
    sample::{Observation, Reading, Snapshot, StoreReadings},
    store::Context,
};

/// Where readings come together. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Board {
    shared: Arc<BoardShared>,
}

#[derive(Debug, Default)]
struct BoardShared {
    stores: Mutex<Vec<Row>>,
    changed: Notify,
    /// Whether something has changed that nobody waits for.
    quietly: AtomicBool,
    /// How many readings have come.
    readings: AtomicU64,
}

#[derive(Debug)]
struct Row {
    readings: BTreeMap<CollectorName, Arc<Reading>>,
    empty: StoreReadings,
    /// Since when findings are there, and who waits for that to change.
    firsts: Arc<Firsts>,
    firsts_changed: Arc<Notify>,
}

impl Row {
    fn readings(&self) -> StoreReadings {
        StoreReadings {
            readings: self.readings.values().map(Arc::clone).collect(),
            firsts: Arc::clone(&self.firsts),
            ..self.empty.clone()
        }
    }
}

impl Board {
    /// Gives `context`'s store a row, in the order of the calls.
    pub fn add(&self, context: &Context) {
        let empty = StoreReadings {
            store: Arc::clone(&context.store.name),
            path: context.store.path.as_path().into(),
            readings: Vec::new(),
            firsts: Arc::default(),
            trial: None,
            collectors: context.config.enabled.len(),
        };
        self.rows().push(Row {
            readings: BTreeMap::new(),
            empty,
            firsts: Arc::default(),
            firsts_changed: Arc::default(),
        });
        self.shared.changed.notify_one();
    }

    /// How many readings have come since the start, those that say that a collector hangs among them: it grows while collectors
    /// are run at all.
    #[must_use]
    pub fn readings(&self) -> u64 {
        self.shared.readings.load(Ordering::Relaxed)
    }

    /// Puts the rows into this order.
    pub fn order<'a>(&self, names: impl Iterator<Item = &'a str>) {
        let place: BTreeMap<&str, usize> =
            names.enumerate().map(|(place, name)| (name, place)).collect();
        self.rows().sort_by_key(|row| place.get(&*row.empty.store).copied().unwrap_or(usize::MAX));
        self.shared.changed.notify_one();
    }

    /// Takes the row of a store away.
    pub fn remove(&self, store: &str) {
        self.rows().retain(|row| &*row.empty.store != store);
        self.shared.changed.notify_one();
    }

    /// Replaces the reading of one collector. The findings of the run before are added to those of a run that failed:
    /// what could not be looked at was not disproved.
    pub fn put(&self, store: &str, name: CollectorName, mut reading: Reading, woken: bool) {
        self.shared.readings.fetch_add(1, Ordering::Relaxed);
        let mut rows = self.rows();
        let Some(row) = rows.iter_mut().find(|row| &*row.empty.store == store) else { return };
        if let Some(before) = row.readings.get(&name) {
            reading.last_success = reading.last_success.or(before.last_success);
            keep_undisproved(&mut reading.observation, &before.observation.findings);
        }
        let judged = reading.answers().filter(|code| reading.judged(*code));
        let mut firsts = Firsts::clone(&row.firsts);
        if firsts.note(&reading.observation.findings, judged, reading.taken_at) {
            row.firsts = Arc::new(firsts);
            row.firsts_changed.notify_one();
        }
        let news = woken || row.readings.get(&name).is_none_or(|before| is_news(before, &reading));
        row.readings.insert(name, Arc::new(reading));
        drop(rows);
        if news {
            self.shared.changed.notify_one();
        } else {
            self.shared.quietly.store(true, Ordering::Relaxed);
        }
    }

    /// Takes in what an earlier run of the program knew of a store, and gives what is known now, and what wakes when that
    /// changes; `None` when the store is not watched any more.
    pub(super) fn resume(&self, store: &str, kept: Firsts) -> Option<(Arc<Firsts>, Arc<Notify>)> {
        let mut rows = self.rows();
        let row = rows.iter_mut().find(|row| &*row.empty.store == store)?;
        let mut firsts = Firsts::clone(&row.firsts);
        firsts.resume(kept, |code| {
            let mut readings = row.readings.values();
            readings.any(|r| r.answers().any(|known| known.as_str() == code && r.judged(known)))
        });
        row.firsts = Arc::new(firsts);
        self.shared.changed.notify_one();
        Some((Arc::clone(&row.firsts), Arc::clone(&row.firsts_changed)))
    }

    pub(super) fn firsts(&self, store: &str) -> Option<Arc<Firsts>> {
        let rows = self.rows();
        rows.iter().find(|row| &*row.empty.store == store).map(|row| Arc::clone(&row.firsts))
    }

    /// What came of trying a repair on a copy, or that there is nothing to repair.
    pub(in crate::serve) fn tried(&self, store: &str, trial: Option<Arc<Trial>>) {
        let mut rows = self.rows();
        let Some(row) = rows.iter_mut().find(|row| &*row.empty.store == store) else { return };
        if row.empty.trial != trial {
            row.empty.trial = trial;
            self.shared.changed.notify_one();
        }
    }

    /// What is known of one store now; `None` when it is not watched.
    pub(in crate::serve) fn readings_of(&self, store: &str) -> Option<StoreReadings> {
        self.rows().iter().find(|row| &*row.empty.store == store).map(Row::readings)
    }

    /// Everything known now.
    #[must_use]
    pub fn snapshot(&self, now: Timestamp) -> Snapshot {
        Snapshot { taken_at: now, stores: self.rows().iter().map(Row::readings).collect() }
    }

    /// Publishes snapshots, the newest only, until `stop`: news at once, and what nobody waits for soon.
    pub async fn publish(self, to: watch::Sender<Arc<Snapshot>>, stop: CancellationToken) {
        loop {
            let news = timeout(QUIET_PAUSE, self.shared.changed.notified());
            let Some(news) = stop.run_until_cancelled(news).await else { return };
            if !self.shared.quietly.swap(false, Ordering::Relaxed) && news.is_err() {
                continue;
            }
            to.send_replace(Arc::new(self.snapshot(clock::now())));
            tokio::time::sleep(PUBLISH_PAUSE).await;
        }
    }

    fn rows(&self) -> MutexGuard<'_, Vec<Row>> {
        self.shared.stores.lock()
    }
}

/// Whether a reading says something else than the one before, beside numbers and times.
pub(super) fn is_news(before: &Reading, now: &Reading) -> bool {
    let (before, now) = (&before.observation, &now.observation);
    let found = |seen: &Observation| -> Vec<_> {
        seen.findings.iter().map(|f| (f.code, f.severity, f.subject.clone(), f.kept)).collect()
    };
    before.problems.len() != now.problems.len()
        || before.checks != now.checks
        || before.judged != now.judged
        || before.unjudged != now.unjudged
        || before.findings.len() != now.findings.len()
        || found(before) != found(now)
}

/// What the run before found and this one neither found nor disproved.
pub(super) fn keep_undisproved(seen: &mut Observation, before: &[Finding]) {
    let kept: Vec<Finding> = before
        .iter()
        .filter(|f| !seen.disproves(f.code))
        .filter(|f| !seen.findings.iter().any(|g| g.code == f.code && g.subject == f.subject))
        .map(|f| Finding { kept: true, ..f.clone() })
        .collect();
    seen.findings.extend(kept);
}

/// Snapshots follow each other at least this far apart, so that many stores cost one page, not many.
const PUBLISH_PAUSE: Duration = Duration::from_millis(20);

/// The same when nothing but numbers and times has changed, and no event asked for the look.
const QUIET_PAUSE: Duration = Duration::from_millis(500);
