//! The state directory: small JSON documents that survive a restart. Each appears whole or not at all; one that cannot
//! be read is set aside and said, never trusted; when the directory cannot be written, the program goes on from memory
//! and counts it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, BufWriter, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};
use tracing::{error, info, warn};

use crate::{
    clock,
    format::hash::{FNV_START, fnv1a},
};

/// Where documents are kept.
#[derive(Debug)]
pub struct StateDir {
    dir: Option<PathBuf>,
    /// Whether another program may be the owner, so that nothing is written, renamed or made here.
    read_only: bool,
    /// Held as long as the program runs; a second exporter on the same directory would undo our writes.
    lock: Option<File>,
    write_errors: AtomicU64,
    failing: AtomicBool,
}

impl StateDir {
    /// Opens `dir`, making it (mode 0700) when it is absent. Without one, with one that cannot be used, or with one that
    /// another exporter uses, the state lives in memory only, and the log says so.
    #[must_use]
    pub fn open(dir: Option<PathBuf>) -> Self {
        let mut state = Self { read_only: false, ..Self::read_only(None) };
        let Some(dir) = dir else { return state };
        match lock(&dir) {
            Ok(lock) => {
                state.dir = Some(dir);
                state.lock = Some(lock);
            }
            Err(error) => {
                warn!(dir = %dir.display(), %error, "State directory cannot be used; state is kept in memory and lost at exit.");
                state.write_errors.fetch_add(1, Ordering::Relaxed);
                state.failing.store(true, Ordering::Relaxed);
            }
        }
        state
    }

    /// What an exporter keeps in `dir`, perhaps while it runs: documents are loaded, and nothing is written.
    #[must_use]
    pub fn read_only(dir: Option<PathBuf>) -> Self {
        Self {
            dir,
            read_only: true,
            lock: None,
            write_errors: AtomicU64::new(0),
            failing: AtomicBool::new(false),
        }
    }

    /// Whether documents are kept on disk.
    #[must_use]
    pub fn persistent(&self) -> bool {
        self.dir.is_some() && !self.read_only && !self.failing.load(Ordering::Relaxed)
    }

    /// Whether this program only reads what another one keeps.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// The directory, when this program is its owner or reads beside it; what is kept in files of another form goes here.
    #[must_use]
    pub fn dir(&self) -> Option<&Path> {
        self.dir.as_deref()
    }

    /// How many times a document could not be written.
    #[must_use]
    pub fn write_errors(&self) -> u64 {
        self.write_errors.load(Ordering::Relaxed)
    }

    /// Reads the document `kind` about `subject` (the path of a store). `None` when there is none, or when it was
    /// damaged and has been set aside.
    pub fn load<T: DeserializeOwned>(&self, kind: &str, subject: &Path) -> Option<T> {
        let path = self.file(kind, subject)?;
        let reader = match open_bounded(&path) {
            Ok(reader) => reader,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                warn!(path = %path.display(), %error, "State document cannot be read; starting anew.");
                return None;
            }
        };
        match serde_json::from_reader::<_, Document<T>>(reader) {
            Ok(document) if document.subject == subject.to_string_lossy() => Some(document.data),
            Ok(_) => None, // two paths with one hash: as good as absent
            Err(error) if error.is_io() => {
                warn!(path = %path.display(), %error, "State document cannot be read; starting anew.");
                None
            }
            Err(error) if self.read_only => {
                warn!(path = %path.display(), %error, "State document is damaged; going on without it.");
                None
            }
            Err(error) => {
                let aside = path.with_extension("damaged");
                match fs::rename(&path, &aside) {
                    Ok(()) => {
                        error!(path = %path.display(), aside = %aside.display(), %error, "State document is damaged; set aside, starting anew.");
                    }
                    Err(rename) => {
                        error!(path = %path.display(), %error, %rename, "State document is damaged and cannot be set aside; starting anew.");
                    }
                }
                None
            }
        }
    }

    /// Writes the document `kind` about `subject`, whole or not at all. A failure is counted and logged once until it
    /// ends; the caller goes on from memory.
    pub fn save<T: Serialize>(&self, kind: &str, subject: &Path, data: &T) {
        if self.read_only {
            return;
        }
        let Some(path) = self.file(kind, subject) else { return };
        let document = Document { subject: subject.to_string_lossy().into_owned(), data };
        let written = write_whole(&path, |writer| Ok(serde_json::to_writer(writer, &document)?));
        match written {
            Ok(()) => {
                if self.failing.swap(false, Ordering::Relaxed) {
                    info!(path = %path.display(), "State can be written again.");
                }
            }
            Err(error) => {
                self.write_errors.fetch_add(1, Ordering::Relaxed);
                if !self.failing.swap(true, Ordering::Relaxed) {
                    error!(path = %path.display(), %error, "State cannot be written; going on from memory.");
                }
            }
        }
    }

    fn file(&self, kind: &str, subject: &Path) -> Option<PathBuf> {
        // A stable name for a path; a clash only forgets a document.
        let hash = fnv1a(FNV_START, subject.as_os_str().as_encoded_bytes().iter().copied());
        self.dir.as_ref().map(|dir| dir.join(format!("{kind}-{hash:016x}.json")))
    }
}

/// The document names its subject, because the file name holds only a hash of it.
#[derive(serde::Deserialize, Serialize)]
struct Document<T> {
    subject: String,
    data: T,
}

fn lock(dir: &Path) -> io::Result<File> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(dir.join("lock"))?;
    // An exporter that was killed a moment ago holds it until the kernel has taken its last thread down.
    let began = clock::ticks();
    loop {
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(rustix::io::Errno::WOULDBLOCK) if began.elapsed() < LOCK_PATIENCE => {
                std::thread::sleep(LOCK_PAUSE);
            }
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let text = "another chroma_exporter uses it";
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(file)
}

/// Documents are read and written piece by piece: the text of a large one is never held whole.
fn open_bounded(path: &Path) -> io::Result<impl Read> {
    let file = File::open(path)?;
    if file.metadata()?.len() > DOCUMENT_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "larger than any document of ours",
        ));
    }
    Ok(BufReader::new(file.take(DOCUMENT_BYTES_MAX)))
}

/// Temporary name in the same directory, write, sync, rename, sync of the directory: after a crash there is the old
/// document or the new one.
fn write_whole(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let result = (|| {
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&temporary)?;
        let mut writer = BufWriter::new(&file);
        write(&mut writer)?;
        writer.flush()?;
        drop(writer);
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    })();
    if result.is_err()
        && let Err(error) = fs::remove_file(&temporary)
        && error.kind() != io::ErrorKind::NotFound
    {
        warn!(path = %temporary.display(), %error, "Temporary state file could not be removed.");
    }
    result
}

/// How long the lock of an exporter that is just ending is waited for, and how often it is tried.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// A baseline of a million entries fits.
const DOCUMENT_BYTES_MAX: u64 = 256 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_survives_and_a_damaged_one_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let subject = Path::new("/srv/chroma");
        let state = StateDir::open(Some(dir.path().join("state")));
        assert_eq!(state.load::<u32>("kind", subject), None);
        state.save("kind", subject, &7_u32);
        assert_eq!(state.load("kind", subject), Some(7_u32));
        assert_eq!(state.load::<u32>("kind", Path::new("/other")), None);

        let file = state.file("kind", subject).unwrap();
        fs::write(&file, b"{\"subject\":").unwrap();
        assert_eq!(state.load::<u32>("kind", subject), None);
        assert!(file.with_extension("damaged").exists());
        state.save("kind", subject, &8_u32);
        assert_eq!(state.load("kind", subject), Some(8_u32));
        assert_eq!(state.write_errors(), 0);
    }

    #[test]
    fn who_only_reads_sees_the_documents_of_a_running_exporter_and_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (subject, other) = (Path::new("/srv/chroma"), Path::new("/srv/other"));
        let owner = StateDir::open(Some(dir.path().to_owned()));
        owner.save("kind", subject, &7_u32);
        fs::write(owner.file("kind", other).unwrap(), b"{").unwrap();
        let before = fs::read_dir(dir.path()).unwrap().count();

        let reader = StateDir::read_only(Some(dir.path().to_owned()));
        assert_eq!(reader.load("kind", subject), Some(7_u32));
        assert_eq!(reader.load::<u32>("kind", other), None, "damaged");
        reader.save("kind", subject, &8_u32);
        assert_eq!(owner.load("kind", subject), Some(7_u32));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), before);
        assert!(owner.persistent() && !reader.persistent());

        let absent = dir.path().join("absent");
        assert_eq!(StateDir::read_only(Some(absent.clone())).load::<u32>("kind", subject), None);
        assert!(!absent.exists());
    }

    #[test]
    fn a_second_exporter_on_the_same_directory_keeps_its_hands_off() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateDir::open(Some(dir.path().to_owned()));
        let second = StateDir::open(Some(dir.path().to_owned()));
        assert!(first.persistent());
        assert!(!second.persistent());
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_counted_and_the_program_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(Some(dir.path().join("state")));
        // A directory in the place of the temporary file: root is refused too.
        fs::create_dir(state.file("kind", Path::new("/x")).unwrap().with_extension("tmp")).unwrap();
        state.save("kind", Path::new("/x"), &1);
        state.save("kind", Path::new("/x"), &2);
        assert_eq!(state.write_errors(), 2);
        assert!(!state.persistent());
    }
}
