//! The part of the landing page about alerts: what fires, what is silenced, how delivery fares.

use super::{escaped, push};
use crate::alert::report::AlertReport;

/// Empty when there is nothing to say: no alert, no silence, no receiver.
pub(super) fn render(report: &AlertReport) -> String {
    let mut page = String::new();
    if !report.firing.is_empty() {
        page.push_str("<h2>Alerts</h2>\n<table>\n<tr><th>Alert</th><th>Store</th><th>Severity</th><th>Since</th><th>What</th></tr>\n");
        for alert in report.firing.iter().take(ROWS_MAX) {
            let severity = alert.severity.as_str();
            let number = alert.reading.as_ref().map(|number| format!(" {}", number.text()));
            let silenced = report.silences.iter().any(|s| s.hides(alert));
            push(
                &mut page,
                format_args!(
                    "<tr><td>{}{}</td><td>{}</td><td class=\"{severity}\">{severity}</td><td>{}</td><td>{}{}</td></tr>\n",
                    escaped(&alert.name),
                    if silenced { " (silenced)" } else { "" },
                    escaped(&alert.store),
                    alert.since,
                    escaped(&alert.evidence),
                    escaped(&number.unwrap_or_default()),
                ),
            );
        }
        page.push_str("</table>\n");
        more(&mut page, report.firing.len());
    }
    if !report.silences.is_empty() {
        page.push_str("<h2>Silences</h2>\n<table>\n<tr><th>Id</th><th>Stores</th><th>Alerts</th><th>Until</th><th>By</th><th>Why</th></tr>\n");
        for silence in report.silences.iter().take(ROWS_MAX) {
            let or_all = |text: &str| if text.is_empty() { "*".to_owned() } else { escaped(text) };
            push(
                &mut page,
                format_args!(
                    "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
                    escaped(&silence.id),
                    or_all(&silence.store),
                    or_all(&silence.alert),
                    silence.until,
                    escaped(&silence.by),
                    escaped(&silence.comment),
                ),
            );
        }
        page.push_str("</table>\n");
        more(&mut page, report.silences.len());
    }
    if !report.receivers.is_empty() {
        page.push_str("<h2>Receivers</h2>\n<table>\n<tr><th>Receiver</th><th>Type</th><th>Waiting</th><th>Last delivery</th><th>Failed attempts</th><th>Given up</th></tr>\n");
        for (name, receiver) in &report.receivers {
            let counts = &receiver.counts;
            let last =
                counts.last_success.map_or("none since the start".to_owned(), |at| at.to_string());
            let waiting = receiver.oldest.map(|at| format!(", since {at}")).unwrap_or_default();
            push(
                &mut page,
                format_args!(
                    "<tr><td>{}</td><td>{}</td><td>{}{waiting}</td><td>{last}</td><td>{}</td><td>{}</td></tr>\n",
                    escaped(name),
                    receiver.kind,
                    receiver.queued,
                    counts.failed.values().sum::<u64>(),
                    counts.dead_letters,
                ),
            );
        }
        page.push_str("</table>\n");
        if !report.persistent {
            page.push_str("<p class=\"warning\">Alerts are kept in memory only: a restart forgets what was told.</p>\n");
        }
    }
    page
}

fn more(page: &mut String, count: usize) {
    if count > ROWS_MAX {
        push(page, format_args!("<p>… and {} more.</p>\n", count - ROWS_MAX));
    }
}

const ROWS_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        alert::{report::ReceiverReport, silence::Silence},
        clock::Timestamp,
    };

    #[test]
    fn silences_and_receivers_are_shown_and_names_are_text() {
        assert_eq!(render(&AlertReport::default()), "");
        let silence = Silence {
            id: "1".to_owned(),
            store: "<b>".to_owned(),
            alert: String::new(),
            since: Timestamp::from_secs(0),
            until: Timestamp::from_secs(60),
            comment: "a & b".to_owned(),
            by: String::new(),
        };
        let receiver = ReceiverReport { kind: "slack", queued: 3, ..ReceiverReport::default() };
        let page = render(&AlertReport {
            silences: vec![silence],
            receivers: [("ops".to_owned(), receiver)].into(),
            ..AlertReport::default()
        });
        for want in [
            "&lt;b&gt;",
            "<td>*</td>",
            "a &amp; b",
            "1970-01-01T00:01:00Z",
            "<td>slack</td><td>3</td>",
            "memory only",
        ] {
            assert!(page.contains(want), "{want}: {page}");
        }
    }
}
