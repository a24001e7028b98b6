//! What a repair could not bring back, by name.

use std::collections::BTreeMap;

use serde::Serialize;

/// A document that only the full text had, which is made anew.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LostDocument {
    /// Name of the collection.
    pub collection: String,
    /// Id of the record that has no document.
    pub id: String,
    /// The text that the full text had for it.
    pub document: String,
}

/// A record that has lost a part: with that, it can be given to Chroma's `upsert`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LostRecord {
    /// Name of the collection.
    pub collection: String,
    /// Its id.
    pub id: String,
    /// What is lost.
    pub part: Part,
    /// Its document, when it has one.
    pub document: Option<String>,
    /// Its metadata.
    pub metadata: BTreeMap<String, serde_json::Value>,
}

/// A part of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Its vector is nowhere any more: no search by vector finds it.
    Vector,
    /// Its newest vector: it keeps an older one.
    NewestVector,
    /// Document and metadata that a row of the queue brought.
    Metadata,
    /// Document and all metadata, if it had any.
    AllMetadata,
    /// All of it: it was only in a row of the queue that cannot be read.
    Record,
    /// What a row of the queue did to it is not known any more.
    Operation,
    /// The length of its vector, which only matters when Chroma gives the vector back: with cosine an index holds it beside the
    /// direction.
    Length,
}

/// A row that is lost, by what an index still says of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LostRow {
    /// Its table.
    pub table: String,
    /// Its number in the table.
    pub row: i64,
    /// Name of the collection, where it is known.
    pub collection: Option<String>,
    /// Id of the record that it belongs to.
    pub id: Option<String>,
    /// What else is known of it: columns and their values.
    pub what: String,
}

impl Part {
    /// Whether `other` is lost with it.
    const fn includes(self, other: Self) -> bool {
        use Part::{AllMetadata, Length, Metadata, NewestVector, Operation, Record, Vector};
        match self {
            Record => true,
            Vector => matches!(other, Vector | NewestVector | Length),
            NewestVector => matches!(other, NewestVector | Length),
            AllMetadata => matches!(other, AllMetadata | Metadata),
            Metadata => matches!(other, Metadata),
            Operation => matches!(other, Operation),
            Length => matches!(other, Length),
        }
    }
}

/// Adds what one more action has lost. A record that was named before is named once, with the greater of both losses.
pub(super) fn add_once(lost: &mut Vec<LostRecord>, more: Vec<LostRecord>) {
    let of = |one: &LostRecord| (one.collection.clone(), one.id.clone());
    let mut named: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for (place, one) in lost.iter().enumerate() {
        named.entry(of(one)).or_default().push(place);
    }
    for one in more {
        let same = |place: &usize| {
            let before = lost[*place].part;
            before.includes(one.part) || one.part.includes(before)
        };
        let places = named.get_mut(&of(&one));
        let known = places.and_then(|places| {
            // Each counts once: another database may have a collection and a record of the same names.
            let at = places.iter().position(same)?;
            Some(places.swap_remove(at))
        });
        match known {
            Some(place) if lost[place].part.includes(one.part) => {}
            Some(place) => lost[place] = one,
            None => lost.push(one),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_named_once_with_the_greater_loss() {
        use Part::{Length, Metadata, NewestVector, Record, Vector};
        let records = |all: &[(&str, Part)]| -> Vec<LostRecord> {
            let record = |(id, part): &(&str, Part)| LostRecord {
                collection: "docs".to_owned(),
                id: (*id).to_owned(),
                part: *part,
                document: None,
                metadata: BTreeMap::new(),
            };
            all.iter().map(record).collect()
        };
        for (before, more, want) in [
            (&[][..], &[("a", Vector)][..], &[("a", Vector)][..]),
            (&[("a", Vector)], &[("a", Vector), ("b", Vector)], &[("a", Vector), ("b", Vector)]),
            (&[("a", NewestVector)], &[("a", Vector)], &[("a", Vector)]),
            (
                &[("a", Vector)],
                &[("a", NewestVector), ("a", Length)],
                &[("a", Vector), ("a", Length)],
            ),
            (&[("a", Metadata)], &[("a", Vector)], &[("a", Metadata), ("a", Vector)]),
            (&[("a", Record)], &[("a", Metadata)], &[("a", Record)]),
            // Two databases with a collection of that name.
            (&[("a", Vector), ("a", Vector)], &[("a", Vector)], &[("a", Vector), ("a", Vector)]),
            (&[("a", Vector)], &[("a", Vector), ("a", Vector)], &[("a", Vector), ("a", Vector)]),
        ] {
            let mut lost = records(before);
            add_once(&mut lost, records(more));
            assert_eq!(lost, records(want), "{before:?} {more:?}");
        }
    }
}
