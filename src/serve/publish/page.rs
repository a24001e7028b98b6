//! The status page: one document with its style and script inside, which loads nothing and is whole without its script. It
//! shows what [`Live`] holds and decides nothing but the order and how much: the most urgent first, and no more of many
//! stores than a person can look through.

mod alerts;
mod figures;
mod finding;
mod markup;
mod runbook;
mod spark;

use std::{collections::BTreeSet, sync::LazyLock, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use sha2::{Digest, Sha256};

use self::markup::Html;
use crate::{
    clock::Timestamp,
    findings::Severity,
    format::hash::{FNV_START, fnv1a},
    human,
    status::{
        Status,
        live::{Live, LiveStore},
    },
};

use self::finding::copy_button;
pub use self::runbook::{index as runbook_index, page as runbook_page};

const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// Allows the style and the script of the page, by their hashes, its icon, and questions to this server.
pub static CONTENT_SECURITY_POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = |text: &str| BASE64_STANDARD.encode(Sha256::digest(text.as_bytes()));
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
});

/// Tells one build from another, so that an open page loads itself anew when another one answers.
static BUILD: LazyLock<String> = LazyLock::new(|| {
    let both = [STYLE, SCRIPT].map(str::bytes).into_iter().flatten();
    format!("chroma_exporter {} {} {:x}", crate::VERSION, crate::REVISION, fnv1a(FNV_START, both))
});

/// The page. `stale_after` is how old readings can be while everything is in order.
pub(super) fn render(live: &Live, telemetry_path: &str, stale_after: Duration) -> String {
    let mut h = Html::default();
    head(&mut h, live.status, &title(live));
    h.raw("<body data-live=\"yes\" data-stale-after=\"").show(stale_after.as_secs()).raw("\">\n");
    h.raw("<a class=\"skip\" href=\"#list\">Skip to the stores</a>\n");
    top(&mut h, live, telemetry_path);
    h.raw("<main>\n<section aria-labelledby=\"stores\">\n<h2 id=\"stores\">Stores</h2>\n<div id=\"list\">\n");
    let few = live.stores.len() <= FEW;
    for (place, store) in live.worst_first().into_iter().enumerate().take(ROWS_MAX) {
        let open = few || store.report.status != Status::Ok && place < OPEN_MAX;
        store_block(&mut h, store, (place < BODIES_MAX).then_some(open), live.generated_at);
    }
    h.raw("</div>\n<p id=\"more\" class=\"soft\" data-part>");
    if live.stores.len() > ROWS_MAX {
        h.raw("… and ").show(live.stores.len() - ROWS_MAX);
        h.raw(" more that are no worse: <a href=\"api/v1/status\">all of them as JSON</a>.");
    }
    h.raw("</p>\n</section>\n");
    alerts::render(&mut h, live);
    h.raw("</main>\n<footer>chroma_exporter ").text(live.version).raw(", revision ");
    h.text(live.revision)
        .raw(". The same on a terminal: <code>chroma_exporter check</code></footer>\n");
    tail(&mut h);
    h.into_string()
}

fn head(h: &mut Html, status: Status, title: &str) {
    h.raw("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>")
        .text(title);
    h.raw("</title>\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    h.raw(
        "<meta name=\"color-scheme\" content=\"light dark\">\n<meta name=\"generator\" content=\"",
    );
    h.text(&BUILD).raw("\">\n<link rel=\"icon\" href=\"").raw(icon(status)).raw("\">\n<style>");
    h.raw(STYLE).raw("</style>\n</head>\n");
}

/// What every page ends with.
fn tail(h: &mut Html) {
    h.raw("<p id=\"say\" class=\"vh\" role=\"status\" aria-live=\"polite\"></p>\n<script>");
    h.raw(SCRIPT).raw("</script>\n</body>\n</html>\n");
}

/// Who answers, the verdict over all stores, as of when.
fn top(h: &mut Html, live: &Live, telemetry_path: &str) {
    h.raw("<header>\n<div class=\"brand\"><span>Chroma on <b>")
        .text(&live.host)
        .raw("</b></span>\n");
    // Relative, so that they hold behind a proxy that serves the page below a path of its own.
    h.raw("<nav aria-label=\"Pages\"><a href=\"").text(telemetry_path.trim_start_matches('/'));
    h.raw("\">Metrics</a> <a href=\"api/v1/status\">JSON</a> <a href=\"runbooks/\">Runbooks</a> <a href=\"-/healthy\">Healthy</a> ");
    h.raw("<a href=\"-/ready\">Ready</a></nav></div>\n<div id=\"verdict\" class=\"verdict ");
    h.raw(live.status.as_str())
        .raw("\" data-part><h1>")
        .text(&verdict(live))
        .raw("</h1>\n<p id=\"counts\" class=\"counts\">");
    let mut first = true;
    for status in Status::WORST_FIRST {
        let count = live.count(status);
        if count > 0 {
            h.raw(if first { "" } else { " · " })
                .raw("<b class=\"")
                .raw(status.as_str())
                .raw("\">");
            h.show(count).raw(" ").raw(status.as_str()).raw("</b>");
            first = false;
        }
    }
    if live.stores.is_empty() {
        h.raw("Name a directory with <code>--store.path</code> or in the configuration, or start Chroma: the directories that running ");
        h.raw("servers hold are found by themselves; those of other users only by root.");
    }
    h.raw("</p>");
    broken(h, live);
    h.raw("</div>\n");
    if let Some(refused) = &live.configuration_refused {
        h.raw("<div id=\"refused\" class=\"note\" data-part>The newest configuration is not in force: it was refused ");
        h.text(&ago(refused.at, live.generated_at))
            .raw(", and the previous one stays in force.<ul>");
        for problem in refused.problems.iter().take(PROBLEMS_MAX) {
            h.raw("<li>").text(problem).raw("</li>");
        }
        h.raw("</ul></div>\n");
    } else {
        h.raw("<div id=\"refused\" data-part></div>\n");
    }
    alerts::line(h, live);
    h.raw("<p class=\"counts\"><span class=\"soft\">As of ");
    h.raw("<time id=\"as-of\" data-part datetime=\"").show(live.generated_at).raw("\">");
    moment(h, live.generated_at);
    h.raw("</time></span><noscript> · reload the page for newer readings</noscript></p>\n");
    h.raw("<p id=\"live\" class=\"note\" hidden></p>\n</header>\n");
}

/// Which stores are not well, the worst first, with what to begin with.
fn broken(h: &mut Html, live: &Live) {
    let ill: Vec<&LiveStore> =
        live.worst_first().into_iter().filter(|s| s.report.status != Status::Ok).collect();
    if ill.is_empty() {
        return;
    }
    h.raw("<ul class=\"which\">");
    for store in ill.iter().take(NAMED_MAX) {
        let (report, id) = (&store.report, store_id(store));
        let status = report.status.as_str();
        h.raw("<li><b class=\"").raw(status).raw("\">").raw(status).raw("</b> <a id=\"w").text(&id);
        h.raw("\" href=\"#s").text(&id).raw("\">").text(&report.store).raw("</a>");
        let mut codes: Vec<&str> = report
            .findings
            .iter()
            .filter(|finding| finding.severity > Severity::Info)
            .map(|finding| finding.code.as_str())
            .collect();
        let mut seen = BTreeSet::new();
        codes.retain(|code| seen.insert(*code));
        if let Some(first) = report.findings.first().filter(|f| f.severity > Severity::Info) {
            let more = codes.len() - 1;
            h.raw(": <code>").raw(first.code.as_str()).raw("</code>");
            if more > 0 {
                h.raw(" and ").show(more).raw(" more");
            }
            if first.severity == Severity::Critical {
                let several = report.do_first.is_some();
                h.raw(if several { ". <b>Do this first:</b> " } else { ". <b>Do this:</b> " });
                h.text(&first.remedy.words);
            }
        } else if let Some(problem) = report.problems.first() {
            h.raw(": ").text(problem.collector).raw(" cannot be read");
        } else {
            h.raw(": ").text(&figures::line(store, live.generated_at));
        }
        h.raw("</li>");
    }
    if ill.len() > NAMED_MAX {
        h.raw("<li class=\"soft\">… and ").show(ill.len() - NAMED_MAX).raw(" more below</li>");
    }
    h.raw("</ul>");
}

fn title(live: &Live) -> String {
    let worst = Status::WORST_FIRST.into_iter().find(|status| live.count(*status) > 0);
    let state = worst.map_or("no store".to_owned(), |worst| match worst {
        Status::Ok => "ok".to_owned(),
        bad => format!("{} {}", live.count(bad), bad.as_str()),
    });
    format!("{state} – Chroma on {}", live.host)
}

fn verdict(live: &Live) -> String {
    let (all, many) = (live.stores.len(), live.stores.len() > 1);
    let count = live.count(live.status);
    let of = |one: &str, more: &str| {
        if many {
            format!("{count} of {all} stores {}", if count == 1 { one } else { more })
        } else {
            format!("{} {one}", live.stores.first().map_or("", |store| &store.report.store))
        }
    };
    match live.status {
        _ if all == 0 => "No store is being watched".to_owned(),
        Status::Critical => of("needs action now", "need action now"),
        Status::Warning => of("needs attention", "need attention"),
        Status::Unknown => of("is not known to be healthy", "are not known to be healthy"),
        Status::Ok if many => format!("All {all} stores are healthy"),
        Status::Ok => of("is healthy", "are healthy"),
    }
}

/// One store: with all that is known of it, open or not, or a line.
fn store_block(h: &mut Html, store: &LiveStore, open: Option<bool>, now: Timestamp) {
    let report = &store.report;
    let status = report.status.as_str();
    let id = store_id(store);
    let Some(open) = open else {
        h.raw("<div class=\"store ")
            .raw(status)
            .raw("\" id=\"s")
            .text(&id)
            .raw("\" data-part><div class=\"row\">");
        heading(h, store, now);
        h.raw("</div></div>\n");
        return;
    };
    h.raw("<details class=\"store ").raw(status).raw("\" id=\"s").text(&id).raw("\" data-part");
    h.raw(if open { " open" } else { "" });
    h.raw("><summary id=\"t").text(&id).raw("\">");
    heading(h, store, now);
    h.raw("</summary>\n<div class=\"body\">\n");
    finding::urgent(h, store, &id, now);
    figures::render(h, store, now);
    finding::notes(h, store, &id, now);
    h.raw("</div></details>\n");
}

/// Names the store in ids of the page, whatever it is called.
fn store_id(store: &LiveStore) -> String {
    format!("{:016x}", fnv1a(FNV_START, store.report.store.bytes()))
}

fn heading(h: &mut Html, store: &LiveStore, now: Timestamp) {
    let status = store.report.status.as_str();
    h.raw("<span class=\"chip ").raw(status).raw("\">").raw(status).raw("</span> <h3>");
    h.text(&store.report.store).raw("</h3> <span class=\"path\">").text(&store.report.path);
    h.raw("</span> <span class=\"mini\">").text(&figures::line(store, now)).raw("</span>");
}

/// `2026-11-23 08:57:54 UTC`.
fn moment(h: &mut Html, at: Timestamp) {
    h.text(&at.to_string().replace('T', " ").replace('Z', " UTC"));
}

/// `5 min ago`; what is younger than a minute is not told more exactly.
fn ago(at: Timestamp, now: Timestamp) -> String {
    let age = now.since(at);
    if age < MINUTE { "just now".to_owned() } else { format!("{} ago", coarse(age)) }
}

/// Whole minutes and more, so that the page stands still when nothing happens.
fn coarse(span: Duration) -> String {
    human::span(if span < MINUTE {
        span
    } else {
        MINUTE * u32::try_from(span.as_secs() / 60).unwrap_or(u32::MAX)
    })
}

const MINUTE: Duration = Duration::from_mins(1);

/// A dot in the colour of the verdict.
const fn icon(status: Status) -> &'static str {
    match status {
        Status::Critical => {
            "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect x='1' y='1' width='14' height='14' fill='%23c4161f'/%3E%3C/svg%3E"
        }
        Status::Warning => {
            "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Cpath d='M8 1 15 15H1z' fill='%23d98a00'/%3E%3C/svg%3E"
        }
        Status::Unknown => {
            "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Ccircle cx='8' cy='8' r='5' fill='none' stroke='%237a6ab5' stroke-width='4'/%3E%3C/svg%3E"
        }
        Status::Ok => {
            "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Ccircle cx='8' cy='8' r='7' fill='%23208a4d'/%3E%3C/svg%3E"
        }
    }
}

/// So many stores are all open from the beginning.
const FEW: usize = 3;
/// Of more, those that are not well, and no more than this.
const OPEN_MAX: usize = 20;
/// Stores with all that is known of them.
const BODIES_MAX: usize = 60;
/// Stores with a line at least.
const ROWS_MAX: usize = 1_000;
/// Stores that are named below the verdict.
const NAMED_MAX: usize = 8;
/// Problems of a configuration that are shown.
const PROBLEMS_MAX: usize = 10;

#[cfg(test)]
mod tests;
