//! The alert hooks as a whole: the built binary, a real Chroma directory that breaks, a receiver on loopback.
#![allow(clippy::float_cmp, reason = "states are 0 and 1")]

use crate::support::{
    Exporter, SOON, fixture,
    hook::{Hook, Reply},
    replace_file, run, wait_for,
};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

const OPEN: &str = "ChromaPermissionWorldWritable";

/// A store, a state directory and a configuration with one receiver.
struct Place {
    scratch: tempfile::TempDir,
    store: PathBuf,
}

impl Place {
    fn new(receivers: &str) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let store = fixture("chroma-1.5.9", scratch.path());
        // The learnt baseline must not depend on the umask of whoever runs the tests.
        fs::set_permissions(store.join("chroma.sqlite3"), fs::Permissions::from_mode(0o644))
            .unwrap();
        let place = Self { scratch, store };
        place.write(receivers);
        place
    }

    fn write(&self, receivers: &str) {
        let text = format!(
            "state:\n  dir: {}\nstores:\n  - name: main\n    path: {}\ncollect:\n  interval: 500ms\nalerts:\n  host: testhost\n{receivers}",
            self.state().display(),
            self.store.display()
        );
        replace_file(&self.config(), text);
    }

    fn config(&self) -> PathBuf {
        self.scratch.path().join("config.yml")
    }

    fn state(&self) -> PathBuf {
        self.scratch.path().join("state")
    }

    fn start(&self) -> Exporter {
        let exporter = Exporter::start(&["--config.file", self.config().to_str().unwrap()]);
        exporter.ready();
        exporter
    }

    fn open_to_all(&self, open: bool) {
        set_open(&self.store, open);
    }
}

fn set_open(store: &Path, open: bool) {
    let mode = if open { 0o646 } else { 0o644 };
    fs::set_permissions(store.join("chroma.sqlite3"), fs::Permissions::from_mode(mode)).unwrap();
}

fn hook_config(hook: &Hook) -> String {
    format!(
        "receivers:\n  - name: hook\n    type: webhook\n    url: {}\n    group_interval: 0s\n    timeout: 2s\n",
        hook.url()
    )
}

fn wait_told(hook: &Hook, name: &str, status: &str, count: usize) {
    wait_for(&format!("{count} times {name} {status}"), SOON, || {
        (hook.count("main", name, status) >= count).then_some(())
    });
}

#[test]
fn a_fault_reaches_the_receiver_and_so_does_its_end() {
    let hook = Hook::start();
    let place = Place::new(&hook_config(&hook));
    let exporter = place.start();
    let labels = [("store", "main"), ("alert", OPEN), ("severity", "warning")];
    let page = exporter.ready();
    assert_eq!(page.get("chroma_alert_firing", &labels), None, "it does not fire yet");
    for reason in ["connect", "timeout", "rate_limited", "client", "server"] {
        let labels = [("receiver", "hook"), ("reason", reason)];
        assert_eq!(page.value("chroma_exporter_notifications_failed_total", &labels), 0.0);
    }
    assert_eq!(page.value("chroma_exporter_alert_state_persistent", &[]), 1.0);

    place.open_to_all(true);
    wait_told(&hook, OPEN, "firing", 1);
    exporter.wait_page("the alert on the page", SOON, |page| {
        page.get("chroma_alert_firing", &labels) == Some(1.0)
    });
    let post =
        hook.posts().into_iter().find(|p| p.received().iter().any(|t| t.name == OPEN)).unwrap();
    assert!(post.headers["content-type"].starts_with("application/json"));
    assert_eq!(post.headers["webhook-id"].len(), 32);
    let json = post.json();
    assert_eq!((json["version"].as_str(), json["status"].as_str()), (Some("4"), Some("firing")));

    place.open_to_all(false);
    wait_told(&hook, OPEN, "resolved", 1);
    // The receiver has it before the program has the answer.
    exporter.wait_page("the end on the page, and that it was delivered", SOON, |page| {
        let queue = ("chroma_exporter_notification_queue_length", [("receiver", "hook")]);
        page.get("chroma_alert_firing", &labels).is_none()
            && page.has(queue.0, &queue.1, |length| length == 0.0)
            && page.has("chroma_exporter_notification_last_success_timestamp_seconds", &[], |at| {
                at > 1e9
            })
    });
    assert!(exporter.stop().success());
    assert_eq!(hook.count("main", OPEN, "firing"), 1);
}

#[test]
fn a_restart_tells_nothing_twice_and_forgets_nothing() {
    let hook = Hook::start();
    let place = Place::new(&hook_config(&hook));
    let exporter = place.start();
    place.open_to_all(true);
    wait_told(&hook, OPEN, "firing", 1);
    let log = exporter.log();
    wait_for("the answer to be noted", SOON, || {
        exporter.log().contains("Notification delivered").then_some(())
    });
    drop(exporter); // killed
    assert!(!log.contains("level=error"), "{log}");

    let exporter = place.start();
    exporter.wait_page("the alert after the restart", SOON, |page| {
        page.get("chroma_alert_firing", &[("alert", OPEN)]) == Some(1.0)
    });
    assert!(exporter.stop().success());
    assert_eq!(hook.count("main", OPEN, "firing"), 1, "told once");

    // It ends while the program is down, and the receiver is down when it comes back.
    place.open_to_all(false);
    hook.answer(Reply::Say(503, "", "away"));
    let exporter = place.start();
    let failed = [("receiver", "hook"), ("reason", "server")];
    exporter.wait_page("a failed attempt", SOON, |page| {
        page.has("chroma_exporter_notifications_failed_total", &failed, |count| count > 0.0)
            && page.has("chroma_exporter_notification_queue_length", &[], |length| length >= 1.0)
    });
    drop(exporter);
    hook.answer(Reply::Say(200, "", "ok"));
    let before = hook.count("main", OPEN, "resolved");
    let _exporter = place.start();
    wait_for("the end to arrive", SOON, || {
        (hook.count("main", OPEN, "resolved") > before).then_some(())
    });
}

#[test]
fn one_exporter_at_a_time_owns_a_state_directory() {
    let hook = Hook::start();
    let place = Place::new(&hook_config(&hook));
    let first = place.start();
    place.open_to_all(true);
    wait_told(&hook, OPEN, "firing", 1);

    // A second one waits, and then says who is in its way. What only reads is in nobody's.
    let config = place.config();
    let config = config.to_str().unwrap();
    let second = run(&["--config.file", config, "--web.listen-address", "127.0.0.1:0"]);
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8(second.stderr).unwrap();
    let state = place.state().display().to_string();
    for want in ["Cannot start", &*state, &format!("process {} on ", first.pid()), "--state.dir"] {
        assert!(said.contains(want), "{want} is missing in {said}");
    }
    assert!(!said.contains("Listening"), "{said}");
    let check = run(&["check", "--quick", "--config.file", config]);
    assert_eq!(check.status.code(), Some(1), "{}", String::from_utf8_lossy(&check.stderr));

    // In a restart that overlaps the old one ends while the new one waits, and nothing is told twice.
    let pid = first.pid();
    let ends = std::thread::spawn(move || {
        std::thread::sleep(std::time::Duration::from_secs(2));
        assert!(first.stop().success());
    });
    let second = place.start();
    ends.join().unwrap();
    let log = second.log();
    assert!(log.contains("waiting for that to end") && log.contains(&pid.to_string()), "{log}");
    second.wait_page("the alert after the change", SOON, |page| {
        page.get("chroma_alert_firing", &[("alert", OPEN)]) == Some(1.0)
    });
    place.open_to_all(false);
    wait_told(&hook, OPEN, "resolved", 1);
    assert_eq!(hook.count("main", OPEN, "firing"), 1);
}

#[test]
fn a_damaged_state_file_is_set_aside_and_said_and_alerts_go_on() {
    let hook = Hook::start();
    let place = Place::new(&hook_config(&hook));
    let exporter = place.start();
    place.open_to_all(true);
    wait_told(&hook, OPEN, "firing", 1);
    assert!(exporter.stop().success());
    fs::write(place.state().join("alerts.sqlite3"), vec![0x5a; 20_000]).unwrap();
    drop(fs::remove_file(place.state().join("alerts.sqlite3-wal")));
    let exporter = place.start();
    wait_told(&hook, OPEN, "firing", 2);
    wait_for("the damage to be logged", SOON, || {
        let log = exporter.log();
        (log.contains("level=error") && log.contains("set aside")).then_some(())
    });
    let names = fs::read_dir(place.state()).unwrap().map(|e| e.unwrap().file_name());
    assert!(names.into_iter().any(|n| n.to_string_lossy().starts_with("alerts.sqlite3.damaged-")));
}

#[test]
fn without_a_state_directory_alerts_go_on_from_memory() {
    let hook = Hook::start();
    let place = Place::new(&hook_config(&hook));
    let text = fs::read_to_string(place.config()).unwrap();
    let state = format!("state:\n  dir: {}\n", place.state().display());
    fs::write(place.config(), text.replace(&state, "state:\n  dir: \"\"\n")).unwrap();
    let exporter = place.start();
    place.open_to_all(true);
    wait_told(&hook, OPEN, "firing", 1);
    assert_eq!(exporter.page().value("chroma_exporter_alert_state_persistent", &[]), 0.0);
}

#[test]
fn a_silence_from_beside_holds_alerts_back_until_it_is_ended() {
    let hook = Hook::start();
    let place = Place::new(&hook_config(&hook));
    let other = fixture("chroma-1.1.1", place.scratch.path());
    set_open(&other, false);
    let config = place.config();
    let second = format!("stores:\n  - name: other\n    path: {}\n", other.display());
    let text = fs::read_to_string(&config).unwrap().replace("stores:\n", &second);
    replace_file(&config, text);
    let exporter = place.start();
    let silence = |args: &[&str]| {
        let mut all = vec!["silence", "--config.file", config.to_str().unwrap()];
        all.extend(args);
        let out = run(&all);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    let id = silence(&["add", "--store", "ma*", "--for", "1h", "--comment", "moving"]);
    exporter.wait_page("the silence", SOON, |page| {
        page.has("chroma_exporter_silences", &[], |silences| silences == 1.0)
    });
    place.open_to_all(true);
    exporter.wait_page("the alert, silenced", SOON, |page| {
        page.get("chroma_alert_firing", &[("store", "main"), ("alert", OPEN)]) == Some(1.0)
    });
    // One that began later and is not silenced has come: the other would have been there before it.
    set_open(&other, true);
    wait_for("an alert that is not silenced", SOON, || {
        (hook.count("other", OPEN, "firing") > 0).then_some(())
    });
    assert_eq!(hook.count("main", OPEN, "firing"), 0);
    assert!(silence(&["list"]).contains("moving"));
    silence(&["expire", id.trim()]);
    wait_told(&hook, OPEN, "firing", 1);
    assert!(silence(&["list"]).contains("no silence"));
}

#[test]
fn a_dead_receiver_delays_no_other_and_a_reload_changes_rules_and_receivers() {
    let (dead, well) = (Hook::start(), Hook::start());
    dead.answer(Reply::Hang(std::time::Duration::from_secs(20)));
    let receivers = format!(
        "{}  - name: dead\n    type: webhook\n    url: {}\n    timeout: 1s\n",
        hook_config(&well),
        dead.url()
    );
    let place = Place::new(&receivers);
    let exporter = place.start();
    place.open_to_all(true);
    wait_told(&well, OPEN, "firing", 1);
    place.open_to_all(false);
    wait_told(&well, OPEN, "resolved", 1);
    exporter.wait_page("the dead one's failures", SOON, |page| {
        let labels = [("receiver", "dead"), ("reason", "timeout")];
        page.has("chroma_exporter_notifications_failed_total", &labels, |count| count > 0.0)
    });
    // Word for word, because nobody knows whether the first arrived.
    let ids = || dead.posts().into_iter().map(|p| (p.headers["webhook-id"].clone(), p.text));
    wait_for("a second attempt", SOON, || (ids().count() > 1).then_some(()));
    assert_eq!(ids().next(), ids().nth(1));

    // A rule of one's own, over any series, and without the dead receiver.
    let own = "  rules:\n    - name: Records\n      series: chroma_store_apparent_bytes\n      match:\n        class: sqlite\n      threshold: 1\n      labels:\n        team: search\n      summary: Some bytes\n    - name: ChromaPermissionWorldWritable\n      enabled: false\n";
    place.write(&format!("{own}{}", hook_config(&well)));
    exporter.signal("HUP");
    wait_told(&well, "Records", "firing", 1);
    place.open_to_all(true);
    wait_told(&well, "ChromaPermissionDrift", "firing", 1);
    assert_eq!(well.count("main", OPEN, "firing"), 1, "switched off");
    exporter.wait_page("the dead receiver to be gone", SOON, |page| {
        page.get("chroma_exporter_notification_queue_length", &[("receiver", "dead")]).is_none()
    });
    let text = well.posts().last().unwrap().text.clone();
    assert!(well.posts().iter().any(|post| post.text.contains("\"team\":\"search\"")), "{text}");
}

#[test]
fn mistakes_in_rules_are_told_all_at_once() {
    let place = Place::new(
        "  external_url: ftp://x\n  rules:\n    - name: ChromaWalMode\n      threshold: 5\n    - name: ChromaDiskUsageHigh\n      recover: 0.9\n    - name: Own\n      series: chroma_nonsense\n      threshold: 1\n    - name: 9bad\n    - name: Own2\n      series: chroma_disk_used_ratio\n      match:\n        nolabel: x\n",
    );
    let out = run(&["config", "check", "--config.file", place.config().to_str().unwrap()]);
    assert_eq!(out.status.code(), Some(78));
    let text = String::from_utf8(out.stderr).unwrap();
    for want in [
        "alerts.external_url",
        "alerts.rules[0].threshold",
        "alerts.rules[1].recover",
        "alerts.rules[2].series = chroma_nonsense",
        "alerts.rules[3].name = 9bad",
        "alerts.rules[4].match",
        "alerts.rules[4].threshold",
    ] {
        assert!(text.contains(want), "{want} is missing in\n{text}");
    }
}

#[test]
fn notify_says_what_the_receiver_answered() {
    let hook = Hook::start();
    let place = Place::new(&hook_config(&hook));
    let notify = |args: &[&str]| {
        let config = place.config();
        let mut all = vec!["notify", "--config.file", config.to_str().unwrap(), "hook"];
        all.extend(args);
        let out = run(&all);
        (out.status.code(), String::from_utf8(out.stdout).unwrap())
    };
    let (code, text) = notify(&["--dry-run"]);
    assert_eq!(code, Some(0));
    assert!(text.contains("ChromaTest") && text.contains("testhost"), "{text}");
    assert!(hook.posts().is_empty(), "a dry run sends nothing");
    let (code, text) = notify(&[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.starts_with("hook (webhook): delivered"), "{text}");
    assert_eq!(hook.count("main", "ChromaTest", "firing"), 1);
    hook.answer(Reply::Say(503, "", "later"));
    let (code, text) = notify(&["--resolved"]);
    assert_eq!(code, Some(1), "{text}");
    hook.answer(Reply::Say(404, "", "no_service"));
    let (code, text) = notify(&[]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("404 no_service"), "{text}");
    let out = run(&["notify", "--config.file", place.config().to_str().unwrap(), "nobody"]);
    assert_eq!(out.status.code(), Some(64));
    assert!(String::from_utf8(out.stderr).unwrap().contains("there are hook"));
}
