//! Follows log files through rotation. A file is known by device and inode and by what stands before the position that
//! was read to: its first bytes and its last ones. So a file that was renamed goes on where it was, one that was emptied
//! begins anew, and the copy that `copytruncate` made before it emptied the file gives the lines that were not read yet
//! and none that was.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    collectors::{CollectError, Run},
    format::{
        hash::{FNV_START, fnv1a},
        log::{LINE_BYTES_MAX, Scanner},
    },
    host::{links, processes::FileId},
    store::database::is_absent,
};

/// The files of one store, and how far each was read.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Tail {
    files: Vec<Followed>,
    /// Patterns whose files were seen: one that appears later under such a pattern is new from its first byte.
    known_patterns: Vec<String>,
}

/// One file.
#[derive(Debug, Serialize, Deserialize)]
struct Followed {
    id: FileId,
    /// Where it was seen last.
    path: PathBuf,
    position: Position,
    /// When it last grew.
    grew: Timestamp,
    /// Kept open while it may grow, so that nothing is lost when it loses its name.
    #[serde(skip)]
    file: Option<File>,
    /// Whether it fits a pattern now.
    #[serde(skip)]
    fits: bool,
    #[serde(skip)]
    size: u64,
    /// Its size a run ago; `None` in the first run of this process.
    #[serde(skip)]
    size_before: Option<u64>,
}

/// How far a file was read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Position {
    offset: u64,
    /// The line at `offset` was begun before it and has been judged.
    in_line: bool,
    /// The first bytes, as long as they lie before `offset`.
    head: Print,
    /// The last bytes before `offset`.
    tail: Print,
}

/// Length and hash of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Print {
    len: u16,
    hash: u64,
}

impl Print {
    fn of(bytes: &[u8]) -> Self {
        let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        Self { len, hash: fnv1a(FNV_START, bytes.iter().copied()) }
    }

    /// Whether the same bytes stand at `offset`. Errs when it cannot be read.
    fn stands_at(self, file: &File, offset: u64) -> io::Result<bool> {
        let mut bytes = vec![0; usize::from(self.len)];
        let read = read_full(file, &mut bytes, offset)?;
        Ok(read == bytes.len() && Self::of(&bytes) == self)
    }
}

impl Position {
    /// Whether `file` holds what was read before this position. Errs when it cannot be read.
    fn fits(&self, file: &File, size: u64) -> io::Result<bool> {
        Ok(size >= self.offset
            && self.head.stands_at(file, 0)?
            && self.tail.stands_at(file, self.offset - u64::from(self.tail.len))?)
    }

    /// The end of `file`, whose last line may be unfinished. Errs when it cannot be read.
    fn end_of(file: &File, size: u64) -> io::Result<Self> {
        let mut last = [b'\n'];
        if size > 0 {
            read_full(file, &mut last, size - 1)?;
        }
        let mut end = Self { offset: size, in_line: last != *b"\n", ..Self::default() };
        end.take_prints(file)?;
        Ok(end)
    }

    fn take_prints(&mut self, file: &File) -> io::Result<()> {
        let head_len = self.offset.min(HEAD_BYTES);
        if u64::from(self.head.len) < head_len {
            let mut bytes = vec![0; usize::try_from(head_len).unwrap_or(0)];
            read_full(file, &mut bytes, 0)?;
            self.head = Print::of(&bytes);
        }
        let tail_len = self.offset.min(TAIL_BYTES);
        let mut bytes = vec![0; usize::try_from(tail_len).unwrap_or(0)];
        read_full(file, &mut bytes, self.offset - tail_len)?;
        self.tail = Print::of(&bytes);
        Ok(())
    }
}

/// A file that fits a pattern now.
struct Present {
    id: FileId,
    path: PathBuf,
    file: File,
    size: u64,
    /// It fits only patterns that are looked at for the first time.
    old: bool,
}

/// What one run came to, beside the lines.
#[derive(Debug, Default)]
pub(super) struct Look {
    pub(super) problems: Vec<CollectError>,
    /// The name of the last file that had a line of note.
    pub(super) noted_in: Option<PathBuf>,
}

impl Tail {
    /// Reads what was appended to the files of `patterns` since the run before, at most [`BYTES_MAX`] of it, and gives
    /// it to `scanner`. A file that is there at the first look at its pattern is read from its end. Targets of links begin at
    /// `root`.
    pub(super) fn read(
        &mut self,
        patterns: &[String],
        root: &Path,
        run: &Run,
        scanner: &mut Scanner,
    ) -> Look {
        let mut look = Look::default();
        let present = self.present(patterns, root, &mut look.problems);
        for followed in &mut self.files {
            followed.fits = false;
        }
        let mut new = Vec::new();
        for present in present {
            match self.files.iter_mut().find(|followed| followed.id == present.id) {
                Some(followed) => {
                    followed.fits = true;
                    followed.seen(present);
                }
                None => new.push(present),
            }
        }
        let mut copies = Vec::new();
        for followed in &mut self.files {
            match followed.check(run.now) {
                Ok(Some(position)) => match followed.copy(position, run.now) {
                    Ok(copy) => copies.extend(copy),
                    Err(problem) => look.problems.push(problem),
                },
                Ok(None) => {}
                Err(problem) => look.problems.push(problem),
            }
        }
        for copy in copies {
            self.add(copy);
        }
        for present in new {
            self.begin(present, run.now, &mut look.problems);
        }
        let share = BYTES_MAX / u64::try_from(self.files.len().max(1)).unwrap_or(u64::MAX);
        for followed in &mut self.files {
            let before = scanner.counts;
            scanner.begin_file();
            if let Err(source) = followed.read_on(share, run, scanner) {
                look.problems.push(unreadable(&followed.path, source));
            }
            if scanner.counts != before {
                look.noted_in = Some(followed.path.clone());
            }
        }
        self.files.retain_mut(|followed| followed.goes_on(run.now));
        look
    }

    /// Files that are followed.
    pub(super) fn count(&self) -> usize {
        self.files.len()
    }

    /// Bytes of them that were not read yet.
    pub(super) fn unread_bytes(&self) -> u64 {
        let unread = |followed: &Followed| followed.size.saturating_sub(followed.position.offset);
        self.files.iter().map(unread).fold(0, u64::saturating_add)
    }

    /// Differs when something other than a position changed.
    pub(super) fn shape(&self) -> u64 {
        let words = self.files.iter().flat_map(|f| [f.id.device, f.id.inode]);
        fnv1a(FNV_START, words.flat_map(u64::to_le_bytes))
    }

    fn present(
        &mut self,
        patterns: &[String],
        root: &Path,
        problems: &mut Vec<CollectError>,
    ) -> Vec<Present> {
        let mut found: Vec<Present> = Vec::new();
        let mut known = Vec::new();
        for pattern in patterns {
            let old = !self.known_patterns.contains(pattern);
            // The configuration refuses patterns that are none.
            let Ok(paths) = glob::glob(&links::follow_pattern(root, pattern)) else { continue };
            let (mut any, mut readable) = (false, true);
            for path in paths.take(ENTRIES_MAX) {
                let opened = match path {
                    Ok(path) if is_packed(&path) => continue,
                    Ok(path) => {
                        let path = links::placed(root, path);
                        open(&path).map_err(|source| unreadable(&path, source))
                    }
                    Err(error) => {
                        let path = error.path().to_owned();
                        Err(CollectError::Unreadable { path, source: error.into() })
                    }
                };
                match opened {
                    Ok(None) => continue,
                    Ok(Some(present)) => {
                        match found.iter_mut().find(|other| other.id == present.id) {
                            Some(other) => other.old &= old,
                            None => found.push(Present { old, ..present }),
                        }
                    }
                    Err(problem) => {
                        problems.push(problem);
                        readable = false;
                    }
                }
                any = true;
                if found.len() > FILES_MAX {
                    break;
                }
            }
            if !any {
                problems.push(CollectError::NoLog { pattern: pattern.clone() });
            }
            if found.len() > FILES_MAX {
                let (path, what) = (PathBuf::from(pattern), "log files");
                problems.push(CollectError::TooMany { path, what, bound: FILES_MAX });
                found.truncate(FILES_MAX);
                readable = false;
            }
            if readable || !old {
                known.push(pattern.clone());
            }
        }
        self.known_patterns = known;
        found
    }

    fn begin(&mut self, present: Present, now: Timestamp, problems: &mut Vec<CollectError>) {
        // While a copy is being made and the file is not emptied yet, it would be read a second time.
        if !present.old && self.files.iter().any(|followed| followed.is_copied_to(&present)) {
            return;
        }
        let position = if present.old {
            Position::end_of(&present.file, present.size)
        } else {
            Ok(Position::default())
        };
        match position {
            Ok(position) => {
                self.add(Followed { fits: true, ..Followed::at(present, position, now) });
            }
            Err(source) => problems.push(unreadable(&present.path, source)),
        }
    }

    /// Follows one more, unless it is known. When there are too many, the one that was quiet for longest is forgotten.
    fn add(&mut self, followed: Followed) {
        if self.files.iter().any(|other| other.id == followed.id) {
            return;
        }
        if self.files.len() >= 2 * FILES_MAX
            && let Some((index, _)) =
                self.files.iter().enumerate().filter(|(_, f)| !f.fits).min_by_key(|(_, f)| f.grew)
        {
            self.files.swap_remove(index);
        }
        self.files.push(followed);
    }
}

impl Followed {
    fn at(present: Present, position: Position, now: Timestamp) -> Self {
        Self {
            id: present.id,
            path: present.path,
            position,
            grew: now,
            file: Some(present.file),
            fits: false,
            size: present.size,
            size_before: None,
        }
    }

    fn seen(&mut self, present: Present) {
        self.path = present.path;
        self.file = Some(present.file);
    }

    /// Looks for the file where it may have been moved to, and whether it was emptied: gives the position before that.
    /// Errs when it cannot be read.
    fn check(&mut self, now: Timestamp) -> Result<Option<Position>, CollectError> {
        if self.file.is_none() && (self.size_before.is_none() || self.may_grow(now)) {
            let (found, refused) = siblings(&self.path);
            if let Some(present) = found.into_iter().find(|present| present.id == self.id) {
                self.seen(present);
            } else if let Some(refused) = refused.filter(|refused| refused.may_be(self.id)) {
                // The rest of its lines may stand in what may not be read.
                return Err(refused.problem());
            }
        }
        let Some(file) = &self.file else { return Ok(None) };
        let failed = |source| unreadable(&self.path, source);
        self.size = file.metadata().map_err(failed)?.len();
        if self.position.fits(file, self.size).map_err(failed)? {
            return Ok(None);
        }
        Ok(Some(std::mem::take(&mut self.position)))
    }

    /// The copy of this file that was made before it was emptied, to be read from where this one had been read to. Errs when
    /// it is not among what may be read, and something may not be read.
    fn copy(&self, position: Position, now: Timestamp) -> Result<Option<Self>, CollectError> {
        let holds = |present: &Present| {
            present.id != self.id && position.fits(&present.file, present.size).unwrap_or(false)
        };
        let (found, refused) = siblings(&self.path);
        match (found.into_iter().find(holds), refused) {
            (Some(copy), _) => Ok(Some(Self::at(copy, position, now))),
            (None, Some(refused)) => Err(refused.problem()),
            (None, None) => Ok(None),
        }
    }

    /// Whether `present` is called like a rotated form of this file and holds the same, as far as both go.
    fn is_copied_to(&self, present: &Present) -> bool {
        let Some(file) = &self.file else { return false };
        let len = self.size.min(present.size);
        let part = len.min(SAME_BYTES);
        let same = |offset: u64| {
            let mut bytes = [Vec::new(), Vec::new()];
            for (bytes, file) in bytes.iter_mut().zip([file, &present.file]) {
                bytes.resize(usize::try_from(part).unwrap_or(0), 0);
                if read_full(file, bytes, offset).ok() != Some(bytes.len()) {
                    return false;
                }
            }
            bytes[0] == bytes[1]
        };
        extends(&present.path, &self.path) && len > 0 && same(0) && same(len - part)
    }

    /// Reads at most `share` bytes, in whole lines. Errs when it cannot be read.
    fn read_on(&mut self, share: u64, run: &Run, scanner: &mut Scanner) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        // A last line without an end may still be growing; after a run without growth it is taken as it is.
        let settled = self.size_before == Some(self.size);
        if !settled {
            self.grew = run.now;
        }
        let start = self.position.offset;
        let mut chunk = vec![0; CHUNK_BYTES];
        while self.position.offset - start < share && !run.stopped() {
            let read = read_full(file, &mut chunk, self.position.offset)?;
            let last = read < CHUNK_BYTES && settled;
            let used = self.position.take_lines(&chunk[..read], last, scanner);
            self.position.offset += used;
            if used == 0 || read < CHUNK_BYTES {
                break;
            }
        }
        self.position.take_prints(file)
    }

    fn may_grow(&self, now: Timestamp) -> bool {
        now.since(self.grew) < QUIET_AFTER
    }

    /// Whether it is worth knowing any longer.
    fn goes_on(&mut self, now: Timestamp) -> bool {
        let size_before = self.size_before.replace(self.size);
        let Some(file) = &self.file else {
            return self.fits || now.since(self.grew) < FORGET_AFTER;
        };
        let deleted = file.metadata().is_ok_and(|meta| meta.nlink() == 0);
        if deleted && size_before == Some(self.size) {
            return false; // it cannot come back
        }
        if !self.may_grow(now) && self.position.offset >= self.size {
            self.file = None;
        }
        true
    }
}

impl Position {
    /// Gives the lines of `bytes` to `scanner`; how many bytes were used. `last`: nothing more comes for now, so a line
    /// without an end is taken too.
    fn take_lines(&mut self, bytes: &[u8], last: bool, scanner: &mut Scanner) -> u64 {
        let mut used = 0;
        while let Some(len) = bytes[used..].iter().position(|byte| *byte == b'\n') {
            if !std::mem::take(&mut self.in_line) {
                scanner.line(&bytes[used..used + len]);
            }
            used += len + 1;
        }
        let rest = &bytes[used..];
        // A line beyond every bound is judged by its beginning.
        if !rest.is_empty() && (last || self.in_line || rest.len() >= LINE_BYTES_MAX) {
            if !std::mem::replace(&mut self.in_line, true) {
                scanner.line(rest);
            }
            used = bytes.len();
        }
        u64::try_from(used).unwrap_or(u64::MAX)
    }
}

/// Opens a log file; `None` for a directory and for what vanished meanwhile. Errs when it cannot be opened, or is no regular file.
fn open(path: &Path) -> io::Result<Option<Present>> {
    // A pipe must not hold us up.
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).unwrap_or_default();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let meta = file.metadata()?;
    if meta.is_dir() {
        return Ok(None);
    }
    if !meta.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok(Some(Present { id: id(&meta), path: path.to_owned(), file, size: meta.len(), old: false }))
}

fn id(meta: &fs::Metadata) -> FileId {
    FileId { device: meta.dev(), inode: meta.ino() }
}

/// The files beside `path` whose names begin like its name, as those of rotated logs do, and one that may not be read.
fn siblings(path: &Path) -> (Vec<Present>, Option<Refused>) {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return (Vec::new(), None);
    };
    let name = name.as_encoded_bytes();
    let stem = name.iter().skip(1).position(|byte| *byte == b'.').map_or(name, |at| &name[..=at]);
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => return (Vec::new(), None),
        Err(error) => return (Vec::new(), Some(Refused { path: dir.to_owned(), id: None, error })),
    };
    let others = entries
        .take(ENTRIES_MAX)
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|other| other.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(stem)))
        .filter(|other| !is_packed(other))
        .take(FILES_MAX);
    let (mut found, mut refused) = (Vec::new(), None);
    for other in others {
        match open(&other) {
            Ok(present) => found.extend(present),
            // The one that is followed is told by its own name.
            Err(_) if other == path => {}
            Err(error) => {
                let id = fs::metadata(&other).ok().map(|meta| id(&meta));
                refused = Some(Refused { path: other, id, error });
            }
        }
    }
    (found, refused)
}

/// What may not be read of what lies beside a log.
struct Refused {
    path: PathBuf,
    /// `None` when not even that may be asked.
    id: Option<FileId>,
    error: io::Error,
}

impl Refused {
    /// Whether the file may be this, or in it.
    fn may_be(&self, id: FileId) -> bool {
        self.id.is_none_or(|own| own == id)
    }

    fn problem(self) -> CollectError {
        unreadable(&self.path, self.error)
    }
}

/// Whether `path` is called like `base` with something after it, in the same directory.
fn extends(path: &Path, base: &Path) -> bool {
    let name = |path: &Path| path.file_name().map(|n| n.as_encoded_bytes().to_vec());
    let (Some(name), Some(base_name)) = (name(path), name(base)) else { return false };
    // chroma.log.1, chroma.log-20261123, and chroma-20261123.log or chroma.1.log with an extension kept
    let stem = base.file_stem().map(|n| n.as_encoded_bytes().to_vec()).unwrap_or_default();
    path.parent() == base.parent()
        && name.len() > base_name.len()
        && (name.starts_with(&base_name)
            || (path.extension() == base.extension() && name.starts_with(&stem)))
}

fn is_packed(path: &Path) -> bool {
    let packed = |extension: &std::ffi::OsStr| PACKED.iter().any(|known| extension == *known);
    path.extension().is_some_and(packed)
}

fn read_full(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(more) => done += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

fn unreadable(path: &Path, source: io::Error) -> CollectError {
    CollectError::Unreadable { path: path.to_owned(), source }
}

/// Most bytes that one run reads of all files together; what is more waits for the next.
pub(super) const BYTES_MAX: u64 = 8 * 1024 * 1024;
/// A line may be cut by the end of a chunk and still be read whole in the next.
const CHUNK_BYTES: usize = 4 * LINE_BYTES_MAX;
/// Most files of one store at a time; as many again are remembered that fit no pattern any more.
pub(super) const FILES_MAX: usize = 128;
const ENTRIES_MAX: usize = 10_000;
/// More than the banner that every start of Chroma begins its log with.
const HEAD_BYTES: u64 = 4096;
const TAIL_BYTES: u64 = 512;
const SAME_BYTES: u64 = 4096;
/// A server may go on writing to a renamed log until it is told to open the new one.
const QUIET_AFTER: Duration = Duration::from_mins(5);
/// A file that is away for longer, with its filesystem for instance, is new when it comes back.
const FORGET_AFTER: Duration = Duration::from_hours(24);
const PACKED: [&str; 5] = ["gz", "xz", "zst", "bz2", "lz4"];
