//! The entries of a tar, one after the other. Regular files of a store are written to the sink, everything else is stepped over. What an
//! entry says of its owner, its mode and its links is not looked at.

use super::{Cannot, UnpackError, sink::Sink, source::Source};
use crate::{
    clock::Timestamp,
    format::{
        parts::{Named, Part},
        tar::{Ahead, BLOCK_LEN, Block, EntryKind, Header, padded, sparse_map_goes_on},
    },
    human,
};

/// Walks a tar that begins with the block `first`. Gives why it has no proper end, when it has none.
/// Errs when it cannot be read or written, or holds what no backup does.
pub(super) fn walk(
    source: &mut impl Source,
    first: &[u8; BLOCK_LEN],
    sink: &mut Sink,
) -> Result<Option<String>, UnpackError> {
    let mut block = *first;
    let mut ahead = Ahead::default();
    let mut last = String::new();
    let mut entries = 0_u64;
    loop {
        entries += 1;
        if entries > ENTRIES_MAX {
            return Err(UnpackError::Refused(format!("it has more than {ENTRIES_MAX} entries")));
        }
        if entries > 1 && source.fill(&mut block).map_err(Cannot::read)? < BLOCK_LEN {
            return Ok(Some(match last.as_str() {
                "" => "it is cut off: the end of a tar is missing".to_owned(),
                last => format!("it is cut off behind {last}: the end of a tar is missing"),
            }));
        }
        let header = match Block::parse(&block) {
            Block::Header(header) => header,
            Block::Foreign => {
                return Ok(Some(
                    "a header in it is damaged: what stands behind it is not known".to_owned(),
                ));
            }
            Block::Zeros => {
                // Some writers leave one of the two blocks out, and nothing is missing then.
                return Ok(None);
            }
        };
        let Header { kind, data_bytes, map_goes_on, .. } = header;
        if matches!(kind, EntryKind::LongName | EntryKind::Pax) && data_bytes <= LONG_NAME_MAX {
            let mut data = vec![0; usize::try_from(padded(data_bytes)).unwrap_or(0)];
            if source.fill(&mut data).map_err(Cannot::read)? < data.len() {
                return Ok(Some("it is cut off within a name".to_owned()));
            }
            data.truncate(usize::try_from(data_bytes).unwrap_or(0));
            ahead.take_in(kind, &data);
            continue;
        }
        let about = match kind {
            EntryKind::File | EntryKind::Link | EntryKind::Other => std::mem::take(&mut ahead),
            EntryKind::LongName | EntryKind::Pax | EntryKind::Aside => Ahead::default(),
        };
        let mut left = about.data_bytes.filter(|_| kind == EntryKind::File).unwrap_or(data_bytes);
        let stored = padded(left);
        if matches!(kind, EntryKind::File | EntryKind::Link | EntryKind::Other) {
            let path = about.name.clone().unwrap_or_else(|| header.path());
            match Named::parse(&path) {
                Named::Hostile => sink.hostile += 1,
                Named::Other => {}
                Named::Of(place) if !sink.wants(&place) => {}
                Named::Of(place) if kind != EntryKind::File => {
                    // A directory of this name is no file of it either.
                    let what = if kind == EntryKind::Link {
                        "another name of a file"
                    } else {
                        "no regular file"
                    };
                    sink.unrecognised(&place.path, what);
                }
                Named::Of(place) if header.sparse || about.sparse => {
                    return Err(UnpackError::Cannot(Cannot::Sparse(place.path)));
                }
                Named::Of(place) => {
                    last = human::plain(&place.path);
                    let seconds = header.modified.and_then(|at| i64::try_from(at).ok());
                    let modified = seconds.map(Timestamp::from_secs);
                    if !sink.write(source, &place, left, modified)? {
                        return Ok(Some(format!("it is cut off within {last}")));
                    }
                    left = stored - left;
                    if place.part == Part::Database {
                        tracing::debug!(path = place.path, "Database unpacked.");
                    }
                    if !source.skip(left).map_err(Cannot::read)? {
                        return Ok(Some(format!("it is cut off behind {last}")));
                    }
                    continue;
                }
            }
        }
        if map_goes_on {
            for _ in 0..SPARSE_BLOCKS_MAX {
                if source.fill(&mut block).map_err(Cannot::read)? < BLOCK_LEN {
                    return Ok(Some("it is cut off".to_owned()));
                }
                if !sparse_map_goes_on(&block) {
                    break;
                }
            }
        }
        if !source.skip(stored).map_err(Cannot::read)? {
            return Ok(Some("it is cut off within a file".to_owned()));
        }
    }
}

const LONG_NAME_MAX: u64 = 64 * 1024;
const SPARSE_BLOCKS_MAX: usize = 100_000;
const ENTRIES_MAX: u64 = 10_000_000;
