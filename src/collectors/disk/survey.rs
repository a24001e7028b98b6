//! A look at the whole directory: how many bytes there are of what, and on which mount it lies. It runs on a thread of
//! its own, so that neither a million files nor a mount that stops answering in the middle delays the cheap reading.

use std::{
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use rustix::io::Errno;

use super::{
    count::{Bytes, Class, Count, Failure, Synced},
    lies,
    mount::MountView,
    orphans::Orphans,
};
use crate::{
    clock::{self, Ticks, Timestamp},
    collectors::CollectError,
    host::{
        links,
        walk::{self, Bounds, DEPTH_MAX, Summary},
    },
    store::Context,
};

/// What a look at the whole directory gave.
#[derive(Debug)]
pub(crate) struct Survey {
    /// When it began.
    pub(crate) taken_at: Timestamp,
    /// How long it took.
    pub(crate) duration: Duration,
    /// Bytes of each class that could be counted to the end.
    pub(crate) bytes: Vec<(Class, Bytes)>,
    /// Entries that are no folders, when all could be counted.
    pub(crate) files: Option<u64>,
    /// Length of the database: 0 when there is none, `None` when that is not known.
    pub(crate) database_bytes: Option<u64>,
    /// The mount under the directory.
    pub(crate) mount: Option<MountView>,
    /// Marks of a tool that keeps the directory in step with other hosts, when all of it was looked at.
    pub(crate) synced: Option<Synced>,
    /// Deleted files that are still open.
    pub(crate) deleted: Option<DeletedOpen>,
    /// What the database said of the folders, for the next survey.
    pub(crate) orphans: Option<Arc<Orphans>>,
    failures: Vec<Failure>,
}

impl Survey {
    /// What could not be counted in the directory at `root`.
    pub(crate) fn problems(&self, root: &Path) -> Vec<CollectError> {
        self.failures.iter().map(|failure| failure.problem(root)).collect()
    }
}

/// What a survey begins with.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub(crate) context: Context,
    pub(crate) now: Timestamp,
    /// What an earlier survey learnt.
    pub(crate) known: Option<Arc<Orphans>>,
    /// Whether the database should be asked for its segments.
    pub(crate) ask_database: bool,
    /// What an earlier survey learnt.
    pub(crate) deleted: Option<DeletedOpen>,
}

/// Bytes on disk of deleted files of the directory that processes keep open: what `df` counts and `du` does not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeletedOpen {
    at: Ticks,
    /// `None` when none was seen, but not every process could be looked into.
    pub(crate) bytes: Option<u64>,
}

impl DeletedOpen {
    /// Asks the process table, once an interval: telling where a deleted file lay takes mount tables of other processes.
    /// Errs when `/proc` cannot be read.
    fn ask(
        context: &Context,
        device: u64,
        known: Option<Self>,
    ) -> Result<Option<Self>, CollectError> {
        if known.is_some_and(|known| known.at.elapsed() < context.config.collect.interval) {
            return Ok(known);
        }
        let seen = &context.store.seen_path;
        let Ok(directory) = links::follow(&context.config.rootfs, seen) else { return Ok(None) };
        let processes = &context.host.processes;
        let bytes = processes.deleted_bytes(&directory, device, PROCESSES_AGE_MAX)?;
        let walk = processes.walk(&[], &[device], PROCESSES_AGE_MAX)?;
        let all_seen = walk.unreadable().is_empty() && walk.hidden().is_none();
        Ok(Some(Self { at: clock::ticks(), bytes: (bytes > 0 || all_seen).then_some(bytes) }))
    }
}

/// A survey under way. Dropping it ends the survey at the next entry.
#[derive(Debug)]
pub(crate) struct Running {
    answer: Receiver<Arc<Survey>>,
    progress: Arc<Progress>,
    /// How far it was when somebody looked, and when that was first so.
    seen: (u64, Ticks),
}

/// How a survey stands.
#[derive(Debug)]
pub(crate) enum SurveyState {
    /// Come to its end.
    Done(Arc<Survey>),
    /// At work.
    UnderWay,
    /// Waiting for one answer of the filesystem for so long.
    Stalled(Duration),
    /// Its thread panicked.
    Broken,
}

#[derive(Debug, Default)]
struct Progress {
    steps: AtomicU64,
    stop: AtomicBool,
}

impl Progress {
    fn step(&self) -> ControlFlow<()> {
        self.steps.fetch_add(1, Ordering::Relaxed);
        if self.stop.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }
}

impl Running {
    /// Begins a survey. Errs when no thread is to be had.
    pub(crate) fn start(task: Task) -> std::io::Result<Self> {
        let (sender, answer) = std::sync::mpsc::sync_channel(1);
        let progress = Arc::new(Progress::default());
        let shared = Arc::clone(&progress);
        std::thread::Builder::new().name("survey".to_owned()).spawn(move || {
            // Nobody waits any more when the collector is gone.
            drop(sender.send(Arc::new(survey(task, &shared))));
        })?;
        Ok(Self { answer, progress, seen: (0, clock::ticks()) })
    }

    /// How it stands after at most `patience`.
    pub(crate) fn wait(&mut self, patience: Duration) -> SurveyState {
        match self.answer.recv_timeout(patience) {
            Ok(survey) => return SurveyState::Done(survey),
            Err(RecvTimeoutError::Disconnected) => return SurveyState::Broken,
            Err(RecvTimeoutError::Timeout) => {}
        }
        let steps = self.progress.steps.load(Ordering::Relaxed);
        if steps != self.seen.0 {
            self.seen = (steps, clock::ticks());
        }
        let silent = self.seen.1.elapsed();
        if silent >= STALLED_AFTER { SurveyState::Stalled(silent) } else { SurveyState::UnderWay }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.progress.stop.store(true, Ordering::Relaxed);
    }
}

fn survey(task: Task, progress: &Progress) -> Survey {
    let began = clock::ticks();
    let Task { context, now, known, ask_database, deleted } = task;
    let root = &context.store.seen_path;
    let through = context.through.as_ref().map(|through| through.pid);
    let mount = MountView::of(root, &context.config.procfs, through);
    let bounds = Bounds { entries_max: context.config.limits.entries, depth_max: DEPTH_MAX };
    let mut count = Count::default();
    let walked = walk::walk(root, bounds, &mut |visit| {
        match visit {
            Ok(entry) => count.add(&entry),
            Err(problem) => count.fail(&problem),
        }
        progress.step()
    });
    let whole = judge(walked, &mut count, bounds);
    let without_database = whole && !count.incomplete.contains(&Class::Sqlite);
    let database_bytes =
        count.database.map(|file| file.bytes).or_else(|| without_database.then_some(0));
    let orphans = count.database.filter(|_| whole && !count.folders_overflown).and_then(|file| {
        Orphans::among(&count.folders, &context, file.id, known, ask_database, &progress.stop)
    });
    let duration = began.elapsed();
    // The processes are not in the directory: their walk has a pace of its own.
    let deleted = count.device.map(|device| DeletedOpen::ask(&context, device, deleted));
    let deleted = deleted.transpose().unwrap_or_else(|problem| {
        count.note(Failure::Processes(problem.chain()));
        None
    });
    Survey {
        taken_at: now,
        bytes: if whole { count.classes(orphans.as_ref().map(|o| &o.folders)) } else { Vec::new() },
        files: (whole && count.incomplete.is_empty()).then_some(count.files),
        database_bytes,
        mount,
        synced: (whole && count.incomplete.is_empty()).then(|| {
            count.synced.folder = marked_above(&context);
            count.synced
        }),
        deleted: deleted.flatten(),
        orphans,
        failures: count.failures,
        duration,
    }
}

/// The nearest folder above the directory that a tool has marked as its own, and the tool.
fn marked_above(context: &Context) -> Option<(PathBuf, &'static str)> {
    let (rootfs, procfs) = (&context.config.rootfs, &context.config.procfs);
    let dir = links::follow(rootfs, &context.store.seen_path).ok()?;
    let root = if context.through.is_some() { procfs } else { rootfs };
    dir.ancestors().take_while(|above| above.starts_with(root)).find_map(|above| {
        let (_, tool) = lies::MARKS
            .iter()
            .find(|(mark, _)| std::fs::symlink_metadata(above.join(mark)).is_ok())?;
        Some((above.to_owned(), *tool))
    })
}

/// Whether the walk saw all that it could; notes why not.
fn judge(walked: std::io::Result<Summary>, count: &mut Count, bounds: Bounds) -> bool {
    match walked {
        Err(error) => {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            count.note(Failure::Unreadable(".".into(), errno));
            false
        }
        Ok(summary) => {
            if summary.truncated {
                count.note(Failure::TooMany("entries", bounds.entries_max));
            }
            if summary.too_deep > 0 {
                count.note(Failure::TooMany("levels of folders", DEPTH_MAX as usize));
            }
            !summary.truncated && summary.too_deep == 0 && !summary.stopped
        }
    }
}

/// A walk over the processes that is not older is good enough; the `processes` collector makes them anyway.
const PROCESSES_AGE_MAX: Duration = Duration::from_mins(1);

/// A single answer of a filesystem that takes longer than this is not coming.
const STALLED_AFTER: Duration = Duration::from_secs(30);
