//! The flags that every subcommand takes, and what they come to.

use std::{collections::BTreeMap, path::PathBuf};

use clap::{
    Arg, ArgAction, ArgMatches, Args, FromArgMatches, ValueHint,
    builder::{PossibleValuesParser, StringValueParser, TypedValueParser},
};

use crate::{
    config::{CollectorName, Overrides, PatternFlag, StoreFlag, keys},
    facts::bad_value::BadValue,
    keys::{
        key::{Flag, Key},
        rules,
    },
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

    #[command(flatten)]
    collectors: CollectorFlags,

    #[command(flatten)]
    keys: KeyFlags,
}

const STORES: &str = "Stores";
const COLLECTORS: &str = "Collectors (all are on; --no-collector.NAME switches one off)";

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
            collectors: self.collectors.and(later.collectors),
            keys: self.keys.and(later.keys),
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
            collectors: flags.collectors.chosen,
            disable_defaults: flags.collectors.disable_defaults,
            keys: flags.keys.0,
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

/// The flags that stand for keys of the file, made from the declarations of those: their words, by the name of the flag.
#[derive(Debug, Clone, Default)]
struct KeyFlags(BTreeMap<String, Vec<String>>);

impl KeyFlags {
    fn and(mut self, later: Self) -> Self {
        for (flag, words) in later.0 {
            self.0.entry(flag).or_default().extend(words);
        }
        self
    }
}

fn key_flags() -> impl Iterator<Item = (Key, Flag)> {
    let below = keys::all().into_iter().flat_map(|section| section.facts.below);
    below.filter_map(|key| key.facts.flag.map(|flag| (key, flag)))
}

/// Above which flags stand those that begin with this.
fn heading(flag: &str) -> &'static str {
    match flag.split('.').next() {
        Some("web") => "Web",
        Some("log") => "Log",
        _ => "Paths",
    }
}

fn key_flag(key: &Key, flag: Flag) -> Arg {
    let default = match &key.default {
        _ if flag.value.is_empty() => String::new(),
        Some(default) => default.in_one_line(),
        None => key.facts.otherwise.to_owned(),
    };
    let default = if default.is_empty() { default } else { format!(" [default: {default}]") };
    let repeatable = if flag.repeatable { "; repeatable" } else { "" };
    let help = format!("{}{repeatable}{default}", key.help.trim_end_matches('.'));
    let arg = Arg::new(flag.long).long(flag.long).help(help).help_heading(heading(flag.long));
    if flag.value.is_empty() {
        return arg.action(ArgAction::SetTrue);
    }
    let arg = arg.value_name(flag.value).action(ArgAction::Append).value_hint(match flag.value {
        "DIR" => ValueHint::DirPath,
        "FILE" => ValueHint::FilePath,
        _ => ValueHint::Unknown,
    });
    if !key.facts.choices.is_empty() {
        return arg.value_parser(PossibleValuesParser::new(key.facts.choices.clone()));
    }
    let judged = move |word: String| keys::judge(flag.long, &word).map(|()| word);
    arg.value_parser(StringValueParser::new().try_map(judged))
}

impl Args for KeyFlags {
    fn augment_args(command: clap::Command) -> clap::Command {
        command.args(key_flags().map(|(key, flag)| key_flag(&key, flag)))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for KeyFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |(_, Flag { long, value, .. }): (Key, Flag)| {
            let words: Vec<String> = if value.is_empty() {
                matches.get_flag(long).then(|| "true".to_owned()).into_iter().collect()
            } else {
                matches.get_many(long).unwrap_or_default().cloned().collect()
            };
            (!words.is_empty()).then(|| (long.to_owned(), words))
        };
        Ok(Self(key_flags().filter_map(given).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        let later = Self::from_arg_matches(matches)?;
        *self = std::mem::take(self).and(later);
        Ok(())
    }
}

/// Reads `DIR` or `NAME=DIR`. Errs with the rule that the word breaks.
pub(super) fn store_flag(word: &str) -> Result<StoreFlag, BadValue> {
    let (name, path) = named(word)?;
    if path.is_empty() {
        return Err("must be a directory".into());
    }
    Ok(StoreFlag { name, path: path.to_owned() })
}

fn pattern_flag(word: &str) -> Result<PatternFlag, BadValue> {
    let (store, pattern) = named(word)?;
    if pattern.is_empty() {
        return Err("must be a pattern".into());
    }
    Ok(PatternFlag { store, pattern: pattern.to_owned() })
}

/// Splits `NAME=PATH`. A path may hold `=` itself: what has a slash before it or starts with a dot is no name.
/// Errs when the name is none that a store may have.
fn named(word: &str) -> Result<(Option<String>, &str), BadValue> {
    match word.split_once('=') {
        Some((name, path)) if !name.contains('/') && !name.starts_with('.') => {
            rules::store_name(name).map_err(|rule| BadValue::Name(Box::new(rule)))?;
            Ok((Some(name.to_owned()), path))
        }
        _ => Ok((None, word)),
    }
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
        let words = |flag: &str| flags.keys.get(flag).map(|words| words.join(" "));
        assert_eq!(words("web.listen-address").as_deref(), Some(":1 [::1]:2"));
        assert_eq!(words("log.level").as_deref(), Some("debug error"));
        assert_eq!(
            flags.collectors,
            [(CollectorName::Disk, false), (CollectorName::Backups, true)].into()
        );
        assert_eq!(words("path.procfs").as_deref(), Some("/p"));
        assert_eq!(words("state.dir").as_deref(), Some(""));
        assert_eq!(words("log.format"), None);
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
            let reported = read(words).expect_err(words).to_string();
            assert!(reported.contains(rule), "{words}: {reported}");
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
        assert_eq!(both.keys["log.level"], ["info", "warn"]);
        assert_eq!(both.collectors, [(CollectorName::Disk, true)].into());
        assert_eq!(both.keys["web.enable-lifecycle"], ["true"]);
        assert_eq!(both.keys["path.rootfs"], ["/r"]);
    }
}
