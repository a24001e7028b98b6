//! `index_metadata.pickle`, read without executing it, and written ([`write()`]). Python's pickle is a program; Chroma before 1.0 runs whatever it
//! says, with the rights of the server. Here its opcodes are walked with limits, and only those mean something that Chroma
//! itself writes:
//!
//! - 1.x: protocol 3, a plain dictionary;
//! - 0.4 to 0.6: protocol 4 or 5, an object of the one class `PersistentData` with that dictionary as its state.
//!
//! Sources: `pickletools.py` of `CPython`, chromadb's `local_persistent_hnsw.py`, and files of 0.4.24, 0.6.3, 1.1.1, 1.5.9.
//! Strings become hashes and pairs are handed on as they come, so that memory grows with neither, but for the memo table of
//! the older family (sixteen bytes per string).

use alloc::{string::String, vec, vec::Vec};

mod machine;
mod opcodes;
mod write;

pub use write::{Entry, NewMetadata, WriteError, write};

use core::{convert::Infallible, ops::Range};

use twox_hash::XxHash3_64;

/// How much is read before it is called wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Length of the file.
    pub bytes_max: u64,
    /// Length of one string.
    pub string_bytes_max: usize,
    /// Values on the stack; Chroma's own files need some ten.
    pub stack_max: usize,
    /// Dictionaries within dictionaries; Chroma's own files have two.
    pub depth_max: usize,
    /// Strings and dictionaries that are remembered: as many as there are ids, and a few more.
    pub memo_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bytes_max: 8 << 30,
            string_bytes_max: 1 << 20,
            stack_max: 64,
            depth_max: 8,
            memo_max: 1 << 24,
        }
    }
}

/// Who wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Family {
    /// Chroma 1.x.
    Plain,
    /// Chroma 0.4 to 0.6.
    PersistentData,
}

/// What a metadata file states.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Metadata {
    /// Who wrote it.
    pub family: Family,
    /// Numbers per vector; `None` in all files of 1.x.
    pub dimensionality: Option<u64>,
    /// Labels given out so far.
    pub total_elements_added: u64,
    /// How far the queue is in the index; only before 0.5.
    pub max_seq_id: Option<u64>,
    /// The last row of the queue that one of its vectors is from, where it says so; deletions after that row are in the index too.
    pub newest_seq_id: Option<u64>,
    /// Pairs in `id_to_label`.
    pub ids: u64,
    /// Greatest label in it, 0 when it is empty.
    pub label_max: u64,
    /// Whether `label_to_id` is the inverse of `id_to_label`.
    pub inverse: bool,
    /// Bytes of the pickle.
    pub bytes: u64,
}

/// Why a file gave nothing.
#[derive(Debug)]
pub enum ReadError<E> {
    /// Its bytes cannot be read.
    Source(E),
    /// It is not one of Chroma's.
    Content(PickleError),
}

impl<E> From<PickleError> for ReadError<E> {
    fn from(error: PickleError) -> Self {
        Self::Content(error)
    }
}

/// Why it is not one of Chroma's.
#[derive(Debug, thiserror::Error)]
pub enum PickleError {
    /// It ends before its end.
    #[error("it ends after {at} bytes, in the middle")]
    Truncated {
        /// Bytes that are there.
        at: u64,
    },
    /// Running it would call code.
    #[error("at byte {at} it {does}")]
    Hostile {
        /// Where.
        at: u64,
        /// `imports posix.system`, for example.
        does: String,
    },
    /// Something that Chroma never writes.
    #[error("at byte {at} it has {what}")]
    Foreign {
        /// Where.
        at: u64,
        /// What stands there.
        what: String,
    },
    /// More than a limit.
    #[error("at byte {at} it has more than {bound} {what}")]
    TooMuch {
        /// Where.
        at: u64,
        /// Of what.
        what: &'static str,
        /// The limit.
        bound: u64,
    },
    /// It was read to its end and does not say what it should.
    #[error("{0}")]
    Incomplete(&'static str),
}

/// Where the bytes of a file come from.
pub trait Source {
    /// Why they cannot be read.
    type Error;

    /// Reads what comes next into `buffer`; says how many bytes, none at the end. A reading that was interrupted is for the
    /// source to try again.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Self::Error>;
}

impl Source for &[u8] {
    type Error = Infallible;

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Infallible> {
        let (now, later) = self.split_at(self.len().min(buffer.len()));
        buffer[..now.len()].copy_from_slice(now);
        *self = later;
        Ok(now.len())
    }
}

/// Reads one metadata file from `source` and hands every id's hash and label to `visit`, in the order of the file. Errs at
/// the first byte that is not Chroma's; pairs handed on before are void then.
pub fn read<R: Source>(
    source: R,
    limits: Limits,
    visit: &mut dyn FnMut(u64, u64),
) -> Result<Metadata, ReadError<R::Error>> {
    let mut ids = |map, id, label| {
        if map == Map::IdToLabel {
            visit(id, label);
        }
    };
    machine::run(&mut Input::new(source, limits.bytes_max), limits, &mut ids, None)
}

/// Which of the dictionaries a pair stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Map {
    /// The first.
    IdToLabel,
    /// The second, which says the same the other way round.
    LabelToId,
    /// The third: the row of the queue that an id has its vector from, in place of a label. Chroma 1.x leaves it empty.
    IdToSeqId,
}

/// What a file says that may be damaged.
#[derive(Debug)]
pub struct Salvaged<E> {
    /// Numbers per vector, where it stands in front of the damage and is stated.
    pub dimensionality: Option<u64>,
    /// Labels given out so far.
    pub total_elements_added: Option<u64>,
    /// How far the queue is in the index; only before 0.5.
    pub max_seq_id: Option<u64>,
    /// Where the reading ended; `None` at the end of a whole file, whose two maps may still contradict each other.
    pub error: Option<ReadError<E>>,
}

/// Reads what stands in front of the first byte that is not Chroma's. Hands each pair of an id and a number to `visit`, as its dictionary has it: a pair that
/// stands right in front of the damage may be damaged itself.
pub fn salvage<R: Source>(
    source: R,
    limits: Limits,
    visit: &mut dyn FnMut(Map, u64, u64),
) -> Salvaged<R::Error> {
    let (stated, result) =
        machine::salvage(&mut Input::new(source, limits.bytes_max), limits, visit);
    Salvaged {
        dimensionality: stated.dimensionality,
        total_elements_added: stated.total,
        max_seq_id: stated.max_seq_id,
        error: result.err(),
    }
}

/// The same for whoever wants to name some of the ids: `naming` gets every string of the file with its [`hash`], each id more than
/// once. Errs as [`read`] does.
pub fn read_naming<R: Source>(
    source: R,
    limits: Limits,
    naming: &mut dyn FnMut(u64, &[u8]),
) -> Result<Metadata, ReadError<R::Error>> {
    machine::run(&mut Input::new(source, limits.bytes_max), limits, &mut |_, _, _| {}, Some(naming))
}

/// The hash of an id, the same for the text in the database and in the metadata file, and the same over releases: hashes are
/// kept in the state directory. Two ids of a million share one once in thirty million stores, unless somebody chooses them so.
#[must_use]
pub fn hash(id: &[u8]) -> u64 {
    XxHash3_64::oneshot(id)
}

/// Bytes with their position.
struct Input<R> {
    source: R,
    /// What was read ahead; `ahead` of it is still to come.
    buffer: Vec<u8>,
    ahead: Range<usize>,
    at: u64,
    bytes_max: u64,
}

impl<R: Source> Input<R> {
    fn new(source: R, bytes_max: u64) -> Self {
        Self { source, buffer: vec![0; BUFFER_BYTES], ahead: 0..0, at: 0, bytes_max }
    }

    /// The next bytes, where they stand: most strings are hashed without being copied.
    /// Errs when the source does, they are cut off, or the file is too long.
    fn next(&mut self, length: usize) -> Result<&[u8], ReadError<R::Error>> {
        if self.ahead.len() < length {
            self.read_ahead(length)?;
        }
        let next = self.ahead.start..self.ahead.start + length;
        self.ahead.start = next.end;
        self.at += length as u64;
        Ok(&self.buffer[next])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ReadError<R::Error>> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.next(N)?);
        Ok(bytes)
    }

    /// A line of text without its end. Errs when the source does, or the line is cut off or too long.
    fn line(&mut self, bound: usize) -> Result<Vec<u8>, ReadError<R::Error>> {
        let at = self.at;
        let mut line = Vec::new();
        loop {
            match self.array()? {
                [b'\n'] => return Ok(line),
                [byte] if line.len() < bound => line.push(byte),
                _ => return Err(too_much(at, "bytes in a line", bound as u64).into()),
            }
        }
    }

    /// Whether nothing follows. Errs when the source does.
    fn ended(&mut self) -> Result<bool, ReadError<R::Error>> {
        match self.read_ahead(1) {
            Err(ReadError::Content(PickleError::Truncated { .. })) => Ok(true),
            result => result.map(|()| false),
        }
    }

    /// Reads until `length` bytes are there. Errs when the source does, they are cut off, or the file is too long.
    #[cold]
    fn read_ahead(&mut self, length: usize) -> Result<(), ReadError<R::Error>> {
        self.buffer.copy_within(self.ahead.clone(), 0);
        self.ahead = 0..self.ahead.len();
        if self.buffer.len() < length {
            self.buffer.resize(length, 0);
        }
        while self.ahead.len() < length {
            match self.source.read(&mut self.buffer[self.ahead.end..]) {
                Ok(0) => {
                    return Err(
                        PickleError::Truncated { at: self.at + self.ahead.len() as u64 }.into()
                    );
                }
                Ok(read) => self.ahead.end += read,
                Err(error) => return Err(ReadError::Source(error)),
            }
        }
        if self.at + self.ahead.len() as u64 > self.bytes_max {
            return Err(too_much(self.at, "bytes", self.bytes_max).into());
        }
        Ok(())
    }
}

const fn too_much(at: u64, what: &'static str, bound: u64) -> PickleError {
    PickleError::TooMuch { at, what, bound }
}

const BUFFER_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests;
