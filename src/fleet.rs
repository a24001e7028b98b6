//! The stores that are being watched now: started, stopped and exchanged as the configuration or the host changes.
//! Stores that a change does not touch go on undisturbed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    config::{Config, Store},
    discover,
    host::Host,
    scheduler::{self, Board},
    store::Context,
    watch::Watches,
};

/// Time between two looks for new Chroma processes when no store is configured.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(15);

/// Watches the stores of the newest configuration that `configs` brings, until `stop`.
pub async fn run(
    host: Arc<Host>,
    board: Board,
    mut configs: mpsc::Receiver<Arc<Config>>,
    stop: CancellationToken,
) {
    let mut fleet = Fleet { host, board, watches: Arc::default(), running: BTreeMap::new() };
    let mut config: Option<Arc<Config>> = None;
    let mut said_none = false;
    loop {
        let discovers = config.as_ref().is_some_and(|c| c.stores.is_empty());
        tokio::select! {
            () = stop.cancelled() => break,
            next = configs.recv() => {
                let Some(next) = next else { break };
                said_none = false;
                if next.stores.is_empty() {
                    fleet.discover(&next, config.as_deref(), &mut said_none).await;
                } else {
                    fleet.apply(&next, &next.stores).await;
                }
                config = Some(next);
            }
            () = tokio::time::sleep(DISCOVERY_INTERVAL), if discovers => {
                if let Some(config) = &config {
                    fleet.discover(config, Some(config), &mut said_none).await;
                }
            }
        }
    }
    fleet.end().await;
}

struct Fleet {
    host: Arc<Host>,
    board: Board,
    watches: Arc<Watches>,
    running: BTreeMap<Arc<str>, Running>,
}

struct Running {
    context: Context,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Fleet {
    /// Makes `stores` the ones that are watched.
    async fn apply(&mut self, config: &Arc<Config>, stores: &[Arc<Store>]) {
        let wanted = |running: &Running| {
            stores.contains(&running.context.store)
                && same_collecting(&running.context.config, config)
        };
        let gone: Vec<Arc<str>> = self
            .running
            .iter()
            .filter(|(_, running)| !wanted(running))
            .map(|(name, _)| Arc::clone(name))
            .collect();
        for name in gone {
            self.end_store(&name).await;
        }
        for store in stores {
            if !self.running.contains_key(&store.name) {
                self.start_store(config, store);
            }
        }
        self.board.order(stores.iter().map(|store| &*store.name));
    }

    /// Adds the directories that running Chroma processes hold. One that was found stays, so that it is missed when its
    /// server goes.
    async fn discover(
        &mut self,
        config: &Arc<Config>,
        before: Option<&Config>,
        said_none: &mut bool,
    ) {
        let (procfs, rootfs, max) =
            (config.procfs.clone(), config.rootfs.clone(), config.collect.discovered_max);
        let found = match tokio::task::spawn_blocking(move || {
            discover::stores(&procfs, &rootfs, max)
        })
        .await
        {
            Ok(Ok(found)) => found,
            Ok(Err(problem)) => {
                warn!(problem = %problem.chain(), hint = problem.hint(), "Looking for Chroma processes failed.");
                return;
            }
            Err(_) => return, // the runtime is shutting down
        };
        let keep = before.is_some_and(|before| before.stores.is_empty());
        let mut stores: Vec<Arc<Store>> = self
            .running
            .values()
            .filter(|_| keep)
            .map(|running| Arc::clone(&running.context.store))
            .collect();
        for mut store in found {
            if stores
                .iter()
                .any(|known| known.path == store.path || known.seen_path == store.seen_path)
            {
                continue;
            }
            if stores.len() >= max {
                warn!(path = %store.path.display(), max, "More Chroma directories than the bound; this one is not watched.");
                continue;
            }
            store.name = unused_name(&store.name, &stores);
            info!(store = %store.name, path = %store.path.display(), "Found a directory that a Chroma process holds.");
            stores.push(Arc::new(store));
        }
        if stores.is_empty() && !std::mem::replace(said_none, true) {
            warn!(
                "No store is configured and no running Chroma process was found; looking again every {} s. Name one with --store.path DIR.",
                DISCOVERY_INTERVAL.as_secs()
            );
        }
        self.apply(config, &stores).await;
    }

    fn start_store(&mut self, config: &Arc<Config>, store: &Arc<Store>) {
        info!(store = %store.name, path = %store.path.display(), "Watching.");
        let context = Context::new(config, store, &self.host);
        self.board.add(&context);
        let stop = CancellationToken::new();
        let (board, watches) = (self.board.clone(), Arc::clone(&self.watches));
        let task =
            tokio::spawn(scheduler::run_store(context.clone(), board, watches, stop.clone()));
        self.running.insert(Arc::clone(&store.name), Running { context, stop, task });
    }

    async fn end_store(&mut self, name: &Arc<str>) {
        let Some(running) = self.running.remove(name) else { return };
        running.stop.cancel();
        self.board.remove(name);
        self.host.forget_watch(name);
        // Its tasks end at once; threads that hang in the filesystem are left behind.
        if let Err(error) = running.task.await {
            warn!(store = %name, %error, "The tasks of a store did not end cleanly.");
        }
        info!(store = %name, "No longer watching.");
    }

    async fn end(&mut self) {
        for running in self.running.values() {
            running.stop.cancel();
        }
        for (_, running) in std::mem::take(&mut self.running) {
            if let Err(error) = running.task.await {
                warn!(%error, "The tasks of a store did not end cleanly.");
            }
        }
    }
}

/// Whether two configurations make collectors behave the same.
fn same_collecting(a: &Config, b: &Config) -> bool {
    a.collect == b.collect && a.enabled == b.enabled
}

fn unused_name(name: &str, stores: &[Arc<Store>]) -> Arc<str> {
    let taken = |candidate: &str| stores.iter().any(|store| &*store.name == candidate);
    if !taken(name) {
        return name.into();
    }
    let stem: String = name.chars().take(56).collect();
    // One more name than there are stores: one of them is free.
    let mut candidates = (2..stores.len() + 3).map(|n| format!("{stem}-{n}"));
    candidates.find(|candidate| !taken(candidate)).unwrap_or(stem).into()
}
