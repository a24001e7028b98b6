//! Which texts Chroma accepts as the configuration and the schema of a collection. One that it does not accept breaks the
//! listing of all collections, not only its own (measured on 0.6.3, 1.1.1 and 1.5.9: `Could not deserialize
//! configuration`, `Could not deserialize schema`, `KeyError: '_type'`). Only what was seen to be refused is called wrong.

use alloc::{
    borrow::ToOwned,
    string::{String, ToString},
};

use serde_json::{Map, Value};

use super::schema::Family;

/// Why Chroma does not accept a text. Nothing of the text is quoted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The parser stopped; its words name the place.
    #[error("it is no JSON: {0}")]
    NotJson(String),
    /// It is JSON of another kind.
    #[error("it is no JSON object")]
    NotObject,
    /// The part `hnsw` is JSON of another kind.
    #[error("hnsw is no JSON object")]
    HnswNotObject,
    /// Chroma below 1.0 asks for the key `_type`.
    #[error("it has no _type, which Chroma below 1.0 asks for")]
    NoType,
    /// A schema lacks one of its parts.
    #[error("it has no {0}")]
    Lacks(&'static str),
    /// An index is named by its key, and there is exactly one.
    #[error("vector_index does not name exactly one index")]
    NotOneIndex,
    /// A setting of an index is neither null nor a whole number.
    #[error("{0} is no whole number")]
    NotWhole(&'static str),
    /// Chroma knows three measures of distance.
    #[error("space is none of l2, cosine and ip")]
    Space,
    /// Chroma knows three types of embedding functions.
    #[error("embedding_function has no type that Chroma knows")]
    EmbeddingFunction,
}

/// Judges `collections.config_json_str`; gives the largest sync threshold that it states. Errs with the reason when Chroma of this
/// family refuses the text.
pub fn judge_config(text: &str, family: Family) -> Result<Option<u64>, Refused> {
    let value = parse(text)?;
    let config = value.as_object().ok_or(Refused::NotObject)?;
    let legacy = config.contains_key("_type") || config.contains_key("hnsw_configuration");
    match family {
        Family::Oldest | Family::Python if !config.contains_key("_type") => {
            return Err(Refused::NoType);
        }
        Family::Rust if !legacy => {
            judge_vector_index(config)?;
            judge_embedding_function(config)?;
        }
        _ => {}
    }
    Ok(largest(&value, "sync_threshold"))
}

/// Judges `collections.schema_str` by the same rules; an empty text and `null` stand for none. Errs with the reason when Chroma 1.x
/// refuses the text.
pub fn judge_schema(text: &str) -> Result<Option<u64>, Refused> {
    if text.is_empty() {
        return Ok(None);
    }
    let value = parse(text)?;
    if value.is_null() {
        return Ok(None);
    }
    let schema = value.as_object().ok_or(Refused::NotObject)?;
    let part = |name: &str| schema.get(name).and_then(Value::as_object);
    part("defaults").ok_or(Refused::Lacks("defaults"))?;
    let keys = part("keys").ok_or(Refused::Lacks("keys"))?;
    let index_of = |types: &Value| types.get("float_list")?.get("vector_index").cloned();
    keys.get("#embedding")
        .and_then(index_of)
        .ok_or(Refused::Lacks("vector index for the embeddings"))?;
    let all = keys.values().chain(schema.get("defaults"));
    for config in all.filter_map(index_of).filter_map(|index| index.get("config").cloned()) {
        judge_space(config.get("space"))?;
    }
    Ok(largest(&value, "sync_threshold"))
}

/// Whether the text of `embeddings_queue_config.config_json_str` is accepted, and whether it lets the queue be purged.
/// Chroma 1.x does not open a database with one that is not. Errs with the reason then.
pub fn judge_queue_config(text: &str) -> Result<Option<bool>, Refused> {
    let value = parse(text)?;
    let config = value.as_object().ok_or(Refused::NotObject)?;
    Ok(config.get("automatically_purge").and_then(Value::as_bool))
}

/// How far the vectors of a collection are from each other: by its schema since 1.3, before that by its configuration, and below 1.0
/// by `hnsw:space` of its metadata (`config_json_str` of 0.6.3 says l2 of every collection). `None` when none of them says it.
#[must_use]
pub fn space_of(
    schema: Option<&str>,
    config: Option<&str>,
    metadata: Option<&str>,
) -> Option<String> {
    let object = |text: Option<&str>| serde_json::from_str::<Value>(text?).ok();
    let by_schema = || {
        let schema = object(schema)?;
        let index =
            schema.get("keys")?.get("#embedding")?.get("float_list")?.get("vector_index")?;
        Some(index.get("config")?.get("space")?.as_str()?.to_owned())
    };
    let by_config = || {
        let config = object(config)?;
        Some(config.get("vector_index")?.get("hnsw")?.get("space")?.as_str()?.to_owned())
    };
    let by_legacy = || {
        let config = object(config)?;
        Some(config.get("hnsw_configuration")?.get("space")?.as_str()?.to_owned())
    };
    by_schema()
        .or_else(by_config)
        .or_else(|| metadata.map(str::to_owned))
        .or_else(by_legacy)
        .filter(|space| ["l2", "cosine", "ip"].contains(&space.as_str()))
}

/// The sync threshold of Chroma when nothing states another.
pub const SYNC_THRESHOLD: u64 = 1000;

fn parse(text: &str) -> Result<Value, Refused> {
    serde_json::from_str(text).map_err(|error| Refused::NotJson(error.to_string()))
}

fn judge_vector_index(config: &Map<String, Value>) -> Result<(), Refused> {
    let Some(index) = config.get("vector_index") else { return Ok(()) };
    let index = index.as_object().filter(|index| index.len() == 1);
    let index = index.ok_or(Refused::NotOneIndex)?;
    let Some(hnsw) = index.get("hnsw") else { return Ok(()) };
    let hnsw = hnsw.as_object().ok_or(Refused::HnswNotObject)?;
    judge_space(hnsw.get("space"))?;
    for name in ["ef_construction", "ef_search", "max_neighbors", "num_threads", "sync_threshold"] {
        if hnsw.get(name).is_some_and(|value| !value.is_null() && value.as_u64().is_none()) {
            return Err(Refused::NotWhole(name));
        }
    }
    Ok(())
}

fn judge_space(space: Option<&Value>) -> Result<(), Refused> {
    match space {
        None | Some(Value::Null) => Ok(()),
        Some(Value::String(space)) if ["l2", "cosine", "ip"].contains(&space.as_str()) => Ok(()),
        Some(_) => Err(Refused::Space),
    }
}

fn judge_embedding_function(config: &Map<String, Value>) -> Result<(), Refused> {
    let function = match config.get("embedding_function") {
        None | Some(Value::Null) => return Ok(()),
        Some(function) => function,
    };
    match function.get("type").and_then(Value::as_str) {
        Some("legacy" | "known" | "unknown") => Ok(()),
        _ => Err(Refused::EmbeddingFunction),
    }
}

/// The largest whole number of this name anywhere in the value; `serde_json` bounds the depth.
fn largest(value: &Value, name: &str) -> Option<u64> {
    match value {
        Value::Object(map) => map
            .iter()
            .filter_map(
                |(key, value)| {
                    if key == name { value.as_u64() } else { largest(value, name) }
                },
            )
            .max(),
        Value::Array(items) => items.iter().filter_map(|item| largest(item, name)).max(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEGACY: &str = r#"{"hnsw_configuration":{"space":"l2","sync_threshold":1000,"_type":"HNSWConfigurationInternal"},"_type":"CollectionConfigurationInternal"}"#;
    const SCHEMA: &str = r##"{"defaults":{"float_list":{"vector_index":{"config":{"space":"l2"}}}},"keys":{"#embedding":{"float_list":{"vector_index":{"enabled":true,"config":{"space":"cosine","hnsw":{"sync_threshold":40}}}}},"page":{"int":{}}}}"##;

    #[test]
    fn what_chroma_one_refuses_is_refused() {
        // Each was given to Chroma 1.5.9 in place of the text of a healthy collection.
        for (text, accepted) in [
            ("{}", true),
            (r#"{"x":1}"#, true),
            (LEGACY, true),
            (
                r#"{"hnsw_configuration":{"space":"banana"},"_type":"CollectionConfigurationInternal"}"#,
                true,
            ),
            (r#"{"vector_index":{"hnsw":{}}}"#, true),
            (
                r#"{"vector_index":{"hnsw":{"space":"cosine","sync_threshold":40}},"embedding_function":{"type":"known","name":"default","config":{}}}"#,
                true,
            ),
            (r#"{"embedding_function":null}"#, true),
            (r#"{"embedding_function":{"type":"legacy"}}"#, true),
            (r#"{"embedding_function":{"type":"banana"}}"#, false),
            (r#"{"embedding_function":5}"#, false),
            (r#"{"vector_index":null}"#, false),
            (r#"{"vector_index":{}}"#, false),
            (r#"{"vector_index":{"hnsw":{},"spann":{}}}"#, false),
            (r#"{"vector_index":{"hnsw":{"space":"banana"}}}"#, false),
            (r#"{"vector_index":{"hnsw":{"max_neighbors":-1}}}"#, false),
            (r#"{"vector_index":{"hnsw":{"sync_threshold":"40"}}}"#, false),
            ("garbage", false),
            ("", false),
            ("{} x", false),
            ("[]", false),
            ("true", false),
            ("null", false),
        ] {
            let answer = judge_config(text, Family::Rust);
            assert_eq!(answer.is_ok(), accepted, "{text}: {answer:?}");
        }
        assert_eq!(judge_config(LEGACY, Family::Python), Ok(Some(1000)));
        assert_eq!(judge_config("{}", Family::Python), Err(Refused::NoType));
        let spaced = r#"{"vector_index":{"hnsw":{"space":"banana"}}}"#;
        assert_eq!(judge_config(spaced, Family::Rust), Err(Refused::Space));
        let text = r#"{"vector_index":{"hnsw":{"ef_search":"40"}}}"#;
        assert_eq!(judge_config(text, Family::Rust), Err(Refused::NotWhole("ef_search")));
        assert!(judge_config(r#"{"vector_index":7}"#, Family::Unknown).is_ok());
    }

    #[test]
    fn schemas_are_judged_as_chroma_does() {
        for (text, accepted) in [
            (SCHEMA.to_owned(), true),
            (String::new(), true),
            ("null".to_owned(), true),
            ("garbage".to_owned(), false),
            ("{}".to_owned(), false),
            (r#"{"defaults":{},"keys":{}}"#.to_owned(), false),
            (SCHEMA.replace(r#""defaults""#, r#""other""#), false),
            (SCHEMA.replace(r#""keys""#, r#""other""#), false),
            (SCHEMA.replace("l2", "banana"), false),
        ] {
            let answer = judge_schema(&text);
            assert_eq!(answer.is_ok(), accepted, "{text}: {answer:?}");
        }
        assert_eq!(judge_schema(SCHEMA), Ok(Some(40)));
    }

    #[test]
    fn the_queue_says_whether_it_is_purged() {
        assert_eq!(
            judge_queue_config(r#"{"automatically_purge":true,"_type":"x"}"#),
            Ok(Some(true))
        );
        assert_eq!(judge_queue_config(r#"{"automatically_purge":false}"#), Ok(Some(false)));
        assert_eq!(judge_queue_config("{}"), Ok(None));
        assert!(judge_queue_config("garbage").is_err() && judge_queue_config("").is_err());
    }

    #[test]
    fn the_space_is_taken_from_who_knows_it() {
        let new = r#"{"vector_index":{"hnsw":{"space":"ip"}}}"#;
        for (schema, config, metadata, want) in [
            (Some(SCHEMA), Some(new), Some("l2"), Some("cosine")),
            (Some(""), Some(new), Some("l2"), Some("ip")),
            (None, Some("{}"), Some("cosine"), Some("cosine")),
            // 0.6.3 says l2 of all of them.
            (None, Some(LEGACY), Some("cosine"), Some("cosine")),
            (None, Some(LEGACY), None, Some("l2")),
            (Some("garbage"), Some("garbage"), Some("banana"), None),
            (None, None, None, None),
        ] {
            assert_eq!(
                space_of(schema, config, metadata).as_deref(),
                want,
                "{schema:?} {config:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".*") {
            for family in [Family::Oldest, Family::Python, Family::Rust, Family::Unknown] {
                drop(judge_config(&text, family));
            }
            drop((judge_schema(&text), judge_queue_config(&text)));
            drop(space_of(Some(&text), Some(&text), Some(&text)));
        }
    }
}
