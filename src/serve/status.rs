//! What is known of the stores as one document: what `check` prints, `/api/v1/status` serves and the page shows, so that all
//! three say the same. Plain data and what follows from it; nothing here reads a file or asks the time.

pub(crate) mod figures;
pub(crate) mod items;
pub(crate) mod live;
pub(crate) mod worst;

use std::{collections::BTreeSet, path::Path};

use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::{
    clock::Timestamp,
    collectors::CollectError,
    facts::trial::Trial,
    findings::{Code, Remedy, Severity, conflicts, order::sort_by_cause},
    firsts::Firsts,
    human::plain,
    sample::{CheckState, Observation, Restored},
};

/// One word for a store. What could not be found out counts only when nothing is known to be wrong.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    #[default]
    Ok,
    Unknown,
    Warning,
    Critical,
}

impl Status {
    /// All of them, the most urgent first.
    pub(crate) const WORST_FIRST: [Self; 4] =
        [Self::Critical, Self::Warning, Self::Unknown, Self::Ok];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// What is known of one store. Texts are plain: names from disk drive neither a terminal nor the direction of text.
#[derive(Debug, Serialize)]
pub(crate) struct StoreReport {
    pub(crate) store: String,
    pub(crate) path: String,
    pub(crate) status: Status,
    /// The most urgent first, and causes above what they brought about.
    pub(crate) findings: Vec<FindingReport>,
    /// What to begin with, where several kinds of findings are critical: the remedy of the first, as one text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) do_first: Option<String>,
    /// In the order of the collector; a map in JSON.
    #[serde(serialize_with = "as_map")]
    pub(crate) integrity: Vec<(&'static str, CheckState)>,
    /// Why checks are in another state than ok; a map in JSON.
    #[serde(serialize_with = "texts_as_map", skip_serializing_if = "Vec::is_empty")]
    pub(crate) integrity_reasons: Vec<(&'static str, String)>,
    /// What was not asked for, so that the status is not about it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) left_out: Vec<&'static str>,
    /// What came of asking SQLite beside the full check, where `check` was told to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) compared: Option<String>,
    pub(crate) problems: Vec<ProblemReport>,
    /// Which releases of Chroma open the store; absent while that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) opened_by: Option<String>,
    /// Restores of the store that have left a folder, the newest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) restores: Vec<RestoreReport>,
}

/// A restore that came to its end.
#[derive(Debug, Serialize)]
pub(crate) struct RestoreReport {
    /// When it ended, or was undone.
    #[serde(serialize_with = "rfc3339")]
    pub(crate) at: Timestamp,
    /// What was put in place: a backup, what a repair made, nothing.
    pub(crate) what: String,
    /// Where the old content is; of one that was undone, what was restored.
    pub(crate) kept: String,
    pub(crate) undone: bool,
    /// The command that undoes it; only the last one can be undone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) undo: Option<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct FindingReport {
    pub(crate) code: Code,
    pub(crate) severity: Severity,
    pub(crate) collector: &'static str,
    pub(crate) subject: String,
    pub(crate) summary: &'static str,
    pub(crate) evidence: String,
    /// As one text under `remedy`, and its parts under `remedy_words`, `remedy_command` and `remedy_note`.
    #[serde(flatten, serialize_with = "as_parts")]
    pub(crate) remedy: Remedy,
    /// All that it is about, one each, where it is about several: ids of records, rows, entries. A running exporter gives the
    /// first few and serves all in pages.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) items: Vec<String>,
    /// How many there are.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) items_total: u64,
    pub(crate) runbook: String,
    /// Since when it is there, as far as that is known.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "moment")]
    pub(crate) since: Option<Timestamp>,
    /// What came of trying the repair on a copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tried: Option<String>,
    /// Of an earlier look: it could not be looked at again since.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) kept: bool,
}

#[derive(Debug, Serialize)]
pub(crate) struct ProblemReport {
    pub(crate) collector: &'static str,
    pub(crate) problem: String,
    pub(crate) hint: &'static str,
}

impl RestoreReport {
    fn new(restored: &Restored) -> Self {
        Self {
            at: restored.at,
            what: plain(&restored.what),
            kept: plain(&restored.kept.to_string_lossy()),
            undone: restored.undone,
            undo: None,
        }
    }
}

/// The command that undoes the last restore of the store at `path`.
fn undo(path: &Path) -> Option<String> {
    let command = "chroma_exporter restore --undo --store.path {path}".to_owned();
    let remedy = Remedy { command: Some(command), ..Remedy::default() }.at(path);
    remedy.command.as_deref().map(plain)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn rfc3339<S: Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(at)
}

impl StoreReport {
    /// What the collectors saw in the store `name` at `path`, in their order. A check without a verdict leaves the store
    /// unknown, whatever kept it from one; what was not asked for stands in `left_out`, and not among the checks. `items`:
    /// so many items of each finding at most. `firsts`: since when its findings are there.
    pub(crate) fn new<'a>(
        name: &str,
        path: &Path,
        seen: impl Iterator<Item = (&'static str, &'a Observation)>,
        items: usize,
        firsts: &Firsts,
    ) -> Self {
        let mut report = Self {
            store: plain(name),
            path: plain(&path.to_string_lossy()),
            status: Status::Ok,
            findings: Vec::new(),
            do_first: None,
            integrity: Vec::new(),
            integrity_reasons: Vec::new(),
            left_out: Vec::new(),
            compared: None,
            problems: Vec::new(),
            opened_by: None,
            restores: Vec::new(),
        };
        let seen: Vec<(&'static str, &Observation)> = seen.collect();
        let seen_restores: Vec<&Restored> =
            seen.iter().flat_map(|(_, seen)| &seen.restores).collect();
        let present = conflicts::present(seen.iter().flat_map(|(_, seen)| &seen.findings));
        for (collector, observation) in seen {
            if let Some(releases) = &observation.opened_by {
                report.opened_by = Some(plain(releases));
            }
            if let Some(compared) = &observation.compared {
                report.compared = Some(plain(compared));
            }
            report
                .problems
                .extend(observation.problems.iter().map(|p| ProblemReport::new(collector, p)));
            report.integrity.extend(observation.checks.iter().copied());
            let reasons = observation.reasons.iter().map(|(check, why)| (*check, plain(why)));
            report.integrity_reasons.extend(reasons);
            report.left_out.extend(observation.left_out.iter().copied());
            report.restores.extend(observation.restores.iter().map(RestoreReport::new));
            for finding in &observation.findings {
                report.findings.push(FindingReport {
                    code: finding.code,
                    severity: finding.severity,
                    collector,
                    subject: plain(&finding.subject),
                    summary: finding.code.cause(),
                    evidence: plain(&finding.evidence),
                    remedy: conflicts::ordered(finding.code, finding.remedy(path), &present)
                        .plain(),
                    items: finding.items.iter().take(items).map(|item| plain(item)).collect(),
                    items_total: finding.items_total,
                    runbook: finding.code.runbook(),
                    since: firsts.since(finding),
                    tried: None,
                    kept: finding.kept,
                });
            }
        }
        // Among equals the collectors keep their order.
        report.findings = sort_by_cause(report.findings, |f| (f.code, f.severity));
        let critical = |finding: &&FindingReport| finding.severity == Severity::Critical;
        let kinds: BTreeSet<Code> =
            report.findings.iter().filter(critical).map(|f| f.code).collect();
        if kinds.len() > 1 {
            report.do_first = report.findings.first().map(|first| first.remedy.text());
        }
        // The last one that is not undone.
        let last = seen_restores.iter().position(|one| !one.undone);
        if let Some(last) = last.filter(|last| seen_restores[*last].undoable) {
            report.restores[last].undo = undo(path);
        }
        report.status = report.judge();
        report
    }

    /// Adds what came of trying a repair on a copy to the findings that it was for.
    pub(crate) fn add_trial(&mut self, trial: &Trial) {
        let about = |finding: &&mut FindingReport| trial.is_about(finding.code.as_str());
        for finding in self.findings.iter_mut().filter(about) {
            finding.tried = Some(trial.words());
        }
    }

    /// Why checks came to no verdict, those with the same reason together.
    pub(crate) fn reasons(&self) -> Vec<(Vec<&'static str>, &str)> {
        let mut out: Vec<(Vec<&'static str>, &str)> = Vec::new();
        for (check, why) in &self.integrity_reasons {
            match out.iter_mut().find(|(_, known)| known == why) {
                Some((checks, _)) => checks.push(check),
                None => out.push((vec![check], why)),
            }
        }
        out
    }

    fn judge(&self) -> Status {
        let findings = self.findings.iter().map(|finding| match finding.severity {
            Severity::Critical => Status::Critical,
            Severity::Warning => Status::Warning,
            Severity::Info => Status::Ok,
        });
        let checks = self.integrity.iter().map(|(_, state)| match state {
            CheckState::Ok => Status::Ok,
            CheckState::Corrupt => Status::Critical,
            CheckState::Busy | CheckState::Unreadable | CheckState::Unknown => Status::Unknown,
        });
        let problems = self.problems.iter().map(|_| Status::Unknown);
        findings.chain(checks).chain(problems).max().unwrap_or(Status::Ok)
    }
}

impl ProblemReport {
    pub(crate) fn new(collector: &'static str, problem: &CollectError) -> Self {
        Self { collector, problem: plain(&problem.chain()), hint: problem.hint() }
    }
}

fn as_parts<S: Serializer>(remedy: &Remedy, serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry("remedy", &remedy.text())?;
    map.serialize_entry("remedy_words", &remedy.words)?;
    if let Some(command) = &remedy.command {
        map.serialize_entry("remedy_command", command)?;
    }
    if let Some(note) = &remedy.note {
        map.serialize_entry("remedy_note", note)?;
    }
    map.end()
}

/// RFC 3339 in UTC, whole seconds. Errs when the serializer does.
#[expect(clippy::ref_option, reason = "serde gives a reference")]
fn moment<S: Serializer>(at: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    match at {
        Some(at) => serializer.collect_str(at),
        None => serializer.serialize_none(),
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

fn texts_as_map<S: Serializer>(
    texts: &[(&'static str, String)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(texts.iter().map(|(name, text)| (*name, text)))
}

fn as_map<S: Serializer>(
    checks: &[(&'static str, CheckState)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(checks.iter().copied())
}
