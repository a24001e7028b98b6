//! `backup`: a proven copy of one moment of a store, under a name that says when. It is copied and packed under a hidden name,
//! opened and looked at by every check, read back, given to the disk, and only then renamed. A run that is killed leaves what
//! was there before, and a hidden name that the next run removes.

pub mod after;
pub(crate) mod dated;
mod error;
pub mod names;
mod pack;
mod place;

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

pub(crate) use self::place::manifest;
use self::{
    after::{About, After, Ran},
    names::Form,
    pack::Content,
    place::{Place, Previous},
};
use super::{
    moment::{self, MomentError, Taken},
    proof::{self, ProofError, Proven},
    retention::Keep,
    steps::Steps,
};
use crate::{
    clock::{self, Timestamp},
    config::BackupJob,
    format::{
        manifest::{self, FORMAT, MANIFEST_FILE, Manifest, Restores},
        parts::INDEX_FILES,
        uuid::parse_uuid,
    },
    host::priority::{Quiet, quietly},
    keys::rules::below_root,
    store::Context,
};

pub use error::BackupError;

/// What is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The directory that it goes into. It exists.
    pub to: PathBuf,
    /// In which form.
    pub form: Form,
    /// What stays of those that were made before.
    pub keep: Keep,
    /// What is run for a proven one.
    pub after: Option<After>,
}

impl Order {
    /// What the configuration asks for, of a host whose root is `rootfs`.
    #[must_use]
    pub fn of_job(job: &BackupJob, rootfs: &Path) -> Self {
        let deadline = job.after_timeout;
        Self {
            to: below_root(rootfs, &job.to),
            form: job.form,
            keep: job.keep,
            after: (!job.after.is_empty()).then(|| After { words: job.after.clone(), deadline }),
        }
    }
}

/// What was made.
#[derive(Debug, Clone)]
pub struct Done {
    /// The backup.
    pub path: PathBuf,
    /// Its form.
    pub form: Form,
    /// Its size on the disk as it is transferred: of the archive, or of all files of a directory.
    pub bytes: u64,
    /// SHA-256 of the archive, or of the manifest of a directory.
    pub sha256: String,
    /// Its manifest; proven or not, it says so.
    pub manifest: Manifest,
    /// What would not come back, a sentence each.
    pub losses: Vec<String>,
    /// What is to be known of how it was made, a sentence each.
    pub notes: Vec<String>,
    /// Files that it shares with the backup before.
    pub shared: usize,
    /// Names of the backups that were removed.
    pub pruned: Vec<String>,
    /// Why not all of them were removed that should be.
    pub unpruned: Option<String>,
    /// What came of the program after it.
    pub after: Option<Ran>,
    /// How often the database was copied, and the longest lock on it.
    pub tries: u32,
    /// Longest lock on the database.
    pub held: Duration,
    /// All that it took, without the program after it.
    pub took: Duration,
}

impl Done {
    /// Whether it was proven to restore whole.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.manifest.is_proven()
    }

    /// What would come back of it.
    #[must_use]
    pub fn restores(&self) -> Restores {
        self.manifest.proof.as_ref().map_or(Restores::Unknown, |proof| proof.restores)
    }
}

/// Makes a backup of the store of `context`, and removes those that are not to be kept when it is a proven one. `now` is in its
/// name, or a second shortly after. Errs when there is no backup afterwards: nothing half done is left, and none that was there
/// is removed.
pub fn run(
    order: &Order,
    context: &Context,
    steps: &Steps,
    now: Timestamp,
) -> Result<Done, BackupError> {
    let began = clock::ticks();
    let place = Place::claim(context, &order.to, steps)?;
    let making = Making {
        order,
        context,
        steps,
        now,
        store: context.store.path.to_string_lossy().into_owned(),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        place,
    };
    let mut done = making.make()?;
    if done.is_proven() {
        let pruned = making.place.prune(&making.store, &making.host, &order.keep, &done.path);
        match pruned {
            Ok(pruned) => done.pruned = pruned,
            Err(error) => done.unpruned = Some(error.to_string()),
        }
    }
    done.took = began.elapsed();
    if done.is_proven()
        && let Some(after) = &order.after
    {
        done.after = Some(making.run_after(after, &done));
    }
    Ok(done)
}

struct Making<'a> {
    order: &'a Order,
    context: &'a Context,
    steps: &'a Steps,
    now: Timestamp,
    store: String,
    host: String,
    place: Place,
}

/// Removes what it names when it goes.
struct Hidden(PathBuf);

impl Drop for Hidden {
    fn drop(&mut self) {
        if let Err(error) = place::remove(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "Part of a backup stays, the next one removes it.");
        }
    }
}

/// A copy that was looked at.
struct Copied {
    taken: Taken,
    /// With its hashes, and when it is an archive with what is in it.
    files: Vec<manifest::File>,
    content: Option<Content>,
    proven: Proven,
    shared: usize,
}

impl Making<'_> {
    fn make(&self) -> Result<Done, BackupError> {
        let to = self.place.dir.as_path();
        let ratio = self.context.config.disk.warn_ratio;
        let need = self.need_bytes().map_err(|source| self.unreadable(source))?;
        self.place.has_room(need, ratio)?;
        let name = self.free_name().map_err(|source| BackupError::write(to, source))?;
        let staged = Hidden(to.join(names::partial(&self.named(Form::Directory, &name))));
        let archive = Hidden(to.join(names::partial(&self.named(Form::Archive, &name))));
        let previous = match self.order.form {
            Form::Directory => self.place.previous(&self.store, &self.host),
            Form::Archive => None,
        };
        let mut copied = self.copy(&staged.0, &archive.0, previous.as_ref(), ratio)?;
        if copied.proven.proof.restores != Restores::Whole
            && moment::is_held(self.context, Duration::ZERO)
        {
            // What was wrong may have been in the copy only.
            copied = self.copy(&staged.0, &archive.0, None, ratio)?;
        }
        let manifest = self.manifest(&copied);
        let wrong = |source| BackupError::write(to, source);
        let sha256 = match self.order.form {
            Form::Archive => self.finish_archive(&archive.0, &staged.0, &mut copied, &manifest),
            Form::Directory => Self::finish_directory(&staged.0, &manifest),
        }
        .map_err(wrong)?;
        let path = to.join(&name);
        let hidden = if self.order.form == Form::Archive { &archive.0 } else { &staged.0 };
        if self.steps.stopped() {
            return Err(BackupError::Stopped);
        }
        let bytes = match self.order.form {
            Form::Archive => fs::metadata(hidden).map_err(wrong)?.len(),
            Form::Directory => manifest.bytes(),
        };
        fs::rename(hidden, &path).and_then(|()| self.place.sync()).map_err(wrong)?;
        let losses = copied.proven.losses.iter().map(ToString::to_string).collect();
        Ok(Done {
            path,
            form: self.order.form,
            bytes,
            sha256,
            manifest,
            losses,
            notes: copied.taken.notes,
            shared: copied.shared,
            pruned: Vec::new(),
            unpruned: None,
            after: None,
            tries: copied.taken.tries,
            held: copied.taken.held,
            took: Duration::ZERO,
        })
    }

    /// One moment of the store, and what would come back of it. Packing goes on while it is looked at.
    /// Errs when it cannot be copied, read or packed, or the steps were stopped.
    fn copy(
        &self,
        staged: &Path,
        archive: &Path,
        previous: Option<&Previous>,
        used_ratio_max: f64,
    ) -> Result<Copied, BackupError> {
        let to = self.place.dir.as_path();
        let wrong = |source| BackupError::write(to, source);
        place::remove(staged).map_err(wrong)?;
        fs::DirBuilder::new().mode(0o700).create(staged).map_err(wrong)?;
        let copy_options = moment::CopyOptions { used_ratio_max, steps: self.steps };
        let known = previous.map(|previous| previous as &(dyn moment::Known + Sync));
        let taken = moment::take(self.context, staged, known, copy_options)
            .map_err(|error| BackupError::moment(to, error))?;
        let shared = previous.map(Previous::shared).unwrap_or_default();
        if let Some(previous) = previous
            && previous.manifest.files.iter().map(|file| &file.path).eq(&taken.files)
            && taken.files.iter().all(|path| shared.contains(path))
            && let Some(proven) = proven_before(&previous.manifest)
        {
            let files = previous.manifest.files.clone();
            return Ok(Copied { shared: taken.files.len(), taken, files, content: None, proven });
        }
        let (proven, packed) = thread::scope(|scope| {
            let packing =
                scope.spawn(|| self.quietly(|stop| self.pack(staged, archive, &taken, stop)));
            let proven = self.prove(staged, taken.moment);
            self.steps.begin("packing", None);
            let packed =
                packing.join().unwrap_or_else(|_| Err(io::Error::other("the packing panicked")));
            (proven, packed)
        });
        let (files, content) = packed.map_err(wrong)?;
        Ok(Copied { shared: shared.len(), taken, files, content, proven: proven? })
    }

    /// Looks at a copy. It can be stopped and begun again without the rest of the job. Errs when it cannot be read, or when the
    /// steps were stopped.
    fn prove(&self, staged: &Path, moment: Timestamp) -> Result<Proven, BackupError> {
        let ended = self.quietly(|stop| {
            let (part, done) = (self.steps.part(), AtomicBool::new(false));
            Ok(thread::scope(|scope| {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        if stop.load(Ordering::Relaxed) {
                            part.stop();
                        }
                        thread::sleep(STOP_EVERY);
                    }
                });
                let proven = proof::prove(staged, &part, moment);
                done.store(true, Ordering::Relaxed);
                proven
            }))
        });
        let ended = ended.map_err(|source| BackupError::write(&self.place.dir, source))?;
        ended.map_err(|error| match error {
            ProofError::Stopped => BackupError::Stopped,
            error @ ProofError::Unreadable { .. } => BackupError::Proof(error),
        })
    }

    /// Hashes all files. What becomes a large archive is packed by the way. Errs when one cannot be read or packed, or it was stopped.
    fn pack(
        &self,
        staged: &Path,
        archive: &Path,
        taken: &Taken,
        stop: &AtomicBool,
    ) -> io::Result<(Vec<manifest::File>, Option<Content>)> {
        if self.order.form == Form::Archive {
            let mut sizes = taken.files.iter().map(|path| fs::metadata(staged.join(path)));
            let bytes = sizes.try_fold(0, |sum: u64, meta| {
                Ok::<_, io::Error>(sum.saturating_add(meta?.len()))
            })?;
            let room = pack::room_for(taken.files.len(), bytes);
            if room > 0 {
                let content = pack_content(archive, room, staged, taken, stop)?;
                return Ok((content.files.clone(), Some(content)));
            }
        }
        let mut files = Vec::new();
        for path in &taken.files {
            let file = pack::sum_of(&staged.join(path), stop)?;
            if self.order.form == Form::Directory {
                pack::sync(&staged.join(path))?;
            }
            files.push(manifest::File { path: path.clone(), ..file });
        }
        Ok((files, None))
    }

    /// Puts the manifest at the beginning, and proves that all of it can be unpacked again. Gives the hash of the archive.
    /// Errs when it cannot be written or read back, or is not what was packed.
    fn finish_archive(
        &self,
        archive: &Path,
        staged: &Path,
        copied: &mut Copied,
        manifest: &Manifest,
    ) -> io::Result<String> {
        let opened = || File::options().read(true).write(true).open(archive);
        let packed = match copied.content.take() {
            Some(content) => {
                let room = pack::room_for(manifest.files.len(), manifest.bytes());
                pack::head(&opened()?, room, manifest)?.then_some(content)
            }
            None => None,
        };
        let content = if let Some(content) = packed {
            content
        } else {
            // A small one, or one with more collections than there was room for.
            let room = pack::packed_head(manifest)?.len() as u64;
            let content =
                self.quietly(|stop| pack_content(archive, room, staged, &copied.taken, stop))?;
            pack::head(&opened()?, room, manifest)?;
            content
        };
        pack::sync(archive)?;
        if content.files != manifest.files {
            return Err(io::Error::other(
                "what was copied has changed by itself: is the disk sound?",
            ));
        }
        self.quietly(|stop| pack::read_back(archive, manifest, &content, self.steps, stop))
    }

    /// Writes the manifest of a directory, and gives all of it to the disk. Gives the hash of the manifest. Errs when it cannot be written.
    fn finish_directory(staged: &Path, manifest: &Manifest) -> io::Result<String> {
        let text = manifest.to_json();
        let path = staged.join(MANIFEST_FILE);
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(&text)?;
        file.sync_all()?;
        for entry in fs::read_dir(staged)? {
            let path = entry?.path();
            if path.is_dir() {
                File::open(path)?.sync_all()?;
            }
        }
        File::open(staged)?.sync_all()?;
        Ok(pack::sum_of_bytes(&text))
    }

    /// Beside somebody who writes to the store, what takes long yields to everybody. Errs when `work` does, or the system gives no thread.
    fn quietly<T: Send>(
        &self,
        work: impl Fn(&AtomicBool) -> io::Result<T> + Send + Sync,
    ) -> io::Result<T> {
        let held = moment::is_held(self.context, HOLDERS_AGE_MAX);
        let quiet = if held { Quiet::Idle } else { Quiet::Nice };
        quietly(quiet, &self.steps.flag(), work)?
    }

    fn manifest(&self, copied: &Copied) -> Manifest {
        Manifest {
            format: FORMAT,
            made_by: format!("chroma_exporter {}", crate::VERSION),
            host: self.host.clone(),
            store: self.store.clone(),
            moment: copied.taken.moment,
            opened_by: copied.proven.opened_by.clone(),
            files: copied.files.clone(),
            collections: copied.proven.collections.clone(),
            proof: Some(copied.proven.proof.clone()),
        }
    }

    /// What may be needed in the destination while it is made: the copy, and beside it the archive.
    /// Errs when the database or the directory cannot be read.
    fn need_bytes(&self) -> io::Result<u64> {
        let place = self.context.place();
        let database = self.context.database.stamp()?.size_bytes;
        let mut bytes = database;
        for entry in fs::read_dir(place.dir())? {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_str().is_none_or(|name| parse_uuid(name.as_bytes()).is_none()) {
                continue;
            }
            for file in INDEX_FILES {
                let path = place.at(Path::new(&name).join(file))?;
                let taken =
                    fs::metadata(&path).map_or(0, |meta| meta.len().min(meta.blocks() * 512));
                bytes = bytes.saturating_add(taken);
            }
        }
        Ok(if self.order.form == Form::Archive { bytes.saturating_mul(2) } else { bytes })
    }

    fn unreadable(&self, source: io::Error) -> BackupError {
        let path = self.context.database.path().to_owned();
        BackupError::Moment(if source.kind() == io::ErrorKind::NotFound {
            MomentError::NoDatabase { path }
        } else {
            MomentError::File { path, source }
        })
    }

    /// A name that nothing has: two backups of one second are a second apart, and the later one has the later name.
    /// Errs when the directory cannot be read, or no name is free.
    fn free_name(&self) -> io::Result<String> {
        let soon = self.now.plus(Duration::from_secs(NAMES_MAX));
        let second = Duration::from_secs(1);
        let next = self.place.newest_before(soon)?.map(|newest| newest.plus(second));
        let first = next.map_or(self.now, |next| next.max(self.now));
        for later in 0..NAMES_MAX {
            let moment = first.plus(Duration::from_secs(later));
            let both = [Form::Archive, Form::Directory]
                .map(|form| names::name_of(&self.place.directory, moment, form));
            let taken = |name: &String| fs::symlink_metadata(self.place.dir.join(name)).is_ok();
            if !both.iter().any(taken) {
                return Ok(names::name_of(&self.place.directory, moment, self.order.form));
            }
        }
        Err(io::Error::other("no free name was found"))
    }

    /// The same name in another form.
    fn named(&self, form: Form, name: &str) -> String {
        let moment = names::parse(name, &self.place.directory).map(|(moment, _)| moment);
        names::name_of(&self.place.directory, moment.unwrap_or(self.now), form)
    }

    /// The program gets the manifest of an archive in a file, as long as it runs.
    fn run_after(&self, after: &After, done: &Done) -> Ran {
        let path = done.path.to_string_lossy().into_owned();
        let mut hidden = None;
        let manifest = if done.form == Form::Directory {
            done.path.join(MANIFEST_FILE)
        } else {
            let name = done.path.file_name().unwrap_or_default().to_string_lossy();
            let beside = self.place.dir.join(names::partial(&name));
            if let Err(error) = fs::write(&beside, done.manifest.to_json()) {
                tracing::warn!(%error, "The program after a backup gets no file with its manifest.");
            }
            hidden = Some(Hidden(beside.clone()));
            beside
        };
        let manifest = manifest.to_string_lossy().into_owned();
        let about = About { path: &path, manifest: &manifest, sha256: &done.sha256 };
        let ran = after::run(after, about, self.steps);
        drop(hidden);
        ran
    }
}

fn pack_content(
    archive: &Path,
    room: u64,
    staged: &Path,
    taken: &Taken,
    stop: &AtomicBool,
) -> io::Result<Content> {
    let out = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(archive)?;
    pack::content(&out, room, staged, &taken.files, taken.moment, stop)
}

/// What was proven of a backup with the same bytes, by this very program.
fn proven_before(manifest: &Manifest) -> Option<Proven> {
    let proof = manifest.proof.clone()?;
    let same = proof.by == format!("chroma_exporter {}", crate::VERSION);
    (same && proof.restores == Restores::Whole).then(|| Proven {
        proof,
        collections: manifest.collections.clone(),
        opened_by: manifest.opened_by.clone(),
        findings: Vec::new(),
        losses: Vec::new(),
    })
}

/// How old the knowledge may be that nobody holds the store.
const HOLDERS_AGE_MAX: Duration = Duration::from_secs(5);
const NAMES_MAX: u64 = 3600;
const STOP_EVERY: Duration = Duration::from_millis(50);
