//! The server: requests with retries. One waits for its answer, except batches of records, which are sent and asked about later. Releases
//! 0.6 and 1.x are asked over `/api/v2`, older ones over `/api/v1`, which servers from 1.0 on do not have any more and which serves
//! 0.4 and 0.5.

mod exchange;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use reqwest::{Method, Url, header::HeaderMap};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::{runtime::Runtime, task::JoinHandle};

pub(super) use self::exchange::Asked;
use self::exchange::Exchange;
pub(crate) use self::exchange::NoAnswer;
pub use self::exchange::Patience;
use crate::{
    host::asking::{self, chain},
    repair::steps::Steps,
};

/// The two forms of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Api {
    V1,
    V2,
}

/// What a server is able to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each release takes its own share of them")]
pub(super) struct Abilities {
    pub(super) api: Api,
    /// Records in one request.
    pub(super) batch_max: usize,
    /// Vectors as base64, which 1.x takes: half the bytes.
    pub(super) base64: bool,
    /// Whether it is 1.0 or later: it takes settings of the index as a configuration. Before, they are metadata.
    pub(super) modern: bool,
    /// Whether it takes the schema of a collection, as 1.3 and later do.
    pub(super) schema: bool,
    /// Whether it keeps lists in the metadata of records, as 1.5 does. Servers before 1.0 drop them without a word.
    pub(super) lists: bool,
}

/// Where a collection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place<'a> {
    pub(super) tenant: &'a str,
    pub(super) database: &'a str,
}

/// A collection that a server has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct There {
    pub(super) id: String,
    pub(super) dimension: Option<u64>,
    pub(super) space: Option<String>,
}

/// One server.
pub(super) struct Server {
    exchange: Arc<Exchange>,
    base: Url,
    runtime: Runtime,
    pub(super) able: Abilities,
}

/// A batch that was sent, and whose answer nobody has looked at.
pub(super) struct Pending(JoinHandle<Result<Value, NoAnswer>>);

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("able", &self.able).finish_non_exhaustive()
    }
}

impl Server {
    /// Asks what it is. Errs when it does not answer, or is no server of Chroma.
    pub(super) fn find(
        base: &Url,
        headers: HeaderMap,
        patience: Patience,
        steps: &Steps,
    ) -> Result<Self, NoAnswer> {
        let strange = |error: String| NoAnswer::Strange(error);
        let client = asking::client(base.as_str())
            .connect_timeout(CONNECT_TIMEOUT)
            .build()
            .map_err(|error| strange(chain(&error.without_url())))?;
        // Batches are on their way while the next one is read.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("server")
            .enable_all()
            .build()
            .map_err(|error| strange(error.to_string()))?;
        let able = Abilities {
            api: Api::V2,
            batch_max: BATCH_MAX,
            base64: false,
            modern: true,
            schema: false,
            lists: true,
        };
        let exchange = Arc::new(Exchange { client, headers, patience, steps: steps.clone() });
        let mut server = Self { exchange, base: base.clone(), runtime, able };
        server.able = server.ask_abilities()?;
        Ok(server)
    }

    fn ask_abilities(&self) -> Result<Abilities, NoAnswer> {
        let absent = |answer: &Result<Value, NoAnswer>| {
            matches!(answer, Err(NoAnswer::Refused { status: 404 | 405 | 410, .. }))
        };
        let preflight = |version| self.get(&["api", version, "pre-flight-checks"], &[]);
        let (mut api, mut told) = (Api::V2, preflight("v2"));
        if absent(&told) {
            (api, told) = (Api::V1, preflight("v1"));
        }
        if absent(&told) {
            return Err(NoAnswer::Strange(
                "it has neither /api/v2/pre-flight-checks nor /api/v1/pre-flight-checks".to_owned(),
            ));
        }
        let told = told?;
        let batch_max = told["max_batch_size"].as_u64().filter(|max| *max > 0);
        let Some(batch_max) = batch_max.and_then(|max| usize::try_from(max).ok()) else {
            return Err(NoAnswer::Strange(
                "its pre-flight checks name no max_batch_size".to_owned(),
            ));
        };
        let version = self.get(&["api", api.word(), "version"], &[])?;
        let modern = api == Api::V2 && !version.as_str().unwrap_or_default().starts_with("0.");
        // Releases from 1.0 on all say 1.0.0; what they take stands in their description. Where that is kept back, a refusal tells.
        let described = if modern { self.get(&["openapi.json"], &[]).ok() } else { None };
        let schemas = described.as_ref().map(|document| &document["components"]["schemas"]);
        let schema = schemas.is_some_and(|schemas| {
            schemas["CreateCollectionPayload"]["properties"]["schema"].is_object()
        });
        let lists = schemas.is_none_or(|schemas| {
            let kinds = schemas["HashMap"]["additionalProperties"]["oneOf"].as_array();
            kinds.is_none_or(|kinds| kinds.iter().any(|kind| kind["type"] == "array"))
        });
        Ok(Abilities {
            api,
            batch_max: batch_max.min(BATCH_MAX),
            base64: told["supports_base64_encoding"] == true,
            modern,
            schema,
            lists: modern && lists,
        })
    }

    /// Whether there is a collection, and what it is like. Errs when the server gives another answer than that or its absence.
    pub(super) fn collection(
        &self,
        place: Place<'_>,
        name: &str,
    ) -> Result<Option<There>, NoAnswer> {
        let (mut path, query) = self.collections(place);
        path.push(name);
        match self.get(&path, &query) {
            Ok(told) => There::of(&told).map(Some),
            Err(error) if error.says_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a tenant and a database where there is none. Errs when the server gives no good answer.
    pub(super) fn make_place(&self, place: Place<'_>) -> Result<(), NoAnswer> {
        let version = self.able.api.word();
        let tenants = ["api", version, "tenants"];
        let tenant = ["api", version, "tenants", place.tenant];
        self.make(&tenant, &[], &tenants, &[], place.tenant)?;
        let whose = [("tenant", place.tenant)];
        match self.able.api {
            Api::V1 => self.make(
                &["api", "v1", "databases", place.database],
                &whose,
                &["api", "v1", "databases"],
                &whose,
                place.database,
            ),
            Api::V2 => {
                let databases = ["api", "v2", "tenants", place.tenant, "databases"];
                let database = ["api", "v2", "tenants", place.tenant, "databases", place.database];
                self.make(&database, &[], &databases, &[], place.database)
            }
        }
    }

    /// Asks for one thing and makes it when there is none. Errs when the server gives no good answer.
    fn make(
        &self,
        one: &[&str],
        of_one: &[(&str, &str)],
        all: &[&str],
        of_all: &[(&str, &str)],
        name: &str,
    ) -> Result<(), NoAnswer> {
        match self.get(one, of_one) {
            Ok(_) => return Ok(()),
            Err(error) if error.says_absent() => {}
            Err(error) => return Err(error),
        }
        match self.post(all, of_all, &json!({ "name": name })) {
            Err(error) if !error.says_there() => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes a collection. `body` has its name and its settings. One that is there already is an error.
    pub(super) fn make_collection(
        &self,
        place: Place<'_>,
        body: &Value,
    ) -> Result<There, NoAnswer> {
        let (path, query) = self.collections(place);
        There::of(&self.post(&path, &query, body)?)
    }

    /// Adds records, or changes those that are there. `body` is that of the request. A server that has no time is waited for as
    /// `asked` says. Errs when the address cannot be made; what the server says comes later.
    pub(super) fn upsert(
        &self,
        place: Place<'_>,
        id: &str,
        body: Bytes,
        asked: Asked,
    ) -> Result<Pending, NoAnswer> {
        let (path, query) = self.within(place, id, "upsert");
        let (exchange, url) = (Arc::clone(&self.exchange), self.url(&path, &query)?);
        Ok(Pending(
            self.runtime
                .spawn(async move { exchange.ask(asked, Method::POST, url, Some(body)).await }),
        ))
    }

    /// Waits for the answer to a batch. Errs when the server gave no good answer, or it was stopped.
    pub(super) fn answered(&self, sent: Pending) -> Result<(), NoAnswer> {
        match self.runtime.block_on(sent.0) {
            Ok(answer) => answer.map(drop),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(NoAnswer::Stopped),
            },
        }
    }

    fn ask(
        &self,
        asked: Asked,
        method: Method,
        url: Url,
        body: Option<Bytes>,
    ) -> Result<Value, NoAnswer> {
        self.runtime.block_on(self.exchange.ask(asked, method, url, body))
    }

    /// How many records there are. Errs when the server gives no good answer.
    pub(super) fn count(&self, place: Place<'_>, id: &str) -> Result<u64, NoAnswer> {
        let (path, query) = self.within(place, id, "count");
        let told = self.get(&path, &query)?;
        told.as_u64().ok_or_else(|| NoAnswer::Strange("the count is no number".to_owned()))
    }

    /// What it has of some records. Errs when the server gives no good answer.
    pub(super) fn records(
        &self,
        place: Place<'_>,
        id: &str,
        ids: &[&str],
    ) -> Result<Value, NoAnswer> {
        let (path, query) = self.within(place, id, "get");
        let body = json!({ "ids": ids, "include": ["metadatas", "documents", "embeddings"] });
        self.post(&path, &query, &body)
    }

    /// Whether it is alive, asked once.
    pub(super) fn is_alive(&self) -> bool {
        let path = ["api", self.able.api.word(), "heartbeat"];
        let Ok(url) = self.url(&path, &[]) else { return false };
        self.ask(Asked::Once, Method::GET, url, None).is_ok()
    }

    fn collections<'p>(&self, place: Place<'p>) -> (Vec<&'p str>, Vec<(&'static str, &'p str)>) {
        match self.able.api {
            Api::V1 => (
                vec!["api", "v1", "collections"],
                vec![("tenant", place.tenant), ("database", place.database)],
            ),
            Api::V2 => {
                let path = [
                    "api",
                    "v2",
                    "tenants",
                    place.tenant,
                    "databases",
                    place.database,
                    "collections",
                ];
                (path.to_vec(), Vec::new())
            }
        }
    }

    /// What is asked of one collection, which v1 finds by its id alone.
    fn within<'p>(
        &self,
        place: Place<'p>,
        id: &'p str,
        what: &'static str,
    ) -> (Vec<&'p str>, Vec<(&'static str, &'p str)>) {
        let (mut path, _) = self.collections(place);
        path.extend([id, what]);
        (path, Vec::new())
    }

    fn get(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Value, NoAnswer> {
        self.ask(Asked::Patiently, Method::GET, self.url(path, query)?, None)
    }

    fn post(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
        body: &impl Serialize,
    ) -> Result<Value, NoAnswer> {
        let body =
            serde_json::to_vec(body).map_err(|error| NoAnswer::Strange(error.to_string()))?;
        self.ask(Asked::Patiently, Method::POST, self.url(path, query)?, Some(body.into()))
    }

    fn url(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Url, NoAnswer> {
        // A URL would lose these, and mean another place.
        if let Some(name) = path.iter().find(|part| matches!(**part, "" | "." | "..")) {
            return Err(NoAnswer::Refused {
                status: 400,
                text: format!("no address can hold the name {name:?}"),
            });
        }
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }
}

impl Api {
    const fn word(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

impl There {
    fn of(told: &Value) -> Result<Self, NoAnswer> {
        let Some(id) = told["id"].as_str() else {
            return Err(NoAnswer::Strange("the collection has no id".to_owned()));
        };
        let hnsw = &told["configuration_json"]["hnsw"]["space"];
        // Before 1.0 the metadata says it, whatever the configuration says.
        let space = told["metadata"]["hnsw:space"].as_str().filter(|_| hnsw.is_null());
        Ok(Self {
            id: id.to_owned(),
            dimension: told["dimension"].as_u64(),
            space: space.or(hnsw.as_str()).map(str::to_owned),
        })
    }
}

/// More at once is not faster, and each waits in memory.
const BATCH_MAX: usize = 10_000;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
