//! The labels that `index_metadata.pickle` gives to ids, against those that the elements bear.

use alloc::{format, string::String, vec, vec::Vec};

use super::{Element, Exchange, Order};

/// A label and the hash of the id that bears it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// Chroma counts them from 1.
    pub label: u64,
    /// See [`crate::pickle::hash`].
    pub id: u64,
}

/// Compares labels while a walk goes on. Sixteen bytes and a flag per id.
#[derive(Debug)]
pub struct Labels {
    /// By label.
    pairs: Vec<Pair>,
    /// How often each pair's label was met: 0, 1, or more.
    met: Vec<u8>,
    /// Labels given out so far: what is above belongs to a flush that did not come to its end.
    total: u64,
    /// Where the next label is looked for first: elements mostly stand in the order of their labels.
    hint: usize,
    /// Labels of elements that no id bears: deleted, or left by a flush that was cut off; not all when there are very many.
    nameless: Vec<u64>,
    order: Order,
    found: LabelProblems,
}

/// What does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct LabelProblems {
    /// Ids with a label that no element bears: their vectors are gone.
    pub without_element: u64,
    /// Labels that two ids or two elements bear.
    pub twice: u64,
    /// Elements in use that no id names, with a label that was given out.
    pub nameless: u64,
    /// Elements in use with a label above those given out: written by a flush that did not come to its end.
    pub above_total: u64,
    /// Hashes of ids whose element is marked as deleted; at most 10,000.
    pub marked: Vec<u64>,
    /// How many there are.
    pub marked_count: u64,
    /// Two elements that bear each other's label, and how many more such pairs.
    pub exchanged: Option<(Exchange, usize)>,
    /// One case of the first three.
    pub example: Option<String>,
}

impl Labels {
    /// The labels of a metadata file that states `total` elements added.
    #[must_use]
    pub fn new(mut pairs: Vec<Pair>, total: u64) -> Self {
        pairs.sort_unstable_by_key(|pair| pair.label);
        let met = vec![0; pairs.len()];
        let found = LabelProblems::default();
        Self { pairs, met, total, hint: 0, nameless: Vec::new(), order: Order::default(), found }
    }

    /// Notes the label of an element.
    pub fn note(&mut self, element: Element) {
        let Element { index, label, deleted } = element;
        self.order.push(label);
        let at = if self.pairs.get(self.hint).is_some_and(|pair| pair.label == label) {
            Some(self.hint)
        } else {
            self.pairs.binary_search_by_key(&label, |pair| pair.label).ok()
        };
        let Some(at) = at else {
            if !deleted && label > self.total {
                self.found.above_total += 1;
            } else if !deleted {
                self.found.nameless += 1;
                self.found.say(|| format!("no id names label {label} of element {index}"));
            }
            if self.nameless.len() < NAMELESS_MAX {
                self.nameless.push(label);
            }
            return;
        };
        self.hint = at + 1;
        self.met[at] = self.met[at].saturating_add(1);
        if self.met[at] > 1 {
            self.found.twice += 1;
            self.found.say(|| format!("element {index} bears label {label} of another element"));
        }
        if deleted {
            self.found.marked_count += 1;
            if self.found.marked.len() < MARKED_MAX {
                self.found.marked.push(self.pairs[at].id);
            }
        }
    }

    /// Ends the comparison; gives the pairs back.
    #[must_use]
    pub fn finish(mut self) -> (LabelProblems, Vec<Pair>) {
        let found = &mut self.found;
        for (pair, met) in self.pairs.iter().zip(&self.met) {
            if *met == 0 {
                found.without_element += 1;
                found.say(|| format!("no element bears label {} of an id", pair.label));
            }
        }
        for two in self.pairs.windows(2) {
            if two[0].label == two[1].label {
                found.twice += 1;
                found.say(|| format!("two ids have label {}", two[0].label));
            }
        }
        self.nameless.sort_unstable();
        for two in self.nameless.windows(2) {
            if two[0] == two[1] {
                found.twice += 1;
                found.say(|| format!("two elements bear label {}", two[0]));
            }
        }
        let exchanges = self.order.exchanges();
        found.exchanged = exchanges.first().map(|first| (*first, exchanges.len() - 1));
        (self.found, self.pairs)
    }
}

impl LabelProblems {
    fn say(&mut self, what: impl FnOnce() -> String) {
        if self.example.is_none() {
            self.example = Some(what());
        }
    }

    /// Whether labels and elements contradict each other in a way that no interrupted flush explains.
    #[must_use]
    pub const fn contradict(&self) -> bool {
        self.without_element > 0 || self.twice > 0 || self.nameless > 0
    }
}

/// Hashes that are kept; beyond that only their number is known.
pub(super) const MARKED_MAX: usize = 10_000;

/// 128 MB. A file of zeros takes no room on disk, and may have billions of elements.
const NAMELESS_MAX: usize = 16_000_000;
