//! Secrets stay secret: words that must never be seen stand in every place that takes a secret, and everything that the
//! program says is searched for them while its receivers fail in every way, echo what they got, and hang.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/hook.rs"]
mod hook;
mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use hook::{Hook, Reply};
use support::{Exporter, SOON, binary, fixture, get, wait_for};

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
        "state:\n  dir: {state}\nstores:\n  - name: main\n    path: {store}\ncollect:\n  interval: 500ms\nreceivers:\n\
         \x20 - name: inline\n    type: slack\n    url: {inline}\n    timeout: 1s\n\
         \x20 - name: file\n    type: webhook\n    url_file: {file}\n    signing_key_file: {key}\n    bearer_token_file: {token}\n    timeout: 1s\n\
         \x20 - name: env\n    type: mattermost\n    url_env: CANARY_URL\n    timeout: 1s\n\
         \x20 - name: pager\n    type: pagerduty\n    url: {pager}\n    routing_key: {CANARY}-routing\n    timeout: 1s\n\
         \x20 - name: refused\n    type: webhook\n    url: http://127.0.0.1:1/{CANARY}-refused\n    timeout: 1s\n\
         \x20 - name: proxied\n    type: webhook\n    url: http://127.0.0.1:1/{CANARY}-proxied\n    proxy: http://user:{CANARY}-proxy@127.0.0.1:1\n    timeout: 1s\n\
         \x20 - name: gone\n    type: webhook\n    url_file: {scratch}/absent\n    timeout: 1s\n",
        state = scratch.join("state").display(),
        store = store.display(),
        inline = url(hooks[0]),
        file = url_file.display(),
        key = secret("key"),
        token = secret("token"),
        pager = url(hooks[2]),
        scratch = scratch.display(),
    );
    let file = scratch.join("config.yml");
    fs::write(&file, text).unwrap();
    file
}

fn clean(what: &str, text: &str) {
    let place = text.find(CANARY).or_else(|| text.find(&CANARY.to_lowercase()));
    if let Some(at) = place {
        let around: String =
            text[..at].chars().rev().take(200).collect::<Vec<_>>().into_iter().rev().collect();
        panic!("a secret in {what}, after: {around}");
    }
}

#[test]
fn no_secret_is_ever_seen() {
    let scratch = tempfile::tempdir().unwrap();
    let store = fixture("chroma-1.5.9", scratch.path());
    let hooks = [Hook::start(), Hook::start(), Hook::start(), Hook::start()];
    // Each fails in another way; the first two say back what they were sent.
    hooks[0].answer(Reply::Echo(400));
    hooks[1].answer(Reply::Echo(500));
    hooks[2].answer(Reply::Reset);
    hooks[3].answer(Reply::Hang(Duration::from_secs(5)));
    let config = config(scratch.path(), &store, &[&hooks[0], &hooks[1], &hooks[2]]);
    let config = config.to_str().unwrap();
    let env = format!("http://{}/{CANARY}-env", hooks[3].address);
    let args = ["--config.file", config, "--log.level", "trace"];
    let exporter = Exporter::start_with(&args, |command| command.env("CANARY_URL", &env));
    exporter.ready();
    fs::set_permissions(store.join("chroma.sqlite3"), fs::Permissions::from_mode(0o666)).unwrap();
    let receivers = ["inline", "file", "env", "pager", "refused", "proxied", "gone"];
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
