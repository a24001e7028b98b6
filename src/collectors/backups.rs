//! Backups of a store: the newest complete one, its age, size, and how many there are. Told from the structure of each and
//! the names in it, not from its content: whether it restores is another question. Complete is one that has the index
//! folders, too, as far as vectors of the store are in them alone. A store without patterns expects no backups, and nothing is
//! said of them.
//!
//! Names come in a stream and only the newest are kept, so that a hundred thousand files are no burden. What cannot be read,
//! or not be told, is a failed reading: it is neither a backup nor the lack of one.

mod content;
mod entry;
mod expand;
mod holds;
mod inspect;
pub mod ledger;
mod log;
mod packed;
mod proof;
mod proven;
mod stated;
mod vectors;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use self::{
    entry::{
        Backup, Complete, Entry, Fault, NAME_SLACK, Reason, Stamp, beside_a_backup, is_absence,
        name_date, name_of,
    },
    expand::{Glob, Search},
    inspect::{Content, Effort, UNPACK_MAX},
    ledger::{Ledger, Newest},
    log::Log,
    vectors::Vectors,
};
use super::{CollectError, Collector, Pace, Run};
use crate::{
    clock::Timestamp,
    config::{CollectorName, Config, Store},
    facts::wake::Wake,
    findings::{Code, Finding, Severity},
    format::manifest::Restores,
    human,
    keys::rules::below_root,
    sample::{Desc, Observation, Sample},
    store::{Context, DATABASE_FILE, device::Device},
};

static NEWEST: Desc = Desc::gauge(
    "chroma_backup_last_success_timestamp_seconds",
    "When the newest complete backup was made, as seconds since the epoch, cached; absent when there is none.",
);
static AGE: Desc = Desc::gauge(
    "chroma_backup_age_seconds",
    "Age of the newest complete backup, cached; absent when there is none.",
);
static SIZE: Desc = Desc::gauge(
    "chroma_backup_size_bytes",
    "Size of the newest complete backup, cached; absent when there is none.",
);
static COUNT: Desc =
    Desc::gauge("chroma_backups", "Complete backups among the 500 newest that were found, cached.");
static INCOMPLETE: Desc = Desc::gauge(
    "chroma_backups_incomplete",
    "Files and directories in the place of backups that are none, by reason, cached; of those with reason unreadable or unknown it cannot be told.",
)
.labelled(&["reason"]);
static SAME_FILESYSTEM: Desc = Desc::gauge(
    "chroma_backup_same_filesystem",
    "Whether the newest complete backup lies on the filesystem of the store, cached.",
);

pub(super) static DESCS: [&Desc; 15] = [
    &NEWEST,
    &AGE,
    &SIZE,
    &COUNT,
    &INCOMPLETE,
    &SAME_FILESYSTEM,
    &proven::PROVEN,
    &proven::PROVEN_COUNT,
    &proven::PROVEN_RECORDS,
    &proven::PROOF,
    &proven::PROOF_SECONDS,
    &proven::JOB_SUCCESS,
    &proven::JOB_TIME,
    &proven::JOB_SECONDS,
    &proven::AFTER_EXIT,
];

static CODES: [Code; 8] = [
    Code::BackupMissing,
    Code::BackupStale,
    Code::BackupInvalid,
    Code::BackupIncomplete,
    Code::BackupShrunk,
    Code::BackupSameDisk,
    Code::BackupUnverified,
    Code::BackupFailed,
];

/// What the last look saw of an entry, so that one that has not changed is not read again.
#[derive(Debug, Clone)]
struct Inspected {
    stamp: Stamp,
    content: Result<Content, Fault>,
}

/// The collector.
#[derive(Debug)]
pub struct Backups {
    context: Context,
    globs: Vec<Result<Glob, Arc<CollectError>>>,
    /// Whether the filesystems that the patterns lead to answer.
    devices: BTreeMap<PathBuf, Device>,
    seen: BTreeMap<PathBuf, Inspected>,
    vectors: Vectors,
    log: Log,
    /// What this program did with backups of the store.
    ledger: Ledger,
    /// The newest complete backup at the last look.
    newest: Option<Newest>,
    /// The directory and database of the store itself, as (device, inode), when last known.
    own: Vec<(u64, u64)>,
}

impl Backups {
    /// Looks at nothing yet.
    #[must_use]
    pub fn new(context: &Context) -> Self {
        let own = own_pattern(&context.store, &context.config.rootfs);
        let patterns = context.store.backups.globs.iter().chain(&own);
        let globs: Vec<_> = patterns.map(|pattern| Glob::new(pattern).map_err(Arc::new)).collect();
        let roots = globs.iter().flatten().map(|glob| glob.root().to_owned());
        let devices = roots.map(|root| (root.clone(), Device::new(root))).collect();
        Self {
            context: context.clone(),
            globs,
            devices,
            seen: BTreeMap::new(),
            vectors: Vectors::default(),
            log: Log::default(),
            ledger: Ledger::default(),
            newest: None,
            own: Vec::new(),
        }
    }

    /// The newest of what the patterns lead to, newest first. A pattern whose filesystem does not answer is told and left
    /// out: nothing is opened there.
    fn newest(&self, run: &Run, problems: &mut Vec<CollectError>) -> Vec<PathBuf> {
        let mut newest: BTreeSet<(Timestamp, PathBuf)> = BTreeSet::new();
        let mut found = |path: PathBuf| {
            if beside_a_backup(&path) {
                return;
            }
            // A date in the name is as good as the time of the file to tell the newest, and costs nothing.
            let written = || Some(Timestamp::from_parts(fs::metadata(&path).ok()?.mtime(), 0));
            let rank = name_date(&path).or_else(written).unwrap_or(run.now);
            newest.insert((rank, path));
            if newest.len() > BACKUPS_MAX {
                newest.pop_first();
            }
        };
        let collect = &self.context.config.collect;
        for glob in &self.globs {
            let glob = match glob {
                Ok(glob) => glob,
                Err(problem) => {
                    problems.push(CollectError::Kept(Arc::clone(problem)));
                    continue;
                }
            };
            // Errors other than this one are told by the look itself, in better words.
            let device = self.devices.get(glob.root());
            let asked = device.map(|device| device.ask(collect.device_timeout));
            if let Some(Err(hung @ CollectError::Hung { .. })) = asked {
                problems.push(hung);
                continue;
            }
            glob.search(&mut Search {
                root: &self.context.config.rootfs,
                entries_left: self.context.config.limits.entries,
                stopped: &|| run.stopped(),
                found: &mut found,
                problems,
            });
        }
        newest.into_iter().rev().map(|(_, path)| path).collect()
    }

    fn judge_all(&mut self, run: &Run, problems: &mut Vec<CollectError>) -> Vec<Backup> {
        let mut paths = self.newest(run, problems);
        // Of two names of one backup (`latest` and the like) the one with a date tells more.
        paths.sort_by_key(|path| name_date(path).is_none());
        let kept: BTreeSet<&PathBuf> = paths.iter().collect();
        self.seen.retain(|path, _| kept.contains(path));
        let mut inodes = BTreeSet::new();
        let mut unpack_bytes = UNPACK_BYTES_PER_RUN;
        let mut judged = Vec::new();
        for path in &paths {
            if run.stopped() {
                break;
            }
            judged.extend(self.judge(path, run, &mut inodes, &mut unpack_bytes));
        }
        for backup in &judged {
            if let Ok(Content { holds: Some(holds), .. }) = &backup.state {
                self.vectors.take_in(backup.taken, holds);
            }
        }
        judged.into_iter().map(|backup| self.complete(backup)).collect()
    }

    /// One whose bytes are whole may still lack the vectors, or rows that are in a log.
    fn complete(&self, backup: Backup<Content>) -> Backup {
        let Backup { path, stamp, directory, taken, complete_by, device, state } = backup;
        let state = state.and_then(|content| {
            let lacks = self.vectors.lacking(complete_by, &content);
            let lacks = lacks.or_else(|| self.log.lacking(complete_by, content.holds.as_ref()));
            if let Some(fault) = lacks {
                return Err(fault);
            }
            let proof = self.ledger.proof(&path, &stamp).cloned().or(content.stated);
            match proof.as_ref().filter(|proof| proof.restores == Restores::Not) {
                Some(proof) => Err(proven::does_not_restore(proof)),
                None => Ok(Complete { bytes: content.bytes, proof }),
            }
        });
        Backup { path, stamp, directory, taken, complete_by, device, state }
    }

    /// `None` for what vanished meanwhile, for the store itself, and for another name of what was judged already.
    fn judge(
        &mut self,
        path: &Path,
        run: &Run,
        inodes: &mut BTreeSet<(u64, u64)>,
        unpack_bytes: &mut u64,
    ) -> Option<Backup<Content>> {
        let entry = match Entry::of(path) {
            Ok(entry) => entry,
            Err(error) if is_absence(&error) => return None,
            Err(error) => {
                return Some(Backup {
                    path: path.into(),
                    stamp: Stamp::default(),
                    directory: false,
                    taken: name_date(path).unwrap_or(run.now),
                    complete_by: run.now,
                    device: 0,
                    state: Err(Fault::unreadable(&error)),
                });
            }
        };
        // The store is no backup of itself, and neither is a hard link to its database. Opening it here would be worse than
        // wrong: the close would drop the lock of a check of this process. The same holds for other stores.
        let id = (entry.meta.dev(), entry.meta.ino());
        let database = entry.database.as_ref().map(|(_, meta)| (meta.dev(), meta.ino()));
        let is_own = self.own.contains(&id) || database.is_some_and(|id| self.own.contains(&id));
        let opened = entry.database.as_ref().map_or(path, |(database, _)| database.as_path());
        let mut watched = self.context.config.stores.iter();
        let is_watched = watched.any(|store| opened == store.seen_path.join(DATABASE_FILE));
        if is_own || is_watched || !inodes.insert(id) {
            return None;
        }
        let taken = entry.taken(path);
        let state = self.state(path, &entry, taken, run, unpack_bytes);
        let (directory, device) = (entry.meta.is_dir(), entry.meta.dev());
        let complete_by = entry.complete_by();
        let stamp = entry.stamp();
        Some(Backup { path: path.into(), stamp, directory, taken, complete_by, device, state })
    }

    fn state(
        &mut self,
        path: &Path,
        entry: &Entry,
        taken: Timestamp,
        run: &Run,
        unpack_bytes: &mut u64,
    ) -> Result<Content, Fault> {
        let (now, settle) = (run.now, self.context.store.backups.settle);
        let growing =
            || Fault::new(Reason::Growing, "it changed a moment ago and may still be growing");
        let written = entry.written();
        if written > now.plus(FUTURE_SLACK) || taken > now.plus(NAME_SLACK) {
            return Err(Fault::new(Reason::Future, "it is dated in the future"));
        }
        if now.since(written) < settle {
            return Err(growing());
        }
        let stamp = entry.stamp();
        if let Some(seen) = self.seen.get(path).filter(|seen| seen.stamp == stamp) {
            // The stamp of a directory is that of its database: folders that it lacked may have come since.
            let lacks =
                |content: &Content| self.vectors.lacking(entry.complete_by(), content).is_some();
            if !(entry.meta.is_dir() && seen.content.as_ref().is_ok_and(lacks)) {
                return seen.content.clone();
            }
        }
        let size = entry.meta.len();
        let too_large = size > UNPACK_MAX;
        let effort = Effort {
            unpack: !too_large && size <= *unpack_bytes,
            entries_max: self.context.config.limits.entries,
            stopped: &|| run.stopped(),
        };
        let content = if entry.meta.is_dir() {
            let (content, changed) = inspect::directory(path, entry, &effort);
            // Copies that keep times look old from the first byte on.
            if now.since(changed) < settle {
                return Err(growing());
            }
            content
        } else {
            *unpack_bytes -= if effort.unpack { size } else { 0 };
            inspect::file(path, &entry.meta, &effort)
        };
        // What was looked at with less than all effort is looked at again.
        let readable = !matches!(&content, Err(fault) if fault.reason == Reason::Unreadable);
        let in_full = entry.meta.is_dir() || effort.unpack || too_large;
        if readable && in_full && !run.stopped() {
            self.seen.insert(path.into(), Inspected { stamp, content: content.clone() });
        }
        content
    }

    /// Findings, and the codes that could be judged. `blind` is a look that did not see everything.
    fn findings(
        &self,
        backups: &[Backup],
        blind: bool,
        now: Timestamp,
        store_device: Option<u64>,
    ) -> (Vec<Finding>, Vec<Code>) {
        let policy = &self.context.store.backups;
        let newest = newest_complete(backups);
        let age = newest.map(|newest| now.since(newest.taken));
        if blind || hides_the_newest(backups) {
            // There may be one that is younger and better than what is known: only good news is certain.
            let mut judged = Vec::new();
            judged.extend(newest.map(|_| Code::BackupMissing));
            judged.extend(age.filter(|age| *age <= policy.warn_after).map(|_| Code::BackupStale));
            return (Vec::new(), judged);
        }
        let mut findings = Vec::new();
        // A backup under way is neither a success nor a failure, and the future proves nothing.
        let judged = backups.iter().filter(|backup| {
            backup.state.as_ref().err().is_none_or(|fault| fault.reason.is_told())
        });
        if let Some(Backup { path, state: Err(fault), .. }) = judged.max_by_key(|b| b.taken) {
            let words = &fault.words;
            let evidence = format!("the newest backup {} is not complete: {words}", path.display());
            let lacks = fault.reason == Reason::WithoutVectors;
            let code = if lacks { Code::BackupIncomplete } else { Code::BackupInvalid };
            findings.push(Finding::new(code, name_of(path), evidence).with_items(&fault.missing));
        }
        let (Some(newest), Some(age)) = (newest, age) else {
            let evidence =
                format!("{} entries fit the patterns, none is a complete backup", backups.len());
            findings.push(Finding::new(Code::BackupMissing, "", evidence));
            return (findings, CODES.to_vec());
        };
        if age > policy.warn_after {
            let severity =
                if age > policy.critical_after { Severity::Critical } else { Severity::Warning };
            let hours = age.as_secs() / 3600;
            let evidence = format!(
                "the newest complete backup {} is {hours} h old, the limit is {} h",
                newest.path.display(),
                policy.warn_after.as_secs() / 3600
            );
            findings.push(Finding::new(Code::BackupStale, "", evidence).with_severity(severity));
        }
        if let Some((size, usual)) = shrunk(backups, newest) {
            let evidence = format!(
                "the newest backup has {}, those before it had {}",
                human::bytes(size),
                human::bytes(usual)
            );
            findings.push(Finding::new(Code::BackupShrunk, name_of(&newest.path), evidence));
        }
        findings.extend(self.unverified(backups, newest, now));
        if store_device == Some(newest.device) {
            let evidence = format!("{} lies on the filesystem of the store", newest.path.display());
            findings.push(Finding::new(Code::BackupSameDisk, "", evidence));
        }
        (findings, CODES.to_vec())
    }
}

impl Backups {
    /// Writes down which is the newest, for the drill.
    fn note_newest(&mut self, backups: &[Backup], now: Timestamp) {
        let (state, subject) = (&self.context.host.state, self.context.store.subject());
        if self.newest.is_none() {
            self.newest = Newest::load(state, &subject);
        }
        let Some(newest) = newest_complete(backups) else { return };
        let next = Newest::next(self.newest.as_ref(), &newest.path, newest.stamp, now);
        if self.newest.as_ref() != Some(&next) {
            next.save(state, &subject);
            self.newest = Some(next);
        }
    }

    /// See [`super::at_rest`].
    pub(super) fn at_rest(Config { collect, .. }: &Config, _: &Store) -> Pace {
        Pace {
            interval: collect.backups_interval,
            deadline: collect.deadline,
            wakes: Wake::NONE,
            touches_store: false, // backups should lie elsewhere, and are looked at when the store hangs, too
        }
    }
}

impl Collector for Backups {
    fn name(&self) -> CollectorName {
        CollectorName::Backups
    }

    fn descs(&self) -> &'static [&'static Desc] {
        &DESCS
    }

    fn codes(&self) -> &'static [Code] {
        if self.globs.is_empty() { &[] } else { &CODES }
    }

    fn pace(&self) -> Pace {
        Self::at_rest(&self.context.config, &self.context.store)
    }

    fn collect(&mut self, run: &Run) -> Observation {
        let mut out = Observation::default();
        if self.globs.is_empty() {
            return out;
        }
        let timeout = self.context.config.collect.device_timeout;
        let mut store_device = None;
        if self.context.device.ask_recent(DEVICE_ANSWER_AGE_MAX, timeout).is_ok() {
            let id = |path: &Path| fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
            self.vectors.refresh(&self.context, run.now, &run.stop);
            self.log = Log::of(&self.context);
            let directory = id(&self.context.store.seen_path);
            self.own =
                directory.into_iter().chain(id(&self.context.database.real_path())).collect();
            store_device = directory.map(|(device, _)| device);
        }
        self.ledger = Ledger::load(&self.context.host.state, &self.context.store.subject());
        let backups = self.judge_all(run, &mut out.problems);
        self.note_newest(&backups, run.now);
        if run.stopped() {
            let deadline = self.context.config.collect.deadline;
            out.problems.push(CollectError::Overdue { deadline });
        }
        let blind = !out.problems.is_empty();
        out.samples = samples(&backups, blind, run.now, store_device);
        out.problems.extend(problems(&backups));
        out.samples.extend(self.done(&backups, blind));
        (out.findings, out.judged) = self.findings(&backups, blind, run.now, store_device);
        // That is written down, whatever can be seen of the backups.
        out.findings.extend(self.failed());
        if !out.judged.contains(&Code::BackupFailed) {
            out.judged.push(Code::BackupFailed);
        }
        out
    }
}

fn samples(
    backups: &[Backup],
    blind: bool,
    now: Timestamp,
    store_device: Option<u64>,
) -> Vec<Sample> {
    let mut out = Vec::new();
    // What is known may not be the newest: its age would be too old.
    let newest = newest_complete(backups).filter(|_| !blind && !hides_the_newest(backups));
    if let Some(newest) = newest {
        out.push(NEWEST.sample(newest.taken.as_secs_f64()));
        out.push(AGE.sample(now.since(newest.taken).as_secs_f64()));
        out.extend(newest.state.as_ref().ok().map(|whole| SIZE.sample(whole.bytes as f64)));
        let same = store_device.map(|device| f64::from(u8::from(device == newest.device)));
        out.extend(same.map(|same| SAME_FILESYSTEM.sample(same)));
    }
    // Numbers of what was seen only would look like backups that went.
    if !blind {
        let complete = backups.iter().filter(|backup| backup.state.is_ok()).count();
        out.push(COUNT.sample(complete as f64));
        for reason in Reason::ALL {
            let is = |b: &&Backup| matches!(&b.state, Err(fault) if fault.reason == reason);
            let count = backups.iter().filter(is).count();
            out.push(INCOMPLETE.with(vec![reason.as_str().into()], count as f64));
        }
    }
    out
}

/// What could not be read, and what could not be told of anything newer than the newest complete backup.
fn problems(backups: &[Backup]) -> impl Iterator<Item = CollectError> {
    let newest = newest_complete(backups).map(|newest| newest.taken);
    let faults = backups.iter().filter_map(|backup| Some((backup, backup.state.as_ref().err()?)));
    let reported = faults.filter_map(move |(backup, fault)| match fault.reason {
        Reason::Unreadable => Some(CollectError::Unreadable {
            path: backup.path.clone(),
            source: io::Error::new(fault.kind, fault.words.clone()),
        }),
        Reason::Unknown if newest.is_none_or(|newest| backup.taken > newest) => {
            Some(CollectError::Backup { path: backup.path.clone(), why: fault.words.clone() })
        }
        _ => None,
    });
    reported.take(PROBLEMS_MAX)
}

fn newest_complete(backups: &[Backup]) -> Option<&Backup> {
    backups.iter().filter(|backup| backup.state.is_ok()).max_by_key(|backup| backup.taken)
}

/// Whether something that may be a complete backup is at least as young as the newest that is known to be one.
fn hides_the_newest(backups: &[Backup]) -> bool {
    let newest = newest_complete(backups).map(|newest| newest.taken);
    let unknown = |b: &&Backup| b.state.as_ref().err().is_some_and(Fault::may_be_complete);
    backups.iter().filter(unknown).any(|b| newest.is_none_or(|newest| b.taken >= newest))
}

/// The newest size and the usual one, when the newest has less than half of it. Archives are held against archives.
fn shrunk(backups: &[Backup], newest: &Backup) -> Option<(u64, u64)> {
    let size = newest.state.as_ref().ok()?.bytes;
    let mut before: Vec<u64> = backups
        .iter()
        .filter(|b| b.directory == newest.directory && b.path != newest.path)
        .filter_map(|b| Some(b.state.as_ref().ok()?.bytes))
        .collect();
    before.sort_unstable();
    let usual = *before.get(before.len() / 2)?;
    (size < usual / 2).then_some((size, usual))
}

/// The pattern that fits the backups which the exporter makes by itself, and nothing else.
fn own_pattern(store: &Store, rootfs: &Path) -> Option<String> {
    let job = store.backup.as_ref()?;
    let to = below_root(rootfs, &job.to);
    let name = store.path.file_name()?.to_string_lossy();
    let escaped = |text: &str| glob::Pattern::escape(text);
    Some(format!("{}/{}.backup.*", escaped(&to.to_string_lossy()), escaped(&name)))
}

/// Clocks of two hosts may differ by so much.
const FUTURE_SLACK: Duration = Duration::from_mins(1);
/// Of the newest so many are kept and judged.
const BACKUPS_MAX: usize = 500;
/// Gzip files that are unpacked in one run, newest first: some seconds of work after a start, none later.
const UNPACK_BYTES_PER_RUN: u64 = 2 * UNPACK_MAX;
/// More say no more.
const PROBLEMS_MAX: usize = 20;
const DEVICE_ANSWER_AGE_MAX: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests;
