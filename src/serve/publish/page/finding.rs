//! What is wrong in one store, and what to do about it.

use std::{collections::BTreeMap, sync::LazyLock};

use super::{ago, markup::Html, moment, runbook};
use crate::{
    clock::Timestamp,
    findings::Severity,
    human, runbooks,
    status::{FindingReport, ProblemReport, live::LiveStore},
};

/// What is wrong in a store and what could not be read, the most urgent first; `id` begins the ids of what is in it.
pub(super) fn urgent(h: &mut Html, store: &LiveStore, id: &str, now: Timestamp) {
    let urgent = store.report.findings.iter().filter(|finding| finding.severity > Severity::Info);
    if let Some(first) = store.report.findings.first().filter(|_| store.report.do_first.is_some()) {
        h.raw("<p class=\"first\"><b>Begin with <code>").raw(first.code.as_str());
        h.raw("</code></b>: it may be the cause of what is below it.</p>\n");
    }
    all(h, store, &grouped(urgent), id, now);
    unread(h, &store.report.problems);
}

/// What is only worth knowing.
pub(super) fn notes(h: &mut Html, store: &LiveStore, id: &str, now: Timestamp) {
    let notes = store.report.findings.iter().filter(|finding| finding.severity == Severity::Info);
    all(h, store, &grouped(notes), &format!("{id}-i"), now);
}

fn all(h: &mut Html, store: &LiveStore, groups: &[Vec<&FindingReport>], id: &str, now: Timestamp) {
    for (place, group) in groups.iter().enumerate().take(GROUPS_MAX) {
        one(h, store, group, &format!("{id}-{place}"), now);
    }
    if groups.len() > GROUPS_MAX {
        h.raw("<p class=\"finding soft\">… and ").show(groups.len() - GROUPS_MAX);
        h.raw(" more kinds of findings: <code>chroma_exporter check</code> prints all.</p>\n");
    }
}

/// What could not be read. The same reason often stops several collectors, and is told once.
fn unread(h: &mut Html, problems: &[ProblemReport]) {
    let mut groups: Vec<(Vec<&'static str>, &ProblemReport)> = Vec::new();
    for problem in problems {
        let same = |(_, other): &&mut (Vec<_>, &ProblemReport)| {
            other.problem == problem.problem && other.hint == problem.hint
        };
        match groups.iter_mut().find(same) {
            Some((names, _)) if names.contains(&problem.collector) => {}
            Some((names, _)) => names.push(problem.collector),
            None => groups.push((vec![problem.collector], problem)),
        }
    }
    for (names, problem) in groups.iter().take(PROBLEMS_MAX) {
        h.raw("<section class=\"finding\"><span class=\"chip unknown\">unknown</span> <code>");
        h.text(&names.join(", ")).raw("</code>\n<h4>");
        h.raw(if names.len() == 1 {
            "This collector cannot read what it should. What it watches is not known."
        } else {
            "These collectors cannot read what they should. What they watch is not known."
        });
        h.raw("</h4>\n<dl><div><dt>Found</dt><dd>");
        h.text(&problem.problem).raw("</dd></div><div><dt>Hint</dt><dd>").raw(problem.hint);
        h.raw("</dd></div></dl></section>\n");
    }
    if groups.len() > PROBLEMS_MAX {
        h.raw("<p class=\"finding soft\">… and ").show(groups.len() - PROBLEMS_MAX);
        h.raw(" more reasons why something cannot be read.</p>\n");
    }
}

/// Findings that differ in their evidence only are told once.
fn grouped<'a>(findings: impl Iterator<Item = &'a FindingReport>) -> Vec<Vec<&'a FindingReport>> {
    let mut groups: Vec<Vec<&FindingReport>> = Vec::new();
    for finding in findings {
        let same = |group: &&mut Vec<&FindingReport>| {
            let first = group[0];
            first.code == finding.code
                && first.severity == finding.severity
                && first.remedy == finding.remedy
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.push(finding),
            None => groups.push(vec![finding]),
        }
    }
    groups
}

/// A name as part of an address.
fn percent(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let mut out = String::new();
    for byte in name.bytes() {
        if plain(byte) {
            out.push(char::from(byte));
        } else {
            out.extend(["%", &format!("{byte:02X}")]);
        }
    }
    out
}

fn one(h: &mut Html, store: &LiveStore, group: &[&FindingReport], id: &str, now: Timestamp) {
    let finding = group[0];
    let (code, severity) = (finding.code.as_str(), finding.severity.as_str());
    h.raw("<section class=\"finding\"><span class=\"chip ").raw(severity).raw("\">").raw(severity);
    h.raw("</span> <code>")
        .raw(code)
        .raw("</code>\n<h4>")
        .text(finding.summary)
        .raw("</h4>\n<dl>\n");
    h.raw("<div><dt>Found</dt><dd><ul class=\"found\">");
    for finding in group.iter().take(EVIDENCE_MAX) {
        h.raw("<li>").text(&finding.subject);
        h.raw(if finding.subject.is_empty() || finding.evidence.is_empty() { "" } else { ": " });
        h.text(&finding.evidence);
        if let Some(since) = finding.since {
            h.raw(" <span class=\"soft\">since ");
            moment(h, since);
            h.raw(", ").text(&ago(since, now)).raw("</span>");
        }
        if finding.kept {
            h.raw(" <span class=\"soft\">(from an earlier reading; it cannot be read now)</span>");
        }
        h.raw("</li>");
    }
    if group.len() > EVIDENCE_MAX {
        h.raw("<li class=\"soft\">… and ").show(group.len() - EVIDENCE_MAX).raw(" more</li>");
    }
    h.raw("</ul>");
    let items = group.iter().fold(0, |sum, f| f.items_total.saturating_add(sum));
    if items > ITEMS_SAID {
        h.raw("<a id=\"a").text(id).raw("\" href=\"api/v1/status/items?code=").raw(code);
        h.raw("&amp;store=").text(&percent(&store.report.store)).raw("\">All ");
        h.text(&human::count(items as f64)).raw(" as JSON</a>; <code>chroma_exporter check --ids=");
        h.raw(code).raw("</code>");
    }
    h.raw("</dd></div>\n<div><dt>Do</dt><dd>");
    h.text(&finding.remedy.words);
    if let Some(command) = &finding.remedy.command {
        h.raw("<div class=\"cmd\"><pre><code id=\"c").text(id).raw("\">").text(command);
        h.raw("</code></pre>");
        copy_button(h, id, |h| {
            h.raw(" the command for ").raw(code).raw(" in ").text(&store.report.store);
        });
        h.raw("</div>");
    }
    if let Some(note) = &finding.remedy.note {
        h.raw(if finding.remedy.command.is_none() { " " } else { "" }).text(note);
    }
    h.raw("</dd></div>\n");
    if let Some(tried) = &finding.tried {
        h.raw("<div><dt>Tried</dt><dd>").text(tried).raw("</dd></div>\n");
    }
    if let Some(dont) = DO_NOT.get(code) {
        h.raw("<div class=\"dont\"><dt>Beware</dt><dd>").add(dont).raw("</dd></div>\n");
    }
    h.raw("<div><dt>More</dt><dd><a id=\"r")
        .text(id)
        .raw("\" href=\"runbooks/")
        .raw(code)
        .raw("\">Runbook ");
    h.raw(code).raw("</a></dd></div>\n</dl></section>\n");
}

/// Copies the text of the element `c` + `id`; `about` says what that is to who does not see it.
pub(super) fn copy_button(h: &mut Html, id: &str, about: impl FnOnce(&mut Html)) {
    h.raw("<button type=\"button\" class=\"copy\" id=\"b")
        .text(id)
        .raw("\" data-copy=\"c")
        .text(id);
    h.raw("\">Copy<span class=\"vh\">");
    about(h);
    h.raw("</span></button>");
}

/// What the runbook of a code warns of, as HTML.
static DO_NOT: LazyLock<BTreeMap<&'static str, Html>> = LazyLock::new(|| {
    let warned = runbooks::all().filter_map(|(code, page)| {
        let (_, text) = page.split_once("\n## What not to do\n")?;
        let mut html = Html::default();
        runbook::inline(&mut html, &text.split_whitespace().collect::<Vec<_>>().join(" "));
        Some((code, html))
    });
    warned.collect()
});

/// Kinds of findings of one store; the catalogue has some seventy.
const GROUPS_MAX: usize = 12;
const EVIDENCE_MAX: usize = 5;
/// The evidence names so many.
const ITEMS_SAID: u64 = 3;
const PROBLEMS_MAX: usize = 5;
