//! What dashboards ask of every host at once, over hours: 70 findings of each store would be too many to go through.

use serde_saphyr::LitString;

use super::Entry;

pub(super) fn rules() -> Vec<Entry> {
    let rule = |record, expr: &str| Entry::Recording { record, expr: LitString(expr.to_owned()) };
    vec![
        rule("store_severity:chroma_finding:sum", "sum without (code) (chroma_finding)"),
        rule(
            "store:chroma_exporter_collector_success:min",
            "min without (collector) (chroma_exporter_collector_success)",
        ),
        rule("store:chroma_verdict:max", VERDICT),
    ]
}

/// The words of `check` as one number for colours and for sorting: 3 critical, 2 warning, 1 unknown, 0 ok. A store that was
/// watched within six hours and no longer is, is unknown: what is not looked at is not healthy.
const VERDICT: &str = r#"max by (job, instance, store) (
    3 * chroma_finding{severity="critical"}
  or
    2 * chroma_finding{severity="warning"}
  or
    (1 - chroma_exporter_collector_success)
  or
    (
      last_over_time(chroma_store_info[6h])
      unless on (job, instance, store) chroma_store_info
      unless on (job, instance, store) last_over_time(chroma_store_discovered[6h]) == 1
    )
)"#;
