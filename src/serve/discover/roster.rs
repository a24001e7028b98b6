//! Which of the directories that were found by themselves are watched, under which names, and until when. Pure: what was
//! found, who still runs and what still exists are arguments.
//!
//! A store begins with a process that holds it and is watched as long as one of those lives. When all have ended, it
//! depends on the place. One that only its container's process could see is gone with it. A directory that went with its
//! process was a temporary one. A directory that is still there is missed: it stays for [`MISSED_FOR`], so that
//! `server_gone` is told, and is given up then. A name belongs to a place for good, whichever process holds it.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Found, Process};
use crate::{clock::Ticks, config::Store, host::processes::FileId};

/// For so long after its last process has ended a directory is watched that is still there.
pub const MISSED_FOR: Duration = Duration::from_hours(24);

/// What a look at the host needs to know.
pub trait Eyes {
    /// Whether this very process still runs.
    fn runs(&self, process: Process) -> bool;
    /// Whether the database of a store is still there; also when that cannot be asked.
    fn exists(&self, store: &Store) -> bool;
}

/// The stores that were found by themselves.
#[derive(Debug, Default)]
pub struct Roster {
    known: Vec<Known>,
    names: Vec<Named>,
    /// Whether it was said that there are more than may be watched.
    said_full: bool,
}

#[derive(Debug)]
struct Known {
    store: Arc<Store>,
    file: FileId,
    holders: Vec<Process>,
    /// When all of them were found to have ended.
    missed: Option<Ticks>,
}

/// A name and what it belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    name: String,
    place: Place,
    /// The database that was there last: tells containers apart that see their stores at the same path.
    inode: u64,
}

/// Where a store lies, the same after every start of its process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Place {
    Here(PathBuf),
    /// A path that only processes of a container see.
    Inside(PathBuf),
}

impl Place {
    fn of(store: &Store) -> Self {
        match &store.through {
            Some(through) => Self::Inside(through.path.clone()),
            None => Self::Here(store.path.clone()),
        }
    }
}

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A directory is watched from now on.
    Begun(Arc<Store>),
    /// Its container has started anew: another process, the same name.
    Moved(Arc<Store>),
    /// It is watched no more.
    Ended(Arc<Store>, Why),
    /// All processes that held it have ended, and it is still there.
    Missed(Arc<Store>),
    /// There are more than may be watched, so many.
    Full(usize),
}

/// Why a store is watched no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The process of its container has ended, and with it the way to it.
    Container,
    /// It is not there any more.
    Removed,
    /// Nobody has held it for [`MISSED_FOR`].
    Unused,
    /// Another one that is in use takes its place within the bound.
    Displaced,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Container => "the process of its container has ended",
            Self::Removed => "its process has ended and the directory is gone",
            Self::Unused => "no process has held it for 24 h",
            Self::Displaced => "no process holds it, and the bound is needed for those in use",
        })
    }
}

impl Roster {
    /// An empty one that remembers `names`.
    #[must_use]
    pub fn new(names: Vec<Named>) -> Self {
        Self { names, ..Self::default() }
    }

    /// The stores that are watched now, ordered by name.
    #[must_use]
    pub fn stores(&self) -> Vec<Arc<Store>> {
        let mut stores: Vec<_> = self.known.iter().map(|known| Arc::clone(&known.store)).collect();
        stores.sort_by(|a, b| a.name.cmp(&b.name));
        stores
    }

    /// Who held the store when it was last looked for.
    #[must_use]
    pub fn holders(&self, store: &str) -> Vec<Process> {
        let known = self.known.iter().find(|known| &*known.store.name == store);
        known.map(|known| known.holders.clone()).unwrap_or_default()
    }

    /// The names that were given, to be kept over a restart.
    #[must_use]
    pub fn names(&self) -> &[Named] {
        &self.names
    }

    /// Forgets the stores and keeps their names: the configuration names others now.
    pub fn clear(&mut self) {
        self.known.clear();
        self.said_full = false;
    }

    /// Takes in what was found at `now`, at most `max` stores.
    pub fn update(
        &mut self,
        found: Vec<Found>,
        eyes: &impl Eyes,
        max: usize,
        now: Ticks,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut seen = vec![false; self.known.len()];
        let mut new = Vec::new();
        for found in found {
            match self.place_of(&found, &seen, eyes) {
                Some(at) => {
                    seen[at] = true;
                    changes.extend(self.known[at].take(found, eyes));
                }
                None => new.push(found),
            }
        }
        let known = std::mem::take(&mut self.known);
        for (mut known, seen) in known.into_iter().zip(seen) {
            match known.still_watched(seen, eyes, now) {
                Ok(change) => {
                    changes.extend(change);
                    self.known.push(known);
                }
                Err(why) => changes.push(Change::Ended(known.store, why)),
            }
        }
        self.begin(new, max, &mut changes);
        for known in &self.known {
            remember(&mut self.names, known);
        }
        self.forget();
        changes
    }

    /// Which of the known ones was found again: by its path, by its file, or by its place.
    fn place_of(&self, found: &Found, seen: &[bool], eyes: &impl Eyes) -> Option<usize> {
        let free = || self.known.iter().enumerate().filter(|(at, _)| !seen[*at]);
        let place = Place::of(&found.store);
        let same_path = |known: &Known| known.store.seen_path == found.store.seen_path;
        let same_file =
            |known: &Known| known.file == found.file && Place::of(&known.store) == place;
        // A container that started anew: what it was seen through has ended.
        let returned = |known: &Known| {
            Place::of(&known.store) == place && known.through().is_some_and(|by| !eyes.runs(by))
        };
        let find = |is: &dyn Fn(&Known) -> bool| free().find(|(_, known)| is(known));
        let (at, _) = find(&same_path)
            .or_else(|| find(&same_file))
            .or_else(|| find(&|known| returned(known) && known.file.inode == found.file.inode))
            .or_else(|| find(&returned))?;
        Some(at)
    }

    fn begin(&mut self, new: Vec<Found>, max: usize, changes: &mut Vec<Change>) {
        let mut over = 0;
        for found in new {
            if self.known.len() >= max {
                let dead =
                    self.known.iter().enumerate().filter(|(_, known)| known.missed.is_some());
                let Some((oldest, _)) = dead.min_by_key(|(_, known)| known.missed) else {
                    over += 1;
                    continue;
                };
                let known = self.known.remove(oldest);
                changes.push(Change::Ended(known.store, Why::Displaced));
            }
            let name = self.name(&found);
            let store = Arc::new(Store { name, ..found.store });
            changes.push(Change::Begun(Arc::clone(&store)));
            let known = Known { store, file: found.file, holders: found.holders, missed: None };
            remember(&mut self.names, &known);
            self.known.push(known);
        }
        let full = over > 0;
        if full && !self.said_full {
            changes.push(Change::Full(over));
        }
        self.said_full = full;
    }

    /// The name that the place had, or one that no other place has.
    fn name(&self, found: &Found) -> Arc<str> {
        let place = Place::of(&found.store);
        let used = |name: &str| self.known.iter().any(|known| &*known.store.name == name);
        let own = || self.names.iter().rev().filter(|n| n.place == place && !used(&n.name));
        let known = own().find(|named| named.inode == found.file.inode).or_else(|| own().next());
        known.map_or_else(
            || {
                unused_name(&found.store.name, |name| {
                    used(name) || self.names.iter().any(|named| &*named.name == name)
                })
            },
            |named| Arc::from(&*named.name),
        )
    }

    /// Names of places that are not watched are kept up to a bound.
    fn forget(&mut self) {
        let known = &self.known;
        let mut excess = self.names.len().saturating_sub(NAMES_MAX.max(known.len()));
        self.names.retain(|named| {
            let drop = excess > 0 && !known.iter().any(|known| *known.store.name == *named.name);
            excess -= usize::from(drop);
            !drop
        });
    }
}

fn remember(names: &mut Vec<Named>, store: &Known) {
    let given = Named {
        name: store.store.name.to_string(),
        place: Place::of(&store.store),
        inode: store.file.inode,
    };
    match names.iter_mut().find(|other| other.name == given.name) {
        Some(other) => *other = given,
        None => names.push(given),
    }
}

impl Known {
    /// The process through whose root it is seen.
    fn through(&self) -> Option<Process> {
        let by = self.store.through.as_ref()?;
        Some(Process { pid: by.pid, start_ticks: by.start_ticks })
    }

    /// It was found again, perhaps by another way.
    fn take(&mut self, found: Found, eyes: &impl Eyes) -> Option<Change> {
        (self.file, self.holders, self.missed) = (found.file, found.holders, None);
        let (now, was) = (&found.store, &self.store);
        // Where the way from before still leads there, another one is no news.
        let stays = match self.through() {
            Some(by) => eyes.runs(by),
            None => now.seen_path == was.seen_path,
        };
        if stays && now.through.is_some() == was.through.is_some() {
            return None;
        }
        let name = Arc::clone(&was.name);
        self.store = Arc::new(Store { name, ..found.store });
        Some(Change::Moved(Arc::clone(&self.store)))
    }

    /// Whether it is still watched. Errs with the reason why it is not.
    fn still_watched(
        &mut self,
        seen: bool,
        eyes: &impl Eyes,
        now: Ticks,
    ) -> Result<Option<Change>, Why> {
        let through = self.through();
        if through.is_some_and(|by| !eyes.runs(by)) {
            return Err(Why::Container);
        }
        if seen || self.holders.iter().any(|holder| eyes.runs(*holder)) {
            self.missed = None;
            return Ok(None);
        }
        if through.is_some() || !eyes.exists(&self.store) {
            return Err(Why::Removed);
        }
        match self.missed {
            None => {
                self.missed = Some(now);
                Ok(Some(Change::Missed(Arc::clone(&self.store))))
            }
            Some(since) if now.since(since) >= MISSED_FOR => Err(Why::Unused),
            Some(_) => Ok(None),
        }
    }
}

/// `base`, or with a number behind it that makes it none of the `taken` ones.
pub(crate) fn unused_name(base: &str, taken: impl Fn(&str) -> bool) -> Arc<str> {
    if !taken(base) {
        return base.into();
    }
    let numbered = (2_usize..).map(|number| {
        let suffix = format!("-{number}");
        format!("{}{suffix}", &base[..base.len().min(NAME_BYTES_MAX - suffix.len())])
    });
    numbered.into_iter().find(|name| !taken(name)).unwrap_or_default().into() // there is always a next number
}

const NAME_BYTES_MAX: usize = 64;
/// Most names that are remembered.
const NAMES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{clock, config::Through};

    /// A host on which these processes run and these directories exist.
    #[derive(Default)]
    struct Host {
        running: BTreeSet<(u32, u64)>,
        existing: BTreeSet<PathBuf>,
    }

    impl Eyes for Host {
        fn runs(&self, process: Process) -> bool {
            self.running.contains(&(process.pid, process.start_ticks))
        }

        fn exists(&self, store: &Store) -> bool {
            self.existing.contains(&store.seen_path)
        }
    }

    impl Host {
        fn run(&mut self, processes: &[(u32, u64)]) {
            self.running = processes.iter().copied().collect();
        }
    }

    fn process((pid, start_ticks): (u32, u64)) -> Process {
        Process { pid, start_ticks }
    }

    fn here(path: &str, inode: u64, holder: (u32, u64)) -> Found {
        let name = path.rsplit('/').next().unwrap();
        let file = FileId { device: 1, inode };
        Found { store: Store::new(name, path), file, holders: vec![process(holder)] }
    }

    fn inside(path: &str, inode: u64, holder: (u32, u64)) -> Found {
        let seen = format!("/proc/{}/root{path}", holder.0);
        let mut found = here(&seen, inode, holder);
        let (pid, start_ticks) = holder;
        found.store.through = Some(Through { pid, start_ticks, path: path.into() });
        found
    }

    /// What changed, in words.
    fn said(changes: &[Change]) -> Vec<String> {
        let word = |change: &Change| match change {
            Change::Begun(store) => format!("+{} {}", store.name, store.seen_path.display()),
            Change::Moved(store) => format!("~{} {}", store.name, store.seen_path.display()),
            Change::Ended(store, why) => format!("-{} {why:?}", store.name),
            Change::Missed(store) => format!("?{}", store.name),
            Change::Full(over) => format!("!{over}"),
        };
        changes.iter().map(word).collect()
    }

    #[test]
    fn a_container_keeps_its_name_over_a_restart_and_leaves_no_ghost() {
        let (mut roster, mut host, now) = (Roster::default(), Host::default(), clock::ticks());
        host.run(&[(10, 1), (20, 1)]);
        let both = vec![inside("/data", 7, (10, 1)), inside("/data", 8, (20, 1))];
        let changes = roster.update(both.clone(), &host, 64, now);
        assert_eq!(roster.holders("data-2"), [process((20, 1))]);
        assert_eq!(said(&changes), ["+data /proc/10/root/data", "+data-2 /proc/20/root/data"]);
        assert!(roster.update(both, &host, 64, now).is_empty());
        // One stops and comes again under another pid.
        host.run(&[(10, 1)]);
        let changes = roster.update(vec![inside("/data", 7, (10, 1))], &host, 64, now);
        assert_eq!(said(&changes), ["-data-2 Container"]);
        host.run(&[(10, 1), (30, 2)]);
        let found = vec![inside("/data", 7, (10, 1)), inside("/data", 99, (30, 2))];
        assert_eq!(said(&roster.update(found, &host, 64, now)), ["+data-2 /proc/30/root/data"]);
        // The other one within one look: even with the pid that the first one had.
        host.run(&[(10, 5), (30, 2)]);
        let found = vec![inside("/data", 7, (10, 5)), inside("/data", 99, (30, 2))];
        assert_eq!(said(&roster.update(found, &host, 64, now)), ["~data /proc/10/root/data"]);
        assert_eq!(roster.stores()[0].through.as_ref().unwrap().start_ticks, 5);
        // Both at once, in another order: the files tell which is which.
        host.run(&[(40, 9), (50, 9)]);
        let found = vec![inside("/data", 99, (40, 9)), inside("/data", 7, (50, 9))];
        let changes = roster.update(found, &host, 64, now);
        assert_eq!(said(&changes), ["~data-2 /proc/40/root/data", "~data /proc/50/root/data"]);
        // Over a restart of this program as well, and nobody else gets the name.
        let mut roster = Roster::new(roster.names().to_vec());
        let found = vec![here("/srv/data", 1, (60, 1)), inside("/data", 99, (40, 9))];
        let changes = roster.update(found, &host, 64, now);
        assert_eq!(said(&changes), ["+data-3 /srv/data", "+data-2 /proc/40/root/data"]);
    }

    #[test]
    fn another_worker_of_the_container_takes_over_when_the_first_one_ends() {
        let (mut roster, mut host, now) = (Roster::default(), Host::default(), clock::ticks());
        let mut found = inside("/data", 7, (10, 1));
        found.holders.push(process((11, 1)));
        host.run(&[(10, 1), (11, 1)]);
        assert_eq!(roster.update(vec![found], &host, 64, now).len(), 1);
        // Found by the other one, while the way from before still leads there.
        let by_other = vec![inside("/data", 7, (11, 1))];
        assert!(roster.update(by_other.clone(), &host, 64, now).is_empty());
        host.run(&[(11, 1)]);
        assert_eq!(said(&roster.update(by_other, &host, 64, now)), ["~data /proc/11/root/data"]);
    }

    #[test]
    fn a_directory_that_is_still_there_is_missed_for_a_day_and_a_temporary_one_is_not() {
        let (mut roster, mut host, began) = (Roster::default(), Host::default(), clock::ticks());
        host.existing = ["/srv/app", "/tmp/x"].map(PathBuf::from).into();
        host.run(&[(1, 1), (2, 1)]);
        let found = vec![here("/srv/app", 1, (1, 1)), here("/tmp/x", 2, (2, 1))];
        assert_eq!(roster.update(found, &host, 64, began).len(), 2);
        // Closed, but its process lives: it may open it again, or hold what was deleted.
        host.existing.clear();
        assert!(roster.update(Vec::new(), &host, 64, began).is_empty());
        host.existing.insert("/srv/app".into());
        host.run(&[]);
        let changes = roster.update(Vec::new(), &host, 64, began);
        assert_eq!(said(&changes), ["?app", "-x Removed"]);
        let later = |hours| began.plus(Duration::from_hours(hours));
        assert!(roster.update(Vec::new(), &host, 64, later(23)).is_empty());
        // Its server came again, and went again: a day from then.
        host.run(&[(3, 1)]);
        assert!(roster.update(vec![here("/srv/app", 5, (3, 1))], &host, 64, later(23)).is_empty());
        host.run(&[]);
        assert_eq!(said(&roster.update(Vec::new(), &host, 64, later(24))), ["?app"]);
        assert!(roster.update(Vec::new(), &host, 64, later(47)).is_empty());
        assert_eq!(said(&roster.update(Vec::new(), &host, 64, later(48))), ["-app Unused"]);
        assert!(roster.stores().is_empty());
        host.run(&[(4, 1)]);
        let changes = roster.update(vec![here("/srv/app", 5, (4, 1))], &host, 64, later(60));
        assert_eq!(said(&changes), ["+app /srv/app"]);
    }

    #[test]
    fn the_bound_is_said_once_and_those_in_use_come_first() {
        let (mut roster, mut host, now) = (Roster::default(), Host::default(), clock::ticks());
        host.existing = ["/a", "/b", "/c", "/d"].map(PathBuf::from).into();
        let at = |names: &[&str]| -> Vec<Found> {
            names.iter().map(|name| here(&format!("/{name}"), 1, (1, 1))).collect()
        };
        host.run(&[(1, 1)]);
        let changes = roster.update(at(&["a", "b", "c", "d"]), &host, 2, now);
        assert_eq!(said(&changes), ["+a /a", "+b /b", "!2"]);
        for _ in 0..3 {
            assert!(roster.update(at(&["a", "b", "c", "d"]), &host, 2, now).is_empty());
        }
        // Two end and are missed; the others take their places.
        host.run(&[]);
        assert_eq!(said(&roster.update(Vec::new(), &host, 2, now)), ["?a", "?b"]);
        let changes = roster.update(at(&["c"]), &host, 2, now);
        assert_eq!(said(&changes), ["-a Displaced", "+c /c"]);
        host.run(&[(1, 1)]);
        let changes = roster.update(at(&["b", "c", "d"]), &host, 2, now);
        assert_eq!(said(&changes), ["!1"]);
    }

    #[test]
    fn names_are_remembered_up_to_a_bound() {
        let (mut roster, host, now) = (Roster::default(), Host::default(), clock::ticks());
        for inode in 0..NAMES_MAX as u64 + 10 {
            let found = vec![here(&format!("/tmp/{inode}"), inode, (1, 1))];
            roster.update(found, &host, 64, now);
        }
        assert_eq!(roster.names().len(), NAMES_MAX);
        assert_eq!(roster.names()[NAMES_MAX - 1].name, "1033");
        let kept = serde_json::to_string(roster.names()).unwrap();
        assert_eq!(serde_json::from_str::<Vec<Named>>(&kept).unwrap(), roster.names());
    }
}
