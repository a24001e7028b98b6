//! The key figures of one store: in one line, and as tiles with the last hours of each.

use std::time::Duration;

use super::{
    ago, coarse,
    markup::Html,
    spark::{self, Scale},
};
use crate::{
    clock::Timestamp,
    history::Series,
    human,
    sample::CheckState,
    status::{Status, figures::Figures, live::LiveStore},
};

const LAST_RUN: &str = "chroma_integrity_last_run_timestamp_seconds";
const DURATION: &str = "chroma_integrity_duration_seconds";

/// What stands beside the name: for a store that is well its figures, for another what was found.
pub(super) fn line(store: &LiveStore, now: Timestamp) -> String {
    let (report, figures) = (&store.report, &store.figures);
    let mut parts = Vec::new();
    if report.status == Status::Ok || report.findings.is_empty() {
        parts.extend(
            figures.get("chroma_disk_used_ratio").map(|r| format!("disk {}", human::ratio(r))),
        );
        parts.extend(figures.get("chroma_records").map(|n| format!("{} records", human::count(n))));
        let whole = figures.checks.iter().filter(|check| WHOLE_FILE.contains(&check.name));
        let checked = whole.filter_map(|check| moment(check.get(LAST_RUN)?));
        parts.extend(checked.max().map(|at| format!("checked {}", ago(at, now))));
        parts.extend(
            figures.get("chroma_backup_age_seconds").map(|s| format!("backup {} old", span(s))),
        );
    } else {
        let mut codes: Vec<&str> = report.findings.iter().map(|f| f.code.as_str()).collect();
        codes.dedup();
        let more = codes.len().saturating_sub(CODES_MAX);
        codes.truncate(CODES_MAX);
        parts.push(codes.join(", "));
        if more > 0 {
            parts.push(format!("{more} more"));
        }
    }
    let open = figures.checks.iter().filter(|check| check.state != CheckState::Ok);
    let open: Vec<&str> = open.map(|check| check.name).collect();
    if report.status == Status::Unknown && !open.is_empty() {
        parts.push(format!("no verdict of: {}", open.join(", ")));
    }
    if !report.problems.is_empty() {
        let mut failing: Vec<&str> = report.problems.iter().map(|p| p.collector).collect();
        failing.dedup();
        parts.push(format!("cannot read: {}", failing.join(", ")));
    }
    if store.collectors_missing > 0 {
        parts.push("the first look is under way".to_owned());
    }
    parts.join(" · ")
}

/// The tiles. What is not known is said only where its absence tells something.
pub(super) fn render(h: &mut Html, store: &LiveStore, now: Timestamp) {
    let f = &store.figures;
    h.raw("<dl class=\"figures\">\n");
    disk(h, store, now);
    records(h, store);
    checks(h, store, now);
    backups(h, store, now);
    restores(h, store, now);
    holders(h, f, now);
    if let Some(up) = f.get("chroma_server_up") {
        tile(h, "Server");
        h.raw(if up > 0.0 {
            "<dd class=\"value\">answers</dd>"
        } else {
            "<dd class=\"value critical\"><b>does not answer</b></dd>"
        });
        h.raw("</div>\n");
    }
    permissions(h, f);
    for (what, part) in &f.progress {
        h.raw("<div><dt>Under way</dt><dd class=\"value\">")
            .text(&human::ratio(*part))
            .raw("</dd><dd>");
        h.text(what).raw("</dd><dd><progress max=\"1\" value=\"").show(part.clamp(0.0, 1.0));
        h.raw("\" aria-label=\"").text(what).raw("\"></progress></dd></div>\n");
    }
    last_run(h, store, now);
    h.raw("</dl>\n");
}

fn tile(h: &mut Html, name: &'static str) {
    h.raw("<div><dt>").raw(name).raw("</dt>");
}

fn line_chart(h: &mut Html, store: &LiveStore, what: &'static str, series: Series, scale: Scale) {
    if let Some(history) = &store.history {
        spark::render(h, what, history.points(series), scale);
    }
}

fn disk(h: &mut Html, store: &LiveStore, now: Timestamp) {
    let f = &store.figures;
    let Some(ratio) = f.get("chroma_disk_used_ratio") else { return };
    tile(h, "Disk used");
    h.raw("<dd class=\"value\">").text(&human::ratio(ratio)).raw("</dd>");
    line_chart(h, store, "Disk used", Series::DiskUsed, Scale::Ratio);
    if let (Some(avail), Some(size)) =
        (bytes(f, "chroma_disk_avail_bytes"), bytes(f, "chroma_disk_size_bytes"))
    {
        h.raw("<dd>").text(&avail).raw(" free of ").text(&size).raw("</dd>");
    }
    let full = f.get("chroma_disk_full_timestamp_seconds").and_then(moment);
    if let Some(left) = full.map(|full| full.since(now)).filter(|left| *left < FAR) {
        h.raw("<dd class=\"warning\"><b>full in ")
            .text(&coarse(left))
            .raw(" at this pace</b></dd>");
    }
    if let Some(size) = bytes(f, "chroma_store_apparent_bytes") {
        h.raw("<dd>the store itself ").text(&size).raw("</dd>");
    }
    h.raw("</div>\n");
}

fn records(h: &mut Html, store: &LiveStore) {
    let f = &store.figures;
    let Some(records) = f.get("chroma_records") else { return };
    tile(h, "Records");
    h.raw("<dd class=\"value\">").text(&human::count(records)).raw("</dd>");
    line_chart(h, store, "Records", Series::Records, Scale::Count);
    if let Some(collections) = f.get("chroma_collections") {
        h.raw("<dd>in ");
        counted(h, collections, " collection</dd>", " collections</dd>");
    }
    if let Some(releases) = &store.report.opened_by {
        h.raw("<dd>opened by ").text(releases).raw("</dd>");
    }
    if let Some(queue) = f.get("chroma_queue_records").filter(|queue| *queue > 0.0) {
        h.raw("<dd>").text(&human::count(queue)).raw(" in the queue</dd>");
    }
    if let Some(lost) = f.get("chroma_records_without_vector").filter(|lost| *lost > 0.0) {
        h.raw("<dd class=\"critical\"><b>");
        h.text(&human::count(lost)).raw(" without a vector</b></dd>");
    }
    h.raw("</div>\n");
}

/// Those that are not ok are named; of the two that read the whole file it is told how old they are.
fn checks(h: &mut Html, store: &LiveStore, now: Timestamp) {
    let checks = &store.figures.checks;
    if checks.is_empty() {
        return;
    }
    tile(h, "Integrity checks");
    let by_state = |state| -> Vec<&str> {
        checks.iter().filter(|check| check.state == state).map(|check| check.name).collect()
    };
    let bad: Vec<(CheckState, Vec<&str>)> = WORST_FIRST
        .into_iter()
        .map(|state| (state, by_state(state)))
        .filter(|(_, names)| !names.is_empty())
        .collect();
    match bad.first() {
        None => h.raw("<dd class=\"value\">all ok</dd>"),
        Some((CheckState::Corrupt, _)) => h.raw("<dd class=\"value critical\"><b>corrupt</b></dd>"),
        Some((state, _)) => {
            h.raw("<dd class=\"value unknown\"><b>").raw(state.as_str()).raw("</b></dd>")
        }
    };
    for (state, names) in &bad {
        h.raw("<dd>").raw(state.as_str()).raw(": ").text(&names.join(", ")).raw("</dd>");
    }
    for (checks, why) in store.report.reasons() {
        h.raw("<dd>").text(&checks.join(", ")).raw(": ").text(why).raw("</dd>");
    }
    line_chart(h, store, "Duration of the quick check", Series::CheckDuration, Scale::Seconds);
    for check in checks.iter().filter(|check| WHOLE_FILE.contains(&check.name)) {
        h.raw("<dd>").raw(check.name).raw(" ");
        match check.get(LAST_RUN).and_then(moment) {
            Some(at) => h.text(&ago(at, now)),
            None => h.raw("has not run yet"),
        };
        if let Some(seconds) = check.get(DURATION) {
            h.raw(", took ").text(&spark::short(seconds));
        }
        h.raw("</dd>");
    }
    h.raw("</div>\n");
}

fn backups(h: &mut Html, store: &LiveStore, now: Timestamp) {
    let f = &store.figures;
    let Some(count) = f.get("chroma_backups") else {
        // Nothing was configured, or it is switched off; a collector that failed says so itself.
        let quiet = store.collectors.get("backups").is_none_or(|backups| backups.success);
        if quiet && store.collectors_missing == 0 {
            tile(h, "Newest backup");
            h.raw("<dd class=\"value unknown\"><b>not watched</b></dd>");
            h.raw("<dd>no backups are configured here, so nobody notices when there is none</dd></div>\n");
        }
        return;
    };
    tile(h, "Newest backup");
    match f.get("chroma_backup_age_seconds") {
        Some(age) => h.raw("<dd class=\"value\">").text(&span(age)).raw(" old</dd>"),
        None if count == 0.0 => h.raw("<dd class=\"value warning\"><b>none</b></dd>"),
        None => h.raw("<dd class=\"value unknown\"><b>not known</b></dd>"),
    };
    line_chart(h, store, "Age of the newest backup", Series::BackupAge, Scale::Seconds);
    h.raw("<dd>");
    if let Some(size) = bytes(f, "chroma_backup_size_bytes") {
        h.text(&size).raw(", ");
    }
    h.text(&human::count(count)).raw(" complete</dd>");
    proven_backup(h, f, now);
    h.raw("</div>\n");
}

/// The newest that was opened and proven to restore: how old, how many records, and how long it takes.
fn proven_backup(h: &mut Html, f: &Figures, now: Timestamp) {
    let Some(made) = f.get("chroma_backup_proven_timestamp_seconds").and_then(moment) else {
        if f.get("chroma_backups_proven") == Some(0.0) {
            h.raw("<dd class=\"warning\"><b>none was proven to restore</b></dd>");
        }
        return;
    };
    h.raw("<dd>newest proven: ").text(&ago(made, now));
    if let Some(records) = f.get("chroma_backup_proven_records") {
        h.raw(", ");
        counted(h, records, " record", " records");
    }
    if let Some(seconds) = f.get("chroma_backup_last_proof_duration_seconds") {
        let took = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or_default();
        h.raw(", opened in ").text(&human::span(took));
    }
    h.raw("</dd>");
}

/// What was put in place of the store, where the old content is, and how it comes back.
fn restores(h: &mut Html, store: &LiveStore, now: Timestamp) {
    let all = &store.report.restores;
    let Some(last) = all.first() else { return };
    tile(h, "Last restore or repair");
    h.raw("<dd class=\"value\">").text(&ago(last.at, now)).raw("</dd>");
    for one in all.iter().take(RESTORES_MAX) {
        h.raw("<dd>").text(&one.at.to_string().replace('T', " ").replace('Z', " UTC"));
        h.raw(if one.undone { ", undone: " } else { ": " }).text(&one.what);
        h.raw(if one.undone {
            ", which is kept in <code>"
        } else {
            ", the old content is in <code>"
        });
        h.text(&one.kept).raw("</code></dd>");
        if let Some(undo) = &one.undo {
            h.raw("<dd>to undo: <code>").text(undo).raw("</code></dd>");
        }
    }
    if all.len() > RESTORES_MAX {
        h.raw("<dd>… and ").show(all.len() - RESTORES_MAX).raw(" older</dd>");
    }
    h.raw("</div>\n");
}

fn holders(h: &mut Html, f: &Figures, now: Timestamp) {
    let Some(writers) = f.get("chroma_process_writers") else { return };
    tile(h, "Held by");
    let servers = f.get("chroma_process_servers").unwrap_or(0.0);
    let class =
        if writers > 1.0 { "<dd class=\"value critical\"><b>" } else { "<dd class=\"value\">" };
    h.raw(class);
    match (servers > 0.0, writers) {
        (true, 1.0) => h.raw("a Chroma server"),
        (false, 1.0) => h.raw("one process"),
        (true, 0.0) => h.raw("a Chroma server, reading"),
        (false, 0.0) => h.raw("nobody who writes"),
        (_, writers) => h.text(&human::count(writers)).raw(" processes that write"),
    };
    h.raw(if writers > 1.0 { "</b></dd>" } else { "</dd>" });
    if let Some(started) = f.get("chroma_process_start_timestamp_seconds").and_then(moment) {
        h.raw("<dd>started ").text(&ago(started, now));
        if let Some(memory) = bytes(f, "chroma_process_resident_memory_bytes") {
            h.raw(", ").text(&memory).raw(" of memory");
        }
        h.raw("</dd>");
    }
    // Who is not seen matters most where nobody is.
    let hidden = f.get("chroma_processes_unreadable").filter(|hidden| *hidden > 0.0);
    if let Some(hidden) = hidden.filter(|_| writers == 0.0) {
        h.raw("<dd>");
        counted(h, hidden, " process", " processes");
        h.raw(" of the host cannot be looked into</dd>");
    }
    h.raw("</div>\n");
}

fn permissions(h: &mut Html, f: &Figures) {
    let Some(drift) = f.get("chroma_permission_drift") else { return };
    tile(h, "Permissions");
    let unwritable = f.get("chroma_permission_unwritable").unwrap_or(0.0);
    let open = f.get("chroma_permission_world_writable").unwrap_or(0.0);
    if unwritable > 0.0 {
        h.raw("<dd class=\"value critical\"><b>")
            .text(&human::count(unwritable))
            .raw(" not writable</b></dd>");
    } else if drift > 0.0 {
        h.raw("<dd class=\"value warning\"><b>")
            .text(&human::count(drift))
            .raw(" changed</b></dd>");
    } else if open > 0.0 {
        h.raw("<dd class=\"value warning\"><b>")
            .text(&human::count(open))
            .raw(" open to everybody</b></dd>");
    } else {
        h.raw("<dd class=\"value\">as they should be</dd>");
    }
    if let Some(entries) = f.get("chroma_permission_entries") {
        h.raw("<dd>").text(&human::count(entries)).raw(" entries</dd>");
    }
    h.raw("</div>\n");
}

/// When it was last looked: the oldest reading counts.
fn last_run(h: &mut Html, store: &LiveStore, now: Timestamp) {
    let Some(oldest) = store.collectors.values().map(|collector| collector.last_run).min() else {
        return;
    };
    let failing: Vec<&str> =
        store.collectors.iter().filter(|(_, c)| !c.success).map(|(name, _)| *name).collect();
    tile(h, "Readings");
    if failing.is_empty() {
        h.raw("<dd class=\"value\">complete</dd>");
    } else {
        h.raw("<dd class=\"value unknown\"><b>incomplete</b></dd><dd>failing: ");
        h.text(&failing.join(", ")).raw("</dd>");
    }
    h.raw("<dd>the oldest ").text(&ago(oldest, now)).raw("</dd></div>\n");
}

fn counted(h: &mut Html, count: f64, one: &'static str, more: &'static str) {
    let count = human::count(count);
    h.text(&count).raw(if count == "1" { one } else { more });
}

fn bytes(figures: &Figures, series: &str) -> Option<String> {
    let value = figures.get(series).filter(|value| (0.0..1e18).contains(value))?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the range is checked"
    )]
    Some(human::bytes(value as u64))
}

fn span(seconds: f64) -> String {
    let span = Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX);
    if span < Duration::from_mins(1) { "less than a minute".to_owned() } else { coarse(span) }
}

fn moment(seconds: f64) -> Option<Timestamp> {
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
    (seconds > 0.0 && seconds < 1e11).then(|| Timestamp::from_secs(seconds as i64))
}

/// Answers of a check that are not ok.
const WORST_FIRST: [CheckState; 4] =
    [CheckState::Corrupt, CheckState::Unreadable, CheckState::Busy, CheckState::Unknown];
/// The checks that read the whole file.
const WHOLE_FILE: [&str; 2] = ["quick", "full"];
/// A disk that is full later than this is no news.
const FAR: Duration = Duration::from_hours(24 * 30);
/// Restores that are told of.
const RESTORES_MAX: usize = 5;
/// Codes that are named beside a store.
const CODES_MAX: usize = 3;
