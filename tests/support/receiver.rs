//! A receiver on loopback that answers as it is told, byte by byte, and remembers what it was sent.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

/// What it does with a request.
#[derive(Debug, Clone)]
pub enum Answer {
    /// These bytes, then the end of the connection.
    Bytes(Vec<u8>),
    /// The head and these bytes in pieces of one byte, a pause after each.
    Slow(Vec<u8>, Duration),
    /// Nothing, for ever.
    Hang,
    /// The connection is reset after the request was read.
    Reset,
    /// A head that promises more than `u64` bytes will ever come, and so many of them.
    Endless(usize),
    /// A good answer that leaves the connection open for the next request.
    KeepAlive,
}

/// A complete answer.
pub fn says(status: &str, headers: &str, body: &str) -> Answer {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
    Answer::Bytes(format!("{head}{body}").into_bytes())
}

/// One request as it arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    pub head: String,
    pub body: String,
    /// Which connection it came over, from 0.
    pub connection: usize,
}

pub struct Receiver {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Receiver {
    /// Answers the requests in turn; the last answer is given for ever.
    pub async fn start(answers: Vec<Answer>) -> Self {
        Self::with(answers, None).await
    }

    /// The same over TLS.
    pub async fn start_tls(answers: Vec<Answer>, config: ServerConfig) -> Self {
        Self::with(answers, Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn with(answers: Vec<Answer>, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let all = Arc::clone(&seen);
        tokio::spawn(async move {
            for connection in 0.. {
                let Ok((stream, _)) = listener.accept().await else { return };
                let (seen, answers, tls) = (Arc::clone(&all), answers.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, connection, &seen, &answers, reset).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, connection, &seen, &answers, |_| ()).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, seen }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }
}

#[allow(deprecated, reason = "a reset is what the test is about")]
fn reset(stream: &TcpStream) {
    stream.set_linger(Some(Duration::ZERO)).unwrap();
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    connection: usize,
    seen: &Mutex<Vec<Seen>>,
    answers: &[Answer],
    reset: impl FnOnce(&S),
) {
    loop {
        let Some(request) = request(&mut stream, connection).await else { return };
        let answer = {
            let mut seen = seen.lock().unwrap();
            let answer = answers[seen.len().min(answers.len() - 1)].clone();
            seen.push(request);
            answer
        };
        match answer {
            Answer::KeepAlive => {
                let good = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                drop(stream.write_all(good).await);
                continue;
            }
            Answer::Bytes(bytes) => {
                drop(stream.write_all(&bytes).await);
                drop(stream.shutdown().await);
            }
            Answer::Slow(bytes, pause) => {
                for byte in bytes {
                    if stream.write_all(&[byte]).await.is_err() {
                        return;
                    }
                    drop(stream.flush().await);
                    tokio::time::sleep(pause).await;
                }
            }
            Answer::Endless(size) => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", u64::MAX / 4);
                drop(stream.write_all(head.as_bytes()).await);
                let chunk = vec![b'x'; 64 * 1024];
                for _ in 0..size.div_ceil(chunk.len()) {
                    if stream.write_all(&chunk).await.is_err() {
                        return;
                    }
                }
            }
            Answer::Hang => std::future::pending::<()>().await,
            Answer::Reset => reset(&stream),
        }
        return;
    }
}

/// Reads one request; `None` when the client went away.
async fn request<S: AsyncRead + Unpin>(stream: &mut S, connection: usize) -> Option<Seen> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        let mut chunk = [0; 4096];
        let count = stream.read(&mut chunk).await.ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&chunk[..count]);
    };
    let head = String::from_utf8(bytes[..end].to_vec()).ok()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
    });
    let mut body = bytes.split_off(end);
    let mut rest = vec![0; length.unwrap_or(0_usize).saturating_sub(body.len())];
    stream.read_exact(&mut rest).await.ok()?;
    body.extend(rest);
    Some(Seen { head, body: String::from_utf8(body).ok()?, connection })
}
