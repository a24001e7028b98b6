//! What a line says of the index of a collection, whichever release wrote it.

use serde_json::{Map, Value};

use super::Collection;
use crate::repair::dump::Metadata;

/// What a line says of the index, in the words of 1.x.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Index {
    pub(crate) hnsw: Map<String, Value>,
    pub(crate) embedding_function: Option<Value>,
}

impl Index {
    pub(crate) fn of(collection: &Collection) -> Self {
        let Some(reported) = &collection.configuration else { return Self::default() };
        let vector = &reported["keys"]["#embedding"]["float_list"]["vector_index"]["config"];
        let (mut hnsw, function) = if vector.is_object() {
            (vector["hnsw"].clone(), &vector["embedding_function"])
        } else if reported["vector_index"].is_object() {
            (reported["vector_index"]["hnsw"].clone(), &reported["embedding_function"])
        } else if reported["hnsw"].is_object() {
            // As somebody may write it by hand: the form in which 1.x takes it.
            (reported["hnsw"].clone(), &reported["embedding_function"])
        } else {
            // Of 0.6: what stands there is not what its index is like; the metadata says that.
            return Self::default();
        };
        let hnsw = hnsw.as_object_mut().map(std::mem::take).unwrap_or_default();
        let known = matches!(function["type"].as_str(), Some("known" | "legacy"));
        Self {
            hnsw: hnsw
                .into_iter()
                .filter(|(key, _)| KEYS.iter().any(|(own, ..)| own == key))
                .collect(),
            embedding_function: known.then(|| function.clone()),
        }
    }

    /// Each setting but the space, by its name in 1.x, as it is in force: what nobody said is the default. `None` when nobody knows it.
    pub(crate) fn in_force(&self, metadata: &Metadata) -> Vec<(&'static str, Option<f64>)> {
        let settings = KEYS.iter().filter(|(_, old, _)| !old.is_empty());
        settings
            .map(|(key, old, default)| {
                let said = self.hnsw.get(*key).or_else(|| metadata.get(*old));
                // Chroma 1.1.1 drops it without a word (measured), and has all the others; 1.0 and 1.2 are taken to do so too.
                let unsaid = (*key != "batch_size" || self.hnsw.is_empty()).then_some(*default);
                (*key, said.and_then(Value::as_f64).or(unsaid))
            })
            .collect()
    }

    /// The name of the embedding function, where the line says it.
    pub(crate) fn function(&self) -> Option<&str> {
        self.embedding_function.as_ref()?["name"].as_str()
    }
}

/// Whether a key of metadata is no metadata, but how releases before 1.0 say what the index is like.
pub(crate) fn is_setting(key: &str) -> bool {
    matches!(key, "hnsw:space" | "hnsw:num_threads") || KEYS.iter().any(|(_, old, _)| *old == key)
}

/// The settings in the words of 1.x, as metadata, and their default in both.
pub(crate) const KEYS: &[(&str, &str, f64)] = &[
    ("space", "", 0.0),
    ("ef_construction", "hnsw:construction_ef", 100.0),
    ("ef_search", "hnsw:search_ef", 100.0),
    ("max_neighbors", "hnsw:M", 16.0),
    ("resize_factor", "hnsw:resize_factor", 1.2),
    ("batch_size", "hnsw:batch_size", 100.0),
    ("sync_threshold", "hnsw:sync_threshold", 1000.0),
    // How many processors that host had says nothing of another one.
];

pub(crate) const DEFAULT_SPACE: &str = "l2";
