//! Silent decay: bytes of the database or of an index that changed although nobody wrote them. No check of SQLite or of
//! Chroma sees a bit that flipped in a vector or in a blob of the queue.
//!
//! A hash of each region of each file is kept with the state of the file that it is about: inode, size, both times of
//! change, and SQLite's change counter. While the state is the same, the bytes must be. It is trusted only so far as it
//! can be:
//!
//! - A state is noted only when the file has been quiet for longer than a clock of a filesystem is coarse, and for longer
//!   than a change through a mapping may come late; and only when it is the same before and after the reading. From then on
//!   every write, also the roll-back of a hot journal, gives another state, and that begins anew without a word.
//! - After a restart of the host that did not come in order, times of change may be older than the bytes that were written
//!   last, so everything begins anew.
//! - Filesystems of other hosts are left out: their times are cached here.
//! - What looks wrong is read a second time, from the database under a short lock, before it is said.

mod finding;
mod ledger;
mod read;
mod subject;

pub(super) use ledger::Ledger;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use self::{
    finding::finding,
    ledger::{Group, Known, ProvenDamage, Readings},
    read::{NotRead, Reader, Source},
    subject::{FileState, Subject, Subjects, database_state, subjects},
};
use crate::{
    clock::Timestamp,
    collectors::CollectError,
    config::CollectorName,
    findings::Finding,
    progress::Phase,
    store::{
        Context,
        database::{Limits, QueryError, Stamp, open_bytes},
    },
};

/// How a pass is to be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct PassMode<'a> {
    pub(super) now: Timestamp,
    /// Read everything again, also what was read lately.
    pub(super) all: bool,
    /// What was read longer ago than this is read again; `None` when that has to wait.
    pub(super) again_after: Option<Duration>,
    /// This boot of the host, when it is known.
    pub(super) boot: Option<&'a str>,
    /// The boot during which this program ended in order, if it did.
    pub(super) ended_in: Option<&'a str>,
    /// Whether files that are not known yet are to be noted; otherwise nobody would keep it.
    pub(super) learn: bool,
    pub(super) stop: &'a AtomicBool,
}

/// What a pass gave.
#[derive(Debug, Default)]
pub(super) struct Passed {
    pub(super) findings: Vec<Finding>,
    pub(super) problem: Option<CollectError>,
    /// Bytes whose state is known, so that their decay would be seen, and all bytes.
    pub(super) known_bytes: u64,
    pub(super) total_bytes: u64,
    /// Longest lock on the database.
    pub(super) held: Duration,
    /// It was told to stop, or something has to be looked at once more.
    pub(super) unfinished: Option<&'static str>,
    /// Files were written too lately to be noted; they will be when they are quiet.
    pub(super) unsettled: bool,
}

/// Looks at all files of the store once.
pub(super) fn pass(context: &Context, ledger: &mut Ledger, mode: &PassMode<'_>) -> Passed {
    begin(ledger, mode);
    let mut passed = Passed::default();
    let Subjects { list: subjects, unread, problem } = match subjects(context) {
        Ok(subjects) => subjects,
        Err(problem) => return Passed { problem: Some(problem), ..passed },
    };
    passed.problem = problem;
    passed.total_bytes = subjects.iter().map(Subject::bytes).sum();
    let names = subjects.iter().map(|subject| subject.name.as_str());
    let names: BTreeSet<&str> = names.chain(unread.iter().map(String::as_str)).collect();
    ledger.groups.retain(|name, _| names.contains(name.as_str()));
    let region_log2 = ledger::region_log2(passed.total_bytes);
    let mut to_read = Vec::new();
    let mut groups = ledger.groups.len();
    for subject in &subjects {
        if let Some(group) = ledger.groups.get_mut(&subject.name) {
            group.forget_changed(subject);
        }
        let group = ledger.groups.get(&subject.name);
        let room = group.is_some() || groups < GROUPS_MAX;
        let decision = decide(subject, group, mode);
        passed.unsettled |= decision == Decision::Wait && room;
        if decision == Decision::Read && room {
            groups += usize::from(group.is_none());
            to_read.push(subject);
        } else {
            passed.known_bytes += known_bytes(subject, group);
        }
    }
    let progress = context.progress(CollectorName::Integrity);
    progress.begin(Phase::Checking, to_read.iter().map(|subject| subject.bytes()).sum());
    let rate = context.config.integrity.read_rate_bytes_max / 2;
    let reader = Reader::new(rate, mode.stop, progress);
    let mut reading = Reading { context, mode, reader, region_log2, passed };
    for subject in to_read {
        if mode.stop.load(Ordering::Relaxed) {
            reading.passed.unfinished = Some("stopped");
            break;
        }
        let before = ledger.groups.remove(&subject.name);
        let after = reading.group(subject, before);
        reading.passed.known_bytes += known_bytes(subject, after.as_ref());
        ledger.groups.extend(after.map(|group| (subject.name.clone(), group)));
    }
    let mut passed = reading.passed;
    for (name, group) in &ledger.groups {
        passed.findings.extend(finding(name, group));
    }
    passed
}

/// Forgets what a restart of the host has made untrustworthy: without an end in order, the last times of change may never
/// have come to the disk although the bytes did. What was told stays.
fn begin(ledger: &mut Ledger, mode: &PassMode<'_>) {
    let known = ledger.boot.as_deref();
    let trusted = known.is_some() && (known == mode.boot || known == mode.ended_in);
    if !trusted {
        ledger.groups.retain(|_, group| !group.told.is_empty());
    }
    if let Some(boot) = mode.boot {
        ledger.boot = Some(boot.to_owned());
    }
}

impl Group {
    /// Drops what is about another state of a file than the present one.
    fn forget_changed(&mut self, subject: &Subject) {
        let present = |part: usize| subject.files.iter().find(|seen| seen.part == part);
        self.files.retain(|known| present(known.part).map(|seen| seen.state) == known.state());
        self.told.retain(|told| self.files.iter().any(|known| known.part == told.part));
    }
}

fn known_bytes(subject: &Subject, group: Option<&Group>) -> u64 {
    let known = |seen: &&FileState| {
        group.is_some_and(|group| group.files.iter().any(|known| known.part == seen.part))
    };
    subject.files.iter().filter(known).map(|seen| seen.stamp.size_bytes).sum()
}

#[derive(Debug, PartialEq, Eq)]
enum Decision {
    /// Nothing is to be done.
    Rest,
    /// Nothing can be done before they are quiet.
    Wait,
    /// All files are to be read.
    Read,
}

/// Whether the files of `subject` are to be read. `group` is what is known of their present state.
fn decide(subject: &Subject, group: Option<&Group>, mode: &PassMode<'_>) -> Decision {
    let known = group.map_or(0, |group| group.files.len());
    if known < subject.files.len() {
        let wait = if subject.is_database() { DATABASE_QUIET } else { SEGMENT_QUIET };
        // A time in the future is not quiet: the clock was set back, and may come to that moment again.
        let quiet = subject.changed().is_none_or(|changed| mode.now.since(changed) >= wait);
        if mode.learn {
            return if quiet { Decision::Read } else { Decision::Wait };
        }
    }
    let Some(group) = group.filter(|_| known > 0) else { return Decision::Rest };
    // A reading in the future was noted by a clock that has been set back since.
    let due = mode
        .again_after
        .is_some_and(|after| group.good > mode.now || mode.now.since(group.good) >= after);
    if mode.all || due { Decision::Read } else { Decision::Rest }
}

/// A pass under way.
struct Reading<'a> {
    context: &'a Context,
    mode: &'a PassMode<'a>,
    reader: Reader<'a>,
    region_log2: u32,
    passed: Passed,
}

/// What a suspicion came to.
#[derive(Debug, PartialEq, Eq)]
enum Second {
    /// The bytes are as they should be: the first reading was wrong, or is not to be had again.
    Good,
    /// They are not.
    Bad(Readings),
    /// Somebody writes, or the answer was refused.
    Unclear,
}

impl Reading<'_> {
    /// Reads all files of `subject`, and gives what is known of it from now on.
    fn group(&mut self, subject: &Subject, before: Option<Group>) -> Option<Group> {
        let first = Group { good: self.mode.now, files: Vec::new(), told: Vec::new() };
        let mut group = before.unwrap_or(first);
        let mut good = true;
        for seen in &subject.files {
            let at = group.files.iter().position(|known| known.part == seen.part);
            let log2 = at.map_or(self.region_log2, |at| group.files[at].region_log2);
            let hashes = match self.hashes(subject, seen, log2) {
                Ok(hashes) => hashes,
                Err(error) => {
                    good = false;
                    self.not_read(subject, seen, error);
                    continue;
                }
            };
            let Some(at) = at else {
                if self.mode.learn {
                    group.files.push(Known::new(seen.part, seen.state, log2, hashes));
                }
                continue;
            };
            let differing = group.files[at].differing(&hashes);
            if differing.is_empty() {
                for told in group.told.iter_mut().filter(|told| told.part == seen.part) {
                    told.came_back = true;
                }
                continue;
            }
            match self.second(subject, seen, &group.files[at], &differing, &hashes) {
                Second::Good => {
                    tracing::warn!(
                        store = %self.context.store.name, subject = subject.name, file = subject.file(seen),
                        "A region read differently the second time; look at the kernel's log for faults of disk or memory."
                    );
                }
                Second::Bad(how) => {
                    good = false;
                    group.tell(seen, at, &differing, hashes.len(), how, self.mode.now);
                }
                Second::Unclear => {
                    good = false;
                    self.passed.unfinished =
                        Some("what looks changed could not be read again undisturbed");
                }
            }
        }
        if good {
            group.good = self.mode.now;
        }
        // A file that was written meanwhile is no part of it.
        (!group.files.is_empty()).then_some(group)
    }

    fn not_read(&mut self, subject: &Subject, seen: &FileState, error: NotRead) {
        match error {
            NotRead::Stopped => self.passed.unfinished = Some("stopped"),
            NotRead::Changed => {}
            NotRead::Io(error) if error.kind() == io::ErrorKind::NotFound => {}
            NotRead::Io(source) => {
                let path = self.path(subject, seen);
                self.passed.problem.get_or_insert(CollectError::Unreadable { path, source });
            }
        }
    }

    /// The path by which it is told.
    fn path(&self, subject: &Subject, seen: &FileState) -> PathBuf {
        if subject.is_database() {
            return self.context.database.path().to_owned();
        }
        self.context.store.seen_path.join(&subject.name).join(subject.file(seen))
    }

    /// The path by which it is opened. Errs when a link on the way cannot be read.
    fn place(&self, subject: &Subject, seen: &FileState) -> Result<PathBuf, NotRead> {
        if subject.is_database() {
            return Ok(self.context.database.path().to_owned());
        }
        let below = Path::new(&subject.name).join(subject.file(seen));
        self.context.place().at(below).map_err(NotRead::Io)
    }

    /// The state of the file now: whatever it was read as before holds only while this is the same.
    /// Errs when it is another by now, or cannot be looked at.
    fn same(&self, subject: &Subject, seen: &FileState) -> Result<(), NotRead> {
        let state = if subject.is_database() {
            database_state(self.context)
                .map_err(NotRead::Io)?
                .map(|(stamp, counter)| ledger::state_of(&stamp, Some(counter)))
        } else {
            let meta = fs::metadata(self.place(subject, seen)?).map_err(NotRead::Io)?;
            Some(ledger::state_of(&Stamp::of(&meta), None))
        };
        if state == Some(seen.state) { Ok(()) } else { Err(NotRead::Changed) }
    }

    fn hashes(
        &mut self,
        subject: &Subject,
        seen: &FileState,
        region_log2: u32,
    ) -> Result<Vec<u64>, NotRead> {
        self.same(subject, seen)?;
        let size = seen.stamp.size_bytes;
        let hashes =
            with_file(self.context, &self.place(subject, seen)?, subject.is_database(), |file| {
                self.reader.hashes(&mut Source::new(file, true), size, region_log2)
            })?;
        self.same(subject, seen)?;
        Ok(hashes)
    }

    /// Reads the regions that looked changed a second time.
    fn second(
        &mut self,
        subject: &Subject,
        seen: &FileState,
        known: &Known,
        differing: &[usize],
        first: &[u64],
    ) -> Second {
        std::thread::sleep(SECOND_PAUSE);
        let mut readings: Option<Readings> = None;
        for number in differing.iter().copied().take(SECOND_MAX) {
            let Some(good) = known.hashes().get(number).copied() else { continue };
            match self.second_of(subject, seen, known.region_bytes(), number) {
                Ok(Region { direct, again, cached }) if again != good => {
                    let agree = first.get(number) == Some(&again);
                    let cache_good = direct && cached == good;
                    readings = Some(match readings {
                        Some(all) => Readings {
                            direct,
                            agree: all.agree && agree,
                            cache_good: all.cache_good && cache_good,
                        },
                        None => Readings { direct, agree, cache_good },
                    });
                }
                Ok(_) => {}
                Err(_) => return Second::Unclear,
            }
        }
        match readings {
            _ if self.same(subject, seen).is_err() => Second::Unclear,
            Some(readings) => Second::Bad(readings),
            None => Second::Good,
        }
    }

    fn second_of(
        &mut self,
        subject: &Subject,
        seen: &FileState,
        region_bytes: u64,
        number: usize,
    ) -> Result<Region, NotRead> {
        let path = self.place(subject, seen)?;
        let size = seen.stamp.size_bytes;
        let reader = &mut self.reader;
        let mut read = |file: &File| {
            let mut source = Source::new(file, true);
            if !source.is_direct() {
                // Otherwise the same page in memory would be read twice.
                source.forget(number as u64 * region_bytes, region_bytes);
            }
            let again = reader.region(&mut source, size, region_bytes, number)?;
            let direct = source.is_direct();
            drop(source);
            let mut cache = Source::new(file, false);
            let cached = reader.region(&mut cache, size, region_bytes, number)?;
            Ok(Region { direct, again, cached })
        };
        if !subject.is_database() || region_bytes > LOCKED_BYTES_MAX {
            return with_file(self.context, &path, subject.is_database(), read);
        }
        let limits = Limits {
            hold: LOCK_BUDGET,
            hold_unwaited: LOCK_BUDGET,
            stop: self.mode.stop,
            progress: None,
        };
        let database = &self.context.database;
        let Ok(mut connection) = database.connect() else { return Err(NotRead::Changed) };
        let timed = connection.within(&limits, |connection| {
            // Takes the lock: the header is read, and nothing else.
            connection.query_row("PRAGMA user_version", [], |_| Ok(()))?;
            Ok(database.open_plain().map_err(NotRead::Io).and_then(|file| read(&file)))
        });
        self.passed.held = self.passed.held.max(timed.held);
        match timed.result {
            Ok(result) => result,
            // Too damaged for SQLite, so that nobody can write to it either.
            Err(QueryError::Damaged(_) | QueryError::NotADatabase(_)) => {
                with_file(self.context, &path, true, read)
            }
            Err(_) => Err(NotRead::Changed),
        }
    }
}

/// A region that was read again.
struct Region {
    direct: bool,
    again: u64,
    cached: u64,
}

fn with_file<T>(
    context: &Context,
    path: &Path,
    database: bool,
    work: impl FnOnce(&File) -> Result<T, NotRead>,
) -> Result<T, NotRead> {
    if database {
        // Closed by its rules, or a check beside this one would lose its lock.
        let file = context.database.open_plain().map_err(NotRead::Io)?;
        return work(&file);
    }
    work(&open_bytes(path).map_err(NotRead::Io)?)
}

impl Group {
    /// Notes proved damage of a file, or what is new of it.
    fn tell(
        &mut self,
        seen: &FileState,
        known: usize,
        differing: &[usize],
        regions: usize,
        how: Readings,
        now: Timestamp,
    ) {
        let region_bytes = self.files[known].region_bytes();
        let offsets = differing.iter().take(OFFSETS_MAX).map(|n| *n as u64 * region_bytes);
        let before = self.told.iter().position(|told| told.part == seen.part);
        let before = before.map(|at| self.told.remove(at));
        self.told.push(ProvenDamage {
            part: seen.part,
            good: before.as_ref().map_or(self.good, |told| told.good),
            found: before.as_ref().map_or(now, |told| told.found),
            offsets: offsets.collect(),
            regions: differing.len() as u64,
            of: regions as u64,
            region_bytes,
            how,
            came_back: before.is_some_and(|told| told.came_back),
        });
    }
}

/// Coarser than the clock of any filesystem. SQLite never writes its database through a mapping.
const DATABASE_QUIET: Duration = Duration::from_secs(5);
/// The kernel writes back what was changed through a mapping within 35 s, and a later change shows.
const SEGMENT_QUIET: Duration = Duration::from_mins(1);
const SECOND_PAUSE: Duration = Duration::from_secs(1);
/// Regions that are read a second time, at most, and offsets that are told.
const SECOND_MAX: usize = 16;
const OFFSETS_MAX: usize = 4;
/// Segments of a store, at most; some three hundred bytes of state each.
const GROUPS_MAX: usize = 8192;
/// No region is read under a lock that would take longer than the lock may be held.
const LOCKED_BYTES_MAX: u64 = 1 << 20;
const LOCK_BUDGET: Duration = Duration::from_millis(10);
#[cfg(test)]
mod tests;
