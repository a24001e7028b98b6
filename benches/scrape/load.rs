//! The client: so many kept connections, each asking again as soon as it has its answer.

use std::{net::SocketAddr, time::Duration};

use chroma_exporter::clock;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

pub(crate) struct Measured {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) requests_per_second: f64,
    pub(crate) body_bytes: usize,
}

/// Asks for `run` over `connections` connections.
pub(crate) async fn run(
    address: SocketAddr,
    connections: usize,
    gzip: bool,
    run: Duration,
) -> Measured {
    let encoding = if gzip { "Accept-Encoding: gzip\r\n" } else { "" };
    let request = format!("GET /metrics HTTP/1.1\r\nHost: localhost\r\n{encoding}\r\n");
    let mut tasks = JoinSet::new();
    for stream in connect(address, connections).await {
        tasks.spawn(ask(stream, request.clone(), run));
    }
    let began = clock::ticks();
    let (mut nanos, mut body_bytes) = (Vec::new(), 0);
    while let Some(done) = tasks.join_next().await {
        let (times, body) = done.unwrap();
        nanos.extend(times);
        body_bytes = body;
    }
    let seconds = began.elapsed().as_secs_f64();
    nanos.sort_unstable();
    let quantile = |per_cent: usize| f64::from(nanos[(nanos.len() - 1) * per_cent / 100]) / 1000.0;
    Measured {
        p50_us: quantile(50),
        p99_us: quantile(99),
        requests_per_second: nanos.len() as f64 / seconds,
        body_bytes,
    }
}

/// Connections that have been served once, so that the server has taken all of them.
pub(crate) async fn connect(address: SocketAddr, connections: usize) -> Vec<TcpStream> {
    let mut streams = Vec::new();
    for _ in 0..connections {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned();
        streams.push(ask_once(stream, &request).await);
    }
    streams
}

async fn ask_once(mut stream: TcpStream, request: &str) -> TcpStream {
    let mut buffer = Vec::with_capacity(256 * 1024);
    answer(&mut stream, request, &mut buffer).await;
    stream
}

async fn ask(mut stream: TcpStream, request: String, run: Duration) -> (Vec<u32>, usize) {
    let mut buffer = Vec::with_capacity(256 * 1024);
    let (mut nanos, mut body) = (Vec::new(), 0);
    let began = clock::ticks();
    let mut at = began;
    while at.since(began) < run {
        body = answer(&mut stream, &request, &mut buffer).await;
        let now = clock::ticks();
        nanos.push(u32::try_from(now.since(at).as_nanos()).unwrap_or(u32::MAX));
        at = now;
    }
    (nanos, body)
}

/// One request and its whole answer; gives the length of the body.
async fn answer(stream: &mut TcpStream, request: &str, buffer: &mut Vec<u8>) -> usize {
    stream.write_all(request.as_bytes()).await.unwrap();
    buffer.clear();
    let mut whole = None;
    loop {
        assert!(stream.read_buf(buffer).await.unwrap() > 0, "the server closed");
        if whole.is_none() {
            whole = length(buffer);
        }
        if let Some((head, body)) = whole
            && buffer.len() >= head + body
        {
            assert!(buffer.starts_with(b"HTTP/1.1 200 ") && buffer.len() == head + body);
            return body;
        }
    }
}

/// Bytes of the head and of the body, once the head is there.
fn length(bytes: &[u8]) -> Option<(usize, usize)> {
    let head = bytes.windows(4).take(2048).position(|window| window == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&bytes[..head]).unwrap().to_ascii_lowercase();
    let (_, rest) = text.split_once("content-length: ").unwrap();
    Some((head, rest.split("\r\n").next().unwrap().parse().unwrap()))
}
