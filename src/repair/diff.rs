//! Two stores, backups or dumps held against each other, record by record. Both give their collections and records in one order, so
//! that two records are in memory at a time, however many there are.

use std::cmp::Ordering;

use serde::Serialize;
use serde_json::Value;

use super::{
    dump::Metadata,
    lines::{
        Collection, Embedding, Record, Stream, StreamError, Unread,
        index::{Index, is_setting},
    },
    steps::Steps,
};
use crate::human::plain;

/// How they are compared.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// Vectors are the same as long as their distance is at most this share of the length of the longer one. Not negative.
    pub epsilon: f64,
    /// Whether vectors are compared.
    pub vectors: bool,
}

/// What differs.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Difference {
    /// What each is called.
    pub a: String,
    /// The same of the other.
    pub b: String,
    /// Collections that both have.
    pub collections: u64,
    /// Records of those, and of all others, of each.
    pub records_a: u64,
    /// The same of the other.
    pub records_b: u64,
    /// Collections that differ, or that one of them has; the first thousand.
    pub differing: Vec<Differing>,
    /// How many such collections there are.
    pub differing_collections: u64,
    /// Pairs of vectors of which at least one was not in the lines, so that they were not compared.
    pub vectors_uncompared: u64,
    /// Vectors that are not the same number by number, and near enough.
    pub vectors_near: u64,
    /// The largest distance of two vectors that are near enough, as a share of the length of the longer one.
    pub largest_near: f64,
    /// What could not be read of each.
    pub unread_a: Unread,
    /// The same of the other.
    pub unread_b: Unread,
}

impl Difference {
    /// Whether nothing differs, as far as it could be read.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.differing_collections == 0
    }

    /// Whether all was read.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.unread_a.count == 0 && self.unread_b.count == 0
    }
}

/// A collection that is not the same in both.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Differing {
    /// Its tenant.
    pub tenant: String,
    /// Its database.
    pub database: String,
    /// Its name.
    pub name: String,
    /// Which of the two has it, when not both do: `a` or `b`.
    pub only_in: Option<&'static str>,
    /// What is said of the collection itself and differs, a sentence each.
    pub settings: Vec<String>,
    /// Records of the first.
    pub records_a: u64,
    /// Records of the second.
    pub records_b: u64,
    /// Ids that only the first has.
    pub only_a: Ids,
    /// Ids that only the second has.
    pub only_b: Ids,
    /// Records with another document or URI.
    pub documents: Ids,
    /// Records with other metadata.
    pub metadata: Ids,
    /// Records with another vector, or with one in one of the two alone.
    pub vectors: Ids,
}

/// How many there are, and some of them by their ids.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Ids {
    /// All of them.
    pub count: u64,
    /// The first ids, with what differs.
    pub first: Vec<String>,
}

impl Ids {
    fn add(&mut self, what: impl FnOnce() -> String) {
        self.count += 1;
        if self.first.len() < FIRST_MAX {
            self.first.push(what());
        }
    }
}

impl Differing {
    fn new(collection: &Collection) -> Self {
        Self {
            tenant: collection.tenant.clone(),
            database: collection.database.clone(),
            name: collection.name.clone(),
            ..Self::default()
        }
    }

    fn is_none(&self) -> bool {
        let counts = [&self.only_a, &self.only_b, &self.documents, &self.metadata, &self.vectors];
        self.only_in.is_none()
            && self.settings.is_empty()
            && counts.iter().all(|ids| ids.count == 0)
    }
}

/// Compares all of `a` with all of `b`. Errs when one of them cannot be read to its end, or is not in order.
pub fn run(a: Stream, b: Stream, wish: Wish, steps: &Steps) -> Result<Difference, StreamError> {
    let (mut a, mut b) = (a.ordered(), b.ordered());
    let mut out =
        Difference { a: a.what().to_owned(), b: b.what().to_owned(), ..Difference::default() };
    steps.begin_records("comparing", None);
    let (mut one, mut two) = (a.collection()?, b.collection()?);
    loop {
        let order = match (&one, &two) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(one), Some(two)) => place(one).cmp(&place(two)),
        };
        let mut differing = Differing::new(
            match order {
                Ordering::Greater => two.as_ref(),
                _ => one.as_ref(),
            }
            .unwrap_or(&Collection::default()),
        );
        match (order, &one, &two) {
            (Ordering::Less, ..) => {
                differing.only_in = Some("a");
                differing.records_a = rest(&mut a, steps)?;
                one = a.collection()?;
            }
            (Ordering::Greater, ..) => {
                differing.only_in = Some("b");
                differing.records_b = rest(&mut b, steps)?;
                two = b.collection()?;
            }
            (Ordering::Equal, first, second) => {
                out.collections += 1;
                if let (Some(first), Some(second)) = (first, second) {
                    differing.settings = settings(first, second);
                }
                records(&mut a, &mut b, wish, &mut differing, &mut out, steps)?;
                (one, two) = (a.collection()?, b.collection()?);
            }
        }
        out.records_a += differing.records_a;
        out.records_b += differing.records_b;
        if !differing.is_none() {
            out.differing_collections += 1;
            if out.differing.len() < COLLECTIONS_MAX {
                out.differing.push(differing);
            }
        }
    }
    out.unread_a = a.unread().clone();
    out.unread_b = b.unread().clone();
    Ok(out)
}

fn place(collection: &Collection) -> (&str, &str, &str) {
    (&collection.tenant, &collection.database, &collection.name)
}

/// Counts what is left of a collection. Errs when the lines cannot be read.
fn rest(stream: &mut Stream, steps: &Steps) -> Result<u64, StreamError> {
    let mut count = 0;
    while stream.record()?.is_some() {
        steps.add(1);
        count += 1;
    }
    Ok(count)
}

/// What differs of two collections themselves. Each release writes the settings of the index in another form; they are compared as they
/// are in force.
fn settings(a: &Collection, b: &Collection) -> Vec<String> {
    let mut out = Vec::new();
    let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "not said".to_owned());
    if a.space != b.space {
        out.push(format!("space: {} and {}", text(&a.space), text(&b.space)));
    }
    if a.dimension != b.dimension {
        let number = |number: Option<u64>| number.map_or("not said".to_owned(), |n| n.to_string());
        out.push(format!("dimension: {} and {}", number(a.dimension), number(b.dimension)));
    }
    let (one, two) = (Index::of(a), Index::of(b));
    for ((key, one), (_, two)) in one.in_force(&a.metadata).iter().zip(two.in_force(&b.metadata)) {
        if let (Some(one), Some(two)) = (one, two)
            && one.total_cmp(&two).is_ne()
        {
            out.push(format!("{key}: {one} and {two}"));
        }
    }
    // Releases before 1.0 do not say it.
    if let (Some(one), Some(two)) = (one.function(), two.function())
        && one != two
    {
        out.push(format!("embedding function: {} and {}", plain(one), plain(two)));
    }
    let told = |metadata: &Metadata| -> Metadata {
        let own = metadata.iter().filter(|(key, _)| !is_setting(key));
        own.map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    let (one, two) = (told(&a.metadata), told(&b.metadata));
    if !same_metadata(&one, &two) {
        out.push(format!("metadata: {}", keys(&one, &two)));
    }
    out
}

/// The records of one collection: a merge of two lists that are in order. Errs when the lines cannot be read.
fn records(
    a: &mut Stream,
    b: &mut Stream,
    wish: Wish,
    differing: &mut Differing,
    out: &mut Difference,
    steps: &Steps,
) -> Result<(), StreamError> {
    let (mut one, mut two) = (a.record()?, b.record()?);
    loop {
        let order = match (&one, &two) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(one), Some(two)) => one.id.cmp(&two.id),
        };
        steps.add(1);
        if let (Ordering::Equal, Some(first), Some(second)) = (order, &one, &two) {
            pair(first, second, wish, differing, out);
        }
        if order != Ordering::Greater {
            differing.records_a += 1;
            if let (Ordering::Less, Some(only)) = (order, &one) {
                differing.only_a.add(|| only.id.clone());
            }
            one = a.record()?;
        }
        if order != Ordering::Less {
            differing.records_b += 1;
            if let (Ordering::Greater, Some(only)) = (order, &two) {
                differing.only_b.add(|| only.id.clone());
            }
            two = b.record()?;
        }
    }
}

/// Two records of one id.
fn pair(a: &Record, b: &Record, wish: Wish, differing: &mut Differing, out: &mut Difference) {
    if a.document != b.document {
        differing.documents.add(|| a.id.clone());
    } else if a.uri != b.uri {
        differing.documents.add(|| format!("{}: its uri", a.id));
    }
    if !same_metadata(&a.metadata, &b.metadata) {
        differing.metadata.add(|| format!("{}: {}", a.id, keys(&a.metadata, &b.metadata)));
    }
    if !wish.vectors {
        return;
    }
    match (&a.embedding, &b.embedding) {
        (Embedding::Unsaid, _) | (_, Embedding::Unsaid) => out.vectors_uncompared += 1,
        (Embedding::Lost, Embedding::Lost) => {}
        (Embedding::Lost, Embedding::Is(_)) => {
            differing.vectors.add(|| format!("{}: only b has one", a.id));
        }
        (Embedding::Is(_), Embedding::Lost) => {
            differing.vectors.add(|| format!("{}: only a has one", a.id));
        }
        (Embedding::Is(one), Embedding::Is(two)) => match distance(one, two) {
            None => differing
                .vectors
                .add(|| format!("{}: {} and {} numbers", a.id, one.len(), two.len())),
            Some(0.0) => {}
            Some(share) if share <= wish.epsilon => {
                out.vectors_near += 1;
                out.largest_near = out.largest_near.max(share);
            }
            Some(share) => differing.vectors.add(|| format!("{}: {share:.2e} apart", a.id)),
        },
    }
}

/// The distance of two vectors as a share of the length of the longer one: 0 when all numbers are the same, at most 2. `None` when they
/// have not as many numbers.
fn distance(a: &[f32], b: &[f32]) -> Option<f64> {
    if a.len() != b.len() {
        return None;
    }
    if a == b {
        return Some(0.0);
    }
    let square = |vector: &[f32]| vector.iter().map(|n| f64::from(*n).powi(2)).sum::<f64>();
    let apart: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    let longer = square(a).max(square(b));
    Some(if longer > 0.0 { (apart / longer).sqrt() } else { 0.0 })
}

/// Whether both have the same keys, each with the same value.
fn same_metadata(a: &Metadata, b: &Metadata) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|((key, a), (of, b))| key == of && same_value(a, b))
}

/// Chroma 1.5 changes the last digits of numbers with a point when it stores them, also for its own client.
fn same_value(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(one), Value::Number(two)) if one.is_f64() && two.is_f64() => {
            let (Some(one), Some(two)) = (one.as_f64(), two.as_f64()) else { return a == b };
            (one - two).abs() <= METADATA_EPSILON * one.abs().max(two.abs())
        }
        (Value::Array(one), Value::Array(two)) => {
            one.len() == two.len() && one.iter().zip(two).all(|(a, b)| same_value(a, b))
        }
        _ => a == b,
    }
}

/// The keys that differ.
fn keys(a: &Metadata, b: &Metadata) -> String {
    let gone = a.keys().filter(|key| !b.contains_key(*key)).map(|key| format!("{key} only in a"));
    let new = b.keys().filter(|key| !a.contains_key(*key)).map(|key| format!("{key} only in b"));
    let other = a.iter().filter(|(key, value)| b.get(*key).is_some_and(|b| !same_value(b, value)));
    let all: Vec<String> = gone
        .chain(new)
        .chain(other.map(|(key, _)| format!("{key} differs")))
        .take(KEYS_MAX)
        .collect();
    all.join(", ")
}

/// Of each kind in each collection.
const FIRST_MAX: usize = 20;
const COLLECTIONS_MAX: usize = 1_000;
const KEYS_MAX: usize = 10;
/// Four steps of a double, as a share of the number.
const METADATA_EPSILON: f64 = 4.0 * f64::EPSILON;

#[cfg(test)]
mod tests;
