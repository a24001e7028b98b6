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

/// A copy of the newest fixture.
fn fixture() -> (tempfile::TempDir, PathBuf) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/chroma-1.5.9");
    let scratch = tempfile::tempdir().unwrap();
    let options = unpack::Options {
        scratch: Some(scratch.path().to_owned()),
        copy: true,
        ..unpack::Options::default()
    };
    let to = scratch.path().join("store");
    unpack::open(&from, &options, &Steps::default()).unwrap().into(&to).unwrap();
    (scratch, to)
}

fn dumped(dir: &Path) -> (Dumped, Vec<Value>) {
    let mut out = Vec::new();
    let wanted = Wanted { embeddings: true, ..Wanted::default() };
    let dumped = run(dir, &wanted, &mut out, &Steps::default()).unwrap();
    let lines = out.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    (dumped, lines.map(|line| serde_json::from_slice(line).unwrap()).collect())
}

#[test]
fn a_whole_store_has_a_line_for_each_record() {
    let (_scratch, dir) = fixture();
    let (dumped, lines) = dumped(&dir);
    let whole = Dumped { collections: 2, records: 136, ..Dumped::default() };
    assert_eq!((dumped, lines.len()), (whole, 138));
}

/// Makes every leaf of a table or an index unreadable, or only the first one.
fn destroy(dir: &Path, name: &str, all: bool) {
    let database = dir.join(DATABASE_FILE);
    let connection = Connection::open(&database).unwrap();
    let mut statement = connection
        .prepare("SELECT pageno FROM dbstat WHERE name = ?1 AND pagetype = 'leaf' ORDER BY path")
        .unwrap();
    let pages: Vec<u32> =
        statement.query_map([name], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    drop(statement);
    drop(connection);
    let mut bytes = fs::read(&database).unwrap();
    for page in pages.iter().take(if all { pages.len() } else { 1 }) {
        let end = usize::try_from(*page).unwrap() * 4096;
        bytes[end - 4096..end].fill(0);
    }
    fs::write(&database, bytes).unwrap();
}

#[test]
fn a_damaged_index_of_a_table_costs_no_record() {
    let (_scratch, whole) = fixture();
    let (_, want) = dumped(&whole);
    for (name, says) in [
        ("sqlite_autoindex_embeddings_1", "an index of its table is damaged"),
        ("sqlite_autoindex_embedding_metadata_1", "an index of its metadata is damaged"),
        // Nothing but the names of databases hangs on it.
        ("sqlite_autoindex_databases_1", ""),
    ] {
        for all in [false, true] {
            let (_scratch, dir) = fixture();
            destroy(&dir, name, all);
            let (dumped, lines) = dumped(&dir);
            assert!(lines == want, "{name}: {dumped:?}");
            assert_eq!((dumped.unreadable, &dumped.losses), (0, &Vec::new()), "{name}");
            let notes = dumped.notes.concat();
            assert!(notes.contains(says) && notes.is_empty() == says.is_empty(), "{name}: {notes}");
        }
    }
}

#[test]
fn a_damaged_page_of_ids_takes_its_records_alone() {
    let (_scratch, dir) = fixture();
    destroy(&dir, "sqlite_autoindex_embeddings_1", true);
    destroy(&dir, "embeddings", false);
    let (dumped, lines) = dumped(&dir);
    assert!((1..136).contains(&dumped.records), "{dumped:?}");
    assert_eq!(lines.len() as u64, dumped.records + 2);
    assert!(
        dumped.losses.iter().any(|loss| loss.contains("1 parts of its table cannot be read")),
        "{dumped:?}"
    );
}

#[test]
fn what_a_damaged_page_takes_is_named_and_the_rest_is_there() {
    let (_scratch, dir) = fixture();
    let database = dir.join(DATABASE_FILE);
    let connection = Connection::open(&database).unwrap();
    let root: i64 = connection
        .query_row(
            "SELECT rootpage FROM sqlite_master WHERE name = 'embedding_metadata'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    drop(connection);
    // The first leaf of the table: the child that the first cell of its root names.
    let mut bytes = fs::read(&database).unwrap();
    let page = |number: i64| usize::try_from((number - 1) * 4096).unwrap();
    assert_eq!(bytes[page(root)], 5, "an interior page");
    let cell = page(root)
        + usize::from(u16::from_be_bytes([bytes[page(root) + 12], bytes[page(root) + 13]]));
    let leaf = i64::from(u32::from_be_bytes(bytes[cell..cell + 4].try_into().unwrap()));
    bytes[page(leaf)..page(leaf) + 4096].fill(0);
    fs::write(&database, bytes).unwrap();
    let (dumped, lines) = dumped(&dir);
    assert!(dumped.unreadable > 0 && dumped.records > 0, "{dumped:?}");
    assert_eq!(dumped.unreadable + dumped.records, 136, "{dumped:?}");
    assert_eq!(lines.len() as u64, dumped.records + 2);
    assert!(dumped.losses[0].contains("record articles-000: "), "{:?}", dumped.losses);
}

#[test]
fn records_without_an_index_are_there_and_their_vectors_are_told() {
    let (_scratch, dir) = fixture();
    for folder in fs::read_dir(&dir).unwrap().flatten().filter(|entry| entry.path().is_dir()) {
        fs::write(folder.path().join("index_metadata.pickle"), "torn").unwrap();
    }
    let (dumped, lines) = dumped(&dir);
    assert_eq!(dumped.records, 136, "{dumped:?}");
    // What is in the queue still has its vector.
    assert!((1..136).contains(&dumped.without_vector), "{dumped:?}");
    let null = lines.iter().filter(|line| line.get("embedding").is_some_and(Value::is_null));
    assert_eq!(null.count() as u64, dumped.without_vector);
    assert_eq!(dumped.losses.len(), 2, "{dumped:?}");
}

#[test]
fn numbers_that_json_does_not_have_are_left_out_and_said() {
    let connection = Connection::open_in_memory().unwrap();
    connection
        .execute_batch(
            "CREATE TABLE embedding_metadata(id INTEGER, key TEXT, string_value TEXT, int_value INTEGER, float_value REAL, bool_value INTEGER);
             CREATE TABLE embedding_metadata_array(id INTEGER, key TEXT, string_value TEXT, int_value INTEGER, float_value REAL, bool_value INTEGER);
             CREATE TABLE embeddings_queue(seq_id INTEGER PRIMARY KEY, vector BLOB, encoding TEXT, metadata TEXT);
             INSERT INTO embedding_metadata VALUES(1, 'a', NULL, NULL, 9e999, NULL), (1, 'b', NULL, NULL, 1.5, NULL), (1, 'c', NULL, NULL, NULL, NULL);
             INSERT INTO embedding_metadata_array VALUES(1, 'd', NULL, NULL, 1.5, NULL), (1, 'd', NULL, NULL, -9e999, NULL), (1, 'e', 'x', NULL, NULL, NULL);",
        )
        .unwrap();
    let mut asker = catalogue::Asker::new(&connection).unwrap();
    let record = asker.record(1).unwrap();
    assert_eq!(record.metadata, metadata(&json!({"b": 1.5, "e": ["x"]})));
    assert_eq!(asker.take_infinite().into_iter().collect::<Vec<_>>(), ["a", "d"]);
    for (number, (text, want)) in [
        (r#"{"a": 1}"#, Some((json!({"a": 1}), vec![]))),
        // As Python writes them.
        (
            r#"{"a":-Infinity,"b":NaN ,"c": [Infinity],"d":"NaN \\\" Infinity","e\\":"x"}"#,
            Some((
                json!({"a":null,"b":null,"c":null,"d":"NaN \\\" Infinity","e\\":"x"}),
                vec!["a", "b", "c"],
            )),
        ),
        ("{}", Some((json!({}), vec![]))),
        ("null", Some((json!({}), vec![]))),
        (r#"{"a":null,"l":[null,1.0]}"#, Some((json!({"a":null,"l":null}), vec!["l"]))),
        (r#"{"a": "\ud800"}"#, None),
        (r#"{"a": Inf}"#, None),
        ("\"", None),
        ("[1]", None),
    ]
    .into_iter()
    .enumerate()
    {
        let row = i64::try_from(number).unwrap();
        connection
            .execute("INSERT INTO embeddings_queue VALUES(?1, NULL, NULL, ?2)", (row, text))
            .unwrap();
        let queued = asker.queued(row).ok();
        let infinite: Vec<String> = asker.take_infinite().into_iter().collect();
        let found = queued.map(|map| (Value::Object(map), infinite));
        let want = want.map(|(map, keys)| (map, keys.into_iter().map(str::to_owned).collect()));
        assert_eq!(found, want, "{text}");
    }
    assert_eq!(asker.queued(99).unwrap(), Map::new(), "it has none");
}
