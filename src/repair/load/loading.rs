//! One load: line after line into batches, batches to the server, and what came of each collection.

use std::{
    collections::{BTreeSet, VecDeque},
    io, mem,
};

use super::{
    Collected, LoadError, Loaded, Target, Wish,
    ahead::{Ahead, Hashed},
    batch::{self, BODY_BYTES, Batch},
    proof::Proof,
    server::{Asked, NoAnswer, Pending, Server, There},
    settings, shown,
    state::{Mark, OtherLines, Resumed, State},
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
    /// The line that begins it.
    begins: u64,
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
    /// It is not wanted, or was loaded to its end by the run before.
    Unwanted,
    Collection(Box<Current>),
}

/// A batch that the server was given, and whose answer is not known yet.
struct Flight {
    batch: Batch,
    sent: Pending,
    /// Its last line.
    mark: Mark,
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
    server: Server,
    steps: &'a Steps,
    state: State,
    loaded: Loaded,
    seen: BTreeSet<Target>,
    /// Names of the lines, for those who asked for others.
    named: BTreeSet<String>,
    into: Into,
    batch: Batch,
    /// Batches of the same collection, in the order of their lines.
    air: VecDeque<Flight>,
    /// Whether any line was right.
    any: bool,
    /// Whether the server was given anything.
    changed: bool,
}

impl<'a> Loading<'a> {
    pub(super) fn new(
        wish: &'a Wish,
        server: Server,
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
            batch: Batch::new(server.able.batch_max, server.able.base64),
            air: VecDeque::new(),
            server,
            any: false,
            changed: false,
        }
    }

    /// Loads all lines. Errs when the server does, the lines cannot be read, or it was stopped.
    pub(super) fn all(&mut self, lines: Lines) -> Result<(), Ended> {
        let mut lines = Ahead::of(lines, self.state.hashes()).map_err(Ended::Read)?;
        while let Some(Hashed { line, hash }) = lines.next().map_err(Ended::Read)? {
            if self.steps.stopped() {
                return Err(NoAnswer::Stopped.into());
            }
            self.state.saw(line.number, hash).map_err(|error| self.others(error))?;
            self.line(line)?;
        }
        self.state.saw_all().map_err(|error| self.others(error))?;
        self.finish()
    }

    fn others(&self, error: OtherLines) -> Ended {
        let path = self.wish.resume.clone().unwrap_or_default();
        Ended::Before(LoadError::Resume { path, why: error.to_string() })
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

    /// A file of another kind is not read to its end. Errs when nothing of a dump was seen by now.
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
        let again = !self.seen.insert(target.clone());
        if again && !self.wish.merge {
            return Err(Ended::Before(LoadError::Twice(target.to_string())));
        }
        if let Some(told) = self.state.finished(line, &target) {
            self.loaded.collections.push(told);
            self.into = Into::Unwanted;
            return Ok(());
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
                self.enter((line, &target), &there, collection, again, &mut told)?;
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
        let proof = Proof::new(self.state.current(line, &target));
        told.records = proof.sent();
        let id = there.map(|there| there.id);
        let current = Current { begins: line, target, id, dimension, told, proof };
        self.into = Into::Collection(Box::new(current));
        Ok(())
    }

    /// A collection that is there: our own of the run before, or one to be merged into. `again`: other lines have gone into it.
    /// Errs when the server does, the state cannot be written, or it is neither.
    fn enter(
        &mut self,
        (begins, target): (u64, &Target),
        there: &There,
        collection: &Collection,
        again: bool,
        told: &mut Collected,
    ) -> Result<(), Ended> {
        let count = self.server.count(target.place(), &there.id)?;
        let own = self.state.own(target).is_some_and(|own| match &own.id {
            Some(id) => *id == there.id,
            // It was cut off while it was being made.
            None => count == 0,
        });
        if own && !again {
            told.made = true;
            self.state.owns(target, Some(&there.id))?;
            return Ok(());
        }
        if !self.wish.merge {
            return Err(Ended::Before(LoadError::There(vec![target.to_string()])));
        }
        told.before = self.state.before(begins, target).unwrap_or(count);
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
    /// Errs when the server does for another reason, or the state cannot be written.
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

    /// Sends what waits. For an answer it waits only when enough is in the air. Errs when the server does.
    fn flush(&mut self) -> Result<(), Ended> {
        let next = self.batch.next();
        let mut batch = mem::replace(&mut self.batch, next);
        let Into::Collection(current) = &mut self.into else { return Ok(()) };
        if batch.len() == 0 {
            return Ok(());
        }
        if current.id.is_none() || self.wish.dry_run {
            current.told.records += batch.len() as u64;
            if current.id.is_none() && !self.server.able.lists {
                batch.without_lists(&mut self.loaded);
            }
            return Ok(());
        }
        while !self.may_go(&batch) {
            self.land()?;
        }
        let Into::Collection(current) = &self.into else { return Ok(()) };
        let Some(id) = &current.id else { return Ok(()) };
        if !self.server.able.lists {
            batch.without_lists(&mut self.loaded);
        }
        let body = batch.body()?;
        self.changed = true;
        let sent = self.server.upsert(current.target.place(), id, body, Asked::Patiently)?;
        self.air.push_back(Flight { batch, sent, mark: self.state.marked() });
        Ok(())
    }

    /// Whether a batch may be sent before those in the air are answered for. Of two lines with one id the later one counts, so it must not
    /// overtake the other. What is very large goes alone.
    fn may_go(&self, batch: &Batch) -> bool {
        let bytes: usize = self.air.iter().map(|one| one.batch.bytes()).sum();
        self.air.is_empty()
            || self.air.len() < self.most()
                && bytes + batch.bytes() <= AIR_BYTES
                && !self.air.iter().any(|one| one.batch.meets(batch))
    }

    /// How many batches may be in the air. A server from 1.0 on reads and queues one while it puts another into its index. Before 1.0 a
    /// server does one thing at a time, and two that add records to one collection get into each other's way.
    const fn most(&self) -> usize {
        if self.server.able.modern { 2 } else { 1 }
    }

    /// Waits for the answer to the batch that was sent first. Errs when the server did not take it, or the state cannot be written.
    fn land(&mut self) -> Result<(), Ended> {
        let Some(Flight { batch, sent, mark }) = self.air.pop_front() else { return Ok(()) };
        let Into::Collection(current) = &mut self.into else { return Ok(()) };
        let Some(id) = &current.id else { return Ok(()) };
        let answer = self.server.answered(sent);
        let place = current.target.place();
        let (server, proof, loaded) = (&mut self.server, &mut current.proof, &mut self.loaded);
        match batch::settle(server, place, id, batch, answer, proof, loaded) {
            Ok(lost) => current.told.lost += lost,
            Err(ended) => {
                // What is behind it does not count: whoever goes on begins with this one.
                self.air.clear();
                return Err(ended);
            }
        }
        current.told.records = current.proof.sent();
        let Current { begins, target, proof, told, .. } = &**current;
        self.state.reached(mark, *begins, target, proof.so_far(), told.before)
    }

    fn land_all(&mut self) -> Result<(), Ended> {
        while !self.air.is_empty() {
            self.land()?;
        }
        Ok(())
    }

    /// The end of a collection: the rest is sent, and asked for. Errs when the server does, or the state cannot be written.
    fn finish(&mut self) -> Result<(), Ended> {
        self.flush()?;
        self.land_all()?;
        match mem::replace(&mut self.into, Into::Nowhere) {
            Into::Collection(mut current) => {
                let Current { begins, target, id, told, proof, .. } = &mut *current;
                if let Some(id) = id.as_ref().filter(|_| !self.wish.dry_run) {
                    proof.of(&self.server, target, id, told, &mut self.loaded);
                    self.state.finish(*begins, told);
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

    /// Says what came of it. Errs when the server was not changed and a refusal ended it.
    pub(super) fn end(mut self, ended: Result<(), Ended>) -> Result<Loaded, LoadError> {
        // When it ended for another reason, what is in the air may still arrive.
        let ended = ended.inspect_err(|_| drop(self.land_all()));
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

/// Of all requests in the air: two full batches.
const AIR_BYTES: usize = 2 * BODY_BYTES;
/// After so many lines that are none, and no other, it is a file of another kind.
const HOPELESS: u64 = 100;
