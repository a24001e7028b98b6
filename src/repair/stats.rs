//! What is in a store, a backup or a dump that somebody else made: per collection its records, documents, vectors and the keys of its
//! metadata. It is read once. What would take memory without a bound is counted exactly up to a bound and estimated beyond, and said so.

mod sample;

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use self::sample::Sample;
use super::{
    dump::{self, About},
    lines::{Collection, Embedding, Record, Stream, StreamError, Unread},
    steps::Steps,
};

/// All of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Stats {
    /// What it is called.
    pub of: String,
    /// Each collection, in the order of tenant, database and name.
    pub collections: Vec<Collected>,
    /// What could not be read.
    pub unread: Unread,
}

/// A number that is exact, or an estimate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Number {
    /// How many.
    pub count: u64,
    /// Whether it was estimated from a part of the values.
    pub estimated: bool,
}

/// One collection.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Collected {
    /// Its tenant.
    pub tenant: String,
    /// Its database.
    pub database: String,
    /// Its name.
    pub name: String,
    /// How distances are measured: `l2`, `cosine` or `ip`.
    pub space: Option<String>,
    /// Numbers of each vector, as the collection says.
    pub dimension: Option<u64>,
    /// Records.
    pub records: u64,
    /// What there is of documents.
    pub documents: Documents,
    /// What there is of vectors; `None` when the dump was made without them.
    pub vectors: Option<Vectors>,
    /// Bytes of all keys and values of metadata, numbers as 8.
    pub metadata_bytes: u64,
    /// Each key, in the order of the alphabet; the first thousand.
    pub keys: Vec<Key>,
    /// Further keys, which were not looked at.
    pub more_keys: bool,
    /// Bytes of the folder of its index; `None` when that is not known.
    pub index_bytes: Option<u64>,
    /// When its first record was added, in UTC, as Chroma wrote it down; `None` when that is not known.
    pub first_added: Option<String>,
    /// The same of the last one.
    pub last_added: Option<String>,
}

/// Documents of a collection.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Documents {
    /// Records that have one.
    pub count: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// Bytes of the longest.
    pub longest: u64,
    /// Documents that are a copy of another one.
    pub copies: Number,
}

/// Vectors of a collection.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Vectors {
    /// Records that have one.
    pub count: u64,
    /// Records that should have one and do not.
    pub missing: u64,
    /// Bytes of all of them, 4 for each number.
    pub bytes: u64,
    /// The least length of one: the root of the sum of squares.
    pub length_min: Option<f64>,
    /// The mean length.
    pub length_mean: Option<f64>,
    /// The greatest length.
    pub length_max: Option<f64>,
    /// Vectors of nothing but zeros.
    pub zeros: u64,
    /// Vectors that are a copy of another one.
    pub copies: Number,
    /// Vectors that have not as many numbers as the first.
    pub other_dimension: u64,
}

/// One key of the metadata of records.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Key {
    /// Its name.
    pub name: String,
    /// Records that have it.
    pub records: u64,
    /// How often its value is of which type: `text`, `integer`, `number`, `boolean`, `list`.
    pub types: BTreeMap<&'static str, u64>,
    /// Different values.
    pub values: Number,
    /// The least of its numbers.
    pub min: Option<f64>,
    /// The greatest of its numbers.
    pub max: Option<f64>,
}

/// Reads all of it. Errs when a line or the copy cannot be read.
pub fn run(mut from: Stream, steps: &Steps) -> Result<Stats, StreamError> {
    steps.begin_records("reading", None);
    let mut out = Stats { of: from.what().to_owned(), ..Stats::default() };
    // What only the files tell, and no line does.
    let about: Vec<About> = from.copy().map(|copy| dump::about(copy.dir())).unwrap_or_default();
    while let Some(collection) = from.collection()? {
        let mut counting = Counting::default();
        while let Some(record) = from.record()? {
            steps.add(1);
            counting.add(&record);
        }
        let own = about.iter().find(|about| about.is(&collection));
        out.collections.push(counting.end(collection, own));
    }
    out.unread = from.unread().clone();
    Ok(out)
}

/// What is counted while records go by.
#[derive(Debug, Default)]
struct Counting {
    records: u64,
    documents: Documents,
    texts: Sample<COPIES_MAX>,
    vectors: Vectors,
    /// Whether any line speaks of vectors.
    said: bool,
    lengths: f64,
    dimension: Option<usize>,
    numbers: Sample<COPIES_MAX>,
    metadata_bytes: u64,
    keys: BTreeMap<String, Counted>,
    more_keys: bool,
}

#[derive(Debug, Default)]
struct Counted {
    key: Key,
    values: Sample<VALUES_MAX>,
}

impl Counting {
    fn add(&mut self, record: &Record) {
        self.records += 1;
        if let Some(document) = &record.document {
            let bytes = document.len() as u64;
            self.documents.count += 1;
            self.documents.bytes += bytes;
            self.documents.longest = self.documents.longest.max(bytes);
            self.texts.add(document.as_bytes());
        }
        match &record.embedding {
            Embedding::Unsaid => {}
            Embedding::Lost => {
                self.said = true;
                self.vectors.missing += 1;
            }
            Embedding::Is(vector) => {
                self.said = true;
                self.vector(vector);
            }
        }
        for (name, value) in &record.metadata {
            self.metadata_bytes += (name.len() + size(value)) as u64;
            if !self.keys.contains_key(name) && self.keys.len() >= KEYS_MAX {
                self.more_keys = true;
                continue;
            }
            // Most records have the keys of the one before: no name is copied for those.
            if let Some(counted) = self.keys.get_mut(name) {
                counted.add(value);
            } else {
                self.keys.entry(name.clone()).or_default().add(value);
            }
        }
    }

    fn vector(&mut self, vector: &[f32]) {
        let length = vector.iter().map(|n| f64::from(*n).powi(2)).sum::<f64>().sqrt();
        let of = &mut self.vectors;
        of.count += 1;
        of.bytes += vector.len() as u64 * 4;
        of.length_min = Some(of.length_min.map_or(length, |min| min.min(length)));
        of.length_max = Some(of.length_max.map_or(length, |max| max.max(length)));
        of.zeros += u64::from(vector.iter().all(|number| *number == 0.0));
        self.lengths += length;
        let dimension = *self.dimension.get_or_insert(vector.len());
        of.other_dimension += u64::from(dimension != vector.len());
        let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
        self.numbers.add(&bytes);
    }

    fn end(mut self, collection: Collection, about: Option<&About>) -> Collected {
        self.documents.copies = self.texts.copies();
        self.vectors.copies = self.numbers.copies();
        if self.vectors.count > 0 {
            self.vectors.length_mean = Some(self.lengths / self.vectors.count as f64);
        }
        let keys = self.keys.into_iter().map(|(name, counted)| Key {
            name,
            values: counted.values.different(),
            ..counted.key
        });
        Collected {
            tenant: collection.tenant,
            database: collection.database,
            name: collection.name,
            space: collection.space,
            dimension: collection.dimension.or(self.dimension.map(|dimension| dimension as u64)),
            records: self.records,
            documents: self.documents,
            vectors: self.said.then_some(self.vectors),
            metadata_bytes: self.metadata_bytes,
            keys: keys.collect(),
            more_keys: self.more_keys,
            index_bytes: about.and_then(|about| about.index_bytes),
            first_added: about.and_then(|about| about.first_added.clone()),
            last_added: about.and_then(|about| about.last_added.clone()),
        }
    }
}

impl Counted {
    fn add(&mut self, value: &Value) {
        self.key.records += 1;
        *self.key.types.entry(kind(value)).or_default() += 1;
        if let Some(number) = value.as_f64() {
            self.key.min = Some(self.key.min.map_or(number, |min| min.min(number)));
            self.key.max = Some(self.key.max.map_or(number, |max| max.max(number)));
        }
        match value {
            Value::String(text) => self.values.add(text.as_bytes()),
            // 1 and 1.0 are two values, and "1" is another one.
            other => self.values.add(format!("\0{other}").as_bytes()),
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "text",
        Value::Bool(_) => "boolean",
        Value::Array(_) => "list",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::Null | Value::Object(_) => "other",
    }
}

fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(list) => list.iter().map(size).sum(),
        _ => 8,
    }
}

/// Different documents, or vectors, up to which copies are counted exactly: 6 MB of memory for each of the two.
const COPIES_MAX: usize = 1 << 18;
/// Different values of a key up to which they are counted exactly.
const VALUES_MAX: usize = 1 << 12;
const KEYS_MAX: usize = 1_000;

#[cfg(test)]
mod tests;
