//! Content is exchanged file by file. Whatever instant it stops at, `chroma.sqlite3` is one of three things: the old database with
//! everything that belongs to it, a link that nobody can open as a database, or the new one with everything that belongs to it.
//!
//! 1. The old database gets a second name in the quarantine (or a copy, where the filesystem has no links), and the link takes the
//!    place of the first, in one rename.
//! 2. Journal and folders of the old database move out.
//! 3. Those of the new one move in.
//! 4. The new database takes the place of the link, in one rename.
//!
//! Each of these is on the disk before the next begins. Where it stopped is seen by what stands where.

use std::io;

use rustix::{fs::FileType, io::Errno};

use super::{
    Free, Quarantine, alone,
    hands::{Dir, Hands, MOVING},
};
use crate::{repair::quarantine::GATE, store::DATABASE_FILE as DATABASE};

/// The directories that files move between.
struct Places {
    store: Dir,
    case: Dir,
    incoming: Dir,
    outgoing: Dir,
}

impl Places {
    fn open(hands: &Hands, quarantine: &Quarantine) -> io::Result<Self> {
        let record = &quarantine.record;
        let case = Dir::open(&quarantine.path)?;
        // Either may be missing after an exchange of directories that was not to be had.
        for name in [record.incoming(), record.outgoing()] {
            if !case.has(name)? {
                hands.make_dir((&case, name))?;
            }
        }
        Ok(Self {
            store: Dir::open(&record.store)?,
            incoming: case.below(record.incoming())?,
            outgoing: case.below(record.outgoing())?,
            case,
        })
    }

    fn sync(&self, hands: &Hands) -> io::Result<()> {
        for dir in [&self.store, &self.incoming, &self.outgoing, &self.case] {
            hands.sync(dir)?;
        }
        Ok(())
    }
}

/// Whether anything has moved. Errs when the directories cannot be read.
pub(super) fn has_begun(quarantine: &Quarantine) -> io::Result<bool> {
    Ok(Dir::open(&quarantine.record.store)?.is_gate(DATABASE)? || is_in_place(quarantine)?)
}

/// Whether the new database is in its place. Errs when the directories cannot be read.
pub(super) fn is_in_place(quarantine: &Quarantine) -> io::Result<bool> {
    let record = &quarantine.record;
    let store = Dir::open(&record.store)?;
    let case = Dir::open(&quarantine.path)?;
    let waits = case.has(record.incoming())? && case.below(record.incoming())?.has(DATABASE)?;
    Ok(!waits && store.has(DATABASE)? && !store.is_gate(DATABASE)?)
}

/// Exchanges, or goes on where that was interrupted. Errs when the disk does.
pub(super) fn forward(hands: &Hands, quarantine: &Quarantine, free: &Free) -> io::Result<()> {
    let record = &quarantine.record;
    let at = Places::open(hands, quarantine)?;
    if !at.incoming.has(DATABASE)? {
        return Ok(()); // it is in its place, which was the last step
    }
    if at.incoming.has(super::exchange::MARKER)? {
        // Of an exchange of directories that was not to be had.
        hands.remove((&at.incoming, super::exchange::MARKER))?;
    }
    if !at.store.is_gate(DATABASE)? {
        shut(hands, &at, record.had_database)?;
        alone(free)?;
    }
    for name in &record.out {
        if !at.outgoing.has(name)? {
            move_entry(hands, (&at.store, &at.outgoing), name)?;
        }
    }
    at.sync(hands)?;
    for name in &record.into {
        if at.incoming.has(name)? {
            hands.rename((&at.incoming, name), (&at.store, name))?;
        }
    }
    at.sync(hands)?;
    alone(free)?;
    hands.rename((&at.incoming, DATABASE), (&at.store, DATABASE))?;
    at.sync(hands)
}

/// Goes back, however far it was, as long as the new database is not in its place. Errs when a call does; the next run goes on from there.
pub(super) fn backward(hands: &Hands, quarantine: &Quarantine) -> io::Result<()> {
    let record = &quarantine.record;
    let at = Places::open(hands, quarantine)?;
    if at.store.is_gate(DATABASE)? {
        for name in &record.into {
            if !at.incoming.has(name)? && at.store.has(name)? {
                hands.rename((&at.store, name), (&at.incoming, name))?;
            }
        }
        at.sync(hands)?;
        for name in &record.out {
            move_back(hands, (&at.outgoing, &at.store), name)?;
        }
        at.sync(hands)?;
        if record.had_database {
            hands.rename((&at.outgoing, DATABASE), (&at.store, DATABASE))?;
        } else {
            hands.remove((&at.store, DATABASE))?;
        }
        at.sync(hands)?;
    } else if at.incoming.has(DATABASE)? && at.outgoing.has(DATABASE)? {
        // A second name or a copy of the database that is in its place.
        hands.remove((&at.outgoing, DATABASE))?;
    }
    for name in [GATE, PART] {
        if at.case.has(name)? {
            hands.remove((&at.case, name))?;
        }
    }
    hands.remove_dir((&at.case, record.outgoing()))
}

/// The first step: nobody can open the database, and it is kept. Errs when a call does; the next run goes on from there.
fn shut(hands: &Hands, at: &Places, had_database: bool) -> io::Result<()> {
    if !had_database {
        // Errs when a Chroma has made one meanwhile.
        hands.gate((&at.store, DATABASE))?;
        return at.sync(hands);
    }
    // Of an earlier try, since when the store may have been written to.
    for (dir, name) in [(&at.outgoing, DATABASE), (&at.case, GATE), (&at.case, PART)] {
        if dir.has(name)? {
            hands.remove((dir, name))?;
        }
    }
    match hands.link((&at.store, DATABASE), (&at.outgoing, DATABASE)) {
        Err(error) if has_no_links(&error) => {
            hands.copy((&at.store, DATABASE), (&at.case, PART))?;
            hands.rename((&at.case, PART), (&at.outgoing, DATABASE))?;
        }
        result => result?,
    }
    hands.gate((&at.case, GATE))?;
    hands.sync(&at.outgoing)?;
    hands.sync(&at.case)?;
    hands.rename((&at.case, GATE), (&at.store, DATABASE))?;
    at.sync(hands)
}

fn has_no_links(error: &io::Error) -> bool {
    use Errno as E;
    let codes = [E::PERM, E::NOTSUP, E::NOSYS, E::MLINK, E::ACCESS, E::INVAL, E::XDEV];
    Errno::from_io_error(error).is_some_and(|code| codes.contains(&code))
}

/// Moves an entry. A folder of the lower layer of an overlay cannot be renamed, its files can: then it is made anew beside its name,
/// and gets the name when everything is in it. Errs when the disk does.
fn move_entry(hands: &Hands, (from, to): (&Dir, &Dir), name: &str) -> io::Result<()> {
    let moving = format!("{name}{MOVING}");
    let begun = to.has(&moving)?;
    match from.kind(name)? {
        None if begun => return hands.rename((to, &moving), (to, name)),
        None => return Ok(()),
        Some(_) if !begun => match hands.rename((from, name), (to, name)) {
            Err(error)
                if Errno::from_io_error(&error) == Some(Errno::XDEV)
                    && from.kind(name)? == Some(FileType::Directory) => {}
            result => return result,
        },
        Some(_) => {}
    }
    let source = from.below(name)?;
    if !begun {
        hands.make_dir((to, &moving))?;
    }
    let target = to.below(&moving)?;
    super::attributes::Attributes::of_file(&source)?.apply_to(&target)?;
    for file in source.names()? {
        let file = file.to_str().ok_or_else(|| io::Error::other("a name that is no text"))?;
        hands.rename((&source, file), (&target, file))?;
    }
    hands.sync(&target)?;
    hands.remove_dir((from, name))?;
    hands.rename((to, &moving), (to, name))
}

/// Undoes a [`move_entry`], however far it was; `from` is where it was moved to. Errs when a call does; the next run goes on from there.
fn move_back(hands: &Hands, (from, to): (&Dir, &Dir), name: &str) -> io::Result<()> {
    let moving = format!("{name}{MOVING}");
    if from.has(&moving)? {
        if !to.has(name)? {
            return hands.rename((from, &moving), (to, name));
        }
        let (source, target) = (from.below(&moving)?, to.below(name)?);
        for file in source.names()? {
            let file = file.to_str().ok_or_else(|| io::Error::other("a name that is no text"))?;
            hands.rename((&source, file), (&target, file))?;
        }
        hands.remove_dir((from, &moving))
    } else if from.has(name)? && !to.has(name)? {
        hands.rename((from, name), (to, name))
    } else {
        Ok(())
    }
}

/// A copy of a database that is not whole yet.
const PART: &str = "database.part";
