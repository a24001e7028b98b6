//! Lines of `dump` into a running server of Chroma. Records go in batches that the server takes, by `upsert`: the same lines once more
//! change nothing, so a load that was cut off is simply run again. What was sent is asked for afterwards: the number, and a sample.

mod batch;
mod proof;
mod server;
mod settings;
mod state;

use std::{
    collections::BTreeSet,
    fmt, io,
    path::{Path, PathBuf},
};

use reqwest::{Url, header::HeaderMap};
use serde::Serialize;

pub use self::server::Patience;
use self::{
    batch::Batch,
    proof::Proof,
    server::{NoAnswer, Place, Server, There},
    state::{Resumed, State},
};
use super::{
    lines::{Collection, Line, Lines, Numbered, Record},
    steps::Steps,
};
use crate::human::plain;

/// What is to be loaded, and where.
#[derive(Debug)]
pub struct Wish {
    /// A file; `None` for standard input.
    pub from: Option<PathBuf>,
    /// The server: scheme, host, port, and a path when it stands behind a proxy.
    pub to: Url,
    /// What says who we are.
    pub headers: HeaderMap,
    /// Other names for collections.
    pub rename: Vec<(String, String)>,
    /// Names of collections as the lines have them; all of them when it is empty.
    pub collections: Vec<String>,
    /// Whether records may go into collections that are there.
    pub merge: bool,
    /// Whether the server is only asked, and nothing changed.
    pub dry_run: bool,
    /// Where it is kept how far the load is.
    pub resume: Option<PathBuf>,
    /// How long a server that does not answer is asked again.
    pub patience: Patience,
}

/// What came of one collection.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// Its tenant.
    pub tenant: String,
    /// Its database.
    pub database: String,
    /// Its name on the server.
    pub name: String,
    /// Whether it was made, or would be.
    pub made: bool,
    /// Records that the server took, or would be given.
    pub records: u64,
    /// Records of these lines that are not on the server.
    pub lost: u64,
    /// Records that it had before.
    pub before: u64,
    /// Records that it has now; `None` when nobody could ask.
    pub after: Option<u64>,
    /// Records that were read back and are as they were sent.
    pub compared: u64,
}

/// What was loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Loaded {
    /// Each collection, in the order of the lines.
    pub collections: Vec<Collected>,
    /// Lines that were not loaded, or not in full.
    pub lost: u64,
    /// What was not loaded and why, a sentence each with the number of its line; the first thousand.
    pub losses: Vec<String>,
    /// What the server has and was not sent so.
    pub differing: Vec<String>,
    /// What nobody could ask for afterwards.
    pub unproven: Vec<String>,
    /// What else is good to know.
    pub notes: Vec<String>,
    /// Why it did not come to its end.
    pub broken_off: Option<String>,
    /// Whether anything was changed.
    pub dry_run: bool,
}

impl Loaded {
    /// Counts a line that was not loaded as it is, and tells it as long as there is room.
    fn lose(&mut self, line: u64, id: Option<&str>, why: &dyn fmt::Display) {
        self.lost += 1;
        if self.losses.len() < LOSSES_MAX {
            let id = id.map(|id| format!(" (record {})", plain(id))).unwrap_or_default();
            self.losses.push(format!("line {line}{id}: {why}"));
        }
    }
}

/// Why nothing was loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The lines cannot be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
    /// The server gives no answer that helps.
    #[error("{to}: {why}")]
    Server {
        /// Where it is.
        to: String,
        /// What came of it.
        why: String,
    },
    /// These are there already.
    #[error("the server has these collections already: {}", .0.join(", "))]
    There(Vec<String>),
    /// Two collections of the lines would become one.
    #[error("two collections would both be {0}")]
    Twice(String),
    /// The file that says how far it is cannot be used.
    #[error("cannot go on from {}: {why}", .path.display())]
    Resume {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

impl LoadError {
    /// What to do about it.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::There(_) => Some(
                "give --merge to put the records into them (also to go on after a load that was cut off), or --rename A=B",
            ),
            Self::Twice(_) => {
                Some("give one of them another name with --rename A=B, or give --merge")
            }
            Self::Resume { .. } => {
                Some("delete that file to begin anew; --merge goes on without it")
            }
            Self::Read { .. } | Self::Server { .. } => None,
        }
    }
}

/// Loads what is wished. Errs when it cannot begin, and then nothing was changed; what broke off is told in the result.
pub fn run(wish: &Wish, steps: &Steps) -> Result<Loaded, LoadError> {
    let no_server =
        |error: NoAnswer| LoadError::Server { to: wish.to.to_string(), why: error.to_string() };
    let resumed = state::read(wish)?;
    steps.begin("asking the server", None);
    let server =
        Server::find(&wish.to, wish.headers.clone(), wish.patience, steps).map_err(no_server)?;
    if let Some(path) = &wish.from {
        steps.begin("looking for collections", size(path));
        look_ahead(path, wish, &server, resumed.as_ref(), steps)?;
    }
    steps.begin("loading", wish.from.as_deref().and_then(size));
    let read = |source| LoadError::Read { path: shown(wish), source };
    let lines = match &wish.from {
        Some(path) => Lines::open(path, steps),
        None => Lines::new(io::stdin()),
    };
    let mut lines = lines.map_err(read)?;
    let mut loading = Loading::new(wish, server, resumed, steps);
    let ended = loading.all(&mut lines);
    loading.end(ended)
}

fn size(path: &Path) -> Option<u64> {
    path.metadata().ok().map(|facts| facts.len()).filter(|size| *size > 0)
}

fn shown(wish: &Wish) -> PathBuf {
    wish.from.clone().unwrap_or_else(|| "standard input".into())
}

/// Reads the lines that begin collections, so that one which is there is refused before anything was changed.
fn look_ahead(
    path: &Path,
    wish: &Wish,
    server: &Server<'_>,
    resumed: Option<&Resumed>,
    steps: &Steps,
) -> Result<(), LoadError> {
    let read = |source| LoadError::Read { path: path.to_owned(), source };
    let mut lines = Lines::open(path, steps).map_err(read)?;
    let (mut seen, mut there) = (BTreeSet::new(), Vec::new());
    while let Some((_, text)) = lines.next_raw().map_err(read)? {
        // Within a text the quotes would be escaped.
        if !contains(text, b"\"collection\"") {
            continue;
        }
        let Ok(Line::Collection(collection)) = Lines::parsed(text) else { continue };
        let Some(target) = Target::of(wish, &collection) else { continue };
        if !seen.insert(target.clone()) && !wish.merge {
            return Err(LoadError::Twice(target.to_string()));
        }
        if wish.merge || resumed.is_some_and(|resumed| resumed.own(&target).is_some()) {
            continue;
        }
        match server.collection(target.place(), &target.name) {
            Ok(None) => {}
            Ok(Some(_)) => there.push(target.to_string()),
            Err(error) => {
                let (to, why) = (wish.to.to_string(), format!("{target}: {error}"));
                return Err(LoadError::Server { to, why });
            }
        }
    }
    if there.is_empty() { Ok(()) } else { Err(LoadError::There(there)) }
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|part| part == word)
}

/// Where the records of a collection go.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    tenant: String,
    database: String,
    name: String,
}

impl Target {
    /// `None` when it is not wanted.
    fn of(wish: &Wish, collection: &Collection) -> Option<Self> {
        let Collection { name, tenant, database, .. } = collection;
        if !wish.collections.is_empty() && !wish.collections.contains(name) {
            return None;
        }
        let renamed = wish.rename.iter().find(|(from, _)| from == name).map(|(_, to)| to);
        let name = renamed.unwrap_or(name).clone();
        Some(Self { tenant: tenant.clone(), database: database.clone(), name })
    }

    fn place(&self) -> Place<'_> {
        Place { tenant: &self.tenant, database: &self.database }
    }
}

/// `articles`, or `tenant/database/articles` where those are not the ones that everybody has.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tenant, database, name } = self;
        if tenant != "default_tenant" || database != "default_database" {
            write!(f, "{}/{}/", plain(tenant), plain(database))?;
        }
        f.write_str(&plain(name))
    }
}

/// The collection that records go into now.
struct Current {
    target: Target,
    /// Its id on the server; none when it is only asked what would be done.
    id: Option<String>,
    dimension: Option<u64>,
    told: Collected,
    proof: Proof,
}

/// Where the records of the lines go.
enum Into {
    /// No line has begun a collection.
    Nowhere,
    /// The line that began it cannot be read, or its collection cannot be made; so many records were behind it.
    Lost {
        line: u64,
        records: u64,
    },
    /// It is not wanted.
    Unwanted,
    Collection(Box<Current>),
}

/// Why no further line is read.
enum Ended {
    Server(NoAnswer),
    Read(io::Error),
    Before(LoadError),
    Said(String),
}

impl From<NoAnswer> for Ended {
    fn from(error: NoAnswer) -> Self {
        Self::Server(error)
    }
}

struct Loading<'a> {
    wish: &'a Wish,
    server: Server<'a>,
    steps: &'a Steps,
    state: State,
    loaded: Loaded,
    seen: BTreeSet<Target>,
    /// Names of the lines, for those who asked for others.
    named: BTreeSet<String>,
    into: Into,
    batch: Batch,
    /// Whether any line was right.
    any: bool,
    /// Whether the server was given anything.
    changed: bool,
}

impl<'a> Loading<'a> {
    fn new(wish: &'a Wish, server: Server<'a>, resumed: Option<Resumed>, steps: &'a Steps) -> Self {
        let mut loaded = Loaded { dry_run: wish.dry_run, ..Loaded::default() };
        let state = State::new(wish, resumed);
        loaded.notes.extend(state.done().filter(|line| *line > 0).map(|line| {
            format!(
                "it goes on behind line {line}; what the run before could not load was told by it"
            )
        }));
        Self {
            wish,
            steps,
            state,
            loaded,
            seen: BTreeSet::new(),
            named: BTreeSet::new(),
            into: Into::Nowhere,
            batch: Batch::new(server.able.batch_max),
            server,
            any: false,
            changed: false,
        }
    }

    fn all(&mut self, lines: &mut Lines) -> Result<(), Ended> {
        while let Some(line) = lines.next().map_err(Ended::Read)? {
            if self.steps.stopped() {
                return Err(NoAnswer::Stopped.into());
            }
            self.state.saw(&line, lines.raw()).map_err(|why| self.others(why))?;
            self.line(line)?;
        }
        self.state.saw_all().map_err(|why| self.others(why))?;
        self.finish()
    }

    fn others(&self, why: String) -> Ended {
        Ended::Before(LoadError::Resume { path: self.wish.resume.clone().unwrap_or_default(), why })
    }

    fn line(&mut self, Numbered { number, line, .. }: Numbered) -> Result<(), Ended> {
        match line {
            Ok(Line::Collection(collection)) => {
                self.any = true;
                self.finish()?;
                self.begin(number, &collection)
            }
            Ok(Line::Record(record)) => self.record(number, record),
            Err(bad) => {
                if bad.collection {
                    self.finish()?;
                    self.into = Into::Lost { line: number, records: 0 };
                }
                self.loaded.lose(number, None, &bad);
                self.hopeless()
            }
        }
    }

    /// A file of another kind is not read to its end.
    fn hopeless(&self) -> Result<(), Ended> {
        if self.any || self.loaded.lost < HOPELESS {
            return Ok(());
        }
        Err(Ended::Said(format!("none of the first {HOPELESS} lines is one of dump")))
    }

    fn begin(&mut self, line: u64, collection: &Collection) -> Result<(), Ended> {
        self.named.insert(collection.name.clone());
        let Some(target) = Target::of(self.wish, collection) else {
            self.into = Into::Unwanted;
            return Ok(());
        };
        if !self.seen.insert(target.clone()) && !self.wish.merge {
            return Err(Ended::Before(LoadError::Twice(target.to_string())));
        }
        let found = self.server.collection(target.place(), &target.name)?;
        let mut told = Collected {
            tenant: target.tenant.clone(),
            database: target.database.clone(),
            name: target.name.clone(),
            ..Collected::default()
        };
        let there = match found {
            Some(there) => {
                self.enter(&target, &there, collection, &mut told)?;
                Some(there)
            }
            None if self.wish.dry_run => {
                told.made = true;
                let able = self.server.able;
                let (_, lost) = settings::request(collection, &target.name, able);
                for lost in lost {
                    self.loaded.lose(line, None, &lost);
                }
                None
            }
            None => {
                let Some(there) = self.make(line, collection, &target)? else {
                    self.into = Into::Lost { line, records: 0 };
                    return Ok(());
                };
                told.made = true;
                Some(there)
            }
        };
        let dimension = there.as_ref().and_then(|there| there.dimension).or(collection.dimension);
        let proof = Proof::new(self.state.current(&target));
        told.records = proof.sent();
        let id = there.map(|there| there.id);
        self.into = Into::Collection(Box::new(Current { target, id, dimension, told, proof }));
        Ok(())
    }

    /// A collection that is there: our own of the run before, or one to be merged into.
    fn enter(
        &mut self,
        target: &Target,
        there: &There,
        collection: &Collection,
        told: &mut Collected,
    ) -> Result<(), Ended> {
        let count = self.server.count(target.place(), &there.id)?;
        let own = self.state.own(target).is_some_and(|own| match &own.id {
            Some(id) => *id == there.id,
            // It was cut off while it was being made.
            None => count == 0,
        });
        if own {
            told.made = true;
            self.state.owns(target, Some(&there.id))?;
            return Ok(());
        }
        if !self.wish.merge {
            return Err(Ended::Before(LoadError::There(vec![target.to_string()])));
        }
        told.before = self.state.before(target).unwrap_or(count);
        if let (Some(here), Some(lines)) = (&there.space, &collection.space)
            && here != lines
        {
            self.loaded.notes.push(format!(
                "collection {target}: its space is {here}, that of the lines is {lines}: distances are others than they were"
            ));
        }
        Ok(())
    }

    /// Makes a collection. `None` when the server takes none of this name.
    fn make(
        &mut self,
        line: u64,
        collection: &Collection,
        target: &Target,
    ) -> Result<Option<There>, Ended> {
        self.state.owns(target, None)?;
        self.changed = true;
        let mut able = self.server.able;
        let made = self.server.make_place(target.place()).and_then(|()| {
            let (body, lost) = settings::request(collection, &target.name, able);
            match self.server.make_collection(target.place(), &body) {
                // A schema of another release.
                Err(NoAnswer::Refused { .. }) if body.get("schema").is_some() => {
                    able.schema = false;
                    let (body, lost) = settings::request(collection, &target.name, able);
                    Ok((self.server.make_collection(target.place(), &body)?, lost))
                }
                made => Ok((made?, lost)),
            }
        });
        match made {
            Ok((there, lost)) => {
                for lost in lost {
                    self.loaded.lose(line, None, &lost);
                }
                self.state.owns(target, Some(&there.id))?;
                Ok(Some(there))
            }
            Err(error @ NoAnswer::Refused { .. }) => {
                self.loaded.lose(line, None, &format!("collection {target}: {error}"));
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn record(&mut self, number: u64, record: Record) -> Result<(), Ended> {
        self.any = true;
        let current = match &mut self.into {
            Into::Collection(current) => current,
            Into::Unwanted => return Ok(()),
            Into::Lost { records, .. } => {
                *records += 1;
                self.loaded.lost += 1;
                return Ok(());
            }
            Into::Nowhere => {
                self.any = false;
                let why = "no line before it begins a collection";
                self.loaded.lose(number, Some(&record.id), &why);
                return self.hopeless();
            }
        };
        let Some(vector) = record.embedding.vector() else {
            current.told.lost += 1;
            let why = "embedding: it has none, and Chroma takes no record without a vector";
            self.loaded.lose(number, Some(&record.id), &why);
            return Ok(());
        };
        let length = vector.len() as u64;
        let dimension = *current.dimension.get_or_insert(length);
        if length != dimension {
            current.told.lost += 1;
            let why =
                format!("embedding: it has {length} numbers, and the collection has {dimension}");
            self.loaded.lose(number, Some(&record.id), &why);
            return Ok(());
        }
        if self.state.is_done(number) {
            return Ok(());
        }
        if !self.batch.takes(&record) {
            self.flush()?;
        }
        self.batch.push(number, record);
        self.state.mark();
        Ok(())
    }

    /// Sends what waits.
    fn flush(&mut self) -> Result<(), Ended> {
        let batch = self.batch.take();
        let Into::Collection(current) = &mut self.into else { return Ok(()) };
        if batch.is_empty() {
            return Ok(());
        }
        match &current.id {
            None => {
                current.told.records += batch.len() as u64;
                if !self.server.able.lists {
                    for (line, record) in &batch {
                        batch::tell_lists(*line, record, &mut self.loaded);
                    }
                }
            }
            // Nothing is changed when it is only asked what would be done.
            Some(_) if self.wish.dry_run => current.told.records += batch.len() as u64,
            Some(id) => {
                self.changed = true;
                let place = current.target.place();
                let lost = batch::deliver(
                    &mut self.server,
                    place,
                    id,
                    batch,
                    &mut current.proof,
                    &mut self.loaded,
                )?;
                current.told.lost += lost;
                current.told.records = current.proof.sent();
                self.state.reached(&current.target, current.proof.so_far(), current.told.before)?;
            }
        }
        Ok(())
    }

    /// The end of a collection: the rest is sent, and asked for.
    fn finish(&mut self) -> Result<(), Ended> {
        self.flush()?;
        match std::mem::replace(&mut self.into, Into::Nowhere) {
            Into::Collection(mut current) => {
                let Current { target, id, told, proof, .. } = &mut *current;
                if let Some(id) = id.as_ref().filter(|_| !self.wish.dry_run) {
                    proof.of(&self.server, target, id, told, &mut self.loaded);
                }
                self.loaded.collections.push(current.told);
            }
            Into::Lost { line, records } if records > 0 => {
                self.loaded.notes.push(format!(
                    "the {records} records behind line {line} were not loaded, because nobody knows where they belong"
                ));
            }
            Into::Lost { .. } | Into::Nowhere | Into::Unwanted => {}
        }
        Ok(())
    }

    fn end(mut self, ended: Result<(), Ended>) -> Result<Loaded, LoadError> {
        let broken = match ended {
            Ok(()) => None,
            Err(Ended::Before(error)) if !self.changed => return Err(error),
            Err(Ended::Before(error)) => {
                let hint = error.hint().map(|hint| format!(": {hint}")).unwrap_or_default();
                Some(format!("{error}{hint}"))
            }
            Err(Ended::Server(error)) => Some(error.to_string()),
            Err(Ended::Read(error)) => {
                Some(format!("cannot read {}: {error}", shown(self.wish).display()))
            }
            Err(Ended::Said(why)) => Some(why),
        };
        if let Some(why) = broken {
            if let Into::Collection(current) = self.into {
                self.loaded.collections.push(current.told);
            }
            self.loaded.broken_off = Some(why);
            if let Err(Ended::Said(why)) = self.state.keep() {
                self.loaded.notes.push(why);
            }
            return Ok(self.loaded);
        }
        let asked = self.wish.rename.iter().map(|(from, _)| from).chain(&self.wish.collections);
        let missing: BTreeSet<&String> = asked.filter(|name| !self.named.contains(*name)).collect();
        for name in missing {
            self.loaded.lost += 1;
            self.loaded.losses.push(format!("no line begins a collection {}", plain(name)));
        }
        self.state.remove();
        Ok(self.loaded)
    }
}

/// What is told one by one; all of it is counted.
const LOSSES_MAX: usize = 1_000;
/// After so many lines that are none, and no other, it is a file of another kind.
const HOPELESS: u64 = 100;
