//! The expensive look: when it is due, on a thread of its own, and what it gave.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::AtomicBool},
};

use parking_lot::Mutex;

use super::{
    CollectError, Hnsw, Run,
    deep::{self, Outcome, Task},
    directory::Part,
};
use crate::{
    clock::{self, Timestamp},
    config::CollectorName,
    host::job_queue::{NoPermit, Wanted},
};

/// An expensive look that works, or waits for its turn.
#[derive(Debug)]
pub(super) struct Job {
    /// What came of it; nothing when it panicked. Whoever works, or waits to, has the other reference.
    pub(super) given: Arc<Mutex<Option<Result<Outcome, CollectError>>>>,
    /// The change of the database that it sees.
    pub(super) about: Option<Timestamp>,
    pub(super) full: bool,
    pub(super) stop: Arc<AtomicBool>,
}

impl Hnsw {
    /// What an expensive look has to do now; `None` when nothing is due.
    pub(super) fn task(&mut self, run: &Run) -> Option<Task> {
        let subjects = self.subjects();
        let directory = self.directory.as_ref()?;
        let collect = &self.context.config.collect;
        let full = run.deep || self.full_due(run.now);
        let mut walk = BTreeSet::new();
        let (mut changed, mut urgent) = (false, false);
        let mut segments = Vec::new();
        for (uuid, row) in subjects {
            let folder = directory.folders.get(&uuid).cloned().unwrap_or_default();
            // What may not be looked at is no reason to look again.
            if folder.unreadable {
                continue;
            }
            let known = self.known.get(&uuid);
            let deep = known.and_then(|known| known.deep.as_ref());
            let same = deep.is_some_and(|deep| deep.stamps == folder.stamps());
            changed |= !same;
            let walked = same && deep.is_some_and(|deep| deep.walked.is_some());
            // Somebody waits for the answer: something looks wrong, or was and the files are others now.
            urgent |= known.is_some_and(|known| {
                let said = known.said.as_ref().is_some_and(|said| said.finding.is_some());
                known.suspicion.is_some() || said && !walked
            });
            if full || !walked && folder.quiet(run.now) {
                walk.insert(uuid);
            }
            segments.push((uuid, folder, row));
        }
        let content = self.catalogue.as_ref().map(|catalogue| catalogue.stamp.modified);
        let compared = self.compared.map(|(_, content)| content);
        let compare = content.is_some() && (full || changed || content != compared);
        if !run.deep && walk.is_empty() && !compare && !urgent {
            return None;
        }
        if !run.deep
            && let Some((ended, took)) = self.last_deep
        {
            // Also whoever has never heard anything of this store; an index that cannot be compared stays so.
            let urgent = urgent || self.compared.is_none() && self.deep_runs < FIRST_RUNS_MAX;
            let rest = if urgent { took * 4 } else { collect.contents_interval.max(took * DUTY) };
            if ended.elapsed() < rest {
                return None;
            }
        }
        let glance = self.context.glance;
        let metadata = segments.iter().filter_map(|(_, folder, _)| folder.file(Part::Metadata));
        let ids = metadata.fold(0, |sum: u64, file| sum.saturating_add(file.size_bytes));
        Some(Task {
            context: self.context.clone(),
            segments,
            walk,
            // A server that is to start waits for the walk, and not for a question about each of many records.
            compare: content.filter(|_| !glance || ids <= GLANCE_IDS_BYTES),
            full: full && !glance,
            gentle: !run.deep && !glance,
            now: run.now,
        })
    }

    /// Starts an expensive look when one is due, on a thread of its own.
    pub(super) fn start(&mut self, run: &Run) {
        if self.job.is_some() {
            return;
        }
        let Some(task) = self.task(run) else { return };
        let (context, device) = (task.context.clone(), deep::device(&task));
        let (about, full) = (task.compare, task.full);
        let given = Arc::new(Mutex::new(None));
        let stop = Arc::new(AtomicBool::new(false));
        let wanted = Wanted {
            name: "hnsw",
            size: deep::size(&task),
            device,
            store: &context.store.name,
            stop: &stop,
        };
        context.progress(CollectorName::Hnsw).start(deep::TASK);
        let (reported, stopped) = (Arc::clone(&given), Arc::clone(&stop));
        context.host.job_queue.begin(&wanted, move |permit| {
            let outcome = match permit {
                Ok(permit) => Ok(deep::run(&task, Some(&permit), &stopped)),
                Err(refused) => {
                    task.context.progress(CollectorName::Hnsw).end();
                    match refused {
                        NoPermit::Stopped => return,
                        NoPermit::NoThread(source) => {
                            let what = "the walk over the indexes";
                            Err(CollectError::NoThread { what, source })
                        }
                    }
                }
            };
            *reported.lock() = Some(outcome);
        });
        self.job = Some(Job { given, about, full, stop });
    }

    /// Takes in what a finished job gave.
    pub(super) fn reap(&mut self) {
        let Some(job) = self.job.take_if(|job| Arc::strong_count(&job.given) == 1) else { return };
        let given = job.given.lock().take();
        match given {
            Some(Ok(outcome)) => self.take_in(job.about, job.full, outcome),
            Some(Err(problem)) => self.problems = vec![Arc::new(problem)],
            None => {
                self.problems =
                    vec![Arc::new(CollectError::Panicked("the walk over the indexes".to_owned()))];
            }
        }
    }

    /// Takes in an expensive look; `about` is the change of the database that it saw.
    pub(super) fn take_in(&mut self, about: Option<Timestamp>, full: bool, mut outcome: Outcome) {
        self.deep_runs += 1;
        self.news = true;
        if full && outcome.complete {
            self.last_full = Some(outcome.began);
        }
        self.last_deep = Some((clock::ticks(), outcome.duration));
        self.problems = outcome.problems.drain(..).map(Arc::new).collect();
        for (uuid, mut deep) in outcome.segments {
            let known = self.known.entry(uuid).or_default();
            known.unread = None;
            if let Some(walked) = &deep.walked {
                known.walked = Some((outcome.began, walked.deleted));
            }
            if let Some(compared) = &deep.compared {
                known.compared = Some(Arc::clone(compared));
                known.lost.take_if(|_| deep.walked.is_some());
            }
            // What was found of the same files before still stands.
            if let Some(before) = known.deep.take().filter(|before| before.stamps == deep.stamps) {
                deep.walked = deep.walked.or(before.walked);
                deep.compared = deep.compared.or(before.compared);
            }
            known.deep = Some(deep);
        }
        for (uuid, reach) in outcome.reach {
            self.known.entry(uuid).or_default().reach = Some(reach);
        }
        for (uuid, stamps) in outcome.unread {
            self.known.entry(uuid).or_default().unread = Some(stamps);
        }
        for (uuid, lost) in outcome.lost {
            let known = self.known.entry(uuid).or_default();
            known.without_vector = Some(lost.missing);
            known.lost = Some(lost);
        }
        if outcome.compared
            && let Some(about) = about
        {
            self.compared = Some((outcome.began, about));
        }
    }
}

/// Walks take at most one part in this of the time.
const DUTY: u32 = 50;

/// Expensive looks after which a first comparison is no longer hurried.
const FIRST_RUNS_MAX: u64 = 5;

/// The ids of some 5,000 records.
const GLANCE_IDS_BYTES: u64 = 256 << 10;
