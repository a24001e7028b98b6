//! The validated configuration: what the program does, in types that cannot be wrong. Reading the file, the flags and
//! the places of mistakes in them is the business of `file`; nothing here touches the disk.

pub mod alerts;
pub(crate) mod collector;
pub mod file;
pub(crate) mod keys;
pub mod print;
pub mod reference;
pub(crate) mod validate;
pub(crate) mod web_file;

pub use crate::deliver::receivers::Receiver;
pub use collector::CollectorName;
pub use keys::{
    BackupJob, BackupPolicy, Collect, Disk, Form, Integrity, Keep, Limits, Log, PartLevels,
    ServerProbe, Web,
};
pub use validate::{Overrides, PatternFlag, StoreFlag, at_next_start};

use crate::host::Places;
use std::{
    borrow::Cow,
    collections::BTreeSet,
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};

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
    /// Backups that this program makes of it; `None`: it makes none.
    pub backup: Option<BackupJob>,
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
            backup: None,
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

impl BackupPolicy {
    /// Daily backups with two full runs of slack before it is critical.
    #[must_use]
    pub fn daily(globs: Vec<String>) -> Self {
        Self { globs, ..Self::default() }
    }
}

impl ServerProbe {
    /// A server without credentials at `url`, asked at the usual pace.
    #[must_use]
    pub fn at(url: String) -> Self {
        Self { url, ..Self::default() }
    }
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

impl From<&Arc<Config>> for Places {
    fn from(config: &Arc<Config>) -> Self {
        Self::from(&**config)
    }
}

impl From<&Config> for Places {
    fn from(config: &Config) -> Self {
        Self { procfs: config.procfs.clone(), state_dir: config.state_dir.clone() }
    }
}

#[cfg(test)]
mod tests;
