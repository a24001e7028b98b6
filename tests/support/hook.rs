//! A receiver of webhooks on loopback that keeps a ledger and answers as it is told.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test binary uses its own part")]

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::Value;

/// One request as it arrived.
#[derive(Debug, Clone)]
pub struct Post {
    pub at: Instant,
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub text: String,
    /// Whether it was answered with 200.
    pub taken: bool,
    /// Whether it was refused for good: led elsewhere, or called wrong.
    pub refused: bool,
    /// Whether a good answer was cut off in the middle: the status alone says that it was taken, where no more is asked for.
    pub cut: bool,
    /// Its alerts, read once, because tests ask for them again and again; `None` of what is no JSON.
    alerts: Option<Vec<ReceivedAlert>>,
}

/// What it answers.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Status, further header lines, body.
    Say(u16, &'static str, &'static str),
    /// Says back everything that was sent, with this status.
    Echo(u16),
    /// Takes the request and closes the connection without a word.
    Reset,
    /// Takes the request and says nothing for this long, then closes.
    Hang(Duration),
    /// Takes the request and says something that is no HTTP.
    Garbage,
    /// Takes the request, begins a good answer and closes in the middle of it.
    Cut,
}

/// What it answers to the next request for a path.
type Mood = Box<dyn FnMut(&str) -> Reply + Send>;

pub struct Hook {
    pub address: SocketAddr,
    ledger: Arc<Mutex<Vec<Post>>>,
    mood: Arc<Mutex<Mood>>,
}

/// One alert of one post of Alertmanager's webhook form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReceivedAlert {
    pub name: String,
    pub store: String,
    pub status: String,
    pub starts_at: String,
}

impl Hook {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let hook = Self {
            address: listener.local_addr().expect("address"),
            ledger: Arc::default(),
            mood: Arc::new(Mutex::new(Box::new(|_| Reply::Say(200, "", "ok")))),
        };
        let (ledger, mood) = (Arc::clone(&hook.ledger), Arc::clone(&hook.mood));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (ledger, mood) = (Arc::clone(&ledger), Arc::clone(&mood));
                std::thread::spawn(move || drop(serve(&stream, &ledger, &mood)));
            }
        });
        hook
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    pub fn answer(&self, reply: Reply) {
        self.answer_by(move |_| reply.clone());
    }

    /// Answers each request as `mood` says of its path.
    pub fn answer_by(&self, mood: impl FnMut(&str) -> Reply + Send + 'static) {
        *self.mood.lock().expect("mood") = Box::new(mood);
    }

    pub fn posts(&self) -> Vec<Post> {
        self.ledger.lock().expect("ledger").clone()
    }

    /// Those from this number on.
    pub fn posts_from(&self, first: usize) -> Vec<Post> {
        self.ledger.lock().expect("ledger").get(first..).unwrap_or_default().to_vec()
    }

    /// Every alert of every post that was taken, doubles by id taken once, in the order of arrival.
    pub fn received(&self) -> Vec<ReceivedAlert> {
        let ledger = self.ledger.lock().expect("ledger");
        let mut seen = BTreeSet::new();
        let mut reported = Vec::new();
        for post in ledger.iter().filter(|post| post.taken) {
            if post.headers.get("webhook-id").is_none_or(|id| seen.insert(id)) {
                reported.extend(post.received());
            }
        }
        reported
    }

    /// How many episodes of an alert were told with this status; one that stands beside news of its group counts once.
    pub fn count(&self, store: &str, name: &str, status: &str) -> usize {
        let fits = |t: &ReceivedAlert| t.store == store && t.name == name && t.status == status;
        self.received().into_iter().filter(fits).collect::<BTreeSet<_>>().len()
    }
}

impl Post {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    pub fn received(&self) -> Vec<ReceivedAlert> {
        self.alerts.clone().unwrap_or_else(|| panic!("no JSON: {}", self.text))
    }
}

impl ReceivedAlert {
    fn all(json: &Value) -> Vec<Self> {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let alerts = json["alerts"].as_array().cloned().unwrap_or_default();
        alerts
            .iter()
            .map(|alert| Self {
                name: word(&alert["labels"]["alertname"]),
                store: word(&alert["labels"]["store"]),
                status: word(&alert["status"]),
                starts_at: word(&alert["startsAt"]),
            })
            .collect()
    }
}

fn serve(stream: &TcpStream, ledger: &Mutex<Vec<Post>>, mood: &Mutex<Mood>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(crate::support::SOON))?;
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    // Whoever was killed before it had said anything posted nothing.
    if reader.read_line(&mut line)? == 0 {
        return Ok(());
    }
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = BTreeMap::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    let length = headers.get("content-length").and_then(|l| l.parse().ok()).unwrap_or(0_usize);
    let mut body = vec![0; length.min(10_000_000)];
    reader.read_exact(&mut body)?;
    let text = String::from_utf8_lossy(&body).into_owned();
    let echo = format!("{path} {headers:?} {text}");
    let reply = (mood.lock().expect("mood"))(&path);
    let taken = matches!(reply, Reply::Say(200, ..));
    let cut = matches!(reply, Reply::Cut);
    let later = |status: u16| matches!(status, 408 | 425 | 429);
    let refused = matches!(reply, Reply::Say(status @ 300..=499, ..) if !later(status));
    let alerts = serde_json::from_str(&text).ok().map(|json: Value| ReceivedAlert::all(&json));
    let post = Post { at: crate::support::now(), path, headers, text, taken, refused, cut, alerts };
    ledger.lock().expect("ledger").push(post);
    let mut stream = stream;
    match reply {
        Reply::Say(status, more, body) => write!(
            stream,
            "HTTP/1.1 {status} x\r\nContent-Length: {}\r\nConnection: close\r\n{more}\r\n{body}",
            body.len()
        ),
        Reply::Echo(status) => {
            write!(stream, "HTTP/1.1 {status} x\r\nContent-Length: {}\r\n\r\n{echo}", echo.len())
        }
        Reply::Reset => Ok(()),
        Reply::Garbage => stream.write_all(b"\x00\xffSSH-2.0-nonsense\r\n\r\n\x01\x02"),
        Reply::Cut => write!(stream, "HTTP/1.1 200 x\r\nContent-Length: 100\r\n\r\no"),
        Reply::Hang(span) => {
            std::thread::sleep(span);
            Ok(())
        }
    }
}
