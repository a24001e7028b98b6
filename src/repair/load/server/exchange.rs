//! One request: sent, sent again while that may help, and its answer judged.

use std::time::Duration;

use bytes::Bytes;
use reqwest::{Client, Method, StatusCode, Url, header::HeaderMap};
use serde_json::Value;
use tokio::time;

use crate::{clock, facts::hidden, host::asking::chain, human::plain, repair::steps::Steps};

/// Why there is no answer that helps.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoAnswer {
    /// It refuses this request, and would refuse it again.
    #[error("the server refuses: {text} (status {status})")]
    Refused {
        /// Of HTTP.
        status: u16,
        /// What it said: one line without secrets.
        text: String,
    },
    /// It was asked again and again.
    #[error("{text} ({tries} tries in {} s)", .waited.as_secs())]
    Silent {
        /// What came of the last try.
        text: String,
        /// How often it was asked.
        tries: u32,
        /// From the first try to the last.
        waited: Duration,
    },
    /// It wants to know who we are, or we may not do that.
    #[error(
        "the server does not let us: {text} (status {status}); give --headers-file or --headers-env"
    )]
    Forbidden {
        /// Of HTTP.
        status: u16,
        /// What it said: one line without secrets.
        text: String,
    },
    /// The answer is none that a server of Chroma gives.
    #[error("this is no answer of a server of Chroma: {0}")]
    Strange(String),
    /// Nobody wants it any more.
    #[error("stopped")]
    Stopped,
}

impl NoAnswer {
    /// Whether what was asked for is not there. Of 0.4 and 0.5 only the words tell.
    pub(super) fn says_absent(&self) -> bool {
        let Self::Refused { status, text } = self else { return false };
        *status == 404 || text.contains("does not exist") || text.contains("not found")
    }

    /// Whether what was to be made is there already.
    pub(super) fn says_there(&self) -> bool {
        let Self::Refused { status, text } = self else { return false };
        *status == 409 || text.contains("already exists")
    }
}

/// How long a server that does not answer, or has no time, is asked again.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// The wait after the first try; it doubles with each.
    pub first: Duration,
    /// The longest wait between two tries.
    pub longest: Duration,
    /// When it is given up, counted from the first try.
    pub total: Duration,
}

impl Default for Patience {
    /// A server that is restarted, or that works off its queue, is away for seconds.
    fn default() -> Self {
        Self {
            first: Duration::from_millis(500),
            longest: Duration::from_secs(15),
            total: Duration::from_mins(2),
        }
    }
}

/// How long one question is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::repair::load) enum Asked {
    /// Until the patience of this load is at its end.
    Patiently,
    /// Once: the server is there, and only what it does with this is wanted to be known.
    Once,
}

/// What every request of one load has in common.
pub(super) struct Exchange {
    pub(super) client: Client,
    pub(super) headers: HeaderMap,
    pub(super) patience: Patience,
    pub(super) steps: Steps,
}

impl Exchange {
    /// Asks until there is an answer, or patience is at its end.
    /// Errs when the server says no, is silent for too long, or the steps were stopped.
    pub(super) async fn ask(
        &self,
        asked: Asked,
        method: Method,
        url: Url,
        body: Option<Bytes>,
    ) -> Result<Value, NoAnswer> {
        let began = clock::ticks();
        let mut pause = self.patience.first;
        for tries in 1.. {
            if self.steps.stopped() {
                return Err(NoAnswer::Stopped);
            }
            let (text, after) = match self.once(method.clone(), &url, body.as_ref()).await {
                Tried::Answer(value) => return Ok(value),
                Tried::Never(error) => return Err(error),
                Tried::Again { text, after } => (text, after),
            };
            // Not all that were waiting come back in one instant.
            let wait = after.unwrap_or_else(|| pause.mul_f64(jitter())).min(self.patience.longest);
            let waited = began.elapsed();
            if asked == Asked::Once || waited + wait > self.patience.total {
                return Err(NoAnswer::Silent { text, tries, waited });
            }
            tracing::debug!(%text, tries, "The server is asked again.");
            self.pause(wait).await;
            pause = (pause * 2).min(self.patience.longest);
        }
        Err(NoAnswer::Stopped)
    }

    /// Waits, unless nobody wants it any more.
    async fn pause(&self, wait: Duration) {
        let began = clock::ticks();
        while !self.steps.stopped() {
            let left = wait.saturating_sub(began.elapsed());
            if left.is_zero() {
                return;
            }
            time::sleep(left.min(NOTICE)).await;
        }
    }

    async fn once(&self, method: Method, url: &Url, body: Option<&Bytes>) -> Tried {
        match self.exchange(method, url, body).await {
            Ok((status, after, text)) => judge(status, after, &text),
            Err(error) => {
                let text = if error.is_timeout() {
                    "no answer in time".to_owned()
                } else {
                    shown(&chain(&error.without_url()))
                };
                Tried::Again { text, after: None }
            }
        }
    }

    async fn exchange(
        &self,
        method: Method,
        url: &Url,
        body: Option<&Bytes>,
    ) -> Result<(StatusCode, Option<Duration>, Vec<u8>), reqwest::Error> {
        let mut request = self
            .client
            .request(method, url.clone())
            .headers(self.headers.clone())
            .timeout(REQUEST_TIMEOUT);
        if let Some(body) = body {
            request = request
                .header(reqwest::header::CONTENT_TYPE, "application/json")
                .body(body.clone());
        }
        let mut response = request.send().await?;
        let status = response.status();
        let after = response.headers().get(reqwest::header::RETRY_AFTER);
        let after = after.and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let mut text = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            text.extend_from_slice(&chunk[..chunk.len().min(ANSWER_BYTES_MAX - text.len())]);
            if text.len() == ANSWER_BYTES_MAX {
                break;
            }
        }
        Ok((status, after.map(Duration::from_secs), text))
    }
}

/// What came of one try.
#[derive(Debug, PartialEq)]
enum Tried {
    Answer(Value),
    /// It may be better later, after so long where the server says it.
    Again {
        text: String,
        after: Option<Duration>,
    },
    /// It would be the same again.
    Never(NoAnswer),
}

/// What an answer means.
fn judge(status: StatusCode, after: Option<Duration>, body: &[u8]) -> Tried {
    if status.is_success() {
        // Some answers are empty.
        let value = if body.trim_ascii().is_empty() {
            Ok(Value::Null)
        } else {
            serde_json::from_slice(body)
        };
        return value.map_or_else(
            |error| Tried::Never(NoAnswer::Strange(format!("it is no JSON: {error}"))),
            Tried::Answer,
        );
    }
    let text = message(body);
    let status = status.as_u16();
    let refused = NoAnswer::Refused { status, text: text.clone() };
    match status {
        401 | 403 => Tried::Never(NoAnswer::Forbidden { status, text }),
        // Servers before 0.5 say so of what is not there, and of what is there already.
        500 if refused.says_absent() || refused.says_there() => Tried::Never(refused),
        408 | 425 | 429 | 500.. => {
            Tried::Again { text: format!("{text} (status {status})"), after }
        }
        _ => Tried::Never(refused),
    }
}

/// What a server says of an error.
fn message(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let value: Option<Value> = serde_json::from_str(&text).ok();
    let told = value.as_ref().and_then(|value| {
        ["message", "detail", "error"].iter().find_map(|key| value[*key].as_str())
    });
    let text = shown(told.unwrap_or(&text));
    if text.is_empty() { "no reason given".to_owned() } else { text }
}

/// One line of a server, bounded, and without the secrets that it may say back.
fn shown(text: &str) -> String {
    let line: Vec<&str> = text.split_whitespace().collect();
    let text = hidden::shown(&line.join(" ")).into_owned();
    let mut cut: String = text.chars().take(TEXT_CHARS_MAX).collect();
    if cut.len() < text.len() {
        cut = hidden::shown_cut(&cut).into_owned();
        cut.push('…');
    }
    plain(&cut)
}

/// Between 0.5 and 1.
fn jitter() -> f64 {
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    0.5 + f64::from(random) / f64::from(u32::MAX) / 2.0
}

/// A batch that makes a server write its index out takes a while.
const REQUEST_TIMEOUT: Duration = Duration::from_mins(5);
/// Of the records of a sample.
const ANSWER_BYTES_MAX: usize = 64 << 20;
const TEXT_CHARS_MAX: usize = 300;
/// How soon a signal is noticed.
const NOTICE: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: u16, body: &str) -> Tried {
        judge(StatusCode::from_u16(status).unwrap(), None, body.as_bytes())
    }

    #[test]
    fn answers_of_all_releases_are_understood() {
        // Each of these was given by a server of that release.
        let absent = [
            (404, r#"{"error":"NotFoundError","message":"Collection [a] does not exist"}"#), // 1.5.9
            (404, r#"{"error":"NotFoundError","message":"Collection [a] does not exists"}"#), // 1.1.1
            (400, r#"{"error":"InvalidCollection","message":"Collection a does not exist."}"#), // 0.6.3
            (500, r#"{"error":"ValueError('Collection a does not exist.')"}"#), // 0.4.24
            (500, r#"{"error":"NotFoundError('Tenant a not found')"}"#),        // 0.4.24
        ];
        for (status, body) in absent {
            let Tried::Never(error) = judged(status, body) else { panic!("{body}") };
            assert!(error.says_absent() && !error.says_there(), "{body}");
        }
        let there = [
            (409, r#"{"error":"ChromaError","message":"Collection [a] already exists"}"#), // 1.x
            (409, r#"{"error":"UniqueConstraintError","message":"Tenant a already exists"}"#), // 0.6.3
            (500, r#"{"error":"UniqueConstraintError('Collection a already exists')"}"#), // 0.4.24
        ];
        for (status, body) in there {
            let Tried::Never(error) = judged(status, body) else { panic!("{body}") };
            assert!(error.says_there() && !error.says_absent(), "{body}");
        }
        assert_eq!(judged(200, ""), Tried::Answer(Value::Null));
        assert_eq!(judged(200, "null"), Tried::Answer(Value::Null));
        assert!(matches!(judged(200, "<html>"), Tried::Never(NoAnswer::Strange(_))));
        assert!(matches!(judged(401, ""), Tried::Never(NoAnswer::Forbidden { .. })));
        for status in [429, 500, 502, 503, 504] {
            assert!(matches!(judged(status, "x"), Tried::Again { .. }), "{status}");
        }
        for status in [400, 413, 422] {
            assert!(
                matches!(judged(status, "x"), Tried::Never(NoAnswer::Refused { .. })),
                "{status}"
            );
        }
    }

    #[test]
    fn what_a_server_says_is_one_bounded_line_without_secrets() {
        hidden::note("token-of-a-load");
        assert_eq!(message(b"{\"message\":\"bad\\n token-of-a-load\"}"), "bad <secret>");
        assert_eq!(message(b""), "no reason given");
        let long = message("x".repeat(1_000).as_bytes());
        assert_eq!(long.chars().count(), TEXT_CHARS_MAX + 1);
    }
}
