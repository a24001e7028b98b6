//! Since when each finding of a store is there: kept over restarts, so that "since" is the moment of the fault and not that of
//! the last start. Pure; where it is kept is the business of the scheduler, and `check` reads it beside a running exporter.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    findings::{Code, Finding},
};

/// Name of the document in the state directory; its subject is the path of the store.
pub(crate) const KIND: &str = "findings";

/// The moments of one store, by code and subject.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firsts {
    /// Codes as their words: one that this release does not know goes through unharmed.
    seen: BTreeMap<String, BTreeMap<String, Timestamp>>,
}

impl Firsts {
    /// Takes in the findings of one reading that was made at `now`. Of the codes that it `judged` what is absent is over; all
    /// else stays. Gives whether anything changed.
    pub(crate) fn note(
        &mut self,
        findings: &[Finding],
        judged: impl Iterator<Item = Code>,
        now: Timestamp,
    ) -> bool {
        let mut changed = false;
        for code in judged {
            let Some(subjects) = self.seen.get_mut(code.as_str()) else { continue };
            let before = subjects.len();
            subjects.retain(|subject, _| {
                findings.iter().any(|found| found.code == code && found.subject == *subject)
            });
            changed |= subjects.len() != before;
            if subjects.is_empty() {
                self.seen.remove(code.as_str());
            }
        }
        for finding in findings {
            let at = finding.since.unwrap_or(now).min(now);
            let subjects = self.seen.entry(finding.code.as_str().to_owned()).or_default();
            if subjects.len() >= SUBJECTS_MAX && !subjects.contains_key(&finding.subject) {
                continue; // the moment of this one is then not known
            }
            let first = subjects.entry(finding.subject.clone()).or_insert_with(|| {
                changed = true;
                at
            });
            if at < *first {
                *first = at;
                changed = true;
            }
        }
        changed
    }

    /// Goes on where an earlier run of the program left off: what both know is as old as the older says. `over` tells of
    /// which codes this run has already seen all there is.
    pub(crate) fn resume(&mut self, kept: Self, over: impl Fn(&str) -> bool) {
        for (code, subjects) in kept.seen {
            let over = over(&code);
            for (subject, at) in subjects {
                match self.seen.get_mut(&code).and_then(|known| known.get_mut(&subject)) {
                    Some(first) => *first = at.min(*first),
                    None if over => {}
                    None => {
                        self.seen.entry(code.clone()).or_default().insert(subject, at);
                    }
                }
            }
        }
    }

    /// Since when it is there, as far as anybody knows.
    pub(crate) fn since(&self, finding: &Finding) -> Option<Timestamp> {
        let subjects = self.seen.get(finding.code.as_str());
        let seen = subjects.and_then(|subjects| subjects.get(&finding.subject)).copied();
        [seen, finding.since].into_iter().flatten().min()
    }
}

/// Subjects of one code: there are at most a few segments, tables and entries.
const SUBJECTS_MAX: usize = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    #[test]
    fn a_finding_is_as_old_as_its_first_sight_and_over_when_it_was_disproved() {
        use Code::{HotJournal, OrphanRows};
        let found = |code, subject: &str| Finding::new(code, subject, "");
        let mut firsts = Firsts::default();
        assert!(firsts.note(&[found(OrphanRows, "a")], [OrphanRows].into_iter(), at(10)));
        assert!(!firsts.note(&[found(OrphanRows, "a")], [OrphanRows].into_iter(), at(20)));
        // Another subject is another finding; what was not judged stays.
        assert!(firsts.note(&[found(OrphanRows, "b")], [HotJournal].into_iter(), at(30)));
        assert_eq!(firsts.since(&found(OrphanRows, "a")), Some(at(10)));
        assert_eq!(firsts.since(&found(OrphanRows, "b")), Some(at(30)));
        assert!(firsts.note(&[found(OrphanRows, "b")], [OrphanRows].into_iter(), at(40)));
        assert_eq!(firsts.since(&found(OrphanRows, "a")), None);
        // What the evidence says may be older, and never lies in the future.
        assert!(firsts.note(&[found(OrphanRows, "b").with_since(at(5))], [].into_iter(), at(50)));
        assert!(firsts.note(&[found(HotJournal, "").with_since(at(99))], [].into_iter(), at(50)));
        assert_eq!(firsts.since(&found(OrphanRows, "b")), Some(at(5)));
        assert_eq!(firsts.since(&found(HotJournal, "")), Some(at(50)));
    }

    #[test]
    fn a_restart_makes_nothing_younger_and_brings_nothing_back() {
        use Code::{HotJournal, LockHeld, OrphanRows};
        let found = |code| Finding::new(code, "", "");
        let mut kept = Firsts::default();
        kept.note(&[found(HotJournal), found(LockHeld), found(OrphanRows)], [].into_iter(), at(10));
        let kept: Firsts = serde_json::from_str(&serde_json::to_string(&kept).unwrap()).unwrap();
        let mut firsts = Firsts::default();
        firsts.note(&[found(HotJournal)], [].into_iter(), at(100));
        firsts.resume(kept, |code| code == "lock_held");
        let since = [HotJournal, LockHeld, OrphanRows].map(|code| firsts.since(&found(code)));
        assert_eq!(since, [Some(at(10)), None, Some(at(10))]);
    }
}
