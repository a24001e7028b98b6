//! What the program tells of itself: build, process, state directory, reloads, requests. The counters are atomics; a
//! request never waits for the encoder.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::{Mutex, MutexGuard};
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::families::Families;
use crate::{
    alert::report::AlertReport,
    clock::Timestamp,
    host::job_queue::Jobs,
    sample::{Desc, Snapshot},
};

pub(super) static BUILD_INFO: Desc = Desc::gauge(
    "chroma_exporter_build_info",
    "Version and commit of the running program. Always 1.",
)
.labelled(&["version", "revision"]);
pub(super) static STORES: Desc = Desc::gauge("chroma_exporter_stores", "Stores that are watched.");
pub(super) static SNAPSHOT_TIMESTAMP: Desc = Desc::gauge(
    "chroma_exporter_snapshot_timestamp_seconds",
    "When the readings on this page were put together, as seconds since the epoch.",
);
pub(super) static DROPPED_SERIES: Desc = Desc::gauge(
    "chroma_exporter_dropped_series",
    "Series of collectors left out of this page because limits.series was reached. Whole families of a store are left out, largest first, never findings or health.",
);
static STATE_PERSISTENT: Desc = Desc::gauge(
    "chroma_exporter_state_persistent",
    "1 when what must survive a restart is kept on disk, 0 when in memory only.",
);
static STATE_WRITE_ERRORS: Desc = Desc::counter(
    "chroma_exporter_state_write_errors_total",
    "Documents of the state directory that could not be written.",
);
static WATCH: Desc = Desc::gauge(
    "chroma_exporter_watch",
    "1 when file events of the store are received, 0 when changes are seen only at the interval.",
)
.labelled(&["store"]);
static RELOAD_SUCCESSFUL: Desc = Desc::gauge(
    "chroma_exporter_config_last_reload_successful",
    "Whether the last attempt to load the configuration succeeded. After 0 the one before it stays in force.",
);
static RELOAD_SUCCESS_TIMESTAMP: Desc = Desc::gauge(
    "chroma_exporter_config_last_reload_success_timestamp_seconds",
    "When the configuration in force was loaded, as seconds since the epoch.",
);
static REQUESTS: Desc = Desc::counter(
    "chroma_exporter_http_requests_total",
    "HTTP requests answered, by path and status code. path is other for all that are not served.",
)
.labelled(&["path", "code"]);
static CONNECTIONS: Desc =
    Desc::gauge("chroma_exporter_http_connections", "HTTP connections that are open.");
static CONNECTIONS_REFUSED: Desc = Desc::counter(
    "chroma_exporter_http_connections_refused_total",
    "HTTP connections turned away because as many as are configured were open.",
);
static REQUESTS_REJECTED: Desc = Desc::counter(
    "chroma_exporter_http_requests_rejected_total",
    "HTTP requests that were not let in, by reason. tls counts connections.",
)
.labelled(&["reason"]);
static PROCESS_CPU: Desc =
    Desc::counter("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.");
static PROCESS_RESIDENT: Desc =
    Desc::gauge("process_resident_memory_bytes", "Resident memory size in bytes.");
static PROCESS_VIRTUAL: Desc =
    Desc::gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.");
static PROCESS_OPEN_FDS: Desc = Desc::gauge("process_open_fds", "Number of open file descriptors.");
static PROCESS_MAX_FDS: Desc =
    Desc::gauge("process_max_fds", "Maximum number of open file descriptors.");
static PROCESS_START: Desc = Desc::gauge(
    "process_start_time_seconds",
    "Start time of the process since unix epoch in seconds.",
);
static PROCESS_THREADS: Desc =
    Desc::gauge("process_threads", "Number of OS threads. A filesystem that hangs keeps one.");

static JOBS: Desc = Desc::gauge(
    "chroma_exporter_expensive_jobs",
    "Checks and backups that read whole files, by state. One at a time runs on a device; the others wait, also in the middle of their work.",
)
.labelled(&["state"]);

pub(super) const DESCS: &[&Desc] = &[
    &BUILD_INFO,
    &STORES,
    &SNAPSHOT_TIMESTAMP,
    &DROPPED_SERIES,
    &STATE_PERSISTENT,
    &STATE_WRITE_ERRORS,
    &WATCH,
    &JOBS,
    &RELOAD_SUCCESSFUL,
    &RELOAD_SUCCESS_TIMESTAMP,
    &REQUESTS,
    &CONNECTIONS,
    &CONNECTIONS_REFUSED,
    &REQUESTS_REJECTED,
    &PROCESS_CPU,
    &PROCESS_RESIDENT,
    &PROCESS_VIRTUAL,
    &PROCESS_OPEN_FDS,
    &PROCESS_MAX_FDS,
    &PROCESS_START,
    &PROCESS_THREADS,
];

/// What was read about this process for one page.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// What the process uses; `None` where the host does not tell, which leaves the series out.
    pub process: Option<ProcessUsage>,
    /// Whether the state directory is being written.
    pub state_persistent: bool,
    /// How many of its documents could not be written.
    pub state_write_errors: u64,
    /// Stores whose file events are (not) being received.
    pub watched: BTreeMap<Arc<str>, bool>,
    /// The queue of expensive jobs.
    pub jobs: Jobs,
    /// What the alert hooks tell of themselves.
    pub alerts: Arc<AlertReport>,
}

/// What this process uses of the host.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProcessUsage {
    /// User and system time, in seconds.
    pub cpu_seconds: f64,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Address space.
    pub virtual_bytes: u64,
    /// Open descriptors.
    pub open_fds: Option<u64>,
    /// Most descriptors; `None` when there is no limit.
    pub max_fds: Option<u64>,
    /// When it started.
    pub started: Timestamp,
    /// Threads.
    pub threads: Option<u64>,
}

/// A path that the server knows; all others share one label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// The status page.
    Index,
    /// The same as JSON.
    Status,
    /// What findings are about, in pages.
    Items,
    /// The runbooks.
    Runbook,
    /// The metrics page.
    Metrics,
    /// Liveness.
    Healthy,
    /// Readiness.
    Ready,
    /// Reload.
    Reload,
    /// Everything else.
    Other,
}

impl Route {
    const ALL: [Self; 9] = [
        Self::Index,
        Self::Status,
        Self::Items,
        Self::Runbook,
        Self::Metrics,
        Self::Healthy,
        Self::Ready,
        Self::Reload,
        Self::Other,
    ];

    /// Every status that it may answer with.
    const fn statuses(self) -> &'static [u16] {
        match self {
            Self::Index | Self::Status => &[200, 304, 405],
            Self::Items => &[200, 400, 404, 405, 500],
            Self::Runbook => &[200, 404, 405],
            Self::Metrics | Self::Healthy => &[200, 405],
            Self::Ready => &[200, 405, 503],
            Self::Reload => &[200, 403, 405, 500, 503],
            Self::Other => &[404],
        }
    }
}

/// Why a request or connection was turned away, with `--web.config.file`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// No good user and password.
    Credentials,
    /// Too many requests.
    Rate,
    /// The request was meant for another host.
    Host,
    /// As many pages as `web.max_requests` allows were being sent.
    Crowd,
    /// The client did not come to terms over TLS, or showed no certificate that is allowed.
    Tls,
}

impl Rejection {
    const ALL: [Self; 5] = [Self::Credentials, Self::Crowd, Self::Host, Self::Rate, Self::Tls];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Credentials => "credentials",
            Self::Crowd => "crowd",
            Self::Host => "host",
            Self::Rate => "rate",
            Self::Tls => "tls",
        }
    }
}

/// What the program counts as it goes; cloning shares it.
#[derive(Debug, Clone)]
pub struct Own {
    requests: IntCounterVec,
    by_route: Arc<[Vec<(u16, IntCounter)>]>,
    connections: IntGauge,
    refused: IntCounter,
    rejected: IntCounterVec,
    reload: Arc<Mutex<Reload>>,
}

#[derive(Debug, Clone)]
struct Reload {
    /// When a configuration was refused, and why; `None` when the newest is in force.
    failed: Option<(Timestamp, String)>,
    success_at: Timestamp,
}

impl Own {
    /// Counters at zero, for a program that serves metrics at `telemetry_path` and has loaded its configuration at
    /// `loaded_at`. Errs never in practice: the `prometheus` crate refuses names that are not valid, and these are.
    pub fn new(telemetry_path: &str, loaded_at: Timestamp) -> prometheus::Result<Self> {
        let requests = IntCounterVec::new(opts(&REQUESTS), REQUESTS.labels)?;
        // Every series starts at 0, so that rate() sees the first refusal.
        let by_route = Route::ALL
            .into_iter()
            .map(|route| {
                let path = match route {
                    Route::Index => "/",
                    Route::Status => "/api/v1/status",
                    Route::Items => "/api/v1/status/items",
                    Route::Runbook => "/runbooks/",
                    Route::Metrics => telemetry_path,
                    Route::Healthy => "/-/healthy",
                    Route::Ready => "/-/ready",
                    Route::Reload => "/-/reload",
                    Route::Other => "other",
                };
                let counter = |status: u16| {
                    requests.get_metric_with_label_values(&[path, &status.to_string()])
                };
                let statuses = route.statuses().iter();
                statuses.map(|status| Ok((*status, counter(*status)?))).collect()
            })
            .collect::<prometheus::Result<_>>()?;
        let rejected = IntCounterVec::new(opts(&REQUESTS_REJECTED), REQUESTS_REJECTED.labels)?;
        for reason in Rejection::ALL {
            rejected.get_metric_with_label_values(&[reason.as_str()])?;
        }
        Ok(Self {
            rejected,
            requests,
            by_route,
            connections: IntGauge::with_opts(opts(&CONNECTIONS))?,
            refused: IntCounter::with_opts(opts(&CONNECTIONS_REFUSED))?,
            reload: Arc::new(Mutex::new(Reload { failed: None, success_at: loaded_at })),
        })
    }

    /// Counts an answer.
    pub fn count_request(&self, route: Route, status: u16) {
        let counters = &self.by_route[route as usize];
        let counter = counters.iter().find(|(known, _)| *known == status);
        debug_assert!(counter.is_some(), "{route:?} answers {status}, which has no series");
        if let Some((_, counter)) = counter {
            counter.inc();
        }
    }

    /// The gauge of open connections.
    #[must_use]
    pub fn connections(&self) -> &IntGauge {
        &self.connections
    }

    /// Counts a connection that was turned away.
    pub fn count_refused(&self) {
        self.refused.inc();
    }

    /// Counts a request or connection that was turned away.
    pub fn count_rejected(&self, why: Rejection) {
        self.rejected.with_label_values(&[why.as_str()]).inc();
    }

    /// Notes that a configuration was loaded and is in force.
    pub fn reload_succeeded(&self, now: Timestamp) {
        *self.reload() = Reload { failed: None, success_at: now };
    }

    /// Notes that a configuration was refused, with its problems, and the one before stays in force.
    pub fn reload_failed(&self, problems: &str, now: Timestamp) {
        self.reload().failed = Some((now, problems.to_owned()));
    }

    /// When the newest configuration was refused, and why; `None` when it is in force.
    #[must_use]
    pub fn reload_problems(&self) -> Option<(Timestamp, String)> {
        self.reload().failed.clone()
    }

    /// Adds its families to the registry. Errs when a name stands twice.
    pub(super) fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        registry.register(Box::new(self.requests.clone()))?;
        registry.register(Box::new(self.connections.clone()))?;
        registry.register(Box::new(self.refused.clone()))?;
        registry.register(Box::new(self.rejected.clone()))
    }

    /// Adds the families that are not kept as counters.
    pub(super) fn add_to<'a>(
        &self,
        families: &mut Families<'a>,
        snapshot: &'a Snapshot,
        facts: &'a Facts,
    ) {
        families.add(&STATE_PERSISTENT, &[], flag(facts.state_persistent));
        families.add(&STATE_WRITE_ERRORS, &[], facts.state_write_errors as f64);
        for (state, jobs) in [("running", facts.jobs.running), ("waiting", facts.jobs.waiting)] {
            families.add(&JOBS, &[state], jobs as f64);
        }
        for store in &snapshot.stores {
            if let Some(works) = facts.watched.get(&store.store) {
                families.add(&WATCH, &[&store.store], flag(*works));
            }
        }
        let reload = self.reload().clone();
        families.add(&RELOAD_SUCCESSFUL, &[], flag(reload.failed.is_none()));
        families.add(&RELOAD_SUCCESS_TIMESTAMP, &[], reload.success_at.as_secs_f64());
        if let Some(process) = &facts.process {
            process.add_to(families);
        }
    }

    fn reload(&self) -> MutexGuard<'_, Reload> {
        self.reload.lock()
    }
}

/// Adds what every page tells of the program that made it.
pub(super) fn add_page<'a>(families: &mut Families<'a>, snapshot: &'a Snapshot) {
    families.add(&BUILD_INFO, &[crate::VERSION, crate::REVISION], 1.0);
    families.add(&STORES, &[], snapshot.stores.len() as f64);
    families.add(&SNAPSHOT_TIMESTAMP, &[], snapshot.taken_at.as_secs_f64());
}

impl ProcessUsage {
    fn add_to(&self, families: &mut Families<'_>) {
        families.add(&PROCESS_CPU, &[], self.cpu_seconds);
        families.add(&PROCESS_RESIDENT, &[], self.resident_bytes as f64);
        families.add(&PROCESS_VIRTUAL, &[], self.virtual_bytes as f64);
        families.add(&PROCESS_START, &[], self.started.as_secs_f64());
        for (desc, value) in [
            (&PROCESS_OPEN_FDS, self.open_fds),
            (&PROCESS_MAX_FDS, self.max_fds),
            (&PROCESS_THREADS, self.threads),
        ] {
            if let Some(value) = value {
                families.add(desc, &[], value as f64);
            }
        }
    }
}

fn opts(desc: &Desc) -> Opts {
    Opts::new(desc.name, desc.help)
}

pub(super) fn flag(set: bool) -> f64 {
    f64::from(u8::from(set))
}
