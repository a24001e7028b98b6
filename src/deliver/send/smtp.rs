//! One message to one SMTP server over a connection of its own, in a bounded time. Addresses are judged before the connection is
//! made, what the server says is bounded, and nothing that it said in clear is taken for an answer under TLS.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use lettre::transport::smtp::{
    self,
    authentication::{Credentials, Mechanism},
    client::{AsyncSmtpConnection, AsyncTokioStream},
    commands::{Data, Mail, Rcpt},
    extension::ClientId,
};
use rustls_platform_verifier::Verifier;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};
use tracing::warn;

use super::{
    SendResult, TEXT_MAX,
    http::{NoReply, pem},
    secrets::{self, Redactor, Warned},
    system_words,
};
use crate::{
    alert::message::{Failure, Outcome},
    deliver::receivers::{
        Message,
        email::{self, Email, Encryption},
    },
};

/// A name or a route may take this long at most, even when the whole attempt may take longer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a server may take to say goodbye after it has taken the message.
const GOODBYE: Duration = Duration::from_secs(1);

/// Most bytes that a server may say in one attempt, and in one reply before TLS.
const SAID_BYTES_MAX: usize = 256 * 1024;
const REPLY_BYTES_MAX: usize = 8 * 1024;

/// Everything that one attempt needs, read a moment ago.
pub(super) struct Ready {
    tls: Option<(TlsConnector, ServerName<'static>)>,
    login: Option<Credentials>,
    redactor: Redactor,
}

/// Reads password and certificates. Blocks on files. Errs when one cannot be read.
pub(super) fn ready(email: &Email, warned: &Warned) -> Result<Ready, NoReply> {
    let mut redactor = Redactor::default();
    let login = match &email.login {
        None => None,
        Some((username, password)) => {
            let password = secrets::read(password, warned)?;
            redactor.hide(&password);
            // As `AUTH PLAIN` says it; the redactor knows the base64 of each.
            redactor.hide(&format!("\0{username}\0{password}"));
            Some(Credentials::new(username.clone(), password))
        }
    };
    let tls = match email.encryption {
        Encryption::None => None,
        Encryption::StartTls | Encryption::Tls => {
            let name = ServerName::try_from(email.host.clone()).map_err(|_| {
                NoReply::config("the server has a name that no certificate can have")
            })?;
            Some((connector(email)?, name))
        }
    };
    Ok(Ready { tls, login, redactor })
}

fn connector(email: &Email) -> Result<TlsConnector, NoReply> {
    crate::tls::install();
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let certificates = |path: &std::path::Path| {
        let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem(path)?).collect();
        match read {
            Ok(all) if !all.is_empty() => Ok(all),
            _ => {
                Err(NoReply::config(format!("{} is no PEM file with certificates", path.display())))
            }
        }
    };
    let roots = match &email.tls.ca_file {
        Some(path) => certificates(path)?,
        None => Vec::new(),
    };
    let bad = |error: tokio_rustls::rustls::Error| {
        NoReply::config(format!("TLS cannot be set up: {error}"))
    };
    let verifier = Verifier::new_with_extra_roots(roots, Arc::clone(&provider)).map_err(bad)?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(bad)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let config = match email.tls.identity() {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let what = || {
                let (cert, key) = (cert.display(), key.display());
                NoReply::config(format!("{cert} and {key} are no certificate with its key"))
            };
            let chain = certificates(cert)?;
            let key = PrivateKeyDer::from_pem_slice(&pem(key)?).map_err(|_| what())?;
            builder.with_client_auth_cert(chain, key).map_err(|_| what())?
        }
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

/// One attempt of at most `limit`. Errs when the server did not answer, or answered something else than SMTP.
pub(super) async fn send(
    email: &Email,
    ready: &Ready,
    message: &Message<'_>,
    limit: Duration,
) -> Result<SendResult, NoReply> {
    let mail = email.mail(message)?;
    let handed_over = AtomicBool::new(false);
    let attempt = async {
        let mut connection = open(email, ready, &message.notification.host).await?;
        let said = hand_over(email, ready, &mut connection, &mail, message, &handed_over).await;
        Ok((said, connection))
    };
    let (outcome, status, text) = match timeout(limit, attempt).await {
        Ok(Ok((said, mut connection))) => {
            if !connection.has_broken() {
                // It has said what it had to say.
                drop(timeout(GOODBYE, connection.quit()).await);
            }
            said.unwrap_or_else(|said| said)
        }
        Ok(Err(said)) => said,
        Err(_) => {
            let unclear = handed_over.load(Ordering::Relaxed);
            let outcome = Outcome::Retry { failure: Failure::Timeout, after: None, unclear };
            (outcome, None, "no answer came in time".to_owned())
        }
    };
    Ok((outcome, status, ready.redactor.clean(&text, TEXT_MAX)))
}

/// Not delivered, and it cannot have been.
fn failed(failure: Failure, text: impl Into<String>) -> SendResult {
    (Outcome::Retry { failure, after: None, unclear: false }, None, text.into())
}

/// A connection that is encrypted as it must be, after the greeting and, when there is a password, after it was accepted.
/// Errs when the server cannot be reached, offers no encryption, or does not take the password.
async fn open(email: &Email, ready: &Ready, host: &str) -> Result<AsyncSmtpConnection, SendResult> {
    let (mut stream, peer) = connect(email).await?;
    let name = hello(host);
    let hello = ClientId::Domain(name.clone());
    let stream: Box<dyn AsyncTokioStream> = match &ready.tls {
        None => Box::new(Bounded::new(stream, peer, b"")),
        Some((connector, server)) => {
            // After STARTTLS there is no second greeting.
            let mut greeting: &'static [u8] = b"";
            if email.encryption == Encryption::StartTls {
                start_tls(&mut stream, &name).await?;
                greeting = b"220 TLS\r\n";
            }
            let secured = connector.connect(server.clone(), stream).await;
            let secured = secured.map_err(|error| untrusted(&error))?;
            Box::new(Bounded::new(secured, peer, greeting))
        }
    };
    let connected = AsyncSmtpConnection::connect_with_transport(stream, &hello).await;
    let mut connection = connected.map_err(|error| judged(&error, false))?;
    if let Some(login) = &ready.login {
        let mechanisms = [Mechanism::Plain, Mechanism::Login];
        if connection.server_info().get_auth_mechanism(&mechanisms).is_none() {
            return Err(failed(
                Failure::Config,
                "the server takes no password (AUTH PLAIN or LOGIN)",
            ));
        }
        let accepted = connection.auth(&mechanisms, login).await;
        accepted.map_err(|error| judged(&error, false))?;
    }
    Ok(connection)
}

/// What this program calls itself. RFC 5321 wants a name or an address in brackets.
fn hello(host: &str) -> String {
    let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-');
    if !host.is_empty() && host.len() <= 253 && host.bytes().all(word) {
        host.to_owned()
    } else {
        "[127.0.0.1]".to_owned()
    }
}

async fn connect(email: &Email) -> Result<(TcpStream, SocketAddr), SendResult> {
    let found =
        timeout(CONNECT_TIMEOUT, tokio::net::lookup_host((email.host.as_str(), email.port)));
    let unknown = || failed(Failure::Connect, "the name of its host is not known");
    let found = found.await.map_err(|_| unknown())?.map_err(|_| unknown())?;
    let mut last = unknown();
    for peer in found {
        if let Err(rule) = email::address(peer.ip(), email.private_only()) {
            last = failed(Failure::Config, format!("the address of the server {rule}"));
            continue;
        }
        match timeout(CONNECT_TIMEOUT, TcpStream::connect(peer)).await {
            Ok(Ok(stream)) => return Ok((stream, peer)),
            Ok(Err(error)) => last = failed(Failure::Connect, in_words(&error)),
            Err(_) => last = failed(Failure::Connect, "no connection came about in time"),
        }
    }
    Err(last)
}

/// The exchange in clear. It reads no byte beyond a reply: what somebody slips in behind it would be taken for an answer later.
/// Errs when the server offers no STARTTLS, or breaks off.
async fn start_tls(stream: &mut TcpStream, name: &str) -> Result<(), SendResult> {
    good(reply(stream).await?)?;
    let offers = ask(stream, &format!("EHLO {name}\r\n")).await?;
    let offers_it =
        |line: &str| line.get(4..).is_some_and(|word| word.trim().eq_ignore_ascii_case("STARTTLS"));
    if !good(offers)?.lines().any(offers_it) {
        let text = "the server offers no STARTTLS: see whether encryption must be tls";
        return Err(failed(Failure::Config, text));
    }
    good(ask(stream, "STARTTLS\r\n").await?)?;
    Ok(())
}

async fn ask(stream: &mut TcpStream, command: &str) -> Result<(u16, String), SendResult> {
    let written = stream.write_all(command.as_bytes()).await;
    written.map_err(|error| failed(Failure::Broken, in_words(&error)))?;
    reply(stream).await
}

/// A whole reply, byte by byte, with its code. Errs when it is no SMTP, or breaks off.
async fn reply(stream: &mut TcpStream) -> Result<(u16, String), SendResult> {
    let no_smtp = || failed(Failure::Answer, "the answer is no SMTP");
    let mut bytes = Vec::new();
    let mut line = 0;
    loop {
        if bytes.len() >= REPLY_BYTES_MAX {
            return Err(no_smtp());
        }
        let byte = stream.read_u8().await;
        bytes.push(byte.map_err(|error| failed(Failure::Broken, in_words(&error)))?);
        if bytes.last() != Some(&b'\n') {
            continue;
        }
        let text = &bytes[line..];
        let code = text.first_chunk::<3>().and_then(|code| std::str::from_utf8(code).ok());
        let code: u16 = code.and_then(|code| code.parse().ok()).ok_or_else(no_smtp)?;
        match text.get(3) {
            Some(b'-') => line = bytes.len(),
            Some(b' ' | b'\r' | b'\n') => {
                return Ok((code, String::from_utf8_lossy(&bytes).into_owned()));
            }
            _ => return Err(no_smtp()),
        }
    }
}

/// The text of a reply that lets the exchange go on. Errs for any other.
fn good((code, text): (u16, String)) -> Result<String, SendResult> {
    match email::judge(code) {
        Outcome::Delivered => Ok(text),
        outcome => Err((outcome, Some(code), text)),
    }
}

/// The message itself. Recipients that are refused do not keep the others from it.
async fn hand_over(
    email: &Email,
    ready: &Ready,
    connection: &mut AsyncSmtpConnection,
    mail: &[u8],
    message: &Message<'_>,
    handed_over: &AtomicBool,
) -> Result<SendResult, SendResult> {
    let from = Mail::new(Some(email.sender().clone()), Vec::new());
    connection.command(from).await.map_err(|error| judged(&error, false))?;
    let mut refused: Vec<(String, SendResult)> = Vec::new();
    let mut taken = 0;
    for address in email.recipients() {
        match connection.command(Rcpt::new(address.clone(), Vec::new())).await {
            Ok(_) => taken += 1,
            Err(error) if error.status().is_some() => {
                refused.push((address.to_string(), judged(&error, false)));
            }
            Err(error) => return Err(judged(&error, false)),
        }
    }
    if taken == 0 {
        // One that may be taken later is tried later.
        let later = |(_, said): &(String, SendResult)| matches!(said.0, Outcome::Retry { .. });
        let at = refused.iter().position(later).unwrap_or(0);
        let none = failed(Failure::Config, "there is no recipient");
        return Err(refused.into_iter().nth(at).map_or(none, |(_, said)| said));
    }
    connection.command(Data).await.map_err(|error| judged(&error, false))?;
    handed_over.store(true, Ordering::Relaxed);
    let reply = connection.message(mail).await.map_err(|error| judged(&error, true))?;
    let code = u16::from(reply.code());
    let mut text = reply.message().collect::<Vec<_>>().join(" ");
    for (address, (_, code, why)) in refused {
        let why = format!("{} {why}", code.unwrap_or_default());
        let answer = ready.redactor.clean(&why, TEXT_MAX);
        warn!(
            receiver = message.receiver,
            recipient = address,
            answer,
            "A recipient of an e-mail was refused; the others have the message."
        );
        text = format!("{text}; refused for {address}: {why}");
    }
    Ok((email::judge(code), Some(code), text))
}

/// What an error of the conversation means.
fn judged(error: &smtp::Error, handed_over: bool) -> SendResult {
    use std::error::Error as _;
    let cause = error.source();
    let text = cause.map(ToString::to_string).unwrap_or_default();
    if let Some(code) = error.status() {
        let code = u16::from(code);
        return (email::judge(code), Some(code), text);
    }
    let system = cause.and_then(|cause| cause.downcast_ref::<io::Error>());
    let (failure, text) = match system {
        Some(error) if error.kind() == io::ErrorKind::InvalidData => (Failure::Answer, text),
        Some(error) => (Failure::Broken, in_words(error)),
        None if text == "incomplete response" => {
            (Failure::Broken, "the connection ended before an answer came".to_owned())
        }
        None => (Failure::Answer, "the answer is no SMTP".to_owned()),
    };
    (Outcome::Retry { failure, after: None, unclear: handed_over }, None, text)
}

fn untrusted(error: &io::Error) -> SendResult {
    let text = error.to_string();
    let text = if text.contains("invalid peer certificate") {
        format!("its certificate is not trusted: {text}")
    } else {
        in_words(error)
    };
    failed(Failure::Connect, text)
}

fn in_words(error: &io::Error) -> String {
    system_words(error.kind()).map_or_else(|| error.to_string(), str::to_owned)
}

/// A stream that gives so many bytes and no more, perhaps after some that the server need not say.
#[derive(Debug)]
struct Bounded<S> {
    stream: S,
    peer: SocketAddr,
    before: &'static [u8],
    left: usize,
}

impl<S> Bounded<S> {
    fn new(stream: S, peer: SocketAddr, before: &'static [u8]) -> Self {
        Self { stream, peer, before, left: SAID_BYTES_MAX }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.before.is_empty() {
            let (now, later) = self.before.split_at(self.before.len().min(buf.remaining()));
            buf.put_slice(now);
            self.before = later;
            return Poll::Ready(Ok(()));
        }
        let filled = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        let read = buf.filled().len() - filled;
        let Some(left) = self.left.checked_sub(read) else {
            let error = io::Error::new(io::ErrorKind::InvalidData, "the answer has no end");
            return Poll::Ready(Err(error));
        };
        self.left = left;
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S> AsyncTokioStream for Bounded<S>
where
    S: AsyncRead + AsyncWrite + Send + Sync + Unpin + std::fmt::Debug,
{
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer)
    }
}
