//! The index over a doclist that goes on over several leaves: for each of them the first row on it. A query with two words
//! skips by it, so rows that it leaves out are not found.

use alloc::vec::Vec;

use super::{Source, Unrecognised, varint, varint_small};

/// What the index over the doclist of the last term of a page must hold.
#[derive(Debug, Default)]
pub(super) struct Run {
    page: u32,
    indexed: bool,
    /// Leaves after `page` on which a row begins before any term, and that row.
    pages: Vec<(u32, i64)>,
}

impl Run {
    /// The last term of `page` begins.
    pub(super) fn begin(&mut self, page: u32, indexed: bool) {
        (self.page, self.indexed) = (page, indexed);
        self.pages.clear();
    }

    /// A leaf begins with a row of the doclist. Errs when the row is not the one that the index expects.
    pub(super) fn page(&mut self, page: u32, rowid: i64) -> Result<(), Unrecognised> {
        if self.indexed {
            if self.pages.len() >= PAGES_MAX {
                return Err(Unrecognised("a doclist that is too long"));
            }
            self.pages.push((page, rowid));
        }
        Ok(())
    }

    /// The doclist ends: the index, if there is one, must say what was seen. Errs when it says something else, or a page
    /// cannot be read.
    pub(super) fn end<S: Source>(&mut self, source: &mut S) -> Result<(), S::Error> {
        if !self.indexed {
            return Ok(());
        }
        self.indexed = false;
        let mut left = self.pages.iter();
        // The record with no other above it; each of its parents begins with a record of the same number.
        let mut record = Vec::new();
        let mut top = 0;
        loop {
            source.doclist_index(top, self.page, &mut record)?;
            match record.first() {
                Some(0) => break,
                Some(1) if top + 1 < LEVELS_MAX => top += 1,
                _ => return Err(Unrecognised("a doclist index without a root").into()),
            }
        }
        walk(source, top, self.page, top, &mut left)?;
        if left.next().is_some() {
            return Err(Unrecognised("a doclist index that lacks a page").into());
        }
        Ok(())
    }
}

fn walk<S: Source>(
    source: &mut S,
    level: u8,
    page: u32,
    top: u8,
    left: &mut core::slice::Iter<'_, (u32, i64)>,
) -> Result<(), S::Error> {
    let mut record = Vec::new();
    source.doclist_index(level, page, &mut record)?;
    if record.first().is_none_or(|flags| *flags != u8::from(level < top)) {
        return Err(Unrecognised("a doclist index with other flags").into());
    }
    let mut at = 1;
    let mut entry = (varint_small(&record, &mut at)?, varint(&record, &mut at)?.cast_signed());
    loop {
        if level > 0 {
            walk(source, level - 1, entry.0, top, left)?;
        } else if left.next() != Some(&entry) {
            return Err(Unrecognised("a doclist index that states another row").into());
        }
        // A zero stands for a page on which no row begins.
        let skipped = record[at..].iter().take_while(|byte| **byte == 0).count();
        at += skipped;
        if at == record.len() {
            return Ok(());
        }
        let step = u32::try_from(skipped).unwrap_or(u32::MAX).saturating_add(1);
        let delta = varint(&record, &mut at)?.cast_signed();
        entry = (entry.0.saturating_add(step), entry.1.wrapping_add(delta));
    }
}

/// Leaves of one doclist: 16 MiB of memory, 4 GiB of index.
const PAGES_MAX: usize = 1 << 20;

/// Each level has records of thousands of pages.
const LEVELS_MAX: u8 = 4;
