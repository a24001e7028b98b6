//! E-mail against an SMTP server on loopback that speaks as real ones do and misbehaves in every way: what becomes of the message,
//! that no password is seen anywhere, and that nothing is sent in clear that should not be.

use std::{fs, sync::Arc, time::Duration};

use chroma_exporter::{
    alert::message::{Failure, Outcome},
    deliver::send::{Answer, Sender},
};

use crate::{
    receivers::{CANARY, HASTY, PATIENT, Pki, message, rejected, retry, send, waiting},
    support::smtp::{Act, Security, Smtp},
};

/// A receiver of this server, with keys besides those that it must have.
fn email(server: &Smtp, more: &str) -> Sender {
    email_waiting(PATIENT, server, more)
}

fn email_waiting(timeout: Duration, server: &Smtp, more: &str) -> Sender {
    let address = server.address;
    let own = format!("type: email, server: '{address}', from: Chroma <chroma@example.org>");
    let to = "to: [ops@example.org, night@example.net]";
    waiting(timeout, &format!("{own}, {to}{more}"))
}

const PLAIN: &str = ", encryption: none";

fn says(text: &str) -> Act {
    Act::Says(text.as_bytes().to_vec())
}

/// What one attempt comes to when the server misbehaves so.
async fn with(acts: Vec<(&'static str, Act)>) -> Answer {
    let server = Smtp::start(Security::None, acts).await;
    send(&email(&server, PLAIN)).await
}

#[tokio::test]
async fn a_message_goes_to_all_recipients_under_an_id_that_stays() {
    let server = Smtp::start(Security::None, Vec::new()).await;
    let receiver = email(&server, PLAIN);
    for _ in 0..2 {
        let sent = send(&receiver).await;
        assert_eq!((sent.outcome, sent.status), (Outcome::Delivered, Some(250)));
        assert_eq!(sent.text, "2.0.0 queued as 1A2B");
    }
    let seen = server.seen();
    let [first, second] = &seen[..] else { panic!("one connection for each message: {seen:?}") };
    assert_eq!(
        first.commands,
        [
            "EHLO db-1",
            "MAIL FROM:<chroma@example.org>",
            "RCPT TO:<ops@example.org>",
            "RCPT TO:<night@example.net>",
            "DATA",
            "QUIT"
        ]
    );
    assert_eq!(first.message, second.message, "word for word");
    let text = first.message.as_ref().unwrap();
    assert!(text.contains("\r\nMessage-ID: <0123456789abcdef0123456789abcdef@example.org>\r\n"));
    assert!(text.contains("\r\nSubject: [CRITICAL] docs on db-1: The disk is filling up\r\n"));
}

#[tokio::test]
async fn a_password_goes_over_tls_or_to_a_private_address_and_is_shown_nowhere() {
    let pki = Pki::new();
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    fs::write(&ca, pki.ca()).unwrap();
    let password = dir.path().join("password");
    fs::write(&password, format!("{CANARY}\n")).unwrap();
    let login = format!(", username: chroma, password_file: '{}'", password.display());
    let trust = format!("{login}, tls: {{ca_file: '{}'}}", ca.display());
    let config = || Arc::new(pki.server(false));

    for (security, keys) in [
        (Security::StartTls(config()), trust.clone()),
        (Security::Tls(config()), format!(", encryption: tls{trust}")),
        (Security::None, format!("{PLAIN}{login}")),
    ] {
        let encrypted = !matches!(security, Security::None);
        let server = Smtp::start(security, Vec::new()).await;
        let sent = send(&email(&server, &keys)).await;
        assert_eq!(sent.outcome, Outcome::Delivered, "{keys}: {sent:?}");
        let seen = &server.seen()[0];
        for command in ["AUTH PLAIN ", "MAIL FROM:", "DATA"] {
            let line = seen.commands.iter().find(|line| line.contains(command)).unwrap();
            assert_eq!(line.starts_with("(TLS) "), encrypted, "{line}");
        }
    }

    // A stranger's certificate, and a server that has no TLS: nothing is said, neither password nor message.
    let silent = |server: &Smtp| {
        let said: Vec<String> = server.seen().into_iter().flat_map(|seen| seen.commands).collect();
        assert!(said.iter().all(|line| line.starts_with("EHLO") || line == "STARTTLS"), "{said:?}");
    };
    let server = Smtp::start(Security::StartTls(config()), Vec::new()).await;
    let other = dir.path().join("other.pem");
    fs::write(&other, Pki::new().ca()).unwrap();
    let distrust = format!("{login}, tls: {{ca_file: '{}'}}", other.display());
    let sent = send(&email(&server, &distrust)).await;
    assert_eq!(sent.outcome, retry(Failure::Connect, None, false), "{sent:?}");
    assert!(sent.text.starts_with("its certificate is not trusted"), "{sent:?}");
    silent(&server);
    let server = Smtp::start(Security::None, Vec::new()).await;
    let sent = send(&email(&server, &trust)).await;
    assert_eq!(sent.outcome, retry(Failure::Config, None, false), "{sent:?}");
    assert!(sent.text.starts_with("the server offers no STARTTLS"), "{sent:?}");
    silent(&server);

    // A refused password that the server repeats.
    let echo = format!("535 5.7.8 {CANARY} is wrong\r\n");
    let server =
        Smtp::start(Security::StartTls(config()), vec![("AUTH", Act::Says(echo.into()))]).await;
    let sent = send(&email(&server, &trust)).await;
    assert_eq!((sent.outcome, sent.status), (rejected(), Some(535)));
    assert_eq!(sent.text, "5.7.8 <secret> is wrong");
}

#[tokio::test]
async fn what_is_slipped_in_before_tls_is_no_answer() {
    let pki = Pki::new();
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    fs::write(&ca, pki.ca()).unwrap();
    let slipped = says("220 go on\r\n250 AUTH PLAIN\r\n235 ok\r\n250 ok\r\n");
    let acts = vec![("STARTTLS", slipped)];
    let server = Smtp::start(Security::StartTls(Arc::new(pki.server(false))), acts).await;
    let sent = send(&email(&server, &format!(", tls: {{ca_file: '{}'}}", ca.display()))).await;
    assert_eq!(sent.outcome, retry(Failure::Connect, None, false), "{sent:?}");
    assert!(server.seen()[0].message.is_none());
}

#[tokio::test]
async fn every_reply_has_its_outcome() {
    let server = || retry(Failure::Server, None, false);
    for (at, says_, want) in [
        ("GREETING", "554 5.7.1 not you\r\n", rejected()),
        ("GREETING", "421 busy\r\n", server()),
        ("EHLO", "502 no\r\n", rejected()),
        ("MAIL", "451 4.3.0 later\r\n", server()),
        ("MAIL", "550 5.7.1 not from you\r\n", rejected()),
        ("RCPT", "450 4.2.0 greylisted\r\n", server()),
        ("RCPT", "550 5.1.1 unknown\r\n", rejected()),
        ("DATA", "452 4.3.1 full\r\n", server()),
        ("DATA", "554 5.5.1 no\r\n", rejected()),
        ("MESSAGE", "421 4.3.2 going down\r\n", server()),
        ("MESSAGE", "451 4.7.1 try again\r\n", server()),
        ("MESSAGE", "552 5.3.4 too big\r\n", rejected()),
        ("MESSAGE", "554 5.7.1 spam\r\n", rejected()),
        ("MESSAGE", "354 go on\r\n", retry(Failure::Answer, None, true)),
        ("MESSAGE", "what?\r\n", retry(Failure::Answer, None, true)),
        ("GREETING", "HTTP/1.1 400 Bad Request\r\n", retry(Failure::Answer, None, false)),
        ("MAIL", "\u{1}\u{2}\r\n", retry(Failure::Answer, None, false)),
    ] {
        let sent = with(vec![(at, says(says_))]).await;
        assert_eq!(sent.outcome, want, "{at} {says_:?}: {sent:?}");
    }
}

#[tokio::test]
async fn a_recipient_that_is_refused_keeps_no_other_from_the_message() {
    for (reply, text) in [
        ("550 5.1.1 unknown\r\n", "; refused for ops@example.org: 550 5.1.1 unknown"),
        ("452 4.2.2 mailbox full\r\n", "; refused for ops@example.org: 452 4.2.2 mailbox full"),
    ] {
        let server = Smtp::start(Security::None, vec![("RCPT TO:<ops@", says(reply))]).await;
        let sent = send(&email(&server, PLAIN)).await;
        assert_eq!(sent.outcome, Outcome::Delivered, "{sent:?}");
        assert!(sent.text.ends_with(text), "{sent:?}");
        assert!(server.seen()[0].message.is_some());
    }
    let both = vec![
        ("RCPT TO:<ops@", says("550 unknown\r\n")),
        ("RCPT TO:<night@", says("450 greylisted\r\n")),
    ];
    assert_eq!(with(both).await.outcome, retry(Failure::Server, None, false), "one may be taken");
}

#[tokio::test]
async fn a_connection_that_ends_is_unclear_only_after_the_message() {
    for (at, unclear) in [
        ("GREETING", false),
        ("EHLO", false),
        ("MAIL", false),
        ("RCPT", false),
        ("DATA", false),
        ("MESSAGE", true),
    ] {
        let sent = with(vec![(at, Act::Drops)]).await;
        assert_eq!(sent.outcome, retry(Failure::Broken, None, unclear), "{at}: {sent:?}");
    }
    // What comes after the message was taken changes nothing.
    for act in [Act::Drops, Act::Hangs, says("500 what?\r\n")] {
        assert_eq!(with(vec![("QUIT", act)]).await.outcome, Outcome::Delivered);
    }
}

#[tokio::test]
async fn a_server_that_hangs_or_never_ends_is_left_in_time() {
    for (at, unclear) in [("GREETING", false), ("RCPT", false), ("MESSAGE", true)] {
        let server = Smtp::start(Security::None, vec![(at, Act::Hangs)]).await;
        let sent = send(&email_waiting(HASTY, &server, PLAIN)).await;
        if sent.outcome != retry(Failure::Timeout, None, unclear) {
            // On a machine that stands still it may not have come so far.
            assert_eq!(sent.outcome, retry(Failure::Timeout, None, false), "{at}: {sent:?}");
            assert!(server.seen().iter().all(|seen| seen.message.is_none()), "{at}");
        }
    }
    let endless = Act::Says(vec![b'2'; 2_000_000]);
    for at in ["GREETING", "EHLO"] {
        let sent = with(vec![(at, endless.clone())]).await;
        assert!(matches!(sent.outcome, Outcome::Retry { unclear: false, .. }), "{at}: {sent:?}");
    }
    let lines = Act::Says(b"250-more\r\n".repeat(100_000));
    let sent = with(vec![("MESSAGE", lines)]).await;
    assert!(matches!(sent.outcome, Outcome::Retry { unclear: true, .. }), "{sent:?}");
}

#[tokio::test]
async fn nothing_listens_and_a_name_in_clear_are_told_in_words() {
    let server = Smtp::start(Security::None, Vec::new()).await;
    let port = server.address.port();
    let local = format!("server: 'localhost:{port}', encryption: none");
    let named = |server: &str| {
        waiting(
            PATIENT,
            &format!("type: email, {server}, from: a@example.org, to: [b@example.org]"),
        )
    };
    assert_eq!(send(&named(&local)).await.outcome, Outcome::Delivered, "loopback by name");
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let sent = send(&named(&format!("server: '{gone}'"))).await;
    assert_eq!(sent.outcome, retry(Failure::Connect, None, false));
    assert!(sent.text.starts_with("connection refused"), "{sent:?}");
}

#[tokio::test]
async fn names_from_disk_say_nothing_to_the_server() {
    let server = Smtp::start(Security::None, Vec::new()).await;
    let receiver = email(&server, PLAIN);
    let mut hostile = message();
    hostile.host = "db\r\nRCPT TO:<thief@example.org>".into();
    hostile.alerts[0].store = "docs\r\nBcc: thief@example.org\r\n.\r\nMAIL FROM:<x@y>".into();
    hostile.alerts[0].evidence = "\r\n.\r\nQUIT\r\n".into();
    let sent = receiver.send(&hostile, hostile.at).await;
    assert_eq!(sent.outcome, Outcome::Delivered, "{sent:?}");
    let seen = &server.seen()[0];
    assert!(seen.commands.iter().all(|line| !line.contains("thief")), "{seen:?}");
    assert_eq!(seen.commands[0], "EHLO [127.0.0.1]");
    let (head, _) = seen.message.as_ref().unwrap().split_once("\r\n\r\n").unwrap();
    assert!(!head.lines().any(|line| line.starts_with("Bcc")), "{head}");
}
