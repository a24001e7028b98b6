use std::io::Write;

use super::*;

fn stats(text: &str) -> Stats {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let stream = Stream::of_file(Some(file.path()), &[], &Steps::default()).unwrap();
    run(stream, &Steps::default()).unwrap()
}

#[test]
fn everything_is_counted() {
    let found = stats(
        r#"{"collection":"a","space":"cosine","dimension":2}
{"id":"1","document":"four","metadata":{"n":1,"t":"x"},"embedding":[3,4]}
{"id":"2","document":"four","metadata":{"n":2.5,"t":"x","l":[1,2]},"embedding":[0,0]}
{"id":"3","document":null,"metadata":{"n":-3,"b":true},"embedding":[3,4]}
{"id":"4","document":"longer","embedding":null}
{"collection":"b"}
{"id":"1","document":"x"}
no line
"#,
    );
    let exact = |count| Number { count, estimated: false };
    let a = &found.collections[0];
    assert_eq!((a.name.as_str(), a.records, a.dimension), ("a", 4, Some(2)));
    assert_eq!(a.documents, Documents { count: 3, bytes: 14, longest: 6, copies: exact(1) });
    let vectors = a.vectors.as_ref().unwrap();
    assert_eq!((vectors.count, vectors.missing, vectors.bytes, vectors.zeros), (3, 1, 24, 1));
    assert_eq!((vectors.length_min, vectors.length_max), (Some(0.0), Some(5.0)));
    assert_eq!((vectors.length_mean, vectors.copies), (Some(10.0 / 3.0), exact(1)));
    let names: Vec<&str> = a.keys.iter().map(|key| key.name.as_str()).collect();
    assert_eq!(names, ["b", "l", "n", "t"]);
    let n = &a.keys[2];
    assert_eq!((n.records, n.values, n.min, n.max), (3, exact(3), Some(-3.0), Some(2.5)));
    assert_eq!(n.types, [("integer", 2), ("number", 1)].into());
    assert_eq!((a.keys[3].values, a.keys[3].min), (exact(1), None));
    assert_eq!(a.metadata_bytes, (9 + 2) + (9 + 2 + 17) + (9 + 9));
    // A dump without vectors says nothing of them.
    assert_eq!(found.collections[1].vectors, None);
    assert_eq!(found.unread.count, 1);
}

#[test]
fn keys_without_an_end_are_not_remembered() {
    let line = |number| format!("{{\"id\":\"{number}\",\"metadata\":{{\"key{number}\":1}}}}\n");
    let records = (0..KEYS_MAX + 5).map(line).collect::<Vec<_>>().concat();
    let text = format!("{{\"collection\":\"a\"}}\n{records}");
    let found = stats(&text);
    assert_eq!(found.collections[0].keys.len(), KEYS_MAX);
    assert!(found.collections[0].more_keys);
}
