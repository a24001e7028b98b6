//! The delivery edge: one message to one receiver, once. Each kind has its own room with its payload and what its answers
//! mean; words, markup, secrets and HTTP are shared. When to send, and what to do after a failure, is decided elsewhere.

mod http;
mod process;
mod secrets;

use std::{fmt, sync::Arc, time::Duration};

use reqwest::Method;
use tokio::{sync::Semaphore, time::timeout};

pub(crate) use self::http::Reply;
use self::http::{Client, NoReply, Ready, Request};
pub use self::secrets::SecretError;
use crate::{
    alert::message::{Failure, Notification, Outcome},
    clock::{self, Timestamp},
    config::{self, Secret, secret::SHOWN},
    deliver::receivers::{
        alertmanager, compatible,
        list::Kind,
        pagerduty,
        slack::{self, Judged},
        webhook,
    },
};

/// A receiver that can be sent to. Cheap to make; it reads nothing and connects nowhere before the first message.
#[derive(Debug)]
pub struct Receiver {
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
type Said = (Outcome, Option<u16>, String);

impl Receiver {
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

    /// Most alerts that one message to it should tell of; what is beyond them is better counted in
    /// [`Notification::left_out`].
    #[must_use]
    pub fn alerts_max(&self) -> usize {
        match self.config.kind {
            Kind::Slack { .. } | Kind::Compatible { .. } | Kind::PagerDuty { .. } => 50,
            Kind::Heartbeat { .. } => 1,
            Kind::Webhook { .. } | Kind::Alertmanager { .. } | Kind::Command { .. } => 256,
        }
    }

    /// What would be sent, without secrets. `now` stands in what must say until when it holds. Pure.
    #[must_use]
    pub fn payload(&self, n: &Notification, now: Timestamp) -> Payload {
        let config = &self.config;
        let bodies = match &config.kind {
            Kind::Slack { .. } => vec![slack::payload(n).to_string()],
            Kind::Compatible { flavour, .. } => vec![compatible::payload(*flavour, n).to_string()],
            Kind::Webhook { .. } | Kind::Command { .. } => {
                webhook::payload(&config.name, n).into_iter().collect()
            }
            Kind::Alertmanager { labels, .. } => {
                vec![alertmanager::payload(n, labels, config.repeat_interval, now).to_string()]
            }
            Kind::PagerDuty { .. } => {
                let event = |alert| pagerduty::event(n, alert, SHOWN).to_string();
                n.alerts.iter().map(event).collect()
            }
            Kind::Heartbeat { .. } => Vec::new(),
        };
        Payload { bodies }
    }

    /// One attempt. Secrets are read anew. The time it takes is bounded by the receiver's timeout for each request: one, a
    /// second when Slack refuses the form, one for each alert with `PagerDuty`. A heartbeat says nothing of `n`.
    pub async fn send(&self, n: &Notification, now: Timestamp) -> Answer {
        let began = clock::ticks();
        let config = &self.config;
        let body = || self.payload(n, now).bodies.pop().unwrap_or_default();
        let said = match &config.kind {
            Kind::Slack { url } => self.slack(url, n, now).await,
            Kind::Compatible { flavour, url } => {
                let judge = |reply: &Reply| compatible::judge(*flavour, reply);
                self.post(url, Request::json(body()), now, judge).await
            }
            Kind::Webhook { url, signing_keys } => {
                self.webhook(url, signing_keys, body(), n, now).await
            }
            Kind::Alertmanager { url, .. } => {
                let request = Request { path: alertmanager::PATH, ..Request::json(body()) };
                self.post(url, request, now, Reply::outcome).await
            }
            Kind::PagerDuty { url, routing_key } => {
                self.pagerduty(url.as_ref(), routing_key, n, now).await
            }
            Kind::Command { command } => {
                process::run(command, &config.name, n, body(), config.timeout).await
            }
            Kind::Heartbeat { url, post } => {
                let method = if *post { Method::POST } else { Method::GET };
                let request = Request { method, ..Request::json("") };
                self.post(url, request, now, Reply::outcome).await
            }
        };
        let (outcome, status, text) = said.unwrap_or_else(|none| (none.outcome(), None, none.text));
        Answer { outcome, status, text, took: began.elapsed() }
    }

    async fn slack(&self, url: &Secret, n: &Notification, now: Timestamp) -> Result<Said, NoReply> {
        let ready = self.ready(url, &[]).await?;
        let reply = ready.send(Request::json(slack::payload(n).to_string()), now).await?;
        if let Judged::Is(outcome) = slack::judge(&reply) {
            return Ok(said(&ready, &reply, outcome));
        }
        let form = ready.redactor.clean(&reply.text(), TEXT_MAX);
        let reply = ready.send(Request::json(slack::plain(n).to_string()), now).await?;
        let outcome = match slack::judge(&reply) {
            Judged::Is(outcome) => outcome,
            Judged::Form => Outcome::Rejected { failure: Failure::Client },
        };
        let (outcome, status, text) = said(&ready, &reply, outcome);
        Ok((outcome, status, format!("{text} (as plain text, after {form})")))
    }

    async fn post(
        &self,
        url: &Secret,
        request: Request,
        now: Timestamp,
        judge: impl Fn(&Reply) -> Outcome,
    ) -> Result<Said, NoReply> {
        let ready = self.ready(url, &[]).await?;
        let reply = ready.send(request, now).await?;
        let outcome = judge(&reply);
        Ok(said(&ready, &reply, outcome))
    }

    async fn webhook(
        &self,
        url: &Secret,
        keys: &[Secret],
        body: String,
        n: &Notification,
        now: Timestamp,
    ) -> Result<Said, NoReply> {
        let ready = self.ready(url, keys).await?;
        let mut request = Request::json(body);
        request.headers = webhook::signature(&n.id, now, &request.body, &ready.others)
            .ok_or_else(|| NoReply::config("the signing key must be base64 after whsec_"))?;
        let reply = ready.send(request, now).await?;
        let outcome = reply.outcome();
        Ok(said(&ready, &reply, outcome))
    }

    /// One event after the other. The first that must be tried again ends the attempt: the next one begins anew, which
    /// changes nothing for those that arrived. One that is refused for good does not keep the others back.
    async fn pagerduty(
        &self,
        url: Option<&Secret>,
        key: &Secret,
        n: &Notification,
        now: Timestamp,
    ) -> Result<Said, NoReply> {
        let own = Secret::inline(pagerduty::URL);
        let ready = self.ready(url.unwrap_or(&own), std::slice::from_ref(key)).await?;
        let key = ready.others.first().map(String::as_str).unwrap_or_default();
        let mut refused = None;
        let mut last = (Outcome::Delivered, None, String::new());
        for alert in &n.alerts {
            let body = pagerduty::event(n, alert, key).to_string();
            let reply = ready.send(Request::json(body), now).await?;
            last = said(&ready, &reply, reply.outcome());
            match last.0 {
                Outcome::Delivered => {}
                Outcome::Retry { .. } => return Ok(last),
                Outcome::Rejected { .. } => refused = refused.or(Some(last.clone())),
            }
        }
        Ok(refused.unwrap_or(last))
    }

    /// Reads secrets and certificates on a thread that may block.
    async fn ready(&self, url: &Secret, others: &[Secret]) -> Result<Ready, NoReply> {
        let late = || NoReply::config("a file with a secret or certificate takes too long to read");
        let limit = self.config.timeout;
        let turn = timeout(limit, Arc::clone(&self.reading).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else { return Err(late()) };
        let (config, client) = (Arc::clone(&self.config), Arc::clone(&self.client));
        let (url, others) = (url.clone(), others.to_vec());
        let read = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            client.ready(&config, &url, &others.iter().collect::<Vec<_>>())
        });
        match timeout(limit, read).await {
            Ok(Ok(ready)) => ready,
            Ok(Err(_)) => Err(NoReply::config("reading the secrets ended in a panic")),
            Err(_) => Err(late()),
        }
    }
}

fn said(ready: &Ready, reply: &Reply, outcome: Outcome) -> Said {
    let text = ready.redactor.clean(&reply.text(), TEXT_MAX);
    (outcome, Some(reply.status), text)
}
