//! The delivery edge: one message to one receiver, once. What is said and what an answer means is the business of its kind;
//! here are secrets, HTTP and programs. When to send, and what to do after a failure, is decided elsewhere.

mod http;
mod process;
mod secrets;
mod smtp;

use std::{fmt, io, sync::Arc, time::Duration};

use tokio::{sync::Semaphore, time::timeout};

use self::http::{Client, NoReply, Ready};
pub use self::secrets::SecretError;
use crate::{
    alert::message::{Failure, Notification, Outcome},
    clock::{self, Timestamp},
    config,
    deliver::receivers::{HttpKind, Message, Reply, Route, Verdict, command, email::Email},
    keys::{Secret, secret::SHOWN},
};

/// A receiver that can be sent to. Cheap to make; it reads nothing and connects nowhere before the first message.
#[derive(Debug)]
pub struct Sender {
    config: Arc<config::Receiver>,
    client: Arc<Client>,
    /// Files of secrets may lie on a filesystem that hangs; then one thread waits for it, not one for each attempt.
    reading: Arc<Semaphore>,
}

/// What would be sent, without any secret: of headers and URL nothing is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// One document for each request, in their order; none when the request has no body.
    pub bodies: Vec<String>,
}

/// As people read it: the documents indented, an empty line between two.
impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, body) in self.bodies.iter().enumerate() {
            let value = serde_json::from_str::<serde_json::Value>(body).ok();
            let pretty = value.and_then(|value| serde_json::to_string_pretty(&value).ok());
            let gap = if index > 0 { "\n" } else { "" };
            writeln!(f, "{gap}{}", pretty.as_deref().unwrap_or(body))?;
        }
        Ok(())
    }
}

/// What came of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What it means for the outbox.
    pub outcome: Outcome,
    /// HTTP status, or exit code of a command; `None` when there was none.
    pub status: Option<u16>,
    /// What was answered, or why nothing was: one line without secrets and control characters, bounded.
    pub text: String,
    /// How long the attempt took.
    pub took: Duration,
}

/// Most characters of an answer that are shown.
const TEXT_MAX: usize = 300;

/// An outcome, a status, and what to show.
type SendResult = (Outcome, Option<u16>, String);

impl Sender {
    /// The receiver that is configured so.
    #[must_use]
    pub fn new(config: Arc<config::Receiver>) -> Self {
        Self { config, client: Arc::default(), reading: Arc::new(Semaphore::new(1)) }
    }

    /// Its configuration.
    #[must_use]
    pub fn config(&self) -> &Arc<config::Receiver> {
        &self.config
    }

    /// What would be sent, without secrets. `now` stands in what must say until when it holds. Pure.
    #[must_use]
    pub fn payload(&self, n: &Notification, now: Timestamp) -> Payload {
        let message = self.message(n, now);
        let bodies = match self.config.kind.route() {
            Route::Http(kind) => {
                let secrets = vec![SHOWN.to_owned(); kind.secrets().len()];
                let requests = kind.requests(&message, &secrets).unwrap_or_default();
                let bodies = requests.into_iter().map(|request| request.body);
                bodies.filter(|body| !body.is_empty()).collect()
            }
            Route::Command(_) => vec![command::input(&message)],
            Route::Mail(email) => {
                let mail = email.mail(&message).unwrap_or_default();
                vec![String::from_utf8_lossy(&mail).into_owned()]
            }
        };
        Payload { bodies }
    }

    /// One attempt. Secrets are read anew. The time it takes is bounded by the receiver's timeout for each request: one, a
    /// second when Slack refuses the form, one for each alert with `PagerDuty`. A heartbeat says nothing of `n`.
    pub async fn send(&self, n: &Notification, now: Timestamp) -> Answer {
        let began = clock::ticks();
        let message = self.message(n, now);
        let said = match self.config.kind.route() {
            Route::Http(kind) => self.over_http(kind, &message).await,
            Route::Command(command) => process::run(command, &message, self.config.timeout).await,
            Route::Mail(email) => self.by_mail(email, &message).await,
        };
        let (outcome, status, text) = said.unwrap_or_else(|none| (none.outcome(), None, none.text));
        Answer { outcome, status, text, took: began.elapsed() }
    }

    fn message<'a>(&'a self, notification: &'a Notification, now: Timestamp) -> Message<'a> {
        let config::Receiver { name, repeat_interval, .. } = &*self.config;
        Message { receiver: name, repeat_interval: *repeat_interval, notification, now }
    }

    /// One request after the other. The first that must be tried again ends the attempt. One that is refused for good does
    /// not keep the others back.
    async fn over_http(
        &self,
        kind: &dyn HttpKind,
        message: &Message<'_>,
    ) -> Result<SendResult, NoReply> {
        let ready = self.ready(kind.url(), kind.secrets()).await?;
        let mut refused = None;
        let mut last = (Outcome::Delivered, None, String::new());
        for request in kind.requests(message, &ready.others)? {
            let reply = ready.send(request, message.now).await?;
            last = match kind.judge(&reply) {
                Verdict::Is(outcome) => said(&ready, &reply, outcome),
                Verdict::Form => plainly(kind, message, &ready, &reply).await?,
            };
            match last.0 {
                Outcome::Delivered => {}
                Outcome::Retry { .. } => return Ok(last),
                Outcome::Rejected { .. } => refused = refused.or(Some(last.clone())),
            }
        }
        Ok(refused.unwrap_or(last))
    }

    async fn by_mail(&self, email: &Email, message: &Message<'_>) -> Result<SendResult, NoReply> {
        let (client, own) = (Arc::clone(&self.client), email.clone());
        let ready = self.read(move || smtp::ready(&own, &client.warned)).await?;
        smtp::send(email, &ready, message, self.config.timeout).await
    }

    async fn ready(&self, url: Secret, others: Vec<Secret>) -> Result<Ready, NoReply> {
        let (config, client) = (Arc::clone(&self.config), Arc::clone(&self.client));
        self.read(move || client.ready(&config, &url, &others)).await
    }

    /// Reads secrets and certificates on a thread that may block. Errs when that takes too long, panics, or `work` errs.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, NoReply> + Send + 'static,
    ) -> Result<T, NoReply> {
        let late = || NoReply::config("a file with a secret or certificate takes too long to read");
        let limit = self.config.timeout;
        let permit = timeout(limit, Arc::clone(&self.reading).acquire_owned()).await;
        let Ok(Ok(permit)) = permit else { return Err(late()) };
        let read = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        match timeout(limit, read).await {
            Ok(Ok(ready)) => ready,
            Ok(Err(_)) => Err(NoReply::config("reading the secrets ended in a panic")),
            Err(_) => Err(late()),
        }
    }
}

/// The message once more, after its form was refused.
async fn plainly(
    kind: &dyn HttpKind,
    message: &Message<'_>,
    ready: &Ready,
    refusal: &Reply,
) -> Result<SendResult, NoReply> {
    let rejected = Outcome::Rejected { failure: Failure::Client };
    let Some(request) = kind.plainly(message) else { return Ok(said(ready, refusal, rejected)) };
    let form = ready.redactor.clean(&refusal.text(), TEXT_MAX);
    let reply = ready.send(request, message.now).await?;
    let outcome = match kind.judge(&reply) {
        Verdict::Is(outcome) => outcome,
        Verdict::Form => rejected,
    };
    let (outcome, status, text) = said(ready, &reply, outcome);
    Ok((outcome, status, format!("{text} (as plain text, after {form})")))
}

/// Why a connection failed, as a person says it.
fn system_words(kind: io::ErrorKind) -> Option<&'static str> {
    Some(match kind {
        io::ErrorKind::ConnectionRefused => {
            "connection refused: nothing listens at that address and port"
        }
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => {
            "the connection was cut off before an answer came"
        }
        io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => {
            "the connection ended before an answer came"
        }
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            "no network leads to that address"
        }
        _ => return None,
    })
}

fn said(ready: &Ready, reply: &Reply, outcome: Outcome) -> SendResult {
    let text = ready.redactor.clean(&reply.text(), TEXT_MAX);
    (outcome, Some(reply.status), text)
}
