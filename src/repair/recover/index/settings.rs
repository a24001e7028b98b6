//! What the index of a collection is like, as its schema, its configuration or its metadata say.

use serde_json::Value;

use crate::{format::hnsw::Metric, repair::dump::catalogue::Collection};

/// How an index is built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) metric: Metric,
    pub(super) neighbours: usize,
    pub(super) ef_construction: usize,
    /// Rows of the queue after which the index is written to its files.
    pub(super) flush: usize,
}

impl Settings {
    /// Those of a collection; Chroma's own where nothing is said.
    pub(super) fn of(collection: &Collection) -> Self {
        let number = |new: &str, old: &str| {
            let configured = collection.configuration.as_ref();
            let by_schema = configured.and_then(|schema| {
                let index = schema.pointer("/keys/#embedding/float_list/vector_index/config/hnsw");
                index?.get(new)
            });
            let by_configuration =
                configured.and_then(|of| of.pointer("/vector_index/hnsw")?.get(new));
            let by_metadata = collection.metadata.get(&format!("hnsw:{old}"));
            // What 0.6 writes here is the same for all collections, so that it comes last.
            let by_legacy = configured.and_then(|of| of.get("hnsw_configuration")?.get(old));
            let all = [by_schema, by_configuration, by_metadata, by_legacy];
            let number = all.into_iter().flatten().find_map(Value::as_u64);
            number.and_then(|number| usize::try_from(number).ok())
        };
        let space = collection.space.as_deref().and_then(Metric::of);
        Self {
            metric: space.unwrap_or(Metric::L2),
            neighbours: number("max_neighbors", "M").unwrap_or(NEIGHBOURS),
            ef_construction: number("ef_construction", "construction_ef")
                .unwrap_or(EF_CONSTRUCTION),
            flush: number("sync_threshold", "sync_threshold").unwrap_or(FLUSH),
        }
    }
}

const NEIGHBOURS: usize = 16;
const EF_CONSTRUCTION: usize = 100;
const FLUSH: usize = 1000;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_release_has_its_own_place_for_them() {
        let schema = json!({"keys": {"#embedding": {"float_list": {"vector_index": {"config":
            {"hnsw": {"max_neighbors": 24, "ef_construction": 200}}}}}}});
        let configuration = json!({"vector_index": {"hnsw": {"max_neighbors": 32}}});
        let legacy = json!({"hnsw_configuration": {"M": 16, "ef_construction": 100}});
        let metadata = json!({"hnsw:M": 8, "hnsw:construction_ef": 50});
        for (configured, metadata, want) in [
            (None, None, (16, 100)),
            (Some(schema.clone()), None, (24, 200)),
            (Some(configuration), None, (32, 100)),
            (Some(legacy), Some(metadata.clone()), (8, 50)),
            (None, Some(metadata.clone()), (8, 50)),
            (Some(schema), Some(metadata), (24, 200)),
        ] {
            let metadata = metadata.and_then(|value| value.as_object().cloned());
            let collection = Collection {
                space: Some("cosine".to_owned()),
                configuration: configured.clone(),
                metadata: metadata.unwrap_or_default().into_iter().collect(),
                ..Collection::default()
            };
            let found = Settings::of(&collection);
            assert_eq!((found.neighbours, found.ef_construction), want, "{configured:?}");
            assert_eq!(found.metric, Metric::Cosine);
        }
    }
}
