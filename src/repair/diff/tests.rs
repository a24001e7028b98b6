use std::io::Write;

use super::*;

fn stream(text: &str) -> Stream {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    Stream::of_file(Some(file.path()), &[], &Steps::default()).unwrap()
}

fn compared(a: &str, b: &str, epsilon: f64) -> Result<Difference, StreamError> {
    run(stream(a), stream(b), Wish { epsilon, vectors: true }, &Steps::default())
}

const ONE: &str = r#"{"collection":"a","space":"l2","dimension":2,"metadata":{"k":1}}
{"id":"1","document":"x","metadata":{"n":1,"m":2},"embedding":[1,0]}
{"id":"2","document":"x","metadata":{"n":1},"embedding":[0,1]}
{"id":"4","document":"x","embedding":null}
{"collection":"c","space":"l2"}
{"id":"1"}
"#;

const TWO: &str = r#"{"collection":"a","space":"ip","dimension":2,"metadata":{"k":1}}
{"id":"1","document":"y","metadata":{"n":1.0,"o":2},"embedding":[1,0.001]}
{"id":"3","document":"x","embedding":[0,1]}
{"id":"4","document":"x","embedding":[1,1]}
{"collection":"b","space":"l2"}
{"id":"1"}
{"id":"2"}
"#;

#[test]
fn every_kind_of_difference_is_found() {
    let found = compared(ONE, TWO, 1e-6).unwrap();
    let ids = |first: &[&str]| Ids {
        count: first.len() as u64,
        first: first.iter().map(|id| (*id).to_owned()).collect(),
    };
    let whole = |name: &str| Differing {
        tenant: "default_tenant".to_owned(),
        database: "default_database".to_owned(),
        name: name.to_owned(),
        ..Differing::default()
    };
    assert_eq!(
        found.differing[0],
        Differing {
            settings: vec!["space: l2 and ip".to_owned()],
            records_a: 3,
            records_b: 3,
            only_a: ids(&["2"]),
            only_b: ids(&["3"]),
            documents: ids(&["1"]),
            metadata: ids(&["1: m only in a, o only in b, n differs"]),
            vectors: ids(&["1: 1.00e-3 apart", "4: only b has one"]),
            ..whole("a")
        }
    );
    assert_eq!(found.differing[1], Differing { only_in: Some("b"), records_b: 2, ..whole("b") });
    assert_eq!(found.differing[2], Differing { only_in: Some("a"), records_a: 1, ..whole("c") });
    assert_eq!((found.differing_collections, found.collections), (3, 1));
    assert_eq!((found.records_a, found.records_b), (4, 5));
    assert!(!found.is_none() && found.is_whole());
    // Far enough apart, and near enough.
    let near = compared(ONE, TWO, 0.01).unwrap();
    assert_eq!(near.differing[0].vectors, ids(&["4: only b has one"]));
    assert_eq!(near.vectors_near, 1);
    assert!((near.largest_near - 1e-3).abs() < 1e-6);
}

#[test]
fn the_same_is_the_same() {
    for text in [ONE, TWO, ""] {
        let found = compared(text, text, 0.0).unwrap();
        assert!(found.is_none() && found.is_whole(), "{found:?}");
    }
    assert_eq!(compared(ONE, ONE, 0.0).unwrap().vectors_uncompared, 1);
}

#[test]
fn a_line_that_cannot_be_read_is_not_the_same() {
    let found = compared(ONE, &format!("{ONE}no line\n"), 0.0).unwrap();
    assert!(found.is_none() && !found.is_whole());
    assert!(found.unread_b.told[0].starts_with("line 7: it is no JSON"), "{found:?}");
}

#[test]
fn what_is_not_in_order_is_refused() {
    for (text, why) in [
        (
            "{\"collection\":\"a\"}\n{\"id\":\"2\"}\n{\"id\":\"1\"}\n",
            "the record 1 stands behind one that comes later",
        ),
        (
            "{\"collection\":\"a\"}\n{\"id\":\"2\"}\n{\"id\":\"2\"}\n",
            "the id 2 stands twice in one collection",
        ),
        (
            "{\"collection\":\"b\"}\n{\"collection\":\"a\"}\n",
            "the collection a stands behind one that comes later",
        ),
    ] {
        let error = compared(text, ONE, 0.0).unwrap_err().to_string();
        assert!(error.ends_with(why), "{error}");
    }
    let error = compared(&"x\n".repeat(200), ONE, 0.0).unwrap_err().to_string();
    assert!(error.contains("is no dump"), "{error}");
}

#[test]
fn distances_are_shares_of_a_length() {
    for (a, b, want) in [
        (&[1.0, 0.0][..], &[1.0, 0.0][..], Some(0.0)),
        (&[100.0, 0.0], &[99.0, 0.0], Some(0.01)),
        (&[0.0], &[0.0], Some(0.0)),
        (&[0.0], &[-0.0], Some(0.0)),
        (&[1.0], &[-1.0], Some(2.0)),
        (&[1.0], &[1.0, 0.0], None),
    ] {
        assert_eq!(distance(a, b), want, "{a:?} {b:?}");
    }
}

#[test]
fn a_collection_that_neither_has_is_not_the_same() {
    let named = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let one = || {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(ONE.as_bytes()).unwrap();
            Stream::of_file(Some(file.path()), &names, &Steps::default()).unwrap()
        };
        run(one(), one(), Wish { epsilon: 0.0, vectors: true }, &Steps::default())
    };
    let found = named(&["c"]).unwrap();
    assert_eq!((found.collections, found.records_a), (1, 1));
    let error = named(&["a", "none"]).unwrap_err().to_string();
    assert!(error.ends_with("has no collection \"none\""), "{error}");
}

#[test]
fn settings_of_an_index_are_compared_in_whatever_form_they_are() {
    let line = |more: &str| format!("{{\"collection\":\"a\",\"space\":\"ip\"{more}}}\n");
    let of_1_5 = r##","configuration":{"defaults":{},"keys":{"#embedding":{"float_list":{"vector_index":{"config":{"space":"ip","hnsw":{"ef_construction":150,"ef_search":100,"max_neighbors":24,"num_threads":2},"embedding_function":{"type":"known","name":"default","config":{}}}}}}}}"##;
    let of_1_1 = r#","configuration":{"vector_index":{"hnsw":{"space":"ip","ef_construction":150,"max_neighbors":24,"num_threads":8}},"embedding_function":{"type":"known","name":"other","config":{}}}"#;
    let of_0_6 = r#","metadata":{"hnsw:space":"ip","hnsw:construction_ef":150,"hnsw:M":24.0,"hnsw:num_threads":3},"configuration":{"_type":"CollectionConfigurationInternal","hnsw_configuration":{"M":16}}"#;
    let settings = |a: &str, b: &str| {
        let found = compared(&line(a), &line(b), 0.0).unwrap();
        assert_eq!((found.collections, found.is_whole()), (1, true), "{a} {b}");
        found.differing.first().map(|differing| differing.settings.clone()).unwrap_or_default()
    };
    assert_eq!(settings(of_1_5, of_0_6), [""; 0]);
    assert_eq!(settings(of_1_1, of_0_6), [""; 0]);
    assert_eq!(settings(of_1_5, of_1_1), ["embedding function: default and other"]);
    // By default ef_construction is 100, and M is 16.
    assert_eq!(settings(of_0_6, ""), ["ef_construction: 150 and 100", "max_neighbors: 24 and 16"]);
    // Which 1.1 does not keep.
    let batch = r#","metadata":{"hnsw:batch_size":10}"#;
    assert_eq!(settings(batch, ""), ["batch_size: 10 and 100"]);
    let of_1_1 = r#","configuration":{"vector_index":{"hnsw":{"space":"ip","max_neighbors":16}}}"#;
    assert_eq!(settings(batch, of_1_1), [""; 0]);
    let synced = r#","metadata":{"hnsw:sync_threshold":40,"k":1}"#;
    assert_eq!(settings(synced, ""), ["sync_threshold: 40 and 1000", "metadata: k only in a"]);
}

/// Chroma 1.5 stores 0.1 + 0.2 as 0.3 at times.
#[test]
fn the_last_digit_of_a_number_in_metadata_is_no_difference() {
    let line = |number: &str| {
        format!(
            "{{\"collection\":\"a\",\"space\":\"l2\"}}\n{{\"id\":\"1\",\"metadata\":{{\"n\":{number},\"l\":[{number}]}}}}\n"
        )
    };
    for (a, b, same) in [
        ("0.3", "0.30000000000000004", true),
        ("-1e300", "-1.0000000000000002e300", true),
        ("0.3", "0.3000000000001", false),
        ("1", "1.0", false),
        ("0.0", "5e-324", false),
    ] {
        let found = compared(&line(a), &line(b), 0.0).unwrap();
        assert_eq!(found.is_none(), same, "{a} and {b}: {found:?}");
    }
}
