//! The full walk over the files of one folder: every byte that Chroma would load, a piece at a time.

use std::{
    cell::Cell,
    collections::HashSet,
    fs::File,
    io,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use rustix::fs::{Advice, fadvise};
use serde::{Deserialize, Serialize};

use super::directory::{FileStat, Folder, Part};
use crate::{
    clock,
    findings::ITEMS_BYTES_MAX,
    format::{
        hnsw::{
            Header, LabelProblems, Labels, LengthWalk, Level0Walk, LinkWalk, Pair, ReadableWalk,
            Shape,
        },
        pickle::{self, Metadata, PickleError, ReadError},
    },
    host::{
        links::Place,
        priority::{self, Quiet},
        processes::FileId,
    },
    progress::Progress,
    store::{
        database::{Stamp, open_bytes, read_up_to},
        holes::Holes,
    },
};

/// How it reads.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadMode<'a> {
    /// Set when nobody wants the answer any more.
    pub(super) stop: &'a AtomicBool,
    /// Rests as long as it reads: somebody else uses the disk too.
    pub(super) gentle: bool,
    /// Told how far it is.
    pub(super) progress: &'a Progress,
}

impl ReadMode<'_> {
    /// Whether nobody wants the answer any more, or the store has had all the work that it may have in a day.
    pub(super) fn is_over(self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.progress.is_used_up()
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Refused {
    /// The files changed meanwhile, or one of them is gone.
    Changed,
    /// Nobody wants it any more.
    Stopped,
    /// The operating system refused.
    Io(Part, io::Error),
}

/// What `index_metadata.pickle` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum MetadataState {
    /// Not there, or without bytes.
    Absent,
    Sound(Metadata),
    /// Would call code; what, and where.
    Hostile(String),
    Invalid(String),
}

/// What a walk found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Walked {
    pub(super) metadata: MetadataState,
    /// The first thing wrong in each file, and how many more.
    pub(super) damage: Vec<(Part, String)>,
    /// Whether `link_lists.bin` ends in the middle.
    pub(super) cut: bool,
    /// Elements marked as deleted.
    pub(super) deleted: u64,
    pub(super) labels: LabelProblems,
    /// How much of `data_level0.bin` can be read all the same; `None` when that was not looked for, or cannot be told.
    #[serde(default)]
    pub(super) readable: Option<Readable>,
}

/// Vectors that can be read out of `data_level0.bin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Readable {
    pub(super) vectors: u64,
    /// Ids of the metadata, each of which has one; `None` when these cannot be read.
    pub(super) ids: Option<u64>,
}

/// Reads an index in the background of everybody else, as far as that is worth a thread. `parts` are what is read of it. `work`
/// reads in the mode that it is given. Errs when `work` does.
pub(super) fn quietly<T: Send>(
    folder: &Folder,
    parts: &[Part],
    mode: ReadMode<'_>,
    mut work: impl FnMut(ReadMode<'_>) -> Result<T, Refused> + Send,
) -> Result<T, Refused> {
    let sizes = parts.iter().filter_map(|part| folder.file(*part)).map(|file| file.size_bytes);
    let quiet = match sizes.fold(0, u64::saturating_add) {
        ..SHORT_BYTES => return work(mode),
        SHORT_BYTES..LONG_BYTES => Quiet::Nice,
        LONG_BYTES.. => Quiet::Idle,
    };
    let done = priority::quietly(quiet, mode.stop, |stop| work(ReadMode { stop, ..mode }));
    done.unwrap_or_else(|error| Err(Refused::Io(parts[0], error)))
}

/// Ids and labels of a metadata file; none when there is none that can be read. Errs when the run was stopped, or the files
/// changed at each reading.
pub(super) fn metadata(
    root: &Place,
    folder: &Folder,
    mode: ReadMode<'_>,
) -> Result<(MetadataState, Vec<Pair>), Refused> {
    let part = Part::Metadata;
    let Some(source) = Pieces::of_metadata(root, folder, mode)? else {
        return Ok((MetadataState::Absent, Vec::new()));
    };
    let mut pairs = Vec::new();
    let mut overflown = false;
    let found = pickle::read(source, pickle::Limits::default(), &mut |id, label| {
        if pairs.len() < PAIRS_MAX {
            pairs.push(Pair { label, id });
        } else {
            overflown = true;
        }
    });
    if overflown {
        let error = io::Error::other(format!("it names more than {PAIRS_MAX} ids"));
        return Err(Refused::Io(part, error));
    }
    let state = match found {
        Ok(metadata) => MetadataState::Sound(metadata),
        Err(_) if mode.is_over() => {
            return Err(Refused::Stopped);
        }
        Err(ReadError::Source(error)) => return Err(Refused::Io(part, error)),
        Err(ReadError::Content(error @ PickleError::Hostile { .. })) => {
            MetadataState::Hostile(error.to_string())
        }
        Err(ReadError::Content(error)) => MetadataState::Invalid(error.to_string()),
    };
    if !matches!(state, MetadataState::Sound(_)) {
        pairs.clear();
    }
    Ok((state, pairs))
}

/// The ids of a metadata file that have these hashes, in its order, as far as a finding has room for them. Errs when the
/// file cannot be read.
pub(super) fn names(
    root: &Place,
    folder: &Folder,
    mut wanted: HashSet<u64>,
    mode: ReadMode<'_>,
) -> Result<Vec<String>, Refused> {
    let Some(source) = Pieces::of_metadata(root, folder, mode)? else { return Ok(Vec::new()) };
    let (mut names, mut bytes) = (Vec::new(), 0);
    let found = pickle::read_naming(source, pickle::Limits::default(), &mut |hash, text| {
        if bytes < ITEMS_BYTES_MAX && wanted.remove(&hash) {
            bytes += text.len();
            names.push(String::from_utf8_lossy(text).into_owned());
        }
    });
    match found {
        Ok(_) => Ok(names),
        Err(_) if mode.is_over() => Err(Refused::Stopped),
        Err(ReadError::Source(error)) => Err(Refused::Io(Part::Metadata, error)),
        // It was sound a moment ago.
        Err(_) => Err(Refused::Changed),
    }
}

/// The newest metadata file and its ids, whatever the other files are like. Comes again while Chroma writes it. Errs when it
/// cannot be read.
pub(super) fn newest_ids(
    root: &Place,
    folder: &Folder,
    mode: ReadMode<'_>,
) -> Result<(Metadata, Vec<Pair>), Refused> {
    let part = Part::Metadata;
    let now = || folder.clone().with_now(root, part).map_err(|error| Refused::Io(part, error));
    for _ in 0..TRIES_MAX {
        let before = now()?;
        match metadata(root, &before, mode) {
            Ok((MetadataState::Sound(metadata), pairs))
                if now()?.file(part) == before.file(part) =>
            {
                return Ok((metadata, pairs));
            }
            Ok(_) | Err(Refused::Changed) => std::thread::sleep(PAUSE),
            Err(refused) => return Err(refused),
        }
    }
    Err(Refused::Changed)
}

/// Walks over all files of `folder`, whose vectors have `dimension` numbers where that is known. Gives the ids of its metadata
/// with what was found. Errs when they changed at each reading, cannot be read, or the run was stopped.
pub(super) fn walk(
    root: &Place,
    folder: &Folder,
    dimension: Option<u64>,
    mode: ReadMode<'_>,
) -> Result<(Walked, Vec<Pair>), Refused> {
    let (metadata, pairs) = metadata(root, folder, mode)?;
    let mut walked = Walked {
        metadata,
        damage: Vec::new(),
        cut: false,
        deleted: 0,
        labels: LabelProblems::default(),
        readable: None,
    };
    let Some(header) = folder.sound_header() else {
        walked.readable = readable(root, folder, &walked.metadata, &pairs, dimension, mode)?;
        return Ok((walked, pairs));
    };
    // Elements without metadata are a first flush that did not come to its end: there is nothing to hold them against.
    let total = match &walked.metadata {
        MetadataState::Sound(metadata) => Some(metadata.total_elements_added),
        _ => None,
    };
    let mut labels = Labels::new(pairs, total.unwrap_or(0));
    let mut level0 = Level0Walk::new(header);
    let level0_hole = each_piece(
        root,
        folder,
        Part::Level0,
        mode,
        || 0,
        |piece| {
            level0.push(piece, &mut |element| {
                if total.is_some() {
                    labels.note(element);
                }
            });
            level0.done()
        },
    )?;
    walked.deleted = level0.deleted();
    let mut damage = |part, line: Option<String>| {
        walked.damage.extend(line.map(|line| (part, line)));
    };
    let hole = hollow(folder, Part::Level0, level0_hole);
    damage(Part::Level0, hole.or_else(|| level0.problems().line()));
    let mut lengths = LengthWalk::new(&header);
    let lengths_hole = each_piece(
        root,
        folder,
        Part::Lengths,
        mode,
        || 0,
        |piece| {
            lengths.push(piece);
            lengths.done()
        },
    )?;
    let hole = hollow(folder, Part::Lengths, lengths_hole);
    damage(Part::Lengths, hole.or_else(|| lengths.problems().line()));
    let (links, links_hole) = links(root, folder, header, mode)?;
    let hole = hollow(folder, Part::Links, links_hole);
    damage(Part::Links, hole.or_else(|| links.problems().line()));
    walked.cut = links.cut();
    let (found, pairs) = labels.finish();
    if total.is_some() && level0.done() {
        walked.labels = found;
    }
    // Only what is whole is known to hold what the header states.
    if !level0.done() || level0.problems().count() > 0 {
        walked.readable = readable(root, folder, &walked.metadata, &pairs, dimension, mode)?;
    } else if total.is_some() {
        let ids = pairs.len() as u64;
        let vectors = ids.saturating_sub(walked.labels.without_element);
        walked.readable = Some(Readable { vectors, ids: Some(ids) });
    }
    Ok((walked, pairs))
}

/// Counts the vectors that can be read whatever the header says. `None` when it cannot be told where they stand.
/// Errs when the file cannot be read, changes meanwhile, or the run was stopped.
fn readable(
    root: &Place,
    folder: &Folder,
    metadata: &MetadataState,
    pairs: &[Pair],
    dimension: Option<u64>,
    mode: ReadMode<'_>,
) -> Result<Option<Readable>, Refused> {
    let Some(file) = folder.file(Part::Level0) else { return Ok(None) };
    let known = match metadata {
        MetadataState::Sound(metadata) => Some(metadata),
        _ => None,
    };
    let ids = known.map(|_| pairs.len() as u64);
    if !file.regular || file.size_bytes == 0 || folder.pointers().contains(&Part::Level0.name()) {
        let vectors = 0;
        return Ok(file.regular.then_some(Readable { vectors, ids }));
    }
    let labels: Option<Vec<u64>> = known.map(|_| {
        let mut labels: Vec<u64> = pairs.iter().map(|pair| pair.label).collect();
        labels.sort_unstable();
        labels
    });
    let mut walk = None;
    let (mut first, mut unknown) = (true, false);
    // Elements of zeros are none.
    let element = Cell::new(0);
    each_piece(
        root,
        folder,
        Part::Level0,
        mode,
        || element.get(),
        |piece| {
            if std::mem::take(&mut first) {
                let dimension = known.and_then(|known| known.dimensionality).or(dimension);
                let given = |label: u64| match &labels {
                    Some(labels) => labels.binary_search(&label).is_ok(),
                    None => (1..=u64::from(u32::MAX)).contains(&label),
                };
                let shape = match folder.sound_header() {
                    Some(header) => Shape::of(&header),
                    None => dimension.and_then(|dimension| Shape::guess(piece, dimension, given)),
                };
                element.set(shape.as_ref().map_or(1, |shape| shape.element_bytes() as u64));
                walk = shape.map(|shape| ReadableWalk::new(shape, labels.clone()));
            }
            match &mut walk {
                Some(walk) => walk.push(piece),
                // Zeros have no shape, and hold nothing.
                None => unknown = piece.iter().any(|byte| *byte != 0),
            }
            unknown
        },
    )?;
    Ok((!unknown).then(|| Readable { vectors: walk.map_or(0, |walk| walk.count()), ids }))
}

fn links(
    root: &Place,
    folder: &Folder,
    header: Header,
    mode: ReadMode<'_>,
) -> Result<(LinkWalk, Option<u64>), Refused> {
    let mut links = LinkWalk::new(header);
    let hole = each_piece(
        root,
        folder,
        Part::Links,
        mode,
        || 0,
        |piece| {
            links.push(piece);
            links.done()
        },
    )?;
    links.finish(folder.file(Part::Links).map_or(0, |file| file.size_bytes));
    Ok((links, hole))
}

/// Hands the bytes of a file to `visit` until that has enough. A file that is not there has none. Of each hole so many bytes
/// are passed over as are a multiple of `unit()`; those that are not are zeros, of which [`HOLES_BYTES_MAX`] are handed out.
/// Gives where it ended because there were more. Errs when it cannot be read, was changed meanwhile, or it was stopped.
fn each_piece(
    root: &Place,
    folder: &Folder,
    part: Part,
    mode: ReadMode<'_>,
    unit: impl Fn() -> u64,
    mut visit: impl FnMut(&[u8]) -> bool,
) -> Result<Option<u64>, Refused> {
    let Some(stat) = folder.file(part).filter(|file| file.regular && file.size_bytes > 0) else {
        return Ok(None);
    };
    let file = open(root, folder, part, stat)?;
    let mut buffer =
        vec![0; PIECE_BYTES.min(usize::try_from(stat.size_bytes).unwrap_or(PIECE_BYTES))];
    let mut holes = Holes::of(&file);
    let (mut at, mut zeros) = (0, 0);
    while at < stat.size_bytes {
        if mode.is_over() {
            return Err(Refused::Stopped);
        }
        let began = clock::ticks();
        let hole = holes.data_from(at).min(stat.size_bytes).saturating_sub(at);
        let read = if hole > 0 {
            let unit = unit();
            let skipped = hole.checked_div(unit).unwrap_or(0) * unit;
            at += skipped;
            mode.progress.add(skipped);
            if zeros > HOLES_BYTES_MAX {
                return Ok(Some(at));
            }
            let left = usize::try_from(hole - skipped).unwrap_or(usize::MAX).min(buffer.len());
            buffer[..left].fill(0);
            zeros += left as u64;
            left
        } else {
            let read =
                read_up_to(&file, &mut buffer, at).map_err(|error| Refused::Io(part, error))?;
            if read == 0 {
                return Err(Refused::Changed); // it was cut meanwhile
            }
            read
        };
        at += read as u64;
        mode.progress.add(read as u64);
        if visit(&buffer[..read]) {
            break;
        }
        rest(mode, began.elapsed());
    }
    Ok(None)
}

/// What is wrong with a file that has a hole where elements should be.
fn hollow(folder: &Folder, part: Part, at: Option<u64>) -> Option<String> {
    let size = folder.file(part)?.size_bytes;
    at.map(|at| {
        format!("nothing was ever written to much of its {size} bytes, up to byte {at} at least")
    })
}

pub(super) fn rest(mode: ReadMode<'_>, worked: Duration) {
    // A walk of which nobody waits for the end gives its turn to others, and goes on where it was.
    let _goes_on = mode.progress.checkpoint(mode.stop);
    if mode.gentle {
        std::thread::sleep(worked.min(REST_MAX));
    }
}

/// Opens a file of a folder. Errs when it cannot be opened, or has gone.
pub(super) fn open(
    root: &Place,
    folder: &Folder,
    part: Part,
    stat: FileStat,
) -> Result<File, Refused> {
    let file = match folder.path(root, part).and_then(|path| open_bytes(&path)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Refused::Changed),
        Err(error) => return Err(Refused::Io(part, error)),
    };
    let meta = file.metadata().map_err(|error| Refused::Io(part, error))?;
    let now = Stamp::of(&meta);
    let same = same_file(now.id, stat.id) && now.size_bytes == stat.size_bytes && meta.is_file();
    if !same || now.modified != stat.modified {
        return Err(Refused::Changed);
    }
    // The kernel reads further ahead. Where it does not take advice, it only reads as it did.
    fadvise(&file, 0, None, Advice::Sequential).unwrap_or_default();
    Ok(file)
}

/// Devices are not compared: a file may say another one by `fstat` than by `stat` (overlayfs).
const fn same_file(a: FileId, b: FileId) -> bool {
    a.inode == b.inode
}

/// Errs when a file of `folder` is not as it was looked at.
pub(super) fn unchanged(root: &Place, folder: &Folder) -> Result<(), Refused> {
    for part in Part::ALL {
        let now = folder.path(root, part).and_then(std::fs::metadata);
        let same = match (now, folder.file(part)) {
            (Ok(now), Some(stat)) => {
                let now = Stamp::of(&now);
                now.size_bytes == stat.size_bytes && now.modified == stat.modified
            }
            (Err(error), None) => error.kind() == io::ErrorKind::NotFound,
            (Err(error), Some(_)) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Refused::Io(part, error));
            }
            _ => false,
        };
        if !same {
            return Err(Refused::Changed);
        }
    }
    Ok(())
}

/// A file that can be told to stop.
struct Pieces<'a> {
    file: File,
    at: u64,
    mode: ReadMode<'a>,
}

impl<'a> Pieces<'a> {
    /// The metadata of a folder, from its beginning; `None` when there is none that can be read.
    /// Errs when it cannot be opened, or was changed meanwhile.
    fn of_metadata(
        root: &Place,
        folder: &Folder,
        mode: ReadMode<'a>,
    ) -> Result<Option<Self>, Refused> {
        let part = Part::Metadata;
        let file = folder.file(part).filter(|file| file.regular && file.size_bytes > 0);
        let open = |file| open(root, folder, part, file);
        Ok(file.map(open).transpose()?.map(|file| Self { file, at: 0, mode }))
    }
}

impl pickle::Source for Pieces<'_> {
    type Error = io::Error;

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.mode.is_over() {
            return Err(io::Error::other("nobody wants it any more"));
        }
        let began = clock::ticks();
        let read = read_up_to(&self.file, buffer, self.at)?;
        self.at += read as u64;
        self.mode.progress.add(read as u64);
        rest(self.mode, began.elapsed());
        Ok(read)
    }
}

/// Small enough to be walked over before it leaves the processor's cache.
const PIECE_BYTES: usize = 256 << 10;
const REST_MAX: Duration = Duration::from_millis(20);
/// Less than this is read in a moment.
const SHORT_BYTES: u64 = 4 << 20;
/// So much takes about a second from a slow disk.
const LONG_BYTES: u64 = 64 << 20;

/// No index has so many zeros in a row, or in all, in front of the end of what its header states.
const HOLES_BYTES_MAX: u64 = 64 << 20;

/// A quarter of a gigabyte of ids. Chroma holds some ten times as much for each of them.
const PAIRS_MAX: usize = 16_000_000;

/// How often a metadata file that is being written is looked at again, and how soon.
const TRIES_MAX: u32 = 40;
const PAUSE: Duration = Duration::from_millis(50);
