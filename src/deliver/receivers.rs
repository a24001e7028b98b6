//! Every kind of receiver, each in a room of its own: its keys in the configuration, how they are printed, its notification
//! policy, its payload, and what its answers mean. Pure: `send` reads the secrets and talks to the network.

mod after;
mod alertmanager;
pub(crate) mod command;
mod compatible;
pub(crate) mod email;
mod exchange;
mod heartbeat;
pub(crate) mod keys;
pub(crate) mod list;
pub(crate) mod markup;
mod ntfy;
mod pagerduty;
mod slack;
mod webhook;
mod words;

use std::{any::Any, fmt, sync::Arc, time::Duration};

pub(crate) use self::{
    after::after,
    exchange::{Method, Reply, Request, Unsendable, Verdict},
};
pub use self::{
    keys::{BasicAuth, Header, Http, Tls},
    list::Receiver,
};
use crate::{
    alert::{message::Notification, outbox::policy::Policy},
    clock::Timestamp,
    keys::{
        key::{Key, Written},
        secret::Secret,
        section::Section,
    },
};

/// Every kind, in the order in which messages name them. A new one is its own file and one line here.
pub(crate) static KINDS: &[&Declared] = &[
    &slack::KIND,
    &compatible::MATTERMOST,
    &compatible::ROCKETCHAT,
    &compatible::DISCORD,
    &webhook::KIND,
    &alertmanager::KIND,
    &pagerduty::KIND,
    &ntfy::KIND,
    &email::KIND,
    &command::KIND,
    &heartbeat::KIND,
];

/// What a kind of receiver declares of itself.
pub(crate) struct Declared {
    /// The word of `type`.
    pub(crate) word: &'static str,
    /// What it hears of.
    pub(crate) hears: Hears,
    /// Whether it is a server over HTTP, with the keys that those have.
    pub(crate) http: bool,
    /// Default of the key of this name; people need no reminder every minute.
    pub(crate) repeat_interval: Duration,
    /// Default of the key of this name.
    pub(crate) group_interval: Duration,
    /// Default of the key of this name, and the longest.
    pub(crate) timeout: Duration,
    pub(crate) timeout_max: Duration,
    /// The keys that only this kind has.
    pub(crate) keys: fn() -> Vec<Key>,
    /// Reads them; `None` when one is wrong, which is reported then.
    pub(crate) read: Read,
}

type Read = fn(&Section<'_>) -> Option<Arc<dyn Kind>>;

impl Declared {
    /// A server over HTTP that notifies people.
    const fn new(word: &'static str, keys: fn() -> Vec<Key>, read: Read) -> Self {
        Self {
            word,
            hears: Hears::Alerts,
            http: true,
            repeat_interval: Duration::from_hours(4),
            group_interval: Duration::from_secs(10),
            timeout: Duration::from_secs(10),
            timeout_max: Duration::from_mins(2),
            keys,
            read,
        }
    }
}

/// Kinds are told apart by their words.
impl PartialEq for Declared {
    fn eq(&self, other: &Self) -> bool {
        self.word == other.word
    }
}

impl fmt::Debug for Declared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word)
    }
}

/// What a receiver hears of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hears {
    /// Alerts.
    Alerts,
    /// That every check is fresh, again and again.
    Heartbeats,
}

/// A receiver of one kind, with the values of its own keys.
pub(crate) trait Kind: Same + fmt::Debug + Send + Sync {
    /// Its own keys as a file would say them.
    fn written(&self) -> Written;

    /// Its notification policy, apart from what the operator configures for each receiver.
    fn policy(&self) -> Policy {
        Policy::default()
    }

    /// How a message gets there.
    fn route(&self) -> Route<'_>;
}

/// How a message gets to its receiver. A new one needs what sends it, in `send`.
pub(crate) enum Route<'a> {
    /// Requests to a server.
    Http(&'a dyn HttpKind),
    /// A program on this host.
    Command(&'a command::Command),
    /// An e-mail.
    Mail(&'a email::Email),
}

/// A kind that is a server over HTTP.
pub(crate) trait HttpKind: Send + Sync {
    /// Its address, which is read as the secrets are.
    fn url(&self) -> Secret;

    /// Secrets that the requests hold, besides those that every server can have.
    fn secrets(&self) -> Vec<Secret> {
        Vec::new()
    }

    /// The requests of one attempt, in their order. `secrets` are the values of [`HttpKind::secrets`]. The first one that must be
    /// tried again ends the attempt; one that is refused for good does not keep the others back.
    fn requests(
        &self,
        message: &Message<'_>,
        secrets: &[String],
    ) -> Result<Vec<Request>, Unsendable>;

    /// What an answer means.
    fn judge(&self, reply: &Reply) -> Verdict {
        Verdict::Is(reply.outcome())
    }

    /// The message once more in a form that nobody can refuse, after [`Verdict::Form`].
    fn plainly(&self, _message: &Message<'_>) -> Option<Request> {
        None
    }
}

/// What one attempt is to say, to whom, and when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    /// Name of the receiver.
    pub(crate) receiver: &'a str,
    /// The time after which an unchanged alert is sent again.
    pub(crate) repeat_interval: Duration,
    /// What is to be said. Nothing of it matters to a heartbeat.
    pub(crate) notification: &'a Notification,
    /// When the attempt is made.
    pub(crate) now: Timestamp,
}

/// Compares two kinds of which only the trait is known.
pub(crate) trait Same: Any {
    /// Whether `other` is of the same kind with the same values.
    fn same(&self, other: &dyn Kind) -> bool;
}

impl<T: Kind + PartialEq + Any> Same for T {
    fn same(&self, other: &dyn Kind) -> bool {
        (other as &dyn Any).downcast_ref::<T>() == Some(self)
    }
}

#[cfg(test)]
mod golden;
#[cfg(test)]
pub(crate) mod samples;

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::KINDS;

    #[test]
    fn every_kind_is_in_the_example_and_in_the_table() {
        let example = include_str!("receivers/example.yml");
        let listed = example.lines().find(|line| line.contains("type: slack")).unwrap();
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/alerts.md");
        let page = fs::read_to_string(page).unwrap();
        let first_cells =
            page.lines().filter_map(|line| line.strip_prefix("| ")?.split('|').next());
        for kind in KINDS {
            let word = kind.word;
            assert!(listed.split([' ', ',']).any(|one| one == word), "{word} in {listed}");
            let cell = format!("`{word}`");
            assert!(first_cells.clone().any(|one| one.contains(&cell)), "{cell} in docs/alerts.md");
        }
    }
}
