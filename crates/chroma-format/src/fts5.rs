//! The full-text index of SQLite, FTS5: "Description of file format" at the head of `fts5_index.c`, `fts5_storage.c` for the
//! tables beside it. Only what Chroma makes is known: one column, the tokenizer `trigram`, all positions kept, content of
//! its own, file format 4. Of that, only the exact form in which FTS5 writes it; everything else is [`Unrecognised`], which says
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
pub use trigram::{Tokens, Trigrams, before_nul, whole_characters};

use super::unrecognised::{Unrecognised, varint, varint_small};

/// `id` of the record of totals in the `_data` table.
pub const TOTALS_ID: i64 = 1;

/// `id` of the record of the structure in the `_data` table.
pub const STRUCTURE_ID: i64 = 10;

/// The value of `version` in the `_config` table that is known here.
pub const FORMAT_VERSION: i64 = 4;

#[cfg(test)]
mod tests;
