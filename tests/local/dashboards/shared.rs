//! What several dashboards show.

use std::path::Path;

use chroma_exporter::{alert::builtin, findings::Code};
use serde_json::{Value, json};

use super::model::{Item, Panel, catalogue, mapping};

/// The words of `check` for a store, as `store:chroma_verdict:max` records them.
pub const VERDICT: &str = "max by (job, instance, store) (\n    3 * chroma_finding{STORE, severity=\"critical\"}\n  or\n    2 * chroma_finding{STORE, severity=\"warning\"}\n  or\n    (1 - chroma_exporter_collector_success{STORE})\n  or\n    (last_over_time(chroma_store_info{STORE}[6h]) unless on (job, instance, store) chroma_store_info{STORE})\n)";

pub const VERDICTS: &[(i64, &str, &str)] = &[
    (0, "OK", "green"),
    (1, "NOT KNOWN", "purple"),
    (2, "WARNING", "orange"),
    (3, "UNSAFE", "red"),
];

/// A number that should be 0; `worst` is the colour of any other.
pub fn how_many(title: &'static str, expr: &str, worst: &str, description: &'static str) -> Item {
    let panel = Panel::number(title, "none", description).now(expr);
    Item::Panel(panel.levels("green", &[(1.0, worst)]).nothing("not known"))
}

/// The findings that are there, worst first, each with cause and remedy from the catalogue.
pub fn findings() -> Panel {
    let text = |say: fn(Code) -> String| {
        vec![
            ("mappings", catalogue(say)),
            ("custom.cellOptions", json!({"type": "auto", "wrapText": true})),
        ]
    };
    let expr = "topk(500,\n    3 * (chroma_finding{STORE, severity=\"critical\"} == 1)\n  or\n    2 * (chroma_finding{STORE, severity=\"warning\"} == 1)\n  or\n    (chroma_finding{STORE, severity=\"info\"} == 1)\n)";
    // The label once more, twice: each column turns it into other words.
    let expr = format!(
        "label_replace(label_replace({expr}, \"why\", \"$1\", \"code\", \"(.+)\"), \"todo\", \"$1\", \"code\", \"(.+)\")"
    );
    let mut why = text(|code| code.cause().to_owned());
    why.push(("custom.width", json!(430)));
    Panel::table(
        "Open findings: what, why, what to do",
        "none",
        "Every finding that is there now, the gravest first (at most 500). PATH stands for the persist directory. A click on the finding opens its runbook.",
    )
    .now(&expr)
    .columns(
        &[
            ("Value", "Severity"),
            ("store", "store"),
            ("instance", "instance"),
            ("code", "Finding"),
            ("why", "Why"),
            ("todo", "What to do"),
        ],
        &["Time", "job", "severity", "__name__"],
        &[("Severity", true)],
    )
    .field(
        "Severity",
        &[
            ("mappings", json!([mapping(&[(1, "info", "blue"), (2, "warning", "orange"), (3, "critical", "red")])])),
            ("custom.cellOptions", json!({"type": "color-background", "mode": "basic"})),
            ("custom.width", json!(95)),
        ],
    )
    .field("store", &[("links", json!([store_link()])), ("custom.width", json!(150))])
    .field("instance", &[("custom.width", json!(170))])
    .field(
        "Finding",
        &[
            ("mappings", catalogue(|code| builtin::title(code).to_string())),
            ("links", json!([{"title": "Runbook", "url": "${runbooks:raw}/${__value.raw}.md", "targetBlank": true}])),
            ("custom.width", json!(220)),
        ],
    )
    .field("Why", &why)
    .field("What to do", &text(|code| code.remedy(Path::new("PATH")).text().replace('\n', " ▸ ")))
    .nothing("No findings")
}

/// For columns that are 0 or 1.
pub fn yes_no() -> Vec<(&'static str, Value)> {
    vec![
        ("mappings", json!([mapping(&[(0, "no", "red"), (1, "yes", "green")])])),
        ("custom.cellOptions", json!({"type": "color-text"})),
    ]
}

/// Leads from a row to the dashboard of its store.
pub fn store_link() -> Value {
    json!({
        "title": "This store in depth",
        "url": "/d/chroma-store?var-datasource=${datasource}&var-job=${__data.fields.job}&var-instance=${__data.fields.instance}&var-store=${__data.fields.store}&${runbooks:queryparam}&${__url_time_range}",
    })
}
