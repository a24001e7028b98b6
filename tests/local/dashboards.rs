//! The dashboards of the tree: made by the code beside this file (`UPDATE_GOLDEN=1` writes them anew), in keeping with the
//! rules of Grafana's own linter, and asking for nothing that the program does not export.
#![allow(unreachable_pub, reason = "its modules are its own")]

mod exporters;
mod fleet;
mod lint;
mod model;
mod shared;
mod store;

use std::{fs, path::PathBuf};

use crate::support::{exported::Exported, rulefile};
use chroma_exporter::findings::Code;
use serde_json::{Value, json};

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("dashboards")
}

fn kept() -> Vec<Value> {
    let mut files: Vec<PathBuf> = fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    files.sort();
    assert_eq!(files.len(), 3);
    files
        .iter()
        .map(|file| serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap())
        .collect()
}

fn exported() -> Exported {
    Exported::new(&rulefile::recorded())
}

#[test]
fn the_dashboards_in_the_tree_are_what_this_code_makes() {
    for dashboard in [exporters::dashboard(), fleet::dashboard(), store::dashboard()] {
        let file = directory().join(format!("{}.json", dashboard.uid));
        let made = serde_json::to_string_pretty(&dashboard.json()).unwrap() + "\n";
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            // Whole at once: the other tests read it meanwhile.
            let new = file.with_extension("new");
            fs::write(&new, &made).unwrap();
            fs::rename(new, &file).unwrap();
        }
        let kept = fs::read_to_string(&file).unwrap_or_default();
        assert!(kept == made, "{} differs; UPDATE_GOLDEN=1 writes it anew", file.display());
    }
}

#[test]
fn the_dashboards_keep_the_rules() {
    let exported = exported();
    for dashboard in kept() {
        let problems = lint::problems(&dashboard, &exported);
        assert!(problems.is_empty(), "{}: {problems:#?}", dashboard["title"]);
    }
}

#[test]
fn every_finding_has_its_words_where_findings_are_shown() {
    let of_stores = |dashboard: &Value| dashboard["uid"] != "chroma-exporters";
    for dashboard in kept().into_iter().filter(of_stores) {
        let panel = model::panels(&dashboard)
            .into_iter()
            .find(|panel| panel["title"].as_str().unwrap().starts_with("Open findings"))
            .unwrap();
        let text = panel.to_string();
        for code in Code::ALL {
            assert_eq!(text.matches(&format!("\"{}\":", code.as_str())).count(), 3, "{code:?}");
        }
    }
}

#[test]
fn the_dashboard_of_a_store_opens_with_one_store_and_what_matters_first() {
    let [_, fleet, store] = kept().try_into().unwrap();
    let variable = |dashboard: &Value, name: &str| {
        let all = dashboard["templating"]["list"].as_array().unwrap();
        all.iter().find(|variable| variable["name"] == name).unwrap().clone()
    };
    for name in ["instance", "store"] {
        // Without All in the list and without a choice that was made, Grafana takes the first.
        assert_eq!(variable(&store, name)["includeAll"], false);
        assert_eq!(variable(&store, name)["current"], json!({}));
        assert_eq!(variable(&fleet, name)["includeAll"], true);
    }
    let rows = store["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] == "row");
    let folded: Vec<bool> = rows.map(|row| row["collapsed"] == true).collect();
    assert!(
        folded.is_sorted() && folded.iter().filter(|folded| **folded).count() > 5,
        "{folded:?}"
    );
    // Whoever gave another address of the runbooks keeps it on the way to a store.
    assert!(shared::store_link().to_string().contains("&${runbooks:queryparam}&"));
}

#[test]
fn dashboards_lead_to_each_other_and_to_nowhere_else() {
    let dashboards = kept();
    let uids: Vec<&str> = dashboards.iter().map(|d| d["uid"].as_str().unwrap()).collect();
    assert_eq!(uids, ["chroma-exporters", "chroma-fleet", "chroma-store"]);
    for dashboard in &dashboards {
        for part in dashboard.to_string().split("\"/d/").skip(1) {
            let uid = part.split(['?', '"', '\\']).next().unwrap();
            assert!(uids.contains(&uid), "{}: /d/{uid}", dashboard["title"]);
        }
    }
}

/// A dashboard with one mistake.
type Mistake = (&'static str, fn(&mut Value));

#[test]
fn the_rules_find_what_the_linter_would() {
    let mistakes: &[Mistake] = &[
        ("uneditable-dashboard", |d| d["editable"] = json!(true)),
        ("template-datasource", |d| d["templating"]["list"][0]["query"] = json!("loki")),
        ("template-job", |d| d["templating"]["list"][1]["multi"] = json!(false)),
        ("template-instance", |d| d["templating"]["list"][2]["allValue"] = json!(".*")),
        ("template-on-time-change-reload", |d| d["templating"]["list"][1]["refresh"] = json!(1)),
        ("template-label-promql", |d| {
            d["templating"]["list"][1]["query"]["query"] = json!("label_values(nothing, job)");
        }),
        ("panel-datasource", |d| d["panels"][0]["datasource"]["uid"] = json!("prometheus")),
        ("panel-title-description", |d| d["panels"][0]["description"] = json!("")),
        ("panel-units", |d| d["panels"][0]["fieldConfig"]["defaults"]["unit"] = json!("furlongs")),
        ("panel-no-targets", |d| d["panels"][0]["targets"] = json!([])),
        ("colours by name", |d| {
            d["panels"][0]["fieldConfig"]["defaults"]["color"] = json!("#ff0000");
        }),
        ("lies on", |d| d["panels"][1]["gridPos"]["x"] = json!(1)),
        ("does not fit", |d| d["panels"][1]["gridPos"]["w"] = json!(24)),
        ("ids of panels", |d| d["panels"][1]["id"] = json!(1)),
        ("panel-no-value", |d| {
            d["panels"][0]["fieldConfig"]["defaults"]["noValue"] = json!("");
        }),
        ("folded and empty", |d| {
            let rows = d["panels"].as_array_mut().unwrap();
            let row = rows.iter_mut().find(|panel| panel["collapsed"] == true).unwrap();
            row["panels"] = json!([]);
        }),
        ("panel-no-targets", |d| {
            let rows = d["panels"].as_array_mut().unwrap();
            let row = rows.iter_mut().find(|panel| panel["collapsed"] == true).unwrap();
            row["panels"][0]["targets"] = json!([]);
        }),
        ("template-store", |d| d["uid"] = json!("chroma-store")),
        ("annotations from alerts", |d| d["annotations"]["list"] = json!([])),
    ];
    let (good, exported) = (fleet::dashboard().json(), exported());
    assert_eq!(lint::problems(&good, &exported), Vec::<String>::new());
    for (rule, mistake) in mistakes {
        let mut bad = good.clone();
        mistake(&mut bad);
        let problems = lint::problems(&bad, &exported);
        assert!(problems.iter().any(|problem| problem.contains(rule)), "{rule}: {problems:?}");
    }
    let at = "job=~\"$job\", instance=~\"$instance\"";
    for (rule, query) in [
        ("target-job", "chroma_records{instance=~\"$instance\"}".to_owned()),
        ("target-instance", "sum(chroma_records{job=~\"$job\"})".to_owned()),
        ("target-rate-interval", format!("rate(chroma_process_cpu_seconds_total{{{at}}}[5m])")),
        ("target-counter-agg", format!("sum(chroma_process_cpu_seconds_total{{{at}}})")),
        ("target-counter-agg", format!("rate(chroma_records{{{at}}}[$__rate_interval])")),
        ("target-promql", "1".to_owned()),
        ("is not exported", format!("chroma_nothing{{{at}}}")),
        ("has no label", format!("chroma_records{{{at}, check=\"full\"}}")),
        ("never has", format!("chroma_integrity_state{{{at}, state=\"broken\"}}")),
        ("has the label", format!("sum by (class) (chroma_records{{{at}}})")),
    ] {
        let problems = lint::of_query(&query, &exported);
        assert!(problems.iter().any(|problem| problem.contains(rule)), "{rule}: {problems:?}");
    }
}
