//! The questions that a server is asked, over HTTP: bounded in time and size, without redirects, and without a proxy to
//! this host. Nothing is asked that changes anything.

use std::{borrow::Cow, io, time::Duration};

use reqwest::{Client, Url, header::HeaderMap};

use crate::{
    clock,
    config::ServerProbe,
    format::api,
    hidden,
    host::asking::{self, HeadersError, chain},
};

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Probe {
    /// Whether it is alive; never touches the database.
    Heartbeat,
    /// Which release it says it is.
    Version,
    /// Whether the default tenant is there, which every client asks first.
    Tenant,
    /// How many collections there are: a short read of the database.
    Read,
}

impl Probe {
    /// The word of the `probe` label.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Heartbeat => "heartbeat",
            Self::Version => "version",
            Self::Tenant => "tenant",
            Self::Read => "read",
        }
    }
}

/// The two forms of the API: v1 until 0.5, both in 0.6, v2 from 1.0 on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Api {
    V1,
    V2,
}

impl Api {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }

    const fn path(self, probe: Probe) -> &'static str {
        match (self, probe) {
            (Self::V1, Probe::Heartbeat) => "/api/v1/heartbeat",
            (Self::V1, Probe::Version) => "/api/v1/version",
            (Self::V1, Probe::Tenant) => "/api/v1/tenants/default_tenant",
            (Self::V1, Probe::Read) => "/api/v1/count_collections",
            (Self::V2, Probe::Heartbeat) => "/api/v2/heartbeat",
            (Self::V2, Probe::Version) => "/api/v2/version",
            (Self::V2, Probe::Tenant) => "/api/v2/tenants/default_tenant",
            (Self::V2, Probe::Read) => {
                "/api/v2/tenants/default_tenant/databases/default_database/collections_count"
            }
        }
    }
}

/// What came of one question.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    pub(super) probe: Probe,
    pub(super) took: Duration,
    pub(super) answer: Result<Answer, Silence>,
}

/// An answer, whatever it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Its first bytes.
    pub(super) body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Silence {
    /// The server did not answer, in these words.
    Server(String),
    /// It was not reached for a reason on our side: a name that is not known, a certificate, a header.
    Ours(String),
}

/// The answers of one run.
#[derive(Debug, Clone)]
pub(super) struct Asking {
    pub(super) api: Api,
    pub(super) asked: Vec<Asked>,
}

impl Asking {
    pub(super) fn of(&self, probe: Probe) -> Option<&Asked> {
        self.asked.iter().find(|asked| asked.probe == probe)
    }
}

/// Why a server could not be asked. No text of it holds a secret.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotAsked {
    /// The client for HTTP could not be made.
    #[error("cannot prepare requests: {}", chain(.0))]
    Client(reqwest::Error),
    /// The thread could not wait for sockets.
    #[error("cannot start the requests: {0}")]
    Runtime(io::Error),
    /// The headers that say who we are.
    #[error(transparent)]
    Headers(#[from] HeadersError),
}

/// Asks one server.
#[derive(Debug)]
pub(super) struct Asker {
    client: Client,
    headers: HeaderMap,
    url: String,
}

impl Asker {
    /// For one run: the headers are read anew. Errs when they cannot be read, or no client can be made.
    pub(super) fn new(probe: &ServerProbe) -> Result<Self, NotAsked> {
        let client = asking::client(&probe.url)
            .timeout(probe.timeout)
            .connect_timeout(probe.timeout)
            .pool_max_idle_per_host(0)
            .build()
            .map_err(|error| NotAsked::Client(error.without_url()))?;
        let headers = match &probe.headers_file {
            Some(file) => asking::read_headers(file)?,
            None => HeaderMap::new(),
        };
        Ok(Self { client, headers, url: probe.url.clone() })
    }

    /// Asks all that is due. `api` is the form that answered last time.
    pub(super) async fn ask(&self, api: Option<Api>, version_due: bool) -> Asking {
        let mut api = api.unwrap_or(Api::V2);
        let mut heartbeat = self.again(api, Probe::Heartbeat).await;
        // A server of another release may have taken its place.
        if matches!(&heartbeat.answer, Ok(Answer { status: 404 | 405 | 410, .. })) {
            let other = if api == Api::V2 { Api::V1 } else { Api::V2 };
            let second = self.again(other, Probe::Heartbeat).await;
            if matches!(&second.answer, Ok(Answer { status: 200, .. })) {
                (api, heartbeat) = (other, second);
            }
        }
        let alive = matches!(&heartbeat.answer, Ok(Answer { status: 200, body }) if api::is_heartbeat(body));
        let mut asked = vec![heartbeat];
        if alive {
            if version_due {
                asked.push(self.once(api, Probe::Version).await);
            }
            asked.push(self.again(api, Probe::Tenant).await);
            asked.push(self.again(api, Probe::Read).await);
        }
        Asking { api, asked }
    }

    /// Counts the collections once more, after a moment.
    pub(super) async fn read_again(&self, api: Api) -> Asked {
        tokio::time::sleep(AGAIN_AFTER).await;
        self.once(api, Probe::Read).await
    }

    /// Counts the collections of a database that is not the default one.
    pub(super) async fn count_of(&self, api: Api, tenant: &str, database: &str) -> Option<Asked> {
        let mut url = Url::parse(&self.url).ok()?;
        match api {
            Api::V1 => {
                url.path_segments_mut().ok()?.pop_if_empty().extend([
                    "api",
                    "v1",
                    "count_collections",
                ]);
                url.query_pairs_mut().extend_pairs([("tenant", tenant), ("database", database)]);
            }
            Api::V2 => {
                let names = ["api", "v2", "tenants", tenant, "databases", database];
                url.path_segments_mut()
                    .ok()?
                    .pop_if_empty()
                    .extend(names)
                    .push("collections_count");
            }
        }
        Some(self.at(Probe::Read, url.as_str()).await)
    }

    /// Asks a second time after a moment when the first answer would be an alarm: a server that is restarted is away
    /// for a second. One that took its full time is not asked again.
    async fn again(&self, api: Api, probe: Probe) -> Asked {
        let first = self.once(api, probe).await;
        let alarming = match &first.answer {
            Ok(answer) => answer.status >= 500,
            Err(Silence::Server(_)) => first.took < AGAIN_BELOW,
            Err(Silence::Ours(_)) => false,
        };
        if !alarming {
            return first;
        }
        tokio::time::sleep(AGAIN_AFTER).await;
        self.once(api, probe).await
    }

    async fn once(&self, api: Api, probe: Probe) -> Asked {
        self.at(probe, &format!("{}{}", self.url, api.path(probe))).await
    }

    async fn at(&self, probe: Probe, url: &str) -> Asked {
        let began = clock::ticks();
        let answer = self.get(url).await.map_err(|error| silence(&error.without_url()));
        Asked { probe, took: began.elapsed(), answer }
    }

    async fn get(&self, url: &str) -> Result<Answer, reqwest::Error> {
        let mut response = self.client.get(url).headers(self.headers.clone()).send().await?;
        let status = response.status().as_u16();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            body.extend_from_slice(&chunk[..chunk.len().min(BODY_BYTES_MAX - body.len())]);
            if body.len() == BODY_BYTES_MAX {
                break; // more than any answer that is asked for
            }
        }
        Ok(Answer { status, body: without_secrets(body) })
    }
}

/// The body without what was sent to get it. A server may say that back, plainly or with the escapes of JSON.
fn without_secrets(body: Vec<u8>) -> Vec<u8> {
    let text = String::from_utf8_lossy(&body);
    let plain = hidden::shown(&text);
    if let Ok(json) = serde_json::from_str::<serde_json::Value>(&plain) {
        let written = json.to_string();
        if let Cow::Owned(plain) = hidden::shown(&written) {
            return plain.into_bytes();
        }
    }
    match plain {
        Cow::Owned(plain) => plain.into_bytes(),
        Cow::Borrowed(_) => body,
    }
}

/// Reads the headers for what must not be shown, before the server was asked anything.
pub(crate) fn know_secrets(probe: &ServerProbe) {
    // What is wrong with the file is told by whoever needs it.
    drop(probe.headers_file.as_deref().map(asking::read_headers));
}

fn silence(error: &reqwest::Error) -> Silence {
    if error.is_timeout() {
        return Silence::Server("no answer in time".to_owned());
    }
    let words = chain(error);
    // Hyper and rustls tell these apart in words only.
    let ours = error.is_builder()
        || ["dns error", "certificate", "Too many open files"]
            .iter()
            .any(|part| words.contains(part));
    if ours { Silence::Ours(words) } else { Silence::Server(words) }
}

const BODY_BYTES_MAX: usize = 16 * 1024;
const AGAIN_BELOW: Duration = Duration::from_millis(500);
pub(super) const AGAIN_AFTER: Duration = Duration::from_millis(700);
