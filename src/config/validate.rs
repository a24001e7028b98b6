//! From what was written to a [`Config`] that cannot be wrong: flags over the file, the host's defaults below it, and the
//! rules between the keys. Pure: what it must know of the host is handed in.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    BackupPolicy, CollectorName, Config, PermissionPolicy, Receiver, Store,
    keys::{self, Account, File, Paths, RawPermissions, RawStore, STORES_MAX},
    print,
};
use crate::{
    facts::bad_value::BadValue,
    format::accounts::Accounts,
    keys::{
        ConfigError,
        key::Key,
        report::{At, Place, Report},
        rules,
    },
};

/// What the command line says. Kept as long as the program runs, so that a reload applies it again.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// The configuration file; without one there are only flags and defaults.
    pub config_file: Option<PathBuf>,
    /// `--store.path`: only these stores; one that the file describes keeps what the file says of it.
    pub stores: Vec<StoreFlag>,
    /// `--backup.pattern`: instead of the patterns of the file.
    pub backup_patterns: Vec<PatternFlag>,
    /// The words of each flag that stands for a key of the file, by its name without the dashes.
    pub keys: BTreeMap<String, Vec<String>>,
    /// `--collector.NAME` and `--no-collector.NAME`, the last of each name.
    pub collectors: BTreeMap<CollectorName, bool>,
    /// `--collector.disable-defaults`: only what file or flag switches on.
    pub disable_defaults: bool,
}

/// `--store.path [NAME=]DIR`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreFlag {
    /// The name, when one was given.
    pub name: Option<String>,
    /// The directory, perhaps relative.
    pub path: String,
}

/// `--backup.pattern [NAME=]PATTERN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatternFlag {
    /// The store, when one was named.
    pub store: Option<String>,
    /// The pattern, perhaps relative.
    pub pattern: String,
}

/// What the configuration takes from the host.
#[derive(Debug, Clone, Default)]
pub(crate) struct Surroundings {
    pub(crate) cwd: Option<PathBuf>,
    /// Whether this process is root.
    pub(crate) root: bool,
    /// `$STATE_DIRECTORY`, which systemd sets.
    pub(crate) state_directory: Option<String>,
    /// `$XDG_STATE_HOME`.
    pub(crate) xdg_state_home: Option<String>,
    /// `$HOME`.
    pub(crate) home: Option<String>,
    /// Whether sockets can be IPv6.
    pub(crate) ipv6: bool,
}

/// The keys that differ between two configurations and take effect at the next start only, with their sections.
#[must_use]
pub fn at_next_start(before: &Config, after: &Config) -> Vec<String> {
    let (before, after) = (print::written(before), print::written(after));
    let of = |section: Key| {
        let restart = section.facts.below.into_iter().filter(|key| key.facts.restart);
        restart.map(move |key| format!("{}.{}", section.name, key.name))
    };
    keys::all().into_iter().flat_map(of).filter(|path| before.at(path) != after.at(path)).collect()
}

impl File {
    /// Puts the flags over the file.
    pub(crate) fn apply(&mut self, flags: &Overrides, cwd: Option<&Path>, report: &Report) {
        self.apply_stores(&flags.stores, cwd, report);
        self.apply_patterns(&flags.backup_patterns, cwd, report);
        for name in CollectorName::ALL {
            let before = self.collectors.get(&name).copied().unwrap_or(!flags.disable_defaults);
            self.collectors.insert(name, flags.collectors.get(&name).copied().unwrap_or(before));
        }
    }

    fn apply_stores(&mut self, flags: &[StoreFlag], cwd: Option<&Path>, report: &Report) {
        if flags.is_empty() {
            return;
        }
        let mut described = std::mem::take(&mut self.stores);
        for flag in flags {
            let place = Place::outside("--store.path");
            let path = match rules::path_from(&flag.path, cwd) {
                Ok(value) => At { value, place: place.clone() },
                Err(rule) => {
                    report.add(place.bad(&flag.path, rule));
                    continue;
                }
            };
            let same = |raw: &At<RawStore>| {
                raw.value.path.as_ref().is_some_and(|other| other.value == path.value)
            };
            let mut raw = match described.iter().position(same) {
                Some(known) => described.swap_remove(known),
                None => At {
                    value: RawStore { path: Some(path), ..RawStore::default() },
                    place: place.clone(),
                },
            };
            if let Some(name) = &flag.name {
                raw.value.name = Some(At { value: name.clone(), place });
            }
            self.stores.push(raw);
        }
    }

    fn apply_patterns(&mut self, flags: &[PatternFlag], cwd: Option<&Path>, report: &Report) {
        let mut given: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        for flag in flags {
            let place = Place::outside("--backup.pattern");
            let pattern =
                path_text(&flag.pattern, cwd).and_then(|text| rules::backup_pattern(&text));
            let store = match &flag.store {
                None if self.stores.len() == 1 => Ok(0),
                None if self.stores.is_empty() => {
                    Err("needs a store: give --store.path too".into())
                }
                None => Err("must say which store it is for: NAME=PATTERN".into()),
                Some(name) => self
                    .stores
                    .iter()
                    .position(|raw| raw.value.label().as_deref() == Some(name))
                    .ok_or_else(|| BadValue::NoStore(name.clone())),
            };
            match (store, pattern) {
                (Ok(store), Ok(pattern)) => given.entry(store).or_default().push(pattern),
                (store, pattern) => {
                    for rule in [store.err(), pattern.err()].into_iter().flatten() {
                        report.add(place.bad(&flag.pattern, rule));
                    }
                }
            }
        }
        for (store, patterns) in given {
            self.stores[store].value.backups.globs = patterns;
        }
    }

    /// Whether the host's accounts must be known.
    pub(crate) fn needs_accounts(&self) -> bool {
        let named =
            |at: &Option<At<Account>>| matches!(at, Some(At { value: Account::Name(_), .. }));
        self.stores.iter().map(|store| &store.value.permissions).any(|permissions| {
            named(&permissions.owner)
                || named(&permissions.group)
                || permissions.server_user.is_some()
        })
    }

    /// The configuration, when nothing is left to report. Errs with every problem.
    pub(crate) fn validate(
        self,
        host: &Surroundings,
        accounts: Accounts<'_>,
        receivers: Vec<Arc<Receiver>>,
        report: Report,
    ) -> Result<Config, Vec<ConfigError>> {
        let Paths { procfs, rootfs } = self.path;
        let stores = stores(self.stores, &rootfs, accounts, &report);
        check_backups(&stores, &report);
        let state_dir = self.state.dir.unwrap_or_else(|| default_state_dir(host));
        let state_dir = check_state_dir(state_dir, &stores, &report);
        let enabled: BTreeSet<CollectorName> =
            self.collectors.into_iter().filter(|(_, on)| *on).map(|(name, _)| name).collect();
        if enabled.is_empty() {
            report.add(Place::outside("collectors").wrong("at least one must be switched on"));
        }
        let problems = report.into_problems();
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(Config {
            stores,
            enabled,
            collect: self.collect,
            integrity: self.integrity,
            disk: self.disk,
            limits: self.limits,
            web: self.web,
            state_dir,
            procfs,
            rootfs,
            log: self.log,
            alerts: self.alerts,
            receivers,
        })
    }
}

impl RawStore {
    /// Its name, given or made from the path.
    fn label(&self) -> Option<String> {
        let given = self.name.as_ref().map(|at| at.value.clone());
        given.or_else(|| self.path.as_ref().map(|at| rules::default_store_name(&at.value)))
    }
}

fn stores(
    raw: Vec<At<RawStore>>,
    rootfs: &Path,
    accounts: Accounts<'_>,
    report: &Report,
) -> Vec<Arc<Store>> {
    if raw.len() > STORES_MAX {
        report.add(
            Place::outside("--store.path")
                .bad(raw.len(), format!("must be at most {STORES_MAX} stores")),
        );
        return Vec::new();
    }
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let mut paths: BTreeMap<PathBuf, String> = BTreeMap::new();
    let mut stores = Vec::new();
    for At { value: raw, place } in raw {
        let own = whereabouts(&place);
        if let Some(name) = raw.label() {
            if let Some(other) = names.get(&name) {
                let given = raw.name.as_ref().map(|at| &at.place);
                let place = given.cloned().unwrap_or_else(|| sub_place(&place, "name"));
                let rule =
                    format!("must be unique, and {other} has it too: give each a name of its own");
                report.add(place.bad(&name, rule));
            } else {
                names.insert(name.clone(), own.clone());
            }
        }
        let (Some(name), Some(path)) = (raw.label(), raw.path) else { continue };
        if let Some(other) = paths.get(&path.value) {
            report.add(path.place.bad(
                path.value.display(),
                format!("must stand only once, and {other} has it too"),
            ));
        }
        paths.insert(path.value.clone(), own);
        stores.push(Arc::new(Store {
            name: name.into(),
            seen_path: rules::below_root(rootfs, &path.value),
            path: path.value,
            backups: BackupPolicy {
                globs: raw
                    .backups
                    .globs
                    .iter()
                    .map(|pattern| rules::pattern_below_root(rootfs, pattern))
                    .collect(),
                ..raw.backups
            },
            backup: raw.backup,
            permissions: permissions(&raw.permissions, accounts, report),
            logs: raw
                .logs
                .iter()
                .map(|pattern| rules::pattern_below_root(rootfs, pattern))
                .collect(),
            server: raw.server,
            chroma_version: raw.chroma_version,
            through: None,
        }));
    }
    stores
}

/// `stores[1] (line 7)`, or the flag.
fn whereabouts(place: &Place) -> String {
    place.line.map_or_else(|| place.field.clone(), |line| format!("{} (line {line})", place.field))
}

fn sub_place(place: &Place, key: &str) -> Place {
    let field =
        if place.file.is_some() { format!("{}.{key}", place.field) } else { place.field.clone() };
    Place { field, ..place.clone() }
}

fn permissions(raw: &RawPermissions, accounts: Accounts<'_>, report: &Report) -> PermissionPolicy {
    let user_id = |name: &str| accounts.user(name).map(|user| user.uid);
    let group_id = |name: &str| accounts.group_id(name);
    let server_uid = resolve(raw.server_user.as_ref(), "user", user_id, report);
    let server = server_uid.and_then(|uid| match &raw.server_user {
        Some(At { value: Account::Name(name), .. }) => accounts.user(name),
        _ => accounts.user_by_id(uid),
    });
    PermissionPolicy {
        uid: resolve(raw.owner.as_ref(), "user", user_id, report),
        gid: resolve(raw.group.as_ref(), "group", group_id, report),
        file_mode: raw.file_mode,
        directory_mode: raw.directory_mode,
        server_uid,
        server_gids: server.map(|user| accounts.groups_of(user)).unwrap_or_default(),
    }
}

fn resolve(
    account: Option<&At<Account>>,
    what: &str,
    id: impl Fn(&str) -> Option<u32>,
    report: &Report,
) -> Option<u32> {
    let At { value, place } = account?;
    match value {
        Account::Id(id) => Some(*id),
        Account::Name(name) => {
            let found = id(name);
            if found.is_none() {
                let file = if what == "user" { "passwd" } else { "group" };
                report.add(place.bad(name, format!("must be a {what} of the host: there is none in its /etc/{file}; a number is taken as it is")));
            }
            found
        }
    }
}

/// systemd's directory; else the usual place of a daemon or of a user's program. Empty when there is none.
fn default_state_dir(host: &Surroundings) -> At<Option<PathBuf>> {
    let absolute = |text: &Option<String>| text.clone().filter(|text| text.starts_with('/'));
    let first =
        host.state_directory.as_ref().and_then(|list| list.split(':').next()).map(str::to_owned);
    if let Some(value) = absolute(&first) {
        return At { value: Some(value.into()), place: Place::outside("$STATE_DIRECTORY") };
    }
    let place = Place::outside("state.dir");
    if host.root {
        return At { value: Some("/var/lib/chroma_exporter".into()), place };
    }
    let base = absolute(&host.xdg_state_home)
        .or_else(|| absolute(&host.home).map(|home| format!("{home}/.local/state")));
    At { value: base.map(|base| format!("{base}/chroma_exporter").into()), place }
}

/// Nothing is ever written under a watched directory, and nobody's data should lie under ours.
fn check_state_dir(
    dir: At<Option<PathBuf>>,
    stores: &[Arc<Store>],
    report: &Report,
) -> Option<PathBuf> {
    let At { value, place } = dir;
    let path: PathBuf = value?.components().collect();
    let shown = || path.display();
    for store in stores {
        let at = Quoted(&store.name, &store.seen_path);
        if path.starts_with(&store.seen_path) {
            report.add(place.bad(shown(), format!("must not lie inside the store {at}: nothing is written there; choose another with --state.dir")));
        } else if store.seen_path.starts_with(&path) {
            report.add(place.bad(
                shown(),
                format!("must not hold the store {at}; choose another with --state.dir"),
            ));
        }
    }
    Some(path)
}

/// Nothing is written inside a store, and no two stores whose backups have one name share a directory for them: the backups of
/// one would be counted, and removed, as those of the other.
fn check_backups(stores: &[Arc<Store>], report: &Report) {
    let mut taken: BTreeMap<(&Path, &OsStr), &Store> = BTreeMap::new();
    for store in stores {
        let Some(job) = &store.backup else { continue };
        let place = Place::outside(format!("backup.to of the store {}", store.name));
        if let Some(other) = stores.iter().find(|other| job.to.starts_with(&other.path)) {
            let other = Quoted(&other.name, &other.path);
            let rule = format!("must not lie inside the store {other}: nothing is written there");
            report.add(place.bad(job.to.display(), rule));
        }
        let name = store.path.file_name().unwrap_or_default();
        if let Some(other) = taken.insert((&job.to, name), store) {
            let other = Quoted(&other.name, &other.path);
            let rule =
                format!("must not be that of {other} too: their backups have the same names");
            report.add(place.bad(job.to.display(), rule));
        }
    }
}

struct Quoted<'a>(&'a str, &'a Path);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.0, self.1.display())
    }
}

fn path_text(text: &str, cwd: Option<&Path>) -> Result<String, BadValue> {
    Ok(rules::path_from(text, cwd)?.to_string_lossy().into_owned())
}
