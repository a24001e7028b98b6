//! What is known of the indexes from runs before: kept over a restart, so that a restart neither ends what was found nor
//! finds it anew, and reads no index again that nobody wrote.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::{
    Known,
    directory::FileStat,
    judge::{Deep, Verdict},
    reach::Reach,
    records::{self, Compared},
    state::State,
    walk::Walked,
};
use crate::{
    clock::Timestamp,
    findings::{Code, Finding, Remedy, Severity},
    format::uuid::{Uuid, parse_uuid, uuid_text},
};

/// What survives a restart.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct SavedIndexes {
    /// When every file was last walked over.
    pub(super) last_full: Option<Timestamp>,
    /// When all records were last compared, and the change of the database that this was about.
    pub(super) compared: Option<(Timestamp, Timestamp)>,
    /// By the id of the segment.
    segments: BTreeMap<String, Kept>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// The state of the files that `walked` is about, and `compared` when `current`.
    stamps: [Option<FileStat>; 5],
    walked: Option<Walked>,
    compared: Option<Compared>,
    /// Whether the newest comparison is about that state.
    current: bool,
    /// When they were last walked over, and how many elements were marked as deleted then.
    walk: Option<(Timestamp, u64)>,
    said: Option<KeptVerdict>,
    #[serde(default)]
    reach: Option<Reach>,
}

/// A verdict that is no good news.
#[derive(Debug, Serialize, Deserialize)]
struct KeptVerdict {
    state: String,
    finding: KeptFinding,
    loss: Option<KeptFinding>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptFinding {
    code: String,
    severity: Severity,
    subject: String,
    evidence: String,
    remedy: Option<Remedy>,
    #[serde(default)]
    items: Vec<String>,
    #[serde(default)]
    items_total: u64,
}

impl SavedIndexes {
    /// What there is to keep. Of very many segments only what was found: the rest is walked over again after a restart.
    pub(super) fn of(
        known: &BTreeMap<Uuid, Known>,
        last_full: Option<Timestamp>,
        compared: Option<(Timestamp, Timestamp)>,
    ) -> Self {
        let all = known.len() <= SEGMENTS_MAX;
        let kept = known.iter().filter_map(|(uuid, known)| {
            let kept = Kept::of(known, all);
            kept.map(|kept| (uuid_text(*uuid), kept))
        });
        Self { last_full, compared: compared.filter(|_| all), segments: kept.collect() }
    }

    /// What is known of each segment.
    pub(super) fn known(self) -> impl Iterator<Item = (Uuid, Known)> {
        let known =
            |(uuid, kept): (String, Kept)| Some((parse_uuid(uuid.as_bytes())?, kept.known()));
        self.segments.into_iter().filter_map(known)
    }
}

impl Kept {
    /// `None` when there is nothing to keep.
    fn of(known: &Known, all: bool) -> Option<Self> {
        let said = known.said.as_ref().and_then(KeptVerdict::of);
        if !all && said.is_none() && known.reach.is_none() {
            return None;
        }
        let small = |compared: &&Arc<Compared>| compared.pending_deletes.len() <= DELETES_MAX;
        let deep = known.deep.as_ref().filter(|_| all);
        let compared = known.compared.as_ref().filter(small).filter(|_| all);
        let current = deep.and_then(|deep| deep.compared.as_ref()).zip(compared);
        Some(Self {
            stamps: deep.map(|deep| deep.stamps).unwrap_or_default(),
            walked: deep.and_then(|deep| deep.walked.as_deref()).cloned(),
            compared: compared.map(|compared| Compared::clone(compared)),
            current: current.is_some_and(|(deep, newest)| deep == newest),
            walk: known.walked,
            said,
            reach: known.reach,
        })
    }

    fn known(self) -> Known {
        let compared = self.compared.map(Arc::new);
        let deep = Deep {
            stamps: self.stamps,
            walked: self.walked.map(Arc::new),
            compared: compared.clone().filter(|_| self.current),
        };
        let deep = Some(deep).filter(|deep| deep.walked.is_some() || deep.compared.is_some());
        Known {
            lost: None,
            // More than none is counted again when it is judged.
            without_vector: compared.as_ref().map(|compared| compared.missing).filter(|n| *n == 0),
            deep,
            walked: self.walk,
            compared,
            suspicion: None,
            reach: self.reach,
            unread: None,
            said: self.said.and_then(KeptVerdict::verdict),
            by_look: false, // the first look of this run tells
        }
    }
}

impl KeptVerdict {
    fn of(verdict: &Verdict) -> Option<Self> {
        Some(Self {
            state: verdict.state.as_str().to_owned(),
            finding: KeptFinding::of(verdict.finding.as_ref()?),
            loss: verdict.loss.as_ref().map(KeptFinding::of),
        })
    }

    /// `None` for words that this release does not know.
    fn verdict(self) -> Option<Verdict> {
        let state = State::ALL.into_iter().find(|state| state.as_str() == self.state)?;
        let loss = self.loss.and_then(KeptFinding::finding);
        Some(Verdict { state, finding: Some(self.finding.finding()?), loss })
    }
}

impl KeptFinding {
    fn of(finding: &Finding) -> Self {
        Self {
            code: finding.code.as_str().to_owned(),
            severity: finding.severity,
            subject: finding.subject.clone(),
            evidence: finding.evidence.clone(),
            remedy: finding.remedy.clone(),
            items: records::kept(&finding.items).to_vec(),
            items_total: finding.items_total,
        }
    }

    fn finding(self) -> Option<Finding> {
        let code = Code::parse(&self.code)?;
        let finding = Finding::new(code, self.subject, self.evidence)
            .with_severity(self.severity)
            .with_items_of(self.items, self.items_total);
        Some(match self.remedy {
            Some(remedy) => finding.with_remedy(remedy),
            None => finding,
        })
    }
}

/// Some kilobyte each.
const SEGMENTS_MAX: usize = 4096;
/// A queue with more deletions than that is asked again.
const DELETES_MAX: usize = 10_000;
