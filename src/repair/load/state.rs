//! How far a load is, in a file that the user names, so that one that was killed goes on. Without such a file nothing is kept.

use std::{fs, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Collected, Ended, LoadError, Target, Wish};
use crate::{
    clock::{self, Ticks},
    host::read::read_beginning,
    repair::hands::Hands,
};

/// What a run before has left.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub(super) struct Resumed {
    version: u32,
    to: String,
    /// All lines up to this one were answered for.
    line: u64,
    /// Of the bytes of those lines.
    hash: u64,
    own: Vec<Own>,
    /// Collections that were loaded to their end and asked about.
    finished: Vec<Finished>,
    current: Option<CurrentSent>,
}

/// What came of a collection.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
struct Finished {
    /// The line that begins it.
    begins: u64,
    told: Collected,
}

/// A collection that this load has made.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub(super) struct Own {
    tenant: String,
    database: String,
    name: String,
    /// None as long as nobody knows whether it was made.
    pub(super) id: Option<String>,
}

/// What was sent into a collection.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
pub(super) struct Sent {
    pub(super) records: u64,
    /// Different ids, as far as they are in order.
    pub(super) distinct: u64,
    pub(super) unordered: bool,
    pub(super) last: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
struct CurrentSent {
    /// The line that begins it: two collections of the lines may go into one.
    begins: u64,
    tenant: String,
    database: String,
    name: String,
    before: u64,
    sent: Sent,
}

/// The lines of this run are not those of the run that it would go on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the lines are others than those of the load that was cut off")]
pub(super) struct OtherLines;

impl Own {
    fn is(&self, target: &Target) -> bool {
        (&self.tenant, &self.database, &self.name)
            == (&target.tenant, &target.database, &target.name)
    }
}

impl Resumed {
    pub(super) fn own(&self, target: &Target) -> Option<&Own> {
        self.own.iter().find(|own| own.is(target))
    }
}

/// Reads the file that the wish names. `None` when there is none yet. Errs when it cannot be read, or is of another load.
pub(super) fn read(wish: &Wish) -> Result<Option<Resumed>, LoadError> {
    let Some(path) = &wish.resume else { return Ok(None) };
    let wrong = |why: String| LoadError::Resume { path: path.clone(), why };
    let text = match read_beginning(path, FILE_BYTES_MAX) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrong(error.to_string())),
    };
    let resumed: Resumed = serde_json::from_slice(&text)
        .map_err(|error| wrong(format!("it is no file of load --resume: {error}")))?;
    if resumed.version != VERSION {
        return Err(wrong(format!(
            "its version is {}, and this program knows {VERSION}",
            resumed.version
        )));
    }
    if resumed.to != wish.to.as_str() {
        return Err(wrong(format!("it is of a load to {}", resumed.to)));
    }
    Ok(Some(resumed))
}

/// A line, and the hash of all lines up to it.
pub(super) type Mark = (u64, u64);

/// Where the load is.
pub(super) struct State {
    path: Option<PathBuf>,
    now: Resumed,
    /// Of the run before: lines that need not be sent again, and the hash of them.
    done: Option<(u64, u64)>,
    /// The line that was read last, and the hash of all lines up to it.
    line: u64,
    hash: u64,
    /// The last line that waits to be sent.
    mark: Mark,
    written: Option<Ticks>,
}

impl State {
    pub(super) fn new(wish: &Wish, resumed: Option<Resumed>) -> Self {
        let path = wish.resume.clone().filter(|_| !wish.dry_run);
        let done = resumed.as_ref().map(|resumed| (resumed.line, resumed.hash));
        let now = resumed.unwrap_or_else(|| Resumed {
            version: VERSION,
            to: wish.to.to_string(),
            line: 0,
            hash: 0,
            own: Vec::new(),
            finished: Vec::new(),
            current: None,
        });
        Self { path, now, done, line: 0, hash: 0, mark: (0, 0), written: None }
    }

    /// Whether anybody wants to know the hash of the lines.
    pub(super) const fn hashes(&self) -> bool {
        self.path.is_some() || self.done.is_some()
    }

    /// A line was read; `hash` is that of all lines up to it. Errs when the lines are not those of the run before.
    pub(super) fn saw(&mut self, line: u64, hash: u64) -> Result<(), OtherLines> {
        (self.line, self.hash) = (line, hash);
        if self.done.is_some_and(|(last, of_last)| line == last && hash != of_last) {
            return Err(OtherLines);
        }
        Ok(())
    }

    /// There are no more lines. Errs when the run before has seen more of them.
    pub(super) fn saw_all(&self) -> Result<(), OtherLines> {
        if self.done.is_some_and(|(last, _)| last > self.line) {
            return Err(OtherLines);
        }
        Ok(())
    }

    /// The line that was read last waits to be sent.
    pub(super) fn mark(&mut self) {
        if self.path.is_some() {
            self.mark = (self.line, self.hash);
        }
    }

    /// The last line that waits to be sent.
    pub(super) const fn marked(&self) -> Mark {
        self.mark
    }

    /// How many lines the run before has sent.
    pub(super) const fn done(&self) -> Option<u64> {
        match self.done {
            Some((line, _)) => Some(line),
            None => None,
        }
    }

    /// Whether the run before has sent this line.
    pub(super) fn is_done(&self, line: u64) -> bool {
        self.done.is_some_and(|(last, _)| line <= last)
    }

    pub(super) fn own(&self, target: &Target) -> Option<&Own> {
        self.now.own(target)
    }

    /// What came of the collection that this line begins, when the run before has loaded it to its end.
    pub(super) fn finished(&self, begins: u64, target: &Target) -> Option<Collected> {
        self.done?;
        let mut finished = self.now.finished.iter();
        let of = |told: &Collected| {
            (&told.tenant, &told.database, &told.name)
                == (&target.tenant, &target.database, &target.name)
        };
        finished.find(|one| one.begins == begins && of(&one.told)).map(|one| one.told.clone())
    }

    /// All of a collection was sent, and asked about.
    pub(super) fn finish(&mut self, begins: u64, told: &Collected) {
        if self.path.is_some() {
            self.now.finished.push(Finished { begins, told: told.clone() });
        }
    }

    /// What was sent into this collection, when it is the one that the run before was at.
    pub(super) fn current(&self, begins: u64, target: &Target) -> Option<Sent> {
        self.was_at(begins, target).map(|current| current.sent.clone())
    }

    /// How many records a collection had before the load began.
    pub(super) fn before(&self, begins: u64, target: &Target) -> Option<u64> {
        self.was_at(begins, target).map(|current| current.before)
    }

    fn was_at(&self, begins: u64, target: &Target) -> Option<&CurrentSent> {
        self.done?;
        self.now.current.as_ref().filter(|current| {
            (current.begins, &current.tenant, &current.database, &current.name)
                == (begins, &target.tenant, &target.database, &target.name)
        })
    }

    /// This collection is being made, or was made with this id. Errs when the file cannot be written.
    pub(super) fn owns(&mut self, target: &Target, id: Option<&str>) -> Result<(), Ended> {
        self.now.own.retain(|own| !own.is(target));
        self.now.own.push(Own {
            tenant: target.tenant.clone(),
            database: target.database.clone(),
            name: target.name.clone(),
            id: id.map(str::to_owned),
        });
        self.write()
    }

    /// All lines up to `mark` were answered for. Errs when that cannot be written.
    pub(super) fn reached(
        &mut self,
        mark: Mark,
        begins: u64,
        target: &Target,
        sent: &Sent,
        before: u64,
    ) -> Result<(), Ended> {
        (self.now.line, self.now.hash) = mark;
        self.now.current = Some(CurrentSent {
            begins,
            tenant: target.tenant.clone(),
            database: target.database.clone(),
            name: target.name.clone(),
            before,
            sent: sent.clone(),
        });
        if self.written.as_ref().is_none_or(|written| written.elapsed() >= EVERY) {
            return self.write();
        }
        Ok(())
    }

    /// Keeps how far it is. Errs when the file cannot be written.
    pub(super) fn keep(&mut self) -> Result<(), Ended> {
        // Whoever has not begun has nothing to go on from.
        if self.now.own.is_empty() && self.now.line == 0 { Ok(()) } else { self.write() }
    }

    /// All is done.
    pub(super) fn remove(&self) {
        if let Some(Err(error)) = self.path.as_ref().map(fs::remove_file) {
            tracing::debug!(%error, "There is no file to go on from.");
        }
    }

    fn write(&mut self) -> Result<(), Ended> {
        let Some(path) = &self.path else { return Ok(()) };
        let told = |error: std::io::Error| {
            Ended::Said(format!("cannot write {}: {error}", path.display()))
        };
        let absolute = std::path::absolute(path).map_err(told)?;
        let (Some(dir), Some(name)) =
            (absolute.parent(), absolute.file_name().and_then(|name| name.to_str()))
        else {
            return Err(Ended::Said(format!("{} is no name for a file", path.display())));
        };
        let bytes = serde_json::to_vec(&self.now).map_err(|error| told(error.into()))?;
        Hands::default().write_whole(dir, name, &bytes).map_err(told)?;
        self.written = Some(clock::ticks());
        Ok(())
    }
}

const VERSION: u32 = 2;
const FILE_BYTES_MAX: u64 = 16 << 20;
/// A power cut costs no more than this.
const EVERY: Duration = Duration::from_secs(1);
