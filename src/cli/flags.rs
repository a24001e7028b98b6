//! The flags that every subcommand takes, and what they come to.

use std::{collections::BTreeMap, path::PathBuf};

use clap::{
    Arg, ArgAction, ArgMatches, Args, FromArgMatches, ValueEnum, ValueHint, builder::PossibleValue,
};

use crate::config::{
    CollectorName, Listen, LogFormat, LogLevel, Overrides, PatternFlag, StoreFlag, rules,
};

/// The flags of one place in the command line.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Flags {
    /// Configuration file (YAML)
    #[arg(long = "config.file", value_name = "FILE")]
    config_file: Option<PathBuf>,

    /// Directory to watch: the one with chroma.sqlite3; repeatable
    ///
    /// Other stores of the configuration file are not watched then. A store that is named keeps its settings there.
    #[arg(long = "store.path", value_name = "[NAME=]DIR", value_parser = store_flag, value_hint = ValueHint::DirPath, help_heading = STORES)]
    stores: Vec<StoreFlag>,

    /// Where backups of a store appear, in quotes: '/backup/chroma_*.tar.gz'; repeatable
    #[arg(long = "backup.pattern", value_name = "[NAME=]PATTERN", value_parser = pattern_flag, help_heading = STORES)]
    backup_patterns: Vec<PatternFlag>,

    /// Address to listen on, :18000 is every interface; repeatable [default: 127.0.0.1:18000]
    #[arg(long = "web.listen-address", value_name = "ADDRESS", value_parser = Listen::parse, help_heading = WEB)]
    listen: Vec<Listen>,

    /// Path of the metrics page [default: /metrics]
    #[arg(long = "web.telemetry-path", value_name = "PATH", value_parser = telemetry_path, help_heading = WEB)]
    telemetry_path: Option<String>,

    /// Answer POST /-/reload
    #[arg(long = "web.enable-lifecycle", help_heading = WEB)]
    enable_lifecycle: bool,

    /// Highest number of connections at once [default: 512]
    #[arg(long = "web.max-connections", value_name = "COUNT", value_parser = connections, help_heading = WEB)]
    connections_max: Option<usize>,

    /// TLS, client certificates, users and headers, in the form of Prometheus' exporter-toolkit
    #[arg(long = "web.config.file", value_name = "FILE", help_heading = WEB)]
    web_config_file: Option<String>,

    #[command(flatten)]
    collectors: CollectorFlags,

    /// Where the host's /proc is mounted [default: /proc]
    #[arg(long = "path.procfs", value_name = "DIR", value_parser = rules::absolute_path, help_heading = PATHS)]
    procfs: Option<PathBuf>,

    /// Where the host's / is mounted; paths of stores and backups are looked up there [default: /]
    #[arg(long = "path.rootfs", value_name = "DIR", value_parser = rules::absolute_path, help_heading = PATHS)]
    rootfs: Option<PathBuf>,

    /// Where the exporter keeps what must survive a restart, "" for nowhere
    #[arg(long = "state.dir", value_name = "DIR", help_heading = PATHS)]
    state_dir: Option<String>,

    /// Log this level and what is more severe [default: info; check: warn]
    #[arg(long = "log.level", value_name = "LEVEL", help_heading = LOG)]
    log_level: Option<LogLevel>,

    /// Format of the log [default: logfmt]
    #[arg(long = "log.format", value_name = "FORMAT", help_heading = LOG)]
    log_format: Option<LogFormat>,
}

const STORES: &str = "Stores";
const WEB: &str = "Web";
const COLLECTORS: &str = "Collectors (all are on; --no-collector.NAME switches one off)";
const PATHS: &str = "Paths";
const LOG: &str = "Log";

impl Flags {
    /// Nothing but these stores.
    pub(super) fn of_stores(stores: Vec<StoreFlag>) -> Self {
        Self { stores, ..Self::default() }
    }

    /// These and those that stand `later` in the command line, which win where only one can hold.
    pub(super) fn and(self, later: Self) -> Self {
        Self {
            config_file: later.config_file.or(self.config_file),
            stores: [self.stores, later.stores].concat(),
            backup_patterns: [self.backup_patterns, later.backup_patterns].concat(),
            listen: [self.listen, later.listen].concat(),
            telemetry_path: later.telemetry_path.or(self.telemetry_path),
            enable_lifecycle: self.enable_lifecycle || later.enable_lifecycle,
            connections_max: later.connections_max.or(self.connections_max),
            web_config_file: later.web_config_file.or(self.web_config_file),
            collectors: self.collectors.and(later.collectors),
            procfs: later.procfs.or(self.procfs),
            rootfs: later.rootfs.or(self.rootfs),
            state_dir: later.state_dir.or(self.state_dir),
            log_level: later.log_level.or(self.log_level),
            log_format: later.log_format.or(self.log_format),
        }
    }
}

/// Takes the flags whose names begin with one of `prefixes` out of the help of `command` and of its subcommands. They are
/// still taken there: whoever has the flags of the exporter in a variable can give them to every command.
pub(super) fn hidden(command: clap::Command, prefixes: &[&str]) -> clap::Command {
    let command = command.mut_args(|arg| {
        let hide = arg
            .get_long()
            .is_some_and(|long| prefixes.iter().any(|prefix| long.starts_with(prefix)));
        if hide { arg.hide(true) } else { arg }
    });
    command.mut_subcommands(|command| hidden(command, prefixes))
}

impl From<Flags> for Overrides {
    fn from(flags: Flags) -> Self {
        Self {
            config_file: flags.config_file,
            stores: flags.stores,
            backup_patterns: flags.backup_patterns,
            listen: flags.listen,
            telemetry_path: flags.telemetry_path,
            enable_lifecycle: flags.enable_lifecycle,
            connections_max: flags.connections_max,
            web_config_file: flags.web_config_file,
            collectors: flags.collectors.chosen,
            disable_defaults: flags.collectors.disable_defaults,
            procfs: flags.procfs,
            rootfs: flags.rootfs,
            state_dir: flags.state_dir,
            log_level: flags.log_level,
            log_format: flags.log_format,
        }
    }
}

/// `--collector.NAME`, `--no-collector.NAME` and `--collector.disable-defaults`, made from the names that there are.
#[derive(Debug, Clone, Default)]
struct CollectorFlags {
    chosen: BTreeMap<CollectorName, bool>,
    disable_defaults: bool,
}

impl CollectorFlags {
    fn and(mut self, later: Self) -> Self {
        self.chosen.extend(later.chosen);
        Self { disable_defaults: self.disable_defaults || later.disable_defaults, ..self }
    }
}

const DISABLE_DEFAULTS: &str = "collector.disable-defaults";

fn on_flag(name: CollectorName) -> String {
    format!("collector.{}", name.as_str())
}

fn off_flag(name: CollectorName) -> String {
    format!("no-collector.{}", name.as_str())
}

impl Args for CollectorFlags {
    fn augment_args(mut command: clap::Command) -> clap::Command {
        for name in CollectorName::ALL {
            let flag = |id: String| {
                Arg::new(id.clone()).long(id).action(ArgAction::SetTrue).help_heading(COLLECTORS)
            };
            command = command
                .arg(
                    flag(on_flag(name))
                        .help(format!("Read {}", name.about()))
                        .overrides_with(off_flag(name)),
                )
                .arg(flag(off_flag(name)).hide(true).overrides_with(on_flag(name)));
        }
        let defaults = Arg::new(DISABLE_DEFAULTS).long(DISABLE_DEFAULTS).action(ArgAction::SetTrue);
        command.arg(defaults.help("Read only what is switched on").help_heading(COLLECTORS))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for CollectorFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags =
            Self { disable_defaults: matches.get_flag(DISABLE_DEFAULTS), ..Self::default() };
        for name in CollectorName::ALL {
            if matches.get_flag(&on_flag(name)) {
                flags.chosen.insert(name, true);
            } else if matches.get_flag(&off_flag(name)) {
                flags.chosen.insert(name, false);
            }
        }
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        let later = Self::from_arg_matches(matches)?;
        *self = std::mem::take(self).and(later);
        Ok(())
    }
}

impl ValueEnum for LogLevel {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.as_str()))
    }
}

impl ValueEnum for LogFormat {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.as_str()))
    }
}

pub(super) fn store_flag(word: &str) -> Result<StoreFlag, String> {
    let (name, path) = named(word)?;
    if path.is_empty() {
        return Err("must be a directory".to_owned());
    }
    Ok(StoreFlag { name, path: path.to_owned() })
}

fn pattern_flag(word: &str) -> Result<PatternFlag, String> {
    let (store, pattern) = named(word)?;
    if pattern.is_empty() {
        return Err("must be a pattern".to_owned());
    }
    Ok(PatternFlag { store, pattern: pattern.to_owned() })
}

/// Splits `NAME=PATH`. A path may hold `=` itself: what has a slash before it or starts with a dot is no name.
fn named(word: &str) -> Result<(Option<String>, &str), String> {
    match word.split_once('=') {
        Some((name, path)) if !name.contains('/') && !name.starts_with('.') => {
            rules::store_name(name).map_err(|rule| format!("the name before = {rule}"))?;
            Ok((Some(name.to_owned()), path))
        }
        _ => Ok((None, word)),
    }
}

fn telemetry_path(word: &str) -> Result<String, String> {
    rules::telemetry_path(word).map(str::to_owned)
}

fn connections(word: &str) -> Result<usize, String> {
    let range = rules::CONNECTIONS;
    let count = word.parse().ok().filter(|count| range.contains(count));
    count.ok_or_else(|| format!("must be a whole number from {} to {}", range.start(), range.end()))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    #[command(args_override_self = true)]
    struct OnlyFlags {
        #[command(flatten)]
        flags: Flags,
    }

    fn read(words: &str) -> Result<Overrides, clap::Error> {
        let words = std::iter::once("x").chain(words.split_whitespace());
        OnlyFlags::try_parse_from(words).map(|read| read.flags.into())
    }

    #[test]
    fn the_definition_is_sound() {
        OnlyFlags::command().debug_assert();
    }

    #[test]
    fn repeated_flags_add_up_and_single_ones_take_the_last() {
        let flags = read(
            "--store.path /a --store.path b=/x --store.path /odd=name --store.path ./o=p --backup.pattern b=/b/* \
             --web.listen-address :1 --web.listen-address [::1]:2 --log.level debug --log.level error \
             --collector.disk --no-collector.disk --no-collector.backups --collector.backups --path.procfs /p --state.dir= ",
        )
        .unwrap();
        let store = |name: Option<&str>, path: &str| StoreFlag {
            name: name.map(str::to_owned),
            path: path.to_owned(),
        };
        assert_eq!(
            flags.stores,
            [
                store(None, "/a"),
                store(Some("b"), "/x"),
                store(None, "/odd=name"),
                store(None, "./o=p")
            ]
        );
        assert_eq!(
            flags.backup_patterns,
            [PatternFlag { store: Some("b".into()), pattern: "/b/*".into() }]
        );
        assert_eq!(flags.listen.len(), 2);
        assert_eq!(flags.log_level, Some(LogLevel::Error));
        assert_eq!(
            flags.collectors,
            [(CollectorName::Disk, false), (CollectorName::Backups, true)].into()
        );
        assert_eq!(flags.procfs, Some("/p".into()));
        assert_eq!(flags.state_dir.as_deref(), Some(""));
        assert_eq!(flags.log_format, None);
    }

    #[test]
    fn wrong_words_are_refused_with_the_rule() {
        for (words, rule) in [
            ("--web.listen-address 18000", "must be ADDRESS:PORT"),
            ("--web.telemetry-path /-/x", "must be another path"),
            ("--web.max-connections 0", "from 1 to 100000"),
            ("--path.procfs proc", "absolute"),
            ("--log.level loud", "error, warn, info, debug, trace"),
            ("--store.path a%b=/x", "the name before ="),
            ("--store.path n=", "must be a directory"),
            ("--store.path=", "must be a directory"),
            ("--no-collector.nothing", "unexpected argument"),
            ("--web.config x", "unexpected argument"),
        ] {
            let told = read(words).expect_err(words).to_string();
            assert!(told.contains(rule), "{words}: {told}");
        }
    }

    #[test]
    fn flags_before_and_after_the_subcommand_come_together() {
        let early = OnlyFlags::parse_from([
            "x",
            "--store.path=/a",
            "--log.level=info",
            "--no-collector.disk",
            "--path.rootfs=/r",
        ]);
        let late = OnlyFlags::parse_from([
            "x",
            "--store.path=/b",
            "--log.level=warn",
            "--collector.disk",
            "--web.enable-lifecycle",
        ]);
        let both: Overrides = early.flags.and(late.flags).into();
        assert_eq!(both.stores.len(), 2);
        assert_eq!(both.log_level, Some(LogLevel::Warn));
        assert_eq!(both.collectors, [(CollectorName::Disk, true)].into());
        assert!(both.enable_lifecycle);
        assert_eq!(both.rootfs, Some("/r".into()));
    }
}
