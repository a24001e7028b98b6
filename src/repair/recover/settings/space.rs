//! Which distance an index was made with, as its files prove it. With cosine every vector has the length 1, and its own length stands
//! beside it. With l2 the graph tells: nearly every element has its nearest one among its neighbours. `ip` leaves no such mark.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

use crate::{
    format::{
        hnsw::{Header, Metric},
        parts::INDEX_FILES,
    },
    repair::{
        dump::catalogue::Collection,
        recover::{Failure, index},
        steps::Steps,
    },
    store::database::open_bytes,
};

/// As settings name a distance.
pub(in crate::repair::recover) const fn name(metric: Metric) -> &'static str {
    match metric {
        Metric::L2 => "l2",
        Metric::Cosine => "cosine",
        Metric::Product => "ip",
    }
}

/// The distance that nothing but the index of a collection says; `None` when it does not prove one.
/// Errs when the files cannot be read, or the steps were stopped.
pub(in crate::repair::recover) fn proven(
    dir: &Path,
    collection: &Collection,
    steps: &Steps,
) -> Result<Option<Metric>, Failure> {
    let Some(folder) = index::folder_of(dir, collection)? else { return Ok(None) };
    match judge(&folder, steps) {
        Ok(metric) => Ok(metric),
        // Files that are cut or gone prove nothing.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound) =>
        {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn judge(folder: &Path, steps: &Steps) -> io::Result<Option<Metric>> {
    let Ok(header) = Header::parse(&std::fs::read(folder.join(INDEX_FILES[0]))?) else {
        return Ok(None);
    };
    let Some(layout) = Layout::of(&header).filter(|_| header.elements >= ELEMENTS_MIN) else {
        return Ok(None);
    };
    let elements = open_bytes(&folder.join(INDEX_FILES[1]))?;
    let mut tried = Vec::new();
    for number in 0..header.elements.min(TRIED) {
        let place = number * header.elements / header.elements.min(TRIED);
        tried.push(layout.tried(&elements, place)?);
    }
    let mut units = true;
    let mut buffer = vec![0; layout.bytes];
    for place in 0..header.elements {
        if steps.stopped() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        elements.read_exact_at(&mut buffer, place * layout.bytes as u64)?;
        let vector = floats(layout.vector(&buffer));
        let square: f64 = vector.iter().map(|n| f64::from(*n) * f64::from(*n)).sum();
        units &= (square - 1.0).abs() < 1e-3;
        for one in tried.iter_mut().filter(|one| one.place != place) {
            one.compare(place, &vector);
        }
    }
    if units {
        return Ok(are_lengths(folder, header.elements)?.then_some(Metric::Cosine));
    }
    Ok(by_graph(&tried, header.elements))
}

/// Whether there is the length of a vector beside each. Without cosine nothing is written there: it is what the memory held.
/// Errs when the disk does.
fn are_lengths(folder: &Path, elements: u64) -> io::Result<bool> {
    let file = open_bytes(&folder.join(INDEX_FILES[2]))?;
    let mut bytes = [0; 4];
    for place in 0..elements {
        file.read_exact_at(&mut bytes, 4 * place)?;
        if !(1e-6..1e9).contains(&f32::from_le_bytes(bytes)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// In an index of l2 nearly every element has its nearest one among its neighbours, and by the product far fewer do. With `ip` an element
/// seldom knows what is nearest to it, so that the graph proves nothing.
fn by_graph(tried: &[Tried], elements: u64) -> Option<Metric> {
    let sound = || tried.iter().filter(|one| one.neighbours.iter().all(|id| *id < elements));
    let misses = |metric: fn(&Tried) -> Nearest| {
        sound().filter(|one| !one.neighbours.contains(&metric(one).place)).count()
    };
    let count = sound().count();
    let (l2, product) = (misses(|one| one.by_l2), misses(|one| one.by_product));
    let is_l2 = count >= TRIED_MIN && l2 * 10 <= count && product >= 5 + 2 * l2;
    is_l2.then_some(Metric::L2)
}

/// Where the parts of an element stand.
struct Layout {
    links: usize,
    dimension: usize,
    bytes: usize,
}

impl Layout {
    fn of(header: &Header) -> Option<Self> {
        let dimension = usize::try_from(header.dimension).ok().filter(|n| *n <= DIMENSION_MAX)?;
        let neighbours =
            usize::try_from(header.neighbours).ok().filter(|n| *n <= NEIGHBOURS_MAX)?;
        let links = 4 + 8 * neighbours;
        Some(Self { links, dimension, bytes: links + 4 * dimension + 8 })
    }

    fn vector<'a>(&self, element: &'a [u8]) -> &'a [u8] {
        &element[self.links..self.links + 4 * self.dimension]
    }

    fn tried(&self, file: &File, place: u64) -> io::Result<Tried> {
        let mut bytes = vec![0; self.bytes];
        file.read_exact_at(&mut bytes, place * self.bytes as u64)?;
        let count = usize::from(u16::from_le_bytes([bytes[0], bytes[1]]));
        let ids = bytes[4..self.links].as_chunks::<4>().0.iter().take(count);
        Ok(Tried {
            place,
            neighbours: ids.map(|id| u64::from(u32::from_le_bytes(*id))).collect(),
            vector: floats(self.vector(&bytes)),
            by_l2: Nearest::default(),
            by_product: Nearest::default(),
        })
    }
}

/// An element that is compared with all others.
struct Tried {
    place: u64,
    neighbours: Vec<u64>,
    vector: Vec<f32>,
    by_l2: Nearest,
    by_product: Nearest,
}

#[derive(Debug, Clone, Copy)]
struct Nearest {
    place: u64,
    distance: f32,
}

impl Default for Nearest {
    fn default() -> Self {
        Self { place: u64::MAX, distance: f32::INFINITY }
    }
}

impl Tried {
    fn compare(&mut self, place: u64, other: &[f32]) {
        let pairs = || self.vector.iter().zip(other);
        let l2 = pairs().map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
        let product = -pairs().map(|(a, b)| a * b).sum::<f32>();
        for (nearest, distance) in [(&mut self.by_l2, l2), (&mut self.by_product, product)] {
            if distance < nearest.distance {
                *nearest = Nearest { place, distance };
            }
        }
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Elements that are compared with all others.
const TRIED: u64 = 64;
/// Fewer prove nothing.
const ELEMENTS_MIN: u64 = 30;
/// Of elements that are compared, the same.
const TRIED_MIN: usize = 30;
const DIMENSION_MAX: usize = 1 << 16;
const NEIGHBOURS_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::hnsw::{Builder, Options};

    /// A graph as Chroma's, of vectors that are neither of one length nor alike.
    fn folder(metric: Metric, unit: bool) -> tempfile::TempDir {
        let scratch = tempfile::tempdir().unwrap();
        let dimension = 8;
        let options = Options { dimension, metric, neighbours: 8, ef_construction: 100, seed: 100 };
        let mut builder = Builder::new(options, 300).unwrap();
        let mut state = 7_u32;
        // Between 0 and 1, the same in every run.
        let mut dice = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32
        };
        for label in 1..=300 {
            let mut vector: Vec<f32> = (0..dimension).map(|_| dice() - 0.5).collect();
            let norm = vector.iter().map(|n| n * n).sum::<f32>().sqrt();
            let wanted = if unit { 1.0 } else { 0.1 + dice() * 3.0 };
            for number in &mut vector {
                *number *= wanted / norm;
            }
            builder.push(label, &vector).unwrap();
        }
        let graph = builder.finish();
        let put = |name: &str, bytes: &[u8]| {
            std::fs::write(scratch.path().join(name), bytes).unwrap();
        };
        put(INDEX_FILES[0], &graph.header());
        let (mut elements, mut lengths) = (Vec::new(), Vec::new());
        let collect = |to: &mut Vec<u8>, piece: &[u8]| -> io::Result<()> {
            to.extend(piece);
            Ok(())
        };
        graph.level0(&mut |piece| collect(&mut elements, piece)).unwrap();
        graph.lengths(&mut |piece| collect(&mut lengths, piece)).unwrap();
        put(INDEX_FILES[1], &elements);
        put(INDEX_FILES[2], &lengths);
        scratch
    }

    #[test]
    fn the_graph_proves_its_distance() {
        for (metric, unit, want) in [
            (Metric::L2, false, Some(Metric::L2)),
            (Metric::Product, false, None),
            (Metric::Cosine, false, Some(Metric::Cosine)),
            (Metric::Cosine, true, Some(Metric::Cosine)),
        ] {
            let scratch = folder(metric, unit);
            let found = judge(scratch.path(), &Steps::default()).unwrap();
            assert_eq!(found, want, "{metric:?} {unit}");
        }
        // Vectors of one length: both distances say the same.
        let scratch = folder(Metric::L2, true);
        let folder = scratch.path();
        std::fs::write(folder.join(INDEX_FILES[2]), vec![0; 1200]).unwrap();
        assert_eq!(judge(folder, &Steps::default()).unwrap(), None);
        std::fs::write(folder.join(INDEX_FILES[1]), [0; 100]).unwrap();
        let error = judge(folder, &Steps::default()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
