//! Receivers against a server on loopback that answers in every way that servers do: what becomes of the message, and
//! that no secret is seen anywhere.

use std::{
    fs,
    sync::{Arc, Once},
    time::Duration,
};

use crate::support::{
    own_process,
    receiver::{Answer, Receiver as Loopback, says},
};
use chroma_exporter::{
    alert::message::{Alert, Failure, Notification, Outcome, Reason},
    clock::{self, Timestamp},
    config::{self, Config, Overrides},
    deliver::send::{Answer as Sent, Sender},
    findings::Severity,
};
use tokio_rustls::rustls::{
    self, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};

/// Stands in every secret of these tests and must stand nowhere else.
pub(crate) const CANARY: &str = "canary-3fd1c7";

/// Longest attempt at a server that answers: no test waits for so long, however slow the machine is.
pub(crate) const PATIENT: Duration = Duration::from_mins(1);

/// Longest attempt at one that does not, which a test waits for.
pub(crate) const HASTY: Duration = Duration::from_secs(2);

/// The receiver that this text configures.
fn receiver(text: &str) -> Sender {
    waiting(PATIENT, text)
}

/// One that waits so long for an answer.
pub(crate) fn waiting(timeout: Duration, text: &str) -> Sender {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("c.yml");
    let seconds = timeout.as_secs();
    fs::write(&file, format!("receivers:\n  - {{name: r, timeout: {seconds}s, {text}}}\n"))
        .unwrap();
    let flags = Overrides { config_file: Some(file), ..Overrides::default() };
    let config: Config = config::file::load(&flags, &[]).unwrap();
    let shown = format!("{config:?}{}", config::print::to_yaml(&config).unwrap());
    assert!(!shown.contains(CANARY), "{shown}");
    Sender::new(Arc::clone(&config.receivers[0]))
}

fn slack(server: &Loopback) -> Sender {
    slack_waiting(PATIENT, server)
}

fn slack_waiting(timeout: Duration, server: &Loopback) -> Sender {
    let url = server.url(&format!("/services/T0/B0/{CANARY}"));
    waiting(timeout, &format!("type: slack, url: '{url}'"))
}

fn webhook(server: &Loopback, more: &str) -> Sender {
    receiver(&format!("type: webhook, url: '{}' {more}", server.url(&format!("/hook/{CANARY}"))))
}

pub(crate) fn message() -> Notification {
    let alert = Alert {
        name: "ChromaDiskUsageHigh".into(),
        severity: Severity::Critical,
        store: "docs".into(),
        path: "/srv/chroma".into(),
        summary: "The disk is filling up".into(),
        evidence: "87 %".into(),
        count: 1,
        reading: None,
        cause: "It is.".into(),
        code: String::new(),
        items: 0,
        remedy: chroma_exporter::findings::Remedy::new("Free space on it."),
        runbook: String::new(),
        labels: [].into(),
        since: Timestamp::from_secs(1_000),
        ended: None,
        episode: "0011223344556677".into(),
        known: false,
        merged: 0,
        done: String::new(),
        tried: String::new(),
        stands_since: None,
    };
    Notification {
        id: "0123456789abcdef0123456789abcdef".into(),
        group: "store=docs".into(),
        reason: Reason::Firing,
        at: Timestamp::from_secs(1_060),
        host: "db-1".into(),
        external_url: String::new(),
        alerts: vec![alert],
        left_out: 0,
    }
}

pub(crate) async fn send(receiver: &Sender) -> Sent {
    // The date of the answers below is half a minute after this moment.
    let sent = receiver.send(&message(), Timestamp::from_secs(784_111_777)).await;
    let shown = format!("{receiver:?}{sent:?}");
    assert!(!shown.contains(CANARY), "{shown}");
    assert!(sent.text.chars().all(|c| !c.is_control()) && sent.text.chars().count() < 500);
    sent
}

pub(crate) fn retry(failure: Failure, after: Option<u64>, unclear: bool) -> Outcome {
    Outcome::Retry { failure, after: after.map(Duration::from_secs), unclear }
}

pub(crate) fn rejected() -> Outcome {
    Outcome::Rejected { failure: Failure::Client }
}

#[tokio::test]
async fn every_answer_of_slack_has_its_outcome() {
    let half = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no".to_vec();
    let date = "Retry-After: Sun, 06 Nov 1994 08:50:07 GMT\r\n";
    for (answer, want) in [
        (says("200 OK", "", "ok"), Outcome::Delivered),
        (says("200 OK", "", "almost"), retry(Failure::Answer, None, true)),
        (says("403 Forbidden", "", "action_prohibited"), rejected()),
        (says("404 Not Found", "", "no_service"), rejected()),
        (says("410 Gone", "", "channel_is_archived"), rejected()),
        (says("429 Slow", "", ""), retry(Failure::RateLimited, None, false)),
        (says("429 Slow", "Retry-After: 7\r\n", ""), retry(Failure::RateLimited, Some(7), false)),
        (says("429 Slow", date, ""), retry(Failure::RateLimited, Some(30), false)),
        (
            says("429 Slow", "", r#"{"retry_after":3,"ok":false,"error":"rate_limited"}"#),
            retry(Failure::RateLimited, Some(3), false),
        ),
        (says("500 Oops", "", "rollup_error"), retry(Failure::Server, None, false)),
        (says("503 Busy", "Retry-After: 5\r\n", ""), retry(Failure::Server, Some(5), false)),
        (says("504 Late", "", ""), retry(Failure::Server, None, true)),
        (Answer::Bytes(half), retry(Failure::Broken, None, true)),
        (Answer::Bytes(b"HTTP/1.1 2".to_vec()), retry(Failure::Broken, None, true)),
        (Answer::Bytes(b"no HTTP at all\r\n\r\n".to_vec()), retry(Failure::Broken, None, true)),
        (Answer::Bytes(Vec::new()), retry(Failure::Broken, None, true)),
        (Answer::Hang, retry(Failure::Timeout, None, true)),
        (Answer::Reset, retry(Failure::Broken, None, true)),
        (
            Answer::Slow(b"HTTP/1.1 200 OK\r\n\r\nok".to_vec(), HASTY / 10),
            retry(Failure::Timeout, None, true),
        ),
        (Answer::Endless(200_000_000), retry(Failure::Broken, None, true)),
    ] {
        let server = Loopback::start(vec![answer.clone()]).await;
        let late = matches!(answer, Answer::Hang | Answer::Slow(..));
        let sent = send(&slack_waiting(if late { HASTY } else { PATIENT }, &server)).await;
        assert_eq!(sent.outcome, want, "{answer:?} gave {sent:?}");
        assert_eq!(server.seen().len(), 1, "{answer:?}");
    }
}

#[tokio::test]
async fn nothing_that_listens_is_a_clear_answer() {
    // A port that the kernel gives to clients could be somebody's, even our own.
    for url in [format!("http://127.0.0.1:1/{CANARY}"), "http://name.invalid/x".into()] {
        let sent = send(&receiver(&format!("type: slack, url: '{url}'"))).await;
        assert_eq!(sent.outcome, retry(Failure::Connect, None, false), "{sent:?}");
    }
}

#[tokio::test]
async fn a_form_that_slack_refuses_is_said_once_more_as_text() {
    for (second, want) in [
        (says("200 OK", "", "ok"), Outcome::Delivered),
        (says("400 Bad", "", "invalid_payload"), rejected()),
        (says("500 Oops", "", ""), retry(Failure::Server, None, false)),
    ] {
        let server = Loopback::start(vec![says("400 Bad", "", "invalid_blocks"), second]).await;
        let sent = send(&slack(&server)).await;
        assert_eq!(sent.outcome, want);
        assert!(sent.text.ends_with("(as plain text, after invalid_blocks)"), "{}", sent.text);
        let seen = server.seen();
        assert_eq!(seen.len(), 2);
        let plain: serde_json::Value = serde_json::from_str(&seen[1].body).unwrap();
        assert!(plain["text"].as_str().unwrap().contains("The disk is filling up"));
        assert_eq!(plain.as_object().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn no_redirect_is_followed() {
    for status in ["301 Moved", "302 Found", "303 See", "307 There", "308 There"] {
        let server = Loopback::start(vec![says(status, "Location: /services/again\r\n", "")]).await;
        assert_eq!(send(&slack(&server)).await.outcome, rejected(), "{status}");
        assert_eq!(send(&webhook(&server, "")).await.outcome, rejected(), "{status}");
        assert_eq!(server.seen().len(), 2);
    }
}

#[tokio::test]
async fn answers_are_shown_without_the_secrets_that_they_echo() {
    let body = format!("no hook {CANARY}\r\nlevel=error msg=forged \u{1b}[2J {CANARY}");
    let server = Loopback::start(vec![says("404 No", "", &body)]).await;
    let sent = send(&webhook(&server, &format!(", bearer_token: '{CANARY}-token'"))).await;
    assert_eq!(sent.text, "no hook <secret> level=error msg=forged [2J <secret>");
    assert_eq!(sent.status, Some(404));
}

#[tokio::test]
async fn secrets_are_read_anew_at_each_send() {
    let server = Loopback::start(vec![says("200 OK", "", "")]).await;
    let dir = tempfile::tempdir().unwrap();
    let (url, token) = (dir.path().join("url"), dir.path().join("token"));
    let receiver = receiver(&format!(
        "type: webhook, url_file: '{}', bearer_token_file: '{}'",
        url.display(),
        token.display()
    ));
    let sent = send(&receiver).await;
    assert_eq!(sent.outcome, retry(Failure::Config, None, false));
    assert!(sent.text.starts_with("cannot read the secret in /"), "{}", sent.text);
    fs::write(&token, format!("{CANARY}-1\n")).unwrap();
    fs::write(&url, format!("ftp://{CANARY}")).unwrap();
    let sent = send(&receiver).await;
    assert_eq!(sent.outcome, retry(Failure::Config, None, false), "{sent:?}");
    fs::write(&url, server.url("/a\n")).unwrap();
    assert_eq!(send(&receiver).await.outcome, Outcome::Delivered);
    fs::write(&token, format!("{CANARY}-2\n")).unwrap();
    assert_eq!(send(&receiver).await.outcome, Outcome::Delivered);
    let heads: Vec<_> = server.seen().into_iter().map(|seen| seen.head).collect();
    assert!(heads[0].contains(&format!("authorization: Bearer {CANARY}-1\r\n")), "{}", heads[0]);
    assert!(heads[1].contains(&format!("authorization: Bearer {CANARY}-2\r\n")));
}

#[tokio::test]
async fn a_webhook_gets_headers_and_two_signatures() {
    let server = Loopback::start(vec![says("200 OK", "", "")]).await;
    let more = format!(
        ", signing_key: whsec_Y2FuYXJ5, signing_key_old: {CANARY}, basic_auth: {{username: u, password: {CANARY}}}, headers: [{{name: X-Scope, value: {CANARY}}}]"
    );
    let receiver = webhook(&server, &more);
    assert_eq!(send(&receiver).await.outcome, Outcome::Delivered);
    let seen = &server.seen()[0];
    for want in [
        "POST /hook/",
        "webhook-id: 0123456789abcdef0123456789abcdef\r\n",
        "webhook-timestamp: 784111777\r\n",
        "webhook-signature: v1,",
        "authorization: Basic ",
        "x-scope: ",
        "content-type: application/json\r\n",
        "user-agent: chroma_exporter/",
    ] {
        assert!(seen.head.contains(want), "{want}: {}", seen.head);
    }
    assert_eq!(seen.head.matches("v1,").count(), 2);
    let payload = receiver.payload(&message(), clock::now());
    assert_eq!(payload.bodies, [seen.body.as_str()]);
    assert!(!payload.to_string().contains(CANARY));
    let body: serde_json::Value = serde_json::from_str(&seen.body).unwrap();
    assert_eq!(body["version"], "4");
}

#[tokio::test]
async fn one_connection_serves_many_messages() {
    let server = Loopback::start(vec![Answer::KeepAlive]).await;
    let receiver = slack(&server);
    for _ in 0..5 {
        assert_eq!(send(&receiver).await.outcome, Outcome::Delivered);
    }
    assert!(server.seen().iter().all(|seen| seen.connection == 0), "{:?}", server.seen());
}

#[test]
fn plain_http_needs_no_authorities_of_the_system() {
    own_process::run(
        "receivers::one_connection_serves_many_messages",
        &[("SSL_CERT_FILE", "/nonexistent"), ("SSL_CERT_DIR", "/nonexistent")],
    );
}

#[tokio::test]
async fn a_proxy_carries_the_message_and_keeps_its_password() {
    let proxy = Loopback::start(vec![says("200 OK", "", "ok")]).await;
    let url = format!("http://user:{CANARY}@{}", proxy.address);
    let text = format!("type: slack, url: 'http://10.255.255.1/services/{CANARY}', proxy: '{url}'");
    assert_eq!(send(&receiver(&text)).await.outcome, Outcome::Delivered);
    let head = proxy.seen()[0].head.clone();
    assert!(head.starts_with("POST http://10.255.255.1/services/"), "{head}");
    assert!(head.contains("proxy-authorization: Basic "), "{head}");
    // A name behind a proxy may be anywhere: without encryption it needs the operator's word.
    let text = format!("type: slack, url: 'http://slack.internal/x', proxy: '{url}'");
    assert_eq!(send(&receiver(&text)).await.outcome, retry(Failure::Config, None, false));
    let gone = format!(
        "type: slack, url: 'https://slack.internal/x', proxy: 'http://u:{CANARY}@127.0.0.1:1'"
    );
    assert_eq!(send(&receiver(&gone)).await.outcome, retry(Failure::Connect, None, false));
}

#[tokio::test]
async fn names_are_judged_by_the_address_that_they_mean_now() {
    let server = Loopback::start(vec![says("200 OK", "", "ok")]).await;
    let text = format!("type: slack, url: 'http://localhost:{}/x'", server.address.port());
    assert_eq!(send(&receiver(&text)).await.outcome, Outcome::Delivered, "loopback by name");
}

#[tokio::test]
async fn every_other_kind_posts_its_form_to_its_place() {
    for (text, status, body, want) in [
        ("type: mattermost", "200 OK", "ok", "\"attachments\""),
        ("type: rocketchat", "200 OK", r#"{"success":true}"#, "\"attachments\""),
        ("type: discord", "204 No Content", "", "\"allowed_mentions\":{\"parse\":[]}"),
        ("type: heartbeat, method: POST", "200 OK", "OK", ""),
        ("type: heartbeat", "200 OK", "OK", ""),
        ("type: alertmanager", "200 OK", "", "\"endsAt\""),
        ("type: ntfy, topic: t-1", "200 OK", r#"{"event":"message"}"#, r#""topic":"t-1""#),
    ] {
        let server = Loopback::start(vec![says(status, "", body)]).await;
        let url = server.url(&format!("/base/{CANARY}/"));
        let receiver = receiver(&format!("{text}, url: '{url}'"));
        let sent = send(&receiver).await;
        assert_eq!(sent.outcome, Outcome::Delivered, "{text}: {sent:?}");
        let seen = &server.seen()[0];
        let method = if text == "type: heartbeat" { "GET" } else { "POST" };
        let more = if text == "type: alertmanager" { "api/v2/alerts" } else { "" };
        let line = format!("{method} /base/{CANARY}/{more} HTTP/1.1\r\n");
        assert!(seen.head.starts_with(&line), "{}", seen.head);
        assert!(seen.body.contains(want), "{text}: {}", seen.body);
    }
}

#[tokio::test]
async fn ntfy_keeps_topic_and_token_out_of_what_is_shown_and_names_out_of_headers() {
    let echo = format!(r#"{{"code":40301,"error":"{CANARY}-topic forbidden for {CANARY}-token"}}"#);
    let kept = r#"{"id":"a","event":"message"}"#;
    let answers = vec![
        says("403 Forbidden", "", &echo),
        says("507 Insufficient Storage", "", ""),
        says("429 Too Many Requests", "", r#"{"code":42908}"#),
        says("200 OK", "", kept),
    ];
    let server = Loopback::start(answers).await;
    let url = server.url("/");
    let text =
        format!("type: ntfy, url: '{url}', topic: {CANARY}-topic, bearer_token: {CANARY}-token");
    let receiver = receiver(&text);
    let sent = send(&receiver).await;
    assert_eq!(sent.outcome, rejected());
    assert!(sent.text.contains("<secret> forbidden for <secret>"), "{}", sent.text);
    assert_eq!(send(&receiver).await.outcome, retry(Failure::Server, None, false));
    assert_eq!(send(&receiver).await.outcome, retry(Failure::RateLimited, None, false));
    let mut hostile = message();
    hostile.alerts[0].store = "docs\r\nX-Evil: 1".into();
    let sent = receiver.send(&hostile, hostile.at).await;
    assert_eq!(sent.outcome, Outcome::Delivered);
    let seen = &server.seen()[3];
    assert!(seen.head.starts_with("POST / HTTP/1.1\r\n"), "{}", seen.head);
    let token = format!("authorization: bearer {CANARY}-token");
    assert!(seen.head.to_ascii_lowercase().contains(&token), "{}", seen.head);
    assert!(!seen.head.contains("X-Evil"), "{}", seen.head);
    assert!(!receiver.payload(&hostile, hostile.at).to_string().contains(CANARY));
}

#[tokio::test]
async fn pagerduty_gets_an_event_for_each_alert() {
    let mut message = message();
    let mut other = message.alerts[0].clone();
    other.name = "Other".into();
    other.ended = Some(Timestamp::from_secs(1_050));
    message.alerts.push(other);
    let accepted = says("202 Accepted", "", r#"{"status":"success"}"#);
    for (answers, want, count) in [
        (vec![accepted.clone()], Outcome::Delivered, 2),
        (vec![says("400 Bad", "", "{}"), accepted.clone()], rejected(), 2),
        (
            vec![accepted, says("429 Slow", "Retry-After: 9\r\n", "")],
            retry(Failure::RateLimited, Some(9), false),
            2,
        ),
        (vec![says("500 Oops", "", "")], retry(Failure::Server, None, false), 1),
    ] {
        let server = Loopback::start(answers).await;
        let url = server.url("/v2/enqueue");
        let receiver = receiver(&format!("type: pagerduty, url: '{url}', routing_key: {CANARY}"));
        let sent = receiver.send(&message, clock::now()).await;
        assert_eq!(sent.outcome, want, "{sent:?}");
        let seen = server.seen();
        assert_eq!(seen.len(), count);
        assert!(seen[0].body.contains(&format!("\"routing_key\":\"{CANARY}\"")));
        assert!(seen[0].body.contains("\"event_action\":\"trigger\""));
        let payload = receiver.payload(&message, clock::now());
        assert_eq!(payload.bodies.len(), 2);
        assert!(!payload.to_string().contains(CANARY));
    }
}

#[tokio::test]
async fn a_pipe_is_no_file_of_a_secret_and_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let sent = send(&receiver(&format!("type: slack, url_file: '{}'", pipe.display()))).await;
    assert_eq!(sent.outcome, retry(Failure::Config, None, false));
    assert!(sent.text.ends_with("must be a regular file"), "{}", sent.text);
}

/// A certificate authority of the test, a server's certificate and a client's.
pub(crate) struct Pki {
    ca: String,
    server: (String, String),
    client: (String, String),
}

impl Pki {
    pub(crate) fn new() -> Self {
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = params.self_signed(&ca_key).unwrap();
        let issuer = rcgen::Issuer::from_params(&params, &ca_key);
        let issue = |name: &str| {
            let key = rcgen::KeyPair::generate().unwrap();
            let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
            (params.signed_by(&key, &issuer).unwrap().pem(), key.serialize_pem())
        };
        Self { ca: ca.pem(), server: issue("127.0.0.1"), client: issue("client") }
    }

    pub(crate) fn ca(&self) -> &str {
        &self.ca
    }

    pub(crate) fn server(&self, needs_client: bool) -> ServerConfig {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let cert = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let key = PrivateKeyDer::from_pem_slice(self.server.1.as_bytes()).unwrap();
        let builder = ServerConfig::builder();
        let builder = if needs_client {
            let mut roots = RootCertStore::empty();
            roots.add(cert(&self.ca)).unwrap();
            builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap(),
            )
        } else {
            builder.with_no_client_auth()
        };
        builder.with_single_cert(vec![cert(&self.server.0)], key).unwrap()
    }
}

#[tokio::test]
async fn tls_takes_the_operators_authority_and_shows_a_certificate() {
    let pki = Pki::new();
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let ca = write("ca.pem", &pki.ca);
    let (cert, key) = (write("c.pem", &pki.client.0), write("c.key", &pki.client.1));
    let open = Loopback::start_tls(vec![says("200 OK", "", "ok")], pki.server(false)).await;
    let closed = Loopback::start_tls(vec![says("200 OK", "", "ok")], pki.server(true)).await;
    let url = |server: &Loopback| format!("https://{}/{CANARY}", server.address);
    let with = |server: &Loopback, tls: &str| {
        receiver(&format!("type: slack, url: '{}', tls: {{{tls}}}", url(server)))
    };
    let unknown = send(&with(&open, "")).await;
    assert!(
        matches!(
            unknown.outcome,
            Outcome::Retry { failure: Failure::Connect | Failure::Config, unclear: false, .. }
        ),
        "an authority that nobody trusts: {unknown:?}"
    );
    assert_eq!(send(&with(&open, &format!("ca_file: '{ca}'"))).await.outcome, Outcome::Delivered);
    let without = send(&with(&closed, &format!("ca_file: '{ca}'"))).await;
    assert!(matches!(without.outcome, Outcome::Retry { .. }), "{without:?}");
    let both = format!("ca_file: '{ca}', cert_file: '{cert}', key_file: '{key}'");
    assert_eq!(send(&with(&closed, &both)).await.outcome, Outcome::Delivered);

    // Files are read again when they change, and a bad one is told by its name.
    let receiver = with(&open, &format!("ca_file: '{ca}'"));
    assert_eq!(send(&receiver).await.outcome, Outcome::Delivered);
    // Of another inode: time and size may be the same.
    let other = write("other.pem", &Pki::new().ca);
    fs::rename(other, &ca).unwrap();
    assert!(matches!(
        send(&receiver).await.outcome,
        Outcome::Retry { failure: Failure::Connect, .. }
    ));
    fs::write(&ca, "nothing").unwrap();
    let sent = send(&receiver).await;
    assert_eq!(sent.outcome, retry(Failure::Config, None, false));
    assert!(sent.text.contains("ca.pem"), "{}", sent.text);
    fs::write(&ca, &pki.ca).unwrap();
    assert_eq!(send(&receiver).await.outcome, Outcome::Delivered);
}
