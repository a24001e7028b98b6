//! `silence`: holds alerts back for a while. Written into the alert state beside a running exporter, which takes it up
//! within a second.

use std::{path::Path, time::Duration};

use clap::{
    Args, Subcommand,
    builder::{StringValueParser, TypedValueParser},
};

use super::{
    Ended,
    flags::Flags,
    plain, to_stderr, to_stdout,
    words::{Suggesting, alerts as suggesting_alerts},
};
use crate::{
    alert::{
        builtin,
        silence::{Silence, fits},
    },
    clock::{self, Timestamp},
    config::{Config, alerts},
    deliver::dispatch::alert_store::{AlertStore, AlertStoreError},
    facts::{bad_value::BadValue, duration},
    format::words,
    host::state::place,
    human, runbooks,
};

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Hold alerts back for a while and print the id of the silence
    Add(Add),
    /// Print the silences in force
    List {
        #[command(flatten)]
        flags: Flags,
    },
    /// End a silence
    Expire {
        /// Its id, which add and list print
        id: String,
        #[command(flatten)]
        flags: Flags,
    },
}

impl Action {
    /// The flags that stand behind the action.
    pub(super) fn flags(&self) -> Flags {
        match self {
            Self::Add(Add { flags, .. }) | Self::List { flags } | Self::Expire { flags, .. } => {
                flags.clone()
            }
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct Add {
    /// The stores: a name, or a shell pattern over names
    #[arg(long, value_name = "PATTERN", value_parser = pattern, required_unless_present = "alert")]
    store: Option<String>,

    /// The alerts: a name, or a shell pattern over names; `chroma_exporter explain` lists them
    #[arg(long, value_name = "PATTERN", value_parser = alert_pattern(), hide_possible_values = true)]
    alert: Option<String>,

    /// For how long: 30m, 2h, 1d
    #[arg(long = "for", value_name = "DURATION", value_parser = span)]
    span: Duration,

    /// Why, for whoever finds it
    #[arg(long, value_name = "TEXT", default_value = "", value_parser = comment)]
    comment: String,

    #[command(flatten)]
    flags: Flags,
}

/// Runs `silence`.
pub(super) fn run(config: &Config, mut action: Action) -> Ended {
    if let Action::Add(add) = &mut action {
        if let Err(problem) = name_alerts(config, add) {
            to_stderr(&format!("error: {problem}\nhelp: {}\n", problem.help));
            return Ended::Usage;
        }
        to_stderr(&unknown_store(config, add).unwrap_or_default());
    }
    let Some(dir) = &config.state_dir else {
        to_stderr(
            "error: silences are kept in the state directory, and there is none\nhelp: give the --state.dir that the exporter runs with\n",
        );
        return Ended::Misconfigured;
    };
    let now = clock::now();
    // As root beside an exporter of another user: with the rights of that one, and in its directory alone.
    let seen = match place::enter(dir) {
        Ok(seen) => seen,
        Err(obstacle) => {
            to_stderr(&format!(
                "error: {}: {obstacle}\n{}",
                plain(&dir.to_string_lossy()),
                obstacle.help()
            ));
            return Ended::Critical;
        }
    };
    match act(&seen, action, now) {
        Ok(text) => to_stdout(&text, Ended::Well),
        Err(problem) if seen == *dir => {
            to_stderr(&format!("error: {problem}\n"));
            Ended::Critical
        }
        Err(problem) => {
            to_stderr(&format!("error: in {}: {problem}\n", plain(&dir.to_string_lossy())));
            Ended::Critical
        }
    }
}

/// No rule has the name that a silence was to hold back.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("no alert is called {name}")]
struct UnknownAlert {
    /// As it may be shown.
    name: String,
    help: String,
}

/// Takes the code of a finding for the name of its alert. Errs when no rule has such a name: a silence that holds nothing back
/// would be noticed only by the message that it should have held back.
fn name_alerts(config: &Config, add: &mut Add) -> Result<(), UnknownAlert> {
    let Some(pattern) = &add.alert else { return Ok(()) };
    let rules = alerts::rules(&config.disk, &config.alerts.rules);
    let names = || rules.iter().map(|rule| &*rule.name);
    if names().any(|name| fits(pattern, name)) {
        return Ok(());
    }
    let meant = builtin::key(pattern);
    if let Some(name) = names().find(|name| builtin::key(name) == meant) {
        add.alert = Some(name.to_owned());
        return Ok(());
    }
    let off = config.alerts.rules.iter().any(|rule| !rule.enabled && fits(pattern, &rule.name));
    let plain_words = |word: &str| builtin::key(&word.replace(['*', '?', '[', ']', '!'], ""));
    let near = words::nearest(pattern, names(), plain_words);
    let mut of_prometheus = runbooks::exporter_alerts();
    let help = if of_prometheus.any(|(name, _)| builtin::key(name) == meant) {
        "Prometheus raises this one, so silence it in Alertmanager".to_owned()
    } else if off {
        "its rule is switched off in the configuration, so there is nothing to silence".to_owned()
    } else if near.is_empty() {
        OWN_RULES.to_owned()
    } else {
        format!("did you mean {}? {OWN_RULES}", near.join(", "))
    };
    Err(UnknownAlert { name: plain(pattern), help })
}

/// A warning when the stores of the configuration are known and none is meant. No more than that: the exporter may have
/// been given others by its flags.
fn unknown_store(config: &Config, add: &Add) -> Option<String> {
    let pattern = add.store.as_deref()?;
    let names: Vec<&str> = config.stores.iter().map(|store| &*store.name).collect();
    if names.is_empty() || names.iter().any(|name| fits(pattern, name)) {
        return None;
    }
    let near = words::nearest(pattern, names.iter().copied(), str::to_lowercase);
    let near = if near.is_empty() { names.iter().take(6).copied().collect() } else { near };
    Some(format!(
        "warning: no store of this configuration is called {}; there are {}\n",
        plain(pattern),
        near.join(", ")
    ))
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
enum SilenceError {
    #[error("{}", .0.chain())]
    AlertStore(#[from] AlertStoreError),
    #[error("no random id: {0}")]
    NoId(getrandom::Error),
    #[error("no silence {0} is in force")]
    NotInForce(String),
}

/// Gives what to print. Errs when the alert store cannot be read or written, or has no such silence.
fn act(dir: &Path, action: Action, now: Timestamp) -> Result<String, SilenceError> {
    let (alert_store, _) = AlertStore::open(dir, now)?;
    match action {
        Action::Add(add) => {
            let id = getrandom::u32().map_err(SilenceError::NoId)?;
            let silence = Silence {
                id: format!("{id:08x}"),
                store: add.store.unwrap_or_default(),
                alert: add.alert.unwrap_or_default(),
                since: now,
                until: now.plus(add.span),
                comment: add.comment,
                by: user(),
            };
            alert_store.put_silence(&silence)?;
            alert_store.forget_silences(now.minus(KEEP))?;
            Ok(format!("{}\n", silence.id))
        }
        Action::List { .. } => {
            let silences = alert_store.silences()?;
            let active: Vec<&Silence> = silences.iter().filter(|s| s.active(now)).collect();
            if active.is_empty() {
                return Ok("no silence is in force\n".to_owned());
            }
            Ok(active.into_iter().map(|silence| line(silence, now)).collect())
        }
        Action::Expire { id, .. } => {
            let silences = alert_store.silences()?;
            let found = silences.into_iter().find(|s| s.id == id && s.active(now));
            let silence = found.ok_or_else(|| SilenceError::NotInForce(plain(&id)))?;
            alert_store.put_silence(&Silence { until: now, ..silence })?;
            Ok(String::new())
        }
    }
}

/// `1a2b3c4d  store=prod-* alert=*  1 h 59 min left, until 2026-11-23T12:00:00Z, by root: moving the disk`
fn line(silence: &Silence, now: Timestamp) -> String {
    let or_all = |pattern: &str| if pattern.is_empty() { "*".to_owned() } else { plain(pattern) };
    let mut text = format!(
        "{}  store={} alert={}  {} left, until {}",
        plain(&silence.id),
        or_all(&silence.store),
        or_all(&silence.alert),
        human::span(silence.until.since(now)),
        silence.until,
    );
    if !silence.by.is_empty() {
        text.extend([", by ", &*plain(&silence.by)]);
    }
    if !silence.comment.is_empty() {
        text.extend([": ", &*plain(&silence.comment)]);
    }
    text.push('\n');
    text
}

fn user() -> String {
    ["SUDO_USER", "USER", "LOGNAME"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok())
        .map(|name| name.chars().filter(|c| !c.is_control()).take(64).collect())
        .unwrap_or_default()
}

fn pattern(text: &str) -> Result<String, BadValue> {
    if text.is_empty() || text.len() > 256 {
        return Err("must be 1 to 256 bytes".into());
    }
    glob::Pattern::new(text)?;
    Ok(text.to_owned())
}

fn alert_pattern() -> Suggesting<impl TypedValueParser<Value = String>> {
    suggesting_alerts(StringValueParser::new().try_map(|text| pattern(&text)))
}

fn span(text: &str) -> Result<Duration, BadValue> {
    let span = duration::parse(text).filter(|span| (SPAN_MIN..=SPAN_MAX).contains(span));
    span.ok_or(BadValue::Rule("must be a duration such as 30m, 2h or 1d, 1s to 365d"))
}

fn comment(text: &str) -> Result<String, BadValue> {
    if text.chars().count() <= 500 && !text.chars().any(char::is_control) {
        Ok(text.to_owned())
    } else {
        Err("must be one line of at most 500 characters".into())
    }
}

const SPAN_MIN: Duration = Duration::from_secs(1);
const SPAN_MAX: Duration = Duration::from_hours(365 * 24);

const OWN_RULES: &str = "chroma_exporter explain lists the built-in ones; one of your own is known with the --config.file that defines it";

/// A silence that has ended is kept for so long, for whoever asks why nobody was told.
const KEEP: Duration = Duration::from_hours(30 * 24);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::alerts::RuleChange;

    fn add(store: Option<&str>, alert: Option<&str>) -> Add {
        Add {
            store: store.map(str::to_owned),
            alert: alert.map(str::to_owned),
            span: Duration::from_hours(2),
            comment: "moving".to_owned(),
            flags: Flags::default(),
        }
    }

    #[test]
    fn only_alerts_that_there_are_can_be_silenced() {
        let mut config = Config::default();
        let rule = |name: &str, enabled| RuleChange {
            name: name.to_owned(),
            enabled,
            ..RuleChange::default()
        };
        config.alerts.rules = vec![rule("LongQueue", true), rule("ChromaWalMode", false)];
        for (word, want) in [
            ("ChromaSecondWriter", Ok("ChromaSecondWriter")),
            ("ChromaDisk*", Ok("ChromaDisk*")),
            ("*", Ok("*")),
            ("second_writer", Ok("ChromaSecondWriter")),
            ("chromasecondwriter", Ok("ChromaSecondWriter")),
            ("LongQueue", Ok("LongQueue")),
            ("ChromaSecondWritr", Err("did you mean ChromaSecondWriter? ")),
            ("SecondWritr*", Err("did you mean ChromaSecondWriter? ")),
            ("ChromaWalMode", Err("switched off")),
            ("ChromaStoreUnwatched", Err("silence it in Alertmanager")),
            ("LongQeue", Err("did you mean LongQueue? ")),
            ("zzz", Err("explain lists the built-in ones; one of your own")),
        ] {
            let mut add = add(None, Some(word));
            match (name_alerts(&config, &mut add).map_err(|problem| problem.help), want) {
                (Ok(()), Ok(name)) => assert_eq!(add.alert.as_deref(), Some(name), "{word}"),
                (Err(help), Err(part)) => assert!(help.contains(part), "{word}: {help}"),
                (got, _) => panic!("{word}: {got:?}"),
            }
        }
    }

    #[test]
    fn silences_are_added_listed_and_ended() {
        let dir = tempfile::tempdir().unwrap();
        let at = Timestamp::from_secs;
        let all = || Action::List { flags: Flags::default() };
        let expire = |id: &str| Action::Expire { id: id.to_owned(), flags: Flags::default() };
        let id = act(dir.path(), Action::Add(add(Some("prod-*"), None)), at(0)).unwrap();
        let id = id.trim();
        let list = act(dir.path(), all(), at(60)).unwrap();
        assert!(
            list.starts_with(&format!(
                "{id}  store=prod-* alert=*  1 h 59 min left, until 1970-01-01T02:00:00Z"
            )) && list.ends_with(": moving\n"),
            "{list}"
        );
        act(dir.path(), expire(id), at(70)).unwrap();
        assert_eq!(act(dir.path(), all(), at(71)).unwrap(), "no silence is in force\n");
        let twice = act(dir.path(), expire(id), at(72));
        assert_eq!(twice.unwrap_err().to_string(), format!("no silence {id} is in force"));
        assert!(span("0s").is_err() && span("400d").is_err() && span("2h").is_ok());
        assert!(pattern("a[").is_err() && pattern("a*").is_ok());
    }
}
