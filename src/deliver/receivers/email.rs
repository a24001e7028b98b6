//! E-mail through an SMTP server (RFC 5321, with STARTTLS of RFC 3207 or TLS from the first byte): text and simple HTML. What is sent
//! again carries the same `Message-ID`, by which mail programs know it.
//!
//! | answer | means |
//! |---|---|
//! | 250 after the message | delivered to the recipients that the server took; those that it refused are warned of in the log |
//! | 4xx | not now (greylisting, a full mailbox): tried again |
//! | 5xx | refused for good (unknown recipient, wrong password) |
//! | anything else, or nothing, before the message was handed over | not delivered: tried again |
//! | the same after it was handed over | unclear: tried again with the same `Message-ID` |

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use lettre::{
    Address,
    message::{
        Mailbox, MultiPart, SinglePart,
        header::{HeaderName, HeaderValue},
    },
};
use serde_json::json;

use super::{
    Declared, Kind, Message, Route, Unsendable,
    keys::{Keys, PASSWORD, Printed, Tls, tls},
    markup::{Dialect, escape},
    slack::{color, sections},
    words,
};
use crate::{
    alert::message::{Failure, Outcome},
    facts::bad_value::BadValue,
    keys::{
        report::At,
        secret::Secret,
        section::{self, shown, text},
        target,
    },
};

/// E-mail.
pub(super) static KIND: Declared = Declared {
    http: false,
    // Servers keep strangers waiting on purpose, and some check a message before they take it.
    timeout: Duration::from_mins(1),
    timeout_max: Duration::from_mins(10),
    ..Declared::new("email", |keys: &Keys<'_>| {
        let email = read(keys)?;
        Some(Arc::new(email))
    })
};

/// Recipients of one message.
const RECIPIENTS_MAX: usize = 50;

/// Longest subject, and longest part of the text.
const SUBJECT_MAX: usize = 200;
const PART_MAX: usize = 8_000;

/// An e-mail receiver.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Email {
    /// Name or address of the server.
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) encryption: Encryption,
    /// Whether an unencrypted connection may lead to public addresses.
    pub(crate) allow_plain: bool,
    /// User and password, when the server wants them.
    pub(crate) login: Option<(String, Secret)>,
    from: Person,
    to: Vec<Person>,
    pub(crate) tls: Tls,
}

/// How the connection is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encryption {
    /// After a first exchange in clear, and never without.
    StartTls,
    /// From the first byte.
    Tls,
    /// Not at all.
    None,
}

impl Encryption {
    const ALL: [Self; 3] = [Self::StartTls, Self::Tls, Self::None];

    const fn as_str(self) -> &'static str {
        match self {
            Self::StartTls => "starttls",
            Self::Tls => "tls",
            Self::None => "none",
        }
    }

    const fn port(self) -> u16 {
        match self {
            Self::StartTls => 587,
            Self::Tls => 465,
            Self::None => 25,
        }
    }
}

/// An address, perhaps with a name, as the operator wrote it.
#[derive(Debug, Clone, PartialEq)]
struct Person {
    text: String,
    mailbox: Mailbox,
}

const ADDRESS_RULE: &str =
    "must be an e-mail address such as ops@example.org or Ops <ops@example.org>";

impl Person {
    fn parse(text: &str) -> Result<Self, BadValue> {
        if text.len() > 320 || text.contains(char::is_control) {
            return Err(ADDRESS_RULE.into());
        }
        let mailbox: Mailbox = text.parse().map_err(|_| ADDRESS_RULE)?;
        let address: &str = mailbox.email.as_ref();
        if !address.is_ascii() {
            return Err("must be an address of ASCII letters".into());
        }
        Ok(Self { text: text.to_owned(), mailbox })
    }
}

fn read(keys: &Keys<'_>) -> Option<Email> {
    let section = keys.section;
    let mut encryption = Encryption::StartTls;
    let choices = section::choice(&Encryption::ALL, Encryption::as_str);
    section.set("encryption", &mut encryption, choices);
    let mut allow_plain = false;
    section.set("allow_plain", &mut allow_plain, section::flag);
    if section.node("server").is_none() {
        keys.missing("server", "must be given: host:port of an SMTP server");
    }
    let private_only = encryption == Encryption::None && !allow_plain;
    let server = section.read("server", |value| server(text(value)?, encryption, private_only));
    let username = section.read("username", |value| match text(value)? {
        "" => Err("must not be empty".into()),
        name if name.contains(char::is_control) => Err("must be one line of text".into()),
        name => Ok(name.to_owned()),
    });
    let password = if section.node("username").is_some() {
        keys.need(&PASSWORD)
    } else {
        let password = PASSWORD.read(section, |_| Ok(()));
        if password.is_some() {
            keys.missing("username", "must be given when there is a password");
        }
        password
    };
    if section.node("from").is_none() {
        keys.missing("from", "must be given: the address that messages come from");
    }
    let from = section.read("from", |value| Person::parse(text(value)?));
    let to = recipients(keys);
    let tls = tls(section);
    let At { value: (host, port), .. } = server?;
    let login = username.map(|at| at.value).zip(password);
    let (from, to) = (from?.value, to?);
    Some(Email { host, port, encryption, allow_plain, login, from, to, tls })
}

/// Host and port of `host`, `host:port` or `[address]:port`.
fn server(
    text: &str,
    encryption: Encryption,
    private_only: bool,
) -> Result<(String, u16), BadValue> {
    const RULE: &str = "must be host:port such as mail.example.org:587";
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, rest)) if host.parse::<IpAddr>().is_ok() => {
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or(RULE)?) })
        }
        Some(_) => return Err(RULE.into()),
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':');
    if !(1..=253).contains(&host.len()) || !host.bytes().all(word) {
        return Err(RULE.into());
    }
    let port = match port.map(str::parse) {
        None => encryption.port(),
        Some(Ok(port @ 1..)) => port,
        Some(_) => return Err(RULE.into()),
    };
    if let Ok(ip) = host.parse() {
        address(ip, private_only)?;
    }
    Ok((host.to_owned(), port))
}

/// Judges an address that a connection would go to. Errs with the rule.
pub(crate) fn address(ip: IpAddr, private_only: bool) -> Result<(), BadValue> {
    target::address(ip, false)?;
    target::address(ip, private_only).map_err(|_| {
        "must be encrypted: without that it may only be a loopback or private address, unless allow_plain is true".into()
    })
}

fn recipients(keys: &Keys<'_>) -> Option<Vec<Person>> {
    let section = keys.section;
    if section.node("to").is_none() {
        keys.missing("to", "must be given: a list of addresses");
        return None;
    }
    let items = section.list("to", RECIPIENTS_MAX);
    let count = items.len();
    let mut all = Vec::new();
    for At { value: node, place } in items {
        match text(&node.value).and_then(Person::parse) {
            Ok(person) => all.push(person),
            Err(rule) => section.add(place.bad(shown(&node.value), rule)),
        }
    }
    if count == 0 {
        section.add(section.place("to").wrong("must name at least one address"));
    }
    (all.len() == count && count > 0).then_some(all)
}

impl Kind for Email {
    fn print(&self, out: &mut Printed) {
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        out.put("server", format!("{host}:{}", self.port));
        out.put("encryption", self.encryption.as_str());
        out.put("allow_plain", self.allow_plain);
        if let Some((username, password)) = &self.login {
            out.put("username", username.as_str());
            out.secret(&PASSWORD, Some(password));
        }
        out.put("from", self.from.text.as_str());
        out.put("to", json!(self.to.iter().map(|person| &person.text).collect::<Vec<_>>()));
        out.tls(&self.tls);
    }

    fn route(&self) -> Route<'_> {
        Route::Mail(self)
    }
}

impl Email {
    /// Whether the connection may only go to loopback and private addresses: names in it would be read by anybody.
    pub(crate) fn private_only(&self) -> bool {
        self.encryption == Encryption::None && !self.allow_plain
    }

    /// The address that the server sends complaints to.
    pub(crate) fn sender(&self) -> &Address {
        &self.from.mailbox.email
    }

    /// Who gets the message.
    pub(crate) fn recipients(&self) -> impl Iterator<Item = &Address> {
        self.to.iter().map(|person| &person.mailbox.email)
    }

    /// The message with its headers, ASCII in lines of at most 998 bytes. The same for every attempt at one notification.
    /// Errs for what no e-mail can hold.
    pub(crate) fn mail(&self, message: &Message<'_>) -> Result<Vec<u8>, Unsendable> {
        let n = message.notification;
        // An id of ours is 32 digits; what else a file may hold must not end the header.
        let id: String = n.id.chars().filter(char::is_ascii_alphanumeric).collect();
        let title = escape(&words::title(n), Dialect::Plain, SUBJECT_MAX);
        let seconds = u64::try_from(n.at.as_secs()).unwrap_or(0);
        let mut mail = lettre::Message::builder()
            .from(self.from.mailbox.clone())
            .subject(title)
            .date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
            .message_id(Some(format!("<{id}@{}>", self.sender().domain())))
            // No absence note answers it (RFC 3834).
            .raw_header(HeaderValue::new(
                HeaderName::new_from_ascii_str("Auto-Submitted"),
                "auto-generated".to_owned(),
            ));
        for person in &self.to {
            mail = mail.to(person.mailbox.clone());
        }
        let body = MultiPart::alternative()
            .boundary(format!("part-{id}"))
            .singlepart(SinglePart::plain(plain(message)))
            .singlepart(SinglePart::html(html(message)));
        let mail = mail.multipart(body).map_err(|_| Unsendable("the message is no e-mail"))?;
        Ok(mail.formatted())
    }
}

fn plain(message: &Message<'_>) -> String {
    let mut text = sections(message.notification, Dialect::Plain, PART_MAX).join("\n\n");
    text.push('\n');
    text
}

fn html(message: &Message<'_>) -> String {
    let n = message.notification;
    let title = escape(&words::title(n), Dialect::Html, SUBJECT_MAX);
    let parts = sections(n, Dialect::Html, PART_MAX).join("</p>\n<p>");
    let parts = parts.replace('\n', "<br>\n").replace("</p><br>", "</p>");
    format!(
        "<!DOCTYPE html>\n<html><body style=\"font-family: sans-serif\">\n<p style=\"border-left: 4px solid {}; padding-left: 8px\"><b>{title}</b></p>\n<p>{parts}</p>\n</body></html>\n",
        color(n)
    )
}

/// What a reply of the server means, whatever it was asked.
pub(crate) fn judge(code: u16) -> Outcome {
    match code {
        200..=299 => Outcome::Delivered,
        400..=499 => Outcome::Retry { failure: Failure::Server, after: None, unclear: false },
        500..=599 => Outcome::Rejected { failure: Failure::Client },
        _ => Outcome::Retry { failure: Failure::Answer, after: None, unclear: true },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        alert::message::Notification,
        deliver::receivers::{
            golden,
            samples::{self, hostile},
        },
    };

    fn email() -> Email {
        let person = |text| Person::parse(text).unwrap();
        Email {
            host: "mail.example.org".to_owned(),
            port: 587,
            encryption: Encryption::StartTls,
            allow_plain: false,
            login: None,
            from: person("Chroma auf dem Gerät <chroma@example.org>"),
            to: vec![person("ops@example.org"), person("\"Night, on call\" <night@example.net>")],
            tls: Tls::default(),
        }
    }

    fn mail(n: &Notification) -> String {
        let repeat_interval = Duration::from_hours(4);
        let message = Message { receiver: "r", repeat_interval, notification: n, now: n.at };
        String::from_utf8(email().mail(&message).unwrap()).unwrap()
    }

    #[test]
    fn messages_are_as_in_the_golden_files() {
        for (name, notification) in samples::all() {
            golden::holds_text("email", &format!("{name}.eml"), &mail(&notification));
        }
    }

    #[test]
    fn names_write_no_header_and_no_part_of_their_own() {
        let heads = |text: &str| {
            let (head, _) = text.split_once("\r\n\r\n").unwrap();
            let names = head.split("\r\n").filter(|line| !line.starts_with([' ', '\t']));
            names.map(|line| line.split(':').next().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let want = heads(&mail(&samples::disk()));
        let check = |n: &Notification| {
            let text = mail(n);
            assert_eq!(heads(&text), want, "{text}");
            assert!(text.is_ascii() && text.lines().all(|line| line.len() <= 998), "{text}");
            assert_eq!(text.matches("\r\n--part-").count(), 3, "{text}");
            assert_eq!(text.matches('\n').count(), text.matches("\r\n").count());
        };
        let mut n = samples::disk();
        n.alerts[0].store = "docs\r\nBcc: thief@example.org\r\n\r\n--part-0123".to_owned();
        n.host = "db\nX: y".to_owned();
        n.id = "0123\r\nX-Evil: 1".to_owned();
        check(&n);
        hostile(check);
    }

    #[test]
    fn markup_in_names_is_text() {
        let mut n = samples::disk();
        n.alerts[0].evidence = "<script>alert(1)</script> & <b>".to_owned();
        let repeat_interval = Duration::from_hours(4);
        let message = Message { receiver: "r", repeat_interval, notification: &n, now: n.at };
        let html = html(&message);
        assert!(!html.contains("<script") && html.contains("&lt;script&gt;alert(1)"), "{html}");
    }

    #[test]
    fn servers_are_hosts_with_ports() {
        let rule = Err("must be host:port such as mail.example.org:587".into());
        for (text, want) in [
            ("mail.example.org:25", Ok(("mail.example.org".to_owned(), 25))),
            ("mail.example.org", Ok(("mail.example.org".to_owned(), 587))),
            ("[2001:db8::1]:2525", Ok(("2001:db8::1".to_owned(), 2525))),
            ("[::1]", Ok(("::1".to_owned(), 587))),
            ("mail.example.org:0", rule.clone()),
            ("mail.example.org:x", rule.clone()),
            ("[mail]:1", rule.clone()),
            ("[::1]x", rule.clone()),
            ("a b:1", rule.clone()),
            ("", rule.clone()),
            ("smtp://mail.example.org", rule),
        ] {
            assert_eq!(server(text, Encryption::StartTls, false), want, "{text}");
        }
        let plain = |text| server(text, Encryption::None, true).map(|_| ());
        assert!(
            plain("127.0.0.1:25").is_ok() && plain("10.1.2.3").is_ok() && plain("[::1]").is_ok()
        );
        assert!(plain("203.0.113.5:25").unwrap_err().to_string().starts_with("must be encrypted"));
        assert!(server("169.254.1.1:25", Encryption::Tls, false).is_err());
    }

    #[test]
    fn replies_have_their_outcomes() {
        let server = Outcome::Retry { failure: Failure::Server, after: None, unclear: false };
        let refused = Outcome::Rejected { failure: Failure::Client };
        let answer = Outcome::Retry { failure: Failure::Answer, after: None, unclear: true };
        for (code, want) in [
            (250, Outcome::Delivered),
            (354, answer),
            (421, server.clone()),
            (450, server.clone()),
            (452, server),
            (535, refused.clone()),
            (550, refused.clone()),
            (554, refused),
        ] {
            assert_eq!(judge(code), want, "{code}");
        }
    }
}
