//! How a collection is made so that it is what it was: each release says what its index is like in its own form, and takes it in another.
//! Until 0.6 it stood in the metadata (`hnsw:space`), since 1.0 in a configuration, since 1.3 in a schema.

use serde_json::{Map, Value, json};

use super::server::Abilities;
use crate::repair::{
    dump::Metadata,
    lines::{
        Collection,
        index::{DEFAULT_SPACE, Index, KEYS},
    },
};

/// The request that makes a collection, and what this server cannot keep of it, a sentence each.
pub(super) fn request(
    collection: &Collection,
    name: &str,
    able: Abilities,
) -> (Value, Vec<String>) {
    let mut lost = Vec::new();
    let mut metadata = collection.metadata.clone();
    metadata.retain(|key, value| {
        // No server keeps it: 1.5.9 ends the connection without an answer (measured).
        let keeps = !value.is_array();
        if !keeps {
            lost.push(format!(
                "metadata.{key}: no release keeps lists in the metadata of a collection"
            ));
        }
        keeps
    });
    let mut body = Map::new();
    body.insert("name".to_owned(), name.into());
    body.insert("get_or_create".to_owned(), false.into());
    let index = Index::of(collection);
    if !able.modern {
        index.into_metadata(collection, &mut metadata);
    } else if let Some(schema) = schema(collection).filter(|_| able.schema) {
        body.insert("schema".to_owned(), schema.clone());
    } else if let Some(configuration) = index.into_configuration(collection) {
        body.insert("configuration".to_owned(), configuration);
    }
    if !metadata.is_empty() {
        body.insert("metadata".to_owned(), json!(metadata));
    }
    (Value::Object(body), lost)
}

/// The schema, where the line has one: the form of 1.3 and later.
fn schema(collection: &Collection) -> Option<&Value> {
    let schema = collection.configuration.as_ref()?;
    (schema["keys"].is_object() && schema["defaults"].is_object()).then_some(schema)
}

impl Index {
    /// For servers from 1.0 on. They take what stands in the metadata as well, where there is no configuration.
    fn into_configuration(mut self, collection: &Collection) -> Option<Value> {
        if let Some(space) = &collection.space {
            let told = collection.metadata.get("hnsw:space").and_then(Value::as_str);
            if !self.hnsw.is_empty() || told != Some(space) && space != DEFAULT_SPACE {
                self.hnsw.insert("space".to_owned(), space.as_str().into());
            }
        }
        let mut out = Map::new();
        if !self.hnsw.is_empty() {
            out.insert("hnsw".to_owned(), self.hnsw.into());
        }
        out.extend(
            self.embedding_function.map(|function| ("embedding_function".to_owned(), function)),
        );
        (!out.is_empty()).then_some(out.into())
    }

    /// For servers before 1.0, which know nothing but metadata. What is their default need not be said.
    fn into_metadata(self, collection: &Collection, metadata: &mut Metadata) {
        let space = collection.space.as_deref().map(Value::from);
        let space = space.or_else(|| self.hnsw.get("space").cloned());
        if let Some(space) = space.filter(|space| *space != DEFAULT_SPACE) {
            metadata.entry("hnsw:space".to_owned()).or_insert(space);
        }
        for (key, old, default) in KEYS {
            let said = self
                .hnsw
                .get(*key)
                .filter(|said| !old.is_empty() && said.as_f64() != Some(*default));
            if let Some(said) = said.filter(|said| said.is_number()) {
                metadata.entry((*old).to_owned()).or_insert_with(|| said.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repair::load::server::Api;

    fn able(modern: bool, schema: bool) -> Abilities {
        let api = if modern { Api::V2 } else { Api::V1 };
        Abilities { api, batch_max: 1, base64: modern, modern, schema, lists: schema }
    }

    fn collection(space: &str, metadata: Value, configuration: Value) -> Collection {
        Collection {
            name: "a".to_owned(),
            space: Some(space.to_owned()),
            metadata: serde_json::from_value(metadata).unwrap(),
            configuration: Some(configuration).filter(|value| !value.is_null()),
            ..Collection::default()
        }
    }

    #[test]
    fn every_form_is_turned_into_every_form() {
        let hnsw = json!({"batch_size":10,"ef_construction":150,"ef_search":100,"max_neighbors":24,"num_threads":2,"resize_factor":1.2,"sync_threshold":40});
        let function = json!({"type":"known","name":"default","config":{}});
        let of_1_5 = json!({"defaults":{},"keys":{"#embedding":{"float_list":{"vector_index":{"config":{"space":"ip","hnsw":hnsw,"embedding_function":function}}}}}});
        let mut with_space = hnsw.clone();
        with_space["space"] = "ip".into();
        let of_1_1 = json!({"vector_index":{"hnsw":with_space},"embedding_function":function});
        let of_0_6 = json!({"_type":"CollectionConfigurationInternal","hnsw_configuration":{"space":"l2","M":16}});
        let mut taken = with_space.clone();
        taken.as_object_mut().unwrap().remove("num_threads");
        let in_1_1 = json!({"hnsw":taken,"embedding_function":function});
        let old = json!({"of":1.0,"hnsw:space":"ip","hnsw:construction_ef":150,"hnsw:M":24,"hnsw:batch_size":10,"hnsw:sync_threshold":40});
        for (line, able, want) in [
            (
                collection("ip", json!({"of":1.0}), of_1_5.clone()),
                able(true, true),
                json!({"schema":of_1_5,"metadata":{"of":1.0}}),
            ),
            (
                collection("ip", json!({"of":1.0}), of_1_5.clone()),
                able(true, false),
                json!({"configuration":in_1_1,"metadata":{"of":1.0}}),
            ),
            (
                collection("ip", json!({"of":1.0}), of_1_5.clone()),
                able(false, false),
                json!({"metadata":old}),
            ),
            (
                collection("ip", json!({}), of_1_1.clone()),
                able(true, true),
                json!({"configuration":in_1_1}),
            ),
            (
                collection("ip", json!({"of":1.0}), of_1_1.clone()),
                able(false, false),
                json!({"metadata":old}),
            ),
            // What 0.6 writes as its configuration is not what its index is like.
            (
                collection("cosine", json!({"hnsw:space":"cosine"}), of_0_6.clone()),
                able(true, true),
                json!({"metadata":{"hnsw:space":"cosine"}}),
            ),
            (
                collection("cosine", json!({"hnsw:space":"cosine"}), of_0_6),
                able(false, false),
                json!({"metadata":{"hnsw:space":"cosine"}}),
            ),
            // By hand.
            (
                collection("cosine", json!({}), Value::Null),
                able(true, true),
                json!({"configuration":{"hnsw":{"space":"cosine"}}}),
            ),
            (
                collection("cosine", json!({}), Value::Null),
                able(false, false),
                json!({"metadata":{"hnsw:space":"cosine"}}),
            ),
            (collection("l2", json!({}), Value::Null), able(true, true), json!({})),
            (collection("l2", json!({}), Value::Null), able(false, false), json!({})),
        ] {
            let mut want = want;
            want["name"] = "b".into();
            want["get_or_create"] = false.into();
            assert_eq!(request(&line, "b", able), (want, Vec::new()), "{line:?}");
        }
    }

    #[test]
    fn lists_in_the_metadata_of_a_collection_are_left_out_and_told() {
        let line = collection("l2", json!({"l":[1,2],"n":1}), Value::Null);
        let (body, lost) = request(&line, "a", able(true, true));
        assert_eq!(body["metadata"], json!({"n":1}));
        assert_eq!(lost.len(), 1);
        assert!(lost[0].starts_with("metadata.l: "), "{lost:?}");
    }
}
