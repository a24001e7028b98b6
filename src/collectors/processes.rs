//! Who holds the database of a store, by the identity of its file: how many for writing, servers or programs that embed
//! Chroma, what they use, and the four ways in which that goes wrong: a second writer, no server any more, a server that
//! works on a file which is no longer there, a forgotten lock. What may hold it unseen is neither counted nor called absent.
//!
//! It touches the persist directory only while its filesystem answers: one `stat` of the database, and now and then one
//! question about the newest row of the queue, or one to the kernel for who writes; otherwise the last known identity serves.

mod judge;
mod locks;
mod overlap;
mod samples;
mod unseen;

pub(super) use samples::DESCS;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rustix::{
    fs::{AtFlags, FileType, Statx, StatxFlags},
    io::Errno,
};
use serde::{Deserialize, Serialize};

use self::{
    judge::Served,
    locks::LockWatch,
    overlap::{Overlap, Queue},
    samples::{CAPABILITY, CPU, DISCOVERED, LOCK_SECONDS, RESIDENT, STARTED, counts},
    unseen::{Lease, Unseen},
};
use super::{CollectError, Collector, Pace, Run};
use crate::{
    clock::{self, Ticks, Timestamp},
    config::{CollectorName, Config, Store},
    facts::wake::Wake,
    findings::Code,
    host::processes::{Blind, FileId, Holder, Walk, walk::ended},
    sample::{Desc, Observation},
    store::{Context, DATABASE_FILE, database::Limits},
};

static CODES: [Code; 5] = [
    Code::SecondWriter,
    Code::SqliteToolOpen,
    Code::ServerGone,
    Code::StoreReplaced,
    Code::LockHeld,
];

/// Who holds the database of one store.
#[derive(Debug)]
pub struct Processes {
    context: Context,
    /// Loaded at the first run.
    memory: Option<SavedProcesses>,
    seen: FirstSeen,
    locks: LockWatch,
    /// Whether a second writer was told at the last look.
    doubled: bool,
    /// Whether the last look was for somebody who has just opened the database.
    opened: bool,
    /// What the kernel said of who has it open.
    lease: Lease,
    /// The newest row of the queue at an earlier look.
    newest: Option<Newest>,
}

/// The newest row of the queue, as far as it could be read, and of which state of the file.
#[derive(Debug, Clone, Copy)]
struct Newest {
    at: Ticks,
    file: FileId,
    version: Version,
    row: Option<i64>,
}

/// What must survive a restart of this program.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct SavedProcesses {
    /// The boot in which the identities are valid: device numbers may change with the next one.
    boot: Option<String>,
    /// The file that the path led to last.
    current: Option<FileId>,
    /// Files that the path led to before and that somebody still holds; while one is held, its inode cannot become
    /// another file.
    former: Vec<FileId>,
    /// Who served the store last.
    served: Option<Served>,
    /// Who had it open for writing together.
    #[serde(default)]
    overlap: Option<Overlap>,
}

/// Where the path of the database leads.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Located {
    /// To this regular file, as it is now.
    At(FileId, Version),
    /// To nothing, or to something that is no file.
    Nowhere,
    /// It could not be asked.
    Unknown,
}

/// When processes were first seen holding the store for writing, by pid and start.
type FirstSeen = BTreeMap<(u32, u64), Timestamp>;

/// Who holds one file that is or was the database.
#[derive(Debug)]
struct Held {
    file: FileId,
    /// Whether the path leads elsewhere now.
    stale: bool,
    /// Whether it has no name any more.
    deleted: bool,
    holders: Vec<Holder>,
}

/// Differs after every commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version {
    modified: (i64, u32),
    size: u64,
}

impl Processes {
    /// Reads nothing yet.
    #[must_use]
    pub fn new(context: &Context) -> Self {
        let (seen, locks) = (BTreeMap::new(), LockWatch::default());
        Self {
            context: context.clone(),
            memory: None,
            seen,
            locks,
            doubled: false,
            opened: false,
            lease: Lease::default(),
            newest: None,
        }
    }

    /// With `fresh` no walk from before this turn will do. Errs when `/proc` cannot be read.
    fn read(&mut self, run: &Run, fresh: bool, out: &mut Observation) -> Result<(), CollectError> {
        let (located, device) = self.locate(&mut out.problems);
        let before = self.memory.clone().unwrap_or_else(|| self.recall());
        let mut memory = before.clone();
        memory.note(located);

        let host = Arc::clone(&self.context.host);
        let table = &host.processes;
        let devices: Vec<u64> = device.into_iter().collect();
        let max_age = if fresh { Duration::ZERO } else { self.context.config.collect.interval / 2 };
        let mut walk = table.walk(&memory.files(), &devices, max_age)?;
        let named = self.context.deleted_databases(&walk, &memory.files());
        if !named.is_empty() {
            memory.former.extend(&named);
            memory.former.truncate(FORMER_MAX);
            walk = table.walk(&memory.files(), &devices, max_age)?;
        }
        let mut held = self.held(&walk, &memory, located, &named);
        let doubled = judge::second_writer(&union(&held)).is_some();
        if doubled && !self.doubled {
            // A child on its way from fork to exec holds what its parent holds and looks like a stranger for a moment.
            std::thread::sleep(SECOND_READING_AFTER);
            walk = table.walk(&memory.files(), &devices, Duration::ZERO)?;
            held = self.held(&walk, &memory, located, &named);
        }
        let mut unseen = self.unseen(&walk, located);
        if matches!(unseen, Unseen::Writer(_)) {
            // The walk may be older than the answer about who writes.
            walk = table.walk(&memory.files(), &devices, Duration::ZERO)?;
            held = self.held(&walk, &memory, located, &named);
            unseen = self.unseen(&walk, located);
        }
        let is_held = |file| held.iter().any(|held| held.file == file && !held.holders.is_empty());
        memory.former.retain(|file| is_held(*file));
        // The inode of a file that nobody holds may become another file.
        memory.current =
            memory.current.filter(|file| located != Located::Nowhere || is_held(*file));

        let holders = union(&held);
        let main = judge::main(&holders);
        let seen = self.seen_since(&holders, run.now);
        let listed = walk.hidden().is_none().then_some(walk.unreadable().len());
        out.samples.extend(counts(&holders, listed, &unseen));
        let second_writer = judge::second_writer(&holders);
        self.doubled = second_writer.is_some();
        memory.overlap = self.overlap(memory.overlap.as_ref(), &holders, located, run);
        let left = memory.overlap.as_ref().and_then(Overlap::finding);
        out.findings.extend(second_writer.or(left));
        out.findings.extend(judge::sqlite_tool(&holders));
        out.findings.extend(judge::store_replaced(&held, located));
        match judge::serving(memory.served.as_ref(), &holders, &seen, run.now) {
            judge::Serving::By(served) => {
                memory.served = Some(served);
                out.judged.push(Code::ServerGone);
            }
            _ if unseen.maybe_server() => out.unjudged.push(Code::ServerGone),
            judge::Serving::Nobody(served) => {
                out.findings.push(served.gone(run.now));
                memory.served = Some(served);
            }
            judge::Serving::Unjudged => out.judged.push(Code::ServerGone),
        }
        judged_with(&unseen, walk.hidden(), out);
        out.problems.extend(unseen.problem());

        if let Some(main) = main {
            self.measure(main, out);
        }
        self.watch_locks(run, located, &holders, out);
        self.seen = seen;
        if memory != before {
            self.context.host.state.save(STATE_KIND, &self.context.store.subject(), &memory);
        }
        self.memory = Some(memory);
        Ok(())
    }

    /// Who may hold the file that the path leads to besides those whom `walk` has seen.
    fn unseen(&mut self, walk: &Walk, located: Located) -> Unseen {
        let blind = self.context.host.processes.blind(walk);
        let (writers, seen) = match located {
            Located::At(file, _) if blind.is_some() => {
                let seen = walk.holders(file).iter().any(|holder| holder.writes);
                (self.lease.writers(&self.context, file), seen)
            }
            _ => (None, false),
        };
        Unseen::judge(blind, writers, seen)
    }

    /// The overlap of writers after this look.
    fn overlap(
        &mut self,
        before: Option<&Overlap>,
        holders: &[Holder],
        located: Located,
        run: &Run,
    ) -> Option<Overlap> {
        let writers = judge::chromas(holders);
        let table = &self.context.host.processes;
        // One whose state is not known counts as alive.
        let lives =
            |member: &overlap::Member| table.lives(member.pid, member.start_ticks) != Some(false);
        let earlier = match located {
            Located::At(file, _) => self.newest.filter(|newest| newest.file == file),
            _ => None,
        };
        let mut rows = Rows { context: &self.context, run, earlier, now: None, located };
        let after = overlap::step(before, &writers, lives, &mut rows, run.now);
        // What is known now is what was before the next one comes.
        if writers.len() == 1 && rows.due() {
            rows.now();
        }
        self.newest = rows.now.or(rows.earlier);
        after
    }

    /// Where the path leads, and the device of the directory.
    fn locate(&self, problems: &mut Vec<CollectError>) -> (Located, Option<u64>) {
        let timeout = self.context.config.collect.device_timeout;
        if let Err(CollectError::Hung { .. }) =
            self.context.device.ask_recent(DEVICE_ANSWER_AGE_MAX, timeout)
        {
            return (Located::Unknown, None); // the collectors that need it say so
        }
        let dir = &self.context.store.seen_path;
        // When the directory is gone as well, what was deleted in it lay on the device of the one above, most likely.
        let device =
            dir.ancestors().take(2).find_map(|dir| Some(FileId::from(&stat(dir).ok()?).device));
        let path = dir.join(DATABASE_FILE);
        let located = match stat(&path) {
            Ok(stat) if FileType::from_raw_mode(stat.stx_mode.into()) == FileType::RegularFile => {
                let modified = (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec);
                Located::At(FileId::from(&stat), Version { modified, size: stat.stx_size })
            }
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => Located::Nowhere,
            Err(errno) => {
                problems.push(CollectError::Unreadable { path, source: errno.into() });
                Located::Unknown
            }
        };
        (located, device)
    }

    fn recall(&self) -> SavedProcesses {
        let loaded: Option<SavedProcesses> =
            self.context.host.state.load(STATE_KIND, &self.context.store.subject());
        let boot =
            std::fs::read_to_string(self.context.config.procfs.join("sys/kernel/random/boot_id"));
        let boot = boot.ok().map(|id| id.trim().to_owned());
        match loaded {
            Some(memory) if memory.boot == boot && boot.is_some() => memory,
            loaded => SavedProcesses {
                boot,
                served: loaded.and_then(|m| m.served),
                ..SavedProcesses::default()
            },
        }
    }

    /// Who holds each file that is or was the database. Of one that was, only those count that held it when it was, or
    /// whose file was `named` as deleted from the path right now: after a restore its inode may be a file of the new
    /// store.
    fn held(
        &self,
        walk: &Walk,
        memory: &SavedProcesses,
        located: Located,
        named: &[FileId],
    ) -> Vec<Held> {
        let trusted = |holder: &Holder| {
            let served = memory.served.as_ref();
            self.seen.contains_key(&(holder.pid, holder.start_ticks))
                || served.is_some_and(|served| served.is(holder))
        };
        let held = |file: FileId| {
            let stale = Some(file) != memory.current || located == Located::Nowhere;
            let mut holders = walk.holders(file).to_vec();
            holders.retain(|holder| !stale || named.contains(&file) || trusted(holder));
            let deleted = walk.deleted().iter().any(|deleted| deleted.file == file);
            Held { file, stale, deleted, holders }
        };
        memory.files().into_iter().map(held).collect()
    }

    /// When each of those that write was first seen.
    fn seen_since(&self, holders: &[Holder], now: Timestamp) -> FirstSeen {
        let writers = holders.iter().filter(|holder| holder.writes);
        let keys = writers.map(|holder| (holder.pid, holder.start_ticks));
        keys.map(|key| (key, self.seen.get(&key).copied().unwrap_or(now))).collect()
    }

    /// What the process uses whose numbers are the store's.
    fn measure(&self, main: &Holder, out: &mut Observation) {
        out.samples.push(STARTED.sample(main.started.as_secs_f64()));
        match self.context.host.processes.attributes(main) {
            Ok(attributes) => {
                out.samples.push(RESIDENT.sample(attributes.resident_bytes as f64));
                out.samples.push(CPU.sample(attributes.cpu_seconds));
            }
            Err(CollectError::Unreadable { source, .. }) if ended(&source) => {}
            Err(problem) => out.problems.push(problem),
        }
    }

    fn watch_locks(
        &mut self,
        run: &Run,
        located: Located,
        holders: &[Holder],
        out: &mut Observation,
    ) {
        let Located::At(file, version) = located else {
            self.locks.forget();
            out.judged.push(Code::LockHeld);
            return;
        };
        let table = &self.context.host.processes;
        let main = judge::main(holders).map(|main| main.pid);
        let read = || table.locks(file, holders);
        match self.locks.check(run, version, main, read) {
            Ok(held) => {
                let longest = held.iter().map(|held| held.lasted).max().unwrap_or_default();
                if !out.unjudged.contains(&Code::LockHeld) {
                    out.samples.push(LOCK_SECONDS.sample(longest.as_secs_f64()));
                }
                out.findings.extend(locks::lock_held(&held, holders));
                out.judged.push(Code::LockHeld);
            }
            // Some kernels and sandboxes have no such table.
            Err(CollectError::Unreadable { source, .. })
                if source.kind() == std::io::ErrorKind::NotFound => {}
            Err(problem) => out.problems.push(problem),
        }
    }
}

impl SavedProcesses {
    /// Follows the path: what it led to before is kept as former.
    fn note(&mut self, located: Located) {
        let Located::At(file, _) = located else { return };
        if let Some(before) = self.current.replace(file)
            && before != file
            && !self.former.contains(&before)
        {
            self.former.push(before);
        }
        self.former.retain(|former| *former != file);
        let excess = self.former.len().saturating_sub(FORMER_MAX);
        self.former.drain(..excess);
    }

    /// Every file that is or was the database.
    fn files(&self) -> Vec<FileId> {
        self.current.iter().chain(&self.former).copied().collect()
    }
}

impl Processes {
    /// See [`super::at_rest`].
    pub(super) fn at_rest(Config { collect, .. }: &Config, _: &Store) -> Pace {
        Pace {
            interval: collect.interval,
            deadline: collect.deadline,
            wakes: Wake::OPENED | Wake::NAMES | Wake::RESCAN,
            touches_store: false,
        }
    }
}

impl Collector for Processes {
    fn name(&self) -> CollectorName {
        CollectorName::Processes
    }

    fn descs(&self) -> &'static [&'static Desc] {
        &DESCS
    }

    fn codes(&self) -> &'static [Code] {
        &CODES
    }

    fn pace(&self) -> Pace {
        let rest = Self::at_rest(&self.context.config, &self.context.store);
        // The kernel tells of an opening before the descriptor can be seen.
        Pace { interval: if self.opened { OPENED_AGAIN } else { rest.interval }, ..rest }
    }

    fn collect(&mut self, run: &Run) -> Observation {
        let mut out = Observation::default();
        let fresh = self.opened || !run.wake.is_empty();
        self.opened = run.wake.meets(Wake::OPENED);
        out.samples.extend(self.context.host.processes.rights().iter().map(|right| {
            CAPABILITY.with(vec![right.name.into()], f64::from(u8::from(right.held)))
        }));
        let discovered = self.context.found.is_some();
        out.samples.push(DISCOVERED.sample(f64::from(u8::from(discovered))));
        if let Err(problem) = self.read(run, fresh, &mut out) {
            out.problems.push(problem);
        }
        out
    }
}

/// Time to the look that comes after the one that an opening of the database has started.
const OPENED_AGAIN: Duration = Duration::from_millis(100);
/// Time between the first sight of a second writer and the look that confirms it.
const SECOND_READING_AFTER: Duration = Duration::from_millis(20);

/// The file itself is asked, without waiting for a filesystem that would have to ask a server. Errs when the kernel does not say.
fn stat(path: &std::path::Path) -> Result<Statx, Errno> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    rustix::fs::statx(rustix::fs::CWD, path, flags, StatxFlags::BASIC_STATS)
}

/// The holders of any of the files, each process once, oldest first.
fn union(held: &[Held]) -> Vec<Holder> {
    let mut holders: Vec<Holder> = Vec::new();
    for found in held.iter().flat_map(|held| held.holders.iter().cloned()) {
        match holders.iter_mut().find(|holder| holder.is(&found)) {
            Some(holder) => {
                holder.writes |= found.writes;
                holder.descriptors.extend(found.descriptors);
                holder.children.extend(found.children);
                holder.children.sort_unstable();
                holder.children.dedup();
            }
            None => holders.push(found),
        }
    }
    holders.sort_by_key(|holder| (holder.start_ticks, holder.pid));
    holders
}

/// The queue of a store, read when its newest row matters.
struct Rows<'a> {
    context: &'a Context,
    run: &'a Run,
    located: Located,
    earlier: Option<Newest>,
    now: Option<Newest>,
}

impl Rows<'_> {
    /// Whether the newest row should be read anew: the file has changed, and a while ago, for reading opens the file, of which
    /// the kernel tells everybody who watches it, us included.
    fn due(&self) -> bool {
        let Located::At(_, version) = self.located else { return false };
        self.now.is_none()
            && self.earlier.is_none_or(|earlier| {
                earlier.version != version
                    && earlier.at.elapsed() >= self.context.config.collect.interval / 2
            })
    }

    fn read(&self) -> Option<i64> {
        let mut connection = self.context.database.connect().ok()?;
        let limits =
            Limits { hold: HOLD, hold_unwaited: HOLD, stop: &self.run.stop, progress: None };
        let newest = "SELECT max(seq_id) FROM embeddings_queue";
        let asked = connection.within(&limits, |connection| {
            connection.query_row(newest, [], |row| row.get::<_, Option<i64>>(0))
        });
        asked.result.ok().map(Option::unwrap_or_default)
    }
}

impl Queue for Rows<'_> {
    fn earlier(&self) -> Option<i64> {
        self.earlier?.row
    }

    fn now(&mut self) -> Option<i64> {
        let Located::At(file, version) = self.located else { return None };
        let row = match self.earlier {
            // Nothing was written since.
            Some(earlier) if earlier.version == version && earlier.row.is_some() => earlier.row,
            _ => self.read(),
        };
        self.now = Some(Newest { at: clock::ticks(), file, version, row });
        row
    }
}

/// Which codes this look could judge, with somebody unseen or none.
fn judged_with(unseen: &Unseen, hidden: Option<&Blind>, out: &mut Observation) {
    if unseen.writers_known() {
        out.judged.extend([Code::SecondWriter, Code::SqliteToolOpen]);
    } else {
        out.unjudged.extend([Code::SecondWriter, Code::SqliteToolOpen]);
    }
    if *unseen == Unseen::Nobody {
        out.judged.push(Code::StoreReplaced);
    } else {
        out.unjudged.push(Code::StoreReplaced);
    }
    if hidden == Some(&Blind::Namespace) && !unseen.writers_known() {
        // The table of locks leaves out those of other namespaces.
        out.unjudged.push(Code::LockHeld);
    }
}

/// The newest row of the queue is the end of one index.
const HOLD: Duration = Duration::from_millis(10);
const STATE_KIND: &str = "processes";
const DEVICE_ANSWER_AGE_MAX: Duration = Duration::from_secs(1);
/// Former databases that are followed while somebody holds them.
const FORMER_MAX: usize = 8;

#[cfg(test)]
mod tests;
