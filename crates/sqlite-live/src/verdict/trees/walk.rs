//! The walk over one tree, in the order of its rows.

use std::{
    cmp::Ordering,
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use super::{
    Doubt,
    shape::{Affinity, Column, Index, Table, Tree},
};
use crate::progress::Progress;
use chroma_format::{
    btree::{Cell, Geometry, Kind, Page, Trunk},
    record::{Entries, Entry, Fields, Value},
    sqlite::SqliteHeader,
    unrecognised::Unrecognised,
};

/// The pages of a database, and which of them have been met.
pub(super) struct Pages<'a> {
    file: &'a File,
    geometry: Geometry,
    count: u32,
    /// A bit for each.
    met: Vec<AtomicU64>,
    /// Set when nobody wants the answer any more.
    stop: &'a AtomicBool,
    progress: &'a Progress,
}

impl<'a> Pages<'a> {
    pub(super) fn new(
        file: &'a File,
        header: &SqliteHeader,
        count: u32,
        stop: &'a AtomicBool,
        progress: &'a Progress,
    ) -> Self {
        let page_bytes = header.page_bytes as usize;
        let geometry =
            Geometry { page_bytes, usable: page_bytes - usize::from(header.reserved_bytes) };
        let words = count as usize / 64 + 1;
        let met = (0..words).map(|_| AtomicU64::new(0)).collect();
        Self { file, geometry, count, met, stop, progress }
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Notes the one use that a page may have. Errs when it has another use already, is not there, or the check was given up.
    fn meet(&self, number: u32) -> Result<(), Doubt> {
        if self.stop.load(Relaxed) {
            return Err(Doubt::GivenUp);
        }
        if number == 0 || number > self.count {
            return Err(Unrecognised("a page that is not there").into());
        }
        let bit = 1 << (number % 64);
        let before = self.met[number as usize / 64].fetch_or(bit, Relaxed);
        if before & bit != 0 {
            return Err(Unrecognised("a page with two uses").into());
        }
        if before | bit == u64::MAX {
            self.progress.add(64 * self.geometry.page_bytes as u64);
            self.progress.checkpoint_within();
        }
        Ok(())
    }

    /// The first `into.len()` bytes of a page. Errs when they cannot be read.
    fn read(&self, number: u32, into: &mut [u8]) -> io::Result<()> {
        let place = u64::from(number - 1) * self.geometry.page_bytes as u64;
        self.file.read_exact_at(into, place)
    }

    /// Meets all pages of the list of free pages. Errs when it is not as SQLite would write it.
    pub(super) fn free_list(&self, header: &SqliteHeader) -> Result<(), Doubt> {
        let mut bytes = vec![0; self.geometry.page_bytes];
        let (mut trunk, mut found) = (header.freelist_trunk, 0);
        while trunk != 0 {
            self.meet(trunk)?;
            self.read(trunk, &mut bytes)?;
            let page = Trunk::parse(&bytes, self.geometry)?;
            found += 1;
            for leaf in page.leaves() {
                self.meet(leaf)?;
                found += 1;
            }
            trunk = page.next;
        }
        if found == header.freelist_pages {
            Ok(())
        } else {
            Err(Unrecognised("another number of free pages than the header says").into())
        }
    }

    /// Meets the overflow pages of a cell, and adds what is in them to `into`. Errs when the chain does not hold, or cannot be read.
    fn overflow(&self, cell: &Cell<'_>, mut into: Option<&mut Vec<u8>>) -> Result<(), Doubt> {
        let (mut left, mut next) = (cell.payload_bytes - cell.local.len(), cell.overflow);
        let mut head = [0; 4];
        while left > 0 {
            self.meet(next)?;
            let here = left.min(self.geometry.overflow_bytes());
            if let Some(into) = into.as_deref_mut() {
                let at = into.len();
                into.resize(at + 4 + here, 0);
                self.read(next, &mut into[at..])?;
                head.copy_from_slice(&into[at..at + 4]);
                into.copy_within(at + 4.., at);
                into.truncate(at + here);
            } else {
                self.read(next, &mut head)?;
            }
            next = u32::from_be_bytes(head);
            left -= here;
        }
        if next == 0 {
            Ok(())
        } else {
            Err(Unrecognised("a payload that goes on behind its end").into())
        }
    }

    /// Meets the overflow pages of a cell, and hands out what is in them piece by piece.
    /// Errs when the chain does not hold, or cannot be read.
    fn pieces(
        &self,
        cell: &Cell<'_>,
        page: &mut Vec<u8>,
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), Doubt> {
        let (mut left, mut next) = (cell.payload_bytes - cell.local.len(), cell.overflow);
        while left > 0 {
            self.meet(next)?;
            let here = left.min(self.geometry.overflow_bytes());
            page.resize(4 + here, 0);
            self.read(next, page)?;
            let (head, piece) = page.split_at(4);
            each(piece);
            next = u32::from_be_bytes(head.try_into().map_err(|_| CUT_OFF)?);
            left -= here;
        }
        if next == 0 {
            Ok(())
        } else {
            Err(Unrecognised("a payload that goes on behind its end").into())
        }
    }

    /// Errs when there is a page that was never met.
    pub(super) fn all_met(&self) -> Result<(), Unrecognised> {
        // SQLite's locks are bytes that stand here; it never uses the page.
        let locks = u32::try_from(PENDING_BYTE / self.geometry.page_bytes + 1).unwrap_or(u32::MAX);
        let met =
            |number: u32| self.met[number as usize / 64].load(Relaxed) & 1 << (number % 64) != 0;
        let all = (1..=self.count).all(|number| met(number) != (number == locks));
        if all { Ok(()) } else { Err(Unrecognised("a page without a use")) }
    }
}

/// Walks over trees, one after the other.
pub(super) struct Walker<'a> {
    pages: &'a Pages<'a>,
    /// Whether entries of indexes are looked at.
    entries: bool,
    /// A page for each level.
    buffers: Vec<Vec<u8>>,
    extents: Vec<(usize, usize)>,
    /// The record at hand and the one before.
    record: Vec<u8>,
    fields: Fields,
    previous: Vec<u8>,
    previous_fields: Fields,
    /// An overflow page of a long record.
    page: Vec<u8>,
    /// How far the tree at hand has been walked.
    at: Position,
}

/// How far a tree has been walked.
#[derive(Default)]
struct Position {
    /// Whether `Walker::previous` is an entry of this tree.
    after_entry: bool,
    /// No row up to here comes any more.
    rowid: Option<i64>,
    /// The level of all leaves.
    leaves: Option<usize>,
    /// What the tree says of each index: of itself when it is one.
    sums: Vec<Entries>,
}

impl<'a> Walker<'a> {
    pub(super) fn new(pages: &'a Pages<'a>, entries: bool) -> Self {
        Self {
            pages,
            entries,
            buffers: Vec::new(),
            extents: Vec::new(),
            record: Vec::new(),
            fields: Fields::default(),
            previous: Vec::new(),
            previous_fields: Fields::default(),
            page: Vec::new(),
            at: Position::default(),
        }
    }

    /// Walks over a tree. The sums are those of a table's indexes, in their order, or of an index. Errs when it is not as
    /// SQLite would write it, or cannot be read.
    pub(super) fn tree(&mut self, tree: Tree<'_>) -> Result<Vec<Entries>, Doubt> {
        let indexes = match tree {
            Tree::Table(table) => table.indexes.len(),
            Tree::Index(_) => 1,
        };
        self.at = Position { sums: vec![Entries::default(); indexes], ..Position::default() };
        match self.page(tree, tree.root(), 0) {
            Err(Doubt::Unrecognised(_, reason)) => Err(Doubt::Unrecognised(tree.root(), reason)),
            Err(other) => Err(other),
            Ok(()) => Ok(std::mem::take(&mut self.at.sums)),
        }
    }

    /// Walks over the page `number`, `level` below the root, and over all below it.
    /// Errs when one is unlike what SQLite writes, or cannot be read.
    fn page(&mut self, tree: Tree<'_>, number: u32, level: usize) -> Result<(), Doubt> {
        self.pages.meet(number)?;
        if level == LEVELS_MAX {
            return Err(Unrecognised("a tree that is too deep").into());
        }
        if level == self.buffers.len() {
            self.buffers.push(vec![0; self.pages.geometry.page_bytes]);
        }
        // Given back below; after an error nobody wants it.
        let mut bytes = std::mem::take(&mut self.buffers[level]);
        self.pages.read(number, &mut bytes)?;
        let page = Page::parse(&bytes, number, self.pages.geometry, &mut self.extents)?;
        let of_table = matches!(tree, Tree::Table(table) if table.key.is_none());
        if of_table != matches!(page.kind, Kind::TableInterior | Kind::TableLeaf) {
            return Err(Unrecognised("a page of another kind than its tree").into());
        }
        match page.kind {
            Kind::TableLeaf | Kind::IndexLeaf => {
                if *self.at.leaves.get_or_insert(level) != level {
                    return Err(Unrecognised("a tree with leaves at two levels").into());
                }
                for nth in 0..page.cells {
                    self.row(tree, &page.cell(nth)?)?;
                }
            }
            Kind::TableInterior => {
                for nth in 0..page.cells {
                    let cell = page.cell(nth)?;
                    self.page(tree, cell.child, level + 1)?;
                    if self.at.rowid.is_some_and(|rowid| rowid > cell.rowid) {
                        return Err(Unrecognised("a row behind the bound of its page").into());
                    }
                    self.at.rowid = Some(cell.rowid);
                }
                self.page(tree, page.right, level + 1)?;
            }
            Kind::IndexInterior => {
                for nth in 0..page.cells {
                    let cell = page.cell(nth)?;
                    self.page(tree, cell.child, level + 1)?;
                    self.row(tree, &cell)?;
                }
                self.page(tree, page.right, level + 1)?;
            }
        }
        self.buffers[level] = bytes;
        Ok(())
    }

    /// One row of a table or one entry of an index. Errs when it is unlike what SQLite writes, or cannot be read.
    fn row(&mut self, tree: Tree<'_>, cell: &Cell<'_>) -> Result<(), Doubt> {
        match tree {
            Tree::Table(table) if table.key.is_none() => self.table_row(table, cell),
            Tree::Table(table) => {
                self.read_whole(cell)?;
                values(&table.columns, &self.fields, &self.record)?;
                self.in_order(table.key.unwrap_or(0))
            }
            Tree::Index(index) if self.entries => {
                self.read_whole(cell)?;
                self.index_entry(index)
            }
            Tree::Index(_) => self.pages.overflow(cell, None),
        }
    }

    fn table_row(&mut self, table: &Table, cell: &Cell<'_>) -> Result<(), Doubt> {
        if self.at.rowid.is_some_and(|rowid| rowid >= cell.rowid) {
            return Err(Unrecognised("rows out of order").into());
        }
        self.at.rowid = Some(cell.rowid);
        let indexed = self.entries && !table.indexes.is_empty();
        let local = cell.local;
        let enough = cell.overflow == 0 || {
            !indexed
                && self.fields.read(local, cell.payload_bytes)?
                && !texts_end_beyond(&table.columns, &self.fields, local.len())
        };
        if !enough {
            self.read_whole(cell)?;
        } else if cell.overflow != 0 {
            self.pages.overflow(cell, None)?;
        } else if !self.fields.read(local, local.len())? {
            return Err(CUT_OFF.into());
        }
        let record = if enough { local } else { &self.record };
        values(&table.columns, &self.fields, record)?;
        if indexed {
            for (index, sum) in table.indexes.iter().zip(&mut self.at.sums) {
                let left_out = |place: usize| self.fields.is_null(place).unwrap_or(true);
                if index.unless_null.is_some_and(left_out) {
                    continue;
                }
                let mut entry = Entry::default();
                for column in &index.columns {
                    let value = self.fields.value(record, column.place)?.unwrap_or(Value::Null);
                    let value = as_stored(value, column.affinity);
                    entry = entry.with_all(&value, self.fields.digest(column.place));
                }
                sum.add(entry.with(&Value::Integer(cell.rowid)));
            }
        }
        Ok(())
    }

    /// The entry that was read. Errs when it is out of order, or names no row.
    fn index_entry(&mut self, index: &Index) -> Result<(), Doubt> {
        let (fields, record, columns) = (&self.fields, &self.record, index.columns.len());
        if fields.len() != columns + 1 {
            return Err(Unrecognised("an entry with another number of columns").into());
        }
        let mut entry = Entry::default();
        let mut nulls = false;
        for (nth, column) in index.columns.iter().enumerate() {
            let value = fields.value(record, nth)?.ok_or(CUT_OFF)?;
            nulls |= value == Value::Null;
            entry = entry.with_all(&as_stored(value, column.affinity), fields.digest(nth));
        }
        let Some(rowid @ Value::Integer(_)) = fields.value(record, columns)? else {
            return Err(Unrecognised("an entry without a row").into());
        };
        self.at.sums[0].add(entry.with(&rowid));
        let distinct = if index.unique && !nulls { columns } else { columns + 1 };
        self.in_order(distinct)
    }

    /// Errs unless what was read comes after the entry before it, by the first `columns` alone. It is the one before from then on.
    fn in_order(&mut self, columns: usize) -> Result<(), Doubt> {
        let mut order = if self.at.after_entry { Ordering::Equal } else { Ordering::Greater };
        let mut nth = 0;
        while order == Ordering::Equal && nth < columns {
            let (now, before) =
                ((&self.fields, &*self.record), (&self.previous_fields, &*self.previous));
            order = Fields::order(now, before, nth)?
                .ok_or(Unrecognised("two entries that begin with the same long value"))?;
            nth += 1;
        }
        if order != Ordering::Greater {
            return Err(Unrecognised("entries out of order").into());
        }
        std::mem::swap(&mut self.record, &mut self.previous);
        std::mem::swap(&mut self.fields, &mut self.previous_fields);
        self.at.after_entry = true;
        Ok(())
    }

    /// Puts the record of a cell into `record`, with its overflow pages, and its fields into `fields`. Of values that are long
    /// in a long record their beginnings and hashes are kept: a document may be larger than what this program may take.
    /// Errs when it is unlike what SQLite writes, or cannot be read.
    fn read_whole(&mut self, cell: &Cell<'_>) -> Result<(), Doubt> {
        self.record.clear();
        if cell.payload_bytes > RECORD_MAX {
            if !self.fields.read(cell.local, cell.payload_bytes)? {
                return Err(Unrecognised("a long record with a long header").into());
            }
            let mut shortening = self.fields.shorten();
            shortening.take(cell.local, &mut self.record);
            let mut most = 0;
            self.pages.pieces(cell, &mut self.page, |piece| {
                if self.record.len() <= KEPT_MAX {
                    shortening.take(piece, &mut self.record);
                }
                most = self.record.len();
            })?;
            if most > KEPT_MAX {
                return Err(Unrecognised("a record of too many long values").into());
            }
            self.fields.shortened(shortening);
            return Ok(());
        }
        self.record.extend_from_slice(cell.local);
        self.pages.overflow(cell, Some(&mut self.record))?;
        if self.fields.read(&self.record, self.record.len())? {
            Ok(())
        } else {
            Err(CUT_OFF.into())
        }
    }
}

/// Whether a text that could be a number where none may be ends after the first `bytes` of its record.
fn texts_end_beyond(columns: &[Column], fields: &Fields, bytes: usize) -> bool {
    let numeric = |column: &Column| matches!(column.affinity, Affinity::Numeric | Affinity::Real);
    columns.iter().enumerate().any(|(nth, column)| {
        numeric(column) && fields.is_text(nth) == Some(true) && fields.end(nth) > bytes
    })
}

/// Errs unless a row has the values that its columns take.
fn values(columns: &[Column], fields: &Fields, record: &[u8]) -> Result<(), Unrecognised> {
    if fields.len() > columns.len() {
        return Err(Unrecognised("a row with more values than columns"));
    }
    for (nth, column) in columns.iter().enumerate() {
        let null = match fields.is_null(nth) {
            None if !column.null_by_default => return Err(Unrecognised("a value by default")),
            null => null.unwrap_or(true),
        };
        if null {
            if column.not_null && !column.rowid {
                return Err(Unrecognised("a value that is missing"));
            }
            continue;
        }
        match column.affinity {
            _ if column.rowid => return Err(Unrecognised("a row id that is stored twice")),
            Affinity::Text if fields.is_number(nth) == Some(true) => {
                return Err(Unrecognised("a number among texts"));
            }
            Affinity::Numeric | Affinity::Real if fields.is_text(nth) == Some(true) => {
                if let Some(Value::Text(text)) = fields.value(record, nth)?
                    && may_be_number(text)
                {
                    return Err(Unrecognised("a text that may be a number"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether SQLite may take a text for a number: up to its end or a zero byte there is nothing that no number has.
fn may_be_number(text: &[u8]) -> bool {
    let in_numbers =
        |byte: &u8| byte.is_ascii_whitespace() || b"0123456789+-.eE\x0b".contains(byte);
    text.iter().take_while(|byte| **byte != 0).all(in_numbers)
}

/// Table and index may store the same value in two ways only where it is a real.
fn as_stored(value: Value<'_>, affinity: Affinity) -> Value<'_> {
    if affinity == Affinity::Real { value.as_in_column_of_reals() } else { value }
}

const CUT_OFF: Unrecognised = Unrecognised("a record that is cut off");
/// The first byte of SQLite's locks (`PENDING_BYTE`).
const PENDING_BYTE: usize = 0x4000_0000;
/// SQLite's own bound (`BTCURSOR_MAX_DEPTH`).
const LEVELS_MAX: usize = 20;
/// A record that is longer is shortened, to no more than so much. Two are in memory at a time for each thread.
const RECORD_MAX: usize = 256 << 10;
const KEPT_MAX: usize = 1 << 20;
