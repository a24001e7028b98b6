//! The lines that `dump` writes, read again: out of a file or a pipe, packed or not, one line in memory at a time. A line that is none is
//! told with its number and its field, and the next one is read.

pub(crate) mod index;
mod parse;
mod stream;

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

use flate2::read::MultiGzDecoder;
use serde_json::Value;

pub use self::stream::{Stream, StreamError, Unread, is_dump};
use super::{dump::Metadata, steps::Steps};

/// What stands in one line.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Line {
    /// The records that follow are in this one.
    Collection(Box<Collection>),
    Record(Record),
}

/// A collection.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Collection {
    pub(crate) name: String,
    pub(crate) tenant: String,
    pub(crate) database: String,
    pub(crate) space: Option<String>,
    pub(crate) dimension: Option<u64>,
    pub(crate) metadata: Metadata,
    /// As Chroma keeps it; its form is another one in each release.
    pub(crate) configuration: Option<Value>,
}

/// A record.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) document: Option<String>,
    pub(crate) uri: Option<String>,
    pub(crate) metadata: Metadata,
    pub(crate) embedding: Embedding,
}

/// The vector of a record.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) enum Embedding {
    /// The line does not speak of it: the dump was made without vectors.
    #[default]
    Unsaid,
    /// There was none that could be read.
    Lost,
    Is(Vec<f32>),
}

impl Embedding {
    pub(crate) fn vector(&self) -> Option<&[f32]> {
        match self {
            Self::Is(vector) => Some(vector),
            Self::Unsaid | Self::Lost => None,
        }
    }
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{why}", .field.as_ref().map(|field| format!("{field}: ")).unwrap_or_default())]
pub(crate) struct Bad {
    /// Where in the line: `metadata.page`, `embedding[3]`; none when it is the line as a whole.
    pub(crate) field: Option<String>,
    pub(crate) why: String,
    /// Whether the line was meant to begin a collection, so that nobody knows where the records behind it belong.
    pub(crate) collection: bool,
}

/// A line, with its number from 1.
#[derive(Debug)]
pub(crate) struct Numbered {
    pub(crate) number: u64,
    pub(crate) line: Result<Line, Bad>,
}

/// Reads lines.
pub(crate) struct Lines {
    from: Box<dyn BufRead + Send>,
    buffer: Vec<u8>,
    number: u64,
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Lines {
    /// Those of a file; what is read of it counts as a part of the step. Errs when it cannot be opened or read.
    pub(crate) fn open(path: &Path, steps: &Steps) -> io::Result<Self> {
        Self::new(Counted { from: File::open(path)?, steps: steps.clone() })
    }

    /// Those that come out of `from`, which may be packed: that is told by its first bytes, whatever its name is.
    /// Errs when its first bytes cannot be read, or the unpacker does not begin.
    pub(crate) fn new(from: impl Read + Send + 'static) -> io::Result<Self> {
        let mut from = BufReader::with_capacity(PIECE_BYTES, from);
        // A pipe gives as much as is there: four bytes may come in several pieces.
        let mut begin = Vec::new();
        from.by_ref().take(MAGIC_BYTES).read_to_end(&mut begin)?;
        let packed = io::Cursor::new(begin.clone()).chain(from);
        let from: Box<dyn BufRead + Send> = match &begin[..] {
            [0x1f, 0x8b, ..] => {
                Box::new(BufReader::with_capacity(PIECE_BYTES, MultiGzDecoder::new(packed)))
            }
            [0x28, 0xb5, 0x2f, 0xfd] => {
                let mut zstd = zstd::stream::read::Decoder::with_buffer(packed)?;
                zstd.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                Box::new(BufReader::with_capacity(PIECE_BYTES, zstd))
            }
            _ => Box::new(packed),
        };
        Ok(Self { from, buffer: Vec::new(), number: 0 })
    }

    /// The next line; `None` at the end. Empty lines are passed over. Errs when no more can be read.
    pub(crate) fn next(&mut self) -> io::Result<Option<Numbered>> {
        loop {
            let Some(whole) = self.fill()? else { return Ok(None) };
            let text = self.buffer.trim_ascii();
            if text.is_empty() && whole {
                continue;
            }
            let line = if whole {
                parse::line(text)
            } else {
                let why = format!("it is longer than {} MiB", LINE_BYTES_MAX >> 20);
                Err(Bad { field: None, why, collection: false })
            };
            return Ok(Some(Numbered { number: self.number, line }));
        }
    }

    /// The line that was read last, as it stands.
    pub(crate) fn raw(&self) -> &[u8] {
        self.buffer.trim_ascii()
    }

    /// The next line as it stands, without its end; `None` at the end. Of one that is too long the rest is passed over.
    /// Errs when it cannot be read or unpacked.
    pub(crate) fn next_raw(&mut self) -> io::Result<Option<(u64, &[u8])>> {
        Ok(self.fill()?.map(|_| (self.number, self.buffer.trim_ascii())))
    }

    /// The first byte that is no white space, without taking it; `None` at the end. Errs when it cannot be read or unpacked.
    fn peek(&mut self) -> io::Result<Option<u8>> {
        loop {
            let part = match self.from.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                part => part?,
            };
            let first = part.iter().position(|byte| !byte.is_ascii_whitespace());
            match (first, part.len()) {
                (Some(first), _) => return Ok(Some(part[first])),
                (None, 0) => return Ok(None),
                (None, length) => self.from.consume(length),
            }
        }
    }

    /// What stands in a line. Errs when it is none of a dump.
    pub(crate) fn parsed(text: &[u8]) -> Result<Line, Bad> {
        parse::line(text)
    }

    /// Gives the room of a long line back, which is not asked for any more.
    pub(crate) fn give_back(&mut self) {
        if self.buffer.capacity() > 4 * PIECE_BYTES {
            self.buffer = Vec::new();
        }
    }

    /// Reads one line into the buffer, and says whether it is whole. Errs when it cannot be read or unpacked.
    fn fill(&mut self) -> io::Result<Option<bool>> {
        self.buffer.clear();
        let mut whole = true;
        loop {
            let part = match self.from.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                part => part?,
            };
            if part.is_empty() {
                if self.buffer.is_empty() && whole {
                    return Ok(None);
                }
                break;
            }
            let end = part.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(part.len(), |end| end + 1);
            if whole && self.buffer.len() + taken <= LINE_BYTES_MAX {
                self.buffer.extend_from_slice(&part[..taken]);
            } else {
                whole = false;
            }
            self.from.consume(taken);
            if end.is_some() {
                break;
            }
        }
        self.number += 1;
        // A line that was long once does not keep its room.
        if self.buffer.capacity() > 4 * PIECE_BYTES && self.buffer.len() < PIECE_BYTES {
            self.buffer.shrink_to(PIECE_BYTES);
        }
        Ok(Some(whole))
    }
}

/// Counts what is read of the file.
struct Counted {
    from: File,
    steps: Steps,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.steps.add(read as u64);
        Ok(read)
    }
}

const MAGIC_BYTES: u64 = 4;
const PIECE_BYTES: usize = 256 << 10;
/// No server of Chroma takes more in one request.
const LINE_BYTES_MAX: usize = 64 << 20;
/// 128 MiB: what `zstd --long` writes, and no more.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

#[cfg(test)]
mod tests;
