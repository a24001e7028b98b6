//! One load: line after line into batches, batches to the server, and what came of each collection.

use std::{collections::BTreeSet, io};

use super::{
    Collected, LoadError, Loaded, Target, Wish,
    ahead::{Ahead, Hashed},
    batch::{self, Batch},
    proof::Proof,
    server::{NoAnswer, Server, There},
    settings, shown,
    state::{Resumed, State},
};
use crate::{
    human::plain,
    repair::{
        lines::{Collection, Line, Lines, Numbered, Record},
        steps::Steps,
    },
};

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
pub(super) enum Ended {
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

pub(super) struct Loading<'a> {
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
    pub(super) fn new(
        wish: &'a Wish,
        server: Server<'a>,
        resumed: Option<Resumed>,
        steps: &'a Steps,
    ) -> Self {
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

    pub(super) fn all(&mut self, lines: Lines) -> Result<(), Ended> {
        let mut lines = Ahead::of(lines, self.state.hashes()).map_err(Ended::Read)?;
        while let Some(Hashed { line, hash }) = lines.next().map_err(Ended::Read)? {
            if self.steps.stopped() {
                return Err(NoAnswer::Stopped.into());
            }
            self.state.saw(line.number, hash).map_err(|why| self.others(why))?;
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

    pub(super) fn end(mut self, ended: Result<(), Ended>) -> Result<Loaded, LoadError> {
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

/// After so many lines that are none, and no other, it is a file of another kind.
const HOPELESS: u64 = 100;
