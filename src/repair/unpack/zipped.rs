//! The files of a zip, as its directory names them. The directory is read as a stream: it may have a million entries.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
};

use flate2::{Crc, bufread::DeflateDecoder};

use super::{
    Cannot, UnpackError,
    sink::Sink,
    source::{Source, fill, stop},
};
use crate::{
    format::{
        archive::ZIP_TAIL_MAX,
        parts::{Named, Place},
        zip::{self, FILE_LEN, LOCAL_LEN},
    },
    repair::steps::Steps,
    store::database::read_up_to,
};

/// Unpacks what belongs to a store. Gives what is wrong with the archive, when something is.
/// Errs when it cannot be read or written, is encrypted, or packed in an unknown way.
pub(super) fn walk(
    file: &File,
    bytes: u64,
    sink: &mut Sink,
    steps: &Steps,
) -> Result<Option<String>, UnpackError> {
    let Some(directory) = directory(file, bytes).map_err(Cannot::read)? else {
        return Ok(Some("it is cut off: the directory at the end of a zip is missing".to_owned()));
    };
    let wanted = match list(file, directory, sink, steps) {
        Ok(wanted) => wanted,
        Err(ListError::Unpack(error)) => return Err(error),
        Err(damaged @ ListError::Damaged { .. }) => return Ok(Some(damaged.to_string())),
    };
    for (place, entry) in wanted {
        stop(steps).map_err(Cannot::read)?;
        if !entry.regular {
            sink.unrecognised(&place.path, "no regular file");
            continue;
        }
        if entry.encrypted {
            return Err(UnpackError::Cannot(Cannot::Encrypted(place.path)));
        }
        let mut local = [0; LOCAL_LEN];
        let read = read_up_to(file, &mut local, entry.offset).map_err(Cannot::read)?;
        let content = (read == LOCAL_LEN).then(|| zip::content_at(&local)).flatten();
        let Some(content) = content else {
            return Ok(Some(format!("the entry of {} leads nowhere", place.path)));
        };
        let packed =
            Range { file, at: entry.offset.saturating_add(content), left: entry.packed, steps };
        let inner: Box<dyn Read + '_> = match entry.method {
            0 => Box::new(packed),
            8 => Box::new(DeflateDecoder::new(BufReader::with_capacity(64 * 1024, packed))),
            method => {
                return Err(UnpackError::Cannot(Cannot::Method { path: place.path, method }));
            }
        };
        let mut content = Content { inner, crc: Crc::new() };
        let whole = match sink.write(&mut content, &place, entry.bytes, None) {
            Err(UnpackError::Cannot(Cannot::Damaged(error))) => {
                return Ok(Some(format!("{} cannot be unpacked: {error}", place.path)));
            }
            whole => whole?,
        };
        if !whole {
            return Ok(Some(format!("it is cut off within {}", place.path)));
        }
        if content.crc.sum() != entry.crc {
            sink.damage.push(format!("the checksum of {} is wrong: it was damaged", place.path));
        }
    }
    Ok(None)
}

type Wanted = Vec<(Place, zip::File)>;

/// Why the directory of a zip names nothing that could be unpacked.
#[derive(Debug, thiserror::Error)]
enum ListError {
    /// It is not what a zip ends with. The archive was cut off, or bytes of it were changed.
    #[error("the directory of the zip is damaged: entry {entry} {what}")]
    Damaged {
        /// Which, from 1.
        entry: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The system, or a bound.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
}

/// Where the directory stands. `None` when there is none. Errs when it cannot be read.
fn directory(file: &File, bytes: u64) -> io::Result<Option<zip::Directory>> {
    let len = ZIP_TAIL_MAX + 20;
    let from = bytes.saturating_sub(len as u64);
    let mut tail = vec![0; len];
    let read = read_up_to(file, &mut tail, from)?;
    let found = match zip::end(&tail[..read]) {
        Some(zip::End::At(directory)) => Some(directory),
        Some(zip::End::Zip64(at)) => {
            let mut end = [0; zip::ZIP64_END_LEN];
            let read = read_up_to(file, &mut end, at)?;
            zip::end_of_zip64(&end[..read])
        }
        None => None,
    };
    Ok(found.filter(|directory| {
        directory.offset.checked_add(directory.bytes).is_some_and(|end| end <= bytes)
    }))
}

/// The files of a store among the entries. Errs when the directory is damaged, cannot be read, or names too many.
fn list(
    file: &File,
    directory: zip::Directory,
    sink: &mut Sink,
    steps: &Steps,
) -> Result<Wanted, ListError> {
    let mut reader = file;
    reader.seek(SeekFrom::Start(directory.offset)).map_err(Cannot::read)?;
    let mut reader = BufReader::with_capacity(64 * 1024, reader.take(directory.bytes));
    let mut wanted = Vec::new();
    let (mut head, mut name, mut rest) = ([0; FILE_LEN], Vec::new(), Vec::new());
    for entry in 1.. {
        let read = fill(&mut reader, &mut head).map_err(Cannot::read)?;
        if read == 0 {
            break;
        }
        stop(steps).map_err(Cannot::read)?;
        let lengths = (read == FILE_LEN).then(|| zip::file_lengths(&head)).flatten();
        let damaged = |what| ListError::Damaged { entry, what };
        let (name_bytes, rest_bytes) =
            lengths.ok_or_else(|| damaged("does not begin as one of a directory does"))?;
        name.resize(name_bytes, 0);
        rest.resize(rest_bytes, 0);
        let name_read = fill(&mut reader, &mut name).map_err(Cannot::read)?;
        let rest_read = fill(&mut reader, &mut rest).map_err(Cannot::read)?;
        if name_read < name_bytes || rest_read < rest_bytes {
            return Err(damaged("is cut off"));
        }
        match Named::parse(&name) {
            Named::Hostile => sink.hostile += 1,
            Named::Of(place) if sink.wants(&place) => {
                let found = zip::file(&head, &name, &rest);
                let found = found.ok_or_else(|| damaged("has sizes that do not fit"))?;
                if wanted.len() >= WANTED_MAX {
                    let why = format!("it has more than {WANTED_MAX} files of a store");
                    return Err(UnpackError::Refused(why).into());
                }
                wanted.push((place, found));
            }
            Named::Of(_) | Named::Other => {}
        }
    }
    Ok(wanted)
}

/// A part of a file.
struct Range<'a> {
    file: &'a File,
    at: u64,
    left: u64,
    steps: &'a Steps,
}

impl Read for Range<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(buffer.len()).min(buffer.len());
        let read = read_up_to(self.file, &mut buffer[..most], self.at)?;
        self.at += read as u64;
        self.left -= read as u64;
        self.steps.add(read as u64);
        Ok(read)
    }
}

/// The content of one entry, with its checksum.
struct Content<'a> {
    inner: Box<dyn Read + 'a>,
    crc: Crc,
}

impl Source for Content<'_> {
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = fill(&mut self.inner, buffer)?;
        self.crc.update(&buffer[..read]);
        Ok(read)
    }

    fn skip(&mut self, _: u64) -> io::Result<bool> {
        // Entries of a zip are found by the directory.
        Ok(true)
    }
}

const WANTED_MAX: usize = 100_000;
