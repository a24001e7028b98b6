//! What `check` prints: one document, for people or for programs.

mod ids;
mod nagios;
mod text;

use serde::Serialize;

pub(super) use self::text::Style;
use super::runner::CollectorRun;
use crate::{
    collectors::CollectError,
    config::Store,
    firsts::Firsts,
    status::{ProblemReport, Status, StoreReport},
};

/// The whole answer.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// The gravest of the stores'.
    pub(super) status: Status,
    pub(super) stores: Vec<StoreReport>,
    /// What kept stores from being found.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) problems: Vec<ProblemReport>,
}

impl Report {
    /// Adds what was seen in one store. `firsts`: since when a running exporter has known of what.
    pub(super) fn add_store(&mut self, store: &Store, runs: &[CollectorRun], firsts: &Firsts) {
        let seen = runs.iter().map(|run| (run.collector.as_str(), &run.observation));
        let report = StoreReport::new(&store.name, &store.path, seen, usize::MAX, firsts);
        self.status = self.status.max(report.status);
        self.stores.push(report);
    }

    /// Adds what kept stores from being found: nothing is known then.
    pub(super) fn add_problem(&mut self, problem: &CollectError) {
        self.status = self.status.max(Status::Unknown);
        self.problems.push(ProblemReport::new("discovery", problem));
    }

    /// One JSON document and a line end.
    pub(super) fn json(&self) -> String {
        // Strings, words and lists alone: there is nothing that JSON cannot say.
        serde_json::to_string_pretty(self).map(|json| json + "\n").unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        config::CollectorName,
        findings::{Code, Finding},
        sample::{CheckState, Observation},
    };

    fn run(codes: &[Code], checks: &[CheckState], failed: bool) -> CollectorRun {
        let observation = Observation {
            findings: codes
                .iter()
                .map(|code| Finding::new(*code, "chroma.sqlite3", "the numbers"))
                .collect(),
            checks: ["header", "quick", "full"].into_iter().zip(checks.iter().copied()).collect(),
            problems: failed
                .then(|| CollectError::OutOfReach("no answer".to_owned()))
                .into_iter()
                .collect(),
            ..Observation::default()
        };
        CollectorRun::of(CollectorName::Integrity, observation)
    }

    #[test]
    fn the_worst_that_is_known_decides_and_the_unknown_only_without_it() {
        use CheckState::{Busy, Corrupt, Ok as Fine, Unknown, Unreadable};
        use Code::{BackupSameDisk as Info, HotJournal as Warning, SqliteCorrupt as Critical};
        for (codes, checks, failed, want) in [
            (&[][..], &[Fine][..], false, Status::Ok),
            (&[Info], &[Fine, Fine], false, Status::Ok),
            (&[Info, Warning], &[Fine], false, Status::Warning),
            (&[Warning, Critical], &[], true, Status::Critical),
            (&[], &[Fine, Busy], false, Status::Unknown),
            (&[], &[Unreadable], false, Status::Unknown),
            (&[], &[Fine, Unknown], false, Status::Unknown),
            (&[], &[Fine, Corrupt], false, Status::Critical),
            (&[], &[], true, Status::Unknown),
            (&[Warning], &[Busy], true, Status::Warning),
        ] {
            let mut report = Report::default();
            report.add_store(
                &Store::new("a", "/a"),
                &[run(codes, checks, failed)],
                &Firsts::default(),
            );
            assert_eq!(report.status, want, "{codes:?} {checks:?} {failed}");
            report.add_store(&Store::new("b", "/b"), &[], &Firsts::default());
            assert_eq!(report.status, want, "a healthy store hides nothing");
        }
        let mut report = Report::default();
        report.add_problem(&CollectError::OutOfReach("nothing found".to_owned()));
        assert_eq!(
            (report.status, report.text(Style::default()).as_str()),
            (Status::Unknown, "unknown  nothing found\n")
        );
    }

    #[test]
    fn programs_get_one_document() {
        let mut report = Report::default();
        report.add_store(
            &Store::new("docs", "/srv/docs"),
            &[run(&[Code::HotJournal], &[CheckState::Busy], true)],
            &Firsts::default(),
        );
        let document: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        let want = serde_json::json!({
            "status": "warning",
            "stores": [{
                "store": "docs",
                "path": "/srv/docs",
                "status": "warning",
                "findings": [{
                    "code": "hot_journal",
                    "severity": "warning",
                    "collector": "integrity",
                    "subject": "chroma.sqlite3",
                    "summary": Code::HotJournal.cause(),
                    "evidence": "the numbers",
                    "remedy": Code::HotJournal.remedy(Path::new("/srv/docs")).text(),
                    "remedy_words": Code::HotJournal.template().words,
                    "remedy_note": Code::HotJournal.template().note,
                    "runbook": "runbooks/hot_journal.md",
                }],
                "integrity": {"header": "busy"},
                "problems": [{"collector": "integrity", "problem": "no answer", "hint": "nothing to do: it is watched no more within half a minute"}],
            }],
        });
        assert_eq!(document, want);
    }

    #[test]
    fn a_check_without_a_verdict_says_why_and_what_was_left_out_is_named() {
        let mut seen = run(&[], &[CheckState::Ok, CheckState::Unknown], false);
        seen.observation.reasons = vec![("quick", "given up after 250 ms".to_owned())];
        seen.observation.left_out = vec!["the full check", "documents"];
        let mut report = Report::default();
        report.add_store(&Store::new("docs", "/srv/docs"), &[seen], &Firsts::default());
        assert_eq!(
            report.text(Style::default()),
            "docs  /srv/docs  unknown\n  integrity: header ok, quick unknown\n    quick: given up after 250 ms\n  \
             not looked at with --quick, and not part of the verdict: the full check, documents\n\n"
        );
        let document: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        let store = &document["stores"][0];
        assert_eq!(store["integrity_reasons"]["quick"], "given up after 250 ms");
        assert_eq!(store["left_out"], serde_json::json!(["the full check", "documents"]));
    }

    #[test]
    fn names_from_disk_do_not_drive_the_terminal() {
        let nasty = "a\u{1b}[2J\u{9b}1m\n\u{202e}b";
        let mut failed = run(&[], &[], false);
        failed.observation.problems.push(CollectError::OutOfReach(nasty.to_owned()));
        failed.observation.findings.push(Finding::new(Code::PermissionDrift, nasty, nasty));
        let mut report = Report::default();
        report.add_store(
            &Store::new("docs", format!("/srv/{nasty}")),
            &[failed],
            &Firsts::default(),
        );
        report.add_problem(&CollectError::OutOfReach(nasty.to_owned()));
        for text in [report.text(Style::default()), report.json()] {
            assert!(
                text.chars().all(|c| c == '\n' || !c.is_control()) && !text.contains('\u{202e}'),
                "{text:?}"
            );
        }
    }
}
