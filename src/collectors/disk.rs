//! The filesystem of the persist directory and the bytes in it.
//!
//! Each run asks `statvfs` of the directory itself, through the room that gives up on a filesystem that hangs, so it
//! is right wherever the directory lies: on tmpfs, an overlay, a bind mount. Size by class needs a walk over every entry,
//! which runs on a thread of its own and so seldom that it costs at most a hundredth of the time.

mod count;
mod judge;
mod lies;
mod low_water;
mod mount;
mod orphans;
mod slope;
mod survey;

use std::{collections::BTreeSet, io, path::Path, sync::Arc, time::Duration};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use self::{
    judge::{Facts, judge},
    low_water::LowWater,
    orphans::Orphans,
    slope::{Point, Trend},
    survey::{Running, Survey, SurveyState, Task},
};
use super::{CollectError, Collector, Pace, Run};
use crate::{
    clock::{self, Ticks, Timestamp},
    config::{CollectorName, Config, Store},
    facts::wake::Wake,
    findings::{Code, Finding},
    sample::{Desc, Observation, Sample},
    store::{Context, space::Space},
};

static SIZE_BYTES: Desc =
    Desc::gauge("chroma_disk_size_bytes", "Size of the filesystem of the persist directory.");
static FREE_BYTES: Desc = Desc::gauge(
    "chroma_disk_free_bytes",
    "Free bytes of the filesystem, including those reserved for root.",
);
static AVAIL_BYTES: Desc = Desc::gauge(
    "chroma_disk_avail_bytes",
    "Bytes of the filesystem that programs without root rights may still use.",
);
static AVAIL_LOW_WATER_BYTES: Desc = Desc::gauge(
    "chroma_disk_avail_low_water_bytes",
    "Lowest chroma_disk_avail_bytes of the last hour, or since the start. A full disk looks free again once a failed write is rolled back.",
);
static USED_RATIO: Desc = Desc::gauge(
    "chroma_disk_used_ratio",
    "Used share of the filesystem as df shows it: used / (used + avail), 0 to 1.",
);
static INODES: Desc =
    Desc::gauge("chroma_disk_inodes", "Inodes of the filesystem. Absent where there is no limit.");
static INODES_FREE: Desc = Desc::gauge(
    "chroma_disk_inodes_free",
    "Free inodes of the filesystem. Absent where there is no limit.",
);
static READONLY: Desc = Desc::gauge(
    "chroma_disk_readonly",
    "1 when the exporter sees the filesystem as read-only, because of its mount or after a device error.",
);
static DEVICE_ERROR: Desc = Desc::gauge(
    "chroma_disk_device_error",
    "1 when the filesystem fails or does not answer in time. Nothing else is said of it then.",
);
static FULL_TIMESTAMP_SECONDS: Desc = Desc::gauge(
    "chroma_disk_full_timestamp_seconds",
    "When the filesystem will be full if it keeps filling as in the last minutes to six hours. Absent while it is not filling.",
);
static INFO: Desc = Desc::gauge(
    "chroma_disk_info",
    "The mount of the persist directory, with the labels of node_filesystem_* (cached).",
)
.labelled(&["device", "fstype", "mountpoint"]);
static APPARENT_BYTES: Desc = Desc::gauge(
    "chroma_store_apparent_bytes",
    "Lengths of the files below the persist directory, by what they are for (cached).",
)
.labelled(&["class"]);
static ALLOCATED_BYTES: Desc = Desc::gauge(
    "chroma_store_allocated_bytes",
    "Bytes on disk of files and folders below the persist directory, by what they are for (cached).",
)
.labelled(&["class"]);
static FILES: Desc =
    Desc::gauge("chroma_store_files", "Files below the persist directory (cached).");
static DELETED_OPEN_BYTES: Desc = Desc::gauge(
    "chroma_store_deleted_open_bytes",
    "Bytes on disk of deleted files of the persist directory that a process keeps open (cached). Absent when none is seen but some processes could not be looked into.",
);
static WALK_TIMESTAMP_SECONDS: Desc = Desc::gauge(
    "chroma_store_walk_timestamp_seconds",
    "When the measuring of the persist directory began that the cached sizes come from.",
);
static WALK_DURATION_SECONDS: Desc = Desc::gauge(
    "chroma_store_walk_duration_seconds",
    "How long it took to measure the persist directory, for the cached sizes.",
);

pub(super) static DESCS: &[&Desc] = &[
    &SIZE_BYTES,
    &FREE_BYTES,
    &AVAIL_BYTES,
    &AVAIL_LOW_WATER_BYTES,
    &USED_RATIO,
    &INODES,
    &INODES_FREE,
    &READONLY,
    &DEVICE_ERROR,
    &FULL_TIMESTAMP_SECONDS,
    &INFO,
    &APPARENT_BYTES,
    &ALLOCATED_BYTES,
    &FILES,
    &DELETED_OPEN_BYTES,
    &WALK_TIMESTAMP_SECONDS,
    &WALK_DURATION_SECONDS,
];

/// The `disk` collector.
#[derive(Debug)]
pub struct Disk {
    context: Context,
    trend: Trend,
    low_water: LowWater,
    /// What was found the time before; it ends only beyond a second level.
    on: BTreeSet<Code>,
    survey: Surveys,
    /// What was last kept in the state directory, and when.
    kept: Option<(Ticks, BTreeSet<Code>)>,
}

impl Disk {
    /// The collector of one store. Touches nothing yet but the state directory.
    #[must_use]
    pub fn new(context: &Context) -> Self {
        let memory: SavedDisk =
            context.host.state.load(STATE_KIND, &context.store.subject()).unwrap_or_default();
        let points = memory.points.iter().map(|(secs, avail_bytes)| Point {
            at: Timestamp::from_secs(*secs),
            avail_bytes: *avail_bytes,
        });
        Self {
            context: context.clone(),
            trend: Trend::restore(memory.size_bytes, points),
            low_water: LowWater::default(),
            on: CODES
                .iter()
                .copied()
                .filter(|c| memory.on.iter().any(|o| o == c.as_str()))
                .collect(),
            survey: Surveys::default(),
            kept: None,
        }
    }

    /// Keeps what a restart must not lose: the trend takes hours to be seen again, and a finding between its two levels
    /// would end without cause.
    fn keep(&mut self) {
        let due =
            self.kept.as_ref().is_none_or(|(at, on)| at.elapsed() >= KEEP_EVERY || *on != self.on);
        if !due {
            return;
        }
        let memory = SavedDisk {
            size_bytes: self.trend.size_bytes(),
            points: self.trend.points().map(|p| (p.at.as_secs(), p.avail_bytes)).collect(),
            on: self.on.iter().map(|code| code.as_str().to_owned()).collect(),
        };
        self.context.host.state.save(STATE_KIND, &self.context.store.subject(), &memory);
        self.kept = Some((clock::ticks(), self.on.clone()));
    }
}

impl Disk {
    /// See [`super::at_rest`].
    pub(super) fn at_rest(Config { collect, .. }: &Config, _: &Store) -> Pace {
        Pace {
            interval: collect.interval,
            deadline: collect.deadline,
            wakes: Wake::DATA | Wake::NAMES | Wake::JOURNAL | Wake::SPACE,
            // It is the one that must run to say that the filesystem hangs, and asks before it touches anything.
            touches_store: false,
        }
    }
}

impl Collector for Disk {
    fn name(&self) -> CollectorName {
        CollectorName::Disk
    }

    fn descs(&self) -> &'static [&'static Desc] {
        DESCS
    }

    fn codes(&self) -> &'static [Code] {
        CODES
    }

    fn pace(&self) -> Pace {
        Self::at_rest(&self.context.config, &self.context.store)
    }

    fn collect(&mut self, run: &Run) -> Observation {
        let space = match self.context.device.ask(self.context.config.collect.device_timeout) {
            Ok(space) => space,
            Err(problem) => {
                let samples = device_fails(&problem).then(|| DEVICE_ERROR.sample(1.0));
                return Observation {
                    samples: samples.into_iter().collect(),
                    problems: vec![problem],
                    ..Observation::default()
                };
            }
        };
        let mut problems = Vec::new();
        let survey = match self.survey.newest(&self.context, run) {
            Ok(survey) => survey,
            Err(problem) => {
                problems.push(problem);
                None
            }
        };
        let low_water_bytes = self.low_water.note(run.now, space.avail_bytes);
        if !space.readonly {
            let point = Point { at: run.now, avail_bytes: space.avail_bytes };
            self.trend.note(space.size_bytes, point);
        }
        let facts = Facts {
            now: run.now,
            space,
            low_water_bytes,
            full_at: self.trend.full_at().filter(|_| !space.readonly),
            readonly: survey.as_ref().map(|s| readonly_for_chroma(&space, s)),
            database_bytes: survey.as_ref().and_then(|s| s.database_bytes),
        };
        let (mut findings, mut judged) = judge(&facts, &self.context.config.disk, &self.on);
        if let Some(survey) = &survey {
            place(survey, &self.context.config.rootfs, &mut findings, &mut judged);
        }
        // A code that could not be judged stays as it was.
        self.on.retain(|code| !judged.contains(code));
        self.on.extend(findings.iter().map(|finding| finding.code));
        self.keep();

        let mut samples = space_samples(&facts, survey.as_deref());
        if let Some(survey) = &survey {
            samples.extend(survey_samples(survey, &self.context.config.rootfs));
            problems.extend(survey.problems(&self.context.store.seen_path));
        }
        Observation { samples, findings, problems, judged, ..Observation::default() }
    }
}

/// The surveys of one store, one at a time.
#[derive(Debug, Default)]
struct Surveys {
    running: Option<Running>,
    latest: Option<Arc<Survey>>,
    began: Option<Ticks>,
    /// Whether anything has changed since the last one began.
    woken: bool,
    /// When the database was last asked for its segments, and whether anything has changed since.
    asked: Option<Ticks>,
    changed_since_asked: bool,
}

impl Surveys {
    /// The newest survey; begins another one when it is due. Waits for it only a moment, unless there is none yet.
    /// Errs when the walk hangs or panicked, or the system gives no thread.
    fn newest(
        &mut self,
        context: &Context,
        run: &Run,
    ) -> Result<Option<Arc<Survey>>, CollectError> {
        let collect = &context.config.collect;
        // What others write to the filesystem changes nothing in the directory.
        let changed = run.wake.beyond(Wake::SPACE);
        self.woken |= changed;
        self.changed_since_asked |= changed;
        if self.running.is_none() && (run.deep || self.due(collect.interval)) {
            self.start(context, run.now).map_err(|source| CollectError::Unreadable {
                path: context.store.seen_path.clone(),
                source,
            })?;
        }
        let patience = if run.deep {
            collect.deadline.saturating_sub(collect.device_timeout * 2)
        } else if self.latest.is_none() {
            collect.device_timeout
        } else {
            PATIENCE
        };
        let Some(running) = &mut self.running else { return Ok(self.latest.clone()) };
        match running.wait(patience) {
            SurveyState::UnderWay => {}
            SurveyState::Done(survey) => {
                self.running = None;
                if survey.orphans.is_none() {
                    self.asked = None; // it could not be asked; the next survey tries again
                }
                self.latest = Some(survey);
            }
            // An old sum would pretend that somebody still looks.
            SurveyState::Stalled(waited) => {
                self.latest = None;
                return Err(CollectError::Hung { path: context.store.seen_path.clone(), waited });
            }
            SurveyState::Broken => {
                self.running = None;
                self.latest = None;
                return Err(CollectError::Panicked("in the walk of the directory".to_owned()));
            }
        }
        Ok(self.latest.clone())
    }

    /// At most a hundredth of the time after changes, and a five-hundredth without any: events can be lost, and a network
    /// filesystem tells none.
    fn due(&self, interval: Duration) -> bool {
        let (Some(began), Some(latest)) = (self.began, &self.latest) else { return true };
        let since = began.elapsed();
        if self.woken {
            since >= latest.duration * 100
        } else {
            // Half an interval of slack: runs do not begin to the millisecond.
            since >= (latest.duration * 500).max(interval / 2)
        }
    }

    fn start(&mut self, context: &Context, now: Timestamp) -> io::Result<()> {
        let known: Option<Arc<Orphans>> = self.latest.as_ref().and_then(|s| s.orphans.clone());
        let deleted = self.latest.as_ref().and_then(|s| s.deleted);
        let rest = if self.changed_since_asked {
            context.config.collect.contents_interval
        } else {
            ASK_EVERY
        };
        let ask_database = known.is_none() || self.asked.is_none_or(|at| at.elapsed() >= rest);
        self.began = Some(clock::ticks());
        self.woken = false;
        if ask_database {
            self.asked = self.began;
            self.changed_since_asked = false;
        }
        self.running = Some(Running::start(Task {
            context: context.clone(),
            now,
            known,
            ask_database,
            deleted,
        })?);
        Ok(())
    }
}

/// What is to be said of where the directory lies.
fn place(survey: &Survey, rootfs: &Path, findings: &mut Vec<Finding>, judged: &mut Vec<Code>) {
    if let Some(view) = &survey.mount {
        let point = host_path(&view.mount.mount_point, rootfs);
        findings.extend(lies::judge(&view.mount, view.whose, &point));
        judged.extend([Code::DiskRemote, Code::DiskTemporary]);
    }
    if let Some(synced) = &survey.synced {
        findings.extend(store_synced(synced, rootfs));
        judged.push(Code::StoreSynced);
    }
}

fn store_synced(synced: &count::Synced, rootfs: &Path) -> Option<Finding> {
    let mut words: Vec<String> = Vec::new();
    for (file, tool) in synced.files.iter().take(SYNCED_NAMED_MAX) {
        words.push(format!("{} was left by {tool}", file.display()));
    }
    let more = synced.count.saturating_sub(words.len() as u64);
    if more > 0 {
        words.push(format!("and {more} more files like that"));
    }
    if let Some((folder, tool)) = &synced.folder {
        let folder = host_path(folder, rootfs);
        words.push(format!("{tool} keeps {folder} in step with other hosts"));
    }
    (!words.is_empty()).then(|| Finding::new(Code::StoreSynced, "", words.join("; ")))
}

const SYNCED_NAMED_MAX: usize = 8;

/// Whether the error is one of the filesystem. A directory that is not there, or not ours to enter, says nothing of it.
fn device_fails(problem: &CollectError) -> bool {
    match problem {
        CollectError::Hung { .. } => true,
        CollectError::Unreadable { source, .. } => !matches!(
            Errno::from_io_error(source),
            None | Some(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS | Errno::PERM | Errno::LOOP)
        ),
        _ => false,
    }
}

fn readonly_for_chroma(space: &Space, survey: &Survey) -> bool {
    survey.mount.as_ref().map_or(space.readonly, mount::MountView::readonly_for_all)
}

fn space_samples(facts: &Facts, survey: Option<&Survey>) -> Vec<Sample> {
    let space = &facts.space;
    let stopped = survey
        .and_then(|survey| survey.mount.as_ref())
        .is_some_and(|view| view.mount.readonly_everywhere);
    let mut out = vec![
        SIZE_BYTES.sample(space.size_bytes as f64),
        FREE_BYTES.sample(space.free_bytes as f64),
        AVAIL_BYTES.sample(space.avail_bytes as f64),
        AVAIL_LOW_WATER_BYTES.sample(facts.low_water_bytes as f64),
        READONLY.sample(f64::from(u8::from(space.readonly || stopped))),
        DEVICE_ERROR.sample(0.0),
    ];
    out.extend(space.used_ratio().map(|ratio| USED_RATIO.sample(ratio)));
    // btrfs has no inode limit. A zero would look like a disk without a free one.
    if space.inodes > 0 {
        out.push(INODES.sample(space.inodes as f64));
        out.push(INODES_FREE.sample(space.inodes_free as f64));
    }
    out.extend(facts.full_at.map(|at| FULL_TIMESTAMP_SECONDS.sample(at.as_secs_f64())));
    out
}

fn survey_samples(survey: &Survey, rootfs: &Path) -> Vec<Sample> {
    let mut out = vec![
        WALK_TIMESTAMP_SECONDS.sample(survey.taken_at.as_secs_f64()),
        WALK_DURATION_SECONDS.sample(survey.duration.as_secs_f64()),
    ];
    for (class, bytes) in &survey.bytes {
        out.push(APPARENT_BYTES.with(vec![class.as_str().into()], bytes.apparent as f64));
        out.push(ALLOCATED_BYTES.with(vec![class.as_str().into()], bytes.allocated as f64));
    }
    out.extend(survey.files.map(|files| FILES.sample(files as f64)));
    let deleted = survey.deleted.and_then(|deleted| deleted.bytes);
    out.extend(deleted.map(|bytes| DELETED_OPEN_BYTES.sample(bytes as f64)));
    out.extend(survey.mount.as_ref().map(|view| {
        let mount = &view.mount;
        let point = host_path(&mount.mount_point, rootfs);
        INFO.with(vec![mount.source.clone().into(), mount.fstype.clone().into(), point.into()], 1.0)
    }));
    out
}

/// A path of this process as the host knows it: without the prefix under which the host's root is seen.
fn host_path(path: &Path, rootfs: &Path) -> String {
    let host =
        path.strip_prefix(rootfs).map_or_else(|_| path.to_owned(), |p| Path::new("/").join(p));
    host.to_string_lossy().into_owned()
}

/// What survives a restart.
#[derive(Debug, Default, Serialize, Deserialize)]
struct SavedDisk {
    size_bytes: u64,
    /// Seconds since the epoch, and free bytes for everybody.
    points: Vec<(i64, u64)>,
    /// Codes that were found.
    on: Vec<String>,
}

const CODES: &[Code] = &[
    Code::DiskUsageHigh,
    Code::DiskUsageCritical,
    Code::DiskWillFill,
    Code::InodesLow,
    Code::DiskReadonly,
    Code::HeadroomLow,
    Code::DiskRemote,
    Code::DiskTemporary,
    Code::StoreSynced,
];

/// How long a run waits for a survey: enough for some ten thousand files, too little to be late with a full disk.
const PATIENCE: Duration = Duration::from_millis(20);

/// How often the database is asked for its segments when nothing seems to have changed.
const ASK_EVERY: Duration = Duration::from_mins(10);

const STATE_KIND: &str = "disk";

const KEEP_EVERY: Duration = Duration::from_mins(10);

#[cfg(test)]
mod tests;
