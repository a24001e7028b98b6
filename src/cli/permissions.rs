//! `permissions`: what of a store has another owner, group or mode than it should, and with `--apply` gives it back.

use std::{error::Error, path::PathBuf, sync::Arc};

use serde_json::{Value, json};

use super::{Ended, Output, plain, to_stderr, to_stdout};
use crate::{
    clock,
    collectors::permissions::survey::{
        self, Difference, Owned, Policy, Reason, Survey, SurveyError,
    },
    config::{Config, PermissionPolicy, Store},
    facts::bad_value::BadValue,
    findings,
    format::access::mode_text,
    host::{Host, links},
    human,
    repair::{
        permissions::{self, Change, Done, MendError, Outcome},
        restore,
    },
    store::{self, Context},
};

/// What `permissions` takes beside the flags of every command.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Options {
    /// Give every entry that differs the owner, group and mode that it should have, and nothing else
    #[arg(long)]
    apply: bool,

    /// Take the last --apply back; what somebody has changed since stays
    #[arg(long, conflicts_with = "apply")]
    undo: bool,

    /// The user that Chroma runs as, by number, and perhaps its group; without it, what the configuration says, or whoever runs it
    #[arg(long, value_name = "UID[:GID]", value_parser = server_user, conflicts_with = "undo")]
    server_user: Option<ServerUser>,

    /// What to print: text for people, JSON for programs
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    output: Output,
}

/// A user, and perhaps a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ServerUser {
    uid: u32,
    gid: Option<u32>,
}

fn server_user(text: &str) -> Result<ServerUser, BadValue> {
    let (uid, gid) = match text.split_once(':') {
        Some((uid, gid)) => (uid.parse(), Some(gid.parse())),
        None => (text.parse(), None),
    };
    match (uid, gid.transpose()) {
        (Ok(uid), Ok(gid)) => Ok(ServerUser { uid, gid }),
        _ => Err(BadValue::Rule("give numbers: 1000 or 1000:1000 (id -u, id -g)")),
    }
}

/// Looks at the one store of `config`, and mends it when that is asked for.
pub(super) fn run(config: &Arc<Config>, options: &Options) -> Ended {
    let [store] = &config.stores[..] else {
        let more = config.stores.len();
        to_stderr(&format!(
            "error: permissions works on one store at a time, and {more} are named\nhelp: add --store.path DIR\n"
        ));
        return Ended::Usage;
    };
    let mut store = store::placed(store, &config.rootfs);
    if let Some(ServerUser { uid, gid }) = options.server_user {
        let gids = gid.into_iter().collect();
        let permissions = PermissionPolicy {
            server_uid: Some(uid),
            server_gids: gids,
            ..store.permissions.clone()
        };
        store = Arc::new(Store { permissions, ..(*store).clone() });
    }
    let answer =
        if options.undo { undo(config, &store) } else { inspect(config, &store, options.apply) };
    let (text, document, ended) = match answer {
        Ok(answer) => answer,
        Err(reported) => {
            to_stderr(&format!("error: {}\nhelp: {}\n", reported.error, reported.help));
            let document =
                json!({"status": "unknown", "error": reported.error, "help": reported.help});
            (String::new(), document, Ended::Unknown)
        }
    };
    match options.output {
        Output::Text => to_stdout(&text, ended),
        Output::Json => to_stdout(&format!("{document:#}\n"), ended),
    }
}

type Answer = (String, Value, Ended);

/// Why there is no answer.
struct NoAnswer {
    error: String,
    help: String,
}

impl NoAnswer {
    fn new(error: &dyn Error, help: &str) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                text.extend([": ", &*cause_text]);
            }
            source = cause.source();
        }
        Self { error: plain(&text), help: help.to_owned() }
    }
}

impl From<SurveyError> for NoAnswer {
    fn from(error: SurveyError) -> Self {
        Self::new(
            &error,
            match error {
                SurveyError::NoStore(_) => "name the directory with chroma.sqlite3",
                SurveyError::Unreadable(_) => "correct the path, or run it as root",
            },
        )
    }
}

impl From<MendError> for NoAnswer {
    fn from(error: MendError) -> Self {
        Self::new(&error, error.hint())
    }
}

fn inspect(config: &Arc<Config>, store: &Arc<Store>, apply: bool) -> Result<Answer, NoAnswer> {
    let host = Arc::new(Host::read_only(config));
    let context = Context::new(config, store, &host);
    let survey = survey::survey(&context, clock::now())?;
    let done = if apply && survey.policy != Policy::Unknown {
        Some(permissions::mend(&place(config, store)?, &survey, clock::now())?)
    } else {
        None
    };
    let ended = ended(&survey, done.as_ref(), apply);
    Ok((text(store, &survey, done.as_ref(), apply), document(store, &survey, done.as_ref()), ended))
}

/// The directory as it is changed; one that is seen through a process has no path here.
/// Errs when there is no such directory, or no path to it.
fn place(config: &Config, store: &Store) -> Result<PathBuf, NoAnswer> {
    if store.through.is_some() || links::through_process(&config.procfs, &store.seen_path).is_some()
    {
        return Err(NoAnswer {
            error: format!(
                "{} lies in a container and has no path on this host",
                plain(&store.path.to_string_lossy())
            ),
            help: "run this in the container, or name the volume by its path on the host"
                .to_owned(),
        });
    }
    links::follow(&config.rootfs, &store.seen_path)
        .and_then(|seen| restore::place(&seen))
        .map_err(|error| NoAnswer::new(&error, "correct the path"))
}

fn ended(survey: &Survey, done: Option<&Done>, apply: bool) -> Ended {
    let refused = done.is_some_and(|done| done.left() > 0);
    let rest = survey.differences.iter().any(|one| one.rest.is_some()) || survey.more > 0;
    let differs = if done.is_some() { rest } else { !survey.differences.is_empty() || rest };
    match (differs, done) {
        _ if refused || survey.policy == Policy::Unknown => Ended::Unknown,
        (true, _) => Ended::Warning,
        // What was not looked at may differ.
        (false, _) if !survey.problems.is_empty() => Ended::Unknown,
        (false, None) if apply => Ended::Unknown,
        (false, _) => Ended::Well,
    }
}

/// A command of ours for the store, as a shell takes it.
fn command(store: &Store, flag: &str) -> String {
    let template = format!("chroma_exporter permissions --store.path {{path}} {flag}");
    findings::command(&template, &[("path", &store.path)])
        .unwrap_or_else(|| format!("chroma_exporter permissions --store.path DIR {flag}"))
}

fn policy_words(policy: Policy) -> String {
    match policy {
        Policy::Declared => "the configuration says how they should be".to_owned(),
        Policy::Learnt { at } => {
            format!("they should be as the exporter saw them first at {}", human::moment(at))
        }
        Policy::Server(uid) => format!("Chroma runs as uid {uid}"),
        Policy::Majority(uid) => format!("uid {uid} owns most of it"),
        Policy::Unknown => "nobody can tell whose they should be".to_owned(),
    }
}

/// Said where nothing differs from a guess.
const NOT_LEARNT: &str = "What an exporter learnt is not known here: to compare with that, add its --config.file or --state.dir.";

/// What to do when it cannot be told whose the files should be.
const UNKNOWN_HELP: &str = "Run this while Chroma runs, name its user by --server-user, or declare the owner in the configuration (stores: permissions: owner).";

fn reason_words(reason: Reason) -> String {
    match reason {
        Reason::Drifted => "it is not as before".to_owned(),
        Reason::Foreign => "it belongs to somebody else than the rest".to_owned(),
        Reason::Refused { uid, refusal } => {
            format!("uid {uid} cannot use it: {}", refusal.as_str())
        }
        Reason::WorldWritable => "everybody may change it".to_owned(),
    }
}

fn entry_words(path: &str) -> String {
    if path.is_empty() { "the directory itself".to_owned() } else { plain(path) }
}

fn why(one: &Difference) -> String {
    let mut words: Vec<String> = one.reasons.iter().map(|reason| reason_words(*reason)).collect();
    words.extend(one.rest.clone());
    words.join("; ")
}

fn text(store: &Store, survey: &Survey, done: Option<&Done>, apply: bool) -> String {
    let dir = plain(&store.path.to_string_lossy());
    let entries = human::count(survey.entries as f64);
    let mut lines = Vec::new();
    let number = survey.differences.len();
    lines.push(match number {
        0 => {
            format!("{dir}: {entries} entries, and none differs ({})", policy_words(survey.policy))
        }
        1 => format!("{dir}: 1 of {entries} entries differs ({})", policy_words(survey.policy)),
        more => {
            format!("{dir}: {more} of {entries} entries differ ({})", policy_words(survey.policy))
        }
    });
    for one in &survey.differences {
        let path = entry_words(&String::from_utf8_lossy(&one.path));
        let should =
            if one.to == one.is { String::new() } else { format!(", should be {}", one.to) };
        let outcome = done.and_then(|done| outcome_of(done, &one.path)).map(outcome_words);
        let outcome = outcome.map_or_else(String::new, |words| format!("; {words}"));
        lines.push(format!("  {path} is {}{should}: {}{outcome}", one.is, plain(&why(one))));
    }
    if survey.more > 0 {
        let more = human::count(survey.more as f64);
        lines.push(format!(
            "  and {more} more, which are not listed; run the command again after --apply"
        ));
    }
    for problem in &survey.problems {
        lines.push(format!("Not looked at: {}.", NoAnswer::new(problem, "").error));
    }
    if matches!(survey.policy, Policy::Server(_) | Policy::Majority(_)) && number == 0 {
        lines.push(NOT_LEARNT.to_owned());
    }
    if survey.policy == Policy::Unknown {
        lines.push(format!("Nothing was changed. {UNKNOWN_HELP}"));
    } else if let Some(done) = done {
        lines.extend(done_lines(store, done, "mended", true));
    } else if !apply && survey.differences.iter().any(|one| one.to != one.is) {
        lines.push(format!("To mend: {}", command(store, "--apply")));
    }
    lines.join("\n") + "\n"
}

fn done_lines(store: &Store, done: &Done, verb: &str, undo: bool) -> Vec<String> {
    let count = |number: usize| {
        format!("{} {}", human::count(number as f64), if number == 1 { "entry" } else { "entries" })
    };
    let mut lines = Vec::new();
    if !done.entries.is_empty() {
        lines.push(format!("{} {verb}.", count(done.changed())));
    }
    if done.left() > 0 {
        lines.push(format!("{} left as they are.", count(done.left())));
    }
    if undo && let Some(record) = &done.record {
        lines.push(format!("What was changed is in {}.", plain(&record.to_string_lossy())));
        lines.push(format!("To undo: {}", command(store, "--undo")));
    }
    lines
}

fn outcome_of<'a>(done: &'a Done, path: &[u8]) -> Option<&'a Outcome> {
    let found = done.entries.iter().find(|(change, _)| change.path.as_bytes() == path);
    found.map(|(_, outcome)| outcome)
}

fn outcome_words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Changed => "mended".to_owned(),
        Outcome::AsItWas => "it is so already".to_owned(),
        Outcome::Gone => "it has gone".to_owned(),
        Outcome::Left(why) => format!("NOT mended: {}", plain(why)),
    }
}

fn document(store: &Store, survey: &Survey, done: Option<&Done>) -> Value {
    let entries: Vec<Value> = survey
        .differences
        .iter()
        .map(|one| {
            let outcome = done.and_then(|done| outcome_of(done, &one.path));
            json!({
                "path": String::from_utf8_lossy(&one.path),
                "is": owned(one.is),
                "should_be": (one.to != one.is).then(|| owned(one.to)),
                "why": why(one),
                "outcome": outcome_word(outcome),
                "not_mended_because": match outcome {
                    Some(Outcome::Left(why)) => Some(why),
                    _ => None,
                },
            })
        })
        .collect();
    let policy = match survey.policy {
        Policy::Declared => "declared",
        Policy::Learnt { .. } => "learnt",
        Policy::Server(_) => "server",
        Policy::Majority(_) => "majority",
        Policy::Unknown => "unknown",
    };
    let problems: Vec<String> =
        survey.problems.iter().map(|problem| NoAnswer::new(problem, "").error).collect();
    json!({
        "status": status(ended(survey, done, done.is_some())),
        "store": store.path.to_string_lossy(),
        "policy": policy,
        "entries": survey.entries,
        "differ": entries,
        "not_listed": survey.more,
        "problems": problems,
        "changed": done.map(Done::changed),
        "record": done.and_then(|done| done.record.as_ref()).map(|path| path.to_string_lossy()),
        "undo": done.and_then(|done| done.record.as_ref()).map(|_| command(store, "--undo")),
    })
}

const fn status(ended: Ended) -> &'static str {
    match ended {
        Ended::Well => "ok",
        Ended::Warning => "differs",
        _ => "unknown",
    }
}

const fn outcome_word(outcome: Option<&Outcome>) -> &'static str {
    match outcome {
        None => "differs",
        Some(Outcome::Changed) => "changed",
        Some(Outcome::AsItWas) => "as_it_was",
        Some(Outcome::Gone) => "gone",
        Some(Outcome::Left(_)) => "left",
    }
}

fn owned(owned: Owned) -> Value {
    let Owned { uid, gid, mode } = owned;
    json!({"uid": uid, "gid": gid, "mode": format!("{:04o}", mode & 0o7777), "text": mode_text(mode)})
}

fn undo(config: &Config, store: &Arc<Store>) -> Result<Answer, NoAnswer> {
    let done = permissions::undo(&place(config, store)?)?;
    let ended = if done.left() > 0 { Ended::Unknown } else { Ended::Well };
    let dir = plain(&store.path.to_string_lossy());
    let mut lines = vec![format!("{dir}: owner, group and mode as before the last --apply")];
    lines.extend(done.entries.iter().map(|(Change { path, before, .. }, outcome)| {
        let outcome = match outcome {
            Outcome::Changed => "taken back".to_owned(),
            Outcome::Left(why) => format!("NOT taken back: {}", plain(why)),
            other => outcome_words(other),
        };
        format!("  {}: {before}; {outcome}", entry_words(path))
    }));
    lines.extend(done_lines(store, &done, "taken back", false));
    let entries: Vec<Value> = done
        .entries
        .iter()
        .map(|(Change { path, before, after }, outcome)| {
            json!({"path": path, "before": owned(*before), "after": owned(*after), "outcome": outcome_word(Some(outcome))})
        })
        .collect();
    let document = json!({
        "status": status(ended),
        "store": store.path.to_string_lossy(),
        "entries": entries,
        "changed": done.changed(),
        "record": done.record.as_ref().map(|path| path.to_string_lossy()),
    });
    Ok((lines.join("\n") + "\n", document, ended))
}
