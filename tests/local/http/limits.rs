//! Clients that are slow, endless, hostile or too many.

use std::{io, sync::Arc, time::Duration};

use chroma_exporter::{config::Web, http::Limits};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{Client, Server, large_page, local, page, patient, request};
use crate::support::wait::{self, SOON};

/// Long enough for a client that does its part at once, even on a machine that stands still for a moment.
const MOMENT: Duration = Duration::from_secs(2);

#[tokio::test]
async fn half_a_header_is_cut_off_however_it_comes() {
    let limits = Limits { header: MOMENT, ..patient() };
    let server = Server::start(&local(), limits);
    // Silence from the beginning, half a header then silence, and the same after a first good request.
    let silent = server.connect().await;
    let mut half = server.connect().await;
    half.send("GET /metrics HTTP/1.1\r\nHost:").await;
    let mut later = server.connect().await;
    assert_eq!(later.get("/metrics").await.status, 200);
    later.send("GET /metrics HT").await;
    for client in [silent, half, later] {
        assert_eq!(client.closed().await, "");
    }
    // One byte at a time never ends, but the header has one deadline, not one per byte.
    let mut drip = server.connect().await;
    drip.send("GET /metrics HTTP/1.1\r\n").await;
    let dripping = async {
        while drip.stream.write_all(b"X: y\r\n").await.is_ok() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, dripping).await.expect("a client that drips is cut off");
    server.open_connections(0).await;
}

#[tokio::test]
async fn a_scraper_may_come_back_later_than_the_header_timeout() {
    let limits = Limits { header: MOMENT, ..patient() };
    let server = Server::start(&local(), limits);
    let mut client = server.connect().await;
    for _ in 0..2 {
        assert_eq!(client.get("/metrics").await.status, 200);
        sleep(MOMENT + Duration::from_millis(300)).await;
    }
    assert_eq!(client.get("/metrics").await.status, 200);
}

#[tokio::test]
async fn an_idle_connection_ends() {
    let limits = Limits { idle: MOMENT, ..patient() };
    let server = Server::start(&local(), limits);
    let mut client = server.connect().await;
    assert_eq!(client.get("/metrics").await.status, 200);
    assert_eq!(client.closed().await, "");
    server.open_connections(0).await;
}

#[tokio::test]
async fn a_header_without_end_is_refused() {
    let server = Server::start(&local(), patient());
    for request in [
        format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(64 * 1024)),
        format!("GET /{} HTTP/1.1\r\n\r\n", "y".repeat(64 * 1024)),
        format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(1000)),
    ] {
        let mut client = server.connect().await;
        // The server may close while we are still talking.
        drop(client.stream.write_all(request.as_bytes()).await);
        let answer = client.closed().await;
        assert!(
            answer.is_empty()
                || answer.starts_with("HTTP/1.1 431 ")
                || answer.starts_with("HTTP/1.1 414 "),
            "{answer}"
        );
    }
    let mut client = server.connect().await;
    client.send(format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(1000))).await;
    assert!(client.closed().await.starts_with("HTTP/1.1 431 "));
    server.open_connections(0).await;
    assert_eq!(server.ask(&request("GET", "/", "")).await.status, 200);
}

#[tokio::test]
async fn what_is_not_http_is_refused() {
    let server = Server::start(&local(), patient());
    for bytes in [
        &b"nonsense\r\n\r\n"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET  /  HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nBad Header: x\r\n\r\n",
        b"G\0T / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS client \r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut client = server.connect().await;
        client.send(bytes).await;
        let answer = client.closed().await;
        let shown = String::from_utf8_lossy(bytes);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{shown}: {answer}");
    }
    server.open_connections(0).await;
    assert_eq!(server.ask(&request("GET", "/", "")).await.status, 200);
}

#[tokio::test]
async fn bodies_are_not_waited_for() {
    let server = Server::start(&local(), patient());
    for headers in [
        "Content-Length: 1000000000\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Content-Length: 5\r\nExpect: 100-continue\r\n",
    ] {
        let mut client = server.connect().await;
        client.send(request("GET", "/metrics", headers)).await;
        let answer = client.answer(false).await.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (200, &b"plain\n"[..]), "{headers}");
        assert_eq!(client.closed().await, "", "the rest cannot be told from a next request");
    }
    let mut client = server.connect().await;
    client.send(request("POST", "/-/healthy", "Content-Length: 5\r\n") + "hello").await;
    assert_eq!(client.answer(false).await.unwrap().status, 405);
    assert_eq!(client.get("/metrics").await.status, 200, "a body that is there is skipped");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off_and_delays_nobody() {
    let limits = Limits { answer: MOMENT, ..patient() };
    let server = Server::start(&local(), limits);
    server.pages.send_replace(Arc::new(large_page()));
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut client = server.connect().await;
        client.send(request("GET", "/metrics", "")).await;
        slow.push(client);
    }
    assert_eq!(server.ask(&request("GET", "/-/healthy", "")).await.status, 200);
    server.open_connections(0).await;
    for client in slow {
        let got = client.closed().await;
        assert!(got.len() < 32 * 1024 * 1024, "it was cut off");
    }
}

#[tokio::test]
async fn a_page_that_changes_is_sent_to_its_end() {
    let server = Server::start(&local(), patient());
    server.pages.send_replace(Arc::new(large_page()));
    let mut client = server.connect().await;
    client.send(request("GET", "/metrics", "")).await;
    client.read_some().await.unwrap();
    server.pages.send_replace(Arc::new(page("new\n")));
    let answer = client.answer(false).await.unwrap();
    assert_eq!(answer.body.len(), 32 * 1024 * 1024);
    assert!(answer.body.iter().all(|byte| *byte == b'x'));
    assert_eq!(client.get("/metrics").await.body, b"new\n");
}

/// Both ends of hundreds of connections are in this process, and two such tests may run side by side: the usual limit of
/// 1024 descriptors is not enough for that.
fn want_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let enough = limit.maximum.map_or(8192, |maximum| maximum.min(8192));
    if limit.current.is_some_and(|current| current < enough) {
        let more = Rlimit { current: Some(enough), maximum: limit.maximum };
        setrlimit(Resource::Nofile, more).unwrap();
    }
}

#[tokio::test]
async fn connections_over_the_cap_are_told_and_the_others_go_on() {
    want_descriptors();
    let server = Server::start(&Web { max_connections: 4, ..local() }, patient());
    let mut inside = Vec::new();
    for _ in 0..4 {
        let mut client = server.connect().await;
        assert_eq!(client.get("/metrics").await.status, 200);
        inside.push(client);
    }
    let over = server.ask(&request("GET", "/metrics", "")).await;
    assert_eq!((over.status, over.header("connection")), (503, "close"));
    // A crowd: most are told, those that come too fast are cut off, nobody waits, nobody inside is hurt.
    let crowd: Vec<_> = (0..300)
        .map(|_| {
            let address = server.address;
            tokio::spawn(async move {
                let stream = TcpStream::connect(address).await?;
                let mut client = Client { stream, unread: Vec::new() };
                client.stream.write_all(request("GET", "/metrics", "").as_bytes()).await?;
                client.answer(false).await.map(|answer| answer.status)
            })
        })
        .collect();
    let mut reported = 0;
    for one in crowd {
        match one.await.unwrap() {
            Ok(status) => {
                assert_eq!(status, 503);
                reported += 1;
            }
            Err(error) => assert!(
                matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionReset
                        | io::ErrorKind::UnexpectedEof
                        | io::ErrorKind::BrokenPipe
                ),
                "{error}"
            ),
        }
    }
    assert!(reported > 0);
    assert_eq!(server.own.connections().get(), 4);
    for client in &mut inside {
        assert_eq!(client.get("/metrics").await.status, 200);
    }
    drop(inside.pop());
    server.open_connections(3).await;
    assert_eq!(server.ask(&request("GET", "/metrics", "")).await.status, 200);
}

#[tokio::test]
async fn pages_over_the_bound_are_turned_away_until_one_has_been_taken() {
    let server = Server::start(&Web { max_requests: 1, ..local() }, patient());
    let mut idle = server.connect().await;
    assert_eq!(idle.get("/metrics").await.status, 200);
    // One that does not take its answer keeps the only place; idle connections keep none.
    server.pages.send_replace(Arc::new(large_page()));
    let mut slow = server.connect().await;
    slow.send(request("GET", "/metrics", "")).await;
    slow.read_some().await.unwrap();
    let over = idle.get("/").await;
    assert_eq!((over.status, over.header("retry-after")), (503, "1"));
    // Whoever asks whether the program lives is always answered.
    assert_eq!(idle.get("/-/healthy").await.status, 200);
    drop(slow);
    wait::wait_within("the place to be free", SOON, async || {
        let answer = server.ask(&request("GET", "/api/v1/status", "")).await;
        if answer.status == 200 { Ok(()) } else { Err(answer.status.to_string()) }
    })
    .await;
    assert_eq!(idle.get("/").await.status, 200);
}

#[tokio::test]
async fn hundreds_of_connections_below_the_cap_are_all_served() {
    want_descriptors();
    let server = Server::start(&local(), patient());
    let mut clients = Vec::new();
    for _ in 0..300 {
        let mut client = server.connect().await;
        client.send(request("GET", "/metrics", "")).await;
        clients.push(client);
    }
    for client in &mut clients {
        assert_eq!(client.answer(false).await.unwrap().body, b"plain\n");
    }
    assert_eq!(server.own.connections().get(), 300);
    drop(clients);
    server.open_connections(0).await;
}
