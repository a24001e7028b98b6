//! One HTTP attempt: a client per receiver that keeps its connection, follows no redirect, reads a bounded body, and
//! says what an answer means. What a body means for one kind of receiver is judged in that kind's own room.

use std::{
    error::Error, fs, io, net::SocketAddr, os::unix::fs::MetadataExt, path::Path, sync::Arc,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use parking_lot::Mutex;
use reqwest::{
    Certificate, Identity, Proxy, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
    redirect,
};

use super::{
    secrets::{self, Redactor, SecretError, Warned},
    system_words,
};
use crate::{
    alert::message::{Failure, Outcome},
    clock::{self, Ticks, Timestamp},
    deliver::receivers::{BasicAuth, Header, Method, Receiver, Reply, Request, Unsendable, after},
    host::read::read_whole,
    keys::{Secret, target},
};

/// Most bytes of an answer that are read.
pub(crate) const BODY_BYTES_MAX: usize = 64 * 1024;

/// A name, a handshake or a route may take this long at most, even when the whole attempt may take longer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// An idle connection is kept no longer: a server that closes it at the wrong moment leaves a message unclear.
const IDLE: Duration = Duration::from_secs(20);

/// Roots of the system change with its packages; a client that is older is made anew.
const CLIENT_AGE_MAX: Duration = Duration::from_hours(24);

/// Largest certificate or key file.
const PEM_BYTES_MAX: u64 = 1024 * 1024;

/// There was no answer.
#[derive(Debug)]
pub(crate) struct NoReply {
    pub(crate) failure: Failure,
    /// Whether the request may have arrived.
    pub(crate) unclear: bool,
    /// Why, without secrets.
    pub(crate) text: String,
}

impl NoReply {
    pub(crate) fn outcome(&self) -> Outcome {
        Outcome::Retry { failure: self.failure, after: None, unclear: self.unclear }
    }

    pub(crate) fn config(text: impl Into<String>) -> Self {
        Self { failure: Failure::Config, unclear: false, text: text.into() }
    }
}

impl From<SecretError> for NoReply {
    fn from(error: SecretError) -> Self {
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        Self::config(format!("{error}{cause}"))
    }
}

impl From<Unsendable> for NoReply {
    fn from(why: Unsendable) -> Self {
        Self::config(why.to_string())
    }
}

/// The client of one receiver, made when it is first needed and anew when what it was made from has changed.
#[derive(Debug, Default)]
pub(crate) struct Client {
    made: Mutex<Option<Made>>,
    pub(crate) warned: Warned,
}

#[derive(Debug, Clone)]
struct Made {
    from: Basis,
    at: Ticks,
    client: reqwest::Client,
}

/// What a client depends on. Compared, never shown.
#[derive(Clone, PartialEq, Eq)]
struct Basis {
    /// Whether anything is said over TLS.
    tls: bool,
    private_only: bool,
    proxy: Option<String>,
    files: Vec<Option<(u64, u64, i64, i64)>>,
}

impl std::fmt::Debug for Basis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Basis")
    }
}

/// Everything that one send needs, read a moment ago.
#[derive(Debug)]
pub(crate) struct Ready {
    client: reqwest::Client,
    url: Url,
    headers: HeaderMap,
    timeout: Duration,
    /// Secrets of this send; also for what is shown of the answers.
    pub(crate) redactor: Redactor,
    /// The values of the secrets that were asked for besides the URL.
    pub(crate) others: Vec<String>,
}

impl Client {
    /// Reads all secrets anew and gives what a send needs. `url` may be one that is no secret. Blocks on files. Errs when
    /// one cannot be read, or breaks a rule.
    pub(crate) fn ready(
        &self,
        receiver: &Receiver,
        url: &Secret,
        others: &[Secret],
    ) -> Result<Ready, NoReply> {
        let http = &receiver.http;
        let mut redactor = Redactor::default();
        let text = secrets::read(url, &self.warned)?;
        redactor.hide(&text);
        let url = target::url(&text, http.allow_http)
            .map_err(|rule| NoReply::config(format!("the url {rule}")))?;
        redactor.hide_url(&url);
        let proxy = match &http.proxy {
            None => None,
            Some(proxy) => {
                let text = secrets::read(proxy, &self.warned)?;
                redactor.hide(&text);
                let proxy = target::proxy(&text)
                    .map_err(|rule| NoReply::config(format!("the proxy {rule}")))?;
                redactor.hide_credentials(&proxy);
                Some(text)
            }
        };
        let private_only = target::plain_needs_private(&url, http.allow_http);
        if private_only && proxy.is_some() && target::literal(&url).is_none() {
            // Nobody here sees which address the proxy would go to.
            return Err(NoReply::config(
                "the url must be https, or allow_http true, to go through a proxy",
            ));
        }
        let mut headers = HeaderMap::new();
        for Header { name, value } in &http.headers {
            let value = secrets::read(value, &self.warned)?;
            redactor.hide(&value);
            let name = HeaderName::try_from(name.as_str())
                .map_err(|_| NoReply::config("a header has a name that is none"))?;
            headers.insert(name, sensitive(&value)?);
        }
        if let Some(token) = &http.bearer_token {
            let token = secrets::read(token, &self.warned)?;
            redactor.hide(&token);
            headers.insert(AUTHORIZATION, sensitive(&format!("Bearer {token}"))?);
        } else if let Some(BasicAuth { username, password }) = &http.basic_auth {
            let password = secrets::read(password, &self.warned)?;
            redactor.hide(&password);
            let encoded = BASE64_STANDARD.encode(format!("{username}:{password}"));
            redactor.hide(&encoded);
            headers.insert(AUTHORIZATION, sensitive(&format!("Basic {encoded}"))?);
        }
        let read = |secret: &Secret| secrets::read(secret, &self.warned);
        let others = others.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        for secret in &others {
            redactor.hide(secret);
        }
        // A proxy may stand anywhere; what it may reach is its own business.
        let from = Basis {
            tls: url.scheme() == "https"
                || proxy.as_ref().is_some_and(|proxy| proxy.starts_with("https:")),
            private_only: private_only && proxy.is_none(),
            proxy,
            files: files(receiver).iter().map(|path| stamp(path)).collect(),
        };
        let client = self.client(receiver, from)?;
        Ok(Ready { client, url, headers, timeout: receiver.timeout, redactor, others })
    }

    fn client(&self, receiver: &Receiver, from: Basis) -> Result<reqwest::Client, NoReply> {
        let mut made = self.made.lock();
        if let Some(made) = &*made
            && made.from == from
            && made.at.elapsed() < CLIENT_AGE_MAX
        {
            return Ok(made.client.clone());
        }
        let client = build(receiver, &from)?;
        *made = Some(Made { from, at: clock::ticks(), client: client.clone() });
        Ok(client)
    }
}

fn sensitive(text: &str) -> Result<HeaderValue, NoReply> {
    let mut value = HeaderValue::try_from(text)
        .map_err(|_| NoReply::config("a header has a value that cannot be sent"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn files(receiver: &Receiver) -> Vec<&Path> {
    let tls = &receiver.http.tls;
    [&tls.ca_file, &tls.cert_file, &tls.key_file]
        .into_iter()
        .filter_map(|file| file.as_deref())
        .collect()
}

/// Changes when the file does.
fn stamp(path: &Path) -> Option<(u64, u64, i64, i64)> {
    let facts = fs::metadata(path).ok()?;
    Some((facts.ino(), facts.size(), facts.mtime(), facts.mtime_nsec()))
}

fn build(receiver: &Receiver, from: &Basis) -> Result<reqwest::Client, NoReply> {
    crate::tls::install();
    let bad =
        |what: &str, error: reqwest::Error| NoReply::config(format!("{what}: {}", said(error)));
    let http = &receiver.http;
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("chroma_exporter/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .retry(reqwest::retry::never())
        .http1_only()
        .no_proxy()
        .referer(false)
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_max_idle_per_host(1)
        .pool_idle_timeout(IDLE)
        .dns_resolver(Arc::new(Judged { private_only: from.private_only }));
    if let Some(proxy) = &from.proxy {
        // The error of a proxy holds its URL, and that its password.
        let proxy =
            Proxy::all(proxy.as_str()).map_err(|_| NoReply::config("the proxy cannot be used"))?;
        builder = builder.proxy(proxy);
    }
    if !from.tls {
        // A host without any certificates must reach the Alertmanager beside it.
        let client = builder.tls_certs_only([]).build();
        return client.map_err(|error| bad("the client cannot be made", error));
    }
    if let Some(path) = &http.tls.ca_file {
        let pem = pem(path)?;
        let what = format!("{} is no PEM file with certificates", path.display());
        let roots = Certificate::from_pem_bundle(&pem).map_err(|error| bad(&what, error))?;
        if roots.is_empty() {
            return Err(NoReply::config(what));
        }
        builder = builder.tls_certs_merge(roots);
    }
    if let Some((cert, key)) = http.tls.identity() {
        let mut both = pem(cert)?;
        both.push(b'\n');
        both.extend(pem(key)?);
        let what =
            format!("{} and {} are no certificate with its key", cert.display(), key.display());
        builder = builder.identity(Identity::from_pem(&both).map_err(|_| NoReply::config(what))?);
    }
    builder.build().map_err(|error| bad("the client cannot be made", error))
}

/// Reads a file of certificates or keys. Errs when it cannot be read.
pub(super) fn pem(path: &Path) -> Result<Vec<u8>, NoReply> {
    read_whole(path, PEM_BYTES_MAX)
        .map_err(|error| NoReply::config(format!("cannot read {}: {error}", path.display())))
}

impl Ready {
    /// One attempt. `now` is for answers that name a date. Errs when no answer came.
    pub(crate) async fn send(&self, request: Request, now: Timestamp) -> Result<Reply, NoReply> {
        let mut url = self.url.clone();
        if !request.path.is_empty() && !url.path().ends_with(request.path) {
            let path = format!("{}{}", url.path().trim_end_matches('/'), request.path);
            url.set_path(&path);
        }
        let mut headers = self.headers.clone();
        for (name, value) in request.headers {
            let value = HeaderValue::try_from(value)
                .map_err(|_| NoReply::config("a header has a value that cannot be sent"))?;
            headers.insert(name, value);
        }
        if !request.body.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let method = match request.method {
            Method::Get => reqwest::Method::GET,
            Method::Post => reqwest::Method::POST,
        };
        let sent = self
            .client
            .request(method, url)
            .headers(headers)
            .body(request.body)
            .timeout(self.timeout)
            .send()
            .await;
        let mut response = sent.map_err(|error| self.no_reply(error))?;
        let status = response.status().as_u16();
        let header = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let header = header.map(str::to_owned);
        let mut body = Vec::new();
        let whole = loop {
            match response.chunk().await {
                Ok(Some(chunk)) => {
                    let room = BODY_BYTES_MAX - body.len();
                    body.extend_from_slice(&chunk[..chunk.len().min(room)]);
                    if chunk.len() > room {
                        break false;
                    }
                }
                Ok(None) => break true,
                // The status has come: for most receivers it says all.
                Err(_) => break false,
            }
        };
        let after = after(header.as_deref(), &body, now);
        Ok(Reply { status, body, whole, after })
    }

    fn no_reply(&self, error: reqwest::Error) -> NoReply {
        let (failure, unclear) = match () {
            () if error.is_connect() => (Failure::Connect, false),
            () if error.is_timeout() => (Failure::Timeout, true),
            () if error.is_builder() => (Failure::Config, false),
            () => (Failure::Broken, true),
        };
        NoReply {
            failure,
            unclear,
            text: self.redactor.clean(&in_words(&error.without_url()), 300),
        }
    }
}

/// Why there was no answer, as a person says it; what we have no words for is said in those of the innermost cause.
fn in_words(error: &reqwest::Error) -> String {
    // Chains of causes are short; a bound costs nothing.
    let mut causes: Vec<&(dyn Error + 'static)> = vec![error];
    let mut cause = error.source();
    while let Some(next) = cause.filter(|_| causes.len() < 16) {
        causes.push(next);
        cause = next.source();
    }
    let innermost = causes.last().map(ToString::to_string).unwrap_or_default();
    let kinds = causes.iter().filter_map(|cause| cause.downcast_ref::<io::Error>());
    let system = kinds.map(io::Error::kind).next_back();
    let words = match system.and_then(system_words) {
        Some(words) => words,
        None if innermost.contains("failed to lookup address") => {
            "the name of its host is not known"
        }
        None if error.is_timeout() && error.is_connect() => "no connection came about in time",
        None if error.is_timeout() => "no answer came in time",
        None if innermost.contains("invalid peer certificate") => {
            return format!("its certificate is not trusted: {innermost}");
        }
        None => return innermost,
    };
    words.to_owned()
}

/// The error with its causes, without the URL.
fn said(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    // Chains of causes are short; a bound costs nothing.
    for _ in 0..8 {
        let Some(next) = cause else { break };
        let said = next.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = next.source();
    }
    text
}

/// Resolves names as the system does and leaves out addresses that may not be connected to.
struct Judged {
    private_only: bool,
}

impl Resolve for Judged {
    fn resolve(&self, name: Name) -> Resolving {
        let private_only = self.private_only;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let mut refused = None;
            let mut good: Vec<SocketAddr> = Vec::new();
            for at in found {
                match target::address(at.ip(), private_only) {
                    Ok(()) => good.push(at),
                    Err(rule) => refused = Some(rule),
                }
            }
            match refused {
                Some(rule) if good.is_empty() => {
                    Err(format!("the address of the url {rule}").into())
                }
                _ => Ok(Box::new(good.into_iter()) as Addrs),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn why_nobody_answers_is_told_in_words() {
        crate::tls::install();
        let client = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([])
            .timeout(Duration::from_millis(200))
            .build()
            .unwrap();
        let port = |listener: &std::net::TcpListener| listener.local_addr().unwrap().port();
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let nobody = port(&gone);
        drop(gone);
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        for (at, want) in [
            (nobody, "connection refused: nothing listens at that address and port"),
            (port(&silent), "no answer came in time"),
        ] {
            let sent = client.get(format!("http://127.0.0.1:{at}/?token=secret")).send().await;
            let said = in_words(&sent.unwrap_err().without_url());
            assert_eq!(said, want);
        }
    }
}
