//! The validated configuration: what the program does, in types that cannot be wrong. Reading the file, the flags and
//! the places of mistakes in them is the business of `file`; nothing here touches the disk.

pub mod alerts;
pub mod file;
pub mod print;
mod raw;
pub(crate) mod report;
pub(crate) mod rules;
pub mod secret;
pub(crate) mod section;
pub(crate) mod target;
pub(crate) mod validate;
pub(crate) mod web_file;
pub(crate) mod yaml;

pub use crate::deliver::receivers::Receiver;
pub use report::ConfigError;
pub use rules::Listen;
pub use secret::Secret;
pub use validate::{Overrides, PatternFlag, StoreFlag};

use std::{
    borrow::Cow,
    collections::BTreeSet,
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::format::window::Window;

/// Everything that can be configured.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The stores to watch; empty means that those of running Chroma processes are looked for.
    pub stores: Vec<Arc<Store>>,
    /// Collectors that are switched on.
    pub enabled: BTreeSet<CollectorName>,
    /// Paces and bounds of the collectors.
    pub collect: Collect,
    /// How databases are read.
    pub integrity: Integrity,
    /// When the filesystem of a store is a finding.
    pub disk: Disk,
    /// Bounds.
    pub limits: Limits,
    /// The HTTP side.
    pub web: Web,
    /// Where the program keeps what must survive a restart; `None` keeps it in memory only.
    pub state_dir: Option<PathBuf>,
    /// Where the host's `/proc` is seen.
    pub procfs: PathBuf,
    /// Where the host's root is seen; store and backup paths are looked up below it.
    pub rootfs: PathBuf,
    /// What is logged, and how.
    pub log: Log,
    /// What the alert hooks are told.
    pub alerts: alerts::Alerts,
    /// Who is told of alerts.
    pub receivers: Vec<Arc<Receiver>>,
}

/// No store, every collector, nothing kept on disk: what an empty file on a host without a home gives.
impl Config {
    /// What the HTTP side is told. Whoever follows the links in messages through a proxy on this host is right here.
    #[must_use]
    pub fn served_web(&self) -> Web {
        let mut web = self.web.clone();
        web.allowed_hosts.extend(self.alerts.external_host());
        web
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            stores: Vec::new(),
            enabled: CollectorName::ALL.into(),
            collect: Collect::default(),
            integrity: Integrity::default(),
            disk: Disk::default(),
            limits: Limits::default(),
            web: Web::default(),
            state_dir: None,
            procfs: "/proc".into(),
            rootfs: "/".into(),
            log: Log::default(),
            alerts: alerts::Alerts::default(),
            receivers: Vec::new(),
        }
    }
}

/// The name of a collector: flag, label and key of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CollectorName {
    /// Filesystem and bytes of the store.
    Disk,
    /// SQLite file, journal and schema.
    Integrity,
    /// What the tables hold.
    Contents,
    /// Indexes of the collections.
    Hnsw,
    /// Who holds the directory.
    Processes,
    /// Owners, groups and modes.
    Permissions,
    /// Age and size of backups.
    Backups,
    /// Whether the server answers.
    Server,
    /// What the server logs.
    Logs,
}

impl CollectorName {
    /// All of them, in the order of the registry.
    pub const ALL: [Self; 9] = [
        Self::Disk,
        Self::Integrity,
        Self::Contents,
        Self::Hnsw,
        Self::Processes,
        Self::Permissions,
        Self::Backups,
        Self::Server,
        Self::Logs,
    ];

    /// What it reads, for help texts.
    #[must_use]
    pub const fn about(self) -> &'static str {
        match self {
            Self::Disk => "filesystem and bytes of the store",
            Self::Integrity => "SQLite file, journal and schema",
            Self::Contents => "what the tables hold",
            Self::Hnsw => "indexes of the collections",
            Self::Processes => "who holds the directory",
            Self::Permissions => "owners, groups and modes",
            Self::Backups => "age and size of backups",
            Self::Server => "whether the server answers",
            Self::Logs => "what the server logs",
        }
    }

    /// The word of flag and label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Integrity => "integrity",
            Self::Contents => "contents",
            Self::Hnsw => "hnsw",
            Self::Processes => "processes",
            Self::Permissions => "permissions",
            Self::Backups => "backups",
            Self::Server => "server",
            Self::Logs => "logs",
        }
    }
}

/// One persist directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// Value of the `store` label: 1 to 64 of `[A-Za-z0-9_.-]`, unique.
    pub name: Arc<str>,
    /// The directory as the operator wrote it: absolute.
    pub path: PathBuf,
    /// The directory as this process sees it, below `rootfs`.
    pub seen_path: PathBuf,
    /// Where its backups lie.
    pub backups: BackupPolicy,
    /// What its permissions should be.
    pub permissions: PermissionPolicy,
    /// Shell patterns of the server's log files, absolute, already below `rootfs`. Empty: none is read.
    pub logs: Vec<String>,
    /// Where the server that serves it is asked; `None`: it is not.
    pub server: Option<ServerProbe>,
    /// The release of Chroma that serves it, when the operator says so.
    pub chroma_version: Option<String>,
    /// The process through whose root `seen_path` leads, when it was found by itself and has no path here.
    pub through: Option<Through>,
}

/// A process through whose root a directory is seen: that of a container's own layer has no path on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Through {
    /// Process id in the namespace of the procfs that was read.
    pub pid: u32,
    /// When it started, in clock ticks after boot: with the pid it names one process.
    pub start_ticks: u64,
    /// The directory as it sees it.
    pub path: PathBuf,
}

impl Store {
    /// A directory of which nothing more is known.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>, path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self {
            name: name.into(),
            seen_path: path.clone(),
            path,
            backups: BackupPolicy::daily(Vec::new()),
            permissions: PermissionPolicy::default(),
            logs: Vec::new(),
            server: None,
            chroma_version: None,
            through: None,
        }
    }

    /// What documents about it are filed under: the path, or where that leads through a process, which is another one after
    /// every start of a container, the name.
    #[must_use]
    pub fn subject(&self) -> Cow<'_, Path> {
        match &self.through {
            None => Cow::Borrowed(&self.path),
            Some(through) => {
                let mut subject = OsString::from(format!("{}:", self.name));
                subject.push(&through.path);
                Cow::Owned(subject.into())
            }
        }
    }
}

/// How the server of a store is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerProbe {
    /// `http://` or `https://`, host, port, perhaps a path; no user, no query, no slash at the end.
    pub url: String,
    /// A file with headers that go with each request, such as credentials; read at each probe, never kept.
    pub headers_file: Option<PathBuf>,
    /// Longest wait for one answer.
    pub timeout: Duration,
    /// Time between two probes.
    pub interval: Duration,
}

impl ServerProbe {
    /// A server without credentials at `url`, asked at the usual pace.
    #[must_use]
    pub fn at(url: String) -> Self {
        let (timeout, interval) = (Duration::from_secs(5), Duration::from_secs(30));
        Self { url, headers_file: None, timeout, interval }
    }
}

/// Where backups of a store lie and how old they may be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BackupPolicy {
    /// Shell patterns of archives and directories, absolute, already below `rootfs`. Empty: nothing is expected.
    pub globs: Vec<String>,
    /// Older than this is `backup_stale`, warning.
    pub warn_after: Duration,
    /// Older than this is `backup_stale`, critical.
    pub critical_after: Duration,
    /// A file or directory that changed more recently than this may still be growing.
    pub settle: Duration,
}

/// What owners and modes should be. What is `None` is learnt at the first look.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PermissionPolicy {
    /// Numeric owner.
    pub uid: Option<u32>,
    /// Numeric group.
    pub gid: Option<u32>,
    /// Mode of regular files, the low twelve bits.
    pub file_mode: Option<u32>,
    /// Mode of directories, the low twelve bits.
    pub directory_mode: Option<u32>,
    /// The uid that Chroma runs as, for the effective access; otherwise that of the process that holds the directory.
    pub server_uid: Option<u32>,
    /// Its groups, with `server_uid`.
    pub server_gids: Vec<u32>,
}

/// Paces and bounds.
#[derive(Debug, Clone, PartialEq)]
pub struct Collect {
    /// Time between two cheap turns.
    pub interval: Duration,
    /// How long the filesystem of a store may take to answer `statvfs`.
    pub device_timeout: Duration,
    /// Longest cheap run.
    pub deadline: Duration,
    /// Time between two runs of `quick_check`.
    pub quick_check_interval: Duration,
    /// Time between two runs of `integrity_check`.
    pub full_check_interval: Duration,
    /// Longest single statement against a database that a process holds.
    pub statement_deadline: Duration,
    /// Longest check of a database that nobody holds.
    pub check_deadline: Duration,
    /// When checks that read whole files may begin; always without one.
    pub check_window: Option<Window>,
    /// Shortest time between two looks at tables after changes.
    pub contents_interval: Duration,
    /// Time between two full walks of permissions.
    pub permissions_interval: Duration,
    /// Time between two looks at backups.
    pub backups_interval: Duration,
}

impl Default for Collect {
    fn default() -> Self {
        const MINUTE: u64 = 60;
        const HOUR: u64 = 60 * MINUTE;
        Self {
            interval: Duration::from_secs(5),
            device_timeout: Duration::from_secs(2),
            deadline: Duration::from_secs(30),
            quick_check_interval: Duration::from_secs(HOUR),
            full_check_interval: Duration::from_secs(24 * HOUR),
            statement_deadline: Duration::from_millis(250),
            check_deadline: Duration::from_secs(30 * MINUTE),
            check_window: None,
            contents_interval: Duration::from_secs(MINUTE),
            permissions_interval: Duration::from_secs(10 * MINUTE),
            backups_interval: Duration::from_secs(MINUTE),
        }
    }
}

/// How checks of a whole database read it while a process has it open.
#[derive(Debug, Clone, PartialEq)]
pub struct Integrity {
    /// Where consistent copies of a database go; `None` looks for a place.
    pub scratch_dir: Option<PathBuf>,
    /// Bytes that a copy reads a second at most, while nobody writes to its database; half of it at other times and for what
    /// hurries nobody.
    pub read_rate_bytes_max: u64,
}

impl Default for Integrity {
    fn default() -> Self {
        Self { scratch_dir: None, read_rate_bytes_max: 1 << 30 }
    }
}

/// When the filesystem of a store is a finding.
#[derive(Debug, Clone, PartialEq)]
pub struct Disk {
    /// Used ratio of the filesystem that is a warning, 0 to 1.
    pub warn_ratio: f64,
    /// Used ratio below which the warning ends.
    pub recover_ratio: f64,
    /// Used ratio that is critical.
    pub critical_ratio: f64,
    /// Free inodes below this ratio are few.
    pub inodes_low_ratio: f64,
    /// A filesystem that will be full within this time is a warning.
    pub full_within: Duration,
}

impl Default for Disk {
    fn default() -> Self {
        Self {
            warn_ratio: 0.80,
            recover_ratio: 0.75,
            critical_ratio: 0.90,
            inodes_low_ratio: 0.05,
            full_within: Duration::from_hours(24),
        }
    }
}

/// Bounds against a directory or configuration that got out of hand.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Most entries that a walk of one store looks at.
    pub entries: usize,
    /// Most series on the page; more are dropped and counted.
    pub series: usize,
    /// Most stores that are found by themselves.
    pub discovered_stores: usize,
    /// Collections of each store that have a series of their own, the largest; 0 for none.
    pub collections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 1_000_000, series: 100_000, discovered_stores: 64, collections: 20 }
    }
}

/// The HTTP side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Web {
    /// Addresses to listen on; port 0 lets the system choose.
    pub listen_addresses: Vec<SocketAddr>,
    /// Path of the metrics page.
    pub telemetry_path: String,
    /// Whether `POST /-/reload` is answered.
    pub enable_lifecycle: bool,
    /// Most connections at once.
    pub max_connections: usize,
    /// Longest time for a request's header to arrive.
    pub header_timeout: Duration,
    /// Names by which this server is asked on loopback, besides those of the machine.
    pub allowed_hosts: Vec<String>,
    /// TLS, users and headers, in the form that Prometheus' exporters share; without one it is plain HTTP for everybody.
    pub config_file: Option<PathBuf>,
}

impl Default for Web {
    fn default() -> Self {
        Self {
            listen_addresses: vec![SocketAddr::from(([127, 0, 0, 1], DEFAULT_PORT))],
            telemetry_path: "/metrics".to_owned(),
            enable_lifecycle: false,
            max_connections: 512,
            header_timeout: Duration::from_secs(10),
            allowed_hosts: Vec::new(),
            config_file: None,
        }
    }
}

/// What is logged, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Log {
    /// Events below this level are dropped.
    pub level: LogLevel,
    /// One line per event in either format.
    pub format: LogFormat,
}

/// How grave an event must be to be logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum LogLevel {
    /// An operator must act.
    Error,
    /// Unexpected, nothing lost.
    Warn,
    /// What was asked for happened.
    #[default]
    Info,
    /// For whoever looks for a fault in this program.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// All of them, gravest first.
    pub const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// The word of flag and key.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// `key=value` pairs, as Prometheus' own programs write them.
    #[default]
    Logfmt,
    /// One JSON document per line.
    Json,
}

impl LogFormat {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Logfmt, Self::Json];

    /// The word of flag and key.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Logfmt => "logfmt",
            Self::Json => "json",
        }
    }
}

/// Chroma's port plus 10000.
pub const DEFAULT_PORT: u16 = 18000;

impl BackupPolicy {
    /// Daily backups with two full runs of slack before it is critical.
    #[must_use]
    pub fn daily(globs: Vec<String>) -> Self {
        Self {
            globs,
            warn_after: Duration::from_hours(26),
            critical_after: Duration::from_hours(50),
            settle: Duration::from_secs(10),
        }
    }
}

#[cfg(test)]
mod tests;
