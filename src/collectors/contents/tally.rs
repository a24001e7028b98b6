//! Many cases, one finding: of what is found often only the first few are named.

use serde::{Deserialize, Serialize};

use crate::findings::{Code, Finding, Severity};

/// Cases by code, severity and subject, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Tally {
    kinds: Vec<(Finding, Cases)>,
}

/// How many, and the first few in words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cases {
    pub(super) count: u64,
    pub(super) first: Vec<String>,
}

impl Cases {
    pub(super) fn add(&mut self, words: impl FnOnce() -> String) {
        self.count = self.count.saturating_add(1);
        if self.first.len() < NAMED_MAX {
            self.first.push(words());
        }
    }

    /// Takes in the cases of a later part.
    pub(super) fn merge(&mut self, later: Self) {
        self.count = self.count.saturating_add(later.count);
        let room = NAMED_MAX.saturating_sub(self.first.len());
        self.first.extend(later.first.into_iter().take(room));
    }

    /// `a; b; and 7 more`.
    pub(super) fn words(&self, between: &str) -> String {
        let more = self.count.saturating_sub(self.first.len() as u64);
        let mut words = self.first.join(between);
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
        let same = |f: &Finding| f.code == code && f.severity == severity && f.subject == subject;
        if let Some((_, cases)) = self.kinds.iter_mut().find(|(finding, _)| same(finding)) {
            return cases.add(words);
        }
        let mut cases = Cases::default();
        cases.add(words);
        let finding = Finding::new(code, subject, "").with_severity(severity);
        self.kinds.push((finding, cases));
    }

    pub(super) fn into_findings(self) -> Vec<Finding> {
        let finding = |(finding, cases): (Finding, Cases)| {
            Finding::new(finding.code, finding.subject, cases.words("; "))
                .with_severity(finding.severity)
        };
        self.kinds.into_iter().map(finding).collect()
    }
}

const NAMED_MAX: usize = 3;

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
    }
}
