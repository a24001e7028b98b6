//! ntfy (<https://docs.ntfy.sh/publish/#publish-as-json>): a push message on a phone, from ntfy.sh or a server of one's own. A POST of
//! JSON names the topic, so nothing of a message stands in a header. Whoever knows the topic of a public server may read it: it
//! is a secret.
//!
//! | answer | means |
//! |---|---|
//! | 200 with the message as JSON | delivered |
//! | 400, 401, 403, 404, 413 | refused: topic, token or address are wrong |
//! | 429 | too many messages in a moment (42901) or a day (42908): tried again |
//! | 507 | the server has no room for it now (nobody listens on a topic of UnifiedPush): tried again |
//! | 200 with anything else | unclear: the page of something that stands between |

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    Declared, HttpKind, Kind, Message, Reply, Request, Route, Unsendable, Verdict,
    keys::{needed, own_url, secret_keys},
    markup::{Dialect, Line, escape, is_link, render},
    words,
};
use crate::{
    alert::message::{Notification, Outcome, Reason, Status},
    findings::Severity,
    keys::{
        key::{self, Declared as _, Written, keys},
        secret::Secret,
    },
};

/// A topic of ntfy.
pub(super) static KIND: Declared =
    Declared::new("ntfy", Ntfy::keys, |section| Some(Arc::new(Ntfy::read(section))));

secret_keys!(TOPIC, "topic");

/// Where messages go unless the configuration names a server.
const OWN_URL: &str = "https://ntfy.sh";

/// Most characters of a title. The server has no limit, phones show two lines.
const TITLE_MAX: usize = 240;

/// Most UTF-16 units of a message: each is at most 3 bytes. A message of more than 4,096 bytes becomes an attachment, and JSON of more
/// than 8,192 is refused.
const MESSAGE_MAX: usize = 1_300;

const TOPIC_RULE: &str = "must be 1 to 64 of the characters A-Z a-z 0-9 _ -";

keys! {
    /// A push message on a phone.
    struct Ntfy {
        /// The server. Without it, ntfy.sh.
        url: Option<Secret> = None, own_url();
        /// The topic. On a public server, whoever knows it may read it.
        topic: Secret = Secret::default(), needed(&TOPIC, |_, text| {
            if is_topic(text) { Ok(()) } else { Err(TOPIC_RULE.into()) }
        });
    }
}

impl Kind for Ntfy {
    fn written(&self) -> Written {
        key::Declared::written(self)
    }

    fn route(&self) -> Route<'_> {
        Route::Http(self)
    }
}

impl HttpKind for Ntfy {
    fn url(&self) -> Secret {
        self.url.clone().unwrap_or_else(|| Secret::inline(OWN_URL))
    }

    fn secrets(&self) -> Vec<Secret> {
        vec![self.topic.clone()]
    }

    fn requests(
        &self,
        message: &Message<'_>,
        secrets: &[String],
    ) -> Result<Vec<Request>, Unsendable> {
        let topic = secrets.first().map(String::as_str).unwrap_or_default();
        Ok(vec![Request::json(payload(topic, message.notification).to_string())])
    }

    fn judge(&self, reply: &Reply) -> Verdict {
        Verdict::Is(judge(reply))
    }
}

fn is_topic(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    (1..=64).contains(&text.len()) && text.bytes().all(good)
}

/// The message for a topic, which is a secret. A topic that is none is refused by the server.
fn payload(topic: &str, n: &Notification) -> Value {
    let (priority, tag) = importance(n);
    let mut value = json!({
        "topic": topic,
        "title": escape(&words::title(n), Dialect::Plain, TITLE_MAX),
        "message": render(&lines(n), Dialect::Plain, MESSAGE_MAX),
        "priority": priority,
        "tags": [tag],
    });
    let page = format!("{}/", n.external_url);
    let runbook = n.alerts.first().map(|alert| alert.runbook.clone()).unwrap_or_default();
    let click = [page, runbook].into_iter().find(|url| is_link(url));
    if let Some(click) = click {
        value["click"] = json!(click);
    }
    value
}

/// A phone shows little: the first alert with its remedy, and a line for each other one.
fn lines(n: &Notification) -> Vec<Line> {
    if n.store().is_none() {
        return words::summary(n);
    }
    let (news, known) = words::split(n);
    let mut all = news.into_iter().chain(known);
    let mut lines = all.next().map(|first| words::alert(n, first, true)).unwrap_or_default();
    lines.extend(all.map(|other| words::brief(n, other)));
    lines
}

/// How loud it is, from 1 to 5, and the name of its emoji. 5 rings through "do not disturb" where people allow that.
fn importance(n: &Notification) -> (u8, &'static str) {
    let (status, severity) = words::tone(n);
    match (n.reason, status, severity) {
        (Reason::Test, ..) | (_, Status::Firing, Severity::Info) => (3, "information_source"),
        (_, Status::Resolved, _) => (3, "white_check_mark"),
        (_, Status::Firing, Severity::Warning) => (4, "warning"),
        (_, Status::Firing, Severity::Critical) => (5, "rotating_light"),
    }
}

/// The server answers with the message that it keeps.
fn judge(reply: &Reply) -> Outcome {
    let outcome = reply.outcome();
    if outcome != Outcome::Delivered {
        return outcome;
    }
    let kept: Option<Value> = serde_json::from_slice(&reply.body).ok();
    if kept.as_ref().and_then(|kept| kept.get("event")).is_some_and(|event| event == "message") {
        return Outcome::Delivered;
    }
    reply.unclear()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        alert::message::Failure,
        deliver::receivers::{
            golden,
            samples::{self, hostile},
        },
    };

    #[test]
    fn messages_are_as_in_the_golden_files() {
        for (name, notification) in samples::all() {
            golden::holds("ntfy", name, &payload("<secret>", &notification));
        }
    }

    #[test]
    fn every_limit_holds_for_any_names() {
        hostile(|n| {
            let value = payload("t", n);
            let text = |key: &str| value[key].as_str().unwrap().to_owned();
            assert!(!text("message").is_empty() && text("message").len() <= 4_096);
            assert!(!text("title").is_empty() && !text("title").contains(char::is_control));
            assert!(value.to_string().len() <= 8_192, "{value}");
            assert!((1..=5).contains(&value["priority"].as_u64().unwrap()));
        });
    }

    #[test]
    fn a_success_is_the_message_that_the_server_keeps() {
        let kept =
            r#"{"id":"sPs71M8A2T","time":1643935928,"event":"message","topic":"t","message":"m"}"#;
        let retry = |failure, unclear| Outcome::Retry { failure, after: None, unclear };
        let rejected = Outcome::Rejected { failure: Failure::Client };
        for (status, body, want) in [
            (200, kept, Outcome::Delivered),
            (200, "<html>Log in</html>", retry(Failure::Answer, true)),
            (200, r#"{"healthy":true}"#, retry(Failure::Answer, true)),
            (400, r#"{"code":40009,"http":400,"error":"topic invalid"}"#, rejected.clone()),
            (401, r#"{"code":40101,"http":401,"error":"unauthorized"}"#, rejected.clone()),
            (403, r#"{"code":40301,"http":403,"error":"forbidden"}"#, rejected.clone()),
            (413, r#"{"code":41303,"http":413,"error":"JSON body too large"}"#, rejected),
            (429, r#"{"code":42901,"http":429}"#, retry(Failure::RateLimited, false)),
            (429, r#"{"code":42908,"http":429}"#, retry(Failure::RateLimited, false)),
            (500, r#"{"code":50001,"http":500}"#, retry(Failure::Server, false)),
            (507, r#"{"code":50701,"http":507}"#, retry(Failure::Server, false)),
            (504, "", retry(Failure::Server, true)),
        ] {
            let reply = Reply { status, body: body.into(), whole: true, after: None };
            assert_eq!(judge(&reply), want, "{status} {body}");
        }
        let half = Reply { status: 200, body: kept[..20].into(), whole: false, after: None };
        assert_eq!(judge(&half), retry(Failure::Broken, true));
    }
}
