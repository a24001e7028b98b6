//! `guard`: looks at a store before its server starts, repairs what loses nothing, and then becomes the server. It takes the lock
//! of the directory, which the server inherits and keeps as long as it lives, so that no second one starts on it.

mod mend;

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fmt, fs,
    fs::File,
    io,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::Arc,
    thread,
    time::Duration,
};

use clap::ValueHint;
use rustix::io::FdFlags;

use self::mend::{Mender, OnLoss};
use super::{
    Ended,
    check::runner::{self, Depth, Running},
    plain, to_stderr,
};
use crate::{
    collectors::hnsw,
    config::{CollectorName, Config, PermissionPolicy, Store},
    findings::{Finding, Severity},
    format::{
        proc::parse_boot_time,
        sqlite::{JOURNAL_SUFFIX, WAL_SUFFIX},
    },
    host::{Host, links, processes::ProcessTable},
    keys::rules::below_root,
    repair::{
        holders::{self, Holds},
        restore,
    },
    store::{self, DATABASE_FILE, database::beside},
};

/// What `guard` takes beside the flags of every command.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Options {
    /// What to do instead of starting the program: end with exit code 2, or wait and look again, so that a process manager does
    /// not start it over and over
    #[arg(long, value_name = "WHAT", default_value = "exit")]
    when_refused: WhenRefused,

    /// What to do when no repair keeps everything: refuse, or put the newest backup in place that proves to restore; reinitialise
    /// starts with an empty store when there is none. What was there is kept
    #[arg(long, value_name = "WHAT", default_value = "refuse")]
    on_loss: OnLoss,

    /// Repair nothing by itself, not even without a loss
    #[arg(long, conflicts_with = "on_loss")]
    only_look: bool,

    /// A directory with backups, may be repeated; those that the configuration names are known
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    backups: Vec<PathBuf>,

    /// The server, and what it takes; behind `--`
    #[arg(value_name = "PROGRAM", last = true, required = true, num_args = 1.., value_hint = ValueHint::CommandWithArguments)]
    program: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum WhenRefused {
    Wait,
    Exit,
}

/// Becomes the program when the one store of `config` may be served; comes back when it may not.
pub(super) fn run(config: &Arc<Config>, options: &Options) -> Ended {
    crate::host::priority::is_waited_for();
    let [store] = &config.stores[..] else {
        let more = config.stores.len();
        to_stderr(&format!(
            "error: guard works on one store at a time, and {more} are named\nhelp: add --store.path DIR\n"
        ));
        return Ended::Usage;
    };
    let store = store::placed(store, &config.rootfs);
    let made = store.backup.as_ref().map(|job| below_root(&config.rootfs, &job.to));
    let (mut said, mut pause) = (String::new(), PAUSE_FIRST);
    let mut tried = BTreeSet::new();
    let processes = ProcessTable::new(config.procfs.clone());
    let mender = |store: PathBuf| {
        let (made, backups) = (made.as_deref(), &options.backups[..]);
        Mender { store, made, on_loss: options.on_loss, backups, processes: &processes, say: &say }
    };
    loop {
        if !options.only_look
            && let Ok(store) = place(config, &store)
        {
            mender(store).tidy();
        }
        let refused = match inspect(config, &store) {
            Ok(ready) => return become_program(&ready, &store, &options.program),
            Err(refused) => refused,
        };
        let (words, about) = (refused.to_string(), refused.about());
        if let Refused::Found(_, findings) = &refused
            && !options.only_look
            && tried.insert(about.clone())
        {
            // Whatever a look can be taken at has a place.
            let changed = place(config, &store).is_ok_and(|store| mender(store).mend(findings));
            if changed {
                continue;
            }
        }
        if options.when_refused == WhenRefused::Exit {
            say(&words);
            return refused.ended();
        }
        // A log that says the same every minute hides what is new.
        if about != said {
            say(&words);
            say("waiting, and looking again; it starts by itself when this is mended");
            said = about;
            pause = PAUSE_FIRST;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// A store that may be served.
struct Ready {
    /// `None` where the filesystem has no locks.
    lock: Option<File>,
    notes: Vec<String>,
}

/// Why the program is not started.
enum Refused {
    /// There is no such directory.
    Missing(PathBuf),
    /// It cannot be reached or opened.
    Unreadable(PathBuf, String),
    /// Somebody uses it.
    Held(Holds),
    /// Critical findings, at least one.
    Found(PathBuf, Vec<Finding>),
}

impl Refused {
    /// What it is about, without numbers that change while it lasts.
    fn about(&self) -> String {
        match self {
            Self::Found(_, findings) => findings
                .iter()
                .flat_map(|finding| [finding.code.as_str(), " ", &*finding.subject, "\n"])
                .collect(),
            other => other.to_string(),
        }
    }

    const fn ended(&self) -> Ended {
        match self {
            Self::Unreadable(..) => Ended::Unknown,
            _ => Ended::Critical,
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(path) => write!(
                f,
                "refused: {} does not exist; Chroma would start with an empty store\nhelp: mount or restore the directory; before the very first start, make it: mkdir",
                plain(&path.to_string_lossy())
            ),
            Self::Unreadable(path, why) => write!(
                f,
                "refused: {} cannot be looked at: {}\nhelp: correct the path, or run it as a user who may read it",
                plain(&path.to_string_lossy()),
                plain(why)
            ),
            Self::Held(holds) => {
                write!(f, "refused: {}\nhelp: {}", plain(&holds.to_string()), plain(&holds.hint()))
            }
            Self::Found(path, findings) => {
                write!(f, "refused: {}", plain(&path.to_string_lossy()))?;
                for finding in findings {
                    let remedy = finding.remedy(path);
                    let subject = match &*finding.subject {
                        "" => String::new(),
                        subject => format!(" ({})", plain(subject)),
                    };
                    let (code, evidence) = (finding.code.as_str(), plain(&finding.evidence));
                    write!(
                        f,
                        "\ncritical: {code}{subject}: {evidence}\nhelp: {}",
                        plain(&remedy.words)
                    )?;
                    if let Some(command) = &remedy.command {
                        write!(f, "\n  {}", plain(command))?;
                    }
                    if let Some(note) = &remedy.note {
                        write!(f, "\n  {}", plain(note))?;
                    }
                }
                Ok(())
            }
        }
    }
}

fn say(words: &str) {
    let lines: Vec<String> =
        words.lines().map(|line| format!("guard: {}\n", plain(line))).collect();
    to_stderr(&lines.concat());
}

/// Takes the lock, makes sure that nobody else serves the store, and looks at it. Errs with why the program is not started.
fn inspect(config: &Arc<Config>, store: &Arc<Store>) -> Result<Ready, Refused> {
    let place = place(config, store)?;
    let processes = ProcessTable::new(config.procfs.clone());
    let lock = holders::lock_of(&place, &processes).map_err(Refused::Held)?;
    let mut notes = Vec::new();
    if lock.is_none() {
        notes.push("this filesystem has no locks: a second server would not be refused".to_owned());
    }
    match holders::unused(&place, &processes, false) {
        // Whoever opens it from now on would have to wait for the lease; the program does not have to.
        Ok(lease) => drop(lease),
        // The program must not stay down because somebody else's processes cannot be seen.
        Err(holds @ Holds::Unknown { .. }) => notes.push(holds.to_string()),
        Err(holds) => return Err(Refused::Held(holds)),
    }
    let findings = findings(config, store, &mut notes);
    if findings.is_empty() {
        Ok(Ready { lock, notes })
    } else {
        Err(Refused::Found(store.path.clone(), findings))
    }
}

/// The directory without links. One that is seen through a process has no path here.
/// Errs when it is not there, cannot be reached, or lies in a container.
fn place(config: &Config, store: &Store) -> Result<PathBuf, Refused> {
    let unreadable = |why: String| Refused::Unreadable(store.path.clone(), why);
    if store.through.is_some() || links::through_process(&config.procfs, &store.seen_path).is_some()
    {
        return Err(unreadable("it lies in a container; guard must run in there".to_owned()));
    }
    let place = links::follow(&config.rootfs, &store.seen_path)
        .and_then(|seen| restore::place(&seen))
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Refused::Missing(store.path.clone()),
            _ => unreadable(error.to_string()),
        })?;
    match fs::metadata(&place) {
        Ok(meta) if meta.is_dir() => Ok(place),
        Ok(_) => Err(unreadable("it is no directory".to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Refused::Missing(store.path.clone()))
        }
        Err(error) => Err(unreadable(error.to_string())),
    }
}

/// The critical findings of what a start would meet, by everything that costs little. What could not be looked at is noted: a
/// server does not stay down for that.
fn findings(config: &Arc<Config>, store: &Arc<Store>, notes: &mut Vec<String>) -> Vec<Finding> {
    let enabled: BTreeSet<CollectorName> =
        config.enabled.iter().copied().filter(|name| CHECKED.contains(name)).collect();
    notes.extend(
        CHECKED
            .iter()
            .filter(|name| !enabled.contains(name))
            .map(|name| format!("{} is switched off, and was not looked at", name.as_str())),
    );
    let store = Arc::new(Store { permissions: as_us(&store.permissions), ..(**store).clone() });
    let config =
        Arc::new(Config { enabled, stores: vec![Arc::clone(&store)], ..(**config).clone() });
    let host = Arc::new(Host::read_only(&config));
    let stores = [Arc::clone(&store)];
    let runs =
        runner::run_all(&config, &stores, &host, depth(&config, &store), &Running::default());
    let mut found = Vec::new();
    for run in runs.into_iter().flatten() {
        let name = run.collector.as_str();
        let problems = run.observation.problems.iter();
        notes.extend(problems.map(|problem| format!("{name} could not be looked at: {problem}")));
        if run.observation.left_out.contains(&hnsw::WALK) {
            notes.push(format!("not looked at to their end: {}", hnsw::WALK));
        }
        let findings = run.observation.findings.into_iter();
        found.extend(findings.filter(|finding| finding.severity == Severity::Critical));
    }
    if !holds_anything(&store.seen_path) {
        // The very first start: there is nothing that could be lost.
        found.clear();
    }
    found
}

/// Every page is looked at after an end that may have been none of the server's choice: a transaction was cut off, or nobody has
/// written since the host started, which may have lost its power. Otherwise a start waits for no large database.
fn depth(config: &Config, store: &Store) -> Depth {
    let database = store.seen_path.join(DATABASE_FILE);
    let left =
        |suffix: &str| fs::metadata(beside(&database, suffix)).is_ok_and(|meta| meta.len() > 0);
    let before_boot = || {
        let text = fs::read(config.procfs.join("stat")).ok()?;
        let boot = parse_boot_time(&text).ok()?;
        let written = u64::try_from(fs::metadata(&database).ok()?.mtime()).ok()?;
        Some(written < boot)
    };
    if left(JOURNAL_SUFFIX) || left(WAL_SUFFIX) || before_boot().unwrap_or(true) {
        Depth::Quick
    } else {
        Depth::Glance
    }
}

/// Chroma will run as whom we run.
fn as_us(declared: &PermissionPolicy) -> PermissionPolicy {
    if declared.server_uid.is_some() {
        return declared.clone();
    }
    let mut gids = vec![rustix::process::getegid().as_raw()];
    gids.extend(rustix::process::getgroups().unwrap_or_default().iter().map(|gid| gid.as_raw()));
    PermissionPolicy {
        server_uid: Some(rustix::process::geteuid().as_raw()),
        server_gids: gids,
        ..declared.clone()
    }
}

/// Whether anything is in the directory; what cannot be read may be something.
fn holds_anything(dir: &Path) -> bool {
    fs::read_dir(dir).map_or(true, |mut entries| entries.next().is_some())
}

/// The same process becomes the program: it has our pid, our environment and the lock.
fn become_program(ready: &Ready, store: &Store, program: &[OsString]) -> Ended {
    for note in &ready.notes {
        say(&format!("note: {}", plain(note)));
    }
    let [name, rest @ ..] = program else { return Ended::Usage };
    let shown = plain(&name.to_string_lossy());
    say(&format!("{}: nothing critical, starting {shown}", plain(&store.path.to_string_lossy())));
    if let Some(lock) = &ready.lock
        && let Err(errno) = rustix::io::fcntl_setfd(lock, FdFlags::empty())
    {
        say(&format!("refused: the lock cannot be handed on: {}", io::Error::from(errno)));
        return Ended::Unknown;
    }
    let error = Command::new(name).args(rest).exec();
    say(&format!("cannot start {shown}: {error}"));
    // As shells say it.
    let missing = error.kind() == io::ErrorKind::NotFound;
    Ended::Served(ExitCode::from(if missing { 127 } else { 126 }))
}

/// What a start meets: the database, what it says, the indexes, and whether the program may write there.
const CHECKED: [CollectorName; 4] = [
    CollectorName::Integrity,
    CollectorName::Contents,
    CollectorName::Hnsw,
    CollectorName::Permissions,
];

const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_mins(1);
