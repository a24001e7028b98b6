//! The small records: which segments there are, the totals, the number of tokens of a row.

use alloc::vec::Vec;

use super::{Unrecognised, varint, varint_small};

/// The segments of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Structure {
    /// What newer segments say of a term and row takes the place of what older ones say; the newest first.
    pub segments: Vec<Extent>,
}

/// Where a segment lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Its number, from 1.
    pub id: u16,
    /// Its first leaf; leaves before it were merged away.
    pub first: u32,
    /// Its last leaf.
    pub last: u32,
}

impl Structure {
    /// Reads the structure record (`fts5StructureDecode`). Errs for what FTS5 would not write.
    pub fn parse(record: &[u8]) -> Result<Self, Unrecognised> {
        // Four bytes are a counter of changes of the configuration; a newer form has a mark behind them.
        let body = record.get(4..).ok_or(Unrecognised("a short structure record"))?;
        if body.starts_with(STRUCTURE_V2) {
            return Err(Unrecognised("a structure record of another form"));
        }
        let mut at = 0;
        let (levels, segments) = (varint_small(body, &mut at)?, varint_small(body, &mut at)?);
        if levels > SEGMENTS_MAX || segments > SEGMENTS_MAX {
            return Err(Unrecognised("too many segments"));
        }
        varint(body, &mut at)?; // How many leaves were ever written.
        let (mut found, mut merging_above) = (Vec::new(), 0);
        for level in 0..levels {
            let (merging, total) = (varint_small(body, &mut at)?, varint_small(body, &mut at)?);
            if total > segments
                || merging > total
                || merging_above > 0 && total == 0
                || level + 1 == levels && merging > 0
            {
                return Err(Unrecognised("levels that contradict each other"));
            }
            merging_above = merging;
            let from = found.len();
            for _ in 0..total {
                found.push(Extent::parse(body, &mut at)?);
            }
            // The oldest of a level stands first.
            found[from..].reverse();
        }
        if at != body.len() || found.len() != segments as usize {
            return Err(Unrecognised("another number of segments than is stated"));
        }
        let mut ids: Vec<u16> = found.iter().map(|extent| extent.id).collect();
        ids.sort_unstable();
        if ids.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Unrecognised("a segment that stands twice"));
        }
        // One that was merged to its end has no leaves left.
        found.retain(|extent| extent.first > 0);
        Ok(Self { segments: found })
    }
}

impl Extent {
    fn parse(body: &[u8], at: &mut usize) -> Result<Self, Unrecognised> {
        let id = varint_small(body, at)?;
        let (first, last) = (varint_small(body, at)?, varint_small(body, at)?);
        let id = u16::try_from(id).ok().filter(|id| *id > 0).ok_or(Unrecognised("a segment id"))?;
        if last < first || last > PAGE_MAX {
            return Err(Unrecognised("a segment that ends before it begins"));
        }
        Ok(Self { id, first, last })
    }
}

/// The record of totals (`sqlite3Fts5IndexGetAverages`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Rows in the table.
    pub rows: u64,
    /// Tokens in all of them.
    pub tokens: u64,
}

impl Totals {
    /// Reads the record; that of a table which never had a row is empty. Errs for what FTS5 would not write.
    pub fn parse(record: &[u8]) -> Result<Self, Unrecognised> {
        if record.is_empty() {
            return Ok(Self::default());
        }
        let mut at = 0;
        let totals = Self { rows: varint(record, &mut at)?, tokens: varint(record, &mut at)? };
        if at == record.len() { Ok(totals) } else { Err(Unrecognised("totals of several columns")) }
    }
}

/// Reads the number of tokens of a row, from the `_docsize` table. Errs for what FTS5 would not write.
pub fn tokens_of_row(record: &[u8]) -> Result<u64, Unrecognised> {
    let mut at = 0;
    let tokens = varint_small(record, &mut at)?;
    if at == record.len() {
        Ok(tokens.into())
    } else {
        Err(Unrecognised("sizes of several columns"))
    }
}

/// The `id` of a leaf in the `_data` table.
#[must_use]
pub fn leaf_id(segment: u16, page: u32) -> i64 {
    i64::from(segment) << 37 | i64::from(page)
}

/// The `id` of a part of the doclist index that belongs to the last term on the leaf `page`, `level` above its lowest.
#[must_use]
pub fn doclist_index_id(segment: u16, level: u8, page: u32) -> i64 {
    i64::from(segment) << 37 | 1 << 36 | i64::from(level) << 31 | i64::from(page)
}

/// `FTS5_STRUCTURE_V2`, of tables without content.
const STRUCTURE_V2: &[u8] = &[0xff, 0x00, 0x00, 0x01];

/// `FTS5_MAX_SEGMENT`.
const SEGMENTS_MAX: u32 = 2000;

/// `FTS5_MAX_PGNO`.
const PAGE_MAX: u32 = 0x7fff_ff00;
