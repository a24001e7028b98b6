//! `link_lists.bin`: for each element the length of its links above level 0, and the links, level by level. One length
//! that is impossible makes every later flush write far behind the end of the file, until the disk is full.

use alloc::{format, vec::Vec};

use super::{Header, Problems, level0::beyond};

/// Walks over the records of all elements.
#[derive(Debug)]
pub struct LinkWalk {
    header: Header,
    /// The part of a record that the pieces so far ended with.
    carry: Vec<u8>,
    index: u64,
    /// Bytes of the records seen.
    bytes: u64,
    /// Highest level of any element, and that of the entry point.
    highest: u64,
    entry_level: Option<u64>,
    /// Set at an impossible length: nothing behind it can be read.
    lost: bool,
    problems: Problems,
}

impl LinkWalk {
    /// A walk that has seen nothing.
    #[must_use]
    pub const fn new(header: Header) -> Self {
        Self {
            header,
            carry: Vec::new(),
            index: 0,
            bytes: 0,
            highest: 0,
            entry_level: None,
            lost: false,
            problems: Problems::new(),
        }
    }

    /// Goes on with the next bytes of the file.
    pub fn push(&mut self, mut piece: &[u8]) {
        while !self.carry.is_empty() && !piece.is_empty() && !self.done() {
            // Enough for the length, then for the whole record: what is kept stays below one record.
            let wanted = match self.next(&self.carry) {
                Next::Record(length) => length,
                Next::Unknown | Next::Impossible(_) => 4,
            };
            let (more, rest) =
                piece.split_at(wanted.saturating_sub(self.carry.len()).min(piece.len()));
            self.carry.extend_from_slice(more);
            piece = rest;
            let mut carried = core::mem::take(&mut self.carry);
            let used = self.records(&carried);
            carried.drain(..used);
            self.carry = carried;
        }
        if self.carry.is_empty() && !self.done() {
            let used = self.records(piece);
            self.carry.extend_from_slice(&piece[used..]);
        }
    }

    /// Whether nothing more is to be read: all elements were seen, or an impossible length.
    #[must_use]
    pub const fn done(&self) -> bool {
        self.lost || self.index >= self.header.elements
    }

    /// Whether the file ended before its last record did.
    #[must_use]
    pub const fn cut(&self) -> bool {
        !self.done()
    }

    /// Ends the walk over a file of `len` bytes, which was pushed as far as it goes or until [`Self::done`].
    pub fn finish(&mut self, len: u64) {
        let (header, index) = (self.header, self.index);
        if self.lost {
            return;
        }
        if index < header.elements {
            let elements = header.elements;
            self.problems.note(|| format!("it ends in the links of element {index} of {elements}"));
            return;
        }
        let bytes = self.bytes;
        if len != bytes {
            self.problems.note(|| format!("its {index} records take {bytes} bytes, it has {len}"));
        }
        if header.elements == 0 {
            return;
        }
        let (highest, levels) = (self.highest, header.levels());
        if self.entry_level != Some(levels) || highest != levels {
            let entry = self.entry_level.unwrap_or(0);
            self.problems.note(|| {
                format!(
                    "the header states level {levels}, the entry point reaches {entry}, the highest element {highest}"
                )
            });
        }
    }

    /// What is wrong in them.
    #[must_use]
    pub const fn problems(&self) -> &Problems {
        &self.problems
    }

    /// Reads the whole records at the beginning of `bytes`, and tells how many bytes they take.
    fn records(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while !self.done() {
            match self.next(&bytes[at..]) {
                Next::Unknown => break,
                Next::Record(length) => {
                    let Some(record) = bytes.get(at + 4..at + length) else { break };
                    self.record(record);
                    at += length;
                }
                Next::Impossible(length) => {
                    let (index, header) = (self.index, self.header);
                    self.lost = true;
                    self.problems.note(|| {
                        format!(
                            "element {index} states {length} bytes of links, {} levels of {} bytes are possible",
                            header.levels(),
                            header.level_bytes()
                        )
                    });
                }
            }
        }
        at
    }

    /// What the record is that `bytes` begin with.
    fn next(&self, bytes: &[u8]) -> Next {
        let Some(length) = bytes.first_chunk() else { return Next::Unknown };
        let length = u32::from_le_bytes(*length);
        let level_bytes = self.header.level_bytes();
        let possible = u64::from(length).is_multiple_of(level_bytes)
            && u64::from(length) <= self.header.levels() * level_bytes;
        match usize::try_from(length) {
            Ok(links) if possible => Next::Record(links + 4),
            _ => Next::Impossible(length),
        }
    }

    fn record(&mut self, links: &[u8]) {
        let index = self.index;
        let (neighbours, elements) = (self.header.neighbours, self.header.elements);
        let level_bytes = self.header.level_bytes();
        self.index += 1;
        self.bytes += 4 + links.len() as u64;
        let levels = links.len() as u64 / level_bytes;
        self.highest = self.highest.max(levels);
        if index == u64::from(self.header.entry_point) {
            self.entry_level = Some(levels);
        }
        let Ok(level_bytes) = usize::try_from(level_bytes) else { return };
        for level in links.chunks_exact(level_bytes) {
            let Some((head, ids)) = level.split_first_chunk::<4>() else { continue };
            let count = u16::from_le_bytes([head[0], head[1]]);
            if u64::from(count) > neighbours {
                self.problems.note(|| {
                    format!("element {index} states {count} links of {neighbours} at most")
                });
                continue;
            }
            let ids = ids.as_chunks::<4>().0.iter().take(count.into());
            if let Some(id) = beyond(ids.map(|id| u32::from_le_bytes(*id)), elements) {
                self.problems.note(|| {
                    format!("element {index} is linked to {id}, there are {elements} elements")
                });
            }
        }
    }
}

/// What comes next in the file.
enum Next {
    /// Its length is not there yet.
    Unknown,
    /// A record of so many bytes, its length included.
    Record(usize),
    /// A length that no element has.
    Impossible(u32),
}
