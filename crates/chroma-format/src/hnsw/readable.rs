//! How many vectors can be read out of `data_level0.bin` when `header.bin` cannot be trusted, or states more than is there.

use alloc::{vec, vec::Vec};

use super::{Header, level0::EXPONENT};

/// Where things stand in an element of `data_level0.bin`: links, vector, label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    links_bytes: usize,
    vector_bytes: usize,
}

impl Shape {
    /// As a sound header states it. `None` for elements that no memory holds.
    #[must_use]
    pub fn of(header: &Header) -> Option<Self> {
        Self::new(header.neighbours, header.dimension)
    }

    fn new(neighbours: u64, dimension: u64) -> Option<Self> {
        let links_bytes = usize::try_from(4 + 8 * neighbours).ok()?;
        let vector_bytes = usize::try_from(dimension.checked_mul(4)?).ok()?;
        let shape = Self { links_bytes, vector_bytes };
        (1..=ELEMENT_BYTES_MAX).contains(&shape.element_bytes()).then_some(shape)
    }

    /// The shape in which the elements at the beginning of the file bear labels that `given` knows. Chroma's default of 16
    /// neighbours is tried first. `head` are the first bytes of the file.
    #[must_use]
    pub fn guess(head: &[u8], dimension: u64, given: impl Fn(u64) -> bool) -> Option<Self> {
        let fits = |shape: &Self| {
            let elements = head.chunks_exact(shape.element_bytes()).take(GUESSED_BY);
            elements.len() > 0 && elements.filter_map(label_of).all(&given)
        };
        let neighbours = core::iter::once(16).chain(1..=NEIGHBOURS_MAX);
        neighbours.filter_map(|neighbours| Self::new(neighbours, dimension)).find(fits)
    }

    /// Bytes from one element to the next.
    #[must_use]
    pub const fn element_bytes(self) -> usize {
        self.links_bytes + self.vector_bytes + LABEL_BYTES
    }
}

fn label_of(element: &[u8]) -> Option<u64> {
    element.last_chunk::<LABEL_BYTES>().map(|label| u64::from_le_bytes(*label))
}

/// Walks over the elements, and counts those whose vector can be read. Keeps one element at most, and a bit per label.
#[derive(Debug)]
pub struct ReadableWalk {
    shape: Shape,
    /// Labels that ids bear, sorted; `None` when no ids are known.
    labels: Option<Vec<u64>>,
    met: Vec<bool>,
    carry: Vec<u8>,
    count: u64,
}

impl ReadableWalk {
    /// A walk that has seen nothing. With `labels`, only elements that an id names count, each once.
    #[must_use]
    pub fn new(shape: Shape, labels: Option<Vec<u64>>) -> Self {
        let labels = labels.map(|mut labels| {
            labels.sort_unstable();
            labels
        });
        let met = vec![false; labels.as_ref().map_or(0, Vec::len)];
        Self { shape, labels, met, carry: Vec::new(), count: 0 }
    }

    /// Goes on with the next bytes of the file.
    pub fn push(&mut self, mut piece: &[u8]) {
        let element_bytes = self.shape.element_bytes();
        if !self.carry.is_empty() {
            let (more, rest) = piece.split_at((element_bytes - self.carry.len()).min(piece.len()));
            self.carry.extend_from_slice(more);
            piece = rest;
            if self.carry.len() < element_bytes {
                return;
            }
            let element = core::mem::take(&mut self.carry);
            self.note(&element);
        }
        let elements = piece.chunks_exact(element_bytes);
        self.carry.extend_from_slice(elements.remainder());
        for element in elements {
            self.note(element);
        }
    }

    /// Elements with a label, and a vector of finite numbers that are not all zero.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    fn note(&mut self, element: &[u8]) {
        let Some(label) = label_of(element).filter(|label| *label > 0) else { return };
        let vector = &element[self.shape.links_bytes..][..self.shape.vector_bytes];
        let numbers = || vector.as_chunks::<4>().0.iter().map(|bits| u32::from_le_bytes(*bits));
        let finite = numbers().all(|bits| bits & EXPONENT != EXPONENT);
        if !finite || numbers().all(|bits| bits == 0) {
            return;
        }
        if let Some(labels) = &self.labels {
            let Ok(at) = labels.binary_search(&label) else { return };
            if core::mem::replace(&mut self.met[at], true) {
                return;
            }
        }
        self.count += 1;
    }
}

const LABEL_BYTES: usize = 8;
/// Elements whose labels must fit before a shape is taken for the right one.
const GUESSED_BY: usize = 3;
const NEIGHBOURS_MAX: u64 = 512;
/// As large as the largest element of a header that is believed.
const ELEMENT_BYTES_MAX: usize = 8 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    /// Elements with these labels, two numbers and so many neighbours.
    fn elements(neighbours: usize, labels: &[u64]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for label in labels {
            bytes.extend(vec![0_u8; 4 + 8 * neighbours]);
            bytes.extend(1.5_f32.to_le_bytes());
            bytes.extend(0_f32.to_le_bytes());
            bytes.extend(label.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn whatever_the_pieces_elements_that_can_be_read_are_counted() {
        let mut bytes = elements(3, &[1, 2, 3, 4, 4, 9]);
        let element = bytes.len() / 6;
        bytes[element + 28..element + 32].copy_from_slice(&f32::NAN.to_le_bytes());
        bytes[2 * element + 28..2 * element + 36].fill(0);
        bytes.extend(vec![0; 2 * element + 5]);
        let shape = Shape::new(3, 2).unwrap();
        assert_eq!(shape.element_bytes(), element);
        for (labels, want) in [
            (None, 4), // 1, 4, 4, 9
            (Some(vec![4, 2, 1]), 2),
            (Some(Vec::new()), 0),
        ] {
            for piece in [1, 7, element, 1000] {
                let mut walk = ReadableWalk::new(shape, labels.clone());
                bytes.chunks(piece).for_each(|piece| walk.push(piece));
                assert_eq!(walk.count(), want, "{labels:?} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn the_shape_is_the_one_whose_labels_fit() {
        let given = |label: u64| (1..=50).contains(&label);
        for neighbours in [1, 4, 16, 48, 200] {
            let bytes = elements(neighbours, &[7, 8, 9, 10]);
            let want = Shape::new(neighbours as u64, 2);
            assert_eq!(Shape::guess(&bytes, 2, given), want, "{neighbours}");
        }
        assert_eq!(Shape::guess(&[0; 5000], 2, given), None);
        assert_eq!(Shape::guess(&[], 2, given), None);
        assert_eq!(Shape::guess(&[1; 5000], u64::MAX, given), None);
    }
}
