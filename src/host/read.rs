//! Files that may have any length: read up to a bound.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

/// The first bytes of a file, at most `bytes_max` of them. Errs when it cannot be read.
pub(crate) fn read_beginning(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(4096);
    File::open(path)?.take(bytes_max).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// All of a file. Errs when it cannot be read, or has more than `bytes_max` bytes.
pub(crate) fn read_whole(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let bytes = read_beginning(path, bytes_max.saturating_add(1))?;
    if bytes.len() as u64 > bytes_max {
        let message = format!("larger than {} KiB", bytes_max / 1024);
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_cut_or_refused_at_the_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![b'x'; 2048]).unwrap();
        for (bytes_max, read) in [(0, 0), (2047, 2047), (2048, 2048), (u64::MAX, 2048)] {
            assert_eq!(read_beginning(&path, bytes_max).unwrap().len(), read, "{bytes_max}");
        }
        assert_eq!(read_whole(&path, 2048).unwrap().len(), 2048);
        assert_eq!(read_whole(&path, 2047).unwrap_err().to_string(), "larger than 1 KiB");
        for read in [read_beginning, read_whole] {
            let kind = read(&dir.path().join("none"), 9).unwrap_err().kind();
            assert_eq!(kind, io::ErrorKind::NotFound);
        }
    }
}
