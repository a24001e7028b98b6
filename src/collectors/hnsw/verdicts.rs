//! What is reported about the segments after a run. What looks wrong for the first time is not reported yet.

use std::{collections::BTreeMap, time::Duration};

use super::{
    Hnsw, Known,
    catalogue::Row,
    directory::{FileStat, Folder},
    judge::{Case, Verdict, judge, judge_lost},
    orphans::Orphans,
    records::Replay,
    state::State,
};
use crate::{
    clock::{self, Ticks, Timestamp},
    findings::{Code, Finding, Severity, Template},
    format::{
        schema::{Family, Release, parse_release},
        uuid::{Uuid, uuid_text},
    },
    host::processes::Held,
    store::Context,
};

/// What looked wrong, in which state of the files, since when, and after how many expensive looks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Suspicion {
    code: Code,
    stamps: [Option<FileStat>; 5],
    since: Ticks,
    runs: u64,
}

impl Hnsw {
    /// Judges every segment; what looks wrong for the first time is not said yet.
    pub(super) fn judge(&mut self, now: Timestamp) -> (BTreeMap<State, u64>, Vec<Finding>, bool) {
        let mut states = BTreeMap::new();
        let mut findings = Vec::new();
        let mut unsure = false;
        let subjects = self.subjects();
        let replay = self.replay(&subjects, now);
        let Some(directory) = &self.directory else { return (states, findings, unsure) };
        self.known.retain(|uuid, _| subjects.iter().any(|(subject, _)| subject == uuid));
        let mut settle = None;
        for (uuid, row) in subjects {
            let folder = directory.folders.get(&uuid);
            let known = self.known.entry(uuid).or_default();
            if folder.is_none() && !directory.complete {
                continue; // it may be there
            }
            let stamps = folder.map(Folder::stamps).unwrap_or_default();
            if folder.is_some_and(|folder| folder.unreadable) || known.unread == Some(stamps) {
                // What was found before is neither seen nor disproved.
                *states.entry(State::Unreadable).or_insert(0) += 1;
                known.without_vector = None;
                let said = known.said.iter().flat_map(|said| said.finding.iter().chain(&said.loss));
                findings.extend(said.map(|finding| Finding { kept: true, ..finding.clone() }));
                continue;
            }
            let deep = known.deep.as_ref().filter(|deep| deep.stamps == stamps);
            let case = Case { folder, row: row.as_ref(), deep, replay };
            let name = folder.map_or_else(|| uuid_text(uuid), |folder| folder.name.clone());
            let mut verdict = judge(case, &name);
            match &verdict.finding {
                Some(finding) => {
                    let code = finding.code;
                    let said = known.said.as_ref().and_then(|said| said.finding.as_ref());
                    let old = folder.is_some_and(|folder| folder.untouched(now));
                    if !old && said.is_none_or(|said| said.code != code) {
                        let settle = *settle.get_or_insert_with(|| settle_time(&self.context));
                        // A server that flushes all the time is caught in the middle now and then, and never twice in the
                        // same state. A file that grew out of all proportion is no such moment.
                        let same = |before: &Suspicion| {
                            before.code == code
                                && (before.stamps == stamps || code == Code::SegmentBloated)
                        };
                        let before = known.suspicion.filter(same).unwrap_or(Suspicion {
                            code,
                            stamps,
                            since: clock::ticks(),
                            runs: self.deep_runs,
                        });
                        if before.since.elapsed() >= settle && self.deep_runs > before.runs {
                            known.suspicion = None;
                        } else {
                            known.suspicion = Some(before);
                            verdict = Verdict { state: State::Flushing, finding: None, loss: None };
                            unsure = true;
                        }
                    }
                }
                // The files changed, and what was wrong in them was not looked for again yet.
                None if deep.is_none_or(|deep| deep.walked.is_none()) => {
                    // But for lost vectors, of which more is known by now.
                    let over = |code| known.lost.is_some() && code == Code::RecordsWithoutVector;
                    let stays = |finding: &Finding| !known.by_look && !over(finding.code);
                    let said = known.said.take();
                    let said = said.filter(|said| said.finding.as_ref().is_some_and(stays));
                    verdict = said.unwrap_or(verdict);
                }
                None => known.suspicion = None,
            }
            // Of files that Chroma writes anew all the time this is all that is known.
            if let Some(lost) = known.lost.as_ref().filter(|lost| lost.missing > 0)
                && deep.is_none_or(|deep| deep.walked.is_none())
                && verdict.finding.is_none()
            {
                verdict = judge_lost(lost, row.as_ref(), &name);
            }
            if let Some(finding) = &verdict.finding {
                let shallow = judge(Case { deep: None, ..case }, &name).finding;
                known.by_look = shallow.is_some_and(|shallow| shallow.code == finding.code);
            }
            if known.suspicion.is_none()
                && let Some(compared) = deep.and_then(|deep| deep.compared.as_deref())
            {
                let (least, most, _) = compared.lost(replay);
                known.without_vector = Some(most).filter(|_| least == most);
            }
            *states.entry(verdict.state).or_insert(0) += 1;
            findings.extend(verdict.finding.iter().chain(&verdict.loss).cloned());
            // In an index that is damaged it says nothing of its own.
            let reach = known.reach.filter(|_| verdict.finding.is_none() && folder.is_some());
            findings.extend(reach.and_then(|reach| reach.finding(&name)));
            if verdict.finding.is_some() || known.suspicion.is_none() {
                let before = known.said.as_ref().and_then(|said| said.finding.as_ref());
                self.news |= before != verdict.finding.as_ref();
                known.said = Some(verdict);
            }
        }
        (states, findings, unsure)
    }

    /// What Chroma reads of the queue when it finds no index to load.
    pub(super) fn replay(&mut self, subjects: &[(Uuid, Option<Row>)], now: Timestamp) -> Replay {
        let Some(catalogue) = &self.catalogue else { return Replay::Either };
        match catalogue.family {
            Some(Family::Oldest | Family::Rust | Family::Unknown) => return Replay::Whole,
            Some(Family::Python) | None => {}
        }
        // It is asked of the processes, and only where it makes a difference.
        let differs = |(uuid, row): &(Uuid, Option<Row>)| {
            let anew = |known: &Known| {
                let compared = known.compared.as_deref();
                compared.and_then(|compared| compared.anew.as_ref()).is_some()
            };
            row.as_ref().is_some_and(|row| row.position.is_some())
                && self.known.get(uuid).is_some_and(anew)
        };
        if !subjects.iter().any(differs) {
            return Replay::Either;
        }
        let file = catalogue.stamp.id;
        match self.server.release(&self.context, file, now).as_deref().and_then(parse_release) {
            Some(release) if release >= FIRST_OF_RUST => Replay::Whole,
            Some(_) => Replay::Behind,
            None => Replay::Either,
        }
    }

    /// Whether the database is that of another store: then its folders are not here, and others are.
    pub(super) fn tell_exchange(&self, findings: &mut [Finding], orphans: Option<&Orphans>) {
        let (Some(catalogue), Some(directory), Some(orphans)) =
            (&self.catalogue, &self.directory, orphans)
        else {
            return;
        };
        let unknown = orphans.count();
        let is_missing = |finding: &&mut Finding| finding.code == Code::SegmentMissing;
        let missing = findings.iter_mut().filter(is_missing).count();
        let lossy = findings.iter_mut().filter(is_missing).any(|f| f.severity > Severity::Info);
        let own = catalogue.segments.keys().any(|uuid| directory.folders.contains_key(uuid));
        if unknown == 0 || missing == 0 || (own || !lossy) && (missing < 2 || unknown < 2) {
            return;
        }
        let and = if own { "" } else { ", and none that it does" };
        for finding in findings.iter_mut().filter(is_missing) {
            let severity = finding.severity.max(Severity::Warning);
            let evidence = format!(
                "{}; {unknown} folders with an index are here that the database does not know{and}: chroma.sqlite3 was exchanged for that of another store, or the folders were",
                finding.evidence
            );
            let reported = Finding::new(finding.code, finding.subject.clone(), evidence)
                .with_items_of(&finding.items, finding.items_total);
            *finding = reported.with_severity(severity).with_remedy(EXCHANGED);
        }
    }
}

/// Time between the two readings that call something wrong.
pub(super) fn settle_time(context: &Context) -> Duration {
    let held = match context.database.stamp() {
        Ok(stamp) => context.held(stamp.id, PROCESSES_AGE_MAX).ok(),
        Err(_) => None,
    };
    match held {
        Some(Held::No) => SETTLE_ALONE,
        _ => SETTLE_BESIDE_WRITER,
    }
}

/// The first release whose positions do not matter without an index.
const EXCHANGED: Template = Template {
    words: "Stop Chroma and keep a copy of the directory. Put the chroma.sqlite3 back that belongs to these folders, or the folders that belong to it.",
    command: "",
    note: "Delete none of the folders, and do not run chroma vacuum.",
};
const FIRST_OF_RUST: Release = (1, 0, 0);

const SETTLE_ALONE: Duration = Duration::from_millis(150);
const SETTLE_BESIDE_WRITER: Duration = Duration::from_secs(2);
const PROCESSES_AGE_MAX: Duration = Duration::from_mins(1);
