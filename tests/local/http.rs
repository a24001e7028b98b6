//! The HTTP side over real sockets, byte by byte: well-behaved clients, slow ones, hostile ones, too many of them.

mod limits;

use std::{collections::BTreeMap, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use chroma_exporter::{
    clock::Timestamp,
    config::Web,
    http::{self, App, Limits, Listeners, NotReloaded, ReloadRequest},
    keys::ConfigError,
    metrics::{CONTENT_TYPE, Own, Page},
    publish::{Body, CONTENT_SECURITY_POLICY, Published},
    sample::Snapshot,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::support::wait::{self, SOON};

/// Longer than any test takes.
const NEVER: Duration = Duration::from_hours(1);

struct Server {
    address: SocketAddr,
    pages: watch::Sender<Arc<Published>>,
    reloads: mpsc::Receiver<ReloadRequest>,
    own: Own,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

fn body(text: &'static str) -> Body {
    Body { identity: text.into(), gzip: Bytes::from_static(b"zipped"), etag: "W/\"1a-7\"".into() }
}

fn page(text: &str) -> Published {
    Published {
        metrics: Page {
            identity: text.to_owned().into(),
            gzip: Bytes::from_static(b"zipped"),
            dropped_series: 0,
        },
        index: body("<html>"),
        status: body("{}"),
        snapshot: Arc::new(Snapshot { taken_at: Timestamp::from_secs(0), stores: Vec::new() }),
        ready: true,
    }
}

/// More than the kernel buffers between two sockets.
fn large_page() -> Published {
    page(&"x".repeat(32 * 1024 * 1024))
}

fn patient() -> Limits {
    Limits { header: NEVER, idle: NEVER, answer: NEVER, drain: NEVER }
}

fn local() -> Web {
    Web { listen_addresses: vec![SocketAddr::from(([127, 0, 0, 1], 0))], ..Web::default() }
}

impl Server {
    fn start(web: &Web, limits: Limits) -> Self {
        let listeners = Listeners::bind(web).unwrap();
        let address = listeners.local_addrs()[0];
        let own = Own::new(&web.telemetry_path, Timestamp::from_secs(0)).unwrap();
        let (pages, published) = watch::channel(Arc::new(page("plain\n")));
        let (reload, reloads) = mpsc::channel(1);
        let stop = CancellationToken::new();
        let app = App { pages: published, own: own.clone(), reload, secure: None };
        let (web, stopped) = (web.clone(), stop.clone());
        let task =
            tokio::spawn(async move { http::run(listeners, app, &web, limits, stopped).await });
        Self { address, pages, reloads, own, stop, task }
    }

    async fn connect(&self) -> Client {
        Client { stream: TcpStream::connect(self.address).await.unwrap(), unread: Vec::new() }
    }

    /// One request on a connection of its own.
    async fn ask(&self, request: &str) -> Answer {
        let mut client = self.connect().await;
        client.send(request).await;
        client.answer(request.starts_with("HEAD")).await.unwrap()
    }

    async fn open_connections(&self, want: i64) {
        let what = format!("{want} connections");
        wait::wait_within(&what, SOON, async || {
            let open = self.own.connections().get();
            if open == want { Ok(()) } else { Err(format!("{open}")) }
        })
        .await;
    }
}

async fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    let look = async || if ready() { Ok(()) } else { Err("not yet".to_owned()) };
    wait::wait_within(what, SOON, look).await;
}

struct Client {
    stream: TcpStream,
    unread: Vec<u8>,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

impl Client {
    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        timeout(SOON, self.stream.write_all(bytes.as_ref())).await.unwrap().unwrap();
    }

    async fn get(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        self.answer(false).await.unwrap()
    }

    /// Reads one answer, as long as its Content-Length says; nothing of a body when it is one to HEAD.
    async fn answer(&mut self, head: bool) -> io::Result<Answer> {
        let end = loop {
            if let Some(at) = self.unread.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            self.read_some().await?;
        };
        let text = String::from_utf8(self.unread[..end].to_vec()).unwrap();
        let mut lines = text.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: BTreeMap<String, String> = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect();
        let length = if head { 0 } else { headers["content-length"].parse().unwrap() };
        self.unread.drain(..end + 4);
        while self.unread.len() < length {
            self.read_some().await?;
        }
        let body = self.unread.drain(..length).collect();
        Ok(Answer { status, headers, body })
    }

    async fn read_some(&mut self) -> io::Result<()> {
        self.unread.reserve(64 * 1024);
        let reading = self.stream.read_buf(&mut self.unread);
        if timeout(SOON, reading).await.expect("an answer in time")? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    /// Waits until the server closes; gives what came before.
    async fn closed(mut self) -> String {
        while self.read_some().await.is_ok() {}
        String::from_utf8_lossy(&self.unread).into_owned()
    }
}

fn request(method: &str, path: &str, headers: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")
}

#[tokio::test]
async fn every_route_answers_as_the_table_says() {
    let mut server = Server::start(&local(), patient());
    for (method, path, status) in [
        ("GET", "/", 200),
        ("HEAD", "/", 200),
        ("GET", "/metrics", 200),
        ("GET", "/metrics?collect[]=disk&x=%00", 200),
        ("GET", "http://localhost:80/metrics", 200),
        ("HEAD", "/metrics", 200),
        ("GET", "/-/healthy", 200),
        ("GET", "/-/ready", 200),
        ("POST", "/", 405),
        ("POST", "/metrics", 405),
        ("DELETE", "/-/healthy", 405),
        ("OPTIONS", "/metrics", 405),
        ("BREW", "/metrics", 405),
        ("GET", "/-/reload", 405),
        ("HEAD", "/-/reload", 405),
        ("POST", "/-/reload", 403),
        ("PUT", "/-/reload", 403),
        ("GET", "/api/v1/status", 200),
        ("HEAD", "/api/v1/status?pretty", 200),
        ("PUT", "/api/v1/status", 405),
        ("GET", "/api/v1/status/", 404),
        ("GET", "/api/v1", 404),
        ("GET", "/api/v1/status/items", 400),
        ("GET", "/api/v1/status/items?store=a&code=nonsense", 400),
        ("GET", "/api/v1/status/items?store=a&code=hot_journal", 404),
        ("POST", "/api/v1/status/items?store=a&code=hot_journal", 405),
        ("GET", "/runbooks/", 200),
        ("HEAD", "/runbooks/hot_journal", 200),
        ("GET", "/runbooks/hot_journal.md", 200),
        ("POST", "/runbooks/hot_journal", 405),
        ("GET", "/runbooks/nothing", 404),
        ("GET", "/runbooks/../Cargo.toml", 404),
        ("GET", "/runbooks", 404),
        ("GET", "/metrics/", 404),
        ("GET", "/metric", 404),
        ("GET", "//metrics", 404),
        ("GET", "/../metrics", 404),
        ("GET", "/%6detrics", 404),
        ("GET", "/favicon.ico", 404),
        ("POST", "/nothing", 404),
        ("OPTIONS", "*", 404),
        ("CONNECT", "x:80", 421), // not a name of this machine
    ] {
        let answer = server.ask(&request(method, path, "")).await;
        assert_eq!(answer.status, status, "{method} {path}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{method} {path}");
        assert!(!answer.header("content-length").is_empty(), "{method} {path}");
        assert!(!answer.header("date").is_empty(), "{method} {path}");
        let allow = match (path, status) {
            ("/-/reload", 405) => "POST, PUT",
            (_, 405) => "GET, HEAD",
            _ => "",
        };
        assert_eq!(answer.header("allow"), allow, "{method} {path}");
    }
    assert!(server.reloads.try_recv().is_err(), "nobody asked for a reload that is switched off");

    for path in ["/", "/runbooks/", "/runbooks/hot_journal"] {
        let page = server.ask(&request("GET", path, "")).await;
        assert_eq!(page.header("content-security-policy"), *CONTENT_SECURITY_POLICY, "{path}");
        assert_eq!(page.header("content-type"), "text/html; charset=utf-8", "{path}");
        assert_eq!(page.header("referrer-policy"), "no-referrer", "{path}");
    }

    server.pages.send_replace(Arc::new(Published { ready: false, ..page("new\n") }));
    assert_eq!(server.ask(&request("GET", "/-/ready", "")).await.status, 503);
    assert_eq!(server.ask(&request("GET", "/metrics", "")).await.body, b"new\n");
}

#[tokio::test]
async fn another_telemetry_path_takes_the_place_of_the_usual_one() {
    for (path, index, metrics) in [("/probe", "<html>", 404), ("/", "plain\n", 404)] {
        let server = Server::start(&Web { telemetry_path: path.to_owned(), ..local() }, patient());
        assert_eq!(server.ask(&request("GET", path, "")).await.body, b"plain\n");
        assert_eq!(server.ask(&request("GET", "/", "")).await.body, index.as_bytes());
        assert_eq!(server.ask(&request("GET", "/metrics", "")).await.status, metrics);
    }
}

#[tokio::test]
async fn metrics_come_zipped_to_those_who_ask() {
    let server = Server::start(&local(), patient());
    for (accept, encoding, body) in [
        ("", "", "plain\n"),
        ("Accept-Encoding: gzip\r\n", "gzip", "zipped"),
        ("Accept-Encoding: br, gzip;q=0.8\r\n", "gzip", "zipped"),
        ("Accept-Encoding: br\r\nAccept-Encoding: gzip\r\n", "gzip", "zipped"),
        ("Accept-Encoding: gzip;q=0\r\n", "", "plain\n"),
        ("Accept-Encoding: identity;q=0\r\n", "", "plain\n"),
    ] {
        let get = server.ask(&request("GET", "/metrics", accept)).await;
        assert_eq!(get.header("content-encoding"), encoding, "{accept}");
        assert_eq!(get.header("content-type"), CONTENT_TYPE);
        assert_eq!(get.header("vary"), "Accept-Encoding");
        assert_eq!(get.body, body.as_bytes(), "{accept}");
        let mut head = server.ask(&request("HEAD", "/metrics", accept)).await;
        head.headers.insert("date".to_owned(), get.header("date").to_owned());
        assert_eq!(head.headers, get.headers, "HEAD is GET without the body");
    }
}

#[tokio::test]
async fn pages_for_people_come_zipped_and_only_when_they_are_news() {
    let server = Server::start(&local(), patient());
    for (path, plain, kind) in
        [("/", "<html>", "text/html; charset=utf-8"), ("/api/v1/status", "{}", "application/json")]
    {
        for (accept, body) in [("", plain), ("Accept-Encoding: gzip\r\n", "zipped")] {
            let get = server.ask(&request("GET", path, accept)).await;
            assert_eq!((get.status, &*get.body), (200, body.as_bytes()), "{path} {accept}");
            assert_eq!(get.header("etag"), "W/\"1a-7\"");
            assert_eq!(get.header("content-type"), kind);
            assert_eq!(get.header("vary"), "Accept-Encoding");
            assert_eq!(get.header("cache-control"), "no-cache");
        }
        let mut client = server.connect().await;
        for (tag, status) in [
            ("W/\"1a-7\"", 304),
            ("\"1a-7\"", 304),
            ("\"x\", W/\"1a-7\"", 304),
            ("*", 304),
            ("W/\"1a-6\"", 200),
        ] {
            for method in ["GET", "HEAD"] {
                client.send(request(method, path, &format!("If-None-Match: {tag}\r\n"))).await;
                let answer = client.answer(status == 304 || method == "HEAD").await.unwrap();
                assert_eq!(answer.status, status, "{path} {tag}");
                assert_eq!(answer.header("etag"), "W/\"1a-7\"");
            }
        }
        assert_eq!(client.get(path).await.body, plain.as_bytes(), "nothing stood between");
    }
}

#[tokio::test]
async fn a_head_has_no_body_and_the_connection_goes_on() {
    let server = Server::start(&local(), patient());
    let mut client = server.connect().await;
    client.send(request("HEAD", "/metrics", "")).await;
    let head = client.answer(true).await.unwrap();
    assert_eq!(head.header("content-length"), "6");
    assert_eq!(client.get("/metrics").await.body, b"plain\n", "nothing stood between");
}

#[tokio::test]
async fn requests_are_counted_by_path_and_code() {
    let server = Server::start(&local(), patient());
    for path in ["/metrics", "/metrics", "/a", "/b"] {
        server.ask(&request("GET", path, "")).await;
    }
    server.ask(&request("POST", "/metrics", "")).await;
    let snapshot = Arc::new(chroma_exporter::sample::Snapshot {
        taken_at: Timestamp::from_secs(0),
        stores: Vec::new(),
    });
    let facts = chroma_exporter::metrics::Facts::default();
    let page = chroma_exporter::metrics::encode(&snapshot, &server.own, &facts, 1000).unwrap();
    let text = String::from_utf8(page.identity.to_vec()).unwrap();
    for line in [
        "chroma_exporter_http_requests_total{code=\"200\",path=\"/metrics\"} 2",
        "chroma_exporter_http_requests_total{code=\"405\",path=\"/metrics\"} 1",
        "chroma_exporter_http_requests_total{code=\"404\",path=\"other\"} 2",
        "chroma_exporter_http_requests_total{code=\"503\",path=\"/-/ready\"} 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    }
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = Server::start(&local(), patient());
    let mut client = server.connect().await;
    let one = |path: &str| request("GET", path, "");
    client.send([one("/metrics"), one("/nothing"), one("/-/healthy")].concat().repeat(20)).await;
    for _ in 0..20 {
        for status in [200, 404, 200] {
            assert_eq!(client.answer(false).await.unwrap().status, status);
        }
    }
    assert_eq!(client.get("/metrics").await.status, 200);
}

#[tokio::test]
async fn old_clients_get_one_answer_or_more_when_they_ask() {
    let server = Server::start(&local(), patient());
    let mut old = server.connect().await;
    old.send("GET /metrics HTTP/1.0\r\n\r\n").await;
    let answer = old.closed().await;
    assert!(
        answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.ends_with("\r\n\r\nplain\n"),
        "{answer}"
    );
    let mut kept = server.connect().await;
    for _ in 0..2 {
        kept.send("GET /metrics HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").await;
        assert_eq!(kept.answer(false).await.unwrap().body, b"plain\n");
    }
    let mut last = server.connect().await;
    last.send(request("GET", "/metrics", "Connection: close\r\n")).await;
    assert!(last.closed().await.ends_with("plain\n"));
}

#[tokio::test]
async fn a_page_that_gives_its_name_our_address_reads_nothing() {
    let web = Web { allowed_hosts: vec!["x".to_owned()], ..local() };
    let server = Server::start(&web, patient());
    let port = server.address.port();
    for path in ["/", "/metrics", "/api/v1/status", "/runbooks/", "/-/reload"] {
        for (host, status) in [
            (format!("Host: evil.example:{port}\r\n"), 421),
            ("Host: localhost\r\nHost: evil.example\r\n".to_owned(), 400),
            (String::new(), 400),
        ] {
            let answer = server.ask(&format!("GET {path} HTTP/1.1\r\n{host}\r\n")).await;
            assert_eq!(answer.status, status, "{path} {host}");
        }
        let proxied = format!("GET http://evil.example{path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        assert_eq!(server.ask(&proxied).await.status, 421, "{path}");
    }
    for host in [format!("127.0.0.1:{port}"), format!("localhost:{port}"), "X".to_owned()] {
        let answer = server.ask(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(answer.status, 200, "{host}");
    }
}

#[tokio::test]
async fn a_drain_finishes_what_is_under_way_and_nothing_else() {
    let mut server = Server::start(&local(), patient());
    let mut idle = server.connect().await;
    assert_eq!(idle.get("/metrics").await.status, 200);
    let fresh = server.connect().await;
    server.pages.send_replace(Arc::new(large_page()));
    let mut reading = server.connect().await;
    reading.send(request("GET", "/metrics", "")).await;
    reading.read_some().await.unwrap();
    server.open_connections(3).await;

    server.stop.cancel();
    assert_eq!(idle.closed().await, "");
    assert_eq!(fresh.closed().await, "");
    wait_for("the listener to close", || {
        std::net::TcpStream::connect_timeout(&server.address, SOON).is_err()
    })
    .await;
    assert!(!server.task.is_finished(), "an answer is still under way");
    let answer = reading.answer(false).await.unwrap();
    assert_eq!(answer.body.len(), 32 * 1024 * 1024, "the whole answer, after the stop");
    assert_eq!(reading.closed().await, "", "and no more requests");
    timeout(SOON, &mut server.task).await.expect("the server ends").unwrap();
}

#[tokio::test]
async fn a_drain_does_not_wait_for_those_who_do_not_move() {
    let limits = Limits { drain: Duration::from_millis(300), ..patient() };
    let mut server = Server::start(&local(), limits);
    server.pages.send_replace(Arc::new(large_page()));
    let mut stuck = server.connect().await;
    stuck.send(request("GET", "/metrics", "")).await;
    stuck.read_some().await.unwrap();
    let mut half = server.connect().await;
    half.send("GET /metrics HTTP/1.1\r\nHo").await;
    server.open_connections(2).await;
    server.stop.cancel();
    timeout(SOON, &mut server.task).await.expect("the server ends").unwrap();
    assert_eq!(server.own.connections().get(), 0);
    assert!(stuck.closed().await.len() < 32 * 1024 * 1024);
    assert_eq!(half.closed().await, "");
}

#[tokio::test]
async fn a_reload_answers_with_how_it_went() {
    let mut server = Server::start(&Web { enable_lifecycle: true, ..local() }, patient());
    for (method, result, status, body) in [
        ("POST", Ok(()), 200, "Configuration reloaded.\n"),
        (
            "PUT",
            Err(NotReloaded::Problems(vec![ConfigError {
                file: Some("a.yml".into()),
                line: Some(3),
                field: "x".to_owned(),
                value: Some("1".to_owned()),
                rule: "no".to_owned(),
            }])),
            500,
            "Configuration not reloaded, the one before stays in force:\na.yml:3: x = 1: no\n",
        ),
    ] {
        let mut client = server.connect().await;
        client.send(request(method, "/-/reload", "Content-Length: 0\r\n")).await;
        let wish = timeout(SOON, server.reloads.recv()).await.unwrap().unwrap();
        assert_eq!(server.ask(&request("GET", "/metrics", "")).await.status, 200, "meanwhile");
        wish.answer.send(result).unwrap();
        let answer = client.answer(false).await.unwrap();
        assert_eq!((answer.status, &*String::from_utf8_lossy(&answer.body)), (status, body));
    }
    // Another one is waiting already; nobody queues behind it.
    let mut first = server.connect().await;
    first.send(request("POST", "/-/reload", "")).await;
    wait_for("the wish to stand in the queue", || server.reloads.len() == 1).await;
    assert_eq!(server.ask(&request("POST", "/-/reload", "")).await.status, 503);
    // Whoever should have answered is gone.
    drop(server.reloads.recv().await);
    assert_eq!(first.answer(false).await.unwrap().status, 503);
    assert_eq!(server.ask(&request("GET", "/-/reload", "")).await.status, 405);
    let from_a_page = server.ask(&request("POST", "/-/reload", "Origin: http://evil\r\n")).await;
    assert_eq!(from_a_page.status, 403);
    server.reloads.close();
    assert_eq!(server.ask(&request("POST", "/-/reload", "")).await.status, 503);
}

#[tokio::test]
async fn several_addresses_of_both_families_are_listened_on() {
    let listen = |texts: &[&str]| Web {
        listen_addresses: texts.iter().map(|text| text.parse().unwrap()).collect(),
        ..Web::default()
    };
    let bound = Listeners::bind(&listen(&["127.0.0.1:0", "127.0.0.2:0"])).unwrap();
    let [one, two] = bound.local_addrs()[..] else { panic!("{bound:?}") };
    assert!(one.port() != 0 && two.port() != 0 && one.ip() != two.ip());

    let taken = Listeners::bind(&listen(&[&one.to_string()])).unwrap_err();
    assert_eq!(taken.to_string(), format!("cannot listen on {one}"));
    assert!(taken.hint().contains("another program"), "{}", taken.hint());
    let strange = Listeners::bind(&listen(&["192.0.2.1:0"])).unwrap_err();
    assert!(strange.hint().contains("not one of this host"), "{strange:?}");
    drop(bound);

    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("this host has no IPv6; the rest is not tested");
        return;
    }
    let free = Listeners::bind(&listen(&["[::]:0"])).unwrap().local_addrs()[0].port();
    let both = listen(&[&format!("0.0.0.0:{free}"), &format!("[::]:{free}")]);
    let server = Server::start(&both, patient());
    for address in [format!("127.0.0.1:{free}"), format!("[::1]:{free}")] {
        let mut client = Client {
            stream: TcpStream::connect(address.as_str()).await.unwrap(),
            unread: Vec::new(),
        };
        assert_eq!(client.get("/metrics").await.status, 200, "{address}");
    }
    server.stop.cancel();
    timeout(SOON, server.task).await.expect("the server ends").unwrap();
    // Alone, the wildcard of IPv6 takes both, as operators expect of it.
    let server = Server::start(&listen(&["[::]:0"]), patient());
    let address = SocketAddr::from(([127, 0, 0, 1], server.address.port()));
    let mut client =
        Client { stream: TcpStream::connect(address).await.unwrap(), unread: Vec::new() };
    assert_eq!(client.get("/metrics").await.status, 200);
}
