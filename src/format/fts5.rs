//! The full-text index of SQLite, FTS5: "Description of file format" at the head of `fts5_index.c`, `fts5_storage.c` for the
//! tables beside it. Only what Chroma makes is known: one column, the tokenizer `trigram`, all positions kept, content of
//! its own, file format 4. Of that, only the exact form in which FTS5 writes it; everything else is [`Odd`], which says
//! nothing about damage, but that SQLite itself must be asked.
//!
//! Positions are compared by a sum over all of them (`sum`), so that memory does not grow with the index.

mod declaration;
mod doclists;
mod merge;
mod segment;
mod structure;
mod sum;
mod trigram;

pub use declaration::Declaration;
pub use merge::sum_of_index;
pub use segment::{Segment, Source, Split};
pub use structure::{Extent, Structure, Totals, doclist_index_id, leaf_id, tokens_of_row};
pub use sum::Sum;
pub use trigram::Trigrams;

/// `id` of the record of totals in the `_data` table.
pub const TOTALS_ID: i64 = 1;

/// `id` of the record of the structure in the `_data` table.
pub const STRUCTURE_ID: i64 = 10;

/// The value of `version` in the `_config` table that is known here.
pub const FORMAT_VERSION: i64 = 4;

/// Something that FTS5 as we know it does not write, and where it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Odd(pub &'static str);

/// Reads a number as FTS5 stores them (`sqlite3Fts5GetVarint`): big-endian groups of seven bits, the ninth byte whole.
/// Moves `at` behind it.
#[inline]
fn varint(bytes: &[u8], at: &mut usize) -> Result<u64, Odd> {
    match bytes.get(*at) {
        Some(byte) if *byte < 0x80 => {
            *at += 1;
            Ok(u64::from(*byte))
        }
        _ => varint_long(bytes, at),
    }
}

fn varint_long(bytes: &[u8], at: &mut usize) -> Result<u64, Odd> {
    let mut value = 0;
    for nth in 0..9 {
        let byte = *bytes.get(*at).ok_or(Odd("a number that ends too early"))?;
        *at += 1;
        if nth == 8 {
            return Ok(value << 8 | u64::from(byte));
        }
        value = value << 7 | u64::from(byte & 0x7f);
        if byte < 0x80 {
            break;
        }
    }
    Ok(value)
}

/// The same for lengths and page numbers, which must fit 31 bits.
#[inline]
fn varint_small(bytes: &[u8], at: &mut usize) -> Result<u32, Odd> {
    let value = varint(bytes, at)?;
    u32::try_from(value).ok().filter(|value| *value <= 0x7fff_ffff).ok_or(Odd("a number too large"))
}

#[cfg(test)]
mod tests;
