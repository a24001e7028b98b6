//! A file for other programs, which read it at any moment: it is there as a whole, or as it was before.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// Writes `bytes` to `file`, which everybody may read then. What is written beside it meanwhile has a hidden name with another ending, so
/// that nobody takes it for one of the files. Errs when it cannot; then `file` is as it was.
pub(super) fn write(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = beside(file)?;
    let written = fill(&beside, bytes).and_then(|()| fs::rename(&beside, file));
    if written.is_err() {
        // The error that counts is the first one.
        drop(fs::remove_file(&beside));
        return written;
    }
    // The directory keeps the name; some filesystems cannot be asked to.
    let parent = beside.parent().unwrap_or(Path::new("."));
    drop(File::open(parent).and_then(|dir| dir.sync_all()));
    Ok(())
}

fn beside(file: &Path) -> io::Result<PathBuf> {
    let Some(name) = file.file_name() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is the name of a directory"));
    };
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}.new", std::process::id()));
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    Ok(parent.unwrap_or(Path::new(".")).join(hidden))
}

fn fill(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // What a run with the same number has left; a link there is removed and not followed.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    // Whatever the umask says: the reader is another user.
    file.set_permissions(Permissions::from_mode(0o644))?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_is_exchanged_as_a_whole_and_readable_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("chroma.prom");
        let left = beside(&file).unwrap();
        let other = dir.path().join("other");
        fs::write(&other, "untouched").unwrap();
        symlink(&other, &left).unwrap();
        for content in ["one", "two"] {
            write(&file, content.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), content);
            assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o644);
        }
        assert_eq!(fs::read_to_string(&other).unwrap(), "untouched");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        // In place of a directory nothing can be put, and nothing stays beside it.
        let taken = dir.path().join("taken");
        fs::create_dir(&taken).unwrap();
        write(&taken, b"x").unwrap_err();
        write(Path::new("/"), b"x").unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }
}
