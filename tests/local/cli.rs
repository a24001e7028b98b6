//! The command line as its users meet it: words in, text and exit code out.

use crate::support::{Exporter, ROOMY, binary, fixture, run};
use std::{
    fs,
    io::Read,
    path::Path,
    process::{Command, Output, Stdio},
};

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

fn reported(output: &Output) -> (i32, String, String) {
    (output.status.code().expect("a code"), text(&output.stdout), text(&output.stderr))
}

#[test]
fn help_and_version_are_answers_and_wrong_words_are_not() {
    for words in
        [&["--help"][..], &["-h"], &["--version"], &["check", "--help"], &["config", "print", "-h"]]
    {
        let (code, out, err) = reported(&run(words));
        assert_eq!((code, err.as_str()), (0, ""), "{words:?}");
        assert!(
            out.contains(if words[0] == "--version" {
                env!("CARGO_PKG_VERSION")
            } else {
                "Usage: chroma_exporter"
            }),
            "{out}"
        );
    }
    for words in [
        &["chekc"][..],
        &["--store.pth", "/a"],
        &["serve", "/srv/chroma"],
        &["config"],
        &["--web.listen-address", "18000"],
        &["check", "--output", "xml"],
        &["completions", "tcsh"],
    ] {
        let (code, out, err) = reported(&run(words));
        assert_eq!((code, out.as_str()), (64, ""), "{words:?}");
        assert!(err.starts_with("error: ") || err.contains("Usage: "), "{err}");
    }
}

#[test]
fn the_help_of_a_command_shows_what_changes_what_it_does() {
    let help = |words: &[&str]| {
        let (code, out, err) = reported(&run(&[words, &["--help"]].concat()));
        assert_eq!((code, err.as_str()), (0, ""), "{words:?}");
        out
    };
    let prefixes = [
        "--config.file",
        "--store.",
        "--backup.",
        "--web.",
        "--collector.",
        "--path.",
        "--state.",
        "--log.",
    ];
    for (words, shown) in [
        (&[][..], &prefixes[..]),
        (&["serve"], &prefixes),
        (
            &["check"],
            &[
                "--config.file",
                "--store.",
                "--backup.",
                "--collector.",
                "--path.",
                "--state.",
                "--log.",
            ],
        ),
        (&["config", "print"], &prefixes),
        (&["config", "check"], &prefixes),
        (&["notify"], &["--config.file", "--store.", "--log."]),
        (&["rules"], &["--config.file"]),
        (&["silence"], &["--config.file", "--state."]),
        (&["silence", "add"], &["--config.file", "--state."]),
        (&["silence", "list"], &["--config.file", "--state."]),
        (&["explain"], &[]),
    ] {
        let text = help(words);
        for prefix in prefixes {
            assert_eq!(
                text.contains(prefix),
                shown.contains(&prefix),
                "{words:?} {prefix}: {text}"
            );
        }
    }
    // They are taken all the same.
    let (code, _, err) = reported(&run(&["rules", "--web.listen-address=:0", "--log.level=warn"]));
    assert_eq!((code, err.as_str()), (0, ""));
}

#[test]
fn silences_take_the_state_directory_anywhere_and_refuse_unknown_alerts() {
    let dir = tempfile::tempdir().unwrap();
    let state = format!("--state.dir={}", dir.path().join("state").display());
    let add = ["add", "--alert", "ChromaSecondWriter", "--for", "2h"];
    for (at, words) in [
        [&[&*state, "silence"][..], &add].concat(),
        [&["silence", &*state][..], &add].concat(),
        [&["silence"][..], &add, &[&*state]].concat(),
        vec!["silence", "add", "--for=2h", &state, "--alert=second_writer"],
    ]
    .iter()
    .enumerate()
    {
        let (code, out, err) = reported(&run(words));
        assert_eq!((code, out.trim().len(), err.as_str()), (0, 8, ""), "{words:?}: {out}");
        let id = out.trim();
        for words in [["silence", "list", &state], ["silence", &state, "list"]] {
            let (code, out, _) = reported(&run(&words));
            assert_eq!((code, out.lines().count()), (0, at + 1), "{words:?}: {out}");
            assert!(out.contains(&format!("{id}  store=* alert=ChromaSecondWriter  ")), "{out}");
        }
    }
    let (_, out, _) = reported(&run(&["silence", "list", &state]));
    for line in out.lines() {
        let id = line.split(' ').next().unwrap();
        assert_eq!(
            reported(&run(&["silence", "expire", id, &state])),
            (0, String::new(), String::new())
        );
    }
    let refused =
        reported(&run(&["silence", "add", "--alert=ChromaSecondWritr", "--for=2h", &state]));
    let want =
        "error: no alert is called ChromaSecondWritr\nhelp: did you mean ChromaSecondWriter? ";
    assert!(refused.0 == 64 && refused.2.starts_with(want), "{refused:?}");
    let (_, out, _) = reported(&run(&["silence", "list", &state]));
    assert_eq!(out, "no silence is in force\n");

    // An alert of one's own is known with the file that defines it, and so are the stores.
    let file = dir.path().join("c.yml");
    let rule = "{name: LongQueue, series: chroma_queue_records, threshold: 9}";
    fs::write(
        &file,
        format!("stores: [{{name: main, path: /srv/chroma}}]\nalerts: {{rules: [{rule}]}}\n"),
    )
    .unwrap();
    let own = ["silence", "add", "--alert=LongQueue", "--for=1h", &state];
    let (code, _, err) = reported(&run(&own));
    assert!(code == 64 && err.contains("--config.file that defines it"), "{err}");
    let file = format!("--config.file={}", file.display());
    let (code, _, err) = reported(&run(&[&own[..], &[&file, "--store=mian"]].concat()));
    assert_eq!(code, 0);
    assert_eq!(err, "warning: no store of this configuration is called mian; there are main\n");
}

#[test]
fn completions_know_our_words() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, out, _) = reported(&run(&["completions", shell]));
        assert_eq!(code, 0);
        assert!(out.contains("chroma_exporter") && out.contains("store.path"), "{shell}");
        let named = ["second_writer", "ChromaSecondWriter"];
        let named = named.into_iter().all(|word| out.contains(word));
        assert_eq!(named, ["bash", "zsh", "fish"].contains(&shell), "{shell}");
    }
}

/// What is typed, and what the shell makes of its last word.
const TYPED: [(&str, &str); 6] = [
    ("explain second_w", "second_writer"),
    ("explain ChromaSecondW", "ChromaSecondWriter"),
    ("--state.dir /x explain hot", "hot_journal"),
    ("silence add --alert ChromaSecondW", "ChromaSecondWriter"),
    ("check --log.format j", "json"),
    ("silence list --state.d", "--state.dir"),
];

#[test]
fn bash_completes_findings_alerts_and_flags() {
    let (_, script, _) = reported(&run(&["completions", "bash"]));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("completions");
    fs::write(&file, script).unwrap();
    for (words, want) in TYPED {
        let mut last = words.rsplit(' ');
        let (last, before) = (last.next().unwrap(), last.next().unwrap());
        let ask = format!(
            "source '{}'; COMP_WORDS=(chroma_exporter {words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _chroma_exporter chroma_exporter {last} {before}; printf '%s ' \"${{COMPREPLY[@]}}\"",
            file.display()
        );
        let out = Command::new("bash").args(["--norc", "-c", &ask]).output().unwrap();
        assert_eq!(text(&out.stdout).trim(), want, "{words}: {}", text(&out.stderr));
    }
}

#[cfg(feature = "e2e")]
#[test]
fn fish_completes_findings_alerts_and_flags() {
    let (_, script, _) = reported(&run(&["completions", "fish"]));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("completions");
    fs::write(&file, script).unwrap();
    for (words, want) in TYPED {
        let ask = format!("source '{}'; complete -C 'chroma_exporter {words}'", file.display());
        let out = Command::new("fish").args(["--no-config", "-c", &ask]).output().unwrap();
        let offered = text(&out.stdout);
        // Behind a tab stands what it is.
        let first = offered.split(['\t', '\n']).next().unwrap();
        assert_eq!(first, want, "{words}: {offered}{}", text(&out.stderr));
    }
}

#[test]
fn a_bad_configuration_is_told_whole_and_stops_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.yml");
    fs::write(&path, "collect:\n  interval: 1ms\nweb:\n  port: 80\nstores:\n  - {}\n").unwrap();
    let file = path.to_str().unwrap();
    let want = format!(
        "{file}:2: collect.interval = 1ms: must be 100ms to 1h\n\
         {file}:4: web.port: unknown key; known here: allowed_hosts, config_file, enable_lifecycle, header_timeout, listen_addresses, max_connections, max_requests, systemd_socket, telemetry_path\n\
         {file}:6: stores[0].path: must be given: the directory to watch\n"
    );
    for words in [
        &["config", "check", "--config.file", file][..],
        &["config", "--config.file", file, "print"],
        &["--config.file", file, "check"],
        &["serve", "--config.file", file],
        &["--config.file", file],
    ] {
        assert_eq!(reported(&run(words)), (78, String::new(), want.clone()), "{words:?}");
    }
}

#[test]
fn what_is_printed_checks_out_and_prints_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.yml");
    let file = path.to_str().unwrap();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("chroma_exporter.example.yml");
    let words = [
        "--config.file",
        example.to_str().unwrap(),
        "config",
        "print",
        "--log.level=debug",
        "--web.listen-address=:0",
    ];
    let (code, first, err) = reported(&run(&words));
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(first.contains("level: debug") && first.contains("/srv/chroma"), "{first}");
    fs::write(&path, &first).unwrap();
    let (_, second, _) = reported(&run(&["config", "print", "--config.file", file]));
    assert_eq!(first, second);
    let checked = reported(&run(&["config", "check", "--config.file", file]));
    assert_eq!(checked, (0, format!("{file} is valid\n"), String::new()));
}

#[test]
fn check_names_each_store_and_answers_with_its_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let good = fixture("chroma-1.5.9", dir.path());
    let state = dir.path().join("state");
    let (state_flag, missing) =
        (format!("--state.dir={}", state.display()), dir.path().join("gone"));
    let store = |name: &str, path: &Path| format!("--store.path={name}={}", path.display());
    let (good, gone) = (store("good", &good), store("gone", &missing));

    let (code, out, _) = reported(&run(&[
        "--no-collector.backups",
        &state_flag,
        "check",
        &good,
        &gone,
        "--output=json",
    ]));
    let document: serde_json::Value = serde_json::from_str(&out).expect("one JSON document");
    let stores = document["stores"].as_array().unwrap();
    assert_eq!(
        stores.iter().map(|s| s["store"].as_str().unwrap()).collect::<Vec<_>>(),
        ["good", "gone"]
    );
    assert_eq!(stores[1]["path"], missing.to_str().unwrap());
    let worst = ["ok", "warning", "critical", "unknown"]
        .iter()
        .position(|word| document["status"] == *word);
    assert_eq!(Some(usize::try_from(code).unwrap()), worst, "{document}");

    let (same, out, _) =
        reported(&run(&["check", &state_flag, &good, &gone, "--no-collector.backups"]));
    assert_eq!(same, code);
    assert!(
        out.contains("good  ") && out.contains("\n2 stores: ") && !out.contains('\u{1b}'),
        "{out}"
    );
    assert!(!state.exists(), "check writes nothing, not even its own state");
}

#[test]
fn check_paranoid_says_in_a_line_that_sqlite_agrees() {
    let dir = tempfile::tempdir().unwrap();
    let store = fixture("chroma-1.5.9", dir.path());
    let (path, copies) = (store.to_str().unwrap(), dir.path().join("copies"));
    let config = dir.path().join("config.yml");
    let text = format!("{ROOMY}integrity:\n  scratch_dir: {}\n", copies.display());
    fs::write(&config, text).unwrap();
    let (config, words) = (config.to_str().unwrap(), ["check", "--state.dir=", "--config.file"]);
    let check = |more: &[&str]| reported(&run(&[&words[..], &[config], more, &[path]].concat()));

    let (_, out, _) = check(&["--paranoid"]);
    assert!(
        out.contains("full unknown") && out.contains("integrity_check gave no answer: no place"),
        "{out}"
    );
    fs::create_dir(&copies).unwrap();
    let (_, out, _) = check(&["--paranoid"]);
    let agrees = "SQLite's own integrity_check of a copy agrees: it found nothing either";
    assert!(out.contains("full ok") && out.contains(&format!("\n  {agrees}\n")), "{out}");
    let (_, out, _) = check(&["--paranoid", "--output=json"]);
    let document: serde_json::Value = serde_json::from_str(&out).expect("a document");
    assert_eq!(document["stores"][0]["compared"], agrees);
    let (_, out, _) = check(&[]);
    assert!(!out.contains("agrees"), "{out}");
    assert_eq!(check(&["--paranoid", "--quick"]).0, 64);
}

#[test]
fn check_takes_directories_as_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let one = fixture("chroma-1.5.9", &dir.path().join("a"));
    let two = fixture("chroma-1.1.1", &dir.path().join("b"));
    let three = format!("third={}", fixture("chroma-0.6.3", &dir.path().join("c")).display());
    let named = format!("--store.path={}", two.display());
    let words = ["check", "--quick", "--state.dir=", "--output=json"];
    let out = run(&[&words[..], &[one.to_str().unwrap(), &named, &three]].concat());
    let document: serde_json::Value = serde_json::from_slice(&out.stdout).expect("a document");
    let stores = document["stores"].as_array().unwrap();
    let paths: Vec<_> = stores.iter().map(|s| s["path"].as_str().unwrap()).collect();
    assert_eq!(stores.len(), 3, "{paths:?}");
    assert!(stores.iter().any(|store| store["store"] == "third"), "{paths:?}");
    for path in [one, two] {
        assert!(paths.contains(&path.to_str().unwrap()), "{paths:?}");
    }
    let (code, _, err) = reported(&run(&["check", "a%b=/x"]));
    assert!(code == 64 && err.contains("the name before ="), "{err}");
    let (_, help, _) = reported(&run(&["check", "--help"]));
    assert!(help.contains("[[NAME=]DIR]..."), "{help}");
}

#[test]
fn check_names_the_directory_that_was_meant() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let store = fixture("chroma-1.5.9", &root);
    let folders = fs::read_dir(&store).unwrap().map(|entry| entry.unwrap().path());
    let segment = folders.into_iter().find(|path| path.is_dir()).unwrap();
    let meant = format!("chroma_exporter check {}", store.display());
    for given in
        [store.join("chroma.sqlite3"), segment.clone(), segment.join("header.bin"), root.clone()]
    {
        let (code, out, _) = reported(&run(&["check", "--state.dir=", given.to_str().unwrap()]));
        assert!(matches!(code, 1..=3), "{given:?}: {out}");
        let words = out.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(&format!("; the store is {}", store.display())), "{given:?}: {out}");
        assert!(words.contains(&meant), "{given:?}: {out}");
        assert!(!out.contains("dmesg"), "{given:?}: {out}");
    }
    let wrong = store.with_file_name("chroma-1.5.8");
    let (code, out, _) = reported(&run(&["check", "--state.dir=", wrong.to_str().unwrap()]));
    assert!(code == 2 && out.contains(&meant), "{out}");
}

#[test]
fn explain_prints_the_page_and_names_what_was_meant() {
    let (code, out, err) = reported(&run(&["explain", "store_replaced"]));
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(
        out.starts_with("# store_replaced\n") && out.contains("\n## What not to do\n"),
        "{out}"
    );
    let (code, out, _) = reported(&run(&["explain"]));
    assert!(code == 0 && out.contains("\n  hot_journal ") && out.contains("\nJournal\n"), "{out}");
    let (code, out, err) = reported(&run(&["explain", "hot_jurnal"]));
    assert_eq!((code, out.as_str()), (64, ""));
    assert!(err.contains("did you mean hot_journal?"), "{err}");
    let by_code = reported(&run(&["explain", "second_writer"]));
    assert_eq!(reported(&run(&["explain", "ChromaSecondWriter"])), by_code);
    assert_eq!(by_code.0, 0);
}

#[test]
fn check_says_how_to_learn_more_and_colours_when_told() {
    let dir = tempfile::tempdir().unwrap();
    let store = format!("--store.path={}", dir.path().join("gone").display());
    let words = ["check", "--state.dir=", &store];
    let (code, plain, _) = reported(&run(&words));
    assert_eq!(code, 2);
    assert!(plain.contains("\n    more    chroma_exporter explain store_missing\n"), "{plain}");
    assert!(!plain.contains('\u{1b}'));
    let (_, painted, _) = reported(&run(&[&words[..], &["--color=always"]].concat()));
    assert!(painted.contains("\u{1b}[1;31mcritical\u{1b}[0m"), "{painted}");
}

#[test]
fn no_store_at_all_is_unknown_and_said() {
    let dir = tempfile::tempdir().unwrap();
    let procfs = format!("--path.procfs={}", dir.path().display());
    let (code, out, _) = reported(&run(&["check", &procfs]));
    assert_eq!(code, 3);
    assert!(out.starts_with("unknown  "), "{out}");
    let (code, out, _) = reported(&run(&["check", &procfs, "--output", "json"]));
    let document: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (code, &document["status"], &document["stores"]),
        (3, &"unknown".into(), &serde_json::json!([]))
    );
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure_and_a_full_disk_is() {
    for words in [&["config", "print"][..], &["--help"], &["completions", "bash"]] {
        let mut child = Command::new(binary())
            .args(words)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let mut err = String::new();
        child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        assert_eq!((child.wait().unwrap().code(), err.as_str()), (Some(0), ""), "{words:?}");

        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let output = Command::new(binary()).args(words).stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(74), "{words:?}");
    }
}

/// A fixture and the words that look at it the same way on every machine.
fn steady(dir: &Path) -> Vec<String> {
    let store = fixture("chroma-1.5.9", dir);
    let mut words = vec!["check", "--state.dir=", "--no-collector.backups", "--no-collector.disk"];
    words.extend(["--no-collector.processes", "--no-collector.permissions"]);
    words.push(store.to_str().unwrap());
    words.into_iter().map(str::to_owned).collect()
}

fn with(words: &[String], more: &[&str]) -> (i32, String, String) {
    let more = more.iter().map(|word| (*word).to_owned());
    reported(&run(&words.iter().cloned().chain(more).collect::<Vec<_>>()))
}

#[test]
fn check_answers_cron_with_silence_and_plugins_with_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let words = steady(dir.path());
    assert_eq!(with(&words, &["--quiet"]), (0, String::new(), String::new()));
    let (code, out, _) = with(&words, &["--output=nagios"]);
    assert_eq!(code, 0);
    assert!(out.starts_with("CHROMA OK - 1 store is well | ") && out.ends_with('\n'), "{out}");
    assert!(out.contains(" 'chroma-1.5.9_records'="), "{out}");
    assert_eq!(with(&words, &["--quiet", "--ids"]).0, 64);

    fs::remove_file(dir.path().join("chroma-1.5.9/chroma.sqlite3")).unwrap();
    let (code, out, _) = with(&words, &["--quiet"]);
    assert!(code == 2 && out.contains("sqlite_missing"), "{code} {out}");
    let (code, out, _) = with(&words, &["--quiet", "--output=nagios"]);
    assert!(
        code == 2 && out.starts_with("CHROMA CRITICAL - chroma-1.5.9: sqlite_missing: "),
        "{out}"
    );
    assert_eq!(out.lines().count(), 1, "{out}");
}

#[test]
fn check_writes_the_series_of_the_exporter_to_a_file_in_one_step() {
    use crate::support::{Exporter, Page};
    use std::os::unix::fs::PermissionsExt;

    let dir = tempfile::tempdir().unwrap();
    let words = steady(dir.path());
    let file = dir.path().join("chroma.prom");
    let to = format!("--to={}", file.display());
    fs::write(&file, "of yesterday").unwrap();
    assert_eq!(with(&words, &["--output=prometheus", &to]), (0, String::new(), String::new()));
    let text = fs::read_to_string(&file).unwrap();
    let page = Page::parse(&text);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
    assert_eq!(page.get("chroma_exporter_stores", &[]), Some(1.0));
    assert_eq!(
        page.get("chroma_integrity_state", &[("check", "full"), ("state", "ok")]),
        Some(1.0)
    );
    // What would meet the families of the program that reads the file, and what means nothing in one look.
    assert!(!text.contains("\nprocess_") && !text.contains(" counter\n"), "{text}");

    let serve: Vec<&String> = words.iter().filter(|word| word.starts_with("--")).collect();
    let store = format!("--store.path={}", words.last().unwrap());
    let exporter = Exporter::start(&[&serve[..], &[&store]].concat());
    exporter.ready();
    let served = exporter.wait_page("the full check", crate::support::SOON, |page| {
        page.get("chroma_integrity_state", &[("check", "full"), ("state", "ok")]) == Some(1.0)
    });
    let series = |page: &Page| -> std::collections::BTreeSet<String> {
        let lines = page.text.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
    };
    let (ours, theirs) = (series(&page), series(&served));
    let only: Vec<&String> = ours.difference(&theirs).collect();
    assert!(only.is_empty(), "no exporter has {only:?}");
    let more: Vec<&String> = theirs
        .difference(&ours)
        .filter(|name| !name.starts_with("process_") && !name.starts_with("chroma_exporter_"))
        .filter(|name| !name.split('{').next().unwrap().ends_with("_total"))
        // Whether bytes change although nobody writes is seen over days.
        .filter(|name| !name.contains("check=\"decay\""))
        .collect();
    assert!(more.is_empty(), "not in the file: {more:?}");

    let (code, _, err) = with(&words, &["--output=prometheus", "--to=/nowhere/chroma.prom"]);
    assert!(code == 74 && err.contains("cannot write /nowhere/chroma.prom"), "{code} {err}");
}

#[test]
fn config_init_writes_what_it_finds_and_overwrites_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::create_dir_all(root.join("srv/data")).unwrap();
    fs::create_dir_all(root.join("backup/chroma.backup.20261130_020000")).unwrap();
    fs::rename(fixture("chroma-1.5.9", root), root.join("srv/data/chroma")).unwrap();
    // A host without processes.
    fs::create_dir(root.join("proc")).unwrap();
    let (procfs, rootfs) = (
        format!("--path.procfs={}", root.join("proc").display()),
        format!("--path.rootfs={}", root.display()),
    );
    let init =
        |more: &[&str]| reported(&run(&[&["config", "init", &procfs, &rootfs], more].concat()));
    let (code, out, err) = init(&[]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("path: \"/srv/data/chroma\" # nobody has it open now"), "{out}");
    assert!(out.contains("- \"/backup/chroma.backup.*\" # 1 there now"), "{out}");

    let file = root.join("chroma_exporter.yml");
    let to = format!("--to={}", file.display());
    let (code, out, _) = init(&[&to]);
    assert!(code == 0 && out.contains("is written, with 1 store. Read it, and start:"), "{out}");
    let written = fs::read_to_string(&file).unwrap();
    let check = ["config", "check", "--config.file", file.to_str().unwrap()];
    assert_eq!(reported(&run(&check)).0, 0);
    // What is there stays, also a link that leads nowhere.
    let (code, _, err) = init(&[&to, "other=/srv/other"]);
    assert!(code == 74 && err.contains("is there already; nothing was written"), "{code} {err}");
    assert_eq!(fs::read_to_string(&file).unwrap(), written);
    let link = root.join("link.yml");
    std::os::unix::fs::symlink(root.join("nowhere"), &link).unwrap();
    assert_eq!(init(&[&format!("--to={}", link.display())]).0, 74);
    assert!(!root.join("nowhere").exists());
    // What is named is taken, and nothing else.
    let (_, out, _) = init(&["other=/srv/other"]);
    assert!(out.contains("path: \"/srv/other\"") && !out.contains("/srv/data"), "{out}");
}

#[test]
fn a_health_check_tells_an_exporter_that_lives_from_one_that_is_gone() {
    let exporter = Exporter::start(&["--state.dir", ""]);
    let listens = format!("--web.listen-address={}", exporter.address);
    let url = format!("http://{}/-/healthy", exporter.address);
    // A proxy of the environment has no part in it.
    let mut command = Command::new(binary());
    command.args(["healthcheck", &listens]).env("http_proxy", "http://127.0.0.1:1");
    let (code, out, err) = reported(&command.output().unwrap());
    assert_eq!((code, out, err), (0, format!("{url} answers with 200\n"), String::new()));
    assert!(exporter.stop().success());
    let (code, out, err) = reported(&run(&["healthcheck", &listens]));
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.starts_with(&format!("error: no answer from {url}: ")), "{err}");
    assert!(err.contains("Connection refused") && err.contains("\nhelp: "), "{err}");
}
