//! What is written goes out in pieces of some size, so that no file is ever whole in memory.

use alloc::vec::Vec;

/// Takes the next bytes of a file.
pub(crate) type Write<'a, E> = &'a mut dyn FnMut(&[u8]) -> Result<(), E>;

/// Gathers what is written, and hands on what has come together. What is left goes out with [`Self::finish`].
pub(crate) struct Pieces<'a, E> {
    gathered: Vec<u8>,
    write: Write<'a, E>,
}

impl<'a, E> Pieces<'a, E> {
    pub(crate) fn new(write: Write<'a, E>) -> Self {
        Self { gathered: Vec::with_capacity(PIECE_BYTES), write }
    }

    /// Gathers bytes, and writes them out by the piece. Errs when writing does.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<(), E> {
        self.gathered.extend_from_slice(bytes);
        if self.gathered.len() < PIECE_BYTES {
            return Ok(());
        }
        (self.write)(&self.gathered)?;
        self.gathered.clear();
        Ok(())
    }

    /// Writes what is left. Errs when writing does.
    pub(crate) fn finish(self) -> Result<(), E> {
        if self.gathered.is_empty() { Ok(()) } else { (self.write)(&self.gathered) }
    }
}

const PIECE_BYTES: usize = 64 * 1024;
