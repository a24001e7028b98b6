//! Whether the server has what it was sent: as many records as there should be, and some of them read back.

use serde_json::Value;

use super::{Collected, Loaded, Target, server::Server, state::Sent};
use crate::repair::lines::Record;

/// What was sent into one collection.
#[derive(Debug)]
pub(super) struct Proof {
    sent: Sent,
    /// Some records, as they were sent last.
    sample: Vec<Record>,
    seen: u64,
}

/// How one record differs.
#[derive(Debug, PartialEq, Eq)]
enum Differs {
    Missing,
    Document,
    Metadata,
    Vector,
}

impl Proof {
    /// Goes on from what a run before has sent.
    pub(super) fn new(sent: Option<Sent>) -> Self {
        Self { sent: sent.unwrap_or_default(), sample: Vec::new(), seen: 0 }
    }

    /// Records that the server took.
    pub(super) const fn sent(&self) -> u64 {
        self.sent.records
    }

    pub(super) const fn so_far(&self) -> &Sent {
        &self.sent
    }

    /// The server took this one.
    pub(super) fn sent_one(&mut self, record: &Record) {
        let sent = &mut self.sent;
        sent.records += 1;
        match sent.last.as_deref().map(|last| last.cmp(&record.id)) {
            Some(std::cmp::Ordering::Equal) => {}
            Some(std::cmp::Ordering::Greater) => sent.unordered = true,
            _ => sent.distinct += 1,
        }
        match &mut sent.last {
            Some(last) => last.clone_from(&record.id),
            None => sent.last = Some(record.id.clone()),
        }
        // What comes later counts.
        if let Some(same) = self.sample.iter_mut().find(|one| one.id == record.id) {
            same.clone_from(record);
            return;
        }
        if size(record) > SAMPLE_BYTES_MAX {
            return;
        }
        self.seen += 1;
        if self.sample.len() < SAMPLE {
            self.sample.push(record.clone());
        } else if let Some(place) =
            usize::try_from(scattered(self.seen) % self.seen).ok().filter(|place| *place < SAMPLE)
        {
            self.sample[place].clone_from(record);
        }
    }

    /// How many records there may be, when `before` were there.
    const fn expected(&self, before: u64) -> (u64, u64) {
        let Sent { records, distinct, unordered, .. } = self.sent;
        // Ids that come again are one record, and in any order nobody knows how many there are.
        let least = if unordered { if records > 0 { 1 } else { 0 } } else { distinct };
        let most = if unordered { records } else { distinct };
        if before == 0 {
            return (least, most);
        }
        (if least > before { least } else { before }, before + most)
    }

    /// Asks the server.
    pub(super) fn of(
        &self,
        server: &Server,
        target: &Target,
        id: &str,
        told: &mut Collected,
        loaded: &mut Loaded,
    ) {
        match server.count(target.place(), id) {
            Ok(count) => {
                told.after = Some(count);
                let (least, most) = self.expected(told.before);
                if !(least..=most).contains(&count) {
                    let want =
                        if least == most { most.to_string() } else { format!("{least} to {most}") };
                    loaded.differing.push(format!(
                        "collection {target}: it has {count} records, and there should be {want}; somebody else may write to it"
                    ));
                }
            }
            Err(error) => {
                loaded.unproven.push(format!(
                    "collection {target}: its records could not be counted: {error}"
                ));
            }
        }
        if self.sample.is_empty() {
            return;
        }
        let ids: Vec<&str> = self.sample.iter().map(|record| &*record.id).collect();
        match server.records(target.place(), id, &ids) {
            Ok(answer) => {
                for record in &self.sample {
                    match compared(&answer, record, told.before == 0) {
                        None => told.compared += 1,
                        Some(differs) => loaded.differing.push(format!(
                            "collection {target}: record {}: {}",
                            crate::human::plain(&record.id),
                            differs.words()
                        )),
                    }
                }
            }
            Err(error) => {
                loaded
                    .unproven
                    .push(format!("collection {target}: no record could be read back: {error}"));
            }
        }
    }
}

/// How a record differs from what the server has. `alone`: nobody else has given it metadata or a document.
fn compared(answer: &Value, record: &Record, alone: bool) -> Option<Differs> {
    let ids = answer["ids"].as_array();
    let place = ids.and_then(|ids| ids.iter().position(|id| *id == *record.id));
    let Some(place) = place else { return Some(Differs::Missing) };
    // A document that was there stays when a line has none.
    let stays = !alone && record.document.is_none();
    if !stays && answer["documents"][place].as_str() != record.document.as_deref() {
        return Some(Differs::Document);
    }
    let metadata = &answer["metadatas"][place];
    let more =
        metadata.as_object().map_or(0, |all| all.values().filter(|value| !value.is_null()).count());
    // An empty list is a key that is not there.
    let sent: Vec<_> = record
        .metadata
        .iter()
        .filter(|(_, value)| value.as_array().is_none_or(|list| !list.is_empty()))
        .collect();
    if alone && more != sent.len()
        || sent.iter().any(|(key, value)| !same(&metadata[key.as_str()], value))
    {
        return Some(Differs::Metadata);
    }
    let vector = record.embedding.vector().unwrap_or_default();
    let there = answer["embeddings"][place].as_array();
    let close = there.is_some_and(|there| {
        let largest = vector.iter().fold(0.0, |most: f32, number| most.max(number.abs()));
        // The smallest numbers are written with fewer digits than 64 bits take for the same.
        let most = (f64::from(largest) * VECTOR_RATIO).max(f64::from(f32::from_bits(1)));
        there.len() == vector.len()
            && there
                .iter()
                .zip(vector)
                .all(|(a, b)| a.as_f64().is_some_and(|a| (a - f64::from(*b)).abs() <= most))
    });
    (!close).then_some(Differs::Vector)
}

/// Whether two values of metadata are one. Numbers may differ by what is lost on the way through text.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Value::Number(a), Value::Number(b)) if a.is_f64() || b.is_f64() => {
            let (a, b) = (a.as_f64().unwrap_or(f64::NAN), b.as_f64().unwrap_or(f64::NAN));
            (a - b).abs() <= b.abs() * NUMBER_RATIO
        }
        _ => a == b,
    }
}

impl Differs {
    const fn words(&self) -> &'static str {
        match self {
            Self::Missing => "it is not there",
            Self::Document => "its document is not the one that was sent",
            Self::Metadata => "its metadata is not what was sent",
            Self::Vector => "its vector is not the one that was sent",
        }
    }
}

fn size(record: &Record) -> usize {
    let metadata: usize = record
        .metadata
        .iter()
        .map(|(key, value)| key.len() + value.as_str().map_or(8, str::len))
        .sum();
    record.document.as_ref().map_or(0, String::len)
        + metadata
        + record.embedding.vector().map_or(0, <[f32]>::len) * 4
}

/// A number that looks random and is the same in each run.
const fn scattered(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// Records of each collection that are read back.
const SAMPLE: usize = 50;
/// All of them are in memory.
const SAMPLE_BYTES_MAX: usize = 128 << 10;
/// With the space cosine, Chroma makes unit vectors and multiplies them again.
const VECTOR_RATIO: f64 = 1e-5;
const NUMBER_RATIO: f64 = 1e-12;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::repair::lines::Embedding;

    fn record(id: &str) -> Record {
        Record {
            id: id.to_owned(),
            document: Some("x".to_owned()),
            metadata: [("n".to_owned(), json!(1)), ("f".to_owned(), json!(0.1))].into(),
            embedding: Embedding::Is(vec![1.0, -0.5]),
            ..Record::default()
        }
    }

    #[test]
    fn how_many_there_should_be_is_known_as_far_as_ids_are_in_order() {
        for (ids, before, want) in [
            (&["a", "b", "b", "c"][..], 0, (3, 3)),
            (&["a", "b"], 1, (2, 3)),
            (&["a", "b"], 5, (5, 7)),
            (&["b", "a", "b"], 0, (1, 3)),
            (&[], 4, (4, 4)),
            (&[], 0, (0, 0)),
        ] {
            let mut proof = Proof::new(None);
            for id in ids {
                proof.sent_one(&record(id));
            }
            assert_eq!(proof.expected(before), want, "{ids:?}");
        }
    }

    #[test]
    fn what_comes_later_counts_and_the_sample_is_bounded() {
        let mut proof = Proof::new(None);
        for number in 0..10_000 {
            proof.sent_one(&record(&format!("r{number}")));
        }
        assert_eq!((proof.sample.len(), proof.sent()), (SAMPLE, 10_000));
        let late = proof.sample.iter().filter(|one| one.id.len() == 5).count();
        assert!(late > SAMPLE / 2, "{late}: of all, not of the first");
        let mut again = record(&proof.sample[7].id);
        again.document = None;
        proof.sent_one(&again);
        assert_eq!(proof.sample[7].document, None);
    }

    #[test]
    fn a_record_is_compared_in_all_its_parts() {
        let answer = |document, metadata, vector: Value| json!({"ids":["z","a"],"documents":[null,document],"metadatas":[null,metadata],"embeddings":[[1.0],vector]});
        let right = json!({"n":1,"f":0.1,"gone":null});
        for (answer, alone, want) in [
            (answer("x", right.clone(), json!([1.000_000_1, -0.5])), true, None),
            (answer("y", right.clone(), json!([1.0, -0.5])), true, Some(Differs::Document)),
            (
                answer("x", json!({"n":1.0,"f":0.2}), json!([1.0, -0.5])),
                true,
                Some(Differs::Metadata),
            ),
            (
                answer("x", json!({"n":1,"f":0.1,"m":2}), json!([1.0, -0.5])),
                true,
                Some(Differs::Metadata),
            ),
            (answer("x", json!({"n":1,"f":0.1,"m":2}), json!([1.0, -0.5])), false, None),
            (answer("x", right.clone(), json!([1.0, 0.5])), true, Some(Differs::Vector)),
            (answer("x", right, json!([1.0])), true, Some(Differs::Vector)),
            (json!({"ids":["z"]}), true, Some(Differs::Missing)),
        ] {
            assert_eq!(compared(&answer, &record("a"), alone), want, "{answer}");
        }
        let bare = Record { document: None, ..record("a") };
        let there = answer("x", json!({"n":1,"f":0.1}), json!([1.0, -0.5]));
        assert_eq!(compared(&there, &bare, true), Some(Differs::Document));
        assert_eq!(compared(&there, &bare, false), None, "it was there before");
    }
}
