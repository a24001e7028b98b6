//! Programs that take Slack's older form without blocks (Mattermost, Rocket.Chat) and Discord with embeds of its own. The
//! words are those of Slack's message; markup, limits and answers are theirs.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    Declared, HttpKind, Kind, Message, Reply, Request, Route, Unsendable, Verdict,
    keys::url,
    markup::{Dialect, Piece, escape, render},
    slack::{GAP, color, sections},
    words,
};
use crate::{
    alert::{
        message::{Failure, Notification, Outcome},
        outbox::policy::Policy,
    },
    keys::{
        key::{Declared as _, Written, keys},
        secret::Secret,
        section::Section,
    },
};

/// Most characters of the line above, and of a part below it. Mattermost takes 16,383 of a post, Rocket.Chat 5,000.
const TITLE_MAX: usize = 600;
const PART_MAX: usize = 2_400;

/// Discord takes 4,096 characters of a description and 6,000 of all embeds.
const DESCRIPTION_MAX: usize = 4_000;

/// Slack's form without blocks, with Markdown.
pub(super) static MATTERMOST: Declared =
    Declared::new("mattermost", Address::keys, |section| Some(read(Flavour::Mattermost, section)));

/// Slack's form without blocks.
pub(super) static ROCKETCHAT: Declared =
    Declared::new("rocketchat", Address::keys, |section| Some(read(Flavour::RocketChat, section)));

/// Embeds of its own.
pub(super) static DISCORD: Declared =
    Declared::new("discord", Address::keys, |section| Some(read(Flavour::Discord, section)));

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flavour {
    Mattermost,
    RocketChat,
    Discord,
}

#[derive(Debug, PartialEq)]
struct Compatible {
    flavour: Flavour,
    keys: Address,
}

keys! {
    /// An incoming webhook.
    struct Address {
        /// Its address.
        url: Secret = Secret::default(), url();
    }
}

fn read(flavour: Flavour, section: &Section<'_>) -> Arc<dyn Kind> {
    Arc::new(Compatible { flavour, keys: Address::read(section) })
}

impl Kind for Compatible {
    fn written(&self) -> Written {
        self.keys.written()
    }

    fn policy(&self) -> Policy {
        Policy { gap: GAP, ..Policy::default() }
    }

    fn route(&self) -> Route<'_> {
        Route::Http(self)
    }
}

impl HttpKind for Compatible {
    fn url(&self) -> Secret {
        self.keys.url.clone()
    }

    fn requests(&self, message: &Message<'_>, _: &[String]) -> Result<Vec<Request>, Unsendable> {
        Ok(vec![Request::json(payload(self.flavour, message.notification).to_string())])
    }

    fn judge(&self, reply: &Reply) -> Verdict {
        Verdict::Is(judge(self.flavour, reply))
    }
}

/// The message.
fn payload(flavour: Flavour, n: &Notification) -> Value {
    match flavour {
        Flavour::Mattermost => slack_like(Dialect::Markdown, n),
        Flavour::RocketChat => slack_like(Dialect::RocketChat, n),
        Flavour::Discord => discord(n),
    }
}

fn title(dialect: Dialect, n: &Notification) -> String {
    render(&[vec![Piece::Strong(words::title(n))]], dialect, TITLE_MAX)
}

fn slack_like(dialect: Dialect, n: &Notification) -> Value {
    // Mattermost wants a fallback: what stands where attachments cannot be shown.
    let fallback = escape(&words::title(n), Dialect::Plain, TITLE_MAX);
    let attachments: Vec<Value> = sections(n, dialect, PART_MAX)
        .into_iter()
        .map(|text| json!({"fallback": fallback, "color": color(n), "text": text}))
        .collect();
    json!({"text": title(dialect, n), "attachments": attachments})
}

fn discord(n: &Notification) -> Value {
    // As much for each part as there are parts; most need less.
    let count = sections(n, Dialect::Markdown, PART_MAX).len().max(1);
    let each = DESCRIPTION_MAX / count - 2;
    let description = sections(n, Dialect::Markdown, each).join("\n\n");
    let color = u32::from_str_radix(color(n).trim_start_matches('#'), 16).unwrap_or(0);
    json!({
        "content": title(Dialect::Markdown, n),
        "embeds": [{"description": description, "color": color}],
        "allowed_mentions": {"parse": []},
    })
}

/// What an answer means. A page of something that stands between is no success, whatever its status.
fn judge(flavour: Flavour, reply: &Reply) -> Outcome {
    let outcome = reply.outcome();
    if outcome != Outcome::Delivered {
        return outcome;
    }
    let json: Option<Value> = serde_json::from_slice(&reply.body).ok();
    let success = json.as_ref().and_then(|json| json.get("success")).and_then(Value::as_bool);
    let good = match flavour {
        Flavour::Mattermost => reply.text().trim() == "ok",
        Flavour::RocketChat if success == Some(false) => {
            return Outcome::Rejected { failure: Failure::Client };
        }
        Flavour::RocketChat => success == Some(true),
        // It answers 204 without a word, or 200 with the message when asked to wait. What stands between answers with a page.
        Flavour::Discord => !reply.text().trim_start().starts_with('<'),
    };
    if good {
        return Outcome::Delivered;
    }
    reply.unclear()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::receivers::{
        golden,
        samples::{self, hostile},
    };

    const ALL: [(&str, Flavour); 3] = [
        ("mattermost", Flavour::Mattermost),
        ("rocketchat", Flavour::RocketChat),
        ("discord", Flavour::Discord),
    ];

    #[test]
    fn messages_are_as_in_the_golden_files() {
        for (kind, flavour) in ALL {
            for (name, notification) in samples::all() {
                golden::holds(kind, name, &payload(flavour, &notification));
            }
        }
    }

    #[test]
    fn every_limit_holds_for_any_names() {
        let count = |value: &Value| value.as_str().unwrap().encode_utf16().count();
        hostile(|n| {
            for (kind, flavour) in ALL {
                let value = payload(flavour, n);
                // The zero-width space keeps the words from being a mention.
                for word in ["@everyone", "@here", "@channel", "@all"] {
                    let outside_code = value.to_string().replace("ˋ", "");
                    assert!(
                        kind == "discord" || !outside_code.contains(&format!(" {word} ")),
                        "{value}"
                    );
                }
                if flavour == Flavour::Discord {
                    assert_eq!(value["allowed_mentions"]["parse"], json!([]));
                    assert!((1..=2_000).contains(&count(&value["content"])));
                    assert!(count(&value["embeds"][0]["description"]) <= 4_096);
                } else {
                    let parts = value["attachments"].as_array().unwrap();
                    let total: usize = parts.iter().map(|part| count(&part["text"])).sum();
                    assert!(total + count(&value["text"]) <= 16_000, "{total}");
                    assert!(parts.len() <= 5);
                }
            }
        });
    }

    #[test]
    fn a_success_is_what_each_of_them_calls_one() {
        let answer = |unclear| Outcome::Retry { failure: Failure::Answer, after: None, unclear };
        let rejected = Outcome::Rejected { failure: Failure::Client };
        for (flavour, status, body, want) in [
            (Flavour::Mattermost, 200, "ok", Outcome::Delivered),
            (Flavour::Mattermost, 200, "<html>", answer(true)),
            (
                Flavour::Mattermost,
                400,
                r#"{"id":"web.incoming_webhook.invalid.app_error"}"#,
                rejected.clone(),
            ),
            (Flavour::RocketChat, 200, r#"{"success":true}"#, Outcome::Delivered),
            (Flavour::RocketChat, 200, r#"{"success":false}"#, rejected.clone()),
            (Flavour::RocketChat, 200, "<html>", answer(true)),
            (Flavour::Discord, 204, "", Outcome::Delivered),
            (Flavour::Discord, 200, r#"{"id":"1"}"#, Outcome::Delivered),
            (Flavour::Discord, 200, "ok", Outcome::Delivered),
            (Flavour::Discord, 200, " <html>", answer(true)),
            (Flavour::Discord, 404, r#"{"code":10015}"#, rejected),
        ] {
            let reply = Reply { status, body: body.into(), whole: true, after: None };
            assert_eq!(judge(flavour, &reply), want, "{flavour:?} {status} {body}");
        }
    }
}
