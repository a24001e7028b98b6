//! Writes a graph as the four files of an index: `persistDirty` of chroma-core/hnswlib (`hnswalg.h`). The fifth is written by
//! [`crate::pickle::write`]. Nothing is written whole: each file goes out in pieces of some 64 KiB.

use super::{
    DATA_OFFSET, EF_CONSTRUCTION, ELEMENT_BYTES, ELEMENTS, ENTRY_POINT, Graph, HEADER_LEN,
    LABEL_OFFSET, M, MAX_ELEMENTS, MAX_LEVEL, MAX_M, MAX_M0, MULT, OFFSET_LEVEL0, VERSION,
    build::multiplier,
};
use crate::pieces::{Pieces, Write};

impl Graph {
    /// `header.bin`. It states room for 100 elements at least, as Chroma does when it begins; files hold no more than the elements
    /// that there are.
    #[must_use]
    pub fn header(&self) -> [u8; HEADER_LEN] {
        let m = self.options.neighbours as u64;
        let data = 4 + 8 * m;
        let label = data + 4 * self.options.dimension as u64;
        let elements = self.len() as u64;
        let mut header = [0; HEADER_LEN];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(VERSION, &1_u32.to_le_bytes());
        for (at, value) in [
            (OFFSET_LEVEL0, 0),
            (MAX_ELEMENTS, elements.max(ROOM_MIN)),
            (ELEMENTS, elements),
            (ELEMENT_BYTES, label + 8),
            (LABEL_OFFSET, label),
            (DATA_OFFSET, data),
            (MAX_M, m),
            (MAX_M0, 2 * m),
            (M, m),
            (MULT, multiplier(self.options.neighbours).to_bits()),
            (EF_CONSTRUCTION, self.options.ef_construction as u64),
        ] {
            put(at, &value.to_le_bytes());
        }
        put(MAX_LEVEL, &self.max_level.map_or(-1, i32::from).to_le_bytes());
        put(ENTRY_POINT, &self.entry.to_le_bytes());
        header
    }

    /// `data_level0.bin`. Errs when `write` does.
    pub fn level0<E>(&self, write: Write<'_, E>) -> Result<(), E> {
        let mut out = Pieces::new(write);
        for (index, label) in (0_u32..).zip(&self.labels) {
            for word in self.base.record(index as usize) {
                out.push(&word.to_le_bytes())?;
            }
            for number in self.vector(index) {
                out.push(&number.to_le_bytes())?;
            }
            out.push(&label.to_le_bytes())?;
        }
        out.finish()
    }

    /// `length.bin`: the lengths that vectors had before they were normalised, 0 where they are not; hnswlib leaves there what the
    /// memory held. Errs when `write` does.
    pub fn lengths<E>(&self, write: Write<'_, E>) -> Result<(), E> {
        let mut out = Pieces::new(write);
        for norm in &self.norms {
            out.push(&norm.to_le_bytes())?;
        }
        out.finish()
    }

    /// `link_lists.bin`. Errs when `write` does.
    pub fn links<E>(&self, write: Write<'_, E>) -> Result<(), E> {
        let mut out = Pieces::new(write);
        for (index, _) in (0..).zip(&self.labels) {
            let lists = self.upper_lists(index);
            // 64 levels of 10,001 words at the most.
            let length = u32::try_from(4 * lists.len() * (self.upper.room() + 1)).unwrap_or(0);
            out.push(&length.to_le_bytes())?;
            for word in lists.flat_map(|list| self.upper.record(list)) {
                out.push(&word.to_le_bytes())?;
            }
        }
        out.finish()
    }
}

const ROOM_MIN: u64 = 100;

#[cfg(test)]
mod tests;
