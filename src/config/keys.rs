//! Every key of the configuration but those of alerts and receivers, each declared once; [`key`](crate::keys::key) says what comes
//! from a declaration. What must hold between keys, flags and the host is the business of [`validate`](super::validate).

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use jiff::tz::TimeZone;

use super::{CollectorName, LogFormat, LogLevel, alerts::Alerts};
use crate::{
    facts::{
        bad_value::BadValue,
        window::{Daily, Window},
    },
    keys::{
        key::{
            Declared, Key, Kind, Written, bytes, choice, count, items, keys, list, mode, part,
            path, path_from_here, ratio, section, span, switch, word,
        },
        report::{At, ConfigError, Given, Place, Report},
        rules::{self, Listen},
        section::{Section, flag, shown, text},
        yaml::{Scalar, ScalarKind, Value},
    },
};

keys! {
    /// The configuration of `chroma_exporter`.
    pub(crate) struct File {
        /// The directories to watch. Without any, the program finds and watches those that running Chroma processes use.
        stores: Vec<At<RawStore>> = Vec::new(), items(STORES_MAX);
        /// What is read of every store.
        collectors: BTreeMap<CollectorName, bool> = BTreeMap::new(), collectors();
        /// How often collectors run, and for how long at most.
        collect: Collect = Collect::default(), section();
        /// How a whole database is read. While a process has it open, that is done on a consistent copy, and no writer notices.
        integrity: Integrity = Integrity::default(), section();
        /// When the filesystem of a store is a finding. Ratios are used / (used + available), as `df` shows them.
        disk: Disk = Disk::default(), section();
        /// The web server: metrics, status page and API.
        web: Web = Web::default(), section();
        /// What must survive a restart: learnt permissions, results of integrity checks, hashes of what was read, alerts.
        state: State = State::default(), section();
        /// For a container: where the host's /proc and / are mounted. Paths of stores and backups are written as they are on the host.
        path: Paths = Paths::default(), section();
        /// Bounds for a directory or a configuration that grew out of hand.
        limits: Limits = Limits::default(), section();
        /// What the program logs.
        log: Log = Log::default(), section();
        /// What messages say of this host, and changes of the alert rules; `chroma_exporter explain` lists the built-in ones.
        alerts: Alerts = Alerts::default(), apart::<Alerts>();
    }
}

keys! {
    /// One item of `stores`, or one `--store.path`.
    pub(crate) struct RawStore {
        /// Value of the label `store`. The last part of the path when left out.
        name: Option<At<String>> = None, word("name: 1 to 64 of A-Z a-z 0-9 _ . -", |name| {
            rules::store_name(name).map(str::to_owned)
        }).placed().optional().example("documents");
        /// The persist directory: the one with chroma.sqlite3.
        path: Option<At<PathBuf>> = None,
            path().placed().optional().required("must be given: the directory to watch").example("/srv/chroma");
        /// Where the backups of this store appear, and how old they may be. A list of patterns is enough.
        backups: BackupPolicy = BackupPolicy::daily(Vec::new()), backups();
        /// Backups that the exporter makes of this store by itself, and proves. Without this section it makes none.
        backup: Option<BackupJob> = None, part();
        /// What owners and modes should be. What is left out is learnt at the first look.
        permissions: RawPermissions = RawPermissions::default(), section();
        /// The server's log files, or shell patterns of them. Lines from before the first start are not read.
        logs: Vec<String> = Vec::new(), patterns().example("[/var/log/chroma/*.log]");
        /// Ask the server itself: heartbeat, version, tenant, and a read that needs the database.
        server: Option<ServerProbe> = None, part();
        /// The release of Chroma that serves it. The program finds it out when it is left out.
        chroma_version: Option<String> = None, word("version", |version| {
            rules::chroma_version(version).map(str::to_owned)
        }).optional().example("1.5.9");
    }
}

keys! {
    /// Where backups of a store lie and how old they may be.
    pub struct BackupPolicy: Eq {
        /// Shell patterns of archives and directories.
        globs as "patterns": Vec<String> = Vec::new(), patterns().example("[/var/backups/chroma/chroma_db.backup.*]");
        /// The newest complete backup is older: `backup_stale`, a warning.
        warn_after: Duration = Duration::from_hours(26), span(MINUTE..=YEARS_10);
        /// The newest complete backup is older: `backup_stale` is critical.
        critical_after: Duration = Duration::from_hours(50), span(MINUTE..=YEARS_10);
        /// A backup that changed within this time may still be growing.
        settle: Duration = Duration::from_secs(10), span(Duration::ZERO..=DAY);
        /// How often the newest backup is unpacked and proven to restore. 0: never.
        drill: Duration = Duration::from_hours(7 * 24), span(Duration::ZERO..=YEAR);
    }
    where warn_after < critical_after
}

keys! {
    /// Backups that the exporter makes of a store by itself.
    pub struct BackupJob: Eq {
        /// The directory that they are written to, best on another disk. Not inside a store.
        to: PathBuf = PathBuf::new(), path().required("must be given: the directory for the backups").example("/var/backups/chroma");
        /// archive: one compressed file. directory: files as they are, of which restic and others store only what changed.
        form: Form = Form::Archive, choice(&Form::ALL, Form::as_str);
        /// How many are kept. Only backups that were proven to restore count, and the last of them is never removed.
        keep: Keep = Keep::default(), section();
        /// When one is made each day: "02:00" in UTC, "02:00 Europe/Berlin" or "02:00 local".
        at: Option<Daily> = None, daily().optional().example("\"02:00 local\"");
        /// How often one is made, where no time of the day is given.
        every: Duration = DAY, span(MINUTE..=YEAR);
        /// A program and its arguments, to be run for a proven backup: {path}, {manifest} and {sha256} are replaced.
        after: Vec<String> = Vec::new(), list("words", WORDS_MAX, |word| Ok(word.to_owned()))
            .example("[rclone, copy, \"{path}\", \"remote:chroma\"]");
        /// Longest time for that program.
        after_timeout: Duration = HOUR, span(SECOND..=DAY);
    }
}

keys! {
    /// How many backups are kept.
    pub struct Keep: Copy, Eq {
        /// The newest so many.
        last: usize = 3, count(1..=KEEP_MAX);
        /// The newest of each of so many days that have one.
        daily: usize = 0, count(0..=KEEP_MAX);
        /// The same of weeks, which begin on Monday.
        weekly: usize = 0, count(0..=KEEP_MAX);
        /// The same of months.
        monthly: usize = 0, count(0..=KEEP_MAX);
    }
}

/// How a backup is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// One `.tar.zst`.
    Archive,
    /// A directory.
    Directory,
}

impl Form {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Archive, Self::Directory];

    /// The word of flag and key.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Archive => "archive",
            Self::Directory => "directory",
        }
    }
}

keys! {
    /// What owners and modes should be, as the file says it.
    pub(crate) struct RawPermissions {
        /// User, by name or number.
        owner: Option<At<Account>> = None, account().example("root");
        /// Group, by name or number.
        group: Option<At<Account>> = None, account().example("root");
        /// Mode of regular files.
        file_mode: Option<u32> = None, mode().optional().example("\"0644\"");
        /// Mode of directories.
        directory_mode: Option<u32> = None, mode().optional().example("\"0755\"");
        /// The user that Chroma runs as. Without it, whoever holds the directory.
        server_user: Option<At<Account>> = None, account().example("root");
    }
}

keys! {
    /// How the server of a store is asked.
    pub struct ServerProbe: Eq {
        /// Where the server listens: `http://` or `https://`, host and port, perhaps a path. No user, no query.
        url: String = String::new(), server_url().required("must be given: where the server listens");
        /// A file with headers such as "Authorization: Bearer TOKEN", one per line. It is read at each probe and never kept.
        headers_file: Option<PathBuf> = None, path().optional().example("/etc/chroma_exporter/headers");
        /// Longest wait for one answer.
        timeout: Duration = Duration::from_secs(5), span(MS_100..=MINUTE);
        /// Time between two probes. Each shows in the server's access log. A server that does not answer is asked every 5 seconds.
        interval: Duration = Duration::from_secs(30), span(SECOND..=DAY);
    }
}

keys! {
    /// How often collectors run, and for how long at most.
    pub struct Collect {
        /// Time between two cheap runs of a collector. A change of the files starts one at once.
        interval: Duration = Duration::from_secs(5), span(MS_100..=HOUR);
        /// Longest such run.
        deadline: Duration = Duration::from_secs(30), span(SECOND..=HOUR);
        /// A filesystem that does not answer within this time hangs.
        device_timeout: Duration = Duration::from_secs(2), span(MS_100..=MINUTE);
        /// Time between two runs of SQLite's `quick_check`.
        quick_check_interval: Duration = HOUR, span(SECOND..=YEAR);
        /// Time between two runs of SQLite's `integrity_check`, and between two readings of files that nobody wrote.
        full_check_interval: Duration = DAY, span(SECOND..=YEAR);
        /// Longest such check.
        check_deadline: Duration = Duration::from_mins(30), span(SECOND..=DAY);
        /// When these checks may begin, such as "01:00-05:00" in UTC, "01:00-05:00 Europe/Berlin" or "22:00-04:00 local". Empty: always.
        check_window: Option<Window> = None, window().or_nothing();
        /// Longest lock on a database that a process holds, while no writer waits for it.
        statement_deadline: Duration = Duration::from_millis(250), span(Duration::from_millis(10)..=MINUTE);
        /// Shortest time between two looks at the tables.
        contents_interval: Duration = MINUTE, span(MS_100..=DAY);
        /// Time between two walks of all entries for their owners and modes.
        permissions_interval: Duration = Duration::from_mins(10), span(SECOND..=DAY);
        /// Time between two looks at the backups.
        backups_interval: Duration = MINUTE, span(SECOND..=DAY);
    }
    where device_timeout < deadline, statement_deadline < check_deadline
}

keys! {
    /// How a whole database is read.
    pub struct Integrity {
        /// Where copies go. Empty: the state directory, else the one for temporary files, if there is room.
        scratch_dir: Option<PathBuf> = None, path().or_nothing();
        /// Highest rate of reading, in bytes per second. Half of it while somebody writes to the database, and for what is not urgent.
        read_rate_bytes_max: u64 = 1 << 30, bytes(1 << 20..=1 << 40);
        /// Try the repair of a broken store on a copy, and tell in the alert what it would bring back.
        try_repairs: bool = true, switch();
    }
}

keys! {
    /// When the filesystem of a store is a finding.
    pub struct Disk {
        /// Fuller than this: a warning.
        warn_ratio: f64 = 0.80, ratio();
        /// Emptier than this: the warning ends.
        recover_ratio: f64 = 0.75, ratio();
        /// Fuller than this: critical.
        critical_ratio: f64 = 0.90, ratio();
        /// Fewer free inodes than this ratio of all: a warning.
        inodes_low_ratio: f64 = 0.05, ratio();
        /// Full within this time at the present pace: a warning.
        full_within: Duration = DAY, span(MINUTE..=YEARS_10);
    }
    where recover_ratio < warn_ratio, warn_ratio < critical_ratio
}

keys! {
    /// The web server.
    pub struct Web: Eq {
        /// Addresses to listen on. :18000 is every interface, port 0 lets the system choose.
        listen_addresses: Vec<SocketAddr> = vec![SocketAddr::from(([127, 0, 0, 1], super::DEFAULT_PORT))],
            listen().flags("web.listen-address", "ADDRESS").at_start();
        /// Listen on the sockets that systemd opened (a .socket unit), and not on addresses.
        systemd_socket: bool = false, switch().flag("web.systemd-socket", "").at_start();
        /// Path of the metrics page.
        telemetry_path: String = "/metrics".to_owned(), word("path", |text| {
            rules::telemetry_path(text).map(str::to_owned)
        }).flag("web.telemetry-path", "PATH").at_start();
        /// Answer POST /-/reload.
        enable_lifecycle: bool = false, switch().flag("web.enable-lifecycle", "").at_start();
        /// Highest number of connections at once.
        max_connections: usize = 512, count(1..=100_000).flag("web.max-connections", "COUNT").at_start();
        /// Highest number of pages that are being made or sent at once; 0: as many as there are connections. Paths below /-/ are always answered.
        max_requests: usize = 0, count(0..=100_000).flag("web.max-requests", "COUNT").at_start();
        /// Longest time for the header of a request to arrive.
        header_timeout: Duration = Duration::from_secs(10), span(MS_100..=Duration::from_mins(5)).at_start();
        /// Names by which this server is asked on loopback, as by a proxy there. The names of this machine are always answered.
        allowed_hosts: Vec<String> = Vec::new(), list("names of hosts", HOSTS_MAX, rules::host_name).at_start();
        /// TLS, client certificates, users and headers, in the form of Prometheus' exporter-toolkit. Empty: plain HTTP for everybody.
        config_file: Option<PathBuf> = None, path_from_here().or_nothing().flag("web.config.file", "FILE").at_start();
    }
}

keys! {
    /// What must survive a restart.
    pub(crate) struct State {
        /// Where the exporter keeps what must survive a restart. Of one exporter at a time, owned by its user or by root. "" keeps it in memory.
        dir: Option<At<Option<PathBuf>>> = None, path_from_here().or_nothing().placed().optional()
            .flag("state.dir", "DIR").at_start().example("/var/lib/chroma_exporter")
            .otherwise("$STATE_DIRECTORY (systemd), else /var/lib/chroma_exporter for root, else ~/.local/state/chroma_exporter");
    }
}

keys! {
    /// Where the host is seen.
    pub(crate) struct Paths {
        /// Where the host's /proc is mounted.
        procfs: PathBuf = "/proc".into(), path().flag("path.procfs", "DIR").at_start();
        /// Where the host's / is mounted; paths of stores and backups are looked up there.
        rootfs: PathBuf = "/".into(), path().flag("path.rootfs", "DIR");
    }
}

keys! {
    /// Bounds for a directory or a configuration that grew out of hand.
    pub struct Limits {
        /// Most series on the page; more are dropped and counted. A store has about 300.
        series: usize = 100_000, count(100..=10_000_000);
        /// Most entries that a walk of one store looks at.
        entries: usize = 1_000_000, count(100..=100_000_000);
        /// Most stores that are found by themselves.
        discovered_stores: usize = 64, count(1..=STORES_MAX);
        /// So many of the largest collections of a store have a series of their own, named after them; 0 for none.
        collections: usize = 20, count(0..=1000);
    }
}

keys! {
    /// What is logged, and how.
    pub struct Log: Copy, Eq {
        /// Log this level and what is more severe. Commands other than serve log warn and error unless the flag is given.
        level: LogLevel = LogLevel::Info, choice(&LogLevel::ALL, LogLevel::as_str).flag("log.level", "LEVEL");
        /// Another level for a part of the program, for whoever looks for a fault in it. Empty: as above.
        levels: PartLevels = PartLevels::default(), section();
        /// Format of the log.
        format: LogFormat = LogFormat::Logfmt, choice(&LogFormat::ALL, LogFormat::as_str).flag("log.format", "FORMAT").at_start();
    }
}

keys! {
    /// Levels of parts of the program.
    pub struct PartLevels: Copy, Eq {
        /// What reads the stores.
        collectors: Option<LogLevel> = None, part_level();
        /// Alerts, receivers and what they answer.
        deliver: Option<LogLevel> = None, part_level();
        /// Processes, the state directory, the queue of expensive jobs.
        host: Option<LogLevel> = None, part_level();
        /// The web server.
        http: Option<LogLevel> = None, part_level();
        /// Backups and what is made of them.
        repair: Option<LogLevel> = None, part_level();
    }
}

fn part_level() -> Kind<Option<LogLevel>> {
    choice(&LogLevel::ALL, LogLevel::as_str).or_nothing()
}

/// A user or group, by number or by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Account {
    Id(u32),
    Name(String),
}

fn account() -> Kind<Option<At<Account>>> {
    let write = |account: &Account| match account {
        Account::Id(id) => Written::Count((*id).into()),
        Account::Name(name) => Written::Text(name.clone()),
    };
    Kind::one("name or number", parse_account, write).placed().optional()
}

fn parse_account(value: &Value) -> Result<Account, BadValue> {
    const RULE: &str = "must be a name or a number";
    let Value::Scalar(Scalar { text, kind: ScalarKind::Text | ScalarKind::Number, .. }) = value
    else {
        return Err(RULE.into());
    };
    if text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
        // The highest number means "no user" to the kernel.
        let id = text.parse().ok().filter(|id| *id != u32::MAX);
        return id.map(Account::Id).ok_or(BadValue::TooLarge(u32::MAX.into()));
    }
    let plain = !text.is_empty()
        && text.len() <= 256
        && !text.contains([':', ','])
        && !text.chars().any(char::is_control);
    if plain { Ok(Account::Name(text.clone())) } else { Err(RULE.into()) }
}

/// A switch for each collector; the flags of their own are made elsewhere.
fn collectors() -> Kind<BTreeMap<CollectorName, bool>> {
    let read = |section: &Section<'_>, key| {
        let below = section.below(key);
        let on = |name: CollectorName| Some((name, below.read(name.as_str(), flag)?.value));
        Some(CollectorName::ALL.into_iter().filter_map(on).collect())
    };
    let write = |on: &BTreeMap<CollectorName, bool>| {
        let on =
            |name: CollectorName| (name.as_str(), Written::Flag(on.get(&name) != Some(&false)));
        Some(Written::Keys(CollectorName::ALL.map(on).into()))
    };
    let key = |name: CollectorName| {
        switch().key(name.as_str(), &format!("Read {}.", name.about()), &true)
    };
    Kind::custom("section", read, write).with(CollectorName::ALL.map(key).into())
}

/// A list of patterns, or a section with that list and the ages.
fn backups() -> Kind<BackupPolicy> {
    let read = |section: &Section<'_>, key| match section.node(key).map(|node| &node.value) {
        Some(Value::List(_)) => patterns().read(section, key).map(BackupPolicy::daily),
        _ => Some(BackupPolicy::read(&section.below(key))),
    };
    Kind::custom("section, or list of patterns", read, |policy| Some(policy.written()))
        .with(BackupPolicy::keys())
}

fn patterns() -> Kind<Vec<String>> {
    list("absolute shell patterns", PATTERNS_MAX, rules::backup_pattern)
}

fn server_url() -> Kind<String> {
    let read = |section: &Section<'_>, given: &At<&Value>| {
        let checked = text(given.value).and_then(rules::server_url).map_err(|rule| {
            let found = shown(given.value);
            // What may hold a password is not repeated.
            if found.contains('@') { given.place.wrong(rule) } else { given.place.bad(found, rule) }
        });
        section.reported(checked)
    };
    Kind::given("URL", read, |url| Written::Text(url.clone())).example("http://127.0.0.1:8000")
}

fn listen() -> Kind<Vec<SocketAddr>> {
    let read = |section: &Section<'_>, given: &At<&Value>| {
        let items = section.items(given.value, &given.place, LISTEN_MAX);
        if items.is_empty() && matches!(given.value, Value::List(_)) {
            section.add(given.place.bad("(an empty list)", "must name at least one address"));
        }
        let mut addresses = Vec::new();
        for item in items {
            let Some(listen) = section.judged(&item, Listen::parse) else { continue };
            let address = listen.address(section.ipv6());
            if address.port() != 0 && addresses.contains(&address) {
                section.add(item.place.bad(address, "must not stand twice"));
            }
            addresses.push(address);
        }
        Some(addresses).filter(|addresses| !addresses.is_empty())
    };
    let write = |addresses: &Vec<SocketAddr>| {
        Written::List(addresses.iter().map(|at| Written::Text(at.to_string())).collect())
    };
    Kind::given(format!("list of ADDRESS:PORT, at most {LISTEN_MAX}"), read, write)
}

/// A section whose reader needs others, which are read before.
fn apart<T: Declared + 'static>() -> Kind<T> {
    let asked = |section: &Section<'_>, key| {
        section.node(key);
        None
    };
    Kind::custom("section", asked, |value: &T| Some(value.written())).with(T::keys())
}

fn window() -> Kind<Window> {
    let parse = |value: &Value| Window::parse(text(value)?, time_zone);
    Kind::one("times of day, perhaps a time zone", parse, |window| {
        Written::Text(window.as_str().to_owned())
    })
}

fn daily() -> Kind<Daily> {
    let parse = |value: &Value| Daily::parse(text(value)?, time_zone);
    Kind::one("time of day, perhaps a time zone", parse, |daily| {
        Written::Text(daily.as_str().to_owned())
    })
}

/// A time zone of this host, or its own.
fn time_zone(name: &str) -> Option<TimeZone> {
    if name == "local" { TimeZone::try_system().ok() } else { TimeZone::get(name).ok() }
}

/// All keys, with those below them.
pub(crate) fn all() -> Vec<Key> {
    File::keys()
}

/// Whether `word` may stand behind the flag `long`. Errs with the rule that it breaks and no place: the caller names the flag.
pub(crate) fn judge(long: &str, word: &str) -> Result<(), ConfigError> {
    let words = [(long.to_owned(), vec![word.to_owned()])].into();
    let report = Report::new(Given { words, cwd: Some("/".into()), ipv6: true });
    drop(File::read(&Section::empty(&report)));
    match report.into_problems().into_iter().next() {
        None => Ok(()),
        Some(problem) => Err(Place::outside("").wrong(problem.rule)),
    }
}

/// Most stores of one host.
pub(crate) const STORES_MAX: usize = 1000;

const PATTERNS_MAX: usize = 100;
const HOSTS_MAX: usize = 64;
const LISTEN_MAX: usize = 16;
const WORDS_MAX: usize = 100;
const KEEP_MAX: usize = 10_000;

const MS_100: Duration = Duration::from_millis(100);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);
const YEAR: Duration = Duration::from_hours(365 * 24);
const YEARS_10: Duration = Duration::from_hours(10 * 365 * 24);
