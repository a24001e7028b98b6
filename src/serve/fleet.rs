//! The stores that are being watched now: started, stopped and exchanged as the configuration or the host changes.
//! Stores that a change does not touch go on undisturbed.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    clock,
    collectors::CollectError,
    config::{Config, Store},
    discover::{
        self,
        roster::{self, Change, Roster},
    },
    host::{
        Host,
        processes::{Process, walk},
    },
    scheduler::{self, Board, Workers},
    serve::{backups, trials},
    store::{self, Context, DATABASE_FILE, device::Device},
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
    let names = host.state.load(NAMES_KIND, Path::new(NAMES_SUBJECT)).unwrap_or_default();
    let mut fleet = Fleet {
        host,
        board,
        watches: Arc::default(),
        workers: Workers::default(),
        backups: backups::gate(),
        running: BTreeMap::new(),
        roster: Roster::new(names),
        said_none: false,
        placing: Placing::default(),
    };
    let mut config: Option<Arc<Config>> = None;
    loop {
        let searches = config.as_ref().is_some_and(|c| c.stores.is_empty() || is_below(c));
        tokio::select! {
            () = stop.cancelled() => break,
            next = configs.recv() => {
                let Some(next) = next else { break };
                fleet.said_none = false;
                fleet.refresh(&next).await;
                config = Some(next);
            }
            () = tokio::time::sleep(DISCOVERY_INTERVAL), if searches => {
                if let Some(config) = &config {
                    fleet.refresh(config).await;
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
    workers: Workers,
    /// One backup is made or opened at a time, or one repair tried.
    backups: backups::Gate,
    running: BTreeMap<Arc<str>, Running>,
    /// Those that were found by themselves.
    roster: Roster,
    said_none: bool,
    placing: Placing,
}

/// Whether paths are those of a host whose root is seen elsewhere, so that its links are followed by ourselves.
fn is_below(config: &Config) -> bool {
    config.rootfs != Path::new("/")
}

struct Running {
    context: Context,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Fleet {
    /// Finds out which stores there are now, and watches them.
    async fn refresh(&mut self, config: &Arc<Config>) {
        if config.stores.is_empty() {
            self.discover(config).await;
            return;
        }
        self.roster.clear();
        if is_below(config) {
            let stores = self.placing.place(config).await;
            self.apply(config, &stores).await;
        } else {
            self.apply(config, &config.stores).await;
        }
    }

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

    /// Watches the directories that running Chroma processes hold; see [`roster`] for how long.
    async fn discover(&mut self, config: &Arc<Config>) {
        let (procfs, rootfs) = (config.procfs.clone(), config.rootfs.clone());
        let max = config.limits.discovered_stores;
        let mut roster = std::mem::take(&mut self.roster);
        // A filesystem that hangs keeps the thread that asks it, and nothing else.
        let answers = self
            .running
            .iter()
            .map(|(name, running)| (Arc::clone(name), Arc::clone(&running.context.device)));
        let eyes = HostEyes {
            procfs: procfs.clone(),
            timeout: config.collect.device_timeout,
            devices: answers.collect(),
        };
        let searched = tokio::task::spawn_blocking(move || {
            let names = roster.names().to_vec();
            let changes = discover::found(&procfs, &rootfs)
                .map(|found| roster.update(found, &eyes, max, clock::ticks()));
            let renamed = names != roster.names();
            (roster, changes, renamed)
        });
        // The runtime is shutting down.
        let Ok((roster, changes, renamed)) = searched.await else { return };
        self.roster = roster;
        match changes {
            Ok(changes) => changes.iter().for_each(|change| say(change, max)),
            Err(problem) => {
                warn!(problem = %problem.chain(), hint = problem.hint(), "Looking for Chroma processes failed.");
                return;
            }
        }
        if renamed {
            self.save_names();
        }
        let stores = self.roster.stores();
        if stores.is_empty() && !std::mem::replace(&mut self.said_none, true) {
            warn!(
                "No store is configured and no running Chroma process was found; looking again every {} s. Name one with --store.path DIR.",
                DISCOVERY_INTERVAL.as_secs()
            );
        }
        self.apply(config, &stores).await;
        for (name, running) in &self.running {
            running.context.held_by(self.roster.holders(name));
        }
    }

    /// Nobody waits for the state directory, which may hang.
    fn save_names(&self) {
        let (host, names) = (Arc::clone(&self.host), self.roster.names().to_vec());
        drop(tokio::task::spawn_blocking(move || {
            host.state.save(NAMES_KIND, Path::new(NAMES_SUBJECT), &names);
        }));
    }

    fn start_store(&mut self, config: &Arc<Config>, store: &Arc<Store>) {
        let found = config.stores.is_empty().then(Arc::default);
        let why = if found.is_some() { "a Chroma process holds it" } else { "configured" };
        info!(store = %store.name, path = %store.path.display(), why, "Watching.");
        let context = Context { found, ..Context::new(config, store, &self.host) };
        context.held_by(self.roster.holders(&store.name));
        self.board.add(&context);
        let stop = CancellationToken::new();
        let (board, watches) = (self.board.clone(), Arc::clone(&self.watches));
        let (context_, workers) = (context.clone(), self.workers.clone());
        let task =
            tokio::spawn(scheduler::run_store(context_, board, watches, workers, stop.clone()));
        // It ends with the store, and nobody waits for it.
        drop(tokio::spawn(backups::run(context.clone(), Arc::clone(&self.backups), stop.clone())));
        drop(tokio::spawn(trials::run(
            context.clone(),
            self.board.clone(),
            Arc::clone(&self.backups),
            stop.clone(),
        )));
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

/// Where configured stores are, below another root than ours: links are followed anew at each look, because a link may lead
/// elsewhere by now.
#[derive(Default)]
struct Placing {
    /// What is being asked; a filesystem that hangs has one thread for each store, and is not asked again.
    asked: BTreeMap<Arc<str>, JoinHandle<Arc<Store>>>,
    /// The last answers.
    known: BTreeMap<Arc<str>, Arc<Store>>,
}

impl Placing {
    async fn place(&mut self, config: &Arc<Config>) -> Vec<Arc<Store>> {
        for store in &config.stores {
            if !self.asked.contains_key(&store.name) {
                let (store, rootfs) = (Arc::clone(store), config.rootfs.clone());
                let name = Arc::clone(&store.name);
                let asked = tokio::task::spawn_blocking(move || store::placed(&store, &rootfs));
                self.asked.insert(name, asked);
            }
        }
        let began = clock::ticks();
        let mut stores = Vec::new();
        for store in &config.stores {
            let patience = config.collect.device_timeout.saturating_sub(began.elapsed());
            if let Some(asked) = self.asked.get_mut(&store.name)
                && let Ok(answer) = tokio::time::timeout(patience, asked).await
            {
                self.asked.remove(&store.name);
                if let Ok(placed) = answer {
                    self.known.insert(Arc::clone(&store.name), placed);
                }
            }
            // An answer about a store that is configured otherwise by now is none.
            let known = self.known.get(&store.name);
            let known = known.filter(|known| {
                Store { seen_path: store.seen_path.clone(), ..(***known).clone() } == **store
            });
            stores.push(Arc::clone(known.unwrap_or(store)));
        }
        stores
    }
}

fn say(change: &Change, max: usize) {
    match change {
        // Told when its watch begins.
        Change::Begun(_) => {}
        Change::Moved(store) => {
            info!(store = %store.name, path = %store.path.display(), "The process that holds a directory has started anew.");
        }
        Change::Missed(store) => {
            warn!(store = %store.name, path = %store.path.display(), "No process holds the directory any more; it is watched for 24 h. Name it with --store.path to watch it for good.");
        }
        Change::Ended(store, why) => {
            info!(store = %store.name, path = %store.path.display(), %why, "A directory that was found by itself is watched no more; its alerts end in 15 minutes.");
        }
        Change::Full(over) => {
            warn!(
                over,
                max,
                "More Chroma directories are in use than may be watched; name those that matter in the configuration, or raise limits.discovered_stores."
            );
        }
    }
}

/// The host, asked by a thread that may wait.
struct HostEyes {
    procfs: PathBuf,
    timeout: Duration,
    devices: BTreeMap<Arc<str>, Arc<Device>>,
}

impl roster::Eyes for HostEyes {
    fn runs(&self, process: Process) -> bool {
        walk::runs(&self.procfs, process.pid, process.start_ticks)
    }

    fn exists(&self, store: &Store) -> bool {
        let device = self.devices.get(&store.name);
        match device.map(|device| device.ask(self.timeout)) {
            Some(Err(CollectError::Unreadable { source, .. })) => !is_absent(&source),
            Some(Err(_)) => true,
            _ => match std::fs::symlink_metadata(store.seen_path.join(DATABASE_FILE)) {
                Err(error) => !is_absent(&error),
                Ok(_) => true,
            },
        }
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The document of the names that were given to what was found.
const NAMES_KIND: &str = "names";
const NAMES_SUBJECT: &str = "found by itself";
