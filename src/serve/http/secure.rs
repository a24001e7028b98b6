//! `--web.config.file` in force: TLS and certificates of clients, users, headers, rate. File and certificates are looked at
//! every second and loaded anew when one of them has changed; what cannot be loaded leaves the former in force.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use hyper::{
    Response,
    header::{HeaderMap, HeaderName, HeaderValue},
};
use parking_lot::RwLock;
use rustls::{
    RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::{CryptoProvider, SupportedKxGroup, ring},
    pki_types::{
        CertificateDer, IpAddr, PrivateKeyDer, ServerName,
        pem::{self, PemObject},
    },
    server::WebPkiClientVerifier,
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use super::users::{Admission, BasicAuth, Bucket, Users};
use crate::{
    clock,
    config::web_file::{self, Tls, TlsVersion, WEB_FILE_BYTES_MAX, WebFile},
    host::read::read_whole,
    keys::{
        ConfigError, Secret,
        report::{At, Place},
        secret::Source,
    },
};

/// Why a request is answered without being looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// 401.
    Credentials,
    /// 503: too many passwords at once.
    Busy,
    /// 429.
    Rate,
}

/// The file in force.
#[derive(Debug)]
pub struct Secure {
    file: PathBuf,
    current: RwLock<Arc<Loaded>>,
    basic_auth: BasicAuth,
    bucket: Bucket,
}

/// One content of the file and of those that it names.
struct Loaded {
    stamps: Vec<Option<Stamp>>,
    files: Vec<PathBuf>,
    tls: Option<TlsSide>,
    users: Users,
    headers: Vec<(HeaderName, HeaderValue)>,
    rate: Option<web_file::Rate>,
}

struct TlsSide {
    acceptor: TlsAcceptor,
    allowed_sans: Vec<String>,
}

/// Another one is another file or another content.
type Stamp = (u64, u64, u64, i64, i64, i64, i64);

/// Hashes and keys are not shown.
impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded").field("files", &self.files).finish_non_exhaustive()
    }
}

/// What became of a connection.
#[derive(Debug)]
pub(super) enum Encrypted {
    /// Client and server have agreed.
    Tls(Box<TlsStream<TcpStream>>),
    /// The file says nothing of TLS.
    Plain(TcpStream),
    /// The client did not come to terms with this server, has no certificate that is allowed, or took too long.
    Refused,
}

impl Secure {
    /// Loads `file` and what it names. Errs with every problem at once, ready to be shown.
    pub fn load(file: &Path) -> Result<Self, Vec<ConfigError>> {
        let loaded = load(file)?;
        Ok(Self {
            file: file.to_owned(),
            current: RwLock::new(Arc::new(loaded)),
            basic_auth: BasicAuth::default(),
            bucket: Bucket::default(),
        })
    }

    /// Whether clients must speak TLS.
    pub(crate) fn encrypts(&self) -> bool {
        self.current().tls.is_some()
    }

    fn current(&self) -> Arc<Loaded> {
        Arc::clone(&self.current.read())
    }

    /// Keeps it up to date until `stop`.
    pub(super) async fn keep(self: Arc<Self>, stop: CancellationToken) {
        let mut said: Vec<Option<Stamp>> = Vec::new();
        while stop.run_until_cancelled(tokio::time::sleep(POLL_INTERVAL)).await.is_some() {
            let secure = Arc::clone(&self);
            let known = tokio::task::spawn_blocking(move || secure.refresh(&said));
            let Some(Ok(now)) = stop.run_until_cancelled(known).await else { return };
            said = now;
        }
    }

    /// Loads anew what has changed since it was loaded, unless that failed already with these very files (`failed`).
    /// Answers with the files that cannot be loaded; none when all is well.
    fn refresh(&self, failed: &[Option<Stamp>]) -> Vec<Option<Stamp>> {
        let current = self.current();
        let now = stamps(&current.files);
        if now == current.stamps || now == failed {
            return if now == current.stamps { Vec::new() } else { now };
        }
        match load(&self.file).and_then(|loaded| self.no_less_than(&current, loaded)) {
            Ok(loaded) => {
                *self.current.write() = Arc::new(loaded);
                info!(file = %self.file.display(), "Web configuration loaded.");
                Vec::new()
            }
            Err(problems) => {
                for problem in problems {
                    error!(%problem, "Web configuration problem; the one before goes on.");
                }
                now
            }
        }
    }

    /// A file that an editor or a full disk left empty or cut must not open the door: without a restart it takes away
    /// neither TLS nor the last password. Errs when it would.
    fn no_less_than(&self, before: &Loaded, loaded: Loaded) -> Result<Loaded, Vec<ConfigError>> {
        let place = Place::file(&self.file);
        let mut problems = Vec::new();
        for (what, had, has) in [
            ("tls_server_config", before.tls.is_some(), loaded.tls.is_some()),
            ("basic_auth_users", !before.users.is_empty(), !loaded.users.is_empty()),
        ] {
            if had && !has {
                let words =
                    format!("has no {what} any more; restart the exporter if that is meant");
                problems.push(place.wrong(words));
            }
        }
        if problems.is_empty() { Ok(loaded) } else { Err(problems) }
    }

    /// A stranger's connection, encrypted when the file says so. The client has `limit` for it.
    pub(super) async fn encrypt(&self, stream: TcpStream, limit: Duration) -> Encrypted {
        let current = self.current();
        let Some(side) = &current.tls else { return Encrypted::Plain(stream) };
        match timeout(limit, side.acceptor.accept(stream)).await {
            Ok(Ok(stream)) if allowed(&stream, &side.allowed_sans) => {
                Encrypted::Tls(Box::new(stream))
            }
            Ok(Ok(_)) => {
                debug!("A client's certificate has none of the allowed names.");
                Encrypted::Refused
            }
            Ok(Err(error)) => {
                debug!(%error, "A client did not come to terms over TLS.");
                Encrypted::Refused
            }
            Err(_) => Encrypted::Refused,
        }
    }

    /// Whether a request with these headers is to be answered. Errs with the answer for who may not.
    pub(super) async fn admit(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let current = self.current();
        if let Some(rate) = current.rate
            && !self.bucket.take(rate, clock::ticks())
        {
            return Err(Refusal::Rate);
        }
        if current.users.is_empty() {
            return Ok(());
        }
        match self.basic_auth.admit(&current.users, headers).await {
            Admission::Granted => Ok(()),
            Admission::Refused => Err(Refusal::Credentials),
            Admission::Busy => Err(Refusal::Busy),
        }
    }

    /// Puts the headers of the file over those of an answer.
    pub(super) fn dress<B>(&self, response: &mut Response<B>) {
        for (name, value) in &self.current().headers {
            response.headers_mut().insert(name.clone(), value.clone());
        }
    }
}

/// Whether the client's certificate has one of the names; any is good when there are none, and so is no certificate where
/// none is required.
fn allowed(stream: &TlsStream<TcpStream>, names: &[String]) -> bool {
    let certificates = stream.get_ref().1.peer_certificates();
    let Some(certificate) = certificates.and_then(<[_]>::first).filter(|_| !names.is_empty())
    else {
        return true;
    };
    // It has been verified.
    let Ok(certificate) = webpki::EndEntityCert::try_from(certificate) else { return false };
    let is_address = |name: &String| {
        IpAddr::try_from(name.as_str()).is_ok_and(|ip| {
            certificate.verify_is_valid_for_subject_name(&ServerName::IpAddress(ip)).is_ok()
        })
    };
    names.iter().any(|name| {
        certificate.valid_dns_names().any(|dns| dns == name)
            || certificate.valid_uri_names().any(|uri| uri == name)
            || is_address(name)
    })
}

fn load(file: &Path) -> Result<Loaded, Vec<ConfigError>> {
    // Before they are read: a change in between is seen at the next look.
    let of_file = stamps(&[file.to_owned()]);
    let place = Place::file(file);
    let bytes = read_whole(file, WEB_FILE_BYTES_MAX as u64)
        .map_err(|problem| vec![place.wrong(format!("cannot be read: {problem}"))])?;
    let text = String::from_utf8(bytes).map_err(|_| vec![place.wrong("must be UTF-8")])?;
    let WebFile { tls, headers, users, rate } = web_file::read(file, &text)?;
    let named: Vec<PathBuf> = tls.iter().flat_map(named_files).collect();
    let of_named = stamps(&named);
    let tls = tls.map(|tls| tls_side(&tls)).transpose()?;
    let headers = headers.into_iter().filter_map(|(name, value)| {
        let name = HeaderName::try_from(name.to_ascii_lowercase()).ok()?;
        Some((name, HeaderValue::try_from(value).ok()?))
    });
    let users = users.into_iter().filter_map(|(user, hash)| match hash.0 {
        Source::Inline(hash) => Some((user, hash)),
        _ => None,
    });
    Ok(Loaded {
        stamps: [of_file, of_named].concat(),
        files: std::iter::once(file.to_owned()).chain(named).collect(),
        tls,
        users: users.collect(),
        headers: headers.collect(),
        rate,
    })
}

fn named_files(tls: &Tls) -> Vec<PathBuf> {
    let authority = tls.clients.as_ref().map(|clients| &clients.authority);
    let all = [Some(&tls.certificate), Some(&tls.key), authority];
    let path = |at: &At<Secret>| match &at.value.0 {
        Source::File(path) => Some(path.clone()),
        _ => None,
    };
    all.into_iter().flatten().filter_map(path).collect()
}

fn tls_side(tls: &Tls) -> Result<TlsSide, Vec<ConfigError>> {
    let mut problems = Vec::new();
    let mut keep = |result: Result<Vec<u8>, ConfigError>| {
        result.map_err(|problem| problems.push(problem)).ok()
    };
    let certificate = keep(pem_bytes(&tls.certificate));
    let key = keep(pem_bytes(&tls.key));
    let authority = tls.clients.as_ref().map(|clients| keep(pem_bytes(&clients.authority)));
    let (Some(certificate), Some(key)) = (certificate, key) else { return Err(problems) };
    if !problems.is_empty() {
        return Err(problems);
    }
    let chain =
        certificates(&certificate).map_err(|problem| vec![tls.certificate.place.wrong(problem)])?;
    let key = PrivateKeyDer::from_pem_slice(&key)
        .map_err(|_| vec![tls.key.place.wrong("holds no private key in PEM")])?;
    let wrong = |error: &dyn std::fmt::Display| {
        vec![tls.certificate.place.wrong(format!("cannot be used: {error}"))]
    };
    let provider = Arc::new(provider(tls));
    let versions: Vec<&'static SupportedProtocolVersion> = [
        (TlsVersion::Tls12, &rustls::version::TLS12),
        (TlsVersion::Tls13, &rustls::version::TLS13),
    ]
    .into_iter()
    .filter(|(version, _)| (tls.min..=tls.max).contains(version))
    .map(|(_, version)| version)
    .collect();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&versions)
        .map_err(|error| wrong(&error))?;
    let builder = match (&tls.clients, authority.flatten()) {
        (Some(clients), Some(pem)) => {
            let wrong = |problem: String| vec![clients.authority.place.wrong(problem)];
            let mut roots = RootCertStore::empty();
            for root in certificates(&pem).map_err(|problem| wrong(problem.to_string()))? {
                roots.add(root).map_err(|error| wrong(format!("cannot be used: {error}")))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier =
                if clients.required { verifier } else { verifier.allow_unauthenticated() };
            let verifier =
                verifier.build().map_err(|error| wrong(format!("cannot be used: {error}")))?;
            builder.with_client_cert_verifier(verifier)
        }
        _ => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| wrong(&error))?;
    config.ignore_client_order = tls.server_prefers;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let allowed_sans =
        tls.clients.as_ref().map(|clients| clients.allowed_sans.clone()).unwrap_or_default();
    Ok(TlsSide { acceptor: TlsAcceptor::from(Arc::new(config)), allowed_sans })
}

/// Ring's, cut down to what the file names.
fn provider(tls: &Tls) -> CryptoProvider {
    let mut provider = ring::default_provider();
    if !tls.suites.is_empty() {
        let place = |name: &str| tls.suites.iter().position(|suite| *suite == name);
        let all = provider.cipher_suites.into_iter();
        let mut kept: Vec<_> = all
            .filter_map(|suite| {
                let name = format!("{:?}", suite.suite());
                if suite.tls13().is_some() {
                    Some((0, suite))
                } else {
                    Some((place(&name)? + 1, suite))
                }
            })
            .collect();
        kept.sort_by_key(|(place, _)| *place);
        provider.cipher_suites = kept.into_iter().map(|(_, suite)| suite).collect();
    }
    if !tls.curves.is_empty() {
        let group = |name: &&str| -> &'static dyn SupportedKxGroup {
            match *name {
                "CurveP256" => ring::kx_group::SECP256R1,
                "CurveP384" => ring::kx_group::SECP384R1,
                _ => ring::kx_group::X25519,
            }
        };
        provider.kx_groups = tls.curves.iter().map(group).collect();
    }
    provider
}

/// A file that should hold certificates holds none.
#[derive(Debug, thiserror::Error)]
#[error("holds no certificate in PEM")]
struct NoCertificate;

/// Errs when there is none, or one that is no certificate.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, NoCertificate> {
    let all: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        _ => Err(NoCertificate),
    }
}

fn pem_bytes(at: &At<Secret>) -> Result<Vec<u8>, ConfigError> {
    match &at.value.0 {
        Source::File(path) => read_whole(path, PEM_BYTES_MAX)
            .map_err(|problem| at.place.bad(path.display(), format!("cannot be read: {problem}"))),
        Source::Inline(text) => Ok(text.clone().into_bytes()),
        Source::Env(_) | Source::Credential(_) => Ok(Vec::new()),
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Option<Stamp>> {
    let stamp = |path: &PathBuf| {
        let meta = std::fs::metadata(path).ok()?;
        let (modified, changed) = (meta.mtime_nsec(), meta.ctime_nsec());
        Some((meta.dev(), meta.ino(), meta.size(), meta.mtime(), modified, meta.ctime(), changed))
    };
    files.iter().map(stamp).collect()
}

/// Time between two looks whether anything has changed.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
const PEM_BYTES_MAX: u64 = 1024 * 1024;
