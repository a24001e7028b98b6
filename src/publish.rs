//! Turns each snapshot into the bytes that `http` serves: the metrics page and the landing page. Runs beside the
//! server and hands over one finished object after another, so that a request never waits for an encoder.

mod index;
mod usage;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

pub use index::CONTENT_SECURITY_POLICY;

use crate::{
    alert::report::AlertReport,
    clock,
    config::Config,
    host::Host,
    metrics::{self, Facts, Own, Page},
    sample::Snapshot,
};

/// Pages follow each other at least this far apart: a file event reaches the next scrape well within a second.
const PAUSE: Duration = Duration::from_millis(250);

/// A pause is at least so many times as long as making the page took, so that encoding costs at most 0.5 % of a core
/// however many stores there are; it is never longer than the interval of the collectors.
const PAUSE_PER_COST: u32 = 200;

/// Everything that the server needs, ready to be written to a socket.
#[derive(Debug, Clone)]
pub struct Published {
    /// The metrics page.
    pub metrics: Page,
    /// The landing page, HTML.
    pub index: Bytes,
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
        let process = usage::OwnProcess::new();
        let mut maker =
            Maker { alerts, host, own, process, telemetry_path: telemetry_path.to_owned() };
        let snapshot = Arc::clone(&snapshots.borrow());
        let series_max = configs.borrow().collect.series_max;
        let first = maker.make(&snapshot, series_max, false)?;
        let (pages, published) = watch::channel(Arc::new(first));
        Ok((Self { snapshots, configs, pages, maker }, published))
    }

    /// Makes a page of the newest snapshot whenever there is one, and at every interval of the collectors so that what
    /// the program tells of itself stays fresh, until `stop` or until nobody makes snapshots any more.
    pub async fn run(self, stop: CancellationToken) {
        let Self { mut snapshots, configs, pages, mut maker } = self;
        let mut alerts = maker.alerts.clone();
        let (mut begun, mut ready) = (false, false);
        let mut said = Said::default();
        loop {
            let collect = configs.borrow().collect.clone();
            tokio::select! {
                () = stop.cancelled() => return,
                changed = snapshots.changed() => match changed {
                    Ok(()) => begun = true,
                    Err(_) => return,
                },
                // The hooks end before the pages do.
                Ok(()) = alerts.changed() => {}
                () = tokio::time::sleep(collect.interval) => {}
            }
            let at = clock::ticks();
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            ready |= begun && snapshot.complete();
            // Encoding many stores takes milliseconds, which requests on this thread would have to wait.
            let made = tokio::task::spawn_blocking(move || {
                let made = maker.make(&snapshot, collect.series_max, ready);
                (maker, made)
            });
            let made = match made.await {
                Ok((back, made)) => {
                    maker = back;
                    made
                }
                Err(_) => return, // the runtime is shutting down
            };
            said.note(&made);
            if let Ok(page) = made {
                pages.send_replace(Arc::new(page));
            }
            let pause = (at.elapsed() * PAUSE_PER_COST).clamp(PAUSE, collect.interval.max(PAUSE));
            if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }
}

/// What a page is made with besides the snapshot.
#[derive(Debug)]
struct Maker {
    alerts: watch::Receiver<Arc<AlertReport>>,
    host: Arc<Host>,
    own: Own,
    process: Option<usage::OwnProcess>,
    telemetry_path: String,
}

impl Maker {
    fn make(
        &mut self,
        snapshot: &Arc<Snapshot>,
        series_max: usize,
        ready: bool,
    ) -> prometheus::Result<Published> {
        let alerts = Arc::clone(&self.alerts.borrow());
        let facts = Facts {
            process: self.process.as_mut().and_then(usage::OwnProcess::read),
            state_persistent: self.host.state.persistent(),
            state_write_errors: self.host.state.write_errors(),
            watched: self.host.watched(),
            alerts: Arc::clone(&alerts),
        };
        Ok(Published {
            metrics: metrics::encode(snapshot, &self.own, facts, series_max)?,
            index: index::render(snapshot, &alerts, &self.telemetry_path).into(),
            ready,
        })
    }
}

/// What was logged last: changes are, states are not.
#[derive(Debug, Default)]
struct Said {
    dropping: bool,
    failing: bool,
}

impl Said {
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
            collector: "disk",
            descs: &[],
            observation: Observation::default(),
            taken_at: Timestamp::from_secs(0),
            duration: Duration::ZERO,
            last_success: None,
            codes: &[],
        };
        StoreReadings {
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
