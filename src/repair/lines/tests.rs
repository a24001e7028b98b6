use std::io::Write;

use super::*;

fn all(bytes: &[u8]) -> Vec<Numbered> {
    let mut lines = Lines::new(io::Cursor::new(bytes.to_vec())).unwrap();
    let mut out = Vec::new();
    while let Some(line) = lines.next().unwrap() {
        out.push(line);
    }
    out
}

fn one(text: &str) -> Result<Line, String> {
    let mut all = all(text.as_bytes());
    assert_eq!(all.len(), 1, "{text}");
    all.remove(0).line.map_err(|bad| bad.to_string())
}

#[test]
fn lines_come_out_as_they_went_in_however_they_are_packed() {
    let text = "{\"collection\":\"a\",\"space\":\"l2\"}\n\n{\"id\":\"1\",\"document\":\"\\u0142\",\"metadata\":{\"f\":1.0,\"i\":1,\"l\":[true]},\"embedding\":[1.5,2]}\nno\n{\"id\":\"2\"}";
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(text.as_bytes()).unwrap();
    let zstd = zstd::encode_all(text.as_bytes(), 1).unwrap();
    for bytes in [text.as_bytes().to_vec(), gzip.finish().unwrap(), zstd] {
        let lines = all(&bytes);
        let numbers: Vec<u64> = lines.iter().map(|line| line.number).collect();
        assert_eq!(numbers, [1, 3, 4, 5]);
        let Ok(Line::Record(record)) = &lines[1].line else { panic!("{lines:?}") };
        assert_eq!(record.document.as_deref(), Some("ł"));
        assert_eq!(record.embedding.vector(), Some(&[1.5, 2.0][..]));
        assert!(record.metadata["f"].is_f64() && record.metadata["i"].is_i64());
        assert!(lines[2].line.is_err());
        let Ok(Line::Record(last)) = &lines[3].line else { panic!("{lines:?}") };
        assert_eq!(last.embedding, Embedding::Unsaid);
    }
}

#[test]
fn what_is_wrong_is_told_with_its_field() {
    for (text, want) in [
        ("{\"id\":1}", "id: expected a text, found a number"),
        ("{\"id\":\"\"}", "id: it is empty"),
        (
            "{\"id\":\"a\",\"documents\":\"x\"}",
            "documents: there is no such key; there are id, document, uri, metadata, embedding",
        ),
        ("{\"id\":\"a\",\"document\":7}", "document: expected a text or null, found a number"),
        ("{\"id\":\"a\",\"metadata\":[1]}", "metadata: expected an object or null, found a list"),
        ("{\"id\":\"a\",\"embedding\":[1,\"x\"]}", "embedding[1]: expected a number, found a text"),
        ("{\"id\":\"a\",\"embedding\":[1,1e39]}", "embedding[1]: it is too large for a vector"),
        ("{\"id\":\"a\",\"embedding\":[]}", "embedding: it has no numbers"),
        ("{\"id\":\"a\",\"id\":\"b\"}", "a key stands twice in it"),
        (
            "{\"id\":\"a\",\"metadata\":{\"k\":{}}}",
            "metadata.k: it is none of text, number, truth and list",
        ),
        (
            "{\"id\":\"a\",\"metadata\":{\"k\":[1,\"x\"]}}",
            "metadata.k: the values of a list are texts, numbers or truths, all of one kind",
        ),
        (
            "{\"id\":\"a\",\"metadata\":{\"k\":[[1]]}}",
            "metadata.k: the values of a list are texts, numbers or truths, all of one kind",
        ),
        (
            "{\"id\":\"a\",\"metadata\":{\"k\":18446744073709551615}}",
            "metadata.k: it is a whole number that does not fit into 64 bits",
        ),
        (
            "{\"id\":\"a\",\"metadata\":{\"chroma:document\":\"x\"}}",
            "metadata.chroma:document: keys that begin with chroma: belong to Chroma itself",
        ),
        ("{\"collection\":\"a\",\"space\":\"L2\"}", "space: it is none of l2, cosine and ip"),
        (
            "{\"collection\":\"a\",\"dimension\":-1}",
            "dimension: expected a whole number or null, found a number",
        ),
        ("{\"name\":\"a\"}", "it has neither \"id\" nor \"collection\""),
        ("[]", "it is no JSON object"),
    ] {
        assert_eq!(one(text).unwrap_err(), want, "{text}");
    }
    assert!(one("{\"id\":\"a\"").unwrap_err().starts_with("it is no JSON: "));
    let begins = |text: &str| all(text.as_bytes()).remove(0).line.unwrap_err().collection;
    assert!(begins("{\"collection\":7}") && begins("{\"collection\":\"\"}"));
    assert!(!begins("{\"id\":7}"));
}

#[test]
fn a_null_is_a_key_that_is_not_there() {
    let Ok(Line::Record(record)) =
        one("{\"id\":\"a\",\"metadata\":{\"k\":null,\"n\":1},\"embedding\":null}")
    else {
        panic!("no record")
    };
    assert_eq!(record.metadata.len(), 1);
    assert_eq!(record.embedding, Embedding::Lost);
}

#[test]
fn a_line_that_is_too_long_costs_no_other() {
    let mut text = vec![b'x'; LINE_BYTES_MAX + 10];
    text.extend_from_slice(b"\n{\"id\":\"a\"}\n");
    let lines = all(&text);
    assert_eq!(lines.len(), 2);
    assert!(lines[0].line.as_ref().unwrap_err().why.contains("longer than 64 MiB"));
    assert!(lines[1].line.is_ok());
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        drop(parse::line(&bytes));
        if let Ok(mut lines) = Lines::new(io::Cursor::new(bytes)) {
            while let Ok(Some(_)) = lines.next() {}
        }
    }
}
