//! `silence`: holds alerts back for a while. Written into the alert state beside a running exporter, which takes it up
//! within a second.

use std::{path::Path, time::Duration};

use clap::{Args, Subcommand};

use super::{Ended, plain, to_stderr, to_stdout};
use crate::{
    alert::silence::Silence,
    clock::{self, Timestamp},
    config::Config,
    dispatch::book::Book,
    format::duration,
    human,
};

#[derive(Debug, Subcommand)]
pub(super) enum Action {
    /// Hold alerts back for a while and print the id of the silence
    Add(Add),
    /// Print the silences in force
    List,
    /// End a silence now
    Expire {
        /// Its id, as add and list print it
        id: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct Add {
    /// Stores, as a shell pattern
    #[arg(long, value_name = "PATTERN", value_parser = pattern, required_unless_present = "alert")]
    store: Option<String>,

    /// Names of rules, as a shell pattern
    #[arg(long, value_name = "PATTERN", value_parser = pattern)]
    alert: Option<String>,

    /// For how long: 30m, 2h, 1d
    #[arg(long = "for", value_name = "DURATION", value_parser = span)]
    span: Duration,

    /// Why, for whoever finds it
    #[arg(long, value_name = "TEXT", default_value = "", value_parser = comment)]
    comment: String,
}

/// Runs `silence`.
pub(super) fn run(config: &Config, action: Action) -> Ended {
    let Some(dir) = &config.state_dir else {
        to_stderr(
            "error: silences are kept in the state directory, and there is none\nhelp: give the --state.dir that the exporter runs with\n",
        );
        return Ended::Misconfigured;
    };
    let now = clock::now();
    match act(dir, action, now) {
        Ok(text) => to_stdout(&text, Ended::Well),
        Err(problem) => {
            to_stderr(&format!("error: {problem}\n"));
            Ended::Critical
        }
    }
}

fn act(dir: &Path, action: Action, now: Timestamp) -> Result<String, String> {
    let (book, _) = Book::open(dir, now).map_err(|problem| problem.chain())?;
    let failed = |problem: crate::dispatch::book::BookError| problem.chain();
    match action {
        Action::Add(add) => {
            let id = getrandom::u32().map_err(|error| format!("no random id: {error}"))?;
            let silence = Silence {
                id: format!("{id:08x}"),
                store: add.store.unwrap_or_default(),
                alert: add.alert.unwrap_or_default(),
                since: now,
                until: now.plus(add.span),
                comment: add.comment,
                by: user(),
            };
            book.put_silence(&silence).map_err(failed)?;
            book.forget_silences(now.minus(KEEP)).map_err(failed)?;
            Ok(format!("{}\n", silence.id))
        }
        Action::List => {
            let silences = book.silences().map_err(failed)?;
            let active: Vec<&Silence> = silences.iter().filter(|s| s.active(now)).collect();
            if active.is_empty() {
                return Ok("no silence is in force\n".to_owned());
            }
            Ok(active.into_iter().map(|silence| line(silence, now)).collect())
        }
        Action::Expire { id } => {
            let silences = book.silences().map_err(failed)?;
            let found = silences.into_iter().find(|s| s.id == id && s.active(now));
            let silence = found.ok_or_else(|| format!("no silence {} is in force", plain(&id)))?;
            book.put_silence(&Silence { until: now, ..silence }).map_err(failed)?;
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

fn pattern(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 256 {
        return Err("must be 1 to 256 bytes".to_owned());
    }
    glob::Pattern::new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

fn span(text: &str) -> Result<Duration, String> {
    let span = duration::parse(text).filter(|span| (SPAN_MIN..=SPAN_MAX).contains(span));
    span.ok_or_else(|| "must be a duration such as 30m, 2h or 1d, 1s to 365d".to_owned())
}

fn comment(text: &str) -> Result<String, String> {
    if text.chars().count() <= 500 && !text.chars().any(char::is_control) {
        Ok(text.to_owned())
    } else {
        Err("must be one line of at most 500 characters".to_owned())
    }
}

const SPAN_MIN: Duration = Duration::from_secs(1);
const SPAN_MAX: Duration = Duration::from_hours(365 * 24);

/// A silence that has ended is kept for so long, for whoever asks why nobody was told.
const KEEP: Duration = Duration::from_hours(30 * 24);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silences_are_added_listed_and_ended() {
        let dir = tempfile::tempdir().unwrap();
        let at = Timestamp::from_secs;
        let add = |store: &str| {
            Action::Add(Add {
                store: Some(store.to_owned()),
                alert: None,
                span: Duration::from_hours(2),
                comment: "moving".to_owned(),
            })
        };
        let id = act(dir.path(), add("prod-*"), at(0)).unwrap();
        let id = id.trim();
        let list = act(dir.path(), Action::List, at(60)).unwrap();
        assert!(
            list.starts_with(&format!(
                "{id}  store=prod-* alert=*  1 h 59 min left, until 1970-01-01T02:00:00Z"
            )) && list.ends_with(": moving\n"),
            "{list}"
        );
        act(dir.path(), Action::Expire { id: id.to_owned() }, at(70)).unwrap();
        assert_eq!(act(dir.path(), Action::List, at(71)).unwrap(), "no silence is in force\n");
        let twice = act(dir.path(), Action::Expire { id: id.to_owned() }, at(72));
        assert_eq!(twice.unwrap_err(), format!("no silence {id} is in force"));
        assert!(span("0s").is_err() && span("400d").is_err() && span("2h").is_ok());
        assert!(pattern("a[").is_err() && pattern("a*").is_ok());
    }
}
