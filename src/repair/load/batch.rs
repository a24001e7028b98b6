//! Batches: how many records go in one request, and what becomes of one that the server refuses: halves, until the record is found that
//! it does not take. The others are loaded.

use std::{collections::HashSet, fmt};

use base64::prelude::{BASE64_STANDARD, Engine};
use bytes::Bytes;
use serde::{Serialize, Serializer};

use super::{
    Ended, Loaded,
    proof::Proof,
    server::{Asked, NoAnswer, Place, Server},
};
use crate::repair::{dump::Metadata, lines::Record};

/// Records that go in one request, with the numbers of their lines.
#[derive(Debug)]
pub(super) struct Batch {
    records: Vec<(u64, Record)>,
    ids: HashSet<String>,
    bytes: usize,
    records_max: usize,
    base64: bool,
}

impl Batch {
    /// For a server that takes so many records in one request, and vectors as base64 or as numbers.
    pub(super) fn new(records_max: usize, base64: bool) -> Self {
        Self { records: Vec::new(), ids: HashSet::new(), bytes: 0, records_max, base64 }
    }

    /// An empty one for the same server.
    pub(super) fn next(&self) -> Self {
        Self::new(self.records_max, self.base64)
    }

    /// Whether there is room for it. An id stands once in a request: of two, nobody says which one counts.
    pub(super) fn takes(&self, record: &Record) -> bool {
        self.records.is_empty()
            || self.records.len() < self.records_max
                && self.bytes + bytes(record, self.base64) <= BODY_BYTES
                && !self.ids.contains(&record.id)
    }

    pub(super) fn push(&mut self, line: u64, record: Record) {
        self.bytes += bytes(&record, self.base64);
        self.ids.insert(record.id.clone());
        self.records.push((line, record));
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// About how long its request is.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether an id stands in both.
    pub(super) fn meets(&self, other: &Self) -> bool {
        !self.ids.is_disjoint(&other.ids)
    }

    /// Takes the lists out of the metadata, which this server does not keep, and tells of them.
    pub(super) fn without_lists(&mut self, loaded: &mut Loaded) {
        without_lists(&mut self.records, loaded);
    }

    /// The request. Errs when it cannot be written as JSON.
    pub(super) fn body(&self) -> Result<Bytes, NoAnswer> {
        body(&self.records, self.bytes, self.base64)
    }
}

/// About how long it is in a request.
fn bytes(record: &Record, base64: bool) -> usize {
    let text = |text: &Option<String>| text.as_ref().map_or(4, |text| text.len() + 8);
    let metadata: usize = record
        .metadata
        .iter()
        .map(|(key, value)| key.len() + value.as_str().map_or(24, str::len) + 8)
        .sum();
    let numbers = record.embedding.vector().map_or(0, <[f32]>::len);
    let vector = if base64 { numbers.div_ceil(3) * 16 } else { numbers * NUMBER_BYTES };
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
    Base64(Base64<'a>),
}

impl<'a> Body<'a> {
    fn of(records: &'a [(u64, Record)], base64: bool) -> Self {
        let each = || records.iter().map(|(_, record)| record);
        let vector = |record: &'a Record| {
            let numbers = record.embedding.vector().unwrap_or_default();
            if base64 { Vector::Base64(Base64(numbers)) } else { Vector::Numbers(numbers) }
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

/// The body of a request with these records. `room`: about how long it is. Errs when it cannot be written as JSON.
fn body(records: &[(u64, Record)], room: usize, base64: bool) -> Result<Bytes, NoAnswer> {
    let mut out = Vec::with_capacity(room + records.len() * FRAME_BYTES);
    serde_json::to_writer(&mut out, &Body::of(records, base64))
        .map_err(|error| NoAnswer::Strange(error.to_string()))?;
    Ok(out.into())
}

/// The bytes of these numbers, each with its last byte first.
struct Base64<'a>(&'a [f32]);

impl Serialize for Base64<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl fmt::Display for Base64<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut bytes, mut text) = ([0_u8; PART * 4], [0_u8; PART / 3 * 16]);
        for part in self.0.chunks(PART) {
            for (bytes, number) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(part) {
                *bytes = number.to_le_bytes();
            }
            let length = BASE64_STANDARD
                .encode_slice(&bytes[..part.len() * 4], &mut text)
                .map_err(|_| fmt::Error)?;
            f.write_str(std::str::from_utf8(&text[..length]).map_err(|_| fmt::Error)?)?;
        }
        Ok(())
    }
}

/// `None` when it says nothing.
fn some<T>(all: Vec<Option<T>>) -> Option<Vec<Option<T>>> {
    all.iter().any(Option::is_some).then_some(all)
}

/// What came of a batch that was sent: gives how many of its records the server did not take. When it refused the whole, the records are
/// sent in halves. Errs when it is no use to go on.
pub(super) fn settle(
    server: &mut Server,
    place: Place<'_>,
    id: &str,
    batch: Batch,
    answer: Result<(), NoAnswer>,
    proof: &mut Proof,
    loaded: &mut Loaded,
) -> Result<u64, Ended> {
    let mut records = batch.records;
    let (mut lost, mut in_a_row) = (0, 0);
    let (mut parts, mut answer) = (vec![(0, records.len())], Some(answer));
    while let Some((from, to)) = parts.pop() {
        let answer = if let Some(answer) = answer.take() {
            answer
        } else {
            if !server.able.lists {
                without_lists(&mut records[from..to], loaded);
            }
            let part = &records[from..to];
            let room = part.iter().map(|(_, one)| bytes(one, server.able.base64)).sum();
            // Only the whole is sent with patience: then the server is there, and it is the records.
            let body = body(part, room, server.able.base64)?;
            server.upsert(place, id, body, Asked::Once).and_then(|sent| server.answered(sent))
        };
        let part = &records[from..to];
        let error = match answer {
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
            parts.push((middle, to));
            parts.push((from, middle));
            continue;
        }
        let (line, record) = &part[0];
        if record.metadata.values().any(serde_json::Value::is_array) && says_metadata(&error) {
            // A server before 1.5 whose description could not be read.
            server.able.lists = false;
            parts.push((from, to));
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

fn without_lists(records: &mut [(u64, Record)], loaded: &mut Loaded) {
    for (line, record) in records {
        let lists = record.metadata.iter().filter(|(_, value)| value.is_array());
        let lists: Vec<&str> = lists.map(|(key, _)| key.as_str()).collect();
        if lists.is_empty() {
            continue;
        }
        let lists = lists.join(", ");
        let why = format!("metadata: this server keeps no lists, so it is loaded without {lists}");
        loaded.lose(*line, Some(&record.id), &why);
        record.metadata.retain(|_, value| !value.is_array());
    }
}

/// Numbers at once: as many as make whole groups of three bytes.
const PART: usize = 384;
/// About what a number takes as text.
const NUMBER_BYTES: usize = 8;
/// What a record takes beside its values.
const FRAME_BYTES: usize = 32;
/// Servers of 1.x take 40 MB. With two in the air and one being made, all of it is in memory three times.
pub(super) const BODY_BYTES: usize = 8 << 20;
/// After so many refusals without one record that is taken in between, it is not the records.
const REFUSED_MAX: u64 = 50;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repair::lines::Embedding;

    fn record(id: &str, numbers: usize) -> Record {
        Record {
            id: id.to_owned(),
            embedding: Embedding::Is(vec![0.5; numbers]),
            ..Record::default()
        }
    }

    #[test]
    fn a_batch_is_full_by_number_by_bytes_and_by_an_id_that_comes_again() {
        let mut batch = Batch::new(2, true);
        assert!(batch.takes(&record("a", BODY_BYTES)), "one is always taken");
        batch.push(1, record("a", 3));
        assert!(!batch.takes(&record("a", 3)) && batch.takes(&record("b", 3)));
        assert!(!batch.takes(&record("b", BODY_BYTES)));
        batch.push(2, record("b", 3));
        assert!(!batch.takes(&record("c", 3)));
        let mut other = Batch::new(2, true);
        other.push(3, record("c", 3));
        assert!(!batch.meets(&other));
        other.push(4, record("b", 3));
        assert!(batch.meets(&other));
    }

    fn said(records: &[(u64, Record)], base64: bool) -> serde_json::Value {
        serde_json::from_slice(&body(records, 0, base64).unwrap()).unwrap()
    }

    #[test]
    fn a_request_says_only_what_there_is() {
        let records =
            [(1, record("a", 2)), (2, Record { document: Some("x".to_owned()), ..record("b", 2) })];
        let want = serde_json::json!({"ids":["a","b"],"embeddings":[[0.5,0.5],[0.5,0.5]],"documents":[null,"x"],"metadatas":null,"uris":null});
        assert_eq!(said(&records, false), want);
        // Two times 0x3f000000, the first byte last.
        assert_eq!(
            said(&records, true)["embeddings"],
            serde_json::json!(["AAAAPwAAAD8=", "AAAAPwAAAD8="])
        );
    }

    #[test]
    fn a_vector_of_any_length_is_the_base64_of_its_bytes() {
        for length in [1, 2, 383, 384, 385, 767, 768, 769, 3_072] {
            let numbers: Vec<f32> =
                (0..length).map(|number: u16| f32::from(number) / 7.0).collect();
            let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            assert_eq!(Base64(&numbers).to_string(), BASE64_STANDARD.encode(bytes), "{length}");
        }
    }

    #[test]
    fn lists_are_taken_out_and_told_once() {
        let metadata = [("l".to_owned(), serde_json::json!([1])), ("n".to_owned(), 1.into())];
        let mut batch = Batch::new(9, false);
        batch.push(7, Record { metadata: metadata.into(), ..record("a", 1) });
        let mut loaded = Loaded::default();
        batch.without_lists(&mut loaded);
        batch.without_lists(&mut loaded);
        assert_eq!((loaded.lost, batch.records[0].1.metadata.len()), (1, 1));
        assert!(loaded.losses[0].starts_with("line 7 (record a): metadata: "), "{loaded:?}");
    }
}
