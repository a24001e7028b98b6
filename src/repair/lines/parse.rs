//! One line: bytes to a collection or a record. What is wrong is looked for only when something is.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{Bad, Collection, Embedding, Line, Record};
use crate::repair::dump::Metadata;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordLine {
    id: String,
    #[serde(default)]
    document: Option<String>,
    #[serde(default)]
    uri: Option<String>,
    #[serde(default)]
    metadata: Option<Metadata>,
    #[serde(default)]
    embedding: EmbeddingField,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CollectionLine {
    collection: String,
    #[serde(default)]
    tenant: Option<String>,
    #[serde(default)]
    database: Option<String>,
    #[serde(default)]
    space: Option<String>,
    #[serde(default)]
    dimension: Option<u64>,
    #[serde(default)]
    metadata: Option<Metadata>,
    #[serde(default)]
    configuration: Option<Value>,
}

/// Absent and null are two things.
#[derive(Default)]
struct EmbeddingField(Embedding);

impl<'de> Deserialize<'de> for EmbeddingField {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let vector = Option::<Vec<f32>>::deserialize(from)?;
        Ok(Self(vector.map_or(Embedding::Lost, Embedding::Is)))
    }
}

/// What stands in a line. Errs when it is none of a dump.
pub(super) fn line(text: &[u8]) -> Result<Line, Bad> {
    // Most lines are records.
    if let Ok(record) = serde_json::from_slice::<RecordLine>(text) {
        return self::record(record).map(Line::Record);
    }
    if let Ok(line) = serde_json::from_slice::<CollectionLine>(text) {
        return collection(line).map(|collection| Line::Collection(Box::new(collection)));
    }
    Err(wrong(text))
}

fn record(line: RecordLine) -> Result<Record, Bad> {
    if line.id.is_empty() {
        return Err(bad("id", "it is empty"));
    }
    let embedding = line.embedding.0;
    if let Some(vector) = embedding.vector() {
        if vector.is_empty() {
            return Err(bad("embedding", "it has no numbers"));
        }
        if let Some(at) = vector.iter().position(|number| !number.is_finite()) {
            return Err(bad(&format!("embedding[{at}]"), "it is too large for a vector"));
        }
    }
    let metadata = metadata(line.metadata)?;
    Ok(Record { id: line.id, document: line.document, uri: line.uri, metadata, embedding })
}

fn collection(line: CollectionLine) -> Result<Collection, Bad> {
    let begins = |bad| Bad { collection: true, ..bad };
    if line.collection.is_empty() {
        return Err(begins(bad("collection", "it is empty")));
    }
    let space = line.space.as_deref();
    if space.is_some_and(|space| !matches!(space, "l2" | "cosine" | "ip")) {
        return Err(begins(bad("space", "it is none of l2, cosine and ip")));
    }
    Ok(Collection {
        name: line.collection,
        tenant: line.tenant.unwrap_or_else(|| "default_tenant".to_owned()),
        database: line.database.unwrap_or_else(|| "default_database".to_owned()),
        space: line.space,
        dimension: line.dimension,
        metadata: metadata(line.metadata).map_err(begins)?,
        configuration: line.configuration.filter(|value| !value.is_null()),
    })
}

/// Errs with the key whose value Chroma cannot hold. A key that is null is a key that is not there.
fn metadata(metadata: Option<Metadata>) -> Result<Metadata, Bad> {
    let mut metadata = metadata.unwrap_or_default();
    metadata.retain(|_, value| !value.is_null());
    for (key, value) in &metadata {
        let reported = |why| bad(&format!("metadata.{}", short(key)), why);
        if key.starts_with("chroma:") {
            return Err(reported("keys that begin with chroma: belong to Chroma itself"));
        }
        match value {
            Value::Array(list) => {
                let kind = list.first().map(kind);
                if list.iter().any(|one| Some(self::kind(one)) != kind || !scalar(one)) {
                    return Err(reported(
                        "the values of a list are texts, numbers or truths, all of one kind",
                    ));
                }
            }
            value if scalar(value) => {}
            Value::Number(_) => {
                return Err(reported("it is a whole number that does not fit into 64 bits"));
            }
            _ => return Err(reported("it is none of text, number, truth and list")),
        }
    }
    Ok(metadata)
}

/// Whether Chroma has a column for it.
fn scalar(value: &Value) -> bool {
    match value {
        Value::String(_) | Value::Bool(_) => true,
        Value::Number(number) => number.is_i64() || number.is_f64(),
        Value::Null | Value::Array(_) | Value::Object(_) => false,
    }
}

/// Text, truth, whole number, number.
fn kind(value: &Value) -> u8 {
    match value {
        Value::String(_) => 0,
        Value::Bool(_) => 1,
        Value::Number(number) if number.is_f64() => 2,
        Value::Number(_) => 3,
        Value::Null | Value::Array(_) | Value::Object(_) => 4,
    }
}

/// Why a line is neither: the first field that is wrong.
fn wrong(text: &[u8]) -> Bad {
    let whole = |why: String| Bad { field: None, why, collection: false };
    let value: Value = match serde_json::from_slice(text) {
        Ok(value) => value,
        Err(error) => return whole(format!("it is no JSON: {error}")),
    };
    let Some(object) = value.as_object() else {
        return whole("it is no JSON object".to_owned());
    };
    if object.contains_key("collection") {
        return Bad { collection: true, ..fields(object, &COLLECTION_FIELDS) };
    }
    if object.contains_key("id") {
        return fields(object, &RECORD_FIELDS);
    }
    whole("it has neither \"id\" nor \"collection\"".to_owned())
}

type Fits = fn(&Value) -> bool;

const COLLECTION_FIELDS: [(&str, &str, Fits); 7] = [
    ("collection", "a text", Value::is_string),
    ("tenant", "a text or null", text_or_null),
    ("database", "a text or null", text_or_null),
    ("space", "a text or null", text_or_null),
    ("dimension", "a whole number or null", |value| value.is_null() || value.is_u64()),
    ("metadata", "an object or null", |value| value.is_null() || value.is_object()),
    ("configuration", "an object or null", |_| true),
];

const RECORD_FIELDS: [(&str, &str, Fits); 5] = [
    ("id", "a text", Value::is_string),
    ("document", "a text or null", text_or_null),
    ("uri", "a text or null", text_or_null),
    ("metadata", "an object or null", |value| value.is_null() || value.is_object()),
    ("embedding", "a list of numbers or null", |value| value.is_null() || value.is_array()),
];

fn text_or_null(value: &Value) -> bool {
    value.is_null() || value.is_string()
}

fn fields(object: &Map<String, Value>, known: &[(&str, &str, Fits)]) -> Bad {
    for (field, value) in object {
        let Some((_, expected, fits)) = known.iter().find(|(name, ..)| name == field) else {
            let names: Vec<&str> = known.iter().map(|(name, ..)| *name).collect();
            return bad(
                &short(field),
                &format!("there is no such key; there are {}", names.join(", ")),
            );
        };
        if !fits(value) {
            return bad(field, &format!("expected {expected}, found {}", found(value)));
        }
        if let Some(at) =
            value.as_array().and_then(|list| list.iter().position(|one| !one.is_number()))
        {
            let found = found(&value[at]);
            return bad(&format!("{field}[{at}]"), &format!("expected a number, found {found}"));
        }
    }
    let numbers = object.get("embedding").and_then(Value::as_array).into_iter().flatten();
    if let Some(at) = numbers.map(Value::as_f64).position(|n| n.is_none_or(|n| n.abs() > LARGEST)) {
        return bad(&format!("embedding[{at}]"), "it is too large for a vector");
    }
    // Values are as they should be, so a key stands twice.
    Bad { field: None, why: "a key stands twice in it".to_owned(), collection: false }
}

fn found(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn bad(field: &str, why: &str) -> Bad {
    Bad { field: Some(field.to_owned()), why: why.to_owned(), collection: false }
}

/// A key, as much of it as is needed to find it.
fn short(key: &str) -> String {
    let mut out: String = key.chars().take(KEY_CHARS_MAX).collect();
    if out.len() < key.len() {
        out.push('…');
    }
    out
}

const KEY_CHARS_MAX: usize = 60;
/// Numbers of vectors have 32 bits.
const LARGEST: f64 = f32::MAX as f64;
