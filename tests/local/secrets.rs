//! Secrets stay secret: words that must never be seen stand in every place that takes a secret, and everything that the
//! program says is searched for them while its receivers fail in every way, echo what they got, and hang.

use crate::support::{
    Exporter, SOON, binary, fixture, get,
    hook::{Hook, Reply},
    wait_for,
};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

/// No test or program says it by chance.
const CANARY: &str = "cAnArY7";

fn config(scratch: &Path, store: &Path, hooks: &[&Hook]) -> PathBuf {
    let secret = |name: &str| {
        let file = scratch.join(name);
        fs::write(&file, format!("{CANARY}-{name}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        file.display().to_string()
    };
    let url = |hook: &Hook| format!("http://{}/{CANARY}-path?token={CANARY}-query", hook.address);
    let url_file = scratch.join("url");
    fs::write(&url_file, url(hooks[1])).unwrap();
    let text = format!(
        "state:\n  dir: {state}\nstores:\n  - name: main\n    path: {store}\n    logs: [\"{scratch}/server.log\"]\n    server:\n      url: {server}\n      headers_file: {headers}\n      interval: 1s\ncollect:\n  interval: 500ms\nreceivers:\n\
         \x20 - name: inline\n    type: slack\n    url: {inline}\n    timeout: 1s\n\
         \x20 - name: file\n    type: webhook\n    url_file: {file}\n    signing_key_file: {key}\n    bearer_token_file: {token}\n    timeout: 1s\n\
         \x20 - name: env\n    type: mattermost\n    url_env: CANARY_URL\n    timeout: 1s\n\
         \x20 - name: pager\n    type: pagerduty\n    url: {pager}\n    routing_key: {CANARY}-routing\n    timeout: 1s\n\
         \x20 - name: refused\n    type: webhook\n    url: http://127.0.0.1:1/{CANARY}-refused\n    timeout: 1s\n\
         \x20 - name: proxied\n    type: webhook\n    url: http://127.0.0.1:1/{CANARY}-proxied\n    proxy: http://user:{CANARY}-proxy@{proxy}\n    timeout: 1s\n\
         \x20 - name: command\n    type: command\n    command: [/bin/sh, -c, 'cat >{scratch}/fed; echo failed at $0 >&2; exit 1', 'http://127.0.0.1:1/{CANARY}-command']\n    timeout: 5s\n\
         \x20 - name: well\n    type: webhook\n    url: {well}\n    timeout: 5s\n    group_interval: 0s\n\
         \x20 - name: gone\n    type: webhook\n    url_file: {scratch}/absent\n    timeout: 1s\n",
        state = scratch.join("state").display(),
        store = store.display(),
        inline = url(hooks[0]),
        file = url_file.display(),
        key = secret("key"),
        token = secret("token"),
        pager = url(hooks[2]),
        proxy = hooks[3].address,
        well = hooks[4].url(),
        server = format_args!("http://{}", hooks[5].address),
        headers = secret("headers"),
        scratch = scratch.display(),
    );
    let basic = base64::Engine::encode(
        &base64::prelude::BASE64_STANDARD,
        format!("user:{CANARY}-server-password"),
    );
    let headers = format!(
        "Authorization: Bearer {CANARY}-server-token\nX-Chroma-Token: {CANARY}/\"server\"\nX-Basic: Basic {basic}\n"
    );
    fs::write(scratch.join("headers"), headers).unwrap();
    fs::write(scratch.join("server.log"), "").unwrap();
    let file = scratch.join("config.yml");
    fs::write(&file, text).unwrap();
    file
}

/// The word as it looks within base64, wherever it stands in there.
fn in_base64() -> Vec<String> {
    use base64::prelude::{BASE64_STANDARD, Engine};
    let within = |before: usize| {
        let text = BASE64_STANDARD.encode(format!("{}{CANARY}", "x".repeat(before)));
        // Characters that are made of the word alone.
        text[(before * 8).div_ceil(6)..(before + CANARY.len()) * 8 / 6].to_owned()
    };
    (0..3).map(within).collect()
}

fn clean(what: &str, text: &str) {
    let mut forms = in_base64();
    forms.extend([CANARY.to_owned(), CANARY.to_lowercase()]);
    let place = forms.iter().find_map(|form| text.find(form.as_str()));
    if let Some(at) = place {
        let around: String =
            text[..at].chars().rev().take(200).collect::<Vec<_>>().into_iter().rev().collect();
        panic!("a secret in {what}, after: {around}");
    }
}

#[test]
#[allow(clippy::too_many_lines, reason = "one program, and each place where it says something")]
fn no_secret_is_ever_seen() {
    let scratch = tempfile::tempdir().unwrap();
    let store = fixture("chroma-1.5.9", scratch.path());
    let hooks: [Hook; 7] = std::array::from_fn(|_| Hook::start());
    // Each fails in another way; the first two say back what they were sent.
    hooks[0].answer(Reply::Echo(400));
    hooks[1].answer(Reply::Echo(500));
    hooks[2].answer(Reply::Reset);
    // A proxy and a server that say back what they were sent.
    hooks[3].answer(Reply::Echo(502));
    hooks[5].answer(Reply::Echo(500));
    hooks[6].answer(Reply::Hang(Duration::from_secs(5)));
    let places = hooks.each_ref();
    let config = config(scratch.path(), &store, &places);
    let config = config.to_str().unwrap();
    let env = format!("http://{}/{CANARY}-env", hooks[6].address);
    let args = ["--config.file", config, "--log.level", "trace"];
    let exporter = Exporter::start_with(&args, |command| command.env("CANARY_URL", &env));
    exporter.ready();
    fs::set_permissions(store.join("chroma.sqlite3"), fs::Permissions::from_mode(0o666)).unwrap();
    // A server that writes what it was sent into its log.
    let panic = format!(
        "thread 'x' panicked at src/y.rs:1:\nrange start index 10 out of range, request with {CANARY}-server-token\nERROR internal: Bearer {CANARY}-server-token\n"
    );
    wait_for("the log to be read", SOON, || {
        use std::io::Write;
        let mut log =
            fs::OpenOptions::new().append(true).open(scratch.path().join("server.log")).unwrap();
        log.write_all(panic.as_bytes()).unwrap();
        let said = get(exporter.address, "/api/v1/status").body;
        (said.contains("log_panic") && said.contains("server_failing")
            || said.contains("log_panic") && said.contains("server_unreachable"))
        .then_some(())
    });
    wait_for("a message about the server", SOON, || {
        let reported = hooks[4].posts();
        reported.iter().any(|post| post.text.contains("ChromaServer")).then_some(())
    });
    let receivers = ["inline", "file", "env", "pager", "refused", "proxied", "gone", "command"];
    let page = exporter.wait_page("every receiver to have failed", SOON, |page| {
        receivers.iter().all(|receiver| {
            let labels = [("receiver", *receiver)];
            page.all("chroma_exporter_notifications_failed_total", &labels).any(|(_, n)| n > 0.0)
        })
    });
    wait_for("the failures to be logged", SOON, || {
        receivers
            .iter()
            .all(|receiver| exporter.log().contains(&format!("receiver={receiver}")))
            .then_some(())
    });
    clean("the metrics page", &page.text);
    for path in ["/", "/api/v1/status", "/runbooks/", "/-/ready", "/-/reload", "/nonsense"] {
        clean(path, &get(exporter.address, path).body);
    }
    let status = get(exporter.address, "/api/v1/status").body;
    assert!(status.contains("<secret>"), "nothing of what the server said is left: {status}");
    // What is told to people is told without them, but to those who need them to let it in.
    for (at, hook) in hooks.iter().enumerate().filter(|(at, _)| ![2, 5].contains(at)) {
        for post in hook.posts() {
            clean(&format!("a message to receiver {at}"), &post.text);
        }
    }
    assert!(hooks[5].posts().iter().any(|post| post.headers["authorization"].contains(CANARY)));
    clean("what a command is fed", &fs::read_to_string(scratch.path().join("fed")).unwrap());
    let arguments = fs::read(format!("/proc/{}/cmdline", exporter.pid())).unwrap();
    clean("the arguments", &String::from_utf8_lossy(&arguments));

    let run = |args: &[&str]| {
        let mut command = Command::new(binary());
        command.args(args).env("CANARY_URL", &env).stdin(Stdio::null());
        let out = command.output().unwrap();
        format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
    };
    clean("config print", &run(&["config", "print", "--config.file", config]));
    clean("config check", &run(&["config", "check", "--config.file", config]));
    for more in [&["--output", "json"][..], &[], &["--quick", "--log.level", "trace"]] {
        let mut args = vec!["check", "--config.file", config];
        args.extend(more);
        let said = run(&args);
        assert!(said.contains("server_"), "{said}");
        clean(&format!("check {more:?}"), &said);
    }
    for receiver in receivers {
        for more in [&[][..], &["--dry-run"], &["--log.level", "trace"]] {
            let mut args = vec!["notify", "--config.file", config, receiver];
            args.extend(more);
            clean(&format!("notify {receiver} {more:?}"), &run(&args));
        }
    }
    // A secret that breaks a rule is not shown by the complaint about it, nor is one in the wrong place.
    let text = fs::read_to_string(config).unwrap();
    for (from, to) in [
        ("url: http://127.0.0.1:1/", "url: nonsense://127.0.0.1:1/"),
        ("routing_key: ", "routing_key: [x, y, "),
        ("signing_key_file: ", "signing_key: 12 # "),
        ("proxy: http://user", "proxy: gopher://user"),
        ("url: http://127.0.0.1:1/", "uri: http://127.0.0.1:1/"),
    ] {
        let broken = scratch.path().join("broken.yml");
        assert!(text.contains(from), "{from}");
        fs::write(&broken, text.replacen(from, to, 1)).unwrap();
        let said = run(&["config", "check", "--config.file", broken.to_str().unwrap()]);
        clean(&format!("the complaint about {to}"), &said);
    }
    clean("the log", &exporter.log());

    assert!(exporter.stop().success());
    for entry in fs::read_dir(scratch.path().join("state")).unwrap() {
        let path = entry.unwrap().path();
        let mode = path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", path.display());
        clean(&path.display().to_string(), &String::from_utf8_lossy(&fs::read(&path).unwrap()));
    }
}

fn said_by(args: &[&str]) -> String {
    let out = Command::new(binary()).args(args).stdin(Stdio::null()).output().unwrap();
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

#[test]
fn what_was_pasted_into_a_wrong_place_is_not_repeated() {
    let scratch = tempfile::tempdir().unwrap();
    let address = format!("https://hooks.slack.com/services/T0/B0/{CANARY}-pasted");
    let bare = format!("hooks.slack.com/services/T0/B0/{CANARY}-pasted");
    for paste in [&address, &bare] {
        for receiver in [
            format!("{{name: x, type: slack, url_file: '{paste}'}}"),
            format!("{{name: x, type: slack, url_env: '{paste}'}}"),
            format!("{{name: x, type: slack, url_credential: '{paste}'}}"),
            format!("{{name: '{paste}', type: slack, url: 'https://x.y/z'}}"),
            format!("{{name: x, type: '{paste}'}}"),
            format!("{{name: x, type: slack, url: 'https://x.y/z', timeout: '{paste}'}}"),
            format!("{{name: x, type: slack, url: 'https://x.y/z', min_severity: '{paste}'}}"),
            format!("{{name: x, type: slack, url: 'https://x.y/z', stores: '{paste}'}}"),
            format!("{{name: x, type: slack, url: 'https://x.y/z', send_resolved: '{paste}'}}"),
            format!("{{name: x, type: slack, url: 'https://x.y/z', tls: '{paste}'}}"),
            format!("{{name: x, type: slack, url: 'https://x.y/z', tls: {{ca_file: '{paste}'}}}}"),
            format!("{{name: x, type: slack, url: 'https://x.y/z', headers: ['{paste}']}}"),
            format!(
                "{{name: x, type: slack, url: 'https://x.y/z', headers: [{{name: '{paste}', value: y}}]}}"
            ),
            format!(
                "{{name: x, type: alertmanager, url: 'https://x.y/z', labels: {{'{paste}': y}}}}"
            ),
            format!("{{name: x, type: alertmanager, url: 'https://x.y/z', labels: ['{paste}']}}"),
            format!("{{name: x, type: command, command: '{paste}'}}"),
            format!("{{name: x, type: heartbeat, url: 'https://x.y/z', method: '{paste}'}}"),
            format!("{{name: x, type: slack, urls: ['{paste}']}}"),
            format!("{{name: x, type: slack, '{paste}': y}}"),
            format!(
                "{{name: x, type: webhook, url: 'https://x.y/z', basic_auth: {CANARY}-password}}"
            ),
            format!("{{name: x, type: webhook, url: 'https://x.y/z', headers: {CANARY}-token}}"),
            format!("{{name: x, type: webhook, url: 'https://x.y/z', headers: [{CANARY}-token]}}"),
            format!(
                "{{name: x, type: webhook, url: 'https://x.y/z', headers: [{{name: x, value: [{CANARY}-token]}}]}}"
            ),
            format!("{{name: x, type: slack, '{paste}'}}"),
            format!("'{paste}'"),
            paste.clone(),
            format!("['{paste}']"),
            format!("\"{paste}"),
            format!("{{name: x, type: slack, url: '{paste}"),
            format!("{{name: x, type: slack, url: *{paste}}}"),
            format!("{{name: x, type: !{paste} slack}}"),
        ] {
            for list in [format!("receivers: [{receiver}]\n"), format!("receivers: {receiver}\n")] {
                let broken = scratch.path().join("broken.yml");
                fs::write(&broken, &list).unwrap();
                let said = said_by(&["config", "check", "--config.file", broken.to_str().unwrap()]);
                clean(&format!("the complaint about {list}"), &said);
                clean(
                    "config print",
                    &said_by(&["config", "print", "--config.file", broken.to_str().unwrap()]),
                );
            }
        }
    }
    let header = format!(
        "stores: [{{path: /a, server: {{url: 'http://h', headers_file: 'Authorization: Bearer {CANARY}'}}}}]"
    );
    let broken = scratch.path().join("broken.yml");
    fs::write(&broken, header).unwrap();
    let said = said_by(&["config", "check", "--config.file", broken.to_str().unwrap()]);
    assert!(said.contains("headers_file"), "{said}");
    clean("the complaint about a header in the place of its file", &said);
    // The file of the web server holds hashes of passwords.
    let web = scratch.path().join("web.yml");
    for text in [
        format!("basic_auth_users:\n  admin: {CANARY}-plain\n"),
        format!("basic_auth_users: [{CANARY}-plain]\n"),
        format!("basic_auth_users:\n  admin: [{CANARY}-plain]\n"),
        format!("basic_auth_users: {CANARY}-plain\n"),
    ] {
        fs::write(&web, text).unwrap();
        clean(
            "the complaint about passwords",
            &said_by(&["config", "check", "--web.config.file", web.to_str().unwrap()]),
        );
    }
}

/// Marks of direction and characters that nobody sees make a name look like another one.
#[test]
fn a_name_that_misleads_is_written_out_wherever_it_is_shown() {
    let misleads = |c: char| {
        matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{feff}')
            || (c.is_control() && c != '\n')
    };
    let clear = |what: &str, text: &str| {
        let found = text.char_indices().find(|(_, c)| misleads(*c));
        if let Some((at, c)) = found {
            panic!("{what} has {c:?} after {}", text[..at].lines().last().unwrap_or_default());
        }
    };
    let scratch = tempfile::tempdir().unwrap();
    let source = fixture("chroma-1.5.9", scratch.path());
    let name = "db\u{202e}gpj.\u{2066}exe\u{200b}x";
    let store = scratch.path().join(name);
    fs::rename(source, &store).unwrap();
    fs::set_permissions(store.join("chroma.sqlite3"), fs::Permissions::from_mode(0o666)).unwrap();
    fs::write(store.join(format!("{name}.sqlite3-journal")), "x").unwrap();
    let hook = Hook::start();
    let config = scratch.path().join("config.yml");
    let text = format!(
        "state:\n  dir: {}\nstores:\n  - name: main\n    path: \"{}/db\\u202egpj.\\u2066exe\\u200bx\"\nreceivers:\n  - name: hook\n    type: slack\n    url: {}\n",
        scratch.path().join("state").display(),
        scratch.path().display(),
        hook.url()
    );
    fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap();
    let exporter = Exporter::start(&["--config.file", config, "--log.level", "trace"]);
    exporter.ready();
    wait_for("a message", SOON, || (!hook.posts().is_empty()).then_some(()));
    // A store that is gone is told with its path.
    let away = scratch.path().join("away");
    fs::rename(&store, &away).unwrap();
    wait_for("the path in the log", SOON, || exporter.log().contains("gpj.").then_some(()));
    clear("the log", &exporter.log());
    for path in ["/", "/api/v1/status"] {
        clear(path, &get(exporter.address, path).body);
    }
    fs::rename(&away, &store).unwrap();
    assert!(exporter.stop().success());
    for post in hook.posts() {
        clear("a message", &post.text);
    }
    clear("check", &said_by(&["check", "--config.file", config]));
    clear("check as JSON", &said_by(&["check", "--config.file", config, "--output", "json"]));
    let path = format!("relative/{name}");
    clear("a complaint", &said_by(&["config", "check", "--state.dir", &path]));
    clear("a complaint", &said_by(&["config", "check", "--config.file", &path]));
}
