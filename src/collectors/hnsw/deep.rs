//! The expensive look: the full walk over folders that changed, and the comparison with the tables. It runs on a thread of its
//! own, one at a time for each store.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    catalogue::{Row, reported_elsewhere, reported_nowhere},
    directory::{Directory, FileStat, Folder, Part},
    held::{self, Unknown},
    judge::{Case, Deep, judge},
    moving::{Lost, Moving, Unsettled},
    reach::{Reach, reach},
    records::{self, Asker, Comparison, Held, Queue, Replay},
    walk::{self, MetadataState, ReadMode, Refused, Walked, quietly},
};
use crate::{
    clock::{self, Timestamp},
    collectors::CollectError,
    config::CollectorName,
    findings::Finding,
    format::uuid::Uuid,
    host::{
        job_queue::{Permit, Size},
        links::Place,
    },
    progress::{Phase, Progress},
    store::{
        Context,
        database::{Limits, QueryError},
    },
};

/// What is to be looked at.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) context: Context,
    /// Folders with the row of their segment. One without a row is only walked over.
    pub(super) segments: Vec<(Uuid, Folder, Option<Row>)>,
    /// Those whose files are to be walked over.
    pub(super) walk: BTreeSet<Uuid>,
    /// Whether the tables are to be compared: the last change of the database that is known.
    pub(super) compare: Option<Timestamp>,
    /// Everything is walked over, not only what changed.
    pub(super) full: bool,
    pub(super) gentle: bool,
    pub(super) now: Timestamp,
}

/// What it gave in all.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) segments: BTreeMap<Uuid, Deep>,
    /// What is known of those whose files changed meanwhile, or were not walked over.
    pub(super) lost: BTreeMap<Uuid, Lost>,
    /// How well searches find what is in those that were searched.
    pub(super) reach: BTreeMap<Uuid, Reach>,
    /// Those of which a file may not be read, and in which state that was so.
    pub(super) unread: BTreeMap<Uuid, [Option<FileStat>; 5]>,
    pub(super) problems: Vec<CollectError>,
    pub(super) duration: Duration,
    pub(super) began: Timestamp,
    /// Whether the tables of every segment were compared.
    pub(super) compared: bool,
    /// Whether it came to the last segment.
    pub(super) complete: bool,
}

/// How much the task reads: two large readings at once on one disk would only slow each other down.
pub(super) fn size(task: &Task) -> Size {
    let large = task.gentle && walked_bytes(task) >= EXPENSIVE_BYTES;
    if large { Size::Large } else { Size::Small }
}

/// Does the task, or as much of it as is wanted before `stop`. Nobody waits for one without a permit.
pub(super) fn run(task: &Task, permit: Option<&Permit>, stop: &AtomicBool) -> Outcome {
    let began = clock::ticks();
    let mut outcome = Outcome {
        segments: BTreeMap::new(),
        lost: BTreeMap::new(),
        reach: BTreeMap::new(),
        unread: BTreeMap::new(),
        problems: Vec::new(),
        duration: Duration::ZERO,
        began: task.now,
        compared: task.compare.is_some(),
        complete: true,
    };
    let bytes = walked_bytes(task);
    let progress = task.context.progress(CollectorName::Hnsw);
    progress.start(TASK);
    let (job_queue, store) = (&task.context.host.job_queue, &task.context.store.name);
    let pacer = permit.and_then(Permit::pacer);
    if pacer.is_some() && job_queue.used_up(store) {
        outcome.used_up(job_queue.day_max());
        progress.end();
        return outcome;
    }
    progress.paced_by(pacer);
    progress.begin(Phase::Checking, bytes);
    let mode = ReadMode { stop, gentle: task.gentle, progress };
    let positions = if task.compare.is_some() { positions(task, mode) } else { BTreeMap::new() };
    let statement = task.context.question_time(!task.gentle);
    let limits =
        Limits { hold: HOLD.min(statement), hold_unwaited: statement, stop, progress: None };
    let mut tables = None;
    if task.compare.is_some() {
        match open(task, limits, &positions) {
            Ok(opened) => tables = Some(opened),
            Err(error) => outcome.refused(task, error),
        }
    }
    for (uuid, folder, row) in &task.segments {
        if stop.load(Ordering::Relaxed) || progress.is_used_up() {
            (outcome.compared, outcome.complete) = (false, false);
            break;
        }
        match segment(task, *uuid, folder, row.as_ref(), mode, tables.as_mut(), &positions) {
            Ok((found, error)) => {
                if let Some(error) = error {
                    outcome.refused(task, error);
                    tables = None;
                }
                outcome.segments.extend(found.deep.map(|deep| (*uuid, deep)));
                outcome.lost.extend(found.lost.map(|lost| (*uuid, lost)));
                outcome.reach.extend(found.reach.map(|reach| (*uuid, reach)));
            }
            // It comes again in a later run, if there is one.
            Err(Refused::Changed) => {
                outcome.compared = false;
                if !task.gentle && outcome.problems.len() < PROBLEMS_MAX {
                    outcome.problems.push(changing(folder));
                }
            }
            Err(Refused::Stopped) => (outcome.compared, outcome.complete) = (false, false),
            Err(Refused::Io(part, source)) => {
                outcome.compared = false;
                outcome.unread.insert(*uuid, folder.stamps());
                let path = task.context.store.seen_path.join(&folder.name).join(part.name());
                if outcome.problems.len() < PROBLEMS_MAX {
                    outcome.problems.push(CollectError::Unreadable { path, source });
                }
            }
        }
    }
    if progress.is_used_up() {
        outcome.used_up(job_queue.day_max());
    }
    progress.end();
    outcome.duration = began.elapsed();
    outcome
}

/// Walks once over every index below `root`, without rests and without a database. Errs when the directory cannot be looked
/// at.
pub fn walk_once(root: &Path) -> Result<Vec<Finding>, CollectError> {
    let place = &Place::own(root);
    let directory = Directory::take(place, usize::MAX, None)?;
    let (stop, progress) = (AtomicBool::new(false), Progress::default());
    let mode = ReadMode { stop: &stop, gentle: false, progress: &progress };
    let mut findings = Vec::new();
    for folder in directory.folders.values() {
        let (walked, _) =
            walk::walk(place, folder, None, mode).map_err(|refused| match refused {
                Refused::Io(part, source) => {
                    let path = root.join(&folder.name).join(part.name());
                    CollectError::Unreadable { path, source }
                }
                // Nobody stops it.
                Refused::Changed | Refused::Stopped => changing(folder),
            })?;
        let deep = Deep { stamps: folder.stamps(), walked: Some(Arc::new(walked)), compared: None };
        let case =
            Case { folder: Some(folder), row: None, deep: Some(&deep), replay: Replay::Either };
        findings.extend(judge(case, &folder.name).finding);
    }
    Ok(findings)
}

/// Bytes of the files that are to be walked over.
fn walked_bytes(task: &Task) -> u64 {
    let walked = task.segments.iter().filter(|(uuid, ..)| task.walk.contains(uuid));
    walked
        .flat_map(|(_, folder, _)| folder.stamps().into_iter().flatten())
        .fold(0, |sum, file| file.size_bytes.saturating_add(sum))
}

/// The number of the filesystem on which the store lies; 0 for one that is not there.
pub(super) fn device(task: &Task) -> u64 {
    std::fs::metadata(&task.context.store.seen_path).map_or(0, |meta| meta.dev())
}

type Tables<'a> = (Asker<'a>, Queue);

/// How far the queue is in each index: the row tells, or before 0.5 the metadata.
fn positions(task: &Task, mode: ReadMode<'_>) -> BTreeMap<Uuid, i64> {
    let mut positions = BTreeMap::new();
    for (uuid, folder, row) in &task.segments {
        let Some(row) = row else { continue };
        let reported = row.position.or_else(|| {
            let root = &task.context.place();
            match quietly(folder, &METADATA, mode, |mode| walk::metadata(root, folder, mode)) {
                Ok((MetadataState::Sound(metadata), _)) => {
                    metadata.max_seq_id.and_then(|at| i64::try_from(at).ok())
                }
                _ => None,
            }
        });
        positions.extend(reported.map(|at| (*uuid, at)));
    }
    positions
}

fn open<'a>(
    task: &'a Task,
    limits: Limits<'a>,
    positions: &BTreeMap<Uuid, i64>,
) -> Result<Tables<'a>, QueryError> {
    let mut asker = Asker::new(&task.context, limits)?;
    let rows = task
        .segments
        .iter()
        .filter_map(|(uuid, _, row)| Some((*uuid, row.as_ref()?, positions.get(uuid).copied())));
    // Chroma takes a folder without this file for an index that is yet to be made.
    let unloadable: BTreeSet<Uuid> = task
        .segments
        .iter()
        .filter(|(_, folder, _)| folder.file(Part::Metadata).is_none())
        .map(|(uuid, ..)| *uuid)
        .collect();
    let queue = Queue::read(&mut asker, rows, |segment| unloadable.contains(&segment))?;
    Ok((asker, queue))
}

/// What was found of one segment.
struct Found {
    /// `None` when its files changed meanwhile.
    deep: Option<Deep>,
    /// What it has lost, as far as that is all that will be known of it for now.
    lost: Option<Lost>,
    reach: Option<Reach>,
}

fn segment(
    task: &Task,
    uuid: Uuid,
    folder: &Folder,
    row: Option<&Row>,
    mode: ReadMode<'_>,
    tables: Option<&mut Tables<'_>>,
    positions: &BTreeMap<Uuid, i64>,
) -> Result<(Found, Option<QueryError>), Refused> {
    let root = &task.context.place();
    let comparable = |row: &&Row| row.records_segment.is_some() && !row.twin;
    let tables = tables.zip(row.filter(comparable));
    let read = if task.walk.contains(&uuid) {
        let dimension = row.and_then(|row| row.dimension);
        quietly(folder, &Part::ALL, mode, |mode| walk::walk(root, folder, dimension, mode))
            .map(|(walked, pairs)| (walked.metadata.clone(), pairs, Some(Arc::new(walked))))
    } else {
        quietly(folder, &METADATA, mode, |mode| walk::metadata(root, folder, mode))
            .map(|(metadata, pairs)| (metadata, pairs, None))
    };
    let mut still = true;
    let (metadata, pairs, walked) = match read {
        Err(Refused::Changed) if tables.is_some() => {
            still = false;
            let (metadata, pairs) =
                quietly(folder, &METADATA, mode, |mode| walk::newest_ids(root, folder, mode))?;
            (MetadataState::Sound(metadata), pairs, None)
        }
        read => read?,
    };
    let reach = match (&walked, row) {
        (Some(walked), Some(row)) if task.full => searched(root, folder, row, walked, mode)?,
        _ => None,
    };
    let mut deep = Deep { stamps: folder.stamps(), walked, compared: None };
    let readable = matches!(metadata, MetadataState::Sound(_) | MetadataState::Absent);
    let Some(((asker, queue), row)) = tables.filter(|_| readable) else {
        // What was read of files that changed meanwhile is about no state of theirs.
        walk::unchanged(root, folder)?;
        return Ok((Found { deep: Some(deep), lost: None, reach }, None));
    };
    let position = positions.get(&uuid).copied();
    let held = match position.filter(|_| still) {
        Some(position) => {
            let index = held::Index { root, folder, segment: uuid, row, position, mode };
            match index.compare(asker, &pairs) {
                Err(Unknown::Index(Refused::Changed)) => {
                    still = false;
                    Ok(Held::default())
                }
                other => other,
            }
        }
        None => Ok(Held::default()),
    };
    let compared = held.and_then(|held| {
        let mut comparison = records::compare(asker, queue, uuid, row, position, pairs)?;
        comparison.compared.held = held;
        Ok(comparison)
    });
    let Comparison { mut compared, suspects, strays } = match compared {
        Ok(comparison) => comparison,
        Err(Unknown::Index(refused)) => return Err(refused),
        Err(Unknown::Query(error)) => {
            walk::unchanged(root, folder)?;
            return Ok((Found { deep: Some(deep), lost: None, reach }, Some(error)));
        }
    };
    if compared.strays_last && !strays.is_empty() {
        compared.stray_ids = match walk::names(root, folder, strays, mode) {
            // Another comparison names them.
            Err(Refused::Changed) => Vec::new(),
            names => names?,
        };
    }
    match walk::unchanged(root, folder) {
        Err(Refused::Changed) => still = false,
        other => other?,
    }
    let compared = Arc::new(compared);
    deep.compared = Some(Arc::clone(&compared));
    let reach = reach.filter(|_| still);
    if still && deep.walked.is_some() {
        return Ok((Found { deep: Some(deep), lost: None, reach }, None));
    }
    let moving = Moving { root, folder, segment: uuid, row, mode };
    let lost = match moving.settle(asker, queue, &compared, suspects) {
        Ok(lost) => Some(lost),
        Err(unsettled) => {
            tracing::debug!(%unsettled, index = folder.name, "What it lacks cannot be told for now.");
            match unsettled {
                _ if still => None,
                Unsettled::Index(refused) => return Err(refused),
                // It comes again in a later run.
                Unsettled::Query(_) | Unsettled::Unsure(_) => return Err(Refused::Changed),
            }
        }
    };
    Ok((Found { deep: still.then_some(deep), lost, reach }, None))
}

/// Searches an index that is sound. Errs when the files cannot be read, or it was stopped.
fn searched(
    root: &Place,
    folder: &Folder,
    row: &Row,
    walked: &Walked,
    mode: ReadMode<'_>,
) -> Result<Option<Reach>, Refused> {
    let sound = matches!(walked.metadata, MetadataState::Sound(_)) && !walked.labels.contradict();
    // Norms of another distance than cosine are numbers or not.
    let damaged = walked.damage.iter().any(|(part, _)| *part != Part::Lengths);
    if !sound || damaged {
        return Ok(None);
    }
    let search = |mode: ReadMode<'_>| reach(root, folder, row.distance, walked.deleted, mode);
    match quietly(folder, &Part::ALL, mode, search) {
        Err(Refused::Changed) => Ok(None),
        answer => answer,
    }
}

fn changing(folder: &Folder) -> CollectError {
    CollectError::Changing { what: format!("the index {}", folder.name) }
}

impl Outcome {
    /// Notes that the store had all that it may have in a day.
    fn used_up(&mut self, day_max: Duration) {
        (self.compared, self.complete) = (false, false);
        self.problems.push(CollectError::UsedUp { what: "the indexes were", day_max });
    }

    /// Notes that the tables gave no answer. Busy is no fault.
    fn refused(&mut self, task: &Task, error: QueryError) {
        self.compared = false;
        if !reported_elsewhere(&error) || !task.gentle && reported_nowhere(&error) {
            self.problems.push(CollectError::of_query(error, task.context.database.path()));
        }
    }
}

const METADATA: [Part; 1] = [Part::Metadata];
/// Its name where progress is shown.
pub(super) const TASK: &str = "indexes";
/// A walk over so much is expensive.
const EXPENSIVE_BYTES: u64 = 64 << 20;

/// A slice beside a writer that waits is given up after this.
const HOLD: Duration = Duration::from_millis(10);

/// One is as good as a thousand to whoever reads the log.
const PROBLEMS_MAX: usize = 3;
