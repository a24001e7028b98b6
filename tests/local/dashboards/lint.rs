//! The rules of grafana/dashboard-linter (docs/rules), for classic JSON and Prometheus, and a few of our own. That each query
//! is right as a whole is said by Prometheus itself (`tests/e2e/dashboards.rs`).

use std::collections::BTreeSet;

use serde_json::Value;

use super::model;
use crate::support::{
    exported::Exported,
    promql::{self, Selector},
};

/// Units that we use, by Grafana's ids.
const UNITS: [&str; 6] = ["none", "bytes", "percentunit", "s", "cps", "dateTimeFromNow"];

/// The dashboard of one store opens with the first one chosen, not with all of them: there the rules `template-instance` and
/// `template-store` would have it otherwise.
const OF_ONE: &str = "chroma-store";

/// What is wrong with a dashboard, each with the name of the rule.
pub fn problems(dashboard: &Value, exported: &Exported) -> Vec<String> {
    let mut out = Vec::new();
    out.extend(of_dashboard(dashboard));
    out.extend(of_variables(dashboard, exported));
    let panels = model::panels(dashboard);
    out.extend(of_grid(list(&dashboard["panels"])));
    out.extend(of_names(&panels));
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let found = of_panel(panel, exported);
        out.extend(found.into_iter().map(|problem| format!("{}: {problem}", panel["title"])));
    }
    out
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn of_dashboard(dashboard: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let mut must = |holds: bool, rule: &str| {
        if !holds {
            out.push(rule.to_owned());
        }
    };
    must(dashboard["editable"] == false, "uneditable-dashboard");
    let uid = dashboard["uid"].as_str().unwrap_or_default();
    must(!uid.is_empty() && uid.len() <= 40, "a fixed uid of at most 40 characters");
    must(dashboard["title"].as_str().is_some_and(|title| !title.is_empty()), "a title");
    must(dashboard["description"].as_str().is_some_and(|text| text.len() > 20), "a description");
    must(dashboard["schemaVersion"].as_u64().is_some_and(|version| version >= 36), "schemaVersion");
    must(dashboard.get("__inputs").is_none(), "__inputs are not for provisioning");
    must(dashboard.get("id").is_none(), "the id is Grafana's to give");
    let text = dashboard.to_string();
    let hex =
        text.split("\"#").skip(1).any(|rest| rest.starts_with(|c: char| c.is_ascii_hexdigit()));
    must(!hex && !text.contains("rgb("), "colours by name fit light and dark");
    must(!text.contains("STORE") && !text.contains("HOST,"), "a placeholder is left");
    let annotations = list(&dashboard["annotations"]["list"]);
    must(
        annotations.iter().any(|a| a["expr"].as_str().is_some_and(|e| e.starts_with("ALERTS{"))),
        "annotations from alerts",
    );
    must(
        annotations.iter().all(|a| a["datasource"]["uid"] == "${datasource}"),
        "annotation-datasource",
    );
    must(
        list(&dashboard["links"])
            .iter()
            .any(|link| link["url"].as_str().is_some_and(|url| url.starts_with("/d/"))),
        "a link to the other dashboard",
    );
    out
}

fn of_variables(dashboard: &Value, exported: &Exported) -> Vec<String> {
    let mut out = Vec::new();
    let variables = list(&dashboard["templating"]["list"]);
    let named = |name: &str| variables.iter().find(|variable| variable["name"] == name);
    match named("datasource") {
        Some(variable)
            if variable["type"] == "datasource"
                && variable["query"] == "prometheus"
                && variable["label"] == "Data source" => {}
        _ => out.push("template-datasource".to_owned()),
    }
    for (name, label) in [("job", "Job"), ("instance", "Instance"), ("store", "Store")] {
        let one = dashboard["uid"] == OF_ONE && name != "job";
        let good = named(name).is_some_and(|variable| {
            variable["type"] == "query"
                && variable["datasource"]["uid"] == "${datasource}"
                && variable["label"] == label
                && variable["multi"] == true
                && variable["includeAll"] == !one
                && variable["current"].as_object().is_some_and(|current| current.is_empty() == one)
                && variable["allValue"] == ".+"
        });
        if !good {
            out.push(format!("template-{name}"));
        }
    }
    for variable in variables.iter().filter(|variable| variable["type"] == "query") {
        let name = &variable["name"];
        if variable["refresh"] != 2 {
            out.push(format!("template-on-time-change-reload: {name}"));
        }
        let query = variable["query"]["query"].as_str().unwrap_or_default();
        let inner = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
        match inner.and_then(|inner| inner.rsplit_once(", ")) {
            Some((expr, label)) => {
                let mut asked = promql::named(expr);
                asked.labels.push(label.to_owned());
                out.extend(
                    exported
                        .problems(&asked)
                        .iter()
                        .map(|p| format!("template-label-promql: {name}: {p}")),
                );
            }
            None => out.push(format!("template-label-promql: {name}: {query}")),
        }
    }
    out
}

/// What stands in one list may not overlap; a folded row is a list of its own, below its heading.
fn of_grid(panels: &[Value]) -> Vec<String> {
    let mut out = Vec::new();
    let place = |panel: &Value| {
        ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap_or(u64::MAX >> 1))
    };
    for (at, panel) in panels.iter().enumerate() {
        let [x, y, w, h] = place(panel);
        if w == 0 || h == 0 || x + w > 24 {
            out.push(format!("{} does not fit the grid", panel["title"]));
        }
        for other in &panels[..at] {
            let [ox, oy, ow, oh] = place(other);
            if x < ox + ow && ox < x + w && y < oy + oh && oy < y + h {
                out.push(format!("{} lies on {}", panel["title"], other["title"]));
            }
        }
        let folded = list(&panel["panels"]);
        if folded.is_empty() == (panel["collapsed"] == true) {
            out.push(format!("{} is folded and empty, or open and holds panels", panel["title"]));
        }
        if folded.iter().any(|inside| place(inside)[1] <= y) {
            out.push(format!("{} holds what lies above it", panel["title"]));
        }
        out.extend(of_grid(folded));
    }
    out
}

fn of_names(panels: &[&Value]) -> Vec<String> {
    let mut out = Vec::new();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
    if ids.len() != panels.len() || ids.contains(&None) {
        out.push("ids of panels are not unique".to_owned());
    }
    let titles: Vec<_> =
        panels.iter().filter(|panel| panel["type"] != "row").map(|panel| &panel["title"]).collect();
    let unique: BTreeSet<_> = titles.iter().map(|title| title.as_str()).collect();
    if titles.len() != unique.len() {
        out.push("titles are not unique".to_owned());
    }
    out
}

fn of_panel(panel: &Value, exported: &Exported) -> Vec<String> {
    let mut out = Vec::new();
    let mut must = |holds: bool, rule: &str| {
        if !holds {
            out.push(rule.to_owned());
        }
    };
    let datasource =
        |value: &Value| value["type"] == "prometheus" && value["uid"] == "${datasource}";
    must(datasource(&panel["datasource"]), "panel-datasource");
    let long =
        |key: &str, least: usize| panel[key].as_str().is_some_and(|text| text.len() >= least);
    must(long("title", 3) && long("description", 15), "panel-title-description");
    must(
        panel["fieldConfig"]["defaults"]["unit"].as_str().is_some_and(|unit| UNITS.contains(&unit)),
        "panel-units",
    );
    // An empty panel that does not say why leaves its reader to guess.
    let nothing = panel["fieldConfig"]["defaults"]["noValue"].as_str();
    must(nothing.is_some_and(|words| words.len() > 1), "panel-no-value");
    let targets = list(&panel["targets"]);
    must(!targets.is_empty(), "panel-no-targets");
    let letters: BTreeSet<_> = targets.iter().map(|target| target["refId"].as_str()).collect();
    must(letters.len() == targets.len(), "letters of targets are not unique");
    for target in targets {
        must(datasource(&target["datasource"]), "target-datasource");
        let expr = target["expr"].as_str().unwrap_or_default();
        for problem in of_query(expr, exported) {
            must(false, &format!("{problem}: {expr}"));
        }
        // A legend that names a label which the query drops shows nothing.
        let legend = target["legendFormat"].as_str().unwrap_or_default();
        must(!legend.contains("{{ "), "legends are written without spaces");
    }
    out
}

/// The rules about one query.
pub fn of_query(expr: &str, exported: &Exported) -> Vec<String> {
    let named = promql::named(expr);
    let mut out: Vec<String> = exported
        .problems(&named)
        .into_iter()
        .filter(|problem| {
            // `label_replace` makes these two.
            !problem.ends_with("label why") && !problem.ends_with("label todo")
        })
        .collect();
    if named.selectors.is_empty() {
        out.push("target-promql".to_owned());
    }
    for selector in &named.selectors {
        let with = |label: &str| {
            selector
                .matchers
                .iter()
                .any(|m| m.label == label && m.op == "=~" && m.value == format!("${label}"))
        };
        for label in ["job", "instance"] {
            if !with(label) {
                out.push(format!("target-{label}"));
            }
        }
        out.extend(of_counter(selector, exported));
    }
    out
}

fn of_counter(selector: &Selector, exported: &Exported) -> Vec<String> {
    let mut out = Vec::new();
    let rate = matches!(selector.inside.as_str(), "rate" | "irate" | "increase");
    if rate && selector.range != "$__rate_interval" {
        out.push("target-rate-interval".to_owned());
    }
    if exported.is_counter(&selector.metric) != rate {
        out.push("target-counter-agg".to_owned());
    }
    out
}
