//! What a message says, in words that all receivers share: status and severity, where, what, since when, the number, the
//! cause, the one thing to do, and where to read on. Pure; how it is marked up is the business of `markup`.

use std::{collections::BTreeMap, time::Duration};

use super::markup::{Line, Piece};
use crate::{
    alert::message::{Alert, Notification, Reason, Status},
    clock::Timestamp,
    findings::{Remedy, Severity},
    human::{self, moment},
};

/// The evidence names so many of what an alert is about.
const ITEMS_SAID: u64 = 3;

/// Stores that a summary names.
const STORES_NAMED: usize = 10;

/// One line that says it all: `[CRITICAL] docs on db-1: the disk is nearly full`.
pub(crate) fn title(n: &Notification) -> String {
    format!("[{}] {}: {}", tag(n), place(n), matter(n))
}

fn tag(n: &Notification) -> String {
    let (status, severity) = tone(n);
    let severity = severity.as_str().to_uppercase();
    match (n.reason, status) {
        (Reason::Test, _) => "TEST".to_owned(),
        (_, Status::Resolved) => "RESOLVED".to_owned(),
        (Reason::Escalated, _) => format!("{severity}, worse now"),
        (Reason::Tried, _) => format!("{severity}, repair tried"),
        (Reason::Reminder, _) => format!("{severity}, still firing"),
        (Reason::Firing | Reason::Resolved, _) => severity,
    }
}

fn place(n: &Notification) -> String {
    let what = match n.store() {
        Some(store) => store.to_owned(),
        None => counted(stores(n).len(), "store"),
    };
    if n.host.is_empty() { what } else { format!("{what} on {}", n.host) }
}

fn matter(n: &Notification) -> String {
    let (news, known) = split(n);
    match &news[..] {
        [alert] if n.left_out == 0 && n.store().is_some() => {
            let lasted = alert.ended.map(|ended| format!(" (it lasted {})", lasted(alert, ended)));
            let others = match known.len() {
                0 => String::new(),
                1 => "; another one still fires".to_owned(),
                count => format!("; {count} others still fire"),
            };
            format!("{}{}{others}", bare(&alert.summary), lasted.unwrap_or_default())
        }
        alerts if n.store().is_some() => {
            let first = alerts.first().map(|alert| bare(&alert.summary)).unwrap_or_default();
            format!("{}, first: {first}", counts(n))
        }
        _ => counts(n),
    }
}

/// Status and severity of what is to be told: an end is one also while something known goes on.
pub(crate) fn tone(n: &Notification) -> (Status, Severity) {
    let (news, _) = split(n);
    let firing = news.iter().any(|alert| alert.ended.is_none());
    let alerts = news.iter().filter(|alert| alert.ended.is_none() == firing);
    let severity = alerts.map(|alert| alert.severity).max().unwrap_or(Severity::Info);
    (if firing { Status::Firing } else { Status::Resolved }, severity)
}

/// What is to be told, and what is known already and stands there because the group is told whole. When nothing is new,
/// all of it is to be told.
pub(crate) fn split(n: &Notification) -> (Vec<&Alert>, Vec<&Alert>) {
    let (known, news): (Vec<_>, Vec<_>) = n.alerts.iter().partition(|alert| alert.known);
    if news.is_empty() { (known, news) } else { (news, known) }
}

/// `3 alerts firing (1 critical, 2 warning), 1 resolved`.
fn counts(n: &Notification) -> String {
    let firing: Vec<&Alert> = n.alerts.iter().filter(|a| a.status() == Status::Firing).collect();
    let resolved = n.alerts.len() - firing.len();
    let mut parts = Vec::new();
    if !firing.is_empty() {
        let each: Vec<String> = [Severity::Critical, Severity::Warning, Severity::Info]
            .into_iter()
            .filter_map(|severity| {
                let count = firing.iter().filter(|alert| alert.severity == severity).count();
                (count > 0).then(|| format!("{count} {}", severity.as_str()))
            })
            .collect();
        parts.push(format!("{} firing ({})", counted(firing.len(), "alert"), each.join(", ")));
    }
    if resolved > 0 {
        let word =
            if firing.is_empty() { counted(resolved, "alert") } else { resolved.to_string() };
        parts.push(format!("{word} resolved"));
    }
    if n.left_out > 0 {
        parts.push(format!("{} more not listed", n.left_out));
    }
    parts.join(", ")
}

/// Everything about one alert, most urgent first. `whole` also says where; one of several alerts of a store need not.
pub(crate) fn alert(n: &Notification, alert: &Alert, whole: bool) -> Vec<Line> {
    let alone = split(n).0.len() == 1 && n.left_out == 0;
    let mut lines = vec![if alone { since(n, alert) } else { head(n, alert) }];
    if whole {
        let mut line = vec![text("Store "), Piece::Code(alert.store.clone())];
        if !alert.path.is_empty() {
            line.extend([text(" at "), Piece::Code(alert.path.clone())]);
        }
        if !n.host.is_empty() {
            line.extend([text(" on "), Piece::Code(n.host.clone())]);
        }
        lines.push(line);
    }
    if let Some(number) = &alert.reading {
        let word = if alert.ended.is_some() { "Last bad reading: " } else { "Reading: " };
        lines.push(vec![
            text(word),
            Piece::Code(number.series.clone()),
            text(format!(" is {}", number.text())),
        ]);
    }
    if !alert.evidence.is_empty() {
        let word = if alert.ended.is_some() { "It was" } else { "Seen" };
        let first =
            if alert.count > 1 { format!(" (first of {})", alert.count) } else { String::new() };
        lines.push(vec![text(format!("{word}{first}: {}", alert.evidence))]);
    }
    if alert.ended.is_some() && !alert.done.is_empty() {
        lines.push(vec![text(format!("Meanwhile the store was {}", alert.done))]);
    }
    if alert.ended.is_none() {
        if alert.items > ITEMS_SAID && !alert.code.is_empty() {
            lines.push(vec![
                text(format!("All {}: ", human::count(alert.items as f64))),
                Piece::Code(format!("chroma_exporter check --ids={}", alert.code)),
            ]);
        }
        lines.extend(why(alert).map(|why| vec![text(why)]));
        lines.extend(remedy(&alert.remedy, first(n, alert)));
        if !alert.tried.is_empty() {
            lines.push(vec![text(alert.tried.clone())]);
        }
    }
    lines.push(further(n, alert));
    lines
}

/// The same in one line, for a list.
pub(crate) fn brief(n: &Notification, alert: &Alert) -> Line {
    let mut line = vec![text("• ")];
    if n.store().is_none() {
        line.extend([Piece::Code(alert.store.clone()), text(" ")]);
    }
    line.extend(head(n, alert));
    line
}

/// What a summary over stores says: counts, the worst stores, what to do.
pub(crate) fn summary(n: &Notification) -> Vec<Line> {
    let stores = stores(n);
    let mut lines = vec![vec![Piece::Strong(counts(n))]];
    for (store, alerts) in stores.iter().take(STORES_NAMED) {
        let worst = alerts[0];
        let more = match alerts.len() {
            1 => String::new(),
            count => format!(" and {} more", count - 1),
        };
        let state = if worst.ended.is_some() { "resolved" } else { worst.severity.as_str() };
        lines.push(vec![
            text("• "),
            Piece::Code((*store).to_owned()),
            text(format!(" {state}: {}{more}", bare(&worst.summary))),
        ]);
    }
    if stores.len() > STORES_NAMED {
        lines.push(vec![text(format!(
            "and {}",
            counted(stores.len() - STORES_NAMED, "more store")
        ))]);
    }
    if n.status() == Status::Firing {
        lines.push(vec![
            Piece::Strong("Do this:".into()),
            text(" see every finding with its remedy on the host"),
            Piece::Block("chroma_exporter check".into()),
        ]);
    }
    lines.push(page(n));
    lines
}

/// Every word about one alert as it is told to a machine: what `description` holds.
pub(crate) fn description(alert: &Alert) -> String {
    let number = alert.reading.as_ref().map(|n| format!("{} is {}", n.series, n.text()));
    let parts = [number.as_deref(), Some(&*alert.evidence), Some(&*alert.cause)];
    let parts = parts.into_iter().flatten().filter(|part| !part.is_empty());
    parts.map(|part| format!("{}.", part.trim_end_matches('.'))).collect::<Vec<_>>().join(" ")
}

/// What and since when, for one of several.
fn head(n: &Notification, alert: &Alert) -> Line {
    let resolved = if alert.ended.is_some() { "Resolved: " } else { "" };
    let what = Piece::Strong(format!("{resolved}{}", bare(&alert.summary)));
    let mut line = vec![what, text(", ")];
    line.extend(since(n, alert));
    line
}

/// Since when, for one whose title says what.
fn since(n: &Notification, alert: &Alert) -> Line {
    let (since, severity) = (moment(alert.since), alert.severity.as_str());
    let mut words = match alert.ended {
        Some(ended) => {
            format!("{severity} for {}, from {since} to {}", lasted(alert, ended), moment(ended))
        }
        None => {
            format!("{severity} since {since}, for {} now", human::span(n.at.since(alert.since)))
        }
    };
    let found = alert.stands_since.filter(|first| alert.since.since(*first) >= STOOD_BEFORE);
    if let Some(first) = found {
        words = format!("{words}; the fault itself has been there since {}", moment(first));
    }
    if alert.merged > 0 {
        words = format!("{words}; it came and went {} before", counted(alert.merged, "time"));
    }
    vec![text(words)]
}

/// The cause, without what the summary said already.
fn why(alert: &Alert) -> Option<String> {
    let Some(rest) = alert.cause.strip_prefix(bare(&alert.summary)) else {
        return (!alert.cause.is_empty()).then(|| format!("Why: {}", alert.cause));
    };
    let mut rest = rest.trim_start_matches([' ', ';', ':', '.', ',']).chars();
    let first = rest.next()?;
    Some(first.to_uppercase().chain(rest).collect())
}

/// Whether it is what to begin with: the first of several critical ones that are news.
fn first(n: &Notification, alert: &Alert) -> bool {
    let (news, _) = split(n);
    let critical = |other: &&&Alert| other.ended.is_none() && other.severity == Severity::Critical;
    n.store().is_some()
        && news.iter().filter(critical).count() > 1
        && news.first().is_some_and(|other| other.episode == alert.episode)
}

/// What to do: the words, the command in a block of its own, and the note.
fn remedy(remedy: &Remedy, first: bool) -> Vec<Line> {
    if remedy.is_empty() {
        return Vec::new();
    }
    let start = if first { "Do this first:" } else { "Do this:" };
    let mut line = vec![Piece::Strong(start.into()), text(format!(" {}", remedy.words))];
    line.extend(remedy.command.clone().map(Piece::Block));
    let note = remedy.note.as_deref().map(|note| vec![text(note)]);
    [line].into_iter().chain(note).collect()
}

fn further(n: &Notification, alert: &Alert) -> Line {
    let mut line = vec![text(format!("Rule {}", alert.name))];
    for (name, value) in alert.labels.iter().take(8) {
        line.push(text(format!(" · {name}={}", value.chars().take(40).collect::<String>())));
    }
    if !alert.runbook.is_empty() {
        line.extend([text(" · "), Piece::Link("Runbook", alert.runbook.clone())]);
    } else if !alert.code.is_empty() {
        let command = format!("chroma_exporter explain {}", alert.code);
        line.extend([text(" · Runbook: "), Piece::Code(command)]);
    }
    let page = page(n);
    if !page.is_empty() {
        line.push(text(" · "));
        line.extend(page);
    }
    line
}

fn page(n: &Notification) -> Line {
    if n.external_url.is_empty() {
        return Vec::new();
    }
    vec![Piece::Link("Status page", format!("{}/", n.external_url))]
}

/// Stores with their alerts, worst store first and worst alert of each first.
fn stores(n: &Notification) -> Vec<(&str, Vec<&Alert>)> {
    let mut by_store: BTreeMap<&str, Vec<&Alert>> = BTreeMap::new();
    for alert in &n.alerts {
        by_store.entry(&alert.store).or_default().push(alert);
    }
    let weight = |alert: &Alert| (alert.ended.is_none(), alert.severity);
    let mut stores: Vec<_> = by_store.into_iter().collect();
    for (_, alerts) in &mut stores {
        alerts.sort_by_key(|alert| std::cmp::Reverse(weight(alert)));
    }
    stores.sort_by_key(|(_, alerts)| std::cmp::Reverse((weight(alerts[0]), alerts.len())));
    stores
}

fn lasted(alert: &Alert, ended: Timestamp) -> String {
    human::span(ended.since(alert.since))
}

/// A fault that was found so much earlier is worth a word.
const STOOD_BEFORE: Duration = Duration::from_mins(5);

/// `1 store`, `3 stores`.
fn counted(count: usize, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}

fn bare(sentence: &str) -> &str {
    sentence.trim_end_matches('.')
}

fn text(words: impl Into<String>) -> Piece {
    Piece::Text(words.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::Code;

    #[test]
    fn a_fault_that_is_older_than_its_alert_says_so() {
        let sample = crate::deliver::receivers::samples::disk();
        let said = |before: Option<u64>| {
            let mut n = sample.clone();
            let since = n.alerts[0].since;
            n.alerts[0].stands_since =
                before.map(|secs| Timestamp::from_secs(since.as_secs() - secs.cast_signed()));
            format!("{:?}", alert(&n, &n.alerts[0], true))
        };
        assert!(said(Some(86_400)).contains("the fault itself has been there since "));
        for before in [None, Some(0), Some(200)] {
            assert!(!said(before).contains("the fault itself"), "{before:?}");
        }
    }

    #[test]
    fn a_block_holds_the_command_and_nothing_else() {
        for code in Code::ALL {
            let Remedy { words, command, note } = code.remedy(std::path::Path::new("/srv/chroma"));
            let whole = Remedy { words: words.clone(), command: command.clone(), note };
            let lines = remedy(&whole, false);
            let pieces = || lines.iter().flatten();
            let blocks: Vec<_> = pieces()
                .filter_map(|piece| match piece {
                    Piece::Block(command) => Some(command.clone()),
                    _ => None,
                })
                .collect();
            assert_eq!(blocks, command.into_iter().collect::<Vec<_>>(), "{code:?}");
            assert!(pieces().any(|piece| *piece == text(format!(" {words}"))), "{code:?}");
        }
        assert!(remedy(&Remedy::default(), true).is_empty());
    }
}
