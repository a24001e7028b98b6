//! Prometheus' own tool takes the rule file without a word, and in Prometheus the level of the disk has its recovery.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, path::Path, process::Command};

fn promtool(args: &[&str], file: &Path) {
    let out = Command::new("promtool").args(args).arg(file).output().expect("promtool");
    let said =
        format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "promtool {args:?}: {said}");
}

#[test]
fn promtool_takes_the_rules_and_plays_them() {
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("alerts/chroma.rules.yml");
    promtool(&["check", "rules", "--lint=all", "--lint-fatal"], &rules);
    let scratch = tempfile::tempdir().unwrap();
    let play = scratch.path().join("test.yml");
    let text = format!(
        r#"
rule_files: ['{}']
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - series: 'chroma_disk_used_ratio{{instance="i", job="j", store="s"}}'
        values: '0.7 0.79 0.81 0.78 0.76 0.74 0.78'
      - series: 'chroma_finding{{instance="i", job="j", store="s", code="second_writer", severity="critical"}}'
        values: '0 1 1 0 0 0 0'
    promql_expr_test:
      - expr: 'ALERTS{{alertname="ChromaDiskUsageHigh", alertstate="firing"}}'
        eval_time: 1m
      - expr: 'ALERTS{{alertname="ChromaDiskUsageHigh", alertstate="firing"}}'
        eval_time: 4m
        exp_samples:
          - labels: 'ALERTS{{alertname="ChromaDiskUsageHigh", alertstate="firing", instance="i", job="j", store="s", severity="warning"}}'
            value: 1
      - expr: 'ALERTS{{alertname="ChromaDiskUsageHigh", alertstate="firing"}}'
        eval_time: 6m
      - expr: 'ALERTS{{alertname="ChromaSecondWriter", alertstate="firing"}}'
        eval_time: 2m
        exp_samples:
          - labels: 'ALERTS{{alertname="ChromaSecondWriter", alertstate="firing", instance="i", job="j", store="s", code="second_writer", severity="critical"}}'
            value: 1
      - expr: 'ALERTS{{alertname="ChromaSecondWriter", alertstate="firing"}}'
        eval_time: 3m
"#,
        rules.display()
    );
    fs::write(&play, text).unwrap();
    promtool(&["test", "rules"], &play);
}
