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
    fmt,
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

use super::{
    Declared, Kind, Message, Route, Unsendable,
    keys::{PASSWORD, Tls},
    markup::{Dialect, escape},
    slack::{color, sections},
    words,
};
use crate::{
    alert::message::{Failure, Outcome},
    facts::bad_value::BadValue,
    keys::{
        key::{self, Declared as _, Written, choice, keys, section, switch, word},
        secret::Secret,
        section::{self, Section, text},
        target,
    },
};

/// E-mail.
pub(super) static KIND: Declared = Declared {
    http: false,
    // Servers keep strangers waiting on purpose, and some check a message before they take it.
    timeout: Duration::from_mins(1),
    timeout_max: Duration::from_mins(10),
    ..Declared::new("email", EmailKeys::keys, |section| Some(Arc::new(read(section)?)))
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

impl fmt::Display for Person {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
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

keys! {
    /// A mailbox, by an SMTP server.
    struct EmailKeys {
        /// host:port of the SMTP server. Without a port 587, with tls 465, with none 25.
        server: Option<(String, u16)> = None, smtp_server();
        /// How the connection is encrypted. tls is from the first byte; none may only lead to loopback and private addresses.
        encryption: Encryption = Encryption::StartTls, choice(&Encryption::ALL, Encryption::as_str);
        /// Whether none may lead to public addresses too.
        allow_plain: bool = false, switch();
        /// The user. Leave out user and password when the server wants none.
        username: Option<String> = None, user();
        /// Their password.
        password: Option<Secret> = None, password();
        /// The address that messages come from.
        from: Option<Person> = None, word("e-mail address, perhaps with a name", Person::parse)
            .optional().required("must be given: the address that messages come from");
        /// The addresses that get them.
        to: Vec<Person> = Vec::new(), recipients();
        /// Certificates.
        tls: Tls = Tls::default(), section();
    }
}

/// `None` when something that it cannot do without is wrong.
fn read(section: &Section<'_>) -> Option<Email> {
    let keys = EmailKeys::read(section);
    let (host, port) = keys.server?;
    let (encryption, allow_plain) = (keys.encryption, keys.allow_plain);
    let login = keys.username.zip(keys.password);
    Some(Email {
        host,
        port,
        encryption,
        allow_plain,
        login,
        from: keys.from?,
        to: keys.to,
        tls: keys.tls,
    })
}

/// What it may be depends on how the connection is encrypted.
fn smtp_server() -> key::Kind<Option<(String, u16)>> {
    let read = |section: &Section<'_>, key| {
        let encryption = choice(&Encryption::ALL, Encryption::as_str);
        let encryption = encryption.peek(section, "encryption").unwrap_or(Encryption::StartTls);
        let allow_plain = switch().peek(section, "allow_plain").unwrap_or(false);
        let private_only = encryption == Encryption::None && !allow_plain;
        Some(Some(section.read(key, |value| server(text(value)?, encryption, private_only))?.value))
    };
    let write = |server: &Option<(String, u16)>| {
        let (host, port) = server.as_ref()?;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        Some(Written::Text(format!("{host}:{port}")))
    };
    key::Kind::custom("host:port", read, write)
        .required("must be given: host:port of an SMTP server")
}

fn user() -> key::Kind<Option<String>> {
    let read = |section: &Section<'_>, key| {
        if section.node(key).is_none() && PASSWORD.stands(section) {
            section.missing(key, "must be given when there is a password");
        }
        let name = section.read(key, |value| match text(value)? {
            "" => Err("must not be empty".into()),
            name if name.contains(char::is_control) => Err("must be one line of text".into()),
            name => Ok(name.to_owned()),
        });
        Some(Some(name?.value))
    };
    let write = |name: &Option<String>| name.clone().map(Written::Text);
    key::Kind::custom("text", read, write)
}

/// It must be there when there is a user.
fn password() -> key::Kind<Option<Secret>> {
    let read = |section: &Section<'_>, _| match section.node("username") {
        Some(_) => PASSWORD.need(section, |_| Ok(())).map(Some),
        None => PASSWORD.read(section, |_| Ok(())).map(Some),
    };
    key::Kind::custom("secret", read, |secret: &Option<Secret>| {
        secret.as_ref().and_then(|secret| PASSWORD.written(secret))
    })
}

fn recipients() -> key::Kind<Vec<Person>> {
    let read = |section: &Section<'_>, key| {
        section.node(key)?;
        let people = section::texts(section, key, RECIPIENTS_MAX, Person::parse);
        if people.is_empty() && section.is_empty_list(key) {
            section.add(section.place(key).wrong("must name at least one address"));
        }
        Some(people)
    };
    let write = |people: &Vec<Person>| {
        let text = |person: &Person| Written::Text(person.text.clone());
        Some(Written::List(people.iter().map(text).collect()))
    };
    let what = format!("list of e-mail addresses, at most {RECIPIENTS_MAX}");
    key::Kind::custom(what, read, write).required("must be given: a list of addresses")
}

/// Host and port of `host`, `host:port` or `[address]:port`. Errs when it is neither, or an address that is not allowed.
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

impl Kind for Email {
    fn written(&self) -> Written {
        let (username, password) = self.login.clone().unzip();
        let keys = EmailKeys {
            server: Some((self.host.clone(), self.port)),
            encryption: self.encryption,
            allow_plain: self.allow_plain,
            username,
            password,
            from: Some(self.from.clone()),
            to: self.to.clone(),
            tls: self.tls.clone(),
        };
        keys.written()
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
