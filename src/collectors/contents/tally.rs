//! Many cases, one finding: of what is found often only the first few stand in the evidence; all go along as its items.

use serde::{Deserialize, Serialize};

use crate::findings::{Code, Finding, Severity};

/// Cases by code, severity and subject, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Tally {
    kinds: Vec<Group>,
}

#[derive(Debug)]
struct Group {
    finding: Finding,
    cases: Cases,
    /// What somebody would act on; without any the cases themselves.
    items: Cases,
}

/// How many, and each in words as far as there is room.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cases {
    pub(super) count: u64,
    #[serde(rename = "first")]
    pub(super) listed: Vec<String>,
}

impl Cases {
    pub(super) fn add(&mut self, words: impl FnOnce() -> String) {
        self.count = self.count.saturating_add(1);
        if self.listed.len() < LISTED_MAX {
            self.listed.push(words());
        }
    }

    /// Takes in the cases of a later part.
    pub(super) fn merge(&mut self, later: Self) {
        self.count = self.count.saturating_add(later.count);
        let room = LISTED_MAX.saturating_sub(self.listed.len());
        self.listed.extend(later.listed.into_iter().take(room));
    }

    /// `a; b; and 7 more`.
    pub(super) fn words(&self, between: &str) -> String {
        let named = &self.listed[..self.listed.len().min(NAMED_MAX)];
        let more = self.count.saturating_sub(named.len() as u64);
        let mut words = named.join(between);
        if more > 0 {
            words = format!("{words}{between}and {more} more");
        }
        words
    }
}

impl Tally {
    /// One case with the severity of the catalogue.
    pub(super) fn add(&mut self, code: Code, subject: &str, words: impl FnOnce() -> String) {
        self.add_with(code, code.severity(), subject, words);
    }

    /// One case.
    pub(super) fn add_with(
        &mut self,
        code: Code,
        severity: Severity,
        subject: &str,
        words: impl FnOnce() -> String,
    ) {
        self.kind(code, severity, subject).cases.add(words);
    }

    /// One case that is about several things.
    pub(super) fn add_about(
        &mut self,
        code: Code,
        severity: Severity,
        subject: &str,
        words: impl FnOnce() -> String,
        about: Cases,
    ) {
        let kind = self.kind(code, severity, subject);
        kind.cases.add(words);
        kind.items.merge(about);
    }

    fn kind(&mut self, code: Code, severity: Severity, subject: &str) -> &mut Group {
        let same = |f: &Finding| f.code == code && f.severity == severity && f.subject == subject;
        let at = self.kinds.iter().position(|kind| same(&kind.finding)).unwrap_or_else(|| {
            let finding = Finding::new(code, subject, "").with_severity(severity);
            let (cases, items) = (Cases::default(), Cases::default());
            self.kinds.push(Group { finding, cases, items });
            self.kinds.len() - 1
        });
        &mut self.kinds[at]
    }

    pub(super) fn into_findings(self) -> Vec<Finding> {
        let finding = |Group { finding, cases, items }: Group| {
            let said = Finding::new(finding.code, finding.subject, cases.words("; "))
                .with_severity(finding.severity);
            let Cases { count, listed } = if items.count > 0 { items } else { cases };
            said.with_items_of(listed, count)
        };
        self.kinds.into_iter().map(finding).collect()
    }
}

const NAMED_MAX: usize = 3;
/// A megabyte or two, in memory and in the state directory.
const LISTED_MAX: usize = 20_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_few_are_named_and_the_rest_counted() {
        let mut tally = Tally::default();
        for n in 0..10 {
            tally.add(Code::OrphanRows, "segments", || format!("segment {n}"));
        }
        tally.add_with(Code::OrphanRows, Severity::Critical, "segments", || "worse".to_owned());
        let findings = tally.into_findings();
        let evidence: Vec<_> = findings.iter().map(|f| f.evidence.as_str()).collect();
        assert_eq!(evidence, ["segment 0; segment 1; segment 2; and 7 more", "worse"]);
        assert_eq!(findings[1].severity, Severity::Critical);
        assert_eq!(findings[0].items_total, 10);
        assert_eq!(findings[0].items.last().map(String::as_str), Some("segment 9"));
    }
}
