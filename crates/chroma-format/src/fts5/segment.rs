//! One segment of an index, walked from its first term to its last.
//!
//! A leaf is: the offset of its first row id, if one stands before the first term (16 bits); the offset of its footer (16
//! bits); its content; the footer, which gives the offsets of its terms. The content of all leaves in a row is: terms, each
//! followed by its doclist of rows with their positions. Positions may go on over several leaves; the first row id and the
//! first term of a leaf are written in full and others as the difference to the one before.

use alloc::vec::Vec;

use super::{Unrecognised, doclists::Run, varint, varint_small};

/// Where a segment's records come from, in this order.
pub trait Source {
    /// What can go wrong.
    type Error: From<Unrecognised>;

    /// Puts the next leaf, which must be `page`, into `leaf`. Errs when there is none.
    fn leaf(&mut self, page: u32, leaf: &mut Vec<u8>) -> Result<(), Self::Error>;

    /// Puts the next split of the `_idx` table, by term, into `split`, passing over those of pages before `first`; `false`
    /// at its end. Errs when it cannot be read.
    fn split(&mut self, first: u32, split: &mut Split) -> Result<bool, Self::Error>;

    /// Puts a record of a doclist index into `record`. Errs when it cannot be read.
    fn doclist_index(
        &mut self,
        level: u8,
        page: u32,
        record: &mut Vec<u8>,
    ) -> Result<(), Self::Error>;
}

/// A row of the `_idx` table: the terms of a page are not less than this one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Split {
    /// A term or the beginning of one.
    pub term: Vec<u8>,
    /// The page.
    pub page: u32,
    /// Whether its last term has a doclist index.
    pub indexed: bool,
}

/// A segment, at one of its rows.
#[derive(Debug)]
pub struct Segment<S> {
    source: S,
    first: u32,
    last: u32,
    /// The leaf at hand: its number, bytes, where its content ends, and the first row id.
    number: u32,
    leaf: Vec<u8>,
    content: usize,
    first_row: usize,
    /// Where the next term begins; the end of the content when there is none.
    next_term: usize,
    /// Where the number of the term after that stands in the footer.
    footer: usize,
    /// Whether the next term is the first of its leaf.
    leads: bool,
    at: usize,
    term: Vec<u8>,
    rowid: i64,
    /// No row of the doclist was read yet.
    fresh: bool,
    ended: bool,
    /// Where the positions are: in the leaf, or in `spilled`.
    positions: core::ops::Range<usize>,
    spilled: Option<Vec<u8>>,
    split: Split,
    run: Run,
}

impl<S: Source> Segment<S> {
    /// The segment with the leaves `first` to `last`. Reads nothing yet.
    #[must_use]
    pub fn new(source: S, first: u32, last: u32) -> Self {
        Self {
            source,
            first,
            last,
            number: first.saturating_sub(1),
            leaf: Vec::new(),
            content: 0,
            first_row: 0,
            next_term: 0,
            footer: 0,
            leads: false,
            at: 0,
            term: Vec::new(),
            rowid: 0,
            fresh: false,
            ended: false,
            positions: 0..0,
            spilled: None,
            split: Split::default(),
            run: Run::default(),
        }
    }

    /// The term at hand.
    pub(super) fn term(&self) -> &[u8] {
        &self.term
    }

    /// The row at hand.
    pub(super) fn rowid(&self) -> i64 {
        self.rowid
    }

    /// Positions of the term in the row at hand, none where the row was deleted.
    pub(super) fn positions(&self) -> &[u8] {
        match &self.spilled {
            Some(spilled) => spilled,
            None => &self.leaf[self.positions.clone()],
        }
    }

    /// Goes to the next term and its first row; `false` when there is none. Only to be called at the end of a doclist. Errs
    /// when a page cannot be read, or is not as FTS5 writes it.
    pub(super) fn next_term(&mut self) -> Result<bool, S::Error> {
        if self.number < self.first {
            if !self.turn_page()? || self.first_row != 0 || self.next_term != HEAD {
                return Err(Unrecognised("a segment that does not begin with a term").into());
            }
            self.at = HEAD;
        }
        if self.ended {
            return Ok(false);
        }
        self.read_term()?;
        self.fresh = true;
        if !self.next_row()? {
            return Err(Unrecognised("a term without rows").into());
        }
        Ok(true)
    }

    fn read_term(&mut self) -> Result<(), S::Error> {
        let content = &self.leaf[..self.content];
        let mut at = self.next_term;
        let keep = if self.leads { 0 } else { varint_small(content, &mut at)? as usize };
        let new = varint_small(content, &mut at)? as usize;
        let new = at.checked_add(new).and_then(|end| content.get(at..end));
        let new =
            new.filter(|new| !new.is_empty()).ok_or(Unrecognised("a term that ends too late"))?;
        at += new.len();
        if keep > self.term.len() || keep + new.len() > TERM_BYTES_MAX {
            return Err(Unrecognised("a term that is too long").into());
        }
        // Before the old term goes: the page's split must lie above it and not above the new one.
        if self.leads {
            let split_ok = self.source.split(self.first, &mut self.split)?
                && self.split.page == self.number
                && (self.term.is_empty() || self.split.term > self.term)
                && self.split.term.as_slice() <= new;
            if !split_ok {
                return Err(Unrecognised("a page and its split disagree").into());
            }
        }
        let ascends = self.term.is_empty()
            || if self.leads {
                self.term.as_slice() < new
            } else {
                // Both begin with the same `keep` bytes.
                self.term[keep..] < *new
            };
        if !ascends {
            return Err(Unrecognised("terms out of order").into());
        }
        self.term.truncate(keep);
        self.term.extend_from_slice(new);
        self.at = at;
        // Where the term after this one begins.
        if self.footer < self.leaf.len() {
            let more = varint_small(&self.leaf, &mut self.footer)? as usize;
            let next = self.next_term.saturating_add(more);
            if next < at || next >= self.content {
                return Err(Unrecognised("a footer that does not fit").into());
            }
            self.next_term = next;
        } else {
            self.next_term = self.content;
        }
        if self.leads {
            self.run.end(&mut self.source)?;
            self.run.begin(self.number, self.split.indexed);
            self.leads = false;
        }
        Ok(())
    }

    /// Goes to the next row of the term; `false` when there is none. Errs as [`Self::next_term`] does.
    pub(super) fn next_row(&mut self) -> Result<bool, S::Error> {
        if self.at == self.content {
            if !self.turn_page()? {
                self.ended = true;
                self.run.end(&mut self.source)?;
                if self.source.split(self.first, &mut self.split)? {
                    return Err(Unrecognised("a split of a page that is not there").into());
                }
                return Ok(false);
            }
            self.at = HEAD;
            if self.first_row != 0 && self.first_row != HEAD
                || self.first_row == 0 && self.next_term != HEAD
            {
                return Err(Unrecognised("a leaf that begins with something unknown").into());
            }
        }
        if self.at == self.next_term {
            return Ok(false);
        }
        self.read_row()?;
        Ok(true)
    }

    /// Gives each row after the one at hand to `each`, as long as they are before the row `until` and stand as a whole in this
    /// leaf, so that nothing has to be read for them. The last of them is at hand then, without its positions. Errs for what
    /// FTS5 would not write.
    pub(super) fn pass_rows(
        &mut self,
        until: Option<i64>,
        mut each: impl FnMut(i64, &[u8]) -> Result<(), Unrecognised>,
    ) -> Result<(), Unrecognised> {
        let doclist = &self.leaf[..self.next_term];
        // The first row of a leaf is written in another way.
        while self.at < doclist.len() && self.at != self.first_row {
            let mut at = self.at;
            let delta = varint(doclist, &mut at)?.cast_signed();
            let rowid = self.rowid.checked_add(delta).filter(|rowid| *rowid > self.rowid);
            let rowid = rowid.ok_or(Unrecognised("rows out of order"))?;
            if until.is_some_and(|until| rowid >= until) {
                break;
            }
            // Left to `next_row`: what is not recognised, and what goes on in the next leaf.
            let len = varint_small(doclist, &mut at)? as usize;
            let Some(positions) = doclist[at..].get(..len >> 1).filter(|_| len > 0) else { break };
            each(rowid, positions)?;
            (self.at, self.rowid) = (at + positions.len(), rowid);
        }
        Ok(())
    }

    fn read_row(&mut self) -> Result<(), S::Error> {
        let doclist = &self.leaf[..self.next_term];
        let leads = self.at == self.first_row;
        let mut at = self.at;
        let value = varint(doclist, &mut at)?;
        let rowid = match value.cast_signed() {
            rowid if self.fresh || leads => Some(rowid),
            delta => self.rowid.checked_add(delta),
        };
        let follows = |rowid: &i64| self.fresh || *rowid > self.rowid;
        self.rowid = rowid.filter(follows).ok_or(Unrecognised("rows out of order"))?;
        if leads {
            self.run.page(self.number, self.rowid)?;
        }
        self.fresh = false;
        let size = varint_small(doclist, &mut at)?;
        // The lowest bit is a mark of what a deletion left.
        let len = size as usize >> 1;
        if size == 0 {
            return Err(Unrecognised("a row without positions").into());
        }
        self.spilled = None;
        if len <= self.next_term - at {
            self.positions = at..at + len;
            self.at = at + len;
            return Ok(());
        }
        if self.next_term < self.content {
            return Err(Unrecognised("positions that go beyond their doclist").into());
        }
        self.spill(at, len)
    }

    /// Reads positions that go on over the end of the leaf. Errs when the source does, or they do not end as they should.
    fn spill(&mut self, at: usize, len: usize) -> Result<(), S::Error> {
        if len > POSITIONS_BYTES_MAX {
            return Err(Unrecognised("too many positions in a row").into());
        }
        let mut spilled = Vec::with_capacity(len);
        spilled.extend_from_slice(&self.leaf[at..self.content]);
        while spilled.len() < len {
            if !self.turn_page()? {
                return Err(Unrecognised("positions that end with the segment").into());
            }
            let end = self.content.min(HEAD + len - spilled.len());
            if end > self.next_term {
                return Err(Unrecognised("positions that go beyond their doclist").into());
            }
            spilled.extend_from_slice(&self.leaf[HEAD..end]);
            self.at = end;
        }
        let first_row = if self.at == self.next_term { 0 } else { self.at };
        if self.first_row != first_row {
            return Err(Unrecognised("a leaf that states another first row").into());
        }
        self.spilled = Some(spilled);
        Ok(())
    }

    /// Takes the next leaf; `false` after the last. Errs when the source does, or the leaf is unlike FTS5's.
    fn turn_page(&mut self) -> Result<bool, S::Error> {
        if self.number >= self.last {
            return Ok(false);
        }
        self.number += 1;
        self.source.leaf(self.number, &mut self.leaf)?;
        let leaf = &self.leaf;
        let head = leaf.first_chunk::<HEAD>().ok_or(Unrecognised("a short leaf"))?;
        self.first_row = usize::from(u16::from_be_bytes([head[0], head[1]]));
        self.content = usize::from(u16::from_be_bytes([head[2], head[3]]));
        if self.content <= HEAD || self.content > leaf.len() {
            return Err(Unrecognised("a leaf without content").into());
        }
        self.footer = self.content;
        self.next_term = self.content;
        self.leads = self.footer < leaf.len();
        if self.leads {
            self.next_term = varint_small(leaf, &mut self.footer)? as usize;
        }
        let row_fits = self.first_row == 0 || (HEAD..self.next_term).contains(&self.first_row);
        let term_fits = !self.leads || (HEAD..self.content).contains(&self.next_term);
        if !row_fits || !term_fits {
            return Err(Unrecognised("a leaf whose offsets do not fit").into());
        }
        Ok(true)
    }
}

/// Bytes of the head of a leaf.
const HEAD: usize = 4;

/// A mark and three characters of four bytes.
const TERM_BYTES_MAX: usize = 13;

/// Of one term in one row.
const POSITIONS_BYTES_MAX: usize = 16 << 20;
