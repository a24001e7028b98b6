//! Whether the indexes of the collections are whole and hold what the database says. Chroma's loader checks almost nothing:
//! a damaged index ends the server with SIGSEGV or loses vectors without any error, while every count is right.
//!
//! Each turn looks at names, lengths and headers. The full walk over files that changed, and the comparison of ids with the
//! tables, run on a thread of their own. What looks wrong is said when a second reading says the same: Chroma writes the
//! header first, the metadata last, and nothing with fsync, so that a flush looks torn for a moment.

mod catalogue;
mod deep;
mod judge;
mod look;
mod memory;
mod moving;
mod orphans;
mod reach;
mod records;
mod samples;
mod vectors;
mod walk;

pub use deep::walk_once;
pub(super) use samples::DESCS;
pub(crate) use vectors::Vectors;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;

use self::{
    catalogue::{Catalogue, Row, told_elsewhere, told_nowhere},
    deep::{Outcome, Task},
    judge::{Case, Deep, State, Verdict, judge, judge_lost},
    look::{FileLook, Folder, Look},
    memory::Memory,
    moving::Lost,
    orphans::Orphans,
    reach::Reach,
    records::{Compared, Replay},
};
use super::{
    CollectError, Collector, Pace, Turn,
    contents::release::Server,
    rhythm::{self, Rhythm},
};
use crate::{
    clock::{self, Ticks, Timestamp},
    config::{CollectorName, Config, Store},
    facts::wake::Wake,
    findings::{Code, Finding, Severity, Template},
    format::{
        schema::{Family, Release, parse_release},
        uuid::{Uuid, uuid_text},
    },
    host::{
        processes::Held,
        turns::{NoTurn, Wanted},
    },
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
    unread: Option<[Option<FileLook>; 5]>,
    /// What was said last.
    said: Option<Verdict>,
    /// Whether lengths and headers alone told it, so that they can end it as well.
    by_look: bool,
}

/// What looked wrong, in which state of the files, since when, and after how many dear looks.
#[derive(Debug, Clone, Copy)]
struct Suspicion {
    code: Code,
    stamps: [Option<FileLook>; 5],
    since: Ticks,
    runs: u64,
}

/// A dear look that works, or waits for its turn.
#[derive(Debug)]
struct Job {
    /// What came of it; nothing when it panicked. Whoever works, or waits to, has the other reference.
    given: Arc<Mutex<Option<Result<Outcome, CollectError>>>>,
    /// The change of the database that it sees.
    about: Option<Timestamp>,
    full: bool,
    stop: Arc<AtomicBool>,
}

/// The collector.
#[derive(Debug)]
pub struct Hnsw {
    context: Context,
    look: Option<Look>,
    catalogue: Option<Catalogue>,
    catalogue_tried: Option<Ticks>,
    server: Server,
    known: BTreeMap<Uuid, Known>,
    /// Folders that an answer of the database as it was then did not know.
    orphaned: Option<BTreeSet<Uuid>>,
    job: Option<Job>,
    /// Dear looks so far; when the newest ended, and how long it took.
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
            look: None,
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
        if let Some(memory) = self.context.host.state.load::<Memory>(STATE_KIND, path) {
            (self.last_full, self.compared) = (memory.last_full, memory.compared);
            self.known.extend(memory.known());
        }
    }

    /// Writes down what is new.
    fn remember(&mut self) {
        if std::mem::take(&mut self.news) {
            let memory = Memory::of(&self.known, self.last_full, self.compared);
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
        match (&self.catalogue, &self.look) {
            (Some(catalogue), _) => catalogue
                .segments
                .iter()
                .filter(|(_, row)| row.persisted)
                .map(|(uuid, row)| (*uuid, Some(row.clone())))
                .collect(),
            (None, Some(look)) => {
                let index = |folder: &Folder| {
                    folder.file(look::Part::Header).is_some() || folder.unreadable
                };
                let folders = look.folders.iter().filter(|(_, folder)| index(folder));
                folders.map(|(uuid, _)| (*uuid, None)).collect()
            }
            (None, None) => Vec::new(),
        }
    }

    /// Asks the database for its segments when it changed.
    fn read_catalogue(&mut self, turn: &Turn, force: bool) -> Option<CollectError> {
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
            let unknown = self.look.as_ref().is_some_and(|look| {
                look.folders.keys().any(|u| !catalogue.segments.contains_key(u) && !orphan(u))
            });
            if soon && !force && !unknown && catalogue.stamp.id == stamp.id {
                return None;
            }
        }
        self.catalogue_tried = Some(clock::ticks());
        match self.ask_catalogue(turn) {
            Ok(catalogue) => self.catalogue = Some(catalogue),
            Err(error) if told_elsewhere(&error) => {
                // The same file knows the same folders, but for the newest; another one may know none of them.
                let gone = matches!(error, QueryError::Other(_));
                self.catalogue.take_if(|catalogue| gone || catalogue.stamp.id != stamp.id);
                if self.is_single(turn) && told_nowhere(&error) {
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

    /// Whether no turn follows, to which something could be left.
    fn is_single(&self, turn: &Turn) -> bool {
        turn.deep || self.context.single_turn()
    }

    /// Asks again for a while beside a writer when no turn follows.
    fn ask_catalogue(&self, turn: &Turn) -> Result<Catalogue, QueryError> {
        let began = clock::ticks();
        let patience = match (turn.deep, self.is_single(turn)) {
            (true, _) => PATIENCE,
            (false, true) => PATIENCE_QUICK,
            (false, false) => Duration::ZERO,
        };
        loop {
            match Catalogue::read(&self.context, &self.limits(turn)) {
                Err(error)
                    if told_nowhere(&error) && !turn.stopped() && began.elapsed() < patience =>
                {
                    std::thread::sleep(AGAIN);
                }
                answer => return answer,
            }
        }
    }

    fn limits<'a>(&self, turn: &'a Turn) -> Limits<'a> {
        let (hold, stop) = (self.context.question_time(turn.deep), &*turn.stop);
        Limits { hold: HOLD_BESIDE_WRITER.min(hold), hold_unwaited: hold, stop, progress: None }
    }

    fn problem(&self, error: QueryError) -> CollectError {
        CollectError::of_query(error, self.context.database.path())
    }

    /// What a dear look has to do now; `None` when nothing is due.
    fn task(&mut self, turn: &Turn) -> Option<Task> {
        let subjects = self.subjects();
        let look = self.look.as_ref()?;
        let collect = &self.context.config.collect;
        let full = turn.deep || self.full_due(turn.now);
        let mut walk = BTreeSet::new();
        let (mut changed, mut urgent) = (false, false);
        let mut segments = Vec::new();
        for (uuid, row) in subjects {
            let folder = look.folders.get(&uuid).cloned().unwrap_or_default();
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
            if full || !walked && folder.quiet(turn.now) {
                walk.insert(uuid);
            }
            segments.push((uuid, folder, row));
        }
        let content = self.catalogue.as_ref().map(|catalogue| catalogue.stamp.modified);
        let compared = self.compared.map(|(_, content)| content);
        let compare = content.is_some() && (full || changed || content != compared);
        if !turn.deep && walk.is_empty() && !compare && !urgent {
            return None;
        }
        if !turn.deep
            && let Some((ended, took)) = self.last_deep
        {
            // Also whoever has never heard anything of this store; an index that cannot be compared stays so.
            let urgent = urgent || self.compared.is_none() && self.deep_runs < FIRST_RUNS_MAX;
            let rest = if urgent { took * 4 } else { collect.contents_interval.max(took * DUTY) };
            if ended.elapsed() < rest {
                return None;
            }
        }
        Some(Task {
            context: self.context.clone(),
            segments,
            walk,
            compare: content,
            full,
            gentle: !turn.deep,
            now: turn.now,
        })
    }

    /// Starts a dear look when one is due, on a thread of its own.
    fn start(&mut self, turn: &Turn) {
        if self.job.is_some() {
            return;
        }
        let Some(task) = self.task(turn) else { return };
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
        let (told, stopped) = (Arc::clone(&given), Arc::clone(&stop));
        context.host.turns.begin(&wanted, move |turn| {
            let outcome = match turn {
                Ok(turn) => Ok(deep::run(&task, Some(&turn), &stopped)),
                Err(refused) => {
                    task.context.progress(CollectorName::Hnsw).end();
                    match refused {
                        NoTurn::Stopped => return,
                        NoTurn::NoThread(source) => {
                            let what = "the walk over the indexes";
                            Err(CollectError::NoThread { what, source })
                        }
                    }
                }
            };
            *told.lock() = Some(outcome);
        });
        self.job = Some(Job { given, about, full, stop });
    }

    /// Takes in what a finished job gave.
    fn reap(&mut self) {
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

    /// Takes in a dear look; `about` is the change of the database that it saw.
    fn take_in(&mut self, about: Option<Timestamp>, full: bool, mut outcome: Outcome) {
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

    /// Judges every segment; what looks wrong for the first time is not said yet.
    fn judge(&mut self, now: Timestamp) -> (BTreeMap<State, u64>, Vec<Finding>, bool) {
        let mut states = BTreeMap::new();
        let mut findings = Vec::new();
        let mut unsure = false;
        let subjects = self.subjects();
        let replay = self.replay(&subjects, now);
        let Some(look) = &self.look else { return (states, findings, unsure) };
        self.known.retain(|uuid, _| subjects.iter().any(|(subject, _)| subject == uuid));
        let mut settle = None;
        for (uuid, row) in subjects {
            let folder = look.folders.get(&uuid);
            let known = self.known.entry(uuid).or_default();
            if folder.is_none() && !look.complete {
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
    fn replay(&mut self, subjects: &[(Uuid, Option<Row>)], now: Timestamp) -> Replay {
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
    fn tell_exchange(&self, findings: &mut [Finding], orphans: Option<&Orphans>) {
        let (Some(catalogue), Some(look), Some(orphans)) = (&self.catalogue, &self.look, orphans)
        else {
            return;
        };
        let unknown = orphans.count();
        let is_missing = |finding: &&mut Finding| finding.code == Code::SegmentMissing;
        let missing = findings.iter_mut().filter(is_missing).count();
        let lossy = findings.iter_mut().filter(is_missing).any(|f| f.severity > Severity::Info);
        let own = catalogue.segments.keys().any(|uuid| look.folders.contains_key(uuid));
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
            let told = Finding::new(finding.code, finding.subject.clone(), evidence)
                .with_items_of(&finding.items, finding.items_total);
            *finding = told.with_severity(severity).with_remedy(EXCHANGED);
        }
    }

    /// One look at everything; whether something looked wrong for the first time.
    fn once(&mut self, turn: &Turn, first: bool, out: &mut Observation) -> bool {
        let root = &self.context.place();
        let entries_max = self.context.config.limits.entries;
        let recent = self.look.as_ref().is_some_and(Look::recent) && turn.wake.is_empty();
        if turn.deep || !recent {
            match Look::take(root, entries_max, self.look.as_ref()) {
                Ok(look) => self.look = Some(look),
                Err(problem) => {
                    self.look = None;
                    out.problems.push(problem);
                    return false;
                }
            }
        }
        out.problems.extend(self.read_catalogue(turn, turn.deep));
        self.reap();
        if turn.deep {
            if let Some(task) = self.task(turn) {
                let outcome = deep::run(&task, None, &turn.stop);
                self.take_in(task.compare, task.full, outcome);
            }
        } else {
            self.start(turn);
            // Small indexes are walked over within a moment; then the first page has its verdict.
            let began = clock::ticks();
            while first && self.job.is_some() && began.elapsed() < SMALL_WAIT && !turn.stopped() {
                std::thread::sleep(SMALL_WAIT / 20);
                self.reap();
            }
        }
        let (states, findings, unsure) = self.judge(turn.now);
        let orphans = self.orphans();
        out.findings = findings;
        self.tell_exchange(&mut out.findings, orphans.as_ref());
        // While a collection lacks its folder, or its segment, a folder that nobody claims may be what it lacks: the finding
        // would say that nothing is wrong.
        let bereft = self.catalogue.as_ref().is_some_and(|catalogue| catalogue.bereft > 0)
            || out.findings.iter().any(|finding| finding.code == Code::SegmentMissing);
        out.findings.extend(orphans.as_ref().filter(|_| !bereft).and_then(Orphans::finding));
        out.samples = self.samples(&states, orphans.as_ref());
        unsure
    }

    /// A catalogue that is older than the database may not know the newest folder; what was an orphan before is one still.
    fn orphans(&mut self) -> Option<Orphans> {
        let (look, catalogue) = (self.look.as_ref()?, self.catalogue.as_ref()?);
        let fresh = self.context.database.stamp().is_ok_and(|stamp| stamp == catalogue.stamp);
        let mut folders: BTreeMap<&Uuid, &Folder> = look.folders.iter().collect();
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

    fn collect(&mut self, turn: &Turn) -> Observation {
        self.recall();
        let first = self.look.is_none();
        let mut looks = 0;
        loop {
            let mut out = Observation::default();
            let unsure = self.once(turn, first, &mut out);
            looks += 1;
            // A turn that others follow leaves the second reading to the next one.
            if !unsure || !first || looks >= LOOKS_MAX || turn.stopped() {
                self.remember();
                if unsure && self.is_single(turn) {
                    let what = "an index that seems wrong".to_owned();
                    out.problems.push(CollectError::Changing { what });
                }
                if self.context.single_turn() && !turn.deep && self.compared.is_none() {
                    out.left_out.push("the vectors of the records");
                }
                let looked = self.look.iter().flat_map(|look| &look.problems);
                let kept = self.problems.iter().chain(looked).cloned();
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

/// Time between the two readings that call something wrong.
fn settle_time(context: &Context) -> Duration {
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

/// A question beside a writer that waits is given up after this.
const HOLD_BESIDE_WRITER: Duration = Duration::from_millis(10);

const STATE_KIND: &str = "hnsw";
/// How long the tables are asked for beside a writer when no turn follows, and the time between two tries.
const PATIENCE: Duration = Duration::from_secs(10);
const PATIENCE_QUICK: Duration = Duration::from_secs(2);
const AGAIN: Duration = Duration::from_millis(100);
/// Clocks are disciplined by so much while nothing is wrong.
const CLOCK_SLACK: Duration = Duration::from_mins(1);

/// Time that the first turn gives the walk over small indexes to end within it.
const SMALL_WAIT: Duration = Duration::from_millis(200);

/// Walks take at most one part in this of the time.
const DUTY: u32 = 50;

/// Dear looks after which a first comparison is no longer hurried.
const FIRST_RUNS_MAX: u64 = 5;

const SETTLE_ALONE: Duration = Duration::from_millis(150);
const SETTLE_BESIDE_WRITER: Duration = Duration::from_secs(2);
const PROCESSES_AGE_MAX: Duration = Duration::from_mins(1);

/// Looks of a first turn, which nothing follows in `check`.
const LOOKS_MAX: u32 = 4;

#[cfg(test)]
mod tests;
