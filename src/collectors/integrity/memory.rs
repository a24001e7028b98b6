//! What is known of each check from runs before: kept over a restart, so that a restart starts no storm of checks and no
//! damage is forgotten.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    checks::{Check, Outcome},
    compare::Comparisons,
};
use crate::{
    clock::Timestamp,
    findings::{Code, Finding, Remedy, Severity},
    format::sqlite::SqliteHeader,
    sample::CheckState,
    store::database::Stamp,
};

/// What survives a restart.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct SavedChecks {
    pub(super) had_database: bool,
    /// When the store was first seen.
    #[serde(default)]
    pub(super) since: Option<Timestamp>,
    /// The boot of the host during which it was written, and when something last came down without an end in order: a hot
    /// journal was there, or the host itself crashed.
    #[serde(default)]
    pub(super) boot: Option<String>,
    #[serde(default)]
    pub(super) unclean: Option<Timestamp>,
    pub(super) checks: BTreeMap<String, Past>,
    /// How often SQLite was asked too.
    #[serde(default)]
    pub(super) comparisons: Comparisons,
}

/// What is known of one check.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Past {
    pub(super) state: CheckState,
    pub(super) last_run: Option<Timestamp>,
    pub(super) last_ok: Option<Timestamp>,
    /// When a run last proved it whole or damaged.
    #[serde(default)]
    pub(super) last_verdict: Option<Timestamp>,
    pub(super) seconds: f64,
    pub(super) held_seconds: f64,
    pub(super) aborted: u64,
    /// Where the newest run looked: a word of `Way`.
    #[serde(default)]
    pub(super) way: Option<String>,
    /// Pages that the newest run with a verdict looked at.
    #[serde(default)]
    pub(super) pages: Option<u32>,
    /// How much of what there is the newest run with a verdict could judge.
    #[serde(default)]
    pub(super) coverage: Option<f64>,
    /// The content that the state is about.
    pub(super) about: Option<Content>,
    /// Why the newest run came to no verdict.
    #[serde(default)]
    pub(super) reason: Option<String>,
    /// Code, subject, evidence.
    pub(super) findings: Vec<(String, String, String)>,
    /// The remedy of each, where it is another than the catalogue's.
    #[serde(default)]
    pub(super) remedies: Vec<Option<Remedy>>,
    /// What each is about, one by one, and how many there are.
    #[serde(default)]
    pub(super) items: Vec<(Vec<String>, u64)>,
    /// The severity of each, where it is another than the catalogue's.
    #[serde(default)]
    pub(super) severities: Vec<Option<Severity>>,
}

impl Default for Past {
    fn default() -> Self {
        Self {
            state: CheckState::Unknown,
            last_run: None,
            last_ok: None,
            last_verdict: None,
            seconds: 0.0,
            held_seconds: 0.0,
            aborted: 0,
            way: None,
            pages: None,
            coverage: None,
            about: None,
            reason: None,
            findings: Vec::new(),
            remedies: Vec::new(),
            items: Vec::new(),
            severities: Vec::new(),
        }
    }
}

/// Two equal ones have the same bytes, as far as SQLite wrote them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Content {
    device: u64,
    inode: u64,
    size_bytes: u64,
    change_counter: u32,
}

impl Content {
    pub(super) fn of(stamp: Stamp, header: SqliteHeader) -> Self {
        let (device, inode) = (stamp.id.device, stamp.id.inode);
        Self { device, inode, size_bytes: stamp.size_bytes, change_counter: header.change_counter }
    }
}

impl SavedChecks {
    pub(super) fn past(&self, check: Check) -> Option<&Past> {
        self.checks.get(check.as_str())
    }

    pub(super) fn past_mut(&mut self, check: Check) -> &mut Past {
        self.checks.entry(check.as_str().to_owned()).or_default()
    }
}

impl Past {
    /// What it found, as far as the catalogue still knows the codes.
    pub(super) fn findings(&self) -> impl Iterator<Item = Finding> {
        self.findings.iter().enumerate().filter_map(|(at, (code, subject, evidence))| {
            let code = Code::parse(code)?;
            let severity = self.severities.get(at).copied().flatten().unwrap_or(code.severity());
            let (items, total) = self.items.get(at).map_or((&[][..], 0), |(list, n)| (list, *n));
            let finding = Finding::new(code, subject, evidence)
                .with_severity(severity)
                .with_items_of(items, total);
            Some(match self.remedies.get(at).and_then(Option::as_ref) {
                Some(remedy) => finding.with_remedy(remedy.clone()),
                None => finding,
            })
        })
    }

    /// Takes one outcome in. Damage that was proved is not undone by a run that was given up.
    pub(super) fn note(
        &mut self,
        outcome: &Outcome,
        duration: Duration,
        ended: Timestamp,
        about: Option<Content>,
    ) {
        self.last_run = Some(ended);
        self.seconds = duration.as_secs_f64();
        self.held_seconds = outcome.held.as_secs_f64();
        self.aborted = self.aborted.saturating_add(u64::from(outcome.aborted));
        self.way = Some(outcome.way.as_str().to_owned());
        let verdict = matches!(outcome.state, CheckState::Ok | CheckState::Corrupt);
        if verdict {
            self.last_verdict = Some(ended);
        }
        self.reason = outcome.reason.clone().filter(|_| !verdict);
        if !verdict && self.state == CheckState::Corrupt {
            return;
        }
        if outcome.state == CheckState::Ok {
            self.last_ok = Some(ended);
        }
        self.pages = outcome.pages.or(self.pages);
        self.coverage = outcome.coverage.or(self.coverage);
        self.state = outcome.state;
        // What is to come again soon is about nothing yet.
        self.about = about.filter(|_| !outcome.unsettled);
        self.findings = outcome
            .findings
            .iter()
            .map(|f| (f.code.as_str().to_owned(), f.subject.clone(), f.evidence.clone()))
            .collect();
        self.remedies = outcome.findings.iter().map(|f| f.remedy.clone()).collect();
        self.items = outcome.findings.iter().map(|f| (f.items.clone(), f.items_total)).collect();
        let severity = |f: &Finding| (f.severity != f.code.severity()).then_some(f.severity);
        self.severities = outcome.findings.iter().map(severity).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::{super::checks::Way, *};

    fn outcome(state: CheckState) -> Outcome {
        let damage = Finding::new(Code::SqliteCorrupt, "chroma.sqlite3", "page 7 is torn");
        Outcome {
            state,
            findings: (state == CheckState::Corrupt).then_some(damage).into_iter().collect(),
            problem: None,
            reason: None,
            aborted: state == CheckState::Unknown,
            held: Duration::from_millis(3),
            way: Way::Copy,
            pages: (state == CheckState::Ok).then_some(7),
            coverage: (state == CheckState::Ok).then_some(1.0),
            unsettled: false,
            compared: None,
        }
    }

    #[test]
    fn a_run_without_a_verdict_neither_heals_nor_breaks() {
        use CheckState::{Busy, Corrupt, Ok, Unknown, Unreadable};
        // states in the order of the runs → what is known after them, with how many findings, last ok at which run
        for (runs, want, findings, last_ok) in [
            (&[Ok][..], Ok, 0, Some(0)),
            (&[Ok, Busy], Busy, 0, Some(0)),
            (&[Corrupt, Unknown, Busy, Unreadable], Corrupt, 1, None),
            (&[Corrupt, Unknown, Ok], Ok, 0, Some(2)),
            (&[Ok, Corrupt], Corrupt, 1, Some(0)),
            (&[Unknown, Unknown], Unknown, 0, None),
        ] {
            let mut past = Past::default();
            for (at, state) in (0..).zip(runs) {
                past.note(&outcome(*state), Duration::from_secs(2), Timestamp::from_secs(at), None);
            }
            assert_eq!((past.state, past.findings.len()), (want, findings), "{runs:?}");
            assert_eq!(past.last_ok, last_ok.map(Timestamp::from_secs), "{runs:?}");
            let proved = (0..).zip(runs).filter(|(_, state)| matches!(state, Ok | Corrupt));
            let last_verdict = proved.last().map(|(at, _)| Timestamp::from_secs(at));
            assert_eq!(past.last_verdict, last_verdict, "{runs:?}");
            let aborted = runs.iter().filter(|state| **state == Unknown).count();
            assert_eq!(past.aborted, aborted as u64, "{runs:?}");
            let last = (0..).zip(runs).last().map(|(at, _)| at);
            assert_eq!(past.last_run.map(Timestamp::as_secs), last, "{runs:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut memory = SavedChecks { had_database: true, ..SavedChecks::default() };
        memory.past_mut(Check::Full).note(
            &outcome(CheckState::Corrupt),
            Duration::from_secs(90),
            Timestamp::from_secs(7),
            Some(Content { device: 1, inode: 2, size_bytes: 4096, change_counter: 5 }),
        );
        let text = serde_json::to_string(&memory).unwrap();
        let back: SavedChecks = serde_json::from_str(&text).unwrap();
        assert_eq!(format!("{memory:?}"), format!("{back:?}"));
    }
}
