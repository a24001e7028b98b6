//! What findings are about, bare and one each line, so that a script can act on each; what it is goes beside it.

use std::fmt::Write;

use super::Report;
use crate::findings::Code;

/// The two streams.
#[derive(Debug, PartialEq)]
pub(in crate::cli) struct Ids {
    /// One item each line, for whatever comes behind the pipe.
    pub(in crate::cli) out: String,
    /// What they are, for whoever reads along.
    pub(in crate::cli) err: String,
}

impl Report {
    /// The items of all findings, or of those with `code`, in the order of the report.
    pub(in crate::cli) fn ids(&self, code: Option<Code>) -> Ids {
        let mut ids = Ids { out: String::new(), err: String::new() };
        let wanted = |known: Code| code.is_none_or(|code| code == known);
        for store in &self.stores {
            for finding in store.findings.iter().filter(|f| wanted(f.code) && f.items_total > 0) {
                for item in &finding.items {
                    ids.out.extend([item, "\n"]);
                }
                let (name, code) = (&store.store, finding.code.as_str());
                let about = if finding.subject.is_empty() { "" } else { " " };
                let listed = finding.items.len() as u64;
                let count = match finding.items_total.saturating_sub(listed) {
                    0 => format!("{listed}"),
                    more => format!("{listed}, and {more} more that are not listed"),
                };
                // Writing to a string cannot fail.
                writeln!(ids.err, "{name}  {code}{about}{}: {count}", finding.subject)
                    .unwrap_or_default();
            }
        }
        for problem in self.problems.iter().chain(self.stores.iter().flat_map(|s| &s.problems)) {
            writeln!(ids.err, "not known: {}", problem.problem).unwrap_or_default();
        }
        if ids.err.is_empty() {
            ids.err.push_str("No finding is about anything that could be listed.\n");
        }
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::check::runner::CollectorRun,
        config::{CollectorName, Store},
        findings::Finding,
        firsts::Firsts,
        sample::Observation,
    };

    #[test]
    fn a_pipe_gets_every_item_and_nothing_else() {
        let lost = Finding::new(Code::RecordsWithoutVector, "seg", "700 of 800");
        let lost = lost.with_items((0..700).map(|n| format!("doc {n}")));
        let orphans = Finding::new(Code::OrphanRows, "segments", "2").with_items_of(["x"], 2);
        let nothing = Finding::new(Code::HotJournal, "chroma.sqlite3-journal", "it is there");
        let observation =
            Observation { findings: vec![nothing, orphans, lost], ..Observation::default() };
        let run = CollectorRun::of(CollectorName::Hnsw, observation);
        let mut report = Report::default();
        report.add_store(&Store::new("docs", "/srv/docs"), &[run], &Firsts::default());
        let all = report.ids(None);
        assert_eq!(all.out.lines().count(), 701);
        assert!(all.out.starts_with("doc 0\ndoc 1\n") && all.out.ends_with("doc 699\nx\n"));
        assert_eq!(
            all.err,
            "docs  records_without_vector seg: 700\n\
             docs  orphan_rows segments: 1, and 1 more that are not listed\n"
        );
        assert_eq!(report.ids(Some(Code::OrphanRows)).out, "x\n");
        let none = report.ids(Some(Code::HotJournal));
        assert_eq!(
            (none.out.as_str(), none.err.as_str()),
            ("", "No finding is about anything that could be listed.\n")
        );
    }
}
