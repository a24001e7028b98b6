//! One page of a b-tree: sections 1.6 and 1.7 of <https://www.sqlite.org/fileformat2.html>. A page is taken only when every byte
//! of it is accounted for: header, cells and free blocks neither overlap nor leave a gap that is not stated, as `checkTreePage`
//! in `btree.c` demands. What lies beyond the page (children, overflow) is for the caller, who has the file. Of a damaged page with
//! rows, [`Page::remains`] gives the cells that still stand.

use alloc::vec::Vec;

use super::unrecognised::{Unrecognised, varint};

/// What all pages of a database have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of a page: a power of two, 512 to 65,536.
    pub page_bytes: usize,
    /// Of these, those that are used: at least 480.
    pub usable: usize,
}

/// What a page is in its tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Children of a table's tree, by row id.
    TableInterior,
    /// Rows, by row id.
    TableLeaf,
    /// Entries of an index, with children between them.
    IndexInterior,
    /// Entries of an index.
    IndexLeaf,
}

/// A page whose parts fit together.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    /// What it is.
    pub kind: Kind,
    /// Number of its cells.
    pub cells: usize,
    /// The last child; 0 on a leaf.
    pub right: u32,
    bytes: &'a [u8],
    pointers: usize,
    geometry: Geometry,
}

/// One cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell<'a> {
    /// The child before it; 0 on a leaf.
    pub child: u32,
    /// The row id; 0 in an index.
    pub rowid: i64,
    /// Bytes of the whole payload; 0 on an interior page of a table.
    pub payload_bytes: usize,
    /// What of the payload stands here.
    pub local: &'a [u8],
    /// The first overflow page, which has the rest; 0 when there is none.
    pub overflow: u32,
    /// Bytes of the cell.
    len: usize,
}

impl Geometry {
    /// Bytes of a payload that one overflow page takes.
    #[must_use]
    pub fn overflow_bytes(self) -> usize {
        self.usable - 4
    }

    /// How much of a payload stands in its cell ("Cell payload overflow pages").
    fn local_bytes(self, payload: usize, table: bool) -> usize {
        let fraction = |of: usize| (self.usable - 12) * of / 255 - 23;
        let most = if table { self.usable - 35 } else { fraction(64) };
        if payload <= most {
            return payload;
        }
        let least = fraction(32);
        let fitting = least + (payload - least) % self.overflow_bytes();
        if fitting <= most { fitting } else { least }
    }
}

impl<'a> Page<'a> {
    /// Reads page number `number`, [`Geometry::page_bytes`] long. `extents` is room for it to work in. Errs for what SQLite
    /// would not write as a page.
    pub fn parse(
        bytes: &'a [u8],
        number: u32,
        geometry: Geometry,
        extents: &mut Vec<(usize, usize)>,
    ) -> Result<Self, Unrecognised> {
        let bytes = bytes.get(..geometry.usable).ok_or(Unrecognised("a page that is cut off"))?;
        let at = if number == 1 { FILE_HEADER_LEN } else { 0 };
        let (kind, header_len) = match bytes[at] {
            2 => (Kind::IndexInterior, 12),
            5 => (Kind::TableInterior, 12),
            10 => (Kind::IndexLeaf, 8),
            13 => (Kind::TableLeaf, 8),
            _ => return Err(Unrecognised("a page of no kind")),
        };
        let cells = word(bytes, at + 3)?;
        let right = if header_len == 12 { number_at(bytes, at + 8)? } else { 0 };
        let page = Self { kind, cells, right, bytes, pointers: at + header_len, geometry };
        // 65,536 does not fit into two bytes.
        let content = match word(bytes, at + 5)? {
            0 => 1 << 16,
            content => content,
        };
        if page.pointers + 2 * cells > content || content > geometry.usable {
            return Err(Unrecognised("cells that begin within their pointers"));
        }
        extents.clear();
        for nth in 0..cells {
            let start = word(bytes, page.pointers + 2 * nth)?;
            if start < content {
                return Err(Unrecognised("a cell outside the place for cells"));
            }
            extents.push((start, page.cell(nth)?.len));
        }
        page.free_blocks(word(bytes, at + 1)?, content, extents)?;
        if page.gaps(content, extents)? == usize::from(bytes[at + 7]) {
            Ok(page)
        } else {
            Err(Unrecognised("a page with more or less unused than stated"))
        }
    }

    /// The cell `nth`, from 0. Errs when it does not lie in the page as SQLite would lay it.
    pub fn cell(&self, nth: usize) -> Result<Cell<'a>, Unrecognised> {
        let start = word(self.bytes, self.pointers + 2 * nth)?;
        let mut at = start;
        let mut cell =
            Cell { child: 0, rowid: 0, payload_bytes: 0, local: &[], overflow: 0, len: 0 };
        if matches!(self.kind, Kind::TableInterior | Kind::IndexInterior) {
            cell.child = number_at(self.bytes, at)?;
            at += 4;
        }
        if self.kind != Kind::TableInterior {
            let payload = varint(self.bytes, &mut at)?;
            cell.payload_bytes = usize::try_from(payload)
                .ok()
                .filter(|bytes| *bytes <= PAYLOAD_MAX)
                .ok_or(Unrecognised("a payload that is too long"))?;
        }
        let table = matches!(self.kind, Kind::TableInterior | Kind::TableLeaf);
        if table {
            cell.rowid = varint(self.bytes, &mut at)?.cast_signed();
        }
        if self.kind != Kind::TableInterior {
            let len = self.geometry.local_bytes(cell.payload_bytes, table);
            cell.local =
                self.bytes.get(at..at + len).ok_or(Unrecognised("a cell that is cut off"))?;
            at += len;
            if len < cell.payload_bytes {
                cell.overflow = number_at(self.bytes, at)?;
                at += 4;
            }
        }
        cell.len = (at - start).max(CELL_LEN_MIN);
        Ok(cell)
    }

    /// What is left of page number `number`, a leaf of a table whose bytes may be damaged, or cut off: cells that lie in the page
    /// and share no byte with one another. Whether they are rows at all, and live ones, is for the caller to find out. `extents`
    /// is room to work in.
    #[must_use]
    pub fn remains(
        bytes: &'a [u8],
        number: u32,
        geometry: Geometry,
        extents: &mut Vec<(usize, usize)>,
    ) -> Vec<Cell<'a>> {
        let at = if number == 1 { FILE_HEADER_LEN } else { 0 };
        let bytes = bytes.get(..geometry.usable).unwrap_or(bytes);
        let (Ok(stated), pointers) = (word(bytes, at + 3), at + TABLE_LEAF_HEADER_LEN) else {
            return Vec::new();
        };
        let kind = Kind::TableLeaf;
        let cells = stated.min(bytes.len() / 2);
        let page = Self { kind, cells, right: 0, bytes, pointers, geometry };
        let mut found = Vec::new();
        extents.clear();
        for nth in 0..cells {
            let (Ok(start), Ok(cell)) = (word(bytes, pointers + 2 * nth), page.cell(nth)) else {
                continue;
            };
            if start >= pointers + 2 * cells && cell.payload_bytes > 0 {
                found.push((start, cell));
                extents.push((start, cell.len));
            }
        }
        extents.sort_unstable();
        let shared = |start: usize| {
            let place = extents.partition_point(|(other, _)| *other < start);
            let end = |(start, len): &(usize, usize)| start + len;
            let before = place.checked_sub(1).and_then(|before| extents.get(before));
            let (own, after) = (extents.get(place), extents.get(place + 1));
            before.is_some_and(|before| end(before) > start)
                || own.zip(after).is_some_and(|(own, after)| end(own) > after.0)
        };
        found.into_iter().filter(|(start, _)| !shared(*start)).map(|(_, cell)| cell).collect()
    }

    /// Adds the free blocks to `extents`. Errs when a block is out of place.
    fn free_blocks(
        &self,
        first: usize,
        content: usize,
        extents: &mut Vec<(usize, usize)>,
    ) -> Result<(), Unrecognised> {
        let (mut at, mut free_from) = (first, content);
        while at != 0 {
            let (next, len) = (word(self.bytes, at)?, word(self.bytes, at + 2)?);
            // In order, none touching the one before, so that this ends.
            if at < free_from || len < CELL_LEN_MIN {
                return Err(Unrecognised("a free block out of place"));
            }
            extents.push((at, len));
            free_from = at + len + CELL_LEN_MIN;
            at = next;
        }
        Ok(())
    }

    /// Bytes from `content` on that belong to none of `extents`. Errs when they overlap, or go beyond the page.
    fn gaps(&self, content: usize, extents: &mut [(usize, usize)]) -> Result<usize, Unrecognised> {
        extents.sort_unstable();
        let (mut gaps, mut end) = (0, content);
        for (start, len) in extents {
            gaps += start.checked_sub(end).ok_or(Unrecognised("bytes with two uses"))?;
            end = *start + *len;
        }
        Ok(gaps
            + self.bytes.len().checked_sub(end).ok_or(Unrecognised("a cell beyond its page"))?)
    }
}

/// A page that lists free pages.
#[derive(Debug, Clone, Copy)]
pub struct Trunk<'a> {
    /// The next one; 0 at the end.
    pub next: u32,
    leaves: &'a [[u8; 4]],
}

impl<'a> Trunk<'a> {
    /// Reads a page ("The Freelist"). Errs when it names more pages than fit.
    pub fn parse(bytes: &'a [u8], geometry: Geometry) -> Result<Self, Unrecognised> {
        let bytes = bytes.get(..geometry.usable).ok_or(Unrecognised("a page that is cut off"))?;
        let (next, count) = (number_at(bytes, 0)?, number_at(bytes, 4)? as usize);
        let (numbers, _) = bytes[8..].as_chunks::<4>();
        let leaves = numbers.get(..count).ok_or(Unrecognised("too many free pages in a list"))?;
        Ok(Self { next, leaves })
    }

    /// The free pages that it lists.
    pub fn leaves(&self) -> impl Iterator<Item = u32> + '_ {
        self.leaves.iter().map(|number| u32::from_be_bytes(*number))
    }
}

fn word(bytes: &[u8], at: usize) -> Result<usize, Unrecognised> {
    let bytes = bytes.get(at..at + 2).ok_or(Unrecognised("a place beyond the page"))?;
    Ok(usize::from(bytes[0]) << 8 | usize::from(bytes[1]))
}

fn number_at(bytes: &[u8], at: usize) -> Result<u32, Unrecognised> {
    let bytes = bytes.get(at..at + 4).and_then(|bytes| bytes.first_chunk());
    bytes.map(|bytes| u32::from_be_bytes(*bytes)).ok_or(Unrecognised("a place beyond the page"))
}

/// The first page begins with the header of the file.
const FILE_HEADER_LEN: usize = 100;
/// A page of a table with rows begins with its kind and four numbers.
const TABLE_LEAF_HEADER_LEN: usize = 8;
const CELL_LEN_MIN: usize = 4;
/// SQLite's own bound (`SQLITE_MAX_LENGTH`).
const PAYLOAD_MAX: usize = 0x7fff_ffff;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GEOMETRY: Geometry = Geometry { page_bytes: 512, usable: 512 };

    /// A leaf with rows of one small value, as SQLite lays them.
    fn leaf(rows: u8) -> Vec<u8> {
        let mut page = vec![0; 512];
        let content = 512 - 6 * usize::from(rows);
        page[..8].copy_from_slice(&[13, 0, 0, 0, rows, 0, 0, 0]);
        page[5..7].copy_from_slice(&u16::try_from(content).unwrap().to_be_bytes());
        for nth in 0..rows {
            let start = 512 - 6 * (usize::from(nth) + 1);
            let pointer = 8 + 2 * usize::from(nth);
            page[pointer..pointer + 2]
                .copy_from_slice(&u16::try_from(start).unwrap().to_be_bytes());
            page[start..start + 6].copy_from_slice(&[4, nth + 1, 3, 0, 1, nth]);
        }
        page
    }

    fn remain(page: &[u8]) -> Vec<i64> {
        let cells = Page::remains(page, 2, GEOMETRY, &mut Vec::new());
        cells.iter().map(|cell| cell.rowid).collect()
    }

    #[test]
    fn cells_that_still_stand_in_a_damaged_page_are_found() {
        let page = leaf(5);
        let strict = |page: &[u8]| Page::parse(page, 2, GEOMETRY, &mut Vec::new()).is_ok();
        assert!(strict(&page));
        assert_eq!(remain(&page), [1, 2, 3, 4, 5]);
        let damaged = |at: usize, bytes: &[u8]| {
            let mut page = page.clone();
            page[at..at + bytes.len()].copy_from_slice(bytes);
            assert!(!strict(&page));
            remain(&page)
        };
        assert_eq!(damaged(0, &[0xee]), [1, 2, 3, 4, 5], "its kind");
        assert_eq!(damaged(500, &[0; 6]), [1, 3, 4, 5], "a row");
        assert_eq!(damaged(8, &[0xff, 0xff]), [2, 3, 4, 5], "a pointer out of the page");
        assert_eq!(damaged(8, &[0x01, 0xf4]), [3, 4, 5], "two pointers to one row");
        assert_eq!(damaged(5, &[0xff, 0xff]), [1, 2, 3, 4, 5], "where cells begin");
        assert_eq!(remain(&page[..500]), [3, 4, 5], "cut off");
        assert_eq!(remain(&[0; 512]), [0_i64; 0]);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..600),
            changes in proptest::collection::vec((0_usize..512, any::<u8>()), 0..9),
            number in 1_u32..3,
        ) {
            let mut near = leaf(20);
            for (at, byte) in changes {
                near[at] = byte;
            }
            for page in [&bytes[..], &near] {
                let cells = Page::remains(page, number, GEOMETRY, &mut Vec::new());
                prop_assert!(cells.len() <= 256);
                let parsed = Page::parse(page, number, GEOMETRY, &mut Vec::new());
                prop_assert!(parsed.is_err() || page.len() >= 512);
                prop_assert!(Trunk::parse(page, GEOMETRY).is_err() || page.len() >= 512);
            }
        }
    }
}
