//! Slack's incoming webhooks: a line of text, and below it blocks behind a bar of colour. Every limit that Slack is known to
//! have is kept by construction, because it answers `invalid_blocks` and says no more: 50 blocks, 3,000 characters of a
//! section, about 13,200 of all blocks together (docs.slack.dev/reference/block-kit, slackapi/bolt-js issue 2509).

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::{
    Declared, HttpKind, Kind, Message, Reply, Request, Route, Unsendable, Verdict,
    keys::url,
    markup::{Dialect, Line, Piece, render},
    words,
};
use crate::{
    alert::{
        message::{Failure, Notification, Outcome, Reason, Status},
        outbox::policy::Policy,
    },
    findings::Severity,
    keys::{
        key::{self, Declared as _, Written, keys},
        secret::Secret,
    },
};

/// Alerts that are told with everything; the others get a line each.
const WHOLE: usize = 3;

/// Most characters of a section. Slack takes 3,000.
const SECTION_MAX: usize = 2_400;

/// Most characters of the line above the blocks, and of a message that is nothing but text.
const TITLE_MAX: usize = 600;
const PLAIN_MAX: usize = 3_500;

/// Slack's incoming webhooks.
pub(super) static KIND: Declared =
    Declared::new("slack", Slack::keys, |section| Some(Arc::new(Slack::read(section))));

/// Slack and those like it take a message a second, and ban who sends more.
pub(super) const GAP: Duration = Duration::from_secs(1);

keys! {
    /// An incoming webhook of Slack.
    struct Slack {
        /// Its address.
        url: Secret = Secret::default(), url();
    }
}

impl Kind for Slack {
    fn written(&self) -> Written {
        key::Declared::written(self)
    }

    fn policy(&self) -> Policy {
        Policy { gap: GAP, ..Policy::default() }
    }

    fn route(&self) -> Route<'_> {
        Route::Http(self)
    }
}

impl HttpKind for Slack {
    fn url(&self) -> Secret {
        self.url.clone()
    }

    fn requests(&self, message: &Message<'_>, _: &[String]) -> Result<Vec<Request>, Unsendable> {
        Ok(vec![Request::json(payload(message.notification).to_string())])
    }

    fn judge(&self, reply: &Reply) -> Verdict {
        judge(reply)
    }

    fn plainly(&self, message: &Message<'_>) -> Option<Request> {
        Some(Request::json(plain(message.notification).to_string()))
    }
}

/// The message.
fn payload(n: &Notification) -> Value {
    let title = render(&title(n), Dialect::Slack, TITLE_MAX);
    let sections = sections(n, Dialect::Slack, SECTION_MAX);
    let blocks: Vec<Value> = sections
        .iter()
        .map(|text| {
            // `verbatim` keeps Slack from making mentions and links of words that look like them.
            json!({"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": true}})
        })
        .collect();
    json!({
        "text": title,
        "unfurl_links": false,
        "unfurl_media": false,
        "attachments": [{"color": color(n), "fallback": title, "blocks": blocks}],
    })
}

/// The same without anything that Slack could find invalid.
fn plain(n: &Notification) -> Value {
    let mut lines = title(n);
    lines.extend(words(n));
    json!({"text": render(&lines, Dialect::Slack, PLAIN_MAX)})
}

fn title(n: &Notification) -> Vec<Line> {
    vec![vec![Piece::Strong(words::title(n))]]
}

fn words(n: &Notification) -> Vec<Line> {
    if n.store().is_none() {
        return words::summary(n);
    }
    let (news, _) = words::split(n);
    news.into_iter().take(WHOLE).flat_map(|alert| words::alert(n, alert, true)).collect()
}

/// The texts below the title, each at most `max` long and none empty: at most five.
pub(crate) fn sections(n: &Notification, dialect: Dialect, max: usize) -> Vec<String> {
    if n.store().is_none() {
        return vec![render(&words::summary(n), dialect, max)];
    }
    let (news, known) = words::split(n);
    let mut sections: Vec<String> = Vec::new();
    for (index, alert) in news.iter().take(WHOLE).enumerate() {
        sections.push(render(&words::alert(n, alert, index == 0), dialect, max));
    }
    for (title, alerts) in
        [("Also", news.get(WHOLE..).unwrap_or_default()), ("Told before", &known)]
    {
        if !alerts.is_empty() {
            let mut lines: Vec<Line> = vec![vec![Piece::Strong(title.into())]];
            lines.extend(alerts.iter().map(|alert| words::brief(n, alert)));
            sections.push(render(&lines, dialect, max));
        }
    }
    sections
}

/// The bar: red, amber, blue; green when all is over.
pub(crate) fn color(n: &Notification) -> &'static str {
    let (status, severity) = words::tone(n);
    match (n.reason, status, severity) {
        (Reason::Test, ..) | (_, Status::Firing, Severity::Info) => "#3a78c2",
        (_, Status::Resolved, _) => "#2e9e5b",
        (_, Status::Firing, Severity::Critical) => "#c9211e",
        (_, Status::Firing, Severity::Warning) => "#e0a100",
    }
}

/// What an answer of Slack means: the word in its body first, its status second. Only 200 with `ok` is a success.
fn judge(reply: &Reply) -> Verdict {
    let text = reply.text();
    let word = text.trim();
    let rejected = Verdict::Is(Outcome::Rejected { failure: Failure::Client });
    match word {
        "ok" if reply.status == 200 && reply.whole => Verdict::Is(Outcome::Delivered),
        "invalid_payload"
        | "invalid_blocks"
        | "invalid_attachments"
        | "no_text"
        | "missing_text_or_fallback_or_attachments"
        | "too_many_attachments" => Verdict::Form,
        "action_prohibited"
        | "channel_is_archived"
        | "channel_not_found"
        | "invalid_token"
        | "no_active_hooks"
        | "no_service"
        | "no_service_id"
        | "no_team"
        | "posting_to_general_channel_denied"
        | "team_disabled"
        | "user_not_found" => rejected,
        "rollup_error" | "internal_error" => Verdict::Is(Outcome::Retry {
            failure: Failure::Server,
            after: reply.after,
            unclear: false,
        }),
        _ if text.contains("\"rate_limited\"") => Verdict::Is(Outcome::Retry {
            failure: Failure::RateLimited,
            after: reply.after,
            unclear: false,
        }),
        _ => match reply.outcome() {
            Outcome::Delivered => Verdict::Is(reply.unclear()),
            outcome => Verdict::Is(outcome),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::receivers::{
        golden,
        samples::{self, hostile},
    };

    #[test]
    fn messages_are_as_in_the_golden_files() {
        for (name, notification) in samples::all() {
            golden::holds("slack", name, &payload(&notification));
        }
        golden::holds("slack", "plain", &plain(&samples::disk()));
    }

    #[test]
    fn every_limit_holds_for_any_names() {
        hostile(|n| {
            for value in [payload(n), plain(n)] {
                let text = value["text"].as_str().unwrap();
                assert!(!text.is_empty() && text.chars().count() <= 4_000);
                let all = value.to_string();
                assert!(!all.contains("<!") && !all.contains("<@") && !all.contains("<#"), "{all}");
                let mut total = 0;
                for attachment in value["attachments"].as_array().into_iter().flatten() {
                    let blocks = attachment["blocks"].as_array().unwrap();
                    assert!((1..=50).contains(&blocks.len()));
                    for block in blocks {
                        let count = block["text"]["text"].as_str().unwrap().encode_utf16().count();
                        assert!((1..=3_000).contains(&count), "{count}");
                        total += count;
                    }
                }
                assert!(total <= 12_000, "{total}");
            }
        });
    }

    #[test]
    fn answers_are_judged_by_their_word_and_then_their_status() {
        let client = Verdict::Is(Outcome::Rejected { failure: Failure::Client });
        let retry = |failure, after: Option<u64>, unclear| {
            Verdict::Is(Outcome::Retry { failure, after: after.map(Duration::from_secs), unclear })
        };
        for (status, body, want) in [
            (200, "ok", Verdict::Is(Outcome::Delivered)),
            (200, "OK!", retry(Failure::Answer, Some(1), true)),
            (200, "<html>Log in</html>", retry(Failure::Answer, Some(1), true)),
            (200, "", retry(Failure::Answer, Some(1), true)),
            (400, "invalid_blocks", Verdict::Form),
            (400, "invalid_payload", Verdict::Form),
            (400, "no_text", Verdict::Form),
            (400, "invalid_token", client.clone()),
            (403, "invalid_token", client.clone()),
            (403, "action_prohibited", client.clone()),
            (404, "no_service", client.clone()),
            (410, "channel_is_archived", client.clone()),
            (404, "", client.clone()),
            (302, "ok", client.clone()),
            (
                429,
                r#"{"ok":false,"error":"rate_limited"}"#,
                retry(Failure::RateLimited, Some(1), false),
            ),
            (429, "", retry(Failure::RateLimited, Some(1), false)),
            (500, "rollup_error", retry(Failure::Server, Some(1), false)),
            (500, "", retry(Failure::Server, Some(1), false)),
            (503, "ok", retry(Failure::Server, Some(1), false)),
        ] {
            let body = body.as_bytes().to_vec();
            let after = Some(Duration::from_secs(1));
            let reply = Reply { status, body, whole: true, after };
            assert_eq!(judge(&reply), want, "{status} {}", reply.text());
        }
        let half = Reply { status: 200, body: b"o".to_vec(), whole: false, after: None };
        assert_eq!(judge(&half), retry(Failure::Broken, None, true));
    }
}
