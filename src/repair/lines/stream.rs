//! Records of a store, of a backup or of a dump, collection by collection, in the order that `dump` gives them.

use std::{
    cmp::Ordering,
    collections::BTreeSet,
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    sync::mpsc::{self, Receiver, SyncSender},
    thread::{self, JoinHandle},
};

use super::{Collection, Line, Lines, Record};
use crate::{
    human::plain,
    repair::{
        dump::{self, Copied, DumpError, Dumped, Wanted},
        steps::Steps,
    },
};

/// Why there are no further records.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// They cannot be read.
    #[error("cannot read {what} behind line {line}")]
    Read {
        /// What was read.
        what: String,
        /// The last line that was read.
        line: u64,
        /// What the operating system answered, or what is wrong with the packed file.
        source: io::Error,
    },
    /// Two that are in order cannot be held against each other otherwise.
    #[error("line {line} of {what} is not in the order in which dump writes: {why}")]
    Order {
        /// What was read.
        what: String,
        /// The line.
        line: u64,
        /// What stands before what.
        why: String,
    },
    /// A store or a backup could not be dumped.
    #[error("cannot read {what}")]
    Dump {
        /// What was read.
        what: String,
        /// Why.
        source: DumpError,
    },
    /// There is no such collection in a dump.
    #[error("{what} has no collection {name:?}")]
    NoCollection {
        /// What was read.
        what: String,
        /// What was asked for.
        name: String,
    },
    /// It is no dump.
    #[error("{what} is no dump: none of its first {HOPELESS} lines is one")]
    None {
        /// What was read.
        what: String,
    },
    /// Nobody wants it any more.
    #[error("stopped")]
    Stopped,
}

/// Reads them.
pub struct Stream {
    what: String,
    lines: Lines,
    /// The thread that makes the lines of a copy.
    dumping: Option<JoinHandle<Result<Dumped, DumpError>>>,
    copied: Option<Copied>,
    steps: Steps,
    /// Names of collections that are wanted; all of them when it is empty.
    only: Vec<String>,
    /// Those of them that came.
    came: BTreeSet<String>,
    /// The line of the collection that comes next, once it was read.
    next: Option<Collection>,
    place: Option<(String, String, String)>,
    last: Option<String>,
    ordered: bool,
    any: bool,
    unread: Unread,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("what", &self.what).finish_non_exhaustive()
    }
}

/// What could not be read.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Unread {
    /// Lines that are none, and records that have no line.
    pub count: u64,
    /// A sentence each; the first hundred.
    pub told: Vec<String>,
}

impl Unread {
    fn tell(&mut self, count: u64, why: String) {
        self.count += count;
        if self.told.len() < LISTED_MAX {
            self.told.push(why);
        }
    }
}

impl Stream {
    /// Those of a file, or of standard input when there is none. Errs when it cannot be opened.
    pub fn of_file(
        path: Option<&Path>,
        only: &[String],
        steps: &Steps,
    ) -> Result<Self, StreamError> {
        let what =
            path.map_or_else(|| "standard input".to_owned(), |path| plain(&path.to_string_lossy()));
        let lines = match path {
            // Whoever takes the records counts those, not the bytes.
            Some(path) => File::open(path).and_then(Lines::new),
            None => Lines::new(io::stdin()),
        };
        let lines =
            lines.map_err(|source| StreamError::Read { what: what.clone(), line: 0, source })?;
        let mut stream = Self::new(what, lines, steps);
        only.clone_into(&mut stream.only);
        Ok(stream)
    }

    /// Those of a copy. `what` is what people call it. Errs when no thread can be started, or nothing can be read.
    pub fn of_copy(
        what: &Path,
        copied: Copied,
        wanted: &Wanted,
        steps: &Steps,
    ) -> Result<Self, StreamError> {
        let what = plain(&what.to_string_lossy());
        let (send, pieces) = mpsc::sync_channel(PIECES);
        let (dir, wanted): (PathBuf, Wanted) = (copied.dir().to_owned(), wanted.clone());
        // How far it is tells whoever takes the lines.
        let dumping = thread::Builder::new()
            .name("dump".to_owned())
            .spawn(move || {
                let mut out = Sender { pieces: send, piece: Vec::with_capacity(PIECE_BYTES) };
                dump::run(&dir, &wanted, &mut out, &Steps::default())
            })
            .and_then(|dumping| {
                Ok((dumping, Lines::new(Taker { from: pieces, piece: Vec::new(), at: 0 })?))
            });
        let (dumping, lines) =
            dumping.map_err(|source| StreamError::Read { what: what.clone(), line: 0, source })?;
        let mut stream = Self::new(what, lines, steps);
        (stream.dumping, stream.copied) = (Some(dumping), Some(copied));
        Ok(stream)
    }

    fn new(what: String, lines: Lines, steps: &Steps) -> Self {
        Self {
            what,
            lines,
            dumping: None,
            copied: None,
            steps: steps.clone(),
            only: Vec::new(),
            came: BTreeSet::new(),
            next: None,
            place: None,
            last: None,
            ordered: false,
            any: false,
            unread: Unread::default(),
        }
    }

    /// From now on what is not in order is an error.
    #[must_use]
    pub fn ordered(mut self) -> Self {
        self.ordered = true;
        self
    }

    /// What people call it.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }

    /// The directory that is read, when it is a copy of a store or of a backup.
    #[must_use]
    pub fn copy(&self) -> Option<&Copied> {
        self.copied.as_ref()
    }

    /// The next collection. Records of the one before that were not read are passed over.
    /// Errs when the lines cannot be read or are out of order, a wanted collection is not there, or the steps were stopped.
    pub(crate) fn collection(&mut self) -> Result<Option<Collection>, StreamError> {
        loop {
            while self.record()?.is_some() {}
            let Some(next) = self.next.take() else { break };
            let place = (next.tenant.clone(), next.database.clone(), next.name.clone());
            if self.ordered && self.place.as_ref().is_some_and(|before| *before >= place) {
                let name = plain(&next.name);
                return Err(
                    self.order(format!("the collection {name} stands behind one that comes later"))
                );
            }
            (self.place, self.last) = (Some(place), None);
            if self.only.is_empty() {
                return Ok(Some(next));
            }
            if self.only.contains(&next.name) {
                self.came.insert(next.name.clone());
                return Ok(Some(next));
            }
        }
        let missing = self.only.iter().find(|name| !self.came.contains(*name));
        match missing {
            Some(name) => {
                Err(StreamError::NoCollection { what: self.what.clone(), name: name.clone() })
            }
            None => Ok(None),
        }
    }

    /// The next record of the collection; `None` at its end.
    /// Errs when the lines cannot be read or are out of order, or the steps were stopped.
    pub(crate) fn record(&mut self) -> Result<Option<Record>, StreamError> {
        if self.next.is_some() {
            return Ok(None);
        }
        loop {
            if self.steps.stopped() {
                return Err(StreamError::Stopped);
            }
            let line = self.lines.next().map_err(|source| StreamError::Read {
                what: self.what.clone(),
                line: self.lines.number,
                source,
            })?;
            let Some(line) = line else {
                self.ended()?;
                return Ok(None);
            };
            match line.line {
                Ok(Line::Collection(collection)) => {
                    self.any = true;
                    self.next = Some(*collection);
                    return Ok(None);
                }
                Ok(Line::Record(record)) if self.place.is_some() => {
                    self.any = true;
                    if self.ordered {
                        self.in_order(&record.id)?;
                    }
                    return Ok(Some(record));
                }
                Ok(Line::Record(_)) => {
                    let why = "no line before it begins a collection";
                    self.unread.tell(1, format!("line {}: {why}", line.number));
                }
                Err(bad) => {
                    if bad.collection {
                        // Nobody knows where the records behind it belong.
                        self.place = None;
                    }
                    self.unread.tell(1, format!("line {}: {bad}", line.number));
                }
            }
            if !self.any && self.unread.count >= HOPELESS {
                return Err(StreamError::None { what: self.what.clone() });
            }
        }
    }

    /// What could not be read, once all was.
    #[must_use]
    pub fn unread(&self) -> &Unread {
        &self.unread
    }

    /// Asks the thread that makes the lines how it ended. Errs when it ended with an error.
    fn ended(&mut self) -> Result<(), StreamError> {
        let Some(dumping) = self.dumping.take() else { return Ok(()) };
        let dumped = dumping.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let dumped =
            dumped.map_err(|source| StreamError::Dump { what: self.what.clone(), source })?;
        // Records without a vector have a line that says so.
        self.unread.count += dumped.unreadable;
        let whole = u64::from(dumped.unreadable == 0 && !dumped.losses.is_empty());
        self.unread.count += whole;
        self.unread.told.extend(dumped.losses.into_iter().take(LISTED_MAX));
        self.unread.told.truncate(LISTED_MAX);
        Ok(())
    }

    fn in_order(&mut self, id: &str) -> Result<(), StreamError> {
        match self.last.as_deref().map(|last| last.cmp(id)) {
            Some(Ordering::Equal) => {
                let why = format!("the id {} stands twice in one collection", plain(id));
                Err(self.order(why))
            }
            Some(Ordering::Greater) => {
                let why = format!("the record {} stands behind one that comes later", plain(id));
                Err(self.order(why))
            }
            Some(Ordering::Less) | None => {
                match &mut self.last {
                    Some(last) => id.clone_into(last),
                    None => self.last = Some(id.to_owned()),
                }
                Ok(())
            }
        }
    }

    fn order(&self, why: String) -> StreamError {
        StreamError::Order { what: self.what.clone(), line: self.lines.number, why }
    }
}

/// Whether a file holds lines of a dump, packed or not: such lines begin with a brace. Errs when it cannot be read.
pub fn is_dump(path: &Path) -> io::Result<bool> {
    if !path.is_file() {
        return Ok(false);
    }
    let mut lines = Lines::open(path, &Steps::default())?;
    match lines.peek() {
        Ok(byte) => Ok(byte == Some(b'{')),
        // Packed, and not whole: whoever opens it as a backup tells what is wrong.
        Err(_) => Ok(false),
    }
}

/// Takes what is written to another thread.
struct Sender {
    pieces: SyncSender<Vec<u8>>,
    piece: Vec<u8>,
}

impl Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE_BYTES));
        self.pieces.send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// What the other thread has written.
struct Taker {
    from: Receiver<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Taker {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            let Ok(piece) = self.from.recv() else { return Ok(0) };
            (self.piece, self.at) = (piece, 0);
        }
        let taken = buffer.len().min(self.piece.len() - self.at);
        buffer[..taken].copy_from_slice(&self.piece[self.at..self.at + taken]);
        self.at += taken;
        Ok(taken)
    }
}

const PIECE_BYTES: usize = 256 << 10;
const PIECES: usize = 4;
const LISTED_MAX: usize = 100;
/// After so many lines that are none, and no other, it is a file of another kind.
const HOPELESS: u64 = 100;
