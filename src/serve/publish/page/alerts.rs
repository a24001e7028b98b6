//! What fires, what is silenced, and how delivery fares.

use std::time::Duration;

use super::{ago, coarse, markup::Html, moment};
use crate::{
    alert::message::Failure,
    clock::Timestamp,
    status::live::{Live, LiveAlert, LiveReceiver, LiveSilence},
};

pub(super) fn render(h: &mut Html, live: &Live) {
    let now = live.generated_at;
    h.raw("<section aria-labelledby=\"alerts\">\n<h2 id=\"alerts\">Alerts</h2>\n<div id=\"alerts-now\" data-part>\n");
    if live.alerts.is_empty() {
        h.raw("<p class=\"soft\">No alert fires or is pending.</p>\n");
    } else {
        table(h, "Alerts", &["Alert", "Store", "What", "Since"]);
        for alert in live.alerts.iter().take(ROWS_MAX) {
            alert_row(h, alert, now);
        }
        end(h, live.alerts.len());
    }
    h.raw("</div>\n</section>\n<section aria-labelledby=\"silences\">\n<h2 id=\"silences\">Silences</h2>\n<div id=\"silences-now\" data-part>\n");
    if live.silences.is_empty() {
        h.raw("<p class=\"soft\">No silence is in force.</p>\n");
    } else {
        table(h, "Silences", &["Id", "Stores", "Alerts", "Until", "By", "Why"]);
        for silence in live.silences.iter().take(ROWS_MAX) {
            silence_row(h, silence, now);
        }
        end(h, live.silences.len());
    }
    h.raw("</div>\n</section>\n<section aria-labelledby=\"receivers\">\n<h2 id=\"receivers\">Receivers</h2>\n<div id=\"receivers-now\" data-part>\n");
    if live.receivers.is_empty() {
        h.raw("<p class=\"soft\">No receiver of alerts is configured: only this page and the metrics show alerts.</p>\n");
    } else {
        if !live.alerts_persistent {
            h.raw("<p class=\"note\">Alerts are kept in memory only: a restart forgets what was sent.</p>\n");
        }
        table(
            h,
            "Receivers",
            &["Receiver", "Type", "Waiting", "Last delivery", "Failed attempts", "Given up"],
        );
        for receiver in live.receivers.iter().take(ROWS_MAX) {
            receiver_row(h, receiver, now);
        }
        end(h, live.receivers.len());
    }
    h.raw("</div>\n</section>\n");
}

/// What of it a person must know at once: that something fires or is held back, and that somebody is not told.
pub(super) fn line(h: &mut Html, live: &Live) {
    let count = |state| live.alerts.iter().filter(|alert| alert.state == state).count();
    let silenced = live.alerts.iter().filter(|alert| !alert.silenced_by.is_empty()).count();
    h.raw("<p id=\"alerts-line\" class=\"counts\" data-part><a id=\"to-alerts\" href=\"#alerts\">");
    match count("firing") {
        0 => h.raw("No alert fires"),
        1 => h.raw("1 alert fires"),
        more => h.show(more).raw(" alerts fire"),
    };
    h.raw("</a>");
    for (count, what) in [(count("pending"), " pending"), (silenced, " silenced")] {
        if count > 0 {
            h.raw(", ").show(count).raw(what);
        }
    }
    for receiver in live.receivers.iter().filter(|receiver| late(receiver, live.generated_at)) {
        h.raw(" · <b class=\"critical\">").show(receiver.queued);
        h.raw(if receiver.queued == 1 { " alert waits for " } else { " alerts wait for " });
        h.text(&receiver.receiver).raw("</b>");
        if let Some(failure) = &receiver.last_failure {
            h.raw(" (").text(&failure.why).raw(")");
        }
    }
    h.raw("</p>\n");
}

/// Whether something has waited longer than a receiver in order takes.
fn late(receiver: &LiveReceiver, now: Timestamp) -> bool {
    receiver.queued > 0 && receiver.oldest.is_some_and(|oldest| now.since(oldest) > LATE)
}

/// Wide tables are moved sideways, by keyboard too.
fn table(h: &mut Html, name: &'static str, columns: &[&'static str]) {
    h.raw("<div class=\"scroll\" id=\"scroll-")
        .raw(name)
        .raw("\" role=\"region\" aria-label=\"Table of ")
        .raw(name);
    h.raw("\" tabindex=\"0\"><table><thead><tr>");
    for column in columns {
        h.raw("<th scope=\"col\">").raw(column).raw("</th>");
    }
    h.raw("</tr></thead>\n<tbody>\n");
}

fn end(h: &mut Html, count: usize) {
    h.raw("</tbody></table></div>\n");
    if count > ROWS_MAX {
        h.raw("<p class=\"soft\">… and ").show(count - ROWS_MAX);
        h.raw(" more: <a href=\"api/v1/status\">all of them as JSON</a></p>\n");
    }
}

fn alert_row(h: &mut Html, alert: &LiveAlert, now: Timestamp) {
    let severity = alert.severity.as_str();
    h.raw("<tr><td><span class=\"chip ")
        .raw(severity)
        .raw("\">")
        .raw(severity)
        .raw("</span> ")
        .raw(alert.state);
    h.raw("<br>").text(&alert.alert);
    if !alert.silenced_by.is_empty() {
        h.raw("<br><span class=\"soft\">silenced by ");
        h.text(&alert.silenced_by.join(", ")).raw("</span>");
    }
    h.raw("</td><td>").text(&alert.store).raw("</td><td class=\"wide\">").text(&alert.summary);
    for more in [&alert.evidence, &alert.reading] {
        if !more.is_empty() {
            h.raw("<br><span class=\"soft\">").text(more).raw("</span>");
        }
    }
    h.raw("</td><td class=\"when\">");
    when(h, alert.since, now);
    h.raw("</td></tr>\n");
}

fn silence_row(h: &mut Html, silence: &LiveSilence, now: Timestamp) {
    h.raw("<tr><td><code>")
        .text(&silence.id)
        .raw("</code></td><td>")
        .text(&silence.store)
        .raw("</td><td>");
    h.text(&silence.alert).raw("</td><td class=\"when\">");
    moment(h, silence.until);
    h.raw("<br><span class=\"soft\">")
        .text(&coarse(silence.until.since(now)))
        .raw(" left</span></td><td>");
    h.text(&silence.by).raw("</td><td class=\"wide\">").text(&silence.comment).raw("</td></tr>\n");
}

fn receiver_row(h: &mut Html, receiver: &LiveReceiver, now: Timestamp) {
    h.raw("<tr><td>")
        .text(&receiver.receiver)
        .raw("</td><td>")
        .raw(receiver.kind)
        .raw("</td><td>")
        .show(receiver.queued);
    if let Some(oldest) = receiver.oldest {
        h.raw("<br><span class=\"soft\">the oldest ").text(&ago(oldest, now)).raw("</span>");
    }
    h.raw("</td><td class=\"when\">");
    match receiver.last_success {
        Some(at) => when(h, at, now),
        None => drop(h.raw("none since the start")),
    }
    h.raw("</td><td>");
    let failed: u64 = receiver.failed.values().sum();
    h.show(failed).raw(" of ").show(receiver.attempts);
    for (reason, count) in &receiver.failed {
        let words = Failure::ALL.into_iter().find(|failure| failure.as_str() == *reason);
        h.raw("<br><span class=\"soft\">").raw(words.map_or("", Failure::words));
        h.raw(": ").show(count).raw("</span>");
    }
    if let Some(failure) = &receiver.last_failure {
        h.raw("<br><b class=\"warning\">")
            .text(&ago(failure.at, now))
            .raw(": </b>")
            .text(&failure.why);
    }
    h.raw(if receiver.dead_letters > 0 { "</td><td class=\"bad\">" } else { "</td><td>" });
    h.show(receiver.dead_letters).raw("</td></tr>\n");
}

fn when(h: &mut Html, at: Timestamp, now: Timestamp) {
    h.raw("<time datetime=\"").show(at).raw("\">");
    moment(h, at);
    h.raw("</time><br><span class=\"soft\">").text(&ago(at, now)).raw("</span>");
}

const ROWS_MAX: usize = 100;

/// Longer than any `group_interval` of a receiver that works lets an alert wait before it is tried the first time.
const LATE: Duration = Duration::from_mins(1);
