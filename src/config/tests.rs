//! The rooms of the configuration together: from text and flags to a `Config` or to every problem.

mod round_trip;

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use super::{
    alerts::Alerts,
    file::{self, load},
    validate::Surroundings,
    *,
};
use crate::facts::window::Daily;
use crate::keys::{
    ConfigError,
    report::{self, Report},
    rules,
    section::Section,
    yaml::{self, Node, Value},
};

const EXAMPLE: &str = include_str!("../../chroma_exporter.example.yml");

fn host() -> Surroundings {
    Surroundings { cwd: Some("/home/a".into()), root: true, ipv6: true, ..Surroundings::default() }
}

fn load_from(
    source: Option<(&Path, &str)>,
    flags: &Overrides,
    host: &Surroundings,
) -> Result<Config, Vec<ConfigError>> {
    file::load_from(source, flags, &crate::collectors::families(), host)
}

fn read(text: &str, flags: &Overrides) -> Result<Config, Vec<String>> {
    load_from(Some((Path::new("c.yml"), text)), flags, &host())
        .map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

fn given(flags: &[(&str, &[&str])]) -> std::collections::BTreeMap<String, Vec<String>> {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    flags.iter().map(|(flag, given)| ((*flag).to_owned(), words(given))).collect()
}

fn problems(text: &str, flags: &Overrides) -> Vec<String> {
    read(text, flags).expect_err(text)
}

#[test]
fn an_empty_file_gives_the_defaults() {
    let default =
        Config { state_dir: Some("/var/lib/chroma_exporter".into()), ..Config::default() };
    for text in ["", "# nothing\n", "---\n", "stores:\ncollect:\nweb:\n", "{}"] {
        assert_eq!(read(text, &Overrides::default()), Ok(default.clone()), "{text:?}");
    }
    assert_eq!(load_from(None, &Overrides::default(), &host()), Ok(default));
}

#[test]
fn every_problem_of_a_file_is_told_at_once_with_its_line() {
    let text = "\
stores:
  - name: a b
    path: srv/chroma
    backups: [/b/*.gz, b/*.gz]
    permisions: {}
  - path: /srv/x
    permissions:
      file_mode: 0644
      owner: nobody-of-this-name
      colour: red
  - path: /srv/y/
    name: x
  - name: y
    path: /srv/y
  - name: z
collect:
  interval: 1ms
  deadline: [1s]
  interval: 5s
collectors:
  disk: yes
disk:
  warn_ratio: 0.95
web:
  listen_addresses: [':18000', 'example.org:80', ':18000']
  telemetry_path: /-/metrics
  max_connections: 0
listen: :18000
log: {level: loud}
state: /tmp
";
    let want = [
        "c.yml:2: stores[0].name = a b: must be 1 to 64 of the characters A-Z a-z 0-9 _ . -",
        "c.yml:3: stores[0].path = srv/chroma: must be an absolute path",
        "c.yml:4: stores[0].backups[1] = b/*.gz: must be an absolute pattern",
        "c.yml:5: stores[0].permisions: unknown key; did you mean permissions?",
        "c.yml:8: stores[1].permissions.file_mode = 0644: must stand in quotes: write \"0644\"",
        "c.yml:9: stores[1].permissions.owner = nobody-of-this-name: must be a user of the host: there is none in its /etc/passwd; a number is taken as it is",
        "c.yml:10: stores[1].permissions.colour: unknown key; known here: directory_mode, file_mode, group, owner, server_user",
        "c.yml:12: stores[2].name = x: must be unique, and stores[1] (line 6) has it too: give each a name of its own",
        "c.yml:14: stores[3].path = /srv/y: must stand only once, and stores[2] (line 11) has it too",
        "c.yml:15: stores[4].path: must be given: the directory to watch",
        "c.yml:17: collect.interval = 1ms: must be 100ms to 1h",
        "c.yml:18: collect.deadline = (a list): must be a duration such as 30s or 1h30m, 1s to 1h",
        "c.yml:19: collect.interval: stands twice, first in line 17",
        "c.yml:21: collectors.disk = yes: must be true or false",
        "c.yml:23: disk.warn_ratio = 0.95: must be less than critical_ratio, which is 0.9",
        "c.yml:25: web.listen_addresses[1] = example.org:80: must be ADDRESS:PORT, such as 127.0.0.1:18000, [::1]:18000, localhost:18000 or :18000",
        "c.yml:25: web.listen_addresses[2] = [::]:18000: must not stand twice",
        "c.yml:26: web.telemetry_path = /-/metrics: must be another path than /, /-/... and /api/..., which this program answers itself",
        "c.yml:27: web.max_connections = 0: must be a whole number from 1 to 100000",
        "c.yml:28: listen: unknown key; known here: alerts, collect, collectors, disk, integrity, limits, log, path, receivers, state, stores, web",
        "c.yml:29: log.level = loud: must be error, warn, info, debug, trace",
        "c.yml:30: state = /tmp: must be keys and values, indented below it",
    ];
    let found = problems(text, &Overrides::default());
    for (found, want) in found.iter().zip(want) {
        assert_eq!(found, want);
    }
    assert_eq!(found.len(), want.len(), "{found:#?}");
}

#[test]
fn a_window_is_read_with_its_time_zone_or_refused_with_its_line() {
    for (text, want) in [
        ("", None),
        ("01:00-05:00", Some("01:00-05:00")),
        ("22:00-04:00 UTC", Some("22:00-04:00 UTC")),
        ("22:00-04:00 local", Some("22:00-04:00 local")),
    ] {
        let text = format!("collect:\n  check_window: \"{text}\"\n");
        let config = read(&text, &Overrides::default()).unwrap();
        let window = config.collect.check_window.as_ref().map(|window| window.as_str().to_owned());
        assert_eq!(window.as_deref(), want);
    }
    for (text, rule) in [
        ("01:00", "must be two times of the day such as 01:00-05:00"),
        ("05:00-05:00", "must end at another time than it begins"),
        ("01:00-05:00 Mars/Olympus", "Mars/Olympus must be a time zone that this host knows"),
    ] {
        let found = problems(
            &format!("collect:\n  interval: 5s\n  check_window: \"{text}\"\n"),
            &Overrides::default(),
        );
        assert_eq!(found.len(), 1, "{found:?}");
        let want = format!("c.yml:3: collect.check_window = {text}: {rule}");
        assert!(found[0].starts_with(&want), "{found:?}");
    }
}

#[test]
fn keys_of_later_work_are_not_taken_in_silence() {
    for text in [
        "rules: []",
        "stores: [{path: /a, server: x}]",
        "stores: [{path: /a, server: {timeout: 1s}}]",
        "stores: [{path: /a, server: {url: 'http://h', token: secret}}]",
        "just text",
        "- a",
        "5: 6",
        "~: 1",
    ] {
        assert_eq!(problems(text, &Overrides::default()).len(), 1, "{text}");
    }
}

#[test]
fn the_example_is_valid_complete_and_says_the_defaults() {
    let config = read(EXAMPLE, &Overrides::default()).unwrap();
    let stores = config.stores.clone();
    let defaults =
        Config { state_dir: Some("/var/lib/chroma_exporter".into()), ..Config::default() };
    assert_eq!(
        Config { stores: Vec::new(), receivers: Vec::new(), alerts: Alerts::default(), ..config },
        defaults,
        "all but the things of the operator's own"
    );
    assert_eq!(stores.len(), 1);
    assert_eq!(
        BackupPolicy { globs: Vec::new(), ..stores[0].backups.clone() },
        BackupPolicy::daily(Vec::new())
    );

    let report = Report::default();
    let tree = yaml::parse(EXAMPLE).unwrap();
    let series = crate::collectors::families();
    drop(file::read(&Section::top(&report, &"example".into(), &tree), &series, &report));
    let mut asked = report.keys();
    // A secret may stand in four places; the example shows one of them each and tells of the others.
    let secrets: Vec<String> =
        asked.iter().filter_map(|key| key.strip_suffix("_env").map(str::to_owned)).collect();
    for form in ["_file", "_env", "_credential"] {
        for key in &secrets {
            asked.remove(&format!("{key}{form}"));
        }
    }
    let mut written = BTreeSet::new();
    collect_keys(&tree, "", &mut written);
    let written: BTreeSet<String> = written
        .into_iter()
        .map(|key| match secrets.iter().find(|base| key == format!("{base}_file")) {
            Some(base) => base.clone(),
            None => key,
        })
        .collect();
    assert_eq!(written, asked, "keys of the example, keys that the program reads");
}

fn collect_keys(node: &Node, path: &str, keys: &mut BTreeSet<String>) {
    match &node.value {
        Value::Mapping(entries) => {
            for (key, value) in entries {
                let path = report::joined(path, &key.text);
                collect_keys(value, &path, keys);
                keys.insert(path);
            }
        }
        Value::List(items) => {
            for item in items {
                collect_keys(item, &format!("{path}[]"), keys);
            }
        }
        Value::Scalar(_) => {}
    }
}

#[test]
fn flags_go_before_the_file() {
    let text = "\
stores:
  - {name: docs, path: /srv/docs, backups: [/b/docs*], chroma_version: 1.10}
  - {name: other, path: /srv/other}
collectors: {disk: false, backups: true}
log: {level: debug, format: json}
web: {listen_addresses: ['127.0.0.1:1'], telemetry_path: /m}
";
    let store = |name: Option<&str>, path: &str| StoreFlag {
        name: name.map(str::to_owned),
        path: path.to_owned(),
    };
    let flags = Overrides {
        stores: vec![store(None, "../../srv/docs/"), store(Some("new"), "data")],
        backup_patterns: vec![PatternFlag {
            store: Some("new".into()),
            pattern: "old/*.gz".into(),
        }],
        collectors: [(CollectorName::Backups, false), (CollectorName::Contents, true)].into(),
        disable_defaults: true,
        keys: given(&[
            ("web.listen-address", &[":2", "[::1]:0"]),
            ("log.level", &["debug", "error"]),
            ("state.dir", &[""]),
            ("path.rootfs", &["/host"]),
        ]),
        ..Overrides::default()
    };
    let config = read(text, &flags).unwrap();
    let seen: Vec<_> =
        config.stores.iter().map(|s| (&*s.name, s.seen_path.to_str().unwrap())).collect();
    assert_eq!(seen, [("docs", "/host/srv/docs"), ("new", "/host/home/a/data")]);
    assert_eq!(
        config.stores[0].chroma_version.as_deref(),
        Some("1.10"),
        "the file's words on a chosen store hold"
    );
    assert_eq!(config.stores[0].backups.globs, ["/host/b/docs*"]);
    assert_eq!(config.stores[1].backups.globs, ["/host/home/a/old/*.gz"]);
    assert_eq!(config.stores[1].backups.warn_after, Duration::from_hours(26));
    assert_eq!(config.enabled, [CollectorName::Contents].into());
    let log = Log { level: LogLevel::Error, format: LogFormat::Json, ..Log::default() };
    assert_eq!(config.log, log);
    assert_eq!(
        config.web.listen_addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["[::]:2", "[::1]:0"]
    );
    assert_eq!(config.web.telemetry_path, "/m");
    assert_eq!(config.state_dir, None);
}

#[test]
fn problems_of_flags_name_the_flag() {
    let store = |path: &str| StoreFlag { name: None, path: path.to_owned() };
    let flags = Overrides {
        stores: vec![store("/a/x"), store("/b/x"), store("/a//x"), store("/c/../d")],
        backup_patterns: vec![
            PatternFlag { store: None, pattern: "/b/*".into() },
            PatternFlag { store: Some("q".into()), pattern: "[".into() },
        ],
        collectors: CollectorName::ALL.map(|name| (name, false)).into(),
        keys: given(&[("web.listen-address", &[":1", ":1"]), ("state.dir", &["x/../../y"])]),
        ..Overrides::default()
    };
    assert_eq!(
        problems("", &flags),
        [
            "--web.listen-address = [::]:1: must not stand twice",
            "--state.dir = x/../../y: must not hold ..",
            "--store.path = /c/../d: must not hold ..",
            "--backup.pattern = /b/*: must say which store it is for: NAME=PATTERN",
            "--backup.pattern = [: must name a store; there is none called q",
            "--backup.pattern = [: must be a shell pattern: invalid range pattern at position 9",
            "--store.path = x: must be unique, and --store.path has it too: give each a name of its own",
            "--store.path = x: must be unique, and --store.path has it too: give each a name of its own",
            "--store.path = /a/x: must stand only once, and --store.path has it too",
            "collectors: at least one must be switched on",
        ]
    );
}

#[test]
fn what_takes_effect_at_the_next_start_is_named_key_by_key() {
    let before = read("", &Overrides::default()).unwrap();
    let text = "\
collect: {interval: 1s}
web: {telemetry_path: /m, max_connections: 3}
path: {rootfs: /host, procfs: /host/proc}
state: {dir: /other}
log: {level: warn, format: json}
";
    let after = read(text, &Overrides::default()).unwrap();
    let want =
        ["web.telemetry_path", "web.max_connections", "state.dir", "path.procfs", "log.format"];
    assert_eq!(at_next_start(&before, &after), want);
    assert!(at_next_start(&after, &after).is_empty());
}

#[test]
fn the_state_directory_and_the_stores_stay_apart() {
    for (dir, store, rootfs, ok) in [
        ("/srv/chroma", "/srv/chroma", "/", false),
        ("/srv/chroma/state", "/srv/chroma", "/", false),
        ("/srv", "/srv/chroma", "/", false),
        ("/srv/chroma-state", "/srv/chroma", "/", true),
        ("/srv/chroma/state", "/srv/chroma", "/host", true),
        ("/host/srv/chroma/state", "/srv/chroma", "/host", false),
    ] {
        let text = format!(
            "stores: [{{path: {store}}}]\nstate: {{dir: {dir}}}\npath: {{rootfs: {rootfs}}}"
        );
        let found = read(&text, &Overrides::default());
        assert_eq!(found.is_ok(), ok, "{text}: {found:?}");
        if let Err(found) = found {
            assert!(
                found.len() == 1
                    && found[0].starts_with(&format!("c.yml:2: state.dir = {dir}: must not ")),
                "{found:?}"
            );
        }
    }
}

#[test]
fn the_default_state_directory_is_where_it_is_looked_for() {
    let text = |text: &str| Some(text.to_owned());
    let none = Surroundings { root: false, ..host() };
    for (host, want) in [
        (Surroundings { state_directory: text("/run/a:/run/b"), ..host() }, Some("/run/a")),
        (
            Surroundings { state_directory: text("relative"), ..host() },
            Some("/var/lib/chroma_exporter"),
        ),
        (host(), Some("/var/lib/chroma_exporter")),
        (
            Surroundings { xdg_state_home: text("/x"), home: text("/h"), ..none.clone() },
            Some("/x/chroma_exporter"),
        ),
        (
            Surroundings { xdg_state_home: text("x"), home: text("/h"), ..none.clone() },
            Some("/h/.local/state/chroma_exporter"),
        ),
        (none, None),
    ] {
        let config = load_from(None, &Overrides::default(), &host).unwrap();
        assert_eq!(config.state_dir.as_deref(), want.map(Path::new), "{host:?}");
    }
}

#[test]
fn users_and_groups_are_those_of_the_host() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("etc")).unwrap();
    fs::write(root.path().join("etc/passwd"), "chroma:x:990:991::/:/bin/sh\n").unwrap();
    fs::write(root.path().join("etc/group"), "chroma:x:991:\ndata:x:77:chroma\n").unwrap();
    let text = format!(
        "path: {{rootfs: '{}'}}\nstores:\n- path: /a\n  permissions: {{owner: chroma, group: data, server_user: 990, file_mode: '2640'}}\n- path: /b\n  permissions: {{owner: 5, server_user: chroma}}\n- path: /c\n  permissions: {{server_user: 6}}",
        root.path().display()
    );
    let config = read(&text, &Overrides::default()).unwrap();
    let policies: Vec<_> = config.stores.iter().map(|store| store.permissions.clone()).collect();
    let served = PermissionPolicy {
        server_uid: Some(990),
        server_gids: vec![991, 77],
        ..PermissionPolicy::default()
    };
    assert_eq!(
        policies,
        [
            PermissionPolicy {
                uid: Some(990),
                gid: Some(77),
                file_mode: Some(0o2640),
                ..served.clone()
            },
            PermissionPolicy { uid: Some(5), ..served },
            PermissionPolicy { server_uid: Some(6), ..PermissionPolicy::default() },
        ]
    );
}

#[test]
fn a_file_that_cannot_be_read_is_one_problem() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.yml");
    let flags = Overrides { config_file: Some(path.clone()), ..Overrides::default() };
    let said = || load(&flags, &[]).unwrap_err()[0].to_string();
    assert!(said().contains("c.yml: cannot be read: No such file"), "{}", said());
    fs::write(&path, b"a: 1\nb: \xff\n").unwrap();
    assert!(said().ends_with("c.yml:2: must be UTF-8"), "{}", said());
    fs::write(&path, vec![b'#'; yaml::SOURCE_BYTES_MAX + 1]).unwrap();
    assert!(said().contains("c.yml: cannot be read: larger than 1024 KiB"), "{}", said());
    fs::write(&path, "a: [").unwrap();
    assert!(said().contains("c.yml:1: is not YAML: "), "{}", said());
    let directory = Overrides { config_file: Some(dir.path().to_owned()), ..Overrides::default() };
    assert!(load(&directory, &[]).is_err());
}

#[test]
fn many_stores_may_share_what_one_of_them_says() {
    let shared = "  permissions: &p {owner: 5, file_mode: '0640'}\n";
    let more: String = (1..500)
        .map(|n| ["- path: /s/", &n.to_string(), "\n  permissions: *p\n"].concat())
        .collect();
    let config =
        read(&format!("stores:\n- path: /s/0\n{shared}{more}"), &Overrides::default()).unwrap();
    assert_eq!(config.stores.len(), 500);
    assert!(config.stores.iter().all(|store| store.permissions.file_mode == Some(0o640)));
}

#[test]
fn lists_are_bounded() {
    for (text, want) in [
        (format!("stores: [{}]", "{}, ".repeat(1001)), "must be at most 1000"),
        (
            format!("stores: [{{path: /a, backups: [{}]}}]", "/b, ".repeat(101)),
            "must be at most 100",
        ),
        (format!("web: {{listen_addresses: [{}]}}", "':0', ".repeat(17)), "must be at most 16"),
        ("web: {listen_addresses: []}".to_owned(), "must name at least one address"),
    ] {
        let found = problems(&text, &Overrides::default());
        assert!(found.iter().any(|problem| problem.ends_with(want)), "{want}: {:?}", found.last());
    }
    // One small anchor under a thousand names is a thousand stores at most, each read once.
    let text = format!("x: &x {{path: /a}}\nstores: [{}]", "*x, ".repeat(900));
    assert!(problems(&text, &Overrides::default()).len() <= 101);
}

#[test]
fn backups_that_the_exporter_makes_lie_outside_of_stores_and_apart_from_each_other() {
    let config = read(
        "stores: [{path: /srv/chroma, backup: {to: /b, at: '02:00', keep: {daily: 7}, after: [a, '{path}']}}]",
        &Overrides::default(),
    );
    let job = config.unwrap().stores[0].backup.clone().unwrap();
    assert_eq!((job.keep.last, job.keep.daily, job.form), (3, 7, Form::Archive));
    assert_eq!(job.after, ["a", "{path}"]);
    for (text, rule) in [
        ("stores: [{path: /srv/chroma, backup: {at: '02:00'}}]", "backup.to: must be given"),
        ("stores: [{path: /srv/chroma, backup: {to: /b, at: '2'}}]", "must be a time of the day"),
        (
            "stores: [{path: /srv/chroma, backup: {to: /srv/chroma/b}}]",
            "must not lie inside the store chroma (/srv/chroma)",
        ),
        (
            "stores: [{path: /a/c, name: a, backup: {to: /b}}, {path: /b/c, name: b, backup: {to: /b}}]",
            "their backups have the same names",
        ),
    ] {
        let problems = read(text, &Overrides::default()).unwrap_err();
        assert!(problems.iter().any(|problem| problem.contains(rule)), "{problems:?}");
    }
}

#[test]
fn a_password_in_the_address_of_a_server_is_refused_and_not_repeated() {
    let text = "stores: [{path: /a, server: {url: 'http://user:geheim@h:8000'}}]";
    let found = problems(text, &Overrides::default());
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("headers_file") && !found[0].contains("geheim"), "{found:?}");
    let text = "stores: [{path: /a, server: {url: 'ftp://h', headers_file: x, timeout: 2h}}]";
    assert_eq!(problems(text, &Overrides::default()).len(), 3);
}
