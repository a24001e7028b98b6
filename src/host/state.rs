//! The state directory: small JSON documents that survive a restart. Each appears whole or not at all; one that cannot
//! be read is set aside and said, never trusted; when the directory cannot be written, the program goes on from memory
//! and counts it.

mod owner;
pub(crate) mod place;

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io::{self, BufReader, BufWriter, Read, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};
use tracing::{error, info, warn};

use self::{owner::Claim, place::Obstacle};
use crate::format::hash::{FNV_START, fnv1a};

/// Where documents are kept.
#[derive(Debug)]
pub struct StateDir {
    dir: Option<PathBuf>,
    /// The directory itself; every name is one in it.
    entered: Option<OwnedFd>,
    /// Whether another program may be the owner, so that nothing is written, renamed or made here.
    read_only: bool,
    /// Held as long as the program runs; a second exporter on the same directory would undo our writes.
    lock: Option<OwnedFd>,
    write_errors: AtomicU64,
    failing: AtomicBool,
}

/// Why a state directory is not used at all, so that the program must not start with it.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// Another program has it.
    #[error("the state directory {} is in use by {holder}", .dir.display())]
    Held {
        /// The directory.
        dir: PathBuf,
        /// Who says to have it.
        holder: String,
    },
    /// Another user could lead this program to any file.
    #[error("the state directory {} is not safe: {what}", .dir.display())]
    Unsafe {
        /// The directory.
        dir: PathBuf,
        /// What is wrong.
        what: String,
        /// What to do about it.
        hint: String,
    },
}

impl Refused {
    /// What to do.
    #[must_use]
    pub fn hint(&self) -> &str {
        match self {
            Self::Held { .. } => {
                "two exporters on one state directory would tell every alert twice; end the other one, or give this one a directory of its own with --state.dir. In a rolling update the old one must end before the new one begins (Kubernetes: strategy Recreate)"
            }
            Self::Unsafe { hint, .. } => hint,
        }
    }
}

impl StateDir {
    /// Takes possession of `dir`, making it (mode 0700) when it is absent; an owner that is just ending is waited for, no
    /// longer than `patience`. Without a directory, or with one that cannot be used, the state lives in memory only, and the
    /// log says so. One that can be read and not written is read. Errs when another exporter uses it, and when another user
    /// could lead this program to other files.
    pub fn claim(dir: Option<PathBuf>, patience: Duration) -> Result<Self, Refused> {
        let mut state = Self { read_only: false, ..Self::read_only(None) };
        let Some(dir) = dir else { return Ok(state) };
        let unsafe_for =
            |what: String, hint: String| Refused::Unsafe { dir: dir.clone(), what, hint };
        let entered = match place::claim(&dir) {
            Ok(entered) => entered,
            Err(Obstacle::Unsafe { what, hint }) => return Err(unsafe_for(what, hint)),
            Err(Obstacle::Io(error)) => {
                warn!(dir = %dir.display(), %error, "State directory cannot be used; state is kept in memory and lost at exit.");
                state.note_failure();
                return Ok(state);
            }
        };
        match owner::claim(&entered, patience) {
            Claim::Ours(lock) => state.lock = Some(lock),
            Claim::Unknown(error) => {
                warn!(dir = %dir.display(), %error, "The state directory takes no lock; make sure that no other exporter uses it, or every alert is told twice.");
            }
            Claim::Held(holder) => return Err(Refused::Held { dir, holder }),
            Claim::Planted(error) => {
                let lock = dir.join("lock");
                let hint = format!("find out who made it, then `rm {}`", lock.display());
                return Err(unsafe_for(format!("{}: {error}", lock.display()), hint));
            }
        }
        if let Err(error) = place::create(&entered, OsStr::new(TRIAL)) {
            error!(dir = %dir.display(), %error, "State directory cannot be written; what is there is read, and what happens from now on is kept in memory until it can be.");
            state.note_failure();
        } else if let Err(error) = remove(&entered, OsStr::new(TRIAL)) {
            warn!(dir = %dir.display(), %error, "A file in the state directory could not be removed.");
        }
        state.entered = Some(entered);
        state.dir = Some(dir);
        Ok(state)
    }

    /// The same for what does not end when it cannot be had: then the state lives in memory only, and the log says so.
    #[must_use]
    pub fn open(dir: Option<PathBuf>) -> Self {
        Self::claim(dir, SHORT_PATIENCE).unwrap_or_else(|refused| {
            warn!(error = %refused, hint = refused.hint(), "State is kept in memory and lost at exit.");
            Self::memory()
        })
    }

    /// A state that is not kept, and counted as one that could not be.
    #[must_use]
    pub fn memory() -> Self {
        let state = Self { read_only: false, ..Self::read_only(None) };
        state.note_failure();
        state
    }

    fn note_failure(&self) {
        self.write_errors.fetch_add(1, Ordering::Relaxed);
        self.failing.store(true, Ordering::Relaxed);
    }

    /// What an exporter keeps in `dir`, perhaps while it runs: documents are loaded, and nothing is written.
    #[must_use]
    pub fn read_only(dir: Option<PathBuf>) -> Self {
        // Absent, it holds nothing; what may not be entered cannot be read either.
        let entered = dir.as_deref().and_then(|dir| place::visit(dir).ok());
        Self {
            dir,
            entered,
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
        let name = file(kind, subject);
        let path = self.dir.as_deref()?.join(&name);
        let entered = self.entered.as_ref()?;
        let reader = match read_bounded(entered, &name) {
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
                let aside = Path::new(&name).with_extension("damaged");
                match rustix::fs::renameat(entered, &name, entered, &aside) {
                    Ok(()) => {
                        let aside = path.with_extension("damaged");
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
        let (Some(dir), Some(entered)) = (&self.dir, &self.entered) else { return };
        let name = file(kind, subject);
        let document = Document { subject: subject.to_string_lossy().into_owned(), data };
        let written =
            write_whole(entered, &name, |writer| Ok(serde_json::to_writer(writer, &document)?));
        match written {
            Ok(()) => {
                if self.failing.swap(false, Ordering::Relaxed) {
                    info!(path = %dir.join(name).display(), "State can be written again.");
                }
            }
            Err(error) => {
                self.write_errors.fetch_add(1, Ordering::Relaxed);
                if !self.failing.swap(true, Ordering::Relaxed) {
                    error!(path = %dir.join(name).display(), %error, "State cannot be written; going on from memory.");
                }
            }
        }
    }
}

/// A stable name for a path; a clash only forgets a document.
fn file(kind: &str, subject: &Path) -> OsString {
    let hash = fnv1a(FNV_START, subject.as_os_str().as_encoded_bytes().iter().copied());
    format!("{kind}-{hash:016x}.json").into()
}

/// The document names its subject, because the file name holds only a hash of it.
#[derive(serde::Deserialize, Serialize)]
struct Document<T> {
    subject: String,
    data: T,
}

/// Documents are read and written piece by piece: the text of a large one is never held whole.
/// Errs when it cannot be opened, or is too long.
fn read_bounded(dir: &OwnedFd, name: &OsStr) -> io::Result<impl Read> {
    let file = place::read(dir, name)?;
    if file.metadata()?.len() > DOCUMENT_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "larger than any document of ours",
        ));
    }
    Ok(BufReader::new(file.take(DOCUMENT_BYTES_MAX)))
}

/// Temporary name in the same directory, write, sync, rename, sync of the directory: after a crash there is the old
/// document or the new one. Errs when it cannot be written; then the old one stands.
fn write_whole(
    dir: &OwnedFd,
    name: &OsStr,
    write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> io::Result<()> {
    let temporary = Path::new(name).with_extension("tmp");
    let result = (|| {
        let file = place::create(dir, temporary.as_os_str())?;
        let mut writer = BufWriter::new(&file);
        write(&mut writer)?;
        writer.flush()?;
        drop(writer);
        file.sync_all()?;
        rustix::fs::renameat(dir, &temporary, dir, name)?;
        Ok(rustix::fs::fsync(dir)?)
    })();
    if result.is_err()
        && let Err(error) = remove(dir, temporary.as_os_str())
        && error.kind() != io::ErrorKind::NotFound
    {
        warn!(path = %temporary.display(), %error, "Temporary state file could not be removed.");
    }
    result
}

fn remove(dir: &OwnedFd, name: &OsStr) -> io::Result<()> {
    Ok(rustix::fs::unlinkat(dir, name, rustix::fs::AtFlags::empty())?)
}

/// How long the lock of an exporter that is just ending is waited for: one that was killed a moment ago holds it until the
/// kernel has taken its last thread down.
const SHORT_PATIENCE: Duration = Duration::from_secs(3);

/// The same when a program starts that must have it: restarts overlap.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// A file that is made and removed to learn whether any can be.
const TRIAL: &str = "trial.tmp";

/// A baseline of a million entries fits.
const DOCUMENT_BYTES_MAX: u64 = 256 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    };

    use super::*;

    impl StateDir {
        fn path_of(&self, kind: &str, subject: &Path) -> PathBuf {
            self.dir.as_ref().unwrap().join(file(kind, subject))
        }
    }

    #[test]
    fn a_document_survives_and_a_damaged_one_is_set_aside() {
        let dir = tempfile::tempdir().unwrap();
        let subject = Path::new("/srv/chroma");
        let state = StateDir::open(Some(dir.path().join("state")));
        assert_eq!(state.load::<u32>("kind", subject), None);
        state.save("kind", subject, &7_u32);
        assert_eq!(state.load("kind", subject), Some(7_u32));
        assert_eq!(state.load::<u32>("kind", Path::new("/other")), None);

        let file = state.path_of("kind", subject);
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
        fs::write(owner.path_of("kind", other), b"{").unwrap();
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
        fs::create_dir(state.path_of("kind", Path::new("/x")).with_extension("tmp")).unwrap();
        state.save("kind", Path::new("/x"), &1);
        state.save("kind", Path::new("/x"), &2);
        assert_eq!(state.write_errors(), 2);
        assert!(!state.persistent());
    }

    #[test]
    fn one_program_at_a_time_owns_a_directory_and_the_other_is_told_who() {
        let dir = tempfile::tempdir().unwrap();
        let claim = |ms| StateDir::claim(Some(dir.path().to_owned()), Duration::from_millis(ms));
        let first = claim(0).unwrap();
        let refused = claim(100).unwrap_err();
        let text = refused.to_string();
        let own = format!("is in use by process {} on ", std::process::id());
        assert!(text.contains(&own) && text.contains(" since 20"), "{text}");
        assert!(refused.hint().contains("--state.dir"));
        // One that only reads needs nobody's leave.
        first.save("kind", Path::new("/x"), &1);
        let reader = StateDir::read_only(Some(dir.path().to_owned()));
        assert_eq!(reader.load("kind", Path::new("/x")), Some(1));
        // One that ends meanwhile is waited for.
        let waiting = std::thread::scope(|scope| {
            let waits = scope.spawn(|| claim(60_000));
            std::thread::sleep(Duration::from_millis(50));
            drop(first);
            waits.join().unwrap()
        });
        // A lock on a file that has lost its name keeps nobody away, so a second file is another lock.
        let second = waiting.unwrap();
        assert!(second.persistent());
        drop(second);
        fs::remove_file(dir.path().join("lock")).unwrap();
        assert!(claim(0).unwrap().persistent());
        // Whoever wrote nonsense into it is not quoted.
        let held = claim(0).unwrap();
        fs::write(dir.path().join("lock"), "\u{1b}[2Jprocess").unwrap();
        assert!(
            claim(0).unwrap_err().to_string().ends_with("is in use by another chroma_exporter")
        );
        drop(held);
    }

    /// Everything of a file that somebody could have changed through a link.
    fn facts(path: &Path) -> (Vec<u8>, u32, u32, i64, i64, i64) {
        let meta = fs::symlink_metadata(path).unwrap();
        let bytes = if meta.is_file() { fs::read(path).unwrap() } else { Vec::new() };
        (bytes, meta.mode(), meta.uid(), meta.mtime_nsec(), meta.ctime_nsec(), meta.ctime())
    }

    #[test]
    fn planted_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (state, victims) = (dir.path().join("state"), dir.path().join("victims"));
        for made in [&state, &victims] {
            fs::create_dir(made).unwrap();
        }
        fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
        let subject = Path::new("/x");
        let victim = victims.join("file");
        fs::write(&victim, b"{\"subject\":\"/x\",\"data\":7}").unwrap();
        fs::set_permissions(&victim, fs::Permissions::from_mode(0o644)).unwrap();
        let before = (facts(&victim), facts(&victims));
        let document = state.join(file("kind", subject));
        for (name, target) in [
            (document.clone(), victim.clone()),
            (document.with_extension("tmp"), victim.clone()),
            (document.with_extension("damaged"), victim.clone()),
            (state.join(TRIAL), victims.join("new")),
        ] {
            symlink(target, name).unwrap();
        }
        let kept = StateDir::claim(Some(state.clone()), Duration::ZERO).unwrap();
        assert_eq!(kept.load::<u32>("kind", subject), None, "what a link leads to is not ours");
        kept.save("kind", subject, &8);
        assert_eq!(kept.load("kind", subject), Some(8), "the link is replaced");
        let reader = StateDir::read_only(Some(state.clone()));
        fs::remove_file(&document).unwrap();
        symlink(&victim, &document).unwrap();
        assert_eq!(reader.load::<u32>("kind", subject), None);
        // A pipe holds nobody up.
        fs::remove_file(&document).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &document,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        assert_eq!(reader.load::<u32>("kind", subject), None);
        assert_eq!(kept.load::<u32>("kind", subject), None);
        assert_eq!((facts(&victim), facts(&victims)), before);
        drop(kept);
        // The lock itself.
        fs::remove_file(state.join("lock")).unwrap();
        symlink(&victim, state.join("lock")).unwrap();
        let refused = StateDir::claim(Some(state), Duration::ZERO).unwrap_err();
        assert!(refused.to_string().contains("lock: it is a link"), "{refused}");
        assert_eq!((facts(&victim), facts(&victims)), before);
    }

    /// Needs root, as which alone it matters.
    #[test]
    fn root_takes_no_directory_in_which_another_user_could_plant_links() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let chown =
            |path: &Path, user| std::os::unix::fs::chown(path, Some(user), Some(user)).unwrap();
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        };
        let claim = |path: &Path| StateDir::claim(Some(path.to_owned()), Duration::ZERO);
        let foreign = dir.path().join("foreign");
        fs::create_dir(&foreign).unwrap();
        chown(&foreign, 12_345);
        for path in [foreign.clone(), foreign.join("state")] {
            let refused = claim(&path).unwrap_err();
            let text = format!("{refused}; {}", refused.hint());
            assert!(text.contains("belongs to the user 12345") && text.contains("chown"), "{text}");
            assert_eq!(fs::read_dir(&foreign).unwrap().count(), 0, "nothing is made there");
        }
        // A link of theirs on the way, to where root would go.
        let own = dir.path().join("own");
        fs::create_dir(&own).unwrap();
        symlink(&own, foreign.join("link")).unwrap();
        assert!(claim(&foreign.join("link")).is_err());
        assert!(claim(&foreign.join("link/state")).is_err());
        assert_eq!(fs::read_dir(&own).unwrap().count(), 0);
        // One of root's own is a name like any other.
        symlink("own", dir.path().join("name")).unwrap();
        assert!(claim(&dir.path().join("name/state")).unwrap().persistent());
        assert!(own.join("state/lock").exists());
        // What everybody may write to is ours to close, and what lies in such a directory could be exchanged.
        let open = dir.path().join("open");
        fs::create_dir(&open).unwrap();
        mode(&open, 0o777);
        let refused = claim(&open.join("state")).unwrap_err();
        assert!(refused.to_string().contains("everybody may write to"), "{refused}");
        mode(&open, 0o1777);
        assert!(claim(&open.join("state")).unwrap().persistent());
        assert!(claim(&open).unwrap().persistent());
        assert_eq!(fs::metadata(&open).unwrap().mode() & 0o7777, 0o1775);
    }
}
