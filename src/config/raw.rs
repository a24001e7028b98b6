//! The configuration file as it was written: which keys there are and what each may be. What must hold between keys,
//! flags and the host is the business of [`validate`](super::validate).

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use jiff::tz::TimeZone;

use super::{
    BackupPolicy, Collect, CollectorName, ConfigError, Disk, Integrity, Limits, Log, LogFormat,
    LogLevel, Receiver, ServerProbe, Web,
    alerts::{self, Alerts},
    report::{At, Place, Report},
    rules::{self, Listen},
    section::{self, Section, count, duration, ratio, shown, text},
    yaml::{Kind, Node, Scalar, Value},
};
use crate::{deliver::receivers::list, format::window::Window};

/// Everything that a file can say.
#[derive(Debug, Default)]
pub(crate) struct RawConfig {
    pub(crate) stores: Vec<RawStore>,
    pub(crate) collectors: BTreeMap<CollectorName, bool>,
    pub(crate) collect: Collect,
    pub(crate) integrity: Integrity,
    pub(crate) disk: Disk,
    pub(crate) limits: Limits,
    /// Without its addresses, which stand in `listen`.
    pub(crate) web: Web,
    pub(crate) listen: Vec<At<Listen>>,
    /// Empty text: in memory only.
    pub(crate) state_dir: Option<At<String>>,
    pub(crate) procfs: Option<PathBuf>,
    pub(crate) rootfs: Option<PathBuf>,
    pub(crate) log: Log,
    pub(crate) alerts: Alerts,
    pub(crate) receivers: Vec<Arc<Receiver>>,
}

/// One item of `stores`, or one `--store.path`.
#[derive(Debug)]
pub(crate) struct RawStore {
    pub(crate) place: Place,
    pub(crate) name: Option<At<String>>,
    /// `None` when it was given and wrong, which has been reported.
    pub(crate) path: Option<At<PathBuf>>,
    /// Without its patterns, which stand in `patterns`.
    pub(crate) backups: BackupPolicy,
    /// Patterns as they stand in the configuration, not yet below the host's root.
    pub(crate) patterns: Vec<String>,
    pub(crate) permissions: RawPermissions,
    /// Patterns as they stand in the configuration, not yet below the host's root.
    pub(crate) logs: Vec<String>,
    pub(crate) server: Option<ServerProbe>,
    pub(crate) chroma_version: Option<String>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct RawPermissions {
    pub(crate) owner: Option<At<Account>>,
    pub(crate) group: Option<At<Account>>,
    pub(crate) file_mode: Option<u32>,
    pub(crate) directory_mode: Option<u32>,
    pub(crate) server_user: Option<At<Account>>,
}

/// A user or group, by number or by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Account {
    Id(u32),
    Name(String),
}

impl RawConfig {
    /// Reads the tree of `file`. What is wrong is reported and keeps its default.
    pub(crate) fn read(file: &Arc<str>, tree: &Node, report: &Report) -> Self {
        let top = Section::top(report, file, tree);
        let items = top.list("stores", STORES_MAX);
        let stores =
            items.iter().filter_map(|item| Some(store(&top.item(item)?, &item.place))).collect();
        let mut raw = Self { stores, ..Self::default() };
        if let Some(collectors) = top.section("collectors") {
            for name in CollectorName::ALL {
                if let Some(on) = collectors.read(name.as_str(), section::flag) {
                    raw.collectors.insert(name, on.value);
                }
            }
        }
        if let Some(collect) = top.section("collect") {
            read_collect(&collect, &mut raw.collect);
        }
        if let Some(integrity) = top.section("integrity") {
            read_integrity(&integrity, &mut raw.integrity);
        }
        if let Some(disk) = top.section("disk") {
            read_disk(&disk, &mut raw.disk);
        }
        if let Some(limits) = top.section("limits") {
            limits.set("series", &mut raw.limits.series, count(100..=10_000_000));
            limits.set("entries", &mut raw.limits.entries, count(100..=100_000_000));
            limits.set(
                "discovered_stores",
                &mut raw.limits.discovered_stores,
                count(1..=STORES_MAX),
            );
            limits.set("collections", &mut raw.limits.collections, count(0..=1000));
        }
        if let Some(web) = top.section("web") {
            raw.listen = listen(&web);
            web.set("telemetry_path", &mut raw.web.telemetry_path, |value| {
                Ok(rules::telemetry_path(text(value)?)?.to_owned())
            });
            web.set("enable_lifecycle", &mut raw.web.enable_lifecycle, section::flag);
            raw.web.allowed_hosts =
                section::texts(&web, "allowed_hosts", rules::HOSTS_MAX, rules::host_name).collect();
            web.set("config_file", &mut raw.web.config_file, |value| match text(value)? {
                "" => Ok(None),
                file => Ok(Some(rules::absolute_path(file)?)),
            });
            web.set("max_connections", &mut raw.web.max_connections, count(rules::CONNECTIONS));
            web.set(
                "header_timeout",
                &mut raw.web.header_timeout,
                duration(MS_100..=Duration::from_mins(5)),
            );
        }
        if let Some(state) = top.section("state") {
            raw.state_dir = state.read("dir", |value| match text(value)? {
                "" => Ok(String::new()),
                dir => Ok(rules::absolute_path(dir)?.to_string_lossy().into_owned()),
            });
        }
        if let Some(path) = top.section("path") {
            raw.procfs =
                path.read("procfs", |value| rules::absolute_path(text(value)?)).map(|at| at.value);
            raw.rootfs =
                path.read("rootfs", |value| rules::absolute_path(text(value)?)).map(|at| at.value);
        }
        raw.alerts = alerts::read(&top, &raw.disk);
        list::hide_addresses(&top, report);
        raw.receivers = list::read(&top);
        if let Some(log) = top.section("log") {
            log.set("level", &mut raw.log.level, section::choice(&LogLevel::ALL, LogLevel::as_str));
            log.set(
                "format",
                &mut raw.log.format,
                section::choice(&LogFormat::ALL, LogFormat::as_str),
            );
        }
        raw
    }
}

fn store(section: &Section<'_>, place: &Place) -> RawStore {
    let name = section.read("name", |value| Ok(rules::store_name(text(value)?)?.to_owned()));
    let path = section.read("path", |value| rules::absolute_path(text(value)?));
    if section.node("path").is_none() {
        section.add(ConfigError {
            line: place.line,
            ..section.place("path").wrong("must be given: the directory to watch")
        });
    }
    let (backups, patterns) = backups(section);
    let mut permissions = RawPermissions::default();
    if let Some(policy) = section.section("permissions") {
        permissions = RawPermissions {
            owner: policy.read("owner", account),
            group: policy.read("group", account),
            file_mode: policy.read("file_mode", section::mode).map(|at| at.value),
            directory_mode: policy.read("directory_mode", section::mode).map(|at| at.value),
            server_user: policy.read("server_user", account),
        };
    }
    let chroma_version = section
        .read("chroma_version", |value| Ok(rules::chroma_version(text(value)?)?.to_owned()))
        .map(|at| at.value);
    let logs = self::patterns(section, section.list("logs", PATTERNS_MAX));
    let server = section.section("server").and_then(|probe| server(&probe));
    RawStore {
        place: place.clone(),
        name,
        path,
        backups,
        patterns,
        permissions,
        logs,
        server,
        chroma_version,
    }
}

/// `None` when something of it is wrong, which has been reported.
fn server(section: &Section<'_>) -> Option<ServerProbe> {
    let url = section.read("url", |value| text(value).map(str::to_owned)).and_then(|url| {
        let checked = rules::server_url(&url.value);
        // What may hold a password is not repeated.
        let wrong = |rule: String| {
            if url.value.contains('@') {
                url.place.wrong(rule)
            } else {
                url.place.bad(&url.value, rule)
            }
        };
        checked.map_err(|rule| section.add(wrong(rule))).ok()
    });
    if section.node("url").is_none() {
        section.add(section.place("url").wrong("must be given: where the server listens"));
    }
    let mut probe = ServerProbe::at(url.clone().unwrap_or_default());
    probe.headers_file =
        section.read("headers_file", |value| rules::absolute_path(text(value)?)).map(|at| at.value);
    section.set("timeout", &mut probe.timeout, duration(MS_100..=Duration::from_mins(1)));
    let second = Duration::from_secs(1);
    section.set("interval", &mut probe.interval, duration(second..=Duration::from_hours(24)));
    url.map(|_| probe)
}

/// `backups` is a list of patterns, or a section with that list and the ages.
fn backups(store: &Section<'_>) -> (BackupPolicy, Vec<String>) {
    let mut policy = BackupPolicy::daily(Vec::new());
    let Some(node) = store.node("backups") else { return (policy, Vec::new()) };
    if let Value::List(_) = node.value {
        return (policy, patterns(store, store.list("backups", PATTERNS_MAX)));
    }
    let Some(section) = store.section("backups") else { return (policy, Vec::new()) };
    let age = || duration(Duration::from_mins(1)..=YEARS_10);
    section.set("warn_after", &mut policy.warn_after, age());
    section.set("critical_after", &mut policy.critical_after, age());
    section.set("settle", &mut policy.settle, duration(Duration::ZERO..=Duration::from_hours(24)));
    section.less("warn_after", policy.warn_after, "critical_after", policy.critical_after);
    let patterns = patterns(&section, section.list("patterns", PATTERNS_MAX));
    (policy, patterns)
}

fn patterns(section: &Section<'_>, items: Vec<At<&Node>>) -> Vec<String> {
    each(section, items, rules::backup_pattern).into_iter().map(|at| at.value).collect()
}

fn listen(web: &Section<'_>) -> Vec<At<Listen>> {
    let place = web.place("listen_addresses");
    let items = web.list("listen_addresses", LISTEN_MAX);
    if items.is_empty()
        && matches!(web.node("listen_addresses"), Some(Node { value: Value::List(_), .. }))
    {
        web.add(place.bad("(an empty list)", "must name at least one address"));
    }
    each(web, items, Listen::parse)
}

/// The items that `parse` takes; the others are reported.
fn each<T>(
    section: &Section<'_>,
    items: Vec<At<&Node>>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Vec<At<T>> {
    let mut good = Vec::new();
    for At { value: node, place } in items {
        match text(&node.value).and_then(&parse) {
            Ok(value) => good.push(At { value, place }),
            Err(rule) => section.add(place.bad(shown(&node.value), rule)),
        }
    }
    good
}

fn account(value: &Value) -> Result<Account, String> {
    const RULE: &str = "must be a name or a number";
    let Value::Scalar(Scalar { text, kind: Kind::Text | Kind::Number, .. }) = value else {
        return Err(RULE.to_owned());
    };
    if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
        // The highest number means "no user" to the kernel.
        let id = text.parse().ok().filter(|id| *id != u32::MAX);
        return id.map(Account::Id).ok_or_else(|| format!("must be less than {}", u32::MAX));
    }
    let plain = !text.is_empty()
        && text.len() <= 256
        && !text.contains([':', ','])
        && !text.chars().any(char::is_control);
    if plain { Ok(Account::Name(text.clone())) } else { Err(RULE.to_owned()) }
}

fn read_collect(section: &Section<'_>, collect: &mut Collect) {
    let (second, minute, hour) =
        (Duration::from_secs(1), Duration::from_mins(1), Duration::from_hours(1));
    let year = Duration::from_hours(365 * 24);
    section.set("interval", &mut collect.interval, duration(MS_100..=hour));
    section.set("deadline", &mut collect.deadline, duration(second..=hour));
    section.set("device_timeout", &mut collect.device_timeout, duration(MS_100..=minute));
    section.set("quick_check_interval", &mut collect.quick_check_interval, duration(second..=year));
    section.set("full_check_interval", &mut collect.full_check_interval, duration(second..=year));
    section.set("check_deadline", &mut collect.check_deadline, duration(second..=24 * hour));
    section.set("check_window", &mut collect.check_window, |value| match text(value)? {
        "" => Ok(None),
        window => Window::parse(window, time_zone).map(Some),
    });
    section.set(
        "statement_deadline",
        &mut collect.statement_deadline,
        duration(Duration::from_millis(10)..=minute),
    );
    section.set("contents_interval", &mut collect.contents_interval, duration(MS_100..=24 * hour));
    section.set(
        "permissions_interval",
        &mut collect.permissions_interval,
        duration(second..=24 * hour),
    );
    section.set("backups_interval", &mut collect.backups_interval, duration(second..=24 * hour));
    section.less("device_timeout", collect.device_timeout, "deadline", collect.deadline);
    let (statement, check) = (collect.statement_deadline, collect.check_deadline);
    section.less("statement_deadline", statement, "check_deadline", check);
}

/// A time zone of this host, or its own.
fn time_zone(name: &str) -> Option<TimeZone> {
    if name == "local" { TimeZone::try_system().ok() } else { TimeZone::get(name).ok() }
}

fn read_integrity(section: &Section<'_>, integrity: &mut Integrity) {
    section.set("scratch_dir", &mut integrity.scratch_dir, |value| match text(value)? {
        "" => Ok(None),
        dir => rules::absolute_path(dir).map(Some),
    });
    let mut rate = usize::try_from(integrity.read_rate_bytes_max).unwrap_or(usize::MAX);
    section.set("read_rate_bytes_max", &mut rate, count(1 << 20..=1 << 40));
    integrity.read_rate_bytes_max = rate as u64;
}

fn read_disk(section: &Section<'_>, disk: &mut Disk) {
    section.set("warn_ratio", &mut disk.warn_ratio, ratio);
    section.set("recover_ratio", &mut disk.recover_ratio, ratio);
    section.set("critical_ratio", &mut disk.critical_ratio, ratio);
    section.set("inodes_low_ratio", &mut disk.inodes_low_ratio, ratio);
    section.set("full_within", &mut disk.full_within, duration(Duration::from_mins(1)..=YEARS_10));
    let (recover, warn) = (disk.recover_ratio, disk.warn_ratio);
    section.less("recover_ratio", recover, "warn_ratio", warn);
    section.less("warn_ratio", warn, "critical_ratio", disk.critical_ratio);
}

/// Most stores of one host.
pub(crate) const STORES_MAX: usize = 1000;

const PATTERNS_MAX: usize = 100;
const LISTEN_MAX: usize = 16;
const MS_100: Duration = Duration::from_millis(100);
const YEARS_10: Duration = Duration::from_hours(10 * 365 * 24);
