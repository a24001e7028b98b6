//! The vectors in `data_level0.bin` and `length.bin` of a folder that may be damaged. Nothing is taken from `header.bin` that the
//! elements themselves do not confirm.

use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io,
    ops::ControlFlow,
    os::unix::fs::FileExt,
    path::Path,
};

use super::writers::Places;
use crate::{
    format::{
        hnsw::{HEADER_LEN, Header, Metric, Order},
        parts::INDEX_FILES,
    },
    repair::steps::Steps,
    store::{database::open_if_there, holes::Holes},
};

/// Where the elements of one index are, by their label.
#[derive(Debug)]
pub(super) struct Elements {
    file: File,
    lengths: Option<File>,
    layout: Layout,
    metric: Metric,
    places: HashMap<u64, Bearer>,
    /// Other sound elements with a label that is in `places`, and where they are.
    others: Vec<(u64, u64)>,
    /// Places that were looked at.
    count: u64,
    /// Elements whose label was given out and is that of no id, and which are not marked as deleted.
    nameless: usize,
    /// Elements of ids in use that are marked as deleted.
    marked: usize,
}

/// How many numbers there are, and where they stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    neighbours: usize,
    dimension: usize,
}

/// What bears a label.
#[derive(Debug, Clone, Copy)]
struct Bearer {
    place: u64,
    sound: bool,
    /// More than one does, or another one may have been meant.
    doubtful: bool,
}

/// A vector as the index holds it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stored {
    pub(super) numbers: Vec<f32>,
    /// The length that it had before it was normalised, with cosine; `None` when that is lost. Without cosine it is 0.
    pub(super) norm: Option<f32>,
}

impl Layout {
    const fn link_bytes(self) -> usize {
        4 + 8 * self.neighbours
    }

    const fn element_bytes(self) -> usize {
        self.link_bytes() + 4 * self.dimension + LABEL_BYTES
    }
}

impl Elements {
    /// Finds the elements whose labels `given` knows, of `total` that were given out, in a folder whose vectors have `dimension` numbers and
    /// that was probably made with so many `neighbours`. `None` when there are none, or they have another dimension. Errs when the
    /// files cannot be read or it is stopped.
    pub(super) fn find(
        folder: &Path,
        (dimension, neighbours): (usize, usize),
        metric: Metric,
        (total, given): (u64, &impl Fn(u64) -> bool),
        steps: &Steps,
    ) -> io::Result<Option<Self>> {
        let Some(file) = open_if_there(&folder.join(ELEMENTS))? else { return Ok(None) };
        let header = header(folder)?;
        if header.is_some_and(|header| header.dimension != dimension as u64) {
            return Ok(None);
        }
        let stated = header.and_then(|header| usize::try_from(header.neighbours).ok());
        let Some(layout) = layout(&file, dimension, stated, neighbours, total)? else {
            return Ok(None);
        };
        // Room behind the last element holds whatever the memory held. Each label that was given out made one element.
        let elements = header.map_or(total, |header| header.elements.max(total));
        let lengths =
            if metric == Metric::Cosine { open_if_there(&folder.join(LENGTHS))? } else { None };
        let mut found = Self {
            file,
            lengths,
            layout,
            metric,
            places: HashMap::new(),
            others: Vec::new(),
            count: 0,
            nameless: 0,
            marked: 0,
        };
        found.scan(elements, total, given, steps)?;
        Ok((!found.places.is_empty()).then_some(found))
    }

    /// Elements whose vector is sound and whose label is theirs alone.
    pub(super) fn len(&self) -> usize {
        self.places.values().filter(|one| one.sound && !one.doubtful).count()
    }

    /// The place of the element with this label; `None` when there is none of which that is certain, or its vector is damaged.
    pub(super) fn place(&self, label: u64) -> Option<u64> {
        self.places.get(&label).filter(|one| one.sound && !one.doubtful).map(|one| one.place)
    }

    /// All sound elements with their labels and places; a label may be there more than once.
    pub(super) fn bearers(&self) -> impl Iterator<Item = (u64, u64)> {
        let first = self.places.iter().filter(|(_, one)| one.sound);
        first.map(|(label, one)| (*label, one.place)).chain(self.others.iter().copied())
    }

    /// The same elements, of which only these count from now on: places by their labels.
    pub(super) fn only(self, certain: &HashMap<u64, u64>) -> Self {
        let bearer = |place: &u64| Bearer { place: *place, sound: true, doubtful: false };
        let places = certain.iter().map(|(label, place)| (*label, bearer(place))).collect();
        Self { places, others: Vec::new(), ..self }
    }

    /// The same with the lengths in `folder`, or with none. Errs when a file cannot be opened.
    pub(super) fn reopened(&self, folder: Option<&Path>) -> io::Result<Self> {
        let lengths = folder.map(|folder| open_if_there(&folder.join(LENGTHS))).transpose()?;
        Ok(Self {
            file: self.file.try_clone()?,
            lengths: lengths.flatten(),
            places: self.places.clone(),
            others: self.others.clone(),
            ..*self
        })
    }

    /// Whether other labels than those of the ids were deleted, and these were not: so it is with the elements of another index. A flush
    /// that was cut off leaves one of the two.
    pub(super) const fn contradict_ids(&self) -> bool {
        self.nameless > 0 && self.marked > 0
    }

    /// Whether nothing speaks against their being those of the ids.
    pub(super) const fn fit_ids(&self) -> bool {
        self.nameless == 0 && self.marked == 0
    }

    /// Whether many labels are there twice, as no damage to some bytes leaves them.
    pub(super) fn is_mixed(&self) -> bool {
        self.others.len() >= MIXED_MIN
    }

    /// The vector at a place. Errs when it cannot be read.
    pub(super) fn read(&self, place: u64) -> io::Result<Stored> {
        let numbers = self.vector(place)?;
        if self.metric != Metric::Cosine {
            return Ok(Stored { numbers, norm: Some(0.0) });
        }
        let zero = numbers.iter().all(|number| *number == 0.0);
        let norm = self.lengths.as_ref().and_then(|file| {
            let mut bytes = [0; 4];
            file.read_exact_at(&mut bytes, place * 4).ok()?;
            // What was not zero had a length.
            let norm = f32::from_le_bytes(bytes);
            (norm.is_finite() && (norm > 0.0 || zero && norm == 0.0)).then_some(norm)
        });
        Ok(Stored { numbers, norm })
    }

    fn scan(
        &mut self,
        elements: u64,
        total: u64,
        given: &impl Fn(u64) -> bool,
        steps: &Steps,
    ) -> io::Result<()> {
        let (layout, metric) = (self.layout, self.metric);
        let elements = elements.min(self.file.metadata()?.len() / layout.element_bytes() as u64);
        self.count = elements;
        let mut order = Order::default();
        let (places, others) = (&mut self.places, &mut self.others);
        let (mut nameless, mut marked) = (0, 0);
        each(&self.file, layout, elements, |place, element| {
            let label = label(element);
            if !(1..=total).contains(&label) {
                return ControlFlow::Continue(());
            }
            order.push(label);
            let deleted = element[DELETED] & 1 == 1;
            nameless += usize::from(!deleted && !given(label));
            marked += usize::from(deleted && given(label));
            if given(label) {
                let sound = is_sound(element, layout, metric, elements);
                let bearer =
                    places.entry(label).or_insert(Bearer { place, sound, doubtful: false });
                bearer.doubtful |= bearer.place != place;
                if bearer.place != place && sound {
                    others.push((label, place));
                }
            }
            if steps.stopped() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        if steps.stopped() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        (self.nameless, self.marked) = (nameless, marked);
        // Two that have each other's label: which vector is whose is not certain any more.
        for label in order.exchanges().iter().flat_map(|exchange| exchange.numbers) {
            if let Some(bearer) = places.get_mut(&label) {
                bearer.doubtful = true;
            }
        }
        Ok(())
    }
}

impl Places for Elements {
    fn count(&self) -> u64 {
        self.count
    }

    fn neighbours(&self, place: u64) -> io::Result<Vec<u32>> {
        let mut bytes = vec![0; self.layout.link_bytes()];
        self.file.read_exact_at(&mut bytes, place * self.layout.element_bytes() as u64)?;
        let (head, links) = bytes.split_at(4);
        let count = usize::from(u16::from_le_bytes([head[0], head[1]]));
        let links = links.as_chunks::<4>().0.iter().take(count);
        Ok(links.map(|link| u32::from_le_bytes(*link)).collect())
    }

    fn vector(&self, place: u64) -> io::Result<Vec<f32>> {
        let mut bytes = vec![0; 4 * self.layout.dimension];
        let at = place * self.layout.element_bytes() as u64 + self.layout.link_bytes() as u64;
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(floats(&bytes).collect())
    }
}

/// Calls `visit` for every element up to the end of the file; holes are left out. Errs when the disk does.
fn each(
    file: &File,
    layout: Layout,
    elements: u64,
    mut visit: impl FnMut(u64, &[u8]) -> ControlFlow<()>,
) -> io::Result<()> {
    let size = layout.element_bytes() as u64;
    let mut holes = Holes::of(file);
    let mut buffer =
        vec![0; layout.element_bytes() * (PIECE_BYTES / layout.element_bytes()).max(1)];
    let mut place = 0;
    while place < elements {
        place = place.max(holes.data_from(place * size) / size);
        let left = usize::try_from((elements.saturating_sub(place)).saturating_mul(size));
        let length = buffer.len().min(left.unwrap_or(usize::MAX));
        let piece = &mut buffer[..length];
        file.read_exact_at(piece, place * size)?;
        for element in piece.chunks_exact(layout.element_bytes()) {
            if visit(place, element).is_break() {
                return Ok(());
            }
            place += 1;
        }
    }
    Ok(())
}

/// The layout in which elements bear labels that were given out: as the header says, as the collection is set, or any other.
/// Errs when the disk does.
fn layout(
    file: &File,
    dimension: usize,
    stated: Option<usize>,
    set: usize,
    total: u64,
) -> io::Result<Option<Layout>> {
    let bytes = file.metadata()?.len();
    let others = 1..=NEIGHBOURS_MAX;
    for neighbours in stated.into_iter().chain([set]).chain(others) {
        let layout = Layout { neighbours, dimension };
        let elements = total.min(bytes / layout.element_bytes() as u64);
        let tried = elements.min(TRIED);
        // Links are small numbers too, but the same ones stand in many places.
        let mut fit = HashSet::new();
        for number in 0..tried {
            // From all parts of the file: some may be damaged.
            let place = number * elements / tried;
            let mut bytes = [0; LABEL_BYTES];
            let end = (place + 1) * layout.element_bytes() as u64;
            file.read_exact_at(&mut bytes, end - LABEL_BYTES as u64)?;
            let label = u64::from_le_bytes(bytes);
            if (1..=total).contains(&label) {
                fit.insert(label);
            }
        }
        if !fit.is_empty() && fit.len() as u64 * 2 >= tried {
            return Ok(Some(layout));
        }
    }
    Ok(None)
}

fn label(element: &[u8]) -> u64 {
    element.last_chunk().map_or(0, |label| u64::from_le_bytes(*label))
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> + Clone {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes))
}

/// Whether the vector of an element can be the one that was stored: with cosine it has the length 1. One that is all zeros may be a
/// page that was lost; it counts when the rest of the element is as it should be.
fn is_sound(element: &[u8], layout: Layout, metric: Metric, elements: u64) -> bool {
    let (links, rest) = element.split_at(layout.link_bytes());
    let numbers = floats(&rest[..4 * layout.dimension]);
    if numbers.clone().any(|number| !number.is_finite()) {
        return false;
    }
    if numbers.clone().all(|number| number == 0.0) {
        let count = usize::from(u16::from_le_bytes([links[0], links[1]]));
        let ids = links[4..].as_chunks::<4>().0;
        let known = |id: &[u8; 4]| u64::from(u32::from_le_bytes(*id)) < elements;
        return (1..=ids.len()).contains(&count) && ids[..count].iter().all(known);
    }
    let square: f64 = numbers.map(|number| f64::from(number) * f64::from(number)).sum();
    metric != Metric::Cosine || (square - 1.0).abs() < UNIT
}

/// The header, when it is sound. Errs when the disk does.
fn header(folder: &Path) -> io::Result<Option<Header>> {
    let Some(file) = open_if_there(&folder.join(HEADER))? else { return Ok(None) };
    let mut head = [0; HEADER_LEN];
    match file.read_exact_at(&mut head, 0) {
        Ok(()) => Ok(Header::parse(&head).ok()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// Numbers per vector as a sound header states them. Errs when it cannot be read.
pub(super) fn stated_dimension(folder: &Path) -> io::Result<Option<usize>> {
    let header = header(folder)?.filter(|header| header.elements > 0);
    Ok(header.and_then(|header| usize::try_from(header.dimension).ok()))
}

const HEADER: &str = INDEX_FILES[0];
const ELEMENTS: &str = INDEX_FILES[1];
const LENGTHS: &str = INDEX_FILES[2];
const LABEL_BYTES: usize = 8;
/// The byte of an element whose lowest bit marks it as deleted.
const DELETED: usize = 2;
const PIECE_BYTES: usize = 1 << 20;
/// Elements by which a layout is tried.
const TRIED: u64 = 64;
const NEIGHBOURS_MAX: usize = 512;
/// Labels that are there twice, from which on two processes have written to an index.
const MIXED_MIN: usize = 3;
/// How far the square of a normalised vector may be from 1: rounding of millions of numbers.
const UNIT: f64 = 1e-2;

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A folder with vectors of two numbers.
    struct Stand {
        scratch: tempfile::TempDir,
    }

    impl Stand {
        fn new(neighbours: usize, elements: &[(u64, [f32; 2])]) -> Self {
            let stand = Self { scratch: tempfile::tempdir().unwrap() };
            let mut bytes = Vec::new();
            for (label, vector) in elements {
                bytes.extend([1, 0, 0, 0]);
                bytes.extend(vec![0_u8; 8 * neighbours]);
                bytes.extend(vector.iter().flat_map(|number| number.to_le_bytes()));
                bytes.extend(label.to_le_bytes());
            }
            fs::write(stand.scratch.path().join(ELEMENTS), bytes).unwrap();
            let lengths = (1..=elements.len()).flat_map(|n| (n as f32).to_le_bytes());
            fs::write(stand.scratch.path().join(LENGTHS), lengths.collect::<Vec<u8>>()).unwrap();
            stand
        }

        fn find(&self, metric: Metric) -> Option<Elements> {
            let given = |label| (1..=100).contains(&label);
            let steps = Steps::default();
            Elements::find(self.scratch.path(), (2, 16), metric, (100, &given), &steps).unwrap()
        }
    }

    #[test]
    fn a_vector_counts_where_it_is_sound_and_its_label_its_own() {
        for neighbours in [16, 3, 200] {
            let elements = [
                (1, [3.0, 4.0]),
                (2, [f32::NAN, 0.0]),
                (3, [0.0, 0.0]),
                (9, [1.0, 1.0]),
                (9, [2.0, 2.0]),
                (777, [5.0, 5.0]),
                (7, [7.0, 8.0]),
            ];
            let stand = Stand::new(neighbours, &elements);
            let found = stand.find(Metric::L2).unwrap();
            let places: Vec<_> = (0..10).map(|label| found.place(label)).collect();
            let want = [None, Some(0), None, Some(2), None, None, None, Some(6), None, None];
            assert_eq!(places, want, "{neighbours}");
            assert_eq!(found.len(), 3);
            let want = Stored { numbers: vec![7.0, 8.0], norm: Some(0.0) };
            assert_eq!(found.read(6).unwrap(), want);
        }
        assert!(Stand::new(16, &[]).find(Metric::L2).is_none());
        assert!(Stand::new(16, &[(777, [1.0, 1.0])]).find(Metric::L2).is_none());
    }

    #[test]
    fn with_cosine_a_vector_has_the_length_one_and_its_own_beside_it() {
        let stand = Stand::new(16, &[(1, [0.6, 0.8]), (2, [0.6, 0.9]), (3, [1.0, 0.0])]);
        let found = stand.find(Metric::Cosine).unwrap();
        assert_eq!([1, 2, 3].map(|label| found.place(label)), [Some(0), None, Some(2)]);
        let want = Stored { numbers: vec![0.6, 0.8], norm: Some(1.0) };
        assert_eq!(found.read(0).unwrap(), want);
        let lengths = stand.scratch.path().join(LENGTHS);
        fs::write(&lengths, [1.5_f32.to_le_bytes(), f32::INFINITY.to_le_bytes()].concat()).unwrap();
        let found = stand.find(Metric::Cosine).unwrap();
        assert_eq!(found.read(0).unwrap().norm, Some(1.5));
        assert_eq!(found.read(2).unwrap().norm, None);
        fs::remove_file(lengths).unwrap();
        assert_eq!(stand.find(Metric::Cosine).unwrap().read(0).unwrap().norm, None);
    }

    #[test]
    fn two_with_each_others_label_count_no_more() {
        let mut elements: Vec<_> = (1..=90).map(|label| (label, [label as f32, 1.0])).collect();
        (elements[10].0, elements[60].0) = (61, 11);
        let found = Stand::new(16, &elements).find(Metric::L2).unwrap();
        assert_eq!((found.place(11), found.place(61), found.len()), (None, None, 88));
    }

    #[test]
    fn other_labels_that_are_deleted_tell_whose_the_elements_are() {
        let stand = Stand::new(16, &[(1, [1.0, 2.0]), (2, [2.0, 2.0]), (3, [3.0, 2.0])]);
        let (folder, steps) = (stand.scratch.path(), Steps::default());
        let find = |given: &dyn Fn(u64) -> bool| {
            let given = |label| given(label);
            Elements::find(folder, (2, 16), Metric::L2, (3, &given), &steps).unwrap().unwrap()
        };
        assert!(find(&|_| true).fit_ids());
        let one_less = find(&|label| label != 2);
        assert!(!one_less.fit_ids() && !one_less.contradict_ids());
        let element = (4 + 8 * 16 + 4 * 2 + LABEL_BYTES) as u64;
        let file = File::options().write(true).open(folder.join(ELEMENTS)).unwrap();
        file.write_all_at(&[1], 2 * element + DELETED as u64).unwrap();
        assert!(find(&|label| label != 3).fit_ids());
        assert!(!find(&|_| true).contradict_ids());
        assert!(find(&|label| label != 2).contradict_ids());
    }

    #[test]
    fn what_stands_behind_the_last_element_is_none() {
        let elements = [(1, [1.0, 2.0]), (2, [2.0, 2.0]), (2, [7.0, 7.0]), (3, [7.0, 7.0])];
        let stand = Stand::new(16, &elements);
        let (given, steps) = (|label| (1..=3).contains(&label), Steps::default());
        let find = |total| {
            let folder = stand.scratch.path();
            Elements::find(folder, (2, 16), Metric::L2, (total, &given), &steps).unwrap().unwrap()
        };
        assert_eq!(find(2).len(), 2);
        assert_eq!(find(4).len(), 2, "one label is borne twice");
    }

    #[test]
    fn a_file_without_end_is_read_where_it_has_bytes() {
        let stand = Stand::new(16, &[(1, [1.0, 2.0]), (2, [2.0, 2.0])]);
        let path = stand.scratch.path().join(ELEMENTS);
        File::options().write(true).open(path).unwrap().set_len(1 << 40).unwrap();
        let (given, steps) = (|label| label <= 2, Steps::default());
        let shape = (2, 16);
        let folder = stand.scratch.path();
        let found = Elements::find(folder, shape, Metric::L2, (2, &given), &steps).unwrap();
        assert_eq!(found.unwrap().len(), 2);
    }
}
