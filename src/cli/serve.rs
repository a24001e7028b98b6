//! `serve`: the exporter. Starts the parts, reloads the configuration when asked or when its file changes, and ends them
//! all within a few seconds when one ends or a signal says so.

use std::{path::Path, process::ExitCode, sync::Arc, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{Notify, mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    clock, collectors,
    config::{self, Config, Overrides, file},
    deliver::dispatch::Dispatch,
    fleet,
    host::{self, Host, read::read_beginning},
    http::{self, BindError, Limits, Listeners, NotReloaded, ReloadRequest, Secure},
    logging,
    metrics::Own,
    publish::Publisher,
    sample::Snapshot,
    scheduler::Board,
    serve::systemd::{Notifier, Sources, Systemd},
    watch::FileWatch,
};

/// From the signal to the end of every part; threads that hang in a filesystem are left behind after it.
const GRACE: Duration = Duration::from_secs(5);

/// How long a state directory may take to answer at the start. Longer than an owner that is ending is waited for.
const STATE_PATIENCE: Duration = Duration::from_secs(45);

/// A file is written in several steps; it is read when it has been quiet for this long.
const FILE_SETTLE: Duration = Duration::from_millis(250);

/// More than any configuration that is accepted.
const CONTENT_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// Threads that wait for work; collectors run on blocking threads of their own.
const WORKERS: usize = 2;

/// Blocking threads that nobody needs end after this, so that an idle exporter is small. Work goes round all that there are: of
/// a longer time the work of many stores would never let one of them end.
const IDLE_THREAD: Duration = Duration::from_millis(500);

/// Runs until a signal or the failure of a part.
#[must_use]
pub fn run(config: Config, overrides: Overrides, secure: Option<Secure>) -> ExitCode {
    // Before anything of ours has one of those numbers.
    let systemd = Systemd::from_environment(config.web.systemd_socket);
    host::give_memory_back();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_keep_alive(IDLE_THREAD)
        .thread_name("exporter")
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(%error, "The runtime cannot start.");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(serve(config, overrides, secure.map(Arc::new), systemd));
    runtime.shutdown_background();
    code
}

async fn serve(
    config: Config,
    overrides: Overrides,
    secure: Option<Arc<Secure>>,
    mut systemd: Systemd,
) -> ExitCode {
    let config = Arc::new(config);
    let Some((mut term, mut interrupt, hangup)) = signals() else { return ExitCode::FAILURE };
    let host = tokio::select! {
        host = claim_state(&config) => host,
        _ = term.recv() => return ended_by("TERM"),
        _ = interrupt.recv() => return ended_by("INT"),
    };
    let Some(host) = host.map(Arc::new) else { return ExitCode::FAILURE };
    let Some(listeners) = listen(&config, &mut systemd) else { return ExitCode::FAILURE };
    let Some(own) = own_metrics(&config) else { return ExitCode::FAILURE };
    let board = Board::default();
    let nothing = Snapshot { taken_at: clock::now(), stores: Vec::new() };
    let (snapshots, seen) = watch::channel(Arc::new(nothing));
    let (configs, config_seen) = watch::channel(Arc::clone(&config));
    let config_seen_by_systemd = config_seen.clone();
    let (dispatch, alerts) =
        Dispatch::new(seen.clone(), config_seen.clone(), host.state.dir().map(Path::to_owned));
    let publisher = Publisher::new(
        seen,
        config_seen,
        alerts,
        Arc::clone(&host),
        own.clone(),
        &config.web.telemetry_path,
    );
    let (publisher, pages) = match publisher {
        Ok(made) => made,
        Err(error) => {
            error!(%error, "The first page cannot be made.");
            return ExitCode::FAILURE;
        }
    };
    let (to_fleet, fleet_configs) = mpsc::channel(1);
    let (reload, reload_requests) = mpsc::channel(4);

    let stop = CancellationToken::new();
    let mut parts: JoinSet<&'static str> = JoinSet::new();
    let (s, b) = (stop.clone(), board.clone());
    parts.spawn(async move {
        b.publish(snapshots, s).await;
        "snapshots"
    });
    let s = stop.clone();
    parts.spawn(async move {
        publisher.run(s).await;
        "pages"
    });
    let s = stop.clone();
    parts.spawn(async move {
        dispatch.run(s).await;
        "alerts"
    });
    let sources = Sources { pages: pages.clone(), board: board.clone(), own: own.clone() };
    if let Some(reported) = systemd.notifier.telling(sources, config_seen_by_systemd) {
        let s = stop.clone();
        parts.spawn(async move {
            reported.run(s).await;
            "systemd"
        });
    }
    let host_at_end = Arc::clone(&host);
    let s = stop.clone();
    parts.spawn(async move {
        fleet::run(host, board, fleet_configs, s).await;
        "stores"
    });
    let (s, app) = (stop.clone(), http::App { pages, own: own.clone(), reload, secure });
    let web = config.served_web();
    parts.spawn(async move {
        http::run(listeners, app, &web, Limits::of(&web), s).await;
        "http"
    });
    let notifier = systemd.notifier.clone();
    let reloader = Reloader { overrides, started_with: config, configs, to_fleet, own, notifier };
    let s = stop.clone();
    parts.spawn(async move {
        reloader.run(hangup, reload_requests, s).await;
        "reload"
    });

    let code = tokio::select! {
        _ = term.recv() => ended_by("TERM"),
        _ = interrupt.recv() => ended_by("INT"),
        // A daemon that has lost one of its parts must not go on answering as if it were whole.
        part = parts.join_next() => {
            error!(part = ?part, "A part of the program has ended; ending the rest.");
            ExitCode::FAILURE
        }
    };
    systemd.notifier.stopping();
    stop.cancel();
    end(parts).await;
    if code == ExitCode::SUCCESS {
        host_at_end.end_in_order();
    }
    code
}

/// The sockets to answer on; `None` when there are none, which was said.
fn listen(config: &Config, systemd: &mut Systemd) -> Option<Listeners> {
    let listeners = if config.web.systemd_socket {
        Listeners::of_systemd(std::mem::take(&mut systemd.sockets))
    } else {
        Listeners::bind(&config.web)
    };
    let said = |error: &BindError| error!(%error, hint = error.hint(), "Cannot listen.");
    listeners.inspect_err(said).ok()
}

/// Waits for the parts, which have been told to end.
async fn end(mut parts: JoinSet<&'static str>) {
    let rest = async { while parts.join_next().await.is_some() {} };
    if tokio::time::timeout(GRACE, rest).await.is_err() {
        warn!("Some parts did not end in time and are left behind.");
    }
}

/// The host with its state directory; `None` when the program must not start, which was said. Before anything is answered: who
/// asks meanwhile sees a program that is not there yet. A directory that does not answer stops no alert.
async fn claim_state(config: &Arc<Config>) -> Option<Host> {
    let seen = Arc::clone(config);
    let claim = tokio::task::spawn_blocking(move || Host::claim(&seen));
    match tokio::time::timeout(STATE_PATIENCE, claim).await {
        Ok(Ok(Ok(host))) => Some(host),
        Ok(Ok(Err(refused))) => {
            error!(error = %refused, hint = refused.hint(), "Cannot start.");
            None
        }
        Ok(Err(_)) | Err(_) => {
            let dir = config.state_dir.as_deref().unwrap_or(Path::new(""));
            let seconds = STATE_PATIENCE.as_secs();
            error!(dir = %dir.display(), seconds, "The state directory does not answer; going on without it. Alerts that were told before are told again. Restart the program when the directory answers.");
            Some(Host::without_state(config))
        }
    }
}

fn own_metrics(config: &Config) -> Option<Own> {
    Own::new(&config.web.telemetry_path, clock::now())
        .inspect_err(|error| error!(%error, "The program's own metrics cannot be set up."))
        .ok()
}

fn ended_by(signal: &str) -> ExitCode {
    info!(signal, "Ending.");
    ExitCode::SUCCESS
}

/// Those that end and reload it; `None` when they cannot be received, which was said.
fn signals() -> Option<(Signal, Signal, Signal)> {
    let [term, interrupt, hangup] =
        [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(|kind| {
            signal(kind).inspect_err(|error| error!(%error, "Signals cannot be received.")).ok()
        });
    Some((term?, interrupt?, hangup?))
}

/// Loads the configuration anew: by SIGHUP, by request, and by itself when the file changes.
struct Reloader {
    overrides: Overrides,
    started_with: Arc<Config>,
    configs: watch::Sender<Arc<Config>>,
    to_fleet: mpsc::Sender<Arc<Config>>,
    own: Own,
    notifier: Notifier,
}

impl Reloader {
    async fn run(
        self,
        mut hangup: Signal,
        mut requests: mpsc::Receiver<ReloadRequest>,
        stop: CancellationToken,
    ) {
        if self.to_fleet.send(Arc::clone(&self.started_with)).await.is_err() {
            return;
        }
        let changed = Arc::new(Notify::new());
        let _watch = self.watch_file(&changed);
        let mut content = self.content().await;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = hangup.recv() => {
                    content = self.content().await;
                    drop(self.reload("SIGHUP").await);
                }
                request = requests.recv() => {
                    let Some(request) = request else { return };
                    content = self.content().await;
                    let result = self.reload("request").await;
                    // Whoever asked may have hung up.
                    drop(request.answer.send(result));
                }
                () = changed.notified() => {
                    tokio::time::sleep(FILE_SETTLE).await;
                    // Many things happen in a directory; only another content is a change.
                    let now = self.content().await;
                    if now != content {
                        content = now;
                        drop(self.reload("file change").await);
                    }
                }
            }
        }
    }

    fn watch_file(&self, changed: &Arc<Notify>) -> Option<FileWatch> {
        let file = self.overrides.config_file.as_deref()?;
        match FileWatch::start(file, Arc::clone(changed)) {
            Ok(watch) => Some(watch),
            Err(error) => {
                warn!(file = %file.display(), %error, "Changes of the configuration file are not noticed; reload by SIGHUP.");
                None
            }
        }
    }

    /// The bytes of the file, to tell a change from an event; `None` when it cannot be read.
    async fn content(&self) -> Option<Vec<u8>> {
        let file = self.overrides.config_file.clone()?;
        tokio::task::spawn_blocking(move || read_beginning(&file, CONTENT_BYTES_MAX).ok())
            .await
            .ok()?
    }

    /// Errs when the new configuration has a problem, or cannot be handed on; then the old one goes on.
    async fn reload(&self, reason: &'static str) -> Result<(), NotReloaded> {
        self.notifier.reloading();
        let result = self.load(reason).await;
        self.notifier.reloaded();
        result
    }

    async fn load(&self, reason: &'static str) -> Result<(), NotReloaded> {
        let overrides = self.overrides.clone();
        let loaded =
            tokio::task::spawn_blocking(move || file::load(&overrides, &collectors::families()))
                .await;
        let config = match loaded? {
            Ok(config) => Arc::new(config),
            Err(problems) => {
                for problem in &problems {
                    error!(%problem, "Configuration problem.");
                }
                error!(
                    reason,
                    problems = problems.len(),
                    "Configuration not loaded; the one before goes on."
                );
                let refused = NotReloaded::Problems(problems);
                self.own.reload_failed(&refused.to_string(), clock::now());
                return Err(refused);
            }
        };
        self.warn_of_fixed(&config);
        // At once: whoever turns it up looks for a fault that a restart might hide.
        logging::set_level(config.log);
        self.configs.send_replace(Arc::clone(&config));
        if self.to_fleet.send(config).await.is_err() {
            return Err(NotReloaded::Ending);
        }
        self.own.reload_succeeded(clock::now());
        info!(reason, "Configuration loaded.");
        Ok(())
    }

    /// Says which settings take a restart.
    fn warn_of_fixed(&self, config: &Config) {
        for field in config::at_next_start(&self.started_with, config) {
            warn!(field, "This change takes effect at the next start.");
        }
    }
}
