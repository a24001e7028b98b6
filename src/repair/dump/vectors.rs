//! The vectors of one index folder, by id.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::catalogue::Collection;
use crate::format::{
    hnsw::{
        HEADER_FILE, HEADER_LEN, Header, LENGTHS_FILE, LEVEL0_FILE, Level0Walk, METADATA_FILE, Pair,
    },
    pickle,
    uuid::parse_uuid,
};

/// A folder that is open.
#[derive(Debug)]
pub(in crate::repair) struct Index {
    /// How far the queue is in it.
    pub(in crate::repair) position: i64,
    header: Header,
    elements: File,
    /// Norms, where the file of elements has unit vectors: with cosine.
    lengths: Option<File>,
    /// Ids with their labels, ordered by id.
    ids: Vec<Pair>,
    /// Labels with their places, ordered by label.
    places: Vec<(u64, u64)>,
}

/// Why an index gives no vectors.
#[derive(Debug, thiserror::Error)]
pub(in crate::repair) enum IndexError {
    #[error("cannot read {}: {source}", .path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("its {HEADER_FILE} is none of hnswlib: {0}")]
    Header(#[from] crate::format::hnsw::HeaderError),
    #[error("its {METADATA_FILE}: {0}")]
    Metadata(pickle::PickleError),
    #[error("it has {0} numbers per vector, the collection {1}")]
    Dimension(u64, u64),
}

impl Index {
    /// Opens the folder of a collection; `None` when there is none yet: nothing was flushed.
    /// Errs when its files cannot be read, or hold no index.
    pub(in crate::repair) fn open(
        dir: &Path,
        collection: &Collection,
    ) -> Result<Option<Self>, IndexError> {
        let Some(segment) = &collection.vectors_segment else { return Ok(None) };
        // A name from the tables that leads elsewhere is no folder of ours.
        if parse_uuid(segment.as_bytes()).is_none() {
            return Ok(None);
        }
        let folder = dir.join(segment);
        let path = |name: &str| folder.join(name);
        let open = |name: &str| {
            File::open(path(name)).map_err(|source| IndexError::File { path: path(name), source })
        };
        let metadata = match File::open(path(METADATA_FILE)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(IndexError::File { path: path(METADATA_FILE), source }),
        };
        let mut ids = Vec::new();
        let found = pickle::read(Pieces(metadata), pickle::Limits::default(), &mut |id, label| {
            ids.push(Pair { label, id });
        });
        let metadata = found.map_err(|error| match error {
            pickle::ReadError::Source(source) => {
                IndexError::File { path: path(METADATA_FILE), source }
            }
            pickle::ReadError::Content(error) => IndexError::Metadata(error),
        })?;
        ids.sort_unstable_by_key(|pair| pair.id);
        let mut head = [0; HEADER_LEN];
        open(HEADER_FILE)?
            .read_exact_at(&mut head, 0)
            .map_err(|source| IndexError::File { path: path(HEADER_FILE), source })?;
        let header = Header::parse(&head)?;
        if let Some(dimension) = collection.dimension.filter(|wanted| *wanted != header.dimension) {
            return Err(IndexError::Dimension(header.dimension, dimension));
        }
        let elements = open(LEVEL0_FILE)?;
        let cosine = collection.space.as_deref() == Some("cosine");
        let lengths = if cosine { Some(open(LENGTHS_FILE)?) } else { None };
        let places = places(&elements, header)
            .map_err(|source| IndexError::File { path: path(LEVEL0_FILE), source })?;
        let reported = metadata.max_seq_id.and_then(|at| i64::try_from(at).ok());
        let position = collection.vectors_position.or(reported).unwrap_or(i64::MIN);
        Ok(Some(Self { position, header, elements, lengths, ids, places }))
    }

    /// The place of the vector of `id`.
    pub(in crate::repair) fn find(&self, id: &str) -> Option<u64> {
        let hash = pickle::hash(id.as_bytes());
        let pair = self.ids.binary_search_by_key(&hash, |pair| pair.id).ok()?;
        let label = self.ids[pair].label;
        let place = self.places.binary_search_by_key(&label, |(label, _)| *label).ok()?;
        Some(self.places[place].1)
    }

    /// The vector at a place, as it was given to Chroma. Errs when it cannot be read.
    pub(super) fn read(&self, place: u64) -> io::Result<Vec<f32>> {
        let (mut vector, length) = self.stored(place)?;
        if let Some(length) = length {
            for number in &mut vector {
                *number *= length;
            }
        }
        Ok(vector)
    }

    /// The vector at a place as the index holds it, and with cosine the length that it had. Errs when it cannot be read.
    pub(in crate::repair) fn stored(&self, place: u64) -> io::Result<(Vec<f32>, Option<f32>)> {
        let offset = place * self.header.element_bytes + 4 + 8 * self.header.neighbours;
        // The header was read, and states what a vector takes.
        let len = usize::try_from(self.header.dimension * 4).map_err(io::Error::other)?;
        let mut bytes = vec![0; len];
        self.elements.read_exact_at(&mut bytes, offset)?;
        let vector =
            bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let length = |lengths: &File| -> io::Result<f32> {
            let mut bytes = [0; 4];
            lengths.read_exact_at(&mut bytes, place * 4)?;
            Ok(f32::from_le_bytes(bytes))
        };
        Ok((vector, self.lengths.as_ref().map(length).transpose()?))
    }
}

/// Where each label stands. A label that stands twice gives the first one. Errs when it cannot be read.
fn places(file: &File, header: Header) -> io::Result<Vec<(u64, u64)>> {
    let mut walk = Level0Walk::new(header);
    let mut places = Vec::new();
    let mut buffer = vec![0; PIECE_BYTES];
    let end = header.elements.saturating_mul(header.element_bytes);
    let mut at = 0;
    while at < end {
        let read = file.read_at(&mut buffer, at)?;
        if read == 0 {
            break;
        }
        at += read as u64;
        walk.push(&buffer[..read], &mut |element| {
            if !element.deleted {
                places.push((element.label, element.index));
            }
        });
    }
    places.sort_unstable();
    places.dedup_by_key(|(label, _)| *label);
    Ok(places)
}

/// A pickle in a file.
pub(in crate::repair) struct Pieces(pub(in crate::repair) File);

impl pickle::Source for Pieces {
    type Error = io::Error;

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match io::Read::read(&mut self.0, buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }
}

const PIECE_BYTES: usize = 256 << 10;
