//! Where a file has bytes. A hole reads as zeros, has no blocks on the disk and may be far larger than the disk: whoever reads
//! such a file from end to end is busy for hours with nothing.

use std::{fs::File, os::unix::fs::MetadataExt};

use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};

/// The stretches of a file that have bytes, asked for in ascending order. Moves the position of the descriptor, which nobody
/// uses who reads at offsets.
#[derive(Debug)]
pub struct Holes<'a> {
    /// `None` when there is nothing to ask for: it has as many blocks as bytes.
    file: Option<&'a File>,
    size_bytes: u64,
    /// The stretch that was found last: it has bytes up to here.
    until: u64,
}

impl<'a> Holes<'a> {
    /// Of a file as it is now. A filesystem that does not tell has no holes.
    #[must_use]
    pub fn of(file: &'a File) -> Self {
        let meta = file.metadata().ok();
        let sparse = meta.as_ref().is_some_and(|meta| {
            meta.blocks().saturating_mul(BLOCK_BYTES).saturating_add(SLACK_BYTES) < meta.len()
        });
        let size_bytes = meta.map_or(0, |meta| meta.len());
        Self { file: sparse.then_some(file), size_bytes, until: 0 }
    }

    /// The first place from `at` on that has bytes; at the end of the file, or beyond it, when none has.
    pub fn data_from(&mut self, at: u64) -> u64 {
        let Some(file) = self.file else { return at };
        if at < self.until || at >= self.size_bytes {
            return at;
        }
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start.max(at),
            Err(Errno::NXIO) => return self.size_bytes,
            // It cannot be asked: everything is read.
            Err(_) => {
                self.file = None;
                return at;
            }
        };
        self.until = seek(file, SeekFrom::Hole(start)).unwrap_or(start);
        start
    }
}

/// Whether a stretch of a file has no bytes.
#[must_use]
pub fn is_hole(file: &File, at: u64, len: u64) -> bool {
    match seek(file, SeekFrom::Data(at)) {
        Ok(start) => start >= at.saturating_add(len),
        Err(error) => error == Errno::NXIO,
    }
}

/// Whether a file has far fewer blocks than bytes.
#[must_use]
pub fn is_sparse(file: &File) -> bool {
    Holes::of(file).file.is_some()
}

/// What `st_blocks` counts.
const BLOCK_BYTES: u64 = 512;
/// A hole of less is read faster than asked for.
const SLACK_BYTES: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn stretches_with_bytes_are_found_and_holes_are_passed_over() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&vec![7; 100_000], 0).unwrap();
        let mut none = Holes::of(&file);
        assert_eq!(
            [0, 5, 99_999, 100_000, 1 << 40].map(|at| none.data_from(at)),
            [0, 5, 99_999, 100_000, 1 << 40]
        );
        let (size, place) = (1_u64 << 40, 1 << 30);
        file.write_all_at(&vec![7; 100_000], place).unwrap();
        file.set_len(size).unwrap();
        // A filesystem that has no holes cannot have a file of this size here.
        assert!(is_sparse(&file));
        let mut holes = Holes::of(&file);
        assert_eq!(holes.data_from(0), 0);
        let next = holes.data_from(1 << 20);
        assert!(next <= place && place - next < 1 << 21, "{next}");
        assert_eq!(holes.data_from(place + 5), place + 5);
        assert_eq!(holes.data_from(place + (1 << 22)), size);
        assert_eq!(holes.data_from(size), size);
        assert!(is_hole(&file, 1 << 32, 1 << 30) && !is_hole(&file, 0, 1 << 20));
        assert!(!is_hole(&file, 1 << 28, 1 << 30));
    }
}
