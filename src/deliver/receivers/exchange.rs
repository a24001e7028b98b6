//! What goes to a server over HTTP and what comes back, as values. Pure.

use std::{borrow::Cow, time::Duration};

use crate::alert::message::{Failure, Outcome};

/// The two methods that receivers are asked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Post,
}

/// What an attempt sends.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: Method,
    /// Appended to the URL of the receiver.
    pub(crate) path: &'static str,
    /// JSON; empty for none.
    pub(crate) body: String,
    /// Besides those of every request.
    pub(crate) headers: Vec<(&'static str, String)>,
}

impl Request {
    /// A POST of JSON.
    pub(crate) fn json(body: impl Into<String>) -> Self {
        let body = body.into();
        Self { method: Method::Post, path: "", body, headers: Vec::new() }
    }
}

/// A message cannot be put together as the receiver is configured. Says nothing of any secret.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unsendable(pub(crate) &'static str);

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// Bounded.
    pub(crate) body: Vec<u8>,
    /// Whether that is all of it.
    pub(crate) whole: bool,
    /// How long the server asks to be left alone.
    pub(crate) after: Option<Duration>,
}

impl Reply {
    /// The body as text, as far as it is some.
    pub(crate) fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.body)
    }

    /// What a good status without the answer of this kind of server says: half a body, or the page of something that stands
    /// between. Nobody knows whether the message arrived.
    pub(crate) const fn unclear(&self) -> Outcome {
        let failure = if self.whole { Failure::Answer } else { Failure::Broken };
        Outcome::Retry { failure, after: self.after, unclear: true }
    }

    /// What the status alone says.
    pub(crate) fn outcome(&self) -> Outcome {
        let retry = |failure, unclear| Outcome::Retry { failure, after: self.after, unclear };
        match self.status {
            200..=299 => Outcome::Delivered,
            429 => retry(Failure::RateLimited, false),
            // The server gave up waiting for the request; "too early" asks for it again.
            408 | 425 => retry(Failure::Timeout, false),
            // A gateway that waited in vain for the server behind it: that one may have it.
            502 | 504 => retry(Failure::Server, true),
            500..=599 => retry(Failure::Server, false),
            _ => Outcome::Rejected { failure: Failure::Client },
        }
    }
}

/// What to do after an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// That is it.
    Is(Outcome),
    /// The form was refused: say it once more as nothing but text.
    Form,
}
