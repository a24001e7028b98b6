//! Owners, groups, modes, types and access lists of a store against what was declared or learnt, and whether the user that
//! Chroma runs as can write what it must: the user of a process that holds the database, now or earlier, or else, as a guess,
//! who owns most of the store. Of a directory that is no store nothing is said.
//!
//! Three looks, by what they cost. The directory itself, the database and its journal are looked at in every run. A wake
//! brings a walk of everything, or, where the last one was too expensive for that, a look at what lies directly in the
//! directory. A walk of everything is due at its interval whatever the events said, in slices between which runs go on,
//! so that it takes a twentieth of a core at most; `check` walks in one go.
//!
//! What is not declared is learnt at the first look. Afterwards an entry that nobody knows is held against what Chroma
//! makes under any umask, then learnt too; what is known and gone is forgotten. A change that was wanted is made known by
//! declaring it: what agrees with the declaration is learnt anew. Mending is not this collector's business.

mod baseline;
mod judge;
mod lists;
mod report;
mod scan;
mod servers;
pub mod survey;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{CollectError, Collector, Pace, Run};
use crate::{
    clock::{self, Ticks, Timestamp},
    config::{CollectorName, Config, Store},
    facts::wake::Wake,
    findings::Code,
    host::processes::FileId,
    sample::{Desc, Observation, Sample},
    store::Context,
};

use self::{
    baseline::Baseline,
    judge::{DriftKind, Tally},
    scan::{Core, Scan},
    servers::{Server, Servers, Users},
};

/// Owners, groups and modes of one store.
#[derive(Debug)]
pub struct Permissions {
    context: Context,
    /// Read from the state directory at the first run.
    memory: Option<SavedPermissions>,
    /// The walk under way.
    scan: Option<Scan>,
    /// What lies directly in the directory, without its core; `None` before the first look.
    top: Option<Tally>,
    /// What lies deeper.
    below: Option<Tally>,
    /// What the last whole walk was.
    last: Option<Last>,
    /// What the last look at the top cost, and when it ended.
    last_top: Option<(Ticks, Duration)>,
    /// Events came that no whole walk has followed yet.
    owed: bool,
    /// Work that a walk may do now without exceeding its share of a core.
    allowance: Duration,
    /// When the allowance was reckoned.
    allowed_at: Option<Ticks>,
    /// As whom Chroma seems to run, and when that was told.
    majority: Option<(Ticks, Option<Server>)>,
    /// The identity of the directory that was looked at.
    directory: Option<FileId>,
    next: Duration,
}

/// The last whole walk.
#[derive(Debug)]
struct Last {
    began_at: Timestamp,
    ended_at: Timestamp,
    ended: Ticks,
    /// Time at work, without pauses.
    work: Duration,
    /// For whom access was judged, and whether the filesystem was read-only for them.
    users: Users,
    /// What it could not look at.
    problems: Vec<scan::Missed>,
    /// Access lists of everything were read by a walk that began then.
    lists_at: Option<Timestamp>,
}

/// What survives a restart.
#[derive(Debug)]
struct SavedPermissions {
    baseline: Baseline,
    saved: Option<Ticks>,
    history: History,
    saved_history: History,
    servers: Servers,
}

/// The small document, written whenever it changes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct History {
    /// When drift of a kind was first seen, in the order of [`DriftKind::ALL`].
    first_seen: [Option<Timestamp>; 5],
    /// As whom Chroma ran last.
    servers: Vec<Server>,
}

const BASELINE_DOCUMENT: &str = "permissions";
const HISTORY_DOCUMENT: &str = "permissions-history";

/// A baseline up to this many entries is saved whenever it changes; a larger one after a pause.
const SAVED_AT_ONCE_MAX: usize = 8_192;
const SAVE_PAUSE: Duration = Duration::from_mins(10);

/// Runs of a walk under way follow each other at this distance.
const SLICE_PAUSE: Duration = Duration::from_millis(250);
/// A walk takes this part of a core at most, and this much work at a time: a store of some ten thousand entries is done
/// in one slice.
const SHARE: u32 = 20;
const ALLOWANCE_MAX: Duration = Duration::from_millis(25);
/// A walk that events brought follows the one before after this many times its work.
const WOKEN_REST: u32 = 100;
/// The same for a walk that nothing brought: where it costs next to nothing there is no need to wait for its interval.
const IDLE_REST: u32 = 5_000;
/// Access lists are read anew after this time even of inodes that say that they did not change: clocks jump.
const LISTS_AGE_MAX: Duration = Duration::from_hours(1);
/// A change is stamped by the filesystem's clock, which may be a little behind ours.
const CLOCK_SLACK: Duration = Duration::from_secs(2);

impl Permissions {
    /// For the store of `context`. Touches nothing yet.
    #[must_use]
    pub fn new(context: &Context) -> Self {
        Self {
            context: context.clone(),
            memory: None,
            scan: None,
            top: None,
            below: None,
            last: None,
            last_top: None,
            owed: false,
            allowance: ALLOWANCE_MAX,
            allowed_at: None,
            majority: None,
            directory: None,
            next: context.config.collect.interval,
        }
    }

    fn inspect(
        &mut self,
        run: &Run,
        memory: &mut SavedPermissions,
    ) -> Result<Observation, CollectError> {
        let root = scan::open(&self.context.store.seen_path)?;
        let core = Core::read(root, &self.context.store.seen_path)?;
        if !core.is_store(&self.context.store.seen_path) && memory.baseline.learnt_at.is_none() {
            // A path that was mistyped: whatever is to be said of `/tmp`, nobody wants commands for it.
            self.scan = None;
            return Ok(Observation { unjudged: CODES.to_vec(), ..Observation::default() });
        }
        let mut servers = memory.servers.find(core.database_id(), core.owner(), run.now);
        memory.baseline.learn_creator(servers.first().map(|s| &s.identity));
        let guessed = servers.is_empty();
        if guessed {
            servers.extend(self.majority(run));
        }
        let readonly = self.readonly(&core, &memory.servers, &servers);
        if self.directory.replace(core.directory_id()) != Some(core.directory_id()) {
            // Another directory has taken its place; what is under way belongs to the old one.
            self.scan = None;
            self.owed = true;
        }
        let users = Users { servers, readonly, guessed };
        let scan_differs = self.scan.as_ref().is_some_and(|s| s.users != users);
        if scan_differs || self.last.as_ref().is_some_and(|l| l.users != users) {
            self.owed = true;
        }
        if scan_differs {
            self.scan = None;
        }
        let core_tally = core.judge(&self.context, memory, &users);
        self.walk(run, memory, &users)?;

        let mut total = None;
        if let (Some(top), Some(below)) = (&self.top, &self.below) {
            let mut sum = core_tally.clone();
            sum.add(top);
            sum.add(below);
            note_first_seen(&mut memory.history, &sum, run.now);
            total = Some(sum);
        }
        Ok(self.observation(memory, total.as_ref(), &core_tally, &users))
    }

    /// As whom Chroma seems to run; asked anew when something happened, and seldom without that.
    fn majority(&mut self, run: &Run) -> Option<Server> {
        let now = clock::ticks();
        let rest = self.context.config.collect.permissions_interval;
        let known = self
            .majority
            .as_ref()
            .filter(|(at, _)| run.wake.is_empty() && !run.deep && now.since(*at) < rest);
        if let Some((_, server)) = known {
            return server.clone();
        }
        let server = scan::majority(&self.context);
        self.majority = Some((now, server.clone()));
        server
    }

    fn readonly(&self, core: &Core, known: &Servers, servers: &[Server]) -> bool {
        let collect = &self.context.config.collect;
        let space = self.context.device.ask_recent(collect.interval, collect.device_timeout);
        space.is_ok_and(|s| s.readonly) && known.readonly_for(servers, core.mount_id())
    }

    /// Walks as far as events, intervals and the share of a core allow. Errs when the directory cannot be opened.
    fn walk(
        &mut self,
        run: &Run,
        memory: &mut SavedPermissions,
        users: &Users,
    ) -> Result<(), CollectError> {
        let woken = !run.wake.is_empty();
        self.owed |= woken;
        self.next = self.context.config.collect.interval;
        let now = clock::ticks();
        // A deep run sees everything itself: it does not go on with slices of earlier ones.
        if run.deep || self.scan.is_none() && self.due(run, now) {
            self.owed = false;
            let lists_since = self.lists_since(run.now);
            self.scan =
                Some(Scan::start(&self.context, memory, users.clone(), lists_since, run.now)?);
        }
        if let Some(mut scan) = self.scan.take() {
            let allowance = self.allowance_at(now);
            let worked = scan.run(memory, run, if run.deep { Duration::MAX } else { allowance });
            self.allowance = allowance.saturating_sub(worked.time);
            if worked.done {
                self.finish(run, memory, scan);
            } else if run.stopped() {
                self.owed = true;
            } else {
                self.scan = Some(scan);
            }
        }
        if woken && (self.scan.is_some() || self.owed) {
            self.inspect_top(run, memory, users, now);
        }
        if self.scan.is_some() {
            self.next = self.next.min(SLICE_PAUSE);
        } else if let Some(last) = self.last.as_ref().filter(|_| self.owed) {
            let rest = (last.work * WOKEN_REST).saturating_sub(last.ended.elapsed());
            self.next = self.next.min(rest.max(Duration::from_millis(1)));
        }
        Ok(())
    }

    /// Whether a whole walk shall begin.
    fn due(&self, run: &Run, now: Ticks) -> bool {
        let Some(last) = &self.last else { return true };
        let rested = now.since(last.ended);
        run.wake.meets(Wake::RESCAN)
            || self.owed && rested >= last.work * WOKEN_REST
            || rested >= last.work * IDLE_REST
            || rested >= self.context.config.collect.permissions_interval
    }

    /// What may be worked now: the share of the time since the last reckoning, and no more than one slice.
    fn allowance_at(&mut self, now: Ticks) -> Duration {
        let earned =
            self.allowed_at.replace(now).map_or(Duration::ZERO, |at| now.since(at) / SHARE);
        (self.allowance + earned).min(ALLOWANCE_MAX)
    }

    fn lists_since(&self, now: Timestamp) -> Option<Timestamp> {
        let last = self.last.as_ref()?;
        let read_at = last.lists_at.filter(|at| now >= *at && now.since(*at) < LISTS_AGE_MAX)?;
        Some(last.began_at.min(now).max(read_at).minus(CLOCK_SLACK))
    }

    fn finish(&mut self, run: &Run, memory: &mut SavedPermissions, scan: Scan) {
        let baseline = &mut memory.baseline;
        let whole = scan.missed.is_empty();
        if baseline.learnt_at.is_none() {
            baseline.learnt_at = Some(run.now);
            baseline.partial = !whole;
            baseline.changed = true;
        } else if whole {
            baseline.changed |= std::mem::replace(&mut baseline.partial, false);
            baseline.forget_unseen(&scan::core_hashes());
        }
        let lists_at = match scan.judge.lists_since {
            _ if scan.judge.learning || !whole => None,
            None => Some(scan.began_at),
            Some(_) => self.last.as_ref().and_then(|last| last.lists_at),
        };
        let [_, top, below] = scan.judge.tallies;
        (self.top, self.below) = (Some(top), Some(below));
        self.last = Some(Last {
            began_at: scan.began_at,
            ended_at: run.now,
            ended: clock::ticks(),
            work: scan.work,
            users: scan.users,
            problems: scan.missed,
            lists_at,
        });
    }

    /// A look at what lies directly in the directory, as long as that is cheap.
    fn inspect_top(&mut self, run: &Run, memory: &mut SavedPermissions, users: &Users, now: Ticks) {
        // Without a whole walk nothing is known to compare with.
        if memory.baseline.learnt_at.is_none()
            || self.last_top.is_some_and(|(ended, work)| now.since(ended) < work * WOKEN_REST)
        {
            return;
        }
        let (tally, work) = scan::at_top(&self.context, memory, users, self.lists_since(run.now));
        self.last_top = Some((clock::ticks(), work));
        if let Some(tally) = tally {
            self.top = Some(tally);
        }
    }

    fn observation(
        &self,
        memory: &SavedPermissions,
        total: Option<&Tally>,
        core: &Tally,
        users: &Users,
    ) -> Observation {
        let mut samples = Vec::new();
        if let Some(last) = &self.last {
            samples.push(WALK_SECONDS.sample(last.work.as_secs_f64()));
            samples.push(WALK_TIMESTAMP.sample(last.ended_at.as_secs_f64()));
        }
        if let Some(total) = total {
            samples.extend(samples_of(total, &memory.history, users));
        }
        // Before the first walk has ended, what the core shows is worth saying already.
        let known = total.unwrap_or(core);
        let path = &self.context.store.path;
        Observation {
            samples,
            findings: report::findings(known, path, &memory.history.first_seen, users.guessed),
            problems: report::problems(known, self.last.as_ref(), &self.context),
            judged: if total.is_some() { CODES.to_vec() } else { Vec::new() },
            ..Observation::default()
        }
    }

    fn load(&self) -> SavedPermissions {
        let (state, path) = (&self.context.host.state, &self.context.store.subject());
        let history: History = state.load(HISTORY_DOCUMENT, path).unwrap_or_default();
        SavedPermissions {
            baseline: state.load(BASELINE_DOCUMENT, path).unwrap_or_default(),
            saved: None,
            servers: Servers::new(&self.context, history.servers.clone()),
            saved_history: history.clone(),
            history,
        }
    }

    fn save(&self, memory: &mut SavedPermissions) {
        let (state, path) = (&self.context.host.state, &self.context.store.subject());
        memory.history.servers.clone_from(&memory.servers.seen);
        if memory.history != memory.saved_history {
            state.save(HISTORY_DOCUMENT, path, &memory.history);
            memory.saved_history = memory.history.clone();
        }
        let baseline = &mut memory.baseline;
        let rested = memory.saved.is_none_or(|at| at.elapsed() >= SAVE_PAUSE);
        // What is half learnt is worth nothing after a restart.
        if baseline.changed
            && baseline.learnt_at.is_some()
            && (baseline.len() <= SAVED_AT_ONCE_MAX || rested)
        {
            state.save(BASELINE_DOCUMENT, path, baseline);
            baseline.changed = false;
            memory.saved = Some(clock::ticks());
        }
    }
}

impl Permissions {
    /// See [`super::at_rest`].
    pub(super) fn at_rest(Config { collect, .. }: &Config, _: &Store) -> Pace {
        Pace {
            interval: collect.interval,
            deadline: collect.deadline,
            wakes: Wake::NAMES | Wake::ATTRIBUTES | Wake::RESCAN,
            touches_store: true,
        }
    }
}

impl Collector for Permissions {
    fn name(&self) -> CollectorName {
        CollectorName::Permissions
    }

    fn descs(&self) -> &'static [&'static Desc] {
        &DESCS
    }

    fn codes(&self) -> &'static [Code] {
        &CODES
    }

    fn pace(&self) -> Pace {
        Pace { interval: self.next, ..Self::at_rest(&self.context.config, &self.context.store) }
    }

    fn collect(&mut self, run: &Run) -> Observation {
        let mut memory = self.memory.take().unwrap_or_else(|| self.load());
        let observation = self.inspect(run, &mut memory).unwrap_or_else(|problem| {
            self.scan = None;
            self.next = self.context.config.collect.interval;
            Observation { problems: vec![problem], ..Observation::default() }
        });
        self.save(&mut memory);
        self.memory = Some(memory);
        observation
    }
}

fn samples_of(total: &Tally, history: &History, users: &Users) -> Vec<Sample> {
    let mut samples = vec![
        ENTRIES.sample(total.entries as f64),
        WORLD_WRITABLE.sample(total.world_writable as f64),
    ];
    for ((kind, count), first_seen) in
        DriftKind::ALL.iter().zip(total.drift).zip(history.first_seen)
    {
        samples.push(DRIFT.with(vec![kind.as_str().into()], count as f64));
        samples.extend(
            first_seen.map(|at| FIRST_SEEN.with(vec![kind.as_str().into()], at.as_secs_f64())),
        );
    }
    // Of a user that is a guess, nothing but what it cannot write is worth a number.
    if !users.servers.is_empty() && (!users.guessed || total.unwritable > 0) {
        samples.push(UNWRITABLE.sample(total.unwritable as f64));
    }
    samples
}

/// A moment that the clock has not reached yet was written before the clock was set back.
fn note_first_seen(history: &mut History, total: &Tally, now: Timestamp) {
    for (first_seen, count) in history.first_seen.iter_mut().zip(total.drift) {
        *first_seen = (count > 0).then(|| first_seen.map_or(now, |at| at.min(now)));
    }
}

static CODES: [Code; 3] =
    [Code::PermissionDrift, Code::PermissionUnwritable, Code::PermissionWorldWritable];

pub(super) static DESCS: [&Desc; 7] =
    [&DRIFT, &FIRST_SEEN, &UNWRITABLE, &WORLD_WRITABLE, &ENTRIES, &WALK_TIMESTAMP, &WALK_SECONDS];
static DRIFT: Desc = Desc::gauge(
    "chroma_permission_drift",
    "Entries of the directory whose owner, group, mode, type or access list is not as declared or learnt (cached).",
)
.labelled(&["kind"]);
static FIRST_SEEN: Desc = Desc::gauge(
    "chroma_permission_drift_first_seen_timestamp_seconds",
    "When entries that differ were first seen. Absent while there are none.",
)
.labelled(&["kind"]);
static UNWRITABLE: Desc = Desc::gauge(
    "chroma_permission_unwritable",
    "Entries that Chroma's user cannot write although it must (cached). Without a known user, the owner of most of the store counts. Absent while neither is known.",
);
static WORLD_WRITABLE: Desc = Desc::gauge(
    "chroma_permission_world_writable",
    "Entries of the directory that everybody may change (cached).",
);
static ENTRIES: Desc = Desc::gauge(
    "chroma_permission_entries",
    "Entries of the directory, including itself, without journals (cached).",
);
static WALK_TIMESTAMP: Desc = Desc::gauge(
    "chroma_permission_walk_timestamp_seconds",
    "When the last look at all entries ended.",
);
static WALK_SECONDS: Desc = Desc::gauge(
    "chroma_permission_walk_duration_seconds",
    "Time that the last look at all entries took, without pauses (cached).",
);

#[cfg(test)]
mod tests;
