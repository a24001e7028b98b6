//! The HTTP side. Every answer is made of bytes that were ready before the request came, except a reload's, a page of items, and
//! a runbook, which is rendered from what is part of the program.
//!
//! | path | methods | answer |
//! |---|---|---|
//! | `/` | GET, HEAD | status page for people; it keeps itself fresh by asking for itself |
//! | `/metrics` (configurable) | GET, HEAD | metrics |
//! | `/api/v1/status` | GET, HEAD | the status page as JSON: what `check --output json` says, and alerts, silences, receivers, history |
//! | `/api/v1/status/items?store=…&code=…` | GET, HEAD | what the findings of a code are about (ids of records, rows, entries), in pages: `subject`, `page` from 1, `per_page` up to 10,000 |
//! | `/runbooks/`, `/runbooks/CODE` | GET, HEAD | what a finding means and what to do; CODE may end in `.md` |
//! | `/-/healthy` | GET, HEAD | 200 while the process runs |
//! | `/-/ready` | GET, HEAD | 200 once every collector of every store has run, 503 before |
//! | `/-/reload` | POST, PUT | loads the configuration anew: 200, or 500 with every problem; 403 unless switched on |
//!
//! Pages are gzipped for those who accept it; the first and the third have an entity tag, and 304 for who has them already.
//! Anything else is 404, another method 405; a `Host` that is not this server's is 421 on loopback, none at all 400; other query
//! strings are ignored; request bodies are not read. A connection over
//! the cap gets 503 and is closed; those that are open go on. With `web.max_requests` a page too many gets 503 as well.

mod connection;
mod encoding;
mod host;
mod listen;
mod secure;
mod users;

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use listen::{BindError, Listeners};
pub use secure::Secure;

use host::{Misdirected, Names};
use secure::{Encrypted, Refusal};

use crate::{
    config::Web,
    keys::ConfigError,
    metrics::{self, Own, Rejection, Route},
    publish::{self, Body, CONTENT_SECURITY_POLICY, Published},
    status::items::Query,
};

/// A wish to load the configuration anew.
#[derive(Debug)]
pub struct ReloadRequest {
    /// Where to say how it went.
    pub answer: oneshot::Sender<Result<(), NotReloaded>>,
}

/// Why the configuration from before stays in force. Its text may be shown: problems of the configuration hold no secret.
#[derive(Debug, thiserror::Error)]
pub enum NotReloaded {
    /// Every problem of the new one.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Problems(Vec<ConfigError>),
    /// The thread that should load it did not end well.
    #[error("the configuration was not loaded: {0}")]
    NotLoaded(#[from] tokio::task::JoinError),
    /// Nobody is there any more to take it.
    #[error("the program is ending")]
    Ending,
}

/// How long a client may take for what.
#[derive(Debug, Clone)]
pub struct Limits {
    /// From its first byte to the end of a request's header; also from the connection to the first request.
    pub header: Duration,
    /// Between two requests.
    pub idle: Duration,
    /// From a request to the moment when the client has taken the whole answer.
    pub answer: Duration,
    /// From `stop` to the end of the answer under way.
    pub drain: Duration,
}

impl Limits {
    /// What `web` says, and for the rest what suits scrapers: they come back at least every two minutes (a longer
    /// interval makes Prometheus' series stale), and give up within their scrape timeout.
    #[must_use]
    pub fn of(web: &Web) -> Self {
        Self {
            header: web.header_timeout,
            idle: Duration::from_mins(3),
            answer: Duration::from_mins(1),
            drain: Duration::from_secs(4),
        }
    }
}

/// What the server answers with.
#[derive(Debug)]
pub struct App {
    /// The pages of the moment.
    pub pages: watch::Receiver<Arc<Published>>,
    /// Where requests are counted.
    pub own: Own,
    /// Where wishes for a reload go.
    pub reload: mpsc::Sender<ReloadRequest>,
    /// `--web.config.file`; without one it is plain HTTP for everybody.
    pub secure: Option<Arc<Secure>>,
}

/// Answers on `listeners` until `stop`; then closes them, ends idle connections at once and the others when their answer
/// is out, at the latest after [`Limits::drain`].
pub async fn run(
    listeners: Listeners,
    app: App,
    web: &Web,
    limits: Limits,
    stop: CancellationToken,
) {
    let room = listen::Room::new(web.max_connections, app.own.clone());
    let server = Arc::new(Server {
        app,
        telemetry_path: web.telemetry_path.clone(),
        lifecycle: web.enable_lifecycle,
        names: Names::new(&host_name(), &web.allowed_hosts),
        limits,
        pages: (web.max_requests > 0).then(|| Arc::new(Semaphore::new(web.max_requests))),
    });
    let mut accepting = JoinSet::new();
    if let Some(secure) = &server.app.secure {
        accepting.spawn(Arc::clone(secure).keep(stop.clone()));
    }
    for (address, listener) in listeners.into_sockets() {
        info!(%address, "Listening.");
        let (server, stop) = (Arc::clone(&server), stop.clone());
        accepting.spawn(listen::accept(listener, room.clone(), move |stream, place| {
            // A token of its own: waiting on the one that all share would make every request take the same lock.
            let (server, stop) = (Arc::clone(&server), stop.child_token());
            tokio::spawn(async move {
                server.serve(stream, stop).await;
                drop(place);
            });
        }));
    }
    stop.cancelled().await;
    accepting.shutdown().await;
    // Each connection keeps its own deadline; the second on top is for the scheduler to run their tasks.
    let deadline = server.limits.drain + Duration::from_secs(1);
    if tokio::time::timeout(deadline, room.emptied()).await.is_err() {
        warn!("HTTP connections did not end in time.");
    }
}

/// The place of a page among those that are being sent; given back when the last copy is dropped.
#[derive(Debug, Clone)]
struct SentFrom(
    #[expect(dead_code, reason = "held until it is dropped")] Arc<OwnedSemaphorePermit>,
);

struct Server {
    app: App,
    telemetry_path: String,
    lifecycle: bool,
    names: Names,
    limits: Limits,
    /// Room for so many pages at once; `None` when nothing but the connections bounds them.
    pages: Option<Arc<Semaphore>>,
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

impl Server {
    async fn serve(&self, stream: TcpStream, stop: CancellationToken) {
        // A socket that has no address any more is closed.
        let Ok(local) = stream.local_addr() else { return };
        let answer = |request| self.answer(request, local.ip());
        let plain = match &self.app.secure {
            None => stream,
            Some(secure) => match secure.encrypt(stream, self.limits.header).await {
                Encrypted::Plain(plain) => plain,
                Encrypted::Tls(tls) => {
                    return connection::serve(*tls, &self.limits, stop, answer).await;
                }
                Encrypted::Refused => return self.app.own.count_rejected(Rejection::Tls),
            },
        };
        connection::serve(plain, &self.limits, stop, answer).await;
    }

    async fn answer(&self, request: Request<Incoming>, local: IpAddr) -> Response<Full<Bytes>> {
        let secure = self.app.secure.as_deref();
        let mut response = match (self.names.check(&request, local), secure) {
            (Err(misdirected), _) => self.misdirected(misdirected),
            (Ok(()), None) => return self.admitted(request).await,
            (Ok(()), Some(secure)) => match secure.admit(request.headers()).await {
                Ok(()) => self.admitted(request).await,
                Err(refusal) => self.refused(refusal),
            },
        };
        if let Some(secure) = secure {
            secure.dress(&mut response);
        }
        response
    }

    fn misdirected(&self, why: Misdirected) -> Response<Full<Bytes>> {
        self.app.own.count_rejected(Rejection::Host);
        match why {
            Misdirected::NoHost => text(StatusCode::BAD_REQUEST, "One Host header is needed.\n"),
            Misdirected::OtherHost => text(
                StatusCode::MISDIRECTED_REQUEST,
                "This server does not know itself by that name. Add it to web.allowed_hosts if it is meant.\n",
            ),
        }
    }

    async fn admitted(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let uri = request.uri();
        let asks = uri.path().starts_with("/-/");
        let place = match self.pages.as_ref().filter(|_| !asks) {
            None => None,
            Some(pages) => match Arc::clone(pages).try_acquire_owned() {
                Ok(place) => Some(SentFrom(Arc::new(place))),
                Err(_) => return self.crowded(),
            },
        };
        let (route, mut response) = match uri.path() {
            ITEMS => {
                let query = uri.query().unwrap_or_default();
                (Route::Items, self.get(request.method(), |page| items(page, query)))
            }
            path => self.route(request.method(), path, request.headers()).await,
        };
        self.app.own.count_request(route, response.status().as_u16());
        // The connection keeps it until the client has the page.
        if let Some(place) = place {
            response.extensions_mut().insert(place);
        }
        response
    }

    /// Turned away at once: a queue would let a scraper wait until its timeout without a word.
    fn crowded(&self) -> Response<Full<Bytes>> {
        self.app.own.count_rejected(Rejection::Crowd);
        let mut response = text(StatusCode::SERVICE_UNAVAILABLE, "Too many requests at once.\n");
        set(&mut response, header::RETRY_AFTER, "1");
        response
    }

    fn refused(&self, refusal: Refusal) -> Response<Full<Bytes>> {
        let (why, status, words) = match refusal {
            Refusal::Credentials => {
                (Rejection::Credentials, StatusCode::UNAUTHORIZED, "Unauthorized.\n")
            }
            Refusal::Busy => {
                (Rejection::Credentials, StatusCode::SERVICE_UNAVAILABLE, "Try again.\n")
            }
            Refusal::Rate => {
                (Rejection::Rate, StatusCode::TOO_MANY_REQUESTS, "Too many requests.\n")
            }
        };
        self.app.own.count_rejected(why);
        let mut response = text(status, words);
        if refusal == Refusal::Credentials {
            let challenge = "Basic realm=\"chroma_exporter\", charset=\"UTF-8\"";
            set(&mut response, header::WWW_AUTHENTICATE, challenge);
        }
        response
    }

    async fn route(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> (Route, Response<Full<Bytes>>) {
        match path {
            path if path == self.telemetry_path => {
                (Route::Metrics, self.get(method, |page| metrics_page(page, headers)))
            }
            "/" => (Route::Index, self.get(method, |page| index_page(page, headers))),
            "/api/v1/status" => {
                (Route::Status, self.get(method, |page| status_document(page, headers)))
            }
            "/-/healthy" => (
                Route::Healthy,
                self.get(method, |_| text(StatusCode::OK, "chroma_exporter is healthy.\n")),
            ),
            "/-/ready" => (Route::Ready, self.get(method, ready)),
            "/-/reload" => (Route::Reload, self.reload(method, headers).await),
            path if let Some(code) = path.strip_prefix("/runbooks/") => {
                (Route::Runbook, self.get(method, |_| runbook(code)))
            }
            _ => (Route::Other, text(StatusCode::NOT_FOUND, "Not found.\n")),
        }
    }

    fn get(
        &self,
        method: &Method,
        make: impl FnOnce(&Published) -> Response<Full<Bytes>>,
    ) -> Response<Full<Bytes>> {
        if method != Method::GET && method != Method::HEAD {
            return not_allowed("GET, HEAD");
        }
        let page = Arc::clone(&self.app.pages.borrow());
        make(&page)
    }

    async fn reload(&self, method: &Method, headers: &HeaderMap) -> Response<Full<Bytes>> {
        if method != Method::POST && method != Method::PUT {
            return not_allowed("POST, PUT");
        }
        if !self.lifecycle {
            return text(StatusCode::FORBIDDEN, "Lifecycle API is not enabled.\n");
        }
        // Browsers add it to every POST of a page: no website may reload a program on somebody's loopback.
        if headers.contains_key(header::ORIGIN) {
            return text(StatusCode::FORBIDDEN, "Not from a web page.\n");
        }
        let (answer, answered) = oneshot::channel();
        if self.app.reload.try_send(ReloadRequest { answer }).is_err() {
            return text(
                StatusCode::SERVICE_UNAVAILABLE,
                "Another reload is under way, or the program is ending.\n",
            );
        }
        match answered.await {
            Ok(Ok(())) => text(StatusCode::OK, "Configuration reloaded.\n"),
            Ok(Err(problems)) => text(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("Configuration not reloaded, the one before stays in force:\n{problems}\n"),
            ),
            Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "The program is ending.\n"),
        }
    }
}

fn metrics_page(page: &Published, headers: &HeaderMap) -> Response<Full<Bytes>> {
    let gzip = encoding::accepts_gzip(headers);
    let body = if gzip { &page.metrics.gzip } else { &page.metrics.identity };
    let mut response = with_body(StatusCode::OK, metrics::CONTENT_TYPE, body.clone());
    set(&mut response, header::VARY, "Accept-Encoding");
    if gzip {
        set(&mut response, header::CONTENT_ENCODING, "gzip");
    }
    response
}

fn index_page(page: &Published, headers: &HeaderMap) -> Response<Full<Bytes>> {
    for_people(tagged(&page.index, "text/html; charset=utf-8", headers))
}

fn status_document(page: &Published, headers: &HeaderMap) -> Response<Full<Bytes>> {
    let mut response = tagged(&page.status, "application/json", headers);
    set(&mut response, header::CACHE_CONTROL, "no-cache");
    response
}

/// A page of what the findings of a store are about.
fn items(page: &Published, query: &str) -> Response<Full<Bytes>> {
    let query = match Query::parse(query) {
        Ok(query) => query,
        Err(problem) => return text(StatusCode::BAD_REQUEST, format!("{problem}.\n")),
    };
    let Some(items) = query.answer(&page.snapshot) else {
        return text(StatusCode::NOT_FOUND, "No store of this name is watched.\n");
    };
    match serde_json::to_string(&items) {
        Ok(json) => {
            let body = (json + "\n").into();
            let mut response = with_body(StatusCode::OK, "application/json", body);
            set(&mut response, header::CACHE_CONTROL, "no-store");
            response
        }
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

const ITEMS: &str = "/api/v1/status/items";

fn runbook(code: &str) -> Response<Full<Bytes>> {
    let html =
        if code.is_empty() { Some(publish::runbook_index()) } else { publish::runbook_page(code) };
    match html {
        Some(html) => {
            for_people(with_body(StatusCode::OK, "text/html; charset=utf-8", html.into()))
        }
        None => text(
            StatusCode::NOT_FOUND,
            "There is no runbook of that name; /runbooks/ lists them.\n",
        ),
    }
}

/// Headers of what a browser shows. `no-cache`: kept, and asked for every time.
fn for_people(mut response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    if let Ok(policy) = HeaderValue::from_str(&CONTENT_SECURITY_POLICY) {
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    set(&mut response, header::REFERRER_POLICY, "no-referrer");
    set(&mut response, header::CACHE_CONTROL, "no-cache");
    response
}

/// The body in the form that the client takes, or 304 when it has it.
fn tagged(body: &Body, content_type: &'static str, headers: &HeaderMap) -> Response<Full<Bytes>> {
    let gzip = encoding::accepts_gzip(headers);
    let mut response = if encoding::has(headers, &body.etag) {
        let mut response = Response::new(Full::new(Bytes::new()));
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        let bytes = if gzip { &body.gzip } else { &body.identity };
        let mut response = with_body(StatusCode::OK, content_type, bytes.clone());
        if gzip {
            set(&mut response, header::CONTENT_ENCODING, "gzip");
        }
        response
    };
    if let Ok(etag) = HeaderValue::from_maybe_shared(body.etag.clone()) {
        response.headers_mut().insert(header::ETAG, etag);
    }
    set(&mut response, header::VARY, "Accept-Encoding");
    response
}

fn ready(page: &Published) -> Response<Full<Bytes>> {
    if page.ready {
        text(StatusCode::OK, "chroma_exporter is ready.\n")
    } else {
        text(StatusCode::SERVICE_UNAVAILABLE, "Not every collector has run yet.\n")
    }
}

fn not_allowed(allowed: &'static str) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, format!("Only {allowed}.\n"));
    set(&mut response, header::ALLOW, allowed);
    response
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    with_body(status, "text/plain; charset=utf-8", body.into())
}

fn with_body(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    set(&mut response, header::CONTENT_TYPE, content_type);
    set(&mut response, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    response
}

fn set(response: &mut Response<Full<Bytes>>, name: HeaderName, value: &'static str) {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
}
