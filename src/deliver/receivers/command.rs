//! A local program: the webhook's JSON on its standard input, a few facts in its environment, an exit code as its answer.
//!
//! | exit code | means |
//! |---|---|
//! | 0 | delivered |
//! | 65 (`EX_DATAERR`) | refused for good: not tried again |
//! | 75 (`EX_TEMPFAIL`), any other, a signal | failed: tried again |

use std::{sync::Arc, time::Duration};

use super::{Declared, Kind, Message, Route, webhook};
use crate::{
    alert::{
        message::{Alert, Failure, Outcome},
        outbox::policy::Policy,
    },
    keys::{
        key::{self, Declared as _, Written, keys},
        report::looks_like_address,
        rules,
        secret::SHOWN,
        section::Section,
    },
};

/// A local program that reads JSON on its standard input.
pub(super) static KIND: Declared = Declared {
    http: false,
    timeout: Duration::from_secs(30),
    timeout_max: Duration::from_hours(1),
    ..Declared::new("command", Command::keys, |section| Some(Arc::new(Command::read(section))))
};

keys! {
    /// Program and arguments; no shell sees them. The program reads the JSON of a webhook on its standard input.
    pub(crate) struct Command {
        /// An absolute path of a program, then its arguments.
        words as "command": Vec<String> = Vec::new(), command();
    }
}

fn command() -> key::Kind<Vec<String>> {
    let shown = |word: &String| {
        Written::Text(if looks_like_address(word) { SHOWN.to_owned() } else { word.clone() })
    };
    let write = move |words: &Vec<String>| {
        (!words.is_empty()).then(|| Written::List(words.iter().map(shown).collect()))
    };
    key::Kind::custom(format!("list of words, at most {ARGUMENTS_MAX}"), read, write)
        .required("must be given: program and arguments as a list")
}

fn read(section: &Section<'_>, key: &'static str) -> Option<Vec<String>> {
    const RULE: &str = "must be a list: an absolute path of a program, then its arguments";
    section.node(key)?;
    let items = section.list(key, ARGUMENTS_MAX);
    let mut words = Vec::new();
    for item in &items {
        let first = words.is_empty();
        words.push(section.judged(item, |text| match text {
            _ if text.contains('\0') => Err("must not hold a NUL".into()),
            _ if first => Ok(rules::absolute_path(text)?.to_string_lossy().into_owned()),
            _ => Ok(text.to_owned()),
        })?);
    }
    if words.is_empty() {
        section.add(section.place(key).wrong(RULE));
        return None;
    }
    Some(words)
}

const ARGUMENTS_MAX: usize = 256;

impl Kind for Command {
    fn written(&self) -> Written {
        key::Declared::written(self)
    }

    fn policy(&self) -> Policy {
        webhook::policy()
    }

    fn route(&self) -> Route<'_> {
        Route::Command(self)
    }
}

/// What the program reads on its standard input.
pub(crate) fn input(message: &Message<'_>) -> String {
    webhook::body(message)
}

/// What an exit code means; `None` is a signal.
pub(crate) fn judge(code: Option<i32>) -> Outcome {
    match code {
        Some(0) => Outcome::Delivered,
        Some(EX_DATAERR) => Outcome::Rejected { failure: Failure::Command },
        _ => Outcome::Retry { failure: Failure::Command, after: None, unclear: false },
    }
}

const EX_DATAERR: i32 = 65;

/// The facts of a message as variables of the environment.
pub(crate) fn environment(message: &Message<'_>) -> Vec<(&'static str, String)> {
    let n = message.notification;
    let first = n.alerts.first();
    let of = |text: fn(&Alert) -> &str| first.map(text).unwrap_or_default();
    let mut all = Vec::new();
    for (name, value) in [
        ("CHROMA_RECEIVER", message.receiver),
        ("CHROMA_NOTIFICATION_ID", &n.id),
        ("CHROMA_REASON", n.reason.as_str()),
        ("CHROMA_STATUS", n.status().as_str()),
        ("CHROMA_SEVERITY", n.severity().as_str()),
        ("CHROMA_HOST", &n.host),
        ("CHROMA_STORE", n.store().unwrap_or_default()),
        ("CHROMA_PATH", n.store().map_or("", |_| of(|alert| &alert.path))),
        ("CHROMA_ALERT", of(|alert| &alert.name)),
        ("CHROMA_ALERTS", &n.alerts.len().to_string()),
    ] {
        all.push((name, value.replace('\0', " ")));
    }
    all
}
