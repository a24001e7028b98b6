use std::path::Path;

use super::*;
use crate::{
    config::{Config, Overrides, file::load_from, print, validate::Surroundings},
    keys::secret::SHOWN,
};

fn read(text: &str) -> Result<Config, Vec<String>> {
    load_from(
        Some((Path::new("c.yml"), text)),
        &Overrides::default(),
        &crate::collectors::families(),
        &Surroundings::default(),
    )
    .map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

#[test]
fn every_problem_of_every_receiver_is_told_and_no_secret() {
    let text = "\
receivers:
  - type: slack
    url: ftp://canary-1@example.org/canary-2
  - name: a b
    type: slak
    url: https://canary-3/
    anything: canary
  - name: a
    type: webhook
    min_severity: grave
    stores: ['[', x]
    signing_key: whsec_canary*
    headers: [{name: Host, value: canary}, {name: X, value: \"canary\\n\"}, {value_env: A}]
    basic_auth: {username: 'a:b'}
    bearer_token: canary
    tls: {cert_file: /a, ca_file: b}
    proxy: canary
  - name: a
    type: slack
    url: http://203.0.113.1/canary
    url_file: /x
    url_env: A B
  - {name: c, type: command, command: [sh, -c]}
  - {name: d, type: command, url: 'https://canary/'}
  - {name: e, type: heartbeat, url: <secret>, method: PUT, min_severity: info}
  - {name: f, type: pagerduty, timeout: 3m}
  - {name: g, type: alertmanager, url_credential: ../x, labels: {1a: b, b: [c], ok: d}}
  - 5
  - {name: h, type: ntfy, topic: canary/x}
  - {name: i, type: ntfy, url: 'ftp://canary'}
  - {name: j, type: email, server: '203.0.113.7:25', encryption: none, from: 'a b <a@example.org', to: [nobody], password: canary, url: 'https://canary/'}
  - {name: k, type: email, encryption: ssl, username: u}
";
    let want = [
        "c.yml:2: receivers[0].name: must be given: what labels and logs call it",
        "c.yml:3: receivers[0].url = <secret>: must be a URL such as https://example.org/hook",
        "c.yml:4: receivers[1].name = a b: must be 1 to 64 of the characters A-Z a-z 0-9 _ . -",
        "c.yml:5: receivers[1].type = slak: must be slack, mattermost, rocketchat, discord, webhook, alertmanager, pagerduty, ntfy, email, command, heartbeat",
        "c.yml:10: receivers[2].min_severity = grave: must be info, warning, critical",
        "c.yml:11: receivers[2].stores[0] = [: must be a shell pattern such as docs-*",
        "c.yml:12: receivers[2].signing_key = <secret>: must be base64 after whsec_",
        "c.yml:13: receivers[2].headers[0].name = Host: must be another header: this one is set by the program",
        "c.yml:13: receivers[2].headers[1].value = <secret>: must be printable ASCII",
        "c.yml:13: receivers[2].headers[2].name: must be given",
        "c.yml:14: receivers[2].basic_auth.username = a:b: must not hold a colon",
        "c.yml:14: receivers[2].basic_auth.password: must be given, or password_file, password_env or password_credential",
        "c.yml:14: receivers[2].basic_auth: must not stand beside bearer_token: one of them is enough",
        "c.yml:16: receivers[2].tls.ca_file = b: must be an absolute path",
        "c.yml:16: receivers[2].tls.cert_file: must stand together with key_file",
        "c.yml:8: receivers[2].url: must be given, or url_file, url_env or url_credential",
        "c.yml:17: receivers[2].proxy = <secret>: must be a URL such as http://proxy:3128 or socks5h://proxy:1080",
        "c.yml:18: receivers[3].name = a: must be unique, and receivers[2] has it too",
        "c.yml:20: receivers[3].url = <secret>: must be https: http is only for loopback and private addresses, unless allow_http is true",
        "c.yml:21: receivers[3].url_file: must not stand beside url: one of them is enough",
        "c.yml:23: receivers[4].command[0] = sh: must be an absolute path",
        "c.yml:24: receivers[5].command: must be given: program and arguments as a list",
        "c.yml:24: receivers[5].url: has no meaning here: only others of this list have it",
        "c.yml:25: receivers[6].method = PUT: must be GET, POST",
        "c.yml:25: receivers[6].url = <secret>: must be the secret itself: `config print` leaves it out",
        "c.yml:25: receivers[6].min_severity: has no meaning here",
        "c.yml:26: receivers[7].timeout = 3m: must be 100ms to 2m",
        "c.yml:26: receivers[7].routing_key: must be given, or routing_key_file, routing_key_env or routing_key_credential",
        "c.yml:27: receivers[8].labels.1a: must be a label name of a-z A-Z 0-9 _",
        "c.yml:27: receivers[8].labels.b = (a list): must be text",
        "c.yml:27: receivers[8].url_credential = ../x: must be a name of A-Z a-z 0-9 _ . -",
        "c.yml:28: receivers[9] = 5: must be keys and values, indented below it",
        "c.yml:29: receivers[10].topic = <secret>: must be 1 to 64 of the characters A-Z a-z 0-9 _ -",
        "c.yml:31: receivers[12].server = 203.0.113.7:25: must be encrypted: without that it may only be a loopback or private address, unless allow_plain is true",
        "c.yml:31: receivers[12].from = a b <a@example.org: must be an e-mail address such as ops@example.org or Ops <ops@example.org>",
        "c.yml:31: receivers[12].to[0] = nobody: must be an e-mail address such as ops@example.org or Ops <ops@example.org>",
        "c.yml:31: receivers[12].username: must be given when there is a password",
        "c.yml:31: receivers[12].url: has no meaning here: only others of this list have it",
        "c.yml:32: receivers[13].encryption = ssl: must be starttls, tls, none",
        "c.yml:32: receivers[13].server: must be given: host:port of an SMTP server",
        "c.yml:32: receivers[13].password: must be given, or password_file, password_env or password_credential",
        "c.yml:32: receivers[13].from: must be given: the address that messages come from",
        "c.yml:32: receivers[13].to: must be given: a list of addresses",
        "c.yml:30: receivers[11].url = <secret>: must be a URL such as https://example.org/hook",
        "c.yml:30: receivers[11].topic: must be given, or topic_file, topic_env or topic_credential",
    ];
    let found = read(text).unwrap_err();
    for want in want {
        assert!(
            found.iter().any(|line| line.starts_with(want)),
            "{want}\nin\n{}",
            found.join("\n")
        );
    }
    assert_eq!(found.len(), want.len(), "{}", found.join("\n"));
    assert!(!found.join("\n").contains("canary"), "{}", found.join("\n"));
}

#[test]
fn kinds_have_their_defaults() {
    let text = "\
receivers:
  - {name: s, type: slack, url: 'https://hooks.slack.com/services/T/B/canary'}
  - {name: a, type: alertmanager, url: 'http://127.0.0.1:9093', stores: [docs-*, x]}
  - {name: c, type: command, command: [/bin/true]}
  - {name: h, type: heartbeat, url_env: BEAT}
  - {name: p, type: pagerduty, routing_key: canary, min_severity: critical}
";
    let config = read(text).unwrap();
    let [slack, alertmanager, command, beat, pager] = &config.receivers[..] else {
        panic!("{:?}", config.receivers)
    };
    assert_eq!(slack.repeat_interval, Duration::from_hours(4));
    assert_eq!(slack.timeout, Duration::from_secs(10));
    assert!(slack.wants("any", Severity::Warning) && !slack.wants("any", Severity::Info));
    assert_eq!(alertmanager.repeat_interval, Duration::from_mins(1));
    assert!(alertmanager.wants("docs-1", Severity::Critical));
    assert!(!alertmanager.wants("other", Severity::Critical));
    assert_eq!(command.timeout, Duration::from_secs(30));
    assert_eq!(beat.repeat_interval, Duration::from_mins(1));
    assert!(!pager.wants("x", Severity::Warning));
    let printed = print::to_yaml(&config).unwrap();
    for shown in [format!("{config:?}"), printed] {
        assert!(!shown.contains("canary") && shown.contains(SHOWN), "{shown}");
    }
}

#[test]
fn what_is_printed_of_receivers_is_read_back() {
    let example = include_str!("../../../../chroma_exporter.example.yml");
    let more = "
  - name: more
    type: webhook
    url_env: HOOK
    headers: [{name: X-A, value_credential: a.b}]
    stores: ['true', '1', 'a\"[!b]*']
  - {name: mm, type: mattermost, url_credential: mm, proxy_env: P}
  - {name: rc, type: rocketchat, url_file: '/with space'}
  - {name: dc, type: discord, url_file: /d, send_resolved: false, timeout: 250ms}
  - {name: am, type: alertmanager, url_file: /a, labels: {a: 'true', b: '', c: \"x: #y\"}}
  - {name: nt, type: ntfy, topic_file: /t, bearer_token_env: NTFY}
  - {name: em, type: email, server: 'mail.example.org:25', from: 'Chroma <c@example.org>', to: [a@example.org], username: u, password_env: P}
  - {name: en, type: email, server: '[::1]', encryption: none, from: c@example.org, to: ['\"A, B\" <a@example.org>', b@example.org], tls: {ca_file: /c}}
  - {name: ns, type: ntfy, url_file: /u, topic_credential: nt}
  - {name: co, type: command, command: [/bin/x, '', ' a', '{}', '- b', \"\\u00e4\\n\"]}
";
    let config = read(&format!("{example}{more}")).unwrap();
    assert!(config.receivers.len() >= 12);
    let text = print::to_yaml(&config).unwrap();
    assert_eq!(read(&text).as_ref(), Ok(&config), "{text}");
}

#[test]
fn the_list_is_bounded() {
    let item = "{name: a, type: heartbeat, url_env: A}, ";
    let found = read(&format!("receivers: [{}]", item.repeat(65))).unwrap_err();
    assert!(found[0].ends_with("receivers = 65 items: must be at most 64"), "{}", found[0]);
}
