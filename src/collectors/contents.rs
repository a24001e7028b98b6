//! What the tables hold, and what in them contradicts itself: collections and their segments, the queue and how far the
//! segments are behind it, the two copies of each document, which Chroma would open the directory.
//!
//! Asked of SQLite in short read transactions, after a change and not more often than configured; between two looks the
//! page shows the last one, with its age. Tables that grow with the data are walked in slices, with the place kept between
//! runs; documents are compared on the schedule of the full check, and in `check`.

mod ask;
mod catalogue;
mod position;
mod queue;
mod records;
pub(super) mod release;
mod series;
mod still;
mod tables;
mod tally;

pub(super) use series::DESCS;

use std::{collections::BTreeMap, time::Duration};

use self::{
    ask::Asker,
    catalogue::Catalogue,
    queue::{Queue, Scan, Unread},
    records::Walk,
    series::AGE,
    still::{Still, judge_still},
    tables::Facts,
};
use super::{CollectError, Collector, Pace, Run};
use crate::{
    clock::{self, Ticks, Timestamp},
    config::{CollectorName, Config, Store},
    facts::wake::Wake,
    findings::{Code, Finding},
    format::{
        schema,
        sqlite::{HEADER_LEN, SqliteHeader},
    },
    human,
    sample::{Desc, Observation, Sample},
    store::{
        Context, DATABASE_FILE,
        database::{Abort, QueryError, Stamp},
    },
};

/// Those that a look judges, then those that need a whole queue, then those that need all records.
static CODES: [Code; 17] = [
    Code::SchemaNewerThanServer,
    Code::FreePagesHigh,
    Code::CollectionConfigInvalid,
    Code::CollectionWithoutSegments,
    Code::FtsLostAtUpgrade,
    Code::SchemaNewerThanExporter,
    Code::CollectionDimensionMismatch,
    Code::SeqIdInvalid,
    Code::SeqIdMissing,
    Code::QueuePoisoned,
    Code::QueueBacklog,
    Code::QueueNotPurged,
    Code::IndexLag,
    Code::OrphanRows,
    Code::FtsOutOfStep,
    Code::FtsCutAtNul,
    Code::SqliteValueMismatch,
];
const CODES_OF_READING: usize = 6;
const CODES_OF_QUEUE: usize = 13;

/// The collector.
#[derive(Debug)]
pub struct Contents {
    context: Context,
    server: release::Server,
    /// The release that serves the directory, or would.
    release: Option<String>,
    facts: Facts,
    catalogue: Option<Catalogue>,
    /// What was found wrong with the catalogue, by two readings.
    faults: Vec<Finding>,
    /// When the facts were true, and the state of the file that they are about.
    last_read: Option<(Timestamp, Stamp)>,
    /// Whether a question of the last look took too long: it is asked again, although the file is the same.
    partial: bool,
    tried: Option<Timestamp>,
    /// When it was first tried.
    first_try: Option<Timestamp>,
    scan: Option<Scan>,
    queue: Option<Queue>,
    still: BTreeMap<String, Still>,
    lagging: Vec<Finding>,
    walk: Option<Walk>,
    saved: Option<Timestamp>,
    /// Why the last try gave no answer, or not all of it.
    unread: Option<QueryError>,
}

impl Contents {
    /// Looks at nothing yet.
    #[must_use]
    pub fn new(context: &Context) -> Self {
        Self {
            context: context.clone(),
            server: release::Server::default(),
            release: None,
            facts: Facts::default(),
            catalogue: None,
            faults: Vec::new(),
            last_read: None,
            partial: false,
            tried: None,
            first_try: None,
            scan: None,
            queue: None,
            still: BTreeMap::new(),
            lagging: Vec::new(),
            walk: None,
            saved: None,
            unread: None,
        }
    }

    /// Does what is due: a look when the file changed and the last try is long enough ago, the rest of a walk.
    /// Errs when the database cannot be opened, or SQLite does.
    fn work(&mut self, run: &Run) -> Result<(), QueryError> {
        let stamp = self.context.database.stamp().map_err(QueryError::File)?;
        let context = self.context.clone();
        let collect = &context.config.collect;
        let mut walk = self.walk.take().unwrap_or_else(|| self.load_walk());
        walk.about(stamp.id);
        if run.deep {
            walk.start_over();
        }
        // A server that is to start waits for no walk over all records.
        let walk_due =
            run.deep || !context.glance && walk.due(run.now, collect.full_check_interval);
        self.walk = Some(walk);
        let is_full_read_due = self.is_full_read_due(run, stamp);
        if !is_full_read_due && self.scan.is_none() && !(walk_due && self.catalogue.is_some()) {
            return Ok(());
        }
        let budget = if run.deep { collect.check_deadline } else { RUN_BUDGET };
        let mut connection = context.database.connect()?;
        let time = context.question_time(run.deep);
        let mut asker = Asker::new(&mut connection, run, time);
        if is_full_read_due {
            self.tried = Some(run.now);
            asker.slices_for(budget);
            self.facts.free = self.free()?;
            self.read(&mut asker, stamp, run.now, budget)?;
        }
        asker.slices_for(budget);
        self.scan_queue(&mut asker, run.now)?;
        if is_full_read_due {
            self.partial = asker.gave_up();
        }
        if walk_due {
            asker.slices_for(budget);
            self.walk_records(&mut asker, run.now)?;
        }
        Ok(())
    }

    fn is_full_read_due(&mut self, run: &Run, stamp: Stamp) -> bool {
        if let Some((at, about)) = &mut self.last_read
            && *about == stamp
            && !self.partial
            && !run.deep
        {
            *at = run.now;
            return false;
        }
        let pause = self.context.config.collect.contents_interval;
        // A try in the future means that the clock stepped back. A file that could not be read is tried in every run.
        let soon = self.tried.is_some_and(|at| at <= run.now && run.now.since(at) < pause);
        !soon || self.last_read.is_none() || run.deep
    }

    /// Catalogue and small questions, `budget` for each reading. What took too long stays as it was. Errs when SQLite does.
    fn read(
        &mut self,
        asker: &mut Asker<'_, '_>,
        stamp: Stamp,
        now: Timestamp,
        budget: Duration,
    ) -> Result<(), QueryError> {
        let Some(mut catalogue) = Catalogue::read(asker)? else { return Ok(()) };
        let mut faults = catalogue.findings();
        if !faults.is_empty() {
            // A collection that is being made looks like one that lacks something.
            super::pause(CONFIRM_PAUSE);
            // The pause is none of the reading's time: it would use up all of it, and nothing would ever be said.
            asker.slices_for(budget);
            let Some(again) = Catalogue::read(asker)? else { return Ok(()) };
            let before = std::mem::replace(&mut faults, again.findings());
            faults.retain(|finding| before.contains(finding));
            catalogue = again;
        }
        self.facts.read(asker, &catalogue)?;
        faults.extend(self.facts.key_taken(catalogue.family));
        faults.extend(self.facts.upgrade_trap());
        self.faults = faults;
        if self.scan.is_none() {
            self.scan = Scan::begin(asker, &catalogue, &self.context.place())?;
        }
        self.catalogue = Some(catalogue);
        self.last_read = Some((now, stamp));
        Ok(())
    }

    fn scan_queue(&mut self, asker: &mut Asker<'_, '_>, now: Timestamp) -> Result<(), QueryError> {
        let (Some(mut scan), Some(catalogue)) = (self.scan.take(), &self.catalogue) else {
            return Ok(());
        };
        if !scan.go_on(asker)? {
            self.scan = Some(scan);
            return Ok(());
        }
        let queue = scan.finish(catalogue, &self.context.place());
        self.lagging = judge_still(&mut self.still, now, &queue.segments);
        self.queue = Some(queue);
        Ok(())
    }

    fn walk_records(
        &mut self,
        asker: &mut Asker<'_, '_>,
        now: Timestamp,
    ) -> Result<(), QueryError> {
        let (Some(walk), Some(catalogue)) = (&mut self.walk, &self.catalogue) else {
            return Ok(());
        };
        let ended = walk.go_on(asker, catalogue, now);
        let old = self.saved.is_none_or(|at| at > now || now.since(at) >= SAVE_EVERY);
        if old || matches!(ended, Ok(true)) {
            self.saved = Some(now);
            self.context.host.state.save(STATE_KIND, &self.context.store.subject(), walk);
        }
        ended.map(|_| ())
    }

    fn load_walk(&self) -> Walk {
        self.context.host.state.load(STATE_KIND, &self.context.store.subject()).unwrap_or_default()
    }

    /// From the header alone; no lock. A header that cannot be read is the business of `integrity`. Errs when the file cannot be read.
    fn free(&self) -> Result<Option<(u32, u64, u64)>, QueryError> {
        let mut head = [0; HEADER_LEN];
        let plain = self.context.database.open_plain().map_err(QueryError::File)?;
        let read = plain.read_up_to(&mut head, 0).map_err(QueryError::File)?;
        let header = head.get(..read).and_then(|head| SqliteHeader::parse(head).ok());
        Ok(header.and_then(|header| {
            Some((header.freelist_pages, header.free_bytes(), header.stated_bytes()?))
        }))
    }

    /// Tries again for a while beside a writer when this is the only run that there will be. Errs when the last try did.
    fn work_patiently(&mut self, run: &Run) -> Result<(), QueryError> {
        let began = clock::ticks();
        loop {
            match self.work(run) {
                Err(
                    QueryError::Busy
                    | QueryError::Replaced
                    | QueryError::Aborted(Abort::WriterWaiting | Abort::Deadline(_)),
                ) if self.may_try_again(run, began) => std::thread::sleep(CONFIRM_PAUSE),
                Ok(()) if self.partial && self.may_try_again(run, began) => {
                    std::thread::sleep(CONFIRM_PAUSE);
                }
                answer => return answer,
            }
        }
    }

    fn may_try_again(&self, run: &Run, began: Ticks) -> bool {
        (run.deep || self.context.single_run())
            && !run.stopped()
            && began.elapsed() < if run.deep { PATIENCE } else { PATIENCE_QUICK }
    }

    /// What is not known although it was asked for. Beside a writer a running exporter asks again, and the last look stands
    /// with its age; for a while only.
    fn not_known(&self, run: &Run) -> Option<CollectError> {
        let single = run.deep || self.context.single_run();
        let old = self.last_read.is_none_or(|(at, _)| run.now.since(at) > STALE);
        let waits = self.first_try.is_some_and(|at| run.now.since(at) > STALE);
        let why = match &self.unread {
            // Told by `integrity`.
            Some(QueryError::HotJournal) => return None,
            Some(error @ QueryError::Aborted(_)) => error.chain(),
            Some(error) if single || old && waits => error.chain(),
            _ if self.partial => "a question took too long".to_owned(),
            _ => return None,
        };
        Some(CollectError::Tables { path: self.context.database.path().to_owned(), why })
    }

    fn samples(&self, now: Timestamp) -> Vec<Sample> {
        let Some((at, _)) = &self.last_read else { return Vec::new() };
        let mut out = vec![AGE.sample(now.since(*at).as_secs_f64())];
        out.extend(series::of_facts(&self.facts));
        out.extend(self.catalogue.iter().flat_map(series::of_catalogue));
        out.extend(self.queue.iter().flat_map(series::of_queue));
        out.extend(self.walk.iter().flat_map(series::of_walk));
        if let (Some(walk), Some(catalogue)) = (&self.walk, &self.catalogue) {
            let most = self.context.config.limits.collections;
            out.extend(series::of_collections(walk, catalogue, most));
        }
        out.extend(series::of_release(self.release.as_ref()));
        out
    }

    fn findings(&self) -> Vec<Finding> {
        let (Some(_), Some(catalogue)) = (&self.last_read, &self.catalogue) else {
            return Vec::new();
        };
        let mut out: Vec<Finding> = self.skew(catalogue).into_iter().collect();
        out.extend(catalogue.newer_than_known());
        out.extend(self.faults.iter().cloned());
        out.extend(self.facts.free.and_then(mostly_free));
        out.extend(self.queue.iter().flat_map(|queue| queue.findings.iter().cloned()));
        out.extend(self.lagging.iter().cloned());
        out.extend(self.walk.iter().flat_map(|walk| walk.findings(catalogue)));
        out
    }

    /// Whether the Chroma that would open the directory is too old for it. A release that is configured is judged by the
    /// schema check of `integrity`.
    fn skew(&self, catalogue: &Catalogue) -> Option<Finding> {
        let release = self.release.as_ref()?;
        let new = |subject, evidence| Finding::new(Code::SchemaNewerThanServer, subject, evidence);
        if let Some(evidence) = schema::skew(release, catalogue.counts) {
            let reported = self.context.store.chroma_version.is_some();
            return (!reported).then(|| new("migrations", evidence));
        }
        let lists = self.queue.as_ref().and_then(|queue| queue.lists.as_ref())?;
        Some(new("embeddings_queue", schema::lists_skew(release, lists)?))
    }

    /// Which releases open the store; `None` while nothing was read, or when no known one has all of its migrations.
    fn opened_by(&self) -> Option<String> {
        let (Some(_), Some(catalogue)) = (&self.last_read, &self.catalogue) else { return None };
        let made = catalogue.counts.iter().all(|count| *count > 0);
        made.then(|| schema::opened_by(catalogue.counts)).flatten()
    }

    fn problem(&self, error: QueryError) -> CollectError {
        CollectError::of_query(error, self.context.database.path())
    }

    /// What a single run that is not to read everything had no time for.
    fn left_out(&self, run: &Run) -> Vec<&'static str> {
        let mut out = Vec::new();
        if self.context.single_run() && !run.deep && self.last_read.is_some() {
            if self.queue.is_none() {
                out.push("the queue");
            }
            if self.walk.as_ref().is_none_or(|walk| walk.done.is_none()) {
                out.push("the documents");
            }
        }
        out
    }

    /// What a deep run should have read and has not.
    fn unfinished(&self, run: &Run) -> Option<CollectError> {
        let whole = self.scan.is_none() && self.walk.as_ref().is_none_or(|walk| !walk.under_way());
        (run.deep && self.last_read.is_some() && !whole)
            .then_some(CollectError::Unfinished { what: "the queue and the documents" })
    }
}

/// Whether a vacuum would give back most of a file that is not small.
fn mostly_free((_, free, all): (u32, u64, u64)) -> Option<Finding> {
    // More than all is damage, which `integrity` tells.
    let most = free >= FREE_BYTES_MIN && free <= all && free as f64 >= FREE_RATIO_MIN * all as f64;
    let evidence = || {
        format!(
            "{} of {} are free pages, {}",
            human::bytes(free),
            human::bytes(all),
            human::ratio(free as f64 / all as f64)
        )
    };
    most.then(|| Finding::new(Code::FreePagesHigh, DATABASE_FILE, evidence()))
}

impl Contents {
    /// See [`super::at_rest`].
    pub(super) fn at_rest(Config { collect, .. }: &Config, _: &Store) -> Pace {
        Pace {
            interval: collect.interval,
            deadline: collect.deadline,
            wakes: Wake::RESCAN,
            touches_store: true,
        }
    }
}

impl Collector for Contents {
    fn name(&self) -> CollectorName {
        CollectorName::Contents
    }

    fn descs(&self) -> &'static [&'static Desc] {
        &DESCS
    }

    fn codes(&self) -> &'static [Code] {
        // What was not looked for yet is not known to be absent.
        if self.catalogue.is_none() {
            return &[];
        }
        let known = match (&self.queue, &self.walk) {
            (Some(_), Some(Walk { done: Some(_), .. })) => CODES.len(),
            (Some(_), _) => CODES_OF_QUEUE,
            (None, _) => CODES_OF_READING,
        };
        CODES.get(..known).unwrap_or(&CODES)
    }

    fn pace(&self) -> Pace {
        Self::at_rest(&self.context.config, &self.context.store)
    }

    fn collect(&mut self, run: &Run) -> Observation {
        let mut problems = Vec::new();
        self.first_try.get_or_insert(run.now);
        match self.work_patiently(run) {
            // Chroma was writing, or had just been killed: the last look stands, its age grows.
            Ok(()) => self.unread = None,
            Err(
                error @ (QueryError::Busy
                | QueryError::HotJournal
                | QueryError::Replaced
                | QueryError::Aborted(_)),
            ) => self.unread = Some(error),
            Err(error) => {
                self.unread = None;
                // Nothing that was read from this file before may pass for its present content.
                self.last_read = None;
                problems.push(self.problem(error));
            }
        }
        let unread = self.queue.as_ref().and_then(|queue| queue.unread.as_ref());
        problems.extend(unread.map(Unread::problem));
        problems.extend(self.not_known(run));
        problems.extend(self.unfinished(run));
        if let Some((_, stamp)) = &self.last_read {
            self.release = self.server.release(&self.context, stamp.id, run.now);
        }
        Observation {
            samples: self.samples(run.now),
            findings: self.findings(),
            problems,
            left_out: self.left_out(run),
            opened_by: self.opened_by(),
            ..Observation::default()
        }
    }
}

const STATE_KIND: &str = "records";
/// Time between two readings that must agree.
const CONFIRM_PAUSE: Duration = Duration::from_millis(250);
/// What one run spends on each walk.
const RUN_BUDGET: Duration = Duration::from_millis(250);
/// How long a single run waits for its moment beside a writer.
const PATIENCE: Duration = Duration::from_secs(10);
const PATIENCE_QUICK: Duration = Duration::from_secs(2);
/// A running exporter says that it could not look for so long.
const STALE: Duration = Duration::from_mins(10);
/// The place of a long walk is written down so often.
const SAVE_EVERY: Duration = Duration::from_mins(1);

/// Free pages are used again by the next writes; below this there is nothing to gain.
const FREE_BYTES_MIN: u64 = 64 << 20;
const FREE_RATIO_MIN: f64 = 0.5;

#[cfg(test)]
mod tests;
