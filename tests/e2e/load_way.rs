//! What `load` does about what happens between it and a server of real Chroma: a proxy in front of it loses requests and answers, and says
//! that it has no time.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use serde_json::{Value, json};

use crate::{
    load::{Stand, load_to, many, report, values},
    support::{SOON, wait_for},
};

/// One request and whether it adds records.
struct Request {
    bytes: Vec<u8>,
    upsert: bool,
}

/// What the proxy does with one request.
#[derive(Clone, Copy)]
enum Fate {
    Passes,
    Lost,
    AnswerLost,
    NoTime,
    TooMany,
}

/// A proxy in front of a server. `fate` is asked about each request, with the number that came before, and may wait.
fn proxy(to: u16, fate: impl Fn(usize, &Request) -> Fate + Send + Sync + 'static) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (fate, number) = (Arc::new(fate), Arc::new(AtomicUsize::new(0)));
    // It ends with the tests.
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (fate, number) = (Arc::clone(&fate), Arc::clone(&number));
            thread::spawn(move || {
                let Some(request) = request(&stream) else { return };
                let fate = fate(number.fetch_add(1, Ordering::SeqCst), &request);
                answer(&stream, to, &request, fate);
                drop(stream.shutdown(Shutdown::Both));
            });
        }
    });
    port
}

/// One request, whole; the connection is not used for another one.
fn request(mut stream: &TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let mut part = vec![0; 64 << 10];
    let head = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        let read = stream.read(&mut part).ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&part[..read]);
    };
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
    while bytes.len() < head + length {
        let read = stream.read(&mut part).ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&part[..read]);
    }
    let upsert = text.lines().next()?.contains("/upsert");
    let close = b"connection: close\r\n\r\n".iter().copied();
    drop(bytes.splice(head - 2..head, close));
    Some(Request { bytes, upsert })
}

fn answer(mut stream: &TcpStream, to: u16, request: &Request, fate: Fate) {
    let refused = |status: &str| {
        let body = r#"{"message":"later"}"#;
        format!(
            "HTTP/1.1 {status}\r\nRetry-After: 0\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let answer = match fate {
        Fate::Lost => return,
        Fate::NoTime => refused("503 Service Unavailable").into_bytes(),
        Fate::TooMany => refused("429 Too Many Requests").into_bytes(),
        Fate::Passes | Fate::AnswerLost => {
            let mut server = TcpStream::connect(("127.0.0.1", to)).unwrap();
            server.write_all(&request.bytes).unwrap();
            let mut answer = Vec::new();
            server.read_to_end(&mut answer).unwrap();
            answer
        }
    };
    if !matches!(fate, Fate::AnswerLost) {
        drop(stream.write_all(&answer));
    }
}

#[test]
fn what_is_lost_on_the_way_is_sent_again() {
    let mut stand = Stand::new("1.5.9");
    let file = stand.path("many.jsonl");
    many(&file, 15_000);
    let port = proxy(stand.server.port, |number, _| match number % 8 {
        1 => Fate::Lost,
        3 => Fate::AnswerLost,
        5 => Fate::NoTime,
        7 => Fate::TooMany,
        _ => Fate::Passes,
    });
    let report = report(&load_to(port, &file, &["--output", "json"]));
    assert_eq!(report["status"], "loaded", "{report:#}");
    assert_eq!(report["collections"][0]["after"], 15_000, "{report:#}");
    assert_eq!(values(&stand.dumped())[1..], values(&fs::read(&file).unwrap())[1..]);
}

#[test]
fn two_batches_are_in_the_air_and_of_two_lines_with_one_id_the_later_counts() {
    let mut stand = Stand::new("1.5.9");
    let file = stand.path("many.jsonl");
    many(&file, 12_000);
    let mut text = fs::read_to_string(&file).unwrap();
    for number in 0..6 {
        let vector = [number, 1, 2, 3, 4, 5, 6, 7];
        let line =
            json!({"id": "r000000", "document": format!("newer {number}"), "embedding": vector});
        writeln!(text, "{line}").unwrap();
    }
    fs::write(&file, text).unwrap();
    let (seen, air) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (theirs, most) = (Arc::clone(&air), Arc::new(AtomicUsize::new(0)));
    let highest = Arc::clone(&most);
    let port = proxy(stand.server.port, move |_, request| {
        if !request.upsert {
            return Fate::Passes;
        }
        let now = theirs.fetch_add(1, Ordering::SeqCst) + 1;
        highest.fetch_max(now, Ordering::SeqCst);
        match seen.fetch_add(1, Ordering::SeqCst) {
            // The first one waits for the second, which does not depend on its answer.
            0 => wait_for("a second batch", SOON, || {
                (highest.load(Ordering::SeqCst) == 2).then_some(())
            }),
            // What could overtake has time to do so.
            number if number % 2 == 1 => thread::sleep(std::time::Duration::from_millis(200)),
            _ => {}
        }
        theirs.fetch_sub(1, Ordering::SeqCst);
        Fate::Passes
    });
    let report = report(&load_to(port, &file, &["--output", "json"]));
    assert_eq!(report["status"], "loaded", "{report:#}");
    assert_eq!(most.load(Ordering::SeqCst), 2, "in the air");
    let lines = values(&stand.dumped());
    let by_id: BTreeMap<&str, &Value> =
        lines[1..].iter().map(|line| (line["id"].as_str().unwrap(), line)).collect();
    assert_eq!((lines.len(), by_id.len()), (12_001, 12_000));
    let changed = by_id["r000000"];
    assert_eq!((&changed["document"], &changed["embedding"][0]), (&json!("newer 5"), &json!(5.0)));
}
