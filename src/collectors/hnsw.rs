//! Whether the indexes of the collections are whole and hold what the database says. Chroma's loader checks almost nothing:
//! a damaged index ends the server with SIGSEGV or loses vectors without any error, while every count is right.
//!
//! Each run looks at names, lengths and headers. The full walk over files that changed, and the comparison of ids with the
//! tables, run on a thread of their own. What looks wrong is said when a second reading says the same: Chroma writes the
//! header first, the metadata last, and nothing with fsync, so that a flush looks torn for a moment.

mod catalogue;
mod deep;
mod directory;
mod held;
mod job;
mod judge;
mod memory;
mod moving;
mod orphans;
mod reach;
mod records;
mod samples;
mod state;
mod vectors;
mod verdicts;
mod walk;

pub use deep::walk_once;
pub(super) use samples::DESCS;
pub(crate) use vectors::Vectors;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use self::{
    catalogue::{Catalogue, Row, reported_elsewhere, reported_nowhere},
    directory::{Directory, FileStat, Folder},
    job::Job,
    judge::{Deep, Verdict},
    memory::SavedIndexes,
    moving::Lost,
    orphans::Orphans,
    reach::Reach,
    records::Compared,
    verdicts::{Suspicion, settle_time},
};
use super::{
    CollectError, Collector, Pace, Run,
    contents::release::Server,
    rhythm::{self, Rhythm},
};
use crate::{
    clock::{self, Ticks, Timestamp},
    config::{CollectorName, Config, Store},
    facts::wake::Wake,
    findings::Code,
    format::uuid::Uuid,
    sample::{Desc, Observation},
    store::{
        Context,
        database::{Limits, QueryError},
    },
};

static CODES: [Code; 13] = [
    Code::SegmentMissing,
    Code::SegmentIncomplete,
    Code::SegmentTruncated,
    Code::SegmentHeaderInvalid,
    Code::SegmentMetadataInvalid,
    Code::SegmentMetadataHostile,
    Code::SegmentInconsistent,
    Code::SegmentBloated,
    Code::SegmentBehind,
    Code::SegmentAhead,
    Code::RecordsWithoutVector,
    Code::RecordsUnreachable,
    Code::SegmentOrphan,
];

/// What is known of one segment beyond this turn.
#[derive(Debug, Default)]
struct Known {
    deep: Option<Deep>,
    /// When its files were last walked over, and how many of its elements were marked as deleted then.
    walked: Option<(Timestamp, u64)>,
    /// The newest comparison, of whatever state of the files.
    compared: Option<Arc<Compared>>,
    /// What the newest comparison found lost, when it is not about files that were walked over.
    lost: Option<Lost>,
    /// Records without a vector, as of the newest comparison that nothing spoke against.
    without_vector: Option<u64>,
    suspicion: Option<Suspicion>,
    /// What the newest searches gave, of whatever state of the files.
    reach: Option<Reach>,
    /// The state of the files in which one of them could not be read.
    unread: Option<[Option<FileStat>; 5]>,
    /// What was said last.
    said: Option<Verdict>,
    /// Whether lengths and headers alone told it, so that they can end it as well.
    by_look: bool,
}

/// The collector.
#[derive(Debug)]
pub struct Hnsw {
    context: Context,
    directory: Option<Directory>,
    catalogue: Option<Catalogue>,
    catalogue_tried: Option<Ticks>,
    server: Server,
    known: BTreeMap<Uuid, Known>,
    /// Folders that an answer of the database as it was then did not know.
    orphaned: Option<BTreeSet<Uuid>>,
    job: Option<Job>,
    /// Expensive looks so far; when the newest ended, and how long it took.
    deep_runs: u64,
    last_deep: Option<(Ticks, Duration)>,
    /// When all records were last compared, and the change of the database that this was about.
    compared: Option<(Timestamp, Timestamp)>,
    /// When every file was last walked over.
    last_full: Option<Timestamp>,
    /// Where the store stands among all.
    spread: u64,
    /// Whether runs before this one were asked what they knew, and whether something is new since it was written down.
    recalled: bool,
    news: bool,
    problems: Vec<Arc<CollectError>>,
}

impl Hnsw {
    /// Looks at nothing yet.
    #[must_use]
    pub fn new(context: &Context) -> Self {
        Self {
            context: context.clone(),
            directory: None,
            catalogue: None,
            catalogue_tried: None,
            server: Server::default(),
            known: BTreeMap::new(),
            orphaned: None,
            job: None,
            deep_runs: 0,
            last_deep: None,
            compared: None,
            last_full: None,
            spread: rhythm::spread(
                rustix::system::uname().nodename().to_bytes(),
                &context.store.path,
            ),
            recalled: false,
            news: false,
            problems: Vec::new(),
        }
    }

    /// What runs before this program knew, once.
    fn recall(&mut self) {
        if std::mem::replace(&mut self.recalled, true) {
            return;
        }
        let path = &self.context.store.path;
        if let Some(memory) = self.context.host.state.load::<SavedIndexes>(STATE_KIND, path) {
            (self.last_full, self.compared) = (memory.last_full, memory.compared);
            self.known.extend(memory.known());
        }
    }

    /// Writes down what is new.
    fn remember(&mut self) {
        if std::mem::take(&mut self.news) {
            let memory = SavedIndexes::of(&self.known, self.last_full, self.compared);
            self.context.host.state.save(STATE_KIND, &self.context.store.subject(), &memory);
        }
    }

    /// Whether every file is to be walked over again.
    fn full_due(&self, now: Timestamp) -> bool {
        let Some(last) = self.last_full else { return true };
        let collect = &self.context.config.collect;
        let rhythm = Rhythm { spread: self.spread, window: collect.check_window.as_ref() };
        // Noted by a clock that has been set back since: how long ago it was is not known.
        let future = last > now.plus(CLOCK_SLACK);
        future || rhythm.admit(rhythm.next(last, collect.full_check_interval), now) <= now
    }

    /// The rows to be judged: those of the database, or all folders when it cannot be asked.
    fn subjects(&self) -> Vec<(Uuid, Option<Row>)> {
        match (&self.catalogue, &self.directory) {
            (Some(catalogue), _) => catalogue
                .segments
                .iter()
                .filter(|(_, row)| row.persisted)
                .map(|(uuid, row)| (*uuid, Some(row.clone())))
                .collect(),
            (None, Some(directory)) => {
                let index = |folder: &Folder| {
                    folder.file(directory::Part::Header).is_some() || folder.unreadable
                };
                let folders = directory.folders.iter().filter(|(_, folder)| index(folder));
                folders.map(|(uuid, _)| (*uuid, None)).collect()
            }
            (None, None) => Vec::new(),
        }
    }

    /// Asks the database for its segments when it changed.
    fn read_catalogue(&mut self, run: &Run, force: bool) -> Option<CollectError> {
        let stamp = match self.context.database.stamp() {
            Ok(stamp) => stamp,
            Err(error) => {
                self.catalogue = None;
                return Some(self.problem(QueryError::File(error)));
            }
        };
        if let Some(catalogue) = &self.catalogue {
            if catalogue.stamp == stamp {
                return None;
            }
            let pause = self.context.config.collect.contents_interval;
            let soon = self.catalogue_tried.is_some_and(|at| at.elapsed() < pause);
            let orphan =
                |uuid: &Uuid| self.orphaned.as_ref().is_some_and(|known| known.contains(uuid));
            let unknown = self.directory.as_ref().is_some_and(|directory| {
                directory.folders.keys().any(|u| !catalogue.segments.contains_key(u) && !orphan(u))
            });
            if soon && !force && !unknown && catalogue.stamp.id == stamp.id {
                return None;
            }
        }
        self.catalogue_tried = Some(clock::ticks());
        match self.ask_catalogue(run) {
            Ok(catalogue) => self.catalogue = Some(catalogue),
            Err(error) if reported_elsewhere(&error) => {
                // The same file knows the same folders, but for the newest; another one may know none of them.
                let gone = matches!(error, QueryError::Other(_));
                self.catalogue.take_if(|catalogue| gone || catalogue.stamp.id != stamp.id);
                if self.is_single(run) && reported_nowhere(&error) {
                    return Some(self.problem(error));
                }
            }
            Err(error) => {
                self.catalogue = None;
                return Some(self.problem(error));
            }
        }
        None
    }

    /// Whether no run follows, to which something could be left.
    fn is_single(&self, run: &Run) -> bool {
        run.deep || self.context.single_run()
    }

    /// Asks again for a while beside a writer when no run follows. Errs when the last try did.
    fn ask_catalogue(&self, run: &Run) -> Result<Catalogue, QueryError> {
        let began = clock::ticks();
        let patience = match (run.deep, self.is_single(run)) {
            (true, _) => PATIENCE,
            (false, true) => PATIENCE_QUICK,
            (false, false) => Duration::ZERO,
        };
        loop {
            match Catalogue::read(&self.context, &self.limits(run)) {
                Err(error)
                    if reported_nowhere(&error) && !run.stopped() && began.elapsed() < patience =>
                {
                    std::thread::sleep(AGAIN);
                }
                answer => return answer,
            }
        }
    }

    fn limits<'a>(&self, run: &'a Run) -> Limits<'a> {
        let (hold, stop) = (self.context.question_time(run.deep), &*run.stop);
        Limits { hold: HOLD_BESIDE_WRITER.min(hold), hold_unwaited: hold, stop, progress: None }
    }

    fn problem(&self, error: QueryError) -> CollectError {
        CollectError::of_query(error, self.context.database.path())
    }

    /// One look at everything; whether something looked wrong for the first time.
    fn once(&mut self, run: &Run, first: bool, out: &mut Observation) -> bool {
        let root = &self.context.place();
        let entries_max = self.context.config.limits.entries;
        let recent = self.directory.as_ref().is_some_and(Directory::recent) && run.wake.is_empty();
        if run.deep || !recent {
            match Directory::take(root, entries_max, self.directory.as_ref()) {
                Ok(directory) => self.directory = Some(directory),
                Err(problem) => {
                    self.directory = None;
                    out.problems.push(problem);
                    return false;
                }
            }
        }
        out.problems.extend(self.read_catalogue(run, run.deep));
        self.reap();
        if run.deep {
            if let Some(task) = self.task(run) {
                let outcome = deep::run(&task, None, &run.stop);
                self.take_in(task.compare, task.full, outcome);
            }
        } else {
            self.start(run);
            // Small indexes are walked over within a moment; then the first page has its verdict.
            let began = clock::ticks();
            while first && self.job.is_some() && began.elapsed() < SMALL_WAIT && !run.stopped() {
                std::thread::sleep(SMALL_WAIT / 100);
                self.reap();
            }
        }
        let (states, findings, unsure) = self.judge(run.now);
        let orphans = self.orphans();
        out.findings = findings;
        self.tell_exchange(&mut out.findings, orphans.as_ref());
        // While a collection lacks its folder, or its segment, a folder that nobody claims may be what it lacks: the finding
        // would say that nothing is wrong.
        let without_vector_segment =
            self.catalogue.as_ref().is_some_and(|catalogue| catalogue.without_vector_segment > 0)
                || out.findings.iter().any(|finding| finding.code == Code::SegmentMissing);
        out.findings.extend(
            orphans.as_ref().filter(|_| !without_vector_segment).and_then(Orphans::finding),
        );
        out.samples = self.samples(&states, orphans.as_ref());
        unsure
    }

    /// A catalogue that is older than the database may not know the newest folder; what was an orphan before is one still.
    fn orphans(&mut self) -> Option<Orphans> {
        let (directory, catalogue) = (self.directory.as_ref()?, self.catalogue.as_ref()?);
        let fresh = self.context.database.stamp().is_ok_and(|stamp| stamp == catalogue.stamp);
        let mut folders: BTreeMap<&Uuid, &Folder> = directory.folders.iter().collect();
        folders.retain(|uuid, _| !catalogue.segments.contains_key(uuid));
        if folders.values().any(|folder| folder.unreadable) {
            return None; // whether it has an index nobody knows
        }
        if fresh {
            self.orphaned = Some(folders.keys().map(|uuid| **uuid).collect());
        } else if let Some(orphaned) = &self.orphaned {
            folders.retain(|uuid, _| orphaned.contains(uuid));
        }
        let sure = self.orphaned.is_some();
        Orphans::among(&self.context, folders.into_iter(), sure, catalogue.collections)
    }
}

impl Hnsw {
    /// See [`super::at_rest`].
    pub(super) fn at_rest(Config { collect, .. }: &Config, _: &Store) -> Pace {
        Pace {
            interval: collect.interval,
            deadline: collect.deadline,
            wakes: Wake::NAMES,
            touches_store: true,
        }
    }
}

impl Collector for Hnsw {
    fn name(&self) -> CollectorName {
        CollectorName::Hnsw
    }

    fn descs(&self) -> &'static [&'static Desc] {
        &DESCS
    }

    fn codes(&self) -> &'static [Code] {
        &CODES
    }

    fn pace(&self) -> Pace {
        Self::at_rest(&self.context.config, &self.context.store)
    }

    fn collect(&mut self, run: &Run) -> Observation {
        self.recall();
        let first = self.directory.is_none();
        let mut readings = 0;
        loop {
            let mut out = Observation::default();
            let unsure = self.once(run, first, &mut out);
            readings += 1;
            // A run that others follow leaves the second reading to the next one.
            if !unsure || !first || readings >= READINGS_MAX || run.stopped() {
                self.remember();
                if unsure && self.is_single(run) {
                    let what = "an index that seems wrong".to_owned();
                    out.problems.push(CollectError::Changing { what });
                }
                if self.context.single_run() && !run.deep && self.compared.is_none() {
                    out.left_out.push("the vectors of the records");
                }
                if self.context.single_run() && self.job.is_some() {
                    out.left_out.push(WALK);
                }
                let scanned = self.directory.iter().flat_map(|directory| &directory.problems);
                let kept = self.problems.iter().chain(scanned).cloned();
                out.problems.extend(kept.map(CollectError::Kept));
                return out;
            }
            super::pause(settle_time(&self.context));
        }
    }
}

impl Drop for Hnsw {
    fn drop(&mut self) {
        if let Some(job) = &self.job {
            job.stop.store(true, Ordering::Relaxed);
        }
    }
}

/// A question beside a writer that waits is given up after this.
const HOLD_BESIDE_WRITER: Duration = Duration::from_millis(10);

const STATE_KIND: &str = "hnsw";
/// How long the tables are asked for beside a writer when no run follows, and the time between two tries.
const PATIENCE: Duration = Duration::from_secs(10);
const PATIENCE_QUICK: Duration = Duration::from_secs(2);
const AGAIN: Duration = Duration::from_millis(100);
/// Clocks are disciplined by so much while nothing is wrong.
const CLOCK_SLACK: Duration = Duration::from_mins(1);

/// What a single run leaves out when it did not come to the end of the files in time.
pub(crate) const WALK: &str = "the indexes, which are large";

/// Time that the first run gives the walk over small indexes to end within it.
const SMALL_WAIT: Duration = Duration::from_millis(200);

/// Looks of a first run, which nothing follows in `check`.
const READINGS_MAX: u32 = 4;

#[cfg(test)]
mod tests;
