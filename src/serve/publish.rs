//! Turns snapshots into the bytes that `http` serves: the metrics page, and what people look at, the status page and its
//! document. Runs beside the server and hands over one finished object after another, so that a request never waits for an
//! encoder. It also keeps the last hours of a few figures, because it is where every snapshot comes by.

mod body;
mod page;
mod past;
mod usage;

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

pub use self::{
    body::Body,
    page::{CONTENT_SECURITY_POLICY, runbook_index, runbook_page},
};

use crate::{
    alert::report::AlertReport,
    clock::{self, Ticks},
    config::Config,
    deliver::dispatch::manager,
    host::Host,
    metrics::{self, Facts, Own, Page},
    sample::Snapshot,
    status::{figures::Figures, live::Live},
};

/// Metrics pages follow each other at least this far apart: a file event reaches the next scrape well within a second.
const PAUSE: Duration = Duration::from_millis(250);

/// The same for what people look at.
const STATUS_PAUSE: Duration = Duration::from_secs(1);

/// No page is older than this for want of processor time, however many stores there are.
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// A pause is at least so many times as long as making the pages took, so that encoding costs at most 0.5 % of a core, one
/// half for each kind; that of the metrics is never longer than the interval of the collectors.
const PAUSE_PER_COST: u32 = 400;

/// The same until every collector has run once: people and scrapers wait for that.
const FIRST_PAUSE_PER_COST: u32 = 2;

/// Everything that the server needs, ready to be written to a socket.
#[derive(Debug, Clone)]
pub struct Published {
    /// The metrics page.
    pub metrics: Page,
    /// The status page, HTML.
    pub index: Body,
    /// `/api/v1/status`, JSON.
    pub status: Body,
    /// What they were made of.
    pub snapshot: Arc<Snapshot>,
    /// Whether every collector of every store had run once at some moment up to now.
    pub ready: bool,
}

/// Makes pages of snapshots.
#[derive(Debug)]
pub struct Publisher {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    configs: watch::Receiver<Arc<Config>>,
    pages: watch::Sender<Arc<Published>>,
    maker: Maker,
}

impl Publisher {
    /// Makes the first page at once, so that there is always one to serve. The snapshot that the channel was made with
    /// does not count for readiness: it only says that nothing has begun. Errs when the page cannot be encoded.
    pub fn new(
        snapshots: watch::Receiver<Arc<Snapshot>>,
        configs: watch::Receiver<Arc<Config>>,
        alerts: watch::Receiver<Arc<AlertReport>>,
        host: Arc<Host>,
        own: Own,
        telemetry_path: &str,
    ) -> prometheus::Result<(Self, watch::Receiver<Arc<Published>>)> {
        let config = Arc::clone(&configs.borrow());
        let mut maker = Maker {
            alerts,
            past: past::Past::resume(Arc::clone(&host), clock::now()),
            host,
            own,
            process: usage::OwnProcess::new(),
            telemetry_path: telemetry_path.to_owned(),
            people: People::default(),
            run: format!("{:x}", clock::now().as_nanos()),
        };
        let snapshot = Arc::clone(&snapshots.borrow());
        let first = maker.make(&snapshot, &config, false)?;
        let (pages, published) = watch::channel(Arc::new(first));
        Ok((Self { snapshots, configs, pages, maker }, published))
    }

    /// Makes a page of the newest snapshot whenever there is one, and at every interval of the collectors so that what
    /// the program tells of itself stays fresh, until `stop` or until nobody makes snapshots any more.
    pub async fn run(self, stop: CancellationToken) {
        let Self { mut snapshots, configs, pages, mut maker } = self;
        let mut alerts = maker.alerts.clone();
        let (mut begun, mut ready) = (false, false);
        let mut said = LastLogged::default();
        loop {
            let config = Arc::clone(&configs.borrow());
            // What people look at may be due before anything new comes.
            let quiet = maker.people.wait().map_or(config.collect.interval, |wait| {
                wait.clamp(PAUSE, config.collect.interval.max(PAUSE))
            });
            tokio::select! {
                () = stop.cancelled() => break,
                changed = snapshots.changed() => match changed {
                    Ok(()) => begun = true,
                    Err(_) => break,
                },
                // The hooks end before the pages do.
                Ok(()) = alerts.changed() => {}
                () = tokio::time::sleep(quiet) => {}
            }
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            ready |= begun && snapshot.complete();
            let interval = config.collect.interval;
            // Encoding many stores takes milliseconds, which requests on this thread would have to wait.
            let made = tokio::task::spawn_blocking(move || {
                let at = clock::ticks();
                let made = maker.make(&snapshot, &config, ready);
                (maker, made, at.elapsed())
            });
            let (made, took) = match made.await {
                Ok((back, made, took)) => {
                    maker = back;
                    (made, took)
                }
                Err(_) => return, // the runtime is shutting down
            };
            said.note(&made);
            // Those for people have a pause of their own.
            let took = took.saturating_sub(maker.people.took_just_now);
            if let Ok(page) = made {
                pages.send_replace(Arc::new(page));
            }
            let pause = pause(took, ready, interval);
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                break;
            }
        }
        maker.past.end().await;
    }
}

/// How long the next metrics page waits for after one that took so long to make. `ready` is whether every collector has run.
fn pause(took: Duration, ready: bool, interval: Duration) -> Duration {
    let per_cost = if ready { PAUSE_PER_COST } else { FIRST_PAUSE_PER_COST };
    (took * per_cost).clamp(PAUSE, interval.clamp(PAUSE, PAUSE_MAX))
}

/// What a page is made with besides the snapshot.
#[derive(Debug)]
struct Maker {
    alerts: watch::Receiver<Arc<AlertReport>>,
    past: past::Past,
    host: Arc<Host>,
    own: Own,
    process: Option<usage::OwnProcess>,
    telemetry_path: String,
    people: People,
    /// Tells this run of the program from others, in entity tags.
    run: String,
}

/// What people look at, as it was made last.
#[derive(Debug, Default)]
struct People {
    index: Body,
    status: Body,
    made: Option<Made>,
    /// What it took in the last call, nothing when it was not due.
    took_just_now: Duration,
    count: u64,
}

#[derive(Debug)]
struct Made {
    at: Ticks,
    took: Duration,
    /// Of a snapshot with stores that have been looked at; before, every page is news.
    ready: bool,
}

impl People {
    /// How long until it is due again; `None` when it has never been made.
    fn wait(&self) -> Option<Duration> {
        let made = self.made.as_ref()?;
        let pause = (made.took * PAUSE_PER_COST).clamp(STATUS_PAUSE, PAUSE_MAX);
        Some(pause.saturating_sub(made.at.elapsed()))
    }

    fn due(&self, ready: bool) -> bool {
        self.made.as_ref().is_none_or(|made| made.ready != ready)
            || self.wait().is_some_and(|wait| wait.is_zero())
    }
}

impl Maker {
    fn make(
        &mut self,
        snapshot: &Arc<Snapshot>,
        config: &Config,
        ready: bool,
    ) -> prometheus::Result<Published> {
        let alerts = Arc::clone(&self.alerts.borrow());
        let facts = Facts {
            process: self.process.as_mut().and_then(usage::OwnProcess::read),
            state_persistent: self.host.state.persistent(),
            state_write_errors: self.host.state.write_errors(),
            watched: self.host.watched(),
            jobs: self.host.job_queue.jobs(),
            alerts: Arc::clone(&alerts),
        };
        let metrics = metrics::encode(snapshot, &self.own, &facts, config.limits.series)?;
        self.people.took_just_now = Duration::ZERO;
        if self.people.due(ready) {
            let at = clock::ticks();
            self.for_people(snapshot, &alerts, config)?;
            let took = at.elapsed();
            self.people.took_just_now = took;
            self.people.made = Some(Made { at, took, ready });
        }
        let (index, status) = (self.people.index.clone(), self.people.status.clone());
        Ok(Published { metrics, index, status, snapshot: Arc::clone(snapshot), ready })
    }

    fn for_people(
        &mut self,
        snapshot: &Snapshot,
        alerts: &AlertReport,
        config: &Config,
    ) -> prometheus::Result<()> {
        let figures: Vec<Figures> = snapshot.stores.iter().map(Figures::of).collect();
        let rows = snapshot.stores.iter().zip(&figures);
        self.past.note(snapshot.taken_at, rows.map(|(store, f)| (&store.store, f.row())));
        let host = manager::about(config).host;
        let live = Live::new(&host, snapshot, figures, alerts, self.past.history())
            .with_refused(self.own.reload_problems());
        let stale_after = (config.collect.interval * 3).max(STALE_MIN) + PAUSE_MAX;
        self.people.count += 1;
        let tag = format!("{}-{}", self.run, self.people.count);
        let json = serde_json::to_string(&live)
            .map_err(|error| prometheus::Error::Msg(error.to_string()))?;
        let page = page::render(&live, &self.telemetry_path, stale_after);
        self.people.index = Body::new(page, &tag)?;
        self.people.status = Body::new(json + "\n", &tag)?;
        Ok(())
    }
}

/// An open page says that readings stand still when they are older than three intervals and this.
const STALE_MIN: Duration = Duration::from_mins(1);

/// What was logged last: changes are, states are not.
#[derive(Debug, Default)]
struct LastLogged {
    dropping: bool,
    failing: bool,
}

impl LastLogged {
    fn note(&mut self, made: &prometheus::Result<Published>) {
        match made {
            Err(error) if !self.failing => {
                error!(%error, "Page cannot be encoded; the one before is served on.");
            }
            Ok(_) if self.failing => info!("Page can be encoded again."),
            _ => {}
        }
        self.failing = made.is_err();
        let Ok(page) = made else { return };
        let dropped = page.metrics.dropped_series;
        if dropped > 0 && !self.dropping {
            warn!(
                dropped,
                "More series than the configured bound; the largest families are left out of the page."
            );
        } else if dropped == 0 && self.dropping {
            info!("All series are on the page again.");
        }
        self.dropping = dropped > 0;
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        clock::Timestamp,
        sample::{Observation, Reading, StoreReadings},
    };

    const SOON: Duration = Duration::from_secs(30);

    fn store(name: &str, run: usize, collectors: usize) -> StoreReadings {
        let reading = || Reading {
            next_within: Duration::from_secs(30),
            collector: "disk",
            descs: &[],
            observation: Observation::default(),
            taken_at: Timestamp::from_secs(0),
            duration: Duration::ZERO,
            last_success: None,
            codes: &[],
        };
        StoreReadings {
            firsts: std::sync::Arc::default(),
            trial: None,
            store: name.into(),
            path: Path::new("/srv").into(),
            readings: (0..run).map(|_| Arc::new(reading())).collect(),
            collectors,
        }
    }

    fn snapshot(second: i64, stores: Vec<StoreReadings>) -> Arc<Snapshot> {
        Arc::new(Snapshot { taken_at: Timestamp::from_secs(second), stores })
    }

    fn text(page: &Published) -> String {
        String::from_utf8(page.metrics.identity.to_vec()).unwrap()
    }

    #[test]
    fn a_dear_page_is_made_seldom_but_not_before_the_first_that_is_whole() {
        let (ms, hour) = (Duration::from_millis, Duration::from_hours(1));
        for (took_ms, ready, interval, want) in [
            (0, true, hour, PAUSE),
            (10, true, hour, ms(4000)),
            (300, true, hour, PAUSE_MAX),
            (300, true, ms(5000), ms(5000)),
            (300, true, ms(10), PAUSE),
            (300, false, hour, ms(600)),
            (1, false, hour, PAUSE),
        ] {
            assert_eq!(pause(ms(took_ms), ready, interval), want, "{took_ms} {ready} {interval:?}");
        }
    }

    struct Running {
        snapshots: watch::Sender<Arc<Snapshot>>,
        pages: watch::Receiver<Arc<Published>>,
        host: Arc<Host>,
        stop: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    }

    impl Running {
        fn start(interval: Duration) -> Self {
            let mut config = Config::default();
            config.collect.interval = interval;
            let host = Arc::new(Host::new(&config));
            let (_, configs) = watch::channel(Arc::new(config));
            let (snapshots, unseen) = watch::channel(snapshot(0, Vec::new()));
            let own = Own::new("/metrics", Timestamp::from_secs(0)).unwrap();
            let (_, alerts) = watch::channel(Arc::default());
            let (publisher, pages) =
                Publisher::new(unseen, configs, alerts, Arc::clone(&host), own, "/metrics")
                    .unwrap();
            let stop = CancellationToken::new();
            let task = tokio::spawn(publisher.run(stop.clone()));
            Self { snapshots, pages, host, stop, task }
        }

        async fn page(&mut self, what: &str, test: impl FnMut(&Arc<Published>) -> bool) -> bool {
            let waiting = self.pages.wait_for(test);
            tokio::time::timeout(SOON, waiting).await.expect(what).unwrap().ready
        }

        /// Whether the page of the snapshot with this time says ready.
        async fn ready_at(&mut self, second: i64) -> bool {
            let line = format!("chroma_exporter_snapshot_timestamp_seconds {second}\n");
            self.page(&line, |page| text(page).contains(&line)).await
        }
    }

    #[tokio::test]
    async fn ready_is_the_first_complete_snapshot_and_stays() {
        let mut running = Running::start(Duration::from_millis(20));
        assert!(!running.pages.borrow().ready);
        // Pages go on without new snapshots; the one at the beginning never makes it ready.
        for _ in 0..3 {
            running.pages.changed().await.unwrap();
            assert!(!running.pages.borrow_and_update().ready);
        }
        for (second, stores, ready) in [
            (1, vec![store("a", 0, 2)], false),
            (2, vec![store("a", 2, 2), store("b", 1, 2)], false),
            (3, vec![store("a", 2, 2), store("b", 2, 2)], true),
            (4, vec![store("a", 2, 2), store("new", 0, 2)], true),
            (5, vec![], true),
        ] {
            running.snapshots.send_replace(snapshot(second, stores));
            assert_eq!(running.ready_at(second).await, ready, "{second}");
        }
        running.stop.cancel();
        tokio::time::timeout(SOON, running.task).await.expect("it ends").unwrap();
    }

    #[tokio::test]
    async fn a_host_without_stores_is_ready_once_that_is_known() {
        let mut running = Running::start(SOON);
        running.snapshots.send_replace(snapshot(1, Vec::new()));
        assert!(running.ready_at(1).await);
    }

    #[tokio::test]
    async fn what_the_program_tells_of_itself_is_fresh_without_a_new_snapshot() {
        let mut running = Running::start(Duration::from_millis(20));
        running.snapshots.send_replace(snapshot(1, vec![store("a", 1, 1)]));
        running.ready_at(1).await;
        running.host.note_watch(&"a".into(), true);
        let line = "chroma_exporter_watch{store=\"a\"} 1\n";
        running.page("the watch", |page| text(page).contains(line)).await;
    }
}
