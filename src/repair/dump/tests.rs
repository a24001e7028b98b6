use serde_json::{Map, json};

use super::{
    line::{Embedding, Line},
    record::Record,
    tail::{Kind, Operation, Where, applied, vector_of},
    *,
};

fn metadata(value: &Value) -> Metadata {
    value.as_object().unwrap().clone().into_iter().collect()
}

fn op(seq_id: i64, kind: Kind, vector: bool) -> Operation {
    Operation { seq_id, kind, vector }
}

#[test]
fn conditions_mean_what_they_mean_to_chroma() {
    let record = metadata(
        &json!({"page": 3, "score": 1.5, "draft": true, "topic": "amber", "tags": ["a", "b"]}),
    );
    for (condition, holds) in [
        (json!({"page": 3}), true),
        (json!({"page": 3.0}), false),
        (json!({"page": {"$gte": 3}}), true),
        (json!({"page": {"$gt": 3}}), false),
        (json!({"score": {"$lt": 2.0}}), true),
        (json!({"score": {"$lt": 2}}), false),
        (json!({"topic": {"$in": ["amber", "brook"]}}), true),
        (json!({"topic": {"$nin": ["amber"]}}), false),
        (json!({"absent": {"$nin": ["amber"]}}), true),
        (json!({"absent": {"$ne": 1}}), true),
        (json!({"absent": 1}), false),
        (json!({"draft": {"$ne": true}}), false),
        (json!({"tags": {"$contains": "a"}}), true),
        (json!({"tags": {"$not_contains": "a"}}), false),
        (json!({"$and": [{"page": 3}, {"draft": true}]}), true),
        (json!({"$or": [{"page": 4}, {"$and": [{"draft": true}, {"topic": "brook"}]}]}), false),
    ] {
        let filter: Filter = condition.to_string().parse().unwrap();
        assert_eq!(filter.holds(&record), holds, "{condition}");
    }
}

#[test]
fn a_condition_that_chroma_refuses_is_refused_with_the_place() {
    for (condition, at) in [
        (json!({"a": 1, "b": 2}), "the condition"),
        (json!({"$and": []}), "$and"),
        (json!({"$and": [{"a": {"$like": "x"}}]}), "$like"),
        (json!({"a": {"$in": "x"}}), "$in"),
        (json!({"a": null}), "a"),
        (json!([1]), "the condition"),
        (json!({"$not": {"a": 1}}), "$not"),
    ] {
        let error = condition.to_string().parse::<Filter>().unwrap_err();
        assert!(error.to_string().starts_with(&format!("{at}: expected ")), "{condition}: {error}");
    }
    assert!(matches!("{".parse::<Filter>(), Err(FilterError::Json(_))));
    let deep = r#"{"$and":["#.repeat(50) + r#"{"a":1}"# + &"]}".repeat(50);
    assert!(matches!(deep.parse::<Filter>(), Err(FilterError::Deep)));
}

#[test]
fn operations_do_to_a_record_what_chroma_does() {
    let given =
        |value: Value| move || Ok::<Map<String, Value>, ()>(value.as_object().unwrap().clone());
    let added = applied(None, Kind::Add, given(json!({"page": 1, "chroma:document": "text"})));
    let added = added.unwrap().unwrap();
    assert_eq!(added.document.as_deref(), Some("text"));
    assert_eq!(added.metadata, metadata(&json!({"page": 1})));
    // An addition of what is there, and an update of what is not there, are nothing.
    let again = applied(Some(added.clone()), Kind::Add, given(json!({"page": 2}))).unwrap();
    assert_eq!(again, Some(added.clone()));
    assert_eq!(applied(None, Kind::Update, given(json!({"page": 2}))).unwrap(), None);
    // Keys that are not named stay; null takes one away.
    let updated = applied(Some(added), Kind::Upsert, given(json!({"page": null, "topic": "x"})));
    let updated = updated.unwrap().unwrap();
    assert_eq!(updated.document.as_deref(), Some("text"));
    assert_eq!(updated.metadata, metadata(&json!({"topic": "x"})));
    assert_eq!(applied(Some(updated), Kind::Delete, given(json!({}))).unwrap(), None);
}

#[test]
fn the_newest_vector_is_found() {
    use Kind::{Add, Delete, Update, Upsert};
    for (in_index, operations, place) in [
        (true, vec![], Where::Index),
        (false, vec![], Where::Nowhere),
        (false, vec![op(11, Add, true)], Where::Queue(11)),
        (true, vec![op(11, Add, true)], Where::Index),
        (true, vec![op(11, Update, false)], Where::Index),
        (true, vec![op(11, Update, true)], Where::Queue(11)),
        (false, vec![op(11, Update, true)], Where::Nowhere),
        (true, vec![op(11, Delete, false), op(12, Add, true)], Where::Queue(12)),
        (true, vec![op(11, Upsert, true), op(12, Delete, false)], Where::Nowhere),
        // What the index has taken in already does not count again.
        (true, vec![op(9, Delete, false)], Where::Index),
    ] {
        assert_eq!(vector_of(in_index, &operations, 10), place, "{operations:?}");
    }
}

#[test]
fn lines_keep_types_and_are_the_same_each_time() {
    let record = Record {
        document: Some("łąka\n\"".to_owned()),
        uri: None,
        metadata: metadata(&json!({"z": 1, "a": 1.0, "m": true, "l": ["x"]})),
    };
    let mut out = Vec::new();
    Line { id: "a", record: &record, embedding: Embedding::Is(&[0.1, -2.0]) }
        .write(&mut out)
        .unwrap();
    Line { id: "b", record: &Record::default(), embedding: Embedding::Lost }
        .write(&mut out)
        .unwrap();
    Line { id: "c", record: &Record::default(), embedding: Embedding::Unwanted }
        .write(&mut out)
        .unwrap();
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "{\"id\":\"a\",\"document\":\"łąka\\n\\\"\",\"metadata\":{\"a\":1.0,\"l\":[\"x\"],\"m\":true,\"z\":1},\"embedding\":[0.1,-2.0]}\n\
         {\"id\":\"b\",\"document\":null,\"metadata\":null,\"embedding\":null}\n\
         {\"id\":\"c\",\"document\":null,\"metadata\":null}\n"
    );
}
