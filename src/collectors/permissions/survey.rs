//! One look at everything in a store, for the command that mends it: what every entry that differs should be, and why. The
//! policy is what was declared, what was learnt, or else the user that Chroma runs as, or who owns most of the store.
//!
//! Changes nothing and remembers nothing.

use std::{collections::BTreeMap, ops::ControlFlow, path::PathBuf};

use crate::{
    clock::Timestamp,
    collectors::CollectError,
    config::PermissionPolicy,
    format::access::{self, Identity, Inode, Refusal, TYPE_DIRECTORY},
    host::walk::{self, Bounds},
    store::{Context, DATABASE_FILE},
};

use super::{
    Permissions, SavedPermissions,
    baseline::{List, Shape},
    judge::{DriftKind, Drifted, Judge, LISTED_MAX, Place, Refused, Tally},
    scan::{self, Core},
    servers::{Server, Users},
};

/// Owner, group and mode of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Owned {
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Type and mode as in `st_mode`.
    pub mode: u16,
}

/// What decides how an entry should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// The configuration, and what was learnt where it says nothing.
    Declared,
    /// What the exporter learnt at its first look.
    Learnt {
        /// When.
        at: Timestamp,
    },
    /// This user: a process of its that serves the store runs now, or ran.
    Server(u32),
    /// This user owns more than half of the store.
    Majority(u32),
    /// Nobody can tell.
    Unknown,
}

/// Why an entry differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It is not as declared or learnt.
    Drifted,
    /// It belongs to somebody else than what Chroma has made.
    Foreign,
    /// The server's user cannot use it as it must.
    Refused {
        /// The user.
        uid: u32,
        /// Why not.
        refusal: Refusal,
    },
    /// Everybody may change it.
    WorldWritable,
}

/// An entry that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Below the store, empty for the directory itself; absolute for a folder above it.
    pub path: Vec<u8>,
    /// What it is.
    pub is: Owned,
    /// What it should be; as it is where nothing of owner, group and mode would help.
    pub to: Owned,
    /// Why, at least one.
    pub reasons: Vec<Reason>,
    /// What remains wrong with it whatever its owner, group and mode are, and what to do.
    pub rest: Option<String>,
}

/// What a look at a store came to.
#[derive(Debug)]
pub struct Survey {
    /// What decided.
    pub policy: Policy,
    /// Entries that were looked at, the directory included.
    pub entries: u64,
    /// What differs, in the order of paths, folders before what is in them.
    pub differences: Vec<Difference>,
    /// How many more there are, which are not listed.
    pub more: u64,
    /// What could not be looked at.
    pub problems: Vec<CollectError>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SurveyError {
    /// The directory cannot be read.
    #[error(transparent)]
    Unreadable(#[from] CollectError),
    /// Chroma never worked there.
    #[error("{} is no store: it has neither {DATABASE_FILE} nor the folder of an index", .0.display())]
    NoStore(PathBuf),
}

/// Looks at every entry of the store of `context`. Errs when the directory cannot be read or is no store.
pub fn survey(context: &Context, now: Timestamp) -> Result<Survey, SurveyError> {
    context.within_reach()?;
    let path = &context.store.seen_path;
    let core = Core::read(scan::open(path)?, path)?;
    if !core.is_store(path) {
        return Err(SurveyError::NoStore(context.store.path.clone()));
    }
    let collector = Permissions::new(context);
    let mut memory = collector.load();
    let mut servers = memory.servers.find(core.database_id(), core.owner(), now);
    let running = servers.clone();
    let guessed = servers.is_empty();
    if guessed {
        servers.extend(scan::majority(context));
    }
    let readonly = collector.readonly(&core, &memory.servers, &servers);
    let users = Users { servers, readonly, guessed };
    let owners = owners(context)?;
    let policy = policy(&context.store.permissions, &memory, &running, &owners);
    let user = match policy {
        Policy::Server(uid) | Policy::Majority(uid) => {
            let of_user = owners.iter().filter(|((owner, _), _)| *owner == uid);
            let group = of_user.max_by_key(|(_, owned)| **owned).map(|((_, gid), _)| *gid);
            let group = group.or_else(|| running.first()?.identity.gids.first().copied());
            Some((uid, group))
        }
        _ => None,
    };

    let mut judge = scan::judge(context, &memory, &users, None);
    let mut foreign: Vec<(Vec<u8>, Shape)> = Vec::new();
    let (mut problems, mut unlisted) = (Vec::new(), 0_u64);
    let bounds = Bounds { entries_max: context.config.limits.entries, depth_max: scan::DEPTH_MAX };
    let summary = walk::walk(path, bounds, &mut |found| {
        match found {
            Ok(entry) => {
                judge.entry(&mut memory.baseline, &entry);
                if let Some((uid, _)) = user
                    && entry.meta.uid != uid
                    && Place::of(&entry) != Place::Other
                {
                    if foreign.len() < LISTED_MAX {
                        let shape = Shape::of(entry.meta, List::Unread);
                        foreign.push((entry.path.to_vec(), shape));
                    } else {
                        unlisted += 1;
                    }
                }
            }
            Err(problem) if problems.len() < PROBLEMS_MAX => {
                let below = super::report::below(&context.store.path, &problem.path);
                problems
                    .push(CollectError::Unreadable { path: below, source: problem.errno.into() });
            }
            Err(_) => {}
        }
        ControlFlow::Continue(())
    })
    .map_err(|source| CollectError::Unreadable { path: path.clone(), source })?;
    if summary.truncated {
        let bound = context.config.limits.entries;
        let what = "entries";
        problems.push(CollectError::TooMany { path: context.store.path.clone(), what, bound });
    }
    let mut total = Tally::default();
    for tally in &judge.tallies {
        total.add(tally);
    }
    // What only the core shows: folders above the store, and where a link in place of the database leads.
    let of_core = core.judge(context, &mut memory, &users);
    problems.extend(total.problems.iter().map(|(entry, reason)| CollectError::AccessList {
        entry: super::report::name(entry),
        why: reason.clone(),
    }));
    let listed = [
        (total.drifted, total.drifted_examples.len()),
        (total.unwritable, total.refused_examples.len()),
        (total.world_writable, total.world_writable_examples.len()),
    ];
    let more = listed.iter().map(|(all, some)| all.saturating_sub(*some as u64)).max().unwrap_or(0);

    let wanted = Wanted { policy: &context.store.permissions, users: &users, user, judge: &judge };
    let mut differences = gathered(&total, &of_core, foreign, &core);
    differences.retain_mut(|(path, one)| wanted.decide(path, one));
    Ok(Survey {
        policy,
        entries: summary.entries,
        differences: differences
            .into_iter()
            .map(|(path, one)| Difference {
                path,
                is: owned(&one.is),
                to: owned(&one.to),
                reasons: one.reasons,
                rest: one.rest,
            })
            .collect(),
        more: more.max(unlisted),
        problems,
    })
}

/// Who owns how much of what Chroma made.
type Owners = BTreeMap<(u32, u32), u64>;

fn owners(context: &Context) -> Result<Owners, CollectError> {
    let mut owners = Owners::new();
    let bounds = Bounds { entries_max: context.config.limits.entries, depth_max: 2 };
    let path = &context.store.seen_path;
    walk::walk(path, bounds, &mut |found| {
        if let Ok(entry) = found
            && !matches!(Place::of(&entry), Place::Other | Place::Journal)
        {
            *owners.entry((entry.meta.uid, entry.meta.gid)).or_default() += 1;
        }
        ControlFlow::Continue(())
    })
    .map_err(|source| CollectError::Unreadable { path: path.clone(), source })?;
    Ok(owners)
}

fn policy(
    declared: &PermissionPolicy,
    memory: &SavedPermissions,
    running: &[Server],
    owners: &Owners,
) -> Policy {
    if declared.uid.is_some() {
        return Policy::Declared;
    }
    if let Some(at) = memory.baseline.learnt_at {
        return Policy::Learnt { at };
    }
    // Whoever may write everything says nothing about whose the files are.
    if let [server, rest @ ..] = running
        && !server.identity.overrides
        && rest.iter().all(|other| other.identity.uid == server.identity.uid)
    {
        return Policy::Server(server.identity.uid);
    }
    let mut of_users: BTreeMap<u32, u64> = BTreeMap::new();
    for ((uid, _), owned) in owners {
        *of_users.entry(*uid).or_default() += owned;
    }
    let all: u64 = of_users.values().sum();
    let most = of_users.iter().max_by_key(|(_, owned)| **owned);
    match most {
        // A command that ran as root leaves such files: most of them may be the mistake.
        Some((0, owned)) if *owned < all && running.is_empty() => Policy::Unknown,
        Some((uid, owned)) if owned * 2 > all => Policy::Majority(*uid),
        _ => Policy::Unknown,
    }
}

/// An entry that differs, before it is decided what it should be.
struct Gathered {
    is: Shape,
    to: Shape,
    reasons: Vec<Reason>,
    /// Of what was declared or learnt: which kinds differ.
    kinds: [bool; 5],
    refused: Option<Refused>,
    rest: Option<String>,
}

type ByPath = BTreeMap<Vec<u8>, Gathered>;

/// The entry at `path`, with one reason more.
fn at<'a>(all: &'a mut ByPath, path: &[u8], is: Shape, reason: Reason) -> &'a mut Gathered {
    let one = all.entry(path.to_vec()).or_insert_with(|| Gathered {
        is,
        to: is,
        reasons: Vec::new(),
        kinds: [false; 5],
        refused: None,
        rest: None,
    });
    if !one.reasons.contains(&reason) {
        one.reasons.push(reason);
    }
    one
}

/// Every entry that differs once, with all its reasons.
fn gathered(
    total: &Tally,
    of_core: &Tally,
    foreign: Vec<(Vec<u8>, Shape)>,
    core: &Core,
) -> Vec<(Vec<u8>, Gathered)> {
    let mut all = ByPath::new();
    for Drifted { path, is, was, kinds } in &total.drifted_examples {
        let one = at(&mut all, path, *is, Reason::Drifted);
        (one.to, one.kinds) = (*was, *kinds);
    }
    for (path, is) in foreign {
        at(&mut all, &path, is, Reason::Foreign);
    }
    for (path, is) in &total.world_writable_examples {
        at(&mut all, path, *is, Reason::WorldWritable);
    }
    let above = |refused: &&Refused| {
        refused.path.starts_with(b"/")
            || core.is_linked() && refused.path == DATABASE_FILE.as_bytes()
    };
    let refused = total.refused_examples.iter();
    for refused in refused.chain(of_core.refused_examples.iter().filter(above)) {
        let Refused { path, is, refusal, server } = refused;
        let reason = Reason::Refused { uid: server.uid, refusal: *refusal };
        let one = at(&mut all, path, *is, reason);
        one.refused = Some(refused.clone());
    }
    all.into_iter().collect()
}

/// Decides what an entry should be.
struct Wanted<'a> {
    policy: &'a PermissionPolicy,
    users: &'a Users,
    /// Whom the files should belong to, where nothing was declared or learnt.
    user: Option<(u32, Option<u32>)>,
    judge: &'a Judge,
}

impl Wanted<'_> {
    /// Fills in what `one` should be; `false` when it is well as it is.
    fn decide(&self, path: &[u8], one: &mut Gathered) -> bool {
        let fixed = match one.refused.as_ref() {
            Some(refused) if path.starts_with(b"/") => Some(format!(
                "uid {} may not go through this folder; chmod o+x, or another place for the store",
                refused.server.uid
            )),
            Some(_) if one.is.is_link() => Some(
                "it is a link; the file that it leads to must be mended where it lies".to_owned(),
            ),
            Some(Refused { refusal, .. }) if !matches!(refusal, Refusal::Mode | Refusal::List) => {
                Some(refusal.as_str().to_owned())
            }
            _ if one.kinds[DriftKind::Type as usize] => {
                Some("something else stood there before; look at what it is".to_owned())
            }
            _ if std::str::from_utf8(path).is_err() => {
                Some("its name is not UTF-8; chown and chmod it by hand".to_owned())
            }
            _ => None,
        };
        if let Some(why) = fixed {
            (one.to, one.rest) = (one.is, Some(why));
            return true;
        }
        self.owner_and_mode(path, one);
        if one.kinds[DriftKind::List as usize] {
            one.rest = Some("its access list is another (getfacl, setfacl)".to_owned());
        }
        one.rest.is_some() || owned(&one.to) != owned(&one.is)
    }

    fn owner_and_mode(&self, path: &[u8], one: &mut Gathered) {
        let place = Place::at(path);
        if let Some((uid, gid)) = self.user
            && one.reasons.contains(&Reason::Foreign)
        {
            one.to.uid = uid;
            one.to.gid = gid.unwrap_or(one.to.gid);
        }
        if one.to.mode & 0o002 != 0
            && !one.to.is_link()
            && one.reasons.contains(&Reason::WorldWritable)
            && !self.declares_mode(&one.to)
        {
            one.to.mode &= !0o002;
        }
        if let Some(server) = self.refused(one, place) {
            // What was learnt may be what the server cannot use; then what it can use is no mistake.
            if one.refused.is_none()
                && one.reasons == [Reason::Drifted]
                && self.user.is_none()
                && self.policy.uid.is_none()
            {
                one.to = one.is;
                return;
            }
            self.give(one, &server);
        }
        if one.to.uid != one.is.uid && !one.is.is_directory() && one.kinds == [false; 5] {
            // A program that runs as its owner must not become one that runs as somebody else.
            one.to.mode &= !0o6000;
        }
        if one.reasons == [Reason::WorldWritable]
            && self.users.servers.is_empty()
            && self.user.is_none_or(|(uid, _)| uid != one.is.uid)
            && place != Place::Other
        {
            one.to = one.is;
            one.rest = Some(
                "everybody may change it; nobody knows as whom Chroma runs, so that it cannot be told who still must be able to".to_owned(),
            );
        }
    }

    fn declares_mode(&self, shape: &Shape) -> bool {
        let declared =
            if shape.is_directory() { self.policy.directory_mode } else { self.policy.file_mode };
        declared.is_some_and(|mode| mode & 0o002 != 0)
    }

    /// The first server that could not use the entry as it would be.
    fn refused(&self, one: &Gathered, place: Place) -> Option<Identity> {
        let want = place.need()?;
        if one.to == one.is {
            return one.refused.as_ref().map(|refused| refused.server.clone());
        }
        // What an access list grants is not known here.
        if matches!(one.is.list, List::Digest(_)) && one.refused.is_none() {
            return None;
        }
        let inode = Inode {
            mode: one.to.mode,
            uid: one.to.uid,
            gid: one.to.gid,
            immutable: false,
            append_only: false,
            readonly: self.judge.readonly,
        };
        let mut servers = self.users.servers.iter().map(|server| &server.identity);
        servers.find(|server| access::may(server, &inode, None, want).is_err()).cloned()
    }

    /// Gives the entry to the server's user, with as much as it needs and no more.
    fn give(&self, one: &mut Gathered, server: &Identity) {
        let mut others = self.users.servers.iter().map(|server| &server.identity);
        if self.policy.uid.is_some_and(|uid| uid != server.uid)
            || others.any(|other| !other.overrides && other.uid != server.uid)
        {
            one.to = one.is;
            one.rest = Some(format!(
                "uid {} must be able to use it, and it should belong to uid {}; say in the configuration whose it is (permissions: owner)",
                server.uid,
                self.policy.uid.unwrap_or(one.is.uid)
            ));
            return;
        }
        if one.to.uid != server.uid {
            one.to.uid = server.uid;
            if !server.gids.contains(&one.to.gid)
                && let Some(gid) = server.gids.first()
            {
                one.to.gid = *gid;
            }
        }
        one.to.mode |= if one.to.file_type() == TYPE_DIRECTORY { 0o700 } else { 0o600 };
    }
}

fn owned(shape: &Shape) -> Owned {
    Owned { uid: shape.uid, gid: shape.gid, mode: shape.mode }
}

/// More of what cannot be read is not told.
const PROBLEMS_MAX: usize = 100;
