//! `explain`: the runbook of a finding, from the program itself; without a name, every finding by subject.

use super::{Ended, plain, to_stderr, to_stdout};
use crate::{alert::builtin, findings::Code, format::words, runbooks};

/// Prints the page of the finding or the alert `name`, or the list of them.
pub(super) fn run(name: Option<&str>) -> Ended {
    let Some(name) = name else { return to_stdout(&list(), Ended::Well) };
    if let Some(page) = page(name) {
        return to_stdout(&page, Ended::Well);
    }
    to_stderr(&unknown(name));
    Ended::Usage
}

/// Names may be written as the operator has them: `Sqlite-Missing`, the name of the alert, or a link to the page.
fn page(name: &str) -> Option<String> {
    let meant = builtin::key(last(name));
    let known = runbooks::all().find(|(code, _)| builtin::key(code) == meant);
    known.map(|(_, page)| page.to_owned()).or_else(|| {
        let mut sections = runbooks::exporter_alerts();
        sections
            .find(|(name, _)| builtin::key(name) == meant)
            .map(|(name, text)| format!("# {name}\n{text}"))
    })
}

/// The last part of a link.
fn last(name: &str) -> &str {
    let last = name.trim().rsplit(['/', '#']).next().unwrap_or(name);
    last.trim_end_matches(".md").trim()
}

fn list() -> String {
    let mut out = String::from(
        "chroma_exporter explain NAME prints the page of one of these, by either name:\n",
    );
    for (subject, codes) in runbooks::subjects() {
        out.extend(["\n", subject, "\n"]);
        for code in codes {
            let (name, severity) = (code.as_str(), code.severity().as_str());
            let line = format!("  {name:<30} {severity:<8} {}\n", builtin::name(*code));
            out.push_str(&line);
        }
    }
    out.push_str("\nAlerts about the exporter, from Prometheus\n");
    for (name, _) in runbooks::exporter_alerts() {
        out.extend(["  ", name, "\n"]);
    }
    out
}

fn unknown(name: &str) -> String {
    let mut names: Vec<String> = runbooks::all().map(|(code, _)| code.to_owned()).collect();
    if builtin::key(name).len() < name.chars().filter(char::is_ascii_alphanumeric).count() {
        // Whoever writes the name of an alert looks for one.
        names = Code::ALL.iter().map(|code| builtin::name(*code)).collect();
        names.extend(runbooks::exporter_alerts().map(|(name, _)| name.to_owned()));
    }
    let near = words::nearest(last(name), names.iter().map(String::as_str), builtin::key);
    let help = if near.is_empty() {
        "chroma_exporter explain lists them all".to_owned()
    } else {
        format!("did you mean {}?", near.join(", "))
    };
    let name: String = plain(name).chars().take(80).collect();
    format!("error: no finding and no alert is called {name}\nhelp: {help}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_are_named() {
        for (word, want) in [
            ("store_replacd", "did you mean store_replaced?"),
            ("segment", "did you mean segment_ahead, segment_behind, "),
            ("tenant", "did you mean default_tenant_missing?"),
            ("ChromaSecondWritr", "did you mean ChromaSecondWriter?"),
            ("ChromaExporterDwn", "did you mean ChromaExporterDown"),
            ("zzz", "explain lists them all"),
            ("\u{1b}[2J", "explain lists them all"),
            (&"x".repeat(9000), "explain lists them all"),
        ] {
            let reported = unknown(word);
            assert!(reported.contains(want), "{word:.20}: {reported}");
            assert!(reported.len() < 400 && !reported.contains('\u{1b}'), "{reported}");
        }
    }

    #[test]
    fn names_may_be_written_in_other_ways() {
        for word in [
            "hot_journal",
            "HOT-JOURNAL",
            "runbooks/hot_journal.md",
            " hot_journal ",
            "ChromaHotJournal",
            "chromahotjournal",
            "http://localhost:18000/runbooks/hot_journal",
        ] {
            assert!(page(word).is_some_and(|page| page.starts_with("# hot_journal\n")), "{word}");
        }
        let down = page("ChromaExporterDown").unwrap();
        assert!(down.starts_with("# ChromaExporterDown\n") && !down.contains("##"), "{down}");
        let list = list();
        for code in Code::ALL {
            assert!(list.contains(&format!("  {} ", code.as_str())));
            assert!(list.contains(&format!(" {}\n", builtin::name(*code))));
        }
    }
}
