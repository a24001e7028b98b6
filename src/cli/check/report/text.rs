//! The report as people read it: the most urgent store first, in it the most urgent finding, and the command of each remedy
//! alone in its line, so that it can be copied.

use super::Report;
use crate::{
    findings::{Code, Severity},
    human,
    sample::CheckState,
    status::{FindingReport, ProblemReport, Status, StoreReport},
};

/// How text is written.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Style {
    /// With colours.
    pub(crate) colours: bool,
    /// Columns of the terminal; `None`: lines are as long as they are.
    pub(crate) width: Option<usize>,
}

impl Report {
    /// For people.
    pub(in crate::cli) fn text(&self, style: Style) -> String {
        let mut page = Page { style, lines: Vec::new() };
        let mut stores: Vec<&StoreReport> = self.stores.iter().collect();
        // The sort is stable: equals keep the order of the configuration.
        stores.sort_by_key(|store| std::cmp::Reverse(store.status));
        for store in stores {
            page.store(store);
        }
        for problem in &self.problems {
            let word = page.status(Status::Unknown);
            page.lines.push(format!("{word}  {}", problem.problem));
        }
        if self.stores.len() > 1 {
            let count = |status: Status| self.stores.iter().filter(|s| s.status == status).count();
            let counts: Vec<String> =
                [Status::Critical, Status::Warning, Status::Unknown, Status::Ok]
                    .into_iter()
                    .filter(|status| count(*status) > 0)
                    .map(|status| format!("{} {}", count(status), page.status(status)))
                    .collect();
            page.lines.push(format!("{} stores: {}", self.stores.len(), counts.join(", ")));
        }
        page.lines.join("\n") + "\n"
    }
}

struct Page {
    style: Style,
    lines: Vec<String>,
}

impl Page {
    fn store(&mut self, store: &StoreReport) {
        let name = self.paint("1", &store.store);
        let status = self.status(store.status);
        self.lines.push(format!("{name}  {}  {status}", store.path));
        if let Some(first) = store.findings.first().filter(|_| store.do_first.is_some()) {
            self.lines.push(String::new());
            let words = format!(
                "Begin with {}, which may be the cause of what is below it.",
                first.code.as_str()
            );
            self.wrapped("  ", &words);
        }
        let mut before: Option<&FindingReport> = None;
        for finding in &store.findings {
            self.finding(finding, before);
            before = Some(finding);
        }
        self.problems(store);
        if !store.integrity.is_empty() {
            if !(store.findings.is_empty() && store.problems.is_empty()) {
                self.lines.push(String::new());
            }
            let checks = store.integrity.iter();
            let answers: Vec<String> =
                checks.map(|(check, state)| format!("{check} {}", self.check(*state))).collect();
            self.lines.push(format!("  integrity: {}", answers.join(", ")));
            for (checks, why) in store.reasons() {
                self.wrapped("    ", &format!("{}: {why}", checks.join(", ")));
            }
        }
        if let Some(compared) = &store.compared {
            self.wrapped("  ", compared);
        }
        if !store.left_out.is_empty() {
            let left_out = store.left_out.join(", ");
            self.wrapped(
                "  ",
                &format!("not looked at with --quick, and not part of the verdict: {left_out}"),
            );
        }
        if let Some(releases) = &store.opened_by {
            self.lines.push(format!("  opened by: {releases}"));
        }
        self.lines.push(String::new());
    }

    /// What could not be read: collectors that met the same are named together.
    fn problems(&mut self, store: &StoreReport) {
        let missing = store.findings.iter().any(|finding| finding.code == Code::StoreMissing);
        let mut blocks: Vec<(Vec<&str>, &str, &str)> = Vec::new();
        for ProblemReport { collector, problem, hint } in &store.problems {
            // The finding above has said it.
            let said = missing && problem.contains(&*store.path);
            let (problem, hint) = if said { (NOTHING_THERE, "") } else { (&**problem, *hint) };
            match blocks.iter_mut().find(|(_, found, help)| (*found, *help) == (problem, hint)) {
                Some((collectors, _, _)) => collectors.push(*collector),
                None => blocks.push((vec![*collector], problem, hint)),
            }
        }
        for (collectors, problem, hint) in blocks {
            let word = self.status(Status::Unknown);
            self.lines.push(String::new());
            self.lines.push(format!("  {word}  {}", collectors.join(", ")));
            self.labelled("found", problem);
            if !hint.is_empty() {
                self.labelled("hint", hint);
            }
        }
    }

    fn finding(&mut self, finding: &FindingReport, before: Option<&FindingReport>) {
        let same = before.is_some_and(|b| b.code == finding.code && b.remedy == finding.remedy);
        if !same {
            self.lines.push(String::new());
        }
        let severity = self.severity(finding.severity);
        let code = self.paint("1", finding.code.as_str());
        self.lines.push(format!("  {severity}  {code}  {}", finding.subject).trim_end().to_owned());
        self.labelled("found", &finding.evidence);
        if let Some(since) = finding.since {
            self.labelled("since", &human::moment(since));
        }
        if finding.items_total > ITEMS_SAID {
            let count = human::count(finding.items_total as f64);
            let code = finding.code.as_str();
            self.labelled(
                "all",
                &format!("{count}: the same command with --ids={code} prints them"),
            );
        }
        if same {
            return; // what it means and what to do stands above
        }
        self.labelled("cause", finding.summary);
        self.labelled("remedy", &finding.remedy.words);
        if let Some(command) = &finding.remedy.command {
            // Never wrapped: it would be two commands.
            let command = self.paint("1", command);
            self.lines.push(format!("{INDENT}  {command}"));
        }
        if let Some(note) = &finding.remedy.note {
            self.wrapped(INDENT, note);
        }
        self.labelled("more", &format!("chroma_exporter explain {}", finding.code.as_str()));
    }

    /// `    found   the text`, further lines below its beginning.
    fn labelled(&mut self, label: &str, text: &str) {
        let label = format!("    {}{}", self.paint("2", label), " ".repeat(8 - label.len().min(7)));
        self.wrapped(&label, text);
    }

    /// `lead` takes as many columns as [`INDENT`].
    fn wrapped(&mut self, lead: &str, text: &str) {
        let room = self
            .style
            .width
            .map_or(usize::MAX, |width| width.clamp(WIDTH_MIN, WIDTH_MAX) - INDENT.len());
        let mut lines = wrap(text, room);
        if lines.len() > LINES_MAX {
            lines.truncate(LINES_MAX);
            if let Some(last) = lines.last_mut() {
                last.push_str(" …");
            }
        }
        let mut lead = lead;
        for line in lines {
            self.lines.push(format!("{lead}{line}"));
            lead = INDENT;
        }
    }

    fn paint(&self, sgr: &str, word: &str) -> String {
        if self.style.colours { format!("\x1b[{sgr}m{word}\x1b[0m") } else { word.to_owned() }
    }

    fn status(&self, status: Status) -> String {
        let sgr = match status {
            Status::Ok => "32",
            Status::Unknown => "35",
            Status::Warning => "33",
            Status::Critical => "1;31",
        };
        self.paint(sgr, status.as_str())
    }

    fn severity(&self, severity: Severity) -> String {
        match severity {
            Severity::Critical => self.status(Status::Critical),
            Severity::Warning => self.status(Status::Warning),
            Severity::Info => self.paint("36", severity.as_str()),
        }
    }

    fn check(&self, state: CheckState) -> String {
        let sgr = match state {
            CheckState::Ok => "32",
            CheckState::Corrupt => "1;31",
            CheckState::Busy | CheckState::Unreadable | CheckState::Unknown => "35",
        };
        self.paint(sgr, state.as_str())
    }
}

/// The words of `text` in lines of at most `room` characters; a longer word has a line of its own.
fn wrap(text: &str, room: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in text.split_whitespace() {
        let len = word.chars().count();
        if used > 0 && used + 1 + len > room {
            lines.push(String::new());
            used = 0;
        }
        let Some(line) = lines.last_mut() else { break };
        if used > 0 {
            line.push(' ');
            used += 1;
        }
        line.push_str(word);
        used += len;
    }
    lines
}

const NOTHING_THERE: &str = "nothing was looked at, because the directory is missing";

/// What every line below a finding begins with.
const INDENT: &str = "            ";
const WIDTH_MIN: usize = 60;
/// Longer lines are hard to read.
const WIDTH_MAX: usize = 120;
/// The document for programs has all of it.
const LINES_MAX: usize = 6;
/// The evidence names so many.
const ITEMS_SAID: u64 = 3;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        cli::check::runner::CollectorRun,
        collectors::CollectError,
        config::{CollectorName, Store},
        findings::Finding,
        firsts::Firsts,
        sample::Observation,
    };

    fn run(collector: CollectorName, findings: Vec<Finding>) -> CollectorRun {
        CollectorRun::of(collector, Observation { findings, ..Observation::default() })
    }

    /// One of everything that can stand in a report.
    fn report() -> Report {
        let mut report = Report::default();
        report.add_store(&Store::new("wiki", "/srv/wiki"), &[], &Firsts::default());
        let info = Finding::new(
            Code::BackupSameDisk,
            "",
            "/srv/b.tar.gz lies on the filesystem of the store",
        );
        report.add_store(
            &Store::new("notes", "/srv/notes"),
            &[run(CollectorName::Backups, vec![info.clone()])],
            &Firsts::default(),
        );
        let long = "page 12: btree page says that it has more cells than fit, and ".repeat(12);
        let mut integrity = run(
            CollectorName::Integrity,
            vec![
                Finding::new(Code::HotJournal, "chroma.sqlite3-journal", "it names 12 pages"),
                Finding::new(Code::SqliteIndexCorrupt, "embeddings_1", "row 7 is missing from it"),
                Finding::new(Code::SqliteIndexCorrupt, "embeddings_2", "row 9 is missing from it"),
                Finding::new(Code::SqliteCorrupt, "embeddings", long),
            ],
        );
        integrity.observation.checks = vec![
            ("header", CheckState::Ok),
            ("quick", CheckState::Corrupt),
            ("full", CheckState::Busy),
        ];
        let lost = Finding::new(
            Code::RecordsWithoutVector,
            "5a1c",
            "700 of 800 records are in the tables, but neither in the index nor in the queue (a0, a1, a2, and 697 more)",
        )
        .with_items((0..700).map(|n| format!("a{n}")))
        .with_since(crate::clock::Timestamp::from_secs(1_795_424_274));
        let writers = Finding::new(Code::SecondWriter, "", "2 processes hold it open for writing");
        let replaced = Finding::new(
            Code::StoreReplaced,
            "chroma.sqlite3",
            "chroma (pid 7) uses a chroma.sqlite3 that was deleted, through descriptor 9",
        );
        let command = Some("cp /proc/7/fd/9 /var/tmp/x".to_owned());
        let mut disk = run(CollectorName::Disk, Vec::new());
        disk.observation.problems =
            vec![CollectError::Overdue { deadline: std::time::Duration::from_secs(30) }];
        let runs = [
            disk,
            integrity,
            run(CollectorName::Hnsw, vec![lost]),
            run(CollectorName::Processes, vec![writers, replaced.with_command(command)]),
            run(CollectorName::Backups, vec![info]),
        ];
        report.add_store(&Store::new("docs", "/srv/my docs"), &runs, &Firsts::default());
        report
    }

    #[test]
    fn a_report_reads_as_it_should() {
        let text = report().text(Style { colours: false, width: Some(100) });
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/check.txt");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&golden, &text).unwrap();
        }
        let want = std::fs::read_to_string(&golden).unwrap_or_default();
        assert!(text == want, "differs from {}:\n{text}", golden.display());
        let begins = |line: &str, with| line.trim_start().starts_with(with);
        let commands = text
            .lines()
            .filter(|line| begins(line, "sqlite3 ") || begins(line, "chroma_exporter recover "));
        for line in text.lines() {
            assert!(line.chars().count() <= 100 || line.contains("sqlite3 "), "{line}");
        }
        assert!(commands.count() > 1);
    }

    #[test]
    fn a_directory_that_is_missing_is_said_once() {
        let unread = |collector, path: &str| {
            let mut run = run(collector, Vec::new());
            let source = std::io::ErrorKind::NotFound.into();
            run.observation.problems = vec![CollectError::Unreadable { path: path.into(), source }];
            run
        };
        let missing = Finding::new(Code::StoreMissing, "", "it is missing");
        let mut runs = vec![
            unread(CollectorName::Disk, "/srv/docs"),
            run(CollectorName::Integrity, vec![missing]),
            unread(CollectorName::Contents, "/srv/docs/chroma.sqlite3"),
            unread(CollectorName::Hnsw, "/srv/docs"),
            unread(CollectorName::Logs, "/var/log/chroma.log"),
        ];
        let text = |runs: &[CollectorRun]| {
            let mut report = Report::default();
            report.add_store(&Store::new("docs", "/srv/docs"), runs, &Firsts::default());
            report.text(Style::default())
        };
        let shown = text(&runs);
        let blocks: Vec<&str> = shown.lines().filter(|line| line.contains("unknown  ")).collect();
        assert_eq!(blocks, ["  unknown  disk, contents, hnsw", "  unknown  logs"], "{shown}");
        runs.remove(1);
        let shown = text(&runs);
        assert_eq!(shown.matches("  unknown  ").count(), 3, "{shown}");
        assert!(shown.contains("  unknown  disk, hnsw\n"), "{shown}");
    }

    #[test]
    fn colours_change_no_word_and_without_a_width_nothing_is_wrapped() {
        let (plain, painted) = (
            report().text(Style { colours: false, width: Some(80) }),
            report().text(Style { colours: true, width: Some(80) }),
        );
        assert!(painted.contains("\u{1b}[1;31mcritical\u{1b}[0m"));
        let mut stripped = String::new();
        let mut rest = painted.as_str();
        while let Some((before, after)) = rest.split_once('\u{1b}') {
            stripped.push_str(before);
            rest = after.split_once('m').unwrap().1;
        }
        assert_eq!(stripped + rest, plain);
        let whole = report().text(Style::default());
        assert!(whole.lines().any(|line| line.chars().count() > 500));
        assert!(!whole.contains('\u{1b}'));
    }

    #[test]
    fn words_are_wrapped_at_spaces() {
        assert_eq!(wrap("", 10), [""]);
        assert_eq!(wrap("aa bb  cc\ndd", 5), ["aa bb", "cc dd"]);
        assert_eq!(wrap("aaaaaaaa b", 5), ["aaaaaaaa", "b"]);
        assert_eq!(wrap("éé éé é", 5), ["éé éé", "é"]);
    }
}
