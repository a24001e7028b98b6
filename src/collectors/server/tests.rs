//! Against a loopback server that behaves as it is told.
#![expect(clippy::float_cmp, reason = "flags, statuses and counts are exact")]

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use super::*;
use crate::{
    config::{Config, Store},
    findings::Severity,
    host::Host,
    sample::Sample,
};

/// Answers each request with what `act` gives for its head, on one thread; ends when dropped.
struct Fake {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Fake {
    fn new(act: impl Fn(&str) -> Option<Vec<u8>> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (heads, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (seen, ended) = (Arc::clone(&heads), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut kept = Vec::new();
            while let Ok((mut stream, _)) = listener.accept() {
                if ended.load(Ordering::Relaxed) {
                    break;
                }
                let head = head(&mut stream);
                // Before the answer: whoever has it may look at once.
                seen.lock().unwrap().push(head.clone());
                match act(&head) {
                    Some(answer) => drop(stream.write_all(&answer)),
                    None => kept.push(stream), // never answered
                }
            }
        });
        Self { address, heads, stop, thread: Some(thread) }
    }

    /// Answers by path; what is not named is 404.
    fn of(answers: &[(&'static str, u16, &'static str)]) -> Self {
        let answers: BTreeMap<_, _> =
            answers.iter().map(|(path, status, body)| (*path, (*status, *body))).collect();
        Self::new(move |head| {
            let path = head.split(' ').nth(1).unwrap_or_default();
            let (status, body) =
                answers.get(path).copied().unwrap_or((404, "{\"detail\":\"Not Found\"}"));
            Some(answer(status, body))
        })
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn paths(&self) -> Vec<String> {
        let heads = self.heads.lock().unwrap();
        heads.iter().map(|head| head.split(' ').nth(1).unwrap_or_default().to_owned()).collect()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn head(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        bytes.push(byte[0]);
    }
    String::from_utf8(bytes).unwrap()
}

fn answer(status: u16, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nLocation: http://192.0.2.1/\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn server(probe: Option<ServerProbe>) -> Server {
    let config = Arc::new(Config::default());
    let store = Arc::new(Store { server: probe, ..Store::new("main", "/srv/chroma") });
    Server::new(&Context::new(&config, &store, &Arc::new(Host::read_only(&config))))
}

fn at(url: String) -> ServerProbe {
    ServerProbe { timeout: Duration::from_secs(30), ..ServerProbe::at(url) }
}

fn run(server: &mut Server, at: i64) -> Observation {
    let (now, stop) = (Timestamp::from_secs(at), Arc::default());
    server.collect(&Run { now, wake: Wake::NONE, deep: false, stop })
}

fn read(observation: &Observation) -> BTreeMap<String, f64> {
    let name = |s: &Sample| format!("{} {}", s.desc.name, s.values.join(","));
    observation.samples.iter().map(|s| (name(s).trim().to_owned(), s.value)).collect()
}

fn codes(observation: &Observation) -> Vec<Code> {
    observation.findings.iter().map(|finding| finding.code).collect()
}

const ALIVE: &str = "{\"nanosecond heartbeat\":1795469866979980235}";
const V2: [(&str, u16, &str); 4] = [
    ("/api/v2/heartbeat", 200, ALIVE),
    ("/api/v2/version", 200, "\"1.0.0\""),
    ("/api/v2/tenants/default_tenant", 200, "{\"name\":\"default_tenant\"}"),
    ("/api/v2/tenants/default_tenant/databases/default_database/collections_count", 200, "7"),
];

#[test]
fn a_healthy_server_is_measured_and_its_version_asked_now_and_then() {
    let fake = Fake::of(&V2);
    let mut server = server(Some(at(fake.url())));
    for (now, questions) in [(0, 4), (30, 3), (600, 4)] {
        let before = fake.paths().len();
        let seen = run(&mut server, now);
        assert!(seen.findings.is_empty() && seen.problems.is_empty(), "{seen:?}");
        let got = read(&seen);
        for (name, want) in [
            ("chroma_server_up", 1.0),
            ("chroma_server_info 1.0.0,v2", 1.0),
            ("chroma_server_collections", 7.0),
            ("chroma_server_probe_success read", 1.0),
            ("chroma_server_probe_status tenant", 200.0),
        ] {
            assert_eq!(got[name], want, "{name}");
        }
        assert!(got["chroma_server_probe_duration_seconds heartbeat"] < 30.0);
        assert_eq!(fake.paths().len() - before, questions, "at {now}: {:?}", fake.paths());
    }
    assert_eq!(server.codes(), CODES);
}

#[test]
fn a_server_without_the_newer_api_is_asked_by_the_older() {
    let fake = Fake::of(&[
        ("/api/v1/heartbeat", 200, ALIVE),
        ("/api/v1/version", 200, "\"0.4.24\""),
        ("/api/v1/tenants/default_tenant", 200, "{}"),
        ("/api/v1/count_collections", 200, "3"),
    ]);
    let mut server = server(Some(at(fake.url())));
    let seen = run(&mut server, 0);
    assert!(seen.findings.is_empty() && seen.problems.is_empty(), "{seen:?}");
    assert_eq!(read(&seen)["chroma_server_info 0.4.24,v1"], 1.0);
    let before = fake.paths().len();
    run(&mut server, 30);
    assert_eq!(fake.paths()[before], "/api/v1/heartbeat", "it is remembered");
}

#[test]
fn a_heartbeat_does_not_hide_that_reads_fail() {
    let mut answers = V2;
    answers[3] = (
        answers[3].0,
        500,
        "{\"error\":\"InternalError\",\"message\":\"Internal error in getting count\"}",
    );
    let fake = Fake::of(&answers);
    let seen = run(&mut server(Some(at(fake.url()))), 0);
    assert_eq!(codes(&seen), [Code::ServerFailing]);
    let got = read(&seen);
    assert_eq!((got["chroma_server_up"], got["chroma_server_probe_status read"]), (1.0, 500.0));
    assert!(!got.contains_key("chroma_server_collections"));
}

#[test]
fn an_address_where_nobody_listens_is_said_and_one_that_hangs_too() {
    // A port that the kernel gives to clients could be somebody's, even our own.
    let seen = run(&mut server(Some(at("http://127.0.0.1:1".to_owned()))), 0);
    assert_eq!(codes(&seen), [Code::ServerUnreachable]);
    assert!(seen.findings[0].evidence.contains("refused"), "{seen:?}");
    assert_eq!(read(&seen)["chroma_server_up"], 0.0);
    assert!(!read(&seen).contains_key("chroma_server_probe_status heartbeat"));

    let fake = Fake::new(|_| None);
    let probe = ServerProbe { timeout: Duration::from_millis(300), ..ServerProbe::at(fake.url()) };
    let seen = run(&mut server(Some(probe)), 0);
    assert_eq!(codes(&seen), [Code::ServerUnreachable]);
    assert!(seen.findings[0].evidence.ends_with("no answer in time"), "{seen:?}");
}

#[test]
fn a_server_that_is_away_for_a_moment_is_asked_again() {
    let first = AtomicBool::new(true);
    let fake = Fake::new(move |head| {
        if first.swap(false, Ordering::Relaxed) {
            return Some(answer(503, "starting"));
        }
        let found = V2.iter().find(|(path, ..)| head.starts_with(&format!("GET {path} ")));
        found.map(|(_, status, body)| answer(*status, body))
    });
    let seen = run(&mut server(Some(at(fake.url()))), 0);
    assert!(seen.findings.is_empty() && seen.problems.is_empty(), "{seen:?}");
}

#[test]
fn whatever_answers_neither_redirects_us_nor_floods_us() {
    for bytes in [
        answer(302, ""),
        answer(200, "<html>"),
        answer(401, "{}"),
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
            .iter()
            .copied()
            .chain(vec![b'x'; 10_000_000])
            .collect(),
    ] {
        let fake = Fake::new(move |_| Some(bytes.clone()));
        let seen = run(&mut server(Some(at(fake.url()))), 0);
        assert_eq!((codes(&seen), seen.problems.len()), (vec![], 1), "{seen:?}");
        assert!(!seen.judged.contains(&Code::ServerFailing));
        assert!(!read(&seen).contains_key("chroma_server_up"));
    }
    for bytes in [&b"SSH-2.0-x\r\n"[..], b"\x00\xff\xfe", b""] {
        let fake = Fake::new(move |_| Some(bytes.to_vec()));
        let seen = run(&mut server(Some(at(fake.url()))), 0);
        assert_eq!(codes(&seen), [Code::ServerUnreachable], "{bytes:?}");
    }
}

#[test]
fn credentials_go_with_each_request_and_into_no_word_of_ours() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("headers");
    std::fs::write(&file, "X-Chroma-Token: geheim\n").unwrap();
    let fake = Fake::of(&V2);
    let probe = ServerProbe { headers_file: Some(file.clone()), ..at(fake.url()) };
    let mut asked = server(Some(probe));
    let seen = run(&mut asked, 0);
    assert!(seen.problems.is_empty(), "{seen:?}");
    let heads = fake.heads.lock().unwrap().clone();
    assert!(heads.iter().all(|head| head.contains("x-chroma-token: geheim\r\n")), "{heads:?}");
    assert!(!format!("{seen:?} {asked:?}").contains("geheim"));

    std::fs::write(&file, "geheim\n").unwrap();
    let seen = run(&mut asked, 30);
    assert!(
        seen.findings.is_empty() && seen.problems[0].to_string().contains("NAME: VALUE"),
        "{seen:?}"
    );
    assert!(!format!("{seen:?}").contains("geheim"));
}

#[test]
fn a_store_whose_server_is_not_given_asks_nobody() {
    let mut none = server(None);
    let seen = run(&mut none, 0);
    assert!(seen.samples.is_empty() && seen.problems.is_empty() && none.codes().is_empty());
}

/// A server on the fixture `base`, which counts so many collections.
fn counts(base: &str, count: &'static str) -> (Fake, Server) {
    let fake = Fake::of(&[
        ("/api/v2/heartbeat", 200, "{\"nanosecond heartbeat\":1}"),
        ("/api/v2/version", 200, "\"1.0.0\""),
        ("/api/v2/tenants/default_tenant", 200, "{}"),
        ("/api/v2/tenants/default_tenant/databases/default_database/collections_count", 200, count),
    ]);
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(base);
    let config = Arc::new(Config::default());
    let store = Arc::new(Store { server: Some(at(fake.url())), ..Store::new("main", path) });
    let server = Server::new(&Context::new(&config, &store, &Arc::new(Host::read_only(&config))));
    (fake, server)
}

#[test]
fn a_server_that_lists_other_collections_serves_another_directory() {
    for (base, count, want) in [
        ("chroma-1.5.9", "0", Some(Severity::Critical)),
        ("chroma-1.5.9", "3", Some(Severity::Warning)),
        ("chroma-1.5.9", "2", None),
        ("chroma-1.5.9-empty", "0", None),
        ("chroma-0.4.24", "0", Some(Severity::Critical)),
        ("none", "0", None),
    ] {
        let (fake, mut server) = counts(base, count);
        let seen = run(&mut server, 0);
        let said: Vec<_> = seen.findings.iter().map(|f| (f.code, f.severity)).collect();
        let want: Vec<_> =
            want.map(|severity| (Code::ServerElsewhere, severity)).into_iter().collect();
        assert_eq!(said, want, "{base} {count}");
        assert!(seen.problems.is_empty(), "{base}: {:?}", seen.problems);
        if let Some(finding) = seen.findings.first() {
            let words = format!("the server at {} has {count} collections", fake.url());
            assert!(finding.evidence.contains(&words), "{}", finding.evidence);
            assert!(finding.evidence.contains("the directory has 2"), "{}", finding.evidence);
        }
    }
}

#[test]
fn a_server_that_does_not_answer_is_asked_again_soon() {
    let down = Arc::new(AtomicBool::new(false));
    let now_down = Arc::clone(&down);
    let fake = Fake::new(move |_| {
        Some(if now_down.load(Ordering::Relaxed) { Vec::new() } else { answer(200, ALIVE) })
    });
    let mut usual = server(Some(at(fake.url())));
    let mut often =
        server(Some(ServerProbe { interval: Duration::from_secs(1), ..at(fake.url()) }));
    for (is_down, want) in [(false, 30), (true, 5), (true, 5), (false, 30)] {
        down.store(is_down, Ordering::Relaxed);
        assert_eq!(codes(&run(&mut usual, 0)) == [Code::ServerUnreachable], is_down);
        assert_eq!(usual.pace().interval, Duration::from_secs(want));
        run(&mut often, 0);
        assert_eq!(often.pace().interval, Duration::from_secs(1));
    }
}

#[test]
fn what_was_said_of_the_directory_stays_until_it_can_be_compared_again() {
    let (fake, mut server) = counts("chroma-1.5.9", "0");
    assert_eq!(codes(&run(&mut server, 0)), [Code::ServerElsewhere]);
    // The database cannot be asked.
    let database = server.context.database.clone();
    server.context.database = Arc::new(crate::store::database::Database::new("/none".into()));
    assert_eq!(codes(&run(&mut server, 1)), [Code::ServerElsewhere]);
    server.context.database = database;
    drop(fake);
    assert_eq!(codes(&run(&mut server, 2)), [Code::ServerUnreachable]);
}

#[test]
fn collections_of_other_tenants_are_compared_too() {
    const AT: &str = "/api/v2/tenants/t%20one/databases/d%2Fx/collections_count";
    for (status, count, want) in [
        (200, "1", None),
        (200, "0", Some(Severity::Critical)),
        (200, "2", Some(Severity::Warning)),
        // It may not be asked.
        (403, "{}", None),
        (404, "{\"detail\":\"Not Found\"}", None),
    ] {
        let fake = Fake::of(&[
            ("/api/v2/heartbeat", 200, "{\"nanosecond heartbeat\":1}"),
            ("/api/v2/version", 200, "\"1.0.0\""),
            ("/api/v2/tenants/default_tenant", 200, "{}"),
            (
                "/api/v2/tenants/default_tenant/databases/default_database/collections_count",
                200,
                "1",
            ),
            (AT, status, count),
        ]);
        let dir = tempfile::tempdir().unwrap();
        crate::collectors::testing::copy_fixture("chroma-1.5.9", dir.path());
        rusqlite::Connection::open(dir.path().join("chroma.sqlite3"))
            .unwrap()
            .execute_batch(
                "INSERT INTO tenants(id) VALUES('t one');
                 INSERT INTO databases(id, name, tenant_id) VALUES('1', 'd/x', 't one');
                 UPDATE collections SET database_id='1' WHERE name='notes';",
            )
            .unwrap();
        let config = Arc::new(Config::default());
        let store =
            Arc::new(Store { server: Some(at(fake.url())), ..Store::new("main", dir.path()) });
        let host = Arc::new(Host::read_only(&config));
        let mut server = Server::new(&Context::new(&config, &store, &host));
        let seen = run(&mut server, 0);
        let said: Vec<_> = seen.findings.iter().map(|f| (f.code, f.severity)).collect();
        let want: Vec<_> =
            want.map(|severity| (Code::ServerElsewhere, severity)).into_iter().collect();
        assert_eq!(said, want, "{status} {count}: {:?}", seen.problems);
        if let Some(finding) = seen.findings.first() {
            let words = format!(
                "has {count} collections in the database \"d/x\" of \"t one\", the directory has 1"
            );
            assert!(finding.evidence.contains(&words), "{}", finding.evidence);
        }
        let asked = |seen: &Fake| {
            seen.heads.lock().unwrap().iter().filter(|head| head.contains("t%20one")).count()
        };
        let before = asked(&fake);
        assert!(before > 0, "it is asked");
        run(&mut server, 30);
        let again = asked(&fake) > before;
        assert_eq!(again, !said.is_empty(), "only a difference is looked at in each turn");
    }
}
