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

mod ledger;
mod read;

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
    ledger::{Group, Known, Readings, Told},
    read::{NotRead, Reader, Source},
};
use crate::{
    clock::Timestamp,
    collectors::CollectError,
    config::CollectorName,
    findings::{Code, Finding},
    format::{sqlite::SqliteHeader, uuid::parse_uuid},
    human,
    progress::Phase,
    store::{
        Context, DATABASE_FILE,
        database::{Limits, QueryError, Stamp, open_bytes},
    },
};

/// How a pass is to be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner<'a> {
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
pub(super) fn pass(context: &Context, ledger: &mut Ledger, manner: &Manner<'_>) -> Passed {
    begin(ledger, manner);
    let mut passed = Passed::default();
    let subjects = match subjects(context) {
        Ok(subjects) => subjects,
        Err(problem) => return Passed { problem: Some(problem), ..passed },
    };
    passed.total_bytes = subjects.iter().map(Subject::bytes).sum();
    let names: BTreeSet<&str> = subjects.iter().map(|subject| subject.name.as_str()).collect();
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
        let decision = decide(subject, group, manner);
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
    let rate = context.config.collect.read_rate_bytes_max;
    let reader = Reader::new(rate, manner.stop, progress);
    let mut reading = Reading { context, manner, reader, region_log2, passed };
    for subject in to_read {
        if manner.stop.load(Ordering::Relaxed) {
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
fn begin(ledger: &mut Ledger, manner: &Manner<'_>) {
    let known = ledger.boot.as_deref();
    let trusted = known.is_some() && (known == manner.boot || known == manner.ended_in);
    if !trusted {
        ledger.groups.retain(|_, group| !group.told.is_empty());
    }
    if let Some(boot) = manner.boot {
        ledger.boot = Some(boot.to_owned());
    }
}

/// A database, or the folder of a segment.
#[derive(Debug)]
struct Subject {
    name: String,
    files: Vec<Seen>,
}

/// A file as `stat` tells of it.
#[derive(Debug, Clone, Copy)]
struct Seen {
    part: usize,
    stamp: Stamp,
    state: u64,
}

impl Subject {
    fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.stamp.size_bytes).sum()
    }

    fn is_database(&self) -> bool {
        self.name == DATABASE_FILE
    }

    fn changed(&self) -> Option<Timestamp> {
        self.files.iter().map(|file| file.stamp.modified.max(file.stamp.changed)).max()
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
    let known = |seen: &&Seen| {
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
fn decide(subject: &Subject, group: Option<&Group>, manner: &Manner<'_>) -> Decision {
    let known = group.map_or(0, |group| group.files.len());
    if known < subject.files.len() {
        let wait = if subject.is_database() { DATABASE_QUIET } else { SEGMENT_QUIET };
        // A time in the future is not quiet: the clock was set back, and may come to that moment again.
        let quiet = subject.changed().is_none_or(|changed| manner.now.since(changed) >= wait);
        if manner.learn {
            return if quiet { Decision::Read } else { Decision::Wait };
        }
    }
    let Some(group) = group.filter(|_| known > 0) else { return Decision::Rest };
    // A reading in the future was noted by a clock that has been set back since.
    let due = manner
        .again_after
        .is_some_and(|after| group.good > manner.now || manner.now.since(group.good) >= after);
    if manner.all || due { Decision::Read } else { Decision::Rest }
}

/// The database and the folders of segments, with the files that Chroma reads of them.
fn subjects(context: &Context) -> Result<Vec<Subject>, CollectError> {
    let root = &context.store.seen_path;
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| CollectError::Unreadable { path, source }
    };
    if remote(root).map_err(unreadable(root))? {
        return Ok(Vec::new());
    }
    let mut subjects = Vec::new();
    subjects.extend(database(context).map_err(unreadable(context.database.path()))?);
    let entries = fs::read_dir(root).map_err(unreadable(root))?;
    for entry in entries.take(context.config.collect.entries_max) {
        let entry = entry.map_err(unreadable(root))?;
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        if parse_uuid(name.as_bytes()).is_none() {
            continue;
        }
        let mut files = Vec::new();
        for (part, file) in SEGMENT_FILES.into_iter().enumerate() {
            // What cannot be looked at is told by the collector of the indexes.
            let Ok(meta) = fs::symlink_metadata(entry.path().join(file)) else { continue };
            if meta.is_file() && meta.len() > 0 {
                let stamp = Stamp::of(&meta);
                files.push(Seen { part, stamp, state: ledger::state_of(&stamp, None) });
            }
        }
        if !files.is_empty() {
            subjects.push(Subject { name, files });
        }
    }
    subjects.sort_by(|a, b| (!a.is_database(), &a.name).cmp(&(!b.is_database(), &b.name)));
    Ok(subjects)
}

fn database(context: &Context) -> io::Result<Option<Subject>> {
    let Some((stamp, counter)) = database_state(context)? else { return Ok(None) };
    let seen = Seen { part: 0, stamp, state: ledger::state_of(&stamp, Some(counter)) };
    Ok(Some(Subject { name: DATABASE_FILE.to_owned(), files: vec![seen] }))
}

/// `None` when there is no database that can be judged this way: in WAL mode its newest pages stand elsewhere.
fn database_state(context: &Context) -> io::Result<Option<(Stamp, u32)>> {
    let file = match context.database.open_plain() {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let meta = file.metadata()?;
    let mut head = [0; crate::format::sqlite::HEADER_LEN];
    if !meta.is_file() {
        return Ok(None);
    }
    let read = file.read_up_to(&mut head, 0)?;
    let header = SqliteHeader::parse(&head[..read]).ok().filter(|header| !header.wal);
    // By `stat`, as everywhere: overlayfs has another device by `fstat`.
    let stamp = context.database.stamp()?;
    Ok(header.map(|header| (stamp, header.change_counter)))
}

/// Whether other hosts may write there, whose changes show late.
fn remote(root: &Path) -> io::Result<bool> {
    let kind = rustix::fs::statfs(root).map_err(io::Error::from)?.f_type;
    Ok(REMOTE_MAGICS.iter().any(|magic| i128::from(*magic) == i128::from(kind)))
}

/// A pass under way.
struct Reading<'a> {
    context: &'a Context,
    manner: &'a Manner<'a>,
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
        let first = Group { good: self.manner.now, files: Vec::new(), told: Vec::new() };
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
                if self.manner.learn {
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
                    group.tell(seen, at, &differing, hashes.len(), how, self.manner.now);
                }
                Second::Unclear => {
                    good = false;
                    self.passed.unfinished =
                        Some("what looks changed could not be read again undisturbed");
                }
            }
        }
        if good {
            group.good = self.manner.now;
        }
        // A file that was written meanwhile is no part of it.
        (!group.files.is_empty()).then_some(group)
    }

    fn not_read(&mut self, subject: &Subject, seen: &Seen, error: NotRead) {
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

    fn path(&self, subject: &Subject, seen: &Seen) -> PathBuf {
        if subject.is_database() {
            return self.context.database.path().to_owned();
        }
        self.context.store.seen_path.join(&subject.name).join(subject.file(seen))
    }

    /// The state of the file now: whatever it was read as before holds only while this is the same.
    fn same(&self, subject: &Subject, seen: &Seen) -> Result<(), NotRead> {
        let state = if subject.is_database() {
            database_state(self.context)
                .map_err(NotRead::Io)?
                .map(|(stamp, counter)| ledger::state_of(&stamp, Some(counter)))
        } else {
            let meta = fs::symlink_metadata(self.path(subject, seen)).map_err(NotRead::Io)?;
            Some(ledger::state_of(&Stamp::of(&meta), None))
        };
        if state == Some(seen.state) { Ok(()) } else { Err(NotRead::Changed) }
    }

    fn hashes(
        &mut self,
        subject: &Subject,
        seen: &Seen,
        region_log2: u32,
    ) -> Result<Vec<u64>, NotRead> {
        self.same(subject, seen)?;
        let size = seen.stamp.size_bytes;
        let hashes =
            with_file(self.context, &self.path(subject, seen), subject.is_database(), |file| {
                self.reader.hashes(&mut Source::new(file, true), size, region_log2)
            })?;
        self.same(subject, seen)?;
        Ok(hashes)
    }

    /// Reads the regions that looked changed a second time.
    fn second(
        &mut self,
        subject: &Subject,
        seen: &Seen,
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
        seen: &Seen,
        region_bytes: u64,
        number: usize,
    ) -> Result<Region, NotRead> {
        let path = self.path(subject, seen);
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
        let limits =
            Limits { hold: LOCK_BUDGET, hold_unwaited: LOCK_BUDGET, stop: self.manner.stop };
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

impl Subject {
    fn file(&self, seen: &Seen) -> &'static str {
        file_name(self.is_database(), seen.part)
    }
}

fn file_name(database: bool, part: usize) -> &'static str {
    if database { DATABASE_FILE } else { SEGMENT_FILES.get(part).copied().unwrap_or_default() }
}

impl Group {
    /// Notes proved damage of a file, or what is new of it.
    fn tell(
        &mut self,
        seen: &Seen,
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
        self.told.push(Told {
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

/// What is said of a group; one finding, whatever the number of its files.
fn finding(name: &str, group: &Group) -> Option<Finding> {
    let database = name == DATABASE_FILE;
    let told = group.told.first()?;
    let file = file_name(database, told.part);
    let mut evidence = evidence(told, database);
    if !database {
        evidence = format!("{file}: {evidence}");
    }
    if group.told.len() > 1 {
        evidence = format!("{evidence}; {} more of its files changed too", group.told.len() - 1);
    }
    let code = if database { Code::SqliteCorrupt } else { Code::SegmentInconsistent };
    let path = if database { file.to_owned() } else { format!("{name}/{file}") };
    Some(Finding::new(code, name, evidence).with_remedy(remedy(&path, told, database)))
}

fn evidence(told: &Told, database: bool) -> String {
    let offsets: Vec<String> = told.offsets.iter().map(u64::to_string).collect();
    let more = if told.regions > told.offsets.len() as u64 { ", …" } else { "" };
    let counter = if database { "change counter, " } else { "" };
    let mut text = format!(
        "bytes changed although nobody wrote them: {} of {} regions of {} differ from the last good reading at {} ({counter}\
         size, inode and times of change are the same), from byte {}{more}; found at {}",
        told.regions,
        told.of,
        human::bytes(told.region_bytes),
        told.good,
        offsets.join(", "),
        told.found
    );
    let Readings { direct, agree, cache_good } = told.how;
    let way = if direct { "past the page cache" } else { "through the page cache" };
    let said = if agree { "the same" } else { "other wrong bytes each time: memory or cable" };
    text.extend(["; two readings ", way, " gave ", said]);
    if cache_good {
        text.push_str("; the page cache still has the good bytes");
    }
    if told.came_back {
        text.push_str("; in between a reading was good again: the fault comes and goes");
    }
    text
}

fn remedy(path: &str, told: &Told, database: bool) -> String {
    let first = if told.how.cache_good {
        format!(
            "Copy {path} elsewhere with cp now, before anything is restarted: the copy still gets the good bytes. "
        )
    } else {
        String::new()
    };
    let whole = if database { path.to_owned() } else { "the whole folder".to_owned() };
    format!(
        "{first}Stop Chroma before it writes {path} anew, keep a copy of it, and put {whole} back from a verified backup of the \
         time before. Then look at the disk and the memory: journalctl -k --grep 'I/O error|EDAC|MCE', smartctl -a, memtester."
    )
}

/// The files of a segment's folder. Their places in this list are kept in the state.
const SEGMENT_FILES: [&str; 5] =
    ["header.bin", "data_level0.bin", "length.bin", "link_lists.bin", "index_metadata.pickle"];

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
/// NFS, CIFS, SMB2, SMB, AFS, 9p, Ceph, Lustre, GPFS, OCFS2, GFS2, FUSE, which may be any of these.
const REMOTE_MAGICS: [i64; 12] = [
    0x6969,
    0xff53_4d42,
    0xfe53_4d42,
    0x517b,
    0x5346_414f,
    0x0102_1997,
    0x00c3_6400,
    0x0bd0_0bd0,
    0x4750_4653,
    0x7461_636f,
    0x0116_1970,
    0x6573_5546,
];

#[cfg(test)]
mod tests;
