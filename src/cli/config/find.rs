//! Looks around for `config init`: who runs Chroma and where, what lies in the usual places, where its backups and logs are. Everything
//! is bounded, and nothing that is found is opened.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use super::draft::{Draft, DraftStore};
use crate::{
    clock,
    config::Config,
    discover::{self, Found},
    format::{
        backup_name::date_in,
        proc::{parse_cmdline, parse_stat},
        programs::is_chroma_server,
    },
    host::processes::walk,
    human::plain,
    keys::rules,
    store::DATABASE_FILE,
};

/// How long all of it may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A walk that takes longer says so, and what it has found by then counts.
const WALK_MAX: Duration = Duration::from_secs(10);
const ENTRIES_MAX: usize = 300_000;
/// `/srv/customer/app/data/chroma` and `/var/lib/docker/volumes/NAME/_data` are found.
const DEPTH_MAX: usize = 6;
const STORES_MAX: usize = 100;
const DESCRIPTORS_MAX: usize = 4096;

/// What is on this host, as `config` sees it. With stores in it, only those are looked at.
pub(super) fn search(config: &Config) -> Draft {
    let mut draft = Draft {
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        at: clock::now().to_string(),
        ..Draft::default()
    };
    let found = match discover::found(&config.procfs, &config.rootfs) {
        Ok(found) => found,
        Err(error) => {
            draft
                .notes
                .push(format!("running Chromas were not looked for: {}", plain(&error.chain())));
            Vec::new()
        }
    };
    let mut walked = Walked::default();
    walked.walk(&config.rootfs);
    if walked.cut_short {
        draft.notes.push("there is much on this host; not every place was looked at".to_owned());
    }
    let mut paths: BTreeMap<PathBuf, (Option<String>, Vec<&Found>)> = BTreeMap::new();
    for store in &config.stores {
        paths.insert(store.path.clone(), (Some(store.name.to_string()), Vec::new()));
    }
    let asked = !paths.is_empty();
    for one in &found {
        if one.store.through.is_some() {
            let path = one.store.path.to_string_lossy();
            draft.notes.push(format!("{} is seen by its container only; the program finds it by itself where no store is configured", plain(&path)));
        } else if let Some((_, holders)) = paths.get_mut(&one.store.path) {
            holders.push(one);
        } else if !asked {
            paths.insert(one.store.path.clone(), (None, vec![one]));
        }
    }
    let lying = walked.stores.iter().filter(|_| !asked);
    for path in lying {
        paths.entry(path.clone()).or_default();
    }
    let mut names = BTreeSet::new();
    for (path, (name, holders)) in paths {
        if path.to_str().is_none_or(|text| rules::absolute_path(text).is_err()) {
            let path = plain(&path.to_string_lossy());
            draft.notes.push(format!(
                "{path} has a name that no configuration can hold, and is left out: rename it"
            ));
            continue;
        }
        if draft.stores.len() >= STORES_MAX {
            draft
                .notes
                .push(format!("there are more than {STORES_MAX} stores; the rest is left out"));
            break;
        }
        let wanted = name.unwrap_or_else(|| name_of(&path, &holders));
        let name = unused(&wanted, &mut names);
        draft.stores.push(store(config, &walked, name, path, &holders));
    }
    draft
}

fn name_of(path: &Path, holders: &[&Found]) -> String {
    holders
        .first()
        .map_or_else(|| rules::default_store_name(path), |found| found.store.name.to_string())
}

fn unused(wanted: &str, taken: &mut BTreeSet<String>) -> String {
    let name = discover::roster::unused_name(wanted, |name| taken.contains(name)).to_string();
    taken.insert(name.clone());
    name
}

fn store(
    config: &Config,
    walked: &Walked,
    name: String,
    path: PathBuf,
    holders: &[&Found],
) -> DraftStore {
    let mut out = DraftStore {
        backups: walked.backups_of(&path, config),
        name,
        path,
        ..DraftStore::default()
    };
    for process in holders.iter().flat_map(|found| &found.holders) {
        let read = |name: &str| walk::read(&config.procfs, process.pid, name).unwrap_or_default();
        let Some(stat) =
            parse_stat(&read("stat")).ok().filter(|stat| stat.start_ticks == process.start_ticks)
        else {
            continue;
        };
        let holder = format!("pid {} ({})", process.pid, plain(&stat.comm));
        // It is told once for each of its descriptors.
        if out.held_by.contains(&holder) {
            continue;
        }
        out.held_by.push(holder);
        let (cmdline, environment) = (read("cmdline"), read("environ"));
        let arguments = parse_cmdline(&cmdline);
        if is_chroma_server(&arguments) && shares_network(&config.procfs, process.pid) {
            out.url = out.url.or_else(|| url_of(&arguments));
        }
        let logs = logs_of_pm2(&environment).into_iter().chain(open_logs(config, process.pid));
        for log in logs {
            // In a container the same name means another file.
            let seen = rules::below_root(&config.rootfs, &log);
            if log.to_str().is_some()
                && !out.logs.contains(&log)
                && fs::metadata(&seen).is_ok_and(|meta| meta.is_file())
            {
                out.logs.push(log);
            }
        }
    }
    out
}

/// Whether loopback there is loopback here. Unknown counts as no.
fn shares_network(procfs: &Path, pid: u32) -> bool {
    let place = |pid: &str| fs::read_link(procfs.join(pid).join("ns/net")).ok();
    let theirs = place(&pid.to_string());
    theirs.is_some() && theirs == place("self")
}

/// Where a server listens, by its words; without a port it is Chroma's own.
fn url_of(arguments: &[&[u8]]) -> Option<String> {
    let value = |flag: &str| {
        let mut words = arguments.iter().map(|word| String::from_utf8_lossy(word).into_owned());
        let with = format!("{flag}=");
        words
            .by_ref()
            .find_map(|word| {
                if word == flag {
                    Some(None)
                } else {
                    word.strip_prefix(&with).map(|value| Some(value.to_owned()))
                }
            })?
            .or_else(|| words.next())
    };
    let port: u16 = match value("--port") {
        Some(text) => text.parse().ok()?,
        None => 8000,
    };
    let host = match value("--host").as_deref() {
        None | Some("localhost" | "0.0.0.0" | "127.0.0.1" | "::" | "") => "127.0.0.1".to_owned(),
        Some(host) if host.contains(':') => format!("[{host}]"),
        Some(host) => host.to_owned(),
    };
    rules::server_url(&format!("http://{host}:{port}")).ok()
}

/// Files that pm2 writes what a program says to. The program itself has a pipe. Nothing else of the environment is looked at.
fn logs_of_pm2(environment: &[u8]) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for key in ["pm_err_log_path=", "pm_out_log_path="] {
        let mut lines = environment.split(|byte| *byte == 0);
        if let Some(path) = lines.find_map(|line| line.strip_prefix(key.as_bytes())) {
            let path = PathBuf::from(OsStr::from_bytes(path));
            if path.is_absolute() {
                out.push(path);
            }
        }
    }
    out
}

/// What a process says into a file, and files called `.log` that it has open, where the name leads to the same file here.
fn open_logs(config: &Config, pid: u32) -> Vec<PathBuf> {
    let dir = config.procfs.join(pid.to_string()).join("fd");
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut out = BTreeSet::new();
    for entry in entries.take(DESCRIPTORS_MAX).filter_map(Result::ok) {
        let Ok(path) = fs::read_link(entry.path()) else { continue };
        let speaks = entry.file_name() == "1" || entry.file_name() == "2";
        let is_log = path.extension().is_some_and(|extension| extension == "log");
        if !path.is_absolute() || !(speaks || is_log) {
            continue;
        }
        let seen = fs::metadata(rules::below_root(&config.rootfs, &path));
        let same = match (fs::metadata(entry.path()), seen) {
            (Ok(a), Ok(b)) => a.is_file() && (a.dev(), a.ino()) == (b.dev(), b.ino()),
            _ => false,
        };
        if same {
            out.insert(path);
        }
    }
    out.into_iter().collect()
}

/// What a walk through the usual places has found. Paths are those of the host.
#[derive(Debug, Default)]
struct Walked {
    stores: BTreeSet<PathBuf>,
    /// Directories, with what their names with a date begin with and how many there are.
    dated: BTreeMap<(PathBuf, String), usize>,
    entries: usize,
    cut_short: bool,
}

impl Walked {
    /// Level by level, so that bounds cut off what lies deep.
    fn walk(&mut self, rootfs: &Path) {
        let began = clock::ticks();
        let mut level = vec![PathBuf::from("/")];
        for depth in 0..=DEPTH_MAX {
            let mut below = Vec::new();
            for dir in level {
                if self.entries >= ENTRIES_MAX || began.elapsed() >= WALK_MAX {
                    self.cut_short = true;
                    return;
                }
                self.search_dir(rootfs, &dir, depth, &mut below);
            }
            level = below;
        }
    }

    fn search_dir(&mut self, rootfs: &Path, dir: &Path, depth: usize, below: &mut Vec<PathBuf>) {
        let Ok(entries) = fs::read_dir(rules::below_root(rootfs, dir)) else { return };
        let left = ENTRIES_MAX.saturating_sub(self.entries);
        for entry in entries.take(left).filter_map(Result::ok) {
            self.entries += 1;
            let name = entry.file_name();
            let Some(text) = name.to_str() else { continue };
            // Of the entry itself: links are not followed.
            let Ok(kind) = entry.file_type() else { continue };
            if text == DATABASE_FILE && kind.is_file() {
                if !is_copy(dir) {
                    self.stores.insert(dir.to_owned());
                }
            } else if let Some(prefix) = before_date(text).filter(|_| !text.starts_with('.')) {
                *self.dated.entry((dir.to_owned(), prefix.to_owned())).or_default() += 1;
            } else if kind.is_dir() && depth < DEPTH_MAX && may_hold(dir, text) {
                below.push(dir.join(text));
            }
        }
    }

    /// Patterns of the backups of the store at `path`: names with a date that begin as the store is called, or with "chroma".
    fn backups_of(&self, path: &Path, config: &Config) -> Vec<(String, usize)> {
        let name =
            path.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
        let one = self.stores.len().max(config.stores.len()) <= 1;
        let fits = |prefix: &str| {
            let prefix = prefix.to_lowercase();
            let rest = prefix.strip_prefix(&*name).filter(|_| !name.is_empty());
            rest.is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
                || one && prefix.contains("chroma")
        };
        let dated =
            self.dated.iter().filter(|((dir, prefix), _)| fits(prefix) && !dir.starts_with(path));
        let patterns = dated.filter_map(|((dir, prefix), count)| {
            let fixed = dir.join(prefix);
            let pattern = glob::Pattern::escape(fixed.to_str()?) + "*";
            Some((rules::backup_pattern(&pattern).ok()?, *count))
        });
        patterns.take(PATTERNS_MAX).collect()
    }
}

const PATTERNS_MAX: usize = 10;

/// What of a name stands before its date; `None` when there is no date, or nothing before it.
fn before_date(name: &str) -> Option<&str> {
    let digits = name.char_indices().filter(|(_, c)| c.is_ascii_digit()).map(|(at, _)| at);
    let at = digits.filter(|at| date_in(&name[*at..]).is_some()).max()?;
    let before = &name[..at];
    if date_in(before).is_some() {
        return before_date(before);
    }
    Some(before).filter(|before| !before.is_empty())
}

/// Whether a directory is a copy of a store, and none that a server uses.
fn is_copy(dir: &Path) -> bool {
    dir.components().any(|part| {
        let part = part.as_os_str().to_string_lossy().to_lowercase();
        part.contains("backup") || part == "bak" || date_in(&part).is_some()
    })
}

/// Whether a directory may hold stores or backups: not what belongs to the system or to tools.
fn may_hold(dir: &Path, name: &str) -> bool {
    const SYSTEM: [&str; 18] = [
        "bin",
        "boot",
        "dev",
        "etc",
        "lib",
        "lib32",
        "lib64",
        "libx32",
        "lost+found",
        "nix",
        "proc",
        "run",
        "sbin",
        "snap",
        "sys",
        "tmp",
        "usr",
        "cdrom",
    ];
    const TOOLS: [&str; 11] = [
        "node_modules",
        "site-packages",
        "dist-packages",
        "__pycache__",
        "overlay2",
        "containers",
        "target",
        "apt",
        "dpkg",
        "fixtures",
        "corpus",
    ];
    let top = dir.parent().is_none();
    !(name.starts_with('.') || TOOLS.contains(&name) || top && SYSTEM.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn touch(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
    }

    #[test]
    fn stores_and_their_backups_are_found_in_the_usual_places() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for path in [
            "srv/app/chroma/chroma.sqlite3",
            "var/lib/docker/volumes/web/_data/chroma.sqlite3",
            "proc/1/chroma.sqlite3",
            "tmp/chroma.sqlite3",
            "home/a/.cache/chroma.sqlite3",
            "home/a/venv/site-packages/chroma.sqlite3",
            "backup/chroma.backup.20261129_020000/chroma.sqlite3",
            "backup/latest/chroma.sqlite3",
            "backup/chroma.backup.20261130_020000.tar.zst",
            "backup/chroma.backup.20261130_030000.tar.zst",
            "backup/postgres.20261130.tar",
        ] {
            touch(&root.join(path));
        }
        let mut walked = Walked::default();
        walked.walk(root);
        let stores: Vec<&str> = walked.stores.iter().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(stores, ["/srv/app/chroma", "/var/lib/docker/volumes/web/_data"]);
        assert!(!walked.cut_short);
        let backups = |path: &str| walked.backups_of(Path::new(path), &Config::default());
        assert_eq!(backups("/srv/app/chroma"), [("/backup/chroma.backup.*".to_owned(), 3)]);
        // With two stores, a name that only says "chroma" could be of either.
        assert_eq!(backups("/var/lib/docker/volumes/web/_data"), []);
        walked.stores.pop_last();
        assert_eq!(backups_count(&walked), 3);
    }

    fn backups_count(walked: &Walked) -> usize {
        let found = walked.backups_of(Path::new("/srv/app/vectors"), &Config::default());
        found.iter().map(|(_, count)| count).sum()
    }

    #[test]
    fn names_are_cut_before_their_date() {
        for (name, want) in [
            ("chroma_db.backup.20260101.tar.gz", Some("chroma_db.backup.")),
            ("chroma_db.backup.20260101_020000", Some("chroma_db.backup.")),
            ("v2-chroma-2026-01-31.tar", Some("v2-chroma-")),
            ("backup-20251231-20260101.tar.gz", Some("backup-")),
            ("20260101.tgz", None),
            ("chroma.tar.gz", None),
        ] {
            assert_eq!(before_date(name), want, "{name}");
        }
    }

    #[test]
    fn the_address_is_that_of_the_words() {
        let url = |words: &str| {
            let words: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
            url_of(&words)
        };
        for (words, want) in [
            ("chroma run --path /x", Some("http://127.0.0.1:8000")),
            ("chroma run --host 0.0.0.0 --port 9000", Some("http://127.0.0.1:9000")),
            ("chroma run --port=9001 --host=10.0.0.7", Some("http://10.0.0.7:9001")),
            ("uvicorn chromadb.app:app --port x", None),
            ("chroma run --host ::1", Some("http://[::1]:8000")),
        ] {
            assert_eq!(url(words).as_deref(), want, "{words}");
        }
    }

    #[test]
    fn of_the_environment_only_the_logs_of_pm2_are_taken() {
        let environment = b"API_KEY=secret\0pm_out_log_path=/l/out.log\0pm_err_log_path=/l/err.log\0pm_err_log_path=relative\0";
        assert_eq!(logs_of_pm2(environment), ["/l/err.log", "/l/out.log"].map(PathBuf::from));
        assert!(logs_of_pm2(b"pm_err_log_path=x\0").is_empty());
    }
}
