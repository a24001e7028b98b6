//! Gives owner, group and mode back to the entries of a store that differ, and takes that back. What will be changed is
//! written beside the store before anything is. Every entry is opened without following a link, compared with what was
//! judged, and changed through that descriptor: whoever may write to the store leads nobody elsewhere.

use std::{
    ffi::OsStr,
    fmt,
    fs::{self, File},
    io::{self, Read},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{
            ffi::OsStrExt,
            fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
        },
    },
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid};
use serde::{Deserialize, Serialize};

use super::{hands::Hands, quarantine::stamp};
use crate::{
    clock::Timestamp,
    collectors::permissions::survey::{Owned, Survey},
    format::access::{TYPE_MASK, TYPE_REGULAR, TYPE_SYMLINK},
};

/// One entry, before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Below the store, empty for the directory itself.
    pub path: String,
    /// What it was.
    pub before: Owned,
    /// What it should be.
    pub after: Owned,
}

/// What is written beside the store.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    format: u32,
    store: PathBuf,
    at: String,
    changes: Vec<Change>,
}

/// What came of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is as it should be now.
    Changed,
    /// It was so already.
    AsItWas,
    /// It has gone.
    Gone,
    /// It was left as it is.
    Left(String),
}

/// What a run did.
#[derive(Debug)]
pub struct Done {
    /// The record of it; `None` when nothing was changed.
    pub record: Option<PathBuf>,
    /// Each entry, with what came of it.
    pub entries: Vec<(Change, Outcome)>,
}

impl Done {
    /// How many entries were changed.
    #[must_use]
    pub fn changed(&self) -> usize {
        self.entries.iter().filter(|(_, outcome)| *outcome == Outcome::Changed).count()
    }

    /// How many are not as they should be.
    #[must_use]
    pub fn left(&self) -> usize {
        self.entries.iter().filter(|(_, outcome)| matches!(outcome, Outcome::Left(_))).count()
    }
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum MendError {
    /// The directory cannot be opened.
    #[error("cannot open {}", .path.display())]
    Store {
        /// The directory.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// What would be changed cannot be written down.
    #[error("cannot write {}, which says what to undo", .path.display())]
    Record {
        /// The file.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// There is nothing to undo.
    #[error("nothing to undo: there is no {} beside the store", .pattern)]
    NoRecord {
        /// Names that were looked for.
        pattern: String,
    },
    /// The file is not what this program wrote.
    #[error("{} cannot be trusted: {why}", .path.display())]
    Untrusted {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
}

impl MendError {
    /// What to do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Store { .. } => "correct the path, or run it as root",
            Self::Record { .. } => {
                "nothing was changed; run it as root, and make room on that filesystem"
            }
            Self::NoRecord { .. } => "name the store by the path that was used with --apply",
            Self::Untrusted { .. } => {
                "nothing was changed; run it as the user who ran --apply, and look at the file"
            }
        }
    }
}

/// Changes what `survey` says of the store in `dir`, a path without links. The record is written first. Errs when nothing was
/// changed.
pub fn mend(dir: &Path, survey: &Survey, now: Timestamp) -> Result<Done, MendError> {
    let root = root(dir)?;
    let changes: Vec<Change> = survey
        .differences
        .iter()
        .filter(|one| one.to != one.is)
        .filter_map(|one| {
            let path = String::from_utf8(one.path.clone()).ok()?;
            Some(Change { path, before: one.is, after: one.to })
        })
        .collect();
    if changes.is_empty() {
        return Ok(Done { record: None, entries: Vec::new() });
    }
    let record = Record { format: FORMAT, store: dir.to_owned(), at: now.to_string(), changes };
    let written = write(dir, &record, now)?;
    let entries: Vec<(Change, Outcome)> = record
        .changes
        .into_iter()
        .map(|change| {
            let outcome = change_one(&root, &change, false);
            (change, outcome)
        })
        .collect();
    let mut done = Done { record: Some(written), entries };
    if done.changed() == 0
        && let Some(record) = done.record.take()
    {
        // It would be undone in place of one that did something.
        drop(fs::remove_file(record));
    }
    Ok(done)
}

/// Takes the newest record back that was not yet. What somebody has changed since is left. Errs when nothing was changed.
pub fn undo(dir: &Path) -> Result<Done, MendError> {
    let root = root(dir)?;
    let path = newest(dir)?;
    let record = read(dir, &path)?;
    // What lies in a folder first: it may be out of reach afterwards.
    let entries: Vec<(Change, Outcome)> = record
        .changes
        .into_iter()
        .rev()
        .map(|change| {
            let outcome = change_one(&root, &change, true);
            (change, outcome)
        })
        .collect();
    let done = Done { record: Some(path.clone()), entries };
    if done.left() > 0 {
        return Ok(done);
    }
    let mut undone = path.clone().into_os_string();
    undone.push(UNDONE);
    match fs::rename(&path, &undone) {
        Ok(()) => Ok(Done { record: Some(undone.into()), ..done }),
        Err(source) => Err(MendError::Record { path: undone.into(), source }),
    }
}

fn root(dir: &Path) -> Result<OwnedFd, MendError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, dir, flags, Mode::empty())
        .map_err(|errno| MendError::Store { path: dir.to_owned(), source: errno.into() })
}

fn change_one(root: &OwnedFd, change: &Change, back: bool) -> Outcome {
    let (from, to) =
        if back { (&change.after, &change.before) } else { (&change.before, &change.after) };
    let answer = open(root, &change.path).and_then(|entry| change_open(&entry, from, to, back));
    match answer {
        Ok(outcome) => outcome,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Outcome::Gone,
        Err(error) => Outcome::Left(match error.kind() {
            io::ErrorKind::PermissionDenied => format!("{error}; run it as root"),
            _ => error.to_string(),
        }),
    }
}

/// The entry itself, whatever it is, by folders that are no links.
/// Errs when one of them cannot be opened, or the path leads out of the store.
fn open(root: &OwnedFd, path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = root.try_clone()?;
    let mut parts = path.split('/').filter(|part| !part.is_empty()).peekable();
    while let Some(part) = parts.next() {
        if part == ".." {
            return Err(io::Error::other("the path leads out of the store"));
        }
        let folder = if parts.peek().is_some() { OFlags::DIRECTORY } else { OFlags::empty() };
        at = rustix::fs::openat(&at, part, flags | folder, Mode::empty())?;
    }
    Ok(at)
}

fn change_open(entry: &OwnedFd, from: &Owned, to: &Owned, back: bool) -> io::Result<Outcome> {
    let (is, names) = owned(entry)?;
    if is == *to {
        return Ok(Outcome::AsItWas);
    }
    // A run that was cut off left owners of one side and modes of the other.
    let one_of = |is: u32, from: u32, to: u32| is == from || back && is == to;
    let bits = |mode: u16| u32::from(mode & !0o6000);
    let same = is.mode & TYPE_MASK == to.mode & TYPE_MASK
        && one_of(is.uid, from.uid, to.uid)
        && one_of(is.gid, from.gid, to.gid)
        && if back {
            one_of(bits(is.mode), bits(from.mode), bits(to.mode))
        } else {
            is.mode == from.mode
        };
    if !same {
        return Ok(Outcome::Left(
            "somebody has changed it meanwhile; run the command again".to_owned(),
        ));
    }
    if names > 1 && is.mode & TYPE_MASK == TYPE_REGULAR {
        return Ok(Outcome::Left(
            "it has another name, perhaps outside the store (find / -xdev -samefile); change it by hand"
                .to_owned(),
        ));
    }
    if (is.uid, is.gid) != (to.uid, to.gid) {
        let uid = (is.uid != to.uid).then(|| Uid::from_raw(to.uid));
        let gid = (is.gid != to.gid).then(|| Gid::from_raw(to.gid));
        rustix::fs::chownat(entry, "", uid, gid, AtFlags::EMPTY_PATH)?;
    }
    // A change of the owner may have taken bits away.
    if owned(entry)?.0.mode != to.mode && to.mode & TYPE_MASK != TYPE_SYMLINK {
        // The descriptor itself, whatever its name leads to by now; fchmod refuses one that was opened like this.
        let through = format!("/proc/self/fd/{}", entry.as_fd().as_raw_fd());
        let mode = u32::from(to.mode & !TYPE_MASK);
        fs::set_permissions(through, fs::Permissions::from_mode(mode))?;
    }
    match owned(entry)?.0 {
        now if now == *to || to.mode & TYPE_MASK == TYPE_SYMLINK => Ok(Outcome::Changed),
        now => Ok(Outcome::Left(format!("the filesystem made {now} of it"))),
    }
}

/// What an open entry is, and how many names it has. Errs when the kernel does not say.
fn owned(entry: &OwnedFd) -> io::Result<(Owned, u64)> {
    let found = rustix::fs::statat(entry, "", AtFlags::EMPTY_PATH)?;
    let mode = u16::try_from(found.st_mode).map_err(io::Error::other)?;
    #[allow(clippy::useless_conversion, reason = "of another width on some machines")]
    let names = u64::from(found.st_nlink);
    Ok((Owned { uid: found.st_uid, gid: found.st_gid, mode }, names))
}

fn above(dir: &Path) -> &Path {
    dir.parent().unwrap_or(dir)
}

fn prefix(dir: &Path) -> Vec<u8> {
    [dir.file_name().unwrap_or_default().as_bytes(), MIDDLE.as_bytes()].concat()
}

fn write(dir: &Path, record: &Record, now: Timestamp) -> Result<PathBuf, MendError> {
    let (above, stamp) = (above(dir), stamp(now));
    let named = |number: u32| {
        let again = if number > 1 { format!("_{number}") } else { String::new() };
        let mut name = prefix(dir);
        name.extend(format!("{stamp}{again}{END}").into_bytes());
        above.join(OsStr::from_bytes(&name))
    };
    let taken = |path: &PathBuf| {
        let mut undone = path.clone().into_os_string();
        undone.push(UNDONE);
        fs::symlink_metadata(path).is_ok() || fs::symlink_metadata(undone).is_ok()
    };
    let path = (1..u32::MAX).map(named).find(|path| !taken(path)).unwrap_or_default();
    let failed = |source| MendError::Record { path: path.clone(), source };
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_str()
        .ok_or_else(|| failed(io::Error::other("the name of the directory is not UTF-8")))?;
    let bytes = serde_json::to_vec_pretty(record).map_err(|error| failed(error.into()))?;
    Hands::default().write_whole(above, name, &bytes).map_err(failed)?;
    Ok(path)
}

/// The newest record that was not undone. Errs when there is none, or the directory cannot be read.
fn newest(dir: &Path) -> Result<PathBuf, MendError> {
    let prefix = prefix(dir);
    let fits = |name: &[u8]| name.starts_with(&prefix) && name.ends_with(END.as_bytes());
    let pattern =
        || MendError::NoRecord { pattern: format!("{}*{END}", String::from_utf8_lossy(&prefix)) };
    let entries = fs::read_dir(above(dir))
        .map_err(|source| MendError::Store { path: above(dir).to_owned(), source })?;
    let names = entries.filter_map(Result::ok).map(|entry| entry.file_name());
    let newest = names.filter(|name| fits(name.as_bytes())).max();
    Ok(above(dir).join(newest.ok_or_else(pattern)?))
}

/// Reads a record. One that somebody else could have written is not believed.
/// Errs when it cannot be read, or somebody else could have written it.
fn read(dir: &Path, path: &Path) -> Result<Record, MendError> {
    let untrusted = |why: String| MendError::Untrusted { path: path.to_owned(), why };
    let of_system = |error: io::Error| untrusted(error.to_string());
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let flags = i32::try_from(flags.bits()).map_err(|error| untrusted(error.to_string()))?;
    let mut file: File =
        fs::OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(of_system)?;
    let meta = file.metadata().map_err(of_system)?;
    let me = rustix::process::geteuid().as_raw();
    if !meta.is_file() || meta.len() > RECORD_BYTES_MAX {
        return Err(untrusted("it is no file of this program".to_owned()));
    }
    if meta.uid() != me && meta.uid() != 0 || meta.mode() & 0o022 != 0 {
        return Err(untrusted(format!(
            "it belongs to uid {} with mode {:04o}, and this runs as uid {me}",
            meta.uid(),
            meta.mode() & 0o7777
        )));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(of_system)?;
    let record: Record =
        serde_json::from_slice(&bytes).map_err(|error| untrusted(error.to_string()))?;
    if record.format != FORMAT {
        return Err(untrusted(format!("its form is {}, and {FORMAT} is known", record.format)));
    }
    if record.store != dir {
        return Err(untrusted(format!("it is of {}", record.store.display())));
    }
    Ok(record)
}

impl fmt::Display for Owned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}:{}", crate::format::access::mode_text(self.mode), self.uid, self.gid)
    }
}

const FORMAT: u32 = 1;
/// Between the name of the store and the moment.
const MIDDLE: &str = ".permissions.";
const END: &str = ".json";
/// What is put behind the name of a record that was taken back.
const UNDONE: &str = ".undone";
/// Some hundred bytes for each of the entries that are listed.
const RECORD_BYTES_MAX: u64 = 64 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::collectors::permissions::survey::{Difference, Policy, Reason};

    fn facts(path: &Path) -> Owned {
        let meta = fs::symlink_metadata(path).unwrap();
        Owned { uid: meta.uid(), gid: meta.gid(), mode: u16::try_from(meta.mode()).unwrap() }
    }

    fn store() -> (tempfile::TempDir, PathBuf) {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().canonicalize().unwrap().join("chroma");
        fs::create_dir_all(dir.join("folder")).unwrap();
        for name in ["chroma.sqlite3", "folder/header.bin"] {
            fs::write(dir.join(name), "x").unwrap();
            fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o444)).unwrap();
        }
        (scratch, dir)
    }

    fn difference(dir: &Path, path: &str, mode: u16) -> Difference {
        let is = facts(&dir.join(path));
        let to = Owned { mode: is.mode & TYPE_MASK | mode, ..is };
        let reasons = vec![Reason::Drifted];
        Difference { path: path.into(), is, to, reasons, rest: None }
    }

    fn survey(differences: Vec<Difference>) -> Survey {
        Survey { policy: Policy::Unknown, entries: 4, differences, more: 0, problems: Vec::new() }
    }

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_secs(secs)
    }

    #[test]
    fn what_was_changed_is_written_and_taken_back() {
        let (_scratch, dir) = store();
        let paths = ["", "chroma.sqlite3", "folder/header.bin"].map(|path| dir.join(path));
        let before = paths.clone().map(|path| facts(&path));
        let wanted = [("", 0o700), ("chroma.sqlite3", 0o600), ("folder/header.bin", 0o640)];
        let found = wanted.map(|(path, mode)| difference(&dir, path, mode)).to_vec();
        let after: Vec<Owned> = found.iter().map(|one| one.to).collect();
        let done = mend(&dir, &survey(found), at(0)).unwrap();
        assert_eq!((done.changed(), done.left()), (3, 0), "{done:?}");
        assert_eq!(paths.clone().map(|path| facts(&path)).to_vec(), after);
        let record = done.record.unwrap();
        assert_eq!(record, dir.with_file_name("chroma.permissions.19700101_000000.json"));
        // A run that was cut off before it came to one of them.
        fs::set_permissions(&paths[1], fs::Permissions::from_mode(0o444)).unwrap();
        let undone = undo(&dir).unwrap();
        assert_eq!((undone.changed(), undone.left()), (2, 0), "{undone:?}");
        assert_eq!(paths.map(|path| facts(&path)), before);
        assert!(!record.exists());
        assert!(matches!(undo(&dir), Err(MendError::NoRecord { .. })));
    }

    #[test]
    fn two_runs_in_one_second_are_undone_one_after_the_other() {
        let (_scratch, dir) = store();
        let file = dir.join("chroma.sqlite3");
        for mode in [0o600, 0o640] {
            let found = difference(&dir, "chroma.sqlite3", mode);
            assert_eq!(mend(&dir, &survey(vec![found]), at(0)).unwrap().changed(), 1);
        }
        for mode in [0o600, 0o444] {
            assert_eq!(undo(&dir).unwrap().changed(), 1);
            assert_eq!(facts(&file).mode & 0o7777, mode);
        }
    }

    #[test]
    fn nothing_is_reached_through_a_link_or_by_another_name() {
        let (scratch, dir) = store();
        let outside = scratch.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("header.bin"), "secret").unwrap();
        fs::set_permissions(outside.join("header.bin"), fs::Permissions::from_mode(0o444)).unwrap();
        let before = facts(&outside.join("header.bin"));
        // Judged as a folder, and a link when its turn comes; the same for the file itself; and a second name.
        let judged = [
            difference(&dir, "folder/header.bin", 0o666),
            difference(&dir, "chroma.sqlite3", 0o666),
        ];
        fs::rename(dir.join("folder"), dir.join("old")).unwrap();
        symlink(&outside, dir.join("folder")).unwrap();
        fs::remove_file(dir.join("chroma.sqlite3")).unwrap();
        symlink(outside.join("header.bin"), dir.join("chroma.sqlite3")).unwrap();
        fs::hard_link(outside.join("header.bin"), dir.join("named")).unwrap();
        let named = difference(&dir, "named", 0o666);
        let all = [judged.to_vec(), vec![named]].concat();
        let done = mend(&dir, &survey(all), at(0)).unwrap();
        assert_eq!((done.changed(), done.left()), (0, 3), "{done:?}");
        assert_eq!(facts(&outside.join("header.bin")), before);
        // Nothing was done: there is nothing to undo.
        assert_eq!(done.record, None);
        assert!(matches!(undo(&dir), Err(MendError::NoRecord { .. })));
    }

    #[test]
    fn what_changed_since_is_left_and_what_is_gone_is_no_failure() {
        let (_scratch, dir) = store();
        let found = [
            difference(&dir, "chroma.sqlite3", 0o600),
            difference(&dir, "folder/header.bin", 0o600),
        ];
        fs::set_permissions(dir.join("chroma.sqlite3"), fs::Permissions::from_mode(0o640)).unwrap();
        fs::remove_file(dir.join("folder/header.bin")).unwrap();
        let done = mend(&dir, &survey(found.to_vec()), at(0)).unwrap();
        let outcomes: Vec<&Outcome> = done.entries.iter().map(|(_, outcome)| outcome).collect();
        assert!(matches!(outcomes[..], [Outcome::Left(_), Outcome::Gone]), "{outcomes:?}");
        assert_eq!(facts(&dir.join("chroma.sqlite3")).mode & 0o7777, 0o640);
    }

    #[test]
    fn a_record_of_somebody_else_is_not_believed() {
        let (_scratch, dir) = store();
        let change = Change {
            path: "../../etc/passwd".to_owned(),
            before: facts(&dir),
            after: facts(&dir.join("folder")),
        };
        let whole = |store: &Path, format| Record {
            format,
            store: store.to_owned(),
            at: String::new(),
            changes: vec![change.clone()],
        };
        let path = dir.with_file_name("chroma.permissions.19700101_000000.json");
        let put = |record: &Record, mode: u32| {
            fs::write(&path, serde_json::to_vec(record).unwrap()).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        for (store, format, mode) in
            [(&*dir, FORMAT, 0o666), (&*dir, FORMAT + 1, 0o600), (Path::new("/x"), FORMAT, 0o600)]
        {
            put(&whole(store, format), mode);
            assert!(matches!(undo(&dir), Err(MendError::Untrusted { .. })), "{format} {mode:o}");
        }
        fs::write(&path, "{").unwrap();
        assert!(matches!(undo(&dir), Err(MendError::Untrusted { .. })));
        // Even one of ours leads nowhere else.
        put(&whole(&dir, FORMAT), 0o600);
        let done = undo(&dir).unwrap();
        assert!(
            matches!(&done.entries[0].1, Outcome::Left(why) if why.contains("out of the store"))
        );
        fs::remove_file(&path).unwrap();
        symlink("/etc/passwd", &path).unwrap();
        assert!(matches!(undo(&dir), Err(MendError::Untrusted { .. })));
    }

    #[test]
    fn without_a_place_for_the_record_nothing_is_changed() {
        let (_scratch, dir) = store();
        let found = difference(&dir, "chroma.sqlite3", 0o600);
        fs::create_dir(dir.with_file_name("chroma.permissions.19700101_000000.json.new")).unwrap();
        let refused = mend(&dir, &survey(vec![found]), at(0)).unwrap_err();
        assert!(matches!(refused, MendError::Record { .. }), "{refused}");
        assert_eq!(facts(&dir.join("chroma.sqlite3")).mode & 0o7777, 0o444);
    }
}
