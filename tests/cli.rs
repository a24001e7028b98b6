//! The command line as its users meet it: words in, text and exit code out.

mod support;

use std::{
    fs,
    io::Read,
    path::Path,
    process::{Command, Output, Stdio},
};

use support::{binary, fixture, run};

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

fn told(output: &Output) -> (i32, String, String) {
    (output.status.code().expect("a code"), text(&output.stdout), text(&output.stderr))
}

#[test]
fn help_and_version_are_answers_and_wrong_words_are_not() {
    for words in
        [&["--help"][..], &["-h"], &["--version"], &["check", "--help"], &["config", "print", "-h"]]
    {
        let (code, out, err) = told(&run(words));
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
        &["check", "/srv/chroma"],
        &["config"],
        &["--web.listen-address", "18000"],
        &["check", "--output", "xml"],
        &["completions", "tcsh"],
    ] {
        let (code, out, err) = told(&run(words));
        assert_eq!((code, out.as_str()), (64, ""), "{words:?}");
        assert!(err.starts_with("error: ") || err.contains("Usage: "), "{err}");
    }
}

#[test]
fn completions_know_our_words() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, out, _) = told(&run(&["completions", shell]));
        assert_eq!(code, 0);
        assert!(out.contains("chroma_exporter") && out.contains("store.path"), "{shell}");
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
         {file}:4: web.port: unknown key; known here: allowed_hosts, config_file, enable_lifecycle, header_timeout, listen_addresses, max_connections, telemetry_path\n\
         {file}:6: stores[0].path: must be given: the directory to watch\n"
    );
    for words in [
        &["config", "check", "--config.file", file][..],
        &["config", "--config.file", file, "print"],
        &["--config.file", file, "check"],
        &["serve", "--config.file", file],
        &["--config.file", file],
    ] {
        assert_eq!(told(&run(words)), (78, String::new(), want.clone()), "{words:?}");
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
    let (code, first, err) = told(&run(&words));
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(first.contains("level: debug") && first.contains("/srv/chroma"), "{first}");
    fs::write(&path, &first).unwrap();
    let (_, second, _) = told(&run(&["config", "print", "--config.file", file]));
    assert_eq!(first, second);
    let checked = told(&run(&["config", "check", "--config.file", file]));
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

    let (code, out, _) = told(&run(&[
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
        told(&run(&["check", &state_flag, &good, &gone, "--no-collector.backups"]));
    assert_eq!(same, code);
    assert!(
        out.contains("good  ") && out.contains("\n2 stores: ") && !out.contains('\u{1b}'),
        "{out}"
    );
    assert!(!state.exists(), "check writes nothing, not even its own state");
}

#[test]
fn explain_prints_the_page_and_names_what_was_meant() {
    let (code, out, err) = told(&run(&["explain", "store_replaced"]));
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(
        out.starts_with("# store_replaced\n") && out.contains("\n## What not to do\n"),
        "{out}"
    );
    let (code, out, _) = told(&run(&["explain"]));
    assert!(code == 0 && out.contains("\n  hot_journal ") && out.contains("\nJournal\n"), "{out}");
    let (code, out, err) = told(&run(&["explain", "hot_jurnal"]));
    assert_eq!((code, out.as_str()), (64, ""));
    assert!(err.contains("did you mean hot_journal?"), "{err}");
}

#[test]
fn check_says_how_to_learn_more_and_colours_when_told() {
    let dir = tempfile::tempdir().unwrap();
    let store = format!("--store.path={}", dir.path().join("gone").display());
    let words = ["check", "--state.dir=", &store];
    let (code, plain, _) = told(&run(&words));
    assert_eq!(code, 2);
    assert!(plain.contains("\n    more    chroma_exporter explain store_missing\n"), "{plain}");
    assert!(!plain.contains('\u{1b}'));
    let (_, painted, _) = told(&run(&[&words[..], &["--color=always"]].concat()));
    assert!(painted.contains("\u{1b}[1;31mcritical\u{1b}[0m"), "{painted}");
}

#[test]
fn no_store_at_all_is_unknown_and_said() {
    let dir = tempfile::tempdir().unwrap();
    let procfs = format!("--path.procfs={}", dir.path().display());
    let (code, out, _) = told(&run(&["check", &procfs]));
    assert_eq!(code, 3);
    assert!(out.starts_with("unknown  "), "{out}");
    let (code, out, _) = told(&run(&["check", &procfs, "--output", "json"]));
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
