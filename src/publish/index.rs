//! The landing page: who answers here, where the metrics are, how the stores fare at a glance. One document with its
//! style inside; it loads nothing.

mod alerts;

use std::fmt::Write;

use crate::{
    alert::report::AlertReport,
    findings::Severity,
    metrics::{REVISION, VERSION},
    sample::{Snapshot, StoreReadings},
};

/// Allows the one style of the page, by its hash, and nothing else.
pub const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src \
     'sha256-U7ISw6u2vIlwMy6polKNJzUzDR/rY0xekpN3JZtkwlQ='; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

const STYLE: &str = "\
body{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}\
h1{font-size:1.4rem}table{border-collapse:collapse;width:100%}\
th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #ddd}\
.critical{color:#b00020;font-weight:bold}.warning{color:#8a5a00;font-weight:bold}.unknown{color:#666;font-style:italic}.ok{color:#1b6e2c}";

/// How a store fares, worst first. Unknown is worse than ok and does not hide what was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Critical,
    Warning,
    Unknown,
    Ok,
}

impl Status {
    fn of(store: &StoreReadings) -> Self {
        let findings = || store.readings.iter().flat_map(|r| &r.observation.findings);
        let in_full = store.readings.len() >= store.collectors
            && store.readings.iter().all(|reading| reading.success());
        match findings().map(|finding| finding.severity).max() {
            Some(Severity::Critical) => Self::Critical,
            Some(Severity::Warning) => Self::Warning,
            _ if !in_full => Self::Unknown,
            _ => Self::Ok,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
            Self::Unknown => "unknown",
            Self::Ok => "ok",
        }
    }
}

/// The page for `snapshot`, linking to the metrics at `telemetry_path`.
pub(super) fn render(snapshot: &Snapshot, report: &AlertReport, telemetry_path: &str) -> String {
    let mut rows = String::new();
    for store in &snapshot.stores {
        let status = Status::of(store).as_str();
        let mut codes: Vec<&str> = store
            .readings
            .iter()
            .flat_map(|reading| &reading.observation.findings)
            .map(|finding| finding.code.as_str())
            .collect();
        codes.sort_unstable();
        codes.dedup();
        push(
            &mut rows,
            format_args!(
                "<tr><td>{}</td><td>{}</td><td class=\"{status}\">{status}</td><td>{}</td></tr>\n",
                escaped(&store.store),
                escaped(&store.path.to_string_lossy()),
                codes.join(", "),
            ),
        );
    }
    if rows.is_empty() {
        rows.push_str(
            "<tr><td colspan=\"4\" class=\"unknown\">no store is being watched</td></tr>\n",
        );
    }
    let mut page = String::new();
    push(
        &mut page,
        format_args!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>chroma_exporter</title>\n\
             <style>{STYLE}</style></head>\n<body>\n<h1>chroma_exporter</h1>\n\
             <p>Version {VERSION}, revision {revision}. Says whether the data of Chroma on this host is safe.</p>\n\
             <ul><li><a href=\"{metrics}\">Metrics</a></li><li><a href=\"/-/healthy\">Healthy</a></li>\
             <li><a href=\"/-/ready\">Ready</a></li></ul>\n\
             <table>\n<tr><th>Store</th><th>Directory</th><th>Status</th><th>Findings</th></tr>\n{rows}</table>\n{alerts}\
             <p>As of {at}. Causes and remedies: <code>chroma_exporter check</code></p>\n</body>\n</html>\n",
            revision = escaped(REVISION),
            metrics = escaped(telemetry_path),
            at = snapshot.taken_at,
            alerts = alerts::render(report),
        ),
    );
    page
}

fn push(text: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    text.write_fmt(what).unwrap_or_default();
}

/// Text that is text wherever it stands, in an attribute too. Control characters would be nothing to read.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write as _,
        path::Path,
        process::{Command, Stdio},
        sync::Arc,
        time::Duration,
    };

    use super::*;
    use crate::{
        clock::Timestamp,
        collectors::CollectError,
        findings::{Code, Finding},
        sample::{Observation, Reading},
    };

    fn store(findings: &[Code], failed: bool, collectors: usize) -> StoreReadings {
        let problem = || CollectError::Other("no".to_owned());
        let reading = Reading {
            collector: "disk",
            descs: &[],
            observation: Observation {
                findings: findings.iter().map(|code| Finding::new(*code, "", "")).collect(),
                problems: failed.then(problem).into_iter().collect(),
                ..Observation::default()
            },
            taken_at: Timestamp::from_secs(0),
            duration: Duration::ZERO,
            last_success: None,
            codes: &[],
        };
        StoreReadings {
            store: "s".into(),
            path: Path::new("/srv/\"><script>alert('&')</script>\n").into(),
            readings: vec![Arc::new(reading)],
            collectors,
        }
    }

    #[test]
    fn a_store_shows_its_worst_finding_and_unknown_is_not_ok() {
        use Code::{BackupSameDisk as Info, BackupStale as Warning, DiskReadonly as Critical};
        for (findings, failed, collectors, want) in [
            (&[][..], false, 1, Status::Ok),
            (&[], false, 2, Status::Unknown),
            (&[], true, 1, Status::Unknown),
            (&[Info], false, 1, Status::Ok),
            (&[Info], true, 1, Status::Unknown),
            (&[Info, Warning], true, 1, Status::Warning),
            (&[Critical, Info, Warning], true, 2, Status::Critical),
        ] {
            assert_eq!(Status::of(&store(findings, failed, collectors)), want, "{findings:?}");
        }
    }

    #[test]
    fn names_from_disk_cannot_become_markup() {
        let stores = vec![store(&[Code::DiskReadonly], false, 1)];
        let page = render(
            &Snapshot { taken_at: Timestamp::from_secs(0), stores },
            &AlertReport::default(),
            "/m?a=\"b\"",
        );
        assert!(page.contains(
            "/srv/&quot;&gt;&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;\u{fffd}"
        ));
        assert!(page.contains("href=\"/m?a=&quot;b&quot;\""));
        assert!(page.contains("class=\"critical\">critical</td><td>disk_readonly<"));
        assert!(!page.contains("<script"));
        let empty = Snapshot { taken_at: Timestamp::from_secs(0), stores: Vec::new() };
        assert!(
            render(&empty, &AlertReport::default(), "/metrics")
                .contains("no store is being watched")
        );
    }

    #[test]
    fn the_policy_names_the_style_of_the_page() {
        let mut sum =
            Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        sum.stdin.take().unwrap().write_all(STYLE.as_bytes()).unwrap();
        let out = String::from_utf8(sum.wait_with_output().unwrap().stdout).unwrap();
        let digest: Vec<u8> = (0..64)
            .step_by(2)
            .map(|at| u8::from_str_radix(&out[at..at + 2], 16).unwrap())
            .collect();
        let want = format!("'sha256-{}'", base64(&digest));
        assert!(CONTENT_SECURITY_POLICY.contains(&want), "{want}");
    }

    fn base64(bytes: &[u8]) -> String {
        const DIGITS: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut out = String::new();
        for chunk in bytes.chunks(3) {
            let word = chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte));
            let word = word << (8 * (3 - chunk.len()));
            for place in 0..4 {
                let digit = DIGITS[(word >> (18 - 6 * place) & 63) as usize];
                out.push(if place > chunk.len() { '=' } else { digit.into() });
            }
        }
        out
    }
}
