//! What the machine works with, and what it remembers.

use alloc::{collections::BTreeMap, vec::Vec};

/// A value, as far as it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value {
    None,
    Int(i64),
    Text { hash: u64, name: Name },
    Dict(Role),
    Tuple,
    Class,
    Object,
}

/// What a dictionary is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Root,
    IdToLabel,
    LabelToId,
    IdToSeqId,
}

/// The words that mean something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    Module,
    Class,
    Dimensionality,
    TotalElementsAdded,
    MaxSeqId,
    IdToLabel,
    LabelToId,
    IdToSeqId,
    Other,
}

pub(in crate::pickle) const MODULE: &[u8] = b"chromadb.segment.impl.vector.local_persistent_hnsw";
pub(in crate::pickle) const CLASS: &[u8] = b"PersistentData";

impl Name {
    pub(super) fn of(text: &[u8]) -> Self {
        match text {
            MODULE => Self::Module,
            CLASS => Self::Class,
            b"dimensionality" => Self::Dimensionality,
            b"total_elements_added" => Self::TotalElementsAdded,
            b"max_seq_id" => Self::MaxSeqId,
            b"id_to_label" => Self::IdToLabel,
            b"label_to_id" => Self::LabelToId,
            b"id_to_seq_id" => Self::IdToSeqId,
            _ => Self::Other,
        }
    }
}

/// What was remembered: eight bytes for each id, of which there may be millions.
#[derive(Default)]
pub(super) struct Memo {
    /// Hashes of texts that are no word.
    hashes: Vec<u64>,
    /// What else stands in these places.
    others: BTreeMap<usize, Value>,
}

impl Memo {
    pub(super) fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Puts a value into a place, or behind the last one; `false` when there are too many that are no ids.
    pub(super) fn set(&mut self, place: usize, value: Value) -> bool {
        let hash = match value {
            Value::Text { hash, name: Name::Other } => {
                self.others.remove(&place);
                hash
            }
            other => {
                self.others.insert(place, other);
                0
            }
        };
        match self.hashes.get_mut(place) {
            Some(before) => *before = hash,
            None => self.hashes.push(hash),
        }
        self.others.len() <= OTHERS_MAX
    }

    pub(super) fn get(&self, place: usize) -> Option<Value> {
        let hash = *self.hashes.get(place)?;
        let other = self.others.get(&place).copied();
        Some(other.unwrap_or(Value::Text { hash, name: Name::Other }))
    }
}

/// Chroma's own files have some twenty.
pub(super) const OTHERS_MAX: usize = 10_000;

pub(super) const fn kind(value: &Value) -> &'static str {
    match value {
        Value::None => "None",
        Value::Int(_) => "a number",
        Value::Text { .. } => "a text",
        Value::Dict(_) => "a dictionary",
        Value::Tuple => "a tuple",
        Value::Class => "a class",
        Value::Object => "an object",
    }
}
