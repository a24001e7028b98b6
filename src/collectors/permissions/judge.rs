//! One entry against what was declared or learnt of it, and against what the server's user may do with it. Counts, and
//! keeps a few examples; decides nothing about when to look.

use crate::{
    clock::Timestamp,
    config::PermissionPolicy,
    format::{
        access::{
            self, AccessList, Identity, Inode, READ, Refusal, SEARCH, TYPE_DIRECTORY, TYPE_MASK,
            TYPE_REGULAR, WRITE, Want,
        },
        hash::path_hash,
        hnsw,
        sqlite::is_suffix,
        uuid::is_segment_name,
    },
    host::walk::{Entry, Meta},
    store::DATABASE_FILE,
};

use super::{
    baseline::{Baseline, List, Shape},
    lists::Lists,
};

/// What an entry is to Chroma, by its path alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The persist directory itself.
    Directory,
    /// `chroma.sqlite3`.
    Database,
    /// `chroma.sqlite3-journal` and its kin, which come and go.
    Journal,
    /// The folder of a vector segment.
    Segment,
    /// One of the five files in such a folder.
    SegmentFile,
    /// Anything else; Chroma neither makes nor needs it.
    Other,
}

/// The part of a store that a look can cover without the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tier {
    /// The directory itself, the database and its journal: looked at in every run.
    Core,
    /// What else lies in the directory.
    Top,
    /// What lies in its folders.
    Below,
}

impl Place {
    pub(super) fn of(entry: &Entry<'_>) -> Self {
        Self::at(entry.path)
    }

    /// The same of a path below the store alone.
    pub(super) fn at(path: &[u8]) -> Self {
        let Some(slash) = path.iter().rposition(|byte| *byte == b'/') else {
            return match path.strip_prefix(DATABASE_FILE.as_bytes()) {
                _ if path.is_empty() => Self::Directory,
                Some(b"") => Self::Database,
                Some(end) if is_suffix(end) => Self::Journal,
                _ if is_segment_name(path) => Self::Segment,
                _ => Self::Other,
            };
        };
        // The id of a segment has no slash in it.
        let (folder, name) = (&path[..slash], &path[slash + 1..]);
        let of_index = hnsw::FILES.iter().any(|file| file.as_bytes() == name);
        if of_index && is_segment_name(folder) { Self::SegmentFile } else { Self::Other }
    }

    pub(super) const fn tier(self, depth: u32) -> Tier {
        match (self, depth) {
            (Self::Directory | Self::Database | Self::Journal, _) => Tier::Core,
            (_, 1) => Tier::Top,
            _ => Tier::Below,
        }
    }

    /// What Chroma's user must be able to do with it.
    pub(super) const fn need(self) -> Option<Want> {
        match self {
            // In the directory the journal is created and deleted at each commit.
            Self::Directory | Self::Segment => Some(WRITE | SEARCH),
            Self::Database | Self::Journal | Self::SegmentFile => Some(READ | WRITE),
            Self::Other => None,
        }
    }

    /// The type of what Chroma makes there.
    const fn file_type(self) -> Option<u16> {
        match self {
            Self::Directory | Self::Segment => Some(TYPE_DIRECTORY),
            Self::Database | Self::Journal | Self::SegmentFile => Some(TYPE_REGULAR),
            Self::Other => None,
        }
    }
}

/// In what way an entry differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DriftKind {
    Owner,
    Group,
    Mode,
    Type,
    List,
}

impl DriftKind {
    pub(super) const ALL: [Self; 5] =
        [Self::Owner, Self::Group, Self::Mode, Self::Type, Self::List];

    /// The word of the `kind` label.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Group => "group",
            Self::Mode => "mode",
            Self::Type => "type",
            Self::List => "acl",
        }
    }
}

/// An entry that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Drifted {
    pub(super) path: Vec<u8>,
    pub(super) is: Shape,
    pub(super) was: Shape,
    /// In the order of [`DriftKind::ALL`].
    pub(super) kinds: [bool; 5],
}

/// An entry that the server's user cannot use as it must.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) path: Vec<u8>,
    pub(super) is: Shape,
    pub(super) refusal: Refusal,
    pub(super) server: Identity,
}

/// What a look at one tier came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Tally {
    /// Entries, without journals.
    pub(super) entries: u64,
    /// Entries that differ in any way.
    pub(super) drifted: u64,
    /// Entries that differ, in the order of [`DriftKind::ALL`].
    pub(super) drift: [u64; 5],
    /// Entries that the server's user cannot use; counts nothing when that user is not known.
    pub(super) unwritable: u64,
    /// Entries that everybody may change.
    pub(super) world_writable: u64,
    /// Those of each, the first ones of very many.
    pub(super) drifted_examples: Vec<Drifted>,
    pub(super) refused_examples: Vec<Refused>,
    pub(super) world_writable_examples: Vec<(Vec<u8>, Shape)>,
    /// Access lists that could not be read: path and reason.
    pub(super) problems: Vec<(Vec<u8>, String)>,
}

/// Entries that are kept of each sort: a megabyte or two.
pub(super) const LISTED_MAX: usize = 10_000;

impl Tally {
    fn push<T>(examples: &mut Vec<T>, example: impl FnOnce() -> T) {
        if examples.len() < LISTED_MAX {
            examples.push(example());
        }
    }

    /// Both together.
    pub(super) fn add(&mut self, other: &Self) {
        self.entries += other.entries;
        self.drifted += other.drifted;
        for (sum, count) in self.drift.iter_mut().zip(other.drift) {
            *sum += count;
        }
        self.unwritable += other.unwritable;
        self.world_writable += other.world_writable;
        extend(&mut self.drifted_examples, &other.drifted_examples);
        extend(&mut self.refused_examples, &other.refused_examples);
        extend(&mut self.world_writable_examples, &other.world_writable_examples);
        extend(&mut self.problems, &other.problems);
    }
}

fn extend<T: Clone>(to: &mut Vec<T>, from: &[T]) {
    to.extend(from.iter().take(LISTED_MAX.saturating_sub(to.len())).cloned());
}

/// Judges entry after entry of one look.
#[derive(Debug)]
pub(super) struct Judge {
    pub(super) policy: PermissionPolicy,
    /// The users that Chroma runs as; empty when not known.
    pub(super) servers: Vec<Identity>,
    /// Whether the filesystem is read-only for them.
    pub(super) readonly: bool,
    /// Everything is seen for the first time: nothing is drift but from what was declared.
    pub(super) learning: bool,
    /// Access lists of inodes that did not change since this moment are as they were; `None`: read all.
    pub(super) lists_since: Option<Timestamp>,
    pub(super) lists: Lists,
    pub(super) tallies: [Tally; 3],
    /// The last answer for each place: entries of a kind nearly always have one shape.
    answers: [Option<Answer>; 6],
}

/// Whether a server is refused, which one and why, of every entry with this inode's facts and this access list.
#[derive(Debug)]
struct Answer {
    inode: Inode,
    list: List,
    refused: Option<(usize, Refusal)>,
}

impl Judge {
    pub(super) fn new(policy: &PermissionPolicy, servers: Vec<Identity>, lists: Lists) -> Self {
        Self {
            policy: policy.clone(),
            servers,
            readonly: false,
            learning: false,
            lists_since: None,
            lists,
            tallies: Default::default(),
            answers: [const { None }; 6],
        }
    }

    /// Judges one entry, and learns it when that is due.
    pub(super) fn entry(&mut self, baseline: &mut Baseline, entry: &Entry<'_>) {
        let (hash, place) = (path_hash(entry.path), Place::of(entry));
        let tier = place.tier(entry.depth) as usize;
        if place == Place::Journal {
            // It has the mode of the database, and is gone before anybody could mend it.
            self.access(tier, entry, place, &mut Reading::new(Shape::of(entry.meta, List::Unread)));
            return;
        }
        self.tallies[tier].entries += 1;
        let known = baseline.find(hash);
        let mut reading = Reading::new(Shape::of(entry.meta, List::Unread));
        self.compare(baseline, entry, hash, place, known, &mut reading);
        if reading.shape.mode & 0o002 != 0 && !reading.shape.is_link() {
            self.tallies[tier].world_writable += 1;
            Tally::push(&mut self.tallies[tier].world_writable_examples, || {
                (entry.path.to_vec(), reading.shape)
            });
        }
        self.access(tier, entry, place, &mut reading);
    }

    fn compare(
        &mut self,
        baseline: &mut Baseline,
        entry: &Entry<'_>,
        hash: u64,
        place: Place,
        known: Option<Shape>,
        reading: &mut Reading,
    ) {
        let tier = place.tier(entry.depth) as usize;
        let unknown_is_new = !self.learning && !baseline.partial && place != Place::Other;
        self.read_list_if_due(tier, entry, place, known, reading);
        let is = reading.shape;
        let learnt = match known {
            Some(known) => known,
            None if unknown_is_new => made_by_chroma(baseline, place, &is),
            None => is,
        };
        let was = self.declared(learnt);
        let kinds = differences(&is, &was);
        let mended = known.is_some() && was == learnt && self.mends(place, &was, &is);
        if kinds.contains(&true) && !mended {
            let tally = &mut self.tallies[tier];
            tally.drifted += 1;
            for (count, differs) in tally.drift.iter_mut().zip(kinds) {
                *count += u64::from(differs);
            }
            Tally::push(&mut tally.drifted_examples, || Drifted {
                path: entry.path.to_vec(),
                is,
                was,
                kinds,
            });
            if known.is_some() || unknown_is_new {
                return;
            }
            // Nothing but what was declared can differ at the first look; the rest of it is learnt.
        }
        // What was not read this time stays as it was.
        let list = if is.list == List::Unread { learnt.list } else { is.list };
        let shape = Shape { list, ..is };
        if known != Some(shape) {
            baseline.learn(hash, shape);
            if place != Place::Other && (known.is_none() || shape.list != learnt.list) {
                baseline.learn_owner(&shape);
            }
        }
    }

    /// Whether a change is one that our own remedies bring: what a server could not use it can use now, as its owner, or what
    /// everybody could change is not everybody's any more. That was learnt wrong, and is no drift when it is mended.
    fn mends(&self, place: Place, was: &Shape, is: &Shape) -> bool {
        let known_list = |shape: &Shape| !matches!(shape.list, List::Digest(_));
        if was.file_type() != is.file_type()
            || is.mode & !was.mode & 0o6002 != 0
            || !known_list(was)
            || !known_list(is)
        {
            return false;
        }
        if (was.uid, was.gid) == (is.uid, is.gid)
            && is.mode != was.mode
            && is.mode == was.mode & !0o002
        {
            return true;
        }
        let Some(want) = place.need() else { return false };
        let may = |server: &Identity, shape: &Shape| {
            let Shape { mode, uid, gid, .. } = *shape;
            let (immutable, append_only, readonly) = (false, false, false);
            let inode = Inode { mode, uid, gid, immutable, append_only, readonly };
            access::may(server, &inode, None, want).is_ok()
        };
        self.servers.iter().any(|server| server.uid == is.uid && !may(server, was))
            && self.servers.iter().all(|server| may(server, is))
    }

    /// What was learnt, with what was declared in its place.
    fn declared(&self, learnt: Shape) -> Shape {
        let mode = match learnt.file_type() {
            TYPE_REGULAR => self.policy.file_mode,
            TYPE_DIRECTORY => self.policy.directory_mode,
            _ => None,
        };
        let mode = mode.and_then(|mode| u16::try_from(mode & 0o7777).ok());
        Shape {
            mode: mode.map_or(learnt.mode, |mode| learnt.file_type() | mode),
            uid: self.policy.uid.unwrap_or(learnt.uid),
            gid: self.policy.gid.unwrap_or(learnt.gid),
            list: learnt.list,
        }
    }

    /// Reads the access list unless it can be known to be as it was. At the first look of all it is left for the next:
    /// nothing could differ yet, and a million of them take a second.
    fn read_list_if_due(
        &mut self,
        tier: usize,
        entry: &Entry<'_>,
        place: Place,
        known: Option<Shape>,
        reading: &mut Reading,
    ) {
        let changed = self.lists_since.is_none_or(|since| entry.meta.changed >= since);
        let due = match known {
            _ if self.learning => place.tier(entry.depth) == Tier::Core,
            Some(Shape { list: List::None, .. }) => changed,
            Some(_) => true,
            None => place != Place::Other,
        };
        if due {
            reading.read(&self.lists, entry, &mut self.tallies[tier]);
        }
    }

    /// What the link at `entry` leads to, of which only the access is judged; `entry` has the facts of its target.
    pub(super) fn target(&mut self, entry: &Entry<'_>, place: Place) {
        let tier = place.tier(entry.depth) as usize;
        self.access(tier, entry, place, &mut Reading::new(Shape::of(entry.meta, List::Unread)));
    }

    /// Whether the server's users can do with the entry what they must.
    fn access(&mut self, tier: usize, entry: &Entry<'_>, place: Place, reading: &mut Reading) {
        let Some(want) = place.need() else { return };
        // Something else in its place is a matter of type; a database behind a link is judged by itself.
        if self.servers.is_empty() || Some(reading.shape.file_type()) != place.file_type() {
            return;
        }
        if let Some((server, refusal)) = self.refusal(tier, entry, place, want, reading) {
            let tally = &mut self.tallies[tier];
            tally.unwritable += 1;
            let (is, server) = (reading.shape, &self.servers[server]);
            Tally::push(&mut tally.refused_examples, || Refused {
                path: entry.path.to_vec(),
                is,
                refusal,
                server: server.clone(),
            });
        }
    }

    fn refusal(
        &mut self,
        tier: usize,
        entry: &Entry<'_>,
        place: Place,
        want: Want,
        reading: &mut Reading,
    ) -> Option<(usize, Refusal)> {
        let inode = inode_of(entry.meta, self.readonly);
        if self.servers.iter().any(|server| access::list_counts(server, &inode)) {
            reading.read(&self.lists, entry, &mut self.tallies[tier]);
            if reading.failed {
                return None; // not known, and told as a problem
            }
        }
        let list = reading.shape.list;
        let remembered = &mut self.answers[place as usize];
        if let Some(answer) = remembered
            && answer.inode == inode
            && answer.list == list
        {
            return answer.refused;
        }
        let refused = self.servers.iter().enumerate().find_map(|(at, server)| {
            let refusal = access::may(server, &inode, reading.list.as_ref(), want).err()?;
            Some((at, refusal))
        });
        // The digest lacks the mask and the bits of others; the mode in the inode has both.
        *remembered = Some(Answer { inode, list, refused });
        refused
    }
}

/// An entry's shape, with its access list when it was read.
#[derive(Debug)]
pub(super) struct Reading {
    shape: Shape,
    list: Option<AccessList>,
    failed: bool,
}

impl Reading {
    fn new(shape: Shape) -> Self {
        Self { shape, list: None, failed: false }
    }

    /// Reads the access list, once.
    fn read(&mut self, lists: &Lists, entry: &Entry<'_>, tally: &mut Tally) {
        if self.failed || self.shape.list != List::Unread {
            return;
        }
        match lists.read(entry.path, &self.shape) {
            Ok((list, digest)) => {
                self.list = list;
                self.shape.list = digest;
            }
            Err(reason) => {
                self.failed = true;
                Tally::push(&mut tally.problems, || (entry.path.to_vec(), reason.to_string()));
            }
        }
    }
}

pub(super) fn inode_of(meta: &Meta, readonly: bool) -> Inode {
    Inode {
        mode: meta.mode,
        uid: meta.uid,
        gid: meta.gid,
        immutable: meta.immutable,
        append_only: meta.append_only,
        readonly,
    }
}

/// In what way `is` differs from `was`. Something of another type has nothing to compare but its type.
fn differences(is: &Shape, was: &Shape) -> [bool; 5] {
    if is.file_type() != was.file_type() {
        return [false, false, false, true, false];
    }
    let list = match (is.list, was.list) {
        (List::Unread, _) | (_, List::Unread) => false,
        (is, was) => is != was,
    };
    let mode = is.permissions() != was.permissions() && !is.is_link();
    [is.uid != was.uid, is.gid != was.gid, mode, false, list]
}

/// What an entry that nobody knows would be if Chroma had just made it, whatever its umask: of the type of its place, with
/// an owner and a group that such entries have, and a mode that `open` or `mkdir` can give. Equal to `is` when it can be so.
fn made_by_chroma(baseline: &Baseline, place: Place, is: &Shape) -> Shape {
    let file_type = place.file_type().unwrap_or(is.file_type());
    let keep = if file_type == TYPE_DIRECTORY { 0o2777 } else { 0o666 };
    let known = |set: &std::collections::BTreeSet<u32>, id: u32| match set.first() {
        Some(first) if !set.contains(&id) => *first,
        _ => id,
    };
    Shape {
        mode: file_type | is.mode & !TYPE_MASK & keep | 0o600,
        uid: known(&baseline.owners, is.uid),
        gid: known(&baseline.groups, is.gid),
        list: if baseline.lists || is.list == List::Unread { is.list } else { List::None },
    }
}
