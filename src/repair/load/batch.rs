//! Batches: how many records go in one request, and what becomes of one that the server refuses: halves, until the record is found that
//! it does not take. The others are loaded.

use std::collections::HashSet;

use base64::prelude::{BASE64_STANDARD, Engine};
use serde::Serialize;

use super::{
    Ended, Loaded,
    proof::Proof,
    server::{Abilities, Asked, NoAnswer, Place, Server},
};
use crate::repair::{dump::Metadata, lines::Record};

/// Records that wait, with the numbers of their lines.
pub(super) type Records = Vec<(u64, Record)>;

/// What waits to be sent.
#[derive(Debug)]
pub(super) struct Batch {
    records: Records,
    ids: HashSet<String>,
    bytes: usize,
    records_max: usize,
}

impl Batch {
    pub(super) fn new(records_max: usize) -> Self {
        Self { records: Vec::new(), ids: HashSet::new(), bytes: 0, records_max }
    }

    /// Whether there is room for it. An id stands once in a request: of two, nobody says which one counts.
    pub(super) fn takes(&self, record: &Record) -> bool {
        self.records.is_empty()
            || self.records.len() < self.records_max
                && self.bytes + bytes(record) <= BODY_BYTES
                && !self.ids.contains(&record.id)
    }

    pub(super) fn push(&mut self, line: u64, record: Record) {
        self.bytes += bytes(&record);
        self.ids.insert(record.id.clone());
        self.records.push((line, record));
    }

    pub(super) fn take(&mut self) -> Records {
        self.bytes = 0;
        self.ids.clear();
        std::mem::take(&mut self.records)
    }
}

/// About how long it is in a request.
fn bytes(record: &Record) -> usize {
    let text = |text: &Option<String>| text.as_ref().map_or(4, |text| text.len() + 8);
    let metadata: usize = record
        .metadata
        .iter()
        .map(|(key, value)| key.len() + value.as_str().map_or(24, str::len) + 8)
        .sum();
    let vector = record.embedding.vector().map_or(0, |vector| vector.len() * 8);
    record.id.len() + text(&record.document) + text(&record.uri) + metadata + vector
}

#[derive(Serialize)]
struct Body<'a> {
    ids: Vec<&'a str>,
    embeddings: Vec<Vector<'a>>,
    documents: Option<Vec<Option<&'a str>>>,
    metadatas: Option<Vec<Option<&'a Metadata>>>,
    uris: Option<Vec<Option<&'a str>>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector<'a> {
    Numbers(&'a [f32]),
    Base64(String),
}

impl<'a> Body<'a> {
    fn of(records: &'a [(u64, Record)], able: Abilities) -> Self {
        let each = || records.iter().map(|(_, record)| record);
        let vector = |record: &'a Record| {
            let numbers = record.embedding.vector().unwrap_or_default();
            if able.base64 {
                let bytes: Vec<u8> =
                    numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
                Vector::Base64(BASE64_STANDARD.encode(bytes))
            } else {
                Vector::Numbers(numbers)
            }
        };
        Self {
            ids: each().map(|record| &*record.id).collect(),
            embeddings: each().map(vector).collect(),
            documents: some(each().map(|record| record.document.as_deref()).collect()),
            metadatas: some(
                each()
                    .map(|record| Some(&record.metadata).filter(|metadata| !metadata.is_empty()))
                    .collect(),
            ),
            uris: some(each().map(|record| record.uri.as_deref()).collect()),
        }
    }
}

/// `None` when it says nothing.
fn some<T>(all: Vec<Option<T>>) -> Option<Vec<Option<T>>> {
    all.iter().any(Option::is_some).then_some(all)
}

/// Sends records, and gives how many of them the server did not take. Errs when it is no use to go on.
pub(super) fn deliver(
    server: &mut Server<'_>,
    place: Place<'_>,
    id: &str,
    mut records: Records,
    proof: &mut Proof,
    loaded: &mut Loaded,
) -> Result<u64, Ended> {
    let (mut lost, mut in_a_row) = (0, 0);
    // Only the whole is sent with patience: then the server is there, and it is the records.
    let mut parts = vec![(0, records.len(), Asked::Patiently)];
    while let Some((from, to, asked)) = parts.pop() {
        if !server.able.lists {
            for (line, record) in &mut records[from..to] {
                tell_lists(*line, record, loaded);
                record.metadata.retain(|_, value| !value.is_array());
            }
        }
        let part = &records[from..to];
        let body = Body::of(part, server.able);
        let error = match server.upsert(place, id, &body, asked) {
            Ok(()) => {
                in_a_row = 0;
                for (_, record) in part {
                    proof.sent_one(record);
                }
                continue;
            }
            Err(NoAnswer::Refused { status: 404, text }) => {
                return Err(Ended::Said(format!("the collection is not there any more: {text}")));
            }
            Err(error @ NoAnswer::Refused { .. }) => error,
            // It is there, and still does not answer this.
            Err(error @ NoAnswer::Silent { .. }) if server.is_alive() => error,
            Err(error) => return Err(error.into()),
        };
        if to - from > 1 {
            let middle = from + (to - from) / 2;
            parts.push((middle, to, Asked::Once));
            parts.push((from, middle, Asked::Once));
            continue;
        }
        let (line, record) = &part[0];
        if record.metadata.values().any(serde_json::Value::is_array) && says_metadata(&error) {
            // A server before 1.5 whose description could not be read.
            server.able.lists = false;
            parts.push((from, to, Asked::Once));
            continue;
        }
        loaded.lose(*line, Some(&record.id), &error);
        (lost, in_a_row) = (lost + 1, in_a_row + 1);
        if in_a_row >= REFUSED_MAX {
            return Err(Ended::Said(format!(
                "the server takes none of {REFUSED_MAX} records: {error}"
            )));
        }
    }
    Ok(lost)
}

fn says_metadata(error: &NoAnswer) -> bool {
    matches!(error, NoAnswer::Refused { text, .. } if text.contains("etadata"))
}

/// Tells of lists that a server does not keep.
pub(super) fn tell_lists(line: u64, record: &Record, loaded: &mut Loaded) {
    let lists: Vec<&str> = record
        .metadata
        .iter()
        .filter(|(_, value)| value.is_array())
        .map(|(key, _)| key.as_str())
        .collect();
    if !lists.is_empty() {
        let lists = lists.join(", ");
        let why = format!("metadata: this server keeps no lists, so it is loaded without {lists}");
        loaded.lose(line, Some(&record.id), &why);
    }
}

/// Servers of 1.x take 40 MB.
const BODY_BYTES: usize = 12 << 20;
/// After so many refusals without one record that is taken in between, it is not the records.
const REFUSED_MAX: u64 = 50;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repair::{lines::Embedding, load::server::Api};

    fn record(id: &str, numbers: usize) -> Record {
        Record {
            id: id.to_owned(),
            embedding: Embedding::Is(vec![0.5; numbers]),
            ..Record::default()
        }
    }

    #[test]
    fn a_batch_is_full_by_number_by_bytes_and_by_an_id_that_comes_again() {
        let mut batch = Batch::new(2);
        assert!(batch.takes(&record("a", BODY_BYTES)), "one is always taken");
        batch.push(1, record("a", 3));
        assert!(!batch.takes(&record("a", 3)) && batch.takes(&record("b", 3)));
        assert!(!batch.takes(&record("b", BODY_BYTES)));
        batch.push(2, record("b", 3));
        assert!(!batch.takes(&record("c", 3)));
        assert_eq!(batch.take().len(), 2);
        assert!(batch.takes(&record("a", 3)));
    }

    #[test]
    fn a_request_says_only_what_there_is() {
        let able = Abilities {
            api: Api::V2,
            batch_max: 9,
            base64: false,
            modern: true,
            schema: true,
            lists: true,
        };
        let records =
            [(1, record("a", 2)), (2, Record { document: Some("x".to_owned()), ..record("b", 2) })];
        let body = serde_json::to_value(Body::of(&records, able)).unwrap();
        let want = serde_json::json!({"ids":["a","b"],"embeddings":[[0.5,0.5],[0.5,0.5]],"documents":[null,"x"],"metadatas":null,"uris":null});
        assert_eq!(body, want);
        let body =
            serde_json::to_value(Body::of(&records, Abilities { base64: true, ..able })).unwrap();
        // Two times 0x3f000000, the first byte last.
        assert_eq!(body["embeddings"], serde_json::json!(["AAAAPwAAAD8=", "AAAAPwAAAD8="]));
    }
}
