//! The rule file in the tree is what the program prints (`UPDATE_GOLDEN=1` writes it anew), names nothing that the program
//! does not export, and every alert has its words and leads somewhere.

use std::{collections::BTreeSet, fs, path::Path};

use crate::support::{self, exported::Exported, promql, rulefile};
use chroma_exporter::findings::Code;

fn printed(more: &[&str]) -> String {
    let out = support::run(&[&["rules", "--state.dir", ""], more].concat());
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn the_rule_file_in_the_tree_is_what_the_program_prints() {
    let printed = printed(&[]);
    let file = rulefile::path();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&file, &printed).unwrap();
    }
    let kept = fs::read_to_string(&file).unwrap_or_default();
    assert!(
        kept == printed,
        "alerts/chroma.rules.yml is not what `rules` prints; UPDATE_GOLDEN=1 writes it anew"
    );
}

#[test]
fn what_differs_between_installations_is_a_flag() {
    let text = printed(&["--job", "vectors", "--grafana.url", "https://g.example.org/"]);
    assert!(text.contains("up{job=\"vectors\"} == 0"));
    assert!(text.contains("https://g.example.org/d/chroma-store?"));
    let text = printed(&["--only", "exporters", "--only", "recording"]);
    assert!(text.contains("record: store:chroma_verdict:max") && text.contains("ChromaWatchdog"));
    assert!(!text.contains("alert: ChromaSecondWriter"));
}

/// What a collector rests by its configuration makes no alert.
#[test]
fn a_collector_is_stale_after_three_of_its_turns() {
    for (interval, seconds) in [("30s", 1800), ("5m", 1800), ("1h", 3 * 3600), ("1d", 72 * 3600)] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.yml");
        let store = format!(
            "{{path: /srv/s, server: {{url: 'http://127.0.0.1:1', interval: {interval}}}}}"
        );
        fs::write(&file, format!("stores: [{store}]\n")).unwrap();
        let text = printed(&["--config.file", file.to_str().unwrap()]);
        let want = format!("chroma_exporter_collector_last_run_timestamp_seconds > {seconds}\n");
        assert!(text.contains(&want), "{interval}: {want}");
    }
}

/// Every expression: of the rules, and of the questions in their descriptions.
fn expressions(rule: &rulefile::Rule) -> Vec<String> {
    let mut all = vec![rule.expr.clone()];
    let description = rule.annotations.get("description").map_or("", String::as_str);
    for part in description.split("query (printf \"").skip(1) {
        let end = part.find("\" $at").unwrap();
        let at = "instance=\"i\",job=\"j\",store=\"s\"";
        all.push(part[..end].replace("\\\"", "\"").replace("%[1]s", at).replace("%s", at));
    }
    all
}

#[test]
fn rules_ask_for_nothing_that_is_not_exported() {
    let exported = Exported::new(&rulefile::recorded());
    let mut problems = Vec::new();
    let mut asked = 0;
    for rule in rulefile::rules() {
        for expr in expressions(&rule) {
            let named = promql::named(&expr);
            asked += named.selectors.len();
            let name = format!("{}{}", rule.alert, rule.record);
            problems.extend(exported.problems(&named).iter().map(|p| format!("{name}: {p}")));
        }
    }
    assert!(problems.is_empty(), "{problems:#?}");
    assert!(asked > 3 * Code::ALL.len() / 2);
}

#[test]
fn every_alert_has_its_words_and_leads_somewhere() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = chroma_exporter::publish::runbook_page("exporter").unwrap();
    let mut names = BTreeSet::new();
    for rule in rulefile::alerts() {
        let name = &rule.alert;
        assert!(names.insert(name.clone()), "{name}: twice");
        let words =
            |key: &str| rule.annotations.get(key).unwrap_or_else(|| panic!("{name}: no {key}"));
        let summary = words("summary");
        assert!(summary.len() > 10 && !summary.contains("{{"), "{name}: {summary}");
        assert!(words("description").len() > 40, "{name}");
        if rule.group == "chroma-stores" {
            let description = words("description");
            for part in ["$labels.store", "$labels.instance", "What to do: "] {
                assert!(description.contains(part), "{name}: {description}");
            }
            assert_eq!(rule.keep_firing_for, "5m", "{name}: a lost scrape is no recovery");
        }
        // That of a finding comes with its series.
        let severity = rule.labels.get("severity").map(String::as_str);
        let given = matches!(severity, Some("critical" | "warning" | "info"));
        assert!(given || rule.expr.starts_with("chroma_finding{code="), "{name}: {severity:?}");
        // Links lead somewhere as they are shipped, or are left out.
        assert!(
            !rule.annotations.contains_key("dashboard_url"),
            "{name}: nobody said where Grafana is"
        );
        let Some(runbook) = rule.annotations.get("runbook_url") else {
            let gone = ["ChromaExporterAbsent", "ChromaExporterDown", "ChromaWatchdog"];
            assert!(gone.contains(&name.as_str()), "{name}: no runbook");
            continue;
        };
        let runbook = runbook.strip_prefix("http://{{ $labels.instance }}/").unwrap();
        match runbook.split_once('#') {
            None => assert!(here.join(runbook).is_file(), "{name}: {runbook}"),
            Some(("runbooks/exporter.md", anchor)) => {
                let section = format!("<h2 id=\"{anchor}\">{name}</h2>");
                assert!(page.contains(&section), "{name}: no section {anchor}");
            }
            Some(_) => panic!("{name}: {runbook}"),
        }
    }
    assert_eq!(names.iter().filter(|name| name.starts_with("Chroma")).count(), names.len());
    assert!(names.len() > Code::ALL.len() + 10);
}
