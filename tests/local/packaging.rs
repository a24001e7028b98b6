//! What packages install beside the program: the words in manifests and units are words that the program takes, manual pages are
//! there for every command, and what a pod runs first refuses what it should.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::support::{binary, fixture, run};

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging")
}

/// Every document of the manifests.
fn manifests() -> Vec<Value> {
    let folder = packaging().join("kubernetes");
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    let texts = files.iter().map(|file| fs::read_to_string(file).unwrap());
    texts
        .flat_map(|text| {
            let documents = text.split("\n---\n").map(str::to_owned).collect::<Vec<_>>();
            documents.into_iter().map(|one| serde_saphyr::from_str(&one).unwrap())
        })
        .collect()
}

/// Every container below a value, also those that run before the others.
fn containers<'a>(value: &'a Value, out: &mut Vec<&'a Value>) {
    match value {
        Value::Object(map) => {
            for (key, below) in map {
                if key == "containers" || key == "initContainers" {
                    out.extend(below.as_array().unwrap());
                }
                containers(below, out);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| containers(item, out)),
        _ => {}
    }
}

fn words(list: &Value) -> Vec<String> {
    let items = list.as_array().into_iter().flatten();
    items.map(|word| word.as_str().expect("a text: numbers are no words").to_owned()).collect()
}

/// The program takes these words, as far as they are its own: it would say so before it helps.
fn takes(words: &[String]) {
    let words = words.split(|word| word == "--").next().unwrap();
    let output = run(&[words, &["--help".to_owned()]].concat());
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_words_of_manifests_and_units_are_those_of_the_program() {
    let (documents, mut found) = (manifests(), Vec::new());
    for document in &documents {
        containers(document, &mut found);
    }
    let ours: Vec<&&Value> = found
        .iter()
        .filter(|one| one["image"].as_str().unwrap().starts_with("chroma_exporter:"))
        .collect();
    assert_eq!(ours.len(), 3, "guard, exporter, backup");
    for one in ours {
        takes(&words(&one["args"]));
        let closed = &one["securityContext"];
        assert_eq!(closed["readOnlyRootFilesystem"], true, "{}", one["name"]);
        // Nobody but guard, before the server starts, may write to the store.
        for mount in one["volumeMounts"].as_array().unwrap() {
            let closed = mount["name"] == "data" && one["name"] != "guard";
            assert_eq!(mount["readOnly"] == true, closed, "{}: {mount}", one["name"]);
        }
    }
    // The monitor looks for a port that is there, on pods that are there.
    let one = |kind: &str| documents.iter().find(|one| one["kind"] == kind).unwrap();
    let (pods, monitor) = (&one("Deployment")["spec"], &one("PodMonitor")["spec"]);
    assert_eq!(monitor["selector"], pods["selector"]);
    assert_eq!(pods["selector"]["matchLabels"], pods["template"]["metadata"]["labels"]);
    let scraped = &monitor["podMetricsEndpoints"][0]["port"];
    let exporter = found.iter().find(|one| one["name"] == "exporter").unwrap();
    assert_eq!(&exporter["ports"][0]["name"], scraped);
    for name in ["chroma_exporter.service", "chroma-backup.service"] {
        let unit = fs::read_to_string(packaging().join("systemd").join(name)).unwrap();
        let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
        let words: Vec<String> = start.split(' ').skip(1).map(str::to_owned).collect();
        takes(&words);
    }
}

/// Nothing that pip installs has the file, so people copy it from the page.
#[test]
fn the_page_for_pm2_shows_the_ecosystem_file_that_is_tried() {
    let file = fs::read_to_string(packaging().join("pm2/ecosystem.config.js")).unwrap();
    let page = packaging().with_file_name("docs").join("pm2.md");
    assert!(fs::read_to_string(page).unwrap().contains(&format!("```js\n{file}```")));
}

#[test]
fn a_pod_does_not_start_on_a_broken_store_and_does_on_a_new_or_whole_one() {
    let (documents, mut found) = (manifests(), Vec::new());
    for document in &documents {
        containers(document, &mut found);
    }
    let guard = found.iter().find(|one| one["name"] == "guard").unwrap();
    let words = words(&guard["args"]);
    let dir = tempfile::tempdir().unwrap();
    let starts = |data: &Path| {
        let here = |word: &String| match &**word {
            "/data" => data.to_str().unwrap().to_owned(),
            "/usr/bin/chroma_exporter" => binary().to_owned(),
            other => other.to_owned(),
        };
        run(&words.iter().map(here).collect::<Vec<_>>())
    };
    let whole = fixture("chroma-1.5.9", dir.path());
    let new = dir.path().join("new");
    fs::create_dir(&new).unwrap();
    for data in [&whole, &new] {
        let output = starts(data);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // It became the program, which said its version.
        assert!(String::from_utf8_lossy(&output.stdout).starts_with("chroma_exporter "));
    }
    fs::write(whole.join("chroma.sqlite3"), vec![0xa5; 40_000]).unwrap();
    let output = starts(&whole);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("sqlite_not_a_database"), "{said}");
}

#[test]
fn every_command_has_a_manual_page() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(&["manual", dir.path().to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let page = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    let root = page("chroma_exporter.1");
    assert!(root.contains(".TH chroma_exporter 1"), "{root}");
    for (name, says) in [
        ("chroma_exporter-check.1", "nagios"),
        ("chroma_exporter-backup.1", "keep"),
        ("chroma_exporter-config-init.1", "Find stores"),
        ("chroma_exporter-silence-add.1", "comment"),
    ] {
        assert!(page(name).contains(says), "{name}");
    }
    // As many as the help lists, and those below them.
    let help = String::from_utf8(run(&["--help"]).stdout).unwrap();
    let listed = help.split("Commands:\n").nth(1).unwrap().lines();
    let listed: Vec<&str> = listed
        .take_while(|line| line.starts_with("  "))
        .filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert!(listed.len() > 15, "{help}");
    for name in listed {
        assert!(dir.path().join(format!("chroma_exporter-{name}.1")).exists(), "{name}");
    }
    let nowhere = run(&["manual", "/nowhere"]);
    assert_eq!(nowhere.status.code(), Some(74));
    assert!(String::from_utf8_lossy(&nowhere.stderr).contains("/nowhere"), "{nowhere:?}");
}
